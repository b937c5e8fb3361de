/*
 * Several clones of several points against plain arrays, while the live disk goes on changing and
 * clones come and go. The seed is printed; give it as the argument to repeat.
 */
#include "tests/unit/cmocka_common.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "fs/clone.h"
#include "tests/unit/history_fixture.h"

#define DISK_BYTES (16 * MIB)
#define SECTORS (DISK_BYTES / SECTOR_BYTES)
#define POINTS 4
#define CLONES 4
#define STEPS 6000

static uint64_t seed;

struct world {
	struct history_fixture h;
	struct rng rng;
	uint8_t *live;
	uint64_t numbers[POINTS];
	uint8_t *points[POINTS];
	struct clone *clones[CLONES];
	uint8_t *models[CLONES];
	uint8_t *scratch;
};

static void pick_range(struct world *w, uint64_t *ret_lba, uint32_t *ret_sectors)
{
	uint64_t most = rng_below(&w->rng, 10) ? 64 : 2048;
	/* Near each other, so that they overlap. */
	uint64_t lba =
		rng_below(&w->rng, 2) ? rng_below(&w->rng, 4096) : rng_below(&w->rng, SECTORS);
	*ret_lba = lba;
	*ret_sectors = (uint32_t)MIN(1 + rng_below(&w->rng, most), SECTORS - lba);
}

static void write_live(struct world *w)
{
	uint64_t lba, lsn;
	uint32_t n;
	pick_range(w, &lba, &n);
	uint8_t *at = w->live + lba * SECTOR_BYTES;
	if (rng_below(&w->rng, 4) == 0) {
		memset(at, 0, (size_t)n * SECTOR_BYTES);
		assert_int_equal(history_zero(w->h.history, w->h.disk, lba, n, &lsn), 0);
		assert_int_equal(history_commit(w->h.history, &lsn), 0);
	} else {
		rng_fill(&w->rng, at, (size_t)n * SECTOR_BYTES);
		fixture_write(&w->h, lba, n, at);
	}
}

static void take_point(struct world *w, unsigned i)
{
	w->numbers[i] = fixture_seal(&w->h);
	memcpy(w->points[i], w->live, DISK_BYTES);
}

static void make_clone(struct world *w, unsigned i)
{
	char path[128];
	unsigned point = (unsigned)rng_below(&w->rng, POINTS);
	snprintf(path, sizeof(path), "%s.clone-%u", w->h.directory, i);
	assert_int_equal(clone_new(io_posix(), path, w->h.history, w->numbers[point], 64 * MIB,
				 &w->clones[i]),
		0);
	memcpy(w->models[i], w->points[point], DISK_BYTES);
}

static void change_clone(struct world *w, unsigned i)
{
	uint64_t lba;
	uint32_t n;
	pick_range(w, &lba, &n);
	uint8_t *at = w->models[i] + lba * SECTOR_BYTES;
	if (rng_below(&w->rng, 3) == 0) {
		uint64_t sectors = rng_below(&w->rng, 20) ? n : SECTORS - lba;
		memset(at, 0, (size_t)sectors * SECTOR_BYTES);
		assert_int_equal(clone_zero(w->clones[i], w->h.disk, lba, sectors), 0);
	} else {
		rng_fill(&w->rng, at, (size_t)n * SECTOR_BYTES);
		assert_int_equal(clone_write(w->clones[i], w->h.disk, lba, n, at), 0);
	}
}

static void check_clone(struct world *w, unsigned i)
{
	uint64_t lba;
	uint32_t n;
	pick_range(w, &lba, &n);
	assert_int_equal(clone_read(w->clones[i], w->h.disk, lba, n, w->scratch), 0);
	assert_memory_equal(
		w->scratch, w->models[i] + lba * SECTOR_BYTES, (size_t)n * SECTOR_BYTES);
}

static void check_whole(struct world *w, unsigned i)
{
	assert_int_equal(clone_read(w->clones[i], w->h.disk, 0, SECTORS, w->scratch), 0);
	assert_memory_equal(w->scratch, w->models[i], DISK_BYTES);
}

static void clones_behave_as_arrays(void **state)
{
	(void)state;
	struct world w = { 0 };
	fixture_open(&w.h);
	rng_seed(&w.rng, seed);
	w.live = calloc(1, DISK_BYTES);
	w.scratch = malloc(DISK_BYTES);
	for (unsigned i = 0; i < POINTS; i++) {
		w.points[i] = malloc(DISK_BYTES);
		for (int k = 0; k < 20; k++)
			write_live(&w);
		take_point(&w, i);
	}
	for (unsigned i = 0; i < CLONES; i++) {
		w.models[i] = malloc(DISK_BYTES);
		make_clone(&w, i);
	}
	for (int step = 0; step < STEPS; step++) {
		unsigned i = (unsigned)rng_below(&w.rng, CLONES);
		uint64_t what = rng_below(&w.rng, 1000);
		if (what < 3) {
			check_whole(&w, i);
			clone_free(w.clones[i]);
			make_clone(&w, i);
		} else if (what < 20) {
			write_live(&w);
		} else if (what < 500) {
			change_clone(&w, i);
		} else {
			check_clone(&w, i);
		}
	}
	for (unsigned i = 0; i < CLONES; i++) {
		check_whole(&w, i);
		clone_free(w.clones[i]);
		free(w.models[i]);
	}
	for (unsigned i = 0; i < POINTS; i++)
		free(w.points[i]);
	free(w.live);
	free(w.scratch);
	fixture_close(&w.h);
}

int main(int argc, char **argv)
{
	seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
	print_message("seed %" PRIu64 "\n", seed);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clones_behave_as_arrays),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
