/*
 * replicator/backpressure: the table by fill, and the sharing of the journals' room.
 */
#include "tests/unit/cmocka_common.h"

#include "common/bytes.h"
#include "common/rng.h"
#include "replicator/backpressure.h"

static struct backpressure_plan decide(double fill, uint64_t flush_bytes_per_s)
{
	struct backpressure_facts facts = { .limit_bytes = 100 * GIB,
		.flush_bytes_per_s = flush_bytes_per_s };
	facts.used_bytes = (uint64_t)(fill * (double)facts.limit_bytes + 0.5);
	struct backpressure_plan plan;
	backpressure_decide(&facts, &plan);
	return plan;
}

static void levels_begin_where_the_table_says(void **state)
{
	(void)state;
	static const struct {
		double fill;
		enum backpressure_level level;
	} cases[] = { { 0, BACKPRESSURE_NONE }, { 0.599, BACKPRESSURE_NONE },
		{ 0.601, BACKPRESSURE_TRIM }, { 0.799, BACKPRESSURE_TRIM },
		{ 0.801, BACKPRESSURE_DELAY }, { 0.919, BACKPRESSURE_DELAY },
		{ 0.921, BACKPRESSURE_THIN }, { 0.969, BACKPRESSURE_THIN },
		{ 0.971, BACKPRESSURE_FULL }, { 1.2, BACKPRESSURE_FULL } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct backpressure_plan plan = decide(cases[i].fill, 50 * MIB);
		assert_int_equal(plan.level, cases[i].level);
		assert_int_equal(plan.write_bytes_per_s > 0, plan.level >= BACKPRESSURE_DELAY);
		assert_int_equal(
			plan.trim_target_bytes, plan.level == BACKPRESSURE_NONE ? 0 : 60 * GIB);
	}
	/* No room at all is full, not a division by zero. */
	struct backpressure_plan plan;
	backpressure_decide(&(struct backpressure_facts){ 0 }, &plan);
	assert_int_equal(plan.level, BACKPRESSURE_FULL);
}

static void delays_rise_and_match_the_flush_rate(void **state)
{
	(void)state;
	const uint64_t flush = 400 * MIB;
	assert_true(decide(0.8001, flush).write_bytes_per_s > flush * 39 / 10);
	assert_true(decide(0.9199, flush).write_bytes_per_s < flush * 11 / 10);
	assert_true(decide(0.9199, flush).write_bytes_per_s > flush * 9 / 10);
	assert_true(decide(0.9699, flush).write_bytes_per_s < flush * 3 / 10);
	for (unsigned f = 0; f < 2; f++) {
		uint64_t before = UINT64_MAX;
		for (double fill = 0.801; fill < 0.97; fill += 0.001) {
			uint64_t rate = decide(fill, f * flush).write_bytes_per_s;
			assert_true(rate <= before);
			before = rate;
		}
	}
	/* Nothing flows: what is left lasts for minutes, and nothing is ever refused by a rate of
	 * zero, which would mean no limit. */
	assert_in_range(decide(0.85, 0).write_bytes_per_s, 30 * MIB, 60 * MIB);
	assert_true(decide(0.9699999, 0).write_bytes_per_s >= 64 * KIB);
}

static void a_lone_group_has_all(void **state)
{
	(void)state;
	uint64_t limit;
	for (uint64_t need = 0; need <= 12; need += 3) {
		backpressure_share(10 * GIB, &(uint64_t){ need * GIB }, 1, &limit);
		assert_in_range(limit, 10 * GIB - 2, 10 * GIB);
	}
	backpressure_share(10 * GIB, NULL, 0, NULL);
}

static void a_noisy_group_leaves_the_others_their_part(void **state)
{
	(void)state;
	uint64_t limits[4], need[4] = { 0 };
	/* It takes whatever it is given, again and again. */
	for (unsigned round = 0; round < 200; round++) {
		backpressure_share(80 * GIB, need, 4, limits);
		need[0] = limits[0];
	}
	for (unsigned i = 1; i < 4; i++)
		assert_true(limits[i] >= 10 * GIB - 4);
	assert_true(limits[0] > 45 * GIB);
	/* What it does not need any more comes back. */
	need[0] = 0;
	backpressure_share(80 * GIB, need, 4, limits);
	for (unsigned i = 0; i < 4; i++)
		assert_in_range(limits[i], 20 * GIB - 4, 20 * GIB);
}

static void limits_never_exceed_the_total(void **state)
{
	(void)state;
	struct rng rng;
	rng_seed(&rng, 7);
	for (unsigned round = 0; round < 2000; round++) {
		uint64_t need[64], limits[64], sum = 0;
		uint64_t total = rng_below(&rng, 1ull << (1 + rng_below(&rng, 50)));
		unsigned count = 1 + (unsigned)rng_below(&rng, 64);
		for (unsigned i = 0; i < count; i++)
			need[i] = rng_below(&rng, 1ull << (1 + rng_below(&rng, 50)));
		backpressure_share(total, need, count, limits);
		for (unsigned i = 0; i < count; i++)
			sum += limits[i];
		assert_true(sum <= total);
		assert_true(sum + 2 * count + total / 1000000 >= total);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_begin_where_the_table_says),
		cmocka_unit_test(delays_rise_and_match_the_flush_rate),
		cmocka_unit_test(a_lone_group_has_all),
		cmocka_unit_test(a_noisy_group_leaves_the_others_their_part),
		cmocka_unit_test(limits_never_exceed_the_total),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
