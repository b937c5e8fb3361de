/*
 * See the header.
 */
#include "tests/integration/blob_service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "azureblob/blobs.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "tests/integration/service_admin.h"

#define ADMIN "PAGEBLOB_ADMIN"

const struct retry_policy blob_service_retry = {
	.attempts = 5,
	.first_ns = 5 * NS_PER_MS,
	.longest_ns = 50 * NS_PER_MS,
	.total_ns = 20 * NS_PER_S,
};

struct azureblob *blob_service_client(struct blob_service *service,
	struct azureblob_credential *credential, void (*adjust)(struct azureblob_options *))
{
	struct azureblob *client = NULL;
	struct error error = { 0 };
	struct azureblob_options options = {
		.account = &service->account,
		.credential = credential,
		.container = service->container,
		.retry = blob_service_retry,
		.http = { .proxy = "" },
	};
	if (adjust)
		adjust(&options);
	if (azureblob_new(&options, &client, &error) < 0)
		fail_msg("%s", error.message);
	return client;
}

int blob_service_open(void **state)
{
	const char *text = getenv("AZURE_STORAGE_CONNECTION_STRING");
	struct error error = { 0 };
	struct blob_service *s = calloc(1, sizeof(*s));
	if (!text || !s) {
		print_message("AZURE_STORAGE_CONNECTION_STRING is not set\n");
		free(s);
		return -1;
	}
	uint32_t random;
	random_bytes(&random, sizeof(random));
	snprintf(s->container, sizeof(s->container), "test-%d-%08x", (int)getpid(), random);
	s->strict = getenv(ADMIN) != NULL;
	if (azureblob_account_parse(text, &s->account, &error) < 0 ||
		azureblob_credential_new_account(&s->account, &s->credential, &error) < 0)
		fail_msg("%s", error.message);
	s->client = blob_service_client(s, s->credential, NULL);
	if (azureblob_container_create(s->client, &s->error) < 0) {
		azureblob_error_tell(&s->error, "create container", &error);
		fail_msg("%s", error.message);
	}
	*state = s;
	return 0;
}

int blob_service_close(void **state)
{
	struct blob_service *s = *state;
	int r = azureblob_container_delete(s->client, &s->error);
	azureblob_free(s->client);
	azureblob_credential_free(s->credential);
	azureblob_account_free(&s->account);
	free(s);
	return r;
}

int blob_service_reset(void **state)
{
	const struct blob_service *s = *state;
	if (s->strict) {
		admin_post("/rules/clear", "{\"seed\": 1}");
		admin_post("/reset", "{}");
	}
	return 0;
}

void admin_post(const char *path, const char *json)
{
	service_admin_ask(ADMIN, "POST", path, json, NULL);
}

void admin_fault(const char *operation, const char *fault, unsigned times)
{
	char json[512];
	snprintf(json, sizeof(json),
		"[{\"match\": {\"operation\": \"%s\"}, \"times\": %u, \"fault\": {%s}}]", operation,
		times, fault);
	admin_post("/rules", json);
}

uint64_t admin_stat(const char *name)
{
	return service_admin_number(ADMIN, "/stats", NULL, name);
}

int finish_one(struct azureblob *client, struct azureblob_request *request)
{
	struct azureblob_request *done = NULL;
	assert_int_equal(azureblob_wait(client, 30000, &done), 0);
	assert_ptr_equal(done, request);
	return done->call.result;
}
