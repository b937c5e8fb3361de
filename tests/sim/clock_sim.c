/*
 * The simulated clock. One thread.
 */
#include "tests/sim/clock_sim.h"

#include "common/bytes.h"

#define START_NS (1795305600ll * NS_PER_S) /* 2026-11-22T00:00:00Z */

static int64_t sim_realtime(struct clock_source *source)
{
	return CONTAINER_OF(source, struct clock_sim, source)->realtime_ns;
}

static int64_t sim_monotonic(struct clock_source *source)
{
	return CONTAINER_OF(source, struct clock_sim, source)->monotonic_ns;
}

static void sim_sleep(struct clock_source *source, int64_t ns)
{
	clock_sim_advance(CONTAINER_OF(source, struct clock_sim, source), ns);
}

static const struct clock_ops sim_ops = {
	.realtime_ns = sim_realtime,
	.monotonic_ns = sim_monotonic,
	.sleep_ns = sim_sleep,
};

void clock_sim_init(struct clock_sim *clock)
{
	clock->source.ops = &sim_ops;
	clock->realtime_ns = START_NS;
	clock->monotonic_ns = NS_PER_S;
}

void clock_sim_advance(struct clock_sim *clock, int64_t ns)
{
	if (ns > 0) {
		clock->realtime_ns += ns;
		clock->monotonic_ns += ns;
	}
}
