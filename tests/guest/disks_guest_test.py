#!/usr/bin/env python3
"""Disks that are plugged into a running source, grow and are pulled out: a guest with
landfall-agent, which is told no disk and protects all but the one with its own state.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import check, run_test, step, wait_until  # noqa: E402
from guest import Disk  # noqa: E402
from source import replicated_guest  # noqa: E402

POLICY = {"default": {"point-interval": "1h", "vault-interval": "1h", "rpo-alert": "2h"}}


def protected(appliance):
    return {disk["id"]: disk for disk in appliance.machine("web")["agent"]["disks"]}


def wait_whole(appliance, name, size):
    def at():
        disk = protected(appliance).get(name, {})
        return disk.get("state") == "whole" and disk["size_bytes"] == size
    wait_until(90, at, lambda: f"{name} is not protected whole: {protected(appliance)}")


def write(source, device, mib, seek=0):
    source.guest.do(f"dd if=/dev/urandom of={device} bs=1M count={mib} seek={seek} conv=notrunc "
                    "oflag=direct 2>/dev/null")


def equal(replica):
    point = replica.appliance.create_point("web")
    replica.check_same(point)
    replica.keep(point)
    replica.check_kept()


def begins(source, replica, disk):
    step("all disks are protected but the one that is excluded")
    source.come_up(mkfs=True)
    source.guest.do("umount /m")
    source.enroll()
    write(source, "$raw", 8)
    source.start_agent("--exclude vstate")
    source.wait_replicating()
    names = {name: source.guest.do(f"basename ${name}").strip() for name in ("data", "raw", "state")}
    wait_whole(replica.appliance, names["raw"], disk.size)
    wait_whole(replica.appliance, names["data"], replica.disks.pop("data").size)
    replica.disks[names["raw"]] = disk
    check(names["state"] not in protected(replica.appliance), "an excluded disk is protected")
    equal(replica)


def plugged(source, replica, disk, monitor):
    step("a disk is plugged in")
    disk.plug(monitor)
    device = source.guest.do("disk vnew").strip()
    name = device.removeprefix("/dev/")
    write(source, device, 6, 3)
    wait_whole(replica.appliance, name, disk.size)
    replica.disks[name] = disk
    write(source, device, 2, 20)
    equal(replica)
    return device


def grown(source, replica, device, disk, monitor):
    step("it grows")
    disk.grow(monitor, 48)
    wait_until(30, lambda: source.guest.do(f"cat /sys/block/{device[5:]}/size").strip() ==
               str(disk.size // 512), "the guest does not see it grow")
    write(source, device, 2, 40)
    wait_whole(replica.appliance, device[5:], disk.size)
    equal(replica)


def pulled(source, replica, device, disk, monitor):
    step("it is pulled out; the others' points go on")
    disk.pull(monitor)
    wait_until(30, lambda: source.guest.do(f"ls /sys/block/{device[5:]} >/dev/null 2>&1; "
                                           "echo $?").strip() != "0", "the guest keeps it")
    alert = replica.appliance.wait_alert("web", "agent-failing", 60)
    print(alert["cause"], flush=True)
    replica.disks.pop(device[5:])
    write(source, "$raw", 1, 16)
    equal(replica)
    replica.check_proofs()


def test(work):
    raw, data, new = Disk(work, "nraw", 32, "nvme"), Disk(work, "vdata", 16), Disk(work, "vnew", 32)
    with replicated_guest(work, "disks", POLICY, [data, raw], {"data": data}) as \
            (guest, source, replica):
        begins(source, replica, raw)
        device = plugged(source, replica, new, guest.monitor)
        grown(source, replica, device, new, guest.monitor)
        pulled(source, replica, device, new, guest.monitor)


if __name__ == "__main__":
    run_test(test)
