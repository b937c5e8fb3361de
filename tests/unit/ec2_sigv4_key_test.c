/*
 * ec2/sigv4_key: the chain of HMACs and the keys that are kept. The keys were computed with another
 * implementation of SHA-256 and HMAC.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "ec2/sigv4_key.h"

#define SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

static const struct ec2_sigv4_target ebs = { "eu-central-1", "ebs" };

static void check_key(struct ec2_sigv4_keys *keys, const char *date, const char *region,
	const char *service, const char *want)
{
	const struct ec2_sigv4_target target = { region, service };
	uint8_t key[SHA256_BYTES];
	char text[SHA256_HEX_BYTES];
	assert_int_equal(ec2_sigv4_signing_key(keys, SECRET, date, &target, key), 0);
	hex_encode(key, sizeof(key), text);
	assert_string_equal(text, want);
}

static void test_keys(void **state)
{
	(void)state;
	static const char *const wanted[][4] = {
		{ "20261122", "eu-central-1", "ebs",
			"f6e5423e4d4f399f2f674dc5788f706962a19f289ad1072dd18d82ee2e3093f0" },
		{ "20261122", "eu-central-1", "ec2",
			"6a78636f62f5760ac962843e8a6af38ec60cc2d542103616c918dfca9155c8a9" },
		{ "20261122", "us-east-1", "ebs",
			"1d40a30a35570158e082150090ded56d9a481db57bdc7d826b6f107bcaa18cf1" },
		{ "20261123", "eu-central-1", "ebs",
			"c82bd9ee08e1b08b7de2de1356350787d25f11b9557dfbb109d0f254b976d681" },
	};
	struct ec2_sigv4_keys keys = { 0 };
	for (size_t i = 0; i < 3 * ARRAY_SIZE(wanted); i++) {
		const char *const *w = wanted[i % ARRAY_SIZE(wanted)];
		check_key(&keys, w[0], w[1], w[2], w[3]);
		check_key(NULL, w[0], w[1], w[2], w[3]);
	}
	assert_int_equal(keys.next, 0); /* four were made and all found again */

	/* What is found is what was kept, and another secret does not find it. */
	uint8_t key[SHA256_BYTES];
	memset(keys.items[0].key, 0x5a, SHA256_BYTES);
	assert_int_equal(ec2_sigv4_signing_key(&keys, SECRET, "20261122", &ebs, key), 0);
	assert_memory_equal(key, keys.items[0].key, SHA256_BYTES);
	assert_int_equal(ec2_sigv4_signing_key(&keys, "other", "20261122", &ebs, key), 0);
	assert_int_equal(keys.next, 1);
	assert_string_equal(keys.items[0].secret, "other"); /* the oldest went */
	ec2_sigv4_keys_wipe(&keys);
	assert_true(is_zero(&keys, sizeof(keys)));
}

static void test_long_secret_is_not_kept(void **state)
{
	(void)state;
	struct ec2_sigv4_keys keys = { 0 };
	char secret[201] = { 0 };
	uint8_t key[SHA256_BYTES];
	char text[SHA256_HEX_BYTES];
	memset(secret, 'x', 200);
	assert_int_equal(ec2_sigv4_signing_key(&keys, secret, "20261122", &ebs, key), 0);
	hex_encode(key, sizeof(key), text);
	assert_string_equal(
		text, "f009e7e488686d8acaf2056cf6ad6def0c86bafeedff4d96b7da777cd992faee");
	assert_true(is_zero(&keys, sizeof(keys)));
}

static void test_refusals(void **state)
{
	(void)state;
	const struct ec2_sigv4_target no_region = { "", "ebs" };
	const struct ec2_sigv4_target no_label = { "us-east-1", "e/s" };
	uint8_t key[SHA256_BYTES];
	assert_int_equal(ec2_sigv4_signing_key(NULL, "", "20261122", &ebs, key), -EINVAL);
	assert_int_equal(ec2_sigv4_signing_key(NULL, SECRET, "2026112", &ebs, key), -EINVAL);
	assert_int_equal(ec2_sigv4_signing_key(NULL, SECRET, "202611221", &ebs, key), -EINVAL);
	assert_int_equal(ec2_sigv4_signing_key(NULL, SECRET, "2026-1-2", &ebs, key), -EINVAL);
	assert_int_equal(ec2_sigv4_signing_key(NULL, SECRET, "20261122", &no_region, key), -EINVAL);
	assert_int_equal(ec2_sigv4_signing_key(NULL, SECRET, "20261122", &no_label, key), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_long_secret_is_not_kept),
		cmocka_unit_test(test_refusals),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
