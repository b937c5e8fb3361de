/*
 * landfall inspect: the filesystems of a recovery point, mounted read-only.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

static void print_inspection(const cJSON *inspection)
{
	static const char *const headings[] = { "DISK", ">PART", "TYPE", "LABEL", ">SIZE",
		"MOUNTED AT", "NOTE" };
	char text[CLI_TEXT_BYTES];
	cli_print_field("inspection", cli_get_text(inspection, "id"));
	cli_print_field("machine", cli_get_text(inspection, "machine"));
	cli_print_field("point", cli_get_text(cli_get(inspection, "point"), "name"));
	cli_print_field("directory", cli_get_text(inspection, "directory"));
	putchar('\n');
	struct cli_table *table = cli_table_new(7, headings);
	const cJSON *fs;
	cJSON_ArrayForEach(fs, cli_get(inspection, "filesystems"))
	{
		cli_table_add(table, cli_get_text(fs, "disk"));
		snprintf(text, sizeof(text), "%llu",
			(unsigned long long)cli_get_u64(fs, "partition"));
		cli_table_add(table, text);
		cli_table_add(table, cli_get_text(fs, "type"));
		cli_table_add(table, cli_get_text(fs, "label"));
		cli_table_add(table, cli_get_size(fs, "size_bytes", text));
		cli_table_add(table, cli_get_text(fs, "mounted_at"));
		cli_table_add(table, cli_get_text(fs, "note"));
	}
	cli_table_print(table, stdout);
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

static enum exit_code list_inspections(struct cli *cli)
{
	static const char *const headings[] = { "ID", "MACHINE", "POINT", "OPENED", "DIRECTORY" };
	CLEANUP(json_freep) cJSON *result = NULL;
	char text[CLI_TEXT_BYTES];
	enum exit_code code = call(cli, "inspect.list", NULL, &result);
	if (!result)
		return code;
	struct cli_table *table = cli_table_new(5, headings);
	const cJSON *item;
	cJSON_ArrayForEach(item, cli_get(result, "inspections"))
	{
		cli_table_add(table, cli_get_text(item, "id"));
		cli_table_add(table, cli_get_text(item, "machine"));
		cli_table_add(table, cli_get_text(cli_get(item, "point"), "name"));
		cli_table_add(table, cli_time(cli_get_text(item, "opened"), text));
		cli_table_add(table, cli_get_text(item, "directory"));
	}
	cli_table_print(table, stdout);
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
