/*
 * The engine under all calls: attempts, waiting, judging answers.
 *
 * A request is in one list at most, by its state: WAITING (until `due_ns`: back-off), SENT (the
 * HTTP client has it), DONE (until azureblob_wait or call_perform takes it). `pending` counts all
 * three. Everything runs on the owner's thread; azureblob_wakeup alone may come from another.
 *
 * Invariant of trying again: an attempt after one with an unknown end is made only for
 * CALL_READS and CALL_REPEATABLE. Once an end was unknown, `may_have_happened` stays set, and
 * whatever failure is told in the end is told as ambiguous.
 */
#include "azureblob/azureblob.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/call.h"
#include "azureblob/client_internal.h"
#include "azureblob/crc64.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "common/utc.h"

/* How many tokens a request may see refused, and how many 401s in all. */
#define TOKENS_MAX 6u
#define REFUSALS_MAX 40u
#define RENEWAL_WAIT_NS (100 * NS_PER_MS)
/* A clock that is off by this much is worth a word when credentials are refused. */
#define SKEW_WORTH_TELLING_NS (120 * NS_PER_S)

static struct request_list *list_of(struct azureblob *client, enum azureblob_state state)
{
	switch (state) {
	case AZUREBLOB_WAITING:
		return &client->waiting;
	case AZUREBLOB_SENT:
		return &client->sent;
	case AZUREBLOB_DONE:
		return &client->done;
	default:
		return NULL;
	}
}

/* Takes the request out of its list and puts it at the end of another; the one place where
 * states change. */
static void move(struct azureblob_request *request, enum azureblob_state state)
{
	struct azureblob *client = request->client;
	struct request_list *from = list_of(client, request->state);
	struct request_list *to = list_of(client, state);
	if (from) {
		*(request->previous ? &request->previous->next : &from->first) = request->next;
		*(request->next ? &request->next->previous : &from->last) = request->previous;
	}
	request->previous = to ? to->last : NULL;
	request->next = NULL;
	if (to) {
		*(to->last ? &to->last->next : &to->first) = request;
		to->last = request;
	}
	client->pending += (to != NULL) - (from != NULL);
	request->state = state;
}

static void azureblob_freep(struct azureblob **client)
{
	azureblob_free(*client);
}

static bool container_is_valid(const char *name)
{
	size_t n = strlen(name);
	if (strcmp(name, "$root") == 0 || strcmp(name, "$web") == 0)
		return true;
	return n >= 3 && n <= 63 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
	       name[0] != '-' && name[n - 1] != '-' && !strstr(name, "--");
}

int azureblob_new(
	const struct azureblob_options *options, struct azureblob **ret_client, struct error *error)
{
	const struct retry_policy policy = { .attempts = 8,
		.first_ns = 200 * NS_PER_MS,
		.longest_ns = 10 * NS_PER_S,
		.total_ns = 120 * NS_PER_S };
	uint64_t seed;
	if (!container_is_valid(options->container))
		return error_set(error, -EINVAL,
			"use 3 to 63 small letters, digits and single hyphens",
			"container %s: not a container's name", options->container);
	CLEANUP(azureblob_freep) struct azureblob *client = calloc(1, sizeof(*client));
	if (!client)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	client->credential = options->credential;
	client->policy = options->retry.attempts > 0 ? options->retry : policy;
	client->checksum = options->checksum;
	client->clock = clock_system();
	client->endpoint = strdup(options->account->endpoint);
	client->container = strdup(options->container);
	if (!client->endpoint || !client->container ||
		asprintf(&client->name, "%s/%s", options->account->name, options->container) < 0) {
		client->name = NULL;
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	int r = random_bytes(&seed, sizeof(seed));
	if (r < 0)
		return error_set(error, r, NULL, "no randomness");
	rng_seed(&client->rng, seed);
	r = http_new(&options->http, &client->http, error);
	if (r < 0)
		return r;
	*ret_client = TAKE(client);
	return 0;
}

void azureblob_free(struct azureblob *client)
{
	if (!client)
		return;
	http_free(client->http);
	struct request_list *lists[] = { &client->waiting, &client->sent, &client->done };
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		while (lists[i]->first)
			move(lists[i]->first, AZUREBLOB_IDLE);
	}
	free(client->endpoint);
	free(client->container);
	free(client->name);
	free(client);
}

const char *azureblob_name(const struct azureblob *client)
{
	return client->name;
}

size_t azureblob_pending(const struct azureblob *client)
{
	return client->pending;
}

void azureblob_get_stats(const struct azureblob *client, struct azureblob_stats *ret_stats)
{
	*ret_stats = client->stats;
}

void azureblob_request_free(struct azureblob_request *request)
{
	buf_free(&request->path);
	buf_free(&request->url);
	http_request_free(&request->http);
}

static void finish(struct azureblob_request *request, int result)
{
	request->result = result;
	request->error.error = result;
	request->error.ambiguous = result < 0 && request->may_have_happened;
	move(request, AZUREBLOB_DONE);
}

static uint64_t body_bytes(const struct azureblob_request *request)
{
	uint64_t n = 0;
	for (int i = 0; i < request->http.body_count; i++)
		n += request->http.body[i].iov_len;
	return n;
}

static void attempt(struct azureblob_request *request)
{
	struct azureblob *client = request->client;
	uint64_t bytes = body_bytes(request);
	if (request->attempts == 0)
		retry_start(&request->retry, &request->policy, client->clock, &client->rng);
	http_headers_truncate(&request->http.headers, request->own_headers);
	buf_clear(&request->url);
	int r = buf_append(&request->url, request->path.data, request->path.len);
	if (r == 0)
		r = azureblob_credential_authorize(client->credential, client->http,
			request->http.method, &request->url, &request->http.headers, bytes,
			&request->error);
	if (r == 0) {
		request->http.url = request->url.data;
		r = http_submit(client->http, &request->http);
	}
	if (r < 0) {
		if (request->error.error == 0)
			azureblob_error_set(&request->error, r, "the request could not be made");
		finish(request, r);
		return;
	}
	request->attempts++;
	client->stats.attempts++;
	client->stats.retries += request->attempts > 1;
	client->stats.sent_bytes += bytes;
	move(request, AZUREBLOB_SENT);
}

static void cancel(struct azureblob_request *request)
{
	azureblob_error_set(&request->error, -ECANCELED, "cancelled");
	finish(request, -ECANCELED);
}

static void send_later(struct azureblob_request *request, int64_t wait_ns)
{
	request->due_ns = clock_monotonic_ns(request->client->clock) + wait_ns;
	move(request, AZUREBLOB_WAITING);
}

int call_submit(struct azureblob *client, struct azureblob_request *request)
{
	if (request->client != client || request->state != AZUREBLOB_IDLE)
		return -EINVAL;
	if (request->build_error < 0)
		return request->build_error;
	request->own_headers = request->http.headers.count;
	attempt(request);
	return 0;
}

static int bad_answer(struct azureblob_request *request, const char *what)
{
	struct azureblob_error *e = &request->error;
	azureblob_error_read(&request->http, e);
	e->error = -EBADMSG;
	snprintf(e->message, sizeof(e->message), "%s", what);
	return -EBADMSG;
}

/* "bytes 0-511/1024". The end of a blob as the emulator tells it: "bytes 6-5/6". */
static bool range_matches(const char *text, uint64_t offset, uint64_t n)
{
	uint64_t first, last, total;
	if (!text ||
		sscanf(text, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64, &first, &last, &total) != 3)
		return false;
	return first == offset && last + 1 == offset + n && offset + n <= total;
}

static int check_range(struct azureblob_request *request)
{
	const struct http_request *http = &request->http;
	uint64_t n = http->received_bytes;
	const char *crc = http_headers_get(&http->ret_headers, "x-ms-content-crc64");
	if (http->status == 200 && request->range_offset == 0 && n <= request->range_bytes) {
		/* The whole blob in place of a range that covers it. */
	} else if (http->status != 206 ||
		   !range_matches(http_headers_get(&http->ret_headers, "Content-Range"),
			   request->range_offset, n)) {
		return bad_answer(request, "the answer is not the range that was asked for");
	}
	if (n < request->range_bytes && request->check == CALL_CHECK_RANGE)
		return bad_answer(request, "the answer is shorter than the range asked for");
	if (crc && request->client->checksum == AZUREBLOB_CRC64) {
		char text[AZUREBLOB_CRC64_TEXT_BYTES];
		azureblob_crc64_format(azureblob_crc64(0, http->into, n), text);
		if (strcmp(text, crc) != 0)
			return bad_answer(request, "what came does not match its checksum");
	}
	request->received_bytes = n;
	return 0;
}

/* A 2xx: is it the service's, and what was asked for? */
static int check_answer(struct azureblob_request *request)
{
	const struct http_headers *headers = &request->http.ret_headers;
	if (!http_headers_get(headers, "x-ms-request-id") &&
		!http_headers_get(headers, "x-ms-version"))
		return bad_answer(request, "the answer does not come from a blob service");
	if (request->check != CALL_CHECK_NONE)
		return check_range(request);
	return 0;
}

static void tell_skew(struct azureblob_request *request)
{
	const char *date = http_headers_get(&request->http.ret_headers, "Date");
	int64_t theirs_ns;
	if (request->http.status != 403 || !date || utc_parse(date, &theirs_ns) < 0)
		return;
	int64_t ahead_ns = clock_realtime_ns(request->client->clock) - theirs_ns;
	if (llabs(ahead_ns) < SKEW_WORTH_TELLING_NS)
		return;
	char *message = request->error.message;
	size_t n = strlen(message);
	snprintf(message + n, sizeof(request->error.message) - n,
		"%sthe clock here is %lld s %s the service's", n ? "; " : "",
		(long long)(llabs(ahead_ns) / NS_PER_S), ahead_ns > 0 ? "ahead of" : "behind");
}

/* After a 401: true if the request goes out again, with another token. A token that expires early
 * takes down all that is under way with it, and the next may expire as early; so a request does not
 * count what befell the token of others, and has some refusals of its own before it gives up.
 * Those are spread out: an identity that lost its rights is no reason to storm the login service.
 */
static bool renew_token(struct azureblob_request *request)
{
	struct azureblob *client = request->client;
	int64_t wait_ns = 0;
	enum azureblob_refusal refusal =
		azureblob_credential_refused(client->credential, &request->http.headers);
	if (refusal == AZUREBLOB_REFUSED_FOR_GOOD || ++request->refusals > REFUSALS_MAX)
		return false;
	if (refusal == AZUREBLOB_REFUSED_TOKEN && ++request->tokens_refused > TOKENS_MAX)
		return false;
	if (request->tokens_refused > 1)
		wait_ns = (int64_t)rng_below(
			&client->rng, RENEWAL_WAIT_NS << (request->tokens_refused - 1));
	send_later(request, wait_ns);
	return true;
}

static void judge(struct azureblob_request *request)
{
	struct azureblob *client = request->client;
	struct http_request *http = &request->http;
	enum azureblob_verdict verdict = AZUREBLOB_MAYBE;
	client->stats.received_bytes += http->received_bytes;
	client->stats.throttled += http->status == 503 || http->status == 429;
	if (http->outcome == HTTP_ANSWERED && http->status / 100 == 2) {
		if (check_answer(request) == 0) {
			request->error = (struct azureblob_error){ .http_status = http->status };
			finish(request, 0);
			return;
		}
	} else {
		verdict = azureblob_error_read(http, &request->error);
		tell_skew(request);
	}
	bool changes = request->safety != CALL_READS;
	/* Sent twice by the HTTP library: the answer speaks for the second only. */
	if (changes && (verdict == AZUREBLOB_MAYBE || http->sent_times > 1))
		request->may_have_happened = true;
	if (http->status == 401 && renew_token(request))
		return;
	bool again = verdict == AZUREBLOB_TRY_AGAIN ||
		     (verdict == AZUREBLOB_MAYBE &&
			     (request->safety == CALL_READS || request->safety == CALL_REPEATABLE));
	int64_t wait_ns;
	int64_t after_ns = retry_after_parse(http_headers_get(&http->ret_headers, "Retry-After"),
		clock_realtime_ns(client->clock));
	/* What was too large will be again. */
	again = again && http->error != -ECANCELED && http->error != -EMSGSIZE;
	if (again && retry_next(&request->retry, after_ns, &wait_ns))
		send_later(request, MAX(wait_ns, (int64_t)1));
	else
		finish(request, request->error.error);
}

/* Sends what is due; returns how long until the next, in ms, at most `limit_ms` (-1: no limit). */
static int send_due(struct azureblob *client, int limit_ms)
{
	int64_t now_ns = clock_monotonic_ns(client->clock);
	int64_t next_ns = INT64_MAX;
	struct azureblob_request *next;
	for (struct azureblob_request *r = client->waiting.first; r; r = next) {
		next = r->next;
		if (http_is_stopped(client->http))
			cancel(r);
		else if (r->due_ns <= now_ns)
			attempt(r);
		else
			next_ns = MIN(next_ns, r->due_ns);
	}
	if (next_ns == INT64_MAX)
		return limit_ms;
	int64_t ms = (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
	if (limit_ms >= 0)
		ms = MIN(ms, (int64_t)limit_ms);
	return (int)MIN(ms, (int64_t)INT32_MAX);
}

/* One step: something finished, or `timeout_ms` or less went by. 0 or -EINTR. */
static int progress(struct azureblob *client, int timeout_ms)
{
	struct http_request *http = NULL;
	timeout_ms = send_due(client, timeout_ms);
	if (client->done.first)
		timeout_ms = 0;
	int r = http_wait(client->http, timeout_ms, &http);
	if (r == 0)
		judge(CONTAINER_OF(http, struct azureblob_request, http));
	return r == -EINTR ? r : 0;
}

int azureblob_wait(struct azureblob *client, int timeout_ms, struct azureblob_request **ret_done)
{
	int64_t end_ns = clock_monotonic_ns(client->clock) + timeout_ms * NS_PER_MS;
	for (;;) {
		if (client->done.first) {
			struct azureblob_request *request = client->done.first;
			move(request, AZUREBLOB_IDLE);
			*ret_done = request;
			return 0;
		}
		if (client->woken) {
			client->woken = false;
			return -EINTR;
		}
		int left_ms = -1;
		if (timeout_ms >= 0) {
			int64_t left_ns = end_ns - clock_monotonic_ns(client->clock);
			left_ms = (int)(MAX(left_ns + NS_PER_MS - 1, (int64_t)0) / NS_PER_MS);
		}
		int r = progress(client, left_ms);
		if (r < 0)
			return r;
		if (left_ms == 0 && !client->done.first)
			return -ETIMEDOUT;
	}
}

int call_perform(
	struct azureblob *client, struct azureblob_request *request, struct azureblob_error *error)
{
	int r = call_submit(client, request);
	if (r < 0)
		return azureblob_error_set(
			error, r, r == -EINVAL ? "not a valid request" : "out of memory");
	return call_finish(client, request, error);
}

int call_finish(
	struct azureblob *client, struct azureblob_request *request, struct azureblob_error *error)
{
	while (request->state != AZUREBLOB_DONE) {
		/* Whoever waits for requests shall hear of it. */
		if (progress(client, -1) == -EINTR)
			client->woken = true;
	}
	move(request, AZUREBLOB_IDLE);
	if (request->result < 0 && error)
		*error = request->error;
	return request->result;
}

void call_pause(struct azureblob *client, int64_t ns)
{
	int64_t end_ns = clock_monotonic_ns(client->clock) + ns;
	int64_t left_ns;
	while ((left_ns = end_ns - clock_monotonic_ns(client->clock)) > 0 &&
		!http_is_stopped(client->http)) {
		struct http_request *http = NULL;
		int limit_ms = (int)MIN((left_ns + NS_PER_MS - 1) / NS_PER_MS, (int64_t)60000);
		int r = http_wait(client->http, send_due(client, limit_ms), &http);
		if (r == 0)
			judge(CONTAINER_OF(http, struct azureblob_request, http));
		else if (r == -EINTR)
			client->woken = true;
	}
}

void azureblob_cancel(struct azureblob *client, struct azureblob_request *request)
{
	if (request->client != client)
		return;
	if (request->state == AZUREBLOB_SENT) {
		/* It comes back through judge(). */
		http_cancel(client->http, &request->http);
	} else if (request->state == AZUREBLOB_WAITING) {
		cancel(request);
	}
}

void azureblob_wakeup(struct azureblob *client)
{
	http_wakeup(client->http);
}

void azureblob_rest(struct azureblob *client)
{
	http_rest(client->http);
}
