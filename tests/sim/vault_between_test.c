/*
 * What happens between two requests of one undertaking: a request of an earlier life lands, hashes
 * are replaced while they are read, a point is deleted while another is proven. Every moment is
 * tried.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/vault_proofs.h"
#include "tests/sim/vault_moment.h"

static struct error error;

/* ── leases ──────────────────────────────────────────────────────────────────────────────── */

static int (*real_acquire)(
	struct blob_store *store, const char *blob, const char *lease_id, struct blob_error *error);
static char late_lease[BLOB_LEASE_ID_BYTES]; /* of the request that is under way; "": none is */

/* It lands when no lease to be changed was found and none is acquired yet. */
static int acquire_after_late(
	struct blob_store *store, const char *blob, const char *lease_id, struct blob_error *e)
{
	if (late_lease[0]) {
		assert_int_equal(real_acquire(store, blob, late_lease, e), 0);
		late_lease[0] = '\0';
	}
	return real_acquire(store, blob, lease_id, e);
}

static void claim(struct world *w)
{
	struct appliance *a = &w->first;
	vault_group_free(&a->group);
	assert_int_equal(
		vault_group_claim(a->store, GROUP, &a->id, &w->clock.source, &error, &a->group), 0);
}

/* The lease was broken, and a request for it by the last life, or by one of those before, comes in
 * the midst of the claim: it is one's own all the same. */
static void a_late_request_for_the_lease_is_ones_own(void **state)
{
	(void)state;
	for (unsigned before = 0; before < 3; before++) {
		void *made;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		struct blob_error e = { 0 };
		char late[BLOB_LEASE_ID_BYTES];
		(void)world_make_vault_point(a, 'a');
		memcpy(late, a->group.lease_id, sizeof(late));
		for (unsigned i = 0; i < before; i++)
			claim(w);
		assert_int_equal(a->ops.lease_break(a->store, BLOB, &e), 0);
		memcpy(late_lease, late, sizeof(late));
		real_acquire = a->ops.lease_acquire;
		a->ops.lease_acquire = acquire_after_late;
		claim(w);
		assert_string_equal(late_lease, ""); /* it did come */
		assert_int_equal(a->ops.lease_acquire(a->store, BLOB, a->group.lease_id, &e), 0);
		assert_int_equal(a->ops.lease_acquire(a->store, BLOB, late, &e), -EBUSY);
		uint64_t number = world_make_vault_point(a, 'b');
		assert_int_equal(
			vault_point_verify(a->store, &a->group, number, NULL, NULL, &error), 0);
		world_teardown(&made);
	}
}

/* One that nobody of ours ever asked for is another's. */
static void a_strangers_lease_is_not(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct vault_group group = { 0 };
	struct blob_error e = { 0 };
	assert_int_equal(a->ops.lease_break(a->store, BLOB, &e), 0);
	strcpy(late_lease, "a-stranger");
	real_acquire = a->ops.lease_acquire;
	a->ops.lease_acquire = acquire_after_late;
	assert_int_equal(
		vault_group_claim(a->store, GROUP, &a->id, &w->clock.source, &error, &group),
		-ESTALE);
	assert_string_equal(late_lease, "");
}

/* ── hashes ──────────────────────────────────────────────────────────────────────────────── */

static int refuse_object_delete(
	struct blob_store *store, const char *name, const char *if_match, struct blob_error *e)
{
	(void)store;
	(void)name;
	(void)if_match;
	return moment_away(e);
}

/* An earlier life had come as far as to merge the hashes; that lands. */
static void land_merge(struct world *w)
{
	struct appliance *a = &w->first;
	int (*real)(struct blob_store *, const char *, const char *, struct blob_error *) =
		moment.real.object_delete;
	moment.real.object_delete = refuse_object_delete;
	int r = vault_point_delete(a->store, &a->group, 2, &error);
	moment.real.object_delete = real;
	assert_true(r == -EACCES || r == 0); /* 0: it had gone by then */
}

static void make_points(struct appliance *a, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		(void)world_make_vault_point(a, (char)('a' + i));
}

static void all_are_right(struct appliance *a, uint64_t without)
{
	for (uint64_t n = 1; n <= 4; n++)
		if (n != without)
			assert_int_equal(
				vault_point_verify(a->store, &a->group, n, NULL, NULL, &error), 0);
}

/* Whoever reads what is replaced begins again; nothing looks like damage. */
static void a_merge_that_lands_in_a_merge_is_no_damage(void **state)
{
	bool over = false;
	unsigned landed = 0;
	(void)state;
	for (unsigned at = 1; !over; at++) {
		void *made;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		make_points(a, 4);
		moment_watch(w, a, at, land_merge);
		int r = vault_point_delete(a->store, &a->group, 2, &error);
		over = !moment_has_come();
		moment_end(a);
		/* What was put between the reading and the replacing is not replaced. */
		assert_true(r == 0 || (r == -ESTALE && !over));
		landed += r == 0;
		assert_int_equal(vault_point_delete(a->store, &a->group, 2, &error), 0);
		assert_false(world_has_manifest(w, 2) || world_has_hashes(w, 2));
		all_are_right(a, 2);
		world_teardown(&made);
	}
	assert_true(landed > 5);
}

/* Puts another in its place, as who knows what is there. */
static void replace_object(struct appliance *a, const char *name, const void *data, size_t n)
{
	char etag[BLOB_ETAG_BYTES];
	struct blob_error e = { 0 };
	size_t got;
	char byte;
	assert_int_equal(a->ops.object_read(a->store, name, 0, &byte, 1, &e, &got, etag), 0);
	/* An empty one tells none. */
	if (!etag[0]) {
		CLEANUP(buf_free) struct buf none = { 0 };
		assert_int_equal(a->ops.object_get(a->store, name, 1, &e, &none, etag), 0);
	}
	assert_int_equal(a->ops.object_put(a->store, name, data, n, etag, NULL, 0, &e, etag), 0);
}

/* What a reader reads is one writing, or it is told: replaced by what is longer, shorter, or gone.
 */
static void what_is_read_is_of_one_writing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(buf_free) struct buf data = { 0 };
	char name[VAULT_NAME_BYTES], byte[2];
	(void)world_make_vault_point(a, 'a');
	vault_hashes_name(GROUP, 1, name);
	assert_int_equal(blob_sim_peek_object(w->service, name, &data), 0);
	for (unsigned how = 0; how < 5; how++) {
		struct vault_hashes h;
		struct hashes_source source;
		size_t n = 9, bytes = how == 2 ? 1 : how == 3 ? data.len + 8 : data.len;
		uint64_t behind = data.len;
		vault_hashes_open(&h, a->store, &a->group, 1, &source);
		assert_int_equal(source.read(source.context, 0, byte, 1, &error, &n), 0);
		assert_int_equal(n, 1);
		if (how == 4) {
			world_delete_object(a, name);
		} else if (how > 0) {
			/* the same, a shorter, a longer one */
			CLEANUP(buf_free) struct buf other = { 0 };
			assert_int_equal(buf_append(&other, data.data, data.len), 0);
			assert_int_equal(buf_append(&other, "12345678", 8), 0);
			replace_object(a, name, other.data, bytes);
		}
		int r = source.read(source.context, behind, byte, 1, &error, &n);
		assert_int_equal(r, how == 0 ? 0 : -EAGAIN);
		assert_int_equal(h.replaced, how > 0);
		if (how == 0)
			assert_int_equal(n, 0);
	}
}

/* An object that is what it was, and ends before its end, is damaged. */
static void what_ends_too_soon_is_damaged(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	CLEANUP(buf_free) struct buf data = { 0 };
	char name[VAULT_NAME_BYTES];
	(void)world_make_vault_point(a, 'a');
	vault_hashes_name(GROUP, 1, name);
	assert_int_equal(blob_sim_peek_object(w->service, name, &data), 0);
	for (size_t bytes = 0; bytes <= data.len + 1; bytes++) {
		CLEANUP(buf_free) struct buf other = { 0 };
		assert_int_equal(buf_append(&other, data.data, data.len), 0);
		assert_int_equal(buf_append(&other, "", 1), 0);
		replace_object(a, name, other.data, bytes);
		assert_int_equal(vault_point_verify(a->store, &a->group, 1, NULL, NULL, &error),
			bytes == data.len ? 0 : -EBADMSG);
	}
}

/* ── proofs ──────────────────────────────────────────────────────────────────────────────── */

static uint64_t hash_of(char fill)
{
	char page[HASHES_PAGE_BYTES];
	memset(page, fill, sizeof(page));
	return hashes_of_page(page);
}

static void expect_page(struct vault_proofs *proofs, uint32_t page, char fill)
{
	uint8_t found;
	uint64_t hash = 0;
	assert_int_equal(vault_proofs_window(proofs, 1, page, page + 1, &error, &found, &hash), 0);
	assert_int_equal(found, PAGE_HASHED);
	assert_int_equal(hash, hash_of(fill));
}

/* Pages written in one go may lie in several windows. */
static void windows_cut_through_what_was_written(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct vault_proofs *proofs;
	make_points(a, 2);
	assert_int_equal(vault_proofs_open(a->store, &a->group, 2, &error, &proofs), 0);
	for (unsigned again = 0; again < 2; again++) {
		expect_page(proofs, 0, 'b');
		expect_page(proofs, 1, 'b');
	}
	vault_proofs_free(proofs);
}

/* Two pages of each point, of which the next overwrites the first. */
static uint64_t make_shifted_point(struct appliance *a, char fill, uint64_t page)
{
	char data[2 * HASHES_PAGE_BYTES];
	struct seal seal = { .kind = POINT_CRASH, .time_ns = 1700000000ll * NS_PER_S };
	uint64_t number, lsn;
	memset(data, fill, sizeof(data));
	assert_int_equal(history_write(a->history, 1, page * 8, 16, data, &lsn), 0);
	assert_int_equal(history_seal(a->history, &seal, &number, &lsn), 0);
	assert_int_equal(history_commit(a->history, &lsn), 0);
	assert_int_equal(world_flush(a, number), 0);
	return number;
}

/* Hashes of `count` pages of disk 1, with gaps, and of one page of two more, in the place of the
 * point's. */
static void put_hashes(struct appliance *a, uint64_t number, uint32_t count)
{
	struct vault_stage stage;
	struct hashes_sink sink;
	struct hashes_writer *writer;
	struct hashes_written written;
	const uint64_t hash = hash_of('h');
	assert_int_equal(
		vault_stage_open(&stage, a->store, NULL, &a->group, number, &error, &sink), 0);
	assert_int_equal(hashes_writer_new(&a->group.id, 0, number, &sink, &writer), 0);
	for (uint32_t page = 0; page < count; page++)
		assert_int_equal(hashes_writer_add(writer, 1, page * 2, 1, &hash), 0);
	for (uint16_t disk = 2; disk < 4; disk++)
		assert_int_equal(hashes_writer_add(writer, disk, 0, 1, &hash), 0);
	assert_int_equal(hashes_writer_finish(writer, &written), 0);
	assert_int_equal(vault_stage_commit(&stage, &written, NULL, &error), 0);
	hashes_writer_free(writer);
}

/* Where the last window ended is a place in an object that is there no more. */
static void a_mark_is_of_one_writing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	struct vault_proofs *proofs;
	uint8_t found;
	uint64_t hash = 0;
	(void)world_make_vault_point(a, 'a');
	put_hashes(a, 1, 1);
	assert_int_equal(vault_proofs_open(a->store, &a->group, 1, &error, &proofs), 0);
	for (uint16_t disk = 1; disk < 4; disk++) {
		hash = 0;
		assert_int_equal(vault_proofs_window(proofs, disk, 0, 1, &error, &found, &hash), 0);
		assert_int_equal(found, PAGE_HASHED);
		assert_int_equal(hash, hash_of('h'));
		put_hashes(a, 1, 1 + disk);
	}
	vault_proofs_free(proofs);
}

static uint64_t to_delete;

static void delete_point(struct world *w)
{
	struct appliance *a = &w->first;
	assert_int_equal(vault_point_delete(a->store, &a->group, to_delete, &error), 0);
}

static void make_shifted(struct appliance *a)
{
	(void)make_shifted_point(a, 'a', 4);
	(void)make_shifted_point(a, 'b', 3);
	(void)make_shifted_point(a, 'c', 2);
	assert_int_equal(make_shifted_point(a, 'd', 1), 4);
}

static void windows_go_on_while_points_are_deleted(void **state)
{
	static const char fill[] = " ddcba";
	bool over = false;
	(void)state;
	for (unsigned at = 0; !over; at++) {
		void *made;
		struct vault_proofs *proofs;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		make_shifted(a);
		to_delete = 1 + at % 3;
		moment_watch(w, a, 1 + at / 3, delete_point);
		assert_int_equal(vault_proofs_open(a->store, &a->group, 4, &error, &proofs), 0);
		for (uint32_t page = 1; page < 6; page++)
			expect_page(proofs, page, fill[page]);
		over = !moment_has_come();
		moment_end(a);
		vault_proofs_free(proofs);
		world_teardown(&made);
	}
}

static void a_point_is_proven_while_others_are_deleted(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 0; !over; at++) {
		void *made;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		make_shifted(a);
		to_delete = 1 + at % 3;
		moment_watch(w, a, 1 + at / 3, delete_point);
		assert_int_equal(vault_point_verify(a->store, &a->group, 4, NULL, NULL, &error), 0);
		over = !moment_has_come();
		moment_end(a);
		world_teardown(&made);
	}
}

static void make_point(struct world *w)
{
	(void)world_make_vault_point(&w->first, 'z');
}

static void told_fault(void *context, const char *text)
{
	(void)context;
	fail_msg("%s", text);
}

/* A check finds nothing wrong with what comes and goes meanwhile. */
static void a_vault_that_changes_is_sound(void **state)
{
	bool over = false;
	(void)state;
	for (unsigned at = 0; !over; at++) {
		void *made;
		struct vault_check_report report;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		make_shifted(a);
		to_delete = at % 4;
		moment_watch(w, a, 1 + at / 4, to_delete > 0 ? delete_point : make_point);
		assert_int_equal(vault_check(a->store, told_fault, NULL, &error, &report), 0);
		over = !moment_has_come();
		moment_end(a);
		assert_int_equal(report.groups, 1);
		assert_int_equal(report.broken + report.missing + report.orphaned, 0);
		world_teardown(&made);
	}
}

static struct manifest deleted;

static void delete_snapshot(struct world *w)
{
	struct appliance *a = &w->first;
	struct blob_error e = { 0 };
	assert_int_equal(
		a->ops.delete_blob(a->store, BLOB, deleted.disks[0].snapshot, NULL, &e), 0);
}

static int refuse_delete(struct blob_store *store, const char *blob, const char *snapshot,
	const char *lease_id, struct blob_error *e)
{
	(void)store, (void)blob, (void)snapshot, (void)lease_id;
	return moment_away(e);
}

/* A deletion is between its manifest and its snapshot, and ends while the check goes on. */
static void what_is_being_deleted_is_no_orphan(void **state)
{
	unsigned calls = 0;
	(void)state;
	for (unsigned at = 0; at <= calls; at++) {
		void *made;
		struct vault_check_report report;
		assert_int_equal(world_setup(&made), 0);
		struct world *w = made;
		struct appliance *a = &w->first;
		struct blob_store_ops ops = a->ops;
		make_points(a, 3);
		world_load_manifest(a, 1, &deleted);
		a->ops.delete_blob = refuse_delete;
		assert_int_equal(vault_point_delete(a->store, &a->group, 1, &error), -EACCES);
		a->ops = ops;
		if (at == 0)
			delete_snapshot(w);
		moment_watch(w, a, at, delete_snapshot);
		assert_int_equal(vault_check(a->store, told_fault, NULL, &error, &report), 0);
		if (at == 0)
			calls = moment.calls; /* of one look */
		moment_end(a);
		assert_int_equal(report.broken + report.missing + report.orphaned, 0);
		manifest_free(&deleted);
		world_teardown(&made);
	}
	assert_true(calls > 5);
}

/* That is no deletion. */
static void hashes_that_are_gone_are_missing(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	char name[VAULT_NAME_BYTES];
	make_points(a, 3);
	vault_hashes_name(GROUP, 2, name);
	world_delete_object(a, name);
	assert_int_equal(vault_point_verify(a->store, &a->group, 3, NULL, NULL, &error), -EBADMSG);
	assert_non_null(strstr(error.message, "is missing"));
	assert_int_equal(vault_point_verify(a->store, &a->group, 1, NULL, NULL, &error), 0);
}

/* ── what points do not show ─────────────────────────────────────────────────────────────── */

/* The newest manifest that can be read tells it, be the newest of all damaged. */
static void absences_are_of_the_newest_that_can_be_read(void **state)
{
	struct world *w = *state;
	struct appliance *a = &w->first;
	const struct history_absence *found;
	unsigned count;
	for (uint64_t from = 1; from <= 4; from++) {
		const struct history_absence absence = { .disk = 1, .from = from };
		assert_int_equal(history_set_absences(a->history, &absence, 1), 0);
		assert_int_equal(world_make_vault_point(a, 'a'), from);
	}
	for (unsigned damaged = 0; damaged <= 4; damaged++) {
		struct vault_reading *reading;
		char name[VAULT_NAME_BYTES];
		vault_manifest_name(GROUP, 5 - damaged, name);
		if (damaged > 0)
			assert_int_equal(blob_sim_rot(w->service, name, NULL, 50), 0);
		assert_int_equal(vault_import_read(a->store, &a->group, &error, &reading), 0);
		vault_reading_absences(reading, &found, &count);
		assert_int_equal(count, damaged < 4);
		if (count > 0)
			assert_int_equal(found[0].from, 4 - damaged);
		vault_reading_free(reading);
	}
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_late_request_for_the_lease_is_ones_own),
		TEST(a_strangers_lease_is_not),
		cmocka_unit_test(a_merge_that_lands_in_a_merge_is_no_damage),
		TEST(what_is_read_is_of_one_writing),
		TEST(what_ends_too_soon_is_damaged),
		TEST(windows_cut_through_what_was_written),
		TEST(a_mark_is_of_one_writing),
		cmocka_unit_test(windows_go_on_while_points_are_deleted),
		cmocka_unit_test(a_point_is_proven_while_others_are_deleted),
		cmocka_unit_test(a_vault_that_changes_is_sound),
		cmocka_unit_test(what_is_being_deleted_is_no_orphan),
		TEST(hashes_that_are_gone_are_missing),
		TEST(absences_are_of_the_newest_that_can_be_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
