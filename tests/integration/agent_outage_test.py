#!/usr/bin/env python3
"""Whatever is away, for however long: the machine goes on writing at its own pace, what it writes is
marked in memory that does not grow, and afterwards what was written is sent, and nothing else.

network · processes · full · large · slow · unreadable · unseen
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, Namespace, check_equal, received_bytes
from appliance import (BUILD, MIB, Appliance, Failure, Skip, StrictService, check, need, resident_bytes,
                       run_test, step, wait_until)
from capture import Load, Unseen
from churn import percentile

BLOCK = 4096
# What was under way in the windows of two connections when the outage came is sent twice.
SLACK = 8 * MIB
POLICY = {"default": {"point-interval": "2s", "vault-interval": "2s", "retention": "all:1h",
                      "rpo-alert": "2h"}}


class Writer:
    """Writes random blocks in a part of a disk, durably one by one, or in long runs; remembers
    which, and how long each write took."""

    def __init__(self, disk, first, count, run=1, pause=0.003):
        self.disk, self.first, self.count, self.run, self.pause = disk, first, count, run, pause
        self.touched = set()
        self.took = []
        self.stopping = False
        self.failure = None
        self.thread = None

    def __enter__(self):
        self.thread = threading.Thread(target=self.main, daemon=True)
        self.thread.start()
        return self

    def main(self):
        descriptor = os.open(self.disk.device, os.O_WRONLY | os.O_DSYNC)
        try:
            while not self.stopping:
                block = int.from_bytes(os.urandom(4), "little") % (self.count - self.run + 1)
                block += self.first
                data = os.urandom(BLOCK * self.run)
                began = time.monotonic()
                os.pwrite(descriptor, data, block * BLOCK)
                self.took.append(time.monotonic() - began)
                self.touched.update(range(block, block + self.run))
                time.sleep(self.pause)
        except OSError as error:
            self.failure = error
        finally:
            os.close(descriptor)

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join(60)
        if self.failure:
            raise Failure(f"the disk cannot be written: {self.failure}")

    @property
    def bytes(self):
        return len(self.touched) * BLOCK


def comparisons(agent):
    """Where each comparison with the appliance began that the agent has told of. Its log is asked, as
    its status may still be that of a process before."""
    return [int(at) for at in re.findall(r"comparing with the appliance from byte (\d+)",
                                         agent.log.read_text(encoding="utf-8"))]


def read_again(agent):
    """KiB that were read again as the kernel had let ends of writes go unseen."""
    return sum(int(n) for n in re.findall(r"unseen: (\d+) KiB",
                                          agent.log.read_text(encoding="utf-8")))


def settle(appliance, agent, seconds=90):
    """The agent is back and has made a point of now."""
    agent.wait_state("replicating", "freezing", seconds=seconds)
    return appliance.create_point("web")


def check_pace(writer, free):
    """The machine was not slowed: who wrote to the protected disk got on as who wrote to one that
    nobody protects, at the same time on the same hardware. A writer that is blocked shows in the
    mean, one that is slowed in the median as well."""
    told = []
    for what, most, value in (("median", 3, lambda took: percentile(took, 0.5)),
                              ("mean", 3, lambda took: sum(took) / len(took))):
        check(len(writer.took) > 50 < len(free.took),
              f"{len(writer.took)} writes, and {len(free.took)} to the disk that is not protected")
        one, other = value(writer.took), value(free.took)
        told.append(f"{what} {one * 1000:.2f} ms, {other * 1000:.2f} unprotected")
        check(one < most * other, f"a write took {told[-1]}")
    return "; ".join(told)


def outage(what, x, begin, end, seconds, anew=False, slack=SLACK):
    """The writer writes all the while. `anew`: the appliance counts from 0 afterwards."""
    step(what)
    appliance, agent, disk = x.appliance, x.agent, x.disk
    settle(appliance, agent)
    before, compared, again = received_bytes(appliance), comparisons(agent), read_again(agent)
    with Writer(disk, 4096, 2048) as writer, Writer(x.free, 4096, 2048) as free:
        begin()
        time.sleep(seconds)
        for one in (writer, free):
            one.stopping = True
            one.thread.join(30)
        end()
    point = settle(appliance, agent)
    check_equal(appliance, disk, point)
    sent = received_bytes(appliance) - (0 if anew else before)
    dirty = writer.bytes
    check(comparisons(agent) == compared, f"the disk was compared: {comparisons(agent)}")
    check(sent <= dirty + slack, f"{sent} bytes were sent for {dirty}")
    print(f"{writer.bytes >> 10} KiB written meanwhile, {sent >> 10} KiB sent in all, "
          f"{read_again(agent) - again} KiB of them read again; a write took "
          f"{check_pace(writer, free)}")


class Setting:
    """An appliance, an agent with a disk, and a disk `free` that nobody protects."""

    def __init__(self, work, size, **options):
        self.work, self.size, self.options = work, size, options
        self.network = Namespace(f"lf{os.getpid()}")
        self.parts = contextlib.ExitStack()

    def __enter__(self):
        enter = self.parts.enter_context
        try:
            enter(self.network)
            options = {"journal_size": "2G", "policies": POLICY, **self.options}
            self.appliance = enter(Appliance(BUILD, self.work, listen=f"{self.network.host}:0",
                                             **options))
            self.appliance.keep_agent_port()
            self.disk = enter(LoopDisk(self.work, "root", self.size))
            self.free = enter(LoopDisk(self.work, "free", 32 * MIB))
            self.agent = enter(Agent(BUILD, self.work, "web", network=self.network))
        except BaseException:
            self.parts.close()
            raise
        return self

    def protect(self):
        self.appliance.call("machine", "add", "web", "--source", "agent")
        self.agent.enroll(self.appliance)
        self.agent.start({"root": self.disk.device})
        self.agent.wait_state("replicating", "freezing", seconds=120)

    def __exit__(self, *_):
        self.parts.close()


def network(work):
    with Setting(work, 64 * MIB) as x:
        x.protect()
        outage("the network is cut", x, x.network.cut, x.network.mend, 35)
        step("an alert said so, and is gone")
        wait_until(30, lambda: "agent-away" not in x.appliance.alerts("web"), "the alert stays")
        x.network.cut()
        x.appliance.wait_alert("web", "agent-away", 60)
        x.network.mend()


def processes(work):
    with Setting(work, 64 * MIB) as x:
        x.protect()
        outage("the appliance is killed", x, x.appliance.kill, x.appliance.start, 4, anew=True)
        outage("the agent is killed", x, x.agent.kill, x.agent.start, 4)

        def both():
            x.appliance.kill()
            x.agent.kill()

        def both_again():
            x.agent.start()
            time.sleep(2)
            x.appliance.start()
        outage("both are killed", x, both, both_again, 4, anew=True)
        before = resident_bytes(x.agent.process)
        outage("the appliance is away for long, and all is written again and again", x,
               x.appliance.stop, x.appliance.start, 20, anew=True)
        after = resident_bytes(x.agent.process)
        check(after < before + 8 * MIB, f"the agent grew from {before} to {after} bytes")
        outage("the agent is killed where it sends", x,
               lambda: (time.sleep(1.5), x.agent.kill()), x.agent.start, 3)
        x.appliance.call("verify", "web")


def full(work):
    with StrictService(work) as service, \
            Setting(work, 768 * MIB, journal_size="256M",
                    connection_string=service.connection_string) as x:
        x.appliance.call("vault", "init")
        x.protect()
        x.appliance.create_point("web", wait="vault")
        step("the vault is away, and more is written than the journal holds")
        service.admin("/down", {"mode": "refuse"})
        before, compared = received_bytes(x.appliance), comparisons(x.agent)
        with Writer(x.disk, 0, 512 * 256, run=256, pause=0.01) as writer:
            wait_until(120, lambda: writer.bytes > 400 * MIB, "it cannot be written")
        print(f"{writer.bytes // MIB} MiB written, the journal {x.appliance.machine('web')['journal']}")
        wait_until(60, lambda: set(x.appliance.alerts("web")) & {"journal-full", "journal-filling"},
                   lambda: f"no alert: {x.appliance.alerts('web')}")
        with Writer(x.disk, 0, 2048) as calm, Writer(x.free, 0, 2048) as free:
            time.sleep(3)
        print(f"a write takes {check_pace(calm, free)}")
        step("the agent stops at once while nothing is taken, and goes on")
        began = time.monotonic()
        x.agent.stop()
        print(f"it took {time.monotonic() - began:.1f} s")
        check(time.monotonic() - began < 10, "the agent took long to stop")
        x.agent.start()
        time.sleep(3)
        step("the appliance is stopped, and then killed, while nothing is taken")
        sent = received_bytes(x.appliance) - before
        began = time.monotonic()
        x.appliance.stop()
        check(time.monotonic() - began < 30, "the appliance took long to stop")
        x.appliance.start()
        x.agent.wait_state("replicating", "freezing")
        time.sleep(3)
        sent += received_bytes(x.appliance)
        x.appliance.kill()
        wait_until(40, lambda: x.agent.status().get("state") in ("disconnected", "connecting"),
                   lambda: f"the agent has not noticed: {x.agent.status()}")
        x.appliance.start()
        step("the vault is back")
        service.admin("/down", {"mode": None})
        x.agent.wait_state("replicating", "freezing", seconds=240)
        # More than the journal holds: it can be opened once it is in the vault.
        point = x.appliance.create_point("web", wait="vault", timeout=300)
        check_equal(x.appliance, x.disk, point)
        sent += received_bytes(x.appliance)
        dirty = writer.bytes + calm.bytes
        print(f"{sent // MIB} MiB were sent for {dirty // MIB}, {read_again(x.agent)} KiB read again")
        check(sent <= dirty * 1.25 + 96 * MIB, f"{sent} bytes were sent for {dirty}")
        check(comparisons(x.agent) == compared, f"the disk was compared: {comparisons(x.agent)}")
        x.appliance.verify("web", point["number"])


def large(work):
    with StrictService(work) as service, \
            Setting(work, 640 * MIB, journal_size="256M",
                    connection_string=service.connection_string) as x:
        x.appliance.call("vault", "init")
        step("a first sync of more than the journal holds, with either end killed in its middle")
        with open(x.disk.device, "wb") as file:
            for _ in range(544):
                file.write(os.urandom(MIB))
        x.appliance.call("machine", "add", "web", "--source", "agent")
        x.agent.enroll(x.appliance)
        x.agent.start({"root": x.disk.device}, ("--bandwidth", "40M"))

        def done():
            disks = x.agent.status().get("disks") or [{}]
            return disks[0].get("compared_bytes", 0)
        total = reached = 0
        for name, kill, start in (("appliance", x.appliance.kill, x.appliance.start),
                                  ("agent", x.agent.kill, x.agent.start)):
            before = max(done(), reached)
            wait_until(120, lambda least=before: done() > least + 128 * MIB,
                       lambda: f"it does not get on: {x.agent.status()}")
            count = len(comparisons(x.agent))
            total += received_bytes(x.appliance) if name == "appliance" else 0
            kill()
            time.sleep(1)
            start()
            at = wait_until(90, lambda n=count: comparisons(x.agent)[n:],
                            "it is not gone on with")[-1]
            print(f"the {name} was killed at {before >> 20} MiB and more, gone on from {at >> 20}")
            check(at >= before, "it began anew")
            reached = at
        x.agent.wait_state("replicating", "freezing", seconds=240)
        point = x.appliance.create_point("web", wait="vault", timeout=300)
        check_equal(x.appliance, x.disk, point)
        x.appliance.verify("web", point["number"])
        total += received_bytes(x.appliance)
        print(f"{total >> 20} MiB were sent for 544")
        check(total < 544 * MIB * 1.5, f"{total} bytes were sent")
        x.appliance.check_vault(orphans=2)


FAILING_READ = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
/* Reads of the disk fail behind its first 24 MiB while a file is there. */
ssize_t pread64(int fd, void *data, size_t n, off64_t at)
{
	ssize_t (*real)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
	if (n >= 4096 && at >= 24 << 20 && access(getenv("LANDFALL_FAIL"), F_OK) == 0) {
		errno = EIO;
		return -1;
	}
	return real(fd, data, n, at);
}
ssize_t __pread64_chk(int fd, void *data, size_t n, off64_t at, size_t room)
{
	(void)room;
	return pread64(fd, data, n, at);
}
"""


def unreadable(work):
    need("cc")
    (work / "failing.c").write_text(FAILING_READ)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", work / "failing.so", work / "failing.c", "-ldl"],
                   check=True)
    fails = work / "fails"
    with Setting(work, 64 * MIB) as x:
        x.agent.environment = {**os.environ, "LD_PRELOAD": str(work / "failing.so"),
                               "LANDFALL_FAIL": str(fails)}
        step("a disk that cannot be read for a while is compared when it can")
        x.disk.write(40 * MIB, os.urandom(MIB))
        fails.touch()
        x.appliance.call("machine", "add", "web", "--source", "agent")
        x.agent.enroll(x.appliance)
        x.agent.start({"root": x.disk.device})
        alert = x.appliance.wait_alert("web", "agent-failing", 60)
        check("cannot be read" in alert["cause"], f"{alert}")
        check(not x.appliance.points("web"), "there is a point of a disk that was not read")
        fails.unlink()
        point = settle(x.appliance, x.agent)
        check_equal(x.appliance, x.disk, point)
        step("what is written and cannot be read makes no point, and is in the next that is made")
        fails.touch()
        x.disk.write(50 * MIB, os.urandom(MIB))
        alert = x.appliance.wait_alert("web", "agent-failing", 60)
        check("cannot be read" in alert["cause"], f"{alert}")
        newest = x.appliance.points("web")[-1]["number"]
        time.sleep(3)
        check(x.appliance.points("web")[-1]["number"] == newest, "points go on being made")
        fails.unlink()
        point = settle(x.appliance, x.agent)
        check_equal(x.appliance, x.disk, point)
        wait_until(60, lambda: "agent-failing" not in x.appliance.alerts("web"), "the alert stays")


def slow(work):
    with Setting(work, 64 * MIB) as x:
        if not x.network.limit("16mbit"):
            raise Skip("this kernel cannot slow a network down (tc, sch_tbf)")
        x.protect()
        step("a slow network: what can be packed is")
        x.appliance.create_point("web")
        text = b"".join(f"line {i}: all work and no play\n".encode() for i in range(400_000))
        before = x.agent.status()
        x.disk.write(8 * MIB, text[:12 * MIB])
        x.disk.write(32 * MIB, os.urandom(4 * MIB))
        point = x.appliance.create_point("web")
        check_equal(x.appliance, x.disk, point)
        wait_until(20, lambda: x.agent.status()["sent_bytes"] - before["sent_bytes"] >= 15 * MIB,
                   "the figures do not tell")
        after = x.agent.status()
        sent = after["sent_bytes"] - before["sent_bytes"]
        wire = after["wire_bytes"] - before["wire_bytes"]
        print(f"{sent >> 10} KiB of content were {wire >> 10} KiB on the wire")
        check(wire < sent * 0.6, "nothing was packed")


def unseen(work):
    need("fio")
    with Setting(work, 512 * MIB) as x:
        x.disk.format()
        at = x.disk.mount()
        x.protect()
        x.appliance.create_point("web")
        compared = comparisons(x.agent)
        for what, rate in (("a little", "2m"), ("much", "60m")):
            step(f"ends of writes go unseen again and again, while {what} is written between points")
            before, again = x.appliance.points("web")[-1]["number"], read_again(x.agent)
            with Unseen(x.agent.pins):
                load = Load("direct", at, 12, rate=rate, size="160m")
                load.wait()
                point = x.appliance.create_point("web")
            made = point["number"] - before
            again = read_again(x.agent) - again
            print(f"{made} points, {again} KiB read again")
            check(made >= 2 and again > 0, f"{made} points were made")
            check(comparisons(x.agent) == compared, "the disk was compared")
        x.disk.unmount()
        check_equal(x.appliance, x.disk, settle(x.appliance, x.agent))
        x.appliance.call("verify", "web")


def test(work):
    need("losetup", "ip", "nsenter", "tc")
    parts = {"network": network, "processes": processes, "full": full, "large": large, "slow": slow,
             "unreadable": unreadable, "unseen": unseen}
    for name in sys.argv[1:] or parts:
        parts[name](work / name if (work / name).mkdir() is None else work)


run_test(test)
