/*
 * A small table of HTTP header fields, for requests and answers alike: names compared without
 * case, order kept, bounded.
 */
#pragma once

#include <stddef.h>

#include "common/buf.h"

#define HTTP_HEADERS_MAX 128u
#define HTTP_HEADERS_BYTES_MAX (64u * 1024)

struct http_header {
	size_t name_at; /* into the table's text; both end with a NUL */
	size_t value_at;
};

/* Zeroed is empty. One thread at a time. */
struct http_headers {
	struct buf text;
	struct http_header *items; /* owned */
	size_t count;
	size_t capacity;
};

/* Releases the memory; the table is empty and usable afterwards. */
void http_headers_free(struct http_headers *headers);
/* Forgets the fields, keeps the memory. */
void http_headers_clear(struct http_headers *headers);
/* Keeps the first `count` fields only. */
void http_headers_truncate(struct http_headers *headers, size_t count);

/* Adds a field; several of one name may stand side by side. `name` is a token of RFC 9110,
 * `value` has no control characters but tabs. 0, -EINVAL, -E2BIG beyond the bounds, -ENOMEM. */
int http_headers_add(struct http_headers *headers, const char *name, const char *value);
int http_headers_addf(struct http_headers *headers, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Reads one line of an answer, with or without its line end. A status line empties the table
 * first, so that of several answers (100 Continue, a proxy's) the last one's fields stay; the
 * empty line changes nothing. 0, -EBADMSG for what is no header line, -E2BIG, -ENOMEM. */
int http_headers_parse_line(struct http_headers *headers, const char *line, size_t n);

/* The first field of that name; NULL if there is none. Borrowed until the table changes. */
const char *http_headers_get(const struct http_headers *headers, const char *name);
/* Field `i`, below `count`. Borrowed likewise. */
const char *http_headers_name(const struct http_headers *headers, size_t i);
const char *http_headers_value(const struct http_headers *headers, size_t i);
