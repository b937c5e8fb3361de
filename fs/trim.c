/*
 * Trim: giving back the oldest segments.
 *
 * A segment may go when the newest vault point, or what was drained since, holds all that it says.
 * In this order:
 *  1. points that are only local and need it are dropped, by a record, and that is committed;
 *     one that is marked to be kept is told of by name (its owner saw to it that there is none);
 *  2. the head forgets it, so that reads go to the base instead;
 *  3. a checkpoint that does not name it is written, into both slots if the older one would
 *     still need its records for replay;
 *  4. the file is removed or becomes a spare.
 * What fails after 2 leaves files as leftovers: they count as used, and go once both slots have
 * been written anew. A crash between any two leaves a file that nobody names, or points dropped
 * early; never a name without its file.
 *
 * upkeep_lock is held throughout, also across I/O.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/buf.h"
#include "common/log.h"
#include "fs/history_internal.h"

/* What trimming itself writes, at most: checkpoints, and records that drop points. */
static uint64_t cost(const struct history *history)
{
	uint64_t image = sizeof(struct journal_checkpoint) +
			 history->disk_count * (sizeof(struct journal_checkpoint_disk) +
						       4 * sizeof(struct journal_checkpoint_size)) +
			 history->segment_count * sizeof(struct journal_checkpoint_segment) +
			 history->point_count * sizeof(struct journal_point);
	return 2 * image - MIN(2 * image, history->checkpoint_bytes) +
	       (2 + history->point_count / JOURNAL_MAX_POINT_FLAGS) * JOURNAL_PAGE_BYTES;
}

/* How many of the oldest segments are to go; 0 if it does not pay. lock held. */
static unsigned count_candidates(const struct history *history, uint64_t target_bytes)
{
	uint64_t used = upkeep_used(history), before = used;
	unsigned n = 0;
	while (n < history->segment_count && used > target_bytes) {
		const struct segment *s = history->segments[n];
		if (!s->closed || s->last_lsn > drain_position(history) || s->refs > 1)
			break;
		used -= MIN(used, s->staged_end + s->index_bytes);
		n++;
	}
	return before - used >= cost(history) ? n : 0;
}

/* What goes, and how far. */
struct trim {
	struct segment **out;
	unsigned count;
	/* Points that are gone though marked to be kept, and the first of them. */
	unsigned kept_count;
	uint64_t first_kept;
};

/* Notes that a point is gone for good which was to be kept. */
static void note_kept(struct trim *trim, const struct point *point)
{
	if (!(point->flags & POINT_KEEP) || (point->flags & POINT_VAULT))
		return;
	if (trim->kept_count++ == 0)
		trim->first_kept = point->number;
}

/* Takes POINT_LOCAL off the points that need records up to `lsn`; lock held. */
static int drop_points(struct history *history, uint64_t lsn, struct trim *trim)
{
	CLEANUP(buf_free) struct buf changes = { 0 };
	uint64_t needs_above = 0;
	for (uint64_t i = 0; i < history->point_count && needs_above < lsn; i++) {
		const struct catalogue_point *p = &history->points[i];
		if (p->point.flags & POINT_LOCAL) {
			struct journal_point_flags change = { .number = p->point.number,
				.clear = POINT_LOCAL };
			int r = buf_append(&changes, &change, sizeof(change));
			if (r < 0)
				return r;
			note_kept(trim, &p->point);
		}
		if ((p->point.flags & POINT_VAULT) && catalogue_carries(history, p))
			needs_above = p->position;
	}
	uint64_t unused;
	return stage_point_flags(history, (const void *)changes.data,
		changes.len / sizeof(struct journal_point_flags), &unused);
}

/* True if a local point needs records up to `lsn`; lock held. */
static bool is_needed(const struct history *history, uint64_t lsn)
{
	uint64_t needs_above = 0;
	for (uint64_t i = 0; i < history->point_count && needs_above < lsn; i++) {
		const struct catalogue_point *p = &history->points[i];
		if (p->point.flags & POINT_LOCAL)
			return true;
		if ((p->point.flags & POINT_VAULT) && catalogue_carries(history, p))
			needs_above = p->position;
	}
	return false;
}

static int forget_run(struct history *history, const struct segment *segment, const struct run *run)
{
	for (uint64_t i = 0; i < run->extent_count; i++) {
		uint16_t id;
		struct extent e;
		run_unpack(&run->extents[i], segment->seq, &id, &e);
		int r = disk_forget(history, id, e.lba, e.sectors, e.segment);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Without a run: from end to end. */
static int forget_all(struct history *history, const struct segment *segment)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < history->disk_count; i++)
		r = disk_forget(history, history->disks[i]->info.id, 0, EXTENT_MAX_LBA,
			(uint32_t)segment->seq);
	for (unsigned i = 0; r == 0 && i < history->lost_disk_count; i++)
		r = disk_forget(history, history->lost_disks[i].id, 0, EXTENT_MAX_LBA,
			(uint32_t)segment->seq);
	return r;
}

/* Takes the oldest segment out of the state. -EBUSY if somebody has begun to use it, or a vault
 * point was dropped since the plan was made, so that local points above it stand on what is below
 * it now. */
static int take_out(struct history *history, struct segment *segment)
{
	struct run run = { 0 };
	pthread_mutex_lock(&history->lock);
	struct segment values = *segment;
	pthread_mutex_unlock(&history->lock);
	int loaded = run_load(history, &values, &run);
	pthread_mutex_lock(&history->lock);
	int r = segment->refs > 1 || is_needed(history, segment->last_lsn) ? -EBUSY : 0;
	if (r == 0)
		r = loaded == 0 ? forget_run(history, segment, &run) : forget_all(history, segment);
	if (r == 0)
		segment_remove(history, segment);
	pthread_mutex_unlock(&history->lock);
	run_free(&run);
	return r;
}

static int remove_files(struct history *history, const struct segment *segment)
{
	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, segment->seq, "idx", path);
	(void)io_unlink(history->io, path); /* perhaps there is none */
	SCOPED_LOCK(&history->commit_lock);
	return spare_give(history, segment);
}

static int plan(struct history *history, uint64_t target_bytes, struct trim *trim)
{
	SCOPED_LOCK(&history->lock);
	if (history->failed)
		return -EIO;
	unsigned n = count_candidates(history, target_bytes);
	trim->out = calloc(n + 1, sizeof(struct segment *));
	if (!trim->out)
		return -ENOMEM;
	trim->count = n;
	if (n > 0) /* else there may be no array at all */
		memcpy(trim->out, history->segments, n * sizeof(struct segment *));
	return n > 0 ? drop_points(history, trim->out[n - 1]->last_lsn, trim) : 0;
}

/* Room for `more` leftovers, so that noting them cannot fail. */
static int reserve_leftovers(struct history *history, unsigned more)
{
	uint64_t *grown = realloc(history->leftovers,
		(history->leftover_count + more + 1) * sizeof(*history->leftovers));
	if (!grown)
		return -ENOMEM;
	history->leftovers = grown;
	return 0;
}

/* The segment is out of the state but its file is there, and a slot may name it. */
static void note_leftover(struct history *history, const struct segment *segment)
{
	history->leftovers[history->leftover_count++] = segment->seq;
	history->slots_written = 0;
	SCOPED_LOCK(&history->lock);
	history->leftover_bytes += segment->end + segment->index_bytes;
}

static void tell_kept(const struct history *history, const struct trim *trim)
{
	if (trim->kept_count > 0)
		log_warning("%s: to make room in the journal, of the points that only it had %u "
			    "marked to be kept went too, the first is %" PRIu64,
			history->directory, trim->kept_count, trim->first_kept);
}

static int carry_out(struct history *history, struct trim *trim, bool *ret_did)
{
	uint64_t lsn;
	int r = commit_all(history, NULL, &lsn);
	unsigned done = 0;
	if (r == 0)
		tell_kept(history, trim);
	if (r == 0)
		r = reserve_leftovers(history, trim->count);
	while (r == 0 && done < trim->count) {
		r = take_out(history, trim->out[done]);
		done += r == 0;
	}
	if (r == -EBUSY)
		r = 0;
	if (r == 0 && done > 0) {
		uint64_t other = history->slot_lsn[history->generation % 2];
		r = checkpoint_write(history, other < trim->out[done - 1]->last_lsn);
	}
	for (unsigned i = 0; i < done; i++) {
		if (r == 0)
			r = remove_files(history, trim->out[i]);
		if (r < 0)
			note_leftover(history, trim->out[i]);
		segment_unref(history, trim->out[i]);
	}
	*ret_did = done > 0;
	if (r == 0)
		r = upkeep_drop_leftovers(history);
	return r < 0 || done == 0 ? r : io_sync_dir(history->io, history->directory);
}

static int drop_spares(struct history *history, uint64_t target_bytes)
{
	SCOPED_LOCK(&history->commit_lock);
	int r = 0;
	while (r == 0 && history->spare_count > 0) {
		pthread_mutex_lock(&history->lock);
		uint64_t used = upkeep_used(history);
		pthread_mutex_unlock(&history->lock);
		if (used <= target_bytes)
			break;
		r = spare_drop_one(history);
	}
	return r;
}

/* What an earlier trim could not finish: it has taken more room than it gave. */
static int finish_earlier(struct history *history)
{
	if (history->leftover_count == 0)
		return 0;
	int r = history->slots_written < 2 ? checkpoint_write(history, true) : 0;
	if (r == 0)
		r = upkeep_drop_leftovers(history);
	return r < 0 ? r : io_sync_dir(history->io, history->directory);
}

int history_trim(struct history *history, uint64_t target_bytes, uint64_t *ret_used_bytes)
{
	SCOPED_LOCK(&history->upkeep_lock);
	int r = finish_earlier(history);
	if (r == 0)
		r = drop_spares(history, target_bytes);
	/* Trimming writes a little itself, which may close one more segment. */
	for (bool did = true; r == 0 && did;) {
		struct trim trim = { 0 };
		did = false;
		r = plan(history, target_bytes, &trim);
		if (r == 0 && trim.count > 0)
			r = carry_out(history, &trim, &did);
		free(trim.out);
	}
	if (r == 0)
		r = drop_spares(history, target_bytes);
	if (r < 0)
		return r;
	pthread_mutex_lock(&history->lock);
	*ret_used_bytes = upkeep_used(history);
	pthread_mutex_unlock(&history->lock);
	return 0;
}
