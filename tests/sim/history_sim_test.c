/*
 * The crash simulation of fs/history.h.
 *
 *	history_sim_test [--mode random|exhaustive|rot|teeth] [--seed S] [--crash-points N]
 *	                 [--shard I/N] [--replay KIND:ARG] [--drains] [--verbose]
 *
 * random      lives of a few generations each: random work, a crash or a fault at a random
 *             operation of the disk, recovery compared with the model, and on.
 * exhaustive  every workload of up to three operations, crashed at every operation of the disk,
 *             in every way a disk can keep or lose what was not synced.
 * rot         one damaged sector, anywhere.
 * teeth       the disk lies on purpose: the oracle must notice every kind of lie.
 *
 * With --drains, epochs are drained now and then (in random and rot).
 *
 * Without --seed a seed is made from the time. Seeds are printed, and a failure prints the one
 * command that repeats it.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "tests/sim/history_life.h"
#include "tests/sim/history_rot.h"
#include "tests/sim/history_run.h"
#include "tests/sim/sim_replay.h"

/* ── random lives ────────────────────────────────────────────────────────────────────────── */

static int random_run(const struct sim_settings *settings, uint64_t seed, enum io_sim_lie lie,
	struct run_totals *totals)
{
	static struct run run;
	sim_replay_set(
		settings, "random:%#" PRIx64 "%s", seed, settings->drains ? " --drains" : "");
	run_begin(&run, seed, lie, totals, settings->trace);
	run.drains = settings->drains;
	int r = setjmp(run.failed);
	if (r == 0)
		life_random(&run, true);
	run_end(&run);
	return r == 0 ? 0 : lie == IO_SIM_HONEST ? sim_replay_report(run.failure) : 1;
}

static int random_mode(const struct sim_settings *settings, struct run_totals *totals)
{
	for (uint64_t i = 0; totals->crash_points < settings->crash_points; i++)
		if (random_run(settings, sim_mix(settings->seed, i), IO_SIM_HONEST, totals))
			return 1;
	return 0;
}

/* ── every small workload, every crash ───────────────────────────────────────────────────── */

static const char alphabet[] = "AOZCSFTMRD";

#define WORKLOAD_STEPS 3
#define STEPS 10
#define WORKLOADS (STEPS + STEPS * STEPS + STEPS * STEPS * STEPS)

static void workload_name(unsigned index, char ret_name[static WORKLOAD_STEPS + 1])
{
	unsigned length = 1, count = STEPS;
	while (index >= count) {
		index -= count;
		count *= STEPS;
		length++;
	}
	for (unsigned i = 0; i < length; i++) {
		ret_name[length - 1 - i] = alphabet[index % STEPS];
		index /= STEPS;
	}
	ret_name[length] = '\0';
}

static int small_step(struct run *run, char step)
{
	int r;
	switch (step) {
	case 'A':
		return step_write(run, 1, 0, 8);
	case 'O':
		return step_write(run, 1, 4, 8);
	case 'Z':
		return step_zero(run, 1, 2, 5);
	case 'C':
		return step_commit(run);
	case 'S':
		return step_seal(run);
	case 'F':
		r = step_seal(run);
		if (r == 0)
			r = step_commit(run);
		return r == 0 ? step_flush(run) : r;
	case 'T':
		return step_trim(run, 0);
	case 'M':
		return step_maintain(run);
	case 'D':
		return step_drain(run);
	default:
		return step_reopen(run, false);
	}
}

/* One workload, crashed at one operation of the disk. False if it ended before. */
static bool small_life(struct run *run, const char *workload, uint64_t crash_op, unsigned how)
{
	if (workload[0] == '-')
		io_sim_crash_at(run->sim, io_sim_ops(run->sim) + crash_op);
	int r = run_open(run);
	if (r == 0)
		r = step_add_disk(run, 16);
	if (r == 0)
		r = step_commit(run);
	if (workload[0] != '-')
		io_sim_crash_at(run->sim, io_sim_ops(run->sim) + crash_op);
	for (const char *p = workload; r == 0 && *p; p++)
		r = *p == '-' ? 0 : small_step(run, *p);
	if (r == 0)
		r = step_commit(run);
	bool crashed = io_sim_is_off(run->sim);
	if (!crashed)
		io_sim_power_cut(run->sim);
	run_restart(run, how);
	run->totals->crash_points++;
	r = run_open(run);
	/* And once more: what was recovered is as good as what was written. */
	if (r == 0 && run->model.live.disk_count == 0)
		r = step_add_disk(run, 16);
	if (r == 0)
		r = step_write(run, 1, 6, 4);
	if (r == 0)
		r = step_seal(run);
	if (r == 0)
		r = step_commit(run);
	if (r < 0)
		run_fail(run, "work does not go on after the crash");
	io_sim_power_cut(run->sim);
	run_restart(run, IO_SIM_KEEP_NONE);
	if (run_open(run) < 0)
		run_fail(run, "it does not open again");
	return crashed;
}

static int small_run(const struct sim_settings *settings, const char *workload, uint64_t crash_op,
	unsigned how, struct run_totals *totals)
{
	static struct run run;
	static bool crashed;
	sim_replay_set(settings, "exhaustive:%s.%" PRIu64 ".%u", workload, crash_op, how);
	run_begin(&run, sim_mix(crash_op, how), IO_SIM_HONEST, totals, settings->trace);
	run.drains = strchr(workload, 'D');
	crashed = false;
	int r = setjmp(run.failed);
	if (r == 0)
		crashed = small_life(&run, workload, crash_op, how);
	run_end(&run);
	if (r != 0)
		return -sim_replay_report(run.failure);
	return crashed;
}

/* The first workload is that of beginning a history at all. */
static int exhaustive_mode(const struct sim_settings *settings, struct run_totals *totals)
{
	for (unsigned w = settings->shard; w < WORKLOADS + 1;
		w += settings->shards * settings->divisor) {
		char workload[WORKLOAD_STEPS + 1] = "-";
		if (w > 0)
			workload_name(w - 1, workload);
		int r = 1;
		for (uint64_t op = 1; r == 1; op++)
			for (unsigned how = 0; how < RUN_RESTARTS && r >= 0; how++)
				r = small_run(settings, workload, op, how, totals);
		if (r < 0)
			return 1;
	}
	return 0;
}

/* ── rot ─────────────────────────────────────────────────────────────────────────────────── */

static int rot_one(const struct sim_settings *settings, uint64_t seed, struct run_totals *totals)
{
	static struct run run;
	sim_replay_set(settings, "rot:%#" PRIx64 "%s", seed, settings->drains ? " --drains" : "");
	run_begin(&run, seed, IO_SIM_HONEST, totals, settings->trace);
	run.drains = settings->drains;
	int r = setjmp(run.failed);
	if (r == 0)
		rot_run(&run);
	run_end(&run);
	return r ? sim_replay_report(run.failure) : 0;
}

static int rot_mode(const struct sim_settings *settings, struct run_totals *totals)
{
	for (uint64_t i = 0; totals->crash_points < settings->crash_points; i++)
		if (rot_one(settings, sim_mix(settings->seed, i), totals))
			return 1;
	return 0;
}

/* ── teeth ───────────────────────────────────────────────────────────────────────────────── */

static int teeth_mode(const struct sim_settings *settings, struct run_totals *totals)
{
	static const char *const names[IO_SIM_LIES] = { "honest", "datasync does nothing",
		"sync_dir does nothing", "a synced sector is lost", "a write is lost",
		"a read is wrong" };
	int missed = 0;
	for (unsigned lie = IO_SIM_HONEST + 1; lie < IO_SIM_LIES; lie++) {
		uint64_t tries = 0;
		while (tries < 2000 &&
			!random_run(settings, sim_mix(settings->seed, tries), lie, totals))
			tries++;
		printf("%s: %s after %" PRIu64 " lives\n", names[lie],
			tries < 2000 ? "noticed" : "NOT NOTICED", tries + 1);
		missed += tries == 2000;
	}
	return missed ? 1 : 0;
}

/* ── main ────────────────────────────────────────────────────────────────────────────────── */

static int replay(const struct sim_settings *settings, struct run_totals *totals)
{
	const char *argument = strchr(settings->replay, ':');
	if (!argument)
		return 2;
	argument++;
	if (strncmp(settings->replay, "random:", 7) == 0)
		return random_run(settings, strtoull(argument, NULL, 0), IO_SIM_HONEST, totals);
	if (strncmp(settings->replay, "rot:", 4) == 0)
		return rot_one(settings, strtoull(argument, NULL, 0), totals);
	char workload[WORKLOAD_STEPS + 1];
	uint64_t op;
	unsigned how;
	if (sscanf(argument, "%3[^.].%" SCNu64 ".%u", workload, &op, &how) != 3)
		return 2;
	return small_run(settings, workload, op, how, totals) < 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: history_sim_test [--mode random|exhaustive|rot|teeth] [--seed S]\n"
			"         [--crash-points N] [--shard I/N] [--replay KIND:ARG] [--drains]\n"
			"         [--verbose]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	struct sim_settings settings;
	if (sim_settings_parse(argc, argv, "random", 10000, &settings) < 0)
		return usage();
	struct run_totals totals = { 0 };
	int r;
	printf("mode %s, seed %#" PRIx64 "\n", settings.replay ? settings.replay : settings.mode,
		settings.seed);
	fflush(stdout);
	if (settings.replay)
		r = replay(&settings, &totals);
	else if (!strcmp(settings.mode, "random"))
		r = random_mode(&settings, &totals);
	else if (!strcmp(settings.mode, "exhaustive"))
		r = exhaustive_mode(&settings, &totals);
	else if (!strcmp(settings.mode, "rot"))
		r = rot_mode(&settings, &totals);
	else if (!strcmp(settings.mode, "teeth"))
		r = teeth_mode(&settings, &totals);
	else
		return usage();
	clock_gettime(CLOCK_MONOTONIC, &end);
	double seconds =
		(double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
	printf("%s: %" PRIu64 " lives, %" PRIu64 " crash points, %" PRIu64 " steps, %" PRIu64
	       " points verified, %" PRIu64 " refused; %.1f s, %.0f crash points/s\n",
		r == 0 ? "passed" : "FAILED", totals.runs, totals.crash_points, totals.steps,
		totals.points_verified, totals.refused, seconds,
		seconds > 0 ? (double)totals.crash_points / seconds : 0);
	return r;
}
