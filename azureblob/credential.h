/*
 * What gives a request its authority: an account key, a shared access signature, or a bearer
 * token of Microsoft Entra, fetched as a managed identity, with a client secret, or by workload
 * identity.
 *
 * One credential serves the clients of any number of threads; it has its own lock. A token is
 * fetched by whichever thread first finds it missing or near its end (five minutes before, or
 * half its life if that is less); meanwhile the others go on with the old one, and wait only
 * when there is none that is still valid, at most half a minute and the request itself. Nothing
 * is fetched under the lock.
 *
 * Secrets come from files, are wiped when let go of, and stand in no message.
 */
#pragma once

#include <stdint.h>

#include "azureblob/account.h"
#include "azureblob/error.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/http.h"

struct azureblob_credential;

enum azureblob_token_source {
	AZUREBLOB_MANAGED_IDENTITY,  /* asks the machine's metadata service */
	AZUREBLOB_CLIENT_SECRET,     /* an application's */
	AZUREBLOB_WORKLOAD_IDENTITY, /* a token file, exchanged; read anew each time */
};

/* Strings are copied. */
struct azureblob_token_options {
	enum azureblob_token_source source;
	const char *resource; /* whom the token is for; NULL: https://storage.azure.com */
	/* Managed identity: the user-assigned one, NULL for the machine's own. Else the
	 * application; NULL: as AZURE_CLIENT_ID says. */
	const char *client_id;
	const char *tenant_id;            /* NULL: as AZURE_TENANT_ID says */
	const char *client_secret_file;   /* on its first line */
	const char *federated_token_file; /* NULL: as AZURE_FEDERATED_TOKEN_FILE says */
	const char *login_endpoint;       /* NULL: AZURE_AUTHORITY_HOST, or the public cloud's */
	const char *imds_endpoint;        /* NULL: http://169.254.169.254 */
	struct http_options http;         /* for the login endpoint; IMDS is never asked by proxy */
};

/* All: 0, -EINVAL, -ENOMEM, with `error` filled (may be NULL). `key` is base64. */
int azureblob_credential_new_key(const char *account, const char *key,
	struct azureblob_credential **ret_credential, struct error *error);
int azureblob_credential_new_sas(
	const char *sas, struct azureblob_credential **ret_credential, struct error *error);
/* `clock` is borrowed. Fetches nothing yet. */
int azureblob_credential_new_token(const struct azureblob_token_options *options,
	struct clock_source *clock, struct azureblob_credential **ret_credential,
	struct error *error);
/* From what a connection string gave: the key, else the signature, else -EINVAL. */
int azureblob_credential_new_account(const struct azureblob_account *account,
	struct azureblob_credential **ret_credential, struct error *error);
/* After the last client that uses it; NULL is fine. */
void azureblob_credential_free(struct azureblob_credential *credential);

/* Makes one attempt at a request pass: adds x-ms-date and Authorization to `headers`, or a
 * signature to `url`. To be called anew for every attempt. May block while a token is fetched, by
 * this thread or another; ends as -ECANCELED once `behalf`, the client whose request it is (may be
 * NULL), is told to stop. 0, -EACCES or what the fetching ended with, in `ret_error` too. Any
 * thread. */
int azureblob_credential_authorize(struct azureblob_credential *credential,
	const struct http *behalf, const char *method, struct buf *url,
	struct http_headers *headers, uint64_t content_length, struct http_error *ret_error);

/* Appends a valid token (not for keys and signatures: -EINVAL). Blocks as above. Any thread. */
int azureblob_credential_token(struct azureblob_credential *credential, const struct http *behalf,
	struct buf *ret_token, struct http_error *ret_error);

/* A request with these headers got a 401: the token it bore will not be used again. Any thread. */
enum http_refusal azureblob_credential_refused(
	struct azureblob_credential *credential, const struct http_headers *headers);

/* Appends the signature to a URL another party shall read (the source of a copy); does nothing
 * for other credentials. 0 or -ENOMEM. */
int azureblob_credential_add_sas(const struct azureblob_credential *credential, struct buf *url);
