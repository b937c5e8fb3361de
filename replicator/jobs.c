/*
 * The list of jobs: made, found again at a start, shown, canceled. The threads that run them are
 * jobs_run.c's.
 *
 * A job is recorded before it is answered, and each step's end before the next begins; so what is
 * found at a start is true, and the step that was under way is run again. Threads are made a job;
 * when one ends it starts the oldest that waits, and joins the thread that ended before it, so
 * that exactly one ended thread is left to jobs_free. A job that ends because the appliance stops
 * keeps its state `running` on disk: that is what makes it resume.
 *
 * A job's memory stays until it has ended, its thread has let go of it (`busy`), and newer ended
 * ones crowd it out.
 */
#include "replicator/jobs.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/jobs_internal.h"

/* Under the lock. */
static struct job *find_job(const struct jobs *jobs, uint64_t id)
{
	struct job *job = jobs->jobs;
	while (job && job->id != id)
		job = job->next;
	return job;
}

static const struct job_registration *find_kind(const struct jobs *jobs, const char *name)
{
	for (unsigned i = 0; i < jobs->kind_count; i++) {
		if (strcmp(jobs->kinds[i].kind->name, name) == 0)
			return &jobs->kinds[i];
	}
	return NULL;
}

/* Under the lock: newest first. */
static void insert_job(struct jobs *jobs, struct job *job)
{
	struct job **slot = &jobs->jobs;
	while (*slot && (*slot)->id > job->id)
		slot = &(*slot)->next;
	job->next = *slot;
	*slot = job;
	jobs->last_id = MAX(jobs->last_id, job->id);
}

static int load_one(void *context, const char *name)
{
	struct jobs *jobs = context;
	char *end;
	uint64_t id = strtoull(name, &end, 10);
	if (end == name || strcmp(end, ".job") != 0)
		return 0; /* also what a crash left of a replacement */
	struct job *job;
	struct error error = { 0 };
	int r = job_load(jobs, id, &error, &job);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		log_warning("jobs: %s: it is left out", error.message);
		jobs->last_id = MAX(jobs->last_id, id);
		return 0;
	}
	insert_job(jobs, job);
	return 0;
}

int jobs_new(struct io *io, struct clock_source *clock, const char *directory, unsigned keep,
	struct jobs **ret_jobs)
{
	struct jobs *jobs = calloc(1, sizeof(*jobs));
	if (!jobs)
		return -ENOMEM;
	jobs->io = io;
	jobs->clock = clock;
	jobs->keep = MAX(keep, 1u);
	jobs->directory = strdup(directory);
	pthread_mutex_init(&jobs->lock, NULL);
	pthread_cond_init(&jobs->changed, NULL);
	int r = jobs->directory ? io_make_dir(io, directory) : -ENOMEM;
	if (r == 0 || r == -EEXIST)
		r = io_list(io, directory, load_one, jobs);
	if (r < 0) {
		jobs_free(jobs);
		return r;
	}
	*ret_jobs = jobs;
	return 0;
}

void jobs_begin_stop(struct jobs *jobs)
{
	SCOPED_LOCK(&jobs->lock);
	jobs->stopping = true;
	for (struct job *job = jobs->jobs; job; job = job->next)
		atomic_store(&job->stop, true);
}

bool jobs_are_stopping(struct jobs *jobs)
{
	SCOPED_LOCK(&jobs->lock);
	return jobs->stopping;
}

void jobs_stop(struct jobs *jobs)
{
	jobs_begin_stop(jobs);
	{
		SCOPED_LOCK(&jobs->lock);
		while (jobs->threads > 0)
			pthread_cond_wait(&jobs->changed, &jobs->lock);
	}
	if (jobs->has_ended)
		pthread_join(jobs->ended, NULL);
	jobs->has_ended = false;
}

void jobs_free(struct jobs *jobs)
{
	if (!jobs)
		return;
	jobs_stop(jobs);
	jobs_end_watches(jobs);
	while (jobs->jobs) {
		struct job *job = jobs->jobs;
		jobs->jobs = job->next;
		job_free(job);
	}
	pthread_cond_destroy(&jobs->changed);
	pthread_mutex_destroy(&jobs->lock);
	free(jobs->kinds);
	free(jobs->directory);
	free(jobs);
}

int jobs_register(struct jobs *jobs, const struct job_kind *kind, void *context)
{
	if (find_kind(jobs, kind->name))
		return -EEXIST;
	struct job_registration *kinds =
		reallocarray(jobs->kinds, jobs->kind_count + 1, sizeof(*kinds));
	if (!kinds)
		return -ENOMEM;
	jobs->kinds = kinds;
	kinds[jobs->kind_count++] = (struct job_registration){ .kind = kind, .context = context };
	return 0;
}

/* Sets up the steps of a kind; those of an earlier run that are done stay done, by name. */
static int set_kind(struct job *job, const struct job_registration *registration)
{
	const struct job_kind *kind = registration->kind;
	struct job_step_record *steps = calloc(kind->step_count + 1, sizeof(*steps));
	if (!steps)
		return -ENOMEM;
	for (unsigned i = 0; i < kind->step_count; i++) {
		steps[i].name = strdup(kind->steps[i].name);
		if (!steps[i].name) {
			while (i-- > 0)
				free(steps[i].name);
			free(steps);
			return -ENOMEM;
		}
		for (unsigned k = 0; k < job->step_count; k++) {
			const struct job_step_record *old = &job->steps[k];
			if (old->state == JOB_DONE && strcmp(old->name, steps[i].name) == 0) {
				steps[i].state = JOB_DONE;
				steps[i].started_ns = old->started_ns;
				steps[i].finished_ns = old->finished_ns;
			}
		}
	}
	for (unsigned i = 0; i < job->step_count; i++)
		free(job->steps[i].name);
	free(job->steps);
	job->steps = steps;
	job->step_count = kind->step_count;
	job->kind = kind;
	job->kind_context = registration->context;
	return 0;
}

static void end_unfinished(struct job *job, const char *why)
{
	job->state = job->cancel ? JOB_CANCELED : JOB_FAILED;
	job->finished_ns = clock_realtime_ns(job->jobs->clock);
	for (unsigned i = 0; i < job->step_count; i++) {
		if (job->steps[i].state == JOB_RUNNING)
			job->steps[i].state = job->state;
	}
	if (job->cancel)
		return;
	error_set(&job->error, -EINTR, "start it again", "the appliance stopped before it ended%s",
		why);
	job->has_error = true;
}

/* Before any thread: decides about one job that a start found unfinished. */
static int revive(struct jobs *jobs, struct job *job)
{
	const struct job_registration *registration = find_kind(jobs, job->kind_name);
	bool begun = job->state == JOB_RUNNING;
	bool undoes = registration && job->cancel && registration->kind->undo;
	if (undoes || (registration && !job->cancel && (registration->kind->resumable || !begun))) {
		int r = set_kind(job, registration);
		if (r < 0)
			return r;
		job->state = JOB_QUEUED;
		atomic_store(&job->stop, job->cancel); /* no step is begun, only taken back */
		log_info("job %" PRIu64 " (%s %s) goes on", job->id, job->kind_name, job->subject);
		return 0;
	}
	end_unfinished(job, registration ? "" : ", and its kind is not known here");
	return job_save(job);
}

int jobs_resume(struct jobs *jobs)
{
	for (struct job *job = jobs->jobs; job; job = job->next) {
		if (job_has_ended(job))
			continue;
		int r = revive(jobs, job);
		if (r < 0)
			return r;
	}
	jobs_remove_surplus(jobs, jobs_take_surplus(jobs));
	jobs_run_waiting(jobs);
	return 0;
}

/* Under the lock. */
static int admit(struct jobs *jobs, const char *subject, struct error *error)
{
	if (jobs->stopping)
		return error_set(
			error, -ESHUTDOWN, "try again in a moment", "the appliance is stopping");
	for (const struct job *job = jobs->jobs; job; job = job->next) {
		if (!job_has_ended(job) && *subject && strcmp(job->subject, subject) == 0)
			return error_set(error, -EBUSY,
				"wait for it (landfall job watch) or cancel it",
				"job %" PRIu64 " (%s) is at work on %s", job->id, job->kind_name,
				subject);
	}
	return 0;
}

static int make_job(struct jobs *jobs, const struct job_registration *registration,
	const char *subject, struct job **ret_job)
{
	struct job *job = job_allocate(jobs);
	if (!job)
		return -ENOMEM;
	job->kind_name = strdup(registration->kind->name);
	job->subject = strdup(subject);
	job->created_ns = clock_realtime_ns(jobs->clock);
	job->busy = true; /* until it is recorded nobody runs it */
	if (!job->kind_name || !job->subject || set_kind(job, registration) < 0) {
		job_free(job);
		return -ENOMEM;
	}
	*ret_job = job;
	return 0;
}

static void forget(struct jobs *jobs, struct job *job)
{
	SCOPED_LOCK(&jobs->lock);
	for (struct job **slot = &jobs->jobs; *slot; slot = &(*slot)->next) {
		if (*slot == job) {
			*slot = job->next;
			break;
		}
	}
}

int jobs_start(struct jobs *jobs, const char *kind, const char *subject, cJSON *parameters,
	struct error *error, uint64_t *ret_id)
{
	const struct job_registration *registration = find_kind(jobs, kind);
	if (!registration)
		return error_set(error, -ENOENT, NULL, "there is no kind of job \"%s\"", kind);
	struct job *job;
	int r = make_job(jobs, registration, subject ? subject : "", &job);
	if (r < 0)
		return error_set(error, r, NULL, "no memory for a job");
	{
		SCOPED_LOCK(&jobs->lock);
		r = admit(jobs, job->subject, error);
		if (r == 0) {
			job->id = jobs->last_id + 1;
			job->parameters = parameters;
			insert_job(jobs, job);
		}
	}
	if (r < 0) {
		job_free(job);
		return r;
	}
	r = job_save(job);
	if (r < 0) {
		forget(jobs, job);
		job->parameters = NULL; /* stays the caller's */
		job_free(job);
		return error_set(error, r, "see that the state directory's disk has room and works",
			"the job cannot be recorded: %s", strerrordesc_np(-r));
	}
	*ret_id = job->id;
	{
		SCOPED_LOCK(&jobs->lock);
		job->busy = false;
	}
	jobs_run_waiting(jobs);
	return 0;
}

/* Under the lock. A job that waits is canceled here and now, as busy so that it stays. */
static int mark_canceled(struct job *job, uint64_t id, struct error *error)
{
	if (!job)
		return error_set(
			error, -ENOENT, "see landfall job list", "there is no job %" PRIu64, id);
	if (job_has_ended(job))
		return error_set(error, -EBUSY, NULL, "job %" PRIu64 " is %s already", id,
			job_state_name(job->state));
	if (job->state == JOB_QUEUED && job->busy)
		return error_set(
			error, -EBUSY, "try again", "job %" PRIu64 " is just being made", id);
	job->cancel = true;
	if (job->state == JOB_QUEUED) {
		job->state = JOB_CANCELED;
		job->finished_ns = clock_realtime_ns(job->jobs->clock);
	}
	return 0;
}

int jobs_cancel(struct jobs *jobs, uint64_t id, struct error *error)
{
	struct job *job;
	{
		SCOPED_LOCK(&jobs->lock);
		job = find_job(jobs, id);
		int r = mark_canceled(job, id, error);
		if (r < 0)
			return r;
		job->cancelers++;
	}
	int r = job_save(job);
	atomic_store(&job->stop, true);
	job_tell(job);
	SCOPED_LOCK(&jobs->lock);
	job->cancelers--;
	if (r < 0)
		return error_set(error, r, NULL, "the cancellation cannot be recorded: %s",
			strerrordesc_np(-r));
	return 0;
}

int jobs_show(struct jobs *jobs, uint64_t id, cJSON **ret_json)
{
	SCOPED_LOCK(&jobs->lock);
	const struct job *job = find_job(jobs, id);
	if (!job)
		return -ENOENT;
	cJSON *json = job_to_json(job, false);
	if (!json)
		return -ENOMEM;
	*ret_json = json;
	return 0;
}

int jobs_newest(struct jobs *jobs, const char *kind, const char *subject, enum job_state *ret_state,
	struct error *ret_error)
{
	SCOPED_LOCK(&jobs->lock);
	for (const struct job *job = jobs->jobs; job; job = job->next) {
		if (strcmp(job->kind_name, kind) != 0 || strcmp(job->subject, subject) != 0)
			continue;
		*ret_state = job->state;
		if (job->state == JOB_FAILED)
			*ret_error = job->error;
		return 0;
	}
	return -ENOENT;
}

int jobs_list(struct jobs *jobs, cJSON **ret_json)
{
	cJSON *list = cJSON_CreateArray();
	if (!list)
		return -ENOMEM;
	SCOPED_LOCK(&jobs->lock);
	for (const struct job *job = jobs->jobs; job; job = job->next) {
		cJSON *json = job_to_json(job, false);
		if (!json || !cJSON_AddItemToArray(list, json)) {
			cJSON_Delete(json);
			cJSON_Delete(list);
			return -ENOMEM;
		}
	}
	*ret_json = list;
	return 0;
}
