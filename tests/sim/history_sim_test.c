/*
 * The crash simulation of fs/history.h.
 *
 *	history_sim_test [--mode random|exhaustive|rot|teeth] [--seed S] [--crash-points N]
 *	                 [--shard I/N] [--replay KIND:ARG] [--verbose]
 *
 * random      lives of a few generations each: random work, a crash or a fault at a random
 *             operation of the disk, recovery compared with the model, and on.
 * exhaustive  every workload of up to three operations, crashed at every operation of the disk,
 *             in every way a disk can keep or lose what was not synced.
 * rot         one damaged sector, anywhere.
 * teeth       the disk lies on purpose: the oracle must notice every kind of lie.
 *
 * Without --seed a seed is made from the time. Seeds are printed, and a failure prints the one
 * command that repeats it.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/log.h"
#include "tests/sim/history_rot.h"
#include "tests/sim/history_run.h"

#define HANG_SECONDS 120
#define MAX_OPEN_TRIES 50

struct settings {
	const char *mode;
	const char *replay;
	uint64_t seed;
	uint64_t crash_points;
	unsigned shard, shards;
	FILE *trace;
};

/* What a signal handler has to say; the only state outside main's. */
static char replay_command[512];

static void on_signal(int number)
{
	static const char text[] = "\nit died or hangs; replay with:\n  ";
	ssize_t r = write(STDERR_FILENO, text, sizeof(text) - 1);
	r = write(STDERR_FILENO, replay_command, strlen(replay_command));
	r = write(STDERR_FILENO, "\n", 1);
	(void)r;
	signal(number == SIGALRM ? SIGABRT : number, SIG_DFL);
	raise(number == SIGALRM ? SIGABRT : number);
}

static void set_replay(const char *program, const char *what)
{
	snprintf(replay_command, sizeof(replay_command), "%s --replay %s --verbose", program, what);
	alarm(HANG_SECONDS);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	struct rng rng;
	rng_seed(&rng, a ^ (b * 0x9e3779b97f4a7c15ull));
	return rng_next(&rng);
}

static int report_failure(const struct run *run)
{
	fprintf(stderr, "FAILED: %s\nreplay with:\n  %s\n", run->failure, replay_command);
	return 1;
}

/* ── random lives ────────────────────────────────────────────────────────────────────────── */

static unsigned any_restart(struct run *run)
{
	return (unsigned)rng_below(&run->rng, RUN_RESTARTS);
}

/* Sets what will go wrong in this generation: mostly a crash, sometimes a fault. */
static void arm(struct run *run)
{
	static const unsigned reach[] = { 3, 10, 30, 100, 300 };
	uint64_t within = reach[rng_below(&run->rng, ARRAY_SIZE(reach))];
	uint64_t after = 1 + rng_below(&run->rng, within);
	io_sim_crash_at(run->sim, 0);
	io_sim_fail(run->sim, 0, 0, 0, false);
	if (rng_below(&run->rng, 6) != 0) {
		io_sim_crash_at(run->sim, io_sim_ops(run->sim) + after);
		return;
	}
	static const unsigned ops[] = { IO_SIM_WRITE, IO_SIM_DATASYNC, IO_SIM_SYNC_DIR,
		IO_SIM_WRITE | IO_SIM_ALLOCATE, 0x1ff };
	static const unsigned room_ops[] = { IO_SIM_WRITE, IO_SIM_ALLOCATE, IO_SIM_CREATE,
		IO_SIM_WRITE | IO_SIM_ALLOCATE | IO_SIM_CREATE | IO_SIM_RENAME };
	if (rng_below(&run->rng, 3) == 0)
		io_sim_fail(run->sim, room_ops[rng_below(&run->rng, ARRAY_SIZE(room_ops))], after,
			-ENOSPC, false);
	else
		io_sim_fail(run->sim, ops[rng_below(&run->rng, ARRAY_SIZE(ops))], after, -EIO,
			rng_below(&run->rng, 2));
}

/* Opens until it is open: openings may die too. */
static void open_whatever_comes(struct run *run)
{
	for (unsigned tries = 0; run_open(run) < 0; tries++) {
		run_restart(run, any_restart(run));
		run->totals->crash_points++;
		io_sim_fail(run->sim, 0, 0, 0, false);
		if (tries < 3 && rng_below(&run->rng, 2))
			arm(run);
		if (tries == MAX_OPEN_TRIES)
			run_fail(run, "it does not open any more");
	}
}

static void random_life(struct run *run)
{
	unsigned generations = 2 + (unsigned)rng_below(&run->rng, 5);
	bool from_vault = rng_below(&run->rng, 8) == 0;
	for (unsigned g = 0; g < generations; g++) {
		arm(run);
		open_whatever_comes(run);
		unsigned steps = 5 + (unsigned)rng_below(&run->rng, 60);
		int r = 0;
		if (run->model.live.disk_count == 0 && run->model.live.last_number == 0 &&
			from_vault)
			r = step_take_over(run);
		while (r == 0 && run->model.live.disk_count < 2)
			r = step_add_disk(
				run, 1 + (uint32_t)rng_below(&run->rng, run->max_sectors));
		for (unsigned i = 0; r == 0 && i < steps; i++)
			r = step_random(run);
		if (r == 0)
			io_sim_power_cut(run->sim);
		run_restart(run, any_restart(run));
		run->totals->crash_points++;
	}
	io_sim_fail(run->sim, 0, 0, 0, false);
	if (run_open(run) < 0 || step_read_all(run) < 0)
		run_fail(run, "it does not open at the end");
}

static int random_run(const struct settings *settings, const char *program, uint64_t seed,
	enum io_sim_lie lie, struct run_totals *totals)
{
	static struct run run;
	char what[64];
	snprintf(what, sizeof(what), "random:%#" PRIx64, seed);
	set_replay(program, what);
	run_begin(&run, seed, lie, totals, settings->trace);
	int r = setjmp(run.failed);
	if (r == 0)
		random_life(&run);
	run_end(&run);
	return r == 0 ? 0 : lie == IO_SIM_HONEST ? report_failure(&run) : 1;
}

static int random_mode(
	const struct settings *settings, const char *program, struct run_totals *totals)
{
	for (uint64_t i = 0; totals->crash_points < settings->crash_points; i++)
		if (random_run(settings, program, mix(settings->seed, i), IO_SIM_HONEST, totals))
			return 1;
	return 0;
}

/* ── every small workload, every crash ───────────────────────────────────────────────────── */

static const char alphabet[] = "AOZCSFTMR";

#define WORKLOAD_STEPS 3
#define WORKLOADS (9 + 9 * 9 + 9 * 9 * 9)

static void workload_name(unsigned index, char ret_name[static WORKLOAD_STEPS + 1])
{
	unsigned length = 1, count = 9;
	while (index >= count) {
		index -= count;
		count *= 9;
		length++;
	}
	for (unsigned i = 0; i < length; i++) {
		ret_name[length - 1 - i] = alphabet[index % 9];
		index /= 9;
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

static int small_run(const struct settings *settings, const char *program, const char *workload,
	uint64_t crash_op, unsigned how, struct run_totals *totals)
{
	static struct run run;
	static bool crashed;
	char what[64];
	snprintf(what, sizeof(what), "exhaustive:%s.%" PRIu64 ".%u", workload, crash_op, how);
	set_replay(program, what);
	run_begin(&run, mix(crash_op, how), IO_SIM_HONEST, totals, settings->trace);
	crashed = false;
	int r = setjmp(run.failed);
	if (r == 0)
		crashed = small_life(&run, workload, crash_op, how);
	run_end(&run);
	if (r != 0)
		return -report_failure(&run);
	return crashed;
}

/* The first workload is that of beginning a history at all. */
static int exhaustive_mode(
	const struct settings *settings, const char *program, struct run_totals *totals)
{
	for (unsigned w = settings->shard; w < WORKLOADS + 1; w += settings->shards) {
		char workload[WORKLOAD_STEPS + 1] = "-";
		if (w > 0)
			workload_name(w - 1, workload);
		int r = 1;
		for (uint64_t op = 1; r == 1; op++)
			for (unsigned how = 0; how < RUN_RESTARTS && r >= 0; how++)
				r = small_run(settings, program, workload, op, how, totals);
		if (r < 0)
			return 1;
	}
	return 0;
}

/* ── rot ─────────────────────────────────────────────────────────────────────────────────── */

static int rot_one(const struct settings *settings, const char *program, uint64_t seed,
	struct run_totals *totals)
{
	static struct run run;
	char what[64];
	snprintf(what, sizeof(what), "rot:%#" PRIx64, seed);
	set_replay(program, what);
	run_begin(&run, seed, IO_SIM_HONEST, totals, settings->trace);
	int r = setjmp(run.failed);
	if (r == 0)
		rot_run(&run);
	run_end(&run);
	return r ? report_failure(&run) : 0;
}

static int rot_mode(const struct settings *settings, const char *program, struct run_totals *totals)
{
	for (uint64_t i = 0; totals->crash_points < settings->crash_points; i++)
		if (rot_one(settings, program, mix(settings->seed, i), totals))
			return 1;
	return 0;
}

/* ── teeth ───────────────────────────────────────────────────────────────────────────────── */

static int teeth_mode(
	const struct settings *settings, const char *program, struct run_totals *totals)
{
	static const char *const names[IO_SIM_LIES] = { "honest", "datasync does nothing",
		"sync_dir does nothing", "a synced sector is lost", "a write is lost",
		"a read is wrong" };
	int missed = 0;
	for (unsigned lie = IO_SIM_HONEST + 1; lie < IO_SIM_LIES; lie++) {
		uint64_t tries = 0;
		while (tries < 2000 &&
			!random_run(settings, program, mix(settings->seed, tries), lie, totals))
			tries++;
		printf("%s: %s after %" PRIu64 " lives\n", names[lie],
			tries < 2000 ? "noticed" : "NOT NOTICED", tries + 1);
		missed += tries == 2000;
	}
	return missed ? 1 : 0;
}

/* ── main ────────────────────────────────────────────────────────────────────────────────── */

static int replay(const struct settings *settings, const char *program, struct run_totals *totals)
{
	const char *argument = strchr(settings->replay, ':');
	if (!argument)
		return 2;
	argument++;
	if (strncmp(settings->replay, "random:", 7) == 0)
		return random_run(
			settings, program, strtoull(argument, NULL, 0), IO_SIM_HONEST, totals);
	if (strncmp(settings->replay, "rot:", 4) == 0)
		return rot_one(settings, program, strtoull(argument, NULL, 0), totals);
	char workload[WORKLOAD_STEPS + 1];
	uint64_t op;
	unsigned how;
	if (sscanf(argument, "%3[^.].%" SCNu64 ".%u", workload, &op, &how) != 3)
		return 2;
	return small_run(settings, program, workload, op, how, totals) < 0;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: history_sim_test [--mode random|exhaustive|rot|teeth] [--seed S]\n"
		"         [--crash-points N] [--shard I/N] [--replay KIND:ARG] [--verbose]\n");
	return 2;
}

static int parse(int argc, char **argv, struct settings *settings)
{
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;
		if (!strcmp(argv[i], "--verbose")) {
			settings->trace = stderr;
			continue;
		}
		if (!value)
			return -EINVAL;
		i++;
		if (!strcmp(argv[i - 1], "--mode"))
			settings->mode = value;
		else if (!strcmp(argv[i - 1], "--seed"))
			settings->seed = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--crash-points"))
			settings->crash_points = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i - 1], "--replay"))
			settings->replay = value;
		else if (strcmp(argv[i - 1], "--shard") != 0 ||
			 sscanf(value, "%u/%u", &settings->shard, &settings->shards) != 2 ||
			 settings->shard >= settings->shards)
			return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	struct settings settings = { .mode = "random", .crash_points = 10000, .shards = 1 };
	settings.seed = mix((uint64_t)time(NULL), (uint64_t)getpid());
	if (parse(argc, argv, &settings) < 0)
		return usage();
	/* Sanitizers make each crash point dearer: `LANDFALL_SIM_DIVISOR=10` asks for fewer. */
	const char *divisor = getenv("LANDFALL_SIM_DIVISOR");
	if (divisor && strtoull(divisor, NULL, 10) > 0)
		settings.crash_points = settings.crash_points / strtoull(divisor, NULL, 10) + 1;
	if (!settings.trace)
		log_set_level((enum log_level)0);
	signal(SIGABRT, on_signal);
	signal(SIGSEGV, on_signal);
	signal(SIGALRM, on_signal);

	struct run_totals totals = { 0 };
	int r;
	printf("mode %s, seed %#" PRIx64 "\n", settings.replay ? settings.replay : settings.mode,
		settings.seed);
	fflush(stdout);
	if (settings.replay)
		r = replay(&settings, argv[0], &totals);
	else if (!strcmp(settings.mode, "random"))
		r = random_mode(&settings, argv[0], &totals);
	else if (!strcmp(settings.mode, "exhaustive"))
		r = exhaustive_mode(&settings, argv[0], &totals);
	else if (!strcmp(settings.mode, "rot"))
		r = rot_mode(&settings, argv[0], &totals);
	else if (!strcmp(settings.mode, "teeth"))
		r = teeth_mode(&settings, argv[0], &totals);
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
