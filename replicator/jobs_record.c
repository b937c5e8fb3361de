/*
 * A job as JSON, and as a file: the JSON on one line, then a line "xxh3 <16 hex digits>" over it.
 * A file that does not prove itself is not trusted in any part. Files are replaced whole
 * (io_replace_file), so a crash leaves the old state or the new.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/utc.h"
#include "replicator/jobs_internal.h"

static const char *const state_names[] = {
	[JOB_QUEUED] = "queued",
	[JOB_RUNNING] = "running",
	[JOB_DONE] = "done",
	[JOB_FAILED] = "failed",
	[JOB_CANCELED] = "canceled",
};

const char *job_state_name(enum job_state state)
{
	return state_names[state];
}

struct job *job_allocate(struct jobs *jobs)
{
	struct job *job = calloc(1, sizeof(*job));
	if (job) {
		job->jobs = jobs;
		pthread_mutex_init(&job->save_lock, NULL);
		atomic_init(&job->stop, false);
	}
	return job;
}

void job_free(struct job *job)
{
	if (!job)
		return;
	for (unsigned i = 0; i < job->step_count; i++)
		free(job->steps[i].name);
	free(job->steps);
	free(job->kind_name);
	free(job->subject);
	cJSON_Delete(job->parameters);
	cJSON_Delete(job->result);
	pthread_mutex_destroy(&job->save_lock);
	free(job);
}

int job_path(const struct jobs *jobs, uint64_t id, struct buf *path)
{
	return buf_printf(path, "%s/%" PRIu64 ".job", jobs->directory, id);
}

static int add_time(cJSON *json, const char *name, int64_t ns)
{
	char text[UTC_ISO_BYTES];
	if (ns == 0)
		return cJSON_AddNullToObject(json, name) ? 0 : -ENOMEM;
	utc_format_iso(ns, text);
	return json_add_text(json, name, text);
}

static int add_copy(cJSON *json, const char *name, const cJSON *value)
{
	cJSON *copy = value ? cJSON_Duplicate(value, true) : cJSON_CreateNull();
	if (copy && cJSON_AddItemToObject(json, name, copy))
		return 0;
	cJSON_Delete(copy);
	return -ENOMEM;
}

static int add_steps(cJSON *json, const struct job *job)
{
	cJSON *steps;
	int r = json_add_array(json, "steps", &steps);
	for (unsigned i = 0; r == 0 && i < job->step_count; i++) {
		const struct job_step_record *record = &job->steps[i];
		cJSON *step = NULL;
		r = json_add_object(steps, NULL, &step);
		if (r == 0)
			r = json_add_text(step, "name", record->name);
		if (r == 0)
			r = json_add_text(step, "state", job_state_name(record->state));
		if (r == 0)
			r = add_time(step, "started", record->started_ns);
		if (r == 0)
			r = add_time(step, "finished", record->finished_ns);
	}
	return r;
}

static int add_progress(cJSON *json, const struct job *job)
{
	cJSON *progress;
	if (!job->has_progress)
		return cJSON_AddNullToObject(json, "progress") ? 0 : -ENOMEM;
	int r = json_add_object(json, "progress", &progress);
	if (r == 0)
		r = json_add_u64(progress, "done", job->progress_done);
	if (r == 0)
		r = json_add_u64(progress, "total", job->progress_total);
	if (r == 0)
		r = json_add_text(progress, "unit", job->progress_unit);
	return r;
}

static int add_obstacle(cJSON *json, const struct job *job)
{
	cJSON *obstacle;
	if (job->obstacle.code == 0)
		return cJSON_AddNullToObject(json, "obstacle") ? 0 : -ENOMEM;
	int r = json_add_object(json, "obstacle", &obstacle);
	if (r == 0)
		r = json_add_text(obstacle, "message", job->obstacle.message);
	if (r == 0)
		r = json_add_text(obstacle, "mend", job->obstacle.mend);
	if (r == 0)
		r = json_add_i64(obstacle, "code", job->obstacle.code);
	return r;
}

static int add_error(cJSON *json, const struct job *job)
{
	cJSON *error;
	if (!job->has_error)
		return cJSON_AddNullToObject(json, "error") ? 0 : -ENOMEM;
	const char *cause = strerrordesc_np(-job->error.code);
	int r = json_add_object(json, "error", &error);
	if (r == 0)
		r = json_add_text(error, "message", job->error.message);
	if (r == 0)
		r = json_add_text(error, "cause", cause ? cause : "");
	if (r == 0)
		r = json_add_text(error, "mend", job->error.mend);
	if (r == 0)
		r = json_add_i64(error, "code", job->error.code);
	return r;
}

static int fill_json(cJSON *json, const struct job *job, bool whole)
{
	int r = json_add_u64(json, "id", job->id);
	if (r == 0)
		r = json_add_text(json, "kind", job->kind_name);
	if (r == 0)
		r = json_add_text(json, "subject", job->subject);
	if (r == 0)
		r = json_add_text(json, "state", job_state_name(job->state));
	if (r == 0)
		r = add_time(json, "created", job->created_ns);
	if (r == 0)
		r = add_time(json, "finished", job->finished_ns);
	if (r == 0)
		r = add_steps(json, job);
	if (r == 0)
		r = add_progress(json, job);
	if (r == 0)
		r = add_obstacle(json, job);
	if (r == 0)
		r = add_error(json, job);
	if (r == 0)
		r = add_copy(json, "result", job->result);
	if (r == 0 && whole)
		r = add_copy(json, "parameters", job->parameters);
	if (r == 0 && whole)
		r = json_add_bool(json, "cancel", job->cancel);
	return r;
}

cJSON *job_to_json(const struct job *job, bool whole)
{
	CLEANUP(json_freep) cJSON *json = cJSON_CreateObject();
	if (!json || fill_json(json, job, whole) < 0)
		return NULL;
	return TAKE(json);
}

static int format_record(const struct job *job, struct buf *record)
{
	CLEANUP(json_freep) cJSON *json = NULL;
	{
		SCOPED_LOCK(&job->jobs->lock);
		json = job_to_json(job, true);
	}
	int r = json ? json_print(json, false, record) : -ENOMEM;
	if (r == 0)
		r = buf_printf(
			record, "\nxxh3 %016" PRIx64 "\n", checksum64(record->data, record->len));
	return r;
}

int job_save(struct job *job)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	CLEANUP(buf_free) struct buf record = { 0 };
	int r = job_path(job->jobs, job->id, &path);
	SCOPED_LOCK(&job->save_lock);
	if (r == 0)
		r = format_record(job, &record);
	if (r == 0)
		r = io_replace_file(job->jobs->io, path.data, record.data, record.len);
	return r;
}

/* Cuts the last line off; -EBADMSG unless it proves what stands before. */
static int check_record(char *text, size_t n, size_t *ret_n)
{
	static const size_t tail = sizeof("\nxxh3 0123456789abcdef\n") - 1;
	char expected[32];
	if (n < tail)
		return -EBADMSG;
	snprintf(expected, sizeof(expected), "\nxxh3 %016" PRIx64 "\n", checksum64(text, n - tail));
	if (memcmp(text + n - tail, expected, tail) != 0)
		return -EBADMSG;
	*ret_n = n - tail;
	return 0;
}

static int read_time(const struct json *at, const char *name, int64_t *ret_ns, struct error *error)
{
	const char *text;
	int r = json_find_text(at, name, &text, error);
	if (r <= 0)
		return r;
	r = utc_parse(text, ret_ns);
	return r < 0 ? json_error(at, -EBADMSG, error, "%s is no time", name) : 0;
}

static int read_state(const struct json *at, enum job_state *ret_state, struct error *error)
{
	const char *text;
	int r = json_get_text(at, "state", &text, error);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < ARRAY_SIZE(state_names); i++) {
		if (strcmp(text, state_names[i]) == 0) {
			*ret_state = (enum job_state)i;
			return 0;
		}
	}
	return json_error(at, -EBADMSG, error, "there is no state \"%s\"", text);
}

static int read_name(const struct json *at, const char *name, char **ret_text, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	*ret_text = strdup(text);
	return *ret_text ? 0 : error_set(error, -ENOMEM, NULL, "no memory");
}

static int read_steps(const struct json *at, struct job *job, struct error *error)
{
	struct json steps;
	int r = json_get_array(at, "steps", &steps, error);
	if (r < 0)
		return r;
	int count = cJSON_GetArraySize(steps.node);
	job->steps = calloc((size_t)count + 1, sizeof(*job->steps));
	if (!job->steps)
		return error_set(error, -ENOMEM, NULL, "no memory");
	for (struct json item = { 0 }; json_each(&steps, &item);) {
		struct job_step_record *step = &job->steps[job->step_count];
		r = read_name(&item, "name", &step->name, error);
		if (r < 0)
			return r;
		job->step_count++;
		r = read_state(&item, &step->state, error);
		if (r == 0)
			r = read_time(&item, "started", &step->started_ns, error);
		if (r == 0)
			r = read_time(&item, "finished", &step->finished_ns, error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_progress(const struct json *at, struct job *job, struct error *error)
{
	struct json progress;
	int r = json_find_object(at, "progress", &progress, error);
	if (r <= 0)
		return r;
	const char *unit = "";
	r = json_get_u64(&progress, "done", &job->progress_done, error);
	if (r == 0)
		r = json_get_u64(&progress, "total", &job->progress_total, error);
	if (r == 0)
		r = json_get_text(&progress, "unit", &unit, error);
	if (r < 0)
		return r;
	snprintf(job->progress_unit, sizeof(job->progress_unit), "%s", unit);
	job->has_progress = true;
	return 0;
}

static int read_error(const struct json *at, struct job *job, struct error *error)
{
	struct json object;
	int r = json_find_object(at, "error", &object, error);
	if (r <= 0)
		return r;
	const char *message = "", *mend = "";
	int64_t code = -EIO;
	r = json_get_text(&object, "message", &message, error);
	if (r == 0)
		r = json_get_text(&object, "mend", &mend, error);
	if (r == 0)
		r = json_get_i64(&object, "code", &code, error);
	if (r < 0)
		return r;
	error_set(&job->error, (int)code, mend, "%s", message);
	job->has_error = true;
	return 0;
}

static int read_job(const struct json *at, struct job *job, struct error *error)
{
	int r = json_get_u64(at, "id", &job->id, error);
	if (r == 0)
		r = read_name(at, "kind", &job->kind_name, error);
	if (r == 0)
		r = read_name(at, "subject", &job->subject, error);
	if (r == 0)
		r = read_state(at, &job->state, error);
	if (r == 0)
		r = read_time(at, "created", &job->created_ns, error);
	if (r == 0)
		r = read_time(at, "finished", &job->finished_ns, error);
	if (r == 0)
		r = read_steps(at, job, error);
	if (r == 0)
		r = read_progress(at, job, error);
	if (r == 0)
		r = read_error(at, job, error);
	if (r == 0)
		r = json_get_bool(at, "cancel", &job->cancel, error);
	return r;
}

/* Takes a member out of the document; an absent or null one is `*ret` NULL. */
static void detach(cJSON *json, const char *name, cJSON **ret)
{
	cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
	if (item && !cJSON_IsNull(item))
		*ret = cJSON_DetachItemViaPointer(json, item);
}

int job_load(struct jobs *jobs, uint64_t id, struct error *error, struct job **ret_job)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	CLEANUP_FREE char *text = NULL;
	CLEANUP(json_freep) cJSON *json = NULL;
	size_t n;
	if (job_path(jobs, id, &path) < 0)
		return error_set(error, -ENOMEM, NULL, "no memory");
	int r = io_load_file(jobs->io, path.data, JOB_RECORD_MAX, &text, &n);
	if (r < 0)
		return error_set(error, r, NULL, "%s: %s", path.data, strerrordesc_np(-r));
	r = check_record(text, n, &n);
	if (r < 0)
		return error_set(error, r, "the record is lost; remove the file", "%s is damaged",
			path.data);
	r = json_parse(text, n, NULL, &json, error);
	if (r < 0)
		return r;
	struct json root;
	json_root(json, path.data, &root);
	struct job *job = job_allocate(jobs);
	if (!job)
		return error_set(error, -ENOMEM, NULL, "no memory");
	r = read_job(&root, job, error);
	if (r == 0 && job->id != id)
		r = json_error(&root, -EBADMSG, error, "this is job %" PRIu64, job->id);
	if (r < 0) {
		job_free(job);
		return r;
	}
	detach(json, "result", &job->result);
	detach(json, "parameters", &job->parameters);
	*ret_job = job;
	return 0;
}
