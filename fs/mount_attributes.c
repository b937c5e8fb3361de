/*
 * Owners, modes and times of writable files, as they were set by chown, chmod and utimensat.
 *
 * Like those of a device's node they are kept in memory: until the machine is hidden, or the clone
 * is gone with its machine. They decide who may open the file (the kernel asks,
 * default_permissions) and nothing else. A time that was set holds until the content's own time
 * moves on. The time of the last access is not kept.
 *
 * Under the mount's lock; any thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "fs/mount_internal.h"

#define MODE_BITS 0777

struct attributes {
	struct attributes *next;
	fuse_ino_t ino;
	int set; /* FUSE_SET_ATTR_* */
	uid_t uid;
	gid_t gid;
	mode_t mode;
	struct timespec time, instead_of; /* the content's own then */
};

static struct attributes *find_locked(const struct machine *machine, fuse_ino_t ino)
{
	struct attributes *a = machine->attributes;
	while (a && a->ino != ino)
		a = a->next;
	return a;
}

static struct attributes *ensure_locked(struct machine *machine, fuse_ino_t ino)
{
	struct attributes *a = find_locked(machine, ino);
	if (a)
		return a;
	a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->ino = ino;
	a->next = machine->attributes;
	machine->attributes = a;
	return a;
}

static void set_locked(
	struct attributes *a, const struct stat *attr, int what, const struct timespec *instead_of)
{
	if (what & FUSE_SET_ATTR_MODE)
		a->mode = attr->st_mode & MODE_BITS;
	if (what & FUSE_SET_ATTR_UID)
		a->uid = attr->st_uid;
	if (what & FUSE_SET_ATTR_GID)
		a->gid = attr->st_gid;
	if (what & FUSE_SET_ATTR_MTIME) {
		int64_t now_ns = clock_realtime_ns(clock_system());
		a->time = what & FUSE_SET_ATTR_MTIME_NOW ? (struct timespec){ now_ns / NS_PER_S,
			(long)(now_ns % NS_PER_S) }
							 : attr->st_mtim;
		a->instead_of = *instead_of;
	}
	a->set |= what & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID |
				 FUSE_SET_ATTR_MTIME);
}

int attributes_set(struct mount *mount, const struct node *node, const struct stat *attr, int what)
{
	struct machine *machine;
	struct stat own;
	if ((what & FUSE_SET_ATTR_MODE) && (attr->st_mode & 07777 & ~(mode_t)MODE_BITS))
		return -EPERM;
	int r = tree_stat_own(mount, node, &own);
	if (r == 0)
		r = machine_get(mount, node->machine, &machine);
	if (r < 0)
		return r;
	pthread_mutex_lock(&mount->lock);
	struct attributes *a = ensure_locked(machine, node_ino(node));
	if (a)
		set_locked(a, attr, what, &own.st_mtim);
	pthread_mutex_unlock(&mount->lock);
	machine_put(mount, machine);
	return a ? 0 : -ENOMEM;
}

void attributes_apply(
	struct mount *mount, struct machine *machine, fuse_ino_t ino, struct stat *stat)
{
	SCOPED_LOCK(&mount->lock);
	const struct attributes *a = find_locked(machine, ino);
	if (!a)
		return;
	if (a->set & FUSE_SET_ATTR_MODE)
		stat->st_mode = (stat->st_mode & ~(mode_t)MODE_BITS) | a->mode;
	if (a->set & FUSE_SET_ATTR_UID)
		stat->st_uid = a->uid;
	if (a->set & FUSE_SET_ATTR_GID)
		stat->st_gid = a->gid;
	if ((a->set & FUSE_SET_ATTR_MTIME) && a->instead_of.tv_sec == stat->st_mtim.tv_sec &&
		a->instead_of.tv_nsec == stat->st_mtim.tv_nsec)
		stat->st_mtim = a->time;
}

void attributes_free(struct machine *machine)
{
	while (machine->attributes) {
		struct attributes *a = machine->attributes;
		machine->attributes = a->next;
		free(a);
	}
}
