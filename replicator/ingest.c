/*
 * The ingest's life, its list of machines, and what `status` tells of their agents.
 *
 * Machines stay listed once an agent has come, so that status can tell since when it is away.
 */
#include <errno.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"

#define AWAY_NS (10 * NS_PER_S)
#define FAILURES_IN_A_ROW 2u

static const struct agent_sessions_ops ops = { .serve = ingest_serve };

void ingest_init_wait(pthread_cond_t *cond)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

int ingest_new(struct registry *registry, struct error *error, struct ingest **ret_ingest)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	struct ingest *ingest = calloc(1, sizeof(*ingest));
	if (!ingest || buf_printf(&path, "%s/agents", registry->state_dir) < 0) {
		free(ingest);
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	int r = io_make_dir(registry->io, path.data);
	if (r < 0 && r != -EEXIST) {
		free(ingest);
		return error_set(error, r, "see that the state directory can be written to",
			"%s cannot be made: %s", path.data, strerrordesc_np(-r));
	}
	ingest->sessions.ops = &ops;
	ingest->registry = registry;
	pthread_mutex_init(&ingest->saving, NULL);
	pthread_mutex_init(&ingest->lock, NULL);
	ingest_init_wait(&ingest->changed);
	{
		SCOPED_LOCK(&registry->lock);
		registry->ingest = ingest;
	}
	*ret_ingest = ingest;
	return 0;
}

static void free_machine(struct ingest_machine *machine)
{
	json_freep(&machine->figures);
	free(machine->disks);
	free(machine);
}

void ingest_free(struct ingest *ingest)
{
	if (!ingest)
		return;
	{
		SCOPED_LOCK(&ingest->registry->lock);
		ingest->registry->ingest = NULL;
	}
	while (ingest->machines) {
		struct ingest_machine *machine = ingest->machines;
		ingest->machines = machine->next;
		free_machine(machine);
	}
	pthread_cond_destroy(&ingest->changed);
	pthread_mutex_destroy(&ingest->lock);
	pthread_mutex_destroy(&ingest->saving);
	free(ingest);
}

struct agent_sessions *ingest_sessions(struct ingest *ingest)
{
	return &ingest->sessions;
}

void ingest_wait(struct ingest *ingest, int64_t ns)
{
	int64_t until = clock_monotonic_ns(clock_system()) + ns;
	struct timespec at = { .tv_sec = until / NS_PER_S, .tv_nsec = (long)(until % NS_PER_S) };
	pthread_cond_timedwait(&ingest->changed, &ingest->lock, &at);
}

static struct ingest_machine *look_up(struct ingest *ingest, const char *name)
{
	struct ingest_machine *machine = ingest->machines;
	while (machine && strcmp(machine->name, name) != 0)
		machine = machine->next;
	return machine;
}

struct ingest_machine *ingest_find_machine(struct ingest *ingest, const char *name)
{
	struct ingest_machine *machine = look_up(ingest, name);
	if (machine)
		return machine;
	machine = calloc(1, sizeof(*machine));
	if (!machine)
		return NULL;
	snprintf(machine->name, sizeof(machine->name), "%s", name);
	machine->frozen_ms = -1;
	machine->next = ingest->machines;
	ingest->machines = machine;
	return machine;
}

struct ingest_disk *ingest_find_disk(struct ingest_machine *machine, const char *id)
{
	for (unsigned i = 0; i < machine->disk_count; i++)
		if (strcmp(machine->disks[i].id, id) == 0)
			return &machine->disks[i];
	return NULL;
}

struct ingest_disk *ingest_find_number(struct ingest_machine *machine, uint16_t number)
{
	for (unsigned i = 0; i < machine->disk_count; i++)
		if (machine->disks[i].present && machine->disks[i].number == number)
			return &machine->disks[i];
	return NULL;
}

void ingest_forget(struct ingest *ingest, const char *name)
{
	{
		SCOPED_LOCK(&ingest->lock);
		struct ingest_machine *machine = look_up(ingest, name);
		while (machine && machine->session) {
			ingest_end_session(machine->session);
			ingest_wait(ingest, NS_PER_S);
		}
		if (machine) {
			machine->disk_count = 0;
			machine->loaded = false;
			machine->left_ns = machine->rival_ns = 0;
			machine->boot[0] = '\0';
			memset(machine->earlier, 0, sizeof(machine->earlier));
			json_freep(&machine->figures);
			machine->figures = NULL;
		}
	}
	ingest_state_remove(ingest, name);
}

/* ── trouble ────────────────────────────────────────────────────────────────────────────── */

/* What the agent says of a disk that it cannot read. Under lock. */
static bool find_disk_error(const struct ingest_machine *machine, struct error *ret_error)
{
	struct json figures, list, item = { 0 };
	if (!machine->figures)
		return false;
	json_root(machine->figures, "figures", &figures);
	if (json_find_array(&figures, "disks", &list, NULL) <= 0)
		return false;
	while (json_each(&list, &item)) {
		struct json error;
		const char *text, *mend = NULL;
		if (json_find_object(&item, "error", &error, NULL) <= 0 ||
			json_get_text(&error, "message", &text, NULL) < 0)
			continue;
		(void)json_find_text(&error, "mend", &mend, NULL);
		error_set(ret_error, -EIO, mend, "%.400s", text);
		return true;
	}
	return false;
}

/* Under lock. */
static bool is_away(const struct ingest *ingest, const struct ingest_machine *machine,
	struct group_trouble *trouble)
{
	if (machine && machine->session)
		return false;
	int64_t left_ns = machine ? machine->left_ns : 0;
	trouble->never_came = left_ns == 0;
	trouble->away_since_ns = left_ns ? left_ns : ingest->registry->started_ns;
	return clock_realtime_ns(clock_system()) - trouble->away_since_ns > AWAY_NS;
}

bool ingest_trouble(struct ingest *ingest, const char *name, struct group_trouble *ret_trouble)
{
	struct group_trouble trouble = { 0 };
	SCOPED_LOCK(&ingest->lock);
	const struct ingest_machine *machine = look_up(ingest, name);
	snprintf(trouble.machine, sizeof(trouble.machine), "%s", name);
	bool is = is_away(ingest, machine, &trouble);
	if (!is && machine && machine->session) {
		is = find_disk_error(machine, &trouble.error);
		if (!is && machine->refusal.code) {
			trouble.error = machine->refusal;
			is = true;
		} else if (!is && machine->cut_failures >= FAILURES_IN_A_ROW) {
			trouble.error = machine->cut_error;
			is = true;
		}
	}
	if (is)
		*ret_trouble = trouble;
	return is;
}

/* Under lock. NULL: none. */
static const struct ingest_disk *find_compared(const struct ingest_machine *machine)
{
	for (unsigned i = 0; i < machine->disk_count; i++) {
		const struct ingest_disk *disk = &machine->disks[i];
		if (disk->present && !disk->whole && !disk->joining)
			return disk;
	}
	return NULL;
}

/* Under lock. */
static unsigned count_whole(const struct ingest_machine *machine)
{
	unsigned count = 0;
	for (unsigned i = 0; i < machine->disk_count; i++)
		count += machine->disks[i].present && machine->disks[i].whole;
	return count;
}

bool ingest_obstacle(struct ingest *ingest, const char *name, struct error *ret_why)
{
	char mend[160];
	SCOPED_LOCK(&ingest->lock);
	const struct ingest_machine *machine = look_up(ingest, name);
	if (!machine || !machine->session) {
		error_set(ret_why, -ENOTCONN,
			"on that machine: 'landfall-agent status', and start the service "
			"landfall-agent",
			"the agent of machine %s is not connected", name);
		return true;
	}
	const struct ingest_disk *disk = find_compared(machine);
	if (disk) {
		snprintf(mend, sizeof(mend),
			"nothing: it ends by itself; 'landfall status %s' tells how far it is",
			name);
		error_set(ret_why, -EINPROGRESS, mend,
			"machine %s: disk %s is compared with what is here first", name, disk->id);
		return true;
	}
	if (machine->cut_failures > 0)
		*ret_why = machine->cut_error;
	else if (machine->refusal.code != 0 && count_whole(machine) == 0)
		*ret_why = machine->refusal;
	else
		return false;
	return true;
}

/* The agent itself tells what it knows of the disk. Under lock. */
static bool is_told_of(const struct ingest_machine *machine, const char *id)
{
	struct json figures, list, item = { 0 };
	const char *known;
	if (!machine->figures)
		return false;
	json_root(machine->figures, "figures", &figures);
	if (json_find_array(&figures, "disks", &list, NULL) <= 0)
		return false;
	while (json_each(&list, &item))
		if (json_get_text(&item, "id", &known, NULL) == 0 && strcmp(known, id) == 0)
			return true;
	return false;
}

/* Disks that were sent once and are not any more, though nobody said that this is meant. Under
 * lock. */
static bool find_unsent(const struct ingest_machine *machine, struct error *ret_why)
{
	char ids[160] = "", mend[256];
	const char *first = NULL;
	const struct ingest_session *session = machine->session;
	if (!session || session->ending || !session->disks_known || !session->figures_known)
		return false;
	for (unsigned i = 0; i < machine->disk_count; i++) {
		const struct ingest_disk *disk = &machine->disks[i];
		if (disk->present || disk->excluded || is_told_of(machine, disk->id))
			continue;
		size_t n = strlen(ids);
		snprintf(ids + n, sizeof(ids) - n, "%s%s", first ? ", " : "", disk->id);
		first = first ? first : disk->id;
	}
	if (!first)
		return false;
	snprintf(mend, sizeof(mend),
		"on machine %s: restart landfall-agent with '--disk %s=PATH' besides the others; "
		"or, "
		"if it is meant to be left out, with '--exclude %s'",
		machine->name, first, first);
	error_set(ret_why, -ENODEV, mend,
		"the agent was started without what it protected before: %s", ids);
	return true;
}

void ingest_warnings(struct ingest *ingest, const char *name, struct group_warnings *ret_warnings)
{
	SCOPED_LOCK(&ingest->lock);
	const struct ingest_machine *machine = look_up(ingest, name);
	if (machine && !ret_warnings->rival.machine[0] &&
		ingest_rival(machine, &ret_warnings->rival.why))
		snprintf(ret_warnings->rival.machine, sizeof(ret_warnings->rival.machine), "%s",
			name);
	if (machine && !ret_warnings->unsent.machine[0] &&
		find_unsent(machine, &ret_warnings->unsent.why))
		snprintf(ret_warnings->unsent.machine, sizeof(ret_warnings->unsent.machine), "%s",
			name);
}

/* ── status ──────────────────────────────────────────────────────────────────────────────── */

static int add_disk(struct cJSON *list, const struct ingest_disk *disk)
{
	struct cJSON *item;
	uint64_t done =
		disk->whole ? disk->bytes : MIN(disk->cursor * WIRE_CHUNK_BYTES, disk->bytes);
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", disk->id);
	if (r == 0)
		r = json_add_text(item, "state", disk->whole ? "whole" : "comparing");
	if (r == 0)
		r = json_add_bool(item, "joining", disk->joining);
	if (r == 0)
		r = json_add_text(item, "capture", disk->capture);
	if (r == 0)
		r = json_add_u64(item, "compared_bytes", done);
	return r == 0 ? json_add_u64(item, "size_bytes", disk->bytes) : r;
}

static int add_disks(const struct ingest_machine *machine, struct cJSON *object)
{
	struct cJSON *list;
	int r = json_add_array(object, "disks", &list);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++)
		if (machine->disks[i].present)
			r = add_disk(list, &machine->disks[i]);
	return r;
}

static int add_machine(const struct ingest_machine *machine, struct cJSON *object)
{
	int r = json_add_bool(object, "connected", machine->session != NULL);
	if (r == 0)
		r = result_add_time(
			object, "connected_since", machine->session ? machine->connected_ns : 0);
	if (r == 0)
		r = result_add_time(object, "away_since", machine->session ? 0 : machine->left_ns);
	if (r == 0)
		r = json_add_text(object, "host", machine->host);
	if (r == 0)
		r = json_add_text(object, "address", machine->address);
	if (r == 0)
		r = json_add_text(object, "version", machine->version);
	if (r == 0)
		r = json_add_u64(
			object, "connections", machine->session ? machine->session->link_count : 0);
	if (r == 0)
		r = json_add_u64(object, "received_bytes", machine->received_bytes);
	if (r == 0)
		r = machine->frozen_ms < 0
			    ? json_add_null(object, "frozen_ms")
			    : json_add_double(object, "frozen_ms", machine->frozen_ms);
	if (r == 0)
		r = machine->cut_error.code
			    ? json_add_text(object, "cut_error", machine->cut_error.message)
			    : json_add_null(object, "cut_error");
	if (r == 0)
		r = machine->unproven[0] ? json_add_text(object, "unproven", machine->unproven)
					 : json_add_null(object, "unproven");
	if (r == 0)
		r = add_disks(machine, object);
	if (r < 0 || !machine->figures)
		return r < 0 ? r : json_add_null(object, "figures");
	struct cJSON *copy = cJSON_Duplicate(machine->figures, true);
	return copy ? json_add_item(object, "figures", copy) : -ENOMEM;
}

int ingest_machine_json(struct ingest *ingest, const char *name, struct cJSON **ret_json)
{
	static const struct ingest_machine unknown = { .frozen_ms = -1 };
	CLEANUP(json_freep) struct cJSON *object = NULL;
	SCOPED_LOCK(&ingest->lock);
	const struct ingest_machine *machine = look_up(ingest, name);
	int r = json_new_object(&object);
	if (r == 0)
		r = add_machine(machine ? machine : &unknown, object);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}
