#!/usr/bin/env python3
"""Change capture inside a machine of its own: QEMU (emulating the processor, so slow) with virtio,
NVMe and SCSI disks, partitions, LVM over two of them, a mirror by md, ext4, xfs, btrfs and swap.
The copy that follows the marks equals every disk byte for byte at each cut, the marks outlive the
process, a raw SCSI command is found out, and tracepoint rings do as well as BPF.

Runs Debian's cloud kernel from a ramdisk that is put together here (capture_init.sh is its init).
LANDFALL_GUEST_KERNEL names the .deb of another one.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, Skip, check, die_with_parent, end_process, need,  # noqa: E402
                       run_test, shell, step)

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("LANDFALL_GUEST_CACHE", "/var/cache/landfall-guest"))
MODULES = ("virtio_pci virtio_blk virtio_scsi sd_mod sg nvme ext4 xfs btrfs dm-mod dm-log raid1 "
           "crc32c_generic crc32c-intel libcrc32c").split()
TOOLS = ("mkfs.xfs mkfs.btrfs mke2fs lvm mdadm sfdisk fstrim").split()
# serial, MiB, how it is attached
DISKS = (("vroot", 160, "virtio"), ("nraw", 304, "nvme"), ("sbtr", 128, "scsi"),
         ("vpv", 64, "virtio"), ("spv", 64, "scsi"), ("nmd", 64, "nvme"), ("vmd", 64, "virtio"),
         ("vraw", 48, "virtio"), ("sraw", 16, "scsi"), ("vscratch", 2048, "virtio"))
SECONDS = 330


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


def depmod(base, version):
    shell("busybox", "depmod", "-b", base, version)


def ramdisk(work, package):
    """The kernel and an initial ramdisk: (vmlinuz, initrd)."""
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
    for name in TOOLS:
        (root / "bin" / name).unlink(missing_ok=True)
        copy_program(root, shutil.which(name))
    (root / "bin" / "mkfs.ext4").symlink_to("mke2fs")
    for name in ("capture_tool", "capture_load"):
        copy_program(root, BUILD / "tests" / name)
    shutil.copy("/etc/mke2fs.conf", root / "etc")
    (root / "etc" / "lvm").mkdir()
    (root / "etc" / "lvm" / "lvm.conf").write_text(
        "activation { udev_sync = 0 udev_rules = 0 }\ndevices { obtain_device_list_from_udev = 0 }\n")
    source = next(p for p in (unpacked / "lib" / "modules" / version,
                              unpacked / "usr" / "lib" / "modules" / version) if p.exists())
    depmod(source.parents[2], version)
    target = root / "lib" / "modules" / version
    for path in module_files(source, MODULES):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    depmod(root, version)
    shutil.copy(HERE / "capture_init.sh", root / "init")
    (root / "init").chmod(0o755)
    initrd = work / "initrd"
    shell("sh", "-c", "find . | busybox cpio -o -H newc >\"$0\" 2>/dev/null", initrd, cwd=root)
    return vmlinuz, initrd, version


def qemu_words(work, vmlinuz, initrd, version):
    # Newer kernels corrupt memory under emulation with these
    cpu = "max,la57=off,cx16=off" if not version.startswith(("5.", "6.1.")) else "max"
    words = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", "2", "-m",
             "768", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial",
             "stdio", "-kernel", vmlinuz, "-initrd", initrd, "-append",
             "console=ttyS0 quiet panic=-1 mitigations=off", "-device", "virtio-scsi-pci,id=scsi"]
    for serial, mib, how in DISKS:
        path = work / f"{serial}.disk"
        with open(path, "wb") as f:
            f.truncate(mib << 20)
        words += ["-drive", f"file={path},format=raw,if=none,id={serial},cache=unsafe,discard=unmap"]
        words += ["-device", {"virtio": f"virtio-blk-pci,drive={serial},serial={serial}",
                              "nvme": f"nvme,drive={serial},serial={serial}",
                              "scsi": f"scsi-hd,bus=scsi.0,drive={serial},serial={serial}"}[how]]
    return [str(word) for word in words]


def test(work):
    need("qemu-system-x86_64", "busybox", "dpkg-deb", "ldd", *TOOLS)
    package = kernel_package()
    step("putting the ramdisk together")
    vmlinuz, initrd, version = ramdisk(work, package)
    step(f"booting {version}")
    log = work / "console.log"
    ok, bad, ended = 0, [], False
    with open(log, "wb") as console:
        guest = subprocess.Popen(qemu_words(work, vmlinuz, initrd, version),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=console, preexec_fn=die_with_parent)
        timer = threading.Timer(SECONDS, guest.kill)
        timer.start()
        try:
            for raw in guest.stdout:
                console.write(raw)
                console.flush()
                line = raw.decode("utf-8", "replace").strip()
                kind, _, text = line.partition(" ")
                if kind == "@ok":
                    ok += 1
                elif kind == "@bad":
                    bad.append(text)
                elif kind == "@end":
                    ended = True
                if kind.startswith("@"):
                    print(line[1:], flush=True)
            guest.wait(30)
        finally:
            timer.cancel()
            end_process(guest)
    check(not bad, f"{len(bad)} went wrong: {bad[0] if bad else ''}")
    check(ended, "the guest did not come to its end")
    check(ok >= 14, f"only {ok} things were shown")


if __name__ == "__main__":
    run_test(test)
