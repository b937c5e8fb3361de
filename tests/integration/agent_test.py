#!/usr/bin/env python3
"""The agent end to end: a live disk becomes recovery points that equal it, and goes on where it
was after every kind of end."""

import json
import os
import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, check_equal
from appliance import (BUILD, MIB, Appliance, StrictService, check, need, run_test, shell, step,
                       wait_until)

POLICY = {"default": {"point-interval": "1h", "vault-interval": "1h", "rpo-alert": "2h"}}


def sent(agent):
    """What it has sent, by a status that was written after this was asked."""
    asked = time.time()
    wait_until(20, lambda: agent.status_file.exists() and agent.status_file.stat().st_mtime > asked,
               "the agent's status is not renewed")
    return agent.status()["sent_bytes"]


class Costs:
    """What went on since: bytes sent, chunks compared."""

    def __init__(self, agent, begun_anew=False):
        """`begun_anew`: of a process that is to be started, which counts from 0."""
        self.agent = agent
        self.sent = 0 if begun_anew else sent(agent)

    def check_sent(self, limit, what):
        bytes_sent = sent(self.agent) - self.sent
        check(bytes_sent <= limit, f"{bytes_sent} bytes were sent {what}")

    def check_not_compared(self):
        compared = self.agent.status()["compared_chunks"]
        check(compared == 0, f"{compared} chunks were compared")


def first_sync(appliance, agent, disk):
    step("a disk is compared, sent and sealed")
    disk.write(3 * MIB, os.urandom(5 * MIB))
    disk.write(disk.size - 4096, os.urandom(4096))
    appliance.call("machine", "add", "web", "--source", "agent")
    agent.enroll(appliance)
    agent.start({"root": disk.device})
    agent.wait_state("replicating")
    point = appliance.create_point("web")
    check_equal(appliance, disk, point)
    check(sent(agent) < 7 * MIB, f"{sent(agent)} bytes were sent for 5 MiB")


def deltas(appliance, agent, disk):
    step("what is written afterwards is all that is sent")
    costs = Costs(agent)
    disk.write(17 * MIB + 8192, os.urandom(300_000 // 512 * 512))
    point = appliance.create_point("web")
    check_equal(appliance, disk, point)
    check(sent(agent) > costs.sent, "nothing was sent")
    costs.check_sent(MIB, "for 300,000")


def restarts(appliance, agent, disk):
    for end, how in ((agent.stop, "stopped"), (agent.kill, "killed")):
        step(f"an agent that is {how} goes on where it was, changes in between included")
        end()
        disk.write(30 * MIB, os.urandom(MIB))
        costs = Costs(agent, begun_anew=True)
        agent.start()
        agent.wait_state("replicating")
        check_equal(appliance, disk, appliance.create_point("web"))
        costs.check_sent(3 * MIB, "for 1 MiB")
        costs.check_not_compared()


KILLING_OPEN = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Dies as it opens that file. */
int open64(const char *path, int flags, ...)
{
	int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
	va_list arguments;
	va_start(arguments, flags);
	unsigned mode = flags & O_CREAT ? va_arg(arguments, unsigned) : 0;
	va_end(arguments);
	if (strcmp(path, getenv("LANDFALL_DIES_AT")) == 0)
		kill(getpid(), SIGKILL);
	return real(path, flags, mode);
}
int __open64_2(const char *path, int flags)
{
	return open64(path, flags);
}
"""


def dies_at_the_start(appliance, agent, disk, work):
    step("what went unseen is found, though an agent died between new marks and its first word")
    (work / "killing.c").write_text(KILLING_OPEN)
    shell("cc", "-shared", "-fPIC", "-o", work / "killing.so", work / "killing.c", "-ldl")
    agent.stop()
    shutil.rmtree(agent.pins)  # nothing is marked from here on
    disk.write(31 * MIB, os.urandom(MIB))
    with LoopDisk(work, "second", 8 * MIB) as second:
        agent.environment = {**os.environ, "LD_PRELOAD": str(work / "killing.so"),
                             "LANDFALL_DIES_AT": second.device}
        agent.start({"root": disk.device, "second": second.device})
        check(agent.process.wait(60) == -signal.SIGKILL, "it did not die where it was to")
        agent.environment = None
        dead = agent.run("status", "--status-file", agent.status_file)
        check(dead.returncode == 6 and "no agent is running" in dead.stderr, f"{dead}")
        agent.start({"root": disk.device})
        agent.wait_state("replicating")
        check_equal(appliance, disk, appliance.create_point("web"))


def reloads(appliance, agent, disk):
    step("SIGHUP: the session ends and begins anew, nothing that was written is lost")

    def sessions():
        return agent.log.read_text(encoding="utf-8").count("begins anew")

    for _ in range(2):
        costs = Costs(agent)
        begun = sessions()
        disk.write(34 * MIB, os.urandom(2 * MIB))
        agent.process.send_signal(signal.SIGHUP)
        wait_until(20, lambda: sessions() > begun or agent.process.poll() is not None,
                   "SIGHUP is not heard")
        check(agent.process.poll() is None, f"SIGHUP ended it: {agent.process.poll()}")
        agent.wait_state("replicating")
        check_equal(appliance, disk, appliance.create_point("web"))
        costs.check_sent(6 * MIB, "for 2 MiB")
        costs.check_not_compared()
    appliance.kill()  # while it waits to try again, too
    agent.wait_state("disconnected", "connecting")
    begun = sessions()
    agent.process.send_signal(signal.SIGHUP)
    wait_until(20, lambda: sessions() > begun, "SIGHUP is not heard while it waits")
    appliance.start()
    agent.wait_state("replicating", seconds=90)


def appliance_dies(appliance, agent, disk):
    step("an appliance that is killed costs the delta")
    costs = Costs(agent)
    appliance.kill()
    disk.write(40 * MIB, os.urandom(2 * MIB))
    appliance.start()
    agent.wait_state("replicating", seconds=90)
    check_equal(appliance, disk, appliance.create_point("web"))
    costs.check_not_compared()


def grows(appliance, agent, disk):
    step("a disk that grows is protected with what it grew by")
    disk.grow(disk.size + 8 * MIB)
    disk.write(disk.size - MIB, os.urandom(MIB))
    wait_until(30, lambda: appliance.machine("web")["disks"][0]["size_bytes"] == disk.size,
               "the appliance does not know the new size")
    agent.wait_state("replicating")
    check_equal(appliance, disk, appliance.create_point("web"))


def verifies(appliance, agent, disk):
    step("what is current is proven against the disk, writes meanwhile included")
    verdict = appliance.call("verify", "web")["job"]["result"]
    check(verdict["verdict"] == "verified" and verdict["differing_bytes"] == 0, f"{verdict}")
    check(verdict["bytes"] == disk.size, f"{verdict['bytes']} of {disk.size} bytes were compared")


def verifies_mounted(appliance, disk):
    step("so is a filesystem in use, whose superblock every recovery point's thaw writes anew")
    disk.format()
    there = disk.mount()
    try:
        for i in range(3):
            (there / f"file-{i}").write_bytes(os.urandom(MIB))
            os.sync()
            appliance.create_point("web")
        verdict = appliance.call("verify", "web")["job"]["result"]
        check(verdict["verdict"] == "verified" and verdict["differing_bytes"] == 0, f"{verdict}")
    finally:
        disk.unmount()


def unsynced(appliance, disk):
    step("what programs have written is in the next point, though the kernel still holds it back")
    shell("mkfs.btrfs", "-q", "-f", "--mixed", disk.device)  # nothing is written to it by making a point
    there = disk.mount()
    try:
        os.sync()
        last = appliance.create_point("web")["number"]
        again = appliance.create_point("web")["number"]
        check(again <= last + 1, f"point {again} follows {last}")
        idle = appliance.create_point("web")["number"]
        check(idle == again, f"nothing was written, and yet point {idle} follows {again}")
        page = os.urandom(4096)
        (there / "unsynced").write_bytes(page * 16)
        point = appliance.create_point("web")
        check(point["number"] > idle, f"point {idle} is told to be all there is")
        image = pathlib.Path(f"{appliance.mount}/web/points/{point['name']}/root.vhd").read_bytes()
        check(page * 16 in image, "the point does not show what was written")
    finally:
        disk.unmount()


def repairs(appliance, disk):
    step("what no capture could see is found, and repaired where that is asked for")
    with open(disk.path, "r+b") as file:
        # Into the file under the loop device: no block device is written to.
        file.seek(21 * MIB + 4096)
        file.write(os.urandom(4096))
        file.flush()
        os.fsync(file.fileno())
    failed = appliance.run("verify", "web")
    verdict = json.loads(failed.stdout)["job"]["result"]
    check(failed.returncode == 1 and verdict["differing_bytes"] == MIB, f"{failed}")
    verdict = appliance.call("verify", "web", "--repair")["job"]["result"]
    check(verdict["verdict"] == "repaired" and verdict["differing_bytes"] == MIB, f"{verdict}")
    check_equal(appliance, disk, appliance.create_point("web"))
    verdict = appliance.call("verify", "web")["job"]["result"]
    check(verdict["verdict"] == "verified", f"{verdict}")


def resyncs(appliance, agent, disk):
    step("a resync compares everything and sends what differs: nothing")
    costs = Costs(agent)
    appliance.call("resync", "web")
    wait_until(30, lambda: agent.status()["compared_chunks"] > 0, "nothing is compared")
    agent.wait_state("replicating")
    check_equal(appliance, disk, appliance.create_point("web"))
    wait_until(30, lambda: not agent.status()["disks"][0]["comparing"], "it goes on comparing")
    costs.check_sent(MIB, "for nothing")


def test(work):
    need("losetup", "mkfs.btrfs", "cc")
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICY,
                      listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 64 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        appliance.call("vault", "init")
        first_sync(appliance, agent, disk)
        deltas(appliance, agent, disk)
        restarts(appliance, agent, disk)
        dies_at_the_start(appliance, agent, disk, work)
        appliance.keep_agent_port()
        reloads(appliance, agent, disk)
        appliance_dies(appliance, agent, disk)
        grows(appliance, agent, disk)
        verifies(appliance, agent, disk)
        verifies_mounted(appliance, disk)
        unsynced(appliance, disk)
        repairs(appliance, disk)
        resyncs(appliance, agent, disk)
        point = appliance.create_point("web", wait="vault")
        shell(BUILD / "landfall", "--socket", appliance.socket, "verify", "web", str(point["number"]))


run_test(test)
