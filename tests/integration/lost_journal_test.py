#!/usr/bin/env python3
"""What is lost on the appliance's disk is never taken for an empty machine: a journal that is gone, the
record of a disk, the group's state."""

import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from appliance import (BUILD, MIB, Appliance, StrictService, appliance_with_web, check, run_test, step,
                       wait_until)

POLICY = {"default": {"point-interval": "0", "vault-interval": "1s"}}


def flip(path, at, bit):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bit]))


def blank(directory, content):
    """Only the segments: a young journal has no checkpoint yet."""
    for checkpoint in directory.glob("checkpoint.*"):
        checkpoint.unlink()
    for segment in directory.glob("*.seg"):
        segment.write_bytes(content(segment.stat().st_size))


def journal_is_gone(work, service):
    step("a journal of which only the lock is left is not a new one")
    with appliance_with_web(work, service, "gone", POLICY) as a:
        a.write("web", "root", 0, os.urandom(MIB))
        a.create_point("web", wait="vault")
        a.stop()
        for file in (a.journal / "web").iterdir():
            if file.name != "lock":
                file.unlink()
        a.start()
        machine = a.machine("web")
        check(machine["state"] == "failed", f"it is {machine['state']}")
        a.refused(1, "point", "create", "web", says="journal")
    with Appliance(BUILD, work, name="none") as a:
        a.call("machine", "add", "later", "--source", "agent")
        a.stop()
        a.start()
        check(a.machine("later")["state"] != "failed", "a machine without disks yet has lost nothing")


def is_lost(a, machine):
    """It is told, nothing is made of it, and the files stay for whoever can rescue them."""
    files = sorted(p.name for p in (a.journal / machine).iterdir() if p.suffix == ".seg")
    a.start()
    alert = a.wait_alert(machine, "group-failed")
    check("journal" in alert["cause"] and "is empty" in alert["cause"], f"{alert}")
    check(a.machine(machine)["state"] == "failed", f"it is {a.machine(machine)['state']}")
    a.refused(1, "point", "create", machine, says="journal")
    check(not pathlib.Path(a.live(machine, "root")).exists(), "zeros are shown as the disk")
    left = sorted(p.name for p in (a.journal / machine).iterdir() if p.suffix == ".seg")
    check(left == files, f"{files} became {left}")
    return alert


def journal_is_blank(work, service):
    """The only segment is there, and what was in it is not: a repaired filesystem, a dead disk."""
    for name, content in (("empty", lambda size: b""), ("zeros", bytes),
                          ("noise", os.urandom)):
        step(f"a journal of which nothing can be read ({name}) is not a new one")
        with appliance_with_web(work, service, name, POLICY) as a:
            a.write("web", "root", 0, b"Y" * MIB)
            a.create_point("web", wait="vault")
            a.write("web", "root", MIB, b"Z" * MIB)
            number = a.create_point("web", wait="vault")["number"]
            a.stop()
            blank(a.journal / "web", content)
            alert = is_lost(a, "web")
            check("vault takeover --group web" in alert["mend"], f"{alert}")
            a.stop()
            is_lost(a, "web")
            a.call("vault", "takeover", "--group", "web")
            wait_until(30, lambda: a.machine("web")["state"] == "protected", "it is not protected")
            check([p["number"] for p in a.points("web")][-1] == number, "points are lost")
            with open(a.live("web", "root"), "rb") as live:
                check(live.read(2 * MIB) == b"Y" * MIB + b"Z" * MIB, "the disk is not what it was")
            a.write("web", "root", MIB, os.urandom(MIB))
            a.verify("web", a.create_point("web", wait="vault")["number"])
            a.check_vault()
    step("the same without a vault")
    with Appliance(BUILD, work, name="alone", policies=POLICY) as a:
        a.call("machine", "add", "web", "--source", "fuse", "--disk", "root=16M")
        a.write("web", "root", 0, b"Y" * MIB)
        a.create_point("web")
        a.stop()
        blank(a.journal / "web", lambda size: b"")
        alert = is_lost(a, "web")
        check("machine remove" in alert["mend"] and "takeover" not in alert["mend"], f"{alert}")
        a.call("machine", "remove", "web")
        a.call("machine", "add", "web", "--source", "fuse", "--disk", "root=16M")
        a.write("web", "root", 0, b"Y")
        a.create_point("web")


def disk_is_forgotten(work, service):
    step("a disk whose record is lost is no new disk: no point is made of its zeros")
    with appliance_with_web(work, service, "forgot", POLICY) as a:
        a.write("web", "root", 0, os.urandom(MIB))
        a.create_point("web", wait="vault")
        a.write("web", "root", 4 * MIB, os.urandom(MIB))
        a.kill()
        # The first record, behind the segment's header page: the disk's. No checkpoint names it.
        for checkpoint in (a.journal / "web").glob("checkpoint.*"):
            checkpoint.unlink()
        flip(sorted((a.journal / "web").glob("*.seg"))[0], 4096 + 60, 4)
        a.start()
        alert = a.wait_alert("web", "resync-needed", 60)
        a.refused(5, "point", "create", "web", says="--resynced")
        wait_until(30, lambda: a.call("point", "list", "web")["unlisted_point"] == 1,
                   lambda: f"nothing tells of the vault's point: {a.call('point', 'list', 'web')}")
        said = a.run("point", "list", "web", json_output=False).stderr
        check("the vault holds points up to 1" in said, f"nor does the command: {said}")
        check("--resynced" in alert["mend"] and "takeover" in alert["mend"], f"{alert}")
        step("the mend: the content written again")
        a.write("web", "root", 0, os.urandom(16 * MIB))
        number = a.call("point", "create", "web", "--resynced", "--wait", "vault")["point"]["number"]
        wait_until(30, lambda: "resync-needed" not in a.alerts("web"), "the alert stays")
        check(a.machine("web")["state"] == "protected", f"it is {a.machine('web')['state']}")
        wait_until(30, lambda: a.call("point", "list", "web")["unlisted_point"] is None and
                   [p["number"] for p in a.points("web") if p["vault"]] == [1, number],
                   lambda: f"{a.call('point', 'list', 'web')}")
        a.verify("web", number)
        step("the other mend: back to the newest point of the vault")
        a.kill()
        for checkpoint in (a.journal / "web").glob("checkpoint.*"):
            checkpoint.unlink()
        flip(sorted((a.journal / "web").glob("*.seg"))[0], 4096 + 60, 4)
        a.start()
        a.wait_alert("web", "resync-needed", 60)
        a.refused(5, "vault", "takeover", "--group", "web", says="--keep-vault")
        a.call("machine", "remove", "web", "--keep-vault")
        said = a.refused(3, "vault", "takeover", "--group", "nope", says="no group nope")
        check("groups: web" in said, f"it does not say which there are: {said}")
        a.call("vault", "takeover", "--group", "web")
        wait_until(30, lambda: a.machine("web")["state"] == "protected", "it is not protected")
        check("resync-needed" not in a.alerts("web"), "the alert is there")
        a.write("web", "root", MIB, os.urandom(MIB))
        a.verify("web", a.create_point("web", wait="vault")["number"])


def own_files_are_damaged(work):
    step("a flipped bit in the appliance's own files: found, named, mended from the copy")
    with Appliance(BUILD, work, name="own", listen="127.0.0.1:0") as a:
        a.call("machine", "add", "web", "--source", "fuse", "--disk", "root=16M")
        a.call("machine", "add", "live", "--source", "agent")
        key = a.call("key", "create", "--machine", "live")["key"]["id"]
        a.refused(2, "key", "create", "--uses", "0", says="leave it out")
        a.stop()
        files = [a.state / "registry.json", a.state / "agent_keys.json",
                 a.state / "pki/authority.pem", a.state / "pki/issued.json"]
        for path in files:
            was = path.read_bytes()
            flip(path, len(was) // 2, 1)
            a.start()
            alert = wait_until(20, lambda: a.own_alerts().get("state-damaged"), f"{path}: no alert")
            check(path.name in alert["cause"] and alert["mend"], f"{path}: {alert}")
            check(path.read_bytes() == was, f"{path} is not what it was")
            a.agent_port()
            a.write("web", "root", 0, b"works")
            check(a.call("key", "list")["keys"][0]["id"] == key, "the key is lost")
            a.stop()
        a.start()
        check("state-damaged" not in a.own_alerts(), "it is still said after another start")
        a.stop()

        step("with its copy: agents are kept out, with words; the rest runs; the mend works")
        for path in files[1:]:
            copy = path.with_name(path.name + ".copy")
            was = path.read_bytes()
            for each in (path, copy):
                flip(each, len(was) // 2, 1)
            a.start()
            a.write("web", "root", 0, b"works")
            a.create_point("web")
            alert = wait_until(20, lambda: a.own_alerts().get("agents-port"), f"{path}: no alert")
            check(path.name in alert["cause"] and "restart landfalld" in alert["mend"],
                  f"{path}: {alert}")
            a.refused(1, "key", "create", says=(path.name, "restart landfalld"))
            a.stop()
            path.write_bytes(was)  # from a backup
            a.start()
            a.agent_port()
            wait_until(20, lambda: "agents-port" not in a.own_alerts(),
                       "the mend does not work")
            a.stop()
        for each in (files[1], files[1].with_name("agent_keys.json.copy")):
            flip(each, 20, 1)
            each.rename(each.with_suffix(".away"))
        a.start()
        a.agent_port()
        check(a.call("key", "list")["keys"] == [], "keys from nowhere")
        a.call("machine", "remove", "web")


def state_is_damaged(work, service):
    step("a flipped bit in a group's state is mended from its copy, and deletes nothing")
    with appliance_with_web(work, service, "state", POLICY) as a:
        a.write("web", "root", 0, os.urandom(MIB))
        a.create_point("web", wait="vault")
        a.stop()
        state = a.state / "groups/web.json"
        copy = state.with_name("web.json.copy")
        was = state.read_bytes()
        check(json.loads(was)["checksum"], "it does not prove itself")
        for path in (state, copy):
            flip(path, 12, 1)
            a.start()
            wait_until(30, lambda: a.machine("web")["state"] == "protected", "it does not run")
            check(path.read_bytes() == was, f"{path} is not what it was")
            alert = wait_until(20, lambda: a.own_alerts().get("state-damaged") or path == copy,
                               "no alert")
            check(path == copy or "web.json" in alert["cause"] and alert["mend"], f"{alert}")
            a.stop()
        step("damaged with its copy: the machine is kept out, with a mend that works")
        for path in (state, copy):
            flip(path, 12, 1)
        a.start()
        check(a.machine("web")["state"] == "failed", "a damaged state is believed")
        alert = a.wait_alert("web", "group-failed")
        check(f"{state}" in alert["cause"] and f"{copy} away" in alert["mend"], f"{alert}")
        for path in (state, copy):
            path.rename(path.with_suffix(".away"))
        wait_until(90, lambda: a.machine("web")["state"] == "protected", "it does not come back")
        a.write("web", "root", MIB, os.urandom(MIB))
        a.verify("web", a.create_point("web", wait="vault")["number"])
        check(state.exists() and copy.exists(), "it is not kept twice")
        a.call("machine", "remove", "web")
        check(not state.exists() and not copy.exists(), "its state outlives it")


def test(work):
    with StrictService(work) as service:
        journal_is_gone(work, service)
        journal_is_blank(work, service)
        disk_is_forgotten(work, service)
        state_is_damaged(work, service)
    own_files_are_damaged(work)


run_test(test)
