/*
 * Deleting a vault point, and marking one.
 *
 * Its hashes are needed by every later point, so they are merged into the next one's before
 * anything goes; then the manifest goes, and with it the point; then what only it explained. A
 * call that was cut short may be repeated; what it leaves after the manifest is gone is found by
 * vault_collect_orphans.
 *
 * Each object is changed or deleted only as the one whose ETag was read *before* ownership was
 * confirmed: a takeover, which puts every manifest again, makes that ETag one that is no more. The
 * snapshots go only once the manifest is known to be gone, after which they are nobody's.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/cleanup.h"
#include "fs/point.h"
#include "replicator/manifest_format.h"

static void free_reader(struct hashes_reader **reader)
{
	hashes_reader_free(*reader);
}

static void free_writer(struct hashes_writer **writer)
{
	hashes_writer_free(*writer);
}

static int write_merged(struct vault_stage *stage, struct hashes_reader *older,
	struct hashes_reader *newer, struct hashes_writer *writer, const char *if_match,
	struct error *error)
{
	struct hashes_written written;
	struct error merge_error = { 0 };
	int r = hashes_merge(older, newer, writer, &merge_error);
	if (r == 0)
		r = hashes_writer_finish(writer, &written);
	if (r < 0) {
		/* whichever side failed has said why */
		if (error)
			*error = stage->error.code ? stage->error : merge_error;
		return r;
	}
	return vault_stage_commit(stage, &written, if_match, error);
}

/* A merge of an earlier life may land while ours reads; that many do not. */
#define MERGE_TRIES 4u

/* Hashes of `next` become those of both. -EAGAIN: they were replaced meanwhile. */
static int merge_hashes(struct blob_store *store, const struct vault_group *group, uint64_t number,
	uint64_t next, struct error *error)
{
	CLEANUP(free_reader) struct hashes_reader *older = NULL;
	CLEANUP(free_reader) struct hashes_reader *newer = NULL;
	CLEANUP(free_writer) struct hashes_writer *writer = NULL;
	struct vault_hashes h[2];
	struct vault_stage stage;
	struct hashes_source source[2];
	struct hashes_sink sink;
	struct uuid id;
	uint64_t from[2], to[2];
	char etag[BLOB_ETAG_BYTES];
	vault_hashes_open(&h[0], store, group, number, &source[0]);
	vault_hashes_open(&h[1], store, group, next, &source[1]);
	int r = hashes_reader_new(&source[0], error, &older);
	if (r == 0)
		r = hashes_reader_new(&source[1], error, &newer);
	if (r < 0)
		return r;
	memcpy(etag, h[1].etag, sizeof(etag));
	hashes_reader_coverage(older, &id, &from[0], &to[0]);
	hashes_reader_coverage(newer, &id, &from[1], &to[1]);
	if (from[1] <= from[0])
		return 0; /* merged already */
	r = vault_owner_confirm(store, group, error);
	if (r < 0)
		return r;
	r = vault_stage_open(&stage, store, NULL, group, next, error, &sink);
	if (r < 0)
		return r;
	r = hashes_writer_new(&group->id, from[0], next, &sink, &writer);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory to merge hashes");
	return write_merged(&stage, older, newer, writer, etag, error);
}

/* As listed; NULL: there is none. */
static const char *hashes_etag(const struct vault_points *points, uint64_t number)
{
	for (unsigned i = 0; i < points->count; i++)
		if (points->items[i].number == number && points->items[i].hashes)
			return points->items[i].hashes_etag;
	return NULL;
}

int vault_point_delete(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	int r = vault_manifest_load(store, group, number, error, &m, NULL, etag);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = vault_points_list(store, group, error, &points);
	if (r == 0)
		r = vault_owner_confirm(store, group, error);
	if (r < 0)
		return r;
	const struct vault_point_item *next = vault_points_above(&points, number);
	if (!next)
		return error_set(error, -EBUSY, "delete it once a newer one is in the vault",
			"point %" PRIu64 " is the newest in the vault", number);
	unsigned tries = 0;
	do
		r = merge_hashes(store, group, number, next->number, error);
	while (r == -EAGAIN && ++tries < MERGE_TRIES);
	if (r < 0)
		return vault_owner_blame(store, group, r, error);
	vault_manifest_name(group->name, number, name);
	r = vault_object_delete(store, name, etag, error);
	for (unsigned i = 0; r == 0 && i < m.disk_count; i++)
		r = vault_snapshot_delete(store, m.disks[i].blob, m.disks[i].snapshot, error);
	vault_hashes_name(group->name, number, name);
	const char *left = hashes_etag(&points, number);
	return r < 0 || !left ? r : vault_object_delete(store, name, left, error);
}

int vault_point_keep(struct blob_store *store, const struct vault_group *group, uint64_t number,
	bool keep, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct vault_metadata metadata = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	/* The very bytes are put again: the next manifest holds their hash. */
	vault_manifest_name(group->name, number, name);
	int r = vault_object_get(store, name, MANIFEST_MAX_BYTES, error, &text, etag);
	if (r == 0)
		r = manifest_parse(name, text.data, text.len, error, &m);
	if (r == 0)
		r = vault_owner_confirm(store, group, error);
	if (r < 0)
		return r;
	uint32_t flags = keep ? m.flags | POINT_KEEP : m.flags & ~(uint32_t)POINT_KEEP;
	vault_manifest_metadata(&m, flags, &metadata);
	return vault_object_put(
		store, name, &text, etag, metadata.items, metadata.count, error, etag);
}
