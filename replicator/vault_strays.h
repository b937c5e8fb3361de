/*
 * What lies in the vault and is explained by nothing that should be there: points without their
 * manifests, groups without their owner.json, disks without a group. Each is the trace of something
 * that was deleted from outside (a lifecycle rule, a mistaken hand); Landfall deletes in another
 * order: a disk's blob and a group's objects before owner.json, a manifest only with the history's
 * consent and one at a time.
 */
#pragma once

#include "replicator/vault_internal.h"
#include "replicator/vault_snapshots.h"

/* ── manifests ───────────────────────────────────────────────────────────────────────────── */

/* Points above the newest committed one that have snapshots or hashes and neither manifest nor
 * tombstone, by rising number. The newest may be a flush that was begun. More of them are no such
 * thing: a flush that is given up leaves a tombstone. Their manifests are lost. */
struct vault_lost {
	uint64_t *numbers; /* owned */
	unsigned count;
};

void vault_lost_free(struct vault_lost *lost);
static inline bool vault_lost_is_certain(const struct vault_lost *lost)
{
	return lost->count > 1;
}
/* From listings, the snapshots' of each disk; `points` are of the same time or later, or what is
 * found may be on its way. 0 or -ENOMEM. */
int vault_lost_collect(const struct vault_snapshots *snapshots, unsigned disk_count,
	const struct vault_points *points, struct vault_lost *ret_lost);
/* The same of what is there now. Errors as in blob.h. */
int vault_lost_find(struct blob_store *store, const struct vault_group *group, struct error *error,
	struct vault_lost *ret_lost);

/* ── groups and disks ────────────────────────────────────────────────────────────────────── */

struct vault_strays {
	struct vault_stray {
		char name[VAULT_NAME_BYTES]; /* a disk's blob, or a group's name */
		unsigned objects;            /* of the group, owner.json not counted */
		bool explained;
	} * disks, *groups; /* owned */
	unsigned disk_count, group_count;
};

void vault_strays_free(struct vault_strays *strays);
/* Lists disks, then groups. Whoever reads owner.json afterwards finds every disk that was listed
 * named there, or gone with its group. */
int vault_strays_list(
	struct blob_store *store, struct error *error, struct vault_strays *ret_strays);
/* The group's owner.json was read: it is there, and explains its disks. */
void vault_strays_explain(struct vault_strays *strays, const struct vault_group *group);
/* Looks at those that nothing explained once more, and tells of each that is still there. */
int vault_strays_tell(struct vault_strays *strays, struct blob_store *store,
	void (*told)(void *context, const char *text), void *context, struct error *error);
