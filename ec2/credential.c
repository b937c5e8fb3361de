/*
 * The lock guards `keys`, `turn`, `refresh_ns`, `fetching`; whoever sets `fetching` owns `http`,
 * `rng` and `source` until it clears it, so the fetch itself runs unlocked.
 */
#include "ec2/credential.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "ec2/source.h"

#define REFRESH_AHEAD_NS (300 * NS_PER_S)
/* After a failed attempt to renew keys that are still good. */
#define REFRESH_PAUSE_NS (30 * NS_PER_S)

struct ec2_credential {
	struct clock_source *clock;
	const struct ec2_settings *settings;
	struct ec2_source *source;
	struct http *http;
	struct rng rng;
	pthread_mutex_t lock;
	pthread_cond_t fetched;
	struct ec2_keys keys;
	unsigned turn;      /* of `keys`: how many there were before */
	int64_t refresh_ns; /* monotonic: when to look for new ones */
	bool fetching;
};

void ec2_credential_free(struct ec2_credential *c)
{
	if (!c)
		return;
	ec2_keys_free(&c->keys);
	ec2_source_free(c->source);
	http_free(c->http);
	pthread_cond_destroy(&c->fetched);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void credential_freep(struct ec2_credential **c)
{
	ec2_credential_free(*c);
}

int ec2_credential_new(const struct ec2_credential_options *options, struct clock_source *clock,
	struct ec2_credential **ret_credential, struct error *error)
{
	CLEANUP(credential_freep) struct ec2_credential *c = calloc(1, sizeof(*c));
	struct http_options http = options->http;
	uint64_t seed;
	if (!c)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->fetched, NULL);
	c->clock = clock;
	c->settings = options->settings;
	if (!http.ca_file)
		http.ca_file = options->settings->ca_file;
	int r = ec2_source_new(
		options->settings, options->role_arn, options->external_id, &c->source, error);
	if (r == 0)
		r = http_new(&http, &c->http, error);
	if (r == 0 && (r = random_bytes(&seed, sizeof(seed))) < 0)
		error_set(error, r, NULL, "no randomness");
	if (r < 0)
		return r;
	rng_seed(&c->rng, seed);
	*ret_credential = TAKE(c);
	return 0;
}

/* Holds the lock before and after, not meanwhile. */
static int fetch(struct ec2_credential *c, bool patient, struct http_error *ret_error)
{
	struct ec2_asker asker = { c->http, c->clock, &c->rng, c->settings, patient };
	struct ec2_keys keys = { 0 };
	c->fetching = true;
	pthread_mutex_unlock(&c->lock);
	int r = ec2_source_fetch(c->source, &asker, &keys, ret_error);
	int64_t now_ns = clock_monotonic_ns(c->clock);
	pthread_mutex_lock(&c->lock);
	c->fetching = false;
	if (r == 0) {
		ec2_keys_free(&c->keys);
		c->keys = keys;
		c->turn++;
		c->refresh_ns = INT64_MAX;
		if (keys.expires_ns != INT64_MAX)
			c->refresh_ns = keys.expires_ns -
					MIN(REFRESH_AHEAD_NS, (keys.expires_ns - now_ns) / 2);
	} else {
		c->refresh_ns = now_ns + REFRESH_PAUSE_NS;
	}
	pthread_cond_broadcast(&c->fetched);
	return r;
}

/* A copy of keys that are valid now. */
static int get_keys(struct ec2_credential *c, struct ec2_keys *ret_keys, unsigned *ret_turn,
	struct http_error *ret_error)
{
	SCOPED_LOCK(&c->lock);
	for (;;) {
		int64_t now_ns = clock_monotonic_ns(c->clock);
		bool valid = c->keys.access_key_id && now_ns < c->keys.expires_ns;
		struct http_error e = { 0 };
		if (valid && (c->fetching || now_ns < c->refresh_ns))
			break;
		if (c->fetching) {
			pthread_cond_wait(&c->fetched, &c->lock);
			continue;
		}
		int r = fetch(c, !valid, &e);
		if (r < 0 && !valid) {
			if (ret_error)
				*ret_error = e;
			return r;
		}
		/* A renewal that failed leaves the old keys, good for a while yet. */
	}
	int r = ec2_keys_make(c->keys.access_key_id, c->keys.secret_access_key,
		c->keys.session_token, c->keys.expires_ns, ret_keys);
	if (r == 0)
		*ret_turn = c->turn;
	return r < 0 ? http_error_set(ret_error, r, "out of memory") : 0;
}

int ec2_credential_sign(struct ec2_credential *c, struct ec2_sigv4_keys *keys,
	const struct ec2_sigv4_target *target, const struct ec2_sigv4_request *request,
	struct http_headers *headers, unsigned *ret_turn, struct http_error *ret_error)
{
	CLEANUP(ec2_keys_free) struct ec2_keys mine = { 0 };
	int r = get_keys(c, &mine, ret_turn, ret_error);
	if (r < 0)
		return r;
	struct ec2_sigv4_credentials credentials = { mine.access_key_id, mine.secret_access_key,
		mine.session_token };
	r = ec2_sigv4_sign(
		keys, &credentials, target, request, clock_realtime_ns(c->clock), headers);
	if (r < 0)
		return http_error_set(ret_error, r, "the request could not be signed");
	return 0;
}

enum http_refusal ec2_credential_refused(struct ec2_credential *c, unsigned turn)
{
	if (ec2_source_is_static(c->source))
		return HTTP_REFUSED_FOR_GOOD;
	SCOPED_LOCK(&c->lock);
	if (!c->keys.access_key_id || c->turn != turn)
		return HTTP_REFUSED_OLD;
	ec2_keys_free(&c->keys);
	return HTTP_REFUSED_CURRENT;
}
