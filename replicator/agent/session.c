/*
 * Connections, receivers, and the conductor's loop.
 */
#include "replicator/agent/session.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/session_internal.h"

#define CONNECT_MS 20000
#define ANSWER_MS 20000
#define TICK_NS (NS_PER_S / 2)
#define HOUSEKEEPING_NS NS_PER_S
#define FINISH_MS 2000

/* ── the inbox ───────────────────────────────────────────────────────────────────────────── */

void session_end(struct session *s, const struct error *error)
{
	SCOPED_LOCK(&s->lock);
	if (!s->ended)
		s->error = *error;
	s->ended = true;
	pthread_cond_broadcast(&s->arrived);
}

void session_free_event(struct event *event)
{
	if (!event)
		return;
	json_freep(&event->json);
	free(event->values);
	free(event);
}

/* Takes `event` over, and its parts. */
static void deliver(struct session *s, const struct event *event)
{
	struct event *copy = malloc(sizeof(*copy));
	if (!copy) {
		struct error error = { 0 };
		error_set(&error, -ENOMEM, NULL, "out of memory");
		session_end(s, &error);
		return;
	}
	*copy = *event;
	copy->next = NULL;
	SCOPED_LOCK(&s->lock);
	*s->inbox_end = copy;
	s->inbox_end = &copy->next;
	pthread_cond_signal(&s->arrived);
}

struct event *session_next_event(struct session *s, int64_t wait_ns)
{
	int64_t until = clock_monotonic_ns(clock_system()) + wait_ns;
	struct timespec at = { .tv_sec = until / NS_PER_S, .tv_nsec = (long)(until % NS_PER_S) };
	SCOPED_LOCK(&s->lock);
	while (!s->inbox && !s->ended)
		if (pthread_cond_timedwait(&s->arrived, &s->lock, &at) == ETIMEDOUT)
			return NULL;
	struct event *event = s->ended ? NULL : s->inbox;
	if (!event)
		return NULL;
	s->inbox = event->next;
	if (!s->inbox)
		s->inbox_end = &s->inbox;
	return event;
}

static void on_differs(void *context, const struct task *task)
{
	deliver(context, &(struct event){ .kind = EVENT_DIFFERS,
				 .source = task->disk,
				 .first = task->offset / WIRE_CHUNK_BYTES,
				 .hash = task->expected });
}

static void on_compared(void *context, struct source_disk *disk, uint64_t offset, bool sent)
{
	deliver(context, &(struct event){ .kind = EVENT_COMPARED,
				 .source = disk,
				 .first = offset / WIRE_CHUNK_BYTES,
				 .count = sent });
}

static void on_unread(void *context, struct source_disk *disk, uint64_t offset)
{
	deliver(context,
		&(struct event){
			.kind = EVENT_UNREAD, .source = disk, .first = offset / WIRE_CHUNK_BYTES });
}

static void on_failed(void *context, const struct error *error)
{
	session_end(context, error);
}

/* ── receiving ───────────────────────────────────────────────────────────────────────────── */

static int receive_values(
	struct session *s, const struct wire_frame *frame, const void *room, struct error *error)
{
	struct event event = { 0 };
	const uint64_t *values;
	size_t n;
	int r;
	if (frame->type == WIRE_HASHES) {
		struct wire_hashes head;
		r = frame_parse_hashes(frame, room, &head, &values, error);
		if (r < 0)
			return r;
		event = (struct event){ .kind = EVENT_HASHES,
			.disk = head.disk,
			.first = head.first_chunk,
			.count = head.count };
		n = (size_t)head.count * 2;
	} else {
		struct wire_pages head;
		r = frame_parse_pages(frame, room, &head, &values, error);
		if (r < 0)
			return r;
		event = (struct event){ .kind = EVENT_PAGES,
			.disk = head.disk,
			.first = head.chunk,
			.count = head.count };
		n = head.count;
	}
	event.values = malloc(MAX(n, (size_t)1) * sizeof(*event.values));
	if (!event.values)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	memcpy(event.values, values, n * sizeof(*values));
	deliver(s, &event);
	return 0;
}

static int receive_control(
	struct session *s, const struct wire_frame *frame, const void *room, struct error *error)
{
	struct event event = { .kind = EVENT_CONTROL };
	const char *type;
	int r = frame_parse_control(frame, room, &event.json, &type, error);
	if (r == 0)
		deliver(s, &event);
	return r;
}

static int receive_one(struct session *s, unsigned index, void *room, struct error *error)
{
	struct wire_frame frame;
	struct wire_ack ack;
	int r = connection_receive(
		s->connections[index], -1, room, WIRE_MAX_BODY_BYTES, &frame, error);
	if (r < 0)
		return r;
	switch (frame.type) {
	case WIRE_ACK:
		r = frame_parse_ack(&frame, room, &ack, error);
		if (r == 0)
			pipeline_acknowledge(s->pipeline, index, ack.sequence, ack.window_bytes);
		return r;
	case WIRE_HASHES:
	case WIRE_PAGES:
		return receive_values(s, &frame, room, error);
	default:
		return receive_control(s, &frame, room, error);
	}
}

static void *receiver_main(void *argument)
{
	struct receiver *receiver = argument;
	struct session *s = receiver->session;
	struct error error = { 0 };
	void *room = aligned_alloc(4096, round_up(WIRE_MAX_BODY_BYTES, 4096));
	int r = room ? 0 : error_set(&error, -ENOMEM, NULL, "out of memory");
	while (r == 0)
		r = receive_one(s, receiver->index, room, &error);
	free(room);
	/* Whoever waits for an acknowledgement would wait for ever. */
	pipeline_fail(s->pipeline, &error);
	return NULL;
}

/* ── saying ──────────────────────────────────────────────────────────────────────────────── */

struct cJSON *session_message(const char *type)
{
	struct cJSON *json = NULL;
	if (json_new_object(&json) == 0 && json_add_text(json, "type", type) < 0)
		json_freep(&json);
	return json;
}

int session_say(struct session *s, struct cJSON *json)
{
	struct error error = { 0 };
	int r = json ? connection_send_control(s->connections[0], json, NULL, &error)
		     : error_set(&error, -ENOMEM, NULL, "out of memory");
	json_freep(&json);
	if (r < 0)
		session_end(s, &error);
	return r;
}

static int say_status(struct session *s)
{
	struct cJSON *json;
	if (agent_status_json(s->options->status, &json) < 0)
		return -ENOMEM;
	if (json_add_text(json, "type", "status") < 0) {
		json_freep(&json);
		return -ENOMEM;
	}
	return session_say(s, json);
}

/* ── the conductor ───────────────────────────────────────────────────────────────────────── */

static int take_error(struct session *s, const struct json *message)
{
	const char *text = "it does not say why", *mend = "";
	struct error error = { 0 };
	(void)json_find_text(message, "message", &text, NULL);
	(void)json_find_text(message, "mend", &mend, NULL);
	error_set(&error, -ECONNABORTED, mend, "the appliance ends the session: %.400s", text);
	session_end(s, &error);
	return -ECONNABORTED;
}

static void take_settings(struct session *s, const struct json *message)
{
	uint64_t limit = 0, own = s->options->send_bytes_per_s;
	if (json_find_u64(message, "bandwidth_bytes_per_s", &limit, NULL) <= 0)
		return;
	if (own > 0 && (limit == 0 || own < limit))
		limit = own;
	pipeline_set_rates(s->pipeline, s->options->read_bytes_per_s, limit);
	agent_status_set_limit(s->options->status, limit);
}

static int take_cut(struct session *s, const char *type, const struct json *message)
{
	uint64_t number = 0;
	if (json_get_u64(message, "cut", &number, NULL) < 0 || number != s->cut.number)
		return 0;
	if (strcmp(type, "cut.freeze") == 0)
		s->cut.freeze = true;
	if (strcmp(type, "cut.thaw") == 0)
		s->cut.thaw = true;
	if (strcmp(type, "cut.done") == 0)
		(void)json_get_u64(message, "point", &s->cut.point, NULL);
	if (strcmp(type, "cut.done") == 0 || strcmp(type, "cut.failed") == 0)
		s->cut.over = true;
	return 0;
}

static int take_control(struct session *s, const struct event *event)
{
	struct json message;
	const char *type = "";
	json_root(event->json, "the appliance's message", &message);
	(void)json_get_text(&message, "type", &type, NULL);
	if (strcmp(type, "cut.prepare") == 0)
		return session_make_cut(s, &message);
	if (strncmp(type, "cut.", 4) == 0)
		return take_cut(s, type, &message);
	if (strcmp(type, "disks") == 0)
		return session_take_disks(s, &message);
	if (strcmp(type, "resync") == 0)
		return session_take_resync(s, &message);
	if (strcmp(type, "verify") == 0)
		return session_take_verify(s, &message);
	if (strcmp(type, "settings") == 0)
		take_settings(s, &message);
	if (strcmp(type, "error") == 0 || strcmp(type, "bye") == 0)
		return take_error(s, &message);
	return 0; /* what is newer than this agent is not for it */
}

static int handle(struct session *s, struct event *event)
{
	switch (event->kind) {
	case EVENT_CONTROL:
		return take_control(s, event);
	case EVENT_HASHES:
		return session_take_hashes(s, event);
	case EVENT_PAGES:
		return session_take_pages(s, event);
	case EVENT_DIFFERS:
		return session_take_differs(s, event);
	case EVENT_COMPARED:
		return session_take_compared(s, event);
	case EVENT_UNREAD:
		return session_take_unread(s, event);
	}
	return 0;
}

int session_ended(struct session *s)
{
	SCOPED_LOCK(&s->lock);
	return s->ended ? (s->error.code ? s->error.code : -ECANCELED) : 0;
}

/* What would put something into the pipeline. */
static bool is_compare(const struct event *event)
{
	return event->kind == EVENT_HASHES || event->kind == EVENT_PAGES ||
	       event->kind == EVENT_DIFFERS;
}

void session_hold_compare(struct session *s, bool hold)
{
	s->hold_compare = hold;
	if (hold || !s->held)
		return;
	SCOPED_LOCK(&s->lock);
	*s->held_end = s->inbox;
	if (!s->inbox)
		s->inbox_end = s->held_end;
	s->inbox = s->held;
	s->held = NULL;
	s->held_end = &s->held;
}

int session_pump(struct session *s, int64_t wait_ns)
{
	struct event *event = session_next_event(s, wait_ns);
	if (event && s->hold_compare && is_compare(event)) {
		event->next = NULL;
		*s->held_end = event;
		s->held_end = &event->next;
		event = NULL;
	}
	int r = event ? handle(s, event) : 0;
	session_free_event(event);
	int end = session_ended(s);
	return end < 0 ? end : r;
}

static void note_figures(struct session *s)
{
	struct pipeline_counts c;
	pipeline_counts(s->pipeline, &c);
	const struct agent_figures figures = { .read_bytes = c.read_bytes,
		.sent_bytes = c.sent_bytes,
		.zero_bytes = c.zero_bytes,
		.wire_bytes = c.wire_bytes,
		.compared_chunks = c.compared_chunks,
		.differing_chunks = c.differing_chunks,
		.read_errors = c.read_errors };
	agent_status_set_figures(s->options->status, &figures);
	int64_t now = clock_monotonic_ns(clock_system());
	for (unsigned i = 0; i < s->options->source->count; i++) {
		struct source_disk *disk = s->options->source->disks[i];
		const struct compare *compare = &s->disks[i].compare;
		double took = (double)(now - compare->began_ns) / 1e9;
		struct agent_disk_figures d = { .bytes = source_disk_bytes(disk),
			.dirty_bytes = source_dirty_bytes(disk),
			.swap_bytes = source_swap_bytes(disk),
			.comparing = s->disks[i].comparing,
			.left_s = -1 };
		if (d.comparing) {
			d.compared_bytes = compare->cursor * WIRE_CHUNK_BYTES;
			d.compare_bytes_per_s =
				took > 0 ? (double)(compare->cursor - compare->begun_at) *
						   WIRE_CHUNK_BYTES / took
					 : 0;
			if (d.compare_bytes_per_s > 0)
				d.left_s = (double)(d.bytes - d.compared_bytes) /
					   d.compare_bytes_per_s;
		}
		agent_status_set_disk(s->options->status, disk, &d);
	}
	agent_status_set_state(
		s->options->status, session_is_whole(s) ? "replicating" : "comparing");
}

/* Once a second: figures, disks that came, grew or went. */
int session_keep_house(struct session *s)
{
	int64_t now = clock_monotonic_ns(clock_system());
	if (now < s->housekeeping_ns)
		return 0;
	s->housekeeping_ns = now + HOUSEKEEPING_NS;
	if (s->options->upkeep)
		s->options->upkeep(s->options->upkeep_context);
	note_figures(s);
	agent_status_write(s->options->status);
	int r = say_status(s);
	if (r == 0 && source_look(s->options->source))
		r = session_disks_changed(s);
	return r;
}

static bool stop_is_asked(const struct session *s)
{
	struct pollfd fd = { .fd = s->options->stop_fd, .events = POLLIN };
	return s->options->stop_fd >= 0 && poll(&fd, 1, 0) > 0;
}

static int conduct(struct session *s)
{
	int r = session_say_disks(s);
	while (r == 0 && !stop_is_asked(s)) {
		r = session_pump(s, TICK_NS);
		if (r == 0 && s->disks_answered)
			r = session_advance_compare(s);
		if (r == 0 && s->disks_answered)
			r = session_advance_verify(s);
		if (r == 0)
			r = session_keep_house(s);
	}
	if (r == 0)
		(void)session_say(s, session_message("bye"));
	return r;
}

/* ── beginning and ending ────────────────────────────────────────────────────────────────── */

static int answer_of(
	struct session *s, struct connection *c, const char *wanted, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	const char *type;
	int r = connection_receive_control(c, ANSWER_MS, &json, &type, &s->error);
	if (r < 0)
		return r;
	if (strcmp(type, wanted) == 0) {
		*ret_json = TAKE(json);
		return 0;
	}
	struct json message;
	const char *text = type, *mend = "";
	json_root(json, "the appliance's answer", &message);
	(void)json_find_text(&message, "message", &text, NULL);
	(void)json_find_text(&message, "mend", &mend, NULL);
	return error_set(&s->error, -ECONNABORTED, mend, "the appliance refuses: %.400s", text);
}

static int add_hello(const struct session *s, struct cJSON *json)
{
	struct cJSON *versions;
	int r = json_add_array(json, "versions", &versions);
	if (r == 0)
		r = json_add_u64(versions, NULL, WIRE_VERSION);
	if (r == 0)
		r = json_add_u64(versions, NULL, WIRE_VERSION);
	if (r == 0)
		r = json_add_text(json, "machine", s->options->identity->machine);
	if (r == 0)
		r = json_add_text(json, "version", LANDFALL_VERSION);
	if (r == 0)
		r = json_add_text(json, "host", s->options->host);
	if (r == 0 && s->options->boot[0])
		r = json_add_text(json, "boot", s->options->boot);
	if (r == 0)
		r = json_add_u64(json, "connections", s->options->connections);
	return r == 0 ? json_add_bool(json, "zstd", s->options->zstd) : r;
}

static int say_hello(struct session *s, uint64_t *ret_session, uint64_t *ret_granted)
{
	CLEANUP(json_freep) struct cJSON *hello = session_message("hello"), *welcome = NULL;
	struct json message;
	int r = hello ? add_hello(s, hello) : -ENOMEM;
	if (r < 0)
		return error_set(&s->error, r, NULL, "out of memory");
	r = connection_send_control(s->connections[0], hello, NULL, &s->error);
	if (r == 0)
		r = answer_of(s, s->connections[0], "welcome", &welcome);
	if (r < 0)
		return r;
	json_root(welcome, "welcome", &message);
	r = json_get_u64(&message, "session", ret_session, &s->error);
	if (r == 0)
		r = json_get_u64(&message, "connections", ret_granted, &s->error);
	return r == 0 ? json_get_u64(&message, "window_bytes", &s->window_bytes, &s->error) : r;
}

static int join(struct session *s, uint64_t id, unsigned index)
{
	CLEANUP(json_freep) struct cJSON *json = session_message("join"), *joined = NULL;
	int r = connection_connect(s->tls, s->options->identity->appliance, CONNECT_MS,
		s->options->stop_fd, &s->error, &s->connections[index]);
	if (r < 0)
		return r;
	s->connection_count++;
	r = json ? json_add_u64(json, "session", id) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(json, "index", index);
	if (r < 0)
		return error_set(&s->error, r, NULL, "out of memory");
	r = connection_send_control(s->connections[index], json, NULL, &s->error);
	return r == 0 ? answer_of(s, s->connections[index], "joined", &joined) : r;
}

static int connect_all(struct session *s)
{
	uint64_t id, granted;
	int r = identity_tls(s->options->identity, &s->error, &s->tls);
	if (r == 0)
		r = connection_connect(s->tls, s->options->identity->appliance, CONNECT_MS,
			s->options->stop_fd, &s->error, &s->connections[0]);
	if (r < 0)
		return r;
	s->connection_count = 1;
	r = say_hello(s, &id, &granted);
	granted = MIN(granted, (uint64_t)s->options->connections);
	granted = MIN(granted, (uint64_t)PIPELINE_CONNECTIONS_MAX);
	for (unsigned i = 1; r == 0 && i < granted; i++)
		r = join(s, id, i);
	return r;
}

static int start_pipeline(struct session *s)
{
	const struct pipeline_options options = { .connections = s->connections,
		.connection_count = s->connection_count,
		.window_bytes = s->window_bytes,
		.zstd = s->options->zstd,
		.cpu_percent = s->options->cpu_percent,
		.events = { on_differs, on_compared, on_unread, on_failed, s } };
	int r = pipeline_new(&options, &s->error, &s->pipeline);
	if (r < 0)
		return r;
	pipeline_set_rates(s->pipeline, s->options->read_bytes_per_s, s->options->send_bytes_per_s);
	agent_status_set_limit(s->options->status, s->options->send_bytes_per_s);
	for (unsigned i = 0; r == 0 && i < s->connection_count; i++) {
		s->receivers[i] = (struct receiver){ .session = s, .index = i };
		r = -pthread_create(&s->receivers[i].thread, NULL, receiver_main, &s->receivers[i]);
		s->receivers[i].runs = r == 0;
	}
	return r < 0 ? error_set(&s->error, r, NULL, "no thread to be had") : 0;
}

static void take_down(struct session *s, bool orderly)
{
	for (unsigned i = 0; i < s->connection_count; i++)
		if (!orderly)
			connection_stop(s->connections[i]);
	/* After an orderly `bye` the appliance ends the connections; but not for ever. */
	for (unsigned i = 0; orderly && i < s->connection_count; i++) {
		struct timespec at;
		int64_t until = clock_realtime_ns(clock_system()) + FINISH_MS * NS_PER_MS;
		at.tv_sec = until / NS_PER_S;
		at.tv_nsec = (long)(until % NS_PER_S);
		if (s->receivers[i].runs &&
			pthread_timedjoin_np(s->receivers[i].thread, NULL, &at) == 0)
			s->receivers[i].runs = false;
		connection_stop(s->connections[i]);
	}
	for (unsigned i = 0; i < s->connection_count; i++)
		if (s->receivers[i].runs)
			pthread_join(s->receivers[i].thread, NULL);
	session_unwatch_stop(s);
	pipeline_free(s->pipeline);
	for (unsigned i = 0; i < s->connection_count; i++)
		connection_free(s->connections[i]);
	tls_free(s->tls);
	while (s->inbox) {
		struct event *event = s->inbox;
		s->inbox = event->next;
		session_free_event(event);
	}
	while (s->held) {
		struct event *event = s->held;
		s->held = event->next;
		session_free_event(event);
	}
	while (s->wanted) {
		struct event *event = s->wanted;
		s->wanted = event->next;
		session_free_event(event);
	}
	session_end_verify(s);
	pthread_cond_destroy(&s->arrived);
	pthread_mutex_destroy(&s->lock);
}

int session_run(const struct session_options *options, struct error *error, bool *ret_worked)
{
	struct session *s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	s->options = options;
	s->stopper_fd = -1;
	s->inbox_end = &s->inbox;
	s->wanted_end = &s->wanted;
	s->held_end = &s->held;
	s->zero_chunk = compare_zero_chunk();
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->arrived, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int r = connect_all(s);
	if (r == 0)
		r = session_watch_stop(s);
	if (r == 0)
		r = start_pipeline(s);
	if (r == 0)
		r = conduct(s);
	bool orderly = r == 0;
	*ret_worked = s->disks_answered;
	if (r < 0)
		*error = s->error;
	take_down(s, orderly);
	free(s);
	return r;
}
