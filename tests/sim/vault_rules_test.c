/*
 * The vault's rules one by one, each in the one situation that needs it, over a simulated service
 * that does as it is told: what the orphans' collector must leave alone, tombstones, cuts, which
 * numbers may be flushed, and that whoever has lost the group changes nothing.
 *
 * Random lives (vault_sim_test, flusher_sim_test) meet most of this now and then, and a rule that
 * is missing costs them nothing if it was not needed for what they check.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "tests/sim/vault_world.h"

static struct error error;

/* ── the collector ───────────────────────────────────────────────────────────────────────── */

/* What bears the number of the pending point or a later one may be a flush under way. */
static void the_pending_point_and_later_stay(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	char ids[3][BLOB_SNAPSHOT_ID_BYTES], name[VAULT_NAME_BYTES];
	(void)world_make_vault_point(a, 'a');
	for (unsigned i = 0; i < 3; i++) {
		world_snapshot_of(a, NULL, 5 + i, 1, ids[i]);
		vault_hashes_name(GROUP, 5 + i, name);
		world_put_object(a, name);
	}
	assert_int_equal(world_collect(a, 6), 2);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(world_has_snapshot(w, ids[i]), i > 0);
		assert_int_equal(world_has_hashes(w, 5 + i), i > 0);
	}
	assert_int_equal(world_collect(a, 0), 4);
	assert_int_equal(world_collect(a, 0), 0);
}

/* Snapshots that others made are none of ours. */
static void other_snapshots_stay(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct blob_error e = { 0 };
	char others[BLOB_SNAPSHOT_ID_BYTES], plain[BLOB_SNAPSHOT_ID_BYTES];
	(void)world_make_vault_point(a, 'a');
	world_snapshot_of(a, "99999999-9999-4999-8999-999999999999", 5, 1, others);
	assert_int_equal(a->ops.snapshot(a->store, BLOB, a->group.lease_id, NULL, 0, &e, plain), 0);
	assert_int_equal(world_collect(a, 0), 0);
	assert_true(world_has_snapshot(w, others) && world_has_snapshot(w, plain));
}

/* A manifest that cannot be read may name any snapshot of its number. */
static void a_damaged_manifest_keeps_its_snapshots(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	char name[VAULT_NAME_BYTES];
	CLEANUP(manifest_free) struct manifest m = { 0 };
	uint64_t number = world_make_vault_point(a, 'a');
	(void)world_make_vault_point(a, 'b');
	world_load_manifest(a, number, &m);
	vault_manifest_name(GROUP, number, name);
	assert_int_equal(blob_sim_rot(w->service, name, NULL, 50), 0);
	assert_int_equal(world_collect(a, 0), 0);
	assert_true(world_has_snapshot(w, m.disks[0].snapshot));
}

/* ── tombstones ──────────────────────────────────────────────────────────────────────────── */

/* A flush is passed by: its manifest may still be under way, and must never get there. */
static void a_tombstone_bars_what_comes_late(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(manifest_free) struct manifest stone = { 0 };
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	struct blob_error e = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	uint64_t oldest = world_make_vault_point(a, 'a');
	uint64_t lost = world_make_point(a, 'b'), next = world_make_point(a, 'c');
	world_begin_flush(a, lost);
	assert_int_equal(world_flush(a, next), 0);
	world_load_manifest(a, lost, &stone);
	assert_true(stone.abandoned);
	/* For ever. */
	assert_int_equal(world_collect(a, 0), 0);
	assert_int_equal(world_collect(a, 0), 0);
	vault_manifest_name(GROUP, lost, name);
	assert_int_equal(
		a->ops.object_put(a->store, name, "late", 4, "", NULL, 0, &e, etag), -EEXIST);
	assert_int_equal(vault_points_list(a->store, &a->group, &error, &points), 0);
	for (unsigned i = 0; i < points.count; i++)
		assert_int_equal(
			vault_point_is_committed(&points.items[i]), points.items[i].number != lost);
	/* What the oldest proves goes to the next that stands. */
	assert_int_equal(vault_point_delete(a->store, &a->group, oldest, &error), 0);
	assert_int_equal(vault_point_verify(a->store, &a->group, next, NULL, NULL, &error), 0);
}

/* The tombstone was put, and the flush that was to pass by did not begin: the point may be flushed
 * after all, but its tombstone is no sign that it has been. */
static void a_tombstone_commits_nothing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(manifest_free) struct manifest m = { 0 };
	uint64_t lost = world_make_point(a, 'b'), next = world_make_point(a, 'c');
	world_begin_flush(a, lost);
	a->syncs_left = 0;
	assert_int_equal(world_flush(a, next), -EIO);
	world_restart(w);
	assert_int_equal(history_flush_pending(a->history), lost);
	assert_true(world_has_manifest(w, lost));
	assert_int_equal(world_flush(a, lost), 0);
	world_load_manifest(a, lost, &m);
	assert_false(m.abandoned);
	assert_int_equal(vault_point_verify(a->store, &a->group, lost, NULL, NULL, &error), 0);
}

/* ── the cut ─────────────────────────────────────────────────────────────────────────────── */

static void a_cut_ends_where_it_says(void **state)
{
	struct vault_cut cuts[] = { { .generation = 4, .above = 10 },
		{ .generation = 9, .above = 20 } };
	const struct vault_group group = { .cuts = cuts, .cut_count = 2 };
	(void)state;
	assert_false(vault_is_cut(&group, 4, 10));
	assert_true(vault_is_cut(&group, 4, 11));
	assert_true(vault_is_cut(&group, 3, 11));
	assert_false(vault_is_cut(&group, 5, 11));
	assert_false(vault_is_cut(&group, 9, 20));
	assert_true(vault_is_cut(&group, 9, 21));
	assert_true(vault_is_cut(&group, 4, 21));
	assert_false(vault_is_cut(&group, 10, 21));
}

/* The first appliance's manifest lands after the takeover has looked: it commits nothing, is
 * collected, and its number is the second's to use. */
static void a_late_manifest_commits_nothing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first, *b = &w->second;
	struct blob_error e = { 0 };
	struct point point;
	CLEANUP(buf_free) struct buf late = { 0 };
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	uint64_t kept = world_make_vault_point(a, 'a'), lost = world_make_vault_point(a, 'b');
	vault_manifest_name(GROUP, lost, name);
	assert_int_equal(blob_sim_peek_object(w->service, name, &late), 0);
	world_load_manifest(a, lost, &m);
	world_delete_object(a, name);
	world_take_over(w);
	assert_int_equal(
		a->ops.object_put(a->store, name, late.data, late.len, "", NULL, 0, &e, etag), 0);

	world_bring_up(w);
	assert_int_equal(history_point(b->history, kept, &point), 0);
	assert_int_equal(history_point(b->history, lost, &point), -ENOENT);
	assert_int_equal(world_collect(b, 0), 1); /* its snapshot went with the takeover */
	assert_false(world_has_manifest(w, lost));
	assert_true(world_has_manifest(w, kept));
	assert_false(world_has_snapshot(w, m.disks[0].snapshot));
	/* It comes once more, while the second is at a point of that number and starts again. */
	assert_int_equal(world_make_point(b, 'c'), lost);
	world_begin_flush(b, lost);
	assert_int_equal(
		a->ops.object_put(a->store, name, late.data, late.len, "", NULL, 0, &e, etag), 0);
	assert_int_equal(world_flush(b, lost), 0);
	assert_int_equal(vault_point_verify(b->store, &b->group, lost, NULL, NULL, &error), 0);
	assert_int_equal(world_collect(b, 0), 0);
}

/* Nor does it stand in for the tombstone of a number that the second passes by: it is collected,
 * and what the second may still have under way must not get there then. */
static void a_late_manifest_bars_nothing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first, *b = &w->second;
	struct blob_error e = { 0 };
	CLEANUP(buf_free) struct buf late = { 0 };
	CLEANUP(manifest_free) struct manifest stone = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	(void)world_make_vault_point(a, 'a');
	uint64_t lost = world_make_vault_point(a, 'b');
	vault_manifest_name(GROUP, lost, name);
	assert_int_equal(blob_sim_peek_object(w->service, name, &late), 0);
	world_delete_object(a, name);
	world_take_over(w);
	world_bring_up(w);
	assert_int_equal(world_make_point(b, 'c'), lost);
	uint64_t next = world_make_point(b, 'd');
	world_begin_flush(b, lost);
	assert_int_equal(
		a->ops.object_put(a->store, name, late.data, late.len, "", NULL, 0, &e, etag), 0);
	assert_int_equal(world_flush(b, next), 0);
	(void)world_collect(b, 0);
	world_load_manifest(b, lost, &stone);
	assert_true(stone.abandoned);
	assert_int_equal(vault_point_verify(b->store, &b->group, next, NULL, NULL, &error), 0);
}

/* ── numbers ─────────────────────────────────────────────────────────────────────────────── */

/* Nor does it keep the snapshots that it names, even as long as it is there. */
static void a_late_manifest_explains_nothing(void **state)
{
	struct world *w = *state;
	CLEANUP(manifest_free) struct manifest late = { 0 };
	uint64_t number = world_make_vault_point(&w->first, 'a');
	world_load_manifest(&w->first, number, &late);
	world_take_over(w);
	late.number = number + 1;
	world_snapshot_of(&w->second, NULL, late.number, 1, late.disks[0].snapshot);
	world_put_manifest(&w->first, &late);
	assert_int_equal(world_collect(&w->second, 0), 2);
	assert_false(world_has_snapshot(w, late.disks[0].snapshot));
	assert_false(world_has_manifest(w, late.number));
	assert_true(world_has_manifest(w, number));
}

static unsigned requests;

static int (*real_submit)(struct blob_store *store, struct blob_request *request);

static int count_submit(struct blob_store *store, struct blob_request *request)
{
	requests++;
	return real_submit(store, request);
}

/* The base may hold any part of a point whose flush was begun; an older one is not in it any more.
 * Nor is one below what is in the vault. */
static void numbers_only_rise(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	uint64_t below = world_make_point(a, 'a'), vault = world_make_vault_point(a, 'b');
	uint64_t older = world_make_point(a, 'c'), begun = world_make_point(a, 'd'),
		 newer = world_make_point(a, 'e');
	requests = 0;
	real_submit = a->ops.submit;
	a->ops.submit = count_submit;
	assert_int_equal(world_flush(a, vault), -EINVAL);
	assert_int_equal(world_flush(a, below), -EINVAL);
	assert_int_equal(history_flush_pending(a->history), 0);
	world_begin_flush(a, begun);
	assert_int_equal(world_flush(a, older), -EINVAL);
	assert_int_equal(world_flush(a, vault), -EINVAL);
	assert_int_equal(requests, 0);
	assert_int_equal(history_flush_pending(a->history), begun);
	assert_int_equal(world_flush(a, newer), 0);
	assert_true(requests > 0);
	assert_int_equal(vault_point_verify(a->store, &a->group, newer, NULL, NULL, &error), 0);
}

/* Numbers of points that the vault has and the journal has lost are used. */
static void numbers_rise_above_what_was_lost(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	(void)world_make_vault_point(a, 'a');
	uint64_t below = world_make_point(a, 'b'), lost = world_make_point(a, 'c');
	world_lose_up_to(w, lost);
	requests = 0;
	real_submit = a->ops.submit;
	a->ops.submit = count_submit;
	assert_int_equal(world_flush(a, below), -EINVAL);
	assert_int_equal(world_flush(a, lost), -EINVAL);
	assert_int_equal(requests, 0);
	assert_int_equal(history_flush_pending(a->history), 0);
}

static void the_newest_is_not_deleted(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	uint64_t older = world_make_vault_point(a, 'a'), newest = world_make_vault_point(a, 'b');
	assert_int_equal(vault_point_delete(a->store, &a->group, newest, &error), -EBUSY);
	assert_true(world_has_manifest(w, newest) && world_has_hashes(w, newest));
	assert_int_equal(vault_point_delete(a->store, &a->group, older, &error), 0);
	assert_false(world_has_manifest(w, older) || world_has_hashes(w, older));
	assert_int_equal(blob_sim_snapshots(w->service, BLOB), 1);
	assert_int_equal(vault_point_verify(a->store, &a->group, newest, NULL, NULL, &error), 0);
}

/* ── snapshots whose answer was lost ─────────────────────────────────────────────────────── */

static int (*real_snapshot)(struct blob_store *store, const char *blob, const char *lease_id,
	const struct blob_metadata *metadata, unsigned metadata_count, struct blob_error *error,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES]);
static unsigned to_lose;
static bool made;

/* The next answers are lost: of a snapshot that was made, or that was not. */
static int lose_snapshot(struct blob_store *store, const char *blob, const char *lease_id,
	const struct blob_metadata *metadata, unsigned metadata_count, struct blob_error *e,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	if (to_lose == 0)
		return real_snapshot(
			store, blob, lease_id, metadata, metadata_count, e, ret_snapshot);
	to_lose--;
	char unseen[BLOB_SNAPSHOT_ID_BYTES];
	if (made)
		assert_int_equal(
			real_snapshot(store, blob, lease_id, metadata, metadata_count, e, unseen),
			0);
	e->ambiguous = true;
	return error_set(&e->error, -ETIMEDOUT, NULL, "lost");
}

/* An earlier try of the same point has left one, of an older number: the base has changed since. */
static void only_this_try_is_adopted(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char stale[BLOB_SNAPSHOT_ID_BYTES];
	uint64_t number = world_make_point(a, 'a');
	world_snapshot_of(a, NULL, number, 1, stale);
	real_snapshot = a->ops.snapshot;
	a->ops.snapshot = lose_snapshot;
	to_lose = 1;
	made = false;
	assert_int_equal(world_flush(a, number), 0);
	world_load_manifest(a, number, &m);
	assert_string_not_equal(m.disks[0].snapshot, stale);
	assert_int_equal(vault_point_verify(a->store, &a->group, number, NULL, NULL, &error), 0);
	/* One that was made is found, and no second one made. */
	to_lose = 1;
	made = true;
	number = world_make_vault_point(a, 'b');
	assert_int_equal(world_collect(a, 0), 1); /* the stale one */
	assert_int_equal(blob_sim_snapshots(w->service, BLOB), 2);
}

/* ── manifests that are there already ────────────────────────────────────────────────────── */

static struct manifest early; /* what a put that lands late brings */
static struct appliance *early_of;

/* The last moment at which one can land unseen: it was looked for before, and is put after. */
static int land_manifest(struct blob_store *store, const char *blob, const char *lease_id,
	const struct blob_metadata *metadata, unsigned metadata_count, struct blob_error *e,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	world_put_manifest(early_of, &early);
	return real_snapshot(store, blob, lease_id, metadata, metadata_count, e, ret_snapshot);
}

/* The appliance's own of an earlier try, which says the same, commits the point; anybody else's is
 * not replaced and not taken for one's own. */
static void a_manifest_is_never_replaced(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(manifest_free) struct manifest found = { 0 };
	struct point point;
	uint64_t number = world_make_point(a, 'a');
	a->syncs_left = 1; /* for its beginning */
	assert_int_equal(world_flush(a, number), -EIO);
	world_restart(w);
	world_load_manifest(a, number, &early);
	early_of = a;
	real_snapshot = a->ops.snapshot;
	a->ops.snapshot = land_manifest;
	for (unsigned i = 0; i < 3; i++) {
		char name[VAULT_NAME_BYTES];
		vault_manifest_name(GROUP, number, name);
		world_delete_object(a, name);
		early.appliance.bytes[0] = i == 0 ? 9 : 1;
		early.hashes_digest += i == 1;
		assert_int_equal(world_flush(a, number), i < 2 ? -ESTALE : 0);
		early.hashes_digest -= i == 1;
	}
	world_load_manifest(a, number, &found);
	assert_string_equal(found.disks[0].snapshot, early.disks[0].snapshot);
	assert_int_equal(history_point(a->history, number, &point), 0);
	assert_true(point.flags & POINT_VAULT);
	assert_int_equal(vault_point_verify(a->store, &a->group, number, NULL, NULL, &error), 0);
	manifest_free(&early);
}

/* Data is recorded where the snapshot has never been written: found without reading it. */
static void what_is_missing_is_found(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char empty[BLOB_SNAPSHOT_ID_BYTES], name[VAULT_NAME_BYTES];
	world_snapshot_of(a, NULL, 1, 1, empty);
	uint64_t number = world_make_vault_point(a, 'a');
	world_load_manifest(a, number, &m);
	memcpy(m.disks[0].snapshot, empty, sizeof(empty));
	vault_manifest_name(GROUP, number, name);
	world_delete_object(a, name);
	world_put_manifest(a, &m);
	assert_int_equal(
		vault_point_verify(a->store, &a->group, number, NULL, NULL, &error), -EBADMSG);
}

/* A newest point whose snapshot is gone is passed over by a takeover, the one below stands. */
static void what_is_not_whole_does_not_stand(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(manifest_free) struct manifest m = { 0 };
	CLEANUP(vault_group_free) struct vault_group untouched = { 0 };
	struct blob_error e = { 0 };
	struct point point;
	uint64_t whole = world_make_vault_point(a, 'a'), torn = world_make_vault_point(a, 'b');
	world_load_manifest(a, torn, &m);
	assert_int_equal(a->ops.delete_blob(a->store, BLOB, m.disks[0].snapshot, NULL, &e), 0);
	assert_int_equal(world_try_take_over(w), -EUCLEAN);
	assert_int_equal(vault_group_load(a->store, GROUP, &error, &untouched), 0);
	assert_int_equal(untouched.generation, a->group.generation);
	w->discards_damaged = true;
	world_take_over(w);
	world_bring_up(w);
	assert_int_equal(history_point(w->second.history, whole, &point), 0);
	assert_int_equal(history_point(w->second.history, torn, &point), -ENOENT);
	char base = 0;
	assert_int_equal(blob_sim_peek(w->service, BLOB, NULL, 0, &base, 1), 0);
	assert_int_equal(base, 'a');
}

/* ── fences ──────────────────────────────────────────────────────────────────────────────── */

static int (*real_wait)(
	struct blob_store *store, int timeout_ms, struct blob_request **ret_request);
static int (*real_raise)(struct blob_store *store, const char *blob, const char *lease_id,
	int64_t at_least, struct blob_error *error, int64_t *ret_sequence);
static int64_t doubted; /* the number of a request whose end is not known */
static unsigned raises;

static int lose_first_answer(
	struct blob_store *store, int timeout_ms, struct blob_request **ret_request)
{
	int r = real_wait(store, timeout_ms, ret_request);
	if (r == 0 && doubted < 0) {
		struct blob_request *q = *ret_request;
		doubted = q->sequence;
		q->result = -ETIMEDOUT;
		q->error.ambiguous = true;
		error_set(&q->error.error, -ETIMEDOUT, NULL, "lost");
	}
	return r;
}

static int submit_above_doubted(struct blob_store *store, struct blob_request *request)
{
	assert_true(request->verb == BLOB_READ || request->sequence > doubted);
	return real_submit(store, request);
}

/* What may still land must be refused by then: nothing more goes out under its number. */
static void doubt_raises_the_number(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	doubted = -1;
	real_wait = a->ops.wait;
	real_submit = a->ops.submit;
	a->ops.wait = lose_first_answer;
	a->ops.submit = submit_above_doubted;
	uint64_t number = world_make_vault_point(a, 'a');
	assert_true(doubted >= 0);
	assert_int_equal(vault_point_verify(a->store, &a->group, number, NULL, NULL, &error), 0);
}

/* Somebody raised it further, to a number that may be in use there. */
static int raise_too_far(struct blob_store *store, const char *blob, const char *lease_id,
	int64_t at_least, struct blob_error *e, int64_t *ret_sequence)
{
	int r = real_raise(
		store, blob, lease_id, at_least + (raises++ == 0 ? 5 : 0), e, ret_sequence);
	if (raises == 1)
		doubted = *ret_sequence;
	return r;
}

static void a_number_is_ones_own(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	raises = 0;
	doubted = 0;
	real_raise = a->ops.raise_sequence;
	real_submit = a->ops.submit;
	a->ops.raise_sequence = raise_too_far;
	a->ops.submit = submit_above_doubted;
	(void)world_make_vault_point(a, 'a');
	assert_int_equal(raises, 2);
}

/* ── whoever has lost a lease ────────────────────────────────────────────────────────────── */

static void write_as_another(struct appliance *a, uint64_t offset)
{
	static const char lease[] = "a-stranger";
	struct blob_properties properties;
	struct blob_error e = { 0 };
	char page[4096];
	memset(page, 'X', sizeof(page));
	assert_int_equal(a->ops.properties(a->store, BLOB, &e, &properties), 0);
	assert_int_equal(a->ops.lease_break(a->store, BLOB, &e), 0);
	assert_int_equal(a->ops.lease_acquire(a->store, BLOB, lease, &e), 0);
	struct blob_request *done, request = { .verb = BLOB_PUT_PAGES,
		.blob = BLOB,
		.offset = offset,
		.length = sizeof(page),
		.data = page,
		.lease_id = lease,
		.sequence = properties.sequence };
	assert_int_equal(a->ops.submit(a->store, &request), 0);
	assert_int_equal(a->ops.wait(a->store, -1, &done), 0);
	assert_int_equal(request.result, 0);
	assert_int_equal(a->ops.lease_release(a->store, BLOB, lease, &e), 0);
}

/* As the group's worker does it. */
static void claim_again(struct world *w)
{
	struct appliance *a = &w->first;
	bool lost = false;
	uint64_t lsn, unknown;
	assert_int_equal(vault_group_leases(a->store, &a->group, &error, &lost), 0);
	assert_true(lost);
	assert_int_equal(history_repair_ask(a->history, &lsn), 0);
	assert_int_equal(history_commit(a->history, &lsn), 0);
	vault_group_free(&a->group);
	assert_int_equal(
		vault_group_claim(a->store, GROUP, &a->id, &w->clock.source, &error, &a->group), 0);
	assert_int_equal(
		vault_agree(a->store, &w->clock.source, &a->group, a->history, 0, &error, &unknown),
		0);
	assert_int_equal(history_commit(a->history, &lsn), 0);
}

/* What another wrote is in no point, be it beside what a flush sends or where one had sent. */
static void what_another_wrote_is_in_no_point(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	char byte;
	(void)world_make_vault_point(a, 'a');
	uint64_t number = world_make_point(a, 'b');
	write_as_another(a, 64 << 10);
	assert_int_equal(world_flush(a, number), -ESTALE);
	assert_false(world_has_manifest(w, number));
	claim_again(w);
	world_restart(w); /* the journal remembers it */
	assert_int_equal(world_flush(a, number), 0);
	assert_int_equal(vault_point_verify(a->store, &a->group, number, NULL, NULL, &error), 0);
	assert_int_equal(blob_sim_peek(w->service, BLOB, NULL, 64 << 10, &byte, 1), 0);
	assert_int_equal(byte, 0);
}

/* What was drained is in the base only: nothing more is sent on top of it. */
static void what_was_drained_is_not_trusted(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct flusher_result result;
	struct history_drain drain;
	char data[4096] = "drained";
	uint64_t lsn;
	(void)world_make_vault_point(a, 'a');
	assert_int_equal(history_write(a->history, 1, 64, 8, data, &lsn), 0);
	assert_int_equal(history_commit(a->history, &lsn), 0);
	assert_int_equal(flusher_drain(a->flusher, &error, &result), 0);
	assert_true(result.drained);
	uint64_t number = world_make_point(a, 'b');
	write_as_another(a, 64 << 10);
	claim_again(w);
	assert_int_equal(flusher_flush(a->flusher, number, &error, &result), -EUCLEAN);
	assert_non_null(strstr(error.mend, "takeover"));
	struct point point;
	assert_int_equal(history_point(a->history, number, &point), 0);
	assert_false(point.flags & POINT_VAULT);
	history_drain_state(a->history, &drain);
	assert_int_not_equal(drain.number, 0);
}

/* ── whoever has lost the group ──────────────────────────────────────────────────────────── */

static void the_former_owner_changes_nothing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	unsigned deleted = 0;
	char orphan[BLOB_SNAPSHOT_ID_BYTES];
	uint64_t older = world_make_vault_point(a, 'a'), newer = world_make_vault_point(a, 'b');
	uint64_t next = world_make_point(a, 'c');
	world_take_over(w);
	world_snapshot_of(&w->second, NULL, 50, 1, orphan);
	assert_int_equal(vault_collect_orphans(a->store, &a->group, 0, &error, &deleted), -ESTALE);
	assert_true(world_has_snapshot(w, orphan));
	assert_int_equal(vault_point_delete(a->store, &a->group, older, &error), -ESTALE);
	assert_true(world_has_manifest(w, older) && world_has_hashes(w, older));
	assert_int_equal(vault_point_keep(a->store, &a->group, newer, true, &error), -ESTALE);
	assert_int_equal(world_flush(a, next), -ESTALE);
	assert_false(world_has_manifest(w, next));
	assert_int_equal(vault_group_delete(a->store, &a->group, &error), -ESTALE);
	assert_true(world_has_manifest(w, newer));
}

/* Its manifest was put, and the journal did not learn of it before another took the group over:
 * whether that other saw it is unknown here, so it is no point of this journal's. */
static void what_was_not_acknowledged_in_time_is_not(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct point point;
	(void)world_make_vault_point(a, 'a');
	uint64_t number = world_make_point(a, 'b');
	a->syncs_left = 1; /* for its beginning */
	assert_int_equal(world_flush(a, number), -EIO);
	assert_true(world_has_manifest(w, number));
	world_take_over(w);
	world_restart(w);
	assert_int_equal(history_flush_pending(a->history), number);
	assert_int_equal(world_flush(a, number), -ESTALE);
	assert_int_equal(history_point(a->history, number, &point), 0);
	assert_false(point.flags & POINT_VAULT);
}

struct heard {
	uint64_t points, of_points, bytes, of_bytes;
};

static void hear(void *context, uint64_t done, uint64_t total, const char *unit)
{
	struct heard *h = context;
	if (strcmp(unit, "points") == 0) {
		assert_true(done == h->points + 1 && h->bytes == 0);
		h->points = done;
		h->of_points = total;
	} else {
		assert_string_equal(unit, "bytes");
		h->bytes = done;
		h->of_bytes = total;
	}
}

static void a_takeover_tells_how_far_it_is(void **state)
{
	struct world *w = *state;
	struct heard heard = { 0 };
	for (char fill = 'a'; fill < 'e'; fill++)
		(void)world_make_vault_point(&w->first, fill);
	world_take_over(w); /* opens the second's store */
	vault_group_free(&w->second.group);
	assert_int_equal(vault_group_takeover(w->second.store, GROUP, &w->second.id, "second",
				 false, &w->clock.source, hear, &heard, &error, &w->second.group),
		0);
	assert_true(heard.points == 4 && heard.of_points == 4);
	assert_true(heard.bytes > 0 && heard.bytes == heard.of_bytes);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_pending_point_and_later_stay),
		TEST(other_snapshots_stay),
		TEST(a_damaged_manifest_keeps_its_snapshots),
		TEST(a_tombstone_bars_what_comes_late),
		TEST(a_tombstone_commits_nothing),
		TEST(a_cut_ends_where_it_says),
		TEST(a_late_manifest_commits_nothing),
		TEST(a_late_manifest_bars_nothing),
		TEST(a_late_manifest_explains_nothing),
		TEST(numbers_only_rise),
		TEST(numbers_rise_above_what_was_lost),
		TEST(the_newest_is_not_deleted),
		TEST(only_this_try_is_adopted),
		TEST(a_manifest_is_never_replaced),
		TEST(what_is_missing_is_found),
		TEST(what_is_not_whole_does_not_stand),
		TEST(doubt_raises_the_number),
		TEST(a_number_is_ones_own),
		TEST(what_another_wrote_is_in_no_point),
		TEST(what_was_drained_is_not_trusted),
		TEST(a_takeover_tells_how_far_it_is),
		TEST(the_former_owner_changes_nothing),
		TEST(what_was_not_acknowledged_in_time_is_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
