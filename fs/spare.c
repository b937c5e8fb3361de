/*
 * Spares: files of segments that are not needed any more, kept to become segments again; and one
 * of zeros, made while there are none yet.
 *
 * Writing over blocks that were written before makes a sync more than twice as fast as appending
 * does. That matters to small commits, so zeros are written only where commits are small, in steps
 * that are paced by what is committed (upkeep comes after commits). What a spare still holds cannot
 * be taken for new: every record names its segment's number and the opening that wrote it, and the
 * chain would not fit. Few are kept, and none when the journal is more than half full.
 *
 * A spare does not outlive its opening. A crash may undo the renaming that made it a segment again
 * and yet keep what was written into it: records of the very number that the next segment has, and
 * of an opening that nothing else remembers. So replay removes every spare that it finds.
 *
 * commit_lock guards the list, upkeep_lock the one that is being made.
 */
#include <errno.h>
#include <string.h>

#include "fs/history_internal.h"

static void set_spare_bytes(struct history *history)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < history->spare_count; i++)
		bytes += history->spares[i].bytes;
	pthread_mutex_lock(&history->lock);
	history->spare_bytes = bytes;
	pthread_mutex_unlock(&history->lock);
}

int spare_take(struct history *history, uint64_t seq)
{
	if (history->spare_count == 0)
		return -ENOENT;
	char from[SEGMENT_PATH_BYTES(history)], to[SEGMENT_PATH_BYTES(history)];
	segment_path(history, history->spares[history->spare_count - 1].seq, "spr", from);
	segment_path(history, seq, "seg", to);
	history->spare_count--;
	set_spare_bytes(history);
	return io_rename(history->io, from, to);
}

int spare_give(struct history *history, const struct segment *segment)
{
	char path[SEGMENT_PATH_BYTES(history)], spare[SEGMENT_PATH_BYTES(history)];
	segment_path(history, segment->seq, "seg", path);
	pthread_mutex_lock(&history->lock);
	bool room = history->live_bytes + segment->staged_end < history->limit_bytes / 2;
	pthread_mutex_unlock(&history->lock);
	if (!room || history->spare_count == MAX_SPARES ||
		segment->end + BATCH_BYTES < history->segment_bytes)
		return io_unlink(history->io, path);
	segment_path(history, segment->seq, "spr", spare);
	int r = io_rename(history->io, path, spare);
	if (r < 0)
		return r;
	history->spares[history->spare_count++] = (struct spare){ segment->seq, segment->end };
	set_spare_bytes(history);
	return 0;
}

int spare_drop_one(struct history *history)
{
	if (history->spare_count == 0)
		return -ENOENT;
	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, history->spares[--history->spare_count].seq, "spr", path);
	set_spare_bytes(history);
	return io_unlink(history->io, path);
}

/* ── a spare of zeros ────────────────────────────────────────────────────────────────────── */

#define ZEROS_SEQ 0 /* its name's; no segment has that */
#define STEP_BYTES (4 * MIB)
#define WRITE_BYTES (1 * MIB)
#define SMALL_COMMIT_BYTES (256 * KIB)
#define ROOM_FACTOR 16u /* the disk has room for so many more */

/* Commits were small lately, so that a spare is worth having. Lock held. */
static bool commits_are_small(struct history *history)
{
	uint64_t commits = history->commits - history->zeros.seen_commits;
	uint64_t bytes = history->journal_bytes - history->zeros.seen_bytes;
	history->zeros.seen_commits = history->commits;
	history->zeros.seen_bytes = history->journal_bytes;
	return commits > 0 && bytes / commits < SMALL_COMMIT_BYTES;
}

/* Lock held. */
static bool journal_has_room(const struct history *history)
{
	return history->live_bytes + 2ull * history->segment_bytes < history->limit_bytes / 2;
}

/* Lock held. */
static bool is_wanted(struct history *history)
{
	const struct segment *active = history->active;
	return commits_are_small(history) && !history->zeros.failed && history->spare_bytes == 0 &&
	       active && active->fresh && active->end >= history->segment_bytes / 16;
}

static bool disk_has_room(struct history *history)
{
	uint64_t free_bytes;
	return io_free_bytes(history->io, history->directory, &free_bytes) == 0 &&
	       free_bytes / ROOM_FACTOR >= history->segment_bytes;
}

/* Writes and syncs the next step of it. */
static int write_zeros(struct history *history)
{
	struct zeros *z = &history->zeros;
	uint64_t end = MIN(z->bytes + STEP_BYTES, (uint64_t)history->segment_bytes);
	CLEANUP_FREE void *zeros = aligned_alloc(IO_DIRECT_ALIGN, WRITE_BYTES);
	if (!zeros)
		return -ENOMEM;
	memset(zeros, 0, WRITE_BYTES);
	int r = 0;
	while (r == 0 && z->bytes < end) {
		uint64_t n = MIN(end - z->bytes, (uint64_t)WRITE_BYTES);
		r = io_write(z->file, zeros, n, z->bytes);
		z->bytes += n;
	}
	return r < 0 ? r : io_datasync(z->file);
}

static void forget_zeros(struct history *history, const char *path)
{
	io_close(TAKE(history->zeros.file));
	(void)io_unlink(history->io, path); /* else the next opening does it */
	history->zeros.bytes = 0;
}

/* Takes the finished file into the list, unless it is full by now. */
static void add_zeros(struct history *history, const char *path)
{
	io_close(TAKE(history->zeros.file));
	uint64_t bytes = history->zeros.bytes;
	history->zeros.bytes = 0;
	SCOPED_LOCK(&history->commit_lock);
	if (history->spare_count == MAX_SPARES) {
		(void)io_unlink(history->io, path);
		return;
	}
	history->spares[history->spare_count++] = (struct spare){ ZEROS_SEQ, bytes };
	set_spare_bytes(history);
}

void spare_prepare(struct history *history)
{
	struct zeros *z = &history->zeros;
	pthread_mutex_lock(&history->lock);
	bool wanted = is_wanted(history), room = journal_has_room(history);
	pthread_mutex_unlock(&history->lock);
	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, ZEROS_SEQ, "spr", path);
	if (z->file && !room)
		forget_zeros(history, path);
	if (!wanted || !room || !disk_has_room(history))
		return;
	int r = 0;
	if (!z->file)
		r = io_open(history->io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_DIRECT,
			&z->file);
	if (r == 0)
		r = write_zeros(history);
	if (r == 0 && z->bytes == history->segment_bytes)
		add_zeros(history, path);
	if (r == 0)
		return;
	/* Without it things are slower, no more: it is not tried again. */
	forget_zeros(history, path);
	z->failed = true;
}
