/*
 * What the parts of the flusher share; nobody else includes it.
 *
 *	flusher.c      life, the five steps in order
 *	flush_plan.c   what has to be sent of a disk
 *	flush_fit.c    step 2: a disk's size and footer
 *	flush_send.c   step 2: the disks' changes, and their hashes
 *	flush_unknown.c what else differs, after the journal has lost points of the vault
 *	flush_commit.c steps 3 and 4: snapshots, manifest
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
	struct point point;
	uint64_t base;     /* the history's vault point below */
	uint64_t previous; /* the vault's own: base, or the newest that the history has lost */
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
	struct vault_points above; /* the vault's points, if there is such a difference */
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
/* Bytes of all changes, for the progress. */
uint64_t flush_count_changes(struct flush *flush);

/* Snapshots every disk. */
int flush_snapshot_disks(struct flush *flush);
/* Makes the hashes object and the manifest appear. */
int flush_commit_point(struct flush *flush, const struct hashes_written *written);

/* Repairs the bases if they are in doubt. */
int flush_repair(struct flusher *flusher, struct error *error);
/* Waits until what was staged up to the lsn is durable. */
int flush_sync(struct flusher *flusher, uint64_t lsn, struct error *error);
/* The hash of the manifest below. The manifest itself is empty if this flusher has put it. */
int flush_load_previous(struct flusher *flusher, uint64_t number, struct error *error,
	struct manifest *ret_manifest);
