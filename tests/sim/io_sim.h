/*
 * A disk in memory behind common/io.h that loses what a disk may lose.
 *
 * Every change goes to what programs see (the *cache*) and to a log of changes that are not yet
 * durable; io_datasync and io_sync_dir move a file's bytes and a directory's names to what is
 * *durable*. A power cut keeps of the log what the mode and the seed choose, by 512-byte sector,
 * by name, by size; killing the process keeps the cache, and leaves what was not synced not
 * synced.
 *
 *	            write, create, rename …
 *	program ───────────────► cache + log of changes ──datasync, sync_dir──► durable
 *	                             ▲                                             │
 *	                             └───── power on: durable + some of the log ───┘
 *
 * Deterministic: the same seed and the same calls give the same outcome. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/io.h"

struct io_sim;

/* What a power cut keeps of what was not synced. */
enum io_sim_keep {
	IO_SIM_KEEP_NONE,   /* nothing */
	IO_SIM_KEEP_ALL,    /* all of it */
	IO_SIM_KEEP_PREFIX, /* the changes up to some moment, the last one torn */
	IO_SIM_KEEP_SUFFIX, /* only the changes after some moment, the first one torn */
	IO_SIM_KEEP_SUBSET, /* each sector, each name, each size by its own coin */
	IO_SIM_KEEP_TORN,   /* all but a subset of the sectors of the last write */
	IO_SIM_KEEP_MODES
};

/* Operations that change something; these are counted and can be crash points. */
enum io_sim_op {
	IO_SIM_CREATE = 1 << 0,
	IO_SIM_WRITE = 1 << 1,
	IO_SIM_DATASYNC = 1 << 2,
	IO_SIM_ALLOCATE = 1 << 3,
	IO_SIM_TRUNCATE = 1 << 4,
	IO_SIM_RENAME = 1 << 5,
	IO_SIM_UNLINK = 1 << 6,
	IO_SIM_MAKE_DIR = 1 << 7,
	IO_SIM_SYNC_DIR = 1 << 8,
	IO_SIM_READ = 1 << 9, /* not counted, but can be made to fail */
};

/* Ways to break the contract on purpose, to see whether a test notices. */
enum io_sim_lie {
	IO_SIM_HONEST,
	IO_SIM_LIE_DATASYNC,    /* datasync does nothing and says 0 */
	IO_SIM_LIE_SYNC_DIR,    /* sync_dir does nothing and says 0 */
	IO_SIM_LIE_LOST_SECTOR, /* a power cut takes back one sector of the last synced write */
	IO_SIM_LIE_LOST_WRITE,  /* now and then a write is dropped and says 0 */
	IO_SIM_LIE_WRONG_READ,  /* now and then a read has one wrong bit */
	IO_SIM_LIES
};

int io_sim_new(uint64_t seed, struct io_sim **ret_sim);
/* All files must be closed. NULL is fine. */
void io_sim_free(struct io_sim *sim);
struct io *io_sim_io(struct io_sim *sim);

/* ── crashes ─────────────────────────────────────────────────────────────────────────────── */

/* Changing operations since the start. */
uint64_t io_sim_ops(const struct io_sim *sim);
/* The power goes out in the operation that will be number `op` (the first is 1): it may be done
 * in part, and answers -EIO as everything after it does. 0: never. */
void io_sim_crash_at(struct io_sim *sim, uint64_t op);
/* The power goes out now. */
void io_sim_power_cut(struct io_sim *sim);
bool io_sim_is_off(const struct io_sim *sim);
/* Settles what survived and lets the next process begin. Files opened before stay dead. */
void io_sim_power_on(struct io_sim *sim, enum io_sim_keep keep);
/* The process dies, the machine lives: files opened before are dead, the cache is as it was, and
 * what was not synced still is not. Ends a power cut in the same way (as if the process had died
 * in that operation). */
void io_sim_kill(struct io_sim *sim);

/* Counts an operation of something beside the disk; true if the power goes out in it. */
bool io_sim_external_op(struct io_sim *sim);

/* ── faults ──────────────────────────────────────────────────────────────────────────────── */

/* The `after`-th (from 1) of the operations in the set `ops` from now on fails with `error`
 * (-EIO, -ENOSPC), once. A failed write or truncation may be done in part. After a failed
 * datasync the changes it was about are settled by chance: with `cached` the cache goes on
 * showing them as if nothing had happened, as Linux does, else it shows what is durable. */
void io_sim_fail(struct io_sim *sim, unsigned ops, uint64_t after, int error, bool cached);
/* True if the fault asked for has come. */
bool io_sim_has_failed(const struct io_sim *sim);
/* Room for file contents in bytes; writes and allocations beyond it answer -ENOSPC. */
void io_sim_set_room(struct io_sim *sim, uint64_t bytes);
uint64_t io_sim_used_bytes(const struct io_sim *sim);
void io_sim_lie(struct io_sim *sim, enum io_sim_lie lie);

/* ── bit rot ─────────────────────────────────────────────────────────────────────────────── */

/* Every sector whose content changes from now on bears this stamp. */
void io_sim_set_stamp(struct io_sim *sim, uint64_t stamp);

/* Calls `each` for every regular file, in a fixed order. */
void io_sim_each_file(struct io_sim *sim,
	void (*each)(void *context, const char *path, uint64_t bytes), void *context);
/* Changes the bytes at the offset, in the cache and in what is durable, by xor with `mask`; an
 * offset beyond the end is refused with -EINVAL. */
int io_sim_rot(struct io_sim *sim, const char *path, uint64_t offset, const void *mask, size_t n);
/* The stamp of the sector's last change; 0 if it was never written. `*ret_blank`: only zeros. */
int io_sim_stamp(struct io_sim *sim, const char *path, uint64_t offset, uint64_t *ret_stamp,
	bool *ret_blank);

/* ── for people ──────────────────────────────────────────────────────────────────────────── */

/* Prints each operation as it happens; NULL (the start): none. */
void io_sim_trace(struct io_sim *sim, FILE *file);
