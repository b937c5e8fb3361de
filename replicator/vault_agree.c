/*
 * The vault's points and the history's, compared when a group is claimed.
 *
 * They differ if a flush was cut short before its end was noted, and, which is worse, after
 * acknowledged records were lost on the appliance's disk: the vault then holds points that the
 * journal does not know to be there, the journal believes in points that are gone, or bases hold
 * part of a flush that nobody remembers. Nothing is flushed before it is known which:
 *
 *  - a point that is still whole here needs only to be marked as committed;
 *  - behind any other, the journal's changes since its own newest vault point do not lead from what
 *    the bases hold to the next point. The newest such point is returned; the flusher then sends,
 *    besides the changes, every page that it or a point before it has changed (flush_unknown.c).
 *    If the vault does not have the older one any more either, nothing is flushed (-EUCLEAN);
 *  - bases whose sequence number is above every flush that is known are made equal to the newest
 *    committed point;
 *  - numbers that the vault has used are not given out again.
 *
 * A journal that does not know the vault's newest point was acknowledged more than it holds, even
 * if nothing in it is damaged: it is older than the vault (a machine that went back to a snapshot,
 * a disk from a backup), or its end is gone without a trace. No record of it proves that; the vault
 * is the only witness. Its head is no state that the source ever had once anything is written on
 * top: the disks need a resync.
 *
 * Idempotent; where nothing was lost it costs one listing and a look at each blob.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "fs/point.h"
#include "replicator/backoff.h"

#define POINTS_AT_ONCE 256u
#define TAKE_OVER                                                                            \
	"bring the group back from the vault: 'landfall machine remove --keep-vault', then " \
	"'landfall vault takeover --group GROUP'"

struct agree {
	struct blob_store *store;
	struct clock_source *clock;
	const struct vault_group *group;
	struct history *history;
	uint64_t told; /* a loss up to that point was noted before */
	struct error *error;
	struct vault_points points;
	uint64_t newest;  /* committed in the vault */
	uint64_t known;   /* newest vault point of the history */
	uint64_t pending; /* flush that was begun */
	uint64_t last;    /* newest point of the history */
	uint64_t unknown;
	unsigned highest_disk;
};

static void agree_free(struct agree *a)
{
	vault_points_free(&a->points);
}

static int fail_journal(struct agree *a, int r)
{
	return error_set(a->error, r, "see the log; restart the daemon once it is mended",
		"group %s: the journal takes no notes of what the vault holds: %s", a->group->name,
		strerror(-r));
}

/* More than a history stages at once. */
static bool made_room(const struct agree *a, int r)
{
	uint64_t lsn;
	return r == -EAGAIN && history_commit(a->history, &lsn) == 0;
}

static int look_at_disks(struct agree *a)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return error_set(a->error, -ENOMEM, NULL, "not enough memory");
	unsigned n = MIN(
		history_disks(a->history, disks, HISTORY_MAX_DISKS), (unsigned)HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < n; i++) {
		a->highest_disk = MAX(a->highest_disk, (unsigned)disks[i].id);
	}
	return 0;
}

/* ── points ──────────────────────────────────────────────────────────────────────────────── */

static bool is_whole(struct history *history, uint64_t number)
{
	struct point p;
	return history_point(history, number, &p) == 0 && (p.flags & POINT_LOCAL) &&
	       !(p.flags & POINT_DAMAGED);
}

/* Is the vault's point the one that is here, whole? */
static bool is_ours(const struct agree *a, const struct vault_point_item *item)
{
	struct point p;
	return item->told && is_whole(a->history, item->number) &&
	       history_point(a->history, item->number, &p) == 0 && p.time_ns == item->time_ns &&
	       p.kind == item->kind && p.changed_bytes == item->changed_bytes;
}

/* The same of the point whose flush was begun: part of it may have been drained. */
static bool was_begun(const struct agree *a, const struct vault_point_item *item)
{
	struct point p;
	return history_point(a->history, item->number, &p) == 0 &&
	       (p.flags & (POINT_LOCAL | POINT_DRAINED)) && !(p.flags & POINT_DAMAGED) &&
	       (!item->told || p.time_ns == item->time_ns);
}

/* Marks what is in the vault and whole here, by rising number up to the first that is not. */
static int adopt(struct agree *a)
{
	for (unsigned i = 0; i < a->points.count; i++) {
		const struct vault_point_item *item = &a->points.items[i];
		uint64_t lsn;
		int r;
		if (!vault_point_is_committed(item) || item->number <= a->known)
			continue;
		bool ours = item->number == a->pending ? was_begun(a, item) : is_ours(a, item);
		if (!ours)
			return 0;
		do
			r = history_flush_commit(a->history, item->number, &lsn);
		while (made_room(a, r));
		if (r == -ENOENT)
			return 0; /* not even its seal is left */
		if (r < 0)
			return fail_journal(a, r);
		log_info("group %s: point %" PRIu64
			 " is in the vault, which the journal did not know",
			a->group->name, item->number);
		a->known = item->number;
	}
	return 0;
}

static bool is_there(const struct agree *a, uint64_t number)
{
	for (unsigned i = 0; i < a->points.count; i++)
		if (a->points.items[i].number == number)
			return a->points.items[i].manifest && !a->points.items[i].abandoned;
	return false;
}

/* Points that the history believes in and the vault does not have: their deletion was lost. */
static int drop_missing(struct agree *a)
{
	CLEANUP_FREE struct point *points = calloc(POINTS_AT_ONCE, sizeof(*points));
	if (!points)
		return error_set(a->error, -ENOMEM, NULL, "not enough memory");
	for (uint64_t from = 0;;) {
		unsigned n = history_points(a->history, from, points, POINTS_AT_ONCE);
		for (unsigned i = 0; i < n; i++) {
			uint64_t lsn, number = points[i].number;
			int r;
			if (!(points[i].flags & POINT_VAULT) || number >= a->known ||
				is_there(a, number))
				continue;
			do
				r = history_point_drop(a->history, number, POINT_VAULT, &lsn);
			while (made_room(a, r));
			if (r < 0 && r != -EBUSY && r != -ENOENT)
				return fail_journal(a, r);
			log_warning("group %s: point %" PRIu64 " is not in the vault any more",
				a->group->name, number);
		}
		if (n < POINTS_AT_ONCE)
			return 0;
		from = points[n - 1].number + 1;
	}
}

/* ── what is lost ────────────────────────────────────────────────────────────────────────── */

static int stage_resync(struct agree *a)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return error_set(a->error, -ENOMEM, NULL, "not enough memory");
	unsigned n = MIN(
		history_disks(a->history, disks, HISTORY_MAX_DISKS), (unsigned)HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < n; i++) {
		uint64_t lsn;
		int r;
		if (disks[i].removed || disks[i].resync_needed)
			continue;
		do
			r = history_set_resync(a->history, disks[i].id, &lsn);
		while (made_room(a, r));
		if (r < 0)
			return fail_journal(a, r);
	}
	return 0;
}

/* Points that were sealed here after the loss, under numbers that the vault had given out. */
static int mark_others(struct agree *a)
{
	for (unsigned i = 0; i < a->points.count; i++) {
		const struct vault_point_item *item = &a->points.items[i];
		const uint32_t flags = POINT_LOCAL | POINT_VAULT | POINT_DAMAGED;
		struct point p;
		uint64_t lsn;
		int r;
		if (!vault_point_is_committed(item) || !item->told || item->number <= a->known ||
			history_point(a->history, item->number, &p) < 0 ||
			(p.flags & flags) != POINT_LOCAL || p.time_ns == item->time_ns)
			continue;
		do
			r = history_point_mark(a->history, item->number, POINT_DAMAGED, 0, &lsn);
		while (made_room(a, r));
		if (r < 0)
			return fail_journal(a, r);
	}
	return 0;
}

/* The vault holds what the journal has lost. */
static int note_loss(struct agree *a)
{
	a->unknown = a->newest;
	if (a->newest <= a->told)
		return 0;
	log_error("group %s: the vault holds point %" PRIu64
		  ", which the journal has lost: all disks need a resync; the next flush sends all "
		  "that may differ from it",
		a->group->name, a->unknown);
	int r = stage_resync(a);
	return r < 0 ? r : mark_others(a);
}

/* ── disks ───────────────────────────────────────────────────────────────────────────────── */

/* Of the newest vault point that the history knows; 0: it does not show the disk. */
static uint64_t known_bytes(const struct manifest *known, uint16_t id)
{
	for (unsigned i = 0; i < known->disk_count; i++)
		if (known->disks[i].id == id)
			return known->disks[i].size_bytes;
	return 0;
}

static int import_disk(struct agree *a, const struct vault_disk *disk, uint64_t known)
{
	struct history_disk d = { .id = disk->id,
		.size_bytes = known ? known : disk->size_bytes,
		.added_point = MAX(disk->added_point, 1u) };
	uint64_t lsn;
	int r;
	memcpy(d.name, disk->name, sizeof(d.name));
	if (known == 0)
		d.added_point = MAX(d.added_point, a->known + 1);
	do
		r = history_import_disk(a->history, &d, &lsn);
	while (made_room(a, r));
	if (r == -EEXIST)
		return error_set(a->error, -EUCLEAN, TAKE_OVER,
			"group %s needs a resync: disk %s was lost here and added again",
			a->group->name, disk->name);
	log_warning("group %s: disk %s is known to the vault, but was lost here", a->group->name,
		disk->name);
	if (r == 0)
		r = disk->removed ? history_remove_disk(a->history, disk->id, &lsn)
				  : history_set_resync(a->history, disk->id, &lsn);
	return r < 0 ? fail_journal(a, r) : 0;
}

/* Makes it as large as the point `from` (0: the next) shows it. */
static int grow_disk(struct agree *a, const struct vault_disk *disk, uint64_t bytes, uint64_t from)
{
	struct history_disk d;
	uint64_t lsn;
	int r;
	if (history_disk(a->history, disk->id, &d) < 0 || d.removed || d.size_bytes >= bytes)
		return 0;
	log_warning("group %s: disk %s is larger in the vault", a->group->name, disk->name);
	do
		r = history_import_size(a->history, disk->id, bytes, from, &lsn);
	while (made_room(a, r));
	if (r == 0)
		r = history_set_resync(a->history, disk->id, &lsn);
	return r < 0 ? fail_journal(a, r) : 0;
}

/* Disks whose records the history has lost are known again, by their numbers, and have their sizes
 * again; what the journal and the vault have of them shows again. */
static int take_disks(struct agree *a)
{
	CLEANUP(manifest_free) struct manifest known = { 0 };
	char etag[BLOB_ETAG_BYTES];
	int r = 0;
	for (unsigned i = 0; r == 0 && i < a->group->disk_count; i++) {
		const struct vault_disk *disk = &a->group->disks[i];
		struct history_disk d;
		bool is_here = history_disk(a->history, disk->id, &d) == 0;
		if (is_here ? d.removed || d.size_bytes >= disk->size_bytes
			    /* no point shows it, and it is forgotten for good reason */
			    : disk->removed && disk->id <= a->highest_disk)
			continue;
		if (known.number == 0 && is_there(a, a->known))
			r = vault_manifest_load(
				a->store, a->group, a->known, a->error, &known, NULL, etag);
		uint64_t bytes = known_bytes(&known, disk->id);
		if (r == 0 && !is_here)
			r = import_disk(a, disk, bytes);
		if (r == 0)
			r = grow_disk(a, disk, bytes, a->known);
		if (r == 0)
			r = grow_disk(a, disk, disk->size_bytes, 0);
	}
	return r;
}

/* ── bases ───────────────────────────────────────────────────────────────────────────────── */

static int flush_of_base(struct agree *a, const struct vault_disk *disk, uint64_t *ret_number)
{
	struct blob_properties properties;
	struct blob_error e = { 0 };
	struct backoff backoff;
	char blob[VAULT_NAME_BYTES];
	int r;
	vault_blob_name(disk->name, blob);
	backoff_start(&backoff, a->store, NULL);
	do
		r = a->store->ops->properties(a->store, blob, &e, &properties);
	while (r < 0 && backoff_again(&backoff, r, &e));
	*ret_number = 0;
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return vault_fail(a->error, r, &e, "cannot look at %s", blob);
	*ret_number = (uint64_t)properties.sequence >> 16;
	return 0;
}

static int repair(struct agree *a, uint64_t number)
{
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct vault_progress progress = { 0 };
	char etag[BLOB_ETAG_BYTES];
	int r = 0;
	log_warning("group %s: a flush was begun that the journal has lost; the disks in the vault "
		    "are made equal to point %" PRIu64 " again",
		a->group->name, number);
	if (number > 0)
		r = vault_manifest_load(a->store, a->group, number, a->error, &m, NULL, etag);
	return r < 0 ? r
		     : vault_repair_disks(a->store, a->clock, a->group, &m, &progress, a->error);
}

/* The manifest of a flush that stands no more may still be under way. */
static int bar(struct agree *a, uint64_t number, uint64_t above)
{
	bool committed = false;
	int r = 0;
	if (number > above)
		r = vault_point_settle(
			a->store, a->clock, a->group, number, true, a->error, &committed);
	if (r == 0 && committed)
		return error_set(a->error, -EAGAIN, NULL,
			"group %s: point %" PRIu64 " came into the vault while it was looked at",
			a->group->name, number);
	return r;
}

static int check_bases(struct agree *a)
{
	uint64_t base = MAX(a->newest, a->known), told = base, highest = 0, added = 1, doubt;
	struct point p;
	bool due = history_repair_due(a->history, &doubt);
	bool sealed = history_point(a->history, a->pending, &p) == 0;
	/* The next flush sends all that the one that was begun had to, if the journal has it. What
	 * is not sealed yet is being drained. */
	bool covered = sealed ? is_whole(a->history, a->pending) || (p.flags & POINT_DRAINED)
			      : a->pending > a->last;
	if (covered && !due)
		told = MAX(base, a->pending);
	for (unsigned i = 0; i < a->group->disk_count; i++) {
		uint64_t number;
		int r = flush_of_base(a, &a->group->disks[i], &number);
		if (r < 0)
			return r;
		highest = MAX(highest, number);
		added = MAX(added, a->group->disks[i].added_point);
	}
	/* The number that a drain has is the next point's. */
	uint64_t used = MAX(highest, base);
	used = MAX(used, a->pending);
	if (used == a->pending && used > 0 && covered && !sealed && !due)
		used--;
	history_number_above(a->history, MAX(used, added - 1));
	if (highest <= told)
		return 0;
	int r = bar(a, a->pending, base);
	if (r == 0)
		r = bar(a, highest, base);
	/* The flusher repairs what is in doubt before it sends anything. */
	return r < 0 || due ? r : repair(a, base);
}

int vault_agree(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, struct history *history, uint64_t told,
	struct error *error, uint64_t *ret_unknown)
{
	CLEANUP(agree_free)
	struct agree a = { .store = store,
		.clock = clock,
		.group = group,
		.history = history,
		.told = told,
		.error = error,
		.pending = history_flush_pending(history) };
	struct history_stats stats; /* staged points included */
	history_stats(history, &stats);
	a.known = stats.newest_vault_point;
	a.last = stats.newest_point;
	int r = look_at_disks(&a);
	if (r == 0)
		r = vault_points_list(store, group, error, &a.points);
	if (r < 0)
		return r;
	const struct vault_point_item *newest = vault_points_below(&a.points, UINT64_MAX);
	a.newest = newest ? newest->number : 0;
	r = adopt(&a);
	if (r == 0 && a.newest > a.known)
		r = note_loss(&a);
	if (r < 0)
		return r;
	if (a.unknown > 0 && a.known > 0 && !is_there(&a, a.known))
		return error_set(error, -EUCLEAN, TAKE_OVER,
			"group %s needs a resync: of what its journal stands on, point %" PRIu64
			", the vault has nothing any more, and the journal has lost what came "
			"after",
			group->name, a.known);
	if (is_there(&a, a.known))
		r = drop_missing(&a);
	if (r == 0)
		r = take_disks(&a);
	if (r == 0)
		r = check_bases(&a);
	if (r < 0)
		return r;
	*ret_unknown = a.unknown;
	return 0;
}
