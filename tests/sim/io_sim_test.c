/*
 * The simulated disk itself: that it keeps what was synced, and loses what was not in every way
 * it claims to.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/sim/clock_sim.h"
#include "tests/sim/io_sim.h"

static struct io_sim *new_sim(uint64_t seed)
{
	struct io_sim *sim;
	assert_int_equal(io_sim_new(seed, &sim), 0);
	return sim;
}

static struct io_file *open_file(struct io_sim *sim, const char *path, unsigned flags)
{
	struct io_file *file;
	assert_int_equal(io_open(io_sim_io(sim), path, flags, &file), 0);
	return file;
}

static void put(struct io_file *file, char fill, size_t n, uint64_t offset)
{
	char *data = malloc(n);
	assert_non_null(data);
	memset(data, fill, n);
	assert_int_equal(io_write(file, data, n, offset), 0);
	free(data);
}

static char byte_at(struct io_file *file, uint64_t offset)
{
	char c;
	assert_int_equal(io_read_all(file, &c, 1, offset), 0);
	return c;
}

static void synced_data_and_names_survive_every_mode(void **state)
{
	(void)state;
	for (unsigned keep = 0; keep < IO_SIM_KEEP_MODES; keep++) {
		struct io_sim *sim = new_sim(keep);
		struct io *io = io_sim_io(sim);
		assert_int_equal(io_make_dir(io, "/d"), 0);
		assert_int_equal(io_sync_dir(io, "/"), 0);
		struct io_file *file = open_file(sim, "/d/a", IO_WRITE | IO_CREATE);
		put(file, 'x', 10000, 0);
		assert_int_equal(io_datasync(file), 0);
		assert_int_equal(io_sync_dir(io, "/d"), 0);
		put(file, 'y', 10000, 0);
		io_sim_power_cut(sim);
		assert_int_equal(io_datasync(file), -EIO);
		io_sim_power_on(sim, keep);
		char c;
		size_t got;
		assert_int_equal(io_read(file, &c, 1, 0, &got), -EIO);
		io_close(file);
		file = open_file(sim, "/d/a", IO_READ);
		for (unsigned i = 0; i < 10000; i++) {
			c = byte_at(file, i);
			assert_true(c == 'x' || (c == 'y' && keep != IO_SIM_KEEP_NONE));
			/* A sector is never torn. */
			if (i % SECTOR_BYTES != 0)
				assert_int_equal(c, byte_at(file, i - 1));
		}
		if (keep == IO_SIM_KEEP_NONE)
			assert_int_equal(byte_at(file, 0), 'x');
		if (keep == IO_SIM_KEEP_ALL)
			assert_int_equal(byte_at(file, 9999), 'y');
		io_close(file);
		io_sim_free(sim);
	}
}

static void names_wait_for_the_directory(void **state)
{
	(void)state;
	unsigned there = 0, gone = 0;
	for (unsigned seed = 0; seed < 40; seed++) {
		struct io_sim *sim = new_sim(seed);
		struct io *io = io_sim_io(sim);
		struct io_file *file = open_file(sim, "/a", IO_WRITE | IO_CREATE);
		put(file, 'x', 512, 0);
		assert_int_equal(io_datasync(file), 0);
		io_close(file);
		io_sim_power_on(sim, IO_SIM_KEEP_SUBSET);
		int r = io_open(io, "/a", IO_READ, &file);
		assert_true(r == 0 || r == -ENOENT);
		there += r == 0;
		gone += r != 0;
		if (r == 0) {
			assert_int_equal(byte_at(file, 511), 'x');
			io_close(file);
		}
		io_sim_free(sim);
	}
	assert_true(there > 5 && gone > 5);
}

static void rename_is_whole(void **state)
{
	(void)state;
	unsigned old_seen = 0, new_seen = 0;
	for (unsigned seed = 0; seed < 60; seed++) {
		struct io_sim *sim = new_sim(seed);
		struct io *io = io_sim_io(sim);
		assert_int_equal(io_replace_file(io, "/f", "old", 3), 0);
		io_sim_crash_at(sim, io_sim_ops(sim) + 1 + seed % 6);
		int r = io_replace_file(io, "/f", "new", 3);
		assert_true(r == 0 || r == -EIO);
		io_sim_power_on(sim, seed % IO_SIM_KEEP_MODES);
		char *data;
		size_t n;
		assert_int_equal(io_load_file(io, "/f", 100, &data, &n), 0);
		assert_true(n == 3 && (!strcmp(data, "old") || !strcmp(data, "new")));
		assert_true(r != 0 || !strcmp(data, "new"));
		old_seen += !strcmp(data, "old");
		new_seen += !strcmp(data, "new");
		free(data);
		io_sim_free(sim);
	}
	assert_true(old_seen > 5 && new_seen > 5);
}

static void a_killed_process_leaves_unsynced_data_unsynced(void **state)
{
	(void)state;
	struct io_sim *sim = new_sim(1);
	struct io *io = io_sim_io(sim);
	struct io_file *file = open_file(sim, "/a", IO_WRITE | IO_CREATE);
	assert_int_equal(io_sync_dir(io, "/"), 0);
	put(file, 'x', 4096, 0);
	io_sim_kill(sim);
	io_close(file);
	file = open_file(sim, "/a", IO_WRITE);
	assert_int_equal(byte_at(file, 4095), 'x');
	io_close(file);
	io_sim_power_on(sim, IO_SIM_KEEP_NONE);
	file = open_file(sim, "/a", IO_WRITE);
	uint64_t bytes;
	assert_int_equal(io_size(file, &bytes), 0);
	assert_int_equal(bytes, 0);
	io_close(file);
	io_sim_free(sim);
}

static void a_failed_sync_is_not_made_good_by_the_next(void **state)
{
	(void)state;
	unsigned lost = 0;
	for (unsigned seed = 0; seed < 20; seed++) {
		struct io_sim *sim = new_sim(seed);
		struct io_file *file = open_file(sim, "/a", IO_WRITE | IO_CREATE);
		assert_int_equal(io_sync_dir(io_sim_io(sim), "/"), 0);
		assert_int_equal(io_truncate(file, 4096), 0);
		assert_int_equal(io_datasync(file), 0);
		put(file, 'x', 512, 0);
		io_sim_fail(sim, IO_SIM_DATASYNC, 1, -EIO, true);
		assert_int_equal(io_datasync(file), -EIO);
		assert_true(io_sim_has_failed(sim));
		assert_int_equal(byte_at(file, 0), 'x');
		assert_int_equal(io_datasync(file), 0);
		io_close(file);
		io_sim_power_on(sim, IO_SIM_KEEP_ALL);
		file = open_file(sim, "/a", IO_READ);
		lost += byte_at(file, 0) != 'x';
		io_close(file);
		io_sim_free(sim);
	}
	assert_true(lost > 3 && lost < 17);
}

static void room_ends(void **state)
{
	(void)state;
	struct io_sim *sim = new_sim(1);
	struct io_file *file = open_file(sim, "/a", IO_WRITE | IO_CREATE);
	io_sim_set_room(sim, 64 * KIB);
	assert_int_equal(io_allocate(file, 60 * KIB), 0);
	uint64_t room;
	assert_int_equal(io_free_bytes(io_sim_io(sim), "/", &room), 0);
	assert_int_equal(room, 4 * KIB);
	put(file, 'x', 60 * KIB, 0);
	put(file, 'x', 4 * KIB, 60 * KIB);
	char c = 'y';
	assert_int_equal(io_write(file, &c, 1, 64 * KIB), -ENOSPC);
	assert_int_equal(io_unlink(io_sim_io(sim), "/a"), 0);
	assert_int_equal(io_sim_used_bytes(sim), 0);
	io_close(file);
	io_sim_free(sim);
}

static void rot_hits_both_sides(void **state)
{
	(void)state;
	struct io_sim *sim = new_sim(1);
	struct io_file *file = open_file(sim, "/a", IO_WRITE | IO_CREATE);
	io_sim_set_stamp(sim, 7);
	put(file, 'x', 4096, 0);
	assert_int_equal(io_datasync(file), 0);
	assert_int_equal(io_sync_dir(io_sim_io(sim), "/"), 0);
	unsigned char mask = 1;
	assert_int_equal(io_sim_rot(sim, "/a", 600, &mask, 1), 0);
	assert_int_equal(io_sim_rot(sim, "/a", 4096, &mask, 1), -EINVAL);
	uint64_t stamp;
	bool blank;
	assert_int_equal(io_sim_stamp(sim, "/a", 600, &stamp, &blank), 0);
	assert_true(stamp == 7 && !blank);
	assert_int_equal(byte_at(file, 600), 'x' ^ 1);
	io_close(file);
	io_sim_power_on(sim, IO_SIM_KEEP_ALL);
	file = open_file(sim, "/a", IO_READ);
	assert_int_equal(byte_at(file, 600), 'x' ^ 1);
	assert_int_equal(byte_at(file, 601), 'x');
	io_close(file);
	io_sim_free(sim);
}

static void time_moves_only_when_told(void **state)
{
	(void)state;
	struct clock_sim clock;
	clock_sim_init(&clock);
	int64_t start = clock_realtime_ns(&clock.source);
	assert_true(clock_realtime_ns(&clock.source) == start);
	clock_sleep_ns(&clock.source, 5);
	clock_sim_advance(&clock, 6);
	assert_true(clock_realtime_ns(&clock.source) == start + 11);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(synced_data_and_names_survive_every_mode),
		cmocka_unit_test(names_wait_for_the_directory),
		cmocka_unit_test(rename_is_whole),
		cmocka_unit_test(a_killed_process_leaves_unsynced_data_unsynced),
		cmocka_unit_test(a_failed_sync_is_not_made_good_by_the_next),
		cmocka_unit_test(room_ends),
		cmocka_unit_test(rot_hits_both_sides),
		cmocka_unit_test(time_moves_only_when_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
