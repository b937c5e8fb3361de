/*
 * What an AWS service, or the way to it, said when a call failed.
 *
 * Codes (-errno) and what they stand for:
 *	-ENOENT      no such instance, volume or snapshot
 *	-EXDEV       UNRELATED_SNAPSHOTS: the two snapshots are not of one volume's line
 *	-ESTALE      INVALID_BLOCK_TOKEN, INVALID_PAGE_TOKEN: list again, from where one was
 *	-EPERM       OperationNotPermitted: protected against being stopped
 *	-EBUSY       IncorrectState and its like, a snapshot that is in use, too many snapshots
 *	             pending or of one volume at once: passes when something else has finished
 *	-EDQUOT      a quota of the account is used up
 *	-EEXIST      the client token was used with other parameters
 *	-EACCES      401, 403, or no credentials to be had
 *	-EKEYEXPIRED the credentials have expired and no new ones were to be had
 *	-EINVAL      any other refusal: the request itself is at fault
 *	-EAGAIN      throttled or overloaded, retries used up; SnapshotCreationPerVolumeRateExceeded
 *	-ETIMEDOUT   500, 502, 504, 408 or no answer in time
 *	-ECONNRESET  the connection broke, or the answer was cut short
 *	-ECONNREFUSED, -EHOSTUNREACH, -EPROTO, -EKEYREJECTED  no connection (see common/http.h)
 *	-EBADMSG     an answer that is none: unparsable, of the wrong length or checksum
 *	-EMSGSIZE    an answer larger than there is room for
 *	-ECANCELED   told to stop
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "common/http.h"

struct ec2_error {
	int error;       /* -errno, as above; 0: none */
	int http_status; /* 0: no answer */
	char code[96];   /* the service's, as "InvalidSnapshot.NotFound"; may be empty */
	char reason[64]; /* EBS direct says more: "UNRELATED_SNAPSHOTS"; may be empty */
	char message[256];
	char request_id[64]; /* the service's; may be empty */
	bool ambiguous;      /* a change that may have happened, or may still happen */
};

/* How `ret_error` was filled decides about trying again. */
enum ec2_verdict {
	EC2_REFUSED,   /* certain: did not happen; the same request will fare no better */
	EC2_TRY_AGAIN, /* certain: did not happen; later it may */
	EC2_THROTTLED, /* the same, because there was too much of it */
	EC2_EXPIRED,   /* certain: did not happen; the credentials have expired */
	EC2_MAYBE,     /* anything may have happened */
};

/* Reads a finished request that did not succeed: EC2's, STS's or EBS direct's. `ambiguous` is
 * left to the caller. Pure. */
enum ec2_verdict ec2_error_read(const struct http_request *http, struct ec2_error *ret_error);

/* Fills it by hand; `ret_error` may be NULL. Returns `code`. */
int ec2_error_set(struct ec2_error *ret_error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* In words for people, with a mend: "<what>: 400 InvalidSnapshot.NotFound: … (request …)". `error`
 * may be NULL. Returns from->error. */
int ec2_error_tell(const struct ec2_error *from, const char *what, struct error *error);
