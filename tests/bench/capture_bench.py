#!/usr/bin/env python3
"""What change capture costs the source: 4 KiB random writes with and without it, in turns.

    capture_bench.py --bin BUILD [--pairs N]

Prints one JSON object a line. The disk is a loop device on memory: faster than any real one, so
the share that capture takes of a write is the largest there is. `--bin` is a release build.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")
SECONDS = 1.5


def report(figure, value, unit, goal, met, detail):
    print(json.dumps({"figure": figure, "value": round(value, 3), "unit": unit, "goal": goal,
                      "met": bool(met), "detail": detail}), flush=True)


def writes(disk, seconds=SECONDS):
    """(writes a second, writes, processor ns a write)."""
    done = subprocess.run(
        ["fio", "--output-format=json", "--name=f", f"--filename={disk}", "--rw=randwrite",
         "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=16", "--time_based",
         f"--runtime={int(seconds * 1000)}ms", "--randrepeat=0", "--allow_mounted_write=1"],
        capture_output=True, text=True, check=True)
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    ios = job["write"]["total_ios"]
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1e6
    return job["write"]["iops"], ios, cpu / ios


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--pairs", type=int, default=12)
    options = parser.parse_args()
    os.environ["LANDFALL_BUILD"] = options.bin
    sys.path.insert(0, str(TOP / "tests" / "lib"))
    from capture import LoopDisk, Tool  # pylint: disable=import-outside-toplevel

    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="landfall-bench-") as work:
        work = pathlib.Path(work)
        with LoopDisk(work, "bench", 512) as disk:
            subprocess.run(["dd", "if=/dev/zero", f"of={disk.device}", "bs=1M", "status=none",
                            "oflag=direct"], check=False, stderr=subprocess.DEVNULL)
            pairs = [(disk.device, work / "copy")]
            for method, goal in (("bpf", 3), ("perf", 20)):
                shares, cpus, plain_cpu = [], [], []
                for turn in range(options.pairs):
                    rates = {}
                    for tracked in ((False, True) if turn % 2 else (True, False)):
                        if tracked:
                            with Tool(work, pairs, method):
                                rates[tracked] = writes(disk.device)
                        else:
                            rates[tracked] = writes(disk.device)
                    shares.append(100 - 100 * rates[True][0] / rates[False][0])
                    cpus.append(100 * rates[True][2] / rates[False][2] - 100)
                    plain_cpu.append(rates[False][2])
                share = statistics.median(shares)
                report(f"capture {method}: IOPS lost", share, "%", goal, share <= goal,
                       f"median of {options.pairs} pairs, quartiles "
                       f"{statistics.quantiles(shares)[0]:.1f} to "
                       f"{statistics.quantiles(shares)[2]:.1f}; processor time of the writer "
                       f"{statistics.median(cpus):+.1f} %")
            with Tool(work, pairs, "bpf") as tool:
                before = STATS.read_text(encoding="ascii")
                STATS.write_text("1", encoding="ascii")
                try:
                    _, ios, cpu = writes(disk.device, 3)
                    cost = dict(word.split("=") for word in tool.ask("cost").split()[2:])
                finally:
                    STATS.write_text(before, encoding="ascii")
            ns = int(cost["ns"]) / int(cost["calls"])
            report("capture bpf: a call", ns, "ns", 126, ns <= 126,
                   f"{int(cost['calls']) / ios:.2f} calls a write, {int(cost['ns']) / ios:.0f} ns a "
                   f"write of {cpu:.0f} ns of the writer's processor time; missed {cost['missed']}")


if __name__ == "__main__":
    main()
