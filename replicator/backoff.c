/*
 * See backoff.h. Waits of up to 4 s with full jitter, until BACKOFF_TOTAL_NS have gone by.
 */
#include "replicator/backoff.h"

#include <errno.h>
#include <stdint.h>

#include "common/bytes.h"

#define SLICE_NS (250 * NS_PER_MS)

static const struct retry_policy policy = {
	.first_ns = 200 * NS_PER_MS,
	.longest_ns = 4 * NS_PER_S,
	.total_ns = BACKOFF_TOTAL_NS,
};

bool backoff_is_passing(int r, const struct blob_error *error)
{
	return error->ambiguous || r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET ||
	       r == -ECONNREFUSED || r == -EBADMSG;
}

void backoff_start(
	struct backoff *backoff, const struct blob_store *store, const atomic_bool *cancel)
{
	*backoff = (struct backoff){ .clock = store->clock ? store->clock : clock_system(),
		.cancel = { cancel, store->stops[0], store->stops[1] } };
	rng_seed(&backoff->rng, (uint64_t)clock_monotonic_ns(backoff->clock));
	retry_start(&backoff->retry, &policy, backoff->clock, &backoff->rng);
}

static bool is_canceled(const struct backoff *backoff)
{
	for (unsigned i = 0; i < ARRAY_SIZE(backoff->cancel); i++)
		if (backoff->cancel[i] && atomic_load(backoff->cancel[i]))
			return true;
	return false;
}

static void pause_for(const struct backoff *backoff, int64_t ns)
{
	for (; ns > 0 && !is_canceled(backoff); ns -= MIN(ns, SLICE_NS))
		clock_sleep_ns(backoff->clock, MIN(ns, SLICE_NS));
}

/* How long to wait; false: it has been tried for long enough. */
static bool next_wait(struct backoff *backoff, int64_t *ret_wait_ns)
{
	if (retry_next(&backoff->retry, RETRY_AFTER_NONE, ret_wait_ns))
		return true;
	*ret_wait_ns = 0;
	return backoff->retry.failures == 1;
}

bool backoff_again(struct backoff *backoff, int r, struct blob_error *error)
{
	int64_t wait_ns;
	if (r == -ECANCELED || is_canceled(backoff) || !backoff_is_passing(r, error) ||
		!next_wait(backoff, &wait_ns))
		return false;
	pause_for(backoff, wait_ns);
	if (is_canceled(backoff))
		return false;
	*error = (struct blob_error){ 0 };
	return true;
}
