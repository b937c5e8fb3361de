/*
 * The methods point.list, show, create, keep and delete, and the job point.vault.
 */
#include <errno.h>
#include <inttypes.h>

#include "replicator/registry_internal.h"

#define LIST_DEFAULT 1000u
#define LIST_MOST 2000u

static int number_parameter(const struct cJSON *parameters, const char *name, uint64_t least,
	uint64_t most, struct error *error, uint64_t *number)
{
	const struct cJSON *item = cJSON_GetObjectItemCaseSensitive(parameters, name);
	if (!item || cJSON_IsNull(item))
		return 0;
	if (!cJSON_IsNumber(item) || item->valuedouble < (double)least ||
		item->valuedouble > (double)most ||
		item->valuedouble != (double)(uint64_t)item->valuedouble)
		return error_set(error, -EINVAL,
			"see --help of the command, or SOCKET.md for the method",
			"the parameter %s must be a whole number from %" PRIu64 " to %" PRIu64,
			name, least, most);
	*number = (uint64_t)item->valuedouble;
	return 0;
}

/* Reads `machine` and holds its group. */
static int hold_machine(struct registry *registry, const struct cJSON *parameters,
	struct error *error, struct hold *ret_hold)
{
	const char *machine;
	int r = parameter_text(parameters, "machine", true, error, &machine);
	return r == 0 ? registry_hold(registry, machine, error, ret_hold) : r;
}

/* Reads `machine` and `point`. */
static int hold_point(struct registry *registry, const struct cJSON *parameters, bool required,
	struct error *error, struct hold *hold, struct point *ret_point)
{
	char text[24];
	const char *point;
	int r = point_parameter(parameters, text, error, &point);
	if (r == 0 && required && !point)
		r = error_set(error, -EINVAL,
			"name it; 'landfall point list MACHINE' shows what there is",
			"the parameter point is missing");
	if (r == 0)
		r = hold_machine(registry, parameters, error, hold);
	if (r == 0)
		r = point_select(group_history(hold->group), point, error, ret_point);
	return r;
}

/* {"point": …} as it is now. */
static int wrap_point(
	const struct hold *hold, uint64_t number, struct error *error, struct cJSON **ret_result)
{
	struct point point;
	struct cJSON *item;
	int r = history_point(group_history(hold->group), number, &point);
	if (r < 0)
		return error_set(error, r, NULL, "point %" PRIu64 " is gone", number);
	r = point_to_json(hold->registry, hold->machine, &point, &item);
	return r == 0 ? result_wrap("point", item, ret_result) : r;
}

/* ── listing ─────────────────────────────────────────────────────────────────────────────── */

static int fill_list(const struct hold *hold, uint64_t from, uint64_t limit, struct cJSON *root)
{
	CLEANUP_FREE struct point *points = calloc(limit + 1, sizeof(*points));
	struct cJSON *list, *item;
	if (!points)
		return -ENOMEM;
	struct history *history = group_history(hold->group);
	unsigned count = history_points(history, from, points, (unsigned)limit + 1);
	int r = json_add_array(root, "points", &list);
	for (unsigned i = 0; r == 0 && i < MIN(count, (unsigned)limit); i++) {
		r = point_to_json(hold->registry, hold->machine, &points[i], &item);
		if (r == 0)
			r = json_add_item(list, NULL, item);
	}
	if (r < 0)
		return r;
	return count > limit ? json_add_u64(root, "next", points[limit].number)
			     : json_add_null(root, "next");
}

/* That the list is not all there is in the vault. */
static int add_unlisted(struct group *group, struct cJSON *root)
{
	struct group_status status;
	group_status(group, &status);
	return status.unlisted_point > 0
		       ? json_add_u64(root, "unlisted_point", status.unlisted_point)
		       : json_add_null(root, "unlisted_point");
}

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "from", "limit", NULL };
	CLEANUP(registry_release) struct hold hold = { 0 };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	uint64_t from = 0, limit = LIST_DEFAULT;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = number_parameter(parameters, "from", 0, 1ull << 52, error, &from);
	if (r == 0)
		r = number_parameter(parameters, "limit", 1, LIST_MOST, error, &limit);
	if (r == 0)
		r = hold_machine(context, parameters, error, &hold);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_text(root, "machine", hold.machine);
	if (r == 0)
		r = json_add_text(root, "group", group_name(hold.group));
	if (r == 0)
		r = json_add_u64(root, "total", point_count(group_history(hold.group), 0));
	if (r == 0)
		r = add_unlisted(hold.group, root);
	if (r == 0)
		r = fill_list(&hold, from, limit, root);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_show(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", NULL };
	CLEANUP(registry_release) struct hold hold = { 0 };
	struct point point;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = hold_point(context, parameters, false, error, &hold, &point);
	return r == 0 ? wrap_point(&hold, point.number, error, ret_result) : r;
}

/* ── creating ────────────────────────────────────────────────────────────────────────────── */

/* How long a missing container may be the memory of an earlier look. */
#define MISSING_NS (2 * NS_PER_S)

/* Tells what is in the way; fails for what will not go away by itself. `before`: how often the
 * vault had failed when the waiting began. */
static int look_for_obstacle(struct job *job, const struct hold *hold, uint64_t before,
	int64_t began_ns, struct error *error)
{
	struct error obstacle = { 0 };
	struct group_status status;
	int r = group_obstacle(hold->group, hold->machine, &obstacle);
	group_status(hold->group, &status);
	bool fresh = status.vault_failures > before &&
		     clock_monotonic_ns(hold->registry->clock) - began_ns > MISSING_NS;
	job_obstacle(job, r < 0 ? &obstacle : NULL);
	if (status.taken_over || status.paused || (!status.vault_initialized && fresh)) {
		*error = obstacle;
		return r;
	}
	if (status.flushing && status.flush_total_bytes > 0)
		job_progress(job, status.flush_done_bytes, status.flush_total_bytes, "bytes");
	return 0;
}

static int step_wait(struct job *job, void *context, struct error *error)
{
	struct registry *registry = context;
	CLEANUP(registry_release) struct hold hold = { 0 };
	struct json root;
	const char *machine;
	uint64_t number;
	json_root(job_parameters(job), "job", &root);
	int r = json_get_text(&root, "machine", &machine, error);
	if (r == 0)
		r = json_get_u64(&root, "point", &number, error);
	if (r == 0)
		r = registry_hold(registry, machine, error, &hold);
	struct group_status status = { 0 };
	int64_t began_ns = clock_monotonic_ns(registry->clock);
	if (r == 0) {
		group_status(hold.group, &status);
		if (status.vault_error_code != 0 && !status.taken_over)
			group_retry_vault(hold.group);
	}
	while (r == 0) {
		r = group_wait_vault(hold.group, number, 500, error);
		if (r == 0)
			return 0;
		if (job_should_stop(job) || hold_is_ending(&hold))
			return error_set(error, -ECANCELED, NULL,
				"point %" PRIu64 " is not in the vault yet; it goes on being sent",
				number);
		if (r == -ETIMEDOUT || r == -ESTALE)
			r = look_for_obstacle(job, &hold, status.vault_failures, began_ns, error);
	}
	return r;
}

static const struct job_step vault_steps[] = { { "send to the vault", step_wait } };

static int start_wait(
	const struct hold *hold, uint64_t number, struct error *error, uint64_t *ret_job)
{
	CLEANUP(json_freep) struct cJSON *parameters = NULL;
	char subject[REGISTRY_NAME_BYTES + 32];
	snprintf(subject, sizeof(subject), "%s point %" PRIu64, hold->machine, number);
	int r = json_new_object(&parameters);
	if (r == 0)
		r = json_add_text(parameters, "machine", hold->machine);
	if (r == 0)
		r = json_add_u64(parameters, "point", number);
	if (r == 0)
		r = jobs_start(
			hold->registry->jobs, "point.vault", subject, parameters, error, ret_job);
	if (r == 0)
		parameters = NULL; /* taken over */
	return r;
}

static int read_wait(const struct cJSON *parameters, struct error *error, bool *ret_vault)
{
	const char *wait;
	int r = parameter_text(parameters, "wait", false, error, &wait);
	if (r < 0)
		return r;
	*ret_vault = wait && strcmp(wait, "vault") == 0;
	if (wait && !*ret_vault && strcmp(wait, "local") != 0)
		return error_set(error, -EINVAL, "give local or vault",
			"'%.40s' is nothing to wait for", wait);
	return 0;
}

/* A point of the group, by whoever makes its points. `peer`: who wants to hear what it waits for;
 * NULL: nobody. */
static int make_point(const struct hold *hold, bool app, bool resynced, struct control_peer *peer,
	struct error *error, uint64_t *ret_number)
{
	const struct seal seal = { .kind = app ? POINT_APPLICATION : POINT_CRASH };
	if (!group_source_seals(hold->group))
		return group_seal(hold->group, &seal, NULL, resynced, error, ret_number);
	if (resynced)
		return error_set(error, -EINVAL, "leave --resynced out",
			"the source of machine %s tells by itself when it has resynced",
			hold->machine);
	return registry_ask_point(hold, seal.kind, peer, error, ret_number);
}

static int method_create(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "app", "wait", "resynced", "tell", NULL };
	struct registry *registry = context;
	CLEANUP(registry_release) struct hold hold = { 0 };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	bool app, vault, resynced, told;
	uint64_t number, job;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_flag(parameters, "app", error, &app);
	if (r == 0)
		r = parameter_flag(parameters, "resynced", error, &resynced);
	if (r == 0)
		r = parameter_flag(parameters, "tell", error, &told);
	if (r == 0)
		r = read_wait(parameters, error, &vault);
	if (r == 0)
		r = hold_machine(registry, parameters, error, &hold);
	if (r == 0 && vault && !registry->service)
		r = error_set(error, -ENOTCONN,
			"leave --wait vault out, or add [vault] to landfall.conf and restart "
			"landfalld",
			"no vault is configured, so no point can get there");
	if (r == 0)
		r = make_point(&hold, app, resynced, told ? peer : NULL, error, &number);
	if (r == 0)
		r = wrap_point(&hold, number, error, &root);
	if (r == 0 && vault) {
		r = start_wait(&hold, number, error, &job);
		if (r == 0)
			r = json_add_u64(root, "job", job);
	} else if (r == 0) {
		r = json_add_null(root, "job");
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_keep(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", "off", NULL };
	CLEANUP(registry_release) struct hold hold = { 0 };
	struct point point;
	bool off;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_flag(parameters, "off", error, &off);
	if (r == 0)
		r = hold_point(context, parameters, true, error, &hold, &point);
	if (r == 0)
		r = group_point_keep(hold.group, point.number, !off, error);
	return r == 0 ? wrap_point(&hold, point.number, error, ret_result) : r;
}

static int method_delete(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", NULL };
	CLEANUP(registry_release) struct hold hold = { 0 };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct point point;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = hold_point(context, parameters, true, error, &hold, &point);
	if (r == 0)
		r = group_point_delete(hold.group, point.number, error);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "deleted", point.number);
	if (r == 0)
		r = json_add_null(root, "job");
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

int methods_point_register(struct registry *registry, struct control *control)
{
	static const struct {
		const char *name;
		control_method *method;
	} methods[] = { { "point.list", method_list }, { "point.show", method_show },
		{ "point.create", method_create }, { "point.keep", method_keep },
		{ "point.delete", method_delete } };
	static const struct job_kind kind = { .name = "point.vault",
		.resumable = true,
		.steps = vault_steps,
		.step_count = ARRAY_SIZE(vault_steps) };
	int r = jobs_register(registry->jobs, &kind, registry);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(methods); i++)
		r = control_register(control, methods[i].name, methods[i].method, registry);
	return r;
}
