/*
 * A shell command with an end: it is waited for, but not for ever, and whoever waits goes on doing
 * what it has to.
 *
 * The command leads a process group, which is killed as a whole when the time is over: whatever it
 * has started would go on holding the applications still.
 */
#include "replicator/agent/script.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define MEND "mend the command, or leave it out"

extern char **environ;

static int set_signals(posix_spawnattr_t *attributes)
{
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	int r = posix_spawnattr_setsigmask(attributes, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(attributes, &all);
	if (r == 0)
		r = posix_spawnattr_setpgroup(attributes, 0);
	if (r == 0)
		r = posix_spawnattr_setflags(attributes,
			POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	return r;
}

/* Ours, and the variable; what it points to is borrowed. NULL: no memory. */
static char **environment_with(char *variable)
{
	size_t n = 0, k = 0;
	while (environ[n])
		n++;
	char **all = calloc(n + 2, sizeof(*all));
	if (all && variable)
		all[k++] = variable;
	for (size_t i = 0; all && i < n; i++)
		all[k++] = environ[i];
	return all;
}

static int start(const struct script *script, pid_t *ret_pid)
{
	char shell[] = "/bin/sh", option[] = "-c";
	CLEANUP_FREE char *command = strdup(script->command);
	CLEANUP_FREE char *variable = script->variable ? strdup(script->variable) : NULL;
	CLEANUP_FREE char **environment = environment_with(variable);
	char *words[] = { shell, option, command, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	if (!command || !environment || (script->variable && !variable))
		return -ENOMEM;
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	int r = set_signals(&attributes);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(
			&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	if (r == 0)
		r = posix_spawn(ret_pid, shell, &actions, &attributes, words, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

/* -EAGAIN: it runs still. */
static int look(pid_t pid, int flags, int *ret_status)
{
	pid_t got;
	do
		got = waitpid(pid, ret_status, flags);
	while (got < 0 && errno == EINTR);
	return got == 0 ? -EAGAIN : got < 0 ? -errno : 0;
}

static int judge(const struct script *script, int status, struct error *error)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status))
		return error_set(error, -EIO, MEND, "the %s command '%.200s' ended with %d",
			script->what, script->command, WEXITSTATUS(status));
	return error_set(error, -EIO, MEND, "the %s command '%.200s' was killed by signal %d",
		script->what, script->command, WTERMSIG(status));
}

int script_run(const struct script *script, struct error *error)
{
	int64_t until = clock_monotonic_ns(clock_system()) + script->timeout_ms * NS_PER_MS;
	int status = 0, why = 0;
	pid_t pid;
	int r = start(script, &pid);
	if (r < 0)
		return error_set(error, -EIO, MEND, "the %s command '%.200s' cannot be run: %s",
			script->what, script->command, strerrordesc_np(-r));
	while ((r = look(pid, WNOHANG, &status)) == -EAGAIN) {
		why = script->tick(script->context);
		if (why == 0 && clock_monotonic_ns(clock_system()) >= until)
			why = -ETIMEDOUT;
		if (why == 0)
			continue;
		(void)kill(-pid, SIGKILL);
		r = look(pid, 0, &status);
		break;
	}
	if (why == -ETIMEDOUT)
		return error_set(error, why, "mend the command, or let --script-timeout be longer",
			"the %s command '%.200s' took longer than %u s and was killed",
			script->what, script->command, script->timeout_ms / 1000);
	if (why < 0)
		return error_set(error, why, NULL, "the %s command '%.200s' was ended: %s",
			script->what, script->command, strerrordesc_np(-why));
	if (r < 0)
		return error_set(error, -EIO, NULL, "the %s command '%.200s' was lost: %s",
			script->what, script->command, strerrordesc_np(-r));
	return judge(script, status, error);
}
