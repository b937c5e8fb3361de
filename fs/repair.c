/*
 * After acknowledged records were lost: what the base holds is in doubt.
 *
 * The head is where the journal is whole, or at a vault point; the base may hold more, sent by a
 * flush or a drain of which the journal knows nothing any more. What is sent next is what changed
 * since the vault point, so the base must be made equal to that first. The vault may even have a
 * point that the journal has forgotten: then that is what everything stands on from now on.
 */
#include <errno.h>

#include "fs/history_internal.h"

bool history_repair_due(struct history *history, uint64_t *ret_point)
{
	SCOPED_LOCK(&history->lock);
	*ret_point = history->vault_point;
	return history->repair_due;
}

static int stage_vault_point(
	struct history *history, enum journal_type type, const struct journal_point *point)
{
	struct journal_record record = { .type = (uint16_t)type };
	uint64_t lsn;
	record.point = *point;
	return stage_record(history, &record, &lsn);
}

/* What is sealed from the point on was sealed after the loss or is damaged; it gives way. */
static int drop_from(struct history *history, uint64_t number)
{
	int r = 0;
	for (uint64_t i = catalogue_rank(history, number); r == 0 && i < history->point_count;
		i++) {
		struct journal_point_flags change = { .number = history->points[i].point.number,
			.clear = POINT_LOCAL | POINT_DRAINED };
		uint64_t lsn;
		if (!catalogue_is_gone(&history->points[i]))
			r = stage_point_flags(history, &change, 1, &lsn);
	}
	return r;
}

int history_repair_learn(struct history *history, const struct point *point, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	if (!history->repair_due || point->number <= history->vault_point)
		return -EINVAL;
	const struct catalogue_point *p = catalogue_find(history, point->number);
	int r;
	if (p && p->position > history->head_floor && !(p->point.flags & POINT_DAMAGED)) {
		struct journal_point packed = catalogue_pack(p);
		r = stage_vault_point(history, JOURNAL_FLUSH_COMMIT, &packed);
	} else {
		const struct journal_point packed = { .number = point->number,
			.time_ns = point->time_ns,
			.changed_bytes = point->changed_bytes,
			.flags = (point->flags | POINT_VAULT) & ~(uint32_t)POINT_LOCAL,
			.kind = point->kind };
		r = drop_from(history, point->number);
		if (r == 0)
			r = stage_vault_point(history, JOURNAL_POINT_IMPORT, &packed);
	}
	*ret_lsn = history->staged_lsn;
	return r;
}

int history_repaired(struct history *history, uint64_t point, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	const struct journal_record record = { .type = JOURNAL_DRAIN };
	if (!history->repair_due || point != history->vault_point)
		return -EINVAL;
	return stage_record(history, &record, ret_lsn);
}
