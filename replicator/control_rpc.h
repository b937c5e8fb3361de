/*
 * What travels over the control socket: lines out of a stream of bytes, and JSON-RPC 2.0 calls
 * out of a line (https://www.jsonrpc.org/specification). Pure: no sockets, no threads, so that it
 * can be fuzzed and tested alone.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "common/error.h"

struct cJSON;

#define RPC_LINE_MAX (1u << 20) /* bytes of a line, its newline not counted */
#define RPC_BATCH_MAX 1000u     /* calls of a batch */
#define RPC_DEPTH_MAX 32u       /* of nesting */

enum rpc_code {
	RPC_PARSE_ERROR = -32700,
	RPC_INVALID_REQUEST = -32600,
	RPC_METHOD_NOT_FOUND = -32601,
	RPC_INVALID_PARAMS = -32602,
	RPC_INTERNAL_ERROR = -32603,
	RPC_APPLICATION = -32000, /* minus the exit code */
};

/* Cuts a stream into lines; {0} is a fresh one. Holds at most RPC_LINE_MAX bytes whatever comes:
 * the rest of a longer line is passed over. */
struct rpc_lines {
	struct buf partial;
	bool skipping; /* within a line that is too long already */
};

enum rpc_line_kind { RPC_LINE_NONE, RPC_LINE_WHOLE, RPC_LINE_TOO_LONG };

/* Takes bytes from `data` up to the end of a line or of `n`. RPC_LINE_WHOLE: the line (without
 * newline or carriage return) is at *ret_line, borrowed until the next call. RPC_LINE_TOO_LONG:
 * one has just become too long (told once a line). RPC_LINE_NONE: more bytes are needed.
 * *ret_used bytes are done with. -ENOMEM. */
int rpc_lines_take(struct rpc_lines *lines, const char *data, size_t n,
	enum rpc_line_kind *ret_kind, size_t *ret_used, const char **ret_line, size_t *ret_length);
void rpc_lines_free(struct rpc_lines *lines);

struct rpc_call {
	struct cJSON *id;         /* owned; NULL: a notification, never answered */
	char *method;             /* owned; NULL if code is set */
	struct cJSON *parameters; /* owned object; NULL if code is set */
	enum rpc_code code;       /* 0, or why this is not a call */
	char *problem;            /* owned; set if code is */
};

struct rpc_message {
	bool batch; /* the answer is an array, or nothing if all are notifications */
	struct rpc_call *calls;
	unsigned count;
};

/* Reads a line. What is malformed becomes a call with `code` set and the id it could find (else
 * null), to be answered as an error. Only -ENOMEM is an error of this function. */
int rpc_parse(const char *line, size_t length, struct rpc_message *ret_message);
void rpc_message_free(struct rpc_message *message);

/* Answers as cJSON owned by the caller; NULL if there is no memory. `id` is copied, NULL means
 * null. rpc_result takes `result` over (NULL: null), also if it fails. */
struct cJSON *rpc_result(const struct cJSON *id, struct cJSON *result);
struct cJSON *rpc_error(const struct cJSON *id, int code, const char *message, int exit,
	const char *cause, const char *mend);
