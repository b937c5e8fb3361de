#!/usr/bin/env python3
"""The disk under the journal fails a sync or a write: the group closes, and comes back by itself.

Nothing acknowledged is lost, the daemon lives, the alert tells cause and mend; so after a SIGKILL
in the middle of it, and when the disk goes on failing for a while.
"""

import errno
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, Appliance, Failure, StrictService, check, run_test, step,  # noqa: E402
                       wait_until)
from images import Ledger, check_vault_is_live  # noqa: E402

BLOCKS = 32 * 256
POLICIES = {"quick": {"point-interval": "1s", "vault-interval": "1s", "retention": "all:1h"}}
ROUNDS = (("sync", errno.EIO, 0), ("write", errno.EIO, 0), ("write", errno.ENOSPC, 0),
          ("sync", errno.EIO, 3), ("write", errno.ENOSPC, 3))


class Disk:
    """The journal's disk, as faultio makes it."""

    def __init__(self, work):
        self.switch = work / "fault"
        self.library = BUILD / "tests" / "faultio.so"

    def environment(self, appliance):
        appliance.environment.update({
            "LD_PRELOAD": str(self.library), "FAULTIO_SWITCH": str(self.switch),
            "FAULTIO_UNDER": ".seg",
            "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")})

    def fail(self, operation, error):
        fresh = self.switch.with_suffix(".new")
        fresh.write_text(f"{operation} {error}\n", encoding="ascii")
        fresh.rename(self.switch)

    def heal(self):
        self.switch.unlink()


def is_right(ledger, what):
    """What was acknowledged can be read; while the journal is read again the live disk is away."""
    try:
        ledger.check(what=what)
        return True
    except Failure as fault:
        check("wrong" not in str(fault), str(fault))
        return False


def one_round(appliance, ledger, disk, operation, error, linger_s):
    name = errno.errorcode[error]
    step(f"{operation} fails with {name}" + (f" for {linger_s} s" if linger_s else ""))
    ledger.start()
    newest = appliance.create_point("m")["number"]
    check(ledger.process.poll() is None, "the writer has ended")
    disk.fail(operation, error)
    wait_until(60, ledger.refused, f"writes go on though {operation} fails")
    alert = appliance.wait_alert("m", "commit-failed")
    check(str(appliance.journal) in alert["cause"], f"the cause names no place: {alert}")
    if linger_s:
        check(not wait_for(linger_s, lambda: not appliance.alive()), "the daemon has ended")
        check(appliance.call("status")["health"] == "critical", "health is not critical")
    check(appliance.alive(), "the daemon has ended")
    disk.heal()
    wait_until(60, lambda: is_right(ledger, f"after {operation} {name}"),
               "what was acknowledged cannot be read again")
    wait_until(60, lambda: writes(appliance), "it is not written again")
    numbers = {p["number"] for p in appliance.points("m")}
    check(newest in numbers, f"point {newest} is gone: {sorted(numbers)}")


def wait_for(seconds, condition):
    """True if it came true within the time."""
    try:
        return wait_until(seconds, condition, "")
    except Failure:
        return False


def writes(appliance):
    try:
        fd = os.open(appliance.live("m", "other"), os.O_RDWR)
    except OSError:
        return False
    try:
        os.pwrite(fd, b"x" * 4096, 0)
        os.fsync(fd)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def test(work):
    disk = Disk(work)
    with StrictService(work) as service:
        appliance = Appliance(BUILD, work, service.connection_string, policies=POLICIES)
        disk.environment(appliance)
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=64M", "--disk",
                           "other=8M", "--policy", "quick")
            ledger = Ledger(appliance.live("m", "d"), work / "ledger", BLOCKS, seed=1)
            try:
                scenario(service, appliance, ledger, disk)
            finally:
                ledger.kill()


def scenario(service, appliance, ledger, disk):
    for operation, error, linger_s in ROUNDS:
        one_round(appliance, ledger, disk, operation, error, linger_s)
    step("SIGKILL while the disk fails")
    ledger.start()
    appliance.create_point("m")
    disk.fail("sync", errno.EIO)
    wait_until(60, ledger.refused, "writes go on")
    appliance.kill()
    disk.heal()
    appliance.start()
    wait_until(60, lambda: is_right(ledger, "after the SIGKILL"), "it cannot be read")
    step("the vault has it")
    check_vault_is_live(service, appliance, "m", "d")
    appliance.check_vault(orphans=4)


if __name__ == "__main__":
    run_test(test)
