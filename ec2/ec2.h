/*
 * A client of AWS for replicating instances without touching them: EC2's Query API (version
 * 2016-11-15) and the EBS direct APIs.
 *
 *	endpoint.h    partitions, regions, addresses
 *	settings.h    which profile, region and endpoints (profile.h reads the files)
 *	credential.h  keys from everywhere, renewed; one object for all threads
 *	sigv4.h       signatures
 *	limiter.h     the account's request rates, kept ahead of throttling
 *	ec2.h         this: the client and its requests
 *	instances.h   instances and volumes: finding, stopping, starting
 *	snapshots.h   sets of snapshots of one moment
 *	blocks.h      what is in a snapshot, what changed between two, and the bytes
 *	fetch.h       a whole snapshot, or all that changed, in order and resumable
 *	cycle.h       set after set, resumable: the source itself, but for where it goes
 *	error.h       what went wrong, and the table from the services' codes to -errno
 * and beneath: common/http_calls.h, which sends calls, waits for them and sends them again
 *
 * A client (`struct ec2`) belongs to one thread at a time. Requests for blocks are asynchronous:
 * submitted, they come back from ec2_wait, many at once, in the order in which they finish. All
 * else blocks; it may be called while requests are under way, which go on meanwhile and are kept
 * for ec2_wait.
 *
 * Trying again. Each attempt has its own date, keys and signature. The client tries again by itself
 *   - what certainly did not happen and may pass later: throttling (full jitter, for as long as the
 *     policy's total time lasts, and the limiter slows down), 503, 408, no connection;
 *   - after keys were refused as expired, with new ones;
 *   - after any failure, a wrong checksum or length among them, what only reads, and changes that
 *     come to the same when repeated (deleting, stopping, starting);
 * and never a change whose end is unknown and for which repeating could do harm (CreateSnapshots):
 * that is told with `error.ambiguous`, and goes over a connection of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/http_calls.h"
#include "ec2/credential.h"
#include "ec2/error.h"
#include "ec2/limiter.h"
#include "ec2/settings.h"

struct ec2;
struct ec2_block_page;
struct xml;

struct ec2_options {
	const struct ec2_settings *settings; /* borrowed until ec2_free; its region is known */
	struct ec2_credential *credential;   /* borrowed until ec2_free */
	struct ec2_limiter *limiter;         /* the same; NULL: no limits */
	/* How many nanoseconds an attempt that brings so many bytes of content has to wait, beside
	 * the limiter; counts it as made. On the client's thread. NULL: none. */
	int64_t (*pace)(void *context, uint64_t bytes);
	void *pace_context;
	struct http_options http;  /* connections 0: 64 */
	struct retry_policy retry; /* attempts 0: 8, 0.2 to 10 s apart, 5 minutes in all; throttled
				      attempts do not count */
};

/* One request. Embed it or give `context`; zero it first, free it last; it may be used again
 * once it came back. It and the data it points to stay put until then. */
struct ec2_request {
	void *context;         /* the caller's */
	struct http_call call; /* the outcome: `result` (see error.h), `error`, `attempts` */

	/* The client's own. */
	enum ec2_service service;
	enum ec2_limit limit;
	int (*check)(struct ec2_request *request); /* of a 2xx, see struct http_service; or NULL */
	unsigned turn;                             /* of the keys it was signed with */
	struct buf form;
	struct xml *answer;          /* owned; of an action of EC2 */
	struct ec2_block_page *page; /* borrowed; where a listing goes */
	struct iovec body;
};

/* What was asked of AWS so far, failed attempts included: what is paid for. */
struct ec2_stats {
	struct http_calls_stats calls;
	uint64_t attempts[EC2_LIMITS]; /* by kind */
};

/* 0, -EINVAL, -ENOMEM; nothing is asked of AWS yet. */
int ec2_new(const struct ec2_options *options, struct ec2 **ret_client, struct error *error);
/* Requests under way are dropped without being handed back. NULL is fine. */
void ec2_free(struct ec2 *client);

/* The region it asks; as long as the client. */
const char *ec2_region(const struct ec2 *client);

/* Hands back one finished request. Waits up to `timeout_ms` (0: only looks; -1: for ever). 0,
 * -ETIMEDOUT, or -EINTR after ec2_wakeup. */
int ec2_wait(struct ec2 *client, int timeout_ms, struct ec2_request **ret_done);
/* Requests submitted and not handed back. */
size_t ec2_pending(const struct ec2 *client);
/* It comes back as -ECANCELED. No effect on a finished one. */
void ec2_cancel(struct ec2 *client, struct ec2_request *request);
/* Makes ec2_wait return -EINTR. Any thread. */
void ec2_wakeup(struct ec2 *client);
/* Closes kept connections and gives memory back, unless something is under way. */
void ec2_rest(struct ec2 *client);
/* True once one of the options' `stop` is set. */
bool ec2_is_stopped(const struct ec2 *client);
void ec2_get_stats(const struct ec2 *client, struct ec2_stats *ret_stats);
/* Not while it is under way. */
void ec2_request_free(struct ec2_request *request);
