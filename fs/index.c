/*
 * The runs of a segment: per epoch, its extents, sorted, the last writer of a sector winning.
 *
 * They are made by scanning the record headers and kept in an index file beside the closed
 * segment. The file is a cache: it proves that it belongs to exactly this segment (chain at both
 * ends) and its own bytes, and whatever is wrong with it, the segment is scanned again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/checksum.h"
#include "fs/history_internal.h"

void run_free(struct run *run)
{
	free(run->parts);
	free(run->extents);
	*run = (struct run){ 0 };
}

/* ── packing ─────────────────────────────────────────────────────────────────────────────── */

static struct journal_index_extent run_pack(uint16_t disk, const struct extent *e)
{
	return (struct journal_index_extent){
		.a = e->lba | (e->sectors - 1) << 34 | (uint64_t)e->zero << 63,
		.b = (uint64_t)e->header | (uint64_t)e->index << 17 | (uint64_t)e->skip << 25 |
		     (uint64_t)disk << 32,
	};
}

uint16_t run_disk(const struct journal_index_extent *packed)
{
	return (uint16_t)(packed->b >> 32);
}

uint64_t run_lba(const struct journal_index_extent *packed)
{
	return packed->a & (EXTENT_MAX_LBA - 1);
}

void run_unpack(const struct journal_index_extent *packed, uint64_t seq, uint16_t *ret_disk,
	struct extent *ret_extent)
{
	*ret_disk = run_disk(packed);
	*ret_extent = (struct extent){
		.lba = run_lba(packed),
		.sectors = (packed->a >> 34 & (EXTENT_MAX_ZERO_SECTORS - 1)) + 1,
		.zero = packed->a >> 63,
		.segment = (uint32_t)(seq & 0xffffff),
		.header = (uint32_t)(packed->b & 0x1ffff),
		.index = (uint8_t)(packed->b >> 17),
		.skip = (uint8_t)(packed->b >> 25 & 0x7f),
	};
}

static bool unpacked_sensible(const struct extent *e)
{
	return e->lba + e->sectors <= EXTENT_MAX_LBA &&
	       (e->zero || (e->skip + e->sectors <= JOURNAL_MAX_PAYLOAD_SECTORS &&
				   e->index < JOURNAL_MAX_EXTENTS && e->header >= 8));
}

/* ── making ──────────────────────────────────────────────────────────────────────────────── */

struct maker {
	uint64_t seq;
	struct buf parts, extents;
	struct {
		uint16_t disk;
		struct extent_map *map;
	} maps[HISTORY_MAX_DISKS];
	unsigned map_count;
};

static void maker_free(struct maker *maker)
{
	for (unsigned i = 0; i < maker->map_count; i++)
		extent_map_free(maker->maps[i].map);
	buf_free(&maker->parts);
	buf_free(&maker->extents);
}

/* The map of the disk in this part, made at its first extent; kept sorted by disk. */
static int maker_map(struct maker *maker, uint16_t disk, struct extent_map **ret_map)
{
	unsigned i = maker->map_count;
	while (i > 0 && maker->maps[i - 1].disk >= disk)
		i--;
	if (i < maker->map_count && maker->maps[i].disk == disk) {
		*ret_map = maker->maps[i].map;
		return 0;
	}
	if (maker->map_count == ARRAY_SIZE(maker->maps))
		return -EBADMSG;
	struct extent_map *map;
	int r = extent_map_new(&map);
	if (r < 0)
		return r;
	memmove(&maker->maps[i + 1], &maker->maps[i],
		(maker->map_count - i) * sizeof(maker->maps[0]));
	maker->maps[i].disk = disk;
	maker->maps[i].map = map;
	maker->map_count++;
	*ret_map = map;
	return 0;
}

/* Writes the part down and begins another. */
static int maker_end_part(struct maker *maker, uint64_t last_lsn)
{
	struct journal_index_part part = { .last_lsn = last_lsn };
	int r = 0;
	for (unsigned i = 0; i < maker->map_count; i++) {
		struct extent_map *map = maker->maps[i].map;
		struct extent e;
		for (uint64_t lba = 0; r == 0 && extent_map_find(map, lba, &e) == 0;
			lba = e.lba + e.sectors) {
			struct journal_index_extent p = run_pack(maker->maps[i].disk, &e);
			r = buf_append(&maker->extents, &p, sizeof(p));
			part.extent_count++;
		}
		extent_map_free(map);
	}
	maker->map_count = 0;
	if (r == 0)
		r = buf_append(&maker->parts, &part, sizeof(part));
	return r;
}

static int maker_take(void *context, uint64_t offset, const struct journal_record *record)
{
	struct maker *maker = context;
	if (record->type == JOURNAL_SEAL || record->type == JOURNAL_POINT_IMPORT ||
		record->type == JOURNAL_DRAIN_BEGIN)
		return maker_end_part(maker, record->lsn);
	if (record->type != JOURNAL_DATA)
		return 0;
	for (unsigned i = 0; i < record->count; i++) {
		struct extent e = record_extent(record, i, maker->seq, offset);
		struct extent_map *map;
		int r = maker_map(maker, record->extents[i].disk, &map);
		if (r == 0)
			r = extent_map_insert(map, &e);
		if (r < 0)
			return r;
	}
	return 0;
}

int run_scan(struct history *history, const struct segment *segment, struct run *ret_run)
{
	struct scan scan;
	int r = scan_open(history, segment->seq, &scan);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	struct maker *maker = calloc(1, sizeof(*maker));
	if (!maker) {
		scan_close(&scan);
		return -ENOMEM;
	}
	maker->seq = segment->seq;
	struct scan_end end = { JOURNAL_PAGE_BYTES, segment->prev_lsn, segment->prev_hash };
	r = scan_chain(
		&scan, segment->first_lsn, segment->last_lsn, UINT64_MAX, maker_take, maker, &end);
	scan_close(&scan);
	if (r == 0 && end.lsn != segment->last_lsn)
		r = -EBADMSG;
	if (r == 0)
		r = maker_end_part(maker, segment->last_lsn);
	if (r == 0) {
		*ret_run = (struct run){
			.part_count = maker->parts.len / sizeof(struct journal_index_part),
			.parts = (void *)maker->parts.data,
			.extent_count = maker->extents.len / sizeof(struct journal_index_extent),
			.extents = (void *)maker->extents.data,
		};
		maker->parts = maker->extents = (struct buf){ 0 };
	}
	maker_free(maker);
	free(maker);
	return r;
}

/* ── the file ────────────────────────────────────────────────────────────────────────────── */

int run_write(struct history *history, struct segment *segment, const struct run *run)
{
	size_t parts_bytes = run->part_count * sizeof(*run->parts);
	size_t extents_bytes = run->extent_count * sizeof(*run->extents);
	struct journal_index header = {
		.magic = JOURNAL_INDEX_MAGIC,
		.version = JOURNAL_VERSION,
		.part_count = (uint32_t)run->part_count,
		.group = history->group,
		.seq = segment->seq,
		.incarnation = segment->incarnation,
		.first_lsn = segment->first_lsn,
		.last_lsn = segment->last_lsn,
		.prev_hash = segment->prev_hash,
		.end_hash = segment->end_hash,
		.end = segment->end,
		.extent_count = run->extent_count,
	};
	CLEANUP(buf_free) struct buf image = { 0 };
	int r = buf_append(&image, &header, sizeof(header));
	if (r == 0)
		r = buf_append(&image, run->parts, parts_bytes);
	if (r == 0)
		r = buf_append(&image, run->extents, extents_bytes);
	if (r < 0)
		return r;
	struct journal_index *h = (struct journal_index *)image.data;
	h->body_checksum = checksum64(h + 1, parts_bytes + extents_bytes);
	h->checksum = page_checksum(h, sizeof(*h), &h->checksum);

	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, segment->seq, "idx", path);
	r = io_replace_file(history->io, path, image.data, image.len);
	if (r < 0)
		return r;
	pthread_mutex_lock(&history->lock);
	if (segment->live)
		history->live_bytes += image.len - segment->index_bytes;
	segment->index_bytes = image.len;
	pthread_mutex_unlock(&history->lock);
	return 0;
}

static bool index_matches(
	const struct history *history, const struct journal_index *h, const struct segment *segment)
{
	return h->magic == JOURNAL_INDEX_MAGIC && h->version == JOURNAL_VERSION &&
	       memcmp(&h->group, &history->group, sizeof(h->group)) == 0 &&
	       h->seq == segment->seq && h->incarnation == segment->incarnation &&
	       h->first_lsn == segment->first_lsn && h->last_lsn == segment->last_lsn &&
	       h->prev_hash == segment->prev_hash && h->end_hash == segment->end_hash &&
	       h->end == segment->end;
}

static int index_parse(const struct history *history, const struct segment *segment, char *data,
	size_t n, struct run *ret_run)
{
	struct journal_index *h = (struct journal_index *)data;
	if (n < sizeof(*h) || page_checksum(h, sizeof(*h), &h->checksum) != h->checksum ||
		!index_matches(history, h, segment))
		return -EBADMSG;
	size_t parts_bytes = h->part_count * sizeof(struct journal_index_part);
	if (h->extent_count > HISTORY_SEGMENT_BYTES ||
		n != sizeof(*h) + parts_bytes +
				h->extent_count * sizeof(struct journal_index_extent) ||
		checksum64(h + 1, n - sizeof(*h)) != h->body_checksum)
		return -EBADMSG;
	struct run run = { .part_count = h->part_count, .extent_count = h->extent_count };
	const struct journal_index_part *parts = (const void *)(h + 1);
	const struct journal_index_extent *extents = (const void *)(parts + run.part_count);
	uint64_t sum = 0;
	for (uint64_t i = 0; i < run.part_count; i++)
		sum += parts[i].extent_count;
	if (sum != run.extent_count)
		return -EBADMSG;
	for (uint64_t i = 0; i < run.extent_count; i++) {
		uint16_t disk;
		struct extent e;
		run_unpack(&extents[i], segment->seq, &disk, &e);
		if (!unpacked_sensible(&e))
			return -EBADMSG;
	}
	run.parts = malloc(parts_bytes + 1);
	run.extents = malloc(run.extent_count * sizeof(*extents) + 1);
	if (!run.parts || !run.extents) {
		run_free(&run);
		return -ENOMEM;
	}
	memcpy(run.parts, parts, parts_bytes);
	memcpy(run.extents, extents, run.extent_count * sizeof(*extents));
	*ret_run = run;
	return 0;
}

int run_read(struct history *history, const struct segment *segment, struct run *ret_run)
{
	char path[SEGMENT_PATH_BYTES(history)];
	CLEANUP_FREE char *data = NULL;
	size_t n;
	segment_path(history, segment->seq, "idx", path);
	int r = io_load_file(history->io, path, 4 * HISTORY_SEGMENT_BYTES, &data, &n);
	if (r < 0)
		return r == -EFBIG ? -EBADMSG : r;
	return index_parse(history, segment, data, n, ret_run);
}

int run_load(struct history *history, const struct segment *segment, struct run *ret_run)
{
	int r = segment->index_bytes > 0 ? run_read(history, segment, ret_run) : -ENOENT;
	return r == 0 || r == -ENOMEM ? r : run_scan(history, segment, ret_run);
}
