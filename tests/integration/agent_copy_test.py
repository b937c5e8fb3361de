#!/usr/bin/env python3
"""Two hosts with one identity: a copy of a machine does not take the original's place, whoever
takes turns is told of, and an agent that is restarted, or whose host was reset, is let in at once.

Of the machine that the test runs on there is one boot: agents "of another host" run in a mount
namespace in which the kernel's file with the boot's name is another.
"""

import os
import pathlib
import shutil
import signal
import sys
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, check_equal, received_bytes
from appliance import (BUILD, FORGET_MOUNTS, MIB, Appliance, StrictService, check, need, run_test,
                       step, wait_until)

BOOT = "/proc/sys/kernel/random/boot_id"
AT_ONCE_S = 5


class HostAgent(Agent):
    """An agent of a host, with what it has in its kernel."""

    def __init__(self, work, host):
        super().__init__(BUILD, work, "web")
        self.status_file = work / f"{host}.status/status.json"
        self.log = work / f"{host}.log"
        self.boot = work / f"{host}.boot"
        self.work, self.host, self.boots = work, host, 0
        self.reset()

    def reset(self):
        """The host has been started anew: its kernel has forgotten everything."""
        shutil.rmtree(self.pins, ignore_errors=True)
        self.boots += 1
        self.pins = self.pins.with_name(f"{self.pins.name}-{self.host}{self.boots}")
        self.boot.write_text(f"{uuid.uuid4()}\n", encoding="ascii")

    def start(self, disks=None, options=None):
        """What one that was killed has told last is not its successor's."""
        self.status_file.unlink(missing_ok=True)
        super().start(disks, options)

    def program(self):
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c",
                FORGET_MOUNTS + f'mount --bind "$0" {BOOT} && exec "$@"', str(self.boot), *super().program()]


def session(appliance):
    agent = appliance.machine("web")["agent"]
    return agent["connected_since"] if agent["connected"] else None


def check_not_told(appliance):
    check("identity-shared" not in appliance.alerts("web"), f"{appliance.alerts('web')}")


def turned_away(appliance, one, other, disk, copy):
    step("a copy that comes while the original is at work is turned away, and told of")
    since = session(appliance)
    other.start({"root": copy.device})
    why = wait_until(30, lambda: other.status().get("error"), "the copy hears nothing")
    check("another host" in why["message"] and "enrol" in why["mend"], f"{why}")
    alert = appliance.wait_alert("web", "identity-shared", 20)
    check("two hosts" in alert["text"] and "turned away" in alert["cause"], f"{alert}")
    before = received_bytes(appliance)
    for at in range(4):
        disk.write(at * MIB, os.urandom(4096))
        check_equal(appliance, disk, appliance.create_point("web"))
    check(session(appliance) == since, "the original has lost its session")
    check(received_bytes(appliance) - before < MIB, "the original was compared over the copy")
    check(one.process.poll() is None and other.process.poll() is None, "one has ended")
    other.stop()


def comes_back(appliance, one, disk):
    step("an agent that is restarted in any way is back at once")
    for end in (one.stop, one.kill):
        end()
        began = time.monotonic()
        one.start()
        one.wait_state("replicating", seconds=AT_ONCE_S + 5)
        took = time.monotonic() - began
        check(took < AT_ONCE_S, f"that took {took:.1f} s")
    disk.write(5 * MIB, os.urandom(4096))
    check_equal(appliance, disk, appliance.create_point("web"))


def reset(appliance, work, one, disk):
    step("one whose host was reset takes the place of what says nothing any more")
    since = session(appliance)
    silent = HostAgent(work, "silent")
    silent.process, one.process = one.process, None
    silent.process.send_signal(signal.SIGSTOP)
    try:
        one.reset()
        one.start()
        one.wait_state("replicating", seconds=30)
        check(session(appliance) not in (None, since), "the session is the old one")
        check("refuses" not in one.log.read_text(encoding="utf-8"), "it was refused at first")
    finally:
        silent.kill()
        silent.__exit__()
    disk.write(6 * MIB, os.urandom(4096))
    check_equal(appliance, disk, appliance.create_point("web"))


def takes_turns(appliance, one, other, copy):
    step("two that take turns without ever meeting are told of, too")
    one.stop()
    other.start({"root": copy.device})
    other.wait_state("replicating")
    other.stop()
    one.start()
    one.wait_state("replicating")
    alert = wait_until(20, lambda: appliance.alerts("web").get("identity-shared"),
                       "nothing tells of it")
    check("takes turns" in alert["cause"], f"{alert}")


def test(work):
    need("unshare", "losetup")
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 16 * MIB) as disk, LoopDisk(work, "copy", 16 * MIB) as copy, \
            HostAgent(work, "one") as one, HostAgent(work, "other") as other:
        appliance.call("vault", "init")
        appliance.call("policy", "set", "default", "point-interval=1h", "vault-interval=1h",
                       "rpo-alert=2h")
        appliance.call("machine", "add", "web", "--source", "agent")
        one.enroll(appliance)
        other.state = work / "other-state"
        shutil.copytree(one.state, other.state)
        disk.write(0, os.urandom(2 * MIB))
        one.start({"root": disk.device})
        one.wait_state("replicating")
        comes_back(appliance, one, disk)
        reset(appliance, work, one, disk)
        check_not_told(appliance)
        turned_away(appliance, one, other, disk, copy)
        # The alert ends when nothing has told of two hosts for two minutes: too long for here.
        appliance.stop()
        appliance.keep_agent_port()
        appliance.start()
        one.wait_state("replicating")
        check_not_told(appliance)
        takes_turns(appliance, one, other, copy)


run_test(test)
