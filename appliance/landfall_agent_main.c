/*
 * landfall-agent: runs on the machine that is protected. agent/command.h tells its parts.
 */
#ifdef LANDFALL_STATIC
#include <nss.h>
#include <openssl/crypto.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "appliance/agent/command.h"
#include "common/standard_files.h"

#ifdef LANDFALL_STATIC
/* A static program must load nothing of the machine's, which was made for another libc: names are
 * looked up by what is linked in (/etc/hosts, then DNS as /etc/resolv.conf has it), whatever
 * nsswitch.conf says, and OpenSSL's configuration, which may name modules, is not read. */
static void keep_to_itself(void)
{
	(void)__nss_configure_lookup("hosts", "files dns");
	(void)__nss_configure_lookup("services", "files");
	(void)OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
}
#endif

/* Keys are in memory: no core dumps, no ptrace by others. What is made is ours alone. */
static void prepare_process(void)
{
	const struct rlimit none = { 0, 0 };
	umask(077);
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	(void)setrlimit(RLIMIT_CORE, &none);
	signal(SIGPIPE, SIG_IGN);
#ifdef LANDFALL_STATIC
	keep_to_itself();
#endif
}

static const struct agent_command *find_command(const char *word)
{
	for (const struct agent_command *command = agent_commands; command->name; command++)
		if (strcmp(command->name, word) == 0)
			return command;
	return NULL;
}

static enum agent_exit run_command(const struct agent_command *command, int argc, char **argv)
{
	struct error error = { 0 };
	struct agent_arguments *arguments;
	bool help;
	if (agent_arguments_parse(command, argc, argv, &error, &arguments, &help) < 0)
		return agent_fail(&error);
	enum agent_exit code = AGENT_DONE;
	if (help)
		agent_print_help(command, stdout);
	else
		code = command->run(arguments);
	agent_arguments_free(arguments);
	return code;
}

static int run(int argc, char **argv)
{
	if (argc < 2) {
		agent_print_help(NULL, stderr);
		return AGENT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		agent_print_help(NULL, stdout);
		return AGENT_DONE;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("landfall-agent " LANDFALL_VERSION);
		return AGENT_DONE;
	}
	const struct agent_command *command = find_command(argv[1]);
	if (!command) {
		fprintf(stderr,
			"landfall-agent: there is no command \"%.80s\"\n  → see landfall-agent "
			"--help\n",
			argv[1]);
		return AGENT_USAGE;
	}
	return run_command(command, argc - 2, argv + 2);
}

int main(int argc, char **argv)
{
	if (standard_files_open() < 0)
		return AGENT_FAILED;
	prepare_process();
	return standard_output_end("landfall-agent", run(argc, argv));
}
