/*
 * Instances and their volumes: finding them, stopping and starting them.
 *
 * Lists are walked to their end, page by page; `each` is told every item, which is borrowed until
 * it returns. A non-zero answer of `each` ends the walk and is returned. All block.
 */
#pragma once

#include "ec2/ec2.h"

struct ec2_tag {
	const char *key;
	const char *value;
};

/* A filter of the Describe calls: {"private-ip-address", {"10.0.0.7"}, 1}, {"tag:Role", …}. */
struct ec2_filter {
	const char *name;
	const char *const *values;
	size_t count;
};

/* What to list. Zeroed: everything. With ids, one of them missing is -ENOENT. */
struct ec2_query {
	const char *const *ids;
	size_t id_count;
	const struct ec2_filter *filters;
	size_t filter_count;
	unsigned page; /* items a page; 0: 1000. Not sent with ids */
};

struct ec2_attachment {
	const char *volume_id;
	const char *device; /* "/dev/sda1" */
	bool root;
};

/* "" for what AWS does not say. */
struct ec2_instance {
	const char *id;
	const char *name;  /* the tag Name */
	const char *state; /* pending, running, stopping, stopped, shutting-down, terminated */
	const char *type;
	const char *platform; /* "windows" or "" */
	const char *platform_details;
	const char *architecture;
	const char *boot_mode; /* "legacy-bios", "uefi": as it boots now, or as its image says */
	const char *private_ip;
	const char *zone;
	const char *vpc_id;
	const char *subnet_id;
	const struct ec2_attachment *volumes;
	size_t volume_count;
	const struct ec2_tag *tags;
	size_t tag_count;
};

struct ec2_volume {
	const char *id;
	uint64_t size_bytes;
	const char *type;        /* gp3, io2, st1, … */
	const char *state;       /* available, in-use, … */
	const char *instance_id; /* "" if attached to none */
	const char *device;
	const char *zone;
	bool encrypted;
	const struct ec2_tag *tags;
	size_t tag_count;
};

/* The value of a tag; NULL: there is none. */
const char *ec2_tag_find(const struct ec2_tag *tags, size_t count, const char *key);

int ec2_describe_instances(struct ec2 *client, const struct ec2_query *query,
	int (*each)(void *context, const struct ec2_instance *instance), void *context,
	struct http_error *error);
int ec2_describe_volumes(struct ec2 *client, const struct ec2_query *query,
	int (*each)(void *context, const struct ec2_volume *volume), void *context,
	struct http_error *error);

/* What stands in an instance's disableApiStop: true if it is protected. */
int ec2_is_stop_protected(
	struct ec2 *client, const char *instance_id, bool *ret_protected, struct http_error *error);

/* Begins to stop or start it; either is done already: 0. -EPERM: it is protected; -EBUSY: not in
 * this state. Then watch its state with ec2_describe_instances. */
int ec2_stop_instance(
	struct ec2 *client, const char *instance_id, bool force, struct http_error *error);
int ec2_start_instance(struct ec2 *client, const char *instance_id, struct http_error *error);
