/*
 * Standard files. POSIX lets a program be started without them; then open() and socket() give their
 * numbers away, the lowest first.
 */
#include "common/standard_files.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int standard_files_open(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			continue;
		if (errno != EBADF)
			return -errno;
		/* The lowest number that is free is this one. */
		if (open("/dev/null", fd == STDERR_FILENO ? O_RDWR : O_RDONLY) != fd)
			return -errno;
	}
	return 0;
}

int standard_output_flush(void)
{
	bool failed_before = ferror(stdout) != 0;
	if (fflush(stdout) == EOF)
		return -errno;
	if (!failed_before)
		return 0;
	struct pollfd output = { .fd = STDOUT_FILENO };
	return poll(&output, 1, 0) > 0 && (output.revents & POLLERR) ? -EPIPE : -EIO;
}

int standard_output_end(const char *program, int code)
{
	int r = standard_output_flush();
	if (r == 0)
		return code;
	if (r != -EPIPE)
		fprintf(stderr, "%s: cannot write the output: %s\n", program,
			r == -EIO ? "not all of it was taken" : strerrordesc_np(-r));
	return code == 0 ? 1 : code;
}
