#!/usr/bin/env python3
"""Two appliances, one vault: only the owner of a group can change it.

A second appliance is refused, plainly. After its takeover the first one, which was in the middle
of its work, can change nothing more and says so; the service's log proves it. The first may take
the group back in the same way.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402
from images import Record, Scribbler, vault_of  # noqa: E402

SIZE = 32 * MIB
LOOK_S = 100  # an idle group looks at its owner.json every 75 s at the most
POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}
MUTATIONS = {"PutBlob", "DeleteBlob", "PutPage", "ClearPages", "Snapshot", "SetProperties",
             "SetMetadata", "LeaseBlob", "PutBlock", "PutBlockList", "CopyBlob"}


def add(appliance):
    return ("machine", "add", "m", "--source", "fuse", "--disk", f"d={SIZE // MIB}M", "--policy",
            "asked")


def lease_of(service):
    """The lease under which the disk is held."""
    return next(b["lease"]["id"] for b in service.admin("/blobs")
                if b["blob"] == "machines/m/d.vhd")


def changed_by(service, lease, since):
    """Changes after log entry `since` that carried this lease and were carried out."""
    return [row for row in service.admin(f"/log?since={since}")
            if row["operation"] in MUTATIONS and row["lease"] == lease
            and isinstance(row["status"], int) and row["status"] < 300]


def newest_entry(service):
    rows = service.admin("/log?since=0")
    return rows[-1]["seq"] if rows else 0


def make_points(appliance, record, writer, count):
    for _ in range(count):
        writer.some(150)
        point = appliance.create_point("m", "vault")
        record.images[point["number"]] = {"m/d": writer.image()}


def second_is_refused(b):
    step("a second appliance is refused")
    error = b.refused(5, *add(b), says="appliance")
    check("takeover" in error, f"the refusal does not name the way out: {error}")
    check(b.call("machine", "list")["machines"] == [], "the refused machine is listed")
    check(b.alive(), "the daemon has ended")


def taken_over(service, a, lease, since):
    """Appliance a can change nothing, and says why."""
    job = a.call("point", "create", "m", "--wait", "vault", "--detach")["job"] \
        if a.machine("m")["state"] != "taken-over" else None
    wait_until(60, lambda: a.machine("m")["state"] == "taken-over",
               lambda: f"the first appliance does not notice: {a.machine('m')}")
    alert = a.wait_alert("m", "taken-over")
    check("takeover" in alert["mend"] or "remove" in alert["mend"], f"no mend: {alert}")
    if job:
        check(a.run("job", "watch", job).returncode != 0, "its flush is said to be done")
    check(a.run("point", "create", "m").returncode != 0, "it still makes points")
    changes = changed_by(service, lease, since)
    check(not changes, f"the first appliance changed the vault after the takeover: {changes[:3]}")


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="b") as b:
        service.admin("/settings", {"fence_prefix": "machines/"})
        a.call("vault", "init")
        check(not b.call("vault", "init")["created"], "the vault was made twice")
        a.call(*add(a))
        record = Record(a, "m")
        with Scribbler(a.live("m", "d"), work / "mirror", SIZE, seed=1) as writer:
            make_points(a, record, writer, 3)
            second_is_refused(b)
            make_points(a, record, writer, 1)
            b_takes_over(service, a, b, writer, record)
        a_takes_back(service, a, b, work, record)
        idle_one_notices(service, a, b)
        check(len(record.check_vault(vault_of(service))) == len(record.images), "points are missing")
        b.check_vault()
        service.check_witness()


def b_takes_over(service, a, b, writer, record):
    step("takeover while the first is flushing")
    old_lease = lease_of(service)
    service.admin("/rules", {"match": {"operation": "PutPage"}, "probability": 0.9,
                             "fault": {"kind": "delay", "delay_s": 0.3}})
    writer.some(400)
    job = a.call("point", "create", "m", "--wait", "vault", "--detach")["job"]
    wait_until(20, lambda: a.machine("m")["flush"]["active"], "the first does not flush")
    found = b.call("vault", "takeover")["job"]["result"]["groups"]
    check([g["name"] for g in found] == ["m"] and found[0]["machines"] == ["m"], f"found {found}")
    since = newest_entry(service)
    service.admin("/rules/clear", {})
    b_record = Record(b, "m")
    b_record.images = record.images
    record.appliance = b
    check(len(b_record.check_local()) == len(record.images), "points are missing after takeover")
    taken_over(service, a, old_lease, since)
    check(a.run("job", "watch", job).returncode != 0, "the interrupted flush is said to be done")
    try:
        writer.some(50)
        raise AssertionError
    except OSError:
        pass
    except AssertionError:
        check(False, "the first appliance still takes writes that nothing will keep")
    step("the first one's restart changes nothing")
    a.stop()
    a.start()
    taken_over(service, a, old_lease, since)
    new_lease = lease_of(service)
    check(new_lease and new_lease != old_lease, f"the lease is still {old_lease}")


def a_takes_back(service, a, b, work, record):
    step("the second goes on, then the first takes the group back")
    newest = max(p["number"] for p in b.points("m"))
    with Scribbler(b.live("m", "d"), work / "mirror-b", SIZE, seed=2) as writer:
        copy_live(b, work / "mirror-b")
        make_points(b, record, writer, 2)
    check(min(p["number"] for p in b.points("m")[-2:]) > newest, "numbers do not rise")
    lease = lease_of(service)
    found = a.call("vault", "takeover", "--group", "m")["job"]["result"]["groups"]
    check(found[0]["set_aside"], f"the old journal was not moved aside: {found}")
    since = newest_entry(service)
    record.appliance = a
    check(len(record.check_local()) == len(record.images), "points are missing")
    taken_over(service, b, lease, since)
    with Scribbler(a.live("m", "d"), work / "mirror-a", SIZE, seed=3) as writer:
        copy_live(a, work / "mirror-a")
        make_points(a, record, writer, 1)


def idle_one_notices(service, a, b):
    step("an appliance that is idle notices a takeover by itself")
    check(a.machine("m")["state"] != "taken-over" and not a.machine("m")["flush"]["active"],
          f"it is not idle: {a.machine('m')}")
    since = newest_entry(service)
    b.call("vault", "takeover", "--group", "m")
    number = max(p["number"] for p in b.points("m") if p["vault"])
    b.verify("m", number)  # the takeover has ended: the group can be used
    a.wait_alert("m", "taken-over", LOOK_S)
    check(a.machine("m")["state"] == "taken-over", f"its state is {a.machine('m')['state']}")
    looks = [row for row in service.admin(f"/log?since={since}")
             if row["operation"] == "GetBlob" and row.get("blob", "").endswith("owner.json")]
    check(len(looks) < 40, f"owner.json was read {len(looks)} times")


def copy_live(appliance, mirror):
    """The mirror begins as what the disk holds: the newest point, compared before."""
    with open(appliance.live("m", "d"), "rb") as live, open(mirror, "r+b") as file:
        file.write(live.read(SIZE))


if __name__ == "__main__":
    run_test(test)
