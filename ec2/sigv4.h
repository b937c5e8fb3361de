/*
 * AWS Signature Version 4, in the Authorization header, for every service but S3 (which neither
 * normalises paths nor escapes them twice). Source: "Create a signed AWS API request" and
 * "Elements of an AWS API request signature" of the IAM User Guide. Pure functions: the time is
 * handed in, nothing is read, sent or logged.
 *
 * A signature is made in four steps:
 *	canonical request   method, path, query, headers, names of the signed headers and the
 *	                    payload's SHA-256, a line each, in one spelling
 *	string to sign      "AWS4-HMAC-SHA256", time, scope, the canonical request's SHA-256
 *	signing key         HMAC chain: "AWS4" + secret, date, region, service, "aws4_request"
 *	signature           HMAC of the string to sign with that key, in hexadecimal
 * where the scope is "date/region/service/aws4_request".
 *
 * The rules of spelling:
 *	path      as it goes over the wire, dot segments resolved (RFC 3986, 5.2.4), runs of
 *	          slashes made one, then everything but unreserved characters and slashes escaped
 *	          once more: %20 on the wire is %2520 here
 *	query     names and values unescaped, then escaped (a blank is %20, a '+' on the wire is a
 *	          plus and becomes %2B), sorted by escaped name, then by escaped value; repeated
 *	          names all stay; a name without a value gets its '='
 *	headers   names in lower case and sorted, blanks around values cut, runs of them inside
 *	          made one; fields of one name joined by commas in the order they are sent
 * All fields that are handed in are signed, and Host, X-Amz-Date and X-Amz-Security-Token with
 * them; only those that a proxy or the HTTP library may change on the way are not: Authorization,
 * Connection, Content-Length, Expect, Transfer-Encoding, User-Agent, X-Amzn-Trace-Id.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/http_headers.h"
#include "ec2/sigv4_key.h"

/* All borrowed. */
struct ec2_sigv4_credentials {
	const char *access_key_id;
	const char *secret_access_key;
	const char *session_token; /* NULL or "": none, the credentials are long-lived */
};

/* All borrowed. */
struct ec2_sigv4_request {
	const char *method;  /* in upper case */
	const char *url;     /* exactly as it goes over the wire */
	const void *payload; /* the body; NULL: none */
	size_t payload_bytes;
};

/* Appends the canonical request to `text`, and the names of the signed headers, separated by
 * semicolons, to `names`. Signs `headers` as they are; Host comes from the URL if they have none.
 * 0, -EINVAL (the URL), -EIO or -ENOMEM; what was appended until then stays. */
int ec2_sigv4_canonical_request(const struct ec2_sigv4_request *request,
	const struct http_headers *headers, struct buf *text, struct buf *names);

/* Appends the string to sign for that canonical request. `time` is "20261122T055411Z". 0,
 * -EIO or -ENOMEM. */
int ec2_sigv4_string_to_sign(const char *canonical_request, const char *time,
	const struct ec2_sigv4_target *target, struct buf *text);

/* Signs a request at `now_ns` since 1970 UTC: adds X-Amz-Date, X-Amz-Security-Token if there is
 * a token, and Authorization to `headers`, which must not have them yet (an earlier attempt's go
 * by http_headers_truncate). `keys` may be NULL. 0, or with `headers` as they were -EINVAL, -E2BIG,
 * -EIO or -ENOMEM. Any thread, one at a time for each `keys`. */
int ec2_sigv4_sign(struct ec2_sigv4_keys *keys, const struct ec2_sigv4_credentials *credentials,
	const struct ec2_sigv4_target *target, const struct ec2_sigv4_request *request,
	int64_t now_ns, struct http_headers *headers);
