/*
 * Chained hashing over arrays of 32-bit slot numbers; a clock hand for eviction.
 *
 * Invariants: a slot is on exactly one of: the free list, a bucket's chain (published), or
 * neither (taken, or dropped and still pinned). `limit` bounds the slots handed out; fresh slots
 * are handed out in ascending order, so memory that was never needed is never touched.
 */
#include "fs/cache_index.h"

#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"

enum slot_state { SLOT_FREE, SLOT_TAKEN, SLOT_PUBLISHED, SLOT_DROPPED };

struct slot {
	struct cache_key key;
	uint32_t next; /* in its chain, or on the free list */
	uint16_t pins;
	uint8_t state;
	bool referenced;
};

struct cache_index {
	struct slot *slots;
	uint32_t *buckets; /* first slot of each chain */
	uint32_t bucket_mask;
	uint32_t limit;
	uint32_t fresh; /* slots ≥ this were never used */
	uint32_t free_list;
	uint32_t hand;
	uint32_t published;
};

int cache_index_new(uint32_t slots, struct cache_index **ret_index)
{
	struct cache_index *x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	uint32_t buckets = 16;
	while (buckets < slots && buckets < 1u << 30)
		buckets *= 2;
	x->slots = calloc(slots, sizeof(*x->slots));
	/* Zero ends a chain: the numbers in `buckets` and `next` are slot + 1. */
	x->buckets = calloc(buckets, sizeof(*x->buckets));
	x->bucket_mask = buckets - 1;
	x->limit = slots;
	if (!x->slots || !x->buckets) {
		cache_index_free(x);
		return -ENOMEM;
	}
	*ret_index = x;
	return 0;
}

void cache_index_free(struct cache_index *x)
{
	if (!x)
		return;
	free(x->slots);
	free(x->buckets);
	free(x);
}

static uint32_t *bucket_of(const struct cache_index *x, const struct cache_key *key)
{
	uint64_t words[3] = { key->point, key->block, (uint64_t)key->group << 16 | key->disk };
	return &x->buckets[checksum64(words, sizeof(words)) & x->bucket_mask];
}

static bool key_equal(const struct cache_key *a, const struct cache_key *b)
{
	return a->block == b->block && a->point == b->point && a->group == b->group &&
	       a->disk == b->disk;
}

static uint32_t lookup(const struct cache_index *x, const struct cache_key *key)
{
	for (uint32_t link = *bucket_of(x, key); link != 0; link = x->slots[link - 1].next) {
		if (key_equal(&x->slots[link - 1].key, key))
			return link - 1;
	}
	return CACHE_NO_SLOT;
}

uint32_t cache_index_find(struct cache_index *x, const struct cache_key *key)
{
	uint32_t slot = lookup(x, key);
	if (slot != CACHE_NO_SLOT)
		x->slots[slot].referenced = true;
	return slot;
}

bool cache_index_has(const struct cache_index *x, const struct cache_key *key)
{
	return lookup(x, key) != CACHE_NO_SLOT;
}

static void unchain(struct cache_index *x, uint32_t slot)
{
	uint32_t *link = bucket_of(x, &x->slots[slot].key);
	while (*link != slot + 1)
		link = &x->slots[*link - 1].next;
	*link = x->slots[slot].next;
	x->published--;
}

static void set_free(struct cache_index *x, uint32_t slot)
{
	x->slots[slot].state = SLOT_FREE;
	if (slot >= x->limit)
		return;
	x->slots[slot].next = x->free_list;
	x->free_list = slot + 1;
}

/* The next published and unpinned slot that has used up its second chance. */
static uint32_t evict(struct cache_index *x)
{
	for (uint64_t turns = 2ull * x->limit; turns > 0; turns--) {
		x->hand = x->hand + 1 < x->limit ? x->hand + 1 : 0;
		struct slot *s = &x->slots[x->hand];
		if (s->state != SLOT_PUBLISHED || s->pins > 0)
			continue;
		if (!s->referenced) {
			unchain(x, x->hand);
			return x->hand;
		}
		s->referenced = false;
	}
	return CACHE_NO_SLOT;
}

uint32_t cache_index_take(struct cache_index *x, bool *ret_evicted)
{
	uint32_t slot = CACHE_NO_SLOT;
	bool evicted = false;
	if (x->free_list != 0) {
		slot = x->free_list - 1;
		x->free_list = x->slots[slot].next;
	} else if (x->fresh < x->limit) {
		slot = x->fresh++;
	} else {
		slot = evict(x);
		evicted = slot != CACHE_NO_SLOT;
	}
	if (slot == CACHE_NO_SLOT)
		return slot;
	x->slots[slot].state = SLOT_TAKEN;
	x->slots[slot].referenced = false;
	*ret_evicted = evicted;
	return slot;
}

void cache_index_publish(struct cache_index *x, uint32_t slot, const struct cache_key *key)
{
	if (slot >= x->limit) {
		cache_index_drop(x, slot);
		return;
	}
	uint32_t other = lookup(x, key);
	if (other != CACHE_NO_SLOT)
		cache_index_drop(x, other);
	struct slot *s = &x->slots[slot];
	uint32_t *bucket = bucket_of(x, key);
	s->key = *key;
	s->state = SLOT_PUBLISHED;
	s->next = *bucket;
	*bucket = slot + 1;
	x->published++;
}

void cache_index_drop(struct cache_index *x, uint32_t slot)
{
	struct slot *s = &x->slots[slot];
	if (s->state == SLOT_PUBLISHED)
		unchain(x, slot);
	if (s->pins > 0)
		s->state = SLOT_DROPPED;
	else if (s->state != SLOT_FREE)
		set_free(x, slot);
}

void cache_index_pin(struct cache_index *x, uint32_t slot)
{
	x->slots[slot].pins++;
}

void cache_index_unpin(struct cache_index *x, uint32_t slot)
{
	struct slot *s = &x->slots[slot];
	if (--s->pins == 0 && s->state == SLOT_DROPPED)
		set_free(x, slot);
}

/* Slots at or beyond the limit leave the free list; as it is not sorted, it is made anew. */
static void rebuild_free_list(struct cache_index *x)
{
	x->free_list = 0;
	for (uint32_t slot = MIN(x->fresh, x->limit); slot-- > 0;) {
		if (x->slots[slot].state == SLOT_FREE)
			set_free(x, slot);
	}
}

uint32_t cache_index_limit(struct cache_index *x, uint32_t slots)
{
	uint32_t dropped = 0;
	x->limit = slots;
	for (uint32_t slot = slots; slot < x->fresh; slot++) {
		if (x->slots[slot].state != SLOT_PUBLISHED)
			continue;
		cache_index_drop(x, slot);
		dropped++;
	}
	rebuild_free_list(x);
	x->hand = 0;
	return dropped;
}

uint32_t cache_index_count(const struct cache_index *x)
{
	return x->published;
}
