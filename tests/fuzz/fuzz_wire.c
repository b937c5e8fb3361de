/*
 * Whatever a peer says once TLS is through: a stream of frames, each taken through header, body,
 * place on a disk, unpacking and proof, as a receiver does.
 *
 * The first byte says which side listens and how honest the stream is: its checksums are put right
 * (1), its sequence too (2), its body's size made to be what is there (4), so that the checks
 * behind the checksums are reached. A body that is let through obeys the format's bounds.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/bytes.h"
#include "common/json.h"
#include "replicator/wire/frame.h"
#include "replicator/wire/key_text.h"
#include "replicator/wire/pack.h"

#define DISK_SECTORS (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(8) uint8_t body[WIRE_MAX_BODY_BYTES];
static uint8_t payload[WIRE_MAX_DATA_BYTES];

static void must(bool condition)
{
	if (!condition)
		abort();
}

static void take_data(const struct wire_frame *frame, struct unpacker *unpacker)
{
	struct frame_data parts;
	if (frame_parse_data(frame, body, &parts, NULL) < 0)
		return;
	size_t bytes = (size_t)parts.sectors * SECTOR_BYTES;
	must(bytes > 0 && bytes <= WIRE_MAX_DATA_BYTES);
	must(parts.hash_count == WIRE_PAGE_COUNT(bytes) && parts.lba % 8 == 0);
	must((const uint8_t *)parts.packed + parts.packed_bytes == body + frame->body_bytes);
	must((const uint8_t *)(parts.hashes + parts.hash_count) == parts.packed);
	if (frame_check_data_place(&parts, DISK_SECTORS, NULL) == 0)
		must(parts.lba + parts.sectors <= DISK_SECTORS);
	const void *plain = parts.packed;
	if (parts.zstd) {
		if (unpacker_unpack(
			    unpacker, parts.packed, parts.packed_bytes, payload, bytes, NULL) < 0)
			return;
		plain = payload;
	}
	(void)frame_prove_data(&parts, plain, NULL);
}

static void take_control(const struct wire_frame *frame)
{
	struct cJSON *json = NULL;
	const char *type, *text;
	struct json root;
	struct registration_key key;
	if (frame_parse_control(frame, body, &json, &type, NULL) < 0)
		return;
	must(type != NULL);
	json_root(json, "message", &root);
	if (json_find_text(&root, "key", &text, NULL) == 1 && key_text_parse(text, &key) == 0) {
		char again[KEY_TEXT_BYTES];
		key_text_format(&key, again);
		must(strstr(text, again) != NULL);
	}
	json_freep(&json);
}

static void take(const struct wire_frame *frame, struct unpacker *unpacker)
{
	struct wire_zero zero;
	struct wire_ack ack;
	struct wire_hashes hashes;
	struct wire_pages pages;
	const uint64_t *values;
	switch (frame->type) {
	case WIRE_CONTROL:
		take_control(frame);
		break;
	case WIRE_DATA:
		take_data(frame, unpacker);
		break;
	case WIRE_ZERO:
		if (frame_parse_zero(frame, body, &zero, NULL) == 0 &&
			frame_check_zero_place(&zero, DISK_SECTORS, NULL) == 0)
			must(zero.sectors > 0 && zero.lba + zero.sectors <= DISK_SECTORS);
		break;
	case WIRE_ACK:
		(void)frame_parse_ack(frame, body, &ack, NULL);
		break;
	case WIRE_HASHES:
		if (frame_parse_hashes(frame, body, &hashes, &values, NULL) == 0)
			must((const uint8_t *)(values + 2 * hashes.count) ==
				body + frame->body_bytes);
		break;
	case WIRE_PAGES:
		if (frame_parse_pages(frame, body, &pages, &values, NULL) == 0)
			must((const uint8_t *)(values + pages.count) == body + frame->body_bytes);
		break;
	default:
		must(frame->type == WIRE_PING || frame->type == WIRE_PONG);
	}
}

/* What an honest sender of these fields would have sent. */
static void make_honest(struct wire_frame *frame, unsigned honesty, uint64_t sequence, size_t left,
	const uint8_t *rest)
{
	struct wire_data head;
	if (honesty & 4) {
		left = MIN(left, sizeof(body));
		frame->body_bytes = (uint32_t)MIN(left, (size_t)frame->body_bytes);
	}
	size_t proven = MIN(left, frame->body_bytes);
	if (frame->type == WIRE_DATA && proven >= sizeof(head)) {
		memcpy(&head, rest, sizeof(head));
		proven = MIN(proven, WIRE_DATA_HEAD_BYTES(head.hash_count));
	}
	if (honesty & 1) {
		struct wire_frame made;
		frame_make(frame->type, frame->flags, honesty & 2 ? sequence : frame->sequence,
			frame->body_bytes, rest, proven, &made);
		*frame = made;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct unpacker *unpacker;
	if (size < 1 || unpacker_new(&unpacker) < 0)
		return 0;
	enum wire_side side = data[0] & 8 ? WIRE_AGENT : WIRE_APPLIANCE;
	unsigned honesty = data[0] & 7;
	uint64_t sequence = 1;
	for (size_t at = 1; size - at >= sizeof(struct wire_frame); sequence++) {
		struct wire_frame frame;
		memcpy(&frame, data + at, sizeof(frame));
		at += sizeof(frame);
		make_honest(&frame, honesty, sequence, size - at, data + at);
		if (frame_check(&frame, side, sequence, NULL) < 0)
			break;
		must(frame.body_bytes <= frame_max_body(frame.type));
		if (frame.body_bytes > size - at)
			break;
		memcpy(body, data + at, frame.body_bytes);
		at += frame.body_bytes;
		if (frame.body_bytes > 0 && frame_check_body(&frame, body, NULL) < 0)
			break;
		take(&frame, unpacker);
	}
	unpacker_free(unpacker);
	return 0;
}
