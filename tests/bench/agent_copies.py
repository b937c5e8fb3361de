"""Copying through the agent: the first synchronisation beside dd | ssh and rsync, and a small change
of a large disk."""

import contextlib
import mmap
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import tempfile
import time

from agent import Agent, LoopDisk
from appliance import MIB, Appliance, Failure, check, need, shell, wait_until
from figures import report, say, spread
from sshd import Sshd

GIB = 1 << 30
PAGE = 4096
DELTA_TRIES = 3
STRETCH = 16 * MIB  # of data, then as much of zeros
QUIET = {"default": {"point-interval": "1h", "vault-interval": "1h", "rpo-alert": "2h"}}


def need_room(work, wanted_bytes, what):
    free = shutil.disk_usage(work).free
    check(free > wanted_bytes + 2 * GIB,
          f"{what} needs {wanted_bytes / GIB:.0f} GiB and there are {free / GIB:.0f} free in {work}: "
          "ask for less, or name another --dir")


def losses(agent):
    """How often the capture could not vouch for itself, as where a kernel drops trace events."""
    return agent.log.read_text(encoding="utf-8").count("may have been missed (")


def wait_whole(agent, name, seconds):
    """Until the agent's log says so, which is sooner than its status does."""
    def is_whole():
        log = agent.log.read_text(encoding="utf-8")
        if agent.process.poll() is not None:
            raise Failure(f"landfall-agent ended: {log[-1000:]}")
        return f"disk {name} is whole" in log
    wait_until(seconds, is_whole, lambda: f"the disk is not whole: {agent.status()}")


@contextlib.contextmanager
def replicated(options, work, journal_bytes, policies=None):
    """(appliance, agent): the one started, the other enrolled as `web`; in a directory of their own,
    which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=work, ignore_cleanup_errors=True) as own, \
            Appliance(options.bin, own, policies=policies or QUIET, listen="127.0.0.1:0", name="l",
                      journal_size=f"{journal_bytes // MIB}M") as appliance, \
            Agent(options.bin, own, "web") as agent:
        appliance.keep_agent_port()
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        yield appliance, agent


# ── the first synchronisation ────────────────────────────────────────────────────────────────

def fill_half(disk):
    """Every other stretch is random, the rest was never written."""
    with open(disk.path, "r+b", buffering=0) as file:
        for at in range(0, disk.size, 2 * STRETCH):
            for piece in range(at, min(at + STRETCH, disk.size), MIB):
                os.pwrite(file.fileno(), os.urandom(MIB), piece)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def settle(disk):
    """Nobody's leavings are written or cached while something is timed."""
    shell("blockdev", "--flushbufs", disk.device)
    os.sync()


def through_agent(options, work, disk, compare):
    with replicated(options, work, disk.size + GIB) as (appliance, agent):
        settle(disk)
        began = time.monotonic()
        agent.start({"d": disk.device})
        wait_whole(agent, "d", 280)
        seconds = time.monotonic() - began
        if compare:
            say("what arrived is compared with the disk")
            appliance.create_point("web")
            shell("cmp", "-n", disk.size, disk.device, appliance.live("web", "d"), timeout=280)
        return seconds


def timed(disk, command, target):
    settle(disk)
    began = time.monotonic()
    shell("bash", "-o", "pipefail", "-c", command, timeout=280)
    seconds = time.monotonic() - began
    check(target.stat().st_size == disk.size, f"{command}: {target.stat().st_size} bytes arrived")
    target.unlink()
    return seconds


def bench_sync(options, work):
    need("ssh", "ssh-keygen", "losetup")
    size = options.sync_gib * GIB
    need_room(work, 2.5 * size, "sync")
    target = work / "target.img"
    with LoopDisk(work, "half", size) as disk, Sshd(work, "mount -t tmpfs own /run") as sshd:
        say(f"{options.sync_gib} GiB, every other {STRETCH // MIB} MiB of them random")
        fill_half(disk)
        ssh = " ".join(sshd.ssh)
        ways = {"agent": lambda first: through_agent(options, work, disk, first),
                "dd": lambda _: timed(disk, f"dd if={disk.device} bs=1M status=none | {ssh} "
                                            f"root@target 'cat >{target} && sync {target}'", target)}
        if shutil.which("rsync"):
            ways["rsync"] = lambda _: timed(
                disk, f"rsync --inplace --copy-devices --fsync -e '{ssh}' {disk.device} "
                      f"root@target:{target}", target)
        taken = {name: [] for name in ways}
        for turn in range(options.rounds):
            for name in list(ways) if turn % 2 == 0 else reversed(ways):
                taken[name].append(ways[name](turn == 0))
                say(f"{name}: {taken[name][-1]:.2f} s")
    ours = statistics.median(taken["agent"])
    rates = "; ".join(f"{name} {size / 1e6 / statistics.median(seconds):.0f} MB/s, s: {spread(seconds)}"
                      for name, seconds in taken.items())
    report("first sync of a half-empty disk", statistics.median(taken["dd"]) / ours,
           "x dd over ssh", 2, f"{options.sync_gib} GiB in {options.rounds} rounds; {rates}", most=False)
    if "rsync" in taken:
        report("the same beside rsync --inplace", statistics.median(taken["rsync"]) / ours,
               "x rsync", 2, "the same runs", most=False)


# ── a small change of a large disk ───────────────────────────────────────────────────────────

def change(disk, total_bytes, seed):
    """Writes random data of 4 to 64 KiB to random places past every cache, until so much is changed.
    Returns the bytes that have changed, in pages."""
    rng = random.Random(seed)
    pool = mmap.mmap(-1, 2 * MIB)
    pool.write(os.urandom(2 * MIB))
    changed = set()
    descriptor = os.open(disk.device, os.O_WRONLY | os.O_DIRECT)
    try:
        view = memoryview(pool)
        while len(changed) * PAGE < total_bytes:
            pages = rng.randint(1, 16)
            at = rng.randrange(disk.size // PAGE - pages)
            source = rng.randrange(2 * MIB // PAGE - pages) * PAGE
            os.pwrite(descriptor, view[source:source + pages * PAGE], at * PAGE)
            changed.update(range(at, at + pages))
        view.release()
    finally:
        os.close(descriptor)
    return len(changed) * PAGE


def tcp_sent(port):
    """{local address: bytes} of established connections to that port on loopback."""
    said = shell("ss", "-Htinp", "state", "established", "dst", f"127.0.0.1:{port}")
    sent = {}
    for line in said.replace("\n\t", " ").splitlines():
        words = line.split()
        numbers = [word.split(":")[1] for word in words if word.startswith("bytes_sent:")]
        sent[words[2]] = int(numbers[0]) if numbers else 0
    return sent


def one_delta(appliance, agent, disk, part, seed):
    """(bytes changed, bytes sent over TCP, seconds), or None if the capture could not vouch for itself:
    then the disk was compared, and there was no delta."""
    port = appliance.agent_port()
    changed = change(disk, part, seed)
    before, lost = tcp_sent(port), losses(agent)
    began = time.monotonic()
    appliance.create_point("web", timeout=280)
    seconds = time.monotonic() - began
    after = tcp_sent(port)
    if losses(agent) != lost:
        return None
    check(set(after) == set(before), "the agent connected anew meanwhile")
    return changed, sum(after.values()) - sum(before.values()), seconds


def bench_delta(options, work):
    need("ss", "losetup")
    size, part = options.delta_gib * GIB, options.delta_gib * GIB // 100
    need_room(work, (2 + DELTA_TRIES) * part, "delta")
    with LoopDisk(work, "large", size) as disk, \
            replicated(options, work, (1 + DELTA_TRIES) * part + GIB) as (appliance, agent):
        say(f"{options.delta_gib} GiB of zeros are compared")
        began = time.monotonic()
        agent.start({"d": disk.device})
        wait_whole(agent, "d", 280)
        first = time.monotonic() - began
        appliance.create_point("web")
        for turn in range(DELTA_TRIES):
            say("1 % is changed")
            done = one_delta(appliance, agent, disk, part, options.seed + turn)
            if done:
                break
            say("the kernel lost trace events, and the disk was compared: once more")
        check(done, "the kernel loses trace events every time")
        changed, sent, seconds = done
        report(f"delta of 1 % of {options.delta_gib} GiB: sent beyond the data", (sent - changed) / 1e6,
               "MB", 10, f"{changed / 1e6:.1f} MB in writes of 4 to 64 KiB, {sent / 1e6:.1f} MB of "
               f"TCP; {seconds:.1f} s until the point was durable; the {options.delta_gib} GiB of "
               f"zeros were compared in {first:.0f} s; deltas that were comparisons: {turn}")
