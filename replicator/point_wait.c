/*
 * Having a point made by a group's source, and telling who asked what it waits for meanwhile.
 *
 * The source may be away, or busy with comparing its disks: whoever asked is told so within a
 * second or two, if he wants to be (`point.waiting`), and again when it is something else. What
 * will not go away by itself ends the waiting.
 *
 * Threads: any; it blocks. What is in the way is looked up under the registry's lock; agents are
 * asked for, and peers told, outside.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/agents.h"
#include "replicator/ebs.h"
#include "replicator/ingest.h"
#include "replicator/registry_internal.h"

#define REQUEST_MS 120000u /* a large machine may take its time to be quiesced */
#define LOOK_MS 500u

/* Why no point can come of an agent that never was: nobody has been let in for the machine. */
static int check_enrolled(struct registry *registry, const char *machine, struct error *error)
{
	char mend[256];
	int64_t ends_ns;
	bool overdue;
	struct error why = { 0 };
	if (!registry->agents || agents_problem(registry->agents, &why) < 0)
		return error_set(error, -ENOTCONN,
			why.mend[0] ? why.mend : "see [appliance] listen",
			"machine %s: agents are not answered here%s%s", machine,
			why.message[0] ? ": " : "", why.message);
	if (agents_certificate_ends(registry->agents, machine, &ends_ns, &overdue))
		return 0;
	snprintf(mend, sizeof(mend),
		"'landfall agent install USER@HOST --machine %s', or 'landfall key create "
		"--machine "
		"%s' and landfall-agent enroll there",
		machine, machine);
	return error_set(error, -ENOTCONN, mend,
		"machine %s has no agent: none is enrolled, or its certificate is revoked or has "
		"ended",
		machine);
}

/* What keeps the group's machines from making a point, if it is known: `ret_why`, and whose agent
 * is not connected, if that is it. Under the registry's lock. */
static void look_locked(
	const struct hold *hold, struct error *ret_why, char ret_away[static REGISTRY_NAME_BYTES])
{
	struct registry *registry = hold->registry;
	for (struct machine_entry *m = registry->machines; m && ret_why->code == 0; m = m->next) {
		struct group_trouble trouble;
		if (m->group != hold->entry || m->removing)
			continue;
		if (strcmp(m->source, "ebs") == 0 && registry->ebs &&
			ebs_trouble(registry->ebs, m->name, &trouble))
			*ret_why = trouble.error;
		if (strcmp(m->source, "agent") == 0 && registry->ingest &&
			ingest_obstacle(registry->ingest, m->name, ret_why) &&
			ret_why->code == -ENOTCONN)
			memcpy(ret_away, m->name, REGISTRY_NAME_BYTES);
	}
}

/* 0: nothing that is known is in the way, or something that may go away by itself, in `ret_why`
 * (code 0: nothing). Else it never will. */
static int find_obstacle(const struct hold *hold, struct error *ret_why)
{
	struct error why = { 0 };
	char away[REGISTRY_NAME_BYTES] = "";
	{
		SCOPED_LOCK(&hold->registry->lock);
		if (hold->entry->paused)
			return error_set(ret_why, -EBUSY, "run 'landfall machine resume'",
				"group %s is paused", hold->entry->name);
		look_locked(hold, &why, away);
	}
	/* Not under the lock: whoever shuts the agents' door waits for sessions, which take it. */
	int r = away[0] ? check_enrolled(hold->registry, away, &why) : 0;
	*ret_why = why;
	return r;
}

static void tell(struct control_peer *peer, const struct hold *hold, const struct error *why)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "machine", hold->machine);
	if (r == 0)
		r = json_add_text(json, "message", why->message);
	if (r == 0)
		r = json_add_text(json, "mend", why->mend);
	/* One that is not told still gets its answer. */
	if (r == 0)
		(void)control_notify(peer, "point.waiting", json);
}

int registry_ask_point(const struct hold *hold, uint8_t kind, struct control_peer *peer,
	struct error *error, uint64_t *ret_number)
{
	struct error why = { 0 };
	char told[sizeof(why.message)] = "";
	uint64_t request;
	int r = find_obstacle(hold, &why);
	if (r < 0)
		return *error = why, r;
	r = group_ask_point(hold->group, kind, error, &request);
	for (unsigned ms = 0; r == 0; ms += LOOK_MS) {
		r = group_wait_request(hold->group, request, kind, LOOK_MS, error, ret_number);
		if (r == -ETIMEDOUT && jobs_are_stopping(hold->registry->jobs))
			return error_set(error, -ESHUTDOWN, "try again in a moment",
				"the appliance is stopping");
		if (r != -ETIMEDOUT || hold_is_ending(hold))
			return r;
		int end = find_obstacle(hold, &why);
		if (end < 0)
			return *error = why, end;
		if (ms >= REQUEST_MS)
			break;
		if (peer && ms > 0 && why.code != 0 && strcmp(told, why.message) != 0) {
			tell(peer, hold, &why);
			snprintf(told, sizeof(told), "%s", why.message);
		}
		r = 0;
	}
	return r == -ETIMEDOUT && why.code != 0
		       ? error_set(error, r, why.mend, "no point was made within %u s: %s",
				 REQUEST_MS / 1000u, why.message)
		       : r;
}
