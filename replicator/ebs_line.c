/*
 * The line between what the journal holds and what AWS is asked for.
 *
 * Changes since a base may be written only over exactly what the base shows. That is so if the
 * newest seal of the disk bears the base's bookmark, nothing acknowledged was lost since, and
 * nothing of a set that was given up was written over it. All of it is looked at before each cycle
 * and before each volume; what fails comes whole.
 */
#include <errno.h>

#include "common/checksum.h"
#include "common/log.h"
#include "replicator/ebs_internal.h"

static_assert(sizeof(struct hash128) == HISTORY_BOOKMARK_BYTES, "a bookmark is a hash");

static void make_bookmark(const char *snapshot, uint8_t ret[static HISTORY_BOOKMARK_BYTES])
{
	struct hash128 hash = checksum128(snapshot, strlen(snapshot));
	memcpy(ret, &hash, HISTORY_BOOKMARK_BYTES);
}

/* The newest seal shows this snapshot. */
static bool shows(struct history *history, uint16_t disk, const char *snapshot)
{
	uint8_t found[HISTORY_BOOKMARK_BYTES], wanted[HISTORY_BOOKMARK_BYTES];
	if (snapshot[0] == '\0' || history_bookmark(history, disk, found) < 0)
		return false;
	make_bookmark(snapshot, wanted);
	return memcmp(found, wanted, sizeof(wanted)) == 0;
}

static bool has_points(struct history *history, uint16_t disk)
{
	struct point newest;
	return history_point_newest(history, 0, INT64_MAX, &newest) == 0 &&
	       history_point_disk_bytes(history, newest.number, disk) > 0 &&
	       !history_point_hides(history, newest.number, disk);
}

/* NULL: nothing is wrong. */
static const char *find_fault(
	struct ebs_worker *w, struct history *history, unsigned i, const struct history_disk *disk)
{
	const struct ec2_cycle *cycle = &w->state.cycle;
	const struct ec2_cycle_volume *v = &cycle->volumes[i];
	if (disk->resync_needed && !w->mending[i])
		return "acknowledged data was lost here";
	if (v->whole && cycle->phase >= EC2_CYCLE_COPYING)
		return NULL; /* it depends on nothing */
	if (v->base[0] == '\0')
		return NULL; /* it will come whole */
	if (cycle->phase == EC2_CYCLE_IDLE && w->state.begun[i])
		return "a set of snapshots was lost while it was being copied";
	return shows(history, disk->id, v->base)
		       ? NULL
		       : "what is held here is not what the last snapshot shows";
}

bool ebs_line_is_broken(struct ebs_worker *w, unsigned i)
{
	struct history_disk disk;
	struct history *history = group_history(w->hold.group);
	if (ebs_find_disk(w, w->spec.disks[i].id, &disk) < 0)
		return true;
	return find_fault(w, history, i, &disk) != NULL;
}

static void break_line(struct ebs_worker *w, unsigned i, const char *why)
{
	struct ec2_cycle *cycle = &w->state.cycle;
	struct ec2_cycle_volume *v = &cycle->volumes[i];
	log_warning("machine %s: volume %s is compared whole: %s", w->machine, v->id, why);
	snprintf(w->state.cause, sizeof(w->state.cause), "volume %s: %s", v->id, why);
	v->base[0] = '\0';
	v->base_bytes = 0;
	v->index = 0;
	v->whole = true;
	if (cycle->phase == EC2_CYCLE_COPIED)
		cycle->phase = EC2_CYCLE_COPYING;
}

bool ebs_is_sealed(struct ebs_worker *w)
{
	const struct ec2_cycle *cycle = &w->state.cycle;
	struct history *history = group_history(w->hold.group);
	struct history_disk disk;
	for (unsigned i = 0; i < cycle->count; i++) {
		if (ebs_find_disk(w, w->spec.disks[i].id, &disk) < 0 || disk.resync_needed ||
			!shows(history, disk.id, cycle->volumes[i].snapshot))
			return false;
	}
	return cycle->phase == EC2_CYCLE_COPIED;
}

int ebs_check_lines(struct ebs_worker *w, struct error *error)
{
	struct ec2_cycle *cycle = &w->state.cycle;
	struct history *history = group_history(w->hold.group);
	bool changed = false;
	if (ebs_is_sealed(w))
		return 0;
	for (unsigned i = 0; i < cycle->count; i++) {
		struct history_disk disk;
		int r = ebs_find_disk(w, w->spec.disks[i].id, &disk);
		if (r < 0)
			return error_set(error, r, NULL, "disk %s is not in the journal: %s",
				w->spec.disks[i].id, strerrordesc_np(-r));
		const char *fault = find_fault(w, history, i, &disk);
		/* Without a base a disk that has points is news, one that has none is at its
		 * beginning. */
		if (!fault && cycle->phase == EC2_CYCLE_IDLE && cycle->volumes[i].base[0] == '\0' &&
			has_points(history, disk.id) && !w->state.cause[0])
			fault = "which snapshot it was copied from is not known any more";
		if (fault) {
			break_line(w, i, fault);
			changed = true;
		}
		w->mending[i] |= disk.resync_needed;
	}
	int r = changed ? ebs_cycle_ops.save(w, cycle) : 0;
	return r < 0 ? error_set(error, r, "see that the appliance's disk has room and works",
			       "the state of machine %s cannot be saved: %s", w->machine,
			       strerrordesc_np(-r))
		     : 0;
}

/* ── sealing ─────────────────────────────────────────────────────────────────────────────── */

static bool all_mended(struct ebs_worker *w)
{
	struct history_disk disk;
	for (unsigned i = 0; i < w->spec.count; i++)
		if (ebs_find_disk(w, w->spec.disks[i].id, &disk) < 0 ||
			(disk.resync_needed && !w->mending[i]))
			return false;
	return true;
}

/* What is no part of this set is in no point: a disk that joins with the next one. */
static int leave_out(struct ebs_worker *w, struct error *error)
{
	uint16_t absent[HISTORY_MAX_DISKS];
	unsigned count = 0;
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	const unsigned n = history_disks(group_history(w->hold.group), disks, HISTORY_MAX_DISKS);
	const size_t prefix = strlen(w->machine);
	for (unsigned i = 0; i < n; i++) {
		bool ours = strncmp(disks[i].name, w->machine, prefix) == 0 &&
			    disks[i].name[prefix] == '/';
		bool known = !ours || disks[i].removed;
		for (unsigned k = 0; k < w->spec.count && !known; k++)
			known = strcmp(disks[i].name + prefix + 1, w->spec.disks[k].id) == 0;
		if (!known)
			absent[count++] = disks[i].id;
	}
	return group_set_absences(w->hold.group, absent, count, error);
}

static void tell_no_app(struct ebs_worker *w, const struct group_due *due)
{
	struct error error = { 0 };
	error_set(&error, -EOPNOTSUPP,
		"set the policy's app-interval to 0, or use --source agent for this machine",
		"snapshots of EBS volumes are crash-consistent: nothing is quiesced on machine %s",
		w->machine);
	group_app_failed(w->hold.group, due, &error);
}

/* How long ago the set was made. AWS's clock and ours may differ by minutes, so the set's own time
 * tells it only of a set that was begun before this start. */
static int64_t age_of_set(const struct ebs_worker *w, int64_t set_ns)
{
	if (w->began_ns > 0)
		return clock_monotonic_ns(clock_system()) - w->began_ns;
	return clock_realtime_ns(clock_system()) - set_ns;
}

int ebs_seal(struct ebs_worker *w, const struct group_due *due, struct error *error)
{
	const struct ec2_cycle *cycle = &w->state.cycle;
	int64_t now_ns = clock_realtime_ns(clock_system());
	struct seal_bookmark bookmarks[EC2_CYCLE_VOLUMES];
	/* AWS's clock may be ahead of ours: a point from the future would never grow old. */
	struct seal seal = { .time_ns = MIN(cycle->time_ns, now_ns),
		.kind = POINT_CRASH,
		.bookmarks = bookmarks,
		.bookmark_count = cycle->count };
	uint64_t number;
	for (unsigned i = 0; i < cycle->count; i++) {
		struct history_disk disk;
		int r = ebs_find_disk(w, w->spec.disks[i].id, &disk);
		if (r < 0)
			return error_set(error, r, NULL, "disk %s is not in the journal",
				w->spec.disks[i].id);
		bookmarks[i].disk = disk.id;
		make_bookmark(cycle->volumes[i].snapshot, bookmarks[i].data);
	}
	int r = leave_out(w, error);
	if (r == 0)
		r = group_seal(w->hold.group, &seal, due, all_mended(w), error, &number);
	if (r < 0)
		return r;
	int64_t age_ns = age_of_set(w, seal.time_ns);
	group_due_since(w->hold.group, clock_monotonic_ns(clock_system()) - age_ns);
	if (due && due->kind == POINT_APPLICATION)
		tell_no_app(w, due);
	struct ebs_figures *f = &w->state.figures;
	f->cycles++;
	f->set_ns = seal.time_ns;
	f->took_ns = age_ns;
	log_info("machine %s: point %llu shows the snapshots of %.1f s ago", w->machine,
		(unsigned long long)number, (double)f->took_ns / (double)NS_PER_S);
	return 0;
}
