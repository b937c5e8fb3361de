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
			"choose another name, or take it over with landfall vault takeover",
			"the vault has a group %s already", group->name);
	for (unsigned i = 0; r == 0 && i < group->disk_count; i++)
		if (!group->disks[i].removed)
			r = vault_disk_ensure(store, group, &group->disks[i], error);
	return r;
}

int vault_group_update(struct blob_store *store, struct vault_group *group, struct error *error)
{
	int r = vault_owner_swap(store, group, error);
	for (unsigned i = 0; r == 0 && i < group->disk_count; i++)
		if (!group->disks[i].removed)
			r = vault_disk_ensure(store, group, &group->disks[i], error);
	return r;
}

struct doomed {
	struct blob_store *store;
	struct names snapshots; /* in pieces of 64 bytes: ids are shorter */
	const char *blob;
};

static int take_snapshot(void *context, const struct blob_item *item)
{
	struct doomed *doomed = context;
	struct names *list = &doomed->snapshots;
	if (!item->snapshot || strcmp(item->blob, doomed->blob) != 0)
		return 0;
	void *more = realloc(list->names, (list->count + 1) * sizeof(list->names[0]));
	if (!more)
		return -ENOMEM;
	list->names = more;
	strncpy(list->names[list->count], item->snapshot, 63);
	list->names[list->count++][63] = '\0';
	return 0;
}

static int delete_disk(struct blob_store *store, const struct vault_disk *disk, struct error *error)
{
	char blob[VAULT_NAME_BYTES];
	struct blob_error e = { 0 };
	vault_blob_name(disk->name, blob);
	struct doomed doomed = { .store = store, .blob = blob };
	int r = store->ops->lease_break(store, blob, &e);
	if (r == -ENOENT)
		return 0;
	e = (struct blob_error){ 0 };
	r = store->ops->list(store, blob, BLOB_LIST_SNAPSHOTS, take_snapshot, &doomed, &e);
	if (r < 0)
		vault_fail(error, r, &e, "cannot list the snapshots of %s", blob);
	for (unsigned i = 0; r == 0 && i < doomed.snapshots.count; i++)
		r = vault_snapshot_delete(store, blob, doomed.snapshots.names[i], error);
	free(doomed.snapshots.names);
	return r < 0 ? r : vault_snapshot_delete(store, blob, NULL, error);
}

/* Two disks may have had one name, one after the other; the blob is deleted once. */
int vault_group_delete(struct blob_store *store, struct vault_group *group, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	char object[VAULT_NAME_BYTES];
	unsigned parts = 0;
	int r = vault_owner_confirm(store, group, error);
	if (r == 0)
		r = vault_points_list(store, group, error, &points);
	for (unsigned i = 0; r == 0 && i < points.count; i++) {
		vault_manifest_name(group->name, points.items[i].number, object);
		r = vault_object_delete(store, object, error);
		vault_hashes_name(group->name, points.items[i].number, object);
		if (r == 0)
			r = vault_object_delete(store, object, error);
	}
	if (r == 0)
		r = vault_drained_collect(store, group, 0, error, &parts);
	for (unsigned i = 0; r == 0 && i < group->disk_count; i++)
		r = delete_disk(store, &group->disks[i], error);
	vault_owner_name(group->name, object);
	return r < 0 ? r : vault_object_delete(store, object, error);
}
