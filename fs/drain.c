/*
 * Draining: an epoch that is larger than the journal goes to the base before it is sealed.
 *
 *	── k ──┬── (drained) ──┬─────── in the journal ───────►
 *	  vault point     drain.lsn X
 *
 * The base is written under the number of the point to come, without a snapshot. A round begins
 * with a record, and cuts the log at X, the end of a segment or else the record: what is drained is
 * what is before it, coalesced. When
 * all of it is in the base, and whatever proves it is durable in the vault, a second record says
 * so. From then on the base *as it lies there*, and the journal above X, are the head; the journal
 * up to X may go. Points up to k stand on their snapshots and notice nothing.
 *
 * Only one epoch at a time, and only above a vault point: while a point is sealed and not in the
 * vault no drain begins, since the base would pass it by. What is sealed after a drain has no local
 * view (its epoch is not all here) and is *drained*, on its way to the vault, as is what is sealed
 * on top of it; when the first of them that is flushed is in the vault, those below it are gone and
 * those above it are local points like any others.
 *
 * What was begun and not finished leaves the base with part of what the journal has, which the next
 * drain or flush sends again, as with a flush that was cut short.
 *
 * history->lock is held in what is not part of history.h.
 */
#include <errno.h>
#include <string.h>

#include "fs/view_internal.h"

static_assert(sizeof(((struct journal_drain *)0)->proof) == HISTORY_DRAIN_PROOF_BYTES,
	"what the interface promises");

uint64_t drain_position(const struct history *history)
{
	return MAX(history->vault_position, history->drain.lsn);
}

uint64_t drain_disk_bytes(const struct history *history, uint16_t disk)
{
	for (unsigned i = 0; i < history->drain.disk_count; i++)
		if (history->drain.disks[i].disk == disk)
			return history->drain.disks[i].size_bytes;
	return 0;
}

/* ── what the records do ─────────────────────────────────────────────────────────────────── */

void drain_apply_begin(struct history *history, const struct journal_record *record)
{
	history->format = JOURNAL_VERSION_DRAIN;
	history->flush_pending = record->flush;
	history->drain_mark = record->lsn;
	history->drain_mark_total = history->payload_total;
}

void drain_apply(struct history *history, const struct journal_record *record)
{
	history->format = JOURNAL_VERSION_DRAIN;
	if (record->drain.flags & JOURNAL_DRAIN_REPAIR) {
		history->repair_due = true;
	} else if (record->drain.number == 0) {
		history->repair_due = false;
		history->drain = (struct journal_drain){ 0 };
	} else {
		history->drain = record->drain;
	}
}

void drain_end(struct history *history, uint64_t number, uint64_t lsn)
{
	if (history->drain.lsn == 0 || number < history->drain.number)
		return;
	for (uint64_t i = catalogue_rank(history, history->drain.number); i < history->point_count;
		i++) {
		const struct catalogue_point *p = &history->points[i];
		struct journal_point_flags change = { .number = p->point.number,
			.clear = POINT_DRAINED };
		if (p->point.number < number)
			change.clear |= POINT_LOCAL;
		else if (p->point.number > number && (p->point.flags & POINT_DRAINED))
			change.set = POINT_LOCAL;
		catalogue_set_flags(history, &change, 1, lsn);
	}
	history->drain = (struct journal_drain){ 0 };
}

/* ── draining ────────────────────────────────────────────────────────────────────────────── */

/* A point that a drain would pass by. */
static bool flush_is_due(const struct history *history)
{
	for (uint64_t i = history->point_count; i > 0; i--) {
		const struct point *p = &history->points[i - 1].point;
		if (p->number <= history->vault_point)
			return false;
		if ((p->flags & (POINT_LOCAL | POINT_DRAINED)) && !(p->flags & POINT_DAMAGED))
			return true;
	}
	return false;
}

static int may_begin(const struct history *history)
{
	if (history->failed)
		return -EIO;
	if (!history->base || !history->base->ops->read_live)
		return -EINVAL;
	if (history->repair_due)
		return -EUCLEAN;
	return flush_is_due(history) ? -EBUSY : 0;
}

int drain_raise_format(struct history *history)
{
	if (history->slot_format[0] >= JOURNAL_VERSION_DRAIN &&
		history->slot_format[1] >= JOURNAL_VERSION_DRAIN)
		return 0;
	pthread_mutex_lock(&history->lock);
	history->format = JOURNAL_VERSION_DRAIN;
	pthread_mutex_unlock(&history->lock);
	return checkpoint_write(history, true);
}

/* Where a round of about `most` bytes ends: with a segment, since only whole ones can go; the
 * record itself if none is complete. */
static void choose_cut(struct history *history, uint64_t most, uint64_t record_lsn)
{
	uint64_t bytes = 0, later = 0;
	history->drain_mark = record_lsn;
	history->drain_mark_total = history->payload_total;
	if (most == 0)
		return;
	for (unsigned i = 0; i < history->segment_count; i++) {
		const struct segment *s = history->segments[i];
		if (s->last_lsn <= drain_position(history) && s->closed)
			continue;
		if (!s->closed || bytes >= most) {
			later += s->payload_bytes;
			continue;
		}
		bytes += s->end;
		history->drain_mark = s->last_lsn;
	}
	if (bytes > 0)
		history->drain_mark_total -= MIN(later, history->payload_total);
}

int history_drain_begin(struct history *history, uint64_t most_bytes, uint64_t *ret_number,
	uint64_t *ret_cut, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->upkeep_lock);
	pthread_mutex_lock(&history->lock);
	int r = may_begin(history);
	pthread_mutex_unlock(&history->lock);
	if (r == 0)
		r = drain_raise_format(history);
	if (r < 0)
		return r;
	SCOPED_LOCK(&history->lock);
	r = may_begin(history);
	if (r < 0)
		return r;
	struct journal_record record = { .type = JOURNAL_DRAIN_BEGIN };
	record.flush = history->last_point + 1;
	r = stage_record(history, &record, ret_lsn);
	if (r < 0)
		return r;
	choose_cut(history, most_bytes, *ret_lsn);
	*ret_number = record.flush;
	*ret_cut = history->drain_mark;
	return 0;
}

int history_drain_commit(struct history *history, const struct view *view, const void *proof,
	size_t n, uint64_t *ret_lsn)
{
	struct journal_record record = { .type = JOURNAL_DRAIN };
	struct journal_drain *out = &record.drain;
	if (n > sizeof(out->proof) || view->mark == 0 || view->disk_count > ARRAY_SIZE(out->disks))
		return -EINVAL;
	SCOPED_LOCK(&history->lock);
	if (view->mark != history->drain_mark || view->number <= history->last_point)
		return -ESTALE;
	/* Should numbers have been passed over meanwhile, it stays what the first round said. */
	out->number = history->drain.lsn > 0 ? history->drain.number : view->number;
	out->lsn = view->mark;
	out->payload_total = history->drain_mark_total;
	out->disk_count = (uint16_t)view->disk_count;
	for (unsigned i = 0; i < view->disk_count; i++) {
		out->disks[i].disk = view->disks[i].id;
		out->disks[i].size_bytes = view->disks[i].bytes;
	}
	out->proof_bytes = (uint16_t)n;
	if (n > 0)
		memcpy(out->proof, proof, n);
	return stage_record(history, &record, ret_lsn);
}

static bool is_sealed(const struct history *history)
{
	for (uint64_t i = history->point_count; i > 0; i--)
		if (history->points[i - 1].point.flags & POINT_DRAINED)
			return true;
	return false;
}

uint64_t history_oldest_pending(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	uint64_t pending = history->flush_pending;
	return history->drain.lsn > 0 && pending > history->drain.number ? history->drain.number
									 : pending;
}

void history_drain_state(struct history *history, struct history_drain *ret_drain)
{
	SCOPED_LOCK(&history->lock);
	const struct journal_drain *d = &history->drain;
	struct history_drain drain = { .next = history->last_point + 1,
		.flush_due = flush_is_due(history) };
	if (d->lsn > 0) {
		drain.number = d->number;
		drain.lsn = d->lsn;
		drain.sealed = is_sealed(history);
		drain.proof_bytes = d->proof_bytes;
		memcpy(drain.proof, d->proof, d->proof_bytes);
	}
	*ret_drain = drain;
}
