#!/usr/bin/env python3
"""The mount, taken away from outside while landfalld runs: it says so, with cause and mend, puts the
mount back by itself, serves those who have files open, and says what is true meanwhile.
"""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from appliance import (BUILD, Appliance, check, is_mounted, need,  # noqa: E402
                       run_test, shell, step, wait_until)

MIB = 1 << 20


def mount_alert(a):
    return a.own_alerts().get("mount-lost")


def inspect_once(a):
    """An inspection mounts the filesystem and finds the file in it."""
    found = a.call("inspect", "web")["inspection"]
    at = found["filesystems"][0]["mounted_at"]
    check(at and pathlib.Path(at, "word").read_text(encoding="ascii") == "there",
          f"the inspection does not show the point: {found}")
    a.call("inspect", "--close", found["id"])


def test(work):
    need("mkfs.ext4")
    with Appliance(BUILD, work) as a:
        a.call("machine", "add", "web", "--source", "fuse", "--disk", "root=32M", "--disk", "log=8M")
        image, tree = f"{work}/image", pathlib.Path(work, "tree")
        tree.mkdir()
        (tree / "word").write_text("there", encoding="ascii")
        with open(image, "wb") as f:
            f.truncate(32 * MIB)
        shell("mkfs.ext4", "-q", "-d", tree, image)
        shell("dd", f"if={image}", f"of={a.live('web', 'root')}", "bs=1M", "conv=notrunc,fsync")
        a.create_point("web")
        inspect_once(a)
        check(mount_alert(a) is None, "an alert though nothing happened")

        step("umount -l under an open file")
        with open(a.live("web", "log"), "r+b", buffering=0) as old:
            os.pwrite(old.fileno(), b"before", 0)
            shell("umount", "-l", a.mount)
            inspect_once(a)  # at once: what is asked for is there
            wait_until(10, lambda: is_mounted(a.mount), "the mount does not come back")
            alert = wait_until(10, lambda: mount_alert(a), "no alert")
            check(alert["severity"] == "warning" and a.mount in alert["text"] and
                  "unmounted" in alert["cause"] and alert["mend"], f"the alert: {alert}")
            os.pwrite(old.fileno(), b"through the old one", 512)
            os.fsync(old.fileno())
            with open(a.live("web", "log"), "r+b", buffering=0) as new:
                check(os.pread(new.fileno(), 19, 512) == b"through the old one",
                      "the new mount does not show what was written through the old one")
                os.pwrite(new.fileno(), b"through the new one", 1024)
            check(os.pread(old.fileno(), 19, 1024) == b"through the new one",
                  "the old mount does not show what was written through the new one")
            check(list(a.alerts("web")) == ["vault-missing"], f"the machine: {a.alerts('web')}")
        a.create_point("web")

        step("umount, with nothing open, and by itself")
        wait_until(20, lambda: subprocess.run(["umount", a.mount], check=False,
                                              capture_output=True).returncode == 0,
                   "the mount stays busy")
        wait_until(10, lambda: is_mounted(a.mount), "the mount does not come back")

        step("the connection ended")
        with open(a.live("web", "log"), "r+b", buffering=0) as old:
            subprocess.run(["umount", "-f", a.mount], check=False, capture_output=True)
            wait_until(10, lambda: is_mounted(a.mount) and os.path.exists(a.live("web", "log")),
                       "the mount does not come back")
        inspect_once(a)

        step("something mounted over it")
        shell("mount", "-t", "tmpfs", "none", a.mount)
        try:
            wait_until(10, lambda: (mount_alert(a) or {}).get("severity") == "critical",
                       "no critical alert")
            alert = mount_alert(a)
            check("mounted over it" in alert["cause"] and "findmnt" in alert["mend"],
                  f"the alert: {alert}")
            check(a.call("status")["appliance"]["mounted"] is False, "it says it is mounted")
            a.refused(5, "inspect", "web", says=("mounted over it", "findmnt"))
            a.create_point("web")
        finally:
            shell("umount", a.mount)
        wait_until(10, lambda: (mount_alert(a) or {}).get("severity") == "warning",
                   "the alert stays critical")
        inspect_once(a)
        with open(a.live("web", "log"), "rb") as old:
            shell("umount", "-l", a.mount)
            wait_until(10, lambda: is_mounted(a.mount), "the mount does not come back")
            a.stop()
            check(not is_mounted(a.mount), "the mount is left behind")
            try:
                old.read(1)
                check(False, "an old file reads though the daemon is gone")
            except OSError:
                pass


run_test(test)
