/*
 * A client at the agents' door that says anything: through real TLS, to the real listener with an
 * authority, keys and enrolment behind it.
 *
 * The first byte: bit 0 with a machine's certificate, bit 1 raw bytes instead of a frame's body,
 * bit 2 rubbish in place of the handshake. The rest is said. Whatever it was, the door must end the
 * connection by itself, nobody may be enrolled by it, and the next one is served.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/log.h"
#include "replicator/agents_internal.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/connection_internal.h"

#define END_MS 30000

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct door {
	char directory[64], address[64];
	struct agents *agents;
	struct tls_context *stranger, *machine;
} door;

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "%s\n", what);
		abort();
	}
}

static int may_enroll(void *context, const char *machine, struct error *error)
{
	(void)context, (void)machine, (void)error;
	return 0;
}

static void make_machine(void)
{
	char *key = NULL, *csr = NULL, *certificate = NULL;
	must(certificate_make_key(NULL, &key) == 0, "no key");
	must(certificate_make_request(key, "web1", NULL, &csr) == 0, "no request");
	const struct pki_request request = { "web1", "k1", csr };
	must(pki_issue(door.agents->pki, &request, NULL, &certificate) == 0, "no certificate");
	const struct tls_client_options options = {
		.authority_pem = pki_authority_pem(door.agents->pki),
		.certificate_pem = certificate,
		.key_pem = key,
	};
	must(tls_client_new(&options, NULL, &door.machine) == 0, "no machine");
	certificate_wipe(&key);
	free(csr);
	free(certificate);
}

static void remove_state(void)
{
	char command[128];
	agents_free(door.agents);
	tls_free(door.stranger);
	tls_free(door.machine);
	snprintf(command, sizeof(command), "rm -rf %s", door.directory);
	must(system(command) == 0, "state is left behind");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	log_set_level(LOG_LEVEL_ERROR);
	strcpy(door.directory, "/tmp/landfall-fuzz-XXXXXX");
	must(mkdtemp(door.directory) != NULL, "no directory");
	const struct agents_options options = { io_posix(), clock_system(), door.directory };
	must(agents_new(&options, NULL, &door.agents) == 0, "no door");
	const struct agents_door opening = { .address = "127.0.0.1:0", .may_enroll = may_enroll };
	must(agents_listen(door.agents, &opening, NULL) == 0, "the door does not open");
	snprintf(door.address, sizeof(door.address), "127.0.0.1:%u", agents_port(door.agents));
	const struct tls_client_options stranger = {
		.authority_fingerprint = pki_authority_fingerprint(door.agents->pki),
	};
	must(tls_client_new(&stranger, NULL, &door.stranger) == 0, "no stranger");
	make_machine();
	atexit(remove_state);
	return 0;
}

/* Until the door has closed the connection. */
static void hear_the_end(struct connection *connection)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	const char *type;
	int r = connection_receive_control(connection, END_MS, &json, &type, NULL);
	must(r != -ETIMEDOUT, "the door keeps a liar waiting");
	if (r == 0)
		must(strcmp(type, "error") == 0, "a liar is answered with something else");
}

static void lie_in_tls(const uint8_t *data, size_t size, bool known, bool raw)
{
	struct connection *connection;
	struct error error = { 0 };
	int r = connection_connect(known ? door.machine : door.stranger, door.address, END_MS, -1,
		&error, &connection);
	must(r == 0, error.message);
	if (raw) {
		(void)connection_tls_write(connection, data, size, NULL);
	} else {
		struct wire_frame frame;
		size_t n = MIN(size, (size_t)WIRE_MAX_CONTROL_BYTES);
		frame_make(WIRE_CONTROL, 0, 1, n, data, n, &frame);
		(void)connection_tls_write(connection, &frame, sizeof(frame), NULL);
		(void)connection_tls_write(connection, data, n, NULL);
	}
	connection_tls_end(connection); /* no more will come: it need not wait for it */
	(void)connection_flush(connection, true, NULL);
	(void)shutdown(connection->fd, SHUT_WR);
	hear_the_end(connection);
	connection_free(connection);
}

static void lie_in_tcp(const uint8_t *data, size_t size)
{
	const struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(agents_port(door.agents)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	char rest[4096];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0,
		"the door is shut");
	(void)!send(fd, data, size, MSG_NOSIGNAL);
	(void)shutdown(fd, SHUT_WR);
	while (recv(fd, rest, sizeof(rest), 0) > 0)
		;
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	if (data[0] & 4)
		lie_in_tcp(data + 1, size - 1);
	else
		lie_in_tls(data + 1, size - 1, data[0] & 1, data[0] & 2);
	must(!pki_has_certificate(door.agents->pki, "web2"), "a liar is enrolled");
	return 0;
}
