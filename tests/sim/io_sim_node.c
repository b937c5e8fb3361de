/*
 * The content of simulated files: pages shared between what is seen and what is durable, and the
 * log of what lies between.
 *
 * Invariants: bytes beyond a content's size are zero in its pages; `seen` is `durable` with all
 * of the log applied, but for failed syncs, after which the two part for good.
 */
#include "tests/sim/io_sim_node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sim_alloc(uint64_t n)
{
	void *p = malloc(n ? n : 1);
	if (!p) {
		fprintf(stderr, "io_sim: out of memory\n");
		abort();
	}
	return p;
}

static void page_put(struct page *page)
{
	if (page && --page->refs == 0)
		free(page);
}

static struct page *page_get(struct page *page)
{
	if (page)
		page->refs++;
	return page;
}

static void content_grow(struct content *content, uint64_t count)
{
	if (count <= content->count)
		return;
	count = MAX(count, content->count * 2);
	struct page **pages = sim_alloc(count * sizeof(*pages));
	if (content->count)
		memcpy(pages, content->pages, content->count * sizeof(*pages));
	memset(pages + content->count, 0, (count - content->count) * sizeof(*pages));
	free(content->pages);
	content->pages = pages;
	content->count = count;
}

/* The page, for changing: alone ours, zeros if it was missing. */
static struct page *content_own(struct content *content, uint64_t index)
{
	content_grow(content, index + 1);
	struct page *old = content->pages[index];
	if (old && old->refs == 1)
		return old;
	struct page *page = sim_alloc(sizeof(*page));
	if (old)
		memcpy(page, old, sizeof(*page));
	else
		memset(page, 0, sizeof(*page));
	page->refs = 1;
	page_put(old);
	content->pages[index] = page;
	return page;
}

struct page *content_page(const struct content *content, uint64_t offset)
{
	uint64_t index = offset / PAGE_BYTES;
	return index < content->count ? content->pages[index] : NULL;
}

void content_free(struct content *content)
{
	for (uint64_t i = 0; i < content->count; i++)
		page_put(content->pages[i]);
	free(content->pages);
	memset(content, 0, sizeof(*content));
}

void content_copy(struct content *to, const struct content *from)
{
	content_grow(to, from->count);
	for (uint64_t i = 0; i < to->count; i++) {
		struct page *page = i < from->count ? from->pages[i] : NULL;
		if (to->pages[i] == page)
			continue;
		page_put(to->pages[i]);
		to->pages[i] = page_get(page);
	}
	to->bytes = from->bytes;
}

void content_write(
	struct content *content, uint64_t offset, const void *data, uint64_t n, uint64_t stamp)
{
	const unsigned char *p = data;
	while (n > 0) {
		uint64_t in_page = offset % PAGE_BYTES;
		uint64_t take = MIN(n, PAGE_BYTES - in_page);
		struct page *page = content_own(content, offset / PAGE_BYTES);
		for (uint64_t at = 0; at < take;) {
			uint64_t sector = (in_page + at) / SECTOR_BYTES;
			uint64_t n_here =
				MIN(take - at, (sector + 1) * SECTOR_BYTES - in_page - at);
			/* A sector is as old as its content. */
			if (!page->stamp[sector] ||
				memcmp(page->data + in_page + at, p + at, n_here))
				page->stamp[sector] = stamp;
			at += n_here;
		}
		memcpy(page->data + in_page, p, take);
		offset += take;
		p += take;
		n -= take;
	}
}

void content_read(const struct content *content, uint64_t offset, void *data, uint64_t n)
{
	unsigned char *p = data;
	while (n > 0) {
		uint64_t in_page = offset % PAGE_BYTES;
		uint64_t take = MIN(n, PAGE_BYTES - in_page);
		const struct page *page = content_page(content, offset);
		if (page)
			memcpy(p, page->data + in_page, take);
		else
			memset(p, 0, take);
		offset += take;
		p += take;
		n -= take;
	}
}

static void content_clear_after(struct content *content, uint64_t bytes)
{
	uint64_t first = (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
	for (uint64_t i = first; i < content->count; i++) {
		page_put(content->pages[i]);
		content->pages[i] = NULL;
	}
	if (bytes % PAGE_BYTES != 0 && content_page(content, bytes)) {
		struct page *page = content_own(content, bytes / PAGE_BYTES);
		memset(page->data + bytes % PAGE_BYTES, 0, PAGE_BYTES - bytes % PAGE_BYTES);
	}
}

void content_resize(struct content *content, uint64_t bytes)
{
	if (bytes < content->bytes)
		content_clear_after(content, bytes);
	content->bytes = bytes;
}

void node_log(struct node *node, enum change_kind kind, uint64_t sequence, uint64_t offset,
	const void *data, uint64_t n, uint64_t stamp)
{
	uint64_t held = kind == CHANGE_DATA ? n : 0;
	struct change *change = sim_alloc(sizeof(*change) + held);
	change->next = NULL;
	change->sequence = sequence;
	change->kind = kind;
	change->offset = offset;
	change->n = n;
	change->stamp = stamp;
	if (held)
		memcpy(change->data, data, held);
	*node->changes_end = change;
	node->changes_end = &change->next;
}

static void node_forget_log(struct node *node)
{
	while (node->changes) {
		struct change *change = node->changes;
		node->changes = change->next;
		free(change);
	}
	node->changes_end = &node->changes;
}

void node_sync(struct node *node)
{
	const struct change *last = NULL;
	for (const struct change *c = node->changes; c; c = c->next)
		if (c->kind == CHANGE_DATA && c->n > 0)
			last = c;
	if (last) {
		page_put(node->synced_before);
		node->synced_before = page_get(content_page(&node->durable, last->offset));
		node->synced_offset = last->offset;
		node->synced_n = last->n;
	}
	bool resized = false;
	for (const struct change *c = node->changes; c; c = c->next) {
		if (c->kind == CHANGE_RESIZE) {
			resized = true;
			continue;
		}
		for (uint64_t at = round_down(c->offset, PAGE_BYTES); at < c->offset + c->n;
			at += PAGE_BYTES) {
			uint64_t index = at / PAGE_BYTES;
			content_grow(&node->durable, index + 1);
			struct page *page = content_page(&node->seen, at);
			if (node->durable.pages[index] != page) {
				page_put(node->durable.pages[index]);
				node->durable.pages[index] = page_get(page);
			}
		}
	}
	node->durable.bytes = node->seen.bytes;
	if (resized)
		content_copy(&node->durable, &node->seen);
	node_forget_log(node);
}

int settlement_of(const struct settlement *s, uint64_t sequence)
{
	switch (s->keep) {
	case IO_SIM_KEEP_NONE:
		return 0;
	case IO_SIM_KEEP_ALL:
		return 1;
	case IO_SIM_KEEP_PREFIX:
		return sequence < s->cut ? 1 : sequence == s->cut ? 2 : 0;
	case IO_SIM_KEEP_SUFFIX:
		return sequence > s->cut ? 1 : sequence == s->cut ? 2 : 0;
	case IO_SIM_KEEP_TORN:
		return sequence == s->cut ? 2 : 1;
	default:
		return 2;
	}
}

static void settle_data(
	struct content *durable, const struct change *c, const struct settlement *s, int fate)
{
	/* A torn write keeps its first sectors, its last ones, or any of them. */
	unsigned style = (unsigned)rng_below(s->rng, 4);
	uint64_t end = c->offset + c->n;
	uint64_t first = c->offset / SECTOR_BYTES;
	uint64_t sectors = (end + SECTOR_BYTES - 1) / SECTOR_BYTES - first;
	uint64_t edge = rng_below(s->rng, sectors + 1);
	uint64_t percent = s->keep == IO_SIM_KEEP_SUBSET ? s->percent : 50;
	uint64_t reached = 0;
	for (uint64_t i = 0; i < sectors; i++) {
		bool kept = fate == 1 || (style == 0 && i < edge) || (style == 1 && i >= edge) ||
			    (style > 1 && rng_below(s->rng, 100) < percent);
		if (!kept)
			continue;
		uint64_t from = MAX(c->offset, (first + i) * SECTOR_BYTES);
		uint64_t to = MIN(end, (first + i + 1) * SECTOR_BYTES);
		content_write(durable, from, c->data + (from - c->offset), to - from, c->stamp);
		reached = to;
	}
	/* The size follows the data, but what was written last may have been forgotten in it. */
	uint64_t size = fate == 1 ? end : rng_below(s->rng, 2) ? end : reached;
	if (s->keep == IO_SIM_KEEP_SUBSET && rng_below(s->rng, 4) == 0)
		size = 0;
	durable->bytes = MAX(durable->bytes, size);
}

void node_settle(struct node *node, const struct settlement *s)
{
	for (const struct change *c = node->changes; c; c = c->next) {
		int fate = settlement_of(s, c->sequence);
		if (fate == 0)
			continue;
		if (c->kind == CHANGE_DATA)
			settle_data(&node->durable, c, s, fate);
		else if (fate == 1 || rng_below(s->rng, 2))
			content_resize(&node->durable, c->offset);
	}
	/* What was kept beyond the size that was kept cannot be seen again. */
	content_clear_after(&node->durable, node->durable.bytes);
	node_forget_log(node);
}

void node_free(struct node *node)
{
	node_forget_log(node);
	content_free(&node->seen);
	content_free(&node->durable);
	page_put(node->synced_before);
	free(node);
}
