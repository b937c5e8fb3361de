/*
 * A line is a JSON object: a greeting, an answer ("return", "error") or an event, which is dropped.
 */
#include "appliance/qemu_monitor.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/json.h"

#define ANSWER_NS (30 * NS_PER_S)
#define LINE_MAX_BYTES (1u << 20)

struct qemu_monitor {
	int fd;
	struct buf input;
};

int qemu_monitor_new(int fd, struct qemu_monitor **ret_monitor)
{
	struct qemu_monitor *monitor = calloc(1, sizeof(*monitor));
	if (!monitor)
		return -ENOMEM;
	monitor->fd = fd;
	*ret_monitor = monitor;
	return 0;
}

void qemu_monitor_free(struct qemu_monitor *monitor)
{
	if (!monitor)
		return;
	cleanup_close(&monitor->fd);
	buf_free(&monitor->input);
	free(monitor);
}

static int read_more(struct qemu_monitor *monitor, int64_t until_ns)
{
	char data[4096];
	int64_t left_ms = (until_ns - clock_monotonic_ns(clock_system())) / NS_PER_MS;
	struct pollfd pollfd = { .fd = monitor->fd, .events = POLLIN };
	if (left_ms <= 0)
		return -ETIMEDOUT;
	int ready = poll(&pollfd, 1, (int)left_ms);
	if (ready < 0)
		return errno == EINTR ? 0 : -errno;
	if (ready == 0)
		return -ETIMEDOUT;
	ssize_t n = recv(monitor->fd, data, sizeof(data), 0);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -EPIPE;
	if (monitor->input.len + (size_t)n > LINE_MAX_BYTES)
		return -E2BIG;
	return buf_append(&monitor->input, data, (size_t)n);
}

/* The next line that has a member `wanted` or, if not NULL, `other`. */
static int await(
	struct qemu_monitor *monitor, const char *wanted, const char *other, cJSON **ret_json)
{
	int64_t until_ns = clock_monotonic_ns(clock_system()) + ANSWER_NS;
	for (;;) {
		struct buf *input = &monitor->input;
		char *end = input->len > 0 ? memchr(input->data, '\n', input->len) : NULL;
		if (!end) {
			int r = read_more(monitor, until_ns);
			if (r < 0)
				return r;
			continue;
		}
		size_t n = (size_t)(end - input->data);
		cJSON *json = NULL;
		int r = json_parse(input->data, n, NULL, &json, NULL);
		input->len -= n + 1;
		memmove(input->data, end + 1, input->len);
		if (r < 0)
			return r;
		if (cJSON_HasObjectItem(json, wanted) ||
			(other && cJSON_HasObjectItem(json, other))) {
			*ret_json = json;
			return 0;
		}
		cJSON_Delete(json);
	}
}

static int say(struct qemu_monitor *monitor, const struct buf *line)
{
	size_t sent = 0;
	while (sent < line->len) {
		ssize_t n = send(monitor->fd, line->data + sent, line->len - sent, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		sent += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int execute(struct qemu_monitor *monitor, const cJSON *command, struct error *error)
{
	CLEANUP(buf_free) struct buf line = { 0 };
	CLEANUP(json_freep) cJSON *answer = NULL;
	int r = json_print(command, false, &line);
	if (r == 0)
		r = buf_printf(&line, "\n");
	if (r == 0)
		r = say(monitor, &line);
	if (r == 0)
		r = await(monitor, "return", "error", &answer);
	if (r < 0)
		return error_set(error, r, NULL, "QEMU does not answer: %s", strerrordesc_np(-r));
	const cJSON *refusal = cJSON_GetObjectItemCaseSensitive(answer, "error");
	const cJSON *words = cJSON_GetObjectItemCaseSensitive(refusal, "desc");
	if (refusal)
		return error_set(error, -EIO, NULL, "QEMU refused: %.200s",
			cJSON_IsString(words) ? words->valuestring : "no reason given");
	return 0;
}

int qemu_monitor_greet(struct qemu_monitor *monitor)
{
	CLEANUP(json_freep) cJSON *greeting = NULL;
	CLEANUP(json_freep) cJSON *command = NULL;
	int r = await(monitor, "QMP", NULL, &greeting);
	if (r == 0)
		r = json_new_object(&command);
	if (r == 0)
		r = json_add_text(command, "execute", "qmp_capabilities");
	return r == 0 ? execute(monitor, command, NULL) : r;
}

int qemu_monitor_screendump(struct qemu_monitor *monitor, const char *path, struct error *error)
{
	CLEANUP(json_freep) cJSON *command = NULL;
	cJSON *arguments;
	int r = json_new_object(&command);
	if (r == 0)
		r = json_add_text(command, "execute", "screendump");
	if (r == 0)
		r = json_add_object(command, "arguments", &arguments);
	if (r == 0)
		r = json_add_text(arguments, "filename", path);
	if (r == 0)
		r = json_add_text(arguments, "format", "png");
	if (r < 0)
		return error_set(error, r, NULL, "no memory");
	return execute(monitor, command, error);
}
