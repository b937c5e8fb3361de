/*
 * Buckets under one lock; nothing happens under it but arithmetic. A kind without a limit stays
 * without one: retries with growing waits are all that holds it back.
 */
#include "ec2/limiter.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/token_bucket.h"

struct limit {
	struct token_bucket bucket;
	uint64_t full; /* the rate that was asked for */
	int64_t changed_ns;
};

struct ec2_limiter {
	pthread_mutex_t lock;
	struct clock_source *clock;
	struct limit limits[EC2_LIMITS];
};

static uint64_t burst_of(uint64_t rate)
{
	return MAX(rate / 10, (uint64_t)1);
}

int ec2_limiter_new(struct clock_source *clock, const uint64_t per_second[static EC2_LIMITS],
	struct ec2_limiter **ret_limiter)
{
	struct ec2_limiter *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	l->clock = clock;
	for (unsigned i = 0; i < EC2_LIMITS; i++) {
		l->limits[i].full = per_second[i];
		l->limits[i].changed_ns = clock_monotonic_ns(clock);
		token_bucket_init(
			&l->limits[i].bucket, clock, per_second[i], burst_of(per_second[i]));
	}
	*ret_limiter = l;
	return 0;
}

void ec2_limiter_free(struct ec2_limiter *l)
{
	if (!l)
		return;
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static void set_rate(struct limit *limit, uint64_t rate)
{
	token_bucket_set_rate(&limit->bucket, rate, burst_of(rate));
}

static void recover(struct ec2_limiter *l, struct limit *limit)
{
	int64_t now_ns = clock_monotonic_ns(l->clock);
	uint64_t rate = limit->bucket.per_second;
	if (rate >= limit->full || now_ns - limit->changed_ns < NS_PER_S)
		return;
	uint64_t seconds = (uint64_t)((now_ns - limit->changed_ns) / NS_PER_S);
	uint64_t steps = MIN(seconds, (uint64_t)20);
	uint64_t raised = rate + steps * MAX(limit->full / 20, (uint64_t)1);
	limit->changed_ns = now_ns;
	set_rate(limit, MIN(limit->full, raised));
}

int64_t ec2_limiter_reserve(struct ec2_limiter *l, enum ec2_limit kind)
{
	struct limit *limit = &l->limits[kind];
	SCOPED_LOCK(&l->lock);
	recover(l, limit);
	return token_bucket_reserve(&limit->bucket, 1);
}

void ec2_limiter_throttled(struct ec2_limiter *l, enum ec2_limit kind)
{
	struct limit *limit = &l->limits[kind];
	SCOPED_LOCK(&l->lock);
	int64_t now_ns = clock_monotonic_ns(l->clock);
	uint64_t rate = limit->bucket.per_second;
	/* The first one at once: what was set may never have been true. */
	if (rate == 0 || (rate < limit->full && now_ns - limit->changed_ns < NS_PER_S))
		return;
	limit->changed_ns = now_ns;
	set_rate(limit, MAX(rate * 7 / 10, (uint64_t)1));
}

uint64_t ec2_limiter_rate(struct ec2_limiter *l, enum ec2_limit kind)
{
	SCOPED_LOCK(&l->lock);
	return l->limits[kind].bucket.per_second;
}
