/*
 * The note on applications at rest.
 */
#include "replicator/agent/rest_note.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define END_NS (10 * NS_PER_S)
#define LOOK_NS (20 * NS_PER_MS)
#define ENVIRONMENT_BYTES (1u << 20)

static int path_of(const char *state_dir, char **ret_path)
{
	char *path;
	if (asprintf(&path, "%s/applications-at-rest", state_dir) < 0)
		return -ENOMEM;
	*ret_path = path;
	return 0;
}

int rest_note_write(struct io *io, const char *state_dir, struct error *error)
{
	CLEANUP_FREE char *path = NULL;
	int r = path_of(state_dir, &path);
	if (r == 0)
		r = io_replace_file(io, path, "", 0);
	return r < 0 ? error_set(error, r, "see that the agent's state directory can be written to",
			       "it cannot be noted in %s that applications are at rest: %s",
			       state_dir, strerrordesc_np(-r))
		     : 0;
}

int rest_note_clear(struct io *io, const char *state_dir)
{
	CLEANUP_FREE char *path = NULL;
	int r = path_of(state_dir, &path);
	if (r == 0)
		r = io_unlink(io, path);
	if (r == -ENOENT)
		return 0;
	return r == 0 ? io_sync_dir(io, state_dir) : r;
}

/* ── what is left of the command ─────────────────────────────────────────────────────────── */

/* Whether the process was started with that variable (proc_pid_environ(5)). */
static bool has_variable(int pid, const char *variable, char *room)
{
	char path[32];
	size_t n = 0, length = strlen(variable) + 1; /* with the zero that ends it */
	snprintf(path, sizeof(path), "/proc/%d/environ", pid);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && n < ENVIRONMENT_BYTES) {
		ssize_t got = read(fd, room + n, ENVIRONMENT_BYTES - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	for (char *at = room; at && at + length <= room + n;) {
		if (memcmp(at, variable, length) == 0)
			return true;
		at = memchr(at, '\0', (size_t)(room + n - at));
		at = at ? at + 1 : NULL;
	}
	return false;
}

/* True if there was any. */
static bool end_all(const char *variable, char *room)
{
	bool any = false;
	DIR *directory = opendir("/proc");
	if (!directory)
		return false;
	for (struct dirent *entry; (entry = readdir(directory));) {
		int pid = atoi(entry->d_name);
		if (pid <= 1 || pid == getpid() || !has_variable(pid, variable, room))
			continue;
		any = true;
		(void)kill(pid, SIGKILL);
	}
	closedir(directory);
	return any;
}

bool rest_note_take(struct io *io, const char *state_dir)
{
	CLEANUP_FREE char *path = NULL, *text = NULL, *variable = NULL, *room = NULL;
	int64_t until = clock_monotonic_ns(clock_system()) + END_NS;
	size_t n;
	if (path_of(state_dir, &path) < 0)
		return false;
	if (io_load_file(io, path, 1, &text, &n) == -ENOENT)
		return false;
	room = malloc(ENVIRONMENT_BYTES);
	if (asprintf(&variable, "%s=%s", REST_NOTE_VARIABLE, state_dir) < 0)
		variable = NULL;
	while (variable && room && end_all(variable, room) &&
		clock_monotonic_ns(clock_system()) < until)
		clock_sleep_ns(clock_system(), LOOK_NS);
	return true;
}
