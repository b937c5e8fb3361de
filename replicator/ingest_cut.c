/*
 * Cuts: bringing all machines of a group to one instant, and sealing it.
 *
 *	point due ─► prepare all ─► all ready ─► freeze all ─► all frozen ─► thaw all ─► all marked
 *	                                                                                    │
 *	                                     done, with the point's number  ◄─ seal ◄─ all arrived
 *
 * A machine that is its group alone does prepare to mark by itself. The group's thread
 * (ingest_group.c) conducts; agents' answers are noted in their sessions by the threads that
 * receive them. Whatever goes wrong ends this cut for everybody: what an agent has sent for this
 * one is there for the next, so nothing is lost but this point.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"

#define PREPARE_NS (120 * NS_PER_S) /* passes over what changed, and sending it */
#define FREEZE_NS (3 * NS_PER_S)    /* others stand still meanwhile */
#define MARK_NS (120 * NS_PER_S)
#define MEMBERS_MAX HISTORY_MAX_DISKS

/* The sessions of all the group's machines, pinned. */
struct members {
	struct ingest_session *sessions[MEMBERS_MAX];
	unsigned count;
	int64_t begun_ns; /* the cut, by our clock */
};

/* ── who is there ────────────────────────────────────────────────────────────────────────── */

static unsigned list_names(
	struct ingest_group *g, char (*ret_names)[REGISTRY_NAME_BYTES], unsigned max)
{
	struct registry *registry = g->ingest->registry;
	unsigned count = 0;
	SCOPED_LOCK(&registry->lock);
	for (struct machine_entry *m = registry->machines; m && count < max; m = m->next)
		if (m->group == g->hold.entry && !m->removing)
			memcpy(ret_names[count++], m->name, sizeof(m->name));
	return count;
}

static void unpin(struct ingest_group *g, struct members *members)
{
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < members->count; i++)
		members->sessions[i]->pins--;
	members->count = 0;
	pthread_cond_broadcast(&g->ingest->changed);
}

/* Under lock. */
static bool is_whole(const struct ingest_session *session)
{
	const struct ingest_machine *machine = session->machine;
	unsigned whole = 0;
	if (!session->disks_known || session->ending)
		return false;
	for (unsigned i = 0; i < machine->disk_count; i++) {
		const struct ingest_disk *disk = &machine->disks[i];
		if (disk->present && !disk->whole && !disk->joining)
			return false;
		whole += disk->present && disk->whole;
	}
	return whole > 0;
}

/* All of them, connected and whole; none otherwise. */
static bool gather(struct ingest_group *g, struct members *members)
{
	CLEANUP_FREE char(*names)[REGISTRY_NAME_BYTES] = calloc(MEMBERS_MAX, sizeof(*names));
	unsigned count = names ? list_names(g, names, MEMBERS_MAX) : 0;
	bool all = count > 0;
	{
		SCOPED_LOCK(&g->ingest->lock);
		for (unsigned i = 0; all && i < count; i++) {
			struct ingest_machine *m = ingest_find_machine(g->ingest, names[i]);
			all = m && m->session && m->session->group == g && is_whole(m->session);
			if (!all)
				break;
			m->session->pins++;
			members->sessions[members->count++] = m->session;
		}
	}
	if (!all)
		unpin(g, members);
	return all;
}

/* ── talking ─────────────────────────────────────────────────────────────────────────────── */

static int make(const char *type, uint64_t cut, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", type);
	if (r == 0)
		r = json_add_u64(json, "cut", cut);
	if (r == 0)
		*ret_json = TAKE(json);
	return r;
}

static int tell(struct ingest_session *session, const struct cJSON *json)
{
	struct ingest_link *link;
	{
		SCOPED_LOCK(&session->ingest->lock);
		link = session->links[0];
	}
	/* Pinned: what was listed outlives this call. */
	return link ? connection_send_control(link->connection, json, NULL, NULL) : -ECONNRESET;
}

static int tell_all(struct members *members, const char *type, uint64_t cut)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = make(type, cut, &json);
	for (unsigned i = 0; r == 0 && i < members->count; i++)
		r = tell(members->sessions[i], json);
	return r;
}

static int tell_prepare(struct members *members, uint64_t cut, uint8_t kind)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = make("cut.prepare", cut, &json);
	if (r == 0)
		r = json_add_text(
			json, "kind", kind == POINT_APPLICATION ? "application" : "crash");
	if (r == 0)
		r = json_add_bool(json, "alone", members->count == 1);
	if (r == 0)
		r = json_add_u64(json, "deadline_ms", PREPARE_NS / NS_PER_MS);
	for (unsigned i = 0; r == 0 && i < members->count; i++)
		r = tell(members->sessions[i], json);
	return r;
}

static void tell_failed(struct members *members, uint64_t cut, const struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = make("cut.failed", cut, &json);
	if (r == 0)
		r = json_add_text(json, "message", error->message);
	if (r == 0)
		r = json_add_text(json, "mend", error->mend);
	for (unsigned i = 0; r == 0 && i < members->count; i++)
		(void)tell(members->sessions[i], json);
}

static int tell_done(struct members *members, uint64_t cut, uint64_t point)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = make("cut.done", cut, &json);
	if (r == 0)
		r = json_add_u64(json, "point", point);
	for (unsigned i = 0; r == 0 && i < members->count; i++)
		(void)tell(members->sessions[i], json);
	return r;
}

/* ── waiting ─────────────────────────────────────────────────────────────────────────────── */

/* Everything that the mark names has been taken in. Under lock. */
static bool has_arrived(const struct ingest_session *session)
{
	for (unsigned i = 0; i < INGEST_LINKS_MAX; i++) {
		uint64_t sent = session->cut.sent[i];
		if (sent > 0 && (!session->links[i] || session->links[i]->staged_sequence < sent))
			return false;
	}
	return true;
}

static bool is_at(const struct ingest_session *session, enum cut_stage stage)
{
	enum cut_stage at = session->cut.stage;
	if (stage == CUT_MARKED)
		return at == CUT_UNCHANGED || (at == CUT_MARKED && has_arrived(session));
	return at >= stage;
}

static int lost(const struct ingest_session *session, struct error *error)
{
	return error_set(error, -ECONNRESET, "see that the agent runs and reaches the appliance",
		"the agent of machine %s went away", session->machine->name);
}

static uint64_t received_bytes(const struct members *members)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < members->count; i++)
		sum += members->sessions[i]->machine->received_bytes;
	return sum;
}

/* Until all are at that stage, or further. While anything arrives patience begins anew, unless
 * somebody may be standing still: what an outage has left to send takes its time. */
static int await(struct ingest_group *g, struct members *members, enum cut_stage stage,
	int64_t patience_ns, struct error *error)
{
	int64_t until = clock_monotonic_ns(clock_system()) + patience_ns;
	SCOPED_LOCK(&g->ingest->lock);
	uint64_t received = received_bytes(members);
	for (;;) {
		const struct ingest_session *waiting = NULL;
		for (unsigned i = 0; i < members->count; i++) {
			const struct ingest_session *s = members->sessions[i];
			if (s->cut.stage == CUT_FAILED) {
				if (error)
					*error = s->cut.error;
				return s->cut.error.code;
			}
			if (s->ending)
				return lost(s, error);
			if (!is_at(s, stage))
				waiting = s;
		}
		if (!waiting)
			return 0;
		if (stage != CUT_FROZEN && received_bytes(members) != received) {
			received = received_bytes(members);
			until = clock_monotonic_ns(clock_system()) + patience_ns;
		}
		int64_t left = until - clock_monotonic_ns(clock_system());
		if (left <= 0 || g->stopping)
			return error_set(error, g->stopping ? -ECANCELED : -ETIMEDOUT,
				"see the agent's log; a slow network or disk makes cuts late",
				"the agent of machine %s did not answer a cut in time",
				waiting->machine->name);
		ingest_wait(g->ingest, left);
	}
}

/* ── a cut ───────────────────────────────────────────────────────────────────────────────── */

static uint64_t begin(struct ingest_group *g, struct members *members)
{
	SCOPED_LOCK(&g->ingest->lock);
	uint64_t number = ++g->ingest->last_cut;
	members->begun_ns = clock_realtime_ns(clock_system());
	for (unsigned i = 0; i < members->count; i++)
		members->sessions[i]->cut =
			(struct ingest_cut){ .number = number, .stage = CUT_ASKED };
	return number;
}

static bool all_unchanged(struct ingest_group *g, const struct members *members)
{
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < members->count; i++)
		if (members->sessions[i]->cut.stage != CUT_UNCHANGED)
			return false;
	return true;
}

/* Who had nothing new when asked may have by now: they are frozen like the rest. */
static void freeze_everybody(struct ingest_group *g, struct members *members)
{
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < members->count; i++)
		if (members->sessions[i]->cut.stage == CUT_UNCHANGED)
			members->sessions[i]->cut.stage = CUT_READY;
}

static int bring_together(
	struct ingest_group *g, struct members *members, uint64_t cut, struct error *error)
{
	if (members->count == 1)
		return await(g, members, CUT_MARKED, PREPARE_NS + MARK_NS, error);
	int r = await(g, members, CUT_READY, PREPARE_NS, error);
	if (r < 0 || all_unchanged(g, members))
		return r;
	freeze_everybody(g, members);
	r = tell_all(members, "cut.freeze", cut);
	if (r == 0)
		r = await(g, members, CUT_FROZEN, FREEZE_NS, error);
	if (r == 0)
		r = tell_all(members, "cut.thaw", cut);
	return r == 0 ? await(g, members, CUT_MARKED, MARK_NS, error) : r;
}

static bool all_whole(struct ingest_group *g, const struct members *members)
{
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < members->count; i++)
		if (!is_whole(members->sessions[i]))
			return false;
	return true;
}

/* Whether every disk that has lost data was compared since. If not, the seal is refused, and before
 * the next cut the agent is told to compare. */
static bool all_resynced(struct ingest_group *g, const struct members *members)
{
	struct history *history = group_history(g->hold.group);
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < members->count; i++) {
		const struct ingest_machine *machine = members->sessions[i]->machine;
		for (unsigned d = 0; d < machine->disk_count; d++) {
			struct history_disk there;
			if (machine->disks[d].present && !machine->disks[d].resynced &&
				history_disk(history, machine->disks[d].number, &there) == 0 &&
				there.resync_needed)
				return false;
		}
	}
	return true;
}

/* Whether the applications of all machines were at rest; else which were not, and why. Under lock.
 */
static bool all_at_rest(const struct members *members, struct error *ret_error)
{
	for (unsigned i = 0; i < members->count; i++) {
		const struct ingest_session *session = members->sessions[i];
		if (session->cut.application)
			continue;
		if (session->cut.app_error.code)
			*ret_error = session->cut.app_error;
		else
			error_set(ret_error, -EIO, NULL,
				"the agent of machine %s says nothing of its applications",
				session->machine->name);
		return false;
	}
	return true;
}

int64_t ingest_cut_time(int64_t told_ns, int64_t begun_ns, int64_t now_ns)
{
	return MIN(MAX(told_ns, begun_ns), MAX(now_ns, begun_ns));
}

/* The point's time is the latest at which one of them stopped: by then all stood still. */
static int seal(struct ingest_group *g, struct members *members, const struct group_due *due,
	struct error *error, uint64_t *ret_point)
{
	struct seal seal = { .kind = due->kind };
	struct error app_error = { 0 };
	double frozen_ms = 0;
	{
		SCOPED_LOCK(&g->ingest->lock);
		for (unsigned i = 0; i < members->count; i++) {
			seal.time_ns = MAX(seal.time_ns, members->sessions[i]->cut.time_ns);
			frozen_ms = MAX(frozen_ms, members->sessions[i]->cut.frozen_ms);
		}
		if (due->kind == POINT_APPLICATION && !all_at_rest(members, &app_error))
			seal.kind = POINT_CRASH;
	}
	seal.time_ns =
		ingest_cut_time(seal.time_ns, members->begun_ns, clock_realtime_ns(clock_system()));
	SCOPED_LOCK(&g->naming);
	if (!all_whole(g, members))
		return error_set(error, -EAGAIN, NULL, "disks came or went meanwhile");
	uint16_t absent[HISTORY_MAX_DISKS];
	unsigned absent_count = 0;
	int r = ingest_absent_disks(g, absent, &absent_count);
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	r = group_set_absences(g->hold.group, absent, absent_count, error);
	if (r < 0)
		return r;
	bool resynced = all_resynced(g, members);
	r = group_seal(g->hold.group, &seal, due, resynced, error, ret_point);
	if (r == 0 && app_error.code)
		group_app_failed(g->hold.group, due, &app_error);
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; r == 0 && i < members->count; i++) {
		struct ingest_machine *machine = members->sessions[i]->machine;
		machine->frozen_ms = frozen_ms;
		memcpy(machine->unproven, members->sessions[i]->cut.unproven,
			sizeof(machine->unproven));
		for (unsigned d = 0; d < machine->disk_count; d++)
			machine->disks[d].resynced = false;
	}
	return r;
}

static int conduct(struct ingest_group *g, struct members *members, const struct group_due *due,
	struct error *error)
{
	uint64_t cut = begin(g, members), point = 0;
	int r = tell_prepare(members, cut, due->kind);
	if (r < 0)
		error_set(error, r, NULL, "an agent could not be told of a cut: %s",
			strerrordesc_np(-r));
	if (r == 0)
		r = bring_together(g, members, cut, error);
	if (r == 0 && all_unchanged(g, members)) {
		struct point newest;
		group_point_unchanged(g->hold.group, due);
		if (history_point_newest(group_history(g->hold.group), 0, INT64_MAX, &newest) == 0)
			point = newest.number;
	} else if (r == 0) {
		r = seal(g, members, due, error, &point);
	}
	if (r == 0)
		return tell_done(members, cut, point);
	tell_failed(members, cut, error);
	return r;
}

static void note_result(struct ingest_group *g, struct members *members, const struct error *error)
{
	SCOPED_LOCK(&g->ingest->lock);
	for (unsigned i = 0; i < members->count; i++) {
		members->sessions[i]->cut.stage = CUT_NONE;
		struct ingest_machine *machine = members->sessions[i]->machine;
		machine->cut_error = *error;
		machine->cut_failures = error->code ? machine->cut_failures + 1 : 0;
	}
}

int ingest_try_cut(struct ingest_group *g, const struct group_due *due)
{
	struct members members = { 0 };
	struct error error = { 0 };
	if (!gather(g, &members))
		return -EAGAIN;
	for (unsigned i = 0; i < members.count; i++)
		(void)ingest_check_damage(members.sessions[i], group_history(g->hold.group));
	int r = all_whole(g, &members) ? conduct(g, &members, due, &error) : -EAGAIN;
	if (r < 0 && r != -EAGAIN)
		log_warning("group %s: no point was made: %s", g->name, error.message);
	note_result(g, &members, &error);
	unpin(g, &members);
	return r;
}

/* ── what agents say ─────────────────────────────────────────────────────────────────────── */

static void read_failure(struct ingest_link *link, const struct json *message, struct error *ret)
{
	const char *text = "without a reason", *mend = NULL;
	(void)json_find_text(message, "message", &text, NULL);
	(void)json_find_text(message, "mend", &mend, NULL);
	error_set(ret, -EIO, mend, "machine %s: %.300s", link->session->machine->name, text);
}

static int read_mark(struct ingest_link *link, const struct json *message, struct ingest_cut *cut,
	struct error *error)
{
	struct json sent, item = { 0 }, why;
	uint64_t frozen_us = 0;
	const char *kind = "crash", *unproven = "";
	int r = json_get_i64(message, "time", &cut->time_ns, error);
	if (r == 0)
		r = json_find_u64(message, "frozen_us", &frozen_us, error);
	if (r >= 0)
		r = json_find_text(message, "kind", &kind, error);
	if (r >= 0)
		r = json_find_object(message, "app_error", &why, error);
	if (r > 0)
		read_failure(link, &why, &cut->app_error);
	if (r >= 0)
		r = json_find_text(message, "unproven", &unproven, error);
	snprintf(cut->unproven, sizeof(cut->unproven), "%s", unproven);
	cut->application = strcmp(kind, "application") == 0;
	if (r >= 0)
		r = json_get_array(message, "sent", &sent, error);
	if (r < 0)
		return r;
	cut->frozen_ms = (double)frozen_us / 1000.0;
	for (unsigned i = 0; json_each(&sent, &item); i++) {
		if (i == INGEST_LINKS_MAX)
			return json_error(&sent, -EBADMSG, error, "has too many connections");
		r = json_as_u64(&item, &cut->sent[i], error);
		if (r < 0)
			return r;
	}
	return 0;
}

int ingest_take_cut(
	struct ingest_link *link, const char *type, const struct json *message, struct error *error)
{
	static const struct {
		const char *type;
		enum cut_stage from, to;
	} steps[] = {
		{ "cut.ready", CUT_ASKED, CUT_READY },
		{ "cut.unchanged", CUT_ASKED, CUT_UNCHANGED },
		{ "cut.frozen", CUT_READY, CUT_FROZEN },
		{ "mark", CUT_ASKED, CUT_MARKED },
		{ "cut.failed", CUT_ASKED, CUT_FAILED },
	};
	struct ingest_session *session = link->session;
	struct ingest_cut cut = { 0 };
	uint64_t number;
	unsigned step = 0;
	int r = json_get_u64(message, "cut", &number, error);
	while (r == 0 && step < ARRAY_SIZE(steps) && strcmp(steps[step].type, type) != 0)
		step++;
	if (r == 0 && step == ARRAY_SIZE(steps))
		r = error_set(
			error, -EBADMSG, NULL, "no message of the type %.40s is known here", type);
	if (r == 0 && steps[step].to == CUT_MARKED)
		r = read_mark(link, message, &cut, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&link->ingest->lock);
	/* Of a cut that is over already: the answer crossed our cut.failed. */
	if (session->cut.number != number || session->cut.stage < steps[step].from ||
		session->cut.stage == CUT_MARKED)
		return 0;
	if (steps[step].to == CUT_FAILED)
		read_failure(link, message, &session->cut.error);
	if (steps[step].to == CUT_MARKED) {
		cut.number = number;
		session->cut = cut;
	}
	session->cut.stage = steps[step].to;
	pthread_cond_broadcast(&link->ingest->changed);
	return 0;
}
