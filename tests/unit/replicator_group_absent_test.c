/*
 * replicator/group_absent.c on a disk that refuses the group's state file for a while: no point is
 * sealed whose absences are not kept, however often it is asked for, and what could not be kept is
 * kept by the next try.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/log.h"
#include "replicator/group.h"

struct fixture {
	struct io io;
	struct io_ops ops;
	atomic_bool refuse;
	char directory[64], journal[96], state[96];
	struct group *group;
	uint16_t disks[2];
};

static int open_file(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	struct fixture *x = CONTAINER_OF(io, struct fixture, io);
	if ((flags & IO_WRITE) && strstr(path, "/state.json") && atomic_load(&x->refuse))
		return -EIO;
	return io_posix()->ops->open(io, path, flags, ret_file);
}

static void open_group(struct fixture *x)
{
	struct error error = { 0 };
	struct history_disk disks[2];
	struct group_options options = { .io = &x->io,
		.clock = clock_system(),
		.name = "web",
		.directory = x->journal,
		.state_path = x->state,
		.appliance_name = "here",
		.id = { { 1 } },
		.appliance = { { 2 } },
		.journal_bytes = 64 * MIB,
		.settings = "{}",
		.source_seals = true };
	policy_default(&options.policy);
	options.policy.point_interval_s = 0;
	assert_int_equal(group_new(&options, &error, &x->group), 0);
	assert_int_equal(group_add_disk(x->group, "web/root", 16 * MIB, &error), 0);
	assert_int_equal(group_add_disk(x->group, "web/data", 16 * MIB, &error), 0);
	assert_int_equal(history_disks(group_history(x->group), disks, 2), 2);
	for (unsigned i = 0; i < 2; i++)
		x->disks[i] = disks[i].id;
}

static void reopen_group(struct fixture *x)
{
	group_free(x->group);
	x->group = NULL;
	open_group(x);
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	x->ops = *io_posix()->ops;
	x->ops.open = open_file;
	x->io.ops = &x->ops;
	snprintf(x->directory, sizeof(x->directory), "/tmp/group_absent_XXXXXX");
	assert_non_null(mkdtemp(x->directory));
	snprintf(x->journal, sizeof(x->journal), "%s/journal", x->directory);
	snprintf(x->state, sizeof(x->state), "%s/state.json", x->directory);
	log_set_level((enum log_level)0);
	open_group(x);
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

static int set_absent(struct fixture *x, unsigned count)
{
	struct error error = { 0 };
	int r = group_set_absences(x->group, x->disks, count, &error);
	assert_int_equal(error.code, r);
	return r;
}

/* A point that does not show the first `absent` disks. */
static uint64_t seal(struct fixture *x, unsigned absent)
{
	struct error error = { 0 };
	struct seal seal = { .kind = POINT_CRASH };
	uint64_t number = 0;
	assert_int_equal(set_absent(x, absent), 0);
	assert_int_equal(group_seal(x->group, &seal, NULL, false, &error, &number), 0);
	return number;
}

static bool hides(struct fixture *x, uint64_t number, unsigned disk)
{
	return history_point_hides(group_history(x->group), number, x->disks[disk]);
}

static void what_was_not_kept_is_no_leave_to_seal(void **state)
{
	struct fixture *x = *state;
	uint64_t before = seal(x, 0);
	atomic_store(&x->refuse, true);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(set_absent(x, 1), -EIO);
	atomic_store(&x->refuse, false);
	uint64_t number = seal(x, 1);
	for (unsigned again = 0; again < 2; again++) {
		assert_false(hides(x, before, 0));
		assert_true(hides(x, number, 0));
		assert_false(hides(x, number, 1));
		reopen_group(x);
	}
}

/* It came back before it could be kept that it was away. */
static void what_is_back_by_then_is_shown(void **state)
{
	struct fixture *x = *state;
	(void)seal(x, 0);
	atomic_store(&x->refuse, true);
	assert_int_equal(set_absent(x, 1), -EIO);
	atomic_store(&x->refuse, false);
	uint64_t number = seal(x, 0);
	for (unsigned again = 0; again < 2; again++) {
		assert_false(hides(x, number, 0));
		assert_false(group_is_absent(x->group, x->disks[0]));
		reopen_group(x);
	}
}

/* Too much is hidden at worst, which is no reason not to seal, and not for ever. */
static void an_end_is_kept_by_the_next_seal(void **state)
{
	struct fixture *x = *state;
	uint64_t away = seal(x, 2);
	atomic_store(&x->refuse, true);
	uint64_t back = seal(x, 1), still = seal(x, 1);
	assert_int_equal(still, back + 1);
	atomic_store(&x->refuse, false);
	uint64_t last = seal(x, 1);
	for (unsigned again = 0; again < 2; again++) {
		assert_true(hides(x, away, 0) && hides(x, away, 1));
		for (uint64_t n = back; n <= last; n++) {
			assert_true(hides(x, n, 0));
			assert_false(hides(x, n, 1));
		}
		reopen_group(x);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_was_not_kept_is_no_leave_to_seal),
		TEST(what_is_back_by_then_is_shown),
		TEST(an_end_is_kept_by_the_next_seal),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
