/*
 * A connection string tells all; otherwise the account and the way to authenticate are put
 * together from the configuration's keys. Secrets are read here, at the start, except those that
 * change while the daemon runs (a federated token), which the credential reads anew itself.
 */
#include "appliance/vault_access.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

static void wipe_text(char **secret)
{
	if (*secret)
		explicit_bzero(*secret, strlen(*secret));
	free(*secret);
}

void vault_access_free(struct vault_access *access)
{
	if (!access)
		return;
	azureblob_credential_free(access->credential);
	azureblob_account_free(&access->account);
	free((char *)access->http.proxy_credentials_file);
	free(access);
}

static int use_connection_string(
	const struct config_vault *vault, struct error *error, struct vault_access *access)
{
	int r = azureblob_account_parse(vault->connection_string, &access->account, error);
	if (r == 0)
		r = azureblob_credential_new_account(&access->account, &access->credential, error);
	return r < 0 ? error_prefix(error, "the vault's connection string") : 0;
}

static int use_key(
	const struct config_vault *vault, struct error *error, struct vault_access *access)
{
	CLEANUP(wipe_text) char *key = NULL;
	int r = config_read_secret(vault->key_file, error, &key);
	return r < 0 ? r
		     : azureblob_credential_new_key(
			       access->account.name, key, &access->credential, error);
}

static int use_sas(
	const struct config_vault *vault, struct error *error, struct vault_access *access)
{
	CLEANUP(wipe_text) char *sas = NULL;
	int r = config_read_secret(vault->sas_file, error, &sas);
	return r < 0 ? r : azureblob_credential_new_sas(sas, &access->credential, error);
}

static int secret_path(const char *file, struct error *error, char **ret_path)
{
	return file ? config_secret_path(file, error, ret_path) : 0;
}

static int use_token(const struct config_vault *vault, enum azureblob_token_source source,
	struct clock_source *clock, struct error *error, struct vault_access *access)
{
	CLEANUP_FREE char *secret = NULL;
	CLEANUP_FREE char *federated = NULL;
	int r = secret_path(vault->client_secret_file, error, &secret);
	if (r == 0)
		r = secret_path(vault->federated_token_file, error, &federated);
	if (r < 0)
		return r;
	const struct azureblob_token_options options = {
		.source = source,
		.client_id = vault->client_id,
		.tenant_id = vault->tenant_id,
		.client_secret_file = secret,
		.federated_token_file = federated,
		.login_endpoint = vault->login_endpoint,
		.imds_endpoint = vault->imds_endpoint,
		.http = access->http,
	};
	return azureblob_credential_new_token(&options, clock, &access->credential, error);
}

static int use_keys(const struct config_vault *vault, struct clock_source *clock,
	struct error *error, struct vault_access *access)
{
	int r = azureblob_account_make(vault->account, vault->endpoint, &access->account, error);
	if (r < 0)
		return r;
	switch (vault->auth) {
	case CONFIG_AUTH_SHARED_KEY:
		return use_key(vault, error, access);
	case CONFIG_AUTH_SAS:
		return use_sas(vault, error, access);
	case CONFIG_AUTH_MANAGED_IDENTITY:
		return use_token(vault, AZUREBLOB_MANAGED_IDENTITY, clock, error, access);
	case CONFIG_AUTH_CLIENT_SECRET:
		return use_token(vault, AZUREBLOB_CLIENT_SECRET, clock, error, access);
	case CONFIG_AUTH_WORKLOAD_IDENTITY:
		return use_token(vault, AZUREBLOB_WORKLOAD_IDENTITY, clock, error, access);
	case CONFIG_AUTH_NONE:
		break;
	}
	return error_set(
		error, -EINVAL, "see landfall.conf(5)", "[vault] does not say how to authenticate");
}

int vault_access_new(const struct config_vault *vault, struct clock_source *clock,
	struct error *error, struct vault_access **ret_access)
{
	struct vault_access *access = calloc(1, sizeof(*access));
	if (!access)
		return error_set(error, -ENOMEM, NULL, "no memory");
	access->http.ca_file = vault->ca_file;
	access->http.proxy = vault->proxy;
	access->http.no_proxy = vault->no_proxy;
	char *proxy_credentials = NULL;
	int r = secret_path(vault->proxy_credentials_file, error, &proxy_credentials);
	access->http.proxy_credentials_file = proxy_credentials;
	if (r == 0)
		r = vault->connection_string ? use_connection_string(vault, error, access)
					     : use_keys(vault, clock, error, access);
	if (r < 0) {
		vault_access_free(access);
		return r;
	}
	*ret_access = access;
	return 0;
}
