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
 *	-EACCES      401, 403, a key or grant of KMS that is gone, or no credentials to be had
 *	-EKEYEXPIRED the credentials have expired and no new ones were to be had
 *	-EINVAL      any other refusal: the request itself is at fault
 *	-EAGAIN      throttled or overloaded, retries used up; SnapshotCreationPerVolumeRateExceeded
 *	-ETIMEDOUT   500, 502, 504, 408 or no answer in time
 *	-ECONNRESET  the connection broke, or the answer was cut short
 *	-ECONNREFUSED, -EHOSTUNREACH, -EPROTO, -EKEYREJECTED  no connection (see common/http.h)
 *	-EBADMSG     an answer that is none: unparsable, of the wrong length or checksum, a 404
 *	             that does not say what was not found
 *	-EMSGSIZE    an answer larger than there is room for
 *	-ECANCELED   told to stop
 */
#pragma once

#include "common/http_error.h"

#define EC2_NO_CREDENTIALS "NoCredentials" /* our own code: nobody has any for us */

/* Reads a finished request that did not succeed: EC2's, STS's or EBS direct's, whose
 * Reason is the reason. `ambiguous` is
 * left to the caller. Pure. */
enum http_verdict ec2_error_read(const struct http_request *http, struct http_error *ret_error);

/* In words for people, with a mend: "<what>: DeleteSnapshot: 400 InvalidSnapshot.NotFound: …
 * (request …)". `error`
 * may be NULL. Returns from->error. */
int ec2_error_tell(const struct http_error *from, const char *what, struct error *error);
