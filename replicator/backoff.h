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

/* No try begins later than this after the first began, except for the second: what failed once,
 * however slowly, is tried once more. With a limit to one read (appliance/blob_azure.c) a call
 * that reads ends within about half a minute. Who wants to wait longer (the group, for a vault
 * that is away) calls again later. */
#define BACKOFF_TOTAL_NS (30 * NS_PER_S)

struct backoff {
	struct clock_source *clock;
	const atomic_bool *cancel[3]; /* NULL: never */
	struct rng rng;
	struct retry retry;
};

/* True for results that a later try may mend. */
bool backoff_is_passing(int r, const struct blob_error *error);

/* Both are borrowed. Waits by the store's clock. Once `cancel` (NULL: never) or one of the store's
 * stops is set, by whatever thread, waits end within a quarter of a second and nothing is tried
 * again. */
void backoff_start(
	struct backoff *backoff, const struct blob_store *store, const atomic_bool *cancel);
/* True, after a wait, if it is worth another try. Clears `error` then. */
bool backoff_again(struct backoff *backoff, int r, struct blob_error *error);
