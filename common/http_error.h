/*
 * What a service, or the way to it, said when a call over HTTP failed, and what that says of
 * trying again.
 *
 * Whoever writes must know whether a change may have happened. A service's reader (see struct
 * http_service in http_calls.h) turns each failure into one of the verdicts below; this holds
 * what all services have in common: the struct, the ends that are the network's, and the words
 * for people. The codes that only one service knows stand with that service.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/http.h"

struct http_error {
	int error;          /* -errno, as the service's table has it; 0: none */
	int http_status;    /* 0: no answer */
	char code[96];      /* the service's, as "LeaseIdMissing"; may be empty */
	char reason[64];    /* what a service says beyond its code; may be empty */
	char operation[32]; /* what was asked, as the service calls it; may be empty */
	char message[256];
	char request_id[64]; /* the service's, or what stands for it; may be empty */
	bool ambiguous;      /* a change that may have happened, or may still happen later */
};

enum http_verdict {
	HTTP_REFUSED,   /* certain: did not happen; the same request will fare no better */
	HTTP_TRY_AGAIN, /* certain: did not happen; later it may */
	HTTP_THROTTLED, /* the same, because there was too much of it; not counted as a failure */
	HTTP_EXPIRED,   /* certain: did not happen; with other credentials it may */
	HTTP_MAYBE,     /* anything may have happened */
};

/* What refused credentials are worth. */
enum http_refusal {
	HTTP_REFUSED_FOR_GOOD, /* there are no others: another attempt is no better */
	HTTP_REFUSED_CURRENT,  /* those in force; the next attempt gets new ones */
	HTTP_REFUSED_OLD,      /* somebody has given them up already: try at once */
};

/* What to do about an error. Tables of them end with error 0. */
struct http_mend {
	int error;
	const char *mend;
};

/* Fills it by hand; `ret_error` may be NULL. Returns `code`. */
int http_error_set(struct http_error *ret_error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Copies the first line of `from`, cut to `room` bytes. */
void http_error_copy_line(char *to, size_t room, const char *from);

/* Judges a request to which no whole answer came: adds `error` and `message`. Pure. */
enum http_verdict http_error_read_way(const struct http_request *http, struct http_error *error);

/* Adds to the message how far the clock here is from the Date of an answer that refuses (400 to
 * 403), if it is far: signatures are refused for that. `whose`: "AWS", "the service". */
void http_error_add_skew(struct http_error *error, const struct http_request *http, int64_t now_ns,
	const char *whose);

/* In words for people, with a mend from `mends` or, for what is not in there, the network's own:
 * "<what>: 412 LeaseIdMissing: … (request …)". `error` may be NULL. Returns from->error. */
int http_error_tell(const struct http_error *from, const char *what, const struct http_mend *mends,
	struct error *error);
