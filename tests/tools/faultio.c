/*
 * A disk that fails on demand, for a program that knows nothing of it: loaded ahead of libc
 * (LD_PRELOAD), it makes calls on files whose path contains FAULTIO_UNDER fail.
 *
 * The file FAULTIO_SWITCH says what fails, and is looked at for each call: "sync 5" lets fdatasync
 * and fsync answer errno 5 without doing anything, "write 28" pwrite and pwritev with 28. Without
 * the file all works.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

ssize_t pwrite64(int fd, const void *data, size_t n, off_t offset);
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t offset);

/* What `operation` on the file is to fail with; 0: it shall work. */
static int fault(const char *operation, int fd)
{
	const char *under = getenv("FAULTIO_UNDER"), *path = getenv("FAULTIO_SWITCH");
	char link[64], target[4096], what[16];
	int error = 0;
	FILE *file = under && path ? fopen(path, "re") : NULL;
	if (!file)
		return 0;
	bool wanted = fscanf(file, "%15s %d", what, &error) == 2 && strcmp(what, operation) == 0;
	fclose(file);
	if (!wanted)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return 0;
	target[n] = '\0';
	return strstr(target, under) ? error : 0;
}

/* True if the call fails; errno is what with, else what it was. */
static bool fails(const char *operation, int fd)
{
	int before = errno, error = fault(operation, fd);
	errno = error ? error : before;
	return error != 0;
}

static void *next(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);
	if (!found)
		abort();
	return found;
}

EXPORT int fdatasync(int fd)
{
	int (*real)(int) = next("fdatasync");
	return fails("sync", fd) ? -1 : real(fd);
}

EXPORT int fsync(int fd)
{
	int (*real)(int) = next("fsync");
	return fails("sync", fd) ? -1 : real(fd);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t n, off_t offset)
{
	ssize_t (*real)(int, const void *, size_t, off_t) = next("pwrite64");
	return fails("write", fd) ? -1 : real(fd, data, n, offset);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
	ssize_t (*real)(int, const struct iovec *, int, off_t) = next("pwritev64");
	return fails("write", fd) ? -1 : real(fd, iov, count, offset);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t n, off_t offset)
{
	return pwrite64(fd, data, n, offset);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	return pwritev64(fd, iov, count, offset);
}
