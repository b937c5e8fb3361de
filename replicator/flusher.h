/*
 * The flusher: makes a sealed recovery point a vault point, in five steps, each safe to repeat.
 *
 *	1. history_flush_begin; a view of the point gives the coalesced changes since the vault
 *	   point below, last writer wins, zeros apart.
 *	2. Raise each blob's sequence number; send the changes: every Put Page and clear carries
 *	   the lease id *and* the sequence number. Neighbours are joined across gaps whose bytes
 *	   are known locally, cut at 4 MiB.
 *	3. When all are acknowledged: snapshot every disk under the lease, metadata {group, point};
 *	   after an ambiguous answer list, adopt the match, delete the rest.
 *	4. Put hashes, then the manifest with If-None-Match: this commits the point.
 *	5. history_flush_commit.
 *
 * The sequence number is point × 65536 + attempt: after an ambiguous write the attempt is raised
 * on that blob (waiting for everything under way first) and what was not acknowledged is sent
 * again, so an old request that lands late is refused (412). Lease and number together: the lease
 * fences other appliances, the number one's own past.
 *
 * The disks of a flush are sent at once, taking turns. Whatever their size, a flush takes 36 MiB of
 * buffers, 16 MiB for hashes that wait for their disk's turn (hashes.h), one part of the hashes
 * (4 MiB), and what the view takes for its map.
 *
 * An epoch that is larger than the journal is *drained* ahead of its seal: steps 1 and 2 for what
 * is there, in rounds, and hashes beside the points that prove it. Snapshots are never taken of
 * that, and readers of older points notice nothing. The flush of the point then sends the rest.
 *
 * A flusher is one thread's; it starts none. It drives many requests at once through the store
 * and honours the limits of a page blob (requests and bytes a second) ahead of the service's 503.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/token_bucket.h"
#include "fs/committer.h"
#include "fs/history.h"
#include "replicator/blob.h"
#include "replicator/vault.h"

struct flusher;

/* What was spent of the limits, from one flusher to the next: else each would begin with a burst.
 * Zero at first; one thread's. */
struct flush_pace {
	struct token_bucket bandwidth;
	struct flush_pace_blob {
		uint16_t disk;
		struct token_bucket requests, bytes;
	} * blobs; /* owned */
	unsigned blob_count;
};
void flush_pace_free(struct flush_pace *pace);

struct flusher_options {
	struct history *history; /* all borrowed */
	struct blob_store *store;
	struct clock_source *clock;
	struct vault_group *group;
	/* Waits until an lsn staged by the flusher is durable: committer_wait, or in a simulation a
	 * commit. */
	int (*sync)(void *context, uint64_t lsn);
	void *sync_context;
	/* Bytes a second allowed now, 0: no limit (bandwidth by the hour). May be NULL. */
	uint64_t (*bandwidth)(void *context);
	void *bandwidth_context;
	struct flush_pace *pace; /* NULL: its own */
	/* What vault_agree answered; 0 again once a flush was committed. Nothing at or below it is
	 * flushed. */
	uint64_t unknown_point;
	unsigned parallel;    /* requests at once; 0: 16 */
	uint64_t drain_bytes; /* of the journal in a round of a drain, about; 0: all */
	uint32_t gap_bytes;   /* joined across if known locally; 0: 64 KiB */
};

struct flusher_result {
	uint64_t point;
	uint64_t put_bytes, put_requests, clear_bytes, clear_requests;
	uint64_t bridged_bytes; /* unchanged bytes sent to join neighbours */
	bool drained; /* flusher_drain: the round counts, and the journal may be trimmed */
	uint64_t retries, fences; /* fences: attempts raised after an ambiguous result */
	int64_t duration_ns;
};

struct flusher_progress {
	uint64_t point, done_bytes, total_bytes;
};

int flusher_new(const struct flusher_options *options, struct flusher **ret_flusher);
void flusher_free(struct flusher *flusher);

/* Makes point `number` (sealed, durable, above the newest vault point) a vault point. Blocks.
 * 0; -ESTALE: the group is no longer ours, nothing more was changed; -ECANCELED; -EAGAIN,
 * -ETIMEDOUT, -ECONNREFUSED…: the vault is out of reach, call again later; -EIO: the journal's
 * content could not be proven (the error names disk and offset). After any failure the same or a
 * later point may be flushed. A flush that was begun before a crash is redone from step 2. */
int flusher_flush(struct flusher *flusher, uint64_t number, struct error *error,
	struct flusher_result *ret_result);
/* Sends what is staged and not sealed ahead of its seal, a round: without a snapshot, under the
 * number of the point to come (fs/history.h, "Draining"). Then the journal may be trimmed. Blocks;
 * errors as flusher_flush, and -EALREADY: a sealed point is to be flushed first. 0 without
 * result.drained if a point was sealed meanwhile: it is to be flushed. */
int flusher_drain(struct flusher *flusher, struct error *error, struct flusher_result *ret_result);
/* What it is at; any thread. */
void flusher_progress(struct flusher *flusher, struct flusher_progress *ret_progress);
/* Ends this flusher: the flush under way and any later one with -ECANCELED, soon; any thread. */
void flusher_cancel(struct flusher *flusher);
