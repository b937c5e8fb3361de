"""Change capture driven from outside.

    Tool(work, pairs, method=…, pin=…)   capture_tool on disks and their copies; ask("pass")
    LoopDisk(work, name, mib)            a loop device on a file of its own, partitions too
    Mounted(device, at, kind)            a filesystem on it
    Load(kind, at, seconds)              something that writes; wait() for its end
    cut(tool, losses)                    freeze, copy the rest, compare byte for byte, thaw
"""

import ctypes
import mmap
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

from appliance import (BUILD, Failure, check, die_with_parent, end_process, is_mounted, shell,
                       wait_until)

TOOL = str(BUILD / "tests" / "capture_tool")
MIB = 1 << 20


class Tool:
    """capture_tool: one line in, one line out."""

    def __init__(self, work, pairs, method="bpf", pin=None, memory=None):
        words = [TOOL, "--method", method]
        words += ["--pin", str(pin)] if pin else []
        words += ["--memory", str(memory)] if memory else []
        words += [f"{disk}={copy}" for disk, copy in pairs]
        self.log = open(pathlib.Path(work) / "capture_tool.log", "ab")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, preexec_fn=die_with_parent)
        self.added = {}
        self.ready = ""
        while not self.ready:
            line = self.line()
            words = line.split()
            if words[0] == "added":
                self.added[words[1]] = line
            elif words[0] == "ready":
                self.ready = line
            else:
                self.close()
                raise Failure(f"capture_tool: {line}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            try:
                self.process.stdin.write(b"end\n")
                self.process.stdin.close()
                self.process.wait(20)
            except (OSError, subprocess.TimeoutExpired):
                self.kill()
        self.log.close()

    def quit(self):
        """Ends the process; marking goes on."""
        self.process.stdin.write(b"quit\n")
        self.process.stdin.close()
        check(self.process.wait(20) == 0, "capture_tool did not end well")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def line(self):
        line = self.process.stdout.readline().decode().strip()
        if not line:
            raise Failure(f"capture_tool ended: {self.process.wait()}")
        return line

    def ask(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()
        return self.line()

    def resumed(self):
        return all("resumed=1" in line for line in self.added.values())


class BpfDirectory:
    """A bpffs of one's own."""

    def __init__(self, work):
        self.at = pathlib.Path(work) / "bpf"

    def __enter__(self):
        self.at.mkdir(exist_ok=True)
        shell("mount", "-t", "bpf", "bpf", self.at)
        return self.at / "marks"

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.at], capture_output=True, check=False)


class Unseen:
    """Takes bytes off what the programs saw end, again and again, as if the kernel had left them out:
    of the first disk that is captured with these pins."""

    OBJ_GET = 7
    CALL = {"x86_64": 321, "aarch64": 280}
    SEEN_AT = 64  # of the first processor: capture_format.h

    def __init__(self, pins, pause=0.2):
        path = ctypes.create_string_buffer(str(pathlib.Path(pins) / "devices").encode())
        words = (ctypes.c_uint64 * 2)(ctypes.addressof(path), 0)
        self.file = ctypes.CDLL(None, use_errno=True).syscall(
            self.CALL[os.uname().machine], self.OBJ_GET, words, ctypes.sizeof(words))
        check(self.file >= 0, f"{path.value}: {os.strerror(ctypes.get_errno())}")
        self.memory = mmap.mmap(self.file, mmap.PAGESIZE)
        self.pause = pause
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.main, daemon=True)

    def main(self):
        while not self.stop.wait(self.pause):
            seen = int.from_bytes(self.memory[self.SEEN_AT:self.SEEN_AT + 8], sys.byteorder)
            self.memory[self.SEEN_AT:self.SEEN_AT + 8] = \
                ((seen - 4096) % (1 << 64)).to_bytes(8, sys.byteorder)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.memory.close()
        os.close(self.file)


class LoopDisk:
    """A loop device. `parts`: sizes in MiB of partitions to make."""

    def __init__(self, work, name, mib, parts=()):
        self.file = pathlib.Path(work) / f"{name}.img"
        self.copy = pathlib.Path(work) / f"{name}.copy"
        self.mib, self.parts = mib, parts
        self.device = None

    def __enter__(self):
        with open(self.file, "wb") as f:
            f.truncate(self.mib * MIB)
        self.device = shell("losetup", "--show", "--find", self.file).strip()
        if self.parts:
            table = "label: gpt\n" + "".join(f"size={mib}MiB\n" for mib in self.parts)
            shell("sfdisk", "-q", "--no-reread", "--no-tell-kernel", self.device, input=table)
            shell("partx", "-u", self.device)  # the kernel may have been there first
        return self

    def __exit__(self, *_):
        for _ in range(50):
            if self.parts:
                subprocess.run(["partx", "-d", self.device], capture_output=True, check=False)
            if subprocess.run(["losetup", "-d", self.device], capture_output=True,
                              check=False).returncode == 0:
                break
            time.sleep(0.1)

    def part(self, number):
        return f"{self.device}p{number}"

    def pair(self):
        return self.device, self.copy


MKFS = {"ext4": ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"], "xfs": ["-q", "-f"],
        "btrfs": ["-q", "-f"], "vfat": []}


class Mounted:
    def __init__(self, device, at, kind, options="noatime"):
        self.device, self.at = device, pathlib.Path(at)
        self.kind, self.options = kind, options

    def __enter__(self):
        self.at.mkdir(exist_ok=True)
        shell(f"mkfs.{self.kind}", *MKFS[self.kind], self.device)
        shell("mount", "-t", self.kind, "-o", self.options, self.device, self.at)
        return self.at

    def __exit__(self, *_):
        for _ in range(100):
            if not is_mounted(self.at) or subprocess.run(
                    ["umount", self.at], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.05)
        subprocess.run(["umount", "-l", self.at], capture_output=True, check=False)


FIO = {
    "direct": ["--ioengine=libaio", "--direct=1", "--iodepth=16", "--rw=randwrite", "--bs=4k"],
    "large": ["--ioengine=libaio", "--direct=1", "--iodepth=4", "--rw=write", "--bs=1m"],
    "buffered": ["--ioengine=psync", "--rw=randwrite", "--bs=8k", "--fsync=64"],
    "mmap": ["--ioengine=mmap", "--rw=randwrite", "--bs=4k", "--fsync=128"],
    "odd": ["--ioengine=psync", "--rw=randwrite", "--bsrange=512-40000", "--bs_unaligned=1"],
}


class Load:
    """Writes to a directory for some seconds."""

    def __init__(self, kind, at, seconds, rate="12m", size="24m"):
        self.kind, self.at, self.seconds = kind, pathlib.Path(at), seconds
        self.failure = None
        self.process = None
        if kind in FIO:
            self.process = subprocess.Popen(
                ["fio", "--name=load", f"--directory={at}", f"--filename={kind}", f"--size={size}",
                 "--time_based", f"--runtime={seconds}", f"--rate={rate}", "--output=/dev/null",
                 *FIO[kind]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                preexec_fn=die_with_parent)
            self.thread = None
        else:
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.thread.start()

    def run(self):
        end = time.monotonic() + self.seconds
        try:
            turn = 0
            while time.monotonic() < end:
                getattr(self, self.kind)(turn)
                turn += 1
        except BaseException as failure:  # pylint: disable=broad-except
            self.failure = failure

    def tar(self, turn):
        """Many small files, unpacked and removed."""
        tree = self.at / f"tree{turn % 2}"
        subprocess.run(["rm", "-rf", tree], check=True)
        tree.mkdir()
        subprocess.run(["sh", "-c", "tar -C /usr/include -cf - linux | tar -C \"$0\" -xf -",
                        str(tree)], check=True, stderr=subprocess.DEVNULL)
        if turn % 4 == 3:
            os.sync()

    def punch(self, turn):
        """Holes, zeroed ranges and collapsing of a file."""
        rng = random.Random(turn)
        path = self.at / "punched"
        with open(path, "ab") as f:
            f.truncate(16 * MIB)
        with open(path, "r+b") as f:
            for _ in range(16):
                f.seek(rng.randrange(16 * MIB - 65536))
                f.write(os.urandom(65536))
            os.fsync(f.fileno())
        for how in ("--punch-hole", "--zero-range"):
            subprocess.run(["fallocate", how, "-o", str(rng.randrange(3500) * 4096), "-l",
                            str(rng.randrange(1, 64) * 4096), str(path)], check=False,
                           capture_output=True)

    def trim(self, turn):
        """Files that come and go, and discards of what they leave."""
        path = self.at / f"gone{turn % 3}"
        path.write_bytes(os.urandom(4 * MIB))
        if turn % 2:
            os.sync()
        path.unlink()
        subprocess.run(["fstrim", str(self.at)], check=False, capture_output=True)

    def raw(self, turn):
        """A bare device: discards, zeroes, direct writes."""
        rng = random.Random(turn)
        where = str(rng.randrange(0, 60) * MIB)
        size = str(rng.randrange(1, 1024) * 4096)
        subprocess.run(["blkdiscard", *(["-z"] if turn % 2 else []), "-f", "-o", where, "-l", size,
                        str(self.at)], check=True, capture_output=True)
        subprocess.run(["dd", "if=/dev/urandom", f"of={self.at}", "bs=64k", "count=16",
                        f"seek={rng.randrange(900)}", "oflag=direct", "conv=notrunc"], check=True,
                       capture_output=True)

    def wait(self):
        if self.process:
            check(self.process.wait(60) == 0, f"fio {self.kind} failed")
        else:
            self.thread.join(60)
            check(not self.thread.is_alive(), f"{self.kind} hangs")
            if self.failure:
                raise Failure(f"{self.kind}: {self.failure}")

    def end(self):
        end_process(self.process)


class Losses:
    """What the loss detector found. Where it fired, the copy has to be made anew, and may differ;
    where it did not, nothing may."""

    def __init__(self):
        self.count = 0
        self.cuts = 0
        self.recalled = 0  # ends of writes alone were missed: a few blocks are copied again
        self.moved = 0  # sectors that changed while frozen: btrfs discards in the background


def cut(tool, losses, frozen=True):
    """One cut: everything stands still, the rest is copied, disk and copy are compared. Returns the
    whole stall in µs without the comparison's time, or None."""
    if frozen:
        answer = tool.ask("freeze 60000")
        check(answer.startswith("freeze ") and "failed" not in answer, answer)
    tool.ask("finish")
    verdict = tool.ask("check 500")
    for _ in range(3):
        if " recalled " not in verdict:
            break
        losses.recalled += 1
        tool.ask("finish")
        verdict = tool.ask("check 500")
    same = tool.ask("compare")
    if frozen:
        answer = tool.ask("thaw")
        check(answer.startswith("thaw 0 "), answer)
    losses.cuts += 1
    losses.moved += int(same.split("moved=")[1]) if "moved=" in same else 0
    if " lost " in verdict:
        losses.count += 1
        tool.ask("trust")
        return
    check(verdict.count(" proven ") == len(tool.added), f"a cut at rest is not proven: {verdict}")
    check(same.startswith("same "), f"nothing was reported lost, but: {same} ({verdict})")


def settled(tool):
    """Waits until what is under way on the disks has ended."""
    wait_until(20, lambda: " unproven " not in tool.ask("check 200"), "writes do not end")
