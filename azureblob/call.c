/*
 * Building requests and reading their answers. Nothing here waits; see client.c for the engine.
 *
 * A request's URL and its own headers are built once; date, authority and what else belongs to
 * one attempt is added by the engine each time.
 */
#include "azureblob/call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "azureblob/client_internal.h"
#include "common/bytes.h"
#include "common/url.h"

#define SERVICE_VERSION "2021-12-02"

enum azureblob_checksum call_checksum(const struct azureblob *client)
{
	return client->checksum;
}

static void note(struct azureblob_request *request, int r)
{
	if (r < 0 && request->build_error == 0)
		request->build_error = r;
}

static int append_blob_url(struct azureblob *client, const char *blob, struct buf *b)
{
	int r = buf_printf(b, "%s/%s", client->endpoint, client->container);
	if (r == 0 && blob)
		r = buf_append_text(b, "/");
	if (r == 0 && blob)
		r = url_escape(b, blob, "/");
	return r;
}

void call_begin(struct azureblob *client, struct azureblob_request *request, const char *method,
	const char *blob, enum call_safety safety)
{
	http_request_reset(&request->http);
	buf_clear(&request->path);
	request->client = client;
	request->build_error = 0;
	request->result = 0;
	request->error = (struct azureblob_error){ 0 };
	request->received_bytes = 0;
	request->attempts = 0;
	request->safety = safety;
	request->check = CALL_CHECK_NONE;
	request->may_have_happened = false;
	request->tokens_refused = 0;
	request->refusals = 0;
	request->http.method = method;
	request->http.fresh_connection = safety == CALL_ONCE;
	request->policy = client->policy;
	note(request, append_blob_url(client, blob, &request->path));
	if (!blob)
		call_query(request, "restype", "container");
	call_header(request, "x-ms-version", SERVICE_VERSION);
	call_headerf(request, "x-ms-client-request-id", "%016" PRIx64, rng_next(&client->rng));
}

void call_query(struct azureblob_request *request, const char *name, const char *value)
{
	if (value)
		note(request, url_add_query(&request->path, name, value));
}

void call_header(struct azureblob_request *request, const char *name, const char *value)
{
	if (value)
		note(request, http_headers_add(&request->http.headers, name, value));
}

void call_headerf(struct azureblob_request *request, const char *name, const char *format, ...)
{
	char value[512];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(value, sizeof(value), format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(value))
		note(request, -EINVAL);
	else
		call_header(request, name, value);
}

void call_metadata(struct azureblob_request *request, const struct http_headers *metadata)
{
	char name[128];
	for (size_t i = 0; metadata && i < metadata->count; i++) {
		int n = snprintf(
			name, sizeof(name), "x-ms-meta-%s", http_headers_name(metadata, i));
		if (n < 0 || (size_t)n >= sizeof(name))
			note(request, -EINVAL);
		call_header(request, name, http_headers_value(metadata, i));
	}
}

void call_conditions(
	struct azureblob_request *request, const struct azureblob_conditions *conditions)
{
	if (!conditions)
		return;
	call_header(request, "x-ms-lease-id", conditions->lease_id);
	call_header(request, "If-Match", conditions->if_match);
	call_header(request, "If-None-Match", conditions->if_none_match);
	if (conditions->has_sequence)
		call_headerf(
			request, "x-ms-if-sequence-number-eq", "%" PRId64, conditions->sequence);
}

void call_body(struct azureblob_request *request, const void *data, size_t n)
{
	request->body = (struct iovec){ (void *)data, n };
	call_body_iov(request, &request->body, n > 0);
}

void call_body_iov(struct azureblob_request *request, const struct iovec *data, int count)
{
	request->http.body = data;
	request->http.body_count = count;
}

void call_body_limit(struct azureblob_request *request, size_t bytes)
{
	request->http.body_limit = bytes;
}

void call_attempts(struct azureblob_request *request, unsigned attempts)
{
	request->policy.attempts = MIN(request->policy.attempts, attempts);
}

int call_source_url(
	struct azureblob *client, const char *blob, const char *snapshot, struct buf *url)
{
	int r = append_blob_url(client, blob, url);
	if (r == 0 && snapshot)
		r = url_add_query(url, "snapshot", snapshot);
	return r < 0 ? r : azureblob_credential_add_sas(client->credential, url);
}

const char *call_answer(const struct azureblob_request *request, const char *header)
{
	return http_headers_get(&request->http.ret_headers, header);
}

int call_bad_answer(
	const struct azureblob_request *request, struct azureblob_error *error, const char *what)
{
	struct azureblob_error e;
	azureblob_error_read(&request->http, &e);
	e.error = -EBADMSG;
	e.ambiguous = request->safety != CALL_READS;
	snprintf(e.message, sizeof(e.message), "%s", what);
	if (error)
		*error = e;
	return -EBADMSG;
}

int call_answer_copy(const struct azureblob_request *request, const char *header, char *ret_text,
	size_t room, struct azureblob_error *error)
{
	const char *value = call_answer(request, header);
	char what[96];
	if (!value || strlen(value) >= room) {
		snprintf(what, sizeof(what), "the answer has no usable %s", header);
		return call_bad_answer(request, error, what);
	}
	memcpy(ret_text, value, strlen(value) + 1);
	return 0;
}

int call_answer_xml(const struct azureblob_request *request, struct xml **ret_xml,
	struct azureblob_error *error)
{
	struct error why = { 0 };
	const struct buf *body = &request->http.ret_body;
	int r = xml_parse(body->data ? body->data : "", body->len, NULL, ret_xml, &why);
	return r < 0 ? call_bad_answer(request, error, why.message) : 0;
}
