/*
 * Stopping an instance for its last point (replicator/ebs.h), with the real registry and the tests'
 * own AWS: what is protected is told and left alone; what stops does so before the set is made that
 * the point shows.
 *
 *	ebs_shut_down_test DIRECTORY
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "ec2/instances.h"
#include "replicator/ebs.h"
#include "replicator/jobs.h"
#include "replicator/registry_internal.h"
#include "tests/integration/ec2_service.h"

static const char *work;

struct world {
	struct ec2_world *service;
	struct jobs *jobs;
	struct registry *registry;
	struct ebs *ebs;
};

static const char *path_of(const char *name, char path[static 256])
{
	snprintf(path, 256, "%s/%s", work, name);
	return path;
}

static void open_registry(struct world *w, struct error *error)
{
	char state[256], journal[256], mount[256], jobs[256];
	assert_int_equal(mkdir(path_of("jobs", jobs), 0700), 0);
	assert_int_equal(jobs_new(io_posix(), clock_system(), jobs, 10, &w->jobs), 0);
	const struct registry_options options = { .io = io_posix(),
		.clock = clock_system(),
		.state_dir = path_of("state", state),
		.journal_dir = path_of("journal", journal),
		.mount_path = path_of("mount", mount),
		.journal_bytes = GIB,
		.jobs = w->jobs };
	if (registry_new(&options, error, &w->registry) < 0)
		fail_msg("registry: %s", error->message);
}

static void add_machine(struct world *w, struct error *error)
{
	CLEANUP_FREE struct machine_request *request = calloc(1, sizeof(*request));
	const struct ebs_choice choice = { .instance = w->service->instance };
	assert_non_null(request);
	request->name = "web";
	request->source = "ebs";
	if (ebs_describe(w->ebs, &choice, request, error) < 0 ||
		machine_add(w->registry, request, error) < 0)
		fail_msg("add: %s", error->message);
}

static int note_state(void *context, const struct ec2_instance *instance)
{
	snprintf(context, 32, "%s", instance->state);
	return 0;
}

static void assert_state(struct world *w, const char *wanted)
{
	const char *ids[] = { w->service->instance };
	const struct ec2_query query = { .ids = ids, .id_count = 1 };
	char state[32] = "";
	assert_done(w->service, ec2_describe_instances(w->service->client, &query, note_state,
					state, &w->service->error));
	assert_string_equal(state, wanted);
}

static void the_last_point_comes_after_the_stop(void **state)
{
	struct world w = { .service = *state };
	struct error error = { 0 };
	uint64_t point = 0, again = 0;
	atomic_bool stop = false;
	const struct ebs_options options = { .blocks_per_s = 1000 };
	open_registry(&w, &error);
	if (ebs_new(w.registry, &options, &error, &w.ebs) < 0)
		fail_msg("ebs: %s", error.message);
	add_machine(&w, &error);

	/* Protected: nothing happens to it. */
	admin_postf(
		"/instance/set", "{\"id\": \"%s\", \"stop_protected\": true}", w.service->instance);
	assert_int_equal(ebs_shut_down(w.ebs, "web", &stop, &error, &point), -EPERM);
	assert_non_null(strstr(error.message, w.service->instance));
	assert_non_null(strstr(error.mend, "disableApiStop"));
	assert_state(&w, "running");
	assert_int_equal(ebs_shut_down(w.ebs, "nobody", &stop, &error, &point), -ENOENT);

	admin_postf("/instance/set", "{\"id\": \"%s\", \"stop_protected\": false}",
		w.service->instance);
	/* A group that would make no point: it runs on. */
	assert_int_equal(machine_pause(w.registry, "web", true, &error), 0);
	assert_int_equal(ebs_shut_down(w.ebs, "web", &stop, &error, &point), -EBUSY);
	assert_non_null(strstr(error.mend, "resume"));
	assert_state(&w, "running");
	assert_int_equal(machine_pause(w.registry, "web", false, &error), 0);
	write_block(w.service->path[0], 3, 'z');
	if (ebs_shut_down(w.ebs, "web", &stop, &error, &point) < 0)
		fail_msg("shut down: %s", error.message);
	assert_state(&w, "stopped");
	assert_true(point > 0);
	/* Once more is another point of the same. */
	if (ebs_shut_down(w.ebs, "web", NULL, &error, &again) < 0)
		fail_msg("again: %s", error.message);
	assert_true(again > point);
	/* What keeps the last point from being made is told, and is no wait without end. */
	admin_post("/settings", "{\"deny\": [\"CreateSnapshots\"]}");
	assert_int_equal(ebs_shut_down(w.ebs, "web", &stop, &error, &again), -EACCES);
	assert_non_null(strstr(error.message, "CreateSnapshots"));
	admin_post("/settings", "{\"deny\": []}");
	/* Told to stop it says so, and what it did stays done. */
	atomic_store(&stop, true);
	assert_int_equal(ebs_shut_down(w.ebs, "web", &stop, &error, &again), -ECANCELED);

	ebs_free(w.ebs);
	registry_free(w.registry);
	jobs_free(w.jobs);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			the_last_point_comes_after_the_stop, ec2_service_open, ec2_service_close),
	};
	if (argc != 2)
		return 2;
	work = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
