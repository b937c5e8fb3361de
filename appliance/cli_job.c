/*
 * Following a job to its end, and the job commands.
 *
 * An interrupt (Ctrl-C) while a job is followed ends the command, not the job: the signal is
 * blocked but while waiting, its handler does nothing but let the wait return, and the person is
 * told how to come back to the job.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

struct follow {
	cJSON *job; /* the newest that was seen */
	struct cli_progress progress;
	bool begun; /* a step was seen running */
};

static bool is_final(const cJSON *job)
{
	const char *state = cli_get_text(job, "state");
	return *state && strcmp(state, "queued") != 0 && strcmp(state, "running") != 0;
}

/* Between two steps nothing is new: what stands there stays. */
static void show_progress(struct follow *follow)
{
	char label[160];
	const cJSON *progress = cli_get(follow->job, "progress"), *item;
	const char *step = NULL;
	cJSON_ArrayForEach(item, cli_get(follow->job, "steps"))
	{
		if (strcmp(cli_get_text(item, "state"), "running") == 0)
			step = cli_get_text(item, "name");
	}
	if (!step && follow->begun)
		return;
	follow->begun = follow->begun || step;
	snprintf(label, sizeof(label), "%s %s: %s", cli_get_text(follow->job, "kind"),
		cli_get_text(follow->job, "subject"), step ? step : "waiting");
	cli_progress_update(&follow->progress, label, cli_get_u64(progress, "done"),
		cli_get_u64(progress, "total"), cli_get_text(progress, "unit"));
	const cJSON *obstacle = cli_get(follow->job, "obstacle");
	cli_progress_obstacle(&follow->progress, cli_get_text(obstacle, "message"),
		cli_get_text(obstacle, "mend"));
}

/* Of answers and notifications that cross, the later state stays. */
static void take_job(struct follow *follow, const cJSON *job)
{
	if (!job || (follow->job && is_final(follow->job)))
		return;
	cJSON *copy = cJSON_Duplicate(job, true);
	if (!copy)
		return;
	cJSON_Delete(follow->job);
	follow->job = copy;
	if (!is_final(copy))
		show_progress(follow);
}

static void notified(void *context, const cJSON *parameters)
{
	take_job(context, cli_get(parameters, "job"));
}

static void let_wait_return(int number)
{
	(void)number;
}

static enum exit_code interrupted(struct cli *cli, uint64_t id)
{
	struct cli_error error = { .exit = EXIT_FAILED, .code = -32001 };
	char mend[64];
	snprintf(mend, sizeof(mend), "landfall job watch %llu", (unsigned long long)id);
	snprintf(error.cause, sizeof(error.cause), "%s", strerrordesc_np(EINTR));
	error_set(&error.error, -EINTR, mend, "interrupted; job %llu goes on",
		(unsigned long long)id);
	return cli_fail(cli, &error);
}

static int watch(struct cli *cli, uint64_t id, struct follow *follow, struct cli_error *error)
{
	CLEANUP(json_freep) cJSON *parameters = cJSON_CreateObject();
	CLEANUP(json_freep) cJSON *result = NULL;
	cli->notified = notified;
	cli->notified_context = follow;
	if (parameters)
		(void)json_add_u64(parameters, "id", id);
	int r = cli_call(cli, "job.watch", parameters, error, &result);
	if (r == 0 && !follow->job)
		take_job(follow, cli_get(result, "job"));
	while (r == 0 && !is_final(follow->job))
		r = cli_wait(cli, error);
	cli->notified = NULL;
	return r;
}

/* How an ended job ended, as an error. */
static enum exit_code end_of(const cJSON *job, struct cli_error *error)
{
	const cJSON *problem = cli_get(job, "error");
	unsigned long long id = cli_get_u64(job, "id");
	*error = (struct cli_error){ 0 };
	if (strcmp(cli_get_text(job, "state"), "done") == 0)
		return EXIT_DONE;
	error->exit = EXIT_FAILED;
	if (problem && cli_get_number(problem, "code") < 0)
		error->exit = exit_code_of((int)cli_get_number(problem, "code"));
	error->code = -32000 - (int)error->exit;
	snprintf(error->cause, sizeof(error->cause), "%s", cli_get_text(problem, "cause"));
	if (problem)
		error_set(&error->error, -EIO, cli_get_text(problem, "mend"), "job %llu: %s", id,
			cli_get_text(problem, "message"));
	else
		error_set(&error->error, -ECANCELED, NULL, "job %llu was canceled", id);
	return error->exit;
}

/* {"error": …, "job": …} or the result with its job as it ended. `job` is taken over. */
static enum exit_code print_ended(const cJSON *result, cJSON *job)
{
	struct cli_error error;
	enum exit_code code = end_of(job, &error);
	CLEANUP(json_freep)
	cJSON *json = code == EXIT_DONE ? cJSON_Duplicate(result, true) : cli_error_to_json(&error);
	if (!json) {
		cJSON_Delete(job);
		return cli_print_json(NULL);
	}
	cJSON_DeleteItemFromObjectCaseSensitive(json, "job");
	if (!cJSON_AddItemToObject(json, "job", job))
		cJSON_Delete(job);
	enum exit_code printed = cli_print_json(json);
	return code != EXIT_DONE ? code : printed;
}

/* Follows; *ret_job is set if the job ended, however it did. */
static enum exit_code follow_job(struct cli *cli, uint64_t id, cJSON **ret_job)
{
	struct follow follow = { 0 };
	struct cli_error error;
	struct sigaction action = { .sa_handler = let_wait_return }, old;
	sigset_t interrupt, as_before;
	sigemptyset(&action.sa_mask);
	sigemptyset(&interrupt);
	sigaddset(&interrupt, SIGINT);
	sigprocmask(SIG_BLOCK, &interrupt, &as_before);
	sigaction(SIGINT, &action, &old);
	cli->wait_mask = &as_before;
	cli_progress_begin(cli, &follow.progress);
	int r = watch(cli, id, &follow, &error);
	cli_progress_end(&follow.progress);
	cli->wait_mask = NULL;
	sigprocmask(SIG_SETMASK, &as_before, NULL);
	sigaction(SIGINT, &old, NULL);
	if (r == 0) {
		*ret_job = follow.job;
		return EXIT_DONE;
	}
	cJSON_Delete(follow.job);
	if (r == -EINTR)
		return interrupted(cli, id);
	return cli_fail(cli, &error);
}

static enum exit_code follow_and_tell(
	struct cli *cli, const cJSON *result, uint64_t id, cJSON **ret_job)
{
	cJSON *job = NULL;
	struct cli_error error;
	enum exit_code code = follow_job(cli, id, &job);
	if (code != EXIT_DONE)
		return code;
	if (cli->json)
		return print_ended(result, job);
	code = end_of(job, &error);
	if (code != EXIT_DONE)
		cli_fail(cli, &error);
	*ret_job = job;
	return code;
}

enum exit_code cli_run_job(struct cli *cli, cJSON **ret_result, cJSON **ret_job)
{
	bool detached = cli_has(cli->options, "detach");
	enum exit_code code = EXIT_DONE;
	struct cli_error error;
	cJSON *result = NULL;
	if (cli_call_own(cli, &error, &result) < 0)
		return cli_fail(cli, &error);
	uint64_t id = cli_get_u64(result, "job");
	if (id > 0 && !detached)
		code = follow_and_tell(cli, result, id, ret_job);
	else if (cli->json)
		code = cli_print_json(result);
	else if (id > 0)
		printf("job %llu\n", (unsigned long long)id);
	if (cli->json || (id > 0 && detached))
		cJSON_Delete(result);
	else
		*ret_result = result;
	return code;
}

static void add_job(struct cli_table *table, const cJSON *job)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_count(job, "id", text));
	cli_table_add(table, cli_get_text(job, "kind"));
	cli_table_add(table, cli_get_text(job, "subject"));
	cli_table_add(table, cli_get_text(job, "state"));
	cli_table_add(table, cli_time(cli_get_text(job, "created"), text));
	cli_table_add(table, cli_time(cli_get_text(job, "finished"), text));
}

enum exit_code cli_job_list(struct cli *cli)
{
	static const struct cli_rows rows = {
		{ ">ID", "KIND", "SUBJECT", "STATE", "CREATED", "FINISHED" }, add_job
	};
	return cli_run_list(cli, "jobs", &rows);
}

static void print_progress(const cJSON *job)
{
	const cJSON *progress = cli_get(job, "progress");
	char a[CLI_TEXT_BYTES], b[CLI_TEXT_BYTES], text[200];
	if (!progress)
		return;
	if (strcmp(cli_get_text(progress, "unit"), "bytes") == 0)
		snprintf(text, sizeof(text), "%s of %s", cli_get_size(progress, "done", a),
			cli_get_size(progress, "total", b));
	else
		snprintf(text, sizeof(text), "%llu of %llu %s",
			(unsigned long long)cli_get_u64(progress, "done"),
			(unsigned long long)cli_get_u64(progress, "total"),
			cli_get_text(progress, "unit"));
	cli_print_field("progress", text);
}

static void add_step(struct cli_table *table, const cJSON *step)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(step, "name"));
	cli_table_add(table, cli_get_text(step, "state"));
	cli_table_add(table, cli_time(cli_get_text(step, "started"), text));
	cli_table_add(table, cli_time(cli_get_text(step, "finished"), text));
}

static void print_job(const cJSON *job)
{
	static const struct cli_rows rows = { { "STEP", "STATE", "STARTED", "FINISHED" },
		add_step };
	char text[CLI_TEXT_BYTES];
	cli_print_field("job", cli_get_count(job, "id", text));
	cli_print_field("kind", cli_get_text(job, "kind"));
	cli_print_field("subject", cli_get_text(job, "subject"));
	cli_print_field("state", cli_get_text(job, "state"));
	cli_print_field("created", cli_time(cli_get_text(job, "created"), text));
	cli_print_field("finished", cli_time(cli_get_text(job, "finished"), text));
	print_progress(job);
	if (cli_has(job, "obstacle")) {
		cli_print_field("waits", cli_get_text(cli_get(job, "obstacle"), "message"));
		cli_print_field("mend", cli_get_text(cli_get(job, "obstacle"), "mend"));
	}
	const cJSON *problem = cli_get(job, "error"), *result = cli_get(job, "result");
	if (problem) {
		cli_print_field("error", cli_get_text(problem, "message"));
		cli_print_field("cause", cli_get_text(problem, "cause"));
		cli_print_field("mend", cli_get_text(problem, "mend"));
	}
	if (result) {
		CLEANUP(buf_free) struct buf b = { 0 };
		if (json_print(result, false, &b) == 0)
			cli_print_field("result", b.data);
	}
	putchar('\n');
	cli_print_rows(&rows, cli_get(job, "steps"));
}

enum exit_code cli_job_show(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		print_job(cli_get(result, "job"));
	return code;
}

enum exit_code cli_job_cancel(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *job = cli_get(result, "job");
	if (job)
		printf("job %llu: asked to stop (%s)\n", (unsigned long long)cli_get_u64(job, "id"),
			cli_get_text(job, "state"));
	return code;
}

enum exit_code cli_job_watch(struct cli *cli)
{
	const char *text = cli_get_text(cli->parameters, "id");
	char *end;
	unsigned long long id = strtoull(text, &end, 10);
	struct error error = { 0 };
	if (*text < '0' || *text > '9' || *end) {
		error_set(&error, -EINVAL, "see landfall job list", "\"%s\" is no job's number",
			text);
		return cli_fail_usage(cli, &error);
	}
	CLEANUP(json_freep) cJSON *job = NULL;
	CLEANUP(json_freep) cJSON *empty = cJSON_CreateObject();
	enum exit_code code = follow_and_tell(cli, empty, id, &job);
	if (job && code == EXIT_DONE)
		print_job(job);
	return code;
}
