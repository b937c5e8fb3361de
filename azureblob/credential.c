/*
 * One object of three kinds. The lock guards `token`, `refresh_ns`, `fetching`; whoever sets
 * `fetching` owns `http` and `rng` until it clears it, so the fetch itself runs unlocked.
 */
#include "azureblob/credential.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/sign.h"
#include "azureblob/token.h"
#include "common/base64.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/utc.h"

#define REFRESH_AHEAD_NS (300 * NS_PER_S)
/* After a failed attempt to refresh a token that is still good. */
#define REFRESH_PAUSE_NS (30 * NS_PER_S)
/* How soon a thread that waits for another's fetch heeds its own stop. */
#define WAIT_NS (200 * NS_PER_MS)

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
	pthread_mutex_t lock;
	pthread_cond_t fetched;
	struct token token;
	int64_t refresh_ns; /* monotonic: when to look for a new one */
	bool fetching;
};

static struct azureblob_credential *make(enum kind kind, struct clock_source *clock)
{
	struct azureblob_credential *c = calloc(1, sizeof(*c));
	pthread_condattr_t monotonic;
	if (!c)
		return NULL;
	c->kind = kind;
	c->clock = clock;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&c->fetched, &monotonic);
	pthread_condattr_destroy(&monotonic);
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
	pthread_cond_destroy(&c->fetched);
	pthread_mutex_destroy(&c->lock);
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
	uint64_t seed;
	if (!c)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = token_source_init(&c->source, options, error);
	if (r == 0)
		r = http_new(&options->http, &c->http, error);
	if (r == 0 && (r = random_bytes(&seed, sizeof(seed))) < 0)
		error_set(error, r, NULL, "no randomness");
	if (r < 0)
		return r;
	rng_seed(&c->rng, seed);
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

/* Holds the lock before and after, not meanwhile. */
static int fetch(struct azureblob_credential *c, const struct http *behalf, bool patient,
	struct http_error *ret_error)
{
	struct token token = { 0 };
	c->fetching = true;
	pthread_mutex_unlock(&c->lock);
	int r = token_fetch(
		&c->source, c->http, behalf, c->clock, &c->rng, patient, &token, ret_error);
	int64_t now_ns = clock_monotonic_ns(c->clock);
	pthread_mutex_lock(&c->lock);
	c->fetching = false;
	if (r == 0) {
		int64_t life_ns = token.expires_ns - now_ns;
		token_free(&c->token);
		c->token = token;
		c->refresh_ns = token.expires_ns - MIN(REFRESH_AHEAD_NS, life_ns / 2);
	} else {
		c->refresh_ns = now_ns + REFRESH_PAUSE_NS;
	}
	pthread_cond_broadcast(&c->fetched);
	return r;
}

/* Another thread fetches: waits for it a moment. */
static void wait_for_fetch(struct azureblob_credential *c)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WAIT_NS;
	if (until.tv_nsec >= NS_PER_S) {
		until.tv_nsec -= NS_PER_S;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&c->fetched, &c->lock, &until);
}

int azureblob_credential_token(struct azureblob_credential *c, const struct http *behalf,
	struct buf *ret_token, struct http_error *ret_error)
{
	if (c->kind != KIND_TOKEN)
		return http_error_set(ret_error, -EINVAL, "this credential has no tokens");
	SCOPED_LOCK(&c->lock);
	for (;;) {
		int64_t now_ns = clock_monotonic_ns(c->clock);
		bool valid = c->token.text && now_ns < c->token.expires_ns;
		struct http_error e = { 0 };
		if (valid && (c->fetching || now_ns < c->refresh_ns))
			break;
		if (behalf && http_is_stopped(behalf))
			return http_error_set(ret_error, -ECANCELED, "cancelled");
		if (c->fetching) {
			wait_for_fetch(c);
			continue;
		}
		int r = fetch(c, behalf, !valid, &e);
		if (r < 0 && !valid) {
			if (ret_error)
				*ret_error = e;
			return r;
		}
		/* A refresh that failed leaves the old token, good for a while yet. */
	}
	int r = buf_append_text(ret_token, c->token.text);
	return r < 0 ? http_error_set(ret_error, r, "out of memory") : 0;
}

enum http_refusal azureblob_credential_refused(
	struct azureblob_credential *c, const struct http_headers *headers)
{
	if (c->kind != KIND_TOKEN)
		return HTTP_REFUSED_FOR_GOOD;
	const char *bearer = http_headers_get(headers, "Authorization");
	SCOPED_LOCK(&c->lock);
	if (!bearer || !c->token.text || strncmp(bearer, "Bearer ", 7) != 0 ||
		strcmp(bearer + 7, c->token.text) != 0)
		return HTTP_REFUSED_OLD;
	token_free(&c->token);
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
