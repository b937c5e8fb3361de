/*
 * `<number>.hashes`: the proof of what a recovery point changed. Little-endian. Version 1.
 *
 *	header │ block │ block │ … │ end block
 *
 * The header says what is covered: every 4 KiB block of every disk that was written after point
 * `from` up to point `number` (the disk's block, not this format's, is called a *page* here so
 * that the two words stay apart). Each block proves itself with its own XXH3-64 and holds ranges
 * of pages of one disk, rising; blocks rise by disk and page. A range is *data*, with the XXH3-64
 * of each page's full content at point `number`, or *zeros*, with none.
 *
 *	block: head │ ranges, padded with zeros to 8 │ hashes of all data ranges, in order
 *
 * A range is one or two LEB128 numbers: first = gap << 2 | zeros << 1 | alone, with `gap` the
 * pages between the end of the range before it (for the first: the block's first_page) and its
 * start; unless `alone` (one page) the second is its count − 2. So a lone page costs 8 + 2…4
 * bytes: at most 0.3 % of 4096.
 *
 * The end block (disk 0) holds one hash, the digest: digest₀ = the header's checksum, digestᵢ₊₁ =
 * XXH3-64 of (digestᵢ, checksum of block i). It ends the file.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

#define HASHES_MAGIC 0x534548534148464cull /* "LFHASHES" */
#define HASHES_VERSION 1
#define HASHES_PAGE_BYTES 4096u
#define HASHES_BLOCK_MAGIC 0x4b4c4248u /* "HBLK" */
#define HASHES_BLOCK_RANGES_BYTES 16384u
#define HASHES_BLOCK_HASHES 4096u

struct hashes_header {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes;
	uint8_t group[16];
	uint64_t from;
	uint64_t number;
	uint64_t reserved;
	uint64_t checksum; /* XXH3-64 of all before it */
};
static_assert(sizeof(struct hashes_header) == 64, "format");

struct hashes_block {
	uint32_t magic;
	uint16_t disk; /* 0: the end block */
	uint16_t reserved;
	uint32_t index; /* of the block, from 0 */
	uint32_t first_page, end_page;
	uint32_t ranges_bytes; /* padding not counted */
	uint32_t hash_count;
	uint32_t reserved2;
	uint64_t checksum; /* XXH3-64 of the block with this field zero */
};
static_assert(sizeof(struct hashes_block) == 40, "format");

#define HASHES_BLOCK_MAX_BYTES \
	(sizeof(struct hashes_block) + HASHES_BLOCK_RANGES_BYTES + HASHES_BLOCK_HASHES * 8u)
