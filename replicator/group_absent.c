/*
 * Disks that the group's points do not show: one whose first synchronization is not over yet, or
 * that is not there. The others' points need not wait for it, and none may show what is no state of
 * the disk at that instant.
 *
 * That a disk is absent is kept in the group's state before the first point without it is sealed,
 * that it is back after the first with it was: a crash in between hides too much for one point,
 * never too little. What could not be kept is tried again at the next seal: absences before it, and
 * it is not made until they are kept; their ends after it. Manifests repeat the list, for who takes
 * the group over.
 *
 * Called by who seals the group's points, one at a time.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/group_internal.h"

static bool lists(const uint16_t *disks, unsigned count, uint16_t disk)
{
	for (unsigned i = 0; i < count; i++)
		if (disks[i] == disk)
			return true;
	return false;
}

static struct history_absence *find_open(struct group_state *state, uint16_t disk)
{
	for (unsigned i = 0; i < state->absence_count; i++)
		if (state->absences[i].disk == disk && state->absences[i].to == 0)
			return &state->absences[i];
	return NULL;
}

/* What no point needs any more goes; of too many, two of a disk become one, which hides more. */
static void shorten(struct group *group)
{
	struct group_state *state = &group->state;
	struct point oldest;
	uint64_t first =
		history_point_oldest(group->history, 0, 0, &oldest) == 0 ? oldest.number : 0;
	unsigned left = 0;
	for (unsigned i = 0; i < state->absence_count; i++)
		if (state->absences[i].to == 0 || state->absences[i].to > first)
			state->absences[left++] = state->absences[i];
	state->absence_count = left;
	for (unsigned i = 0; state->absence_count > GROUP_ABSENCES_MAX && i < state->absence_count;
		i++)
		for (unsigned k = i + 1; k < state->absence_count; k++) {
			if (state->absences[k].disk != state->absences[i].disk)
				continue;
			state->absences[i].to = state->absences[k].to;
			state->absence_count--;
			memmove(&state->absences[k], &state->absences[k + 1],
				(state->absence_count - k) * sizeof(state->absences[k]));
			break;
		}
}

/* All of it, so that what an earlier try failed to keep is kept as well. */
static int keep(struct group *group)
{
	struct group_state *state = &group->state;
	shorten(group);
	int r = group_state_save(group);
	if (r == 0)
		r = history_set_absences(group->history, state->absences, state->absence_count);
	if (r == 0)
		group->absences_begun = group->absences_ended = false;
	return r;
}

int group_set_absences(
	struct group *group, const uint16_t *disks, unsigned count, struct error *error)
{
	struct group_state *state = &group->state;
	struct point newest = { 0 };
	SCOPED_LOCK(&group->state_lock);
	(void)history_point_newest(group->history, 0, INT64_MAX, &newest);
	for (unsigned i = 0; i < count; i++) {
		if (find_open(state, disks[i]))
			continue;
		struct history_absence *more =
			realloc(state->absences, (state->absence_count + 1) * sizeof(*more));
		if (!more)
			return error_set(error, -ENOMEM, NULL, "out of memory");
		state->absences = more;
		more[state->absence_count++] =
			(struct history_absence){ .disk = disks[i], .from = newest.number + 1 };
		group->absences_begun = true;
	}
	if (count > 0)
		memcpy(group->absent, disks, count * sizeof(*disks));
	group->absent_count = count;
	group->absent_given = true;
	if (!group->absences_begun)
		return 0;
	int r = keep(group);
	return r < 0 ? group_error(error, r, group, "writing which disks its points show") : 0;
}

void group_end_absences(struct group *group, uint64_t number)
{
	struct group_state *state = &group->state;
	SCOPED_LOCK(&group->state_lock);
	for (unsigned i = 0; group->absent_given && i < state->absence_count; i++) {
		struct history_absence *a = &state->absences[i];
		if (a->to != 0 || lists(group->absent, group->absent_count, a->disk))
			continue;
		a->to = number;
		group->absences_ended = true;
		log_info("group %s: disk %u is in its points from point %" PRIu64 " on",
			group->name, a->disk, number);
	}
	group->absent_given = false;
	/* If it cannot be, too much is hidden until the next point's try. */
	if (group->absences_ended)
		(void)keep(group);
}

bool group_is_absent(struct group *group, uint16_t disk)
{
	SCOPED_LOCK(&group->state_lock);
	return find_open(&group->state, disk) != NULL;
}
