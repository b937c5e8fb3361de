/*
 * The engine under all calls: attempts, waiting, judging answers.
 *
 * A request is in one list at most, by its state: WAITING (until `due_ns`: back-off or the
 * limiter), SENT (the HTTP client has it), DONE (until ec2_wait or call_perform takes it).
 * `pending` counts all three. Everything runs on the owner's thread; ec2_wakeup alone may come
 * from another.
 *
 * Invariant of trying again: an attempt after one with an unknown end is made only for CALL_READS
 * and CALL_REPEATABLE. Once an end was unknown, `may_have_happened` stays set, and whatever
 * failure is told in the end is told as ambiguous.
 *
 * Waiting requests are few beyond the limiter's pace: whoever fetches keeps a window of some
 * dozens, so that walking the list costs nothing that matters.
 */
#include "ec2/ec2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "common/utc.h"
#include "ec2/call.h"
#include "ec2/client_internal.h"

/* A fetch's window, a listing and some to spare. */
#define CONNECTIONS 64u
/* How many keys a request may see refused, and how many such refusals in all. */
#define KEYS_MAX 6u
#define REFUSALS_MAX 40u
#define RENEWAL_WAIT_NS (100 * NS_PER_MS)
/* A clock that is off by this much is worth a word when signatures are refused. */
#define SKEW_WORTH_TELLING_NS (120 * NS_PER_S)

static struct request_list *list_of(struct ec2 *client, enum ec2_state state)
{
	switch (state) {
	case EC2_WAITING:
		return &client->waiting;
	case EC2_SENT:
		return &client->sent;
	case EC2_DONE:
		return &client->done;
	default:
		return NULL;
	}
}

/* Takes the request out of its list and puts it at the end of another; the one place where
 * states change. */
static void move(struct ec2_request *request, enum ec2_state state)
{
	struct ec2 *client = request->client;
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

static void ec2_freep(struct ec2 **client)
{
	ec2_free(*client);
}

static int find_endpoints(struct ec2 *client, struct error *error)
{
	static const enum ec2_service services[] = { EC2_SERVICE_EC2, EC2_SERVICE_EBS };
	for (unsigned i = 0; i < ARRAY_SIZE(services); i++) {
		CLEANUP(buf_free) struct buf url = { 0 };
		int r = ec2_settings_endpoint(client->settings, services[i], &url, error);
		if (r < 0)
			return r;
		client->endpoints[services[i]] = TAKE(url.data);
	}
	return 0;
}

int ec2_new(const struct ec2_options *options, struct ec2 **ret_client, struct error *error)
{
	const struct retry_policy policy = { .attempts = 8,
		.first_ns = 200 * NS_PER_MS,
		.longest_ns = 10 * NS_PER_S,
		.total_ns = 300 * NS_PER_S };
	struct http_options http = options->http;
	uint64_t seed;
	if (!options->settings->region)
		return error_set(error, -EINVAL, "set [aws] region, or AWS_REGION",
			"nobody says which region of AWS to use");
	CLEANUP(ec2_freep) struct ec2 *client = calloc(1, sizeof(*client));
	if (!client)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	client->settings = options->settings;
	client->credential = options->credential;
	client->limiter = options->limiter;
	client->policy = options->retry.attempts > 0 ? options->retry : policy;
	client->clock = clock_system();
	if (!http.ca_file)
		http.ca_file = options->settings->ca_file;
	if (http.connections == 0)
		http.connections = CONNECTIONS;
	int r = random_bytes(&seed, sizeof(seed));
	if (r < 0)
		return error_set(error, r, NULL, "no randomness");
	rng_seed(&client->rng, seed);
	r = find_endpoints(client, error);
	if (r == 0)
		r = http_new(&http, &client->http, error);
	if (r == 0)
		*ret_client = TAKE(client);
	return r;
}

void ec2_free(struct ec2 *client)
{
	if (!client)
		return;
	http_free(client->http);
	struct request_list *lists[] = { &client->waiting, &client->sent, &client->done };
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		while (lists[i]->first)
			move(lists[i]->first, EC2_IDLE);
	}
	for (unsigned i = 0; i < EC2_SERVICES; i++)
		free(client->endpoints[i]);
	ec2_sigv4_keys_wipe(&client->keys);
	free(client);
}

const char *ec2_region(const struct ec2 *client)
{
	return client->settings->region;
}

size_t ec2_pending(const struct ec2 *client)
{
	return client->pending;
}

bool ec2_is_stopped(const struct ec2 *client)
{
	return http_is_stopped(client->http);
}

void ec2_get_stats(const struct ec2 *client, struct ec2_stats *ret_stats)
{
	*ret_stats = client->stats;
}

void ec2_request_free(struct ec2_request *request)
{
	buf_free(&request->url);
	buf_free(&request->form);
	xml_free(request->answer);
	http_request_free(&request->http);
}

static void finish(struct ec2_request *request, int result)
{
	request->result = result;
	request->error.error = result;
	request->error.ambiguous = result < 0 && request->may_have_happened;
	move(request, EC2_DONE);
}

static int sign(struct ec2_request *request)
{
	struct ec2 *client = request->client;
	const struct ec2_sigv4_target target = { client->settings->region,
		ec2_service_name(request->service) };
	const struct ec2_sigv4_request what = { request->http.method, request->url.data,
		request->form.data, request->form.len };
	return ec2_credential_sign(client->credential, &client->keys, &target, &what,
		&request->http.headers, &request->turn, &request->error);
}

static void attempt(struct ec2_request *request)
{
	struct ec2 *client = request->client;
	/* Time spent waiting for the limiter is not time spent trying. */
	if (request->attempts == 0) {
		request->policy.attempts = 0; /* faults are counted here */
		retry_start(&request->retry, &request->policy, client->clock, &client->rng);
	}
	http_headers_truncate(&request->http.headers, request->own_headers);
	request->http.url = request->url.data;
	request->body = (struct iovec){ request->form.data, request->form.len };
	request->http.body = &request->body;
	request->http.body_count = request->form.len > 0;
	int r = sign(request);
	if (r == 0)
		r = http_submit(client->http, &request->http);
	if (r < 0) {
		if (request->error.error == 0)
			ec2_error_set(&request->error, r, "the request could not be made");
		finish(request, r);
		return;
	}
	request->attempts++;
	client->stats.attempts[request->limit]++;
	client->stats.retries += request->attempts > 1;
	move(request, EC2_SENT);
}

static void cancel(struct ec2_request *request)
{
	ec2_error_set(&request->error, -ECANCELED, "cancelled");
	finish(request, -ECANCELED);
}

static void send_later(struct ec2_request *request, int64_t wait_ns)
{
	request->due_ns = clock_monotonic_ns(request->client->clock) + wait_ns;
	move(request, EC2_WAITING);
}

/* Asks the limiter first, for every attempt. */
static void send_when_allowed(struct ec2_request *request, int64_t wait_ns)
{
	struct ec2_limiter *limiter = request->client->limiter;
	if (limiter) {
		int64_t limit_ns = ec2_limiter_reserve(limiter, request->limit);
		wait_ns = MAX(wait_ns, limit_ns);
	}
	if (wait_ns > 0)
		send_later(request, wait_ns);
	else
		attempt(request);
}

int call_submit(struct ec2 *client, struct ec2_request *request)
{
	if (request->client != client || request->state != EC2_IDLE)
		return -EINVAL;
	if (request->build_error < 0)
		return request->build_error;
	request->own_headers = request->http.headers.count;
	send_when_allowed(request, 0);
	return 0;
}

static void tell_skew(struct ec2_request *request)
{
	const char *date = http_headers_get(&request->http.ret_headers, "Date");
	int status = request->http.status;
	int64_t theirs_ns;
	if (status < 400 || status > 403 || !date || utc_parse(date, &theirs_ns) < 0)
		return;
	int64_t ahead_ns = clock_realtime_ns(request->client->clock) - theirs_ns;
	if (llabs(ahead_ns) < SKEW_WORTH_TELLING_NS)
		return;
	char *message = request->error.message;
	size_t n = strlen(message);
	snprintf(message + n, sizeof(request->error.message) - n,
		"%sthe clock here is %lld s %s AWS's", n ? "; " : "",
		(long long)(llabs(ahead_ns) / NS_PER_S), ahead_ns > 0 ? "ahead of" : "behind");
}

/* After a refusal as expired: true if the request goes out again, with other keys. Keys that expire
 * early take down all that is under way with them; so a request does not count what befell the keys
 * of others, and has some refusals of its own before it gives up, spread out. */
static bool renew_keys(struct ec2_request *request)
{
	struct ec2 *client = request->client;
	int64_t wait_ns = 0;
	enum ec2_refusal refusal = ec2_credential_refused(client->credential, request->turn);
	if (refusal == EC2_REFUSED_FOR_GOOD || ++request->refusals > REFUSALS_MAX)
		return false;
	if (refusal == EC2_REFUSED_KEYS && ++request->expired > KEYS_MAX)
		return false;
	if (request->expired > 1)
		wait_ns =
			(int64_t)rng_below(&client->rng, RENEWAL_WAIT_NS << (request->expired - 1));
	client->stats.renewals++;
	send_later(request, wait_ns);
	return true;
}

static bool may_go_on(struct ec2_request *request, enum ec2_verdict verdict)
{
	int error = request->http.error;
	/* What was too large will be again. */
	if (verdict == EC2_REFUSED || verdict == EC2_EXPIRED || error == -ECANCELED ||
		error == -EMSGSIZE)
		return false;
	if (verdict == EC2_THROTTLED)
		return true;
	if (verdict == EC2_MAYBE && request->safety == CALL_ONCE)
		return false;
	return ++request->faults < request->client->policy.attempts;
}

static void judge(struct ec2_request *request)
{
	struct ec2 *client = request->client;
	struct http_request *http = &request->http;
	enum ec2_verdict verdict = EC2_MAYBE;
	client->stats.received_bytes += http->received_bytes;
	if (http->outcome == HTTP_ANSWERED && http->status / 100 == 2) {
		if (!request->check || request->check(request) == 0) {
			request->error = (struct ec2_error){ .http_status = http->status };
			finish(request, 0);
			return;
		}
	} else {
		verdict = ec2_error_read(http, &request->error);
		tell_skew(request);
	}
	/* Sent twice by the HTTP library: the answer speaks for the second only. */
	if (request->safety != CALL_READS && (verdict == EC2_MAYBE || http->sent_times > 1))
		request->may_have_happened = true;
	if (verdict == EC2_EXPIRED && renew_keys(request))
		return;
	if (verdict == EC2_THROTTLED) {
		client->stats.throttled++;
		if (client->limiter)
			ec2_limiter_throttled(client->limiter, request->limit);
	}
	int64_t wait_ns;
	int64_t after_ns = retry_after_parse(http_headers_get(&http->ret_headers, "Retry-After"),
		clock_realtime_ns(client->clock));
	if (may_go_on(request, verdict) && retry_next(&request->retry, after_ns, &wait_ns))
		send_when_allowed(request, MAX(wait_ns, (int64_t)1));
	else
		finish(request, request->error.error);
}

/* Sends what is due; returns how long until the next, in ms, at most `limit_ms` (-1: no limit). */
static int send_due(struct ec2 *client, int limit_ms)
{
	int64_t now_ns = clock_monotonic_ns(client->clock);
	int64_t next_ns = INT64_MAX;
	struct ec2_request *next;
	for (struct ec2_request *r = client->waiting.first; r; r = next) {
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
static int progress(struct ec2 *client, int timeout_ms)
{
	struct http_request *http = NULL;
	timeout_ms = send_due(client, timeout_ms);
	if (client->done.first)
		timeout_ms = 0;
	int r = http_wait(client->http, timeout_ms, &http);
	if (r == 0)
		judge(CONTAINER_OF(http, struct ec2_request, http));
	return r == -EINTR ? r : 0;
}

int ec2_wait(struct ec2 *client, int timeout_ms, struct ec2_request **ret_done)
{
	int64_t end_ns = clock_monotonic_ns(client->clock) + timeout_ms * NS_PER_MS;
	for (;;) {
		if (client->done.first) {
			struct ec2_request *request = client->done.first;
			move(request, EC2_IDLE);
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

int call_perform(struct ec2 *client, struct ec2_request *request, struct ec2_error *error)
{
	int r = call_submit(client, request);
	if (r < 0)
		return ec2_error_set(
			error, r, r == -EINVAL ? "not a valid request" : "out of memory");
	while (request->state != EC2_DONE) {
		/* Whoever waits for requests shall hear of it. */
		if (progress(client, -1) == -EINTR)
			client->woken = true;
	}
	move(request, EC2_IDLE);
	if (request->result < 0 && error)
		*error = request->error;
	return request->result;
}

void call_pause(struct ec2 *client, int64_t ns)
{
	int64_t end_ns = clock_monotonic_ns(client->clock) + ns;
	int64_t left_ns;
	while ((left_ns = end_ns - clock_monotonic_ns(client->clock)) > 0 &&
		!http_is_stopped(client->http)) {
		int limit_ms = (int)MIN((left_ns + NS_PER_MS - 1) / NS_PER_MS, (int64_t)250);
		if (progress(client, limit_ms) == -EINTR)
			client->woken = true;
	}
}

void ec2_cancel(struct ec2 *client, struct ec2_request *request)
{
	if (request->client != client)
		return;
	if (request->state == EC2_SENT) {
		/* It comes back through judge(). */
		http_cancel(client->http, &request->http);
	} else if (request->state == EC2_WAITING) {
		cancel(request);
	}
}

void ec2_wakeup(struct ec2 *client)
{
	http_wakeup(client->http);
}

void ec2_rest(struct ec2 *client)
{
	http_rest(client->http);
}
