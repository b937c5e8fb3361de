/*
 * Whoever asks may be holding up a transfer, so patience ends after half a minute; reading and
 * assuming change nothing, so any failure that may pass is tried again.
 */
#include "ec2/ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/retry.h"
#include "common/utc.h"

#define PAUSE_SLICE_NS (250 * NS_PER_MS)

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

void ec2_keys_free(struct ec2_keys *keys)
{
	wipe(keys->access_key_id);
	wipe(keys->secret_access_key);
	wipe(keys->session_token);
	*keys = (struct ec2_keys){ 0 };
}

int ec2_keys_make(const char *id, const char *secret, const char *token, int64_t expires_ns,
	struct ec2_keys *ret_keys)
{
	struct ec2_keys keys = { .access_key_id = strdup(id),
		.secret_access_key = strdup(secret),
		.session_token = token && *token ? strdup(token) : NULL,
		.expires_ns = expires_ns };
	if (!keys.access_key_id || !keys.secret_access_key ||
		(token && *token && !keys.session_token)) {
		ec2_keys_free(&keys);
		return -ENOMEM;
	}
	*ret_keys = keys;
	return 0;
}

int ec2_keys_read(struct ec2_asker *asker, const char *id, const char *secret, const char *token,
	const char *expiration, struct ec2_keys *ret_keys, struct http_error *ret_error)
{
	int64_t end_ns;
	if (!id || !*id || !secret || !*secret || !token || !*token || !expiration ||
		utc_parse(expiration, &end_ns) < 0)
		return http_error_set(
			ret_error, -EBADMSG, "the answer with the credentials is not complete");
	int64_t left_ns = end_ns - clock_realtime_ns(asker->clock);
	if (left_ns <= 0)
		return http_error_set(ret_error, -EKEYEXPIRED,
			"the credentials expired at %s, or this machine's clock is wrong",
			expiration);
	int r = ec2_keys_make(
		id, secret, token, clock_monotonic_ns(asker->clock) + left_ns, ret_keys);
	return r < 0 ? http_error_set(ret_error, r, "out of memory") : 0;
}

static void pause_for(struct ec2_asker *asker, int64_t ns)
{
	int64_t end_ns = clock_monotonic_ns(asker->clock) + ns;
	int64_t left_ns;
	while ((left_ns = end_ns - clock_monotonic_ns(asker->clock)) > 0 &&
		!http_is_stopped(asker->http))
		clock_sleep_ns(asker->clock, MIN(left_ns, PAUSE_SLICE_NS));
}

int ec2_ask(struct ec2_asker *asker, struct http_request *request, unsigned attempts,
	int (*prepare)(void *context, struct http_request *request), void *context,
	struct http_error *ret_error)
{
	const struct retry_policy policy = { .attempts = asker->patient ? attempts : 1,
		.first_ns = 300 * NS_PER_MS,
		.longest_ns = 8 * NS_PER_S,
		.total_ns = 30 * NS_PER_S };
	size_t own_headers = request->headers.count;
	struct retry retry;
	retry_start(&retry, &policy, asker->clock, asker->rng);
	for (;;) {
		struct http_error e = { 0 };
		int64_t wait_ns;
		http_headers_truncate(&request->headers, own_headers);
		int r = prepare ? prepare(context, request) : 0;
		if (r == 0)
			r = http_perform(asker->http, request);
		if (r < 0)
			return http_error_set(ret_error, r, "the request could not be made");
		if (request->outcome == HTTP_ANSWERED && request->status / 100 == 2)
			return 0;
		enum http_verdict verdict = ec2_error_read(request, &e);
		int64_t after_ns =
			retry_after_parse(http_headers_get(&request->ret_headers, "Retry-After"),
				clock_realtime_ns(asker->clock));
		if (verdict == HTTP_REFUSED || verdict == HTTP_EXPIRED || e.error == -ECANCELED ||
			e.error == -EMSGSIZE || !retry_next(&retry, after_ns, &wait_ns)) {
			*ret_error = e;
			return e.error;
		}
		pause_for(asker, wait_ns);
	}
}
