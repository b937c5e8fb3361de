/*
 * replicator/manifest.c, sealed_json.c, vault_names.c: manifests survive the round trip, and no
 * flipped bit or cut passes for one.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/point.h"
#include "replicator/manifest.h"
#include "replicator/vault_names.h"

static struct manifest sample(struct manifest_disk disks[2])
{
	disks[0] = (struct manifest_disk){ .id = 1,
		.name = "web/root",
		.size_bytes = 8 * MIB,
		.blob = "machines/web/root.vhd",
		.snapshot = "2026-11-22T05:54:11.1234567Z",
		.changed_ranges = 3,
		.data_bytes = 12288,
		.zero_bytes = 4096 };
	disks[1] = disks[0];
	disks[1].id = 7;
	disks[1].size_bytes = 8 * TIB - MIB;
	return (struct manifest){ .group_name = "web",
		.group = { { 9, 8, 7 } },
		.number = UINT64_MAX,
		.kind = POINT_APPLICATION,
		.flags = POINT_KEEP | POINT_PRESSURE,
		.time_ns = 1795326851123456789ll,
		.appliance = { { 1 } },
		.generation = 4,
		.previous = ((uint64_t)1 << 53) + 1,
		.previous_hash = { 1, UINT64_MAX },
		.changed_bytes = 99,
		.hashes_bytes = 1234,
		.hashes_digest = UINT64_MAX - 5,
		.disks = disks,
		.disk_count = 2 };
}

static void round_trip_is_exact(void **state)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(manifest_free) struct manifest back = { 0 };
	struct manifest_disk disks[2];
	struct manifest m = sample(disks);
	struct error error;
	(void)state;
	assert_int_equal(manifest_format(&m, &text), 0);
	assert_int_equal(manifest_parse("m", text.data, text.len, &error, &back), 0);
	assert_string_equal(back.group_name, m.group_name);
	assert_memory_equal(&back.group, &m.group, sizeof(m.group));
	assert_true(back.number == m.number && back.previous == m.previous);
	assert_int_equal(back.kind, m.kind);
	assert_int_equal(back.flags, m.flags);
	assert_true(back.time_ns == m.time_ns);
	assert_true(back.previous_hash.low == 1 && back.previous_hash.high == UINT64_MAX);
	assert_true(back.hashes_digest == m.hashes_digest && back.hashes_bytes == 1234);
	assert_true(back.generation == 4 && back.changed_bytes == 99);
	assert_int_equal(back.disk_count, 2);
	assert_int_equal(back.disks[1].id, 7);
	assert_true(back.disks[1].size_bytes == disks[1].size_bytes);
	assert_string_equal(back.disks[0].snapshot, disks[0].snapshot);
	assert_false(back.abandoned);
}

static void tombstone_round_trips(void **state)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(manifest_free) struct manifest back = { 0 };
	struct manifest m = { .group_name = "g", .number = 5, .generation = 2, .abandoned = true };
	struct error error;
	(void)state;
	assert_int_equal(manifest_format(&m, &text), 0);
	assert_int_equal(manifest_parse("m", text.data, text.len, &error, &back), 0);
	assert_true(back.abandoned && back.number == 5);
}

static void no_flipped_bit_passes(void **state)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct manifest_disk disks[2];
	struct manifest m = sample(disks), back;
	(void)state;
	assert_int_equal(manifest_format(&m, &text), 0);
	for (size_t i = 0; i < text.len * 8; i++) {
		struct error error = { 0 };
		text.data[i / 8] ^= (char)(1 << i % 8);
		assert_int_equal(manifest_parse("groups/web/points/9.json", text.data, text.len,
					 &error, &back),
			-EBADMSG);
		assert_non_null(strstr(error.message, "groups/web/points/9.json"));
		text.data[i / 8] ^= (char)(1 << i % 8);
	}
	for (size_t n = 0; n < text.len; n++)
		assert_int_equal(manifest_parse("m", text.data, n, NULL, &back), -EBADMSG);
}

static void impossible_fields_are_refused(void **state)
{
	struct manifest_disk disks[2];
	struct manifest back;
	(void)state;
	for (int fault = 0; fault < 6; fault++) {
		CLEANUP(buf_free) struct buf text = { 0 };
		struct manifest m = sample(disks);
		switch (fault) {
		case 0:
			m.number = 0;
			break;
		case 1:
			m.previous = m.number;
			break;
		case 2:
			disks[1].id = 1;
			break;
		case 3:
			disks[1].size_bytes = 512;
			break;
		case 4:
			strcpy(disks[0].name, "../etc");
			break;
		case 5:
			disks[0].snapshot[0] = '\0';
			break;
		}
		assert_int_equal(manifest_format(&m, &text), 0);
		assert_int_equal(manifest_parse("m", text.data, text.len, NULL, &back), -EBADMSG);
	}
}

static void names_are_told_apart(void **state)
{
	char name[VAULT_NAME_BYTES], group[64];
	uint64_t number;
	bool hashes;
	(void)state;
	vault_manifest_name("web", 42, name);
	assert_string_equal(name, "groups/web/points/42.json");
	assert_true(vault_point_of_name("web", name, &number, &hashes));
	assert_true(number == 42 && !hashes);
	vault_hashes_name("web", 43, name);
	assert_true(vault_point_of_name("web", name, &number, &hashes));
	assert_true(number == 43 && hashes);
	assert_false(vault_point_of_name("we", name, &number, &hashes));
	assert_false(vault_point_of_name("web", "groups/web/points/x.json", &number, &hashes));
	assert_false(vault_point_of_name("web", "groups/web/points/042.json", &number, &hashes));
	assert_false(vault_point_of_name("web", "groups/web/points/4.json.x", &number, &hashes));
	assert_true(vault_group_of_name("groups/web/owner.json", group));
	assert_string_equal(group, "web");
	assert_false(vault_group_of_name("groups/web/points/owner.json", group));
	assert_int_equal(vault_check_name("web/root", true), 0);
	assert_int_equal(vault_check_name("web", true), -EINVAL);
	assert_int_equal(vault_check_name("web/root", false), -EINVAL);
	assert_int_equal(vault_check_name("web/../x", true), -EINVAL);
	assert_int_equal(vault_check_name("", false), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip_is_exact),
		cmocka_unit_test(tombstone_round_trips),
		cmocka_unit_test(no_flipped_bit_passes),
		cmocka_unit_test(impossible_fields_are_refused),
		cmocka_unit_test(names_are_told_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
