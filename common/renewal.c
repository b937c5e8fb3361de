/*
 * The lock guards `held`, `fetching`, `expires_ns`, `refresh_ns` and what the owner holds. Whoever
 * sets `fetching` owns what the owner fetches with, and what it puts by, until it clears it; so the
 * fetch itself runs unlocked.
 *
 * Who waits for another's fetch looks up now and then, as its own client may be told to stop
 * meanwhile.
 */
#include "common/renewal.h"

#include <errno.h>
#include <time.h>

#include "common/bytes.h"

#define REFRESH_AHEAD_NS (300 * NS_PER_S)
/* After a failed attempt to renew what is still good. */
#define REFRESH_PAUSE_NS (30 * NS_PER_S)
/* How soon a thread that waits for another's fetch heeds its own stop. */
#define WAIT_NS (200 * NS_PER_MS)

void renewal_init(struct renewal *renewal, const struct renewal_ops *ops, void *owner,
	struct clock_source *clock)
{
	pthread_condattr_t monotonic;
	*renewal = (struct renewal){ .ops = ops, .owner = owner, .clock = clock };
	pthread_mutex_init(&renewal->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&renewal->fetched, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

void renewal_destroy(struct renewal *renewal)
{
	pthread_cond_destroy(&renewal->fetched);
	pthread_mutex_destroy(&renewal->lock);
}

static int64_t refresh_at(int64_t now_ns, int64_t expires_ns)
{
	if (expires_ns == INT64_MAX)
		return INT64_MAX;
	return expires_ns - MIN(REFRESH_AHEAD_NS, (expires_ns - now_ns) / 2);
}

/* Holds the lock before and after, not meanwhile. */
static int fetch(struct renewal *renewal, const struct http *behalf, bool patient,
	struct http_error *ret_error)
{
	int64_t expires_ns = 0;
	renewal->fetching = true;
	pthread_mutex_unlock(&renewal->lock);
	int r = renewal->ops->fetch(renewal->owner, behalf, patient, &expires_ns, ret_error);
	int64_t now_ns = clock_monotonic_ns(renewal->clock);
	pthread_mutex_lock(&renewal->lock);
	renewal->fetching = false;
	if (r == 0) {
		renewal->ops->replace(renewal->owner);
		renewal->held = true;
		renewal->expires_ns = expires_ns;
		renewal->refresh_ns = refresh_at(now_ns, expires_ns);
	} else {
		renewal->refresh_ns = now_ns + REFRESH_PAUSE_NS;
	}
	pthread_cond_broadcast(&renewal->fetched);
	return r;
}

/* Another thread fetches: waits for it a moment. */
static void wait_for_fetch(struct renewal *renewal)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WAIT_NS;
	if (until.tv_nsec >= NS_PER_S) {
		until.tv_nsec -= NS_PER_S;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&renewal->fetched, &renewal->lock, &until);
}

int renewal_make_valid(
	struct renewal *renewal, const struct http *behalf, struct http_error *ret_error)
{
	for (;;) {
		int64_t now_ns = clock_monotonic_ns(renewal->clock);
		bool valid = renewal->held && now_ns < renewal->expires_ns;
		struct http_error e = { 0 };
		if (valid && (renewal->fetching || now_ns < renewal->refresh_ns))
			return 0;
		if (behalf && http_is_stopped(behalf))
			return http_error_set(ret_error, -ECANCELED, "cancelled");
		if (renewal->fetching) {
			wait_for_fetch(renewal);
			continue;
		}
		int r = fetch(renewal, behalf, !valid, &e);
		if (r < 0 && !valid) {
			if (ret_error)
				*ret_error = e;
			return r;
		}
		/* A renewal that failed leaves the old one, good for a while yet. */
	}
}
