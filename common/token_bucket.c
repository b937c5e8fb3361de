/*
 * Kept as one moment in time (the generic cell rate algorithm): `full_at_ns` is when the bucket
 * would be full again if nothing more were taken. No timer, no fractions to lose but the
 * rounding of one division a reservation, which is upwards and so never exceeds the rate.
 */
#include "common/token_bucket.h"

#include "common/bytes.h"

/* Nobody waits longer than a year; it keeps the sums far from overflow. */
#define LONGEST_NS (365 * 86400 * NS_PER_S)

static int64_t cost_ns(const struct token_bucket *bucket, uint64_t amount)
{
	unsigned __int128 ns = (unsigned __int128)amount * NS_PER_S;
	ns = (ns + bucket->per_second - 1) / bucket->per_second;
	return ns > (unsigned __int128)LONGEST_NS ? LONGEST_NS : (int64_t)ns;
}

void token_bucket_init(struct token_bucket *bucket, struct clock_source *clock, uint64_t per_second,
	uint64_t burst)
{
	*bucket = (struct token_bucket){
		.clock = clock,
		.per_second = per_second,
		.burst = MAX(burst, (uint64_t)1),
		.full_at_ns = clock_monotonic_ns(clock),
	};
}

void token_bucket_set_rate(struct token_bucket *bucket, uint64_t per_second, uint64_t burst)
{
	bucket->per_second = per_second;
	bucket->burst = MAX(burst, (uint64_t)1);
}

int64_t token_bucket_peek(const struct token_bucket *bucket, uint64_t amount)
{
	if (bucket->per_second == 0)
		return 0;
	int64_t owed_ns = MAX(bucket->full_at_ns - clock_monotonic_ns(bucket->clock), (int64_t)0);
	int64_t burst_ns = cost_ns(bucket, bucket->burst);
	int64_t want_ns = MIN(cost_ns(bucket, amount), burst_ns);
	return MAX(owed_ns + want_ns - burst_ns, (int64_t)0);
}

int64_t token_bucket_reserve(struct token_bucket *bucket, uint64_t amount)
{
	if (bucket->per_second == 0)
		return 0;
	int64_t wait_ns = token_bucket_peek(bucket, amount);
	int64_t now_ns = clock_monotonic_ns(bucket->clock);
	bucket->full_at_ns = MAX(bucket->full_at_ns, now_ns) + cost_ns(bucket, amount);
	bucket->full_at_ns = MIN(bucket->full_at_ns, now_ns + LONGEST_NS);
	return wait_ns;
}

void token_bucket_refund(struct token_bucket *bucket, uint64_t amount)
{
	if (bucket->per_second > 0)
		bucket->full_at_ns -= cost_ns(bucket, amount);
}
