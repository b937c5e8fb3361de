/*
 * Corners of the history's life that random operations hardly find.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "fs/history.h"
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

static void open_at(const char *directory, struct history **ret_history)
{
	static const struct base_ops ops = { vault_read };
	static struct base base = { &ops };
	struct history_options options = {
		.io = io_posix(),
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
	open_at(live, &history);
	assert_int_equal(history_add_disk(history, "web/root", MIB, &disk, &lsn), 0);
	commit(history);
	struct point point = { .number = 1, .kind = POINT_CRASH, .flags = POINT_VAULT };
	assert_int_equal(history_point_import(history, &point, &lsn), 0);
	commit(history);
	/* What a crash would leave now, with a torn record at its end. */
	assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
	history_close(history);

	uint8_t sector[SECTOR_BYTES] = { 5 };
	open_at(crashed, &history);
	assert_int_equal(history_trim(history, 0, &used), 0);
	assert_int_equal(history_write(history, disk, 0, 1, sector, &lsn), 0);
	commit(history);
	history_close(history);
	open_at(crashed, &history);
	memset(sector, 0, sizeof(sector));
	assert_int_equal(history_read(history, disk, 0, 1, sector), 0);
	assert_int_equal(sector[0], 5);
	history_close(history);
	assert_int_equal(nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(full_table_is_replayed, setup, teardown),
		cmocka_unit_test(torn_segment_may_go_first),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
