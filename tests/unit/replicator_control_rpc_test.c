/*
 * replicator/control_rpc.c: lines out of bytes, calls out of lines; and control_exit.c.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/control.h"
#include "replicator/control_rpc.h"

/* Feeds `text` in pieces and writes the lines found, '|' after each, '!' for one too long. */
static void cut(const char *text, size_t piece, char *out, size_t out_bytes)
{
	struct rpc_lines lines = { 0 };
	size_t n = strlen(text), at = 0, written = 0;
	out[0] = '\0';
	while (at < n) {
		const char *line = NULL;
		size_t used = 0, length = 0;
		enum rpc_line_kind kind;
		assert_int_equal(rpc_lines_take(&lines, text + at, MIN(piece, n - at), &kind, &used,
					 &line, &length),
			0);
		assert_true(used > 0);
		at += used;
		if (kind == RPC_LINE_WHOLE)
			written += (size_t)snprintf(
				out + written, out_bytes - written, "%.*s|", (int)length, line);
		else if (kind == RPC_LINE_TOO_LONG)
			written += (size_t)snprintf(out + written, out_bytes - written, "!");
	}
	rpc_lines_free(&lines);
}

static void lines_are_cut_whatever_the_pieces(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < 12; piece++) {
		char out[64];
		cut("one\n\ntwo\r\nthree\nrest", piece, out, sizeof(out));
		assert_string_equal(out, "one||two|three|");
	}
}

static void long_lines_are_skipped_without_being_held(void **state)
{
	(void)state;
	struct rpc_lines lines = { 0 };
	CLEANUP_FREE char *piece = malloc(65536);
	assert_non_null(piece);
	memset(piece, 'x', 65536);
	unsigned told = 0;
	const char *line = NULL;
	size_t used, length = 0;
	enum rpc_line_kind kind;
	for (int i = 0; i < 64; i++) {
		assert_int_equal(
			rpc_lines_take(&lines, piece, 65536, &kind, &used, &line, &length), 0);
		assert_int_equal(used, 65536);
		told += kind == RPC_LINE_TOO_LONG;
		assert_true(lines.partial.len <= RPC_LINE_MAX);
		if (told)
			assert_null(lines.partial.data);
	}
	assert_int_equal(told, 1);
	assert_int_equal(rpc_lines_take(&lines, "x\nnext\n", 7, &kind, &used, &line, &length), 0);
	assert_int_equal(kind, RPC_LINE_NONE);
	assert_int_equal(used, 2);
	assert_int_equal(rpc_lines_take(&lines, "next\n", 5, &kind, &used, &line, &length), 0);
	assert_int_equal(kind, RPC_LINE_WHOLE);
	assert_memory_equal(line, "next", 4);
	rpc_lines_free(&lines);
}

static void the_longest_line_is_taken_and_one_byte_more_is_not(void **state)
{
	(void)state;
	for (size_t extra = 0; extra < 2; extra++) {
		struct rpc_lines lines = { 0 };
		size_t n = RPC_LINE_MAX + extra;
		CLEANUP_FREE char *text = malloc(n + 1);
		assert_non_null(text);
		memset(text, 'y', n);
		text[n] = '\n';
		const char *line = NULL;
		size_t used, length = 0;
		enum rpc_line_kind kind;
		assert_int_equal(
			rpc_lines_take(&lines, text, n + 1, &kind, &used, &line, &length), 0);
		assert_int_equal(kind, extra ? RPC_LINE_TOO_LONG : RPC_LINE_WHOLE);
		assert_int_equal(used, n + 1);
		assert_false(lines.skipping);
		rpc_lines_free(&lines);
	}
}

static enum rpc_code code_of(const char *line)
{
	struct rpc_message message;
	assert_int_equal(rpc_parse(line, strlen(line), &message), 0);
	assert_int_equal(message.count, 1);
	enum rpc_code code = message.calls[0].code;
	if (code == RPC_PARSE_ERROR || code == RPC_INVALID_REQUEST)
		assert_non_null(message.calls[0].id);
	rpc_message_free(&message);
	return code;
}

static void a_call_is_read(void **state)
{
	(void)state;
	const char *line = "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"status\","
			   "\"params\":{\"machine\":\"web\"}} \r";
	struct rpc_message message;
	assert_int_equal(rpc_parse(line, strlen(line), &message), 0);
	assert_false(message.batch);
	assert_int_equal(message.count, 1);
	assert_int_equal(message.calls[0].code, 0);
	assert_string_equal(message.calls[0].method, "status");
	assert_string_equal(message.calls[0].id->valuestring, "a");
	assert_string_equal(
		cJSON_GetObjectItem(message.calls[0].parameters, "machine")->valuestring, "web");
	rpc_message_free(&message);
}

static void what_is_no_call_is_told_by_code(void **state)
{
	(void)state;
	static const char *const no_json[] = { "", "x", "{", "{\"jsonrpc\":\"2.0\"", "[1,", "{} {}",
		"\"\\u0000\"", "\xff", "{\"a\":\"\xc3\"}" };
	static const char *const no_call[] = { "1", "\"x\"", "null", "[]", "{}",
		"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"x\"}", "{\"jsonrpc\":\"2.0\",\"id\":1}",
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":1}",
		"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"x\"}", "[1]" };
	for (size_t i = 0; i < ARRAY_SIZE(no_json); i++)
		assert_int_equal(code_of(no_json[i]), RPC_PARSE_ERROR);
	for (size_t i = 0; i < ARRAY_SIZE(no_call); i++)
		assert_int_equal(code_of(no_call[i]), RPC_INVALID_REQUEST);
	assert_int_equal(code_of("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":[1]}"),
		RPC_INVALID_PARAMS);
	/* An escaped backslash before u0000 is six harmless characters. */
	assert_int_equal(code_of("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\\\u0000\"}"), 0);
}

static void an_id_comes_back_as_sent_or_not_at_all(void **state)
{
	(void)state;
	static const char *const good[] = { "0", "-7", "9007199254740991", "-9007199254740991",
		"\"9007199254740993\"", "\"1e400\"", "null" };
	static const char *const bad[] = { "1e400", "-1e400", "9007199254740992",
		"9007199254740993", "18446744073709551615", "0.1234567890123456789", "1.5" };
	char line[128];
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct rpc_message message;
		snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"method\":\"x\"}",
			good[i]);
		assert_int_equal(rpc_parse(line, strlen(line), &message), 0);
		assert_int_equal(message.calls[0].code, 0);
		cJSON *answer = rpc_result(message.calls[0].id, NULL);
		CLEANUP_FREE char *text = cJSON_PrintUnformatted(answer);
		snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":null}",
			good[i]);
		assert_string_equal(text, line);
		cJSON_Delete(answer);
		rpc_message_free(&message);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct rpc_message message;
		snprintf(line, sizeof(line), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"method\":\"x\"}",
			bad[i]);
		assert_int_equal(rpc_parse(line, strlen(line), &message), 0);
		assert_int_equal(message.calls[0].code, RPC_INVALID_REQUEST);
		assert_true(cJSON_IsNull(message.calls[0].id));
		rpc_message_free(&message);
	}
}

static void deep_nesting_is_an_error_not_an_end(void **state)
{
	(void)state;
	enum { deep = 200000 };
	CLEANUP_FREE char *line = malloc(deep + 1);
	assert_non_null(line);
	memset(line, '[', deep);
	line[deep] = '\0';
	assert_int_equal(code_of(line), RPC_PARSE_ERROR);
}

static void batches_and_notifications_are_told_apart(void **state)
{
	(void)state;
	const char *line = "[{\"jsonrpc\":\"2.0\",\"method\":\"n\"},7,"
			   "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"m\"},"
			   "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"m\"},"
			   "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"m\"}]";
	struct rpc_message message;
	assert_int_equal(rpc_parse(line, strlen(line), &message), 0);
	assert_true(message.batch);
	assert_int_equal(message.count, 5);
	assert_null(message.calls[0].id);
	assert_int_equal(message.calls[1].code, RPC_INVALID_REQUEST);
	assert_true(cJSON_IsNull(message.calls[2].id));
	assert_int_equal(message.calls[4].id->valueint, 3);
	rpc_message_free(&message);
}

static void answers_have_the_contract_s_shape(void **state)
{
	(void)state;
	cJSON *json = rpc_error(NULL, -32003, "no machine x", 3, "No such file", "add it");
	CLEANUP_FREE char *text = cJSON_PrintUnformatted(json);
	assert_string_equal(text,
		"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32003,"
		"\"message\":\"no machine x\",\"data\":{\"exit\":3,\"cause\":\"No such file\","
		"\"mend\":\"add it\"}}}");
	cJSON_Delete(json);
	json = rpc_result(NULL, NULL);
	CLEANUP_FREE char *empty = cJSON_PrintUnformatted(json);
	assert_string_equal(empty, "{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":null}");
	cJSON_Delete(json);
}

static void errors_have_their_exit_codes(void **state)
{
	(void)state;
	assert_int_equal(exit_code_of(0), EXIT_DONE);
	assert_int_equal(exit_code_of(-EIO), EXIT_FAILED);
	assert_int_equal(exit_code_of(-ENOSPC), EXIT_FAILED);
	assert_int_equal(exit_code_of(-EINVAL), EXIT_USAGE);
	assert_int_equal(exit_code_of(-ENOENT), EXIT_NOT_FOUND);
	assert_int_equal(exit_code_of(-EACCES), EXIT_NOT_PERMITTED);
	assert_int_equal(exit_code_of(-ESTALE), EXIT_CONFLICT);
	assert_int_equal(exit_code_of(-99999), EXIT_FAILED);
}

static void unknown_parameters_are_named(void **state)
{
	(void)state;
	static const char *const names[] = { "machine", NULL };
	struct error error = { 0 };
	cJSON *json = cJSON_Parse("{\"machine\":1}");
	assert_int_equal(control_only(json, names, &error), 0);
	cJSON_AddNullToObject(json, "machin");
	assert_int_equal(control_only(json, names, &error), -EINVAL);
	assert_non_null(strstr(error.message, "\"machin\""));
	cJSON_Delete(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_are_cut_whatever_the_pieces),
		cmocka_unit_test(long_lines_are_skipped_without_being_held),
		cmocka_unit_test(the_longest_line_is_taken_and_one_byte_more_is_not),
		cmocka_unit_test(a_call_is_read),
		cmocka_unit_test(what_is_no_call_is_told_by_code),
		cmocka_unit_test(an_id_comes_back_as_sent_or_not_at_all),
		cmocka_unit_test(deep_nesting_is_an_error_not_an_end),
		cmocka_unit_test(batches_and_notifications_are_told_apart),
		cmocka_unit_test(answers_have_the_contract_s_shape),
		cmocka_unit_test(errors_have_their_exit_codes),
		cmocka_unit_test(unknown_parameters_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
