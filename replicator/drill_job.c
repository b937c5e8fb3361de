/*
 * The jobs drill.start and drill.cleanup.
 *
 * After a kill the clone and the machine are gone: each step of drill.start therefore brings up
 * what is missing, so that the job goes on at the step it was in.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/drills_internal.h"
#include "replicator/sealed_json.h"

/* ── drill.start ─────────────────────────────────────────────────────────────────────────── */

static int begin_record(
	struct drills *drills, struct job *job, struct error *error, struct drill *ret_drill)
{
	struct drill d = { .id = job_id(job),
		.began_ns = clock_realtime_ns(drills->registry->clock) };
	struct json root;
	json_root(job_parameters(job), "job", &root);
	int r = json_copy_text(&root, "machine", sizeof(d.machine), d.machine, error);
	if (r == 0)
		r = json_copy_text(&root, "target", sizeof(d.target), d.target, error);
	if (r == 0)
		r = json_get_u64(&root, "point", &d.point, error);
	if (r == 0)
		r = json_get_i64(&root, "point_ns", &d.point_ns, error);
	if (r == 0)
		*ret_drill = d;
	return r;
}

/* The drill of a job: as recorded, or new. */
static int drill_of(struct drills *drills, struct job *job, struct error *error, struct drill *ret)
{
	int r = drill_get(drills, job_id(job), NULL, ret);
	return r == -ENOENT ? begin_record(drills, job, error, ret) : r;
}

static int step_start(struct job *job, void *context, struct error *error)
{
	struct drill d;
	int r = drill_of(context, job, error, &d);
	if (r == 0)
		r = drill_put(context, &d, error);
	return r == 0 ? drill_bring_up(context, &d, error) : r;
}

static void on_progress(void *context, uint64_t done_s, uint64_t total_s)
{
	job_progress(context, done_s, total_s, "s");
}

static int set_result(struct drills *drills, struct job *job, const struct drill *d)
{
	struct cJSON *result;
	int r = drill_to_json(drills, d, &result);
	return r == 0 ? job_set_result(job, result) : r;
}

static int step_prove(struct job *job, void *context, struct error *error)
{
	const struct target_watch watch = { job_stop_flag(job), on_progress, job };
	struct drills *drills = context;
	struct drill d;
	int r = drill_of(drills, job, error, &d);
	if (r == 0)
		r = drill_bring_up(drills, &d, error);
	if (r == 0)
		r = drill_prove(drills, &d, &watch, error);
	if (r == 0)
		r = set_result(drills, job, &d);
	return r;
}

static int step_clean_up(struct job *job, void *context, struct error *error)
{
	struct drill d;
	struct json root;
	bool cleanup = false;
	json_root(job_parameters(job), "job", &root);
	int r = json_find_bool(&root, "cleanup", &cleanup, error);
	if (r < 0 || !cleanup)
		return MIN(r, 0);
	r = drill_get(context, job_id(job), error, &d);
	if (r == 0)
		r = drill_take_down(context, &d, error);
	return r == 0 ? set_result(context, job, &d) : r;
}

/* A verdict against the point is the job's failure, but what it found stays to be looked at. */
static int step_judge(struct job *job, void *context, struct error *error)
{
	CLEANUP(buf_free) struct buf directory = { 0 };
	struct drill d;
	int r = drill_get(context, job_id(job), error, &d);
	if (r == 0 && d.verdict == DRILL_FAILED)
		r = drill_directory(context, d.id, &directory);
	if (r < 0 || d.verdict != DRILL_FAILED)
		return r;
	return error_set(error, -EBADMSG,
		"see its log and screenshot, try an older point; then landfall drill cleanup",
		"machine %s did not come up from point %" PRIu64 ": %s (%s)", d.machine, d.point,
		d.proof.words, directory.data);
}

static int undo_start(struct job *job, void *context, struct error *error)
{
	struct drill d;
	int r = drill_get(context, job_id(job), NULL, &d);
	if (r == -ENOENT || (r == 0 && d.verdict != DRILL_NO_VERDICT && !job_should_stop(job)))
		return 0;
	return r == 0 ? drill_take_down(context, &d, error) : r;
}

static const struct job_step start_steps[] = {
	{ "start the machine", step_start },
	{ "watch it come up", step_prove },
	{ "clean up, if asked", step_clean_up },
	{ "judge", step_judge },
};

int drill_start_job(struct drills *drills, const char *machine, const char *text,
	const char *target, bool cleanup, struct error *error, uint64_t *ret_job)
{
	CLEANUP(registry_release) struct hold hold = { 0 };
	CLEANUP(json_freep) struct cJSON *parameters = NULL;
	struct point point;
	if (!drill_target(drills, target))
		return error_set(error, -EINVAL, "local is there: landfall drill start --help",
			"there is no target '%.40s' here", target);
	int r = registry_hold(drills->registry, machine, error, &hold);
	if (r == 0)
		r = point_select(group_history(hold.group), text, error, &point);
	if (r < 0)
		return r;
	r = json_new_object(&parameters);
	if (r == 0)
		r = json_add_text(parameters, "machine", machine);
	if (r == 0)
		r = json_add_text(parameters, "target", target);
	if (r == 0)
		r = json_add_bool(parameters, "cleanup", cleanup);
	if (r == 0)
		r = json_add_u64(parameters, "point", point.number);
	if (r == 0)
		r = json_add_i64(parameters, "point_ns", point.time_ns);
	if (r == 0)
		r = jobs_start(
			drills->registry->jobs, "drill.start", machine, parameters, error, ret_job);
	if (r == 0)
		parameters = NULL; /* taken over */
	return r;
}

/* ── drill.cleanup ───────────────────────────────────────────────────────────────────────── */

static int step_take_down(struct job *job, void *context, struct error *error)
{
	struct drill d;
	struct json root;
	uint64_t id;
	json_root(job_parameters(job), "job", &root);
	int r = json_get_u64(&root, "id", &id, error);
	if (r == 0)
		r = drill_get(context, id, error, &d);
	return r == 0 ? drill_take_down(context, &d, error) : r;
}

static const struct job_step cleanup_steps[] = { { "stop and remove", step_take_down } };

int drill_cleanup_job(struct drills *drills, uint64_t id, struct error *error, uint64_t *ret_job)
{
	CLEANUP(json_freep) struct cJSON *parameters = NULL;
	struct drill d;
	int r = drill_get(drills, id, error, &d);
	if (r < 0)
		return r;
	r = json_new_object(&parameters);
	if (r == 0)
		r = json_add_u64(parameters, "id", id);
	if (r == 0)
		r = jobs_start(drills->registry->jobs, "drill.cleanup", d.machine, parameters,
			error, ret_job);
	if (r == 0)
		parameters = NULL; /* taken over */
	return r;
}

int drill_register_jobs(struct drills *drills)
{
	static const struct job_kind start = { .name = "drill.start",
		.resumable = true,
		.steps = start_steps,
		.step_count = ARRAY_SIZE(start_steps),
		.undo = undo_start };
	static const struct job_kind cleanup = { .name = "drill.cleanup",
		.resumable = true,
		.steps = cleanup_steps,
		.step_count = ARRAY_SIZE(cleanup_steps) };
	int r = jobs_register(drills->registry->jobs, &start, drills);
	return r == 0 ? jobs_register(drills->registry->jobs, &cleanup, drills) : r;
}
