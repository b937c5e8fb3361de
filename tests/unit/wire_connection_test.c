/*
 * replicator/wire/connection and tls, with the authority of replicator/pki: who is let in, what
 * travels both ways at once, and every way in which it ends.
 */
#include "tests/unit/cmocka_common.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/rng.h"
#include "replicator/pki.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/connection_internal.h"

#define HANDSHAKE_MS 20000

struct fixture {
	char directory[64];
	struct pki *pki;
	struct tls_context *server;
};

/* A clock that stands some time away from the real one. */
struct shifted_clock {
	struct clock_source base;
	int64_t shift_ns;
};

static int64_t shifted_realtime(struct clock_source *clock)
{
	return clock_realtime_ns(clock_system()) + ((struct shifted_clock *)clock)->shift_ns;
}

static int64_t shifted_monotonic(struct clock_source *clock)
{
	(void)clock;
	return clock_monotonic_ns(clock_system());
}

static const struct clock_ops shifted_ops = { .realtime_ns = shifted_realtime,
	.monotonic_ns = shifted_monotonic };

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	strcpy(f->directory, "/tmp/landfall-wire-XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	char path[128];
	snprintf(path, sizeof(path), "%s/pki", f->directory);
	struct error error = { 0 };
	int r = pki_new(io_posix(), clock_system(), path, &error, &f->pki);
	if (r < 0)
		fail_msg("%s", error.message);
	assert_int_equal(pki_server_tls(f->pki, NULL, &f->server), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	tls_free(f->server);
	pki_free(f->pki);
	nftw(f->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

/* The context of a machine that has enrolled. */
static struct tls_context *machine_tls(struct fixture *f, struct pki *issuer, const char *name)
{
	char *key = NULL, *csr = NULL, *certificate = NULL;
	struct tls_context *context;
	struct error error = { 0 };
	assert_int_equal(certificate_make_key(&error, &key), 0);
	assert_int_equal(certificate_make_request(key, name, &error, &csr), 0);
	const struct pki_request request = { .machine = name, .key_id = "k1", .csr_pem = csr };
	assert_int_equal(pki_issue(issuer, &request, &error, &certificate), 0);
	const struct tls_client_options options = { .authority_pem = pki_authority_pem(f->pki),
		.certificate_pem = certificate,
		.key_pem = key };
	int r = tls_client_new(&options, &error, &context);
	if (r < 0)
		fail_msg("%s", error.message);
	certificate_wipe(&key);
	free(csr);
	free(certificate);
	return context;
}

struct pair {
	struct connection *server, *client;
	int server_result, client_result;
	struct error server_error, client_error;
	pthread_t thread;
};

static void *serve(void *context)
{
	struct pair *pair = context;
	pair->server_result = connection_handshake(pair->server, HANDSHAKE_MS, &pair->server_error);
	return NULL;
}

/* Both ends of a socket pair, shaken hands on. */
static void open_pair(struct fixture *f, struct tls_context *client, struct pair *pair)
{
	int fds[2];
	*pair = (struct pair){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(connection_accept(f->server, fds[0], NULL, &pair->server), 0);
	assert_int_equal(connection_new(client, fds[1], NULL, &pair->client), 0);
	pthread_create(&pair->thread, NULL, serve, pair);
	pair->client_result = connection_handshake(pair->client, HANDSHAKE_MS, &pair->client_error);
	struct wire_frame frame;
	uint64_t room[64];
	/* A refusal of the client's certificate comes after its own handshake is over. */
	if (pair->client_result == 0)
		pair->client_result = connection_receive(
			pair->client, 50, room, sizeof(room), &frame, &pair->client_error);
	while (pair->client_result == -EAGAIN && pthread_tryjoin_np(pair->thread, NULL) != 0)
		pair->client_result = connection_receive(
			pair->client, 50, room, sizeof(room), &frame, &pair->client_error);
	if (pair->client_result != -EAGAIN)
		pthread_join(pair->thread, NULL);
	else
		pair->client_result = 0;
}

static void close_pair(struct pair *pair)
{
	connection_free(pair->server);
	connection_free(pair->client);
}

static void open_good_pair(struct fixture *f, struct pair *pair)
{
	struct tls_context *client = machine_tls(f, f->pki, "web1");
	open_pair(f, client, pair);
	tls_free(client); /* the connection keeps what it needs */
	if (pair->server_result < 0 || pair->client_result < 0)
		fail_msg("%s, %s", pair->server_error.message, pair->client_error.message);
}

/* ── who is let in ───────────────────────────────────────────────────────────────────────── */

static void a_certificate_tells_the_machine(void **state)
{
	struct pair pair;
	open_good_pair(*state, &pair);
	const struct tls_peer *peer = connection_peer(pair.server);
	assert_true(peer->known);
	assert_string_equal(peer->machine, "web1");
	assert_int_equal(pki_check(((struct fixture *)*state)->pki, peer), 0);
	assert_string_equal(SSL_get_version(pair.server->ssl), "TLSv1.3");
	close_pair(&pair);
}

static void none_is_let_in_unknown(void **state)
{
	struct fixture *f = *state;
	struct tls_context *client;
	struct pair pair;
	const struct tls_client_options options = { .authority_fingerprint =
							    pki_authority_fingerprint(f->pki) };
	assert_int_equal(tls_client_new(&options, NULL, &client), 0);
	open_pair(f, client, &pair);
	assert_int_equal(pair.server_result, 0);
	assert_int_equal(pair.client_result, 0);
	assert_false(connection_peer(pair.server)->known);
	close_pair(&pair);
	tls_free(client);
}

static void refused(struct fixture *f, struct tls_context *client, int server, int agent)
{
	struct pair pair;
	open_pair(f, client, &pair);
	tls_free(client);
	if (pair.server_result != server || pair.client_result != agent)
		fail_msg("%d (%s), %d (%s)", pair.server_result, pair.server_error.message,
			pair.client_result, pair.client_error.message);
	close_pair(&pair);
}

static void another_appliance_is_refused(void **state)
{
	struct fixture *f = *state;
	struct tls_context *client;
	uint8_t wrong[TLS_FINGERPRINT_BYTES] = { 1 };
	const struct tls_client_options options = { .authority_fingerprint = wrong };
	assert_int_equal(tls_client_new(&options, NULL, &client), 0);
	refused(f, client, -EACCES, -EACCES);
}

/* An agent's certificate must not stand for the appliance towards other agents. */
static void an_agent_cannot_be_the_appliance(void **state)
{
	struct fixture *f = *state;
	char *key = NULL, *csr = NULL, *certificate = NULL;
	assert_int_equal(certificate_make_key(NULL, &key), 0);
	assert_int_equal(certificate_make_request(key, "evil", NULL, &csr), 0);
	const struct pki_request request = { "evil", "k1", csr };
	assert_int_equal(pki_issue(f->pki, &request, NULL, &certificate), 0);
	const struct tls_server_options options = { .certificate_pem = certificate,
		.key_pem = key,
		.authority_pem = pki_authority_pem(f->pki),
		.check = pki_check,
		.check_context = f->pki };
	struct fixture evil = { .pki = f->pki };
	assert_int_equal(tls_server_new(&options, NULL, &evil.server), 0);
	refused(&evil, machine_tls(f, f->pki, "web1"), -EACCES, -EACCES);
	struct tls_context *client;
	const struct tls_client_options pinned = { .authority_fingerprint =
							   pki_authority_fingerprint(f->pki) };
	assert_int_equal(tls_client_new(&pinned, NULL, &client), 0);
	refused(&evil, client, -EACCES, -EACCES);
	tls_free(evil.server);
	certificate_wipe(&key);
	free(csr);
	free(certificate);
}

static void a_foreign_authority_is_refused(void **state)
{
	struct fixture *f = *state;
	struct pki *foreign;
	char path[128];
	snprintf(path, sizeof(path), "%s/foreign", f->directory);
	assert_int_equal(pki_new(io_posix(), clock_system(), path, NULL, &foreign), 0);
	refused(f, machine_tls(f, foreign, "web1"), -EACCES, -EACCES);
	pki_free(foreign);
}

static void a_revoked_certificate_is_refused(void **state)
{
	struct fixture *f = *state;
	struct tls_context *other = machine_tls(f, f->pki, "web2");
	struct tls_context *client = machine_tls(f, f->pki, "web1");
	assert_int_equal(pki_revoke_machine(f->pki, "web1", NULL, NULL), 0);
	refused(f, client, -EACCES, -EKEYREVOKED);
	refused(f, other, 0, 0);
}

/* The same authority, whose clock was 200 days behind when it signed. */
static void an_expired_certificate_is_refused(void **state)
{
	struct fixture *f = *state;
	struct shifted_clock clock = { { &shifted_ops }, -200ll * 86400 * NS_PER_S };
	struct pki *past;
	char path[128];
	snprintf(path, sizeof(path), "%s/pki", f->directory);
	assert_int_equal(pki_new(io_posix(), &clock.base, path, NULL, &past), 0);
	refused(f, machine_tls(f, past, "web1"), -EACCES, -EKEYEXPIRED);
	pki_free(past);
}

/* Signed by the authority, but not on the list: from a list that was lost. */
static void what_is_not_listed_is_refused(void **state)
{
	struct fixture *f = *state;
	struct pki *other;
	char path[128];
	snprintf(path, sizeof(path), "%s/pki", f->directory);
	assert_int_equal(pki_new(io_posix(), clock_system(), path, NULL, &other), 0);
	refused(f, machine_tls(f, other, "web1"), -EACCES, -EACCES);
	pki_free(other);
}

/* ── what travels ────────────────────────────────────────────────────────────────────────── */

#define FRAMES 120u

struct traffic {
	struct connection *connection;
	int result;
};

static void fill(uint8_t *payload, uint32_t sectors, unsigned i)
{
	struct rng rng;
	rng_seed(&rng, i);
	rng_fill(&rng, payload, (size_t)sectors * SECTOR_BYTES);
}

static uint32_t sectors_of(unsigned i)
{
	return i % 7 == 0 ? WIRE_MAX_DATA_BYTES / SECTOR_BYTES : 8 * (i % 60 + 1);
}

static void *send_data(void *context)
{
	struct traffic *traffic = context;
	uint8_t *payload = malloc(WIRE_MAX_DATA_BYTES);
	uint64_t hashes[WIRE_CHUNK_PAGES];
	for (unsigned i = 0; i < FRAMES && traffic->result == 0; i++) {
		uint32_t sectors = sectors_of(i);
		fill(payload, sectors, i);
		frame_hash_pages(payload, (size_t)sectors * SECTOR_BYTES, hashes);
		traffic->result = connection_send_data(traffic->connection, 1, 8ull * i, sectors,
			hashes, payload, sectors * SECTOR_BYTES, false, NULL, NULL);
	}
	free(payload);
	return NULL;
}

static void *send_hashes(void *context)
{
	struct traffic *traffic = context;
	uint64_t *values = calloc(WIRE_MAX_CHUNK_HASHES, 16);
	for (unsigned i = 0; i < FRAMES && traffic->result == 0; i++) {
		values[0] = i;
		traffic->result = connection_send_hashes(
			traffic->connection, 1, i, WIRE_MAX_CHUNK_HASHES, values, NULL);
	}
	free(values);
	return NULL;
}

static void *take_hashes(void *context)
{
	struct traffic *traffic = context;
	uint64_t *room = malloc(WIRE_MAX_BODY_BYTES);
	for (unsigned i = 0; i < FRAMES && traffic->result == 0; i++) {
		struct wire_frame frame;
		struct wire_hashes hashes;
		const uint64_t *values;
		traffic->result = connection_receive(
			traffic->connection, HANDSHAKE_MS, room, WIRE_MAX_BODY_BYTES, &frame, NULL);
		if (traffic->result == 0)
			traffic->result = frame_parse_hashes(&frame, room, &hashes, &values, NULL);
		if (traffic->result == 0 && values[0] != i)
			traffic->result = -EILSEQ;
	}
	free(room);
	return NULL;
}

static void take_data(struct connection *connection)
{
	uint64_t *room = malloc(WIRE_MAX_BODY_BYTES);
	uint8_t *payload = malloc(WIRE_MAX_DATA_BYTES);
	for (unsigned i = 0; i < FRAMES; i++) {
		struct wire_frame frame;
		struct frame_data data;
		struct error error = { 0 };
		int r = connection_receive(
			connection, HANDSHAKE_MS, room, WIRE_MAX_BODY_BYTES, &frame, &error);
		if (r < 0)
			fail_msg("frame %u: %s", i, error.message);
		assert_int_equal(frame_parse_data(&frame, room, &data, NULL), 0);
		assert_int_equal(data.lba, 8 * i);
		assert_int_equal(data.sectors, sectors_of(i));
		fill(payload, data.sectors, i);
		assert_memory_equal(data.packed, payload, data.packed_bytes);
		assert_int_equal(frame_prove_data(&data, data.packed, NULL), 0);
	}
	free(room);
	free(payload);
}

/* Both ends send much and receive much at once, and change keys as they go. */
static void both_ways_at_once(void **state)
{
	struct pair pair;
	struct connection_counts counts;
	open_good_pair(*state, &pair);
	pair.client->rekey_bytes = 3 << 20;
	pair.server->rekey_bytes = 1 << 20;
	struct traffic out = { pair.client, 0 }, in = { pair.client, 0 }, back = { pair.server, 0 };
	pthread_t threads[3];
	pthread_create(&threads[0], NULL, send_data, &out);
	pthread_create(&threads[1], NULL, take_hashes, &in);
	pthread_create(&threads[2], NULL, send_hashes, &back);
	take_data(pair.server);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(out.result, 0);
	assert_int_equal(in.result, 0);
	assert_int_equal(back.result, 0);
	connection_counts(pair.server, &counts);
	assert_true(counts.received_frames >= FRAMES);
	assert_true(counts.sent_bytes > FRAMES * WIRE_MAX_CHUNK_HASHES * 16ull);
	close_pair(&pair);
}

static void small_frames_travel(void **state)
{
	struct pair pair;
	struct wire_frame frame;
	struct wire_zero zero;
	struct wire_ack ack;
	const char *type;
	uint64_t room[64], sequence;
	open_good_pair(*state, &pair);
	assert_int_equal(connection_send_zero(pair.client, 2, 40, 16, &sequence, NULL), 0);
	assert_int_equal(sequence, 1);
	assert_int_equal(
		connection_receive(pair.server, 5000, room, sizeof(room), &frame, NULL), 0);
	assert_int_equal(frame_parse_zero(&frame, room, &zero, NULL), 0);
	assert_int_equal(zero.sectors, 16);
	assert_int_equal(connection_send_ack(pair.server, 1, 1 << 20, NULL), 0);
	assert_int_equal(
		connection_receive(pair.client, 5000, room, sizeof(room), &frame, NULL), 0);
	assert_int_equal(frame_parse_ack(&frame, room, &ack, NULL), 0);
	assert_int_equal(ack.sequence, 1);
	assert_int_equal(connection_send_error(pair.server, "tired", "come back later", NULL), 0);
	CLEANUP(json_freep) struct cJSON *json = NULL;
	assert_int_equal(connection_receive_control(pair.client, 5000, &json, &type, NULL), 0);
	assert_string_equal(type, "error");
	assert_int_equal(
		connection_receive(pair.client, 1, room, sizeof(room), &frame, NULL), -EAGAIN);
	close_pair(&pair);
}

/* ── how it ends ─────────────────────────────────────────────────────────────────────────── */

static void *receive_for_ever(void *context)
{
	struct traffic *traffic = context;
	struct wire_frame frame;
	uint64_t room[64];
	do
		traffic->result = connection_receive(
			traffic->connection, -1, room, sizeof(room), &frame, NULL);
	while (traffic->result == 0);
	return NULL;
}

static void *send_for_ever(void *context)
{
	struct traffic *traffic = context;
	uint64_t *values = calloc(WIRE_MAX_CHUNK_HASHES, 16);
	while (traffic->result == 0)
		traffic->result = connection_send_hashes(
			traffic->connection, 1, 0, WIRE_MAX_CHUNK_HASHES, values, NULL);
	free(values);
	return NULL;
}

/* The receiver waits for nothing, the sender for somebody to take it: both come back. */
static void stopping_ends_all_calls(void **state)
{
	struct pair pair;
	open_good_pair(*state, &pair);
	struct traffic receiver = { pair.server, 0 }, sender = { pair.server, 0 };
	pthread_t threads[2];
	struct connection_counts counts = { 0 };
	pthread_create(&threads[0], NULL, receive_for_ever, &receiver);
	pthread_create(&threads[1], NULL, send_for_ever, &sender);
	while (counts.sent_frames < 1) {
		connection_counts(pair.server, &counts);
		usleep(1000);
	}
	connection_stop(pair.server);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	assert_int_equal(receiver.result, -ECANCELED);
	assert_int_equal(sender.result, -ECANCELED);
	close_pair(&pair);
}

static void a_peer_that_is_gone_is_noticed(void **state)
{
	struct pair pair;
	struct wire_frame frame;
	uint64_t room[64];
	open_good_pair(*state, &pair);
	connection_free(pair.client);
	pair.client = NULL;
	assert_int_equal(connection_receive(pair.server, 5000, room, sizeof(room), &frame, NULL),
		-ECONNRESET);
	assert_int_equal(connection_send_ack(pair.server, 1, 1, NULL), -ECONNRESET);
	close_pair(&pair);
}

static void silence_is_asked_and_then_given_up(void **state)
{
	struct pair pair;
	struct wire_frame frame;
	struct connection_counts counts = { 0 };
	uint64_t room[64];
	open_good_pair(*state, &pair);
	struct traffic peer = { pair.client, 0 };
	pthread_t thread;
	pthread_create(&thread, NULL, receive_for_ever, &peer);
	/* As if nothing had been said for a while: PING goes out, PONG comes. */
	atomic_fetch_sub(&pair.server->said_ns, (CONNECTION_PING_MS + 1000) * NS_PER_MS);
	for (unsigned i = 0; i < 100 && counts.received_frames == 0; i++) {
		assert_int_equal(
			connection_receive(pair.server, 50, room, sizeof(room), &frame, NULL),
			-EAGAIN);
		connection_counts(pair.server, &counts);
	}
	assert_int_equal(counts.sent_frames, 1);
	assert_int_equal(counts.received_frames, 1);
	/* As if nothing had been heard for longer. */
	atomic_fetch_sub(&pair.server->heard_ns, (CONNECTION_DEAD_MS + 1000) * NS_PER_MS);
	assert_int_equal(connection_receive(pair.server, 5000, room, sizeof(room), &frame, NULL),
		-ETIMEDOUT);
	connection_stop(pair.client);
	pthread_join(thread, NULL);
	assert_int_equal(peer.result, -ECANCELED);
	close_pair(&pair);
}

/* What a full socket did not take at once goes out as soon as it does, though nobody sends any
 * more. */
static void nothing_is_left_behind(void **state)
{
	struct pair pair;
	struct wire_frame frame;
	struct wire_zero zero = { .disk = 1, .sectors = 8 };
	uint64_t room[64];
	unsigned sent = 0, taken = 0;
	open_good_pair(*state, &pair);
	pthread_mutex_lock(&pair.client->send_lock);
	for (int r = 0; r == 0; sent++) {
		frame_make(WIRE_ZERO, 0, ++pair.client->send_sequence, sizeof(zero), &zero,
			sizeof(zero), &frame);
		assert_int_equal(connection_tls_write(pair.client, &frame, sizeof(frame), NULL), 0);
		assert_int_equal(connection_tls_write(pair.client, &zero, sizeof(zero), NULL), 0);
		r = connection_flush(pair.client, false, NULL);
		assert_true(r == 0 || r == -EAGAIN);
	}
	pthread_mutex_unlock(&pair.client->send_lock);
	for (unsigned i = 0; i < 200 && taken < sent; i++) {
		while (connection_receive(pair.server, 10, room, sizeof(room), &frame, NULL) == 0)
			taken++;
		assert_int_equal(
			connection_receive(pair.client, 10, room, sizeof(room), &frame, NULL),
			-EAGAIN);
	}
	assert_int_equal(taken, sent);
	close_pair(&pair);
}

static void a_last_word_is_heard(void **state)
{
	struct pair pair;
	const char *type;
	open_good_pair(*state, &pair);
	/* It is still sending when we end. */
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(connection_send_zero(pair.client, 0, 0, 8, NULL, NULL), 0);
	assert_int_equal(connection_send_error(pair.server, "enough", "no more", "go"), 0);
	connection_finish(pair.server, 1);
	connection_free(pair.server);
	pair.server = NULL;
	CLEANUP(json_freep) struct cJSON *json = NULL;
	assert_int_equal(connection_receive_control(pair.client, 5000, &json, &type, NULL), 0);
	assert_string_equal(type, "error");
	close_pair(&pair);
}

/* Bytes that are no TLS, and none at all. */
static void strangers_are_sent_away(void **state)
{
	static const char *const greetings[] = { "GET / HTTP/1.1\r\n\r\n",
		"\x16\x03\x01\xff\xff\xff\xff\xff\xff", "" };
	struct fixture *f = *state;
	for (size_t i = 0; i < ARRAY_SIZE(greetings); i++) {
		struct connection *server;
		int fds[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
		assert_int_equal(connection_accept(f->server, fds[0], NULL, &server), 0);
		ssize_t n = (ssize_t)strlen(greetings[i]);
		assert_int_equal(write(fds[1], greetings[i], (size_t)n), n);
		int64_t start = connection_now_ns();
		int r = connection_handshake(server, 300, NULL);
		assert_true(r == -EPROTO || (r == -ETIMEDOUT && i > 0));
		assert_true(connection_now_ns() - start < 5 * NS_PER_S);
		connection_free(server);
		close(fds[1]);
	}
}

/* A message that comes too slowly, and PINGs instead of one. */
static void the_first_word_has_a_deadline(void **state)
{
	struct pair pair;
	struct cJSON *json;
	const char *type;
	open_good_pair(*state, &pair);
	for (unsigned i = 0; i < 50; i++) {
		atomic_store(&pair.client->ping_due, true);
		connection_say(pair.client);
	}
	assert_int_equal(
		connection_receive_control(pair.server, 200, &json, &type, NULL), -ETIMEDOUT);
	close_pair(&pair);
}

static void rubbish_within_tls_is_an_end(void **state)
{
	struct pair pair;
	struct wire_frame frame;
	uint64_t room[64];
	uint8_t rubbish[sizeof(frame)];
	open_good_pair(*state, &pair);
	memset(rubbish, 0x5a, sizeof(rubbish));
	assert_int_equal(connection_tls_write(pair.client, rubbish, sizeof(rubbish), NULL), 0);
	assert_int_equal(connection_flush(pair.client, true, NULL), 0);
	assert_int_equal(
		connection_receive(pair.server, 5000, room, sizeof(room), &frame, NULL), -EBADMSG);
	assert_int_equal(connection_send_ack(pair.server, 1, 1, NULL), -EBADMSG);
	close_pair(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(a_certificate_tells_the_machine),
		TEST(none_is_let_in_unknown),
		TEST(another_appliance_is_refused),
		TEST(an_agent_cannot_be_the_appliance),
		TEST(a_foreign_authority_is_refused),
		TEST(a_revoked_certificate_is_refused),
		TEST(an_expired_certificate_is_refused),
		TEST(what_is_not_listed_is_refused),
		TEST(both_ways_at_once),
		TEST(small_frames_travel),
		TEST(stopping_ends_all_calls),
		TEST(a_peer_that_is_gone_is_noticed),
		TEST(silence_is_asked_and_then_given_up),
		TEST(nothing_is_left_behind),
		TEST(a_last_word_is_heard),
		TEST(strangers_are_sent_away),
		TEST(the_first_word_has_a_deadline),
		TEST(rubbish_within_tls_is_an_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
