/*
 * Fenced writes to page blobs, many at once.
 *
 * Every put and clear carries the blob's lease id *and* a sequence number that this sender alone
 * has given out. When a result is ambiguous, the write may still land later; so nothing more goes
 * to that blob until all that is under way there has come back, the number is raised, and what
 * was not certainly acknowledged is sent again under the new number. A write that lands late is
 * then refused by the service. Other blobs go on meanwhile.
 *
 *	free ─► queued ─► under way ─► free                      acknowledged
 *	          ▲           └──────► queued                    refused, try later
 *	          └─ raise number ◄─── queued, target fencing    ambiguous
 *
 * The store's limits of a page blob (requests and bytes a second) are kept ahead of the service's
 * 503.
 * Ranges handed in between two drains must not overlap: requests overtake each other.
 *
 * One thread. After the first failure every call answers with it.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/token_bucket.h"
#include "replicator/blob.h"

struct sender;

struct sender_options {
	struct blob_store *store;   /* all borrowed */
	struct clock_source *clock; /* NULL: no pacing */
	const atomic_bool *cancel;  /* NULL, or: true ends it with -ECANCELED */
	unsigned parallel;          /* 0: 16 */
	uint64_t (*bandwidth)(
		void *context); /* bytes a second over all blobs; NULL or 0: no limit */
	void *bandwidth_context;
	/* What was spent of it; NULL: the sender's own. Zero at first, the same for all senders
	 * that share a bandwidth, of one thread. */
	struct token_bucket *bandwidth_bucket;
	void (*acknowledged)(void *context, uint64_t bytes); /* NULL, or told of progress */
	void *acknowledged_context;
};

struct sender_counts {
	uint64_t put_bytes, put_requests, clear_bytes, clear_requests, retries, fences;
};

/* A page blob to write to. Set blob and lease_id (borrowed) and sequence −1 if unknown; the rest
 * is the sender's, zero at first. Outlives the sender's work on it. */
struct sender_target {
	const char *blob;
	const char *lease_id;
	int64_t sequence;    /* the number in force; ours after sender_raise */
	uint64_t size_bytes; /* known once the number was first raised */
	unsigned under_way, stale;
	bool fencing, paced;
	struct token_bucket requests, bytes;
};

/* Memory for puts, aligned for IO_DIRECT; counted, since one buffer may serve several. */
struct sender_buffer {
	unsigned refs;
	size_t capacity;
	struct sender_buffer *next;
	unsigned char *data;
};

int sender_new(const struct sender_options *options, struct sender **ret_sender);
/* Waits for what is under way, drops what is queued. NULL is fine. */
void sender_free(struct sender *sender);

/* Gives the blob a number that is at least `at_least` and above any it has had, and waits until
 * the service confirms it. -ESTALE: the lease is not ours any more. */
int sender_raise(
	struct sender *sender, struct sender_target *target, int64_t at_least, struct error *error);

/* How long a put of n bytes to the blob would wait now for the limits of that blob; 0: not at all.
 */
int64_t sender_wait_ns(const struct sender *sender, const struct sender_target *target, uint64_t n);

/* A buffer of at least n ≤ BLOB_MAX_PUT_BYTES; waits until there is room. Release it after the
 * puts from it. */
int sender_buffer_get(
	struct sender *sender, size_t n, struct error *error, struct sender_buffer **ret_buffer);
void sender_buffer_release(struct sender *sender, struct sender_buffer *buffer);

/* Sends n bytes at `at` of the buffer to the offset of the blob. Returns when it is queued. */
int sender_put(struct sender *sender, struct sender_target *target, uint64_t offset,
	struct sender_buffer *buffer, size_t at, size_t n, struct error *error);
/* Zeros. A clear that continues the one before it is joined with it. */
int sender_clear(struct sender *sender, struct sender_target *target, uint64_t offset,
	uint64_t length, struct error *error);
/* Returns when everything was acknowledged. */
int sender_drain(struct sender *sender, struct error *error);

void sender_counts(const struct sender *sender, struct sender_counts *ret_counts);

static inline void sender_freep(struct sender **sender)
{
	sender_free(*sender);
}
