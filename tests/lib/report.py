#!/usr/bin/env python3
"""Reads the report of a run of ctest: what failed and why, what was skipped, with which seeds.

    report.py REPORT.xml LOG

Prints "PASSED FAILED SKIPPED" to stdout and the rest, for people, to stderr: of each test that
failed its last lines (a simulation's are the command that repeats it), and of each that was drawn
from a seed, passed or not, a line with it. The seeds are added to the log too, since ctest logs
what failing tests print only.
"""
import re
import sys
import xml.etree.ElementTree as ET

LAST_LINES = 15
SEED = re.compile(r"\bseed (0x[0-9a-f]+|\d+)")


def output_of(case):
    return (case.findtext("system-out") or "").strip().splitlines()


def verdict_of(case):
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed" if case.get("status") == "run" and case.find("failure") is None else "failed"


def main():
    report, log = sys.argv[1:]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    seeds = []
    for case in ET.parse(report).getroot().iter("testcase"):
        name, lines, verdict = case.get("name"), output_of(case), verdict_of(case)
        counts[verdict] += 1
        if verdict == "skipped":
            print(f"skipped {name}: {lines[-1] if lines else 'no reason given'}", file=sys.stderr)
        elif verdict == "failed":
            print(f"FAILED  {name}", file=sys.stderr)
            for line in lines[-LAST_LINES:]:
                print(f"        {line}", file=sys.stderr)
        seed = next(filter(None, map(SEED.search, lines)), None)
        if seed and verdict != "skipped":
            seeds.append(f"{seed.group(0)} of {name}, {verdict}")
    with open(log, "a", encoding="utf-8") as file:
        for line in seeds:
            print(f"        {line}", file=sys.stderr)
            print(line, file=file)
    print(counts["passed"], counts["failed"], counts["skipped"])


if __name__ == "__main__":
    main()
