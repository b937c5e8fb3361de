#!/usr/bin/env python3
"""The disk under the journal is full before the journal is.

The journal lives on a small filesystem that something else fills up. The alert says so; writes are
refused or wait, nothing acknowledged is lost, the daemon lives, and goes on when there is room
again.
"""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, Failure, StrictService, check, need, run_test, shell, step,
                       wait_until)  # noqa: E402
from images import Ledger, check_vault_is_live  # noqa: E402

BLOCKS = 32 * 256
POLICIES = {"quick": {"point-interval": "1s", "vault-interval": "1s", "retention": "all:1h"}}


class SmallDisk:
    """An ext4 of so many MiB on a loop device."""

    def __init__(self, work, name, mib):
        self.at, self.image, self.mib = work / name, work / f"{name}.img", mib
        self.loop = None

    def __enter__(self):
        self.at.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(self.mib * MIB)
        shell("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.loop = shell("losetup", "--find", "--show", self.image).strip()
        shell("mount", self.loop, self.at)
        return self

    def __exit__(self, *_):
        if subprocess.run(["umount", self.at], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "-l", self.at], capture_output=True, check=False)
        subprocess.run(["losetup", "-d", self.loop], capture_output=True, check=False)

    def fill(self):
        """Leaves no room at all."""
        with open(self.at / "ballast", "ab", buffering=0) as file:
            for piece in (MIB, 4096, 512, 1):
                try:
                    while True:
                        if file.write(os.urandom(piece)) < piece:
                            break
                except OSError:
                    pass

    def make_room(self):
        (self.at / "ballast").unlink()
        os.sync()


def until_refused(ledger):
    """Writes until the disk is really full for the journal, too."""
    wait_until(150, ledger.refused, "writes go on without room")


def test(work):
    need("mkfs.ext4", "losetup")
    with SmallDisk(work, "small", 512) as small, StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, journal_size="384M",
                      policies=POLICIES, journal_dir=small.at / "journal") as appliance:
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=64M", "--policy",
                       "quick")
        ledger = Ledger(appliance.live("m", "d"), work / "ledger", BLOCKS, seed=1)
        try:
            scenario(service, appliance, ledger, small)
        finally:
            ledger.kill()


def scenario(service, appliance, ledger, small):
    ledger.start()
    appliance.create_point("m", "vault")
    step("the journal's disk fills up")
    small.fill()
    alert = wait_until(30, lambda: appliance.own_alerts().get("disk-full"), "no alert disk-full")
    check(str(small.at) in alert["text"] + alert["cause"] and alert["mend"], f"{alert}")
    until_refused(ledger)
    check(appliance.alive(), "the daemon has ended")
    wait_until(20, lambda: appliance.call("status")["health"] == "critical",
               lambda: f"health is not critical: {appliance.call('status')}")
    eventually_right(ledger, "while the disk is full")
    refused = appliance.run("machine", "add", "another", "--source", "fuse", "--disk", "d=8M")
    check(appliance.alive() and refused.returncode in (0, 1), f"{refused}")

    step("a restart on a full disk")
    appliance.kill()
    appliance.launch()
    wait_until(30, appliance.answers, "it does not come up on a full disk")
    step("room again")
    small.make_room()
    wait_until(60, lambda: appliance.machine("m")["state"] == "protected" and
               "disk-full" not in appliance.own_alerts(),
               lambda: f"it does not recover: {appliance.call('status')}")
    eventually_right(ledger, "after the restart")
    ledger.start()
    wait_until(60, lambda: sealed(appliance), "no point after the recovery")
    ledger.end()
    ledger.check(what="at the end")
    check_vault_is_live(service, appliance, "m", "d")
    appliance.check_vault()


def eventually_right(ledger, what):
    """What was acknowledged can be read; while a journal that failed is read again from the disk,
    the live disk is away for a moment."""
    faults = []

    def is_right():
        try:
            ledger.check(what=what)
            return True
        except Failure as fault:
            check("wrong" not in str(fault), str(fault))
            faults.append(str(fault))
            return False
    wait_until(30, is_right, lambda: faults[-1])


def sealed(appliance):
    done = appliance.run("point", "create", "m", "--wait", "vault")
    return done.returncode == 0


if __name__ == "__main__":
    run_test(test)
