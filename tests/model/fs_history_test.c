/*
 * The history against a plain model: disks and recovery points as arrays of tags, one a sector.
 *
 * Random writes, zeros, seals, marks, flushes into an in-memory vault, drops, trims, views,
 * upkeep and reopening (with and without a commit before, which must then lose exactly the staged
 * rest, cut at an operation). The order of operations and all contents follow from the seed.
 *
 * Usage: fs_history_test [seed [rounds]]
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/rng.h"
#include "fs/history.h"

#define SECTORS 3000u
#define MAX_DISKS 4u
#define MAX_POINTS 4000u
#define MAX_STAGED 512u

static uint64_t seed = 1;
static unsigned rounds = 12;

struct image {
	uint32_t sectors[MAX_DISKS]; /* 0: no such disk */
	uint32_t tags[MAX_DISKS][SECTORS];
};

struct model_point {
	struct point point;
	struct image *image;
	bool in_vault; /* the in-memory vault has it */
};

struct vault {
	struct base base;
	struct world *world;
};

struct world {
	struct rng rng;
	char directory[64];
	struct uuid group;
	struct vault vault;
	struct history *history;
	struct image head, durable;
	struct {
		uint64_t lsn;
		struct image *before; /* the head before the operation */
	} staged[MAX_STAGED];
	unsigned staged_count;
	struct model_point points[MAX_POINTS]; /* by number */
	uint64_t newest, durable_newest, newest_vault;
	uint32_t next_tag;
	unsigned disks;
	uint32_t segment_bytes;
};

/* A sector of tag t holds t throughout, with its place mixed in; tag 0 is zeros. */
static void fill_sector(uint8_t *sector, uint32_t tag)
{
	uint32_t *words = (uint32_t *)sector;
	for (unsigned i = 0; i < SECTOR_BYTES / 4; i++)
		words[i] = tag ? tag * 2654435761u + i : 0;
	if (tag)
		words[0] = tag;
}

static void check_sectors(const uint8_t *data, const uint32_t *tags, uint32_t n, const char *what,
	uint64_t number, unsigned disk, uint64_t lba)
{
	uint8_t want[SECTOR_BYTES];
	for (uint32_t i = 0; i < n; i++) {
		fill_sector(want, tags[i]);
		if (memcmp(want, data + (size_t)i * SECTOR_BYTES, SECTOR_BYTES) == 0)
			continue;
		uint32_t got;
		memcpy(&got, data + (size_t)i * SECTOR_BYTES, 4);
		fail_msg("%s %llu disk %u sector %llu: tag %u, not %u (seed %llu)", what,
			(unsigned long long)number, disk + 1, (unsigned long long)(lba + i), got,
			tags[i], (unsigned long long)seed);
	}
}

static int vault_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct world *w = ((struct vault *)base)->world;
	if (point >= MAX_POINTS || !w->points[point].in_vault)
		return -ENOENT;
	const struct image *image = w->points[point].image;
	uint64_t lba = offset / SECTOR_BYTES, sectors = n / SECTOR_BYTES;
	assert_true(disk >= 1 && disk <= MAX_DISKS);
	assert_true(lba + sectors <= image->sectors[disk - 1]);
	for (uint64_t i = 0; i < sectors; i++)
		fill_sector((uint8_t *)data + i * SECTOR_BYTES, image->tags[disk - 1][lba + i]);
	return 0;
}

static const struct base_ops vault_ops = { .read = vault_read };

static void open_world(struct world *w)
{
	struct history_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.base = &w->vault.base,
		.directory = w->directory,
		.group = w->group,
		.limit_bytes = 64 * MIB,
		.segment_bytes = w->segment_bytes,
	};
	struct history_report report;
	struct error error = { 0 };
	int r = history_open(&options, &report, &error, &w->history);
	if (r < 0)
		fail_msg("open: %s (%s)", error.message, strerror(-r));
	if (report.faults > 0)
		fail_msg("fault: %s", report.first_fault);
	assert_int_equal(report.damaged_after, 0);
}

static void note_staged(struct world *w, uint64_t lsn, struct image *before)
{
	assert_true(w->staged_count < MAX_STAGED);
	w->staged[w->staged_count].lsn = lsn;
	w->staged[w->staged_count++].before = before;
}

static void forget_staged(struct world *w)
{
	for (unsigned i = 0; i < w->staged_count; i++)
		free(w->staged[i].before);
	w->staged_count = 0;
}

static void commit(struct world *w)
{
	uint64_t lsn, want = history_staged_lsn(w->history);
	assert_int_equal(history_commit(w->history, &lsn), 0);
	assert_int_equal(lsn, want);
	assert_int_equal(history_durable_lsn(w->history), want);
	assert_int_equal(history_staged_bytes(w->history), 0);
	forget_staged(w);
	w->durable = w->head;
	w->durable_newest = w->newest;
}

static struct image *copy_image(const struct image *image)
{
	struct image *copy = malloc(sizeof(*copy));
	*copy = *image;
	return copy;
}

static void do_write(struct world *w)
{
	unsigned disk = (unsigned)rng_below(&w->rng, w->disks);
	uint32_t size = w->head.sectors[disk];
	bool zero = rng_below(&w->rng, 5) == 0;
	uint32_t limit = rng_below(&w->rng, 8) == 0 ? 2048 : 40;
	uint32_t n = 1 + (uint32_t)rng_below(&w->rng, MIN(limit, size));
	uint32_t lba = (uint32_t)rng_below(&w->rng, size - n + 1);
	uint8_t *data = malloc((size_t)n * SECTOR_BYTES);
	struct image *before = copy_image(&w->head);
	uint64_t lsn;
	int r;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t tag = zero ? 0 : w->next_tag++;
		fill_sector(data + (size_t)i * SECTOR_BYTES, tag);
		w->head.tags[disk][lba + i] = tag;
	}
	for (;;) {
		r = zero ? history_zero(w->history, (uint16_t)(disk + 1), lba, n, &lsn)
			 : history_write(w->history, (uint16_t)(disk + 1), lba, n, data, &lsn);
		if (r != -EAGAIN)
			break;
		struct image head = w->head;
		w->head = *before;
		commit(w);
		w->head = head;
	}
	free(data);
	if (r == -ENOSPC) {
		w->head = *before;
		free(before);
		return;
	}
	assert_int_equal(r, 0);
	note_staged(w, lsn, before);
}

static void do_seal(struct world *w)
{
	struct seal seal = { .time_ns = (int64_t)w->newest, .kind = POINT_CRASH };
	uint64_t number, lsn;
	assert_int_equal(history_seal(w->history, &seal, &number, &lsn), 0);
	assert_int_equal(number, w->newest + 1);
	assert_true(number < MAX_POINTS);
	w->newest = number;
	w->points[number].image = copy_image(&w->head);
	note_staged(w, lsn, copy_image(&w->head));
}

static void do_add_or_grow(struct world *w)
{
	uint64_t lsn;
	struct image *before = copy_image(&w->head);
	if (w->disks == 0 || (w->disks < MAX_DISKS && rng_below(&w->rng, 2) == 0)) {
		char name[16];
		uint16_t id;
		snprintf(name, sizeof(name), "m/d%u", w->disks);
		uint32_t size = 100 + (uint32_t)rng_below(&w->rng, SECTORS - 100);
		assert_int_equal(history_add_disk(w->history, name, size * 512ull, &id, &lsn), 0);
		assert_int_equal(id, w->disks + 1);
		w->head.sectors[w->disks++] = size;
	} else {
		unsigned disk = (unsigned)rng_below(&w->rng, w->disks);
		uint32_t more = (uint32_t)rng_below(&w->rng, SECTORS - w->head.sectors[disk] + 1);
		uint32_t size = w->head.sectors[disk] + more;
		assert_int_equal(
			history_grow_disk(w->history, (uint16_t)(disk + 1), size * 512ull, &lsn),
			0);
		w->head.sectors[disk] = size;
	}
	note_staged(w, lsn, before);
	commit(w); /* keeps the model's count of disks simple */
}

/* The same range, from a whole block on, as a flush reads it: the same bytes, and every hash that
 * is told is of the bytes that came. */
static void read_in_pass(struct view *view, const struct image *image, unsigned disk, uint32_t lba,
	uint32_t n, uint64_t number)
{
	uint32_t first = lba - lba % 8, sectors = n + lba % 8, blocks = (sectors + 7) / 8;
	size_t bytes = (size_t)blocks * 4096;
	CLEANUP_FREE uint8_t *data = aligned_alloc(IO_DIRECT_ALIGN, bytes);
	CLEANUP_FREE uint64_t *hashes = calloc(blocks, sizeof(*hashes));
	CLEANUP_FREE bool *known = malloc(blocks * sizeof(*known));
	struct view_pass *pass;
	memset(data, 0xee, bytes);
	memset(known, 0xff, blocks * sizeof(*known));
	assert_int_equal(view_pass_new(view, &pass), 0);
	int r = view_pass_read(pass, (uint16_t)(disk + 1), first, sectors, data, hashes, known);
	if (r < 0)
		fail_msg(
			"point %llu: read in a pass: %s", (unsigned long long)number, strerror(-r));
	check_sectors(data, &image->tags[disk][first], sectors, "pass", number, disk, first);
	for (uint32_t i = 0; i < blocks; i++)
		if (known[i])
			assert_int_equal(hashes[i], checksum64(data + (size_t)i * 4096, 4096));
	assert_int_equal(
		view_pass_read(pass, (uint16_t)(disk + 1), first + 1, 1, data, hashes, known),
		-EINVAL);
	view_pass_free(pass);
}

static void read_range(struct world *w, struct view *view, const struct image *image, unsigned disk,
	uint32_t lba, uint32_t n, uint64_t number)
{
	uint8_t *data = malloc((size_t)n * SECTOR_BYTES);
	memset(data, 0xee, (size_t)n * SECTOR_BYTES);
	int r = view ? view_read(view, (uint16_t)(disk + 1), lba, n, data)
		     : history_read(w->history, (uint16_t)(disk + 1), lba, n, data);
	if (r < 0)
		fail_msg("%s %llu: read: %s", view ? "point" : "head", (unsigned long long)number,
			strerror(-r));
	check_sectors(data, &image->tags[disk][lba], n, view ? "point" : "head", number, disk, lba);
	free(data);
	if (view)
		read_in_pass(view, image, disk, lba, n, number);
}

static void check_head(struct world *w, bool all)
{
	for (unsigned disk = 0; disk < w->disks; disk++) {
		uint32_t size = w->head.sectors[disk];
		uint32_t n = all ? size : 1 + (uint32_t)rng_below(&w->rng, MIN(size, 300u));
		uint32_t lba = (uint32_t)rng_below(&w->rng, size - n + 1);
		read_range(w, NULL, &w->head, disk, lba, n, 0);
	}
}

/* True if the history still has the point and it is exact. */
static bool check_point(struct world *w, uint64_t number)
{
	struct point p;
	struct view *view;
	if (history_point(w->history, number, &p) < 0)
		return false;
	assert_false(p.flags & POINT_DAMAGED);
	assert_int_equal(!!(p.flags & POINT_VAULT), w->points[number].in_vault);
	int r = history_view_open(w->history, number, &view);
	if (r < 0)
		fail_msg("point %llu (flags %x): %s", (unsigned long long)number, p.flags,
			strerror(-r));
	const struct image *image = w->points[number].image;
	for (unsigned disk = 0; disk < MAX_DISKS; disk++) {
		assert_int_equal(
			view_disk_bytes(view, (uint16_t)(disk + 1)), image->sectors[disk] * 512ull);
		if (image->sectors[disk])
			read_range(w, view, image, disk, 0, image->sectors[disk], number);
	}
	view_close(view);
	return true;
}

static uint64_t random_point(struct world *w)
{
	struct point *points = calloc(MAX_POINTS, sizeof(*points));
	unsigned n = history_points(w->history, 0, points, MAX_POINTS);
	uint64_t number = n ? points[rng_below(&w->rng, n)].number : 0;
	free(points);
	return number;
}

/* Reads what a flush would send and checks that it makes the point from the vault point below. */
static void do_flush(struct world *w)
{
	uint64_t lsn, number = random_point(w);
	if (number <= w->newest_vault)
		return;
	assert_int_equal(history_flush_begin(w->history, number, &lsn), 0);
	struct view *view;
	assert_int_equal(history_view_open(w->history, number, &view), 0);
	uint64_t base = view_base_number(view);
	assert_int_equal(base, w->newest_vault);
	const struct image *to = w->points[number].image;
	for (unsigned disk = 0; disk < w->disks; disk++) {
		struct extent e;
		uint64_t at = 0;
		uint32_t size = to->sectors[disk];
		while (view_next_change(view, (uint16_t)(disk + 1), at, &e) == 0) {
			for (; at < e.lba; at++)
				assert_int_equal(to->tags[disk][at],
					base ? w->points[base].image->tags[disk][at] : 0);
			assert_true(view_is_local(view, (uint16_t)(disk + 1), e.lba, e.sectors));
			at = e.lba + e.sectors;
		}
		assert_true(at <= size);
		for (; at < size; at++)
			assert_int_equal(to->tags[disk][at],
				base ? w->points[base].image->tags[disk][at] : 0);
	}
	view_close(view);
	w->points[number].in_vault = true;
	assert_int_equal(history_flush_commit(w->history, number, &lsn), 0);
	w->newest_vault = number;
	commit(w);
	assert_int_equal(history_flush_pending(w->history), 0);
}

static void do_drop(struct world *w)
{
	uint64_t lsn, number = random_point(w);
	if (number == 0)
		return;
	bool vault = w->points[number].in_vault && rng_below(&w->rng, 2);
	int r = history_point_drop(w->history, number, vault ? POINT_VAULT : POINT_LOCAL, &lsn);
	if (vault && number == w->newest_vault) {
		assert_int_equal(r, -EBUSY);
		return;
	}
	assert_int_equal(r, 0);
	commit(w);
	if (vault)
		w->points[number].in_vault = false;
	struct point p;
	if (history_point(w->history, number, &p) == 0)
		assert_int_equal(p.flags & POINT_VAULT, w->points[number].in_vault ? 2 : 0);
	else
		assert_true(vault || !w->points[number].in_vault);
}

static void do_trim(struct world *w)
{
	struct history_stats stats;
	history_stats(w->history, &stats);
	uint64_t used, target = rng_below(&w->rng, stats.used_bytes + 1);
	assert_int_equal(history_trim(w->history, target, &used), 0);
	history_stats(w->history, &stats);
	assert_int_equal(used, stats.used_bytes);
	/* What is too little to pay for the trimming stays. */
	if (used > target)
		assert_true(stats.freeable_bytes < 512 * KIB);
	commit(w);
}

static void do_maintain(struct world *w)
{
	bool more = true;
	while (more)
		assert_int_equal(history_maintain(w->history, &more), 0);
	/* It may have committed what was staged. */
	if (history_staged_bytes(w->history) == 0)
		commit(w);
}

/* Closing without a commit loses all that is staged. */
static void do_reopen(struct world *w)
{
	if (rng_below(&w->rng, 2) == 0)
		commit(w);
	history_close(w->history);
	forget_staged(w);
	w->head = w->durable;
	for (; w->newest > w->durable_newest; w->newest--) {
		free(w->points[w->newest].image);
		w->points[w->newest].image = NULL;
	}
	open_world(w);
	check_head(w, true);
}

static void step(struct world *w)
{
	uint64_t dice = rng_below(&w->rng, 1000);
	if (dice < 600)
		do_write(w);
	else if (dice < 700)
		check_head(w, false);
	else if (dice < 780)
		commit(w);
	else if (dice < 850)
		do_seal(w);
	else if (dice < 860)
		do_add_or_grow(w);
	else if (dice < 900)
		check_point(w, random_point(w));
	else if (dice < 930)
		do_flush(w);
	else if (dice < 940)
		do_drop(w);
	else if (dice < 950)
		do_trim(w);
	else if (dice < 980)
		do_maintain(w);
	else
		do_reopen(w);
	if (w->staged_count > MAX_STAGED - 2)
		commit(w);
}

static void run_round(uint64_t round_seed)
{
	struct world *w = calloc(1, sizeof(*w));
	char command[128];
	rng_seed(&w->rng, round_seed);
	strcpy(w->directory, "/tmp/fs_history_test.XXXXXX");
	assert_non_null(mkdtemp(w->directory));
	w->group.bytes[0] = 7;
	w->vault.base.ops = &vault_ops;
	w->vault.world = w;
	w->next_tag = 1;
	static const uint32_t sizes[] = { 64 << 10, 256 << 10, 2 << 20 };
	w->segment_bytes = sizes[round_seed % 3];
	open_world(w);
	while (w->disks == 0)
		do_add_or_grow(w);
	for (unsigned i = 0; i < 1500; i++)
		step(w);
	commit(w);
	do_reopen(w);
	for (uint64_t n = 1; n <= w->newest; n++) {
		bool there = check_point(w, n);
		if (w->points[n].in_vault)
			assert_true(there);
	}
	history_close(w->history);
	for (uint64_t n = 1; n < MAX_POINTS; n++)
		free(w->points[n].image);
	forget_staged(w);
	snprintf(command, sizeof(command), "rm -rf '%s'", w->directory);
	assert_int_equal(system(command), 0);
	free(w);
}

static void random_operations(void **state)
{
	(void)state;
	for (unsigned i = 0; i < rounds; i++) {
		seed += i > 0;
		print_message("seed %llu\n", (unsigned long long)seed);
		run_round(seed);
	}
}

int main(int argc, char **argv)
{
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		rounds = (unsigned)strtoul(argv[2], NULL, 0);
	const struct CMUnitTest tests[] = { cmocka_unit_test(random_operations) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
