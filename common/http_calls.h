/*
 * Calls of a service over HTTP: attempts, waiting, judging. The engine under azureblob/ and ec2/.
 *
 *	struct azureblob, struct ec2   what a call looks like, who signs it, what its answer means
 *	http_calls.h                   this: when it is sent, whether it is sent again, who gets it
 *	http.h                         connections, and precisely how one request ended
 *
 * A service hands in its table of functions (struct http_service) and embeds a struct http_call in
 * its requests. A call is begun, built, and then either submitted (it comes back from
 * http_calls_wait, many at once, in the order in which they finish) or performed (it blocks; what
 * else is under way goes on meanwhile and is kept for http_calls_wait).
 *
 * Trying again. Each attempt is signed anew. A call is attempted again
 *   - when it certainly did not happen and may pass later: HTTP_TRY_AGAIN, HTTP_THROTTLED;
 *   - with other credentials, after those it had were refused: HTTP_EXPIRED;
 *   - after an unknown end (HTTP_MAYBE) only as its `safety` permits.
 * Once an end was unknown, whatever failure is told in the end is told as ambiguous: an earlier
 * attempt may still have its way.
 *
 * Threads: all belongs to the owner's thread, but http_calls_wakeup, which any thread may call.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/http.h"
#include "common/http_error.h"
#include "common/retry.h"
#include "common/rng.h"

struct http_calls;
struct http_call;

/* What may be done after an unknown end. */
enum http_safety {
	HTTP_READS,      /* repeat after anything */
	HTTP_REPEATABLE, /* a change that comes to the same when repeated */
	HTTP_FENCED,     /* never repeated; but a kept connection will do (see common/http.h) */
	HTTP_ONCE,       /* never repeated, and over a connection of its own */
};

/* What the engine asks of a service. The engine calls these on the owner's thread; what a
 * function needs of its service it finds with http_calls_context. */
struct http_service {
	/* Whose clock it is, in messages: "AWS", "the service". */
	const char *name;
	/* Makes one attempt ready: `call->http.url` and the headers that belong to an attempt, date
	 * and signature. Headers that the last attempt added are gone. 0 or -errno with
	 * `call->error` filled; then the call is finished. */
	int (*prepare)(struct http_call *call);
	/* A 2xx came: is it what was asked for? 0, or -errno with `call->error` filled: then it is
	 * as if no answer had come. */
	int (*check)(struct http_call *call);
	/* Reads any other end of a request. `ambiguous` is left to the engine. Pure. */
	enum http_verdict (*read_error)(
		const struct http_request *http, struct http_error *ret_error);
	/* After HTTP_EXPIRED: gives up the credentials that this attempt had. */
	enum http_refusal (*give_up)(struct http_call *call);
	/* Before an attempt (not after HTTP_EXPIRED): how long it has to wait to keep within the
	 * account's rates. NULL: never. */
	int64_t (*reserve_ns)(struct http_call *call);
	/* After HTTP_THROTTLED: the rates were too high. NULL: nobody minds. */
	void (*throttled)(struct http_call *call);
};

enum http_call_state {
	HTTP_CALL_IDLE,
	HTTP_CALL_WAITING, /* for its time to be sent, or sent again */
	HTTP_CALL_SENT,
	HTTP_CALL_DONE,
};

/* One call: embedded in a service's request; zero it first, free it last. It may be used again once
 * it came back. It and what it points to stay put until then. */
struct http_call {
	/* The outcome. */
	int result; /* 0 or -errno */
	struct http_error error;
	unsigned attempts;

	/* What is sent, and the last answer. */
	struct buf url; /* as built; `http.url` may be another */
	struct http_request http;

	/* The engine's own. */
	struct http_calls *calls;
	struct http_call *previous;
	struct http_call *next;
	enum http_call_state state;
	enum http_safety safety;
	int build_error;
	bool may_have_happened;
	unsigned attempts_max;
	unsigned faults;           /* attempts that failed and were not throttled */
	unsigned refusals;         /* of its credentials */
	unsigned current_refusals; /* of those, while they were in force */
	size_t own_headers;
	int64_t due_ns;
	struct retry retry;
};

/* What was asked of the service so far. */
struct http_calls_stats {
	uint64_t attempts;
	uint64_t retries;
	uint64_t throttled; /* answers 429 and 503, and what else a service calls too much */
	uint64_t renewals;  /* attempts repeated with other credentials */
	uint64_t sent_bytes;
	uint64_t received_bytes;
};

/* `service` and `context` are borrowed; `retry.attempts` is not 0 and counts those that are not
 * throttled. 0, or -errno with `error` filled (may be NULL). */
int http_calls_new(const struct http_service *service, void *context,
	const struct http_options *http, const struct retry_policy *retry,
	struct http_calls **ret_calls, struct error *error);
/* Calls under way are dropped without being handed back. NULL is fine. */
void http_calls_free(struct http_calls *calls);

/* The service's own, as given. */
void *http_calls_context(const struct http_calls *calls);
/* The connections, for asking something else on behalf of a call: a token. */
struct http *http_calls_http(const struct http_calls *calls);
/* For what should differ, but need not be secret. */
uint64_t http_calls_random(struct http_calls *calls);

/* Hands back one finished call. Waits up to `timeout_ms` (0: only looks; -1: for ever). 0,
 * -ETIMEDOUT, or -EINTR after http_calls_wakeup. */
int http_calls_wait(struct http_calls *calls, int timeout_ms, struct http_call **ret_done);
/* Calls submitted and not handed back. */
size_t http_calls_pending(const struct http_calls *calls);
/* It comes back as -ECANCELED, ambiguous if it had been sent and changes anything. No effect on a
 * finished one. */
void http_calls_cancel(struct http_calls *calls, struct http_call *call);
/* Makes http_calls_wait return -EINTR. Any thread. */
void http_calls_wakeup(struct http_calls *calls);
/* Lets what is under way make progress for so long; shorter once told to stop. */
void http_calls_pause(struct http_calls *calls, int64_t ns);
/* Closes kept connections and gives memory back, unless something is under way. */
void http_calls_rest(struct http_calls *calls);
/* True once one of the options' `stop` is set. */
bool http_calls_is_stopped(const struct http_calls *calls);
/* Since http_calls_new. */
void http_calls_get_stats(const struct http_calls *calls, struct http_calls_stats *ret_stats);

/*
 * Building. A step that fails is remembered and told by submit or perform, so that the steps need
 * no checks of their own.
 */

/* Begins anew, with an empty URL. `method` is borrowed. */
void http_call_begin(struct http_calls *calls, struct http_call *call, const char *method,
	enum http_safety safety);
/* Remembers what a step of one's own came to: 0 or -errno. */
void http_call_note(struct http_call *call, int r);
/* Formats a step's text. True if it fits into `room` bytes; else -EINVAL is remembered. */
bool http_call_format(struct http_call *call, char *text, size_t room, const char *format,
	va_list args) __attribute__((format(printf, 4, 0)));
/* Adds a query parameter, escaped here; a header; a header with a formatted value of up to 511
 * bytes. `value` NULL: nothing is added. */
void http_call_query(struct http_call *call, const char *name, const char *value);
void http_call_header(struct http_call *call, const char *name, const char *value);
void http_call_headerf(struct http_call *call, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Fewer attempts than the options say. */
void http_call_limit_attempts(struct http_call *call, unsigned attempts);

/* 0, or -EINVAL or what building came to, without having taken it. */
int http_call_submit(struct http_call *call);
/* Submits and blocks until it is finished. The call's result; `error` may be NULL. */
int http_call_perform(struct http_call *call, struct http_error *error);
/* Blocks until a submitted one is finished; as above. */
int http_call_finish(struct http_call *call, struct http_error *error);

/* Bytes of its body. */
uint64_t http_call_body_bytes(const struct http_call *call);
/* Tells an answer that cannot be used: -EBADMSG with the request's id; `error` may be NULL. */
int http_call_bad_answer(const struct http_call *call, struct http_error *error, const char *what);
/* Not while it is under way. */
void http_call_free(struct http_call *call);
