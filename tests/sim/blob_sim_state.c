/*
 * The simulated blob service's state, and how changes alter it: leases, sequence numbers and
 * conditions are judged here, at the moment a change lands.
 *
 * Rules, as the services have them: a change of a leased blob needs the lease's id, else -EBUSY
 * (none given) or -ESTALE (another's); an id given where there is no such lease is -ESTALE; a
 * sequence number that differs is -ESTALE.
 */
#include "tests/sim/blob_sim_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

void blob_state_violation(struct blob_sim *service, const char *format, ...)
{
	if (service->violation[0])
		return;
	va_list args;
	va_start(args, format);
	vsnprintf(service->violation, sizeof(service->violation), format, args);
	va_end(args);
}

static char *copy_text(const char *text)
{
	if (!text)
		return NULL;
	char *copy = sim_alloc(strlen(text) + 1);
	return strcpy(copy, text);
}

void sim_metadata_free(struct sim_metadata *metadata)
{
	for (unsigned i = 0; i < metadata->count; i++) {
		free(metadata->names[i]);
		free(metadata->values[i]);
	}
	metadata->count = 0;
}

void sim_metadata_copy(struct sim_metadata *to, const struct sim_metadata *from)
{
	struct sim_metadata copy = { .count = from->count };
	for (unsigned i = 0; i < from->count; i++) {
		copy.names[i] = copy_text(from->names[i]);
		copy.values[i] = copy_text(from->values[i]);
	}
	sim_metadata_free(to);
	*to = copy;
}

struct sim_change *sim_change_copy(const struct sim_change *change)
{
	struct sim_change *copy = sim_alloc(sizeof(*copy));
	*copy = *change;
	copy->next = NULL;
	copy->blob = copy_text(change->blob);
	copy->snapshot = copy_text(change->snapshot);
	copy->other = copy_text(change->other);
	copy->lease = copy_text(change->lease);
	copy->if_match = copy_text(change->if_match);
	if (change->data) {
		copy->data = sim_alloc(change->length);
		memcpy(copy->data, change->data, change->length);
	}
	copy->metadata.count = 0;
	sim_metadata_copy(&copy->metadata, &change->metadata);
	return copy;
}

void sim_change_free(struct sim_change *change)
{
	free(change->blob);
	free(change->snapshot);
	free(change->other);
	free(change->lease);
	free(change->if_match);
	free(change->data);
	sim_metadata_free(&change->metadata);
	free(change);
}

static struct sim_blob **find_slot(struct blob_sim *service, const char *name)
{
	struct sim_blob **link = &service->blobs;
	while (*link && strcmp((*link)->name, name) < 0)
		link = &(*link)->next;
	return link;
}

struct sim_blob *blob_state_find(struct blob_sim *service, const char *name)
{
	struct sim_blob *blob = *find_slot(service, name);
	return blob && strcmp(blob->name, name) == 0 ? blob : NULL;
}

struct sim_snapshot *blob_state_snapshot(struct sim_blob *blob, const char *id)
{
	for (struct sim_snapshot *s = blob->snapshots; s; s = s->next)
		if (strcmp(s->id, id) == 0)
			return s;
	return NULL;
}

static void touch(struct blob_sim *service, struct sim_blob *blob)
{
	blob->etag = ++service->next_etag;
}

static struct sim_part *find_part(const struct sim_blob *blob, uint64_t series, uint64_t number)
{
	struct sim_part *part = blob->parts;
	while (part && (part->series != series || part->number != number))
		part = part->next;
	return part;
}

static void free_parts(struct sim_blob *blob)
{
	while (blob->parts) {
		struct sim_part *part = blob->parts;
		blob->parts = part->next;
		free(part);
	}
}

/* Before an older one of the same name. */
static void stage_part(struct sim_blob *blob, const struct sim_change *c)
{
	struct sim_part *part = sim_alloc(sizeof(*part) + c->length);
	part->series = c->series;
	part->number = c->offset;
	part->n = c->length;
	memcpy(part->data, c->data, c->length);
	part->next = blob->parts;
	blob->parts = part;
}

static struct sim_blob *add_blob(struct blob_sim *service, const char *name, bool is_object)
{
	struct sim_blob **slot = find_slot(service, name);
	struct sim_blob *blob = sim_alloc(sizeof(*blob));
	memset(blob, 0, sizeof(*blob));
	blob->name = copy_text(name);
	blob->is_object = is_object;
	blob->snapshots_end = &blob->snapshots;
	blob->next = *slot;
	*slot = blob;
	touch(service, blob);
	return blob;
}

static void free_snapshot(struct sim_snapshot *snapshot)
{
	content_free(&snapshot->content);
	sim_metadata_free(&snapshot->metadata);
	free(snapshot);
}

static void remove_blob(struct blob_sim *service, struct sim_blob *blob)
{
	*find_slot(service, blob->name) = blob->next;
	while (blob->snapshots) {
		struct sim_snapshot *s = blob->snapshots;
		blob->snapshots = s->next;
		free_snapshot(s);
	}
	free_parts(blob);
	content_free(&blob->content);
	sim_metadata_free(&blob->metadata);
	free(blob->name);
	free(blob);
}

void blob_state_free(struct blob_sim *service)
{
	while (service->blobs)
		remove_blob(service, service->blobs);
}

static int check_lease(const struct sim_blob *blob, const char *lease)
{
	if (lease && *lease)
		return strcmp(lease, blob->lease) == 0 ? 0 : -ESTALE;
	return blob->lease[0] ? -EBUSY : 0;
}

static int apply_pages(struct blob_sim *service, const struct sim_change *c, struct sim_blob *blob)
{
	if (!c->lease || !*c->lease)
		blob_state_violation(service, "pages of %s written without a lease", c->blob);
	if (!is_aligned(c->offset | c->length, SECTOR_BYTES) || c->length == 0 ||
		c->offset + c->length > blob->content.bytes ||
		(c->verb == SIM_PUT_PAGES && c->length > BLOB_MAX_PUT_BYTES))
		return -EINVAL;
	int r = check_lease(blob, c->lease);
	if (r < 0)
		return r;
	if (c->sequence != blob->sequence)
		return -ESTALE;
	if (c->verb == SIM_PUT_PAGES) {
		content_write(&blob->content, c->offset, c->data, c->length, 0);
	} else {
		static const unsigned char zeros[PAGE_BYTES];
		for (uint64_t at = 0; at < c->length; at += PAGE_BYTES)
			content_write(&blob->content, c->offset + at, zeros,
				MIN((uint64_t)PAGE_BYTES, c->length - at), 0);
	}
	touch(service, blob);
	return 0;
}

static int apply_snapshot(struct blob_sim *service, const struct sim_change *c,
	struct sim_blob *blob, struct sim_answer *answer)
{
	if (!c->lease || !*c->lease)
		blob_state_violation(service, "snapshot of %s without a lease", c->blob);
	int r = check_lease(blob, c->lease);
	if (r < 0)
		return r;
	struct sim_snapshot *s = sim_alloc(sizeof(*s));
	memset(s, 0, sizeof(*s));
	uint64_t number = ++service->next_snapshot;
	snprintf(s->id, sizeof(s->id), "2026-11-22T%02u:%02u:%02u.%07uZ",
		(unsigned)(number / 3600 % 24), (unsigned)(number / 60 % 60),
		(unsigned)(number % 60), (unsigned)(number % 10000000));
	content_copy(&s->content, &blob->content);
	sim_metadata_copy(&s->metadata, &c->metadata);
	*blob->snapshots_end = s;
	blob->snapshots_end = &s->next;
	strcpy(answer->snapshot, s->id);
	return 0;
}

static int apply_delete(struct blob_sim *service, const struct sim_change *c, struct sim_blob *blob)
{
	if (!c->snapshot) {
		if (!c->lease || !*c->lease)
			blob_state_violation(service, "%s deleted without a lease", c->blob);
		int r = check_lease(blob, c->lease);
		if (r == 0)
			remove_blob(service, blob);
		return r;
	}
	struct sim_snapshot **link = &blob->snapshots;
	while (*link && strcmp((*link)->id, c->snapshot) != 0)
		link = &(*link)->next;
	struct sim_snapshot *s = *link;
	if (!s)
		return -ENOENT;
	*link = s->next;
	if (blob->snapshots_end == &s->next)
		blob->snapshots_end = link;
	free_snapshot(s);
	return 0;
}

static int apply_lease(const struct sim_change *c, struct sim_blob *blob)
{
	switch (c->verb) {
	case SIM_LEASE_ACQUIRE:
		if (blob->lease[0] && strcmp(blob->lease, c->lease) != 0)
			return -EBUSY;
		snprintf(blob->lease, sizeof(blob->lease), "%s", c->lease);
		return 0;
	case SIM_LEASE_CHANGE:
		if (strcmp(blob->lease, c->other) == 0)
			return 0;
		if (!blob->lease[0] || strcmp(blob->lease, c->lease) != 0)
			return -ESTALE;
		snprintf(blob->lease, sizeof(blob->lease), "%s", c->other);
		return 0;
	case SIM_LEASE_RELEASE:
		if (strcmp(blob->lease, c->lease) != 0)
			return -ESTALE;
		blob->lease[0] = '\0';
		return 0;
	default:
		blob->lease[0] = '\0';
		return 0;
	}
}

static int check_match(const struct sim_blob *blob, const char *if_match)
{
	if (!if_match)
		return 0;
	if (!*if_match)
		return blob ? -EEXIST : 0;
	if (!blob)
		return strcmp(if_match, "*") == 0 ? -ENOENT : -ESTALE;
	char etag[BLOB_ETAG_BYTES];
	snprintf(etag, sizeof(etag), "\"%" PRIu64 "\"", blob->etag);
	return strcmp(if_match, "*") == 0 || strcmp(if_match, etag) == 0 ? 0 : -ESTALE;
}

static int apply_object(struct blob_sim *service, const struct sim_change *c, struct sim_blob *blob,
	struct sim_answer *answer)
{
	if (c->verb == SIM_OBJECT_STAGE) {
		if (!blob) {
			/* Parts before a commit do not make the object show. */
			blob = add_blob(service, c->blob, true);
			blob->etag = 0;
		}
		stage_part(blob, c);
		return 0;
	}
	bool shows = blob && blob->etag != 0;
	for (unsigned i = 0; c->verb == SIM_OBJECT_COMMIT && i < c->length; i++)
		if (!blob || !find_part(blob, c->series, i))
			return -EINVAL; /* no such part (any more) */
	int r = check_match(shows ? blob : NULL, c->if_match);
	if (r < 0)
		return r;
	if (c->verb == SIM_OBJECT_DELETE) {
		if (!shows)
			return -ENOENT;
		if (!c->if_match || c->if_match[0] != '"')
			blob_state_violation(service, "%s deleted whatever it is", c->blob);
		remove_blob(service, blob);
		return 0;
	}
	/* A mark, a tombstone's end or merged hashes: only by who knows what is there. */
	if (shows && strstr(c->blob, "/points/") && (!c->if_match || c->if_match[0] != '"'))
		blob_state_violation(service, "manifest %s overwritten", c->blob);
	if (!blob)
		blob = add_blob(service, c->blob, true);
	content_resize(&blob->content, 0);
	if (c->verb == SIM_OBJECT_PUT) {
		content_write(&blob->content, 0, c->data, c->length, 0);
		blob->content.bytes = c->length;
		sim_metadata_copy(&blob->metadata, &c->metadata);
	} else {
		for (unsigned i = 0; i < c->length; i++) {
			const struct sim_part *part = find_part(blob, c->series, i);
			content_write(&blob->content, blob->content.bytes, part->data, part->n, 0);
			blob->content.bytes += part->n;
		}
		free_parts(blob);
	}
	touch(service, blob);
	answer->etag = blob->etag;
	return 0;
}

static int apply_copy(struct blob_sim *service, const struct sim_change *c, struct sim_blob *blob)
{
	struct sim_snapshot *s = c->snapshot ? blob_state_snapshot(blob, c->snapshot) : NULL;
	if (!s)
		return -ENOENT;
	if (blob_state_find(service, c->other))
		return -EEXIST;
	content_copy(&add_blob(service, c->other, false)->content, &s->content);
	return 0;
}

int blob_state_apply(
	struct blob_sim *service, const struct sim_change *c, struct sim_answer *answer)
{
	struct sim_blob *blob = blob_state_find(service, c->blob);
	if (c->verb >= SIM_OBJECT_PUT && c->verb <= SIM_OBJECT_COMMIT)
		return apply_object(service, c, blob, answer);
	if (c->verb == SIM_CREATE) {
		if (blob)
			return -EEXIST;
		blob = add_blob(service, c->blob, false);
		blob->content.bytes = c->length;
		return 0;
	}
	if (!blob)
		return -ENOENT;
	int r;
	switch (c->verb) {
	case SIM_PUT_PAGES:
	case SIM_CLEAR_PAGES:
		return apply_pages(service, c, blob);
	case SIM_RESIZE:
		if (!c->if_match)
			blob_state_violation(service, "%s resized without If-Match", c->blob);
		r = check_lease(blob, c->lease);
		if (r == 0)
			r = check_match(blob, c->if_match);
		if (r == 0) {
			content_resize(&blob->content, c->length);
			touch(service, blob);
		}
		return r;
	case SIM_RAISE:
		r = check_lease(blob, c->lease);
		if (r == 0) {
			blob->sequence = MAX(blob->sequence, c->sequence);
			touch(service, blob);
		}
		answer->sequence = blob->sequence;
		return r;
	case SIM_SNAPSHOT:
		return apply_snapshot(service, c, blob, answer);
	case SIM_DELETE:
		return apply_delete(service, c, blob);
	case SIM_COPY:
		return apply_copy(service, c, blob);
	default:
		return apply_lease(c, blob);
	}
}
