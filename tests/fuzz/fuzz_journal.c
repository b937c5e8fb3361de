/*
 * Opening a history over arbitrary files: a checkpoint, an index and two segments, cut out of the
 * input, in memory. Checksums are mended first where the input asks for it, so that what lies
 * behind them is reached. Whatever is opened must then read, list, take a write and close.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "fs/history.h"
#include "fs/journal_format.h"

#define FILES 12u
#define FILE_BYTES (96u << 10)

struct file {
	char name[48];
	size_t bytes;
	uint8_t *data;
};

/* A file system of a few small files; nothing ever fails but for want of room. */
struct memory {
	struct io io;
	struct file files[FILES];
};

struct memory_file {
	struct io_file file;
	struct file *of;
};

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static struct file *find(struct memory *m, const char *path)
{
	for (unsigned i = 0; i < FILES; i++)
		if (m->files[i].data && strcmp(m->files[i].name, last_part(path)) == 0)
			return &m->files[i];
	return NULL;
}

static struct file *add(struct memory *m, const char *path)
{
	for (unsigned i = 0; i < FILES; i++) {
		struct file *f = &m->files[i];
		if (f->data || strlen(last_part(path)) >= sizeof(f->name))
			continue;
		f->data = calloc(1, FILE_BYTES);
		f->bytes = 0;
		strcpy(f->name, last_part(path));
		return f;
	}
	return NULL;
}

static void drop(struct file *f)
{
	free(f->data);
	f->data = NULL;
}

static struct file *of(struct io_file *file)
{
	return CONTAINER_OF(file, struct memory_file, file)->of;
}

static int m_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	struct memory *m = CONTAINER_OF(io, struct memory, io);
	struct file *f = find(m, path);
	if (f && (flags & IO_EXCLUSIVE))
		return -EEXIST;
	if (!f && !(flags & IO_CREATE))
		return -ENOENT;
	if (!f)
		f = add(m, path);
	if (!f)
		return -ENOSPC;
	struct memory_file *file = calloc(1, sizeof(*file));
	file->file.io = io;
	file->of = f;
	*ret_file = &file->file;
	return 0;
}

static void m_close(struct io_file *file)
{
	free(CONTAINER_OF(file, struct memory_file, file));
}

static int m_read(struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n)
{
	const struct file *f = of(file);
	*ret_n = offset < f->bytes ? MIN(n, f->bytes - offset) : 0;
	if (*ret_n > 0)
		memcpy(data, f->data + offset, *ret_n);
	return 0;
}

static int m_write(struct io_file *file, const struct iovec *iov, int count, uint64_t offset)
{
	struct file *f = of(file);
	for (int i = 0; i < count; i++) {
		if (offset + iov[i].iov_len > FILE_BYTES)
			return -ENOSPC;
		memcpy(f->data + offset, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
		f->bytes = MAX(f->bytes, (size_t)offset);
	}
	return 0;
}

static int m_datasync(struct io_file *file)
{
	(void)file;
	return 0;
}

static int m_truncate(struct io_file *file, uint64_t bytes)
{
	struct file *f = of(file);
	if (bytes > FILE_BYTES)
		return -ENOSPC;
	if (bytes < f->bytes)
		memset(f->data + bytes, 0, f->bytes - bytes);
	f->bytes = bytes;
	return 0;
}

static int m_size(struct io_file *file, uint64_t *ret_bytes)
{
	*ret_bytes = of(file)->bytes;
	return 0;
}

static int m_rename(struct io *io, const char *from, const char *to)
{
	struct memory *m = CONTAINER_OF(io, struct memory, io);
	struct file *f = find(m, from), *old = find(m, to);
	if (!f || strlen(last_part(to)) >= sizeof(f->name))
		return -ENOENT;
	if (old && old != f)
		drop(old);
	strcpy(f->name, last_part(to));
	return 0;
}

static int m_unlink(struct io *io, const char *path)
{
	struct file *f = find(CONTAINER_OF(io, struct memory, io), path);
	if (!f)
		return -ENOENT;
	drop(f);
	return 0;
}

static int m_directory(struct io *io, const char *path)
{
	(void)io;
	(void)path;
	return 0;
}

static int m_list(struct io *io, const char *path, int (*each)(void *context, const char *name),
	void *context)
{
	struct memory *m = CONTAINER_OF(io, struct memory, io);
	(void)path;
	for (unsigned i = 0; i < FILES; i++) {
		char name[48];
		if (!m->files[i].data)
			continue;
		strcpy(name, m->files[i].name);
		int r = each(context, name);
		if (r != 0)
			return r;
	}
	return 0;
}

/* Plenty: what wants room beyond a file's bytes meets -ENOSPC at the write. */
static int m_free_bytes(struct io *io, const char *path, uint64_t *ret_bytes)
{
	(void)io;
	(void)path;
	*ret_bytes = GIB;
	return 0;
}

static const struct io_ops memory_ops = {
	.open = m_open,
	.close = m_close,
	.read = m_read,
	.write = m_write,
	.datasync = m_datasync,
	.truncate = m_truncate,
	.size = m_size,
	.rename = m_rename,
	.unlink = m_unlink,
	.make_dir = m_directory,
	.sync_dir = m_directory,
	.list = m_list,
	.free_bytes = m_free_bytes,
};

static int base_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	(void)base, (void)disk, (void)point, (void)offset;
	memset(data, 0xb5, n);
	return 0;
}

static void mend(uint8_t *page, size_t n, size_t field)
{
	memset(page + field, 0, 8);
	uint64_t sum = checksum64(page, n);
	memcpy(page + field, &sum, 8);
}

/* Cuts the next file off the input; `how` says whether and as what its checksums are mended. */
static void take(struct memory *m, const char *name, unsigned how, const uint8_t **data, size_t *n)
{
	size_t bytes = MIN(*n, (size_t)FILE_BYTES / 2);
	if (how == 1 && *n >= 2) {
		/* Its length comes first, so that the rest is what follows. */
		uint16_t wanted = load_be16(*data);
		*data += 2;
		*n -= 2;
		bytes = MIN((size_t)FILE_BYTES / 2, *n);
		bytes = MIN((size_t)wanted, bytes);
	}
	struct file *f = add(m, name);
	memcpy(f->data, *data, bytes);
	f->bytes = bytes;
	*data += bytes;
	*n -= bytes;
	if (how == 1 && bytes >= sizeof(struct journal_checkpoint)) {
		struct journal_checkpoint *h = (void *)f->data;
		h->magic = JOURNAL_CHECKPOINT_MAGIC;
		h->version = JOURNAL_VERSION;
		h->bytes = bytes;
		h->body_checksum = checksum64(h + 1, bytes - sizeof(*h));
		mend(f->data, sizeof(*h), offsetof(struct journal_checkpoint, checksum));
	}
	for (size_t at = 0; how == 2 && at + JOURNAL_PAGE_BYTES <= bytes; at += JOURNAL_PAGE_BYTES)
		mend(f->data + at, JOURNAL_PAGE_BYTES,
			at == 0 ? offsetof(struct journal_segment, checksum)
				: offsetof(struct journal_record, checksum));
}

static void use(struct history *history)
{
	static uint8_t data[64 * SECTOR_BYTES];
	struct history_disk disks[HISTORY_MAX_DISKS];
	unsigned n = history_disks(history, disks, HISTORY_MAX_DISKS);
	uint64_t lsn;
	for (unsigned i = 0; i < n; i++) {
		uint64_t sectors = disks[i].size_bytes / SECTOR_BYTES;
		(void)history_read(history, disks[i].id, 0, (uint32_t)MIN(sectors, 64u), data);
		(void)history_write(history, disks[i].id, 0, 1, data, &lsn);
	}
	struct point points[16];
	unsigned count = history_points(history, 0, points, 16);
	for (unsigned i = 0; i < count; i++) {
		struct view *view;
		if (history_view_open(history, points[i].number, &view) < 0)
			continue;
		for (unsigned k = 0; k < n; k++)
			(void)view_read(view, disks[k].id, 0, 1, data);
		view_close(view);
	}
	bool more;
	(void)history_commit(history, &lsn);
	(void)history_maintain(history, &more);
	(void)history_trim(history, 0, &lsn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct base_ops base_ops = { .read = base_read };
	struct base base = { &base_ops };
	struct memory m = { .io.ops = &memory_ops };
	if (n < 1)
		return 0;
	unsigned plan = *data++;
	n--;
	if (plan & 1)
		take(&m, "checkpoint.0", plan & 2 ? 1 : 0, &data, &n);
	if (plan & 4)
		take(&m, "0000000000000001.idx", 0, &data, &n);
	take(&m, "0000000000000001.seg", plan & 8 ? 2 : 0, &data, &n);
	if (plan & 16)
		take(&m, "0000000000000002.seg", plan & 32 ? 2 : 0, &data, &n);

	struct history_options options = {
		.io = &m.io,
		.clock = clock_system(),
		.base = plan & 64 ? &base : NULL,
		.directory = "/g",
		.limit_bytes = 1 * MIB,
		.segment_bytes = 64 << 10,
	};
	struct history_report report;
	struct error error;
	struct history *history;
	if (history_open(&options, &report, &error, &history) == 0) {
		use(history);
		history_close(history);
	}
	for (unsigned i = 0; i < FILES; i++)
		drop(&m.files[i]);
	return 0;
}
