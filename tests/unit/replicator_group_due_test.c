/*
 * replicator/group_due.c, in a group without a vault: a group whose source seals is not sealed by
 * its timer, tells when a point is due, and takes time and bookmarks from the source.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/log.h"
#include "replicator/group.h"

#define SOON_MS 10000u

struct fixture {
	char directory[64], journal[96], state[96];
	struct group *group;
	uint16_t disk;
	atomic_bool stop;
	bool source_unseen;
};

static void open_group(struct fixture *x, bool source_seals, int64_t interval_s)
{
	struct error error = { 0 };
	struct history_disk disk;
	struct group_options options = { .io = io_posix(),
		.clock = clock_system(),
		.name = "web",
		.directory = x->journal,
		.state_path = x->state,
		.appliance_name = "here",
		.id = { { 1 } },
		.appliance = { { 2 } },
		.journal_bytes = 64 * MIB,
		.settings = "{}",
		.source_seals = source_seals,
		.source_unseen = x->source_unseen };
	policy_default(&options.policy);
	options.policy.point_interval_s = interval_s;
	assert_int_equal(group_new(&options, &error, &x->group), 0);
	assert_int_equal(group_add_disk(x->group, "web/root", 16 * MIB, &error), 0);
	assert_int_equal(history_disks(group_history(x->group), &disk, 1), 1);
	x->disk = disk.id;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	snprintf(x->directory, sizeof(x->directory), "/tmp/group_due_XXXXXX");
	assert_non_null(mkdtemp(x->directory));
	snprintf(x->journal, sizeof(x->journal), "%s/journal", x->directory);
	snprintf(x->state, sizeof(x->state), "%s/state.json", x->directory);
	log_set_level((enum log_level)0);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	char command[128];
	group_free(x->group);
	snprintf(command, sizeof(command), "rm -rf '%s'", x->directory);
	assert_int_equal(system(command), 0);
	free(x);
	return 0;
}

static void change(struct fixture *x)
{
	uint8_t data[512] = { 1 };
	uint64_t lsn;
	struct committer *committer = group_committer(x->group);
	assert_int_equal(committer_write(committer, x->disk, 0, 1, data, &lsn), 0);
	assert_int_equal(committer_wait(committer, lsn), 0);
}

static uint64_t newest(struct fixture *x)
{
	struct point point = { 0 };
	(void)history_point_newest(group_history(x->group), 0, INT64_MAX, &point);
	return point.number;
}

static void timer_does_not_seal_for_a_source(void **state)
{
	struct fixture *x = *state;
	struct group_due due = { 0 };
	uint64_t number;
	open_group(x, true, 1);
	assert_true(group_source_seals(x->group));
	change(x);
	assert_int_equal(group_wait_due(x->group, SOON_MS, &x->stop, &due), 0);
	assert_true(due.due);
	assert_int_equal(due.kind, POINT_CRASH);
	/* The timer ticks five times a second; it has seen that the interval is over. */
	clock_sleep_ns(clock_system(), NS_PER_S);
	assert_int_equal(newest(x), 0);
	group_point_due(x->group, &due);
	assert_true(due.due);

	struct seal_bookmark mark = { .disk = x->disk, .data = "sixteen bytes.." };
	struct seal seal = {
		.time_ns = 12345, .kind = POINT_CRASH, .bookmarks = &mark, .bookmark_count = 1
	};
	struct point point;
	uint8_t found[HISTORY_BOOKMARK_BYTES];
	assert_int_equal(group_seal(x->group, &seal, &due, false, NULL, &number), 0);
	assert_int_equal(history_point(group_history(x->group), number, &point), 0);
	assert_int_equal(point.time_ns, 12345);
	assert_int_equal(history_bookmark(group_history(x->group), x->disk, found), 0);
	assert_memory_equal(found, mark.data, sizeof(found));
	group_point_due(x->group, &due);
	assert_false(due.due);
}

static void seal_at(struct fixture *x, int64_t time_ns)
{
	struct group_due due;
	uint64_t number;
	struct seal seal = { .time_ns = time_ns, .kind = POINT_CRASH };
	change(x);
	group_point_due(x->group, &due);
	assert_int_equal(group_seal(x->group, &seal, &due, false, NULL, &number), 0);
}

static bool is_due(struct fixture *x)
{
	struct group_due due;
	group_point_due(x->group, &due);
	return due.due;
}

static void a_start_begins_no_interval_anew(void **state)
{
	struct fixture *x = *state;
	const int64_t hour_ns = 3600 * NS_PER_S, now = clock_realtime_ns(clock_system());
	open_group(x, true, 3600);
	assert_false(is_due(x));
	seal_at(x, now - hour_ns - NS_PER_S);
	assert_false(is_due(x)); /* it was sealed now, whatever it shows */
	group_free(x->group);
	open_group(x, true, 3600);
	assert_true(is_due(x));
	seal_at(x, now - hour_ns / 2);
	group_free(x->group);
	open_group(x, true, 3600);
	assert_false(is_due(x));
	/* A clock that was set back meanwhile. */
	seal_at(x, now + 2 * hour_ns);
	group_free(x->group);
	open_group(x, true, 3600);
	assert_false(is_due(x));
}

static void what_is_seen_by_points_alone_has_its_first_at_once(void **state)
{
	struct fixture *x = *state;
	x->source_unseen = true;
	open_group(x, true, 3600);
	assert_true(is_due(x));
}

static void timer_seals_for_others(void **state)
{
	struct fixture *x = *state;
	struct group_due due;
	open_group(x, false, 1);
	assert_false(group_source_seals(x->group));
	change(x);
	for (unsigned ms = 0; newest(x) == 0 && ms < SOON_MS; ms += 20)
		clock_sleep_ns(clock_system(), 20 * NS_PER_MS);
	assert_int_equal(newest(x), 1);
	group_point_due(x->group, &due);
	assert_false(due.due);
}

static void who_asks_is_answered(void **state)
{
	struct fixture *x = *state;
	struct group_due due = { 0 }, early;
	struct error error = { 0 };
	struct seal seal = { .kind = POINT_APPLICATION };
	uint64_t first, second, number, told;
	open_group(x, true, 0);
	assert_int_equal(group_wait_due(x->group, 20, &x->stop, &due), -ETIMEDOUT);
	assert_int_equal(group_ask_point(x->group, POINT_APPLICATION, &error, &first), 0);
	assert_int_equal(group_wait_due(x->group, SOON_MS, &x->stop, &early), 0);
	assert_int_equal(early.kind, POINT_APPLICATION);
	assert_int_equal(group_wait_request(x->group, first, POINT_APPLICATION, 20, &error, &told),
		-ETIMEDOUT);

	/* The source has begun with the first when the second is asked for. */
	assert_int_equal(group_ask_point(x->group, POINT_CRASH, &error, &second), 0);
	change(x);
	assert_int_equal(group_seal(x->group, &seal, &early, false, &error, &number), 0);
	assert_int_equal(
		group_wait_request(x->group, first, POINT_APPLICATION, SOON_MS, &error, &told), 0);
	assert_int_equal(told, number);
	assert_int_equal(
		group_wait_request(x->group, second, POINT_CRASH, 20, &error, &told), -ETIMEDOUT);
	group_point_due(x->group, &due);
	assert_true(due.due);

	/* A point of less than what was asked for is no answer; that nothing changed is one. */
	assert_int_equal(group_ask_point(x->group, POINT_APPLICATION, &error, &second), 0);
	group_point_due(x->group, &due);
	assert_int_equal(due.kind, POINT_APPLICATION);
	seal.kind = POINT_CRASH;
	assert_int_equal(group_seal(x->group, &seal, &due, false, &error, &number), 0);
	assert_int_equal(
		group_wait_request(x->group, second, POINT_CRASH, 20, &error, &told), -ETIMEDOUT);
	group_point_unchanged(x->group, &due);
	assert_int_equal(
		group_wait_request(x->group, second, POINT_CRASH, SOON_MS, &error, &told), 0);
	assert_int_equal(told, number);
}

static void what_is_no_better_point_is_told(void **state)
{
	struct fixture *x = *state;
	struct group_due due = { 0 };
	struct error error = { 0 }, why = { 0 };
	struct seal seal = { .kind = POINT_CRASH };
	uint64_t plain, better, number, told = 0;
	open_group(x, true, 0);
	error_set(&why, -EIO, "mend it", "machine web: the command ended with 3");
	assert_int_equal(group_ask_point(x->group, POINT_APPLICATION, &error, &better), 0);
	assert_int_equal(group_ask_point(x->group, POINT_CRASH, &error, &plain), 0);
	group_point_due(x->group, &due);
	assert_int_equal(due.kind, POINT_APPLICATION);
	change(x);
	assert_int_equal(group_seal(x->group, &seal, &due, false, &error, &number), 0);
	group_app_failed(x->group, &due, &why);
	assert_int_equal(
		group_wait_request(x->group, plain, POINT_CRASH, SOON_MS, &error, &told), 0);
	assert_int_equal(told, number);
	assert_int_equal(
		group_wait_request(x->group, better, POINT_APPLICATION, SOON_MS, &error, &told),
		-EIO);
	assert_non_null(strstr(error.message, "ended with 3"));
	assert_string_equal(error.mend, "mend it");
	group_point_due(x->group, &due);
	assert_false(due.due);

	/* The next one is judged by itself. */
	assert_int_equal(group_ask_point(x->group, POINT_APPLICATION, &error, &better), 0);
	group_point_due(x->group, &due);
	assert_int_equal(due.kind, POINT_APPLICATION);
	change(x);
	seal.kind = POINT_APPLICATION;
	assert_int_equal(group_seal(x->group, &seal, &due, false, &error, &number), 0);
	assert_int_equal(
		group_wait_request(x->group, better, POINT_APPLICATION, SOON_MS, &error, &told), 0);
	assert_int_equal(told, number);
}

static void nothing_changed_is_an_answer(void **state)
{
	struct fixture *x = *state;
	struct group_due due = { 0 };
	struct error error = { 0 };
	struct seal seal = { .kind = POINT_CRASH };
	uint64_t request, number, told;
	open_group(x, true, 0);
	assert_int_equal(group_ask_point(x->group, POINT_CRASH, &error, &request), 0);
	group_point_due(x->group, &due);
	assert_true(due.due);
	group_point_unchanged(x->group, &due);
	assert_int_equal(
		group_wait_request(x->group, request, POINT_CRASH, 0, &error, &told), -ENODATA);
	change(x);
	assert_int_equal(group_seal(x->group, &seal, NULL, false, &error, &number), 0);
	assert_int_equal(group_ask_point(x->group, POINT_CRASH, &error, &request), 0);
	group_point_due(x->group, &due);
	group_point_unchanged(x->group, &due);
	assert_int_equal(group_wait_request(x->group, request, POINT_CRASH, 0, &error, &told), 0);
	assert_int_equal(told, number);
	group_pause(x->group, true);
	assert_int_equal(group_ask_point(x->group, POINT_CRASH, &error, &request), -EBUSY);
}

struct waiter {
	struct group *group;
	const atomic_bool *stop;
	int result;
};

static void *wait_due(void *context)
{
	struct waiter *waiter = context;
	struct group_due due;
	waiter->result = group_wait_due(waiter->group, 60000, waiter->stop, &due);
	return NULL;
}

static void end_wakes_who_waits(void **state)
{
	struct fixture *x = *state;
	pthread_t thread;
	open_group(x, true, 0);
	struct waiter waiter = { .group = x->group, .stop = &x->stop, .result = 1 };
	assert_int_equal(pthread_create(&thread, NULL, wait_due, &waiter), 0);
	group_begin_stop(x->group);
	pthread_join(thread, NULL);
	assert_int_equal(waiter.result, -ECANCELED);
}

static void whoever_is_to_stop_is_woken(void **state)
{
	struct fixture *x = *state;
	pthread_t thread;
	open_group(x, true, 0);
	struct waiter waiter = { .group = x->group, .stop = &x->stop, .result = 1 };
	int64_t began = clock_monotonic_ns(clock_system());
	assert_int_equal(pthread_create(&thread, NULL, wait_due, &waiter), 0);
	atomic_store(&x->stop, true);
	group_wake_due(x->group);
	pthread_join(thread, NULL);
	assert_int_equal(waiter.result, -ECANCELED);
	assert_true(clock_monotonic_ns(clock_system()) - began < 10 * NS_PER_S);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(timer_does_not_seal_for_a_source),
		TEST(a_start_begins_no_interval_anew),
		TEST(what_is_seen_by_points_alone_has_its_first_at_once),
		TEST(timer_seals_for_others),
		TEST(who_asks_is_answered),
		TEST(what_is_no_better_point_is_told),
		TEST(nothing_changed_is_an_answer),
		TEST(end_wakes_who_waits),
		TEST(whoever_is_to_stop_is_woken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
