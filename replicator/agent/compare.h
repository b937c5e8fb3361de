/*
 * Comparing a disk with what the appliance has, chunk by chunk, from a cursor upwards.
 *
 *	ask for hashes ─► feed: read, hash, compare ─► equal: done
 *	                                             └► ask for pages ─► send what differs
 *
 * This is the bookkeeping: what has been asked, what is open, up to where all is done. It does
 * nothing by itself; the conductor asks it what to ask next and tells it what came. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/checksum.h"

#define COMPARE_WINDOW_CHUNKS 2048u /* between the cursor and what is asked last */
#define COMPARE_ASK_CHUNKS 128u
#define COMPARE_SHORT_CHUNKS 4u

struct compare {
	uint64_t chunks; /* of the disk */
	uint64_t cursor; /* all below are done */
	uint64_t asked;  /* all below were asked for */
	uint64_t told;   /* the cursor that the appliance was told last */
	uint64_t begun_at;
	uint64_t done[COMPARE_WINDOW_CHUNKS / 64]; /* a bit a chunk, a ring */
	uint64_t differing;
	int64_t began_ns; /* monotonic */
	bool short_steps; /* little at once, since cuts wait until it is through */
};

void compare_begin(struct compare *compare, uint64_t chunks, uint64_t cursor, int64_t now_ns);
/* Something to ask for: false if nothing, or not yet. */
bool compare_next_ask(struct compare *compare, uint64_t *ret_first, uint32_t *ret_count);
void compare_chunk_done(struct compare *compare, uint64_t chunk);
bool compare_is_done(const struct compare *compare);

/* The hash of a chunk of zeros. */
struct hash128 compare_zero_chunk(void);
