/*
 * The method metrics: Prometheus' text exposition format 0.0.4. Every metric has its HELP and
 * TYPE once, before its samples; label values are escaped as the format wants it.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/metrics.h"
#include "replicator/registry_internal.h"

int metrics_escape(struct buf *b, const char *value)
{
	int r = 0;
	for (const char *p = value; r == 0 && *p; p++) {
		if (*p == '\\')
			r = buf_append_text(b, "\\\\");
		else if (*p == '"')
			r = buf_append_text(b, "\\\"");
		else if (*p == '\n')
			r = buf_append_text(b, "\\n");
		else
			r = buf_append(b, p, 1);
	}
	return r;
}

/* What there is to tell of one group, taken once so that all its samples agree. */
struct sample {
	char name[REGISTRY_NAME_BYTES];
	struct group_status status;
	unsigned unprotected; /* machines */
};

/* An alert that is one machine's own. */
struct machine_sample {
	char group[REGISTRY_NAME_BYTES], machine[REGISTRY_NAME_BYTES];
	const char *code;
	bool critical;
};

struct samples {
	struct sample *list; /* owned */
	unsigned count;
	struct machine_sample *machines; /* owned */
	unsigned machine_count;
	uint64_t journal_limit_bytes, journal_free_bytes;
	bool has_cache;
	struct cache_stats cache;
};

static void samples_free(struct samples *samples)
{
	free(samples->list);
	free(samples->machines);
}

static double seconds(int64_t ns)
{
	return ns < 0 ? (double)__builtin_nan("") : (double)ns / (double)NS_PER_S;
}

#define METRIC_VALUE(function, expression)                      \
	static double function(const struct sample *sample)     \
	{                                                       \
		const struct group_status *s = &sample->status; \
		return (double)(expression);                    \
	}

METRIC_VALUE(value_rpo_local, seconds(s->rpo_local_ns))
METRIC_VALUE(value_rpo_vault, seconds(s->rpo_vault_ns))
METRIC_VALUE(value_lag, s->lag_bytes)
METRIC_VALUE(value_written, s->history.written_bytes)
METRIC_VALUE(value_zeroed, s->history.zeroed_bytes)
METRIC_VALUE(value_journal_written, s->history.journal_bytes)
METRIC_VALUE(value_commits, s->history.commits)
METRIC_VALUE(value_used, s->history.used_bytes)
METRIC_VALUE(value_limit, s->history.limit_bytes)
METRIC_VALUE(value_map, s->history.map_memory_bytes)
METRIC_VALUE(value_newest, s->history.newest_point)
METRIC_VALUE(value_newest_vault, s->history.newest_vault_point)
METRIC_VALUE(value_flushes, s->flushes)
METRIC_VALUE(value_drains, s->drains)
METRIC_VALUE(value_drained, s->history.drained_bytes)
METRIC_VALUE(value_flush_failures, s->failed_flushes)
METRIC_VALUE(value_put_bytes, s->totals.put_bytes)
METRIC_VALUE(value_put_requests, s->totals.put_requests)
METRIC_VALUE(value_clear_bytes, s->totals.clear_bytes)
METRIC_VALUE(value_clear_requests, s->totals.clear_requests)
METRIC_VALUE(value_retries, s->totals.retries)
METRIC_VALUE(value_fences, s->totals.fences)
METRIC_VALUE(value_deleted, s->points_deleted)
METRIC_VALUE(value_refused, s->refused_writes)
METRIC_VALUE(value_rounds, s->rounds)
METRIC_VALUE(value_reachable, s->vault_reachable)
METRIC_VALUE(value_taken_over, s->taken_over)
METRIC_VALUE(value_paused, s->paused)
METRIC_VALUE(value_failed, s->failed)

static double value_unprotected(const struct sample *sample)
{
	return sample->unprotected;
}

static const struct group_metric {
	const char *name, *type, *help;
	double (*value)(const struct sample *sample);
} group_metrics[] = {
	{ "landfall_rpo_local_seconds", "gauge",
		"Age of the oldest change that no recovery point holds; NaN: no point yet",
		value_rpo_local },
	{ "landfall_rpo_vault_seconds", "gauge",
		"Age of the oldest change that no recovery point in the vault holds; NaN: none yet",
		value_rpo_vault },
	{ "landfall_unprotected_machines", "gauge",
		"Machines that no recovery point in the vault (without a vault: none) has",
		value_unprotected },
	{ "landfall_lag_bytes", "gauge", "Changes that are not in the vault", value_lag },
	{ "landfall_written_bytes_total", "counter", "Bytes taken from the source", value_written },
	{ "landfall_zeroed_bytes_total", "counter", "Bytes discarded or zeroed by the source",
		value_zeroed },
	{ "landfall_journal_written_bytes_total", "counter", "Bytes written to the journal's files",
		value_journal_written },
	{ "landfall_journal_commits_total", "counter", "Commits to the journal", value_commits },
	{ "landfall_journal_used_bytes", "gauge", "Size of the journal's files", value_used },
	{ "landfall_journal_limit_bytes", "gauge", "Room the group may use for its journal",
		value_limit },
	{ "landfall_map_memory_bytes", "gauge", "Memory of the extent maps", value_map },
	{ "landfall_newest_point", "gauge", "Number of the newest recovery point", value_newest },
	{ "landfall_newest_vault_point", "gauge",
		"Number of the newest recovery point in the vault", value_newest_vault },
	{ "landfall_flushes_total", "counter", "Recovery points sent to the vault", value_flushes },
	{ "landfall_drains_total", "counter",
		"Times that part of an epoch was sent ahead of its point", value_drains },
	{ "landfall_drained_bytes", "gauge",
		"Bytes in the vault ahead of the point that will show them", value_drained },
	{ "landfall_flush_failures_total", "counter", "Attempts to send that failed",
		value_flush_failures },
	{ "landfall_put_bytes_total", "counter", "Bytes put into page blobs", value_put_bytes },
	{ "landfall_put_requests_total", "counter", "Put Page requests", value_put_requests },
	{ "landfall_clear_bytes_total", "counter", "Bytes cleared in page blobs",
		value_clear_bytes },
	{ "landfall_clear_requests_total", "counter", "Clear Page requests", value_clear_requests },
	{ "landfall_retries_total", "counter", "Requests to the vault sent again", value_retries },
	{ "landfall_fences_total", "counter", "Fences raised after ambiguous answers",
		value_fences },
	{ "landfall_points_deleted_total", "counter", "Recovery points deleted", value_deleted },
	{ "landfall_refused_writes_total", "counter", "Writes refused because the journal was full",
		value_refused },
	{ "landfall_timer_rounds_total", "counter",
		"Times the group looked what is due; one that stands still hangs", value_rounds },
	{ "landfall_vault_reachable", "gauge", "1 if the vault answered last", value_reachable },
	{ "landfall_taken_over", "gauge", "1 if another appliance owns the group",
		value_taken_over },
	{ "landfall_paused", "gauge", "1 if replication is paused", value_paused },
	{ "landfall_group_failed", "gauge", "1 if the group's journal is not running",
		value_failed },
};

static int head(struct buf *b, const char *name, const char *type, const char *help)
{
	return buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static int number(struct buf *b, double value)
{
	if (__builtin_isnan(value))
		return buf_append_text(b, " NaN\n");
	return buf_printf(b, " %.17g\n", value);
}

static int write_group_metric(
	struct buf *b, const struct group_metric *metric, const struct samples *samples)
{
	int r = head(b, metric->name, metric->type, metric->help);
	for (unsigned i = 0; r == 0 && i < samples->count; i++) {
		r = buf_printf(b, "%s{group=\"", metric->name);
		if (r == 0)
			r = metrics_escape(b, samples->list[i].name);
		if (r == 0)
			r = buf_append_text(b, "\"}");
		if (r == 0)
			r = number(b, metric->value(&samples->list[i]));
	}
	return r;
}

static int write_alerts(struct buf *b, const struct samples *samples)
{
	int r = head(b, "landfall_alert", "gauge", "1 for each alert that is raised");
	for (unsigned i = 0; i < samples->count; i++) {
		const struct group_status *status = &samples->list[i].status;
		for (unsigned k = 0; r == 0 && k < status->alert_count; k++) {
			r = buf_append_text(b, "landfall_alert{group=\"");
			if (r == 0)
				r = metrics_escape(b, samples->list[i].name);
			if (r == 0)
				r = buf_printf(b, "\",code=\"%s\",severity=\"%s\"} 1\n",
					status->alerts[k].code,
					status->alerts[k].critical ? "critical" : "warning");
		}
	}
	for (unsigned i = 0; r == 0 && i < samples->machine_count; i++) {
		const struct machine_sample *m = &samples->machines[i];
		r = buf_append_text(b, "landfall_alert{group=\"");
		if (r == 0)
			r = metrics_escape(b, m->group);
		if (r == 0)
			r = buf_append_text(b, "\",machine=\"");
		if (r == 0)
			r = metrics_escape(b, m->machine);
		if (r == 0)
			r = buf_printf(b, "\",code=\"%s\",severity=\"%s\"} 1\n", m->code,
				m->critical ? "critical" : "warning");
	}
	return r;
}

static int write_plain(
	struct buf *b, const char *name, const char *type, const char *help, uint64_t value)
{
	int r = head(b, name, type, help);
	return r == 0 ? buf_printf(b, "%s %" PRIu64 "\n", name, value) : r;
}

static int write_appliance(struct buf *b, const struct samples *samples)
{
	int r = head(b, "landfall_info", "gauge", "1; the version is in its label");
	if (r == 0)
		r = buf_printf(b, "landfall_info{version=\"%s\"} 1\n", LANDFALL_VERSION);
	if (r == 0)
		r = write_plain(b, "landfall_journal_total_bytes", "gauge",
			"Room for all journals together", samples->journal_limit_bytes);
	if (r == 0)
		r = write_plain(b, "landfall_journal_disk_free_bytes", "gauge",
			"Room left on the journal's filesystem", samples->journal_free_bytes);
	if (r < 0 || !samples->has_cache)
		return r;
	r = write_plain(b, "landfall_cache_used_bytes", "gauge", "Bytes in the read cache",
		samples->cache.used_bytes);
	if (r == 0)
		r = write_plain(b, "landfall_cache_hits_total", "counter",
			"Reads answered by the read cache", samples->cache.hits);
	if (r == 0)
		r = write_plain(b, "landfall_cache_misses_total", "counter",
			"Reads that asked the vault", samples->cache.misses);
	return r;
}

static void collect_alerts(const struct machine_entry *machine, struct samples *samples)
{
	for (unsigned i = 0; i < machine->alert_count; i++) {
		struct machine_sample *s = &samples->machines[samples->machine_count++];
		memcpy(s->group, machine->group->name, sizeof(s->group));
		memcpy(s->machine, machine->name, sizeof(s->machine));
		s->code = machine->alerts[i].code;
		s->critical = machine->alerts[i].critical;
	}
}

static int collect(struct registry *registry, struct samples *samples)
{
	SCOPED_LOCK(&registry->lock);
	unsigned count = 0, machines = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next)
		count++;
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		machines++;
	samples->list = calloc(count + 1, sizeof(*samples->list));
	samples->machines = calloc(machines * ALERT_MACHINE_MAX + 1, sizeof(*samples->machines));
	if (!samples->list || !samples->machines)
		return -ENOMEM;
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		collect_alerts(m, samples);
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		struct sample *sample = &samples->list[samples->count++];
		memcpy(sample->name, g->name, sizeof(sample->name));
		sample->status.rpo_local_ns = sample->status.rpo_vault_ns = -1;
		sample->status.failed = true;
		for (struct machine_entry *m = registry->machines; m; m = m->next)
			sample->unprotected += m->group == g && machine_is_unprotected(registry, m);
		if (g->group) {
			group_status(g->group, &sample->status);
		} else {
			memcpy(sample->status.alerts, g->alerts, sizeof(g->alerts));
			sample->status.alert_count = g->alert_count;
		}
	}
	samples->journal_limit_bytes = registry->journal_bytes;
	samples->journal_free_bytes = registry->journal_free_bytes;
	samples->has_cache = registry->cache != NULL;
	if (registry->cache)
		cache_stats(registry->cache, &samples->cache);
	return 0;
}

static int method_metrics(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	CLEANUP(samples_free) struct samples samples = { 0 };
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = collect(context, &samples);
	if (r == 0)
		r = write_appliance(&text, &samples);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(group_metrics); i++)
		r = write_group_metric(&text, &group_metrics[i], &samples);
	if (r == 0)
		r = write_alerts(&text, &samples);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_text(root, "text", text.data);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

int methods_metrics_register(struct registry *registry, struct control *control)
{
	return control_register(control, "metrics", method_metrics, registry);
}
