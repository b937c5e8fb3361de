/*
 * The flusher's and the vault's manner of trying again: what was out of reach, overloaded or
 * ambiguous, for calls that may be repeated. What such a call needs to be repeatable (adopting
 * what an earlier try did) is the caller's.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "common/clock.h"
#include "common/retry.h"
#include "common/rng.h"
#include "replicator/blob.h"

struct backoff {
	struct clock_source *clock; /* NULL: never waits */
	const atomic_bool *cancel;  /* NULL: never */
	struct rng rng;
	struct retry retry;
	unsigned tries;
};

/* True for results that a later try may mend. */
bool backoff_is_passing(int r, const struct blob_error *error);

/* Both are borrowed. Once `cancel` is set, by whatever thread, waits end within a quarter of a
 * second and nothing is tried again. */
void backoff_start(struct backoff *backoff, struct clock_source *clock, const atomic_bool *cancel);
/* True, after a wait, if it is worth another try. Clears `error` then. */
bool backoff_again(struct backoff *backoff, int r, struct blob_error *error);
