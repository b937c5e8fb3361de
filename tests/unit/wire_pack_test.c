/*
 * replicator/wire/pack and key_text: what is packed comes back, what lies is refused, the decision
 * follows the network; keys have one spelling.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "replicator/wire/key_text.h"
#include "replicator/wire/pack.h"
#include "replicator/wire/wire_format.h"

#define PIECE WIRE_MAX_DATA_BYTES

struct room {
	struct packer *packer;
	struct unpacker *unpacker;
	uint8_t noise[PIECE], text[PIECE], back[PIECE + 1];
};

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	struct rng rng;
	rng_seed(&rng, 1);
	rng_fill(&rng, room->noise, PIECE);
	for (size_t i = 0; i < PIECE; i++)
		room->text[i] = (uint8_t)("landfall"[i % 8] + (i % 4096 == 0));
	assert_int_equal(packer_new(clock_system(), PIECE, &room->packer), 0);
	assert_int_equal(unpacker_new(&room->unpacker), 0);
	*state = room;
	return 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;
	packer_free(room->packer);
	unpacker_free(room->unpacker);
	free(room);
	return 0;
}

/* Sends pieces over a network of that rate and returns how many travelled packed. */
static unsigned packed_of(
	struct room *room, const uint8_t *data, unsigned pieces, double bytes_per_s)
{
	unsigned packed = 0;
	for (unsigned i = 0; i < pieces; i++) {
		const void *out;
		size_t n;
		bool zstd;
		packer_pack(room->packer, data, PIECE, &out, &n, &zstd);
		if (zstd) {
			packed++;
			assert_true(n < PIECE);
			assert_int_equal(
				unpacker_unpack(room->unpacker, out, n, room->back, PIECE, NULL),
				0);
			assert_memory_equal(room->back, data, PIECE);
		} else {
			assert_ptr_equal(out, data);
			assert_int_equal(n, PIECE);
		}
		packer_sent(room->packer, n, (int64_t)((double)n / bytes_per_s * 1e9));
	}
	return packed;
}

static void a_slow_network_is_spared(void **state)
{
	struct pack_figures figures;
	assert_in_range(packed_of(*state, ((struct room *)*state)->text, 64, 1e6), 62, 64);
	packer_figures(((struct room *)*state)->packer, &figures);
	assert_true(figures.packing);
	assert_true(figures.ratio < 0.1);
	assert_true(figures.link_bytes_per_s > 0.9e6 && figures.link_bytes_per_s < 1.1e6);
}

static void a_network_faster_than_packing_gets_it_plain(void **state)
{
	assert_in_range(packed_of(*state, ((struct room *)*state)->text, 64, 1e12), 1, 3);
}

static void noise_is_not_packed(void **state)
{
	struct pack_figures figures;
	assert_int_equal(packed_of(*state, ((struct room *)*state)->noise, 64, 1e6), 0);
	packer_figures(((struct room *)*state)->packer, &figures);
	assert_true(figures.packed_bytes <= 3 * (uint64_t)PIECE); /* trials only */
}

static void the_decision_follows_the_content(void **state)
{
	struct room *room = *state;
	assert_int_equal(packed_of(room, room->noise, 40, 1e6), 0);
	assert_true(packed_of(room, room->text, 400, 1e6) > 200);
	(void)packed_of(room, room->noise, 40, 1e6);
	assert_int_equal(packed_of(room, room->noise, 40, 1e6), 0);
}

static void what_lies_is_refused(void **state)
{
	struct room *room = *state;
	const void *out;
	size_t n;
	bool zstd;
	packer_pack(room->packer, room->text, PIECE, &out, &n, &zstd);
	assert_true(zstd);
	uint8_t *packed = malloc(2 * n);
	memcpy(packed, out, n);
	memcpy(packed + n, out, n);
	room->back[PIECE - 1] = 0xee;
	room->back[PIECE] = 0xee;
	struct unpacker *u = room->unpacker;
	assert_int_equal(unpacker_unpack(u, packed, n - 1, room->back, PIECE, NULL), -EBADMSG);
	assert_int_equal(unpacker_unpack(u, packed, n + 1, room->back, PIECE, NULL), -EBADMSG);
	assert_int_equal(unpacker_unpack(u, packed, 2 * n, room->back, PIECE, NULL), -EBADMSG);
	assert_int_equal(unpacker_unpack(u, packed, n, room->back, PIECE + 1, NULL), -EBADMSG);
	assert_int_equal(room->back[PIECE], 0xee);
	room->back[PIECE - 1] = 0xee;
	assert_int_equal(unpacker_unpack(u, packed, n, room->back, PIECE - 1, NULL), -EBADMSG);
	assert_int_equal(room->back[PIECE - 1], 0xee);
	assert_int_equal(unpacker_unpack(u, packed, 0, room->back, PIECE, NULL), -EBADMSG);
	assert_int_equal(unpacker_unpack(u, room->noise, n, room->back, PIECE, NULL), -EBADMSG);
	assert_int_equal(unpacker_unpack(u, packed, n, room->back, PIECE, NULL), 0);
	free(packed);
}

static void a_key_is_one_word(void **state)
{
	struct registration_key key = { .id = "0123456789ab" }, back;
	char text[KEY_TEXT_BYTES], padded[KEY_TEXT_BYTES + 8];
	struct rng rng;
	(void)state;
	rng_seed(&rng, 5);
	for (unsigned i = 0; i < 200; i++) {
		rng_fill(&rng, key.secret, sizeof(key.secret));
		rng_fill(&rng, key.authority, sizeof(key.authority));
		key_text_format(&key, text);
		assert_int_equal(strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					      "0123456789-_."),
			strlen(text));
		memset(&back, 0, sizeof(back));
		assert_int_equal(key_text_parse(text, &back), 0);
		assert_memory_equal(&back, &key, sizeof(key));
		snprintf(padded, sizeof(padded), " \t%s\r\n", text);
		assert_int_equal(key_text_parse(padded, &back), 0);
	}
	/* Any change of a letter is another key or none. */
	for (size_t i = 0; text[i]; i++) {
		char kept = text[i];
		for (const char *c = "A.=+/ -z"; *c; c++) {
			text[i] = *c;
			if (*c != kept && key_text_parse(text, &back) == 0)
				assert_memory_not_equal(&back, &key, sizeof(key));
		}
		text[i] = '\0';
		assert_int_equal(key_text_parse(text, &back), -EINVAL);
		text[i] = kept;
	}
	snprintf(padded, sizeof(padded), "%s.", text);
	assert_int_equal(key_text_parse(padded, &back), -EINVAL);
	snprintf(padded, sizeof(padded), "%s x", text);
	assert_int_equal(key_text_parse(padded, &back), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(a_slow_network_is_spared),
		TEST(a_network_faster_than_packing_gets_it_plain),
		TEST(noise_is_not_packed),
		TEST(the_decision_follows_the_content),
		TEST(what_lies_is_refused),
		cmocka_unit_test(a_key_is_one_word),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
