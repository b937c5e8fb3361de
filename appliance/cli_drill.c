/*
 * landfall drill: a recovery point started as a machine, to see whether it comes up.
 */
#include <cjson/cJSON.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

static void print_drill(const cJSON *drill)
{
	char text[CLI_TEXT_BYTES], point[128];
	cli_print_field("drill", cli_get_count(drill, "id", text));
	cli_print_field("machine", cli_get_text(drill, "machine"));
	snprintf(point, sizeof(point), "%llu of ", (unsigned long long)cli_get_u64(drill, "point"));
	strncat(point, cli_time(cli_get_text(drill, "point_time"), text),
		sizeof(point) - strlen(point) - 1);
	cli_print_field("point", point);
	cli_print_field("target", cli_get_text(drill, "target"));
	cli_print_field("state", cli_get_text(drill, "state"));
	cli_print_field("verdict", cli_get_text(drill, "verdict"));
	cli_print_field("seen", cli_get_text(drill, "reason"));
	if (cli_has(drill, "took_s"))
		cli_print_field("after", cli_duration(cli_get_number(drill, "took_s"), text));
	cli_print_field("began", cli_time(cli_get_text(drill, "began"), text));
	cli_print_field("console log", cli_get_text(drill, "log"));
	cli_print_field("screenshot", cli_get_text(drill, "screenshot"));
}

enum exit_code cli_drill_start(struct cli *cli)
{
	CLEANUP(json_freep) cJSON *result = NULL;
	CLEANUP(json_freep) cJSON *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	const cJSON *drill = cli_get(job, "result");
	if (!drill)
		return code;
	print_drill(drill);
	if (strcmp(cli_get_text(drill, "state"), "running") == 0)
		printf("\nThe machine runs until: landfall drill cleanup %llu\n",
			(unsigned long long)cli_get_u64(drill, "id"));
	return code;
}

static void add_drill(struct cli_table *table, const cJSON *drill)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_count(drill, "id", text));
	cli_table_add(table, cli_get_text(drill, "machine"));
	cli_table_add(table, cli_get_count(drill, "point", text));
	cli_table_add(table, cli_get_text(drill, "target"));
	cli_table_add(table, cli_get_text(drill, "state"));
	cli_table_add(table, cli_get_text(drill, "verdict"));
	cli_table_add(table, cli_time(cli_get_text(drill, "began"), text));
	cli_table_add(table, cli_get_text(drill, "reason"));
}

enum exit_code cli_drill_list(struct cli *cli)
{
	static const struct cli_rows rows = { { ">ID", "MACHINE", ">POINT", "TARGET", "STATE",
						      "VERDICT", "BEGAN", "SEEN" },
		add_drill };
	return cli_run_list(cli, "drills", &rows);
}

enum exit_code cli_drill_show(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		print_drill(cli_get(result, "drill"));
	return code;
}

enum exit_code cli_drill_cleanup(struct cli *cli)
{
	CLEANUP(json_freep) cJSON *result = NULL;
	CLEANUP(json_freep) cJSON *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	if (job && code == EXIT_DONE)
		printf("drill %s: stopped, its disks are removed; its evidence stays\n",
			cli_get_text(cli->parameters, "id"));
	return code;
}
