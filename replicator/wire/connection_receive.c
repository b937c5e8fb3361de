/*
 * Frames in, by one thread. It keeps the peer's heart in view while it waits: says PING when we
 * have been silent, and gives the peer up when it has.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/json.h"
#include "replicator/wire/connection_internal.h"

/* ── from the socket ─────────────────────────────────────────────────────────────────────── */

static int ended(struct connection *connection, struct error *error)
{
	return connection_fail(connection, error, -ECONNRESET, NULL,
		"%s: the other end has closed the connection", connection->address);
}

/* Room beyond `end`: the receiving thread's until it moves `end`. */
static int make_room(struct connection *connection, struct error *error)
{
	struct wire_buffer *in = &connection->in;
	SCOPED_LOCK(&connection->tls_lock);
	if (in->start == in->end)
		in->start = in->end = 0;
	/* Small until a peer has proven that it needs more. */
	size_t want = in->capacity == 0 ? 2 * CONNECTION_RECORD_BYTES : CONNECTION_IN_BYTES;
	if (in->capacity - in->end >= MIN(want, 2 * (size_t)CONNECTION_RECORD_BYTES))
		return 0;
	if (wire_buffer_reserve(in, want - (in->end - in->start)) < 0)
		return connection_fail(connection, error, -ENOMEM, NULL, "out of memory");
	return 0;
}

/* 1: bytes came; 0: none there. */
static int take_in(struct connection *connection, struct error *error)
{
	struct wire_buffer *in = &connection->in;
	int r = make_room(connection, error);
	if (r < 0)
		return r;
	ssize_t n = recv(connection->fd, in->data + in->end, in->capacity - in->end, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0 && errno != ECONNRESET)
		return connection_fail(connection, error, -errno, NULL, "%s: %s",
			connection->address, strerrordesc_np(errno));
	if (n <= 0)
		return ended(connection, error);
	pthread_mutex_lock(&connection->tls_lock);
	in->end += (size_t)n;
	pthread_mutex_unlock(&connection->tls_lock);
	atomic_fetch_add(&connection->received_bytes, (uint64_t)n);
	atomic_store(&connection->heard_ns, connection_now_ns());
	return 1;
}

/* Until something may have come, or it is time to look around. */
static int wait_a_little(struct connection *connection, int64_t deadline_ns, struct error *error)
{
	int64_t now = connection_now_ns();
	if (deadline_ns != 0 && now >= deadline_ns)
		return -EAGAIN;
	if (now - atomic_load(&connection->heard_ns) > CONNECTION_DEAD_MS * NS_PER_MS)
		return connection_fail(connection, error, -ETIMEDOUT, NULL,
			"%s: nothing was heard of the other end for %d seconds",
			connection->address, CONNECTION_DEAD_MS / 1000);
	int64_t wait = CONNECTION_TICK_MS;
	if (deadline_ns != 0)
		wait = MIN(wait, (deadline_ns - now) / NS_PER_MS + 1);
	int r = connection_poll(connection, POLLIN, (int)wait);
	return r < 0 ? connection_fail(connection, error, r, NULL, "%s: the connection was ended",
			       connection->address)
		     : 0;
}

int connection_fill(struct connection *connection, int64_t deadline_ns, struct error *error)
{
	for (;;) {
		int r = take_in(connection, error);
		if (r != 0)
			return r < 0 ? r : 0;
		/* A sender's reset does not count as long as there may be more to read. */
		if (!atomic_load(&connection->provisional) &&
			(r = connection_failed(connection, error)) < 0)
			return r;
		if (connection->ready)
			connection_keep_alive(connection);
		r = wait_a_little(connection, deadline_ns, error);
		if (r < 0)
			return r;
	}
}

/* ── frames ──────────────────────────────────────────────────────────────────────────────── */

/* Reads `n` bytes; `*done` tells how many there are already. -EAGAIN: time is over. */
static int read_exactly(struct connection *connection, void *data, size_t n, size_t *done,
	int64_t deadline_ns, struct error *error)
{
	while (*done < n) {
		struct error words = { 0 };
		size_t k = 0;
		int r = 0;
		switch (connection_tls_read(
			connection, (char *)data + *done, n - *done, &k, &words)) {
		case TLS_DONE:
			*done += k;
			break;
		case TLS_WANTS_INPUT:
			r = connection_fill(connection, deadline_ns, error);
			break;
		case TLS_ENDED:
			r = ended(connection, error);
			break;
		case TLS_FAILED:
			r = connection_fail(connection, error, words.code, words.mend, "%s: %s",
				connection->address, words.message);
			connection_say(connection); /* the alert */
			break;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int bad_frame(struct connection *connection, struct error *error, const struct error *words)
{
	return connection_fail(connection, error, words->code, NULL, "%s: %s", connection->address,
		words->message);
}

/* One frame of any type. -EAGAIN only before its first byte, if `patient`. */
static int receive_one(struct connection *connection, int64_t deadline_ns, bool patient, void *room,
	size_t room_bytes, struct error *error)
{
	struct wire_frame *frame = &connection->header;
	struct error words = { 0 };
	while (connection->header_bytes < sizeof(*frame)) {
		/* Once it has begun it may take its time, unless all of it has a deadline. */
		int64_t until = patient && connection->header_bytes > 0 ? 0 : deadline_ns;
		size_t want = connection->header_bytes == 0 ? 1 : sizeof(*frame);
		int r = read_exactly(
			connection, frame, want, &connection->header_bytes, until, error);
		if (r < 0)
			return r;
	}
	int r = frame_check(frame, connection->side, connection->receive_sequence + 1, &words);
	if (r < 0)
		return bad_frame(connection, error, &words);
	if (frame->body_bytes > room_bytes)
		return connection_fail(connection, error, -EMSGSIZE, NULL,
			"%s: a frame of %u bytes where %zu are the most", connection->address,
			frame->body_bytes, room_bytes);
	size_t done = 0;
	r = read_exactly(
		connection, room, frame->body_bytes, &done, patient ? 0 : deadline_ns, error);
	if (r < 0)
		return r;
	if (frame->body_bytes > 0 && frame_check_body(frame, room, &words) < 0)
		return bad_frame(connection, error, &words);
	connection->receive_sequence++;
	connection->header_bytes = 0;
	atomic_fetch_add(&connection->received_frames, 1);
	return 0;
}

static int receive(struct connection *connection, int timeout_ms, bool patient, void *room,
	size_t room_bytes, struct wire_frame *ret_frame, struct error *error)
{
	int64_t deadline_ns = timeout_ms < 0 ? 0 : connection_now_ns() + timeout_ms * NS_PER_MS;
	int r = atomic_load(&connection->provisional) ? 0 : connection_failed(connection, error);
	while (r == 0) {
		r = receive_one(connection, deadline_ns, patient, room, room_bytes, error);
		if (r < 0)
			break;
		if (connection->header.type == WIRE_PING) {
			atomic_store(&connection->pong_due, true);
			connection_say(connection);
		} else if (connection->header.type != WIRE_PONG) {
			*ret_frame = connection->header;
			break;
		}
		/* Nobody stays by saying PING alone. */
		if (deadline_ns != 0 && connection_now_ns() >= deadline_ns)
			r = -EAGAIN;
	}
	return r;
}

int connection_receive(struct connection *connection, int timeout_ms, void *room, size_t room_bytes,
	struct wire_frame *ret_frame, struct error *error)
{
	return receive(connection, timeout_ms, true, room, room_bytes, ret_frame, error);
}

int connection_receive_control(struct connection *connection, int timeout_ms,
	struct cJSON **ret_json, const char **ret_type, struct error *error)
{
	struct wire_frame frame;
	struct error words = { 0 };
	CLEANUP_FREE void *room = malloc(WIRE_MAX_CONTROL_BYTES);
	if (!room)
		return connection_fail(connection, error, -ENOMEM, NULL, "out of memory");
	int r = receive(connection, timeout_ms, false, room, WIRE_MAX_CONTROL_BYTES, &frame, error);
	if (r == -EAGAIN)
		return connection_fail(connection, error, -ETIMEDOUT, NULL,
			"%s: the other end takes too long to say what it wants",
			connection->address);
	if (r == 0 && (r = frame_parse_control(&frame, room, ret_json, ret_type, &words)) < 0)
		r = bad_frame(connection, error, &words);
	OPENSSL_cleanse(room, WIRE_MAX_CONTROL_BYTES);
	return r;
}
