/*
 * A group's life: starting and ending the threads, opening the journal again after its disk
 * failed; and the small calls that change settings.
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
#include "replicator/group_internal.h"

#define THREAD_STACK_BYTES (1 * MIB)

int group_error(struct error *error, int r, const struct group *group, const char *what)
{
	return error_set(
		error, r, NULL, "group %s: %s: %s", group->name, what, strerrordesc_np(-r));
}

int group_sync(struct group *group, uint64_t lsn)
{
	return committer_wait(group->committer, lsn);
}

void group_wait_until_locked(struct group *group, pthread_cond_t *condition, int64_t mono_ns)
{
	struct timespec until = { .tv_sec = mono_ns / NS_PER_S,
		.tv_nsec = (long)(mono_ns % NS_PER_S) };
	pthread_cond_timedwait(condition, &group->lock, &until);
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

/* When the last point was made, as far back as that matters: a start begins no interval anew, or
 * who is started often would never make one. Of a source that is only seen by making points (ebs)
 * the first is due at once. */
static int64_t last_seal_mono_ns(struct group *group)
{
	int64_t now = clock_monotonic_ns(group->clock);
	int64_t longest_ns = 7 * 86400 * NS_PER_S, age_ns = 0;
	struct point newest;
	if (history_point_newest(group->history, 0, INT64_MAX, &newest) == 0)
		age_ns = clock_realtime_ns(group->clock) - newest.time_ns;
	else if (group->source_unseen)
		age_ns = longest_ns;
	return now - MIN(MAX(age_ns, 0), longest_ns);
}

static int start_threads(struct group *group)
{
	int64_t sealed = last_seal_mono_ns(group);
	pthread_mutex_lock(&group->lock);
	group->stopping = false;
	atomic_store(&group->stop_calls, false);
	group->failed = false;
	group->claimed = group->flushing = group->vault_reachable = false;
	/* Assumed until the service says otherwise, so that no alert is raised too early. */
	group->vault_initialized = true;
	group->update_due = group->retention_asked = group->deletes_asked = true;
	group->keeps_asked = true;
	int64_t now = clock_monotonic_ns(group->clock);
	group->last_seal_mono_ns = sealed;
	group->last_app_mono_ns = now;
	/* What was sealed before the start is flushed at once. */
	group->last_flush_mono_ns = now - 7 * 86400 * NS_PER_S;
	group->rate_mono_ns = now;
	group->rate_written_bytes = 0;
	group->rate_flushed_bytes = group->flushed_bytes;
	atomic_store(&group->refuse_writes, group->taken_over);
	pthread_mutex_unlock(&group->lock);
	group_rpo_begin(group);

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
	free(group->state.absences);
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
	group->source_unseen = options->source_unseen;
	group->request_kind = POINT_CRASH;
	group->limit_bytes = options->journal_bytes;
	group->policy = options->policy;
	group->paused = options->paused;
	group->status.rpo_local_ns = group->status.rpo_vault_ns = -1; /* until the first tick */
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

/* From the first disk on the journal is worth missing. */
int group_note_opened(struct group *group, struct error *error)
{
	SCOPED_LOCK(&group->state_lock);
	if (group->state.opened)
		return 0;
	group->state.opened = true;
	group->state.opened_ns = clock_realtime_ns(group->clock);
	int r = group_state_save(group);
	if (r < 0)
		group->state.opened = false;
	return r < 0 ? group_error(error, r, group, "writing its state") : 0;
}

static int take_absences(struct group *group, const struct vault_reading *import)
{
	const struct history_absence *absences;
	struct group_state *state = &group->state;
	unsigned count;
	vault_reading_absences(import, &absences, &count);
	struct history_absence *copy = calloc(count + 1u, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	if (count > 0)
		memcpy(copy, absences, count * sizeof(*copy));
	free(state->absences);
	state->absences = copy;
	state->absence_count = count;
	return history_set_absences(group->history, copy, count);
}

static int open_first_time(
	struct group *group, const struct group_options *options, struct error *error)
{
	int r = group_state_load(group, error);
	if (r == 0)
		r = group_check_journal(group, options, error);
	if (r < 0)
		return r;
	group->taken_over = group->state.taken_over && !options->import;
	r = group_open_journal(group, options->import, error);
	if (r < 0)
		return r;
	if (options->import) {
		SCOPED_LOCK(&group->state_lock);
		group->state.taken_over = false;
		group->state.owner[0] = '\0';
		group->state.delete_count = 0;
		group->state.lost_point = group->state.lost_lsn = 0;
		group->state.opened = false;
		r = take_absences(group, options->import);
		if (r < 0)
			group_error(error, r, group, "taking over what its points show");
	}
	if (r < 0) {
		group_close_journal(group);
		return r;
	}
	if (options->import || history_disks(group->history, NULL, 0) > 0)
		r = group_note_opened(group, error);
	if (r == 0) {
		group_resume_deletes(group);
		r = start_threads(group);
		if (r < 0)
			group_error(error, r, group, "starting its threads");
	}
	if (r < 0)
		group_close_journal(group);
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
	group_close_journal(group);
	release(group);
}

bool group_state_fault(const struct group *group, struct error *ret_fault)
{
	if (group->state_fault.code == 0)
		return false;
	*ret_fault = group->state_fault;
	return true;
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
	group_close_journal(group);
	struct error reason = { 0 };
	int r = group_open_journal(group, NULL, &reason);
	if (r == 0) {
		group_resume_deletes(group);
		r = start_threads(group);
		if (r < 0) {
			group_error(&reason, r, group, "starting its threads");
			group_close_journal(group);
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
