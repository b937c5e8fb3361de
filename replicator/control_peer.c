/*
 * A connection as the threads that answer see it: bytes to send, requests under way, a life of
 * its own.
 *
 * Invariants: the file descriptor is closed by the poll thread alone, under the peer's lock, so
 * whoever holds the lock and sees fd >= 0 may use it. A peer with something unsent has EPOLLOUT
 * in its interest; one that is paused (64 requests under way, or too much unsent) has no EPOLLIN,
 * and is woken by EPOLLOUT when a request ends. Any thread may send; the poll thread does the
 * rest.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cjson/cJSON.h>

#include "common/cleanup.h"
#include "replicator/control_internal.h"

int control_peer_new(int epoll_fd, int fd, bool permitted, struct control_peer **ret_peer)
{
	struct control_peer *peer = calloc(1, sizeof(*peer));
	if (!peer)
		return -ENOMEM;
	atomic_init(&peer->references, 1);
	pthread_mutex_init(&peer->lock, NULL);
	peer->epoll_fd = epoll_fd;
	peer->fd = fd;
	peer->permitted = permitted;
	peer->interest = EPOLLIN;
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = peer };
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		int r = -errno;
		peer->fd = -1;
		control_peer_release(peer);
		return r;
	}
	*ret_peer = peer;
	return 0;
}

struct control_peer *control_peer_hold(struct control_peer *peer)
{
	atomic_fetch_add(&peer->references, 1);
	return peer;
}

void control_peer_release(struct control_peer *peer)
{
	if (!peer || atomic_fetch_sub(&peer->references, 1) != 1)
		return;
	buf_free(&peer->out);
	buf_free(&peer->pending);
	rpc_lines_free(&peer->lines);
	pthread_mutex_destroy(&peer->lock);
	free(peer);
}

/* Under the lock: may it ask for more? */
static bool has_room(const struct control_peer *peer)
{
	return peer->under_way < CONTROL_UNDER_WAY_MAX &&
	       peer->out.len - peer->sent < CONTROL_UNSENT_PAUSE;
}

/* Under the lock. A failure of epoll_ctl leaves no way to serve the peer, so it is broken. */
static void update_interest(struct control_peer *peer)
{
	uint32_t interest = 0;
	if (peer->out.len > peer->sent || peer->kicked || peer->broken)
		interest |= EPOLLOUT;
	if (!peer->eof && has_room(peer))
		interest |= EPOLLIN;
	if (interest == peer->interest)
		return;
	struct epoll_event event = { .events = interest, .data.ptr = peer };
	if (epoll_ctl(peer->epoll_fd, EPOLL_CTL_MOD, peer->fd, &event) < 0) {
		peer->broken = true;
		(void)shutdown(peer->fd, SHUT_RDWR);
		return;
	}
	peer->interest = interest;
}

/* Under the lock: bytes already sent make room first. The poll thread sees the shutdown as the
 * end of the connection. */
static int queue_output(struct control_peer *peer, const char *text, size_t n)
{
	if (peer->fd < 0 || peer->broken)
		return -EPIPE;
	size_t unsent = peer->out.len - peer->sent;
	int r = 0;
	if (unsent > 0 && unsent + n > CONTROL_UNSENT_MAX)
		r = -ENOBUFS;
	if (r == 0 && peer->sent > 0) {
		memmove(peer->out.data, peer->out.data + peer->sent, unsent);
		peer->out.len = unsent;
		peer->sent = 0;
	}
	if (r == 0)
		r = buf_append(&peer->out, text, n);
	if (r < 0) {
		peer->broken = true;
		(void)shutdown(peer->fd, SHUT_RDWR);
	}
	return r;
}

int control_peer_send(struct control_peer *peer, const char *text, size_t n)
{
	SCOPED_LOCK(&peer->lock);
	int r = queue_output(peer, text, n);
	if (r == 0)
		update_interest(peer);
	return r;
}

void control_peer_done(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	peer->under_way--;
	if (peer->fd < 0)
		return;
	peer->kicked = true;
	update_interest(peer);
}

/* Under the lock. */
static void send_output(struct control_peer *peer)
{
	while (peer->sent < peer->out.len) {
		ssize_t n = send(peer->fd, peer->out.data + peer->sent, peer->out.len - peer->sent,
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n < 0) {
			peer->broken = true;
			return;
		}
		peer->sent += (size_t)n;
	}
	buf_free(&peer->out);
	peer->sent = 0;
}

void control_peer_wake(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	peer->kicked = false;
	if (!peer->broken)
		send_output(peer);
}

/* What is pending brings no event of its own: if there is room for it now, it gets one. */
bool control_peer_flush(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	if (!peer->broken)
		send_output(peer);
	if (peer->pending.len > 0 && has_room(peer))
		peer->kicked = true;
	if (!peer->broken)
		update_interest(peer);
	return peer->broken;
}

bool control_peer_admit(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	if (peer->broken || !has_room(peer))
		return false;
	peer->under_way++;
	return true;
}

void control_peer_retract(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	peer->under_way--;
}

void control_peer_set_eof(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	peer->eof = true;
}

bool control_peer_is_finished(struct control_peer *peer)
{
	if (!peer->eof || peer->pending.len > 0)
		return false;
	SCOPED_LOCK(&peer->lock);
	return peer->under_way == 0 && peer->sent == peer->out.len;
}

int control_peer_on_end(struct control_peer *peer, struct control_farewell *farewell)
{
	SCOPED_LOCK(&peer->lock);
	if (peer->fd < 0)
		return -EPIPE;
	farewell->next = peer->farewells;
	peer->farewells = farewell;
	return 0;
}

bool control_peer_forget(struct control_peer *peer, struct control_farewell *farewell)
{
	SCOPED_LOCK(&peer->lock);
	for (struct control_farewell **slot = &peer->farewells; *slot; slot = &(*slot)->next) {
		if (*slot == farewell) {
			*slot = farewell->next;
			return true;
		}
	}
	return false;
}

/* One at a time: telling one may make another be taken back. */
static struct control_farewell *take_farewell(struct control_peer *peer)
{
	SCOPED_LOCK(&peer->lock);
	struct control_farewell *farewell = peer->farewells;
	if (farewell)
		peer->farewells = farewell->next;
	return farewell;
}

void control_peer_close(struct control_peer *peer)
{
	struct control_farewell *farewell;
	{
		SCOPED_LOCK(&peer->lock);
		/* Closing alone does not take it out while a child between fork and exec has a
		 * duplicate: events would come for what is freed. */
		(void)epoll_ctl(peer->epoll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
		close(peer->fd);
		peer->fd = -1;
		buf_free(&peer->out);
		peer->sent = 0;
	}
	while ((farewell = take_farewell(peer)) != NULL)
		farewell->gone(farewell);
	control_peer_release(peer);
}

int control_notify(struct control_peer *peer, const char *method, const cJSON *parameters)
{
	cJSON *message = cJSON_CreateObject();
	cJSON *copy = parameters ? cJSON_Duplicate(parameters, true) : cJSON_CreateObject();
	char *text = NULL;
	int r = -ENOMEM;
	if (message && copy && cJSON_AddStringToObject(message, "jsonrpc", "2.0") &&
		cJSON_AddStringToObject(message, "method", method) &&
		cJSON_AddItemToObject(message, "params", copy)) {
		copy = NULL;
		text = cJSON_PrintUnformatted(message);
	}
	if (text) {
		size_t n = strlen(text);
		text[n] = '\n'; /* in the NUL's place: lengths are what counts from here */
		r = control_peer_send(peer, text, n + 1);
	}
	cJSON_free(text);
	cJSON_Delete(copy);
	cJSON_Delete(message);
	return r == -ENOBUFS ? -EPIPE : r;
}
