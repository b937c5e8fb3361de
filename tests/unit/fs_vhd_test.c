/*
 * fs/vhd.c and fs/vhd_store.c: the footer's bytes, what is refused, and reads and writes of any
 * alignment against a plain array, from several threads too.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "fs/vhd.h"

/* ── the footer ──────────────────────────────────────────────────────────────────────────── */

static const struct uuid some_id = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 } };

static void sizes_are_checked(void **state)
{
	(void)state;
	assert_int_equal(vhd_check_size(MIB), 0);
	assert_int_equal(vhd_check_size(8 * TIB - MIB), 0);
	const uint64_t bad[] = { 0, 512, MIB - 512, MIB + 1, MIB + 512, 8 * TIB, 8 * TIB + MIB,
		UINT64_MAX, 1ull << 63 };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(vhd_check_size(bad[i]), -EINVAL);
}

static void footer_has_the_specified_bytes(void **state)
{
	(void)state;
	uint8_t f[VHD_FOOTER_BYTES];
	/* 2026-11-22T05:54:11Z is 848642051 s after 2000-01-01. */
	assert_int_equal(vhd_footer_format(3 * MIB, &some_id, 1795326851ll * 1000000000, f), 0);
	assert_memory_equal(f, "conectix\0\0\0\2\0\1\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 24);
	assert_int_equal(load_be32(f + 24), 848642051u);
	assert_memory_equal(f + 28, "win ", 4);
	assert_memory_equal(f + 36, "Wi2k", 4);
	assert_int_equal(load_be64(f + 40), 3 * MIB);
	assert_int_equal(load_be64(f + 48), 3 * MIB);
	assert_int_equal(load_be32(f + 60), 2);
	assert_memory_equal(f + 68, some_id.bytes, 16);
	assert_true(is_zero(f + 84, 512 - 84));
	uint32_t sum = 0;
	for (int i = 0; i < 512; i++)
		sum += i >= 64 && i < 68 ? 0 : f[i];
	assert_int_equal(load_be32(f + 64), ~sum);
}

static void geometry_follows_the_appendix(void **state)
{
	(void)state;
	/* By hand from the appendix's rules. */
	const struct {
		uint64_t bytes;
		unsigned cylinders, heads, sectors;
	} cases[] = {
		{ MIB, 30, 4, 17 },
		{ 3 * MIB, 90, 4, 17 },
		{ 100 * MIB, 1003, 12, 17 },
		{ 504 * MIB, 1024, 16, 63 },
		{ 127 * GIB, 65278, 16, 255 },
		{ 2 * TIB, 65535, 16, 255 },
		{ 8 * TIB - MIB, 65535, 16, 255 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t f[VHD_FOOTER_BYTES];
		assert_int_equal(vhd_footer_format(cases[i].bytes, &some_id, 0, f), 0);
		assert_int_equal(load_be16(f + 56), cases[i].cylinders);
		assert_int_equal(f[58], cases[i].heads);
		assert_int_equal(f[59], cases[i].sectors);
	}
}

static void parse_returns_what_format_took(void **state)
{
	(void)state;
	const uint64_t sizes[] = { MIB, 3 * MIB, 127 * GIB, 2 * TIB, 8 * TIB - MIB };
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint8_t f[VHD_FOOTER_BYTES];
		uint64_t bytes = 0;
		struct uuid id = { 0 };
		assert_int_equal(vhd_footer_format(sizes[i], &some_id, -1, f), 0);
		assert_int_equal(load_be32(f + 24), 0);
		assert_int_equal(vhd_footer_parse(f, &bytes, &id), 0);
		assert_int_equal(bytes, sizes[i]);
		assert_memory_equal(&id, &some_id, sizeof(id));
	}
}

static void any_flipped_bit_is_refused(void **state)
{
	(void)state;
	uint8_t f[VHD_FOOTER_BYTES];
	assert_int_equal(vhd_footer_format(5 * MIB, &some_id, 0, f), 0);
	for (unsigned bit = 0; bit < 512 * 8; bit++) {
		uint64_t bytes = 77;
		struct uuid id = { 0 };
		f[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(vhd_footer_parse(f, &bytes, &id), -EINVAL);
		assert_int_equal(bytes, 77);
		f[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* Sets a field and makes the checksum right again. */
static void patch(uint8_t *f, size_t at, const void *bytes, size_t n)
{
	memcpy(f + at, bytes, n);
	memset(f + 64, 0, 4);
	uint32_t sum = 0;
	for (int i = 0; i < 512; i++)
		sum += f[i];
	store_be32(f + 64, ~sum);
}

static void other_kinds_of_vhd_are_refused(void **state)
{
	(void)state;
	const struct {
		size_t at;
		const char *bytes;
		size_t n;
	} cases[] = {
		{ 0, "conectiy", 8 },
		{ 12, "\0\2\0\0", 4 },           /* a later version */
		{ 60, "\0\0\0\3", 4 },           /* dynamic */
		{ 60, "\0\0\0\4", 4 },           /* differencing */
		{ 16, "\0\0\0\0\0\0\2\0", 8 },   /* with a header somewhere */
		{ 48, "\0\0\0\0\0\x10\2\0", 8 }, /* 1 MiB + 512 */
		{ 48, "\0\0\x08\0\0\0\0\0", 8 }, /* 8 TiB */
		{ 48, "\0\0\0\0\0\0\0\0", 8 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t f[VHD_FOOTER_BYTES];
		uint64_t bytes;
		struct uuid id;
		assert_int_equal(vhd_footer_format(5 * MIB, &some_id, 0, f), 0);
		patch(f, cases[i].at, cases[i].bytes, cases[i].n);
		assert_int_equal(vhd_footer_parse(f, &bytes, &id), -EINVAL);
	}
	/* A later minor version and another original size do not matter. */
	uint8_t f[VHD_FOOTER_BYTES];
	uint64_t bytes;
	struct uuid id;
	assert_int_equal(vhd_footer_format(5 * MIB, &some_id, 0, f), 0);
	patch(f, 14, "\0\1", 2);
	patch(f, 40, "\0\0\0\0\0\0\0\1", 8);
	assert_int_equal(vhd_footer_parse(f, &bytes, &id), 0);
	assert_int_equal(bytes, 5 * MIB);
}

static void disk_ids_are_stable_and_differ(void **state)
{
	(void)state;
	const struct uuid group = { { 1 } }, other = { { 2 } };
	struct uuid a, b, c, d;
	vhd_disk_id(&group, "web/root", &a);
	vhd_disk_id(&group, "web/root", &b);
	vhd_disk_id(&group, "web/roos", &c);
	vhd_disk_id(&other, "web/root", &d);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_memory_not_equal(&a, &c, sizeof(a));
	assert_memory_not_equal(&a, &d, sizeof(a));
	assert_int_equal(a.bytes[6] >> 4, 8);
	assert_int_equal(a.bytes[8] >> 6, 2);
}

/* ── the store ───────────────────────────────────────────────────────────────────────────── */

/* A disk in memory that insists on whole sectors. */
struct memory_store {
	struct store store;
	uint8_t *bytes;
	pthread_mutex_t lock;
	int fail; /* what reads answer */
	int full; /* writes that still succeed; -1: all */
};

static void check_range(struct store *store, uint64_t offset, uint64_t n)
{
	assert_true(offset % SECTOR_BYTES == 0 && n % SECTOR_BYTES == 0 && n > 0);
	assert_true(offset <= store->size_bytes && n <= store->size_bytes - offset);
}

static int memory_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct memory_store *m = CONTAINER_OF(store, struct memory_store, store);
	check_range(store, offset, n);
	SCOPED_LOCK(&m->lock);
	if (m->fail)
		return m->fail;
	memcpy(data, m->bytes + offset, n);
	return 0;
}

static int memory_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	struct memory_store *m = CONTAINER_OF(store, struct memory_store, store);
	check_range(store, offset, n);
	SCOPED_LOCK(&m->lock);
	if (m->full == 0)
		return -ENOSPC;
	m->full -= m->full > 0;
	memcpy(m->bytes + offset, data, n);
	return 0;
}

static int memory_zero(struct store *store, uint64_t offset, uint64_t n)
{
	struct memory_store *m = CONTAINER_OF(store, struct memory_store, store);
	check_range(store, offset, n);
	SCOPED_LOCK(&m->lock);
	memset(m->bytes + offset, 0, n);
	return 0;
}

static int memory_flush(struct store *store)
{
	(void)store;
	return 0;
}

static int memory_room(struct store *store, uint64_t bytes, bool refused)
{
	(void)bytes;
	if (refused)
		return -ENOSPC;
	struct memory_store *m = CONTAINER_OF(store, struct memory_store, store);
	SCOPED_LOCK(&m->lock);
	return m->full == 0 ? -ENOSPC : 0;
}

static void memory_free(struct store *store)
{
	struct memory_store *m = CONTAINER_OF(store, struct memory_store, store);
	free(m->bytes);
	free(m);
}

static struct memory_store *memory_new(uint64_t bytes, bool writable)
{
	static const struct store_ops ops = {
		.read = memory_read,
		.write = memory_write,
		.zero = memory_zero,
		.flush = memory_flush,
		.room = memory_room,
		.free = memory_free,
	};
	struct memory_store *m = calloc(1, sizeof(*m));
	m->store = (struct store){ &ops, bytes, writable };
	m->bytes = calloc(1, bytes);
	m->full = -1;
	pthread_mutex_init(&m->lock, NULL);
	return m;
}

static struct store *vhd_over(struct memory_store *m)
{
	struct store *vhd;
	assert_int_equal(vhd_store_new(&m->store, &some_id, 0, &vhd), 0);
	return vhd;
}

static void store_behaves_as_an_array(void **state)
{
	(void)state;
	struct store *vhd = vhd_over(memory_new(2 * MIB, true));
	assert_int_equal(vhd->size_bytes, 2 * MIB + 512);
	uint8_t *model = calloc(1, vhd->size_bytes);
	uint8_t *data = malloc(vhd->size_bytes);
	assert_int_equal(vhd_footer_format(2 * MIB, &some_id, 0, model + 2 * MIB), 0);
	struct rng rng;
	rng_seed(&rng, 7);
	for (int i = 0; i < 20000; i++) {
		uint64_t most = rng_below(&rng, 8) ? 3000 : 600000;
		uint64_t offset = rng_below(&rng, vhd->size_bytes);
		if (rng_below(&rng, 4) == 0)
			offset = 2 * MIB - rng_below(&rng, 2000);
		uint64_t n = 1 + rng_below(&rng, most);
		uint64_t kind = rng_below(&rng, 3);
		if (kind == 0) {
			n = MIN(n, vhd->size_bytes - offset);
			assert_int_equal(store_read(vhd, offset, data, n), 0);
			assert_memory_equal(data, model + offset, n);
		} else if (offset + n > 2 * MIB) {
			continue; /* the footer has a test of its own */
		} else if (kind == 1) {
			rng_fill(&rng, data, n);
			memcpy(model + offset, data, n);
			assert_int_equal(store_write(vhd, offset, data, n), 0);
		} else {
			memset(model + offset, 0, n);
			assert_int_equal(store_zero(vhd, offset, n), 0);
		}
	}
	assert_int_equal(store_read(vhd, 0, data, vhd->size_bytes), 0);
	assert_memory_equal(data, model, vhd->size_bytes);
	free(model);
	free(data);
	store_free(vhd);
}

static void footer_cannot_be_changed(void **state)
{
	(void)state;
	struct memory_store *m = memory_new(MIB, true);
	struct store *vhd = vhd_over(m);
	uint8_t data[2048], footer[512];
	memset(data, 0xab, sizeof(data));
	assert_int_equal(store_read(vhd, MIB, footer, 512), 0);
	assert_int_equal(store_write(vhd, MIB, data, 512), -EPERM);
	assert_int_equal(store_write(vhd, MIB + 100, data, 1), -EPERM);
	assert_int_equal(store_zero(vhd, MIB, 512), -EPERM);
	assert_int_equal(store_zero(vhd, 0, MIB + 512), -EPERM);
	/* Half on the disk, half on the footer: nothing is stored. */
	assert_int_equal(store_write(vhd, MIB - 512, data, 1024), -EPERM);
	assert_true(is_zero(m->bytes, MIB));
	/* The same bytes, and another's footer for the same size, are taken and dropped. */
	assert_int_equal(store_write(vhd, MIB, footer, 512), 0);
	assert_int_equal(store_write(vhd, MIB + 7, footer + 7, 50), 0);
	memcpy(data + 512, footer, 512);
	assert_int_equal(store_write(vhd, MIB - 512, data, 1024), 0);
	assert_memory_equal(m->bytes + MIB - 512, data, 512);
	struct uuid other = { { 9 } };
	uint8_t foreign[512], now[512];
	assert_int_equal(vhd_footer_format(MIB, &other, 0, foreign), 0);
	assert_int_equal(store_write(vhd, MIB, foreign, 512), 0);
	assert_int_equal(store_read(vhd, MIB, now, 512), 0);
	assert_memory_equal(now, footer, 512);
	assert_int_equal(vhd_footer_format(2 * MIB, &other, 0, foreign), 0);
	assert_int_equal(store_write(vhd, MIB, foreign, 512), -EPERM);
	/* Beyond the end. */
	assert_int_equal(store_write(vhd, MIB + 512, data, 1), -ENOSPC);
	assert_int_equal(store_write(vhd, UINT64_MAX, data, 1), -ENOSPC);
	assert_int_equal(store_read(vhd, MIB + 511, data, 2), -EINVAL);
	store_free(vhd);
}

static void failures_below_come_up(void **state)
{
	(void)state;
	struct memory_store *m = memory_new(MIB, true);
	struct store *vhd = vhd_over(m);
	uint8_t data[1024] = { 1 };
	m->fail = -EIO;
	assert_int_equal(store_read(vhd, 0, data, 1024), -EIO);
	assert_int_equal(store_write(vhd, 100, data, 10), -EIO);
	assert_int_equal(store_write(vhd, 0, data, 1000), -EIO);
	m->fail = 0;
	assert_int_equal(store_write(vhd, 100, data, 10), 0);
	store_free(vhd);
}

/* Full and unreadable at once, as a journal with the vault away: the fullness is told. */
static void full_comes_before_unreadable(void **state)
{
	(void)state;
	struct memory_store *m = memory_new(MIB, true);
	struct store *vhd = vhd_over(m);
	uint8_t data[1000] = { 1 };
	m->fail = -ETIMEDOUT;
	assert_int_equal(store_write(vhd, 100, data, sizeof(data)), -ETIMEDOUT);
	m->full = 0;
	assert_int_equal(store_write(vhd, 100, data, sizeof(data)), -ENOSPC);
	assert_int_equal(store_write(vhd, 0, data, 512), -ENOSPC);
	store_free(vhd);
}

static void unaligned_write_is_one_write(void **state)
{
	(void)state;
	struct memory_store *m = memory_new(MIB, true);
	struct store *vhd = vhd_over(m);
	uint8_t data[5000];
	memset(data, 7, sizeof(data));
	m->full = 0;
	assert_int_equal(store_write(vhd, 300, data, sizeof(data)), -ENOSPC);
	assert_true(is_zero(m->bytes, MIB));
	m->full = 1;
	assert_int_equal(store_write(vhd, 300, data, sizeof(data)), 0);
	assert_memory_equal(m->bytes + 300, data, sizeof(data));
	assert_true(is_zero(m->bytes, 300));
	assert_true(is_zero(m->bytes + 5300, MIB - 5300));
	store_free(vhd);
}

static void immutable_stays_immutable(void **state)
{
	(void)state;
	struct store *vhd = vhd_over(memory_new(MIB, false));
	assert_false(vhd->writable);
	assert_int_equal(store_write(vhd, 0, "x", 1), -EROFS);
	assert_int_equal(store_zero(vhd, 0, 512), -EROFS);
	store_free(vhd);
}

static void bad_sizes_make_no_store(void **state)
{
	(void)state;
	struct memory_store *m = memory_new(MIB + 512, true);
	struct store *vhd = NULL;
	assert_int_equal(vhd_store_new(&m->store, &some_id, 0, &vhd), -EINVAL);
	assert_null(vhd);
	memory_free(&m->store);
}

#define WRITERS 4
#define ROUNDS 3000

struct writer {
	struct store *vhd;
	unsigned number;
	pthread_t thread;
};

/* Each writer owns every fourth byte of the first sectors, and one of them writes whole sectors
 * beside; a lost update shows as a byte that is older than its writer's last. */
static void *write_own_bytes(void *argument)
{
	struct writer *w = argument;
	for (unsigned round = 1; round <= ROUNDS; round++) {
		uint8_t value = (uint8_t)round;
		if (store_write(w->vhd, w->number, &value, 1) < 0 ||
			store_write(w->vhd, 700 + w->number, &value, 1) < 0)
			return w;
	}
	return NULL;
}

static void unaligned_writers_do_not_undo_each_other(void **state)
{
	(void)state;
	struct store *vhd = vhd_over(memory_new(MIB, true));
	struct writer writers[WRITERS];
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){ .vhd = vhd, .number = i };
		assert_int_equal(
			pthread_create(&writers[i].thread, NULL, write_own_bytes, &writers[i]), 0);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		void *failed;
		pthread_join(writers[i].thread, &failed);
		assert_null(failed);
	}
	uint8_t data[1024];
	assert_int_equal(store_read(vhd, 0, data, sizeof(data)), 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		assert_int_equal(data[i], (uint8_t)ROUNDS);
		assert_int_equal(data[700 + i], (uint8_t)ROUNDS);
	}
	store_free(vhd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_checked),
		cmocka_unit_test(footer_has_the_specified_bytes),
		cmocka_unit_test(geometry_follows_the_appendix),
		cmocka_unit_test(parse_returns_what_format_took),
		cmocka_unit_test(any_flipped_bit_is_refused),
		cmocka_unit_test(other_kinds_of_vhd_are_refused),
		cmocka_unit_test(disk_ids_are_stable_and_differ),
		cmocka_unit_test(store_behaves_as_an_array),
		cmocka_unit_test(footer_cannot_be_changed),
		cmocka_unit_test(failures_below_come_up),
		cmocka_unit_test(full_comes_before_unreadable),
		cmocka_unit_test(unaligned_write_is_one_write),
		cmocka_unit_test(immutable_stays_immutable),
		cmocka_unit_test(bad_sizes_make_no_store),
		cmocka_unit_test(unaligned_writers_do_not_undo_each_other),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
