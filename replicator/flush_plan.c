/*
 * See flush_plan.h. Two steps: extents become runs of dirty pages (next_run), runs become pieces.
 *
 * Invariants: runs rise and never overlap; a page is in a zero run only if one zero extent covers
 * all of it.
 */
#include "replicator/flush_plan.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

void flush_plan_init(
	struct flush_plan *plan, const struct flush_changes *changes, uint32_t gap_bytes)
{
	*plan = (struct flush_plan){ .changes = *changes,
		.gap_pages = gap_bytes / HASHES_PAGE_BYTES };
}

/* A first run of the extent at hand, from next_page on; false if it is used up. */
static bool cut_run(struct flush_plan *plan, struct flush_run *ret_run)
{
	const struct extent *e = &plan->extent;
	uint64_t end_lba = e->lba + e->sectors;
	uint32_t first = (uint32_t)MAX(e->lba / FLUSH_PAGE_SECTORS, plan->next_page);
	uint32_t end = (uint32_t)((end_lba + FLUSH_PAGE_SECTORS - 1) / FLUSH_PAGE_SECTORS);
	uint32_t whole = (uint32_t)((e->lba + FLUSH_PAGE_SECTORS - 1) / FLUSH_PAGE_SECTORS);
	uint32_t whole_end = (uint32_t)(end_lba / FLUSH_PAGE_SECTORS);
	if (first >= end)
		return false;
	*ret_run = (struct flush_run){ .first = first, .end = end };
	if (e->zero && first < whole) {
		ret_run->end = first + 1; /* zeros in part of a page: data */
	} else if (e->zero && first < whole_end) {
		ret_run->end = whole_end;
		ret_run->zero = true;
	}
	plan->next_page = ret_run->end;
	return true;
}

static int next_run(struct flush_plan *plan, struct flush_run *ret_run)
{
	for (;;) {
		if (plan->have_extent && cut_run(plan, ret_run))
			return 0;
		plan->have_extent = false;
		int r = plan->changes.next(plan->changes.context, plan->lba, &plan->extent);
		if (r < 0)
			return r;
		plan->lba = plan->extent.lba + plan->extent.sectors;
		plan->have_extent = true;
	}
}

static int fill_run(struct flush_plan *plan)
{
	if (plan->have_run)
		return 0;
	int r = next_run(plan, &plan->run);
	plan->have_run = r == 0;
	return r;
}

static bool is_long_zero(const struct flush_run *run)
{
	return run->zero && run->end - run->first >= FLUSH_ZERO_PAGES;
}

/* Zero runs that continue each other become one piece. */
static int take_zeros(struct flush_plan *plan, struct flush_piece *piece)
{
	int r = 0;
	*piece = (struct flush_piece){ .first = plan->run.first, .zero = true };
	while (r == 0 && plan->run.zero && plan->run.first == piece->first + piece->count) {
		piece->count += plan->run.end - plan->run.first;
		plan->have_run = false;
		r = fill_run(plan);
	}
	return r == -ENOENT ? 0 : r;
}

static bool is_reachable(const struct flush_plan *plan, const struct flush_piece *piece)
{
	uint32_t end = piece->first + piece->count, gap = plan->run.first - end;
	if (is_long_zero(&plan->run))
		return false;
	if (piece->count + gap >= FLUSH_PIECE_PAGES)
		return false;
	if (gap == 0)
		return true;
	return gap <= plan->gap_pages &&
	       plan->changes.is_local(plan->changes.context, (uint64_t)end * FLUSH_PAGE_SECTORS,
		       (uint64_t)gap * FLUSH_PAGE_SECTORS);
}

int flush_plan_next(struct flush_plan *plan, struct flush_piece *piece)
{
	bool all_zero = true;
	int r = fill_run(plan);
	if (r < 0)
		return r;
	if (is_long_zero(&plan->run))
		return take_zeros(plan, piece);
	memset(piece, 0, sizeof(*piece));
	piece->first = plan->run.first;
	do {
		uint32_t at = plan->run.first - piece->first;
		uint32_t n = MIN(plan->run.end - plan->run.first, FLUSH_PIECE_PAGES - at);
		for (uint32_t i = at; i < at + n; i++)
			piece->dirty[i / 64] |= 1ull << i % 64;
		piece->count = at + n;
		all_zero = all_zero && plan->run.zero;
		plan->run.first += n;
		if (plan->run.first < plan->run.end)
			return 0;
		plan->have_run = false;
		r = fill_run(plan);
	} while (r == 0 && is_reachable(plan, piece));
	for (uint32_t i = 0; all_zero && i < piece->count; i++)
		all_zero = flush_piece_is_dirty(piece, i);
	piece->zero = all_zero;
	return r == -ENOENT ? 0 : r;
}
