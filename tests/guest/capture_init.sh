#!/bin/sh
# shellcheck disable=SC2086,SC2046,SC2254 # names without blanks; patterns
# The guest's first process: makes filesystems on disks of every kind, runs loads and cuts, and says
# on the first serial port how each went (the kernel's messages go to the second). Lines for the test
# begin with "@": "@ok WHAT", "@bad WHAT", "@say TEXT", "@end". "part=others" in the kernel's command
# line, which becomes a variable here, has it show that others may trace the same events.
export PATH=/bin:/sbin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
exec </dev/null >/dev/ttyS0 2>&1
mkdir -p /sys/fs/bpf /run && mount -t bpf bpf /sys/fs/bpf
for m in virtio_pci virtio_blk virtio_scsi sd_mod sg nvme ext4 xfs btrfs dm-mod raid1 crc32c_generic; do
	modprobe -q $m
done

say() { echo "@say $*"; }
bad() { echo "@bad $*"; }
finish() {
	echo "@end"
	poweroff -f
	sleep 100
}
must() {
	"$@" >/tmp/out 2>&1 || {
		bad "$*: $(tail -n 3 /tmp/out | tr '\n' ' ')"
		finish
	}
}

# disk SERIAL: its name in /dev
disk() {
	for b in /sys/block/*; do
		for a in serial device/serial device/vpd_pg80; do
			[ -r $b/$a ] && tr -dc 'a-z0-9' <$b/$a 2>/dev/null | grep -q "$1\$" && basename $b && return
		done
	done
}
n=0
while [ -z "$(disk nraw)" ] || [ -z "$(disk sraw)" ] || [ -z "$(disk vscratch)" ]; do
	n=$((n + 1))
	[ $n -gt 100 ] && bad "disks do not come" && finish
	sleep 0.1
done
say "kernel $(uname -r), up for $(cut -d' ' -f1 /proc/uptime) s"
vroot=$(disk vroot) nxfs=$(disk nraw) sbtr=$(disk sbtr) vpv=$(disk vpv) spv=$(disk spv)
nmd=$(disk nmd) vmd=$(disk vmd) vraw=$(disk vraw) sraw=$(disk sraw)

must mkfs.ext4 -q -F /dev/$(disk vscratch)
mkdir -p /scratch /m/part /m/xfs /m/btr /m/lv /m/md
must mount /dev/$(disk vscratch) /scratch
printf 'label: gpt\nsize=32MiB\nsize=96MiB\n' | must sfdisk -q /dev/$vroot
must mkswap /dev/${vroot}1
must swapon /dev/${vroot}1
must lvm pvcreate -q /dev/$vpv /dev/$spv
must lvm vgcreate -q vg /dev/$vpv /dev/$spv
must lvm lvcreate -q -y -Zn -Wn --type striped -i2 -I 64k -l 100%FREE -n lv vg
must mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean /dev/$nmd /dev/$vmd
fs() {
	must mkfs.$1 $2 /dev/$3
	must mount -t $1 /dev/$3 /m/$4
}
fs ext4 "-q -F -E lazy_itable_init=0,lazy_journal_init=0" ${vroot}2 part
fs xfs "-q -f" $nxfs xfs
fs btrfs "-q -f" $sbtr btr
fs ext4 "-q -F -E lazy_itable_init=0,lazy_journal_init=0" mapper/vg-lv lv
fs ext4 "-q -F -E lazy_itable_init=0,lazy_journal_init=0" md0 md
sync

# start ARGUMENT…: the tool, on descriptors 3 and 4
start() {
	rm -f /tmp/in /tmp/from
	mkfifo /tmp/in /tmp/from
	capture_tool "$@" </tmp/in >/tmp/from 2>/tmp/err &
	tool=$!
	exec 3>/tmp/in 4</tmp/from
	resumed=1
	while read -r line <&4; do
		case $line in
		added*resumed=0*) resumed=0 ;;
		ready*)
			say "$line"
			return
			;;
		error*) bad "$line" && finish ;;
		esac
	done
	bad "the tool ended: $(cat /tmp/err)"
	finish
}
ask() {
	echo "$*" >&3
	answer=
	read -r answer <&4
}

# want PATTERN WHAT
want() {
	case $answer in
	$1) echo "@ok $2: $answer" ;;
	*) bad "$2: $answer" ;;
	esac
}

loads() {
	for d in part xfs btr lv md; do
		for how in direct buffered mmap punch; do
			capture_load $how /m/$d/$how $1 &
			pids="$pids $!"
		done
	done
	capture_load swap 20 $1 &
	pids="$pids $!"
	(
		end=$(($(date +%s) + $1)) i=0
		while [ $(date +%s) -lt $end ]; do
			for d in part xfs btr lv md; do
				rm -rf /m/$d/tree
				mkdir /m/$d/tree
				tar -C / -cf - sbin | tar -C /m/$d/tree -xf -
				dd if=/dev/urandom of=/m/$d/gone bs=64k count=16 2>/dev/null
				sync
				rm -f /m/$d/gone
				fstrim /m/$d 2>/dev/null
			done
			i=$((i + 1))
			dd if=/dev/urandom of=/dev/$vraw bs=64k count=16 seek=$((i * 37 % 400)) oflag=direct conv=notrunc 2>/dev/null
			blkdiscard -o $((i * 13 % 40))M -l 3M /dev/$vraw 2>/dev/null
		done
	) &
	pids="$pids $!"
}

slice() {
	ask "freeze 60000"
	want "freeze 5 *" "$1: frozen"
	ask finish
	say "$1: $answer"
	ask "check 1000"
	# Older kernels do not count, or count wrongly, what has no request queue
	case $(echo "$answer" | sed -E 's/(dm-0|md0) unproven the kernel keeps no/\1 has no/g') in
	*\ lost\ * | *\ unproven\ *) bad "$1: $answer" ;;
	*) echo "@ok $1: proven: $answer" ;;
	esac
	ask compare
	want "same *" "$1: compared"
	ask thaw
	want "thaw 0 *" "$1: thawed"
}

# Others trace the same events, begin and end meanwhile
others() {
	start --method bpf /dev/$nxfs=$c/xfs
	ask copy
	for d in xfs part; do
		capture_load direct /m/$d/direct 6 &
	done
	turns=0
	while [ $turns -lt 12 ]; do
		turns=$((turns + 1))
		echo end | capture_tool --method bpf /dev/$sraw=$c/sraw >/dev/null || bad "another tool"
	done
	say "another tool has come and gone $turns times"
	ask "freeze 60000"
	ask finish
	ask "check 1000"
	want "*proven*" "others come and go: proven"
	ask compare
	want "same *" "others come and go: compared"
	ask thaw
	ask end
	exec 3>&- 4<&-
	wait
}

c=/scratch
if [ "${part-}" = others ]; then
	others
	say "up for $(cut -d' ' -f1 /proc/uptime) s"
	finish
fi
pairs="/dev/$vroot=$c/vroot /dev/${vroot}2=$c/part /dev/$nxfs=$c/xfs /dev/$sbtr=$c/btr \
/dev/mapper/vg-lv=$c/lv /dev/$vpv=$c/vpv /dev/$spv=$c/spv /dev/md0=$c/md /dev/$nmd=$c/nmd \
/dev/$vraw=$c/vraw"
echo 1 >/proc/sys/kernel/bpf_stats_enabled
start --method bpf --pin /sys/fs/bpf/landfall $pairs
case $line in
*function*) echo "@ok completions are watched in two ways" ;;
*) bad "no function entries: $line" ;;
esac
ask copy
ask swap
want "swap ?*" "swap is found"
say "up for $(cut -d' ' -f1 /proc/uptime) s"
for turn in 1 2; do
	pids=
	loads 8
	sleep 1
	ask pass
	say "turn $turn: $answer"
	sleep 2
	ask pass
	say "turn $turn: $answer"
	if [ $turn = 1 ]; then
		slice "under load"
		wait $pids
		sync
	else
		ask take
		kill -9 $tool
		wait $tool
		exec 3>&- 4<&-
		wait $pids
		start --method bpf --pin /sys/fs/bpf/landfall $pairs
		[ $resumed = 1 ] && echo "@ok marks outlive the process" || bad "not resumed"
		ask swap
	fi
done
sync
slice "at rest"
ask cost
say "$answer"
ask end
exec 3>&- 4<&-
wait $tool

say "up for $(cut -d' ' -f1 /proc/uptime) s"
start --method bpf /dev/$sraw=$c/sraw
ask copy
ask "check 200"
want "*proven*" "a disk at rest"
must capture_load sgwrite /dev/$sraw
ask "check 200"
want "*lost a raw command*" "a raw command is found out"
ask end
exec 3>&- 4<&-
wait $tool

start --method perf /dev/$nxfs=$c/xfs /dev/${vroot}2=$c/part
ask copy
for d in xfs part; do
	capture_load direct /m/$d/direct 3 &
	capture_load mmap /m/$d/mmap 3 &
done
sleep 2
ask pass
ask "freeze 60000"
ask finish
ask "check 1000"
want "*proven*proven*" "perf: proven"
ask compare
want "same *" "perf: compared"
ask thaw
ask end
say "up for $(cut -d' ' -f1 /proc/uptime) s"
finish
