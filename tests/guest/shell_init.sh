#!/bin/sh
# shellcheck disable=SC2086 # names without blanks
# The first process of a guest that does what it is told by its first serial port, a line at a time:
# each is a command of this shell. What it prints is followed by "@done <exit code>". It says "@up
# <seconds since the kernel began>" when it is ready.
export PATH=/bin:/sbin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
for m in virtio_pci virtio_blk virtio_net virtio_scsi sd_mod nvme ext4 crc32c_generic; do
	modprobe -q $m
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo

# disk SERIAL: its name in /dev, as soon as it is there
disk() {
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		for b in /sys/block/*; do
			for a in serial device/serial device/vpd_pg80; do
				[ -r $b/$a ] && tr -dc 'a-z0-9' <$b/$a 2>/dev/null | grep -q "$1\$" &&
					echo "/dev/${b##*/}" && return
			done
		done
		sleep 1
	done
	return 1
}

echo "@up $(cut -d' ' -f1 /proc/uptime)"
while read -r line; do
	eval "$line"
	echo "@done $?"
done
