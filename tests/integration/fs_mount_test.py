#!/usr/bin/python3
"""The mount, used as people use it: with qemu-img, dd, cp, nbdcopy, loop devices and filesystems.

Each test has a daemon of its own (tests/tools/mounttool), a scratch directory and a mount point,
and takes all of it down whatever happens. Usage: fs_mount_test.py [NAME-OF-A-TEST ...]
"""
import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

BUILD = os.environ.get("LANDFALL_BUILD") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "../../build/debug")
TOOL = os.environ.get("MOUNTTOOL") or os.path.join(BUILD, "tests/mounttool")
MIB = 1 << 20


def run(*command, check=True):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=120, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
    return done


def has(*programs):
    return all(shutil.which(p) for p in programs)


def fails_with(code, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except OSError as e:
        assert e.errno == code, f"{errno.errorcode[e.errno]} instead of {errno.errorcode[code]}"
        return
    raise AssertionError(f"succeeded instead of {errno.errorcode[code]}")


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return any(line.split()[4] == path for line in table)


def unmount(path):
    for _ in range(100):
        if not is_mounted(path):
            return
        if run("umount", path, check=False).returncode != 0:
            time.sleep(0.05)
    run("umount", "-l", path, check=False)


class Daemon:
    """A mounttool, its state and its mount point."""

    def __init__(self, stack):
        self.dir = tempfile.mkdtemp(prefix="landfall-mount-")
        stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.mnt = os.path.join(self.dir, "mnt")
        self.process = None
        stack.callback(self.take_down)
        self.start()

    def start(self):
        self.process = subprocess.Popen([TOOL, self.dir, self.mnt], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.answer("the start")

    def answer(self, to):
        if not select.select([self.process.stdout], [], [], 60)[0]:
            raise AssertionError(f"{to}: no answer")
        words = self.process.stdout.readline().split()
        if not words:
            raise AssertionError(f"{to}: the daemon died")
        if words[0] == "error":
            raise OSError(getattr(errno, words[1]), f"{to}: {words[1]}")
        return int(words[1])

    def __call__(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer(command)

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0, "the daemon failed at its end"
        self.process = None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self.process = None

    def take_down(self):
        if self.process:
            self.process.kill()
            self.process.wait(30)
        unmount(self.mnt)

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)

    def live(self, disk="root", machine="web"):
        return self.path(machine, "live", disk + ".vhd")

    def point_name(self, number, machine="web"):
        for name in os.listdir(self.path(machine, "points")):
            if name.startswith(f"{number}-"):
                return name
        raise AssertionError(f"point {number} is not listed")

    def point(self, number, disk="root", machine="web"):
        return self.path(machine, "points", self.point_name(number, machine), disk + ".vhd")


def unclone(d, what):
    """The kernel's release comes a little after the last close."""
    until = time.monotonic() + 30
    while True:
        try:
            return d(f"unclone {what}")
        except OSError as fault:
            if fault.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def daemon(size_mib=64, writable=True):
    with contextlib.ExitStack() as stack:
        d = Daemon(stack)
        d.stack = stack
        d(f"disk web/root {size_mib}")
        d("machine web " + ("writable" if writable else "readonly"))
        yield d


def attach(d, path, size_mib, *options):
    """A loop device over the disk's part of the file; without direct I/O where it is refused."""
    command = ["losetup", "--find", "--show", "--sizelimit", str(size_mib * MIB), *options]
    done = run(*command, "--direct-io=on", path, check=False)
    if done.returncode != 0:
        done = run(*command, path)
    loop = done.stdout.strip().splitlines()[-1]
    d.stack.callback(detach_left, d, loop)
    return loop


def detach_left(d, loop):
    """At the end, if it is still ours: its number may be another's by then."""
    try:
        with open(f"/sys/block/{os.path.basename(loop)}/loop/backing_file", encoding="utf-8") as f:
            ours = f.read().startswith(d.mnt + "/")
    except OSError:
        return
    if ours:
        run("losetup", "-d", loop, check=False)


def detach(loop):
    run("losetup", "-d", loop)


def mount(d, loop, options=""):
    where = tempfile.mkdtemp(prefix="fs-", dir=d.dir)
    run("mount", *(["-o", options] if options else []), loop, where)
    d.stack.callback(unmount, where)
    return where


def pattern(seed, n):
    return random.Random(seed).randbytes(n)


def write_at(path, offset, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def read_at(path, offset, n):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, n, offset)
    finally:
        os.close(fd)


def contents(where):
    found = {}
    for folder, _, names in os.walk(where):
        for name in names:
            full = os.path.join(folder, name)
            with open(full, "rb") as f:
                found[os.path.relpath(full, where)] = hash(f.read())
    return found


# ── names, sizes, what is refused ───────────────────────────────────────────────────────────


def test_tree():
    with daemon() as d:
        d("disk web/data 3")
        d("disk db/root 2")
        assert os.listdir(d.mnt) == ["web"]
        assert sorted(os.listdir(d.path("web"))) == ["clones", "live", "points"]
        assert sorted(os.listdir(d.path("web", "live"))) == ["data.vhd", "root.vhd"]
        assert os.listdir(d.path("web", "points")) == []
        assert not os.path.lexists(d.path("web", "points", "latest"))
        n = d("seal")
        name = d.point_name(n)
        assert os.readlink(d.path("web", "points", "latest")) == name
        assert sorted(os.listdir(d.path("web", "points", "latest"))) == ["data.vhd", "root.vhd"]
        d("disk web/late 1")
        assert sorted(os.listdir(d.path("web", "points", name))) == ["data.vhd", "root.vhd"]
        assert os.path.getsize(d.live()) == 64 * MIB + 512
        assert os.path.getsize(d.live("data")) == 3 * MIB + 512
        assert os.path.getsize(d.point(n, "data")) == 3 * MIB + 512
        d("machine db readonly")
        assert sorted(os.listdir(d.mnt)) == ["db", "web"]
        assert os.listdir(d.path("db", "live")) == ["root.vhd"]
        fails_with(errno.EEXIST, d, "machine db readonly")
        for missing in ("nobody", "web/else", "web/live/none.vhd", "web/live/root",
                        "web/live/root.vhdx", "web/points/7", "web/points/" + str(n),
                        "web/points/0" + name, "web/points/" + name[:-2] + "0Z0",
                        "web/clones/none", "web/points/latest/late.vhd"):
            assert not os.path.exists(d.path(missing)), missing
        d.stop()
        assert not is_mounted(d.mnt)


def test_refusals():
    with daemon() as d:
        n = d("seal")
        live, point = d.live(), d.point(n)
        for folder in ("", "web", "web/live", "web/points", "web/clones"):
            fails_with(errno.EPERM, open, d.path(folder, "new"), "w")
            fails_with(errno.EPERM, os.mkdir, d.path(folder, "newdir"))
        fails_with(errno.EPERM, os.unlink, live)
        fails_with(errno.EPERM, os.rename, live, live + ".bak")
        fails_with(errno.EPERM, os.link, live, live + ".bak")
        fails_with(errno.EPERM, os.symlink, "x", d.path("web", "x"))
        fails_with(errno.EPERM, os.rmdir, d.path("web", "live"))
        fails_with(errno.EROFS, open, point, "r+b")
        fails_with(errno.EROFS, os.chmod, point, 0o666)
        fails_with(errno.EPERM, os.truncate, live, 1000)
        fails_with(errno.EPERM, os.truncate, live, 65 * MIB)
        fails_with(errno.EPERM, write_at, live, 64 * MIB, b"x" * 512)
        fails_with(errno.ENOSPC, write_at, live, 64 * MIB + 512, b"x")
        fails_with(errno.ENOSPC, write_at, live, 1 << 50, b"x")
        # What does no harm succeeds and changes nothing.
        write_at(live, 5000, b"still here")
        os.truncate(live, 64 * MIB)
        os.truncate(live, 64 * MIB + 512)
        assert os.path.getsize(live) == 64 * MIB + 512
        assert read_at(live, 5000, 10) == b"still here"
        assert len(read_at(live, 64 * MIB + 500, 100)) == 12
        assert read_at(live, 64 * MIB + 512, 100) == b""
        os.statvfs(live)
        # Emptied, it is a disk of zeros, as a file would be that grows again.
        footer = read_at(live, 64 * MIB, 512)
        with open(live, "wb"):
            pass
        assert os.path.getsize(live) == 64 * MIB + 512
        assert read_at(live, 0, MIB) == bytes(MIB)
        assert read_at(live, 64 * MIB, 512) == footer


def test_attributes():
    """What is set is so, decides who may open the file, and lasts until the daemon's end; what cannot
    be set is refused."""
    with daemon() as d:
        point, live = d.point(d("seal")), d.live()
        own = os.stat(live)
        os.chmod(d.dir, 0o755)
        os.chmod(live, 0o600)
        os.chown(live, 1234, 5678)
        os.utime(live, (1, 1))
        got = os.stat(live)
        assert (got.st_mode & 0o7777, got.st_uid, got.st_gid, got.st_mtime) == (0o600, 1234, 5678, 1)
        as_owner = ["setpriv", "--reuid", "1234", "--regid", "1", "--clear-groups"]
        if has("setpriv"):
            run(*as_owner, "dd", "if=/dev/zero", f"of={live}", "count=1", "conv=notrunc")
            run(*as_owner, "touch", live)
            run("chmod", "400", live)
            assert run(*as_owner, "dd", "if=/dev/zero", f"of={live}", "count=1", "conv=notrunc",
                       check=False).returncode != 0
            assert run(*as_owner, "chown", "1235", live, check=False).returncode != 0
        write_at(live, 0, b"x")
        assert os.stat(live).st_mtime >= own.st_mtime, "a write does not move the time on"
        run("touch", "--date=@7", live)
        assert os.stat(live).st_mtime == 7
        fails_with(errno.EPERM, os.chmod, live, 0o4755)
        fails_with(errno.EPERM, os.chmod, d.path("web", "live"), 0o777)
        fails_with(errno.EPERM, os.chown, d.path("web"), 1, 1)
        for what in ((os.chmod, point, 0o400), (os.chown, point, 1, 1), (os.utime, point, (1, 1))):
            fails_with(errno.EROFS, *what)
        # A mapping that shares its writes is the kernel's refusal for direct I/O.
        with open(live, "r+b") as f:
            fails_with(errno.ENODEV, mmap.mmap, f.fileno(), 4096)
        d("clone web c1 1 4")
        clone = d.path("web", "clones", "c1", "root.vhd")
        os.chmod(clone, 0o666)
        os.utime(clone, (3, 3))
        assert os.stat(clone).st_mode & 0o777 == 0o666 and os.stat(clone).st_mtime == 3
        write_at(clone, 0, b"x")
        assert os.stat(clone).st_mtime > 3
        unclone(d, "web c1")
        d.stop()
        d.start()
        d("machine web writable")
        got = os.stat(d.live())
        assert (got.st_mode, got.st_uid, got.st_gid) == (own.st_mode, own.st_uid, own.st_gid)


def test_readonly_machine():
    with daemon(writable=False) as d:
        fails_with(errno.EROFS, open, d.live(), "r+b")
        fails_with(errno.EROFS, os.truncate, d.live(), 0)
        assert read_at(d.live(), 0, 4096) == bytes(4096)


def test_many_points():
    with daemon(size_mib=1) as d:
        count = 20000
        last = d(f"seal {count}")
        started = time.monotonic()
        names = os.listdir(d.path("web", "points"))
        listed = time.monotonic() - started
        assert len(names) == count + 1 and len(set(names)) == count + 1
        assert listed < 5, f"{count} points took {listed:.1f} s"
        with os.scandir(d.path("web", "points")) as entries:
            assert sum(e.is_dir(follow_symlinks=False) for e in entries) == count
        assert os.path.isdir(d.path("web", "points", d.point_name(last)))


# ── reading and writing ─────────────────────────────────────────────────────────────────────


def test_any_alignment():
    with daemon(size_mib=4) as d:
        model = bytearray(4 * MIB)
        rng = random.Random(5)
        fd = os.open(d.live(), os.O_RDWR)
        for i in range(1500):
            offset = rng.randrange(4 * MIB)
            n = min(rng.randrange(1, 3000 if i % 10 else 2 * MIB), 4 * MIB - offset)
            if rng.random() < 0.5:
                data = rng.randbytes(n)
                model[offset:offset + n] = data
                assert os.pwrite(fd, data, offset) == n
            else:
                assert os.pread(fd, n, offset) == model[offset:offset + n], (i, offset, n)
        os.fsync(fd)
        os.close(fd)
        assert read_at(d.live(), 0, 4 * MIB) == bytes(model)
        n = d("seal")
        assert read_at(d.point(n), 0, 4 * MIB) == bytes(model)


def test_mmap():
    with daemon(size_mib=4) as d:
        data = pattern(1, 4 * MIB)
        write_at(d.live(), 0, data)
        n = d("seal")
        with open(d.point(n), "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            assert m[:4 * MIB] == data


def test_fallocate():
    with daemon(size_mib=4) as d:
        write_at(d.live(), 0, pattern(2, 4 * MIB))
        run("fallocate", "--punch-hole", "--offset", "4096", "--length", "8192", d.live())
        run("fallocate", "--zero-range", "--offset", "100000", "--length", "1000", d.live())
        want = bytearray(pattern(2, 4 * MIB))
        want[4096:4096 + 8192] = bytes(8192)
        want[100000:101000] = bytes(1000)
        assert read_at(d.live(), 0, 4 * MIB) == bytes(want)
        footer = read_at(d.live(), 4 * MIB, 512)
        # A discard of the whole device leaves the footer; writing zeros there is refused.
        run("fallocate", "--punch-hole", "--offset", "0", "--length", str(4 * MIB + 512), d.live())
        assert read_at(d.live(), 0, 4 * MIB) == bytes(4 * MIB)
        assert read_at(d.live(), 4 * MIB, 512) == footer
        refused = run("fallocate", "--zero-range", "--offset", str(4 * MIB), "--length", "512",
                      d.live(), check=False)
        assert refused.returncode != 0
        run("fallocate", "--length", str(4 * MIB), d.live())


def test_parallel_writers():
    with daemon(size_mib=16) as d:
        seen = []

        def write(i):
            fd = os.open(d.live(), os.O_RDWR)
            for k in range(64):
                os.pwrite(fd, bytes([i + 1]) * 4096, (k * 8 + i) * 4096)
                if k % 8 == 0:
                    os.fsync(fd)
            os.close(fd)
            seen.append(i)

        threads = [threading.Thread(target=write, args=(i,), daemon=True) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(seen) == 8
        want = b"".join(bytes([i + 1]) * 4096 for i in range(8)) * 64
        assert read_at(d.live(), 0, len(want)) == want


def test_fsync_is_durable():
    with daemon(size_mib=4) as d:
        fd = os.open(d.live(), os.O_RDWR)
        for i in range(20):
            os.pwrite(fd, bytes([i]) * 4096, i * 4096)
            os.fsync(fd)
            assert d("durable") >= d("staged"), i
        # And what nobody waits for becomes durable soon.
        os.pwrite(fd, b"x", 0)
        for _ in range(200):
            if d("durable") >= d("staged"):
                break
            time.sleep(0.01)
        else:
            raise AssertionError("a write that nobody waits for was not committed")
        os.close(fd)


def test_vault_out_of_reach():
    """However many readers wait for the vault, writing goes on and the tree answers."""
    with daemon(size_mib=16) as d:
        write_at(d.live(), 0, b"in the journal")
        n = d("seal")
        d(f"vault {n}")
        d("hold")
        wrong = []

        def read(i):
            try:
                got = read_at(d.live(), MIB + i * 65536, 4096)
                if got != bytes(4096):
                    wrong.append(i)
            except OSError as e:
                wrong.append(e)

        readers = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(60)]
        for t in readers:
            t.start()
        for _ in range(500):
            if d("held") >= 20:
                break
            time.sleep(0.01)
        assert d("held") >= 20
        started = time.monotonic()
        write_at(d.live(), 8192, b"goes on!" * 512)
        assert "live" in os.listdir(d.path("web"))
        d("seal")
        assert time.monotonic() - started < 5
        d("let-go")
        for t in readers:
            t.join()
        assert not wrong, wrong
        assert read_at(d.live(), 8192, 8) == b"goes on!"


class AsyncWrite:
    """One asynchronous O_DIRECT write of the kernel's own kind (io_submit) from a buffer that does
    not begin at a page."""

    def __init__(self, path, offset, data, in_page):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.memory = mmap.mmap(-1, len(data) + 8192)
        self.memory[in_page:in_page + len(data)] = data
        self.fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
        self.context = ctypes.c_ulong(0)
        assert self.libc.syscall(206, 8, ctypes.byref(self.context)) == 0
        at = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + in_page
        self.iocb = ctypes.create_string_buffer(struct.pack(
            "<QIIHhIQQqQII", 7, 0, 0, 1, 0, self.fd, at, len(data), offset, 0, 0, 0), 64)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(self.iocb))
        assert self.libc.syscall(209, self.context, 1, pointers) == 1

    def wait(self):
        event = (ctypes.c_longlong * 4)()
        assert self.libc.syscall(208, self.context, 1, 1, event, None) == 1
        self.libc.syscall(207, self.context)
        os.close(self.fd)
        return event[2]


def test_unaligned_buffers():
    """Writes whose sectors are whole, from buffers that do not begin at a page: the kernel cuts
    them inside a sector, but nothing has to be read for them. So they work with the vault away."""
    with daemon(size_mib=64) as d:
        n = d("seal")
        d(f"vault {n}")
        d("away")
        model = bytearray(64 * MIB)
        rng = random.Random(9)
        began = time.monotonic()
        fd = os.open(d.live(), os.O_RDWR)
        for i in range(40):
            size = rng.choice((MIB, 4 * MIB, 4 * MIB - 512, 2 * MIB + 1024))
            offset = rng.randrange((64 * MIB - size) // 512) * 512
            data = os.urandom(size)
            model[offset:offset + size] = data
            if i % 2:
                assert os.pwrite(fd, data, offset) == size
            else:
                got = AsyncWrite(d.live(), offset, data, rng.randrange(1, 4096)).wait()
                assert got == size, (i, got)
            assert os.pread(fd, size, offset) == data
            if i % 10 == 0:
                os.fsync(fd)
        os.fsync(fd)
        d("seal")
        # It is asked if the other half is not there in time, for which nobody has to wait long.
        assert d("asked") < 5, f"the vault was asked {d('asked')} times"
        assert time.monotonic() - began < 120
        os.close(fd)
        d("back")
        assert read_at(d.live(), 0, 64 * MIB) == bytes(model)


def test_half_sector_with_the_vault_away():
    """Part of a sector whose rest is in the vault: a small write is refused while it is away, the
    end of a large one is told by fsync and the seal, and is there as soon as the vault is."""
    with daemon(size_mib=16) as d:
        n = d("seal")
        d(f"vault {n}")
        d("away")
        fails_with(errno.ETIMEDOUT, write_at, d.live(), 1000, b"x" * 10)
        data = os.urandom(MIB - 300)
        fd = os.open(d.live(), os.O_RDWR)
        buffer = mmap.mmap(-1, len(data))  # begins at a page: one request
        buffer.write(data)
        assert os.pwrite(fd, buffer, 4 * MIB) == len(data)
        assert os.pread(fd, MIB - 512, 4 * MIB) == data[:MIB - 512]
        fails_with(errno.ETIMEDOUT, os.fsync, fd)
        fails_with(errno.ETIMEDOUT, d, "seal")
        os.close(fd)
        again = os.open(d.live(), os.O_RDWR)
        fails_with(errno.ETIMEDOUT, os.fsync, again)
        d("back")
        os.fsync(again)
        os.close(again)
        n = d("seal")
        assert read_at(d.point(n), 4 * MIB, MIB) == data + bytes(300)


def test_journal_without_room():
    """However many writers wait for room in a journal, reading goes on and the tree answers."""
    with daemon(size_mib=16) as d:
        write_at(d.live(), MIB, b"there before")
        d("full")
        wrong = []

        def write(i):
            try:
                write_at(d.live(), 2 * MIB + i * 4096, bytes([i]) * 4096)
            except OSError as e:
                wrong.append(e)

        writers = [threading.Thread(target=write, args=(i,), daemon=True) for i in range(60)]
        for t in writers:
            t.start()

        def go_on():
            try:
                assert "live" in os.listdir(d.path("web"))
                assert read_at(d.live(), MIB, 12) == b"there before"
                done.set()
            except (OSError, AssertionError) as e:
                wrong.append(e)

        try:
            for _ in range(500):
                if d("waiting") > 0 and waiting_requests(d) >= len(writers):
                    break
                time.sleep(0.01)
            done = threading.Event()
            threading.Thread(target=go_on, daemon=True).start()
            assert done.wait(10), f"{d('waiting')} writers wait, and nothing else goes on"
        finally:
            d("room")
        for t in writers:
            t.join()
        assert not wrong, wrong
        for i in range(60):
            assert read_at(d.live(), 2 * MIB + i * 4096, 4096) == bytes([i]) * 4096


def waiting_requests(d):
    """How many requests the kernel has not been answered."""
    control = os.path.join(d.dir, "control")
    if not os.path.isdir(control):
        os.mkdir(control)
        run("mount", "-t", "fusectl", "none", control)
        d.stack.callback(unmount, control)
    minor = os.minor(os.lstat(d.mnt).st_dev)
    with open(os.path.join(control, str(minor), "waiting"), encoding="ascii") as f:
        return int(f.read())


def test_full_group_beside_another():
    """One group's journal has no room, and a loop device over its disk has all its asynchronous
    writes wait: another group's go on, in whatever way, and so do all others of the first."""
    with daemon(size_mib=256) as d:
        d("group 1")
        d("disk db/data 64")
        d("machine db writable")
        d("group 0")
        write_at(d.live(), 0, b"there before")
        full = attach(d, d.live(), 256)
        other = attach(d, d.live("data", "db"), 64)
        d("full")
        stuck = []

        def load():
            for i in range(1, 121):  # the device takes so many at once, and then lets one wait
                stuck.append(AsyncWrite(full, i * MIB, bytes([i]) * MIB, 0))

        loader = threading.Thread(target=load, daemon=True)
        loader.start()
        wrong = []
        done = threading.Event()

        def go_on():
            try:
                for i in range(20):
                    data = pattern(i, 2 * MIB)
                    for path in (d.live("data", "db"), other):
                        got = AsyncWrite(path, 2 * i * MIB, data, 0).wait()
                        assert got == len(data), got
                        assert read_at(path, 2 * i * MIB, len(data)) == data
                assert read_at(d.live(), 0, 12) == b"there before"
                d("seal")
                done.set()
            except (OSError, AssertionError) as e:
                wrong.append(e)

        try:
            for _ in range(1000):
                if waiting_requests(d) >= 60:
                    break
                time.sleep(0.01)
            assert waiting_requests(d) >= 60, "the load does not get to the mount"
            assert d("waiting") <= 16, f"{d('waiting')} threads wait for one group's room"
            threading.Thread(target=go_on, daemon=True).start()
            assert done.wait(20), f"nothing goes on beside the full group {wrong}"
        finally:
            d("room")
        assert not wrong, wrong
        loader.join(60)
        assert len(stuck) == 120
        for write in stuck:
            assert write.wait() == MIB
        for i in range(1, 121):
            assert read_at(d.live(), i * MIB, MIB) == bytes([i]) * MIB


def test_grown_disk():
    with daemon(size_mib=4) as d:
        old = d("seal")
        d("grow 1 6")
        deadline = time.monotonic() + 5
        while os.path.getsize(d.live()) != 6 * MIB + 512 and time.monotonic() < deadline:
            time.sleep(0.05)  # the kernel keeps attributes for a second
        assert os.path.getsize(d.live()) == 6 * MIB + 512
        write_at(d.live(), 5 * MIB, b"new room")
        new = d("seal")
        assert os.path.getsize(d.point(old)) == 4 * MIB + 512
        assert os.path.getsize(d.point(new)) == 6 * MIB + 512
        assert read_at(d.point(new), 5 * MIB, 8) == b"new room"
        assert len(read_at(d.point(old), 4 * MIB, 1000)) == 512


# ── tools ───────────────────────────────────────────────────────────────────────────────────


def info(path):
    return json.loads(run("qemu-img", "info", "-f", "vpc", "--output=json", path).stdout)


def test_qemu_img():
    if not has("qemu-img"):
        return "qemu-img is not installed"
    with daemon() as d:
        raw = os.path.join(d.dir, "source.img")
        with open(raw, "wb") as f:
            f.write(pattern(3, 5 * MIB))
            f.truncate(64 * MIB)
            f.seek(40 * MIB)
            f.write(pattern(4, 3 * MIB))
        assert info(d.live())["virtual-size"] == 64 * MIB
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "vpc", raw, d.live())
        n = d("seal")
        run("qemu-img", "compare", "-f", "raw", "-F", "vpc", raw, d.point(n))
        assert info(d.point(n))["virtual-size"] == 64 * MIB
        # Over it again, as raw, and by a conversion that makes the file itself.
        with open(raw, "r+b") as f:
            f.seek(MIB)
            f.write(pattern(5, MIB))
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, d.live())
        m = d("seal")
        run("qemu-img", "compare", "-f", "raw", "-F", "vpc", raw, d.point(m))
        assert run("qemu-img", "compare", "-f", "vpc", "-F", "vpc", d.point(n), d.point(m),
                   check=False).returncode == 1
        copy = os.path.join(d.dir, "copy.vhd")
        run("qemu-img", "convert", "-f", "vpc", "-O", "vpc", "-o",
            "subformat=fixed,force_size=on", d.point(n), copy)
        # A whole VHD by another maker, footer and all.
        run("dd", f"if={copy}", f"of={d.live()}", "bs=1M", "conv=fsync")
        last = d("seal")
        run("qemu-img", "compare", "-f", "vpc", "-F", "vpc", copy, d.point(last))
        run("cmp", d.point(n), d.point(last))


def test_dd_and_cp():
    with daemon(size_mib=8) as d:
        raw = os.path.join(d.dir, "raw.img")
        with open(raw, "wb") as f:
            f.write(pattern(6, 8 * MIB))
        run("dd", f"if={raw}", f"of={d.live()}", "bs=64k", "conv=fsync")
        run("cmp", "-n", str(8 * MIB), raw, d.live())
        run("dd", "if=/dev/zero", f"of={d.live()}", "bs=3000", "count=7", "seek=5",
            "conv=notrunc,fsync")
        got = read_at(d.live(), 0, MIB)
        assert got[15000:36000] == bytes(21000) and got[36000:] == pattern(6, MIB)[36000:]
        n = d("seal")
        copy = os.path.join(d.dir, "copy.vhd")
        run("cp", "--preserve", d.point(n), copy)
        run("dd", "if=/dev/zero", f"of={d.live()}", "bs=1M", "count=8", "oflag=direct")
        os.utime(copy, (9, 9))
        os.chmod(copy, 0o640)
        run("cp", "--preserve", copy, d.live())
        run("cmp", d.point(n), d.live())
        # The kernel knows it for a second; later it is told anew, and the journal has come to rest.
        for _ in range(5):
            assert os.stat(d.live()).st_mtime == 9
            time.sleep(0.5)
        run("dd", f"if={d.live()}", f"of={copy}", "bs=1M", "iflag=direct")
        run("cmp", d.point(n), copy)


def test_sparse_copies():
    if not has("nbdcopy", "qemu-img"):
        return "nbdcopy or qemu-img is not installed"
    with daemon(size_mib=16) as d:
        raw = os.path.join(d.dir, "raw.img")
        with open(raw, "wb") as f:
            f.write(pattern(7, 3 * MIB))
            f.truncate(16 * MIB)
            f.seek(9 * MIB)
            f.write(pattern(12, MIB))
        for copy in (["nbdcopy", "--flush"], ["cp", "--sparse=always"],
                     ["qemu-img", "convert", "-f", "raw", "-O", "raw"]):
            write_at(d.live(), 0, pattern(8, 16 * MIB))
            run(*copy, raw, d.live())
            run("cmp", "-n", str(16 * MIB), raw, d.live())


# ── filesystems ─────────────────────────────────────────────────────────────────────────────


def fill(where, seed, count=30):
    rng = random.Random(seed)
    for i in range(count):
        folder = os.path.join(where, f"d{i % 5}")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"f{seed}-{i}"), "wb") as f:
            f.write(rng.randbytes(rng.randrange(200000)))


def filesystem(kind, size_mib):
    check = ["e2fsck", "-fn"] if kind == "ext4" else ["xfs_repair", "-n"]
    mkfs = ["mkfs.ext4", "-q"] if kind == "ext4" else ["mkfs.xfs", "-q"]
    nouuid = "nouuid" if kind == "xfs" else ""
    if not has(mkfs[0], check[0], "losetup", "fstrim"):
        return f"{mkfs[0]} or {check[0]} is not installed"
    if run("losetup", "-f", check=False).returncode != 0:
        return "no loop devices here"
    with daemon(size_mib=size_mib) as d:
        loop = attach(d, d.live(), size_mib)
        run(*mkfs, loop)
        where = mount(d, loop)
        states = {}
        for i in range(4):
            fill(where, i)
            if i == 2:
                shutil.rmtree(os.path.join(where, "d1"))
                run("fstrim", "-v", where)
            run("sync", "-f", where)
            # A point of a filesystem at work: its log is dirty.
            states[d("seal")] = contents(where)
        # Each point through a clone, where the log is replayed.
        for number, want in states.items():
            d(f"clone web c{number} {number} 64")
            clone = d.path("web", "clones", f"c{number}", "root.vhd")
            branch = attach(d, clone, size_mib)
            at = mount(d, branch, nouuid)
            assert contents(at) == want, f"point {number} differs"
            fill(at, 77, 3)
            unmount(at)
            run(*check, branch)
            detach(branch)
            unclone(d, f"web c{number}")
            assert not os.path.exists(clone)
        unmount(where)
        run(*check, loop)
        detach(loop)
        n = d("seal")
        run("cmp", d.point(n), d.live())
        # And read-only, straight from the point.
        branch = attach(d, d.point(n), size_mib, "--read-only")
        at = mount(d, branch, "ro" + ("," + nouuid if nouuid else ""))
        assert contents(at) == states[max(states)]
        unmount(at)
        detach(branch)
    return None


def test_ext4():
    return filesystem("ext4", 64)


def test_xfs():
    return filesystem("xfs", 320)


# ── clones, removal, death ──────────────────────────────────────────────────────────────────


def test_clones_branch():
    with daemon(size_mib=4) as d:
        data = pattern(9, 4 * MIB)
        write_at(d.live(), 0, data)
        n = d("seal")
        d(f"clone web a {n} 2")
        d(f"clone web b {n} 2")
        fails_with(errno.EEXIST, d, f"clone web a {n} 2")
        a, b = (d.path("web", "clones", c, "root.vhd") for c in "ab")
        write_at(a, 10000, b"only in a")
        run("fallocate", "--punch-hole", "--offset", "20000", "--length", "5000", a)
        assert read_at(b, 0, 4 * MIB) == data and read_at(d.point(n), 0, 4 * MIB) == data
        want = bytearray(data)
        want[10000:10009] = b"only in a"
        want[20000:25000] = bytes(5000)
        assert read_at(a, 0, 4 * MIB) == bytes(want)
        # The quota: 2 MiB of overlay and no more, and what was there stays right.
        full = os.open(b, os.O_WRONLY)
        taken = os.pwrite(full, bytes([1]) * 4 * MIB, 0)
        assert 0 < taken < 2 * MIB, taken
        fails_with(errno.ENOSPC, os.pwrite, full, bytes(MIB), 3 * MIB)
        os.close(full)
        assert read_at(b, 0, 4 * MIB) == bytes([1]) * taken + data[taken:]
        with open(a, "rb"):
            fails_with(errno.EBUSY, d, "unclone web a")
        unclone(d, "web a")
        assert os.listdir(d.path("web", "clones")) == ["b"]
        # The same name again is another clone.
        d(f"clone web a {n} 2")
        assert read_at(a, 0, 4 * MIB) == data


def test_dropped_point_stays_readable():
    with daemon(size_mib=4) as d:
        data = pattern(10, 4 * MIB)
        write_at(d.live(), 0, data)
        n = d("seal")
        d("seal")
        with open(d.point(n), "rb", buffering=0) as f:
            try:
                d(f"drop {n}")
            except OSError as e:
                # A point in use may also refuse to go.
                assert e.errno == errno.EBUSY
            write_at(d.live(), 0, bytes(4 * MIB))
            assert os.pread(f.fileno(), 4 * MIB, 0) == data
            assert os.fstat(f.fileno()).st_size == 4 * MIB + 512


def test_removed_machine():
    with daemon(size_mib=4) as d:
        write_at(d.live(), 0, b"before")
        live = open(d.live(), "r+b", buffering=0)
        d("remove web")
        assert os.listdir(d.mnt) == []
        fails_with(errno.EIO, os.pread, live.fileno(), 10, 0)
        fails_with(errno.EIO, os.pwrite, live.fileno(), b"x", 0)
        fails_with(errno.EIO, os.fsync, live.fileno())
        fails_with(errno.ENOENT, d, "remove web")
        d("machine web writable")
        assert read_at(d.live(), 0, 6) == b"before"
        fails_with(errno.EIO, os.pread, live.fileno(), 10, 0)
        live.close()


def test_numbers_come_again():
    """A machine that gets the inodes of one that is gone shows its own points, though the kernel
    still has the other's open, and in memory."""
    with daemon(size_mib=4) as d:
        write_at(d.live(), 0, b"A" * 4096)
        number = d("seal")
        old = os.open(d.path("web", "points", d.point_name(number), "root.vhd"), os.O_RDONLY)
        before = os.fstat(old).st_ino
        assert os.pread(old, 4096, 0) == b"A" * 4096
        d("remove web")
        for _ in range(4094):
            d("machine other writable")
            d("remove other")
        d("group 1")
        d("disk db/data 4")
        d("machine db writable")
        write_at(d.live("data", "db"), 0, b"B" * 4096)
        assert d("seal") == number
        path = d.path("db", "points", d.point_name(number, "db"), "data.vhd")
        assert os.stat(path).st_ino == before, "it is another inode: this shows nothing"
        assert read_at(path, 0, 4096) == b"B" * 4096, "another machine's data"
        fails_with(errno.EIO, os.pread, old, 10, 1 << 20)
        fails_with(errno.EIO, os.close, old)  # the kernel knows that it is no more


def test_removal_under_load():
    with daemon(size_mib=8) as d:
        stop = threading.Event()
        wrong = []

        def hammer():
            while not stop.is_set():
                try:
                    with open(d.live(), "r+b", buffering=0) as f:
                        for i in range(50):
                            os.pwrite(f.fileno(), b"y" * 700, i * 3000)
                            os.pread(f.fileno(), 5000, i * 1000)
                except OSError as e:
                    if e.errno not in (errno.EIO, errno.ENOENT, errno.ESTALE):
                        wrong.append(e)

        threads = [threading.Thread(target=hammer, daemon=True) for _ in range(4)]
        for t in threads:
            t.start()
        for _ in range(20):
            time.sleep(0.03)
            d("remove web")
            d("machine web writable")
        stop.set()
        for t in threads:
            t.join()
        assert not wrong, wrong


def test_kill_and_restart():
    with daemon(size_mib=16) as d:
        data = pattern(11, 16 * MIB)
        write_at(d.live(), 0, data)
        n = d("seal")
        held = open(d.live(), "rb", buffering=0)
        point = d.point(n)
        d.kill()
        fails_with(errno.ENOTCONN, os.listdir, d.mnt)
        fails_with(errno.ENOTCONN, os.pread, held.fileno(), 10, 0)
        d.start()
        d("machine web writable")
        assert read_at(d.live(), 0, 16 * MIB) == data
        assert read_at(point, 0, 16 * MIB) == data
        held.close()
        # A second daemon is refused while the first lives.
        os.mkdir(os.path.join(d.dir, "other"))
        other = subprocess.run([TOOL, os.path.join(d.dir, "other"), d.mnt], text=True, timeout=30,
                               stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert other.returncode == 1 and "alive" in other.stderr, other.stderr
        assert read_at(d.live(), 0, 4096) == data[:4096]


def test_kill_with_filesystem():
    if not has("mkfs.ext4", "e2fsck", "losetup"):
        return "mkfs.ext4 is not installed"
    if run("losetup", "-f", check=False).returncode != 0:
        return "no loop devices here"
    with daemon(size_mib=64) as d:
        loop = attach(d, d.live(), 64)
        run("mkfs.ext4", "-q", loop)
        where = mount(d, loop)
        fill(where, 1)
        run("sync", "-f", where)
        want = contents(where)
        d.kill()
        run("umount", "-l", where)
        run("losetup", "-d", loop, check=False)
        d.start()
        d("machine web writable")
        loop = attach(d, d.live(), 64)
        where = mount(d, loop)
        assert contents(where) == want
        unmount(where)
        run("e2fsck", "-fn", loop)
        detach(loop)


def test_end_with_open_files():
    with daemon(size_mib=4) as d:
        write_at(d.live(), 0, b"kept")
        with open(d.live(), "rb", buffering=0) as f:
            d.stop()
            assert not is_mounted(d.mnt)
            fails_with(errno.ENOTCONN, os.pread, f.fileno(), 4, 0)
        d.start()
        d("machine web writable")
        assert read_at(d.live(), 0, 4) == b"kept"


def test_unmounted_from_outside():
    with daemon(size_mib=4) as d:
        run("umount", d.mnt)
        d("seal")
        d("remove web")
        d.stop()


def test_taken_away():
    """Unmounted, with files open or without, over and over: it comes back, and old and new handles
    mean the same disks, their halves of sectors too."""
    with daemon(size_mib=4) as d:
        write_at(d.live(), 0, b"before")
        assert d("watch") == 0
        run("umount", d.mnt)
        assert d("watch") == 1 and is_mounted(d.mnt)
        assert read_at(d.live(), 0, 6) == b"before"
        d("seal")
        for turn in range(3):
            with open(d.live(), "r+b", buffering=0) as old, \
                    open(d.point(1), "rb", buffering=0) as point:
                run("umount", "-l", d.mnt)
                assert not is_mounted(d.mnt)
                assert d("watch") == 1 and is_mounted(d.mnt)
                assert d("watch") == 0
                with open(d.live(), "r+b", buffering=0) as new:
                    for n in range(16):
                        # Neighbours in one sector, each through its own mount.
                        here, there = (old, new) if n % 2 else (new, old)
                        os.pwrite(here.fileno(), bytes([turn, n]) * 50, 8192 + 512 * turn + 100 * n)
                        assert os.pread(there.fileno(), 100, 8192 + 512 * turn + 100 * n) == \
                            bytes([turn, n]) * 50
                    os.fsync(old.fileno())
                assert os.pread(point.fileno(), 6, 0) == b"before"
        d("clone web c1 1 4")
        with open(d.path("web", "clones", "c1", "root.vhd"), "rb"):
            run("umount", "-l", d.mnt)
            assert d("watch") == 1
            fails_with(errno.EBUSY, d, "unclone web c1")
        wait_for(lambda: not fails(d, "unclone web c1"))
        # Handles that the kernel never closes are given back.
        with open(d.live(), "r+b", buffering=0) as old:
            run("umount", "-f", d.mnt, check=False)  # ends the connection, busy or not
            wait_for(lambda: d("watch") == 1)
            fails_with(errno.ENOTCONN, os.pread, old.fileno(), 4, 0)
        assert read_at(d.live(), 0, 6) == b"before"
        # What lies over it is not thrown off.
        run("mount", "-t", "tmpfs", "none", d.mnt)
        fails_with(errno.EBUSY, d, "watch")
        run("umount", d.mnt)
        assert d("watch") == 0
        with open(d.live(), "r+b", buffering=0) as old:
            run("umount", "-l", d.mnt)
            assert d("watch") == 1
            d.stop()
            assert not is_mounted(d.mnt)
            fails_with(errno.ENOTCONN, os.pread, old.fileno(), 4, 0)


def fails(function, *args):
    try:
        function(*args)
    except OSError:
        return True
    return False


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.01)


def main():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("skipped: needs root and /dev/fuse")
        return 77
    # Ended from outside, it still takes down what it has put up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = sys.argv[1:]
    failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        started = time.monotonic()
        try:
            skipped = test()
            verdict = f"skipped: {skipped}" if skipped else "ok"
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            failed += 1
            line = e.__traceback__
            while line.tb_next:
                line = line.tb_next
            verdict = f"FAILED (line {line.tb_lineno}): {type(e).__name__} {e}"
        print(f"{name}: {verdict} ({time.monotonic() - started:.1f} s)", flush=True)
    return 1 if failed else 0


sys.exit(main())
