/*
 * The map of an overlay: which sectors of one disk were written over, and how.
 *
 * Two bits a sector, in chunks of 1 MiB that exist once one of their sectors was touched; a chunk
 * that was zeroed whole costs nothing. Not thread-safe: the owner locks.
 */
#pragma once

#include <stdint.h>

enum overlay_state {
	OVERLAY_BELOW = 0,      /* untouched: what lies below shows */
	OVERLAY_DATA = 1,       /* in the overlay file, at the same offset */
	OVERLAY_ZERO = 2,       /* zeros */
	OVERLAY_ZERO_TAKEN = 3, /* zeros, but the overlay file still has room taken for it */
};

struct overlay;

/* Of a disk of that many sectors, all OVERLAY_BELOW. 0 or -ENOMEM. */
int overlay_new(uint64_t sectors, struct overlay **ret_overlay);
/* NULL is fine. */
void overlay_free(struct overlay *overlay);

/* The state at `lba` and for how many sectors from there, at most `sectors`, it is the same. */
enum overlay_state overlay_run(
	const struct overlay *overlay, uint64_t lba, uint64_t sectors, uint64_t *ret_run);

/* How many bytes, of the file and of memory for states, taking [lba, lba + sectors) as data, or as
 * zeros, costs. */
uint64_t overlay_data_cost(const struct overlay *overlay, uint64_t lba, uint64_t sectors);
uint64_t overlay_zero_cost(const struct overlay *overlay, uint64_t lba, uint64_t sectors);

/* -ENOMEM: a part of it may have been set. */
int overlay_set_data(struct overlay *overlay, uint64_t lba, uint64_t sectors);
int overlay_set_zero(struct overlay *overlay, uint64_t lba, uint64_t sectors);

/* Makes the chunks of [lba, lba + sectors), so that setting them cannot fail. 0 or -ENOMEM. */
int overlay_reserve(struct overlay *overlay, uint64_t lba, uint64_t sectors);
