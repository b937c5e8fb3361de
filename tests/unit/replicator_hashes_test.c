/*
 * replicator/hashes_*.c: what is written is read again, merged as by a plain model, every bit
 * flip is found, and the size keeps its promise.
 */
#include "tests/unit/cmocka_common.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "replicator/hashes.h"

#define PAGES 4096u
#define DISKS 3u
enum { ABSENT = 0, ZEROS = 1 }; /* a model's page; anything else is its hash */

static const struct uuid group = { { 1, 2, 3 } };

static int to_buf(void *context, unsigned part, const void *data, size_t n)
{
	(void)part;
	assert_true(n <= HASHES_PART_BYTES);
	return buf_append(context, data, n);
}

static int from_buf(
	void *context, uint64_t offset, void *data, size_t n, struct error *error, size_t *ret_n)
{
	struct buf *b = context;
	(void)error;
	*ret_n = offset < b->len ? MIN(n, b->len - offset) : 0;
	if (*ret_n > 0)
		memcpy(data, b->data + offset, *ret_n);
	return 0;
}

static void random_model(struct rng *rng, uint64_t model[DISKS][PAGES])
{
	memset(model, 0, DISKS * PAGES * sizeof(uint64_t));
	for (uint64_t i = rng_below(rng, 200); i > 0; i--) {
		unsigned disk = (unsigned)rng_below(rng, DISKS);
		unsigned first = (unsigned)rng_below(rng, PAGES);
		unsigned n = 1 + (unsigned)rng_below(rng, rng_below(rng, 8) == 0 ? 600 : 4);
		bool zero = rng_below(rng, 4) == 0;
		for (unsigned p = first; p < first + n && p < PAGES; p++)
			model[disk][p] = zero ? ZEROS : rng_next(rng) | 2;
	}
}

static struct hashes_written write_model(
	uint64_t model[DISKS][PAGES], uint64_t from, uint64_t number, struct buf *ret)
{
	struct hashes_writer *w;
	struct hashes_written written;
	struct hashes_sink sink = { to_buf, ret };
	assert_int_equal(hashes_writer_new(&group, from, number, &sink, &w), 0);
	for (uint16_t d = 0; d < DISKS; d++) {
		for (uint32_t p = 0; p < PAGES; p++) {
			uint64_t *page = &model[d][p];
			if (*page == ABSENT)
				continue;
			assert_int_equal(hashes_writer_add(w, (uint16_t)(d + 1), p, 1,
						 *page == ZEROS ? NULL : page),
				0);
		}
	}
	assert_int_equal(hashes_writer_finish(w, &written), 0);
	assert_int_equal(written.bytes, ret->len);
	hashes_writer_free(w);
	return written;
}

/* 0 and the model, or -EBADMSG. */
static int read_model(struct buf *b, uint64_t ret[DISKS][PAGES], uint64_t *ret_digest)
{
	struct hashes_source source = { from_buf, b, "test" };
	struct hashes_reader *r;
	struct hashes_run run;
	struct error error = { 0 };
	uint64_t bytes;
	memset(ret, 0, DISKS * PAGES * sizeof(uint64_t));
	int e = hashes_reader_new(&source, &error, &r);
	if (e < 0)
		return e;
	while ((e = hashes_reader_next(r, &error, &run)) == 0) {
		for (uint32_t i = 0; i < run.count; i++)
			ret[run.disk - 1][run.first_page + i] = run.hashes ? run.hashes[i] : ZEROS;
	}
	hashes_reader_totals(r, &bytes, ret_digest);
	hashes_reader_free(r);
	if (e != -ENOENT) {
		assert_true(error.message[0] != '\0');
		return e;
	}
	assert_int_equal(bytes, b->len);
	return 0;
}

static void what_is_written_is_read(void **state)
{
	static uint64_t model[DISKS][PAGES], back[DISKS][PAGES];
	struct rng rng;
	(void)state;
	rng_seed(&rng, 1);
	for (int i = 0; i < 50; i++) {
		CLEANUP(buf_free) struct buf b = { 0 };
		uint64_t digest;
		random_model(&rng, model);
		struct hashes_written written = write_model(model, 3, 9, &b);
		assert_int_equal(read_model(&b, back, &digest), 0);
		assert_memory_equal(model, back, sizeof(model));
		assert_true(digest == written.digest);
	}
}

/* The disks in any order, a page or some at a time: the same bytes as one disk after another. */
static void lanes_bring_disks_into_order(void **state)
{
	static uint64_t model[DISKS][PAGES];
	static const uint16_t disks[DISKS] = { 1, 2, 3 };
	struct rng rng;
	(void)state;
	rng_seed(&rng, 5);
	for (int i = 0; i < 100; i++) {
		CLEANUP(buf_free) struct buf want = { 0 }, got = { 0 };
		struct hashes_sink sink = { to_buf, &got };
		struct hashes_writer *w;
		struct hashes_lanes *lanes;
		struct hashes_written written;
		uint32_t at[DISKS] = { 0 }, open = DISKS;
		bool ended[DISKS] = { false };
		random_model(&rng, model);
		struct hashes_written wanted = write_model(model, 3, 9, &want);
		assert_int_equal(hashes_writer_new(&group, 3, 9, &sink, &w), 0);
		assert_int_equal(hashes_lanes_new(w, disks, DISKS, &lanes), 0);
		while (open > 0) {
			unsigned d = (unsigned)rng_below(&rng, DISKS);
			uint32_t n = 0, first = at[d];
			if (ended[d])
				continue;
			if (first == PAGES) {
				assert_int_equal(hashes_lanes_end(lanes, d), 0);
				assert_int_equal(
					hashes_lanes_add(lanes, d, first, 1, NULL), -EINVAL);
				ended[d] = true;
				open--;
				continue;
			}
			bool zero = model[d][first] == ZEROS;
			uint32_t most = 1 + (uint32_t)rng_below(&rng, 700);
			while (first + n < PAGES && n < most && model[d][first + n] != ABSENT &&
				(model[d][first + n] == ZEROS) == zero)
				n++;
			assert_true(hashes_lanes_may_add(lanes, d));
			if (n > 0)
				assert_int_equal(hashes_lanes_add(lanes, d, first, n,
							 zero ? NULL : &model[d][first]),
					0);
			at[d] += MAX(n, 1u);
		}
		hashes_lanes_free(lanes);
		assert_int_equal(hashes_writer_finish(w, &written), 0);
		hashes_writer_free(w);
		assert_true(written.digest == wanted.digest);
		assert_int_equal(got.len, want.len);
		assert_memory_equal(got.data, want.data, want.len);
	}
}

/* However much comes, what is held back is bounded, and the first disk always goes on. */
static void lanes_hold_no_more_than_they_may(void **state)
{
	static const uint16_t disks[2] = { 1, 2 };
	static const uint64_t hashes[1024] = { 1 };
	CLEANUP(buf_free) struct buf got = { 0 };
	struct hashes_sink sink = { to_buf, &got };
	struct hashes_writer *w;
	struct hashes_lanes *lanes;
	struct hashes_written written;
	uint32_t page = 0;
	(void)state;
	assert_int_equal(hashes_writer_new(&group, 0, 1, &sink, &w), 0);
	assert_int_equal(hashes_lanes_new(w, disks, 2, &lanes), 0);
	for (; hashes_lanes_may_add(lanes, 1); page += 1024)
		assert_int_equal(hashes_lanes_add(lanes, 1, page, 1024, hashes), 0);
	assert_in_range(page * 8ull, HASHES_LANES_BYTES - MIB, HASHES_LANES_BYTES);
	assert_true(hashes_lanes_may_add(lanes, 0));
	assert_int_equal(hashes_lanes_add(lanes, 0, 0, 1024, hashes), 0);
	assert_true(got.len < MIB);
	assert_int_equal(hashes_lanes_end(lanes, 0), 0);
	assert_true(hashes_lanes_may_add(lanes, 1));
	assert_int_equal(hashes_lanes_add(lanes, 1, page, 1024, hashes), 0);
	assert_int_equal(hashes_lanes_end(lanes, 1), 0);
	hashes_lanes_free(lanes);
	assert_int_equal(hashes_writer_finish(w, &written), 0);
	assert_true(written.bytes > (page + 2048) * 8ull);
	hashes_writer_free(w);
}

static void every_flipped_bit_is_found(void **state)
{
	static uint64_t model[DISKS][PAGES], back[DISKS][PAGES];
	CLEANUP(buf_free) struct buf b = { 0 };
	struct rng rng;
	uint64_t digest;
	(void)state;
	rng_seed(&rng, 2);
	random_model(&rng, model);
	write_model(model, 0, 1, &b);
	for (size_t i = 0; i < b.len; i++) {
		b.data[i] ^= (char)(1 << rng_below(&rng, 8));
		assert_int_equal(read_model(&b, back, &digest), -EBADMSG);
		write_model(model, 0, 1, (buf_clear(&b), &b));
	}
	for (size_t cut = 1; cut < b.len; cut += 7) {
		struct buf shorter = { b.data, b.len - cut, 0 };
		assert_int_equal(read_model(&shorter, back, &digest), -EBADMSG);
	}
	assert_int_equal(buf_append(&b, "", 1), 0);
	assert_int_equal(read_model(&b, back, &digest), -EBADMSG);
}

static void merging_is_newest_wins(void **state)
{
	static uint64_t old[DISKS][PAGES], new[DISKS][PAGES], back[DISKS][PAGES];
	struct rng rng;
	(void)state;
	rng_seed(&rng, 3);
	for (int i = 0; i < 100; i++) {
		CLEANUP(buf_free) struct buf a = { 0 }, b = { 0 }, c = { 0 };
		struct hashes_source sources[2] = { { from_buf, &a, "old" },
			{ from_buf, &b, "new" } };
		struct hashes_sink sink = { to_buf, &c };
		struct hashes_reader *older, *newer;
		struct hashes_writer *w;
		struct hashes_written written;
		struct error error;
		uint64_t digest;
		random_model(&rng, old);
		random_model(&rng, new);
		write_model(old, 0, 4, &a);
		write_model(new, 4, 7, &b);
		assert_int_equal(hashes_reader_new(&sources[0], &error, &older), 0);
		assert_int_equal(hashes_reader_new(&sources[1], &error, &newer), 0);
		assert_int_equal(hashes_writer_new(&group, 0, 7, &sink, &w), 0);
		assert_int_equal(hashes_merge(older, newer, w, &error), 0);
		assert_int_equal(hashes_writer_finish(w, &written), 0);
		hashes_writer_free(w);
		hashes_reader_free(older);
		hashes_reader_free(newer);
		for (unsigned d = 0; d < DISKS; d++)
			for (unsigned p = 0; p < PAGES; p++)
				if (new[d][p] != ABSENT)
					old[d][p] = new[d][p];
		assert_int_equal(read_model(&c, back, &digest), 0);
		assert_memory_equal(old, back, sizeof(old));
	}
}

static void a_mark_leads_back(void **state)
{
	static uint64_t model[DISKS][PAGES];
	CLEANUP(buf_free) struct buf b = { 0 };
	struct hashes_source source = { from_buf, &b, "test" };
	struct hashes_reader *r;
	struct hashes_run run, again;
	struct hashes_mark mark;
	struct error error;
	(void)state;
	for (unsigned d = 0; d < DISKS; d++)
		for (unsigned p = 0; p < PAGES; p++)
			model[d][p] = 2 + d * PAGES + p;
	write_model(model, 0, 1, &b);
	assert_int_equal(hashes_reader_new(&source, &error, &r), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(hashes_reader_next(r, &error, &run), 0);
	hashes_reader_mark(r, &mark);
	assert_int_equal(mark.next_disk, run.disk);
	assert_int_equal(mark.next_page, run.first_page);
	hashes_reader_free(r);
	assert_int_equal(hashes_reader_new(&source, &error, &r), 0);
	hashes_reader_seek(r, &mark);
	assert_int_equal(hashes_reader_next(r, &error, &again), 0);
	assert_int_equal(again.first_page, run.first_page);
	assert_true(again.hashes[0] == 2 + (again.disk - 1u) * PAGES + again.first_page);
	while (hashes_reader_next(r, &error, &again) == 0)
		;
	hashes_reader_mark(r, &mark);
	assert_int_equal(mark.next_page, UINT32_MAX);
	hashes_reader_free(r);
}

static void lone_pages_cost_at_most_three_thousandths(void **state)
{
	CLEANUP(buf_free) struct buf b = { 0 };
	struct hashes_sink sink = { to_buf, &b };
	struct hashes_writer *w;
	struct hashes_written written;
	struct rng rng;
	uint32_t page = 0;
	const unsigned count = 100000;
	(void)state;
	rng_seed(&rng, 4);
	assert_int_equal(hashes_writer_new(&group, 0, 1, &sink, &w), 0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t hash = rng_next(&rng);
		page += 2 + (uint32_t)rng_below(&rng, 20000); /* mean gap 40 MiB: an 8 TiB disk */
		assert_int_equal(hashes_writer_add(w, 1, page, 1, &hash), 0);
	}
	assert_int_equal(hashes_writer_finish(w, &written), 0);
	hashes_writer_free(w);
	assert_true(written.bytes * 1000 <= (uint64_t)count * HASHES_PAGE_BYTES * 3);
}

static void disorder_is_refused(void **state)
{
	CLEANUP(buf_free) struct buf b = { 0 };
	struct hashes_sink sink = { to_buf, &b };
	struct hashes_writer *w;
	(void)state;
	assert_int_equal(hashes_writer_new(&group, 0, 1, &sink, &w), 0);
	assert_int_equal(hashes_writer_add(w, 2, 10, 5, NULL), 0);
	assert_int_equal(hashes_writer_add(w, 2, 14, 1, NULL), -EINVAL);
	assert_int_equal(hashes_writer_add(w, 1, 90, 1, NULL), -EINVAL);
	assert_int_equal(hashes_writer_add(w, 2, 15, 1, NULL), 0);
	hashes_writer_free(w);
}

/* ── what a faulty writer would write ────────────────────────────────────────────────────── */

#define FAULTY_BLOCKS 3u /* of disk 1, of disk 2, the end */

/* Where the blocks are, by what the file says itself. */
static void find_blocks(struct buf *b, struct hashes_block *ret_at[static FAULTY_BLOCKS])
{
	size_t at = sizeof(struct hashes_header);
	for (unsigned i = 0; i < FAULTY_BLOCKS; i++) {
		struct hashes_block *block = (void *)(b->data + at);
		ret_at[i] = block;
		at += sizeof(*block) + round_up(le32toh(block->ranges_bytes), 8) +
		      le32toh(block->hash_count) * 8u;
	}
	assert_int_equal(at, b->len);
}

static uint64_t seal_block(struct hashes_block *block)
{
	size_t n = sizeof(*block) + round_up(le32toh(block->ranges_bytes), 8) +
		   le32toh(block->hash_count) * 8u;
	block->checksum = 0;
	uint64_t checksum = checksum64(block, n);
	block->checksum = htole64(checksum);
	return checksum;
}

/* Makes every checksum right again. */
static void seal_file(struct buf *b)
{
	struct hashes_block *blocks[FAULTY_BLOCKS];
	struct hashes_header header;
	memcpy(&header, b->data, sizeof(header));
	uint64_t digest = le64toh(header.checksum);
	find_blocks(b, blocks);
	for (unsigned i = 0; i + 1 < FAULTY_BLOCKS; i++) {
		uint64_t chain[2] = { htole64(digest), htole64(seal_block(blocks[i])) };
		digest = checksum64(chain, sizeof(chain));
	}
	digest = htole64(digest);
	memcpy(blocks[FAULTY_BLOCKS - 1] + 1, &digest, sizeof(digest));
	seal_block(blocks[FAULTY_BLOCKS - 1]);
}

enum fault {
	FAULT_NONE,
	FAULT_RANGE_BEYOND_BLOCK,
	FAULT_HASH_LEFT_OVER,
	FAULT_BLOCK_AGAIN,
	FAULT_DISK_FALLS,
	FAULT_BLOCK_GONE,
	FAULTS
};

static void add_fault(struct buf *b, enum fault fault)
{
	struct hashes_block *blocks[FAULTY_BLOCKS];
	const char none[8] = { 0 };
	find_blocks(b, blocks);
	if (fault == FAULT_RANGE_BEYOND_BLOCK)
		blocks[0]->end_page = htole32(le32toh(blocks[0]->end_page) - 1);
	if (fault == FAULT_BLOCK_AGAIN) /* pages that the block before it has */
		blocks[1]->disk = blocks[0]->disk;
	if (fault == FAULT_DISK_FALLS)
		blocks[0]->disk = htole16(3);
	if (fault == FAULT_HASH_LEFT_OVER) {
		size_t end = (size_t)((char *)blocks[1] - b->data), rest = b->len - end;
		blocks[0]->hash_count = htole32(le32toh(blocks[0]->hash_count) + 1);
		assert_int_equal(buf_append(b, none, sizeof(none)), 0);
		memmove(b->data + end + sizeof(none), b->data + end, rest);
	}
	seal_file(b);
	if (fault == FAULT_BLOCK_GONE) {
		find_blocks(b, blocks);
		size_t rest = (size_t)(b->data + b->len - (char *)blocks[2]);
		memmove(blocks[1], blocks[2], rest);
		b->len -= (size_t)((char *)blocks[2] - (char *)blocks[1]);
		blocks[1]->index = htole32(1);
		seal_block(blocks[1]);
	}
}

/* Checksums that hold prove who wrote it, not that it makes sense. */
static void a_faulty_writer_is_not_believed(void **state)
{
	static uint64_t model[DISKS][PAGES], back[DISKS][PAGES];
	(void)state;
	memset(model, 0, sizeof(model));
	for (unsigned p = 10; p < 20; p++)
		model[0][p] = model[1][p] = 1000 + p;
	for (enum fault fault = FAULT_NONE; fault < FAULTS; fault++) {
		CLEANUP(buf_free) struct buf b = { 0 };
		uint64_t digest;
		write_model(model, 3, 9, &b);
		add_fault(&b, fault);
		assert_int_equal(read_model(&b, back, &digest), fault == FAULT_NONE ? 0 : -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(lanes_bring_disks_into_order),
		cmocka_unit_test(lanes_hold_no_more_than_they_may),
		cmocka_unit_test(every_flipped_bit_is_found),
		cmocka_unit_test(merging_is_newest_wins),
		cmocka_unit_test(a_mark_leads_back),
		cmocka_unit_test(lone_pages_cost_at_most_three_thousandths),
		cmocka_unit_test(disorder_is_refused),
		cmocka_unit_test(a_faulty_writer_is_not_believed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
