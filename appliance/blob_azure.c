/*
 * Azure Storage as a blob service: which account, which credential, how to try again. What a store
 * does is blob_azure_store.c's.
 */
#include "appliance/blob_azure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/blob_azure_store.h"
#include "azureblob/blobs.h"
#include "common/bytes.h"
#include "common/cleanup.h"

/* Nothing moves for so long: a read is given up. Somebody may wait for it, and backoff.h's bound
 * holds between tries only: two such reads fill it. Writes keep the client's own, longer limit: a
 * service that is slow to store what it was sent is not helped by sending it again. */
#define READ_STALL_MS 15000u

struct azure_service {
	struct blob_service service;
	struct azureblob_account account;
	struct azureblob_credential *credential;
	struct azureblob_options options;
	struct blob_limits limits;
	struct clock_source *clock;
	char *proxy_credentials_file; /* the path; NULL: none */
	char *name;
	atomic_bool stop;
};

static struct azure_service *service_of(struct blob_service *service)
{
	return CONTAINER_OF(service, struct azure_service, service);
}

static int azure_open_store(struct blob_service *service, const atomic_bool *stop,
	struct error *error, struct blob_store **ret_store)
{
	struct azureblob_options options = service_of(service)->options;
	options.http.stop[1] = stop;
	int r = blob_azure_store_new(&options, error, ret_store);
	if (r < 0)
		return r;
	(*ret_store)->limits = service_of(service)->limits;
	(*ret_store)->clock = service_of(service)->clock;
	(*ret_store)->stops[0] = options.http.stop[0];
	(*ret_store)->stops[1] = stop;
	return 0;
}

static int azure_create_container(struct blob_service *service, struct error *error)
{
	struct http_error e = { 0 };
	struct blob_error told = { 0 };
	struct blob_store *store;
	int r = azure_open_store(service, NULL, error, &store);
	if (r < 0)
		return r;
	/* A signature for the container alone may not make one: is it there? */
	r = azureblob_container_check(blob_azure_store_client(store), &e);
	if (r == -ENOENT) {
		e = (struct http_error){ 0 };
		r = azureblob_container_create(blob_azure_store_client(store), &e);
	}
	r = r == -EEXIST ? 0 : blob_azure_tell(r, &e, service_of(service)->name, &told);
	if (r < 0 && error)
		*error = told.error;
	store->ops->free(store);
	return r;
}

static const char *azure_name(struct blob_service *service)
{
	return service_of(service)->name;
}

static const struct blob_service_ops service_ops = {
	.open_store = azure_open_store,
	.create_container = azure_create_container,
	.name = azure_name,
};

static int read_account(
	const struct config_vault *vault, struct azure_service *s, struct error *error)
{
	if (vault->connection_string)
		return azureblob_account_parse(vault->connection_string, &s->account, error);
	if (!vault->account && !vault->endpoint)
		return error_set(error, -EINVAL, "set account or endpoint in [vault]",
			"the vault's storage account is not configured");
	return azureblob_account_make(vault->account, vault->endpoint, &s->account, error);
}

static int read_secret_credential(
	const struct config_vault *vault, struct azure_service *s, struct error *error)
{
	bool key = vault->auth == CONFIG_AUTH_SHARED_KEY;
	const char *file = key ? vault->key_file : vault->sas_file;
	char *secret = NULL;
	if (!file)
		return error_set(error, -EINVAL,
			key ? "set key_file in [vault]" : "set sas_file in [vault]",
			"the vault's secret is not configured");
	int r = config_read_secret(file, error, &secret);
	if (r < 0)
		return r;
	r = key ? azureblob_credential_new_key(s->account.name, secret, &s->credential, error)
		: azureblob_credential_new_sas(secret, &s->credential, error);
	explicit_bzero(secret, strlen(secret));
	free(secret);
	return r;
}

static int read_token_credential(const struct config_vault *vault, struct clock_source *clock,
	struct azure_service *s, struct error *error)
{
	CLEANUP_FREE char *secret_file = NULL;
	struct azureblob_token_options options = { .client_id = vault->client_id,
		.tenant_id = vault->tenant_id,
		.federated_token_file = vault->federated_token_file,
		.login_endpoint = vault->login_endpoint,
		.imds_endpoint = vault->imds_endpoint,
		.http = s->options.http };
	int r = 0;
	if (vault->auth == CONFIG_AUTH_CLIENT_SECRET && vault->client_secret_file)
		r = config_secret_path(vault->client_secret_file, error, &secret_file);
	if (r < 0)
		return r;
	options.client_secret_file = secret_file;
	options.source = vault->auth == CONFIG_AUTH_MANAGED_IDENTITY ? AZUREBLOB_MANAGED_IDENTITY
			 : vault->auth == CONFIG_AUTH_CLIENT_SECRET  ? AZUREBLOB_CLIENT_SECRET
								     : AZUREBLOB_WORKLOAD_IDENTITY;
	return azureblob_credential_new_token(&options, clock, &s->credential, error);
}

static int read_credential(const struct config_vault *vault, struct clock_source *clock,
	struct azure_service *s, struct error *error)
{
	switch (vault->auth) {
	case CONFIG_AUTH_SHARED_KEY:
	case CONFIG_AUTH_SAS:
		if (vault->connection_string && (s->account.key || s->account.sas))
			break;
		return read_secret_credential(vault, s, error);
	case CONFIG_AUTH_MANAGED_IDENTITY:
	case CONFIG_AUTH_CLIENT_SECRET:
	case CONFIG_AUTH_WORKLOAD_IDENTITY:
		return read_token_credential(vault, clock, s, error);
	case CONFIG_AUTH_NONE:
		break;
	}
	return azureblob_credential_new_account(&s->account, &s->credential, error);
}

static int read_proxy(
	const struct config_vault *vault, struct azure_service *s, struct error *error)
{
	int r = 0;
	if (vault->proxy_credentials_file)
		r = config_secret_path(
			vault->proxy_credentials_file, error, &s->proxy_credentials_file);
	s->options.http.proxy = vault->proxy;
	s->options.http.proxy_credentials_file = s->proxy_credentials_file;
	s->options.http.no_proxy = vault->no_proxy;
	return r;
}

static int wire(const struct config_vault *vault, struct clock_source *clock,
	struct azure_service *s, struct error *error)
{
	if (!vault->container)
		return error_set(error, -EINVAL, "set container in [vault]",
			"the vault's container is not configured");
	s->options.http = (struct http_options){ .ca_file = vault->ca_file,
		.read_stall_timeout_ms = READ_STALL_MS,
		.stop = { &s->stop } };
	s->clock = clock;
	int r = read_proxy(vault, s, error);
	if (r == 0)
		r = read_account(vault, s, error);
	if (r == 0)
		r = read_credential(vault, clock, s, error);
	if (r < 0)
		return r;
	s->options.account = &s->account;
	s->options.credential = s->credential;
	s->options.container = vault->container;
	s->limits = (struct blob_limits){ .requests_per_s = vault->blob_requests,
		.bytes_per_s = vault->blob_bandwidth };
	/* The vault and the flusher try again themselves, for half a minute a call (backoff.h);
	 * here only what a lost packet does is ridden out, or the two would multiply: what has
	 * stalled once is not tried again here. */
	s->options.retry = (struct retry_policy){ .attempts = 3,
		.first_ns = 200 * NS_PER_MS,
		.longest_ns = 2 * NS_PER_S,
		.total_ns = 10 * NS_PER_S };
	/* TLS proves the bytes on the way, the point's hashes prove them for ever after. */
	s->options.checksum = AZUREBLOB_NO_CHECKSUM;
	if (asprintf(&s->name, "%s/%s", s->account.name, vault->container) < 0) {
		s->name = NULL;
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	}
	return 0;
}

int blob_azure_new(const struct config_vault *vault, struct clock_source *clock,
	struct error *error, struct blob_service **ret_service)
{
	struct azure_service *s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	s->service.ops = &service_ops;
	int r = wire(vault, clock, s, error);
	if (r < 0) {
		blob_azure_free(&s->service);
		return r;
	}
	*ret_service = &s->service;
	return 0;
}

void blob_azure_stop(struct blob_service *service)
{
	if (service)
		atomic_store(&service_of(service)->stop, true);
}

void blob_azure_free(struct blob_service *service)
{
	if (!service)
		return;
	struct azure_service *s = service_of(service);
	azureblob_credential_free(s->credential);
	azureblob_account_free(&s->account);
	free(s->proxy_credentials_file);
	free(s->name);
	free(s);
}
