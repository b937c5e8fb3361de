/*
 * A life for the vault's simulation (vault_sim_test.c): an appliance's history, vault and flusher
 * over a simulated service, and beside them the image of all disks at every seal, which is what
 * the vault must show.
 *
 *	vault_life.c        starts, crashes, restarts, rot in the journal
 *	vault_life_steps.c  what it does: writes, seals, flushes, deletions, strangers' writes
 *	vault_life_check.c  what must be
 *
 * What may not happen ends the life by life_fail, which does not return. After the power is out
 * (io_sim_is_off) whatever was going on has ended early, and life_restart is to be called.
 */
#pragma once

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/bytes.h"
#include "common/rng.h"
#include "replicator/flusher.h"
#include "replicator/vault.h"
#include "tests/sim/blob_sim.h"
#include "tests/sim/clock_sim.h"
#include "tests/sim/io_sim.h"

#define LIFE_GROUP "web"
#define LIFE_DISKS 3
#define LIFE_MAX_BYTES (3 * MIB)
#define LIFE_POINTS 512
#define LIFE_TRIES 100
#define LIFE_FAILURE_BYTES 1024

struct image {
	bool sealed;
	uint64_t bytes[LIFE_DISKS]; /* 0: no such disk then */
	uint8_t *data[LIFE_DISKS];
};

struct life {
	struct rng rng;
	struct io_sim *disk;
	struct clock_sim clock;
	struct blob_sim *service;
	struct blob_store *store;
	struct base *base;
	struct history *history;
	struct vault_group group;
	struct flusher *flusher;
	struct uuid appliance;
	const char *directory;
	unsigned disk_count, faults;
	bool settled; /* nothing is under way any more */
	bool rots;
	uint64_t unknown; /* what vault_agree said */
	bool refused;     /* it said that nothing may be flushed */
	uint64_t rots_done;
	uint64_t rotten; /* how often something was lost */
	struct image now, points[LIFE_POINTS];
	uint64_t crashes, verified;
	jmp_buf *failed;
	char *failure; /* LIFE_FAILURE_BYTES */
	FILE *trace;
};

void life_fail(struct life *l, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));

#define life_trace(l, ...)                                \
	do {                                              \
		if ((l)->trace) {                         \
			fprintf((l)->trace, __VA_ARGS__); \
			fputc('\n', (l)->trace);          \
		}                                         \
	} while (0)

/* Chance: uniform in [0, n); n > 0. */
static inline uint64_t life_below(struct life *l, uint64_t n)
{
	return rng_below(&l->rng, n);
}

/* Whether an answer of the service may be another one later. */
static inline bool life_passes(int r)
{
	return r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET || r == -ECONNREFUSED;
}

/* A call on the vault: again while it may pass; true if it succeeded, false if the power is out. */
#define PERSIST(l, what, call)                                                                     \
	({                                                                                         \
		struct error error = { 0 };                                                        \
		int persist_r = 0;                                                                 \
		for (unsigned try = 0; try < LIFE_TRIES; try++) {                                  \
			persist_r = (call);                                                        \
			if (persist_r == 0 || io_sim_is_off((l)->disk) || !life_passes(persist_r)) \
				break;                                                             \
		}                                                                                  \
		if (persist_r < 0 && !io_sim_is_off((l)->disk))                                    \
			life_fail(l, "%s answers %d: %s", what, persist_r, error.message);         \
		persist_r == 0;                                                                    \
	})

/* ── vault_life.c ────────────────────────────────────────────────────────────────────────── */

void life_copy_image(struct image *to, const struct image *from);
/* Commits what is staged; false: the power is out. */
bool life_commit(struct life *l);
/* Makes the group in an empty vault, from an open store. */
void life_make_group(struct life *l);
/* From nothing to a flusher that may be asked, and back; false: the power is out. */
bool life_start(struct life *l);
void life_stop(struct life *l);
/* Parts of a start. life_claim and life_agree as their namesakes of the vault. */
bool life_open_history(struct life *l);
bool life_look_at_leases(struct life *l);
int life_claim(struct life *l, struct error *error);
int life_agree(struct life *l, struct error *error);
bool life_make_flusher(struct life *l);
/* What the head is now is what is expected of it. */
void life_read_head(struct life *l);
/* The power goes out, if it is not, and comes back, however often that takes. */
void life_restart(struct life *l);

/* ── vault_life_steps.c ──────────────────────────────────────────────────────────────────── */

void life_add_disk(struct life *l);
void life_grow_disk(struct life *l);
void life_put(struct life *l);
void life_seal(struct life *l);
void life_flush(struct life *l);
void life_collect(struct life *l);
void life_delete_point(struct life *l);
void life_keep_point(struct life *l);
void life_another_writes(struct life *l);

/* ── vault_life_check.c ──────────────────────────────────────────────────────────────────── */

/* Every point of the vault is exact, and so is what is told of the head; no rule was broken. */
void life_check_all(struct life *l);
void life_rot_is_found(struct life *l);
