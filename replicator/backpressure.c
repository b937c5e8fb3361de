/*
 * The table of backpressure.h as arithmetic. Pure; any thread.
 *
 * While nothing flows to the vault the flush rate is 0 and the room that is left is spread over
 * SPREAD_S: the fuller, the slower, so that a long outage slows a writer down long before it
 * stops it.
 */
#include "replicator/backpressure.h"

#include "common/bytes.h"

#define SPREAD_S 300.0
#define LEAST_BYTES_PER_S ((double)(64 * KIB))

#define TRIM_FILL 0.60
#define DELAY_FILL 0.80
#define THIN_FILL 0.92
#define FULL_FILL 0.97

static double between(double fill, double from, double to, double first, double last)
{
	return first + (last - first) * (fill - from) / (to - from);
}

static uint64_t allowed_rate(const struct backpressure_facts *facts, double fill)
{
	double factor = fill < THIN_FILL ? between(fill, DELAY_FILL, THIN_FILL, 4.0, 1.0)
					 : between(fill, THIN_FILL, FULL_FILL, 1.0, 0.25);
	double left = (FULL_FILL - fill) * (double)facts->limit_bytes;
	double rate = MAX(factor * (double)facts->flush_bytes_per_s, left / SPREAD_S);
	return (uint64_t)MAX(rate, LEAST_BYTES_PER_S);
}

void backpressure_decide(const struct backpressure_facts *facts, struct backpressure_plan *ret_plan)
{
	struct backpressure_plan plan = { .level = BACKPRESSURE_NONE, .fill = 1.0 };
	if (facts->limit_bytes > 0)
		plan.fill = (double)facts->used_bytes / (double)facts->limit_bytes;
	if (plan.fill >= TRIM_FILL) {
		plan.level = BACKPRESSURE_TRIM;
		plan.trim_target_bytes = (uint64_t)(TRIM_FILL * (double)facts->limit_bytes);
	}
	if (plan.fill >= FULL_FILL) {
		plan.level = BACKPRESSURE_FULL;
		plan.write_bytes_per_s = (uint64_t)LEAST_BYTES_PER_S;
	} else if (plan.fill >= DELAY_FILL) {
		plan.level = plan.fill >= THIN_FILL ? BACKPRESSURE_THIN : BACKPRESSURE_DELAY;
		plan.write_bytes_per_s = allowed_rate(facts, plan.fill);
	}
	*ret_plan = plan;
}

void backpressure_share(
	uint64_t total_bytes, const uint64_t *need_bytes, unsigned count, uint64_t *ret_limit_bytes)
{
	if (count == 0)
		return;
	uint64_t floor = total_bytes / (2ull * count);
	uint64_t shared = total_bytes - floor * count;
	double wanted = 0; /* above the floors */
	for (unsigned i = 0; i < count; i++)
		wanted += need_bytes[i] > floor ? (double)(need_bytes[i] - floor) : 0;
	double scale = wanted > (double)shared ? (double)shared / wanted : 1.0;
	double left = (double)shared - wanted * scale;
	for (unsigned i = 0; i < count; i++) {
		double above = need_bytes[i] > floor ? (double)(need_bytes[i] - floor) : 0;
		ret_limit_bytes[i] = floor + (uint64_t)(above * scale) + (uint64_t)(left / count);
	}
	/* Rounding in doubles may be a few bytes off; the total is a promise. */
	uint64_t sum = 0;
	for (unsigned i = 0; i < count; i++)
		sum += ret_limit_bytes[i];
	for (unsigned i = 0; i < count && sum > total_bytes; i++) {
		uint64_t take = MIN(sum - total_bytes, ret_limit_bytes[i]);
		ret_limit_bytes[i] -= take;
		sum -= take;
	}
}
