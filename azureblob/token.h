/*
 * Fetching one bearer token. Inside of credential.c; not for others.
 */
#pragma once

#include "azureblob/credential.h"
#include "common/retry.h"

struct token {
	char *text;         /* owned */
	int64_t expires_ns; /* monotonic */
};

/* What to fetch; owned strings. */
struct token_source {
	enum azureblob_token_source kind;
	char *resource;
	char *client_id; /* NULL: the machine's own identity */
	char *tenant_id;
	char *client_secret_file;
	char *federated_token_file;
	char *login_endpoint; /* no slash at its end */
	char *imds_endpoint;  /* no slash at its end */
};

/* Wipes the text; it is empty afterwards. */
void token_free(struct token *token);
/* It is empty afterwards. */
void token_source_free(struct token_source *source);
/* Fills in the defaults and what the environment says. 0, -EINVAL or -ENOMEM. */
int token_source_init(struct token_source *source, const struct azureblob_token_options *options,
	struct error *error);

/* Blocks until there is a token, or none is to be had: retries as the metadata service's rules
 * say, up to half a minute if `patient`, else tries once. -ECANCELED soon after `http`, or
 * `behalf` (may be NULL), is told to stop. 0, or -errno also in `ret_error`. */
int token_fetch(const struct token_source *source, struct http *http, const struct http *behalf,
	struct clock_source *clock, struct rng *rng, bool patient, struct token *ret_token,
	struct http_error *ret_error);
