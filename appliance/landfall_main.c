/*
 * landfall: the command line. Everything it can do, the control socket can do.
 */
#include <cjson/cJSON.h>
#include <stdlib.h>

#include "appliance/cli.h"
#include "common/standard_files.h"

static enum exit_code run(struct cli *cli, int argc, char **argv)
{
	struct error error = { 0 };
	bool version = false;
	int r = cli_parse(cli, argc - 1, argv + 1, &error, &version);
	if (r == 0 && cli->help) {
		cli_print_help(cli->command, cli->noun, stdout);
		return EXIT_DONE;
	}
	if (r == 0 && version) {
		puts("landfall " LANDFALL_VERSION);
		return EXIT_DONE;
	}
	if (r < 0)
		return cli_fail_usage(cli, &error);
	return cli->command->run(cli);
}

int main(int argc, char **argv)
{
	const char *socket_path = getenv("LANDFALL_SOCKET");
	struct cli cli = { .fd = -1, .socket_path = "/run/landfall/control.sock" };
	if (socket_path && *socket_path)
		cli.socket_path = socket_path;
	if (standard_files_open() < 0)
		return EXIT_FAILED;
	/* What could not be written was not done: a full disk behind `> file` must be told. */
	int code = standard_output_end("landfall", (int)run(&cli, argc, argv));
	cli_close(&cli);
	cJSON_Delete(cli.parameters);
	cJSON_Delete(cli.options);
	cJSON_Delete(cli.rest);
	return code;
}
