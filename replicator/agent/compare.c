/*
 * A window of chunks slides over the disk; its lower end is the cursor.
 */
#include "replicator/agent/compare.h"

#include <string.h>

#include "common/bytes.h"
#include "replicator/wire/frame.h"

void compare_begin(struct compare *c, uint64_t chunks, uint64_t cursor, int64_t now_ns)
{
	*c = (struct compare){ .chunks = chunks, .began_ns = now_ns };
	c->cursor = c->asked = c->told = c->begun_at = MIN(cursor, chunks);
}

bool compare_next_ask(struct compare *c, uint64_t *ret_first, uint32_t *ret_count)
{
	uint64_t open = c->asked - c->cursor;
	uint64_t ask = c->short_steps ? COMPARE_SHORT_CHUNKS : COMPARE_ASK_CHUNKS;
	uint64_t window = c->short_steps ? 2 * ask : COMPARE_WINDOW_CHUNKS;
	if (c->asked == c->chunks || open + ask > window)
		return false;
	*ret_first = c->asked;
	*ret_count = (uint32_t)MIN(c->chunks - c->asked, ask);
	c->asked += *ret_count;
	return true;
}

static uint64_t *word_of(struct compare *c, uint64_t chunk)
{
	return &c->done[chunk % COMPARE_WINDOW_CHUNKS / 64];
}

void compare_chunk_done(struct compare *c, uint64_t chunk)
{
	if (chunk < c->cursor || chunk >= c->asked)
		return;
	*word_of(c, chunk) |= 1ull << chunk % 64;
	while (c->cursor < c->asked && *word_of(c, c->cursor) >> c->cursor % 64 & 1) {
		*word_of(c, c->cursor) &= ~(1ull << c->cursor % 64);
		c->cursor++;
	}
}

bool compare_is_done(const struct compare *c)
{
	return c->cursor == c->chunks;
}

struct hash128 compare_zero_chunk(void)
{
	uint64_t pages[WIRE_CHUNK_PAGES];
	static const uint8_t zeros[WIRE_PAGE_BYTES];
	uint64_t hash;
	frame_hash_pages(zeros, sizeof(zeros), &hash);
	for (unsigned i = 0; i < WIRE_CHUNK_PAGES; i++)
		pages[i] = hash;
	return checksum128(pages, sizeof(pages));
}
