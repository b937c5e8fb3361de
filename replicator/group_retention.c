/*
 * Which points go, and how: the policy's retention, a person's keep, delete and verdict.
 *
 * A vault point goes in three steps, each durable before the next: noted in the state file, taken
 * off the history, deleted in the vault (by the flusher's thread). After a crash the rest is done
 * from the note. Points that exist only locally thin by the same policy while no vault has newer
 * ones; below the newest vault point they live as long as the policy keeps all points, if the
 * journal has room that long.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/group_internal.h"
#include "replicator/vault_internal.h"

#define DROPS_AT_ONCE 512

struct point_list {
	struct point *points; /* owned */
	unsigned count;
};

static void point_list_free(struct point_list *list)
{
	free(list->points);
}

static int list_points(struct history *history, struct point_list *list)
{
	uint64_t from = 0;
	for (;;) {
		struct point *more = realloc(list->points, (list->count + 1024) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		list->points = more;
		unsigned n = history_points(history, from, more + list->count, 1024);
		list->count += n;
		if (n < 1024)
			return 0;
		from = more[list->count - 1].number + 1;
	}
}

/* Splits off those that `wanted` accepts, in order. */
static int select_points(const struct point_list *all,
	bool (*wanted)(const struct point *point, uint64_t newest_vault), uint64_t newest_vault,
	struct point_list *ret_list)
{
	struct point_list list = { .points = calloc(all->count + 1, sizeof(*list.points)) };
	if (!list.points)
		return -ENOMEM;
	for (unsigned i = 0; i < all->count; i++)
		if (wanted(&all->points[i], newest_vault))
			list.points[list.count++] = all->points[i];
	*ret_list = list;
	return 0;
}

static bool is_in_vault(const struct point *point, uint64_t newest_vault)
{
	(void)newest_vault;
	return point->flags & POINT_VAULT;
}

static bool is_ahead_of_vault(const struct point *point, uint64_t newest_vault)
{
	return !(point->flags & POINT_VAULT) && point->number > newest_vault;
}

/* Thins one list; what goes is appended to `numbers`. */
static int thin(const struct policy *policy, const struct point_list *list, int64_t now_ns,
	uint64_t *numbers, unsigned *count, unsigned most)
{
	CLEANUP_FREE bool *drop = calloc(list->count + 1, sizeof(*drop));
	if (!drop)
		return -ENOMEM;
	policy_thin(policy, list->points, list->count, now_ns, drop);
	for (unsigned i = 0; i < list->count && *count < most; i++)
		if (drop[i])
			numbers[(*count)++] = list->points[i].number;
	return 0;
}

static void thin_between(const struct policy *policy, const struct point_list *all,
	uint64_t newest_vault, int64_t now_ns, uint64_t *numbers, unsigned *count, unsigned most)
{
	for (unsigned i = 0; i < all->count && *count < most; i++) {
		const struct point *p = &all->points[i];
		if (!(p->flags & (POINT_VAULT | POINT_KEEP)) && p->number < newest_vault &&
			now_ns - p->time_ns > policy->keep_all_s * NS_PER_S)
			numbers[(*count)++] = p->number;
	}
}

/* Takes the points off the history; those that something reads stay for now. Returns how many
 * went. */
static int drop_points(struct group *group, const uint64_t *numbers, unsigned count,
	unsigned *ret_dropped, bool *busy)
{
	uint64_t lsn = 0;
	unsigned dropped = 0;
	for (unsigned i = 0; i < count; i++) {
		uint64_t one = 0;
		int r = history_point_drop(
			group->history, numbers[i], POINT_LOCAL | POINT_VAULT, &one);
		busy[i] = r == -EBUSY;
		if (r == -EAGAIN) { /* too much is staged: make it durable and go on */
			r = committer_sync(group->committer);
			if (r == 0)
				r = history_point_drop(group->history, numbers[i],
					POINT_LOCAL | POINT_VAULT, &one);
		}
		if (r < 0 && r != -EBUSY && r != -ENOENT)
			return r;
		dropped += r == 0;
		lsn = MAX(lsn, one);
	}
	*ret_dropped = dropped;
	return lsn > 0 ? group_sync(group, lsn) : 0;
}

/* Drops vault points by way of the state file; state_lock is held. */
static int drop_from_vault_locked(
	struct group *group, const uint64_t *numbers, unsigned count, unsigned *ret_dropped)
{
	CLEANUP_FREE bool *busy = calloc(count + 1, sizeof(*busy));
	if (!busy)
		return -ENOMEM;
	*ret_dropped = 0;
	if (count == 0)
		return 0;
	int r = group_state_note_delete(group, numbers, count);
	if (r < 0)
		return r;
	r = drop_points(group, numbers, count, ret_dropped, busy);
	if (r < 0)
		return r; /* the notes stay: the history decides at the next start */
	bool any = false;
	for (unsigned i = 0; i < count; i++) {
		if (busy[i])
			group_state_forget_delete(group, numbers[i]);
		any |= busy[i];
	}
	return any ? group_state_save(group) : 0;
}

int group_retain(struct group *group)
{
	CLEANUP(point_list_free) struct point_list all = { 0 }, vault = { 0 }, ahead = { 0 };
	CLEANUP_FREE uint64_t *numbers = calloc(DROPS_AT_ONCE, sizeof(*numbers));
	CLEANUP_FREE bool *busy = calloc(DROPS_AT_ONCE, sizeof(*busy));
	if (!numbers || !busy)
		return -ENOMEM;
	pthread_mutex_lock(&group->lock);
	struct policy policy = group->policy;
	group->retention_asked = false;
	pthread_mutex_unlock(&group->lock);
	struct history_stats stats;
	history_stats(group->history, &stats);
	uint64_t newest = stats.newest_vault_point;
	/* What is not marked when it is looked at is not marked when it goes. */
	SCOPED_LOCK(&group->state_lock);
	int64_t now_ns = clock_realtime_ns(group->clock);
	int r = list_points(group->history, &all);
	if (r == 0)
		r = select_points(&all, is_in_vault, newest, &vault);
	if (r == 0)
		r = select_points(&all, is_ahead_of_vault, newest, &ahead);
	unsigned count = 0, in_vault = 0, dropped = 0;
	if (r == 0)
		r = thin(&policy, &vault, now_ns, numbers, &count, DROPS_AT_ONCE);
	if (r == 0)
		r = drop_from_vault_locked(group, numbers, count, &in_vault);
	bool more = count == DROPS_AT_ONCE;
	count = 0;
	if (r == 0)
		r = thin(&policy, &ahead, now_ns, numbers, &count, DROPS_AT_ONCE);
	thin_between(&policy, &all, newest, now_ns, numbers, &count, DROPS_AT_ONCE);
	if (r == 0)
		r = drop_points(group, numbers, count, &dropped, busy);
	SCOPED_LOCK(&group->lock);
	group->deletes_asked |= in_vault > 0;
	group->retention_asked |= r < 0 || more || count == DROPS_AT_ONCE;
	group->status.points_deleted += in_vault + dropped;
	return r;
}

/* ── in the vault ────────────────────────────────────────────────────────────────────────── */

int group_delete_noted(
	struct group *group, struct blob_store *store, unsigned max, struct error *error)
{
	uint64_t numbers[64];
	unsigned done = 0;
	pthread_mutex_lock(&group->state_lock);
	unsigned most = MIN(max, (unsigned)ARRAY_SIZE(numbers));
	unsigned count = MIN(group->state.delete_count, most);
	if (count > 0)
		memcpy(numbers, group->state.deletes, count * sizeof(*numbers));
	bool more = group->state.delete_count > count;
	pthread_mutex_unlock(&group->state_lock);
	int r = 0;
	for (; r == 0 && done < count; done++) {
		r = vault_point_delete(store, &group->vault_group, numbers[done], error);
		if (r == -ENOENT)
			r = 0;
		if (r < 0)
			break;
	}
	pthread_mutex_lock(&group->state_lock);
	for (unsigned i = 0; i < done; i++)
		group_state_forget_delete(group, numbers[i]);
	/* If it cannot be written they are deleted once more at the next start, to no effect. */
	if (done > 0)
		(void)group_state_save(group);
	pthread_mutex_unlock(&group->state_lock);
	SCOPED_LOCK(&group->lock);
	group->deletes_asked = r < 0 || more;
	return r;
}

int group_tell_keeps(struct group *group, struct blob_store *store, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points there = { 0 };
	int r = vault_points_list(store, &group->vault_group, error, &there);
	for (unsigned i = 0; r == 0 && i < there.count; i++) {
		const struct vault_point_item *item = &there.items[i];
		struct point point;
		if (!vault_point_is_committed(item) ||
			history_point(group->history, item->number, &point) < 0 ||
			!(point.flags & POINT_VAULT) ||
			((point.flags ^ item->flags) & POINT_KEEP) == 0)
			continue;
		r = vault_point_keep(
			store, &group->vault_group, item->number, point.flags & POINT_KEEP, error);
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}

void group_resume_deletes(struct group *group)
{
	SCOPED_LOCK(&group->state_lock);
	unsigned count = group->state.delete_count, dropped;
	CLEANUP_FREE bool *busy = calloc(count + 1, sizeof(*busy));
	if (!busy || count == 0)
		return;
	int r = drop_points(group, group->state.deletes, count, &dropped, busy);
	if (r < 0) {
		log_warning("group %s: taking up deletions again: %s", group->name,
			strerrordesc_np(-r));
		return;
	}
	/* What became the newest meanwhile is needed. */
	for (unsigned i = count; i-- > 0;)
		if (busy[i])
			group_state_forget_delete(group, group->state.deletes[i]);
	(void)group_state_save(group);
}

/* ── a person's wishes ───────────────────────────────────────────────────────────────────── */

static int find_point(
	struct group *group, uint64_t number, struct error *error, struct point *ret_point)
{
	if (!group->history)
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"group %s: its journal failed and is not open", group->name);
	int r = history_point(group->history, number, ret_point);
	if (r < 0)
		return error_set(error, r, "'landfall point list MACHINE' shows what there is",
			"group %s has no recovery point %" PRIu64, group->name, number);
	return 0;
}

static int mark(struct group *group, uint64_t number, uint32_t set, uint32_t clear,
	const char *what, struct error *error)
{
	struct point point;
	uint64_t lsn;
	int r = find_point(group, number, error, &point);
	if (r < 0)
		return r;
	r = history_point_mark(group->history, number, set, clear, &lsn);
	if (r == -EAGAIN) { /* too much is staged: make it durable and go on */
		r = committer_sync(group->committer);
		if (r == 0)
			r = history_point_mark(group->history, number, set, clear, &lsn);
	}
	if (r == 0)
		r = group_sync(group, lsn);
	return r < 0 ? group_error(error, r, group, what) : 0;
}

/* The point beyond which nothing local goes to the vault any more: the newest that is there or on
 * its way. */
static uint64_t flush_front(struct group *group)
{
	struct history_stats stats;
	SCOPED_LOCK(
		&group->lock); /* held throughout: a flush that ends shows in one or the other */
	history_stats(group->history, &stats);
	uint64_t front = MAX(stats.newest_vault_point, history_flush_pending(group->history));
	return MAX(front, group->flush_number);
}

/* 0 if the point is in the vault or will get there before anything may take it. */
static int check_keepable(struct group *group, uint64_t number, struct error *error)
{
	struct point point;
	uint64_t front = group->history ? flush_front(group) : 0;
	int r = find_point(group, number, error, &point);
	if (r < 0 || (point.flags & POINT_VAULT))
		return r;
	if (point.flags & POINT_DAMAGED)
		return error_set(error, -EBUSY, "keep another one: 'landfall point list MACHINE'",
			"part of point %" PRIu64 " was lost on the appliance's disk, so that it "
			"cannot get into the vault",
			number);
	if (number < front)
		return error_set(error, -EBUSY,
			"keep that one; of this one save what is needed while it is there: "
			"'landfall "
			"inspect MACHINE POINT'",
			"point %" PRIu64 " is in the journal only, which gives it up when it needs "
			"room: the vault goes on from point %" PRIu64,
			number, front);
	return 0;
}

static int keep_locked(struct group *group, uint64_t number, struct error *error)
{
	int r = check_keepable(group, number, error);
	if (r < 0)
		return r;
	r = mark(group, number, POINT_KEEP, 0, "marking a point", error);
	if (r < 0)
		return r;
	/* The flusher looks at durable marks when it chooses. If it chose before this one was, that
	 * shows now. */
	r = check_keepable(group, number, error);
	if (r < 0)
		(void)mark(group, number, 0, POINT_KEEP, "taking the mark off", NULL);
	return r;
}

int group_point_keep(struct group *group, uint64_t number, bool keep, struct error *error)
{
	pthread_mutex_lock(&group->state_lock);
	int r = keep ? keep_locked(group, number, error)
		     : mark(group, number, 0, POINT_KEEP, "taking the mark off", error);
	pthread_mutex_unlock(&group->state_lock);
	if (r < 0)
		return r;
	SCOPED_LOCK(&group->lock);
	group->keeps_asked = true;
	pthread_cond_signal(&group->flush_wake);
	return 0;
}

/* For its alert, after a restart, too; if it cannot be kept the alert says so. */
static void note_fault(struct group *group, uint64_t number, const struct error *fault)
{
	SCOPED_LOCK(&group->state_lock);
	group->state.failed_point = number;
	group->state.failed_fault = *fault;
	(void)group_state_save(group);
}

int group_point_verdict(
	struct group *group, uint64_t number, const struct error *fault, struct error *error)
{
	if (fault)
		note_fault(group, number, fault);
	int r = mark(group, number, fault ? POINT_FAILED : POINT_VERIFIED,
		fault ? POINT_VERIFIED : POINT_FAILED, "recording a verdict", error);
	if (r == 0)
		group_find_failed_point(group);
	return r;
}

static int delete_point_locked(struct group *group, uint64_t number, struct error *error)
{
	struct point point;
	int r = find_point(group, number, error, &point);
	if (r < 0)
		return r;
	struct history_stats stats;
	history_stats(group->history, &stats);
	if (point.flags & POINT_KEEP)
		return error_set(error, -EBUSY,
			"take the mark off first: 'landfall point keep MACHINE POINT --off'",
			"point %" PRIu64 " is marked to be kept", number);
	if (point.flags & POINT_DRAINED)
		return error_set(error, -EBUSY, "delete it once it is there",
			"point %" PRIu64 " is on its way to the vault", number);
	if (number == stats.newest_vault_point)
		return error_set(error, -EBUSY,
			"create a newer one in the vault first: 'landfall point create "
			"MACHINE --wait vault'",
			"point %" PRIu64
			" is the newest in the vault, and the journal stands on it",
			number);
	unsigned dropped = 0;
	bool busy = false;
	if (point.flags & POINT_VAULT)
		r = drop_from_vault_locked(group, &number, 1, &dropped);
	else
		r = drop_points(group, &number, 1, &dropped, &busy);
	if (r < 0)
		return group_error(error, r, group, "deleting a point");
	if (dropped == 0)
		return error_set(error, -EBUSY, "close its inspections, clones and files first",
			"point %" PRIu64 " is being read", number);
	return 0;
}

int group_point_delete(struct group *group, uint64_t number, struct error *error)
{
	pthread_mutex_lock(&group->state_lock);
	int r = delete_point_locked(group, number, error);
	pthread_mutex_unlock(&group->state_lock);
	if (r < 0)
		return r;
	group_find_failed_point(group);
	SCOPED_LOCK(&group->lock);
	group->deletes_asked = true;
	group->status.points_deleted++;
	pthread_cond_signal(&group->flush_wake);
	return 0;
}
