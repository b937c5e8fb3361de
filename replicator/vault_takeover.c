/*
 * Taking a group from whoever owns it, after the loss of its appliance.
 *
 *	1. swap owner.json: ours, a new lease id, generation + 1
 *	2. change every blob's lease to the new id: from here on the former owner's writes are
 *	   refused
 *	3. put every committed manifest again, the very bytes: from here on the former owner's
 *	   deletions and marks are refused, since they name an ETag that is no more
 *	4. the newest committed point whose manifest and snapshots are whole is what stands; record
 *	   the cut in owner.json, so that a manifest of the former owner that lands later commits
 *	   nothing
 *	5. make every base equal to that point's snapshot
 *	6. collect what nothing explains
 *
 * Before anything is changed, and again in step 4: if a newer point than that is committed, and
 * damaged, or there are points without manifests that no flush left behind, going on would throw
 * them away, and is refused unless it is asked for.
 *
 * Each step may be repeated; an interrupted takeover is simply begun again.
 *
 * The former owner may have been deleting the group. If no blob is gone yet the group is kept; if
 * all are, nothing is left to be taken and the deletion is finished. In between no point is whole
 * any more and nothing is touched: the service may be able to undelete a blob.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/utc.h"
#include "fs/point.h"
#include "replicator/backoff.h"
#include "replicator/manifest_format.h"
#include "replicator/vault_strays.h"

#define SWAP_TRIES 8u
#define BREAK_TRIES 8u

static int become_owner(struct blob_store *store, const char *name, const struct uuid *appliance,
	const char *appliance_name, struct clock_source *clock, struct error *error,
	struct vault_group *ret_group, char ret_older[static BLOB_LEASE_ID_BYTES])
{
	for (unsigned i = 0;; i++) {
		CLEANUP(vault_group_free) struct vault_group group = { 0 };
		int r = vault_group_load(store, name, error, &group);
		memcpy(ret_older, group.previous_lease_id, BLOB_LEASE_ID_BYTES);
		if (r == 0)
			r = vault_new_lease(&group, error);
		if (r < 0)
			return r;
		group.owner = *appliance;
		strncpy(group.owner_name, appliance_name, sizeof(group.owner_name) - 1);
		group.owner_name[sizeof(group.owner_name) - 1] = '\0';
		group.generation++;
		group.claimed_ns = clock_realtime_ns(clock);
		r = vault_owner_swap(store, &group, error);
		if (r == 0) {
			*ret_group = group;
			group = (struct vault_group){ 0 };
			return 0;
		}
		if (r != -ESTALE || i + 1 >= SWAP_TRIES)
			return r;
	}
}

/* By change from an id that owner.json told, if that is how it is leased; a request that lands
 * late can then do no harm. Breaking is the last resort: a break that lands late breaks ours. */
static int take_lease(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, const char *older, struct error *error)
{
	struct blob_error e = { 0 };
	char blob[VAULT_NAME_BYTES];
	int r = vault_disk_lease(store, group, disk, group->previous_lease_id, error);
	if (r == -ESTALE && older[0])
		r = vault_disk_lease(store, group, disk, older, error);
	vault_blob_name(disk->name, blob);
	for (unsigned i = 0; r == -ESTALE && i < BREAK_TRIES; i++) {
		e = (struct blob_error){ 0 };
		r = store->ops->lease_break(store, blob, &e);
		if (r < 0 && !backoff_is_passing(r, &e) && r != -ESTALE && r != -EBUSY)
			return vault_fail(error, r, &e, "cannot break the lease of %s", blob);
		r = vault_disk_lease(store, group, disk, "", error);
	}
	return r;
}

/* Of removed disks too, which older points show. Counts those whose blobs are gone. */
static int take_leases(struct blob_store *store, const struct vault_group *group, const char *older,
	struct error *error, unsigned *ret_gone)
{
	unsigned gone = 0;
	for (unsigned i = 0; i < group->disk_count; i++) {
		const struct vault_disk *disk = &group->disks[i];
		int r = take_lease(store, group, disk, older, error);
		if (r == -ENOENT && !disk->removed && !group->deleting)
			r = vault_disk_ensure(store, group, disk, error);
		else if (r == -ENOENT)
			gone++;
		if (r < 0 && r != -ENOENT)
			return r;
	}
	*ret_gone = gone;
	return 0;
}

/* A deletion that was begun: see above. -ENOENT: it is finished. */
static int end_deletion(
	struct blob_store *store, struct vault_group *group, unsigned gone, struct error *error)
{
	if (gone > 0 && gone < group->disk_count)
		return error_set(error, -EUCLEAN,
			"undelete the blobs of its disks and take it over again; or delete what "
			"is left by hand",
			"group %s was being deleted: %u of %u disks are gone", group->name, gone,
			group->disk_count);
	if (gone == 0) {
		group->deleting = false;
		return 0;
	}
	int r = vault_group_delete(store, group, error);
	return r < 0 ? r
		     : error_set(error, -ENOENT, NULL,
			       "group %s was being deleted: nothing of it is left", group->name);
}

#define TOUCH_TRIES 8u

/* Puts a committed manifest again, with its mark. One that is gone, or damaged so that nobody can
 * delete it by what it names, is left. */
static int touch_manifest(struct blob_store *store, const struct vault_group *group,
	const struct vault_point_item *point, struct error *error)
{
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES], put[BLOB_ETAG_BYTES];
	int r = -ESTALE;
	vault_manifest_name(group->name, point->number, name);
	for (unsigned i = 0; r == -ESTALE && i < TOUCH_TRIES; i++) {
		CLEANUP(buf_free) struct buf text = { 0 };
		CLEANUP(manifest_free) struct manifest m = { 0 };
		struct vault_metadata metadata = { 0 };
		r = vault_object_get(store, name, MANIFEST_MAX_BYTES, error, &text, etag);
		if (r == 0)
			r = manifest_parse(name, text.data, text.len, NULL, &m);
		if (r < 0)
			break;
		vault_manifest_metadata(&m, point->flags, &metadata);
		r = vault_object_put(
			store, name, &text, etag, metadata.items, metadata.count, error, put);
	}
	return r == -ENOENT || r == -EBADMSG || r == -EPROTONOSUPPORT ? 0 : r;
}

/* Whom it is told how far it is. */
struct listener {
	void (*progress)(void *context, uint64_t done, uint64_t total, const char *unit);
	void *context;
};

static void tell_points(const struct listener *listener, unsigned done, unsigned total)
{
	if (listener->progress)
		listener->progress(listener->context, done, total, "points");
}

static void tell_bytes(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	const struct listener *listener = context;
	if (listener->progress)
		listener->progress(listener->context, done_bytes, total_bytes, "bytes");
}

static int touch_manifests(struct blob_store *store, const struct vault_group *group,
	const struct listener *listener, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	int r = vault_points_list(store, group, error, &points);
	for (unsigned i = 0; r == 0 && i < points.count; i++) {
		if (vault_point_is_committed(&points.items[i]))
			r = touch_manifest(store, group, &points.items[i], error);
		if (r == 0)
			tell_points(listener, i + 1, points.count);
	}
	return r;
}

/* Are all snapshots of the manifest there? */
static int is_whole(struct blob_store *store, const struct vault_group *group,
	const struct manifest *m, struct error *error)
{
	for (unsigned i = 0; i < m->disk_count; i++) {
		CLEANUP(vault_snapshots_free) struct vault_snapshots there = { 0 };
		int r = vault_snapshots_list(store, m->disks[i].blob, &group->id, error, &there);
		if (r < 0 && r != -ENOENT)
			return r;
		if (!vault_snapshots_find(&there, m->disks[i].snapshot))
			return error_set(error, -EBADMSG, NULL, "snapshot %s of %s is missing",
				m->disks[i].snapshot, m->disks[i].blob);
	}
	return 0;
}

/* Committed points above the newest whole one. */
struct passed_over {
	unsigned count;
	uint64_t newest;
	struct error why; /* the newest's fault */
};

static int find_whole(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct manifest *ret, struct passed_over *passed)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	uint64_t below = UINT64_MAX;
	int r = vault_points_list(store, group, error, &points);
	if (r < 0)
		return r;
	for (;;) {
		const struct vault_point_item *point = vault_points_below(&points, below);
		CLEANUP(manifest_free) struct manifest m = { 0 };
		struct error why = { 0 };
		char etag[BLOB_ETAG_BYTES];
		if (!point)
			return 0;
		r = vault_manifest_load(store, group, point->number, &why, &m, NULL, etag);
		if (r == 0)
			r = is_whole(store, group, &m, &why);
		if (r == 0) {
			*ret = m;
			m = (struct manifest){ 0 };
			return 0;
		}
		if (r != -EBADMSG && r != -ENOENT) {
			if (error)
				*error = why;
			return r;
		}
		if (r == -EBADMSG && passed->count++ == 0) {
			passed->newest = point->number;
			passed->why = why;
		}
		log_warning("group %s: point %" PRIu64 " is not whole and is passed over: %s",
			group->name, point->number, why.message);
		below = point->number;
	}
}

int vault_newest_whole(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct manifest *ret)
{
	struct passed_over passed = { 0 };
	return find_whole(store, group, error, ret, &passed);
}

/* Points whose manifests somebody has deleted: what the newest whole one stands on is not the end,
 * and what follows would be deleted as if nobody had ever committed it. */
static int check_lost(struct blob_store *store, const struct vault_group *group,
	bool discard_damaged, const struct manifest *stand, struct error *error)
{
	CLEANUP(vault_lost_free) struct vault_lost lost = { 0 };
	char mend[sizeof(error->mend)];
	int r = vault_lost_find(store, group, error, &lost);
	if (r < 0 || !vault_lost_is_certain(&lost) || (discard_damaged && stand->number > 0))
		return r;
	if (stand->number == 0)
		return error_set(error, -EUCLEAN,
			"bring the manifests back (the service may be able to undelete them; "
			"'landfall vault check' names them), and take it over again",
			"group %s: none of its points is whole, and nothing was changed; the "
			"manifests of %u points up to %" PRIu64 " are missing",
			group->name, lost.count, lost.numbers[lost.count - 1]);
	snprintf(mend, sizeof(mend),
		"bring them back, if it can be; to go on from point %" PRIu64
		" and lose what came after: landfall vault takeover --group %s --discard-damaged",
		stand->number, group->name);
	return error_set(error, -EUCLEAN, mend,
		"group %s: the manifests of %u points above %" PRIu64 ", up to %" PRIu64
		", are missing",
		group->name, lost.count, stand->number, lost.numbers[lost.count - 1]);
}

/* The newest whole point; -EUCLEAN if newer ones would be lost that nobody has given up, or if all
 * there are are damaged. */
static int find_stand(struct blob_store *store, const struct vault_group *group,
	bool discard_damaged, struct error *error, struct manifest *ret)
{
	struct passed_over passed = { 0 };
	char time[UTC_ISO_BYTES], mend[sizeof(error->mend)];
	int r = find_whole(store, group, error, ret, &passed);
	if (r == 0 && passed.count == 0)
		r = check_lost(store, group, discard_damaged, ret, error);
	if (r < 0 || passed.count == 0 || (discard_damaged && ret->number > 0))
		return r;
	if (ret->number == 0)
		return error_set(error, -EUCLEAN,
			"bring back what is missing ('landfall vault check' names it; the service "
			"may be able to undelete it), and take it over again",
			"group %s: none of its points is whole, and nothing was changed; of the "
			"newest, %" PRIu64 ": %s",
			group->name, passed.newest, passed.why.message);
	utc_format_iso(ret->time_ns, time);
	snprintf(mend, sizeof(mend),
		"bring back what is missing, if it can be; to go on from point %" PRIu64
		" of %.19sZ and lose what came after: landfall vault takeover --group %s "
		"--discard-damaged",
		ret->number, time, group->name);
	return error_set(error, -EUCLEAN, mend,
		"group %s: its newest point, %" PRIu64 ", is damaged: %s", group->name,
		passed.newest, passed.why.message);
}

/* Before anything is changed. */
static int look_first(
	struct blob_store *store, const char *name, bool discard_damaged, struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	CLEANUP(manifest_free) struct manifest newest = { 0 };
	int r = vault_group_load(store, name, error, &group);
	return r < 0 || group.deleting ? r
				       : find_stand(store, &group, discard_damaged, error, &newest);
}

static int record_cut(
	struct blob_store *store, struct vault_group *group, uint64_t above, struct error *error)
{
	struct vault_cut *cuts =
		realloc(group->cuts, (group->cut_count + 1u) * sizeof(*group->cuts));
	if (!cuts)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	group->cuts = cuts;
	/* A disk that no point shows yet begins with the next one. */
	for (unsigned i = 0; i < group->disk_count; i++)
		group->disks[i].added_point = MIN(group->disks[i].added_point, above + 1);
	cuts[group->cut_count++] =
		(struct vault_cut){ .generation = group->generation - 1, .above = above };
	return vault_owner_swap(store, group, error);
}

int vault_repair_disks(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, const struct manifest *m, struct vault_progress *progress,
	struct error *error)
{
	progress->done_bytes = progress->total_bytes = 0;
	for (unsigned i = 0; i < group->disk_count; i++)
		if (!group->disks[i].removed)
			progress->total_bytes += group->disks[i].size_bytes;
	for (unsigned i = 0; i < group->disk_count; i++) {
		const struct vault_disk *disk = &group->disks[i];
		const char *snapshot = NULL;
		uint64_t size_bytes = disk->size_bytes;
		if (disk->removed)
			continue;
		for (unsigned j = 0; j < m->disk_count; j++) {
			if (m->disks[j].id != disk->id)
				continue;
			snapshot = m->disks[j].snapshot;
			size_bytes = m->disks[j].size_bytes;
		}
		int r = vault_disk_repair(
			store, clock, group, disk, snapshot, size_bytes, progress, error);
		if (r < 0)
			return r;
	}
	return 0;
}

int vault_group_takeover(struct blob_store *store, const char *name, const struct uuid *appliance,
	const char *appliance_name, bool discard_damaged, struct clock_source *clock,
	void (*progress)(void *context, uint64_t done, uint64_t total, const char *unit),
	void *context, struct error *error, struct vault_group *ret_group)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	CLEANUP(manifest_free) struct manifest newest = { 0 };
	struct listener listener = { .progress = progress, .context = context };
	struct vault_progress told = { .told = tell_bytes, .context = &listener };
	char older[BLOB_LEASE_ID_BYTES];
	unsigned deleted, gone;
	int r = look_first(store, name, discard_damaged, error);
	if (r == 0)
		r = become_owner(
			store, name, appliance, appliance_name, clock, error, &group, older);
	if (r == 0)
		r = take_leases(store, &group, older, error, &gone);
	if (r == 0 && group.deleting)
		r = end_deletion(store, &group, gone, error);
	if (r == 0)
		r = touch_manifests(store, &group, &listener, error);
	if (r == 0)
		r = find_stand(store, &group, discard_damaged, error, &newest);
	if (r == 0)
		r = record_cut(store, &group, newest.number, error);
	if (r == 0)
		r = vault_repair_disks(store, clock, &group, &newest, &told, error);
	/* A break of an interrupted takeover may land late: lease again while the group is ours. */
	for (unsigned i = 0; r == -ESTALE && i < BREAK_TRIES; i++) {
		if (vault_owner_confirm(store, &group, error) < 0)
			break;
		r = take_leases(store, &group, "", error, &gone);
		if (r == 0)
			r = vault_repair_disks(store, clock, &group, &newest, &told, error);
	}
	if (r == 0)
		r = vault_collect_orphans(store, &group, 0, error, &deleted);
	if (r < 0)
		return r;
	*ret_group = group;
	group = (struct vault_group){ 0 };
	return 0;
}
