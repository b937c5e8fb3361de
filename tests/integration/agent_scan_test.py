#!/usr/bin/env python3
"""Where nothing tells what changes: recovery points by reading everything, right all the same; what
was sent is not sent again; what cannot be read in time makes no point, and says so; and what cannot
be verified is told."""

import os
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, check_equal, received_bytes
from appliance import BUILD, MIB, Appliance, check, need, run_test, step, wait_until
from churn import Counter, counter_in, instant
from images import Filesystem


def holds(appliance, work, point):
    clone = appliance.call("clone", "create", "web", point["number"], "--quota", "64M")["clone"]
    with Filesystem(work, f"{clone['path']}/root.vhd", "ext4", "clone", make=False) as there:
        number = counter_in(there.at / "counter")
    appliance.remove_clone(clone)
    return number


def verdict(appliance):
    return appliance.call("verify", "web", timeout=100)["job"]["result"]


def verifies(appliance, root, data):
    step("verifying says of what it can say nothing: what is written all the time, or by every thaw")
    found = verdict(appliance)
    check(found["verdict"] == "incomplete" and found["differing_bytes"] == 0, f"{found}")
    check(0 < found["unverified_bytes"] <= 2 * MIB, f"a mounted ext4 that is idle: {found}")
    check(found["bytes"] == root.size + data.size, f"{found}")
    with Writer(data, 20 * MIB):
        busy = [verdict(appliance)["unverified_bytes"] for _ in range(2)]
    check(max(busy) > found["unverified_bytes"], f"{found}, then {busy}")
    said = appliance.run("verify", "web", json_output=False)
    check("could not be verified" in said.stdout and "incomplete" in said.stdout, said.stdout)
    step("and where nothing is written it proves all")
    root.unmount()
    appliance.create_point("web")

    def whole():
        said = verdict(appliance)
        return said if said["verdict"] == "verified" else None
    found = wait_until(60, whole, "it is never proven whole")
    check(found["unverified_bytes"] == 0 and found["differing_bytes"] == 0 and
          found["bytes"] == root.size + data.size, f"{found}")


class Writer:
    """Somebody who writes to the same page all the time."""

    def __init__(self, disk, at):
        self.disk, self.at, self.ends = disk, at, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.ends.is_set():
            self.disk.write(self.at, os.urandom(4096))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def test(work):
    need("losetup", "mkfs.ext4")
    with Appliance(BUILD, work, journal_size="1G", listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 32 * MIB) as root, LoopDisk(work, "data", 64 * MIB) as data, \
            Agent(BUILD, work, "web", "scan") as agent:
        appliance.call("policy", "set", "default", "point-interval=0")
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        root.format()
        data.write(0, os.urandom(48 * MIB))
        mounted = root.mount()
        agent.start({"root": root.device, "data": data.device})
        agent.wait_state("replicating", "freezing")
        check(agent.status()["capture"] == "scan", f"{agent.status()}")

        shown = appliance.run("machine", "show", "web", json_output=False).stdout
        check("certificate until" in shown, f"machine show: {shown}")

        step("points under writes are one instant each")
        with Counter([mounted / "counter"]) as counter:
            points = [appliance.create_point("web") for _ in range(4)]
            counter.stop()
        counter.check()
        seen = []
        for point in points:
            seen.append(holds(appliance, work, point))
            counter.check_image([seen[-1]], instant(point["time"]), f"point {point['number']}")
        check(len(set(seen)) > 1, f"the points do not tell instants apart: {seen}")

        step("what changed is sent, and little more")
        check_equal(appliance, data, appliance.create_point("web"), "data")
        before = received_bytes(appliance)
        data.write(5 * MIB + 4096, os.urandom(8192))
        data.write(60 * MIB, os.urandom(MIB))
        check_equal(appliance, data, appliance.create_point("web"), "data")
        sent = received_bytes(appliance) - before
        check(sent < 24 * MIB, f"{sent >> 10} KiB were sent for 1 MiB")

        step("also after the agent was away")
        agent.stop()
        data.write(30 * MIB, os.urandom(MIB))
        agent.start()
        agent.wait_state("replicating", "freezing")
        check_equal(appliance, data, appliance.create_point("web"), "data")
        verifies(appliance, root, data)


run_test(test)
