/*
 * Freezing many filesystems at once; what thaws them if this cannot is in freeze_watchdog.c.
 *
 * The two processes share a page (struct freeze_shared): for each filesystem its state, the
 * deadline and whether the watchdog has thawed. Descriptors go to the watchdog over a socket before
 * anything is frozen. While something is frozen the watchdog only waits on that socket and thaws:
 * at the deadline, or when the other end closes, which is when the agent is dead and every ioctl of
 * its threads has returned.
 */
#include "replicator/agent/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/disk.h"
#include "replicator/agent/freeze_internal.h"

#define FOUNDATIONS_MAX 256
#define HELPERS_MAX 31

struct filesystem {
	dev_t dev;
	unsigned depth; /* loop devices beneath */
	bool synced;    /* only: it cannot be frozen */
	char *point;
	int fd;
};

struct freezer {
	struct freeze_shared *shared;
	pid_t watchdog;
	int socket;
	dev_t *seen; /* owned: the devices on which something was mounted when it was prepared */
	size_t seen_count;
	struct filesystem list[FREEZER_FILESYSTEMS_MAX];
	size_t count;
	struct freezer_report report;
	int64_t frozen_at_ns;
};

int freezer_new(struct freezer **ret_freezer, struct error *error)
{
	struct freezer *f = calloc(1, sizeof(*f));
	if (!f)
		return error_set(error, -ENOMEM, NULL, "no memory for freezing");
	f->socket = -1;
	f->shared = mmap(NULL, sizeof(*f->shared), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->shared == MAP_FAILED) {
		free(f);
		return error_set(error, -ENOMEM, NULL, "no memory for freezing");
	}
	int r = watchdog_start(f->shared, true, &f->watchdog, &f->socket);
	if (r == 0) {
		*ret_freezer = f;
		return 0;
	}
	freezer_free(f);
	return error_set(error, r, NULL, "freezing cannot be prepared: %s", strerrordesc_np(-r));
}

static void forget_prepared(struct freezer *f)
{
	for (size_t i = 0; i < f->count; i++) {
		free(f->list[i].point);
		if (f->list[i].fd >= 0)
			close(f->list[i].fd);
	}
	f->count = 0;
	free(f->seen);
	f->seen = NULL;
	f->seen_count = 0;
}

void freezer_free(struct freezer *f)
{
	if (!f)
		return;
	if (atomic_load(&f->shared->deadline_ns) != 0)
		freezer_thaw(f, NULL);
	if (f->socket >= 0)
		close(f->socket);
	if (f->watchdog > 0)
		waitpid(f->watchdog, NULL, 0);
	forget_prepared(f);
	munmap(f->shared, sizeof(*f->shared));
	free(f);
}

/* It was killed, or does not answer. Nothing is frozen. Another takes its place: the process is
 * larger by now, of which it locks what it uses. */
static int replace_watchdog(struct freezer *f)
{
	const int none = -1;
	if (watchdog_give(f->socket, &none, 0) == 0)
		return 0;
	if (f->watchdog > 0)
		watchdog_kill(f->watchdog, f->socket);
	f->socket = -1;
	f->watchdog = 0;
	for (size_t i = 0; i < FREEZER_FILESYSTEMS_MAX; i++)
		atomic_store(&f->shared->states[i], IDLE);
	atomic_store(&f->shared->deadline_ns, 0);
	return watchdog_start(f->shared, false, &f->watchdog, &f->socket);
}

pid_t freezer_pid(const struct freezer *f)
{
	return f->watchdog;
}

/* Whether the mount lies on one of the disks, and how deep. */
static int lies_on(const struct disk_mount *mount, const dev_t *devs, size_t count, bool *ret_lies,
	unsigned *ret_depth)
{
	dev_t under[FOUNDATIONS_MAX];
	size_t n = 0;
	int r = disk_foundations(mount->dev, under, FOUNDATIONS_MAX, &n, ret_depth);
	if (r < 0)
		return r;
	*ret_lies = false;
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < count; j++)
			*ret_lies |= under[i] == devs[j];
	}
	return 0;
}

/* Whether the superblock at the mount point is the one that is mounted there according to the
 * list: another mount may hide it. Those of btrfs have anonymous numbers. */
static bool is_superblock(const struct disk_mount *mount, dev_t superblock)
{
	if (major(superblock) == 0)
		return strcmp(mount->type, "btrfs") == 0;
	return superblock == mount->dev;
}

static int open_point(const struct disk_mount *mount, dev_t *ret_superblock)
{
	struct stat st;
	/* A directory, or a file that is bound somewhere: either leads to the superblock. */
	if (stat(mount->point, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return -ENOENT;
	int fd = open(mount->point, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	int r = fstat(fd, &st) < 0 ? -errno : is_superblock(mount, st.st_dev) ? 0 : -ENOENT;
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_superblock = st.st_dev;
	return fd;
}

static bool is_listed(const struct freezer *f, dev_t superblock)
{
	for (size_t i = 0; i < f->count; i++) {
		if (f->list[i].dev == superblock)
			return true;
	}
	return false;
}

/* Takes one mount into the list, unless its superblock is there already. `*ret_hidden`: it cannot
 * be reached at this mount point (it is under another mount). */
static int take_mount(struct freezer *f, const struct disk_mount *mount, unsigned depth,
	bool *ret_hidden, struct error *error)
{
	dev_t superblock = 0;
	int fd = open_point(mount, &superblock);
	*ret_hidden = fd == -ENOENT;
	if (*ret_hidden)
		return 0;
	if (fd < 0)
		return error_set(
			error, fd, NULL, "%s: cannot be opened for freezing", mount->point);
	if (is_listed(f, superblock)) {
		close(fd);
		return 0;
	}
	char *point = strdup(mount->point);
	if (f->count == FREEZER_FILESYSTEMS_MAX || !point) {
		int r = point ? -E2BIG : -ENOMEM;
		free(point);
		close(fd);
		return error_set(error, r, NULL, "more than %u filesystems to freeze",
			FREEZER_FILESYSTEMS_MAX);
	}
	f->list[f->count++] =
		(struct filesystem){ .dev = superblock, .depth = depth, .point = point, .fd = fd };
	return 0;
}

/* Each superblock must be reachable at one of its mount points at least. */
static int take_mounts(struct freezer *f, const struct disk_mount *mounts, size_t mount_count,
	const dev_t *devs, size_t count, struct error *error)
{
	CLEANUP_FREE bool *hidden = calloc(mount_count + 1, sizeof(*hidden));
	if (!hidden)
		return -ENOMEM;
	for (size_t i = 0; i < mount_count; i++) {
		bool lies = false;
		unsigned depth = 0;
		if (!mounts[i].dev)
			continue;
		int r = lies_on(&mounts[i], devs, count, &lies, &depth);
		if (r == 0 && lies)
			r = take_mount(f, &mounts[i], depth, &hidden[i], error);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < mount_count; i++) {
		if (hidden[i] && !is_listed(f, mounts[i].dev) &&
			strcmp(mounts[i].type, "btrfs") != 0)
			return error_set(error, -EBUSY, "unmount what hides it",
				"%s cannot be frozen: another mount hides it", mounts[i].point);
	}
	return 0;
}

static int deeper_first(const void *a, const void *b)
{
	const struct filesystem *x = a, *y = b;
	return (x->depth < y->depth) - (x->depth > y->depth);
}

static int note_seen(struct freezer *f, const struct disk_mount *mounts, size_t count)
{
	f->seen = calloc(count + 1, sizeof(*f->seen));
	for (size_t i = 0; f->seen && i < count; i++)
		f->seen[f->seen_count++] = mounts[i].dev;
	return f->seen ? 0 : -ENOMEM;
}

static bool is_seen(const struct freezer *f, dev_t dev)
{
	for (size_t i = 0; i < f->seen_count; i++)
		if (f->seen[i] == dev)
			return true;
	return false;
}

/* Something was mounted in the meantime from a device on which nothing was. While all is frozen:
 * the lists are the kernel's own, and reading them waits for no filesystem. No word comes of other
 * namespaces' changes, so all are read. */
static bool something_has_come(const struct freezer *f)
{
	struct disk_mount *mounts = NULL;
	size_t count = 0;
	bool come = false;
	if (disk_mounts(&mounts, &count) < 0)
		return true;
	for (size_t i = 0; i < count; i++)
		come |= mounts[i].dev && !is_seen(f, mounts[i].dev);
	disk_mounts_free(mounts, count);
	return come;
}

static int send_descriptors(struct freezer *f)
{
	int fds[FREEZER_FILESYSTEMS_MAX];
	for (size_t i = 0; i < f->count; i++)
		fds[i] = f->list[i].fd;
	return watchdog_give(f->socket, fds, f->count);
}

int freezer_prepare(struct freezer *f, const dev_t *devs, size_t count, struct error *error)
{
	struct disk_mount *mounts = NULL;
	size_t mount_count = 0;

	forget_prepared(f);
	int r = replace_watchdog(f);
	if (r < 0)
		return error_set(error, r, NULL,
			"nothing can be frozen: its watchdog has died and cannot be started anew");
	r = disk_mounts(&mounts, &mount_count);
	if (r == 0)
		r = take_mounts(f, mounts, mount_count, devs, count, error);
	if (r == 0)
		r = note_seen(f, mounts, mount_count);
	disk_mounts_free(mounts, mount_count);
	if (r == 0) {
		qsort(f->list, f->count, sizeof(f->list[0]), deeper_first);
		r = send_descriptors(f);
		if (r < 0)
			error_fill(error, r, NULL, "the watchdog of freezing is gone");
	}
	if (r < 0) {
		forget_prepared(f);
		return error && error->code
			       ? r
			       : error_set(error, r, NULL, "mounted filesystems cannot be listed");
	}
	return 0;
}

const char *freezer_mountpoint(const struct freezer *f, size_t index)
{
	return index < f->count ? f->list[index].point : NULL;
}

void freezer_sync(const struct freezer *f)
{
	for (size_t i = 0; i < f->count; i++)
		(void)syncfs(f->list[i].fd);
}

static int freeze_one(struct freezer *f, size_t i)
{
	struct filesystem *fs = &f->list[i];
	atomic_store(&f->shared->states[i], FREEZING);
	int r = ioctl(fs->fd, FIFREEZE, 0) < 0 ? -errno : 0;
	if (r == 0) {
		atomic_store(&f->shared->states[i], FROZEN);
		/* The watchdog may have been there while we waited, and not seen it frozen. */
		if (!atomic_load(&f->shared->expired))
			return 0;
		ioctl(fs->fd, FITHAW, 0);
		r = -ETIMEDOUT;
	}
	atomic_store(&f->shared->states[i], IDLE);
	fs->synced = r == -EOPNOTSUPP;
	return fs->synced ? syncfs(fs->fd) < 0 ? -errno : 0 : r;
}

/* One of several who freeze what is at one depth: each takes the next. */
struct helper {
	struct freezer *freezer;
	size_t end;
	atomic_size_t *next;
	atomic_int *result;
	atomic_size_t *failed;
};

static void *help(void *argument)
{
	const struct helper *h = argument;
	size_t i;
	while (atomic_load(h->result) == 0 && (i = atomic_fetch_add(h->next, 1)) < h->end) {
		int none = 0, r = freeze_one(h->freezer, i);
		if (r < 0 && atomic_compare_exchange_strong(h->result, &none, r))
			atomic_store(h->failed, i);
	}
	return NULL;
}

/* Filesystems [first, end), which do not lie on each other. No thread to be had is no failure. */
static int freeze_level(struct freezer *f, size_t first, size_t end, size_t *ret_failed)
{
	pthread_t threads[HELPERS_MAX];
	size_t count = 0;
	atomic_size_t next = first, failed = first;
	atomic_int result = 0;
	struct helper helper = { f, end, &next, &result, &failed };
	while (count < HELPERS_MAX && count + 1 < end - first &&
		pthread_create(&threads[count], NULL, help, &helper) == 0)
		count++;
	help(&helper);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	*ret_failed = failed;
	return result;
}

static int freeze_levels(struct freezer *f, size_t *ret_failed)
{
	int r = 0;
	for (size_t first = 0, end; r == 0 && first < f->count; first = end) {
		for (end = first + 1; end < f->count && f->list[end].depth == f->list[first].depth;
			end++)
			;
		r = freeze_level(f, first, end, ret_failed);
	}
	return r;
}

/* In reverse order. A watchdog that starts in between thaws what is left. */
static void thaw_frozen(struct freezer *f)
{
	for (size_t i = f->count; i-- > 0;) {
		if (atomic_load(&f->shared->states[i]) == IDLE)
			continue;
		/* What the watchdog has thawed may be frozen again by somebody else. */
		if (!atomic_load(&f->shared->expired))
			ioctl(f->list[i].fd, FITHAW, 0);
		atomic_store(&f->shared->states[i], IDLE);
	}
	atomic_store(&f->shared->deadline_ns, 0);
}

int freezer_freeze(struct freezer *f, unsigned timeout_ms, struct error *error)
{
	int64_t began = freeze_now_ns();
	int r = 0;
	size_t failed = f->count;

	if (timeout_ms < 100 || timeout_ms > 60000)
		return error_set(error, -EINVAL, NULL, "freezing for %u ms", timeout_ms);
	f->report = (struct freezer_report){ 0 };
	atomic_store(&f->shared->expired, false);
	atomic_store(&f->shared->deadline_ns, began + (int64_t)timeout_ms * 1000000);
	/* Wakes the watchdog, so that it waits for the new deadline. */
	r = send_descriptors(f);
	if (r == 0)
		r = freeze_levels(f, &failed);
	bool come = r == 0 && something_has_come(f);
	f->frozen_at_ns = freeze_now_ns();
	for (size_t i = 0; i < f->count; i++)
		f->report.synced += f->list[i].synced;
	f->report.freeze_ns = (uint64_t)(f->frozen_at_ns - began);
	f->report.frozen = (unsigned)f->count - f->report.synced;
	if (r == 0 && !come && freezer_holds(f))
		return 0;
	thaw_frozen(f);
	if (come)
		return error_set(error, -EAGAIN, "see what mounts disks all the time",
			"a filesystem was mounted in the middle of freezing");
	if (r == 0)
		r = -ETIMEDOUT;
	return error_set(error, r,
		r == -EBUSY ? "something else has frozen it: fsfreeze -u, or wait" : NULL, "%s: %s",
		failed < f->count ? f->list[failed].point : "the watchdog",
		r == -ETIMEDOUT ? "freezing took too long" : strerror(-r));
}

void freezer_hasten(struct freezer *f, unsigned timeout_ms)
{
	int64_t deadline = atomic_load(&f->shared->deadline_ns);
	int64_t nearer = freeze_now_ns() + (int64_t)timeout_ms * 1000000;
	if (deadline != 0 && nearer < deadline &&
		atomic_compare_exchange_strong(&f->shared->deadline_ns, &deadline, nearer))
		(void)watchdog_wake(f->socket); /* a dead one's end has been seen to before */
}

bool freezer_holds(const struct freezer *f)
{
	int64_t deadline = atomic_load(&f->shared->deadline_ns);
	return deadline != 0 && freeze_now_ns() < deadline && !atomic_load(&f->shared->expired);
}

int freezer_thaw(struct freezer *f, struct freezer_report *ret_report)
{
	int64_t began = freeze_now_ns();
	bool held = freezer_holds(f);

	thaw_frozen(f);
	held = held && !atomic_load(&f->shared->expired);
	f->report.held_ns = (uint64_t)(began - f->frozen_at_ns);
	f->report.thaw_ns = (uint64_t)(freeze_now_ns() - began);
	f->report.stall_ns = f->report.freeze_ns + f->report.held_ns + f->report.thaw_ns;
	if (ret_report)
		*ret_report = f->report;
	return held ? 0 : -ETIMEDOUT;
}

void freezer_release(struct freezer *f)
{
	if (f->count == 0)
		return;
	forget_prepared(f);
	(void)send_descriptors(f);
}
