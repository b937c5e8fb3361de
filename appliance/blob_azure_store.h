/*
 * A blob store (replicator/blob.h) over a client of azureblob/; blob_azure.c makes them.
 */
#pragma once

#include "azureblob/azureblob.h"
#include "replicator/blob.h"

/* What the options borrow must outlive the store. -ENOMEM; -EINVAL: no container's name. */
int blob_azure_store_new(const struct azureblob_options *options, struct error *error,
	struct blob_store **ret_store);
/* The store's own. */
struct azureblob *blob_azure_store_client(struct blob_store *store);
/* The answer of a call on a client: `r`, or the failure in words and in blob.h's codes. */
int blob_azure_tell(int r, const struct http_error *from, const char *what, struct blob_error *to);
