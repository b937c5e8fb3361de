/*
 * A store: a run of bytes that can be read and perhaps written: the layers a virtual disk is
 * stacked from. The lowest is the vault's snapshot (plugged in from outside), above it the
 * read cache, the journal's view or head, a clone's overlay, and on top the VHD footer:
 *
 *	live/<disk>.vhd      vhd ── parts ── history ─────┐
 *	points/…/<disk>.vhd  vhd ── view of a point ──────┼── base: cache ── blob snapshot
 *	clones/…/<disk>.vhd  vhd ── clone ── view ────────┘
 *
 * stack.c builds these and is the only place that knows the order.
 *
 * Offsets and lengths are bytes. Except for the VHD layer, which takes any, they are multiples
 * of 512 inside [0, size). All functions return 0 or -errno, any thread, several at once; two
 * overlapping writes at once leave each sector with one of the two.
 *
 *	read    fills all n bytes. -EIO: the content cannot be proven (checksum) or had.
 *	write   visible to reads when it returns, durable after flush. -EROFS on immutable stores;
 *	        -ENOSPC when a quota or the journal is full, nothing stored.
 *	zero    as write, of zero bytes; any length.
 *	read_near   as read, but -EAGAIN rather than asking for what is far away. NULL: there is
 *	        no such difference, or none that is known.
 *	write_late  as write, of one sector in whose place one was acknowledged before, so that it
 *	        is not refused for want of room. NULL: write.
 *	flush   makes every write that returned before it was called durable.
 *	room    NULL: always; else 0 once a write of `bytes` is let in, waiting for that, or the
 *	        errno it is refused with. `refused`: the write was made, and there was no room all
 *	        the same. A store that has it never waits in write or zero.
 *	free    releases the store and what it owns; no call may be under way.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* So often a write that there was no room for waits for some. */
#define STORE_ROOM_TRIES 100u

struct store;

struct store_ops {
	int (*read)(struct store *store, uint64_t offset, void *data, size_t n);
	int (*write)(struct store *store, uint64_t offset, const void *data, size_t n);
	int (*zero)(struct store *store, uint64_t offset, uint64_t n);
	int (*flush)(struct store *store);
	int (*read_near)(struct store *store, uint64_t offset, void *data, size_t n);
	int (*write_late)(struct store *store, uint64_t offset, const void *data, size_t n);
	int (*room)(struct store *store, uint64_t bytes, bool refused);
	void (*free)(struct store *store);
};

/* Implementations embed it as their first member. */
struct store {
	const struct store_ops *ops;
	uint64_t size_bytes;
	bool writable;
};

static inline int store_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	return store->ops->read(store, offset, data, n);
}

static inline int store_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	return store->ops->write(store, offset, data, n);
}

static inline int store_zero(struct store *store, uint64_t offset, uint64_t n)
{
	return store->ops->zero(store, offset, n);
}

static inline int store_room(struct store *store, uint64_t bytes)
{
	return store->ops->room ? store->ops->room(store, bytes, false) : 0;
}

/* After a write that was answered with -ENOSPC: 0 if it is to be tried again. */
static inline int store_wait_for_room(struct store *store, uint64_t bytes)
{
	return store->ops->room ? store->ops->room(store, bytes, true) : -ENOSPC;
}

static inline int store_flush(struct store *store)
{
	return store->ops->flush(store);
}

static inline void store_free(struct store *store)
{
	if (store)
		store->ops->free(store);
}
