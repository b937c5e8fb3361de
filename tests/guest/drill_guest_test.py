#!/usr/bin/env python3
"""Drills on the appliance itself: a disk with a boot loader, a kernel and a small system is
replicated, and its points are started in QEMU.

A machine that comes up is told by its serial console and its screen, and holds what was written
last before the seal; one that cannot come up is told with its console's reason. What runs changes
a clone alone: the point proves right afterwards, and replication goes on meanwhile. A daemon that
is killed takes the machine with it and finishes the drill after its start; a drill that is canceled
leaves nothing running.
"""

import contextlib
import json
import os
import pathlib
import struct
import sys
import threading
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import bootdisk  # noqa: E402
from appliance import (BUILD, MIB, Appliance, check, run_test, shell, step,  # noqa: E402
                       wait_until)
from guest import make_image  # noqa: E402
from images import Image  # noqa: E402

POLICY = {"default": {"point-interval": "5s", "retention": "all:1h"}}
DRILLED = ("point-interval=5s", "retention=all:1h")
SIZE = f"{bootdisk.SIZE // MIB}M"
DATA = 8 * MIB


class Machine:
    """One that is protected by the source fuse, with a disk to start from and one beside it."""

    def __init__(self, appliance, name, image, *options):
        self.appliance, self.name, self.image = appliance, name, image
        self.appliance.call("machine", "add", name, "--source", "fuse", "--disk", f"root={SIZE}",
                            "--disk", f"data={DATA // MIB}M", *options)

    def live(self, disk):
        return f"{self.appliance.mount}/{self.name}/live/{disk}.vhd"

    def write(self):
        """The image as it is now; returns a point that holds it."""
        shell("dd", f"if={self.image}", f"of={self.live('root')}", "bs=1M", "conv=notrunc,fsync",
              "status=none")
        return self.appliance.call("point", "create", self.name)["point"]

    def content(self, point):
        return Image.of_file(f"{self.appliance.mount}/{self.name}/points/{point['name']}/root.vhd")

    @contextlib.contextmanager
    def written_to(self):
        """Something writes to the machine all the while; yields a count of its writes."""
        stop, count = threading.Event(), [0]

        def write():
            with open(self.live("data"), "r+b", buffering=0) as file:
                while not stop.wait(0.05):
                    file.seek(count[0] * 4096 % DATA)
                    file.write(os.urandom(4096))
                    os.fsync(file.fileno())
                    count[0] += 1
        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield count
        finally:
            stop.set()
            thread.join()


def machines_running(appliance):
    """Pids of QEMU whose console is logged below this appliance's state."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            if str(appliance.state).encode() in words and b"landfall-drill-" in words:
                found.append(int(entry.name))
    return found


def colours(path):
    """How many different pixels a PNG of 8 bits a channel holds."""
    data, at, pixels, width, depth = path.read_bytes(), 8, b"", 0, 0
    check(data[:8] == b"\x89PNG\r\n\x1a\n", f"{path} is no PNG")
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, _, bits, colour = struct.unpack(">IIBB", body[:10])
            check(bits == 8 and colour in (2, 6), f"{path}: {bits} bits, colour type {colour}")
            depth = 3 if colour == 2 else 4
        if kind == b"IDAT":
            pixels += body
        at += 12 + length
    # Rows that are all background are zeros after any of PNG's filters.
    rows = zlib.decompress(pixels)
    stride = width * depth + 1
    return len({rows[i:i + stride] for i in range(0, len(rows), stride)})


def drill(appliance, machine, *options):
    return appliance.call("drill", "start", machine, *options)["job"]["result"]


def comes_up(appliance, machine, image):
    step("a point comes up while the machine goes on")
    point = machine.write()
    before = machine.content(point)
    with machine.written_to() as writes:
        found = drill(appliance, machine.name, "--point", str(point["number"]))
        told = writes[0]
        check(told > 0, "nothing was written while the point was started")
    check(found["verdict"] == "passed" and found["state"] == "running", f"the drill: {found}")
    log = pathlib.Path(found["log"]).read_text(encoding="utf-8", errors="replace")
    for line in ("marker: as of the first point", "disks: vda vdb", "firmware: bios",
                 "written: from the guest", "login:"):
        check(line in log, f"the console does not say '{line}':\n{log[-1500:]}")
    rows = colours(pathlib.Path(found["screenshot"]))
    check(rows > 10, f"the screen shows nothing: {rows} different rows")
    check(machine.content(point).digest == before.digest, "the drill changed its point")
    verdict = appliance.call("verify", machine.name, str(point["number"]))["job"]["result"]
    check(verdict["verdict"] == "verified", f"the point after the drill: {verdict}")
    newest = appliance.call("point", "create", machine.name)["point"]
    check(newest["number"] > point["number"], "no point was made after the drill")
    status = appliance.call("status", machine.name)["machines"][0]
    check(status["last_drill"]["verdict"] == "passed" and
          status["last_drill"]["point"] == point["number"], f"status: {status['last_drill']}")
    check(len(machines_running(appliance)) == 1, "the machine does not run until it is cleaned up")
    refused = appliance.run("machine", "remove", machine.name)
    check(refused.returncode == 5 and "drill cleanup" in refused.stdout + refused.stderr,
          f"removing a machine that is being drilled: {refused}")
    appliance.call("drill", "cleanup", str(found["id"]))
    check(not machines_running(appliance), "the machine runs after the cleanup")
    check(not appliance.call("clone", "list")["clones"], "the clone is there after the cleanup")
    check(pathlib.Path(found["log"]).exists(), "the evidence went with the cleanup")
    check(image.exists(), "the source's own disk")
    return point


def fails(appliance, machine, image):
    step("a machine that cannot come up")
    bootdisk.break_bios_disk(image)
    machine.write()
    done = appliance.run("drill", "start", machine.name)
    answer = json.loads(done.stdout)
    found = answer["job"]["result"]
    check(done.returncode != 0, "a failed drill ends with 0")
    check(found["verdict"] == "failed" and "Kernel panic" in found["reason"] and
          "Unable to mount root" in found["reason"], f"the drill: {found}")
    check("Kernel panic" in answer["error"]["message"], f"the error: {answer['error']}")
    status = appliance.call("status", machine.name)["machines"][0]
    check(status["last_drill"]["verdict"] == "failed", f"status: {status['last_drill']}")
    appliance.call("drill", "cleanup", str(found["id"]))


def begin(appliance, machine, point):
    """A drill under way: its job, and its machine's pid."""
    job = appliance.call("drill", "start", machine.name, "--point", str(point["number"]),
                         "--detach")["job"]
    log = appliance.state / "drills" / str(job) / "serial.log"
    wait_until(60, lambda: log.exists() and log.stat().st_size > 0,
               "the machine's console stays silent")
    running = machines_running(appliance)
    check(len(running) == 1, f"{len(running)} machines run")
    return job, running[0]


def killed(appliance, machine, point):
    step("the daemon is killed while the machine comes up")
    job, pid = begin(appliance, machine, point)
    appliance.kill()
    wait_until(20, lambda: not pathlib.Path(f"/proc/{pid}").exists(),
               "the machine outlives the daemon")
    appliance.start()
    found = appliance.call("job", "watch", str(job))["job"]
    check(found["state"] == "done" and found["result"]["verdict"] == "passed", f"the job: {found}")
    check(len(machines_running(appliance)) == 1, "not one machine runs")
    appliance.kill()
    appliance.start()
    found = appliance.call("drill", "show", str(job))["drill"]
    check(found["state"] == "ended" and found["verdict"] == "passed",
          f"a drill whose machine went with the daemon: {found}")
    appliance.call("drill", "cleanup", str(job))


def canceled(appliance, machine, point):
    step("a drill is canceled")
    job, _ = begin(appliance, machine, point)
    appliance.call("job", "cancel", str(job))
    appliance.run("job", "watch", str(job))
    state = appliance.call("job", "show", str(job))["job"]["state"]
    check(state == "canceled", f"the job is {state}")
    check(not machines_running(appliance), "its machine runs on")
    check(not appliance.call("clone", "list")["clones"], "its clone is there")
    check(appliance.call("drill", "show", str(job))["drill"]["state"] == "ended",
          "the drill has not ended")


def other_hardware(appliance, efi, bios, point):
    step("UEFI, from an NVMe disk")
    appliance.stop()
    appliance.settings["local"]["disks"] = "nvme"
    appliance.write_config()
    appliance.start()
    efi.write()
    found = drill(appliance, efi.name)
    log = pathlib.Path(found["log"]).read_text(encoding="utf-8", errors="replace")
    check(found["verdict"] == "passed" and "firmware: uefi" in log and
          "disks: nvme0n1 nvme1n1" in log, f"the drill: {found}\n{log[-1500:]}")
    appliance.call("drill", "cleanup", str(found["id"]))
    step("BIOS, from a SCSI disk, without a network")
    appliance.stop()
    appliance.settings["local"].update(disks="scsi", network="none")
    appliance.write_config()
    appliance.start()
    found = drill(appliance, bios.name, "--point", str(point["number"]))
    log = pathlib.Path(found["log"]).read_text(encoding="utf-8", errors="replace")
    check(found["verdict"] == "passed" and "disks: sda sdb" in log, f"the drill: {found}\n{log}")


def by_policy(appliance, machine):
    """The newest point of `machine` does not come up; then it cannot even be tried."""
    step("by policy, and told of when it fails")
    before = len(appliance.call("drill", "list", machine.name)["drills"])
    appliance.call("policy", "set", "drilled", "drill-interval=10s")
    alert = appliance.wait_alert(machine.name, "drill-failed", 90)
    check("Kernel panic" in alert["cause"], f"the alert: {alert}")
    newest = wait_until(60, lambda: [d for d in appliance.call(
        "drill", "list", machine.name)["drills"][:-before or None] if d["state"] == "ended"],
        "no drill was made by the policy, and cleaned up")[0]
    check(newest["verdict"] == "failed", f"the policy's drill: {newest}")
    appliance.call("policy", "set", "drilled", "drill-interval=0")
    wait_until(60, lambda: not machines_running(appliance), "the policy's machine runs on")


def bad_input(appliance, machine):
    step("what cannot be")
    appliance.refused(3, "drill", "start", "nobody", says="no machine")
    appliance.refused(3, "drill", "start", machine.name, "--point", "4711", says="4711")
    appliance.refused(2, "drill", "start", machine.name, "--target", "moon", says="moon")
    appliance.refused(3, "drill", "cleanup", "4711", says="no drill 4711")
    appliance.refused(2, "drill", "show", "x", says="number")


def test(work):
    image = make_image(work, "drill_init.sh", bootdisk.MODULES)
    bios, uefi = work / "bios.raw", work / "uefi.raw"
    bootdisk.make_bios_disk(bios, image, "as of the first point")
    bootdisk.make_uefi_disk(uefi, image, "as of UEFI")
    appliance = Appliance(BUILD, work, policies=POLICY)
    appliance.settings["local"] = {"memory": "512M", "acceleration": "emulation",
                                   "probe": "serial:login: *$", "probe_timeout": "4m"}
    appliance.write_config()
    with appliance:
        appliance.call("policy", "set", "drilled", *DRILLED)
        web = Machine(appliance, "web", bios, "--policy", "drilled")
        efi = Machine(appliance, "efi", uefi)
        point = comes_up(appliance, web, bios)
        killed(appliance, web, point)
        canceled(appliance, web, point)
        fails(appliance, web, bios)
        by_policy(appliance, web)
        bad_input(appliance, web)
        other_hardware(appliance, efi, web, point)


run_test(test)
