/*
 * Items of CreateSnapshots carry <state>, those of DescribeSnapshots <status>; otherwise they are
 * read alike. A fresh snapshot may not be found for some seconds, so that waiting bears with
 * -ENOENT for a while.
 */
#include "ec2/snapshots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/utc.h"
#include "ec2/client_internal.h"
#include "ec2/describe.h"

#define ADOPT_NS (10 * NS_PER_S)
#define ADOPT_PAUSE_NS (500 * NS_PER_MS)
#define UNSEEN_NS (15 * NS_PER_S)

struct walk {
	int (*each)(void *context, const struct ec2_snapshot *snapshot);
	void *context;
	struct ec2_scratch scratch;
	size_t count;
};

static void walk_free(struct walk *walk)
{
	ec2_scratch_free(&walk->scratch);
}

static int walk_snapshot(void *context, const struct xml_node *item)
{
	struct walk *w = context;
	uint64_t gib;
	int r = ec2_read_tags(&w->scratch, item);
	if (r < 0)
		return r;
	const char *state = xml_text(item, "status");
	struct ec2_snapshot s = { .id = ec2_text(item, "snapshotId"),
		.volume_id = ec2_text(item, "volumeId"),
		.state = EC2_SNAPSHOT_ERROR,
		.state_text = state ? state : ec2_text(item, "state"),
		.progress = ec2_text(item, "progress"),
		.encrypted = strcmp(ec2_text(item, "encrypted"), "true") == 0,
		.tags = w->scratch.tags,
		.tag_count = w->scratch.tag_count };
	if (!s.id[0] || !s.volume_id[0] || !s.state_text[0] ||
		xml_u64(item, "volumeSize", &gib) < 0 || gib > UINT64_MAX / GIB ||
		utc_parse(ec2_text(item, "startTime"), &s.started_ns) < 0)
		return -EBADMSG;
	s.volume_bytes = gib * GIB;
	if (strcmp(s.state_text, "pending") == 0)
		s.state = EC2_SNAPSHOT_PENDING;
	else if (strcmp(s.state_text, "completed") == 0)
		s.state = EC2_SNAPSHOT_COMPLETED;
	w->count++;
	return w->each(w->context, &s);
}

static int describe(struct ec2 *client, const struct ec2_query *query, struct walk *walk,
	struct http_error *error)
{
	const struct ec2_describing what = { .action = "DescribeSnapshots",
		.id_name = "SnapshotId",
		.items = "snapshotSet/item",
		.owner = "self",
		.item = walk_snapshot,
		.walk = walk };
	return ec2_describe(client, &what, query, error);
}

int ec2_describe_snapshots(struct ec2 *client, const struct ec2_query *query,
	int (*each)(void *context, const struct ec2_snapshot *snapshot), void *context,
	struct http_error *error)
{
	CLEANUP(walk_free) struct walk walk = { .each = each, .context = context };
	return describe(client, query, &walk, error);
}

static int find(struct ec2 *client, const char *set_id, struct walk *walk, struct http_error *error)
{
	const char *tag_key[] = { EC2_SET_TAG };
	const char *value[] = { set_id };
	const struct ec2_filter filter = { .name = set_id ? "tag:" EC2_SET_TAG : "tag-key",
		.values = set_id ? value : tag_key,
		.count = 1 };
	const struct ec2_query query = { .filters = &filter, .filter_count = 1 };
	return describe(client, &query, walk, error);
}

int ec2_find_snapshots(struct ec2 *client, const char *set_id,
	int (*each)(void *context, const struct ec2_snapshot *snapshot), void *context,
	struct http_error *error)
{
	CLEANUP(walk_free) struct walk walk = { .each = each, .context = context };
	return find(client, set_id, &walk, error);
}

static void build_create(
	struct ec2 *client, struct ec2_request *request, const struct ec2_snapshot_set *set)
{
	static const char tag[] = "TagSpecification.1.Tag";
	ec2_call_begin_action(client, request, "CreateSnapshots", HTTP_ONCE);
	ec2_call_field(request, "InstanceSpecification.InstanceId", set->instance_id);
	if (set->without_boot)
		ec2_call_field(request, "InstanceSpecification.ExcludeBootVolume", "true");
	for (size_t i = 0; i < set->without_count; i++)
		ec2_call_fieldf(request, set->without[i],
			"InstanceSpecification.ExcludeDataVolumeId.%zu", i + 1);
	ec2_call_field(request, "Description", set->description);
	ec2_call_field(request, "TagSpecification.1.ResourceType", "snapshot");
	ec2_call_fieldf(request, EC2_SET_TAG, "%s.1.Key", tag);
	ec2_call_fieldf(request, set->set_id, "%s.1.Value", tag);
	for (size_t i = 0; i < set->tag_count; i++) {
		ec2_call_fieldf(request, set->tags[i].key, "%s.%zu.Key", tag, i + 2);
		ec2_call_fieldf(request, set->tags[i].value, "%s.%zu.Value", tag, i + 2);
	}
}

/* After an unknown end: the set, if it is there or turns up soon. -ENOENT: it did not. */
static int adopt(struct ec2 *client, const char *set_id, struct walk *walk)
{
	struct clock_source *clock = clock_system();
	int64_t end_ns = clock_monotonic_ns(clock) + ADOPT_NS;
	for (;;) {
		struct http_error ignored;
		int r = find(client, set_id, walk, &ignored);
		if (r != 0 || walk->count > 0)
			return r;
		if (clock_monotonic_ns(clock) >= end_ns || ec2_is_stopped(client))
			return -ENOENT;
		http_calls_pause(client->calls, ADOPT_PAUSE_NS);
	}
}

int ec2_create_snapshots(struct ec2 *client, const struct ec2_snapshot_set *set,
	int (*each)(void *context, const struct ec2_snapshot *snapshot), void *context,
	struct http_error *error)
{
	CLEANUP(ec2_request_free) struct ec2_request request = { 0 };
	CLEANUP(walk_free) struct walk walk = { .each = each, .context = context };
	struct http_error e = { 0 };
	build_create(client, &request, set);
	int r = http_call_perform(&request.call, &e);
	const struct xml_node *node =
		r == 0 ? xml_find(ec2_call_answer(&request), "snapshotSet/item") : NULL;
	if (r == 0 && !node)
		r = http_call_bad_answer(&request.call, &e, "the answer names no snapshot");
	for (; r == 0 && node; node = xml_next(node)) {
		r = walk_snapshot(&walk, node);
		if (r == -EBADMSG)
			r = http_call_bad_answer(&request.call, &e, "a snapshot cannot be read");
		else if (r != 0)
			return r;
	}
	if (r < 0 && e.ambiguous && walk.count == 0) {
		int found = adopt(client, set->set_id, &walk);
		if (found == 0)
			return 0;
	}
	if (r < 0 && error)
		*error = e;
	return r;
}

int ec2_delete_snapshot(struct ec2 *client, const char *id, struct http_error *error)
{
	CLEANUP(ec2_request_free) struct ec2_request request = { 0 };
	ec2_call_begin_action(client, &request, "DeleteSnapshot", HTTP_REPEATABLE);
	ec2_call_field(&request, "SnapshotId", id);
	int r = http_call_perform(&request.call, error);
	return r == -ENOENT ? 0 : r;
}

struct waiting {
	size_t pending;
	struct http_error *error;
};

static int look(void *context, const struct ec2_snapshot *s)
{
	struct waiting *w = context;
	if (s->state == EC2_SNAPSHOT_PENDING)
		w->pending++;
	if (s->state == EC2_SNAPSHOT_ERROR)
		return http_error_set(w->error, -EIO, "snapshot %s of %s ended as %s", s->id,
			s->volume_id, s->state_text);
	return 0;
}

int ec2_wait_for_snapshots(struct ec2 *client, const char *const *ids, size_t count,
	uint32_t poll_ms, uint32_t timeout_ms, struct http_error *error)
{
	struct clock_source *clock = clock_system();
	const struct ec2_query query = { .ids = ids, .id_count = count };
	int64_t start_ns = clock_monotonic_ns(clock);
	for (;;) {
		struct http_error e = { 0 };
		struct waiting w = { .error = &e };
		int r = ec2_describe_snapshots(client, &query, look, &w, &e);
		int64_t waited_ns = clock_monotonic_ns(clock) - start_ns;
		bool unseen = r == -ENOENT && waited_ns < UNSEEN_NS;
		if (r == 0 && w.pending == 0)
			return 0;
		if (r < 0 && !unseen) {
			if (error)
				*error = e;
			return r;
		}
		if (timeout_ms > 0 && waited_ns >= timeout_ms * NS_PER_MS)
			return http_error_set(error, -ETIMEDOUT, "%zu of %zu snapshots are pending",
				w.pending, count);
		if (ec2_is_stopped(client))
			return http_error_set(error, -ECANCELED, "told to stop");
		http_calls_pause(client->calls, poll_ms * NS_PER_MS);
	}
}
