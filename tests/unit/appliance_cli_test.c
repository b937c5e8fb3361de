/*
 * appliance/cli_parse.c, cli_text.c, cli_help.c and notify.c: words to parameters, figures for
 * people, datagrams for systemd.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "appliance/cli.h"
#include "common/notify.h"
#include "common/bytes.h"
#include "common/cleanup.h"

static void sizes_have_three_digits(void **state)
{
	(void)state;
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.00 KiB" },
		{ 1536, "1.50 KiB" },
		{ 10 * KIB, "10.0 KiB" },
		{ 100 * KIB, "100 KiB" },
		{ 1023 * KIB, "1.00 MiB" },
		{ 8 * TIB, "8.00 TiB" },
		{ UINT64_MAX, "16.0 EiB" },
	};
	char text[CLI_TEXT_BYTES];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(cli_size(cases[i].bytes, text), cases[i].text);
}

static void durations_have_two_units(void **state)
{
	(void)state;
	static const struct {
		double seconds;
		const char *text;
	} cases[] = {
		{ 0, "0 s" },
		{ -5, "0 s" },
		{ 0.25, "0.2 s" },
		{ 9.96, "10 s" },
		{ 59.7, "1 min 0 s" },
		{ 61, "1 min 1 s" },
		{ 3600, "1 h 0 min" },
		{ 90000, "1 d 1 h" },
	};
	char text[CLI_TEXT_BYTES];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(cli_duration(cases[i].seconds, text), cases[i].text);
	assert_string_equal(
		cli_time("2026-11-22T05:54:11.123456789Z", text), "2026-11-22 05:54:11Z");
	assert_string_equal(cli_time("", text), "-");
}

static void tables_are_aligned_and_safe(void **state)
{
	(void)state;
	static const char *const headings[] = { "NAME", ">SIZE", "NOTE" };
	CLEANUP_FREE char *text = NULL;
	size_t n = 0;
	struct cli_table *table = cli_table_new(3, headings);
	static const char *const cells[] = { "m\xc3\xbcller", "5", "a\033[31m", "x", "12345", "" };
	for (size_t i = 0; i < ARRAY_SIZE(cells); i++)
		cli_table_add(table, cells[i]);
	FILE *out = open_memstream(&text, &n);
	cli_table_print(table, out);
	fclose(out);
	assert_string_equal(text, "NAME     SIZE  NOTE\n"
				  "m\xc3\xbcller      5  a?[31m\n"
				  "x       12345  -\n");
}

static void members_are_read_forgivingly(void **state)
{
	(void)state;
	cJSON *json = cJSON_Parse("{\"n\":12,\"s\":\"18446744073709551615\",\"z\":null,"
				  "\"t\":true,\"neg\":-1,\"big\":1e300}");
	char text[CLI_TEXT_BYTES];
	assert_int_equal(cli_get_u64(json, "n"), 12);
	assert_true(cli_get_u64(json, "s") == UINT64_MAX);
	assert_int_equal(cli_get_u64(json, "neg"), 0);
	assert_int_equal(cli_get_u64(json, "big"), 0);
	assert_int_equal(cli_get_u64(json, "none"), 0);
	assert_string_equal(cli_get_text(json, "n"), "");
	assert_string_equal(cli_get_size(json, "z", text), "-");
	assert_string_equal(cli_get_rate(json, "n", text), "12 B/s");
	assert_true(cli_get_bool(json, "t"));
	assert_false(cli_has(json, "z"));
	assert_string_equal(cli_get_text(NULL, "x"), "");
	cJSON_Delete(json);
}

struct parsed {
	struct cli cli;
	struct error error;
	char *parameters;
	int result;
	bool version;
};

static void parse(struct parsed *p, const char *words)
{
	char *argv[32], *copy = strdup(words);
	int argc = 0;
	*p = (struct parsed){ .cli = { .fd = -1 } };
	for (char *save = NULL, *word = strtok_r(copy, " ", &save); word;
		word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	p->result = cli_parse(&p->cli, argc, argv, &p->error, &p->version);
	p->parameters = cJSON_PrintUnformatted(p->cli.parameters);
	p->cli.socket_path = NULL;
	free(copy);
}

static void parsed_free(struct parsed *p)
{
	cJSON_Delete(p->cli.parameters);
	cJSON_Delete(p->cli.options);
	cJSON_Delete(p->cli.rest);
	cJSON_free(p->parameters);
}

static void words_become_parameters(void **state)
{
	(void)state;
	static const struct {
		const char *words, *command, *parameters;
	} cases[] = {
		{ "status", "status", "{}" },
		{ "status web", "status", "{\"machine\":\"web\"}" },
		{ "machine add web --source fuse --disk a=1G --disk=b=2G", "machine add",
			"{\"source\":\"fuse\",\"disk\":[\"a=1G\",\"b=2G\"],\"name\":\"web\"}" },
		{ "--json machine --no-progress remove --keep-vault web", "machine remove",
			"{\"keep_vault\":true,\"name\":\"web\"}" },
		{ "point keep web 17 --off", "point keep",
			"{\"off\":true,\"machine\":\"web\",\"point\":\"17\"}" },
		{ "verify -- --odd", "verify", "{\"machine\":\"--odd\"}" },
		{ "vault takeover --detach --group g", "vault takeover", "{\"group\":\"g\"}" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct parsed p;
		parse(&p, cases[i].words);
		assert_int_equal(p.result, 0);
		assert_string_equal(p.cli.command->words, cases[i].command);
		assert_string_equal(p.parameters, cases[i].parameters);
		parsed_free(&p);
	}
}

static void nonsense_is_refused_in_words(void **state)
{
	(void)state;
	static const struct {
		const char *words, *message;
	} cases[] = {
		{ "", "which command?" },
		{ "frobnicate", "there is no command \"frobnicate\"" },
		{ "point mend", "there is no command \"point mend\"" },
		{ "point", "\"point\" needs one word more" },
		{ "point keep web", "point keep needs POINT" },
		{ "point keep web 1 2", "\"2\" is one word too many" },
		{ "point list web --wait local", "point list has no option \"--wait\"" },
		{ "point create web --wait", "--wait needs a value" },
		{ "point create web --app=yes", "--app takes no value" },
		{ "point create web --app --app", "--app is given twice" },
		{ "status -v", "there is no option \"-v\"" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct parsed p;
		parse(&p, cases[i].words);
		assert_int_equal(p.result, -EINVAL);
		assert_non_null(strstr(p.error.message, cases[i].message));
		parsed_free(&p);
	}
}

static void near_commands_are_suggested(void **state)
{
	(void)state;
	assert_string_equal(cli_suggest("machien add"), "machine add");
	assert_string_equal(cli_suggest("statsu"), "status");
	assert_string_equal(cli_suggest("verfy web"), "verify");
	assert_string_equal(cli_suggest("vault takover"), "vault takeover");
	assert_string_equal(cli_suggest("jop list"), "job list");
	assert_null(cli_suggest("frob"));
	assert_null(cli_suggest("frob list"));
	assert_null(cli_suggest("zzzzzz"));
	assert_null(cli_suggest(""));
}

static void systemd_is_told(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-notify-XXXXXX", text[64] = "";
	assert_non_null(mkdtemp(directory));
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", directory);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_send("READY=1"), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	assert_int_equal(notify_send("READY=1\nSTATUS=up"), 0);
	assert_int_equal(recv(fd, text, sizeof(text) - 1, 0), 17);
	assert_string_equal(text, "READY=1\nSTATUS=up");
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(notify_send("READY=1"), -EAFNOSUPPORT);
	unlink(address.sun_path);
	assert_int_equal(rmdir(directory), 0);

	char pid[32];
	setenv("WATCHDOG_USEC", "30000000", 1);
	unsetenv("WATCHDOG_PID");
	assert_true(notify_watchdog_ns() == 30000000000ll);
	setenv("WATCHDOG_PID", "1", 1);
	assert_true(notify_watchdog_ns() == 0);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("WATCHDOG_PID", pid, 1);
	assert_true(notify_watchdog_ns() == 30000000000ll);
	setenv("WATCHDOG_USEC", "soon", 1);
	assert_true(notify_watchdog_ns() == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_have_three_digits),
		cmocka_unit_test(durations_have_two_units),
		cmocka_unit_test(tables_are_aligned_and_safe),
		cmocka_unit_test(members_are_read_forgivingly),
		cmocka_unit_test(words_become_parameters),
		cmocka_unit_test(nonsense_is_refused_in_words),
		cmocka_unit_test(near_commands_are_suggested),
		cmocka_unit_test(systemd_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
