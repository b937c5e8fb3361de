#!/usr/bin/env python3
"""The appliance is lost with its disk, in the middle of a flush; a new one takes over.

Every point of the vault must be what was written down when it was sealed, the half-written base
must be repaired from the newest of them, and replication must go on. The takeover is killed in
the middle, too, and repeated.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import blobread  # noqa: E402
from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402
from images import Image, Record, Writers, vault_of  # noqa: E402

SIZE = 48 * MIB
DISKS = ("m/d", "m/e", "n/d")
POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}


def make_points(appliance, record, writers, count):
    for _ in range(count):
        writers.some(100)
        point = appliance.create_point("m", "vault")
        record.images[point["number"]] = writers.images()


def keep_two_points(service, appliance):
    """Marked after they were sent, one of them unmarked again: the vault learns of it."""
    first, second = sorted(p["number"] for p in appliance.points("m"))[1:3]
    for number in (first, second):
        appliance.call("point", "keep", "m", number)
    appliance.call("point", "keep", "m", first, "--off")

    def told():
        return {b["name"].rsplit("/", 1)[1]: "keep" in b["metadata"]["flags"]
                for b in vault_of(service).list("test", "groups/g/points/")
                if b["name"].endswith(".json")}
    wait_until(30, lambda: [n for n, kept in told().items() if kept] == [f"{second}.json"],
               lambda: f"the vault does not learn what is kept: {told()}")
    return second


def die_in_mid_flush(service, appliance, writers):
    """The base holds half of a point that nothing will ever commit."""
    service.admin("/rules", {"match": {"operation": "PutPage"}, "skip": 10, "times": 0,
                             "fault": {"kind": "late", "answer": "hang", "delay_s": 3}})
    writers.some(300)
    since = service.admin("/stats")["answers"].get("PutPage 201", 0)
    appliance.call("point", "create", "m", "--wait", "vault", "--detach")
    wait_until(30, lambda: service.admin("/stats")["answers"].get("PutPage 201", 0) >= since + 10
               and service.admin("/late"), "no flush is under way")
    appliance.lose_everything()
    service.admin("/rules/clear", {})


def base_is_newest_point(service, record):
    """The base itself, not only its snapshots, is the newest committed point again."""
    vault, newest = vault_of(service), max(record.images)
    for disk in DISKS:
        length, pieces = vault.pieces("test", f"machines/{disk}.vhd")
        record.images[newest][disk].check_same(
            Image.of_pieces(length, blobread.filled(length, pieces)), f"the base of {disk}")


def all_points_are_right(service, appliance, record):
    points = {p["number"] for p in appliance.points("m") if p["vault"]}
    check(points == set(record.images), f"the points are {points}, not {set(record.images)}")
    check(len(record.check_local()) == len(points), "not all were compared")
    record.check_vault(vault_of(service))
    newest = max(record.images)
    for disk in DISKS:
        record.images[newest][disk].check_same(
            Image.of_file(appliance.live(*disk.split("/"))), f"the live disk {disk}")


def interrupted_takeover(service, appliance):
    """Killed while it repairs; it is repeated by itself at the next start. Returns its result."""
    service.admin("/rules", {"match": {"operation": "PutPage"}, "times": 0,
                             "fault": {"kind": "hang", "applied": True}})
    job = appliance.call("vault", "takeover", "--detach")["job"]
    wait_until(30, lambda: any(rule["fired"] for rule in service.admin("/rules")) or
               appliance.call("job", "show", job)["job"]["state"] in ("done", "failed"),
               "the takeover does not begin to repair")
    state = appliance.call("job", "show", job)["job"]
    check(state["state"] == "running", f"the repair was not caught in the middle: {state}")
    appliance.kill()
    service.admin("/rules/clear", {})
    appliance.start()
    return appliance.call("job", "watch", job)["job"]["result"]["groups"]


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                      name="first") as first:
        service.admin("/settings", {"fence_prefix": "machines/"})
        first.call("vault", "init")
        first.call("machine", "add", "m", "--source", "fuse", "--disk", f"d={SIZE // MIB}M",
                   "--disk", f"e={SIZE // MIB}M", "--group", "g", "--policy", "asked")
        first.call("machine", "add", "n", "--source", "fuse", "--disk", f"d={SIZE // MIB}M",
                   "--group", "g")
        record = Record(first, "g")
        with Writers(first, work, DISKS, SIZE, 1) as writers:
            make_points(first, record, writers, 5)
            kept = keep_two_points(service, first)
            step("the appliance dies in the middle of a flush, its disk with it")
            die_in_mid_flush(service, first, writers)
        life_goes_on(work, service, record, kept)


def life_goes_on(work, service, record, kept):
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                   name="second") as second:
        record.appliance = second
        step("a takeover is killed in the middle of its repair, and goes on after the restart")
        found = interrupted_takeover(service, second)
        wait_until(20, lambda: not service.admin("/late"),
                   "what the first one sent late does not land")
        check(len(found) == 1 and sorted(found[0]["machines"]) == ["m", "n"] and
              found[0]["points"] == len(record.images), f"taken over: {found}")
        check(second.call("vault", "takeover")["job"]["result"]["groups"] == [],
              "what is here already is taken over again")
        second.verify("m", min(record.images))  # at once: its groups are claimed by now
        base_is_newest_point(service, record)
        all_points_are_right(service, second, record)
        check([p["number"] for p in second.points("m") if p["keep"]] == [kept], "marks are lost")
        step("replication goes on, across restarts")
        with Writers(second, work, DISKS, SIZE, 2) as writers:
            make_points(second, record, writers, 2)
            second.kill()
        second.start()
        with Writers(second, work, DISKS, SIZE, 3) as writers:
            make_points(second, record, writers, 1)
        all_points_are_right(service, second, record)
        second.check_vault()
        for number in record.images:
            second.verify("m", number)
        service.check_witness()


if __name__ == "__main__":
    run_test(test)
