/*
 * Which storage account, where, and with which key: connection strings, read as the Azure tools
 * read them, and endpoints in both styles.
 *
 *	host-style   https://account.blob.core.windows.net/container/blob
 *	path-style   http://127.0.0.1:10000/account/container/blob (the emulator)
 *
 * In a connection string `Key=Value;…` the order is free, the keys' case does not matter, values
 * may hold '=', unknown keys are passed over. Understood: AccountName, AccountKey,
 * SharedAccessSignature, DefaultEndpointsProtocol, EndpointSuffix, BlobEndpoint,
 * UseDevelopmentStorage=true, DevelopmentStorageProxyUri.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

/* Owned strings. Zeroed is empty. */
struct azureblob_account {
	char *name;
	char *endpoint; /* of the blob service, no slash at its end; path-style: with the account */
	char *key;      /* base64; NULL if none was given */
	char *sas;      /* a query without its '?'; NULL if none was given */
	bool path_style; /* the endpoint's path begins with the account */
};

/* Wipes what is secret; it is empty afterwards. */
void azureblob_account_free(struct azureblob_account *account);

/* 0, -EINVAL (with what is wrong and never a secret in `error`) or -ENOMEM. */
int azureblob_account_parse(
	const char *connection_string, struct azureblob_account *ret_account, struct error *error);

/* From its parts: `name` may be NULL if the endpoint tells it, `endpoint` NULL means the public
 * cloud's. 0, -EINVAL or -ENOMEM. */
int azureblob_account_make(const char *name, const char *endpoint,
	struct azureblob_account *ret_account, struct error *error);
