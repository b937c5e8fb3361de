/*
 * Files as a seam: everything durable goes through this table, so that a simulation can lose,
 * tear and rot what a disk may lose, tear and rot.
 *
 * The contract, which the simulation enforces and the real one inherits from Linux:
 *  - What was written is durable only after io_datasync on that file returned 0.
 *  - A name made by create, rename or unlink is durable only after io_sync_dir on its directory.
 *  - A crash keeps any subset of the 512-byte sectors that were not synced.
 *  - After a failed sync nothing since the last good one may be trusted; it is not retried.
 *
 * All functions return 0 or -errno and may be called from any thread; two writes to the same
 * range at once are the caller's mistake. Paths are absolute or relative to the working
 * directory; the real implementation hands them to the kernel as they are.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct io;

/* An open file. Implementations embed it as their first member. */
struct io_file {
	struct io *io;
};

enum io_open_flags {
	IO_READ = 0,
	IO_WRITE = 1 << 0,     /* reading too */
	IO_CREATE = 1 << 1,    /* made if it is not there, mode 0600 */
	IO_EXCLUSIVE = 1 << 2, /* with IO_CREATE: -EEXIST if it is there */
	IO_DIRECT = 1 << 3,    /* O_DIRECT where the filesystem has it, ignored elsewhere; buffers,
				  offsets and lengths are then multiples of IO_DIRECT_ALIGN */
	IO_RANDOM = 1 << 4,    /* no read-ahead */
};

#define IO_DIRECT_ALIGN 4096u

struct io_ops {
	int (*open)(struct io *io, const char *path, unsigned flags, struct io_file **ret_file);
	void (*close)(struct io_file *file);
	int (*read)(struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n);
	int (*write)(struct io_file *file, const struct iovec *iov, int count, uint64_t offset);
	int (*datasync)(struct io_file *file);
	int (*allocate)(struct io_file *file, uint64_t bytes);
	int (*truncate)(struct io_file *file, uint64_t bytes);
	int (*size)(struct io_file *file, uint64_t *ret_bytes);
	int (*rename)(struct io *io, const char *from, const char *to);
	int (*unlink)(struct io *io, const char *path);
	int (*make_dir)(struct io *io, const char *path);
	int (*remove_dir)(struct io *io, const char *path);
	int (*sync_dir)(struct io *io, const char *path);
	int (*list)(struct io *io, const char *path, int (*each)(void *context, const char *name),
		void *context);
	int (*free_bytes)(struct io *io, const char *path, uint64_t *ret_bytes);
	int (*lock)(struct io_file *file); /* NULL: nobody else could have it open */
	/* Both may be NULL: reading then waits, and nothing is fetched early. */
	int (*read_cached)(struct io_file *file, void *data, size_t n, uint64_t offset);
	void (*prefetch)(struct io_file *file, uint64_t offset, uint64_t n);
};

struct io {
	const struct io_ops *ops;
};

/* The kernel's files. Never freed. */
struct io *io_posix(void);

static inline int io_open(
	struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	return io->ops->open(io, path, flags, ret_file);
}

/* Closes; what was not synced may be lost. NULL is fine. */
static inline void io_close(struct io_file *file)
{
	if (file)
		file->io->ops->close(file);
}

/* Reads up to `n` bytes; `*ret_n` < n only at the end of the file. */
static inline int io_read(
	struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n)
{
	return file->io->ops->read(file, data, n, offset, ret_n);
}

/* Reads exactly `n` bytes or fails; -ENODATA if the file ends before. */
int io_read_all(struct io_file *file, void *data, size_t n, uint64_t offset);

/* As io_read_all if the kernel has all of it in memory, else -EAGAIN. */
int io_read_cached(struct io_file *file, void *data, size_t n, uint64_t offset);

/* Asks the disk for what will be read soon. Best effort, does not wait. */
static inline void io_prefetch(struct io_file *file, uint64_t offset, uint64_t n)
{
	if (file->io->ops->prefetch)
		file->io->ops->prefetch(file, offset, n);
}

/* Writes all of it or fails (then any part may have been written). */
static inline int io_writev(
	struct io_file *file, const struct iovec *iov, int count, uint64_t offset)
{
	return file->io->ops->write(file, iov, count, offset);
}

/* The same of one piece. */
int io_write(struct io_file *file, const void *data, size_t n, uint64_t offset);

/* Makes all completed writes of this file, and its size, durable. */
static inline int io_datasync(struct io_file *file)
{
	return file->io->ops->datasync(file);
}

/* Reserves room so that writes below `bytes` do not fail for want of space; the size becomes at
 * least `bytes`. -ENOSPC, or -EOPNOTSUPP where the filesystem cannot. */
static inline int io_allocate(struct io_file *file, uint64_t bytes)
{
	return file->io->ops->allocate(file, bytes);
}

static inline int io_truncate(struct io_file *file, uint64_t bytes)
{
	return file->io->ops->truncate(file, bytes);
}

static inline int io_size(struct io_file *file, uint64_t *ret_bytes)
{
	return file->io->ops->size(file, ret_bytes);
}

/* Replaces `to` if it is there. */
static inline int io_rename(struct io *io, const char *from, const char *to)
{
	return io->ops->rename(io, from, to);
}

static inline int io_unlink(struct io *io, const char *path)
{
	return io->ops->unlink(io, path);
}

/* Mode 0700; -EEXIST if it is there. */
static inline int io_make_dir(struct io *io, const char *path)
{
	return io->ops->make_dir(io, path);
}

/* -ENOTEMPTY unless it is empty. */
static inline int io_remove_dir(struct io *io, const char *path)
{
	return io->ops->remove_dir(io, path);
}

static inline int io_sync_dir(struct io *io, const char *path)
{
	return io->ops->sync_dir(io, path);
}

/* Calls `each` for every name but "." and "..", in no order; a non-zero answer ends it and is
 * returned. */
static inline int io_list(struct io *io, const char *path,
	int (*each)(void *context, const char *name), void *context)
{
	return io->ops->list(io, path, each, context);
}

/* Room left for us in the filesystem that holds `path`. */
static inline int io_free_bytes(struct io *io, const char *path, uint64_t *ret_bytes)
{
	return io->ops->free_bytes(io, path, ret_bytes);
}

/* Keeps the file for this opening of it until it is closed (or its process ends): nobody else's
 * io_lock succeeds meanwhile. -EBUSY: somebody else has it. */
static inline int io_lock(struct io_file *file)
{
	return file->io->ops->lock ? file->io->ops->lock(file) : 0;
}

/* Replaces `path` by `data` in one durable step: temporary file beside it, datasync, rename,
 * directory sync. After a crash the old content or the new is there, whole. */
int io_replace_file(struct io *io, const char *path, const void *data, size_t n);

/* The same; tells on failure as well whether the renaming was begun: if it was not, `path` is what
 * it was, for certain. */
int io_replace_file_told(
	struct io *io, const char *path, const void *data, size_t n, bool *ret_begun);

/* Reads a whole file of at most `limit` bytes into memory the caller frees, NUL-terminated.
 * -EFBIG if it is larger. */
int io_load_file(struct io *io, const char *path, size_t limit, char **ret_data, size_t *ret_n);
