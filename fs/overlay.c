/*
 * The map of an overlay. A table with one pointer a chunk; it is allocated zeroed and large, so
 * the kernel provides only the pages that are used. A pointer is NULL (untouched), the marker
 * all_zero (zeroed whole), or owns the chunk's states.
 *
 * What it costs, for the quota: each 4 KiB of the overlay file that holds data, and each chunk's
 * states. Room once taken in the file stays taken, as the file is never punched.
 */
#include "fs/overlay.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define CHUNK_SECTORS 2048u
#define STATES_PER_WORD 32u
#define CHUNK_WORDS (CHUNK_SECTORS / STATES_PER_WORD)
#define PAGE_SECTORS 8u /* what the filesystem below allocates at once */
#define PAGE_BYTES 4096u

struct chunk {
	uint64_t words[CHUNK_WORDS];
};

struct overlay {
	uint64_t sectors;
	struct chunk **chunks;
};

static struct chunk *all_zero(void)
{
	static struct chunk marker; /* never read or written: only its address counts */
	return &marker;
}

int overlay_new(uint64_t sectors, struct overlay **ret_overlay)
{
	CLEANUP_FREE struct overlay *o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->sectors = sectors;
	o->chunks = calloc((size_t)(sectors / CHUNK_SECTORS + 1), sizeof(*o->chunks));
	if (!o->chunks)
		return -ENOMEM;
	*ret_overlay = TAKE(o);
	return 0;
}

void overlay_free(struct overlay *o)
{
	if (!o)
		return;
	for (uint64_t i = 0; i <= o->sectors / CHUNK_SECTORS; i++) {
		if (o->chunks[i] != all_zero())
			free(o->chunks[i]);
	}
	free(o->chunks);
	free(o);
}

static enum overlay_state chunk_get(const struct chunk *chunk, unsigned at)
{
	return (chunk->words[at / STATES_PER_WORD] >> (at % STATES_PER_WORD * 2)) & 3;
}

static void chunk_set(struct chunk *chunk, unsigned at, enum overlay_state state)
{
	uint64_t *word = &chunk->words[at / STATES_PER_WORD];
	unsigned shift = at % STATES_PER_WORD * 2;
	*word = (*word & ~(3ull << shift)) | (uint64_t)state << shift;
}

static enum overlay_state state_at(const struct overlay *o, uint64_t lba)
{
	const struct chunk *chunk = o->chunks[lba / CHUNK_SECTORS];
	if (!chunk)
		return OVERLAY_BELOW;
	if (chunk == all_zero())
		return OVERLAY_ZERO;
	return chunk_get(chunk, lba % CHUNK_SECTORS);
}

/* Sectors from lba to the end of its chunk, at most `sectors`. */
static uint64_t within_chunk(uint64_t lba, uint64_t sectors)
{
	return MIN(sectors, CHUNK_SECTORS - lba % CHUNK_SECTORS);
}

enum overlay_state overlay_run(
	const struct overlay *o, uint64_t lba, uint64_t sectors, uint64_t *ret_run)
{
	enum overlay_state state = state_at(o, lba);
	uint64_t run = 0;
	while (run < sectors) {
		const struct chunk *chunk = o->chunks[(lba + run) / CHUNK_SECTORS];
		bool uniform = !chunk || chunk == all_zero();
		if (state_at(o, lba + run) != state)
			break;
		run += uniform ? within_chunk(lba + run, sectors - run) : 1;
	}
	*ret_run = run;
	return state;
}

/* ── what it costs ───────────────────────────────────────────────────────────────────────── */

static bool is_taken(enum overlay_state state)
{
	return state == OVERLAY_DATA || state == OVERLAY_ZERO_TAKEN;
}

/* True if the page of the overlay file that holds `lba` has room taken already. */
static bool page_is_taken(const struct overlay *o, uint64_t lba)
{
	uint64_t start = round_down(lba, PAGE_SECTORS);
	for (uint64_t i = start; i < MIN(start + PAGE_SECTORS, o->sectors); i++) {
		if (is_taken(state_at(o, i)))
			return true;
	}
	return false;
}

static uint64_t chunk_cost(const struct overlay *o, uint64_t lba)
{
	const struct chunk *chunk = o->chunks[lba / CHUNK_SECTORS];
	return !chunk || chunk == all_zero() ? sizeof(struct chunk) : 0;
}

uint64_t overlay_data_cost(const struct overlay *o, uint64_t lba, uint64_t sectors)
{
	uint64_t cost = 0;
	for (uint64_t at = round_down(lba, PAGE_SECTORS); at < lba + sectors; at += PAGE_SECTORS)
		cost += page_is_taken(o, at) ? 0 : PAGE_BYTES;
	for (uint64_t at = lba; at < lba + sectors; at += within_chunk(at, CHUNK_SECTORS))
		cost += chunk_cost(o, at);
	return cost;
}

/* True if zeroing these sectors, which lie in one chunk, needs no states. */
static bool zero_is_free(const struct overlay *o, uint64_t lba, uint64_t sectors)
{
	const struct chunk *chunk = o->chunks[lba / CHUNK_SECTORS];
	return chunk == all_zero() || (!chunk && sectors == CHUNK_SECTORS);
}

uint64_t overlay_zero_cost(const struct overlay *o, uint64_t lba, uint64_t sectors)
{
	uint64_t cost = 0;
	while (sectors > 0) {
		uint64_t n = within_chunk(lba, sectors);
		if (!zero_is_free(o, lba, n))
			cost += chunk_cost(o, lba);
		lba += n, sectors -= n;
	}
	return cost;
}

/* ── setting ─────────────────────────────────────────────────────────────────────────────── */

/* The chunk that holds `lba`, made if it has no states yet. */
static int make_chunk(struct overlay *o, uint64_t lba, struct chunk **ret_chunk)
{
	struct chunk **slot = &o->chunks[lba / CHUNK_SECTORS];
	if (!*slot || *slot == all_zero()) {
		struct chunk *chunk = calloc(1, sizeof(*chunk));
		if (!chunk)
			return -ENOMEM;
		if (*slot)
			memset(chunk, 0xaa, sizeof(*chunk)); /* OVERLAY_ZERO everywhere */
		*slot = chunk;
	}
	*ret_chunk = *slot;
	return 0;
}

int overlay_reserve(struct overlay *o, uint64_t lba, uint64_t sectors)
{
	for (uint64_t at = lba; at < lba + sectors; at += within_chunk(at, CHUNK_SECTORS)) {
		struct chunk *chunk;
		int r = make_chunk(o, at, &chunk);
		if (r < 0)
			return r;
	}
	return 0;
}

int overlay_set_data(struct overlay *o, uint64_t lba, uint64_t sectors)
{
	while (sectors > 0) {
		struct chunk *chunk;
		int r = make_chunk(o, lba, &chunk);
		if (r < 0)
			return r;
		uint64_t n = within_chunk(lba, sectors);
		for (uint64_t i = 0; i < n; i++)
			chunk_set(chunk, (unsigned)((lba + i) % CHUNK_SECTORS), OVERLAY_DATA);
		lba += n, sectors -= n;
	}
	return 0;
}

int overlay_set_zero(struct overlay *o, uint64_t lba, uint64_t sectors)
{
	while (sectors > 0) {
		uint64_t n = within_chunk(lba, sectors);
		if (zero_is_free(o, lba, n)) {
			o->chunks[lba / CHUNK_SECTORS] = all_zero();
			lba += n, sectors -= n;
			continue;
		}
		struct chunk *chunk;
		int r = make_chunk(o, lba, &chunk);
		if (r < 0)
			return r;
		for (; n > 0; n--, lba++, sectors--) {
			unsigned at = (unsigned)(lba % CHUNK_SECTORS);
			chunk_set(chunk, at,
				is_taken(chunk_get(chunk, at)) ? OVERLAY_ZERO_TAKEN : OVERLAY_ZERO);
		}
	}
	return 0;
}
