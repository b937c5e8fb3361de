/*
 * The mount's life, and whether it still is where it was mounted.
 *
 * What it shows, its open files and its gates belong to the mount; the kernel's side is a session
 * (mount_session.c). Whoever unmounts it from outside ends the session, or, with files open, takes
 * it out of the tree of names only: those who have them open go on, through a session that nobody
 * can reach any more. Either way a new one is mounted in its place (mount_watch). Both show the
 * same: a file that is open in two sessions has one store, so nothing is torn between them.
 *
 * Requests may wait in their workers, so gates keep any group and the vault's readers from having
 * them all (mount_gates.c), and there are many; those that are idle end. The kernel hands out no
 * more than MOUNT_MAX_BACKGROUND asynchronous requests, of all groups together: so that is many
 * more.
 */
#include "fs/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "fs/mount_internal.h"

#define MOST_READS 24u

/* ── what is at the path ─────────────────────────────────────────────────────────────────── */

static bool is_dead(int error)
{
	return error == ENOTCONN || error == ECONNABORTED;
}

/* True if a FUSE filesystem is mounted at exactly `path`. The table is the kernel's; what cannot
 * be read is taken for not mounted, and mounting over it is then refused or seen by the caller. */
static bool is_fuse_mount(const char *path)
{
	CLEANUP_FREE char *real = realpath(path, NULL);
	FILE *table = fopen("/proc/self/mounts", "re");
	if (!table)
		return false;
	bool found = false;
	char *line = NULL;
	size_t size = 0;
	while (real && getline(&line, &size, table) > 0) {
		char where[4096], type[64];
		if (sscanf(line, "%*s %4095s %63s", where, type) == 2 && strcmp(where, real) == 0)
			found = strncmp(type, "fuse", 4) == 0;
	}
	free(line);
	fclose(table);
	return found;
}

/* Takes down a mount whose server has died (ENOTCONN), if there is one at `path`. 0 also if there
 * is none; -EBUSY: a living one. */
static int clean_stale(const char *path)
{
	struct statvfs st;
	/* One dead daemon after another may have left mounts on top of each other. The kernel never
	 * answers statvfs from its caches. */
	for (int layers = 0; layers < 100; layers++) {
		if (statvfs(path, &st) == 0)
			return is_fuse_mount(path) ? -EBUSY : 0;
		if (errno == ENOENT)
			return 0;
		if (!is_dead(errno))
			return -errno;
		if (umount2(path, MNT_DETACH) < 0)
			return -errno;
		log_info("%s: took down the mount that a dead daemon left behind", path);
	}
	return -EBUSY;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

/* The directory, free of dead mounts. */
static int prepare_path(const char *path, struct error *error)
{
	int r = clean_stale(path);
	if (r == -EBUSY)
		return error_set(error, r,
			"stop the daemon that serves it, or configure another path",
			"%s: something is mounted there and alive", path);
	if (r < 0)
		return error_set(
			error, r, NULL, "%s: cannot be used: %s", path, strerrordesc_np(-r));
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return error_set(error, -errno, "make its parent directory",
			"%s: cannot be made: %s", path, strerrordesc_np(errno));
	return 0;
}

static void release(struct mount *mount)
{
	pthread_cond_destroy(&mount->changed);
	buffers_free(&mount->buffers);
	gate_destroy(&mount->reads);
	write_gates_free(mount);
	pthread_mutex_destroy(&mount->lock);
	pthread_mutex_destroy(&mount->watch_lock);
	free(mount->path);
	free(mount);
}

int mount_new(const struct mount_options *options, struct error *error, struct mount **ret_mount)
{
	int r = prepare_path(options->path, error);
	if (r < 0)
		return r;
	struct mount *mount = calloc(1, sizeof(*mount));
	if (!mount)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	pthread_mutex_init(&mount->watch_lock, NULL);
	pthread_mutex_init(&mount->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&mount->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	mount->allow_other = options->allow_other;
	mount->max_threads = MAX(options->max_threads ? options->max_threads : MOUNT_THREADS, 2u);
	pthread_mutex_init(&mount->buffers.lock, NULL);
	gate_init(&mount->reads, MIN(MAX(mount->max_threads * 3 / 4, 1u), MOST_READS));
	mount->started_ns = clock_realtime_ns(clock_system());
	mount->path = strdup(options->path);
	r = mount->path ? -pthread_key_create(&mount->buffer, free) : -ENOMEM;
	if (r < 0) {
		release(mount);
		return error_set(error, r, NULL, "%s", strerrordesc_np(-r));
	}
	r = session_new(mount, error);
	if (r < 0) {
		pthread_key_delete(mount->buffer);
		release(mount);
		return r;
	}
	*ret_mount = mount;
	return 0;
}

/* ── being there ─────────────────────────────────────────────────────────────────────────── */

/* True if what is seen at the path is the newest session's. Asks nobody, so it cannot hang. */
static bool is_at_path(const struct mount *mount)
{
	struct statx st;
	if (statx(AT_FDCWD, mount->path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &st) < 0)
		return false;
	return makedev(st.stx_dev_major, st.stx_dev_minor) == mount->sessions->device;
}

/* True if it is mounted at the path, be it below something else. */
static bool is_in_table(const struct mount *mount)
{
	CLEANUP_FREE char *real = realpath(mount->path, NULL);
	FILE *table = fopen("/proc/self/mountinfo", "re");
	if (!table)
		return false;
	bool found = false;
	char *line = NULL;
	size_t size = 0;
	while (real && !found && getline(&line, &size, table) > 0) {
		char where[4096];
		unsigned high, low;
		if (sscanf(line, "%*u %*u %u:%u %*s %4095s", &high, &low, where) == 3)
			found = strcmp(where, real) == 0 &&
				makedev(high, low) == mount->sessions->device;
	}
	free(line);
	fclose(table);
	return found;
}

/* Those that were taken away and whose last file is closed. */
static void reap_sessions(struct mount *mount)
{
	for (struct session **link = &mount->sessions->next; *link;) {
		struct session *s = *link;
		if (!atomic_load(&s->finished)) {
			link = &s->next;
			continue;
		}
		pthread_mutex_lock(&mount->lock);
		*link = s->next;
		pthread_mutex_unlock(&mount->lock);
		session_free(s, false);
	}
}

int mount_watch(struct mount *mount, struct error *error, bool *ret_restored)
{
	SCOPED_LOCK(&mount->watch_lock);
	bool ended = atomic_load(&mount->sessions->ended);
	reap_sessions(mount);
	*ret_restored = false;
	if (!ended && is_at_path(mount))
		return 0;
	if (!ended && is_in_table(mount))
		return error_set(error, -EBUSY,
			"unmount what lies over it ('findmnt' shows what), or stop landfalld and "
			"configure another path",
			"%s: something else is mounted over it", mount->path);
	int r = prepare_path(mount->path, error);
	if (r == 0)
		r = session_new(mount, error);
	if (r < 0)
		return r;
	log_warning("%s: the mount was taken away from outside; it is mounted again", mount->path);
	*ret_restored = true;
	return 0;
}

/* ── the end ─────────────────────────────────────────────────────────────────────────────── */

void mount_free(struct mount *mount)
{
	if (!mount)
		return;
	atomic_store(&mount->stopping, true);
	for (bool at_path = is_at_path(mount); mount->sessions; at_path = false) {
		struct session *s = mount->sessions;
		pthread_mutex_lock(&mount->lock);
		mount->sessions = s->next;
		pthread_mutex_unlock(&mount->lock);
		session_free(s, at_path);
	}
	files_free_all(mount);
	while (mount->machines)
		(void)mount_remove_machine(mount, mount->machines->name);
	pthread_key_delete(mount->buffer);
	release(mount);
}
