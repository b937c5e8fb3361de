/*
 * The points of a group as the vault has them: the listing, single manifests, hashes objects.
 *
 * A listing trusts the metadata, which repeats what the manifest says; where it is missing or
 * unreadable the manifest itself is read.
 */
#include "replicator/vault_internal.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/rng.h"
#include "common/utc.h"
#include "fs/point.h"
#include "replicator/backoff.h"
#include "replicator/manifest_format.h"
#include "replicator/sealed_json.h"

#define REPLACE_TRIES 4u

void vault_points_free(struct vault_points *points)
{
	free(points->items);
	*points = (struct vault_points){ 0 };
}

bool vault_is_cut(const struct vault_group *group, uint64_t generation, uint64_t number)
{
	for (unsigned i = 0; i < group->cut_count; i++)
		if (generation <= group->cuts[i].generation && number > group->cuts[i].above)
			return true;
	return false;
}

/* ── metadata ────────────────────────────────────────────────────────────────────────────── */

static const char *kind_text(const struct manifest *m)
{
	if (m->abandoned)
		return MANIFEST_KIND_ABANDONED;
	return m->kind == POINT_APPLICATION ? MANIFEST_KIND_APPLICATION : MANIFEST_KIND_CRASH;
}

void vault_manifest_metadata(const struct manifest *m, uint32_t flags, struct vault_metadata *md)
{
	snprintf(md->changed, sizeof(md->changed), "%" PRIu64, m->changed_bytes);
	snprintf(md->generation, sizeof(md->generation), "%" PRIu64, m->generation);
	utc_format_iso(m->time_ns, md->time);
	snprintf(md->flags, sizeof(md->flags), "%s%s%s", flags & POINT_KEEP ? "keep" : "",
		(flags & POINT_KEEP) && (flags & POINT_PRESSURE) ? "_" : "",
		flags & POINT_PRESSURE ? "pressure" : "");
	if (!md->flags[0])
		strcpy(md->flags, "none");
	md->items[0] = (struct blob_metadata){ MANIFEST_META_KIND, kind_text(m) };
	md->items[1] = (struct blob_metadata){ MANIFEST_META_TIME, md->time };
	md->items[2] = (struct blob_metadata){ MANIFEST_META_CHANGED, md->changed };
	md->items[3] = (struct blob_metadata){ MANIFEST_META_FLAGS, md->flags };
	md->items[4] = (struct blob_metadata){ MANIFEST_META_GENERATION, md->generation };
	md->count = 5;
}

static bool read_metadata(const struct blob_item *item, struct vault_point_item *point)
{
	unsigned found = 0;
	for (unsigned i = 0; i < item->metadata_count; i++) {
		const char *name = item->metadata[i].name, *value = item->metadata[i].value;
		if (strcmp(name, MANIFEST_META_KIND) == 0) {
			point->abandoned = strcmp(value, MANIFEST_KIND_ABANDONED) == 0;
			point->kind = strcmp(value, MANIFEST_KIND_APPLICATION) == 0
					      ? POINT_APPLICATION
					      : POINT_CRASH;
			found |= 1;
		} else if (strcmp(name, MANIFEST_META_TIME) == 0) {
			found |= utc_parse(value, &point->time_ns) == 0 ? 2 : 0;
		} else if (strcmp(name, MANIFEST_META_CHANGED) == 0) {
			found |= text_to_u64(value, &point->changed_bytes) == 0 ? 4 : 0;
		} else if (strcmp(name, MANIFEST_META_GENERATION) == 0) {
			found |= text_to_u64(value, &point->generation) == 0 ? 8 : 0;
		} else if (strcmp(name, MANIFEST_META_FLAGS) == 0) {
			point->flags |= strstr(value, "keep") ? POINT_KEEP : 0;
			point->flags |= strstr(value, "pressure") ? POINT_PRESSURE : 0;
			found |= 16;
		}
	}
	return found == 31;
}

/* ── listing ─────────────────────────────────────────────────────────────────────────────── */

struct listing {
	const struct vault_group *group;
	struct vault_points points;
	unsigned capacity;
};

static int take_item(void *context, const struct blob_item *item)
{
	struct listing *l = context;
	struct vault_point_item point = { 0 };
	bool hashes;
	if (item->snapshot ||
		!vault_point_of_name(l->group->name, item->blob, &point.number, &hashes))
		return 0;
	point.hashes = hashes;
	point.manifest = !hashes;
	snprintf(hashes ? point.hashes_etag : point.etag, BLOB_ETAG_BYTES, "%s", item->etag);
	if (!hashes)
		point.told = read_metadata(item, &point);
	if (l->points.count == l->capacity) {
		unsigned capacity = l->capacity ? 2 * l->capacity : 64;
		void *more = realloc(l->points.items, capacity * sizeof(point));
		if (!more)
			return -ENOMEM;
		l->points.items = more;
		l->capacity = capacity;
	}
	l->points.items[l->points.count++] = point;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const struct vault_point_item *x = a, *y = b;
	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return (int)y->manifest - (int)x->manifest;
}

/* One item a number: the manifest's, knowing of the hashes. */
static void join(struct vault_points *points)
{
	unsigned n = 0;
	qsort(points->items, points->count, sizeof(points->items[0]), by_number);
	for (unsigned i = 0; i < points->count; i++) {
		struct vault_point_item *last = n > 0 ? &points->items[n - 1] : NULL;
		if (last && last->number == points->items[i].number) {
			last->hashes = true;
			memcpy(last->hashes_etag, points->items[i].hashes_etag,
				sizeof(last->hashes_etag));
		} else {
			points->items[n++] = points->items[i];
		}
	}
	points->count = n;
}

/* Reads the manifest in place of its metadata; a damaged one keeps `told` false. */
static int read_instead(struct blob_store *store, const struct vault_group *group,
	struct vault_point_item *point, struct error *error)
{
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char etag[BLOB_ETAG_BYTES];
	int r = vault_manifest_load(store, group, point->number, error, &m, NULL, etag);
	if (r == -ENOENT) {
		point->manifest = false;
		return 0;
	}
	if (r == -EBADMSG)
		return 0;
	if (r < 0)
		return r;
	point->told = true;
	point->abandoned = m.abandoned;
	point->kind = m.kind;
	point->flags = m.flags;
	point->time_ns = m.time_ns;
	point->changed_bytes = m.changed_bytes;
	point->generation = m.generation;
	return 0;
}

int vault_points_list(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct vault_points *ret_points)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	struct listing listing = { .group = group };
	struct blob_error e = { 0 };
	struct backoff backoff;
	char prefix[VAULT_NAME_BYTES];
	int r;
	vault_points_prefix(group->name, prefix);
	backoff_start(&backoff, store, NULL);
	do {
		listing.points.count = 0;
		r = store->ops->list(store, prefix, BLOB_LIST_METADATA, take_item, &listing, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	points = listing.points;
	if (r < 0)
		return vault_fail(error, r, &e, "cannot list the points of %s", group->name);
	if (points.count > 0)
		join(&points);
	for (unsigned i = 0; i < points.count; i++) {
		struct vault_point_item *point = &points.items[i];
		if (point->manifest && !point->told)
			r = read_instead(store, group, point, error);
		if (r < 0)
			return r;
		point->cut = point->told && vault_is_cut(group, point->generation, point->number);
	}
	*ret_points = points;
	points = (struct vault_points){ 0 };
	return 0;
}

const struct vault_point_item *vault_points_above(
	const struct vault_points *points, uint64_t number)
{
	for (unsigned i = 0; i < points->count; i++)
		if (points->items[i].number > number && vault_point_is_committed(&points->items[i]))
			return &points->items[i];
	return NULL;
}

const struct vault_point_item *vault_points_below(
	const struct vault_points *points, uint64_t number)
{
	for (unsigned i = points->count; i > 0; i--)
		if (points->items[i - 1].number < number &&
			vault_point_is_committed(&points->items[i - 1]))
			return &points->items[i - 1];
	return NULL;
}

/* ── one manifest ────────────────────────────────────────────────────────────────────────── */

int vault_manifest_load(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error, struct manifest *ret_manifest, struct hash128 *ret_hash,
	char ret_etag[static BLOB_ETAG_BYTES])
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(manifest_free) struct manifest m = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	vault_manifest_name(group->name, number, name);
	int r = vault_object_get(store, name, MANIFEST_MAX_BYTES, error, &text, etag);
	if (r < 0)
		return r;
	r = manifest_parse(name, text.data, text.len, error, &m);
	if (r < 0)
		return r;
	if (m.number != number || memcmp(&m.group, &group->id, sizeof(m.group)) != 0)
		return error_set(error, -EBADMSG, NULL, "%s is of point %" PRIu64 " of group %s",
			name, m.number, m.group_name);
	if (ret_hash)
		*ret_hash = checksum128(text.data, text.len);
	memcpy(ret_etag, etag, sizeof(etag));
	*ret_manifest = m;
	m = (struct manifest){ 0 };
	return 0;
}

/* ── a flush whose end nobody saw ────────────────────────────────────────────────────────── */

/* Whether the name is taken for good: a former owner's manifest that came too late is collected.
 * `ret_etag`: of what is there; "": nothing is. */
static int look(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error, bool *ret_barred, bool *ret_committed,
	char ret_etag[static BLOB_ETAG_BYTES])
{
	CLEANUP(manifest_free) struct manifest m = { 0 };
	int r = vault_manifest_load(store, group, number, error, &m, NULL, ret_etag);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == -ENOENT)
		ret_etag[0] = '\0';
	*ret_barred = r == 0 && (m.abandoned || !vault_is_cut(group, m.generation, number));
	*ret_committed = *ret_barred && !m.abandoned;
	return 0;
}

int vault_manifest_put(struct blob_store *store, const struct manifest *m, const char *if_match,
	struct error *error, struct hash128 *ret_hash)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct vault_metadata metadata = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	int r = manifest_format(m, &text);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory for a manifest");
	vault_manifest_metadata(m, m->flags, &metadata);
	vault_manifest_name(m->group_name, m->number, name);
	if (ret_hash)
		*ret_hash = checksum128(text.data, text.len);
	return vault_object_put(
		store, name, &text, if_match, metadata.items, metadata.count, error, etag);
}

int vault_point_settle(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, uint64_t number, bool bar, struct error *error,
	bool *ret_committed)
{
	struct manifest tombstone = { .group = group->id,
		.number = number,
		.generation = group->generation,
		.time_ns = clock_realtime_ns(clock),
		.abandoned = true };
	char etag[BLOB_ETAG_BYTES];
	bool barred;
	int r = look(store, group, number, error, &barred, ret_committed, etag);
	if (r < 0 || barred || !bar)
		return r;
	strcpy(tombstone.group_name, group->name);
	r = vault_manifest_put(store, &tombstone, etag, error, NULL);
	if (r == -EEXIST || r == -ESTALE) {
		int put = r;
		r = look(store, group, number, error, &barred, ret_committed, etag);
		return r < 0 || barred ? r : put;
	}
	if (r == 0)
		log_info("group %s: point %" PRIu64 " is given up, a later one takes its place",
			group->name, number);
	return r;
}

/* ── hashes ──────────────────────────────────────────────────────────────────────────────── */

static int tell_replaced(struct vault_hashes *h, struct error *error)
{
	h->replaced = true;
	return error_set(
		error, -EAGAIN, "try again", "%s was written anew while it was read", h->name);
}

/* A read behind the end tells no ETag: of what is now shorter, or of what has ended too soon? */
static int look_behind_end(struct vault_hashes *h, struct error *error)
{
	char etag[BLOB_ETAG_BYTES];
	int r = vault_object_etag(h->store, h->name, error, etag);
	if (r < 0 && r != -ENOENT)
		return r;
	return r < 0 || strcmp(h->etag, etag) != 0 ? tell_replaced(h, error) : 0;
}

/* All parts are of one writing: a merge that ends meanwhile, be it a late one, replaces the whole,
 * and a deletion takes it away. */
static int read_hashes(
	void *context, uint64_t offset, void *data, size_t n, struct error *error, size_t *ret_n)
{
	struct vault_hashes *h = context;
	struct blob_error e = { 0 };
	struct backoff backoff;
	char etag[BLOB_ETAG_BYTES] = "";
	int r;
	backoff_start(&backoff, h->store, NULL);
	do {
		r = h->store->ops->object_read(h->store, h->name, offset, data, n, &e, ret_n, etag);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r == -ENOENT && h->etag[0])
		return tell_replaced(h, error);
	if (r < 0)
		return vault_fail(error, r, &e, "cannot read %s", h->name);
	if (!h->etag[0]) {
		memcpy(h->etag, etag, sizeof(etag));
		return 0;
	}
	if (!etag[0])
		return look_behind_end(h, error);
	return strcmp(h->etag, etag) != 0 ? tell_replaced(h, error) : 0;
}

void vault_hashes_open(struct vault_hashes *h, struct blob_store *store,
	const struct vault_group *group, uint64_t number, struct hashes_source *ret_source)
{
	*h = (struct vault_hashes){ .store = store };
	vault_hashes_name(group->name, number, h->name);
	*ret_source = (struct hashes_source){ read_hashes, h, h->name };
}

static int stage_part(void *context, unsigned part, const void *data, size_t n)
{
	struct vault_stage *s = context;
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	backoff_start(&backoff, s->store, s->cancel);
	do {
		r = s->store->ops->object_stage(s->store, s->name, s->series, part, data, n, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	return r < 0 ? vault_fail(&s->error, r, &e, "cannot write %s", s->name) : 0;
}

int vault_stage_open(struct vault_stage *s, struct blob_store *store, const atomic_bool *cancel,
	const struct vault_group *group, uint64_t number, struct error *error,
	struct hashes_sink *ret_sink)
{
	*s = (struct vault_stage){ .store = store, .cancel = cancel, .group = group };
	int r = random_bytes(&s->series, sizeof(s->series));
	if (r < 0)
		return error_set(error, r, NULL, "no random numbers to be had");
	vault_hashes_name(group->name, number, s->name);
	*ret_sink = (struct hashes_sink){ stage_part, s };
	return 0;
}

/* Is what is there now what we staged? Its end block tells. */
static bool is_staged(struct vault_stage *s, const struct hashes_written *written)
{
	unsigned char end[sizeof(struct hashes_block) + 8 + 1];
	struct vault_hashes h = { .store = s->store };
	uint64_t digest;
	size_t n;
	strcpy(h.name, s->name);
	const size_t want = sizeof(end) - 1;
	if (read_hashes(&h, written->bytes - want, end, sizeof(end), NULL, &n) < 0 || n != want)
		return false;
	memcpy(&digest, end + sizeof(struct hashes_block), sizeof(digest));
	return le64toh(digest) == written->digest;
}

static int commit_once(struct vault_stage *s, const struct hashes_written *written,
	const char *if_match, struct error *error)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	backoff_start(&backoff, s->store, s->cancel);
	int r;
	do {
		r = s->store->ops->object_commit(
			s->store, s->name, s->series, written->parts, if_match, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r < 0 && is_staged(s, written))
		return 0;
	return r < 0 ? vault_fail(error, r, &e, "cannot write %s", s->name) : 0;
}

/* What is there is ours if it was there before the owner was confirmed. An earlier try of ours may
 * land between; then it is looked at anew. */
static int replace_present(
	struct vault_stage *s, const struct hashes_written *written, struct error *error)
{
	char etag[BLOB_ETAG_BYTES];
	int r = -ESTALE;
	for (unsigned i = 0; (r == -ESTALE || r == -EEXIST) && i < REPLACE_TRIES; i++) {
		r = vault_object_etag(s->store, s->name, error, etag);
		if (r == -ENOENT)
			etag[0] = '\0';
		if (r == 0 || r == -ENOENT)
			r = vault_owner_confirm(s->store, s->group, error);
		if (r < 0)
			return r;
		r = commit_once(s, written, etag, error);
	}
	return r;
}

int vault_stage_commit(struct vault_stage *s, const struct hashes_written *written,
	const char *if_match, struct error *error)
{
	int r = if_match ? commit_once(s, written, if_match, error)
			 : replace_present(s, written, error);
	return vault_owner_blame(s->store, s->group, r, error);
}
