#!/usr/bin/env python3
"""Disks that come, grow and go while an agent runs: a new one is protected by itself unless excluded,
and the others' recovery points neither wait for it nor show it before it is whole; one that goes is
told of and stops nobody, and is compared when it is back; a network block device is left out, and told of.

The agent runs in a mount namespace with a /sys/block of the test's own, in which loop devices go by
other names: that is what it takes for the machine's disks.
"""

import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, check_equal
from appliance import (BUILD, FORGET_MOUNTS, MIB, Appliance, StrictService, check, need, run_test,
                       shell, step, wait_until)

# Long enough to look at, and to make points meanwhile on a machine that is busy with other things.
SLOW, SLOWER = ["--read-limit", "2M"], ["--read-limit", "512K"]


class MachineAgent(Agent):
    """An agent that sees only the disks it is given, through bind mounts over sysfs."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sys = pathlib.Path(self.state).parent / "sys-block"
        self.hidden = pathlib.Path(self.state).parent / "no-disk"

    def program(self):
        if not self.process_wanted:
            return super().program()
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c",
                FORGET_MOUNTS + 'mount --bind "$0" /sys/block && exec "$@"', str(self.sys), *super().program()]

    process_wanted = False

    def start(self, disks=None, options=None):
        self.process_wanted = True
        try:
            super().start(disks, options)
        finally:
            self.process_wanted = False

    def plug(self, disk, name):
        self.sys.mkdir(exist_ok=True)
        target = os.path.realpath(f"/sys/block/{os.path.basename(disk.device)}")
        (self.sys / name).symlink_to(target)

    def unplug(self, device):
        for link in self.sys.iterdir():
            if os.path.basename(os.path.realpath(link)) == os.path.basename(device):
                link.unlink()

    def inside(self, *command):
        shell("nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", *command)

    def pull(self, disk):
        """Sysfs knows the disk no longer; its files there are empty."""
        self.hidden.mkdir(exist_ok=True)
        self.inside("mount", "--bind", self.hidden,
                    os.path.realpath(f"/sys/block/{os.path.basename(disk.device)}"))

    def put_back(self, disk):
        self.inside("umount", os.path.realpath(f"/sys/block/{os.path.basename(disk.device)}"))


def name_of(disk):
    """What the agent calls it: the name that the kernel had for it first."""
    if not hasattr(disk, "id"):
        disk.id = os.path.basename(disk.device)
    return disk.id


def shown(appliance, point):
    return sorted(os.listdir(f"{appliance.mount}/web/points/{point['name']}"))


def files(*disks):
    return sorted(f"{name_of(disk)}.vhd" for disk in disks)


def equal(appliance, point, *disks):
    for disk in disks:
        check_equal(appliance, disk, point, name_of(disk))


def protected(appliance):
    return {disk["id"]: disk for disk in appliance.machine("web")["agent"]["disks"]}


def newest(appliance):
    points = appliance.points("web")
    return points[-1] if points else None


def touch(disk, at=0):
    disk.write(at, os.urandom(4096))


def appears(appliance, agent, root, data, other):
    step("a disk that appears is protected by itself, and holds nobody up")
    data.write(0, os.urandom(24 * MIB))
    options = agent.options
    agent.stop()
    agent.start(options=[*SLOWER, *options[len(SLOW):]])
    agent.wait_state("replicating", "freezing")
    agent.plug(other, "sdx")
    agent.plug(data, "sdc")
    disk = wait_until(30, lambda: protected(appliance).get(name_of(data)),
                      "the new disk is not protected")
    check(disk["joining"] and disk["state"] == "comparing", f"{disk}")
    told = ""
    while not all(word in told for word in ("changes by", "comparing: ", "MiB/s", " left")):
        check(protected(appliance)[name_of(data)]["state"] == "comparing",
              f"it never told rate and time left: {told}")
        told = appliance.run("status", "web", json_output=False).stdout
    seen = []
    while len(seen) < 2:
        touch(root)
        point = appliance.create_point("web")
        check(protected(appliance)[name_of(data)]["state"] == "comparing",
              f"{len(seen)} points were made before the new disk was compared")
        check(shown(appliance, point) == files(root), f"{shown(appliance, point)}")
        equal(appliance, point, root)
        seen.append(point)
    step("and an agent that is started again goes on with it")
    agent.stop()
    agent.start(options=options)
    wait_until(90, lambda: protected(appliance).get(name_of(data), {}).get("state") == "whole",
               lambda: f"it is not compared: {protected(appliance)}")
    check(name_of(other) not in protected(appliance), "an excluded disk is protected")
    point = appliance.create_point("web")
    check(shown(appliance, point) == files(root, data), f"{shown(appliance, point)}")
    equal(appliance, point, root, data)
    clone = appliance.call("clone", "create", "web", seen[-1]["number"])["clone"]
    check(os.listdir(clone["path"]) == files(root), "a clone shows more than its point")
    appliance.remove_clone(clone)
    return seen[-1], point


def remembered(appliance, root, data, before, after):
    step("restarts do not forget what points show")
    appliance.kill()
    appliance.start()
    wait_until(30, lambda: os.path.isdir(f"{appliance.mount}/web/points/{before['name']}"),
               "the points are not back")
    check(shown(appliance, before) == files(root), f"{shown(appliance, before)}")
    check(shown(appliance, after) == files(root, data), f"{shown(appliance, after)}")


def grows(appliance, agent, root, data):
    step("a disk that grows is followed")
    data.grow(data.size + 16 * MIB)
    touch(data, data.size - MIB)
    wait_until(30, lambda: protected(appliance)[name_of(data)]["size_bytes"] == data.size,
               "the growth is not seen")
    agent.wait_state("replicating", "freezing")
    point = appliance.create_point("web")
    equal(appliance, point, root, data)


def job_of(appliance, number):
    return appliance.call("job", "show", number)["job"]


def goes(appliance, agent, root, data):
    step("one verification at a time")
    number = appliance.call("verify", "web", "--detach")["job"]
    appliance.refused(5, "verify", "web", says=("at work", "wait for it"))
    wait_until(60, lambda: (job_of(appliance, number)["progress"] or {"done": 0})["done"] >=
               root.size,
               "the verification does not come to the second disk")

    step("a disk that goes is told of, its verification ends, and the other's points go on")
    agent.pull(data)
    wait_until(20, lambda: job_of(appliance, number)["state"] == "failed",
               lambda: f"the verification goes on: {job_of(appliance, number)}")
    why = job_of(appliance, number)["error"]
    check(name_of(data) in why["message"] and "went away" in why["message"] and why["mend"],
          f"{why}")
    alert = appliance.wait_alert("web", "agent-failing", 30)
    check("not there any more" in alert["cause"], f"{alert}")
    touch(root)
    point = appliance.create_point("web")
    check(shown(appliance, point) == files(root), f"{shown(appliance, point)}")
    equal(appliance, point, root)
    touch(data, MIB)

    step("and when it is back it is compared, and shown again")
    agent.put_back(data)
    wait_until(60, lambda: protected(appliance).get(name_of(data), {}).get("state") == "whole",
               "it is not protected again")
    again = appliance.create_point("web")
    check(shown(appliance, again) == files(root, data), f"{shown(appliance, again)}")
    equal(appliance, again, root, data)
    check(shown(appliance, point) == files(root), "what an old point shows has changed")
    wait_until(30, lambda: "agent-failing" not in appliance.alerts("web"), "the alert stays")


def swap(one, other):
    """Each gets the other's kernel name. False: somebody was quicker."""
    devices = (other.device, one.device)
    for disk in (one, other):
        disk.detach()
    for disk, device in zip((one, other), devices):
        if subprocess.run(["losetup", "--direct-io=on", device, disk.path], check=False,
                          capture_output=True).returncode != 0:
            disk.attach()
        else:
            disk.device = device
    return (one.device, other.device) == devices


def whole(appliance, *disks):
    known = protected(appliance)
    return set(known) == {name_of(disk) for disk in disks} and \
        all(disk["state"] == "whole" for disk in known.values())


def swapped(appliance, agent, root, data):
    step("after a reboot at which the kernel swaps their names the disks go by their old ones")
    agent.stop()
    shutil.rmtree(agent.pins)
    if not swap(root, data):
        step("another test has taken a loop device meanwhile: they only move")
    for disk, name in ((root, "sda"), (data, "sdc")):
        (agent.sys / name).unlink()
        agent.plug(disk, name)
    touch(data, 2 * MIB)
    agent.start()
    wait_until(90, lambda: appliance.machine("web")["agent"]["connected"] and
               whole(appliance, root, data), lambda: f"they are {protected(appliance)}")
    for disk in (root, data):
        check(protected(appliance)[name_of(disk)]["size_bytes"] == disk.size, "mistaken")
    sent = agent.status()["sent_bytes"]
    check(sent <= 2 * MIB, f"{sent} bytes were sent of two disks that hold what they held")
    point = appliance.create_point("web")
    check(shown(appliance, point) == files(root, data), f"{shown(appliance, point)}")
    equal(appliance, point, root, data)

    step("and one that goes is found again where it comes back")
    agent.pull(data)
    wait_until(30, lambda: name_of(data) not in protected(appliance), "it is not missed")
    first = data.device
    data.attach()
    agent.plug(data, "sdz")
    try:
        wait_until(60, lambda: whole(appliance, root, data),
                   lambda: f"they are {protected(appliance)}")
        touch(data, 3 * MIB)
        equal(appliance, appliance.create_point("web"), root, data)
    finally:
        # Whoever has the loop device next is not the agent's.
        agent.unplug(first)
        shell("losetup", "--detach", first)

    step("one that is not there after a restart is told of until it is, or is excluded")
    agent.stop()
    agent.unplug(data.device)
    agent.start()
    agent.wait_state("replicating", "freezing")
    cause = appliance.wait_alert("web", "agent-failing", 30)["cause"]
    check(f"disk {name_of(data)} (" in cause and "is not there" in cause, cause)
    agent.stop()
    options = agent.options
    agent.start(options=[*options, "--exclude", name_of(data)])
    wait_until(30, lambda: "agent-failing" not in appliance.alerts("web"), "the alert stays")
    agent.stop()
    agent.start(options=options)
    appliance.wait_alert("web", "agent-failing", 30)
    agent.plug(data, "sdz")
    wait_until(60, lambda: whole(appliance, root, data), lambda: f"they are {protected(appliance)}")
    wait_until(30, lambda: "agent-failing" not in appliance.alerts("web"), "the alert stays")

    step("names that cannot be read are not made up")
    agent.stop()
    names = agent.state / "names.json"
    kept = names.read_text(encoding="utf-8")
    names.write_text(kept[:-20], encoding="utf-8")
    agent.start()
    check(agent.process.wait(20) == 1, f"exit {agent.process.returncode}")
    check("names.json, which tells the disks' names, is damaged" in agent.log.read_text(), "why")
    names.write_text(kept, encoding="utf-8")
    agent.start()
    wait_until(90, lambda: appliance.machine("web")["agent"]["connected"] and
               whole(appliance, root, data), lambda: f"they are {protected(appliance)}")


def taken_over(appliance, work, service, root, data, before, after):
    step("who takes the group over knows what points show")
    point = appliance.call("point", "create", "web", "--wait", "vault", timeout=120)["point"]
    appliance.stop()
    with Appliance(BUILD, work, service.connection_string, name="second") as second:
        second.call("vault", "takeover", timeout=120)
        points = {p["number"] for p in second.points("web")}
        for number, disks in ((before, (root,)), (after, (root, data)), (point, (root, data))):
            if number["number"] in points:
                check(shown(second, number) == files(*disks), f"{shown(second, number)}")
        check(point["number"] in points, "the newest point is gone")
        check(any(p in points for p in (before["number"],)), "no point without the disk was kept")


def named_and_absent(work, appliance, root):
    step("a named disk that is not there is waited for")
    with Agent(BUILD, work, "db") as agent:
        appliance.call("machine", "add", "db", "--source", "agent")
        agent.enroll(appliance)
        link = work / "link"
        agent.start({"root": root.device, "late": link})
        agent.wait_state("replicating", "freezing")
        alert = appliance.wait_alert("db", "agent-failing", 30)
        check("late" in alert["cause"], f"{alert}")
        with LoopDisk(work, "late", 8 * MIB) as late:
            late.write(0, os.urandom(MIB))
            link.symlink_to(late.device)
            wait_until(30, lambda: any(d["id"] == "late" and d["state"] == "whole" for d in
                                       appliance.machine("db")["agent"]["disks"]),
                       "it is not protected when it comes")
            fewer(appliance, agent)
    appliance.call("machine", "remove", "db")


def fewer(appliance, agent):
    step("a named disk that is not named any more is told of, until it is again, or is excluded")
    check("disk-not-sent" not in appliance.alerts("db"), f"{appliance.alerts('db')}")
    disks = dict(agent.disks)
    agent.stop()
    agent.start({"root": disks["root"]})
    alert = appliance.wait_alert("db", "disk-not-sent", 30)
    check("late" in alert["cause"] and "root" not in alert["cause"], f"{alert}")
    check("--disk late=PATH" in alert["mend"] and "--exclude late" in alert["mend"], f"{alert}")
    appliance.stop()
    (appliance.state / "agents/db.json").unlink()
    appliance.start()
    alert = appliance.wait_alert("db", "disk-not-sent", 60)
    check("late" in alert["cause"] and "root" not in alert["cause"], f"{alert}")
    for chosen, options in ((disks, []), ({"root": disks["root"]}, ["--exclude", "late"])):
        agent.stop()
        agent.start({"root": disks["root"]}, [])
        appliance.wait_alert("db", "disk-not-sent", 30)
        agent.stop()
        agent.start(chosen, options)
        agent.wait_state("replicating", "freezing")
        wait_until(30, lambda: "disk-not-sent" not in appliance.alerts("db"), "the alert stays")
        for _ in range(3):
            point = appliance.call("point", "create", "db")["point"]
        check("disk-not-sent" not in appliance.alerts("db"), f"{point}: the alert is back")
    agent.stop()


def test(work):
    need("losetup", "unshare", "nsenter")
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 8 * MIB) as root, LoopDisk(work, "data", 32 * MIB) as data, \
            LoopDisk(work, "other", 8 * MIB) as other, LoopDisk(work, "extra", 8 * MIB) as extra, \
            MachineAgent(BUILD, work, "web") as agent:
        appliance.call("vault", "init")
        appliance.call("policy", "set", "default", "point-interval=0", "vault-interval=1s")
        appliance.keep_agent_port()
        named_and_absent(work, appliance, extra)
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        agent.plug(root, "sda")
        agent.plug(extra, "nbd0")
        agent.start({}, [*SLOW, "--exclude", name_of(other)])
        agent.wait_state("replicating", "freezing")
        touch(root)
        check(shown(appliance, appliance.create_point("web")) == files(root), "the first point")
        told = agent.log.read_text(encoding="utf-8")
        check(set(protected(appliance)) == {name_of(root)}, f"{protected(appliance)}")
        check(told.count(f"{name_of(extra)} is not protected: it is a network block device") == 1,
              f"the network block device is not told of once: {told}")
        before, after = appears(appliance, agent, root, data, other)
        remembered(appliance, root, data, before, after)
        agent.wait_state("replicating", "freezing")
        grows(appliance, agent, root, data)
        goes(appliance, agent, root, data)
        swapped(appliance, agent, root, data)
        taken_over(appliance, work, service, root, data, before, after)


run_test(test)
