/*
 * The content of a snapshot, or all that changed in it since another, from an index on and in
 * rising order.
 *
 * Listing and fetching run at once: while a window of blocks is under way, the next page is asked
 * for. Blocks are handed over in order, so that one number, the index up to which everything was
 * handed over, says where to go on after an end of whatever kind. Memory is bounded by the window
 * (512 KiB a block) and two pages, whatever the volume's size.
 *
 * Tokens that have grown stale are dealt with here: the listing begins again at the first block
 * that lacks one, and what is under way is kept.
 */
#pragma once

#include "ec2/blocks.h"

/* Whom the blocks are for. Each returns 0, or what ends the fetch and is returned by it. */
struct ec2_fetch_ops {
	/* EC2_BLOCK_BYTES bytes, valid until it returns; not all zero. */
	int (*data)(void *context, uint64_t offset, const void *data, size_t n);
	/* Reads as zeros: blocks of zeros, blocks that are gone, and without a base whatever the
	 * snapshot does not have. Whole blocks. */
	int (*zero)(void *context, uint64_t offset, uint64_t n);
	/* Everything below `index` was handed over; from time to time, and at the end. NULL: not
	 * wanted. */
	int (*reached)(void *context, uint32_t index);
};

struct ec2_fetch_options {
	const char *snapshot; /* completed */
	const char *base;     /* NULL: all of it; else what changed since */
	uint64_t volume_bytes;
	uint32_t from_index;
	unsigned window;      /* blocks under way at once; 0: 48 */
	unsigned page_blocks; /* as struct ec2_listing */
};

struct ec2_fetch_stats {
	uint64_t blocks;      /* fetched */
	uint64_t zero_blocks; /* of those, nothing but zeros */
	uint64_t gone_blocks; /* never fetched: gone in the snapshot */
	uint64_t pages;
	uint64_t relistings;
};

/* Fetches. `client` has nothing else under way meanwhile. `ret_stats` (may be NULL) is filled on
 * failure too. 0; what an operation of `ops` returned; -EXDEV, -ENOENT, -EBADMSG, … as error.h,
 * told in `error` (may be NULL), which is empty if `ops` ended it. Blocks. */
int ec2_fetch(struct ec2 *client, const struct ec2_fetch_options *options,
	const struct ec2_fetch_ops *ops, void *context, struct ec2_fetch_stats *ret_stats,
	struct http_error *error);
