/*
 * Inside of the calls of this folder: the client itself. Not for others.
 */
#pragma once

#include "ec2/ec2.h"

struct ec2 {
	const struct ec2_settings *settings;
	struct ec2_credential *credential;
	struct ec2_limiter *limiter;
	int64_t (*pace)(void *context, uint64_t bytes);
	void *pace_context;
	struct http_calls *calls;
	char *endpoints[EC2_SERVICES];
	struct ec2_sigv4_keys keys;
	uint64_t attempts[EC2_LIMITS];
};
