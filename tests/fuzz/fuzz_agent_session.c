/*
 * A machine with a good certificate that lies in its session: through real TLS, to the real ingest
 * with a journal behind it. After `hello` and `disks` (left out if the first byte is odd) the input
 * is said, frame by frame: type, flags, length (16 bits), body. Checksums and sequences are right;
 * with the flag 0x80 a DATA's hashes are, too, so that it gets as far as the journal.
 *
 * Whatever it says, the appliance ends the session by itself, and the disk of another machine in
 * the same group stays what it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "replicator/agents_internal.h"
#include "replicator/ingest.h"
#include "replicator/registry_internal.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/connection_internal.h"

#define END_MS 30000
#define VICTIM_SECTORS 2048u /* 1 MiB */
#define LOOK_EVERY 32

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct stage {
	char directory[64], journal[96], mount[96], jobs_path[96], address[64];
	struct jobs *jobs;
	struct agents *agents;
	struct registry *registry;
	struct ingest *ingest;
	struct tls_context *machine, *other;
	struct connection *victim;
	pthread_t thread;
	unsigned runs;
} stage;

static void must(bool condition, const char *what)
{
	if (!condition) {
		fprintf(stderr, "%s\n", what);
		abort();
	}
}

/* ── the appliance ───────────────────────────────────────────────────────────────────────── */

/* However this process ends, its mount and its files go. */
static void leave_a_cleaner(void)
{
	char command[256];
	int ends[2];
	must(pipe2(ends, O_CLOEXEC) == 0, "no pipe");
	pid_t pid = fork();
	must(pid >= 0, "no process");
	if (pid > 0) {
		close(ends[0]);
		return; /* the other end closes with us */
	}
	(void)setsid();
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	close(ends[1]);
	(void)!freopen("/dev/null", "w", stdout);
	(void)!freopen("/dev/null", "w", stderr);
	while (read(ends[0], command, 1) < 0 && errno == EINTR)
		;
	(void)umount2(stage.mount, MNT_DETACH);
	snprintf(command, sizeof(command), "rm -rf %s", stage.directory);
	_exit(system(command) != 0);
}

static void add_machine(const char *name, const char *source, uint64_t disk_bytes)
{
	struct machine_request *request = calloc(1, sizeof(*request));
	struct error error = { 0 };
	must(request != NULL, "no memory");
	request->name = name;
	request->source = source;
	request->group = "g";
	if (disk_bytes > 0) {
		strcpy(request->disks[0].id, "root");
		request->disks[0].size_bytes = disk_bytes;
		request->disk_count = 1;
	}
	must(machine_add(stage.registry, request, &error) == 0, error.message);
	free(request);
}

static void make_identity(const char *name, struct tls_context **ret_context)
{
	char *key = NULL, *csr = NULL, *certificate = NULL;
	must(certificate_make_key(NULL, &key) == 0, "no key");
	must(certificate_make_request(key, name, NULL, &csr) == 0, "no request");
	const struct pki_request request = { name, "k1", csr };
	must(pki_issue(stage.agents->pki, &request, NULL, &certificate) == 0, "no certificate");
	const struct tls_client_options options = {
		.authority_pem = pki_authority_pem(stage.agents->pki),
		.certificate_pem = certificate,
		.key_pem = key,
	};
	must(tls_client_new(&options, NULL, ret_context) == 0, "no machine");
	certificate_wipe(&key);
	free(csr);
	free(certificate);
}

static void take_down(void)
{
	connection_stop(stage.victim);
	pthread_join(stage.thread, NULL);
	connection_free(stage.victim);
	agents_stop(stage.agents);
	jobs_begin_stop(stage.jobs);
	jobs_stop(stage.jobs);
	ingest_free(stage.ingest);
	registry_free(stage.registry);
	jobs_free(stage.jobs);
	agents_free(stage.agents);
	tls_free(stage.machine);
	tls_free(stage.other);
}

static void make_appliance(void)
{
	struct error error = { 0 };
	const struct agents_options agents = { io_posix(), clock_system(), stage.directory };
	must(jobs_new(io_posix(), clock_system(), stage.jobs_path, 10, &stage.jobs) == 0,
		"no jobs");
	must(agents_new(&agents, &error, &stage.agents) == 0, error.message);
	const struct registry_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.state_dir = stage.directory,
		.journal_dir = stage.journal,
		.mount_path = stage.mount,
		.journal_bytes = 1 * GIB,
		.jobs = stage.jobs,
		.agents = stage.agents,
	};
	must(registry_new(&options, &error, &stage.registry) == 0, error.message);
	must(ingest_new(stage.registry, &error, &stage.ingest) == 0, error.message);
	const struct agents_door door = {
		.address = "127.0.0.1:0",
		.may_enroll = registry_may_enroll,
		.context = stage.registry,
		.sessions = ingest_sessions(stage.ingest),
	};
	must(agents_listen(stage.agents, &door, &error) == 0, error.message);
	snprintf(stage.address, sizeof(stage.address), "127.0.0.1:%u", agents_port(stage.agents));
}

/* The victim's disk was never written: it reads as zeros. */
static void look_at_the_victim(void)
{
	static uint8_t content[VICTIM_SECTORS * SECTOR_BYTES];
	struct history_disk disks[HISTORY_MAX_DISKS];
	struct hold hold = { 0 };
	must(registry_hold(stage.registry, "victim", NULL, &hold) == 0, "the group is gone");
	struct history *history = group_history(hold.group);
	unsigned count = history_disks(history, disks, HISTORY_MAX_DISKS), found = 0;
	for (unsigned i = 0; i < count; i++) {
		if (strcmp(disks[i].name, "victim/root") != 0)
			continue;
		found++;
		must(disks[i].size_bytes == VICTIM_SECTORS * SECTOR_BYTES,
			"another machine's disk was resized");
		must(history_read(history, disks[i].id, 0, VICTIM_SECTORS, content) == 0,
			"another machine's disk cannot be read");
		must(is_zero(content, sizeof(content)), "another machine's disk was written");
	}
	must(found == 1, "another machine's disk is gone");
	registry_release(&hold);
}

/* ── the liar ────────────────────────────────────────────────────────────────────────────── */

/* Says a message and waits for the answer of that type. False: it was not answered so. */
static bool ask(struct connection *connection, const char *text, const char *answer)
{
	struct cJSON *json = NULL;
	const char *type = "";
	struct wire_frame frame;
	bool right = false;
	pthread_mutex_lock(&connection->send_lock);
	frame_make(WIRE_CONTROL, 0, ++connection->send_sequence, strlen(text), text, strlen(text),
		&frame);
	int r = connection_tls_write(connection, &frame, sizeof(frame), NULL);
	if (r == 0)
		r = connection_tls_write(connection, text, strlen(text), NULL);
	if (r == 0)
		r = connection_flush(connection, true, NULL);
	pthread_mutex_unlock(&connection->send_lock);
	/* What the policy asks and cuts that begin come in between. */
	while (r == 0 && !right) {
		r = connection_receive_control(connection, END_MS, &json, &type, NULL);
		right = r == 0 && strcmp(type, answer) == 0;
		if (r == 0)
			json_freep(&json);
	}
	return right;
}

/* A DATA whose hashes are those of what it carries. Returns the body's size. */
static size_t make_honest(const uint8_t *body, size_t n, uint8_t *ret_body)
{
	struct wire_data data;
	uint64_t hashes[WIRE_CHUNK_PAGES];
	if (n < sizeof(data)) {
		memcpy(ret_body, body, n);
		return n;
	}
	memcpy(&data, body, sizeof(data));
	size_t sectors = MAX((size_t)1, (n - sizeof(data)) / SECTOR_BYTES);
	size_t bytes = sectors * SECTOR_BYTES;
	uint8_t payload[65536 + SECTOR_BYTES] = { 0 };
	memcpy(payload, body + sizeof(data), MIN(n - sizeof(data), bytes));
	frame_hash_pages(payload, bytes, hashes);
	frame_make_data_head(
		data.disk % 4, data.lba, (uint32_t)sectors, (uint32_t)bytes, hashes, ret_body);
	size_t head = WIRE_DATA_HEAD_BYTES(WIRE_PAGE_COUNT(bytes));
	memcpy(ret_body + head, payload, bytes);
	return head + bytes;
}

static int say(struct connection *connection, const uint8_t *header, const uint8_t *data, size_t n)
{
	static uint8_t body[WIRE_MAX_BODY_BYTES];
	struct wire_frame frame;
	size_t proven;
	memcpy(body, data, n);
	if (header[0] == WIRE_DATA && header[1] & 0x80)
		n = make_honest(data, n, body);
	proven = n;
	if (header[0] == WIRE_DATA && n >= sizeof(struct wire_data)) {
		struct wire_data parts;
		memcpy(&parts, body, sizeof(parts));
		proven = MIN(n, WIRE_DATA_HEAD_BYTES(parts.hash_count));
	}
	frame_make(
		header[0], header[1] & 0x7f, ++connection->send_sequence, n, body, proven, &frame);
	int r = connection_tls_write(connection, &frame, sizeof(frame), NULL);
	return r == 0 && n > 0 ? connection_tls_write(connection, body, n, NULL) : r;
}

static void say_all(struct connection *connection, const uint8_t *data, size_t size)
{
	pthread_mutex_lock(&connection->send_lock);
	for (size_t at = 0; size - at >= 4;) {
		const uint8_t *header = data + at;
		at += 4;
		size_t n = MIN(size - at, (size_t)(header[2] | header[3] << 8));
		if (say(connection, header, data + at, n) < 0)
			break;
		at += n;
	}
	connection_tls_end(connection);
	(void)connection_flush(connection, true, NULL);
	pthread_mutex_unlock(&connection->send_lock);
	(void)shutdown(connection->fd, SHUT_WR);
}

static void hear_the_end(struct connection *connection)
{
	static uint64_t room[WIRE_MAX_BODY_BYTES / 8];
	struct wire_frame frame;
	int64_t end = connection_now_ns() + END_MS * NS_PER_MS;
	int r = 0;
	while (r == 0 || r == -EAGAIN) {
		must(connection_now_ns() < end, "the appliance keeps a liar's session");
		r = connection_receive(connection, 1000, room, sizeof(room), &frame, NULL);
	}
	must(r == -ECONNRESET, "the appliance says what is no frame");
}

static void *receive_for_ever(void *context)
{
	static uint64_t room[WIRE_MAX_BODY_BYTES / 8];
	struct wire_frame frame;
	(void)context;
	while (connection_receive(stage.victim, -1, room, sizeof(room), &frame, NULL) == 0)
		;
	return NULL;
}

/* The group's other machine is there all the time. */
static void connect_the_victim(void)
{
	static const char hello[] = "{\"type\":\"hello\",\"versions\":[1,1],\"machine\":\"victim\","
				    "\"version\":\"1\",\"host\":\"h\",\"boot\":\"b\","
				    "\"connections\":1}";
	struct error error = { 0 };
	must(connection_connect(stage.other, stage.address, END_MS, -1, &error, &stage.victim) == 0,
		error.message);
	must(ask(stage.victim, hello, "welcome"), "the victim is not welcome");
	must(pthread_create(&stage.thread, NULL, receive_for_ever, NULL) == 0, "no thread");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	struct stat st;
	log_set_level(LOG_LEVEL_ERROR);
	signal(SIGPIPE, SIG_IGN);
	strcpy(stage.directory, stat("/dev/shm", &st) == 0 ? "/dev/shm/landfall-fuzz-XXXXXX"
							   : "/tmp/landfall-fuzz-XXXXXX");
	must(mkdtemp(stage.directory) != NULL, "no directory");
	snprintf(stage.journal, sizeof(stage.journal), "%s/journal", stage.directory);
	snprintf(stage.mount, sizeof(stage.mount), "%s/fs", stage.directory);
	snprintf(stage.jobs_path, sizeof(stage.jobs_path), "%s/jobs", stage.directory);
	leave_a_cleaner();
	make_appliance();
	add_machine("victim", "agent", VICTIM_SECTORS * SECTOR_BYTES);
	add_machine("liar", "agent", 0);
	make_identity("victim", &stage.other);
	make_identity("liar", &stage.machine);
	connect_the_victim();
	atexit(take_down);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char hello[] = "{\"type\":\"hello\",\"versions\":[1,1],\"machine\":\"liar\","
				    "\"version\":\"1\",\"host\":\"h\",\"boot\":\"b\","
				    "\"connections\":2,\"zstd\":true}";
	static const char disks[] = "{\"type\":\"disks\",\"disks\":[{\"id\":\"root\","
				    "\"size_bytes\":4194304,\"identity\":\"i\",\"capture\":\"bpf\","
				    "\"incarnation\":\"7\"}]}";
	struct connection *connection;
	struct error error = { 0 };
	if (size < 1)
		return 0;
	must(connection_connect(stage.machine, stage.address, END_MS, -1, &error, &connection) == 0,
		error.message);
	if (!(data[0] & 1)) {
		must(ask(connection, hello, "welcome"), "hello is not answered by welcome");
		must(ask(connection, disks, "disks"), "disks is not answered by disks");
	}
	say_all(connection, data + 1, size - 1);
	hear_the_end(connection);
	connection_free(connection);
	if (++stage.runs % LOOK_EVERY == 0)
		look_at_the_victim();
	return 0;
}
