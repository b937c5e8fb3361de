/*
 * The machine's clock behind the seam.
 */
#include "common/clock.h"

#include <errno.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
	struct timespec ts;
	/* Cannot fail: both clocks exist on every Linux. */
	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static int64_t system_realtime_ns(struct clock_source *clock)
{
	(void)clock;
	return read_clock(CLOCK_REALTIME);
}

static int64_t system_monotonic_ns(struct clock_source *clock)
{
	(void)clock;
	return read_clock(CLOCK_MONOTONIC);
}

static void system_sleep_ns(struct clock_source *clock, int64_t ns)
{
	(void)clock;
	if (ns <= 0)
		return;
	struct timespec left = { .tv_sec = ns / NS_PER_S, .tv_nsec = (long)(ns % NS_PER_S) };
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
		;
}

struct clock_source *clock_system(void)
{
	static const struct clock_ops ops = {
		.realtime_ns = system_realtime_ns,
		.monotonic_ns = system_monotonic_ns,
		.sleep_ns = system_sleep_ns,
	};
	static struct clock_source clock = { &ops };
	return &clock;
}
