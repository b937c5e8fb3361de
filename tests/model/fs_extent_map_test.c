/*
 * fs/extent_map.c against the plainest model there is: an array with one cell a sector.
 *
 * Usage: fs_extent_map_test [seed [rounds]]
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "fs/extent_map.h"

static uint64_t seed = 1;
static unsigned rounds = 30;

struct cell {
	bool mapped, zero;
	uint32_t segment, header;
	uint8_t index, skip;
};

static struct cell cell_of(const struct extent *e, uint64_t i)
{
	struct cell c = { .mapped = true, .zero = e->zero, .segment = e->segment & 0xffffff };
	if (!e->zero) {
		c.header = e->header;
		c.index = e->index;
		c.skip = (uint8_t)(e->skip + i);
	}
	return c;
}

static bool cell_equal(const struct cell *a, const struct cell *b)
{
	return a->mapped == b->mapped && a->zero == b->zero && a->segment == b->segment &&
	       a->header == b->header && a->index == b->index && a->skip == b->skip;
}

/* Walks the map and compares every sector; also that nothing joinable is left apart. */
static void compare(const struct extent_map *map, const struct cell *model, uint64_t n)
{
	uint64_t at = 0, count = 0;
	struct extent e;
	assert_int_equal(extent_map_check(map), 0);
	while (extent_map_find(map, at, &e) == 0) {
		for (; at < e.lba; at++)
			assert_false(model[at].mapped);
		for (uint64_t i = 0; i < e.sectors; i++, at++) {
			struct cell c = cell_of(&e, i);
			assert_true(cell_equal(&c, &model[at]));
		}
		count++;
	}
	for (; at < n; at++)
		assert_false(model[at].mapped);
	assert_int_equal(count, extent_map_count(map));
}

static struct extent random_extent(struct rng *rng, uint64_t n, unsigned step)
{
	struct extent e = { .zero = rng_below(rng, 5) == 0 };
	uint64_t limit = e.zero && rng_below(rng, 20) == 0 ? n : e.zero ? 300 : 128;
	e.sectors = 1 + rng_below(rng, MIN(limit, n));
	if (!e.zero && rng_below(rng, 2) == 0)
		e.sectors = 8;
	e.lba = rng_below(rng, n - e.sectors + 1);
	e.segment = step / 400;
	e.header = 8 * (step % 400);
	if (!e.zero) {
		e.index = (uint8_t)rng_below(rng, 165);
		e.skip = (uint8_t)rng_below(rng, 128 - e.sectors + 1);
	}
	return e;
}

static void random_operations(void **state)
{
	(void)state;
	for (unsigned round = 0; round < rounds; round++) {
		struct rng rng;
		rng_seed(&rng, seed + round);
		uint64_t n = round % 3 == 0 ? 2000 : round % 3 == 1 ? 40000 : 200000;
		struct cell *model = calloc(n, sizeof(*model));
		struct extent_map *map;
		assert_int_equal(extent_map_new(&map), 0);
		unsigned steps = 4000;
		for (unsigned step = 0; step < steps; step++) {
			struct extent e = random_extent(&rng, n, step);
			if (rng_below(&rng, 10) == 0) {
				uint32_t segment = (uint32_t)rng_below(&rng, step / 400 + 1);
				assert_int_equal(
					extent_map_forget(map, e.lba, e.sectors, segment), 0);
				for (uint64_t i = 0; i < e.sectors; i++)
					if (model[e.lba + i].mapped &&
						model[e.lba + i].segment == segment)
						model[e.lba + i] = (struct cell){ 0 };
			} else {
				assert_int_equal(extent_map_insert(map, &e), 0);
				for (uint64_t i = 0; i < e.sectors; i++)
					model[e.lba + i] = cell_of(&e, i);
			}
			if (step % 500 == 0 || (n == 2000 && step % 25 == 0))
				compare(map, model, n);
		}
		compare(map, model, n);
		/* Taking all away leaves nothing. */
		for (uint32_t segment = 0; segment <= steps / 400; segment++)
			assert_int_equal(extent_map_forget(map, 0, n, segment), 0);
		assert_int_equal(extent_map_count(map), 0);
		assert_int_equal(extent_map_check(map), 0);
		extent_map_free(map);
		free(model);
	}
}

static void neighbours_are_joined(void **state)
{
	(void)state;
	struct extent_map *map;
	assert_int_equal(extent_map_new(&map), 0);
	struct extent e = { .lba = 100, .sectors = 8, .segment = 3, .header = 16, .index = 2 };
	assert_int_equal(extent_map_insert(map, &e), 0);
	struct extent after = e;
	after.lba = 108;
	after.skip = 8;
	assert_int_equal(extent_map_insert(map, &after), 0);
	assert_int_equal(extent_map_count(map), 1);
	struct extent z = { .lba = 0, .sectors = EXTENT_MAX_ZERO_SECTORS, .zero = true };
	for (uint64_t i = 0; i < 32; i++) {
		z.lba = i * EXTENT_MAX_ZERO_SECTORS;
		assert_int_equal(extent_map_insert(map, &z), 0);
	}
	assert_int_equal(extent_map_count(map), 32);
	struct extent found;
	assert_int_equal(extent_map_find(map, EXTENT_MAX_LBA - 1, &found), 0);
	assert_int_equal(found.sectors, EXTENT_MAX_ZERO_SECTORS);
	assert_int_equal(extent_map_find(map, EXTENT_MAX_LBA, &found), -ENOENT);
	extent_map_free(map);
}

/* Memory: below 17 bytes an extent in ascending order, below 24 at any moment of random filling. */
static void memory_is_bounded(void **state)
{
	(void)state;
	struct extent_map *map;
	const uint64_t n = 300000;
	assert_int_equal(extent_map_new(&map), 0);
	for (uint64_t i = 0; i < n; i++) {
		struct extent e = { .lba = i * 16, .sectors = 8, .header = 8 };
		assert_int_equal(extent_map_insert(map, &e), 0);
	}
	assert_true(extent_map_memory_bytes(map) < 17 * extent_map_count(map));
	extent_map_free(map);

	struct rng rng;
	rng_seed(&rng, seed);
	assert_int_equal(extent_map_new(&map), 0);
	double worst = 0;
	for (uint64_t i = 0; i < n; i++) {
		struct extent e = { .lba = rng_below(&rng, 1ull << 30) * 8, .sectors = 8 };
		assert_int_equal(extent_map_insert(map, &e), 0);
		if (i >= 10000 && i % 100 == 0)
			worst = MAX(worst, (double)extent_map_memory_bytes(map) /
						   (double)extent_map_count(map));
	}
	assert_int_equal(extent_map_check(map), 0);
	print_message("worst bytes an extent: %.1f\n", worst);
	assert_true(worst < 24);
	extent_map_free(map);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	print_message("seed %llu, %u rounds\n", (unsigned long long)seed, rounds);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations),
		cmocka_unit_test(neighbours_are_joined),
		cmocka_unit_test(memory_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
