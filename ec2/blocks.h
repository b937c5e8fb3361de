/*
 * The EBS direct APIs: which blocks a snapshot has, which differ between two snapshots of one
 * volume, and the blocks themselves (Amazon EBS direct APIs Reference, version 2019-11-02).
 *
 * Only completed snapshots can be read. A listing comes in pages, which may be short or empty with
 * more to come. Each block has a token, good for days and for this block of this snapshot only;
 * page tokens are good for an hour. Whichever is refused as stale (-ESTALE): list again from the
 * index one is at, and go on with the new tokens.
 */
#pragma once

#include "ec2/ec2.h"

#define EC2_BLOCK_BYTES 524288u

struct ec2_block {
	uint32_t index; /* offset / EC2_BLOCK_BYTES */
	bool gone;      /* was in the base and is not in the snapshot: reads as zeros now */
	size_t token_at;
};

/* One page of a listing. Zeroed is empty. */
struct ec2_block_page {
	struct ec2_block *items; /* owned; by rising index */
	size_t count;
	struct buf tokens;
	char *next; /* owned: what to ask for the next page with; NULL: this was the last */
};

static inline const char *ec2_block_token(
	const struct ec2_block_page *page, const struct ec2_block *block)
{
	return page->tokens.data + block->token_at;
}

void ec2_block_page_free(struct ec2_block_page *page);

/* Where a listing begins. Borrowed until the request was submitted. */
struct ec2_listing {
	const char *snapshot;
	const char *base;     /* NULL: all blocks; else those that changed since this snapshot */
	uint32_t from_index;  /* without `page` */
	const char *page;     /* the page before's `next`; NULL: from `from_index` */
	unsigned page_blocks; /* 100 to 10000; 0: 5000 */
};

/* ListSnapshotBlocks or ListChangedBlocks: submits `request`. 0, or -EINVAL or -ENOMEM without
 * having taken it. It ends with 0 and `*ret_page`, which is empty before and stays put until then,
 * filled; with -EXDEV if the two are unrelated, -ENOENT if one is gone, -ESTALE if the page's
 * token is too old, -EBADMSG if every attempt brought what is no listing. */
int ec2_list_blocks(struct ec2 *client, struct ec2_request *request,
	const struct ec2_listing *listing, struct ec2_block_page *ret_page);

/* GetSnapshotBlock: submits `request`; EC2_BLOCK_BYTES go to `data`, proved against their SHA-256.
 * `token` is copied. 0, -EINVAL or -ENOMEM. It ends with -ESTALE if the token is refused, and with
 * -EBADMSG if every attempt brought wrong bytes. */
int ec2_get_block(struct ec2 *client, struct ec2_request *request, const char *snapshot,
	uint32_t index, const char *token, void *data);
