/*
 * landfall agent install, uninstall: the agent is taken to a machine over the user's own ssh.
 *
 * The work is done by push/push-agent, which stands in <prefix>/libexec/landfall beside what it
 * sends. Here a registration key is made for the machine and handed to it through a pipe: it is in
 * nobody's arguments or environment.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "appliance/cli.h"
#include "common/cleanup.h"
#include "common/json.h"

#define DEFAULT_PORT "9443"
#define DISKS_MAX 64u
#define KEY_NAME_BYTES 32u

static enum exit_code fail(struct cli *cli, int code, const char *mend, const char *text)
{
	struct cli_error error = { .exit = exit_code_of(code) };
	error_set(&error.error, code, mend, "%s", text);
	return cli_fail(cli, &error);
}

/* ── where things are ────────────────────────────────────────────────────────────────────── */

struct parts {
	char push[PATH_MAX], program[PATH_MAX], unit[PATH_MAX];
};

/* Beside the program as it is installed (bin, sbin, libexec under one prefix), or as it is built.
 */
static bool find_part(const char *directory, const char *const *candidates, char ret[PATH_MAX])
{
	for (; *candidates; candidates++) {
		int n = snprintf(ret, PATH_MAX, "%s/%s", directory, *candidates);
		if (n < PATH_MAX && access(ret, R_OK) == 0)
			return true;
	}
	return false;
}

static bool find_parts(struct parts *parts)
{
	static const char *const push[] = { "../libexec/landfall/push-agent",
		"libexec/landfall/push-agent", NULL };
	static const char *const program[] = { "../sbin/landfall-agent", "landfall-agent", NULL };
	static const char *const unit[] = { "../libexec/landfall/landfall-agent.service.in",
		"libexec/landfall/landfall-agent.service.in", NULL };
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return false;
	self[n] = '\0';
	char *slash = strrchr(self, '/');
	if (!slash)
		return false;
	*slash = '\0';
	return find_part(self, push, parts->push) && find_part(self, program, parts->program) &&
	       find_part(self, unit, parts->unit);
}

/* ── running it ──────────────────────────────────────────────────────────────────────────── */

static int write_key(int fd, const char *key)
{
	size_t n = strlen(key);
	return write(fd, key, n) == (ssize_t)n && write(fd, "\n", 1) == 1 ? 0 : -EPIPE;
}

/* While the script runs, what interrupts both is the script's to heed: this program has to clean up
 * after it. */
static void heed_interrupts(bool heed)
{
	static const int numbers[] = { SIGINT, SIGQUIT, SIGHUP, SIGTERM };
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		(void)signal(numbers[i], heed ? SIG_DFL : SIG_IGN);
}

/* The script's exit code, or -errno. `words` NULL-ended, the script first. */
static int run_push(const char *const *words, const char *key)
{
	int ends[2], status;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	fflush(stdout);
	heed_interrupts(false);
	pid_t pid = fork();
	if (pid == 0) {
		heed_interrupts(true);
		if (dup2(ends[0], STDIN_FILENO) >= 0)
			execv(words[0], (char *const *)words);
		_exit(127);
	}
	close(ends[0]);
	int r = pid < 0 ? -errno : write_key(ends[1], key);
	close(ends[1]);
	while (pid >= 0 && waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			r = -errno, pid = -1;
	heed_interrupts(true);
	if (pid < 0)
		return r;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

static enum exit_code told(struct cli *cli, int result)
{
	if (result == 0)
		return EXIT_DONE;
	if (result == 255)
		return fail(cli, -EHOSTUNREACH,
			"'ssh -o BatchMode=yes USER@HOST true' must work without a password",
			"ssh could not reach the machine or was refused");
	return fail(cli, result < 0 ? result : -EIO, "see the lines above",
		"the agent could not be installed or removed there");
}

/* ── install ─────────────────────────────────────────────────────────────────────────────── */

static enum exit_code check_machine(struct cli *cli, const char *machine)
{
	CLEANUP(json_freep) cJSON *parameters = cJSON_CreateObject(), *result = NULL;
	struct cli_error error;
	if (!parameters || !cJSON_AddStringToObject(parameters, "name", machine))
		return fail(cli, -ENOMEM, NULL, "out of memory");
	if (cli_call(cli, "machine.show", parameters, &error, &result) < 0)
		return cli_fail(cli, &error);
	if (strcmp(cli_get_text(cli_get(result, "machine"), "source"), "agent") != 0)
		return fail(cli, -EEXIST, "add it under another name with --source agent",
			"that machine has another source than an agent");
	return EXIT_DONE;
}

/* What the agent would refuse is not taken to the machine. */
static enum exit_code check_disks(struct cli *cli)
{
	const cJSON *disk;
	cJSON_ArrayForEach(disk, cli_get(cli->options, "disk"))
	{
		const char *path = strchr(disk->valuestring, '=');
		if (!path || path == disk->valuestring || path[1] != '/')
			return fail(cli, -EINVAL, "name it like --disk root=/dev/sda",
				"--disk wants ID=PATH, the path from the root");
	}
	return EXIT_DONE;
}

static enum exit_code check_disk_count(struct cli *cli)
{
	unsigned count = (unsigned)cJSON_GetArraySize(cli_get(cli->options, "disk"));
	return count <= DISKS_MAX ? EXIT_DONE
				  : fail(cli, -EINVAL, "leave --disk out to protect all of them",
					    "more than 64 disks are named");
}

/* The key's text is the caller's. */
static enum exit_code make_key(
	struct cli *cli, const char *machine, char ret_id[static KEY_NAME_BYTES], char **ret_key)
{
	CLEANUP(json_freep) cJSON *parameters = cJSON_CreateObject(), *result = NULL;
	struct cli_error error;
	if (!parameters || !cJSON_AddStringToObject(parameters, "machine", machine) ||
		!cJSON_AddStringToObject(parameters, "ttl", "1h"))
		return fail(cli, -ENOMEM, NULL, "out of memory");
	if (cli_call(cli, "key.create", parameters, &error, &result) < 0)
		return cli_fail(cli, &error);
	snprintf(ret_id, KEY_NAME_BYTES, "%s", cli_get_text(cli_get(result, "key"), "id"));
	*ret_key = strdup(cli_get_text(result, "text"));
	return *ret_key ? EXIT_DONE : fail(cli, -ENOMEM, NULL, "out of memory");
}

/* Nobody has enrolled with it. */
static bool is_unused(struct cli *cli, const char *id)
{
	CLEANUP(json_freep) cJSON *parameters = cJSON_CreateObject(), *result = NULL;
	struct cli_error error;
	const cJSON *key;
	if (!parameters || cli_call(cli, "key.list", parameters, &error, &result) < 0)
		return true; /* the appliance is asked once more, and fails then */
	cJSON_ArrayForEach(key, cli_get(result, "keys"))
	{
		if (strcmp(cli_get_text(key, "id"), id) == 0)
			return strcmp(cli_get_text(key, "state"), "valid") == 0;
	}
	return false;
}

/* An installation has failed: its key must not let anybody else in. One that was used lets nobody
 * in any more, and revoking it would take the certificate of the agent that is there. */
static void revoke_key(struct cli *cli, const char *id)
{
	CLEANUP(json_freep) cJSON *parameters = cJSON_CreateObject(), *result = NULL;
	struct cli_error error;
	if (!is_unused(cli, id))
		return;
	if (!parameters || !cJSON_AddStringToObject(parameters, "id", id) ||
		cli_call(cli, "key.revoke", parameters, &error, &result) < 0)
		fprintf(stderr,
			"landfall: registration key %s could not be revoked\n"
			"  → 'landfall key revoke %s'; it serves for an hour\n",
			id, id);
}

/* What agents are to call us, unless it was said: our name, at the usual port. */
static const char *appliance_of(const struct cli *cli, char text[HOST_NAME_MAX + 16])
{
	const char *word = cli_get_text(cli->options, "appliance");
	char host[HOST_NAME_MAX + 1] = "";
	if (*word)
		return word;
	(void)gethostname(host, sizeof(host) - 1);
	snprintf(text, HOST_NAME_MAX + 16, "%s:" DEFAULT_PORT, host);
	return text;
}

enum exit_code cli_agent_install(struct cli *cli)
{
	CLEANUP_FREE char *key = NULL;
	char id[KEY_NAME_BYTES];
	struct parts parts;
	char text[HOST_NAME_MAX + 16];
	const char *machine = cli_get_text(cli->options, "machine");
	if (!*machine)
		return fail(
			cli, -EINVAL, "see landfall agent install --help", "--machine is missing");
	if (!find_parts(&parts))
		return fail(cli, -ENOENT, "install Landfall whole: cmake --install",
			"landfall-agent and what sends it are not beside this program");
	enum exit_code code = check_disks(cli);
	if (code == EXIT_DONE)
		code = check_machine(cli, machine);
	if (code == EXIT_DONE)
		code = check_disk_count(cli);
	if (code == EXIT_DONE)
		code = make_key(cli, machine, id, &key);
	if (code != EXIT_DONE)
		return code;
	const char *words[9 + 2 * DISKS_MAX] = { parts.push, "install", parts.program, parts.unit,
		cli_get_text(cli->parameters, "user@host"), cli_get_text(cli->options, "identity"),
		appliance_of(cli, text), machine };
	unsigned count = 8;
	const cJSON *disk;
	cJSON_ArrayForEach(disk, cli_get(cli->options, "disk"))
	{
		words[count++] = "--disk";
		words[count++] = disk->valuestring;
	}
	int result = run_push(words, key);
	if (result != 0)
		revoke_key(cli, id);
	return told(cli, result);
}

enum exit_code cli_agent_uninstall(struct cli *cli)
{
	struct parts parts;
	if (!find_parts(&parts))
		return fail(cli, -ENOENT, "install Landfall whole: cmake --install",
			"what removes agents is not beside this program");
	const char *words[] = { parts.push, "uninstall", parts.program, parts.unit,
		cli_get_text(cli->parameters, "user@host"), cli_get_text(cli->options, "identity"),
		NULL };
	return told(cli, run_push(words, ""));
}
