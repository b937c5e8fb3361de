"""Disks that a machine can be started from: a boot loader of Debian's, a kernel, a ramdisk.

    image = guest.make_image(work, "drill_init.sh", MODULES)
    make_bios_disk(path, image, marker)    MBR, one ext4 with extlinux, kernel and the marker
    make_uefi_disk(path, image, marker)    GPT, an EFI system partition, and an ext4 with the marker
    break_bios_disk(path)                  its boot loader finds no ramdisk any more

As a program, PATH MARKER: makes the first of them.
"""

import contextlib
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import MIB, need, shell  # noqa: E402
from guest import make_image  # noqa: E402

MODULES = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "ext4", "crc32c_generic",
           "crc32c_intel"]
MBR = "/usr/lib/EXTLINUX/mbr.bin"
EFI_LOADER = "/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi"
EFI_LIBRARY = "/usr/lib/syslinux/modules/efi64/ldlinux.e64"
SIZE = 192 * MIB
START = MIB
ESP_SIZE = 96 * MIB
CONFIG = ("SERIAL 0 115200\nDEFAULT guest\nPROMPT 0\nLABEL guest\n  LINUX {at}/vmlinuz\n"
          "{initrd}  APPEND console=tty0 console=ttyS0 panic=-1\n")


def config(at, with_ramdisk=True):
    return CONFIG.format(at=at, initrd=f"  INITRD {at}/initrd\n" if with_ramdisk else "")


@contextlib.contextmanager
def mounted(path, start, size, kind):
    """A partition's filesystem, mounted for the block."""
    at = path.parent / f"{path.name}.mounted"
    at.mkdir()
    loop = shell("losetup", "-f", "--show", "-o", start, "--sizelimit", size, path).strip()
    try:
        shell("mount", "-t", kind, loop, at)
        try:
            yield at
        finally:
            shell("umount", at)
    finally:
        shell("losetup", "-d", loop)
        at.rmdir()


def make_filesystem(path, start, size, *command):
    loop = shell("losetup", "-f", "--show", "-o", start, "--sizelimit", size, path).strip()
    try:
        shell(*command, loop)
    finally:
        shell("losetup", "-d", loop)


def allocate(path, table):
    with open(path, "wb") as file:
        file.truncate(SIZE)
    shell("sh", "-c", "printf '%s' \"$1\" | sfdisk -q \"$0\"", path, table)


def make_bios_disk(path, image, marker):
    need("extlinux", "sfdisk")
    size = SIZE - START
    allocate(path, f"label: dos\nstart={START // 512}, type=83, bootable\n")
    make_filesystem(path, START, size, "mkfs.ext4", "-q", "-O", "^64bit,^metadata_csum")
    with mounted(path, START, size, "ext4") as at:
        shutil.copy(image.vmlinuz, at / "vmlinuz")
        shutil.copy(image.initrd, at / "initrd")
        (at / "extlinux.conf").write_text(config(""), encoding="ascii")
        (at / "marker").write_text(marker + "\n", encoding="ascii")
        shell("extlinux", "--install", at)
    with open(MBR, "rb") as code, open(path, "r+b") as file:
        file.write(code.read(440))


def break_bios_disk(path):
    with mounted(path, START, SIZE - START, "ext4") as at:
        (at / "extlinux.conf").write_text(config("", with_ramdisk=False), encoding="ascii")


def make_uefi_disk(path, image, marker):
    need("sfdisk", "mkfs.vfat", "mcopy")
    root = START + ESP_SIZE
    root_size = SIZE - root - MIB
    allocate(path, f"label: gpt\nstart={START // 512}, size={ESP_SIZE // 512}, type=uefi\n"
                   f"start={root // 512}, size={root_size // 512}, type=linux\n")
    make_filesystem(path, START, ESP_SIZE, "mkfs.vfat", "-F", "32")
    make_filesystem(path, root, root_size, "mkfs.ext4", "-q")
    settings = path.parent / f"{path.name}.cfg"
    settings.write_text(config("/EFI/BOOT"), encoding="ascii")
    # Without the kernel's vfat: not every kernel has it.
    esp = f"{path}@@{START}"
    shell("mmd", "-i", esp, "::EFI", "::EFI/BOOT")
    for file, name in ((EFI_LOADER, "BOOTX64.EFI"), (EFI_LIBRARY, "ldlinux.e64"),
                       (image.vmlinuz, "vmlinuz"), (image.initrd, "initrd"),
                       (settings, "syslinux.cfg")):
        shell("mcopy", "-i", esp, file, f"::EFI/BOOT/{name}")
    with mounted(path, root, root_size, "ext4") as at:
        (at / "marker").write_text(marker + "\n", encoding="ascii")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="landfall-bootdisk-", dir="/var/tmp") as work:
        make_bios_disk(pathlib.Path(sys.argv[1]),
                       make_image(pathlib.Path(work), "drill_init.sh", MODULES), sys.argv[2])
