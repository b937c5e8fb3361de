/*
 * A group's journal: opened over what the vault has, closed, and the disks it tells of.
 *
 * group->history, group->committer and the bases below them come and go together here;
 * group.c sees to it that no thread of the group runs meanwhile. A disk is added to or removed from
 * the history first; the base learns of it at once, the vault by way of the flusher's thread.
 *
 * Threads: opening and closing as group.c says; the disks any.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "fs/vhd.h"
#include "replicator/group_internal.h"

#define POINTS_AT_ONCE 64u
#define LEAST_SEGMENT_BYTES ((uint32_t)(1 * MIB))

static int not_running(const struct group *group, struct error *error)
{
	return error_set(error, -EIO, "see the alerts of 'landfall status'",
		"group %s: its journal failed and is not open", group->name);
}

/* Small journals get small segments, so that room comes free in small steps. */
static uint32_t segment_bytes(uint64_t journal_bytes)
{
	uint32_t bytes = LEAST_SEGMENT_BYTES;
	while (bytes < HISTORY_SEGMENT_BYTES && (uint64_t)bytes * 2 * 32 <= journal_bytes)
		bytes *= 2;
	return bytes;
}

struct emptiness {
	bool found;
};

/* The lock is made before anything else, so it says nothing. */
static int note_name(void *context, const char *name)
{
	if (strcmp(name, "lock") == 0)
		return 0;
	((struct emptiness *)context)->found = true;
	return 1;
}

static bool journal_is_missing(struct group *group)
{
	struct emptiness e = { 0 };
	int r = io_list(group->io, group->directory, note_name, &e);
	return r == -ENOENT || (r == 0 && !e.found);
}

static int journal_is_lost(const struct group *group, const char *how, struct error *error)
{
	char mend[sizeof(error->mend)];
	if (group->service)
		snprintf(mend, sizeof(mend),
			"bring the directory back; if it is lost, 'landfall vault takeover "
			"--group %s' brings the points of the vault back",
			group->name);
	else
		snprintf(mend, sizeof(mend),
			"bring the directory back; if it is lost, so are its points: remove the "
			"group's machines ('landfall machine remove') and add them again");
	return error_set(error, -ENODATA, mend, "%s: the journal of group %s %s", group->directory,
		group->name, how);
}

int group_check_journal(
	struct group *group, const struct group_options *options, struct error *error)
{
	bool missing = journal_is_missing(group);
	if (options->import && !missing)
		return error_set(error, -EEXIST, "move the directory away and try again",
			"%s: there is a journal already", group->directory);
	if (options->import || !missing || !group->state.opened)
		return 0;
	return journal_is_lost(group, "is gone", error);
}

/* The group's disks as the vault's functions want them. The blobs' footers are the mount's. */
int group_disks_for_vault(struct group *group, struct vault_group *ret_group)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	unsigned count = history_disks(group->history, disks, HISTORY_MAX_DISKS);
	struct vault_disk *list = calloc(count + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	struct vault_group g = { .id = group->id, .owner = group->appliance };
	snprintf(g.name, sizeof(g.name), "%s", group->name);
	snprintf(g.owner_name, sizeof(g.owner_name), "%s", group->appliance_name);
	for (unsigned i = 0; i < count; i++) {
		list[i] = (struct vault_disk){ .id = disks[i].id,
			.size_bytes = disks[i].size_bytes,
			.added_point = disks[i].added_point,
			.removed = disks[i].removed };
		memcpy(list[i].name, disks[i].name, sizeof(list[i].name));
		vhd_disk_id(&group->id, disks[i].name, &list[i].vhd_id);
	}
	g.disks = list;
	g.disk_count = count;
	*ret_group = g;
	return 0;
}

int group_update_base(struct group *group)
{
	if (!group->vault_base)
		return 0;
	struct vault_group next;
	int r = group_disks_for_vault(group, &next);
	if (r < 0)
		return r;
	r = vault_base_update(group->vault_base, &next);
	if (r < 0) {
		vault_group_free(&next);
		return r;
	}
	vault_group_free(&group->base_group);
	group->base_group = next;
	return 0;
}

static int open_base(struct group *group, struct error *error)
{
	if (!group->service)
		return 0;
	group->base_group = (struct vault_group){ .id = group->id };
	snprintf(group->base_group.name, sizeof(group->base_group.name), "%s", group->name);
	int r = vault_base_new(group->service, &group->base_group, &group->vault_base);
	if (r == 0)
		vault_base_lose(group->vault_base, group->taken_over);
	if (r == 0 && group->cache)
		r = cache_base_new(
			group->cache, &group->id, group->vault_base, &group->cached_base);
	return r < 0 ? group_error(error, r, group, "reading from the vault") : 0;
}

void group_close_journal(struct group *group)
{
	committer_free(group->committer);
	group->committer = NULL;
	history_close(group->history);
	group->history = NULL;
	if (group->cached_base)
		cache_base_free(group->cached_base);
	group->cached_base = NULL;
	if (group->vault_base)
		vault_base_free(group->vault_base);
	group->vault_base = NULL;
	vault_group_free(&group->base_group);
	group->base_group = (struct vault_group){ 0 };
}

/* Brings disks and points of the vault into the new journal. */
static int import_points(struct group *group, struct vault_reading *import, struct error *error)
{
	uint64_t durable;
	int r = vault_import_write(import, group->history, error);
	if (r == 0) {
		r = history_commit(group->history, &durable);
		if (r < 0)
			group_error(error, r, group, "writing the journal");
	}
	return r;
}

/* The first disk was durable before the group was noted as opened, and no record ever goes without
 * a successor: files in which nothing is left are no new journal. Nothing of them was changed. */
static int check_content(struct group *group, struct error *error)
{
	if (!group->state.opened || history_durable_lsn(group->history) > 0)
		return 0;
	return journal_is_lost(group, "is empty: nothing in its files can be read any more", error);
}

static void tell_report(const struct group *group)
{
	const struct history_report *report = &group->report;
	if (report->damaged_after)
		log_error("group %s: acknowledged data after lsn %llu was lost on this appliance's "
			  "disk: %s",
			group->name, (unsigned long long)report->damaged_after,
			report->first_fault);
	else if (report->faults)
		log_warning("group %s: %u parts of the journal failed their checksums, first: %s",
			group->name, report->faults, report->first_fault);
	log_info("group %s: journal open, %llu records replayed, %llu torn bytes cut off",
		group->name, (unsigned long long)report->records_replayed,
		(unsigned long long)report->torn_bytes);
}

int group_open_journal(struct group *group, struct vault_reading *import, struct error *error)
{
	int r = open_base(group, error);
	if (r < 0)
		return r;
	struct history_options options = { .io = group->io,
		.clock = group->clock,
		.base = group->cached_base ? group->cached_base : group->vault_base,
		.directory = group->directory,
		.group = group->id,
		.limit_bytes = group->limit_bytes,
		.segment_bytes = segment_bytes(group->limit_bytes) };
	memset(&group->report, 0, sizeof(group->report));
	r = history_open(&options, &group->report, error, &group->history);
	if (r == 0 && !import)
		r = check_content(group, error);
	if (r == 0 && import)
		r = import_points(group, import, error);
	if (r == 0) {
		r = history_set_absences(
			group->history, group->state.absences, group->state.absence_count);
		if (r < 0)
			group_error(error, r, group, "opening the journal");
	}
	struct committer_gate gate = {
		.admit = group_admit, .wait_for_room = group_wait_for_room, .context = group
	};
	if (r == 0) {
		r = committer_new(group->history, &gate, &group->committer);
		if (r < 0)
			group_error(error, r, group, "starting the committer");
	}
	if (r == 0) {
		r = group_update_base(group);
		if (r < 0)
			group_error(error, r, group, "reading from the vault");
	}
	if (r < 0)
		group_close_journal(group);
	else
		tell_report(group);
	return r;
}

/* ── disks ───────────────────────────────────────────────────────────────────────────────── */

static bool find_disk(struct group *group, const char *name, struct history_disk *ret_disk)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks ? history_disks(group->history, disks, HISTORY_MAX_DISKS) : 0;
	for (unsigned i = 0; i < count; i++) {
		if (disks[i].removed || strcmp(disks[i].name, name) != 0)
			continue;
		*ret_disk = disks[i];
		return true;
	}
	return false;
}

/* The newest point that shows one of the disks that were removed; 0: none does. */
static uint64_t shows_removed(
	struct group *group, const struct history_disk *disks, unsigned disk_count)
{
	struct point points[POINTS_AT_ONCE];
	uint64_t from = 0, newest = 0;
	unsigned n;
	while ((n = history_points(group->history, from, points, POINTS_AT_ONCE)) > 0) {
		for (unsigned i = 0; i < n * disk_count; i++) {
			const struct history_disk *disk = &disks[i % disk_count];
			uint64_t number = points[i / disk_count].number;
			if (disk->removed &&
				history_point_disk_bytes(group->history, number, disk->id) > 0)
				newest = number;
		}
		from = points[n - 1].number + 1;
	}
	return newest;
}

/* What can be done about it: a removed disk goes with the last point that shows it. */
static void make_room_mend(struct group *group, const struct history_disk *disks, unsigned count,
	char *ret_mend, size_t size)
{
	const struct history_disk *present = disks;
	for (unsigned i = 0; i < count && present->removed; i++)
		present = &disks[i];
	uint64_t newest = shows_removed(group, disks, count);
	if (newest == 0)
		snprintf(ret_mend, size,
			"put further machines into another group, or remove disks that are not "
			"needed");
	else
		snprintf(ret_mend, size,
			"use another group; or wait until retention has deleted the points that "
			"show removed disks, up to point %" PRIu64
			"; or delete them: 'landfall point delete %.*s %" PRIu64 "'",
			newest, (int)strcspn(present->name, "/"), present->name, newest);
}

/* Whose the most of them are: one machine's agent may have used up what all share. */
static int refuse_disk(struct group *group, const char *name, struct error *error)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks ? history_disks(group->history, disks, HISTORY_MAX_DISKS) : 0;
	unsigned removed = 0, most = 0, of = 0;
	for (unsigned i = 0; i < count; i++) {
		const size_t n = strcspn(disks[i].name, "/") + 1;
		unsigned same = 0;
		for (unsigned k = i; k < count; k++)
			same += strncmp(disks[i].name, disks[k].name, n) == 0;
		removed += disks[i].removed;
		if (same > most) {
			most = same;
			of = i;
		}
	}
	if (count == 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	char mend[sizeof(error->mend)];
	make_room_mend(group, disks, count, mend, sizeof(mend));
	return error_set(error, -E2BIG, mend,
		"disk %s cannot be added: group %s has %d disks, which is the most it can have "
		"(%u of machine %.*s; %u removed, which points still show)",
		name, group->name, HISTORY_MAX_DISKS, most, (int)strcspn(disks[of].name, "/"),
		disks[of].name, removed);
}

static int disks_changed(struct group *group, uint64_t lsn, struct error *error)
{
	int r = group_sync(group, lsn);
	if (r == 0)
		r = group_update_base(group);
	if (r < 0)
		return group_error(error, r, group, "recording its disks");
	SCOPED_LOCK(&group->lock);
	group->update_due = true;
	pthread_cond_signal(&group->flush_wake);
	return 0;
}

int group_add_disk(struct group *group, const char *name, uint64_t size_bytes, struct error *error)
{
	struct history_disk disk;
	if (!group->history)
		return not_running(group, error);
	if (find_disk(group, name, &disk)) {
		if (disk.size_bytes == size_bytes)
			return 0;
		return error_set(error, -EEXIST, NULL, "disk %s is there with another size", name);
	}
	uint16_t id;
	uint64_t lsn;
	int r = history_add_disk(group->history, name, size_bytes, &id, &lsn);
	while (r == -EAGAIN) {
		r = committer_sync(group->committer);
		if (r == 0)
			r = history_add_disk(group->history, name, size_bytes, &id, &lsn);
	}
	if (r == -E2BIG)
		return refuse_disk(group, name, error);
	if (r < 0)
		return error_set(
			error, r, NULL, "disk %s cannot be added: %s", name, strerrordesc_np(-r));
	r = disks_changed(group, lsn, error);
	return r == 0 ? group_note_opened(group, error) : r;
}

int group_restore_disk(
	struct group *group, const char *name, uint64_t size_bytes, struct error *error)
{
	struct history_disk disk;
	uint64_t lsn;
	if (!group->history)
		return not_running(group, error);
	bool lost = group->report.damaged_after > 0 && !find_disk(group, name, &disk);
	/* The vault knows the disk and what was in it: it is taken back when the vault answers. */
	if (lost && group->service)
		return 0;
	int r = group_add_disk(group, name, size_bytes, error);
	if (r < 0 || !lost || !find_disk(group, name, &disk))
		return r;
	r = history_set_resync(group->history, disk.id, &lsn);
	return r < 0 ? group_error(error, r, group, "recording that a disk was lost")
		     : disks_changed(group, lsn, error);
}

int group_grow_disk(struct group *group, const char *name, uint64_t size_bytes, struct error *error)
{
	struct history_disk disk;
	uint64_t lsn;
	if (!group->history)
		return not_running(group, error);
	if (!find_disk(group, name, &disk))
		return error_set(error, -ENOENT, NULL, "there is no disk %s", name);
	if (disk.size_bytes == size_bytes)
		return 0;
	if (disk.size_bytes > size_bytes)
		return error_set(error, -EINVAL,
			"a disk cannot shrink: remove it and add it anew, under another name",
			"disk %s is larger already", name);
	int r = history_grow_disk(group->history, disk.id, size_bytes, &lsn);
	if (r < 0)
		return error_set(
			error, r, NULL, "disk %s cannot be grown: %s", name, strerrordesc_np(-r));
	return disks_changed(group, lsn, error);
}

int group_remove_disk(struct group *group, const char *name, struct error *error)
{
	struct history_disk disk;
	uint64_t lsn;
	if (!group->history)
		return not_running(group, error);
	if (!find_disk(group, name, &disk))
		return 0;
	int r = history_remove_disk(group->history, disk.id, &lsn);
	if (r < 0)
		return error_set(
			error, r, NULL, "disk %s cannot be removed: %s", name, strerrordesc_np(-r));
	return disks_changed(group, lsn, error);
}
