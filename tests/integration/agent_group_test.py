#!/usr/bin/env python3
"""Two machines of a group: every recovery point shows both at one instant, and whatever happens to
one of them in the middle of a cut makes no point, thaws the other at once, and is made good by the
next."""

import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import BUILD, MIB, Appliance, check, need, run_test, step, wait_until
from churn import Counter, counter_in, instant
from images import Filesystem

POLICY = {"default": {"point-interval": "1s", "retention": "all:1d"}}
ASKED = {"default": {"point-interval": "1h", "retention": "all:1d"}}


def holds(appliance, work, point):
    """What the counters' files of both machines hold in the point."""
    numbers = []
    for machine, kind in (("web", "ext4"), ("db", "xfs")):
        clone = appliance.call("clone", "create", machine, point["number"], "--quota",
                               "64M")["clone"]
        with Filesystem(work, f"{clone['path']}/root.vhd", kind, f"clone-{machine}",
                        make=False) as filesystem:
            numbers.append(counter_in(filesystem.at / "counter"))
        appliance.remove_clone(clone)
    return numbers


def check_points(appliance, work, points, counter):
    for point in points:
        counter.check_image(holds(appliance, work, point), instant(point["time"]),
                            f"point {point['number']}")


def one_instant(appliance, work, paths):
    step("a point a second of both, and a counter from machine to machine")
    with Counter(paths) as counter:
        before = len(appliance.points("web"))
        # Where the kernel lets events go unseen, a disk is compared now and then first.
        wait_until(60, lambda: len(appliance.points("web")) >= before + 8, "hardly a point is made")
        counter.stop()
    counter.check()
    points = [p for p in appliance.points("web") if instant(p["time"]) > counter.ended[1][0]]
    check({p["number"] for p in points} <= {p["number"] for p in appliance.points("db")},
          "the machines have other points")
    check_points(appliance, work, points, counter)
    print(f"{len(points)} points, the counter reached {len(counter.ended[1])}, the longest write "
          f"took {counter.longest * 1000:.0f} ms")


def disturbed(appliance, work, paths, agents, delay, how):
    """One machine's agent is ended or stopped somewhere in a cut that has just begun."""
    web, db = agents
    before = len(appliance.points("web"))
    with Counter(paths) as counter:
        time.sleep(0.3)
        asking = subprocess.Popen([appliance.build / "landfall", "--socket", appliance.socket,
                                   "point", "create", "web"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        time.sleep(delay)
        at = time.time()
        if how == "killed":
            db.kill()
        else:
            db.process.send_signal(signal.SIGSTOP)
        # Whatever the stage was: both are written again, the watchdog of the one that stopped
        # sees to that.
        wait_until(15, lambda: counter.ended[1] and counter.ended[1][-1] > at and
                   counter.ended[0][-1] > at, "a machine stands still")
        time.sleep(1)
        counter.check()
        if how == "killed":
            db.start()
        else:
            time.sleep(2)
            db.process.send_signal(signal.SIGCONT)
        asking.wait(120)
        wait_until(60, lambda: len(appliance.points("web")) > before, "no point is made afterwards")
        appliance.create_point("web")
        counter.stop()
    counter.check()
    longest = [max(counter.latencies(file, at - 1)) for file in (0, 1)]
    points = [p for p in appliance.points("web")[before:]
              if instant(p["time"]) > counter.ended[1][0]]
    check_points(appliance, work, points, counter)
    return longest, len(points)


def test(work):
    need("losetup", "xfs_repair")
    with Appliance(BUILD, work, policies=POLICY, journal_size="2G",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "web", 64 * MIB) as here, LoopDisk(work, "db", 320 * MIB) as there, \
            Agent(BUILD, work, "web") as web, Agent(BUILD, work, "db") as db:
        here.format("ext4")
        there.format("xfs")
        paths = [here.mount() / "counter", there.mount() / "counter"]
        appliance.call("machine", "add", "web", "--source", "agent")
        appliance.call("machine", "add", "db", "--source", "agent", "--group", "web")
        web.enroll(appliance)
        web.start({"root": here.device})
        step("while a machine of the group has no agent an alert names it")
        web.wait_state("replicating")
        alert = appliance.wait_alert("web", "agent-away", 40)
        check("machine db" in alert["text"], f"{alert}")
        db.enroll(appliance)
        db.start({"root": there.device})
        for agent in (web, db):
            agent.wait_state("replicating", "freezing")
        wait_until(60, lambda: appliance.points("web") and not appliance.alerts("web").get(
            "agent-away"), lambda: f"no points, or the alert stays: {appliance.alerts('web')}")
        one_instant(appliance, work, paths)
        appliance.settings["policy default"] = ASKED["default"]
        appliance.write_config()
        appliance.reload()
        for how in ("killed", "stopped"):
            for delay in (0.005, 0.02, 0.05, 0.1, 0.2):
                step(f"an agent is {how} {delay * 1000:.0f} ms into a cut")
                longest, count = disturbed(appliance, work, paths, (web, db), delay, how)
                print(f"the longest writes took {longest[0]:.3f} and {longest[1]:.3f} s; "
                      f"{count} points are right")
                check(longest[0] < 6, f"the other machine stood still for {longest[0]:.1f} s")
                check(longest[1] < 12, f"the watchdog let it stand still for {longest[1]:.1f} s")


run_test(test)
