/*
 * Reading: from the head or a view's map, through batches, segments and the base.
 *
 * Under the lock a range is broken into pieces: zeros, what is still in a batch (copied at once),
 * places in segments (a reference is taken, so trim leaves the file alone), and holes, which the
 * base fills. The pieces are then read without the lock.
 *
 * Every byte from a segment is proven: the record's header page by its checksum, then the whole
 * payload of the extent, at most 64 KiB, by the hash in that header. What headers said is kept in
 * a small cache, because neighbours share them.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/checksum.h"
#include "common/log.h"
#include "fs/history_internal.h"

#define MAX_PIECES 64u
#define CACHE_SLOTS 64u

/* ── proven headers ──────────────────────────────────────────────────────────────────────── */

struct header_slot {
	uint64_t seq;
	uint32_t header; /* sector; 0: empty */
	struct journal_record *record;
};

struct header_cache {
	pthread_mutex_t lock;
	struct header_slot slots[CACHE_SLOTS];
};

struct header_cache *header_cache_new(void)
{
	struct header_cache *cache = calloc(1, sizeof(*cache));
	if (cache)
		pthread_mutex_init(&cache->lock, NULL);
	return cache;
}

void header_cache_drop(struct header_cache *cache)
{
	SCOPED_LOCK(&cache->lock);
	for (unsigned i = 0; i < CACHE_SLOTS; i++)
		free(cache->slots[i].record);
	memset(cache->slots, 0, sizeof(cache->slots));
}

void header_cache_free(struct header_cache *cache)
{
	if (!cache)
		return;
	header_cache_drop(cache);
	pthread_mutex_destroy(&cache->lock);
	free(cache);
}

static struct header_slot *slot_for(struct header_cache *cache, uint64_t seq, uint32_t header)
{
	uint64_t key = (seq << 14 | header / 8) * 0x9e3779b97f4a7c15ull;
	return &cache->slots[key >> 58];
}

/* What a read needs of an extent's entry. */
struct payload {
	uint64_t offset; /* in the segment */
	uint32_t bytes;
	uint64_t hash;
};

static int payload_of(
	const struct journal_record *record, const struct extent *e, struct payload *ret_payload)
{
	if (record->type != JOURNAL_DATA || e->index >= record->count ||
		(record->extents[e->index].flags & JOURNAL_ZERO) ||
		e->skip + e->sectors > record->extents[e->index].sectors)
		return -EBADMSG;
	*ret_payload = (struct payload){
		.offset = (uint64_t)e->header * SECTOR_BYTES +
			  record_payload_offset(record, e->index),
		.bytes = record->extents[e->index].sectors * SECTOR_BYTES,
		.hash = record->extents[e->index].hash,
	};
	return 0;
}

static int find_payload(struct history *history, struct segment *segment, const struct extent *e,
	struct payload *ret_payload)
{
	struct header_cache *cache = history->headers;
	struct header_slot *slot = slot_for(cache, segment->seq, e->header);
	pthread_mutex_lock(&cache->lock);
	if (slot->record && slot->seq == segment->seq && slot->header == e->header) {
		int r = payload_of(slot->record, e, ret_payload);
		pthread_mutex_unlock(&cache->lock);
		return r;
	}
	pthread_mutex_unlock(&cache->lock);

	CLEANUP_FREE struct journal_record *record = malloc(sizeof(*record));
	if (!record)
		return -ENOMEM;
	uint64_t offset = (uint64_t)e->header * SECTOR_BYTES;
	int r = segment_read(history, segment, record, sizeof(*record), offset);
	if (r < 0)
		return r;
	if (!record_check(history, record, segment->seq, offset) ||
		record->incarnation != segment->incarnation)
		return -EBADMSG;
	r = payload_of(record, e, ret_payload);
	pthread_mutex_lock(&cache->lock);
	slot->seq = segment->seq;
	slot->header = e->header;
	struct journal_record *old = slot->record;
	slot->record = TAKE(record);
	pthread_mutex_unlock(&cache->lock);
	free(old);
	return r;
}

/* ── pieces ──────────────────────────────────────────────────────────────────────────────── */

static void copy_from_batch(const struct batch *batch, const struct extent *e, void *data)
{
	uint64_t at = (uint64_t)e->header * SECTOR_BYTES - batch->offset;
	const struct journal_record *record = (const struct journal_record *)(batch->data + at);
	memcpy(data,
		batch->data + at + record_payload_offset(record, e->index) +
			(size_t)e->skip * SECTOR_BYTES,
		e->sectors * SECTOR_BYTES);
}

/* The piece of extent `e`, which has been cut to the range. */
static void piece_of_extent(struct history *history, const struct extent *e, struct piece *piece)
{
	piece->extent = *e;
	if (e->zero) {
		piece->kind = PIECE_ZERO;
		return;
	}
	piece->kind = PIECE_FILE;
	piece->segment = segment_find(history, e->segment);
	if (!piece->segment)
		return;
	uint64_t offset = (uint64_t)e->header * SECTOR_BYTES;
	const struct batch *batch = NULL;
	if (offset >= piece->segment->end)
		batch = stage_find(history, piece->segment, offset);
	if (batch) {
		copy_from_batch(batch, e, piece->data);
		piece->kind = PIECE_DONE;
		piece->segment = NULL;
		return;
	}
	segment_ref(piece->segment);
}

unsigned pieces_collect(struct history *history, const struct extent_map *map, uint64_t lba,
	uint32_t sectors, void *data, struct piece *ret_pieces, unsigned max)
{
	uint64_t at = lba, end = lba + sectors;
	unsigned n = 0;
	for (; at < end && n < max; n++) {
		struct extent e;
		struct piece *piece = &ret_pieces[n];
		*piece = (struct piece){ .lba = at,
			.data = (uint8_t *)data + (at - lba) * SECTOR_BYTES };
		bool found = map && extent_map_find(map, at, &e) == 0 && e.lba < end;
		if (!found || e.lba > at) {
			piece->kind = PIECE_BASE;
			piece->sectors = (uint32_t)((found ? e.lba : end) - at);
		} else {
			uint64_t by = at - e.lba;
			if (!e.zero)
				e.skip = (uint8_t)(e.skip + by);
			e.lba = at;
			e.sectors = MIN(e.sectors - by, end - at);
			piece->sectors = (uint32_t)e.sectors;
			piece_of_extent(history, &e, piece);
		}
		at += piece->sectors;
	}
	return n;
}

static int read_payload(struct history *history, const struct piece *piece)
{
	const struct extent *e = &piece->extent;
	struct payload p;
	if (!piece->segment)
		return -EBADMSG;
	int r = find_payload(history, piece->segment, e, &p);
	if (r < 0)
		return r;
	size_t wanted = e->sectors * SECTOR_BYTES;
	CLEANUP_FREE uint8_t *bounce = NULL;
	uint8_t *to = piece->data;
	if (p.bytes != wanted) {
		to = bounce = malloc(p.bytes);
		if (!bounce)
			return -ENOMEM;
	}
	r = segment_read(history, piece->segment, to, p.bytes, p.offset);
	if (r < 0)
		return r;
	if (checksum64(to, p.bytes) != p.hash)
		return -EBADMSG;
	if (bounce)
		memcpy(piece->data, bounce + (size_t)e->skip * SECTOR_BYTES, wanted);
	return 0;
}

static int read_base(struct history *history, uint16_t disk, uint64_t base_point,
	uint64_t base_sectors, const struct piece *piece)
{
	uint64_t have = piece->lba < base_sectors
				? MIN((uint64_t)piece->sectors, base_sectors - piece->lba)
				: 0;
	if (base_point == 0)
		have = 0;
	memset(piece->data + have * SECTOR_BYTES, 0, (piece->sectors - have) * SECTOR_BYTES);
	if (have == 0)
		return 0;
	if (!history->base)
		return -EIO;
	return history->base->ops->read(history->base, disk, base_point, piece->lba * SECTOR_BYTES,
		piece->data, have * SECTOR_BYTES);
}

int pieces_read(struct history *history, uint16_t disk, uint64_t base_point, uint64_t base_sectors,
	struct piece *pieces, unsigned count)
{
	int r = 0;
	for (unsigned i = 0; i < count && r == 0; i++) {
		struct piece *piece = &pieces[i];
		if (piece->kind == PIECE_ZERO)
			memset(piece->data, 0, (size_t)piece->sectors * SECTOR_BYTES);
		else if (piece->kind == PIECE_BASE)
			r = read_base(history, disk, base_point, base_sectors, piece);
		else if (piece->kind == PIECE_FILE)
			r = read_payload(history, piece);
		if (piece->kind == PIECE_FILE && (r == -EBADMSG || r == -ENODATA)) {
			log_error("%s/%016" PRIx64 ".seg: record at %" PRIu64
				  ": the data of disk %u, sector %" PRIu64
				  " cannot be proven; it needs a resync",
				history->directory, piece->segment ? piece->segment->seq : 0,
				(uint64_t)piece->extent.header * SECTOR_BYTES, disk, piece->lba);
			r = -EIO;
		}
	}
	return r;
}

void pieces_release(struct history *history, struct piece *pieces, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (pieces[i].segment)
			segment_unref(history, pieces[i].segment);
}

/* ── the head ────────────────────────────────────────────────────────────────────────────── */

/* Reads what MAX_PIECES pieces cover; returns how many sectors that was. */
static int read_some(struct history *history, uint16_t id, uint64_t lba, uint32_t sectors,
	void *data, uint32_t *ret_sectors, uint64_t *ret_base_point)
{
	struct piece pieces[MAX_PIECES];
	pthread_mutex_lock(&history->lock);
	const struct disk *disk = disk_find(history, id);
	int r = 0;
	if (!disk || disk->info.removed)
		r = -ENOENT;
	else if (lba + sectors > disk->info.size_bytes / SECTOR_BYTES || lba + sectors < lba)
		r = -EINVAL;
	if (r < 0) {
		pthread_mutex_unlock(&history->lock);
		return r;
	}
	uint64_t base_point = history->vault_point;
	uint64_t base_sectors = disk_bytes_at(disk, base_point) / SECTOR_BYTES;
	unsigned count = pieces_collect(history, disk->map, lba, sectors, data, pieces, MAX_PIECES);
	pthread_mutex_unlock(&history->lock);

	r = pieces_read(history, id, base_point, base_sectors, pieces, count);
	pieces_release(history, pieces, count);
	*ret_base_point = base_point;
	*ret_sectors = (uint32_t)(pieces[count - 1].lba + pieces[count - 1].sectors - lba);
	return r;
}

int history_read(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors, void *data)
{
	uint64_t failed_point = 0;
	uint32_t done = 0;
	if (sectors == 0)
		return -EINVAL;
	while (done < sectors) {
		uint32_t n = 0;
		uint64_t base_point = 0;
		int r = read_some(history, disk, lba + done, sectors - done,
			(uint8_t *)data + (size_t)done * SECTOR_BYTES, &n, &base_point);
		/* The vault may have moved on and dropped the point meanwhile. */
		if (r == -ENOENT && base_point > failed_point) {
			failed_point = base_point;
			continue;
		}
		if (r < 0)
			return r == -ENOENT && base_point > 0 ? -EIO : r;
		done += n;
	}
	return 0;
}
