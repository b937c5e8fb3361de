/*
 * The mount: every disk, recovery point and clone as a fixed VHD file.
 *
 *	<mount>/<machine>/live/<disk>.vhd
 *	<mount>/<machine>/points/<point>/<disk>.vhd      points/latest is a link
 *	<mount>/<machine>/clones/<clone>/<disk>.vhd
 *
 * FUSE's low-level interface; a session with its own threads (see mount.c for the model). Points
 * are listed from the history's catalogue, so tens of thousands cost nothing until one is opened.
 * A point's files are immutable: the kernel may cache them; live heads and clones are opened with
 * direct I/O. Files of 512-byte-unaligned size are what a VHD is: reads at the end are short.
 * Discard and write-zeroes arrive as fallocate (punch, zero range) and become ZERO extents.
 *
 * A file's size cannot change. Emptying a writable one (truncation to 0, opening with O_TRUNC, as
 * cp, nbdcopy and dd without conv=notrunc do) makes its disk all zeros; truncation to the size it
 * has, footer counted or not, is accepted and changes nothing; any other size is -EPERM. The
 * footer cannot be changed (see vhd.h), so a loop device that shall be partitioned or get a
 * filesystem is best limited to the disk: losetup --sizelimit.
 *
 * Owner, mode (rwx bits) and time of a writable file can be set, as for a device's node: in memory,
 * until its machine is hidden. Files that cannot be written refuse (-EROFS), directories too
 * (-EPERM). Writable files cannot be mapped shared (-ENODEV, the kernel's answer for direct I/O);
 * points can.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "fs/clone.h"
#include "fs/committer.h"

struct mount;

struct mount_options {
	const char *path; /* made if it is not there; a dead daemon's mount is taken down first */
	unsigned max_threads; /* 0: 256; handlers may wait for the network or for room */
	bool allow_other;
};

/* Mounts and starts serving. -EBUSY: something living is mounted there. */
int mount_new(const struct mount_options *options, struct error *error, struct mount **ret_mount);
/* Unmounts (lazily if a file is still open) and ends the threads. */
void mount_free(struct mount *mount);

/*
 * Looks whether the mount still is where it was mounted, and mounts it there again if somebody took
 * it away; ret_restored tells. Files that were open then are served on, until they are closed, with
 * those that are opened anew: for both they are the same disks. (After umount -f, or an abort of
 * the FUSE connection, the kernel answers their users -ENOTCONN.) To be called now and then; any
 * thread; does not wait for the vault or a journal. -EBUSY: something else is mounted over it, or
 * in its place; others: it cannot be mounted. With words.
 */
int mount_watch(struct mount *mount, struct error *error, bool *ret_restored);

/* Shows a machine. Its disks are those of the history whose names begin with "<name>/". Borrows
 * the committer until mount_remove_machine, which waits for calls under way and makes open files
 * answer -EIO. -EEXIST, -ENOENT. Any thread. */
int mount_add_machine(
	struct mount *mount, const char *name, struct committer *committer, bool live_writable);
int mount_remove_machine(struct mount *mount, const char *name);
/* Shows a clone under the machine. Borrows it until removed, which fails with -EBUSY while one
 * of its files is open. */
int mount_add_clone(
	struct mount *mount, const char *machine, const char *clone_name, struct clone *clone);
int mount_remove_clone(struct mount *mount, const char *machine, const char *clone_name);
