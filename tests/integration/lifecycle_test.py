#!/usr/bin/env python3
"""The daemon's comings and goings under use: SIGTERM with writers, open files and a flush under
way; SIGKILL with open files; a second daemon on the same state; a reload that changes a policy."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, is_mounted, run_test, step,
                       wait_until)  # noqa: E402
from images import Image, Ledger, Record, Scribbler, vault_of  # noqa: E402

BLOCKS = 16 * 256
POLICIES = {"p": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}


def term_under_load(service, appliance, ledger):
    """It ends within seconds, unmounts, and what was acknowledged is there afterwards."""
    step("SIGTERM with a writer, an open point and a slow flush")
    ledger.start()
    point = appliance.create_point("m", "vault")
    service.admin("/rules", {"match": {"operation": "PutPage"}, "times": 0,
                             "fault": {"kind": "delay", "delay_s": 2}})
    appliance.create_point("m")
    held = open(f"{point['path']}/d.vhd", "rb")
    began = time.monotonic()
    appliance.stop()
    took = time.monotonic() - began
    service.admin("/rules/clear", {})
    check(appliance.process.returncode == 0, f"it ended with {appliance.process.returncode}")
    check(took < 20, f"SIGTERM took {took:.1f} s")
    check(not is_mounted(appliance.mount), "it is still mounted")
    ledger.end()
    with contextlib.suppress(OSError):  # nobody is there to hear of the close
        held.close()
    appliance.start()
    ledger.check(what="after SIGTERM")


def kill_with_open_files(appliance, ledger):
    step("SIGKILL with open files: the mount comes back")
    for _ in range(3):
        ledger.start()
        held = open(appliance.live("m", "d"), "rb")
        appliance.create_point("m")
        appliance.kill()
        ledger.end()
        check(is_mounted(appliance.mount), "a dead daemon's mount is gone by itself")
        appliance.start()
        with contextlib.suppress(OSError):
            held.close()
        ledger.check(what="after SIGKILL")


def second_daemon(work, appliance):
    """Neither on the same socket nor with another one on the same state, journal or mount."""
    step("a second daemon on the same state")
    for change in ({}, {"control_socket": f"{work}/other.sock"},
                   {"control_socket": f"{work}/other.sock", "mount": f"{work}/other-fs"}):
        settings = {s: dict(k) for s, k in appliance.settings.items()}
        settings["appliance"].update(change)
        config = work / "second.conf"
        config.write_text("\n".join(f"[{s}]\n" + "\n".join(f"{k} = {v}" for k, v in keys.items())
                                    for s, keys in settings.items()) + "\n", encoding="utf-8")
        done = subprocess.run([BUILD / "landfalld", "--config", config], capture_output=True,
                              text=True, check=False, timeout=60, env=appliance.environment)
        check(done.returncode not in (0, -6, -11), f"{change}: a second daemon ran: {done.stderr}")
        check(done.stderr.strip(), f"{change}: it says nothing")
        appliance.call("status")
        check(is_mounted(appliance.mount), "it took the mount away")
    appliance.create_point("m", "vault")


def reload(appliance):
    step("SIGHUP: another policy, at once")
    before = len(appliance.points("m"))
    appliance.settings["policy p"]["point-interval"] = "1s"
    appliance.write_config()
    appliance.reload()
    wait_until(20, lambda: appliance.call("policy", "show", "p")["policy"]["settings"]
               ["point-interval"] == "1s", "the reload changes nothing")
    fd = os.open(appliance.live("m", "d"), os.O_WRONLY)
    try:
        for i in range(200):
            os.pwrite(fd, b"%4096d" % i, (BLOCKS + i) * 4096)
            if len(appliance.points("m")) > before + 1:
                break
            time.sleep(0.05)  # the load, spread over the seconds points are made in
        else:
            check(False, "no points are made by the new policy")
    finally:
        os.close(fd)
    good = appliance.config.read_text(encoding="utf-8")
    appliance.config.write_text("[nonsense]\nx = 1\n", encoding="utf-8")
    appliance.reload()
    wait_until(20, lambda: "nonsense" in appliance.log_end(4000), "a broken file is not told of")
    check(appliance.call("policy", "show", "p")["policy"]["settings"]["point-interval"] == "1s",
          "a broken file changes something")
    appliance.config.write_text(good, encoding="utf-8")


def clones_end(appliance):
    """Clones do not outlive the daemon; their quota holds; a point never changes by them."""
    step("clones")
    point = appliance.create_point("m")
    before = Image.of_file(f"{point['path']}/d.vhd")
    clone = appliance.call("clone", "create", "m", point["number"], "--quota", "4M")["clone"]
    fd = os.open(f"{clone['path']}/d.vhd", os.O_RDWR)
    try:
        written = 0
        try:
            while written < 16 * MIB:
                written += os.pwrite(fd, os.urandom(256 << 10), written)
            os.fsync(fd)
            check(False, "a clone of 4 MiB takes 16 MiB")
        except OSError:
            check(written >= 2 * MIB, f"a clone of 4 MiB takes only {written} bytes")
        appliance.refused(5, "clone", "remove", clone["id"])
        appliance.refused(5, "machine", "remove", "m")
    finally:
        os.close(fd)
    before.check_same(Image.of_file(f"{point['path']}/d.vhd"), "the point, after writes to a clone")
    appliance.stop()
    appliance.start()
    check(appliance.call("clone", "list")["clones"] == [], "a clone outlives the daemon")
    check(os.listdir(f"{appliance.mount}/m/clones") == [], "a clone's files outlive the daemon")


def everything_equal(service, appliance, work):
    with Scribbler(appliance.live("m", "d"), work / "mirror", 32 * MIB, 5) as writer:
        record = Record(appliance, "m")
        with open(appliance.live("m", "d"), "rb") as live, open(work / "mirror", "r+b") as mirror:
            mirror.write(live.read(32 * MIB))
        writer.some(200)
        image = writer.image()
        point = appliance.create_point("m", "vault")
        record.images[point["number"]] = {"m/d": image}
        check(record.check_local() == record.check_vault(vault_of(service)) == [point["number"]],
              "the point is missing")
    appliance.check_vault()
    service.check_witness()


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=32M", "--policy", "p")
        ledger = Ledger(appliance.live("m", "d"), work / "ledger", BLOCKS, seed=1)
        try:
            term_under_load(service, appliance, ledger)
            kill_with_open_files(appliance, ledger)
        finally:
            ledger.kill()
        second_daemon(work, appliance)
        clones_end(appliance)
        reload(appliance)
        everything_equal(service, appliance, work)


if __name__ == "__main__":
    run_test(test)
