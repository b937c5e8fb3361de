"""Every recovery point of a busy machine is one instant of it.

Two disks, ext4 and xfs, under fio, tar, sqlite and git, a point a second: each of them mounts, is
found clean by the stock checkers once its logs are replayed, holds what was durable before its cut
and nothing that was begun after it, on both disks. How long writers stood still is told.

LANDFALL_POINTS_SECONDS: how long (20).
"""

import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import (BUILD, MIB, Appliance, check, need, run_test, shell, step, wait_until)
from churn import Churn, Counter, counter_in, instant, percentile
from images import Filesystem

SECONDS = int(os.environ.get("LANDFALL_POINTS_SECONDS", "20"))
POLICY = {"default": {"point-interval": "1s", "retention": "all:1d"}}
FREEZE_TIMEOUT_MS = 10000


def watch_stalls(agent, seconds, churn):
    """The stall of every point that the agent tells of, in ms."""
    stalls, last, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        said = agent.status()
        if said.get("newest_point", last) != last:
            last = said["newest_point"]
            stalls.append(said["stall_ms"])
        churn.check()
        time.sleep(0.1)
    return stalls


def check_point(appliance, work, point, counter):
    number = point["number"]
    clone = appliance.call("clone", "create", "web", number, "--quota", "256M")["clone"]
    numbers = []
    for disk, kind in (("root", "ext4"), ("data", "xfs")):
        path = f"{clone['path']}/{disk}.vhd"
        with Filesystem(work, path, kind, f"clone-{disk}", make=False) as filesystem:
            numbers.append(counter_in(filesystem.at / "counter"))
            if disk == "root" and (filesystem.at / "ledger.db").exists():
                said = shell("sqlite3", filesystem.at / "ledger.db", "pragma integrity_check")
                check(said.strip() == "ok", f"point {number}: sqlite says {said}")
            if disk == "data" and (filesystem.at / "repository/.git/refs/heads/master").exists():
                shell("git", "-c", "safe.directory=*", "-C", filesystem.at / "repository", "fsck",
                      "--no-dangling")
        loop = shell("losetup", "--show", "--find", "--read-only", "--sizelimit",
                     os.stat(path).st_size - 512, path).strip()
        try:
            shell(*(("e2fsck", "-fn") if kind == "ext4" else ("xfs_repair", "-n")), loop)
        finally:
            subprocess.run(["losetup", "-d", loop], check=False)
    appliance.remove_clone(clone)
    counter.check_image(numbers, instant(point["time"]), f"point {number}")
    return numbers


def test(work):
    need("losetup", "fio", "sqlite3", "git", "xfs_repair", "e2fsck")
    with Appliance(BUILD, work, policies=POLICY, journal_size="4G",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 192 * MIB) as root, LoopDisk(work, "data", 320 * MIB) as data, \
            Agent(BUILD, work, "web") as agent:
        root.format("ext4")
        data.format("xfs")
        here, there = root.mount(), data.mount()
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        agent.start({"root": root.device, "data": data.device})
        agent.wait_state("replicating", "freezing")
        step(f"{SECONDS} s of fio, tar, sqlite and git, a point a second")
        with Churn(work / "churn.log") as churn, \
                Counter([here / "counter", there / "counter"]) as counter:
            churn.fio(here)
            churn.tar(there)
            churn.git(there)
            churn.sqlite(here)
            stalls = watch_stalls(agent, SECONDS, churn)
            counter.stop()
        counter.check()
        points = [p for p in appliance.points("web") if instant(p["time"]) > counter.ended[1][0]]
        check(len(points) >= SECONDS / 4, f"only {len(points)} points in {SECONDS} s")
        step(f"{len(points)} points are mounted and checked")
        seen = [check_point(appliance, work, point, counter) for point in points]
        check(len({tuple(numbers) for numbers in seen}) > len(points) / 2,
              f"the points do not tell the instants apart: {seen}")
        print(f"stalls of {len(stalls)} points: median {percentile(stalls, 0.5):.0f} ms, "
              f"p99 {percentile(stalls, 0.99):.0f} ms, longest {max(stalls):.0f} ms; "
              f"{len(points)} points checked; the counter reached {len(counter.ended[1])}")
        check(max(stalls) < FREEZE_TIMEOUT_MS, "a stall was longer than the watchdog allows")


run_test(test)
