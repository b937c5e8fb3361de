/*
 * The kernel's files behind the seam of io.h.
 *
 * Short reads and writes and EINTR are dealt with here and nowhere else. O_DIRECT is asked for
 * and silently given up where the filesystem refuses it (tmpfs, some FUSE servers).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"

struct posix_file {
	struct io_file file;
	int fd;
};

static int file_fd(struct io_file *file)
{
	return CONTAINER_OF(file, struct posix_file, file)->fd;
}

static int posix_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	int mode = O_CLOEXEC | (flags & IO_WRITE ? O_RDWR : O_RDONLY);
	if (flags & IO_CREATE)
		mode |= O_CREAT;
	if (flags & IO_EXCLUSIVE)
		mode |= O_EXCL;
	int fd = open(path, mode | (flags & IO_DIRECT ? O_DIRECT : 0), 0600);
	if (fd < 0 && errno == EINVAL && (flags & IO_DIRECT)) {
		/* The refused attempt may have created the file. */
		fd = open(path, mode & ~O_EXCL, 0600);
	}
	if (fd < 0)
		return -errno;
	struct posix_file *f = malloc(sizeof(*f));
	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	if (flags & IO_RANDOM)
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	*f = (struct posix_file){ .file.io = io, .fd = fd };
	*ret_file = &f->file;
	return 0;
}

static void posix_close(struct io_file *file)
{
	close(file_fd(file));
	free(CONTAINER_OF(file, struct posix_file, file));
}

static int posix_read(struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n)
{
	size_t done = 0;
	while (done < n) {
		ssize_t got =
			pread(file_fd(file), (char *)data + done, n - done, (off_t)(offset + done));
		if (got < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (got == 0)
			break;
		done += (size_t)got;
	}
	*ret_n = done;
	return 0;
}

/* What is not whole, or fails, is left to a read that waits. */
static int posix_read_cached(struct io_file *file, void *data, size_t n, uint64_t offset)
{
	struct iovec iov = { .iov_base = data, .iov_len = n };
	ssize_t got = preadv2(file_fd(file), &iov, 1, (off_t)offset, RWF_NOWAIT);
	return got >= 0 && (size_t)got == n ? 0 : -EAGAIN;
}

static void posix_prefetch(struct io_file *file, uint64_t offset, uint64_t n)
{
	(void)posix_fadvise(file_fd(file), (off_t)offset, (off_t)n, POSIX_FADV_WILLNEED);
}

/* The rest of a write that the kernel cut short. */
static int write_rest(int fd, const struct iovec *iov, int count, size_t skip, uint64_t offset)
{
	for (int i = 0; i < count; i++) {
		size_t length = iov[i].iov_len;
		if (skip >= length) {
			skip -= length;
			offset += length;
			continue;
		}
		for (size_t at = skip; at < length;) {
			ssize_t put = pwrite(fd, (const char *)iov[i].iov_base + at, length - at,
				(off_t)(offset + at));
			if (put < 0) {
				if (errno == EINTR)
					continue;
				return -errno;
			}
			if (put == 0)
				return -EIO;
			at += (size_t)put;
		}
		skip = 0;
		offset += length;
	}
	return 0;
}

static int posix_write(struct io_file *file, const struct iovec *iov, int count, uint64_t offset)
{
	size_t total = 0;
	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	ssize_t put = 0;
	if (count <= IOV_MAX) {
		do
			put = pwritev(file_fd(file), iov, count, (off_t)offset);
		while (put < 0 && errno == EINTR);
		if (put < 0)
			return -errno;
	}
	if ((size_t)put == total)
		return 0;
	return write_rest(file_fd(file), iov, count, (size_t)put, offset);
}

static int posix_datasync(struct io_file *file)
{
	return fdatasync(file_fd(file)) < 0 ? -errno : 0;
}

static int posix_allocate(struct io_file *file, uint64_t bytes)
{
	int r;
	do
		r = fallocate(file_fd(file), 0, 0, (off_t)bytes);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

static int posix_truncate(struct io_file *file, uint64_t bytes)
{
	return ftruncate(file_fd(file), (off_t)bytes) < 0 ? -errno : 0;
}

static int posix_size(struct io_file *file, uint64_t *ret_bytes)
{
	struct stat st;
	if (fstat(file_fd(file), &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		off_t end = lseek(file_fd(file), 0, SEEK_END);
		if (end < 0)
			return -errno;
		*ret_bytes = (uint64_t)end;
		return 0;
	}
	*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

static int posix_rename(struct io *io, const char *from, const char *to)
{
	(void)io;
	return rename(from, to) < 0 ? -errno : 0;
}

static int posix_unlink(struct io *io, const char *path)
{
	(void)io;
	return unlink(path) < 0 ? -errno : 0;
}

static int posix_make_dir(struct io *io, const char *path)
{
	(void)io;
	return mkdir(path, 0700) < 0 ? -errno : 0;
}

static int posix_sync_dir(struct io *io, const char *path)
{
	(void)io;
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

static int posix_remove_dir(struct io *io, const char *path)
{
	(void)io;
	return rmdir(path) < 0 ? -errno : 0;
}

static int posix_list(struct io *io, const char *path, int (*each)(void *context, const char *name),
	void *context)
{
	(void)io;
	DIR *dir = opendir(path);
	if (!dir)
		return -errno;
	int r = 0;
	while (r == 0) {
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (!entry) {
			r = -errno;
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = each(context, entry->d_name);
	}
	closedir(dir);
	return r;
}

static int posix_free_bytes(struct io *io, const char *path, uint64_t *ret_bytes)
{
	(void)io;
	struct statvfs st;
	if (statvfs(path, &st) < 0)
		return -errno;
	*ret_bytes = (uint64_t)st.f_bavail * st.f_frsize;
	return 0;
}

static int posix_lock(struct io_file *file)
{
	if (flock(file_fd(file), LOCK_EX | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? -EBUSY : -errno;
}

struct io *io_posix(void)
{
	static const struct io_ops ops = {
		.open = posix_open,
		.close = posix_close,
		.read = posix_read,
		.write = posix_write,
		.datasync = posix_datasync,
		.allocate = posix_allocate,
		.truncate = posix_truncate,
		.size = posix_size,
		.rename = posix_rename,
		.unlink = posix_unlink,
		.make_dir = posix_make_dir,
		.remove_dir = posix_remove_dir,
		.sync_dir = posix_sync_dir,
		.list = posix_list,
		.free_bytes = posix_free_bytes,
		.lock = posix_lock,
		.read_cached = posix_read_cached,
		.prefetch = posix_prefetch,
	};
	static struct io io = { &ops };
	return &io;
}
