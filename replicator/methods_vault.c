/*
 * The methods vault.init, check and takeover, and the job vault.check.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/registry_internal.h"
#include "replicator/takeover.h"

#define FAULTS_MOST 1000

static int need_vault(struct registry *registry, struct error *error)
{
	if (registry->service)
		return 0;
	return error_set(error, -ENOTCONN, "add [vault] to landfall.conf and restart landfalld",
		"no vault is configured");
}

/* ── init ────────────────────────────────────────────────────────────────────────────────── */

static void retry_all(struct registry *registry)
{
	SCOPED_LOCK(&registry->lock);
	registry->vault_error = (struct error){ 0 };
	registry->vault_asked = true;
	registry->vault_ask_mono_ns = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next)
		if (g->group && !g->ending)
			group_retry_vault(g->group);
}

static int method_init(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	struct registry *registry = context;
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct vault_identity identity;
	char id[UUID_TEXT_BYTES];
	bool created;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = need_vault(registry, error);
	if (r == 0)
		r = vault_init(registry->service, registry->clock, error, &created, &identity);
	if (r < 0)
		return r;
	retry_all(registry);
	uuid_format(&identity.id, id);
	r = json_new_object(&root);
	if (r == 0)
		r = json_add_bool(root, "created", created);
	if (r == 0)
		r = json_add_text(root, "name", registry->service->ops->name(registry->service));
	if (r == 0)
		r = json_add_text(root, "id", id);
	if (r == 0)
		r = json_add_u64(root, "format", identity.format);
	if (r == 0)
		r = result_add_time(root, "created_at", identity.created_ns);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

/* ── check ───────────────────────────────────────────────────────────────────────────────── */

struct faults {
	struct cJSON *list;
	unsigned count;
	int r;
};

static void note_fault(void *context, const char *text)
{
	struct faults *faults = context;
	if (faults->count++ < FAULTS_MOST && faults->r == 0)
		faults->r = json_add_text(faults->list, NULL, text);
}

/* ── what is known here ──────────────────────────────────────────────────────────────────── */

#define KNOWN_AT_ONCE 256u

struct known {
	struct faults *faults;
	struct history *history;
	struct vault_check_report *report;
};

static bool note_gone(void *context, uint64_t number, const char *text)
{
	struct known *known = context;
	struct point point;
	if (number > 0 &&
		(history_point(known->history, number, &point) < 0 || !(point.flags & POINT_VAULT)))
		return false; /* deleted meanwhile */
	known->report->missing++;
	note_fault(known->faults, text);
	return number == 0;
}

static int list_known(struct history *history, uint64_t **ret_numbers, unsigned *ret_count)
{
	CLEANUP_FREE struct point *points = calloc(KNOWN_AT_ONCE, sizeof(*points));
	CLEANUP_FREE uint64_t *numbers = NULL;
	unsigned n = points ? KNOWN_AT_ONCE : 0, count = 0;
	for (uint64_t from = 0; n == KNOWN_AT_ONCE; from = points[n - 1].number + 1) {
		n = history_points(history, from, points, KNOWN_AT_ONCE);
		uint64_t *more = realloc(numbers, (count + n + 1u) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		numbers = more;
		for (unsigned i = 0; i < n; i++)
			if (points[i].flags & POINT_VAULT)
				numbers[count++] = points[i].number;
		if (n == 0)
			break;
	}
	if (!points)
		return -ENOMEM;
	*ret_numbers = TAKE(numbers);
	*ret_count = count;
	return 0;
}

/* Of the machine's group. */
static int check_known(struct registry *registry, const char *machine, struct blob_store *store,
	struct faults *faults, struct vault_check_report *report, struct error *error)
{
	CLEANUP(registry_release) struct hold hold = { 0 };
	CLEANUP_FREE uint64_t *numbers = NULL;
	struct group_status status;
	unsigned count = 0;
	if (registry_hold(registry, machine, NULL, &hold) < 0)
		return 0; /* what it knows cannot be read; its alert says why */
	group_status(hold.group, &status);
	struct known known = { faults, group_history(hold.group), report };
	if (status.taken_over)
		return 0;
	int r = list_known(known.history, &numbers, &count);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory to list points");
	return count == 0 ? 0
			  : vault_check_known(store, group_name(hold.group), &registry->appliance,
				    numbers, count, note_gone, &known, error);
}

/* One machine of every group. */
static int check_all_known(struct registry *registry, struct blob_store *store,
	struct faults *faults, struct vault_check_report *report, struct error *error)
{
	CLEANUP_FREE char(*names)[REGISTRY_NAME_BYTES] = NULL;
	unsigned count = 0, machines = 0;
	pthread_mutex_lock(&registry->lock);
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		machines++;
	names = calloc(machines + 1u, sizeof(*names));
	for (struct machine_entry *m = registry->machines; names && m; m = m->next) {
		bool first = true;
		for (struct machine_entry *o = registry->machines; o != m; o = o->next)
			first &= o->group != m->group;
		if (first && !m->removing)
			memcpy(names[count++], m->name, sizeof(*names));
	}
	pthread_mutex_unlock(&registry->lock);
	if (!names)
		return error_set(error, -ENOMEM, NULL, "not enough memory to list machines");
	int r = 0;
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = check_known(registry, names[i], store, faults, report, error);
	return r;
}

static int report_check(struct job *job, const struct vault_check_report *report,
	struct cJSON *result, struct error *error)
{
	int r = json_add_u64(result, "groups", report->groups);
	if (r == 0)
		r = json_add_u64(result, "points", report->points);
	if (r == 0)
		r = json_add_u64(result, "snapshots", report->snapshots);
	if (r == 0)
		r = json_add_u64(result, "missing", report->missing);
	if (r == 0)
		r = json_add_u64(result, "orphaned", report->orphaned);
	if (r == 0)
		r = json_add_u64(result, "broken", report->broken);
	if (r < 0) {
		cJSON_Delete(result);
		return r;
	}
	r = job_set_result(job, result);
	if (r == 0 && report->missing + report->broken > 0)
		r = error_set(error, -EBADMSG,
			"the faults stand in the job's record; bring back what is missing (the "
			"service may be able to undelete it) or delete the points they name, and "
			"verify the others",
			"the vault has faults: %u parts missing, %u manifests broken",
			report->missing, report->broken);
	return r;
}

static int step_check(struct job *job, void *context, struct error *error)
{
	struct registry *registry = context;
	int r = need_vault(registry, error);
	struct blob_store *store;
	if (r == 0)
		r = registry->service->ops->open_store(
			registry->service, job_stop_flag(job), error, &store);
	if (r < 0)
		return r;
	CLEANUP(json_freep) struct cJSON *result = NULL;
	struct faults faults = { 0 };
	struct vault_check_report report = { 0 };
	r = json_new_object(&result);
	if (r == 0)
		r = json_add_array(result, "faults", &faults.list);
	if (r == 0)
		r = vault_check(store, note_fault, &faults, error, &report);
	if (r == 0)
		r = check_all_known(registry, store, &faults, &report, error);
	if (r < 0)
		error_prefix(error, "%s", registry->service->ops->name(registry->service));
	store->ops->free(store);
	if (r == 0)
		r = faults.r;
	return r == 0 ? report_check(job, &report, TAKE(result), error) : r;
}

static const struct job_step check_steps[] = { { "compare manifests with snapshots", step_check } };

/* Takes over `job_parameters` (NULL is fine), also on failure. */
static int start_job(struct registry *registry, const char *kind, struct cJSON *job_parameters,
	struct error *error, struct cJSON **ret_result)
{
	uint64_t job;
	CLEANUP(json_freep) struct cJSON *root = NULL;
	int r = jobs_start(registry->jobs, kind, registry->service->ops->name(registry->service),
		job_parameters, error, &job);
	if (r < 0)
		cJSON_Delete(job_parameters);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "job", job);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_check(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	struct registry *registry = context;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = need_vault(registry, error);
	return r == 0 ? start_job(registry, "vault.check", NULL, error, ret_result) : r;
}

/* ── takeover ────────────────────────────────────────────────────────────────────────────── */

static int method_takeover(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "group", "discard_damaged", NULL };
	struct registry *registry = context;
	const char *group;
	bool discard_damaged = false;
	CLEANUP(json_freep) struct cJSON *job_parameters = NULL;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "group", false, error, &group);
	if (r == 0 && group)
		r = name_check("group", group, error);
	if (r == 0)
		r = parameter_flag(parameters, "discard_damaged", error, &discard_damaged);
	if (r == 0 && discard_damaged && !group)
		r = error_set(error, -EINVAL, "name it: --group GROUP",
			"damaged points are discarded of one group only");
	if (r == 0)
		r = need_vault(registry, error);
	if (r == 0 && group)
		r = takeover_check_local(registry, group, error);
	if (r == 0)
		r = json_new_object(&job_parameters);
	if (r == 0 && group)
		r = json_add_text(job_parameters, "group", group);
	if (r == 0 && discard_damaged)
		r = json_add_bool(job_parameters, "discard_damaged", true);
	return r == 0 ? start_job(
				registry, "vault.takeover", TAKE(job_parameters), error, ret_result)
		      : r;
}

int methods_vault_register(struct registry *registry, struct control *control)
{
	static const struct job_kind check = { .name = "vault.check",
		.resumable = true,
		.steps = check_steps,
		.step_count = ARRAY_SIZE(check_steps) };
	int r = jobs_register(registry->jobs, &check, registry);
	if (r == 0)
		r = takeover_register_jobs(registry);
	if (r == 0)
		r = control_register(control, "vault.init", method_init, registry);
	if (r == 0)
		r = control_register(control, "vault.check", method_check, registry);
	if (r == 0)
		r = control_register(control, "vault.takeover", method_takeover, registry);
	return r;
}
