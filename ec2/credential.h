/*
 * What gives requests to AWS their authority: keys, from wherever settings.h and source.h say, and
 * renewed.
 *
 * One credential serves the clients of any number of threads; it has its own lock. Keys are
 * fetched by whichever thread first finds them missing or near their end (five minutes before,
 * or half their life if that is less); meanwhile the others go on with the old ones, and wait
 * only when there are none that are still valid. Nothing is fetched under the lock. Keys that a
 * service refuses as expired are dropped, however long they were said to live.
 *
 * The shared files may change: keys that somebody renews there, a profile that gets others or a
 * role. They are looked at whenever keys are fetched, and keys that stand in them every ten
 * seconds. What cannot be read then changes nothing. Region and endpoints stay as they are.
 *
 * Secrets are wiped when let go of, and stand in no message.
 */
#pragma once

#include "common/clock.h"
#include "common/http.h"
#include "ec2/error.h"
#include "ec2/settings.h"
#include "ec2/sigv4.h"

struct ec2_credential;

/* Strings are copied; `settings` and `http.stop` are borrowed. */
struct ec2_credential_options {
	const struct ec2_settings *settings;
	const char *role_arn;    /* assumed with what the settings give; NULL: none */
	const char *external_id; /* for that; NULL: none */
	struct http_options http;
};

/* Fetches nothing yet. 0, -EINVAL, -EOPNOTSUPP, -ENOMEM with `error` filled (may be NULL). `clock`
 * is borrowed. */
int ec2_credential_new(const struct ec2_credential_options *options, struct clock_source *clock,
	struct ec2_credential **ret_credential, struct error *error);
/* After the last client that uses it; NULL is fine. */
void ec2_credential_free(struct ec2_credential *credential);

/* Signs one attempt at a request with keys that are valid now; see ec2_sigv4_sign. To be called
 * anew for every attempt. May block while keys are fetched. `ret_turn` tells these keys from
 * others. 0, -EACCES or what the fetching ended with, in `ret_error` too. Any thread, one at a time
 * for each `keys`. */
int ec2_credential_sign(struct ec2_credential *credential, struct ec2_sigv4_keys *keys,
	const struct ec2_sigv4_target *target, const struct ec2_sigv4_request *request,
	struct http_headers *headers, unsigned *ret_turn, struct http_error *ret_error);

/* The keys of that turn were refused as expired; they will not be used again. Any thread. */
enum http_refusal ec2_credential_refused(struct ec2_credential *credential, unsigned turn);
