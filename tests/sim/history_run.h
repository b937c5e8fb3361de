/*
 * One simulated life of a history: the history itself over a simulated disk, vault and clock,
 * beside the model that says what it must contain.
 *
 * A *step* does one thing to both and compares what can be compared at once. It returns 0, or
 * -EIO when the history is dead: the power is off, or a fault that was asked for has come. Then
 * the run is to be *restarted*: closed, the disk settled, and opened over what survived, which
 * must fit the model. What may not happen ends the run by run_fail, which does not return.
 */
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/rng.h"
#include "tests/sim/base_sim.h"
#include "tests/sim/clock_sim.h"
#include "tests/sim/history_model.h"
#include "tests/sim/io_sim.h"

#define RUN_VIEWS 2
#define RUN_DIRECTORY "/var/journal/g"

/* How a restart comes about. */
#define RUN_KILL IO_SIM_KEEP_MODES /* the process dies, the machine lives */
#define RUN_RESTARTS (IO_SIM_KEEP_MODES + 1)

struct run;

/* How points come into the vault and leave it; the default is the vault in memory. */
struct run_vault {
	/* Makes the point, which is sealed and durable, a vault point, from flush_begin to
	 * flush_commit (which it tells the model by step_flush_begin and step_flush_commit). */
	int (*flush)(struct run *run, uint64_t number);
	/* The history has dropped the point durably. */
	void (*drop)(struct run *run, uint64_t number);
	bool (*has)(struct run *run, uint64_t number);
	/* Around each life of the process: before the history is opened, after it was closed. 0 or
	 * -EIO. NULL: nothing to do. */
	int (*open)(struct run *run);
	void (*close)(struct run *run);
	/* Keeps the vault from answering, or lets it. */
	void (*fail)(struct run *run, int error);
	/* Drains what is not sealed, if the history lets it. */
	int (*drain)(struct run *run);
};

struct run_totals {
	uint64_t runs, crash_points, steps, points_verified, refused;
};

struct run {
	struct rng rng;
	struct io_sim *sim;
	struct clock_sim clock;
	struct base_sim *base;
	const struct run_vault *vault;
	void *vault_context;
	struct history *history;
	struct model model;
	struct run_view {
		struct view *view;
		const struct model_image *image;
		uint64_t number;
	} views[RUN_VIEWS];
	struct view *passing_view; /* closed if a run fails while it looks */
	struct history_options options;
	struct history_report report;
	uint64_t next_tag;
	uint64_t last_lsn;
	uint32_t max_sectors; /* of a disk */
	bool whole_mib;       /* disks are whole MiB */
	bool drains;          /* epochs are drained now and then */
	uint32_t max_write_sectors;
	struct run_totals *totals;
	struct model_seen seen;
	FILE *trace; /* NULL: silent */
	jmp_buf failed;
	char failure[2048];
};

/* Takes the place of everything in `run`; opens nothing yet. Before run_end it must be called
 * within `if (setjmp(run->failed) == 0)`. */
void run_begin(struct run *run, uint64_t seed, enum io_sim_lie lie, struct run_totals *totals,
	FILE *trace);
void run_end(struct run *run);
void run_fail(struct run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
void run_trace(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Opens and compares with the model: 0, or -EIO when it died in it. */
int run_open(struct run *run);
/* Closes views and history. */
void run_close(struct run *run);
/* Closes and settles the disk, by an enum io_sim_keep or RUN_KILL. */
void run_restart(struct run *run, unsigned how);
/* Reads everything that a history shows into run->seen. 0 or -EIO. */
int run_see(struct run *run);
/* All points open and are exact. 0 or -EIO. */
int run_verify_points(struct run *run);
/* A call failed: returns -EIO if that may be (see above), else fails the run. */
int run_dead(struct run *run, int r, const char *what);
/* Takes note of what is durable by now. */
void run_note_durable(struct run *run);
/* What a staging call gave, `r` and op->lsn, is checked and taken into the model. 0 or -EIO. */
int run_staged(struct run *run, int r, struct model_op *op, const char *what);
/* A disk that is not removed, by chance; NULL if there is none. */
struct model_disk *run_any_disk(struct run *run);

/* Chance: uniform in [0, limit); limit > 0. */
static inline uint64_t run_below(struct run *run, uint64_t limit)
{
	return rng_below(&run->rng, limit);
}

/* ── steps of the journal: history_steps.c ───────────────────────────────────────────────── */

int step_add_disk(struct run *run, uint32_t sectors);
int step_write(struct run *run, uint16_t disk, uint64_t lba, uint32_t sectors);
int step_zero(struct run *run, uint16_t disk, uint64_t lba, uint64_t sectors);
int step_seal(struct run *run);
int step_commit(struct run *run);
int step_trim(struct run *run, uint64_t target_bytes);
int step_maintain(struct run *run);
/* An orderly end, or one that forgets what is staged, and a new start. */
int step_reopen(struct run *run, bool commit);
/* What goes on while a drain or a flush is under way. */
int step_disturb(struct run *run);
/* Any step of these and of those below, by chance. */
int step_random(struct run *run);

/* ── steps of the vault: history_steps_vault.c ───────────────────────────────────────────── */

/* Flushes a point, or goes on with the flush that is pending; does nothing if there is nothing
 * to flush. */
int step_flush(struct run *run);
/* Its parts, for other vaults. */
int step_flush_to_memory(struct run *run, uint64_t number);
int step_flush_begin(struct run *run, uint64_t number);
int step_flush_commit(struct run *run, uint64_t number);
int step_drain(struct run *run);
int step_drain_to_memory(struct run *run);
/* Its parts, for other vaults: began with that number, ended. */
int step_drain_begin(struct run *run, uint64_t *ret_number, uint64_t *ret_cut, uint64_t *ret_lsn);
int step_drain_commit(struct run *run, const struct view *view);
/* Begins with disks and points found in a vault; cut short, it began with fewer. */
int step_take_over(struct run *run);

/* ── steps that look: history_steps_look.c ───────────────────────────────────────────────── */

/* The current content of every disk equals the live model; of one of them, a stretch does. */
int step_read_all(struct run *run);
int step_read_some(struct run *run);
/* The catalogue equals the durable model. */
int step_check_points(struct run *run);
/* Opens a view, reads in one that is open, or closes it. */
int step_view(struct run *run);
