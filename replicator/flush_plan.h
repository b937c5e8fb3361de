/*
 * What a flush has to send of one disk, cut into pieces.
 *
 * Extents are in sectors, in any number; pieces are in pages of 4 KiB, since that is what the
 * hashes prove: a page that was written in part is sent whole. Neighbours are joined into a
 * piece of at most 4 MiB, across gaps of unchanged pages if they are small and known locally
 * (such pages are in the piece but not *dirty*). Long runs of zeros become pieces of their own
 * that carry no data.
 *
 * Pure but for the two functions it is given. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fs/extent_map.h"
#include "replicator/blob.h"
#include "replicator/hashes_format.h"

#define FLUSH_PIECE_PAGES (BLOB_MAX_PUT_BYTES / HASHES_PAGE_BYTES)
#define FLUSH_PAGE_SECTORS (HASHES_PAGE_BYTES / 512u)
/* From here on a run of zeros is worth a request of its own. */
#define FLUSH_ZERO_PAGES 16u

struct flush_changes {
	/* As view_next_change. */
	int (*next)(void *context, uint64_t lba, struct extent *ret_extent);
	/* As view_is_local. */
	bool (*is_local)(void *context, uint64_t lba, uint64_t sectors);
	void *context;
};

struct flush_run {
	uint32_t first, end; /* pages */
	bool zero;
};

struct flush_plan {
	struct flush_changes changes;
	uint32_t gap_pages;
	uint64_t lba;         /* where to look for the next extent */
	struct extent extent; /* being cut into runs */
	bool have_extent, have_run;
	uint32_t next_page;   /* pages below have been given out */
	struct flush_run run; /* given out in part, or not yet */
};

struct flush_piece {
	uint32_t first, count;                  /* pages; data: at most FLUSH_PIECE_PAGES */
	bool zero;                              /* all zeros, all dirty */
	uint64_t dirty[FLUSH_PIECE_PAGES / 64]; /* data only: bit i is page first + i */
};

void flush_plan_init(
	struct flush_plan *plan, const struct flush_changes *changes, uint32_t gap_bytes);
/* The next piece, rising. 0; -ENOENT: there is no more; or what the changes answered. */
int flush_plan_next(struct flush_plan *plan, struct flush_piece *ret_piece);

static inline bool flush_piece_is_dirty(const struct flush_piece *piece, uint32_t page)
{
	return piece->zero || (piece->dirty[page / 64] >> page % 64 & 1);
}
