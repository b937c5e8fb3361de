/*
 * A group's disks and committed points into a new history: after a takeover, or when the journal
 * was lost.
 *
 * A point must show the disks that it had, in the sizes that they had, so growth and removal are
 * replayed between the points. Only manifests know them, and reading tens of thousands takes too
 * long; but between two points without an addition the set of disks can only shrink and sizes
 * only grow, so where both ends look the same all between do. Additions are known from
 * owner.json. The rest is found by halving: a few manifests for every change.
 *
 * May be repeated after an interruption: what the history has already is passed over.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "fs/point.h"
#include "replicator/vault_internal.h"

/* The disks of a point. */
struct shape {
	unsigned count;
	struct shape_disk {
		uint16_t id;
		uint64_t size_bytes;
	} disks[];
};

struct vault_reading {
	struct blob_store *store;
	const struct vault_group *group;
	struct history *history;
	struct error *error;
	struct vault_points points;       /* committed ones */
	struct shape **shapes;            /* of points; NULL: as the one below, or not looked at */
	struct history_absence *absences; /* of the newest manifest that can be read */
	unsigned absence_count;
	unsigned absences_of; /* 1 + its index; 0: none could be read */
};

void vault_reading_absences(const struct vault_reading *reading,
	const struct history_absence **ret_absences, unsigned *ret_count)
{
	*ret_absences = reading->absences;
	*ret_count = reading->absence_count;
}

void vault_reading_free(struct vault_reading *import)
{
	if (!import)
		return;
	for (unsigned i = 0; import->shapes && i < import->points.count; i++)
		free(import->shapes[i]);
	free(import->shapes);
	free(import->absences);
	vault_points_free(&import->points);
	free(import);
}

static void reading_freep(struct vault_reading **import)
{
	vault_reading_free(*import);
}

static const struct shape_disk *shape_find(const struct shape *shape, uint16_t id)
{
	for (unsigned i = 0; i < shape->count; i++)
		if (shape->disks[i].id == id)
			return &shape->disks[i];
	return NULL;
}

static bool shape_equal(const struct shape *a, const struct shape *b)
{
	if (!a || !b || a->count != b->count)
		return false;
	for (unsigned i = 0; i < a->count; i++) {
		const struct shape_disk *d = shape_find(b, a->disks[i].id);
		if (!d || d->size_bytes != a->disks[i].size_bytes)
			return false;
	}
	return true;
}

/* A manifest that is damaged has no shape: nothing can read the point anyway. */
static int look_at(struct vault_reading *import, unsigned i)
{
	if (import->shapes[i])
		return 0;
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char etag[BLOB_ETAG_BYTES];
	int r = vault_manifest_load(import->store, import->group, import->points.items[i].number,
		import->error, &m, NULL, etag);
	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	struct shape *shape = malloc(sizeof(*shape) + m.disk_count * sizeof(struct shape_disk));
	if (!shape)
		return -ENOMEM;
	shape->count = m.disk_count;
	for (unsigned d = 0; d < m.disk_count; d++)
		shape->disks[d] = (struct shape_disk){ m.disks[d].id, m.disks[d].size_bytes };
	import->shapes[i] = shape;
	if (i >= import->absences_of) {
		free(import->absences);
		import->absence_count = m.absence_count;
		import->absences = TAKE(m.absences);
		import->absences_of = i + 1;
	}
	return 0;
}

/* A damaged one is unlike any other: so the newest that can be read is looked at always, and with
 * it what it tells of absences. What has ended since is hidden too long; what has begun since is in
 * no point that can be read. */
/* Finds every change in [low, high], between which no disk was added. */
static int find_changes(struct vault_reading *import, unsigned low, unsigned high)
{
	int r = look_at(import, low);
	if (r == 0)
		r = look_at(import, high);
	if (r < 0 || high - low < 2 || shape_equal(import->shapes[low], import->shapes[high]))
		return r;
	unsigned middle = low + (high - low) / 2;
	r = find_changes(import, low, middle);
	return r < 0 ? r : find_changes(import, middle, high);
}

static bool adds_disk(const struct vault_reading *import, unsigned i)
{
	uint64_t below = i > 0 ? import->points.items[i - 1].number : 0;
	for (unsigned d = 0; d < import->group->disk_count; d++) {
		uint64_t added = import->group->disks[d].added_point;
		if (added > below && added <= import->points.items[i].number)
			return true;
	}
	return false;
}

static int find_all_changes(struct vault_reading *import)
{
	import->shapes = calloc(import->points.count + 1, sizeof(*import->shapes));
	if (!import->shapes)
		return -ENOMEM;
	for (unsigned low = 0, i = 1; i <= import->points.count; i++) {
		if (i < import->points.count && !adds_disk(import, i))
			continue;
		int r = find_changes(import, low, i - 1);
		if (r < 0)
			return r;
		low = i;
	}
	return 0;
}

/* Thousands of records are more than a history stages at once. */
static int made_room(const struct vault_reading *import, int r)
{
	uint64_t lsn;
	return r == -EAGAIN && history_commit(import->history, &lsn) == 0;
}

static int import_disk(
	struct vault_reading *import, const struct vault_disk *disk, uint64_t size_bytes)
{
	struct history_disk d = { .id = disk->id, .size_bytes = size_bytes };
	uint64_t lsn;
	int r;
	d.added_point = disk->added_point;
	strcpy(d.name, disk->name);
	do
		r = history_import_disk(import->history, &d, &lsn);
	while (made_room(import, r));
	if (r < 0)
		return error_set(import->error, r, NULL, "cannot import disk %s", disk->name);
	return 0;
}

/* Gives the history's disk that size, or takes it away (0). */
static int set_disk(
	struct vault_reading *import, const struct vault_disk *disk, uint64_t size_bytes)
{
	struct history_disk has;
	uint64_t lsn;
	int r = history_disk(import->history, disk->id, &has);
	if (r == -ENOENT)
		return size_bytes ? import_disk(import, disk, size_bytes) : 0;
	if (r < 0 || has.removed || has.size_bytes == size_bytes)
		return r;
	do
		r = size_bytes ? history_grow_disk(import->history, disk->id, size_bytes, &lsn)
			       : history_remove_disk(import->history, disk->id, &lsn);
	while (made_room(import, r));
	if (r < 0)
		return error_set(
			import->error, r, NULL, "cannot import the changes of disk %s", disk->name);
	return 0;
}

/* Removals first: a name may be used again. */
static int take_shape(struct vault_reading *import, const struct shape *shape)
{
	int r = 0;
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned d = 0; r == 0 && d < import->group->disk_count; d++) {
			const struct vault_disk *disk = &import->group->disks[d];
			const struct shape_disk *there = shape_find(shape, disk->id);
			if ((pass == 0) == !there)
				r = set_disk(import, disk, there ? there->size_bytes : 0);
		}
	}
	return r;
}

/* Removed disks that no point shows: their numbers are not given again. */
static int take_unseen(struct vault_reading *import)
{
	int r = 0;
	for (unsigned d = 0; r == 0 && d < import->group->disk_count; d++) {
		const struct vault_disk *disk = &import->group->disks[d];
		struct history_disk has;
		bool seen = !disk->removed;
		for (unsigned i = 0; !seen && i < import->points.count; i++)
			seen = import->shapes[i] && shape_find(import->shapes[i], disk->id);
		if (seen || history_disk(import->history, disk->id, &has) == 0)
			continue;
		r = import_disk(import, disk, disk->size_bytes);
		if (r == 0)
			r = set_disk(import, disk, 0);
	}
	return r;
}

/* What came after the newest point. */
static int take_present(struct vault_reading *import)
{
	int r = 0;
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned d = 0; r == 0 && d < import->group->disk_count; d++) {
			const struct vault_disk *disk = &import->group->disks[d];
			if ((pass == 0) == disk->removed)
				r = set_disk(import, disk, disk->removed ? 0 : disk->size_bytes);
		}
	}
	return r;
}

static int import_point(struct vault_reading *import, const struct vault_point_item *item)
{
	struct point point = { .number = item->number,
		.time_ns = item->time_ns,
		.changed_bytes = item->changed_bytes,
		.flags = POINT_VAULT | (item->flags & (POINT_KEEP | POINT_PRESSURE)),
		.kind = item->kind };
	uint64_t lsn;
	int r;
	do
		r = history_point_import(import->history, &point, &lsn);
	while (made_room(import, r));
	if (r < 0)
		return error_set(
			import->error, r, NULL, "cannot import point %" PRIu64, item->number);
	return 0;
}

static int list_points(struct vault_reading *import)
{
	int r = vault_points_list(import->store, import->group, import->error, &import->points);
	unsigned kept = 0;
	for (unsigned i = 0; r == 0 && i < import->points.count; i++) {
		const struct vault_point_item *item = &import->points.items[i];
		if (vault_point_is_committed(item) && item->told)
			import->points.items[kept++] = *item;
	}
	if (r == 0)
		import->points.count = kept;
	return r;
}

int vault_import_read(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct vault_reading **ret_reading)
{
	CLEANUP(reading_freep) struct vault_reading *import = calloc(1, sizeof(*import));
	if (!import)
		return error_set(error, -ENOMEM, NULL, "not enough memory to import points");
	import->store = store;
	import->group = group;
	import->error = error;
	int r = list_points(import);
	if (r == 0)
		r = find_all_changes(import);
	if (r < 0)
		return r;
	*ret_reading = TAKE(import);
	return 0;
}

int vault_import_write(struct vault_reading *import, struct history *history, struct error *error)
{
	struct point newest = { 0 };
	import->history = history;
	import->error = error;
	(void)history_point_newest(history, 0, INT64_MAX, &newest);
	int r = take_unseen(import);
	for (unsigned i = 0; r == 0 && i < import->points.count; i++) {
		if (import->points.items[i].number <= newest.number)
			continue;
		if (import->shapes[i])
			r = take_shape(import, import->shapes[i]);
		if (r == 0)
			r = import_point(import, &import->points.items[i]);
	}
	return r < 0 ? r : take_present(import);
}

int vault_import(struct blob_store *store, const struct vault_group *group, struct history *history,
	struct error *error)
{
	CLEANUP(reading_freep) struct vault_reading *import = NULL;
	int r = vault_import_read(store, group, error, &import);
	return r < 0 ? r : vault_import_write(import, history, error);
}
