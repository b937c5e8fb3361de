/*
 * Policies: reading, checking and writing their settings. Pure; any thread.
 *
 * A setting is changed whole or not at all, and what policy_format writes policy_set reads back
 * to the same value. Rules that concern one key are policy_set's; rules between keys are
 * policy_check's, so that several can be changed together.
 */
#include "replicator/policy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/human.h"

#define MINUTE_S 60
#define HOUR_S 3600
#define DAY_S 86400
#define MIN_BANDWIDTH (64 * KIB)
#define BANDWIDTH_MEND "write e.g. unlimited, 20M, or 08:00-18:00=5M,20M (bytes a second)"
#define RETENTION_MEND "write e.g. all:24h,hourly:7d,daily:30d"

void policy_default(struct policy *ret_policy)
{
	*ret_policy = (struct policy){
		.name = "default",
		.point_interval_s = MINUTE_S,
		.vault_interval_s = 5 * MINUTE_S,
		.rpo_alert_s = 15 * MINUTE_S,
		.keep_all_s = DAY_S,
		.keep_hourly_s = 7 * DAY_S,
		.keep_daily_s = 30 * DAY_S,
	};
}

/* ── intervals ───────────────────────────────────────────────────────────────────────────── */

static const struct interval_key {
	const char *name;
	size_t offset;
	int64_t least_s, most_s;
	bool zero;
	const char *allowed;
} interval_keys[] = {
	{ "point-interval", offsetof(struct policy, point_interval_s), 1, DAY_S, true,
		"1s to 1d, or 0 for points on request only" },
	{ "vault-interval", offsetof(struct policy, vault_interval_s), 1, 7 * DAY_S, false,
		"1s to 7d" },
	{ "app-interval", offsetof(struct policy, app_interval_s), 10, 7 * DAY_S, true,
		"10s to 7d, or 0 for none by itself" },
	{ "drill-interval", offsetof(struct policy, drill_interval_s), 10, 90 * DAY_S, true,
		"10s to 90d, or 0 for none by itself" },
	{ "rpo-alert", offsetof(struct policy, rpo_alert_s), 1, 30 * DAY_S, true,
		"1s to 30d, or 0 for no alert" },
};

static const struct interval_key *find_interval_key(const char *key)
{
	for (unsigned i = 0; i < ARRAY_SIZE(interval_keys); i++)
		if (strcmp(key, interval_keys[i].name) == 0)
			return &interval_keys[i];
	return NULL;
}

static int64_t *interval_field(struct policy *policy, const struct interval_key *key)
{
	return (int64_t *)((char *)policy + key->offset);
}

static int set_interval(struct policy *policy, const struct interval_key *key, const char *value,
	struct error *error)
{
	int64_t seconds;
	if (duration_parse(value, &seconds) < 0)
		return error_set(error, -EINVAL, "write a number and s, m, h or d, e.g. 90s or 5m",
			"%s=%.60s is not a duration", key->name, value);
	bool allowed = seconds == 0 ? key->zero : seconds >= key->least_s && seconds <= key->most_s;
	if (!allowed) {
		char mend[128];
		snprintf(mend, sizeof(mend), "%s may be %s", key->name, key->allowed);
		return error_set(
			error, -EINVAL, mend, "%s=%.60s is out of range", key->name, value);
	}
	*interval_field(policy, key) = seconds;
	return 0;
}

/* ── retention ───────────────────────────────────────────────────────────────────────────── */

static const struct retention_stage {
	const char *name;
	size_t offset;
} retention_stages[] = {
	{ "all", offsetof(struct policy, keep_all_s) },
	{ "hourly", offsetof(struct policy, keep_hourly_s) },
	{ "daily", offsetof(struct policy, keep_daily_s) },
};

static int64_t *stage_field(struct policy *policy, unsigned stage)
{
	return (int64_t *)((char *)policy + retention_stages[stage].offset);
}

/* One "stage:age". `seen` has a bit a stage. */
static int set_stage(struct policy *policy, char *item, unsigned *seen, struct error *error)
{
	char *colon = strchr(item, ':');
	if (!colon)
		return error_set(error, -EINVAL, RETENTION_MEND,
			"retention: '%.40s' is not a stage and its age", item);
	*colon = '\0';
	for (unsigned i = 0; i < ARRAY_SIZE(retention_stages); i++) {
		if (strcmp(item, retention_stages[i].name) != 0)
			continue;
		if (*seen & 1u << i)
			return error_set(error, -EINVAL, RETENTION_MEND,
				"retention: '%s' stands there twice", item);
		*seen |= 1u << i;
		if (duration_parse(colon + 1, stage_field(policy, i)) < 0)
			return error_set(error, -EINVAL, RETENTION_MEND,
				"retention: '%.40s' of %s is not a duration", colon + 1, item);
		return 0;
	}
	return error_set(error, -EINVAL, "the stages are all, hourly and daily",
		"retention: there is no stage '%.40s'", item);
}

static int set_retention(struct policy *policy, const char *value, struct error *error)
{
	CLEANUP_FREE char *text = strdup(value);
	if (!text)
		return error_set(error, -ENOMEM, NULL, "retention: out of memory");
	struct policy next = *policy;
	next.keep_all_s = next.keep_hourly_s = next.keep_daily_s = 0;
	unsigned seen = 0;
	char *rest = text;
	for (char *item; (item = strsep(&rest, ","));) {
		int r = set_stage(&next, item, &seen, error);
		if (r < 0)
			return r;
	}
	/* A stage that ends before the one before it would keep nothing of its own. */
	int64_t longest = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(retention_stages); i++) {
		int64_t age_s = *stage_field(&next, i);
		if (age_s == 0)
			continue;
		if (age_s <= longest)
			return error_set(error, -EINVAL, RETENTION_MEND,
				"retention: %s must reach further back than the stage before it",
				retention_stages[i].name);
		longest = age_s;
	}
	if (longest == 0)
		return error_set(error, -EINVAL, RETENTION_MEND,
			"retention=%.60s keeps no point at all", value);
	*policy = next;
	return 0;
}

static int format_retention(const struct policy *policy, struct buf *ret_text)
{
	struct policy copy = *policy;
	const char *comma = "";
	int r = 0;
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(retention_stages); i++) {
		int64_t age_s = *stage_field(&copy, i);
		if (age_s == 0)
			continue;
		r = buf_printf(ret_text, "%s%s:", comma, retention_stages[i].name);
		if (r == 0)
			r = duration_format(age_s, ret_text);
		comma = ",";
	}
	return r;
}

/* ── bandwidth ───────────────────────────────────────────────────────────────────────────── */

static bool window_holds(const struct policy_window *window, unsigned minute)
{
	if (window->from_minute < window->to_minute)
		return minute >= window->from_minute && minute < window->to_minute;
	return minute >= window->from_minute || minute < window->to_minute;
}

static int parse_rate(
	const char *key, const char *text, uint64_t *ret_bytes_per_s, struct error *error)
{
	uint64_t rate;
	if (strcmp(text, "unlimited") == 0) {
		*ret_bytes_per_s = 0;
		return 0;
	}
	if (size_parse(text, &rate) < 0)
		return error_set(
			error, -EINVAL, BANDWIDTH_MEND, "%s: '%.40s' is not a rate", key, text);
	if (rate < MIN_BANDWIDTH)
		return error_set(error, -EINVAL,
			"give 64K or more; to stop sending, pause the machine",
			"%s: '%.40s' is too little to keep up with anything", key, text);
	*ret_bytes_per_s = rate;
	return 0;
}

static int parse_window(
	const char *key, const char *item, struct policy_window *ret_window, struct error *error)
{
	struct policy_window window;
	const char *p = item;
	if (minute_parse(&p, &window.from_minute) < 0 || *p++ != '-' ||
		minute_parse(&p, &window.to_minute) < 0 || *p++ != '=' ||
		window.from_minute == MINUTES_PER_DAY)
		return error_set(error, -EINVAL, BANDWIDTH_MEND,
			"%s: '%.40s' is not HH:MM-HH:MM=RATE", key, item);
	if (window.from_minute == window.to_minute)
		return error_set(error, -EINVAL, "for the whole day write the rate without hours",
			"%s: the window '%.40s' is empty", key, item);
	int r = parse_rate(key, p, &window.bytes_per_s, error);
	if (r == 0)
		*ret_window = window;
	return r;
}

static int check_overlap(const char *key, const struct policy_rates *rates, struct error *error)
{
	for (unsigned minute = 0; minute < MINUTES_PER_DAY; minute++) {
		unsigned holders = 0;
		for (unsigned i = 0; i < rates->window_count; i++)
			holders += window_holds(&rates->windows[i], minute);
		if (holders > 1)
			return error_set(error, -EINVAL, "give every hour of the day one rate",
				"%s: two windows hold %02u:%02u", key, minute / 60, minute % 60);
	}
	return 0;
}

static int add_rate(const char *key, struct policy_rates *rates, const char *item, bool *have_rest,
	struct error *error)
{
	if (strchr(item, '=')) {
		if (rates->window_count == POLICY_MAX_WINDOWS)
			return error_set(error, -EINVAL, "join windows of equal rates",
				"%s: more than %d windows", key, POLICY_MAX_WINDOWS);
		int r = parse_window(key, item, &rates->windows[rates->window_count], error);
		if (r == 0)
			rates->window_count++;
		return r;
	}
	if (*have_rest)
		return error_set(error, -EINVAL, BANDWIDTH_MEND,
			"%s: two rates for the rest of the day", key);
	*have_rest = true;
	return parse_rate(key, item, &rates->bytes_per_s, error);
}

static int set_rates(
	const char *key, struct policy_rates *rates, const char *value, struct error *error)
{
	CLEANUP_FREE char *text = strdup(value);
	if (!text)
		return error_set(error, -ENOMEM, NULL, "%s: out of memory", key);
	struct policy_rates next = { 0 };
	bool have_rest = false;
	int r = 0;
	char *rest = text;
	for (char *item; r == 0 && (item = strsep(&rest, ","));)
		r = add_rate(key, &next, item, &have_rest, error);
	if (r == 0)
		r = check_overlap(key, &next, error);
	if (r == 0)
		*rates = next;
	return r;
}

static int format_rate(uint64_t bytes_per_s, struct buf *ret_text)
{
	if (bytes_per_s == 0)
		return buf_append_text(ret_text, "unlimited");
	return size_format(bytes_per_s, ret_text);
}

static int format_rates(const struct policy_rates *rates, struct buf *ret_text)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < rates->window_count; i++) {
		const struct policy_window *w = &rates->windows[i];
		r = buf_printf(ret_text, "%02u:%02u-%02u:%02u=", w->from_minute / 60u,
			w->from_minute % 60u, w->to_minute / 60u, w->to_minute % 60u);
		if (r == 0)
			r = format_rate(w->bytes_per_s, ret_text);
		if (r == 0)
			r = buf_append_text(ret_text, ",");
	}
	return r == 0 ? format_rate(rates->bytes_per_s, ret_text) : r;
}

static uint64_t rate_at(const struct policy_rates *rates, unsigned minute)
{
	for (unsigned i = 0; i < rates->window_count; i++)
		if (window_holds(&rates->windows[i], minute))
			return rates->windows[i].bytes_per_s;
	return rates->bytes_per_s;
}

uint64_t policy_bandwidth(const struct policy *policy, unsigned minute)
{
	return rate_at(&policy->bandwidth, minute);
}

uint64_t policy_agent_bandwidth(const struct policy *policy, unsigned minute)
{
	return rate_at(policy->agent_bandwidth_set ? &policy->agent_bandwidth : &policy->bandwidth,
		minute);
}

static int set_agent_bandwidth(struct policy *policy, const char *value, struct error *error)
{
	struct policy_rates none = { 0 };
	bool set = strcmp(value, "same") != 0;
	int r = set ? set_rates("agent-bandwidth", &policy->agent_bandwidth, value, error) : 0;
	if (r < 0)
		return r;
	if (!set)
		policy->agent_bandwidth = none;
	policy->agent_bandwidth_set = set;
	return 0;
}

/* ── by key ──────────────────────────────────────────────────────────────────────────────── */

static const char *const key_names[] = { "point-interval", "vault-interval", "app-interval",
	"drill-interval", "retention", "rpo-alert", "bandwidth", "agent-bandwidth", NULL };

const char *const *policy_keys(void)
{
	return key_names;
}

int policy_set(struct policy *policy, const char *key, const char *value, struct error *error)
{
	const struct interval_key *interval = find_interval_key(key);
	if (interval)
		return set_interval(policy, interval, value, error);
	if (strcmp(key, "retention") == 0)
		return set_retention(policy, value, error);
	if (strcmp(key, "bandwidth") == 0)
		return set_rates("bandwidth", &policy->bandwidth, value, error);
	if (strcmp(key, "agent-bandwidth") == 0)
		return set_agent_bandwidth(policy, value, error);
	return error_set(error, -ENOENT,
		"the keys are point-interval, vault-interval, app-interval, drill-interval, "
		"retention, rpo-alert, bandwidth, agent-bandwidth",
		"a policy has no setting '%.60s'", key);
}

int policy_format(const struct policy *policy, const char *key, struct buf *ret_text)
{
	const struct interval_key *interval = find_interval_key(key);
	if (interval) {
		struct policy copy = *policy;
		return duration_format(*interval_field(&copy, interval), ret_text);
	}
	if (strcmp(key, "retention") == 0)
		return format_retention(policy, ret_text);
	if (strcmp(key, "bandwidth") == 0)
		return format_rates(&policy->bandwidth, ret_text);
	if (strcmp(key, "agent-bandwidth") == 0)
		return policy->agent_bandwidth_set
			       ? format_rates(&policy->agent_bandwidth, ret_text)
			       : buf_append_text(ret_text, "same");
	return -ENOENT;
}

int policy_check(const struct policy *policy, struct error *error)
{
	if (policy->vault_interval_s < policy->point_interval_s)
		return error_set(error, -EINVAL,
			"set vault-interval to point-interval or more: only points can be flushed",
			"policy %s: vault-interval (%" PRId64
			"s) is shorter than point-interval (%" PRId64 "s)",
			policy->name, policy->vault_interval_s, policy->point_interval_s);
	if (policy->rpo_alert_s != 0 && policy->rpo_alert_s < policy->vault_interval_s)
		return error_set(error, -EINVAL,
			"set rpo-alert to vault-interval or more, or to 0 for no alert",
			"policy %s: rpo-alert (%" PRId64
			"s) is shorter than vault-interval (%" PRId64
			"s): it would never be silent",
			policy->name, policy->rpo_alert_s, policy->vault_interval_s);
	return 0;
}
