/*
 * Small objects, as block blobs: written whole or not at all, with compare-and-swap by ETag. All
 * calls block and fill `error` (may be NULL); codes as in error.h.
 *
 * A conditional put whose end is unknown is handed back as ambiguous: read it back and compare.
 */
#pragma once

#include "azureblob/azureblob.h"

/* Larger objects go in blocks. */
#define AZUREBLOB_OBJECT_PUT_MAX_BYTES (64u << 20)
#define AZUREBLOB_BLOCK_MAX_BYTES (64u << 20)
#define AZUREBLOB_BLOCKS_MAX 50000u

/* Put Blob. With if_none_match "*": -EEXIST if there is one. Texts may be NULL;
 * `ret_etag` too. */
int azureblob_object_put(struct azureblob *client, const char *name, const void *data, size_t n,
	const struct http_headers *metadata, const struct azureblob_conditions *conditions,
	struct http_error *error, char ret_etag[AZUREBLOB_ETAG_BYTES]);

/* Put Block: a part that is not seen yet; `index` below AZUREBLOB_BLOCKS_MAX. Blocks are known by
 * series and index: with a series of its own, no late block of another writing can get in. */
int azureblob_object_put_block(struct azureblob *client, const char *name, uint64_t series,
	unsigned index, const void *data, size_t n, struct http_error *error);
/* Put Block List: makes the blocks 0 to count − 1 of the series the object. */
int azureblob_object_commit(struct azureblob *client, const char *name, uint64_t series,
	unsigned count, const struct http_headers *metadata,
	const struct azureblob_conditions *conditions, struct http_error *error,
	char ret_etag[AZUREBLOB_ETAG_BYTES]);

/* Appends the whole object to `ret_data`; -EMSGSIZE if it is larger than `limit` bytes (at
 * least 1). `ret_etag` may be NULL. */
int azureblob_object_get(struct azureblob *client, const char *name, size_t limit,
	struct http_error *error, struct buf *ret_data, char ret_etag[AZUREBLOB_ETAG_BYTES]);

/* Reads as many of `n` bytes at `offset` as there are; `*ret_n` is 0 behind the end. `ret_etag`
 * may be NULL; it is empty behind the end. */
int azureblob_object_read(struct azureblob *client, const char *name, uint64_t offset, void *data,
	size_t n, struct http_error *error, size_t *ret_n, char ret_etag[AZUREBLOB_ETAG_BYTES]);
