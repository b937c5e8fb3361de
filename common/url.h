/*
 * URLs: percent-encoding, taking apart, putting together (RFC 3986). Only what http and https
 * need; no relative references, no IDN. Any thread, each with a buffer of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* Appends `text` with everything but the unreserved characters (letters, digits, "-._~") and
 * those in `keep` (NULL: none) as %XX, in upper case. 0 or -ENOMEM. */
int url_escape(struct buf *b, const char *text, const char *keep);

/* Appends the `n` characters with their %XX resolved; a '+' stays one. 0, -ENOMEM, or -EINVAL
 * for a broken escape or an escaped NUL; what was appended until then stays. */
int url_unescape(struct buf *b, const char *text, size_t n);

/* Appends "?name=value", or "&name=value" if `url` has a '?' already, both escaped; with
 * `value` NULL the name alone. 0 or -ENOMEM. */
int url_add_query(struct buf *url, const char *name, const char *value);

/* A URL's parts, owned strings, still escaped. Zeroed is empty. */
struct url {
	char *scheme;  /* lower case: "http" or "https" */
	char *host;    /* a name or address; IPv6 without its brackets */
	uint16_t port; /* the scheme's own if none is given */
	bool port_given;
	char *path;  /* begins with '/'; "/" if there is none */
	char *query; /* without the '?'; "" if there is none */
};

/* Takes `text` apart. Only http and https, no user part, no fragment, no blanks or control
 * characters. 0, -EINVAL or -ENOMEM; `*ret_url` is untouched then. */
int url_parse(const char *text, struct url *ret_url);
/* Releases the parts; `url` is empty afterwards. */
void url_free(struct url *url);

/* Appends the host, and the port where the scheme's own does not say it: what Host: carries. 0 or
 * -ENOMEM. */
int url_append_authority(struct buf *b, const struct url *url);

/* Calls `each` for every name=value of a query (no '?' in front), both unescaped, '+' kept; a
 * name with no '=' has the value "". A non-zero answer ends it and is returned. 0, -EINVAL or
 * -ENOMEM. */
int url_each_query(const char *query,
	int (*each)(void *context, const char *name, const char *value), void *context);
