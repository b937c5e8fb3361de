/*
 * The inside of a connection, shared by the files that make it up and nobody else:
 *
 *	connection.c          life: accept, handshake, stop, finish, free; failures
 *	connection_connect.c  addresses, the agent's way in
 *	connection_tls.c      the library, fed from memory
 *	connection_send.c     frames out, PING and PONG
 *	connection_receive.c  frames in, who is dead
 *
 * The library's object for a connection is not for two threads, and its reads and writes would
 * wait for the network while holding it. So it never sees the socket: it decrypts from one buffer
 * and encrypts into another, under tls_lock, which is held for computing only. The receiving
 * thread fills the first buffer from the socket, whoever sends empties the second, both without
 * that lock.
 *
 *	            ┌ tls_lock ┐
 *	recv → in → │   SSL    │ → body           (receiving thread)
 *	data ─────→ │   SSL    │ → out ⇄ leaving → send   (who holds send_lock)
 *	            └──────────┘
 *
 * Locks, in their order: send_lock (a frame at a time; waits for the network), tls_lock,
 * failure_lock. The receiving thread never waits for send_lock: what it has to say (PING, PONG) is
 * noted, and said by it if the lock is free, else by the one who holds it, after its frame.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include <openssl/ssl.h>

#include "common/cleanup.h"
#include "replicator/wire/connection.h"

#define CONNECTION_RECORD_BYTES 16384u
#define CONNECTION_PIECE_BYTES (64u << 10)  /* encrypted under one hold of tls_lock */
#define CONNECTION_BATCH_BYTES (192u << 10) /* sent at once */
#define CONNECTION_IN_BYTES (256u << 10)
#define CONNECTION_TICK_MS 1000
/* One key protects no more than this: well below the bound of RFC 8446, 5.5. */
#define CONNECTION_REKEY_BYTES (64ull << 30)

enum tls_result {
	TLS_DONE,
	TLS_WANTS_INPUT,
	TLS_ENDED,  /* the peer said that nothing more will come */
	TLS_FAILED, /* `error` tells */
};

/* Ciphertext on its way. */
struct wire_buffer {
	uint8_t *data; /* owned */
	size_t start, end, capacity;
};

struct connection {
	int fd;
	int stop_fd; /* while connecting: readable means stop; else -1 */
	bool server;
	bool ready; /* the handshake is over */
	enum wire_side side;
	char address[CONNECTION_ADDRESS_BYTES];
	struct tls_peer peer;

	pthread_mutex_t send_lock;
	struct wire_buffer leaving; /* under send_lock */
	uint64_t send_sequence;     /* under send_lock: of the last frame */
	uint64_t key_bytes;         /* under send_lock: encrypted since the last change of keys */
	uint64_t rekey_bytes;
	uint8_t head[sizeof(struct wire_frame) + WIRE_DATA_HEAD_BYTES(WIRE_CHUNK_PAGES)];

	pthread_mutex_t tls_lock;
	SSL *ssl;
	BIO_METHOD *method;
	struct wire_buffer in; /* beyond `end` it is the receiving thread's, without the lock */
	struct wire_buffer out;

	/* The receiving thread's. */
	uint64_t receive_sequence;
	struct wire_frame header;
	size_t header_bytes;
	enum tls_result later; /* what came after bytes that were read first; TLS_DONE: nothing */
	struct error later_words;

	pthread_mutex_t failure_lock;
	struct error failure_words; /* of the first failure */
	atomic_bool provisional;    /* the receiving thread may find out more */
	atomic_int failure;         /* 0: none */

	atomic_bool ping_due, pong_due;
	atomic_bool left_behind; /* the socket was full: `leaving` holds something */
	atomic_llong heard_ns, said_ns, progress_ns; /* monotonic */
	atomic_ullong sent_bytes, received_bytes, sent_frames, received_frames;
	atomic_llong blocked_ns;
};

int64_t connection_now_ns(void);

/* ── connection.c ────────────────────────────────────────────────────────────────────────── */

int connection_new(struct tls_context *context, int fd, struct error *error,
	struct connection **ret_connection);

/* Notes a failure unless there is one, and is the first one's code; `error` gets its words. */
int connection_fail(struct connection *connection, struct error *error, int code, const char *mend,
	const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The same for a sender that met a reset: the receiving thread, which may still read why, does not
 * take it for final. */
int connection_fail_sending(struct connection *connection, struct error *error, int code);

/* Waits until the socket can do `events`, for `timeout_ms` at most. 1 it can, 0 time is over,
 * -ECANCELED by stop_fd. */
int connection_poll(struct connection *connection, short events, int timeout_ms);

/* ── connection_tls.c ────────────────────────────────────────────────────────────────────── */

int wire_buffer_reserve(struct wire_buffer *buffer, size_t more);
void wire_buffer_free(struct wire_buffer *buffer);

/* Makes the library's object on top of `in` and `out`. -ENOMEM. */
int connection_tls_new(struct connection *connection, SSL_CTX *library);
void connection_tls_free(struct connection *connection);

/* One step of each, under tls_lock. */
enum tls_result connection_tls_handshake(struct connection *connection, struct error *error);
enum tls_result connection_tls_read(
	struct connection *connection, void *data, size_t n, size_t *ret_n, struct error *error);
/* All of it goes to `out`, in pieces. Under send_lock. */
int connection_tls_write(
	struct connection *connection, const void *data, size_t n, struct error *error);
/* Tells the peer that nothing more will come. */
void connection_tls_end(struct connection *connection);

/* ── connection_send.c ───────────────────────────────────────────────────────────────────── */

/* Moves what was encrypted to the socket; under send_lock. `wait` false: as much as it takes. */
int connection_flush(struct connection *connection, bool wait, struct error *error);
/* Says what is due if nobody is saying anything. Does not wait. */
void connection_say(struct connection *connection);

/* ── connection_receive.c ────────────────────────────────────────────────────────────────── */

/* Reads what the socket has into `in`. 0 something came; -EAGAIN `deadline_ns` (monotonic; 0:
 * none) is over; else the connection has failed. */
int connection_fill(struct connection *connection, int64_t deadline_ns, struct error *error);
