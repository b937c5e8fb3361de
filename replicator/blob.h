/*
 * What the replicator needs of a blob service: page blobs with snapshots, leases and sequence
 * numbers, and small objects with compare-and-swap. The appliance plugs the real client in, the
 * simulation a lying one.
 *
 * A *service* hands out *stores*. A store belongs to one thread at a time; the calls of its data
 * plane (submit, wait) run many requests at once, all others block. Stores are cheap enough to
 * have one per flusher and per reading thread.
 *
 * Results tell the certain from the ambiguous: `ambiguous` in struct blob_error means that the
 * change may have happened, or may still happen later. Implementations retry what is safe to
 * retry (reads; refusals such as 503) and never retry a mutation whose result is ambiguous: that
 * needs a fence, and only the caller has it. Error codes:
 *	-ENOENT    no such blob, snapshot or container
 *	-EEXIST    already there, If-None-Match failed
 *	-ESTALE    lease, sequence number or If-Match does not hold (412): somebody else was here
 *	-EBUSY     leased by another (409)
 *	-EACCES    refused credentials
 *	-EAGAIN    service overloaded, retries used up
 *	-EINVAL    the service refuses the request
 *	-ECONNREFUSED, -ETIMEDOUT, -ECONNRESET  the service is out of reach (see `ambiguous`)
 *	-EBADMSG   an answer that is no answer: short, misaligned, unparsable
 *	-ECANCELED the store is being ended
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/error.h"

#define BLOB_LEASE_ID_BYTES 37    /* a UUID's text */
#define BLOB_SNAPSHOT_ID_BYTES 40 /* the service's date and time text */
#define BLOB_ETAG_BYTES 64
#define BLOB_MAX_PUT_BYTES (4u << 20)

struct blob_error {
	struct error error; /* code, what, mend; the message ends with the request id */
	bool ambiguous;
};

struct blob_store;
struct blob_service;

enum blob_verb {
	BLOB_PUT_PAGES,   /* data → [offset, offset + length), ≤ BLOB_MAX_PUT_BYTES */
	BLOB_CLEAR_PAGES, /* zeros, any length */
	BLOB_READ,        /* [offset, offset + length) of the base or a snapshot → data */
};

/* One request of the data plane. The caller embeds it, fills it and keeps it and all it points
 * to until it comes back from wait. Offsets and lengths are multiples of 512. */
struct blob_request {
	enum blob_verb verb;
	const char *blob;
	const char *snapshot; /* BLOB_READ: NULL for the base */
	uint64_t offset, length;
	void *data;
	const char *lease_id; /* puts and clears: always */
	int64_t sequence;     /* puts and clears: the blob's sequence number must equal it */
	int result;           /* out: 0 or -errno */
	struct blob_error error;
	void *implementation; /* the store's own while under way */
};

struct blob_properties {
	uint64_t size_bytes;
	int64_t sequence;
	bool leased;
	char etag[BLOB_ETAG_BYTES];
};

struct blob_metadata {
	const char *name, *value; /* names: C identifiers, lower case */
};

struct blob_item {
	const char *blob;
	const char *snapshot; /* NULL: the base */
	const char *etag;     /* "" if the service did not tell it */
	uint64_t size_bytes;
	const struct blob_metadata *metadata;
	unsigned metadata_count;
};

enum blob_list_flags { BLOB_LIST_SNAPSHOTS = 1, BLOB_LIST_METADATA = 2 };

struct blob_range {
	uint64_t offset, length;
	bool cleared; /* only with a previous snapshot: was written there, is zero now */
};

struct blob_store_ops {
	/* data plane */
	int (*submit)(struct blob_store *store, struct blob_request *request);
	/* One finished request; -EAGAIN after timeout_ms (−1: none) or if none is under way. */
	int (*wait)(struct blob_store *store, int timeout_ms, struct blob_request **ret_request);

	/* page blobs */
	/* If-None-Match: an existing blob is never replaced (-EEXIST). */
	int (*create)(struct blob_store *store, const char *blob, uint64_t size_bytes,
		struct blob_error *error);
	/* if_match: the ETag of the blob as it was seen, the fence of a change that knows no
	 * sequence number: one that lands after any other change is refused. */
	int (*resize)(struct blob_store *store, const char *blob, uint64_t size_bytes,
		const char *lease_id, const char *if_match, struct blob_error *error);
	int (*properties)(struct blob_store *store, const char *blob, struct blob_error *error,
		struct blob_properties *ret_properties);
	/* Raises the sequence number to at least `at_least`; returns what it is then. */
	int (*raise_sequence)(struct blob_store *store, const char *blob, const char *lease_id,
		int64_t at_least, struct blob_error *error, int64_t *ret_sequence);
	int (*snapshot)(struct blob_store *store, const char *blob, const char *lease_id,
		const struct blob_metadata *metadata, unsigned metadata_count,
		struct blob_error *error, char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES]);
	/* A snapshot, which no lease protects (lease_id NULL); or, with snapshot NULL, the base and
	 * all its snapshots in one request, under the lease. */
	int (*delete_blob)(struct blob_store *store, const char *blob, const char *snapshot,
		const char *lease_id, struct blob_error *error);
	/* Written ranges of base or snapshot in a window, rising; with `previous` the difference.
	 */
	int (*ranges)(struct blob_store *store, const char *blob, const char *snapshot,
		const char *previous, uint64_t offset, uint64_t length,
		int (*each)(void *context, const struct blob_range *range), void *context,
		struct blob_error *error);

	/* leases: infinite, with an id of our own. Acquiring what we hold under that id succeeds.
	 */
	int (*lease_acquire)(struct blob_store *store, const char *blob, const char *lease_id,
		struct blob_error *error);
	int (*lease_change)(struct blob_store *store, const char *blob, const char *lease_id,
		const char *new_lease_id, struct blob_error *error);
	int (*lease_release)(struct blob_store *store, const char *blob, const char *lease_id,
		struct blob_error *error);
	int (*lease_break)(struct blob_store *store, const char *blob, struct blob_error *error);

	/* names, in the service's order; `each` returning non-zero ends it and is returned */
	int (*list)(struct blob_store *store, const char *prefix, unsigned flags,
		int (*each)(void *context, const struct blob_item *item), void *context,
		struct blob_error *error);

	/* small objects (block blobs). if_match: an ETag, "*" (must exist), "" (must not exist), or
	 * NULL (whatever is there). */
	int (*object_put)(struct blob_store *store, const char *name, const void *data, size_t n,
		const char *if_match, const struct blob_metadata *metadata, unsigned metadata_count,
		struct blob_error *error, char ret_etag[static BLOB_ETAG_BYTES]);
	/* -EFBIG if larger than limit. */
	int (*object_get)(struct blob_store *store, const char *name, size_t limit,
		struct blob_error *error, struct buf *ret_data,
		char ret_etag[static BLOB_ETAG_BYTES]);
	/* A part of an object: as many of `n` bytes at `offset` as there are. */
	int (*object_read)(struct blob_store *store, const char *name, uint64_t offset, void *data,
		size_t n, struct blob_error *error, size_t *ret_n,
		char ret_etag[static BLOB_ETAG_BYTES]);
	int (*object_delete)(struct blob_store *store, const char *name, const char *if_match,
		struct blob_error *error);
	/* A large object in parts of ≤ 4 MiB: stage them in order, then commit makes it appear (or
	 * be replaced) whole. An aborted one leaves nothing that shows. Parts are known by series
	 * and number: each writing takes a random series, so that a part of an earlier one that
	 * lands late cannot get in. */
	int (*object_stage)(struct blob_store *store, const char *name, uint64_t series,
		unsigned part, const void *data, size_t n, struct blob_error *error);
	int (*object_commit)(struct blob_store *store, const char *name, uint64_t series,
		unsigned parts, const char *if_match, struct blob_error *error);

	/* Copies a snapshot to a new blob and waits for the end of it. */
	int (*copy)(struct blob_store *store, const char *blob, const char *snapshot,
		const char *new_blob, struct blob_error *error);

	void (*free)(struct blob_store *store);
};

/* What one page blob takes in a second, all its writers together; 0: no limit. Whoever writes much
 * keeps below it, ahead of the service's refusals. */
struct blob_limits {
	uint64_t requests_per_s, bytes_per_s;
};

struct blob_store {
	const struct blob_store_ops *ops;
	struct blob_limits limits;
	/* For trying again; both borrowed. */
	struct clock_source *clock;  /* NULL: the machine's */
	const atomic_bool *stops[2]; /* once one is true nothing is tried again; NULL: never */
};

struct blob_service_ops {
	/* Once `stop` (borrowed for the store's life; NULL: never) is true, all calls of the store,
	 * also those to come, end as -ECANCELED within a quarter of a second; what they asked for
	 * may have happened, or may still. */
	int (*open_store)(struct blob_service *service, const atomic_bool *stop,
		struct error *error, struct blob_store **ret_store);
	/* Makes the container if it is not there (vault init). 0 also if it was. */
	int (*create_container)(struct blob_service *service, struct error *error);
	/* What to call it in messages: "account/container". */
	const char *(*name)(struct blob_service *service);
};

struct blob_service {
	const struct blob_service_ops *ops;
};
