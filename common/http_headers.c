/*
 * All text in one growing buffer, fields as offsets into it, so that growth moves nothing that
 * matters. Nothing is folded and nothing joined: obsolete line folding is refused.
 */
#include "common/http_headers.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/cleanup.h"

void http_headers_free(struct http_headers *headers)
{
	buf_free(&headers->text);
	free(headers->items);
	*headers = (struct http_headers){ 0 };
}

void http_headers_clear(struct http_headers *headers)
{
	buf_clear(&headers->text);
	headers->count = 0;
}

static bool is_token(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c >= 0x80 || c == 0 || (!isalnum(c) && !strchr("!#$%&'*+-.^_`|~", c)))
			return false;
	}
	return n > 0;
}

static bool is_value(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

static int add(struct http_headers *headers, const char *name, size_t name_bytes, const char *value,
	size_t value_bytes)
{
	if (headers->count >= HTTP_HEADERS_MAX ||
		name_bytes + value_bytes > HTTP_HEADERS_BYTES_MAX ||
		headers->text.len + name_bytes + value_bytes + 2 > HTTP_HEADERS_BYTES_MAX)
		return -E2BIG;
	if (headers->count == headers->capacity) {
		size_t capacity = MAX(headers->capacity * 2, (size_t)16);
		struct http_header *items = reallocarray(headers->items, capacity, sizeof(*items));
		if (!items)
			return -ENOMEM;
		headers->items = items;
		headers->capacity = capacity;
	}
	struct buf *text = &headers->text;
	int r = buf_reserve(text, name_bytes + value_bytes + 2);
	if (r < 0)
		return r;
	struct http_header *item = &headers->items[headers->count++];
	item->name_at = text->len;
	buf_append(text, name, name_bytes);
	buf_append(text, "", 1);
	item->value_at = text->len;
	buf_append(text, value, value_bytes);
	buf_append(text, "", 1);
	return 0;
}

int http_headers_add(struct http_headers *headers, const char *name, const char *value)
{
	size_t name_bytes = strlen(name);
	size_t value_bytes = strlen(value);
	if (!is_token(name, name_bytes) || !is_value(value, value_bytes))
		return -EINVAL;
	return add(headers, name, name_bytes, value, value_bytes);
}

int http_headers_addf(struct http_headers *headers, const char *name, const char *format, ...)
{
	CLEANUP_FREE char *value = NULL;
	va_list args;
	va_start(args, format);
	int n = vasprintf(&value, format, args);
	va_end(args);
	if (n < 0) {
		value = NULL;
		return -ENOMEM;
	}
	return http_headers_add(headers, name, value);
}

int http_headers_parse_line(struct http_headers *headers, const char *line, size_t n)
{
	if (n > 0 && line[n - 1] == '\n')
		n--;
	if (n > 0 && line[n - 1] == '\r')
		n--;
	if (n == 0)
		return 0;
	if (n >= 5 && memcmp(line, "HTTP/", 5) == 0) {
		http_headers_clear(headers);
		return 0;
	}
	const char *colon = memchr(line, ':', n);
	if (!colon || !is_token(line, (size_t)(colon - line)))
		return -EBADMSG;
	const char *value = colon + 1;
	const char *end = line + n;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	if (!is_value(value, (size_t)(end - value)))
		return -EBADMSG;
	return add(headers, line, (size_t)(colon - line), value, (size_t)(end - value));
}

const char *http_headers_name(const struct http_headers *headers, size_t i)
{
	return headers->text.data + headers->items[i].name_at;
}

const char *http_headers_value(const struct http_headers *headers, size_t i)
{
	return headers->text.data + headers->items[i].value_at;
}

const char *http_headers_get(const struct http_headers *headers, const char *name)
{
	for (size_t i = 0; i < headers->count; i++) {
		if (strcasecmp(http_headers_name(headers, i), name) == 0)
			return http_headers_value(headers, i);
	}
	return NULL;
}

void http_headers_truncate(struct http_headers *headers, size_t count)
{
	if (count >= headers->count)
		return;
	headers->text.len = headers->items[count].name_at;
	headers->count = count;
}
