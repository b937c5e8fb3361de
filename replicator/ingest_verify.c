/*
 * Verifying a machine's current content against its source, disk after disk.
 *
 * The agent compares in rounds and tells how far it is. What was written while it looked can only
 * be proven after a recovery point has carried it over, so after each round one is asked for; so is
 * one at the end of a repair, since repairing marks what differs as changed.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/ingest_internal.h"

#define LOOK_NS NS_PER_S
#define POINT_MS 1000u
#define ROUNDS_MAX 100u

int ingest_take_verified(struct ingest_link *link, const struct json *message, struct error *error)
{
	struct ingest_verified v = { 0 };
	uint64_t disk;
	int r = json_get_u64(message, "disk", &disk, error);
	if (r == 0)
		r = json_get_u64(message, "round", &v.round, error);
	if (r == 0)
		r = json_get_u64(message, "chunks", &v.chunks, error);
	if (r == 0)
		r = json_get_u64(message, "proven", &v.proven, error);
	if (r == 0)
		r = json_get_u64(message, "differing", &v.differing, error);
	if (r == 0)
		r = json_get_bool(message, "round_over", &v.round_over, error);
	if (r == 0)
		r = json_get_bool(message, "done", &v.done, error);
	if (r == 0)
		r = json_find_u64(message, "unverified", &v.unverified, error);
	if (r >= 0)
		r = json_find_bool(message, "ended", &v.ended, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&link->ingest->lock);
	if (disk != link->session->verified.disk)
		return 0; /* of a verification that was given up */
	v.disk = (uint16_t)disk;
	v.rounds_over = link->session->verified.rounds_over + v.round_over;
	link->session->verified = v;
	pthread_cond_broadcast(&link->ingest->changed);
	return 0;
}

static int say(struct ingest_session *session, uint16_t disk, bool repair)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct ingest_link *link;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "verify");
	if (r == 0 && disk != 0)
		r = json_add_u64(json, "disk", disk);
	if (r == 0)
		r = json_add_bool(json, "repair", repair);
	if (r < 0)
		return r;
	{
		SCOPED_LOCK(&session->ingest->lock);
		link = session->links[0];
		session->verified = (struct ingest_verified){ .disk = disk };
	}
	/* Pinned: what was listed outlives this call. */
	return link ? connection_send_control(link->connection, json, NULL, NULL) : -ECONNRESET;
}

static int gone(const struct ingest_session *session, struct error *error)
{
	return error_set(error, -ENOTCONN, "see that the agent runs and reaches the appliance",
		"the agent of machine %s went away", session->machine->name);
}

static int disk_gone(const struct ingest_session *session, uint16_t disk, struct error *error)
{
	char id[REGISTRY_NAME_BYTES] = "";
	{
		SCOPED_LOCK(&session->ingest->lock);
		for (unsigned i = 0; i < session->machine->disk_count; i++)
			if (session->machine->disks[i].number == disk)
				strcpy(id, session->machine->disks[i].id);
	}
	return error_set(error, -ENODEV,
		"see 'landfall machine show'; verify again when the disk is there, or was taken "
		"off the agent's list",
		"disk %s of machine %s went away before it was verified", id,
		session->machine->name);
}

static bool is_present(const struct ingest_machine *machine, uint16_t disk)
{
	for (unsigned i = 0; i < machine->disk_count; i++)
		if (machine->disks[i].number == disk)
			return machine->disks[i].present;
	return false;
}

/* Until something is new, or a second has passed. */
static int look(struct ingest_session *session, uint16_t disk, struct ingest_verified *ret)
{
	SCOPED_LOCK(&session->ingest->lock);
	if (!session->ending)
		ingest_wait(session->ingest, LOOK_NS);
	*ret = session->verified;
	ret->ended |= !is_present(session->machine, disk);
	return session->ending ? -ENOTCONN : 0;
}

static int ask_point(struct group *group, const struct ingest_verify_job *job)
{
	uint64_t request, point;
	int r = group_ask_point(group, POINT_CRASH, NULL, &request);
	while (r == 0 && !job->should_stop(job->context)) {
		r = group_wait_request(group, request, POINT_CRASH, POINT_MS, NULL, &point);
		if (r != -ETIMEDOUT)
			return r;
		r = 0;
	}
	return r;
}

static int verify_disk(struct ingest_session *session, struct group *group, uint16_t disk,
	const struct ingest_verify_job *job, uint64_t before, uint64_t total,
	struct ingest_verify_result *result, struct error *error)
{
	struct ingest_verified now = { 0 };
	unsigned rounds = 0;
	int r = say(session, disk, job->repair);
	while (r == 0 && !now.done) {
		if (job->should_stop(job->context)) {
			(void)say(session, 0, false);
			return error_set(error, -ECANCELED, NULL, "the verification was ended");
		}
		r = look(session, disk, &now);
		if (r < 0)
			return gone(session, error);
		if (now.ended)
			return disk_gone(session, disk, error);
		job->progress(job->context, before + now.proven * WIRE_CHUNK_BYTES, total);
		if (now.rounds_over > rounds && !now.done) {
			rounds = now.rounds_over;
			if (rounds >= ROUNDS_MAX) {
				(void)say(session, 0, false);
				return error_set(error, -EAGAIN,
					"verify again when less is written",
					"%" PRIu64 " MiB are written so often that they could "
					"not be compared in %u rounds",
					now.chunks - now.proven, rounds);
			}
			r = ask_point(group, job);
		}
	}
	if (r < 0)
		return error_set(error, r, "see the alerts of 'landfall status'",
			"the verification could not go on: %s", strerrordesc_np(-r));
	result->bytes += now.chunks * WIRE_CHUNK_BYTES;
	result->unverified_bytes += MIN(now.unverified, now.chunks) * WIRE_CHUNK_BYTES;
	result->differing_bytes += now.differing * WIRE_CHUNK_BYTES;
	return 0;
}

static unsigned list_disks(
	struct ingest_session *session, uint16_t *ret_numbers, uint64_t *ret_total)
{
	SCOPED_LOCK(&session->ingest->lock);
	unsigned count = 0;
	*ret_total = 0;
	for (unsigned i = 0; i < session->machine->disk_count; i++) {
		const struct ingest_disk *disk = &session->machine->disks[i];
		if (!disk->present || count == HISTORY_MAX_DISKS)
			continue;
		ret_numbers[count++] = disk->number;
		*ret_total += disk->bytes;
	}
	return count;
}

static int verify_all(struct ingest_session *session, struct group *group,
	const struct ingest_verify_job *job, struct ingest_verify_result *result,
	struct error *error)
{
	uint16_t numbers[HISTORY_MAX_DISKS];
	uint64_t total;
	unsigned count = list_disks(session, numbers, &total);
	int r = count > 0 ? 0
			  : error_set(error, -ENODATA, NULL,
				    "the agent of machine %s protects no disk",
				    session->machine->name);
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = verify_disk(
			session, group, numbers[i], job, result->bytes, total, result, error);
	if (r == 0 && result->differing_bytes > 0 && job->repair)
		r = ask_point(group, job);
	return r;
}

int ingest_verify(struct ingest *ingest, const char *name, struct group *group,
	const struct ingest_verify_job *job, struct error *error,
	struct ingest_verify_result *ret_result)
{
	struct ingest_verify_result result = { 0 };
	struct ingest_session *session;
	{
		SCOPED_LOCK(&ingest->lock);
		struct ingest_machine *machine = ingest_find_machine(ingest, name);
		session = machine && machine->session && !machine->session->ending
				  ? machine->session
				  : NULL;
		if (session)
			session->pins++;
	}
	if (!session)
		return error_set(error, -ENOTCONN, "start landfall-agent on the machine",
			"the agent of machine %s is not connected", name);
	int r = verify_all(session, group, job, &result, error);
	{
		SCOPED_LOCK(&ingest->lock);
		session->pins--;
		pthread_cond_broadcast(&ingest->changed);
	}
	if (r == 0)
		*ret_result = result;
	return r;
}
