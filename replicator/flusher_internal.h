/*
 * What the parts of the flusher share; nobody else includes it.
 *
 *	flusher.c      life, the five steps in order
 *	flush_plan.c   what has to be sent of a disk
 *	flush_fit.c    step 2: a disk's size and footer
 *	flush_send.c   step 2: the disks' changes, and their hashes
 *	flush_unknown.c what else differs, after the journal has lost points of the vault
 *	flush_commit.c steps 3 and 4: snapshots, manifest
 *	flush_drain.c  what goes ahead of its seal, and the flush of the rest
 *	flush_repair.c bases that are in doubt
 *	sender.c       fenced requests, many at once
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "replicator/flusher.h"
#include "replicator/hashes.h"
#include "replicator/manifest.h"
#include "replicator/sender.h"
#include "replicator/vault_drained.h"
#include "replicator/vault_internal.h"

/* What a flusher knows of a disk from flush to flush. */
struct flush_disk {
	uint16_t id;
	char blob[VAULT_NAME_BYTES];
	struct sender_target target;
	bool footer_proven; /* this flusher has seen size and footer right */
};

struct flusher {
	struct flusher_options options;
	atomic_bool cancel;
	atomic_uint_fast64_t point, done_bytes, total_bytes;
	struct flush_disk *disks[HISTORY_MAX_DISKS];
	unsigned disk_count;
	uint64_t previous; /* the manifest whose hash this is; 0: unknown */
	struct hash128 previous_hash;
};

/* One flush under way. */
struct flush {
	struct flusher *flusher;
	struct point point; /* of a round of a drain: its number only */
	uint64_t mark;      /* where the round cuts the journal; 0: a flush */
	uint64_t base;      /* the history's vault point below */
	uint64_t previous;  /* the vault's own: base, or the newest that the history has lost */
	struct view *view;
	struct view_pass *pass;
	struct sender *sender;
	struct hashes_writer *writer;
	struct hashes_lanes *lanes; /* one for each of manifest.disks */
	struct vault_stage stage;
	struct manifest manifest;
	struct flush_disk *disks[HISTORY_MAX_DISKS]; /* beside manifest.disks */
	uint64_t sent_pages, dirty_pages;
	/* What differs from base in `previous`, by manifest.disks; NULL: nothing. */
	struct extent_map *unknown[HISTORY_MAX_DISKS];
	struct vault_points above;    /* the vault's points, if there is such a difference */
	uint64_t drained_number;      /* the parts are named by it; 0: nothing was drained */
	struct drained_proof drained; /* so far */
	struct drained_part part;     /* what this adds */
	struct drained_part garbage[2 * DRAINED_PARTS + 2]; /* parts that are merged into others */
	unsigned garbage_count;
	struct error *error;
};

/* Finds the pages that `previous` (its manifest) has, or has differently, and the history's base
 * has not. */
int flush_load_unknown(struct flush *flush, const struct manifest *previous);
void flush_free_unknown(struct flush *flush);
/* As view_next_change of disk manifest.disks[index], with what the base holds differently. */
int flush_next_change(struct flush *flush, unsigned index, uint64_t lba, struct extent *ret_extent);
/* After the commit: the history learns of the points that it had lost. Staged. */
int flush_adopt_unknown(struct flush *flush);

/* Brings the disk's blob to its size and writes its footer. Nothing is under way afterwards. */
int flush_fit_disk(struct flush *flush, struct flush_disk *disk, uint64_t disk_bytes);
/* Brings the disks' bases to the point: sizes, footers, changes. Writes their hashes and counts
 * into manifest.disks. Everything is acknowledged afterwards. */
int flush_send_disks(struct flush *flush);
/* Ends the writing of the hashes, which are staged then. */
int flush_finish_hashes(struct flush *flush, struct hashes_written *ret_written);
/* Bytes of all changes, for the progress. */
uint64_t flush_count_changes(struct flush *flush);

/* Snapshots every disk. */
int flush_snapshot_disks(struct flush *flush);
/* Makes the hashes object and the manifest appear. */
int flush_commit_point(struct flush *flush, const struct hashes_written *written);

/* What became of point `number`, whose flush was begun and whose end nobody knows; if it had
 * succeeded the journal learns so. With `bar` set it never will any more. */
int flush_settle_pending(struct flusher *flusher, uint64_t number, bool bar, struct error *error);
/* What was drained before, and the part that is added to it. */
int flush_load_drained(struct flush *flush);
/* The round's number and mark, durable. */
int flush_begin_round(struct flush *flush);
/* Once it is prepared. `ret_sealed`: a point was sealed meanwhile, and nothing was noted. */
int flush_send_round(struct flush *flush, bool *ret_sealed);
/* Of a point that was drained: what was just written becomes a part, and all parts the hashes of
 * the point, staged. */
int flush_merge_drained(struct flush *flush, struct hashes_written *written);
/* Deletes parts that nobody needs any more. */
void flush_delete_garbage(struct flush *flush);
/* Repairs the bases if they are in doubt. */
int flush_repair(struct flusher *flusher, struct error *error);
/* Waits until what was staged up to the lsn is durable. */
int flush_sync(struct flusher *flusher, uint64_t lsn, struct error *error);
/* The hash of the manifest below. The manifest itself is empty if this flusher has put it. */
int flush_load_previous(struct flusher *flusher, uint64_t number, struct error *error,
	struct manifest *ret_manifest);
