/*
 * Arithmetic on marks against a plain model: one state a block. Random ranges are marked, taken
 * in passes with room for few ranges, settled and put back; after every step both must agree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "replicator/agent/marks.h"

struct world {
	struct marks marks;
	uint64_t *taken; /* pass + 1, 0: not taken */
	bool *dirty;
	uint64_t seed;
};

static uint64_t draw(struct world *w, uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed % below;
}

static void world_new(struct world *w, uint64_t bytes, unsigned shift, uint64_t seed)
{
	marks_plan(bytes, shift, &w->marks);
	w->marks.map = calloc(1, w->marks.map_bytes);
	w->taken = calloc(w->marks.blocks, sizeof(*w->taken));
	w->dirty = calloc(w->marks.blocks, sizeof(*w->dirty));
	w->seed = seed * 2654435761u + 1;
	assert_non_null(w->marks.map);
	assert_non_null(w->taken);
	assert_non_null(w->dirty);
}

static void world_free(struct world *w)
{
	free(w->marks.map);
	free(w->taken);
	free(w->dirty);
}

static void do_set(struct world *w)
{
	uint64_t bytes = w->marks.disk_bytes, offset = draw(w, bytes);
	uint64_t length = 1 + draw(w, draw(w, 4) ? MIN(bytes - offset, 300000ull) : bytes - offset);
	marks_set(&w->marks, offset, length);
	for (uint64_t b = offset >> w->marks.shift; b <= (offset + length - 1) >> w->marks.shift;
		b++)
		w->dirty[b] = true;
}

static void do_take(struct world *w, uint64_t pass)
{
	struct tracker_range ranges[8];
	uint64_t at = 0, block_bytes = 1ull << w->marks.shift;
	size_t rounds = 0;
	bool *seen = calloc(w->marks.blocks, sizeof(*seen));
	assert_non_null(seen);
	while (at < w->marks.disk_bytes) {
		size_t count = 0, capacity = 1 + draw(w, ARRAY_SIZE(ranges));
		uint64_t next = 0, last = at;
		marks_take(&w->marks, pass, at, capacity, ranges, &count, &next);
		assert_true(count <= capacity);
		assert_true(next > at || count > 0);
		for (size_t i = 0; i < count; i++) {
			assert_true(is_aligned(ranges[i].offset, block_bytes));
			assert_true(ranges[i].length > 0);
			assert_true(ranges[i].offset >= last);
			last = ranges[i].offset + ranges[i].length;
			assert_true(last <= next && last <= w->marks.disk_bytes);
			for (uint64_t b = ranges[i].offset; b < last; b += block_bytes)
				seen[b >> w->marks.shift] = true;
		}
		at = next;
		assert_true(++rounds <= w->marks.blocks + 1);
	}
	for (uint64_t b = 0; b < w->marks.blocks; b++) {
		if (seen[b] != w->dirty[b])
			fail_msg("block %llu: taken %d, written %d", (unsigned long long)b, seen[b],
				w->dirty[b]);
		if (seen[b])
			w->taken[b] = pass + 1;
		w->dirty[b] = false;
	}
	free(seen);
}

static void do_settle(struct world *w, uint64_t pass)
{
	uint64_t bytes = w->marks.disk_bytes, offset = draw(w, bytes);
	uint64_t length = draw(w, 2) ? bytes - offset : draw(w, bytes - offset + 1);
	uint64_t block_bytes = 1ull << w->marks.shift;
	marks_settle(&w->marks, pass, offset, length);
	for (uint64_t b = 0; b < w->marks.blocks; b++) {
		uint64_t begin = b * block_bytes, end = MIN(begin + block_bytes, bytes);
		if (begin >= offset && end <= offset + length && w->taken[b] == pass + 1)
			w->taken[b] = 0;
	}
}

/* Whoever dies now and comes back must find all that is written or taken, and no more. */
static void check_survivors(struct world *w)
{
	struct world copy = *w;
	copy.marks.map = malloc(w->marks.map_bytes);
	copy.dirty = calloc(w->marks.blocks, sizeof(*copy.dirty));
	copy.taken = calloc(w->marks.blocks, sizeof(*copy.taken));
	assert_non_null(copy.marks.map);
	assert_non_null(copy.dirty);
	assert_non_null(copy.taken);
	memcpy(copy.marks.map, w->marks.map, w->marks.map_bytes);
	for (uint64_t b = 0; b < w->marks.blocks; b++)
		copy.dirty[b] = w->dirty[b] || w->taken[b];
	marks_untake(&copy.marks);
	do_take(&copy, 7);
	world_free(&copy);
}

static void exercise(uint64_t bytes, unsigned shift, uint64_t seed)
{
	struct world w;
	uint64_t pass = 1;
	world_new(&w, bytes, shift, seed);
	for (int step = 0; step < 60; step++) {
		switch (draw(&w, 5)) {
		case 0:
			do_take(&w, pass++);
			break;
		case 1:
			do_settle(&w, pass - 1 - draw(&w, 2));
			break;
		case 2:
			check_survivors(&w);
			break;
		default:
			do_set(&w);
		}
		for (uint64_t b = 0; b < w.marks.blocks; b += 1 + draw(&w, 400))
			assert_int_equal(
				marks_is_dirty(&w.marks, b << w.marks.shift, 1), w.dirty[b]);
	}
	do_take(&w, pass);
	assert_int_equal(marks_dirty_bytes(&w.marks), 0);
	world_free(&w);
}

static void test_random_steps_as_the_model(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		exercise(300 * MIB + 512 * seed, 16, seed);
		exercise(200 * MIB + 4096 * seed, 12, seed + 100);
		exercise(4096 * seed + 512, 12, seed + 200);
	}
}

static void test_the_whole_of_a_large_disk_is_marked_in_few_stores(void **state)
{
	(void)state;
	struct world w;
	world_new(&w, 64 * GIB + 512, 16, 1);
	marks_set(&w.marks, 0, 64 * GIB + 512);
	uint64_t stores = 0;
	for (uint64_t i = 0; i < w.marks.map_bytes; i++)
		stores += w.marks.map[i] != 0;
	assert_true(stores < 600);
	assert_int_equal(marks_dirty_bytes(&w.marks), 64 * GIB + 512);
	struct tracker_range range;
	size_t count = 0;
	uint64_t next = 0;
	marks_take(&w.marks, 1, 0, 1, &range, &count, &next);
	assert_int_equal(count, 1);
	assert_int_equal(range.offset, 0);
	assert_int_equal(range.length, 64 * GIB + 512);
	assert_int_equal(next, 64 * GIB + 512);
	world_free(&w);
}

static void test_a_block_written_after_it_was_taken_stays_written(void **state)
{
	(void)state;
	struct world w;
	struct tracker_range range;
	size_t count = 0;
	uint64_t next = 0;
	world_new(&w, MIB, 12, 1);
	marks_set(&w.marks, 8192, 4096);
	marks_take(&w.marks, 1, 0, 1, &range, &count, &next);
	assert_int_equal(count, 1);
	marks_set(&w.marks, 8192, 1);
	marks_settle(&w.marks, 1, 0, MIB);
	assert_true(marks_is_dirty(&w.marks, 8192, 4096));
	/* Taken again in another pass: the first one's settling comes late and means nothing. */
	marks_take(&w.marks, 2, 0, 1, &range, &count, &next);
	marks_settle(&w.marks, 1, 0, MIB);
	marks_untake(&w.marks);
	assert_true(marks_is_dirty(&w.marks, 8192, 4096));
	assert_false(marks_is_dirty(&w.marks, 12288, 4096));
	world_free(&w);
}

static bool is_taken(struct world *w, uint64_t pass, uint64_t offset)
{
	struct tracker_range range;
	size_t count = 0;
	uint64_t next = 0;
	marks_take(&w->marks, pass, 0, 1, &range, &count, &next);
	if (count == 0)
		return false;
	assert_int_equal(range.offset, offset);
	assert_int_equal(range.length, 4096);
	return true;
}

/* Settled or not: what was taken is taken again when it may have been read too early, once. */
static void test_what_is_recalled_is_taken_again_and_is_sure_then(void **state)
{
	(void)state;
	for (int settled = 0; settled < 2; settled++) {
		struct world w;
		world_new(&w, MIB, 12, 1);
		marks_set(&w.marks, 8192, 1);
		assert_true(is_taken(&w, 123, 8192));
		assert_true(marks_is_unsure(&w.marks, 0, MIB));
		if (settled)
			marks_settle(&w.marks, 123, 0, MIB);
		assert_false(marks_is_dirty(&w.marks, 0, MIB));
		assert_int_equal(marks_recall(&w.marks), 4096);
		marks_settle(&w.marks, 123, 0, MIB); /* too late: it is to be sent again */
		assert_true(marks_is_dirty(&w.marks, 8192, 1));
		assert_int_equal(marks_dirty_bytes(&w.marks), 4096);
		assert_true(is_taken(&w, 124, 8192));
		assert_false(marks_is_unsure(&w.marks, 0, MIB));
		assert_int_equal(marks_recall(&w.marks), 0);
		marks_settle(&w.marks, 124, 0, MIB);
		assert_false(is_taken(&w, 125, 8192));
		for (uint64_t i = 0; i < w.marks.map_bytes; i++)
			assert_int_equal(w.marks.map[i], 0);
		world_free(&w);
	}
}

static void test_what_is_proven_is_not_recalled(void **state)
{
	(void)state;
	struct world w;
	world_new(&w, MIB, 12, 1);
	marks_set(&w.marks, 8192, 1);
	assert_true(is_taken(&w, 0, 8192));
	marks_settle(&w.marks, 0, 0, MIB);
	marks_set(&w.marks, 12288, 1);
	assert_true(is_taken(&w, 1, 12288));
	marks_prove(&w.marks);
	assert_false(marks_is_unsure(&w.marks, 0, MIB));
	assert_int_equal(marks_recall(&w.marks), 0);
	/* Proven while it is on its way: a process that dies still sends it. */
	marks_untake(&w.marks);
	assert_true(is_taken(&w, 2, 12288));
	marks_settle(&w.marks, 2, 0, MIB);
	/* Settled and unsure outlives the process as that. */
	marks_untake(&w.marks);
	assert_false(marks_is_dirty(&w.marks, 0, MIB));
	assert_int_equal(marks_recall(&w.marks), 4096);
	marks_untake(&w.marks);
	assert_true(is_taken(&w, 3, 12288));
	/* Written again since: that mark stays, and is unsure. */
	marks_set(&w.marks, 12288, 1);
	marks_settle(&w.marks, 3, 0, MIB);
	assert_true(is_taken(&w, 4, 12288));
	assert_true(marks_is_unsure(&w.marks, 12288, 1));
	world_free(&w);
}

static void test_what_had_landed_when_it_was_taken_is_sure(void **state)
{
	(void)state;
	struct world w;
	for (int unland = 0; unland < 2; unland++) {
		world_new(&w, MIB, 12, 1);
		marks_set(&w.marks, 12288, 1);
		if (unland)
			assert_int_equal(marks_recall(&w.marks), 0);
		else
			marks_prove(&w.marks);
		assert_int_equal(marks_dirty_bytes(&w.marks), 4096);
		if (unland)
			marks_unland(&w.marks);
		assert_true(marks_is_dirty(&w.marks, 12288, 1));
		assert_true(is_taken(&w, 4, 12288));
		assert_int_equal(marks_is_unsure(&w.marks, 12288, 1), unland);
		/* Written once more: as unsure as any. */
		marks_prove(&w.marks);
		marks_set(&w.marks, 12288, 1);
		assert_true(is_taken(&w, 5, 12288));
		assert_true(marks_is_unsure(&w.marks, 12288, 1));
		world_free(&w);
	}
}

static void test_growing_keeps_what_is_written_or_taken(void **state)
{
	(void)state;
	struct world small, large;
	struct tracker_range ranges[3];
	size_t count = 0;
	uint64_t next = 0;
	world_new(&small, 64 * MIB, 12, 1);
	world_new(&large, 96 * MIB, 12, 1);
	marks_set(&small.marks, 40960, 4096);
	marks_take(&small.marks, 1, 0, 1, ranges, &count, &next);
	marks_set(&small.marks, 16 * MIB, 16 * MIB);
	marks_merge(&small.marks, &large.marks);
	marks_take(&large.marks, 2, 0, 3, ranges, &count, &next);
	assert_int_equal(count, 2);
	assert_int_equal(ranges[0].offset, 40960);
	assert_int_equal(ranges[0].length, 4096);
	assert_int_equal(ranges[1].offset, 16 * MIB);
	assert_int_equal(ranges[1].length, 16 * MIB);
	world_free(&small);
	world_free(&large);
}

static void test_memory_is_bounded_by_the_size_of_blocks(void **state)
{
	(void)state;
	assert_int_equal(marks_shift_for(GIB, 16 * MIB), 12);
	assert_int_equal(marks_shift_for(2 * TIB, 33 * MIB), 16);
	struct marks plan;
	marks_plan(2 * TIB, 16, &plan);
	assert_true(plan.map_bytes <= 32 * MIB + 512 * KIB);
	for (uint64_t bytes = 512; bytes < 64 * TIB; bytes = bytes * 3 + 512) {
		marks_plan(bytes, marks_shift_for(bytes, 16 * MIB), &plan);
		assert_true(plan.map_bytes <= 16 * MIB);
		assert_true(plan.blocks << plan.shift >= bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_steps_as_the_model),
		cmocka_unit_test(test_the_whole_of_a_large_disk_is_marked_in_few_stores),
		cmocka_unit_test(test_a_block_written_after_it_was_taken_stays_written),
		cmocka_unit_test(test_what_is_recalled_is_taken_again_and_is_sure_then),
		cmocka_unit_test(test_what_is_proven_is_not_recalled),
		cmocka_unit_test(test_what_had_landed_when_it_was_taken_is_sure),
		cmocka_unit_test(test_growing_keeps_what_is_written_or_taken),
		cmocka_unit_test(test_memory_is_bounded_by_the_size_of_blocks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
