/*
 * fs/parts.c over a disk in memory whose reads can fail or wait: writes cut inside a sector as the
 * kernel cuts them go through without reading, whatever the order; what is left of a cut write is
 * seen, settled or told; nobody waits for another's reading; nothing is undone.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "fs/parts.h"

#define DISK_BYTES (256 * KIB)
#define REQUEST_BYTES (16 * KIB) /* what the "kernel" here hands over at once */
#define PAGE 4096u

struct far_disk {
	struct store store;
	uint8_t bytes[DISK_BYTES];
	pthread_mutex_t lock;
	atomic_int fail;  /* what reads answer */
	atomic_bool hold; /* reads wait */
	atomic_bool hold_writes;
	atomic_uint writing;
	atomic_uint held;
	atomic_uint reads;
	atomic_uint flushes;
};

static struct far_disk *far_of(struct store *store)
{
	return CONTAINER_OF(store, struct far_disk, store);
}

static int far_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct far_disk *far = far_of(store);
	assert_true(offset % SECTOR_BYTES == 0 && n % SECTOR_BYTES == 0 && n > 0);
	atomic_fetch_add(&far->reads, 1);
	atomic_fetch_add(&far->held, 1);
	while (atomic_load(&far->hold))
		usleep(100);
	atomic_fetch_sub(&far->held, 1);
	SCOPED_LOCK(&far->lock);
	memcpy(data, far->bytes + offset, n);
	return atomic_load(&far->fail);
}

static int far_read_near(struct store *store, uint64_t offset, void *data, size_t n)
{
	(void)store, (void)offset, (void)data, (void)n;
	return -EAGAIN;
}

static int far_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	struct far_disk *far = far_of(store);
	atomic_fetch_add(&far->writing, 1);
	while (atomic_load(&far->hold_writes))
		usleep(100);
	atomic_fetch_sub(&far->writing, 1);
	assert_true(offset % SECTOR_BYTES == 0 && n % SECTOR_BYTES == 0 && n > 0);
	SCOPED_LOCK(&far->lock);
	memcpy(far->bytes + offset, data, n);
	return 0;
}

static int far_zero(struct store *store, uint64_t offset, uint64_t n)
{
	struct far_disk *far = far_of(store);
	SCOPED_LOCK(&far->lock);
	memset(far->bytes + offset, 0, n);
	return 0;
}

static int far_flush(struct store *store)
{
	atomic_fetch_add(&far_of(store)->flushes, 1);
	return 0;
}

static void far_free(struct store *store)
{
	free(far_of(store));
}

struct fixture {
	struct far_disk *far;
	struct parts *parts;
	uint8_t model[DISK_BYTES];
	struct rng rng;
};

static int setup(void **state)
{
	static const struct store_ops ops = {
		.read = far_read,
		.read_near = far_read_near,
		.write = far_write,
		.zero = far_zero,
		.flush = far_flush,
		.free = far_free,
	};
	struct fixture *x = calloc(1, sizeof(*x));
	x->far = calloc(1, sizeof(*x->far));
	x->far->store = (struct store){ &ops, DISK_BYTES, true };
	pthread_mutex_init(&x->far->lock, NULL);
	rng_seed(&x->rng, 11);
	rng_fill(&x->rng, x->far->bytes, DISK_BYTES);
	memcpy(x->model, x->far->bytes, DISK_BYTES);
	assert_int_equal(parts_new(&x->far->store, REQUEST_BYTES - PAGE, &x->parts), 0);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	parts_unref(x->parts);
	free(x);
	return 0;
}

/* Where the requests of a write end whose buffer begins `in_page` bytes into a page. */
static uint64_t request_end(uint64_t offset, uint64_t at, uint64_t n, unsigned in_page)
{
	uint64_t first = offset + REQUEST_BYTES - in_page;
	uint64_t end = at < first ? first : at + REQUEST_BYTES;
	return MIN(end, offset + n);
}

/* Hands a write over as the kernel does. */
static int write_cut(
	struct parts *parts, uint64_t offset, const uint8_t *data, size_t n, unsigned in_page)
{
	int r = 0;
	for (uint64_t at = offset; at < offset + n && r == 0;) {
		uint64_t end = request_end(offset, at, n, in_page);
		r = parts_write(parts, at, data + (at - offset), (size_t)(end - at));
		at = end;
	}
	return r;
}

static void check_all(struct fixture *x)
{
	CLEANUP_FREE uint8_t *got = malloc(DISK_BYTES);
	assert_int_equal(parts_read(x->parts, 0, got, DISK_BYTES), 0);
	assert_memory_equal(got, x->model, DISK_BYTES);
}

static void random_write(struct fixture *x, uint64_t align)
{
	uint8_t data[100 * KIB];
	uint64_t n = align * (1 + rng_below(&x->rng, sizeof(data) / align));
	uint64_t offset = align * rng_below(&x->rng, (DISK_BYTES - n) / align + 1);
	rng_fill(&x->rng, data, n);
	memcpy(x->model + offset, data, n);
	assert_int_equal(
		write_cut(x->parts, offset, data, n, (unsigned)rng_below(&x->rng, PAGE)), 0);
}

/* Nothing can be read, and every write succeeds: the next request has the rest. */
static void cut_writes_need_no_reading(void **state)
{
	struct fixture *x = *state;
	atomic_store(&x->far->fail, -ETIMEDOUT);
	for (int i = 0; i < 2000; i++)
		random_write(x, SECTOR_BYTES);
	assert_int_equal(parts_flush(x->parts), 0);
	assert_int_equal(atomic_load(&x->far->reads), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
}

static void any_write_reads_back(void **state)
{
	struct fixture *x = *state;
	uint8_t got[9000];
	for (int i = 0; i < 1500; i++) {
		random_write(x, rng_below(&x->rng, 2) ? 1 : SECTOR_BYTES);
		if (rng_below(&x->rng, 8) == 0) {
			uint64_t n = 1 + rng_below(&x->rng, 3000);
			uint64_t offset = rng_below(&x->rng, DISK_BYTES - n);
			memset(x->model + offset, 0, n);
			assert_int_equal(parts_zero(x->parts, offset, n), 0);
		}
		uint64_t n = 1 + rng_below(&x->rng, sizeof(got));
		uint64_t offset = rng_below(&x->rng, DISK_BYTES - n);
		assert_int_equal(parts_read(x->parts, offset, got, n), 0);
		assert_memory_equal(got, x->model + offset, n);
		if (rng_below(&x->rng, 16) == 0) {
			assert_int_equal(parts_flush(x->parts), 0);
			assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
		}
	}
	check_all(x);
}

/* The first half alone, and its other half never comes. */
static void write_half(struct fixture *x, uint64_t offset, uint8_t value)
{
	uint8_t data[REQUEST_BYTES - 48];
	memset(data, value, sizeof(data));
	memcpy(x->model + offset, data, sizeof(data));
	assert_int_equal(parts_write(x->parts, offset, data, sizeof(data)), 0);
}

static void half_is_settled_or_told(void **state)
{
	struct fixture *x = *state;
	write_half(x, 0, 1);
	write_half(x, 128 * KIB, 2);
	check_all(x);
	atomic_store(&x->far->fail, -ETIMEDOUT);
	assert_int_equal(parts_flush(x->parts), -ETIMEDOUT);
	assert_int_equal(atomic_load(&x->far->flushes), 1); /* of what could be written */
	assert_int_equal(parts_settle(x->parts), -ETIMEDOUT);
	/* What is written whole in its place needs no reading any more. */
	uint8_t sector[SECTOR_BYTES];
	memset(sector, 3, sizeof(sector));
	memcpy(x->model + REQUEST_BYTES - SECTOR_BYTES, sector, sizeof(sector));
	assert_int_equal(
		parts_write(x->parts, REQUEST_BYTES - SECTOR_BYTES, sector, sizeof(sector)), 0);
	assert_int_equal(parts_settle(x->parts), -ETIMEDOUT); /* the other */
	atomic_store(&x->far->fail, 0);
	check_all(x);
	assert_int_equal(parts_flush(x->parts), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
	unsigned reads = atomic_load(&x->far->reads);
	assert_int_equal(parts_settle(x->parts), 0);
	assert_int_equal(atomic_load(&x->far->reads), reads);
}

/* A small write is refused at once and honestly, and leaves nothing behind. */
static void small_write_fails_whole(void **state)
{
	struct fixture *x = *state;
	uint8_t data[1000] = { 9 };
	atomic_store(&x->far->fail, -ETIMEDOUT);
	assert_int_equal(parts_write(x->parts, 700, data, sizeof(data)), -ETIMEDOUT);
	assert_int_equal(parts_write(x->parts, 512, data, sizeof(data)), -ETIMEDOUT);
	assert_int_equal(parts_write(x->parts, 520, data, 10), -ETIMEDOUT);
	assert_int_equal(parts_settle(x->parts), 0);
	atomic_store(&x->far->fail, 0);
	check_all(x);
	/* Nor does it take acknowledged bytes with it. */
	write_half(x, 0, 4);
	atomic_store(&x->far->fail, -ETIMEDOUT);
	assert_int_equal(parts_write(x->parts, REQUEST_BYTES - 300, data, 10), -ETIMEDOUT);
	atomic_store(&x->far->fail, 0);
	check_all(x);
	assert_int_equal(parts_flush(x->parts), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
}

/* More halves than are kept: the memory is bounded, and nothing is wrong for it. */
static void halves_are_bounded(void **state)
{
	struct fixture *x = *state;
	for (unsigned i = 0; i < 2000; i++)
		write_half(x, SECTOR_BYTES * (i % 479), (uint8_t)i);
	check_all(x);
	assert_int_equal(parts_flush(x->parts), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
}

struct call {
	struct parts *parts;
	uint64_t offset;
	size_t n;
	uint8_t value;
	int result;
	pthread_t thread;
};

static void *call_write(void *argument)
{
	struct call *call = argument;
	CLEANUP_FREE uint8_t *data = malloc(call->n);
	memset(data, call->value, call->n);
	call->result = parts_write(call->parts, call->offset, data, call->n);
	return NULL;
}

static void start(struct call *call)
{
	assert_int_equal(pthread_create(&call->thread, NULL, call_write, call), 0);
}

static void await_held(struct fixture *x)
{
	for (int i = 0; atomic_load(&x->far->held) == 0; i++) {
		assert_true(i < 50000);
		usleep(100);
	}
}

/* The second half comes first, and finds the first without reading; or while it reads in vain. */
static void halves_in_any_order(void **state)
{
	struct fixture *x = *state;
	atomic_store(&x->far->fail, -ETIMEDOUT);
	for (int slow = 0; slow < 2; slow++) {
		atomic_store(&x->far->hold, slow == 1);
		struct call second = {
			.parts = x->parts, .offset = REQUEST_BYTES - 48, .n = 48, .value = 7
		};
		start(&second);
		if (slow)
			await_held(x);
		write_half(x, 0, 6);
		atomic_store(&x->far->hold, false);
		pthread_join(second.thread, NULL);
		memset(x->model + REQUEST_BYTES - 48, 7, 48);
		if (second.result == 0)
			assert_int_equal(parts_settle(x->parts), 0);
		else /* it came and went before the first was there: possible, if slow to start */
			assert_false(slow);
	}
	assert_int_equal(parts_flush(x->parts), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
}

/* The first half is there but waits for room: the second waits with it, and does not read. */
static void second_half_waits_for_the_first(void **state)
{
	struct fixture *x = *state;
	atomic_store(&x->far->fail, -ETIMEDOUT);
	atomic_store(&x->far->hold_writes, true);
	struct call first = { .parts = x->parts, .offset = 0, .n = REQUEST_BYTES - 48, .value = 1 };
	struct call second = {
		.parts = x->parts, .offset = REQUEST_BYTES - 48, .n = 48, .value = 2
	};
	start(&first);
	for (int i = 0; atomic_load(&x->far->writing) == 0; i++) {
		assert_true(i < 50000);
		usleep(100);
	}
	start(&second);
	usleep(50000); /* longer than it waits for one that is not there */
	atomic_store(&x->far->hold_writes, false);
	pthread_join(first.thread, NULL);
	pthread_join(second.thread, NULL);
	assert_int_equal(first.result, 0);
	assert_int_equal(second.result, 0);
	memset(x->model, 1, REQUEST_BYTES);
	memset(x->model + REQUEST_BYTES - 48, 2, 48);
	assert_int_equal(parts_flush(x->parts), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
}

/* While one reads from far away, whole sectors are written beside it, and even in its place. */
static void nobody_waits_for_reading(void **state)
{
	struct fixture *x = *state;
	atomic_store(&x->far->hold, true);
	struct call small = { .parts = x->parts, .offset = 1000, .n = 100, .value = 5 };
	start(&small);
	await_held(x);
	uint8_t data[4096];
	memset(data, 8, sizeof(data));
	memcpy(x->model, data, sizeof(data));
	assert_int_equal(parts_write(x->parts, 0, data, sizeof(data)), 0);
	assert_int_equal(parts_zero(x->parts, 8192, 4096), 0);
	memset(x->model + 8192, 0, 4096);
	atomic_store(&x->far->hold, false);
	pthread_join(small.thread, NULL);
	assert_int_equal(small.result, 0);
	memset(x->model + 1000, 5, 100);
	check_all(x);
}

#define WRITERS 4
#define ROUNDS 150

struct writer {
	struct fixture *fixture;
	unsigned number;
	atomic_bool *stop;
	pthread_t thread;
};

/* Writers whose ranges meet inside sectors, cut and not, while others settle and read: at the end
 * each byte is its writer's last. */
static void *write_own_range(void *argument)
{
	struct writer *w = argument;
	struct rng rng;
	rng_seed(&rng, w->number + 100);
	const size_t own = 60001; /* no multiple of anything */
	CLEANUP_FREE uint8_t *data = malloc(own);
	CLEANUP_FREE uint8_t *got = malloc(own);
	uint64_t at = w->number * own;
	for (unsigned round = 0; round < ROUNDS; round++) {
		size_t from = rng_below(&rng, 2) ? 0 : rng_below(&rng, own);
		size_t n = own - from;
		rng_fill(&rng, data + from, n);
		if (write_cut(w->fixture->parts, at + from, data + from, n,
			    (unsigned)rng_below(&rng, PAGE)) < 0)
			return w;
		memcpy(w->fixture->model + at + from, data + from, n);
		if (parts_read(w->fixture->parts, at + from, got, n) < 0 ||
			memcmp(got, data + from, n) != 0)
			return w;
	}
	if (write_cut(w->fixture->parts, at, data, own, 17) < 0)
		return w;
	memcpy(w->fixture->model + at, data, own);
	return NULL;
}

static void *settle_and_read(void *argument)
{
	struct writer *w = argument;
	CLEANUP_FREE uint8_t *got = malloc(DISK_BYTES);
	while (!atomic_load(w->stop))
		if (parts_settle(w->fixture->parts) < 0 ||
			parts_read(w->fixture->parts, 0, got, DISK_BYTES) < 0)
			return w;
	return NULL;
}

static void nothing_is_undone(void **state)
{
	struct fixture *x = *state;
	atomic_bool stop = false;
	struct writer writers[WRITERS + 1];
	for (unsigned i = 0; i <= WRITERS; i++) {
		writers[i] = (struct writer){ .fixture = x, .number = i, .stop = &stop };
		assert_int_equal(
			pthread_create(&writers[i].thread, NULL,
				i < WRITERS ? write_own_range : settle_and_read, &writers[i]),
			0);
	}
	for (unsigned i = 0; i <= WRITERS; i++) {
		void *failed;
		atomic_store(&stop, i == WRITERS);
		pthread_join(writers[i].thread, &failed);
		assert_null(failed);
	}
	check_all(x);
	assert_int_equal(parts_flush(x->parts), 0);
	assert_memory_equal(x->far->bytes, x->model, DISK_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(cut_writes_need_no_reading, setup, teardown),
		cmocka_unit_test_setup_teardown(any_write_reads_back, setup, teardown),
		cmocka_unit_test_setup_teardown(half_is_settled_or_told, setup, teardown),
		cmocka_unit_test_setup_teardown(small_write_fails_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(halves_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(halves_in_any_order, setup, teardown),
		cmocka_unit_test_setup_teardown(second_half_waits_for_the_first, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_waits_for_reading, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_undone, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
