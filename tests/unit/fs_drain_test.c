/*
 * fs/drain.c and what depends on it, step by step: which releases may open the journal, what a
 * drained point shows and when, what ends a round, and a reader who is overtaken.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/log.h"
#include "fs/history_internal.h"

#define DISK_BYTES (4 * MIB)
#define SEGMENT_BYTES (64 * KIB)
#define GARBAGE 0xd1

struct world {
	char directory[64];
	struct base base;
	struct history *history;
	uint16_t disk;
	uint8_t live[DISK_BYTES], now[DISK_BYTES];
	uint8_t *points[16];
	void (*on_live_read)(struct world *w); /* called once, before the next */
	unsigned live_reads;
};

static int read_point(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct world *w = CONTAINER_OF(base, struct world, base);
	(void)disk;
	if (!w->points[point])
		return -ENOENT;
	memcpy(data, w->points[point] + offset, n);
	return 0;
}

static int read_live(struct base *base, uint16_t disk, uint64_t offset, void *data, size_t n)
{
	struct world *w = CONTAINER_OF(base, struct world, base);
	void (*call)(struct world *) = w->on_live_read;
	(void)disk;
	w->on_live_read = NULL;
	w->live_reads++;
	if (call)
		call(w);
	memcpy(data, w->live + offset, n);
	return 0;
}

static int open_world(struct world *w, struct error *error)
{
	static const struct base_ops ops = { .read = read_point, .read_live = read_live };
	struct history_report report;
	w->base.ops = &ops;
	const struct history_options options = { .io = io_posix(),
		.clock = clock_system(),
		.base = &w->base,
		.directory = w->directory,
		.group = { { 7 } },
		.limit_bytes = 64 * MIB,
		.segment_bytes = SEGMENT_BYTES };
	return history_open(&options, &report, error, &w->history);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	uint64_t lsn;
	strcpy(w->directory, "/tmp/landfall-drain-XXXXXX");
	assert_non_null(mkdtemp(w->directory));
	log_set_level((enum log_level)0);
	assert_int_equal(open_world(w, NULL), 0);
	assert_int_equal(history_add_disk(w->history, "web/root", DISK_BYTES, &w->disk, &lsn), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char command[128];
	history_close(w->history);
	for (unsigned i = 0; i < ARRAY_SIZE(w->points); i++)
		free(w->points[i]);
	snprintf(command, sizeof(command), "rm -rf '%s'", w->directory);
	assert_int_equal(system(command), 0);
	free(w);
	return 0;
}

static void commit(struct world *w)
{
	uint64_t lsn;
	assert_int_equal(history_commit(w->history, &lsn), 0);
}

static void reopen(struct world *w)
{
	history_close(w->history);
	w->history = NULL;
	assert_int_equal(open_world(w, NULL), 0);
}

static void put(struct world *w, uint64_t lba, uint32_t sectors, uint8_t fill)
{
	uint64_t lsn;
	memset(w->now + lba * SECTOR_BYTES, fill, sectors * SECTOR_BYTES);
	assert_int_equal(
		history_write(w->history, w->disk, lba, sectors, w->now + lba * SECTOR_BYTES, &lsn),
		0);
	commit(w);
}

static uint64_t seal(struct world *w)
{
	const struct seal s = { .kind = POINT_CRASH };
	uint64_t number, lsn;
	assert_int_equal(history_seal(w->history, &s, &number, &lsn), 0);
	commit(w);
	return number;
}

static void check_head(struct world *w)
{
	static uint8_t data[MIB];
	for (uint64_t at = 0; at < DISK_BYTES; at += MIB) {
		assert_int_equal(history_read(w->history, w->disk, at / SECTOR_BYTES,
					 MIB / SECTOR_BYTES, data),
			0);
		assert_memory_equal(data, w->now + at, MIB);
	}
}

static void send(struct world *w, struct view *view)
{
	struct extent e;
	for (uint64_t lba = 0; view_next_change(view, w->disk, lba, &e) == 0;
		lba = e.lba + e.sectors)
		assert_int_equal(view_read(view, w->disk, e.lba, (uint32_t)e.sectors,
					 w->live + e.lba * SECTOR_BYTES),
			0);
}

struct round {
	uint64_t number, cut;
	struct view *view;
};

static struct round begin_round(struct world *w, uint64_t most_bytes)
{
	struct round round;
	uint64_t lsn;
	assert_int_equal(
		history_drain_begin(w->history, most_bytes, &round.number, &round.cut, &lsn), 0);
	commit(w);
	assert_int_equal(history_drain_view(w->history, round.number, round.cut, &round.view), 0);
	return round;
}

static int end_round(struct world *w, struct round *round)
{
	uint64_t lsn;
	send(w, round->view);
	int r = history_drain_commit(w->history, round->view, "proof", 5, &lsn);
	view_close(round->view);
	commit(w);
	return r;
}

static void drain(struct world *w)
{
	struct round round = begin_round(w, 0);
	assert_int_equal(end_round(w, &round), 0);
}

static uint64_t trim(struct world *w)
{
	uint64_t used;
	assert_int_equal(history_trim(w->history, 0, &used), 0);
	return used;
}

static void flush(struct world *w, uint64_t number)
{
	struct view *view;
	uint64_t lsn;
	assert_int_equal(history_flush_begin(w->history, number, &lsn), 0);
	commit(w);
	assert_int_equal(history_flush_view(w->history, number, &view), 0);
	send(w, view);
	view_close(view);
	w->points[number] = malloc(DISK_BYTES);
	memcpy(w->points[number], w->live, DISK_BYTES);
	assert_int_equal(history_flush_commit(w->history, number, &lsn), 0);
	commit(w);
}

static void fill_journal(struct world *w)
{
	for (unsigned i = 0; i < 12; i++)
		put(w, i * 64, 64, (uint8_t)(1 + i));
}

/* ── which releases may open it ──────────────────────────────────────────────────────────── */

static char *load_slot(struct world *w, unsigned slot, size_t *ret_bytes)
{
	char path[96];
	char *data;
	snprintf(path, sizeof(path), "%s/checkpoint.%u", w->directory, slot);
	assert_int_equal(io_load_file(io_posix(), path, MIB, &data, ret_bytes), 0);
	return data;
}

static void set_version(struct world *w, unsigned slot, uint32_t version)
{
	char path[96];
	size_t n;
	char *data = load_slot(w, slot, &n);
	struct journal_checkpoint *h = (struct journal_checkpoint *)data;
	h->version = version;
	h->checksum = page_checksum(h, sizeof(*h), &h->checksum);
	snprintf(path, sizeof(path), "%s/checkpoint.%u", w->directory, slot);
	assert_int_equal(io_replace_file(io_posix(), path, data, n), 0);
	free(data);
}

static uint32_t version(struct world *w, unsigned slot)
{
	size_t n;
	char *data = load_slot(w, slot, &n);
	uint32_t found = ((struct journal_checkpoint *)data)->version;
	free(data);
	return found;
}

static void older_releases_refuse_a_drained_journal(void **state)
{
	struct world *w = *state;
	struct error error = { 0 };
	bool more;
	fill_journal(w);
	assert_int_equal(history_maintain(w->history, &more), 0);
	assert_int_equal(version(w, 1), JOURNAL_VERSION); /* any release may have it */
	struct round round = begin_round(w, 0);
	assert_int_equal(version(w, 0), JOURNAL_VERSION_DRAIN);
	assert_int_equal(version(w, 1), JOURNAL_VERSION_DRAIN);
	assert_int_equal(end_round(w, &round), 0);
	reopen(w);
	check_head(w);
	history_close(w->history);
	w->history = NULL;
	/* And this one refuses what it does not know, whichever slot says so. */
	set_version(w, 0, JOURNAL_VERSION_DRAIN + 1);
	assert_int_equal(open_world(w, &error), -EPROTONOSUPPORT);
	assert_non_null(strstr(error.message, "newer version"));
}

/* ── what a drained point shows ──────────────────────────────────────────────────────────── */

static void drained_point_opens_once_it_is_in_the_vault(void **state)
{
	struct world *w = *state;
	struct point point;
	struct view *view;
	uint64_t lsn, number, cut;
	fill_journal(w);
	drain(w);
	uint64_t used = trim(w);
	assert_true(used < 4 * SEGMENT_BYTES);
	check_head(w);
	assert_true(w->live_reads > 0);
	put(w, 30, 5, 0x77);
	uint64_t first = seal(w);
	put(w, 31, 1, 0x78);
	uint64_t second = seal(w);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(history_point(w->history, first, &point), 0);
		assert_int_equal(
			point.flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED), POINT_DRAINED);
		assert_int_equal(history_point(w->history, second, &point), 0);
		assert_int_equal(
			point.flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED), POINT_DRAINED);
		assert_int_equal(history_view_open(w->history, first, &view), -ENODATA);
		assert_int_equal(history_view_open(w->history, second, &view), -ENODATA);
		assert_int_equal(history_point_drop(w->history, first, POINT_LOCAL, &lsn), -EBUSY);
		assert_int_equal(history_drain_begin(w->history, 0, &number, &cut, &lsn), -EBUSY);
		assert_int_equal(history_point_latest(w->history, INT64_MAX, &point), -ENOENT);
		reopen(w);
	}
	flush(w, first);
	assert_int_equal(history_point(w->history, first, &point), 0);
	assert_int_equal(point.flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED), POINT_VAULT);
	assert_int_equal(history_view_open(w->history, first, &view), 0);
	view_close(view);
	/* What was sealed on top is a local point like any other now. */
	assert_int_equal(history_point(w->history, second, &point), 0);
	assert_int_equal(point.flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED), POINT_LOCAL);
	assert_int_equal(history_view_open(w->history, second, &view), 0);
	view_close(view);
	check_head(w);
}

static void one_flushed_in_its_place_takes_it_away(void **state)
{
	struct world *w = *state;
	struct point point;
	fill_journal(w);
	drain(w);
	trim(w);
	uint64_t first = seal(w);
	put(w, 5, 1, 0x55);
	uint64_t second = seal(w);
	flush(w, second);
	assert_int_equal(history_point(w->history, first, &point), -ENOENT);
	assert_memory_equal(w->points[second], w->now, DISK_BYTES);
	reopen(w);
	assert_int_equal(history_point(w->history, first, &point), -ENOENT);
	check_head(w);
}

static void older_points_stay_exact(void **state)
{
	struct world *w = *state;
	static uint8_t data[DISK_BYTES];
	struct view *view;
	fill_journal(w);
	uint64_t first = seal(w);
	uint64_t number, cut, lsn;
	assert_int_equal(history_drain_begin(w->history, 0, &number, &cut, &lsn), -EBUSY);
	flush(w, first);
	for (unsigned i = 0; i < 12; i++)
		put(w, i * 64, 64, (uint8_t)(0x40 + i));
	drain(w);
	trim(w);
	assert_int_equal(history_view_open(w->history, first, &view), 0);
	assert_int_equal(view_read(view, w->disk, 0, DISK_BYTES / SECTOR_BYTES, data), 0);
	assert_memory_equal(data, w->points[first], DISK_BYTES);
	view_close(view);
	check_head(w);
}

/* ── what ends a round ───────────────────────────────────────────────────────────────────── */

static void a_seal_ends_a_round(void **state)
{
	struct world *w = *state;
	struct point point;
	fill_journal(w);
	struct round round = begin_round(w, 0);
	uint64_t number = seal(w);
	assert_int_equal(end_round(w, &round), -ESTALE);
	/* The point has it all. */
	assert_int_equal(history_point(w->history, number, &point), 0);
	assert_true(point.flags & POINT_LOCAL);
	memset(w->live, GARBAGE, 100 * SECTOR_BYTES);
	flush(w, number);
	assert_memory_equal(w->points[number], w->now, DISK_BYTES);
}

static void another_round_ends_a_round(void **state)
{
	struct world *w = *state;
	uint64_t lsn;
	fill_journal(w);
	struct round first = begin_round(w, 0), second = begin_round(w, 0);
	assert_int_equal(history_drain_commit(w->history, first.view, NULL, 0, &lsn), -ESTALE);
	view_close(first.view);
	assert_int_equal(end_round(w, &second), 0);
	struct history_drain drained;
	history_drain_state(w->history, &drained);
	assert_int_equal(drained.lsn, second.cut);
	assert_int_equal(drained.proof_bytes, 5);
	assert_memory_equal(drained.proof, "proof", 5);
}

static void a_round_takes_no_more_than_it_is_told(void **state)
{
	struct world *w = *state;
	struct history_stats before, after;
	fill_journal(w);
	history_stats(w->history, &before);
	assert_true(before.undrained_bytes > 4 * SEGMENT_BYTES);
	struct round round = begin_round(w, SEGMENT_BYTES + 1);
	assert_int_equal(end_round(w, &round), 0);
	history_stats(w->history, &after);
	uint64_t went = before.undrained_bytes - after.undrained_bytes;
	assert_true(went > SEGMENT_BYTES / 2 && went <= 3 * SEGMENT_BYTES);
	assert_int_equal(after.drained_bytes + after.unflushed_bytes, before.unflushed_bytes);
	assert_true(after.freeable_bytes > 0);
	trim(w);
	check_head(w);
	reopen(w);
	check_head(w);
}

/* ── a reader who is overtaken ───────────────────────────────────────────────────────────── */

/* The place is written, and is on its way to the base, torn. */
static void write_there(struct world *w)
{
	put(w, 10, 1, 0x99);
	memset(w->live + 10 * SECTOR_BYTES, GARBAGE, SECTOR_BYTES);
}

/* It has arrived, and the journal has forgotten it. */
static void write_drain_trim(struct world *w)
{
	put(w, 10, 1, 0x99);
	for (unsigned i = 0; i < 4; i++)
		put(w, 4096, 64, 3);
	drain(w);
	trim(w);
	/* What the read gets was read before. */
	memset(w->live + 10 * SECTOR_BYTES, GARBAGE, SECTOR_BYTES);
}

static void mend(struct world *w)
{
	memset(w->live + 10 * SECTOR_BYTES, 0x99, SECTOR_BYTES);
}

static void read_one(struct world *w, uint8_t want)
{
	uint8_t data[SECTOR_BYTES], right[SECTOR_BYTES];
	memset(right, want, sizeof(right));
	assert_int_equal(history_read(w->history, w->disk, 10, 1, data), 0);
	assert_memory_equal(data, right, sizeof(right));
}

static void overtaken_readers_read_once_more(void **state)
{
	struct world *w = *state;
	fill_journal(w);
	drain(w);
	trim(w);
	/* So that nothing of the place is in the journal's last segment. */
	put(w, 4096, 64, 1);
	drain(w);
	trim(w);
	w->live_reads = 0;
	read_one(w, 1);
	assert_int_equal(w->live_reads, 1);
	w->on_live_read = write_there;
	read_one(w, 0x99);
	mend(w);
	drain(w);
	put(w, 4096, 64, 2);
	drain(w);
	trim(w);
	read_one(w, 0x99);
}

static void write_drain_trim_mend(struct world *w)
{
	write_drain_trim(w);
	w->on_live_read = mend; /* the second read */
}

static void overtaken_by_a_whole_round_as_well(void **state)
{
	struct world *w = *state;
	fill_journal(w);
	drain(w);
	trim(w);
	put(w, 4096, 64, 1);
	drain(w);
	trim(w);
	w->on_live_read = write_drain_trim_mend;
	read_one(w, 0x99);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(older_releases_refuse_a_drained_journal),
		TEST(drained_point_opens_once_it_is_in_the_vault),
		TEST(one_flushed_in_its_place_takes_it_away),
		TEST(older_points_stay_exact),
		TEST(a_seal_ends_a_round),
		TEST(another_round_ends_a_round),
		TEST(a_round_takes_no_more_than_it_is_told),
		TEST(overtaken_readers_read_once_more),
		TEST(overtaken_by_a_whole_round_as_well),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
