/*
 * What the blob service, or the way to it, said when a call failed.
 *
 * Codes (-errno) and what they stand for:
 *	-ENOENT      404: no such blob, snapshot or container
 *	-EEXIST      409 BlobAlreadyExists, ContainerAlreadyExists; or If-None-Match: * not met
 *	-ESTALE      412: lease, sequence number or If-Match does not hold; 409 if the lease one
 *	             thought to hold is gone, or the base was overwritten since the snapshot
 *	-EBUSY       409: leased by another, a copy is under way, the container is being deleted
 *	-ENOTEMPTY   409 SnapshotsPresent
 *	-EDQUOT      409 SnapshotCountExceeded (premium accounts)
 *	-EACCES      401, 403, or no token to be had
 *	-ERANGE      416 InvalidRange: nothing there to read
 *	-EOPNOTSUPP  501: the service (an emulator) does not know this
 *	-EINVAL      any other refusal: the request itself is at fault
 *	-EAGAIN      503, 429, 409 SnapshotOperationRateExceeded: overloaded, retries used up
 *	-ETIMEDOUT   500, 502, 504, 408 or no answer in time
 *	-ECONNRESET  the connection broke, or the answer was cut short
 *	-ECONNREFUSED, -EHOSTUNREACH, -EPROTO, -EKEYREJECTED  no connection (see common/http.h)
 *	-EBADMSG     an answer that is none: unparsable, of the wrong length, not the service's
 *	-EMSGSIZE    an answer larger than there is room for
 *	-ECANCELED   azureblob_cancel
 */
#pragma once

#include "common/http_error.h"

/* Reads a finished request that did not succeed. Without an answer the request id is "client " and
 * our own. `ambiguous` is left to the caller. Pure. */
enum http_verdict azureblob_error_read(
	const struct http_request *http, struct http_error *ret_error);

/* In words for people, with a mend: "<what>: 412 LeaseIdMissing: … (request …)". `error` may be
 * NULL. Returns from->error. */
int azureblob_error_tell(const struct http_error *from, const char *what, struct error *error);
