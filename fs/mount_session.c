/*
 * Sessions: one mount in the kernel each, with its threads.
 *
 * One thread runs libfuse's loop, which keeps up to max_threads workers, each with a channel of
 * its own (clone_fd). When the loop ends, because the filesystem was unmounted and its last file
 * closed, or because session_free asked for it, that thread unmounts what is left and closes the
 * device, which makes the kernel answer whatever is still waiting. Then it releases the handles
 * that the kernel did not (it does not when a connection is aborted). session_free joins it.
 *
 * A worker of one session may answer a request of another that was queued at a gate, so a session's
 * handles stay until none of its requests is queued any more.
 *
 * libfuse's loop sleeps in its workers' reads of the device, so session_free has to wake one: it
 * raises the exit flag and asks the filesystem something; the worker that answers sees the flag. A
 * session that has no path any more cannot be asked: its connection is aborted.
 */
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

#include "common/cleanup.h"
#include "common/log.h"
#include "fs/mount_internal.h"

#define JOIN_SECONDS 5
#define CONNECTIONS "/sys/fs/fuse/connections"

/* ── handles ─────────────────────────────────────────────────────────────────────────────── */

struct handle *handle_new(struct session *session, struct open_file *file)
{
	struct handle *handle = calloc(1, sizeof(*handle));
	if (!handle)
		return NULL;
	handle->session = session;
	handle->file = file;
	SCOPED_LOCK(&session->mount->lock);
	handle->next = session->handles;
	handle->link = &session->handles;
	if (handle->next)
		handle->next->link = &handle->next;
	session->handles = handle;
	return handle;
}

static void unlink_locked(struct handle *handle)
{
	*handle->link = handle->next;
	if (handle->next)
		handle->next->link = handle->link;
}

void handle_release(struct handle *handle)
{
	pthread_mutex_lock(&handle->session->mount->lock);
	unlink_locked(handle);
	pthread_mutex_unlock(&handle->session->mount->lock);
	file_release(handle->file);
	free(handle);
}

static struct handle *first_handle(struct session *session)
{
	SCOPED_LOCK(&session->mount->lock);
	while (atomic_load(&session->queued) > 0)
		pthread_cond_wait(&session->mount->changed, &session->mount->lock);
	return session->handles;
}

/* Of which the kernel will not tell any more that they were closed. */
static void release_handles(struct session *session)
{
	struct handle *handle;
	while ((handle = first_handle(session)))
		handle_release(handle);
}

/* ── the thread ──────────────────────────────────────────────────────────────────────────── */

static int run_loop(struct session *session)
{
	struct fuse_loop_config *config = mount_settings_loop(session->mount->max_threads);
	if (!config)
		return -ENOMEM;
	int r = fuse_session_loop_mt(session->fuse, config);
	fuse_loop_cfg_destroy(config);
	return r;
}

static void *session_main(void *argument)
{
	struct session *session = argument;
	struct mount *mount = session->mount;
	/* A filesystem on a loop device over this mount must not wait for itself when memory is
	 * short. Inherited by the workers; it needs a capability and is no more than advisable. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	int r = run_loop(session);
	if (!atomic_load(&mount->stopping))
		log_warning("%s: the mount was taken down from outside (%s)", mount->path,
			r < 0 ? strerrordesc_np(-r) : "unmounted");
	pthread_mutex_lock(&mount->lock);
	atomic_store(&session->ended, true);
	pthread_cond_broadcast(&mount->changed);
	while (session->users > 0)
		pthread_cond_wait(&mount->changed, &mount->lock);
	pthread_mutex_unlock(&mount->lock);
	/* Closes the device: the kernel answers whoever still waits. It unmounts nothing if the
	 * connection is over already, so not what may be mounted at the path by now. */
	fuse_session_unmount(session->fuse);
	release_handles(session);
	atomic_store(&session->finished, true);
	return NULL;
}

/* Its threads take no signals: those are the program's main thread's. */
static int start_thread(struct session *session)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&session->thread, NULL, session_main, session);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

/* ── the beginning ───────────────────────────────────────────────────────────────────────── */

static int open_fuse(struct session *session, struct error *error)
{
	struct mount *mount = session->mount;
	char text[256];
	snprintf(text, sizeof(text), "fsname=landfall,subtype=landfall," MOUNT_OPTIONS "%s",
		MOUNT_IO_BYTES, mount->allow_other ? ",allow_other" : "");
	char name[] = "landfall", option[] = "-o";
	char *argv[] = { name, option, text, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	session->fuse =
		fuse_session_new(&args, mount_ops(), sizeof(struct fuse_lowlevel_ops), session);
	fuse_opt_free_args(&args);
	if (!session->fuse)
		return error_set(error, -EINVAL, NULL, "the FUSE session cannot be set up");
	if (fuse_session_mount(session->fuse, mount->path) == 0)
		return 0;
	fuse_session_destroy(session->fuse);
	return error_set(error, -EPERM,
		"run as root, with /dev/fuse there (modprobe fuse) and the path a directory",
		"%s: cannot mount", mount->path);
}

/* The kernel reads ahead 128 KiB of a FUSE file, whatever was agreed on; a point whose bytes come
 * from far away deserves more. Best effort. */
static void widen_read_ahead(const struct session *session)
{
	char path[64];
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(session->device),
		minor(session->device));
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1024", 4) != 4)
		log_debug("%s: the read-ahead stays as it is", session->mount->path);
}

int session_new(struct mount *mount, struct error *error)
{
	CLEANUP_FREE struct session *session = calloc(1, sizeof(*session));
	if (!session)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	session->mount = mount;
	int r = open_fuse(session, error);
	if (r < 0)
		return r;
	r = start_thread(session);
	if (r < 0) {
		fuse_session_unmount(session->fuse);
		fuse_session_destroy(session->fuse);
		return error_set(error, r, NULL, "no thread: %s", strerrordesc_np(-r));
	}
	/* Returns when the first worker has answered: it serves. */
	struct stat st;
	if (stat(mount->path, &st) == 0)
		session->device = st.st_dev;
	widen_read_ahead(session);
	SCOPED_LOCK(&mount->lock);
	session->next = mount->sessions;
	mount->sessions = TAKE(session);
	return 0;
}

/* ── the end ─────────────────────────────────────────────────────────────────────────────── */

static int write_abort(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, "1", 1) == 1 ? 0 : -EIO;
}

/* Tells the kernel to end the connection. Where nobody has mounted the directory in which that is
 * told (systemd does), it is mounted for the moment. */
static void abort_connection(const struct session *session)
{
	char path[64];
	snprintf(path, sizeof(path), CONNECTIONS "/%u/abort", minor(session->device));
	int r = write_abort(path);
	if (r == -ENOENT && mount("fusectl", CONNECTIONS, "fusectl", 0, NULL) == 0) {
		r = write_abort(path);
		(void)umount2(CONNECTIONS, MNT_DETACH);
	}
	if (r < 0 && !atomic_load(&session->ended))
		log_warning("%s: waiting for the last who uses it", session->mount->path);
}

/* True if the session's loop ended within JOIN_SECONDS. */
static bool await_end(struct session *session)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += JOIN_SECONDS;
	SCOPED_LOCK(&session->mount->lock);
	int r = 0;
	while (!atomic_load(&session->ended) && r == 0)
		r = pthread_cond_timedwait(&session->mount->changed, &session->mount->lock, &until);
	return atomic_load(&session->ended);
}

void session_free(struct session *session, bool at_path)
{
	/* Unused, it goes at once, and the kernel tells the workers. */
	if (at_path && umount2(session->mount->path, UMOUNT_NOFOLLOW) < 0) {
		struct statvfs st;
		fuse_session_exit(session->fuse);
		(void)statvfs(session->mount->path, &st);
	}
	if (!atomic_load(&session->ended) && (!at_path || !await_end(session)))
		abort_connection(session);
	pthread_join(session->thread, NULL);
	fuse_session_destroy(session->fuse);
	free(session);
}

/* ── the kernel's memory ─────────────────────────────────────────────────────────────────── */

/* The first that talks to the kernel, from `session` on, held until session_put. */
static struct session *get_from_locked(struct session *session)
{
	while (session && atomic_load(&session->ended))
		session = session->next;
	if (session)
		session->users++;
	return session;
}

static struct session *next_session(struct mount *mount, struct session *session)
{
	SCOPED_LOCK(&mount->lock);
	struct session *next = get_from_locked(session ? session->next : mount->sessions);
	if (session && --session->users == 0)
		pthread_cond_broadcast(&mount->changed);
	return next;
}

void sessions_forget_name(struct mount *mount, fuse_ino_t parent, const char *name)
{
	for (struct session *s = NULL; (s = next_session(mount, s));)
		(void)fuse_lowlevel_notify_inval_entry(s->fuse, parent, name, strlen(name));
}
