"""What change capture costs the source: 4 KiB random writes with and without it, in turns.

On a loop device on the machine's disk, and on one in memory, which is faster than any real one: the
share that capture takes of a write there is the largest there is.
"""

import json
import pathlib
import statistics
import subprocess
import tempfile

import agent
from appliance import MIB
from capture import LoopDisk, Tool
from figures import report

STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")
SECONDS = 1.5
DISK_MIB = 512


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


def in_pairs(work, disk, where, pairs, method, goal):
    """One run without and one with capture, who is first in turns."""
    lost, cpus = [], []
    for turn in range(pairs):
        rates = {}
        for tracked in ((False, True) if turn % 2 else (True, False)):
            if tracked:
                with Tool(work, [(disk.device, work / "copy")], method):
                    rates[tracked] = writes(disk.device)
            else:
                rates[tracked] = writes(disk.device)
        lost.append(100 - 100 * rates[True][0] / rates[False][0])
        cpus.append(100 * rates[True][2] / rates[False][2] - 100)
    quartiles = statistics.quantiles(lost)
    report(f"capture by {method}, {where}: 4 KiB random-write IOPS lost", statistics.median(lost), "%", goal,
           f"median of {pairs} pairs, quartiles {quartiles[0]:.1f} to {quartiles[2]:.1f}; "
           f"processor time of the writer {statistics.median(cpus):+.1f} %")


def instructions(seconds_of_writes):
    """Instructions the kernel retired a write; None where they cannot be counted."""
    done = subprocess.run(["perf", "stat", "-a", "-x,", "-e", "instructions:k", "--", *seconds_of_writes],
                          capture_output=True, text=True, check=False)
    first = done.stderr.strip().splitlines()[-1:] or [""]
    count = first[0].split(",")[0]
    return int(count) if count.isdigit() else None


def count_instructions(work, disk):
    """The same number of writes with and without capture."""
    fio = ["fio", "--name=f", f"--filename={disk.device}", "--rw=randwrite", "--bs=4k", "--direct=1",
           "--ioengine=libaio", "--iodepth=16", "--size=256m", "--allow_mounted_write=1",
           "--output-format=terse"]
    try:
        plain = instructions(fio)
    except FileNotFoundError:
        plain = None
    if plain is None:
        return "instructions cannot be counted on this machine"
    with Tool(work, [(disk.device, work / "copy")], "bpf"):
        tracked = instructions(fio)
    return f"{(tracked - plain) / (256 * 256):.0f} instructions a write"


def cost_of_an_event(work, disk):
    said = count_instructions(work, disk)
    with Tool(work, [(disk.device, work / "copy")], "bpf") as tool:
        before = STATS.read_text(encoding="ascii")
        STATS.write_text("1", encoding="ascii")
        try:
            _, ios, cpu = writes(disk.device, 3)
            cost = dict(word.split("=") for word in tool.ask("cost").split()[2:])
        finally:
            STATS.write_text(before, encoding="ascii")
    ns, calls = int(cost["ns"]), int(cost["calls"])
    report("capture by bpf: an event", ns / calls, "ns", 126,
           f"{calls / ios:.2f} events a write, {ns / ios:.0f} ns a write of {cpu:.0f} ns of the "
           f"writer's processor time; missed {cost['missed']}; {said}")


def write_whole(device):
    subprocess.run(["dd", "if=/dev/zero", f"of={device}", "bs=1M", "status=none",
                    f"count={DISK_MIB}", "oflag=direct"], check=True)


def bench_capture(options, work):
    with agent.LoopDisk(work, "bench", DISK_MIB * MIB) as disk:
        write_whole(disk.device)
        in_pairs(work, disk, "disk", options.pairs, "bpf", 3)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="landfall-bench-") as work:
        work = pathlib.Path(work)
        with LoopDisk(work, "bench", DISK_MIB) as disk:
            write_whole(disk.device)
            in_pairs(work, disk, "memory", options.pairs, "bpf", 3)
            in_pairs(work, disk, "memory", max(options.pairs // 2, 2), "perf", 20)
            cost_of_an_event(work, disk)
