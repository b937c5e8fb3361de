/*
 * Retention: which vault points may go. Pure; any thread.
 *
 * A point stays if it is the newest, is marked to be kept, is young enough for the first stage,
 * or is the last of its hour (of its day) and young enough for that stage. Hours and days are
 * UTC's, so the choice does not move with the time of the call: the last of a day is also the
 * last of its hour and has survived until the daily stage asks for it. A point whose content is
 * known to be bad stands for its hour only if the hour has no better one. Where the source's
 * clock jumped backwards an hour may appear twice: then more is kept, never less.
 */
#include "replicator/policy.h"

#include "common/bytes.h"
#include "common/clock.h"

#define HOUR_NS (3600 * NS_PER_S)
#define DAY_NS (24 * HOUR_NS)

static int64_t point_time_ns(const struct point *point, int64_t now_ns)
{
	return MAX(MIN(point->time_ns, now_ns), (int64_t)0);
}

/* Of each run of points within one `bucket_ns`, unmarks the last good one (or the last) if it is
 * not older than `age_ns`. */
static void keep_last_of_each(const struct point *points, unsigned count, int64_t now_ns,
	int64_t bucket_ns, int64_t age_ns, bool *drop)
{
	unsigned end = count;
	while (end > 0) {
		int64_t bucket = point_time_ns(&points[end - 1], now_ns) / bucket_ns;
		unsigned start = end - 1;
		while (start > 0 && point_time_ns(&points[start - 1], now_ns) / bucket_ns == bucket)
			start--;
		unsigned chosen = end - 1;
		for (unsigned i = end; i-- > start;) {
			if (!(points[i].flags & (POINT_FAILED | POINT_DAMAGED))) {
				chosen = i;
				break;
			}
		}
		if (now_ns - point_time_ns(&points[chosen], now_ns) <= age_ns)
			drop[chosen] = false;
		end = start;
	}
}

void policy_thin(const struct policy *policy, const struct point *points, unsigned count,
	int64_t now_ns, bool *ret_drop)
{
	for (unsigned i = 0; i < count; i++) {
		int64_t age_ns = now_ns - point_time_ns(&points[i], now_ns);
		ret_drop[i] = i != count - 1 && !(points[i].flags & POINT_KEEP) &&
			      (policy->keep_all_s == 0 || age_ns > policy->keep_all_s * NS_PER_S);
	}
	if (policy->keep_hourly_s > 0)
		keep_last_of_each(
			points, count, now_ns, HOUR_NS, policy->keep_hourly_s * NS_PER_S, ret_drop);
	if (policy->keep_daily_s > 0)
		keep_last_of_each(
			points, count, now_ns, DAY_NS, policy->keep_daily_s * NS_PER_S, ret_drop);
}
