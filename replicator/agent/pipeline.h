/*
 * From disks to the appliance: reading, comparing, sending, and knowing what has arrived.
 *
 *	task ─► reader ─► buffers ─► sender ─► connection ─► … ACK ─► settled
 *
 * Every connection has a reader and a sender. A place on a disk belongs to one connection, and its
 * reader and sender take tasks in their order, so what was read later is sent later: an older
 * content never overtakes a newer one. Buffers are few (PIPELINE_BUFFERS of a chunk each), which
 * bounds memory; readers wait when all are on their way.
 *
 * What was taken of the marks in a pass is settled when the appliance has acknowledged it. When the
 * pipeline ends before that, nothing is settled: the marks are put back by pipeline_free.
 *
 * Threads: put, the waits and free are the conductor's; pipeline_acknowledge is called by who
 * receives.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/checksum.h"
#include "common/error.h"
#include "common/token_bucket.h"
#include "replicator/agent/source.h"
#include "replicator/wire/connection.h"

#define PIPELINE_CONNECTIONS_MAX 8u
#define PIPELINE_BUFFERS 24u

struct pipeline;

enum task_kind {
	TASK_SEND,    /* the range, as it is now */
	TASK_COMPARE, /* a chunk: told of if its hash is not the expected one, else forgotten; with
		       * expected_pages as TASK_PAGES, so that it is read only once */
	TASK_PAGES,   /* of a chunk, those pages whose hashes are not the expected ones */
};

struct task {
	enum task_kind kind;
	struct source_disk *disk;
	uint64_t offset; /* multiples of 4 KiB, within one chunk */
	uint32_t length;
	uint64_t pass;           /* TASK_SEND: of the marks, settled when it has arrived; 0: none */
	struct hash128 expected; /* TASK_COMPARE */
	uint64_t *expected_pages; /* owned, freed by the pipeline */
};

/* Told from readers' and receivers' threads; they must not call the pipeline. */
struct pipeline_events {
	/* A chunk's hash is another. `expected` is what the task expected. */
	void (*differs)(void *context, const struct task *task);
	/* A comparison (or what followed from it) is through: equal, or sent and acknowledged. */
	void (*compared)(void *context, struct source_disk *disk, uint64_t offset, bool sent);
	/* A chunk of a comparison could not be read: the disk's error says why. */
	void (*unread)(void *context, struct source_disk *disk, uint64_t offset);
	/* Something failed; the session is to end. Told at least once, perhaps often. */
	void (*failed)(void *context, const struct error *error);
	void *context;
};

struct pipeline_options {
	struct connection *const *connections; /* borrowed, as all that follows */
	unsigned connection_count;
	uint64_t window_bytes;
	bool zstd;
	/* What the whole process may take of one processor while it reads and sends; 0: no limit.
	 */
	unsigned cpu_percent;
	struct pipeline_events events;
};

int pipeline_new(const struct pipeline_options *options, struct error *error,
	struct pipeline **ret_pipeline);
/* Connections are stopped before. Joins the threads; marks that were taken and not acknowledged are
 * put back. NULL is fine. */
void pipeline_free(struct pipeline *pipeline);

/* Takes the task over, `expected_pages` included; waits while its reader has a full queue. -EIO:
 * the pipeline has failed. */
int pipeline_put(struct pipeline *pipeline, const struct task *task);
/* True if a put would not wait. */
bool pipeline_has_room(struct pipeline *pipeline);
/* Until all that was put has been read (it lies in buffers, or further) or could not be; until all
 * has been sent; until all has been acknowledged. -EIO: the pipeline has failed; -ETIMEDOUT. */
int pipeline_wait_read(struct pipeline *pipeline, int64_t patience_ns);
int pipeline_wait_sent(struct pipeline *pipeline, int64_t patience_ns);
int pipeline_wait_arrived(struct pipeline *pipeline, int64_t patience_ns);
/* Per connection, the last frame that carried data; 0: none. After pipeline_wait_sent. */
void pipeline_last_sent(
	struct pipeline *pipeline, uint64_t ret_sequences[static PIPELINE_CONNECTIONS_MAX]);

/* The appliance has acknowledged this on connection `index`. */
void pipeline_acknowledge(
	struct pipeline *pipeline, unsigned index, uint64_t sequence, uint64_t window_bytes);

/* Bytes a second that may be read from disks, and sent; 0: no limit. At once, for what waits, too.
 */
void pipeline_set_rates(
	struct pipeline *pipeline, uint64_t read_bytes_per_s, uint64_t send_bytes_per_s);

/* A rate is set, so what went through of late says nothing of what can. */
bool pipeline_is_paced(struct pipeline *pipeline);

/* While something stands still for it nothing waits for its rate; it is owed, and paid back later.
 */
void pipeline_hurry(struct pipeline *pipeline, bool hurry);

/* Ends it for good: every wait fails, the first reason counts and is told (events.failed). By
 * whoever receives, when the connection has ended. */
void pipeline_fail(struct pipeline *pipeline, const struct error *error);
/* What ended it; code 0 while it works. */
void pipeline_error(struct pipeline *pipeline, struct error *ret_error);

struct pipeline_counts {
	uint64_t read_bytes, sent_bytes, zero_bytes; /* content */
	uint64_t wire_bytes;                         /* of DATA's payloads as they travelled */
	uint64_t compared_chunks, differing_chunks;
	uint64_t read_errors;
};
void pipeline_counts(struct pipeline *pipeline, struct pipeline_counts *ret_counts);
