/*
 * Frames out. Whoever sends holds send_lock for the whole frame: encrypts a batch, gives it to the
 * socket, waits if the socket is full, goes on. The payload is encrypted from where it lies.
 *
 * PING and PONG are noted in flags and said by whoever has or gets send_lock. Since the flag is set
 * before the lock is tried, and looked at after it is released, none is forgotten.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cjson/cJSON.h>

#include "common/bytes.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/json.h"
#include "replicator/wire/connection_internal.h"

/* ── to the socket ───────────────────────────────────────────────────────────────────────── */

/* Nothing goes out and nothing comes in. */
static bool is_dead(struct connection *connection)
{
	int64_t heard = atomic_load(&connection->heard_ns);
	int64_t progress = atomic_load(&connection->progress_ns);
	return connection_now_ns() - MAX(heard, progress) > CONNECTION_DEAD_MS * NS_PER_MS;
}

static int wait_for_room(struct connection *connection, struct error *error)
{
	int64_t start = connection_now_ns();
	int r = connection_poll(connection, POLLOUT, CONNECTION_TICK_MS);
	atomic_fetch_add(&connection->blocked_ns, connection_now_ns() - start);
	if (r < 0)
		return connection_fail(connection, error, r, NULL, "%s: the connection was ended",
			connection->address);
	if (is_dead(connection))
		return connection_fail(connection, error, -ETIMEDOUT, NULL,
			"%s: the other end takes nothing in and says nothing", connection->address);
	return connection_failed(connection, error);
}

/* What was encrypted meanwhile becomes what leaves. False: nothing is left. */
static bool next_batch(struct connection *connection)
{
	struct wire_buffer *leaving = &connection->leaving;
	if (leaving->end > leaving->start)
		return true;
	leaving->start = leaving->end = 0;
	SCOPED_LOCK(&connection->tls_lock);
	struct wire_buffer empty = *leaving;
	*leaving = connection->out;
	connection->out = empty;
	return leaving->end > leaving->start;
}

int connection_flush(struct connection *connection, bool wait, struct error *error)
{
	struct wire_buffer *leaving = &connection->leaving;
	atomic_store(&connection->progress_ns, connection_now_ns());
	atomic_store(&connection->left_behind, false);
	while (next_batch(connection)) {
		ssize_t n = send(connection->fd, leaving->data + leaving->start,
			leaving->end - leaving->start, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			leaving->start += (size_t)n;
			atomic_fetch_add(&connection->sent_bytes, (uint64_t)n);
			atomic_store(&connection->progress_ns, connection_now_ns());
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return connection_fail_sending(
				connection, error, errno == EPIPE ? -ECONNRESET : -errno);
		if (!wait) {
			atomic_store(&connection->left_behind, true);
			return -EAGAIN;
		}
		int r = wait_for_room(connection, error);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ── PING and PONG ───────────────────────────────────────────────────────────────────────── */

static int write_empty(struct connection *connection, enum wire_type type)
{
	struct wire_frame frame;
	frame_make(type, 0, connection->send_sequence + 1, 0, "", 0, &frame);
	int r = connection_tls_write(connection, &frame, sizeof(frame), NULL);
	if (r < 0)
		return r;
	connection->send_sequence++;
	atomic_fetch_add(&connection->sent_frames, 1);
	atomic_store(&connection->said_ns, connection_now_ns());
	return 0;
}

/* Under send_lock. */
static int write_due(struct connection *connection)
{
	int r = 0;
	if (atomic_exchange(&connection->pong_due, false))
		r = write_empty(connection, WIRE_PONG);
	if (r == 0 && atomic_exchange(&connection->ping_due, false))
		r = write_empty(connection, WIRE_PING);
	return r;
}

/* Something the library wrote by itself, or was left when the socket was full. */
static bool has_output(struct connection *connection)
{
	if (atomic_load(&connection->left_behind))
		return true;
	SCOPED_LOCK(&connection->tls_lock);
	return connection->out.end > connection->out.start;
}

void connection_say(struct connection *connection)
{
	int r = 0;
	while (r == 0 && atomic_load(&connection->failure) == 0 &&
		(atomic_load(&connection->pong_due) || atomic_load(&connection->ping_due) ||
			has_output(connection))) {
		if (pthread_mutex_trylock(&connection->send_lock) != 0)
			return; /* whoever has it looks after its frame */
		r = write_due(connection);
		if (r == 0)
			r = connection_flush(connection, false, NULL);
		pthread_mutex_unlock(&connection->send_lock);
	}
}

void connection_keep_alive(struct connection *connection)
{
	int64_t silent = connection_now_ns() - atomic_load(&connection->said_ns);
	if (silent > CONNECTION_PING_MS * NS_PER_MS)
		atomic_store(&connection->ping_due, true);
	connection_say(connection);
}

int64_t connection_probe(struct connection *connection)
{
	atomic_store(&connection->ping_due, true);
	connection_say(connection);
	return connection_now_ns() - atomic_load(&connection->heard_ns);
}

/* ── frames ──────────────────────────────────────────────────────────────────────────────── */

/* A frame: `head_bytes` of connection->head after the frame's place are the body's beginning, which
 * its checksum covers, `rest` follows. Under send_lock. */
static int send_parts(struct connection *connection, enum wire_type type, unsigned flags,
	size_t head_bytes, const void *rest, size_t rest_bytes, struct error *error)
{
	struct wire_frame frame;
	uint8_t *body = connection->head + sizeof(frame);
	frame_make(type, flags, connection->send_sequence + 1, head_bytes + rest_bytes, body,
		head_bytes, &frame);
	memcpy(connection->head, &frame, sizeof(frame));
	int r = connection_tls_write(
		connection, connection->head, sizeof(frame) + head_bytes, error);
	size_t batch = sizeof(frame) + head_bytes;
	for (size_t at = 0; r == 0 && at < rest_bytes;) {
		size_t n = MIN(rest_bytes - at, (size_t)CONNECTION_PIECE_BYTES);
		r = connection_tls_write(connection, (const char *)rest + at, n, error);
		at += n;
		batch += n;
		if (r == 0 && batch >= CONNECTION_BATCH_BYTES && at < rest_bytes) {
			batch = 0;
			r = connection_flush(connection, true, error);
		}
	}
	return r;
}

static int finish_frame(
	struct connection *connection, int r, uint64_t *ret_sequence, struct error *error)
{
	if (r == 0)
		r = connection_flush(connection, true, error);
	if (r < 0)
		return r;
	connection->send_sequence++;
	atomic_fetch_add(&connection->sent_frames, 1);
	atomic_store(&connection->said_ns, connection_now_ns());
	if (ret_sequence)
		*ret_sequence = connection->send_sequence;
	return 0;
}

/* A frame whose whole body is `body`, and small or rare enough to be checksummed here. */
static int send_whole(struct connection *connection, enum wire_type type, const void *body,
	size_t n, uint64_t *ret_sequence, struct error *error)
{
	struct wire_frame frame;
	pthread_mutex_lock(&connection->send_lock);
	int r = connection_failed(connection, error);
	if (r == 0) {
		frame_make(type, 0, connection->send_sequence + 1, n, body, n, &frame);
		r = connection_tls_write(connection, &frame, sizeof(frame), error);
	}
	if (r == 0)
		r = connection_tls_write(connection, body, n, error);
	r = finish_frame(connection, r, ret_sequence, error);
	pthread_mutex_unlock(&connection->send_lock);
	connection_say(connection);
	return r;
}

int connection_send_data(struct connection *connection, uint16_t disk, uint64_t lba,
	uint32_t sectors, const uint64_t *hashes, const void *packed, uint32_t packed_bytes,
	bool zstd, uint64_t *ret_sequence, struct error *error)
{
	size_t count = WIRE_PAGE_COUNT((size_t)sectors * SECTOR_BYTES);
	if (sectors == 0 || count > WIRE_CHUNK_PAGES)
		return error_set(error, -EINVAL, NULL, "%u sectors in one frame", sectors);
	pthread_mutex_lock(&connection->send_lock);
	int r = connection_failed(connection, error);
	if (r == 0) {
		frame_make_data_head(disk, lba, sectors, packed_bytes, hashes,
			connection->head + sizeof(struct wire_frame));
		r = send_parts(connection, WIRE_DATA, zstd ? WIRE_ZSTD : 0,
			WIRE_DATA_HEAD_BYTES(count), packed, packed_bytes, error);
	}
	r = finish_frame(connection, r, ret_sequence, error);
	pthread_mutex_unlock(&connection->send_lock);
	connection_say(connection);
	return r;
}

int connection_send_zero(struct connection *connection, uint16_t disk, uint64_t lba,
	uint64_t sectors, uint64_t *ret_sequence, struct error *error)
{
	const struct wire_zero zero = { .disk = disk, .lba = lba, .sectors = sectors };
	return send_whole(connection, WIRE_ZERO, &zero, sizeof(zero), ret_sequence, error);
}

int connection_send_ack(struct connection *connection, uint64_t sequence, uint64_t window_bytes,
	struct error *error)
{
	const struct wire_ack ack = { .sequence = sequence, .window_bytes = window_bytes };
	return send_whole(connection, WIRE_ACK, &ack, sizeof(ack), NULL, error);
}

/* A fixed part and `n` bytes of values in one piece. */
static int send_values(struct connection *connection, enum wire_type type, const void *head,
	size_t head_bytes, const void *values, size_t n, struct error *error)
{
	CLEANUP_FREE char *body = malloc(head_bytes + n);
	if (!body)
		return connection_fail(connection, error, -ENOMEM, NULL, "out of memory");
	memcpy(body, head, head_bytes);
	memcpy(body + head_bytes, values, n);
	return send_whole(connection, type, body, head_bytes + n, NULL, error);
}

int connection_send_hashes(struct connection *connection, uint16_t disk, uint64_t first_chunk,
	uint32_t count, const uint64_t *values, struct error *error)
{
	const struct wire_hashes hashes = {
		.disk = disk, .count = count, .first_chunk = first_chunk
	};
	if (count == 0 || count > WIRE_MAX_CHUNK_HASHES)
		return error_set(error, -EINVAL, NULL, "%u hashes in one frame", count);
	return send_values(connection, WIRE_HASHES, &hashes, sizeof(hashes), values,
		16 * (size_t)count, error);
}

int connection_send_pages(struct connection *connection, uint16_t disk, uint64_t chunk,
	uint32_t count, const uint64_t *values, struct error *error)
{
	const struct wire_pages pages = { .disk = disk, .count = count, .chunk = chunk };
	if (count == 0 || count > WIRE_CHUNK_PAGES)
		return error_set(error, -EINVAL, NULL, "%u pages in one frame", count);
	return send_values(
		connection, WIRE_PAGES, &pages, sizeof(pages), values, 8 * (size_t)count, error);
}

int connection_send_control(struct connection *connection, const struct cJSON *json,
	uint64_t *ret_sequence, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = json_print(json, false, &text);
	if (r < 0)
		return connection_fail(connection, error, r, NULL, "out of memory");
	if (text.len > WIRE_MAX_CONTROL_BYTES)
		return error_set(error, -E2BIG, NULL, "a message of %zu bytes", text.len);
	r = send_whole(connection, WIRE_CONTROL, text.data, text.len, ret_sequence, error);
	OPENSSL_cleanse(text.data, text.len); /* an enrolment holds its key's secret */
	return r;
}

int connection_send_error(
	struct connection *connection, const char *code, const char *message, const char *mend)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "error");
	if (r == 0)
		r = json_add_text(json, "code", code);
	if (r == 0)
		r = json_add_text(json, "message", message);
	if (r == 0)
		r = json_add_text(json, "mend", mend ? mend : "");
	return r == 0 ? connection_send_control(connection, json, NULL, NULL) : r;
}
