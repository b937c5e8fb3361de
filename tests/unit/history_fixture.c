/*
 * See history_fixture.h.
 */
#include "tests/unit/cmocka_common.h"

#include "tests/unit/history_fixture.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"

struct faulty_file {
	struct io_file file;
	struct io_file *real;
};

static struct faulty_io *faulty_of(struct io *io)
{
	return CONTAINER_OF(io, struct faulty_io, io);
}

static struct io_file *real_of(struct io_file *file)
{
	return CONTAINER_OF(file, struct faulty_file, file)->real;
}

static int faulty_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	struct faulty_file *f = calloc(1, sizeof(*f));
	assert_non_null(f);
	f->file.io = io;
	int r = io_open(io_posix(), path, flags, &f->real);
	if (r < 0)
		free(f);
	else
		*ret_file = &f->file;
	return r;
}

static void faulty_close(struct io_file *file)
{
	io_close(real_of(file));
	free(CONTAINER_OF(file, struct faulty_file, file));
}

static int faulty_read(struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n)
{
	return io_read(real_of(file), data, n, offset, ret_n);
}

static int faulty_read_cached(struct io_file *file, void *data, size_t n, uint64_t offset)
{
	return io_read_cached(real_of(file), data, n, offset);
}

static void faulty_prefetch(struct io_file *file, uint64_t offset, uint64_t n)
{
	io_prefetch(real_of(file), offset, n);
}

static int faulty_write(struct io_file *file, const struct iovec *iov, int count, uint64_t offset)
{
	int error = atomic_load(&faulty_of(file->io)->write_error);
	return error ? error : io_writev(real_of(file), iov, count, offset);
}

static int faulty_datasync(struct io_file *file)
{
	struct faulty_io *faulty = faulty_of(file->io);
	int error = atomic_load(&faulty->sync_error);
	void (*on_sync)(void *) = faulty->on_sync;
	atomic_fetch_add(&faulty->syncs, 1);
	if (on_sync) {
		faulty->on_sync = NULL;
		on_sync(faulty->on_sync_context);
	}
	if (atomic_load(&faulty->sync_delay_us))
		usleep(atomic_load(&faulty->sync_delay_us));
	return error ? error : io_datasync(real_of(file));
}

static int faulty_allocate(struct io_file *file, uint64_t bytes)
{
	return io_allocate(real_of(file), bytes);
}

static int faulty_truncate(struct io_file *file, uint64_t bytes)
{
	return io_truncate(real_of(file), bytes);
}

static int faulty_size(struct io_file *file, uint64_t *ret_bytes)
{
	return io_size(real_of(file), ret_bytes);
}

static int faulty_lock(struct io_file *file)
{
	return io_lock(real_of(file));
}

void faulty_io_init(struct faulty_io *faulty)
{
	memset(faulty, 0, sizeof(*faulty));
	/* What works on names goes straight to the kernel's. */
	faulty->ops = *io_posix()->ops;
	faulty->ops.open = faulty_open;
	faulty->ops.close = faulty_close;
	faulty->ops.read = faulty_read;
	faulty->ops.read_cached = faulty_read_cached;
	faulty->ops.prefetch = faulty_prefetch;
	faulty->ops.write = faulty_write;
	faulty->ops.datasync = faulty_datasync;
	faulty->ops.allocate = faulty_allocate;
	faulty->ops.truncate = faulty_truncate;
	faulty->ops.size = faulty_size;
	faulty->ops.lock = faulty_lock;
	faulty->io.ops = &faulty->ops;
}

void fixture_start(struct history_fixture *x)
{
	struct history_options options = {
		.io = &x->faulty.io,
		.clock = clock_system(),
		.directory = x->directory,
		.group = { { 7 } },
		.limit_bytes = 512 * MIB,
		.segment_bytes = 4 * MIB,
	};
	struct history_report report;
	struct error error = { 0 };
	int r = history_open(&options, &report, &error, &x->history);
	if (r < 0)
		print_error("%s\n", error.message);
	assert_int_equal(r, 0);
}

static void commit(struct history_fixture *x)
{
	uint64_t lsn;
	assert_int_equal(history_commit(x->history, &lsn), 0);
}

void fixture_open(struct history_fixture *x)
{
	uint64_t lsn;
	memset(x, 0, sizeof(*x));
	strcpy(x->directory, "/tmp/landfall-history-XXXXXX");
	assert_non_null(mkdtemp(x->directory));
	faulty_io_init(&x->faulty);
	fixture_start(x);
	assert_int_equal(history_add_disk(x->history, "web/root", 16 * MIB, &x->disk, &lsn), 0);
	commit(x);
}

void fixture_reopen(struct history_fixture *x)
{
	history_close(x->history);
	fixture_start(x);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

void fixture_close(struct history_fixture *x)
{
	history_close(x->history);
	assert_int_equal(nftw(x->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

uint64_t fixture_seal(struct history_fixture *x)
{
	struct seal seal = { .time_ns = clock_realtime_ns(clock_system()), .kind = POINT_CRASH };
	uint64_t number, lsn;
	assert_int_equal(history_seal(x->history, &seal, &number, &lsn), 0);
	commit(x);
	return number;
}

void fixture_write(struct history_fixture *x, uint64_t lba, uint32_t sectors, const void *data)
{
	uint64_t lsn;
	assert_int_equal(history_write(x->history, x->disk, lba, sectors, data, &lsn), 0);
	commit(x);
}
