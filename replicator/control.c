/*
 * The control socket's methods and the pool of threads that runs them.
 *
 * The poll thread cuts lines (control_poll.c) and puts each as a task into a queue; threads of
 * the pool parse, call and answer. A thread is made when a task finds none idle, up to 128, and
 * kept until the end: operators are few, and a slow call must not delay another's. A batch is one
 * task: its calls run one after another, its answer is one line. The table of methods does not
 * change once started and is read without a lock.
 */
#include "replicator/control.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json_check.h"
#include "common/log.h"
#include "replicator/control_internal.h"

int control_new(const char *path, const char *group, struct control **ret_control)
{
	struct control *control = calloc(1, sizeof(*control));
	if (!control)
		return -ENOMEM;
	control->lock_fd = control->listen_fd = control->epoll_fd = control->stop_fd = -1;
	pthread_mutex_init(&control->lock, NULL);
	pthread_cond_init(&control->work, NULL);
	control->path = strdup(path);
	control->group = group ? strdup(group) : NULL;
	if (!control->path || (group && !control->group)) {
		control_free(control);
		return -ENOMEM;
	}
	*ret_control = control;
	return 0;
}

static const struct control_entry *find_entry(const struct control *control, const char *name)
{
	for (unsigned i = 0; i < control->entry_count; i++) {
		if (strcmp(control->entries[i].name, name) == 0)
			return &control->entries[i];
	}
	return NULL;
}

int control_register(
	struct control *control, const char *name, control_method *method, void *context)
{
	if (control->started)
		return -EBUSY;
	if (find_entry(control, name))
		return -EEXIST;
	struct control_entry *entries =
		reallocarray(control->entries, control->entry_count + 1, sizeof(*control->entries));
	if (!entries)
		return -ENOMEM;
	control->entries = entries;
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	entries[control->entry_count++] =
		(struct control_entry){ .name = copy, .method = method, .context = context };
	return 0;
}

static cJSON *call_method(
	const struct control_entry *entry, struct control_peer *peer, const struct rpc_call *call)
{
	struct error error = { 0 };
	cJSON *result = NULL;
	int r = entry->method(entry->context, peer, call->parameters, &error, &result);
	if (r >= 0)
		return rpc_result(call->id, result);
	const char *cause = strerrordesc_np(-r);
	if (!cause)
		cause = "unknown error";
	if (error.code == 0)
		error_set(&error, r, NULL, "%s: %s", call->method, cause);
	int exit = (int)exit_code_of(r);
	return rpc_error(call->id, RPC_APPLICATION - exit, error.message, exit, cause, error.mend);
}

static cJSON *run_call(
	const struct control *control, struct control_peer *peer, const struct rpc_call *call)
{
	if (call->code)
		return rpc_error(
			call->id, (int)call->code, call->problem, EXIT_USAGE, "bad request", "");
	if (!peer->permitted)
		return rpc_error(call->id, RPC_APPLICATION - EXIT_NOT_PERMITTED,
			"you may not operate this appliance", EXIT_NOT_PERMITTED,
			strerrordesc_np(EPERM), "become root or a member of group landfall");
	const struct control_entry *entry = find_entry(control, call->method);
	if (!entry) {
		char text[128];
		snprintf(text, sizeof(text), "there is no method \"%.64s\"", call->method);
		return rpc_error(
			call->id, RPC_METHOD_NOT_FOUND, text, EXIT_USAGE, "unknown method", "");
	}
	return call_method(entry, peer, call);
}

/* *ret_answer stays NULL if nothing is to be answered. */
static int run_message(const struct control *control, struct control_peer *peer,
	const struct rpc_message *message, cJSON **ret_answer)
{
	cJSON *answers = NULL;
	for (unsigned i = 0; i < message->count; i++) {
		cJSON *answer = run_call(control, peer, &message->calls[i]);
		if (!message->calls[i].id) {
			cJSON_Delete(answer);
			continue;
		}
		if (answer && !message->batch) {
			*ret_answer = answer;
			return 0;
		}
		if (answer && !answers)
			answers = cJSON_CreateArray();
		if (!answer || !answers || !cJSON_AddItemToArray(answers, answer)) {
			cJSON_Delete(answer);
			cJSON_Delete(answers);
			return -ENOMEM;
		}
	}
	*ret_answer = answers;
	return 0;
}

static cJSON *too_long_answer(void)
{
	return rpc_error(NULL, RPC_INVALID_REQUEST, "the line is longer than 1 MiB", EXIT_USAGE,
		"bad request", "split the request");
}

static int answer_line(
	const struct control *control, const struct control_task *task, cJSON **ret_answer)
{
	if (!task->line) {
		*ret_answer = too_long_answer();
		return *ret_answer ? 0 : -ENOMEM;
	}
	struct rpc_message message;
	int r = rpc_parse(task->line, task->length, &message);
	if (r < 0)
		return r;
	r = run_message(control, task->peer, &message, ret_answer);
	rpc_message_free(&message);
	return r;
}

/* Answers carry words of others (a file's name, a server's message), which may be cut within a
 * character or no UTF-8 at all: rather than an answer that cannot be read, '?' for what is not
 * ASCII. */
static void repair_text(char *text, size_t n)
{
	if (json_check(text, n, 2 * RPC_DEPTH_MAX, NULL) == 0)
		return;
	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)text[i] >= 0x80)
			text[i] = '?';
	}
}

static void run_task(const struct control *control, const struct control_task *task)
{
	static const char no_memory[] =
		"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32603,"
		"\"message\":\"no memory\",\"data\":{\"exit\":1,"
		"\"cause\":\"Cannot allocate memory\",\"mend\":\"\"}}}\n";
	cJSON *answer = NULL;
	int r = answer_line(control, task, &answer);
	char *text = answer ? cJSON_PrintUnformatted(answer) : NULL;
	if (text) {
		size_t n = strlen(text);
		repair_text(text, n);
		text[n] = '\n'; /* in the NUL's place: lengths are what counts from here */
		(void)control_peer_send(task->peer, text, n + 1);
	} else if (r < 0 || answer) {
		(void)control_peer_send(task->peer, no_memory, sizeof(no_memory) - 1);
	}
	cJSON_free(text);
	cJSON_Delete(answer);
	control_peer_done(task->peer);
}

static void task_free(struct control_task *task)
{
	control_peer_release(task->peer);
	free(task->line);
	free(task);
}

static struct control_task *next_task(struct control *control)
{
	SCOPED_LOCK(&control->lock);
	while (!control->first && !control->stopping) {
		control->idle_count++;
		pthread_cond_wait(&control->work, &control->lock);
		control->idle_count--;
	}
	struct control_task *task = control->first;
	if (task) {
		control->first = task->next;
		control->queued_count--;
		if (!control->first)
			control->last = NULL;
	}
	return task;
}

static void *worker_run(void *context)
{
	struct control *control = context;
	struct control_task *task;
	while ((task = next_task(control)) != NULL) {
		run_task(control, task);
		task_free(task);
	}
	return NULL;
}

/* Under the lock. Failing to make a thread matters only if there is none at all. */
static int add_thread_if_needed(struct control *control)
{
	if (control->idle_count >= control->queued_count ||
		control->thread_count == CONTROL_THREADS_MAX)
		return 0;
	pthread_t *thread = &control->threads[control->thread_count];
	int r = pthread_create(thread, NULL, worker_run, control);
	if (r == 0)
		control->thread_count++;
	return control->thread_count > 0 ? 0 : -r;
}

int control_submit(struct control *control, struct control_peer *peer, const char *line,
	size_t length, bool too_long)
{
	struct control_task *task = calloc(1, sizeof(*task));
	char *copy = too_long ? NULL : malloc(length + 1);
	if (!task || (!copy && !too_long)) {
		free(task);
		free(copy);
		control_peer_done(peer);
		return -ENOMEM;
	}
	if (copy) {
		memcpy(copy, line, length);
		copy[length] = '\0';
	}
	*task = (struct control_task){
		.peer = control_peer_hold(peer), .line = copy, .length = length
	};
	SCOPED_LOCK(&control->lock);
	if (control->last)
		control->last->next = task;
	else
		control->first = task;
	control->last = task;
	control->queued_count++;
	pthread_cond_signal(&control->work);
	return add_thread_if_needed(control);
}

static unsigned connection_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 256;
	rlim_t files = MIN(limit.rlim_cur, (rlim_t)1 << 20);
	rlim_t most = files / 2;
	if (files > CONTROL_SPARE_FILES)
		most = MAX(most, files - CONTROL_SPARE_FILES);
	return (unsigned)most;
}

static int watch_files(struct control *control)
{
	control->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	control->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->epoll_fd < 0 || control->stop_fd < 0)
		return -errno;
	struct epoll_event listening = { .events = EPOLLIN, .data.ptr = control };
	struct epoll_event stopping = { .events = EPOLLIN, .data.ptr = &control->stop_fd };
	if (epoll_ctl(control->epoll_fd, EPOLL_CTL_ADD, control->listen_fd, &listening) < 0 ||
		epoll_ctl(control->epoll_fd, EPOLL_CTL_ADD, control->stop_fd, &stopping) < 0)
		return -errno;
	return 0;
}

int control_start(struct control *control, struct error *error)
{
	int r = control_listen(control, error);
	if (r < 0)
		return r;
	control->peer_max = connection_limit();
	r = watch_files(control);
	if (r == 0)
		r = -pthread_create(&control->poll_thread, NULL, control_poll_run, control);
	if (r < 0)
		return error_set(
			error, r, NULL, "cannot serve %s: %s", control->path, strerrordesc_np(-r));
	control->started = true;
	return 0;
}

static void task_free_all(struct control_task *task)
{
	while (task) {
		struct control_task *next = task->next;
		task_free(task);
		task = next;
	}
}

/* The poll thread first: it alone uses the listening socket. */
static void stop_threads(struct control *control)
{
	uint64_t one = 1;
	(void)!write(control->stop_fd, &one, sizeof(one));
	pthread_join(control->poll_thread, NULL);
	control_unlisten(control);
	{
		SCOPED_LOCK(&control->lock);
		control->stopping = true;
		pthread_cond_broadcast(&control->work);
	}
	for (unsigned i = 0; i < control->thread_count; i++)
		pthread_join(control->threads[i], NULL);
}

/* The last answers may still be on their way out: what the peers' buffers take, they get. */
static void close_peers(struct control *control)
{
	while (control->peers) {
		struct control_peer *peer = control->peers;
		control->peers = peer->next;
		(void)control_peer_flush(peer);
		control_peer_close(peer);
	}
}

void control_free(struct control *control)
{
	if (!control)
		return;
	if (control->started)
		stop_threads(control);
	control_unlisten(control);
	task_free_all(control->first);
	close_peers(control);
	cleanup_close(&control->epoll_fd);
	cleanup_close(&control->stop_fd);
	cleanup_close(&control->lock_fd);
	for (unsigned i = 0; i < control->entry_count; i++)
		free(control->entries[i].name);
	free(control->entries);
	pthread_cond_destroy(&control->work);
	pthread_mutex_destroy(&control->lock);
	free(control->path);
	free(control->group);
	free(control);
}
