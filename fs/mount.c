/*
 * The mount's life: the session, its threads, and getting rid of it.
 *
 * One thread runs libfuse's loop, which keeps up to max_threads workers, each with a channel of
 * its own (clone_fd). When the loop ends, because the filesystem was unmounted or mount_free asked
 * for it, that thread unmounts what is left and closes the device, which makes the kernel answer
 * whatever is still waiting. mount_free joins it.
 *
 * Requests may wait in their workers, so gates keep any group and the vault's readers from having
 * them all (mount_gates.c), and there are many; those that are idle end. The kernel hands out no
 * more than MOUNT_MAX_BACKGROUND asynchronous requests, of all groups together: so that is many
 * more.
 *
 * libfuse's loop sleeps in its workers' reads of the device, so mount_free has to wake one: it
 * raises the exit flag and asks the filesystem something; the worker that answers sees the flag.
 */
#include "fs/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
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
#define JOIN_SECONDS 5

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

int mount_clean_stale(const char *path)
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

/* ── the session ─────────────────────────────────────────────────────────────────────────── */

static int run_loop(struct mount *mount)
{
	struct fuse_loop_config *config = mount_settings_loop(mount->max_threads);
	if (!config)
		return -ENOMEM;
	int r = fuse_session_loop_mt(mount->session, config);
	fuse_loop_cfg_destroy(config);
	return r;
}

static void *session_main(void *argument)
{
	struct mount *mount = argument;
	/* A filesystem on a loop device over this mount must not wait for itself when memory is
	 * short. Inherited by the workers; it needs a capability and is no more than advisable. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	int r = run_loop(mount);
	if (!atomic_load(&mount->stopping))
		log_warning("%s: the mount was taken down from outside (%s)", mount->path,
			r < 0 ? strerrordesc_np(-r) : "unmounted");
	pthread_mutex_lock(&mount->lock);
	atomic_store(&mount->ended, true);
	pthread_cond_broadcast(&mount->changed);
	pthread_mutex_unlock(&mount->lock);
	/* Closes the device: the kernel answers whoever still waits. */
	fuse_session_unmount(mount->session);
	return NULL;
}

/* Its threads take no signals: those are the program's main thread's. */
static int start_thread(struct mount *mount)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&mount->thread, NULL, session_main, mount);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

static int open_session(
	struct mount *mount, const struct mount_options *options, struct error *error)
{
	char text[256];
	snprintf(text, sizeof(text), "fsname=landfall,subtype=landfall," MOUNT_OPTIONS "%s",
		MOUNT_IO_BYTES, options->allow_other ? ",allow_other" : "");
	char name[] = "landfall", option[] = "-o";
	char *argv[] = { name, option, text, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	mount->session =
		fuse_session_new(&args, mount_ops(), sizeof(struct fuse_lowlevel_ops), mount);
	fuse_opt_free_args(&args);
	if (!mount->session)
		return error_set(error, -EINVAL, NULL, "the FUSE session cannot be set up");
	if (fuse_session_mount(mount->session, mount->path) == 0)
		return 0;
	fuse_session_destroy(mount->session);
	return error_set(error, -EPERM,
		"run as root, with /dev/fuse there (modprobe fuse) and the path a directory",
		"%s: cannot mount", mount->path);
}

/* The directory, free of dead mounts. */
static int prepare_path(const char *path, struct error *error)
{
	int r = mount_clean_stale(path);
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
	free(mount->path);
	free(mount);
}

/* The kernel reads ahead 128 KiB of a FUSE file, whatever was agreed on; a point whose bytes come
 * from far away deserves more. Best effort. */
static void widen_read_ahead(const struct mount *mount)
{
	char path[64];
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(mount->device),
		minor(mount->device));
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1024", 4) != 4)
		log_debug("%s: the read-ahead stays as it is", mount->path);
}

int mount_new(const struct mount_options *options, struct error *error, struct mount **ret_mount)
{
	int r = prepare_path(options->path, error);
	if (r < 0)
		return r;
	struct mount *mount = calloc(1, sizeof(*mount));
	if (!mount)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	pthread_mutex_init(&mount->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&mount->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
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
	r = open_session(mount, options, error);
	if (r == 0) {
		r = start_thread(mount);
		if (r < 0) {
			fuse_session_unmount(mount->session);
			fuse_session_destroy(mount->session);
			error_set(error, r, NULL, "no thread: %s", strerrordesc_np(-r));
		}
	}
	if (r < 0) {
		pthread_key_delete(mount->buffer);
		release(mount);
		return r;
	}
	/* Returns when the first worker has answered: it serves. */
	struct stat st;
	if (stat(mount->path, &st) == 0)
		mount->device = st.st_dev;
	widen_read_ahead(mount);
	*ret_mount = mount;
	return 0;
}

/* ── the end ─────────────────────────────────────────────────────────────────────────────── */

/* Tells the kernel to end the connection; for when no worker can be woken through the path. */
static void abort_connection(const struct mount *mount)
{
	char path[64];
	snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u/abort", minor(mount->device));
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1", 1) != 1)
		log_warning("%s: waiting for the last who uses it", mount->path);
}

/* True if the session's loop ended within JOIN_SECONDS. */
static bool await_end(struct mount *mount)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += JOIN_SECONDS;
	SCOPED_LOCK(&mount->lock);
	int r = 0;
	while (!atomic_load(&mount->ended) && r == 0)
		r = pthread_cond_timedwait(&mount->changed, &mount->lock, &until);
	return atomic_load(&mount->ended);
}

void mount_free(struct mount *mount)
{
	if (!mount)
		return;
	atomic_store(&mount->stopping, true);
	/* Unused, it goes at once, and the kernel tells the workers. */
	if (umount2(mount->path, UMOUNT_NOFOLLOW) < 0) {
		struct statvfs st;
		fuse_session_exit(mount->session);
		(void)statvfs(mount->path, &st);
	}
	if (!await_end(mount))
		abort_connection(mount);
	pthread_join(mount->thread, NULL);
	files_free_all(mount);
	while (mount->machines)
		(void)mount_remove_machine(mount, mount->machines->name);
	fuse_session_destroy(mount->session);
	pthread_key_delete(mount->buffer);
	release(mount);
}
