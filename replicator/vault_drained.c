/*
 * The hashes objects of what was drained: named, written, merged, deleted. drained_format.h tells
 * what they are.
 */
#include "replicator/vault_drained.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/backoff.h"

static void free_reader(struct hashes_reader **reader)
{
	hashes_reader_free(*reader);
}

static void free_writer(struct hashes_writer **writer)
{
	hashes_writer_free(*writer);
}

/* ── the list ────────────────────────────────────────────────────────────────────────────── */

size_t vault_drained_bytes(const struct drained_proof *proof)
{
	return offsetof(struct drained_proof, parts) + proof->count * sizeof(proof->parts[0]);
}

int vault_drained_parse(
	const void *data, size_t n, struct error *error, struct drained_proof *ret_proof)
{
	struct drained_proof proof = { .magic = DRAINED_MAGIC, .version = DRAINED_VERSION };
	if (n == 0) {
		*ret_proof = proof;
		return 0;
	}
	if (n >= offsetof(struct drained_proof, parts))
		memcpy(&proof, data, offsetof(struct drained_proof, parts));
	if (proof.magic != DRAINED_MAGIC || proof.count > DRAINED_PARTS ||
		n < offsetof(struct drained_proof, parts))
		return error_set(error, -EBADMSG, NULL, "the journal's list of proofs is damaged");
	if (proof.version != DRAINED_VERSION)
		return error_set(error, -EPROTONOSUPPORT, "use the newer release that wrote it",
			"the journal's list of proofs has version %u", proof.version);
	if (n != vault_drained_bytes(&proof))
		return error_set(error, -EBADMSG, NULL, "the journal's list of proofs is damaged");
	memcpy(&proof, data, n);
	*ret_proof = proof;
	return 0;
}

/* ── reading and writing ─────────────────────────────────────────────────────────────────── */

int vault_drained_open(struct vault_hashes *hashes, struct blob_store *store,
	const struct vault_group *group, uint64_t number, const struct drained_part *part,
	struct error *error, struct hashes_reader **ret_reader)
{
	CLEANUP(free_reader) struct hashes_reader *reader = NULL;
	struct hashes_source source;
	struct uuid id;
	uint64_t from, of;
	vault_hashes_open(hashes, store, group, number, &source);
	vault_drained_name(group->name, number, part, hashes->name);
	int r = hashes_reader_new(&source, error, &reader);
	if (r == -ENOENT)
		return error_set(error, -EBADMSG, NULL, "%s is missing", hashes->name);
	if (r < 0)
		return r;
	hashes_reader_coverage(reader, &id, &from, &of);
	if (of != number || memcmp(&id, &group->id, sizeof(id)) != 0)
		return error_set(error, -EBADMSG, NULL, "%s is of another point", hashes->name);
	*ret_reader = reader;
	reader = NULL;
	return 0;
}

int vault_drained_stage(struct vault_stage *stage, struct blob_store *store,
	const atomic_bool *cancel, const struct vault_group *group, uint64_t number,
	const struct drained_part *part, struct error *error, struct hashes_sink *ret_sink)
{
	int r = vault_stage_open(stage, store, cancel, group, number, error, ret_sink);
	if (r == 0)
		vault_drained_name(group->name, number, part, stage->name);
	return r;
}

/* Read to its end, it must be the one that was written. */
static int check_end(struct hashes_reader *reader, const struct vault_hashes *hashes,
	const struct drained_part *part, struct error *error)
{
	uint64_t bytes, digest;
	hashes_reader_totals(reader, &bytes, &digest);
	if (bytes == part->bytes && digest == part->digest)
		return 0;
	return error_set(error, -EBADMSG, NULL, "%s is not the one that was written", hashes->name);
}

int vault_drained_merge(struct blob_store *store, const struct vault_group *group, uint64_t number,
	const struct drained_part *older, const struct drained_part *newer,
	struct hashes_writer *writer, struct error *error)
{
	CLEANUP(free_reader) struct hashes_reader *old = NULL;
	CLEANUP(free_reader) struct hashes_reader *new = NULL;
	struct vault_hashes h[2];
	int r = vault_drained_open(&h[0], store, group, number, older, error, &old);
	if (r == 0)
		r = vault_drained_open(&h[1], store, group, number, newer, error, &new);
	if (r == 0)
		r = hashes_merge(old, new, writer, error);
	if (r == 0)
		r = check_end(old, &h[0], older, error);
	return r < 0 ? r : check_end(new, &h[1], newer, error);
}

int vault_drained_join(struct blob_store *store, const atomic_bool *cancel,
	const struct vault_group *group, uint64_t base, uint64_t number,
	const struct drained_part *older, const struct drained_part *newer, struct error *error,
	struct drained_part *ret_part)
{
	CLEANUP(free_writer) struct hashes_writer *writer = NULL;
	struct drained_part part = {
		.generation = group->generation, .from = older->from, .to = newer->to
	};
	struct vault_stage stage;
	struct hashes_sink sink;
	struct hashes_written written;
	struct error why = { 0 };
	int r = vault_drained_stage(&stage, store, cancel, group, number, &part, error, &sink);
	if (r < 0)
		return r;
	r = hashes_writer_new(&group->id, base, number, &sink, &writer);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory to merge hashes");
	r = vault_drained_merge(store, group, number, older, newer, writer, &why);
	if (r == 0)
		r = hashes_writer_finish(writer, &written);
	if (r < 0) {
		if (error)
			*error = stage.error.code ? stage.error : why;
		return r;
	}
	r = vault_stage_commit(&stage, &written, NULL, error);
	if (r < 0)
		return r;
	part.bytes = written.bytes;
	part.digest = written.digest;
	*ret_part = part;
	return 0;
}

/* ── deleting ────────────────────────────────────────────────────────────────────────────── */

struct found {
	const struct vault_group *group;
	struct found_part {
		uint64_t number;
		struct drained_part part;
		char etag[BLOB_ETAG_BYTES];
	} * items;
	size_t count;
};

static int take_item(void *context, const struct blob_item *item)
{
	struct found *f = context;
	struct found_part found;
	if (item->snapshot ||
		!vault_drained_of_name(f->group->name, item->blob, &found.number, &found.part))
		return 0;
	void *more = realloc(f->items, (f->count + 1) * sizeof(*f->items));
	if (!more)
		return -ENOMEM;
	snprintf(found.etag, sizeof(found.etag), "%s", item->etag);
	f->items = more;
	f->items[f->count++] = found;
	return 0;
}

static void free_found(struct found *f)
{
	free(f->items);
}

int vault_drained_delete(struct blob_store *store, const struct vault_group *group, uint64_t number,
	const struct drained_part *part, struct error *error)
{
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	vault_drained_name(group->name, number, part, name);
	int r = vault_object_etag(store, name, error, etag);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return vault_object_delete(store, name, etag, error);
}

int vault_drained_collect(struct blob_store *store, const struct vault_group *group,
	uint64_t pending, struct error *error, unsigned *deleted)
{
	CLEANUP(free_found) struct found found = { .group = group };
	struct blob_error e = { 0 };
	struct backoff backoff;
	char prefix[VAULT_NAME_BYTES];
	int r;
	vault_points_prefix(group->name, prefix);
	backoff_start(&backoff, store, NULL);
	do {
		found.count = 0;
		r = store->ops->list(store, prefix, 0, take_item, &found, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r < 0)
		return vault_fail(error, r, &e, "cannot list the points of %s", group->name);
	for (size_t i = 0; r == 0 && i < found.count; i++) {
		const struct found_part *p = &found.items[i];
		char name[VAULT_NAME_BYTES];
		/* A new owner's bear a higher generation. */
		if ((pending != 0 && p->number >= pending) ||
			p->part.generation > group->generation)
			continue;
		vault_drained_name(group->name, p->number, &p->part, name);
		r = vault_object_delete(store, name, p->etag, error);
		*deleted += r == 0;
	}
	return r;
}
