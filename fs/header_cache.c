/*
 * Where payloads are and what their hashes are: the proven headers of data records, kept in
 * memory because neighbours share them.
 *
 * An entry holds what a read needs of a header and no more, some 2.5 KiB. There is one slot for
 * each value of a hash of the header's place; a newcomer replaces what is there. What then is too
 * much goes slot by slot, in turns. Upkeep drops all of it when the history is idle.
 *
 * There are many slots, because a disk that was written in small pieces is read from as many
 * headers: to miss one costs twice as much as the reading itself.
 *
 * Locks: one for each sixteenth of the slots, held for look-ups and replacements only. They are
 * taken alone.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "fs/history_internal.h"

#define CACHE_SLOTS 32768u
#define CACHE_LOCKS 16u

struct proven_header {
	uint64_t seq;
	uint32_t header; /* sector */
	uint32_t count;
	uint32_t bytes;         /* of the entry */
	const uint64_t *hashes; /* behind the extents, in the order of the payloads */
	struct proven_extent {
		uint32_t offset; /* of the payload, from the record's start */
		uint16_t sectors;
		uint16_t first_hash;
	} extents[];
};

static_assert(JOURNAL_MAX_HASHES <= UINT16_MAX, "first_hash takes any");

struct header_cache {
	uint64_t limit_bytes;
	atomic_ullong bytes; /* of all entries */
	atomic_uint turn;    /* the slot that gives way next */
	pthread_mutex_t locks[CACHE_LOCKS];
	struct proven_header *slots[CACHE_SLOTS];
};

struct header_cache *header_cache_new(uint64_t limit_bytes)
{
	struct header_cache *cache = calloc(1, sizeof(*cache));
	if (cache)
		cache->limit_bytes = limit_bytes;
	for (unsigned i = 0; cache && i < CACHE_LOCKS; i++)
		pthread_mutex_init(&cache->locks[i], NULL);
	return cache;
}

/* Puts an entry (NULL: none) into the slot and frees what was there. */
static void replace(struct header_cache *cache, unsigned slot, struct proven_header *entry)
{
	if (entry)
		atomic_fetch_add(&cache->bytes, entry->bytes);
	pthread_mutex_lock(&cache->locks[slot % CACHE_LOCKS]);
	struct proven_header *old = cache->slots[slot];
	if (old || entry) /* a page of slots that were never used stays untouched */
		cache->slots[slot] = entry;
	pthread_mutex_unlock(&cache->locks[slot % CACHE_LOCKS]);
	if (old)
		atomic_fetch_sub(&cache->bytes, old->bytes);
	free(old);
}

static void trim(struct header_cache *cache)
{
	for (unsigned i = 0; i < CACHE_SLOTS; i++) {
		if (atomic_load(&cache->bytes) <= cache->limit_bytes)
			return;
		replace(cache, atomic_fetch_add(&cache->turn, 1) % CACHE_SLOTS, NULL);
	}
}

uint64_t header_cache_bytes(struct header_cache *cache)
{
	return atomic_load(&cache->bytes);
}

void header_cache_drop(struct header_cache *cache)
{
	for (unsigned i = 0; i < CACHE_SLOTS && atomic_load(&cache->bytes) > 0; i++)
		replace(cache, i, NULL);
}

void header_cache_free(struct header_cache *cache)
{
	if (!cache)
		return;
	header_cache_drop(cache);
	for (unsigned i = 0; i < CACHE_LOCKS; i++)
		pthread_mutex_destroy(&cache->locks[i]);
	free(cache);
}

static unsigned slot_of(uint64_t seq, uint32_t header)
{
	uint64_t key = (seq << 14 | header / 8) * 0x9e3779b97f4a7c15ull;
	return (unsigned)(key >> 48) % CACHE_SLOTS;
}

/* Boils a proven record down. NULL without memory. */
static struct proven_header *boil_down(const struct journal_record *record, uint32_t header)
{
	unsigned hashes = 0;
	for (unsigned i = 0; i < record->count; i++)
		hashes += record_block_count(&record->extents[i]);
	size_t extents_bytes = record->count * sizeof(struct proven_extent);
	size_t bytes = sizeof(struct proven_header) + extents_bytes + hashes * sizeof(uint64_t);
	struct proven_header *h = malloc(bytes);
	if (!h)
		return NULL;
	uint64_t *kept = (uint64_t *)(void *)((uint8_t *)h->extents + extents_bytes);
	*h = (struct proven_header){ .seq = record->seq,
		.header = header,
		.count = record->count,
		.bytes = (uint32_t)bytes,
		.hashes = kept };
	uint32_t offset = JOURNAL_PAGE_BYTES;
	unsigned hash = 0;
	for (unsigned i = 0; i < record->count; i++) {
		const struct journal_extent *e = &record->extents[i];
		bool zero = e->flags & JOURNAL_ZERO;
		h->extents[i] = (struct proven_extent){
			.offset = offset,
			.sectors = (uint16_t)(zero ? 0 : e->sectors),
			.first_hash = (uint16_t)hash,
		};
		offset += h->extents[i].sectors * SECTOR_BYTES;
		hash += record_block_count(e);
	}
	for (unsigned i = 0; i < hashes; i++)
		kept[i] = record->hashes[JOURNAL_MAX_HASHES - 1 - i];
	return h;
}

/* The blocks that hold what `e` maps. */
static int payload_of(
	const struct proven_header *h, const struct extent *e, struct payload *ret_payload)
{
	if (e->index >= h->count || e->skip + e->sectors > h->extents[e->index].sectors)
		return -EBADMSG;
	const struct proven_extent *x = &h->extents[e->index];
	unsigned first = e->skip / JOURNAL_BLOCK_SECTORS;
	uint32_t begin = first * JOURNAL_BLOCK_SECTORS;
	uint32_t end = (uint32_t)MIN(
		round_up(e->skip + e->sectors, JOURNAL_BLOCK_SECTORS), (uint64_t)x->sectors);
	ret_payload->offset = (uint64_t)e->header * SECTOR_BYTES + x->offset + begin * SECTOR_BYTES;
	ret_payload->bytes = (end - begin) * SECTOR_BYTES;
	ret_payload->skip_bytes = (e->skip - begin) * SECTOR_BYTES;
	memcpy(ret_payload->hashes, &h->hashes[x->first_hash + first],
		((end - begin + JOURNAL_BLOCK_SECTORS - 1) / JOURNAL_BLOCK_SECTORS) *
			sizeof(*h->hashes));
	return 0;
}

int header_find(struct history *history, const struct segment *segment, struct io_file *file,
	const struct extent *e, bool wait, struct payload *ret_payload)
{
	struct header_cache *cache = history->headers;
	unsigned slot = slot_of(segment->seq, e->header);
	pthread_mutex_t *lock = &cache->locks[slot % CACHE_LOCKS];
	pthread_mutex_lock(lock);
	const struct proven_header *known = cache->slots[slot];
	if (known && known->seq == segment->seq && known->header == e->header) {
		int r = payload_of(known, e, ret_payload);
		pthread_mutex_unlock(lock);
		return r;
	}
	pthread_mutex_unlock(lock);

	struct journal_record record;
	uint64_t offset = (uint64_t)e->header * SECTOR_BYTES;
	int r = wait ? io_read_all(file, &record, sizeof(record), offset)
		     : io_read_cached(file, &record, sizeof(record), offset);
	if (r < 0)
		return r;
	if (!record_check(history, &record, segment->seq, offset) ||
		record.incarnation != segment->incarnation || record.type != JOURNAL_DATA)
		return -EBADMSG;
	struct proven_header *h = boil_down(&record, e->header);
	if (!h)
		return -ENOMEM;
	r = payload_of(h, e, ret_payload);
	replace(cache, slot, h);
	trim(cache);
	return r;
}
