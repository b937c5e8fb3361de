/*
 * When to try again: exponential back-off with full jitter (each wait is uniform between nothing
 * and a ceiling that doubles), a server's Retry-After honoured, an end by attempts and by time.
 *
 * It only computes; the caller does the attempts and the waiting. Clock and randomness are given,
 * so a simulation owns both.
 *
 *	struct retry retry;
 *	retry_start(&retry, &policy, clock, rng);
 *	while ((r = attempt(&retry_after_ns)) < 0 && retry_next(&retry, retry_after_ns, &wait_ns))
 *		clock_sleep_ns(clock, wait_ns);
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/rng.h"

/* Retry-After was not given. */
#define RETRY_AFTER_NONE (-1)

struct retry_policy {
	unsigned attempts;  /* in all, the first included; 0: no limit */
	int64_t first_ns;   /* ceiling of the first wait; doubles each time */
	int64_t longest_ns; /* ceiling of any wait of one's own making; Retry-After may exceed it */
	int64_t total_ns;   /* no attempt begins later than this after the start; 0: no limit */
};

struct retry {
	const struct retry_policy *policy; /* borrowed */
	struct clock_source *clock;        /* borrowed */
	struct rng *rng;                   /* borrowed */
	int64_t started_ns;                /* monotonic */
	unsigned failures;
};

/* Begins the first attempt. Not thread-safe; `rng` is the caller's thread's own. */
void retry_start(struct retry *retry, const struct retry_policy *policy, struct clock_source *clock,
	struct rng *rng);

/* An attempt failed. True: wait `*ret_wait_ns` (≥ 0), then try again; the wait is at least
 * `retry_after_ns`. False: give up; the wait is untouched. */
bool retry_next(struct retry *retry, int64_t retry_after_ns, int64_t *ret_wait_ns);

/* Reads a Retry-After header (RFC 9110, 10.2.3): whole seconds or a date, which is compared with
 * `now_ns` of the clock on the wall. Waits over a day are cut to a day, dates in the past are 0;
 * RETRY_AFTER_NONE for NULL and for what cannot be read. */
int64_t retry_after_parse(const char *text, int64_t now_ns);
