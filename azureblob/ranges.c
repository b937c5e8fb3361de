/*
 * Two loops: windows over the blob, and in each the pages of an answer by marker. A fragmented
 * blob can make the service time out (500 OperationTimedOut); then the window shrinks, down to
 * the 148 MiB that Microsoft's own scripts walk by.
 *
 * What the answer claims is not believed: ranges must be whole sectors, in order, and apart.
 * Ranges and cleared ranges come in two kinds of elements, so each page is sorted first.
 */
#include "azureblob/ranges.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/blobs.h"
#include "azureblob/call.h"
#include "common/bytes.h"
#include "common/cleanup.h"

#define PAGE_DEFAULT 10000u
#define WINDOW_MIN (148 * MIB)
#define RANGES_BODY_LIMIT (8 * MIB)
#define ATTEMPTS_AT_LARGE_WINDOWS 3u

struct walk {
	struct azureblob *client;
	const char *blob;
	const struct azureblob_ranges_options *options;
	int (*each)(void *context, const struct azureblob_range *range);
	void *context;
	struct http_error *error;
	uint64_t told_end; /* nothing before it will be told any more */
	bool told_any;
	bool stopped; /* by `each` */
};

struct page {
	struct azureblob_range *items; /* owned */
	size_t count;
};

static void page_free(struct page *page)
{
	free(page->items);
}

static int compare(const void *a, const void *b)
{
	const struct azureblob_range *x = a;
	const struct azureblob_range *y = b;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int read_page(const struct xml_node *root, struct page *page)
{
	size_t count = 0;
	for (const struct xml_node *n = root->children; n; n = n->next)
		count++;
	page->items = calloc(MAX(count, (size_t)1), sizeof(*page->items));
	if (!page->items)
		return -ENOMEM;
	for (const struct xml_node *n = root->children; n; n = n->next) {
		uint64_t first, last;
		bool cleared = strcmp(n->name, "ClearRange") == 0;
		if (!cleared && strcmp(n->name, "PageRange") != 0)
			continue;
		if (xml_u64(n, "Start", &first) < 0 || xml_u64(n, "End", &last) < 0 ||
			last < first || last >= 8 * TIB || !is_aligned(first, SECTOR_BYTES) ||
			!is_aligned(last + 1, SECTOR_BYTES))
			return -EBADMSG;
		page->items[page->count++] = (struct azureblob_range){
			.offset = first, .length = last + 1 - first, .cleared = cleared
		};
	}
	qsort(page->items, page->count, sizeof(*page->items), compare);
	return 0;
}

/* Tells the ranges of a page as far as they lie in [offset, end). */
static int tell_page(struct walk *w, const struct page *page, uint64_t offset, uint64_t end)
{
	uint64_t before = 0;
	for (size_t i = 0; i < page->count; i++) {
		struct azureblob_range range = page->items[i];
		uint64_t range_end = range.offset + range.length;
		if (i > 0 && range.offset < before)
			return -EBADMSG;
		before = range_end;
		range.offset = MAX(range.offset, offset);
		range_end = MIN(range_end, end);
		if (range.offset >= range_end)
			continue;
		if (w->told_any && range.offset < w->told_end)
			return -EBADMSG;
		range.length = range_end - range.offset;
		w->told_end = range_end;
		w->told_any = true;
		int r = w->each(w->context, &range);
		if (r != 0) {
			w->stopped = true;
			return r;
		}
	}
	return 0;
}

static int walk_page(struct walk *w, uint64_t offset, uint64_t end, struct buf *marker)
{
	CLEANUP(azureblob_request_free) struct azureblob_request request = { 0 };
	CLEANUP(xml_freep) struct xml *xml = NULL;
	CLEANUP(page_free) struct page page = { 0 };
	char most[16];
	snprintf(most, sizeof(most), "%u", w->options->page ? w->options->page : PAGE_DEFAULT);
	azureblob_call_begin(w->client, &request, "GET", w->blob, HTTP_READS);
	http_call_query(&request.call, "comp", "pagelist");
	http_call_query(&request.call, "snapshot", w->options->snapshot);
	http_call_query(&request.call, "prevsnapshot", w->options->previous);
	http_call_query(&request.call, "maxresults", most);
	http_call_query(&request.call, "marker", marker->len ? marker->data : NULL);
	http_call_headerf(
		&request.call, "x-ms-range", "bytes=%" PRIu64 "-%" PRIu64, offset, end - 1);
	request.call.http.body_limit = RANGES_BODY_LIMIT;
	if (end - offset > WINDOW_MIN)
		http_call_limit_attempts(&request.call, ATTEMPTS_AT_LARGE_WINDOWS);
	int r = http_call_perform(&request.call, w->error);
	if (r == 0)
		r = azureblob_call_answer_xml(&request, &xml, w->error);
	if (r < 0)
		return r;
	r = read_page(xml_root(xml), &page);
	if (r == 0)
		r = tell_page(w, &page, offset, end);
	if (r < 0 && !w->stopped)
		return http_call_bad_answer(
			&request.call, w->error, "the page ranges are not usable");
	if (r != 0)
		return r;
	const char *next = xml_text(xml_root(xml), "NextMarker");
	if (next && next[0] && marker->len && strcmp(next, marker->data) == 0)
		return http_call_bad_answer(
			&request.call, w->error, "the page ranges do not move on");
	buf_clear(marker);
	r = buf_append_text(marker, next ? next : "");
	return r < 0 ? http_error_set(w->error, r, "out of memory") : 0;
}

static int walk_window(struct walk *w, uint64_t offset, uint64_t end)
{
	CLEANUP(buf_free) struct buf marker = { 0 };
	int r;
	do
		r = walk_page(w, offset, end, &marker);
	while (r == 0 && marker.len > 0);
	return r;
}

int azureblob_list_ranges(struct azureblob *client, const char *blob,
	const struct azureblob_ranges_options *options,
	int (*each)(void *context, const struct azureblob_range *range), void *context,
	struct http_error *error)
{
	struct http_error e = { 0 };
	struct walk w = { .client = client,
		.blob = blob,
		.options = options,
		.each = each,
		.context = context,
		.error = &e };
	uint64_t offset = options->offset;
	uint64_t end = options->offset + options->length;
	int r = 0;
	if (!is_aligned(offset, SECTOR_BYTES) || !is_aligned(end, SECTOR_BYTES) || end < offset)
		return http_error_set(error, -EINVAL, "the window is not whole sectors");
	if (options->length == 0) {
		struct azureblob_properties p;
		r = azureblob_get_properties(client, blob, options->snapshot, error, &p);
		if (r < 0)
			return r;
		end = p.size_bytes;
		azureblob_properties_free(&p);
	}
	uint64_t window = end - MIN(offset, end);
	while (offset < end) {
		uint64_t window_end = offset + MIN(window, end - offset);
		/* Begin behind what a window that failed half-way has told. */
		if (w.told_any && w.told_end > offset)
			offset = MIN(w.told_end, window_end);
		r = offset < window_end ? walk_window(&w, offset, window_end) : 0;
		bool too_much = r == -ETIMEDOUT && !w.stopped && window > WINDOW_MIN;
		if (too_much)
			window = MAX(round_down(window / 16, SECTOR_BYTES), WINDOW_MIN);
		else if (r != 0)
			break;
		else
			offset = window_end;
	}
	if (r != 0 && !w.stopped && error)
		*error = e;
	return r;
}
