/*
 * The read cache: what was fetched from the vault, kept on the appliance's disk, bounded.
 *
 * Entries are blocks of 64 KiB keyed by what never changes, (group, disk, vault point, block
 * number), and proven by their hash at every hit. A block that is all zeros costs a bit of
 * memory and no room on disk. Several readers of one missing block cause one fetch. Sequential
 * reading is noticed and fetched ahead, never further than the reader has earned. Eviction is by
 * second chance. The cache starts empty: after a crash there is nothing to believe.
 */
#pragma once

#include <stdint.h>

#include "common/io.h"
#include "common/uuid.h"
#include "fs/base.h"

struct cache;

struct cache_stats {
	uint64_t capacity_bytes, used_bytes;
	uint64_t hits, misses, fetched_bytes, evictions, rotten; /* rotten: failed their hash */
};

/* `path` is a file of its own, emptied. capacity ≥ 1 MiB, else -EINVAL. Any thread afterwards. */
int cache_new(struct io *io, const char *path, uint64_t capacity_bytes, struct cache **ret_cache);
/* After the last base over it. Removes the file. NULL is fine. */
void cache_free(struct cache *cache);
/* Counts since the start. */
void cache_stats(struct cache *cache, struct cache_stats *ret_stats);
/* Evicts down to `capacity_bytes`, below what was asked for at the start; for a full disk. */
int cache_shrink(struct cache *cache, uint64_t capacity_bytes);

/* A base whose reads go through the cache to `below` (borrowed). `group` keys it. */
int cache_base_new(
	struct cache *cache, const struct uuid *group, struct base *below, struct base **ret_base);
void cache_base_free(struct base *base);
