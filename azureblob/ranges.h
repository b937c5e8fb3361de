/*
 * Which pages of a blob are written, and what changed since a snapshot (Get Page Ranges).
 */
#pragma once

#include "azureblob/azureblob.h"

struct azureblob_range {
	uint64_t offset;
	uint64_t length;
	bool cleared; /* only with `previous`: was written there, is zero now */
};

struct azureblob_ranges_options {
	const char *snapshot; /* NULL: the base */
	const char *previous; /* a snapshot not newer; NULL: all that is written */
	uint64_t offset;      /* the window: multiples of 512; length 0: to the end */
	uint64_t length;
	unsigned page; /* ranges a request; 0: 10000, the service's most */
};

/* Tells all ranges in the window, rising, not overlapping, cut at its ends. The window is walked
 * in pieces as large as the service answers in time; a non-zero answer of `each` ends it and is
 * returned. `each` may use the client. -ESTALE if the base was overwritten since `previous`:
 * there is no difference to be had then. Blocks. */
int azureblob_list_ranges(struct azureblob *client, const char *blob,
	const struct azureblob_ranges_options *options,
	int (*each)(void *context, const struct azureblob_range *range), void *context,
	struct http_error *error);
