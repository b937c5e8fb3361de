/*
 * Frames and their bodies: made, checked and taken apart. wire_format.h tells their layout.
 *
 * What comes from the other end is believed in nothing: every function that reads checks sizes
 * before it looks, ranges before it adds, checksums before it hands anything on. What these let
 * through is within the format's bounds; what only the receiver can know (which disks there are,
 * how large they are, which sequence is due) it asks with the calls that take it.
 *
 * Pure functions over memory: any thread, no I/O, nothing kept. Texts in errors name the field;
 * codes are -EBADMSG for what breaks the format or a checksum, -ERANGE for a place outside of a
 * disk. `error` may be NULL.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/wire/wire_format.h"

struct cJSON;

/* Who receives: each side accepts only what is meant for it. */
enum wire_side { WIRE_APPLIANCE, WIRE_AGENT };

/* ── frames ──────────────────────────────────────────────────────────────────────────────── */

/* Fills the whole header, its own checksum included. `proven` is the part of the body that
 * body_checksum covers: all of it, or a DATA's up to the end of its hashes. */
void frame_make(enum wire_type type, unsigned flags, uint64_t sequence, size_t body_bytes,
	const void *proven, size_t proven_bytes, struct wire_frame *ret_frame);

/* 0 if this header may be acted upon: magic, checksum, a type that `side` receives, its flags, a
 * body of a size that type can have, and the sequence that is due. */
int frame_check(const struct wire_frame *frame, enum wire_side side, uint64_t sequence,
	struct error *error);

/* Compares body_checksum with the body, all of whose body_bytes are there. For DATA this proves
 * everything but the payload. */
int frame_check_body(const struct wire_frame *frame, const void *body, struct error *error);

/* The largest body that a frame of `type` has; 0 for what has none or is unknown. */
uint32_t frame_max_body(enum wire_type type);

/* ── bodies ──────────────────────────────────────────────────────────────────────────────── */

/* A DATA, taken apart: the pointers lead into the body. */
struct frame_data {
	uint16_t disk;
	uint64_t lba;
	uint32_t sectors;
	uint32_t hash_count;
	const uint64_t *hashes; /* of the payload's pages */
	const void *packed;     /* the payload as it came */
	uint32_t packed_bytes;
	bool zstd; /* else `packed` is the payload */
};

/* The parts of a DATA's body before its payload, for sending: writes the header and hashes to
 * `ret_head` (WIRE_DATA_HEAD_BYTES(hash_count) bytes of room). */
#define WIRE_DATA_HEAD_BYTES(hash_count) (sizeof(struct wire_data) + 8 * (size_t)(hash_count))
void frame_make_data_head(uint16_t disk, uint64_t lba, uint32_t sectors, uint32_t packed_bytes,
	const uint64_t *hashes, void *ret_head);

/* Takes a DATA apart; `body` is aligned to 8 bytes. The place is checked to be on a page and no
 * longer than WIRE_MAX_DATA_BYTES; that it lies on the disk is frame_check_data_place's. The
 * payload is not looked at. */
int frame_parse_data(const struct wire_frame *frame, const void *body, struct frame_data *ret_data,
	struct error *error);
/* 0 if the data lie within a disk of that many sectors and hold whole pages, but for its end. */
int frame_check_data_place(
	const struct frame_data *data, uint64_t disk_sectors, struct error *error);
/* Compares every page of the (unpacked) payload with its hash. */
int frame_prove_data(const struct frame_data *data, const void *payload, struct error *error);

/* Hashes `bytes` of a payload page by page, the last may be shorter: WIRE_PAGE_COUNT(bytes)
 * values. */
#define WIRE_PAGE_COUNT(bytes) (((bytes) + WIRE_PAGE_BYTES - 1) / WIRE_PAGE_BYTES)
void frame_hash_pages(const void *payload, size_t bytes, uint64_t *ret_hashes);

/* Copies the fixed-size bodies out, their fields checked. */
int frame_parse_zero(const struct wire_frame *frame, const void *body, struct wire_zero *ret_zero,
	struct error *error);
int frame_check_zero_place(
	const struct wire_zero *zero, uint64_t disk_sectors, struct error *error);
int frame_parse_ack(const struct wire_frame *frame, const void *body, struct wire_ack *ret_ack,
	struct error *error);

/* `*ret_values` leads into the body: count × {low, high}. */
int frame_parse_hashes(const struct wire_frame *frame, const void *body,
	struct wire_hashes *ret_hashes, const uint64_t **ret_values, struct error *error);
/* `*ret_values` leads into the body: count values. */
int frame_parse_pages(const struct wire_frame *frame, const void *body,
	struct wire_pages *ret_pages, const uint64_t **ret_values, struct error *error);

/* Reads a CONTROL's text: one JSON object with a text `type`. `*ret_type` is borrowed from the
 * document, which is freed with json_freep. -EBADMSG, -E2BIG (too deep), -ENOMEM. */
int frame_parse_control(const struct wire_frame *frame, const void *body, struct cJSON **ret_json,
	const char **ret_type, struct error *error);
