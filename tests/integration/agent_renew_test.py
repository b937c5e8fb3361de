#!/usr/bin/env python3
"""An agent wins another certificate in the midst of its session, which goes on; one that did not do so
in time is told of, and does when it comes; with one that has ended nobody is let in."""

import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import BUILD, MIB, Appliance, check, need, run_test, step, wait_until

DAY = 86400
LIFE = 90 * DAY                # of a certificate, from when it was won, and
DUE = (LIFE + DAY) // 3        # what is left of it when it is to be renewed: it begins a day before
OVERDUE = (LIFE + DAY) // 5


class Calendar:
    """The daemon's time of day. The agent, which may be linked statically, has the real one."""

    def __init__(self, work):
        self.file = work / "shift"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(BUILD / "tests" / "shiftclock.so"), "SHIFTCLOCK_FILE": str(self.file),
            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")}

    def set(self, seconds):
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(seconds), encoding="ascii")
        fresh.rename(self.file)


def certificate(agent):
    return json.loads((agent.state / "identity.json").read_text(encoding="utf-8"))["certificate"]


def enroll(appliance, agent, calendar, left):
    """Wins a certificate so long ago that only so many seconds are left of it now."""
    shutil.rmtree(agent.state, ignore_errors=True)
    calendar.set(left - LIFE)
    agent.enroll(appliance)
    return certificate(agent)


def is_exact(appliance, agent, disk):
    disk.write(0, os.urandom(disk.size))
    point = appliance.create_point("web")
    with open(f"{appliance.mount}/web/points/{point['name']}/root.vhd", "rb") as there, \
            open(disk.path, "rb") as here:
        check(there.read(disk.size) == here.read(disk.size), "the point differs from the disk")
    check(agent.process.poll() is None, "the agent has ended")


def sessions(appliance):
    return appliance.machine("web")["agent"]["connected_since"]


def in_session(appliance, agent, disk, calendar):
    step("a certificate is renewed within the session, when a third of its life is left")
    for lead in (10, 60, 150):
        first = enroll(appliance, agent, calendar, DUE + lead)
        agent.start({"root": disk.device})
        agent.wait_state("replicating", "freezing")
        began = sessions(appliance)
        if certificate(agent) == first:
            break
        agent.stop()  # it took so long that it was due before the session had begun
    check(certificate(agent) == first, "it was renewed too early")
    calendar.set(0)
    wait_until(lead + 30, lambda: certificate(agent) != first, "it is not renewed")
    is_exact(appliance, agent, disk)
    check(sessions(appliance) == began, "the session did not go on")
    agent.stop()


def overdue(appliance, agent, disk, calendar):
    step("an agent that was away for long is told of")
    first = enroll(appliance, agent, calendar, OVERDUE - DAY)
    check("agent-certificate" not in appliance.alerts("web"), "told of too early")
    calendar.set(0)
    alert = appliance.wait_alert("web", "agent-certificate")
    check("web" in alert["text"] and "landfall key create" in alert["mend"], f"{alert}")

    step("and renews when it comes")
    agent.start()
    agent.wait_state("replicating", "freezing")
    check(certificate(agent) != first, "it is not renewed")
    wait_until(30, lambda: "agent-certificate" not in appliance.alerts("web"), "the alert stays")
    is_exact(appliance, agent, disk)


def over(appliance, agent, disk, calendar):
    step("one whose certificate has ended is refused, ends, and says what to do; a new key helps")
    agent.stop()
    enroll(appliance, agent, calendar, -60)
    calendar.set(0)
    before = sessions(appliance)
    agent.log.unlink()
    agent.start()
    check(agent.process.wait(60) == 4, f"exit {agent.process.returncode}")
    said = agent.log.read_text(encoding="utf-8")
    check("certificate" in said and "enrol the machine again with a new key" in said, said)
    check(sessions(appliance) == before, "it was let in")
    agent.enroll(appliance)
    agent.start()
    agent.wait_state("replicating", "freezing")
    is_exact(appliance, agent, disk)


def test(work):
    need("losetup")
    calendar = Calendar(pathlib.Path(work))
    with Appliance(BUILD, work, journal_size="1G", listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 8 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        appliance.stop()
        # Its own certificate, too, is to be older than the agents'.
        shutil.rmtree(appliance.state)
        calendar.set(-LIFE)
        appliance.environment.update(calendar.environment)
        appliance.start()
        appliance.call("policy", "set", "default", "point-interval=0")
        appliance.call("machine", "add", "web", "--source", "agent")
        in_session(appliance, agent, disk, calendar)
        overdue(appliance, agent, disk, calendar)
        over(appliance, agent, disk, calendar)


run_test(test)
