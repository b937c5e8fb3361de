/*
 * See the header. A request that was never sent is certain not to have happened; of one that was
 * sent and not answered nothing is certain.
 */
#include "common/http_error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/utc.h"

/* A clock that is off by this much is worth a word when credentials are refused. */
#define SKEW_WORTH_TELLING_NS (120 * NS_PER_S)

/* Of what has nothing to do with which service it is. */
static const struct http_mend way_mends[] = {
	{ -ECONNREFUSED, "check the endpoint's address and any firewall or proxy" },
	{ -EPROTO, "check that the endpoint speaks TLS 1.2 or later, and any proxy in between" },
	{ -EKEYREJECTED, "give the CA bundle that signed the endpoint's certificate" },
	{ 0, NULL },
};

int http_error_set(struct http_error *ret_error, int code, const char *format, ...)
{
	if (!ret_error)
		return code;
	*ret_error = (struct http_error){ .error = code };
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error->message, sizeof(ret_error->message), format, args);
	va_end(args);
	return code;
}

void http_error_copy_line(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%.*s", (int)MIN(strcspn(from, "\r\n"), room - 1), from);
}

enum http_verdict http_error_read_way(const struct http_request *http, struct http_error *error)
{
	http_error_copy_line(error->message, sizeof(error->message), http->error_text);
	error->error = http->error;
	if (http->outcome == HTTP_UNKNOWN)
		return HTTP_MAYBE;
	/* These stay as they are however often one tries. */
	if (http->error == -EINVAL || http->error == -EKEYREJECTED || http->error == -EACCES)
		return HTTP_REFUSED;
	return HTTP_TRY_AGAIN;
}

void http_error_add_skew(struct http_error *error, const struct http_request *http, int64_t now_ns,
	const char *whose)
{
	const char *date = http_headers_get(&http->ret_headers, "Date");
	int64_t theirs_ns;
	if (http->status < 400 || http->status > 403 || !date || utc_parse(date, &theirs_ns) < 0)
		return;
	int64_t ahead_ns = now_ns - theirs_ns;
	if (llabs(ahead_ns) < SKEW_WORTH_TELLING_NS)
		return;
	size_t n = strlen(error->message);
	snprintf(error->message + n, sizeof(error->message) - n,
		"%sthe clock here is %lld s %s %s's", n ? "; " : "",
		(long long)(llabs(ahead_ns) / NS_PER_S), ahead_ns > 0 ? "ahead of" : "behind",
		whose);
}

static const char *find_mend(const struct http_mend *mends, int error)
{
	for (; mends->error; mends++) {
		if (mends->error == error)
			return mends->mend;
	}
	return NULL;
}

int http_error_tell(const struct http_error *from, const char *what, const struct http_mend *mends,
	struct error *error)
{
	char said[192] = "";
	const char *mend = find_mend(mends, from->error);
	if (!mend)
		mend = find_mend(way_mends, from->error);
	if (from->http_status == 407)
		mend = "check proxy_credentials_file in the configuration";
	if (from->http_status > 0)
		snprintf(said, sizeof(said), "%d%s%s%s%s: ", from->http_status,
			from->code[0] ? " " : "", from->code, from->reason[0] ? " " : "",
			from->reason);
	const char *text = from->message[0] ? from->message : strerrordesc_np(-from->error);
	return error_set(error, from->error, mend, "%s: %s%s%s%s%s%s%s%s", what, from->operation,
		from->operation[0] ? ": " : "", said, text,
		from->ambiguous ? " (it may have happened)" : "",
		from->request_id[0] ? " (request " : "", from->request_id,
		from->request_id[0] ? ")" : "");
}
