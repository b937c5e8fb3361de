/*
 * What is remembered of an agent's disks, when two threads write it down at once: a session that
 * has compared a disk, and an operator who wants it compared again. What ends up on the disk is
 * what was true last. And the time of a point, of which agents may tell anything.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "replicator/ingest_internal.h"

#define OTHER_MS 300 /* how long a first writer is held up so that a second one may pass it */

struct fixture {
	struct io io; /* files whose renaming is held up once */
	struct io_ops ops;
	struct registry registry;
	struct ingest *ingest;
	struct ingest_machine *machine;
	char directory[64];
	/* under lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool hold_up, held, other_renamed;
};

static int rename_held_up(struct io *io, const char *from, const char *to)
{
	struct fixture *f = CONTAINER_OF(io, struct fixture, io);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += OTHER_MS * NS_PER_MS;
	until.tv_sec += until.tv_nsec / NS_PER_S;
	until.tv_nsec %= NS_PER_S;
	pthread_mutex_lock(&f->lock);
	bool first = f->hold_up;
	f->hold_up = false;
	if (first) {
		f->held = true;
		pthread_cond_broadcast(&f->changed);
		while (!f->other_renamed &&
			pthread_cond_timedwait(&f->changed, &f->lock, &until) == 0)
			;
	}
	pthread_mutex_unlock(&f->lock);
	int r = io_rename(io_posix(), from, to);
	pthread_mutex_lock(&f->lock);
	if (!first)
		f->other_renamed = true;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	assert_non_null(f);
	f->ops = *io_posix()->ops;
	f->ops.rename = rename_held_up;
	f->io.ops = &f->ops;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	strcpy(f->directory, "/tmp/landfall-ingest-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	pthread_mutex_init(&f->registry.lock, NULL);
	f->registry.io = &f->io;
	f->registry.state_dir = f->directory;
	assert_int_equal(ingest_new(&f->registry, NULL, &f->ingest), 0);
	pthread_mutex_lock(&f->ingest->lock);
	f->machine = ingest_find_machine(f->ingest, "web");
	assert_non_null(f->machine);
	f->machine->disks = calloc(1, sizeof(*f->machine->disks));
	assert_non_null(f->machine->disks);
	f->machine->disks[0] = (struct ingest_disk){ .id = "root",
		.identity = "serial",
		.incarnation = 7,
		.cursor = 3,
		.whole = true,
		.bytes = MIB };
	f->machine->disk_count = 1;
	f->machine->loaded = true;
	pthread_mutex_unlock(&f->ingest->lock);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char path[96];
	ingest_state_remove(f->ingest, "web");
	ingest_free(f->ingest);
	snprintf(path, sizeof(path), "%s/agents", f->directory);
	rmdir(path);
	assert_int_equal(rmdir(f->directory), 0);
	pthread_mutex_destroy(&f->registry.lock);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

static void *save_main(void *argument)
{
	struct fixture *f = argument;
	return (void *)(intptr_t)ingest_state_save(f->ingest, f->machine, NULL);
}

static void load_again(struct fixture *f)
{
	f->machine->loaded = false;
	assert_int_equal(ingest_state_load(f->ingest, f->machine), 0);
	assert_int_equal(f->machine->disk_count, 1);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(ingest_state_save(f->ingest, f->machine, NULL), 0);
	load_again(f);
	const struct ingest_disk *disk = &f->machine->disks[0];
	assert_string_equal(disk->id, "root");
	assert_string_equal(disk->identity, "serial");
	assert_true(disk->whole);
	assert_int_equal(disk->incarnation, 7);
	assert_int_equal(disk->cursor, 3);
	assert_int_equal(disk->bytes, MIB);
}

/* The session writes "whole" and is held up; meanwhile the operator wants a comparison. */
static void test_last_truth_stays(void **state)
{
	struct fixture *f = *state;
	pthread_t session;
	void *result;
	f->hold_up = true;
	assert_int_equal(pthread_create(&session, NULL, save_main, f), 0);
	pthread_mutex_lock(&f->lock);
	while (!f->held)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
	assert_int_equal(ingest_resync(f->ingest, "web", NULL, NULL), 0);
	assert_int_equal(pthread_join(session, &result), 0);
	assert_int_equal((intptr_t)result, 0);
	load_again(f);
	assert_false(f->machine->disks[0].whole);
	assert_int_equal(f->machine->disks[0].cursor, 0);
}

/* Agents' clocks may be wrong, or an agent may lie: a point is of the time of its cut. */
static void test_time_of_a_cut(void **state)
{
	(void)state;
	assert_int_equal(ingest_cut_time(150, 100, 200), 150);
	assert_int_equal(ingest_cut_time(INT64_MAX, 100, 200), 200);
	assert_int_equal(ingest_cut_time(INT64_MIN, 100, 200), 100);
	assert_int_equal(ingest_cut_time(0, 100, 200), 100);
	/* Our own clock was set back meanwhile. */
	assert_int_equal(ingest_cut_time(150, 100, 50), 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_last_truth_stays, set_up, tear_down),
		cmocka_unit_test(test_time_of_a_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
