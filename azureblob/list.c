/*
 * List Blobs: pages of XML until there is no NextMarker.
 */
#include "azureblob/blobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/call.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/url.h"
#include "common/utc.h"

#define PAGE_DEFAULT 5000u
#define LIST_BODY_LIMIT (32 * MIB)

struct listing {
	const struct azureblob_list_options *options;
	int (*each)(void *context, const struct azureblob_item *item);
	void *context;
	struct buf name; /* unescaped, of the present item */
	char etag[AZUREBLOB_ETAG_BYTES];
	struct http_headers metadata;
};

static void listing_free(struct listing *l)
{
	buf_free(&l->name);
	http_headers_free(&l->metadata);
}

/* Names that XML cannot hold come percent-encoded and say so. */
static int read_name(struct listing *l, const struct xml_node *node)
{
	const struct xml_node *name = xml_find(node, "Name");
	if (!name || name->text[0] == '\0')
		return -EBADMSG;
	const char *encoded = xml_attribute(name, "Encoded");
	buf_clear(&l->name);
	if (encoded && strcmp(encoded, "true") == 0)
		return url_unescape(&l->name, name->text, strlen(name->text));
	return buf_append_text(&l->name, name->text);
}

/* As headers spell it, which conditions compare with; false if it is none. The service leaves the
 * quotes away in lists. */
static bool quote_etag(const char *text, char ret_etag[static AZUREBLOB_ETAG_BYTES])
{
	const char *quote = strchr(text, '"') ? "" : "\"";
	if (!text[0])
		return false;
	int n = snprintf(ret_etag, AZUREBLOB_ETAG_BYTES, "%s%s%s", quote, text, quote);
	return n < AZUREBLOB_ETAG_BYTES;
}

static int read_item(struct listing *l, const struct xml_node *node, struct azureblob_item *item)
{
	uint64_t sequence = 0;
	int r = read_name(l, node);
	if (r < 0)
		return r;
	*item = (struct azureblob_item){
		.name = l->name.data, .metadata = &l->metadata, .etag = ""
	};
	http_headers_clear(&l->metadata);
	if (strcmp(node->name, "BlobPrefix") == 0) {
		item->is_prefix = true;
		return 0;
	}
	const struct xml_node *properties = xml_find(node, "Properties");
	item->snapshot = xml_text(node, "Snapshot");
	if (item->snapshot && item->snapshot[0] == '\0')
		item->snapshot = NULL;
	if (xml_u64(properties, "Content-Length", &item->size_bytes) < 0)
		return -EBADMSG;
	if (xml_u64(properties, "x-ms-blob-sequence-number", &sequence) == 0 &&
		sequence <= INT64_MAX)
		item->sequence = (int64_t)sequence;
	const char *type = xml_text(properties, "BlobType");
	const char *lease = xml_text(properties, "LeaseState");
	const char *etag = xml_text(properties, "Etag");
	const char *modified = xml_text(properties, "Last-Modified");
	item->is_page_blob = type && strcmp(type, "PageBlob") == 0;
	item->leased = lease && (strcmp(lease, "leased") == 0 || strcmp(lease, "breaking") == 0);
	if (etag && quote_etag(etag, l->etag))
		item->etag = l->etag;
	if (modified && utc_parse(modified, &item->modified_ns) < 0)
		item->modified_ns = 0;
	const struct xml_node *metadata = xml_find(node, "Metadata");
	for (const struct xml_node *m = metadata ? metadata->children : NULL; m; m = m->next) {
		r = http_headers_add(&l->metadata, m->name, m->text);
		if (r < 0)
			return r == -ENOMEM ? r : -EBADMSG;
	}
	return 0;
}

/* Requests one page and tells its items; leaves where to go on in `marker`, empty at the end. */
static int list_page(
	struct azureblob *client, struct listing *l, struct buf *marker, struct http_error *error)
{
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	CLEANUP(xml_freep) struct xml *xml = NULL;
	const struct azureblob_list_options *o = l->options;
	char page[16];
	snprintf(page, sizeof(page), "%u", o->page ? o->page : PAGE_DEFAULT);
	azureblob_call_begin(client, &request, "GET", NULL, HTTP_READS);
	http_call_query(&request.call, "comp", "list");
	http_call_query(&request.call, "prefix", o->prefix);
	http_call_query(&request.call, "delimiter", o->delimiter);
	http_call_query(&request.call, "maxresults", page);
	http_call_query(&request.call, "include",
		o->snapshots ? (o->metadata ? "snapshots,metadata" : "snapshots")
			     : (o->metadata ? "metadata" : NULL));
	http_call_query(&request.call, "marker", marker->len ? marker->data : NULL);
	request.call.http.body_limit = LIST_BODY_LIMIT;
	int r = http_call_perform(&request.call, error);
	if (r == 0)
		r = azureblob_call_answer_xml(&request, &xml, error);
	if (r < 0)
		return r;
	const struct xml_node *blobs = xml_find(xml_root(xml), "Blobs");
	if (!blobs)
		return http_call_bad_answer(
			&request.call, error, "the answer is not a list of blobs");
	for (const struct xml_node *node = blobs->children; node; node = node->next) {
		struct azureblob_item item;
		r = read_item(l, node, &item);
		if (r < 0)
			return http_call_bad_answer(
				&request.call, error, "the list of blobs has an unusable entry");
		r = l->each(l->context, &item);
		if (r != 0)
			return r;
	}
	const char *next = xml_text(xml_root(xml), "NextMarker");
	if (next && next[0] && marker->len && strcmp(next, marker->data) == 0)
		return http_call_bad_answer(
			&request.call, error, "the list of blobs does not move on");
	buf_clear(marker);
	r = buf_append_text(marker, next ? next : "");
	return r < 0 ? http_error_set(error, r, "out of memory") : 0;
}

int azureblob_list(struct azureblob *client, const struct azureblob_list_options *options,
	int (*each)(void *context, const struct azureblob_item *item), void *context,
	struct http_error *error)
{
	CLEANUP(listing_free)
	struct listing l = { .options = options, .each = each, .context = context };
	CLEANUP(buf_free) struct buf marker = { 0 };
	int r;
	do
		r = list_page(client, &l, &marker, error);
	while (r == 0 && marker.len > 0);
	return r;
}
