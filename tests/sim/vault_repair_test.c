/*
 * Making a half-written base equal to a snapshot, with a service that tells differences and with
 * one that lists the whole base instead. One disk of two windows of the repair, so that what is in
 * one does not draw attention to the other.
 */
#include "tests/unit/cmocka_common.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/sim/vault_world.h"

#define DISK_BYTES (8 * MIB)
#define DISK_BLOB "machines/web/e.vhd"

static struct error error;
static int64_t sequence;

static const struct vault_disk *add_disk(struct appliance *a)
{
	struct vault_disk *disks = realloc(a->group.disks, 2 * sizeof(*disks));
	struct blob_error e = { 0 };
	disks[1] = disks[0];
	disks[1].id = 2;
	disks[1].vhd_id.bytes[0] = 2;
	disks[1].size_bytes = DISK_BYTES;
	strcpy(disks[1].name, "web/e");
	a->group.disks = disks;
	a->group.disk_count = 2;
	assert_int_equal(vault_group_update(a->store, &a->group, &error), 0);
	assert_int_equal(
		a->ops.raise_sequence(a->store, DISK_BLOB, a->group.lease_id, 7, &e, &sequence), 0);
	return &disks[1];
}

/* Puts a page of `fill`, or clears it. */
static void put(struct appliance *a, uint64_t offset, char fill)
{
	char page[4096];
	struct blob_request request = { .verb = fill ? BLOB_PUT_PAGES : BLOB_CLEAR_PAGES,
		.blob = DISK_BLOB,
		.offset = offset,
		.length = sizeof(page),
		.data = fill ? page : NULL,
		.lease_id = a->group.lease_id,
		.sequence = sequence };
	struct blob_request *done;
	memset(page, fill, sizeof(page));
	assert_int_equal(a->ops.submit(a->store, &request), 0);
	assert_int_equal(a->ops.wait(a->store, -1, &done), 0);
	assert_int_equal(request.result, 0);
}

static char byte_at(struct world *w, uint64_t offset)
{
	char byte;
	assert_int_equal(blob_sim_peek(w->service, DISK_BLOB, NULL, offset, &byte, 1), 0);
	return byte;
}

static int (*real_ranges)(struct blob_store *store, const char *blob, const char *snapshot,
	const char *previous, uint64_t offset, uint64_t length,
	int (*each)(void *context, const struct blob_range *range), void *context,
	struct blob_error *error);

/* As the emulator does. */
static int ranges_without_difference(struct blob_store *store, const char *blob,
	const char *snapshot, const char *previous, uint64_t offset, uint64_t length,
	int (*each)(void *context, const struct blob_range *range), void *context,
	struct blob_error *e)
{
	(void)previous;
	return real_ranges(store, blob, snapshot, NULL, offset, length, each, context, e);
}

static void repair_after(struct world *w, uint64_t offset, char before, char after)
{
	struct appliance *a = &w->first;
	const struct vault_disk *disk = add_disk(a);
	struct vault_progress progress = { 0 };
	struct blob_error e = { 0 };
	char snapshot[BLOB_SNAPSHOT_ID_BYTES];
	if (before)
		put(a, offset, before);
	assert_int_equal(
		a->ops.snapshot(a->store, DISK_BLOB, a->group.lease_id, NULL, 0, &e, snapshot), 0);
	put(a, offset, after);
	assert_int_equal(byte_at(w, offset), after);
	assert_int_equal(vault_disk_repair(a->store, &w->clock.source, &a->group, disk, snapshot,
				 DISK_BYTES, &progress, &error),
		0);
	assert_int_equal(byte_at(w, offset), before);
}

static void changed(void **state)
{
	repair_after(*state, 0, 'a', 'b');
}

static void cleared(void **state)
{
	repair_after(*state, MIB, 'a', 0);
}

static void written_anew(void **state)
{
	repair_after(*state, MIB, 0, 'b');
}

static void without_difference(struct world *w)
{
	real_ranges = w->first.ops.ranges;
	w->first.ops.ranges = ranges_without_difference;
}

static void changed_without_difference(void **state)
{
	without_difference(*state);
	repair_after(*state, 0, 'a', 'b');
}

/* Nothing of the window is listed: only the snapshot's ranges tell. */
static void cleared_without_difference(void **state)
{
	without_difference(*state);
	repair_after(*state, MIB, 'a', 0);
}

static void written_anew_without_difference(void **state)
{
	without_difference(*state);
	repair_after(*state, MIB, 0, 'b');
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(changed),
		TEST(cleared),
		TEST(written_anew),
		TEST(changed_without_difference),
		TEST(cleared_without_difference),
		TEST(written_anew_without_difference),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
