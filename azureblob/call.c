/*
 * Building requests and reading their answers. Nothing here waits.
 *
 * A request's URL and its own headers are built once; date, authority and what else belongs to
 * one attempt is added by the client each time.
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

static int append_blob_url(struct azureblob *client, const char *blob, struct buf *b)
{
	int r = buf_printf(b, "%s/%s", client->endpoint, client->container);
	if (r == 0 && blob)
		r = buf_append_text(b, "/");
	if (r == 0 && blob)
		r = url_escape(b, blob, "/");
	return r;
}

void azureblob_call_begin(struct azureblob *client, struct azureblob_request *request,
	const char *method, const char *blob, enum http_safety safety)
{
	http_call_begin(client->calls, &request->call, method, safety);
	request->received_bytes = 0;
	request->check = AZUREBLOB_CHECK_NONE;
	http_call_note(&request->call, append_blob_url(client, blob, &request->call.url));
	if (!blob)
		http_call_query(&request->call, "restype", "container");
	http_call_header(&request->call, "x-ms-version", SERVICE_VERSION);
	http_call_headerf(&request->call, "x-ms-client-request-id", "%016" PRIx64,
		http_calls_random(client->calls));
}

void azureblob_call_metadata(struct azureblob_request *request, const struct http_headers *metadata)
{
	char name[128];
	for (size_t i = 0; metadata && i < metadata->count; i++) {
		int n = snprintf(
			name, sizeof(name), "x-ms-meta-%s", http_headers_name(metadata, i));
		if (n < 0 || (size_t)n >= sizeof(name))
			http_call_note(&request->call, -EINVAL);
		http_call_header(&request->call, name, http_headers_value(metadata, i));
	}
}

void azureblob_call_conditions(
	struct azureblob_request *request, const struct azureblob_conditions *conditions)
{
	if (!conditions)
		return;
	http_call_header(&request->call, "x-ms-lease-id", conditions->lease_id);
	http_call_header(&request->call, "If-Match", conditions->if_match);
	http_call_header(&request->call, "If-None-Match", conditions->if_none_match);
	if (conditions->has_sequence)
		http_call_headerf(&request->call, "x-ms-if-sequence-number-eq", "%" PRId64,
			conditions->sequence);
}

void azureblob_call_body(struct azureblob_request *request, const void *data, size_t n)
{
	request->body = (struct iovec){ (void *)data, n };
	azureblob_call_body_iov(request, &request->body, n > 0);
}

void azureblob_call_body_iov(struct azureblob_request *request, const struct iovec *data, int count)
{
	request->call.http.body = data;
	request->call.http.body_count = count;
}

int azureblob_call_source_url(
	struct azureblob *client, const char *blob, const char *snapshot, struct buf *url)
{
	int r = append_blob_url(client, blob, url);
	if (r == 0 && snapshot)
		r = url_add_query(url, "snapshot", snapshot);
	return r < 0 ? r : azureblob_credential_add_sas(client->credential, url);
}

const char *azureblob_call_answer(const struct azureblob_request *request, const char *header)
{
	return http_headers_get(&request->call.http.ret_headers, header);
}

int azureblob_call_answer_copy(const struct azureblob_request *request, const char *header,
	char *ret_text, size_t room, struct http_error *error)
{
	const char *value = azureblob_call_answer(request, header);
	char what[96];
	if (!value || strlen(value) >= room) {
		snprintf(what, sizeof(what), "the answer has no usable %s", header);
		return http_call_bad_answer(&request->call, error, what);
	}
	memcpy(ret_text, value, strlen(value) + 1);
	return 0;
}

int azureblob_call_answer_xml(
	const struct azureblob_request *request, struct xml **ret_xml, struct http_error *error)
{
	struct error why = { 0 };
	const struct buf *body = &request->call.http.ret_body;
	int r = xml_parse(body->data ? body->data : "", body->len, NULL, ret_xml, &why);
	return r < 0 ? http_call_bad_answer(&request->call, error, why.message) : 0;
}
