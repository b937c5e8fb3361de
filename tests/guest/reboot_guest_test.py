#!/usr/bin/env python3
"""A source that restarts, in order and under its writes: a guest with landfall-agent, which
replicates an ext4 filesystem and a raw disk over the network to an appliance of this machine.

What is written before the agent is there again was seen by nobody, so it compares by hashes. Old
recovery points stay what they were all along; what is sent is what differs, page by page;
afterwards the replica is the source, byte for byte.
"""

import contextlib
import hashlib
import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, need,  # noqa: E402
                       run_test, shell, step, wait_until)
from guest import Disk, Guest, make_image  # noqa: E402

MODULES = ("virtio_pci virtio_blk virtio_net virtio_scsi sd_mod nvme ext4 crc32c_generic "
           "crc32c-intel libcrc32c").split()
NETWORK = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
POLICY = {"default": {"point-interval": "3s", "vault-interval": "15s", "retention": "all:1h",
                      "rpo-alert": "2h"}}
PAGE = 4096
# The agent sends what lies between two pages that differ if it is less.
GAP_PAGES = 16
# What the agent's own cuts write to the filesystem while what was sent is counted.
SLACK = MIB // 4
BOOT_S, WAIT_S = 90, 120


def pieces(path, size):
    """The first `size` bytes of a file, a MiB at a time."""
    with open(path, "rb") as file:
        for at in range(0, size, MIB):
            data = file.read(min(MIB, size - at))
            check(len(data) == min(MIB, size - at), f"{path} ends before {size} bytes")
            yield data


def joined(pages):
    """How many pages are sent for these, [(disk, number)]: within a chunk, small gaps too."""
    count, last = 0, None
    for disk, page in pages:
        near = last and last[0] == disk and page * PAGE // MIB == last[1] * PAGE // MIB and \
            page - last[1] <= GAP_PAGES
        count += page - last[1] if near else 1
        last = (disk, page)
    return count


class Replica:
    """The guest's disks as the appliance has them."""

    def __init__(self, appliance, disks):
        self.appliance, self.disks, self.kept = appliance, disks, {}

    def path(self, point, name):
        return f"{self.appliance.mount}/web/points/{point['name']}/{name}.vhd"

    def received(self):
        return self.appliance.machine("web")["agent"]["received_bytes"]

    def digests(self, point):
        found = {}
        for name, disk in self.disks.items():
            digest = hashlib.blake2b()
            for data in pieces(self.path(point, name), disk.size):
                digest.update(data)
            found[name] = digest.hexdigest()
        return found

    def keep(self, point):
        """Remembers what a point is from now on."""
        self.kept[point["name"]] = (point, self.digests(point))

    def check_kept(self):
        """All points that are kept are listed and are what they were."""
        listed = {point["name"] for point in self.appliance.points("web")}
        for name, (point, digests) in self.kept.items():
            check(name in listed, f"the point {name} is gone")
            check(self.digests(point) == digests, f"the point {name} is not what it was")

    def check_proofs(self):
        """The appliance proves them too, and their filesystems are whole."""
        for point, _ in self.kept.values():
            self.appliance.verify("web", str(point["number"]))
            shell("e2fsck", "-fn", self.path(point, "data"))

    def differing(self, point):
        """[(disk, number of the page)] of what the disks do not have as the point has it."""
        pages = []
        for name, disk in self.disks.items():
            both = zip(pieces(self.path(point, name), disk.size), pieces(disk.path, disk.size))
            for first, (there, here) in zip(range(0, disk.size, MIB), both):
                if there != here:
                    pages += [(name, (first + at) // PAGE) for at in range(0, len(here), PAGE)
                              if there[at:at + PAGE] != here[at:at + PAGE]]
        return pages


class Source:
    """The guest and the agent in it."""

    def __init__(self, guest, appliance):
        self.guest, self.appliance = guest, appliance
        self.host = f"10.0.2.2:{appliance.agent_port()}"

    def come_up(self, mkfs=False):
        up = self.guest.line(r"@up (.*)", BOOT_S)
        print(f"the guest is up after {up[1]} s", flush=True)
        self.guest.do("state=$(disk vstate) data=$(disk vdata) raw=$(disk nraw)")
        if mkfs:
            self.guest.do("mkfs.ext4 -q $state && mkfs.ext4 -q -E lazy_itable_init=0,"
                          "lazy_journal_init=0 $data")
        self.guest.do("mkdir -p /state && mount -t ext4 $state /state && mount -t ext4 $data /m")

    def enroll(self):
        key = self.appliance.call("key", "create", "--machine", "web")["text"]
        self.guest.do(f"landfall-agent enroll --appliance {self.host} --machine web --key {key} "
                      "--state-dir /state/agent")

    def start_agent(self):
        """Its log goes to where the kernel's goes, so that it is kept whatever happens."""
        self.guest.do("landfall-agent run --state-dir /state/agent --status-file /tmp/status "
                      "--disk data=$data --disk raw=$raw </dev/null >/dev/ttyS1 2>&1 & agent=$!")

    def stop_agent(self):
        self.guest.do("kill $agent && wait $agent")

    def status(self):
        self.guest.do("kill -0 $agent")
        return json.loads(self.guest.do("cat /tmp/status 2>/dev/null || echo {}"))

    def wait_replicating(self, meanwhile=lambda: None):
        def at():
            meanwhile()
            return self.status().get("state") in ("replicating", "freezing")
        wait_until(WAIT_S, at, lambda: f"the agent does not replicate: {self.status()}")

    def load(self):
        """Writes to files in four ways and to the raw disk, until unload()."""
        self.guest.do("loads=; for how in direct buffered mmap punch; do "
                      "capture_load $how /m/$how 600 20 & loads=\"$loads $!\"; done")
        self.guest.do("( i=0; while :; do i=$(((i * 7 + 13) % 191)); dd if=/dev/urandom of=$raw "
                      "bs=64k count=2 seek=$((64 + i * 2)) oflag=direct conv=notrunc 2>/dev/null; "
                      "sleep 0.1; done ) & loads=\"$loads $!\"")

    def unload(self):
        self.guest.do("kill $loads; wait $loads; sync")

    def write_unseen(self, name):
        self.guest.do(f"dd if=/dev/urandom of=/m/{name} bs=64k count=24 2>/dev/null && dd "
                      "if=/dev/urandom of=$raw bs=64k count=8 oflag=direct conv=notrunc "
                      "2>/dev/null && sync")

    def whole(self):
        """[(disk, chunks that differed, chunks compared)] as the agent's log has them so far."""
        text = self.guest.kernel_log.read_text(encoding="utf-8", errors="replace")
        return [(name, int(differed), int(of)) for name, differed, of in
                re.findall(r"disk (\w+) is whole: (\d+) of (\d+) chunks differed", text)]


def first_sync(source, replica):
    step("the guest is protected")
    source.come_up(mkfs=True)
    source.guest.do("dd if=/dev/urandom of=/m/old bs=1M count=12 2>/dev/null && dd "
                    "if=/dev/urandom of=$raw bs=1M count=16 2>/dev/null && sync")
    source.enroll()
    source.start_agent()
    source.wait_replicating()
    replica.keep(replica.appliance.create_point("web", wait="vault"))


def restart(source, replica, name, go_down):
    """One restart, from load to load."""
    step(f"{name}: points under load")
    losses = source.guest.kernel_log.read_text(errors="replace").count("may have been missed (")
    source.load()
    time.sleep(4)
    replica.keep(replica.appliance.create_point("web"))
    time.sleep(2)
    go_down()
    step(f"{name}: it goes down")
    newest = max(replica.appliance.points("web"), key=lambda point: point["number"])
    replica.keep(newest)
    replica.check_kept()
    whole = len(source.whole())
    source.come_up()
    source.write_unseen(f"{name}-2")
    received = replica.received()
    differing = replica.differing(newest)
    pages, most = len(differing), joined(differing) * PAGE
    chunks = len({(disk, page * PAGE // MIB) for disk, page in differing})
    every = sum(disk.size for disk in replica.disks.values())
    check(pages > 0, "nothing differs")
    check(pages * PAGE < every // 4, f"{pages} pages differ: too many to tell a resync by")
    step(f"{name}: {pages} pages in {chunks} of {every // MIB} chunks differ; the agent is there again")
    source.start_agent()
    source.wait_replicating(replica.check_kept)
    sent = replica.received() - received
    compared = source.whole()[whole:]
    print(f"{sent >> 10} KiB were sent for {pages * PAGE >> 10} KiB that differed ({most >> 10} KiB "
          f"with small gaps); chunks: {compared}",
          flush=True)
    check({disk for disk, _, _ in compared} == set(replica.disks), f"compared were {compared}")
    check(sum(of for _, _, of in compared) == every // MIB, f"compared were {compared}")
    differed = sum(differed for _, differed, _ in compared)
    check(differed <= chunks, f"{differed} chunks differed of {chunks}")
    check(sent <= most + SLACK, f"{sent} bytes were sent where {most} would do")
    now = source.guest.kernel_log.read_text(errors="replace").count("may have been missed (")
    check(now == losses, "the agent distrusts its capture")


def equal_at_rest(source, replica, name):
    step(f"{name}: the replica is the source")
    # A cut may have it open just now, but not for longer
    source.guest.do("n=0; until umount /m 2>/dev/null || [ $n = 50 ]; do n=$((n + 1)); sleep 0.1; "
                    "done; [ $n -lt 50 ]")
    point = replica.appliance.create_point("web")
    pages = replica.differing(point)
    check(not pages, f"of {point}, {len(pages)} pages differ: {pages[:8]}")
    verdict = replica.appliance.call("verify", "web")["job"]["result"]
    check(verdict["verdict"] == "verified" and verdict["differing_bytes"] == 0, f"{verdict}")
    replica.keep(point)
    replica.check_kept()
    replica.check_proofs()
    source.guest.do("mount -t ext4 $data /m")


def clean(source):
    """As a service manager would; what is written after the agent's end nobody sees."""
    source.unload()
    source.stop_agent()
    source.write_unseen("clean-1")
    source.guest.do("umount /m /state && sync")
    source.guest.tell("reboot -f")


def test(work):
    need("e2fsck", "mke2fs")
    image = make_image(work, "shell_init.sh", MODULES, ["mke2fs"],
                       [BUILD / "landfall-agent", BUILD / "tests" / "capture_load"])
    disks = {"data": Disk(work, "vdata", 192), "raw": Disk(work, "nraw", 64, "nvme")}
    with contextlib.ExitStack() as parts:
        service = parts.enter_context(StrictService(work))
        appliance = parts.enter_context(
            Appliance(BUILD, work, service.connection_string, policies=POLICY,
                      listen="127.0.0.1:0"))
        appliance.call("vault", "init")
        appliance.call("machine", "add", "web", "--source", "agent")
        guest = parts.enter_context(
            Guest(work, "reboot", image, [Disk(work, "vstate", 32), *disks.values()],
                  words=NETWORK, reboots=True))
        source, replica = Source(guest, appliance), Replica(appliance, disks)
        first_sync(source, replica)
        restart(source, replica, "clean", lambda: clean(source))
        equal_at_rest(source, replica, "clean")
        restart(source, replica, "unclean", lambda: guest.monitor.call("system_reset"))
        equal_at_rest(source, replica, "unclean")
        appliance.check_vault(orphans=2)


if __name__ == "__main__":
    run_test(test)
