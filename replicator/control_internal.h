/*
 * The parts of the control socket among themselves:
 *
 *	control.c         methods, the pool of threads that runs them, start and end
 *	control_listen.c  the socket file: who listens, who may call
 *	control_poll.c    the one thread that polls all connections
 *	control_peer.c    a connection's outgoing side, which any thread may use
 *	control_rpc.c     lines and JSON-RPC, pure
 *
 * Locks, in their order: control.lock (the queue of tasks), then a peer's lock (its outgoing
 * bytes and its interest in epoll). Under a peer's lock stands one non-blocking send.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"
#include "replicator/control.h"
#include "replicator/control_rpc.h"

#define CONTROL_UNDER_WAY_MAX 64u       /* requests of one connection */
#define CONTROL_THREADS_MAX 128u        /* made when needed, kept until the end */
#define CONTROL_UNSENT_PAUSE (1u << 20) /* no more is read from a peer that has so much to read */
#define CONTROL_UNSENT_MAX (64u << 20)  /* a peer that lets more pile up is dropped */
#define CONTROL_SPARE_FILES 1024u       /* file descriptors left to the rest of the daemon */

struct control_peer {
	atomic_uint references;
	int epoll_fd; /* the control's; valid while fd >= 0 */
	bool permitted;

	pthread_mutex_t lock; /* guards what follows */
	int fd;               /* -1 once closed; only the poll thread closes */
	struct buf out;
	size_t sent; /* of out */
	unsigned under_way;
	uint32_t interest; /* epoll's */
	bool kicked;       /* a request ended since the poll thread last looked */
	bool broken;       /* to be closed: it read too slowly, or sending failed */
	bool eof;          /* it sends no more; set by the poll thread alone */
	struct control_farewell *farewells; /* none once closed */

	/* The poll thread's alone: */
	struct rpc_lines lines;
	struct buf pending; /* read, not yet cut into lines */
	struct control_peer *previous, *next;
};

struct control_task {
	struct control_peer *peer; /* held */
	char *line;                /* owned; NULL: it was too long */
	size_t length;
	struct control_task *next;
};

struct control_entry {
	char *name;
	control_method *method;
	void *context;
};

struct control {
	char *path, *group;
	struct control_entry *entries; /* fixed once started */
	unsigned entry_count;

	int lock_fd, listen_fd, epoll_fd, stop_fd;
	bool has_group;
	unsigned group_id;
	bool started;
	pthread_t poll_thread;

	/* The poll thread's alone: */
	struct control_peer *peers;
	unsigned peer_count, peer_max;
	bool listen_paused;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t work;
	struct control_task *first, *last;
	pthread_t threads[CONTROL_THREADS_MAX];
	unsigned thread_count, idle_count, queued_count;
	bool stopping;
};

/* Makes directory, lock file and socket, and listens. -EADDRINUSE: a living daemon has it. */
int control_listen(struct control *control, struct error *error);
/* Removes the socket file, if it was made. */
void control_unlisten(struct control *control);
/* True if the process at the other end is root, our own user, or in the control's group. */
bool control_is_permitted(const struct control *control, int fd);

/* Adds a connection to epoll; takes fd over if it succeeds. The caller holds the one reference. */
int control_peer_new(int epoll_fd, int fd, bool permitted, struct control_peer **ret_peer);
/* Queues a line to be sent (newline included); -EPIPE: it is gone, -ENOBUFS: it is dropped. */
int control_peer_send(struct control_peer *peer, const char *text, size_t n);
/* A request has ended. */
void control_peer_done(struct control_peer *peer);
/* The poll thread's turn with a peer begins: sends what it can. */
void control_peer_wake(struct control_peer *peer);
/* The turn ends: sends what it can and brings epoll's interest up to date. True: close it. */
bool control_peer_flush(struct control_peer *peer);
/* Room for one more request? If so it counts as under way. */
bool control_peer_admit(struct control_peer *peer);
/* What was admitted turned out to be no request. */
void control_peer_retract(struct control_peer *peer);
void control_peer_set_eof(struct control_peer *peer);
/* Everything it asked is answered and it will ask no more. */
bool control_peer_is_finished(struct control_peer *peer);
void control_peer_close(struct control_peer *peer);

/* Hands a line to the pool; the request counts as under way already. -ENOMEM. */
int control_submit(struct control *control, struct control_peer *peer, const char *line,
	size_t length, bool too_long);
/* The poll thread: until stop_fd is written to. `context` is the control. */
void *control_poll_run(void *context);
