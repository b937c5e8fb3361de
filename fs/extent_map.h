/*
 * The extent map: a B+tree from sectors of one disk to places in the journal.
 *
 * Only what is in the journal is mapped; an unmapped sector is "same offset, in the base". An
 * extent is 16 bytes; a tree filled at random stays below 24 bytes an extent, inner nodes and
 * slack included, and one filled in ascending order below 17.
 *
 * Extents never overlap: inserting cuts or replaces what was there. Neighbours that continue
 * each other (same record extent, next sectors; or zeros) are joined.
 *
 * Not thread-safe: the owner locks. Memory is the only thing that can fail (-ENOMEM), and then
 * the map is unchanged.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define EXTENT_MAX_ZERO_SECTORS ((uint64_t)1 << 29)
#define EXTENT_MAX_LBA ((uint64_t)1 << 34) /* 8 TiB in sectors */

/* Where the bytes of an extent are: sectors [skip, skip + sectors) of the payload of extent
 * number `index` of the record whose header is at sector `header` of segment `segment`. */
struct extent {
	uint64_t lba;     /* first sector on the disk */
	uint64_t sectors; /* > 0; at most EXTENT_MAX_ZERO_SECTORS */
	bool zero;        /* reads as zeros; the record's extent has no payload */
	uint32_t segment; /* sequence number of the segment, modulo 2^24 */
	uint32_t header;  /* sector of the record header in the segment, below 2^17 */
	uint8_t index;    /* which extent of the record */
	uint8_t skip;     /* sectors of the payload that come before; 0 if zero */
};

struct extent_map;

/* An empty one. 0 or -ENOMEM. */
int extent_map_new(struct extent_map **ret_map);
/* NULL is fine. */
void extent_map_free(struct extent_map *map);

/* Maps [e->lba, e->lba + e->sectors) to e, over whatever was there. Longer zero extents than
 * EXTENT_MAX_ZERO_SECTORS are the caller's to split. */
int extent_map_insert(struct extent_map *map, const struct extent *e);

/* A hint that something will soon be inserted at `lba`: its part of the tree is brought into the
 * processor's cache meanwhile. Pays when insertions come sorted. */
void extent_map_prefetch(const struct extent_map *map, uint64_t lba);

/* The first extent that ends after `lba`: it holds lba or is the next one. Whole, not cut.
 * 0 or -ENOENT. */
int extent_map_find(const struct extent_map *map, uint64_t lba, struct extent *ret_extent);

/* Unmaps what in [lba, lba + sectors) still lies in `segment`; the rest stays. Used when a
 * segment goes away. */
int extent_map_forget(struct extent_map *map, uint64_t lba, uint64_t sectors, uint32_t segment);

/* Extents held and bytes of memory taken, nodes and slack included. O(1). */
uint64_t extent_map_count(const struct extent_map *map);
uint64_t extent_map_memory_bytes(const struct extent_map *map);

/* Checks the tree's invariants; -EUCLEAN and a log line where one is broken. For tests. */
int extent_map_check(const struct extent_map *map);
