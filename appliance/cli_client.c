/*
 * The socket's end: one connection, calls one after another, notifications in between.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

#define ANSWER_BYTES_MAX (256u << 20)

static int unreachable(struct cli *cli, struct cli_error *error, int code)
{
	bool refused = code == -EACCES || code == -EPERM;
	*error = (struct cli_error){ .exit = refused ? EXIT_NOT_PERMITTED : EXIT_UNREACHABLE };
	error->code = -32000 - (int)error->exit;
	snprintf(error->cause, sizeof(error->cause), "%s", strerrordesc_np(-code));
	if (refused)
		return error_set(&error->error, code, "become root or a member of group landfall",
			"you may not use the control socket %s", cli->socket_path);
	return error_set(&error->error, code,
		"start it (systemctl start landfalld), or name its socket with --socket",
		"landfalld cannot be reached at %s: %s", cli->socket_path, error->cause);
}

static int lost(struct cli *cli, struct cli_error *error)
{
	*error = (struct cli_error){ .exit = EXIT_UNREACHABLE, .code = -32006 };
	snprintf(error->cause, sizeof(error->cause), "%s", strerrordesc_np(ECONNRESET));
	return error_set(&error->error, -ECONNRESET, "see its log: journalctl -u landfalld",
		"landfalld at %s closed the connection", cli->socket_path);
}

static int broken(struct cli_error *error, int code, const char *what)
{
	*error = (struct cli_error){ .exit = EXIT_FAILED, .code = -32001 };
	snprintf(error->cause, sizeof(error->cause), "%s", strerrordesc_np(-code));
	return error_set(&error->error, code, NULL, "%s", what);
}

static int open_connection(struct cli *cli, struct cli_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (cli->fd >= 0)
		return 0;
	if (strlen(cli->socket_path) >= sizeof(address.sun_path))
		return unreachable(cli, error, -ENAMETOOLONG);
	memcpy(address.sun_path, cli->socket_path, strlen(cli->socket_path) + 1);
	cli->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (cli->fd < 0 || connect(cli->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int r = -errno;
		cli_close(cli);
		return unreachable(cli, error, r);
	}
	return 0;
}

void cli_close(struct cli *cli)
{
	if (cli->fd >= 0)
		close(cli->fd);
	cli->fd = -1;
	buf_free(&cli->input);
}

static int send_all(struct cli *cli, const char *text, size_t n, struct cli_error *error)
{
	while (n > 0) {
		ssize_t sent = send(cli->fd, text, n, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return lost(cli, error);
		text += sent;
		n -= (size_t)sent;
	}
	return 0;
}

static int send_call(
	struct cli *cli, const char *method, const cJSON *parameters, struct cli_error *error)
{
	CLEANUP(buf_free) struct buf line = { 0 };
	CLEANUP(json_freep) cJSON *call = cJSON_CreateObject();
	cJSON *copy = parameters ? cJSON_Duplicate(parameters, true) : cJSON_CreateObject();
	int r = -ENOMEM;
	if (call && copy && cJSON_AddStringToObject(call, "jsonrpc", "2.0") &&
		cJSON_AddNumberToObject(call, "id", (double)++cli->last_id) &&
		cJSON_AddStringToObject(call, "method", method) &&
		cJSON_AddItemToObject(call, "params", copy)) {
		copy = NULL;
		r = json_print(call, false, &line);
	}
	cJSON_Delete(copy);
	if (r == 0)
		r = buf_append_text(&line, "\n");
	if (r < 0)
		return broken(error, r, "no memory for the call");
	return send_all(cli, line.data, line.len, error);
}

/* The next line as JSON. -EINTR if a signal came first. */
static int receive(struct cli *cli, struct cli_error *error, cJSON **ret_json)
{
	for (;;) {
		char *end = cli->input.len ? memchr(cli->input.data, '\n', cli->input.len) : NULL;
		if (end) {
			size_t n = (size_t)(end - cli->input.data);
			struct error problem = { 0 };
			int r = json_parse(cli->input.data, n, NULL, ret_json, &problem);
			memmove(cli->input.data, end + 1, cli->input.len - n - 1);
			cli->input.len -= n + 1;
			return r < 0 ? broken(error, r, "landfalld's answer cannot be read") : 0;
		}
		if (cli->input.len > ANSWER_BYTES_MAX)
			return broken(error, -EFBIG, "landfalld's answer is too long");
		if (buf_reserve(&cli->input, 65536) < 0)
			return broken(error, -ENOMEM, "no memory for the answer");
		/* Blocked signals are let in here alone, so none is lost before the wait. */
		struct pollfd wait = { .fd = cli->fd, .events = POLLIN };
		if (ppoll(&wait, 1, NULL, cli->wait_mask) < 0 && errno == EINTR)
			return -EINTR;
		ssize_t n = recv(cli->fd, cli->input.data + cli->input.len, 65536, 0);
		if (n < 0 && errno == EINTR)
			return -EINTR;
		if (n <= 0)
			return lost(cli, error);
		cli->input.len += (size_t)n;
	}
}

static void fill_error(const cJSON *json, struct cli_error *error)
{
	const cJSON *data = cli_get(json, "data");
	int exit = (int)cli_get_u64(data, "exit");
	*error = (struct cli_error){ 0 };
	error->code = (int)cli_get_number(json, "code");
	error->exit =
		exit > EXIT_DONE && exit <= EXIT_UNREACHABLE ? (enum exit_code)exit : EXIT_FAILED;
	snprintf(error->cause, sizeof(error->cause), "%s", cli_get_text(data, "cause"));
	error_set(&error->error, -EREMOTEIO, cli_get_text(data, "mend"), "%s",
		cli_get_text(json, "message"));
}

static void hand_out(struct cli *cli, const cJSON *message)
{
	const cJSON *parameters = cli_get(message, "params");
	if (cli->notified && parameters)
		cli->notified(cli->notified_context, parameters);
}

int cli_call(struct cli *cli, const char *method, const cJSON *parameters,
	struct cli_error *ret_error, cJSON **ret_result)
{
	int r = open_connection(cli, ret_error);
	if (r == 0)
		r = send_call(cli, method, parameters, ret_error);
	while (r == 0) {
		CLEANUP(json_freep) cJSON *answer = NULL;
		r = receive(cli, ret_error, &answer);
		if (r == -EINTR) {
			r = broken(ret_error, r, "interrupted");
			break;
		}
		if (r < 0)
			break;
		if (cli_has(answer, "method")) {
			hand_out(cli, answer);
			continue;
		}
		const cJSON *problem = cli_get(answer, "error");
		if (problem) {
			fill_error(problem, ret_error);
			return ret_error->error.code;
		}
		cJSON *result = cJSON_GetObjectItemCaseSensitive(answer, "result");
		if (!result)
			return broken(ret_error, -EPROTO, "landfalld's answer has no result");
		*ret_result = cJSON_DetachItemViaPointer(answer, result);
		return 0;
	}
	return r;
}

int cli_wait(struct cli *cli, struct cli_error *ret_error)
{
	CLEANUP(json_freep) cJSON *message = NULL;
	int r = receive(cli, ret_error, &message);
	if (r == 0)
		hand_out(cli, message);
	return r;
}
