/*
 * The socket file: made, guarded and removed; and who may call.
 *
 * A lock file beside the socket (flock) decides who is the daemon: whoever holds it may replace
 * the socket of a dead one, whoever does not get it is refused. The lock file is never removed,
 * because removing it would let two daemons hold "the" lock. All of this runs before the threads
 * or after them.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/control_internal.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59 /* Linux 4.13 */
#endif

static const char *const other_daemon = "stop the other landfalld, or give this one another "
					"control_socket";

static int make_directory(const char *path, struct error *error)
{
	CLEANUP_FREE char *directory = strdup(path);
	if (!directory)
		return error_set(error, -ENOMEM, NULL, "no memory for the control socket");
	for (char *slash = strchr(directory + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(directory, 0755) < 0 && errno != EEXIST)
			return error_set(error, -errno, "make the directory, or run as root",
				"cannot make directory %s: %s", directory, strerrordesc_np(errno));
		*slash = '/';
	}
	return 0;
}

static int take_lock(struct control *control, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	if (buf_printf(&path, "%s.lock", control->path) < 0)
		return error_set(error, -ENOMEM, NULL, "no memory for the control socket");
	control->lock_fd = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (control->lock_fd < 0)
		return error_set(error, -errno, "check the directory's permissions",
			"cannot open %s: %s", path.data, strerrordesc_np(errno));
	if (flock(control->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return error_set(error, -EADDRINUSE, other_daemon,
			"another landfalld is serving %s", control->path);
	return 0;
}

/* Something may listen there without our lock: a socket that answers is not taken away. */
static int remove_stale_socket(const struct sockaddr_un *address, struct error *error)
{
	struct stat status;
	if (lstat(address->sun_path, &status) < 0)
		return 0;
	if (!S_ISSOCK(status.st_mode))
		return error_set(error, -EEXIST, "move it away, or set another control_socket",
			"%s exists and is not a socket", address->sun_path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(
			error, -errno, NULL, "cannot make a socket: %s", strerrordesc_np(errno));
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
		return error_set(error, -EADDRINUSE, other_daemon, "something is serving %s",
			address->sun_path);
	if (unlink(address->sun_path) < 0)
		return error_set(error, -errno, NULL, "cannot remove the stale socket %s: %s",
			address->sun_path, strerrordesc_np(errno));
	return 0;
}

static void find_group(struct control *control)
{
	char buffer[4096];
	struct group group, *found = NULL;
	if (!control->group)
		return;
	int r = getgrnam_r(control->group, &group, buffer, sizeof(buffer), &found);
	if (r != 0 || !found) {
		log_info("control: no group %s here: only root and the daemon's own user may call",
			control->group);
		return;
	}
	control->has_group = true;
	control->group_id = group.gr_gid;
}

/* The mode is set before bind, so that the file is never wider open than it shall be. */
static int bind_socket(
	struct control *control, const struct sockaddr_un *address, struct error *error)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool bound = fd >= 0 && fchmod(fd, 0600) == 0 &&
		     bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;
	bool ok = bound;
	if (ok && control->has_group)
		ok = lchown(control->path, (uid_t)-1, control->group_id) == 0;
	ok = ok && chmod(control->path, 0660) == 0 && listen(fd, 4096) == 0;
	if (ok) {
		control->listen_fd = fd;
		return 0;
	}
	int r = -errno;
	cleanup_close(&fd);
	if (bound)
		(void)unlink(control->path);
	return error_set(error, r, "check the directory's permissions", "cannot listen on %s: %s",
		control->path, strerrordesc_np(-r));
}

int control_listen(struct control *control, struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(control->path) >= sizeof(address.sun_path))
		return error_set(error, -ENAMETOOLONG, "set a shorter control_socket",
			"%s: a socket's path has at most %zu characters", control->path,
			sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, control->path, strlen(control->path) + 1);

	int r = make_directory(control->path, error);
	if (r == 0)
		r = take_lock(control, error);
	if (r == 0)
		r = remove_stale_socket(&address, error);
	if (r < 0)
		return r;
	find_group(control);
	return bind_socket(control, &address, error);
}

void control_unlisten(struct control *control)
{
	if (control->listen_fd < 0)
		return;
	(void)unlink(control->path);
	close(control->listen_fd);
	control->listen_fd = -1;
}

/* The groups are those that the peer's process had when it connected: what the kernel itself
 * judged the socket's mode by. */
bool control_is_permitted(const struct control *control, int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	if (!control->has_group)
		return false;
	if (peer.gid == control->group_id)
		return true;
	gid_t groups[NGROUPS_MAX > 4096 ? 4096 : NGROUPS_MAX];
	n = sizeof(groups);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0)
		return false;
	for (size_t i = 0; i < n / sizeof(groups[0]); i++) {
		if (groups[i] == control->group_id)
			return true;
	}
	return false;
}
