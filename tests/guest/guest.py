"""Machines of their own for tests: QEMU emulating the processor, Debian's cloud kernel, a ramdisk
that is put together here.

    image = make_image(work, init="capture_init.sh", modules=…, tools=…, programs=…)
    with Guest(work, "capture", image, disks) as guest:
        for line in guest.lines(330): …

The init's lines come by the first serial port; the kernel's messages, all of them, go to a second
one. Both are kept whole in build/test-logs, whatever becomes of the guest: BUILD-guest-NAME.log and
BUILD-guest-NAME-kernel.log. A guest that does not end in its time is asked where it is before it is
killed: the registers of its processors and the code they are at, then an NMI, at which the kernel
prints the stacks of all processors and tasks.

QEMU (seen with 7.2) may go on executing what it translated of code that another processor has
changed meanwhile. Linux puts an int3 where it begins to change code that runs; when QEMU has kept
that one, each processor that comes there traps for ever: all of them loop from a function's first
byte to the entry of vector 3, while no int3 is in memory, and the guest goes on when all translations
are dropped. One attachment in a thousand to functions that are busy on two processors ends so.
Where a part does that again and again, parallel=False has one thread of QEMU take turns for both
processors.

LANDFALL_GUEST_KERNEL names the .deb of another kernel.
"""

import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import time

from appliance import (BUILD, Failure, Skip, check, die_with_parent, end_process, need, shell,
                       step, wait_until)

HERE = pathlib.Path(__file__).resolve().parent
LOGS = BUILD.parent / "test-logs"
CACHE = pathlib.Path(os.environ.get("LANDFALL_GUEST_CACHE", "/var/cache/landfall-guest"))
# No processor may be left out of what explains a hang
KERNEL_WORDS = ("console=ttyS1 ignore_loglevel panic=-1 mitigations=off unknown_nmi_panic "
                "panic_print=0x41 softlockup_all_cpu_backtrace=1 oops=panic")
LAST_WORDS_S, SAMPLES = 30, 40


def kernel_package():
    """The .deb of the kernel, kept from one run to the next."""
    named = os.environ.get("LANDFALL_GUEST_KERNEL")
    if named:
        return pathlib.Path(named)
    depends = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"],
                             capture_output=True, text=True, check=False).stdout
    name = re.search(r"Depends: (linux-image-\S+)", depends)
    if not name:
        raise Skip("apt knows no linux-image-cloud-amd64")
    CACHE.mkdir(parents=True, exist_ok=True)
    found = sorted(CACHE.glob(f"{name[1]}_*.deb"))
    if not found:
        step(f"fetching {name[1]}")
        done = subprocess.run(["apt-get", "download", name[1]], cwd=CACHE, capture_output=True,
                              text=True, check=False)
        found = sorted(CACHE.glob(f"{name[1]}_*.deb"))
        if not found:
            raise Skip(f"cannot be fetched: {done.stderr.strip()[-200:]}")
    return found[-1]


def copy_program(root, path, name=None):
    """A program and the libraries it is linked with."""
    target = root / "bin" / (name or pathlib.Path(path).name)
    shutil.copy(path, target)
    for line in subprocess.run(["ldd", path], capture_output=True, text=True,
                               check=False).stdout.splitlines():
        library = re.search(r"(/\S+) \(0x", line)
        if library:
            at = root / "lib" / pathlib.Path(library[1]).name
            if library[1].startswith("/lib64/ld-"):
                at = root / library[1].lstrip("/")
                at.parent.mkdir(exist_ok=True)
            if not at.exists():
                shutil.copy(library[1], at)


def module_files(modules, wanted):
    """Paths of modules and all they depend on, relative to `modules`."""
    depends = {}
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        path, rest = line.split(":")
        depends[path] = rest.split()
    found = set()
    for path, rest in depends.items():
        name = pathlib.Path(path).name.split(".ko")[0].replace("-", "_")
        if name in {w.replace("-", "_") for w in wanted}:
            found.update([path, *rest])
    return found


def copy_modules(unpacked, root, version, wanted):
    source = next(p for p in (unpacked / "lib" / "modules" / version,
                              unpacked / "usr" / "lib" / "modules" / version) if p.exists())
    shell("busybox", "depmod", "-b", source.parents[2], version)
    target = root / "lib" / "modules" / version
    for path in module_files(source, wanted):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    shell("busybox", "depmod", "-b", root, version)


class Image:
    """A kernel and its initial ramdisk."""

    def __init__(self, vmlinuz, initrd, version):
        self.vmlinuz, self.initrd, self.version = vmlinuz, initrd, version


def make_image(work, init, modules, tools=(), programs=(), files=None):
    """`init` is a script beside this file; `tools` are programs of this machine, `programs` paths
    of others; `files` is {name in /etc: text}."""
    need("qemu-system-x86_64", "busybox", "dpkg-deb", "ldd", *tools)
    package = kernel_package()
    step("putting the ramdisk together")
    unpacked, root = work / "kernel", work / "root"
    shell("dpkg-deb", "-x", package, unpacked)
    vmlinuz = next((unpacked / "boot").glob("vmlinuz-*"))
    version = vmlinuz.name[len("vmlinuz-"):]
    for name in ("bin", "lib", "proc", "sys", "dev", "tmp", "etc", "m", "scratch", "run"):
        (root / name).mkdir(parents=True)
    (root / "sbin").symlink_to("bin")
    (root / "etc" / "mtab").symlink_to("/proc/self/mounts")
    copy_program(root, shutil.which("busybox"))
    for applet in shell(root / "bin" / "busybox", "--list").split():
        if not (root / "bin" / applet).exists():
            (root / "bin" / applet).symlink_to("busybox")
    for name in tools:
        (root / "bin" / name).unlink(missing_ok=True)
        copy_program(root, shutil.which(name))
    if "mke2fs" in tools:
        (root / "bin" / "mkfs.ext4").symlink_to("mke2fs")
        shutil.copy("/etc/mke2fs.conf", root / "etc")
    for path in programs:
        copy_program(root, path)
    for name, text in (files or {}).items():
        (root / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "etc" / name).write_text(text, encoding="utf-8")
    copy_modules(unpacked, root, version, modules)
    shutil.copy(HERE / init, root / "init")
    (root / "init").chmod(0o755)
    initrd = work / "initrd"
    shell("sh", "-c", "find . | busybox cpio -o -H newc >\"$0\" 2>/dev/null", initrd, cwd=root)
    return Image(vmlinuz, initrd, version)


class Disk:
    """A sparse file, and how the guest sees it: virtio, nvme or scsi."""

    def __init__(self, work, serial, mib, how="virtio"):
        self.path, self.serial, self.how = work / f"{serial}.disk", serial, how
        self.size = mib << 20
        with open(self.path, "ab") as f:
            f.truncate(self.size)

    def words(self):
        device = {"virtio": f"virtio-blk-pci,drive={self.serial},serial={self.serial}",
                  "nvme": f"nvme,drive={self.serial},serial={self.serial}",
                  "scsi": f"scsi-hd,bus=scsi.0,drive={self.serial},serial={self.serial}"}[self.how]
        return ["-drive", f"file={self.path},format=raw,if=none,id={self.serial},cache=unsafe,"
                          "discard=unmap", "-device", device]


    def plug(self, monitor):
        """Into a guest that runs; virtio only."""
        _, drive, _, device = self.words()
        monitor.ask(f"drive_add 0 {drive}")
        driver, *options = device.split(",")
        monitor.call("device_add", driver=driver, id=f"at-{self.serial}",
                     **dict(option.split("=") for option in options))

    def grow(self, monitor, mib):
        """In a guest that runs, which is told."""
        self.size = mib << 20
        monitor.call("block_resize", device=self.serial, size=self.size)

    def pull(self, monitor):
        """Out of a guest that runs, if it was plugged in."""
        monitor.call("device_del", id=f"at-{self.serial}")


class Monitor:
    """QEMU's monitor (QMP)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.input = self.socket.makefile("r", encoding="utf-8")
        self.input.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            line = self.input.readline()
            if not line:
                raise Failure(f"QEMU has gone at {command}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Failure(f"QEMU: {command}: {answer['error']}")

    def ask(self, line):
        """A command for people, and its text."""
        return self.call("human-monitor-command", **{"command-line": line})

    def close(self):
        self.input.close()
        self.socket.close()


class Guest:
    """A machine of two processors that runs an image."""

    def __init__(self, work, name, image, disks, memory_mib=768, words=(), reboots=False,
                 kernel_words="", parallel=True):
        self.work, self.image, self.disks = pathlib.Path(work), image, disks
        self.memory_mib, self.extra, self.reboots = memory_mib, words, reboots
        self.kernel_words, self.parallel = kernel_words, parallel
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{BUILD.name}-guest-{name}.log"
        self.kernel_log = LOGS / f"{BUILD.name}-guest-{name}-kernel.log"
        self.console = self.process = self.monitor = None
        self.rest = b""

    def words(self):
        # Newer kernels corrupt memory under emulation with these
        old = self.image.version.startswith(("5.", "6.1."))
        words = ["qemu-system-x86_64", "-accel",
                 f"tcg,thread={'multi' if self.parallel else 'single'}", "-cpu",
                 "max" if old else "max,la57=off,cx16=off", "-smp", "2", "-m",
                 self.memory_mib, "-nodefaults", "-no-user-config", "-display", "none",
                 "-qmp", f"unix:{self.work}/qmp,server=on,wait=off", "-serial", "stdio",
                 "-serial", f"file:{self.kernel_log}", "-kernel", self.image.vmlinuz, "-initrd",
                 self.image.initrd, "-append", f"{KERNEL_WORDS} {self.kernel_words}"]
        if not self.reboots:
            words += ["-no-reboot"]
        if any(disk.how == "scsi" for disk in self.disks):
            words += ["-device", "virtio-scsi-pci,id=scsi"]
        for disk in self.disks:
            words += disk.words()
        return [str(word) for word in [*words, *self.extra]]

    def __enter__(self):
        step(f"booting {self.image.version}")
        self.console = open(self.log, "wb")
        try:
            self.process = subprocess.Popen(self.words(), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=self.console,
                                            preexec_fn=die_with_parent)
            self.monitor = wait_until(30, self.connect, "QEMU does not start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def connect(self):
        if self.process.poll() is not None:
            raise Failure(f"QEMU ended: {self.log.read_text(encoding='utf-8', errors='replace')}")
        try:
            return Monitor(self.work / "qmp")
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def __exit__(self, *_):
        if self.monitor:
            self.monitor.close()
        end_process(self.process)
        if self.process:
            self.process.stdin.close()
            self.process.stdout.close()
        self.console.close()

    def read(self, seconds):
        """What came within the time; b"" when nothing did; None when the guest is off."""
        if not select.select([self.process.stdout], [], [], max(seconds, 0))[0]:
            return b""
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        self.console.write(data)
        self.console.flush()
        return data or None

    def lines(self, seconds, what="the guest"):
        """Lines of the init as they come, until the guest is off; Failure, with what can be found
        out, when that takes longer."""
        end = time.monotonic() + seconds
        while True:
            while b"\n" in self.rest:
                line, self.rest = self.rest.split(b"\n", 1)
                yield line.decode("utf-8", "replace").strip()
            data = self.read(end - time.monotonic())
            if data is None:
                return
            if data == b"":
                raise Failure(f"{what} takes more than {seconds} s. {self.last_words()}")
            self.rest += data

    def line(self, pattern, seconds):
        """The match of the first line that matches; Failure at one that begins with @bad."""
        for line in self.lines(seconds, f"what is to say {pattern}"):
            if line.startswith("@bad"):
                raise Failure(line[1:])
            match = re.fullmatch(pattern, line)
            if match:
                return match
        raise Failure(f"the guest went off before it said {pattern}")

    def tell(self, command):
        """Has shell_init.sh begin a command, which will end with a line "@done <exit code>"."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def do(self, command, seconds=60):
        """A command for shell_init.sh, and what it printed; Failure unless it exits 0."""
        self.tell(command)
        said = []
        for line in self.lines(seconds, command):
            text, done, code = line.partition("@done ")
            said.append(text)
            if done:
                check(code == "0", f"in the guest: {command}: exit {code}: {said}")
                return "\n".join(said)
        raise Failure(f"the guest went off at {command}")

    def last_words(self):
        """Asks a guest that hangs where it is; tells in which files the answers are."""
        try:
            places = set()
            for _ in range(SAMPLES):
                places.update(re.findall(r"RIP=([0-9a-f]{16})", self.monitor.ask("info registers -a")))
                time.sleep(0.05)
            for line in ("info cpus", "info registers -a",
                         *(f"x /8xb 0x{place}" for place in sorted(places))):
                self.console.write(f"{line}\n{self.monitor.ask(line)}".encode())
            self.console.flush()
            began = self.kernel_log.stat().st_size
            self.monitor.call("inject-nmi")
            end = time.monotonic() + LAST_WORDS_S
            while self.process.poll() is None and time.monotonic() < end:
                self.read(0.2)
            told = self.kernel_log.read_bytes()[began:].decode(errors="replace")
        except (Failure, OSError) as error:
            return f"It tells nothing: {error}; {self.log}, {self.kernel_log}"
        stacks = re.findall(r"RIP: \S+ ?\S+", told)
        return f"Registers in {self.log}, stacks in {self.kernel_log}: {stacks}"
