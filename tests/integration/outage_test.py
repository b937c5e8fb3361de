#!/usr/bin/env python3
"""The vault is away while a writer goes on: the small journal fills, stage by stage.

Points and writes go on, then are slowed, then refused; alerts tell cause and mend. Nothing that
was acknowledged is lost, through SIGKILL either; when the vault is back everything drains by
itself, and what was acknowledged is in the vault. What takes an hour with a journal for an hour
takes seconds with a small one.
"""

import errno
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402
from images import Ledger, check_vault_is_live, stays_refused  # noqa: E402

DISK_MIB = 256
BLOCKS = 64 * 256  # ackwriter's part of the disk
JOURNAL = "512M"
POLICIES = {"quick": {"point-interval": "2s", "vault-interval": "2s", "retention": "all:1h",
                      "rpo-alert": "5s"}}


def fill_of(appliance):
    return appliance.machine("m")["journal"]["fill"]


def fill_up(appliance, until):
    """Writes random bytes behind ackwriter's part until the journal is that full; returns how
    much was written in how many seconds."""
    fd = os.open(appliance.live("m", "d"), os.O_WRONLY)
    began, written = time.monotonic(), 0
    try:
        while fill_of(appliance) < until:
            check(time.monotonic() - began < 60, f"the journal does not fill: {fill_of(appliance)}")
            at = BLOCKS * 4096 + written % ((DISK_MIB - 70) * MIB)
            # Bytes of Python's do not begin at a page: the kernel cuts them inside a sector.
            written += os.pwrite(fd, os.urandom(MIB), at)
        os.fsync(fd)
    finally:
        os.close(fd)
    return written, time.monotonic() - began


def delayed(appliance):
    """How long 2 MiB take now, which is more than a rest lets through at once."""
    fd = os.open(appliance.live("m", "d"), os.O_WRONLY)
    try:
        began = time.monotonic()
        for _ in range(8):
            os.pwrite(fd, os.urandom(256 << 10), (DISK_MIB - 4) * MIB)
        return time.monotonic() - began
    finally:
        os.close(fd)


def refused(appliance):
    """At the last stage a write waits for room and is refused, with an errno that says so."""
    fd = os.open(appliance.live("m", "d"), os.O_WRONLY)
    try:
        began = time.monotonic()
        stays_refused(lambda: os.pwrite(fd, os.urandom(MIB), (DISK_MIB - 4) * MIB), errno.ENOSPC)
        check(time.monotonic() - began > 1, "it did not wait for room")
        # Its sectors' rests are in the vault, perhaps; that the journal is full comes first.
        stays_refused(lambda: os.pwrite(fd, b"x" * 1000, (DISK_MIB - 4) * MIB + 100), errno.ENOSPC)
    finally:
        os.close(fd)


def outage(service, appliance, ledger):
    step("the vault goes away")
    service.admin("/down", {"mode": "refuse"})
    before = len(appliance.points("m"))
    ledger.start()
    wait_until(20, lambda: len(appliance.points("m")) > before, "no local points in the outage")
    ledger.end()  # or a fast disk fills the journal before the alerts are seen
    alert = appliance.wait_alert("m", "vault-unreachable", 60)
    check(alert["severity"] in ("warning", "critical"), f"{alert}")
    appliance.wait_alert("m", "rpo", 60)
    step("the journal fills")
    written, seconds = fill_up(appliance, 0.8)
    print(f"{written // MIB} MiB in {seconds:.1f} s without delay")
    appliance.wait_alert("m", "journal-filling", 30)
    check(delayed(appliance) > 0.1, "writes are not delayed above 80 %")
    status = appliance.call("status")
    check(status["health"] != "ok", "health is still ok")


def make_full(appliance):
    """Room is taken away: the journal's limit is lowered by a reload, as a person might do."""
    step("the journal is full")
    for size in ("448M", "384M", "320M", "256M"):
        if fill_of(appliance) >= 0.97:
            break
        appliance.settings["journal"]["size"] = size
        appliance.write_config()
        appliance.reload()
        wait_until(20, lambda: appliance.machine("m")["journal"]["limit_bytes"] <=
                   int(size[:-1]) * MIB, "the reload does not change the journal's limit")
    check(fill_of(appliance) >= 0.97, f"the journal is not full: {fill_of(appliance)}")
    appliance.wait_alert("m", "journal-full", 30)
    refused(appliance)


def back_again(service, appliance, ledger):
    step("the vault comes back: it drains by itself")
    check(appliance.call("status")["health"] == "critical", "health is not critical")
    service.admin("/down", {"mode": None})
    # What the journal has let go is read from the vault: only now can all of it be looked at.
    ledger.check(what="after SIGKILL")
    ledger.start()
    wait_until(90, lambda: fill_of(appliance) < 0.9 and not set(appliance.alerts("m")) & {
        "journal-full", "vault-unreachable"}, lambda: f"it does not drain: {appliance.machine('m')}")
    if ledger.refused():
        ledger.start()
    wait_until(60, lambda: not appliance.alerts("m"),
               lambda: f"alerts stay: {appliance.alerts('m')}")
    check(delayed(appliance) < 2, "writes are still delayed")


def everything_is_there(service, appliance, ledger, work):
    step("everything acknowledged is there, here and in the vault")
    ledger.end()
    ledger.check(what="the live disk")
    check_vault_is_live(service, appliance, "m", "d")
    for number in [p["number"] for p in appliance.points("m") if p["vault"]][-4:]:
        appliance.verify("m", number)
    appliance.check_vault()
    service.check_witness()


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, journal_size=JOURNAL,
                      policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", f"d={DISK_MIB}M",
                       "--policy", "quick")
        ledger = Ledger(appliance.live("m", "d"), work / "ledger", BLOCKS, seed=1)
        try:
            ledger.start()
            appliance.create_point("m", "vault")
            ledger.end()
            outage(service, appliance, ledger)
            make_full(appliance)
            ledger.start()  # its first write waits for room
            step("SIGKILL while it is full")
            appliance.kill()
            ledger.end()
            appliance.start()
            back_again(service, appliance, ledger)
            everything_is_there(service, appliance, ledger, work)
        finally:
            ledger.kill()


if __name__ == "__main__":
    run_test(test)
