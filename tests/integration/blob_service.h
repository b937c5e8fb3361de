/*
 * What the integration tests of the blob client share: a client of the service that
 * AZURE_STORAGE_CONNECTION_STRING names, in a container of the test's own, and the admin's port
 * of the strict server (PAGEBLOB_ADMIN) if it is that one.
 */
#pragma once

#include "tests/unit/cmocka_common.h"

#include "azureblob/azureblob.h"
#include "common/json.h"

struct blob_service {
	struct azureblob_account account;
	struct azureblob_credential *credential;
	struct azureblob *client;
	struct http_error error;
	char container[32];
	bool strict; /* there is an admin */
};

/* Few, short retries, so that tests end soon. */
extern const struct retry_policy blob_service_retry;

/* cmocka's group set-up and tear-down: the container is made and deleted again. `*state` is a
 * struct blob_service. */
int blob_service_open(void **state);
int blob_service_close(void **state);
/* Before each test: no rules, fresh counters. */
int blob_service_reset(void **state);

/* Another client of the same container; aborts the test if there is none to be had. `adjust` may
 * be NULL. */
struct azureblob *blob_service_client(struct blob_service *service,
	struct azureblob_credential *credential, void (*adjust)(struct azureblob_options *));

/* Asks the admin; fails the test when it refuses. The answer's "name" as a number. */
void admin_post(const char *path, const char *json);
/* One rule: a fault for the next `times` requests of an operation. */
void admin_fault(const char *operation, const char *fault, unsigned times);
uint64_t admin_stat(const char *name);

/* Waits for this one request; others are not expected. Its result. */
int finish_one(struct azureblob *client, struct azureblob_request *request);
