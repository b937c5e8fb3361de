/*
 * Snapshots of all volumes of an instance at one moment ("multi-volume, crash-consistent
 * snapshots"), waiting for them, deleting them.
 *
 * CreateSnapshots knows no client token, so that a call whose end is unknown may have made a set
 * that nobody knows of. Therefore each set bears a tag with an id of the caller's: after such an
 * end the sets there are looked for by it and adopted, and what turns up later still is found by
 * the same tag and deleted.
 */
#pragma once

#include "ec2/ec2.h"
#include "ec2/instances.h"

#define EC2_SET_TAG "landfall:set"

enum ec2_snapshot_state {
	EC2_SNAPSHOT_PENDING,
	EC2_SNAPSHOT_COMPLETED,
	EC2_SNAPSHOT_ERROR, /* and all that is neither of the others */
};

/* Borrowed until `each` returns. */
struct ec2_snapshot {
	const char *id;
	const char *volume_id;
	enum ec2_snapshot_state state;
	const char *state_text; /* as AWS says it: "completed", "recoverable", … */
	const char *progress;   /* "99%" or "" */
	int64_t started_ns;     /* since 1970 UTC: the moment it shows */
	uint64_t volume_bytes;
	bool encrypted;
	const struct ec2_tag *tags;
	size_t tag_count;
};

struct ec2_snapshot_set {
	const char *instance_id;
	const char *set_id;         /* becomes the tag landfall:set; unique, as a UUID */
	const char *const *without; /* data volumes that are left out */
	size_t without_count;
	bool without_boot;
	const struct ec2_tag *tags; /* more of them */
	size_t tag_count;
	const char *description; /* NULL: none */
};

/* Those of one's own account. */
int ec2_describe_snapshots(struct ec2 *client, const struct ec2_query *query,
	int (*each)(void *context, const struct ec2_snapshot *snapshot), void *context,
	struct http_error *error);
/* Those that bear EC2_SET_TAG; with `set_id` NULL of whatever set. */
int ec2_find_snapshots(struct ec2 *client, const char *set_id,
	int (*each)(void *context, const struct ec2_snapshot *snapshot), void *context,
	struct http_error *error);

/* CreateSnapshots: tells each snapshot of the new set, which is pending yet. 0; -EAGAIN (too soon
 * after the last of a volume), -EBUSY (too many pending), -EACCES, … If the end was unknown and
 * the set was not found within ten seconds, `error.ambiguous`: it may turn up. */
int ec2_create_snapshots(struct ec2 *client, const struct ec2_snapshot_set *set,
	int (*each)(void *context, const struct ec2_snapshot *snapshot), void *context,
	struct http_error *error);

/* 0, also if there is none of that id (any more); -EBUSY if an image needs it. */
int ec2_delete_snapshot(struct ec2 *client, const char *id, struct http_error *error);

/* Waits until all are completed, asking every `poll_ms`, at most `timeout_ms` (0: for ever). 0;
 * -EIO: one ended in an error, told; -ENOENT: one is gone; -ETIMEDOUT; -ECANCELED. */
int ec2_wait_for_snapshots(struct ec2 *client, const char *const *ids, size_t count,
	uint32_t poll_ms, uint32_t timeout_ms, struct http_error *error);
