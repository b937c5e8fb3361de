/*
 * Hashes of a disk's current content, told without reading the disk back: from the vault's proofs
 * where the journal changed nothing since the newest vault point, from the journal where it did.
 *
 * This is the appliance's half of every comparison with a source: initial synchronisation, resync
 * and verification ask for chunks, rising, and for the pages of those that differ. A chunk's hash
 * is the XXH3-128 of its pages' XXH3-64 (little-endian, in order), so that both halves come to it
 * from page hashes they have anyway. What lies behind the disk's end counts as zeros.
 *
 * Content that cannot be proven (rot in the journal) has the hash 0, which no content is expected
 * to have: it compares as different, and what is sent for it mends it.
 *
 * Memory: 2.25 MiB. One thread at a time, any; writes may go on beside it: a page that changes
 * meanwhile has its hash from before or after.
 */
#pragma once

#include <stdint.h>

#include "common/checksum.h"
#include "common/error.h"
#include "fs/history.h"
#include "replicator/blob.h"
#include "replicator/vault.h"

#define HEAD_CHUNK_PAGES 256u /* 1 MiB */

struct head_hashes;

/* Borrows history and service; copies what it needs of `group`. Both may be NULL as long as the
 * history has no vault point. -ENOENT: no such disk. */
int head_hashes_new(struct history *history, struct blob_service *service,
	const struct vault_group *group, uint16_t disk, struct error *error,
	struct head_hashes **ret_hashes);
void head_hashes_free(struct head_hashes *hashes);

/* Chunks [first, first + count) of the disk; rising calls are cheap, going back reads the vault's
 * proofs anew. -EINVAL: beyond the disk; -ENOTCONN: the vault is needed and there is none; errors
 * of the vault. */
int head_hashes_chunks(struct head_hashes *hashes, uint64_t first, uint32_t count,
	struct error *error, struct hash128 *ret_chunks);
/* The pages of one chunk; those behind the disk's end are zeros. */
int head_hashes_pages(struct head_hashes *hashes, uint64_t chunk, struct error *error,
	uint64_t ret_pages[static HEAD_CHUNK_PAGES]);
