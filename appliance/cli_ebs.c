/*
 * landfall machine discover, and what `machine show` tells of an EC2 instance.
 */
#include <cjson/cJSON.h>

#include "appliance/cli.h"

static const char *dollars(double value, char text[static CLI_TEXT_BYTES])
{
	snprintf(text, CLI_TEXT_BYTES, value >= 1 ? "$%.2f" : "$%.4f", value);
	return text;
}

static void print_last_cycle(const cJSON *last)
{
	char took[CLI_TEXT_BYTES], read[CLI_TEXT_BYTES], cost[CLI_TEXT_BYTES], line[256];
	if (!last)
		return;
	snprintf(line, sizeof(line), "%s, %s read from AWS, %s",
		cli_duration(cli_get_number(last, "took_s"), took),
		cli_get_size(last, "fetched_bytes", read),
		dollars(cli_get_number(cli_get(last, "requests"), "price_usd"), cost));
	cli_print_field("last cycle", line);
}

/* Texts, or (`key` not NULL) that of objects, in one line; nothing for none. */
static void print_ids(const char *field, const cJSON *list, const char *key)
{
	char line[256] = "";
	size_t used = 0;
	const cJSON *item;
	cJSON_ArrayForEach(item, list)
	{
		const char *text = key                    ? cli_get_text(item, key)
				   : cJSON_IsString(item) ? item->valuestring
							  : "";
		if (used < sizeof(line))
			used += (size_t)snprintf(
				line + used, sizeof(line) - used, "%s%s", used ? ", " : "", text);
	}
	if (used > 0)
		cli_print_field(field, line);
}

/* The state of the present set, and how far it is while it is copied. */
static void print_cycle(const cJSON *ebs)
{
	const cJSON *progress = cli_get(ebs, "progress");
	char line[256], text[CLI_TEXT_BYTES], all[CLI_TEXT_BYTES];
	size_t used = (size_t)snprintf(line, sizeof(line), "%s", cli_get_text(ebs, "phase"));
	if (cJSON_IsObject(progress))
		used += (size_t)snprintf(line + used, sizeof(line) - used, ", %s of %s",
			cli_get_size(progress, "reached_bytes", text),
			cli_get_size(progress, "size_bytes", all));
	if (cli_has(progress, "left_s"))
		snprintf(line + used, sizeof(line) - used, ", %s, %s left",
			cli_get_rate(progress, "bytes_per_s", text),
			cli_duration(cli_get_number(progress, "left_s"), all));
	cli_print_field("cycle", line);
}

/* Of a machine whose first points are still to come, or that has much to copy, `status` tells it.
 */
void cli_print_ebs_progress(const cJSON *machine)
{
	const cJSON *ebs = cli_get(machine, "ebs");
	if (!cJSON_IsObject(cli_get(ebs, "progress")))
		return;
	putchar('\n');
	cli_print_field("machine", cli_get_text(machine, "name"));
	print_cycle(ebs);
}

void cli_print_ebs(const cJSON *ebs)
{
	const cJSON *requests = cli_get(ebs, "requests");
	char text[CLI_TEXT_BYTES], line[256];
	if (!ebs)
		return;
	snprintf(line, sizeof(line), "%s in %s", cli_get_text(ebs, "instance"),
		cli_get_text(ebs, "region"));
	cli_print_field("instance", line);
	print_cycle(ebs);
	if (cli_get_u64(ebs, "cycles") == 0) {
		snprintf(line, sizeof(line), "at most %s for its requests to EBS direct",
			dollars(cli_get_number(ebs, "first_sync_price_usd"), text));
		cli_print_field("first sync", line);
	}
	print_last_cycle(cli_get(ebs, "last_cycle"));
	if (cli_has(ebs, "reachable_rpo_s"))
		cli_print_field("rpo it can reach",
			cli_duration(cli_get_number(ebs, "reachable_rpo_s"), text));
	snprintf(line, sizeof(line), "%llu blocks, %llu lists, %llu of EC2: %s so far",
		(unsigned long long)cli_get_u64(requests, "get_snapshot_block"),
		(unsigned long long)cli_get_u64(requests, "list_blocks"),
		(unsigned long long)cli_get_u64(requests, "ec2"),
		dollars(cli_get_number(requests, "price_usd"), text));
	cli_print_field("requests", line);
	print_ids("left out", cli_get(ebs, "left_out"), NULL);
	print_ids("not replicated", cli_get(ebs, "not_replicated"), "id");
	if (*cli_get_text(ebs, "compared_because"))
		cli_print_field("compared whole", cli_get_text(ebs, "compared_because"));
}

/* A row for each volume; the instance stands in the first. */
static void add_instance(struct cli_table *table, const cJSON *instance)
{
	char text[CLI_TEXT_BYTES];
	const cJSON *volume, *volumes = cli_get(instance, "volumes");
	const char *const of_instance[] = { cli_get_text(instance, "id"),
		cli_get_text(instance, "name"), cli_get_text(instance, "state"),
		cli_get_text(instance, "private_ip"), cli_get_text(instance, "platform"),
		cli_get_text(instance, "boot_mode"), cli_get_text(instance, "machine") };
	const unsigned count = sizeof(of_instance) / sizeof(of_instance[0]);
	bool first = true;
	for (volume = volumes ? volumes->child : NULL; volume || first; first = false) {
		for (unsigned i = 0; i < count; i++)
			cli_table_add(table, first ? of_instance[i] : " ");
		cli_table_add(table, cli_get_text(volume, "id"));
		cli_table_add(table, cli_get_text(volume, "device"));
		cli_table_add(table, cli_get_size(volume, "size_bytes", text));
		volume = volume ? volume->next : NULL;
	}
}

enum exit_code cli_machine_discover(struct cli *cli)
{
	static const struct cli_rows rows = { { "INSTANCE", "NAME", "STATE", "PRIVATE IP",
						      "PLATFORM", "BOOT", "MACHINE", "VOLUME",
						      "DEVICE", ">SIZE", NULL },
		add_instance };
	return cli_run_list(cli, "instances", &rows);
}
