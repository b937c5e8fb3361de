/*
 * The handlers of FUSE requests; each runs in one of the session's threads and may take as long
 * as the vault does.
 *
 * Live disks and clones are opened with direct I/O: nothing of them is in the kernel's cache, so
 * what is written is here when write returns, and fsync is what makes it durable. A point's files
 * never change, and stay in the kernel's cache when they are closed (keep_cache).
 *
 * Sizes are fixed. Truncating to 0 (what opening with O_TRUNC does) makes the disk all zeros:
 * that is what tools count on which empty a file and then skip its zeros (cp, nbdcopy, qemu-img
 * convert without -n), and what was there is in the recovery points. Truncating to the same size,
 * with or without the footer, changes nothing; other sizes are refused. Who wants to write a part
 * only opens without O_TRUNC (dd's conv=notrunc). Nothing can be made, removed or renamed through
 * the mount.
 *
 * Reads and writes pass gates that leave threads for everything else (mount_gates.c). A read costs
 * one copy, from the history into the thread's own buffer, which the reply is written from; a write
 * is taken from the session's buffer as it came.
 */
#include "fs/mount_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "fs/vhd.h"

#define ENTRY_TIMEOUT_S 1.0
#define ATTR_TIMEOUT_S 1.0
#define IMMUTABLE_TIMEOUT_S 60.0

static struct session *session_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static struct mount *mount_of(fuse_req_t req)
{
	return session_of(req)->mount;
}

static struct handle *handle_of(const struct fuse_file_info *info)
{
	return (struct handle *)(uintptr_t)info->fh; // NOLINT(performance-no-int-to-ptr)
}

static struct open_file *file_of(const struct fuse_file_info *info)
{
	return handle_of(info)->file;
}

static double attr_timeout(const struct node *node)
{
	return node->kind == NODE_POINT_FILE ? IMMUTABLE_TIMEOUT_S : ATTR_TIMEOUT_S;
}

/* ── names and attributes ────────────────────────────────────────────────────────────────── */

static int make_entry(
	struct mount *mount, const struct node *node, struct fuse_entry_param *ret_entry)
{
	struct fuse_entry_param e = { .ino = node_ino(node),
		.generation = machine_generation(mount, node->machine) };
	int r = tree_stat(mount, node, &e.attr);
	if (r < 0)
		return r;
	e.attr_timeout = attr_timeout(node);
	e.entry_timeout = ENTRY_TIMEOUT_S;
	*ret_entry = e;
	return 0;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node dir = node_of(parent), node;
	struct fuse_entry_param entry;
	int r = tree_lookup(mount_of(req), &dir, name, &node);
	if (r == 0)
		r = make_entry(mount_of(req), &node, &entry);
	if (r < 0)
		fuse_reply_err(req, r == -ESTALE ? ENOENT : -r);
	else
		fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)info;
	struct node node = node_of(ino);
	struct stat st;
	int r = tree_stat(mount_of(req), &node, &st);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, attr_timeout(&node));
}

static int set_size(struct mount *mount, fuse_ino_t ino, const struct stat *now, off_t size)
{
	if (size == 0)
		return file_empty(mount, ino);
	off_t disk_bytes = now->st_size - (off_t)VHD_FOOTER_BYTES;
	return size == now->st_size || size == disk_bytes ? 0 : -EPERM;
}

/* Whether the kernel would let the caller do it has been seen to there. */
static int apply_setattr(
	struct mount *mount, const struct node *node, const struct stat *attr, int what)
{
	struct stat own;
	int r = tree_stat_own(mount, node, &own);
	if (r < 0)
		return r;
	if (!S_ISREG(own.st_mode) || !(own.st_mode & 0200))
		return S_ISREG(own.st_mode) ? -EROFS : -EPERM;
	if (what & FUSE_SET_ATTR_SIZE)
		r = set_size(mount, node_ino(node), &own, attr->st_size);
	return r == 0 ? attributes_set(mount, node, attr, what) : r;
}

static void op_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int what, struct fuse_file_info *info)
{
	(void)info;
	struct node node = node_of(ino);
	struct stat st;
	int r = apply_setattr(mount_of(req), &node, attr, what);
	if (r == 0)
		r = tree_stat(mount_of(req), &node, &st);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, attr_timeout(&node));
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct node node = node_of(ino);
	char name[64];
	int r = tree_readlink(mount_of(req), &node, name);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_readlink(req, name);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct node node = node_of(ino);
	struct statvfs st = { .f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255 };
	struct machine *machine;
	if (node.kind != NODE_ROOT && machine_get(mount_of(req), node.machine, &machine) == 0) {
		/* The room that writing uses up is the journal's. */
		struct history_stats stats;
		history_stats(machine->history, &stats);
		machine_put(mount_of(req), machine);
		uint64_t used = MIN(stats.used_bytes, stats.limit_bytes);
		st.f_blocks = stats.limit_bytes / st.f_frsize;
		st.f_bfree = st.f_bavail = (stats.limit_bytes - used) / st.f_frsize;
	}
	fuse_reply_statfs(req, &st);
}

/* ── directories ─────────────────────────────────────────────────────────────────────────── */

/* The entry after offset `off`: ".", "..", then by key. Its own offset is key + 2. */
static int next_entry(
	struct mount *mount, const struct node *dir, uint64_t off, struct dir_entry *ret_entry)
{
	struct dir_entry *e = ret_entry;
	if (off >= 2) {
		int r = tree_next(mount, dir, off - 2, e);
		if (r == 0)
			e->key += 2;
		return r;
	}
	strcpy(e->name, off == 0 ? "." : "..");
	e->node = *dir;
	e->key = off + 1;
	return off == 0 ? 0 : tree_parent(dir, &e->node);
}

/* Adds one entry; the bytes it takes, more than `room` if it does not fit, 0 if it is to be left
 * out. */
static size_t add_entry(
	fuse_req_t req, char *at, size_t room, const struct dir_entry *entry, bool plus)
{
	struct fuse_entry_param e = { .attr.st_ino = node_ino(&entry->node) };
	bool is_dot = entry->name[0] == '.';
	if (!plus || is_dot) {
		enum node_kind kind = entry->node.kind;
		e.attr.st_mode = kind == NODE_LATEST      ? S_IFLNK
				 : kind >= NODE_LIVE_FILE ? S_IFREG
							  : S_IFDIR;
	} else if (make_entry(mount_of(req), &entry->node, &e) < 0) {
		return 0; /* gone since it was listed */
	}
	off_t off = (off_t)entry->key;
	return plus ? fuse_add_direntry_plus(req, at, room, entry->name, &e, off)
		    : fuse_add_direntry(req, at, room, entry->name, &e.attr, off);
}

static void *thread_buffer(struct mount *mount);

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct mount *mount = mount_of(req);
	struct node dir = node_of(ino);
	char *buffer = thread_buffer(mount);
	if (!buffer || off < 0) {
		fuse_reply_err(req, buffer ? EINVAL : ENOMEM);
		return;
	}
	size = MIN(size, (size_t)SMALL_ANSWER_BYTES);
	size_t used = 0;
	uint64_t at = (uint64_t)off;
	int r;
	struct dir_entry entry;
	while ((r = next_entry(mount, &dir, at, &entry)) == 0) {
		size_t n = add_entry(req, buffer + used, size - used, &entry, plus);
		if (n > size - used)
			break;
		used += n;
		at = entry.key;
	}
	if (r < 0 && r != -ENOENT && used == 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, buffer, used);
}

static void op_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *info)
{
	(void)info;
	list(req, ino, size, off, false);
}

static void op_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *info)
{
	(void)info;
	list(req, ino, size, off, true);
}

/* ── files ───────────────────────────────────────────────────────────────────────────────── */

static int reply_open(fuse_req_t req, const struct handle *handle)
{
	return mount_settings_reply_open(req, (uint64_t)(uintptr_t)handle,
		handle->file->node.kind == NODE_POINT_FILE ? FOPEN_KEEP_CACHE
							   : MOUNT_OPEN_WRITABLE);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct open_file *file;
	bool for_writing = (info->flags & O_ACCMODE) != O_RDONLY;
	int r = node_of(ino).kind < NODE_LIVE_FILE
			? -EISDIR
			: file_open(mount_of(req), ino, for_writing, &file);
	struct handle *handle = r == 0 ? handle_new(session_of(req), file) : NULL;
	if (r == 0 && !handle) {
		file_release(file);
		r = -ENOMEM;
	}
	if (r < 0)
		fuse_reply_err(req, r == -ENODATA ? EIO : -r);
	else if (reply_open(req, handle) == -ENOENT)
		handle_release(handle); /* whoever asked was interrupted: no release will come */
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino;
	handle_release(handle_of(info));
	fuse_reply_err(req, 0);
}

/* This thread's buffer of SMALL_ANSWER_BYTES, aligned; NULL without memory. */
static void *thread_buffer(struct mount *mount)
{
	void *buffer = pthread_getspecific(mount->buffer);
	if (buffer)
		return buffer;
	if (posix_memalign(&buffer, 4096, SMALL_ANSWER_BYTES) != 0)
		return NULL;
	if (pthread_setspecific(mount->buffer, buffer) != 0) {
		free(buffer);
		return NULL;
	}
	return buffer;
}

/* What a failed read is to a program: not enough memory, or not readable now. */
static int read_error(int r)
{
	return r == -ENOMEM ? ENOMEM : EIO;
}

static void answer_read(const struct request *q)
{
	struct open_file *file = q->file;
	struct mount *mount = file->mount;
	struct buffer_chunk *chunk = NULL;
	void *buffer = q->size <= SMALL_ANSWER_BYTES ? thread_buffer(mount)
						     : buffer_take(&mount->buffers, &chunk);
	if (!buffer) {
		fuse_reply_err(q->req, ENOMEM);
		return;
	}
	uint64_t left = q->offset < file->size_bytes ? file->size_bytes - q->offset : 0;
	size_t n = (size_t)MIN((uint64_t)q->size, left);
	int r = file_enter(file);
	if (r == 0) {
		r = n > 0 ? store_read(file->store, q->offset, buffer, n) : 0;
		file_leave(file);
	}
	if (r < 0)
		fuse_reply_err(q->req, read_error(r));
	else
		fuse_reply_buf(q->req, buffer, n);
	if (chunk)
		buffer_put(&mount->buffers, chunk, buffer);
}

static void op_read(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *info)
{
	(void)ino;
	const struct request request = {
		.kind = REQUEST_READ,
		.req = req,
		.session = session_of(req),
		.file = file_of(info),
		.offset = (uint64_t)off,
		.size = MIN(size, (size_t)MOUNT_IO_BYTES),
	};
	if (off < 0)
		fuse_reply_err(req, EINVAL);
	else
		gate_pass(&mount_of(req)->reads, &request);
}

static void note_write(struct open_file *file)
{
	if (file->clone)
		atomic_store(&file->clone->modified_ns, clock_realtime_ns(clock_system()));
}

static void answer_write(const struct request *q)
{
	struct open_file *file = q->file;
	int r = file_enter(file);
	if (r == 0) {
		r = store_write(file->store, q->offset, q->data, q->size);
		note_write(file);
		file_leave(file);
	}
	if (r < 0)
		fuse_reply_err(q->req, -r);
	else
		fuse_reply_write(q->req, q->size);
}

/* A request that may have to wait for room in its group's journal. */
static void pass_writes(const struct request *request)
{
	if (request->file->writes)
		gate_pass(request->file->writes, request);
	else
		request_answer(request);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
	struct fuse_file_info *info)
{
	(void)ino;
	const struct request request = {
		.kind = REQUEST_WRITE,
		.req = req,
		.session = session_of(req),
		.file = file_of(info),
		.offset = (uint64_t)off,
		.size = size,
		.data = data,
	};
	if (off < 0)
		fuse_reply_err(req, EINVAL);
	else
		pass_writes(&request);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *info)
{
	(void)ino, (void)datasync;
	struct open_file *file = file_of(info);
	int r = file_enter(file);
	if (r == 0) {
		r = store_flush(file->store);
		file_leave(file);
	}
	fuse_reply_err(req, -r);
}

/* Zeroes, or does nothing for plain preallocation: every byte of a disk is there. A discard may
 * reach over the footer, which is then left out (it is advice); writing zeros there is not. */
static int zero_range(struct open_file *file, int mode, uint64_t off, uint64_t n)
{
	bool punch = mode & FALLOC_FL_PUNCH_HOLE;
	uint64_t disk_bytes = file->size_bytes - VHD_FOOTER_BYTES;
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	if (!file->writable)
		return -EROFS;
	if (off > file->size_bytes || n > file->size_bytes - off) {
		if (!punch)
			return -ENOSPC;
		n = off < file->size_bytes ? file->size_bytes - off : 0;
	}
	if (punch)
		n = off < disk_bytes ? MIN(n, disk_bytes - off) : 0;
	if (n == 0 || !(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
		return 0;
	return store_zero(file->store, off, n);
}

static void answer_zero(const struct request *q)
{
	struct open_file *file = q->file;
	int r = file_enter(file);
	if (r == 0) {
		r = zero_range(file, q->mode, q->offset, q->size);
		note_write(file);
		file_leave(file);
	}
	fuse_reply_err(q->req, -r);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length,
	struct fuse_file_info *info)
{
	(void)ino;
	const struct request request = {
		.kind = REQUEST_ZERO,
		.req = req,
		.session = session_of(req),
		.file = file_of(info),
		.offset = (uint64_t)off,
		.size = (uint64_t)length,
		.mode = mode,
	};
	if (off < 0 || length < 0)
		fuse_reply_err(req, EINVAL);
	else
		pass_writes(&request);
}

void request_answer(const struct request *request)
{
	switch (request->kind) {
	case REQUEST_READ:
		answer_read(request);
		break;
	case REQUEST_WRITE:
		answer_write(request);
		break;
	case REQUEST_ZERO:
		answer_zero(request);
		break;
	}
}

/* ── what the mount does not do ──────────────────────────────────────────────────────────── */

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
	(void)parent, (void)name, (void)mode, (void)dev;
	fuse_reply_err(req, EPERM);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)parent, (void)name, (void)mode;
	fuse_reply_err(req, EPERM);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void)parent, (void)name;
	fuse_reply_err(req, EPERM);
}

static void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
	(void)link, (void)parent, (void)name;
	fuse_reply_err(req, EPERM);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	const char *new_name, unsigned flags)
{
	(void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
	fuse_reply_err(req, EPERM);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	(void)ino, (void)new_parent, (void)new_name;
	fuse_reply_err(req, EPERM);
}

/* ── the session's terms ─────────────────────────────────────────────────────────────────── */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	mount_settings_agree(conn);
}

const struct fuse_lowlevel_ops *mount_ops(void)
{
	static const struct fuse_lowlevel_ops ops = {
		.init = op_init,
		.lookup = op_lookup,
		.getattr = op_getattr,
		.setattr = op_setattr,
		.readlink = op_readlink,
		.mknod = op_mknod,
		.mkdir = op_mkdir,
		.unlink = op_unlink,
		.rmdir = op_unlink,
		.symlink = op_symlink,
		.rename = op_rename,
		.link = op_link,
		.open = op_open,
		.read = op_read,
		.write = op_write,
		.fsync = op_fsync,
		.release = op_release,
		.readdir = op_readdir,
		.readdirplus = op_readdirplus,
		.statfs = op_statfs,
		.fallocate = op_fallocate,
	};
	return &ops;
}
