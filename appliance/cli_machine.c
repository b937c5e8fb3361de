/*
 * landfall machine …
 */
#include <cjson/cJSON.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

static void print_point_field(const char *name, const cJSON *point)
{
	cli_print_field(name, point ? cli_get_text(point, "name") : "none yet");
}

static void print_rpo(const char *field, const cJSON *machine, const char *key)
{
	char text[CLI_TEXT_BYTES];
	bool any = cli_has(machine, key);
	cli_print_field(field, any ? cli_get_age(machine, key, text) : "no point yet");
}

static void print_figures(const cJSON *machine)
{
	char text[CLI_TEXT_BYTES];
	print_point_field("newest point", cli_get(machine, "newest_point"));
	print_point_field("newest in vault", cli_get(machine, "newest_vault_point"));
	cli_print_field("points", cli_get_count(machine, "point_count", text));
	print_rpo("rpo", machine, "rpo_local_s");
	print_rpo("rpo vault", machine, "rpo_vault_s");
	cli_print_field("lag", cli_get_size(machine, "lag_bytes", text));
}

static void add_disk(struct cli_table *table, const cJSON *disk)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(disk, "id"));
	cli_table_add(table, cli_get_size(disk, "size_bytes", text));
	cli_table_add(table, cli_get_text(disk, "path"));
	cli_table_add(table, cli_get_bool(disk, "resync_needed") ? "resync needed" : "");
}

static void print_machine(const cJSON *machine)
{
	static const struct cli_rows rows = { { "DISK", ">SIZE", "PATH", "NOTE" }, add_disk };
	cli_print_field("machine", cli_get_text(machine, "name"));
	cli_print_field("group", cli_get_text(machine, "group"));
	cli_print_field("source", cli_get_text(machine, "source"));
	cli_print_field("policy", cli_get_text(machine, "policy"));
	cli_print_field("state", cli_get_text(machine, "state"));
	cli_print_field("health", cli_get_text(machine, "health"));
	if (*cli_get_text(cli_get(machine, "agent"), "certificate_expires"))
		cli_print_field("certificate until",
			cli_get_text(cli_get(machine, "agent"), "certificate_expires"));
	print_figures(machine);
	if (cli_has(machine, "ebs"))
		cli_print_ebs(cli_get(machine, "ebs"));
	cli_print_agent(machine);
	putchar('\n');
	cli_print_rows(&rows, cli_get(machine, "disks"));
}

enum exit_code cli_machine_add(struct cli *cli)
{
	enum exit_code code;
	struct cli_progress progress;
	cli_progress_begin(cli, &progress);
	cli->notified = cli_progress_notified;
	cli->notified_context = &progress;
	(void)json_add_bool(cli->parameters, "tell", true);
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	cli->notified = NULL;
	cli->notified_context = NULL;
	if (!result)
		return code;
	print_machine(cli_get(result, "machine"));
	const cJSON *unheard = cli_get(result, "unheard");
	if (unheard) {
		fputs("warning: the vault could not be asked whether it holds that name: ", stderr);
		cli_print_safe(stderr, cli_get_text(unheard, "message"));
		fputs("\n  → if it does, an alert tells when it answers\n", stderr);
	}
	return code;
}

enum exit_code cli_machine_volumes(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		print_machine(cli_get(result, "machine"));
	return code;
}

static void add_machine(struct cli_table *table, const cJSON *machine)
{
	char text[CLI_TEXT_BYTES];
	const cJSON *disks = cli_get(machine, "disks"), *disk;
	uint64_t bytes = 0;
	cJSON_ArrayForEach(disk, disks) bytes += cli_get_u64(disk, "size_bytes");
	cli_table_add(table, cli_get_text(machine, "name"));
	cli_table_add(table, cli_get_text(machine, "group"));
	cli_table_add(table, cli_get_text(machine, "source"));
	cli_table_add(table, cli_get_text(machine, "policy"));
	cli_table_add(table, cli_get_text(machine, "state"));
	cli_table_add(table, cli_get_text(machine, "health"));
	snprintf(text, sizeof(text), "%d", cJSON_GetArraySize(disks));
	cli_table_add(table, text);
	cli_table_add(table, cli_size(bytes, text));
}

enum exit_code cli_machine_list(struct cli *cli)
{
	static const struct cli_rows rows = { { "MACHINE", "GROUP", "SOURCE", "POLICY", "STATE",
						      "HEALTH", ">DISKS", ">SIZE" },
		add_machine };
	return cli_run_list(cli, "machines", &rows);
}

enum exit_code cli_machine_show(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (!result)
		return code;
	print_machine(cli_get(result, "machine"));
	const cJSON *setting, *alert;
	const cJSON *alerts = cli_get(cli_get(result, "machine"), "alerts");
	putchar('\n');
	cJSON_ArrayForEach(setting, cli_get(cli_get(result, "policy"), "settings")) cli_print_field(
		setting->string, cJSON_IsString(setting) ? setting->valuestring : "");
	cJSON_ArrayForEach(alert, alerts)
	{
		cli_print_field(cli_get_text(alert, "severity"), cli_get_text(alert, "text"));
		cli_print_field("  →", cli_get_text(alert, "mend"));
	}
	return code;
}

enum exit_code cli_machine_remove(struct cli *cli)
{
	CLEANUP(json_freep) cJSON *result = NULL, *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	if (result && code == EXIT_DONE)
		printf("%s is removed\n", cli_get_text(result, "removed"));
	const char *left = cli_get_text(cli_get(job, "result"), "left_in_aws");
	if (code == EXIT_DONE && *left)
		fprintf(stderr, "landfall: %s\n", left);
	return code;
}

enum exit_code cli_machine_pause(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *machine = cli_get(result, "machine");
	if (machine)
		printf("%s is %s\n", cli_get_text(machine, "name"),
			cli_get_bool(machine, "paused") ? "paused" : "at work");
	return code;
}

enum exit_code cli_resync(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *machine = cli_get(result, "machine");
	if (machine)
		printf("%s: its disks are compared with their source; 'landfall status' tells how "
		       "far it is\n",
			cli_get_text(machine, "name"));
	return code;
}
