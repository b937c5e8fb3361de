#!/usr/bin/env python3
"""Change capture inside a machine of its own: QEMU (emulating the processor, so slow) with virtio,
NVMe and SCSI disks, partitions, LVM over two of them, a mirror by md, ext4, xfs, btrfs and swap.
The copy that follows the marks equals every disk byte for byte at each cut, the marks outlive the
process, a raw SCSI command is found out, and tracepoint rings do as well as BPF.

capture_init.sh is the guest's init; guest.py tells of kernels and logs.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import BUILD, check, run_test  # noqa: E402
from guest import Disk, Guest, make_image  # noqa: E402

MODULES = ("virtio_pci virtio_blk virtio_scsi sd_mod sg nvme ext4 xfs btrfs dm-mod dm-log raid1 "
           "crc32c_generic crc32c-intel libcrc32c").split()
TOOLS = ("mkfs.xfs mkfs.btrfs mke2fs lvm mdadm sfdisk fstrim").split()
LVM_CONF = "activation { udev_sync = 0 udev_rules = 0 }\ndevices { obtain_device_list_from_udev = 0 }\n"
# serial, MiB, how it is attached
DISKS = (("vroot", 160, "virtio"), ("nraw", 304, "nvme"), ("sbtr", 128, "scsi"),
         ("vpv", 64, "virtio"), ("spv", 64, "scsi"), ("nmd", 64, "nvme"), ("vmd", 64, "virtio"),
         ("vraw", 48, "virtio"), ("sraw", 16, "scsi"), ("vscratch", 2048, "virtio"))
SECONDS = 300


def part(work, name, image, least, **options):
    """Runs a guest to its end, which has to show so many things."""
    work.mkdir(exist_ok=True)
    ok, bad, ended = 0, [], False
    with Guest(work, name, image, [Disk(work, *disk) for disk in DISKS], **options) as guest:
        for line in guest.lines(SECONDS):
            kind, _, text = line.partition(" ")
            if kind == "@ok":
                ok += 1
            elif kind == "@bad":
                bad.append(text)
            elif kind == "@end":
                ended = True
            if kind.startswith("@"):
                print(line[1:], flush=True)
    check(not bad, f"{len(bad)} went wrong: {bad[0] if bad else ''}")
    check(ended, f"the guest did not come to its end: {guest.kernel_log}")
    check(ok >= least, f"only {ok} things were shown")


def test(work):
    image = make_image(work, "capture_init.sh", MODULES, TOOLS,
                       [BUILD / "tests" / name for name in ("capture_tool", "capture_load")],
                       {"lvm/lvm.conf": LVM_CONF})
    part(work / "load", "capture", image, 15)
    part(work / "others", "capture-others", image, 2, kernel_words="part=others", parallel=False)


if __name__ == "__main__":
    run_test(test)
