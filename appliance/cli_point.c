/*
 * landfall point …, landfall clone …, landfall verify.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

static const char *where(const cJSON *point)
{
	bool local = cli_get_bool(point, "local"), vault = cli_get_bool(point, "vault");
	if (cli_get_bool(point, "drained"))
		return "to vault";
	return local && vault ? "local, vault" : vault ? "vault" : local ? "local" : "-";
}

static void notes(const cJSON *point, char *text, size_t n)
{
	snprintf(text, n, "%s%s%s%s%s", cli_get_bool(point, "keep") ? "kept" : "",
		cli_get_bool(point, "pressure") ? " pressure" : "",
		cli_get_bool(point, "damaged") ? " damaged" : "",
		cli_has(point, "verdict") ? " " : "", cli_get_text(point, "verdict"));
	if (text[0] == ' ')
		memmove(text, text + 1, strlen(text));
}

static void add_point(struct cli_table *table, const cJSON *point)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_count(point, "number", text));
	cli_table_add(table, cli_time(cli_get_text(point, "time"), text));
	cli_table_add(table, cli_get_text(point, "kind"));
	cli_table_add(table, where(point));
	cli_table_add(table, cli_get_size(point, "changed_bytes", text));
	notes(point, text, sizeof(text));
	cli_table_add(table, text);
}

static const struct cli_rows point_rows = {
	{ ">NUMBER", "TIME", "KIND", "WHERE", ">CHANGED", "NOTES" }, add_point
};

/* Takes the pages one after another; a page's points move into the first page's document, so
 * that --json is one document with all of them. */
static int collect_points(struct cli *cli, struct cli_error *error, cJSON **ret_all)
{
	CLEANUP(json_freep) cJSON *all = NULL;
	for (;;) {
		CLEANUP(json_freep) cJSON *page = NULL;
		int r = cli_call(cli, "point.list", cli->parameters, error, &page);
		if (r < 0)
			return r;
		cJSON *next = cJSON_DetachItemFromObjectCaseSensitive(page, "next");
		cJSON_DeleteItemFromObjectCaseSensitive(cli->parameters, "from");
		bool more = next && !cJSON_IsNull(next) &&
			    cJSON_AddItemToObject(cli->parameters, "from", next);
		if (!more)
			cJSON_Delete(next);
		if (!all) {
			all = TAKE(page);
			cJSON_AddNullToObject(all, "next");
		} else {
			cJSON *to = cJSON_GetObjectItemCaseSensitive(all, "points");
			cJSON *from = cJSON_GetObjectItemCaseSensitive(page, "points");
			for (cJSON *point; (point = cJSON_DetachItemFromArray(from, 0)) != NULL;)
				cJSON_AddItemToArray(to, point);
		}
		if (!more) {
			*ret_all = TAKE(all);
			return 0;
		}
	}
}

enum exit_code cli_point_list(struct cli *cli)
{
	struct cli_error error;
	CLEANUP(json_freep) cJSON *all = NULL;
	if (collect_points(cli, &error, &all) < 0)
		return cli_fail(cli, &error);
	if (cli->json)
		return cli_print_json(all);
	cli_print_rows(&point_rows, cli_get(all, "points"));
	if (cli_has(all, "unlisted_point"))
		fprintf(stderr,
			"warning: the vault holds points up to %llu that the journal has lost; "
			"they "
			"are listed again once a newer point is in the vault\n"
			"  → see the alerts of 'landfall status'\n",
			(unsigned long long)cli_get_u64(all, "unlisted_point"));
	return EXIT_DONE;
}

enum exit_code cli_point_show(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *point = cli_get(result, "point");
	if (point) {
		cli_print_field("point", cli_get_text(point, "name"));
		cli_print_field("path", cli_get_text(point, "path"));
		putchar('\n');
		struct cli_table *table = cli_table_new(6, point_rows.headings);
		add_point(table, point);
		cli_table_print(table, stdout);
	}
	return code;
}

static enum exit_code create_telling(
	struct cli *cli, struct cli_progress *progress, cJSON **ret_result, cJSON **ret_job)
{
	(void)json_add_bool(cli->parameters, "tell", true);
	cli->notified = cli_progress_notified;
	cli->notified_context = progress;
	enum exit_code code = cli_run_job(cli, ret_result, ret_job);
	cli->notified = NULL;
	cli->notified_context = NULL;
	return code;
}

enum exit_code cli_point_create(struct cli *cli)
{
	CLEANUP(json_freep) cJSON *result = NULL, *job = NULL;
	struct cli_progress progress;
	cli_progress_begin(cli, &progress);
	enum exit_code code = create_telling(cli, &progress, &result, &job);
	if (!result)
		return code;
	const cJSON *point = cli_get(result, "point");
	printf("point %s is durable %s\n", cli_get_text(point, "name"),
		job && code == EXIT_DONE ? "in the vault" : "in the journal");
	return code;
}

enum exit_code cli_point_keep(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *point = cli_get(result, "point");
	if (point)
		printf("point %s is %s\n", cli_get_text(point, "name"),
			cli_get_bool(point, "keep") ? "kept" : "left to retention");
	return code;
}

enum exit_code cli_point_delete(struct cli *cli)
{
	CLEANUP(json_freep) cJSON *result = NULL, *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	if (result)
		printf("point %llu is deleted\n",
			(unsigned long long)cli_get_u64(result, "deleted"));
	return code;
}

static void add_clone(struct cli_table *table, const cJSON *clone)
{
	char text[CLI_TEXT_BYTES];
	cli_table_add(table, cli_get_text(clone, "id"));
	cli_table_add(table, cli_get_text(clone, "machine"));
	cli_table_add(table, cli_get_count(clone, "point", text));
	cli_table_add(table, cli_get_size(clone, "used_bytes", text));
	cli_table_add(table, cli_get_size(clone, "quota_bytes", text));
	cli_table_add(table, cli_get_text(clone, "owner"));
	cli_table_add(table, cli_get_text(clone, "path"));
}

enum exit_code cli_clone_create(struct cli *cli)
{
	enum exit_code code;
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *clone = cli_get(result, "clone");
	if (clone) {
		cli_print_field("clone", cli_get_text(clone, "id"));
		cli_print_field("path", cli_get_text(clone, "path"));
	}
	return code;
}

enum exit_code cli_clone_list(struct cli *cli)
{
	static const struct cli_rows rows = {
		{ "ID", "MACHINE", ">POINT", ">USED", ">QUOTA", "FOR", "PATH" }, add_clone
	};
	return cli_run_list(cli, "clones", &rows);
}

enum exit_code cli_clone_remove(struct cli *cli)
{
	struct error error = { 0 };
	enum exit_code code;
	if (cli_has(cli->parameters, "id") == cli_has(cli->parameters, "all")) {
		error_set(&error, -EINVAL, "see --help", "give a clone's ID or --all");
		return cli_fail_usage(cli, &error);
	}
	CLEANUP(json_freep) cJSON *result = cli_run_method(cli, &code);
	const cJSON *id;
	cJSON_ArrayForEach(id, cli_get(result, "removed"))
		printf("clone %s is removed\n", cJSON_IsString(id) ? id->valuestring : "");
	return code;
}

enum exit_code cli_verify(struct cli *cli)
{
	CLEANUP(json_freep) cJSON *result = NULL, *job = NULL;
	enum exit_code code = cli_run_job(cli, &result, &job);
	if (!result || !job)
		return code;
	char text[CLI_TEXT_BYTES];
	const cJSON *found = cli_get(job, "result");
	if (!found)
		return code;
	if (strcmp(cli_get_text(found, "where"), "source") == 0) {
		printf("the current content: %s, %s compared with the source",
			cli_get_text(found, "verdict"), cli_get_size(found, "bytes", text));
		printf(", %s differed\n", cli_get_size(found, "differing_bytes", text));
		if (cli_get_u64(found, "unverified_bytes") > 0)
			printf("%s could not be verified: written since they were sent, as far as "
			       "capture by scan tells\n",
				cli_get_size(found, "unverified_bytes", text));
		return code;
	}
	printf("point %s: %s, %s read from the %s\n",
		cli_get_text(cli_get(result, "point"), "name"), cli_get_text(found, "verdict"),
		cli_get_size(found, "bytes", text),
		strcmp(cli_get_text(found, "where"), "vault") == 0 ? "vault" : "journal");
	return code;
}
