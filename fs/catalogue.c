/*
 * The catalogue: every recovery point, sorted by number, in one array.
 *
 * A point is 56 bytes, so that tens of thousands are listed by copying. history.lock is held.
 */
#include <errno.h>
#include <string.h>

#include "fs/history_internal.h"

uint64_t catalogue_rank(const struct history *history, uint64_t number)
{
	uint64_t low = 0, high = history->point_count;
	while (low < high) {
		uint64_t middle = (low + high) / 2;
		if (history->points[middle].point.number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool catalogue_is_gone(const struct catalogue_point *point)
{
	return !(point->point.flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED));
}

bool catalogue_show(const struct history *history, uint64_t i, struct point *ret_point)
{
	const struct catalogue_point *p = &history->points[i];
	if (p->position > history->durable_lsn)
		return false;
	*ret_point = p->point;
	if (p->flags_lsn > history->durable_lsn)
		ret_point->flags = p->flags_then;
	return ret_point->flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED);
}

struct catalogue_point *catalogue_find(const struct history *history, uint64_t number)
{
	uint64_t i = catalogue_rank(history, number);
	if (i == history->point_count || history->points[i].point.number != number ||
		catalogue_is_gone(&history->points[i]))
		return NULL;
	return &history->points[i];
}

int catalogue_insert(struct history *history, const struct catalogue_point *point)
{
	if (history->point_count == history->point_capacity) {
		uint64_t capacity = MAX(16u, history->point_capacity * 3 / 2);
		struct catalogue_point *grown =
			realloc(history->points, capacity * sizeof(*history->points));
		if (!grown)
			return -ENOMEM;
		history->points = grown;
		history->point_capacity = capacity;
	}
	uint64_t i = catalogue_rank(history, point->point.number);
	memmove(&history->points[i + 1], &history->points[i],
		(history->point_count - i) * sizeof(*point));
	history->points[i] = *point;
	history->point_count++;
	return 0;
}

struct journal_point catalogue_pack(const struct catalogue_point *point)
{
	return (struct journal_point){
		.number = point->point.number,
		.lsn = point->point.lsn,
		.position = point->position,
		.time_ns = point->point.time_ns,
		.changed_bytes = point->point.changed_bytes,
		.payload_total = point->payload_total,
		.flags = point->point.flags,
		.kind = point->point.kind,
	};
}

struct catalogue_point catalogue_unpack(const struct journal_point *packed)
{
	return (struct catalogue_point){
		.point = {
			.number = packed->number,
			.lsn = packed->lsn,
			.time_ns = packed->time_ns,
			.changed_bytes = packed->changed_bytes,
			.flags = packed->flags,
			.kind = (uint8_t)packed->kind,
		},
		.position = packed->position,
		.payload_total = packed->payload_total,
	};
}

bool catalogue_carries(const struct history *history, const struct catalogue_point *p)
{
	bool carries = p->point.lsn != 0;
	for (uint64_t i = 0; i < history->import_count; i++)
		carries |= history->imports[i] == p->position;
	return carries;
}

struct catalogue_point *catalogue_vault_below(
	const struct history *history, uint64_t number, uint64_t position)
{
	uint64_t i = catalogue_rank(history, number);
	while (i > 0) {
		struct catalogue_point *p = &history->points[--i];
		if ((p->point.flags & POINT_VAULT) && p->position <= position &&
			catalogue_carries(history, p))
			return p;
	}
	return NULL;
}

void catalogue_note_vault(struct history *history)
{
	const struct catalogue_point *p = catalogue_vault_below(history, UINT64_MAX, UINT64_MAX);
	history->vault_point = p ? p->point.number : 0;
	history->vault_position = p ? p->position : 0;
}

void catalogue_set_flags(struct history *history, const struct journal_point_flags *changes,
	unsigned count, uint64_t lsn)
{
	for (unsigned i = 0; i < count; i++) {
		struct catalogue_point *p = catalogue_find(history, changes[i].number);
		if (!p)
			continue;
		if (p->flags_lsn <= history->durable_lsn)
			p->flags_then = p->point.flags;
		p->flags_lsn = lsn;
		p->point.flags = (p->point.flags | changes[i].set) & ~changes[i].clear;
		history->points_gone |= catalogue_is_gone(p);
	}
}

void catalogue_purge(struct history *history)
{
	uint64_t kept = 0;
	if (!history->points_gone)
		return;
	history->points_gone = false;
	for (uint64_t i = 0; i < history->point_count; i++) {
		const struct catalogue_point *p = &history->points[i];
		bool gone = catalogue_is_gone(p);
		if (gone && p->flags_lsn <= history->durable_lsn)
			continue;
		history->points_gone |= gone;
		history->points[kept++] = *p;
	}
	history->point_count = kept;
}

static int append_import(struct history *history, uint64_t value)
{
	uint64_t *grown =
		realloc(history->imports, (history->import_count + 1) * sizeof(*history->imports));
	if (!grown)
		return -ENOMEM;
	history->imports = grown;
	history->imports[history->import_count++] = value;
	return 0;
}

int catalogue_note_anew(struct history *history, uint64_t lsn)
{
	return append_import(history, lsn | JOURNAL_ANEW);
}

uint64_t catalogue_anew_below(const struct history *history, uint64_t position)
{
	uint64_t found = 0;
	for (uint64_t i = 0; i < history->import_count; i++) {
		uint64_t lsn = history->imports[i] & ~JOURNAL_ANEW;
		if ((history->imports[i] & JOURNAL_ANEW) && lsn <= position)
			found = MAX(found, lsn);
	}
	return found;
}

/* Called before the imported point is appended. */
int catalogue_note_import(struct history *history, uint64_t lsn)
{
	const struct catalogue_point *last =
		history->point_count > 0 ? &history->points[history->point_count - 1] : NULL;
	uint64_t *before =
		history->import_count > 0 ? &history->imports[history->import_count - 1] : NULL;
	if (before && !(*before & JOURNAL_ANEW) && (!last || last->position <= *before)) {
		*before = lsn;
		return 0;
	}
	return append_import(history, lsn);
}
