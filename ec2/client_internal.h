/*
 * Inside of client.c and call.c: the client itself. Not for others.
 */
#pragma once

#include "common/rng.h"
#include "ec2/ec2.h"

struct request_list {
	struct ec2_request *first;
	struct ec2_request *last;
};

struct ec2 {
	const struct ec2_settings *settings;
	struct ec2_credential *credential;
	struct ec2_limiter *limiter;
	struct http *http;
	char *endpoints[EC2_SERVICES];
	struct retry_policy policy;
	struct clock_source *clock;
	struct rng rng;
	struct ec2_sigv4_keys keys;
	struct request_list waiting;
	struct request_list sent;
	struct request_list done;
	size_t pending;
	bool woken;
	struct ec2_stats stats;
};
