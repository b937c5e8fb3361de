/*
 * The history of a group: one journal for all its disks, what is current, and every recovery
 * point that can still be opened. This is the core of the product.
 *
 *	write ─► stage ─► commit ─► segments on disk ─► flushed to the vault ─► segment unlinked
 *	           │                       │
 *	        head map              index of a closed segment (its runs)
 *
 * Writes are *staged* in memory in the order in which they arrive (they get their lsn and their
 * place in the journal at once, so reads see them), and become durable by *commit*: one write,
 * one fdatasync, for everything staged. A *seal* is a record like any other: it ends an epoch and
 * makes a recovery point across all disks of the group. What is acknowledged is what commit
 * returned for; replay after a crash gives exactly the acknowledged records and perhaps some
 * staged after them, in order, never with a gap.
 *
 * Nothing here starts a thread. Calls may come from any thread, several at once, with two
 * exceptions stated below: one history_commit at a time, one history_maintain at a time. The
 * lock inside is held for memory work only, never across input or output.
 *
 * After -EIO from commit the history has *failed*: a disk that lost a write cannot be reasoned
 * with, only replayed. Every later call but reads and history_close answers -EIO; close it and
 * open it again.
 *
 * The formats are in journal_format.h, and fs/FORMATS.md explains them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "common/uuid.h"
#include "fs/base.h"
#include "fs/extent_map.h"
#include "fs/point.h"

#define HISTORY_MAX_DISKS 128
#define HISTORY_BOOKMARK_BYTES 16
#define HISTORY_MAX_WRITE_BYTES (1024u * 1024u) /* one history_write */
#define HISTORY_SEGMENT_BYTES (64ull << 20)     /* default; 64 KiB … 64 MiB, multiples of 4 KiB */

struct history;
struct view;

struct history_options {
	struct io *io; /* borrowed, as are the next two, for the history's life */
	struct clock_source *clock;
	struct base *base;      /* NULL until the group has a vault: the base then reads as zeros
				   and nothing can be marked as flushed */
	const char *directory;  /* the group's own; made if it is not there */
	struct uuid group;      /* must be the one found there */
	uint64_t limit_bytes;   /* of journal; data is refused above 97 %, see history_write */
	uint32_t segment_bytes; /* 0: HISTORY_SEGMENT_BYTES; read from the segments that exist */
};

/* What opening found. Each fault is named once, in words, with the file and the offset. */
struct history_report {
	uint64_t records_replayed;
	uint64_t torn_bytes;    /* never acknowledged, cut off: the normal end of a crash */
	unsigned faults;        /* structures that failed their checksum */
	uint64_t damaged_after; /* if acknowledged data was lost: the last lsn that is whole (1 if
				   none is), and every disk is *resync needed*; else 0 */
	char first_fault[256];
};

/* Opens, replaying what is there; an empty or missing directory is a new history.
 * -EUCLEAN: damaged beyond use (says what); -EPERM: another group's; -EPROTONOSUPPORT: written by
 * a newer version; -EBUSY: another process has it open. Faults that cost only part of it do not
 * fail the opening: see the report. */
int history_open(const struct history_options *options, struct history_report *ret_report,
	struct error *error, struct history **ret_history);

/* Whose history it is. Any thread. */
const struct uuid *history_group(const struct history *history);

/* Commits nothing that is staged: call history_commit first for an orderly end. Views must be
 * closed before. NULL is fine. */
void history_close(struct history *history);

/* ── disks ───────────────────────────────────────────────────────────────────────────────── */

struct history_disk {
	uint16_t id;          /* from 1; never used again in this history */
	bool removed;         /* old points still show it, new ones do not */
	bool resync_needed;   /* acknowledged data was lost; the head must be compared */
	uint64_t size_bytes;  /* multiple of 512, at most 8 TiB */
	uint64_t added_point; /* the first point that can show it */
	char name[64];        /* "<machine>/<disk>", unique among the not removed */
};

/* Staged like a write: durable after the next commit. A disk begins as all zeros; if there was one
 * of that name before, whose content the base may still hold, that is recorded like a write.
 * -EAGAIN (commit first), -EEXIST, -EINVAL (size or name), -E2BIG (HISTORY_MAX_DISKS). */
int history_add_disk(struct history *history, const char *name, uint64_t size_bytes,
	uint16_t *ret_disk, uint64_t *ret_lsn);
/* As history_add_disk for a disk whose content up to the newest imported vault point is in the
 * base under the given id (takeover). */
int history_import_disk(
	struct history *history, const struct history_disk *disk, uint64_t *ret_lsn);
/* Only larger; what is new reads as zeros. */
int history_grow_disk(
	struct history *history, uint16_t disk, uint64_t size_bytes, uint64_t *ret_lsn);
/* As history_grow_disk for a disk that was that large already at point `from_point`, which is known
 * from the vault: what points from there on have in the base shows again. */
int history_import_size(struct history *history, uint16_t disk, uint64_t size_bytes,
	uint64_t from_point, uint64_t *ret_lsn);
/* Staged. Points that were sealed before show it on; new ones do not. -ENOENT. */
int history_remove_disk(struct history *history, uint16_t disk, uint64_t *ret_lsn);
/* A comparison with the source has made the head right again; or one is needed. Staged. -ENOENT. */
int history_clear_resync(struct history *history, uint16_t disk, uint64_t *ret_lsn);
int history_set_resync(struct history *history, uint16_t disk, uint64_t *ret_lsn);

/* Copies up to `max` disks, by rising id; returns how many there are. */
unsigned history_disks(struct history *history, struct history_disk *ret_disks, unsigned max);
/* The disk with that id, removed or not. 0 or -ENOENT. */
int history_disk(struct history *history, uint16_t disk, struct history_disk *ret_disk);

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

/* Stages `sectors` sectors at `lba`. The data is hashed, then copied: it must stay as it is until
 * the call returns. At most HISTORY_MAX_WRITE_BYTES.
 * 0; -EAGAIN: too much is staged, commit first; -ENOSPC: the journal is 97 % full; -EINVAL;
 * -ENOENT: no such disk; -EIO: failed. On failure nothing is staged. */
int history_write(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, uint64_t *ret_lsn);
/* As history_write, of data that was acknowledged before: not refused for want of room. */
int history_write_late(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, uint64_t *ret_lsn);
/* The same with the XXH3-64 of each 4 KiB of the data (the last may be shorter) as whoever read it
 * at its source computed them: these are stored, and every later read is proven against them. */
int history_write_hashed(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, const uint64_t *hashes, uint64_t *ret_lsn);
/* As history_write, of zeros, at any length, without a payload. */
int history_zero(
	struct history *history, uint16_t disk, uint64_t lba, uint64_t sectors, uint64_t *ret_lsn);

struct seal {
	int64_t time_ns; /* the instant it shows */
	uint8_t kind;    /* enum point_kind */
	uint32_t flags;  /* POINT_KEEP, POINT_PRESSURE or 0 */
	/* Per disk, what the source needs to go on from here; unnamed disks keep theirs. */
	struct seal_bookmark {
		uint16_t disk;
		uint8_t data[HISTORY_BOOKMARK_BYTES];
	} * bookmarks;
	unsigned bookmark_count;
};

/* Stages a seal: everything staged before it belongs to the point, nothing after. O(1) in disks'
 * sizes and dirty data. Not refused for want of room. */
int history_seal(
	struct history *history, const struct seal *seal, uint64_t *ret_number, uint64_t *ret_lsn);
/* Points sealed from now on have numbers above that one (the vault has used it). Not kept: to be
 * said again after an opening, until a point is sealed. */
void history_number_above(struct history *history, uint64_t number);
/* The bookmark of the disk's last durable seal; zeros if it has none. */
int history_bookmark(
	struct history *history, uint16_t disk, uint8_t ret_data[static HISTORY_BOOKMARK_BYTES]);

/* Makes everything staged when it was called durable and returns the highest durable lsn. One
 * caller at a time. -EIO, -ENOSPC (of the filesystem): the history has failed. */
int history_commit(struct history *history, uint64_t *ret_durable_lsn);
/* The highest lsn that was given out, and the highest that is durable. */
uint64_t history_staged_lsn(struct history *history);
uint64_t history_durable_lsn(struct history *history);
/* A number that rises with every change of a disk's content, and with nothing else. */
uint64_t history_changes(struct history *history);
/* Bytes staged and not yet durable. */
uint64_t history_staged_bytes(struct history *history);

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

/* The current content, staged writes included. Every byte from the journal is proven by its
 * payload's hash; what cannot be proven is read from the base if that has the same, and is -EIO
 * else, which marks the disk resync_needed. As store.h's read; -ENOENT: no such disk. */
int history_read(
	struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors, void *data);

/* The same, but -EAGAIN if the base would have to be asked. */
int history_read_near(
	struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors, void *data);

/* The first extent of the current content that the journal holds and that ends after lba; what no
 * extent covers is as in the newest vault point. 0, -ENOENT (also: no such disk). */
int history_next_extent(
	struct history *history, uint16_t disk, uint64_t lba, struct extent *ret_extent);
/* How much of the disk lies under the journal: what is beyond that and not in the journal is zeros,
 * whatever the vault has there (the disk has grown since, or a damaged journal does not know that
 * it had). 0: no such disk. */
uint64_t history_base_bytes(struct history *history, uint16_t disk);

/* ── recovery points ─────────────────────────────────────────────────────────────────────── */

/* Copies up to `max` durable points with number ≥ `from`, rising; returns how many were copied.
 * Costs nothing but the copy, however many there are. */
unsigned history_points(
	struct history *history, uint64_t from, struct point *ret_points, unsigned max);
/* The point with that number. 0 or -ENOENT. */
int history_point(struct history *history, uint64_t number, struct point *ret_point);
/* The newest point with all of `flags` set and time ≤ time_ns (INT64_MAX: any). 0 or -ENOENT. */
int history_point_newest(
	struct history *history, uint32_t flags, int64_t time_ns, struct point *ret_point);
/* The newest point with time ≤ time_ns that can be opened, or could but for damage: not drained. 0
 * or -ENOENT. */
int history_point_latest(struct history *history, int64_t time_ns, struct point *ret_point);
/* The oldest point with number ≥ `from` and all of `flags` set. 0 or -ENOENT. */
int history_point_oldest(
	struct history *history, uint64_t from, uint32_t flags, struct point *ret_point);
/* Sets and clears POINT_KEEP, _VERIFIED, _FAILED; sets POINT_DAMAGED, for good. Staged. -ENOENT. */
int history_point_mark(
	struct history *history, uint64_t number, uint32_t set, uint32_t clear, uint64_t *ret_lsn);
/* Takes POINT_LOCAL or POINT_VAULT (or both) off; a point with neither is gone. Staged. Taking
 * POINT_VAULT off comes before its manifest is deleted. The newest vault point cannot lose
 * POINT_VAULT (-EBUSY), nor a point a view stands on (-EBUSY); a drained one cannot go (-EBUSY). */
int history_point_drop(struct history *history, uint64_t number, uint32_t flags, uint64_t *ret_lsn);
/* Adds a vault point found in the vault (takeover, or after loss of the catalogue); numbers rise.
 * Staged. -EEXIST. */
int history_point_import(struct history *history, const struct point *point, uint64_t *ret_lsn);

/* Size of the disk at the point, 0 if the point does not have it. A look-up; opens nothing. */
uint64_t history_point_disk_bytes(struct history *history, uint64_t number, uint16_t disk);

/* Points from `from` on do not show the disk, though they have it: what they have of it is no state
 * that ever was, or an old one. `to`: the first that shows it again; 0: none does. The list is not
 * in the journal: whoever keeps it gives it after each opening, whole. Points' files, clones and
 * history_point_hides obey it; views have all disks. 0 or -ENOMEM. */
struct history_absence {
	uint16_t disk;
	uint64_t from, to;
};
int history_set_absences(
	struct history *history, const struct history_absence *absences, unsigned count);
/* `*ret_absences` is the caller's to free(). */
int history_copy_absences(
	struct history *history, struct history_absence **ret_absences, unsigned *ret_count);
bool history_point_hides(struct history *history, uint64_t number, uint16_t disk);

/* A point's disks: what was changed since the vault point below it is in the journal, the rest
 * in that vault point, and read from the journal as well while it is there. Holds the segments
 * with what changed, no others, and keeps the vault point from being dropped.
 * -ENOENT: no such point; -ENODATA: damaged, or its segments are gone. */
int history_view_open(struct history *history, uint64_t number, struct view **ret_view);
/* Lets go of what it holds. NULL is fine. */
void view_close(struct view *view);
/* The number of its point. */
uint64_t view_number(const struct view *view);
/* The vault point below; 0 if there is none (then what is unmapped is zero). */
uint64_t view_base_number(const struct view *view);
/* As history_read, of the point. If the base does not have the vault point below (after damage the
 * history may believe in one that is gone) it reads from the next below, as far as the journal has
 * all that came since. */
int view_read(struct view *view, uint16_t disk, uint64_t lba, uint32_t sectors, void *data);
/* Reading much of a view once, as a flush does: long stretches come past the kernel's memory, if
 * `data` is aligned to IO_DIRECT_ALIGN. The view outlives the pass; one thread. */
struct view_pass;
int view_pass_new(struct view *view, struct view_pass **ret_pass);
void view_pass_free(struct view_pass *pass);
/* As view_read, from a whole block of 4 KiB of the disk on (else -EINVAL). For each block, from the
 * first on: whether the journal's proof was of just these 4 KiB, and then the XXH3-64 of what is in
 * `data` now. */
int view_pass_read(struct view_pass *pass, uint16_t disk, uint64_t lba, uint32_t sectors,
	void *data, uint64_t *ret_hashes, bool *ret_known);
/* The first extent of what changed since the vault point below that ends after lba. 0, -ENOENT.
 * This is what a flush has to send. */
int view_next_change(struct view *view, uint16_t disk, uint64_t lba, struct extent *ret_extent);
/* Size of the disk at the point, 0 if it did not have the disk. */
uint64_t view_disk_bytes(struct view *view, uint16_t disk);
/* True if the bytes can now be read without asking the base. */
bool view_is_local(struct view *view, uint16_t disk, uint64_t lba, uint64_t sectors);
uint64_t view_memory_bytes(struct view *view);

/* ── the vault's side ────────────────────────────────────────────────────────────────────── */

/* Records that a flush up to point `number` begins (after a crash it is redone from here). Staged.
 * -EUCLEAN: the base must be repaired first. */
int history_flush_begin(struct history *history, uint64_t number, uint64_t *ret_lsn);
/* Records that the point is committed in the vault: from its commit on, the base of the head is
 * this point and segments that only older state needs may go. Staged. -EINVAL if it is not above
 * the newest vault point. */
int history_flush_commit(struct history *history, uint64_t number, uint64_t *ret_lsn);
/* The flush that was begun and not committed; 0 if none. */
uint64_t history_flush_pending(struct history *history);
/* The oldest point for which things may be in the vault that no manifest explains yet: that one, or
 * an older one that was drained. 0 if there is none. */
uint64_t history_oldest_pending(struct history *history);

/* True if acknowledged records were lost, among them perhaps what told what a flush or a drain has
 * sent, or if it was asked for: then whatever the base holds, it must be made what vault point
 * `ret_point` shows (0: zeros) before anything is sent. Durable until history_repaired. */
bool history_repair_due(struct history *history, uint64_t *ret_point);
/* Somebody else may have written to the base: a repair is due from the record's commit on. It keeps
 * what was drained, which only the base holds. Staged; -EAGAIN: commit first; -EIO. */
int history_repair_ask(struct history *history, uint64_t *ret_lsn);
/* It is what that point shows. Staged. -EINVAL: it was not due, or another point is the newest. */
int history_repaired(struct history *history, uint64_t point, uint64_t *ret_lsn);

/* Draining: an epoch that does not fit into the journal goes to the vault's disks before it is
 * sealed, in rounds:
 *
 *	history_drain_begin ─► commit ─► history_drain_view: send what changed ─► make what proves
 *	it durable in the vault ─► history_drain_commit ─► commit ─► history_trim gives room
 *
 * under the number of the point to come, without a snapshot. Then what the journal does not have
 * any more is read from the base as it lies there (base.h, read_live). A seal ends it: its point,
 * and any sealed on top, is POINT_DRAINED and cannot be opened until it is in the vault, and until
 * then no other drain begins. A round that fails or is cut short by a seal costs nothing but its
 * work: what it sent is sent again. One thread at a time drains or flushes. */

#define HISTORY_DRAIN_PROOF_BYTES 1856u

struct history_drain {
	uint64_t number; /* of the point that is or will be made of it; 0: nothing is drained */
	uint64_t lsn;    /* everything up to it is in the base */
	bool sealed;     /* the point is made */
	bool flush_due;  /* a sealed point is not in the vault: no round may begin */
	uint64_t next;   /* what the next seal will be called */
	size_t proof_bytes;
	uint8_t proof[HISTORY_DRAIN_PROOF_BYTES]; /* as the last round gave it */
};

/* Records that a round begins: of what is staged about `most_bytes` of the journal's oldest, up to
 * `ret_cut`; 0: all. Staged; the first time it writes checkpoints, too, so that older releases
 * refuse the journal. -EBUSY: a sealed point must be flushed first; -EUCLEAN: the base must be
 * repaired first; -EINVAL: it cannot do it. */
int history_drain_begin(struct history *history, uint64_t most_bytes, uint64_t *ret_number,
	uint64_t *ret_cut, uint64_t *ret_lsn);
/* What the round has to send, once its beginning is durable: view_next_change and view_read.
 * -ESTALE: another round has begun since; -ENODATA: as history_view_open. */
int history_drain_view(
	struct history *history, uint64_t number, uint64_t cut, struct view **ret_view);
/* All that changed is in the base, as large as the view shows each disk. `proof` takes the place of
 * the last round's. Staged. -ESTALE: a point was sealed meanwhile, and has all of it. */
int history_drain_commit(struct history *history, const struct view *view, const void *proof,
	size_t n, uint64_t *ret_lsn);
/* Where draining stands. */
void history_drain_state(struct history *history, struct history_drain *ret_drain);
/* What a flush of the point has to send: as history_view_open or, if it was drained, what was not;
 * the rest is then read from the base as it lies there. */
int history_flush_view(struct history *history, uint64_t number, struct view **ret_view);

/* ── space and upkeep ────────────────────────────────────────────────────────────────────── */

struct history_stats {
	uint64_t limit_bytes;
	uint64_t used_bytes;      /* of the journal's files */
	uint64_t freeable_bytes;  /* could be trimmed now, at the price of local points */
	uint64_t unflushed_bytes; /* payload sealed or not that is not in the vault */
	uint64_t drained_bytes;   /* payload that is there, but of no vault point yet */
	uint64_t undrained_bytes; /* of complete segments above the vault point and the drain */
	uint64_t unsealed_bytes;  /* written and zeroed since the newest seal, staged included; what
				     point.changed_bytes will be */
	uint64_t written_bytes;   /* payload taken since it was opened, */
	uint64_t zeroed_bytes;    /* zeros likewise, */
	uint64_t journal_bytes;   /* and what the journal wrote for it */
	uint64_t commits;
	uint64_t head_extents;
	uint64_t map_memory_bytes;
	uint64_t staged_lsn, durable_lsn;
	uint64_t newest_point; /* number; 0 if none */
	uint64_t newest_vault_point;
	bool failed;
};

/* As of now; the counts since the opening. */
void history_stats(struct history *history, struct history_stats *ret_stats);
/* In the place of the options' limit_bytes; 0: none. Nothing is trimmed by it. */
void history_set_limit(struct history *history, uint64_t limit_bytes);

/* Unlinks the oldest segments whose every record is at or below the newest vault point, or drained,
 * until used_bytes ≤ target; local-only points that need them are dropped first (durably). Segments
 * held by views stay until these are closed. Returns what is used now; that it is still above
 * the target is no error. */
int history_trim(struct history *history, uint64_t target_bytes, uint64_t *ret_used_bytes);

/* Does what is due: indexes closed segments, writes a checkpoint, readies a spare segment.
 * One caller at a time, beside any other calls. `ret_more` says that there is more to do now. */
int history_maintain(struct history *history, bool *ret_more);
