#!/usr/bin/env python3
"""What lies in active swap counts as zeros, but for its header: of a device and of a file, switched on
and off while the agent runs; and is replicated if that is wanted. What only bears the name of a
swap file is replicated, and so is what lies behind the area in one."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk
from appliance import BUILD, MIB, Appliance, Skip, check, need, run_test, shell, step, wait_until
from images import Filesystem

HEADER = 65536


class Swap:
    """An active swap area, off again at the end."""

    def __init__(self, path, size=None):
        """`size`: of the area, if it is not the whole."""
        self.path, self.size = path, size

    def __enter__(self):
        shell("mkswap", "-q", self.path, *([str(self.size // 1024)] if self.size else []))
        if subprocess.run(["swapon", "-p", "-1", self.path], capture_output=True,
                          check=False).returncode != 0:
            raise Skip("swap cannot be switched on here")
        return self

    def __exit__(self, *_):
        shell("swapoff", self.path)


def content(path, size):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read(size)


def in_point(appliance, point, disk, size):
    return content(f"{appliance.mount}/web/points/{point['name']}/{disk}.vhd", size)


def left_out(agent):
    return {disk["id"]: disk["swap_bytes"] for disk in agent.status().get("disks", [])}


def check_blank(appliance, disk):
    there, here = in_point(appliance, appliance.create_point("web"), "pages", disk.size), \
        content(disk.device, disk.size)
    check(there[:HEADER] == here[:HEADER], "the header differs")
    check(there[4086:4096] == b"SWAPSPACE2", "the header is none")
    check(not any(there[HEADER:]), "what lies in swap was replicated")


def device(appliance, agent, pages):
    step("a device that is swap from the beginning")
    with Swap(pages.device):
        agent.start()
        agent.wait_state("replicating", "freezing")
        wait_until(15, lambda: left_out(agent).get("pages", 0) == pages.size - HEADER,
                   lambda: f"the agent leaves out {left_out(agent)}")
        check_blank(appliance, pages)
        said = agent.run("status", "--status-file", agent.status_file).stdout
        check("swap left out" in said, f"status: {said}")

    step("switched off it is a disk like any other")
    pages.write(0, os.urandom(pages.size))
    point = appliance.create_point("web")
    check(in_point(appliance, point, "pages", pages.size) == content(pages.device, pages.size),
          "the disk differs")

    step("and switched on again it is blank again")
    with Swap(pages.device):
        check_blank(appliance, pages)


def file(appliance, agent, work, root):
    step("a swap file keeps its header, and what is around it")
    mounted = root.mount()
    data = os.urandom(4 * MIB)
    (mounted / "before").write_bytes(data)
    swap = mounted / "swap"
    swap.write_bytes(os.urandom(8 * MIB))
    swap.chmod(0o600)
    (mounted / "after").write_bytes(data)
    with Swap(swap):
        clone = appliance.call("clone", "create", "web",
                               appliance.create_point("web")["number"])["clone"]
        with Filesystem(work, f"{clone['path']}/root.vhd", "ext4", "clone", make=False) as there:
            for name in ("before", "after"):
                check((there.at / name).read_bytes() == data, f"the file {name} differs")
            found = (there.at / "swap").read_bytes()
            check(found[4086:4096] == b"SWAPSPACE2", "the file has no header")
            check(not any(found[HEADER:]), "what lies in the file was replicated")
        appliance.remove_clone(clone)


def blocks(data):
    return {data[at:at + 1024] for at in range(0, len(data), 1024)}


def namesake(appliance, agent, root, other):
    """Something is mounted over the swap file, and has a file of that name: an area that is not in
    use, or none at all. (What is hidden cannot be frozen, so its disk is not protected here.)"""
    swap = root.mounted / "swap"
    disks = agent.disks
    for how in ("data", "an area that is not in use"):
        step(f"a file that bears the name of a swap file: {how}")
        agent.stop()
        with Swap(swap):
            shell("mount", other.device, root.mounted)
            try:
                fresh = root.mounted / "fresh"
                fresh.write_bytes(os.urandom(8 * MIB))
                if how != "data":
                    fresh.chmod(0o600)
                    shell("mkswap", "-q", fresh)
                fresh.rename(swap)
                shell("sync", "-f", root.mounted)
                agent.start({"other": other.device})
                agent.wait_state("replicating", "freezing")
                point = appliance.create_point("web")
                check(left_out(agent).get("other", 0) == 0, f"left out: {left_out(agent)}")
                there, here = blocks(in_point(appliance, point, "other", other.size)), \
                    blocks(swap.read_bytes())
                check(here <= there, f"{len(here - there)} of the file's blocks were left out")
            finally:
                shell("umount", root.mounted)
    agent.disks = disks


def shorter(appliance, work, root):
    step("what lies behind the area in its file is no swap")
    swap = root.mounted / "swap"
    behind = os.urandom(4 * MIB)
    swap.write_bytes(bytes(4 * MIB) + behind)
    with Swap(swap, 4 * MIB):
        clone = appliance.call("clone", "create", "web",
                               appliance.create_point("web")["number"])["clone"]
        with Filesystem(work, f"{clone['path']}/root.vhd", "ext4", "clone", make=False) as there:
            found = (there.at / "swap").read_bytes()
            check(found[4 * MIB:] == behind, "what lies behind the area was left out")
            check(not any(found[HEADER:4 * MIB]), "what lies in the area was replicated")
        appliance.remove_clone(clone)


def wanted(appliance, agent, pages):
    step("and all of it if that is wanted")
    agent.stop()
    pages.write(0, os.urandom(pages.size))
    with Swap(pages.device):
        agent.start(options=["--replicate-swap"])
        agent.wait_state("replicating", "freezing")
        there = in_point(appliance, appliance.create_point("web"), "pages", pages.size)
        check(sum(there[at] != 0 for at in range(HEADER, pages.size, 4096)) > 1000,
              "swap was left out")


def test(work):
    need("losetup", "mkswap", "swapon", "mkfs.ext4")
    with Appliance(BUILD, work, journal_size="1G", listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 48 * MIB) as root, LoopDisk(work, "pages", 16 * MIB) as pages, \
            LoopDisk(work, "other", 32 * MIB) as other, \
            Agent(BUILD, work, "web") as agent:
        appliance.call("policy", "set", "default", "point-interval=0")
        appliance.call("machine", "add", "web", "--source", "agent")
        agent.enroll(appliance)
        root.format()
        other.format()
        pages.write(0, os.urandom(pages.size))
        agent.disks = {"root": root.device, "pages": pages.device,
                       "other": other.device}
        device(appliance, agent, pages)
        file(appliance, agent, work, root)
        shorter(appliance, work, root)
        namesake(appliance, agent, root, other)
        wanted(appliance, agent, pages)


run_test(test)
