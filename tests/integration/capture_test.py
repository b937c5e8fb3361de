#!/usr/bin/env python3
"""Change capture is complete: under every kind of load, a copy that follows the marks equals the
disk byte for byte at each cut; a missed write, however it came about, is found out; marks outlive
the process; the freeze never outlives anybody.

    capture_test.py bpf|perf|freeze
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import Failure, Skip, check, need, run_test, shell, step, wait_until  # noqa: E402
from capture import (MIB, BpfDirectory, Load, LoopDisk, Losses, Mounted, Tool, cut,  # noqa: E402
                     settled)

SECONDS = 4


def pairs_of(*disks):
    return [disk.pair() for disk in disks]


def start(work, method, disks, pin=None):
    tool = Tool(work, pairs_of(*disks), method, pin)
    check(f"ready {method} " in tool.ready, tool.ready)
    if tool.ask("copy") != "copy":
        raise Failure("the first copy failed")
    return tool


def loads_and_cuts(tool, loads, losses):
    """Cuts while the loads run, and one at the end."""
    while any(load.process.poll() is None if load.process else load.thread.is_alive()
              for load in loads):
        tool.ask("pass")
        tool.ask("pass")
        cut(tool, losses)
    for load in loads:
        load.wait()
    os.sync()
    cut(tool, losses)


def filesystems(work, method, losses):
    """Each filesystem under its loads, all at once."""
    for kind, kinds in (("ext4", ("direct", "buffered", "mmap", "tar", "punch", "trim")),
                        ("xfs", ("direct", "odd", "large", "tar", "trim")),
                        ("btrfs", ("buffered", "mmap", "tar", "trim"))):
        step(f"{method}: {kind} under {', '.join(kinds)}")
        with LoopDisk(work, kind, 320) as disk, \
                Mounted(disk.device, work / f"mnt-{kind}", kind) as at, \
                start(work, method, [disk]) as tool:
            loads_and_cuts(tool, [Load(load, at, SECONDS) for load in kinds], losses)
        if kind != "btrfs":
            check(losses.moved == 0, f"{kind} was written while it was frozen")


def partitions(work, method, losses):
    """Partitions with marks of their own, and the whole disk beside; raw writes on one."""
    step(f"{method}: partitions, the whole disk, raw discards and zeroes")
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(LoopDisk(work, "parts", 300, parts=(128, 64, 96)))
        at = stack.enter_context(Mounted(disk.part(1), work / "mnt-part", "ext4"))
        copies = [(disk.device, disk.copy)] + [
            (disk.part(n), work / f"part{n}.copy") for n in (1, 2)]
        tool = stack.enter_context(Tool(work, copies, method))
        tool.ask("copy")
        loads = [Load("direct", at, SECONDS), Load("tar", at, SECONDS), Load("raw", disk.part(2), SECONDS)]
        for load in loads:
            tool.ask("pass")
            load.wait()
        os.sync()
        settled(tool)
        cut(tool, losses)


def growing(work, method, losses):
    """A disk grows while it is written."""
    step(f"{method}: growing")
    with LoopDisk(work, "grow", 200) as disk, start(work, method, [disk]) as tool:
        load = Load("raw", disk.device, 2)
        tool.ask("pass")
        with open(disk.file, "ab") as f:
            f.truncate(333 * MIB)
        shell("losetup", "-c", disk.device)
        check(tool.ask("grow") == "grow", "growing failed")
        for seek in (199, 205, 332):
            shell("dd", "if=/dev/urandom", f"of={disk.device}", "bs=1M", "count=1", f"seek={seek}",
                  "oflag=direct", "conv=notrunc")
        load.wait()
        settled(tool)
        cut(tool, losses, frozen=False)


def memory(work, method, losses):
    """Little memory: coarse blocks, and still exact."""
    step(f"{method}: coarse blocks")
    with LoopDisk(work, "coarse", 320) as disk, \
            Mounted(disk.device, work / "mnt-coarse", "xfs", "noatime,nouuid") as at, \
            Tool(work, pairs_of(disk), method, memory=4096) as tool:
        block = int(tool.added[pathlib.Path(disk.device).name].split("block=")[1])
        check(block >= 4096, tool.added)
        tool.ask("copy")
        loads_and_cuts(tool, [Load("odd", at, 2)], losses)


def runs(work):
    """The incarnation is as old as the marks, whatever dies when."""
    step("bpf: the number of a run of capture lives and dies with its marks")
    with BpfDirectory(work) as pin, LoopDisk(work, "runs", 64) as disk:
        def anew():
            tool.kill()
            return Tool(work, pairs_of(disk), "bpf", pin)
        tool = Tool(work, pairs_of(disk), "bpf", pin)
        first = tool.ask("run")
        check(tool.ask("run") == first, "it is another one each time it is asked for")
        tool = anew()
        check(tool.resumed() and tool.ask("run") == first, "another number for the same marks")
        with open(disk.file, "ab") as f:
            f.truncate(65 * MIB)
        shell("losetup", "-c", disk.device)
        check(tool.ask("grow") == "grow" and tool.ask("run") == first, "another number as it grew")
        tool = anew()
        check(tool.resumed() and tool.ask("run") == first, "another number after it grew")
        tool.ask("trust")
        tool = anew()  # before anybody has asked
        second = tool.ask("run")
        check(tool.resumed() and second != first, "marks that began anew bear the old number")
        other = tool.ask("run 2")
        check(other not in (first, second), "two holders have the same number")
        tool = anew()
        check(tool.ask("run 2") == other and tool.ask("run") not in (first, second, other),
              "what another holder was told of counts as if this one had it")
        seen = {first, second, other, tool.ask("run")}
        tool.kill()
        (pin / "link_1").unlink()
        tool = Tool(work, pairs_of(disk), "bpf", pin)
        check(not tool.resumed() and tool.ask("run") not in seen, "an old number for new marks")
        tool.close()
    for method in ("perf", "scan"):
        with LoopDisk(work, f"runs-{method}", 8) as disk:
            def number():
                with Tool(work, pairs_of(disk), method) as tool:
                    said = tool.ask("run")
                    check(said == tool.ask("run"), f"{method}: it does not last")
                    tool.ask("trust")
                    check(said != tool.ask("run"), f"{method}: it outlasts distrust")
                    return said
            check(number() != number(), f"{method}: it outlives its process")


def restarts(work, losses):
    """The process dies at any moment; marking goes on, and what was taken is not forgotten."""
    step("bpf: restarts")
    with BpfDirectory(work) as pin, LoopDisk(work, "restart", 200) as disk, \
            Mounted(disk.device, work / "mnt-restart", "ext4") as at:
        tool = start(work, "bpf", [disk], pin)
        check(not tool.resumed(), "there is nothing to resume")
        try:
            Tool(work, pairs_of(disk), "bpf", pin)
            raise Failure("two trackers had one directory")
        except Failure as failure:
            check("in use" in str(failure), failure)
        for turn in range(3):
            load = Load("direct", at, 3)
            wait_until(10, lambda: int(tool.ask("take").split()[1]) > 0, "nothing was written")
            tool.kill()
            time.sleep(0.3)  # writes that no process sees
            tool = Tool(work, pairs_of(disk), "bpf", pin)
            if not tool.resumed():
                losses.count += 1
                tool.ask("trust")
            load.wait()
            os.sync()
            cut(tool, losses)
            if turn == 1:
                tool.quit()
                Load("buffered", at, 1).wait()
                tool = Tool(work, pairs_of(disk), "bpf", pin)
        tool.kill()

        step("bpf: what is not to be resumed")
        (pin / "link_1").unlink()
        tool = Tool(work, pairs_of(disk), "bpf", pin)
        check(not tool.resumed(), "resumed without its program")
        tool.quit()
        tool = Tool(work, pairs_of(disk), "bpf", pin)
        check(tool.resumed() or losses.count, "not resumed")
        tool.quit()
    # Another disk behind the same number
    with BpfDirectory(work) as pin:
        with LoopDisk(work, "first", 64) as disk:
            name = disk.device
            Tool(work, pairs_of(disk), "bpf", pin).quit()
        with LoopDisk(work, "second", 64) as disk:
            with Tool(work, pairs_of(disk), "bpf", pin) as tool:
                if disk.device == name:
                    check(not tool.resumed(), "another disk was taken for the old one")


class Blindfold:
    """While it is on, the programs do not know the disk: what happens to it goes unseen."""

    def __init__(self, pin):
        table = json.loads(shell("bpftool", "-j", "map", "dump", "pinned", pin / "device_of"))
        used = [entry for entry in table if any(int(byte, 16) for byte in entry["value"])]
        check(len(used) == 1, used)
        self.value = used[0]["value"]
        self.update = ["bpftool", "map", "update", "pinned", pin / "device_of", "key",
                       *used[0]["key"], "value"]

    def __enter__(self):
        shell(*self.update, *["0"] * 8)

    def __exit__(self, *_):
        shell(*self.update, *self.value)


def written(path, block):
    """A process that writes a block of a device past its cache."""
    return subprocess.Popen(["dd", "if=/dev/urandom", f"of={path}", "bs=4096", "count=1",
                             f"seek={block}", "oflag=direct", "conv=notrunc"],
                            stderr=subprocess.DEVNULL)


def found_out(work):
    """A write that is not seen is found out: here by taking the disk out of the programs' table."""
    need("bpftool")
    step("bpf: a missed write is found out")
    with BpfDirectory(work) as pin, LoopDisk(work, "missed", 64) as disk:
        with Tool(work, pairs_of(disk), "bpf", pin) as tool:
            tool.ask("copy")
            with Blindfold(pin):
                written(disk.device, 77).wait()
            answer = tool.ask("check 500")
            check(" lost fewer bytes" in answer, answer)
            check(" lost " in tool.ask("check 100"), "a loss was forgotten")
            tool.quit()
        with Tool(work, pairs_of(disk), "bpf", pin) as tool:
            check(not tool.resumed(), "resumed in spite of a loss")
            check(" proven " in tool.ask("check 500"), "no trust after a new beginning")


@contextlib.contextmanager
def unseen_end(tool, disk, outer_at, pin, block):
    """A write is begun, and taken and read before it has ended; its end goes unseen."""
    shell("fsfreeze", "-f", outer_at)
    try:
        writer = written(disk.device, block)
        wait_until(20, lambda: tool.ask("blind") == "blind 4096", "the write was not seen to begin")
        check(writer.poll() is None, "the write has ended though what it is written to is frozen")
        with Blindfold(pin):
            shell("fsfreeze", "-u", outer_at)
            check(writer.wait(30) == 0, "the write failed")
            yield
    finally:
        subprocess.run(["fsfreeze", "-u", outer_at], check=False, capture_output=True)


def ends_missed(work):
    """A write whose end alone is not seen, and which was read before it had ended, costs what may
    have been read too early; one that was not seen at all costs the disk's comparison."""
    need("bpftool", "fsfreeze")
    step("bpf: ends of writes that are missed")
    with BpfDirectory(work) as pin, LoopDisk(work, "outer", 200) as outer, \
            Mounted(outer.device, work / "mnt-outer", "ext4") as outer_at, \
            LoopDisk(outer_at, "inner", 64) as disk:
        tool = Tool(work, pairs_of(disk), "bpf", pin)
        tool.ask("copy")
        check(" proven " in tool.ask("check 500"), "not proven at rest")
        for turn in range(3):
            written(disk.device, 5).wait()
            tool.ask("pass")
            with unseen_end(tool, disk, outer_at, pin, 77 + turn):
                pass
            check(tool.ask("compare").startswith("differ "), "the copy is not as old as it should be")
            if turn == 1:
                tool.quit()
                tool = Tool(work, pairs_of(disk), "bpf", pin)
                check(tool.resumed(), "not resumed for an end of a write that was missed")
            if turn == 2:
                tool.kill()
                tool = Tool(work, pairs_of(disk), "bpf", pin)
                check(tool.resumed(), "not resumed for an end of a write that was missed")
            answer = tool.ask("check 500")
            check(" recalled " in answer if turn == 0 else " proven " in answer, answer)
            check(turn or " recalled=8192" in answer, answer)
            check(tool.ask("pass") == "pass 8192", "not what may have been read too early was taken")
            check(tool.ask("compare") == "same moved=0", "the copy is wrong")
            check(" proven " in tool.ask("check 500") and tool.ask("pass") == "pass 0",
                  "it is not over")

        step("bpf: what was taken again is sure, and stays so")
        with unseen_end(tool, disk, outer_at, pin, 99):
            pass
        check(" recalled " in tool.ask("check 500"), "not recalled")
        check(tool.ask("pass") == "pass 4096", "not taken again")
        with unseen_end(tool, disk, outer_at, pin, 100):
            pass
        check(" recalled=4096" in tool.ask("check 500"), "what was sure is taken again")
        check(tool.ask("finish") == "finish 1" and tool.ask("compare") == "same moved=0", "wrong")

        step("bpf: what is marked while the disk is idle is sure when it is taken")
        written(disk.device, 60).wait()
        check(" proven " in tool.ask("check 500") and tool.ask("pass") == "pass 4096", "not proven")
        with unseen_end(tool, disk, outer_at, pin, 101):
            pass
        check(" recalled=4096" in tool.ask("check 500"), "more or less than one block is taken again")
        check(tool.ask("finish") == "finish 1" and tool.ask("compare") == "same moved=0", "wrong")

        step("bpf: a write that goes unseen whole is not taken for one whose end was missed")
        with unseen_end(tool, disk, outer_at, pin, 77):
            written(disk.device, 200).wait()
        answer = tool.ask("check 500")
        check(" lost fewer bytes" in answer, answer)
        tool.ask("trust")
        check(" proven " in tool.ask("check 500"), "no trust after a new beginning")
        with Blindfold(pin):
            written(disk.device, 201).wait()
        answer = tool.ask("check 500")
        check(" lost fewer bytes" in answer, answer)
        tool.close()


def overrun(work):
    """Rings that nobody reads run over, and that is found out."""
    step("perf: full rings are found out")
    with LoopDisk(work, "overrun", 128) as disk, start(work, "perf", [disk]) as tool:
        os.kill(tool.process.pid, signal.SIGSTOP)
        shell("fio", "--name=x", f"--filename={disk.device}", "--ioengine=libaio", "--direct=1",
              "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=120m", "--output=/dev/null")
        os.kill(tool.process.pid, signal.SIGCONT)
        answer = tool.ask("check 1000")
        check(" lost " in answer, answer)
        tool.ask("trust")
        answer = tool.ask("check 1000")
        check(" proven " in answer and tool.ask("compare").startswith("same "), answer)


def report(losses, method):
    print(f"{losses.cuts} cuts; the loss detector fired {losses.count} times; ends of writes were "
          f"missed {losses.recalled} times; "
          f"{losses.moved} sectors moved under a frozen btrfs")
    # Rings run over where their reader gets no time; programs have nothing that could.
    check(losses.count <= (losses.cuts // 4 if method == "perf" else 0), "writes went unseen")


def test_method(method):
    def test(work):
        need("fio", "mkfs.btrfs", "mkfs.xfs", "sfdisk", "partx", "losetup")
        losses = Losses()
        try:
            filesystems(work, method, losses)
        except Failure as failure:
            if "error" in str(failure) and "cannot" in str(failure):
                raise Skip(str(failure)) from failure
            raise
        partitions(work, method, losses)
        growing(work, method, losses)
        memory(work, method, losses)
        if method == "bpf":
            runs(work)
            restarts(work, losses)
            found_out(work)
            ends_missed(work)
        else:
            overrun(work)
        report(losses, method)
    return test


def writable(at):
    """A write comes back; in another process, as it may be stuck for ever."""
    return subprocess.run(["timeout", "20", "sh", "-c", "echo x > \"$0/probe\" && sync -f \"$0\"",
                           str(at)], check=False).returncode == 0


def freezing(work):
    need("mkfs.xfs", "losetup")
    # A filesystem that cannot be frozen, if the kernel has one
    vfat = "vfat" in pathlib.Path("/proc/filesystems").read_text(encoding="ascii")
    with LoopDisk(work, "freeze", 400) as disk, LoopDisk(work, "fat", 40) as fat, \
            Mounted(disk.device, work / "mnt", "ext4") as at, \
            Mounted(fat.device, work / "fat", *(["vfat", "defaults"] if vfat else ["ext4"])) as fat_at:
        (at / "in").mkdir()
        (work / "bound").mkdir()
        shell("mount", "--bind", at / "in", work / "bound")
        try:
            with LoopDisk(at, "inner", 310) as inner, \
                    Mounted(inner.device, work / "inner", "xfs", "nouuid"):
                freezing_on(work, disk, fat, at, fat_at, inner, work / "inner")
        finally:
            shell("umount", work / "bound")


def watchdog_of(tool):
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text(encoding="utf-8").partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name == "landfall-thaw" and int(rest.split()[1]) == tool.process.pid:
            return int(stat.parent.name)
    raise Failure("there is no watchdog")


def watchdogs_die(work, disk, at, inner_at):
    step("a watchdog that was killed is replaced before anything is frozen")
    for how in (signal.SIGKILL, signal.SIGSTOP):
        tool = Tool(work, pairs_of(disk), "scan")
        before = watchdog_of(tool)
        os.kill(before, how)
        answer = tool.ask("freeze 60000")
        check(answer.startswith("freeze 2 "), answer)
        check(watchdog_of(tool) != before, "nobody watches")
        tool.kill()
        check(writable(inner_at) and writable(at), "frozen for ever")

    step("the service's unit leaves the watchdog its time when the agent is killed")
    unit = pathlib.Path(__file__).resolve().parents[2] / "appliance/systemd/landfall-agent.service.in"
    mode = [line.partition("=")[2].strip() for line in unit.read_text(encoding="utf-8").splitlines()
            if line.startswith("KillMode=")]
    tool = Tool(work, pairs_of(disk), "scan")
    rest = [] if mode == ["process"] else [watchdog_of(tool)]
    check(tool.ask("freeze 60000").startswith("freeze 2 "), "freeze")
    try:
        tool.process.kill()
        for pid in rest:  # what systemd.kill(5) says of the other modes
            os.kill(pid, signal.SIGKILL)
        tool.process.wait()
        check(writable(inner_at) and writable(at), f"frozen for ever by KillMode={mode}")
    finally:
        for there in (at, inner_at):
            subprocess.run(["fsfreeze", "-u", there], check=False, capture_output=True)


def freezing_on(work, disk, fat, at, fat_at, inner, inner_at):
    step("inner filesystems first, each superblock once, what cannot be frozen is synced")
    with Tool(work, pairs_of(disk, fat), "scan") as tool:
        answer = tool.ask("freeze 20000").split()
        check(answer[1] == "3" and set(answer[2:]) == {str(inner_at), str(at), str(fat_at)},
              f"frozen: {answer}")
        check(answer.index(str(inner_at)) < answer.index(str(at)), "outer before inner")
        writer = subprocess.Popen(["sh", "-c", "echo y > \"$0/later\"", str(inner_at)])
        try:
            writer.wait(1)
            raise Failure("a frozen filesystem was written")
        except subprocess.TimeoutExpired:
            pass
        check(tool.ask("thaw").startswith("thaw 0 "), "thaw")
        check(writer.wait(20) == 0, "the writer did not go on")

        step("freezing again, many times")
        for _ in range(20):
            check(tool.ask("freeze 20000").startswith("freeze 3 "), "freeze")
            check(tool.ask("thaw").startswith("thaw 0 "), "thaw")

        step("what is mounted after the list was made is frozen, too")
        shell("umount", inner_at)
        check(tool.ask("prepare") == "prepare", "prepare")
        shell("mount", "-o", "nouuid", inner.device, inner_at)
        answer = tool.ask("freeze 20000")
        check(str(inner_at) in answer.split(), f"frozen: {answer}")
        check(tool.ask("thaw").startswith("thaw 0 "), "thaw")

        step("the watchdog thaws when the time is up")
        check(tool.ask("freeze 300").startswith("freeze 3 "), "freeze")
        check(writable(at) and writable(inner_at), "the watchdog has not thawed")
        check(tool.ask("thaw").startswith(f"thaw {-110} "), "nobody was told")

        step("a filesystem that cannot be reached is not passed over")
        shell("mount", "-t", "tmpfs", "hides", inner_at)
        try:
            answer = tool.ask("freeze 5000")
            check("failed -16" in answer and "hides it" in answer, answer)
        finally:
            shell("umount", inner_at)

        step("somebody else's freeze is told apart")
        shell("fsfreeze", "-f", inner_at)
        try:
            answer = tool.ask("freeze 5000")
            check("failed -16" in answer, answer)
        finally:
            shell("fsfreeze", "-u", inner_at)
        check(writable(at) and writable(inner_at), "left frozen")

    for how in ("hold", ""):
        step(f"the watchdog thaws when the agent dies{' while it hangs' if how else ''}")
        tool = Tool(work, pairs_of(disk), "scan")
        check(tool.ask("freeze 60000").startswith("freeze 2 "), "freeze")
        if how:
            tool.process.stdin.write(b"hold\n")
            tool.process.stdin.flush()
        tool.kill()
        began = time.monotonic()
        check(writable(inner_at) and writable(at), "frozen for ever")
        check(time.monotonic() - began < 15, "thawed late")
    watchdogs_die(work, disk, at, inner_at)
    rng = random.Random(1)
    step("the watchdog thaws whenever the agent dies")
    for _ in range(6):
        tool = Tool(work, pairs_of(disk), "scan")
        tool.process.stdin.write(b"freeze 60000\n" * 1 + b"thaw\nfreeze 60000\nthaw\nfreeze 60000\n")
        tool.process.stdin.flush()
        time.sleep(rng.random() * 0.15)
        tool.kill()
        check(writable(inner_at) and writable(at), "frozen for ever")


if __name__ == "__main__":
    run_test(freezing if sys.argv[1] == "freeze" else test_method(sys.argv[1]))
