/*
 * azureblob/ against a service: what every blob service must do, Azurite and the strict server
 * alike. What Azurite lacks is asked of the strict one alone.
 */
#include "tests/integration/blob_service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/blobs.h"
#include "azureblob/leases.h"
#include "azureblob/objects.h"
#include "azureblob/ranges.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"

#define LEASE_A "11111111-2222-3333-4444-555555555555"
#define LEASE_B "99999999-2222-3333-4444-555555555555"

static void container_is_there(void **state)
{
	struct blob_service *s = *state;
	assert_int_equal(azureblob_container_check(s->client, &s->error), 0);
	assert_int_equal(azureblob_container_create(s->client, &s->error), -EEXIST);
	assert_int_equal(s->error.http_status, 409);
	assert_true(s->error.request_id[0] != '\0');
	assert_false(s->error.ambiguous);
}

static void create(struct blob_service *s, const char *blob, uint64_t size_bytes)
{
	assert_int_equal(azureblob_create(s->client, blob, size_bytes, NULL, &s->error), 0);
}

static int put(struct blob_service *s, const char *blob, uint64_t offset, const void *data,
	size_t n, const struct azureblob_conditions *conditions)
{
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	struct iovec iov = { (void *)data, n };
	assert_int_equal(
		azureblob_put_pages(s->client, &request, blob, offset, &iov, 1, conditions), 0);
	int r = finish_one(s->client, &request);
	s->error = request.call.error;
	return r;
}

static int get(struct blob_service *s, const char *blob, const char *snapshot, uint64_t offset,
	void *data, size_t n)
{
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	assert_int_equal(
		azureblob_get_range(s->client, &request, blob, snapshot, offset, data, n, false),
		0);
	int r = finish_one(s->client, &request);
	s->error = request.call.error;
	return r;
}

static void blobs_are_made_once(void **state)
{
	struct blob_service *s = *state;
	const char *blob = "machines/web 1+\xc3\xa4/root%.vhd";
	create(s, blob, 4 * MIB + 512);
	assert_int_equal(azureblob_create(s->client, blob, 1 * MIB, NULL, &s->error), -EEXIST);
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	assert_int_equal(azureblob_get_properties(s->client, blob, NULL, &s->error, &p), 0);
	assert_true(p.size_bytes == 4 * MIB + 512);
	assert_true(p.is_page_blob);
	assert_false(p.leased);
	assert_int_equal(p.sequence, 0);
	assert_true(p.etag[0] != '\0');
	assert_true(p.modified_ns > 0);
	/* Fenced by what it looked like: the second is late. */
	const struct azureblob_conditions seen = { .if_match = p.etag };
	assert_int_equal(azureblob_resize(s->client, blob, 8 * MIB, &seen, &s->error), 0);
	assert_int_equal(azureblob_resize(s->client, blob, 1 * MIB, &seen, &s->error), -ESTALE);
	azureblob_properties_free(&p);
	assert_int_equal(azureblob_get_properties(s->client, blob, NULL, &s->error, &p), 0);
	assert_true(p.size_bytes == 8 * MIB);
	azureblob_properties_free(&p);
	assert_int_equal(azureblob_get_properties(s->client, "none", NULL, &s->error, &p), -ENOENT);
	assert_int_equal(azureblob_create(s->client, "x", 100, NULL, &s->error), -EINVAL);
	assert_int_equal(azureblob_create(s->client, "x", 8 * TIB + 512, NULL, &s->error), -EINVAL);
	assert_int_equal(
		azureblob_delete(s->client, blob, NULL, AZUREBLOB_DELETE_ALONE, NULL, &s->error),
		0);
	assert_int_equal(
		azureblob_delete(s->client, blob, NULL, AZUREBLOB_DELETE_ALONE, NULL, &s->error),
		-ENOENT);
}

#define JOBS 24
#define BLOB_BYTES (8 * MIB)

struct job {
	struct azureblob_request request;
	struct iovec iov[2];
};

/* Many puts and clears at once over few connections, then many reads, against a model. */
static void many_at_once_match_a_model(void **state)
{
	struct blob_service *s = *state;
	CLEANUP_FREE uint8_t *model = calloc(1, BLOB_BYTES);
	CLEANUP_FREE uint8_t *back = malloc(BLOB_BYTES);
	CLEANUP_FREE struct job *jobs = calloc(JOBS, sizeof(*jobs));
	struct azureblob_request *done;
	struct rng rng;
	rng_seed(&rng, 77);
	create(s, "many.vhd", BLOB_BYTES);
	const uint64_t part = BLOB_BYTES / JOBS / SECTOR_BYTES * SECTOR_BYTES;
	for (int round = 0; round < 3; round++) {
		for (uint64_t i = 0; i < JOBS; i++) {
			struct job *job = &jobs[i];
			uint64_t offset = i * part + 512 * rng_below(&rng, 100);
			uint64_t length = 512 * (1 + rng_below(&rng, (part - 51200) / 512));
			int r;
			if (rng_below(&rng, 4) == 0) {
				memset(model + offset, 0, length);
				r = azureblob_clear_pages(
					s->client, &job->request, "many.vhd", offset, length, NULL);
			} else {
				rng_fill(&rng, model + offset, length);
				uint64_t cut = rng_below(&rng, length);
				job->iov[0] = (struct iovec){ model + offset, cut };
				job->iov[1] = (struct iovec){ model + offset + cut, length - cut };
				r = azureblob_put_pages(s->client, &job->request, "many.vhd",
					offset, job->iov, 2, NULL);
			}
			assert_int_equal(r, 0);
		}
		assert_int_equal(azureblob_pending(s->client), JOBS);
		/* A blocking call in between disturbs nothing. */
		assert_int_equal(azureblob_container_check(s->client, &s->error), 0);
		for (int i = 0; i < JOBS; i++) {
			assert_int_equal(azureblob_wait(s->client, 30000, &done), 0);
			assert_int_equal(done->call.result, 0);
		}
		assert_int_equal(azureblob_pending(s->client), 0);
		assert_int_equal(azureblob_wait(s->client, 0, &done), -ETIMEDOUT);
		memset(back, 0xee, BLOB_BYTES);
		for (uint64_t i = 0; i < JOBS; i++) {
			uint64_t length = i == JOBS - 1 ? BLOB_BYTES - i * part : part;
			assert_int_equal(
				azureblob_get_range(s->client, &jobs[i].request, "many.vhd", NULL,
					i * part, back + i * part, length, false),
				0);
		}
		for (int i = 0; i < JOBS; i++) {
			assert_int_equal(azureblob_wait(s->client, 30000, &done), 0);
			assert_int_equal(done->call.result, 0);
		}
		assert_memory_equal(model, back, BLOB_BYTES);
	}
	for (int i = 0; i < JOBS; i++)
		azureblob_request_free(&jobs[i].request);
}

static void bad_ranges_are_refused_at_once(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	CLEANUP_FREE char *data = calloc(1, 5 * MIB);
	struct iovec iov = { data, 5 * MIB };
	assert_int_equal(azureblob_put_pages(s->client, &request, "b", 0, &iov, 1, NULL), -EINVAL);
	iov.iov_len = 100;
	assert_int_equal(azureblob_put_pages(s->client, &request, "b", 0, &iov, 1, NULL), -EINVAL);
	iov.iov_len = 512;
	assert_int_equal(azureblob_put_pages(s->client, &request, "b", 7, &iov, 1, NULL), -EINVAL);
	assert_int_equal(azureblob_put_pages(s->client, &request, "b", 0, &iov, 0, NULL), -EINVAL);
	assert_int_equal(
		azureblob_clear_pages(s->client, &request, "b", 8 * TIB, 512, NULL), -EINVAL);
	assert_int_equal(azureblob_pending(s->client), 0);
	create(s, "short", 1024);
	assert_int_equal(put(s, "short", 1024, data, 512, NULL),
		-ERANGE == put(s, "short", 1024, data, 512, NULL) ? -ERANGE : -EINVAL);
	assert_false(s->error.ambiguous);
	assert_int_equal(put(s, "none", 0, data, 512, NULL), -ENOENT);
	assert_true(s->error.request_id[0] != '\0');
	/* A read that goes beyond the end is told, not cut in silence. */
	assert_int_equal(get(s, "short", NULL, 512, data, 1024), -EBADMSG);
	assert_int_equal(get(s, "short", NULL, 0, data, 1024), 0);
	assert_int_equal(get(s, "short", NULL, 4096, data, 512), -ERANGE);
}

static void snapshots_stay_as_they_were(void **state)
{
	struct blob_service *s = *state;
	char snapshot[AZUREBLOB_SNAPSHOT_BYTES];
	CLEANUP(http_headers_free) struct http_headers metadata = { 0 };
	char old[512], new[512], back[512];
	memset(old, 'o', sizeof(old));
	memset(new, 'n', sizeof(new));
	create(s, "snap.vhd", 1 * MIB);
	assert_int_equal(put(s, "snap.vhd", 0, old, 512, NULL), 0);
	http_headers_add(&metadata, "group", "web");
	http_headers_add(&metadata, "k", "7");
	assert_int_equal(
		azureblob_snapshot(s->client, "snap.vhd", &metadata, NULL, &s->error, snapshot), 0);
	assert_int_equal(put(s, "snap.vhd", 0, new, 512, NULL), 0);
	assert_int_equal(get(s, "snap.vhd", snapshot, 0, back, 512), 0);
	assert_memory_equal(back, old, 512);
	assert_int_equal(get(s, "snap.vhd", NULL, 0, back, 512), 0);
	assert_memory_equal(back, new, 512);
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	assert_int_equal(
		azureblob_get_properties(s->client, "snap.vhd", snapshot, &s->error, &p), 0);
	assert_string_equal(http_headers_get(&p.metadata, "k"), "7");
	assert_int_equal(azureblob_delete(s->client, "snap.vhd", NULL, AZUREBLOB_DELETE_ALONE, NULL,
				 &s->error),
		-ENOTEMPTY);
	assert_int_equal(azureblob_delete(s->client, "snap.vhd", snapshot, AZUREBLOB_DELETE_ALONE,
				 NULL, &s->error),
		0);
	assert_int_equal(get(s, "snap.vhd", snapshot, 0, back, 512), -ENOENT);
	assert_int_equal(
		azureblob_snapshot(s->client, "snap.vhd", &metadata, NULL, &s->error, snapshot), 0);
	assert_int_equal(azureblob_delete(s->client, "snap.vhd", NULL, AZUREBLOB_DELETE_ALL, NULL,
				 &s->error),
		0);
}

static int note_item(void *context, const struct azureblob_item *item)
{
	const char *k = http_headers_get(
		item->metadata ? item->metadata : &(struct http_headers){ 0 }, "k");
	return buf_printf(context, "%s%s%s%s ", item->name, item->is_prefix ? "*" : "",
		item->snapshot ? "@" : "", k ? k : "");
}

static int stop_at_second(void *context, const struct azureblob_item *item)
{
	(void)item;
	return ++*(int *)context == 2 ? 42 : 0;
}

static void lists_are_whole_and_in_order(void **state)
{
	struct blob_service *s = *state;
	char snapshot[AZUREBLOB_SNAPSHOT_BYTES];
	CLEANUP(http_headers_free) struct http_headers metadata = { 0 };
	CLEANUP(buf_free) struct buf seen = { 0 };
	http_headers_add(&metadata, "k", "1");
	create(s, "list/a", 512);
	create(s, "list/b&<c>", 512);
	create(s, "list/d/e", 512);
	create(s, "list/d/f", 512);
	create(s, "list/g h", 512);
	azureblob_snapshot(s->client, "list/a", &metadata, NULL, &s->error, snapshot);
	struct azureblob_list_options o = { .prefix = "list/", .page = 2 };
	assert_int_equal(azureblob_list(s->client, &o, note_item, &seen, &s->error), 0);
	assert_string_equal(seen.data, "list/a list/b&<c> list/d/e list/d/f list/g h ");
	buf_clear(&seen);
	o.snapshots = o.metadata = true;
	assert_int_equal(azureblob_list(s->client, &o, note_item, &seen, &s->error), 0);
	assert_string_equal(seen.data, "list/a@1 list/a list/b&<c> list/d/e list/d/f list/g h ");
	buf_clear(&seen);
	o = (struct azureblob_list_options){ .prefix = "list/", .delimiter = "/" };
	assert_int_equal(azureblob_list(s->client, &o, note_item, &seen, &s->error), 0);
	assert_non_null(strstr(seen.data, "list/d/* "));
	assert_null(strstr(seen.data, "list/d/e"));
	buf_clear(&seen);
	o = (struct azureblob_list_options){ .prefix = "nothing/" };
	assert_int_equal(azureblob_list(s->client, &o, note_item, &seen, &s->error), 0);
	assert_int_equal(seen.len, 0);
	int count = 0;
	o = (struct azureblob_list_options){ .prefix = "list/" };
	assert_int_equal(azureblob_list(s->client, &o, stop_at_second, &count, &s->error), 42);
}

static int note_range(void *context, const struct azureblob_range *range)
{
	return buf_printf(context, "%s%llu+%llu ", range->cleared ? "-" : "",
		(unsigned long long)range->offset / 512, (unsigned long long)range->length / 512);
}

static void ranges_tell_what_is_written(void **state)
{
	struct blob_service *s = *state;
	char first[AZUREBLOB_SNAPSHOT_BYTES], second[AZUREBLOB_SNAPSHOT_BYTES];
	CLEANUP(buf_free) struct buf seen = { 0 };
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	char data[2048];
	memset(data, 'd', sizeof(data));
	create(s, "ranges.vhd", 1 * MIB);
	for (uint64_t i = 0; i < 10; i++)
		assert_int_equal(put(s, "ranges.vhd", i * 8 * 512, data, 1024, NULL), 0);
	azureblob_snapshot(s->client, "ranges.vhd", NULL, NULL, &s->error, first);
	struct azureblob_ranges_options o = { .snapshot = first };
	assert_int_equal(
		azureblob_list_ranges(s->client, "ranges.vhd", &o, note_range, &seen, &s->error),
		0);
	assert_string_equal(seen.data, "0+2 8+2 16+2 24+2 32+2 40+2 48+2 56+2 64+2 72+2 ");
	/* The same by pages of three, and a window that cuts ranges. */
	buf_clear(&seen);
	o.page = 3;
	assert_int_equal(
		azureblob_list_ranges(s->client, "ranges.vhd", &o, note_range, &seen, &s->error),
		0);
	assert_string_equal(seen.data, "0+2 8+2 16+2 24+2 32+2 40+2 48+2 56+2 64+2 72+2 ");
	buf_clear(&seen);
	o.page = 0;
	o.offset = 9 * 512;
	o.length = 16 * 512;
	assert_int_equal(
		azureblob_list_ranges(s->client, "ranges.vhd", &o, note_range, &seen, &s->error),
		0);
	assert_string_equal(seen.data, "9+1 16+2 24+1 ");
	if (!s->strict)
		return;
	/* Azurite knows no difference. */
	assert_int_equal(put(s, "ranges.vhd", 100 * 512, data, 2048, NULL), 0);
	assert_int_equal(
		azureblob_clear_pages(s->client, &request, "ranges.vhd", 8 * 512, 512, NULL), 0);
	assert_int_equal(finish_one(s->client, &request), 0);
	azureblob_snapshot(s->client, "ranges.vhd", NULL, NULL, &s->error, second);
	buf_clear(&seen);
	o = (struct azureblob_ranges_options){ .snapshot = second, .previous = first };
	assert_int_equal(
		azureblob_list_ranges(s->client, "ranges.vhd", &o, note_range, &seen, &s->error),
		0);
	assert_string_equal(seen.data, "-8+1 100+4 ");
}

static void leases_keep_others_out(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *c = s->client;
	char data[512] = { 0 };
	struct azureblob_conditions mine = { .lease_id = LEASE_A };
	struct azureblob_conditions other = { .lease_id = LEASE_B };
	char snapshot[AZUREBLOB_SNAPSHOT_BYTES];
	create(s, "lease.vhd", 4096);
	assert_int_equal(azureblob_lease_acquire(
				 c, "lease.vhd", LEASE_A, AZUREBLOB_LEASE_FOREVER, &s->error),
		0);
	/* Again under the same id: an answer that was lost. */
	assert_int_equal(azureblob_lease_acquire(
				 c, "lease.vhd", LEASE_A, AZUREBLOB_LEASE_FOREVER, &s->error),
		0);
	assert_int_equal(azureblob_lease_acquire(c, "lease.vhd", LEASE_B, 15, &s->error), -EBUSY);
	assert_int_equal(azureblob_lease_renew(c, "lease.vhd", LEASE_A, &s->error), 0);
	assert_int_equal(put(s, "lease.vhd", 0, data, 512, &mine), 0);
	assert_int_equal(put(s, "lease.vhd", 0, data, 512, NULL), -ESTALE);
	int r = put(s, "lease.vhd", 0, data, 512, &other);
	assert_true(r == -EBUSY || r == -ESTALE);
	r = azureblob_snapshot(c, "lease.vhd", NULL, &other, &s->error, snapshot);
	assert_true(r == -EBUSY || r == -ESTALE);
	assert_int_equal(azureblob_lease_change(c, "lease.vhd", LEASE_A, LEASE_B, &s->error), 0);
	r = put(s, "lease.vhd", 0, data, 512, &mine);
	assert_true(r == -EBUSY || r == -ESTALE);
	assert_int_equal(put(s, "lease.vhd", 0, data, 512, &other), 0);
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	assert_int_equal(azureblob_get_properties(c, "lease.vhd", NULL, &s->error, &p), 0);
	assert_true(p.leased);
	assert_int_equal(azureblob_lease_break(c, "lease.vhd", &s->error), 0);
	assert_int_equal(put(s, "lease.vhd", 0, data, 512, &other), -ESTALE);
	assert_int_equal(azureblob_lease_break(c, "lease.vhd", &s->error), 0);
	assert_int_equal(azureblob_lease_acquire(c, "lease.vhd", LEASE_A, 15, &s->error), 0);
	assert_int_equal(azureblob_lease_release(c, "lease.vhd", LEASE_A, &s->error), 0);
	assert_int_equal(azureblob_lease_break(c, "lease.vhd", &s->error), 0);
	assert_true(azureblob_lease_renew(c, "lease.vhd", LEASE_A, &s->error) < 0);
}

static void sequence_numbers_fence(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *c = s->client;
	char data[512] = { 0 };
	int64_t sequence = -1;
	struct azureblob_conditions at = { .has_sequence = true, .sequence = 5 };
	create(s, "seq.vhd", 4096);
	assert_int_equal(azureblob_set_sequence(c, "seq.vhd", AZUREBLOB_SEQUENCE_MAX, 5, NULL,
				 &s->error, &sequence),
		0);
	assert_int_equal(sequence, 5);
	assert_int_equal(azureblob_set_sequence(c, "seq.vhd", AZUREBLOB_SEQUENCE_MAX, 3, NULL,
				 &s->error, &sequence),
		0);
	assert_int_equal(sequence, 5);
	assert_int_equal(put(s, "seq.vhd", 0, data, 512, &at), 0);
	assert_int_equal(azureblob_set_sequence(c, "seq.vhd", AZUREBLOB_SEQUENCE_INCREMENT, 0, NULL,
				 &s->error, &sequence),
		0);
	assert_int_equal(sequence, 6);
	assert_int_equal(put(s, "seq.vhd", 0, data, 512, &at), -ESTALE);
	assert_false(s->error.ambiguous);
	assert_int_equal(azureblob_set_sequence(c, "seq.vhd", AZUREBLOB_SEQUENCE_UPDATE, 2, NULL,
				 &s->error, &sequence),
		0);
	assert_int_equal(sequence, 2);
	at.sequence = 2;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	assert_int_equal(azureblob_clear_pages(c, &request, "seq.vhd", 0, 512, &at), 0);
	assert_int_equal(finish_one(c, &request), 0);
}

static void objects_are_swapped_by_etag(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *c = s->client;
	char one[AZUREBLOB_ETAG_BYTES], two[AZUREBLOB_ETAG_BYTES], read[AZUREBLOB_ETAG_BYTES];
	struct azureblob_conditions none_yet = { .if_none_match = "*" };
	CLEANUP(buf_free) struct buf data = { 0 };
	assert_int_equal(
		azureblob_object_put(c, "o.json", "first", 5, NULL, &none_yet, &s->error, one), 0);
	assert_int_equal(
		azureblob_object_put(c, "o.json", "again", 5, NULL, &none_yet, &s->error, two),
		-EEXIST);
	struct azureblob_conditions same = { .if_match = one };
	assert_int_equal(
		azureblob_object_put(c, "o.json", "second", 6, NULL, &same, &s->error, two), 0);
	assert_int_equal(
		azureblob_object_put(c, "o.json", "third", 5, NULL, &same, &s->error, read),
		-ESTALE);
	assert_int_equal(azureblob_object_get(c, "o.json", 6, &s->error, &data, read), 0);
	assert_string_equal(data.data, "second");
	assert_string_equal(read, two);
	assert_int_equal(azureblob_object_get(c, "o.json", 5, &s->error, &data, read), -EMSGSIZE);
	assert_int_equal(azureblob_object_get(c, "none", 5, &s->error, &data, read), -ENOENT);
	char part[16];
	size_t n = 99;
	assert_int_equal(azureblob_object_read(c, "o.json", 2, part, 16, &s->error, &n, NULL), 0);
	assert_int_equal(n, 4);
	assert_memory_equal(part, "cond", 4);
	assert_int_equal(azureblob_object_read(c, "o.json", 6, part, 16, &s->error, &n, NULL), 0);
	assert_int_equal(n, 0);
	assert_int_equal(
		azureblob_delete(c, "o.json", NULL, AZUREBLOB_DELETE_ALONE, &same, &s->error),
		-ESTALE);
	same.if_match = two;
	assert_int_equal(
		azureblob_delete(c, "o.json", NULL, AZUREBLOB_DELETE_ALONE, &same, &s->error), 0);
	/* Nothing in it. */
	assert_int_equal(azureblob_object_put(c, "empty", "", 0, NULL, NULL, &s->error, NULL), 0);
	buf_clear(&data);
	assert_int_equal(azureblob_object_get(c, "empty", 10, &s->error, &data, NULL), 0);
	assert_int_equal(data.len, 0);
	assert_int_equal(azureblob_object_read(c, "empty", 0, part, 16, &s->error, &n, NULL), 0);
	assert_int_equal(n, 0);
}

static void large_objects_appear_whole(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *c = s->client;
	struct azureblob_conditions none_yet = { .if_none_match = "*" };
	CLEANUP(buf_free) struct buf data = { 0 };
	CLEANUP_FREE char *block = malloc(1 * MIB);
	for (unsigned i = 0; i < 3; i++) {
		memset(block, 'a' + (int)i, 1 * MIB);
		assert_int_equal(
			azureblob_object_put_block(c, "big", 7, i, block, 1 * MIB, &s->error), 0);
	}
	assert_int_equal(azureblob_object_get(c, "big", 10, &s->error, &data, NULL), -ENOENT);
	assert_int_equal(
		azureblob_object_commit(c, "big", 7, 3, NULL, &none_yet, &s->error, NULL), 0);
	assert_int_equal(azureblob_object_get(c, "big", 3 * MIB, &s->error, &data, NULL), 0);
	assert_true(data.len == 3 * MIB);
	assert_int_equal(data.data[0], 'a');
	assert_int_equal(data.data[3 * MIB - 1], 'c');
	assert_int_equal(
		azureblob_object_commit(c, "big", 7, 3, NULL, &none_yet, &s->error, NULL) < 0,
		true);
}

static void copies_come_from_snapshots(void **state)
{
	struct blob_service *s = *state;
	char snapshot[AZUREBLOB_SNAPSHOT_BYTES];
	char old[512], back[512];
	memset(old, 'o', sizeof(old));
	create(s, "copy/from.vhd", 4096);
	assert_int_equal(put(s, "copy/from.vhd", 512, old, 512, NULL), 0);
	azureblob_snapshot(s->client, "copy/from.vhd", NULL, NULL, &s->error, snapshot);
	assert_int_equal(azureblob_clear_pages(s->client, &(struct azureblob_request){ 0 },
				 "copy/from.vhd", 0, 0, NULL),
		-EINVAL);
	assert_int_equal(
		azureblob_copy(s->client, "copy/from.vhd", snapshot, "copy/to.vhd", &s->error), 0);
	assert_int_equal(get(s, "copy/to.vhd", NULL, 512, back, 512), 0);
	assert_memory_equal(back, old, 512);
	assert_int_equal(
		azureblob_copy(s->client, "copy/from.vhd", snapshot, "copy/to.vhd", &s->error),
		-EEXIST);
	assert_int_equal(
		azureblob_copy(s->client, "copy/none.vhd", NULL, "copy/to2.vhd", &s->error),
		-ENOENT);
}

static void metadata_is_replaced(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(http_headers_free) struct http_headers metadata = { 0 };
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	http_headers_add(&metadata, "one", "1");
	assert_int_equal(azureblob_create(s->client, "meta", 512, &metadata, &s->error), 0);
	http_headers_clear(&metadata);
	http_headers_add(&metadata, "two", "a b");
	assert_int_equal(azureblob_set_metadata(s->client, "meta", &metadata, NULL, &s->error), 0);
	assert_int_equal(azureblob_get_properties(s->client, "meta", NULL, &s->error, &p), 0);
	assert_null(http_headers_get(&p.metadata, "one"));
	assert_string_equal(http_headers_get(&p.metadata, "two"), "a b");
}

static void use_crc64(struct azureblob_options *options)
{
	options->checksum = AZUREBLOB_CRC64;
}

static void use_md5(struct azureblob_options *options)
{
	options->checksum = AZUREBLOB_MD5;
}

static void checksums_are_accepted(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *plain = s->client;
	void (*modes[])(struct azureblob_options *) = { use_crc64, use_md5 };
	CLEANUP_FREE uint8_t *data = malloc(64 * KIB);
	CLEANUP_FREE uint8_t *back = malloc(64 * KIB);
	struct rng rng;
	rng_seed(&rng, 3);
	create(s, "sums.vhd", 64 * KIB);
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		rng_fill(&rng, data, 64 * KIB);
		s->client = blob_service_client(s, s->credential, modes[i]);
		int r = put(s, "sums.vhd", 0, data, 64 * KIB, NULL);
		int r2 = get(s, "sums.vhd", NULL, 0, back, 64 * KIB);
		int r3 = azureblob_object_put(
			s->client, "sums", "x", 1, NULL, NULL, &s->error, NULL);
		azureblob_free(s->client);
		s->client = plain;
		/* The emulator knows no CRC, and says so. */
		if (!s->strict && modes[i] == use_crc64) {
			assert_int_equal(r, -EOPNOTSUPP);
			assert_int_equal(r2, -EOPNOTSUPP);
			continue;
		}
		assert_int_equal(r, 0);
		assert_int_equal(r2, 0);
		assert_int_equal(r3, 0);
		assert_memory_equal(data, back, 64 * KIB);
	}
}

#define TEST(function) cmocka_unit_test_setup(function, blob_service_reset)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(container_is_there),
		TEST(blobs_are_made_once),
		TEST(many_at_once_match_a_model),
		TEST(bad_ranges_are_refused_at_once),
		TEST(snapshots_stay_as_they_were),
		TEST(lists_are_whole_and_in_order),
		TEST(ranges_tell_what_is_written),
		TEST(leases_keep_others_out),
		TEST(sequence_numbers_fence),
		TEST(objects_are_swapped_by_etag),
		TEST(large_objects_appear_whole),
		TEST(copies_come_from_snapshots),
		TEST(metadata_is_replaced),
		TEST(checksums_are_accepted),
	};
	return cmocka_run_group_tests(tests, blob_service_open, blob_service_close);
}
