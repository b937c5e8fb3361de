#!/usr/bin/env python3
"""Every recovery point of a busy machine is one instant of it.

Two disks, ext4 and xfs, under fio, tar, sqlite and git, a point a second: each of them mounts, is
found clean by the stock checkers once its logs are replayed, holds what was durable before its cut
and nothing that was begun after it, on both disks. How long writers stood still is told.

LANDFALL_POINTS_SECONDS: how long (20); LANDFALL_POINTS_RATE: of fio's writes (4m);
LANDFALL_POINTS_MIB: of the first disk (192), an eighth of which fio writes to;
LANDFALL_POINTS_CHECK_SECONDS: how long points are mounted and checked at most (until all are), spread
evenly over the run; how many were is told;
LANDFALL_POINTS_REPORT: a file for what was found, as JSON.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import BUILD, MIB, Appliance, Rpc, check, need, run_test, shell, step
from churn import Churn, Counter, counter_in, instant, percentile
from images import Filesystem

SECONDS = int(os.environ.get("LANDFALL_POINTS_SECONDS", "20"))
RATE = os.environ.get("LANDFALL_POINTS_RATE", "4m")
DISK_MIB = int(os.environ.get("LANDFALL_POINTS_MIB", "192"))
CHECK_SECONDS = float(os.environ.get("LANDFALL_POINTS_CHECK_SECONDS", "inf"))
REPORT = os.environ.get("LANDFALL_POINTS_REPORT")
POLICY = {"default": {"point-interval": "1s", "retention": "all:1d"}}
FREEZE_TIMEOUT_MS = 10000


def watch_stalls(appliance, seconds, churn):
    """The stall of every point that the appliance tells of, in ms."""
    stalls, end = {}, time.monotonic() + seconds
    with Rpc(appliance.socket) as rpc:
        while time.monotonic() < end:
            machine = rpc.call("status", machine="web")["machines"][0]
            if machine["newest_point"] and machine["agent"]["frozen_ms"] is not None:
                # The number may be told a moment before its stall is: what is said last counts.
                stalls[machine["newest_point"]["number"]] = machine["agent"]["frozen_ms"]
            churn.check()
            time.sleep(0.05)
    return list(stalls.values())


def written_bytes(*disks):
    total = 0
    for disk in disks:
        stat = pathlib.Path(f"/sys/class/block/{os.path.basename(disk.device)}/stat")
        total += int(stat.read_text(encoding="ascii").split()[6]) * 512
    return total


def spread_evenly(points):
    """All of them, in an order whose beginnings are spread evenly: the last, the middle, …"""
    bits = len(points).bit_length()
    order = sorted(range(len(points)), key=lambda i: f"{len(points) - 1 - i:0{bits}b}"[::-1])
    return [points[i] for i in order]


def check_points(appliance, work, points, counter):
    """What the counters say in each point that there was time for."""
    end, seen = time.monotonic() + CHECK_SECONDS, []
    for point in spread_evenly(points):
        if time.monotonic() > end:
            break
        seen.append(check_point(appliance, work, point, counter))
    return seen


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
    # 40 MB/s are more than all of them write together.
    with Appliance(BUILD, work, policies=POLICY, journal_size=f"{4096 + 40 * SECONDS}M",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", DISK_MIB * MIB) as root, \
            LoopDisk(work, "data", 320 * MIB) as data, \
            Agent(BUILD, work, "web") as agent:
        root.format("ext4")
        data.format("xfs")
        here, there = root.mount(), data.mount()
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        agent.start({"root": root.device, "data": data.device})
        agent.wait_state("replicating", "freezing")
        step(f"{SECONDS} s of fio, tar, sqlite and git, a point a second")
        with Churn(work / "churn.log", RATE) as churn, \
                Counter([here / "counter", there / "counter"]) as counter:
            churn.fio(here, f"{DISK_MIB // 8}m")
            churn.tar(there)
            churn.git(there)
            churn.sqlite(here)
            before = written_bytes(root, data)
            stalls = watch_stalls(appliance, SECONDS, churn)
            written = written_bytes(root, data) - before
            counter.stop()
        counter.check()
        points = [p for p in appliance.points("web") if instant(p["time"]) > counter.ended[1][0]]
        check(len(points) >= SECONDS / 4, f"only {len(points)} points in {SECONDS} s")
        step(f"the {len(points)} points are mounted and checked")
        seen = check_points(appliance, work, points, counter)
        check(len({tuple(numbers) for numbers in seen}) > len(seen) / 2,
              f"the points do not tell the instants apart: {seen}")
        print(f"stalls of {len(stalls)} points: median {percentile(stalls, 0.5):.0f} ms, "
              f"p99 {percentile(stalls, 0.99):.0f} ms, longest {max(stalls):.0f} ms; "
              f"{len(seen)} of {len(points)} points checked; the counter reached {len(counter.ended[1])}")
        if REPORT:
            failed = agent.log.read_text(encoding="utf-8").count("no recovery point:")
            pathlib.Path(REPORT).write_text(json.dumps(
                {"stalls_ms": stalls, "seconds": SECONDS, "written_bytes": written,
                 "points": len(points), "checked": len(seen), "failed": failed}), encoding="utf-8")
        check(max(stalls) < FREEZE_TIMEOUT_MS, "a stall was longer than the watchdog allows")


run_test(test)
