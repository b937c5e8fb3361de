/*
 * See vault_strays.h. No state; threads as the store's.
 */
#include "replicator/vault_strays.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/backoff.h"

/* ── manifests ───────────────────────────────────────────────────────────────────────────── */

void vault_lost_free(struct vault_lost *lost)
{
	free(lost->numbers);
	*lost = (struct vault_lost){ 0 };
}

static const struct vault_point_item *find_item(const struct vault_points *points, uint64_t number)
{
	unsigned low = 0, high = points->count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (points->items[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low < points->count && points->items[low].number == number ? &points->items[low]
									  : NULL;
}

static int add_number(
	struct vault_lost *lost, const struct vault_points *points, uint64_t above, uint64_t number)
{
	const struct vault_point_item *item = find_item(points, number);
	if (number <= above || (item && item->manifest))
		return 0;
	unsigned at = 0;
	while (at < lost->count && lost->numbers[at] < number)
		at++;
	if (at < lost->count && lost->numbers[at] == number)
		return 0;
	uint64_t *more = realloc(lost->numbers, (lost->count + 1u) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	lost->numbers = more;
	memmove(more + at + 1, more + at, (lost->count - at) * sizeof(*more));
	more[at] = number;
	lost->count++;
	return 0;
}

int vault_lost_collect(const struct vault_snapshots *snapshots, unsigned disk_count,
	const struct vault_points *points, struct vault_lost *ret_lost)
{
	CLEANUP(vault_lost_free) struct vault_lost lost = { 0 };
	const struct vault_point_item *newest = vault_points_below(points, UINT64_MAX);
	uint64_t above = newest ? newest->number : 0;
	int r = 0;
	for (unsigned d = 0; r == 0 && d < disk_count; d++)
		for (unsigned i = 0; r == 0 && i < snapshots[d].count; i++)
			if (snapshots[d].items[i].tagged)
				r = add_number(&lost, points, above, snapshots[d].items[i].point);
	for (unsigned i = 0; r == 0 && i < points->count; i++)
		if (points->items[i].hashes)
			r = add_number(&lost, points, above, points->items[i].number);
	if (r < 0)
		return r;
	*ret_lost = lost;
	lost = (struct vault_lost){ 0 };
	return 0;
}

int vault_lost_find(struct blob_store *store, const struct vault_group *group, struct error *error,
	struct vault_lost *ret_lost)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	struct vault_snapshots *snapshots = calloc(group->disk_count + 1u, sizeof(*snapshots));
	if (!snapshots)
		return error_set(error, -ENOMEM, NULL, "not enough memory to list snapshots");
	int r = 0;
	for (unsigned d = 0; r == 0 && d < group->disk_count; d++) {
		char blob[VAULT_NAME_BYTES];
		vault_blob_name(group->disks[d].name, blob);
		r = vault_snapshots_list(store, blob, &group->id, NULL, &snapshots[d]);
		if (r == -ENOENT)
			r = 0;
		else if (r < 0)
			error_set(error, r, NULL, "cannot list the snapshots of %s", blob);
	}
	if (r == 0)
		r = vault_points_list(store, group, error, &points);
	if (r == 0 && (r = vault_lost_collect(snapshots, group->disk_count, &points, ret_lost)) < 0)
		error_set(error, r, NULL, "not enough memory to list snapshots");
	for (unsigned d = 0; d < group->disk_count; d++)
		vault_snapshots_free(&snapshots[d]);
	free(snapshots);
	return r;
}

/* ── groups and disks ────────────────────────────────────────────────────────────────────── */

void vault_strays_free(struct vault_strays *strays)
{
	free(strays->disks);
	free(strays->groups);
	*strays = (struct vault_strays){ 0 };
}

static struct vault_stray *find_stray(struct vault_stray *list, unsigned count, const char *name)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(list[i].name, name) == 0)
			return &list[i];
	return NULL;
}

/* NULL: not enough memory. */
static struct vault_stray *add_stray(struct vault_stray **list, unsigned *count, const char *name)
{
	struct vault_stray *more = realloc(*list, (*count + 1u) * sizeof(*more));
	if (!more)
		return NULL;
	*list = more;
	more += (*count)++;
	*more = (struct vault_stray){ 0 };
	snprintf(more->name, sizeof(more->name), "%s", name);
	return more;
}

static int take_disk(void *context, const struct blob_item *item)
{
	struct vault_strays *s = context;
	if (item->snapshot)
		return 0;
	return add_stray(&s->disks, &s->disk_count, item->blob) ? 0 : -ENOMEM;
}

/* Listings are sorted: a group's objects come one after another. */
static int take_object(void *context, const struct blob_item *item)
{
	struct vault_strays *s = context;
	char name[64], owner[64];
	const char *rest = item->blob + strlen(VAULT_GROUPS_PREFIX);
	size_t n = strcspn(rest, "/");
	if (n == 0 || n >= sizeof(name) || rest[n] != '/')
		return 0;
	memcpy(name, rest, n);
	name[n] = '\0';
	struct vault_stray *group =
		s->group_count > 0 ? find_stray(&s->groups[s->group_count - 1], 1, name) : NULL;
	if (!group)
		group = add_stray(&s->groups, &s->group_count, name);
	if (!group)
		return -ENOMEM;
	group->objects += !vault_group_of_name(item->blob, owner);
	return 0;
}

int vault_strays_list(
	struct blob_store *store, struct error *error, struct vault_strays *ret_strays)
{
	static const struct {
		const char *prefix;
		int (*take)(void *context, const struct blob_item *item);
	} parts[] = { { VAULT_MACHINES_PREFIX, take_disk }, { VAULT_GROUPS_PREFIX, take_object } };
	CLEANUP(vault_strays_free) struct vault_strays s = { 0 };
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct blob_error e = { 0 };
		struct backoff backoff;
		int r;
		backoff_start(&backoff, store, NULL);
		do {
			*(i == 0 ? &s.disk_count : &s.group_count) = 0;
			r = store->ops->list(store, parts[i].prefix, 0, parts[i].take, &s, &e);
		} while (r < 0 && backoff_again(&backoff, r, &e));
		if (r < 0)
			return vault_fail(error, r, &e, "cannot list %s", parts[i].prefix);
	}
	*ret_strays = s;
	s = (struct vault_strays){ 0 };
	return 0;
}

void vault_strays_explain(struct vault_strays *strays, const struct vault_group *group)
{
	struct vault_stray *stray = find_stray(strays->groups, strays->group_count, group->name);
	if (stray)
		stray->explained = true;
	for (unsigned i = 0; i < group->disk_count; i++) {
		char blob[VAULT_NAME_BYTES];
		vault_blob_name(group->disks[i].name, blob);
		stray = find_stray(strays->disks, strays->disk_count, blob);
		if (stray)
			stray->explained = true;
	}
}

/* It may have been deleted, or made, meanwhile. A group whose owner.json cannot be read is told of
 * elsewhere, and its disks may be any of those that nothing explains. */
static int look_again(
	struct vault_strays *strays, struct blob_store *store, struct error *error, bool *ret_dark)
{
	for (unsigned i = 0; i < strays->group_count; i++) {
		CLEANUP(vault_group_free) struct vault_group group = { 0 };
		struct error why = { 0 };
		if (strays->groups[i].explained)
			continue;
		int r = vault_group_load(store, strays->groups[i].name, &why, &group);
		if (r == -EBADMSG || r == -EPROTONOSUPPORT || r == -EINVAL) {
			strays->groups[i].explained = *ret_dark = true;
			continue;
		}
		if (r < 0 && r != -ENOENT) {
			if (error)
				*error = why;
			return r;
		}
		if (r == 0)
			vault_strays_explain(strays, &group);
	}
	for (unsigned i = 0; i < strays->disk_count; i++) {
		struct blob_properties properties;
		struct blob_error e = { 0 };
		if (strays->disks[i].explained)
			continue;
		int r = store->ops->properties(store, strays->disks[i].name, &e, &properties);
		if (r < 0 && r != -ENOENT)
			return vault_fail(error, r, &e, "cannot look at %s", strays->disks[i].name);
		strays->disks[i].explained = r == -ENOENT;
	}
	return 0;
}

int vault_strays_tell(struct vault_strays *strays, struct blob_store *store,
	void (*told)(void *context, const char *text), void *context, struct error *error)
{
	char text[VAULT_NAME_BYTES + 160], owner[VAULT_NAME_BYTES];
	bool dark = false;
	int r = look_again(strays, store, error, &dark);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < strays->group_count; i++) {
		/* Alone it has just been deleted. */
		if (strays->groups[i].explained || strays->groups[i].objects == 0)
			continue;
		vault_owner_name(strays->groups[i].name, owner);
		snprintf(text, sizeof(text),
			"%s is missing; %u other objects of group %s are there", owner,
			strays->groups[i].objects, strays->groups[i].name);
		told(context, text);
	}
	for (unsigned i = 0; !dark && i < strays->disk_count; i++) {
		if (strays->disks[i].explained)
			continue;
		snprintf(text, sizeof(text), "no group's owner.json tells of %s, which is there",
			strays->disks[i].name);
		told(context, text);
	}
	return 0;
}
