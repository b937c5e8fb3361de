/*
 * Policies: how often points are made, how long they live, how fast they may travel, and when to
 * worry. Read from `[policy NAME]` sections and from `landfall policy set`.
 *
 *	point-interval=60s           a local recovery point this often; 1s … 1d; 0: only on request
 *	vault-interval=5m            one in the vault at least this often; ≥ point-interval
 *	app-interval=0               an application-consistent one; 0: never by itself
 *	retention=all:24h,hourly:7d,daily:30d
 *	                             every vault point of the last 24 hours, then the last of each
 *	                             hour up to 7 days, then of each day (UTC) up to 30 days
 *	drill-interval=0             a drill of each machine this often; 0: never by itself
 *	rpo-alert=15m                alert when the newest vault point is older than this
 *	bandwidth=unlimited | 20M | 08:00-18:00=5M,22:00-06:00=unlimited,20M
 *	                             bytes a second to the vault; by the hour, local time; a value
 *	                             without hours is for the rest of the day. K, M, G are 1024s.
 *	agent-bandwidth=same | …     likewise, of each agent to the appliance; same: as bandwidth
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "fs/point.h"

#define POLICY_NAME_BYTES 64
#define POLICY_MAX_WINDOWS 24

/* Rates by the hour. */
struct policy_rates {
	struct policy_window {
		uint16_t from_minute,
			to_minute;    /* of the day; to may be below from (over midnight) */
		uint64_t bytes_per_s; /* 0: unlimited */
	} windows[POLICY_MAX_WINDOWS];
	unsigned window_count;
	uint64_t bytes_per_s; /* outside the windows; 0: unlimited */
};

struct policy {
	char name[POLICY_NAME_BYTES];
	int64_t point_interval_s, vault_interval_s, app_interval_s, rpo_alert_s, drill_interval_s;
	int64_t keep_all_s, keep_hourly_s, keep_daily_s; /* ages; 0: that stage is absent */
	struct policy_rates bandwidth, agent_bandwidth;
	bool agent_bandwidth_set; /* false: as `bandwidth` */
};

/* The one named "default": 60s, 5m, 0, all:24h,hourly:7d,daily:30d, 15m, unlimited. */
void policy_default(struct policy *ret_policy);
/* Changes one setting; the error says what is allowed. -EINVAL, -ENOENT: no such key. */
int policy_set(struct policy *policy, const char *key, const char *value, struct error *error);
/* Checks settings against each other. */
int policy_check(const struct policy *policy, struct error *error);
/* The text that policy_set reads back to the same value. */
int policy_format(const struct policy *policy, const char *key, struct buf *ret_text);
/* The keys, NULL-terminated. */
const char *const *policy_keys(void);

/* Bytes a second allowed at that minute of the (local) day; 0: no limit. */
uint64_t policy_bandwidth(const struct policy *policy, unsigned minute);
/* The same of an agent to the appliance. */
uint64_t policy_agent_bandwidth(const struct policy *policy, unsigned minute);

/* Which of the points (rising numbers) may go. ret_drop[i] is true for those; never the newest,
 * never a kept one. Of a day or hour the last good point stays. Pure. Times that lie in the
 * future count as now. */
void policy_thin(const struct policy *policy, const struct point *points, unsigned count,
	int64_t now_ns, bool *ret_drop);
