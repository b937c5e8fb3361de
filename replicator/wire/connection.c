/*
 * Life of a connection: made, shaken hands on, stopped, ended, freed. connection_internal.h tells
 * how it works inside.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <fcntl.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/connection_internal.h"

/* What a peer that was refused may still send before the socket is closed on it. */
#define REFUSAL_MS 500

int64_t connection_now_ns(void)
{
	return clock_monotonic_ns(clock_system());
}

/* ── failures ────────────────────────────────────────────────────────────────────────────── */

int connection_fail(struct connection *connection, struct error *error, int code, const char *mend,
	const char *format, ...)
{
	char text[sizeof(connection->failure_words.message)];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	pthread_mutex_lock(&connection->failure_lock);
	if (atomic_load(&connection->failure) == 0 || atomic_load(&connection->provisional)) {
		error_fill(&connection->failure_words, code, mend, "%s", text);
		atomic_store(&connection->provisional, false);
		atomic_store(&connection->failure, code);
	}
	pthread_mutex_unlock(&connection->failure_lock);
	return connection_failed(connection, error);
}

int connection_fail_sending(struct connection *connection, struct error *error, int code)
{
	pthread_mutex_lock(&connection->failure_lock);
	if (atomic_load(&connection->failure) == 0) {
		error_fill(&connection->failure_words, code, NULL, "%s: %s", connection->address,
			strerrordesc_np(-code));
		atomic_store(&connection->provisional, true);
		atomic_store(&connection->failure, code);
	}
	pthread_mutex_unlock(&connection->failure_lock);
	return connection_failed(connection, error);
}

int connection_failed(struct connection *connection, struct error *error)
{
	int code = atomic_load(&connection->failure);
	if (code == 0 || !error)
		return code;
	SCOPED_LOCK(&connection->failure_lock);
	*error = connection->failure_words;
	return error->code;
}

/* ── making ──────────────────────────────────────────────────────────────────────────────── */

static void name_peer(int fd, char ret_address[static CONNECTION_ADDRESS_BYTES])
{
	struct sockaddr_storage peer;
	socklen_t n = sizeof(peer);
	char host[NI_MAXHOST], port[NI_MAXSERV];
	snprintf(ret_address, CONNECTION_ADDRESS_BYTES, "an unknown address");
	if (getpeername(fd, (struct sockaddr *)&peer, &n) == 0 &&
		(peer.ss_family == AF_INET || peer.ss_family == AF_INET6) &&
		getnameinfo((struct sockaddr *)&peer, n, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(ret_address, CONNECTION_ADDRESS_BYTES,
			peer.ss_family == AF_INET6 ? "[%.47s]:%s" : "%.47s:%s", host, port);
}

static int set_socket(int fd)
{
	int flags = fcntl(fd, F_GETFL), on = 1;
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	/* Both may fail on what is no TCP socket, as in tests. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	return 0;
}

int connection_new(struct tls_context *context, int fd, struct error *error,
	struct connection **ret_connection)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	if (!connection)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	connection->fd = -1;
	connection->stop_fd = -1;
	connection->server = tls_is_server(context);
	connection->side = connection->server ? WIRE_APPLIANCE : WIRE_AGENT;
	connection->rekey_bytes = CONNECTION_REKEY_BYTES;
	pthread_mutex_init(&connection->send_lock, NULL);
	pthread_mutex_init(&connection->tls_lock, NULL);
	pthread_mutex_init(&connection->failure_lock, NULL);
	int64_t now = connection_now_ns();
	atomic_store(&connection->heard_ns, now);
	atomic_store(&connection->said_ns, now);
	atomic_store(&connection->progress_ns, now);
	int r = set_socket(fd);
	if (r == 0)
		r = connection_tls_new(connection, tls_library_context(context));
	if (r < 0) {
		connection_free(connection);
		return error_set(
			error, r, NULL, "cannot set up a connection: %s", strerrordesc_np(-r));
	}
	connection->fd = fd;
	name_peer(fd, connection->address);
	*ret_connection = connection;
	return 0;
}

int connection_accept(struct tls_context *context, int fd, struct error *error,
	struct connection **ret_connection)
{
	return connection_new(context, fd, error, ret_connection);
}

void connection_free(struct connection *connection)
{
	if (!connection)
		return;
	connection_tls_free(connection);
	wire_buffer_free(&connection->in);
	wire_buffer_free(&connection->out);
	wire_buffer_free(&connection->leaving);
	cleanup_close(&connection->fd);
	pthread_mutex_destroy(&connection->send_lock);
	pthread_mutex_destroy(&connection->tls_lock);
	pthread_mutex_destroy(&connection->failure_lock);
	free(connection);
}

int connection_poll(struct connection *connection, short events, int timeout_ms)
{
	struct pollfd polls[2] = {
		{ .fd = connection->fd, .events = events },
		{ .fd = connection->stop_fd, .events = POLLIN },
	};
	int n = poll(polls, connection->stop_fd >= 0 ? 2 : 1, timeout_ms);
	if (n > 0 && polls[1].revents)
		return -ECANCELED;
	return n > 0;
}

/* ── the handshake ───────────────────────────────────────────────────────────────────────── */

static int know_peer(struct connection *connection, struct error *error)
{
	const unsigned char *alpn;
	unsigned n;
	SSL_get0_alpn_selected(connection->ssl, &alpn, &n);
	if (n != strlen(TLS_ALPN) || memcmp(alpn, TLS_ALPN, n) != 0)
		return connection_fail(connection, error, -EPROTO,
			"see that it is the appliance's port for agents",
			"%s: the other end does not speak " TLS_ALPN, connection->address);
	X509 *certificate = SSL_get1_peer_certificate(connection->ssl);
	if (!certificate)
		return 0;
	struct certificate_facts facts;
	int r = certificate_read_x509(certificate, &facts);
	X509_free(certificate);
	if (r < 0)
		return connection_fail(connection, error, -EACCES, NULL,
			"%s: a certificate that cannot be read", connection->address);
	connection->peer.known = true;
	memcpy(connection->peer.machine, facts.name, sizeof(facts.name));
	memcpy(connection->peer.serial, facts.serial, sizeof(facts.serial));
	memcpy(connection->peer.key, facts.key, sizeof(facts.key));
	return 0;
}

static int shake_hands(struct connection *connection, int64_t deadline_ns, struct error *error)
{
	for (;;) {
		struct error words = { 0 };
		enum tls_result result = connection_tls_handshake(connection, &words);
		pthread_mutex_lock(&connection->send_lock);
		int r = connection_flush(connection, false, result == TLS_FAILED ? NULL : error);
		pthread_mutex_unlock(&connection->send_lock);
		if (result == TLS_FAILED)
			return connection_fail(connection, error, words.code, words.mend, "%s: %s",
				connection->address, words.message);
		if (r < 0 && r != -EAGAIN && !atomic_load(&connection->provisional))
			return r;
		if (result == TLS_DONE && r == 0)
			return 0;
		if (result == TLS_DONE)
			r = connection_poll(connection, POLLOUT, CONNECTION_TICK_MS);
		else
			r = connection_fill(connection, deadline_ns, error);
		if (r == -EAGAIN || connection_now_ns() > deadline_ns)
			return connection_fail(connection, error, -ETIMEDOUT, NULL,
				"%s: the TLS handshake took too long", connection->address);
		if (r < 0)
			return connection_fail(connection, error, r, NULL, "%s: %s",
				connection->address, strerrordesc_np(-r));
	}
}

int connection_handshake(struct connection *connection, int timeout_ms, struct error *error)
{
	int64_t deadline_ns = connection_now_ns() + timeout_ms * NS_PER_MS;
	int r = connection_failed(connection, error);
	if (r == 0)
		r = shake_hands(connection, deadline_ns, error);
	if (r == 0)
		r = know_peer(connection, error);
	connection->ready = r == 0;
	if (r == -EACCES || r == -EPROTO)
		connection_finish(connection, REFUSAL_MS); /* so that it reads why */
	return r;
}

/* ── ends ────────────────────────────────────────────────────────────────────────────────── */

void connection_stop(struct connection *connection)
{
	(void)connection_fail(connection, NULL, -ECANCELED, NULL, "%s: the connection was ended",
		connection->address);
	(void)shutdown(connection->fd, SHUT_RDWR);
}

void connection_finish(struct connection *connection, int timeout_ms)
{
	int64_t deadline_ns = connection_now_ns() + timeout_ms * NS_PER_MS;
	if (atomic_load(&connection->failure) != -ECANCELED &&
		pthread_mutex_trylock(&connection->send_lock) == 0) {
		connection_tls_end(connection);
		(void)connection_flush(connection, false, NULL);
		pthread_mutex_unlock(&connection->send_lock);
	}
	(void)connection_fail(connection, NULL, -ECONNRESET, NULL, "%s: the connection has ended",
		connection->address);
	(void)shutdown(connection->fd, SHUT_WR);
	char rest[4096];
	for (;;) {
		ssize_t n = recv(connection->fd, rest, sizeof(rest), MSG_DONTWAIT);
		int64_t left = deadline_ns - connection_now_ns();
		if (n == 0 || left <= 0 || (n < 0 && errno != EAGAIN && errno != EINTR) ||
			atomic_load(&connection->failure) == -ECANCELED)
			return;
		if (n < 0 && connection_poll(connection, POLLIN,
				     (int)MIN(left / NS_PER_MS + 1, CONNECTION_TICK_MS)) < 0)
			return;
	}
}

/* ── knowing ─────────────────────────────────────────────────────────────────────────────── */

const struct tls_peer *connection_peer(const struct connection *connection)
{
	return &connection->peer;
}

const char *connection_address(const struct connection *connection)
{
	return connection->address;
}

void connection_counts(const struct connection *connection, struct connection_counts *ret_counts)
{
	*ret_counts = (struct connection_counts){
		.sent_bytes = atomic_load(&connection->sent_bytes),
		.received_bytes = atomic_load(&connection->received_bytes),
		.sent_frames = atomic_load(&connection->sent_frames),
		.received_frames = atomic_load(&connection->received_frames),
		.blocked_ns = atomic_load(&connection->blocked_ns),
	};
}
