/*
 * The points of a group whose source makes them: when one is due, and who asked for one.
 *
 * The group cannot tell whether the source has changed, so by the policy a point is due when the
 * interval is over since the last one, or since the source last said that nothing had changed.
 * Requests are counted: a seal answers those that had been made when the source was told to make
 * it, since it may show an earlier instant than later ones. Whoever waits for an answer is told the
 * newest point, which is the one that answered or one after it.
 *
 * Any thread; everything is under group->lock.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/bytes.h"
#include "replicator/group_internal.h"

bool group_source_seals(struct group *group)
{
	return group->source_seals;
}

static bool may_be_due_locked(const struct group *group)
{
	return group->source_seals && !group->paused && !group->taken_over && !group->failed &&
	       !group->stopping;
}

int64_t group_due_at_locked(const struct group *group, uint8_t *ret_kind)
{
	const struct policy *policy = &group->policy;
	int64_t crash = policy->point_interval_s > 0
				? group->last_seal_mono_ns + policy->point_interval_s * NS_PER_S
				: INT64_MAX;
	int64_t app = policy->app_interval_s > 0
			      ? group->last_app_mono_ns + policy->app_interval_s * NS_PER_S
			      : INT64_MAX;
	if (!may_be_due_locked(group))
		crash = app = INT64_MAX;
	else if (group->requests > group->requests_answered &&
		 group->request_kind == POINT_APPLICATION)
		app = 0;
	else if (group->requests > group->requests_answered)
		crash = 0;
	/* One that is due as both is the better one. */
	bool is_app = app <= MAX(crash, clock_monotonic_ns(group->clock)) && app != INT64_MAX;
	*ret_kind = is_app ? POINT_APPLICATION : POINT_CRASH;
	return MIN(app, crash);
}

static void look_locked(struct group *group, struct group_due *ret_due)
{
	struct group_due due = { .request = group->requests };
	due.due = clock_monotonic_ns(group->clock) >= group_due_at_locked(group, &due.kind);
	*ret_due = due;
}

void group_point_due(struct group *group, struct group_due *ret_due)
{
	SCOPED_LOCK(&group->lock);
	look_locked(group, ret_due);
}

void group_due_since(struct group *group, int64_t mono_ns)
{
	SCOPED_LOCK(&group->lock);
	group->last_seal_mono_ns = MIN(group->last_seal_mono_ns, mono_ns);
	pthread_cond_broadcast(&group->changed);
}

int group_wait_due(struct group *group, unsigned timeout_ms, const atomic_bool *stop,
	struct group_due *ret_due)
{
	int64_t until = clock_monotonic_ns(group->clock) + timeout_ms * NS_PER_MS;
	SCOPED_LOCK(&group->lock);
	for (;;) {
		struct group_due due;
		uint8_t kind;
		if (group->stopping || group->failed || atomic_load(stop))
			return -ECANCELED;
		look_locked(group, &due);
		if (due.due) {
			*ret_due = due;
			return 0;
		}
		if (clock_monotonic_ns(group->clock) >= until)
			return -ETIMEDOUT;
		int64_t at = group_due_at_locked(group, &kind);
		group_wait_until_locked(group, &group->changed, MIN(at, until));
	}
}

void group_wake_due(struct group *group)
{
	SCOPED_LOCK(&group->lock);
	pthread_cond_broadcast(&group->changed);
}

void group_due_answered_locked(struct group *group, uint64_t requests, uint8_t kind)
{
	bool all = requests == group->requests;
	if (kind == POINT_APPLICATION) {
		group->last_app_mono_ns = clock_monotonic_ns(group->clock);
		group->app_error = (struct error){ 0 };
	}
	/* A crash-consistent point is no answer to who wants the other kind. */
	if (kind == POINT_APPLICATION || group->request_kind != POINT_APPLICATION)
		group->requests_answered = MAX(group->requests_answered, requests);
	if (all && group->requests_answered == group->requests)
		group->request_kind = POINT_CRASH;
	pthread_cond_broadcast(&group->changed);
}

void group_point_unchanged(struct group *group, const struct group_due *due)
{
	SCOPED_LOCK(&group->lock);
	group->last_seal_mono_ns = clock_monotonic_ns(group->clock);
	group_due_answered_locked(group, due->request, due->kind);
}

void group_app_failed(struct group *group, const struct group_due *due, const struct error *error)
{
	SCOPED_LOCK(&group->lock);
	group->last_app_mono_ns = clock_monotonic_ns(group->clock);
	group->app_error = *error;
	group->app_failed_request = MAX(group->app_failed_request, due->request);
	group->requests_answered = MAX(group->requests_answered, due->request);
	if (group->requests_answered == group->requests)
		group->request_kind = POINT_CRASH;
	pthread_cond_broadcast(&group->changed);
}

static int check_askable_locked(struct group *group, struct error *error)
{
	if (group->taken_over)
		return error_set(error, -ESTALE, "see the alerts of 'landfall status'",
			"group %s belongs to another appliance", group->name);
	if (group->paused)
		return error_set(error, -EBUSY, "run 'landfall machine resume'",
			"group %s is paused", group->name);
	if (!may_be_due_locked(group))
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"group %s: its journal failed and is not open", group->name);
	return 0;
}

int group_check_askable(struct group *group, struct error *error)
{
	SCOPED_LOCK(&group->lock);
	return check_askable_locked(group, error);
}

int group_ask_point(struct group *group, uint8_t kind, struct error *error, uint64_t *ret_request)
{
	SCOPED_LOCK(&group->lock);
	int r = check_askable_locked(group, error);
	if (r < 0)
		return r;
	if (group->requests == group->requests_answered || kind == POINT_APPLICATION)
		group->request_kind = kind;
	*ret_request = ++group->requests;
	pthread_cond_broadcast(&group->changed);
	return 0;
}

int group_wait_request(struct group *group, uint64_t request, uint8_t kind, unsigned timeout_ms,
	struct error *error, uint64_t *ret_number)
{
	int64_t until = clock_monotonic_ns(group->clock) + timeout_ms * NS_PER_MS;
	SCOPED_LOCK(&group->lock);
	while (group->requests_answered < request) {
		int r = group_check_ending_locked(group, error);
		if (r < 0)
			return r;
		if (clock_monotonic_ns(group->clock) >= until)
			return error_set(error, -ETIMEDOUT, "see 'landfall status' for its source",
				"group %s: its source has not made the point yet", group->name);
		group_wait_until_locked(group, &group->changed, until);
	}
	struct point newest;
	if (!group->history || history_point_newest(group->history, 0, INT64_MAX, &newest) < 0)
		return error_set(error, -ENODATA, "let it replicate first",
			"group %s has no recovery point yet", group->name);
	if (kind == POINT_APPLICATION && request <= group->app_failed_request)
		return error_set(error, -EIO, group->app_error.mend,
			"point %" PRIu64 " is crash-consistent only: %.300s", newest.number,
			group->app_error.message);
	*ret_number = newest.number;
	return 0;
}
