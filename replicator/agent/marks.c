/*
 * Arithmetic on marks: see marks.h for what a byte means and who may touch it when.
 *
 * Every access is an atomic one, as programs in the kernel store into the same bytes. The order
 * that matters is between the exchange in marks_take and the read of the disk that follows it;
 * both a locked exchange and the system call give it. When a mark of a higher level is spread,
 * level 0 is written before the higher one is cleared: whoever dies in between leaves too many
 * marks, never too few.
 */
#include "replicator/agent/marks.h"

#include <string.h>

#include "common/bytes.h"
#include "replicator/agent/capture_format.h"

#define FAN (1ull << CAPTURE_FAN_SHIFT)
#define CLEAN 0
#define WRITTEN 1
#define TAGS TRACKER_PASSES
#define FIRST_TAG 2u /* unsure; those of sure ones follow */
#define FIRST_SURE_TAG (FIRST_TAG + TAGS)
#define LANDED (FIRST_SURE_TAG + TAGS)
#define SETTLED (LANDED + 1)
static_assert(SETTLED <= UINT8_MAX, "states of a block fit a byte");

static uint8_t tag_of(uint64_t pass)
{
	return (uint8_t)(FIRST_TAG + pass % TAGS);
}

static uint8_t sure_tag_of(uint64_t pass)
{
	return (uint8_t)(FIRST_SURE_TAG + pass % TAGS);
}

/* To be taken. */
static bool is_wanted(uint8_t state)
{
	return state == WRITTEN || state == LANDED;
}

static bool is_unsure(uint8_t state)
{
	return state == SETTLED || (state >= FIRST_TAG && state < FIRST_SURE_TAG);
}

static uint8_t load(const uint8_t *byte)
{
	return __atomic_load_n(byte, __ATOMIC_ACQUIRE);
}

static void store(uint8_t *byte, uint8_t value)
{
	__atomic_store_n(byte, value, __ATOMIC_RELEASE);
}

/* Changes `from` into `to`; false if it was something else. */
static bool change(uint8_t *byte, uint8_t from, uint8_t to)
{
	return __atomic_compare_exchange_n(
		byte, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}

/* Eight marks at once, to pass over what is clean. */
static bool eight_clean(const struct marks *marks, uint64_t block)
{
	return __atomic_load_n((const uint64_t *)(marks->map + block), __ATOMIC_ACQUIRE) == 0;
}

/* The first block from `block` on, below `end`, whose mark is not clean; `end` if there is none. */
static uint64_t next_unclean(const struct marks *marks, uint64_t block, uint64_t end)
{
	while (block < end) {
		if (is_aligned(block, 8) && block + 8 <= end && eight_clean(marks, block)) {
			block += 8;
			continue;
		}
		if (load(&marks->map[block]) != CLEAN)
			return block;
		block++;
	}
	return end;
}

static uint64_t upwards(uint64_t n)
{
	return (n + FAN - 1) >> CAPTURE_FAN_SHIFT;
}

void marks_plan(uint64_t bytes, unsigned shift, struct marks *ret_marks)
{
	uint64_t blocks = (bytes + (1ull << shift) - 1) >> shift;
	uint64_t level1 = round_up(blocks, 8), level2 = level1 + round_up(upwards(blocks), 8);

	*ret_marks = (struct marks){
		.disk_bytes = bytes,
		.shift = shift,
		.blocks = blocks,
		.level1 = level1,
		.level2 = level2,
		.map_bytes =
			round_up(MAX(level2 + upwards(upwards(blocks)), 1ull), CAPTURE_PAGE_BYTES),
	};
}

unsigned marks_shift_for(uint64_t bytes, uint64_t memory_bytes)
{
	for (unsigned shift = __builtin_ctz(MARKS_BLOCK_BYTES_MIN);; shift++) {
		struct marks plan;
		marks_plan(bytes, shift, &plan);
		if (plan.map_bytes <= memory_bytes || 1ull << shift >= MARKS_BLOCK_BYTES_MAX)
			return shift;
	}
}

/* Single blocks at the ends, the middle in the highest level that fits: as the programs do. */
void marks_set(const struct marks *marks, uint64_t offset, uint64_t length)
{
	uint64_t end = MIN(offset + length, marks->disk_bytes);
	if (offset >= end)
		return;
	uint64_t a = offset >> marks->shift, b = ((end - 1) >> marks->shift) + 1;
	const uint64_t base[] = { 0, marks->level1, marks->level2 };
	for (unsigned level = 0;; level++) {
		if (level == 2 || b - a <= 2 * FAN) {
			for (; a < b; a++)
				store(&marks->map[base[level] + a], WRITTEN);
			return;
		}
		for (; !is_aligned(a, FAN); a++)
			store(&marks->map[base[level] + a], WRITTEN);
		for (; !is_aligned(b, FAN); b--)
			store(&marks->map[base[level] + b - 1], WRITTEN);
		a >>= CAPTURE_FAN_SHIFT;
		b >>= CAPTURE_FAN_SHIFT;
	}
}

/* Turns marks of the higher levels into single ones, as far as they touch [first, end). */
static void spread(const struct marks *marks, uint64_t first, uint64_t end)
{
	const uint64_t base[] = { marks->level1, marks->level2 };

	for (int level = 1; level >= 0; level--) {
		unsigned shift = CAPTURE_FAN_SHIFT * (unsigned)(level + 1);
		uint64_t last = (end + (1ull << shift) - 1) >> shift;
		for (uint64_t i = first >> shift; i < last; i++) {
			uint8_t *higher = &marks->map[base[level] + i];
			if (load(higher) == CLEAN)
				continue;
			uint64_t to = MIN((i + 1) << shift, marks->blocks);
			for (uint64_t block = i << shift; block < to; block++)
				store(&marks->map[block], WRITTEN);
			/* A write marked here since then is marked below as well. */
			change(higher, WRITTEN, CLEAN);
		}
	}
}

static void range_of(
	const struct marks *marks, uint64_t block, uint64_t end, struct tracker_range *ret_range)
{
	ret_range->offset = block << marks->shift;
	ret_range->length = MIN(end << marks->shift, marks->disk_bytes) - ret_range->offset;
}

void marks_take(const struct marks *marks, uint64_t pass, uint64_t offset, size_t capacity,
	struct tracker_range *ret_ranges, size_t *ret_count, uint64_t *ret_next)
{
	const uint64_t window = FAN * FAN;
	uint8_t tag = tag_of(pass), sure_tag = sure_tag_of(pass);
	uint64_t block = offset >> marks->shift, from = 0;
	size_t count = 0;
	bool open = false;

	/* A window is what a byte of level 2 covers: it is spread, then walked. */
	while (block < marks->blocks && (count < capacity || open)) {
		uint64_t end = MIN(round_down(block, window) + window, marks->blocks);
		spread(marks, block, end);
		while (block < end) {
			if (!open) {
				uint64_t unclean = next_unclean(marks, block, end);
				if (unclean != block) {
					block = unclean;
					continue;
				}
				if (count == capacity)
					break;
			}
			bool taken = change(&marks->map[block], WRITTEN, tag) ||
				     change(&marks->map[block], LANDED, sure_tag);
			if (taken && !open)
				from = block;
			if (!taken && open)
				range_of(marks, from, block, &ret_ranges[count++]);
			open = taken;
			block++;
		}
		if (block < end)
			break;
	}
	if (open)
		range_of(marks, from, block, &ret_ranges[count++]);
	*ret_count = count;
	*ret_next = block < marks->blocks ? block << marks->shift : marks->disk_bytes;
}

void marks_settle(const struct marks *marks, uint64_t pass, uint64_t offset, uint64_t length)
{
	uint8_t tag = tag_of(pass), sure_tag = sure_tag_of(pass);
	uint64_t stop = MIN(offset + length, marks->disk_bytes);
	uint64_t block = round_up(offset, 1ull << marks->shift) >> marks->shift;
	uint64_t end = stop == marks->disk_bytes ? marks->blocks : stop >> marks->shift;

	while ((block = next_unclean(marks, block, end)) < end) {
		if (!change(&marks->map[block], tag, SETTLED))
			change(&marks->map[block], sure_tag, CLEAN);
		block++;
	}
}

uint64_t marks_dirty_bytes(const struct marks *marks)
{
	uint64_t dirty = 0;
	uint64_t level1_blocks = upwards(marks->blocks);
	uint64_t level2_blocks = upwards(level1_blocks);

	for (uint64_t block = 0;
		(block = next_unclean(marks, block, marks->blocks)) < marks->blocks; block++)
		dirty += is_wanted(load(&marks->map[block]));
	/* Not exact where levels overlap: an estimate from above. */
	for (uint64_t i = 0; i < level1_blocks; i++)
		dirty += load(&marks->map[marks->level1 + i]) ? FAN : 0;
	for (uint64_t i = 0; i < level2_blocks; i++)
		dirty += load(&marks->map[marks->level2 + i]) ? FAN * FAN : 0;
	return MIN(dirty << marks->shift, marks->disk_bytes);
}

bool marks_is_dirty(const struct marks *marks, uint64_t offset, uint64_t length)
{
	uint64_t stop = MIN(offset + length, marks->disk_bytes);
	if (offset >= stop)
		return false;
	uint64_t end = ((stop - 1) >> marks->shift) + 1;
	for (uint64_t block = offset >> marks->shift; block < end; block++) {
		uint64_t one = block >> CAPTURE_FAN_SHIFT, two = one >> CAPTURE_FAN_SHIFT;
		if (is_wanted(load(&marks->map[block])) || load(&marks->map[marks->level1 + one]) ||
			load(&marks->map[marks->level2 + two]))
			return true;
	}
	return false;
}

bool marks_is_unsure(const struct marks *marks, uint64_t offset, uint64_t length)
{
	uint64_t stop = MIN(offset + length, marks->disk_bytes);
	if (offset >= stop)
		return false;
	uint64_t end = ((stop - 1) >> marks->shift) + 1;
	for (uint64_t block = offset >> marks->shift; block < end; block++)
		if (is_unsure(load(&marks->map[block])))
			return true;
	return false;
}

/* Settled ones stay what they are: whether they were read right is found out as before. */
void marks_untake(const struct marks *marks)
{
	for (uint64_t block = 0;
		(block = next_unclean(marks, block, marks->blocks)) < marks->blocks; block++)
		if (load(&marks->map[block]) < LANDED)
			store(&marks->map[block], WRITTEN);
}

void marks_prove(const struct marks *marks)
{
	for (uint64_t block = 0;
		(block = next_unclean(marks, block, marks->blocks)) < marks->blocks; block++) {
		uint8_t state = load(&marks->map[block]);
		if (state == WRITTEN)
			change(&marks->map[block], WRITTEN, LANDED);
		else if (state == SETTLED)
			change(&marks->map[block], SETTLED, CLEAN);
		else if (is_unsure(state))
			change(&marks->map[block], state, (uint8_t)(state + TAGS));
	}
}

uint64_t marks_recall(const struct marks *marks)
{
	uint64_t recalled = 0;
	for (uint64_t block = 0;
		(block = next_unclean(marks, block, marks->blocks)) < marks->blocks; block++) {
		uint8_t state = load(&marks->map[block]);
		if (state == WRITTEN)
			change(&marks->map[block], WRITTEN, LANDED);
		else if (is_unsure(state))
			recalled += change(&marks->map[block], state, LANDED);
	}
	return MIN(recalled << marks->shift, marks->disk_bytes);
}

void marks_unland(const struct marks *marks)
{
	for (uint64_t block = 0;
		(block = next_unclean(marks, block, marks->blocks)) < marks->blocks; block++)
		change(&marks->map[block], LANDED, WRITTEN);
}

void marks_merge(const struct marks *from, const struct marks *to)
{
	spread(from, 0, from->blocks);
	for (uint64_t block = 0; (block = next_unclean(from, block, from->blocks)) < from->blocks;
		block++)
		marks_set(to, block << from->shift, 1ull << from->shift);
}
