/*
 * RPO: how old the oldest change is that a point does not have.
 *
 * group->first_change_ns is when the oldest change was made that is not sealed, group->sealed when
 * the oldest of each sealed point was made that is not in the vault. Both are lost with the
 * process; what replaces them at an opening is the time of the point before, or when the journal
 * began if there is none. So an age may look too old after a start, never too young.
 *
 * Of a source whose writes are not seen (source_unseen) the age is that of the newest point.
 *
 * Threads: any; group->lock is held for memory work only.
 */
#include "common/bytes.h"
#include "replicator/group_internal.h"

#define READ_POINTS 64u

void group_note_sealed_locked(struct group *group, uint64_t number, int64_t first_change_ns)
{
	if (first_change_ns == 0)
		return;
	/* When there is no room the newest entry speaks for several points: by its oldest change.
	 */
	if (group->sealed_count == GROUP_SEALED_MAX)
		group->sealed[GROUP_SEALED_MAX - 1].number = number;
	else
		group->sealed[group->sealed_count++] =
			(struct sealed_change){ number, first_change_ns };
}

void group_rpo_begin(struct group *group)
{
	struct point points[READ_POINTS], newest;
	struct history_stats stats;
	uint64_t number = 0;
	unsigned count;
	pthread_mutex_lock(&group->state_lock);
	int64_t since_ns = group->state.opened_ns;
	pthread_mutex_unlock(&group->state_lock);
	if (history_point_newest(group->history, POINT_VAULT, INT64_MAX, &newest) == 0) {
		number = newest.number;
		since_ns = newest.time_ns;
	}
	history_stats(group->history, &stats);
	SCOPED_LOCK(&group->lock);
	group->sealed_count = 0;
	while ((count = history_points(group->history, number + 1, points, READ_POINTS)) > 0) {
		for (unsigned i = 0; i < count; i++) {
			if (points[i].changed_bytes > 0)
				group_note_sealed_locked(group, points[i].number,
					since_ns ? since_ns : points[i].time_ns);
			since_ns = points[i].time_ns;
		}
		number = points[count - 1].number;
	}
	atomic_store(&group->first_change_ns, stats.unsealed_bytes > 0 ? since_ns : 0);
}

/* Age of the oldest change after point `after`; 0: there is none. */
static int64_t change_age_locked(struct group *group, const struct history_stats *stats,
	const struct point *after, int64_t now_ns)
{
	int64_t oldest = 0;
	if (after->number < stats->newest_point) {
		oldest = after->time_ns; /* certain, but perhaps too old */
		for (unsigned i = 0; i < group->sealed_count; i++) {
			if (group->sealed[i].number <= after->number)
				continue;
			oldest = MAX(oldest, group->sealed[i].first_change_ns);
			break;
		}
		if (oldest == 0)
			return 0;
	} else if (stats->unsealed_bytes > 0) {
		oldest = atomic_load(&group->first_change_ns);
		if (oldest == 0)
			oldest = after->time_ns;
	} else {
		return 0;
	}
	return MAX(now_ns - oldest, (int64_t)1);
}

/* True if points after `number` hold changes. */
static bool sealed_changes_after(struct group *group, uint64_t number)
{
	struct point points[READ_POINTS];
	unsigned count;
	while ((count = history_points(group->history, number + 1, points, READ_POINTS)) > 0) {
		for (unsigned i = 0; i < count; i++)
			if (points[i].changed_bytes > 0)
				return true;
		number = points[count - 1].number;
	}
	return false;
}

int64_t group_rpo_ns(struct group *group, uint32_t flags, const struct history_stats *stats)
{
	struct point newest;
	int64_t now_ns = clock_realtime_ns(group->clock);
	if (history_point_newest(group->history, flags, INT64_MAX, &newest) < 0)
		return -1;
	if (group->source_unseen)
		return MAX(now_ns - newest.time_ns, (int64_t)1);
	struct history_stats adjusted = *stats;
	if (newest.number < stats->newest_point && !sealed_changes_after(group, newest.number))
		adjusted.newest_point = newest.number;
	SCOPED_LOCK(&group->lock);
	return change_age_locked(group, &adjusted, &newest, now_ns);
}

int64_t group_unprotected_ns_locked(struct group *group, const struct history_stats *stats)
{
	if (group->status.rpo_vault_ns >= 0)
		return group->status.rpo_vault_ns;
	int64_t oldest = group->sealed_count > 0 ? group->sealed[0].first_change_ns
						 : atomic_load(&group->first_change_ns);
	if (oldest == 0 || (stats->newest_point == 0 && stats->unsealed_bytes == 0))
		return -1;
	return clock_realtime_ns(group->clock) - oldest;
}
