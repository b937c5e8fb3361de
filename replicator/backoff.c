/*
 * See backoff.h. Eight tries, waits of up to 8 s with full jitter: about half a minute in all;
 * who wants to wait longer (the group, for a vault that is away) calls again later.
 */
#include "replicator/backoff.h"

#include <errno.h>
#include <stdint.h>

#define TRIES 8u

static const struct retry_policy policy = {
	.attempts = TRIES,
	.first_ns = 200 * NS_PER_MS,
	.longest_ns = 8 * NS_PER_S,
};

bool backoff_is_passing(int r, const struct blob_error *error)
{
	return error->ambiguous || r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET ||
	       r == -ECONNREFUSED || r == -EBADMSG;
}

void backoff_start(struct backoff *backoff, struct clock_source *clock)
{
	*backoff = (struct backoff){ .clock = clock };
	if (!clock)
		return;
	rng_seed(&backoff->rng, (uint64_t)clock_monotonic_ns(clock));
	retry_start(&backoff->retry, &policy, clock, &backoff->rng);
}

bool backoff_again(struct backoff *backoff, int r, struct blob_error *error)
{
	int64_t wait_ns;
	if (r == -ECANCELED || !backoff_is_passing(r, error))
		return false;
	if (!backoff->clock) {
		if (++backoff->tries >= TRIES)
			return false;
	} else {
		if (!retry_next(&backoff->retry, RETRY_AFTER_NONE, &wait_ns))
			return false;
		clock_sleep_ns(backoff->clock, wait_ns);
	}
	*error = (struct blob_error){ 0 };
	return true;
}
