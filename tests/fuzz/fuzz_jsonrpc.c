/*
 * Any bytes on the control socket: cut into lines in pieces of varying size, each line parsed,
 * answered and printed. The first byte picks the size of the pieces.
 */
#include <stdint.h>
#include <stdlib.h>

#include <cjson/cJSON.h>

#include "replicator/control_rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(const char *line, size_t length)
{
	struct rpc_message message;
	if (rpc_parse(line, length, &message) < 0)
		return;
	if (message.count == 0)
		abort();
	for (unsigned i = 0; i < message.count; i++) {
		const struct rpc_call *call = &message.calls[i];
		if ((call->code == 0) != (call->method && call->parameters))
			abort();
		cJSON *json = rpc_error(call->id, call->code, call->method ? call->method : "x", 1,
			call->problem ? call->problem : "", "");
		char *text = cJSON_PrintUnformatted(json);
		if (!text)
			abort();
		cJSON_free(text);
		cJSON_Delete(json);
	}
	rpc_message_free(&message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	size_t piece = (size_t)data[0] + 1;
	struct rpc_lines lines = { 0 };
	for (size_t at = 1; at < size;) {
		size_t n = size - at < piece ? size - at : piece, used = 0, length = 0;
		const char *line = NULL;
		enum rpc_line_kind kind;
		if (rpc_lines_take(
			    &lines, (const char *)data + at, n, &kind, &used, &line, &length) < 0)
			break;
		if (used == 0 || used > n)
			abort();
		at += used;
		if (kind == RPC_LINE_WHOLE)
			answer(line, length);
	}
	rpc_lines_free(&lines);
	return 0;
}
