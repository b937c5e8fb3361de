/*
 * Reading hashes: a window of the file is kept in memory, a block at a time is proven and then
 * decoded range by range.
 *
 * Nothing in a block is looked at before its checksum holds, and every number in it is still
 * checked against the block's limits: a reader must not fall over what a faulty writer wrote.
 */
#include "replicator/hashes.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"

#define WINDOW_BYTES (256u << 10)

struct hashes_reader {
	struct hashes_source source;
	struct hashes_header header; /* in the machine's byte order */
	/* the window: bytes [window_offset, window_offset + window_bytes) of the file */
	uint64_t window_offset;
	size_t window_bytes;
	uint8_t *window;
	/* where the next block begins */
	uint64_t offset;
	uint32_t index;
	uint64_t digest;
	bool digest_known, ended;
	/* the block being decoded */
	struct hashes_mark mark;
	struct hashes_block block; /* in the machine's byte order */
	uint32_t at, page;         /* next byte of ranges, end of the last range */
	uint32_t hash_at;
	uint16_t last_disk;
	uint32_t last_end;
	uint8_t ranges[HASHES_BLOCK_RANGES_BYTES];
	uint64_t hashes[HASHES_BLOCK_HASHES];
};

/* n bytes at the offset, borrowed from the window. -EBADMSG if the file ends before. */
static int peek(struct hashes_reader *r, uint64_t offset, size_t n, struct error *error,
	const uint8_t **ret_data)
{
	if (offset < r->window_offset || offset + n > r->window_offset + r->window_bytes) {
		size_t got = 0;
		int e = r->source.read(
			r->source.context, offset, r->window, WINDOW_BYTES, error, &got);
		if (e < 0)
			return e;
		r->window_offset = offset;
		r->window_bytes = got;
		if (got < n)
			return error_set(error, -EBADMSG, NULL, "%s ends after %llu bytes",
				r->source.name, (unsigned long long)offset + got);
	}
	*ret_data = r->window + (offset - r->window_offset);
	return 0;
}

static int read_header(struct hashes_reader *r, struct error *error)
{
	const uint8_t *data;
	struct hashes_header h;
	int e = peek(r, 0, sizeof(h), error, &data);
	if (e < 0)
		return e;
	memcpy(&h, data, sizeof(h));
	uint64_t checksum = checksum64(data, offsetof(struct hashes_header, checksum));
	if (le64toh(h.magic) != HASHES_MAGIC || le64toh(h.checksum) != checksum)
		return error_set(
			error, -EBADMSG, NULL, "%s: its header is damaged", r->source.name);
	h.version = le32toh(h.version);
	h.header_bytes = le32toh(h.header_bytes);
	h.from = le64toh(h.from);
	h.number = le64toh(h.number);
	if (h.version != HASHES_VERSION || h.header_bytes != sizeof(h))
		return error_set(error, -EPROTONOSUPPORT, "use the newer release that wrote it",
			"%s has version %u, this release knows %d", r->source.name, h.version,
			HASHES_VERSION);
	r->header = h;
	r->digest = checksum;
	r->digest_known = true;
	r->offset = sizeof(h);
	return 0;
}

int hashes_reader_new(
	const struct hashes_source *source, struct error *error, struct hashes_reader **ret_reader)
{
	struct hashes_reader *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->source = *source;
	r->window = malloc(WINDOW_BYTES);
	int e = r->window ? read_header(r, error) : -ENOMEM;
	if (e < 0) {
		hashes_reader_free(r);
		return e;
	}
	*ret_reader = r;
	return 0;
}

void hashes_reader_free(struct hashes_reader *r)
{
	if (!r)
		return;
	free(r->window);
	free(r);
}

void hashes_reader_coverage(const struct hashes_reader *r, struct uuid *ret_group,
	uint64_t *ret_from, uint64_t *ret_number)
{
	memcpy(ret_group->bytes, r->header.group, sizeof(ret_group->bytes));
	*ret_from = r->header.from;
	*ret_number = r->header.number;
}

static int damaged(struct hashes_reader *r, struct error *error)
{
	return error_set(error, -EBADMSG, NULL, "%s: block %u at byte %llu is damaged",
		r->source.name, r->index, (unsigned long long)r->offset);
}

static int end_block(struct hashes_reader *r, struct error *error)
{
	size_t got;
	if (r->block.ranges_bytes != 0 || r->block.hash_count != 1 ||
		(r->digest_known && r->hashes[0] != r->digest))
		return damaged(r, error);
	r->digest = r->hashes[0];
	/* With its last byte: a read wholly behind the end could not tell of what. */
	int e = r->source.read(r->source.context, r->offset - 1, r->window, 2, error, &got);
	if (e < 0)
		return e;
	r->window_bytes = 0;
	if (got != 1)
		return error_set(
			error, -EBADMSG, NULL, "%s does not end where it says", r->source.name);
	r->ended = true;
	r->mark = (struct hashes_mark){ .offset = r->offset,
		.index = r->index,
		.next_disk = UINT16_MAX,
		.next_page = UINT32_MAX };
	return -ENOENT;
}

/* Proves the next block and makes it the one being decoded. -ENOENT at the end. */
static int next_block(struct hashes_reader *r, struct error *error)
{
	const uint8_t *data;
	struct hashes_block b;
	int e = peek(r, r->offset, sizeof(b), error, &data);
	if (e < 0)
		return e;
	memcpy(&b, data, sizeof(b));
	uint32_t ranges_bytes = le32toh(b.ranges_bytes), hash_count = le32toh(b.hash_count);
	if (le32toh(b.magic) != HASHES_BLOCK_MAGIC || le32toh(b.index) != r->index ||
		ranges_bytes > HASHES_BLOCK_RANGES_BYTES || hash_count > HASHES_BLOCK_HASHES)
		return damaged(r, error);
	size_t padded = round_up(ranges_bytes, 8), n = sizeof(b) + padded + hash_count * 8;
	e = peek(r, r->offset, n, error, &data);
	if (e < 0)
		return e;
	uint8_t whole[HASHES_BLOCK_MAX_BYTES];
	memcpy(whole, data, n);
	memset(whole + offsetof(struct hashes_block, checksum), 0, 8);
	uint64_t checksum = checksum64(whole, n);
	if (checksum != le64toh(b.checksum))
		return damaged(r, error);
	r->block = (struct hashes_block){ .disk = le16toh(b.disk),
		.first_page = le32toh(b.first_page),
		.end_page = le32toh(b.end_page),
		.ranges_bytes = ranges_bytes,
		.hash_count = hash_count };
	memcpy(r->ranges, whole + sizeof(b), ranges_bytes);
	for (uint32_t i = 0; i < hash_count; i++) {
		uint64_t hash;
		memcpy(&hash, whole + sizeof(b) + padded + i * 8, sizeof(hash));
		r->hashes[i] = le64toh(hash);
	}
	if (r->block.disk == 0) {
		r->offset += n;
		return end_block(r, error);
	}
	if (r->block.disk < r->last_disk ||
		(r->block.disk == r->last_disk && r->block.first_page < r->last_end) ||
		ranges_bytes == 0)
		return damaged(r, error);
	uint64_t chain[2] = { htole64(r->digest), htole64(checksum) };
	r->digest = checksum64(chain, sizeof(chain));
	r->mark = (struct hashes_mark){ .offset = r->offset,
		.index = r->index,
		.next_disk = r->block.disk,
		.next_page = r->block.first_page };
	r->offset += n;
	r->index++;
	r->at = 0;
	r->hash_at = 0;
	r->page = r->block.first_page;
	return 0;
}

static int get_leb128(struct hashes_reader *r, uint64_t *ret_value)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 42; shift += 7) {
		if (r->at >= r->block.ranges_bytes)
			return -EBADMSG;
		uint8_t byte = r->ranges[r->at++];
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*ret_value = value;
			return 0;
		}
	}
	return -EBADMSG;
}

static int next_range(struct hashes_reader *r, struct hashes_run *ret_run)
{
	uint64_t first, count = 1;
	if (get_leb128(r, &first) < 0)
		return -EBADMSG;
	if (!(first & 1)) {
		if (get_leb128(r, &count) < 0)
			return -EBADMSG;
		count += 2;
	}
	bool zero = first & 2;
	uint64_t page = r->page + (first >> 2);
	if (page + count > r->block.end_page)
		return -EBADMSG;
	if (!zero && count > r->block.hash_count - r->hash_at)
		return -EBADMSG;
	*ret_run = (struct hashes_run){ .disk = r->block.disk,
		.first_page = (uint32_t)page,
		.count = (uint32_t)count,
		.hashes = zero ? NULL : r->hashes + r->hash_at };
	if (!zero)
		r->hash_at += (uint32_t)count;
	r->page = (uint32_t)(page + count);
	r->last_disk = r->block.disk;
	r->last_end = r->page;
	return 0;
}

int hashes_reader_next(struct hashes_reader *r, struct error *error, struct hashes_run *ret_run)
{
	if (r->ended)
		return -ENOENT;
	if (r->at == r->block.ranges_bytes) {
		if (r->hash_at != r->block.hash_count)
			return error_set(error, -EBADMSG, NULL, "%s: block %u has hashes too many",
				r->source.name, r->mark.index);
		int e = next_block(r, error);
		if (e < 0)
			return e;
	}
	int e = next_range(r, ret_run);
	if (e < 0)
		return error_set(error, e, NULL, "%s: block %u has impossible ranges",
			r->source.name, r->mark.index);
	return 0;
}

void hashes_reader_mark(const struct hashes_reader *r, struct hashes_mark *ret_mark)
{
	*ret_mark = r->mark;
}

void hashes_reader_seek(struct hashes_reader *r, const struct hashes_mark *mark)
{
	if (mark->offset == 0)
		return; /* as opened */
	r->ended = mark->next_disk == UINT16_MAX && mark->next_page == UINT32_MAX;
	r->offset = mark->offset;
	r->index = mark->index;
	r->digest_known = false;
	r->block = (struct hashes_block){ 0 };
	r->at = 0;
	r->hash_at = 0;
	r->last_disk = 0;
	r->last_end = 0;
	r->mark = *mark;
}

void hashes_reader_totals(const struct hashes_reader *r, uint64_t *ret_bytes, uint64_t *ret_digest)
{
	*ret_bytes = r->offset;
	*ret_digest = r->digest;
}
