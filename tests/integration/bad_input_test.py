#!/usr/bin/env python3
"""Bad input: each gets its exit code, one line that says what and where, one that says what to do;
and the daemon lives, with everything it had."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import appliance as lib  # noqa: E402
from appliance import BUILD, Failure, StrictService, check, run_test, step  # noqa: E402

BAD_SIZES = ("0", "1000", "1M512", "1049088", "8T", "8796093022208", "9T", "-1M", "-1", "M", "1X",
             "1.5G", "0x100000", "99999999999999999999999", "", "nan")
BAD_NAMES = ("", ".hidden", "-dash", "a/b", "a b", "..", "é", "x" * 64, "a\nb", "a%2fb", "dot.", "dots..")
UNKNOWN = "nowhere"


faults = []


class Appliance(lib.Appliance):
    """Goes on after a fault, so that one run tells all of them."""

    def refused(self, *words, **options):
        try:
            return super().refused(*words, **options)
        except Failure as fault:
            faults.append(str(fault))
            return ""


def machines(appliance):
    add = ("machine", "add")
    fuse = ("--source", "fuse")
    disk = ("--disk", "d=8M")
    for size in BAD_SIZES:
        appliance.refused(2, *add, "new", *fuse, "--disk", f"d={size}")
    appliance.refused(2, *add, "new", *fuse, "--disk", "d=1049088", says="MiB")
    appliance.refused(2, *add, "new", *fuse, "--disk", "d=8T", says=("8", "T"))
    for name in BAD_NAMES:
        appliance.refused(2, *add, *fuse, *disk, *(["--"] if name.startswith("-") else []), name)
        appliance.refused(2, *add, "new", *fuse, "--disk", f"{name}=8M")
        if name and not name.startswith("-"):
            appliance.refused(2, *add, "new", *fuse, *disk, "--group", name)
    appliance.refused(2, *add, "new", *fuse)
    appliance.refused(2, *add, "new", *fuse, "--disk", "d")
    appliance.refused(2, *add, "new", *fuse, *disk, "--disk", "d=16M", says="d")
    appliance.refused(2, *add, "new", "--source", "floppy", *disk, says="floppy")
    appliance.refused(2, *add, "new", "--source", "ebs", says="--instance")
    appliance.refused(2, *add, "new", "--source", "ebs", "--instance", "i-0123", *disk,
                      says="volumes")
    appliance.refused(2, *add, "new", *fuse, *disk, "--private-ip", "10.0.0.7", says="ebs")
    appliance.refused(2, *add, "new", *disk, says="source")
    appliance.refused(5, *add, "m", *fuse, *disk, says="m")
    appliance.refused(3, *add, "new", *fuse, *disk, "--policy", UNKNOWN, says=UNKNOWN)
    for verb in ("show", "remove", "pause", "resume"):
        appliance.refused(3, "machine", verb, UNKNOWN, says=UNKNOWN)
    appliance.refused(3, "status", UNKNOWN, says=UNKNOWN)


def full_group(appliance):
    """One machine has all the disks that a group can have."""
    add = ("machine", "add")
    fuse = ("--source", "fuse")
    disks = [word for i in range(127) for word in ("--disk", f"d{i}=1M")]
    appliance.call(*add, "greedy", *fuse, "--group", "full", "--policy", "fixed", *disks)
    for more in ("b=1M", "c=1M"):
        said = appliance.refused(2, *add, "late", *fuse, "--group", "full", "--disk", "a=1M",
                                 "--disk", more, says=("full", "128 disks", "127 of machine greedy"))
        check("another group" in said, f"no mend: {said}")
    appliance.refused(3, "machine", "show", "late")
    # What was refused has left nothing: there is room for one.
    appliance.call(*add, "late", *fuse, "--group", "full", "--disk", "a=1M")
    appliance.refused(2, *add, "later", *fuse, "--group", "full", "--disk", "a=1M", says="128")
    for name in ("late", "greedy"):
        appliance.call("machine", "remove", name)


def points(appliance):
    for verb in ("list", "create", "show"):
        appliance.refused(3, "point", verb, UNKNOWN, says=UNKNOWN)
    for point in ("999999", "999-20261122T055411Z", "1-20200101T000000Z", "1999-01-01T00:00:00Z",
                  "latest-app"):
        appliance.refused(3, "point", "show", "m", point)
    for point in ("yesterday", "-5", "1-2", "2026-13-45T00:00:00Z", "", "1e3", "0x1",
                  "18446744073709551616"):
        appliance.refused(2, "point", "show", "m", *(["--"] if point.startswith("-") else []),
                          point)
    for verb in ("keep", "delete"):
        appliance.refused(3, "point", verb, "m", "999999", says="999999")
    appliance.refused(3, "verify", "m", "999999")
    appliance.refused(2, "verify", "m", "--repair")
    appliance.refused(3, "inspect", "m", "999999")
    appliance.refused(2, "inspect", "m", "--partition", "first", says="whole number")
    appliance.refused(2, "inspect", "m", "--partition", "-1", says="whole number")
    appliance.refused(3, "inspect", "--close", "i999")
    appliance.refused(3, "clone", "create", "m", "999999")
    appliance.refused(2, "clone", "create", "m", "--quota", "much")
    appliance.refused(3, "clone", "remove", "c999")
    appliance.refused(2, "point", "create", "m", "--wait", "forever")


def jobs_and_policies(appliance):
    for verb in ("show", "watch", "cancel"):
        appliance.refused(3, "job", verb, "999999", says="999999")
        appliance.refused(2, "job", verb, "first")
    appliance.refused(3, "policy", "show", UNKNOWN, says=UNKNOWN)
    for setting in ("point-interval=-1", "point-interval=soon", "retention=some", "colour=blue",
                    "bandwidth=fast", "rpo-alert=", "=5", "vault-interval=2d"):
        appliance.refused(2, "policy", "set", "p", setting)
    appliance.refused(2, "policy", "set", "p", "point-interval=60s", "vault-interval=5s")
    appliance.refused(5, "policy", "set", "fixed", "point-interval=5s", says="fixed")
    appliance.refused(2, "policy", "set", "p q", "point-interval=5s")


def mends(appliance):
    """What to do is said in commands."""
    said = appliance.refused(3, "clone", "remove", "c99", says="c99")
    check("landfall clone list" in said, f"clone remove: {said}")
    appliance.refused(2, "frob")
    said = appliance.run("frob", json_output=False).stderr
    check("did you mean" not in said, f"frob is near nothing: {said}")
    said = appliance.run("machine", "add", "fresh", "--source", "agent", json_output=False).stdout
    check(said.count("no point yet") == 2, f"a machine without any point: {said}")
    appliance.call("machine", "remove", "fresh")


def words(appliance):
    for line in (["frobnicate"], ["machine"], ["machine", "ad", "x"], ["status", "--what"],
                 ["point", "create"], ["point", "create", "m", "extra"], ["status", "--socket"], []):
        done = appliance.run(*line, json_output=False)
        check(done.returncode == 2, f"landfall {line}: exit {done.returncode}")
        check(done.stderr.strip() or done.stdout.strip(), f"landfall {line} says nothing")


def without_daemon(work, appliance):
    done = subprocess.run([BUILD / "landfall", "--socket", f"{work}/none.sock", "status"],
                          capture_output=True, text=True, check=False)
    check(done.returncode == 6, f"no daemon: exit {done.returncode}")
    check("none.sock" in done.stderr and len(done.stderr.strip().splitlines()) == 2,
          f"no daemon: {done.stderr!r}")


def check_config(work, text, *says, environment=None, code=None):
    """--check-config finds the fault, names file and line, and tells in one line."""
    try:
        judge_config(work, text, says, environment, code)
    except Failure as fault:
        faults.append(str(fault))


def judge_config(work, text, says, environment, code):
    path = work / "broken.conf"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([BUILD / "landfalld", "--check-config", "--config", path],
                          capture_output=True, text=True, check=False, timeout=30,
                          env=environment)
    said = done.stderr + done.stdout
    check(done.returncode != 0 if code is None else done.returncode == code,
          f"{text!r}: exit {done.returncode}: {said}")
    for word in says:
        check(word in said, f"{text!r}: does not say {word!r}: {said}")
    started = subprocess.run([BUILD / "landfalld", "--config", path], capture_output=True,
                             text=True, check=False, timeout=30, env=environment)
    check(started.returncode not in (0, -11, -6), f"{text!r}: starts all the same")


def configurations(work):
    head = f"[appliance]\nstate_dir = {work}/x\nmount = {work}/y\ncontrol_socket = {work}/z.sock\n"
    check_config(work, head + "[wault]\nx = 1\n", "broken.conf:5", "wault")
    check_config(work, head + "[vault]\ncolour = blue\n", "broken.conf:6", "colour")
    check_config(work, head + "[journal]\nsize = big\n", "broken.conf:6", "big")
    check_config(work, head + "[journal]\nsize = 1K\n", "broken.conf", "256M")
    check_config(work, head + "[policy p]\npoint-interval = soon\n", "broken.conf:6", "soon")
    check_config(work, head + "[policy ]\npoint-interval = 5s\n", "broken.conf:5")
    check_config(work, head + "nonsense\n", "broken.conf:5")
    check_config(work, "state_dir = /x\n", "broken.conf:1")
    check_config(work, head + "[vault]\nauth = magic\n", "broken.conf:6", "magic")
    check_config(work, head + "[vault]\nendpoint = nonsense\n", "broken.conf:6")
    check_config(work, head + "state_dir = relative\n", "broken.conf:5")
    vault = head + "[vault]\naccount = acme\nauth = sharedkey\n"
    check_config(work, vault, "key_file")
    check_config(work, vault + f"key_file = {work}/no-such-key\n", "no-such-key")
    (work / "open-key").write_text("a2V5\n", encoding="ascii")
    os.chmod(work / "open-key", 0o644)
    check_config(work, vault + f"key_file = {work}/open-key\n", "open-key", "everyone")
    for name, key, says in (("garbled", "not base64!!\n", "base64"), ("empty", "", "empty")):
        (work / name).write_text(key, encoding="ascii")
        os.chmod(work / name, 0o600)
        check_config(work, vault + f"key_file = {work / name}\n", "broken.conf:8", says)
    identity = "auth = managed-identity\n"
    check_config(work, head + f"[vault]\naccount = Acme_X\n{identity}", "broken.conf:6", "Acme_X")
    check_config(work, head + f"[vault]\naccount = acme\n{identity}ca_file = {work}/none.pem\n",
                 "broken.conf:8", "none.pem")
    check_config(work, head + f"[journal]\ndir = {work}/empty\n", "broken.conf:6", "directory")
    check_config(work, head + f"[journal]\ndir = {work}/empty/below\n", "broken.conf:6", "directory")
    check_config(work, head + f"[cache]\nfile = {work}\n", "broken.conf:6", "file")
    check_config(work, head.replace(f"{work}/x", f"{work}/empty"), "broken.conf:2", "directory")
    keyless = dict(os.environ, AZURE_STORAGE_CONNECTION_STRING="AccountName=acme")
    check_config(work, head + "[vault]\ncontainer = c\n", "broken.conf", environment=keyless)
    done = subprocess.run([BUILD / "landfalld", "--check-config", "--config", work / "none.conf"],
                          capture_output=True, text=True, check=False)
    check(done.returncode != 0 and "none.conf" in done.stderr + done.stdout, "a missing file")
    broken = dict(os.environ, AZURE_STORAGE_CONNECTION_STRING="AccountName=x;garbage")
    check_config(work, head, "AZURE_STORAGE_CONNECTION_STRING", environment=broken)
    for option in ("--what", "--config"):
        done = subprocess.run([BUILD / "landfalld", option], capture_output=True, text=True,
                              check=False, timeout=30)
        check(done.returncode == 2, f"landfalld {option}: exit {done.returncode}")


def no_vault(work, _service):
    with Appliance(BUILD, work, name="alone") as alone:
        for verb in ("init", "check", "takeover"):
            alone.refused(1, "vault", verb, says="vault")
        alone.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M")
        alone.refused(1, "point", "create", "m", "--wait", "vault", says="vault")
        check(alone.create_point("m")["local"], "no local point without a vault")
        check(alone.machine("m")["state"] == "local-only", f"the state is not local-only: "
              f"{alone.machine('m')}")
        alone.wait_alert("m", "vault-missing")


def wrong_key(work, service):
    facts = service.facts
    wrong = facts["connection_string"].replace(facts["key"], "d3JvbmcgYnkgZmFyCg==")
    with Appliance(BUILD, work, wrong, name="wrong") as appliance:
        appliance.refused(4, "vault", "init", says="credentials")
        appliance.refused(4, "vault", "check")
        appliance.call("machine", "add", "w", "--source", "fuse", "--disk", "d=8M")
        appliance.wait_alert("w", "vault-refused")
        check(appliance.create_point("w")["local"], "no local point with a wrong key")


def never_made(work, service):
    with Appliance(BUILD, work, service.connection_string, name="uninitialised",
                   container="never-made") as appliance:
        for verb in ("check", "takeover"):
            appliance.refused(3, "vault", verb, says="never-made")
        appliance.call("machine", "add", "u", "--source", "fuse", "--disk", "d=8M")
        alert = appliance.wait_alert("u", "vault-missing")
        check("init" in alert["mend"], f"the mend does not say init: {alert}")


def test(work):
    policies = {"fixed": {"point-interval": "0", "retention": "all:1h"}}
    with StrictService(work) as service:
        with Appliance(BUILD, work, service.connection_string, policies=policies) as appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M",
                           "--policy", "fixed")
            appliance.create_point("m", "vault")
            before = appliance.call("machine", "list")["machines"]
            for group in (words, mends, machines, full_group, points, jobs_and_policies):
                step(group.__name__.replace("_", " "))
                group(appliance)
            without_daemon(work, appliance)
            check(appliance.alive(), "the daemon has ended")
            after = appliance.call("machine", "list")["machines"]
            check([m["name"] for m in before] == [m["name"] for m in after], "machines changed")
            appliance.refused(5, "point", "delete", "m", "latest")
            appliance.verify("m", "latest")
        step("configurations")
        configurations(work)
        step("vaults")
        for case in (no_vault, wrong_key, never_made):
            try:
                case(work, service)
            except Failure as fault:
                faults.append(f"{case.__name__}: {fault}")
    check(not faults, "\n".join(faults))


if __name__ == "__main__":
    run_test(test)
