/*
 * When replay found that acknowledged records are lost.
 *
 * A loss at or below the newest vault point costs only local points that need it: the head and
 * all later points stand on the vault. (If that loss is not behind the checkpoint, the tables have
 * lost something too: all disks are to be compared then.) Any other loss ends the history where it
 * is whole: the head goes back to the last record before (or to the newest vault point, if that is
 * later, or if the epoch was drained), the base is to be repaired, what came after is set aside
 * under the name `.damaged`, and all disks need a comparison with their source. Nothing is deleted.
 * New records get numbers above all that were ever seen, and say with their segment what they
 * follow.
 *
 * What was decided is written as records and checkpointed into both slots before the opening
 * returns, so that it holds whatever else breaks.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/buf.h"
#include "common/log.h"
#include "fs/history_internal.h"

/* True if what changed in (from, to] can be had from live segments. */
bool journal_covers(const struct history *history, uint64_t from, uint64_t to)
{
	uint64_t at = from;
	for (uint64_t i = 0; i < history->import_count; i++)
		if ((history->imports[i] & ~JOURNAL_ANEW) > from &&
			(history->imports[i] & ~JOURNAL_ANEW) <= to)
			return false;
	for (unsigned i = 0; i < history->segment_count && at < to; i++) {
		const struct segment *s = history->segments[i];
		if (s->last_lsn <= at)
			continue;
		/* After damage was cut out, lsns jump, but the link holds. */
		if (s->prev_lsn > at)
			return false;
		at = s->last_lsn;
	}
	return at >= to;
}

/* The lowest lsn that a local point does not need. */
uint64_t point_needs_above(const struct history *history, const struct catalogue_point *p)
{
	const struct catalogue_point *vault =
		catalogue_vault_below(history, p->point.number, p->position);
	return MAX(vault ? vault->position : 0, catalogue_anew_below(history, p->position));
}

static int set_aside(struct history *history, uint64_t seq)
{
	char from[SEGMENT_PATH_BYTES(history)], to[SEGMENT_PATH_BYTES(history)];
	segment_path(history, seq, "seg", from);
	segment_path(history, seq, "damaged", to);
	log_warning("%s is set aside as %s: it follows records that are lost", from, to);
	return io_rename(history->io, from, to);
}

/* Lists the points that are not what they were: after `from` if that is not 0, or in need of
 * records that are gone. */
static int judge_points(struct history *history, uint64_t from, struct buf *changes)
{
	for (uint64_t i = 0; i < history->point_count; i++) {
		const struct catalogue_point *p = &history->points[i];
		if (p->point.flags & POINT_DRAINED && history->drain.lsn == 0) {
			struct journal_point_flags gone = { .number = p->point.number,
				.clear = POINT_DRAINED };
			int r = buf_append(changes, &gone, sizeof(gone));
			if (r < 0)
				return r;
		}
		if (!(p->point.flags & POINT_LOCAL) || (p->point.flags & POINT_DAMAGED))
			continue;
		bool lost = from > 0 && p->position >= from;
		if (!lost && journal_covers(history, point_needs_above(history, p), p->position))
			continue;
		struct journal_point_flags change = { .number = p->point.number };
		if (p->point.flags & POINT_VAULT)
			change.clear = POINT_LOCAL;
		else
			change.set = POINT_DAMAGED;
		int r = buf_append(changes, &change, sizeof(change));
		if (r < 0)
			return r;
	}
	return 0;
}

/* Goes back to the state before `from`. */
static int go_back(struct history *history, struct replay *replay, uint64_t from, uint64_t floor)
{
	segments_free(history);
	history->cut_seq = 0;
	history->head_floor = floor;
	int r = disk_clear_maps(history);
	if (r == 0)
		r = replay_segments(history, replay, from - 1);
	if (r == 0 && history->vault_position >= from) {
		history->head_floor = replay->max_lsn;
		r = disk_clear_maps(history);
	}
	return r;
}

/* After all is written down: no file that is not part of the history keeps its name. */
static int set_aside_rest(struct history *history, const struct replay *replay)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < replay->link_count; i++) {
		bool kept = false;
		for (unsigned s = 0; s < history->segment_count; s++)
			kept |= history->segments[s]->seq == replay->links[i].seq;
		if (!kept)
			r = set_aside(history, replay->links[i].seq);
	}
	for (unsigned i = 0; r == 0 && i < history->leftover_count; i++) {
		r = set_aside(history, history->leftovers[i]);
		r = r == -ENOENT ? 0 : r;
	}
	history->leftover_count = 0;
	return r < 0 ? r : io_sync_dir(history->io, history->directory);
}

static int stage_resync(struct history *history)
{
	for (unsigned i = 0; i < history->disk_count; i++) {
		const struct disk *disk = history->disks[i];
		struct journal_record record = { .type = JOURNAL_DISK };
		record.disk.action = JOURNAL_DISK_RESYNC_SET;
		record.disk.id = disk->info.id;
		uint64_t lsn;
		int r = stage_record(history, &record, &lsn);
		if (r < 0)
			return r;
	}
	return 0;
}

/* True if what the head stands on is lost as well: the journal was trimmed up to a vault point
 * that nothing tells of any more. */
static bool stands_on_nothing(const struct history *history)
{
	uint64_t end = history->chain_lsn;
	uint64_t from = MAX(drain_position(history), catalogue_anew_below(history, end));
	return from < end && !journal_covers(history, from, end);
}

/* All disks begin anew, as zeros that are written over whatever a vault may have, so that points
 * are made and flushed again as soon as the disks have been compared. */
static int begin_anew(struct history *history, const struct replay *replay)
{
	log_error("%s: what the journal's data stood on is lost, too; all disks begin anew",
		history->directory);
	history->head_floor = replay->max_lsn;
	int r = disk_clear_maps(history);
	return r < 0 ? r : catalogue_note_anew(history, replay->max_lsn);
}

static int zero_disks(struct history *history)
{
	int r = 0;
	for (unsigned i = 0; i < history->disk_count && r == 0; i++)
		if (!history->disks[i]->info.removed)
			r = stage_zero_disk(history, history->disks[i]->info.id,
				history->disks[i]->info.size_bytes);
	return r;
}

/* A drain or a flush may have sent what is beyond where the head is now, and nothing tells what: so
 * the base is to be made what the vault point says before anything is sent again. What was drained
 * goes with it, and the head is at the vault point. */
static int doubt_base(struct history *history, const struct replay *replay)
{
	history->format = JOURNAL_VERSION_DRAIN;
	history->repair_due = true;
	if (history->drain.lsn == 0)
		return 0;
	log_error("%s: what was drained of the epoch is given up; the disks are what vault point "
		  "%" PRIu64 " shows",
		history->directory, history->vault_point);
	history->drain = (struct journal_drain){ 0 };
	history->head_floor = replay->max_lsn;
	int r = disk_clear_maps(history);
	/* Nor does anything sealed from now on see what the journal still has of it. */
	return r < 0 ? r : catalogue_note_anew(history, replay->max_lsn);
}

/* What is lost, and what it costs. */
struct verdict {
	uint64_t from;  /* first record whose loss is felt; 0: none */
	uint64_t back;  /* first record that takes the head back with it; 0: none */
	uint64_t floor; /* the head begins above this */
};

static struct verdict judge(const struct history *history, const struct replay *replay)
{
	struct verdict v = { .floor = replay->floor_before };
	for (unsigned i = 0; i < replay->lost_count && v.back == 0; i++) {
		const struct lost_range *lost = &replay->lost[i];
		bool data = lost->to > drain_position(history);
		/* Above the checkpoint the tables have lost something, too. */
		bool tables = lost->to > replay->checkpoint_lsn;
		if ((data || tables) && v.from == 0)
			v.from = lost->from;
		if (data)
			v.back = lost->from;
		else
			v.floor = MAX(v.floor, lost->to);
	}
	return v;
}

/* Points that a disk's records speak of as sealed were, even if their own records are lost. */
static void raise_last_point(struct history *history)
{
	for (unsigned i = 0; i < history->disk_count; i++) {
		const struct disk *disk = history->disks[i];
		uint64_t next = disk->info.added_point;
		if (disk->size_count > 0)
			next = MAX(next, disk->sizes[disk->size_count - 1].from_point);
		if (disk->info.removed)
			next = MAX(next, disk->removed_point);
		history->last_point = MAX(history->last_point, next - MIN(next, 1u));
	}
}

int damage_settle(struct history *history, struct replay *replay)
{
	struct verdict v = judge(history, replay);
	CLEANUP(buf_free) struct buf changes = { 0 };
	int r = v.back > 0 ? go_back(history, replay, v.back, v.floor) : 0;
	if (v.from > 0) {
		replay->report->damaged_after = MAX(v.from - 1, 1u);
		log_error("%s: acknowledged records from %" PRIu64
			  " on are lost; all disks need a resync",
			history->directory, v.from);
	}
	bool anew = r == 0 && v.from > 0 && stands_on_nothing(history);
	if (r == 0 && v.back > 0)
		r = doubt_base(history, replay);
	if (anew)
		r = begin_anew(history, replay);
	if (r == 0)
		r = judge_points(history, v.from, &changes);
	if (r < 0)
		return r;
	raise_last_point(history);
	history->staged_lsn = history->durable_lsn = replay->max_lsn;
	history->proven_lsn = 0;
	r = new_incarnation(history);
	uint64_t lsn;
	if (r == 0)
		r = stage_point_flags(history, (const void *)changes.data,
			changes.len / sizeof(struct journal_point_flags), &lsn);
	if (r == 0 && v.from > 0)
		r = stage_resync(history);
	if (r == 0 && anew)
		r = zero_disks(history);
	if (r == 0)
		r = checkpoint_write(history, true);
	return r == 0 && v.back > 0 ? set_aside_rest(history, replay) : r;
}
