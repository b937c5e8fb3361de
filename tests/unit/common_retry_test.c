/*
 * common/retry, common/token_bucket: waiting, with a clock that only the test moves.
 */
#include "tests/unit/cmocka_common.h"

#include <string.h>

#include "common/bytes.h"
#include "common/retry.h"
#include "common/token_bucket.h"
#include "common/utc.h"

struct fake_clock {
	struct clock_source source;
	int64_t now_ns;
};

static int64_t fake_now(struct clock_source *clock)
{
	return ((struct fake_clock *)clock)->now_ns;
}

static void fake_sleep(struct clock_source *clock, int64_t ns)
{
	((struct fake_clock *)clock)->now_ns += MAX(ns, (int64_t)0);
}

static const struct clock_ops fake_ops = { fake_now, fake_now, fake_sleep };

static void waits_stay_below_a_doubling_ceiling(void **state)
{
	(void)state;
	struct fake_clock clock = { .source = { &fake_ops } };
	const struct retry_policy policy = {
		.attempts = 10, .first_ns = 100 * NS_PER_MS, .longest_ns = 2 * NS_PER_S
	};
	int64_t largest_ns[9] = { 0 };
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct rng rng;
		struct retry retry;
		int64_t wait_ns = -1;
		rng_seed(&rng, seed);
		retry_start(&retry, &policy, &clock.source, &rng);
		for (int i = 0; i < 9; i++) {
			assert_true(retry_next(&retry, RETRY_AFTER_NONE, &wait_ns));
			assert_true(wait_ns >= 0);
			largest_ns[i] = MAX(largest_ns[i], wait_ns);
		}
		assert_false(retry_next(&retry, RETRY_AFTER_NONE, &wait_ns));
	}
	int64_t ceiling_ns = 100 * NS_PER_MS;
	for (int i = 0; i < 9; i++) {
		assert_true(largest_ns[i] <= ceiling_ns);
		assert_true(largest_ns[i] > ceiling_ns * 9 / 10);
		ceiling_ns = MIN(ceiling_ns * 2, 2 * NS_PER_S);
	}
}

static void retry_after_is_a_floor(void **state)
{
	(void)state;
	struct fake_clock clock = { .source = { &fake_ops } };
	const struct retry_policy policy = { .first_ns = NS_PER_MS, .longest_ns = NS_PER_S };
	struct rng rng;
	struct retry retry;
	int64_t wait_ns;
	rng_seed(&rng, 1);
	retry_start(&retry, &policy, &clock.source, &rng);
	for (int i = 0; i < 100; i++) {
		assert_true(retry_next(&retry, 7 * NS_PER_S, &wait_ns));
		assert_true(wait_ns >= 7 * NS_PER_S && wait_ns <= 8 * NS_PER_S);
	}
}

static void time_ends_it_too(void **state)
{
	(void)state;
	struct fake_clock clock = { .source = { &fake_ops }, .now_ns = 5 * NS_PER_S };
	const struct retry_policy policy = {
		.first_ns = NS_PER_S, .longest_ns = NS_PER_S, .total_ns = 10 * NS_PER_S
	};
	struct rng rng;
	struct retry retry;
	int64_t wait_ns = 0;
	rng_seed(&rng, 3);
	retry_start(&retry, &policy, &clock.source, &rng);
	assert_false(retry_next(&retry, 11 * NS_PER_S, &wait_ns));
	int attempts = 0;
	retry_start(&retry, &policy, &clock.source, &rng);
	while (retry_next(&retry, RETRY_AFTER_NONE, &wait_ns)) {
		clock_sleep_ns(&clock.source, wait_ns + NS_PER_S);
		attempts++;
		assert_true(attempts < 20);
	}
	assert_true(attempts >= 4);
}

static void retry_after_reads_seconds_and_dates(void **state)
{
	(void)state;
	int64_t now_ns;
	assert_int_equal(utc_parse("Sun, 22 Nov 2026 05:54:11 GMT", &now_ns), 0);
	assert_true(retry_after_parse("0", now_ns) == 0);
	assert_true(retry_after_parse(" 120 ", now_ns) == 120 * NS_PER_S);
	assert_true(retry_after_parse("99999999999999999999999", now_ns) == 86400 * NS_PER_S);
	assert_true(retry_after_parse("Sun, 22 Nov 2026 05:54:41 GMT", now_ns) == 30 * NS_PER_S);
	assert_true(retry_after_parse("Sun, 22 Nov 2020 05:54:41 GMT", now_ns) == 0);
	assert_true(retry_after_parse(NULL, now_ns) == RETRY_AFTER_NONE);
	assert_true(retry_after_parse("", now_ns) == RETRY_AFTER_NONE);
	assert_true(retry_after_parse("soon", now_ns) == RETRY_AFTER_NONE);
	assert_true(retry_after_parse("-5", now_ns) == RETRY_AFTER_NONE);
	assert_true(retry_after_parse("5x", now_ns) == RETRY_AFTER_NONE);
}

static void bucket_keeps_the_rate(void **state)
{
	(void)state;
	struct fake_clock clock = { .source = { &fake_ops } };
	struct token_bucket bucket;
	token_bucket_init(&bucket, &clock.source, 500, 50);
	/* The burst goes through at once. */
	for (int i = 0; i < 50; i++)
		assert_true(token_bucket_reserve(&bucket, 1) == 0);
	/* After that 500 a second, whoever asks, however he asks. */
	struct rng rng;
	rng_seed(&rng, 9);
	uint64_t taken = 0;
	while (clock.now_ns < 20 * NS_PER_S) {
		uint64_t amount = 1 + rng_below(&rng, 80);
		int64_t wait_ns = token_bucket_peek(&bucket, amount);
		assert_true(token_bucket_reserve(&bucket, amount) == wait_ns);
		clock_sleep_ns(&clock.source, wait_ns);
		taken += amount;
	}
	/* One amount may have been let through ahead of what is owed for it. */
	assert_true(taken >= 500 * 20 - 160);
	assert_true(taken <= 500 * 20 + 160);
}

static void bucket_refills_while_idle_but_not_beyond(void **state)
{
	(void)state;
	struct fake_clock clock = { .source = { &fake_ops } };
	struct token_bucket bucket;
	token_bucket_init(&bucket, &clock.source, 60 * MIB, 8 * MIB);
	assert_true(token_bucket_reserve(&bucket, 8 * MIB) == 0);
	clock_sleep_ns(&clock.source, 3600 * NS_PER_S);
	assert_true(token_bucket_reserve(&bucket, 4 * MIB) == 0);
	assert_true(token_bucket_reserve(&bucket, 4 * MIB) == 0);
	int64_t wait_ns = token_bucket_reserve(&bucket, 6 * MIB);
	assert_true(wait_ns == 100 * NS_PER_MS);
	/* Reservations queue up. */
	wait_ns = token_bucket_reserve(&bucket, 6 * MIB);
	assert_true(wait_ns == 200 * NS_PER_MS);
	/* More than the burst merely waits until the bucket is full. */
	clock_sleep_ns(&clock.source, 3600 * NS_PER_S);
	assert_true(token_bucket_reserve(&bucket, 600 * MIB) == 0);
	assert_true(token_bucket_peek(&bucket, 1) > 9 * NS_PER_S);
}

static void bucket_without_rate_lets_through(void **state)
{
	(void)state;
	struct fake_clock clock = { .source = { &fake_ops } };
	struct token_bucket bucket;
	token_bucket_init(&bucket, &clock.source, 0, 0);
	for (int i = 0; i < 10; i++)
		assert_true(token_bucket_reserve(&bucket, UINT64_MAX) == 0);
	token_bucket_set_rate(&bucket, 1, 1);
	for (int i = 0; i < 10; i++)
		assert_true(token_bucket_reserve(&bucket, UINT64_MAX) >= 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waits_stay_below_a_doubling_ceiling),
		cmocka_unit_test(retry_after_is_a_floor),
		cmocka_unit_test(time_ends_it_too),
		cmocka_unit_test(retry_after_reads_seconds_and_dates),
		cmocka_unit_test(bucket_keeps_the_rate),
		cmocka_unit_test(bucket_refills_while_idle_but_not_beyond),
		cmocka_unit_test(bucket_without_rate_lets_through),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
