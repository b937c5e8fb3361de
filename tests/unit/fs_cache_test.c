/*
 * fs/cache.c over a base whose bytes follow from (disk, point, offset): exactness, what is
 * fetched and how often, zeros, rot, failures below and of the cache's own disk, shrinking.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/rng.h"
#include "fs/cache.h"

#define BLOCK 65536u

struct fake_base {
	struct base base;
	uint64_t disk_bytes;
	atomic_uint reads;
	atomic_ullong bytes;
	atomic_int fail;     /* answer of every read */
	uint64_t bad_offset; /* reads that touch this byte answer -EIO; UINT64_MAX: none */
	atomic_bool hold;    /* reads wait while it is set */
	atomic_uint held;
};

/* Zeros in every third MiB. */
static uint8_t byte_at(uint16_t disk, uint64_t point, uint64_t offset)
{
	if (offset / MIB % 3 == 2)
		return 0;
	uint64_t x = (offset >> 3) * 0x9e3779b97f4a7c15ull + disk * 77 + point * 1234567;
	return (uint8_t)((x >> 32) + offset) | 1;
}

static int fake_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct fake_base *f = CONTAINER_OF(base, struct fake_base, base);
	atomic_fetch_add(&f->reads, 1);
	atomic_fetch_add(&f->held, 1);
	while (atomic_load(&f->hold))
		usleep(200);
	if (atomic_load(&f->fail))
		return atomic_load(&f->fail);
	if (offset + n > f->disk_bytes)
		return -EINVAL;
	if (f->bad_offset >= offset && f->bad_offset - offset < n)
		return -EIO;
	atomic_fetch_add(&f->bytes, n);
	for (size_t i = 0; i < n; i++)
		((uint8_t *)data)[i] = byte_at(disk, point, offset + i);
	return 0;
}

struct fixture {
	char directory[64], path[96];
	struct fake_base fake;
	struct cache *cache;
	struct base *base;
};

static const struct uuid group = { { 1 } };

static int setup(void **state)
{
	static const struct base_ops ops = { .read = fake_read };
	struct fixture *x = calloc(1, sizeof(*x));
	strcpy(x->directory, "/tmp/landfall-cache-XXXXXX");
	if (!mkdtemp(x->directory))
		return -1;
	snprintf(x->path, sizeof(x->path), "%s/cache", x->directory);
	x->fake.base.ops = &ops;
	x->fake.disk_bytes = 64 * MIB;
	x->fake.bad_offset = UINT64_MAX;
	if (cache_new(io_posix(), x->path, 4 * MIB, &x->cache) < 0 ||
		cache_base_new(x->cache, &group, &x->fake.base, &x->base) < 0)
		return -1;
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	cache_base_free(x->base);
	cache_free(x->cache);
	int r = access(x->path, F_OK) == 0; /* its file is gone with it */
	rmdir(x->directory);
	free(x);
	return r;
}

static int read_at(struct fixture *x, uint16_t disk, uint64_t point, uint64_t offset, size_t n)
{
	CLEANUP_FREE uint8_t *data = malloc(n);
	int r = x->base->ops->read(x->base, disk, point, offset, data, n);
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (data[i] != byte_at(disk, point, offset + i))
			return -EBADMSG;
	}
	return r;
}

static struct cache_stats stats_of(struct fixture *x)
{
	struct cache_stats s;
	cache_stats(x->cache, &s);
	return s;
}

static void too_small_is_refused(void **state)
{
	struct fixture *x = *state;
	struct cache *cache = NULL;
	char path[128];
	snprintf(path, sizeof(path), "%s/small", x->directory);
	assert_int_equal(cache_new(io_posix(), path, MIB - 1, &cache), -EINVAL);
	assert_null(cache);
}

static void second_read_is_a_hit(void **state)
{
	struct fixture *x = *state;
	assert_int_equal(read_at(x, 1, 5, 10 * BLOCK + 512, 4096), 0);
	assert_int_equal(x->fake.reads, 1);
	assert_int_equal(x->fake.bytes, BLOCK);
	assert_int_equal(read_at(x, 1, 5, 10 * BLOCK, BLOCK), 0);
	assert_int_equal(read_at(x, 1, 5, 10 * BLOCK + 60000 / 512 * 512, 512), 0);
	assert_int_equal(x->fake.reads, 1);
	assert_int_equal(stats_of(x).hits, 2);
	assert_int_equal(stats_of(x).misses, 1);
	assert_int_equal(stats_of(x).used_bytes, BLOCK);
}

static void keys_do_not_mix(void **state)
{
	struct fixture *x = *state;
	for (uint16_t disk = 1; disk < 4; disk++) {
		for (uint64_t point = 1; point < 4; point++)
			assert_int_equal(read_at(x, disk, point, 0, 4096), 0);
	}
	assert_int_equal(x->fake.reads, 9);
	struct base *other;
	struct uuid other_group = { { 2 } };
	assert_int_equal(cache_base_new(x->cache, &other_group, &x->fake.base, &other), 0);
	uint8_t data[512];
	assert_int_equal(other->ops->read(other, 1, 1, 0, data, 512), 0);
	assert_int_equal(x->fake.reads, 10);
	cache_base_free(other);
	/* The same group's second base shares what is there. */
	assert_int_equal(cache_base_new(x->cache, &group, &x->fake.base, &other), 0);
	assert_int_equal(other->ops->read(other, 1, 1, 0, data, 512), 0);
	assert_int_equal(x->fake.reads, 10);
	cache_base_free(other);
}

static void large_read_is_one_fetch(void **state)
{
	struct fixture *x = *state;
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
	assert_int_equal(x->fake.reads, 1);
	/* Around a block that is there, two. */
	assert_int_equal(read_at(x, 1, 1, 16 * MIB + 4 * BLOCK, 512), 0);
	assert_int_equal(read_at(x, 1, 1, 16 * MIB, MIB), 0);
	assert_int_equal(x->fake.reads, 4);
}

static void zeros_take_no_room(void **state)
{
	struct fixture *x = *state;
	assert_int_equal(read_at(x, 1, 1, 2 * MIB, MIB), 0);
	assert_int_equal(stats_of(x).used_bytes, 0);
	assert_int_equal(read_at(x, 1, 1, 2 * MIB, MIB), 0);
	assert_int_equal(x->fake.reads, 1);
}

static void sequential_reader_is_served_ahead(void **state)
{
	struct fixture *x = *state;
	for (uint64_t at = 0; at < 16 * MIB; at += 4096)
		assert_int_equal(read_at(x, 1, 1, at, 4096), 0);
	assert_in_range(x->fake.reads, 4, 30);
	assert_int_equal(x->fake.bytes % BLOCK, 0);
	/* Never further ahead than it has read. */
	assert_true(x->fake.bytes <= 2 * 16 * MIB);
}

static void random_reader_is_not(void **state)
{
	struct fixture *x = *state;
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(read_at(x, 1, 1, (i * 7 % 20) * 3 * MIB, 4096), 0);
	assert_int_equal(x->fake.bytes, 20 * BLOCK);
}

static void end_of_disk_is_reached(void **state)
{
	struct fixture *x = *state;
	x->fake.disk_bytes = 8 * MIB + 512; /* not even a whole block at the end */
	for (uint64_t at = 0; at < x->fake.disk_bytes; at += 512 * 9)
		assert_int_equal(read_at(x, 1, 1, at, MIN(512 * 9ull, x->fake.disk_bytes - at)), 0);
	assert_int_equal(read_at(x, 1, 1, 8 * MIB, 512), 0);
	assert_int_equal(read_at(x, 1, 1, 8 * MIB, 1024), -EINVAL);
}

static void random_reads_are_exact_under_eviction(void **state)
{
	struct fixture *x = *state;
	struct rng rng;
	rng_seed(&rng, 3);
	for (int i = 0; i < 1500; i++) {
		size_t n = (1 + rng_below(&rng, rng_below(&rng, 20) ? 16 : 600)) * 512;
		uint64_t at = rng_below(&rng, (x->fake.disk_bytes - n) / 512) * 512;
		assert_int_equal(read_at(x, (uint16_t)rng_below(&rng, 2), 1, at, n), 0);
	}
	assert_true(stats_of(x).evictions > 100);
	assert_true(stats_of(x).used_bytes <= 4 * MIB);
	assert_int_equal(stats_of(x).rotten, 0);
}

static void second_chance_keeps_what_is_used(void **state)
{
	struct fixture *x = *state;
	for (unsigned i = 0; i < 400; i++) {
		assert_int_equal(read_at(x, 1, 1, 0, 4096), 0);
		assert_int_equal(read_at(x, 2, 1 + i, 21 * MIB, 4096), 0);
	}
	/* 401 misses if the hot block was never evicted; a few more are the price of the clock. */
	assert_in_range(x->fake.reads, 401, 420);
}

static void rot_is_found_and_mended(void **state)
{
	struct fixture *x = *state;
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
	int fd = open(x->path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "rot", 3, 4096 * 3 + 17), 3);
	close(fd);
	for (int i = 0; i < 2; i++) {
		for (uint64_t at = 0; at < MIB; at += 4096)
			assert_int_equal(read_at(x, 1, 1, at, 4096), 0);
	}
	assert_int_equal(stats_of(x).rotten, 1);
}

static void truncated_file_is_survived(void **state)
{
	struct fixture *x = *state;
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
	assert_int_equal(truncate(x->path, 100), 0);
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
}

static void failures_below_are_told_and_not_kept(void **state)
{
	struct fixture *x = *state;
	const int errors[] = { -EAGAIN, -ETIMEDOUT, -ENOENT, -EIO };
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		x->fake.fail = errors[i];
		assert_int_equal(read_at(x, 1, 1, 0, MIB), errors[i]);
	}
	x->fake.fail = 0;
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
	x->fake.fail = -ETIMEDOUT;
	assert_int_equal(read_at(x, 1, 1, 0, MIB), 0);
}

static void one_bad_sector_costs_only_itself(void **state)
{
	struct fixture *x = *state;
	x->fake.bad_offset = 4 * BLOCK + 1024;
	assert_int_equal(read_at(x, 1, 1, 4 * BLOCK, 1024), 0);
	assert_int_equal(read_at(x, 1, 1, 4 * BLOCK + 1024, 512), -EIO);
	assert_int_equal(read_at(x, 1, 1, 4 * BLOCK + 1536, BLOCK - 1536), 0);
	assert_int_equal(read_at(x, 1, 1, 0, 4 * BLOCK), 0);
	assert_int_equal(read_at(x, 1, 1, 0, MIB), -EIO);
	assert_int_equal(read_at(x, 1, 1, 5 * BLOCK, MIB), 0);
}

struct reader {
	struct fixture *fixture;
	pthread_t thread;
	int result;
};

static void *read_one(void *argument)
{
	struct reader *r = argument;
	r->result = read_at(r->fixture, 1, 1, 3 * MIB + BLOCK, 8192);
	return NULL;
}

static void many_readers_one_fetch(void **state)
{
	struct fixture *x = *state;
	struct reader readers[8];
	x->fake.hold = true;
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		readers[i] = (struct reader){ .fixture = x, .result = -1 };
		pthread_create(&readers[i].thread, NULL, read_one, &readers[i]);
	}
	while (x->fake.held == 0)
		usleep(200);
	usleep(20000); /* the others join meanwhile; those who come later find it stored */
	x->fake.hold = false;
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		pthread_join(readers[i].thread, NULL);
		assert_int_equal(readers[i].result, 0);
	}
	assert_int_equal(x->fake.reads, 1);
}

static void many_readers_share_a_failure(void **state)
{
	struct fixture *x = *state;
	struct reader readers[8];
	x->fake.hold = true;
	x->fake.fail = -EIO;
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		readers[i] = (struct reader){ .fixture = x, .result = -1 };
		pthread_create(&readers[i].thread, NULL, read_one, &readers[i]);
	}
	while (x->fake.held == 0)
		usleep(200);
	x->fake.hold = false;
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		pthread_join(readers[i].thread, NULL);
		assert_int_equal(readers[i].result, -EIO);
	}
}

static void *read_around(void *argument)
{
	struct reader *r = argument;
	struct rng rng;
	rng_seed(&rng, (uint64_t)(uintptr_t)r);
	r->result = 0;
	for (int i = 0; i < 300 && r->result == 0; i++) {
		size_t n = (1 + rng_below(&rng, 300)) * 512;
		r->result = read_at(r->fixture, 1, 1, rng_below(&rng, 20 * MIB / 512) * 512, n);
	}
	return NULL;
}

static void readers_shrinking_and_failures_together(void **state)
{
	struct fixture *x = *state;
	struct reader readers[4];
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		readers[i] = (struct reader){ .fixture = x };
		pthread_create(&readers[i].thread, NULL, read_around, &readers[i]);
	}
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(cache_shrink(x->cache, (i % 4) * MIB), 0);
		usleep(1000);
	}
	for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
		pthread_join(readers[i].thread, NULL);
		assert_int_equal(readers[i].result, 0);
	}
}

static void shrinking_frees_room(void **state)
{
	struct fixture *x = *state;
	for (uint64_t at = 0; at < 6 * MIB; at += MIB)
		assert_int_equal(read_at(x, 1, 1, at, MIB), 0);
	assert_int_equal(cache_shrink(x->cache, MIB), 0);
	assert_true(stats_of(x).used_bytes <= MIB);
	assert_int_equal(stats_of(x).capacity_bytes, MIB);
	for (uint64_t at = 0; at < 6 * MIB; at += MIB)
		assert_int_equal(read_at(x, 1, 1, at, MIB), 0);
	assert_true(stats_of(x).used_bytes <= MIB);
	assert_int_equal(cache_shrink(x->cache, 0), 0);
	assert_int_equal(read_at(x, 1, 1, 0, 4096), 0);
	assert_int_equal(stats_of(x).used_bytes, 0);
}

/* ── a disk that fails ───────────────────────────────────────────────────────────────────── */

struct bad_io {
	struct io io;
	struct io_ops ops;
	int write_error, read_error;
};

struct bad_file {
	struct io_file file;
	struct io_file *real;
};

static int bad_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	struct bad_file *f = calloc(1, sizeof(*f));
	f->file.io = io;
	int r = io_open(io_posix(), path, flags, &f->real);
	if (r < 0)
		free(f);
	else
		*ret_file = &f->file;
	return r;
}

static void bad_close(struct io_file *file)
{
	struct bad_file *f = CONTAINER_OF(file, struct bad_file, file);
	io_close(f->real);
	free(f);
}

static int bad_read(struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n)
{
	struct bad_io *io = CONTAINER_OF(file->io, struct bad_io, io);
	struct bad_file *f = CONTAINER_OF(file, struct bad_file, file);
	return io->read_error ? io->read_error : io_read(f->real, data, n, offset, ret_n);
}

static int bad_write(struct io_file *file, const struct iovec *iov, int count, uint64_t offset)
{
	struct bad_io *io = CONTAINER_OF(file->io, struct bad_io, io);
	struct bad_file *f = CONTAINER_OF(file, struct bad_file, file);
	return io->write_error ? io->write_error : io_writev(f->real, iov, count, offset);
}

static int bad_truncate(struct io_file *file, uint64_t bytes)
{
	return io_truncate(CONTAINER_OF(file, struct bad_file, file)->real, bytes);
}

static int bad_unlink(struct io *io, const char *path)
{
	(void)io;
	return io_unlink(io_posix(), path);
}

static void failing_disk_is_passed_by(void **state)
{
	struct fixture *x = *state;
	log_set_level(LOG_LEVEL_ERROR);
	const struct {
		int write_error, read_error;
	} cases[] = { { -EIO, 0 }, { 0, -EIO }, { -ENOSPC, 0 } };
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bad_io io = {
			.ops = { .open = bad_open,
				.close = bad_close,
				.read = bad_read,
				.write = bad_write,
				.truncate = bad_truncate,
				.unlink = bad_unlink },
			.write_error = cases[i].write_error,
			.read_error = cases[i].read_error,
		};
		io.io.ops = &io.ops;
		struct cache *cache;
		struct base *base, *good = x->base;
		char path[128];
		snprintf(path, sizeof(path), "%s/bad", x->directory);
		assert_int_equal(cache_new(&io.io, path, MIB, &cache), 0);
		assert_int_equal(cache_base_new(cache, &group, &x->fake.base, &base), 0);
		x->base = base;
		for (int round = 0; round < 3; round++)
			assert_int_equal(read_at(x, 1, 1, 0, 4 * BLOCK), 0);
		/* A full disk is no broken one: with room again, it caches again. */
		io.write_error = io.read_error = 0;
		unsigned reads = x->fake.reads;
		for (int round = 0; round < 3; round++)
			assert_int_equal(read_at(x, 1, 1, 0, 4 * BLOCK), 0);
		assert_int_equal(x->fake.reads - reads, cases[i].write_error == -ENOSPC ? 1 : 3);
		x->base = good;
		cache_base_free(base);
		cache_free(cache);
	}
	log_set_level(LOG_LEVEL_INFO);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(too_small_is_refused),
		TEST(second_read_is_a_hit),
		TEST(keys_do_not_mix),
		TEST(large_read_is_one_fetch),
		TEST(zeros_take_no_room),
		TEST(sequential_reader_is_served_ahead),
		TEST(random_reader_is_not),
		TEST(end_of_disk_is_reached),
		TEST(random_reads_are_exact_under_eviction),
		TEST(second_chance_keeps_what_is_used),
		TEST(rot_is_found_and_mended),
		TEST(truncated_file_is_survived),
		TEST(failures_below_are_told_and_not_kept),
		TEST(one_bad_sector_costs_only_itself),
		TEST(many_readers_one_fetch),
		TEST(many_readers_share_a_failure),
		TEST(readers_shrinking_and_failures_together),
		TEST(shrinking_frees_room),
		TEST(failing_disk_is_passed_by),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
