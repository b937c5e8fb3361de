/*
 * fs/clone.c over a real history: branches are independent, the quota holds, nothing is left
 * behind, and a failed flush is not forgotten.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/log.h"
#include "fs/clone.h"
#include "tests/unit/history_fixture.h"

#define DISK_SECTORS (16 * MIB / SECTOR_BYTES)

struct fixture {
	struct history_fixture h;
	uint64_t point;
	char path[96];
	struct clone *clone;
	struct faulty_io faulty; /* the clone's */
};

static void fill(uint8_t *data, uint32_t sectors, uint8_t value)
{
	memset(data, value, sectors * SECTOR_BYTES);
}

static struct clone *make(struct fixture *x, const char *path, uint64_t quota_bytes)
{
	struct clone *clone = NULL;
	assert_int_equal(
		clone_new(&x->faulty.io, path, x->h.history, x->point, quota_bytes, &clone), 0);
	return clone;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	uint8_t data[8 * SECTOR_BYTES];
	fixture_open(&x->h);
	faulty_io_init(&x->faulty);
	fill(data, 8, 1);
	fixture_write(&x->h, 100, 8, data);
	x->point = fixture_seal(&x->h);
	fill(data, 8, 2);
	fixture_write(&x->h, 100, 8, data);
	snprintf(x->path, sizeof(x->path), "%s.clone", x->h.directory);
	x->clone = make(x, x->path, MIB);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	struct stat st;
	clone_free(x->clone);
	int left = stat(x->path, &st) == 0;
	fixture_close(&x->h);
	free(x);
	return left;
}

static void check(struct clone *clone, uint16_t disk, uint64_t lba, uint32_t sectors, uint8_t value)
{
	uint8_t *data = malloc(sectors * SECTOR_BYTES);
	assert_int_equal(clone_read(clone, disk, lba, sectors, data), 0);
	for (size_t i = 0; i < sectors * SECTOR_BYTES; i++)
		assert_int_equal(data[i], value);
	free(data);
}

static void branches_are_independent(void **state)
{
	struct fixture *x = *state;
	uint8_t data[4 * SECTOR_BYTES];
	char path[128];
	snprintf(path, sizeof(path), "%s-2", x->path);
	struct clone *other = make(x, path, MIB);
	check(x->clone, x->h.disk, 100, 8, 1);
	check(x->clone, x->h.disk, 0, 100, 0);
	fill(data, 4, 7);
	assert_int_equal(clone_write(x->clone, x->h.disk, 102, 4, data), 0);
	assert_int_equal(clone_zero(x->clone, x->h.disk, 107, 1000), 0);
	check(x->clone, x->h.disk, 100, 2, 1);
	check(x->clone, x->h.disk, 102, 4, 7);
	check(x->clone, x->h.disk, 106, 1, 1);
	check(x->clone, x->h.disk, 107, 1001, 0);
	check(other, x->h.disk, 100, 8, 1);
	uint8_t head[SECTOR_BYTES];
	assert_int_equal(history_read(x->h.history, x->h.disk, 102, 1, head), 0);
	assert_int_equal(head[0], 2);
	assert_int_equal(clone_flush(x->clone), 0);
	clone_free(other);
	assert_int_equal(access(path, F_OK), -1);
}

static void bad_ranges_are_refused(void **state)
{
	struct fixture *x = *state;
	uint8_t data[SECTOR_BYTES] = { 0 };
	assert_int_equal(clone_read(x->clone, 99, 0, 1, data), -ENOENT);
	assert_int_equal(clone_write(x->clone, 99, 0, 1, data), -ENOENT);
	assert_int_equal(clone_read(x->clone, x->h.disk, DISK_SECTORS, 1, data), -EINVAL);
	assert_int_equal(clone_write(x->clone, x->h.disk, DISK_SECTORS - 1, 2, data), -EINVAL);
	assert_int_equal(clone_zero(x->clone, x->h.disk, 1, UINT64_MAX), -EINVAL);
	struct clone *none = NULL;
	assert_int_equal(
		clone_new(&x->faulty.io, "/tmp/none", x->h.history, 999, MIB, &none), -ENOENT);
	assert_null(none);
	assert_int_equal(access("/tmp/none", F_OK), -1);
}

static void quota_holds(void **state)
{
	struct fixture *x = *state;
	struct clone_stats stats;
	uint8_t *data = malloc(MIB);
	memset(data, 3, MIB);
	/* A mebibyte and its map are a little too much. */
	assert_int_equal(clone_write(x->clone, x->h.disk, 2048, 2048, data), -ENOSPC);
	check(x->clone, x->h.disk, 2048, 2048, 0);
	clone_stats(x->clone, &stats);
	assert_int_equal(stats.used_bytes, 0);
	assert_int_equal(clone_write(x->clone, x->h.disk, 2048, 2040, data), 0);
	clone_stats(x->clone, &stats);
	assert_int_equal(stats.used_bytes, 2040 * SECTOR_BYTES + 512);
	assert_int_equal(clone_write(x->clone, x->h.disk, 0, 16, data), -ENOSPC);
	/* Over what is there already, for nothing. */
	assert_int_equal(clone_write(x->clone, x->h.disk, 2048, 2040, data), 0);
	assert_int_equal(clone_zero(x->clone, x->h.disk, 2048, 2040), 0);
	assert_int_equal(clone_write(x->clone, x->h.disk, 2048, 2040, data), 0);
	check(x->clone, x->h.disk, 2048, 2040, 3);
	/* Whole mebibytes of zeros cost nothing. */
	assert_int_equal(clone_zero(x->clone, x->h.disk, 4096, 20480), 0);
	clone_stats(x->clone, &stats);
	assert_int_equal(stats.used_bytes, 2040 * SECTOR_BYTES + 512);
	free(data);
}

static void old_overlay_is_emptied(void **state)
{
	struct fixture *x = *state;
	char path[128], file[160];
	snprintf(path, sizeof(path), "%s-old", x->path);
	snprintf(file, sizeof(file), "%s/1.overlay", path);
	assert_int_equal(mkdir(path, 0700), 0);
	FILE *f = fopen(file, "w");
	assert_non_null(f);
	fputs("left by a daemon that died", f);
	fclose(f);
	struct clone *clone = make(x, path, MIB);
	check(clone, x->h.disk, 0, 8, 0);
	clone_free(clone);
	assert_int_equal(access(path, F_OK), -1);
}

static void failed_write_changes_nothing(void **state)
{
	struct fixture *x = *state;
	uint8_t data[4 * SECTOR_BYTES];
	fill(data, 4, 7);
	x->faulty.write_error = -EIO;
	assert_int_equal(clone_write(x->clone, x->h.disk, 100, 4, data), -EIO);
	x->faulty.write_error = 0;
	check(x->clone, x->h.disk, 100, 8, 1);
	assert_int_equal(clone_write(x->clone, x->h.disk, 100, 4, data), 0);
	check(x->clone, x->h.disk, 100, 4, 7);
}

static void failed_flush_is_not_forgotten(void **state)
{
	struct fixture *x = *state;
	uint8_t data[SECTOR_BYTES] = { 0 };
	log_set_level((enum log_level)0);
	x->faulty.sync_error = -EIO;
	assert_int_equal(clone_flush(x->clone), 0); /* nothing to flush */
	assert_int_equal(clone_write(x->clone, x->h.disk, 0, 1, data), 0);
	assert_int_equal(clone_flush(x->clone), -EIO);
	x->faulty.sync_error = 0;
	assert_int_equal(clone_flush(x->clone), -EIO);
	assert_int_equal(clone_write(x->clone, x->h.disk, 0, 1, data), -EIO);
	log_set_level(LOG_LEVEL_INFO);
}

static void dropped_point_lives_on_in_the_clone(void **state)
{
	struct fixture *x = *state;
	uint64_t lsn;
	(void)fixture_seal(&x->h);
	int r = history_point_drop(x->h.history, x->point, POINT_LOCAL, &lsn);
	assert_true(r == 0 || r == -EBUSY);
	check(x->clone, x->h.disk, 100, 8, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(branches_are_independent),
		TEST(bad_ranges_are_refused),
		TEST(quota_holds),
		TEST(old_overlay_is_emptied),
		TEST(failed_write_changes_nothing),
		TEST(failed_flush_is_not_forgotten),
		TEST(dropped_point_lives_on_in_the_clone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
