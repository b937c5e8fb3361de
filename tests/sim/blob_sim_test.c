/*
 * The simulated blob service itself: fences hold, what is late lands late, nothing else is lost.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/sim/blob_sim.h"

#define BLOB "machines/m/d.vhd"
#define LEASE "11111111-1111-4111-8111-111111111111"
#define OTHER "22222222-2222-4222-8222-222222222222"

struct world {
	struct blob_sim *service;
	struct blob_store *store;
	struct blob_error error;
};

static void world_begin(struct world *w, uint64_t seed)
{
	struct error error;
	assert_int_equal(blob_sim_new(seed, NULL, &w->service), 0);
	struct blob_service *service = blob_sim_service(w->service);
	assert_int_equal(service->ops->open_store(service, NULL, &error, &w->store), 0);
	assert_int_equal(w->store->ops->create(w->store, BLOB, 64 * KIB, &w->error), 0);
	assert_int_equal(w->store->ops->lease_acquire(w->store, BLOB, LEASE, &w->error), 0);
}

static void world_end(struct world *w)
{
	w->store->ops->free(w->store);
	blob_sim_free(w->service);
}

static int put(struct world *w, char fill, const char *lease, int64_t sequence, bool *ret_ambiguous)
{
	char data[4096];
	memset(data, fill, sizeof(data));
	struct blob_request q = { .verb = BLOB_PUT_PAGES,
		.blob = BLOB,
		.length = sizeof(data),
		.data = data,
		.lease_id = lease,
		.sequence = sequence };
	struct blob_request *done;
	assert_int_equal(w->store->ops->submit(w->store, &q), 0);
	assert_int_equal(w->store->ops->wait(w->store, -1, &done), 0);
	assert_ptr_equal(done, &q);
	if (ret_ambiguous)
		*ret_ambiguous = q.error.ambiguous;
	return q.result;
}

static char peek(struct world *w, const char *snapshot)
{
	char c;
	assert_int_equal(blob_sim_peek(w->service, BLOB, snapshot, 0, &c, 1), 0);
	return c;
}

static void lease_and_number_fence(void **state)
{
	(void)state;
	struct world w;
	world_begin(&w, 1);
	int64_t sequence;
	assert_int_equal(put(&w, 'a', LEASE, 0, NULL), 0);
	assert_int_equal(
		w.store->ops->raise_sequence(w.store, BLOB, LEASE, 7, &w.error, &sequence), 0);
	assert_int_equal(sequence, 7);
	assert_int_equal(put(&w, 'b', LEASE, 0, NULL), -ESTALE);
	assert_int_equal(put(&w, 'b', OTHER, 7, NULL), -ESTALE);
	assert_int_equal(peek(&w, NULL), 'a');
	assert_null(blob_sim_violation(w.service));
	assert_int_equal(put(&w, 'b', NULL, 7, NULL), -EBUSY);
	assert_non_null(blob_sim_violation(w.service));
	world_end(&w);
}

static void what_is_late_lands_late_and_is_judged_then(void **state)
{
	(void)state;
	unsigned landed = 0, fenced = 0;
	for (uint64_t seed = 0; seed < 200; seed++) {
		struct world w;
		bool ambiguous;
		world_begin(&w, seed);
		blob_sim_set_faults(w.service, 100);
		int r = put(&w, 'a', LEASE, 0, &ambiguous);
		assert_true(r == 0 || ambiguous);
		blob_sim_set_faults(w.service, 0);
		if (blob_sim_late_count(w.service) == 0) {
			world_end(&w);
			continue;
		}
		int64_t sequence;
		if (seed % 2)
			assert_int_equal(w.store->ops->raise_sequence(
						 w.store, BLOB, LEASE, 1, &w.error, &sequence),
				0);
		bool still_late = blob_sim_late_count(w.service) > 0;
		char before = peek(&w, NULL);
		blob_sim_land_all(w.service);
		if (still_late && seed % 2) {
			assert_int_equal(peek(&w, NULL), before);
			fenced++;
		} else {
			assert_int_equal(peek(&w, NULL), 'a');
			landed++;
		}
		world_end(&w);
	}
	assert_true(landed > 10 && fenced > 10);
}

static void snapshots_do_not_change(void **state)
{
	(void)state;
	struct world w;
	char id[BLOB_SNAPSHOT_ID_BYTES];
	world_begin(&w, 3);
	assert_int_equal(put(&w, 'a', LEASE, 0, NULL), 0);
	assert_int_equal(w.store->ops->snapshot(w.store, BLOB, LEASE, NULL, 0, &w.error, id), 0);
	assert_int_equal(put(&w, 'b', LEASE, 0, NULL), 0);
	assert_int_equal(peek(&w, id), 'a');
	assert_int_equal(peek(&w, NULL), 'b');
	assert_int_equal(blob_sim_snapshots(w.service, BLOB), 1);
	assert_int_equal(w.store->ops->delete_blob(w.store, BLOB, id, NULL, &w.error), 0);
	assert_int_equal(blob_sim_snapshots(w.service, BLOB), 0);
	world_end(&w);
}

static void objects_are_swapped_only_as_they_were(void **state)
{
	(void)state;
	struct world w;
	char first[BLOB_ETAG_BYTES], second[BLOB_ETAG_BYTES];
	world_begin(&w, 4);
	const struct blob_store_ops *ops = w.store->ops;
	assert_int_equal(ops->object_put(w.store, "o", "x", 1, "", NULL, 0, &w.error, first), 0);
	assert_int_equal(
		ops->object_put(w.store, "o", "y", 1, "", NULL, 0, &w.error, second), -EEXIST);
	assert_int_equal(
		ops->object_put(w.store, "o", "y", 1, first, NULL, 0, &w.error, second), 0);
	assert_int_equal(
		ops->object_put(w.store, "o", "z", 1, first, NULL, 0, &w.error, second), -ESTALE);
	assert_int_equal(ops->object_stage(w.store, "p", 5, 0, "ab", 2, &w.error), 0);
	struct buf b = { 0 };
	assert_int_equal(ops->object_get(w.store, "p", 9, &w.error, &b, first), -ENOENT);
	assert_int_equal(ops->object_stage(w.store, "p", 5, 1, "cd", 2, &w.error), 0);
	assert_int_equal(ops->object_commit(w.store, "p", 5, 2, "", &w.error), 0);
	assert_int_equal(ops->object_get(w.store, "p", 9, &w.error, &b, first), 0);
	assert_string_equal(b.data, "abcd");
	buf_free(&b);
	world_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lease_and_number_fence),
		cmocka_unit_test(what_is_late_lands_late_and_is_judged_then),
		cmocka_unit_test(snapshots_do_not_change),
		cmocka_unit_test(objects_are_swapped_only_as_they_were),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
