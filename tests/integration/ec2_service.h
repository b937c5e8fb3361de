/*
 * What the tests of ec2/ share: a client of the tests' own AWS, its admin's port, an instance with
 * volumes in files. AWS_TEST_ADMIN, AWS_TEST_ENDPOINT, AWS_TEST_KEY, AWS_TEST_SECRET and
 * AWS_TEST_DIR say where it is.
 */
#pragma once

#include "tests/unit/cmocka_common.h"

#include <stdint.h>

#include "ec2/ec2.h"

#define VOLUMES 2
#define VOLUME_BYTES (1ull << 30)

struct ec2_world {
	struct ec2_settings *settings;
	struct ec2_credential *credential;
	struct ec2_limiter *limiter; /* NULL, or a test's own; freed after it */
	struct ec2 *client;
	char instance[64];
	char volume[VOLUMES][64]; /* ids */
	char path[VOLUMES][256];  /* their files */
	char ip[32];
	atomic_bool stop;
	struct http_error error; /* for calls; see fail_with */
};

/* Before and after each test: everything anew, an instance with two volumes of 1 GiB; the
 * environment's long-lived keys. */
int ec2_service_open(void **state);
int ec2_service_close(void **state);
/* Another credential and client by what the environment says now; of `role_arn` if not NULL. */
void ec2_service_renew(struct ec2_world *service, const char *role_arn, const char *external_id);
/* Fails the test with what `service->error` says. */
void ec2_service_fail(const struct ec2_world *service, const char *what);
#define assert_done(service, call)                          \
	do {                                                \
		if ((call) != 0)                            \
			ec2_service_fail((service), #call); \
	} while (0)

/* The environment as a bare one: no AWS variable but those that lead to the server. */
void clear_environment(void);

void admin_post(const char *path, const char *json);
void admin_postf(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds a rule: {"match": {<match>}, "fault": {<fault>}, "skip", "times"}. */
void admin_fault(const char *match, const char *fault, unsigned skip, unsigned times);
/* A number from an answer's object. */
uint64_t admin_number(const char *path, const char *name);
uint64_t admin_operations(const char *operation);

/* Writes one block: `letter` 0 is zeros, and random bytes otherwise from that seed. */
void write_block(const char *path, uint32_t index, char letter);
/* Makes it a hole. */
void punch_block(const char *path, uint32_t index);
/* A completed set of the instance's snapshots; the ids by volume. */
void make_set(struct ec2_world *service, const char *set_id, char ret_ids[VOLUMES][64]);
