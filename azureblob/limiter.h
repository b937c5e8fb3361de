/*
 * The service's limits for one blob, kept ahead of its 503: so many requests and bytes a second.
 * Give the same limiter with every request to that blob, from whatever thread.
 */
#pragma once

#include <stdint.h>

#include "common/clock.h"

struct azureblob_limiter;

#define AZUREBLOB_REQUESTS_PER_SECOND 500u
#define AZUREBLOB_BYTES_PER_SECOND (60ull << 20)

/* Rates of 0 mean no limit. A tenth of a second's worth (at least one 4 MiB request) may go in
 * one burst. 0 or -ENOMEM. `clock` is borrowed. */
int azureblob_limiter_new(struct clock_source *clock, uint64_t requests_per_second,
	uint64_t bytes_per_second, struct azureblob_limiter **ret_limiter);
void azureblob_limiter_free(struct azureblob_limiter *limiter);

/* Counts one request of `bytes` as made and returns how many nanoseconds it has to wait. Any
 * thread. */
int64_t azureblob_limiter_reserve(struct azureblob_limiter *limiter, uint64_t bytes);
