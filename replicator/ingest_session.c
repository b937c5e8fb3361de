/*
 * Connections and sessions: who is let in, the receiving loop, acknowledgements.
 *
 * The thread that serves a connection receives and stages; a thread of the connection's own waits
 * until what was staged is durable and acknowledges it, so that the network and the journal's disk
 * work at once. While the journal has no room the receiving thread waits at its gate: nothing is
 * received, the window fills, and the agent lets its marks accumulate.
 *
 * The session's first connection (index 0) makes and unmakes the session. When any connection
 * ends, all do.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "common/rng.h"
#include "replicator/ingest_internal.h"

#define RECEIVE_MS 1000
#define KEEP_ALIVE_NS (2 * NS_PER_S)
#define FULL_WAIT_NS (NS_PER_S / 4)
#define FINISH_MS 2000
#define LOOK_FRAMES 64

/* ── ending ──────────────────────────────────────────────────────────────────────────────── */

void ingest_end_session(struct ingest_session *session)
{
	session->ending = true;
	for (unsigned i = 0; i < INGEST_LINKS_MAX; i++)
		if (session->links[i])
			connection_stop(session->links[i]->connection);
	pthread_cond_broadcast(&session->ingest->changed);
}

static bool is_ending(struct ingest_link *link)
{
	{
		SCOPED_LOCK(&link->ingest->lock);
		if (link->session->ending || link->ending)
			return true;
	}
	return hold_is_ending(&link->hold);
}

/* ── acknowledging ───────────────────────────────────────────────────────────────────────── */

/* Waits for something to acknowledge; false at the end. Under lock, which is let go for PING. */
static bool await_staged(struct ingest_link *link)
{
	while (!link->ending && link->staged_sequence == link->acked_sequence) {
		struct timespec at;
		int64_t until = clock_monotonic_ns(clock_system()) + KEEP_ALIVE_NS;
		at.tv_sec = until / NS_PER_S;
		at.tv_nsec = (long)(until % NS_PER_S);
		if (pthread_cond_timedwait(&link->staged, &link->ingest->lock, &at) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&link->ingest->lock);
		connection_keep_alive(link->connection);
		pthread_mutex_lock(&link->ingest->lock);
	}
	return !link->ending;
}

static void *acker_main(void *argument)
{
	struct ingest_link *link = argument;
	struct committer *committer = group_committer(link->hold.group);
	pthread_mutex_lock(&link->ingest->lock);
	while (await_staged(link)) {
		uint64_t sequence = link->staged_sequence, lsn = link->staged_lsn;
		pthread_mutex_unlock(&link->ingest->lock);
		int r = committer_wait(committer, lsn);
		if (r == 0)
			r = connection_send_ack(
				link->connection, sequence, INGEST_WINDOW_BYTES, NULL);
		pthread_mutex_lock(&link->ingest->lock);
		if (r < 0) {
			connection_stop(link->connection);
			break;
		}
		link->acked_sequence = sequence;
	}
	pthread_mutex_unlock(&link->ingest->lock);
	return NULL;
}

static void note_staged(struct ingest_link *link, uint64_t sequence, uint64_t lsn, uint64_t bytes)
{
	SCOPED_LOCK(&link->ingest->lock);
	link->staged_sequence = sequence;
	link->staged_lsn = MAX(link->staged_lsn, lsn);
	link->session->machine->received_bytes += bytes;
	pthread_cond_signal(&link->staged);
	if (link->session->cut.stage == CUT_MARKED)
		pthread_cond_broadcast(&link->ingest->changed);
}

/* ── data ────────────────────────────────────────────────────────────────────────────────── */

static int find_target(
	struct ingest_link *link, uint16_t number, struct error *error, uint64_t *ret_sectors)
{
	SCOPED_LOCK(&link->ingest->lock);
	const struct ingest_disk *disk = ingest_find_number(link->session->machine, number);
	if (!disk)
		return error_set(error, -EPERM, NULL,
			"disk %u is none of those that machine %s has named in this session",
			number, link->session->machine->name);
	*ret_sectors = disk->bytes / SECTOR_BYTES;
	return 0;
}

/* The journal has no room: nothing is lost by waiting, the agent keeps its marks. */
static int wait_for_room(struct ingest_link *link, struct error *error)
{
	if (is_ending(link))
		return error_set(error, -ECANCELED, NULL, "the session ends");
	int r = connection_failed(link->connection, error);
	if (r < 0)
		return r;
	connection_keep_alive(link->connection);
	clock_sleep_ns(clock_system(), FULL_WAIT_NS);
	return 0;
}

static int journal_error(struct ingest_link *link, int r, struct error *error)
{
	return error_set(error, r, "see the alerts of 'landfall status' on the appliance",
		"the journal of group %s does not take data: %s", group_name(link->hold.group),
		strerrordesc_np(-r));
}

static int stage(struct ingest_link *link, const struct frame_data *data, const void *payload,
	struct error *error, uint64_t *ret_lsn)
{
	struct committer *committer = group_committer(link->hold.group);
	int r;
	while ((r = committer_write_hashed(committer, data->disk, data->lba, data->sectors, payload,
			data->hashes, ret_lsn)) == -ENOSPC) {
		r = wait_for_room(link, error);
		if (r < 0)
			return r;
	}
	return r < 0 ? journal_error(link, r, error) : 0;
}

static int take_data(struct ingest_link *link, const struct wire_frame *frame, struct error *error)
{
	struct frame_data data;
	uint64_t sectors, lsn;
	int r = frame_parse_data(frame, link->room, &data, error);
	if (r == 0)
		r = find_target(link, data.disk, error, &sectors);
	if (r == 0)
		r = frame_check_data_place(&data, sectors, error);
	const void *payload = data.packed;
	if (r == 0 && data.zstd) {
		payload = link->unpacked;
		r = unpacker_unpack(link->unpacker, data.packed, data.packed_bytes, link->unpacked,
			(size_t)data.sectors * SECTOR_BYTES, error);
	}
	if (r == 0)
		r = frame_prove_data(&data, payload, error);
	if (r == 0)
		r = stage(link, &data, payload, error, &lsn);
	if (r == 0)
		note_staged(link, frame->sequence, lsn, (uint64_t)data.sectors * SECTOR_BYTES);
	return r;
}

static int take_zero(struct ingest_link *link, const struct wire_frame *frame, struct error *error)
{
	struct committer *committer = group_committer(link->hold.group);
	struct wire_zero zero;
	uint64_t sectors, lsn;
	int r = frame_parse_zero(frame, link->room, &zero, error);
	if (r == 0)
		r = find_target(link, zero.disk, error, &sectors);
	if (r == 0)
		r = frame_check_zero_place(&zero, sectors, error);
	if (r < 0)
		return r;
	while ((r = committer_zero(committer, zero.disk, zero.lba, zero.sectors, &lsn)) ==
		-ENOSPC) {
		r = wait_for_room(link, error);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return journal_error(link, r, error);
	note_staged(link, frame->sequence, lsn, 0);
	return 0;
}

/* ── control ─────────────────────────────────────────────────────────────────────────────── */

static int take_status(struct ingest_link *link, const struct json *message)
{
	struct cJSON *copy = cJSON_Duplicate(message->node, true);
	if (!copy)
		return -ENOMEM;
	cJSON_DeleteItemFromObjectCaseSensitive(copy, "type");
	SCOPED_LOCK(&link->ingest->lock);
	struct ingest_machine *machine = link->session->machine;
	json_freep(&machine->figures);
	machine->figures = copy;
	link->session->figures_known = true;
	return 0;
}

/* What the agent gives up with. It has said it to its own log; this is for ours. */
static int take_error(struct ingest_link *link, const struct json *message, struct error *error)
{
	const char *text = "without a reason", *mend = "";
	(void)json_find_text(message, "message", &text, NULL);
	(void)json_find_text(message, "mend", &mend, NULL);
	return error_set(error, -ECONNRESET, mend, "the agent of machine %s gives up: %.200s",
		link->session->machine->name, text);
}

static int dispatch(
	struct ingest_link *link, const char *type, const struct json *message, struct error *error)
{
	if (strncmp(type, "cut.", 4) == 0 || strcmp(type, "mark") == 0)
		return ingest_take_cut(link, type, message, error);
	if (strcmp(type, "disks") == 0)
		return ingest_take_disks(link, message, error);
	if (strcmp(type, "hashes") == 0)
		return ingest_ask(link, false, message, error);
	if (strcmp(type, "pages") == 0)
		return ingest_ask(link, true, message, error);
	if (strcmp(type, "compared") == 0)
		return ingest_take_compared(link, message, error);
	if (strcmp(type, "verified") == 0)
		return ingest_take_verified(link, message, error);
	if (strcmp(type, "status") == 0)
		return take_status(link, message);
	if (strcmp(type, "bye") == 0)
		return error_set(error, -ECONNRESET, NULL, "the agent says goodbye");
	if (strcmp(type, "error") == 0)
		return take_error(link, message, error);
	return error_set(error, -EBADMSG, "is one of the two programs older?",
		"no message of the type %.40s is known here", type);
}

static int take_control(
	struct ingest_link *link, const struct wire_frame *frame, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json message;
	const char *type;
	int r = frame_parse_control(frame, link->room, &json, &type, error);
	if (r == 0 && link->index > 0)
		r = error_set(error, -EBADMSG, NULL,
			"%.40s belongs on the session's first connection", type);
	if (r < 0)
		return r;
	json_root(json, type, &message);
	r = dispatch(link, type, &message, error);
	if (r == 0)
		note_staged(link, frame->sequence, 0, 0);
	return r;
}

static int receive_one(struct ingest_link *link, struct error *error)
{
	struct wire_frame frame;
	int r = connection_receive(
		link->connection, RECEIVE_MS, link->room, WIRE_MAX_BODY_BYTES, &frame, error);
	/* An end stops the connection; that the group is to be closed has to be looked for. */
	bool look = r == -EAGAIN || (r == 0 && frame.sequence % LOOK_FRAMES == 0);
	if (look && is_ending(link))
		return error_set(error, -ECANCELED, NULL, "the session ends");
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	switch (frame.type) {
	case WIRE_DATA:
		return take_data(link, &frame, error);
	case WIRE_ZERO:
		return take_zero(link, &frame, error);
	case WIRE_CONTROL:
		return take_control(link, &frame, error);
	default:
		return error_set(error, -EBADMSG, NULL, "a frame of type %u is not for this side",
			frame.type);
	}
}

/* ── links ───────────────────────────────────────────────────────────────────────────────── */

static void link_free(struct ingest_link *link)
{
	pthread_cond_destroy(&link->staged);
	unpacker_free(link->unpacker);
	free(link->room);
	free(link->unpacked);
	registry_release(&link->hold);
}

static int link_prepare(struct ingest_link *link, struct error *error)
{
	const char *machine = connection_peer(link->connection)->machine;
	int r = registry_hold(link->ingest->registry, machine, error, &link->hold);
	if (r == 0 && strcmp(link->hold.source, "agent") != 0)
		return error_set(error, -EPERM,
			"remove the machine and add it with --source agent, or remove the agent",
			"machine %s has the source %s, not agent", machine, link->hold.source);
	if (r < 0)
		return r;
	link->room = aligned_alloc(4096, round_up(WIRE_MAX_BODY_BYTES, 4096));
	link->unpacked = aligned_alloc(4096, WIRE_MAX_DATA_BYTES);
	if (!link->room || !link->unpacked || unpacker_new(&link->unpacker) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	return 0;
}

/* Receives until the end of it; says why it ends to the agent if that is for us to say. */
static void link_run(struct ingest_link *link)
{
	struct error error = { 0 };
	int r = -pthread_create(&link->acker, NULL, acker_main, link);
	if (r < 0)
		error_set(&error, r, NULL, "no thread to be had");
	bool runs = r == 0;
	while (r == 0) {
		if (link->index == 0)
			r = ingest_tell_settings(link, &error);
		if (r == 0)
			r = receive_one(link, &error);
	}
	{
		SCOPED_LOCK(&link->ingest->lock);
		link->ending = true;
		pthread_cond_signal(&link->staged);
	}
	if (runs)
		pthread_join(link->acker, NULL);
	const char *code = r == -ECANCELED ? "ending" : "refused";
	if (r != -ECONNRESET && r != -ETIMEDOUT)
		(void)connection_send_error(link->connection, code, error.message, error.mend);
	if (r != -ECANCELED)
		log_info("machine %s: connection from %s ends: %s", link->session->machine->name,
			connection_address(link->connection), error.message);
}

/* ── sessions ────────────────────────────────────────────────────────────────────────────── */

static void copy_word(const struct json *message, const char *name, char *ret, size_t size)
{
	const char *text = "";
	(void)json_find_text(message, name, &text, NULL);
	snprintf(ret, size, "%.*s", (int)size - 1, text);
}

static int check_versions(const struct json *message, struct error *error)
{
	struct json versions, item = { 0 };
	uint64_t range[2] = { 0, 0 };
	int r = json_get_array(message, "versions", &versions, error);
	for (unsigned i = 0; r == 0 && i < 2 && json_each(&versions, &item); i++)
		r = json_as_u64(&item, &range[i], error);
	if (r < 0)
		return r;
	if (WIRE_VERSION < range[0] || WIRE_VERSION > range[1])
		return error_set(error, -EPROTONOSUPPORT, "upgrade the older of the two",
			"this appliance speaks version %u of the protocol, the agent %" PRIu64
			" to %" PRIu64,
			WIRE_VERSION, range[0], range[1]);
	return 0;
}

static int say_welcome(
	struct ingest_link *link, const struct ingest_session *session, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "welcome");
	if (r == 0)
		r = json_add_u64(json, "version", WIRE_VERSION);
	if (r == 0)
		r = json_add_u64(json, "session", session->id);
	if (r == 0)
		r = json_add_u64(json, "connections", session->granted);
	if (r == 0)
		r = json_add_u64(json, "window_bytes", INGEST_WINDOW_BYTES);
	if (r == 0)
		r = json_add_text(json, "group", group_name(link->hold.group));
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	return connection_send_control(link->connection, json, NULL, error);
}

static int open_session(
	struct ingest_link *link, struct ingest_session *session, const struct json *message)
{
	struct error error = { 0 };
	uint64_t wished = 1;
	struct ingest_newcomer newcomer = { .machine = connection_peer(link->connection)->machine,
		.address = connection_address(link->connection) };
	copy_word(message, "host", newcomer.host, sizeof(newcomer.host));
	copy_word(message, "version", newcomer.version, sizeof(newcomer.version));
	copy_word(message, "boot", newcomer.boot, sizeof(newcomer.boot));
	int r = check_versions(message, &error);
	if (r == 0)
		r = json_find_u64(message, "connections", &wished, &error);
	if (r >= 0)
		r = random_bytes(&session->id, sizeof(session->id));
	session->granted = (unsigned)MIN(MAX(wished, (uint64_t)1), (uint64_t)INGEST_LINKS_MAX);
	if (r == 0)
		r = ingest_take_place(session, &newcomer, &error);
	if (r < 0)
		goto refused;
	r = ingest_state_load(link->ingest, session->machine);
	if (r == 0)
		r = say_welcome(link, session, &error);
	if (r == 0)
		return 0;
	ingest_leave_place(session);
refused:
	if (error.code == 0)
		error_set(&error, r, NULL, "%s", strerrordesc_np(-r));
	(void)connection_send_error(link->connection, "refused", error.message, error.mend);
	return r;
}

static void enlist(struct ingest_link *link, struct ingest_session *session)
{
	link->session = session;
	session->links[link->index] = link;
	session->link_count++;
}

static void take_off(struct ingest_link *link)
{
	struct ingest_session *session = link->session;
	SCOPED_LOCK(&link->ingest->lock);
	session->links[link->index] = NULL;
	session->link_count--;
	ingest_end_session(session);
}

/* Frames counted from what was said before the loop began. */
static void serve_hello(struct ingest_link *link, const struct json *message)
{
	struct ingest_session session = { .ingest = link->ingest };
	struct error error = { 0 };
	if (open_session(link, &session, message) < 0)
		return;
	{
		SCOPED_LOCK(&link->ingest->lock);
		enlist(link, &session);
	}
	int r = ingest_join_group(link, &error);
	if (r == 0)
		r = -pthread_create(&session.comparer, NULL, ingest_comparer_main, &session);
	bool compares = r == 0;
	if (r == 0) {
		log_info("machine %s: its agent on %s is connected from %s", session.machine->name,
			session.machine->host, session.machine->address);
		link_run(link);
	} else {
		(void)connection_send_error(link->connection, "refused", error.message, error.mend);
	}
	take_off(link);
	if (compares)
		pthread_join(session.comparer, NULL);
	ingest_leave_group(&session);
	ingest_leave_place(&session);
}

static int join_session(struct ingest_link *link, const struct json *message, struct error *error)
{
	uint64_t id, index;
	int r = json_get_u64(message, "session", &id, error);
	if (r == 0)
		r = json_get_u64(message, "index", &index, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&link->ingest->lock);
	struct ingest_machine *machine =
		ingest_find_machine(link->ingest, connection_peer(link->connection)->machine);
	struct ingest_session *session = machine ? machine->session : NULL;
	if (!session || session->id != id || session->ending)
		return error_set(error, -ENOENT, NULL, "that session is over");
	if (index == 0 || index >= session->granted || session->links[index])
		return error_set(
			error, -EINVAL, NULL, "connection %" PRIu64 " was not granted", index);
	link->index = (unsigned)index;
	enlist(link, session);
	return 0;
}

static void serve_join(struct ingest_link *link, const struct json *message)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct error error = { 0 };
	int r = join_session(link, message, &error);
	if (r < 0) {
		(void)connection_send_error(link->connection, "refused", error.message, error.mend);
		return;
	}
	r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "joined");
	if (r == 0)
		r = json_add_u64(json, "window_bytes", INGEST_WINDOW_BYTES);
	if (r == 0)
		r = connection_send_control(link->connection, json, NULL, NULL);
	if (r == 0)
		link_run(link);
	take_off(link);
}

void ingest_serve(struct agent_sessions *sessions, struct connection *connection, const char *type,
	const struct json *message)
{
	struct ingest_link link = { .ingest = CONTAINER_OF(sessions, struct ingest, sessions),
		.connection = connection };
	struct error error = { 0 };
	ingest_init_wait(&link.staged);
	if (link_prepare(&link, &error) < 0)
		(void)connection_send_error(connection, "refused", error.message, error.mend);
	else if (strcmp(type, "hello") == 0)
		serve_hello(&link, message);
	else
		serve_join(&link, message);
	connection_finish(connection, FINISH_MS);
	link_free(&link);
}
