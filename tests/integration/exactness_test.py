#!/usr/bin/env python3
"""Every recovery point, here and in the vault, equals the image written down when it was sealed.

    exactness_test.py azurite|strict

A machine with three disks is written through its mount: ext4 and xfs by way of loop devices, and a
third by random writes, discards and zeros, dd and qemu-img, whose result a plain file mirrors. Points are sealed
while everything is quiet, and what each disk holds then is written down. Every point in the vault,
read by a client that shares no code with the appliance, must be that image, footer included; so
must the file in the mount; and the stock tools must like it.
"""

import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, TOP, Appliance, Azurite, Failure, StrictService, check,
                       need, run_test, shell, step)  # noqa: E402
from images import Filesystem, Image, Record, Scribbler, vault_of  # noqa: E402

ROUNDS = 8
SIZES = {"root": 64, "data": 320, "raw": 48}


def change_files(directory, round_number):
    """What programs do to files."""
    tree = directory / f"round-{round_number}"
    shutil.copytree("/usr/include/linux", tree, symlinks=True,
                    ignore=lambda d, names: [n for i, n in enumerate(sorted(names))
                                             if i % 9 != round_number and d.endswith("linux")])
    for old in sorted(directory.glob("round-*/*.h"))[::3]:
        old.unlink()
    with open(directory / "grows", "ab") as file:
        file.write(os.urandom(700_000))
        os.fsync(file.fileno())
    if round_number % 3 == 2:
        os.truncate(directory / "grows", 300_000)
        shell("fstrim", directory)


def copy_with(tool, raw):
    """The mirror is changed behind the writer's back and copied onto the disk by a stock tool."""
    for at in range(0, raw.size, 5 * MIB):
        os.pwrite(raw.mirror, os.urandom(300 << 10), at + 12_345)
    if tool == "dd":
        shell("dd", f"if={raw.mirror_path}", f"of={raw.path}", "bs=1M", "conv=notrunc,fsync")
    else:
        shell("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw.mirror_path, raw.path)


def images_of(appliance, raw):
    images = {f"m/{disk}": Image.of_file(appliance.live("m", disk)) for disk in SIZES}
    raw.image().check_same(images["m/raw"], "the live disk, against its mirror,")
    return images


def seal(appliance, record, filesystems, raw, round_number, wait):
    """Quiet, image, seal: the image is right only if it is the same afterwards. Odd rounds freeze
    the filesystems; after even ones their logs want replay."""
    frozen = round_number % 2 == 1
    for _ in range(5):
        for filesystem in filesystems:
            filesystem.sync()
            if frozen:
                shell("fsfreeze", "-f", filesystem.at)
        try:
            before = images_of(appliance, raw)
            point = appliance.create_point("m", wait)
            after = images_of(appliance, raw)
        finally:
            for filesystem in filesystems:
                if frozen:
                    shell("fsfreeze", "-u", filesystem.at)
        if all(before[d].digest == after[d].digest for d in before):
            record.images[point["number"]] = before
            break
    else:
        raise Failure("the filesystems do not come to rest")
    return point["number"]


def check_tools(appliance, work, record, numbers):
    """qemu-img reads size and content; a vault copy is the same disk to it."""
    for number in numbers:
        point = next(p for p in appliance.points("m") if p["number"] == number)
        for disk, mib in SIZES.items():
            path = f"{point['path']}/{disk}.vhd"
            info = json.loads(shell("qemu-img", "info", "-f", "vpc", "--output=json", path))
            check(info["format"] == "vpc" and info["virtual-size"] == mib * MIB,
                  f"qemu-img sees {info}")
            copy = work / "vault.vhd"
            shell(TOP / "tests/lib/blobread.py", "get-point", "--container", "test", "--group", "m",
                  "--point", number, "--disk", f"m/{disk}", "--out", copy,
                  env=appliance.environment)
            shell("cmp", path, copy)
            shell("qemu-img", "compare", "-f", "vpc", "-F", "vpc", path, copy)
            copy.unlink()


def check_filesystems(appliance, work, number):
    """On a clone the logs are replayed; then the stock checkers find nothing."""
    clone = appliance.call("clone", "create", "m", number, "--quota", "128M")["clone"]
    for kind, disk in (("ext4", "root"), ("xfs", "data")):
        path = f"{clone['path']}/{disk}.vhd"
        with Filesystem(work, path, kind, f"clone-{disk}", make=False) as filesystem:
            check(any(filesystem.at.glob("round-*")), f"nothing on {path}")
            loop = filesystem.loop
        loop = shell("losetup", "--show", "--find", "--read-only", "--sizelimit",
                     SIZES[disk] * MIB, path).strip()
        try:
            shell(*(("e2fsck", "-fn") if kind == "ext4" else ("xfs_repair", "-n")), loop)
        finally:
            shell("losetup", "-d", loop)
    appliance.call("clone", "remove", clone["id"])


def scenario(work, service):
    policies = {"asked": {"point-interval": "0", "vault-interval": "3s", "retention": "all:1h"}}
    with Appliance(BUILD, work, service.connection_string, policies=policies) as appliance:
        appliance.call("vault", "init")
        disks = [word for disk, mib in SIZES.items() for word in ("--disk", f"{disk}={mib}M")]
        appliance.call("machine", "add", "m", "--source", "fuse", *disks, "--policy", "asked")
        record = Record(appliance, "m")
        with Filesystem(work, appliance.live("m", "root"), "ext4", "root",
                        options="noatime") as root, \
                Filesystem(work, appliance.live("m", "data"), "xfs", "data") as data, \
                Scribbler(appliance.live("m", "raw"), work / "mirror", SIZES["raw"] * MIB,
                          seed=1) as raw:
            write_points(appliance, record, (root, data), raw)
        judge(work, service, appliance, record)


def write_points(appliance, record, filesystems, raw):
    step(f"{ROUNDS} rounds of changes, a point after each")
    for i in range(ROUNDS):
        raw.start()
        for filesystem in filesystems:
            change_files(filesystem.at, i)
        raw.pause()
        if i in (2, 5):
            copy_with("dd" if i == 2 else "qemu-img convert", raw)
        raw.some(100)
        seal(appliance, record, filesystems, raw, i, "vault" if i in (0, 3, 4, 7) else "local")


def judge(work, service, appliance, record):
    step("every point through the mount, and in the vault by another client")
    local = record.check_local()
    check(len(local) >= ROUNDS, f"only {local} are left to compare")
    vault = record.check_vault(vault_of(service))
    check(len(vault) >= 4, f"only {vault} in the vault could be compared")
    step(f"{len(local)} points equal, {len(vault)} of them in the vault; stock tools")
    check_tools(appliance, work, record, vault[:1] + vault[-1:])
    check_filesystems(appliance, work, vault[0])
    check_filesystems(appliance, work, vault[-1])
    step("verify and check")
    for number in vault:
        check(appliance.verify("m", number) == "vault", "verify did not read the vault")
    appliance.check_vault()


def test(work):
    need("qemu-img", "mkfs.ext4", "mkfs.xfs", "xfs_repair", "e2fsck", "fsfreeze", "losetup")
    if sys.argv[1:] == ["azurite"]:
        with Azurite(work) as service:
            scenario(work, service)
        return
    with StrictService(work) as service:
        service.admin("/settings", {"fence_prefix": "machines/"})
        scenario(work, service)
        service.check_witness()


if __name__ == "__main__":
    run_test(test)
