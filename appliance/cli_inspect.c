/*
 * landfall inspect: the filesystems of a recovery point, mounted read-only.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

static void add_filesystem(struct cli_table *table, const cJSON *fs)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(fs, "disk"));
	cli_table_add(table, cli_get_count(fs, "partition", text));
	cli_table_add(table, cli_get_text(fs, "type"));
	cli_table_add(table, cli_get_text(fs, "label"));
	cli_table_add(table, cli_get_size(fs, "size_bytes", text));
	cli_table_add(table, cli_get_text(fs, "mounted_at"));
	cli_table_add(table, cli_get_text(fs, "note"));
}

static void print_inspection(const cJSON *inspection)
{
	static const struct cli_rows rows = {
		{ "DISK", ">PART", "TYPE", "LABEL", ">SIZE", "MOUNTED AT", "NOTE" }, add_filesystem
	};
	cli_print_field("inspection", cli_get_text(inspection, "id"));
	cli_print_field("machine", cli_get_text(inspection, "machine"));
	cli_print_field("point", cli_get_text(cli_get(inspection, "point"), "name"));
	cli_print_field("directory", cli_get_text(inspection, "directory"));
	putchar('\n');
	cli_print_rows(&rows, cli_get(inspection, "filesystems"));
}

static enum exit_code usage(struct cli *cli, const char *text)
{
	struct error error = { 0 };
	error_set(&error, -EINVAL, "see landfall inspect --help", "%s", text);
	return cli_fail_usage(cli, &error);
}

/* Calls another method than the command's own. */
static enum exit_code call(
	struct cli *cli, const char *method, const cJSON *parameters, cJSON **ret_result)
{
	struct cli_error error;
	cJSON *result = NULL;
	if (cli_call(cli, method, parameters, &error, &result) < 0)
		return cli_fail(cli, &error);
	enum exit_code code = EXIT_DONE;
	if (cli->json) {
		code = cli_print_json(result);
		cJSON_Delete(result);
		result = NULL;
	}
	*ret_result = result;
	return code;
}

/* `--close --all` reads as a value "--all" of --close; `--close ID` and `--all` alone are told
 * apart by what is there. */
static enum exit_code close_inspections(struct cli *cli)
{
	const char *id = cli_get_text(cli->options, "close");
	bool all = cli_has(cli->options, "all") || strcmp(id, "--all") == 0;
	if (cli->parameters->child)
		return usage(cli, "--close goes alone, with an ID or --all");
	CLEANUP(json_freep) cJSON *parameters = cJSON_CreateObject();
	CLEANUP(json_freep) cJSON *result = NULL;
	if (!parameters || !(all ? cJSON_AddTrueToObject(parameters, "all")
				 : cJSON_AddStringToObject(parameters, "id", id)))
		return usage(cli, "no memory");
	enum exit_code code = call(cli, "inspect.close", parameters, &result);
	const cJSON *closed;
	cJSON_ArrayForEach(closed, cli_get(result, "closed")) printf(
		"inspection %s is closed\n", cJSON_IsString(closed) ? closed->valuestring : "");
	return code;
}

static void add_inspection(struct cli_table *table, const cJSON *inspection)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(inspection, "id"));
	cli_table_add(table, cli_get_text(inspection, "machine"));
	cli_table_add(table, cli_get_text(cli_get(inspection, "point"), "name"));
	cli_table_add(table, cli_time(cli_get_text(inspection, "opened"), text));
	cli_table_add(table, cli_get_text(inspection, "directory"));
}

static enum exit_code list_inspections(struct cli *cli)
{
	static const struct cli_rows rows = { { "ID", "MACHINE", "POINT", "OPENED", "DIRECTORY" },
		add_inspection };
	CLEANUP(json_freep) cJSON *result = NULL;
	enum exit_code code = call(cli, "inspect.list", NULL, &result);
	if (result)
		cli_print_rows(&rows, cli_get(result, "inspections"));
	return code;
}

enum exit_code cli_inspect(struct cli *cli)
{
	enum exit_code code;
	if (cli_has(cli->options, "close"))
		return close_inspections(cli);
	if (cli_has(cli->options, "all"))
		return usage(cli, "--all goes with --close");
	if (cli_has(cli->options, "list"))
		return cli->parameters->child ? usage(cli, "--list goes alone")
					      : list_inspections(cli);
	if (!cli_has(cli->parameters, "machine"))
		return usage(cli, "inspect needs MACHINE");
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		print_inspection(cli_get(result, "inspection"));
	return code;
}
