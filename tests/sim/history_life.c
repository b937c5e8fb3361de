/*
 * Random lives.
 */
#include "tests/sim/history_life.h"

#include <errno.h>

#include "common/bytes.h"

#define MAX_OPEN_TRIES 50

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

void life_random(struct run *run, bool from_vault)
{
	unsigned generations = 2 + (unsigned)rng_below(&run->rng, 5);
	from_vault &= rng_below(&run->rng, 8) == 0;
	for (unsigned g = 0; g < generations; g++) {
		arm(run);
		open_whatever_comes(run);
		unsigned steps = 5 + (unsigned)rng_below(&run->rng, 60);
		int r = 0;
		if (from_vault && run->model.live.disk_count == 0 &&
			run->model.live.last_number > 0) {
			/* Half a take-over: it would be done again in a new directory. */
			io_sim_power_cut(run->sim);
			run_restart(run, any_restart(run));
			break;
		}
		if (run->model.live.disk_count == 0 && run->model.live.last_number == 0 &&
			from_vault)
			r = step_take_over(run);
		if (r < 0 && run->drains && run->model.live.disk_count + run->model.op_count > 0) {
			/* Nor would a half one be drained to. */
			io_sim_power_cut(run->sim);
			run_restart(run, any_restart(run));
			return;
		}
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
