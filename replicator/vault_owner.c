/*
 * owner.json: who owns a group, as text and as compare-and-swap.
 *
 *	{"format":1, "name":"…", "id":"<uuid>", "owner":"<uuid>", "owner_name":"…",
 *	 "generation":n, "claimed":"<UTC>", "lease_id":"…", "previous_lease_id":"…",
 *	 "deleting":true (or absent),
 *	 "settings":"<JSON text>", "cuts":[{"generation":n,"above":n}],
 *	 "disks":[{"id":n,"name":"…","size_bytes":n,"added_point":n,"removed":false,
 *	           "vhd_id":"<uuid>","created":"<UTC>"}], "checksum":"…"}
 *
 * Whoever swaps it with its ETag owns the group from that moment; what the former owner may still
 * do is bounded by its leases, which the new owner breaks, and by the cut.
 */
#include "replicator/vault_internal.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/utc.h"
#include "fs/history.h"
#include "fs/vhd.h"
#include "replicator/sealed_json.h"

#define OWNER_FORMAT 1
#define MAX_CUTS 4096

void vault_group_free(struct vault_group *group)
{
	free(group->settings);
	free(group->disks);
	free(group->cuts);
	*group = (struct vault_group){ 0 };
}

static int put_disks(struct cJSON *object, const struct vault_group *group)
{
	struct cJSON *array, *item;
	if (json_add_array(object, "disks", &array) < 0)
		return -ENOMEM;
	for (unsigned i = 0; i < group->disk_count; i++) {
		const struct vault_disk *disk = &group->disks[i];
		if (json_add_object(array, NULL, &item) < 0 ||
			json_add_u64(item, "id", disk->id) < 0 ||
			json_add_text(item, "name", disk->name) < 0 ||
			json_add_u64(item, "size_bytes", disk->size_bytes) < 0 ||
			json_add_u64(item, "added_point", disk->added_point) < 0 ||
			json_add_bool(item, "removed", disk->removed) < 0 ||
			json_add_uuid(item, "vhd_id", &disk->vhd_id) < 0 ||
			json_add_time(item, "created", disk->created_ns) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int put_cuts(struct cJSON *object, const struct vault_group *group)
{
	struct cJSON *array, *item;
	if (json_add_array(object, "cuts", &array) < 0)
		return -ENOMEM;
	for (unsigned i = 0; i < group->cut_count; i++) {
		if (json_add_object(array, NULL, &item) < 0 ||
			json_add_u64(item, "generation", group->cuts[i].generation) < 0 ||
			json_add_u64(item, "above", group->cuts[i].above) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int put_older_leases(struct cJSON *object, const struct vault_group *group)
{
	struct cJSON *array;
	int r = json_add_array(object, "older_lease_ids", &array);
	for (unsigned i = 0; r == 0 && i < group->older_lease_count; i++)
		r = json_add_text(array, NULL, group->older_lease_ids[i]);
	return r;
}

int vault_owner_format(const struct vault_group *group, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	if (json_new_object(&object) < 0 || json_add_u64(object, "format", OWNER_FORMAT) < 0 ||
		json_add_text(object, "name", group->name) < 0 ||
		json_add_uuid(object, "id", &group->id) < 0 ||
		json_add_uuid(object, "owner", &group->owner) < 0 ||
		json_add_text(object, "owner_name", group->owner_name) < 0 ||
		json_add_u64(object, "generation", group->generation) < 0 ||
		json_add_time(object, "claimed", group->claimed_ns) < 0 ||
		json_add_text(object, "lease_id", group->lease_id) < 0 ||
		json_add_text(object, "previous_lease_id", group->previous_lease_id) < 0 ||
		put_older_leases(object, group) < 0 ||
		json_add_text(object, "settings", group->settings ? group->settings : "") < 0 ||
		(group->deleting && json_add_bool(object, "deleting", true) < 0) ||
		put_cuts(object, group) < 0 || put_disks(object, group) < 0)
		return -ENOMEM;
	return sealed_json_format(object, text);
}

static int get_disk(const struct json *at, void *ret_disk, struct error *error)
{
	struct vault_disk *disk = ret_disk;
	uint64_t id;
	int r;
	if ((r = json_get_u64(at, "id", &id, error)) < 0 ||
		(r = json_copy_text(at, "name", sizeof(disk->name), disk->name, error)) < 0 ||
		(r = json_get_u64(at, "size_bytes", &disk->size_bytes, error)) < 0 ||
		(r = json_get_u64(at, "added_point", &disk->added_point, error)) < 0 ||
		(r = json_get_bool(at, "removed", &disk->removed, error)) < 0 ||
		(r = json_get_uuid(at, "vhd_id", &disk->vhd_id, error)) < 0 ||
		(r = json_get_time(at, "created", &disk->created_ns, error)) < 0)
		return r;
	if (id == 0 || id > UINT16_MAX || vault_check_name(disk->name, true) < 0 ||
		vhd_check_size(disk->size_bytes) < 0)
		return json_error(at, -EBADMSG, error, "id, name or size_bytes is impossible");
	disk->id = (uint16_t)id;
	return 0;
}

static int get_cut(const struct json *at, void *ret_cut, struct error *error)
{
	struct vault_cut *cut = ret_cut;
	int r = json_get_u64(at, "generation", &cut->generation, error);
	return r < 0 ? r : json_get_u64(at, "above", &cut->above, error);
}

static int get_older_leases(const struct json *root, struct vault_group *g, struct error *error)
{
	struct json list;
	int r = json_find_array(root, "older_lease_ids", &list, error);
	if (r <= 0)
		return r;
	for (struct json item = { 0 }; json_each(&list, &item);) {
		const char *text;
		if (g->older_lease_count == VAULT_OLDER_LEASES)
			return json_error(&list, -EBADMSG, error, "has too many");
		r = json_as_text(&item, &text, error);
		if (r < 0)
			return r;
		if (strlen(text) >= BLOB_LEASE_ID_BYTES)
			return json_error(&item, -EBADMSG, error, "is no lease id");
		strcpy(g->older_lease_ids[g->older_lease_count++], text);
	}
	return 0;
}

static int get_lists(const struct json *root, struct vault_group *group, struct error *error)
{
	void *list;
	int r = json_get_list(root, "cuts", MAX_CUTS, sizeof(*group->cuts), get_cut, error, &list,
		&group->cut_count);
	if (r < 0)
		return r;
	group->cuts = list;
	r = json_get_list(root, "disks", VAULT_MAX_DISKS, sizeof(*group->disks), get_disk, error,
		&list, &group->disk_count);
	if (r == 0)
		group->disks = list;
	return r < 0 ? r : get_older_leases(root, group, error);
}

static int get_all(const struct json *root, struct vault_group *g, struct error *error)
{
	const char *settings;
	uint64_t format;
	int r = json_get_u64(root, "format", &format, error);
	if (r < 0)
		return r;
	if (format != OWNER_FORMAT)
		return error_set(error, -EPROTONOSUPPORT, "use the newer release that wrote it",
			"%s has format %llu, this release knows %d", root->name,
			(unsigned long long)format, OWNER_FORMAT);
	if ((r = json_copy_text(root, "name", sizeof(g->name), g->name, error)) < 0 ||
		(r = json_get_uuid(root, "id", &g->id, error)) < 0 ||
		(r = json_get_uuid(root, "owner", &g->owner, error)) < 0 ||
		(r = json_copy_text(
			 root, "owner_name", sizeof(g->owner_name), g->owner_name, error)) < 0 ||
		(r = json_get_u64(root, "generation", &g->generation, error)) < 0 ||
		(r = json_get_time(root, "claimed", &g->claimed_ns, error)) < 0 ||
		(r = json_copy_text(root, "lease_id", sizeof(g->lease_id), g->lease_id, error)) <
			0 ||
		(r = json_copy_text(root, "previous_lease_id", sizeof(g->previous_lease_id),
			 g->previous_lease_id, error)) < 0 ||
		(r = json_find_bool(root, "deleting", &g->deleting, error)) < 0 ||
		(r = json_get_text(root, "settings", &settings, error)) < 0 ||
		(r = get_lists(root, g, error)) < 0)
		return r;
	g->settings = strdup(settings);
	return g->settings ? 0 : -ENOMEM;
}

int vault_owner_parse(const char *what, const char *text, size_t n, struct error *error,
	struct vault_group *ret_group)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	struct json root;
	int r = sealed_json_parse(what, text, n, error, &object);
	if (r < 0)
		return r;
	json_root(object, what, &root);
	r = get_all(&root, &group, error);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	*ret_group = group;
	group = (struct vault_group){ 0 };
	return 0;
}

static int not_ours(const struct vault_group *there, struct error *error)
{
	char since[UTC_ISO_BYTES];
	utc_format_iso(there->claimed_ns, since);
	char mend[sizeof(error->mend)];
	snprintf(mend, sizeof(mend),
		"stop this appliance, or take the group back: landfall vault takeover --group %s",
		there->name);
	return error_set(error, -ESTALE, mend, "group %s belongs to appliance %s since %.19sZ",
		there->name, there->owner_name, since);
}

int vault_owner_missing(const char *group, int code, const char *how, struct error *error)
{
	char name[VAULT_NAME_BYTES], mend[sizeof(error->mend)];
	vault_owner_name(group, name);
	snprintf(mend, sizeof(mend),
		"bring it back: the service may be able to undelete it; if it is lost and no other "
		"appliance has the group: restart landfalld, then 'landfall vault takeover --group "
		"%s'",
		group);
	return error_set(
		error, code, mend, "%s, which tells the group's owner and lease, %s", name, how);
}

int vault_owner_confirm(
	struct blob_store *store, const struct vault_group *group, struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group there = { 0 };
	int r = vault_group_load(store, group->name, error, &there);
	if (r == -ENOENT)
		return vault_owner_missing(group->name, r, "is missing from the vault", error);
	if (r < 0)
		return r;
	if (memcmp(&there.owner, &group->owner, sizeof(there.owner)) != 0)
		return not_ours(&there, error);
	if (there.generation != group->generation)
		return error_set(error, -ESTALE,
			"see that only one daemon of this appliance is running",
			"group %s was claimed again by another process of this appliance",
			group->name);
	return 0;
}

int vault_owner_blame(
	struct blob_store *store, const struct vault_group *group, int r, struct error *error)
{
	struct error better = { 0 };
	bool away = r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET || r == -ECONNREFUSED;
	if (r == 0 || r == -ECANCELED || away ||
		vault_owner_confirm(store, group, &better) != -ESTALE)
		return r;
	if (error)
		*error = better;
	return -ESTALE;
}

int vault_owner_swap(struct blob_store *store, struct vault_group *group, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	char name[VAULT_NAME_BYTES];
	int r = vault_owner_format(group, &text);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory for owner.json");
	vault_owner_name(group->name, name);
	r = vault_object_put(store, name, &text, group->etag, NULL, 0, error, group->etag);
	return vault_owner_blame(store, group, r, error);
}

int vault_new_lease(struct vault_group *group, struct error *error)
{
	struct uuid id;
	int r = uuid_generate(&id);
	if (r < 0)
		return error_set(error, r, NULL, "cannot make a lease id");
	if (group->previous_lease_id[0]) {
		unsigned kept = MIN(group->older_lease_count, VAULT_OLDER_LEASES - 1);
		memmove(group->older_lease_ids[1], group->older_lease_ids[0],
			kept * sizeof(group->older_lease_ids[0]));
		memcpy(group->older_lease_ids[0], group->previous_lease_id,
			sizeof(group->older_lease_ids[0]));
		group->older_lease_count = kept + 1;
	}
	memcpy(group->previous_lease_id, group->lease_id, sizeof(group->lease_id));
	uuid_format(&id, group->lease_id);
	return 0;
}

int vault_owner_delete(
	struct blob_store *store, const struct vault_group *group, struct error *error)
{
	char name[VAULT_NAME_BYTES];
	vault_owner_name(group->name, name);
	int r = vault_object_delete(store, name, group->etag, error);
	return vault_owner_blame(store, group, r, error);
}
