/*
 * replicator/wire/frame: what is made is read back, and every field that lies is found.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/rng.h"
#include "replicator/wire/frame.h"

struct room {
	_Alignas(8) uint8_t body[WIRE_MAX_BODY_BYTES];
	uint8_t payload[WIRE_MAX_DATA_BYTES];
	uint64_t hashes[WIRE_CHUNK_PAGES];
};

/* Makes a DATA of so many sectors and returns the size of its body. */
static size_t make_data(struct room *room, uint32_t sectors, struct wire_frame *ret_frame)
{
	struct rng rng;
	size_t bytes = (size_t)sectors * SECTOR_BYTES;
	rng_seed(&rng, sectors);
	rng_fill(&rng, room->payload, bytes);
	frame_hash_pages(room->payload, bytes, room->hashes);
	frame_make_data_head(3, 80, sectors, (uint32_t)bytes, room->hashes, room->body);
	size_t head = WIRE_DATA_HEAD_BYTES(WIRE_PAGE_COUNT(bytes));
	memcpy(room->body + head, room->payload, bytes);
	frame_make(WIRE_DATA, 0, 7, head + bytes, room->body, head, ret_frame);
	return head + bytes;
}

/* The header says anew what the (changed) body proves. */
static void remake(struct room *room, struct wire_frame *frame, unsigned flags, size_t n)
{
	struct wire_data data;
	memcpy(&data, room->body, sizeof(data));
	frame_make(WIRE_DATA, flags, 7, n, room->body,
		MIN(n, WIRE_DATA_HEAD_BYTES(data.hash_count)), frame);
}

static void data_comes_back(void **state)
{
	struct room *room = *state;
	static const uint32_t sizes[] = { 1, 7, 8, 9, 64, 2047, 2048 };
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct wire_frame frame;
		struct frame_data data;
		size_t n = make_data(room, sizes[i], &frame);
		assert_int_equal(frame.body_bytes, n);
		assert_int_equal(frame_check(&frame, WIRE_APPLIANCE, 7, NULL), 0);
		assert_int_equal(frame_check_body(&frame, room->body, NULL), 0);
		assert_int_equal(frame_parse_data(&frame, room->body, &data, NULL), 0);
		assert_int_equal(data.disk, 3);
		assert_int_equal(data.lba, 80);
		assert_int_equal(data.sectors, sizes[i]);
		assert_int_equal(data.hash_count, (sizes[i] + 7) / 8);
		assert_false(data.zstd);
		assert_memory_equal(data.packed, room->payload, data.packed_bytes);
		assert_int_equal(frame_prove_data(&data, data.packed, NULL), 0);
		assert_int_equal(frame_check_data_place(&data, 80 + sizes[i], NULL), 0);
		assert_int_equal(frame_check_data_place(&data, 79 + sizes[i], NULL), -ERANGE);
		assert_int_equal(frame_check_data_place(&data, 80, NULL), -ERANGE);
		assert_int_equal(frame_check_data_place(&data, 4000, NULL),
			sizes[i] % 8 == 0 ? 0 : -EBADMSG);
	}
}

static void a_flipped_bit_is_found(void **state)
{
	struct room *room = *state;
	struct wire_frame frame, lying;
	struct frame_data data;
	size_t n = make_data(room, 16, &frame);
	for (size_t bit = 0; bit < 8 * sizeof(frame); bit++) {
		lying = frame;
		((uint8_t *)&lying)[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(frame_check(&lying, WIRE_APPLIANCE, 7, NULL), -EBADMSG);
	}
	for (size_t bit = 0; bit < 8 * n; bit++) {
		room->body[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int r = frame_check_body(&frame, room->body, NULL);
		if (r == 0)
			r = frame_parse_data(&frame, room->body, &data, NULL);
		if (r == 0)
			r = frame_prove_data(&data, data.packed, NULL);
		assert_int_equal(r, -EBADMSG);
		room->body[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

/* Checksums that hold over fields that lie. */
static void a_lying_data_is_refused(void **state)
{
	static const struct lie {
		struct wire_data data;
		unsigned flags;
		size_t body_bytes;
	} lies[] = {
		{ { .unused16 = 1, .sectors = 8, .packed_bytes = 4096, .hash_count = 1 }, 0,
			24 + 8 + 4096 },
		{ { .sectors = 0, .packed_bytes = 0, .hash_count = 0 }, 0, 40 },
		{ { .sectors = 2049, .packed_bytes = 2049 * 512, .hash_count = 257 }, 0,
			24 + 8 * 257 + 2049 * 512 },
		{ { .sectors = UINT32_MAX, .packed_bytes = 4096, .hash_count = 1 }, 0,
			24 + 8 + 4096 },
		{ { .lba = 4, .sectors = 8, .packed_bytes = 4096, .hash_count = 1 }, 0,
			24 + 8 + 4096 },
		{ { .lba = UINT64_MAX - 7, .sectors = 8, .packed_bytes = 4096, .hash_count = 1 }, 0,
			24 + 8 + 4096 },
		{ { .sectors = 8, .packed_bytes = 4096, .hash_count = 2 }, 0, 24 + 16 + 4096 },
		{ { .sectors = 8, .packed_bytes = 4096, .hash_count = 0 }, 0, 24 + 4096 },
		{ { .sectors = 8, .packed_bytes = 4095, .hash_count = 1 }, 0, 24 + 8 + 4096 },
		{ { .sectors = 8, .packed_bytes = 4095, .hash_count = 1 }, 0, 24 + 8 + 4095 },
		{ { .sectors = 8, .packed_bytes = 4097, .hash_count = 1 }, 0, 24 + 8 + 4097 },
		{ { .sectors = 8, .packed_bytes = 4096, .hash_count = 1 }, WIRE_ZSTD,
			24 + 8 + 4096 },
		{ { .sectors = 8, .packed_bytes = 0, .hash_count = 1 }, WIRE_ZSTD, 24 + 8 },
	};
	struct room *room = *state;
	struct wire_frame frame;
	struct frame_data data;
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		memset(room->body, 0, sizeof(room->body));
		memcpy(room->body, &lies[i].data, sizeof(lies[i].data));
		remake(room, &frame, lies[i].flags, lies[i].body_bytes);
		assert_int_equal(frame_check_body(&frame, room->body, NULL), 0);
		assert_int_equal(frame_parse_data(&frame, room->body, &data, NULL), -EBADMSG);
	}
	struct wire_data most = { .sectors = 8, .packed_bytes = 4096, .hash_count = UINT32_MAX };
	memcpy(room->body, &most, sizeof(most));
	remake(room, &frame, 0, 24 + 8 + 4096);
	assert_int_equal(frame_check_body(&frame, room->body, NULL), -EBADMSG);
	assert_int_equal(frame_parse_data(&frame, room->body, &data, NULL), -EBADMSG);
}

static void headers_are_distrusted(void **state)
{
	static const struct {
		uint16_t type, flags;
		uint32_t body_bytes;
		enum wire_side side;
		int want;
	} cases[] = {
		{ WIRE_PING, 0, 0, WIRE_APPLIANCE, 0 },
		{ WIRE_PONG, 0, 0, WIRE_AGENT, 0 },
		{ WIRE_PING, 0, 1, WIRE_APPLIANCE, -EBADMSG },
		{ 0, 0, 0, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_TYPE_END, 0, 0, WIRE_APPLIANCE, -EBADMSG },
		{ UINT16_MAX, 0, 0, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_CONTROL, 0, 2, WIRE_AGENT, 0 },
		{ WIRE_CONTROL, 0, 1, WIRE_AGENT, -EBADMSG },
		{ WIRE_CONTROL, 0, WIRE_MAX_CONTROL_BYTES + 1, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_CONTROL, WIRE_ZSTD, 2, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_DATA, 0, WIRE_MAX_BODY_BYTES, WIRE_APPLIANCE, 0 },
		{ WIRE_DATA, 0, WIRE_MAX_BODY_BYTES + 1, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_DATA, 0, UINT32_MAX, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_DATA, 0, 24, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_DATA, 2, 4128, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_DATA, 0, 4128, WIRE_AGENT, -EBADMSG },
		{ WIRE_ZERO, 0, 24, WIRE_APPLIANCE, 0 },
		{ WIRE_ZERO, 0, 24, WIRE_AGENT, -EBADMSG },
		{ WIRE_ZERO, 0, 25, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_ACK, 0, 16, WIRE_AGENT, 0 },
		{ WIRE_ACK, 0, 16, WIRE_APPLIANCE, -EBADMSG },
		{ WIRE_HASHES, 0, 16 + 16 * 4096, WIRE_AGENT, 0 },
		{ WIRE_HASHES, 0, 16 + 16 * 4097, WIRE_AGENT, -EBADMSG },
		{ WIRE_PAGES, 0, 16 + 8 * 256, WIRE_AGENT, 0 },
		{ WIRE_PAGES, 0, 16 + 8 * 257, WIRE_AGENT, -EBADMSG },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wire_frame frame;
		frame_make(cases[i].type, cases[i].flags, 9, cases[i].body_bytes, "", 0, &frame);
		assert_int_equal(frame_check(&frame, cases[i].side, 9, NULL), cases[i].want);
		assert_int_equal(frame_check(&frame, cases[i].side, 8, NULL), -EBADMSG);
		assert_int_equal(frame_check(&frame, cases[i].side, 10, NULL), -EBADMSG);
	}
}

static void small_bodies_come_back(void **state)
{
	struct room *room = *state;
	struct wire_frame frame;
	struct wire_zero zero = { .disk = 1, .lba = 3, .sectors = 5 }, zero_back;
	frame_make(WIRE_ZERO, 0, 1, sizeof(zero), &zero, sizeof(zero), &frame);
	assert_int_equal(frame_parse_zero(&frame, &zero, &zero_back, NULL), 0);
	assert_memory_equal(&zero, &zero_back, sizeof(zero));
	assert_int_equal(frame_check_zero_place(&zero, 8, NULL), 0);
	assert_int_equal(frame_check_zero_place(&zero, 7, NULL), -ERANGE);
	static const struct wire_zero lies[] = { { .unused16 = 1, .sectors = 1 },
		{ .unused32 = 1, .sectors = 1 }, { .sectors = 0 }, { .sectors = UINT64_MAX },
		{ .lba = UINT64_MAX, .sectors = 1 }, { .lba = UINT64_MAX / 512, .sectors = 1 } };
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		assert_int_equal(frame_parse_zero(&frame, &lies[i], &zero_back, NULL), -EBADMSG);

	struct wire_hashes hashes = { .disk = 2, .count = 3, .first_chunk = 11 }, hashes_back;
	const uint64_t *values;
	memcpy(room->body, &hashes, sizeof(hashes));
	frame_make(WIRE_HASHES, 0, 1, sizeof(hashes) + 48, room->body, sizeof(hashes) + 48, &frame);
	assert_int_equal(frame_parse_hashes(&frame, room->body, &hashes_back, &values, NULL), 0);
	assert_ptr_equal(values, room->body + sizeof(hashes));
	for (uint32_t count = 0; count < 5000; count++) {
		hashes.count = count;
		memcpy(room->body, &hashes, sizeof(hashes));
		assert_int_equal(
			frame_parse_hashes(&frame, room->body, &hashes_back, &values, NULL),
			count == 3 ? 0 : -EBADMSG);
	}

	struct wire_pages pages = { .disk = 2, .count = 256, .chunk = 11 }, pages_back;
	size_t n = sizeof(pages) + 8 * 256;
	memcpy(room->body, &pages, sizeof(pages));
	frame_make(WIRE_PAGES, 0, 1, n, room->body, n, &frame);
	assert_int_equal(frame_parse_pages(&frame, room->body, &pages_back, &values, NULL), 0);
	pages.count = 257;
	memcpy(room->body, &pages, sizeof(pages));
	assert_int_equal(
		frame_parse_pages(&frame, room->body, &pages_back, &values, NULL), -EBADMSG);
}

static void control_is_an_object_with_a_type(void **state)
{
	static const struct {
		const char *text;
		int want;
	} cases[] = { { "{\"type\":\"hello\"}", 0 }, { "{\"type\":\"x\",\"y\":[1,{}]}", 0 },
		{ "{}", -EBADMSG }, { "[]", -EBADMSG }, { "{\"type\":1}", -EBADMSG },
		{ "{\"type\":null}", -EBADMSG }, { "{\"type\":\"a\",\"type\":\"b\"}", -EBADMSG },
		{ "{\"type\":\"a\"} ", 0 }, { "{\"type\":\"a\"}x", -EBADMSG },
		{ "{\"type\":\"a\",\"x\":[[[[[[[[[[[[[[1]]]]]]]]]]]]]]}", -E2BIG },
		{ "\xff\xff", -EBADMSG } };
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(json_freep) struct cJSON *json = NULL;
		struct wire_frame frame;
		const char *type;
		size_t n = strlen(cases[i].text);
		frame_make(WIRE_CONTROL, 0, 1, n, cases[i].text, n, &frame);
		int r = frame_parse_control(&frame, cases[i].text, &json, &type, NULL);
		if (r != cases[i].want)
			fail_msg("%s: %d", cases[i].text, r);
	}
}

static int set_up(void **state)
{
	*state = calloc(1, sizeof(struct room));
	return *state ? 0 : -1;
}

static int tear_down(void **state)
{
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_comes_back),
		cmocka_unit_test(a_flipped_bit_is_found),
		cmocka_unit_test(a_lying_data_is_refused),
		cmocka_unit_test(headers_are_distrusted),
		cmocka_unit_test(small_bodies_come_back),
		cmocka_unit_test(control_is_an_object_with_a_type),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
