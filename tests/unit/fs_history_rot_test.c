/*
 * Rot in chosen places of a journal, and what of it the vault makes good.
 *
 * The vault is memory here, counts what it is asked for, and can be away.
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
#include "common/cleanup.h"
#include "common/clock.h"
#include "fs/history.h"
#include "fs/journal_format.h"

#define DISK_BYTES (256 * KIB)
#define DISK_SECTORS (DISK_BYTES / SECTOR_BYTES)
#define POINTS 16

struct world {
	struct base base;
	char directory[64];
	struct history *history;
	struct history_report report;
	uint16_t disk;
	uint8_t head[DISK_BYTES];
	uint8_t *sealed[POINTS]; /* what the head was */
	uint8_t *vault[POINTS];
	unsigned vault_reads;
	bool vault_away;
};

static int vault_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct world *w = CONTAINER_OF(base, struct world, base);
	(void)disk;
	w->vault_reads++;
	if (w->vault_away)
		return -EAGAIN;
	if (point >= POINTS || !w->vault[point])
		return -ENOENT;
	memcpy(data, w->vault[point] + offset, n);
	return 0;
}

static const struct base_ops vault_ops = { .read = vault_read };

static void open_history(struct world *w)
{
	struct history_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.base = &w->base,
		.directory = w->directory,
		.group = { { 7 } },
		.segment_bytes = 64 * KIB,
		.limit_bytes = 64 * MIB,
	};
	assert_int_equal(history_open(&options, &w->report, NULL, &w->history), 0);
}

static void reopen(struct world *w)
{
	history_close(w->history);
	open_history(w);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	uint64_t lsn;
	w->base.ops = &vault_ops;
	snprintf(w->directory, sizeof(w->directory), "/tmp/landfall-rot-XXXXXX");
	assert_non_null(mkdtemp(w->directory));
	open_history(w);
	assert_int_equal(history_add_disk(w->history, "web/root", DISK_BYTES, &w->disk, &lsn), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	history_close(w->history);
	DIR *dir = opendir(w->directory);
	for (struct dirent *e; dir && (e = readdir(dir));)
		if (e->d_name[0] != '.')
			unlinkat(dirfd(dir), e->d_name, 0);
	closedir(dir);
	rmdir(w->directory);
	for (unsigned i = 0; i < POINTS; i++) {
		free(w->sealed[i]);
		free(w->vault[i]);
	}
	free(w);
	return 0;
}

static void commit(struct world *w)
{
	uint64_t lsn;
	assert_int_equal(history_commit(w->history, &lsn), 0);
}

static void put(struct world *w, uint64_t lba, uint32_t sectors, uint8_t with)
{
	uint64_t lsn;
	memset(w->head + lba * SECTOR_BYTES, with, sectors * SECTOR_BYTES);
	assert_int_equal(history_write(w->history, w->disk, lba, sectors,
				 w->head + lba * SECTOR_BYTES, &lsn),
		0);
	commit(w);
}

static uint64_t seal(struct world *w)
{
	const struct seal s = { .kind = POINT_CRASH };
	uint64_t number, lsn;
	assert_int_equal(history_seal(w->history, &s, &number, &lsn), 0);
	commit(w);
	assert_true(number < POINTS);
	w->sealed[number] = malloc(DISK_BYTES);
	memcpy(w->sealed[number], w->head, DISK_BYTES);
	return number;
}

/* Into the vault goes what a flush sends: the point below and the changes since. */
static uint64_t flush_begin(struct world *w, uint64_t number)
{
	struct view *view;
	struct extent e;
	uint64_t lsn, sent = 0;
	assert_int_equal(history_flush_begin(w->history, number, &lsn), 0);
	commit(w);
	uint8_t *image = calloc(1, DISK_BYTES);
	assert_int_equal(history_view_open(w->history, number, &view), 0);
	if (view_base_number(view))
		memcpy(image, w->vault[view_base_number(view)], DISK_BYTES);
	for (uint64_t lba = 0; view_next_change(view, w->disk, lba, &e) == 0;
		lba = e.lba + e.sectors, sent += e.sectors)
		assert_int_equal(view_read(view, w->disk, e.lba, (uint32_t)e.sectors,
					 image + e.lba * SECTOR_BYTES),
			0);
	view_close(view);
	assert_memory_equal(image, w->sealed[number], DISK_BYTES);
	w->vault[number] = image;
	return sent;
}

static void flush(struct world *w, uint64_t number)
{
	uint64_t lsn;
	flush_begin(w, number);
	assert_int_equal(history_flush_commit(w->history, number, &lsn), 0);
	commit(w);
}

static void drop_from_vault(struct world *w, uint64_t number)
{
	uint64_t lsn;
	assert_int_equal(history_point_drop(w->history, number, POINT_VAULT, &lsn), 0);
	commit(w);
	free(w->vault[number]);
	w->vault[number] = NULL;
}

static void trim(struct world *w)
{
	uint64_t used;
	bool more = true;
	while (more)
		assert_int_equal(history_maintain(w->history, &more), 0);
	assert_int_equal(history_trim(w->history, 0, &used), 0);
}

static void check_head(struct world *w)
{
	CLEANUP_FREE uint8_t *data = malloc(DISK_BYTES);
	assert_int_equal(history_read(w->history, w->disk, 0, DISK_SECTORS, data), 0);
	assert_memory_equal(data, w->head, DISK_BYTES);
}

static void check_point(struct world *w, uint64_t number)
{
	CLEANUP_FREE uint8_t *data = malloc(DISK_BYTES);
	struct view *view;
	assert_int_equal(history_view_open(w->history, number, &view), 0);
	assert_int_equal(view_read(view, w->disk, 0, DISK_SECTORS, data), 0);
	view_close(view);
	assert_memory_equal(data, w->sealed[number], DISK_BYTES);
}

/* Flips a byte `offset` bytes into the newest record of the type that names `number` (0: any). */
static void rot(struct world *w, enum journal_type type, uint64_t number, uint64_t offset)
{
	char path[320], found[320] = "";
	uint64_t at = 0, newest = 0;
	struct journal_record record;
	DIR *dir = opendir(w->directory);
	for (struct dirent *e; (e = readdir(dir));) {
		if (!strstr(e->d_name, ".seg"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", w->directory, e->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		for (uint64_t o = JOURNAL_PAGE_BYTES;
			pread(fd, &record, sizeof(record), (off_t)o) == (ssize_t)sizeof(record);
			o += JOURNAL_PAGE_BYTES) {
			if (record.magic != JOURNAL_RECORD_MAGIC || record.type != type ||
				record.lsn <= newest || (number && record.flush != number))
				continue;
			newest = record.lsn;
			at = o;
			memcpy(found, path, sizeof(found));
		}
		close(fd);
	}
	closedir(dir);
	assert_true(newest > 0);
	int fd = open(found, O_RDWR | O_CLOEXEC);
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, (off_t)(at + offset)), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(at + offset)), 1);
	close(fd);
}

/* ── the record of the newest flush ──────────────────────────────────────────────────────── */

/* Two points in the vault, the journal trimmed up to the first, which the vault then loses. */
static void flush_twice(struct world *w, bool reopen_between)
{
	uint64_t lsn;
	put(w, 0, 64, 1);
	put(w, 64, 64, 2);
	flush(w, seal(w));
	reopen(w);
	put(w, 32, 8, 3);
	trim(w);
	assert_int_equal(seal(w), 2);
	if (reopen_between)
		reopen(w);
	flush_begin(w, 2);
	assert_int_equal(history_flush_commit(w->history, 2, &lsn), 0);
	commit(w);
	reopen(w);
	drop_from_vault(w, 1);
	put(w, 100, 4, 4);
	assert_int_equal(seal(w), 3);
}

/* New points are sealed, flushed, read and read again after a restart. */
static void goes_on(struct world *w)
{
	uint64_t lsn;
	struct history_disk disk;
	assert_true(w->report.damaged_after > 0);
	assert_int_equal(history_disk(w->history, w->disk, &disk), 0);
	assert_true(disk.resync_needed);
	for (unsigned i = 0; i < DISK_SECTORS / 128; i++)
		put(w, i * 128u, 128, (uint8_t)(0x40 + i));
	assert_int_equal(history_clear_resync(w->history, w->disk, &lsn), 0);
	uint64_t number = seal(w);
	assert_true(number > 3);
	/* Nobody knows what was sent before: nothing more is before that was looked at. */
	uint64_t point;
	assert_true(history_repair_due(w->history, &point));
	assert_int_equal(history_flush_begin(w->history, number, &lsn), -EUCLEAN);
	assert_int_equal(history_repaired(w->history, point + 1, &lsn), -EINVAL);
	assert_int_equal(history_repaired(w->history, point, &lsn), 0);
	flush(w, number);
	assert_false(history_repair_due(w->history, &point));
	check_point(w, number);
	reopen(w);
	assert_int_equal(w->report.faults, 0);
	assert_false(history_repair_due(w->history, &point));
	check_point(w, number);
	trim(w);
	check_head(w);
	put(w, 7, 9, 0x77);
	flush(w, seal(w));
	check_head(w);
}

static void flush_record_rots(void **state)
{
	struct world *w = *state;
	flush_twice(w, true);
	rot(w, JOURNAL_FLUSH_COMMIT, 2, 200);
	reopen(w);
	/* The record that took the point below away tells of this one. */
	struct point point;
	assert_int_equal(history_point(w->history, 2, &point), 0);
	assert_true(point.flags & POINT_VAULT);
	check_point(w, 2);
	goes_on(w);
}

static void all_that_tells_of_a_flush_rots(void **state)
{
	struct world *w = *state;
	flush_twice(w, false);
	rot(w, JOURNAL_SEAL, 2, 200);
	reopen(w);
	goes_on(w);
}

/* What told of a vault point's deletion and of the flush before it is lost: the history believes in
 * a point that the vault does not have. */
static void a_vault_point_that_is_gone_is_passed_over(void **state)
{
	struct world *w = *state;
	struct view *view;
	uint8_t sector[SECTOR_BYTES];
	put(w, 0, DISK_SECTORS, 1);
	reopen(w);
	flush(w, seal(w));
	put(w, 64, 64, 2);
	trim(w);
	flush(w, seal(w));
	put(w, 32, 8, 3);
	assert_int_equal(seal(w), 3);
	free(w->vault[2]);
	w->vault[2] = NULL;
	check_point(w, 3);
	check_point(w, 2);
	reopen(w);
	check_point(w, 3);
	/* Where the journal does not carry it, it is refused. */
	free(w->vault[1]);
	w->vault[1] = NULL;
	assert_int_equal(history_view_open(w->history, 3, &view), 0);
	assert_int_equal(view_read(view, w->disk, 256, 1, sector), -EIO);
	assert_int_equal(view_read(view, w->disk, 32, 1, sector), 0);
	view_close(view);
}

/* ── the vault makes good what rots ──────────────────────────────────────────────────────── */

static bool needs_resync(struct world *w)
{
	struct history_disk disk;
	assert_int_equal(history_disk(w->history, w->disk, &disk), 0);
	return disk.resync_needed;
}

static void flushed_data_heals(void **state)
{
	struct world *w = *state;
	put(w, 0, 64, 1);
	put(w, 64, 32, 2);
	flush(w, seal(w));
	assert_int_equal(w->vault_reads, 0);
	rot(w, JOURNAL_DATA, 0, JOURNAL_PAGE_BYTES + 100);
	check_head(w);
	assert_true(w->vault_reads > 0);
	check_point(w, 1);
	put(w, 10, 4, 3);
	check_point(w, seal(w));
	assert_false(needs_resync(w));
	/* Without the vault there is no way to know. */
	w->vault_away = true;
	uint8_t sector[SECTOR_BYTES];
	assert_int_equal(history_read(w->history, w->disk, 64, 1, sector), -EAGAIN);
	assert_false(needs_resync(w));
	w->vault_away = false;
	check_head(w);
}

static void a_rotten_header_heals_in_a_flushed_segment(void **state)
{
	struct world *w = *state;
	put(w, 0, 64, 1);
	put(w, 64, 32, 2);
	reopen(w); /* the next record begins a segment */
	flush(w, seal(w));
	struct view *view;
	uint8_t sector[SECTOR_BYTES];
	rot(w, JOURNAL_DATA, 0, 300);
	assert_int_equal(history_view_open(w->history, 1, &view), 0);
	assert_int_equal(history_read(w->history, w->disk, 64, 1, sector), 0);
	assert_memory_equal(sector, w->head + 64 * SECTOR_BYTES, SECTOR_BYTES);
	assert_int_equal(view_read(view, w->disk, 64, 1, sector), 0);
	assert_memory_equal(sector, w->head + 64 * SECTOR_BYTES, SECTOR_BYTES);
	view_close(view);
	assert_false(needs_resync(w));
}

static void unflushed_data_needs_a_resync(void **state)
{
	struct world *w = *state;
	uint8_t sector[SECTOR_BYTES];
	bool more;
	put(w, 0, 64, 1);
	flush(w, seal(w));
	put(w, 0, 8, 2);
	uint64_t number = seal(w);
	put(w, 0, 4, 3);
	rot(w, JOURNAL_DATA, 0, JOURNAL_PAGE_BYTES + 100);
	assert_int_equal(history_read(w->history, w->disk, 0, 1, sector), -EIO);
	assert_true(needs_resync(w));
	/* What is damaged of an old point only says nothing about the head. */
	assert_int_equal(history_maintain(w->history, &more), 0);
	check_point(w, number);
	reopen(w);
	assert_true(needs_resync(w));
}

static void damage_of_an_old_point_is_not_the_head_s(void **state)
{
	struct world *w = *state;
	struct view *view;
	uint8_t sector[SECTOR_BYTES];
	put(w, 0, 8, 1);
	uint64_t number = seal(w);
	rot(w, JOURNAL_DATA, 0, JOURNAL_PAGE_BYTES + 100);
	put(w, 0, 8, 2);
	assert_int_equal(history_view_open(w->history, number, &view), 0);
	assert_int_equal(view_read(view, w->disk, 0, 1, sector), -EIO);
	view_close(view);
	assert_false(needs_resync(w));
	check_head(w);
}

/* ── what the journal holds is not fetched ───────────────────────────────────────────────── */

static void the_journal_serves_its_points(void **state)
{
	struct world *w = *state;
	uint64_t lsn;
	put(w, 0, 64, 1);
	put(w, 30, 8, 2);
	assert_int_equal(history_zero(w->history, w->disk, 33, 2, &lsn), 0);
	memset(w->head + 33 * SECTOR_BYTES, 0, 2 * SECTOR_BYTES);
	flush(w, seal(w));
	put(w, 200, 8, 3);
	reopen(w);
	put(w, 31, 1, 4);
	assert_int_equal(flush_begin(w, seal(w)), 9); /* no more than changed since */
	assert_int_equal(history_flush_commit(w->history, 2, &lsn), 0);
	commit(w);
	put(w, 100, 100, 5);
	seal(w);
	bool more = true;
	while (more)
		assert_int_equal(history_maintain(w->history, &more), 0);
	w->vault_away = true;
	for (unsigned i = 0; i < 2; i++) {
		check_point(w, 1);
		check_point(w, 2);
		check_point(w, 3);
		assert_int_equal(w->vault_reads, 0);
		reopen(w);
	}
	struct view *before, *after;
	uint8_t data[16 * SECTOR_BYTES];
	assert_int_equal(history_view_open(w->history, 2, &before), 0);
	assert_int_equal(history_view_open(w->history, 3, &after), 0);
	assert_true(view_is_local(after, w->disk, 0, DISK_SECTORS));
	assert_int_equal(view_read(after, w->disk, 28, 16, data), 0);
	/* Open views do not keep what the vault has from being trimmed. */
	w->vault_away = false;
	struct history_stats stats;
	history_stats(w->history, &stats);
	trim(w);
	uint64_t used = stats.used_bytes;
	history_stats(w->history, &stats);
	assert_true(stats.used_bytes < used);
	assert_false(view_is_local(after, w->disk, 0, DISK_SECTORS));
	struct view *views[] = { before, after };
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned at = 0; at < DISK_SECTORS; at += 16) {
			assert_int_equal(view_read(views[i], w->disk, at, 16, data), 0);
			assert_memory_equal(
				data, w->sealed[2 + i] + at * SECTOR_BYTES, 16 * SECTOR_BYTES);
		}
		view_close(views[i]);
	}
	assert_true(w->vault_reads > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(flush_record_rots, setup, teardown),
		cmocka_unit_test_setup_teardown(all_that_tells_of_a_flush_rots, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_vault_point_that_is_gone_is_passed_over, setup, teardown),
		cmocka_unit_test_setup_teardown(flushed_data_heals, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_rotten_header_heals_in_a_flushed_segment, setup, teardown),
		cmocka_unit_test_setup_teardown(unflushed_data_needs_a_resync, setup, teardown),
		cmocka_unit_test_setup_teardown(
			damage_of_an_old_point_is_not_the_head_s, setup, teardown),
		cmocka_unit_test_setup_teardown(the_journal_serves_its_points, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
