/*
 * The marks of one disk: a byte a block, in memory that somebody else may be marking in at the
 * same time (a BPF program, a thread). The layout is that of capture_format.h.
 *
 *	0          clean
 *	1          written
 *	2..125     taken in a pass (2 + pass % 124) and not settled, unsure
 *	126..249   taken in a pass (126 + pass % 124) and not settled, sure
 *	250        landed: written; no write to it is under way any more
 *	251        settled, unsure
 *
 * Unsure: the write may still have been under way when the block was read, so that the read saw
 * what was there before. The mark at the write's completion makes up for that; where it is missing,
 * the block has to be read once more. marks_prove says that no completion was missing, marks_recall
 * that one may have been.
 *
 * Bytes of the higher levels are 0 or 1 only: taking spreads them over level 0 first. Whoever
 * marks stores 1, blindly; all others exchange, so no mark is lost. A block that is written after
 * it was taken is 1 again, and settling leaves it so.
 *
 * Threads: marks_set and marks_set_bytes at any time; the others one at a time for a map.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "replicator/agent/tracker.h"

#define MARKS_BLOCK_BYTES_MIN 4096u
#define MARKS_BLOCK_BYTES_MAX (64u << 20)

struct marks {
	uint8_t *map; /* borrowed */
	uint64_t disk_bytes;
	unsigned shift;     /* of a block, in bytes */
	uint64_t blocks;    /* level 0 */
	uint64_t level1;    /* where level 1 begins in the map */
	uint64_t level2;    /* and level 2 */
	uint64_t map_bytes; /* whole pages */
};

/* Computes the layout for a disk of `bytes` in blocks of 1 << `shift`; `map` is NULL. */
void marks_plan(uint64_t bytes, unsigned shift, struct marks *ret_marks);

/* The smallest shift (12 or more) with which the map of `bytes` takes at most `memory_bytes`. */
unsigned marks_shift_for(uint64_t bytes, uint64_t memory_bytes);

/* Marks a range of bytes; what is past the end of the disk is cut off. */
void marks_set(const struct marks *marks, uint64_t offset, uint64_t length);

/* See tracker_take, tracker_settle, tracker_dirty_bytes and tracker_is_dirty. */
void marks_take(const struct marks *marks, uint64_t pass, uint64_t offset, size_t capacity,
	struct tracker_range *ret_ranges, size_t *ret_count, uint64_t *ret_next);
void marks_settle(const struct marks *marks, uint64_t pass, uint64_t offset, uint64_t length);
uint64_t marks_dirty_bytes(const struct marks *marks);
bool marks_is_dirty(const struct marks *marks, uint64_t offset, uint64_t length);

/* What was taken and not settled is written again. */
void marks_untake(const struct marks *marks);

/* Both to be called when no write is under way; what is written has landed. Prove: all that was
 * read so far was read right. Recall: what is unsure is to be taken again; returns how many bytes
 * that are. */
void marks_prove(const struct marks *marks);
uint64_t marks_recall(const struct marks *marks);

/* A write had begun after all: what has landed counts as written, no more. */
void marks_unland(const struct marks *marks);

/* True if a block of the range is unsure, settled or not. */
bool marks_is_unsure(const struct marks *marks, uint64_t offset, uint64_t length);

/* Marks in `to` whatever is not clean in `from`; both are maps of the same disk. */
void marks_merge(const struct marks *from, const struct marks *to);
