/*
 * All snapshots of a blob with the tags that the flusher puts on them: for the collection of
 * orphans, the check, and for finding our own again after an ambiguous answer.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/uuid.h"
#include "replicator/blob.h"

struct vault_snapshot {
	char id[BLOB_SNAPSHOT_ID_BYTES];
	uint64_t point, sequence;
	bool tagged; /* by this group */
	bool used;   /* for the caller */
};

struct vault_snapshots {
	struct vault_snapshot *items; /* by rising id; owned */
	unsigned count;
};

void vault_snapshots_free(struct vault_snapshots *snapshots);
/* -ENOENT: no such blob. */
int vault_snapshots_list(struct blob_store *store, const char *blob, const struct uuid *group,
	struct error *error, struct vault_snapshots *ret_snapshots);
/* NULL if there is none. */
struct vault_snapshot *vault_snapshots_find(
	const struct vault_snapshots *snapshots, const char *id);
