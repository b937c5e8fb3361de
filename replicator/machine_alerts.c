/*
 * What is to be told of a machine alone, and not of its whole group: which points have it, that it
 * is in none yet, that its removal failed. The rest is its group's (group_timer.c).
 *
 * The alerts are evaluated by the upkeep thread, once a second, and told with the group's; which
 * points have the machine is asked anew each time.
 *
 * Threads: registry->lock is held in everything here; memory only.
 */
#include <errno.h>

#include "replicator/ebs.h"
#include "replicator/registry_internal.h"

#define BATCH 64u

/* ── points that have it ─────────────────────────────────────────────────────────────────── */

/* Ids of its disks. A machine that was removed and added again may have had others before. */
static unsigned disks_of(
	struct history *history, const char *machine, uint16_t *ret_ids, uint64_t *ret_first)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks ? history_disks(history, disks, HISTORY_MAX_DISKS) : 0, found = 0;
	size_t n = strlen(machine);
	*ret_first = UINT64_MAX;
	for (unsigned i = 0; i < count; i++) {
		if (disks[i].removed || strncmp(disks[i].name, machine, n) != 0 ||
			disks[i].name[n] != '/')
			continue;
		ret_ids[found++] = disks[i].id;
		*ret_first = MIN(*ret_first, disks[i].added_point);
	}
	return found;
}

static bool shows_any(
	struct history *history, uint64_t number, const uint16_t *ids, unsigned id_count)
{
	for (unsigned i = 0; i < id_count; i++)
		if (history_point_disk_bytes(history, number, ids[i]) > 0 &&
			!history_point_hides(history, number, ids[i]))
			return true;
	return false;
}

int machine_newest_point(
	struct history *history, const char *machine, uint32_t flags, struct point *ret_point)
{
	uint16_t ids[HISTORY_MAX_DISKS];
	struct point newest, batch[BATCH];
	uint64_t from;
	unsigned id_count = disks_of(history, machine, ids, &from), n;
	if (history_point_newest(history, flags, INT64_MAX, &newest) < 0 || newest.number < from)
		return -ENOENT;
	if (shows_any(history, newest.number, ids, id_count)) {
		*ret_point = newest;
		return 0;
	}
	int r = -ENOENT; /* it is hidden there */
	while ((n = history_points(history, from, batch, BATCH)) > 0) {
		for (unsigned i = 0; i < n; i++) {
			if ((batch[i].flags & flags) != flags ||
				!shows_any(history, batch[i].number, ids, id_count))
				continue;
			*ret_point = batch[i];
			r = 0;
		}
		from = batch[n - 1].number + 1;
	}
	return r;
}

uint64_t machine_point_count(struct history *history, const char *machine)
{
	uint16_t ids[HISTORY_MAX_DISKS];
	uint64_t from;
	if (!history || disks_of(history, machine, ids, &from) == 0)
		return 0;
	return point_count(history, from);
}

static struct history *history_of(const struct machine_entry *machine)
{
	const struct group_entry *entry = machine->group;
	return entry->group && !entry->ending ? group_history(entry->group) : NULL;
}

bool machine_is_unprotected(const struct registry *registry, const struct machine_entry *machine)
{
	struct point point;
	struct history *history = history_of(machine);
	return history && !machine->removing &&
	       machine_newest_point(
		       history, machine->name, registry->service ? POINT_VAULT : 0, &point) < 0;
}

/* ── alerts ──────────────────────────────────────────────────────────────────────────────── */

/* How the newest removal of a machine that is marked so has ended; false: it is under way. */
static bool removal_failed(
	struct registry *registry, const struct machine_entry *machine, struct error *ret_error)
{
	enum job_state state;
	struct error error = { 0 };
	if (jobs_newest(registry->jobs, "machine.remove", machine->name, &state, &error) < 0) {
		error_set(ret_error, -EINTR, NULL, "it was interrupted");
		return true;
	}
	if (state == JOB_QUEUED || state == JOB_RUNNING)
		return false;
	if (state == JOB_FAILED)
		*ret_error = error;
	else
		error_set(ret_error, -ECANCELED, NULL, "its job was %s",
			state == JOB_CANCELED ? "canceled" : "ended before it was recorded");
	return true;
}

/* A drill that was canceled tells nothing, nor does one under way. */
static void find_drill_error(
	struct registry *registry, const struct machine_entry *machine, struct error *ret_error)
{
	enum job_state state;
	struct error error = { 0 };
	if (jobs_newest(registry->jobs, "drill.start", machine->name, &state, &error) == 0 &&
		state == JOB_FAILED)
		*ret_error = error;
}

static void watch_machine(struct registry *registry, struct machine_entry *machine)
{
	struct point newest;
	struct history *history = history_of(machine);
	uint32_t flags = registry->service ? POINT_VAULT : 0;
	struct machine_facts facts = { .machine = machine->name,
		.group = machine->group->name,
		.now_ns = clock_realtime_ns(registry->clock),
		.has_vault = registry->service != NULL,
		.keep_vault = machine->keep_vault };
	if (machine->removing)
		facts.removal_failed = removal_failed(registry, machine, &facts.removal_error);
	/* While its group has no point either, that is the group's to tell. */
	else if (history && history_point_newest(history, flags, INT64_MAX, &newest) == 0)
		facts.joined_unprotected = machine_is_unprotected(registry, machine);
	if (!machine->removing && registry->ebs && strcmp(machine->source, "ebs") == 0)
		ebs_news(registry->ebs, machine, &facts.volumes, &facts.snapshots);
	find_drill_error(registry, machine, &facts.drill_error);
	alerts_evaluate_machine(&facts, machine->alerts, &machine->alert_count);
}

void machines_watch(struct registry *registry)
{
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		watch_machine(registry, m);
}

void machine_add_alerts(const struct machine_entry *machine, struct group_status *status)
{
	for (unsigned i = 0; i < machine->alert_count && status->alert_count < ALERT_MAX; i++)
		status->alerts[status->alert_count++] = machine->alerts[i];
}
