/*
 * Flushing a group's points: which one, the flush, who waits for it.
 *
 * The choice is made under the lock that shows what was chosen (flush_number), by durable marks:
 * group_point_keep relies on both. A flush that is stopped or fails is wished for still.
 *
 * Threads: worker_flush the flusher's, all else any.
 */
#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/group_worker.h"

/* ── flushing ────────────────────────────────────────────────────────────────────────────── */

static int sync_for_flusher(void *context, uint64_t lsn)
{
	return group_sync(context, lsn);
}

/* Of the local day. */
static unsigned minute_now(const struct group *group)
{
	time_t now = (time_t)(clock_realtime_ns(group->clock) / NS_PER_S);
	struct tm local;
	localtime_r(&now, &local);
	return (unsigned)(local.tm_hour * 60 + local.tm_min);
}

static uint64_t bandwidth_now(void *context)
{
	struct group *group = context;
	unsigned minute = minute_now(group);
	SCOPED_LOCK(&group->lock);
	return policy_bandwidth(&group->policy, minute);
}

uint64_t group_agent_bandwidth(struct group *group)
{
	unsigned minute = minute_now(group);
	SCOPED_LOCK(&group->lock);
	return policy_agent_bandwidth(&group->policy, minute);
}

/* What was drained goes first, in its order, since nothing on top of it can be opened before; one
 * whose content could not be proven is passed by for the newest. */
static bool next_drained(struct group *group, uint64_t from, uint64_t *ret_number)
{
	struct point first, newest;
	if (history_point_oldest(group->history, from, POINT_DRAINED, &first) < 0 ||
		history_point_newest(group->history, POINT_DRAINED, INT64_MAX, &newest) < 0)
		return false;
	bool passed = first.number == atomic_load(&group->unproven_point);
	*ret_number = passed ? newest.number : first.number;
	return true;
}

/* The point to flush: the oldest that is kept and not in the vault yet, since a later flush would
 * pass it by for good; else the newest. A flush that was begun is not gone behind. What counts is
 * what is durable: see group_point_keep. */
bool group_next_point(struct group *group, uint64_t *ret_number)
{
	struct history_stats stats;
	struct point newest, kept;
	history_stats(group->history, &stats);
	uint64_t pending = history_flush_pending(group->history);
	uint64_t unknown = atomic_load(&group->unknown_point);
	uint64_t newest_there = MAX(stats.newest_vault_point, unknown);
	uint64_t from = MAX(newest_there + 1, pending);
	if (next_drained(group, from, ret_number))
		return true;
	while (history_point_oldest(group->history, from, POINT_LOCAL | POINT_KEEP, &kept) == 0) {
		*ret_number = kept.number;
		if (!(kept.flags & POINT_DAMAGED))
			return true;
		from = kept.number + 1;
	}
	if (stats.newest_point <= newest_there ||
		history_point_newest(group->history, POINT_LOCAL, INT64_MAX, &newest) < 0 ||
		newest.number <= newest_there || (newest.flags & POINT_DAMAGED))
		return false;
	*ret_number = newest.number;
	return true;
}

int worker_new_flusher(
	struct worker *w, uint64_t drain_bytes, struct error *error, struct flusher **ret_flusher)
{
	struct group *group = w->group;
	struct flusher_options options = { .history = group->history,
		.store = w->store,
		.clock = group->clock,
		.group = &group->vault_group,
		.sync = sync_for_flusher,
		.sync_context = group,
		.bandwidth = bandwidth_now,
		.bandwidth_context = group,
		.pace = &w->pace,
		.drain_bytes = drain_bytes,
		.unknown_point = atomic_load(&group->unknown_point) };
	int r = flusher_new(&options, ret_flusher);
	return r < 0 ? group_error(error, r, group, "starting the flusher") : 0;
}

/* *ret_number: which point; 0 if there is none to flush any more. */
static int open_flusher(
	struct worker *w, struct error *error, struct flusher **ret_flusher, uint64_t *ret_number)
{
	struct group *group = w->group;
	struct flusher *flusher;
	int r = worker_new_flusher(w, 0, error, &flusher);
	if (r < 0)
		return r;
	uint64_t number = 0;
	pthread_mutex_lock(&group->lock);
	bool found = group_next_point(group, &number);
	if (found) {
		group->flush_number = number;
		group->flusher = flusher;
		group->flushing = true;
		group->last_flush_mono_ns = clock_monotonic_ns(group->clock);
		group->flush_asked = false;
		/* A wish to stop that came just before would otherwise be missed. */
		if (group->stopping || group->paused || group->deleting)
			group_stop_flush_locked(group);
	}
	pthread_mutex_unlock(&group->lock);
	if (!found)
		flusher_free(flusher);
	*ret_flusher = flusher;
	*ret_number = found ? number : 0;
	return 0;
}

static void close_flusher(struct group *group, struct flusher *flusher)
{
	pthread_mutex_lock(&group->lock);
	group->flusher = NULL;
	group->flush_number = 0;
	group->flushing = false;
	pthread_mutex_unlock(&group->lock);
	flusher_free(flusher);
}

void group_count_sent_locked(struct group *group, const struct flusher_result *result)
{
	struct flusher_result *totals = &group->status.totals;
	totals->put_bytes += result->put_bytes;
	totals->put_requests += result->put_requests;
	totals->clear_bytes += result->clear_bytes;
	totals->clear_requests += result->clear_requests;
	totals->bridged_bytes += result->bridged_bytes;
	totals->retries += result->retries;
	totals->fences += result->fences;
	totals->duration_ns += result->duration_ns;
	group->flushed_bytes += result->put_bytes + result->clear_bytes;
	group->flush_failures = 0;
	group->flush_error = (struct error){ 0 };
}

static void count_flush(struct group *group, const struct flusher_result *result)
{
	SCOPED_LOCK(&group->lock);
	group_count_sent_locked(group, result);
	group->status.totals.point = result->point;
	group->status.history.newest_vault_point = result->point; /* before the next tick, too */
	group->status.flushes++;
	group->retention_asked = true;
	unsigned left = 0;
	for (unsigned i = 0; i < group->sealed_count; i++)
		if (group->sealed[i].number > result->point)
			group->sealed[left++] = group->sealed[i];
	group->sealed_count = left;
	pthread_cond_broadcast(&group->changed);
	pthread_cond_signal(&group->timer_wake);
}

/* A kept point went by itself; what it went before was wanted as well. */
static void ask_for_rest(struct group *group, uint64_t number)
{
	struct point flushed, next;
	if (history_point(group->history, number, &flushed) < 0 || !(flushed.flags & POINT_KEEP) ||
		history_point_oldest(group->history, number + 1, POINT_LOCAL, &next) < 0)
		return;
	SCOPED_LOCK(&group->lock);
	group->flush_asked = true;
}

int worker_flush(struct worker *w, struct error *error, bool *ret_asked)
{
	struct group *group = w->group;
	struct flusher *flusher = NULL;
	struct flusher_result result = { 0 };
	uint64_t number = 0;
	int r = open_flusher(w, error, &flusher, &number);
	*ret_asked = r == 0 && number != 0;
	if (r < 0 || number == 0)
		return r;
	r = flusher_flush(flusher, number, error, &result);
	close_flusher(group, flusher);
	if (r == 0) {
		atomic_store(&group->unknown_point, 0);
		atomic_store(&group->unproven_point, 0);
		count_flush(group, &result);
		ask_for_rest(group, number);
		log_debug("group %s: point %" PRIu64 " is in the vault, %" PRIu64
			  " bytes sent in %" PRIu64 " requests",
			group->name, result.point, result.put_bytes, result.put_requests);
	} else {
		/* The wish stands until it is fulfilled. */
		if (r == -EIO)
			atomic_store(&group->unproven_point, number);
		SCOPED_LOCK(&group->lock);
		group->flush_asked = true;
	}
	return r;
}

void group_stop_flush_locked(struct group *group)
{
	if (!group->flusher)
		return;
	flusher_cancel(group->flusher);
	atomic_store(&group->stop_calls, true);
}

/* ── waiting ─────────────────────────────────────────────────────────────────────────────── */

int group_check_ending_locked(const struct group *group, struct error *error)
{
	if (group->taken_over)
		return error_set(error, -ESTALE, "see the alerts of 'landfall status'",
			"group %s belongs to another appliance", group->name);
	if (group->stopping || group->failed)
		return error_set(error, -ECANCELED, NULL, "group %s is ending", group->name);
	return 0;
}

int group_wait_vault(struct group *group, uint64_t number, unsigned timeout_ms, struct error *error)
{
	if (!group->service)
		return error_set(error, -ENOTCONN,
			"add [vault] to landfall.conf, restart landfalld, run 'landfall vault "
			"init'",
			"group %s: no vault is configured", group->name);
	if (!group->history)
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"group %s: its journal failed and is not open", group->name);
	int64_t until = clock_monotonic_ns(group->clock) + timeout_ms * NS_PER_MS;
	SCOPED_LOCK(&group->lock);
	for (;;) {
		struct history_stats stats;
		history_stats(group->history, &stats);
		if (stats.newest_vault_point >= number)
			return 0;
		int r = group_check_ending_locked(group, error);
		if (r < 0)
			return r;
		if (clock_monotonic_ns(group->clock) >= until)
			return error_set(error, -ETIMEDOUT, NULL,
				"point %" PRIu64 " of group %s is not in the vault yet", number,
				group->name);
		group->flush_asked = true;
		pthread_cond_signal(&group->flush_wake);
		group_wait_until_locked(group, &group->changed, until);
	}
}
