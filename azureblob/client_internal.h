/*
 * Inside of client.c and call.c: the client itself. Not for others.
 */
#pragma once

#include "azureblob/azureblob.h"
#include "common/rng.h"

struct request_list {
	struct azureblob_request *first;
	struct azureblob_request *last;
};

struct azureblob {
	struct azureblob_credential *credential;
	struct http *http;
	char *endpoint;
	char *container;
	char *name;
	struct retry_policy policy;
	enum azureblob_checksum checksum;
	struct clock_source *clock;
	struct rng rng;
	struct request_list waiting;
	struct request_list sent;
	struct request_list done;
	size_t pending;
	bool woken;
	struct azureblob_stats stats;
};
