/*
 * Any bytes as the head of an HTTP answer, cut at line ends: what was taken is clean and found
 * again, and can be sent on; then as an error of the blob service.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/error.h"
#include "common/cleanup.h"
#include "common/http_headers.h"
#include "common/retry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct http_headers *headers)
{
	CLEANUP(http_headers_free) struct http_headers again = { 0 };
	if (headers->count > HTTP_HEADERS_MAX || headers->text.len > HTTP_HEADERS_BYTES_MAX)
		abort();
	for (size_t i = 0; i < headers->count; i++) {
		const char *name = http_headers_name(headers, i);
		const char *value = http_headers_value(headers, i);
		if (!http_headers_get(headers, name) || strpbrk(value, "\r\n"))
			abort();
		if (http_headers_add(&again, name, value) < 0)
			abort();
	}
	int64_t wait_ns = retry_after_parse(http_headers_get(headers, "Retry-After"), 0);
	if (wait_ns < RETRY_AFTER_NONE || wait_ns > 86400 * NS_PER_S)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	CLEANUP(http_request_free)
	struct http_request http = {
		.outcome = HTTP_ANSWERED,
		.status = size ? 100 + data[0] % 5 * 100 + data[0] / 5 : 500,
	};
	const char *text = (const char *)data;
	while (size > 0) {
		const char *end = memchr(text, '\n', size);
		size_t n = end ? (size_t)(end - text) + 1 : size;
		if (http_headers_parse_line(&http.ret_headers, text, n) < 0)
			(void)buf_append(&http.ret_body, text, n);
		text += n;
		size -= n;
	}
	check(&http.ret_headers);
	struct http_error error;
	struct error told = { 0 };
	azureblob_error_read(&http, &error);
	if (error.error >= 0 || azureblob_error_tell(&error, "fuzz", &told) != error.error ||
		strpbrk(told.message, "\r\n"))
		abort();
	return 0;
}
