/*
 * Steps 3 and 4 of a flush: snapshots, hashes, manifest.
 *
 * A snapshot bears a tag {group, point, sequence}. The sequence number is given out once, after
 * everything under older numbers was settled, and stays until the next flush: so whatever bears
 * this flush's tag shows exactly this point, whenever it was made, and may be adopted.
 *
 * A manifest is put with If-None-Match. If its answer is lost for good, the put may still be under
 * way (vault_point_settle).
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/backoff.h"
#include "replicator/manifest_format.h"
#include "replicator/vault_snapshots.h"

/* ── snapshots ───────────────────────────────────────────────────────────────────────────── */

/* Our snapshot, if an ambiguous request has made it after all. */
static bool adopt(struct flush *flush, const struct flush_disk *disk,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	CLEANUP(vault_snapshots_free) struct vault_snapshots all = { 0 };
	const struct flusher_options *options = &flush->flusher->options;
	if (vault_snapshots_list(options->store, disk->blob, &options->group->id, NULL, &all) < 0)
		return false;
	for (unsigned i = 0; i < all.count; i++) {
		const struct vault_snapshot *s = &all.items[i];
		if (!s->tagged || s->point != flush->point.number ||
			(int64_t)s->sequence != disk->target.sequence)
			continue;
		memcpy(ret_snapshot, s->id, BLOB_SNAPSHOT_ID_BYTES);
		return true;
	}
	return false;
}

static int snapshot_disk(struct flush *flush, const struct flush_disk *disk,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	const struct flusher_options *options = &flush->flusher->options;
	struct blob_store *store = options->store;
	struct blob_error e = { 0 };
	struct backoff backoff;
	char group[UUID_TEXT_BYTES], point[24], sequence[24];
	int r;
	uuid_format(&options->group->id, group);
	snprintf(point, sizeof(point), "%" PRIu64, flush->point.number);
	snprintf(sequence, sizeof(sequence), "%" PRId64, disk->target.sequence);
	const struct blob_metadata tags[] = { { SNAPSHOT_META_GROUP, group },
		{ SNAPSHOT_META_POINT, point }, { SNAPSHOT_META_SEQUENCE, sequence } };
	backoff_start(&backoff, options->store, &flush->flusher->cancel);
	do {
		r = store->ops->snapshot(
			store, disk->blob, disk->target.lease_id, tags, 3, &e, ret_snapshot);
		if (r < 0 && e.ambiguous && adopt(flush, disk, ret_snapshot))
			return 0;
	} while (r < 0 && backoff_again(&backoff, r, &e));
	return r < 0 ? vault_fail(flush->error, r, &e, "cannot snapshot %s", disk->blob) : 0;
}

int flush_snapshot_disks(struct flush *flush)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < flush->manifest.disk_count; i++) {
		if (atomic_load(&flush->flusher->cancel))
			return error_set(flush->error, -ECANCELED, NULL, "canceled");
		r = snapshot_disk(flush, flush->disks[i], flush->manifest.disks[i].snapshot);
	}
	return r;
}

/* ── manifest ────────────────────────────────────────────────────────────────────────────── */

/* The name is taken. By a tombstone or by one that came too late: it may be replaced. By one of
 * our own, of an earlier try whose answer was lost: then the point is committed, and what it
 * names shows the same bytes. */
static int replace(
	struct flusher *f, const struct manifest *m, struct error *error, struct hash128 *ret_hash)
{
	CLEANUP(manifest_free) struct manifest there = { 0 };
	char etag[BLOB_ETAG_BYTES], name[VAULT_NAME_BYTES];
	struct blob_store *store = f->options.store;
	struct hash128 hash;
	int r = vault_manifest_load(store, f->options.group, m->number, error, &there, &hash, etag);
	if (r < 0)
		return r;
	bool stands =
		!there.abandoned && !vault_is_cut(f->options.group, there.generation, m->number);
	if (stands && memcmp(&there.appliance, &m->appliance, sizeof(m->appliance)) == 0 &&
		there.previous == m->previous && there.hashes_digest == m->hashes_digest) {
		*ret_hash = hash;
		return 0;
	}
	if (stands) {
		vault_manifest_name(m->group_name, m->number, name);
		return error_set(error, -ESTALE, "run landfall vault check",
			"%s is there already, put by somebody else", name);
	}
	return vault_manifest_put(store, m, etag, error, ret_hash);
}

static int put_manifest(
	struct flusher *f, const struct manifest *m, struct error *error, struct hash128 *ret_hash)
{
	int r = vault_manifest_put(f->options.store, m, "", error, ret_hash);
	return r == -EEXIST ? replace(f, m, error, ret_hash) : r;
}

int flush_commit_point(struct flush *flush, const struct hashes_written *written)
{
	struct flusher *f = flush->flusher;
	struct manifest *m = &flush->manifest;
	struct hash128 hash;
	int r = vault_stage_commit(&flush->stage, written, NULL, flush->error);
	if (r < 0)
		return r;
	m->hashes_bytes = written->bytes;
	m->hashes_digest = written->digest;
	m->previous = flush->previous;
	m->previous_hash = f->previous_hash;
	r = put_manifest(f, m, flush->error, &hash);
	if (r < 0)
		return r;
	f->previous = m->number;
	f->previous_hash = hash;
	return 0;
}

int flush_load_previous(
	struct flusher *f, uint64_t number, struct error *error, struct manifest *ret_manifest)
{
	char etag[BLOB_ETAG_BYTES];
	if (f->previous == number && number != 0)
		return 0;
	f->previous = 0;
	f->previous_hash = (struct hash128){ 0 };
	if (number == 0)
		return 0;
	int r = vault_manifest_load(f->options.store, f->options.group, number, error, ret_manifest,
		&f->previous_hash, etag);
	if (r == -ENOENT)
		return error_set(error, -EUCLEAN,
			"bring it back: the service may be able to undelete it, 'landfall vault "
			"check' tells what else is missing. Or go back to the newest point that is "
			"whole: 'landfall machine remove --keep-vault', then 'landfall vault "
			"takeover'",
			"the manifest of point %" PRIu64 ", the newest in the vault, is gone",
			number);
	if (r == 0)
		f->previous = number;
	return r;
}
