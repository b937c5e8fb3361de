#!/usr/bin/env python3
"""An instance is replicated without an agent, from discovery to points that equal its volumes.

Two volumes, one with a BIOS's partition table and ext4, one with GPT, ext4, xfs and NTFS. The
argument:
  cycles   first synchronisation, deltas, blocks that are gone, a lost line, a resync, growing,
           takeover by another appliance: every point equals the volumes at their snapshot, byte by
           byte, and a delta reads just the changed blocks
  large    a first synchronisation larger than the journal, and kill -9 in the middle of it; then a
           delta larger than the journal
  volumes  volumes that are attached, detached, taken in and left out later
  refused  what AWS refuses is told, with what it was asked and what to do; and passes
  clock    AWS's clock is behind: intervals and figures are the appliance's own
  faults   the same with everything that can go wrong at AWS going wrong, and kill -9 while copying
"""

import errno
import json
import os
import pathlib
import random
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from appliance import (BUILD, MIB, Appliance, StrictService, check, need, run_test, shell, step,
                       wait_until)
from aws import BLOCK, GIB, Aws

FAULTS = [
    {"match": {"operation": "ListSnapshotBlocks"}, "fault": {"kind": "empty_page"}, "times": 2},
    {"match": {"operation": "ListChangedBlocks"}, "fault": {"kind": "empty_page"}, "times": 2},
    {"match": {"operation": "List*Blocks"}, "fault": {"kind": "short_page", "items": 2},
     "probability": 0.3},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "corrupt"}, "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "wrong_checksum"},
     "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "truncate"}, "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "short"}, "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "reset"}, "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"},
     "fault": {"kind": "status", "status": 503, "code": "ServiceUnavailable"}, "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"},
     "fault": {"kind": "status", "status": 500, "code": "InternalServerException"},
     "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"},
     "fault": {"kind": "status", "status": 400, "code": "RequestThrottledException"},
     "probability": 0.03},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "expire_block_tokens"},
     "skip": 40, "times": 2},
    {"match": {"operation": "List*Blocks"}, "fault": {"kind": "expire_page_tokens"}, "skip": 3,
     "times": 2},
    {"match": {"operation": "CreateSnapshots"}, "fault": {"kind": "reset", "applied": True}},
    {"match": {"operation": "CreateSnapshots"}, "fault": {"kind": "end_in_error"}, "skip": 1},
    {"match": {"operation": "DescribeSnapshots"}, "fault": {"kind": "reset"}, "probability": 0.1},
    {"match": {"operation": "GetSnapshotBlock"}, "fault": {"kind": "expire_credentials"},
     "skip": 25, "times": 3},
    {"match": {"operation": "DeleteSnapshot"}, "fault": {"kind": "reset", "applied": True},
     "probability": 0.3},
]


class Partitions:
    """A volume's partitions as loop devices."""

    def __init__(self, volume):
        self.volume, self.loop = volume, None

    def __enter__(self):
        self.loop = shell("losetup", "--show", "--find", "--partscan", self.volume.path).strip()
        return self

    def __exit__(self, *_):
        subprocess.run(["losetup", "-d", self.loop], check=False, capture_output=True)

    def part(self, number):
        path = f"{self.loop}p{number}"
        subprocess.run(["partx", "--update", self.loop], check=False, capture_output=True)
        wait_until(10, lambda: os.path.exists(path), f"no partition {path}")
        return path


def fill(work, device, name, bytes_wanted):
    """Puts real files onto a filesystem."""
    at = pathlib.Path(work) / f"mnt-{name}"
    at.mkdir(exist_ok=True)
    shell("mount", device, at)
    try:
        done = 0
        for source in sorted(pathlib.Path("/usr/bin").iterdir()):
            if not source.is_file() or done > bytes_wanted or source.stat().st_size > 2 * MIB:
                continue
            data = source.read_bytes()
            (at / source.name).write_bytes(data)
            done += len(data)
    finally:
        shell("umount", at)


def make_disks(work, machine):
    """What a BIOS boots from, and a disk of data."""
    root, data = machine.volumes
    shell("sfdisk", "-q", root.path, input="label: dos\n,600M,83,*\n,,82\n")
    shell("sfdisk", "-q", data.path, input="label: gpt\n,300M,L\n,400M,L\n,,"
          "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n")
    with Partitions(root) as disk:
        shell("mkfs.ext4", "-q", "-E", "nodiscard", disk.part(1))
        fill(work, disk.part(1), "root", 12 * MIB)
    with Partitions(data) as disk:
        shell("mkfs.ext4", "-q", "-E", "nodiscard", disk.part(1))
        shell("mkfs.xfs", "-q", "-K", disk.part(2))
        fill(work, disk.part(1), "logs", 4 * MIB)
        fill(work, disk.part(2), "data", 8 * MIB)
        shell("mkntfs", "--quick", "--quiet", disk.part(3))
        for name in ("bash", "tar"):
            shell("ntfscp", "--quiet", disk.part(3), f"/usr/bin/{name}", name)
    for volume in machine.volumes:
        volume.settle()


class Replication:
    """A machine, its appliance, and what each of its points must show."""

    def __init__(self, work, aws, appliance, machine):
        self.work, self.aws, self.appliance, self.machine = work, aws, appliance, machine
        self.copies = {}
        self.dice = random.Random(7)

    def point(self, wait="local"):
        """Makes a point of the machine at rest, and compares it with its volumes."""
        number = self.appliance.call("point", "create", "web", "--wait", wait)["point"]["number"]
        self.copies[number] = []
        for volume in self.machine.volumes:
            copy = self.work / f"copy-{number}-{volume.disk}"
            volume.copy(copy)
            self.copies[number].append((volume.disk, copy))
        self.compare(number)
        return number

    def compare(self, number):
        point = self.appliance.call("point", "show", "web", number)["point"]
        for disk, copy in self.copies[number]:
            size = os.stat(copy).st_size
            done = subprocess.run(["cmp", "-n", str(size), copy, f"{point['path']}/{disk}.vhd"],
                                  capture_output=True, text=True, check=False)
            check(done.returncode == 0, f"point {number}, {disk}: {done.stdout}{done.stderr}")

    def compare_all(self):
        """Every point that is still there."""
        there = {p["number"] for p in self.appliance.points("web")} & set(self.copies)
        for number in sorted(there):
            self.compare(number)
        return sorted(there)

    def change(self, count=12):
        """Writes here and there, and lets a block go; returns {volume: changed blocks}."""
        changed = {}
        for volume in self.machine.volumes:
            before = volume.blocks()
            for _ in range(count):
                at = self.dice.randrange(0, GIB // 4096) * 4096
                volume.write(at, self.dice.randbytes(self.dice.choice((512, 4096, 70000))))
            volume.punch(self.dice.choice(sorted(before)))
            after = volume.blocks()
            changed[volume.id] = {i for i, data in after.items() if before.get(i) != data}
        return changed

    def status(self):
        return self.appliance.machine("web")["ebs"]

    def alerts(self):
        return set(self.appliance.alerts("web"))

    def newest(self):
        return max(point["number"] for point in self.appliance.points("web"))

    def newer(self, number):
        """The newest point if it is newer than that; while the group is opened again, nothing."""
        listed = self.appliance.run("point", "list", "web")
        points = json.loads(listed.stdout)["points"] if listed.returncode == 0 else []
        return points[-1] if points and points[-1]["number"] > number else None

    def bases(self):
        return {v["id"]: v["base"] for v in self.status()["volumes"]}


def open_appliance(work, service, aws, role=False, interval="0", **options):
    appliance = Appliance(BUILD, work, service.connection_string, cache_size="0", policies={
        "default": {"point-interval": interval, "vault-interval": interval if interval != "0"
                    else "1s"}}, **options)
    aws.give(appliance, role)
    return appliance


def discover_and_add(appliance, aws, machine):
    found = appliance.call("machine", "discover", "--private-ip", machine.private_ip,
                           "--tag", "Name=web")["instances"]
    check([i["id"] for i in found] == [machine.id], f"discovered: {found}")
    check([(v["device"], v["size_bytes"]) for v in found[0]["volumes"]] ==
          [("/dev/xvda", GIB), ("/dev/xvdb", GIB)] and found[0]["boot_mode"] == "legacy-bios",
          f"discovered: {found}")
    check(appliance.call("machine", "discover", "--tag", "Name=db")["instances"] == [],
          "a tag does not choose")
    add = ("machine", "add", "web", "--source", "ebs")
    appliance.refused(3, *add, "--instance", "i-0123456789abcdef0", says="i-0123456789abcdef0")
    appliance.refused(3, *add, "--instance", machine.id, "--exclude-volume", "vol-0", says="vol-0")
    appliance.refused(2, *add, "--instance", machine.id, "--private-ip", "10.0.0.7", says="one of")
    added = appliance.call(*add, "--private-ip", machine.private_ip)["machine"]
    check([(d["id"], d["size_bytes"]) for d in added["disks"]] == [("xvda", GIB), ("xvdb", GIB)],
          f"added with {added['disks']}")
    check(added["ebs"]["instance"] == machine.id and
          0 < added["ebs"]["first_sync_price_usd"] < 0.02, f"added: {added['ebs']}")
    appliance.refused(5, "machine", "add", "other", "--source", "ebs", "--group", "web",
                      "--instance", machine.id, says="one moment")
    check(appliance.call("machine", "discover")["instances"][0]["machine"] == "web",
          "discovery does not tell what is a machine already")


def check_first(r):
    step("first synchronisation")
    data = sum(len(v.blocks()) for v in r.machine.volumes)
    r.point("vault")
    ebs = r.status()
    check(ebs["last_cycle"]["fetched_bytes"] == data * BLOCK, f"{data} blocks: {ebs}")
    check(ebs["last_cycle"]["written_bytes"] < data * BLOCK, f"zeros cost journal: {ebs}")
    check(ebs["requests"]["get_snapshot_block"] == data and ebs["requests"]["price_usd"] > 0,
          f"requests: {ebs['requests']}")
    check(ebs["compared_because"] is None, f"a first synchronisation is news: {ebs}")
    rpo = r.appliance.machine("web")["rpo_local_s"]
    check(0 < rpo < 60, f"rpo {rpo}")


def check_deltas(r, rounds, exact=True):
    for i in range(rounds):
        step(f"delta {i + 1}")
        changed = r.change()
        r.point("vault" if i % 2 else "local")
        bases, reads = r.bases(), r.aws.read_blocks()
        for volume in r.machine.volumes:
            got = reads.get(bases[volume.id], {})
            check(set(got) == changed[volume.id], f"{volume.disk}: read {sorted(got)} instead of "
                  f"{sorted(changed[volume.id])}")
            check(not exact or set(got.values()) <= {1}, f"blocks were read again: {got}")
        check(len(r.aws.snapshots()) == 2 or not exact, f"alive: {r.aws.snapshots()}")


def check_lost_line(r):
    step("the base is deleted: all is compared, and it says so")
    r.change()
    for base in r.bases().values():
        r.aws.admin("/snapshot/delete", {"id": base})
    r.aws.admin("/settings", {"blocks_per_s": 10})
    request = subprocess.Popen([r.appliance.build / "landfall", "--socket", r.appliance.socket,
                                "point", "create", "web"], stdout=subprocess.DEVNULL)
    alert = r.appliance.wait_alert("web", "full-comparison")
    check("snap-" in alert["cause"], f"the alert does not tell why: {alert}")
    far = wait_until(30, lambda: (r.status()["progress"] or {}).get("left_s") and
                     r.status()["progress"], lambda: f"no progress is told: {r.status()}")
    check(0 < far["reached_bytes"] < far["size_bytes"] == 2 * GIB, f"progress: {far}")
    told = r.appliance.run("status", "web", json_output=False).stdout
    check("of 2.00 GiB" in told and " left" in told, f"status says {told}")
    r.aws.admin("/settings", {"blocks_per_s": 0})
    check(request.wait(60) == 0, "the point was not made")
    r.point("vault")
    wait_until(10, lambda: "full-comparison" not in r.appliance.alerts("web"),
               "the alert stays")


def check_lost_set(r):
    step("a set is deleted while it is being copied: nothing of it stays in the next point")
    volume = r.machine.volumes[0]
    held = volume.blocks()
    chosen = sorted(held)[:12]
    for index in chosen:
        volume.write(index * BLOCK, r.dice.randbytes(BLOCK))
    r.aws.admin("/settings", {"blocks_per_s": 5})
    newest = r.newest()
    request = subprocess.Popen([r.appliance.build / "landfall", "--socket", r.appliance.socket,
                                "point", "create", "web"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)

    def taken():
        """What is being copied, once some of it is in the journal."""
        copying = {v["id"]: v["snapshot"] for v in r.status()["volumes"]}
        reads = r.aws.read_blocks().get(copying[volume.id], {})
        return copying if set(chosen[:4]) <= set(reads) and len(reads) >= 6 else None

    copying = wait_until(30, taken, "nothing is copied")
    for snapshot in copying.values():
        r.aws.admin("/snapshot/delete", {"id": snapshot})
    # Between the base and the next set these blocks do not change, and AWS would not tell of them.
    for index in chosen:
        volume.write(index * BLOCK, held[index])
    r.aws.admin("/settings", {"blocks_per_s": 0})
    check(request.wait(60) == 0, "the point was not made")
    point = wait_until(60, lambda: r.newer(newest), "no point after it")
    r.copies[point["number"]] = [(v.disk, v.path) for v in r.machine.volumes]
    r.compare(point["number"])
    del r.copies[point["number"]]


def check_order(r):
    step("the set before is deleted after the point that needs it no more")
    r.change(3)
    bases = set(r.bases().values())
    r.aws.rules({"match": {"operation": "DeleteSnapshot"}, "times": 1,
                 "fault": {"kind": "delay", "delay_s": 8}})
    r.appliance.call("point", "create", "web")
    check(bases <= {s["id"] for s in r.aws.snapshots()}, "it was deleted before the point was sealed")
    wait_until(30, lambda: not bases & {s["id"] for s in r.aws.snapshots()}, "it stays")
    r.aws.admin("/rules/clear", {"seed": 1})


def check_resync(r):
    step("a resync reads all and writes nothing; a volume that grows")
    r.appliance.call("resync", "web")
    cycles = r.status()["cycles"]
    wait_until(30, lambda: r.status()["cycles"] > cycles, "no cycle after the resync")
    last = r.status()["last_cycle"]
    check(last["written_bytes"] == 0 and last["fetched_bytes"] > 20 * MIB, f"resync: {last}")
    volume = r.machine.volumes[1]
    r.aws.admin("/volume/grow", {"id": volume.id, "size_gib": 2})
    volume.write(GIB + 3 * MIB, b"grown" * 1000)
    r.point("vault")
    sizes = [d["size_bytes"] for d in r.appliance.machine("web")["disks"]]
    check(sizes == [GIB, 2 * GIB], f"sizes after growing: {sizes}")


def begin_anew(r):
    """All that the appliance had is lost, but for the vault, which it takes over."""
    r.appliance.lose_everything()
    subprocess.run(["umount", "-l", r.appliance.mount], check=False, capture_output=True)
    r.appliance.start()
    r.appliance.call("vault", "takeover")


def check_takeover(r):
    step("another appliance takes over, compares, and goes on")
    r.appliance.check_vault()
    begin_anew(r)
    seen = r.compare_all()
    check(len(seen) >= 3, f"only points {seen} are in the vault")
    r.change(3)
    r.point("vault")
    check(r.status()["last_cycle"]["written_bytes"] < 20 * MIB, f"after it: {r.status()}")
    check_deltas(r, 1, exact=False)


def tidy_and_check(r):
    """The sets that ended in an error or turned up late go after a minute."""
    step("one set is alive at the end")
    r.aws.admin("/rules/clear", {"seed": 2})
    r.aws.admin("/snapshots/age", {"s": 120})
    r.appliance.stop()
    r.appliance.start()
    r.point("vault")
    volumes = len(r.machine.volumes)
    wait_until(20, lambda: len(r.aws.snapshots()) == volumes,
               lambda: f"alive: {r.aws.snapshots()}")
    r.aws.check_witness(alive=volumes)
    check({s["id"] for s in r.aws.snapshots()} == set(r.bases().values()), "another set is alive")


def remove(r):
    step("removing the machine deletes its snapshots")
    r.appliance.call("machine", "remove", "web")
    r.aws.check_witness(alive=0)


def cycles(work):
    with StrictService(work) as service, Aws(work) as aws:
        machine = aws.machine(2, tags={"Name": "web"})
        make_disks(work, machine)
        appliance = open_appliance(work, service, aws)
        with appliance:
            appliance.call("vault", "init")
            discover_and_add(appliance, aws, machine)
            r = Replication(work, aws, appliance, machine)
            check_first(r)
            check_deltas(r, 2)
            check_lost_line(r)
            check_lost_set(r)
            check_order(r)
            check_resync(r)
            check_takeover(r)
            tidy_and_check(r)
            appliance.verify("web", "latest")
            remove(r)


def kill_while_copying(r):
    step("kill -9 while copying")
    r.change(40)
    r.aws.admin("/settings", {"blocks_per_s": 30})
    sets = r.aws.admin("/stats")["sets"]
    newest = r.newest()
    request = subprocess.Popen([r.appliance.build / "landfall", "--socket", r.appliance.socket,
                                "point", "create", "web"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    before = r.aws.admin("/stats")["blocks_read"]
    wait_until(30, lambda: r.aws.admin("/stats")["blocks_read"] > before + 10, "nothing is copied")
    r.appliance.kill()
    request.wait(120)
    subprocess.run(["umount", "-l", r.appliance.mount], check=False, capture_output=True)
    r.appliance.start()
    r.aws.admin("/settings", {"blocks_per_s": 0})
    point = wait_until(60, lambda: r.newer(newest), "no point after it")
    check(r.aws.admin("/stats")["sets"] == sets + 1, "the set that was begun was not gone on with")
    r.copies[point["number"]] = [(v.disk, v.path) for v in r.machine.volumes]
    r.compare(point["number"])
    del r.copies[point["number"]]


def journal_fails_while_copying(r, switch):
    step("the journal's disk fails while copying")
    r.change(40)
    r.aws.admin("/settings", {"blocks_per_s": 30})
    sets = r.aws.admin("/stats")["sets"]
    request = subprocess.Popen([r.appliance.build / "landfall", "--socket", r.appliance.socket,
                                "point", "create", "web"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    before, newest = r.aws.admin("/stats")["blocks_read"], r.newest()
    wait_until(30, lambda: r.aws.admin("/stats")["blocks_read"] > before + 5, "nothing is copied")
    switch.write_text(f"sync {errno.EIO}\n", encoding="ascii")
    r.appliance.wait_alert("web", "commit-failed")
    switch.unlink()
    r.aws.admin("/settings", {"blocks_per_s": 0})
    point = wait_until(90, lambda: r.newer(newest), "no point after it")
    request.wait(120)
    check(r.aws.admin("/stats")["sets"] == sets + 1, "the set that was begun was not gone on with")
    r.copies[point["number"]] = [(v.disk, v.path) for v in r.machine.volumes]
    r.compare(point["number"])
    del r.copies[point["number"]]


def faults(work):
    with StrictService(work) as service, Aws(work) as aws:
        machine = aws.machine(2, tags={"Name": "web"})
        make_disks(work, machine)
        appliance = open_appliance(work, service, aws, role=True)
        switch = work / "fault"
        appliance.environment.update({
            "LD_PRELOAD": str(BUILD / "tests" / "faultio.so"), "FAULTIO_SWITCH": str(switch),
            "FAULTIO_UNDER": ".seg",
            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")})
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "web", "--source", "ebs", "--instance", machine.id)
            r = Replication(work, aws, appliance, machine)
            aws.rules(*FAULTS)
            aws.admin("/settings", {"blocks_per_s": 150, "lists_per_s": 15, "calls_per_s": 15,
                                    "snapshot_interval_s": 4, "visible_s": 1})
            step("first synchronisation, with faults")
            r.point()
            check_deltas(r, 2, exact=False)
            kill_while_copying(r)
            journal_fails_while_copying(r, switch)
            check_deltas(r, 1, exact=False)
            fired = sum(rule["fired"] > 0 for rule in aws.admin("/rules"))
            check(fired >= 12, f"only {fired} kinds of fault came to pass")
            stats = aws.admin("/stats")
            for what in ("throttled", "expired_refused", "bad_block_tokens"):
                check(stats[what] > 0, f"nothing was {what}: {stats}")
            tidy_and_check(r)
            step("every point of the vault, read by an appliance that has nothing else")
            r.appliance.verify("web", "latest")
            begin_anew(r)
            check(len(r.compare_all()) >= 2, "the vault has not every point")


def change_much(machine, megabytes, seed):
    dice = random.Random(seed)
    for volume in machine.volumes:
        with open(volume.path, "r+b") as file:
            for _ in range(megabytes):
                file.seek(dice.randrange(0, GIB // MIB) * MIB)
                file.write(dice.randbytes(MIB))
        volume.settle()


def large(work):
    with StrictService(work) as service, Aws(work) as aws:
        machine = aws.machine(2, tags={"Name": "web"})
        change_much(machine, 400, 1)
        appliance = open_appliance(work, service, aws, journal_size="256M")
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "web", "--source", "ebs", "--instance", machine.id)
            r = Replication(work, aws, appliance, machine)
            step("first synchronisation, larger than the journal")
            request = subprocess.Popen([appliance.build / "landfall", "--socket", appliance.socket,
                                        "point", "create", "web"], stderr=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL)
            wait_until(120, lambda: appliance.machine("web")["flush"]["drained_bytes"] > 64 * MIB,
                       "nothing goes ahead to the vault")
            appliance.kill()
            request.wait(120)
            subprocess.run(["umount", "-l", appliance.mount], check=False, capture_output=True)
            step("kill -9, and on")
            appliance.start()
            wait_until(120, lambda: appliance.points("web"), "no point after it")
            r.point("vault")
            check(aws.admin("/stats")["sets"] == 2, "the first set was not gone on with")
            step("a delta larger than the journal")
            change_much(machine, 250, 2)
            r.point("vault")
            appliance.check_vault()
            aws.check_witness(alive=2)


def check_left_out(r, machine):
    """What was excluded in the beginning is no news; what is attached later is."""
    spare = machine.volumes.pop()
    add = ("machine", "add", "web", "--source", "ebs", "--instance", machine.id)
    added = r.appliance.call(*add, "--exclude-volume", spare.id)["machine"]
    check(added["ebs"]["left_out"] == [spare.id], f"added: {added['ebs']}")
    r.point()
    check({s["volume"] for s in r.aws.snapshots()} == {v.id for v in machine.volumes},
          f"snapshots of what is excluded: {r.aws.snapshots()}")
    check(not r.alerts() & {"volumes-new"}, f"an excluded volume is news: {r.alerts()}")
    step("a volume is attached: told, and not replicated before somebody says so")
    new = r.aws.attach(machine)
    new.write(5 * MIB, r.dice.randbytes(3 * MIB))
    machine.volumes.remove(new)
    first = r.point()
    alert = r.appliance.wait_alert("web", "volumes-new")
    check(new.id in alert["cause"] and f"machine volumes web --include {new.id}" in alert["mend"],
          f"the alert: {alert}")
    check([v["id"] for v in r.status()["not_replicated"]] == [new.id], f"status: {r.status()}")
    machine.volumes.append(new)
    return spare, new, first


def check_included(r, new, first):
    step("it is included: in the next point, the others by what changed")
    r.appliance.refused(3, "machine", "volumes", "web", "--include", "vol-0", says="vol-0")
    disks = r.appliance.call("machine", "volumes", "web", "--include", new.id)["machine"]["disks"]
    check([d["id"] for d in disks] == ["xvda", "xvdb", new.disk], f"disks: {disks}")
    wait_until(10, lambda: "volumes-new" not in r.alerts(), "the alert stays")
    changed = sum(map(len, r.change(3).values()))
    number = r.point("vault")
    last = r.status()["last_cycle"]
    check(last["fetched_bytes"] <= (changed + 6) * BLOCK, f"{changed} blocks changed: {last}")
    check(not r.status()["compared_because"] and "full-comparison" not in r.alerts(),
          f"a disk's first copy is news: {r.status()}")
    path = r.appliance.call("point", "show", "web", first)["point"]["path"]
    check(not os.path.exists(f"{path}/{new.disk}.vhd"), "a point from before shows it")
    return number


def limit(appliance, rate):
    """A reload, with another agent-bandwidth."""
    appliance.settings["policy default"]["agent-bandwidth"] = rate
    appliance.write_config()
    appliance.reload()
    wait_until(10, lambda: appliance.call("policy", "show", "default")["policy"]["settings"][
        "agent-bandwidth"] == rate, "the policy stays as it was")


def check_bandwidth(r):
    step("the policy's bandwidth holds for what is read from AWS")
    limit(r.appliance, "4M")
    volume = r.machine.volumes[0]
    volume.write(100 * MIB, r.dice.randbytes(20 * MIB))
    r.point()
    took = r.status()["last_cycle"]["took_s"]
    # A quarter of a second's worth goes in one burst.
    check(took > 4, f"20 MiB took {took} s at 4 MiB/s")
    limit(r.appliance, "same")
    volume.write(100 * MIB, r.dice.randbytes(20 * MIB))
    r.point()


def check_excluded(r, machine, number):
    step("a volume is excluded: older points have it, new ones do not; and included again")
    gone = machine.volumes.pop(1)
    r.appliance.call("machine", "volumes", "web", "--exclude", gone.id)
    r.compare(r.point("vault"))
    path = r.appliance.call("point", "show", "web", "latest")["point"]["path"]
    check(sorted(os.listdir(path)) == sorted(f"{v.disk}.vhd" for v in machine.volumes),
          f"the point has {os.listdir(path)}")
    r.compare(number)
    check("volumes-new" not in r.alerts(), "what was excluded is news")
    r.appliance.call("machine", "volumes", "web", "--include", gone.id)
    gone.disk = gone.id  # its name is another disk's in older points
    machine.volumes.append(gone)
    r.point("vault")
    r.compare(number)


def check_detached(r, machine, spare):
    step("a volume is detached: no points, until it is excluded")
    lost = machine.volumes[-1]
    r.aws.detach(machine, lost)
    request = subprocess.Popen([r.appliance.build / "landfall", "--socket", r.appliance.socket,
                                "point", "create", "web"], stdout=subprocess.DEVNULL)
    alert = r.appliance.wait_alert("web", "source-failing")
    check(lost.id in alert["cause"] and "machine volumes web --exclude" in alert["mend"],
          f"the alert: {alert}")
    r.appliance.call("machine", "volumes", "web", "--exclude", lost.id)
    check(request.wait(60) == 0, "no point without it")
    r.point("vault")
    for volume in machine.volumes[1:]:
        r.appliance.call("machine", "volumes", "web", "--exclude", volume.id)
    r.appliance.refused(2, "machine", "volumes", "web", "--exclude", machine.volumes[0].id,
                        says="only one")
    del machine.volumes[1:]
    r.point("vault")
    check(spare.id in r.status()["left_out"], f"status: {r.status()}")


def check_snapshots_left(r):
    step("snapshots that cannot be deleted are told")
    r.aws.admin("/settings", {"deny": ["DeleteSnapshot"]})
    r.change(2)
    r.point("vault")
    alert = r.appliance.wait_alert("web", "snapshots-left")
    check("DeleteSnapshot" in alert["cause"] and "policy" in alert["mend"], f"the alert: {alert}")
    r.aws.admin("/settings/restore", {})
    r.point("vault")
    wait_until(10, lambda: "snapshots-left" not in r.alerts(), "the alert stays")
    tidy_and_check(r)
    step("removing the machine tells of what it cannot delete")
    r.aws.admin("/settings", {"deny": ["DeleteSnapshot"]})
    told = r.appliance.run("--no-progress", "machine", "remove", "web", json_output=False)
    check(told.returncode == 0 and "landfall:machine" in told.stderr, f"it says {told}")


def volumes(work):
    with StrictService(work) as service, Aws(work) as aws:
        machine = aws.machine(3, tags={"Name": "web"})
        rootless = aws.machine(1, root_device="/dev/sda1")
        for volume in machine.volumes:
            volume.write(5 * MIB, os.urandom(2 * MIB))
        appliance = open_appliance(work, service, aws)
        with appliance:
            appliance.call("vault", "init")
            appliance.refused(2, "machine", "add", "old", "--source", "ebs", "--instance",
                              rootless.id, says="root device")
            r = Replication(work, aws, appliance, machine)
            spare, new, first = check_left_out(r, machine)
            number = check_included(r, new, first)
            check_bandwidth(r)
            check_excluded(r, machine, number)
            step("an appliance that takes over has the same volumes")
            begin_anew(r)
            r.compare_all()
            check(r.status()["left_out"] == [spare.id], f"status: {r.status()}")
            r.point("vault")
            check_detached(r, machine, spare)
            check_snapshots_left(r)


def always(operation, status, code, reason=None):
    return {"match": {"operation": operation}, "times": 0,
            "fault": {"kind": "status", "status": status, "code": code, "reason": reason}}


# What goes wrong, as rules or settings of the service; and what must stand in the alert's cause and
# mend.
REFUSALS = [
    ("the instance is gone", [always("DescribeInstances", 400, "InvalidInstanceID.NotFound")], {},
     ("DescribeInstances", "InvalidInstanceID.NotFound"), "terminated"),
    ("the instance is terminated", [], {"instance": {"state": "terminated"}},
     ("terminated",), "--keep-vault"),
    ("making snapshots is not permitted", [], {"deny": ["CreateSnapshots"]},
     ("CreateSnapshots", "UnauthorizedOperation"), "policy permits"),
    ("reading blocks is not permitted", [], {"deny": ["GetSnapshotBlock"]},
     ("GetSnapshotBlock", "AccessDeniedException"), "policy permits"),
    ("the key of an encrypted volume may not be used",
     [always("GetSnapshotBlock", 403, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED")], {},
     ("GetSnapshotBlock", "DEPENDENCY_ACCESS_DENIED"), "kms:Decrypt"),
    ("the key of an encrypted volume is gone",
     [always("GetSnapshotBlock", 404, "ResourceNotFoundException",
             "DEPENDENCY_RESOURCE_NOT_FOUND")], {},
     ("GetSnapshotBlock", "DEPENDENCY_RESOURCE_NOT_FOUND"), "kms:Decrypt"),
    ("the clock is off", [], {"clock_skew_s": 1000}, ("RequestExpired", "clock here is"),
     "clock"),
]


def check_refusal(r, title, rules, settings, cause, mend):
    step(title)
    running = {"state": "running", "volumes": [v.id for v in r.machine.volumes]}
    instance = settings.pop("instance", None)
    if instance:
        r.aws.admin("/instance/set", {"id": r.machine.id, "volumes": [], **instance})
    r.aws.admin("/settings", settings)
    r.aws.rules(*rules)
    newest = r.newest()
    r.change(2)
    request = subprocess.Popen([r.appliance.build / "landfall", "--socket", r.appliance.socket,
                                "point", "create", "web"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    alert = r.appliance.wait_alert("web", "source-failing", 60)
    for word in cause:
        check(word in alert["cause"], f"the cause does not say {word}: {alert}")
    check(mend in alert["mend"], f"the mend does not say {mend}: {alert}")
    check("machine remove" not in alert["mend"] or "--keep-vault" in alert["mend"],
          f"the mend costs all points: {alert}")
    r.aws.admin("/settings/restore", {})
    r.aws.admin("/instance/set", {"id": r.machine.id, **running})
    r.aws.admin("/rules/clear", {"seed": 1})
    wait_until(60, lambda: r.newer(newest), "no point after it")
    wait_until(10, lambda: "source-failing" not in r.appliance.alerts("web"), "the alert stays")
    request.wait(60)
    check(not r.status()["compared_because"], f"compared whole for nothing: {r.status()}")


def refused(work):
    with StrictService(work) as service, Aws(work) as aws:
        machine = aws.machine(2, tags={"Name": "web"})
        for volume in machine.volumes:
            volume.write(5 * MIB, os.urandom(3 * MIB))
        appliance = open_appliance(work, service, aws)
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "web", "--source", "ebs", "--instance", machine.id)
            r = Replication(work, aws, appliance, machine)
            r.point()
            for refusal in REFUSALS:
                check_refusal(r, *refusal)
            r.point()


def clock(work):
    with StrictService(work) as service, Aws(work) as aws:
        machine = aws.machine(1, tags={"Name": "web"})
        machine.volumes[0].write(0, os.urandom(MIB))
        # Within what signatures allow
        aws.admin("/settings", {"clock_skew_s": -240})
        appliance = open_appliance(work, service, aws, interval="60s")
        with appliance:
            step("the first synchronisation waits for no interval, AWS's clock is 4 min behind")
            appliance.call("vault", "init")
            appliance.call("machine", "add", "web", "--source", "ebs", "--instance", machine.id)
            wait_until(30, lambda: appliance.points("web"), "no first point, half an interval later")
            told = appliance.machine("web")["ebs"]
            check(told["last_cycle"]["took_s"] < 60, f"the last cycle: {told['last_cycle']}")
            check(told["reachable_rpo_s"] < 120, f"the RPO it can reach: {told}")
            # With AWS's time the next would be due at once.
            machine.volumes[0].write(0, os.urandom(MIB))
            answer = appliance.run("point", "create", "web", timeout=60)
            check(answer.returncode == 0, f"point create: {answer}")
            sets = aws.admin("/stats")["sets"]
            check(sets == 2, f"{sets} sets were made for two points")


def main(part):
    need("sfdisk", "mkfs.ext4", "mkfs.xfs", "mkntfs", "ntfscp", "losetup", "cmp", "fallocate")
    run_test({"cycles": cycles, "volumes": volumes, "refused": refused, "clock": clock,
              "faults": faults, "large": large}[part])


main(sys.argv[1] if len(sys.argv) > 1 else "cycles")
