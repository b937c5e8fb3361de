/*
 * SharedKey signatures, as "Authorize with Shared Key" of the service's reference rules them for
 * versions from 2015-02-21 on: Content-Length is the empty string when it is 0, and a path-style
 * URL names the account twice in the canonical resource. Pure functions.
 */
#pragma once

#include <stdint.h>

#include "common/buf.h"
#include "common/http_headers.h"

/* Appends the string to sign. `url` is the whole URL as it goes over the wire; `headers` those
 * that are sent, x-ms-date and x-ms-version among them. 0, -EINVAL or -ENOMEM. */
int azureblob_string_to_sign(const char *account, const char *method, const char *url,
	const struct http_headers *headers, uint64_t content_length, struct buf *b);

/* Appends the value of Authorization: "SharedKey account:signature". 0, -EINVAL (the URL), -EIO
 * or -ENOMEM. */
int azureblob_sign(const char *account, const void *key, size_t key_bytes, const char *method,
	const char *url, const struct http_headers *headers, uint64_t content_length,
	struct buf *b);
