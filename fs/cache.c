/*
 * The read cache. Three places are asked for a block, in this order:
 *
 *	blocks     slots of 64 KiB in the cache file, each 4 KiB proven by a hash in memory, so that
 *	           a small read reads and proves little
 *	zeros      bit maps of 512 blocks each: these blocks are known to be all zeros
 *	fetches    what is being fetched right now; whoever comes waits for it and copies from it
 *
 * and what none of them knows is fetched from below, in one read for all missing neighbours that
 * the reader asks for, and as much more as it has earned by reading on in sequence. The caller's
 * thread fetches: there is no other. A fetch that fails because of what was added is repeated for
 * what was asked.
 *
 * The cache file is never trusted: a page that fails its hash is dropped and fetched again, and
 * after an error of the disk the cache steps aside (logged once).
 *
 * Lock: one, for index, bit maps, fetches and streams; memory work only. A slot that is read or
 * filled is pinned or taken meanwhile. A fetch's buffer is written before `done` is set and not
 * after; the last who refers to it frees it.
 */
#include "fs/cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "fs/cache_index.h"
#include "fs/read_ahead.h"

#define BLOCK_BYTES (64u * 1024u)
#define PAGE_BYTES 4096u
#define BLOCK_PAGES (BLOCK_BYTES / PAGE_BYTES)
#define FETCH_BLOCKS 64u /* at most: 4 MiB */
#define ZERO_MAP_BLOCKS 512u
#define ASK_AGAIN 1

struct page_hashes {
	uint64_t page[BLOCK_PAGES];
};

struct zero_map {
	uint64_t words[ZERO_MAP_BLOCKS / 64];
};

struct fetch {
	struct fetch *next;
	struct cache_key key; /* of the first block */
	uint32_t blocks;
	uint32_t refs;
	bool done;
	int result; /* 0, -errno, or ASK_AGAIN: nothing is known, look again */
	uint8_t *data;
};

struct cache {
	struct io *io; /* borrowed */
	struct io_file *file;
	char *path;
	uint64_t most_bytes; /* capacity as made */
	atomic_bool broken;  /* the file cannot be used: everything goes below */

	pthread_mutex_t lock;
	pthread_cond_t fetched;
	struct cache_index *blocks;
	struct page_hashes *hashes; /* a slot */
	struct cache_index *zeros;
	struct zero_map *zero_maps; /* a slot */
	struct fetch *fetches;
	struct uuid *groups;
	uint32_t group_count;
	bool told_full;
	struct cache_stats stats;
};

struct cache_base {
	struct base base;
	struct cache *cache; /* borrowed */
	struct base *below;  /* borrowed */
	uint32_t group;
	struct read_ahead ahead; /* under the cache's lock */
};

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

int cache_new(struct io *io, const char *path, uint64_t capacity_bytes, struct cache **ret_cache)
{
	if (capacity_bytes < MIB || capacity_bytes / BLOCK_BYTES >= CACHE_NO_SLOT)
		return -EINVAL;
	struct cache *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	uint32_t slots = (uint32_t)(capacity_bytes / BLOCK_BYTES);
	uint32_t maps = MAX(slots / 4, 64u);
	c->io = io;
	c->most_bytes = (uint64_t)slots * BLOCK_BYTES;
	c->stats.capacity_bytes = c->most_bytes;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->fetched, NULL);
	c->path = strdup(path);
	c->hashes = calloc(slots, sizeof(*c->hashes));
	c->zero_maps = calloc(maps, sizeof(*c->zero_maps));
	int r = c->path && c->hashes && c->zero_maps ? 0 : -ENOMEM;
	if (r == 0)
		r = cache_index_new(slots, &c->blocks);
	if (r == 0)
		r = cache_index_new(maps, &c->zeros);
	if (r == 0)
		r = io_open(io, path, IO_WRITE | IO_CREATE | IO_RANDOM, &c->file);
	if (r == 0)
		r = io_truncate(c->file, 0);
	if (r < 0) {
		cache_free(c);
		return r;
	}
	*ret_cache = c;
	return 0;
}

void cache_free(struct cache *c)
{
	if (!c)
		return;
	if (c->file) {
		io_close(c->file);
		/* What stays is emptied at the next start. */
		(void)io_unlink(c->io, c->path);
	}
	cache_index_free(c->blocks);
	cache_index_free(c->zeros);
	pthread_cond_destroy(&c->fetched);
	pthread_mutex_destroy(&c->lock);
	free(c->hashes);
	free(c->zero_maps);
	free(c->groups);
	free(c->path);
	free(c);
}

void cache_stats(struct cache *c, struct cache_stats *ret_stats)
{
	SCOPED_LOCK(&c->lock);
	*ret_stats = c->stats;
	ret_stats->used_bytes = (uint64_t)cache_index_count(c->blocks) * BLOCK_BYTES;
}

int cache_shrink(struct cache *c, uint64_t capacity_bytes)
{
	uint32_t slots = (uint32_t)(MIN(capacity_bytes, c->most_bytes) / BLOCK_BYTES);
	pthread_mutex_lock(&c->lock);
	c->stats.evictions += cache_index_limit(c->blocks, slots);
	c->stats.capacity_bytes = (uint64_t)slots * BLOCK_BYTES;
	c->told_full = false;
	pthread_mutex_unlock(&c->lock);
	/* Who still reads or fills a slot beyond finds out by its hash, or never publishes it. */
	return io_truncate(c->file, (uint64_t)slots * BLOCK_BYTES);
}

/* The number by which keys name the group. */
static int number_group(struct cache *c, const struct uuid *group, uint32_t *ret_number)
{
	SCOPED_LOCK(&c->lock);
	for (uint32_t i = 0; i < c->group_count; i++) {
		if (memcmp(&c->groups[i], group, sizeof(*group)) == 0) {
			*ret_number = i;
			return 0;
		}
	}
	struct uuid *grown = realloc(c->groups, (c->group_count + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	grown[c->group_count] = *group;
	c->groups = grown;
	*ret_number = c->group_count++;
	return 0;
}

/* ── zeros ───────────────────────────────────────────────────────────────────────────────── */

static struct cache_key zero_key(const struct cache_key *key)
{
	struct cache_key map = *key;
	map.block = key->block / ZERO_MAP_BLOCKS;
	return map;
}

static bool is_known_zero_locked(struct cache *c, const struct cache_key *key)
{
	struct cache_key map = zero_key(key);
	uint32_t slot = cache_index_find(c->zeros, &map);
	unsigned bit = (unsigned)(key->block % ZERO_MAP_BLOCKS);
	return slot != CACHE_NO_SLOT && (c->zero_maps[slot].words[bit / 64] >> bit % 64 & 1);
}

static void remember_zero(struct cache *c, const struct cache_key *key)
{
	SCOPED_LOCK(&c->lock);
	struct cache_key map = zero_key(key);
	uint32_t slot = cache_index_find(c->zeros, &map);
	if (slot == CACHE_NO_SLOT) {
		bool evicted;
		slot = cache_index_take(c->zeros, &evicted);
		if (slot == CACHE_NO_SLOT)
			return;
		memset(&c->zero_maps[slot], 0, sizeof(c->zero_maps[slot]));
		cache_index_publish(c->zeros, slot, &map);
	}
	unsigned bit = (unsigned)(key->block % ZERO_MAP_BLOCKS);
	c->zero_maps[slot].words[bit / 64] |= 1ull << bit % 64;
}

/* ── blocks ──────────────────────────────────────────────────────────────────────────────── */

static void give_up(struct cache *c, int error)
{
	if (!atomic_exchange(&c->broken, true))
		log_warning("%s: %s; reading from the vault goes on without the cache", c->path,
			strerrordesc_np(-error));
}

/* True if each page of `data`, which begins with page `first` of the block, has its hash. */
static bool pages_are_proven(
	const struct page_hashes *hashes, uint32_t first, const uint8_t *data, size_t n)
{
	for (size_t at = 0; at < n; at += PAGE_BYTES) {
		if (checksum64(data + at, PAGE_BYTES) != hashes->page[first + at / PAGE_BYTES])
			return false;
	}
	return true;
}

/* Reads and proves [from, from + n) of a pinned slot. -EBADMSG: not what was stored. */
static int read_slot(struct cache *c, uint32_t slot, uint32_t from, void *data, uint32_t n)
{
	uint32_t low = (uint32_t)round_down(from, PAGE_BYTES);
	uint32_t high = (uint32_t)round_up(from + n, PAGE_BYTES);
	CLEANUP_FREE uint8_t *bounce = NULL;
	uint8_t *into = data;
	if (low != from || high != from + n) {
		bounce = malloc(high - low);
		if (!bounce)
			return -ENOMEM;
		into = bounce;
	}
	int r = io_read_all(c->file, into, high - low, (uint64_t)slot * BLOCK_BYTES + low);
	if (r == -ENODATA)
		return -EBADMSG; /* cut off by cache_shrink */
	if (r < 0)
		return r;
	if (!pages_are_proven(&c->hashes[slot], low / PAGE_BYTES, into, high - low))
		return -EBADMSG;
	if (bounce)
		memcpy(data, bounce + (from - low), n);
	return 0;
}

/* Reads from a slot that was pinned under the lock. 0, or ASK_AGAIN if it was no good. */
static int read_hit(struct cache *c, uint32_t slot, uint32_t from, void *data, uint32_t n)
{
	int r = read_slot(c, slot, from, data, n);
	if (r < 0 && r != -EBADMSG && r != -ENOMEM)
		give_up(c, r);
	SCOPED_LOCK(&c->lock);
	if (r == 0) {
		c->stats.hits++;
	} else {
		c->stats.rotten += r == -EBADMSG;
		cache_index_drop(c->blocks, slot);
	}
	cache_index_unpin(c->blocks, slot);
	return r == 0 ? 0 : ASK_AGAIN;
}

static uint32_t take_slot(struct cache *c)
{
	SCOPED_LOCK(&c->lock);
	bool evicted = false;
	uint32_t slot = cache_index_take(c->blocks, &evicted);
	c->stats.evictions += evicted;
	return slot;
}

/* Puts one block into the cache, or leaves it: nobody depends on it. */
static void store_block(struct cache *c, const struct cache_key *key, const uint8_t *data)
{
	if (is_zero(data, BLOCK_BYTES)) {
		remember_zero(c, key);
		return;
	}
	uint32_t slot = atomic_load(&c->broken) ? CACHE_NO_SLOT : take_slot(c);
	if (slot == CACHE_NO_SLOT)
		return;
	for (uint32_t i = 0; i < BLOCK_PAGES; i++)
		c->hashes[slot].page[i] = checksum64(data + (size_t)i * PAGE_BYTES, PAGE_BYTES);
	int r = io_write(c->file, data, BLOCK_BYTES, (uint64_t)slot * BLOCK_BYTES);
	pthread_mutex_lock(&c->lock);
	bool tell = r == -ENOSPC && !c->told_full;
	c->told_full |= tell;
	if (r == 0)
		cache_index_publish(c->blocks, slot, key);
	else
		cache_index_drop(c->blocks, slot);
	pthread_mutex_unlock(&c->lock);
	if (tell)
		log_warning("%s: no room on the disk; the cache does not grow", c->path);
	else if (r < 0 && r != -ENOSPC)
		give_up(c, r);
}

/* ── fetching ────────────────────────────────────────────────────────────────────────────── */

/* The fetch under way that brings the block, or NULL. */
static struct fetch *find_fetch_locked(struct cache *c, const struct cache_key *key)
{
	for (struct fetch *f = c->fetches; f; f = f->next) {
		if (f->key.point == key->point && f->key.disk == key->disk &&
			f->key.group == key->group && key->block >= f->key.block &&
			key->block - f->key.block < f->blocks)
			return f;
	}
	return NULL;
}

static bool is_missing_locked(struct cache *c, const struct cache_key *key)
{
	return !cache_index_has(c->blocks, key) && !is_known_zero_locked(c, key) &&
	       !find_fetch_locked(c, key);
}

static void unref_locked(struct fetch *f)
{
	if (--f->refs > 0)
		return;
	free(f->data);
	free(f);
}

/* Announces a fetch of the missing blocks from `key` on, at most `blocks`; NULL without memory. */
static struct fetch *begin_fetch_locked(
	struct cache *c, const struct cache_key *key, uint32_t blocks)
{
	struct fetch *f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->key = *key;
	f->blocks = 1;
	struct cache_key next = *key;
	for (next.block++; f->blocks < blocks && is_missing_locked(c, &next); next.block++)
		f->blocks++;
	f->data = malloc((size_t)f->blocks * BLOCK_BYTES);
	if (!f->data) {
		free(f);
		return NULL;
	}
	f->refs = 1;
	f->next = c->fetches;
	c->fetches = f;
	return f;
}

/* Tells the waiters; after a success the blocks go on being found here until they are stored. */
static void finish_fetch(struct cache *c, struct fetch *f, int result, uint32_t asked)
{
	SCOPED_LOCK(&c->lock);
	f->done = true;
	f->result = result;
	if (result == 0) {
		c->stats.fetched_bytes += (uint64_t)f->blocks * BLOCK_BYTES;
		c->stats.misses += asked;
	}
	pthread_cond_broadcast(&c->fetched);
}

static void end_fetch(struct cache *c, struct fetch *f)
{
	SCOPED_LOCK(&c->lock);
	struct fetch **link = &c->fetches;
	while (*link != f)
		link = &(*link)->next;
	*link = f->next;
	pthread_cond_broadcast(&c->fetched);
	unref_locked(f);
}

/* True if reading less cannot help. */
static bool is_final(int r)
{
	return r == -EAGAIN || r == -ETIMEDOUT || r == -ENOENT || r == -ENOMEM;
}

/* What one read of the base asks for. */
struct request {
	uint16_t disk;
	uint64_t point;
	uint64_t offset;
	uint8_t *data;
	size_t n;
};

/* Does an announced fetch, of which `asked` blocks are wanted, and gives the request its part of
 * it; `ret_n` says how much that was. ASK_AGAIN: what was added made it fail. */
static int run_fetch(struct cache_base *b, struct fetch *f, uint32_t asked, const struct request *q,
	size_t *ret_n)
{
	struct cache *c = b->cache;
	uint64_t start = f->key.block * BLOCK_BYTES;
	size_t whole = (size_t)f->blocks * BLOCK_BYTES;
	int r = b->below->ops->read(b->below, q->disk, q->point, start, f->data, whole);
	size_t n = MIN(q->n, (size_t)(start + whole - q->offset));
	if (r == 0)
		memcpy(q->data, f->data + (q->offset - start), n);
	finish_fetch(c, f, r == 0 || is_final(r) ? r : ASK_AGAIN, MIN(asked, f->blocks));
	if (r == 0) {
		struct cache_key key = f->key;
		for (uint32_t i = 0; i < f->blocks; i++, key.block++)
			store_block(c, &key, f->data + (size_t)i * BLOCK_BYTES);
	} else if (!is_final(r) && f->blocks > asked) {
		r = ASK_AGAIN;
	} else if (!is_final(r)) {
		/* The rest of a block may lie beyond the disk's end, or be what is unproven. */
		n = MIN(q->n, (size_t)(start + BLOCK_BYTES - q->offset));
		r = b->below->ops->read(b->below, q->disk, q->point, q->offset, q->data, n);
	}
	end_fetch(c, f);
	*ret_n = n;
	return r;
}

/* Waits for somebody else's fetch and copies from it; the lock is held, and released on return. */
static int join_fetch_unlock(
	struct cache *c, struct fetch *f, const struct request *q, size_t *ret_n)
{
	f->refs++;
	while (!f->done)
		pthread_cond_wait(&c->fetched, &c->lock);
	int r = f->result;
	c->stats.hits += r == 0;
	pthread_mutex_unlock(&c->lock);
	if (r == 0) {
		uint64_t from = q->offset - f->key.block * BLOCK_BYTES;
		*ret_n = MIN(q->n, (size_t)((uint64_t)f->blocks * BLOCK_BYTES - from));
		memcpy(q->data, f->data + from, *ret_n);
	}
	pthread_mutex_lock(&c->lock);
	/* It failed for its own reasons and is still being taken down: not to be joined again. */
	while (r == ASK_AGAIN && find_fetch_locked(c, &f->key) == f)
		pthread_cond_wait(&c->fetched, &c->lock);
	unref_locked(f);
	pthread_mutex_unlock(&c->lock);
	return r;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

static uint64_t note_read(struct cache_base *b, const struct request *q)
{
	SCOPED_LOCK(&b->cache->lock);
	return read_ahead_note(&b->ahead, q->disk, q->point, q->offset, q->n);
}

/* Reading ahead failed, perhaps at the disk's end: the reader has to earn it anew. */
static void forget_earned(struct cache_base *b, const struct request *q)
{
	SCOPED_LOCK(&b->cache->lock);
	read_ahead_forget(&b->ahead, q->disk, q->point);
}

/* Serves the beginning of the request, from wherever its first block is. */
static int read_some(struct cache_base *b, const struct request *q, uint64_t ahead, size_t *ret_n)
{
	struct cache *c = b->cache;
	struct cache_key key = { q->point, q->offset / BLOCK_BYTES, b->group, q->disk };
	uint32_t from = (uint32_t)(q->offset % BLOCK_BYTES);
	uint32_t n = (uint32_t)MIN(q->n, (size_t)(BLOCK_BYTES - from));

	pthread_mutex_lock(&c->lock);
	uint32_t slot = cache_index_find(c->blocks, &key);
	if (slot != CACHE_NO_SLOT) {
		cache_index_pin(c->blocks, slot);
		pthread_mutex_unlock(&c->lock);
		*ret_n = n;
		return read_hit(c, slot, from, q->data, n);
	}
	if (is_known_zero_locked(c, &key)) {
		c->stats.hits++;
		pthread_mutex_unlock(&c->lock);
		memset(q->data, 0, n);
		*ret_n = n;
		return 0;
	}
	struct fetch *f = find_fetch_locked(c, &key);
	if (f)
		return join_fetch_unlock(c, f, q, ret_n);
	uint64_t asked = (from + q->n + BLOCK_BYTES - 1) / BLOCK_BYTES;
	uint64_t wanted = MIN(asked + ahead / BLOCK_BYTES, (uint64_t)FETCH_BLOCKS);
	f = begin_fetch_locked(c, &key, (uint32_t)wanted);
	pthread_mutex_unlock(&c->lock);
	return f ? run_fetch(b, f, (uint32_t)asked, q, ret_n) : -ENOMEM;
}

static int cache_base_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct cache_base *b = CONTAINER_OF(base, struct cache_base, base);
	struct request q = { disk, point, offset, data, n };
	if (atomic_load(&b->cache->broken))
		return b->below->ops->read(b->below, disk, point, offset, data, n);
	uint64_t ahead = note_read(b, &q);
	while (q.n > 0) {
		size_t done = 0;
		int r = read_some(b, &q, ahead, &done);
		if (r == -ENOMEM || (r == ASK_AGAIN && atomic_load(&b->cache->broken)))
			return b->below->ops->read(b->below, disk, point, q.offset, q.data, q.n);
		if (r == ASK_AGAIN) {
			ahead = 0;
			forget_earned(b, &q);
			continue;
		}
		if (r < 0)
			return r;
		q.offset += done, q.data += done, q.n -= done;
	}
	return 0;
}

/* What can change is not kept. */
static int cache_base_read_live(
	struct base *base, uint16_t disk, uint64_t offset, void *data, size_t n)
{
	struct cache_base *b = CONTAINER_OF(base, struct cache_base, base);
	return b->below->ops->read_live ? b->below->ops->read_live(b->below, disk, offset, data, n)
					: -EIO;
}

int cache_base_new(
	struct cache *cache, const struct uuid *group, struct base *below, struct base **ret_base)
{
	static const struct base_ops ops = { .read = cache_base_read,
		.read_live = cache_base_read_live };
	CLEANUP_FREE struct cache_base *b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->base.ops = &ops;
	b->cache = cache;
	b->below = below;
	int r = number_group(cache, group, &b->group);
	if (r < 0)
		return r;
	struct cache_base *done = TAKE(b);
	*ret_base = &done->base;
	return 0;
}

void cache_base_free(struct base *base)
{
	if (base)
		free(CONTAINER_OF(base, struct cache_base, base));
}
