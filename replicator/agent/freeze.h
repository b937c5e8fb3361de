/*
 * A moment at which nothing changes: all filesystems on a set of disks frozen together.
 *
 *	freezer_new            early, while the process is small: forks the watchdog
 *	freezer_prepare        looks up the filesystems and opens what will be needed
 *	freezer_freeze         all of them, or none
 *	  … copy; write only to memory or sockets, open nothing, log nothing …
 *	freezer_thaw           0 only if all stayed frozen all the while: else the copy is worthless
 *	freezer_release        closes what was opened: nobody could unmount it until then, so what
 * is prepared is frozen, or synced, at once
 *
 * FIFREEZE (Linux' include/uapi/linux/fs.h) once for each superblock: those on loop devices
 * before those that hold their files. What cannot be frozen (vfat: EOPNOTSUPP) is synced; writers
 * to raw devices and swap are not held.
 *
 * The watchdog is a process of its own, locked in memory, that holds the descriptors: it thaws when
 * the time is up, or when this process ends in whatever way. It is a child of the caller; who
 * waits for any child must let it be (freezer_pid). Nothing is frozen without one that lives: one
 * that was killed is replaced by freezer_prepare.
 *
 * Threads: one at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct freezer;

#define FREEZER_FILESYSTEMS_MAX 128u

/* 0, -ENOMEM, -EAGAIN, … */
int freezer_new(struct freezer **ret_freezer, struct error *error);
/* Thaws what is frozen; ends the watchdog. NULL is fine. */
void freezer_free(struct freezer *freezer);
/* Of the watchdog, until the next freezer_prepare. */
pid_t freezer_pid(const struct freezer *freezer);

/* Looks for the mounted filesystems whose storage lies on any of `devs` (numbers of disks,
 * partitions, dm or md devices: whatever shares a gendisk with them counts), in whatever layers.
 * Replaces what was prepared before. 0; -E2BIG for more than FREEZER_FILESYSTEMS_MAX; -errno. */
int freezer_prepare(struct freezer *freezer, const dev_t *devs, size_t count, struct error *error);

/* Has the prepared filesystems write what they hold, one after another, so that freezing them soon
 * after finds little left to write. What cannot be written shows when it is frozen. */
void freezer_sync(const struct freezer *freezer);

/* Names of the prepared mount points, in the order in which they will be frozen; NULL past the
 * last. Valid until the next freezer_prepare or freezer_release. */
const char *freezer_mountpoint(const struct freezer *freezer, size_t index);

/* Freezes all. From now the watchdog thaws after `timeout_ms` (100 to 60000), whatever happens.
 * 0; -ETIMEDOUT if it could not be done in time; -EAGAIN if something was mounted from another
 * device since freezer_prepare, which is then to be called again; -errno. On failure nothing is
 * frozen. */
int freezer_freeze(struct freezer *freezer, unsigned timeout_ms, struct error *error);

/* From now on the watchdog waits no longer than that. While it holds. */
void freezer_hasten(struct freezer *freezer, unsigned timeout_ms);

/* True as long as all are certainly frozen. */
bool freezer_holds(const struct freezer *freezer);

struct freezer_report {
	unsigned frozen;    /* filesystems */
	unsigned synced;    /* those that cannot be frozen */
	uint64_t freeze_ns; /* from the first call to the return of the last */
	uint64_t held_ns;   /* from then to the first thaw */
	uint64_t thaw_ns;
	uint64_t stall_ns; /* the longest any writer can have waited: all three */
};

/* Thaws all, in reverse order. 0; -ETIMEDOUT if the watchdog had been there first: then something
 * may have been written before this call. The report is filled in both cases; may be NULL. */
int freezer_thaw(struct freezer *freezer, struct freezer_report *ret_report);

/* Closes what freezer_prepare opened, here and in the watchdog: as long as it is open, a filesystem
 * cannot be unmounted. Not while anything is frozen; at any other time, also if nothing is
 * prepared. */
void freezer_release(struct freezer *freezer);
