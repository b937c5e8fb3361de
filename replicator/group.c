/*
 * A group's life: opening the journal, starting and ending the threads, opening it again after
 * its disk failed; and the small calls that change settings and disks.
 *
 * Order at the start: state file, base, journal, committer, timer, flusher; at the end backwards.
 * group->history and group->committer change only in group_new, group_reopen and group_free, and
 * only while no thread of the group runs; after a reopening that failed both are NULL and every
 * call that needs them answers -EIO.
 */
#include "replicator/group.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "fs/vhd.h"
#include "replicator/group_internal.h"

#define THREAD_STACK_BYTES (1 * MIB)
#define LEAST_SEGMENT_BYTES ((uint32_t)(1 * MIB))

int group_error(struct error *error, int r, const struct group *group, const char *what)
{
	return error_set(
		error, r, NULL, "group %s: %s: %s", group->name, what, strerrordesc_np(-r));
}

int group_sync(struct group *group, uint64_t lsn)
{
	return committer_wait(group->committer, lsn);
}

static int not_running(const struct group *group, struct error *error)
{
	return error_set(error, -EIO, "see the alerts of 'landfall status'",
		"group %s: its journal failed and is not open", group->name);
}

void group_wait_until_locked(struct group *group, pthread_cond_t *condition, int64_t mono_ns)
{
	struct timespec until = { .tv_sec = mono_ns / NS_PER_S,
		.tv_nsec = (long)(mono_ns % NS_PER_S) };
	pthread_cond_timedwait(condition, &group->lock, &until);
}

/* ── the journal ─────────────────────────────────────────────────────────────────────────── */

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

static int note_name(void *context, const char *name)
{
	(void)name;
	((struct emptiness *)context)->found = true;
	return 1;
}

static bool journal_is_missing(struct group *group)
{
	struct emptiness e = { 0 };
	int r = io_list(group->io, group->directory, note_name, &e);
	return r == -ENOENT || (r == 0 && !e.found);
}

static int check_presence(
	struct group *group, const struct group_options *options, struct error *error)
{
	bool missing = journal_is_missing(group);
	if (options->import && !missing)
		return error_set(error, -EEXIST, "move the directory away and try again",
			"%s: there is a journal already", group->directory);
	if (!options->import && missing && group->state.opened)
		return error_set(error, -ENODATA,
			"bring the directory back; if it is lost, 'landfall vault takeover' brings "
			"the points of the vault back",
			"%s: the journal of group %s is gone", group->directory, group->name);
	return 0;
}

/* The group's disks as the vault's functions want them. The blobs' footers are the mount's. */
static int disks_of_history(struct group *group, struct vault_group *ret_group)
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
		vhd_disk_id(disks[i].name, &list[i].vhd_id);
	}
	g.disks = list;
	g.disk_count = count;
	*ret_group = g;
	return 0;
}

int group_disks_for_vault(struct group *group, struct vault_group *ret_group)
{
	return disks_of_history(group, ret_group);
}

int group_update_base(struct group *group)
{
	if (!group->vault_base)
		return 0;
	struct vault_group next;
	int r = disks_of_history(group, &next);
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
	if (r == 0 && group->cache)
		r = cache_base_new(
			group->cache, &group->id, group->vault_base, &group->cached_base);
	return r < 0 ? group_error(error, r, group, "reading from the vault") : 0;
}

static void close_journal(struct group *group)
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
static int import_points(struct group *group, const struct vault_group *import, struct error *error)
{
	struct blob_store *store;
	int r = group->service->ops->open_store(group->service, NULL, error, &store);
	if (r < 0)
		return r;
	r = vault_import(store, import, group->history, error);
	store->ops->free(store);
	uint64_t durable;
	if (r == 0) {
		r = history_commit(group->history, &durable);
		if (r < 0)
			group_error(error, r, group, "writing the journal");
	}
	return r;
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

static int open_journal(struct group *group, const struct vault_group *import, struct error *error)
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
	if (r == 0 && import)
		r = import_points(group, import, error);
	struct committer_gate gate = { .admit = group_admit, .context = group };
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
		close_journal(group);
	else
		tell_report(group);
	return r;
}

/* ── threads ─────────────────────────────────────────────────────────────────────────────── */

void group_join_flusher(struct group *group)
{
	if (!group->flush_runs)
		return;
	pthread_join(group->flush_thread, NULL);
	group->flush_runs = false;
}

void group_begin_stop(struct group *group)
{
	pthread_mutex_lock(&group->lock);
	group->stopping = true;
	atomic_store(&group->refuse_writes, true);
	group_stop_flush_locked(group);
	atomic_store(&group->stop_calls, true);
	pthread_cond_broadcast(&group->timer_wake);
	pthread_cond_broadcast(&group->flush_wake);
	pthread_cond_broadcast(&group->changed);
	pthread_mutex_unlock(&group->lock);
}

static void stop_threads(struct group *group)
{
	group_begin_stop(group);
	if (group->timer_runs)
		pthread_join(group->timer_thread, NULL);
	group->timer_runs = false;
	group_join_flusher(group);
}

static int start_threads(struct group *group)
{
	pthread_mutex_lock(&group->lock);
	group->stopping = false;
	atomic_store(&group->stop_calls, false);
	group->failed = false;
	group->sealed_count = 0;
	group->claimed = group->flushing = group->vault_reachable = false;
	/* Assumed until the service says otherwise, so that no alert is raised too early. */
	group->vault_initialized = true;
	group->update_due = group->retention_asked = group->deletes_asked = true;
	group->keeps_asked = true;
	int64_t now = clock_monotonic_ns(group->clock);
	group->last_seal_mono_ns = group->last_app_mono_ns = now;
	/* What was sealed before the start is flushed at once. */
	group->last_flush_mono_ns = now - 7 * 86400 * NS_PER_S;
	group->rate_mono_ns = now;
	group->rate_written_bytes = 0;
	group->rate_flushed_bytes = group->flushed_bytes;
	atomic_store(&group->refuse_writes, group->taken_over);
	atomic_store(&group->first_change_ns, 0);
	pthread_mutex_unlock(&group->lock);

	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
	int r = -pthread_create(&group->timer_thread, &attributes, group_timer_main, group);
	group->timer_runs = r == 0;
	if (r == 0 && group->service && !group->deleting) {
		r = -pthread_create(&group->flush_thread, &attributes, group_flush_main, group);
		group->flush_runs = r == 0;
	}
	pthread_attr_destroy(&attributes);
	if (r < 0)
		stop_threads(group);
	return r;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static void init_locks(struct group *group)
{
	pthread_mutex_init(&group->bucket_lock, NULL);
	pthread_mutex_init(&group->seal_lock, NULL);
	pthread_mutex_init(&group->state_lock, NULL);
	pthread_mutex_init(&group->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&group->timer_wake, &monotonic);
	pthread_cond_init(&group->flush_wake, &monotonic);
	pthread_cond_init(&group->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static void release(struct group *group)
{
	pthread_cond_destroy(&group->changed);
	pthread_cond_destroy(&group->flush_wake);
	pthread_cond_destroy(&group->timer_wake);
	pthread_mutex_destroy(&group->lock);
	pthread_mutex_destroy(&group->state_lock);
	pthread_mutex_destroy(&group->seal_lock);
	pthread_mutex_destroy(&group->bucket_lock);
	vault_group_free(&group->vault_group);
	free(group->state.deletes);
	free(group->settings);
	free(group->appliance_name);
	free(group->state_path);
	free(group->directory);
	free(group->name);
	free(group);
}

static struct group *make(const struct group_options *options)
{
	struct group *group = calloc(1, sizeof(*group));
	if (!group)
		return NULL;
	init_locks(group);
	group->io = options->io;
	group->clock = options->clock;
	group->service = options->vault;
	group->cache = options->cache;
	group->id = options->id;
	group->appliance = options->appliance;
	group->full_wait_s = options->full_wait_s ? options->full_wait_s : 30;
	group->source_seals = options->source_seals;
	group->request_kind = POINT_CRASH;
	group->limit_bytes = options->journal_bytes;
	group->policy = options->policy;
	group->paused = options->paused;
	group->name = strdup(options->name);
	group->directory = strdup(options->directory);
	group->state_path = strdup(options->state_path);
	group->appliance_name = strdup(options->appliance_name);
	group->settings = strdup(options->settings);
	token_bucket_init(&group->bucket, group->clock, 0, MIB);
	if (!group->name || !group->directory || !group->state_path || !group->appliance_name ||
		!group->settings) {
		release(group);
		return NULL;
	}
	return group;
}

static int open_first_time(
	struct group *group, const struct group_options *options, struct error *error)
{
	int r = group_state_load(group, error);
	if (r == 0)
		r = check_presence(group, options, error);
	if (r < 0)
		return r;
	group->taken_over = group->state.taken_over && !options->import;
	r = open_journal(group, options->import, error);
	if (r < 0)
		return r;
	if (!group->state.opened || options->import) {
		SCOPED_LOCK(&group->state_lock);
		group->state.opened = true;
		group->state.taken_over = false;
		group->state.owner[0] = '\0';
		if (options->import)
			group->state.delete_count = 0;
		r = group_state_save(group);
		if (r < 0)
			group_error(error, r, group, "writing its state");
	}
	if (r == 0) {
		group_resume_deletes(group);
		r = start_threads(group);
		if (r < 0)
			group_error(error, r, group, "starting its threads");
	}
	if (r < 0)
		close_journal(group);
	return r;
}

int group_new(const struct group_options *options, struct error *error, struct group **ret_group)
{
	struct group *group = make(options);
	if (!group)
		return error_set(error, -ENOMEM, NULL, "group %s: out of memory", options->name);
	int r = open_first_time(group, options, error);
	if (r < 0) {
		release(group);
		return r;
	}
	*ret_group = group;
	return 0;
}

void group_free(struct group *group)
{
	if (!group)
		return;
	stop_threads(group);
	close_journal(group);
	release(group);
}

bool group_failed(struct group *group)
{
	SCOPED_LOCK(&group->lock);
	return group->failed;
}

void group_close_gate(struct group *group)
{
	atomic_store(&group->refuse_writes, true);
	SCOPED_LOCK(&group->lock);
	pthread_cond_broadcast(&group->changed);
}

int group_reopen(struct group *group, struct error *error)
{
	stop_threads(group);
	close_journal(group);
	struct error reason = { 0 };
	int r = open_journal(group, NULL, &reason);
	if (r == 0) {
		group_resume_deletes(group);
		r = start_threads(group);
		if (r < 0) {
			group_error(&reason, r, group, "starting its threads");
			close_journal(group);
		}
	}
	if (r < 0)
		group_alert_closed(group, &reason);
	SCOPED_LOCK(&group->lock);
	group->failed = r < 0;
	if (r < 0 && error)
		*error = reason;
	return r;
}

/* ── small calls ─────────────────────────────────────────────────────────────────────────── */

struct committer *group_committer(struct group *group)
{
	return group->committer;
}

struct history *group_history(struct group *group)
{
	return group->history;
}

const char *group_name(const struct group *group)
{
	return group->name;
}

void group_set_policy(struct group *group, const struct policy *policy)
{
	SCOPED_LOCK(&group->lock);
	group->policy = *policy;
	group->retention_asked = group->retention_now = true;
	pthread_cond_signal(&group->timer_wake);
	pthread_cond_signal(&group->flush_wake);
}

void group_set_limit(struct group *group, uint64_t journal_bytes)
{
	pthread_mutex_lock(&group->lock);
	bool changed = group->limit_bytes != journal_bytes;
	group->limit_bytes = journal_bytes;
	pthread_mutex_unlock(&group->lock);
	if (changed && group->history)
		history_set_limit(group->history, journal_bytes);
}

void group_pause(struct group *group, bool paused)
{
	SCOPED_LOCK(&group->lock);
	group->paused = paused;
	if (paused)
		group_stop_flush_locked(group);
	pthread_cond_signal(&group->timer_wake);
	pthread_cond_signal(&group->flush_wake);
}

void group_retry_vault(struct group *group)
{
	SCOPED_LOCK(&group->lock);
	group->retry_asked = true;
	pthread_cond_signal(&group->flush_wake);
}

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
	if (r == -E2BIG)
		return error_set(error, r, "put further machines into another group",
			"group %s has %d disks, which is the most it can have", group->name,
			HISTORY_MAX_DISKS);
	if (r < 0)
		return error_set(
			error, r, NULL, "disk %s cannot be added: %s", name, strerrordesc_np(-r));
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

int group_set_settings(struct group *group, const char *settings, struct error *error)
{
	char *copy = strdup(settings);
	if (!copy)
		return group_error(error, -ENOMEM, group, "its settings");
	SCOPED_LOCK(&group->lock);
	free(group->settings);
	group->settings = copy;
	group->update_due = true;
	pthread_cond_signal(&group->flush_wake);
	return 0;
}
