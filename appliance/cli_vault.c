/*
 * landfall vault …
 */
#include <cjson/cJSON.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

enum exit_code cli_vault_init(struct cli *cli)
{
	enum exit_code code;
	char text[CLI_TEXT_BYTES];
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (!result)
		return code;
	cli_print_field("vault", cli_get_text(result, "name"));
	cli_print_field("id", cli_get_text(result, "id"));
	cli_print_field("created", cli_time(cli_get_text(result, "created_at"), text));
	if (!cli_get_bool(result, "created"))
		puts("The vault was there already and is left as it is.");
	return code;
}

static void print_count(const char *name, const cJSON *found)
{
	char text[CLI_TEXT_BYTES];
	cli_print_field(name, cli_get_count(found, name, text));
}

enum exit_code cli_vault_check(struct cli *cli)
{
	static const char *const counts[] = { "groups", "points", "snapshots", "missing",
		"orphaned", "broken", NULL };
	CLEANUP(json_freep) cJSON *result = NULL, *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	const cJSON *found = cli_get(job, "result"), *fault;
	if (!found)
		return code;
	for (const char *const *name = counts; *name; name++)
		print_count(*name, found);
	cJSON_ArrayForEach(fault, cli_get(found, "faults"))
		cli_print_field("fault", cJSON_IsString(fault) ? fault->valuestring : "");
	return code;
}

static void add_group(struct cli_table *table, const cJSON *group)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(group, "name"));
	cli_table_add(table, cli_get_text(group, "from"));
	snprintf(text, sizeof(text), "%d", cJSON_GetArraySize(cli_get(group, "machines")));
	cli_table_add(table, text);
	cli_table_add(table, cli_get_count(group, "points", text));
	cli_table_add(table, cli_get_text(cli_get(group, "newest_point"), "name"));
	cli_table_add(table, cli_get_text(group, "set_aside"));
}

enum exit_code cli_vault_takeover(struct cli *cli)
{
	static const struct cli_rows rows = { { "GROUP", "FROM", ">MACHINES", ">POINTS", "NEWEST",
						      "JOURNAL SET ASIDE" },
		add_group };
	CLEANUP(json_freep) cJSON *result = NULL, *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	const cJSON *groups = cli_get(cli_get(job, "result"), "groups");
	if (cJSON_GetArraySize(groups) > 0) /* else it failed before the first */
		cli_print_rows(&rows, groups);
	return code;
}
