#!/bin/sh
# A small system's first process: tells what the disk holds, changes it, and asks for a login on
# the serial console and on the screen.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk virtio_scsi sd_mod nvme ext4; do modprobe "$m"; done
for _ in 1 2 3 4 5 6 7 8 9 10; do
	for d in /dev/vda /dev/sda /dev/nvme0n1p; do
		for n in 1 2; do
			[ -b "$d$n" ] && mount -t ext4 "$d$n" /m 2>/dev/null && break 3
		done
	done
	usleep 300000
done
{
	echo "marker: $(cat /m/marker)"
	echo "disks: $(cd /sys/block && echo *)"
	echo "firmware: $([ -d /sys/firmware/efi ] && echo uefi || echo bios)"
	echo "from the guest" >/m/written && sync && echo "written: $(cat /m/written)"
} >/dev/ttyS0 2>&1
for console in /dev/tty0 /dev/ttyS0; do
	printf '\nlandfall-guest login: ' >"$console"
done
while :; do sleep 1000; done
