#!/usr/bin/env python3
"""Who asks for a point of a machine with an agent is told what it waits for, at once where it cannot
come: no agent enrolled, none connected, a disk that is compared first, a group that is paused."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, check_equal
from appliance import (BUILD, MIB, Appliance, StrictService, check, die_with_parent, need, run_test,
                       step, wait_until)

TOLD_S = 4  # two seconds are promised, and this machine may be busy


@contextlib.contextmanager
def asking(appliance, work):
    """`landfall point create web` and the file that its words go to."""
    said = work / "said"
    with open(said, "wb") as out, \
            subprocess.Popen([BUILD / "landfall", "--socket", appliance.socket, "--no-progress",
                              "point", "create", "web"], stdout=out, stderr=out,
                             env=appliance.environment, preexec_fn=die_with_parent) as process:
        try:
            yield process, said
        finally:
            process.kill()


def wait_told(process, said, words, seconds=TOLD_S):
    wait_until(seconds, lambda: all(word in said.read_text() for word in words),
               lambda: f"it does not say {words}: {said.read_text()!r}")
    check(process.poll() is None, f"it does not go on waiting: {said.read_text()!r}")


def no_agent(appliance):
    step("a machine that no agent is enrolled for: no point can come")
    began = time.monotonic()
    appliance.refused(1, "point", "create", "web",
                      says=("no agent", "agent install", "key create --machine web"))
    check(time.monotonic() - began < 2 * TOLD_S, "that took long")


def away_then_compared(appliance, work, agent, disk):
    step("an agent that is away, then one that compares: told, and the waiting goes on")
    with asking(appliance, work) as (process, said):
        wait_told(process, said, ("waits: the agent of machine web is not connected", "→"))
        agent.start({"root": disk.device}, ["--read-limit", "2M"])
        wait_told(process, said, ("waits: machine web: disk root is compared", "status web"), 15)
        step("a pause ends it")
        appliance.call("machine", "pause", "web")
        check(process.wait(10) == 5 and "paused" in said.read_text(), said.read_text())
    appliance.refused(5, "point", "create", "web", says=("paused", "machine resume"))
    appliance.call("machine", "resume", "web")


def comes(appliance, work, agent, disk):
    step("and when nothing is in the way any more the point comes")
    with asking(appliance, work) as (process, said):
        wait_told(process, said, ("is compared",))
        check(process.wait(90) == 0 and "is durable" in said.read_text(), said.read_text())
    check_equal(appliance, disk, appliance.points("web")[-1])
    with asking(appliance, work) as (process, said):
        check(process.wait(30) == 0, said.read_text())
        check("waits" not in said.read_text(), f"it waited for nothing: {said.read_text()}")
    check(appliance.run("point", "create", "web").stderr == "", "--json tells people")
    agent.stop()


def test(work):
    need("losetup")
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 24 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        appliance.call("vault", "init")
        appliance.call("policy", "set", "default", "point-interval=0", "vault-interval=1h",
                       "rpo-alert=2h")
        appliance.call("machine", "add", "web", "--source", "agent")
        disk.write(0, os.urandom(MIB))
        no_agent(appliance)
        agent.enroll(appliance)
        away_then_compared(appliance, work, agent, disk)
        comes(appliance, work, agent, disk)


run_test(test)
