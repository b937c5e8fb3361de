/*
 * What is built from the table of io.h and holds for every implementation of it.
 */
#include "common/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/cleanup.h"

int io_read_all(struct io_file *file, void *data, size_t n, uint64_t offset)
{
	size_t got;
	int r = io_read(file, data, n, offset, &got);
	if (r < 0)
		return r;
	return got == n ? 0 : -ENODATA;
}

int io_read_cached(struct io_file *file, void *data, size_t n, uint64_t offset)
{
	const struct io_ops *ops = file->io->ops;
	return ops->read_cached ? ops->read_cached(file, data, n, offset)
				: io_read_all(file, data, n, offset);
}

int io_write(struct io_file *file, const void *data, size_t n, uint64_t offset)
{
	struct iovec iov = { .iov_base = (void *)data, .iov_len = n };
	return io_writev(file, &iov, 1, offset);
}

static int write_new_file(struct io *io, const char *path, const void *data, size_t n)
{
	struct io_file *file;
	int r = io_open(io, path, IO_WRITE | IO_CREATE, &file);
	if (r < 0)
		return r;
	r = io_truncate(file, 0);
	if (r == 0)
		r = io_write(file, data, n, 0);
	if (r == 0)
		r = io_datasync(file);
	io_close(file);
	return r;
}

int io_replace_file(struct io *io, const char *path, const void *data, size_t n)
{
	bool begun;
	return io_replace_file_told(io, path, data, n, &begun);
}

int io_replace_file_told(
	struct io *io, const char *path, const void *data, size_t n, bool *ret_begun)
{
	*ret_begun = false;
	CLEANUP(buf_free) struct buf temporary = { 0 };
	CLEANUP_FREE char *directory = strdup(path);
	if (!directory || buf_printf(&temporary, "%s.new", path) < 0)
		return -ENOMEM;
	char *slash = strrchr(directory, '/');
	if (slash)
		*(slash == directory ? slash + 1 : slash) = '\0';

	int r = write_new_file(io, temporary.data, data, n);
	if (r == 0) {
		*ret_begun = true;
		r = io_rename(io, temporary.data, path);
	}
	if (r < 0) {
		/* Best effort: a left-over is overwritten by the next attempt. */
		(void)io_unlink(io, temporary.data);
		return r;
	}
	return io_sync_dir(io, slash ? directory : ".");
}

int io_load_file(struct io *io, const char *path, size_t limit, char **ret_data, size_t *ret_n)
{
	struct io_file *file;
	int r = io_open(io, path, IO_READ, &file);
	if (r < 0)
		return r;
	uint64_t size;
	CLEANUP_FREE char *data = NULL;
	size_t got = 0;
	r = io_size(file, &size);
	if (r == 0 && size > limit)
		r = -EFBIG;
	if (r == 0) {
		data = malloc(size + 1);
		r = data ? io_read(file, data, size, 0, &got) : -ENOMEM;
	}
	io_close(file);
	if (r < 0)
		return r;
	data[got] = '\0';
	*ret_data = TAKE(data);
	*ret_n = got;
	return 0;
}
