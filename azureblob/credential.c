/*
 * One object of three kinds. The lock of `renewal` guards `token`; whoever fetches owns `http`,
 * `rng` and `next` meanwhile.
 */
#include "azureblob/credential.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/sign.h"
#include "azureblob/token.h"
#include "common/base64.h"
#include "common/cleanup.h"
#include "common/renewal.h"
#include "common/utc.h"

enum kind { KIND_KEY, KIND_SAS, KIND_TOKEN };

struct azureblob_credential {
	enum kind kind;
	struct clock_source *clock;
	char *account; /* KIND_KEY */
	uint8_t *key;  /* KIND_KEY */
	size_t key_bytes;
	char *sas;                  /* KIND_SAS */
	struct token_source source; /* KIND_TOKEN, and all below */
	struct http *http;
	struct rng rng;
	struct renewal renewal;
	struct token token;
	struct token next; /* put by: fetched, and not in force yet */
};

static int fetch(void *owner, const struct http *behalf, bool patient, int64_t *ret_expires_ns,
	struct http_error *ret_error)
{
	struct azureblob_credential *c = owner;
	int r = token_fetch(
		&c->source, c->http, behalf, c->clock, &c->rng, patient, &c->next, ret_error);
	if (r == 0)
		*ret_expires_ns = c->next.expires_ns;
	return r;
}

static void replace(void *owner)
{
	struct azureblob_credential *c = owner;
	token_free(&c->token);
	c->token = c->next;
	c->next = (struct token){ 0 };
}

static const struct renewal_ops token_ops = { fetch, replace };

static struct azureblob_credential *make(enum kind kind, struct clock_source *clock)
{
	struct azureblob_credential *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->kind = kind;
	c->clock = clock;
	renewal_init(&c->renewal, &token_ops, c, clock);
	return c;
}

void azureblob_credential_free(struct azureblob_credential *c)
{
	if (!c)
		return;
	if (c->key)
		explicit_bzero(c->key, c->key_bytes);
	if (c->sas)
		explicit_bzero(c->sas, strlen(c->sas));
	free(c->account);
	free(c->key);
	free(c->sas);
	token_source_free(&c->source);
	token_free(&c->token);
	http_free(c->http);
	renewal_destroy(&c->renewal);
	free(c);
}

static void credential_freep(struct azureblob_credential **c)
{
	azureblob_credential_free(*c);
}

int azureblob_credential_new_key(const char *account, const char *key,
	struct azureblob_credential **ret_credential, struct error *error)
{
	CLEANUP(credential_freep) struct azureblob_credential *c = make(KIND_KEY, clock_system());
	if (!c)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	c->account = strdup(account);
	c->key = malloc(BASE64_DATA_BYTES(strlen(key)));
	if (!c->account || !c->key)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	if (base64_decode(key, strlen(key), c->key, &c->key_bytes) < 0 || c->key_bytes == 0)
		return error_set(error, -EINVAL, "copy it whole, with the = at its end",
			"storage account %s: the key is not base64", account);
	*ret_credential = TAKE(c);
	return 0;
}

int azureblob_credential_new_sas(
	const char *sas, struct azureblob_credential **ret_credential, struct error *error)
{
	sas += sas[0] == '?';
	if (!strstr(sas, "sig="))
		return error_set(error, -EINVAL, "copy it whole: it begins with sv= or the like",
			"the shared access signature has no sig");
	CLEANUP(credential_freep) struct azureblob_credential *c = make(KIND_SAS, clock_system());
	if (!c || !(c->sas = strdup(sas)))
		return error_set(error, -ENOMEM, NULL, "out of memory");
	*ret_credential = TAKE(c);
	return 0;
}

int azureblob_credential_new_token(const struct azureblob_token_options *options,
	struct clock_source *clock, struct azureblob_credential **ret_credential,
	struct error *error)
{
	CLEANUP(credential_freep) struct azureblob_credential *c = make(KIND_TOKEN, clock);
	if (!c)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = token_source_init(&c->source, options, error);
	if (r == 0)
		r = http_new(&options->http, &c->http, error);
	if (r == 0 && (r = rng_seed_randomly(&c->rng)) < 0)
		error_set(error, r, NULL, "no randomness");
	if (r < 0)
		return r;
	*ret_credential = TAKE(c);
	return 0;
}

int azureblob_credential_new_account(const struct azureblob_account *account,
	struct azureblob_credential **ret_credential, struct error *error)
{
	if (account->key)
		return azureblob_credential_new_key(
			account->name, account->key, ret_credential, error);
	if (account->sas)
		return azureblob_credential_new_sas(account->sas, ret_credential, error);
	return error_set(error, -EINVAL, "give AccountKey or SharedAccessSignature",
		"storage account %s: no credentials are given", account->name);
}

int azureblob_credential_token(struct azureblob_credential *c, const struct http *behalf,
	struct buf *ret_token, struct http_error *ret_error)
{
	if (c->kind != KIND_TOKEN)
		return http_error_set(ret_error, -EINVAL, "this credential has no tokens");
	SCOPED_LOCK(&c->renewal.lock);
	int r = renewal_make_valid(&c->renewal, behalf, ret_error);
	if (r < 0)
		return r;
	r = buf_append_text(ret_token, c->token.text);
	return r < 0 ? http_error_set(ret_error, r, "out of memory") : 0;
}

enum http_refusal azureblob_credential_refused(
	struct azureblob_credential *c, const struct http_headers *headers)
{
	if (c->kind != KIND_TOKEN)
		return HTTP_REFUSED_FOR_GOOD;
	const char *bearer = http_headers_get(headers, "Authorization");
	SCOPED_LOCK(&c->renewal.lock);
	if (!bearer || !c->renewal.held || strncmp(bearer, "Bearer ", 7) != 0 ||
		strcmp(bearer + 7, c->token.text) != 0)
		return HTTP_REFUSED_OLD;
	token_free(&c->token);
	c->renewal.held = false;
	return HTTP_REFUSED_CURRENT;
}

int azureblob_credential_add_sas(const struct azureblob_credential *c, struct buf *url)
{
	if (c->kind != KIND_SAS)
		return 0;
	bool first = !strchr(url->data, '?');
	return buf_printf(url, "%s%s", first ? "?" : "&", c->sas);
}

static int authorize_by_key(struct azureblob_credential *c, const char *method,
	const struct buf *url, struct http_headers *headers, uint64_t content_length)
{
	CLEANUP(buf_free) struct buf value = { 0 };
	int r = azureblob_sign(c->account, c->key, c->key_bytes, method, url->data, headers,
		content_length, &value);
	return r < 0 ? r : http_headers_add(headers, "Authorization", value.data);
}

int azureblob_credential_authorize(struct azureblob_credential *c, const struct http *behalf,
	const char *method, struct buf *url, struct http_headers *headers, uint64_t content_length,
	struct http_error *ret_error)
{
	char date[UTC_HTTP_BYTES];
	CLEANUP(buf_free) struct buf bearer = { 0 };
	utc_format_http(clock_realtime_ns(c->clock), date);
	int r = http_headers_add(headers, "x-ms-date", date);
	if (r == 0 && c->kind == KIND_KEY)
		r = authorize_by_key(c, method, url, headers, content_length);
	if (r == 0 && c->kind == KIND_SAS)
		r = azureblob_credential_add_sas(c, url);
	if (r == 0 && c->kind == KIND_TOKEN) {
		r = buf_append_text(&bearer, "Bearer ");
		if (r == 0) {
			r = azureblob_credential_token(c, behalf, &bearer, ret_error);
			if (r < 0)
				return r;
			r = http_headers_add(headers, "Authorization", bearer.data);
		}
	}
	if (r < 0)
		return http_error_set(ret_error, r, "the request could not be signed");
	return 0;
}
