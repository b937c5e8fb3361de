/*
 * landfall status: health, RPO, lag, rates, alerts; once or again and again.
 */
#include <cjson/cJSON.h>
#include <string.h>
#include <unistd.h>

#include "appliance/cli.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/standard_files.h"

#define WATCH_INTERVAL_NS (2 * NS_PER_S)

static void print_alerts(const char *of, const cJSON *alerts)
{
	const cJSON *alert;
	char time[CLI_TEXT_BYTES];
	cJSON_ArrayForEach(alert, alerts)
	{
		printf("\n%s: ", cli_get_text(alert, "severity"));
		cli_print_safe(stdout, of);
		fputs(": ", stdout);
		cli_print_safe(stdout, cli_get_text(alert, "text"));
		printf(" (since %s)", cli_time(cli_get_text(alert, "since"), time));
		fputs("\n  cause: ", stdout);
		cli_print_safe(stdout, cli_get_text(alert, "cause"));
		fputs("\n  → ", stdout);
		cli_print_safe(stdout, cli_get_text(alert, "mend"));
		putchar('\n');
	}
}

static const char *vault_note(const char *state)
{
	static const char *const notes[][2] = { { "unreachable", " (out of reach)" },
		{ "refused", " (refuses us)" },
		{ "not-initialised", " (not initialised: run 'landfall vault init')" } };
	for (unsigned i = 0; i < ARRAY_SIZE(notes); i++)
		if (strcmp(state, notes[i][0]) == 0)
			return notes[i][1];
	return "";
}

static void print_appliance(const cJSON *appliance)
{
	char a[CLI_TEXT_BYTES], b[CLI_TEXT_BYTES], text[512];
	const cJSON *journal = cli_get(appliance, "journal"), *cache = cli_get(appliance, "cache");
	const cJSON *vault = cli_get(appliance, "vault");
	snprintf(text, sizeof(text), "%s (%s)", cli_get_text(appliance, "name"),
		cli_get_text(appliance, "version"));
	cli_print_field("appliance", text);
	snprintf(text, sizeof(text), "%s%s",
		vault ? cli_get_text(vault, "name") : "none configured",
		vault ? vault_note(cli_get_text(vault, "state")) : "");
	cli_print_field("vault", text);
	snprintf(text, sizeof(text), "%s of %s in %s", cli_get_size(journal, "used_bytes", a),
		cli_get_size(journal, "limit_bytes", b), cli_get_text(journal, "directory"));
	cli_print_field("journal", text);
	if (cache) {
		snprintf(text, sizeof(text), "%s of %s", cli_get_size(cache, "used_bytes", a),
			cli_get_size(cache, "capacity_bytes", b));
		cli_print_field("cache", text);
	}
}

/* How long ago the last drill brought it up, or that it did not. */
static void add_proof(struct cli_table *table, const cJSON *drill)
{
	char text[CLI_TEXT_BYTES];
	bool failed = strcmp(cli_get_text(drill, "verdict"), "failed") == 0;
	cli_table_add(table, failed ? "failed" : cli_get_age(drill, "age_s", text));
}

static void add_machine(struct cli_table *table, const cJSON *machine)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(machine, "name"));
	cli_table_add(table, cli_get_text(machine, "state"));
	cli_table_add(table, cli_get_text(machine, "health"));
	cli_table_add(table, cli_get_age(machine, "rpo_local_s", text));
	cli_table_add(table, cli_get_age(machine, "rpo_vault_s", text));
	cli_table_add(table, cli_get_size(machine, "lag_bytes", text));
	cli_table_add(table, cli_get_rate(machine, "write_bytes_per_s", text));
	cli_table_add(table, cli_get_rate(machine, "flush_bytes_per_s", text));
	cli_table_add(table, cli_get_count(machine, "point_count", text));
	add_proof(table, cli_get(machine, "last_drill"));
}

static bool is_comparing(const cJSON *machine)
{
	const cJSON *disk;
	cJSON_ArrayForEach(disk, cli_get(cli_get(machine, "agent"),
					 "disks")) if (strcmp(cli_get_text(disk, "state"),
							       "comparing") == 0) return true;
	return false;
}

/* Of all machines only those are told of whose agents have something to finish. */
static void print_agents(const cJSON *machines)
{
	const cJSON *machine;
	cJSON_ArrayForEach(machine, machines) if (cJSON_GetArraySize(machines) == 1 ||
						  is_comparing(machine)) cli_print_agent(machine);
}

static void print_status(const cJSON *result)
{
	static const struct cli_rows rows = { { "MACHINE", "STATE", "HEALTH", ">RPO", ">RPO VAULT",
						      ">LAG", ">WRITES", ">FLUSH", ">POINTS",
						      ">DRILL" },
		add_machine };
	const cJSON *appliance = cli_get(result, "appliance"), *machine;
	const cJSON *machines = cli_get(result, "machines");
	print_appliance(appliance);
	cli_print_field("health", cli_get_text(result, "health"));
	putchar('\n');
	if (cJSON_GetArraySize(machines) == 0)
		puts("No machine is protected yet: landfall machine add --help");
	else
		cli_print_rows(&rows, machines);
	print_agents(machines);
	cJSON_ArrayForEach(machine, machines) cli_print_ebs_progress(machine);
	print_alerts("the appliance", cli_get(appliance, "alerts"));
	cJSON_ArrayForEach(machine, machines)
		print_alerts(cli_get_text(machine, "name"), cli_get(machine, "alerts"));
}

enum exit_code cli_status(struct cli *cli)
{
	bool again = cli_has(cli->options, "watch"), first = true;
	enum exit_code code;
	do {
		if (!first)
			clock_sleep_ns(clock_system(), WATCH_INTERVAL_NS);
		CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
		if (result) {
			if (again && isatty(STDOUT_FILENO))
				fputs("\033[H\033[2J", stdout);
			else if (!first)
				putchar('\n');
			print_status(result);
		}
		first = false;
		if (again && standard_output_flush() < 0)
			break;
	} while (again && code == EXIT_DONE);
	return code;
}

enum exit_code cli_metrics(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		fputs(cli_get_text(result, "text"), stdout);
	return code;
}
