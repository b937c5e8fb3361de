/*
 * Checking the vault against itself: every manifest can be read and knows the one before it,
 * every snapshot it names is there, its hashes are whole and leave no gap, and there are no
 * snapshots, points, disks or groups that nothing explains. Reads no disk content;
 * vault_point_verify does. What the vault can not tell, since nothing of it is left, whoever put it
 * there knows (vault_check_known).
 *
 * Points come and go meanwhile. What looks like a fault is one only if the group's points were the
 * same afterwards; else the group is checked again.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/vault_strays.h"

#define LOOK_TRIES 5u

struct check {
	struct blob_store *store;
	void (*fault)(void *context, const char *text);
	void *context;
	struct vault_check_report report;
	struct vault_strays strays;
	/* of the group at hand */
	const struct vault_group *group;
	struct buf faults;                 /* texts, each with its NUL */
	bool replaced;                     /* hashes were, while they were read */
	struct vault_snapshots *snapshots; /* per disk of the group */
	uint64_t previous;
	struct hash128 previous_hash;
	struct error *error;
};

static void fault(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fault(struct check *c, const char *format, ...)
{
	char text[640];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (buf_append(&c->faults, text, strlen(text) + 1) < 0 && c->fault)
		c->fault(c->context, text);
}

static void tell_faults(struct check *c)
{
	for (size_t at = 0; c->fault && at < c->faults.len; at += strlen(c->faults.data + at) + 1)
		c->fault(c->context, c->faults.data + at);
	buf_clear(&c->faults);
}

/* Failures that say something about the vault's content, not about reaching it. */
static bool is_content(int r)
{
	return r == -EBADMSG || r == -ENOENT || r == -EPROTONOSUPPORT;
}

/* A part of the vault cannot be used: tells it as broken (0), or that the check cannot go on. */
static int judge(struct check *c, int r, const struct error *why)
{
	if (!is_content(r)) {
		if (c->error)
			*c->error = *why;
		return r;
	}
	c->report.broken++;
	fault(c, "%s", why->message);
	return 0;
}

static void free_reader(struct hashes_reader **reader)
{
	hashes_reader_free(*reader);
}

static int check_hashes(struct check *c, const struct manifest *m)
{
	CLEANUP(free_reader) struct hashes_reader *reader = NULL;
	struct vault_hashes hashes;
	struct hashes_source source;
	struct hashes_run run;
	struct error why = { 0 };
	struct uuid group;
	uint64_t from = 0, number = 0, bytes = 0, digest = 0;
	vault_hashes_open(&hashes, c->store, c->group, m->number, &source);
	int r = hashes_reader_new(&source, &why, &reader);
	while (r == 0)
		r = hashes_reader_next(reader, &why, &run);
	if (hashes.replaced) {
		c->replaced = true;
		return 0;
	}
	if (!reader || r != -ENOENT)
		return judge(c, r, &why);
	hashes_reader_coverage(reader, &group, &from, &number);
	hashes_reader_totals(reader, &bytes, &digest);
	if (number != m->number || memcmp(&group, &c->group->id, sizeof(group)) != 0) {
		c->report.broken++;
		fault(c, "%s is of another point", hashes.name);
	} else if (from > c->previous) {
		c->report.broken++;
		fault(c, "a point between %" PRIu64 " and %" PRIu64 " of group %s is missing",
			c->previous, m->number, c->group->name);
	} else if (from == m->previous &&
		   (bytes != m->hashes_bytes || digest != m->hashes_digest)) {
		c->report.broken++;
		fault(c, "%s is not the one that was committed", hashes.name);
	}
	return 0;
}

static void check_snapshots(struct check *c, const struct manifest *m)
{
	for (unsigned i = 0; i < m->disk_count; i++) {
		bool found = false;
		for (unsigned d = 0; d < c->group->disk_count; d++) {
			char blob[VAULT_NAME_BYTES];
			vault_blob_name(c->group->disks[d].name, blob);
			if (strcmp(blob, m->disks[i].blob) != 0)
				continue;
			struct vault_snapshot *s =
				vault_snapshots_find(&c->snapshots[d], m->disks[i].snapshot);
			if (s)
				s->used = found = true;
		}
		if (!found) {
			c->report.missing++;
			fault(c, "point %" PRIu64 " of group %s: snapshot %s of %s is missing",
				m->number, c->group->name, m->disks[i].snapshot, m->disks[i].blob);
		}
	}
}

static int check_point(struct check *c, const struct vault_point_item *point)
{
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct error why = { 0 };
	struct hash128 hash;
	char etag[BLOB_ETAG_BYTES];
	if (!point->manifest || (point->told && !vault_point_is_committed(point)))
		return 0;
	c->report.points++;
	int r = vault_manifest_load(c->store, c->group, point->number, &why, &m, &hash, etag);
	if (r < 0) {
		r = judge(c, r, &why);
		for (unsigned d = 0; d < c->group->disk_count; d++)
			for (unsigned i = 0; i < c->snapshots[d].count; i++)
				c->snapshots[d].items[i].used |=
					c->snapshots[d].items[i].point == point->number;
		return r;
	}
	if (m.previous == c->previous && c->previous != 0 &&
		memcmp(&m.previous_hash, &c->previous_hash, sizeof(hash)) != 0) {
		c->report.broken++;
		fault(c,
			"point %" PRIu64 " of group %s is not the one that point %" PRIu64
			" was built on",
			c->previous, c->group->name, m.number);
	}
	check_snapshots(c, &m);
	r = check_hashes(c, &m);
	c->previous = m.number;
	c->previous_hash = hash;
	return r;
}

/* The points were listed before: a newer one may be there by now, of which nothing is missing. */
static int check_points(struct check *c, const struct vault_points *points)
{
	char blob[VAULT_NAME_BYTES];
	int r = 0;
	c->previous = 0;
	for (unsigned d = 0; r == 0 && d < c->group->disk_count; d++) {
		vault_blob_name(c->group->disks[d].name, blob);
		r = vault_snapshots_list(c->store, blob, &c->group->id, c->error, &c->snapshots[d]);
		if (r == -ENOENT && !c->group->disks[d].removed) {
			c->report.missing++;
			fault(c, "%s is missing", blob);
		}
		r = r == -ENOENT ? 0 : r;
		c->report.snapshots += c->snapshots[d].count;
	}
	for (unsigned i = 0; r == 0 && i < points->count; i++)
		r = check_point(c, &points->items[i]);
	for (unsigned d = 0; r == 0 && d < c->group->disk_count; d++) {
		for (unsigned i = 0; i < c->snapshots[d].count; i++) {
			const struct vault_snapshot *s = &c->snapshots[d].items[i];
			/* Above the newest point it may belong to a flush under way. */
			if (s->used || !s->tagged || s->point > c->previous)
				continue;
			c->report.orphaned++;
			fault(c, "snapshot %s of disk %s belongs to no point", s->id,
				c->group->disks[d].name);
		}
	}
	return r;
}

/* More than the one point that a flush may be making. */
static int check_lost(struct check *c, const struct vault_points *points)
{
	CLEANUP(vault_lost_free) struct vault_lost lost = { 0 };
	int r = vault_lost_collect(c->snapshots, c->group->disk_count, points, &lost);
	if (r < 0)
		return error_set(c->error, r, NULL, "not enough memory to list snapshots");
	for (unsigned i = 0; vault_lost_is_certain(&lost) && i < lost.count; i++) {
		c->report.missing++;
		fault(c,
			"the manifest of point %" PRIu64
			" of group %s is missing; other parts of the point are there",
			lost.numbers[i], c->group->name);
	}
	return 0;
}

static bool equal(const struct vault_points *a, const struct vault_points *b)
{
	bool same = a->count == b->count;
	for (unsigned i = 0; same && i < a->count; i++)
		same = a->items[i].number == b->items[i].number &&
		       strcmp(a->items[i].etag, b->items[i].etag) == 0 &&
		       strcmp(a->items[i].hashes_etag, b->items[i].hashes_etag) == 0;
	return same;
}

static int check_once(struct check *c, bool *ret_changed)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	CLEANUP(vault_points_free) struct vault_points after = { 0 };
	c->replaced = false;
	c->snapshots = calloc(c->group->disk_count + 1u, sizeof(*c->snapshots));
	if (!c->snapshots)
		return error_set(c->error, -ENOMEM, NULL, "not enough memory to list snapshots");
	int r = vault_points_list(c->store, c->group, c->error, &points);
	if (r == 0)
		r = check_points(c, &points);
	if (r == 0)
		r = check_lost(c, &points);
	for (unsigned d = 0; d < c->group->disk_count; d++)
		vault_snapshots_free(&c->snapshots[d]);
	free(c->snapshots);
	c->snapshots = NULL;
	if (r == 0 && (c->replaced || c->faults.len > 0))
		r = vault_points_list(c->store, c->group, c->error, &after);
	*ret_changed = c->replaced || (c->faults.len > 0 && !equal(&points, &after));
	return r;
}

static int check_group(void *context, const char *name)
{
	struct check *c = context;
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	struct error why = { 0 };
	c->report.groups++;
	const struct vault_check_report before = c->report;
	bool changed = true;
	int r = vault_group_load(c->store, name, &why, &group);
	if (r < 0) {
		r = judge(c, r, &why);
		if (r == 0)
			tell_faults(c);
		return r;
	}
	vault_strays_explain(&c->strays, &group);
	c->group = &group;
	for (unsigned i = 0; r == 0 && changed && i < LOOK_TRIES; i++) {
		buf_clear(&c->faults);
		c->report = before;
		r = check_once(c, &changed);
		/* Its manifest gone, a point's snapshots follow in a moment. */
		changed |= i == 0 && c->report.orphaned > before.orphaned;
	}
	tell_faults(c);
	if (r == 0 && c->replaced)
		r = error_set(c->error, -EAGAIN, "try again when fewer points are deleted",
			"group %s changes faster than it can be checked", name);
	c->group = NULL;
	return r;
}

static void note_stray(void *context, const char *text)
{
	struct check *c = context;
	c->report.missing++;
	fault(c, "%s", text);
}

static void check_free(struct check *c)
{
	vault_strays_free(&c->strays);
	buf_free(&c->faults);
}

/* ── what somebody knows of a group ──────────────────────────────────────────────────────── */

static bool is_told(const struct vault_lost *lost, uint64_t number)
{
	for (unsigned i = 0; vault_lost_is_certain(lost) && i < lost->count; i++)
		if (lost->numbers[i] == number)
			return true;
	return false;
}

static bool is_committed(const struct vault_points *points, uint64_t number)
{
	for (unsigned i = 0; i < points->count; i++)
		if (points->items[i].number == number)
			return points->items[i].manifest && !points->items[i].abandoned;
	return false;
}

int vault_check_known(struct blob_store *store, const char *name, const struct uuid *appliance,
	const uint64_t *numbers, unsigned count,
	bool (*gone)(void *context, uint64_t number, const char *text), void *context,
	struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	CLEANUP(vault_lost_free) struct vault_lost lost = { 0 };
	struct error why = { 0 };
	char text[VAULT_NAME_BYTES + 160], owner[VAULT_NAME_BYTES];
	int r = vault_group_load(store, name, &why, &group);
	bool missing = r == -ENOENT;
	if (is_content(r) && !missing)
		return 0; /* vault_check tells */
	if (r < 0 && !missing) {
		if (error)
			*error = why;
		return r;
	}
	if (missing)
		snprintf(group.name, sizeof(group.name), "%s", name);
	else if (memcmp(&group.owner, appliance, sizeof(*appliance)) != 0)
		return 0; /* it may have deleted what it wanted */
	r = vault_lost_find(store, &group, error, &lost);
	if (r == 0)
		r = vault_points_list(store, &group, error, &points);
	if (r < 0)
		return r;
	vault_owner_name(name, owner);
	snprintf(text, sizeof(text), "%s is missing, and so is every point of the group", owner);
	if (missing && points.count == 0 && gone(context, 0, text))
		return 0;
	for (unsigned i = 0; i < count; i++) {
		if (is_committed(&points, numbers[i]) || is_told(&lost, numbers[i]))
			continue;
		snprintf(text, sizeof(text),
			"point %" PRIu64 " of group %s, which was put there, is missing",
			numbers[i], name);
		(void)gone(context, numbers[i], text);
	}
	return 0;
}

int vault_check(struct blob_store *store, void (*told)(void *context, const char *text),
	void *context, struct error *error, struct vault_check_report *ret_report)
{
	CLEANUP(check_free)
	struct check c = { .store = store, .fault = told, .context = context, .error = error };
	int r = vault_strays_list(store, error, &c.strays);
	if (r == 0)
		r = vault_groups(store, check_group, &c, error);
	if (r == 0)
		r = vault_strays_tell(&c.strays, store, note_stray, &c, error);
	if (r < 0)
		return r;
	tell_faults(&c);
	*ret_report = c.report;
	return 0;
}
