/*
 * Lines and JSON-RPC messages.
 *
 * Invariants: rpc_lines never holds more than RPC_LINE_MAX bytes; a message with code set in a
 * call carries neither method nor parameters; every message has at least one call. What cJSON
 * does not check is checked before it sees the line: UTF-8, and the escape \u0000, which would
 * cut a C string short. Nothing here is shared between threads.
 */
#include "replicator/control_rpc.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

static size_t utf8_sequence_length(const unsigned char *p, size_t n)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t length;
	if (p[0] < 0x80)
		return p[0] != 0;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		length = 2;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		length = 3;
		low = p[0] == 0xe0 ? 0xa0 : 0x80;
		high = p[0] == 0xed ? 0x9f : 0xbf;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		length = 4;
		low = p[0] == 0xf0 ? 0x90 : 0x80;
		high = p[0] == 0xf4 ? 0x8f : 0xbf;
	} else {
		return 0;
	}
	if (n < length || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return length;
}

bool utf8_is_valid(const char *text, size_t n)
{
	const unsigned char *p = (const unsigned char *)text;
	while (n > 0) {
		size_t length = utf8_sequence_length(p, n);
		if (length == 0)
			return false;
		p += length;
		n -= length;
	}
	return true;
}

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
}

void rpc_message_free(struct rpc_message *message)
{
	for (unsigned i = 0; i < message->count; i++)
		call_free(&message->calls[i]);
	free(message->calls);
	*message = (struct rpc_message){ 0 };
}

static const char *find_problem(const cJSON *json, enum rpc_code *ret_code)
{
	*ret_code = RPC_INVALID_REQUEST;
	if (!cJSON_IsObject(json))
		return "a call is an object";
	const cJSON *version = cJSON_GetObjectItemCaseSensitive(json, "jsonrpc");
	if (!cJSON_IsString(version) || strcmp(version->valuestring, "2.0") != 0)
		return "\"jsonrpc\" must be \"2.0\"";
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(json, "id");
	if (id && !cJSON_IsString(id) && !cJSON_IsNumber(id) && !cJSON_IsNull(id))
		return "\"id\" must be a string, a number or null";
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
	call->problem = find_problem(json, &call->code);
	cJSON *id = cJSON_GetObjectItemCaseSensitive(json, "id");
	if (cJSON_IsString(id) || cJSON_IsNumber(id) || cJSON_IsNull(id))
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
	call->problem = problem;
	if (!call->id) {
		free(call);
		return -ENOMEM;
	}
	*ret_message = (struct rpc_message){ .calls = call, .count = 1 };
	return 0;
}

static bool has_nul_escape(const char *line, size_t length)
{
	for (size_t i = 0; i + 1 < length; i++) {
		if (line[i] != '\\')
			continue;
		if (length - i >= 6 && memcmp(line + i + 1, "u0000", 5) == 0)
			return true;
		i++; /* what is escaped, be it a backslash */
	}
	return false;
}

static void delete_json(cJSON **json)
{
	cJSON_Delete(*json);
}

int rpc_parse(const char *line, size_t length, struct rpc_message *ret_message)
{
	if (!utf8_is_valid(line, length))
		return single_problem(RPC_PARSE_ERROR, "the line is not UTF-8 text", ret_message);
	if (has_nul_escape(line, length))
		return single_problem(
			RPC_PARSE_ERROR, "the line holds a NUL character", ret_message);
	const char *end = NULL;
	CLEANUP(delete_json) cJSON *json = cJSON_ParseWithLengthOpts(line, length, &end, false);
	if (!json)
		return single_problem(RPC_PARSE_ERROR, "the line is not JSON", ret_message);
	for (; end < line + length; end++) {
		if (*end && !strchr(" \t\r", *end))
			return single_problem(RPC_PARSE_ERROR,
				"there is something after the end of the JSON", ret_message);
	}

	struct rpc_message message = { .batch = cJSON_IsArray(json), .count = 1 };
	if (message.batch) {
		message.count = (unsigned)cJSON_GetArraySize(json);
		if (message.count == 0)
			return single_problem(
				RPC_INVALID_REQUEST, "the batch is empty", ret_message);
	}
	message.calls = calloc(message.count, sizeof(*message.calls));
	if (!message.calls)
		return -ENOMEM;
	cJSON *item = message.batch ? json->child : json;
	for (unsigned i = 0; i < message.count; i++) {
		int r = fill_call(item, &message.calls[i]);
		if (r < 0) {
			rpc_message_free(&message);
			return r;
		}
		item = item->next;
	}
	*ret_message = message;
	return 0;
}

/* {"jsonrpc": "2.0", "id": id} */
static cJSON *answer_new(const cJSON *id)
{
	cJSON *answer = cJSON_CreateObject();
	cJSON *copy = id ? cJSON_Duplicate(id, true) : cJSON_CreateNull();
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
