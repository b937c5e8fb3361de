/*
 * Jobs: long operations with steps, progress and a record that outlives the daemon.
 *
 * A job is a list of named steps run in order by one thread. Each step is idempotent; its
 * completion is recorded (fsync) before the next begins, so a job found unfinished at start is
 * resumed at the step it was in, if its kind was registered, else it is marked failed. Whoever
 * watches gets every change.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"

struct cJSON;
struct jobs;
struct job;

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELED };

struct job_kind {
	const char *name; /* "vault.takeover" */
	bool resumable;
	const struct job_step {
		const char *name; /* "read manifests": shown to people */
		/* 0 or -errno with error filled. `context` is what job kinds were registered with.
		 */
		int (*run)(struct job *job, void *context, struct error *error);
	} * steps;
	unsigned step_count;
	/* NULL, or takes back what the steps have made: called once they are over because one
	 * failed or the job was canceled, before that is its state; after a kill, too. Not when
	 * they were only interrupted. What it returns is told in the log. */
	int (*undo)(struct job *job, void *context, struct error *error);
};

/* `directory` holds a file a job; the newest `keep` finished ones stay. */
int jobs_new(struct io *io, struct clock_source *clock, const char *directory, unsigned keep,
	struct jobs **ret_jobs);
/* Asks running jobs to stop and starts no more; from here on what they end with is an interruption,
 * not a failure. jobs_stop is to follow. */
void jobs_begin_stop(struct jobs *jobs);
/* True from then on: whoever waits on behalf of a caller gives up. Any thread. */
bool jobs_are_stopping(struct jobs *jobs);
/* Asks running jobs to stop, waits; they resume at the next start. Afterwards no job runs and none
 * can be started (-ESHUTDOWN), so what their steps used may go. */
void jobs_stop(struct jobs *jobs);
/* Stops them if that is not done. */
void jobs_free(struct jobs *jobs);
int jobs_register(struct jobs *jobs, const struct job_kind *kind, void *context);
/* After all kinds are registered: resumes what was unfinished. */
int jobs_resume(struct jobs *jobs);

/* Starts a job; `parameters` (NULL is fine; taken over if it succeeds) are stored with it. At
 * most 8 run at once, the others wait. Of two jobs with one subject (unless it is "") the second
 * is refused: -EBUSY. -ENOENT: no such kind. Recorded when it returns. */
int jobs_start(struct jobs *jobs, const char *kind, const char *subject, struct cJSON *parameters,
	struct error *error, uint64_t *ret_id);
/* Asks the job to stop; recorded when it returns. -ENOENT; -EBUSY: it has ended already. */
int jobs_cancel(struct jobs *jobs, uint64_t id, struct error *error);
/* JSON of one job or of all (newest first): id, kind, subject, state, created, finished, steps
 * [{name, state, started, finished}], progress {done, total, unit}, obstacle {message,
 * mend, code}, error {message, cause, mend}, result. The caller frees it. */
int jobs_show(struct jobs *jobs, uint64_t id, struct cJSON **ret_json);
int jobs_list(struct jobs *jobs, struct cJSON **ret_json);
/* How the newest job of that kind and subject stands; `ret_error` is set if it has failed. -ENOENT:
 * there is none (any more). Memory only. */
int jobs_newest(struct jobs *jobs, const char *kind, const char *subject, enum job_state *ret_state,
	struct error *ret_error);

/* Calls `changed` (from the job's thread, or that of who cancels it; no lock held) at every change
 * until it is removed; at the end of `jobs` once more with NULL, which removes it. The call may
 * remove its own watch; otherwise jobs_unwatch waits until a call under way has returned. Within
 * the call nothing else of `jobs` that changes a job may be called. -ENOENT: no such job. */
int jobs_watch(struct jobs *jobs, uint64_t id,
	void (*changed)(void *context, const struct cJSON *job), void *context,
	uint64_t *ret_watch);
void jobs_unwatch(struct jobs *jobs, uint64_t watch);

/* For steps: */
uint64_t job_id(const struct job *job);
const struct cJSON *job_parameters(const struct job *job);
/* True once the job was canceled or the appliance stops: return -ECANCELED soon; the step is
 * begun anew if the job resumes. Any thread. */
bool job_should_stop(const struct job *job);
/* The same as a flag that may be handed down, for the step's time. */
const atomic_bool *job_stop_flag(const struct job *job);
void job_progress(struct job *job, uint64_t done, uint64_t total, const char *unit);
/* What the step waits for, with its mend; NULL: nothing any more. Told to who watches when it
 * changes, and forgotten at the step's end. */
void job_obstacle(struct job *job, const struct error *obstacle);
/* Kept with the job, e.g. where something was mounted; taken over. Durable when it returns. */
int job_set_result(struct job *job, struct cJSON *result);
