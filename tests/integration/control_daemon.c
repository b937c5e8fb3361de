/*
 * A daemon that is nothing but a control socket and jobs, for tests of both from outside:
 *
 *	control_daemon SOCKET JOBS-DIRECTORY
 *
 * Methods: echo; those of methods_job.h; job.start {subject, seconds} starts a job of three steps
 * whose second takes that long and reports progress. Says "ready" and runs until SIGTERM.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "replicator/control.h"
#include "replicator/jobs.h"
#include "replicator/methods_job.h"

static int echo(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	(void)context;
	(void)peer;
	(void)error;
	*ret_result = cJSON_Duplicate(parameters, true);
	return *ret_result ? 0 : -ENOMEM;
}

static int start_job(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	static const char *const names[] = { "subject", "seconds", "fail", NULL };
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r < 0)
		return r;
	const cJSON *subject = cJSON_GetObjectItemCaseSensitive(parameters, "subject");
	uint64_t id;
	cJSON *copy = cJSON_Duplicate(parameters, true);
	r = jobs_start(context, "nap", cJSON_IsString(subject) ? subject->valuestring : "", copy,
		error, &id);
	if (r < 0) {
		cJSON_Delete(copy);
		return r;
	}
	*ret_result = cJSON_CreateObject();
	return json_add_u64(*ret_result, "job", id);
}

static int begin(struct job *job, void *context, struct error *error)
{
	(void)job;
	(void)context;
	(void)error;
	return 0;
}

static int nap(struct job *job, void *context, struct error *error)
{
	(void)context;
	(void)error;
	const cJSON *seconds = cJSON_GetObjectItemCaseSensitive(job_parameters(job), "seconds");
	const uint64_t parts = 100;
	int64_t part_ns =
		cJSON_IsNumber(seconds)
			? (int64_t)(seconds->valuedouble * (double)NS_PER_S) / (int64_t)parts
			: 0;
	for (uint64_t done = 0; done < parts; done++) {
		if (job_should_stop(job))
			return -ECANCELED;
		job_progress(job, done << 20, parts << 20, "bytes");
		clock_sleep_ns(clock_system(), part_ns);
	}
	return 0;
}

static int end(struct job *job, void *context, struct error *error)
{
	(void)context;
	if (cJSON_GetObjectItemCaseSensitive(job_parameters(job), "fail"))
		return error_set(error, -EEXIST, "try another name", "the name is taken");
	return job_set_result(job, cJSON_CreateString("rested"));
}

static const struct job_step steps[] = { { "lie down", begin }, { "sleep", nap },
	{ "get up", end } };
static const struct job_kind kind = {
	.name = "nap", .resumable = true, .steps = steps, .step_count = 3
};

int main(int argc, char **argv)
{
	struct jobs *jobs;
	struct control *control;
	struct error error = { 0 };
	struct rlimit limit;
	sigset_t signals;
	int number;
	if (argc != 3)
		return 2;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	if (jobs_new(io_posix(), clock_system(), argv[2], 100, &jobs) < 0 ||
		jobs_register(jobs, &kind, NULL) < 0 ||
		control_new(argv[1], "landfall", &control) < 0 ||
		control_register(control, "echo", echo, NULL) < 0 ||
		control_register(control, "job.start", start_job, jobs) < 0 ||
		methods_job_register(control, jobs) < 0 || jobs_resume(jobs) < 0)
		return 1;
	if (control_start(control, &error) < 0) {
		log_error("%s", error.message);
		return 1;
	}
	puts("ready");
	fflush(stdout);
	sigwait(&signals, &number);
	control_free(control);
	jobs_free(jobs);
	return 0;
}
