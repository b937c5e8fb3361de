/*
 * A takeover in the midst of a change to the vault, at every moment at which one can come: before
 * each call that the former owner makes on its store. Whatever it asks for from then on is judged
 * by the service as if it landed late, which is the same thing seen from the other side.
 *
 * Nothing that the new owner has may be lost, and the former one is told.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/drained_format.h"
#include "tests/sim/vault_moment.h"

static struct error error;

/* ── what the new owner has ──────────────────────────────────────────────────────────────── */

static int taken; /* what the takeover answered */
static unsigned snapshots_then;
static uint64_t points_then;

static uint64_t committed(struct appliance *a)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	uint64_t numbers = 0;
	assert_int_equal(vault_points_list(a->store, &a->group, &error, &points), 0);
	for (unsigned i = 0; i < points.count; i++)
		if (vault_point_is_committed(&points.items[i]))
			numbers |= 1ull << points.items[i].number;
	return numbers;
}

static void take_over(struct world *w)
{
	taken = world_try_take_over(w);
	if (taken < 0)
		return;
	points_then = committed(&w->second);
	snapshots_then = blob_sim_snapshots(w->service, BLOB);
}

/* All that it took over is there and right. */
static void nothing_is_lost(struct world *w)
{
	struct vault_group there = { 0 };
	struct appliance *b = &w->second;
	assert_int_equal(taken, 0);
	assert_int_equal(vault_group_load(b->store, GROUP, &error, &there), 0);
	assert_memory_equal(&there.owner, &b->id, sizeof(b->id));
	vault_group_free(&there);
	assert_int_equal(committed(b), points_then);
	for (uint64_t n = 0; n < 64; n++)
		if (points_then & 1ull << n)
			assert_int_equal(
				vault_point_verify(b->store, &b->group, n, NULL, NULL, &error), 0);
}

/* ── deleting a group ────────────────────────────────────────────────────────────────────── */

/* Two points of one disk, and a second disk in the vault that no point shows. */
static struct world *two_disks(void)
{
	void *state;
	assert_int_equal(world_setup(&state), 0);
	struct world *w = state;
	struct appliance *a = &w->first;
	(void)world_make_vault_point(a, 'a');
	(void)world_make_vault_point(a, 'b');
	struct vault_disk *disks = realloc(a->group.disks, 2 * sizeof(*disks));
	disks[1] = disks[0];
	disks[1].id = 2;
	disks[1].vhd_id.bytes[0] = 2;
	strcpy(disks[1].name, "web/e");
	a->group.disks = disks;
	a->group.disk_count = 2;
	assert_int_equal(vault_group_update(a->store, &a->group, &error), 0);
	taken = 1;
	return w;
}

static bool is_there(struct world *w, const char *blob)
{
	char byte;
	return blob_sim_peek(w->service, blob, NULL, 0, &byte, 1) == 0;
}

static void a_group_taken_over_while_it_is_deleted(void **state)
{
	unsigned kept = 0;
	(void)state;
	for (unsigned at = 1;; at++) {
		struct world *w = two_disks();
		struct appliance *a = &w->first;
		moment_watch(w, a, at, take_over);
		int r = vault_group_delete(a->store, &a->group, &error);
		bool over = !moment_has_come();
		moment_end(a);
		if (taken == 0) {
			assert_int_equal(r, -ESTALE);
			assert_true(is_there(w, BLOB) && is_there(w, "machines/web/e.vhd"));
			assert_int_equal(points_then, 6);
			assert_int_equal(blob_sim_snapshots(w->service, BLOB), snapshots_then);
			nothing_is_lost(w);
			kept++;
		} else if (taken == -EUCLEAN) {
			/* It came too late for one disk; the other is left to it. */
			assert_false(is_there(w, BLOB));
			assert_true(is_there(w, "machines/web/e.vhd"));
			assert_int_equal(r, -ESTALE);
			assert_true(world_has_manifest(w, 1) && world_has_manifest(w, 2));
		} else {
			/* Or for all: whoever comes second finds it done. */
			assert_true(taken == -ENOENT || over);
			assert_false(is_there(w, BLOB) || is_there(w, "machines/web/e.vhd"));
			assert_false(world_has_manifest(w, 1) || world_has_hashes(w, 2));
			struct vault_group gone;
			assert_int_equal(vault_group_load(a->store, GROUP, &error, &gone), -ENOENT);
		}
		void *end = w;
		world_teardown(&end);
		if (over)
			break;
	}
	assert_true(kept > 2);
}

/* A deletion that was cut short is gone on with, by whoever the group is. */
static void a_deletion_cut_short_is_finished(void **state)
{
	(void)state;
	for (unsigned at = 1;; at++) {
		struct world *w = two_disks();
		struct appliance *a = &w->first;
		struct vault_group again = { 0 };
		moment_watch(w, a, at, NULL);
		int r = vault_group_delete(a->store, &a->group, &error);
		moment_end(a);
		if (r == 0) {
			void *end = w;
			world_teardown(&end);
			break;
		}
		r = vault_group_claim(a->store, GROUP, &a->id, &w->clock.source, &error, &again);
		assert_int_equal(r, 0);
		assert_int_equal(vault_group_delete(a->store, &again, &error), 0);
		assert_false(is_there(w, BLOB) || is_there(w, "machines/web/e.vhd"));
		assert_false(world_has_manifest(w, 1) || world_has_manifest(w, 2));
		assert_false(world_has_hashes(w, 1) || world_has_hashes(w, 2));
		vault_group_free(&again);
		void *end = w;
		world_teardown(&end);
	}
}

/* Somebody broke a lease by hand: that makes it nobody else's. */
static void a_broken_lease_is_taken_again(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct blob_error e = { 0 };
	(void)world_make_vault_point(a, 'a');
	assert_int_equal(a->ops.lease_break(a->store, BLOB, &e), 0);
	assert_int_equal(vault_group_delete(a->store, &a->group, &error), 0);
	assert_false(is_there(w, BLOB));
}

/* ── flushing ────────────────────────────────────────────────────────────────────────────── */

static uint64_t renewed;

/* The new owner goes on, from what it found. */
static void go_on(struct world *w)
{
	take_over(w);
	world_bring_up(w);
	renewed = world_make_vault_point(&w->second, 'z');
	points_then = committed(&w->second);
}

/* It has flushed a point of the same number. */
static void a_flush_by_who_was_taken_over(void **state)
{
	bool over = false;
	unsigned same = 0;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		void *made;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		(void)world_make_vault_point(a, 'a');
		uint64_t number = world_make_point(a, 'b');
		moment_watch(w, a, at, go_on);
		int r = world_flush(a, number);
		over = !moment_has_come();
		moment_end(a);
		if (over) {
			assert_int_equal(r, 0);
		} else {
			nothing_is_lost(w);
			if (renewed == number)
				assert_int_equal(r, -ESTALE);
			same += renewed == number;
		}
		world_teardown(&made);
	}
	assert_true(same > 3);
}

/* ── deleting a point ────────────────────────────────────────────────────────────────────── */

static int refuse_object_delete(
	struct blob_store *store, const char *name, const char *if_match, struct blob_error *e)
{
	(void)store;
	(void)name;
	(void)if_match;
	return moment_away(e);
}

/* With `merged` its hashes were merged by an earlier try. */
static bool take_over_before(unsigned at, bool merged, unsigned *refused)
{
	void *made;
	assert_int_equal(world_setup(&made), 0);
	struct world *w = made;
	struct appliance *a = &w->first;
	for (unsigned i = 0; i < 3; i++)
		(void)world_make_vault_point(a, (char)('a' + i));
	if (merged) {
		struct blob_store_ops ops = a->ops;
		a->ops.object_delete = refuse_object_delete;
		assert_int_equal(vault_point_delete(a->store, &a->group, 2, &error), -EACCES);
		a->ops = ops;
	}
	taken = 1;
	moment_watch(w, a, at, take_over);
	int r = vault_point_delete(a->store, &a->group, 2, &error);
	bool over = !moment_has_come();
	moment_end(a);
	if (!over) {
		nothing_is_lost(w);
		assert_true(points_then == 14 || points_then == 10);
		if (points_then == 14)
			assert_int_equal(r, -ESTALE);
		*refused += r == -ESTALE;
	}
	world_teardown(&made);
	return !over;
}

static void a_point_deleted_by_who_was_taken_over(void **state)
{
	(void)state;
	for (unsigned merged = 0; merged < 2; merged++) {
		unsigned refused = 0, at = 1;
		while (take_over_before(at, merged, &refused))
			at++;
		assert_true(refused > 3);
	}
}

/* What the former owner would merge its hashes into is no longer what it was: the newest was not
 * whole, and its number is used again. */
static void a_merge_goes_into_no_other_point(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		CLEANUP(manifest_free) struct manifest m = { 0 };
		struct blob_error e = { 0 };
		void *made;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		for (unsigned i = 0; i < 3; i++)
			(void)world_make_vault_point(a, (char)('a' + i));
		world_load_manifest(a, 3, &m);
		assert_int_equal(
			a->ops.delete_blob(a->store, BLOB, m.disks[0].snapshot, NULL, &e), 0);
		w->discards_damaged = true;
		moment_watch(w, a, at, go_on);
		int r = vault_point_delete(a->store, &a->group, 2, &error);
		over = !moment_has_come();
		moment_end(a);
		if (!over) {
			/* Or that of the point which was just deleted. */
			assert_int_equal(points_then, renewed == 3 ? 14 : 6);
			nothing_is_lost(w);
			if (points_then == 14)
				assert_int_equal(r, -ESTALE);
		}
		world_teardown(&made);
	}
}

/* Cut short anywhere and repeated, or collected: the same in the end, the hashes merged once. */
static void a_points_deletion_is_repeated(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		void *made;
		unsigned deleted;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		(void)world_make_vault_point(a, 'a');
		(void)world_make_vault_point(a, 'b');
		moment_watch(w, a, at, NULL);
		over = vault_point_delete(a->store, &a->group, 1, &error) == 0;
		moment.at = 0;
		assert_int_equal(vault_point_delete(a->store, &a->group, 1, &error), 0);
		assert_int_equal(
			vault_collect_orphans(a->store, &a->group, 0, &error, &deleted), 0);
		moment_end(a);
		assert_int_equal(moment.commits, 1);
		assert_false(world_has_manifest(w, 1) || world_has_hashes(w, 1));
		assert_int_equal(blob_sim_snapshots(w->service, BLOB), 1);
		assert_int_equal(vault_point_verify(a->store, &a->group, 2, NULL, NULL, &error), 0);
		world_teardown(&made);
	}
}

static void mark_kept(struct world *w)
{
	take_over(w);
	assert_int_equal(vault_point_keep(w->second.store, &w->second.group, 1, true, &error), 0);
}

/* A mark of the former owner does not undo one of the new. */
static void a_point_marked_by_who_was_taken_over(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		CLEANUP(vault_points_free) struct vault_points points = { 0 };
		void *made;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		(void)world_make_vault_point(a, 'a');
		(void)world_make_vault_point(a, 'b');
		moment_watch(w, a, at, mark_kept);
		(void)vault_point_keep(a->store, &a->group, 1, false, &error);
		over = !moment_has_come();
		moment_end(a);
		if (!over) {
			struct appliance *b = &w->second;
			assert_int_equal(
				vault_points_list(b->store, &b->group, &error, &points), 0);
			assert_int_equal(points.items[0].number, 1);
			assert_true(points.items[0].flags & POINT_KEEP);
		}
		world_teardown(&made);
	}
}

/* ── collecting ──────────────────────────────────────────────────────────────────────────── */

static char begun[BLOB_SNAPSHOT_ID_BYTES], drained[VAULT_NAME_BYTES];

/* The new owner's flush has made its snapshot, and put hashes of what was drained; its manifest
 * follows. */
static void begin_flush(struct world *w)
{
	take_over(w);
	const struct drained_part part = {
		.generation = w->second.group.generation, .from = 1, .to = 2
	};
	vault_drained_name(GROUP, 3, &part, drained);
	world_put_object(&w->second, drained);
	world_snapshot_of(&w->second, NULL, 3, 1, begun);
}

static void a_snapshot_of_the_new_owner_is_no_orphan(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		void *made;
		unsigned deleted;
		char orphan[BLOB_SNAPSHOT_ID_BYTES];
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		(void)world_make_vault_point(a, 'a');
		(void)world_make_vault_point(a, 'b');
		world_snapshot_of(a, NULL, 3, 1, orphan);
		moment_watch(w, a, at, begin_flush);
		int r = vault_collect_orphans(a->store, &a->group, 0, &error, &deleted);
		over = !moment_has_come();
		moment_end(a);
		assert_false(over && r < 0);
		if (!over) {
			assert_true(world_has_snapshot(w, begun));
			assert_true(world_has_object(w, drained));
			nothing_is_lost(w);
		}
		world_teardown(&made);
	}
}

static struct manifest new_one;

/* The first takes the group back, collects itself, and commits a point of the number that the
 * second is about to delete as one that came too late. */
static void take_back(struct world *w)
{
	struct appliance *a = &w->first;
	vault_group_free(&a->group);
	taken = vault_group_takeover(a->store, GROUP, &a->id, "first", false, &w->clock.source,
		NULL, NULL, &error, &a->group);
	assert_int_equal(taken, 0);
	assert_false(world_has_manifest(w, 3));
	new_one.generation = a->group.generation;
	world_put_manifest(a, &new_one);
	world_put_hashes(a, 3);
}

static void a_number_used_again_is_not_deleted(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		void *made;
		unsigned deleted;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first, *b = &w->second;
		(void)world_make_vault_point(a, 'a');
		(void)world_make_vault_point(a, 'b');
		world_load_manifest(a, 2, &new_one);
		new_one.number = 3;
		world_take_over(w);
		world_put_manifest(a, &new_one); /* the first's, too late */
		world_put_hashes(a, 3);
		moment_watch(w, b, at, take_back);
		int r = vault_collect_orphans(b->store, &b->group, 0, &error, &deleted);
		over = !moment_has_come();
		moment_end(b);
		assert_false(over && r < 0);
		if (!over)
			assert_true(world_has_manifest(w, 3) && world_has_hashes(w, 3));
		manifest_free(&new_one);
		world_teardown(&made);
	}
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_group_taken_over_while_it_is_deleted),
		cmocka_unit_test(a_deletion_cut_short_is_finished),
		TEST(a_broken_lease_is_taken_again),
		cmocka_unit_test(a_flush_by_who_was_taken_over),
		cmocka_unit_test(a_point_deleted_by_who_was_taken_over),
		cmocka_unit_test(a_points_deletion_is_repeated),
		cmocka_unit_test(a_merge_goes_into_no_other_point),
		cmocka_unit_test(a_point_marked_by_who_was_taken_over),
		cmocka_unit_test(a_snapshot_of_the_new_owner_is_no_orphan),
		cmocka_unit_test(a_number_used_again_is_not_deleted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
