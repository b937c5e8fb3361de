/*
 * See vault_snapshots.h.
 */
#include "replicator/vault_snapshots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/backoff.h"
#include "replicator/manifest_format.h"
#include "replicator/sealed_json.h"
#include "replicator/vault_internal.h"

struct listing {
	const char *blob;
	char group[UUID_TEXT_BYTES];
	struct vault_snapshots found;
	unsigned capacity;
	bool base;
};

void vault_snapshots_free(struct vault_snapshots *snapshots)
{
	free(snapshots->items);
	*snapshots = (struct vault_snapshots){ 0 };
}

static void read_tags(
	const struct listing *l, const struct blob_item *item, struct vault_snapshot *snapshot)
{
	unsigned found = 0;
	for (unsigned i = 0; i < item->metadata_count; i++) {
		const char *name = item->metadata[i].name, *value = item->metadata[i].value;
		if (strcmp(name, SNAPSHOT_META_GROUP) == 0)
			found |= strcmp(value, l->group) == 0 ? 1 : 0;
		else if (strcmp(name, SNAPSHOT_META_POINT) == 0)
			found |= text_to_u64(value, &snapshot->point) == 0 ? 2 : 0;
		else if (strcmp(name, SNAPSHOT_META_SEQUENCE) == 0)
			found |= text_to_u64(value, &snapshot->sequence) == 0 ? 4 : 0;
	}
	snapshot->tagged = found == 7;
}

static int take(void *context, const struct blob_item *item)
{
	struct listing *l = context;
	struct vault_snapshot snapshot = { 0 };
	if (strcmp(item->blob, l->blob) != 0)
		return 0;
	if (!item->snapshot) {
		l->base = true;
		return 0;
	}
	if (strlen(item->snapshot) >= sizeof(snapshot.id))
		return -EBADMSG;
	strcpy(snapshot.id, item->snapshot);
	read_tags(l, item, &snapshot);
	if (l->found.count == l->capacity) {
		unsigned capacity = l->capacity ? 2 * l->capacity : 16;
		void *more = realloc(l->found.items, capacity * sizeof(snapshot));
		if (!more)
			return -ENOMEM;
		l->found.items = more;
		l->capacity = capacity;
	}
	l->found.items[l->found.count++] = snapshot;
	return 0;
}

static int by_id(const void *a, const void *b)
{
	return strcmp(
		((const struct vault_snapshot *)a)->id, ((const struct vault_snapshot *)b)->id);
}

int vault_snapshots_list(struct blob_store *store, const char *blob, const struct uuid *group,
	struct error *error, struct vault_snapshots *ret_snapshots)
{
	struct listing l = { .blob = blob };
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	uuid_format(group, l.group);
	backoff_start(&backoff, store, NULL);
	do {
		l.found.count = 0;
		r = store->ops->list(
			store, blob, BLOB_LIST_SNAPSHOTS | BLOB_LIST_METADATA, take, &l, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r == 0 && !l.base && l.found.count == 0)
		r = -ENOENT;
	if (r < 0) {
		free(l.found.items);
		return vault_fail(error, r, &e, "cannot list the snapshots of %s", blob);
	}
	if (l.found.count > 0)
		qsort(l.found.items, l.found.count, sizeof(l.found.items[0]), by_id);
	*ret_snapshots = l.found;
	return 0;
}

struct vault_snapshot *vault_snapshots_find(const struct vault_snapshots *snapshots, const char *id)
{
	struct vault_snapshot key;
	if (snapshots->count == 0 || strlen(id) >= sizeof(key.id))
		return NULL;
	strcpy(key.id, id);
	return bsearch(&key, snapshots->items, snapshots->count, sizeof(key), by_id);
}
