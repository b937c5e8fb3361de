/*
 * What lies under the journal: the immutable disks of the vault's recovery points.
 *
 * fs/ declares what it needs; whoever owns a vault implements it. The content at (disk, point)
 * never changes while the point exists, so it may be cached by that key for ever.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct base;

struct base_ops {
	/* Reads n bytes at offset (multiples of 512) of `disk` as of vault point `point`, both as
	 * the history numbers them. Any thread, several at once; may take as long as a network
	 * does. 0; -ENOENT: the point is not in the vault (any more); -EIO: unproven content;
	 * -EAGAIN or -ETIMEDOUT: the vault is out of reach. */
	int (*read)(struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data,
		size_t n);
	/* As read, of what lies in the vault of the disk now, which the group's flusher writes and
	 * nobody else: never cached. What is being written while it is read may be old, new or
	 * torn; the history knows where that can be, and does not ask there. Beyond the disk's end:
	 * zeros. NULL if the history never drains. */
	int (*read_live)(struct base *base, uint16_t disk, uint64_t offset, void *data, size_t n);
};

struct base {
	const struct base_ops *ops;
};
