/*
 * One request as libcurl sees it. Callbacks run inside curl_multi_perform, on the owner's thread.
 *
 * The body is read straight from the caller's memory and can be rewound to any place, so a proxy
 * that wants credentials first, or a dead kept connection, costs no copy. The answer's body goes
 * to the caller's memory if its status is 2xx, else into a bounded buffer: an error document
 * never overwrites data.
 */
#include "common/http_curl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define BODY_LIMIT_DEFAULT (1 * MIB)
#define TRANSFER_BUFFER_BYTES (256 * 1024L)

static size_t on_read(char *data, size_t size, size_t count, void *context)
{
	struct http_request *request = context;
	size_t room = size * count;
	size_t n = 0;
	while (n < room && request->body_at < request->body_count) {
		const struct iovec *iov = &request->body[request->body_at];
		size_t take = MIN(room - n, iov->iov_len - request->body_offset);
		if (take > 0)
			memcpy(data + n, (const char *)iov->iov_base + request->body_offset, take);
		n += take;
		request->body_offset += take;
		if (request->body_offset == iov->iov_len) {
			request->body_at++;
			request->body_offset = 0;
		}
	}
	return n;
}

static int on_seek(void *context, curl_off_t offset, int origin)
{
	struct http_request *request = context;
	if (origin != SEEK_SET || offset < 0)
		return CURL_SEEKFUNC_CANTSEEK;
	uint64_t left = (uint64_t)offset;
	int i = 0;
	while (i < request->body_count && left >= request->body[i].iov_len)
		left -= request->body[i++].iov_len;
	if (i == request->body_count && left > 0)
		return CURL_SEEKFUNC_FAIL;
	request->body_at = i;
	request->body_offset = (size_t)left;
	return CURL_SEEKFUNC_OK;
}

static int on_before_sending(
	void *context, char *peer_ip, char *local_ip, int peer_port, int local_port)
{
	struct http_request *request = context;
	(void)peer_ip;
	(void)local_ip;
	(void)peer_port;
	(void)local_port;
	request->sent_times++;
	return CURL_PREREQFUNC_OK;
}

static long answer_status(const struct http_request *request)
{
	long status = 0;
	curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

/* Ends the transfer. libcurl has words of its own for that; ours are told in the end. */
static size_t refuse(struct http_request *request, int error, const char *text)
{
	request->error = error;
	request->refusal = text;
	return 0;
}

static size_t on_write(char *data, size_t size, size_t count, void *context)
{
	struct http_request *request = context;
	size_t n = size * count;
	if (n == 0)
		return 0;
	if (request->into && answer_status(request) / 100 == 2) {
		if (n > request->into_bytes - request->received_bytes)
			return refuse(request, -EMSGSIZE, "more came than was asked for");
		memcpy((char *)request->into + request->received_bytes, data, n);
	} else {
		size_t limit = request->body_limit ? request->body_limit : BODY_LIMIT_DEFAULT;
		if (n > limit - MIN(limit, request->ret_body.len))
			return refuse(request, -EMSGSIZE, "the answer is larger than allowed");
		if (buf_append(&request->ret_body, data, n) < 0)
			return refuse(request, -ENOMEM, "out of memory for the answer");
	}
	request->received_bytes += n;
	return n;
}

static size_t on_header(char *line, size_t size, size_t count, void *context)
{
	struct http_request *request = context;
	size_t n = size * count;
	if (n >= 5 && memcmp(line, "HTTP/", 5) == 0) {
		/* A new answer: what an earlier one (a redirect, a 401) brought is void. */
		buf_clear(&request->ret_body);
		request->received_bytes = 0;
	}
	int r = http_headers_parse_line(&request->ret_headers, line, n);
	if (r < 0) {
		/* A return other than `n` ends the transfer; 0 is never `n` here. */
		return refuse(request,
			r == -E2BIG    ? -EMSGSIZE
			: r == -ENOMEM ? r
				       : -EPROTO,
			"the answer's header is not usable");
	}
	return n;
}

static int add_line(struct http_request *request, const char *name, const char *value)
{
	char line[512];
	char *text = line;
	CLEANUP(buf_free) struct buf longer = { 0 };
	size_t n = strlen(name) + strlen(value) + 3;
	if (n > sizeof(line)) {
		if (buf_reserve(&longer, n) < 0)
			return -ENOMEM;
		text = longer.data;
	}
	/* libcurl's way to say "with an empty value" is a semicolon for the colon. */
	if (value[0])
		snprintf(text, n, "%s: %s", name, value);
	else
		snprintf(text, n, "%s;", name);
	struct curl_slist *list = curl_slist_append(request->header_list, text);
	if (!list)
		return -ENOMEM;
	request->header_list = list;
	return 0;
}

static int build_header_list(struct http_request *request)
{
	/* No round trip before a body, no content type that nobody asked for. */
	struct curl_slist *list = curl_slist_append(NULL, "Expect:");
	if (!list)
		return -ENOMEM;
	request->header_list = list;
	bool has_type = http_headers_get(&request->headers, "Content-Type") != NULL;
	if (!has_type) {
		list = curl_slist_append(list, "Content-Type:");
		if (!list)
			return -ENOMEM;
	}
	int r = 0;
	for (size_t i = 0; r == 0 && i < request->headers.count; i++)
		r = add_line(request, http_headers_name(&request->headers, i),
			http_headers_value(&request->headers, i));
	return r;
}

static void set_method(CURL *easy, const struct http_request *request)
{
	if (strcmp(request->method, "GET") == 0 && request->body_bytes == 0) {
		curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
		return;
	}
	if (strcmp(request->method, "HEAD") == 0) {
		curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
		return;
	}
	bool sends = request->body_bytes > 0 || strcmp(request->method, "PUT") == 0 ||
		     strcmp(request->method, "POST") == 0 || strcmp(request->method, "PATCH") == 0;
	if (sends) {
		curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_bytes);
	}
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
}

static void set_proxy(CURL *easy, struct http_request *request, const struct http_settings *s)
{
	request->has_proxy_credentials = s->proxy_credentials != NULL;
	if (request->direct) {
		curl_easy_setopt(easy, CURLOPT_PROXY, "");
		return;
	}
	if (s->proxy)
		curl_easy_setopt(easy, CURLOPT_PROXY, s->proxy);
	if (s->no_proxy)
		curl_easy_setopt(easy, CURLOPT_NOPROXY, s->no_proxy);
	if (s->proxy_credentials) {
		curl_easy_setopt(easy, CURLOPT_PROXYUSERPWD, s->proxy_credentials);
		/* What the tests' proxies speak. Negotiate wants tickets, not a password. */
		curl_easy_setopt(easy, CURLOPT_PROXYAUTH,
			(long)(CURLAUTH_BASIC | CURLAUTH_DIGEST | CURLAUTH_NTLM));
	}
}

static void set_limits(
	CURL *easy, const struct http_request *request, const struct http_settings *s)
{
	uint32_t total_ms =
		request->total_timeout_ms ? request->total_timeout_ms : s->total_timeout_ms;
	bool reads = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
	uint32_t stall_ms = reads ? s->read_stall_timeout_ms : s->stall_timeout_ms;
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)s->connect_timeout_ms);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)total_ms);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)MAX((stall_ms + 999) / 1000, 1u));
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, request->follow_redirects ? 1L : 0L);
	curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 5L);
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, request->fresh_connection ? 1L : 0L);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
}

int http_curl_prepare(struct http_request *request, const struct http_settings *s)
{
	CURL *easy = request->easy;
	int r = build_header_list(request);
	if (r < 0)
		return r;
	request->body_at = 0;
	request->body_offset = 0;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->error_text);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
	curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, s->user_agent);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, TRANSFER_BUFFER_BYTES);
	curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, TRANSFER_BUFFER_BYTES);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->header_list);
	curl_easy_setopt(easy, CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE);
	curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
	curl_easy_setopt(easy, CURLOPT_READDATA, request);
	curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
	curl_easy_setopt(easy, CURLOPT_SEEKDATA, request);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_write);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_before_sending);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, request);
	if (s->ca_file) {
		curl_easy_setopt(easy, CURLOPT_CAINFO, s->ca_file);
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	set_limits(easy, request, s);
	set_proxy(easy, request, s);
	set_method(easy, request);
	if (curl_easy_setopt(easy, CURLOPT_URL, request->url) != CURLE_OK)
		return -ENOMEM;
	return 0;
}

static int errno_of(CURLcode code)
{
	switch (code) {
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		return -EINVAL;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return -EHOSTUNREACH;
	case CURLE_COULDNT_CONNECT:
		return -ECONNREFUSED;
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CERTPROBLEM:
		return -EKEYREJECTED;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_ENGINE_NOTFOUND:
	case CURLE_WEIRD_SERVER_REPLY:
		return -EPROTO;
	default:
		/* Sending, receiving, an empty or short answer. */
		return -ECONNRESET;
	}
}

/* A proxy wants credentials, be it of the request or of the CONNECT before it: the service has not
 * seen the request. */
static bool judge_proxy(struct http_request *request)
{
	long connect_status = 0;
	curl_easy_getinfo(request->easy, CURLINFO_HTTP_CONNECTCODE, &connect_status);
	if (connect_status != 407 && request->status != 407)
		return false;
	request->status = 407;
	request->outcome = HTTP_NOT_SENT;
	request->error = -EACCES;
	snprintf(request->error_text, sizeof(request->error_text), "%s",
		request->has_proxy_credentials
			? "the proxy refuses the credentials it was given"
			: "the proxy wants credentials, and none are configured");
	return true;
}

void http_curl_judge(struct http_request *request, CURLcode code)
{
	request->status = (int)answer_status(request);
	if (judge_proxy(request))
		return;
	if (code == CURLE_OK && request->status > 0) {
		request->outcome = HTTP_ANSWERED;
		request->error = 0;
		request->error_text[0] = '\0';
		return;
	}
	request->outcome = request->sent_times > 0 ? HTTP_UNKNOWN : HTTP_NOT_SENT;
	if (request->error == 0)
		request->error = errno_of(code);
	if (request->refusal)
		snprintf(request->error_text, sizeof(request->error_text), "%s", request->refusal);
	else if (request->error_text[0] == '\0')
		snprintf(request->error_text, sizeof(request->error_text), "%s",
			curl_easy_strerror(code));
}
