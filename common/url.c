/*
 * URLs by hand rather than by curl_url(): signatures need the exact escaped text that goes over
 * the wire, and libcurl normalises.
 */
#include "common/url.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"

int url_escape(struct buf *b, const char *text, const char *keep)
{
	static const char digits[] = "0123456789ABCDEF";
	int r = buf_reserve(b, 3 * strlen(text));
	if (r < 0)
		return r;
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		bool plain = (*p < 0x80 && isalnum(*p)) || strchr("-._~", *p) ||
			     (keep && strchr(keep, *p));
		if (plain) {
			b->data[b->len++] = (char)*p;
		} else {
			b->data[b->len++] = '%';
			b->data[b->len++] = digits[*p >> 4];
			b->data[b->len++] = digits[*p & 15];
		}
	}
	b->data[b->len] = '\0';
	return 0;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int url_unescape(struct buf *b, const char *text, size_t n)
{
	int r = buf_reserve(b, n);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		char c = text[i];
		if (c == '%') {
			int high = i + 1 < n ? hex_value(text[i + 1]) : -1;
			int low = i + 2 < n ? hex_value(text[i + 2]) : -1;
			if (high < 0 || low < 0 || high + low == 0)
				return -EINVAL;
			c = (char)(high << 4 | low);
			i += 2;
		}
		b->data[b->len++] = c;
		b->data[b->len] = '\0';
	}
	return 0;
}

int url_add_query(struct buf *url, const char *name, const char *value)
{
	bool first = !url->data || !strchr(url->data, '?');
	int r = buf_append_text(url, first ? "?" : "&");
	if (r == 0)
		r = url_escape(url, name, NULL);
	if (r == 0 && value)
		r = buf_append_text(url, "=");
	if (r == 0 && value)
		r = url_escape(url, value, NULL);
	return r;
}

void url_free(struct url *url)
{
	free(url->scheme);
	free(url->host);
	free(url->path);
	free(url->query);
	*url = (struct url){ 0 };
}

/* `text` holds host[:port]; IPv6 addresses stand in brackets. */
static int parse_authority(const char *text, size_t n, struct url *url)
{
	const char *end = text + n;
	const char *host_end;
	const char *port = NULL;
	if (n > 0 && *text == '[') {
		text++;
		host_end = memchr(text, ']', (size_t)(end - text));
		if (!host_end || (host_end + 1 < end && host_end[1] != ':'))
			return -EINVAL;
		if (host_end + 1 < end)
			port = host_end + 2;
	} else {
		host_end = memchr(text, ':', n);
		if (host_end)
			port = host_end + 1;
		else
			host_end = end;
	}
	if (host_end == text || memchr(text, '@', (size_t)(end - text)))
		return -EINVAL;
	if (port) {
		unsigned value = 0;
		if (port == end)
			return -EINVAL;
		for (; port < end; port++) {
			if (*port < '0' || *port > '9')
				return -EINVAL;
			value = value * 10 + (unsigned)(*port - '0');
			if (value > UINT16_MAX)
				return -EINVAL;
		}
		if (value == 0)
			return -EINVAL;
		url->port = (uint16_t)value;
		url->port_given = true;
	}
	url->host = strndup(text, (size_t)(host_end - text));
	return url->host ? 0 : -ENOMEM;
}

int url_parse(const char *text, struct url *ret_url)
{
	CLEANUP(url_free) struct url url = { 0 };
	const char *rest;
	for (const char *p = text; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '#')
			return -EINVAL;
	}
	if (strncasecmp(text, "http://", 7) == 0) {
		url.scheme = strdup("http");
		url.port = 80;
		rest = text + 7;
	} else if (strncasecmp(text, "https://", 8) == 0) {
		url.scheme = strdup("https");
		url.port = 443;
		rest = text + 8;
	} else {
		return -EINVAL;
	}
	if (!url.scheme)
		return -ENOMEM;
	size_t n = strcspn(rest, "/?");
	int r = parse_authority(rest, n, &url);
	if (r < 0)
		return r;
	rest += n;
	n = strcspn(rest, "?");
	url.path = n > 0 ? strndup(rest, n) : strdup("/");
	rest += n;
	url.query = strdup(*rest == '?' ? rest + 1 : "");
	if (!url.path || !url.query)
		return -ENOMEM;
	*ret_url = url;
	url = (struct url){ 0 };
	return 0;
}

int url_append_authority(struct buf *b, const struct url *url)
{
	bool v6 = strchr(url->host, ':') != NULL;
	int r = buf_printf(b, v6 ? "[%s]" : "%s", url->host);
	uint16_t usual = strcmp(url->scheme, "https") == 0 ? 443 : 80;
	if (r == 0 && url->port != usual)
		r = buf_printf(b, ":%u", url->port);
	return r;
}

int url_each_query(const char *query,
	int (*each)(void *context, const char *name, const char *value), void *context)
{
	CLEANUP(buf_free) struct buf name = { 0 };
	CLEANUP(buf_free) struct buf value = { 0 };
	while (*query) {
		size_t n = strcspn(query, "&");
		if (n > 0) {
			size_t name_bytes = strcspn(query, "=&");
			size_t value_at = name_bytes < n ? name_bytes + 1 : n;
			buf_clear(&name);
			buf_clear(&value);
			int r = url_unescape(&name, query, name_bytes);
			if (r == 0)
				r = url_unescape(&value, query + value_at, n - value_at);
			if (r == 0)
				r = each(context, name.data, value.data);
			if (r != 0)
				return r;
		}
		query += n;
		if (*query == '&')
			query++;
	}
	return 0;
}
