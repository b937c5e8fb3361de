/*
 * Disks that points do not show though they have them.
 *
 * A list of stretches of points, a disk each, held in memory for whoever names the disks of a point
 * to people. What the journal keeps and what is flushed does not depend on it.
 *
 * Threads: any; the list is replaced under the history's lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "fs/history_internal.h"

int history_set_absences(
	struct history *history, const struct history_absence *absences, unsigned count)
{
	struct history_absence *copy = calloc(count + 1u, sizeof(*copy)), *before;
	if (!copy)
		return -ENOMEM;
	if (count > 0)
		memcpy(copy, absences, count * sizeof(*copy));
	{
		SCOPED_LOCK(&history->lock);
		before = history->absences;
		history->absences = copy;
		history->absence_count = count;
	}
	free(before);
	return 0;
}

int history_copy_absences(
	struct history *history, struct history_absence **ret_absences, unsigned *ret_count)
{
	SCOPED_LOCK(&history->lock);
	struct history_absence *copy = calloc(history->absence_count + 1u, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	if (history->absence_count > 0)
		memcpy(copy, history->absences, history->absence_count * sizeof(*copy));
	*ret_absences = copy;
	*ret_count = history->absence_count;
	return 0;
}

bool history_point_hides(struct history *history, uint64_t number, uint16_t disk)
{
	SCOPED_LOCK(&history->lock);
	for (unsigned i = 0; i < history->absence_count; i++) {
		const struct history_absence *a = &history->absences[i];
		if (a->disk == disk && number >= a->from && (a->to == 0 || number < a->to))
			return true;
	}
	return false;
}
