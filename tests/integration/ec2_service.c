/*
 * See the header.
 */
#include "tests/integration/ec2_service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "ec2/blocks.h"
#include "ec2/snapshots.h"
#include "tests/integration/service_admin.h"

#define ADMIN "AWS_TEST_ADMIN"

void admin_post(const char *path, const char *json)
{
	service_admin_ask(ADMIN, "POST", path, json, NULL);
}

void admin_postf(const char *path, const char *format, ...)
{
	char json[2048];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(json, sizeof(json), format, args);
	va_end(args);
	assert_in_range(n, 0, sizeof(json) - 1);
	admin_post(path, json);
}

void admin_fault(const char *match, const char *fault, unsigned skip, unsigned times)
{
	admin_postf("/rules", "[{\"match\": {%s}, \"fault\": {%s}, \"skip\": %u, \"times\": %u}]",
		match, fault, skip, times);
}

uint64_t admin_number(const char *path, const char *name)
{
	return service_admin_number(ADMIN, path, NULL, name);
}

uint64_t admin_operations(const char *operation)
{
	return service_admin_number(ADMIN, "/stats", "operations", operation);
}

void clear_environment(void)
{
	static const char *const names[] = { "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
		"AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_ROLE_SESSION_NAME", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_EBS",
		"AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_DISABLED", "AWS_USE_FIPS_ENDPOINT",
		"AWS_USE_DUALSTACK_ENDPOINT", "AWS_CA_BUNDLE",
		"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unsetenv(names[i]);
	setenv("AWS_CONFIG_FILE", "/nowhere/config", 1);
	setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials", 1);
	setenv("AWS_ENDPOINT_URL", getenv("AWS_TEST_ENDPOINT"), 1);
	setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", getenv("AWS_TEST_ENDPOINT"), 1);
	setenv("AWS_REGION", "eu-test-1", 1);
}

static void let_go(struct ec2_world *s)
{
	ec2_free(s->client);
	ec2_credential_free(s->credential);
	ec2_settings_free(s->settings);
	s->client = NULL;
	s->credential = NULL;
	s->settings = NULL;
}

void ec2_service_renew(struct ec2_world *s, const char *role_arn, const char *external_id)
{
	const struct ec2_settings_options settings = { 0 };
	struct error error = { 0 };
	const struct http_options http = { .proxy = "", .stop = { &s->stop } };
	let_go(s);
	if (ec2_settings_load(&settings, &s->settings, &error) < 0 ||
		ec2_settings_find_region(s->settings, &http, &error) < 0)
		fail_msg("settings: %s", error.message);
	const struct ec2_credential_options credential = { .settings = s->settings,
		.role_arn = role_arn,
		.external_id = external_id,
		.http = http };
	if (ec2_credential_new(&credential, clock_system(), &s->credential, &error) < 0)
		fail_msg("credential: %s", error.message);
	const struct ec2_options options = { .settings = s->settings,
		.credential = s->credential,
		.limiter = s->limiter,
		.http = { .proxy = "",
			.connections = 64,
			.total_timeout_ms = 8000,
			.stop = { &s->stop } },
		.retry = { .attempts = 8,
			.first_ns = 5 * NS_PER_MS,
			.longest_ns = 200 * NS_PER_MS,
			.total_ns = 30 * NS_PER_S } };
	if (ec2_new(&options, &s->client, &error) < 0)
		fail_msg("client: %s", error.message);
}

static void add_instance(struct ec2_world *s)
{
	uint64_t number;
	random_bytes(&number, sizeof(number));
	snprintf(s->instance, sizeof(s->instance), "i-%016llx", (unsigned long long)number);
	snprintf(s->ip, sizeof(s->ip), "10.%u.%u.%u", (unsigned)(number & 255),
		(unsigned)(number >> 8 & 255), (unsigned)(number >> 16 & 255));
	for (unsigned i = 0; i < VOLUMES; i++) {
		snprintf(s->volume[i], sizeof(s->volume[i]), "vol-%016llx",
			(unsigned long long)(number + i + 1));
		snprintf(s->path[i], sizeof(s->path[i]), "%s/%s", getenv("AWS_TEST_DIR"),
			s->volume[i]);
	}
	admin_postf("/instance",
		"{\"id\": \"%s\", \"private_ip\": \"%s\", \"boot_mode\": \"uefi\", \"tags\": "
		"{\"Name\": \"web <&>\", \"Test\": \"%s\"}, \"volumes\": [{\"id\": \"%s\", "
		"\"path\": \"%s\", \"size_gib\": 1}, {\"id\": \"%s\", \"path\": \"%s\", "
		"\"size_gib\": 1}]}",
		s->instance, s->ip, s->instance, s->volume[0], s->path[0], s->volume[1],
		s->path[1]);
}

int ec2_service_open(void **state)
{
	struct ec2_world *s = calloc(1, sizeof(*s));
	if (!s || !getenv(ADMIN)) {
		print_message("AWS_TEST_ADMIN is not set\n");
		free(s);
		return -1;
	}
	clear_environment();
	setenv("AWS_ACCESS_KEY_ID", getenv("AWS_TEST_KEY"), 1);
	setenv("AWS_SECRET_ACCESS_KEY", getenv("AWS_TEST_SECRET"), 1);
	admin_post("/rules/clear", "{\"seed\": 1}");
	admin_post("/settings/restore", "{}");
	admin_post("/reset", "{}");
	add_instance(s);
	ec2_service_renew(s, NULL, NULL);
	*state = s;
	return 0;
}

int ec2_service_close(void **state)
{
	struct ec2_world *s = *state;
	assert_int_equal(admin_number("/stats", "bad_signatures"), 0);
	assert_int_equal(admin_number("/stats", "crashes"), 0);
	assert_int_equal(admin_number("/stats", "reads_of_unfinished"), 0);
	assert_int_equal(admin_number("/stats", "imds_v1"), 0);
	let_go(s);
	ec2_limiter_free(s->limiter);
	for (unsigned i = 0; i < VOLUMES; i++)
		unlink(s->path[i]);
	free(s);
	return 0;
}

void ec2_service_fail(const struct ec2_world *s, const char *what)
{
	struct error error = { 0 };
	ec2_error_tell(&s->error, what, &error);
	fail_msg("%s", error.message);
}

void write_block(const char *path, uint32_t index, char letter)
{
	static char data[EC2_BLOCK_BYTES];
	struct rng rng;
	memset(data, 0, sizeof(data));
	if (letter) {
		rng_seed(&rng, (uint64_t)index << 8 | (unsigned char)letter);
		rng_fill(&rng, data, sizeof(data));
	}
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(
		pwrite(fd, data, sizeof(data), (off_t)index * EC2_BLOCK_BYTES), sizeof(data));
}

void punch_block(const char *path, uint32_t index)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)index * EC2_BLOCK_BYTES, EC2_BLOCK_BYTES),
		0);
}

struct making {
	struct ec2_world *service;
	char (*ids)[64];
	unsigned count;
};

static int note_id(void *context, const struct ec2_snapshot *snapshot)
{
	struct making *m = context;
	for (unsigned i = 0; i < VOLUMES; i++) {
		if (strcmp(snapshot->volume_id, m->service->volume[i]) == 0)
			snprintf(m->ids[i], 64, "%s", snapshot->id);
	}
	m->count++;
	return 0;
}

void make_set(struct ec2_world *s, const char *set_id, char ret_ids[VOLUMES][64])
{
	const struct ec2_snapshot_set set = { .instance_id = s->instance, .set_id = set_id };
	struct making making = { .service = s, .ids = ret_ids };
	assert_done(s, ec2_create_snapshots(s->client, &set, note_id, &making, &s->error));
	assert_int_equal(making.count, VOLUMES);
	const char *ids[VOLUMES] = { ret_ids[0], ret_ids[1] };
	assert_done(s, ec2_wait_for_snapshots(s->client, ids, VOLUMES, 50, 20000, &s->error));
}
