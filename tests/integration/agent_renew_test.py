#!/usr/bin/env python3
"""Months pass: an agent wins another certificate in the midst of its session, which goes on; one that
did not come in time is told of, and renews when it comes."""

import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import BUILD, MIB, Appliance, check, need, run_test, step, wait_until

DAY = 86400


class Calendar:
    """The time of day of those whose environment it is in; others have the real one."""

    def __init__(self, work):
        self.file = work / "shift"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(BUILD / "tests" / "shiftclock.so"), "SHIFTCLOCK_FILE": str(self.file),
            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")}

    def set(self, days):
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(days * DAY), encoding="ascii")
        fresh.rename(self.file)


def certificate(agent):
    return json.loads((agent.state / "identity.json").read_text(encoding="utf-8"))["certificate"]


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
    first = certificate(agent)
    began = sessions(appliance)
    calendar.set(58)
    is_exact(appliance, agent, disk)
    check(certificate(agent) == first, "it was renewed too early")
    calendar.set(61)
    wait_until(30, lambda: certificate(agent) != first, "it is not renewed")
    is_exact(appliance, agent, disk)
    check(sessions(appliance) == began, "the session did not go on")

    step("and again, with what was won")
    second = certificate(agent)
    calendar.set(122)
    agent.stop()
    agent.start()
    agent.wait_state("replicating", "freezing")
    wait_until(30, lambda: certificate(agent) != second, "it is not renewed")
    is_exact(appliance, agent, disk)


def overdue(appliance, agent, disk, calendar):
    step("an agent that was away for long is told of")
    agent.stop()
    check("agent-certificate" not in appliance.alerts("web"), "told of too early")
    calendar.set(122 + 75)
    alert = appliance.wait_alert("web", "agent-certificate")
    check("web" in alert["text"] and "landfall key create" in alert["mend"], f"{alert}")

    step("and renews when it comes")
    agent.start()
    agent.wait_state("replicating", "freezing")
    wait_until(30, lambda: "agent-certificate" not in appliance.alerts("web"),
               "the alert stays")
    is_exact(appliance, agent, disk)


def test(work):
    need("losetup")
    calendar = Calendar(pathlib.Path(work))
    with Appliance(BUILD, work, journal_size="1G", listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 8 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        appliance.stop()
        appliance.environment.update(calendar.environment)
        appliance.start()
        appliance.call("policy", "set", "default", "point-interval=0")
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.environment = {**os.environ, **calendar.environment}
        agent.enroll(appliance)
        agent.start({"root": disk.device})
        agent.wait_state("replicating", "freezing")
        in_session(appliance, agent, disk, calendar)
        overdue(appliance, agent, disk, calendar)


run_test(test)
