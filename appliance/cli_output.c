/*
 * What every command does with answers and errors.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/buf.h"
#include "common/cleanup.h"
#include "common/json.h"

cJSON *cli_error_to_json(const struct cli_error *error)
{
	cJSON *json = cJSON_CreateObject(), *inner = NULL, *data = NULL;
	int r = json ? json_add_object(json, "error", &inner) : -ENOMEM;
	if (r == 0)
		r = json_add_i64(inner, "code", error->code);
	if (r == 0)
		r = json_add_text(inner, "message", error->error.message);
	if (r == 0)
		r = json_add_object(inner, "data", &data);
	if (r == 0)
		r = json_add_i64(data, "exit", (int64_t)error->exit);
	if (r == 0)
		r = json_add_text(data, "cause", error->cause);
	if (r == 0)
		r = json_add_text(data, "mend", error->error.mend);
	if (r < 0) {
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

enum exit_code cli_print_json(const cJSON *json)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	if (!json || json_print(json, false, &text) < 0) {
		fputs("landfall: no memory for the output\n", stderr);
		return EXIT_FAILED;
	}
	fwrite(text.data, 1, text.len, stdout);
	putchar('\n');
	return EXIT_DONE;
}

enum exit_code cli_fail(struct cli *cli, const struct cli_error *error)
{
	if (cli->json) {
		CLEANUP(json_freep) cJSON *json = cli_error_to_json(error);
		(void)cli_print_json(json);
		return error->exit;
	}
	fputs("landfall: ", stderr);
	cli_print_safe(stderr, error->error.message);
	if (error->error.mend[0]) {
		fputs("\n  → ", stderr);
		cli_print_safe(stderr, error->error.mend);
	}
	fputc('\n', stderr);
	return error->exit;
}

enum exit_code cli_fail_usage(struct cli *cli, const struct error *error)
{
	struct cli_error full = {
		.error = *error,
		.exit = EXIT_USAGE,
		.code = -32000 - EXIT_USAGE,
	};
	snprintf(full.cause, sizeof(full.cause), "%s", strerrordesc_np(-error->code));
	return cli_fail(cli, &full);
}

int cli_call_own(struct cli *cli, struct cli_error *ret_error, cJSON **ret_result)
{
	char method[64];
	snprintf(method, sizeof(method), "%s", cli->command->words);
	char *space = strchr(method, ' ');
	if (space)
		*space = '.';
	return cli_call(cli, method, cli->parameters, ret_error, ret_result);
}

cJSON *cli_run_method(struct cli *cli, enum exit_code *ret_exit)
{
	struct cli_error error;
	cJSON *result = NULL;
	if (cli_call_own(cli, &error, &result) < 0) {
		*ret_exit = cli_fail(cli, &error);
		return NULL;
	}
	*ret_exit = EXIT_DONE;
	if (cli->json) {
		*ret_exit = cli_print_json(result);
		cJSON_Delete(result);
		return NULL;
	}
	return result;
}

enum exit_code cli_run_list(struct cli *cli, const char *name, const struct cli_rows *rows)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		cli_print_rows(rows, cli_get(result, name));
	return code;
}
