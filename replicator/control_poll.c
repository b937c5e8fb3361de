/*
 * The one thread that accepts, reads and polls all connections.
 *
 * It never waits for anything but epoll: methods run in the pool, sends do not block. A peer is
 * read until it has 64 requests under way or too much unsent; what was read already and not yet
 * cut into lines stays in its `pending` (at most one read's worth). A peer whose both sides are
 * shut is read to its end, so that what was sent before a close is still obeyed, then closed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/control_internal.h"

#define READ_BYTES (64u * 1024u)
#define READS_A_TURN 16 /* then the others' turn */
#define ACCEPTS_A_TURN 64

static void resume_listening(struct control *control)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = control };
	if (control->listen_paused &&
		epoll_ctl(control->epoll_fd, EPOLL_CTL_MOD, control->listen_fd, &event) == 0)
		control->listen_paused = false;
}

static void pause_listening(struct control *control, int why)
{
	struct epoll_event event = { .events = 0, .data.ptr = control };
	if (epoll_ctl(control->epoll_fd, EPOLL_CTL_MOD, control->listen_fd, &event) == 0)
		control->listen_paused = true;
	log_warning("control: cannot accept connections for now: %s", strerrordesc_np(-why));
}

static void drop_peer(struct control *control, struct control_peer *peer)
{
	if (peer->previous)
		peer->previous->next = peer->next;
	else
		control->peers = peer->next;
	if (peer->next)
		peer->next->previous = peer->previous;
	control->peer_count--;
	control_peer_close(peer);
	resume_listening(control);
}

static void refuse_connection(int fd)
{
	static const char text[] =
		"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32001,"
		"\"message\":\"the control socket has too many connections\",\"data\":{\"exit\":1,"
		"\"cause\":\"Too many open files\",\"mend\":\"close some of them\"}}}\n";
	(void)!send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

static void add_connection(struct control *control, int fd)
{
	if (control->peer_count >= control->peer_max) {
		refuse_connection(fd);
		return;
	}
	struct control_peer *peer;
	int r = control_peer_new(control->epoll_fd, fd, control_is_permitted(control, fd), &peer);
	if (r < 0) {
		log_warning("control: connection refused: %s", strerrordesc_np(-r));
		close(fd);
		return;
	}
	peer->next = control->peers;
	if (peer->next)
		peer->next->previous = peer;
	control->peers = peer;
	control->peer_count++;
}

static void accept_connections(struct control *control)
{
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		int fd = accept4(control->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			add_connection(control, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_listening(control, -errno);
		if (errno != EINTR && errno != ECONNABORTED)
			return;
	}
}

/* Cuts `data` into requests. *ret_used < n if the peer has to wait. */
static int take_bytes(struct control *control, struct control_peer *peer, const char *data,
	size_t n, size_t *ret_used)
{
	size_t at = 0;
	while (at < n && control_peer_admit(peer)) {
		const char *line = NULL;
		size_t used, length = 0;
		enum rpc_line_kind kind;
		int r = rpc_lines_take(
			&peer->lines, data + at, n - at, &kind, &used, &line, &length);
		if (r == 0) {
			at += used;
			bool blank = kind == RPC_LINE_WHOLE && length == 0;
			if (kind != RPC_LINE_NONE && !blank)
				r = control_submit(
					control, peer, line, length, kind == RPC_LINE_TOO_LONG);
			else
				control_peer_retract(peer);
		} else {
			control_peer_retract(peer);
		}
		if (r < 0)
			return r;
	}
	*ret_used = at;
	return 0;
}

static int take_pending(struct control *control, struct control_peer *peer)
{
	struct buf pending = peer->pending;
	peer->pending = (struct buf){ 0 };
	size_t used = 0;
	int r = take_bytes(control, peer, pending.data, pending.len, &used);
	if (r == 0 && used < pending.len)
		r = buf_append(&peer->pending, pending.data + used, pending.len - used);
	buf_free(&pending);
	return r;
}

/* -EAGAIN: nothing to read now; 0: there may be more. */
static int read_some(struct control *control, struct control_peer *peer, char *buffer)
{
	ssize_t n = recv(peer->fd, buffer, READ_BYTES, MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0) {
		control_peer_set_eof(peer);
		return -EAGAIN;
	}
	size_t used = 0;
	int r = take_bytes(control, peer, buffer, (size_t)n, &used);
	if (r == 0 && used < (size_t)n)
		r = buf_append(&peer->pending, buffer + used, (size_t)n - used);
	return r;
}

static void serve_peer(
	struct control *control, struct control_peer *peer, uint32_t events, char *buffer)
{
	bool gone = events & (EPOLLHUP | EPOLLERR);
	control_peer_wake(peer);
	int r = peer->pending.len > 0 ? take_pending(control, peer) : 0;
	for (int i = 0; r == 0 && peer->pending.len == 0 && !peer->eof; i++) {
		if (i == READS_A_TURN && !gone)
			break;
		r = read_some(control, peer, buffer);
	}
	bool failed = r < 0 && r != -EAGAIN && r != -EWOULDBLOCK;
	if (control_peer_flush(peer) || failed || gone || control_peer_is_finished(peer))
		drop_peer(control, peer);
}

void *control_poll_run(void *context)
{
	struct control *control = context;
	static const int batch = 256;
	struct epoll_event *events = calloc((size_t)batch, sizeof(*events));
	char *buffer = malloc(READ_BYTES);
	if (!events || !buffer)
		log_error("control: no memory to serve the control socket");
	for (bool stop = !events || !buffer; !stop;) {
		int n = epoll_wait(
			control->epoll_fd, events, batch, control->listen_paused ? 1000 : -1);
		if (n < 0 && errno != EINTR) {
			log_error("control: cannot poll: %s", strerrordesc_np(errno));
			break;
		}
		if (n == 0)
			resume_listening(control);
		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr == &control->stop_fd)
				stop = true;
			else if (events[i].data.ptr == control)
				accept_connections(control);
			else
				serve_peer(control, events[i].data.ptr, events[i].events, buffer);
		}
	}
	free(events);
	free(buffer);
	return NULL;
}
