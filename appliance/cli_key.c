/*
 * landfall key …
 *
 * A new key stands alone on stdout, so that KEY=$(landfall key create) works; what to do with it is
 * told on stderr.
 */
#include <cjson/cJSON.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

enum exit_code cli_key_create(struct cli *cli)
{
	enum exit_code code;
	char text[CLI_TEXT_BYTES];
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (!result)
		return code;
	const cJSON *key = cli_get(result, "key");
	const char *machine = cli_get_text(key, "machine");
	fflush(stdout);
	fprintf(stderr, "Key %s holds until %s. It is shown this once; on the machine run:\n",
		cli_get_text(key, "id"), cli_time(cli_get_text(key, "expires"), text));
	fprintf(stderr, "  landfall-agent enroll --appliance HOST:9443 --machine %s --key KEY\n",
		*machine ? machine : "NAME");
	printf("%s\n", cli_get_text(result, "text"));
	return code;
}

/* "web1, web2" */
static void join_uses(const cJSON *key, struct buf *names)
{
	const cJSON *use;
	cJSON_ArrayForEach(use, cli_get(key, "uses"))(void)
		buf_printf(names, "%s%s", names->len ? ", " : "", cli_get_text(use, "machine"));
}

static void add_key(struct cli_table *table, const cJSON *key)
{
	CLEANUP(buf_free) struct buf names = { 0 };
	char text[CLI_TEXT_BYTES];
	const char *machine = cli_get_text(key, "machine");
	join_uses(key, &names);
	cli_table_add(table, cli_get_text(key, "id"));
	cli_table_add(table, cli_get_text(key, "state"));
	cli_table_add(table, *machine ? machine : "any machine");
	cli_table_add(table, cli_time(cli_get_text(key, "expires"), text));
	snprintf(text, sizeof(text), "%d/%llu", cJSON_GetArraySize(cli_get(key, "uses")),
		(unsigned long long)cli_get_u64(key, "max_uses"));
	cli_table_add(table, text);
	cli_table_add(table, names.data);
}

enum exit_code cli_key_list(struct cli *cli)
{
	static const struct cli_rows rows = {
		{ "KEY", "STATE", "FOR", "EXPIRES", ">USES", "USED BY" }, add_key
	};
	return cli_run_list(cli, "keys", &rows);
}

enum exit_code cli_key_revoke(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	if (result)
		printf("Key %s and the certificates won with it are revoked.\n",
			cli_get_text(cli_get(result, "key"), "id"));
	return code;
}
