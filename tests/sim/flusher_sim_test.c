/*
 * The whole stack under crashes: history, flusher and vault over a simulated disk and a simulated
 * blob service that loses, doubles and delays.
 *
 *	flusher_sim_test [--seed S] [--crash-points N] [--replay random:SEED] [--drains] [--verbose]
 *
 * A life is one of history_life.h, with crashes at any operation of the disk or the service. At
 * its end, and now and then within, every manifest and snapshot is checked and every byte of
 * every vault point proven; then the appliance's disk is lost, a second appliance takes over, the
 * first one's late requests land, and every vault point must be exact there too.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "tests/sim/flusher_vault.h"
#include "tests/sim/history_life.h"
#include "tests/sim/sim_replay.h"

static void whole_life(struct run *run)
{
	static const unsigned percents[] = { 0, 2, 10, 30 };
	unsigned faults = percents[rng_below(&run->rng, ARRAY_SIZE(percents))];
	unsigned overload = percents[rng_below(&run->rng, 3)];
	flusher_vault_begin(run, faults, overload);
	life_random(run, false);
	flusher_vault_check(run);
	flusher_vault_take_over(run);
	flusher_vault_check(run);
}

static int random_run(const struct sim_settings *settings, uint64_t seed, struct run_totals *totals)
{
	static struct run run;
	sim_replay_set(
		settings, "random:%#" PRIx64 "%s", seed, settings->drains ? " --drains" : "");
	run_begin(&run, seed, IO_SIM_HONEST, totals, settings->trace);
	run.drains = settings->drains;
	int r = setjmp(run.failed);
	if (r == 0)
		whole_life(&run);
	io_sim_power_cut(run.sim);
	run_close(&run);
	flusher_vault_end(&run);
	run_end(&run);
	return r ? sim_replay_report(run.failure) : 0;
}

int main(int argc, char **argv)
{
	struct sim_settings settings;
	struct run_totals totals = { 0 };
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (sim_settings_parse(argc, argv, "random", 2000, &settings) < 0) {
		fprintf(stderr, "usage: flusher_sim_test [--seed S] [--crash-points N]\n"
				"         [--replay random:SEED] [--drains] [--verbose]\n");
		return 2;
	}
	printf("seed %#" PRIx64 "\n", settings.seed);
	fflush(stdout);
	int r = 0;
	if (settings.replay && strncmp(settings.replay, "random:", 7) == 0)
		r = random_run(&settings, strtoull(settings.replay + 7, NULL, 0), &totals);
	else
		for (uint64_t i = 0; r == 0 && totals.crash_points < settings.crash_points; i++)
			r = random_run(&settings, sim_mix(settings.seed, i), &totals);
	clock_gettime(CLOCK_MONOTONIC, &end);
	double seconds =
		(double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
	printf("%s: %" PRIu64 " lives, %" PRIu64 " crash points, %" PRIu64 " points verified; "
	       "%.1f s\n",
		r == 0 ? "passed" : "FAILED", totals.runs, totals.crash_points,
		totals.points_verified, seconds);
	return r;
}
