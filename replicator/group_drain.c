/*
 * Draining a group's epoch when nothing else makes room in its journal.
 *
 * A group whose source makes the points cannot be sealed for pressure: what is there may be no
 * state that ever was. Nor can one that needs a resync. What is staged then leaves the journal in
 * rounds (fs/history.h, "Draining"), but only if it is what fills the journal: points that are
 * sealed are flushed first, and segments that may go are trimmed first.
 *
 * Threads: worker_drain the flusher's, all else the timer's.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/group_worker.h"

/* A round is worth its while from this share of the journal on, and takes no more: with small ones
 * as much is sent that is overwritten soon, with large ones writers wait long for room. */
#define LEAST_SHARE 8u

static bool cannot_seal(struct group *group)
{
	SCOPED_LOCK(&group->lock);
	return (group->source_seals || group->status.resync_disks > 0) && !group->paused &&
	       !group->taken_over && !group->failed && group->claimed;
}

bool group_wants_drain(struct group *group)
{
	struct history_stats stats;
	struct history_drain drain;
	if (!group->service || atomic_load(&group->level) < BACKPRESSURE_TRIM ||
		!cannot_seal(group))
		return false;
	history_stats(group->history, &stats);
	history_drain_state(group->history, &drain);
	return !drain.flush_due && stats.undrained_bytes >= stats.limit_bytes / LEAST_SHARE &&
	       stats.freeable_bytes < stats.used_bytes / LEAST_SHARE;
}

void group_press_source(struct group *group)
{
	struct history_drain drain;
	if (atomic_load(&group->level) < BACKPRESSURE_TRIM || !cannot_seal(group))
		return;
	history_drain_state(group->history, &drain);
	bool wanted = group_wants_drain(group);
	SCOPED_LOCK(&group->lock);
	group->flush_asked |= drain.flush_due;
	group->drain_asked = wanted;
	if (drain.flush_due || wanted)
		pthread_cond_signal(&group->flush_wake);
}

static int open_flusher(struct worker *w, struct error *error, struct flusher **ret_flusher)
{
	struct group *group = w->group;
	struct flusher *flusher;
	struct history_stats stats;
	history_stats(group->history, &stats);
	int r = worker_new_flusher(w, stats.limit_bytes / LEAST_SHARE, error, &flusher);
	if (r < 0)
		return r;
	SCOPED_LOCK(&group->lock);
	group->flusher = flusher;
	group->flushing = group->draining = true;
	/* A wish to stop that came just before would otherwise be missed. */
	if (group->stopping || group->paused || group->deleting)
		group_stop_flush_locked(group);
	*ret_flusher = flusher;
	return 0;
}

static void close_flusher(struct group *group, struct flusher *flusher)
{
	pthread_mutex_lock(&group->lock);
	group->flusher = NULL;
	group->flushing = group->draining = false;
	pthread_mutex_unlock(&group->lock);
	flusher_free(flusher);
}

static void count_round(struct group *group, const struct flusher_result *result)
{
	SCOPED_LOCK(&group->lock);
	group_count_sent_locked(group, result);
	group->status.drains += result->drained;
	pthread_cond_broadcast(&group->changed);
	pthread_cond_signal(&group->timer_wake); /* there is something to trim */
}

int worker_drain(struct worker *w, struct error *error, bool *ret_asked)
{
	struct group *group = w->group;
	struct flusher *flusher = NULL;
	struct flusher_result result = { 0 };
	pthread_mutex_lock(&group->lock);
	group->drain_asked = false;
	pthread_mutex_unlock(&group->lock);
	*ret_asked = false;
	if (!group_wants_drain(group))
		return 0;
	int r = open_flusher(w, error, &flusher);
	if (r < 0)
		return r;
	*ret_asked = true;
	r = flusher_drain(flusher, error, &result);
	close_flusher(group, flusher);
	if (r == -EALREADY)
		return 0; /* a point was sealed; it is flushed now */
	if (r < 0)
		return r;
	count_round(group, &result);
	if (result.drained)
		log_debug("group %s: %" PRIu64 " bytes of point %" PRIu64
			  " to come are in the vault",
			group->name, result.put_bytes, result.point);
	return 0;
}
