/*
 * Collecting what nothing explains: snapshots whose answer was lost, snapshots and hashes of
 * flushes that were given up, manifests that came too late.
 *
 * The order protects a flush under way: snapshots are listed before the manifests are read, and
 * whatever bears the number of the pending point or a later one is left alone. A manifest that
 * cannot be read keeps all snapshots that bear its number.
 *
 * It also protects a new owner's flush: ownership is confirmed after the last listing, so nothing
 * of what was listed is another's, and nothing else is deleted: snapshots by their ids, objects by
 * their ETags.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/vault_drained.h"
#include "replicator/vault_snapshots.h"

struct collector {
	struct blob_store *store;
	const struct vault_group *group;
	uint64_t pending;
	struct vault_snapshots *snapshots; /* per disk of the group */
	unsigned deleted;
};

static bool may_be_under_way(const struct collector *c, uint64_t number)
{
	return c->pending != 0 && number >= c->pending;
}

static void keep_number(struct collector *c, uint64_t number)
{
	for (unsigned d = 0; d < c->group->disk_count; d++)
		for (unsigned i = 0; i < c->snapshots[d].count; i++)
			if (c->snapshots[d].items[i].point == number)
				c->snapshots[d].items[i].used = true;
}

static void keep_disk(struct collector *c, const struct manifest_disk *disk)
{
	/* By blob: a disk may have followed another of the same name. */
	for (unsigned d = 0; d < c->group->disk_count; d++) {
		char blob[VAULT_NAME_BYTES];
		vault_blob_name(c->group->disks[d].name, blob);
		if (strcmp(blob, disk->blob) != 0)
			continue;
		struct vault_snapshot *found =
			vault_snapshots_find(&c->snapshots[d], disk->snapshot);
		if (found)
			found->used = true;
	}
}

static int keep_explained(
	struct collector *c, const struct vault_point_item *point, struct error *error)
{
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char etag[BLOB_ETAG_BYTES];
	if (!vault_point_is_committed(point))
		return 0;
	int r = vault_manifest_load(c->store, c->group, point->number, error, &m, NULL, etag);
	if (r == -EBADMSG || r == -EPROTONOSUPPORT) {
		keep_number(c, point->number);
		return 0;
	}
	for (unsigned i = 0; r == 0 && i < m.disk_count; i++)
		keep_disk(c, &m.disks[i]);
	return r == -ENOENT ? 0 : r;
}

static int delete_object(
	struct collector *c, const struct vault_point_item *point, bool hashes, struct error *error)
{
	char name[VAULT_NAME_BYTES];
	if (hashes)
		vault_hashes_name(c->group->name, point->number, name);
	else
		vault_manifest_name(c->group->name, point->number, name);
	int r = vault_object_delete(
		c->store, name, hashes ? point->hashes_etag : point->etag, error);
	if (r == 0)
		c->deleted++;
	return r;
}

static int collect_objects(
	struct collector *c, const struct vault_point_item *point, struct error *error)
{
	int r = 0;
	if (may_be_under_way(c, point->number) || vault_point_is_committed(point))
		return 0;
	if (point->hashes)
		r = delete_object(c, point, true, error);
	/* A tombstone stays for ever: it bars a put that may be under way for who knows how long.
	 */
	if (r == 0 && point->manifest && point->cut)
		r = delete_object(c, point, false, error);
	return r;
}

static int collect_snapshots(struct collector *c, struct error *error)
{
	for (unsigned d = 0; d < c->group->disk_count; d++) {
		char blob[VAULT_NAME_BYTES];
		vault_blob_name(c->group->disks[d].name, blob);
		for (unsigned i = 0; i < c->snapshots[d].count; i++) {
			const struct vault_snapshot *s = &c->snapshots[d].items[i];
			if (s->used || !s->tagged || may_be_under_way(c, s->point))
				continue;
			int r = vault_snapshot_delete(c->store, blob, s->id, error);
			if (r < 0)
				return r;
			c->deleted++;
		}
	}
	return 0;
}

static int collect(struct collector *c, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	char blob[VAULT_NAME_BYTES];
	int r = 0;
	for (unsigned d = 0; r == 0 && d < c->group->disk_count; d++) {
		vault_blob_name(c->group->disks[d].name, blob);
		r = vault_snapshots_list(c->store, blob, &c->group->id, error, &c->snapshots[d]);
		if (r == -ENOENT)
			r = 0;
	}
	if (r == 0)
		r = vault_points_list(c->store, c->group, error, &points);
	for (unsigned i = 0; r == 0 && i < points.count; i++)
		r = keep_explained(c, &points.items[i], error);
	if (r == 0)
		r = vault_owner_confirm(c->store, c->group, error);
	if (r < 0)
		return r;
	for (unsigned i = 0; r == 0 && i < points.count; i++)
		r = collect_objects(c, &points.items[i], error);
	if (r == 0)
		r = vault_drained_collect(c->store, c->group, c->pending, error, &c->deleted);
	return r < 0 ? r : collect_snapshots(c, error);
}

int vault_collect_orphans(struct blob_store *store, const struct vault_group *group,
	uint64_t pending_point, struct error *error, unsigned *ret_deleted)
{
	struct collector c = { .store = store, .group = group, .pending = pending_point };
	c.snapshots = calloc(group->disk_count + 1u, sizeof(*c.snapshots));
	if (!c.snapshots)
		return error_set(error, -ENOMEM, NULL, "not enough memory to list snapshots");
	int r = collect(&c, error);
	for (unsigned d = 0; d < group->disk_count; d++)
		vault_snapshots_free(&c.snapshots[d]);
	free(c.snapshots);
	if (c.deleted > 0)
		log_info("group %s: %u orphaned snapshots and objects deleted from the vault",
			group->name, c.deleted);
	if (r < 0)
		return r;
	*ret_deleted = c.deleted;
	return 0;
}
