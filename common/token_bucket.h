/*
 * A rate limit that is kept ahead of the service's: so much a second, with so much in a burst.
 *
 * Whoever wants to spend *reserves*: the bucket answers how long to wait, and counts the amount
 * as spent from then on. So reservations are served in the order in which they were made, and an
 * amount larger than the burst merely waits for what is owed.
 */
#pragma once

#include <stdint.h>

#include "common/clock.h"

struct token_bucket {
	struct clock_source *clock; /* borrowed */
	uint64_t per_second;        /* 0: no limit */
	uint64_t burst;
	int64_t full_at_ns; /* monotonic: when all that was reserved will have been paid back */
};

/* Full at the start. `per_second` 0 lets everything through; `burst` ≥ 1. Not thread-safe. */
void token_bucket_init(struct token_bucket *bucket, struct clock_source *clock, uint64_t per_second,
	uint64_t burst);

/* Changes the rate from now on; what is owed stays owed in time. */
void token_bucket_set_rate(struct token_bucket *bucket, uint64_t per_second, uint64_t burst);

/* Takes `amount` and returns how many nanoseconds to wait before using it; 0: none. */
int64_t token_bucket_reserve(struct token_bucket *bucket, uint64_t amount);

/* Gives back a reservation that was not used. */
void token_bucket_refund(struct token_bucket *bucket, uint64_t amount);

/* What a reservation of `amount` would answer now. Takes nothing. */
int64_t token_bucket_peek(const struct token_bucket *bucket, uint64_t amount);
