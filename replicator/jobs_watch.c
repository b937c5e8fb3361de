/*
 * Whoever wants to know of a job's changes.
 *
 * A watch is called without any lock held; jobs_unwatch waits until calls under way in other
 * threads have returned, so that the context may be freed afterwards, and may be called from
 * within the call itself. Removed watches are freed by whoever sees the last call end.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "replicator/jobs_internal.h"

/* Under the lock. */
static void unlink_watch(struct jobs *jobs, const struct job_watch *watch)
{
	for (struct job_watch **slot = &jobs->watches; *slot; slot = &(*slot)->next) {
		if (*slot == watch) {
			*slot = watch->next;
			return;
		}
	}
}

int jobs_watch(struct jobs *jobs, uint64_t id, void (*changed)(void *context, const cJSON *job),
	void *context, uint64_t *ret_watch)
{
	SCOPED_LOCK(&jobs->lock);
	const struct job *job = jobs->jobs;
	while (job && job->id != id)
		job = job->next;
	if (!job)
		return -ENOENT;
	struct job_watch *watch = calloc(1, sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	*watch = (struct job_watch){
		.id = ++jobs->last_watch,
		.job = id,
		.changed = changed,
		.context = context,
		.next = jobs->watches,
	};
	jobs->watches = watch;
	*ret_watch = watch->id;
	return 0;
}

void jobs_unwatch(struct jobs *jobs, uint64_t id)
{
	SCOPED_LOCK(&jobs->lock);
	struct job_watch *watch = jobs->watches;
	while (watch && watch->id != id)
		watch = watch->next;
	if (!watch || watch->removed)
		return;
	watch->removed = true;
	if (watch->in_call && pthread_equal(watch->caller, pthread_self())) {
		watch->free_after_call = true;
		return;
	}
	while (watch->in_call)
		pthread_cond_wait(&jobs->changed, &jobs->lock);
	unlink_watch(jobs, watch);
	free(watch);
}

/* The job's next watch with an id above `after`, marked as being called; NULL: none. A watch is
 * called by one thread at a time, so that it sees the changes in their order. */
static struct job_watch *next_watch(struct jobs *jobs, uint64_t job, uint64_t after)
{
	SCOPED_LOCK(&jobs->lock);
	for (;;) {
		struct job_watch *next = NULL;
		for (struct job_watch *w = jobs->watches; w; w = w->next) {
			if (w->job == job && !w->removed && w->id > after &&
				(!next || w->id < next->id))
				next = w;
		}
		if (!next)
			return NULL;
		if (!next->in_call) {
			next->in_call = true;
			next->caller = pthread_self();
			return next;
		}
		pthread_cond_wait(&jobs->changed, &jobs->lock);
	}
}

static void end_call(struct jobs *jobs, struct job_watch *watch)
{
	SCOPED_LOCK(&jobs->lock);
	watch->in_call = false;
	pthread_cond_broadcast(&jobs->changed);
	if (watch->free_after_call) {
		unlink_watch(jobs, watch);
		free(watch);
	}
}

void job_tell(struct job *job)
{
	struct jobs *jobs = job->jobs;
	struct job_watch *watch;
	for (uint64_t after = 0; (watch = next_watch(jobs, job->id, after)) != NULL;) {
		after = watch->id;
		CLEANUP(json_freep) cJSON *json = NULL;
		{
			SCOPED_LOCK(&jobs->lock);
			json = job_to_json(job, false);
		}
		if (json)
			watch->changed(watch->context, json);
		end_call(jobs, watch);
	}
}

void jobs_end_watches(struct jobs *jobs)
{
	while (jobs->watches) {
		struct job_watch *watch = jobs->watches;
		jobs->watches = watch->next;
		watch->changed(watch->context, NULL);
		free(watch);
	}
}
