/*
 * Jobs at work: the threads that run their steps, and what a step may call.
 *
 * Each step's beginning and end is on record before anything else happens. A thread that ends
 * starts the oldest job that waits, and joins the thread that ended before it (see jobs.c).
 *
 * Locks as in jobs_internal.h; a step is called with none.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/jobs_internal.h"

#define TELL_INTERVAL_NS (200 * NS_PER_MS) /* of progress */

/* ── ended jobs ──────────────────────────────────────────────────────────────────────────── */

struct job *jobs_take_surplus(struct jobs *jobs)
{
	unsigned ended = 0;
	for (const struct job *job = jobs->jobs; job; job = job->next)
		ended += job_has_ended(job);
	struct job *surplus = NULL;
	while (ended > jobs->keep) {
		struct job **oldest = NULL;
		for (struct job **slot = &jobs->jobs; *slot; slot = &(*slot)->next) {
			if (job_has_ended(*slot) && !(*slot)->busy && (*slot)->cancelers == 0 &&
				(!oldest || (*slot)->finished_ns < (*oldest)->finished_ns))
				oldest = slot;
		}
		if (!oldest)
			break;
		struct job *job = *oldest;
		*oldest = job->next;
		job->next = surplus;
		surplus = job;
		ended--;
	}
	return surplus;
}

void jobs_remove_surplus(struct jobs *jobs, struct job *surplus)
{
	while (surplus) {
		struct job *job = surplus;
		surplus = job->next;
		CLEANUP(buf_free) struct buf path = { 0 };
		if (job_path(jobs, job->id, &path) == 0)
			(void)io_unlink(jobs->io, path.data); /* else it comes back at a start */
		job_free(job);
	}
}

/* ── running ─────────────────────────────────────────────────────────────────────────────── */

/* A record that cannot be written ends the job: the next step must not begin before. */
static int record(struct job *job)
{
	int r = job_save(job);
	if (r == 0) {
		job_tell(job);
		return 0;
	}
	SCOPED_LOCK(&job->jobs->lock);
	if (!job->has_error)
		error_set(&job->error, r, "see that the state directory's disk has room and works",
			"job %" PRIu64 " cannot be recorded: %s", job->id, strerrordesc_np(-r));
	job->has_error = true;
	return r;
}

static void set_step(struct job *job, unsigned i, enum job_state state)
{
	SCOPED_LOCK(&job->jobs->lock);
	struct job_step_record *step = &job->steps[i];
	step->state = state;
	if (state == JOB_RUNNING) {
		step->started_ns = clock_realtime_ns(job->jobs->clock);
		step->finished_ns = 0;
		job->has_progress = false;
	} else {
		step->finished_ns = clock_realtime_ns(job->jobs->clock);
	}
	job->obstacle = (struct error){ 0 };
}

static int run_step(struct job *job, unsigned i)
{
	struct error error = { 0 };
	set_step(job, i, JOB_RUNNING);
	int r = record(job);
	if (r < 0)
		return r;
	r = job->kind->steps[i].run(job, job->kind_context, &error);
	if (r < 0) {
		SCOPED_LOCK(&job->jobs->lock);
		if (error.code == 0)
			error_set(
				&error, r, NULL, "%s: %s", job->steps[i].name, strerrordesc_np(-r));
		job->error = error;
		job->has_error = true;
		return r;
	}
	set_step(job, i, JOB_DONE);
	return record(job);
}

/* Only the appliance's end came between: the job goes on at the next start. Under the lock. */
static bool is_interruption(const struct job *job, int r)
{
	return r < 0 && job->jobs->stopping && !job->cancel && job->kind->resumable;
}

/* Decides what the end was: done, failed, canceled, or only interrupted by the appliance's end. */
static void settle(struct job *job, int r)
{
	SCOPED_LOCK(&job->jobs->lock);
	bool interrupted = is_interruption(job, r);
	for (unsigned i = 0; r < 0 && !interrupted && i < job->step_count; i++) {
		if (job->steps[i].state == JOB_RUNNING) {
			job->steps[i].state = job->cancel ? JOB_CANCELED : JOB_FAILED;
			job->steps[i].finished_ns = clock_realtime_ns(job->jobs->clock);
		}
	}
	if (interrupted) {
		job->has_error = false;
		return;
	}
	job->state = r == 0 ? JOB_DONE : job->cancel ? JOB_CANCELED : JOB_FAILED;
	if (job->state != JOB_FAILED)
		job->has_error = false;
	job->finished_ns = clock_realtime_ns(job->jobs->clock);
}

static int run_steps(struct job *job)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < job->step_count; i++) {
		if (job->steps[i].state == JOB_DONE)
			continue;
		r = job_should_stop(job) ? -ECANCELED : run_step(job, i);
	}
	return r;
}

static void take_back(struct job *job, int r)
{
	struct error error = { 0 };
	{
		SCOPED_LOCK(&job->jobs->lock);
		if (r == 0 || !job->kind->undo || is_interruption(job, r))
			return;
	}
	r = job->kind->undo(job, job->kind_context, &error);
	if (r < 0)
		log_error("job %" PRIu64 " (%s %s): what it made is not all taken back: %s",
			job->id, job->kind_name, job->subject,
			error.code ? error.message : strerrordesc_np(-r));
}

static void log_end(const struct job *job)
{
	if (job->state == JOB_FAILED)
		log_error("job %" PRIu64 " (%s %s) failed: %s", job->id, job->kind_name,
			job->subject, job->error.message);
	else
		log_info("job %" PRIu64 " (%s %s): %s", job->id, job->kind_name, job->subject,
			job_has_ended(job) ? job_state_name(job->state)
					   : "goes on at the next start");
}

/* The last thing a job's thread does; `job` may be freed by it. */
static void end_thread(struct jobs *jobs, struct job *job)
{
	struct job *surplus;
	{
		SCOPED_LOCK(&jobs->lock);
		job->busy = false;
		jobs->running--;
		surplus = jobs_take_surplus(jobs);
	}
	jobs_remove_surplus(jobs, surplus);
	jobs_run_waiting(jobs);

	pthread_t previous = pthread_self();
	bool join;
	{
		SCOPED_LOCK(&jobs->lock);
		join = jobs->has_ended;
		if (join)
			previous = jobs->ended;
		jobs->ended = pthread_self();
		jobs->has_ended = true;
		jobs->threads--;
		pthread_cond_broadcast(&jobs->changed);
	}
	if (join)
		pthread_join(previous, NULL);
}

static void *job_run(void *context)
{
	struct job *job = context;
	struct jobs *jobs = job->jobs;
	int r = run_steps(job);
	take_back(job, r);
	settle(job, r);
	log_end(job);
	if (record(job) < 0)
		log_error("job %" PRIu64 ": %s", job->id, job->error.message);
	end_thread(jobs, job);
	return NULL;
}

/* Under the lock: the oldest that waits, now marked as running. */
static struct job *next_waiting(struct jobs *jobs)
{
	struct job *oldest = NULL;
	if (jobs->stopping || jobs->running >= JOBS_RUNNING_MAX)
		return NULL;
	for (struct job *job = jobs->jobs; job; job = job->next) {
		if (job->state == JOB_QUEUED && !job->busy)
			oldest = job;
	}
	if (oldest) {
		oldest->state = JOB_RUNNING;
		oldest->busy = true;
		jobs->running++;
		jobs->threads++;
	}
	return oldest;
}

void jobs_run_waiting(struct jobs *jobs)
{
	for (;;) {
		struct job *job;
		{
			SCOPED_LOCK(&jobs->lock);
			job = next_waiting(jobs);
		}
		if (!job)
			return;
		pthread_t thread;
		int r = pthread_create(&thread, NULL, job_run, job);
		if (r == 0)
			continue;
		log_error("job %" PRIu64 ": no thread for it: %s", job->id, strerrordesc_np(r));
		SCOPED_LOCK(&jobs->lock);
		job->state = JOB_QUEUED; /* tried again when another ends */
		job->busy = false;
		jobs->running--;
		jobs->threads--;
		pthread_cond_broadcast(&jobs->changed);
		return;
	}
}

/* ── for steps ───────────────────────────────────────────────────────────────────────────── */

uint64_t job_id(const struct job *job)
{
	return job->id;
}

const cJSON *job_parameters(const struct job *job)
{
	return job->parameters;
}

bool job_should_stop(const struct job *job)
{
	return atomic_load(&job->stop);
}

const atomic_bool *job_stop_flag(const struct job *job)
{
	return &job->stop;
}

void job_progress(struct job *job, uint64_t done, uint64_t total, const char *unit)
{
	struct jobs *jobs = job->jobs;
	int64_t monotonic = clock_monotonic_ns(jobs->clock);
	{
		SCOPED_LOCK(&jobs->lock);
		bool first = !job->has_progress;
		job->has_progress = true;
		job->progress_done = done;
		job->progress_total = total;
		snprintf(job->progress_unit, sizeof(job->progress_unit), "%s", unit);
		if (!first && done < total && monotonic - job->progress_told_ns < TELL_INTERVAL_NS)
			return;
		job->progress_told_ns = monotonic;
	}
	job_tell(job);
}

void job_obstacle(struct job *job, const struct error *obstacle)
{
	{
		SCOPED_LOCK(&job->jobs->lock);
		struct error next = obstacle ? *obstacle : (struct error){ 0 };
		if (next.code == job->obstacle.code &&
			(next.code == 0 || strcmp(next.message, job->obstacle.message) == 0))
			return;
		job->obstacle = next;
	}
	job_tell(job);
}

int job_set_result(struct job *job, cJSON *result)
{
	cJSON *old;
	{
		SCOPED_LOCK(&job->jobs->lock);
		old = job->result;
		job->result = result;
	}
	cJSON_Delete(old);
	return job_save(job);
}
