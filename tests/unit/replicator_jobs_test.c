/*
 * replicator/jobs.c and its parts, on real files in a directory of their own: order, records,
 * resuming after SIGKILL and after a stop, canceling, limits, watching, damaged records.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "replicator/jobs.h"

struct fixture {
	char directory[64];
	struct jobs *jobs;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char trace[256]; /* a letter a step that ran */
	bool gate_open;
	unsigned at_gate;
	char last[2048]; /* what a watch saw last */
	unsigned told;
};

static void trace(struct fixture *f, const char *letter)
{
	SCOPED_LOCK(&f->lock);
	strncat(f->trace, letter, sizeof(f->trace) - strlen(f->trace) - 1);
	pthread_cond_broadcast(&f->changed);
}

static int step_a(struct job *job, void *context, struct error *error)
{
	(void)job;
	(void)error;
	trace(context, "a");
	return 0;
}

static int step_b(struct job *job, void *context, struct error *error)
{
	(void)error;
	trace(context, "b");
	job_progress(job, 1, 2, "bytes");
	job_progress(job, 2, 2, "bytes");
	return job_set_result(job, cJSON_CreateString("found"));
}

static int step_fail(struct job *job, void *context, struct error *error)
{
	(void)job;
	trace(context, "f");
	return error_set(error, -ENOSPC, "make room", "the disk is full");
}

/* Waits until the gate opens or the job has to stop. */
static int step_gate(struct job *job, void *context, struct error *error)
{
	(void)error;
	struct fixture *f = context;
	trace(f, "g");
	SCOPED_LOCK(&f->lock);
	f->at_gate++;
	pthread_cond_broadcast(&f->changed);
	while (!f->gate_open && !job_should_stop(job)) {
		struct timespec soon;
		clock_gettime(CLOCK_REALTIME, &soon);
		soon.tv_nsec += 5000000;
		if (soon.tv_nsec >= 1000000000) {
			soon.tv_nsec -= 1000000000;
			soon.tv_sec++;
		}
		pthread_cond_timedwait(&f->changed, &f->lock, &soon);
	}
	f->at_gate--;
	return f->gate_open ? 0 : -ECANCELED;
}

static int step_die(struct job *job, void *context, struct error *error)
{
	(void)job;
	(void)error;
	(void)context;
	raise(SIGKILL);
	return 0;
}

/* Dies once it is asked to stop, which is on record then. */
static int step_die_late(struct job *job, void *context, struct error *error)
{
	struct fixture *f = context;
	{
		SCOPED_LOCK(&f->lock);
		f->at_gate++;
		pthread_cond_broadcast(&f->changed);
	}
	while (!job_should_stop(job))
		usleep(1000);
	return step_die(job, context, error);
}

static int undo(struct job *job, void *context, struct error *error)
{
	(void)job;
	(void)error;
	trace(context, "u");
	return 0;
}

static const struct job_step plain_steps[] = { { "first", step_a }, { "second", step_b } };
static const struct job_step fail_steps[] = { { "first", step_a }, { "second", step_fail },
	{ "third", step_b } };
static const struct job_step gate_steps[] = { { "first", step_a }, { "gate", step_gate },
	{ "last", step_b } };
static const struct job_step die_steps[] = { { "first", step_a }, { "gate", step_die },
	{ "last", step_b } };
static const struct job_step doom_steps[] = { { "first", step_a }, { "gate", step_die_late },
	{ "last", step_b } };
#define KIND(NAME, RESUMABLE, STEPS, UNDO)                                  \
	{                                                                   \
		.name = (NAME), .resumable = (RESUMABLE), .steps = (STEPS), \
		.step_count = ARRAY_SIZE(STEPS), .undo = (UNDO)             \
	}
static const struct job_kind plain = KIND("plain", true, plain_steps, NULL);
static const struct job_kind failing = KIND("failing", true, fail_steps, undo);
static const struct job_kind gated = KIND("gated", true, gate_steps, undo);
static const struct job_kind fragile = KIND("fragile", false, gate_steps, NULL);
static const struct job_kind deadly = KIND("gated", true, die_steps, undo);
static const struct job_kind doomed = KIND("gated", true, doom_steps, undo);

static void open_jobs(struct fixture *f, const struct job_kind *gate_kind)
{
	assert_int_equal(jobs_new(io_posix(), clock_system(), f->directory, 5, &f->jobs), 0);
	assert_int_equal(jobs_register(f->jobs, &plain, f), 0);
	assert_int_equal(jobs_register(f->jobs, &plain, f), -EEXIST);
	assert_int_equal(jobs_register(f->jobs, &failing, f), 0);
	assert_int_equal(jobs_register(f->jobs, gate_kind, f), 0);
	assert_int_equal(jobs_register(f->jobs, &fragile, f), 0);
	assert_int_equal(jobs_resume(f->jobs), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	snprintf(f->directory, sizeof(f->directory), "/tmp/landfall-jobs-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	open_jobs(f, &gated);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	jobs_free(f->jobs);
	char path[512];
	DIR *directory = opendir(f->directory);
	for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
		snprintf(path, sizeof(path), "%s/%s", f->directory, entry->d_name);
		if (entry->d_name[0] != '.')
			unlink(path);
	}
	closedir(directory);
	assert_int_equal(rmdir(f->directory), 0);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

static const char *state_of(struct fixture *f, uint64_t id)
{
	static const char *const names[] = { "queued", "running", "done", "failed", "canceled" };
	cJSON *json;
	if (jobs_show(f->jobs, id, &json) < 0)
		return "gone";
	const char *name = "?";
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(cJSON_GetObjectItem(json, "state")->valuestring, names[i]) == 0)
			name = names[i];
	}
	cJSON_Delete(json);
	return name;
}

static void wait_for_state(struct fixture *f, uint64_t id, const char *state)
{
	for (int i = 0; i < 5000 && strcmp(state_of(f, id), state) != 0; i++)
		usleep(1000);
	assert_string_equal(state_of(f, id), state);
}

static void wait_at_gate(struct fixture *f, unsigned count)
{
	SCOPED_LOCK(&f->lock);
	while (f->at_gate < count)
		pthread_cond_wait(&f->changed, &f->lock);
}

static void open_gate(struct fixture *f)
{
	SCOPED_LOCK(&f->lock);
	f->gate_open = true;
	pthread_cond_broadcast(&f->changed);
}

static uint64_t start(struct fixture *f, const char *kind, const char *subject)
{
	uint64_t id = 0;
	struct error error = { 0 };
	assert_int_equal(jobs_start(f->jobs, kind, subject, NULL, &error, &id), 0);
	return id;
}

static void steps_run_in_order_and_are_shown(void **state)
{
	struct fixture *f = *state;
	struct error error = { 0 };
	uint64_t id;
	cJSON *parameters = cJSON_Parse("{\"x\":1}");
	assert_int_equal(jobs_start(f->jobs, "plain", "web", parameters, &error, &id), 0);
	wait_for_state(f, id, "done");
	assert_string_equal(f->trace, "ab");
	cJSON *json;
	assert_int_equal(jobs_show(f->jobs, id, &json), 0);
	assert_string_equal(cJSON_GetObjectItem(json, "result")->valuestring, "found");
	assert_string_equal(cJSON_GetObjectItem(json, "kind")->valuestring, "plain");
	assert_string_equal(cJSON_GetObjectItem(json, "subject")->valuestring, "web");
	const cJSON *progress = cJSON_GetObjectItem(json, "progress");
	assert_int_equal(cJSON_GetObjectItem(progress, "done")->valueint, 2);
	assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "error")));
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "steps")), 2);
	cJSON_Delete(json);
	assert_int_equal(jobs_start(f->jobs, "nothing", "web", NULL, &error, &id), -ENOENT);
	assert_int_equal(jobs_show(f->jobs, 4711, &json), -ENOENT);
}

static void a_failed_step_ends_the_job_with_its_words(void **state)
{
	struct fixture *f = *state;
	uint64_t id = start(f, "failing", "web");
	wait_for_state(f, id, "failed");
	assert_string_equal(f->trace, "afu");
	jobs_free(f->jobs);
	open_jobs(f, &gated);
	cJSON *json;
	assert_int_equal(jobs_show(f->jobs, id, &json), 0);
	const cJSON *error = cJSON_GetObjectItem(json, "error");
	assert_string_equal(cJSON_GetObjectItem(error, "message")->valuestring, "the disk is full");
	assert_string_equal(cJSON_GetObjectItem(error, "mend")->valuestring, "make room");
	assert_string_equal(
		cJSON_GetObjectItem(error, "cause")->valuestring, "No space left on device");
	cJSON_Delete(json);
	assert_string_equal(f->trace, "afu"); /* taken back once */
}

static void one_subject_has_one_job(void **state)
{
	struct fixture *f = *state;
	struct error error = { 0 };
	uint64_t first = start(f, "gated", "web"), other;
	assert_int_equal(jobs_start(f->jobs, "plain", "web", NULL, &error, &other), -EBUSY);
	assert_non_null(strstr(error.message, "job 1 (gated)"));
	other = start(f, "plain", "db");
	wait_for_state(f, other, "done");
	open_gate(f);
	wait_for_state(f, first, "done");
	other = start(f, "plain", "web");
	wait_for_state(f, other, "done");
}

static void eight_run_the_others_wait(void **state)
{
	struct fixture *f = *state;
	uint64_t ids[12];
	for (unsigned i = 0; i < 12; i++)
		ids[i] = start(f, "gated", "");
	wait_at_gate(f, 8);
	assert_string_equal(state_of(f, ids[7]), "running");
	assert_string_equal(state_of(f, ids[8]), "queued");
	struct error error = { 0 };
	assert_int_equal(jobs_cancel(f->jobs, ids[11], &error), 0);
	assert_string_equal(state_of(f, ids[11]), "canceled");
	open_gate(f);
	wait_for_state(f, ids[10], "done");
}

static void old_ended_jobs_make_room(void **state)
{
	struct fixture *f = *state;
	uint64_t id = 0;
	for (unsigned i = 0; i < 9; i++) {
		id = start(f, "plain", "web");
		wait_for_state(f, id, "done");
	}
	for (int i = 0; i < 5000 && strcmp(state_of(f, 4), "gone") != 0; i++)
		usleep(1000);
	cJSON *list;
	assert_int_equal(jobs_list(f->jobs, &list), 0);
	assert_int_equal(cJSON_GetArraySize(list), 5);
	assert_int_equal(cJSON_GetObjectItem(list->child, "id")->valueint, 9);
	cJSON_Delete(list);
	jobs_free(f->jobs);
	open_jobs(f, &gated);
	assert_int_equal(start(f, "plain", "web"), 10);
}

static void a_stop_is_not_an_end(void **state)
{
	struct fixture *f = *state;
	uint64_t running = start(f, "gated", "web");
	uint64_t lost = start(f, "fragile", "db");
	wait_at_gate(f, 2);
	jobs_free(f->jobs);
	f->trace[0] = '\0';
	f->gate_open = true;
	open_jobs(f, &gated);
	wait_for_state(f, running, "done");
	assert_string_equal(f->trace, "gb"); /* the first step is not run again */
	assert_string_equal(state_of(f, lost), "failed");
}

static void a_canceled_job_stays_canceled(void **state)
{
	struct fixture *f = *state;
	struct error error = { 0 };
	uint64_t id = start(f, "gated", "web");
	wait_at_gate(f, 1);
	assert_int_equal(jobs_cancel(f->jobs, id, &error), 0);
	wait_for_state(f, id, "canceled");
	assert_string_equal(f->trace, "agu");
	assert_int_equal(jobs_cancel(f->jobs, id, &error), -EBUSY);
	assert_int_equal(jobs_cancel(f->jobs, 99, &error), -ENOENT);
	jobs_free(f->jobs);
	open_jobs(f, &gated);
	assert_string_equal(state_of(f, id), "canceled");
}

/* A process of its own starts the job and is killed within its second step. */
static void a_killed_job_goes_on_at_its_step(void **state)
{
	struct fixture *f = *state;
	jobs_free(f->jobs);
	f->jobs = NULL;
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		uint64_t id;
		if (jobs_new(io_posix(), clock_system(), f->directory, 5, &f->jobs) < 0 ||
			jobs_register(f->jobs, &deadly, f) < 0 || jobs_resume(f->jobs) < 0 ||
			jobs_start(f->jobs, "gated", "web", cJSON_Parse("{\"k\":7}"), NULL, &id) <
				0)
			_exit(1);
		for (;;)
			pause();
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	f->gate_open = true;
	open_jobs(f, &gated);
	wait_for_state(f, 1, "done");
	assert_string_equal(f->trace, "gb");
}

/* A process of its own cancels a job and is killed before the job has stopped. */
static void a_canceled_job_that_was_killed_is_taken_back(void **state)
{
	struct fixture *f = *state;
	struct error error = { 0 };
	jobs_free(f->jobs);
	f->jobs = NULL;
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		uint64_t id;
		if (jobs_new(io_posix(), clock_system(), f->directory, 5, &f->jobs) < 0 ||
			jobs_register(f->jobs, &doomed, f) < 0 || jobs_resume(f->jobs) < 0 ||
			jobs_start(f->jobs, "gated", "web", NULL, NULL, &id) < 0)
			_exit(1);
		wait_at_gate(f, 1);
		(void)jobs_cancel(f->jobs, id, &error);
		for (;;)
			pause();
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	open_jobs(f, &gated);
	wait_for_state(f, 1, "canceled");
	assert_string_equal(f->trace, "u"); /* and no step was begun */
}

static void a_damaged_record_is_left_out_and_its_number_not_used_again(void **state)
{
	struct fixture *f = *state;
	uint64_t id = start(f, "plain", "web");
	wait_for_state(f, id, "done");
	jobs_free(f->jobs);
	char path[128];
	snprintf(path, sizeof(path), "%s/1.job", f->directory);
	FILE *file = fopen(path, "r+");
	assert_non_null(file);
	fseek(file, 20, SEEK_SET);
	fputc('#', file);
	fclose(file);
	open_jobs(f, &gated);
	assert_string_equal(state_of(f, id), "gone");
	assert_int_equal(start(f, "plain", "web"), 2);
}

static void changed(void *context, const cJSON *job)
{
	struct fixture *f = context;
	SCOPED_LOCK(&f->lock);
	f->told++;
	f->last[0] = '\0';
	if (job)
		snprintf(f->last, sizeof(f->last), "%s",
			cJSON_GetObjectItem(job, "state")->valuestring);
	pthread_cond_broadcast(&f->changed);
}

static void watches_see_the_end_and_the_end_of_all(void **state)
{
	struct fixture *f = *state;
	uint64_t watch, id = start(f, "gated", "web");
	assert_int_equal(jobs_watch(f->jobs, 99, changed, f, &watch), -ENOENT);
	assert_int_equal(jobs_watch(f->jobs, id, changed, f, &watch), 0);
	open_gate(f);
	{
		SCOPED_LOCK(&f->lock);
		while (strcmp(f->last, "done") != 0)
			pthread_cond_wait(&f->changed, &f->lock);
	}
	jobs_unwatch(f->jobs, watch);
	jobs_unwatch(f->jobs, watch);
	unsigned told = f->told;
	assert_int_equal(jobs_watch(f->jobs, id, changed, f, &watch), 0);
	jobs_free(f->jobs);
	/* The thread that told of the end may have found the new watch as well. */
	assert_true(f->told > told);
	assert_string_equal(f->last, "");
	open_jobs(f, &gated);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(steps_run_in_order_and_are_shown),
		TEST(a_failed_step_ends_the_job_with_its_words),
		TEST(one_subject_has_one_job),
		TEST(eight_run_the_others_wait),
		TEST(old_ended_jobs_make_room),
		TEST(a_stop_is_not_an_end),
		TEST(a_canceled_job_stays_canceled),
		TEST(a_killed_job_goes_on_at_its_step),
		TEST(a_canceled_job_that_was_killed_is_taken_back),
		TEST(a_damaged_record_is_left_out_and_its_number_not_used_again),
		TEST(watches_see_the_end_and_the_end_of_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
