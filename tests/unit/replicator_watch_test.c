/*
 * job.watch over a real socket: a watch ends with its job or with its peer, whichever is first,
 * and nothing of it is left then.
 */
#include "tests/unit/cmocka_common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/control.h"
#include "replicator/jobs_internal.h"
#include "replicator/methods_job.h"

#define PEERS 16
#define WATCHES 3

struct fixture {
	char directory[64], path[96];
	struct jobs *jobs;
	struct control *control;
	atomic_bool gate_open;
	uint64_t job;
};

static int step_gate(struct job *job, void *context, struct error *error)
{
	struct fixture *f = context;
	(void)error;
	while (!atomic_load(&f->gate_open) && !job_should_stop(job))
		usleep(1000);
	return 0;
}

static const struct job_step steps[] = { { "gate", step_gate } };
static const struct job_kind gated = {
	.name = "gated", .resumable = true, .steps = steps, .step_count = 1
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error error = { 0 };
	char path[96];
	snprintf(f->directory, sizeof(f->directory), "/tmp/landfall-watch-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(path, sizeof(path), "%s/jobs", f->directory);
	snprintf(f->path, sizeof(f->path), "%s/control.sock", f->directory);
	assert_int_equal(jobs_new(io_posix(), clock_system(), path, 1, &f->jobs), 0);
	assert_int_equal(jobs_register(f->jobs, &gated, f), 0);
	assert_int_equal(control_new(f->path, "no-such-group", &f->control), 0);
	assert_int_equal(methods_job_register(f->control, f->jobs), 0);
	assert_int_equal(control_start(f->control, &error), 0);
	assert_int_equal(jobs_start(f->jobs, "gated", "", NULL, &error, &f->job), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char path[128];
	control_free(f->control);
	jobs_free(f->jobs);
	snprintf(path, sizeof(path), "%s/jobs/%u.job", f->directory, (unsigned)f->job);
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
	snprintf(path, sizeof(path), "%s.lock", f->path);
	unlink(path);
	assert_int_equal(rmdir(f->directory), 0);
	free(f);
	return 0;
}

static unsigned count_watches(struct fixture *f)
{
	SCOPED_LOCK(&f->jobs->lock);
	unsigned count = 0;
	for (const struct job_watch *w = f->jobs->watches; w; w = w->next)
		count++;
	return count;
}

static void wait_for_watches(struct fixture *f, unsigned count)
{
	for (unsigned i = 0; i < 5000 && count_watches(f) != count; i++)
		usleep(1000);
	assert_int_equal(count_watches(f), count);
}

/* Reads up to the answer to a request; the job's progress may come before it. */
static void read_answer(int fd, unsigned id)
{
	char line[4096], wanted[32];
	snprintf(wanted, sizeof(wanted), "\"id\":%u,\"result\"", id);
	do {
		size_t n = 0;
		do {
			assert_true(n < sizeof(line) - 1);
			assert_int_equal(read(fd, &line[n], 1), 1);
		} while (line[n++] != '\n');
		line[n] = '\0';
	} while (!strstr(line, wanted));
}

/* A connection that watches the job `WATCHES` times. */
static int connect_and_watch(struct fixture *f)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char request[128];
	memcpy(address.sun_path, f->path, strlen(f->path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	for (unsigned i = 0; i < WATCHES; i++) {
		int n = snprintf(request, sizeof(request),
			"{\"jsonrpc\":\"2.0\",\"id\":%u,\"method\":\"job.watch\","
			"\"params\":{\"id\":%u}}\n",
			i, (unsigned)f->job);
		assert_int_equal(write(fd, request, (size_t)n), n);
		read_answer(fd, i);
	}
	return fd;
}

static void a_watch_ends_with_its_peer(void **state)
{
	struct fixture *f = *state;
	int peers[PEERS];
	for (unsigned i = 0; i < PEERS; i++)
		peers[i] = connect_and_watch(f);
	assert_int_equal(count_watches(f), PEERS * WATCHES);
	/* The job goes on and tells nothing. */
	close(peers[0]);
	wait_for_watches(f, (PEERS - 1) * WATCHES);
	for (unsigned i = 1; i < PEERS; i++)
		close(peers[i]);
	wait_for_watches(f, 0);
}

static void a_watch_ends_with_its_job(void **state)
{
	struct fixture *f = *state;
	char answer[4096];
	int fd = connect_and_watch(f);
	atomic_store(&f->gate_open, true);
	wait_for_watches(f, 0);
	assert_true(read(fd, answer, sizeof(answer)) > 0);
	close(fd);
}

/* Peers that vanish while the job ends: each watch is ended by one side or the other. */
static void both_ends_at_once(void **state)
{
	struct fixture *f = *state;
	int peers[PEERS];
	for (unsigned i = 0; i < PEERS; i++)
		peers[i] = connect_and_watch(f);
	for (unsigned i = 0; i < PEERS; i++) {
		if (i == PEERS / 2)
			atomic_store(&f->gate_open, true);
		close(peers[i]);
	}
	wait_for_watches(f, 0);
}

/* What is still connected and watching when all ends. */
static void the_end_of_all_ends_watches(void **state)
{
	struct fixture *f = *state;
	int first = connect_and_watch(f), second = connect_and_watch(f);
	assert_int_equal(count_watches(f), 2 * WATCHES);
	control_free(f->control);
	f->control = NULL;
	assert_int_equal(count_watches(f), 0);
	close(first);
	close(second);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_watch_ends_with_its_peer),
		TEST(a_watch_ends_with_its_job),
		TEST(both_ends_at_once),
		TEST(the_end_of_all_ends_watches),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
