/*
 * Claiming a group at the start of the appliance that owns it.
 *
 *	owner.json: lease L₁, previous L₀        blobs under L₀ or L₁ (a claim was cut short)
 *	1. every blob to L₁
 *	2. swap owner.json: lease L₂, previous L₁
 *	3. every blob to L₂
 *
 * So at any time every blob is leased under one of the two ids that owner.json names, and an
 * older process of ours, which knows only older ids, is refused by the service.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/utc.h"
#include "replicator/backoff.h"

#define CLAIM_TRIES 8u

int vault_group_leases(struct blob_store *store, const struct vault_group *group,
	struct error *error, bool *ret_lost)
{
	for (unsigned i = 0; i < group->disk_count; i++) {
		struct blob_properties properties;
		struct blob_error e = { 0 };
		struct backoff backoff;
		char blob[VAULT_NAME_BYTES];
		int r;
		vault_blob_name(group->disks[i].name, blob);
		backoff_start(&backoff, store, NULL);
		do
			r = store->ops->properties(store, blob, &e, &properties);
		while (r < 0 && r != -ENOENT && backoff_again(&backoff, r, &e));
		if (r < 0 && r != -ENOENT)
			return vault_fail(error, r, &e, "cannot look at %s", blob);
		if (r == 0 && !properties.leased)
			*ret_lost = true;
	}
	return 0;
}

/* What a claim is for. */
enum purpose { TO_USE, TO_DELETE };

static int move_leases(struct blob_store *store, const struct vault_group *group,
	enum purpose purpose, bool make_missing, struct error *error)
{
	for (unsigned i = 0; i < group->disk_count; i++) {
		/* Removed ones too: points that show them may still have to be flushed. */
		const struct vault_disk *disk = &group->disks[i];
		int r = vault_disk_lease(store, group, disk, group->previous_lease_id, error);
		if (r == -ENOENT)
			r = make_missing && !disk->removed && !group->deleting
				    ? vault_disk_ensure(store, group, disk, error)
				    : 0;
		if (r == -EEXIST && purpose == TO_DELETE)
			r = 0; /* another group's: vault_disk_delete leaves it alone */
		if (r < 0)
			return r;
	}
	return 0;
}

static int claim_once(struct blob_store *store, const char *name, const struct uuid *appliance,
	struct clock_source *clock, enum purpose purpose, struct error *error,
	struct vault_group *ret_group, bool *ret_outrun)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	*ret_outrun = false;
	int r = vault_group_load(store, name, error, &group);
	if (r < 0)
		return r;
	if (memcmp(&group.owner, appliance, sizeof(*appliance)) != 0) {
		char since[UTC_ISO_BYTES];
		char mend[sizeof(error->mend)];
		utc_format_iso(group.claimed_ns, since);
		snprintf(mend, sizeof(mend),
			"if that appliance is lost: landfall vault takeover --group %s", name);
		return error_set(error, -ESTALE, mend,
			"group %s belongs to appliance %s since %.19sZ", name, group.owner_name,
			since);
	}
	r = move_leases(store, &group, purpose, false, error);
	if (r == -ESTALE && vault_owner_confirm(store, &group, NULL) == 0)
		return vault_owner_missing(name, r,
			"names this appliance, but not the id of the lease: it was lost and "
			"written anew, or an older one took its place",
			error);
	if (r == 0)
		r = vault_new_lease(&group, error);
	if (r < 0)
		return r;
	group.generation++;
	group.claimed_ns = clock_realtime_ns(clock);
	r = vault_owner_swap(store, &group, error);
	*ret_outrun = r == -ESTALE;
	if (r == 0)
		r = move_leases(store, &group, purpose, purpose == TO_USE, error);
	if (r < 0)
		return r;
	*ret_group = group;
	group = (struct vault_group){ 0 };
	return 0;
}

/* The swap of an earlier process of ours may land between our look and our swap: look again, and
 * let owner.json say whose the group is. */
static int claim(struct blob_store *store, const char *name, const struct uuid *appliance,
	struct clock_source *clock, enum purpose purpose, struct error *error,
	struct vault_group *ret_group)
{
	bool outrun = true;
	int r = -ESTALE;
	for (unsigned i = 0; r == -ESTALE && outrun && i < CLAIM_TRIES; i++)
		r = claim_once(store, name, appliance, clock, purpose, error, ret_group, &outrun);
	return r;
}

int vault_group_claim(struct blob_store *store, const char *name, const struct uuid *appliance,
	struct clock_source *clock, struct error *error, struct vault_group *ret_group)
{
	return claim(store, name, appliance, clock, TO_USE, error, ret_group);
}

int vault_group_claim_to_delete(struct blob_store *store, const char *name,
	const struct uuid *appliance, struct clock_source *clock, struct error *error,
	struct vault_group *ret_group)
{
	return claim(store, name, appliance, clock, TO_DELETE, error, ret_group);
}
