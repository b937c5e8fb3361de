/*
 * common/http_calls, common/http_error: which call is sent again, with what, and how its end is
 * told, against a server that answers one status after the other and a service that signs with a
 * number.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/http_calls.h"
#include "tests/unit/scripted_server.h"

/* Answers of the server: a status, or one of these. */
#define RESET (-1)
#define SILENCE (-2)

#define ATTEMPTS 4u

struct world {
	struct scripted_server *server;
	struct http_calls *calls;
	struct http_call call;
	int answers[16]; /* one a request; the last one stays; 0 ends */
	atomic_uint requests;
	atomic_uint last_key; /* that a request was signed with */
	unsigned key;         /* in force */
	unsigned keys;        /* there are so many */
	unsigned reserved;
	unsigned throttled;
	bool rejects; /* what a 2xx says */
	char url[64];
};

static int answer_of(const struct world *w, unsigned i)
{
	unsigned at = 0;
	while (at < i && w->answers[at + 1])
		at++;
	return w->answers[at];
}

/* One request a connection: the server sees to one connection at a time. */
static void play(int fd, unsigned index, void *context)
{
	struct world *w = context;
	char head[4096];
	char text[128];
	(void)index;
	if (scripted_read_request(fd, head, sizeof(head)) < 0)
		return;
	const char *key = strstr(head, "X-Key: ");
	int answer = answer_of(w, w->requests++);
	w->last_key = key ? (unsigned)atoi(key + 7) : 0;
	if (answer == RESET) {
		scripted_reset(fd);
	} else if (answer == SILENCE) {
		scripted_read_request(fd, head, sizeof(head));
	} else {
		snprintf(text, sizeof(text),
			"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", answer);
		scripted_write(fd, text);
	}
}

static struct world *world_of(const struct http_call *call)
{
	return http_calls_context(call->calls);
}

static int prepare(struct http_call *call)
{
	call->http.url = call->url.data;
	return http_headers_addf(&call->http.headers, "X-Key", "%u", world_of(call)->key);
}

static int check(struct http_call *call)
{
	return world_of(call)->rejects ? http_call_bad_answer(call, &call->error, "not that") : 0;
}

static enum http_verdict read_error(const struct http_request *http, struct http_error *ret_error)
{
	struct http_error e = { .http_status = http->status, .error = -EIO };
	enum http_verdict verdict = HTTP_REFUSED;
	if (http->outcome != HTTP_ANSWERED)
		verdict = http_error_read_way(http, &e);
	else if (http->status == 401)
		verdict = HTTP_EXPIRED;
	else if (http->status == 429)
		verdict = HTTP_THROTTLED;
	else if (http->status == 503)
		verdict = HTTP_TRY_AGAIN;
	else if (http->status >= 500)
		verdict = HTTP_MAYBE;
	*ret_error = e;
	return verdict;
}

static enum http_refusal give_up(struct http_call *call)
{
	struct world *w = world_of(call);
	return ++w->key >= w->keys ? HTTP_REFUSED_FOR_GOOD : HTTP_REFUSED_CURRENT;
}

static int64_t reserve_ns(struct http_call *call)
{
	world_of(call)->reserved++;
	return 0;
}

static void throttled(struct http_call *call)
{
	world_of(call)->throttled++;
}

static const struct http_service service = {
	.name = "the test",
	.prepare = prepare,
	.check = check,
	.read_error = read_error,
	.give_up = give_up,
	.reserve_ns = reserve_ns,
	.throttled = throttled,
};

static void start(struct world *w, const int *answers, size_t count)
{
	const struct retry_policy retry = { .attempts = ATTEMPTS,
		.first_ns = NS_PER_MS,
		.longest_ns = 2 * NS_PER_MS,
		.total_ns = 20 * NS_PER_S };
	const struct http_options http = { .proxy = "", .stall_timeout_ms = 10000 };
	*w = (struct world){ 0 };
	memcpy(w->answers, answers, count * sizeof(*answers));
	w->server = scripted_server_start(play, w);
	assert_int_equal(http_calls_new(&service, w, &http, &retry, &w->calls, NULL), 0);
	snprintf(w->url, sizeof(w->url), "http://127.0.0.1:%u/x", scripted_server_port(w->server));
}
#define START(w, ...) start(w, (const int[]){ __VA_ARGS__ }, ARRAY_SIZE(((int[]){ __VA_ARGS__ })))

static void stop(struct world *w)
{
	http_calls_free(w->calls);
	http_call_free(&w->call);
	scripted_server_stop(w->server);
}

static void begin(struct world *w, enum http_safety safety)
{
	http_call_begin(w->calls, &w->call, "PUT", safety);
	http_call_note(&w->call, buf_append_text(&w->call.url, w->url));
}

static int perform(struct world *w, enum http_safety safety)
{
	struct http_error error = { 0 };
	begin(w, safety);
	int r = http_call_perform(&w->call, &error);
	assert_int_equal(r, w->call.result);
	assert_int_equal(error.error, r);
	assert_int_equal(error.ambiguous, w->call.error.ambiguous);
	return r;
}

/* Each verdict with each safety: how many attempts it gets, and whether its end is certain. */
static void repeats_what_is_safe(void **state)
{
	static const struct {
		int answer;
		enum http_safety safety;
		unsigned attempts;
		bool ambiguous;
	} cases[] = {
		{ 400, HTTP_READS, 1, false },
		{ 400, HTTP_ONCE, 1, false },
		{ 503, HTTP_READS, ATTEMPTS, false },
		{ 503, HTTP_FENCED, ATTEMPTS, false },
		{ 503, HTTP_ONCE, ATTEMPTS, false },
		{ 500, HTTP_READS, ATTEMPTS, false },
		{ 500, HTTP_REPEATABLE, ATTEMPTS, true },
		{ 500, HTTP_FENCED, 1, true },
		{ 500, HTTP_ONCE, 1, true },
		{ RESET, HTTP_READS, ATTEMPTS, false },
		{ RESET, HTTP_REPEATABLE, ATTEMPTS, true },
		{ RESET, HTTP_ONCE, 1, true },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct world w;
		START(&w, cases[i].answer);
		assert_true(perform(&w, cases[i].safety) < 0);
		assert_int_equal(w.call.attempts, cases[i].attempts);
		assert_int_equal(w.requests, cases[i].attempts);
		assert_int_equal(w.call.error.ambiguous, cases[i].ambiguous);
		stop(&w);
	}
}

static void remembers_an_unknown_end(void **state)
{
	struct world w;
	(void)state;
	START(&w, 500, 400);
	assert_int_equal(perform(&w, HTTP_REPEATABLE), -EIO);
	assert_int_equal(w.call.error.http_status, 400);
	assert_true(w.call.error.ambiguous);
	/* The next use of the same call knows nothing of it. */
	assert_int_equal(perform(&w, HTTP_REPEATABLE), -EIO);
	assert_false(w.call.error.ambiguous);
	stop(&w);
	START(&w, 500, RESET, 200);
	assert_int_equal(perform(&w, HTTP_REPEATABLE), 0);
	assert_int_equal(w.call.attempts, 3);
	assert_int_equal(w.call.error.error, 0);
	stop(&w);
}

static void throttling_is_no_fault(void **state)
{
	struct http_calls_stats stats;
	struct world w;
	(void)state;
	START(&w, 429, 429, 429, 429, 429, 429, 503, 503, 200);
	assert_int_equal(perform(&w, HTTP_ONCE), 0);
	assert_int_equal(w.call.attempts, 9);
	assert_int_equal(w.throttled, 6);
	assert_int_equal(w.reserved, 9);
	http_calls_get_stats(w.calls, &stats);
	assert_int_equal(stats.attempts, 9);
	assert_int_equal(stats.retries, 8);
	assert_int_equal(stats.throttled, 8);
	stop(&w);
}

static void other_credentials_are_tried(void **state)
{
	struct http_calls_stats stats;
	struct world w;
	(void)state;
	START(&w, 401, 401, 200);
	w.keys = 100;
	assert_int_equal(perform(&w, HTTP_ONCE), 0);
	assert_int_equal(w.last_key, 2);
	/* The headers of an attempt do not pile up. */
	assert_int_equal(w.call.http.headers.count, 1);
	http_calls_get_stats(w.calls, &stats);
	assert_int_equal(stats.renewals, 2);
	stop(&w);
	START(&w, 401);
	w.keys = 2;
	assert_int_equal(perform(&w, HTTP_ONCE), -EIO);
	assert_int_equal(w.call.attempts, 2);
	assert_false(w.call.error.ambiguous);
	stop(&w);
}

static void a_wrong_answer_is_none(void **state)
{
	struct world w;
	(void)state;
	START(&w, 200);
	w.rejects = true;
	assert_int_equal(perform(&w, HTTP_READS), -EBADMSG);
	assert_int_equal(w.call.attempts, ATTEMPTS);
	assert_string_equal(w.call.error.message, "not that");
	assert_int_equal(perform(&w, HTTP_FENCED), -EBADMSG);
	assert_int_equal(w.call.attempts, 1);
	assert_true(w.call.error.ambiguous);
	stop(&w);
}

static void fewer_attempts_when_asked(void **state)
{
	struct world w;
	(void)state;
	START(&w, 503);
	begin(&w, HTTP_READS);
	http_call_limit_attempts(&w.call, 2);
	assert_int_equal(http_call_perform(&w.call, NULL), -EIO);
	assert_int_equal(w.call.attempts, 2);
	/* A step that failed is told by whoever sends. */
	begin(&w, HTTP_READS);
	http_call_header(&w.call, "not a token", "x");
	assert_int_equal(http_call_perform(&w.call, NULL), -EINVAL);
	assert_int_equal(w.requests, 2);
	stop(&w);
}

static void a_cancelled_call_comes_back(void **state)
{
	struct http_call *done = NULL;
	struct world w;
	(void)state;
	START(&w, SILENCE);
	begin(&w, HTTP_FENCED);
	assert_int_equal(http_call_submit(&w.call), 0);
	assert_int_equal(http_call_submit(&w.call), -EINVAL);
	assert_int_equal(http_calls_pending(w.calls), 1);
	while (w.call.http.sent_times == 0)
		assert_int_equal(http_calls_wait(w.calls, 10, &done), -ETIMEDOUT);
	http_calls_cancel(w.calls, &w.call);
	assert_int_equal(http_calls_wait(w.calls, 5000, &done), 0);
	assert_ptr_equal(done, &w.call);
	assert_int_equal(done->result, -ECANCELED);
	assert_true(done->error.ambiguous);
	assert_int_equal(http_calls_pending(w.calls), 0);
	stop(&w);
}

static void a_wakeup_during_a_call_is_kept(void **state)
{
	struct http_call *done = NULL;
	struct world w;
	(void)state;
	START(&w, 200);
	http_calls_wakeup(w.calls);
	assert_int_equal(perform(&w, HTTP_READS), 0);
	assert_int_equal(http_calls_wait(w.calls, 1000, &done), -EINTR);
	assert_int_equal(http_calls_wait(w.calls, 0, &done), -ETIMEDOUT);
	stop(&w);
}

static void errors_are_told_in_words(void **state)
{
	static const struct http_mend mends[] = { { -EBUSY, "wait" }, { 0, NULL } };
	struct http_error e = { .error = -EBUSY,
		.http_status = 409,
		.code = "Held",
		.reason = "BY_ANOTHER",
		.message = "no",
		.request_id = "7",
		.ambiguous = true };
	struct error told = { 0 };
	(void)state;
	assert_int_equal(http_error_tell(&e, "put", mends, &told), -EBUSY);
	assert_string_equal(
		told.message, "put: 409 Held BY_ANOTHER: no (it may have happened) (request 7)");
	assert_string_equal(told.mend, "wait");
	e = (struct http_error){ .error = -EPROTO };
	assert_int_equal(http_error_tell(&e, "put", mends, &told), -EPROTO);
	assert_string_equal(told.message, "put: Protocol error");
	assert_non_null(strstr(told.mend, "TLS"));
	e = (struct http_error){ .error = -EACCES, .http_status = 407 };
	http_error_tell(&e, "put", mends, &told);
	assert_string_equal(told.message, "put: 407: Permission denied");
	assert_non_null(strstr(told.mend, "proxy_credentials_file"));
}

static void a_wrong_clock_is_told(void **state)
{
	CLEANUP(http_request_free) struct http_request http = { .status = 403 };
	struct http_error e = { .message = "no" };
	const int64_t then_ns = 784111777 * NS_PER_S;
	(void)state;
	http_headers_add(&http.ret_headers, "Date", "Sun, 06 Nov 1994 08:49:37 GMT");
	http_error_add_skew(&e, &http, then_ns + 119 * NS_PER_S, "AWS");
	assert_string_equal(e.message, "no");
	http_error_add_skew(&e, &http, then_ns - 300 * NS_PER_S, "AWS");
	assert_string_equal(e.message, "no; the clock here is 300 s behind AWS's");
	http.status = 500;
	e.message[0] = '\0';
	http_error_add_skew(&e, &http, 0, "AWS");
	assert_string_equal(e.message, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(repeats_what_is_safe),
		cmocka_unit_test(remembers_an_unknown_end),
		cmocka_unit_test(throttling_is_no_fault),
		cmocka_unit_test(other_credentials_are_tried),
		cmocka_unit_test(a_wrong_answer_is_none),
		cmocka_unit_test(fewer_attempts_when_asked),
		cmocka_unit_test(a_cancelled_call_comes_back),
		cmocka_unit_test(a_wakeup_during_a_call_is_kept),
		cmocka_unit_test(errors_are_told_in_words),
		cmocka_unit_test(a_wrong_clock_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
