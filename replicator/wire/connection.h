/*
 * A connection: frames over TLS over TCP.
 *
 * One thread may receive while others send. Whoever sends may be any thread: a frame is sent
 * whole before the next one begins, in the order in which the calls came in. Receiving is for one
 * thread at a time.
 *
 *	appliance: connection_accept, handshake ┐                       ┌ finish
 *	                                        ├ receive … send … stop? ┤
 *	agent:     connection_connect           ┘                       └ free
 *
 * A peer is dead when nothing has come from it for CONNECTION_DEAD_MS. Each side says PING when it
 * has said nothing for CONNECTION_PING_MS; that, and answering, is done within receive. So the
 * receiving thread must not be away from receive for longer than a few seconds: take what comes
 * and queue it (the window bounds how much that is), or call connection_keep_alive meanwhile.
 *
 * Every failure is final: the connection is of no use after it, and every later call fails with
 * the first failure's code. Codes: -ECONNRESET the peer is gone (an orderly end included);
 * -ETIMEDOUT it is dead or a deadline passed; -ECANCELED connection_stop; -EBADMSG it sent what
 * is no frame; -EPROTO TLS refused something; -EACCES the peer refused our certificate, or we its;
 * -EKEYEXPIRED, -EKEYREVOKED: it said why; -ENOMEM.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/wire/frame.h"
#include "replicator/wire/tls.h"

#define CONNECTION_PING_MS 8000
#define CONNECTION_DEAD_MS 25000

#define CONNECTION_ADDRESS_BYTES 64

struct connection;
struct cJSON;

/* Wraps an accepted socket, which is taken over unless it fails. Nothing is said yet, so that
 * connection_stop has something to stop from here on. */
int connection_accept(struct tls_context *context, int fd, struct error *error,
	struct connection **ret_connection);
/* Then the server's part of the handshake, for `timeout_ms` altogether. */
int connection_handshake(struct connection *connection, int timeout_ms, struct error *error);

/* Connects to HOST:PORT ([v6]:PORT) and does the client's part, for `timeout_ms` altogether, every
 * address of the name tried in turn. Can be stopped from another thread by writing to `stop_fd`
 * (readable: stop; -1: none). */
int connection_connect(struct tls_context *context, const char *address, int timeout_ms,
	int stop_fd, struct error *error, struct connection **ret_connection);

/* After all threads have left it. NULL is fine. Does not wait for anything. */
void connection_free(struct connection *connection);

/* Makes every call under way and every later one fail with -ECANCELED at once. Any thread, any
 * time between new and free. */
void connection_stop(struct connection *connection);

/* The orderly end, by the thread that receives: tells TLS that nothing more will come, and waits up
 * to `timeout_ms` for the peer to end too, throwing away what it still sends. So the peer reads
 * our last frame (an `error`, a `bye`) rather than a reset. */
void connection_finish(struct connection *connection, int timeout_ms);

/* ── receiving ───────────────────────────────────────────────────────────────────────────── */

/* The next frame that is not PING or PONG: its header to `*ret_frame`, its body to `room`, aligned
 * to 8 bytes, of `room_bytes`; WIRE_MAX_BODY_BYTES are always enough, and a smaller room makes
 * larger frames an error (-EMSGSIZE). Header and body_checksum are checked, what the body says is
 * not. -EAGAIN: no frame began within `timeout_ms` (negative: no limit); this one is no failure. */
int connection_receive(struct connection *connection, int timeout_ms, void *room, size_t room_bytes,
	struct wire_frame *ret_frame, struct error *error);

/* The next frame, which must be a CONTROL: its document and type (frame_parse_control). For the
 * beginning of conversations. */
int connection_receive_control(struct connection *connection, int timeout_ms,
	struct cJSON **ret_json, const char **ret_type, struct error *error);

/* ── sending ─────────────────────────────────────────────────────────────────────────────── */

/* All return when the kernel has taken all of the frame; `*ret_sequence` (may be NULL) is its
 * number. They wait as long as the peer takes its time, but lives. */

/* A DATA. `packed` is the payload (or its zstd frame if `zstd`), sent from where it is. */
int connection_send_data(struct connection *connection, uint16_t disk, uint64_t lba,
	uint32_t sectors, const uint64_t *hashes, const void *packed, uint32_t packed_bytes,
	bool zstd, uint64_t *ret_sequence, struct error *error);
int connection_send_zero(struct connection *connection, uint16_t disk, uint64_t lba,
	uint64_t sectors, uint64_t *ret_sequence, struct error *error);
int connection_send_ack(struct connection *connection, uint64_t sequence, uint64_t window_bytes,
	struct error *error);
/* `values`: count × {low, high}, and count. */
int connection_send_hashes(struct connection *connection, uint16_t disk, uint64_t first_chunk,
	uint32_t count, const uint64_t *values, struct error *error);
int connection_send_pages(struct connection *connection, uint16_t disk, uint64_t chunk,
	uint32_t count, const uint64_t *values, struct error *error);
/* A CONTROL; `json` is borrowed. -E2BIG: its text is longer than WIRE_MAX_CONTROL_BYTES; that one
 * is no failure of the connection. */
int connection_send_control(struct connection *connection, const struct cJSON *json,
	uint64_t *ret_sequence, struct error *error);
/* An `error` message: code is a word, mend may be NULL. */
int connection_send_error(
	struct connection *connection, const char *code, const char *message, const char *mend);

/* Says PING if it is due. For whoever keeps the receiving thread from receiving. Any thread; does
 * not wait. */
void connection_keep_alive(struct connection *connection);

/* Says PING now, and tells how long nothing has been heard of the peer. Any thread; does not wait.
 */
int64_t connection_probe(struct connection *connection);

/* 0 while the connection is of use; else the failure that ended it (connection_stop too), for
 * whoever keeps the receiving thread from receiving. Any thread; does not wait. */
int connection_failed(struct connection *connection, struct error *error);

/* ── knowing ─────────────────────────────────────────────────────────────────────────────── */

/* The other end's certificate; does not change. */
const struct tls_peer *connection_peer(const struct connection *connection);
/* "192.0.2.7:40112", for logs. */
const char *connection_address(const struct connection *connection);

struct connection_counts {
	uint64_t sent_bytes, received_bytes; /* of TCP's payload, TLS included */
	uint64_t sent_frames, received_frames;
	int64_t blocked_ns; /* that senders waited for the network to take what they had */
};
/* Any thread. */
void connection_counts(const struct connection *connection, struct connection_counts *ret_counts);
