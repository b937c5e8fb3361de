/*
 * landfall policy …
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

static void print_policy(const cJSON *policy)
{
	CLEANUP(buf_free) struct buf machines = { 0 };
	const cJSON *item;
	cli_print_field("policy", cli_get_text(policy, "name"));
	cli_print_field("origin", cli_get_text(policy, "origin"));
	cJSON_ArrayForEach(item, cli_get(policy, "settings"))
		cli_print_field(item->string, cJSON_IsString(item) ? item->valuestring : "");
	cJSON_ArrayForEach(item, cli_get(policy, "machines"))
	{
		if (cJSON_IsString(item))
			(void)buf_printf(
				&machines, "%s%s", machines.len ? ", " : "", item->valuestring);
	}
	cli_print_field("machines", machines.data);
}

/* "key=value" words into {"settings": {…}}. */
static int take_settings(struct cli *cli, struct error *error)
{
	cJSON *settings = cJSON_AddObjectToObject(cli->parameters, "settings");
	const cJSON *word;
	cJSON_ArrayForEach(word, cli->rest)
	{
		const char *text = word->valuestring, *equals = strchr(text, '=');
		char key[64];
		if (!equals || equals == text || (size_t)(equals - text) >= sizeof(key))
			return error_set(error, -EINVAL, "such as vault-interval=5m",
				"\"%s\" is not key=value", text);
		snprintf(key, sizeof(key), "%.*s", (int)(equals - text), text);
		if (cli_has(settings, key))
			return error_set(error, -EINVAL, "give it once", "%s is given twice", key);
		if (!cJSON_AddStringToObject(settings, key, equals + 1))
			return error_set(error, -ENOMEM, NULL, "no memory");
	}
	return 0;
}

enum exit_code cli_policy_set(struct cli *cli)
{
	struct error error = { 0 };
	if (take_settings(cli, &error) < 0)
		return cli_fail_usage(cli, &error);
	return cli_policy_show(cli);
}

enum exit_code cli_policy_show(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		print_policy(cli_get(result, "policy"));
	return code;
}

static void add_policy(struct cli_table *table, const cJSON *policy)
{
	char text[CLI_TEXT_BYTES];
	const cJSON *settings = cli_get(policy, "settings");
	cli_table_add(table, cli_get_text(policy, "name"));
	cli_table_add(table, cli_get_text(policy, "origin"));
	cli_table_add(table, cli_get_text(settings, "point-interval"));
	cli_table_add(table, cli_get_text(settings, "vault-interval"));
	cli_table_add(table, cli_get_text(settings, "app-interval"));
	cli_table_add(table, cli_get_text(settings, "retention"));
	cli_table_add(table, cli_get_text(settings, "rpo-alert"));
	cli_table_add(table, cli_get_text(settings, "bandwidth"));
	snprintf(text, sizeof(text), "%d", cJSON_GetArraySize(cli_get(policy, "machines")));
	cli_table_add(table, text);
}

enum exit_code cli_policy_list(struct cli *cli)
{
	static const struct cli_rows rows = { { "POLICY", "ORIGIN", ">POINT", ">VAULT", ">APP",
						      "RETENTION", ">ALERT", "BANDWIDTH",
						      ">MACHINES" },
		add_policy };
	return cli_run_list(cli, "policies", &rows);
}
