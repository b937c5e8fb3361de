#!/usr/bin/env python3
"""A machine that joins a group is protected by the points that have it, and by no others; and one
whose removal failed says so until the removal is done."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}


def add(appliance, name, group):
    return appliance.call("machine", "add", name, "--source", "fuse", "--disk", "d=4M", "--policy",
                          "asked", "--group", group)["machine"]


def is_shown(appliance, name, state, local, vault, count):
    """Every place says the same, as soon as the group has looked at its ages."""
    wait_until(10, lambda: (appliance.machine(name)["rpo_local_s"] is not None) == local,
               lambda: f"{appliance.machine(name)}")
    shown = appliance.call("machine", "show", name)["machine"]
    listed = next(m for m in appliance.call("machine", "list")["machines"] if m["name"] == name)
    for machine in (appliance.machine(name), shown, listed):
        check(machine["state"] == state and machine["point_count"] == count, f"{machine}")
        for there, point, rpo in ((local, "newest_point", "rpo_local_s"),
                                  (vault, "newest_vault_point", "rpo_vault_s")):
            check((machine[point] is not None) == there == (machine[rpo] is not None),
                  f"{point} and {rpo} of {machine}")
    text = appliance.run("machine", "show", name, json_output=False).stdout
    check(text.count("no point yet") == 2 - local - vault, text)
    line = next(line for line in appliance.run("status", json_output=False).stdout.splitlines()
                if line.startswith(name + " "))
    check(line.split()[1] == state, line)


def unprotected(appliance, group):
    text = appliance.run("metrics", json_output=False).stdout
    return int(re.search(f'landfall_unprotected_machines{{group="{group}"}} (\\d+)', text)[1])


def joined(appliance, service):
    step("a machine joins a group with points")
    add(appliance, "one", "g")
    check(unprotected(appliance, "g") == 1, "a new machine counts as protected")
    appliance.write("one", "d", 0, b"a" * MIB)
    appliance.create_point("one", "vault")
    is_shown(appliance, "one", "protected", True, True, 1)
    check(unprotected(appliance, "g") == 0, "it is protected")
    told = add(appliance, "two", "g")
    check(told["state"] == "new" and told["rpo_vault_s"] is None, f"{told}")
    is_shown(appliance, "two", "new", False, False, 0)
    is_shown(appliance, "one", "protected", True, True, 1)
    alert = appliance.wait_alert("two", "unprotected")
    check("two" in alert["text"] and "point create two --wait vault" in alert["mend"], f"{alert}")
    check(appliance.machine("two")["health"] == "warning", "its health is ok")
    check(appliance.call("status")["health"] == "warning", "the appliance's health is ok")
    check("unprotected" not in appliance.alerts("one"), "the other one is told of")
    check(unprotected(appliance, "g") == 1, "the metric does not count it")
    check('machine="two",code="unprotected"' in
          appliance.run("metrics", json_output=False).stdout, "no metric of the alert")
    step("its first point, in the journal first")
    service.admin("/down", {"mode": "refuse"})
    appliance.create_point("two")
    is_shown(appliance, "two", "syncing", True, False, 1)
    check("unprotected" in appliance.alerts("two"), "the vault does not have it yet")
    service.admin("/down", {"mode": None})
    wait_until(60, lambda: appliance.machine("two")["state"] == "protected", "it never is")
    is_shown(appliance, "two", "protected", True, True, 1)
    wait_until(10, lambda: not appliance.alerts("two"), lambda: appliance.alerts("two"))
    check(unprotected(appliance, "g") == 0, "the metric still counts it")
    appliance.kill()
    appliance.start()
    is_shown(appliance, "two", "protected", True, True, 1)
    step("removed and added again under its name it begins anew")
    appliance.call("machine", "remove", "two")
    add(appliance, "two", "g")
    is_shown(appliance, "two", "new", False, False, 0)


def without_vault(work):
    step("the same without a vault")
    with Appliance(BUILD, work, policies=POLICIES, name="alone") as appliance:
        add(appliance, "one", "g")
        appliance.create_point("one")
        add(appliance, "two", "g")
        is_shown(appliance, "two", "new", False, False, 0)
        check(unprotected(appliance, "g") == 1, "the metric does not count it")
        appliance.wait_alert("two", "unprotected")
        appliance.create_point("two")
        is_shown(appliance, "two", "local-only", True, False, 1)
        check(unprotected(appliance, "g") == 0, "the metric still counts it")


def removal(appliance, service):
    step("a removal that fails is told until it is done")
    add(appliance, "solo", "solo")
    appliance.create_point("solo", "vault")
    service.admin("/down", {"mode": "refuse"})
    done = appliance.run("machine", "remove", "solo", timeout=200)
    check(done.returncode != 0, "it was removed without the vault")
    machine = appliance.machine("solo")
    check(machine["state"] == "removing", f"{machine}")
    alert = appliance.wait_alert("solo", "removal-failed", 5)
    check("landfall machine remove solo" in alert["mend"] and alert["cause"], f"{alert}")
    check(appliance.machine("solo")["health"] == "critical", "its health is not critical")
    text = appliance.run("status", json_output=False).stdout
    check(alert["text"] in text and alert["cause"] in text and alert["mend"] in text, text)
    appliance.kill()
    appliance.start()
    again = appliance.wait_alert("solo", "removal-failed", 10)
    check(again["cause"] == alert["cause"], f"another cause after a restart: {again}")
    service.admin("/down", {"mode": None})
    appliance.call("machine", "remove", "solo")
    check("solo" not in [m["name"] for m in appliance.call("machine", "list")["machines"]],
          "it is there still")
    add(appliance, "solo", "solo")
    appliance.create_point("solo", "vault")
    is_shown(appliance, "solo", "protected", True, True, 1)


def test(work):
    with StrictService(work) as service:
        with Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
            appliance.call("vault", "init")
            joined(appliance, service)
            removal(appliance, service)
    without_vault(work)


if __name__ == "__main__":
    run_test(test)
