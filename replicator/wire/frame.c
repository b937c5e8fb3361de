/*
 * See frame.h.
 *
 * Checks come in the order that makes each one safe: a header's checksum before its fields, the
 * body's size before the fields in it, counts before what they multiply. Sizes are added in 64
 * bits and their inputs bounded first, so nothing overflows.
 */
#include "replicator/wire/frame.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/json.h"

#define CONTROL_DEPTH 8
#define PAGE_SECTORS (WIRE_PAGE_BYTES / SECTOR_BYTES)

/* What each type may look like. */
static const struct rule {
	bool to_appliance, to_agent;
	uint16_t flags;
	uint32_t min_body, max_body;
} rules[WIRE_TYPE_END] = {
	[WIRE_CONTROL] = { true, true, 0, 2, WIRE_MAX_CONTROL_BYTES },
	[WIRE_DATA] = { true, false, WIRE_ZSTD, sizeof(struct wire_data) + 8 + 1,
		WIRE_MAX_BODY_BYTES },
	[WIRE_ZERO] = { true, false, 0, sizeof(struct wire_zero), sizeof(struct wire_zero) },
	[WIRE_ACK] = { false, true, 0, sizeof(struct wire_ack), sizeof(struct wire_ack) },
	[WIRE_HASHES] = { false, true, 0, sizeof(struct wire_hashes) + 16,
		sizeof(struct wire_hashes) + 16 * WIRE_MAX_CHUNK_HASHES },
	[WIRE_PAGES] = { false, true, 0, sizeof(struct wire_pages) + 8,
		sizeof(struct wire_pages) + 8 * WIRE_CHUNK_PAGES },
	[WIRE_PING] = { true, true, 0, 0, 0 },
	[WIRE_PONG] = { true, true, 0, 0, 0 },
};

#define BAD(error, ...) error_set(error, -EBADMSG, NULL, __VA_ARGS__)

static uint64_t header_checksum(const struct wire_frame *frame)
{
	return checksum64(frame, offsetof(struct wire_frame, checksum));
}

/* ── frames ──────────────────────────────────────────────────────────────────────────────── */

void frame_make(enum wire_type type, unsigned flags, uint64_t sequence, size_t body_bytes,
	const void *proven, size_t proven_bytes, struct wire_frame *ret_frame)
{
	*ret_frame = (struct wire_frame){
		.magic = WIRE_MAGIC,
		.type = (uint16_t)type,
		.flags = (uint16_t)flags,
		.body_bytes = (uint32_t)body_bytes,
		.sequence = sequence,
		.body_checksum = checksum64(proven, proven_bytes),
	};
	ret_frame->checksum = header_checksum(ret_frame);
}

uint32_t frame_max_body(enum wire_type type)
{
	return (unsigned)type < WIRE_TYPE_END ? rules[type].max_body : 0;
}

int frame_check(
	const struct wire_frame *frame, enum wire_side side, uint64_t sequence, struct error *error)
{
	if (frame->magic != WIRE_MAGIC)
		return BAD(error, "what came is no frame");
	if (frame->checksum != header_checksum(frame))
		return BAD(error, "a frame's checksum does not hold");
	if (frame->type == 0 || frame->type >= WIRE_TYPE_END)
		return BAD(error, "a frame of unknown type %u", frame->type);
	const struct rule *rule = &rules[frame->type];
	if (!(side == WIRE_APPLIANCE ? rule->to_appliance : rule->to_agent))
		return BAD(error, "a frame of type %u goes the wrong way", frame->type);
	if ((frame->flags & ~rule->flags) != 0 || frame->unused != 0)
		return BAD(error, "a frame of type %u has flags %#x", frame->type, frame->flags);
	if (frame->body_bytes < rule->min_body || frame->body_bytes > rule->max_body)
		return BAD(error, "a frame of type %u has a body of %u bytes", frame->type,
			frame->body_bytes);
	if (frame->sequence != sequence)
		return BAD(error, "frame %" PRIu64 " came, %" PRIu64 " was due", frame->sequence,
			sequence);
	return 0;
}

/* How much of a body its checksum covers; more than there is if the body says so. */
static uint64_t proven_bytes(const struct wire_frame *frame, const void *body)
{
	struct wire_data data;
	if (frame->type != WIRE_DATA)
		return frame->body_bytes;
	memcpy(&data, body, sizeof(data));
	return WIRE_DATA_HEAD_BYTES(data.hash_count);
}

int frame_check_body(const struct wire_frame *frame, const void *body, struct error *error)
{
	uint64_t proven = proven_bytes(frame, body);
	if (proven > frame->body_bytes)
		return BAD(error, "a DATA has more hashes than bytes");
	if (frame->body_checksum != checksum64(body, proven))
		return BAD(error, "the checksum of the body of frame %" PRIu64 " does not hold",
			frame->sequence);
	return 0;
}

/* ── data ────────────────────────────────────────────────────────────────────────────────── */

void frame_make_data_head(uint16_t disk, uint64_t lba, uint32_t sectors, uint32_t packed_bytes,
	const uint64_t *hashes, void *ret_head)
{
	const struct wire_data data = {
		.disk = disk,
		.sectors = sectors,
		.lba = lba,
		.packed_bytes = packed_bytes,
		.hash_count = (uint32_t)WIRE_PAGE_COUNT((uint64_t)sectors * SECTOR_BYTES),
	};
	memcpy(ret_head, &data, sizeof(data));
	memcpy((char *)ret_head + sizeof(data), hashes, 8 * (size_t)data.hash_count);
}

void frame_hash_pages(const void *payload, size_t bytes, uint64_t *ret_hashes)
{
	const char *p = payload;
	for (size_t at = 0; at < bytes; at += WIRE_PAGE_BYTES)
		*ret_hashes++ = checksum64(p + at, MIN(bytes - at, (size_t)WIRE_PAGE_BYTES));
}

int frame_parse_data(const struct wire_frame *frame, const void *body, struct frame_data *ret_data,
	struct error *error)
{
	struct wire_data data;
	if (frame->type != WIRE_DATA || frame->body_bytes < sizeof(data))
		return BAD(error, "no DATA");
	memcpy(&data, body, sizeof(data));
	uint64_t bytes = (uint64_t)data.sectors * SECTOR_BYTES;
	if (data.unused16 != 0)
		return BAD(error, "a DATA of disk %u has set what is unused", data.disk);
	if (data.sectors == 0 || bytes > WIRE_MAX_DATA_BYTES)
		return BAD(error, "a DATA of %u sectors", data.sectors);
	if (data.lba % PAGE_SECTORS != 0 || data.lba > UINT64_MAX / SECTOR_BYTES - data.sectors)
		return BAD(error, "a DATA at sector %" PRIu64, data.lba);
	if (data.hash_count != WIRE_PAGE_COUNT(bytes))
		return BAD(error, "a DATA of %u sectors with %u hashes", data.sectors,
			data.hash_count);
	uint64_t head = WIRE_DATA_HEAD_BYTES(data.hash_count);
	bool zstd = (frame->flags & WIRE_ZSTD) != 0;
	if (frame->body_bytes < head || frame->body_bytes - head != data.packed_bytes)
		return BAD(error, "a DATA says that %u bytes follow, in a body of %u",
			data.packed_bytes, frame->body_bytes);
	if (zstd ? data.packed_bytes == 0 || data.packed_bytes >= bytes
		 : data.packed_bytes != bytes)
		return BAD(
			error, "a DATA of %u sectors in %u bytes", data.sectors, data.packed_bytes);
	*ret_data = (struct frame_data){
		.disk = data.disk,
		.lba = data.lba,
		.sectors = data.sectors,
		.hash_count = data.hash_count,
		.hashes = (const void *)((const char *)body + sizeof(data)),
		.packed = (const char *)body + head,
		.packed_bytes = data.packed_bytes,
		.zstd = zstd,
	};
	return 0;
}

static int check_place(uint64_t lba, uint64_t sectors, uint64_t disk_sectors, struct error *error)
{
	if (lba >= disk_sectors || sectors > disk_sectors - lba)
		return error_set(error, -ERANGE, NULL,
			"%" PRIu64 " sectors at %" PRIu64 " are not on a disk of %" PRIu64, sectors,
			lba, disk_sectors);
	return 0;
}

int frame_check_data_place(
	const struct frame_data *data, uint64_t disk_sectors, struct error *error)
{
	int r = check_place(data->lba, data->sectors, disk_sectors, error);
	if (r == 0 && data->sectors % PAGE_SECTORS != 0 &&
		data->lba + data->sectors != disk_sectors)
		r = BAD(error, "a DATA at sector %" PRIu64 " ends within a page", data->lba);
	return r;
}

int frame_prove_data(const struct frame_data *data, const void *payload, struct error *error)
{
	size_t bytes = (size_t)data->sectors * SECTOR_BYTES;
	const char *p = payload;
	for (size_t i = 0, at = 0; at < bytes; i++, at += WIRE_PAGE_BYTES)
		if (checksum64(p + at, MIN(bytes - at, (size_t)WIRE_PAGE_BYTES)) != data->hashes[i])
			return BAD(error,
				"disk %u, sector %" PRIu64 ": what came is not what was hashed",
				data->disk, data->lba + at / SECTOR_BYTES);
	return 0;
}

/* ── the other bodies ────────────────────────────────────────────────────────────────────── */

int frame_parse_zero(const struct wire_frame *frame, const void *body, struct wire_zero *ret_zero,
	struct error *error)
{
	struct wire_zero zero;
	if (frame->type != WIRE_ZERO || frame->body_bytes != sizeof(zero))
		return BAD(error, "no ZERO");
	memcpy(&zero, body, sizeof(zero));
	if (zero.unused16 != 0 || zero.unused32 != 0)
		return BAD(error, "a ZERO of disk %u has set what is unused", zero.disk);
	if (zero.sectors == 0 || zero.sectors > UINT64_MAX / SECTOR_BYTES ||
		zero.lba > UINT64_MAX / SECTOR_BYTES - zero.sectors)
		return BAD(
			error, "a ZERO of %" PRIu64 " sectors at %" PRIu64, zero.sectors, zero.lba);
	*ret_zero = zero;
	return 0;
}

int frame_check_zero_place(const struct wire_zero *zero, uint64_t disk_sectors, struct error *error)
{
	return check_place(zero->lba, zero->sectors, disk_sectors, error);
}

int frame_parse_ack(const struct wire_frame *frame, const void *body, struct wire_ack *ret_ack,
	struct error *error)
{
	if (frame->type != WIRE_ACK || frame->body_bytes != sizeof(*ret_ack))
		return BAD(error, "no ACK");
	memcpy(ret_ack, body, sizeof(*ret_ack));
	return 0;
}

int frame_parse_hashes(const struct wire_frame *frame, const void *body,
	struct wire_hashes *ret_hashes, const uint64_t **ret_values, struct error *error)
{
	struct wire_hashes hashes;
	if (frame->type != WIRE_HASHES || frame->body_bytes < sizeof(hashes))
		return BAD(error, "no HASHES");
	memcpy(&hashes, body, sizeof(hashes));
	if (hashes.unused16 != 0)
		return BAD(error, "a HASHES of disk %u has set what is unused", hashes.disk);
	if (hashes.count == 0 || hashes.count > WIRE_MAX_CHUNK_HASHES ||
		frame->body_bytes != sizeof(hashes) + 16 * (uint64_t)hashes.count)
		return BAD(error, "a HASHES of %u in a body of %u bytes", hashes.count,
			frame->body_bytes);
	if (hashes.first_chunk > UINT64_MAX / WIRE_CHUNK_BYTES - hashes.count)
		return BAD(error, "a HASHES from chunk %" PRIu64, hashes.first_chunk);
	*ret_hashes = hashes;
	*ret_values = (const void *)((const char *)body + sizeof(hashes));
	return 0;
}

int frame_parse_pages(const struct wire_frame *frame, const void *body,
	struct wire_pages *ret_pages, const uint64_t **ret_values, struct error *error)
{
	struct wire_pages pages;
	if (frame->type != WIRE_PAGES || frame->body_bytes < sizeof(pages))
		return BAD(error, "no PAGES");
	memcpy(&pages, body, sizeof(pages));
	if (pages.unused16 != 0)
		return BAD(error, "a PAGES of disk %u has set what is unused", pages.disk);
	if (pages.count == 0 || pages.count > WIRE_CHUNK_PAGES ||
		frame->body_bytes != sizeof(pages) + 8 * (uint64_t)pages.count)
		return BAD(error, "a PAGES of %u in a body of %u bytes", pages.count,
			frame->body_bytes);
	if (pages.chunk >= UINT64_MAX / WIRE_CHUNK_BYTES)
		return BAD(error, "a PAGES of chunk %" PRIu64, pages.chunk);
	*ret_pages = pages;
	*ret_values = (const void *)((const char *)body + sizeof(pages));
	return 0;
}

int frame_parse_control(const struct wire_frame *frame, const void *body, struct cJSON **ret_json,
	const char **ret_type, struct error *error)
{
	static const struct json_limits limits = { .bytes = WIRE_MAX_CONTROL_BYTES,
		.depth = CONTROL_DEPTH };
	struct cJSON *json;
	struct json root;
	if (frame->type != WIRE_CONTROL)
		return BAD(error, "a frame of type %u where a message was due", frame->type);
	int r = json_parse(body, frame->body_bytes, &limits, &json, error);
	if (r < 0)
		return r;
	json_root(json, "message", &root);
	r = json_as_object(&root, error);
	if (r == 0)
		r = json_get_text(&root, "type", ret_type, error);
	if (r < 0) {
		json_freep(&json);
		return r == -ENOENT ? -EBADMSG : r;
	}
	*ret_json = json;
	return 0;
}
