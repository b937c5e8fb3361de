/*
 * The parts of jobs among themselves:
 *
 *	jobs.c         the list: start, resume, cancel, end
 *	jobs_run.c     the threads that run steps, and what steps may call
 *	jobs_record.c  a job as JSON and as a file
 *	jobs_watch.c   whoever wants to know of changes
 *
 * Locks, in their order: a job's save_lock (one writer of its file at a time; held across that
 * I/O and nothing else), then jobs.lock (everything else; never held across I/O or callbacks).
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "replicator/jobs.h"

#define JOBS_RUNNING_MAX 8u
#define JOB_RECORD_MAX (16u << 20)

struct job_step_record {
	char *name;
	enum job_state state;
	int64_t started_ns, finished_ns;
};

struct job {
	struct jobs *jobs;
	uint64_t id;
	char *kind_name, *subject;   /* fixed */
	struct cJSON *parameters;    /* fixed */
	const struct job_kind *kind; /* NULL: not registered */
	void *kind_context;
	pthread_mutex_t save_lock;

	enum job_state state;
	int64_t created_ns, finished_ns;
	struct job_step_record *steps;
	unsigned step_count;
	bool has_progress;
	uint64_t progress_done, progress_total;
	char progress_unit[16];
	int64_t progress_told_ns; /* monotonic */
	struct error obstacle;    /* code 0: none; not read back from the record */
	bool has_error;
	struct error error;
	struct cJSON *result;
	bool cancel;        /* asked for, on record */
	bool busy;          /* being made, or its thread has not let go of it yet */
	unsigned cancelers; /* threads in jobs_cancel on it */
	atomic_bool stop;

	struct job *next; /* falling ids */
};

struct job_registration {
	const struct job_kind *kind;
	void *context;
};

struct job_watch {
	uint64_t id, job;
	void (*changed)(void *context, const struct cJSON *job);
	void *context;
	bool in_call, removed, free_after_call;
	pthread_t caller; /* while in_call */
	struct job_watch *next;
};

struct jobs {
	struct io *io;
	struct clock_source *clock;
	char *directory;
	unsigned keep;
	struct job_registration *kinds; /* fixed once resumed */
	unsigned kind_count;

	pthread_mutex_t lock; /* guards what follows, and the jobs' changing parts */
	pthread_cond_t changed;
	struct job *jobs;
	uint64_t last_id, last_watch;
	unsigned running; /* jobs */
	unsigned threads; /* not yet over, those of ended jobs included */
	bool stopping, has_ended;
	pthread_t ended; /* a thread that is over but for being joined */
	struct job_watch *watches;
};

static inline bool job_has_ended(const struct job *job)
{
	return job->state != JOB_QUEUED && job->state != JOB_RUNNING;
}

/* Gives threads to jobs that wait, as far as there may be more. No lock held. */
void jobs_run_waiting(struct jobs *jobs);
/* Under the lock: the oldest ended jobs beyond `keep` leave the list; the next removes their files
 * and frees them, no lock held. */
struct job *jobs_take_surplus(struct jobs *jobs);
void jobs_remove_surplus(struct jobs *jobs, struct job *surplus);

/* A job's JSON, for show and (`whole`: with parameters and cancel) for the record. Under
 * jobs.lock. NULL: no memory. */
struct cJSON *job_to_json(const struct job *job, bool whole);
/* Writes the job's file; durable when it returns 0. No lock held. */
int job_save(struct job *job);
/* Reads a job's file. -EBADMSG: damaged. The job belongs to the caller. */
int job_load(struct jobs *jobs, uint64_t id, struct error *error, struct job **ret_job);
int job_path(const struct jobs *jobs, uint64_t id, struct buf *path);
const char *job_state_name(enum job_state state);
struct job *job_allocate(struct jobs *jobs);
void job_free(struct job *job);

/* Calls the job's watches. No lock held. */
void job_tell(struct job *job);
/* At the end, when no thread of ours is left: tells every watch NULL and frees it. */
void jobs_end_watches(struct jobs *jobs);
