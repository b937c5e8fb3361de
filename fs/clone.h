/*
 * A clone: a writable, throw-away branch of a recovery point, all its disks, with a quota of its
 * own. What is written goes to an overlay file in the clone's directory; the point never changes.
 *
 * A clone does not outlive the daemon: its overlay is emptied when it is made and its directory
 * removed at the end. flush returns when what was written has reached the disk, so that a
 * filesystem on a clone behaves as on any disk.
 */
#pragma once

#include <stdint.h>

#include "common/io.h"
#include "fs/history.h"

struct clone;

struct clone_stats {
	uint64_t quota_bytes, used_bytes;
};

/* `directory` is made (its parent must be there), or emptied; the clone holds a view of point
 * `number` of `history` (borrowed). */
int clone_new(struct io *io, const char *directory, struct history *history, uint64_t number,
	uint64_t quota_bytes, struct clone **ret_clone);
/* Removes the overlay and its directory. No store on it may be in use. */
void clone_free(struct clone *clone);
struct view *clone_view(struct clone *clone);
struct history *clone_history(struct clone *clone);
void clone_stats(struct clone *clone, struct clone_stats *ret_stats);

/* Any thread, several at once. -EINVAL outside the disk, -ENOENT without it. Writes: -ENOSPC when
 * the quota is used up, nothing stored. The quota counts each 4 KiB of the overlay that was ever
 * written, and 512 bytes for each MiB touched (the map's memory): so zeros may be refused too. */
int clone_read(struct clone *clone, uint16_t disk, uint64_t lba, uint32_t sectors, void *data);
int clone_write(
	struct clone *clone, uint16_t disk, uint64_t lba, uint32_t sectors, const void *data);
int clone_zero(struct clone *clone, uint16_t disk, uint64_t lba, uint64_t sectors);
int clone_flush(struct clone *clone);
