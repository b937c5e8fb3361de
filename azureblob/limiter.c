/*
 * Two buckets under one lock; nothing happens under it but arithmetic.
 */
#include "azureblob/limiter.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/token_bucket.h"

struct azureblob_limiter {
	pthread_mutex_t lock;
	struct token_bucket requests;
	struct token_bucket bytes;
};

int azureblob_limiter_new(struct clock_source *clock, uint64_t requests_per_second,
	uint64_t bytes_per_second, struct azureblob_limiter **ret_limiter)
{
	struct azureblob_limiter *limiter = calloc(1, sizeof(*limiter));
	if (!limiter)
		return -ENOMEM;
	pthread_mutex_init(&limiter->lock, NULL);
	token_bucket_init(&limiter->requests, clock, requests_per_second,
		MAX(requests_per_second / 10, (uint64_t)1));
	token_bucket_init(
		&limiter->bytes, clock, bytes_per_second, MAX(bytes_per_second / 10, 4 * MIB));
	*ret_limiter = limiter;
	return 0;
}

void azureblob_limiter_free(struct azureblob_limiter *limiter)
{
	if (!limiter)
		return;
	pthread_mutex_destroy(&limiter->lock);
	free(limiter);
}

int64_t azureblob_limiter_reserve(struct azureblob_limiter *limiter, uint64_t bytes)
{
	SCOPED_LOCK(&limiter->lock);
	int64_t requests_ns = token_bucket_reserve(&limiter->requests, 1);
	int64_t bytes_ns = token_bucket_reserve(&limiter->bytes, bytes);
	return MAX(requests_ns, bytes_ns);
}
