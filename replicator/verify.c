/*
 * The method verify and its job: proving a recovery point.
 *
 * A point in the vault is read back from there and compared with the hashes of its manifests
 * (vault_point_verify); a point that exists only here is read whole through a view, each piece
 * proven by its payload's hash and what lies below by the vault's. A view of the point is open
 * meanwhile, so that no rule of retention takes it away. The verdict is kept with the point; a
 * vault out of reach is no verdict. Of a machine with an agent, no point named, it is the current
 * content that is proven, against the machine's own disks.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/ingest.h"
#include "replicator/registry_internal.h"

#define READ_BYTES (1 * MIB)
#define CLAIM_SLICES 150u /* of: */
#define CLAIM_SLICE_MS 200u

struct verification {
	struct job *job;
	struct hold *hold;
	uint64_t done_bytes;
	bool repair;
};

static void on_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	struct verification *v = context;
	v->done_bytes = done_bytes;
	job_progress(v->job, done_bytes, total_bytes, "bytes");
}

static uint64_t total_bytes(struct history *history, struct view *view)
{
	uint64_t total = 0;
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks ? history_disks(history, disks, HISTORY_MAX_DISKS) : 0;
	for (unsigned i = 0; i < count; i++)
		total += view_disk_bytes(view, disks[i].id);
	return total;
}

static int read_disk(struct verification *v, struct view *view, const struct history_disk *disk,
	uint64_t total, void *buffer, struct error *error)
{
	uint64_t size = view_disk_bytes(view, disk->id);
	for (uint64_t offset = 0; offset < size; offset += READ_BYTES) {
		uint64_t left = size - offset;
		uint32_t n = (uint32_t)MIN(left, READ_BYTES);
		int r = view_read(view, disk->id, offset / SECTOR_BYTES, n / SECTOR_BYTES, buffer);
		if (r == -EIO)
			return error_set(error, -EBADMSG,
				"do not use this point; verify its neighbours",
				"%s, bytes %" PRIu64 " to %" PRIu64
				": the content does not prove right",
				disk->name, offset, offset + n - 1);
		if (r < 0)
			return error_set(error, r, NULL, "%s at byte %" PRIu64 ": %s", disk->name,
				offset, strerrordesc_np(-r));
		v->done_bytes += n;
		if (offset / READ_BYTES % 16 == 0)
			job_progress(v->job, v->done_bytes, total, "bytes");
		if (job_should_stop(v->job) || hold_is_ending(v->hold))
			return error_set(error, -ECANCELED, NULL, "the verification was ended");
	}
	job_progress(v->job, v->done_bytes, total, "bytes");
	return 0;
}

static int verify_local(struct verification *v, struct view *view, struct error *error)
{
	struct history *history = group_history(v->hold->group);
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	CLEANUP_FREE void *buffer = malloc(READ_BYTES);
	if (!disks || !buffer)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	uint64_t total = total_bytes(history, view);
	unsigned count = history_disks(history, disks, HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < count; i++) {
		int r = read_disk(v, view, &disks[i], total, buffer, error);
		if (r < 0)
			return r;
	}
	return 0;
}

/* After a start or a takeover the vault has to confirm first whose the group is. */
static void wait_for_claim(struct verification *v)
{
	for (unsigned i = 0; i < CLAIM_SLICES; i++) {
		int r = group_wait_claimed(v->hold->group, CLAIM_SLICE_MS);
		if (r != -ENOTCONN || job_should_stop(v->job) || hold_is_ending(v->hold))
			return;
	}
}

static int verify_vault(struct verification *v, uint64_t number, struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	struct blob_service *service = v->hold->registry->service;
	struct blob_store *store;
	wait_for_claim(v);
	int r = group_vault_copy(v->hold->group, &group);
	if (r < 0)
		return error_set(error, r, "see the alerts of 'landfall status'",
			"the vault has not answered yet");
	r = service->ops->open_store(service, job_stop_flag(v->job), error, &store);
	if (r < 0)
		return r;
	r = vault_point_verify(store, &group, number, on_progress, v, error);
	store->ops->free(store);
	return r;
}

static int set_result(
	struct verification *v, uint64_t number, bool in_vault, const struct error *fault)
{
	CLEANUP(json_freep) struct cJSON *result = NULL;
	int r = json_new_object(&result);
	if (r == 0)
		r = json_add_u64(result, "point", number);
	if (r == 0)
		r = json_add_text(result, "where", in_vault ? "vault" : "local");
	if (r == 0)
		r = json_add_u64(result, "bytes", v->done_bytes);
	if (r == 0)
		r = json_add_text(result, "verdict", fault ? "failed" : "verified");
	if (r == 0)
		r = fault ? json_add_text(result, "fault", fault->message)
			  : json_add_null(result, "fault");
	return r == 0 ? job_set_result(v->job, TAKE(result)) : r;
}

static int prove(struct verification *v, uint64_t number, struct error *error)
{
	struct history *history = group_history(v->hold->group);
	struct point point;
	struct view *view;
	int r = history_point(history, number, &point);
	if (r == 0)
		r = history_view_open(history, number, &view);
	if (r < 0)
		return error_set(error, r, NULL, "point %" PRIu64 " cannot be opened: %s", number,
			strerrordesc_np(-r));
	bool in_vault = point.flags & POINT_VAULT;
	r = in_vault ? verify_vault(v, number, error) : verify_local(v, view, error);
	view_close(view);
	if (in_vault)
		group_tell_vault(v->hold->group, r, error);
	if (r < 0 && r != -EBADMSG)
		return r;
	int verdict = group_point_verdict(
		v->hold->group, number, r < 0 ? error : NULL, r == 0 ? error : NULL);
	int told = set_result(v, number, in_vault, r < 0 ? error : NULL);
	if (r == 0)
		r = verdict < 0 ? verdict : told;
	return r;
}

/* ── the current content, against its source ─────────────────────────────────────────────── */

static bool should_stop(void *context)
{
	struct verification *v = context;
	return job_should_stop(v->job) || hold_is_ending(v->hold);
}

static const char *source_verdict(
	const struct verification *v, const struct ingest_verify_result *found)
{
	if (found->differing_bytes > 0)
		return v->repair ? "repaired" : "failed";
	return found->unverified_bytes > 0 ? "incomplete" : "verified";
}

static int set_source_result(struct verification *v, const struct ingest_verify_result *found)
{
	CLEANUP(json_freep) struct cJSON *result = NULL;
	int r = json_new_object(&result);
	if (r == 0)
		r = json_add_null(result, "point");
	if (r == 0)
		r = json_add_text(result, "where", "source");
	if (r == 0)
		r = json_add_u64(result, "bytes", found->bytes);
	if (r == 0)
		r = json_add_u64(result, "differing_bytes", found->differing_bytes);
	if (r == 0)
		r = json_add_u64(result, "unverified_bytes", found->unverified_bytes);
	if (r == 0)
		r = json_add_text(result, "verdict", source_verdict(v, found));
	if (r == 0)
		r = json_add_null(result, "fault");
	return r == 0 ? job_set_result(v->job, TAKE(result)) : r;
}

static int prove_source(struct verification *v, struct ingest *ingest, struct error *error)
{
	const struct ingest_verify_job job = { .repair = v->repair,
		.should_stop = should_stop,
		.progress = on_progress,
		.context = v };
	struct ingest_verify_result found;
	int r = ingest_verify(ingest, v->hold->machine, v->hold->group, &job, error, &found);
	if (r == 0)
		r = set_source_result(v, &found);
	if (r == 0 && found.differing_bytes > 0 && !v->repair)
		r = error_set(error, -EBADMSG,
			"send it again: landfall verify --repair; points made meanwhile may have "
			"the same fault",
			"%" PRIu64 " MiB of machine %s are not what its disks hold",
			(uint64_t)(found.differing_bytes / MIB), v->hold->machine);
	return r;
}

/* ── the job ─────────────────────────────────────────────────────────────────────────────── */

static int step_prove(struct job *job, void *context, struct error *error)
{
	CLEANUP(registry_release) struct hold hold = { 0 };
	struct verification v = { .job = job, .hold = &hold };
	struct json root;
	struct registry *registry = context;
	const char *machine;
	uint64_t number = 0;
	json_root(job_parameters(job), "job", &root);
	int r = json_get_text(&root, "machine", &machine, error);
	if (r == 0)
		r = json_find_u64(&root, "point", &number, error);
	if (r >= 0)
		r = json_find_bool(&root, "repair", &v.repair, error);
	if (r >= 0)
		r = registry_hold(registry, machine, error, &hold);
	if (r == 0 && number == 0)
		return registry->ingest ? prove_source(&v, registry->ingest, error) : -EOPNOTSUPP;
	return r == 0 ? prove(&v, number, error) : r;
}

static const struct job_step steps[] = { { "read and compare", step_prove } };

/* `point` NULL: the current content, against the source. */
static int start(const struct hold *hold, const struct point *point, bool repair,
	struct error *error, struct cJSON **ret_result)
{
	CLEANUP(json_freep) struct cJSON *root = NULL, *parameters = NULL;
	struct cJSON *item = NULL;
	uint64_t job;
	char subject[REGISTRY_NAME_BYTES + 32];
	if (point)
		snprintf(subject, sizeof(subject), "%s point %" PRIu64, hold->machine,
			point->number);
	else
		snprintf(subject, sizeof(subject), "%s against its source", hold->machine);
	int r = json_new_object(&parameters);
	if (r == 0)
		r = json_add_text(parameters, "machine", hold->machine);
	if (r == 0 && point)
		r = json_add_u64(parameters, "point", point->number);
	if (r == 0)
		r = json_add_bool(parameters, "repair", repair);
	if (r == 0)
		r = jobs_start(hold->registry->jobs, "verify", subject, parameters, error, &job);
	if (r == 0)
		parameters = NULL; /* taken over */
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "job", job);
	if (r == 0 && point)
		r = point_to_json(hold->registry, hold->machine, point, &item);
	if (r == 0)
		r = item ? json_add_item(root, "point", item) : json_add_null(root, "point");
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_verify(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", "repair", NULL };
	CLEANUP(registry_release) struct hold hold = { 0 };
	const char *machine, *text;
	char digits[24];
	struct point point;
	bool repair;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", true, error, &machine);
	if (r == 0)
		r = parameter_flag(parameters, "repair", error, &repair);
	if (r == 0)
		r = point_parameter(parameters, digits, error, &text);
	if (r == 0)
		r = registry_hold(context, machine, error, &hold);
	bool asks = r == 0 && strcmp(hold.source, "agent") == 0;
	if (asks && !text)
		return start(&hold, NULL, repair, error, ret_result);
	if (asks && repair)
		r = error_set(error, -EINVAL, "leave the point out",
			"a recovery point cannot be repaired, only what is current");
	else if (r == 0 && repair)
		r = error_set(error, -EOPNOTSUPP, "leave --repair out",
			"machine %s: its source, %s, cannot be asked for its content again",
			machine, hold.source);
	if (r == 0)
		r = point_select(group_history(hold.group), text, error, &point);
	return r == 0 ? start(&hold, &point, false, error, ret_result) : r;
}

int methods_verify_register(struct registry *registry, struct control *control)
{
	static const struct job_kind kind = {
		.name = "verify", .resumable = true, .steps = steps, .step_count = ARRAY_SIZE(steps)
	};
	int r = jobs_register(registry->jobs, &kind, registry);
	return r == 0 ? control_register(control, "verify", method_verify, registry) : r;
}
