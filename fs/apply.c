/*
 * What a record does to the state: the one place, used when a record is staged and when it is
 * replayed. history.lock is held, or nobody else is there yet.
 *
 * Replay may meet records about things that damage has made unknown; these are passed over, but for
 * the data of disks.
 */
#include <errno.h>
#include <string.h>

#include "fs/history_internal.h"

struct extent record_extent(
	const struct journal_record *record, unsigned index, uint64_t seq, uint64_t offset)
{
	const struct journal_extent *e = &record->extents[index];
	return (struct extent){
		.lba = e->lba,
		.sectors = e->sectors,
		.zero = e->flags & JOURNAL_ZERO,
		.segment = (uint32_t)(seq & 0xffffff),
		.header = (uint32_t)(offset / SECTOR_BYTES),
		.index = (uint8_t)index,
	};
}

int apply_extent(struct history *history, uint16_t disk_id, const struct extent *extent)
{
	struct disk *disk = disk_find(history, disk_id);
	struct extent_map *map = disk ? disk->map : NULL;
	int r = 0;
	if (disk && disk->info.removed)
		return 0;
	if (!disk)
		r = disk_lost_map(history, disk_id, &map);
	else if (!map)
		r = extent_map_new(&disk->map);
	if (r < 0)
		return r;
	return extent_map_insert(map ? map : disk->map, extent);
}

void apply_extent_soon(struct history *history, uint16_t disk_id, uint64_t lba)
{
	const struct disk *disk = disk_find(history, disk_id);
	if (disk && disk->map)
		extent_map_prefetch(disk->map, lba);
}

void apply_data_totals(struct history *history, const struct journal_record *record)
{
	for (unsigned i = 0; i < record->count; i++) {
		uint64_t bytes = (uint64_t)record->extents[i].sectors * SECTOR_BYTES;
		if (!(record->extents[i].flags & JOURNAL_ZERO))
			history->payload_total += bytes;
		history->changed_bytes += bytes;
	}
}

static int apply_seal(struct history *history, const struct journal_record *record)
{
	const struct journal_seal *seal = &record->seal;
	/* What was drained of it, or of what it stands on, may be in the journal no more. */
	uint32_t where = history->drain.lsn > 0 ? POINT_DRAINED : POINT_LOCAL;
	disk_take_bookmarks(history, seal, record->lsn);
	history->changed_bytes = 0;
	if (seal->number <= history->last_point)
		return 0;
	history->last_point = seal->number;
	struct catalogue_point p = {
		.point = {
			.number = seal->number,
			.lsn = record->lsn,
			.time_ns = seal->time_ns,
			.changed_bytes = seal->changed_bytes,
			.flags = seal->flags | where,
			.kind = (uint8_t)seal->kind,
		},
		.position = record->lsn,
		.payload_total = history->payload_total,
	};
	return catalogue_insert(history, &p);
}

/* If the point is newer than anything here, the head is now the point and what comes after. One
 * below the newest vault point only joins the catalogue. */
static int apply_import(struct history *history, const struct journal_record *record)
{
	struct catalogue_point p = catalogue_unpack(&record->point);
	uint64_t number = p.point.number, i = catalogue_rank(history, number);
	while (i < history->point_count && catalogue_is_gone(&history->points[i]))
		i++; /* given up for it, see repair.c */
	bool newest = i == history->point_count;
	if (number == 0 || (!newest && (history->points[i].point.number == number ||
					       number > history->vault_point)))
		return 0;
	p.point.lsn = 0;
	p.point.flags = (p.point.flags | POINT_VAULT) & ~(uint32_t)POINT_LOCAL;
	p.position = record->lsn;
	p.payload_total = history->payload_total;
	int r = newest ? catalogue_note_import(history, record->lsn) : 0;
	if (r == 0)
		r = catalogue_insert(history, &p);
	if (r < 0 || !newest)
		return r;
	history->last_point = MAX(history->last_point, number);
	history->head_floor = record->lsn;
	history->drain = (struct journal_drain){ 0 };
	catalogue_note_vault(history);
	return disk_clear_maps(history);
}

static int apply_flush_commit(struct history *history, const struct journal_record *record)
{
	const struct journal_point *packed = &record->point;
	const struct journal_point_flags change = { .number = packed->number, .set = POINT_VAULT };
	int r = 0;
	if (catalogue_find(history, packed->number)) {
		catalogue_set_flags(history, &change, 1, record->lsn);
	} else if (packed->number > history->vault_point) {
		/* Its seal is lost, but the vault has it. */
		struct catalogue_point p = catalogue_unpack(packed);
		p.point.flags = (p.point.flags | POINT_VAULT) & ~(uint32_t)POINT_LOCAL;
		r = catalogue_insert(history, &p);
		history->last_point = MAX(history->last_point, packed->number);
	}
	if (history->flush_pending <= packed->number)
		history->flush_pending = 0;
	drain_end(history, packed->number, record->lsn);
	catalogue_note_vault(history);
	return r;
}

int apply_record(struct history *history, const struct journal_record *record)
{
	switch (record->type) {
	case JOURNAL_SEAL:
		return apply_seal(history, record);
	case JOURNAL_DISK:
		return disk_apply(history, &record->disk);
	case JOURNAL_POINT_FLAGS:
		catalogue_set_flags(history, record->point_flags, record->count, record->lsn);
		catalogue_note_vault(history);
		return 0;
	case JOURNAL_POINT_IMPORT:
		return apply_import(history, record);
	case JOURNAL_FLUSH_BEGIN:
		history->flush_pending = record->flush;
		return 0;
	case JOURNAL_FLUSH_COMMIT:
		return apply_flush_commit(history, record);
	case JOURNAL_DRAIN_BEGIN:
		drain_apply_begin(history, record);
		return 0;
	case JOURNAL_DRAIN:
		drain_apply(history, record);
		return 0;
	default:
		return 0;
	}
}
