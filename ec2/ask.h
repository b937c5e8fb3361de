/*
 * Small questions on the way to credentials: one request at a time, tried again while that may
 * help. What imds.c, sts.c and source.c have in common. Not for others.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/http.h"
#include "common/rng.h"
#include "ec2/error.h"
#include "ec2/settings.h"

/* Who asks. All borrowed; one thread at a time. */
struct ec2_asker {
	struct http *http;
	struct clock_source *clock;
	struct rng *rng;
	const struct ec2_settings *settings;
	bool patient; /* somebody waits for it and has nothing else */
};

/* Keys, and until when. Owned strings. */
struct ec2_keys {
	char *access_key_id;
	char *secret_access_key;
	char *session_token; /* NULL: long-lived */
	int64_t expires_ns;  /* monotonic; INT64_MAX: never */
};

/* Wipes and empties. */
void ec2_keys_free(struct ec2_keys *keys);
/* Any of them NULL but the first two. 0 or -ENOMEM. */
int ec2_keys_make(const char *id, const char *secret, const char *token, int64_t expires_ns,
	struct ec2_keys *ret_keys);
/* From an answer; `expiration` is ISO 8601. 0, -EBADMSG, -ENOMEM, -EKEYEXPIRED (it is over). */
int ec2_keys_read(struct ec2_asker *asker, const char *id, const char *secret, const char *token,
	const char *expiration, struct ec2_keys *ret_keys, struct http_error *ret_error);

/* Performs `request` until a 2xx came, at most `attempts` times; before each time `prepare` (may
 * be NULL) makes its headers. What an answer says is read as by ec2_error_read. 0 or -errno. */
int ec2_ask(struct ec2_asker *asker, struct http_request *request, unsigned attempts,
	int (*prepare)(void *context, struct http_request *request), void *context,
	struct http_error *ret_error);
