/*
 * ec2/credential against the tests' own STS and metadata service: keys from everywhere, and keys
 * that end in the middle of a transfer.
 */
#include "tests/integration/ec2_service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "ec2/fetch.h"
#include "ec2/instances.h"
#include "tests/integration/service_admin.h"

#define ROLE "arn:aws:iam::123456789012:role/replicate"
#define OUTER "arn:aws:iam::123456789012:role/outer"

static int ignore(void *context, const struct ec2_volume *volume)
{
	(void)context;
	(void)volume;
	return 0;
}

static int ask(struct ec2_world *s)
{
	return ec2_describe_volumes(s->client, NULL, ignore, NULL, &s->error);
}

static void write_file(const char *variable, const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s", getenv("AWS_TEST_DIR"), name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
	setenv(variable, path, 1);
}

static void allow_roles(void)
{
	admin_post("/settings",
		"{\"roles\": {\"" ROLE "\": {\"external_id\": \"e x=1+/\"}, \"" OUTER
		"\": {\"by\": \"" ROLE "\"}}}");
}

static void from_the_machine(void **state)
{
	struct ec2_world *s = *state;
	clear_environment();
	unsetenv("AWS_REGION");
	ec2_service_renew(s, NULL, NULL);
	assert_string_equal(ec2_region(s->client), "eu-test-1");
	uint64_t issued = admin_number("/stats", "issued");
	for (unsigned i = 0; i < 5; i++)
		assert_done(s, ask(s));
	assert_int_equal(admin_number("/stats", "issued"), issued + 1);
	/* Without a role. */
	admin_post("/settings", "{\"imds_role\": \"\"}");
	ec2_service_renew(s, NULL, NULL);
	assert_int_equal(ask(s), -EACCES);
	assert_non_null(strstr(s->error.message, "has no role"));
}

static void a_metadata_service_that_is_not_to_be_had(void **state)
{
	struct ec2_world *s = *state;
	clear_environment();
	admin_post("/settings", "{\"imds_mode\": \"off\"}");
	ec2_service_renew(s, NULL, NULL);
	assert_int_equal(ask(s), -EACCES);
	assert_non_null(strstr(s->error.message, "switched off"));
	/* The answer with the token is lost on the way into a container. */
	admin_post("/settings", "{\"imds_mode\": \"hop\"}");
	ec2_service_renew(s, NULL, NULL);
	assert_int_equal(ask(s), -EACCES);
	assert_non_null(strstr(s->error.message, "hop limit"));
	setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1", 1);
	ec2_service_renew(s, NULL, NULL);
	assert_int_equal(ask(s), -EACCES);
	assert_non_null(strstr(s->error.message, "no metadata service here"));
	struct error told = { 0 };
	assert_int_equal(ec2_error_tell(&s->error, "asking", &told), -EACCES);
	assert_non_null(strstr(told.mend, "AWS_SHARED_CREDENTIALS_FILE"));
}

static void from_roles_and_profiles(void **state)
{
	struct ec2_world *s = *state;
	char text[1024];
	allow_roles();
	/* A role of the caller's. */
	ec2_service_renew(s, ROLE, "e x=1+/");
	assert_done(s, ask(s));
	ec2_service_renew(s, ROLE, "wrong");
	assert_int_equal(ask(s), -EACCES);
	assert_string_equal(s->error.code, "AccessDenied");
	/* A chain of profiles: keys, a role with an external id, a role that only that may have. */
	clear_environment();
	unsetenv("AWS_REGION");
	snprintf(text, sizeof(text),
		"[keys]\naws_access_key_id = %s\naws_secret_access_key=%s ; a comment\n",
		getenv("AWS_TEST_KEY"), getenv("AWS_TEST_SECRET"));
	write_file("AWS_SHARED_CREDENTIALS_FILE", "credentials", text);
	write_file("AWS_CONFIG_FILE", "config",
		"[profile middle]\nrole_arn = " ROLE "\nexternal_id = e x=1+/\nsource_profile = "
		"keys\n"
		"[profile outer]\nregion = eu-test-1\nsource_profile = middle\nrole_arn=" OUTER
		"\n");
	setenv("AWS_PROFILE", "outer", 1);
	uint64_t assumed = admin_operations("AssumeRole");
	ec2_service_renew(s, NULL, NULL);
	assert_done(s, ask(s));
	assert_done(s, ask(s));
	assert_int_equal(admin_operations("AssumeRole"), assumed + 2);
	/* Ended early: only the last link is renewed, unless its own keys have ended too. */
	admin_post("/credentials/expire", "{}");
	assert_done(s, ask(s));
	assert_int_equal(admin_operations("AssumeRole"), assumed + 5);
}

static void from_a_web_identity(void **state)
{
	struct ec2_world *s = *state;
	clear_environment();
	admin_post("/settings", "{\"roles\": {\"" ROLE "\": {}}}");
	write_file("AWS_WEB_IDENTITY_TOKEN_FILE", "token", "head.body.signature\n");
	setenv("AWS_ROLE_ARN", ROLE, 1);
	ec2_service_renew(s, NULL, NULL);
	assert_done(s, ask(s));
	assert_int_equal(admin_operations("AssumeRoleWithWebIdentity"), 1);
	/* The file is read anew each time. */
	write_file("AWS_WEB_IDENTITY_TOKEN_FILE", "token", "forged");
	admin_post("/credentials/expire", "{}");
	assert_int_equal(ask(s), -EACCES);
	assert_string_equal(s->error.code, "InvalidIdentityToken");
	write_file("AWS_WEB_IDENTITY_TOKEN_FILE", "token", "head.body.signature");
	assert_done(s, ask(s));
}

static void keys_are_renewed_ahead_of_their_end(void **state)
{
	struct ec2_world *s = *state;
	clear_environment();
	admin_post("/settings", "{\"credential_ttl_s\": 4}");
	ec2_service_renew(s, NULL, NULL);
	uint64_t issued = admin_number("/stats", "issued");
	int64_t end_ns = clock_monotonic_ns(clock_system()) + 7 * NS_PER_S;
	while (clock_monotonic_ns(clock_system()) < end_ns) {
		assert_done(s, ask(s));
		clock_sleep_ns(clock_system(), 50 * NS_PER_MS);
	}
	assert_true(admin_number("/stats", "issued") >= issued + 2);
	assert_int_equal(admin_number("/stats", "expired_refused"), 0);
}

static void keys_for_ever_are_not_renewed(void **state)
{
	struct ec2_world *s = *state;
	admin_fault("\"operation\": \"DescribeVolumes\"",
		"\"kind\": \"status\", \"status\": 400, \"code\": \"RequestExpired\"", 0, 0);
	assert_int_equal(ask(s), -EKEYEXPIRED);
	assert_int_equal(admin_operations("DescribeVolumes"), 1);
	/* Keys that nobody knows. */
	admin_post("/rules/clear", "{}");
	setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY", 1);
	ec2_service_renew(s, NULL, NULL);
	assert_int_equal(ask(s), -EACCES);
	assert_string_equal(s->error.code, "AuthFailure");
	admin_post("/reset", "{}");
}

static void write_keys(const char *id, const char *secret, const char *token)
{
	char text[2048];
	snprintf(text, sizeof(text),
		"[default]\naws_access_key_id=%s\naws_secret_access_key=%s\n%s%s\n", id, secret,
		token ? "aws_session_token=" : "", token ? token : "");
	write_file("AWS_SHARED_CREDENTIALS_FILE", "credentials", text);
}

/* Keys for a while, as somebody's script puts them into the file. */
static void write_temporary_keys(void)
{
	struct buf answer = { 0 };
	struct cJSON *json = NULL;
	const char *id, *secret, *token;
	struct json root;
	service_admin_ask("AWS_TEST_ADMIN", "POST", "/credentials", "{\"ttl_s\": 3600}", &answer);
	assert_int_equal(json_parse(answer.data, answer.len, NULL, &json, NULL), 0);
	json_root(json, "", &root);
	assert_int_equal(json_get_text(&root, "id", &id, NULL), 0);
	assert_int_equal(json_get_text(&root, "secret", &secret, NULL), 0);
	assert_int_equal(json_get_text(&root, "token", &token, NULL), 0);
	write_keys(id, secret, token);
	json_freep(&json);
	buf_free(&answer);
}

static void files_are_read_again(void **state)
{
	struct ec2_world *s = *state;
	clear_environment();
	write_keys(getenv("AWS_TEST_KEY"), "wrong", NULL);
	ec2_service_renew(s, NULL, NULL);
	assert_int_equal(ask(s), -EACCES);
	/* Mended by hand: taken up within ten seconds or so. */
	write_keys(getenv("AWS_TEST_KEY"), getenv("AWS_TEST_SECRET"), NULL);
	int64_t end_ns = clock_monotonic_ns(clock_system()) + 30 * NS_PER_S;
	while (ask(s) < 0 && clock_monotonic_ns(clock_system()) < end_ns)
		clock_sleep_ns(clock_system(), 100 * NS_PER_MS);
	assert_done(s, ask(s));
	/* Temporary ones that end: the next in the file are taken up at once. */
	write_temporary_keys();
	ec2_service_renew(s, NULL, NULL);
	assert_done(s, ask(s));
	admin_post("/credentials/expire", "{}");
	assert_int_equal(ask(s), -EKEYEXPIRED);
	write_temporary_keys();
	assert_done(s, ask(s));
	/* A file that is no profile's is no reason to forget what it said before. */
	write_file("AWS_SHARED_CREDENTIALS_FILE", "credentials", "[default\n");
	end_ns = clock_monotonic_ns(clock_system()) + 12 * NS_PER_S;
	while (clock_monotonic_ns(clock_system()) < end_ns) {
		assert_done(s, ask(s));
		clock_sleep_ns(clock_system(), 500 * NS_PER_MS);
	}
	admin_post("/reset", "{}");
}

static int count_block(void *context, uint64_t offset, const void *data, size_t n)
{
	(void)offset;
	(void)data;
	(void)n;
	++*(unsigned *)context;
	return 0;
}

static int no_zero(void *context, uint64_t offset, uint64_t n)
{
	(void)context;
	(void)offset;
	(void)n;
	return 0;
}

static void keys_that_end_in_the_middle_of_a_transfer(void **state)
{
	struct ec2_world *s = *state;
	const struct ec2_fetch_ops ops = { .data = count_block, .zero = no_zero };
	char ids[VOLUMES][64];
	unsigned blocks = 0;
	clear_environment();
	ec2_service_renew(s, NULL, NULL);
	for (uint32_t i = 0; i < 150; i++)
		write_block(s->path[0], i, 'k');
	make_set(s, "keys", ids);
	uint64_t issued = admin_number("/stats", "issued");
	admin_fault(
		"\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_credentials\"", 30, 1);
	admin_fault(
		"\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_credentials\"", 60, 2);
	admin_fault(
		"\"operation\": \"ListSnapshotBlocks\"", "\"kind\": \"expire_credentials\"", 1, 1);
	const struct ec2_fetch_options options = {
		.snapshot = ids[0], .volume_bytes = VOLUME_BYTES, .window = 16, .page_blocks = 100
	};
	assert_done(s, ec2_fetch(s->client, &options, &ops, &blocks, NULL, &s->error));
	assert_int_equal(blocks, 150);
	assert_int_equal(admin_number("/stats", "blocks_read"), 150);
	uint64_t renewed = admin_number("/stats", "issued") - issued;
	assert_in_range(renewed, 3, 4);
	assert_true(admin_number("/stats", "expired_refused") >= renewed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, ec2_service_open, ec2_service_close)
		TEST(from_the_machine),
		TEST(a_metadata_service_that_is_not_to_be_had),
		TEST(from_roles_and_profiles),
		TEST(from_a_web_identity),
		TEST(keys_are_renewed_ahead_of_their_end),
		TEST(keys_for_ever_are_not_renewed),
		TEST(files_are_read_again),
		TEST(keys_that_end_in_the_middle_of_a_transfer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
