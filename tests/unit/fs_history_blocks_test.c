/*
 * Payloads are proven block by block: every alignment and length reads back, over the borders of
 * extents, records and blocks, and what rots in one block costs that block and no other.
 */
#include "tests/unit/cmocka_common.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "fs/history_internal.h"
#include "tests/unit/history_fixture.h"

#define SECTORS 2048u
#define BLOCK_SECTORS 8u

static int setup(void **state)
{
	struct history_fixture *f = calloc(1, sizeof(*f));
	if (!f)
		return -1;
	fixture_open(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture_close(*state);
	free(*state);
	return 0;
}

/* Finds `n` bytes in the journal's segments and turns over one bit of the first. */
static bool damage(const struct history_fixture *f, const void *wanted, size_t n)
{
	DIR *dir = opendir(f->directory);
	assert_non_null(dir);
	struct dirent *entry;
	bool found = false;
	while (!found && (entry = readdir(dir))) {
		char path[512];
		if (!strstr(entry->d_name, ".seg"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", f->directory, entry->d_name);
		CLEANUP_FREE char *data = NULL;
		size_t size;
		assert_int_equal(io_load_file(io_posix(), path, 64 * MIB, &data, &size), 0);
		char *at = memmem(data, size, wanted, n);
		if (!at)
			continue;
		char bad = (char)(*at ^ 0x10);
		CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
		assert_int_equal(pwrite(fd, &bad, 1, at - data), 1);
		found = true;
	}
	closedir(dir);
	return found;
}

static void test_any_read_of_any_write(void **state)
{
	struct history_fixture *f = *state;
	static uint8_t want[SECTORS * SECTOR_BYTES], got[SECTORS * SECTOR_BYTES];
	struct rng rng;
	rng_seed(&rng, 3);
	for (unsigned round = 0; round < 400; round++) {
		uint32_t lba = (uint32_t)rng_below(&rng, SECTORS);
		uint32_t most = round % 7 == 0 ? SECTORS - lba : MIN(SECTORS - lba, 40u);
		uint32_t n = 1 + (uint32_t)rng_below(&rng, most);
		rng_fill(&rng, want + lba * SECTOR_BYTES, (size_t)n * SECTOR_BYTES);
		fixture_write(f, lba, n, want + lba * SECTOR_BYTES);
	}
	fixture_reopen(f);
	for (unsigned round = 0; round < 1000; round++) {
		uint32_t lba = (uint32_t)rng_below(&rng, SECTORS);
		uint32_t n = 1 + (uint32_t)rng_below(&rng, SECTORS - lba);
		size_t bytes = (size_t)n * SECTOR_BYTES;
		assert_int_equal(history_read(f->history, f->disk, lba, n, got), 0);
		assert_memory_equal(got, want + lba * SECTOR_BYTES, bytes);
	}
}

static void test_rot_costs_its_block(void **state)
{
	struct history_fixture *f = *state;
	static uint8_t data[SECTORS * SECTOR_BYTES], got[SECTORS * SECTOR_BYTES];
	const uint32_t lba = 3; /* blocks count from the write's beginning, not the disk's */
	const uint32_t bad_block = 21;
	struct rng rng;
	rng_seed(&rng, 4);
	rng_fill(&rng, data, sizeof(data));
	fixture_write(f, lba, SECTORS, data);
	/* What follows proves the write durable: it is no torn end. */
	fixture_seal(f);
	fixture_seal(f);
	uint32_t bad = bad_block * BLOCK_SECTORS + 5;
	assert_true(damage(f, data + bad * SECTOR_BYTES, SECTOR_BYTES));
	fixture_reopen(f);
	for (uint32_t s = 0; s < SECTORS; s++) {
		int r = history_read(f->history, f->disk, lba + s, 1, got);
		assert_int_equal(r, s / BLOCK_SECTORS == bad_block ? -EIO : 0);
		if (r == 0)
			assert_memory_equal(got, data + s * SECTOR_BYTES, SECTOR_BYTES);
	}
	/* A read of more fails as a whole if it touches the block, and only then. */
	uint32_t first = bad_block * BLOCK_SECTORS;
	assert_int_equal(history_read(f->history, f->disk, lba, first, got), 0);
	assert_int_equal(history_read(f->history, f->disk, lba, first + 1, got), -EIO);
	assert_int_equal(history_read(f->history, f->disk, lba, SECTORS, got), -EIO);
}

/* What a flush reads: in long stretches, with the hashes that the proof was made of. */
static void test_a_pass_reads_and_proves(void **state)
{
	enum { BLOCKS = SECTORS / BLOCK_SECTORS };
	struct history_fixture *f = *state;
	static _Alignas(IO_DIRECT_ALIGN) uint8_t want[SECTORS * SECTOR_BYTES], got[sizeof(want)];
	uint64_t hashes[BLOCKS];
	bool known[BLOCKS];
	struct view *view;
	struct view_pass *pass;
	struct rng rng;
	rng_seed(&rng, 4);
	rng_fill(&rng, want, sizeof(want));
	fixture_write(f, 0, SECTORS, want);
	/* In the midst of a block, and over the border of two. */
	rng_fill(&rng, want + 803 * SECTOR_BYTES, 10 * SECTOR_BYTES);
	fixture_write(f, 803, 10, want + 803 * SECTOR_BYTES);
	uint64_t number = fixture_seal(f);
	assert_int_equal(history_view_open(f->history, number, &view), 0);
	assert_int_equal(view_pass_new(view, &pass), 0);
	assert_int_equal(view_pass_read(pass, f->disk, 0, SECTORS, got, hashes, known), 0);
	assert_memory_equal(got, want, sizeof(want));
	for (unsigned i = 0; i < BLOCKS; i++) {
		assert_int_equal(known[i], i != 803 / BLOCK_SECTORS && i != 812 / BLOCK_SECTORS);
		if (known[i])
			assert_int_equal(hashes[i], checksum64(want + (size_t)i * 4096, 4096));
	}
	assert_int_equal(view_pass_read(pass, f->disk, 3, 8, got, hashes, known), -EINVAL);
	assert_true(damage(f, want + 60 * 4096, 4096));
	assert_int_equal(view_pass_read(pass, f->disk, 0, SECTORS, got, hashes, known), -EIO);
	assert_int_equal(view_pass_read(pass, f->disk, 1024, 1024, got, hashes, known), 0);
	assert_memory_equal(got, want + 1024 * SECTOR_BYTES, 1024 * SECTOR_BYTES);
	view_pass_free(pass);
	view_close(view);
}

/* The hashes are the source's word: what memory did to the data on the way is noticed later. */
static void test_hashes_of_the_source_prove(void **state)
{
	enum { BLOCKS = 5, SECTORS_HERE = 4 * BLOCK_SECTORS + 3, BAD = 2 };
	struct history_fixture *f = *state;
	static uint8_t data[SECTORS_HERE * SECTOR_BYTES], got[sizeof(data)];
	uint64_t hashes[BLOCKS], lsn, durable;
	struct rng rng;
	rng_seed(&rng, 5);
	rng_fill(&rng, data, sizeof(data));
	for (unsigned i = 0; i < BLOCKS; i++)
		hashes[i] = checksum64(data + (size_t)i * 4096, i < 4 ? 4096 : 3 * SECTOR_BYTES);
	data[BAD * 4096 + 7] ^= 1;
	assert_int_equal(
		history_write_hashed(f->history, f->disk, 0, SECTORS_HERE, data, hashes, &lsn), 0);
	assert_int_equal(history_commit(f->history, &durable), 0);
	fixture_seal(f);
	fixture_reopen(f);
	for (unsigned i = 0; i < SECTORS_HERE; i++) {
		int r = history_read(f->history, f->disk, i, 1, got);
		assert_int_equal(r, i / BLOCK_SECTORS == BAD ? -EIO : 0);
		if (r == 0)
			assert_memory_equal(got, data + (size_t)i * SECTOR_BYTES, SECTOR_BYTES);
	}
}

/* What is kept of headers is bounded, and what was let go is read and proven again. */
static void test_headers_are_bounded(void **state)
{
	enum { WRITES = 1500, LIMIT = 4096 };
	struct history_fixture *f = *state;
	uint8_t data[SECTOR_BYTES], got[SECTOR_BYTES];
	header_cache_free(f->history->headers);
	f->history->headers = header_cache_new(LIMIT);
	assert_non_null(f->history->headers);
	for (unsigned i = 0; i < WRITES; i++)
		fixture_write(f, i, 1, memset(data, (int)(i % 251), sizeof(data)));
	struct rng rng;
	rng_seed(&rng, 3);
	bool kept = false;
	for (unsigned i = 0; i < 4 * WRITES; i++) {
		uint64_t lba = i < WRITES ? i : rng_below(&rng, WRITES);
		assert_int_equal(history_read(f->history, f->disk, lba, 1, got), 0);
		memset(data, (int)(lba % 251), sizeof(data));
		assert_memory_equal(got, data, sizeof(data));
		uint64_t bytes = header_cache_bytes(f->history->headers);
		assert_true(bytes <= LIMIT);
		kept |= bytes > LIMIT / 2;
	}
	assert_true(kept);
	header_cache_drop(f->history->headers);
	assert_int_equal(header_cache_bytes(f->history->headers), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_any_read_of_any_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rot_costs_its_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_pass_reads_and_proves, setup, teardown),
		cmocka_unit_test_setup_teardown(test_headers_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hashes_of_the_source_prove, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
