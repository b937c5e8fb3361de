/*
 * What the parts of the vault share; nobody else includes it.
 *
 *	vault.c          vault.json                       vault_point.c     keep, delete
 *	vault_group.c    owner.json: load, create, …      vault_orphans.c   what nothing explains
 *	vault_owner.c    owner.json as text               vault_check.c     all against all
 *	vault_claim.c    ownership and leases             vault_verify.c    every byte of a point
 *	vault_disk.c     a disk's blob                    vault_takeover.c  another's group
 *	vault_points.c   listing, manifests, hashes       vault_repair.c    half-written bases
 *	vault_io.c       objects and reads, tried again   vault_base.c      reading for the history
 *	vault_import.c   points into a new history        vault_proofs.c   page hashes, gathered
 *	vault_agree.c    what history and vault know, after a loss here
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/error.h"
#include "replicator/blob.h"
#include "replicator/hashes.h"
#include "replicator/manifest.h"
#include "replicator/vault.h"

/* ── objects and reads (vault_io.c) ──────────────────────────────────────────────────────── */

/* Hands a blob error up: copies it to `error` with "<text>: " before it; returns its code. */
int vault_fail(struct error *error, int r, const struct blob_error *e, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Puts an object and makes sure of the result: if the name is taken (or changed) but by these
 * very bytes, an earlier try of ours got through and that is success. */
int vault_object_put(struct blob_store *store, const char *name, const struct buf *data,
	const char *if_match, const struct blob_metadata *metadata, unsigned metadata_count,
	struct error *error, char ret_etag[static BLOB_ETAG_BYTES]);
int vault_object_get(struct blob_store *store, const char *name, size_t limit, struct error *error,
	struct buf *ret_data, char ret_etag[static BLOB_ETAG_BYTES]);
/* Of what is there now. -ENOENT. */
int vault_object_etag(struct blob_store *store, const char *name, struct error *error,
	char ret_etag[static BLOB_ETAG_BYTES]);
/* Deletes the object that `etag` names; 0 also if it is not there. -ESTALE: another has taken its
 * place. */
int vault_object_delete(
	struct blob_store *store, const char *name, const char *etag, struct error *error);
/* No lease protects a snapshot: see vault.h for what must hold before. 0 also if it is not there.
 */
int vault_snapshot_delete(
	struct blob_store *store, const char *blob, const char *snapshot, struct error *error);

/* Reads: fills and runs up to `count` BLOB_READ requests at once on a store with nothing else
 * under way. */
int vault_read(struct blob_store *store, struct blob_request *requests, unsigned count,
	struct error *error);

/* ── owner.json as text (vault_owner.c) ──────────────────────────────────────────────────── */

#define VAULT_OWNER_MAX_BYTES (4u << 20)
/* In owner.json, which tells of removed disks, too, whose blobs go with the group. */
#define VAULT_MAX_DISKS 4096u
int vault_owner_format(const struct vault_group *group, struct buf *text);
int vault_owner_parse(const char *what, const char *text, size_t n, struct error *error,
	struct vault_group *ret_group);
/* Writes owner.json if it is still the one that group->etag names; updates the etag. -ESTALE:
 * somebody else wrote it, the error names them. */
int vault_owner_swap(struct blob_store *store, struct vault_group *group, struct error *error);
/* 0 if owner.json still says that the group is ours in this generation; -ESTALE with words. */
int vault_owner_confirm(
	struct blob_store *store, const struct vault_group *group, struct error *error);
/* owner.json was deleted from outside, or is not the one that the leases were taken by: fills
 * `error` with `code` and what is to be done; returns the code. */
int vault_owner_missing(const char *group, int code, const char *how, struct error *error);
/* After a change failed with r: -ESTALE in words if the group is another's, else r and `error` as
 * they are. Objects that a new owner replaced may look damaged, or parts of them missing. */
int vault_owner_blame(
	struct blob_store *store, const struct vault_group *group, int r, struct error *error);
int vault_new_lease(struct vault_group *group, struct error *error);
/* Deletes owner.json if it is still the one that group->etag names. -ESTALE. */
int vault_owner_delete(
	struct blob_store *store, const struct vault_group *group, struct error *error);

/* ── a disk's blob (vault_disk.c) ────────────────────────────────────────────────────────── */

/* Makes sure that the disk's blob is there, leased under the group's id, with its footer. */
int vault_disk_ensure(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, struct error *error);
/* Brings the blob's lease from `from` to the group's id; an unleased one is acquired. -ESTALE:
 * leased under an id that is neither; -ENOENT: no blob; -EEXIST: another group's disk. */
int vault_disk_lease(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, const char *from, struct error *error);
/* Gives the blob its size, footer included. A resize that lands late, even in another life, could
 * cut the blob off: no sequence number fences it, but the ETag it was made for does, which every
 * later change of the blob makes void. So whoever relies on the size looks after a raise. */
struct backoff;
int vault_disk_resize(struct blob_store *store, const char *blob, uint64_t blob_bytes,
	const char *lease_id, struct backoff *backoff, struct error *error);
/* Deletes the blob with its snapshots, under the group's lease; 0 also if there is none, or if it
 * is another group's disk, which stays. -ESTALE: leased under an id that is not ours. */
int vault_disk_delete(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, struct error *error);
const struct vault_disk *vault_disk_of(const struct vault_group *group, uint16_t id);

/* ── points (vault_points.c) ─────────────────────────────────────────────────────────────── */

struct vault_point_item {
	uint64_t number;
	int64_t time_ns;
	uint64_t changed_bytes, generation;
	uint32_t flags;
	uint8_t kind;
	bool manifest;  /* there is one, of a committed point if neither of the next two */
	bool abandoned; /* a tombstone */
	bool cut;       /* came too late, see struct vault_cut */
	bool told;      /* metadata was there and readable */
	bool hashes;    /* there is a hashes object */
	char etag[BLOB_ETAG_BYTES], hashes_etag[BLOB_ETAG_BYTES]; /* as listed */
};

struct vault_points {
	struct vault_point_item *items; /* by rising number; owned */
	unsigned count;
};

void vault_points_free(struct vault_points *points);
/* One listing; reads no manifest unless its metadata is missing. */
int vault_points_list(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct vault_points *ret_points);
static inline bool vault_point_is_committed(const struct vault_point_item *item)
{
	return item->manifest && !item->abandoned && !item->cut;
}
bool vault_is_cut(const struct vault_group *group, uint64_t generation, uint64_t number);
/* The committed point next to `number`, or NULL. */
const struct vault_point_item *vault_points_above(
	const struct vault_points *points, uint64_t number);
const struct vault_point_item *vault_points_below(
	const struct vault_points *points, uint64_t number);

/* Reads and checks a manifest, whatever its state. `ret_hash`: of its bytes; may be NULL. */
int vault_manifest_load(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error, struct manifest *ret_manifest, struct hash128 *ret_hash,
	char ret_etag[static BLOB_ETAG_BYTES]);

/* What became of point `number`, whose flush was begun and whose end nobody knows. With `bar` set
 * its manifest is kept from ever appearing, unless it is there: a put whose answer was lost may
 * still be under way, so a tombstone takes the name. The point's own flush may replace that. */
int vault_point_settle(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, uint64_t number, bool bar, struct error *error,
	bool *ret_committed);

/* The metadata of a manifest's object; the texts live in the struct. */
struct vault_metadata {
	char changed[24], generation[24], time[32], flags[32];
	struct blob_metadata items[5];
	unsigned count;
};
void vault_manifest_metadata(
	const struct manifest *manifest, uint32_t flags, struct vault_metadata *ret_metadata);
/* Puts a manifest in the place of what has that ETag; "": of nothing (-EEXIST). `ret_hash` (may be
 * NULL) is that of the text, also if the put fails. */
int vault_manifest_put(struct blob_store *store, const struct manifest *manifest,
	const char *if_match, struct error *error, struct hash128 *ret_hash);

/* The hashes of a point as a source for hashes_reader_new. `etag` is what the first read saw; one
 * that sees another, or none where there was one, answers -EAGAIN and sets `replaced`: what was
 * read so far is no part of what is there now. */
struct vault_hashes {
	struct blob_store *store;
	char name[VAULT_NAME_BYTES];
	char etag[BLOB_ETAG_BYTES];
	bool replaced;
};
void vault_hashes_open(struct vault_hashes *hashes, struct blob_store *store,
	const struct vault_group *group, uint64_t number, struct hashes_source *ret_source);
/* A sink that stages the parts of a hashes object. */
struct vault_stage {
	struct blob_store *store;
	const atomic_bool *cancel; /* see backoff.h */
	const struct vault_group *group;
	char name[VAULT_NAME_BYTES];
	uint64_t series;
	struct error error; /* of the part that failed */
};
int vault_stage_open(struct vault_stage *stage, struct blob_store *store, const atomic_bool *cancel,
	const struct vault_group *group, uint64_t number, struct error *error,
	struct hashes_sink *ret_sink);
/* Makes the staged object appear. if_match as in object_commit; NULL: in place of what is there
 * now, if it is the group's owner's. -ESTALE: the group is not ours any more. */
int vault_stage_commit(struct vault_stage *stage, const struct hashes_written *written,
	const char *if_match, struct error *error);

/* ── repair (vault_repair.c) ─────────────────────────────────────────────────────────────── */

struct vault_progress {
	void (*told)(void *context, uint64_t done_bytes, uint64_t total_bytes);
	void *context;
	uint64_t done_bytes, total_bytes;
};
/* Makes the disk's base equal to `snapshot` (NULL: all zeros and a footer), of `size_bytes`
 * without footer. Fenced. */
int vault_disk_repair(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, const struct vault_disk *disk, const char *snapshot,
	uint64_t size_bytes, struct vault_progress *progress, struct error *error);
/* Of all disks that are not removed: what the manifest shows (0 as its number: of nothing). */
int vault_repair_disks(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, const struct manifest *manifest,
	struct vault_progress *progress, struct error *error);
/* The newest committed point whose manifest and snapshots are whole; number 0 if there is none. */
int vault_newest_whole(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct manifest *ret_manifest);
