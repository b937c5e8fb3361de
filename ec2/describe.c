/*
 * The frame of all Describe calls: pages of XML until there is no nextToken, which may come with
 * a page that is empty. A page size may not go with ids (EC2 refuses the two together), and with
 * ids there is one page.
 */
#include "ec2/describe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

#define PAGE_ITEMS 1000u

void ec2_scratch_free(struct ec2_scratch *scratch)
{
	free(scratch->tags);
	free(scratch->volumes);
	*scratch = (struct ec2_scratch){ 0 };
}

const char *ec2_text(const struct xml_node *item, const char *path)
{
	const char *text = xml_text(item, path);
	return text ? text : "";
}

int ec2_read_tags(struct ec2_scratch *scratch, const struct xml_node *item)
{
	scratch->tag_count = 0;
	for (const struct xml_node *n = xml_find(item, "tagSet/item"); n; n = xml_next(n)) {
		struct ec2_tag *tags = reallocarray(
			scratch->tags, scratch->tag_count + 1, sizeof(scratch->tags[0]));
		if (!tags)
			return -ENOMEM;
		scratch->tags = tags;
		tags[scratch->tag_count++] =
			(struct ec2_tag){ ec2_text(n, "key"), ec2_text(n, "value") };
	}
	return 0;
}

const char *ec2_tag_find(const struct ec2_tag *tags, size_t count, const char *key)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(tags[i].key, key) == 0)
			return tags[i].value;
	}
	return NULL;
}

static void add_query(struct ec2_request *request, const struct ec2_describing *what,
	const struct ec2_query *query, const char *next)
{
	char page[16];
	snprintf(page, sizeof(page), "%u", query->page ? query->page : PAGE_ITEMS);
	for (size_t i = 0; i < query->id_count; i++)
		ec2_call_fieldf(request, query->ids[i], "%s.%zu", what->id_name, i + 1);
	if (query->id_count == 0)
		ec2_call_field(request, "MaxResults", page);
	if (what->owner)
		ec2_call_field(request, "Owner.1", what->owner);
	for (size_t i = 0; i < query->filter_count; i++) {
		const struct ec2_filter *f = &query->filters[i];
		ec2_call_fieldf(request, f->name, "Filter.%zu.Name", i + 1);
		for (size_t v = 0; v < f->count; v++)
			ec2_call_fieldf(
				request, f->values[v], "Filter.%zu.Value.%zu", i + 1, v + 1);
	}
	ec2_call_field(request, "NextToken", next);
}

/* Requests one page and tells its items; leaves where to go on in `next`, empty at the end. */
static int describe_page(struct ec2 *client, const struct ec2_describing *what,
	const struct ec2_query *query, struct buf *next, struct http_error *error)
{
	CLEANUP(ec2_request_free) struct ec2_request request = { 0 };
	ec2_call_begin_action(client, &request, what->action, HTTP_READS);
	add_query(&request, what, query, next->len ? next->data : NULL);
	int r = http_call_perform(&request.call, error);
	if (r < 0)
		return r;
	const struct xml_node *node = xml_find(ec2_call_answer(&request), what->items);
	for (; node; node = xml_next(node)) {
		r = what->item(what->walk, node);
		if (r == -EBADMSG)
			return http_call_bad_answer(
				&request.call, error, "the list has an entry that cannot be read");
		if (r != 0)
			return r;
	}
	const char *more = xml_text(ec2_call_answer(&request), "nextToken");
	if (more && *more && next->len && strcmp(more, next->data) == 0)
		return http_call_bad_answer(&request.call, error, "the list does not move on");
	buf_clear(next);
	r = buf_append_text(next, more ? more : "");
	return r < 0 ? http_error_set(error, r, "out of memory") : 0;
}

int ec2_describe(struct ec2 *client, const struct ec2_describing *what,
	const struct ec2_query *query, struct http_error *error)
{
	static const struct ec2_query everything = { 0 };
	CLEANUP(buf_free) struct buf next = { 0 };
	int r;
	do
		r = describe_page(client, what, query ? query : &everything, &next, error);
	while (r == 0 && next.len > 0);
	return r;
}
