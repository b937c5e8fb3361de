/*
 * The account's request rates, kept ahead of AWS's throttling: one limiter for all clients that
 * ask with one account in one region. "Quotas for EBS direct APIs" and "Request throttling for the
 * Amazon EC2 API" name the rates; they can be raised, so they are settings.
 *
 * Others may be using up the same account. So a throttling answer lowers the rate in force to seven
 * tenths, at most once a second, and each second without one raises it by a twentieth of the
 * full rate.
 */
#pragma once

#include <stdint.h>

#include "common/clock.h"

struct ec2_limiter;

enum ec2_limit {
	EC2_LIMIT_BLOCKS, /* GetSnapshotBlock: 1000/s */
	EC2_LIMIT_LISTS,  /* ListSnapshotBlocks, ListChangedBlocks: 50/s */
	EC2_LIMIT_CALLS,  /* all of EC2's */
};
#define EC2_LIMITS 3
#define EC2_BLOCKS_PER_SECOND 1000u
#define EC2_LISTS_PER_SECOND 50u
#define EC2_CALLS_PER_SECOND 20u

/* Rates of 0 mean no limit. A tenth of a second's worth, at least one, may go in one burst. 0 or
 * -ENOMEM. `clock` is borrowed. */
int ec2_limiter_new(struct clock_source *clock, const uint64_t per_second[static EC2_LIMITS],
	struct ec2_limiter **ret_limiter);
/* NULL is fine. */
void ec2_limiter_free(struct ec2_limiter *limiter);

/* Counts one request as made and returns how many nanoseconds it has to wait. Any thread. */
int64_t ec2_limiter_reserve(struct ec2_limiter *limiter, enum ec2_limit limit);
/* The service said that there was too much of it. Any thread. */
void ec2_limiter_throttled(struct ec2_limiter *limiter, enum ec2_limit limit);
/* The rate in force; 0: no limit. Any thread. */
uint64_t ec2_limiter_rate(struct ec2_limiter *limiter, enum ec2_limit limit);
