/*
 * Block devices of this machine, as change capture and the agent need to know them.
 *
 * A disk is what is protected: a whole disk, a partition, or a device-mapper or md device. Its
 * writes pass through one *gendisk*, the whole device the kernel's block layer knows: for a
 * partition the disk it is on, at an offset; for the others themselves.
 *
 * Sources: /sys/dev/block/MAJOR:MINOR (Documentation/ABI/stable/sysfs-block), /proc/swaps,
 * /proc/self/mountinfo. Any thread; nothing is kept.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

#define DISK_NAME_BYTES 64
#define DISK_IDENTITY_BYTES 192

enum disk_kind {
	DISK_WHOLE, /* SCSI, SATA, NVMe, virtio, Xen, … */
	DISK_PARTITION,
	DISK_DM, /* LVM, crypt, multipath, … */
	DISK_MD,
	DISK_LOOP,
	DISK_OTHER /* ram disks and the like */
};

struct disk {
	char name[DISK_NAME_BYTES];    /* the kernel's: sda1, dm-0, nvme0n1 */
	char gendisk[DISK_NAME_BYTES]; /* sda, dm-0, nvme0n1 */
	enum disk_kind kind;
	dev_t dev;
	dev_t gendisk_dev;
	uint64_t offset_bytes; /* within the gendisk; 0 unless it is a partition */
	uint64_t bytes;
	uint32_t sector_bytes; /* logical */
	bool read_only;
	bool removable;
	bool dax;       /* mounted with DAX, or a memory device: writes bypass the block layer */
	bool bio_based; /* the gendisk has no request queue: dm, md, ram disks, NVMe multipath */
	bool zoned;     /* written in zones (SMR, ZNS): not supported */
	bool counted;   /* the kernel keeps its statistics (queue/iostats) */
	/* What it calls itself, or "": serial number, wwid, LVM or md uuid. */
	char serial[DISK_NAME_BYTES];
	/* Equal for two disks only if they are the same one: kind, serial, partition uuid and
	 * start, and, where there is nothing better, its name. Survives a reboot. */
	char identity[DISK_IDENTITY_BYTES];
	/* The kernel's number of this appearance of the gendisk in this boot; 0 before Linux 5.15.
	 */
	uint64_t sequence;
};

/* Finds out about the block device at `path` (a symbolic link is followed). 0; -ENOTBLK for
 * anything else; -ENOENT; -errno. */
int disk_find(const char *path, struct disk *ret_disk, struct error *error);

/* The same by number. */
int disk_find_dev(dev_t dev, struct disk *ret_disk, struct error *error);

/* The identity tells nothing but the kernel's name, so another disk may have it tomorrow. */
bool disk_identity_is_name(const char *identity);

/* All disks of the machine that hold data of their own: whole disks, but no loop, ram, zram,
 * floppy, optical or network ones (disk_list_served), none without a medium and no parts of others.
 * `*ret_disks` is the caller's to free(). 0 or -errno. */
int disk_list(struct disk **ret_disks, size_t *ret_count);
/* Those that are none of these, since a program here or another machine keeps what they hold:
 * network block devices (nbd) that are connected. As disk_list. */
int disk_list_served(struct disk **ret_disks, size_t *ret_count);

/* Opens the disk for reading with O_DIRECT | O_EXCL-free, close-on-exec. A descriptor or -errno. */
int disk_open(const struct disk *disk);

struct disk_range {
	uint64_t offset;
	uint64_t length;
};

/* Where swap lies on this disk now: swap partitions and files (by FIEMAP; on ext4 and xfs) whose
 * blocks are the disk's, for certain. Its contents are worth nothing to anybody and change while
 * filesystems are frozen.
 * `*ret_ranges` is the caller's to free(), sorted. 0 or -errno. */
int disk_swap_ranges(const struct disk *disk, struct disk_range **ret_ranges, size_t *ret_count);

/* The block devices that `dev` rests on, itself included: the disk of a partition, members of dm
 * and md devices, what is under the filesystem of a loop file. `ret_depth` (may be NULL): how many
 * loop devices lie one above the other. At most `capacity`; 0 or -errno (-E2BIG: there are more).
 */
int disk_foundations(
	dev_t dev, dev_t *ret_devs, size_t capacity, size_t *ret_count, unsigned *ret_depth);

struct disk_mount {
	dev_t dev;   /* of the block device; 0: it is on none */
	char *point; /* as it is reached from here: /proc/PID/root/… in another namespace */
	char *type;
	char *options; /* of the superblock and of this mount, comma-separated */
};

/* Mounted filesystems of this process' namespace, in the order of mounting, and those of devices
 * that only other mount namespaces have mounted. For those with anonymous numbers (btrfs) `dev` is
 * that of the device they were mounted from. 0 or -errno; free with disk_mounts_free. */
int disk_mounts(struct disk_mount **ret_mounts, size_t *ret_count);
void disk_mounts_free(struct disk_mount *mounts, size_t count);
