#!/usr/bin/env python3
"""A source that restarts, in order and under its writes: a guest with landfall-agent, which
replicates an ext4 filesystem and a raw disk over the network to an appliance of this machine.

What is written before the agent is there again was seen by nobody, so it compares by hashes. Old
recovery points stay what they were all along; what is sent is what differs, page by page;
afterwards the replica is the source, byte for byte.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import MIB, check, need, run_test, step  # noqa: E402
from guest import Disk  # noqa: E402
from source import PAGE, replicated_guest  # noqa: E402

POLICY = {"default": {"point-interval": "3s", "vault-interval": "15s", "retention": "all:1h",
                      "rpo-alert": "2h"}}
# The agent sends what lies between two pages that differ if it is less.
GAP_PAGES = 16
# What the agent's own cuts write to the filesystem while what was sent is counted.
SLACK = MIB // 4


def joined(pages):
    """How many pages are sent for these, [(disk, number)]: within a chunk, small gaps too."""
    count, last = 0, None
    for disk, page in pages:
        near = last and last[0] == disk and page * PAGE // MIB == last[1] * PAGE // MIB and \
            page - last[1] <= GAP_PAGES
        count += page - last[1] if near else 1
        last = (disk, page)
    return count


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
    # While the filesystem is in use
    verdict = replica.appliance.call("verify", "web")["job"]["result"]
    check(verdict["verdict"] == "verified" and verdict["differing_bytes"] == 0, f"{verdict}")
    # A cut may have it open just now, but not for longer
    source.guest.do("n=0; until umount /m 2>/dev/null || [ $n = 50 ]; do n=$((n + 1)); sleep 0.1; "
                    "done; [ $n -lt 50 ]")
    point = replica.appliance.create_point("web")
    replica.check_same(point)
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
    disks = {"data": Disk(work, "vdata", 192), "raw": Disk(work, "nraw", 64, "nvme")}
    with replicated_guest(work, "reboot", POLICY, disks.values(), disks, reboots=True) as \
            (guest, source, replica):
        first_sync(source, replica)
        restart(source, replica, "clean", lambda: clean(source))
        equal_at_rest(source, replica, "clean")
        restart(source, replica, "unclean", lambda: guest.monitor.call("system_reset"))
        equal_at_rest(source, replica, "unclean")
        replica.appliance.check_vault(orphans=2)


if __name__ == "__main__":
    run_test(test)
