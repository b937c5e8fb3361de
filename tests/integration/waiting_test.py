#!/usr/bin/env python3
"""Who waits for the vault is told what it waits for, and what to do about it.

`point create --wait vault` without a vault, with the vault away, while the group is paused and
after a takeover; `inspect` of what only the vault holds while it is away. What a mend tells to
run is run.
"""

import base64
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, need, run_test, step,
                       wait_until)  # noqa: E402

POLICIES = {"calm": {"point-interval": "0", "vault-interval": "1s", "rpo-alert": "0"}}


def fails(appliance, *words, says):
    done = appliance.run(*words, json_output=False, timeout=60)
    what = f"landfall {' '.join(words)}: exit {done.returncode}: {done.stdout}{done.stderr}"
    check(done.returncode != 0, what)
    for word in says:
        check(word in done.stderr, f"no {word!r}: {what}")
    return done


def vault_line(appliance):
    text = appliance.run("status", json_output=False).stdout
    return next(line for line in text.splitlines() if line.startswith("vault"))


def obey(appliance, text):
    """Runs the first command of a mend."""
    command = re.search(r"'landfall ([^']+)'", text)
    check(command, f"the mend names no command: {text}")
    appliance.call(*command[1].split())


def no_machine_yet(service, appliance, work):
    step("no machine yet: the appliance itself tells of the vault")
    other_key = base64.b64encode(b"another key").decode()
    wrong = re.sub("AccountKey=[^;]*", f"AccountKey={other_key}", service.connection_string)
    with Appliance(BUILD, work, wrong, name="wrong") as refused:
        for one, code, words in ((appliance, "vault-missing", "(not initialised"),
                                 (refused, "vault-refused", "(refuses us)")):
            found = wait_until(30, lambda: one.call("status")["appliance"]["alerts"],
                               "no alert of the vault")
            check([a["code"] for a in found] == [code] and found[0]["cause"], f"{found}")
            check(one.call("status")["health"] != "ok", "health is ok")
            check(words in vault_line(one), vault_line(one))


def not_initialised(appliance):
    step("a service without a vault")
    done = fails(appliance, "point", "create", "one", "--wait", "vault",
                 says=["not initialised", "vault init"])
    line = wait_until(20, lambda: "not initialised" in vault_line(appliance) and
                      vault_line(appliance), lambda: vault_line(appliance))
    check("out of reach" not in line, line)
    obey(appliance, done.stderr)
    appliance.create_point("one", "vault", timeout=60)
    check("(" not in vault_line(appliance), vault_line(appliance))


def out_of_reach(service, appliance, work):
    step("the vault is away: the waiting command tells, and ends when it is back")
    service.admin("/down", {"mode": "refuse"})
    log = work / "waiting.err"
    with open(log, "wb") as errors, open(appliance.live("one", "d"), "r+b", 0) as disk:
        disk.write(b"a" * 4096)
        with subprocess.Popen([BUILD / "landfall", "--socket", appliance.socket, "point", "create",
                               "one", "--wait", "vault"], stdout=errors, stderr=errors,
                              env=appliance.environment) as waiting:
            try:
                wait_until(60, lambda: b"waits: the vault is out of reach" in log.read_bytes(),
                           lambda: f"not told: {log.read_bytes()}")
                check("(out of reach)" in vault_line(appliance), vault_line(appliance))
                check(waiting.poll() is None, "it did not go on waiting")
                service.admin("/down", {"mode": None})
                check(waiting.wait(60) == 0, f"{log.read_bytes()}")
            finally:
                waiting.kill()


def paused(appliance):
    step("the group is paused: the mends' commands work")
    appliance.call("machine", "pause", "one")
    alert = appliance.wait_alert("two", "paused")
    done = fails(appliance, "point", "create", "two", "--wait", "vault", says=["paused", "resume"])
    obey(appliance, done.stderr)
    wait_until(10, lambda: not appliance.machine("two")["paused"], "it is not resumed")
    appliance.call("machine", "pause", "two")
    obey(appliance, alert["mend"])
    wait_until(10, lambda: not appliance.machine("two")["paused"], "it is not resumed")


def format_disk(appliance, work):
    image = work / "image"
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with open(appliance.live("two", "e"), "r+b", 0) as disk:
        disk.write(image.read_bytes())


def taken_over(service, appliance, work):
    step("another appliance takes the group over")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                   name="other") as other:
        other.call("vault", "takeover", timeout=120)
        fails(appliance, "point", "create", "one", "--wait", "vault",
              says=["belongs to another appliance", "landfall machine remove one"])
        appliance.wait_alert("one", "taken-over", 10)
        step("inspect of what only the vault holds, while it is away")
        service.admin("/down", {"mode": "refuse"})
        other.create_point("two")  # so that it is asked
        other.wait_alert("two", "vault-unreachable", 60)
        fails(other, "inspect", "two", says=["could be mounted", "out of reach", "→"])
        check(not other.call("inspect", "--list")["inspections"], "an inspection stays open")
        service.admin("/down", {"mode": None})
        wait_until(60, lambda: not other.alerts("two"), "it does not recover")
        found = other.call("inspect", "two")["inspection"]
        check(any(f["mounted_at"] for f in found["filesystems"]), f"{found}")
        other.call("inspect", "--close", found["id"])


def adding(service, appliance, work):
    step("machine add while the vault is away: it is said at once, and again at the end")
    told = appliance.run("--no-progress", "machine", "add", "quick", "--source", "fuse", "--disk",
                         "d=4M", json_output=False)
    check(told.returncode == 0 and not told.stderr, f"{told}")
    service.admin("/down", {"mode": "refuse"})
    log = work / "adding.err"
    with open(log, "wb") as errors:
        with subprocess.Popen([BUILD / "landfall", "--socket", appliance.socket, "machine", "add",
                               "late", "--source", "fuse", "--disk", "d=4M"], stdout=errors,
                              stderr=errors, env=appliance.environment) as command:
            try:
                wait_until(8, lambda: b"waits: the vault is asked" in log.read_bytes(),
                           lambda: f"nothing is said: {log.read_bytes()}")
                check(command.poll() is None, "it is over already")
                check(command.wait(90) == 0, f"it fails: {log.read_bytes()}")
            finally:
                command.kill()
    check("warning: the vault could not be asked" in log.read_text(), log.read_text())
    service.admin("/down", {"mode": None})
    wait_until(90, lambda: not appliance.alerts("late"), lambda: f"{appliance.alerts('late')}")
    appliance.refused(3, "machine", "add", "none", "--source", "fuse", "--disk", "d=4M",
                      "--policy", "none", says="policy")


def test(work):
    need("mkfs.ext4")
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        no_machine_yet(service, appliance, work)
        for name, disk in (("one", "d=4M"), ("two", "e=64M")):
            appliance.call("machine", "add", name, "--source", "fuse", "--disk", disk, "--group",
                           "g", "--policy", "calm")
        not_initialised(appliance)
        out_of_reach(service, appliance, work)
        paused(appliance)
        format_disk(appliance, work)
        appliance.create_point("two", "vault")
        adding(service, appliance, work)
        taken_over(service, appliance, work)


if __name__ == "__main__":
    run_test(test)
