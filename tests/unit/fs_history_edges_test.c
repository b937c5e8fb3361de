/*
 * Corners of the history's life that random operations hardly find.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "fs/history.h"
#include "fs/history_internal.h"
#include "tests/unit/history_fixture.h"

static int setup(void **state)
{
	struct history_fixture *x = calloc(1, sizeof(*x));
	fixture_open(x);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	fixture_close(*state);
	free(*state);
	return 0;
}

static void commit(struct history *history)
{
	uint64_t lsn;
	assert_int_equal(history_commit(history, &lsn), 0);
}

/* However little of it is payload, a commit is no longer than replay looks behind a bad record. */
static void a_commit_has_a_limit(void **state)
{
	struct history_fixture *x = *state;
	static const uint8_t data[9 * SECTOR_BYTES] = { 1 };
	const struct seal seal = { .kind = POINT_CRASH };
	struct history_stats before, after;
	uint64_t number, lsn;
	int r = 0;
	history_stats(x->history, &before);
	for (uint64_t i = 0; r == 0; i++) {
		/* Two pages of payload for a little more than one. */
		int wrote = history_write(x->history, x->disk, i % 1024 * 16, 9, data, &lsn);
		assert_true(wrote == 0 || wrote == -EAGAIN);
		r = history_seal(x->history, &seal, &number, &lsn);
	}
	assert_int_equal(r, -EAGAIN);
	commit(x->history);
	history_stats(x->history, &after);
	assert_true(after.journal_bytes - before.journal_bytes > 4 * MIB);
	assert_true(after.journal_bytes - before.journal_bytes < JOURNAL_MAX_COMMIT_BYTES);
}

/* Changes of more points than one record takes are staged all, or none. */
static void many_marks_are_staged_whole(void **state)
{
	struct history_fixture *x = *state;
	struct journal_point_flags changes[2 * JOURNAL_MAX_POINT_FLAGS];
	uint64_t lsn, staged = history_staged_lsn(x->history);
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++)
		changes[i] = (struct journal_point_flags){ i + 1, POINT_KEEP, 0 };
	pthread_mutex_lock(&x->history->lock);
	uint64_t bytes = x->history->staged_bytes;
	x->history->staged_bytes = STAGE_HARD_LIMIT_BYTES;
	int r = stage_point_flags(x->history, changes, ARRAY_SIZE(changes), &lsn);
	x->history->staged_bytes = bytes;
	pthread_mutex_unlock(&x->history->lock);
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(history_staged_lsn(x->history), staged);
	pthread_mutex_lock(&x->history->lock);
	r = stage_point_flags(x->history, changes, ARRAY_SIZE(changes), &lsn);
	pthread_mutex_unlock(&x->history->lock);
	assert_int_equal(r, 0);
	assert_int_equal(history_staged_lsn(x->history), staged + 2);
	commit(x->history);
}

/* The table of disks is full; a removed one that no point shows makes room, and a restart that
 * replays all of it finds the same room. */
static void full_table_is_replayed(void **state)
{
	struct history_fixture *x = *state;
	uint16_t disk;
	uint64_t lsn;
	for (unsigned i = 1; i < HISTORY_MAX_DISKS; i++) {
		char name[32];
		snprintf(name, sizeof(name), "web/data%u", i);
		assert_int_equal(history_add_disk(x->history, name, MIB, &disk, &lsn), 0);
	}
	uint64_t number = fixture_seal(x);
	assert_int_equal(history_remove_disk(x->history, disk, &lsn), 0);
	assert_int_equal(history_add_disk(x->history, "web/new", MIB, &disk, &lsn), -E2BIG);
	uint64_t later = fixture_seal(x);
	assert_int_equal(history_point_drop(x->history, number, POINT_LOCAL, &lsn), 0);
	commit(x->history);
	assert_int_equal(history_add_disk(x->history, "web/new", MIB, &disk, &lsn), 0);
	commit(x->history);

	fixture_reopen(x);
	struct history_disk info;
	struct point point;
	assert_int_equal(history_disk(x->history, disk, &info), 0);
	assert_string_equal(info.name, "web/new");
	assert_int_equal(history_disks(x->history, NULL, 0), HISTORY_MAX_DISKS);
	assert_int_equal(history_point(x->history, number, &point), -ENOENT);
	assert_int_equal(history_point(x->history, later, &point), 0);
}

static uint64_t changed_by_next_point(struct history_fixture *x)
{
	struct point point;
	uint64_t number = fixture_seal(x);
	assert_int_equal(history_point(x->history, number, &point), 0);
	return point.changed_bytes;
}

/* The base may hold what an earlier disk of the name had: the new one says that it is zeros. */
static void name_again_begins_with_zeros(void **state)
{
	struct history_fixture *x = *state;
	uint16_t first, second;
	uint64_t lsn;
	assert_int_equal(history_add_disk(x->history, "web/data", MIB, &first, &lsn), 0);
	commit(x->history);
	assert_int_equal(changed_by_next_point(x), 0);
	assert_int_equal(history_remove_disk(x->history, first, &lsn), 0);
	assert_int_equal(history_add_disk(x->history, "web/data", 2 * MIB, &second, &lsn), 0);
	commit(x->history);
	assert_int_not_equal(first, second);
	fixture_reopen(x);
	assert_int_equal(changed_by_next_point(x), 2 * MIB);
}

/* ── a torn segment that goes before anything is written behind it ───────────────────────── */

static int vault_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	(void)base, (void)disk, (void)point, (void)offset;
	memset(data, 0, n);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void open_at(struct io *io, const char *directory, struct history **ret_history)
{
	static const struct base_ops ops = { .read = vault_read };
	static struct base base = { &ops };
	struct history_options options = {
		.io = io,
		.clock = clock_system(),
		.base = &base,
		.directory = directory,
		.group = { { 9 } },
		.segment_bytes = 64 * KIB,
	};
	struct history_report report;
	assert_int_equal(history_open(&options, &report, NULL, ret_history), 0);
}

static void torn_segment_may_go_first(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-edges-XXXXXX", crashed[128], command[512];
	assert_non_null(mkdtemp(directory));
	snprintf(crashed, sizeof(crashed), "%s/crashed", directory);
	snprintf(command, sizeof(command),
		"mkdir %s && cp %s/live/* %s && head -c 4096 /dev/urandom "
		">>%s/0000000000000001.seg",
		crashed, directory, crashed, crashed);

	char live[128];
	struct history *history;
	uint16_t disk;
	uint64_t lsn, used;
	snprintf(live, sizeof(live), "%s/live", directory);
	open_at(io_posix(), live, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	commit(history);
	struct point point = { .number = 1, .kind = POINT_CRASH, .flags = POINT_VAULT };
	assert_int_equal(history_point_import(history, &point, &lsn), 0);
	commit(history);
	/* What a crash would leave now, with a torn record at its end. */
	assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
	history_close(history);

	uint8_t sector[SECTOR_BYTES] = { 5 };
	open_at(io_posix(), crashed, &history);
	assert_int_equal(history_trim(history, 0, &used), 0);
	assert_int_equal(history_write(history, disk, 0, 1, sector, &lsn), 0);
	commit(history);
	history_close(history);
	open_at(io_posix(), crashed, &history);
	memset(sector, 0, sizeof(sector));
	assert_int_equal(history_read(history, disk, 0, 1, sector), 0);
	assert_int_equal(sector[0], 5);
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static off_t size_of(const char *path)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* Else the next life's records would stand beside what looks like records of the last one's. */
static void torn_tail_is_cut_off(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-edges-XXXXXX", command[512], segment[128];
	struct history *history;
	uint8_t sector[SECTOR_BYTES] = { 5 };
	uint16_t disk;
	uint64_t lsn;
	assert_non_null(mkdtemp(directory));
	snprintf(segment, sizeof(segment), "%s/0000000000000001.seg", directory);
	snprintf(command, sizeof(command), "head -c 40960 /dev/urandom >>%s", segment);
	open_at(io_posix(), directory, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	commit(history);
	history_close(history);
	assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
	off_t torn = size_of(segment);
	open_at(io_posix(), directory, &history);
	assert_int_equal(size_of(segment), torn); /* who only looks changes nothing */
	assert_int_equal(history_write(history, disk, 0, 1, sector, &lsn), 0);
	commit(history);
	assert_true(size_of(segment) <= torn - 40960);
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* ── a vault point that is dropped while trim is under way ───────────────────────────────── */

struct dropper {
	struct history *history;
	uint64_t number;
	int result;
};

static void drop_now(void *context)
{
	struct dropper *d = context;
	uint64_t lsn;
	d->result = history_point_drop(d->history, d->number, POINT_VAULT, &lsn);
}

/* Writes more than two segments take, and seals. */
static uint64_t fill_and_seal(struct history *history, uint16_t disk)
{
	static const uint8_t data[32 * KIB] = { 1 };
	struct seal seal = { .kind = POINT_CRASH };
	uint64_t number, lsn;
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(history_write(history, disk, 64 * i, 64, data, &lsn), 0);
		commit(history);
	}
	assert_int_equal(history_seal(history, &seal, &number, &lsn), 0);
	commit(history);
	return number;
}

static uint64_t fill_and_flush(struct history *history, uint16_t disk)
{
	uint64_t number = fill_and_seal(history, disk), lsn;
	assert_int_equal(history_flush_commit(history, number, &lsn), 0);
	commit(history);
	return number;
}

/* The local point stands on the vault point when trim plans, and on one further below when it
 * acts. What is shown as local must open. */
static void drop_and_trim(uint64_t trim_bytes)
{
	char directory[] = "/tmp/landfall-edges-XXXXXX";
	struct faulty_io faulty;
	struct history *history;
	struct history_stats stats;
	uint16_t disk;
	uint64_t lsn, used;
	assert_non_null(mkdtemp(directory));
	faulty_io_init(&faulty);
	open_at(&faulty.io, directory, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	(void)fill_and_flush(history, disk);
	struct dropper dropper = { history, fill_and_flush(history, disk), 1 };
	uint64_t local = fill_and_seal(history, disk);
	(void)fill_and_flush(history, disk);

	history_set_limit(history, MIB); /* too full for spares */
	history_stats(history, &stats);
	faulty.on_sync = drop_now;
	faulty.on_sync_context = &dropper;
	assert_int_equal(history_trim(history, stats.used_bytes - trim_bytes, &used), 0);
	assert_int_equal(dropper.result, 0);
	commit(history);

	struct point point;
	struct view *view = NULL;
	int found = history_point(history, local, &point);
	int r = history_view_open(history, local, &view);
	assert_int_equal(r, found);
	view_close(view);
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* Trimming may do with one round or not, and reach between the first point and the dropped one. */
static void drop_during_trim(void **state)
{
	(void)state;
	for (uint64_t bytes = 280 * KIB; bytes < 440 * KIB; bytes += 8 * KIB)
		drop_and_trim(bytes);
}

/* ── a point that was to be kept ─────────────────────────────────────────────────────────── */

/* Trims while standard error goes to a file, and returns what was said there. */
static void trim_and_listen(struct history *history, char *ret_text, size_t size)
{
	uint64_t used;
	int before = dup(STDERR_FILENO);
	FILE *said = tmpfile();
	assert_non_null(said);
	assert_true(dup2(fileno(said), STDERR_FILENO) >= 0);
	int r = history_trim(history, 0, &used);
	dup2(before, STDERR_FILENO);
	close(before);
	rewind(said);
	ret_text[fread(ret_text, 1, size - 1, said)] = '\0';
	fclose(said);
	assert_int_equal(r, 0);
}

/* Trim takes what it must, but a point that somebody wanted to keep does not go without a word;
 * one that the vault has does not go at all. */
static void kept_points_go_with_a_word(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-edges-XXXXXX", text[1024], want[32];
	struct history *history;
	struct point point;
	uint16_t disk;
	uint64_t lsn;
	assert_non_null(mkdtemp(directory));
	open_at(io_posix(), directory, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	uint64_t in_vault = fill_and_flush(history, disk);
	uint64_t plain = fill_and_seal(history, disk), kept = fill_and_seal(history, disk);
	(void)fill_and_flush(history, disk);
	(void)fill_and_flush(history, disk);
	assert_int_equal(history_point_mark(history, in_vault, POINT_KEEP, 0, &lsn), 0);
	assert_int_equal(history_point_mark(history, kept, POINT_KEEP, 0, &lsn), 0);
	commit(history);

	trim_and_listen(history, text, sizeof(text));
	assert_int_equal(history_point(history, plain, &point), -ENOENT);
	assert_int_equal(history_point(history, kept, &point), -ENOENT);
	assert_int_equal(history_point(history, in_vault, &point), 0);
	snprintf(want, sizeof(want), "the first is %u\n", (unsigned)kept);
	assert_non_null(strstr(text, " 1 marked to be kept"));
	assert_non_null(strstr(text, want));
	trim_and_listen(history, text, sizeof(text));
	assert_string_equal(text, "");
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* ── no room for what upkeep writes ──────────────────────────────────────────────────────── */

static void fill_disk(void *context)
{
	struct faulty_io *faulty = context;
	atomic_store(&faulty->write_error, -ENOSPC);
}

/* Bytes of all segments and indexes in the directory, spares included. */
static uint64_t bytes_in(const char *directory, const char *suffix)
{
	char pattern[128];
	glob_t found;
	uint64_t bytes = 0;
	snprintf(pattern, sizeof(pattern), "%s/*.%s", directory, suffix);
	if (glob(pattern, 0, NULL, &found) != 0)
		return 0;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		struct stat st;
		assert_int_equal(stat(found.gl_pathv[i], &st), 0);
		bytes += (uint64_t)st.st_size;
	}
	globfree(&found);
	return bytes;
}

/* Segments were taken out of the state, but the checkpoint without them cannot be written. */
static void trim_on_full_disk(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-edges-XXXXXX";
	struct faulty_io faulty;
	struct history *history;
	struct history_stats stats;
	uint16_t disk;
	uint64_t lsn, used;
	uint8_t sector[SECTOR_BYTES];
	assert_non_null(mkdtemp(directory));
	faulty_io_init(&faulty);
	open_at(&faulty.io, directory, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	(void)fill_and_seal(history, disk);
	(void)fill_and_flush(history, disk);
	history_set_limit(history, MIB); /* too full for spares */
	uint64_t before = bytes_in(directory, "seg");

	faulty.on_sync = fill_disk;
	faulty.on_sync_context = &faulty;
	assert_int_equal(history_trim(history, 0, &used), -ENOSPC);
	assert_true(bytes_in(directory, "seg") >= before);
	history_stats(history, &stats);
	assert_false(stats.failed);
	assert_true(stats.used_bytes >= before / 2); /* segments are as long as they may get */

	atomic_store(&faulty.write_error, 0);
	assert_int_equal(history_trim(history, 0, &used), 0);
	assert_true(bytes_in(directory, "seg") < before / 2);
	assert_int_equal(
		history_write(history, disk, 0, 1, memset(sector, 7, sizeof(sector)), &lsn), 0);
	commit(history);
	history_close(history);

	open_at(&faulty.io, directory, &history);
	memset(sector, 0, sizeof(sector));
	assert_int_equal(history_read(history, disk, 0, 1, sector), 0);
	assert_int_equal(sector[0], 7);
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static int maintain_all(struct history *history)
{
	bool more = true;
	int r = 0;
	while (r == 0 && more)
		r = history_maintain(history, &more);
	return r;
}

/* Neither is given up for it: the index comes when there is room again. */
static void upkeep_on_full_disk(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-edges-XXXXXX";
	struct faulty_io faulty;
	struct history *history;
	struct history_stats stats;
	uint16_t disk;
	uint64_t lsn;
	assert_non_null(mkdtemp(directory));
	faulty_io_init(&faulty);
	open_at(&faulty.io, directory, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	(void)fill_and_seal(history, disk);
	atomic_store(&faulty.write_error, -ENOSPC);
	assert_int_equal(maintain_all(history), -ENOSPC);
	history_stats(history, &stats);
	assert_false(stats.failed);
	assert_int_equal(bytes_in(directory, "idx"), 0);
	atomic_store(&faulty.write_error, 0);
	assert_int_equal(maintain_all(history), 0);
	assert_true(bytes_in(directory, "idx") > 0);
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void points_are_found_from_either_end(void **state)
{
	struct history_fixture *x = *state;
	struct point point;
	uint64_t numbers[5], lsn;
	for (unsigned i = 0; i < 5; i++)
		numbers[i] = fixture_seal(x);
	for (unsigned i = 1; i < 4; i += 2)
		assert_int_equal(
			history_point_mark(x->history, numbers[i], POINT_KEEP, 0, &lsn), 0);
	commit(x->history);
	assert_int_equal(history_point_oldest(x->history, 0, POINT_KEEP, &point), 0);
	assert_int_equal(point.number, numbers[1]);
	assert_int_equal(history_point_oldest(x->history, numbers[1] + 1, POINT_KEEP, &point), 0);
	assert_int_equal(point.number, numbers[3]);
	assert_int_equal(
		history_point_oldest(x->history, numbers[3] + 1, POINT_KEEP, &point), -ENOENT);
	assert_int_equal(history_point_newest(x->history, POINT_KEEP, INT64_MAX, &point), 0);
	assert_int_equal(point.number, numbers[3]);
}

/* The last segment's file, as a spare again, as a crash leaves it that undoes a renaming. */
static void undo_renaming(const char *directory)
{
	char pattern[128], spare[128];
	glob_t found;
	snprintf(pattern, sizeof(pattern), "%s/*.seg", directory);
	assert_int_equal(glob(pattern, 0, NULL, &found), 0);
	const char *last = found.gl_pathv[found.gl_pathc - 1];
	snprintf(spare, sizeof(spare), "%.*s.spr", (int)(strlen(last) - 4), last);
	assert_int_equal(rename(last, spare), 0);
	globfree(&found);
}

/* A spare may hold records that were never there; no later segment brings them back. */
static void spares_end_with_their_opening(void **state)
{
	struct history_fixture *x = *state;
	uint8_t sector[SECTOR_BYTES];
	uint64_t lsn;
	fixture_write(x, 0, 1, memset(sector, 1, sizeof(sector)));
	fixture_reopen(x);
	fixture_write(x, 0, 1, memset(sector, 2, sizeof(sector)));
	history_close(x->history);
	undo_renaming(x->directory);

	fixture_start(x);
	assert_int_equal(history_read(x->history, x->disk, 0, 1, sector), 0);
	assert_int_equal(sector[0], 1);
	/* It gets as far as naming its first segment. */
	atomic_store(&x->faulty.write_error, -EIO);
	assert_int_equal(history_write(x->history, x->disk, 1, 1, sector, &lsn), 0);
	assert_true(history_commit(x->history, &lsn) < 0);
	atomic_store(&x->faulty.write_error, 0);
	fixture_reopen(x);
	assert_int_equal(history_read(x->history, x->disk, 0, 1, sector), 0);
	assert_int_equal(sector[0], 1);
}

/* Bytes of the spare that is being made, or of any; 0 if there is none. */
static uint64_t spare_file_bytes(const char *directory)
{
	char pattern[128];
	glob_t found;
	struct stat st = { 0 };
	snprintf(pattern, sizeof(pattern), "%s/*.spr", directory);
	if (glob(pattern, 0, NULL, &found) == 0)
		assert_int_equal(stat(found.gl_pathv[0], &st), 0);
	globfree(&found);
	return (uint64_t)st.st_size;
}

static void maintain(struct history *history)
{
	bool more = true;
	while (more)
		assert_int_equal(history_maintain(history, &more), 0);
}

/* A journal that is new and takes small commits gets a spare of zeros, goes on in it before its
 * first segment is full, and is replayed like any other. */
static void small_commits_get_a_spare(void **state)
{
	struct history_fixture *x = *state;
	uint8_t sector[SECTOR_BYTES];
	unsigned i = 0;
	struct history_stats before, after;
	for (; i < 200 && spare_file_bytes(x->directory) == 0; i++) {
		fixture_write(x, i, 1, memset(sector, (int)i, sizeof(sector)));
		maintain(x->history);
	}
	assert_in_range(i, 30, 60); /* 8 KiB each: a sixteenth of the segment is 32 */
	assert_int_equal(spare_file_bytes(x->directory), 4 * MIB);
	history_stats(x->history, &before);
	assert_true(before.used_bytes >= 4 * MIB);
	fixture_write(x, i, 1, memset(sector, (int)i, sizeof(sector)));
	assert_int_equal(spare_file_bytes(x->directory), 0); /* a segment now */
	history_stats(x->history, &after);
	assert_true(after.used_bytes < before.used_bytes);
	for (unsigned n = 0; n < 40; n++) {
		fixture_write(x, i, 1, memset(sector, (int)i, sizeof(sector)));
		i++;
		maintain(x->history);
	}
	assert_int_equal(spare_file_bytes(x->directory), 0); /* no need of another */
	fixture_reopen(x);
	for (unsigned n = 0; n < i; n++) {
		assert_int_equal(history_read(x->history, x->disk, n, 1, sector), 0);
		assert_int_equal(sector[0], (uint8_t)n);
	}
}

/* Who writes in large batches, or has little room, does not pay for one; and a disk that fails
 * while it is made costs nothing. */
static void no_spare_where_it_would_harm(void **state)
{
	struct history_fixture *x = *state;
	static uint8_t data[MIB];
	for (unsigned i = 0; i < 3; i++) {
		fixture_write(x, i * 2048, 2048, data);
		maintain(x->history);
	}
	assert_int_equal(spare_file_bytes(x->directory), 0);
	history_set_limit(x->history, 16 * MIB);
	for (unsigned i = 0; i < 20; i++) {
		fixture_write(x, i, 1, data);
		maintain(x->history);
	}
	assert_int_equal(spare_file_bytes(x->directory), 0);
	history_set_limit(x->history, 0);
	fixture_write(x, 1, 1, data);
	atomic_store(&x->faulty.write_error, -EIO);
	maintain(x->history);
	atomic_store(&x->faulty.write_error, 0);
	for (unsigned i = 0; i < 20; i++) {
		fixture_write(x, i, 1, data);
		maintain(x->history);
	}
	assert_int_equal(spare_file_bytes(x->directory), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(points_are_found_from_either_end, setup, teardown),
		cmocka_unit_test_setup_teardown(small_commits_get_a_spare, setup, teardown),
		cmocka_unit_test_setup_teardown(no_spare_where_it_would_harm, setup, teardown),
		cmocka_unit_test_setup_teardown(spares_end_with_their_opening, setup, teardown),
		cmocka_unit_test_setup_teardown(a_commit_has_a_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(many_marks_are_staged_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(full_table_is_replayed, setup, teardown),
		cmocka_unit_test_setup_teardown(name_again_begins_with_zeros, setup, teardown),
		cmocka_unit_test(torn_segment_may_go_first),
		cmocka_unit_test(torn_tail_is_cut_off),
		cmocka_unit_test(drop_during_trim),
		cmocka_unit_test(kept_points_go_with_a_word),
		cmocka_unit_test(trim_on_full_disk),
		cmocka_unit_test(upkeep_on_full_disk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
