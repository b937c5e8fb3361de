/*
 * azureblob/ against everything the strict server can do to a client: each fault's end is told
 * as what it is: certain or ambiguous; what may be repeated is, what may not is not.
 */
#include "tests/integration/blob_service.h"

#include <errno.h>
#include <pthread.h>
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

#define LEASE "11111111-2222-3333-4444-555555555555"
#define BLOB "faults.vhd"

static void short_times(struct azureblob_options *options)
{
	options->http.total_timeout_ms = 400;
}

static void with_crc64(struct azureblob_options *options)
{
	options->checksum = AZUREBLOB_CRC64;
}

/* Before each test an empty blob, without faults. */
static int fresh(void **state)
{
	struct blob_service *s = *state;
	blob_service_reset(state);
	azureblob_lease_break(s->client, BLOB, NULL);
	azureblob_delete(s->client, BLOB, NULL, AZUREBLOB_DELETE_ALL, NULL, NULL);
	if (azureblob_create(s->client, BLOB, 1 * MIB, NULL, &s->error) < 0)
		fail_msg("create: %d %s %s", s->error.http_status, s->error.code, s->error.message);
	return 0;
}

/* Writes 512 times `letter` at 0; the outcome in `request`. */
static int put_letter(struct azureblob *client, char letter,
	const struct azureblob_conditions *conditions, struct azureblob_request *request)
{
	char data[512];
	struct iovec iov = { data, sizeof(data) };
	memset(data, letter, sizeof(data));
	assert_int_equal(azureblob_put_pages(client, request, BLOB, 0, &iov, 1, conditions), 0);
	return finish_one(client, request);
}

static char letter_there(struct azureblob *client)
{
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	char data[512];
	assert_int_equal(azureblob_get_range(client, &request, BLOB, NULL, 0, data, 512, false), 0);
	assert_int_equal(finish_one(client, &request), 0);
	return data[0];
}

static void busy_is_waited_out(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	admin_fault("PutPage", "\"kind\": \"busy\"", 3);
	assert_int_equal(put_letter(s->client, 'a', NULL, &request), 0);
	assert_int_equal(request.call.attempts, 4);
	assert_int_equal(letter_there(s->client), 'a');
	/* Until the retries are used up: certain, it did not happen. */
	admin_fault("PutPage", "\"kind\": \"busy\"", 100);
	assert_int_equal(put_letter(s->client, 'b', NULL, &request), -EAGAIN);
	assert_int_equal(request.call.attempts, 5);
	assert_false(request.call.error.ambiguous);
	assert_string_equal(request.call.error.code, "ServerBusy");
	assert_true(request.call.error.request_id[0] != '\0');
	assert_int_equal(letter_there(s->client), 'a');
}

static void retry_after_is_honoured(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	admin_fault("PutPage", "\"kind\": \"busy\", \"retry_after\": 1", 1);
	int64_t before_ns = clock_monotonic_ns(clock_system());
	assert_int_equal(put_letter(s->client, 'a', NULL, &request), 0);
	assert_true(clock_monotonic_ns(clock_system()) - before_ns >= NS_PER_S);
}

static void ambiguous_writes_are_handed_back(void **state)
{
	struct blob_service *s = *state;
	static const struct {
		const char *fault;
		bool applied;
		int error;
	} cases[] = {
		{ "\"kind\": \"timeout500\", \"applied\": true", true, -ETIMEDOUT },
		{ "\"kind\": \"timeout500\"", false, -ETIMEDOUT },
		{ "\"kind\": \"error500\", \"applied\": true", true, -ETIMEDOUT },
		{ "\"kind\": \"error500\"", false, -ETIMEDOUT },
		{ "\"kind\": \"hang\", \"applied\": true", true, -ETIMEDOUT },
		{ "\"kind\": \"hang\"", false, -ETIMEDOUT },
	};
	struct azureblob *client = blob_service_client(s, s->credential, short_times);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
		char letter = (char)('a' + i);
		assert_int_equal(put_letter(client, 'Z', NULL, &request), 0);
		admin_fault("PutPage", cases[i].fault, 1);
		assert_int_equal(put_letter(client, letter, NULL, &request), cases[i].error);
		assert_true(request.call.error.ambiguous);
		assert_int_equal(request.call.attempts, 1);
		assert_int_equal(letter_there(client), cases[i].applied ? letter : 'Z');
	}
	azureblob_free(client);
}

/* A client whose first request is the reset one has no kept connection to be at fault. */
static void resets_are_ambiguous(void **state)
{
	struct blob_service *s = *state;
	static const struct {
		const char *when;
		bool applied;
	} cases[] = { { "before", false }, { "unapplied", false }, { "applied", true } };
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
		char fault[64];
		char letter = (char)('a' + i);
		assert_int_equal(put_letter(s->client, 'Z', NULL, &request), 0);
		struct azureblob *client = blob_service_client(s, s->credential, NULL);
		snprintf(fault, sizeof(fault), "\"kind\": \"reset\", \"when\": \"%s\"",
			cases[i].when);
		admin_fault("PutPage", fault, 1);
		assert_int_equal(put_letter(client, letter, NULL, &request), -ECONNRESET);
		assert_true(request.call.error.ambiguous);
		assert_int_equal(request.call.attempts, 1);
		assert_non_null(strstr(request.call.error.request_id, "client "));
		assert_int_equal(letter_there(client), cases[i].applied ? letter : 'Z');
		azureblob_free(client);
	}
}

/* On a kept connection the HTTP library sends again by itself: twice the same fenced write. */
static void reset_of_a_kept_connection_writes_the_same_twice(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	struct azureblob_conditions fence = { .has_sequence = true, .sequence = 0 };
	assert_int_equal(put_letter(s->client, 'Z', &fence, &request), 0);
	admin_fault("PutPage", "\"kind\": \"reset\", \"when\": \"applied\"", 1);
	int r = put_letter(s->client, 'a', &fence, &request);
	assert_true(r == 0 || (r == -ECONNRESET && request.call.error.ambiguous));
	assert_int_equal(letter_there(s->client), 'a');
}

static void reads_survive_what_comes(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *client = blob_service_client(s, s->credential, with_crc64);
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	CLEANUP_FREE uint8_t *data = malloc(256 * KIB);
	CLEANUP_FREE uint8_t *back = malloc(256 * KIB);
	struct iovec iov = { data, 256 * KIB };
	struct rng rng;
	rng_seed(&rng, 5);
	rng_fill(&rng, data, 256 * KIB);
	assert_int_equal(azureblob_put_pages(client, &request, BLOB, 0, &iov, 1, NULL), 0);
	assert_int_equal(finish_one(client, &request), 0);
	static const char *const faults[] = { "\"kind\": \"truncate\"", "\"kind\": \"corrupt\"",
		"\"kind\": \"busy\"", "\"kind\": \"error500\"",
		"\"kind\": \"reset\", \"when\": \"before\"",
		"\"kind\": \"slow\", \"bytes_per_s\": 2000000" };
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		memset(back, 0xee, 256 * KIB);
		admin_fault("GetBlob", faults[i], 2);
		assert_int_equal(azureblob_get_range(
					 client, &request, BLOB, NULL, 0, back, 256 * KIB, false),
			0);
		assert_int_equal(finish_one(client, &request), 0);
		assert_memory_equal(data, back, 256 * KIB);
	}
	/* For ever truncated: told, and never ambiguous, since nothing was changed. */
	admin_post("/rules/clear", "{}");
	admin_fault("GetBlob", "\"kind\": \"truncate\"", 100);
	assert_int_equal(
		azureblob_get_range(client, &request, BLOB, NULL, 0, back, 256 * KIB, false), 0);
	assert_int_equal(finish_one(client, &request), -ECONNRESET);
	assert_false(request.call.error.ambiguous);
	assert_int_equal(request.call.attempts, 5);
	azureblob_free(client);
}

static void a_late_write_is_fenced_off(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *c = s->client;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	struct azureblob_conditions fence = {
		.lease_id = LEASE, .has_sequence = true, .sequence = 0
	};
	struct azureblob_conditions lease = { .lease_id = LEASE };
	int64_t sequence = 0;
	assert_int_equal(
		azureblob_lease_acquire(c, BLOB, LEASE, AZUREBLOB_LEASE_FOREVER, &s->error), 0);
	admin_fault("PutPage", "\"kind\": \"late\", \"answer\": \"500\", \"delay_s\": null", 1);
	assert_int_equal(put_letter(c, 'o', &fence, &request), -ETIMEDOUT);
	assert_true(request.call.error.ambiguous);
	assert_int_equal(azureblob_set_sequence(c, BLOB, AZUREBLOB_SEQUENCE_INCREMENT, 0, &lease,
				 &s->error, &sequence),
		0);
	fence.sequence = sequence;
	assert_int_equal(put_letter(c, 'n', &fence, &request), 0);
	admin_post("/late", "{\"action\": \"land\"}");
	assert_int_equal(letter_there(c), 'n');
	assert_int_equal(admin_stat("late_rejected"), 1);
	assert_int_equal(azureblob_lease_release(c, BLOB, LEASE, &s->error), 0);
}

static void a_lost_lease_is_told(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	struct azureblob_conditions lease = { .lease_id = LEASE };
	assert_int_equal(
		azureblob_lease_acquire(s->client, BLOB, LEASE, AZUREBLOB_LEASE_FOREVER, &s->error),
		0);
	admin_fault("PutPage", "\"kind\": \"lease_break\"", 1);
	assert_int_equal(put_letter(s->client, 'a', &lease, &request), -ESTALE);
	assert_false(request.call.error.ambiguous);
	assert_int_equal(
		azureblob_lease_acquire(s->client, BLOB, LEASE, AZUREBLOB_LEASE_FOREVER, &s->error),
		0);
	admin_fault("PutPage", "\"kind\": \"lease_steal\"", 1);
	assert_int_equal(put_letter(s->client, 'a', &lease, &request), -EBUSY);
	assert_false(request.call.error.ambiguous);
}

struct found {
	unsigned count;
	char id[AZUREBLOB_SNAPSHOT_BYTES];
};

static int find_tagged(void *context, const struct azureblob_item *item)
{
	struct found *found = context;
	const char *k = http_headers_get(item->metadata, "k");
	if (item->snapshot && k && strcmp(k, "7") == 0) {
		found->count++;
		snprintf(found->id, sizeof(found->id), "%s", item->snapshot);
	}
	return 0;
}

static void a_lost_snapshot_can_be_adopted(void **state)
{
	struct blob_service *s = *state;
	static const char *const faults[] = { "\"kind\": \"timeout500\", \"applied\": true",
		"\"kind\": \"reset\", \"when\": \"applied\"" };
	CLEANUP(http_headers_free) struct http_headers metadata = { 0 };
	http_headers_add(&metadata, "k", "7");
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		char snapshot[AZUREBLOB_SNAPSHOT_BYTES] = "";
		struct found found = { 0 };
		admin_fault("Snapshot", faults[i], 1);
		/* Never twice, kept connection or not. */
		int r = azureblob_snapshot(s->client, BLOB, &metadata, NULL, &s->error, snapshot);
		assert_true(r == -ETIMEDOUT || r == -ECONNRESET);
		assert_true(s->error.ambiguous);
		assert_string_equal(snapshot, "");
		const struct azureblob_list_options o = {
			.prefix = BLOB, .snapshots = true, .metadata = true
		};
		assert_int_equal(azureblob_list(s->client, &o, find_tagged, &found, &s->error), 0);
		assert_int_equal(found.count, 1);
		/* Deleting repeats well: the second attempt's 404 is the first one's doing. */
		admin_fault("DeleteBlob", faults[i], 1);
		assert_int_equal(azureblob_delete(s->client, BLOB, found.id, AZUREBLOB_DELETE_ALONE,
					 NULL, &s->error),
			0);
		assert_int_equal(azureblob_delete(s->client, BLOB, found.id, AZUREBLOB_DELETE_ALONE,
					 NULL, &s->error),
			-ENOENT);
	}
}

static void an_object_put_is_never_repeated(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_conditions none_yet = { .if_none_match = "*" };
	CLEANUP(buf_free) struct buf data = { 0 };
	azureblob_delete(s->client, "p.json", NULL, AZUREBLOB_DELETE_ALONE, NULL, NULL);
	admin_fault("PutBlob", "\"kind\": \"reset\", \"when\": \"applied\"", 1);
	/* Sent again, it would be told -EEXIST: somebody else was first, which is not so. */
	assert_int_equal(azureblob_object_put(
				 s->client, "p.json", "mine", 4, NULL, &none_yet, &s->error, NULL),
		-ECONNRESET);
	assert_true(s->error.ambiguous);
	assert_int_equal(azureblob_object_get(s->client, "p.json", 10, &s->error, &data, NULL), 0);
	assert_string_equal(data.data, "mine");
}

static void what_repeats_well_is_repeated(void **state)
{
	struct blob_service *s = *state;
	struct azureblob *c = s->client;
	const char *lost = "\"kind\": \"reset\", \"when\": \"applied\"";
	const char *failed = "\"kind\": \"error500\"";
	int64_t sequence = 0;
	admin_fault("LeaseBlob", lost, 1);
	assert_int_equal(
		azureblob_lease_acquire(c, BLOB, LEASE, AZUREBLOB_LEASE_FOREVER, &s->error), 0);
	admin_fault("LeaseBlob", failed, 2);
	assert_int_equal(azureblob_lease_renew(c, BLOB, LEASE, &s->error), 0);
	struct azureblob_conditions lease = { .lease_id = LEASE };
	admin_fault("SetProperties", lost, 1);
	assert_int_equal(azureblob_set_sequence(
				 c, BLOB, AZUREBLOB_SEQUENCE_MAX, 9, &lease, &s->error, &sequence),
		0);
	assert_int_equal(sequence, 9);
	/* Incrementing does not repeat well. */
	admin_fault("SetProperties", "\"kind\": \"error500\", \"applied\": true", 1);
	assert_int_equal(azureblob_set_sequence(c, BLOB, AZUREBLOB_SEQUENCE_INCREMENT, 0, &lease,
				 &s->error, &sequence),
		-ETIMEDOUT);
	assert_true(s->error.ambiguous);
	admin_fault("LeaseBlob", "\"kind\": \"error500\", \"applied\": true", 1);
	assert_int_equal(azureblob_lease_release(c, BLOB, LEASE, &s->error), 0);
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	admin_fault("HeadBlob", failed, 2);
	assert_int_equal(azureblob_get_properties(c, BLOB, NULL, &s->error, &p), 0);
	assert_int_equal(p.sequence, 10);
	assert_false(p.leased);
}

static void outages_are_told(void **state)
{
	struct blob_service *s = *state;
	static const struct {
		const char *mode;
		int error;
		bool ambiguous;
	} cases[] = { { "\"refuse\"", -ECONNREFUSED, false }, { "\"503\"", -EAGAIN, false },
		{ "\"500\"", -ETIMEDOUT, true }, { "\"hang\"", -ETIMEDOUT, true },
		{ "\"reset\"", -ECONNRESET, true } };
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
		char json[64];
		struct azureblob *client = blob_service_client(s, s->credential, short_times);
		snprintf(json, sizeof(json), "{\"mode\": %s}", cases[i].mode);
		admin_post("/down", json);
		int r = put_letter(client, 'a', NULL, &request);
		admin_post("/down", "{\"mode\": null}");
		/* The kernel may accept what is refused then, and a reset may come before the
		 * request was sent: either end is told as what it was. */
		if (r == -ECONNREFUSED || r == -ECONNRESET) {
			assert_true(
				cases[i].error == -ECONNREFUSED || cases[i].error == -ECONNRESET);
			assert_int_equal(request.call.error.ambiguous, r == -ECONNRESET);
		} else {
			assert_int_equal(r, cases[i].error);
			assert_int_equal(request.call.error.ambiguous, cases[i].ambiguous);
		}
		assert_int_equal(put_letter(client, 'b', NULL, &request), 0);
		azureblob_free(client);
	}
}

static void wrong_credentials_are_told(void **state)
{
	struct blob_service *s = *state;
	struct azureblob_credential *wrong = NULL;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	assert_int_equal(
		azureblob_credential_new_key(s->account.name, "d3Jvbmc=", &wrong, NULL), 0);
	struct azureblob *client = blob_service_client(s, wrong, NULL);
	assert_int_equal(put_letter(client, 'a', NULL, &request), -EACCES);
	assert_int_equal(request.call.error.http_status, 403);
	assert_string_equal(request.call.error.code, "AuthenticationFailed");
	assert_int_equal(request.call.attempts, 1);
	assert_false(request.call.error.ambiguous);
	assert_null(strstr(request.call.error.message, "clock"));
	azureblob_free(client);
	azureblob_credential_free(wrong);
	/* A clock that is off is named. */
	admin_post("/settings", "{\"clock_skew_s\": 3600}");
	int r = put_letter(s->client, 'a', NULL, &request);
	admin_post("/settings", "{\"clock_skew_s\": 0}");
	assert_int_equal(r, -EACCES);
	assert_non_null(strstr(request.call.error.message, "the clock here is"));
	assert_non_null(strstr(request.call.error.message, "behind"));
}

static void canceling_and_waking(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	struct azureblob_request *done = NULL;
	char data[512] = { 0 };
	struct iovec iov = { data, sizeof(data) };
	/* While it waits for its next attempt: certain. */
	admin_fault("PutPage", "\"kind\": \"busy\", \"retry_after\": 10", 1);
	assert_int_equal(azureblob_put_pages(s->client, &request, BLOB, 0, &iov, 1, NULL), 0);
	while (request.call.state == HTTP_CALL_SENT)
		assert_int_equal(azureblob_wait(s->client, 10, &done), -ETIMEDOUT);
	azureblob_cancel(s->client, &request);
	assert_int_equal(azureblob_wait(s->client, 0, &done), 0);
	assert_int_equal(request.call.result, -ECANCELED);
	assert_false(request.call.error.ambiguous);
	/* While it is under way: not. */
	admin_fault("PutPage", "\"kind\": \"hang\"", 1);
	assert_int_equal(azureblob_put_pages(s->client, &request, BLOB, 0, &iov, 1, NULL), 0);
	while (request.call.http.sent_times == 0)
		assert_int_equal(azureblob_wait(s->client, 10, &done), -ETIMEDOUT);
	azureblob_cancel(s->client, &request);
	assert_int_equal(azureblob_wait(s->client, 1000, &done), 0);
	assert_int_equal(request.call.result, -ECANCELED);
	assert_true(request.call.error.ambiguous);
	/* A wake-up that comes during a blocking call is not lost. */
	azureblob_wakeup(s->client);
	assert_int_equal(azureblob_container_check(s->client, &s->error), 0);
	assert_int_equal(azureblob_wait(s->client, 1000, &done), -EINTR);
	assert_int_equal(azureblob_wait(s->client, 0, &done), -ETIMEDOUT);
	/* One left behind when the client goes. */
	struct azureblob *client = blob_service_client(s, s->credential, NULL);
	admin_fault("PutPage", "\"kind\": \"hang\"", 1);
	assert_int_equal(azureblob_put_pages(client, &request, BLOB, 0, &iov, 1, NULL), 0);
	azureblob_free(client);
}

static int count_range(void *context, const struct azureblob_range *range)
{
	uint64_t *sum = context;
	*sum += range->length;
	return 0;
}

static void ranges_shrink_their_window(void **state)
{
	struct blob_service *s = *state;
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	uint64_t sum = 0;
	assert_int_equal(azureblob_resize(s->client, BLOB, 64 * GIB, NULL, &s->error), 0);
	assert_int_equal(put_letter(s->client, 'a', NULL, &request), 0);
	admin_fault("GetPageRanges", "\"kind\": \"timeout500\"", 4);
	const struct azureblob_ranges_options o = { 0 };
	assert_int_equal(
		azureblob_list_ranges(s->client, BLOB, &o, count_range, &sum, &s->error), 0);
	assert_true(sum == 512);
}

#define TEST(function) cmocka_unit_test_setup(function, fresh)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(busy_is_waited_out),
		TEST(retry_after_is_honoured),
		TEST(ambiguous_writes_are_handed_back),
		TEST(resets_are_ambiguous),
		TEST(reset_of_a_kept_connection_writes_the_same_twice),
		TEST(reads_survive_what_comes),
		TEST(a_late_write_is_fenced_off),
		TEST(a_lost_lease_is_told),
		TEST(a_lost_snapshot_can_be_adopted),
		TEST(an_object_put_is_never_repeated),
		TEST(what_repeats_well_is_repeated),
		TEST(outages_are_told),
		TEST(wrong_credentials_are_told),
		TEST(canceling_and_waking),
		TEST(ranges_shrink_their_window),
	};
	return cmocka_run_group_tests(tests, blob_service_open, blob_service_close);
}
