/*
 * What the mount asks of libfuse and the kernel. The benchmarks' server that does nothing uses the
 * same, so that what is measured beside it differs in what is done, not in how it is asked for.
 */
#pragma once

#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#define MOUNT_IO_BYTES (1024u * 1024u)
#define MOUNT_THREADS 256u
#define MOUNT_IDLE_THREADS 16u
#define MOUNT_MAX_BACKGROUND 1024u

/* For a printf of MOUNT_IO_BYTES. */
#define MOUNT_OPTIONS "default_permissions,nosuid,nodev,max_read=%u"

/* What is written is here when write returns; a file's writes do not wait for each other. A kernel
 * that does not know the second ignores it. */
#define MOUNT_OPEN_WRITABLE (FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES)

/* The handler of FUSE's init. */
static inline void mount_settings_agree(struct fuse_conn_info *conn)
{
	conn->max_write = MOUNT_IO_BYTES;
	conn->max_read = MOUNT_IO_BYTES;
	conn->max_readahead = MOUNT_IO_BYTES;
	conn->max_background = MOUNT_MAX_BACKGROUND;
	conn->congestion_threshold = MOUNT_MAX_BACKGROUND * 3 / 4;
	/* So that O_TRUNC comes as a setattr, whose answer tells the kernel that the size stays. */
	conn->want &= ~(unsigned)FUSE_CAP_ATOMIC_O_TRUNC;
	conn->want &= ~(unsigned)FUSE_CAP_WRITEBACK_CACHE;
}

/* Of the session's loop; NULL: no memory. The caller destroys it. */
static inline struct fuse_loop_config *mount_settings_loop(unsigned max_threads)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	if (!config)
		return NULL;
	fuse_loop_cfg_set_clone_fd(config, 1);
	fuse_loop_cfg_set_max_threads(config, max_threads);
	fuse_loop_cfg_set_idle_threads(config, MOUNT_IDLE_THREADS);
	return config;
}

/* fuse_reply_open of libfuse 3.14 cannot say FOPEN_PARALLEL_DIRECT_WRITES, so the answer is made
 * here. -ENOENT: whoever asked was interrupted, and no release will come. */
static inline int mount_settings_reply_open(fuse_req_t req, uint64_t handle, unsigned flags)
{
	struct fuse_open_out out = { .fh = handle, .open_flags = flags };
	return fuse_reply_buf(req, (const char *)&out, sizeof(out));
}
