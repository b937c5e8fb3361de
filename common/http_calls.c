/*
 * A call is in one list at most, by its state: WAITING (until `due_ns`: back-off or the service's
 * rates), SENT (the HTTP client has it), DONE (until http_calls_wait or http_call_finish takes
 * it). `pending` counts all three. Everything runs on the owner's thread.
 *
 * Invariant of trying again: an attempt after one with an unknown end is made only for HTTP_READS
 * and HTTP_REPEATABLE. `may_have_happened`, once set, stays.
 *
 * Waiting calls are few: whoever submits many keeps a window of some dozens, so that walking the
 * list costs nothing that matters.
 */
#include "common/http_calls.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/url.h"

/* How many credentials in force a call may see refused, and how many refusals in all. */
#define CURRENT_REFUSALS_MAX 6u
#define REFUSALS_MAX 40u
#define RENEWAL_WAIT_NS (100 * NS_PER_MS)

struct call_list {
	struct http_call *first;
	struct http_call *last;
};

struct http_calls {
	const struct http_service *service;
	void *context;
	struct http *http;
	unsigned attempts;        /* a call's, that are not throttled */
	struct retry_policy pace; /* without them: they are counted here */
	struct clock_source *clock;
	struct rng rng;
	struct call_list waiting;
	struct call_list sent;
	struct call_list done;
	size_t pending;
	bool woken;
	struct http_calls_stats stats;
};

static struct call_list *list_of(struct http_calls *calls, enum http_call_state state)
{
	switch (state) {
	case HTTP_CALL_WAITING:
		return &calls->waiting;
	case HTTP_CALL_SENT:
		return &calls->sent;
	case HTTP_CALL_DONE:
		return &calls->done;
	default:
		return NULL;
	}
}

/* Takes the call out of its list and puts it at the end of another; the one place where states
 * change. */
static void move(struct http_call *call, enum http_call_state state)
{
	struct http_calls *calls = call->calls;
	struct call_list *from = list_of(calls, call->state);
	struct call_list *to = list_of(calls, state);
	if (from) {
		*(call->previous ? &call->previous->next : &from->first) = call->next;
		*(call->next ? &call->next->previous : &from->last) = call->previous;
	}
	call->previous = to ? to->last : NULL;
	call->next = NULL;
	if (to) {
		*(to->last ? &to->last->next : &to->first) = call;
		to->last = call;
	}
	calls->pending += (to != NULL) - (from != NULL);
	call->state = state;
}

static void http_calls_freep(struct http_calls **calls)
{
	http_calls_free(*calls);
}

int http_calls_new(const struct http_service *service, void *context,
	const struct http_options *http, const struct retry_policy *retry,
	struct http_calls **ret_calls, struct error *error)
{
	CLEANUP(http_calls_freep) struct http_calls *calls = calloc(1, sizeof(*calls));
	if (!calls)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	calls->service = service;
	calls->context = context;
	calls->attempts = retry->attempts;
	calls->pace = *retry;
	calls->pace.attempts = 0;
	calls->clock = clock_system();
	int r = rng_seed_randomly(&calls->rng);
	if (r < 0)
		return error_set(error, r, NULL, "no randomness");
	r = http_new(http, &calls->http, error);
	if (r < 0)
		return r;
	*ret_calls = TAKE(calls);
	return 0;
}

void http_calls_free(struct http_calls *calls)
{
	if (!calls)
		return;
	http_free(calls->http);
	struct call_list *lists[] = { &calls->waiting, &calls->sent, &calls->done };
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		while (lists[i]->first)
			move(lists[i]->first, HTTP_CALL_IDLE);
	}
	free(calls);
}

void *http_calls_context(const struct http_calls *calls)
{
	return calls->context;
}

struct http *http_calls_http(const struct http_calls *calls)
{
	return calls->http;
}

uint64_t http_calls_random(struct http_calls *calls)
{
	return rng_next(&calls->rng);
}

size_t http_calls_pending(const struct http_calls *calls)
{
	return calls->pending;
}

bool http_calls_is_stopped(const struct http_calls *calls)
{
	return http_is_stopped(calls->http);
}

void http_calls_get_stats(const struct http_calls *calls, struct http_calls_stats *ret_stats)
{
	*ret_stats = calls->stats;
}

void http_call_begin(struct http_calls *calls, struct http_call *call, const char *method,
	enum http_safety safety)
{
	http_request_reset(&call->http);
	buf_clear(&call->url);
	*call = (struct http_call){
		.calls = calls,
		.safety = safety,
		.attempts_max = calls->attempts,
		.url = call->url,
		.http = call->http,
	};
	call->http.method = method;
	call->http.fresh_connection = safety == HTTP_ONCE;
}

void http_call_note(struct http_call *call, int r)
{
	if (r < 0 && call->build_error == 0)
		call->build_error = r;
}

bool http_call_format(
	struct http_call *call, char *text, size_t room, const char *format, va_list args)
{
	int n = vsnprintf(text, room, format, args);
	bool fits = n >= 0 && (size_t)n < room;
	if (!fits)
		http_call_note(call, -EINVAL);
	return fits;
}

void http_call_query(struct http_call *call, const char *name, const char *value)
{
	if (value)
		http_call_note(call, url_add_query(&call->url, name, value));
}

void http_call_header(struct http_call *call, const char *name, const char *value)
{
	if (value)
		http_call_note(call, http_headers_add(&call->http.headers, name, value));
}

void http_call_headerf(struct http_call *call, const char *name, const char *format, ...)
{
	char value[512];
	va_list args;
	va_start(args, format);
	if (http_call_format(call, value, sizeof(value), format, args))
		http_call_header(call, name, value);
	va_end(args);
}

void http_call_limit_attempts(struct http_call *call, unsigned attempts)
{
	call->attempts_max = MIN(call->attempts_max, attempts);
}

uint64_t http_call_body_bytes(const struct http_call *call)
{
	uint64_t n = 0;
	for (int i = 0; i < call->http.body_count; i++)
		n += call->http.body[i].iov_len;
	return n;
}

int http_call_bad_answer(const struct http_call *call, struct http_error *error, const char *what)
{
	struct http_error e;
	call->calls->service->read_error(&call->http, &e);
	e.error = -EBADMSG;
	e.ambiguous = call->safety != HTTP_READS;
	snprintf(e.message, sizeof(e.message), "%s", what);
	if (error)
		*error = e;
	return -EBADMSG;
}

void http_call_free(struct http_call *call)
{
	buf_free(&call->url);
	http_request_free(&call->http);
}

static void finish(struct http_call *call, int result)
{
	call->result = result;
	call->error.error = result;
	call->error.ambiguous = result < 0 && call->may_have_happened;
	move(call, HTTP_CALL_DONE);
}

static void attempt(struct http_call *call)
{
	struct http_calls *calls = call->calls;
	/* Time spent waiting for one's turn is not time spent trying. */
	if (call->attempts == 0)
		retry_start(&call->retry, &calls->pace, calls->clock, &calls->rng);
	http_headers_truncate(&call->http.headers, call->own_headers);
	int r = calls->service->prepare(call);
	if (r == 0)
		r = http_submit(calls->http, &call->http);
	if (r < 0) {
		if (call->error.error == 0)
			http_error_set(&call->error, r, "the request could not be made");
		finish(call, r);
		return;
	}
	call->attempts++;
	calls->stats.attempts++;
	calls->stats.retries += call->attempts > 1;
	calls->stats.sent_bytes += http_call_body_bytes(call);
	move(call, HTTP_CALL_SENT);
}

static void cancel(struct http_call *call)
{
	http_error_set(&call->error, -ECANCELED, "cancelled");
	finish(call, -ECANCELED);
}

static void send_later(struct http_call *call, int64_t wait_ns)
{
	call->due_ns = clock_monotonic_ns(call->calls->clock) + wait_ns;
	move(call, HTTP_CALL_WAITING);
}

static void send_when_allowed(struct http_call *call, int64_t wait_ns)
{
	const struct http_service *service = call->calls->service;
	if (service->reserve_ns) {
		int64_t rate_ns = service->reserve_ns(call);
		wait_ns = MAX(wait_ns, rate_ns);
	}
	if (wait_ns > 0)
		send_later(call, wait_ns);
	else
		attempt(call);
}

int http_call_submit(struct http_call *call)
{
	if (!call->calls || call->state != HTTP_CALL_IDLE)
		return -EINVAL;
	if (call->build_error < 0)
		return call->build_error;
	call->own_headers = call->http.headers.count;
	send_when_allowed(call, 0);
	return 0;
}

/* True if the call goes out again, with other credentials. Credentials that expire early take down
 * all that is under way with them, and the next may expire as early; so a call does not count what
 * befell the credentials of others, and has some refusals of its own before it gives up. Those are
 * spread out: an identity that lost its rights is no reason to storm whoever gives credentials. */
static bool renew(struct http_call *call)
{
	struct http_calls *calls = call->calls;
	int64_t wait_ns = 0;
	enum http_refusal refusal = calls->service->give_up(call);
	if (refusal == HTTP_REFUSED_FOR_GOOD || ++call->refusals > REFUSALS_MAX)
		return false;
	if (refusal == HTTP_REFUSED_CURRENT && ++call->current_refusals > CURRENT_REFUSALS_MAX)
		return false;
	if (call->current_refusals > 1)
		wait_ns = (int64_t)rng_below(
			&calls->rng, RENEWAL_WAIT_NS << (call->current_refusals - 1));
	calls->stats.renewals++;
	send_later(call, wait_ns);
	return true;
}

static bool may_go_on(struct http_call *call, enum http_verdict verdict)
{
	int error = call->http.error;
	/* What was too large will be again. */
	if (verdict == HTTP_REFUSED || verdict == HTTP_EXPIRED || error == -ECANCELED ||
		error == -EMSGSIZE)
		return false;
	if (verdict == HTTP_THROTTLED)
		return true;
	if (verdict == HTTP_MAYBE && call->safety != HTTP_READS && call->safety != HTTP_REPEATABLE)
		return false;
	return ++call->faults < call->attempts_max;
}

/* A 2xx that is what was asked for is HTTP_ANSWERED and fills no error. */
static bool has_succeeded(struct http_call *call)
{
	const struct http_request *http = &call->http;
	return http->outcome == HTTP_ANSWERED && http->status / 100 == 2 &&
	       call->calls->service->check(call) == 0;
}

static enum http_verdict read_failure(struct http_call *call)
{
	const struct http_calls *calls = call->calls;
	const struct http_request *http = &call->http;
	/* A 2xx that was not usable: `check` has told why. */
	if (http->outcome == HTTP_ANSWERED && http->status / 100 == 2)
		return HTTP_MAYBE;
	enum http_verdict verdict = calls->service->read_error(http, &call->error);
	http_error_add_skew(
		&call->error, http, clock_realtime_ns(calls->clock), calls->service->name);
	return verdict;
}

static void judge(struct http_call *call)
{
	struct http_calls *calls = call->calls;
	const struct http_request *http = &call->http;
	calls->stats.received_bytes += http->received_bytes;
	if (has_succeeded(call)) {
		call->error = (struct http_error){ .http_status = http->status };
		finish(call, 0);
		return;
	}
	enum http_verdict verdict = read_failure(call);
	/* Sent twice by the HTTP library: the answer speaks for the second only. */
	if (call->safety != HTTP_READS && (verdict == HTTP_MAYBE || http->sent_times > 1))
		call->may_have_happened = true;
	if (verdict == HTTP_EXPIRED && renew(call))
		return;
	if (verdict == HTTP_THROTTLED && calls->service->throttled)
		calls->service->throttled(call);
	calls->stats.throttled +=
		verdict == HTTP_THROTTLED || http->status == 503 || http->status == 429;
	int64_t wait_ns;
	int64_t after_ns = retry_after_parse(http_headers_get(&http->ret_headers, "Retry-After"),
		clock_realtime_ns(calls->clock));
	if (may_go_on(call, verdict) && retry_next(&call->retry, after_ns, &wait_ns))
		send_when_allowed(call, MAX(wait_ns, (int64_t)1));
	else
		finish(call, call->error.error);
}

/* Sends what is due; returns how long until the next, in ms, at most `limit_ms` (-1: no limit). */
static int send_due(struct http_calls *calls, int limit_ms)
{
	int64_t now_ns = clock_monotonic_ns(calls->clock);
	int64_t next_ns = INT64_MAX;
	struct http_call *next;
	for (struct http_call *call = calls->waiting.first; call; call = next) {
		next = call->next;
		if (http_is_stopped(calls->http))
			cancel(call);
		else if (call->due_ns <= now_ns)
			attempt(call);
		else
			next_ns = MIN(next_ns, call->due_ns);
	}
	if (next_ns == INT64_MAX)
		return limit_ms;
	int64_t ms = (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
	if (limit_ms >= 0)
		ms = MIN(ms, (int64_t)limit_ms);
	return (int)MIN(ms, (int64_t)INT32_MAX);
}

/* One step: a request ended and was judged, or `timeout_ms` or less went by. 0 or -EINTR. */
static int step(struct http_calls *calls, int timeout_ms)
{
	struct http_request *http = NULL;
	int r = http_wait(calls->http, timeout_ms, &http);
	if (r == 0)
		judge(CONTAINER_OF(http, struct http_call, http));
	return r == -EINTR ? r : 0;
}

/* The same for one who waits for a call to finish: does not wait while one has. */
static int progress(struct http_calls *calls, int timeout_ms)
{
	timeout_ms = send_due(calls, timeout_ms);
	return step(calls, calls->done.first ? 0 : timeout_ms);
}

int http_calls_wait(struct http_calls *calls, int timeout_ms, struct http_call **ret_done)
{
	int64_t end_ns = clock_monotonic_ns(calls->clock) + timeout_ms * NS_PER_MS;
	for (;;) {
		if (calls->done.first) {
			struct http_call *call = calls->done.first;
			move(call, HTTP_CALL_IDLE);
			*ret_done = call;
			return 0;
		}
		if (calls->woken) {
			calls->woken = false;
			return -EINTR;
		}
		int left_ms = -1;
		if (timeout_ms >= 0) {
			int64_t left_ns = end_ns - clock_monotonic_ns(calls->clock);
			left_ms = (int)(MAX(left_ns + NS_PER_MS - 1, (int64_t)0) / NS_PER_MS);
		}
		int r = progress(calls, left_ms);
		if (r < 0)
			return r;
		if (left_ms == 0 && !calls->done.first)
			return -ETIMEDOUT;
	}
}

int http_call_perform(struct http_call *call, struct http_error *error)
{
	int r = http_call_submit(call);
	if (r < 0)
		return http_error_set(
			error, r, r == -EINVAL ? "not a valid request" : "out of memory");
	return http_call_finish(call, error);
}

int http_call_finish(struct http_call *call, struct http_error *error)
{
	while (call->state != HTTP_CALL_DONE) {
		/* Whoever waits for calls shall hear of it. */
		if (progress(call->calls, -1) == -EINTR)
			call->calls->woken = true;
	}
	move(call, HTTP_CALL_IDLE);
	if (call->result < 0 && error)
		*error = call->error;
	return call->result;
}

void http_calls_pause(struct http_calls *calls, int64_t ns)
{
	int64_t end_ns = clock_monotonic_ns(calls->clock) + ns;
	int64_t left_ns;
	while ((left_ns = end_ns - clock_monotonic_ns(calls->clock)) > 0 &&
		!http_is_stopped(calls->http)) {
		int limit_ms = (int)MIN((left_ns + NS_PER_MS - 1) / NS_PER_MS, (int64_t)60000);
		if (step(calls, send_due(calls, limit_ms)) == -EINTR)
			calls->woken = true;
	}
}

void http_calls_cancel(struct http_calls *calls, struct http_call *call)
{
	if (call->calls != calls)
		return;
	if (call->state == HTTP_CALL_SENT) {
		/* It comes back through judge(). */
		http_cancel(calls->http, &call->http);
	} else if (call->state == HTTP_CALL_WAITING) {
		cancel(call);
	}
}

void http_calls_wakeup(struct http_calls *calls)
{
	http_wakeup(calls->http);
}

void http_calls_rest(struct http_calls *calls)
{
	http_rest(calls->http);
}
