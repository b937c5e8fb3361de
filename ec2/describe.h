/*
 * What instances.c and snapshots.c have in common: pages, filters, tags. Not for others.
 */
#pragma once

#include "ec2/call.h"
#include "ec2/instances.h"

/* Tags and attachments of the present item. Zeroed is empty. */
struct ec2_scratch {
	struct ec2_tag *tags; /* owned; their texts are the document's */
	size_t tag_count;
	struct ec2_attachment *volumes; /* owned */
	size_t volume_count;
};

void ec2_scratch_free(struct ec2_scratch *scratch);
/* Reads <tagSet> of an item. 0 or -ENOMEM. */
int ec2_read_tags(struct ec2_scratch *scratch, const struct xml_node *item);
/* The text at `path`, "" if there is none. */
const char *ec2_text(const struct xml_node *item, const char *path);

/* One Describe call. */
struct ec2_describing {
	const char *action;  /* "DescribeVolumes" */
	const char *id_name; /* "VolumeId" */
	const char *items;   /* "volumeSet/item" */
	const char *owner;   /* NULL, or "self" */
	/* Tells one item; 0, or what ends the walk: -EBADMSG for an item that cannot be read. */
	int (*item)(void *walk, const struct xml_node *item);
	void *walk;
};

int ec2_describe(struct ec2 *client, const struct ec2_describing *what,
	const struct ec2_query *query, struct http_error *error);
