#!/usr/bin/env python3
"""The RPO across a crash: what waits for a point or for the vault is as old after a start as it was before,
and its alert comes."""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from appliance import MIB, StrictService, appliance_with_web, check, run_test, step, wait_until

POLICY = {"default": {"point-interval": "0", "vault-interval": "1s", "rpo-alert": "6s"}}


def ages(appliance):
    machine = appliance.machine("web")
    return machine["rpo_local_s"], machine["rpo_vault_s"]


def restart(appliance):
    """Kills the daemon and starts it again; tells the ages before, and when they were read."""
    before, at = ages(appliance), time.monotonic()
    appliance.kill()
    appliance.start()
    return before, at


def never_younger(appliance, which):
    before, at = restart(appliance)

    def is_right():
        after = ages(appliance)
        grown = time.monotonic() - at
        return all(after[i] is not None and after[i] >= before[i] + grown - 2.5 for i in which)
    # What began anew at the start never gets as old.
    wait_until(20, is_right, lambda: f"{before} became {ages(appliance)}")


def unsealed(work, service):
    step("what is in no point yet")
    with appliance_with_web(work, service, "open", POLICY) as a:
        a.write("web", "root", 0, os.urandom(MIB))
        a.create_point("web", wait="vault")
        a.call("machine", "pause", "web")
        a.write("web", "root", 0, os.urandom(MIB))
        wait_until(30, lambda: min(ages(a)) >= 6, "it does not grow old")
        never_younger(a, (0, 1))
        step("sealed, and not in the vault: across two starts and another point")
        a.create_point("web")
        wait_until(30, lambda: ages(a)[0] == 0, "the point does not count")
        never_younger(a, (1,))
        a.write("web", "root", 0, os.urandom(MIB))
        a.create_point("web")
        never_younger(a, (1,))
        check(ages(a)[0] == 0, f"nothing has changed: {ages(a)}")
        a.wait_alert("web", "rpo", 20)
        a.call("machine", "resume", "web")
        wait_until(30, lambda: ages(a) == (0, 0), "it is not protected")
        wait_until(30, lambda: "rpo" not in a.alerts("web"), "the alert stays")


def never_in_the_vault(work, service):
    step("a machine of which nothing ever was in the vault: the alert comes after a start, too")
    with appliance_with_web(work, service, "none", POLICY) as a:
        a.call("machine", "pause", "web")
        a.write("web", "root", 0, os.urandom(MIB))
        a.create_point("web")
        a.wait_alert("web", "rpo", 30)
        restart(a)
        a.wait_alert("web", "rpo", 20)
    step("nor in a point")
    with appliance_with_web(work, service, "new", POLICY) as a:
        a.call("machine", "pause", "web")
        a.write("web", "root", 0, os.urandom(MIB))
        a.wait_alert("web", "rpo", 30)
        restart(a)
        started = time.monotonic()
        a.wait_alert("web", "rpo", 20)
        check(time.monotonic() - started < 4, "it counts from the start")


def test(work):
    with StrictService(work) as service:
        unsealed(work, service)
        never_in_the_vault(work, service)


run_test(test)
