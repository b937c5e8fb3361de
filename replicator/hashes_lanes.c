/*
 * Lanes: the hashes of several disks that are gone through at once, brought into the order that
 * the format wants.
 *
 * The first lane that has not ended *leads*: what is added to it goes to the writer. What is added
 * to the others is held in chunks until their turn comes.
 *
 *	lane 0  ended ──────────► writer
 *	lane 1  leads ──────────► writer
 *	lane 2  chunk ─ chunk             held, at most HASHES_LANES_BYTES in all
 *	lane 3  chunk
 *
 * Invariants: lanes below `lead` have ended and hold nothing; the leading lane holds nothing;
 * `held_bytes` counts all chunks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/hashes.h"

#define CHUNK_HASHES 8192u

/* Pages in a row, of one kind. */
struct entry {
	uint32_t first, count;
	bool zero;
};

/* Entries and hashes share a chunk's room: each entry takes two places of eight bytes. */
#define ENTRY_PLACES 2u
static_assert(sizeof(struct entry) <= ENTRY_PLACES * sizeof(uint64_t), "an entry's places");

struct chunk {
	struct chunk *next;
	uint32_t used;
	uint64_t places[CHUNK_HASHES];
};

struct lane {
	uint16_t disk;
	bool ended;
	struct chunk *first, *last;
};

struct hashes_lanes {
	struct hashes_writer *writer;
	uint64_t held_bytes;
	unsigned count, lead;
	struct lane lanes[];
};

int hashes_lanes_new(struct hashes_writer *writer, const uint16_t *disks, unsigned count,
	struct hashes_lanes **ret_lanes)
{
	struct hashes_lanes *l = calloc(1, sizeof(*l) + count * sizeof(l->lanes[0]));
	if (!l)
		return -ENOMEM;
	l->writer = writer;
	l->count = count;
	for (unsigned i = 0; i < count; i++)
		l->lanes[i].disk = disks[i];
	*ret_lanes = l;
	return 0;
}

static void drop_first(struct hashes_lanes *l, struct lane *lane)
{
	struct chunk *chunk = lane->first;
	lane->first = chunk->next;
	l->held_bytes -= sizeof(*chunk);
	free(chunk);
}

void hashes_lanes_free(struct hashes_lanes *l)
{
	if (!l)
		return;
	for (unsigned i = 0; i < l->count; i++)
		while (l->lanes[i].first)
			drop_first(l, &l->lanes[i]);
	free(l);
}

bool hashes_lanes_may_add(const struct hashes_lanes *l, unsigned lane)
{
	return lane == l->lead || l->held_bytes < HASHES_LANES_BYTES;
}

static int hold(struct hashes_lanes *l, struct lane *lane, uint32_t first, uint32_t count,
	const uint64_t *hashes)
{
	while (count > 0) {
		struct chunk *chunk = lane->last;
		if (!lane->first || chunk->used + ENTRY_PLACES + 1 > CHUNK_HASHES) {
			chunk = malloc(sizeof(*chunk));
			if (!chunk)
				return -ENOMEM;
			chunk->next = NULL;
			chunk->used = 0;
			*(lane->first ? &lane->last->next : &lane->first) = chunk;
			lane->last = chunk;
			l->held_bytes += sizeof(*chunk);
		}
		uint32_t n = count;
		if (hashes)
			n = MIN(n, CHUNK_HASHES - chunk->used - ENTRY_PLACES);
		struct entry entry = { .first = first, .count = n, .zero = !hashes };
		memcpy(chunk->places + chunk->used, &entry, sizeof(entry));
		chunk->used += ENTRY_PLACES;
		if (hashes) {
			memcpy(chunk->places + chunk->used, hashes, n * sizeof(*hashes));
			chunk->used += n;
			hashes += n;
		}
		first += n;
		count -= n;
	}
	return 0;
}

static int write_chunk(struct hashes_writer *writer, uint16_t disk, const struct chunk *chunk)
{
	int r = 0;
	for (uint32_t at = 0; r == 0 && at < chunk->used;) {
		struct entry entry;
		memcpy(&entry, chunk->places + at, sizeof(entry));
		at += ENTRY_PLACES;
		r = hashes_writer_add(writer, disk, entry.first, entry.count,
			entry.zero ? NULL : chunk->places + at);
		at += entry.zero ? 0 : entry.count;
	}
	return r;
}

/* Brings to the writer what the leading lane holds. */
static int catch_up(struct hashes_lanes *l)
{
	struct lane *lane = &l->lanes[l->lead];
	int r = 0;
	while (r == 0 && lane->first) {
		r = write_chunk(l->writer, lane->disk, lane->first);
		drop_first(l, lane);
	}
	return r;
}

int hashes_lanes_add(struct hashes_lanes *l, unsigned lane, uint32_t first, uint32_t count,
	const uint64_t *hashes)
{
	if (lane >= l->count || l->lanes[lane].ended)
		return -EINVAL;
	if (lane == l->lead)
		return hashes_writer_add(l->writer, l->lanes[lane].disk, first, count, hashes);
	return hold(l, &l->lanes[lane], first, count, hashes);
}

int hashes_lanes_end(struct hashes_lanes *l, unsigned lane)
{
	int r = 0;
	l->lanes[lane].ended = true;
	while (r == 0 && l->lead < l->count && l->lanes[l->lead].ended) {
		l->lead++;
		if (l->lead < l->count)
			r = catch_up(l);
	}
	return r;
}
