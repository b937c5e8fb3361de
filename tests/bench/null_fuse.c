/*
 * A FUSE server that does nothing: one file whose reads are zeros and whose writes vanish, with the
 * settings of Landfall's own mount (fs/mount_settings.h). It is what libfuse and the kernel cost by
 * themselves, and so the yardstick for ours.
 *
 *	null_fuse MOUNTPOINT BYTES      serves MOUNTPOINT/null until it is unmounted
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fs/mount_settings.h"

#define FILE_INODE 2

struct server {
	uint64_t bytes;
	char *zeros; /* MOUNT_IO_BYTES */
};

static struct stat attributes(const struct server *s, fuse_ino_t inode)
{
	struct stat st = { .st_ino = inode, .st_nlink = 1 };
	if (inode == FUSE_ROOT_ID) {
		st.st_mode = S_IFDIR | 0755;
	} else {
		st.st_mode = S_IFREG | 0600;
		st.st_size = (off_t)s->bytes;
	}
	return st;
}

static void null_init(void *context, struct fuse_conn_info *connection)
{
	(void)context;
	mount_settings_agree(connection);
}

static void null_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct server *s = fuse_req_userdata(request);
	if (parent != FUSE_ROOT_ID || strcmp(name, "null") != 0) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	struct fuse_entry_param entry = { .ino = FILE_INODE,
		.attr = attributes(s, FILE_INODE),
		.attr_timeout = 60,
		.entry_timeout = 60 };
	fuse_reply_entry(request, &entry);
}

static void null_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)file;
	struct stat st = attributes(fuse_req_userdata(request), inode);
	fuse_reply_attr(request, &st, 60);
}

static void null_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode, (void)file;
	mount_settings_reply_open(request, 0, MOUNT_OPEN_WRITABLE);
}

static void null_read(
	fuse_req_t request, fuse_ino_t inode, size_t n, off_t offset, struct fuse_file_info *file)
{
	(void)inode, (void)offset, (void)file;
	struct server *s = fuse_req_userdata(request);
	fuse_reply_buf(request, s->zeros, n < MOUNT_IO_BYTES ? n : MOUNT_IO_BYTES);
}

static void null_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t n,
	off_t offset, struct fuse_file_info *file)
{
	(void)inode, (void)data, (void)offset, (void)file;
	fuse_reply_write(request, n);
}

static void null_fsync(
	fuse_req_t request, fuse_ino_t inode, int datasync, struct fuse_file_info *file)
{
	(void)inode, (void)datasync, (void)file;
	fuse_reply_err(request, 0);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: null_fuse MOUNTPOINT BYTES\n");
		return 2;
	}
	static const struct fuse_lowlevel_ops ops = {
		.init = null_init,
		.lookup = null_lookup,
		.getattr = null_getattr,
		.open = null_open,
		.read = null_read,
		.write = null_write,
		.fsync = null_fsync,
	};
	struct server s = { .bytes = strtoull(argv[2], NULL, 0),
		.zeros = calloc(1, MOUNT_IO_BYTES) };
	char dash_o[] = "-o", text[128];
	snprintf(text, sizeof(text), "fsname=null," MOUNT_OPTIONS, MOUNT_IO_BYTES);
	char *options[] = { argv[0], dash_o, text };
	struct fuse_args args = FUSE_ARGS_INIT(3, options);
	struct fuse_session *session = fuse_session_new(&args, &ops, sizeof(ops), &s);
	if (!session || fuse_set_signal_handlers(session) != 0 ||
		fuse_session_mount(session, argv[1]) != 0)
		return 1;
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	struct fuse_loop_config *config = mount_settings_loop(MOUNT_THREADS);
	int r = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	fuse_session_unmount(session);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	fuse_opt_free_args(&args);
	free(s.zeros);
	return r == 0 || r == SIGTERM ? 0 : 1;
}
