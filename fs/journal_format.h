/*
 * The journal's durable formats. fs/FORMATS.md explains them; this file is what the code obeys.
 *
 * All numbers are little-endian, and the structures are used in place, so the code is built for
 * little-endian machines only. Every structure carries a magic number, a version and its own
 * XXH3-64; a checksum field counts as zero while it is computed.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "common/uuid.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian");

#define JOURNAL_VERSION 1u
/* Of the checkpoints of a journal that may have records about drains. Both slots are written so
 * before the first such record, so that a release that does not know these refuses the journal. */
#define JOURNAL_VERSION_DRAIN 2u
#define JOURNAL_PAGE_BYTES 4096u

#define JOURNAL_SEGMENT_MAGIC 0x31676573646c666cull    /* "lfldseg1" */
#define JOURNAL_INDEX_MAGIC 0x31786469646c666cull      /* "lfldidx1" */
#define JOURNAL_CHECKPOINT_MAGIC 0x3174706b646c666cull /* "lfldkpt1" */
#define JOURNAL_RECORD_MAGIC 0x636572ffu

/* A payload extent is at most this long, and is proven block by block, so that reading one sector
 * reads and proves 4 KiB. */
#define JOURNAL_MAX_PAYLOAD_SECTORS 128u
#define JOURNAL_BLOCK_SECTORS 8u
#define JOURNAL_MAX_BLOCKS (JOURNAL_MAX_PAYLOAD_SECTORS / JOURNAL_BLOCK_SECTORS)
/* No more than this lies between what one commit wrote first and last. Replay looks that far
 * behind a bad record for proof that it had been acknowledged. */
#define JOURNAL_MAX_COMMIT_BYTES (16u << 20)

/* ── segments: `<seq as 16 hex digits>.seg` ──────────────────────────────────────────────── */

/* The first page; records follow, each at a multiple of 4 KiB. */
struct journal_segment {
	uint64_t magic;
	uint32_t version;
	uint32_t segment_bytes; /* limit of the file */
	struct uuid group;
	uint64_t seq; /* as in the name */
	uint64_t incarnation;
	uint64_t first_lsn; /* of the first record */
	uint64_t prev_lsn;  /* of the last record before it; durable when this was written. One less
			       than first_lsn unless damage was cut out between */
	uint64_t prev_hash; /* of that record; 0 if prev_lsn is 0 */
	uint8_t unused[4096 - 80];
	uint64_t checksum;
};
static_assert(sizeof(struct journal_segment) == JOURNAL_PAGE_BYTES, "one page");

enum journal_type {
	JOURNAL_DATA = 1,
	JOURNAL_SEAL = 2,
	JOURNAL_DISK = 3,
	JOURNAL_POINT_FLAGS = 4,
	JOURNAL_POINT_IMPORT = 5,
	JOURNAL_FLUSH_BEGIN = 6,
	JOURNAL_FLUSH_COMMIT = 7,
	JOURNAL_PROOF = 8, /* says nothing but its durable_lsn; written before a rest */
	JOURNAL_DRAIN_BEGIN = 9,
	JOURNAL_DRAIN = 10,
	JOURNAL_TYPE_END
};

enum journal_extent_flags {
	JOURNAL_ZERO = 1 << 0, /* reads as zeros, has no payload */
};

struct journal_extent {
	uint16_t disk;
	uint16_t flags;
	uint32_t sectors;
	uint64_t lba;
};
static_assert(sizeof(struct journal_extent) == 16, "as documented");

struct journal_seal {
	uint64_t number;
	int64_t time_ns;
	uint64_t changed_bytes;
	uint32_t flags;
	uint16_t kind;
	uint16_t bookmark_count;
	struct journal_bookmark {
		uint16_t disk;
		uint8_t unused[6];
		uint8_t data[16];
	} bookmarks[128];
};

enum journal_disk_action {
	JOURNAL_DISK_ADD = 1,
	JOURNAL_DISK_GROW = 2,
	JOURNAL_DISK_REMOVE = 3,
	JOURNAL_DISK_RESYNC_SET = 4,
	JOURNAL_DISK_RESYNC_CLEAR = 5,
};

struct journal_disk {
	uint16_t action;
	uint16_t id;
	uint32_t unused;
	uint64_t size_bytes;
	uint64_t point; /* from which on: added, grown or removed */
	char name[64];
};

/* Written with every flag either set or cleared, so that one record tells all. */
struct journal_point_flags {
	uint64_t number;
	uint32_t set, clear; /* a point that keeps neither POINT_LOCAL nor _VAULT is gone */
};

struct journal_point {
	uint64_t number;
	uint64_t lsn;      /* of its seal, 0 if it was imported */
	uint64_t position; /* lsn of the record that made it */
	int64_t time_ns;
	uint64_t changed_bytes;
	uint64_t payload_total; /* taken by the history up to it */
	uint32_t flags;
	uint16_t kind;
	uint16_t unused;
};
static_assert(sizeof(struct journal_point) == 56, "as documented");

#define JOURNAL_DRAIN_REPAIR 1u /* the base is to be repaired; a record says no more then */

/* What of the point to come lies in the base already. */
struct journal_drain {
	uint64_t number;        /* of that point: the next to be sealed when it began. 0 in a record
				   without flags: the base was repaired, and nothing is drained */
	uint64_t lsn;           /* of the JOURNAL_DRAIN_BEGIN: the base holds all data before it */
	uint64_t payload_total; /* as of then */
	uint16_t disk_count;
	uint16_t proof_bytes;
	uint32_t flags;
	struct journal_drain_disk {
		uint16_t disk;
		uint8_t unused[6];
		uint64_t size_bytes; /* in the base */
	} disks[128];
	uint8_t proof[1856]; /* whoever drains knows what it means */
};
static_assert(sizeof(struct journal_drain) == 3936, "as documented");

#define JOURNAL_BODY_BYTES 3968u
#define JOURNAL_MAX_POINT_FLAGS (JOURNAL_BODY_BYTES / sizeof(struct journal_point_flags))
/* A data record's body: extents from its beginning, and from its end downwards the XXH3-64 of each
 * payload's blocks of 4 KiB (the last of a payload may be shorter), in the order of the payloads.
 */
#define JOURNAL_MAX_EXTENTS (JOURNAL_BODY_BYTES / (unsigned)sizeof(struct journal_extent))
#define JOURNAL_MAX_HASHES (JOURNAL_BODY_BYTES / (unsigned)sizeof(uint64_t))
static_assert(JOURNAL_MAX_EXTENTS <= 256, "an extent's number takes 8 bits in the maps");

/* A record's header page. The payloads follow, each a multiple of 512 bytes, in the order of the
 * extents; zeros fill it up to a multiple of 4 KiB. */
struct journal_record {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	struct uuid group;
	uint64_t seq;         /* of the segment it is in */
	uint64_t incarnation; /* of the history that wrote it */
	uint64_t lsn;
	uint64_t durable_lsn; /* everything up to it was on disk when this was written */
	uint64_t prev_hash;   /* checksum of the record before it, across segments */
	uint32_t bytes;       /* of the whole record, a multiple of 4 KiB */
	uint16_t count;       /* extents, or entries of the body */
	uint16_t unused16;
	uint64_t unused[6];
	uint64_t checksum; /* of the header page */
	union {
		struct journal_extent extents[JOURNAL_MAX_EXTENTS];
		uint64_t hashes[JOURNAL_MAX_HASHES]; /* hashes[JOURNAL_MAX_HASHES - 1] is the first
						      */
		struct journal_seal seal;
		struct journal_disk disk;
		struct journal_point_flags point_flags[JOURNAL_MAX_POINT_FLAGS];
		struct journal_point point; /* flush commit: all of it, should its seal be lost */
		uint64_t flush;             /* flush begin, drain begin: number of the point */
		struct journal_drain drain;
		uint8_t body[JOURNAL_BODY_BYTES];
	};
};
static_assert(offsetof(struct journal_record, extents) == 128, "as documented");
static_assert(sizeof(struct journal_record) == JOURNAL_PAGE_BYTES, "one page");

/* ── index of a closed segment: `<seq as 16 hex digits>.idx` ─────────────────────────────── */

/* The header; then the parts, then the extents. It is a cache: whatever is wrong with it, the
 * segment is scanned instead. */
struct journal_index {
	uint64_t magic;
	uint32_t version;
	uint32_t part_count;
	struct uuid group;
	uint64_t seq;
	uint64_t incarnation;
	uint64_t first_lsn, last_lsn;
	uint64_t prev_hash, end_hash; /* ends of the segment's chain */
	uint64_t end;                 /* bytes of the segment in use */
	uint64_t extent_count;
	uint64_t body_checksum; /* of parts and extents */
	uint64_t unused;
	uint64_t checksum; /* of this header */
};
static_assert(sizeof(struct journal_index) == 120, "as documented");

/* What lies between two seals (or a seal and the segment's end). */
struct journal_index_part {
	uint64_t last_lsn;
	uint64_t extent_count;
};

/* Sorted by disk and lba within the part; the last writer of a sector has won. */
struct journal_index_extent {
	uint64_t a; /* lba (34 bits), sectors − 1 (29), zero (1) */
	uint64_t b; /* header sector (17), index (8), skip (7), disk (16) */
};
static_assert(sizeof(struct journal_index_extent) == 16, "as documented");

/* ── checkpoints: `checkpoint.0` and `checkpoint.1` ──────────────────────────────────────── */

/* In the list of imports: not a point came, but all disks began anew behind that lsn. */
#define JOURNAL_ANEW (1ull << 63)

/* The header; then disks, sizes, segments, points, the lsns of imports (a uint64_t each), and in
 * version 2 a struct journal_drain (lsn 0: nothing is drained). The newer valid slot counts; with
 * the older one, replay goes further back and ends at the same state. */
struct journal_checkpoint {
	uint64_t magic;
	uint32_t version;
	uint32_t segment_bytes;
	struct uuid group;
	uint64_t generation; /* rises by one; its parity names the slot */
	uint64_t bytes;      /* of the whole */
	uint64_t incarnation;
	uint64_t lsn;  /* the state after this record … */
	uint64_t hash; /* … whose checksum this is */
	uint64_t next_seq;
	uint64_t tail_seq; /* segments from here on are replayed */
	uint64_t last_point;
	uint64_t flush_pending;
	uint64_t head_floor; /* data up to this lsn is not part of the head */
	uint64_t payload_total;
	uint64_t changed_bytes; /* since the last seal */
	uint32_t next_disk;
	uint32_t disk_count;
	uint32_t size_count;
	uint32_t segment_count;
	uint64_t point_count;
	uint64_t import_count;
	uint64_t body_checksum;
	uint64_t checksum; /* of this header */
};
static_assert(sizeof(struct journal_checkpoint) == 176, "as documented");

struct journal_checkpoint_disk {
	uint16_t id;
	uint8_t removed, resync_needed;
	uint32_t unused;
	uint64_t added_point, removed_point;
	uint8_t bookmark[16];
	char name[64];
};
static_assert(sizeof(struct journal_checkpoint_disk) == 104, "as documented");

struct journal_checkpoint_size {
	uint16_t disk;
	uint8_t unused[6];
	uint64_t from_point; /* first point that shows this size */
	uint64_t size_bytes;
};

struct journal_checkpoint_segment {
	uint64_t seq;
	uint64_t incarnation;
	uint64_t first_lsn, last_lsn;
	uint64_t prev_lsn, prev_hash, end_hash;
	uint64_t end;
};
