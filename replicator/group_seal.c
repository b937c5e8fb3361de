/*
 * Sealing a point: by the timer, by a person, in answer to a source's mark.
 *
 * One seal at a time, under seal_lock, which is held across the seal's commit: what the seal covers
 * and what is noted of it (who asked, since when something was unsealed, which absences ended)
 * cannot part. A disk whose acknowledged data was lost stands in the way of every point until
 * somebody says that its content was written anew.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/group_internal.h"

static void note_sealed(struct group *group, uint64_t number, int64_t first_change_ns,
	const struct group_due *answers, uint8_t kind)
{
	SCOPED_LOCK(&group->lock);
	group->last_seal_mono_ns = clock_monotonic_ns(group->clock);
	group_due_answered_locked(group, answers ? answers->request : 0, kind);
	group->status.history.newest_point = number; /* who asks next need not wait for a tick */
	group_note_sealed_locked(group, number, first_change_ns);
	struct history_drain drain;
	history_drain_state(group->history, &drain);
	group->flush_asked |= drain.number != 0; /* it cannot be opened before */
	pthread_cond_signal(&group->flush_wake);
}

/* seal_lock held. */
static int seal_locked(struct group *group, const struct seal *wanted,
	const struct group_due *answers, uint64_t *ret_number)
{
	int64_t now_ns = clock_realtime_ns(group->clock);
	struct seal seal = *wanted;
	if (seal.time_ns == 0)
		seal.time_ns = now_ns;
	/* A write admitted from here on counts for the next point even if it gets into this one:
	 * the age of what is unsealed may look a moment too old, never too young. */
	int64_t first_change_ns = atomic_exchange(&group->first_change_ns, 0);
	uint64_t number;
	int r = committer_seal(group->committer, &seal, &number);
	if (r < 0) {
		int64_t none = 0;
		atomic_compare_exchange_strong(&group->first_change_ns, &none, first_change_ns);
		return r;
	}
	group_end_absences(group, number);
	note_sealed(group, number, first_change_ns, answers, seal.kind);
	struct history_stats stats;
	history_stats(group->history, &stats);
	int64_t none = 0;
	if (stats.unsealed_bytes > 0)
		atomic_compare_exchange_strong(&group->first_change_ns, &none, now_ns);
	*ret_number = number;
	return 0;
}

int group_seal_now(struct group *group, const struct seal *seal, const struct group_due *answers,
	uint64_t *ret_number)
{
	SCOPED_LOCK(&group->seal_lock);
	return seal_locked(group, seal, answers, ret_number);
}

int group_seal_due(struct group *group, const struct seal *seal, uint64_t *ret_number)
{
	SCOPED_LOCK(&group->seal_lock);
	return group_resync_disks(group, NULL, 0) > 0 ? -EBUSY
						      : seal_locked(group, seal, NULL, ret_number);
}

int group_mark_damaged(struct group *group, uint64_t number)
{
	const uint32_t flags = POINT_LOCAL | POINT_VAULT | POINT_DAMAGED;
	struct point p;
	uint64_t lsn = 0;
	SCOPED_LOCK(&group->seal_lock);
	while (history_point_oldest(group->history, number + 1, POINT_LOCAL, &p) == 0) {
		number = p.number;
		if ((p.flags & flags) != POINT_LOCAL)
			continue;
		int r = history_point_mark(group->history, number, POINT_DAMAGED, 0, &lsn);
		if (r == -EAGAIN &&
			(r = group_sync(group, history_staged_lsn(group->history))) == 0)
			r = history_point_mark(group->history, number, POINT_DAMAGED, 0, &lsn);
		if (r < 0)
			return r;
		log_warning("group %s: point %" PRIu64
			    " was sealed on top of what was left after a loss; it is damaged",
			group->name, number);
	}
	return lsn > 0 ? group_sync(group, lsn) : 0;
}

static int clear_resync(struct group *group)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	unsigned count = history_disks(group->history, disks, HISTORY_MAX_DISKS);
	uint64_t lsn = 0;
	int r = 0;
	for (unsigned i = 0; r == 0 && i < count; i++)
		if (disks[i].resync_needed)
			r = history_clear_resync(group->history, disks[i].id, &lsn);
	return r == 0 && lsn > 0 ? group_sync(group, lsn) : r;
}

unsigned group_resync_disks(struct group *group, char *ret_names, size_t size)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks ? history_disks(group->history, disks, HISTORY_MAX_DISKS) : 0;
	unsigned needy = 0;
	size_t used = 0;
	for (unsigned i = 0; i < count; i++) {
		if (!disks[i].resync_needed || disks[i].removed)
			continue;
		if (used < size)
			used += (size_t)snprintf(ret_names + used, size - used, "%s%s",
				needy ? ", " : "", disks[i].name);
		needy++;
	}
	return needy;
}

int group_seal(struct group *group, const struct seal *seal, const struct group_due *answers,
	bool resynced, struct error *error, uint64_t *ret_number)
{
	char names[160] = "";
	if (!group->committer)
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"group %s: its journal failed and is not open", group->name);
	pthread_mutex_lock(&group->lock);
	bool taken_over = group->taken_over;
	pthread_mutex_unlock(&group->lock);
	if (taken_over)
		return error_set(error, -ESTALE, "see the alerts of 'landfall status'",
			"group %s belongs to another appliance", group->name);
	if (group_disk_is_full(group))
		return error_set(error, -ENOSPC, "make room on it",
			"group %s: the disk that holds %s is full", group->name, group->directory);
	if (group_resync_disks(group, names, sizeof(names)) > 0) {
		if (!resynced)
			return error_set(error, -EBUSY,
				"write their content again from the source, then create the point "
				"with --resynced",
				"group %s: acknowledged data of %s was lost here, so that a point "
				"made now would not be right",
				group->name, names);
		int r = clear_resync(group);
		if (r < 0)
			return group_error(error, r, group, "clearing the need to resync");
	}
	int r = group_seal_now(group, seal, answers, ret_number);
	return r < 0 ? group_error(error, r, group, "sealing a recovery point") : 0;
}
