#!/usr/bin/env python3
"""A lease that somebody broke by hand is no takeover: owner.json still names this appliance.

The group claims its disks again and goes on by itself, without a point lost and without a restart.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "servers"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,  # noqa: E402
                       wait_until)  # noqa: E402
from images import Image, vault_of  # noqa: E402
from testing import Signer  # noqa: E402

BLOB = "test/machines/m/d.vhd"

POLICIES = {"rare": {"point-interval": "1h", "vault-interval": "1h", "rpo-alert": "0",
                     "retention": "all:1h"}}


def write(appliance, seed):
    appliance.write("m", "d", 0, bytes([seed]) * MIB)


def broken_lease(service, appliance, operation, seed):
    step(f"the lease is broken before {operation}")
    write(appliance, seed)
    service.admin("/rules", [{"match": {"operation": operation, "blob": "machines/*"},
                              "fault": {"kind": "lease_break"}}])
    point = appliance.create_point("m", "vault", timeout=60)
    check(sum(rule["fired"] for rule in service.admin("/rules")) == 1, "the lease was not broken")
    service.admin("/rules/clear", {})
    check("taken-over" not in appliance.alerts("m"), f"alerts: {appliance.alerts('m')}")
    live = Image.of_file(appliance.live("m", "d"))
    live.check_same(Image.of_vault(vault_of(service), "test", "m", point["number"], "m/d"),
                    f"point {point['number']}")
    return point


def put_foreign(service, offset, breaks=True):
    """Somebody with the account's key breaks the lease and writes a page of his own."""
    signer = Signer(service.facts)
    if breaks:
        status, _, body = signer.send("PUT", f"{BLOB}?comp=lease", {
            "x-ms-lease-action": "break", "x-ms-lease-break-period": "0"})
        check(status == 202, f"breaking the lease: {status} {body}")
    status, _, body = signer.send(
        "PUT", f"{BLOB}?comp=page", {"x-ms-page-write": "update",
                                     "x-ms-range": f"bytes={offset}-{offset + 4095}"},
        b"\xee" * 4096)
    check(status == 201, f"the foreign write: {status} {body}")


def check_point(service, appliance, point):
    live = Image.of_file(appliance.live("m", "d"))
    live.check_same(Image.of_vault(vault_of(service), "test", "m", point["number"], "m/d"),
                    f"point {point['number']}")
    appliance.verify("m", point["number"])


def foreign_writes(service, appliance):
    """What another wrote into the base while the lease was broken is in no point."""
    step("a foreign write between two flushes")
    write(appliance, 10)
    put_foreign(service, 5 * MIB)
    check_point(service, appliance, appliance.create_point("m", "vault", timeout=60))
    step("a foreign write in the midst of a flush")
    write(appliance, 11)
    service.admin("/rules", [{"match": {"operation": "Snapshot", "blob": "machines/*"}, "times": 1,
                              "fault": {"kind": "lease_break"}}])
    number = appliance.create_point("m")["number"]
    appliance.call("point", "keep", "m", number)
    appliance.call("point", "create", "m", "--wait", "vault", "--detach")  # it goes first
    wait_until(30, lambda: service.admin("/rules")[0]["fired"], "no snapshot was made")
    put_foreign(service, 6 * MIB, False)
    service.admin("/rules/clear", {})
    check_point(service, appliance, appliance.create_point("m", "vault", timeout=60))
    step("a foreign write while the appliance is away")
    appliance.kill()
    put_foreign(service, 6 * MIB)
    appliance.start()
    write(appliance, 12)
    check_point(service, appliance, appliance.create_point("m", "vault", timeout=60))
    check("taken-over" not in appliance.alerts("m"), f"alerts: {appliance.alerts('m')}")


def verify_tells_its_end(appliance, point):
    step("a verification that has ended shows all of it as done")
    for number in (point["number"], appliance.create_point("m")["number"]):
        progress = appliance.call("verify", "m", number)["job"]["progress"]
        check(progress["done"] == progress["total"] == 8 * MIB, f"{progress}")


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M", "--policy",
                       "rare")
        write(appliance, 1)
        appliance.create_point("m", "vault")
        for seed, operation in enumerate(("PutPage", "SetProperties", "Snapshot"), 2):
            point = broken_lease(service, appliance, operation, seed)
        verify_tells_its_end(appliance, point)
        appliance.check_vault(orphans=4)
        service.check_witness()
        service.admin("/settings", {"fence_prefix": ""})  # what comes now is not all the appliance's
        foreign_writes(service, appliance)


if __name__ == "__main__":
    run_test(test)
