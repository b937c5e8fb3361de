#!/usr/bin/env python3
"""Figures of the agent, each beside what one would use instead or beside its goal.

    agent_bench.py --bin BUILD [--dir DIR] all|NAME…

  sync      first synchronisation of a half-empty disk, in turns with dd | ssh and rsync
  capture   what change capture costs the machine that is protected
  delta     what is sent for a change of 1 % of a large disk
  rss       the agent's memory with 8 TiB of disk: at rest, comparing, all of it changed
  points    how long filesystems stand still, over hundreds of points under load
  rpo       how old the newest point is under steady churn, minute by minute
  tls       what a connection carries, beside raw TLS

Prints a table's row a figure on standard error and a JSON object a line on standard output. `--bin`
is a release build. Wants root, and a machine that does nothing else.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path)
    parser.add_argument("--dir", default="/var/tmp", help="where disks and journals are made")
    parser.add_argument("--rounds", type=int, default=5, help="sync: runs of each way")
    parser.add_argument("--sync-gib", type=int, default=4, help="sync: the disk's size")
    parser.add_argument("--delta-gib", type=int, default=64, help="delta: the disk's size")
    parser.add_argument("--seed", type=int, default=1, help="delta: of what is written where")
    parser.add_argument("--pairs", type=int, default=12, help="capture: pairs of runs")
    parser.add_argument("--seconds", type=int, help="points (250), rpo (600): how long; "
                                                    "rss (20): how long in each state")
    parser.add_argument("name", nargs="+", choices=["all", *PARTS])
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    return options


def bench_tls(options, _work):
    from figures import report  # pylint: disable=import-outside-toplevel
    said = subprocess.run([options.bin / "tests/wire_bench"], capture_output=True, text=True,
                          check=True)
    for line in said.stdout.splitlines():
        figure = json.loads(line)
        report(figure["figure"], figure["value"], "of raw TLS", 0.8, figure["detail"], most=False)


def part(module, function):
    """The parts need the build's place in the environment before they are loaded."""
    def run(options, work):
        getattr(__import__(module), function)(options, work)
    return run


PARTS = {"tls": bench_tls,
         "capture": part("agent_capture", "bench_capture"),
         "sync": part("agent_copies", "bench_sync"),
         "delta": part("agent_copies", "bench_delta"),
         "rss": part("agent_memory", "bench_rss"),
         "points": part("agent_times", "bench_points"),
         "rpo": part("agent_times", "bench_rpo")}


def main():
    options = arguments()
    os.environ["LANDFALL_BUILD"] = str(options.bin)
    sys.path.insert(0, str(TOP / "tests" / "lib"))
    from appliance import Failure, Skip  # pylint: disable=import-outside-toplevel
    from figures import heading  # pylint: disable=import-outside-toplevel
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    status = 0
    heading()
    for name, bench in PARTS.items():
        if name not in options.name and "all" not in options.name:
            continue
        work = pathlib.Path(tempfile.mkdtemp(prefix="landfall-bench-", dir=options.dir))
        try:
            bench(options, work)
        except (Failure, Skip, subprocess.SubprocessError) as failure:
            print(f"agent_bench: {name}: not measured: {failure}", file=sys.stderr)
            status = 1
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
