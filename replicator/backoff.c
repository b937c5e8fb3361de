/*
 * See backoff.h. Eight tries, waits of up to 8 s with full jitter: about half a minute in all;
 * who wants to wait longer (the group, for a vault that is away) calls again later.
 */
#include "replicator/backoff.h"

#include <errno.h>
#include <stdint.h>

#include "common/bytes.h"

#define TRIES 8u
#define SLICE_NS (250 * NS_PER_MS)

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

void backoff_start(struct backoff *backoff, struct clock_source *clock, const atomic_bool *cancel)
{
	*backoff = (struct backoff){ .clock = clock, .cancel = cancel };
	if (!clock)
		return;
	rng_seed(&backoff->rng, (uint64_t)clock_monotonic_ns(clock));
	retry_start(&backoff->retry, &policy, clock, &backoff->rng);
}

static bool is_canceled(const struct backoff *backoff)
{
	return backoff->cancel && atomic_load(backoff->cancel);
}

static void pause_for(const struct backoff *backoff, int64_t ns)
{
	int64_t slice_ns = backoff->cancel ? SLICE_NS : INT64_MAX;
	for (; ns > 0 && !is_canceled(backoff); ns -= MIN(ns, slice_ns))
		clock_sleep_ns(backoff->clock, MIN(ns, slice_ns));
}

bool backoff_again(struct backoff *backoff, int r, struct blob_error *error)
{
	int64_t wait_ns;
	if (r == -ECANCELED || is_canceled(backoff) || !backoff_is_passing(r, error))
		return false;
	if (!backoff->clock) {
		if (++backoff->tries >= TRIES)
			return false;
	} else {
		if (!retry_next(&backoff->retry, RETRY_AFTER_NONE, &wait_ns))
			return false;
		pause_for(backoff, wait_ns);
		if (is_canceled(backoff))
			return false;
	}
	*error = (struct blob_error){ 0 };
	return true;
}
