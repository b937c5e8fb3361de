/*
 * A clock that stands still unless it is told to go on: time for simulations.
 */
#pragma once

#include <stdint.h>

#include "common/clock.h"

struct clock_sim {
	struct clock_source source; /* hand out &source */
	int64_t realtime_ns;
	int64_t monotonic_ns;
};

/* Starts at a fixed day of 2026, so that equal seeds give equal times. */
void clock_sim_init(struct clock_sim *clock);
/* Lets both times go on by `ns`, as sleeping does. */
void clock_sim_advance(struct clock_sim *clock, int64_t ns);
