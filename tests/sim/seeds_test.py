#!/usr/bin/env python3
"""Seeds are told: of a simulation that passes as of one that fails, in what tests/run prints and in
its log; of one that fails also the command that repeats it."""
import os
import pathlib
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
SIMULATION = pathlib.Path(os.environ["LANDFALL_BUILD"]) / "tests/history_sim_test"

TESTS = f"""
add_test(sim/passes "{SIMULATION}" --mode random --seed 0x2a --crash-points 20)
add_test(sim/fails "/bin/sh" "-c" "echo seed 7; echo 'replay with:'; echo ' it --replay random:9'; false")
add_test(sim/skips "/bin/sh" "-c" "echo 'no /dev/fuse'; exit 77")
set_tests_properties(sim/skips PROPERTIES SKIP_RETURN_CODE 77)
"""


def main():
    with tempfile.TemporaryDirectory() as work:
        pathlib.Path(work, "CTestTestfile.cmake").write_text(TESTS, encoding="utf-8")
        report, log = f"{work}/report.xml", pathlib.Path(work, "log")
        with open(log, "w", encoding="utf-8") as out:
            subprocess.run(["ctest", "--output-on-failure", "--test-output-size-passed", "4096",
                            "--output-junit", report], cwd=work, stdout=out, stderr=out, check=False,
                           timeout=120)
        told = subprocess.run([sys.executable, TOP / "tests/lib/report.py", report, log],
                              capture_output=True, text=True, check=True, timeout=30)
        text = log.read_text(encoding="utf-8")
    faults = []
    if told.stdout.split() != ["1", "1", "1"]:
        faults.append(f"counted {told.stdout!r}")
    for where, what in (("shown", told.stderr), ("log", text)):
        for line in ("seed 0x2a of sim/passes, passed", "seed 7 of sim/fails, failed",
                     "it --replay random:9"):
            if line not in what:
                faults.append(f"{where}: no {line!r} in:\n{what}")
    if "skipped sim/skips: no /dev/fuse" not in told.stderr:
        faults.append(f"no reason for what was skipped:\n{told.stderr}")
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
