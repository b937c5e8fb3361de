#!/usr/bin/env python3
"""Application-consistent points: what the commands around the freeze did is in them, they are called
so only if every command succeeded, whatever fails is named, and no failure costs the other points."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import BUILD, MIB, Appliance, check, end_process, need, run_test, step, wait_until
from images import Filesystem

PRE = """#!/bin/sh
echo pre >> {work}/calls
if [ -e {work}/kill-agent ]; then kill -9 $(cat {work}/agent.pid); exit 0; fi
if [ -e {work}/slow ]; then echo $$ > {work}/pid; sleep 60; fi
[ -e {work}/fail-pre ] && exit 3
echo rest > {mounted}/state
"""
POST = """#!/bin/sh
echo post >> {work}/calls
[ -e {work}/fail-post ] && exit 4
echo busy > {mounted}/state
"""


def calls(work):
    file = work / "calls"
    said = file.read_text(encoding="ascii").split() if file.exists() else []
    file.unlink(missing_ok=True)
    return said


def failed_cuts(appliance):
    return appliance.log.read_text(encoding="utf-8").count("no point was made: ")


class Calls:
    """What the commands are called for from now on. A cut that makes no point is tried again, with
    the commands before and after it: some kernels hide a write from the agent at times, which
    costs the cut, and the appliance logs that."""

    def __init__(self, appliance):
        self.appliance = appliance
        self.failed = failed_cuts(appliance)

    def check(self, work, once=("pre", "post")):
        said, failed = calls(work), failed_cuts(self.appliance) - self.failed
        most = [[*once] * (n + 1) for n in range(failed + 1)]
        check(said in most, f"in {work} the commands ran as {said}, not {once}, and {failed} cuts "
                            "failed")


def newest(appliance):
    return appliance.points("web")[-1]


def state_in(appliance, work, point):
    clone = appliance.call("clone", "create", "web", point["number"], "--quota", "64M")["clone"]
    with Filesystem(work, f"{clone['path']}/root.vhd", "ext4", "clone", make=False) as filesystem:
        said = (filesystem.at / "state").read_text(encoding="ascii").strip()
    appliance.remove_clone(clone)
    return said


def asked(appliance):
    return appliance.run("point", "create", "web", "--app")


def refused(appliance, work, says):
    before = {p["number"] for p in appliance.points("web")}
    called = Calls(appliance)
    done = asked(appliance)
    check(done.returncode == 1 and says in done.stdout + done.stderr,
          f"exit {done.returncode}: {done.stdout}{done.stderr}")
    called.check(work)
    fresh = [p for p in appliance.points("web") if p["number"] not in before]
    check(fresh and all(p["kind"] == "crash" for p in fresh), f"the points made are {fresh}")


def runs(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def on_request(appliance, agent, work):
    step("asked for: the commands run around the freeze")
    called = Calls(appliance)
    point = appliance.call("point", "create", "web", "--app")["point"]
    check(point["kind"] == "application", f"{point}")
    called.check(work)
    check(state_in(appliance, work, point) == "rest", "the point was not made between them")
    plain = appliance.create_point("web")
    check(plain["kind"] == "crash" and not calls(work), f"a plain point is {plain}")
    check(state_in(appliance, work, plain) == "busy", "the applications were not woken")

    step("a command that fails, or does not end, is named, and the point is no better than others")
    for name, says in (("fail-pre", "ended with 3"), ("fail-post", "ended with 4"),
                       ("slow", "longer than 2 s")):
        (work / name).touch()
        refused(appliance, work, says)
        (work / name).unlink()
    pid = int((work / "pid").read_text(encoding="ascii"))
    check(not runs(pid), "the command that took too long runs still")
    point = appliance.call("point", "create", "web", "--app")["point"]
    check(point["kind"] == "application", f"{point}")
    calls(work)
    check(agent.status()["state"] in ("replicating", "freezing"), f"{agent.status()}")


def killed(appliance, agent, work):
    for name, how in (("kill-agent", "has brought the applications to rest"),
                      ("slow", "is bringing the applications to rest")):
        step(f"an agent that dies when its command {how}: the next one wakes them, once")
        appliance.call("point", "create", "web", "--app")  # nothing that was asked for is left
        calls(work)
        (work / "agent.pid").write_text(str(agent.process.pid), encoding="ascii")
        (work / "pid").unlink(missing_ok=True)
        (work / name).touch()
        asking = subprocess.Popen([appliance.build / "landfall", "--socket", appliance.socket,
                                   "point", "create", "web", "--app"], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            if name == "slow":
                wait_until(30, lambda: (work / "pid").exists() and (work / "pid").read_text(),
                           "the command does not run")
                agent.kill()
            wait_until(30, lambda: agent.process.poll() is not None, "the agent was not killed")
            (work / name).unlink()
            said = calls(work)
            check(said == ["pre"], f"the commands ran as {said}")
            agent.start()
            wait_until(30, lambda: (work / "calls").exists(), "nobody wakes the applications")
            if name == "slow":
                check(not runs(int((work / "pid").read_text(encoding="ascii"))),
                      "what brings the applications to rest goes on")
            agent.wait_state("replicating", "freezing")
        finally:
            end_process(asking)
        said = calls(work)
        check(said[:1] == ["post"], f"the commands ran as {said}")
        agent.stop()
        calls(work)
        agent.start()
        agent.wait_state("replicating", "freezing")
        # What was asked for may be made only now, between both commands.
        check(calls(work)[:1] != ["post"], "the applications are woken again at every start")


def by_itself(appliance, work):
    step("by app-interval, with the others in between")
    before = newest(appliance)["number"]
    appliance.call("policy", "set", "default", "point-interval=1s", "app-interval=10s")

    def kinds():
        return [p["kind"] for p in appliance.points("web") if p["number"] > before]
    with open(work / "root.mnt/noise", "wb", buffering=0) as noise:
        def churned():
            noise.write(bytes(4096))
            return kinds().count("application") >= 2 and kinds().count("crash") >= 2
        wait_until(60, churned, lambda: f"the points are {kinds()}")
        check(kinds().count("application") < kinds().count("crash"), f"the points are {kinds()}")

        step("while the commands fail there are points all the same, and an alert")
        (work / "fail-pre").touch()
        alert = appliance.wait_alert("web", "app-failing", 60)
        check("ended with 3" in alert["cause"], f"{alert}")
        since = newest(appliance)["number"]

        def going_on():
            noise.write(bytes(4096))
            return newest(appliance)["number"] >= since + 3
        wait_until(60, going_on, "no more points are made")
        (work / "fail-pre").unlink()

        def mended():
            noise.write(bytes(4096))
            return "app-failing" not in appliance.alerts("web")
        wait_until(60, mended, "the alert stays")
    appliance.call("policy", "set", "default", "point-interval=0", "app-interval=0")


def refused_group(appliance, work, says):
    """An application-consistent point of both machines fails, and says whose fault it was."""
    before = {p["number"] for p in appliance.points("web")}
    done = asked(appliance)
    check(done.returncode == 1 and all(word in done.stdout + done.stderr for word in says),
          f"exit {done.returncode}: {done.stdout}{done.stderr}")
    fresh = [p for p in appliance.points("web") if p["number"] not in before]
    check(fresh and all(p["kind"] == "crash" for p in fresh), f"the points made are {fresh}")
    check([p["number"] for p in appliance.points("db")] ==
          [p["number"] for p in appliance.points("web")], "the machines have other points")


def of_a_group(appliance, agent, work, disk):
    step("one machine of a group that fails makes it a point like others, and is named")
    (work / "db").mkdir()
    for name, text in (("pre", PRE), ("post", POST)):
        (work / "db" / name).write_text(text.format(work=work / "db", mounted=work / "db"),
                                        encoding="ascii")
        (work / "db" / name).chmod(0o755)
    (work / "db" / "state").touch()
    appliance.call("machine", "add", "db", "--source", "agent", "--group", "web")
    agent.enroll(appliance)
    agent.start({"root": disk.device}, ["--pre-freeze", work / "db/pre", "--post-thaw",
                                        work / "db/post", "--script-timeout", "2s"])
    agent.wait_state("replicating", "freezing")

    def both():
        (work / "root.mnt/noise").write_bytes(os.urandom(8192))
        return asked(appliance).returncode == 0
    wait_until(60, both, "there is no application-consistent point of both")
    calls(work), calls(work / "db")
    for name, says in (("fail-pre", ("machine db", "ended with 3")),
                       ("fail-post", ("machine db", "ended with 4"))):
        (work / "root.mnt/noise").write_bytes(os.urandom(8192))
        (work / "db" / name).touch()
        called = Calls(appliance)
        refused_group(appliance, work, says)
        (work / "db" / name).unlink()
        for where in (work, work / "db"):
            called.check(where)
    (work / "fail-pre").touch()
    refused_group(appliance, work, ("machine web", "ended with 3"))
    (work / "fail-pre").unlink()
    calls(work), calls(work / "db")
    check(both(), "the next is none, either")
    point = newest(appliance)
    check(point["kind"] == "application" and state_in(appliance, work, point) == "rest",
          f"the next is {point}")


def test(work):
    need("losetup", "mkfs.ext4")
    with Appliance(BUILD, work, journal_size="1G", listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 48 * MIB) as disk, Agent(BUILD, work, "web") as agent, \
            LoopDisk(work, "other", 8 * MIB) as other, Agent(BUILD, work, "db") as second:
        appliance.call("policy", "set", "default", "point-interval=0")
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        disk.format()
        mounted = disk.mount()
        for name, text in (("pre", PRE), ("post", POST)):
            (work / name).write_text(text.format(work=work, mounted=mounted), encoding="ascii")
            (work / name).chmod(0o755)
        agent.start({"root": disk.device}, ["--pre-freeze", work / "pre", "--post-thaw",
                                            work / "post", "--script-timeout", "2s"])
        agent.wait_state("replicating", "freezing")
        on_request(appliance, agent, work)
        killed(appliance, agent, work)
        by_itself(appliance, work)
        of_a_group(appliance, second, work, other)
        second.stop()
        appliance.call("machine", "remove", "db")

        step("an agent without such a command refuses, and says what to do")
        agent.stop()
        agent.start(options=[])
        agent.wait_state("replicating", "freezing")
        (mounted / "noise").write_bytes(bytes(8192))
        done = asked(appliance)
        check(done.returncode == 1 and "--pre-freeze" in done.stdout + done.stderr,
              f"exit {done.returncode}: {done.stdout}{done.stderr}")


run_test(test)
