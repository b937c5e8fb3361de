/*
 * The client: what the blob service adds to the engine of common/http_calls.h. How an attempt gets
 * its authority, whether a 2xx is the answer to what was asked, and what a 401 says of a token.
 */
#include "azureblob/azureblob.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/call.h"
#include "azureblob/client_internal.h"
#include "azureblob/crc64.h"
#include "common/bytes.h"
#include "common/cleanup.h"

static struct azureblob *client_of(const struct http_call *call)
{
	return http_calls_context(call->calls);
}

static int prepare(struct http_call *call)
{
	struct azureblob_request *request = CONTAINER_OF(call, struct azureblob_request, call);
	struct buf *url = &request->signed_url;
	buf_clear(url);
	int r = buf_append(url, call->url.data, call->url.len);
	if (r == 0)
		r = azureblob_credential_authorize(client_of(call)->credential,
			http_calls_http(call->calls), call->http.method, url, &call->http.headers,
			http_call_body_bytes(call), &call->error);
	call->http.url = url->data;
	return r;
}

static int bad_answer(struct http_call *call, const char *what)
{
	return http_call_bad_answer(call, &call->error, what);
}

/* "bytes 0-511/1024". The end of a blob as the emulator tells it: "bytes 6-5/6". */
static bool range_matches(const char *text, uint64_t offset, uint64_t n)
{
	uint64_t first, last, total;
	if (!text ||
		sscanf(text, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64, &first, &last, &total) != 3)
		return false;
	return first == offset && last + 1 == offset + n && offset + n <= total;
}

static int check_range(struct azureblob_request *request)
{
	struct http_call *call = &request->call;
	const struct http_request *http = &call->http;
	uint64_t n = http->received_bytes;
	const char *crc = http_headers_get(&http->ret_headers, "x-ms-content-crc64");
	if (http->status == 200 && request->range_offset == 0 && n <= request->range_bytes) {
		/* The whole blob in place of a range that covers it. */
	} else if (http->status != 206 ||
		   !range_matches(http_headers_get(&http->ret_headers, "Content-Range"),
			   request->range_offset, n)) {
		return bad_answer(call, "the answer is not the range that was asked for");
	}
	if (n < request->range_bytes && request->check == AZUREBLOB_CHECK_RANGE)
		return bad_answer(call, "the answer is shorter than the range asked for");
	if (crc && client_of(call)->checksum == AZUREBLOB_CRC64) {
		char text[AZUREBLOB_CRC64_TEXT_BYTES];
		azureblob_crc64_format(azureblob_crc64(0, http->into, n), text);
		if (strcmp(text, crc) != 0)
			return bad_answer(call, "what came does not match its checksum");
	}
	request->received_bytes = n;
	return 0;
}

/* A 2xx: is it the service's, and what was asked for? */
static int check(struct http_call *call)
{
	struct azureblob_request *request = CONTAINER_OF(call, struct azureblob_request, call);
	const struct http_headers *headers = &call->http.ret_headers;
	if (!http_headers_get(headers, "x-ms-request-id") &&
		!http_headers_get(headers, "x-ms-version"))
		return bad_answer(call, "the answer does not come from a blob service");
	return request->check == AZUREBLOB_CHECK_NONE ? 0 : check_range(request);
}

static enum http_refusal give_up(struct http_call *call)
{
	return azureblob_credential_refused(client_of(call)->credential, &call->http.headers);
}

static const struct http_service blob_service = {
	.name = "the service",
	.prepare = prepare,
	.check = check,
	.read_error = azureblob_error_read,
	.give_up = give_up,
};

static void azureblob_freep(struct azureblob **client)
{
	azureblob_free(*client);
}

static bool container_is_valid(const char *name)
{
	size_t n = strlen(name);
	if (strcmp(name, "$root") == 0 || strcmp(name, "$web") == 0)
		return true;
	return n >= 3 && n <= 63 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
	       name[0] != '-' && name[n - 1] != '-' && !strstr(name, "--");
}

int azureblob_new(
	const struct azureblob_options *options, struct azureblob **ret_client, struct error *error)
{
	const struct retry_policy policy = { .attempts = 8,
		.first_ns = 200 * NS_PER_MS,
		.longest_ns = 10 * NS_PER_S,
		.total_ns = 120 * NS_PER_S };
	if (!container_is_valid(options->container))
		return error_set(error, -EINVAL,
			"use 3 to 63 small letters, digits and single hyphens",
			"container %s: not a container's name", options->container);
	CLEANUP(azureblob_freep) struct azureblob *client = calloc(1, sizeof(*client));
	if (!client)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	client->credential = options->credential;
	client->checksum = options->checksum;
	client->endpoint = strdup(options->account->endpoint);
	client->container = strdup(options->container);
	if (!client->endpoint || !client->container)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = http_calls_new(&blob_service, client, &options->http,
		options->retry.attempts > 0 ? &options->retry : &policy, &client->calls, error);
	if (r < 0)
		return r;
	*ret_client = TAKE(client);
	return 0;
}

void azureblob_free(struct azureblob *client)
{
	if (!client)
		return;
	http_calls_free(client->calls);
	free(client->endpoint);
	free(client->container);
	free(client);
}

size_t azureblob_pending(const struct azureblob *client)
{
	return http_calls_pending(client->calls);
}

void azureblob_get_stats(const struct azureblob *client, struct http_calls_stats *ret_stats)
{
	http_calls_get_stats(client->calls, ret_stats);
}

void azureblob_request_free(struct azureblob_request *request)
{
	buf_free(&request->signed_url);
	http_call_free(&request->call);
}

int azureblob_wait(struct azureblob *client, int timeout_ms, struct azureblob_request **ret_done)
{
	struct http_call *call;
	int r = http_calls_wait(client->calls, timeout_ms, &call);
	if (r == 0)
		*ret_done = CONTAINER_OF(call, struct azureblob_request, call);
	return r;
}

void azureblob_cancel(struct azureblob *client, struct azureblob_request *request)
{
	http_calls_cancel(client->calls, &request->call);
}

void azureblob_wakeup(struct azureblob *client)
{
	http_calls_wakeup(client->calls);
}
