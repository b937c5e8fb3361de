/*
 * Query parameters and header fields go through the same list of pairs: spelt canonically, sorted,
 * written out. A field's place among those of its name is kept by its number, because qsort is not
 * stable.
 *
 * The signing key on the stack is wiped before it is let go of; the canonical request holds the
 * session token, as the request itself does, and is never shown.
 *
 * No state but the caller's struct ec2_sigv4_keys; no locks.
 */
#include "ec2/sigv4.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/url.h"
#include "common/utc.h"

#define ALGORITHM "AWS4-HMAC-SHA256"

struct pair {
	struct buf name;
	struct buf value;
	size_t number;
};

struct pairs {
	struct pair *items; /* owned */
	size_t count;
};

static void pairs_free(struct pairs *pairs)
{
	for (size_t i = 0; i < pairs->count; i++) {
		buf_free(&pairs->items[i].name);
		buf_free(&pairs->items[i].value);
	}
	free(pairs->items);
}

static int pairs_add(struct pairs *pairs, struct pair **ret_pair)
{
	struct pair *items = reallocarray(pairs->items, pairs->count + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	pairs->items = items;
	items[pairs->count] = (struct pair){ .number = pairs->count };
	*ret_pair = &items[pairs->count++];
	return 0;
}

static int compare_parameters(const void *a, const void *b)
{
	const struct pair *x = a;
	const struct pair *y = b;
	int by_name = strcmp(x->name.data, y->name.data);
	return by_name ? by_name : strcmp(x->value.data, y->value.data);
}

static int compare_fields(const void *a, const void *b)
{
	const struct pair *x = a;
	const struct pair *y = b;
	int by_name = strcmp(x->name.data, y->name.data);
	return by_name ? by_name : (x->number > y->number) - (x->number < y->number);
}

static void pairs_sort(struct pairs *pairs, int (*compare)(const void *, const void *))
{
	if (pairs->count > 1)
		qsort(pairs->items, pairs->count, sizeof(pairs->items[0]), compare);
}

/* `path` begins with a slash, as url_parse has it. */
static int append_path(const char *path, struct buf *b)
{
	CLEANUP(buf_free) struct buf plain = { 0 };
	bool folder = true; /* ends with a slash */
	int r = buf_reserve(&plain, strlen(path) + 1);
	while (r == 0 && *path == '/') {
		const char *segment = path + 1;
		size_t n = strcspn(segment, "/");
		path = segment + n;
		folder = n == 0 || (n == 1 && *segment == '.');
		if (n == 2 && memcmp(segment, "..", 2) == 0) {
			char *slash = strrchr(plain.data, '/');
			plain.len = slash ? (size_t)(slash - plain.data) : 0;
			plain.data[plain.len] = '\0';
			folder = true;
		} else if (!folder) {
			r = buf_append(&plain, segment - 1, n + 1);
		}
	}
	if (r == 0 && folder)
		r = buf_append_text(&plain, "/");
	return r < 0 ? r : url_escape(b, plain.data, "/");
}

static int add_parameter(void *context, const char *name, const char *value)
{
	struct pair *pair;
	int r = pairs_add(context, &pair);
	if (r == 0)
		r = url_escape(&pair->name, name, NULL);
	if (r == 0)
		r = url_escape(&pair->value, value, NULL);
	return r;
}

static int append_query(const char *query, struct buf *b)
{
	CLEANUP(pairs_free) struct pairs pairs = { 0 };
	int r = url_each_query(query, add_parameter, &pairs);
	if (r < 0)
		return r;
	pairs_sort(&pairs, compare_parameters);
	for (size_t i = 0; r == 0 && i < pairs.count; i++) {
		r = buf_printf(b, "%s%s=%s", i > 0 ? "&" : "", pairs.items[i].name.data,
			pairs.items[i].value.data);
	}
	return r;
}

static bool is_signed(const char *name)
{
	static const char *const names[] = { "authorization", "connection", "content-length",
		"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcasecmp(name, names[i]) == 0)
			return false;
	}
	return true;
}

static int add_field(struct pairs *pairs, const char *name, const char *value)
{
	struct pair *pair;
	int r = pairs_add(pairs, &pair);
	if (r == 0)
		r = buf_append_text(&pair->name, name);
	if (r == 0)
		r = buf_reserve(&pair->value, strlen(value));
	if (r < 0)
		return r;
	for (char *p = pair->name.data; *p; p++) {
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	}
	value += strspn(value, " \t");
	while (r == 0 && *value) {
		size_t word = strcspn(value, " \t");
		r = buf_append(&pair->value, value, word);
		value += word;
		value += strspn(value, " \t");
		if (r == 0 && *value)
			r = buf_append_text(&pair->value, " ");
	}
	return r;
}

static int append_headers(
	const struct url *url, const struct http_headers *headers, struct buf *b, struct buf *names)
{
	CLEANUP(pairs_free) struct pairs pairs = { 0 };
	CLEANUP(buf_free) struct buf host = { 0 };
	int r = 0;
	if (!http_headers_get(headers, "host")) {
		r = url_append_authority(&host, url);
		if (r == 0)
			r = add_field(&pairs, "host", host.data);
	}
	for (size_t i = 0; r == 0 && i < headers->count; i++) {
		const char *name = http_headers_name(headers, i);
		if (is_signed(name))
			r = add_field(&pairs, name, http_headers_value(headers, i));
	}
	pairs_sort(&pairs, compare_fields);
	for (size_t i = 0; r == 0 && i < pairs.count; i++) {
		const char *name = pairs.items[i].name.data;
		const char *value = pairs.items[i].value.data;
		if (i > 0 && strcmp(pairs.items[i - 1].name.data, name) == 0) {
			r = buf_printf(b, ",%s", value);
			continue;
		}
		r = buf_printf(b, "%s%s:%s", i > 0 ? "\n" : "", name, value);
		if (r == 0)
			r = buf_printf(names, "%s%s", i > 0 ? ";" : "", name);
	}
	return r < 0 ? r : buf_append_text(b, "\n");
}

int ec2_sigv4_canonical_request(const struct ec2_sigv4_request *request,
	const struct http_headers *headers, struct buf *text, struct buf *names)
{
	CLEANUP(url_free) struct url url = { 0 };
	char hash[SHA256_HEX_BYTES];
	size_t names_at = names->len;
	int r = url_parse(request->url, &url);
	if (r == 0)
		r = sha256_hex(request->payload ? request->payload : "",
			request->payload ? request->payload_bytes : 0, hash);
	if (r == 0)
		r = buf_printf(text, "%s\n", request->method);
	if (r == 0)
		r = append_path(url.path, text);
	if (r == 0)
		r = buf_append_text(text, "\n");
	if (r == 0)
		r = append_query(url.query, text);
	if (r == 0)
		r = buf_append_text(text, "\n");
	if (r == 0)
		r = append_headers(&url, headers, text, names);
	return r < 0 ? r : buf_printf(text, "\n%s\n%s", names->data + names_at, hash);
}

int ec2_sigv4_string_to_sign(const char *canonical_request, const char *time,
	const struct ec2_sigv4_target *target, struct buf *text)
{
	char hash[SHA256_HEX_BYTES];
	int r = sha256_hex(canonical_request, strlen(canonical_request), hash);
	if (r < 0)
		return r;
	return buf_printf(text, ALGORITHM "\n%s\n%.8s/%s/%s/" EC2_SIGV4_TERMINATOR "\n%s", time,
		time, target->region, target->service, hash);
}

static int add_authorization(struct ec2_sigv4_keys *keys,
	const struct ec2_sigv4_credentials *credentials, const struct ec2_sigv4_target *target,
	const struct ec2_sigv4_request *request, const char *time, struct http_headers *headers)
{
	CLEANUP(buf_free) struct buf canonical = { 0 };
	CLEANUP(buf_free) struct buf names = { 0 };
	CLEANUP(buf_free) struct buf text = { 0 };
	char date[EC2_SIGV4_DATE_BYTES];
	uint8_t key[SHA256_BYTES];
	uint8_t mac[SHA256_BYTES];
	char signature[SHA256_HEX_BYTES];
	snprintf(date, sizeof(date), "%.8s", time);
	int r = ec2_sigv4_canonical_request(request, headers, &canonical, &names);
	if (r == 0)
		r = ec2_sigv4_string_to_sign(canonical.data, time, target, &text);
	if (r == 0)
		r = ec2_sigv4_signing_key(keys, credentials->secret_access_key, date, target, key);
	if (r < 0)
		return r;
	r = hmac_sha256(key, sizeof(key), text.data, text.len, mac);
	explicit_bzero(key, sizeof(key));
	if (r < 0)
		return r;
	hex_encode(mac, sizeof(mac), signature);
	return http_headers_addf(headers, "Authorization",
		ALGORITHM " Credential=%s/%s/%s/%s/" EC2_SIGV4_TERMINATOR
			  ", SignedHeaders=%s, Signature=%s",
		credentials->access_key_id, date, target->region, target->service, names.data,
		signature);
}

int ec2_sigv4_sign(struct ec2_sigv4_keys *keys, const struct ec2_sigv4_credentials *credentials,
	const struct ec2_sigv4_target *target, const struct ec2_sigv4_request *request,
	int64_t now_ns, struct http_headers *headers)
{
	const char *token = credentials->session_token;
	char time[UTC_COMPACT_BYTES];
	size_t count = headers->count;
	if (now_ns < 0 || !*credentials->access_key_id ||
		http_headers_get(headers, "Authorization") ||
		http_headers_get(headers, "X-Amz-Date") ||
		http_headers_get(headers, "X-Amz-Security-Token"))
		return -EINVAL;
	utc_format_compact(now_ns, time);
	int r = http_headers_add(headers, "X-Amz-Date", time);
	if (r == 0 && token && *token)
		r = http_headers_add(headers, "X-Amz-Security-Token", token);
	if (r == 0)
		r = add_authorization(keys, credentials, target, request, time, headers);
	if (r < 0)
		http_headers_truncate(headers, count);
	return r;
}
