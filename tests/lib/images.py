"""What a virtual disk must hold, written down independently of the product.

    image = Image.of_file(path)          a VHD file of the mount: content and footer
    image = Image.of_vault(vault, …)     the same as the vault holds it, read by blobread's client
    Scribbler(disk, mirror, size, seed)  changes a disk and a plain file in the same way
    Writers(appliance, work, disks, …)   a Scribbler on each of several disks
    Disk(work, path, …)              an appliance's directories as they were, to go back to
    Filesystem(work, disk, kind)         a filesystem on a live disk, mounted by way of a loop device
    Ledger                               ackwriter: a writer that knows what it was promised
"""

import ctypes
import errno
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import threading
import time

import blobread
from appliance import (BUILD, LIBC, MIB, Failure, check, die_with_parent, end_process, is_mounted,
                       shell, wait_until)

FOOTER = 512
PIECE = 4 * MIB


def vault_of(service):
    """An independent client for a service's content."""
    return blobread.Vault(service.connection_string)


class Disk:
    """The appliance's own files as they were."""

    def __init__(self, work, *paths):
        self.kept = [(path, work / f"kept-{number}") for number, path in enumerate(paths)]
        for path, kept in self.kept:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(path, kept)

    def go_back(self):
        for path, kept in self.kept:
            shutil.rmtree(path)
            shutil.copytree(kept, path)


class Image:
    """A disk's content by its hash, its footer, and its size without footer."""

    def __init__(self, size, digest, footer):
        self.size, self.digest, self.footer = size, digest, footer

    @classmethod
    def of_pieces(cls, length, pieces):
        """From pieces of bytes in order, the footer last."""
        digest, footer, at = hashlib.sha256(), b"", 0
        data_end = length - FOOTER
        for piece in pieces:
            inside = max(0, min(len(piece), data_end - at))
            digest.update(memoryview(piece)[:inside])
            footer += piece[inside:]
            at += len(piece)
        check(at == length, f"{at} of {length} bytes could be read")
        return cls(data_end, digest.hexdigest(), footer)

    @classmethod
    def of_file(cls, path):
        def pieces(file):
            while piece := file.read(PIECE):
                yield piece
        with open(path, "rb", buffering=0) as file:
            return cls.of_pieces(os.fstat(file.fileno()).st_size, pieces(file))

    @classmethod
    def of_vault(cls, vault, container, group, point, disk):
        length, pieces = vault.point_pieces(container, group, point, disk)
        return cls.of_pieces(length, blobread.filled(length, pieces))

    @classmethod
    def of_raw(cls, path, footer):
        """A plain file of the content alone, and the footer it must have."""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(os.fstat(file.fileno()).st_size, digest, footer)

    def check_same(self, other, what):
        for field in ("size", "footer", "digest"):
            if getattr(self, field) != getattr(other, field):
                raise Failure(f"{what}: {field} is {getattr(other, field)} instead of "
                              f"{getattr(self, field)}")


def footer_of(path):
    with open(path, "rb") as file:
        file.seek(-FOOTER, os.SEEK_END)
        return file.read()


class Record:
    """What each recovery point must hold: {number: {"<machine>/<disk>": Image}}."""

    def __init__(self, appliance, group):
        self.appliance, self.group = appliance, group
        self.images = {}

    def check_local(self, numbers=None):
        """Every listed point on record, read through the mount, is what it was. Returns which
        were compared."""
        compared = []
        for point in self.points(numbers):
            for disk, image in self.images[point["number"]].items():
                machine, name = disk.split("/")
                path = f"{self.appliance.mount}/{machine}/points/{point['name']}/{name}.vhd"
                image.check_same(Image.of_file(path), f"point {point['number']}, {path}")
            compared.append(point["number"])
        return compared

    def check_vault(self, vault, numbers=None):
        """Every vault point on record, read by an independent client, is what it was."""
        compared = []
        for point in self.points(numbers):
            if not point["vault"]:
                continue
            for disk, image in self.images[point["number"]].items():
                image.check_same(
                    Image.of_vault(vault, self.appliance.container, self.group, point["number"],
                                   disk), f"vault point {point['number']}, {disk}")
            compared.append(point["number"])
        return compared

    def points(self, numbers):
        machine = next(iter(next(iter(self.images.values())))).split("/")[0]
        return [p for p in self.appliance.points(machine) if p["number"] in self.images and
                (numbers is None or p["number"] in numbers)]


def punch_hole(fd, offset, length):
    keep_size_and_punch = 3
    if LIBC.fallocate(fd, keep_size_and_punch, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def zero_range(fd, offset, length):
    keep_size_and_zero = 1 | 0x10
    if LIBC.fallocate(fd, keep_size_and_zero, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def check_vault_is_live(service, appliance, machine, disk):
    """A point that is made now and sent is, in the vault, what the live disk is."""
    live = Image.of_file(appliance.live(machine, disk))
    point = appliance.create_point(machine, "vault")
    live.check_same(Image.of_vault(vault_of(service), appliance.container, machine,
                                   point["number"], f"{machine}/{disk}"),
                    "the vault's newest point")


class Scribbler:
    """Random writes, discards and zeros to a disk, and the same to a plain file, the mirror. Sizes
    and places are whole sectors, mostly small, mostly in a hot part. some() does a few; start()
    goes on in a thread until pause() or end()."""

    def __init__(self, disk, mirror, size, seed, largest=256 << 10):
        self.size, self.largest = size, largest
        self.dice = random.Random(seed)
        self.path, self.mirror_path = disk, mirror
        self.mirror = os.open(mirror, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.mirror, size)
        self.disk = os.open(disk, os.O_RDWR)
        self.footer = footer_of(disk)
        self.thread, self.stopping, self.error = None, False, None
        self.written = 0

    def reopen(self, disk=None):
        """After a restart of the daemon."""
        os.close(self.disk)
        self.path = disk or self.path
        self.disk = os.open(self.path, os.O_RDWR)

    def one(self):
        largest = self.largest if self.dice.random() < 0.1 else min(self.largest, 16 << 10)
        length = self.dice.randrange(1, largest // 512 + 1) * 512
        room = self.size if self.dice.random() < 0.3 else max(self.size // 16, self.largest)
        offset = self.dice.randrange(0, (room - length) // 512 + 1) * 512
        what = self.dice.random()
        if what < 0.06:
            punch_hole(self.disk, offset, length)
            punch_hole(self.mirror, offset, length)
        elif what < 0.1:
            zero_range(self.disk, offset, length)
            zero_range(self.mirror, offset, length)
        else:
            data = self.dice.randbytes(length)
            check(os.pwrite(self.disk, data, offset) == length, "a short write to the disk")
            os.pwrite(self.mirror, data, offset)
            self.written += length

    def some(self, count):
        for _ in range(count):
            self.one()
        os.fsync(self.disk)

    def start(self, pause_s=0.002):
        """Goes on by itself, with a pause after each write."""
        self.stopping = False
        self.thread = threading.Thread(target=self.loop, args=(pause_s,), daemon=True)
        self.thread.start()

    def loop(self, pause_s):
        try:
            while not self.stopping:
                self.one()
                if self.dice.random() < 0.05:
                    os.fsync(self.disk)
                time.sleep(pause_s)
        except (OSError, Failure) as error:
            self.error = error

    def pause(self):
        """The disk is quiet, and the mirror equal, when this returns."""
        if self.thread:
            self.stopping = True
            self.thread.join()
            self.thread = None
        if self.error:
            raise Failure(f"{self.path}: {self.error}")

    def image(self):
        """What the disk must hold now; only while it is quiet."""
        return Image.of_raw(self.mirror_path, self.footer)

    def end(self):
        self.stopping = True
        if self.thread:
            self.thread.join()
            self.thread = None
        for fd in (self.disk, self.mirror):
            if fd >= 0:
                os.close(fd)
        self.disk = self.mirror = -1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Writers:
    """A scribbler on each disk, ["<machine>/<disk>"], beginning with what the live disk holds."""

    def __init__(self, appliance, work, disks, size, seed):
        self.writers = {}
        for i, disk in enumerate(disks):
            live = appliance.live(*disk.split("/"))
            mirror = work / f"mirror-{seed}-{i}"
            mirror.write_bytes(pathlib.Path(live).read_bytes()[:size])
            self.writers[disk] = Scribbler(live, mirror, size, seed=seed * 10 + i)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for writer in self.writers.values():
            writer.end()

    def some(self, count):
        for writer in self.writers.values():
            writer.some(count)

    def images(self):
        return {disk: writer.image() for disk, writer in self.writers.items()}


class Filesystem:
    """A filesystem on a VHD file, mounted as a guest would have it."""

    def __init__(self, work, disk, kind, name, make=True, options="noatime"):
        self.at = pathlib.Path(work) / f"mnt-{name}"
        self.disk, self.kind = disk, kind
        self.make, self.options = make, options
        self.loop = None

    def __enter__(self):
        self.at.mkdir(exist_ok=True)
        limit = os.stat(self.disk).st_size - FOOTER
        self.loop = shell("losetup", "--show", "--find", "--sizelimit", limit, self.disk).strip()
        try:
            if self.make:
                force = ["-f"] if self.kind == "xfs" else ["-F"]
                shell(f"mkfs.{self.kind}", "-q", *force, self.loop)
            options = self.options + (",nouuid" if self.kind == "xfs" else "")
            shell("mount", "-t", self.kind, "-o", options, self.loop, self.at)
        except BaseException:
            self.detach()
            raise
        return self

    def __exit__(self, *_):
        for _ in range(100):
            if not is_mounted(self.at) or subprocess.run(
                    ["umount", self.at], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        else:
            subprocess.run(["umount", "-l", self.at], capture_output=True, check=False)
        self.detach()

    def detach(self):
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], capture_output=True, check=False)
            self.loop = None

    def sync(self):
        shell("sync", "-f", self.at)


class Ledger:
    """ackwriter on a live disk: it writes down what was attempted and what was acknowledged."""

    BINARY = str(BUILD / "tests" / "ackwriter")

    def __init__(self, disk, ledger, blocks, seed):
        self.disk, self.ledger, self.blocks, self.seed = disk, str(ledger), blocks, seed
        self.process = None

    def start(self):
        """Starts the writer and returns once it has written (or was refused): what a test does next
        then happens to a disk in use, however busy the machine is."""
        self.seed += 1
        before = self.attempts()
        self.process = subprocess.Popen(
            [self.BINARY, "write", self.disk, self.ledger, str(self.blocks), str(self.seed)],
            preexec_fn=die_with_parent)
        wait_until(90, lambda: self.process.poll() is not None or self.attempts() != before,
                   "ackwriter does not begin to write")

    def attempts(self):
        try:
            return pathlib.Path(self.ledger).read_bytes()
        except FileNotFoundError:
            return b""

    def refused(self):
        """The disk has refused a write or an fsync: the writer has ended by itself."""
        return self.process.poll() == 3

    def freeze(self, seal):
        """Stops writing, calls seal(), goes on; returns (seal's answer, the ledger then)."""
        ready = pathlib.Path(f"{self.ledger}.ready")
        ready.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        wait_until(60, ready.exists, "ackwriter does not freeze")
        answer = seal()
        kept = f"{self.ledger}.{answer}"
        os.rename(ready, kept)
        self.process.send_signal(signal.SIGUSR2)
        return answer, kept

    def end(self, seconds=60):
        """Ends it; it may have been refused before."""
        if self.process is None:
            return
        check(end_process(self.process, seconds), "ackwriter hangs")
        check(self.process.returncode in (0, 3), f"ackwriter ended with {self.process.returncode}")

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def check(self, disk=None, ledger=None, what="the disk"):
        """Everything acknowledged is there. Returns what ackwriter counted."""
        done = subprocess.run([self.BINARY, "check", disk or self.disk, ledger or self.ledger,
                               str(self.blocks)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{what}: {done.stdout}{done.stderr}")
        return int(done.stdout.split()[0])


def stays_refused(function, *codes):
    """Calls function(); it must raise an OSError of one of these codes."""
    try:
        function()
    except OSError as error:
        check(error.errno in codes, f"{errno.errorcode.get(error.errno)} instead of "
                                    f"{[errno.errorcode[c] for c in codes]}")
        return error.errno
    raise Failure(f"succeeded instead of {[errno.errorcode[c] for c in codes]}")
