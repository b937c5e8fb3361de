"""A guest with landfall-agent, whose disks an appliance of this machine replicates.

The guest runs shell_init.sh and has the disks vstate (the agent's state), vdata (an ext4 filesystem)
and nraw.
"""

import contextlib
import hashlib
import json
import pathlib
import re

from agent import received_bytes
from appliance import BUILD, MIB, Appliance, StrictService, check, shell, wait_until
from guest import Disk, Guest, make_image

MODULES = ("virtio_pci virtio_blk virtio_net virtio_scsi sd_mod nvme ext4 crc32c_generic "
           "crc32c-intel libcrc32c").split()
NETWORK = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
PAGE = 4096
BOOT_S, WAIT_S = 90, 120


def pieces(path, size):
    """The first `size` bytes of a file, a MiB at a time."""
    with open(path, "rb") as file:
        for at in range(0, size, MIB):
            data = file.read(min(MIB, size - at))
            check(len(data) == min(MIB, size - at), f"{path} ends before {size} bytes")
            yield data


@contextlib.contextmanager
def replicated_guest(work, name, policies, disks, protected, **options):
    """A guest with these disks beside vstate, and an appliance that knows it as the machine web:
    (guest, its Source, its Replica). `protected`: {name: disk} of those that are replicated from the
    beginning."""
    image = make_image(work, "shell_init.sh", MODULES, ["mke2fs"],
                       [BUILD / "landfall-agent", BUILD / "tests" / "capture_load"])
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=policies,
                      listen="127.0.0.1:0") as appliance:
        appliance.call("vault", "init")
        appliance.call("machine", "add", "web", "--source", "agent")
        with Guest(work, name, image, [Disk(work, "vstate", 32), *disks], words=NETWORK,
                   **options) as guest:
            yield guest, Source(guest, appliance), Replica(appliance, protected)


class Replica:
    """The guest's disks as the appliance has them."""

    def __init__(self, appliance, disks):
        self.appliance, self.disks, self.kept = appliance, disks, {}

    def path(self, point, name):
        return f"{self.appliance.mount}/web/points/{point['name']}/{name}.vhd"

    def received(self):
        return received_bytes(self.appliance)

    def check_same(self, point):
        """The point is what the disks hold."""
        pages = self.differing(point)
        check(not pages, f"of {point}, {len(pages)} pages differ: {pages[:8]}")

    def digests(self, point):
        found = {}
        for path in sorted(pathlib.Path(self.path(point, "any")).parent.glob("*.vhd")):
            digest = hashlib.blake2b()
            for data in pieces(path, path.stat().st_size):
                digest.update(data)
            found[path.name] = digest.hexdigest()
        check(found, f"the point {point['name']} shows no disk")
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
            for path in sorted(pathlib.Path(self.path(point, "any")).parent.glob("data.vhd")):
                shell("e2fsck", "-fn", path)

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

    def start_agent(self, words="--disk data=$data --disk raw=$raw"):
        """Its log goes to where the kernel's goes, so that it is kept whatever happens."""
        self.guest.do("landfall-agent run --state-dir /state/agent --status-file /tmp/status "
                      f"{words} </dev/null >/dev/ttyS1 2>&1 & agent=$!")

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
