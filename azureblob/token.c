/*
 * Three ways to the same document: {"access_token", "expires_in" or "expires_on"}.
 *
 * Managed identity: GET /metadata/identity/oauth2/token with "Metadata: true"; 404, 410, 429 and
 * 5xx are to be tried again, 410 for at least 70 seconds ("How to use managed identities for
 * Azure resources on an Azure VM to acquire an access token", Retry guidance). The owner of the
 * thread waits meanwhile, so patience ends after half a minute: whoever called goes on trying at
 * its own pace. The others: POST
 * to /<tenant>/oauth2/v2.0/token (OAuth 2.0 client credentials; RFC 7523 for the assertion).
 * Reading a token changes nothing, so every failure may be tried again.
 */
#include "azureblob/token.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/json.h"
#include "common/url.h"

#define ATTEMPT_TIMEOUT_MS 10000
#define PAUSE_SLICE_NS (250 * NS_PER_MS)
/* The metadata service is being replaced, which takes up to 70 s. */
#define GONE_PAUSE_NS (10 * NS_PER_S)
#define SECRET_BYTES_MAX (64 * KIB)

void token_free(struct token *token)
{
	if (token->text)
		explicit_bzero(token->text, strlen(token->text));
	free(token->text);
	*token = (struct token){ 0 };
}

void token_source_free(struct token_source *source)
{
	free(source->resource);
	free(source->client_id);
	free(source->tenant_id);
	free(source->client_secret_file);
	free(source->federated_token_file);
	free(source->login_endpoint);
	free(source->imds_endpoint);
	*source = (struct token_source){ 0 };
}

/* The first of the three that is there; none leaves the slot NULL. */
static int choose(char **slot, const char *given, const char *variable, const char *fallback)
{
	if (!given && variable)
		given = getenv(variable); /* NOLINT(concurrency-mt-unsafe): nobody sets it */
	if (!given || !given[0])
		given = fallback;
	if (!given)
		return 0;
	size_t n = strlen(given);
	while (n > 0 && given[n - 1] == '/')
		n--;
	*slot = strndup(given, n);
	return *slot ? 0 : -ENOMEM;
}

static int require(const char *value, const char *what, struct error *error)
{
	if (value)
		return 0;
	return error_set(error, -EINVAL, "set it in the configuration or the environment",
		"credentials: %s is not given", what);
}

int token_source_init(
	struct token_source *s, const struct azureblob_token_options *o, struct error *error)
{
	bool login = o->source != AZUREBLOB_MANAGED_IDENTITY;
	s->kind = o->source;
	int r = choose(&s->resource, o->resource, NULL, "https://storage.azure.com");
	if (r == 0)
		r = choose(&s->client_id, o->client_id, login ? "AZURE_CLIENT_ID" : NULL, NULL);
	if (r == 0)
		r = choose(&s->tenant_id, o->tenant_id, "AZURE_TENANT_ID", NULL);
	if (r == 0)
		r = choose(&s->client_secret_file, o->client_secret_file, NULL, NULL);
	if (r == 0)
		r = choose(&s->federated_token_file, o->federated_token_file,
			"AZURE_FEDERATED_TOKEN_FILE", NULL);
	if (r == 0)
		r = choose(&s->login_endpoint, o->login_endpoint, "AZURE_AUTHORITY_HOST",
			"https://login.microsoftonline.com");
	if (r == 0)
		r = choose(&s->imds_endpoint, o->imds_endpoint, NULL, "http://169.254.169.254");
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	if (login)
		r = require(s->tenant_id, "the tenant (AZURE_TENANT_ID)", error);
	if (r == 0 && login)
		r = require(s->client_id, "the application (AZURE_CLIENT_ID)", error);
	if (r == 0 && o->source == AZUREBLOB_CLIENT_SECRET)
		r = require(s->client_secret_file, "the file with the client secret", error);
	if (r == 0 && o->source == AZUREBLOB_WORKLOAD_IDENTITY)
		r = require(s->federated_token_file,
			"the federated token file (AZURE_FEDERATED_TOKEN_FILE)", error);
	return r;
}

static int add_field(struct buf *form, const char *name, const char *value)
{
	int r = buf_printf(form, "%s%s=", form->len ? "&" : "", name);
	return r < 0 ? r : url_escape(form, value, NULL);
}

/* Adds the first line of a file as a field. */
static int add_secret(
	struct buf *form, const char *name, const char *path, struct http_error *ret_error)
{
	char *secret = NULL;
	size_t n;
	int r = io_load_file(io_posix(), path, SECRET_BYTES_MAX, &secret, &n);
	if (r < 0)
		return http_error_set(
			ret_error, -EACCES, "credentials: %s: %s", path, strerrordesc_np(-r));
	secret[strcspn(secret, "\r\n")] = '\0';
	if (secret[0])
		r = add_field(form, name, secret);
	else
		r = http_error_set(ret_error, -EACCES, "credentials: %s is empty", path);
	explicit_bzero(secret, n);
	free(secret);
	return r;
}

static int prepare_imds(const struct token_source *s, struct http_request *request, struct buf *url)
{
	int r = buf_printf(url, "%s/metadata/identity/oauth2/token", s->imds_endpoint);
	if (r == 0)
		r = url_add_query(url, "api-version", "2018-02-01");
	if (r == 0)
		r = url_add_query(url, "resource", s->resource);
	if (r == 0 && s->client_id)
		r = url_add_query(url, "client_id", s->client_id);
	if (r == 0)
		r = http_headers_add(&request->headers, "Metadata", "true");
	request->method = "GET";
	request->direct = true;
	return r;
}

static int prepare_login(const struct token_source *s, struct http_request *request,
	struct buf *url, struct buf *form, struct http_error *ret_error)
{
	CLEANUP(buf_free) struct buf scope = { 0 };
	int r = buf_printf(url, "%s/", s->login_endpoint);
	if (r == 0)
		r = url_escape(url, s->tenant_id, NULL);
	if (r == 0)
		r = buf_append_text(url, "/oauth2/v2.0/token");
	if (r == 0)
		r = buf_printf(&scope, "%s/.default", s->resource);
	if (r == 0)
		r = add_field(form, "grant_type", "client_credentials");
	if (r == 0)
		r = add_field(form, "client_id", s->client_id);
	if (r == 0)
		r = add_field(form, "scope", scope.data);
	if (r == 0 && s->kind == AZUREBLOB_WORKLOAD_IDENTITY)
		r = add_field(form, "client_assertion_type",
			"urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
	if (r < 0)
		return r;
	if (s->kind == AZUREBLOB_WORKLOAD_IDENTITY)
		r = add_secret(form, "client_assertion", s->federated_token_file, ret_error);
	else
		r = add_secret(form, "client_secret", s->client_secret_file, ret_error);
	if (r == 0)
		r = http_headers_add(
			&request->headers, "Content-Type", "application/x-www-form-urlencoded");
	request->method = "POST";
	return r;
}

static int read_token(const struct http_request *request, struct clock_source *clock,
	struct token *ret_token, struct http_error *ret_error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct error error = { 0 };
	struct json root;
	const char *text = NULL;
	uint64_t seconds = 0;
	const struct buf *body = &request->ret_body;
	int r = json_parse(body->data ? body->data : "", body->len, NULL, &json, &error);
	if (r == 0) {
		json_root(json, "token", &root);
		r = json_get_text(&root, "access_token", &text, &error);
	}
	if (r == 0) {
		r = json_find_u64(&root, "expires_in", &seconds, &error);
		if (r == 0) {
			r = json_get_u64(&root, "expires_on", &seconds, &error);
			int64_t now_s = clock_realtime_ns(clock) / NS_PER_S;
			seconds = (int64_t)seconds > now_s ? seconds - (uint64_t)now_s : 0;
		}
	}
	if (r < 0)
		return http_error_set(ret_error, -EBADMSG, "%s", error.message);
	char *copy = strdup(text);
	if (!copy)
		return http_error_set(ret_error, -ENOMEM, "out of memory");
	seconds = MIN(seconds, (uint64_t)30 * 86400);
	*ret_token = (struct token){ .text = copy,
		.expires_ns = clock_monotonic_ns(clock) + (int64_t)seconds * NS_PER_S };
	return 0;
}

/* An OAuth error document has "error" and "error_description". */
static void read_refusal(const struct http_request *request, struct http_error *e)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	const char *code = NULL;
	const char *text = NULL;
	azureblob_error_read(request, e);
	if (request->ret_body.len == 0 ||
		json_parse(request->ret_body.data, request->ret_body.len, NULL, &json, NULL) < 0)
		return;
	json_root(json, NULL, &root);
	if (json_find_text(&root, "error", &code, NULL) == 1)
		snprintf(e->code, sizeof(e->code), "%s", code);
	if (json_find_text(&root, "error_description", &text, NULL) == 1)
		snprintf(e->message, sizeof(e->message), "no token: %.*s",
			(int)strcspn(text, "\r\n"), text);
}

static bool may_try_again(const struct token_source *s, const struct http_request *request)
{
	int status = request->status;
	if (request->error == -ECANCELED)
		return false;
	if (request->outcome != HTTP_ANSWERED)
		return request->error != -EINVAL && request->error != -EKEYREJECTED;
	if (s->kind == AZUREBLOB_MANAGED_IDENTITY && (status == 404 || status == 410))
		return true;
	return status == 408 || status == 429 || status >= 500;
}

/* Without a token nothing is permitted; but what passes by itself is not a refusal. */
static int errno_of(const struct http_request *request, int error)
{
	int status = request->status;
	if (request->outcome != HTTP_ANSWERED || status >= 500)
		return error;
	return status == 408 || status == 410 || status == 429 ? -EAGAIN : -EACCES;
}

/* Shorter if a client is told to stop. */
static void pause_for(
	const struct http *http, const struct http *behalf, struct clock_source *clock, int64_t ns)
{
	int64_t end_ns = clock_monotonic_ns(clock) + ns;
	int64_t left_ns;
	while ((left_ns = end_ns - clock_monotonic_ns(clock)) > 0 && !http_is_stopped(http) &&
		!(behalf && http_is_stopped(behalf)))
		clock_sleep_ns(clock, MIN(left_ns, PAUSE_SLICE_NS));
}

int token_fetch(const struct token_source *s, struct http *http, const struct http *behalf,
	struct clock_source *clock, struct rng *rng, bool patient, struct token *ret_token,
	struct http_error *ret_error)
{
	const struct retry_policy policy = {
		.attempts = patient ? 12 : 1,
		.first_ns = NS_PER_S,
		.longest_ns = 15 * NS_PER_S,
		.total_ns = 30 * NS_PER_S,
	};
	CLEANUP(http_request_free) struct http_request request = { 0 };
	CLEANUP(buf_free) struct buf url = { 0 };
	CLEANUP(buf_free) struct buf form = { 0 };
	struct http_error e = { 0 };
	struct retry retry;
	int r = s->kind == AZUREBLOB_MANAGED_IDENTITY ? prepare_imds(s, &request, &url)
						      : prepare_login(s, &request, &url, &form, &e);
	if (r < 0) {
		if (!e.error)
			http_error_set(&e, r, "out of memory");
		*ret_error = e;
		return r;
	}
	struct iovec body = { form.data, form.len };
	request.url = url.data;
	request.body = &body;
	request.body_count = form.len > 0;
	request.total_timeout_ms = ATTEMPT_TIMEOUT_MS;
	request.behalf = behalf;
	retry_start(&retry, &policy, clock, rng);
	for (;;) {
		int64_t wait_ns;
		r = http_perform(http, &request);
		if (r < 0) {
			http_error_set(&e, r, "no token: the request could not be made");
			break;
		}
		if (request.outcome == HTTP_ANSWERED && request.status == 200) {
			r = read_token(&request, clock, ret_token, &e);
			break;
		}
		read_refusal(&request, &e);
		r = e.error = errno_of(&request, e.error);
		int64_t after_ns =
			retry_after_parse(http_headers_get(&request.ret_headers, "Retry-After"),
				clock_realtime_ns(clock));
		if (request.status == 410)
			after_ns = MAX(after_ns, GONE_PAUSE_NS);
		if (!may_try_again(s, &request) || !retry_next(&retry, after_ns, &wait_ns))
			break;
		pause_for(http, behalf, clock, wait_ns);
	}
	if (form.data)
		explicit_bzero(form.data, form.len);
	if (r < 0)
		*ret_error = e;
	return r;
}
