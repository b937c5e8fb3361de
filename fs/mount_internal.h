/*
 * What the files of the mount share. Nobody else includes this.
 *
 *	mount.c        the life of it all; whether it is still where it was mounted
 *	mount_session.c  sessions: mounting, threads, unmounting
 *	mount_tree.c   machines and clones: what is shown, and for how long it may be used
 *	mount_names.c  the tree: names, attributes, directory entries
 *	mount_attributes.c  owners, modes and times that were set
 *	mount_files.c  open files: one store for each, shared by all who have it open
 *	mount_buffers.c  what answers are made in
 *	mount_gates.c  how many of them are worked on at once, and where the others wait
 *	mount_ops.c    the handlers of FUSE requests
 *
 * Inode numbers say what they mean (struct node), so the kernel's references cost no memory here
 * and need no counting: whatever number comes back is looked up in what is shown now. Numbers of
 * clones are not used twice. Those of machines are, after 4095 others, with another generation, by
 * which the kernel tells that it is another inode: what it has of the old one is not shown again.
 *
 * Locks: `lock`, and the gates', taken after it or alone; none is held across calls to a history, a
 * clone or a store. What a handler uses meanwhile is held by a count (`busy`), for which removal
 * waits.
 */
#pragma once

#define SMALL_ANSWER_BYTES (64u * 1024u)

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include <fuse_lowlevel.h>

#include "fs/mount.h"
#include "fs/mount_settings.h"
#include "fs/store.h"

#define MOUNT_NAME_BYTES 64
#define MOUNT_FILE_BUCKETS 64u

/* ── inodes ──────────────────────────────────────────────────────────────────────────────── */

enum node_kind {
	NODE_ROOT,
	NODE_MACHINE,
	NODE_LIVE,
	NODE_POINTS,
	NODE_CLONES,
	NODE_POINT,
	NODE_CLONE,
	NODE_LATEST,
	NODE_LIVE_FILE,
	NODE_POINT_FILE,
	NODE_CLONE_FILE,
};

struct node {
	enum node_kind kind;
	uint16_t machine; /* its serial number, below 2^12 */
	uint16_t disk;    /* of a file */
	uint32_t number;  /* of the point or the clone */
};

/* There and back; pure. */
fuse_ino_t node_ino(const struct node *node);
struct node node_of(fuse_ino_t ino);

/* ── what is shown ───────────────────────────────────────────────────────────────────────── */

struct clone_entry {
	struct clone_entry *next; /* by rising serial */
	uint32_t serial;
	char name[MOUNT_NAME_BYTES];
	struct clone *clone;         /* borrowed */
	_Atomic int64_t modified_ns; /* the last write */
	unsigned disk_count;
	struct clone_disk_entry {
		uint16_t id;
		uint64_t bytes;
		char name[MOUNT_NAME_BYTES];
	} disks[]; /* by rising id */
};

struct machine {
	struct machine *next; /* by rising serial */
	uint16_t serial;
	uint64_t generation; /* of its inodes: how often serials began anew, from 1 */
	char name[MOUNT_NAME_BYTES];
	struct committer *committer; /* borrowed */
	struct history *history;     /* the committer's */
	bool writable;
	struct write_gate *gate;    /* its group's */
	unsigned busy;              /* handlers that use it; under the mount's lock */
	struct clone_entry *clones; /* under the mount's lock, as are */
	struct attributes *attributes;
	uint64_t seen_changes; /* when it was last looked at, and */
	int64_t changed_ns;    /* since when the live disks are as they are */
};

struct open_file {
	struct open_file *next;
	struct mount *mount;
	fuse_ino_t ino;
	struct node node;
	struct machine *machine;   /* NULL once that is gone */
	struct clone_entry *clone; /* of a clone's file */
	struct store *store;       /* owned; NULL while it is being opened, or once gone */
	struct gate *writes;       /* that writes have to pass; NULL: none */
	uint64_t size_bytes;
	bool writable;
	bool opening;
	unsigned refs;    /* opens; under the mount's lock */
	atomic_uint busy; /* requests under way */
	atomic_bool gone; /* answers -EIO from now on */
};

/* A file that was opened through a session: what the kernel's file handles are. */
struct handle {
	struct handle *next, **link; /* in its session's list; under the mount's lock */
	struct session *session;
	struct open_file *file;
};

/* A read or write of a file, which stays open as long as it is not answered. */
struct request {
	struct request *next; /* in a queue */
	enum { REQUEST_READ, REQUEST_WRITE, REQUEST_ZERO } kind;
	fuse_req_t req;
	struct session *session;
	struct open_file *file;
	uint64_t offset;
	uint64_t size;
	int mode;         /* REQUEST_ZERO: of fallocate */
	const char *data; /* REQUEST_WRITE */
	size_t queued_bytes;
};

/* Beyond `limit` requests are queued: see mount_gates.c. */
struct gate {
	pthread_mutex_t lock;
	unsigned running, limit;
	struct request *first, **end;
	uint64_t queued_bytes;
};

/* For answers: see mount_buffers.c. */
struct buffers {
	pthread_mutex_t lock;
	struct buffer_chunk *first;
	unsigned unused; /* chunks of which no buffer is in use */
};

/* A group's, for the writes of its live disks. */
struct write_gate {
	struct write_gate *next;
	struct committer *committer; /* the group's; under the mount's lock, as is */
	unsigned machines;           /* how many have it */
	struct gate gate;
};

/* A mount of ours in the kernel, from mounting to the last file's being closed. There may be
 * several: one that was taken away with files open is served until they are closed. All show the
 * same. */
struct session {
	struct session *next; /* older */
	struct mount *mount;
	struct fuse_session *fuse;
	pthread_t thread;
	dev_t device;
	struct handle *handles; /* under the mount's lock, as is */
	unsigned users;         /* who talk to the kernel without being asked */
	atomic_uint queued;     /* its requests that wait at a gate */
	atomic_bool ended;      /* there is no kernel to talk to */
	atomic_bool finished;   /* its thread has nothing more to do */
};

struct mount {
	char *path;
	unsigned max_threads;
	bool allow_other;
	int64_t started_ns;
	atomic_bool stopping;       /* mount_free was called */
	pthread_key_t buffer;       /* each thread's, of SMALL_ANSWER_BYTES */
	pthread_mutex_t watch_lock; /* of mount_watch; before lock */
	struct session *sessions;   /* the newest first; changed under both locks */
	struct buffers buffers;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* some busy count went to 0, or an opening ended */
	struct machine *machines;
	uint16_t last_machine; /* serials given out */
	uint64_t rounds;       /* how often they began anew */
	uint32_t last_clone;
	struct open_file *files[MOUNT_FILE_BUCKETS];
	struct gate reads;
	struct write_gate *writes; /* freed at the end */
};

/* The machine with that serial, held until machine_put. -ESTALE. */
int machine_get(struct mount *mount, uint16_t serial, struct machine **ret_machine);
int machine_get_named(struct mount *mount, const char *name, struct machine **ret_machine);
/* The generation of a machine's inodes; 1 for none. */
uint64_t machine_generation(struct mount *mount, uint16_t serial);

/* The first machine with a serial above `after`. -ENOENT. */
int machine_get_next(struct mount *mount, uint16_t after, struct machine **ret_machine);
void machine_put(struct mount *mount, struct machine *machine);

/* The clone with that serial, or name, or the first with a serial above `after`; valid while the
 * lock is held. NULL if there is none. */
struct clone_entry *clone_find_locked(struct machine *machine, uint32_t serial);
struct clone_entry *clone_find_named_locked(struct machine *machine, const char *name);
struct clone_entry *clone_next_locked(struct machine *machine, uint32_t after);

/* ── sessions ────────────────────────────────────────────────────────────────────────────── */

/* Mounts at the mount's path, which is prepared, and begins to serve. It is entered in the list. */
int session_new(struct mount *mount, struct error *error);
/* Ends it if it has not ended, and frees it. `at_path`: it is what is mounted at the path. */
void session_free(struct session *session, bool at_path);
/* The kernel forgets the name, in all sessions; if it cannot be told, it does within a second. */
void sessions_forget_name(struct mount *mount, fuse_ino_t parent, const char *name);
/* Takes the reference to the file over, unless it fails. NULL: no memory. */
struct handle *handle_new(struct session *session, struct open_file *file);
void handle_release(struct handle *handle);

/* ── names ───────────────────────────────────────────────────────────────────────────────── */

struct dir_entry {
	char name[256];
	struct node node;
	uint64_t key; /* its place in the directory, from 1, rising */
};

/* All 0 or -errno: -ENOENT, -ESTALE (what it stood for is gone), -ENOTDIR. */
int tree_lookup(
	struct mount *mount, const struct node *parent, const char *name, struct node *ret_node);
int tree_stat(struct mount *mount, const struct node *node, struct stat *ret_stat);
/* As it is but for what was set (mount_attributes.c). */
int tree_stat_own(struct mount *mount, const struct node *node, struct stat *ret_stat);
/* The first entry whose key is above `after`. -ENOENT at the end. */
int tree_next(struct mount *mount, const struct node *parent, uint64_t after,
	struct dir_entry *ret_entry);
int tree_parent(const struct node *node, struct node *ret_parent);
int tree_readlink(struct mount *mount, const struct node *node, char ret_name[static 64]);

/* ── attributes ──────────────────────────────────────────────────────────────────────────── */

/* What FUSE_SET_ATTR_* of `what` ask for, but for the size. -EPERM: bits beyond rwxrwxrwx; -ENOMEM,
 * -ESTALE. */
int attributes_set(struct mount *mount, const struct node *node, const struct stat *attr, int what);
/* Puts what was set in the place of what it is else. */
void attributes_apply(
	struct mount *mount, struct machine *machine, fuse_ino_t ino, struct stat *stat);
void attributes_free(struct machine *machine);

/* ── open files ──────────────────────────────────────────────────────────────────────────── */

/* The file of that inode with a reference more, its store made if nobody has it open. -EROFS,
 * -ESTALE, -ENOENT, what opening the store came to. Not under the lock, as file_release. */
int file_open(struct mount *mount, fuse_ino_t ino, bool for_writing, struct open_file **ret_file);
/* Gives the reference back; the last one frees the file. */
void file_release(struct open_file *file);
/* Around each request: -EIO once its machine is gone. */
int file_enter(struct open_file *file);
void file_leave(struct open_file *file);
/* Makes a writable file's disk all zeros: what emptying a file whose size is fixed comes to. */
int file_empty(struct mount *mount, fuse_ino_t ino);
/* Size of the file if it is open now, else 0. */
uint64_t file_open_size(struct mount *mount, fuse_ino_t ino);
/* Makes the machine's open files answer -EIO and frees their stores, when nobody is inside. */
void files_abandon(struct mount *mount, struct machine *machine);
/* At the end, when no handler runs any more. */
void files_free_all(struct mount *mount);
bool files_use_clone_locked(struct mount *mount, const struct clone_entry *clone);

/* ── buffers ─────────────────────────────────────────────────────────────────────────────── */

/* A buffer of MOUNT_IO_BYTES, until it is put back; NULL: no memory. */
void *buffer_take(struct buffers *buffers, struct buffer_chunk **ret_chunk);
void buffer_put(struct buffers *buffers, struct buffer_chunk *chunk, void *buffer);
/* None may be in use. */
void buffers_free(struct buffers *buffers);

/* ── gates ───────────────────────────────────────────────────────────────────────────────── */

/* `limit`: how many requests are worked on at once. */
void gate_init(struct gate *gate, unsigned limit);
void gate_destroy(struct gate *gate);
/* Has the request answered: now, or later by another thread; `request` is copied for that. */
void gate_pass(struct gate *gate, const struct request *request);
/* The group's gate, for one machine more; NULL: no memory. */
struct write_gate *write_gate_take_locked(struct mount *mount, struct committer *committer);
void write_gates_free(struct mount *mount);

/* ── handlers ────────────────────────────────────────────────────────────────────────────── */

/* The table that libfuse calls. */
const struct fuse_lowlevel_ops *mount_ops(void);
/* Does what it asks for and answers. */
void request_answer(const struct request *request);
