/*
 * Writing hashes: ranges are gathered into a block until it is full, blocks into a part until it
 * is full, parts go to the sink. One range is open at a time, so that neighbours join.
 *
 * Invariants: hashes[0 … hash_count) belong to the closed ranges and the open one, in order;
 * every page before (disk, next_page) has been added or passed over.
 */
#include "replicator/hashes.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"

#define RANGE_MAX_BYTES 10u /* two LEB128 numbers of at most 5 bytes */

struct hashes_writer {
	struct hashes_sink sink;
	struct buf part;
	void (*told)(void *context, uint16_t disk, uint32_t count, bool zero);
	void *told_context;
	unsigned parts;
	uint64_t bytes, digest;
	uint32_t blocks;
	/* the block being gathered */
	uint16_t disk;
	uint32_t first_page, end_page; /* of the closed ranges */
	uint32_t ranges_bytes, hash_count;
	/* the open range */
	uint32_t open_page, open_count;
	bool open_zero;
	uint8_t ranges[HASHES_BLOCK_RANGES_BYTES];
	uint64_t hashes[HASHES_BLOCK_HASHES];
};

uint64_t hashes_of_page(const void *page)
{
	return checksum64(page, HASHES_PAGE_BYTES);
}

uint64_t hashes_of_zeros(void)
{
	static const uint8_t zeros[HASHES_PAGE_BYTES];
	return checksum64(zeros, sizeof(zeros));
}

static int put(struct hashes_writer *w, const void *data, size_t n)
{
	if (w->part.len + n > HASHES_PART_BYTES) {
		int r = w->sink.part(w->sink.context, w->parts, w->part.data, w->part.len);
		if (r < 0)
			return r;
		w->parts++;
		buf_clear(&w->part);
	}
	w->bytes += n;
	return buf_append(&w->part, data, n);
}

int hashes_writer_new(const struct uuid *group, uint64_t from, uint64_t number,
	const struct hashes_sink *sink, struct hashes_writer **ret_writer)
{
	struct hashes_writer *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->sink = *sink;
	struct hashes_header header = {
		.magic = htole64(HASHES_MAGIC),
		.version = htole32(HASHES_VERSION),
		.header_bytes = htole32(sizeof(header)),
		.from = htole64(from),
		.number = htole64(number),
	};
	memcpy(header.group, group->bytes, sizeof(header.group));
	w->digest = checksum64(&header, offsetof(struct hashes_header, checksum));
	header.checksum = htole64(w->digest);
	int r = put(w, &header, sizeof(header));
	if (r < 0) {
		hashes_writer_free(w);
		return r;
	}
	*ret_writer = w;
	return 0;
}

void hashes_writer_free(struct hashes_writer *w)
{
	if (!w)
		return;
	buf_free(&w->part);
	free(w);
}

static uint32_t put_leb128(uint8_t *at, uint64_t value)
{
	uint32_t n = 0;
	for (; value > 0x7f; value >>= 7)
		at[n++] = (uint8_t)(value | 0x80);
	at[n++] = (uint8_t)value;
	return n;
}

static void end_range(struct hashes_writer *w)
{
	if (w->open_count == 0)
		return;
	uint64_t gap = w->open_page - w->end_page;
	bool alone = w->open_count == 1;
	w->ranges_bytes += put_leb128(w->ranges + w->ranges_bytes,
		gap << 2 | (w->open_zero ? 2u : 0u) | (alone ? 1u : 0u));
	if (!alone)
		w->ranges_bytes += put_leb128(w->ranges + w->ranges_bytes, w->open_count - 2u);
	w->end_page = w->open_page + w->open_count;
	w->open_count = 0;
}

static int put_block(struct hashes_writer *w, uint16_t disk)
{
	uint8_t bytes[HASHES_BLOCK_MAX_BYTES];
	struct hashes_block head = {
		.magic = htole32(HASHES_BLOCK_MAGIC),
		.disk = htole16(disk),
		.index = htole32(w->blocks),
		.first_page = htole32(w->first_page),
		.end_page = htole32(w->end_page),
		.ranges_bytes = htole32(w->ranges_bytes),
		.hash_count = htole32(w->hash_count),
	};
	size_t at = sizeof(head), padded = round_up(w->ranges_bytes, 8);
	memcpy(bytes + at, w->ranges, w->ranges_bytes);
	memset(bytes + at + w->ranges_bytes, 0, padded - w->ranges_bytes);
	at += padded;
	for (uint32_t i = 0; i < w->hash_count; i++, at += 8) {
		uint64_t hash = htole64(w->hashes[i]);
		memcpy(bytes + at, &hash, sizeof(hash));
	}
	memcpy(bytes, &head, sizeof(head));
	uint64_t checksum = checksum64(bytes, at);
	head.checksum = htole64(checksum);
	memcpy(bytes, &head, sizeof(head));
	if (disk != 0) {
		uint64_t chain[2] = { htole64(w->digest), htole64(checksum) };
		w->digest = checksum64(chain, sizeof(chain));
	}
	w->blocks++;
	return put(w, bytes, at);
}

void hashes_writer_tell(struct hashes_writer *w,
	void (*told)(void *context, uint16_t disk, uint32_t count, bool zero), void *context)
{
	w->told = told;
	w->told_context = context;
}

static int close_block(struct hashes_writer *w)
{
	end_range(w);
	if (w->ranges_bytes == 0)
		return 0;
	int r = put_block(w, w->disk);
	w->ranges_bytes = 0;
	w->hash_count = 0;
	return r;
}

/* Adds as many of the pages as the block takes. */
static uint32_t add_some(
	struct hashes_writer *w, uint32_t first, uint32_t count, const uint64_t *hashes)
{
	if (hashes) {
		count = MIN(count, HASHES_BLOCK_HASHES - w->hash_count);
		memcpy(w->hashes + w->hash_count, hashes, (size_t)count * 8);
		w->hash_count += count;
	}
	if (w->open_count > 0 && w->open_zero == !hashes && w->open_page + w->open_count == first) {
		w->open_count += count;
		return count;
	}
	end_range(w);
	if (w->ranges_bytes == 0)
		w->first_page = w->end_page = first;
	w->open_page = first;
	w->open_count = count;
	w->open_zero = !hashes;
	return count;
}

int hashes_writer_add(struct hashes_writer *w, uint16_t disk, uint32_t first, uint32_t count,
	const uint64_t *hashes)
{
	uint32_t next = w->open_count > 0 ? w->open_page + w->open_count : w->end_page;
	if (disk == 0 || disk < w->disk || (disk == w->disk && first < next) ||
		first + count < first)
		return -EINVAL;
	if (w->told)
		w->told(w->told_context, disk, count, !hashes);
	if (disk != w->disk) {
		int r = close_block(w);
		if (r < 0)
			return r;
		w->disk = disk;
		w->end_page = 0;
	}
	while (count > 0) {
		/* Room for the range that is open and the one that may be opened. */
		if (w->ranges_bytes + 2 * RANGE_MAX_BYTES > HASHES_BLOCK_RANGES_BYTES ||
			(hashes && w->hash_count == HASHES_BLOCK_HASHES)) {
			int r = close_block(w);
			if (r < 0)
				return r;
		}
		uint32_t n = add_some(w, first, count, hashes);
		first += n;
		count -= n;
		hashes = hashes ? hashes + n : NULL;
	}
	return 0;
}

int hashes_writer_finish(struct hashes_writer *w, struct hashes_written *ret_written)
{
	int r = close_block(w);
	if (r < 0)
		return r;
	w->first_page = w->end_page = 0;
	w->hashes[0] = w->digest;
	w->hash_count = 1;
	r = put_block(w, 0);
	if (r < 0)
		return r;
	r = w->sink.part(w->sink.context, w->parts, w->part.data, w->part.len);
	if (r < 0)
		return r;
	w->parts++;
	buf_clear(&w->part);
	*ret_written = (struct hashes_written){
		.bytes = w->bytes, .digest = w->digest, .parts = w->parts
	};
	return 0;
}
