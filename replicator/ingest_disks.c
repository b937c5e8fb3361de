/*
 * Which disks an agent protects, and whether each goes on from where it was or is compared.
 *
 * A disk goes on if the appliance remembers that this very incarnation of the agent's capture made
 * it whole, on the same device, and nothing acknowledged was lost here since. Otherwise it is
 * compared; what is remembered says so before the agent hears of it.
 */
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"

struct claim {
	const char *id, *identity, *capture;
	uint64_t incarnation, bytes;
};

static int read_claim(const struct json *at, struct claim *claim, struct error *error)
{
	int r = json_get_text(at, "id", &claim->id, error);
	if (r == 0)
		r = json_get_text(at, "identity", &claim->identity, error);
	if (r == 0)
		r = json_get_text(at, "capture", &claim->capture, error);
	if (r == 0)
		r = json_get_u64(at, "incarnation", &claim->incarnation, error);
	if (r == 0)
		r = json_get_u64(at, "size_bytes", &claim->bytes, error);
	if (r == 0 && (claim->incarnation == 0 || strlen(claim->identity) >= INGEST_IDENTITY_BYTES))
		r = json_error(at, -EBADMSG, error, "has an impossible incarnation or identity");
	return r;
}

static int find_number(
	struct history *history, const char *machine, const char *id, struct history_disk *ret_disk)
{
	char name[2 * REGISTRY_NAME_BYTES];
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	snprintf(name, sizeof(name), "%s/%s", machine, id);
	unsigned count = history_disks(history, disks, HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < count; i++) {
		if (disks[i].removed || strcmp(disks[i].name, name) != 0)
			continue;
		*ret_disk = disks[i];
		return 0;
	}
	return -ENOENT;
}

/* Under lock. */
static struct ingest_disk *make_disk(struct ingest_machine *machine, const char *id)
{
	struct ingest_disk *disk = ingest_find_disk(machine, id);
	if (disk)
		return disk;
	struct ingest_disk *disks =
		realloc(machine->disks, (machine->disk_count + 1) * sizeof(*disks));
	if (!disks)
		return NULL;
	machine->disks = disks;
	disk = &disks[machine->disk_count++];
	*disk = (struct ingest_disk){ 0 };
	snprintf(disk->id, sizeof(disk->id), "%s", id);
	return disk;
}

/* No point shows it yet, or any more: those of the other disks go on without it. Before the group's
 * first point there is nothing to go on. */
static bool is_joining(struct group *group, const struct history_disk *disk)
{
	struct point newest;
	if (history_point_newest(group_history(group), 0, INT64_MAX, &newest) < 0)
		return false;
	return disk->added_point > newest.number || group_is_absent(group, disk->id);
}

/* Takes the claim over into what is remembered. Under lock. */
static void remember(
	struct ingest_disk *disk, const struct claim *claim, const struct history_disk *there)
{
	bool same = disk->incarnation == claim->incarnation &&
		    strcmp(disk->identity, claim->identity) == 0;
	if (!same || there->resync_needed) {
		if (disk->whole && disk->incarnation != 0)
			log_info("disk %s is compared with its source: %s", there->name,
				same ? "acknowledged data was lost here"
				     : "its capture of changes began anew");
		disk->whole = false;
		disk->cursor = 0;
	}
	/* What grew is zeros here and unknown there: the comparison of the old part stays good. */
	if (same && disk->whole && there->size_bytes > disk->bytes) {
		disk->whole = false;
		disk->cursor = disk->bytes / WIRE_CHUNK_BYTES;
	}
	disk->incarnation = claim->incarnation;
	snprintf(disk->identity, sizeof(disk->identity), "%s", claim->identity);
	snprintf(disk->capture, sizeof(disk->capture), "%.*s", (int)sizeof(disk->capture) - 1,
		claim->capture);
	disk->present = disk->named = true;
	disk->number = there->id;
	disk->bytes = there->size_bytes;
	disk->source_bytes = claim->bytes;
}

static int take_disk(struct ingest_link *link, const struct claim *claim, struct error *error)
{
	struct ingest_machine *machine = link->session->machine;
	struct history_disk there;
	SCOPED_LOCK(&link->session->group->naming);
	int r = machine_set_disk(link->ingest->registry, machine->name, claim->id,
		round_up(claim->bytes, MIB), error);
	if (r < 0)
		return r;
	r = find_number(group_history(link->hold.group), machine->name, claim->id, &there);
	if (r < 0)
		return error_set(error, r, NULL, "disk %s is not in the journal: %s", claim->id,
			strerrordesc_np(-r));
	bool joining = is_joining(link->hold.group, &there);
	SCOPED_LOCK(&link->ingest->lock);
	struct ingest_disk *disk = make_disk(machine, claim->id);
	if (!disk)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	remember(disk, claim, &there);
	disk->joining = joining && !disk->whole;
	if (disk->joining)
		log_info("disk %s: recovery points of the others go on until it is compared",
			there.name);
	return 0;
}

static int answer_disk(
	struct ingest_link *link, struct cJSON *list, const char *id, const struct error *refusal)
{
	struct cJSON *item, *error;
	SCOPED_LOCK(&link->ingest->lock);
	const struct ingest_disk *disk = ingest_find_disk(link->session->machine, id);
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", id);
	if (r == 0 && (refusal->code != 0 || !disk)) {
		r = json_add_object(item, "error", &error);
		if (r == 0)
			r = json_add_text(error, "message", refusal->message);
		return r == 0 ? json_add_text(error, "mend", refusal->mend) : r;
	}
	if (r == 0)
		r = json_add_u64(item, "disk", disk->number);
	if (r == 0)
		r = json_add_text(item, "state", disk->whole ? "continue" : "compare");
	if (r == 0)
		r = json_add_bool(item, "joining", disk->joining);
	return r == 0 ? json_add_u64(item, "cursor", disk->cursor) : r;
}

/* A list of disks begins. Those that were there stay so until its end: their data may be on their
 * way on other connections. */
static void begin_naming(struct ingest_link *link)
{
	SCOPED_LOCK(&link->ingest->lock);
	struct ingest_machine *machine = link->session->machine;
	link->session->disks_known = false;
	for (unsigned i = 0; i < machine->disk_count; i++)
		machine->disks[i].named = machine->disks[i].excluded = false;
}

/* Which of those that are not named are meant not to be. */
static int note_excluded(struct ingest_link *link, const struct json *message, struct error *error)
{
	struct json list;
	const char *pattern;
	int r = json_find_array(message, "excluded", &list, error);
	if (r <= 0)
		return r;
	SCOPED_LOCK(&link->ingest->lock);
	struct ingest_machine *machine = link->session->machine;
	r = 0;
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);) {
		r = json_as_text(&item, &pattern, error);
		for (unsigned i = 0; r == 0 && i < machine->disk_count; i++)
			machine->disks[i].excluded |=
				fnmatch(pattern, machine->disks[i].id, 0) == 0;
	}
	return r;
}

/* What the journal has of the machine is known, too, when what was remembered is lost, or another
 * appliance had the group: who does not name it is to be told of. */
static int recall_disks(struct ingest_link *link)
{
	struct ingest_machine *machine = link->session->machine;
	size_t n = strlen(machine->name);
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	unsigned count = history_disks(group_history(link->hold.group), disks, HISTORY_MAX_DISKS);
	SCOPED_LOCK(&link->ingest->lock);
	for (unsigned i = 0; i < MIN(count, (unsigned)HISTORY_MAX_DISKS); i++)
		if (!disks[i].removed && strncmp(disks[i].name, machine->name, n) == 0 &&
			disks[i].name[n] == '/' && !make_disk(machine, disks[i].name + n + 1))
			return -ENOMEM;
	return 0;
}

/* Those that are not named any more are no part of the session; their points and data stay. */
static void forget_unnamed(struct ingest_link *link)
{
	SCOPED_LOCK(&link->ingest->lock);
	struct ingest_machine *machine = link->session->machine;
	for (unsigned i = 0; i < machine->disk_count; i++) {
		struct ingest_disk *disk = &machine->disks[i];
		if (disk->present && !disk->named)
			log_info("machine %s: its agent protects disk %s no longer", machine->name,
				disk->id);
		disk->present &= disk->named;
	}
}

int ingest_take_disks(struct ingest_link *link, const struct json *message, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *answer = NULL;
	struct cJSON *answers;
	struct json list;
	unsigned count = 0;
	int r = json_get_array(message, "disks", &list, error);
	if (r == 0)
		r = json_new_object(&answer);
	if (r == 0)
		r = json_add_text(answer, "type", "disks");
	if (r == 0)
		r = json_add_array(answer, "disks", &answers);
	if (r < 0)
		return r;
	struct error refused = { 0 };
	begin_naming(link);
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);) {
		struct claim claim;
		struct error refusal = { 0 };
		if (++count > WIRE_MAX_DISKS)
			return json_error(&list, -EBADMSG, error, "has too many disks");
		r = read_claim(&item, &claim, error);
		if (r < 0)
			return r;
		if (take_disk(link, &claim, &refusal) < 0) {
			refused = refusal;
			log_warning("machine %s: its agent's disk %s is refused: %s",
				link->session->machine->name, claim.id, refusal.message);
		}
		r = answer_disk(link, answers, claim.id, &refusal);
	}
	forget_unnamed(link);
	if (r == 0 && (r = recall_disks(link)) < 0)
		error_set(error, r, NULL, "out of memory");
	if (r == 0)
		r = note_excluded(link, message, error);
	if (r == 0)
		r = ingest_state_save(link->ingest, link->session->machine, error);
	if (r == 0)
		r = connection_send_control(link->connection, answer, NULL, error);
	SCOPED_LOCK(&link->ingest->lock);
	link->session->disks_known = r == 0;
	link->session->machine->refusal = refused;
	pthread_cond_broadcast(&link->ingest->changed);
	return r;
}

int ingest_take_compared(struct ingest_link *link, const struct json *message, struct error *error)
{
	struct ingest_machine *machine = link->session->machine;
	uint64_t number, cursor;
	bool done = false;
	int r = json_get_u64(message, "disk", &number, error);
	if (r == 0)
		r = json_get_u64(message, "cursor", &cursor, error);
	if (r == 0)
		r = json_find_bool(message, "done", &done, error);
	if (r < 0)
		return r;
	struct history_disk there;
	if (number > UINT16_MAX ||
		history_disk(group_history(link->hold.group), (uint16_t)number, &there) < 0)
		return error_set(error, -EPERM, NULL, "there is no disk %" PRIu64, number);
	{
		SCOPED_LOCK(&link->ingest->lock);
		struct ingest_disk *disk = ingest_find_number(machine, (uint16_t)number);
		if (!disk)
			return error_set(error, -EPERM, NULL,
				"disk %" PRIu64 " is none of this machine's", number);
		disk->cursor = MIN(cursor, disk->bytes / WIRE_CHUNK_BYTES);
		disk->whole = done;
		disk->joining &= !done;
		disk->resynced = done && there.resync_needed;
		pthread_cond_broadcast(&link->ingest->changed);
	}
	return ingest_state_save(link->ingest, machine, error);
}

/* Under lock. */
static bool can_be_shown(struct ingest *ingest, const struct history_disk *there)
{
	for (struct ingest_machine *m = ingest->machines; m; m = m->next) {
		size_t n = strlen(m->name);
		if (strncmp(there->name, m->name, n) != 0 || there->name[n] != '/')
			continue;
		const struct ingest_disk *disk = ingest_find_disk(m, there->name + n + 1);
		return disk && m->session && disk->present && !disk->joining;
	}
	return false;
}

int ingest_absent_disks(struct ingest_group *g, uint16_t *ret_disks, unsigned *ret_count)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	unsigned count = history_disks(group_history(g->hold.group), disks, HISTORY_MAX_DISKS);
	unsigned absent = 0;
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < MIN(count, (unsigned)HISTORY_MAX_DISKS); i++)
		if (!disks[i].removed && !can_be_shown(g->ingest, &disks[i]))
			ret_disks[absent++] = disks[i].id;
	*ret_count = absent;
	return 0;
}

/* ── comparing again ─────────────────────────────────────────────────────────────────────── */

static int tell_resync(struct ingest_session *session, uint16_t number)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct ingest_link *link;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "resync");
	if (r == 0)
		r = json_add_u64(json, "disk", number);
	if (r < 0)
		return r;
	pthread_mutex_lock(&session->ingest->lock);
	link = session->links[0];
	pthread_mutex_unlock(&session->ingest->lock);
	/* The session is pinned by the caller, so that the first connection outlives the call. */
	return link ? connection_send_control(link->connection, json, NULL, NULL) : -ECONNRESET;
}

int ingest_check_damage(struct ingest_session *session, struct history *history)
{
	struct ingest *ingest = session->ingest;
	struct ingest_machine *machine = session->machine;
	int r = 0;
	for (unsigned i = 0;; i++) {
		struct history_disk there;
		uint16_t number;
		{
			SCOPED_LOCK(&ingest->lock);
			if (i >= machine->disk_count)
				return r;
			struct ingest_disk *disk = &machine->disks[i];
			if (!disk->present || !disk->whole || disk->resynced)
				continue;
			number = disk->number;
			if (history_disk(history, number, &there) < 0 || !there.resync_needed)
				continue;
			disk->whole = false;
			disk->cursor = 0;
		}
		log_warning("disk %s is compared with its source: acknowledged data was lost here",
			there.name);
		if (ingest_state_save(ingest, machine, NULL) == 0)
			r = tell_resync(session, number);
	}
}

int ingest_resync(struct ingest *ingest, const char *name, const char *id, struct error *error)
{
	struct ingest_session *session;
	struct ingest_machine *machine;
	uint16_t numbers[HISTORY_MAX_DISKS];
	unsigned count = 0, found = 0;
	{
		SCOPED_LOCK(&ingest->lock);
		machine = ingest_find_machine(ingest, name);
	}
	if (!machine)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	if (ingest_state_load(ingest, machine) < 0)
		return error_set(
			error, -EIO, NULL, "machine %s: its agent's state is unreadable", name);
	{
		SCOPED_LOCK(&ingest->lock);
		session = machine->session && !machine->session->ending ? machine->session : NULL;
		if (session)
			session->pins++;
	}
	{
		SCOPED_LOCK(&ingest->lock);
		for (unsigned i = 0; i < machine->disk_count; i++) {
			struct ingest_disk *disk = &machine->disks[i];
			if (id && strcmp(id, disk->id) != 0)
				continue;
			found++;
			disk->whole = false;
			disk->cursor = 0;
			if (disk->present && count < HISTORY_MAX_DISKS)
				numbers[count++] = disk->number;
		}
	}
	int r = found > 0 || !id ? ingest_state_save(ingest, machine, error)
				 : error_set(error, -ENOENT, "'landfall machine show' tells them",
					   "machine %s has no disk %.63s", name, id);
	for (unsigned i = 0; r == 0 && session && i < count; i++)
		r = tell_resync(session, numbers[i]);
	if (session) {
		SCOPED_LOCK(&ingest->lock);
		session->pins--;
		pthread_cond_broadcast(&ingest->changed);
	}
	return r;
}
