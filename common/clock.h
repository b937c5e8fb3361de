/*
 * Time as a seam, so that a simulation can own it.
 *
 * Times of day are nanoseconds since 1970-01-01 UTC; monotonic times are nanoseconds since an
 * arbitrary start and are the only ones to measure or wait with.
 */
#pragma once

#include <stdint.h>

#define NS_PER_US 1000ll
#define NS_PER_MS 1000000ll
#define NS_PER_S 1000000000ll

struct clock_source;

struct clock_ops {
	int64_t (*realtime_ns)(struct clock_source *clock);
	int64_t (*monotonic_ns)(struct clock_source *clock);
	/* Returns after at least `ns` of monotonic time; a simulated clock just advances. */
	void (*sleep_ns)(struct clock_source *clock, int64_t ns);
};

struct clock_source {
	const struct clock_ops *ops;
};

/* The machine's clock; any thread; never freed. */
struct clock_source *clock_system(void);

static inline int64_t clock_realtime_ns(struct clock_source *clock)
{
	return clock->ops->realtime_ns(clock);
}

static inline int64_t clock_monotonic_ns(struct clock_source *clock)
{
	return clock->ops->monotonic_ns(clock);
}

static inline void clock_sleep_ns(struct clock_source *clock, int64_t ns)
{
	clock->ops->sleep_ns(clock, ns);
}
