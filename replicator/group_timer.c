/*
 * The timer's thread: seals by the clock, back-pressure, rates and alerts.
 *
 * It ticks five times a second while something was written and not sealed or the journal presses,
 * else every two seconds: an idle group costs next to nothing. Nothing is sealed when nothing has
 * changed. group->status is what the last tick found; group_status hands it out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/group_internal.h"

#define BUSY_TICK_NS (200 * NS_PER_MS)
#define IDLE_TICK_NS (2 * NS_PER_S)
#define RATE_WINDOW_NS NS_PER_S
#define PRESSURE_SEAL_NS NS_PER_S
#define RETENTION_NS (60 * NS_PER_S)
#define COMMIT_ALERT_NS (3600 * NS_PER_S)

/* ── sealing by the clock ────────────────────────────────────────────────────────────────── */

static bool may_seal_locked(const struct group *group)
{
	return !group->paused && !group->taken_over && !group->failed &&
	       group->status.resync_disks == 0;
}

/* The policy's point is due. */
static bool interval_is_over(struct group *group, int64_t now)
{
	SCOPED_LOCK(&group->lock);
	int64_t interval_ns = group->policy.point_interval_s * NS_PER_S;
	return may_seal_locked(group) && interval_ns > 0 &&
	       now - group->last_seal_mono_ns >= interval_ns;
}

/* A point that the flusher could use to free room, where it has none to work on. */
static bool pressure_wants_seal(struct group *group, const struct history_stats *stats, int64_t now)
{
	SCOPED_LOCK(&group->lock);
	if (!may_seal_locked(group) || !group->vault_reachable ||
		now - group->last_pressure_mono_ns < PRESSURE_SEAL_NS)
		return false;
	bool waiting =
		stats->newest_point > stats->newest_vault_point &&
		!(group->flushing && group->status.history.newest_point == stats->newest_point);
	group->flush_asked = true;
	pthread_cond_signal(&group->flush_wake);
	if (waiting)
		return false;
	group->last_pressure_mono_ns = now;
	return true;
}

static void seal_if_due(struct group *group, const struct history_stats *stats,
	const struct backpressure_plan *plan)
{
	int64_t now = clock_monotonic_ns(group->clock);
	group_press_source(group);
	if (stats->unsealed_bytes == 0 || group->source_seals)
		return;
	uint32_t flags = 0;
	if (!interval_is_over(group, now)) {
		if (plan->level < BACKPRESSURE_DELAY || !pressure_wants_seal(group, stats, now))
			return;
		flags = POINT_PRESSURE;
	}
	struct seal seal = { .kind = POINT_CRASH, .flags = flags };
	uint64_t number;
	int r = group_seal_due(group, &seal, &number);
	/* A failed journal, and a need to resync, are told of by this tick or the next. */
	if (r < 0 && r != -EIO && r != -EBUSY)
		log_warning("group %s: the point that was due could not be sealed: %s", group->name,
			strerrordesc_np(-r));
}

static void press(struct group *group, bool disk_full, struct backpressure_plan *ret_plan)
{
	group_look_at_fill(group, 0, ret_plan);
	if (ret_plan->level < BACKPRESSURE_TRIM || disk_full)
		return;
	struct history_stats stats;
	history_stats(group->history, &stats);
	if (stats.freeable_bytes == 0)
		return;
	uint64_t used;
	int r = history_trim(group->history, ret_plan->trim_target_bytes, &used);
	if (r < 0 && r != -EIO)
		log_warning("group %s: making room in the journal: %s", group->name,
			strerrordesc_np(-r));
	group_look_at_fill(group, 0, ret_plan);
}

static void notice_failure(struct group *group)
{
	SCOPED_LOCK(&group->lock);
	if (group->failed)
		return;
	group->failed = true;
	group->commit_failures++;
	group->commit_failed_ns = clock_realtime_ns(group->clock);
	uint64_t free_bytes = UINT64_MAX;
	bool full = io_free_bytes(group->io, group->directory, &free_bytes) == 0 &&
		    free_bytes < 16 * MIB;
	if (full)
		error_set(&group->commit_error, -ENOSPC, NULL,
			"%s: no space left on the filesystem", group->directory);
	else
		error_set(&group->commit_error, -EIO, NULL, "%s: the disk failed a write or a sync",
			group->directory);
	pthread_cond_broadcast(&group->changed);
}

/* ── figures ─────────────────────────────────────────────────────────────────────────────── */

static void update_rates_locked(struct group *group, const struct history_stats *stats)
{
	int64_t now = clock_monotonic_ns(group->clock);
	struct flusher_progress progress = { 0 };
	if (group->flusher && group->flushing)
		flusher_progress(group->flusher, &progress);
	group->status.flush_done_bytes = progress.done_bytes;
	group->status.flush_total_bytes = progress.total_bytes;
	int64_t window = now - group->rate_mono_ns;
	if (window < RATE_WINDOW_NS)
		return;
	double seconds = (double)window / (double)NS_PER_S;
	uint64_t flushed = group->flushed_bytes + progress.done_bytes;
	uint64_t written = stats->written_bytes + stats->zeroed_bytes;
	uint64_t flushed_more =
		flushed > group->rate_flushed_bytes ? flushed - group->rate_flushed_bytes : 0;
	group->status.write_bytes_per_s =
		(uint64_t)((double)(written - group->rate_written_bytes) / seconds);
	/* While nothing flows the last rate stays, as the best guess of what will flow. */
	if (flushed_more > 0) {
		double weight = MIN(1.0, seconds / 10.0);
		double rate = (double)flushed_more / seconds;
		double before = (double)group->status.flush_bytes_per_s;
		group->status.flush_bytes_per_s =
			(uint64_t)(before == 0 ? rate : before + (rate - before) * weight);
	} else if (!group->vault_reachable) {
		group->status.flush_bytes_per_s = 0;
	}
	group->rate_written_bytes = written;
	group->rate_flushed_bytes = flushed;
	group->rate_mono_ns = now;
}

/* The machine of the group's first disk, for commands that alerts name. False: it has none. */
static bool first_member(struct group *group, char *ret_name, size_t size)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks ? history_disks(group->history, disks, HISTORY_MAX_DISKS) : 0;
	for (unsigned i = 0; i < count; i++) {
		if (disks[i].removed)
			continue;
		snprintf(ret_name, size, "%.*s", (int)strcspn(disks[i].name, "/"), disks[i].name);
		return true;
	}
	return false;
}

/* Wakes who waits for a point to fall due. */
static void tell_source(struct group *group)
{
	uint8_t kind;
	SCOPED_LOCK(&group->lock);
	if (group->source_seals &&
		clock_monotonic_ns(group->clock) >= group_due_at_locked(group, &kind))
		pthread_cond_broadcast(&group->changed);
}

static void evaluate_alerts(struct group *group, const struct history_stats *stats,
	const struct backpressure_plan *plan)
{
	struct alert_facts f = { .machine = group->name,
		.now_ns = clock_realtime_ns(group->clock),
		.vault_configured = group->service != NULL,
		.fill = plan->fill,
		.journal_limit_bytes = stats->limit_bytes,
		.allowed_bytes_per_s = plan->write_bytes_per_s,
		.refusing = plan->level == BACKPRESSURE_FULL,
		.journal_faults = group->report.faults,
		.lag_bytes = stats->unflushed_bytes };
	char member[sizeof(((struct history_disk *)0)->name)];
	if (first_member(group, member, sizeof(member)))
		f.member = member;
	memcpy(f.first_fault, group->report.first_fault, sizeof(f.first_fault));
	f.resync_disks = group_resync_disks(group, f.resync_names, sizeof(f.resync_names));
	pthread_mutex_lock(&group->state_lock);
	if (group->state.lost_point > stats->newest_vault_point)
		f.lost_point = group->state.lost_point;
	memcpy(f.owner, group->state.owner, sizeof(f.owner));
	f.lease_unknown = group->state.lease_unknown;
	pthread_mutex_unlock(&group->state_lock);

	SCOPED_LOCK(&group->lock);
	group->status.resync_disks = f.resync_disks;
	group->status.allowed_bytes_per_s = plan->write_bytes_per_s;
	f.vault_initialized = group->vault_initialized;
	f.vault_reachable = group->vault_reachable;
	f.vault_error = group->vault_error;
	f.vault_error_since_ns = group->vault_error_since_ns;
	f.taken_over = group->taken_over;
	f.paused = group->paused;
	f.rpo_vault_age_ns = group_unprotected_ns_locked(group, stats);
	f.rpo_alert_s = group->policy.rpo_alert_s;
	f.vault_interval_s = group->policy.vault_interval_s;
	f.flush_bytes_per_s = group->status.flush_bytes_per_s;
	f.flush_failures = group->flush_failures;
	f.flush_error = group->flush_error;
	f.failed_point = group->failed_point;
	f.failed_fault = group->failed_fault;
	f.agent_machine = group->trouble.machine[0] ? group->trouble.machine : NULL;
	f.agent_away_since_ns = group->trouble.away_since_ns;
	f.agent_never_came = group->trouble.never_came;
	f.agent_error = group->trouble.error;
	f.agentless = group->trouble.agentless;
	f.compared_machine = group->comparison.machine[0] ? group->comparison.machine : NULL;
	f.compared_cause = group->comparison.cause;
	f.certificate_machine = group->certificate.ends_ns > 0 ? group->certificate.machine : NULL;
	f.certificate_ends_ns = group->certificate.ends_ns;
	f.rival_machine = group->warnings.rival.machine[0] ? group->warnings.rival.machine : NULL;
	f.rival_error = group->warnings.rival.why;
	f.unsent_machine =
		group->warnings.unsent.machine[0] ? group->warnings.unsent.machine : NULL;
	f.unsent_error = group->warnings.unsent.why;
	if (group->policy.app_interval_s > 0)
		f.app_error = group->app_error;
	if (group->commit_failures > 0 && f.now_ns - group->commit_failed_ns > COMMIT_ALERT_NS)
		group->commit_failures = 0;
	if (group->commit_failures > 0) {
		f.commit_error = group->commit_error;
		f.commit_failures = group->commit_failures;
	}
	alerts_evaluate(&f, group->status.alerts, &group->status.alert_count);
}

void group_find_failed_point(struct group *group)
{
	struct point point;
	uint64_t number = 0;
	if (history_point_newest(group->history, POINT_FAILED, INT64_MAX, &point) == 0)
		number = point.number;
	struct error fault = { 0 };
	pthread_mutex_lock(&group->state_lock);
	if (number > 0 && group->state.failed_point == number)
		fault = group->state.failed_fault;
	pthread_mutex_unlock(&group->state_lock);
	SCOPED_LOCK(&group->lock);
	group->failed_point = number;
	group->failed_fault = fault;
}

/* With a vault the flusher's thread does it. */
static void retain_without_vault(struct group *group)
{
	int64_t now = clock_monotonic_ns(group->clock);
	if (group->service || now - group->retained_mono_ns < RETENTION_NS)
		return;
	group->retained_mono_ns = now;
	int r = group_retain(group);
	if (r < 0 && r != -EIO)
		log_warning("group %s: thinning its points: %s", group->name, strerrordesc_np(-r));
}

/* A read that did not reach the vault: the status tells it before the flusher's thread finds out.
 */
static void notice_reads(struct group *group)
{
	struct error error = { 0 };
	int r = group->vault_base ? vault_base_failure(group->vault_base) : 0;
	if (r == 0)
		return;
	error_set(&error, r, NULL, "a read from the vault failed: %s", strerrordesc_np(-r));
	group_tell_vault(group, r, &error);
}

static void rest(struct group *group)
{
	int64_t now = clock_monotonic_ns(group->clock);
	if (!group->vault_base || now - group->rested_mono_ns < GROUP_REST_NS)
		return;
	group->rested_mono_ns = now;
	vault_base_rest(group->vault_base);
}

static void tick(struct group *group)
{
	struct backpressure_plan plan;
	struct history_stats stats;
	bool disk_full = group_disk_is_full(group);
	press(group, disk_full, &plan);
	history_stats(group->history, &stats);
	if (stats.failed)
		notice_failure(group);
	else if (!disk_full)
		seal_if_due(group, &stats, &plan);
	history_stats(group->history, &stats);
	int64_t none = 0;
	if (stats.unsealed_bytes > 0)
		atomic_compare_exchange_strong(
			&group->first_change_ns, &none, clock_realtime_ns(group->clock));
	if (!disk_full)
		retain_without_vault(group);
	int64_t local = group_rpo_ns(group, POINT_LOCAL, &stats);
	int64_t vault = group_rpo_ns(group, POINT_VAULT, &stats);
	/* A vault point whose local copy was trimmed still protects. */
	if (local < 0 || (vault >= 0 && vault < local))
		local = vault;
	pthread_mutex_lock(&group->lock);
	group->status.history = stats;
	group->status.journal_fill = plan.fill;
	group->status.lag_bytes = stats.unflushed_bytes;
	group->status.rpo_local_ns = local;
	group->status.rpo_vault_ns = vault;
	update_rates_locked(group, &stats);
	pthread_mutex_unlock(&group->lock);
	notice_reads(group);
	evaluate_alerts(group, &stats, &plan);
	tell_source(group);
	rest(group);
	SCOPED_LOCK(&group->lock);
	group->status.rounds++;
}

static int64_t next_tick_locked(struct group *group)
{
	int64_t now = clock_monotonic_ns(group->clock);
	bool busy = atomic_load(&group->first_change_ns) != 0 ||
		    atomic_load(&group->level) >= BACKPRESSURE_TRIM || group->flushing;
	if (!busy)
		return now + IDLE_TICK_NS;
	int64_t next = now + BUSY_TICK_NS;
	int64_t interval_ns = group->policy.point_interval_s * NS_PER_S;
	int64_t due = group->last_seal_mono_ns + interval_ns;
	if (interval_ns > 0 && due > now && due < next)
		next = due;
	return next;
}

void *group_timer_main(void *argument)
{
	struct group *group = argument;
	group_find_failed_point(group);
	pthread_mutex_lock(&group->lock);
	while (!group->stopping) {
		pthread_mutex_unlock(&group->lock);
		tick(group);
		pthread_mutex_lock(&group->lock);
		if (!group->stopping)
			group_wait_until_locked(group, &group->timer_wake, next_tick_locked(group));
	}
	pthread_mutex_unlock(&group->lock);
	return NULL;
}

/* The alerts of a group whose journal could not be opened again, and so has no ticks. */
void group_alert_closed(struct group *group, const struct error *error)
{
	struct alert_facts f = { .machine = group->name,
		.now_ns = clock_realtime_ns(group->clock),
		.vault_configured = group->service != NULL,
		.vault_initialized = true,
		.open_failed = true,
		.open_error = *error };
	SCOPED_LOCK(&group->lock);
	alerts_evaluate(&f, group->status.alerts, &group->status.alert_count);
}

void group_set_trouble(struct group *group, const struct group_trouble *trouble,
	const struct group_certificate *certificate, const struct group_warnings *warnings)
{
	SCOPED_LOCK(&group->lock);
	group->trouble = *trouble;
	group->warnings = *warnings;
	group->certificate = *certificate;
}

void group_set_comparison(struct group *group, const struct group_comparison *comparison)
{
	SCOPED_LOCK(&group->lock);
	group->comparison = *comparison;
}

void group_status(struct group *group, struct group_status *ret_status)
{
	SCOPED_LOCK(&group->lock);
	*ret_status = group->status;
	ret_status->vault_configured = group->service != NULL;
	ret_status->vault_reachable = group->vault_reachable;
	ret_status->vault_initialized = group->vault_initialized;
	ret_status->vault_error_code = group->vault_error.code;
	ret_status->vault_failures = group->vault_failures;
	ret_status->taken_over = group->taken_over;
	ret_status->paused = group->paused;
	ret_status->flushing = group->flushing;
	ret_status->draining = group->draining;
	ret_status->failed = group->failed;
	ret_status->refused_writes = atomic_load(&group->refused_writes);
	ret_status->unlisted_point = atomic_load(&group->unknown_point);
}
