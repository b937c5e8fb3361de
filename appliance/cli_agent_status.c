/*
 * What `status` and `machine show` tell of a machine's agent: its disks, how each one's changes are
 * captured, and how far a comparison is. The appliance knows what it has been told; rate and time
 * left are the agent's own figures.
 */
#include <cjson/cJSON.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/human.h"

static const cJSON *figures_of(const cJSON *agent, const char *id)
{
	const cJSON *disk;
	cJSON_ArrayForEach(
		disk, cli_get(cli_get(agent, "figures"),
			      "disks")) if (strcmp(cli_get_text(disk, "id"), id) == 0) return disk;
	return NULL;
}

static void print_disk(const cJSON *agent, const cJSON *disk)
{
	char size[CLI_TEXT_BYTES], text[HUMAN_TEXT_BYTES];
	const char *id = cli_get_text(disk, "id");
	fputs("  disk ", stdout);
	cli_print_safe(stdout, id);
	printf(": %s, changes by %s", cli_get_size(disk, "size_bytes", size),
		cli_get_text(disk, "capture"));
	if (strcmp(cli_get_text(disk, "state"), "comparing") != 0) {
		puts(", compared");
		return;
	}
	const cJSON *figures = figures_of(agent, id);
	const cJSON *rate = cli_get(figures, "compare_bytes_per_s");
	const cJSON *left = cli_get(figures, "left_s");
	double all = (double)cli_get_u64(disk, "size_bytes");
	double done = (double)cli_get_u64(disk, "compared_bytes");
	printf(", comparing: %.1f %%", all > 0 ? 100 * done / all : 0);
	if (cJSON_IsNumber(rate) && rate->valuedouble > 0)
		printf(", %s/s", human_size(rate->valuedouble, text));
	if (cJSON_IsNumber(left))
		printf(", %s left", human_time(left->valuedouble, text));
	putchar('\n');
}

void cli_print_agent(const cJSON *machine)
{
	const cJSON *agent = cli_get(machine, "agent"), *disk;
	char time[CLI_TEXT_BYTES];
	if (!cJSON_IsObject(agent))
		return;
	putchar('\n');
	cli_print_safe(stdout, cli_get_text(machine, "name"));
	if (cJSON_IsTrue(cli_get(agent, "connected"))) {
		fputs(": agent on ", stdout);
		cli_print_safe(stdout, cli_get_text(agent, "host"));
		printf(", connected since %s\n",
			cli_time(cli_get_text(agent, "connected_since"), time));
	} else if (cJSON_IsString(cli_get(agent, "away_since"))) {
		printf(": the agent is away since %s\n",
			cli_time(cli_get_text(agent, "away_since"), time));
	} else {
		puts(": no agent has come yet");
	}
	cJSON_ArrayForEach(disk, cli_get(agent, "disks")) print_disk(agent, disk);
}
