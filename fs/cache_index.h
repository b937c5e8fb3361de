/*
 * The cache's index: a hash table from keys to slots, of a fixed number, with second chance.
 *
 * A slot is free, *taken* (evicted or fresh, not findable, being filled) or *published* under a
 * key. What is pinned is not evicted. Not thread-safe: the owner locks. Nothing here fails for
 * want of memory after cache_index_new.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cache_key {
	uint64_t point;
	uint64_t block;
	uint32_t group;
	uint16_t disk;
};

#define CACHE_NO_SLOT UINT32_MAX

struct cache_index;

/* slots > 0. 0 or -ENOMEM. */
int cache_index_new(uint32_t slots, struct cache_index **ret_index);
void cache_index_free(struct cache_index *index);

/* The slot published under `key`, which thereby earns its second chance; or CACHE_NO_SLOT. */
uint32_t cache_index_find(struct cache_index *index, const struct cache_key *key);
/* Whether it is there, without earning anything. */
bool cache_index_has(const struct cache_index *index, const struct cache_key *key);

/* A slot to fill: a free one, or the next without a second chance (`ret_evicted`).
 * CACHE_NO_SLOT if all are pinned or taken. */
uint32_t cache_index_take(struct cache_index *index, bool *ret_evicted);
/* A taken slot can be found from now on; another slot under the same key is freed. */
void cache_index_publish(struct cache_index *index, uint32_t slot, const struct cache_key *key);
/* Frees a taken or published slot; if it is pinned, when the last pin goes. */
void cache_index_drop(struct cache_index *index, uint32_t slot);

/* A taken or published slot stays until it is unpinned as often as it was pinned. */
void cache_index_pin(struct cache_index *index, uint32_t slot);
void cache_index_unpin(struct cache_index *index, uint32_t slot);

/* Slots ≥ `slots` are dropped and not handed out any more; how many were dropped. */
uint32_t cache_index_limit(struct cache_index *index, uint32_t slots);
/* Published slots. */
uint32_t cache_index_count(const struct cache_index *index);
