/*
 * What the vault can prove of a disk without reading it: for every page, the hash that the newest
 * point up to a given one recorded.
 *
 * A disk is taken in windows, rising: for each, the hashes are gathered from the newest point
 * backwards. Every hashes object is read once, from start to end, as long as windows and disks
 * rise; going back begins the objects anew. Memory: 9 bytes for each 4 KiB of a window, and a mark
 * for each point. Not thread-safe; any thread.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "replicator/hashes.h"
#include "replicator/vault.h"

#define VAULT_PROOFS_WINDOW_PAGES (1u << 20) /* 4 GiB of disk */

enum page_state {
	PAGE_UNTOLD, /* no point ever wrote it: zeros */
	PAGE_ZERO,
	PAGE_HASHED,
};

struct vault_proofs;
struct drained_proof;

/* The proofs of point `number` (0: of nothing, every page is untold). Lists the points, reads no
 * hashes yet. Borrows store and group. -ENOENT: the point is not in the vault. */
int vault_proofs_open(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error, struct vault_proofs **ret_proofs);
/* And over that what was drained for the point `drained_number` to come. Copies the list. */
int vault_proofs_add_drained(struct vault_proofs *proofs, uint64_t drained_number,
	const struct drained_proof *drained, struct error *error);
void vault_proofs_free(struct vault_proofs *proofs);

/* Fills in `states` and, where PAGE_HASHED, `hashes` of the pages [first_page, end_page) of a disk,
 * at most VAULT_PROOFS_WINDOW_PAGES. -EBADMSG: an object is damaged, missing or another's. */
int vault_proofs_window(struct vault_proofs *proofs, uint16_t disk, uint32_t first_page,
	uint32_t end_page, struct error *error, uint8_t *states, uint64_t *hashes);
