/*
 * fs/committer.c over a real history: what is waited for is durable, many wait for one commit,
 * what nobody waits for is committed soon, the gate is asked, and a failed commit ends it all.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/cleanup.h"
#include "fs/committer.h"
#include "fs/stack.h"
#include "tests/unit/history_fixture.h"

struct gated {
	atomic_int answer;
	atomic_ullong bytes;
	struct history *history;
	struct committer *seals_with;
	unsigned waits, gives_room_at; /* the wait that ends with room; 0: none does */
};

static int gate_admit(void *context, uint64_t bytes)
{
	struct gated *gated = context;
	atomic_fetch_add(&gated->bytes, bytes);
	return atomic_load(&gated->answer);
}

#define ROOM_BYTES (64 * MIB)

static int gate_wait(void *context, uint64_t bytes)
{
	struct gated *gated = context;
	assert_true(bytes > 0);
	gated->waits++;
	if (gated->seals_with) {
		struct seal seal = { .kind = POINT_CRASH };
		uint64_t number;
		assert_int_equal(committer_seal(gated->seals_with, &seal, &number), 0);
	}
	if (gated->gives_room_at == 0)
		return -ENOSPC;
	if (gated->waits == gated->gives_room_at)
		history_set_limit(gated->history, ROOM_BYTES);
	return 0;
}

struct fixture {
	struct history_fixture h;
	struct gated gated;
	struct committer *committer;
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	fixture_open(&x->h);
	struct committer_gate gate = {
		.admit = gate_admit, .wait_for_room = gate_wait, .context = &x->gated
	};
	assert_int_equal(committer_new(x->h.history, &gate, &x->committer), 0);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	committer_free(x->committer);
	fixture_close(&x->h);
	free(x);
	return 0;
}

/* Ends this committer and begins another over what is on disk. */
static void reopen(struct fixture *x)
{
	committer_free(x->committer);
	fixture_reopen(&x->h);
	assert_int_equal(committer_new(x->h.history, NULL, &x->committer), 0);
}

static void check_filled(struct fixture *x, uint64_t lba, uint32_t sectors, uint8_t value)
{
	uint8_t *data = malloc(sectors * SECTOR_BYTES);
	assert_int_equal(history_read(x->h.history, x->h.disk, lba, sectors, data), 0);
	for (size_t i = 0; i < sectors * SECTOR_BYTES; i++)
		assert_int_equal(data[i], value);
	free(data);
}

static void waited_for_is_durable(void **state)
{
	struct fixture *x = *state;
	uint8_t data[4096];
	uint64_t lsn;
	for (unsigned i = 0; i < 50; i++) {
		memset(data, (int)i + 1, sizeof(data));
		assert_int_equal(committer_write(x->committer, x->h.disk, i * 8, 8, data, &lsn), 0);
		if (i % 2)
			assert_int_equal(committer_wait(x->committer, lsn), 0);
		else
			assert_int_equal(committer_sync(x->committer), 0);
		assert_true(history_durable_lsn(x->h.history) >= lsn);
	}
	reopen(x);
	for (unsigned i = 0; i < 50; i++)
		check_filled(x, i * 8, 8, (uint8_t)(i + 1));
}

static void await_durable(struct fixture *x, uint64_t lsn)
{
	for (int i = 0; history_durable_lsn(x->h.history) < lsn; i++) {
		assert_true(i < 5000);
		usleep(1000);
	}
}

static void unwaited_for_is_committed_soon(void **state)
{
	struct fixture *x = *state;
	uint8_t data[512] = { 1 };
	uint64_t lsn;
	for (int i = 0; i < 30; i++) {
		assert_int_equal(committer_write(x->committer, x->h.disk, 0, 1, data, &lsn), 0);
		await_durable(x, lsn);
		usleep(i * 200); /* finds the thread asleep, gathering and about to sleep */
	}
}

/* A last commit that nothing on disk proves could rot unseen. */
static void rest_proves_the_last_commit(void **state)
{
	struct fixture *x = *state;
	struct history_stats stats;
	uint8_t data[512] = { 1 };
	uint64_t lsn;
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 1, data, &lsn), 0);
	assert_int_equal(committer_wait(x->committer, lsn), 0);
	await_durable(x, lsn + 1);
	/* Once is enough, however often upkeep looks again. */
	committer_free(x->committer);
	x->committer = NULL;
	for (unsigned i = 0; i < 10; i++) {
		bool more;
		assert_int_equal(history_maintain(x->h.history, &more), 0);
		history_stats(x->h.history, &stats);
		assert_int_equal(stats.durable_lsn, lsn + 1);
	}
}

static void large_writes_are_cut(void **state)
{
	struct fixture *x = *state;
	const size_t n = 15 * MIB;
	uint8_t *data = malloc(n);
	uint64_t lsn;
	memset(data, 0x5a, n);
	assert_int_equal(
		committer_write(x->committer, x->h.disk, 3, n / SECTOR_BYTES, data, &lsn), 0);
	assert_int_equal(committer_wait(x->committer, lsn), 0);
	check_filled(x, 3, (uint32_t)(n / SECTOR_BYTES), 0x5a);
	assert_int_equal(
		committer_zero(x->committer, x->h.disk, 0, 16 * MIB / SECTOR_BYTES, &lsn), 0);
	reopen(x);
	check_filled(x, 0, 16 * MIB / SECTOR_BYTES, 0);
	free(data);
}

static void end_commits_what_is_staged(void **state)
{
	struct fixture *x = *state;
	uint8_t data[512];
	uint64_t lsn;
	memset(data, 9, sizeof(data));
	x->h.faulty.sync_delay_us = 3000;
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(committer_write(x->committer, x->h.disk, i, 1, data, &lsn), 0);
	reopen(x);
	check_filled(x, 0, 20, 9);
}

#define WRITERS 8
#define ROUNDS 40

struct writer {
	struct fixture *fixture;
	unsigned number;
	pthread_t thread;
	int result;
};

static void *write_and_wait(void *argument)
{
	struct writer *w = argument;
	struct committer *committer = w->fixture->committer;
	uint8_t data[512];
	for (unsigned i = 0; i < ROUNDS && w->result == 0; i++) {
		uint64_t lsn = 0;
		memset(data, (int)(w->number + 1), sizeof(data));
		w->result = committer_write(committer, w->fixture->h.disk,
			(uint64_t)w->number * ROUNDS + i, 1, data, &lsn);
		if (w->result == 0)
			w->result = committer_wait(committer, lsn);
		if (w->result == 0 && history_durable_lsn(w->fixture->h.history) < lsn)
			w->result = -EPROTO;
	}
	return NULL;
}

static void many_wait_for_one_commit(void **state)
{
	struct fixture *x = *state;
	struct writer writers[WRITERS];
	x->h.faulty.sync_delay_us = 1000;
	x->h.faulty.syncs = 0;
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ .fixture = x, .number = i };
		pthread_create(&writers[i].thread, NULL, write_and_wait, &writers[i]);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(writers[i].thread, NULL);
		assert_int_equal(writers[i].result, 0);
	}
	/* One each would be 320; two groups that take turns make 80. */
	assert_true(x->h.faulty.syncs < WRITERS * ROUNDS / 2);
	x->h.faulty.sync_delay_us = 0;
	reopen(x);
	for (unsigned i = 0; i < WRITERS; i++)
		check_filled(x, (uint64_t)i * ROUNDS, ROUNDS, (uint8_t)(i + 1));
}

static void seals_are_durable_and_rise(void **state)
{
	struct fixture *x = *state;
	uint64_t last = 0;
	for (int i = 0; i < 5; i++) {
		struct seal seal = { .time_ns = i, .kind = POINT_CRASH };
		uint64_t number;
		struct point point;
		assert_int_equal(committer_seal(x->committer, &seal, &number), 0);
		assert_true(number > last);
		assert_int_equal(history_point(x->h.history, number, &point), 0);
		last = number;
	}
	reopen(x);
	struct point point;
	assert_int_equal(history_point(x->h.history, last, &point), 0);
}

static void gate_is_asked(void **state)
{
	struct fixture *x = *state;
	uint8_t data[4096] = { 1 };
	uint64_t lsn = 0, staged = history_staged_lsn(x->h.history);
	x->gated.answer = -ENOSPC;
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 8, data, &lsn), -ENOSPC);
	assert_int_equal(committer_zero(x->committer, x->h.disk, 0, 8, &lsn), -ENOSPC);
	assert_int_equal(lsn, 0);
	assert_int_equal(history_staged_lsn(x->h.history), staged);
	assert_true(x->gated.bytes >= 4096);
	x->gated.answer = 0;
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 8, data, &lsn), 0);
}

/* The history may be full before the gate has seen it. */
static void what_the_history_refuses_waits(void **state)
{
	struct fixture *x = *state;
	uint8_t data[4096] = { 1 };
	uint64_t lsn = 0;
	x->gated.history = x->h.history;
	history_set_limit(x->h.history, 1);
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 8, data, &lsn), -ENOSPC);
	assert_int_equal(committer_zero(x->committer, x->h.disk, 0, 8, &lsn), -ENOSPC);
	assert_int_equal(x->gated.waits, 2);
	x->gated = (struct gated){ .history = x->h.history, .gives_room_at = 3 };
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 8, data, &lsn), 0);
	assert_int_equal(x->gated.waits, 3);
	assert_int_equal(committer_wait(x->committer, lsn), 0);
}

/* A cut sector waits for its rest, and a seal for it: who waits for room holds nothing. */
static void a_seal_passes_who_waits_for_room(void **state)
{
	struct fixture *x = *state;
	struct store *store;
	CLEANUP_FREE uint8_t *data = calloc(1, 2 * MIB);
	assert_int_equal(stack_live_new(x->committer, x->h.disk, true, &store), 0);
	assert_int_equal(store_write(store, 0, data, MIB + 100), 0);
	history_set_limit(x->h.history, 1);
	x->gated = (struct gated){
		.history = x->h.history, .seals_with = x->committer, .gives_room_at = 2
	};
	assert_int_equal(store_write(store, 0, data, 2 * MIB), 0);
	history_set_limit(x->h.history, 1);
	x->gated.waits = 0;
	assert_int_equal(store_write(store, 0, data, MIB + 200), 0);
	history_set_limit(x->h.history, 1);
	x->gated.waits = 0;
	assert_int_equal(store_zero(store, 0, 2 * MIB), 0);
	store_free(store);
}

static void errors_of_the_history_come_up(void **state)
{
	struct fixture *x = *state;
	uint8_t data[512] = { 1 };
	uint64_t lsn;
	assert_int_equal(committer_write(x->committer, 99, 0, 1, data, &lsn), -ENOENT);
	assert_int_equal(
		committer_write(x->committer, x->h.disk, 16 * MIB / SECTOR_BYTES, 1, data, &lsn),
		-EINVAL);
}

static void failed_commit_is_the_end(void **state)
{
	struct fixture *x = *state;
	struct writer writers[WRITERS];
	uint8_t data[512] = { 1 };
	uint64_t lsn;
	log_set_level((enum log_level)0);
	x->h.faulty.sync_error = -EIO;
	x->h.faulty.sync_delay_us = 1000;
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ .fixture = x, .number = i };
		pthread_create(&writers[i].thread, NULL, write_and_wait, &writers[i]);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(writers[i].thread, NULL);
		assert_int_equal(writers[i].result, -EIO);
	}
	/* And it stays so when the disk seems well again. */
	x->h.faulty.sync_error = 0;
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 1, data, &lsn), -EIO);
	struct seal seal = { .kind = POINT_CRASH };
	uint64_t number;
	assert_int_equal(committer_seal(x->committer, &seal, &number), -EIO);
	assert_int_equal(committer_wait(x->committer, history_durable_lsn(x->h.history)), 0);
	reopen(x);
	assert_int_equal(committer_write(x->committer, x->h.disk, 0, 1, data, &lsn), 0);
	assert_int_equal(committer_wait(x->committer, lsn), 0);
	log_set_level(LOG_LEVEL_INFO);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(waited_for_is_durable),
		TEST(unwaited_for_is_committed_soon),
		TEST(rest_proves_the_last_commit),
		TEST(large_writes_are_cut),
		TEST(end_commits_what_is_staged),
		TEST(many_wait_for_one_commit),
		TEST(seals_are_durable_and_rise),
		TEST(gate_is_asked),
		TEST(what_the_history_refuses_waits),
		TEST(a_seal_passes_who_waits_for_room),
		TEST(errors_of_the_history_come_up),
		TEST(failed_commit_is_the_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
