/*
 * What a connection carries on loopback, beside raw TLS of the same library in the same run.
 *
 *	wire_bench
 *
 * Prints one JSON object a line as fs_bench does. The raw side is a blocking SSL_write of 16 KiB
 * records on one end and SSL_read on the other, with the same cipher; ours sends DATA frames of
 * 256 KiB whose pages are hashed by the sender and proven by the receiver. Slices take turns, and
 * ratios are of medians.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/rng.h"
#include "replicator/pki.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/connection_internal.h"

#define SLICES 9
#define SLICE_BYTES (512u << 20)
#define FRAME_BYTES (256u << 10)

static void need(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "wire_bench: %s\n", what);
		exit(1);
	}
}

struct ends {
	struct tls_context *server, *client;
	int fds[2];
	uint8_t *data;
	bool proven;
};

static void open_sockets(struct ends *ends)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	need(bind(listener, (struct sockaddr *)&address, n) == 0 && listen(listener, 1) == 0 &&
			getsockname(listener, (struct sockaddr *)&address, &n) == 0,
		"no port");
	ends->fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	need(connect(ends->fds[1], (struct sockaddr *)&address, n) == 0, "no connection");
	ends->fds[0] = accept(listener, NULL, NULL);
	close(listener);
}

/* ── raw ─────────────────────────────────────────────────────────────────────────────────── */

static void *raw_receive(void *context)
{
	struct ends *ends = context;
	SSL *ssl = SSL_new(tls_library_context(ends->server));
	char *room = malloc(1 << 20);
	size_t done = 0;
	SSL_set_fd(ssl, ends->fds[0]);
	need(SSL_accept(ssl) == 1, "raw accept");
	for (int n; done < SLICE_BYTES && (n = SSL_read(ssl, room, 1 << 20)) > 0;)
		done += (size_t)n;
	need(done == SLICE_BYTES, "raw read");
	need(SSL_write(ssl, "", 1) == 1, "raw answer");
	SSL_free(ssl);
	free(room);
	close(ends->fds[0]);
	return NULL;
}

static double raw(struct ends *ends)
{
	pthread_t thread;
	char answer;
	open_sockets(ends);
	pthread_create(&thread, NULL, raw_receive, ends);
	SSL *ssl = SSL_new(tls_library_context(ends->client));
	SSL_set_fd(ssl, ends->fds[1]);
	need(SSL_connect(ssl) == 1, "raw connect");
	int64_t start = connection_now_ns();
	for (size_t done = 0; done < SLICE_BYTES; done += CONNECTION_RECORD_BYTES)
		need(SSL_write(ssl, ends->data + done % FRAME_BYTES, CONNECTION_RECORD_BYTES) > 0,
			"raw write");
	need(SSL_read(ssl, &answer, 1) == 1, "raw read of the answer");
	double seconds = (double)(connection_now_ns() - start) / 1e9;
	pthread_join(thread, NULL);
	SSL_free(ssl);
	close(ends->fds[1]);
	return SLICE_BYTES / seconds / 1e6;
}

/* ── ours ────────────────────────────────────────────────────────────────────────────────── */

static void *our_receive(void *context)
{
	struct ends *ends = context;
	struct connection *connection;
	struct error error = { 0 };
	uint64_t *room = malloc(WIRE_MAX_BODY_BYTES);
	need(connection_accept(ends->server, ends->fds[0], NULL, &connection) == 0, "accept");
	need(connection_handshake(connection, 10000, &error) == 0, error.message);
	for (size_t done = 0; done < SLICE_BYTES; done += FRAME_BYTES) {
		struct wire_frame frame;
		struct frame_data data;
		need(connection_receive(
			     connection, 10000, room, WIRE_MAX_BODY_BYTES, &frame, &error) == 0,
			error.message);
		need(frame_parse_data(&frame, room, &data, NULL) == 0, "no data");
		if (ends->proven)
			need(frame_prove_data(&data, data.packed, NULL) == 0, "not proven");
	}
	need(connection_send_ack(connection, 1, 1, NULL) == 0, "ack");
	connection_finish(connection, 1000);
	connection_free(connection);
	free(room);
	return NULL;
}

static double ours(struct ends *ends, bool proven)
{
	pthread_t thread;
	struct connection *connection;
	struct error error = { 0 };
	struct wire_frame frame;
	uint64_t hashes[FRAME_BYTES / WIRE_PAGE_BYTES] = { 0 }, room[8];
	ends->proven = proven;
	open_sockets(ends);
	pthread_create(&thread, NULL, our_receive, ends);
	need(connection_new(ends->client, ends->fds[1], NULL, &connection) == 0, "new");
	need(connection_handshake(connection, 10000, &error) == 0, error.message);
	int64_t start = connection_now_ns();
	for (size_t done = 0; done < SLICE_BYTES; done += FRAME_BYTES) {
		if (proven)
			frame_hash_pages(ends->data, FRAME_BYTES, hashes);
		need(connection_send_data(connection, 0, done / SECTOR_BYTES,
			     FRAME_BYTES / SECTOR_BYTES, hashes, ends->data, FRAME_BYTES, false,
			     NULL, &error) == 0,
			error.message);
	}
	need(connection_receive(connection, 10000, room, sizeof(room), &frame, &error) == 0,
		error.message);
	double seconds = (double)(connection_now_ns() - start) / 1e9;
	connection_free(connection);
	pthread_join(thread, NULL);
	return SLICE_BYTES / seconds / 1e6;
}

/* ── the run ─────────────────────────────────────────────────────────────────────────────── */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, SLICES, sizeof(*values), compare);
	return values[SLICES / 2];
}

static void make_contexts(struct pki *pki, struct ends *ends)
{
	const struct tls_client_options options = { .authority_pem = pki_authority_pem(pki) };
	need(pki_server_tls(pki, NULL, &ends->server) == 0, "no server");
	need(tls_client_new(&options, NULL, &ends->client) == 0, "no client");
}

int main(void)
{
	char directory[] = "/tmp/landfall-bench-XXXXXX", command[96];
	double raw_rate[SLICES], bare_rate[SLICES], proven_rate[SLICES];
	struct ends ends = { .data = malloc(FRAME_BYTES) };
	struct rng rng;
	struct pki *pki;
	need(ends.data && mkdtemp(directory), "no memory, no directory");
	rng_seed(&rng, 1);
	rng_fill(&rng, ends.data, FRAME_BYTES);
	need(pki_new(io_posix(), clock_system(), directory, NULL, &pki) == 0, "no authority");
	make_contexts(pki, &ends);
	for (unsigned i = 0; i < SLICES; i++) {
		raw_rate[i] = raw(&ends);
		bare_rate[i] = ours(&ends, false);
		proven_rate[i] = ours(&ends, true);
	}
	double base = median(raw_rate), bare = median(bare_rate), proven = median(proven_rate);
	printf("{\"figure\": \"wire frames / raw TLS\", \"value\": %.2f, \"unit\": \"ratio\", "
	       "\"goal\": \">= 0.8\", \"met\": %s, \"detail\": \"%.0f of %.0f MB/s on "
	       "loopback\"}\n",
		bare / base, bare >= 0.8 * base ? "true" : "false", bare, base);
	printf("{\"figure\": \"wire frames, hashed and proven / raw TLS\", \"value\": %.2f, "
	       "\"unit\": \"ratio\", \"goal\": \">= 0.8\", \"met\": %s, \"detail\": \"%.0f of %.0f "
	       "MB/s on loopback\"}\n",
		proven / base, proven >= 0.8 * base ? "true" : "false", proven, base);
	tls_free(ends.server);
	tls_free(ends.client);
	pki_free(pki);
	free(ends.data);
	snprintf(command, sizeof(command), "rm -rf %s", directory);
	return system(command) == 0 ? 0 : 1;
}
