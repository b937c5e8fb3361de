/*
 * A group in the vault: made, loaded, updated, removed.
 *
 * owner.json is written first, blobs follow: whoever finds owner.json can finish what an
 * interrupted call left undone, and does (vault_disk_ensure is idempotent).
 */
#include "replicator/vault_drained.h"
#include "replicator/vault_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

int vault_group_load(struct blob_store *store, const char *name, struct error *error,
	struct vault_group *ret_group)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	char object[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	if (vault_check_name(name, false) < 0)
		return error_set(error, -EINVAL, NULL, "%s is no group's name", name);
	vault_owner_name(name, object);
	int r = vault_object_get(store, object, VAULT_OWNER_MAX_BYTES, error, &text, etag);
	if (r == -ENOENT)
		return error_set(error, r, NULL, "the vault has no group %s", name);
	if (r < 0)
		return r;
	r = vault_owner_parse(object, text.data, text.len, error, &group);
	if (r < 0)
		return r;
	if (strcmp(group.name, name) != 0)
		return error_set(error, -EBADMSG, NULL, "%s is of group %s", object, group.name);
	memcpy(group.etag, etag, sizeof(etag));
	*ret_group = group;
	group = (struct vault_group){ 0 };
	return 0;
}

struct names {
	char (*names)[64];
	unsigned count;
};

static int take_name(void *context, const struct blob_item *item)
{
	struct names *list = context;
	char name[64];
	if (!vault_group_of_name(item->blob, name))
		return 0;
	void *more = realloc(list->names, (list->count + 1) * sizeof(list->names[0]));
	if (!more)
		return -ENOMEM;
	list->names = more;
	memcpy(list->names[list->count++], name, sizeof(name));
	return 0;
}

int vault_groups(struct blob_store *store, int (*each)(void *context, const char *name),
	void *context, struct error *error)
{
	struct names list = { 0 };
	struct blob_error e = { 0 };
	int r = store->ops->list(store, VAULT_GROUPS_PREFIX, 0, take_name, &list, &e);
	if (r < 0)
		vault_fail(error, r, &e, "cannot list the groups");
	for (unsigned i = 0; r == 0 && i < list.count; i++)
		r = each(context, list.names[i]);
	free(list.names);
	return r;
}

static int found_blob(void *context, const struct blob_item *item)
{
	(void)item;
	*(bool *)context = true;
	return 1;
}

bool vault_has_machine(struct blob_store *store, const char *machine)
{
	char prefix[VAULT_NAME_BYTES];
	struct blob_error e = { 0 };
	bool found = false;
	if (vault_check_name(machine, false) < 0)
		return false;
	vault_machine_prefix(machine, prefix);
	(void)store->ops->list(store, prefix, 0, found_blob, &found, &e);
	return found;
}

int vault_group_create(struct blob_store *store, struct vault_group *group, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	char object[VAULT_NAME_BYTES];
	if (vault_check_name(group->name, false) < 0)
		return error_set(error, -EINVAL, "use letters, digits, dot, dash and underscore",
			"%s is no name for a group", group->name);
	if (group->generation == 0)
		group->generation = 1;
	int r = group->lease_id[0] ? 0 : vault_new_lease(group, error);
	if (r < 0)
		return r;
	r = vault_owner_format(group, &text);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory for owner.json");
	vault_owner_name(group->name, object);
	r = vault_object_put(store, object, &text, "", NULL, 0, error, group->etag);
	if (r == -EEXIST || r == -ESTALE)
		return error_set(error, -EEXIST,
			"choose another name, or take it over: landfall vault takeover --group "
			"GROUP",
			"the vault has a group %s already", group->name);
	for (unsigned i = 0; r == 0 && i < group->disk_count; i++)
		if (!group->disks[i].removed)
			r = vault_disk_ensure(store, group, &group->disks[i], error);
	return r;
}

int vault_group_update(struct blob_store *store, struct vault_group *group, struct error *error)
{
	int r = vault_owner_swap(store, group, error);
	for (unsigned i = 0; r == 0 && !group->deleting && i < group->disk_count; i++)
		if (!group->disks[i].removed)
			r = vault_disk_ensure(store, group, &group->disks[i], error);
	return r;
}

/* ── deleting ────────────────────────────────────────────────────────────────────────────── */

static int delete_objects(struct blob_store *store, const struct vault_group *group,
	const struct vault_point_item *point, struct error *error)
{
	char name[VAULT_NAME_BYTES];
	int r = 0;
	if (point->manifest) {
		vault_manifest_name(group->name, point->number, name);
		r = vault_object_delete(store, name, point->etag, error);
	}
	if (r == 0 && point->hashes) {
		vault_hashes_name(group->name, point->number, name);
		r = vault_object_delete(store, name, point->hashes_etag, error);
	}
	return r;
}

/*
 * The swap decides: whoever takes the group over before it makes it fail, whoever does so later
 * knows what to expect (vault_takeover.c). Then the blobs go, each with its snapshots in a request
 * that bears the lease, which a takeover changes; then the objects that the listing before the swap
 * named, as they were then. Without the blobs they are of no use to anybody.
 *
 * Two disks may have had one name, one after the other; the blob is deleted once.
 */
int vault_group_delete(struct blob_store *store, struct vault_group *group, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	unsigned parts = 0;
	int r = vault_points_list(store, group, error, &points);
	if (r < 0)
		return r;
	group->deleting = true;
	r = vault_owner_swap(store, group, error);
	for (unsigned i = 0; r == 0 && i < group->disk_count; i++)
		r = vault_disk_delete(store, group, &group->disks[i], error);
	for (unsigned i = 0; r == 0 && i < points.count; i++)
		r = delete_objects(store, group, &points.items[i], error);
	if (r == 0)
		r = vault_drained_collect(store, group, 0, error, &parts);
	return r < 0 ? r : vault_owner_delete(store, group, error);
}
