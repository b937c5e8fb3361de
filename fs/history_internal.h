/*
 * What the files of the history share. Nobody else includes this.
 *
 *	history.c, history_read.c, view.c   opening and closing, reading the head, reading a point
 *	stage.c, commit.c, record.c         batches in memory, batches to disk, headers
 *	segment.c, header_cache.c           segment files and who uses them, proven headers
 *	apply.c, disks.c, catalogue.c       what records do: the tables of disks and points
 *	drain.c, repair.c                   an epoch that leaves the journal before its seal, and
 *	                                    what is in doubt after a loss
 *	scan.c, index.c, checkpoint.c       a segment in order, its runs, the tables on disk
 *	replay.c, replay_files.c, damage.c  opening, and what it does when there was a loss
 *	trim.c, upkeep.c, spare.c           giving segments back, and using them again
 *
 * Locks, in this order:
 *	upkeep_lock   one trim or maintain at a time; held across I/O
 *	commit_lock   one commit at a time; held across I/O; guards chain_lsn, chain_hash, writers
 *	lock          everything else; never held across I/O
 *
 * State is changed by records only: staging a record and replaying it run the same code
 * (apply.c), so what is in memory is always what replay would give, up to staged_lsn.
 */
#pragma once

#include <pthread.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/history.h"
#include "fs/journal_format.h"

/* ── segments ────────────────────────────────────────────────────────────────────────────── */

struct segment {
	uint64_t seq, incarnation;
	uint64_t first_lsn, last_lsn; /* last_lsn: committed */
	uint64_t prev_lsn, prev_hash, end_hash;
	uint64_t end;           /* bytes committed */
	uint64_t staged_end;    /* bytes that have their place */
	uint64_t index_bytes;   /* of its index file; 0: there is none */
	uint64_t payload_bytes; /* taken in; less if it was replayed by its index */
	bool closed;            /* complete: nothing is or will be staged for it */
	bool fresh;             /* its file grows: it was no spare */
	bool live;              /* in history.segments */
	bool index_failed;      /* its content is bad or cannot be read: no index will come */
	unsigned refs;          /* readers, views, and 1 while live */
	unsigned reading;       /* pins: they keep `reader` open, and are among the refs */
	struct io_file *reader; /* opened when first read */
	struct io_file *writer; /* commit_lock */
};

struct batch {
	struct batch *next;
	struct segment *segment;
	uint64_t offset; /* in the segment */
	uint32_t capacity, used;
	uint32_t record; /* offset of the open data record; UINT32_MAX: none is open */
	uint32_t record_payload;
	uint32_t record_hashes; /* in the open record */
	uint64_t staged_bytes;  /* what it counts for in the history's, no less than `used` */
	bool closed;
	uint8_t *data;
};

/* ── disks and points ────────────────────────────────────────────────────────────────────── */

struct disk_size {
	uint64_t from_point, bytes;
};

struct disk {
	struct history_disk info;
	uint64_t removed_point; /* first point that does not show it; UINT64_MAX */
	struct disk_size *sizes;
	unsigned size_count;
	uint64_t bookmark_lsn;                       /* of the seal that set bookmark[1] */
	uint8_t bookmark[2][HISTORY_BOOKMARK_BYTES]; /* [0]: of the seal before */
	struct extent_map *map;                      /* head; NULL while empty */
};

struct catalogue_point {
	struct point point;
	uint64_t position; /* lsn of the record that made it: what the journal's ranges mean */
	uint64_t payload_total;
	uint64_t flags_lsn;  /* of the record that changed the flags last; until it is durable, */
	uint32_t flags_then; /* these are shown */
};

struct header_cache;

#define MAX_SPARES 2u
#define MAX_TOLD 16u
#define MAX_SPARE_BUFFERS 8u /* as many batches as may be staged */

struct history {
	struct io *io;
	struct clock_source *clock;
	struct base *base;
	char *directory;
	struct uuid group;
	uint32_t segment_bytes;
	struct io_file *lock_file;

	pthread_mutex_t upkeep_lock, commit_lock, lock;
	bool open; /* replay is through */
	bool failed;
	uint64_t limit_bytes;
	uint64_t incarnation; /* of this opening */

	uint64_t staged_lsn, durable_lsn;
	uint64_t changes;               /* writes and zeros that were staged since the opening */
	uint64_t proven_lsn;            /* something on disk says that all up to it was durable */
	uint64_t chain_lsn, chain_hash; /* commit_lock: the last record written */

	struct segment **segments; /* live, by rising seq */
	unsigned segment_count, segment_capacity;
	struct segment *active; /* where staging goes on; NULL until the first write */
	uint64_t next_seq;
	unsigned open_readers;
	uint64_t live_bytes; /* staged_end + index_bytes of all live segments */

	struct batch *batches, *last_batch;        /* in order; the last may be open */
	uint8_t *spare_buffers[MAX_SPARE_BUFFERS]; /* of batches, kept while busy */
	unsigned spare_buffer_count;
	uint64_t staged_bytes;

	struct disk *disks[HISTORY_MAX_DISKS]; /* by rising id */
	unsigned disk_count;
	uint32_t next_disk;
	/* Disks of which replay found data but no record that adds them: it is lost. Kept in case
	 * they are imported again. */
	struct lost_disk {
		uint16_t id;
		struct extent_map *map;
	} * lost_disks;
	unsigned lost_disk_count;

	struct catalogue_point *points; /* by rising number */
	uint64_t point_count, point_capacity;
	uint64_t last_point; /* number, of all there ever were */
	bool points_gone;    /* catalogue_purge has something to do */
	uint64_t vault_point, vault_position;
	uint64_t *imports; /* lsns at which content came that the journal does not hold; of several
			      without a seal between them the last. With JOURNAL_ANEW, where all
			      disks began anew */
	uint64_t import_count;
	struct history_absence *absences; /* owned */
	unsigned absence_count;
	uint64_t flush_pending;
	struct journal_drain drain; /* what of the point to come is in the base; lsn 0: nothing */
	uint64_t drain_mark, drain_mark_total; /* where the last round cuts, payload_total then */
	bool repair_due;                       /* nobody knows what the base holds */
	uint32_t format;                       /* version of the checkpoints */
	uint64_t head_floor;
	uint64_t payload_total;
	uint64_t changed_bytes; /* since the last seal */

	struct damage_told {
		uint64_t seq;
		uint32_t header;
	} told[MAX_TOLD]; /* records that reads found damaged lately: named once */
	unsigned told_next;
	bool resync_staged; /* by a read; nobody waits for it to be durable */

	struct view *views;
	struct header_cache *headers; /* has a lock of its own */

	/* checkpoints; upkeep_lock */
	uint64_t generation;
	uint64_t slot_lsn[2]; /* what each slot holds; 0 if it holds nothing valid */
	uint32_t slot_format[2];
	uint64_t checkpoint_bytes;
	uint64_t checkpoint_closed; /* highest seq listed as closed */
	uint64_t *leftovers;        /* segment files that no valid slot needs any more */
	unsigned leftover_count;
	uint64_t leftover_bytes; /* of those that trim could not remove; lock */
	struct spare {
		uint64_t seq, bytes; /* file `<seq>.spr` */
	} spares[MAX_SPARES];
	unsigned spare_count;
	uint64_t spare_bytes; /* lock */
	struct zeros {
		struct io_file *file;              /* NULL: none is being made */
		uint64_t bytes;                    /* of it so far */
		uint64_t seen_commits, seen_bytes; /* as of the last look; lock */
		bool failed;                       /* none is made any more */
	} zeros;                                   /* a spare in the making; upkeep_lock */
	unsigned slots_written;                    /* in this life */
	uint64_t commits_at_upkeep;                /* to notice idleness */
	int64_t looked_ns;           /* to notice that little is written: when it was looked, */
	uint64_t looked_bytes;       /* and journal_bytes then */
	uint64_t cut_seq, cut_bytes; /* torn tail to cut off at the first write; 0: none */

	uint64_t written_bytes, zeroed_bytes, journal_bytes, commits;
};

#define STAGE_LIMIT_BYTES (8u << 20)
#define STAGE_HARD_LIMIT_BYTES (10u << 20)
/* A commit is at most what may be staged and one call more: below JOURNAL_MAX_COMMIT_BYTES. */
#define BATCH_BYTES ((1u << 20) + (64u << 10))

/* segment.c */
void segment_path(const struct history *history, uint64_t seq, const char *suffix, char *ret_path);
#define SEGMENT_PATH_BYTES(history) (strlen((history)->directory) + 32)
int segment_add(struct history *history, const struct segment *values, struct segment **ret);
void segment_remove(struct history *history, struct segment *segment); /* not live any more */
void segment_ref(struct segment *segment);
/* Takes history->lock; frees a segment that nobody uses. */
void segment_unref(struct history *history, struct segment *segment);
struct segment *segment_find(struct history *history, uint32_t seq_modulo);
/* Lock held: a reference for reading the file, which keeps the handle open as well. Returns the
 * handle; NULL if it is not open yet. */
struct io_file *segment_pin(struct segment *segment);
/* Outside the lock, with a pin held. */
int segment_open_reader(
	struct history *history, struct segment *segment, struct io_file **ret_file);
/* Takes back that many pins, and the lock once. */
void segments_unpin(struct history *history, struct segment **segments, unsigned count);
void segment_close_readers(struct history *history, unsigned keep);
void segments_free(struct history *history);

/* record.c */
uint64_t page_checksum(void *page, size_t n, uint64_t *checksum_field);
void record_begin(const struct history *history, struct journal_record *record,
	enum journal_type type, const struct segment *segment, uint64_t lsn);
void record_encode(struct journal_record *record, uint64_t durable_lsn, uint64_t prev_hash);
/* True if the page is a record of that segment at that offset, whole and sensible. */
bool record_check(const struct history *history, const struct journal_record *record, uint64_t seq,
	uint64_t offset);
/* Whether a data record's body has room for that many. */
static inline bool record_body_fits(uint64_t extents, uint64_t hashes)
{
	return extents * sizeof(struct journal_extent) + hashes * sizeof(uint64_t) <=
	       JOURNAL_BODY_BYTES;
}

/* Where the payload of extent `index` is, from the record's start, and its first hash: the hash of
 * its block b is hashes[JOURNAL_MAX_HASHES - 1 - first_hash - b]. */
struct record_place {
	uint32_t offset;
	uint32_t first_hash;
};
struct record_place record_place(const struct journal_record *record, unsigned index);
/* Hashes, blocks, that the extent has. */
unsigned record_block_count(const struct journal_extent *e);
/* The hashes of the blocks of n bytes that begin at a block's beginning. */
void record_hash_blocks(const void *payload, size_t n, uint64_t *ret_hashes);
bool record_blocks_good(const uint64_t *hashes, const void *payload, size_t n);
/* Whether it is the header of segment `seq` of this history's group, whole. */
bool segment_header_check(
	const struct history *history, const struct journal_segment *header, uint64_t seq);

/* Fills it with its checksum. */
void segment_header_make(const struct history *history, const struct segment *segment,
	struct journal_segment *ret_header);

/* scan.c */
struct scan {
	struct history *history;
	struct io_file *file;
	uint64_t seq, file_bytes;
	uint8_t *window;
	uint64_t window_at;
	uint32_t window_bytes, window_next;
};

/* Opens the segment's file for reading from its beginning to its end. Needs no lock. -errno of the
 * disk, -ENOMEM. */
int scan_open(struct history *history, uint64_t seq, struct scan *ret_scan);
void scan_close(struct scan *scan);
/* The page at `offset`, NULL beyond the file's end. Valid until the next call. */
int scan_page(struct scan *scan, uint64_t offset, const void **ret_page);
/* 0 with the record, or NULL if there is none that is valid. */
int scan_record(struct scan *scan, uint64_t offset, const struct journal_record **ret_record);

struct scan_end {
	uint64_t offset, lsn, hash;
};
/* Called for each record; other than 0 ends the walk and is returned. */
typedef int scan_each(void *context, uint64_t offset, const struct journal_record *record);
/* Walks the chain from `end` (in: where and after what to start; out: where it stopped) as far as
 * it is valid and up to lsn_limit. Records above `verify_above` have their payloads proven. */
int scan_chain(struct scan *scan, uint64_t first_lsn, uint64_t lsn_limit, uint64_t verify_above,
	scan_each *each, void *context, struct scan_end *end);

/* apply.c: history->lock held (or nobody else there yet) */
int apply_record(struct history *history, const struct journal_record *record);
/* The head takes an extent of a data record. */
int apply_extent(struct history *history, uint16_t disk, const struct extent *extent);
/* A hint that it will take one there. */
void apply_extent_soon(struct history *history, uint16_t disk, uint64_t lba);
void apply_data_totals(struct history *history, const struct journal_record *record);
struct extent record_extent(
	const struct journal_record *record, unsigned index, uint64_t seq, uint64_t offset);

/* drain.c: history->lock held, or nobody else there yet */
void drain_apply_begin(struct history *history, const struct journal_record *record);
void drain_apply(struct history *history, const struct journal_record *record);
/* Before the first record of its kind: no release that does not know it may take up the journal.
 * upkeep_lock held, not lock. */
int drain_raise_format(struct history *history);
/* A record with that lsn brought point `number` into the vault. */
void drain_end(struct history *history, uint64_t number, uint64_t lsn);
/* All records up to it may leave the journal, as far as the head is concerned. */
uint64_t drain_position(const struct history *history);
/* Size of the disk in the base, as far as it is drained; 0 if it is not. */
uint64_t drain_disk_bytes(const struct history *history, uint16_t disk);

/* disks.c */
struct disk *disk_find(const struct history *history, uint16_t id);
/* Size at a point; 0 if it did not have the disk. UINT64_MAX: the head. */
uint64_t disk_bytes_at(const struct disk *disk, uint64_t number);
int disk_set_size(struct disk *disk, uint64_t from_point, uint64_t bytes);
int disk_apply(struct history *history, const struct journal_disk *body);
int disk_insert(struct history *history, const struct history_disk *info, struct disk **ret_disk);
void disk_free(struct disk *disk);
void disk_take_bookmarks(struct history *history, const struct journal_seal *seal, uint64_t lsn);
int disk_clear_maps(struct history *history);
/* The map of a disk whose record is lost; made if need be. Its number is not given out again. */
int disk_lost_map(struct history *history, uint16_t id, struct extent_map **ret_map);
/* No disk maps the segment there any more. */
int disk_forget(
	struct history *history, uint16_t id, uint64_t lba, uint64_t sectors, uint32_t segment);

/* catalogue.c */
struct catalogue_point *catalogue_find(const struct history *history, uint64_t number);
/* Index of the first with number ≥ `number`. */
uint64_t catalogue_rank(const struct history *history, uint64_t number);
/* Puts it where its number belongs. */
int catalogue_insert(struct history *history, const struct catalogue_point *point);
struct journal_point catalogue_pack(const struct catalogue_point *point);
struct catalogue_point catalogue_unpack(const struct journal_point *packed);
/* True if later local points may stand on the vault point: one sealed here, or the last of an
 * import, and not one that only joined the catalogue. */
bool catalogue_carries(const struct history *history, const struct catalogue_point *p);
/* Newest vault point with number < `number` that was made no later than `position` and carries what
 * comes after; NULL if none. */
struct catalogue_point *catalogue_vault_below(
	const struct history *history, uint64_t number, uint64_t position);
/* A record with that lsn changes flags. A point that keeps neither POINT_LOCAL nor _VAULT is not
 * found any more, but shown until the record is durable and catalogue_purge has been called. */
void catalogue_set_flags(struct history *history, const struct journal_point_flags *changes,
	unsigned count, uint64_t lsn);
void catalogue_purge(struct history *history);
int catalogue_note_import(struct history *history, uint64_t lsn);
/* All disks begin anew behind that lsn: what the journal holds from there on, laid over the vault
 * point below, tells all of them. */
int catalogue_note_anew(struct history *history, uint64_t lsn);
/* Where they did so last, at or below `position`; 0 if they never did. */
uint64_t catalogue_anew_below(const struct history *history, uint64_t position);
bool catalogue_is_gone(const struct catalogue_point *point);
/* The point as the durable records have it; false if they do not have it yet. */
bool catalogue_show(const struct history *history, uint64_t i, struct point *ret_point);
void catalogue_note_vault(struct history *history);

/* stage.c: history->lock held */
int stage_record(
	struct history *history, const struct journal_record *prototype, uint64_t *ret_lsn);
int stage_point_flags(struct history *history, const struct journal_point_flags *changes,
	uint64_t count, uint64_t *ret_lsn);
/* The whole disk becomes zeros, however full the journal is. It may be one that is yet to be added.
 */
int stage_zero_disk(struct history *history, uint16_t disk, uint64_t size_bytes);
void stage_close_batch(struct history *history);
uint64_t stage_open_bytes(const struct history *history); /* in no segment's staged_end yet */
void stage_discard(struct history *history);
const struct batch *stage_find(
	const struct history *history, const struct segment *segment, uint64_t offset);
void stage_free_batch(struct history *history, struct batch *batch);
void stage_free_spare(struct history *history);

/* commit.c */
struct buf;
/* commit_lock is taken inside. If `checkpoint` is not NULL, the state after the commit is written
 * into it. */
int commit_all(struct history *history, struct buf *checkpoint, uint64_t *ret_durable_lsn);

/* Writes a record that proves the last commit durable, if nothing does yet: without it, rot in
 * that commit would look like the torn end of a crash. Nothing may be staged. */
int commit_proof(struct history *history);

/* index.c */
struct run {
	uint64_t part_count;
	struct journal_index_part *parts;
	struct journal_index_extent *extents;
	uint64_t extent_count;
};

#define RUN_AHEAD 8u /* extents that are hinted at before they are inserted */

/* It is empty afterwards. */
void run_free(struct run *run);
/* The runs of a segment up to last_lsn: from its index, or scanned. -EBADMSG if neither will do.
 * `segment` is a copy of the values, so that commits do not change it meanwhile. */
int run_load(struct history *history, const struct segment *segment, struct run *ret_run);
/* As run_load, of the index alone; -ENOENT or -EBADMSG. */
int run_read(struct history *history, const struct segment *segment, struct run *ret_run);
int run_scan(struct history *history, const struct segment *segment, struct run *ret_run);
int run_write(struct history *history, struct segment *segment, const struct run *run);
void run_unpack(const struct journal_index_extent *packed, uint64_t seq, uint16_t *ret_disk,
	struct extent *ret_extent);
uint16_t run_disk(const struct journal_index_extent *packed);
uint64_t run_lba(const struct journal_index_extent *packed);

/* checkpoint.c */
int checkpoint_capture(struct history *history, struct buf *ret_image);
void checkpoint_finish(struct buf *image, uint64_t hash);
/* upkeep_lock held. Writes the next slot, or both. If that ends with the slots as they were
 * (-ENOSPC above all) it may be called again; if it is not certain what a slot is now the history
 * has failed. */
int checkpoint_write(struct history *history, bool both);
struct replay;
int checkpoint_load(struct history *history, struct replay *replay);

/* replay.c */
struct replay_link {
	uint64_t seq;
	bool usable, header_good, rotten;
	uint64_t incarnation, first_lsn, prev_lsn, prev_hash;
};

struct replay {
	struct history_report *report;
	struct error *error;
	bool have_checkpoint, other_slot_good;
	uint64_t checkpoint_lsn, checkpoint_hash;
	uint64_t tail_seq;
	struct journal_checkpoint_segment *listed;
	unsigned listed_count;
	struct replay_link *links; /* of the files that are there, by rising seq */
	unsigned link_count;
	uint64_t max_lsn;      /* seen anywhere */
	uint64_t floor_before; /* head_floor as the checkpoint had it */
	struct lost_range {
		uint64_t from, to;
	} * lost;
	unsigned lost_count;
};

/* replay_files.c */
/* Finds the segments there are and reads their headers. */
int replay_collect_links(struct history *history, struct replay *replay);
/* A segment file that is needed no more: removed once no checkpoint names it. 0 or -ENOMEM. */
int replay_add_leftover(struct history *history, uint64_t seq);
/* Fills the error for a segment that cannot be read; returns `code`. */
int replay_read_fault(struct history *history, struct replay *replay, uint64_t seq, int code);

/* Brings the history to what its files say, from checkpoint and segments. Before anybody else knows
 * it; takes no locks. */
int replay_all(struct history *history, struct replay *replay);
/* Logs a structure that failed its checksum, and counts it in the report. */
void replay_fault(struct replay *replay, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Walks the chain of records through the segments, up to those after stop_lsn (UINT64_MAX: all). */
int replay_segments(struct history *history, struct replay *replay, uint64_t stop_lsn);

/* damage.c */
int damage_settle(struct history *history, struct replay *replay);
bool journal_covers(const struct history *history, uint64_t from, uint64_t to);
/* lock held, or nobody else there yet */
uint64_t point_needs_above(const struct history *history, const struct catalogue_point *p);

/* header_cache.c */
#define HEADER_CACHE_BYTES (32u << 20) /* of a history that is busy */
struct header_cache *header_cache_new(uint64_t limit_bytes);
uint64_t header_cache_bytes(struct header_cache *cache);
void header_cache_free(struct header_cache *cache);
void header_cache_drop(struct header_cache *cache);
/* The blocks of a segment that hold what an extent maps. */
struct payload {
	uint64_t offset; /* in the segment */
	uint32_t bytes;
	uint32_t skip_bytes; /* of them before what is mapped */
	uint64_t hashes[JOURNAL_MAX_BLOCKS];
};
/* `file` is the segment's. -EBADMSG: the record cannot be proven, or does not have the extent.
 * -EAGAIN if it would have to wait for the disk and shall not. */
int header_find(struct history *history, const struct segment *segment, struct io_file *file,
	const struct extent *e, bool wait, struct payload *ret_payload);

/* history_read.c */
#define MAX_PIECES 64u /* collected at once */
struct piece {
	enum { PIECE_DONE, PIECE_ZERO, PIECE_FILE, PIECE_BASE } kind;
	uint8_t *data;
	uint64_t lba;
	uint32_t sectors;
	struct segment *segment; /* PIECE_FILE: pinned */
	struct io_file *file;    /* the segment's; NULL: not open yet */
	bool in_base;            /* PIECE_FILE: the base holds the same bytes */
	struct extent extent;
	struct payload payload; /* .bytes 0: not known yet */
};
/* What a disk's map lies on. */
struct ground {
	uint64_t point, sectors; /* of the base; 0: zeros */
	bool live;               /* not a point of the base, but what lies there now */
	uint64_t position;       /* the base holds all records up to this lsn */
	const struct extent_map
		*local; /* of the base's content what the journal holds, too; NULL */
	bool all_local; /* what is in no map was never written: zeros */
	bool near;      /* -EAGAIN rather than asking the base */
};
/* lock held: the pieces of [lba, lba + sectors) under `map` (NULL: empty), at most `max`; returns
 * how many, and copies what is in memory at once. */
unsigned pieces_collect(struct history *history, const struct extent_map *map,
	const struct ground *ground, uint64_t lba, uint32_t sectors, void *data,
	struct piece *ret_pieces, unsigned max);
/* `pass`: NULL, or the one that this read is part of.
 * What the journal cannot prove any more is read from the base, if that holds the same; else the
 * disk is marked *resync needed*, if the head still shows it, and -EIO is answered. No lock held.
 */
int pieces_read(struct history *history, uint16_t disk, const struct ground *ground,
	struct piece *pieces, unsigned count, struct view_pass *pass);
void pieces_release(struct history *history, struct piece *pieces, unsigned count);

/* view_pass.c */
#define VIEW_PASS_HANDLES 8u
struct view_pass {
	struct view *view;
	struct history *history;
	struct view_pass_handle {
		uint64_t seq;
		struct io_file *file; /* NULL: free */
	} handles[VIEW_PASS_HANDLES];
	unsigned next;
	/* Of the read at hand. */
	uint64_t lba;
	uint64_t *hashes;
	bool *known;
};
/* A handle to read that range past the kernel's memory; NULL: it is not worth it, or cannot be. */
struct io_file *view_pass_file(struct view_pass *pass, const struct segment *segment,
	uint64_t offset, uint32_t bytes, const void *data);
/* The piece, of a file, was proven. */
void view_pass_note(struct view_pass *pass, const struct piece *piece);

/* view.c: lock held */
bool views_stand_on(const struct history *history, uint64_t number);

/* history.c */
int new_incarnation(struct history *history);

/* spare.c: commit_lock held, for the list of spares */
/* Makes a spare the segment `seq`. -ENOENT if there is none. */
int spare_take(struct history *history, uint64_t seq);
/* Takes over the file of a segment that is not needed any more, or removes it. */
int spare_give(struct history *history, const struct segment *segment);
int spare_drop_one(struct history *history);
/* Readies a spare of zeros where small commits go into a file that grows, a step at each call.
 * upkeep_lock held, not commit_lock. */
void spare_prepare(struct history *history);

/* upkeep.c: upkeep_lock held */
int upkeep_drop_leftovers(struct history *history);
uint64_t upkeep_used(const struct history *history); /* lock held */
