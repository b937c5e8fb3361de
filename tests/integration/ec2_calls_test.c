/*
 * ec2/instances and ec2/snapshots against the tests' own AWS: lists page by page, sets of
 * snapshots, stopping and starting, and what each refusal comes to.
 */
#include "tests/integration/ec2_service.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "ec2/instances.h"
#include "ec2/snapshots.h"

static int count_instances(void *context, const struct ec2_instance *instance)
{
	assert_true(instance->id[0] != '\0');
	++*(unsigned *)context;
	return 0;
}

static int look_at_instance(void *context, const struct ec2_instance *i)
{
	const struct ec2_world *s = context;
	assert_string_equal(i->id, s->instance);
	assert_string_equal(i->name, "web <&>");
	assert_string_equal(i->state, "running");
	assert_string_equal(i->boot_mode, "uefi");
	assert_string_equal(i->private_ip, s->ip);
	assert_string_equal(i->platform, "");
	assert_string_equal(i->platform_details, "Linux/UNIX");
	assert_string_equal(i->zone, "eu-test-1a");
	assert_int_equal(i->volume_count, VOLUMES);
	assert_string_equal(i->volumes[0].volume_id, s->volume[0]);
	assert_true(i->volumes[0].root);
	assert_false(i->volumes[1].root);
	assert_string_equal(ec2_tag_find(i->tags, i->tag_count, "Test"), s->instance);
	assert_null(ec2_tag_find(i->tags, i->tag_count, "test"));
	return 7;
}

static void instances_are_found(void **state)
{
	struct ec2_world *s = *state;
	const char *ip[] = { "192.0.2.1", s->ip };
	const char *id[] = { s->instance };
	const struct ec2_filter filters[] = { { "private-ip-address", ip, 2 },
		{ "tag:Test", id, 1 } };
	struct ec2_query query = { .filters = filters, .filter_count = 2 };
	assert_int_equal(
		ec2_describe_instances(s->client, &query, look_at_instance, s, &s->error), 7);
	query = (struct ec2_query){ .ids = id, .id_count = 1 };
	assert_int_equal(
		ec2_describe_instances(s->client, &query, look_at_instance, s, &s->error), 7);
	id[0] = "i-0123456789abcdef0";
	unsigned count = 0;
	assert_int_equal(
		ec2_describe_instances(s->client, &query, count_instances, &count, &s->error),
		-ENOENT);
	assert_string_equal(s->error.code, "InvalidInstanceID.NotFound");
	assert_true(s->error.request_id[0] != '\0');
	assert_int_equal(s->error.http_status, 400);
}

static void lists_are_walked_to_their_end(void **state)
{
	struct ec2_world *s = *state;
	unsigned all = 0, paged = 0;
	for (unsigned i = 0; i < 23; i++)
		admin_postf("/instance", "{\"tags\": {\"Number\": \"%u\"}}", i);
	assert_done(s, ec2_describe_instances(s->client, NULL, count_instances, &all, &s->error));
	assert_true(all >= 24);
	assert_int_equal(admin_operations("DescribeInstances"), 1);
	admin_post("/settings", "{\"page_items\": 5}");
	admin_fault("\"operation\": \"DescribeInstances\"", "\"kind\": \"empty_page\"", 2, 2);
	assert_done(s, ec2_describe_instances(s->client, NULL, count_instances, &paged, &s->error));
	assert_int_equal(paged, all);
	assert_true(admin_operations("DescribeInstances") >= 1 + all / 5);
}

static int look_at_volume(void *context, const struct ec2_volume *v)
{
	const struct ec2_world *s = context;
	assert_int_equal(v->size_bytes, VOLUME_BYTES);
	assert_string_equal(v->type, "gp3");
	assert_string_equal(v->instance_id, s->instance);
	assert_string_equal(v->state, "in-use");
	assert_false(v->encrypted);
	return strcmp(v->id, s->volume[1]) == 0 ? 7 : 0;
}

static void volumes_are_found(void **state)
{
	struct ec2_world *s = *state;
	const char *id[] = { s->instance };
	const struct ec2_filter filter = { "attachment.instance-id", id, 1 };
	const struct ec2_query query = { .filters = &filter, .filter_count = 1 };
	assert_int_equal(ec2_describe_volumes(s->client, &query, look_at_volume, s, &s->error), 7);
}

static unsigned count_of_set(struct ec2_world *s, const char *set_id);

struct seen {
	unsigned count;
	char ids[4][64];
	char volumes[4][64];
	enum ec2_snapshot_state state;
};

static int see(void *context, const struct ec2_snapshot *snapshot)
{
	struct seen *seen = context;
	assert_true(seen->count < 4);
	snprintf(seen->ids[seen->count], 64, "%s", snapshot->id);
	snprintf(seen->volumes[seen->count], 64, "%s", snapshot->volume_id);
	seen->state = snapshot->state;
	assert_int_equal(snapshot->volume_bytes, VOLUME_BYTES);
	assert_true(
		llabs(snapshot->started_ns - clock_realtime_ns(clock_system())) < 60 * NS_PER_S);
	seen->count++;
	return 0;
}

static unsigned count_of_set(struct ec2_world *s, const char *set_id)
{
	struct seen seen = { 0 };
	assert_done(s, ec2_find_snapshots(s->client, set_id, see, &seen, &s->error));
	return seen.count;
}

static void sets_are_made_and_deleted(void **state)
{
	struct ec2_world *s = *state;
	char set_id[80];
	const struct ec2_tag tags[] = { { "landfall:machine", "web ü + & = ~" } };
	struct ec2_snapshot_set set = { .instance_id = s->instance,
		.set_id = set_id,
		.tags = tags,
		.tag_count = 1,
		.description = "of web" };
	struct seen seen = { 0 };
	snprintf(set_id, sizeof(set_id), "%s/1", s->instance);
	assert_done(s, ec2_create_snapshots(s->client, &set, see, &seen, &s->error));
	assert_int_equal(seen.count, 2);
	assert_int_equal(seen.state, EC2_SNAPSHOT_PENDING);
	const char *ids[] = { seen.ids[0], seen.ids[1] };
	assert_int_equal(ec2_wait_for_snapshots(s->client, ids, 2, 20, 100, &s->error), -ETIMEDOUT);
	assert_done(s, ec2_wait_for_snapshots(s->client, ids, 2, 20, 10000, &s->error));
	struct seen found = { 0 };
	assert_done(s, ec2_find_snapshots(s->client, set_id, see, &found, &s->error));
	assert_int_equal(found.count, 2);
	assert_int_equal(found.state, EC2_SNAPSHOT_COMPLETED);
	assert_int_equal(count_of_set(s, "another"), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_done(s, ec2_delete_snapshot(s->client, ids[i], &s->error));
		assert_done(s, ec2_delete_snapshot(s->client, ids[i], &s->error));
	}
	assert_int_equal(count_of_set(s, set_id), 0);
	assert_int_equal(ec2_wait_for_snapshots(s->client, ids, 2, 20, 100, &s->error), -ETIMEDOUT);
	/* One volume less. */
	const char *without[] = { s->volume[1] };
	set.without = without;
	set.without_count = 1;
	memset(&seen, 0, sizeof(seen));
	assert_done(s, ec2_create_snapshots(s->client, &set, see, &seen, &s->error));
	assert_int_equal(seen.count, 1);
	assert_string_equal(seen.volumes[0], s->volume[0]);
	set.without_boot = true;
	assert_int_equal(ec2_create_snapshots(s->client, &set, see, &seen, &s->error), -EINVAL);
}

static void sets_that_fail(void **state)
{
	struct ec2_world *s = *state;
	struct seen seen = { 0 };
	const struct ec2_snapshot_set set = { .instance_id = s->instance, .set_id = s->instance };
	admin_fault("\"operation\": \"CreateSnapshots\"", "\"kind\": \"end_in_error\"", 0, 1);
	assert_done(s, ec2_create_snapshots(s->client, &set, see, &seen, &s->error));
	const char *ids[] = { seen.ids[0], seen.ids[1] };
	assert_int_equal(ec2_wait_for_snapshots(s->client, ids, 2, 20, 10000, &s->error), -EIO);
	assert_non_null(strstr(s->error.message, "ended as error"));
	/* Too soon, too many. */
	admin_post("/settings", "{\"snapshot_interval_s\": 15}");
	assert_int_equal(ec2_create_snapshots(s->client, &set, see, &seen, &s->error), -EAGAIN);
	assert_string_equal(s->error.code, "SnapshotCreationPerVolumeRateExceeded");
	admin_post("/settings", "{\"snapshot_interval_s\": 0, \"pending_snapshots\": 1}");
	assert_int_equal(ec2_create_snapshots(s->client, &set, see, &seen, &s->error), -EBUSY);
	assert_string_equal(s->error.code, "PendingSnapshotLimitExceeded");
	admin_post("/settings", "{\"deny\": [\"CreateSnapshots\"]}");
	assert_int_equal(ec2_create_snapshots(s->client, &set, see, &seen, &s->error), -EACCES);
	assert_string_equal(s->error.code, "UnauthorizedOperation");
	assert_false(s->error.ambiguous);
}

/* The answer is lost: the set is found by its tag, and no second one made. */
static void a_set_that_nobody_heard_of_is_adopted(void **state)
{
	struct ec2_world *s = *state;
	static const char *const faults[] = { "\"kind\": \"reset\", \"applied\": true",
		"\"kind\": \"status\", \"status\": 500, \"code\": \"InternalError\", "
		"\"applied\": true",
		"\"kind\": \"truncate\"" };
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		char set_id[96];
		struct seen seen = { 0 };
		const struct ec2_snapshot_set set = { .instance_id = s->instance,
			.set_id = set_id };
		snprintf(set_id, sizeof(set_id), "%s/%zu", s->instance, i);
		uint64_t sets = admin_number("/stats", "sets");
		admin_fault("\"operation\": \"CreateSnapshots\"", faults[i], 0, 1);
		assert_done(s, ec2_create_snapshots(s->client, &set, see, &seen, &s->error));
		assert_int_equal(seen.count, 2);
		assert_int_equal(admin_number("/stats", "sets"), sets + 1);
		assert_int_equal(count_of_set(s, set_id), 2);
	}
}

static void a_set_that_never_was_is_told_as_ambiguous(void **state)
{
	struct ec2_world *s = *state;
	struct seen seen = { 0 };
	const struct ec2_snapshot_set set = { .instance_id = s->instance, .set_id = "never" };
	uint64_t sets = admin_number("/stats", "sets");
	admin_fault("\"operation\": \"CreateSnapshots\"",
		"\"kind\": \"status\", \"status\": 500, \"code\": \"InternalError\"", 0, 1);
	assert_int_equal(ec2_create_snapshots(s->client, &set, see, &seen, &s->error), -ETIMEDOUT);
	assert_true(s->error.ambiguous);
	assert_int_equal(seen.count, 0);
	assert_int_equal(admin_number("/stats", "sets"), sets);
	assert_int_equal(admin_operations("CreateSnapshots"), 1);
}

static int state_is(void *context, const struct ec2_instance *instance)
{
	return strcmp(instance->state, context) == 0;
}

static void wait_for_state(struct ec2_world *s, const char *wanted)
{
	const char *ids[] = { s->instance };
	const struct ec2_query query = { .ids = ids, .id_count = 1 };
	int64_t end_ns = clock_monotonic_ns(clock_system()) + 20 * NS_PER_S;
	while (ec2_describe_instances(s->client, &query, state_is, (void *)wanted, &s->error) !=
		1) {
		assert_true(clock_monotonic_ns(clock_system()) < end_ns);
		clock_sleep_ns(clock_system(), 20 * NS_PER_MS);
	}
}

static void instances_are_stopped_and_started(void **state)
{
	struct ec2_world *s = *state;
	bool protected = true;
	assert_done(s, ec2_is_stop_protected(s->client, s->instance, &protected, &s->error));
	assert_false(protected);
	assert_done(s, ec2_stop_instance(s->client, s->instance, false, &s->error));
	wait_for_state(s, "stopped");
	assert_done(s, ec2_stop_instance(s->client, s->instance, true, &s->error));
	assert_done(s, ec2_start_instance(s->client, s->instance, &s->error));
	wait_for_state(s, "running");
	admin_postf("/instance/set", "{\"id\": \"%s\", \"stop_protected\": true}", s->instance);
	assert_done(s, ec2_is_stop_protected(s->client, s->instance, &protected, &s->error));
	assert_true(protected);
	assert_int_equal(ec2_stop_instance(s->client, s->instance, false, &s->error), -EPERM);
	struct error error = { 0 };
	ec2_error_tell(&s->error, "stop web", &error);
	assert_non_null(strstr(error.message, "OperationNotPermitted"));
	assert_non_null(strstr(error.mend, "disableApiStop"));
	assert_int_equal(
		ec2_stop_instance(s->client, "i-0123456789abcdef0", false, &s->error), -ENOENT);
}

static void what_may_be_repeated_is(void **state)
{
	struct ec2_world *s = *state;
	static const char *const faults[] = { "\"kind\": \"reset\"", "\"kind\": \"truncate\"",
		"\"kind\": \"status\", \"status\": 500, \"code\": \"InternalError\"",
		"\"kind\": \"status\", \"status\": 503, \"code\": \"RequestLimitExceeded\"",
		"\"kind\": \"status\", \"status\": 503, \"code\": \"Unavailable\"" };
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		unsigned count = 0;
		admin_post("/rules/clear", "{}");
		admin_post("/reset", "{}");
		admin_fault("\"operation\": \"*\"", faults[i], 0, 3);
		assert_done(s, ec2_describe_instances(
				       s->client, NULL, count_instances, &count, &s->error));
		assert_true(count > 0);
		assert_in_range(admin_operations("DescribeInstances"), 4, 8);
		admin_fault("\"operation\": \"*\"", faults[i], 0, 3);
		assert_done(s, ec2_stop_instance(s->client, s->instance, false, &s->error));
	}
	admin_post("/rules/clear", "{}");
	admin_fault("\"operation\": \"*\"",
		"\"kind\": \"status\", \"status\": 503, \"code\": \"RequestLimitExceeded\", "
		"\"retry_after\": 1",
		0, 1);
	unsigned count = 0;
	int64_t before_ns = clock_monotonic_ns(clock_system());
	assert_done(s, ec2_describe_instances(s->client, NULL, count_instances, &count, &s->error));
	assert_true(clock_monotonic_ns(clock_system()) - before_ns >= NS_PER_S);
	/* Throttled by its token bucket for as long as it is asked too fast. */
	admin_post("/settings", "{\"calls_per_s\": 10}");
	for (unsigned i = 0; i < 15; i++)
		assert_done(s, ec2_describe_instances(
				       s->client, NULL, count_instances, &count, &s->error));
	assert_true(admin_number("/stats", "throttled") > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, ec2_service_open, ec2_service_close)
		TEST(instances_are_found),
		TEST(lists_are_walked_to_their_end),
		TEST(volumes_are_found),
		TEST(sets_are_made_and_deleted),
		TEST(sets_that_fail),
		TEST(a_set_that_nobody_heard_of_is_adopted),
		TEST(a_set_that_never_was_is_told_as_ambiguous),
		TEST(instances_are_stopped_and_started),
		TEST(what_may_be_repeated_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
