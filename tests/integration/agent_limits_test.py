#!/usr/bin/env python3
"""An agent sends as fast as its appliance's policy allows at this hour, and no faster, a first
synchronization as what changes later; and no limit makes filesystems stand still for longer."""

import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, check_equal
from appliance import BUILD, MIB, Appliance, check, need, run_test, step, wait_until

BURST = MIB  # a second's worth at 1 MiB/s


def sent(agent):
    return agent.status().get("sent_bytes", 0)


def limit(agent):
    return agent.status().get("send_limit_bytes_per_s")


def set_rates(appliance, agent, words, bytes_per_s):
    appliance.call("policy", "set", "default", *words)
    wait_until(15, lambda: limit(agent) == bytes_per_s, f"the agent has not heard of {words}")


def first_synchronization(appliance, agent, disk):
    step("a first synchronization at 1 MiB/s, then as fast as it goes")
    appliance.call("policy", "set", "default", "bandwidth=1M")
    agent.start({"root": disk.device})
    wait_until(30, lambda: sent(agent) > BURST, "nothing is sent")
    began, before = time.monotonic(), sent(agent)
    time.sleep(6)
    rate = (sent(agent) - before) / (time.monotonic() - began)
    print(f"{rate / MIB:.2f} MiB/s")
    check(0.5 * MIB < rate < 1.4 * MIB, f"{rate / MIB:.2f} MiB/s is not about 1")
    check(agent.run("status", "--status-file", agent.status_file).stdout.find("limited to") > 0,
          "status does not tell the limit")
    appliance.call("policy", "set", "default", "bandwidth=unlimited")
    agent.wait_state("replicating", "freezing", seconds=15)
    check(sent(agent) >= 32 * MIB, "it ended without having sent all")


def processor(appliance, agent, disk):
    step("with a hundredth of a processor, by an agent that counts less than others")

    def sent_in(*options):
        agent.stop()
        agent.start(options=options)
        agent.wait_state("replicating", "freezing")
        disk.write(0, os.urandom(60 * MIB))
        began = time.monotonic()
        appliance.create_point("web")
        return time.monotonic() - began
    fast, slow = sent_in(), sent_in("--cpu-limit", "1")
    print(f"60 MiB took {fast:.1f} s, and {slow:.1f} s with the limit")
    check(slow > fast + 1, f"60 MiB took {slow:.1f} s with the limit, {fast:.1f} s without")
    check(os.getpriority(os.PRIO_PROCESS, agent.process.pid) == 5, "it counts as much as others")


def changes(appliance, agent, disk):
    step("changes at 1 MiB/s, by a rate of the agents' own")
    check_equal(appliance, disk, appliance.create_point("web"))
    set_rates(appliance, agent, ["bandwidth=512K", "agent-bandwidth=1M"], MIB)
    disk.write(40 * MIB, os.urandom(8 * MIB))
    began = time.monotonic()
    point = appliance.create_point("web")
    took = time.monotonic() - began
    print(f"8 MiB took {took:.1f} s")
    check(5 < took < 13, f"8 MiB took {took:.1f} s")
    check_equal(appliance, disk, point)


def the_hour(appliance, agent):
    step("a rate that begins with the next minute")
    if time.time() % 60 > 50:
        time.sleep(62 - time.time() % 60)
    minute = int(time.time()) // 60 + 1
    begins, ends = (time.strftime("%H:%M", time.localtime(60 * m)) for m in (minute, minute + 3))
    set_rates(appliance, agent, [f"agent-bandwidth={begins}-{ends}=512K,unlimited"], 0)
    wait_until(75, lambda: limit(agent) == 512 * 1024, "the hour came and went")
    late = time.time() - 60 * minute
    print(f"the agent knew {late:.1f} s after it began")
    check(-0.5 < late < 10, f"it heard of it {late:.1f} s after the minute began")


class Rewriter:
    """Rewrites 16 MiB of a file all the time."""

    def __init__(self, path):
        self.path, self.stopping = path, False
        self.thread = threading.Thread(target=self.main, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def main(self):
        with open(self.path, "wb", buffering=0) as file:
            while not self.stopping:
                for at in range(16):
                    os.pwrite(file.fileno(), os.urandom(MIB), at * MIB)
                os.fsync(file.fileno())
                time.sleep(0.1)

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join(60)


def frozen(appliance, agent, disk):
    step("what is read while filesystems stand still is read at once, and owed")
    set_rates(appliance, agent, ["agent-bandwidth=unlimited"], 0)
    agent.stop()
    disk.format()
    with Rewriter(disk.mount() / "hot"):
        agent.start(options=["--read-limit", "4M"])
        agent.wait_state("replicating", "freezing", seconds=90)
        # Where the kernel lets events go unseen, the disk is compared now and then first.
        appliance.create_point("web")
        wait_until(10, lambda: agent.status().get("points", 0) > 0, "the agent tells of no point")
        said = agent.status()
    print(f"{said['remainder_bytes'] >> 10} KiB were left, the stall was {said['stall_ms']:.0f} ms")
    check(said["remainder_bytes"] > 8 * MIB, "the load left nothing to read while frozen")
    check(said["stall_ms"] < 1500, f"the stall was {said['stall_ms']:.0f} ms")


def test(work):
    need("losetup", "mkfs.ext4")
    with Appliance(BUILD, work, journal_size="2G",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 64 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        appliance.call("policy", "set", "default", "point-interval=0")
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        disk.write(0, os.urandom(32 * MIB))
        first_synchronization(appliance, agent, disk)
        processor(appliance, agent, disk)
        agent.stop()
        agent.start(options=[])
        agent.wait_state("replicating", "freezing")
        changes(appliance, agent, disk)
        the_hour(appliance, agent)
        frozen(appliance, agent, disk)


run_test(test)
