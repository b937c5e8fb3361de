/*
 * common/renewal: when something is fetched anew, by whom, and who waits, with a clock that only
 * the test moves.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/cleanup.h"
#include "common/renewal.h"
#include "tests/sim/clock_sim.h"

#define LIFE_NS (3600 * NS_PER_S)

/* What is renewed: a number. */
struct numbers {
	struct renewal renewal;
	struct clock_sim clock;
	int result;        /* of the next fetch */
	int64_t life_ns;   /* of what it fetches; 0: for ever */
	int next, current; /* the latter under the lock */
	bool patient;      /* the last fetch was */
	atomic_int fetches;
	atomic_bool blocked; /* a fetch waits while this is set */
};

static int fetch(void *owner, const struct http *behalf, bool patient, int64_t *ret_expires_ns,
	struct http_error *ret_error)
{
	struct numbers *n = owner;
	(void)behalf;
	n->patient = patient;
	int count = atomic_fetch_add(&n->fetches, 1) + 1;
	while (atomic_load(&n->blocked))
		sched_yield();
	if (n->result < 0)
		return http_error_set(ret_error, n->result, "no more of them");
	n->next = count;
	*ret_expires_ns = n->life_ns ? n->clock.monotonic_ns + n->life_ns : INT64_MAX;
	return 0;
}

static void replace(void *owner)
{
	struct numbers *n = owner;
	n->current = n->next;
}

static const struct renewal_ops ops = { fetch, replace };

static int set_up(void **state)
{
	struct numbers *n = calloc(1, sizeof(*n));
	if (!n)
		return -1;
	clock_sim_init(&n->clock);
	n->life_ns = LIFE_NS;
	renewal_init(&n->renewal, &ops, n, &n->clock.source);
	*state = n;
	return 0;
}

static int tear_down(void **state)
{
	struct numbers *n = *state;
	renewal_destroy(&n->renewal);
	free(n);
	return 0;
}

/* The number, or -errno. */
static int get(struct numbers *n, const struct http *behalf)
{
	struct http_error error = { 0 };
	SCOPED_LOCK(&n->renewal.lock);
	int r = renewal_make_valid(&n->renewal, behalf, &error);
	assert_int_equal(error.error, r);
	return r < 0 ? r : n->current;
}

static void it_is_renewed_ahead_of_its_end(void **state)
{
	struct numbers *n = *state;
	assert_int_equal(get(n, NULL), 1);
	assert_true(n->patient);
	clock_sim_advance(&n->clock, LIFE_NS - 301 * NS_PER_S);
	assert_int_equal(get(n, NULL), 1);
	clock_sim_advance(&n->clock, NS_PER_S);
	assert_int_equal(get(n, NULL), 2);
	assert_false(n->patient);
	n->life_ns = 100 * NS_PER_S; /* short-lived: at half its life */
	clock_sim_advance(&n->clock, LIFE_NS - 300 * NS_PER_S);
	assert_int_equal(get(n, NULL), 3);
	clock_sim_advance(&n->clock, 49 * NS_PER_S);
	assert_int_equal(get(n, NULL), 3);
	clock_sim_advance(&n->clock, NS_PER_S);
	n->life_ns = 0;
	assert_int_equal(get(n, NULL), 4);
	clock_sim_advance(&n->clock, 1000 * LIFE_NS);
	assert_int_equal(get(n, NULL), 4);
}

static void a_failed_renewal_costs_nothing_while_the_old_one_is_valid(void **state)
{
	struct numbers *n = *state;
	assert_int_equal(get(n, NULL), 1);
	n->result = -EIO;
	clock_sim_advance(&n->clock, LIFE_NS - 200 * NS_PER_S);
	assert_int_equal(get(n, NULL), 1);
	assert_int_equal(n->fetches, 2);
	clock_sim_advance(&n->clock, 29 * NS_PER_S);
	assert_int_equal(get(n, NULL), 1);
	assert_int_equal(n->fetches, 2); /* not at every call */
	clock_sim_advance(&n->clock, NS_PER_S);
	assert_int_equal(get(n, NULL), 1);
	assert_int_equal(n->fetches, 3);
	clock_sim_advance(&n->clock, 170 * NS_PER_S);
	assert_int_equal(get(n, NULL), -EIO); /* it is over */
	assert_true(n->patient);
	n->result = 0;
	assert_int_equal(get(n, NULL), 5);
}

static void what_is_dropped_is_not_used_again(void **state)
{
	struct numbers *n = *state;
	assert_int_equal(get(n, NULL), 1);
	pthread_mutex_lock(&n->renewal.lock);
	n->renewal.held = false;
	pthread_mutex_unlock(&n->renewal.lock);
	n->result = -EACCES;
	assert_int_equal(get(n, NULL), -EACCES);
	n->result = 0;
	assert_int_equal(get(n, NULL), 3);
}

struct asker {
	struct numbers *n;
	const struct http *behalf;
	int got;
};

static void *ask(void *context)
{
	struct asker *asker = context;
	asker->got = get(asker->n, asker->behalf);
	return NULL;
}

static void wait_for_fetches(struct numbers *n, int count)
{
	while (atomic_load(&n->fetches) < count)
		sched_yield();
}

static void others_go_on_with_the_old_one(void **state)
{
	struct numbers *n = *state;
	struct asker asker = { .n = n };
	pthread_t thread;
	assert_int_equal(get(n, NULL), 1);
	clock_sim_advance(&n->clock, LIFE_NS - 100 * NS_PER_S);
	n->blocked = true;
	assert_int_equal(pthread_create(&thread, NULL, ask, &asker), 0);
	wait_for_fetches(n, 2);
	assert_int_equal(get(n, NULL), 1);
	n->blocked = false;
	pthread_join(thread, NULL);
	assert_int_equal(asker.got, 2);
	assert_int_equal(n->fetches, 2);
}

static void others_wait_if_there_is_none_until_they_are_stopped(void **state)
{
	struct numbers *n = *state;
	atomic_bool stop = false;
	struct http *http = NULL;
	struct http_options options = { .stop = { &stop } };
	assert_int_equal(http_new(&options, &http, NULL), 0);
	struct asker fetcher = { .n = n }, waiter = { .n = n }, stopped = { n, http, 0 };
	pthread_t threads[3];
	n->blocked = true;
	assert_int_equal(pthread_create(&threads[0], NULL, ask, &fetcher), 0);
	wait_for_fetches(n, 1);
	assert_int_equal(pthread_create(&threads[1], NULL, ask, &waiter), 0);
	assert_int_equal(pthread_create(&threads[2], NULL, ask, &stopped), 0);
	stop = true;
	pthread_join(threads[2], NULL);
	assert_int_equal(stopped.got, -ECANCELED);
	n->blocked = false;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	assert_int_equal(fetcher.got, 1);
	assert_int_equal(waiter.got, 1);
	assert_int_equal(n->fetches, 1);
	assert_int_equal(get(n, http), 1); /* nothing to wait for */
	http_free(http);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(it_is_renewed_ahead_of_its_end),
		TEST(a_failed_renewal_costs_nothing_while_the_old_one_is_valid),
		TEST(what_is_dropped_is_not_used_again),
		TEST(others_go_on_with_the_old_one),
		TEST(others_wait_if_there_is_none_until_they_are_stopped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
