/*
 * Lines and JSON-RPC messages.
 *
 * Invariants: rpc_lines never holds more than RPC_LINE_MAX bytes; a message with code set in a
 * call carries neither method nor parameters; every message has at least one call. Lines are read
 * by common/json.h, which is stricter than cJSON. Nothing here is shared between threads.
 */
#include "replicator/control_rpc.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"

static int deliver(struct rpc_lines *lines, const char *data, size_t n,
	enum rpc_line_kind *ret_kind, const char **ret_line, size_t *ret_length)
{
	const char *line = data;
	size_t length = n;
	if (lines->partial.len > 0) {
		int r = buf_append(&lines->partial, data, n);
		if (r < 0)
			return r;
		line = lines->partial.data;
		length = lines->partial.len;
		lines->partial.len = 0; /* the bytes stay until the next call */
	}
	if (length > 0 && line[length - 1] == '\r')
		length--;
	*ret_kind = RPC_LINE_WHOLE;
	*ret_line = line;
	*ret_length = length;
	return 0;
}

int rpc_lines_take(struct rpc_lines *lines, const char *data, size_t n,
	enum rpc_line_kind *ret_kind, size_t *ret_used, const char **ret_line, size_t *ret_length)
{
	if (lines->partial.len == 0)
		buf_free(&lines->partial); /* an idle connection holds no memory */
	const char *end = n > 0 ? memchr(data, '\n', n) : NULL;
	size_t here = end ? (size_t)(end - data) : n;
	size_t used = end ? here + 1 : n;
	bool too_long = here > RPC_LINE_MAX - lines->partial.len;

	if (lines->skipping || too_long) {
		*ret_kind = lines->skipping ? RPC_LINE_NONE : RPC_LINE_TOO_LONG;
		buf_free(&lines->partial);
		lines->skipping = !end;
	} else if (end) {
		int r = deliver(lines, data, here, ret_kind, ret_line, ret_length);
		if (r < 0)
			return r;
	} else {
		int r = buf_append(&lines->partial, data, n);
		if (r < 0)
			return r;
		*ret_kind = RPC_LINE_NONE;
	}
	*ret_used = used;
	return 0;
}

void rpc_lines_free(struct rpc_lines *lines)
{
	buf_free(&lines->partial);
	lines->skipping = false;
}

static void call_free(struct rpc_call *call)
{
	cJSON_Delete(call->id);
	cJSON_Delete(call->parameters);
	free(call->method);
	free(call->problem);
}

void rpc_message_free(struct rpc_message *message)
{
	for (unsigned i = 0; i < message->count; i++)
		call_free(&message->calls[i]);
	free(message->calls);
	*message = (struct rpc_message){ 0 };
}

/* 2^53 − 1: whole numbers up to it are what a double says they are. */
#define ID_MOST 9007199254740991.0

/* A number must come back as it was sent, and is kept as a double. */
static const char *id_problem(const cJSON *id)
{
	if (!id || cJSON_IsString(id) || cJSON_IsNull(id))
		return NULL;
	if (!cJSON_IsNumber(id))
		return "\"id\" must be a string, a number or null";
	double number = id->valuedouble;
	if (!(number >= -ID_MOST && number <= ID_MOST) || number != (double)(int64_t)number)
		return "an \"id\" that is a number must be a whole one within ±(2^53 − 1)";
	return NULL;
}

static const char *find_problem(const cJSON *json, enum rpc_code *ret_code)
{
	*ret_code = RPC_INVALID_REQUEST;
	if (!cJSON_IsObject(json))
		return "a call is an object";
	const cJSON *version = cJSON_GetObjectItemCaseSensitive(json, "jsonrpc");
	if (!cJSON_IsString(version) || strcmp(version->valuestring, "2.0") != 0)
		return "\"jsonrpc\" must be \"2.0\"";
	const char *problem = id_problem(cJSON_GetObjectItemCaseSensitive(json, "id"));
	if (problem)
		return problem;
	const cJSON *method = cJSON_GetObjectItemCaseSensitive(json, "method");
	if (!cJSON_IsString(method))
		return "\"method\" must be a string";
	*ret_code = RPC_INVALID_PARAMS;
	const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(json, "params");
	if (parameters && !cJSON_IsObject(parameters))
		return "\"params\" must be an object: parameters go by name";
	*ret_code = 0;
	return NULL;
}

/* A broken call without a usable id is answered with id null, as the specification wants. */
static int fill_call(cJSON *json, struct rpc_call *call)
{
	const char *problem = find_problem(json, &call->code);
	call->problem = problem ? strdup(problem) : NULL;
	if (problem && !call->problem)
		return -ENOMEM;
	cJSON *id = cJSON_GetObjectItemCaseSensitive(json, "id");
	if (id && !id_problem(id))
		call->id = cJSON_DetachItemViaPointer(json, id);
	if (call->code == RPC_INVALID_REQUEST && !call->id) {
		call->id = cJSON_CreateNull();
		return call->id ? 0 : -ENOMEM;
	}
	if (call->code)
		return 0;
	cJSON *parameters = cJSON_GetObjectItemCaseSensitive(json, "params");
	call->parameters =
		parameters ? cJSON_DetachItemViaPointer(json, parameters) : cJSON_CreateObject();
	call->method = strdup(cJSON_GetObjectItemCaseSensitive(json, "method")->valuestring);
	return call->parameters && call->method ? 0 : -ENOMEM;
}

static int single_problem(enum rpc_code code, const char *problem, struct rpc_message *ret_message)
{
	struct rpc_call *call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	call->id = cJSON_CreateNull();
	call->code = code;
	call->problem = strdup(problem);
	struct rpc_message message = { .calls = call, .count = 1 };
	if (!call->id || !call->problem) {
		rpc_message_free(&message);
		return -ENOMEM;
	}
	*ret_message = message;
	return 0;
}

int rpc_parse(const char *line, size_t length, struct rpc_message *ret_message)
{
	static const struct json_limits limits = { .bytes = RPC_LINE_MAX, .depth = RPC_DEPTH_MAX };
	struct error error = { 0 };
	CLEANUP(json_freep) cJSON *json = NULL;
	int r = json_parse(line, length, &limits, &json, &error);
	if (r == -ENOMEM)
		return r;
	if (r < 0)
		return single_problem(RPC_PARSE_ERROR, error.message, ret_message);

	struct rpc_message message = { .batch = cJSON_IsArray(json), .count = 1 };
	if (message.batch) {
		message.count = (unsigned)cJSON_GetArraySize(json);
		if (message.count == 0)
			return single_problem(
				RPC_INVALID_REQUEST, "the batch is empty", ret_message);
		if (message.count > RPC_BATCH_MAX)
			return single_problem(
				RPC_INVALID_REQUEST, "a batch has at most 1000 calls", ret_message);
	}
	message.calls = calloc(message.count, sizeof(*message.calls));
	if (!message.calls)
		return -ENOMEM;
	cJSON *item = message.batch ? json->child : json;
	for (unsigned i = 0; i < message.count; i++) {
		r = fill_call(item, &message.calls[i]);
		if (r < 0) {
			rpc_message_free(&message);
			return r;
		}
		item = item->next;
	}
	*ret_message = message;
	return 0;
}

/* cJSON itself would print no more than 15 digits. */
static cJSON *id_copy(const cJSON *id)
{
	char text[32];
	if (!id)
		return cJSON_CreateNull();
	if (!cJSON_IsNumber(id))
		return cJSON_Duplicate(id, true);
	snprintf(text, sizeof(text), "%" PRId64, (int64_t)id->valuedouble);
	return cJSON_CreateRaw(text);
}

/* {"jsonrpc": "2.0", "id": id} */
static cJSON *answer_new(const cJSON *id)
{
	cJSON *answer = cJSON_CreateObject();
	cJSON *copy = id_copy(id);
	if (!answer || !cJSON_AddStringToObject(answer, "jsonrpc", "2.0") || !copy ||
		!cJSON_AddItemToObject(answer, "id", copy)) {
		cJSON_Delete(answer);
		cJSON_Delete(copy);
		return NULL;
	}
	return answer;
}

cJSON *rpc_result(const cJSON *id, cJSON *result)
{
	cJSON *answer = answer_new(id);
	if (!result)
		result = cJSON_CreateNull();
	if (!answer || !result || !cJSON_AddItemToObject(answer, "result", result)) {
		cJSON_Delete(answer);
		cJSON_Delete(result);
		return NULL;
	}
	return answer;
}

cJSON *rpc_error(const cJSON *id, int code, const char *message, int exit, const char *cause,
	const char *mend)
{
	cJSON *answer = answer_new(id);
	cJSON *error = answer ? cJSON_AddObjectToObject(answer, "error") : NULL;
	cJSON *data = NULL;
	if (error && cJSON_AddNumberToObject(error, "code", code) &&
		cJSON_AddStringToObject(error, "message", message))
		data = cJSON_AddObjectToObject(error, "data");
	if (!data || !cJSON_AddNumberToObject(data, "exit", exit) ||
		!cJSON_AddStringToObject(data, "cause", cause) ||
		!cJSON_AddStringToObject(data, "mend", mend)) {
		cJSON_Delete(answer);
		return NULL;
	}
	return answer;
}
