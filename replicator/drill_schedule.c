/*
 * Drills by policy: one at a time, so that the appliance has the rest of itself for replication.
 *
 * A machine's drill is due when its policy's drill-interval has passed since the last one began,
 * whoever asked for that. A machine without a point, or one that another job is at work on, is
 * looked at again at the next turn.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/drills_internal.h"

#define TURN_NS (2 * NS_PER_S)
#define SPACE_NS (10 * NS_PER_S) /* between two starts, if they fail at once */
#define TARGET "local"

/* When the machine's newest drill began; 0: there was none. */
static int64_t last_began_ns(struct drills *drills, const char *machine)
{
	SCOPED_LOCK(&drills->lock);
	for (const struct drill *d = drills->list; d; d = d->next)
		if (strcmp(d->machine, machine) == 0)
			return d->began_ns;
	return 0;
}

/* The machine of the one that was started last by policy is in the way while it has not ended. */
static bool is_busy(struct drills *drills, uint64_t job)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	if (job == 0 || jobs_show(drills->registry->jobs, job, &json) < 0)
		return false;
	const struct cJSON *state = cJSON_GetObjectItemCaseSensitive(json, "state");
	return cJSON_IsString(state) && (strcmp(state->valuestring, "running") == 0 ||
						strcmp(state->valuestring, "queued") == 0);
}

struct candidate {
	char machine[REGISTRY_NAME_BYTES];
	int64_t interval_ns;
};

/* The machine behind `after` (in the list's order) that is to be drilled at all. */
static bool next_candidate(struct registry *registry, const char *after, struct candidate *ret)
{
	SCOPED_LOCK(&registry->lock);
	for (const struct machine_entry *m = registry->machines; m; m = m->next) {
		if (strcmp(m->name, after) <= 0 || m->removing)
			continue;
		const struct policy_entry *p = registry_find_policy(registry, m->group->policy);
		if (!p || p->policy.drill_interval_s == 0)
			continue;
		memcpy(ret->machine, m->name, sizeof(ret->machine));
		ret->interval_ns = p->policy.drill_interval_s * NS_PER_S;
		return true;
	}
	return false;
}

/* Starts the first that is due; returns its job, 0: none was. */
static uint64_t start_one(struct drills *drills)
{
	struct candidate c = { 0 };
	while (next_candidate(drills->registry, c.machine, &c)) {
		struct error error = { 0 };
		uint64_t job;
		int64_t now_ns = clock_realtime_ns(drills->registry->clock);
		int64_t age_ns = now_ns - last_began_ns(drills, c.machine);
		if (age_ns >= 0 && age_ns < c.interval_ns)
			continue;
		int r = drill_start_job(drills, c.machine, NULL, TARGET, true, &error, &job);
		if (r == 0)
			return job;
		if (r != -ENOENT && r != -EBUSY && r != -ESHUTDOWN)
			log_warning("machine %s: no drill could be started: %s", c.machine,
				error.message);
	}
	return 0;
}

/* False: the drills end. */
static bool wait_turn(struct drills *drills)
{
	int64_t until_ns = clock_monotonic_ns(clock_system()) + TURN_NS;
	const struct timespec until = { .tv_sec = until_ns / NS_PER_S,
		.tv_nsec = until_ns % NS_PER_S };
	SCOPED_LOCK(&drills->lock);
	int r = 0;
	while (!drills->stopping && r == 0)
		r = pthread_cond_timedwait(&drills->wake, &drills->lock, &until);
	return !drills->stopping;
}

static void *schedule_main(void *context)
{
	struct drills *drills = context;
	uint64_t job = 0;
	int64_t started_ns = 0;
	while (wait_turn(drills)) {
		int64_t now_ns = clock_monotonic_ns(clock_system());
		if (is_busy(drills, job) || (job && now_ns - started_ns < SPACE_NS))
			continue;
		job = start_one(drills);
		started_ns = now_ns;
	}
	return NULL;
}

int drill_schedule_start(struct drills *drills)
{
	int r = -pthread_create(&drills->schedule, NULL, schedule_main, drills);
	drills->schedule_runs = r == 0;
	return r;
}

void drill_schedule_stop(struct drills *drills)
{
	pthread_mutex_lock(&drills->lock);
	drills->stopping = true;
	pthread_cond_broadcast(&drills->wake);
	pthread_mutex_unlock(&drills->lock);
	if (drills->schedule_runs)
		pthread_join(drills->schedule, NULL);
	drills->schedule_runs = false;
}
