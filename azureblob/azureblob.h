/*
 * A client of Azure Storage's blob service (REST version 2021-12-02), for page blobs with
 * snapshots above all.
 *
 *	account.h     which account: connection strings, endpoints
 *	credential.h  keys, signatures, tokens; one object for all threads
 *	azureblob.h   this: the client, its requests, the data plane
 *	blobs.h       making, looking at, listing, snapshotting, deleting, copying blobs
 *	leases.h      leases and sequence numbers: the fences
 *	objects.h     small objects (block blobs) with compare-and-swap
 *	ranges.h      which pages are written, and what changed since a snapshot
 *	error.h       what went wrong, and the table from the service's codes to -errno
 * and beneath: common/http_calls.h, which sends calls, waits for them and sends them again
 *
 * A client (`struct azureblob`) belongs to one thread at a time and sees one container. The data
 * plane is asynchronous: a request is submitted and comes back from azureblob_wait, many at once,
 * in the order in which they finish. All else blocks; it may be called while requests are under
 * way, which go on meanwhile and are kept for azureblob_wait.
 *
 * Trying again. Each attempt has its own date and signature; bodies are read again from the
 * caller's memory. The client tries again by itself
 *   - what certainly did not happen and may pass later: 503, 429, 408, no connection;
 *   - after any failure, what only reads, and changes that come to the same when repeated
 *     (renewing a lease, raising a sequence number, deleting a snapshot);
 * and never a change whose end is unknown (500, time-out, reset) and for which repeating could
 * do harm: it is handed back with `error.ambiguous`, since only the caller can fence it. Page
 * writes may be sent twice by the HTTP library when a kept connection was dead (see
 * common/http.h): same bytes, same conditions. The others that are never repeated go over
 * connections of their own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "azureblob/account.h"
#include "azureblob/credential.h"
#include "azureblob/error.h"
#include "common/http_calls.h"

#define AZUREBLOB_PUT_MAX_BYTES (4u << 20)
#define AZUREBLOB_SNAPSHOT_BYTES 40 /* 2026-11-22T05:54:11.1234567Z */
#define AZUREBLOB_ETAG_BYTES 64

struct azureblob;

/* What the service shall compare the bodies of page writes with. */
enum azureblob_checksum { AZUREBLOB_NO_CHECKSUM, AZUREBLOB_CRC64, AZUREBLOB_MD5 };

struct azureblob_options {
	const struct azureblob_account *account; /* copied; its key is not looked at */
	struct azureblob_credential *credential; /* borrowed until azureblob_free */
	const char *container;                   /* copied */
	struct http_options http;
	struct retry_policy retry; /* attempts 0: 8 attempts, 0.2 to 10 s apart, none begun later
				      than 2 minutes after the first */
	enum azureblob_checksum checksum;
};

/* Conditions of a change, all optional; zeroed: none. Texts are copied into the request. */
struct azureblob_conditions {
	const char *lease_id;
	const char *if_match;      /* an ETag, or "*": there is one */
	const char *if_none_match; /* an ETag, or "*": there is none yet */
	bool has_sequence;
	int64_t sequence; /* pages: the blob's sequence number must equal it */
};

/* One request. Embed it or give `context`; zero it first, free it last; it may be used again
 * once it came back. It and the data it points to stay put until then. */
struct azureblob_request {
	void *context;           /* the caller's */
	struct http_call call;   /* the outcome: `result` (see error.h), `error`, `attempts` */
	uint64_t received_bytes; /* of data read */

	/* The client's own. */
	int check;
	uint64_t range_offset;
	uint64_t range_bytes;
	struct buf signed_url; /* of one attempt */
	struct iovec body;
};

/* 0, -EINVAL, -ENOMEM; nothing is asked of the service yet. */
int azureblob_new(const struct azureblob_options *options, struct azureblob **ret_client,
	struct error *error);
/* Requests under way are dropped without being handed back. NULL is fine. */
void azureblob_free(struct azureblob *client);

/* Hands back one finished request. Waits up to `timeout_ms` (0: only looks; -1: for ever). 0,
 * -ETIMEDOUT, or -EINTR after azureblob_wakeup. */
int azureblob_wait(struct azureblob *client, int timeout_ms, struct azureblob_request **ret_done);
/* Requests submitted and not handed back. */
size_t azureblob_pending(const struct azureblob *client);
/* It comes back as -ECANCELED, ambiguous if it had been sent. No effect on a finished one. */
void azureblob_cancel(struct azureblob *client, struct azureblob_request *request);
/* Makes azureblob_wait return -EINTR. Any thread. */
void azureblob_wakeup(struct azureblob *client);
/* What was asked of the service since azureblob_new. */
void azureblob_get_stats(const struct azureblob *client, struct http_calls_stats *ret_stats);
/* Not while it is under way. */
void azureblob_request_free(struct azureblob_request *request);

/*
 * The data plane. Each submits `request` and returns 0, or -EINVAL or -ENOMEM without having
 * taken it. Offsets and lengths of pages are multiples of 512. `data` is borrowed until the
 * request comes back, the array `data` itself too. `conditions` may be NULL.
 */

/* Put Page, update: at most AZUREBLOB_PUT_MAX_BYTES. */
int azureblob_put_pages(struct azureblob *client, struct azureblob_request *request,
	const char *blob, uint64_t offset, const struct iovec *data, int count,
	const struct azureblob_conditions *conditions);

/* Put Page, clear: any length. */
int azureblob_clear_pages(struct azureblob *client, struct azureblob_request *request,
	const char *blob, uint64_t offset, uint64_t length,
	const struct azureblob_conditions *conditions);

/* Reads `n` bytes (any alignment) of a blob or of its snapshot (NULL: the base) to `data`. All
 * of them or -EBADMSG; with `may_end`, as many as there are: `received_bytes`, and -ERANGE if
 * there are none. */
int azureblob_get_range(struct azureblob *client, struct azureblob_request *request,
	const char *blob, const char *snapshot, uint64_t offset, void *data, size_t n,
	bool may_end);
