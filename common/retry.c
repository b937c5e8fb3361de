/*
 * Full jitter spreads a crowd that was refused at one moment evenly over the next interval
 * (Brooker, "Exponential Backoff And Jitter", 2015). A Retry-After is a floor; some jitter of
 * one's own comes on top, so that not everybody is back at the same instant.
 */
#include "common/retry.h"

#include <string.h>

#include "common/bytes.h"
#include "common/utc.h"

#define DAY_NS (86400 * NS_PER_S)

void retry_start(struct retry *retry, const struct retry_policy *policy, struct clock_source *clock,
	struct rng *rng)
{
	*retry = (struct retry){
		.policy = policy,
		.clock = clock,
		.rng = rng,
		.started_ns = clock_monotonic_ns(clock),
	};
}

bool retry_next(struct retry *retry, int64_t retry_after_ns, int64_t *ret_wait_ns)
{
	const struct retry_policy *policy = retry->policy;
	retry->failures++;
	if (policy->attempts > 0 && retry->failures >= policy->attempts)
		return false;
	int64_t ceiling_ns = MAX(policy->first_ns, (int64_t)0);
	for (unsigned i = 1; i < retry->failures && ceiling_ns < policy->longest_ns; i++)
		ceiling_ns *= 2;
	ceiling_ns = MIN(ceiling_ns, MAX(policy->longest_ns, (int64_t)0));
	int64_t wait_ns = (int64_t)rng_below(retry->rng, (uint64_t)ceiling_ns + 1);
	if (retry_after_ns > 0)
		wait_ns += retry_after_ns;
	int64_t spent_ns = clock_monotonic_ns(retry->clock) - retry->started_ns;
	if (policy->total_ns > 0 && spent_ns + wait_ns > policy->total_ns)
		return false;
	*ret_wait_ns = wait_ns;
	return true;
}

int64_t retry_after_parse(const char *text, int64_t now_ns)
{
	if (!text)
		return RETRY_AFTER_NONE;
	text += strspn(text, " \t");
	size_t digits = strspn(text, "0123456789");
	if (digits > 0 && text[digits + strspn(text + digits, " \t")] == '\0') {
		int64_t seconds = 0;
		for (size_t i = 0; i < digits && seconds < 86400; i++)
			seconds = seconds * 10 + (text[i] - '0');
		return MIN(seconds, (int64_t)86400) * NS_PER_S;
	}
	int64_t at_ns;
	if (utc_parse(text, &at_ns) < 0)
		return RETRY_AFTER_NONE;
	return MAX(MIN(at_ns - now_ns, DAY_NS), (int64_t)0);
}
