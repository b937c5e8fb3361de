/*
 * An HTTP/1.1 client for many requests at once, owned and driven by one thread.
 *
 * It starts no thread of its own: requests make progress only while the owner is in http_wait or
 * http_perform. Connections are kept alive and reused. It never follows a redirect unless asked,
 * never tries again, and knows nothing of what it carries: retrying, signing and understanding
 * belong to whoever calls.
 *
 * How a request ended is told precisely, because whoever writes must know whether it may have
 * happened:
 *	HTTP_ANSWERED   a whole answer came; `status` says which
 *	HTTP_NOT_SENT   certain: not a byte of the request was sent (name not resolved, no
 *	                connection, no TLS, proxy refused, cancelled while waiting)
 *	HTTP_UNKNOWN    anything may have happened: reset, time-out, truncated or oversized answer,
 *	                cancelled under way. `status` is what was seen of the answer, or 0
 *
 * One exception lies in libcurl: if a *kept* connection turns out dead before a single byte of
 * answer came, it sends the request again by itself on a new one. The service may thus see it
 * twice. That does no harm to what may be repeated (reads; writes fenced by conditions that
 * repeat well); for what may not, set `fresh_connection`.
 *
 * The program has to ignore SIGPIPE: libcurl is told to leave signals alone.
 *
 * Threads: all functions belong to the owner's thread, but http_wakeup, which any thread may call.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/http_headers.h"

struct http;

/* Zeroed is a fair default. Strings are copied. */
struct http_options {
	unsigned connections;           /* at once, in all; further requests wait; 0: 32 */
	unsigned connections_per_host;  /* 0: as `connections` */
	uint32_t connect_timeout_ms;    /* name, connection and TLS together; 0: 15000 */
	uint32_t stall_timeout_ms;      /* nothing moves for so long, in whole seconds; 0: 60000 */
	uint32_t read_stall_timeout_ms; /* the same for GET and HEAD; 0: as stall_timeout_ms */
	uint32_t total_timeout_ms;      /* from the first byte of connecting to the last; 0: none */
	const char *ca_file;            /* PEM bundle instead of the system's; NULL: the system's */
	const char *proxy; /* http://host:port; "": none; NULL: as http_proxy, https_proxy say */
	const char *proxy_credentials_file; /* user:password on its first line; NULL: none */
	const char *no_proxy;               /* hosts, comma-separated; NULL: as no_proxy says */
	const char *user_agent;             /* NULL: landfall/<version> */
	/* Borrowed. Once one of them is true all requests, also those to come, end as -ECANCELED
	 * within a quarter of a second, whatever they wait for; NULL: never. */
	const atomic_bool *stop[2];
};

enum http_outcome { HTTP_ANSWERED, HTTP_NOT_SENT, HTTP_UNKNOWN };

/* One request. Embed it, or give `context`; zero it first. The caller owns all of it from
 * http_submit until it is handed back; then http_request_reset makes it ready for another. */
struct http_request {
	/* What to ask: borrowed until the request is handed back. */
	const char *method; /* "GET", "PUT", … */
	const char *url;
	struct http_headers headers; /* owned by the request; survive a resend */
	const struct iovec *body;    /* NULL: none; a PUT or POST then sends Content-Length: 0 */
	int body_count;
	void *into;        /* where the body of a 2xx goes, without growing; NULL: to ret_body */
	size_t into_bytes; /* more than that is an error */
	size_t body_limit; /* for ret_body; 0: 1 MiB */
	uint32_t total_timeout_ms; /* 0: as the options say */
	/* Borrowed, for http_perform: it ends early as well once that client is told to stop, on
	 * whose behalf it is made. */
	const struct http *behalf;
	bool direct;           /* never through a proxy */
	bool follow_redirects; /* up to 5, within http and https */
	bool fresh_connection; /* libcurl shall never send it twice; see above */
	void *context;         /* the caller's */

	/* What came: valid once handed back. */
	enum http_outcome outcome;
	int status;           /* of HTTP; 407 is a proxy's, and the request then not sent */
	int error;            /* 0 if answered, else -errno: -ETIMEDOUT, -ECONNRESET, -ECONNREFUSED,
				 -EHOSTUNREACH (name not resolved), -EPROTO (TLS, or no HTTP), -EKEYREJECTED
				 (certificate), -EACCES (proxy credentials), -EMSGSIZE (larger than there is
				 room for), -ECANCELED, -EINVAL (URL), -ENOMEM */
	char error_text[256]; /* for people; empty if answered */
	struct http_headers ret_headers;
	struct buf ret_body;     /* owned by the request */
	uint64_t received_bytes; /* of body, wherever it went */
	uint64_t sent_times;     /* more than 1: libcurl sent it again, or a proxy asked */

	/* The client's own. */
	void *easy;
	void *header_list;
	struct http *http;
	const char *refusal; /* why we ended it ourselves */
	bool has_proxy_credentials;
	struct http_request *previous;
	struct http_request *next;
	uint64_t body_bytes;
	int body_at;
	size_t body_offset;
	int state;
};

/* `error` may be NULL. 0, -ENOMEM, -EINVAL, or what reading the credentials gave. */
int http_new(const struct http_options *options, struct http **ret_http, struct error *error);
/* Requests under way are dropped, as if they had never been handed in; NULL is fine. */
void http_free(struct http *http);

/* Begins a request. 0, -EINVAL, -ENOMEM: then it was not taken. */
int http_submit(struct http *http, struct http_request *request);

/* Hands back one finished request, waiting up to `timeout_ms` (0: only looks; -1: for ever). 0,
 * -ETIMEDOUT, or -EINTR after http_wakeup or, with nothing left to hand back, once the options'
 * `stop` is set. With nothing under way it waits all the same. */
int http_wait(struct http *http, int timeout_ms, struct http_request **ret_done);

/* Submits and waits for this one; others that finish meanwhile are kept for http_wait. 0 once
 * it is finished, however it ended; -EINVAL or -ENOMEM if it was not taken. */
int http_perform(struct http *http, struct http_request *request);

/* Ends a request early: it is handed back by http_wait as -ECANCELED. Without effect on one
 * that is finished already. */
void http_cancel(struct http *http, struct http_request *request);

/* Closes kept connections and gives memory back, if nothing is under way: for a client that has
 * nothing to do for a while. The next request connects anew. */
void http_rest(struct http *http);

/* Requests that were submitted and not handed back yet. */
size_t http_pending(const struct http *http);

/* True once one of the options' `stop` is set. */
bool http_is_stopped(const struct http *http);

/* Makes http_wait return -EINTR, now or at its next call. Any thread. */
void http_wakeup(struct http *http);

/* Makes it as good as zeroed, keeping memory; not while it is under way. */
void http_request_reset(struct http_request *request);
void http_request_free(struct http_request *request);
