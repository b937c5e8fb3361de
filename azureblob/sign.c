/*
 * Canonical headers: every x-ms-… header, name in lower case, sorted, blanks around the value
 * cut. Canonical resource: slash, account, the URL's path as sent, then every query parameter
 * with its name in lower case and its value unescaped, sorted; equal names join their values
 * with commas.
 */
#include "azureblob/sign.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base64.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/hmac.h"
#include "common/url.h"

#define PAIRS_MAX (HTTP_HEADERS_MAX + 64)

struct pair {
	char *name;  /* owned, lower case */
	char *value; /* owned */
};

struct pairs {
	struct pair items[PAIRS_MAX];
	size_t count;
};

static void pairs_free(struct pairs *pairs)
{
	for (size_t i = 0; i < pairs->count; i++) {
		free(pairs->items[i].name);
		free(pairs->items[i].value);
	}
}

static int pairs_add(void *context, const char *name, const char *value)
{
	struct pairs *pairs = context;
	if (pairs->count == PAIRS_MAX)
		return -EINVAL;
	struct pair *pair = &pairs->items[pairs->count];
	pair->name = strdup(name);
	pair->value = strdup(value);
	if (!pair->name || !pair->value) {
		free(pair->name);
		free(pair->value);
		return -ENOMEM;
	}
	for (char *p = pair->name; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	pairs->count++;
	return 0;
}

static int compare_pairs(const void *a, const void *b)
{
	const struct pair *x = a;
	const struct pair *y = b;
	int by_name = strcmp(x->name, y->name);
	return by_name ? by_name : strcmp(x->value, y->value);
}

static int append_headers(const struct http_headers *headers, struct buf *b)
{
	CLEANUP(pairs_free) struct pairs pairs;
	pairs.count = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < headers->count; i++) {
		if (strncasecmp(http_headers_name(headers, i), "x-ms-", 5) == 0)
			r = pairs_add(&pairs, http_headers_name(headers, i),
				http_headers_value(headers, i));
	}
	qsort(pairs.items, pairs.count, sizeof(pairs.items[0]), compare_pairs);
	for (size_t i = 0; r == 0 && i < pairs.count; i++) {
		const char *value = pairs.items[i].value;
		value += strspn(value, " \t");
		size_t n = strlen(value);
		while (n > 0 && strchr(" \t", value[n - 1]))
			n--;
		r = buf_printf(b, "%s:%.*s\n", pairs.items[i].name, (int)n, value);
	}
	return r;
}

static int append_resource(const char *account, const char *text, struct buf *b)
{
	CLEANUP(url_free) struct url url = { 0 };
	CLEANUP(pairs_free) struct pairs pairs;
	pairs.count = 0;
	int r = url_parse(text, &url);
	if (r == 0)
		r = buf_printf(b, "/%s%s", account, url.path);
	if (r == 0)
		r = url_each_query(url.query, pairs_add, &pairs);
	qsort(pairs.items, pairs.count, sizeof(pairs.items[0]), compare_pairs);
	for (size_t i = 0; r == 0 && i < pairs.count; i++) {
		bool again = i > 0 && strcmp(pairs.items[i - 1].name, pairs.items[i].name) == 0;
		r = again ? buf_printf(b, ",%s", pairs.items[i].value)
			  : buf_printf(b, "\n%s:%s", pairs.items[i].name, pairs.items[i].value);
	}
	return r;
}

int azureblob_string_to_sign(const char *account, const char *method, const char *url,
	const struct http_headers *headers, uint64_t content_length, struct buf *b)
{
	/* In this order; Date is empty because x-ms-date is sent. */
	static const char *const names[] = { "Content-Encoding", "Content-Language", NULL,
		"Content-MD5", "Content-Type", "Date", "If-Modified-Since", "If-Match",
		"If-None-Match", "If-Unmodified-Since", "Range" };
	int r = buf_printf(b, "%s\n", method);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(names); i++) {
		if (names[i]) {
			const char *value = http_headers_get(headers, names[i]);
			r = buf_printf(b, "%s\n", value ? value : "");
		} else if (content_length > 0) {
			r = buf_printf(b, "%" PRIu64 "\n", content_length);
		} else {
			r = buf_append_text(b, "\n");
		}
	}
	if (r == 0)
		r = append_headers(headers, b);
	if (r == 0)
		r = append_resource(account, url, b);
	return r;
}

int azureblob_sign(const char *account, const void *key, size_t key_bytes, const char *method,
	const char *url, const struct http_headers *headers, uint64_t content_length, struct buf *b)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	uint8_t mac[SHA256_BYTES];
	char signature[BASE64_TEXT_BYTES(SHA256_BYTES)];
	int r = azureblob_string_to_sign(account, method, url, headers, content_length, &text);
	if (r == 0)
		r = hmac_sha256(key, key_bytes, text.data, text.len, mac);
	if (r < 0)
		return r;
	base64_encode(mac, sizeof(mac), signature);
	return buf_printf(b, "SharedKey %s:%s", account, signature);
}
