/*
 * replicator/backoff.c: a call that is tried again ends in time, however each try ends.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdatomic.h>

#include "common/bytes.h"
#include "replicator/backoff.h"
#include "tests/sim/clock_sim.h"

struct fixture {
	struct clock_sim clock;
	atomic_bool stop;
	unsigned tries;
};

/* Tries that take `each_ns` and end as `r`, until no more are begun; how long it took in all. */
static int64_t try_all(struct fixture *f, int r, int64_t each_ns)
{
	const struct blob_store store = { .clock = &f->clock.source, .stops = { NULL, &f->stop } };
	struct blob_error error = { 0 };
	struct backoff backoff;
	int64_t begun_ns = clock_monotonic_ns(&f->clock.source);
	f->tries = 0;
	backoff_start(&backoff, &store, NULL);
	do {
		f->tries++;
		clock_sim_advance(&f->clock, each_ns);
	} while (backoff_again(&backoff, r, &error));
	return clock_monotonic_ns(&f->clock.source) - begun_ns;
}

static void setup(struct fixture *f)
{
	*f = (struct fixture){ 0 };
	clock_sim_init(&f->clock);
}

static void test_reads_that_stall_end_within_half_a_minute_or_so(void **state)
{
	struct fixture f;
	(void)state;
	setup(&f);
	for (unsigned i = 0; i < 100; i++) {
		assert_true(try_all(&f, -ETIMEDOUT, 15 * NS_PER_S) <= 31 * NS_PER_S);
		assert_int_equal(f.tries, 2);
	}
}

static void test_what_failed_slowly_is_tried_once_more(void **state)
{
	struct fixture f;
	(void)state;
	setup(&f);
	assert_true(try_all(&f, -ETIMEDOUT, 60 * NS_PER_S) <= 121 * NS_PER_S);
	assert_int_equal(f.tries, 2);
}

static void test_refusals_are_bridged_for_half_a_minute(void **state)
{
	struct fixture f;
	(void)state;
	setup(&f);
	for (unsigned i = 0; i < 100; i++) {
		int64_t took_ns = try_all(&f, -ECONNREFUSED, NS_PER_MS);
		assert_true(took_ns <= BACKOFF_TOTAL_NS + NS_PER_MS);
		assert_true(took_ns >= BACKOFF_TOTAL_NS - 4 * NS_PER_S);
		assert_true(f.tries >= 8);
	}
}

static void test_what_no_later_try_mends_is_tried_once(void **state)
{
	struct fixture f;
	(void)state;
	setup(&f);
	assert_true(try_all(&f, -ENOENT, NS_PER_MS) <= NS_PER_MS);
	assert_int_equal(f.tries, 1);
	(void)try_all(&f, -ECANCELED, NS_PER_MS);
	assert_int_equal(f.tries, 1);
}

static void test_a_stores_stop_ends_it(void **state)
{
	struct fixture f;
	(void)state;
	setup(&f);
	atomic_store(&f.stop, true);
	assert_true(try_all(&f, -ECONNREFUSED, NS_PER_MS) <= NS_PER_MS);
	assert_int_equal(f.tries, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_that_stall_end_within_half_a_minute_or_so),
		cmocka_unit_test(test_what_failed_slowly_is_tried_once_more),
		cmocka_unit_test(test_refusals_are_bridged_for_half_a_minute),
		cmocka_unit_test(test_what_no_later_try_mends_is_tried_once),
		cmocka_unit_test(test_a_stores_stop_ends_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
