/*
 * The disks that the agent protects: found, opened, tracked.
 *
 * Each has an *incarnation*, a random number that names one unbroken run of change capture. The
 * tracker keeps it with the marks, in the kernel, so that it holds exactly as long as they do (same
 * boot, same device, nothing missed) and as long as they go to the same appliance under the same
 * name. The appliance compares the disk with what it has whenever the incarnation is not the one it
 * knows.
 *
 * Threads: source_* belong to the thread that conducts the session. Of a disk, readers use `file`
 * and what is said to be for any thread; marks are handled under `lock`.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/checksum.h"
#include "common/error.h"
#include "common/io.h"
#include "replicator/agent/disk.h"
#include "replicator/agent/tracker.h"

#define SOURCE_DISKS_MAX TRACKER_DISKS_MAX
#define SOURCE_ID_BYTES 64

struct source_disk {
	char id[SOURCE_ID_BYTES];
	char *path;
	struct disk disk;
	int file;                /* O_DIRECT */
	struct disk_range *swap; /* owned; under lock: counts as zeros, see source_swap.c */
	size_t swap_count;
	bool scans;              /* nothing tells what changes: see source_scan.c */
	struct hash128 *scanned; /* owned; under lock: of each chunk, what was sent last */
	uint64_t scanned_chunks;
	pthread_mutex_t lock;         /* the tracker's calls for this disk, and what follows */
	struct tracker_disk *tracked; /* NULL: gone */
	struct error error;           /* why it could not be read of late; code 0: it could */

	bool gone; /* not there now; `refusal` says so */

	/* what the appliance said */
	bool accepted;
	uint16_t number;
	struct error refusal; /* code 0: it has not refused it */
};

struct source_options {
	const char *pin_dir; /* for the tracker; NULL: marks end with the process */
	enum tracker_method method;
	const char *const *exclude; /* NULL ends; borrowed; see source_add_all */
	bool replicate_swap;        /* else what lies in active swap areas counts as zeros */
	bool discovers;             /* disks that come while it runs are protected, too */
	struct io *io;              /* for the names of disks, if it discovers */
	const char *state_dir;      /* exists; the same */
};

struct source {
	struct tracker *tracker;
	struct source_disk *disks[SOURCE_DISKS_MAX];
	unsigned count;
	const char *const *exclude;
	char left_out[SOURCE_DISKS_MAX][SOURCE_ID_BYTES]; /* protected before, excluded now */
	unsigned left_out_count;
	bool discovers;
	struct names *names; /* NULL unless it discovers */
	int64_t discover_ns; /* the next time */
	int swap_fd;         /* −1: swap is not looked at */
	bool swap_stale;
	struct {
		dev_t dev;
		uint64_t sequence;
	} ignored[SOURCE_DISKS_MAX]; /* cannot be captured, and was told of */
	unsigned ignored_count;
};

/* -EBUSY: another agent is at work here. */
int source_new(
	const struct source_options *options, struct error *error, struct source **ret_source);
/* Marking goes on without us if it was pinned. NULL is fine. */
void source_free(struct source *source);

/* Protects the block device at `path` under that name from now on. -EEXIST: the name or the device
 * is taken; else as disk_find and tracker_add. */
int source_add(struct source *source, const char *id, const char *path, struct error *error);
/* As source_add for a disk that is not there: it is protected as soon as it is (source_look). */
int source_await(struct source *source, const char *id, const char *path, struct error *error);
/* Protects every disk of the machine that is not protected yet and that no pattern of `exclude`
 * names: by kernel name (as a shell does, *), serial number, or path. It goes by the name that
 * names.h finds for it. Returns how many were added. One that cannot be captured is told of once
 * and left alone, or is an error. Only of a source that discovers. */
int source_add_all(struct source *source, bool all_or_none, struct error *error);
/* Waits for the disks that were protected before and are not there, but for what `exclude` names by
 * name or serial number: they are told of. After source_add_all. */
void source_await_missing(struct source *source);
/* Looks which disks have come, grown or gone; true if any has. At most once a second. */
bool source_look(struct source *source);

/* Nothing is known of what changed: another incarnation. Marks begin anew before it returns. */
int source_distrust(struct source_disk *disk, struct error *error);

/* A comparison of all of the disk begins; true if it will prove what was written so far. May wait
 * for half a second. Then: it is through. See tracker_compared. */
bool source_compare_proves(struct source_disk *disk);
void source_compared(struct source_disk *disk);

/* The disk's incarnation for that holder of its changes (tracker_incarnation). 0 or -errno. */
int source_incarnation(struct source_disk *disk, uint64_t holder, uint64_t *ret_incarnation);

/* Swap (source_swap.c): where it lies is looked at again if it was switched on or off since;
 * source_look does, too. */
int source_open_swap(struct source *source);
void source_look_at_swap(struct source *source);
/* It was switched on or off since it was looked at. Opens nothing: may be called while frozen. */
bool source_swap_changed(struct source *source);

/* A session begins: of disks that are scanned nothing is known of what changed since the last one.
 */
int source_scan_begin(struct source *source, struct error *error);

/* ── any thread ──────────────────────────────────────────────────────────────────────────── */

/* Reads at an offset and length that are multiples of 4 KiB; what is behind the disk's end reads as
 * zeros. `data` is aligned to 4 KiB. 0 or -errno (and the disk's `error` is set). */
int source_read(struct source_disk *disk, uint64_t offset, void *data, size_t n);
void source_settle(struct source_disk *disk, uint64_t pass, uint64_t offset, uint64_t length);
void source_put_back(struct source_disk *disk, uint64_t offset, uint64_t length);
uint64_t source_dirty_bytes(struct source_disk *disk);
/* A whole chunk was read and is to be sent, or was found equal. True if it is scanned and this is
 * what was noted before: then there is nothing to send. */
bool source_scan_note(struct source_disk *disk, uint64_t offset, struct hash128 hash);
/* Of a disk that is scanned: this is what was noted last. */
bool source_scan_is_sent(struct source_disk *disk, uint64_t offset, struct hash128 hash);
/* The chunk is sent the next time, whatever it is. */
void source_scan_forget(struct source_disk *disk, uint64_t offset);
uint64_t source_swap_bytes(struct source_disk *disk);
/* All of it is swap; what of it is swap becomes zeros. */
bool source_is_swap(struct source_disk *disk, uint64_t offset, size_t n);
void source_blank_swap(struct source_disk *disk, uint64_t offset, uint8_t *data, size_t n);
/* In whole MiB, as the appliance has it. */
uint64_t source_disk_bytes(const struct source_disk *disk);
