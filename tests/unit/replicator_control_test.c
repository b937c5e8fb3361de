/*
 * replicator/control.c and its parts over a real socket in a directory of its own: calls,
 * batches, notifications, peers that read slowly, close half or vanish, stale sockets.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/control.h"

struct fixture {
	char directory[64], path[96];
	struct control *control;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool gate_open;
	unsigned calls, at_gate;
};

static int echo(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	(void)peer;
	(void)error;
	struct fixture *f = context;
	SCOPED_LOCK(&f->lock);
	f->calls++;
	pthread_cond_broadcast(&f->changed);
	*ret_result = cJSON_Duplicate(parameters, true);
	return 0;
}

static int find_nothing(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	(void)context;
	(void)peer;
	(void)parameters;
	(void)ret_result;
	return error_set(error, -ENOENT, "add it first", "there is no machine \"x\"");
}

static int wait_at_gate(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	(void)peer;
	(void)parameters;
	(void)error;
	struct fixture *f = context;
	SCOPED_LOCK(&f->lock);
	f->at_gate++;
	pthread_cond_broadcast(&f->changed);
	while (!f->gate_open)
		pthread_cond_wait(&f->changed, &f->lock);
	*ret_result = cJSON_CreateString("passed");
	return 0;
}

static int tell(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	(void)context;
	(void)error;
	(void)ret_result;
	return control_notify(peer, "told", parameters);
}

static int answer_much(void *context, struct control_peer *peer, const cJSON *parameters,
	struct error *error, cJSON **ret_result)
{
	(void)context;
	(void)peer;
	(void)parameters;
	(void)error;
	CLEANUP_FREE char *text = malloc(400001);
	assert_non_null(text);
	memset(text, 'x', 400000);
	text[400000] = '\0';
	*ret_result = cJSON_CreateString(text);
	return 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	snprintf(f->directory, sizeof(f->directory), "/tmp/landfall-control-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/run/control.sock", f->directory);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	assert_int_equal(control_new(f->path, "no-such-group", &f->control), 0);
	assert_int_equal(control_register(f->control, "echo", echo, f), 0);
	assert_int_equal(control_register(f->control, "echo", echo, f), -EEXIST);
	assert_int_equal(control_register(f->control, "fail", find_nothing, f), 0);
	assert_int_equal(control_register(f->control, "wait", wait_at_gate, f), 0);
	assert_int_equal(control_register(f->control, "tell", tell, f), 0);
	assert_int_equal(control_register(f->control, "much", answer_much, f), 0);
	struct error error = { 0 };
	assert_int_equal(control_start(f->control, &error), 0);
	assert_int_equal(control_register(f->control, "late", echo, f), -EBUSY);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	control_free(f->control);
	struct stat status;
	assert_int_equal(lstat(f->path, &status), -1);
	char lock[128];
	snprintf(lock, sizeof(lock), "%s.lock", f->path);
	unlink(lock);
	*strrchr(f->path, '/') = '\0';
	rmdir(f->path);
	assert_int_equal(rmdir(f->directory), 0);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	memcpy(address.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* One line, byte by byte so that nothing after it is taken; "" at the end of the connection. */
static const char *hear(int fd, char *line, size_t n)
{
	size_t at = 0;
	while (at + 1 < n && recv(fd, line + at, 1, 0) == 1 && line[at] != '\n')
		at++;
	line[at] = '\0';
	return line;
}

#define CALL(id, method, params) \
	"{\"jsonrpc\":\"2.0\",\"id\":" #id ",\"method\":\"" method "\",\"params\":" params "}\n"

static void calls_are_answered(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = connect_to(f->path);
	char line[512];
	say(fd, CALL(1, "echo", "{\"a\":[1,2]}"));
	assert_string_equal(hear(fd, line, sizeof(line)),
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":[1,2]}}");
	say(fd, CALL(2, "fail", "{}"));
	assert_string_equal(hear(fd, line, sizeof(line)),
		"{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32003,"
		"\"message\":\"there is no machine \\\"x\\\"\",\"data\":{\"exit\":3,"
		"\"cause\":\"No such file or directory\",\"mend\":\"add it first\"}}}");
	say(fd, CALL(3, "nothing.such", "{}"));
	assert_non_null(strstr(hear(fd, line, sizeof(line)), "-32601"));
	/* 63 letters and a character of two bytes: cut in its middle, yet an answer comes. */
	say(fd, CALL(3, "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\xc3\xbc",
			"{}"));
	assert_non_null(strstr(hear(fd, line, sizeof(line)), "n?\\\""));
	say(fd, "garbage\n");
	assert_non_null(
		strstr(hear(fd, line, sizeof(line)), "\"id\":null,\"error\":{\"code\":-32700"));
	say(fd, CALL(4, "echo", "{}"));
	assert_string_equal(
		hear(fd, line, sizeof(line)), "{\"jsonrpc\":\"2.0\",\"id\":4,\"result\":{}}");
}

static void the_socket_is_closed_to_others(void **state)
{
	struct fixture *f = *state;
	struct stat status;
	assert_int_equal(lstat(f->path, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0660);
}

static void batches_are_answered_in_one_line(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = connect_to(f->path);
	char line[1024];
	say(fd, "[{\"jsonrpc\":\"2.0\",\"method\":\"echo\"},"
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"},1,"
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}]\n");
	cJSON *answer = cJSON_Parse(hear(fd, line, sizeof(line)));
	assert_int_equal(cJSON_GetArraySize(answer), 3);
	cJSON_Delete(answer);
	/* Notifications alone get no answer: the next line is the next call's. */
	say(fd, "[{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}]\n");
	say(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"no.such\"}\n");
	say(fd, CALL(9, "echo", "{}"));
	assert_non_null(strstr(hear(fd, line, sizeof(line)), "\"id\":9"));
}

static void a_slow_call_delays_nobody(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int slow = connect_to(f->path);
	CLEANUP_CLOSE int quick = connect_to(f->path);
	char line[256];
	for (int i = 0; i < 40; i++)
		say(slow, CALL(1, "wait", "{}"));
	say(slow, CALL(2, "echo", "{}"));
	say(quick, CALL(3, "echo", "{}"));
	assert_non_null(strstr(hear(quick, line, sizeof(line)), "\"id\":3"));
	assert_non_null(strstr(hear(slow, line, sizeof(line)), "\"id\":2"));
	{
		SCOPED_LOCK(&f->lock);
		f->gate_open = true;
		pthread_cond_broadcast(&f->changed);
	}
	for (int i = 0; i < 40; i++)
		assert_non_null(strstr(hear(slow, line, sizeof(line)), "passed"));
}

static void a_connection_has_at_most_64_requests_under_way(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = connect_to(f->path);
	CLEANUP_CLOSE int other = connect_to(f->path);
	char line[256];
	for (int i = 0; i < 100; i++)
		say(fd, CALL(1, "wait", "{}"));
	{
		SCOPED_LOCK(&f->lock);
		while (f->at_gate < 64)
			pthread_cond_wait(&f->changed, &f->lock);
	}
	say(other, CALL(5, "echo", "{}"));
	assert_non_null(strstr(hear(other, line, sizeof(line)), "\"id\":5"));
	{
		SCOPED_LOCK(&f->lock);
		assert_int_equal(f->at_gate, 64);
		f->gate_open = true;
		pthread_cond_broadcast(&f->changed);
	}
	for (int i = 0; i < 100; i++)
		assert_non_null(strstr(hear(fd, line, sizeof(line)), "passed"));
}

static void half_closed_peers_get_their_answers(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = connect_to(f->path);
	char line[256];
	say(fd, CALL(1, "wait", "{}"));
	shutdown(fd, SHUT_WR);
	{
		SCOPED_LOCK(&f->lock);
		while (f->at_gate < 1)
			pthread_cond_wait(&f->changed, &f->lock);
		f->gate_open = true;
		pthread_cond_broadcast(&f->changed);
	}
	assert_non_null(strstr(hear(fd, line, sizeof(line)), "passed"));
	assert_string_equal(hear(fd, line, sizeof(line)), "");
}

static void what_was_sent_before_a_close_is_obeyed(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);
	for (int i = 0; i < 20; i++)
		say(fd, "{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}\n");
	close(fd);
	SCOPED_LOCK(&f->lock);
	while (f->calls < 20)
		pthread_cond_wait(&f->changed, &f->lock);
}

/* 40 answers of nearly 1 MiB that nobody reads: either they wait in bounded memory, the rest
 * unread, or the connection ends. What the peer then reads is whole lines. */
/* As one that is about to become another program has; what is freed is found by ASan. */
static void a_child_with_duplicates_of_all_files_does_no_harm(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);
	char line[512];
	say(fd, CALL(1, "echo", "{}"));
	assert_string_equal(
		hear(fd, line, sizeof(line)), "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}");
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0)
		for (;;)
			pause();
	/* The connection ends, whoever else has its file. */
	assert_int_equal(shutdown(fd, SHUT_RDWR), 0);
	close(fd);
	for (unsigned i = 0; i < 50; i++) {
		CLEANUP_CLOSE int other = connect_to(f->path);
		say(other, CALL(1, "echo", "{}"));
		assert_string_equal(hear(other, line, sizeof(line)),
			"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}");
	}
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
}

static void slow_readers_hold_bounded_memory(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = connect_to(f->path);
	CLEANUP_CLOSE int other = connect_to(f->path);
	CLEANUP_FREE char *big = malloc(MIB);
	assert_non_null(big);
	int n = snprintf(big, MIB, "{\"jsonrpc\":\"2.0\",\"method\":\"tell\",\"params\":{\"x\":\"");
	memset(big + n, 'x', 900000);
	memcpy(big + n + 900000, "\"}}\n", 5);
	struct timeval patience = { .tv_sec = 1 };
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	size_t length = strlen(big);
	for (int i = 0; i < 100; i++) {
		if (send(fd, big, length, MSG_NOSIGNAL) != (ssize_t)length)
			break;
		assert_true(i < 99);
	}
	char line[256];
	say(other, CALL(5, "echo", "{}"));
	assert_non_null(strstr(hear(other, line, sizeof(line)), "\"id\":5"));
}

/* 150 calls in one piece whose answers are far more than is held unread: each is answered as
 * the peer reads on. */
static void pipelined_calls_with_large_answers_all_come(void **state)
{
	struct fixture *f = *state;
	CLEANUP_CLOSE int fd = connect_to(f->path);
	CLEANUP(buf_free) struct buf calls = { 0 };
	for (int i = 0; i < 150; i++)
		assert_int_equal(buf_append_text(&calls, CALL(1, "much", "{}")), 0);
	say(fd, calls.data);
	static char block[65536];
	for (unsigned lines = 0; lines < 150;) {
		ssize_t n = recv(fd, block, sizeof(block), 0);
		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++)
			lines += block[i] == '\n';
	}
}

static void a_living_daemon_s_socket_is_not_taken(void **state)
{
	struct fixture *f = *state;
	struct control *second;
	struct error error = { 0 };
	assert_int_equal(control_new(f->path, NULL, &second), 0);
	assert_int_equal(control_start(second, &error), -EADDRINUSE);
	assert_non_null(strstr(error.message, f->path));
	control_free(second);
	CLEANUP_CLOSE int fd = connect_to(f->path);
	char line[256];
	say(fd, CALL(1, "echo", "{}"));
	assert_non_null(strstr(hear(fd, line, sizeof(line)), "\"id\":1"));
}

static void a_dead_daemon_s_socket_is_replaced(void **state)
{
	struct fixture *f = *state;
	control_free(f->control);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	memcpy(address.sun_path, f->path, strlen(f->path) + 1);
	CLEANUP_CLOSE int dead = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);

	struct error error = { 0 };
	assert_int_equal(control_new(f->path, NULL, &f->control), 0);
	assert_int_equal(control_register(f->control, "echo", echo, f), 0);
	assert_int_equal(control_start(f->control, &error), 0);
	CLEANUP_CLOSE int fd = connect_to(f->path);
	char line[256];
	say(fd, CALL(1, "echo", "{}"));
	assert_non_null(strstr(hear(fd, line, sizeof(line)), "\"id\":1"));
}

static void what_is_no_socket_is_left_alone(void **state)
{
	struct fixture *f = *state;
	char path[128];
	snprintf(path, sizeof(path), "%s/file", f->directory);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	struct control *control;
	struct error error = { 0 };
	assert_int_equal(control_new(path, NULL, &control), 0);
	assert_int_equal(control_start(control, &error), -EEXIST);
	control_free(control);
	assert_int_equal(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/file.lock", f->directory);
	assert_int_equal(unlink(path), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(calls_are_answered),
		TEST(the_socket_is_closed_to_others),
		TEST(batches_are_answered_in_one_line),
		TEST(a_slow_call_delays_nobody),
		TEST(a_connection_has_at_most_64_requests_under_way),
		TEST(half_closed_peers_get_their_answers),
		TEST(what_was_sent_before_a_close_is_obeyed),
		TEST(a_child_with_duplicates_of_all_files_does_no_harm),
		TEST(slow_readers_hold_bounded_memory),
		TEST(pipelined_calls_with_large_answers_all_come),
		TEST(a_living_daemon_s_socket_is_not_taken),
		TEST(a_dead_daemon_s_socket_is_replaced),
		TEST(what_is_no_socket_is_left_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
