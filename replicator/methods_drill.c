/*
 * The methods drill.start, drill.list, drill.show and drill.cleanup.
 */
#include <errno.h>

#include "replicator/drills_internal.h"

static int job_result(uint64_t job, struct cJSON **ret_result)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "job", job);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_start(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", "target", "cleanup", NULL };
	const char *machine, *point, *target;
	char digits[24];
	bool cleanup;
	uint64_t job;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", true, error, &machine);
	if (r == 0)
		r = parameter_text(parameters, "target", false, error, &target);
	if (r == 0)
		r = parameter_flag(parameters, "cleanup", error, &cleanup);
	if (r == 0)
		r = point_parameter(parameters, digits, error, &point);
	if (r == 0)
		r = drill_start_job(
			context, machine, point, target ? target : "local", cleanup, error, &job);
	return r == 0 ? job_result(job, ret_result) : r;
}

static int id_parameter(const struct cJSON *parameters, struct error *error, uint64_t *ret_id)
{
	static const char *const names[] = { "id", NULL };
	struct json root;
	json_root(parameters, "parameters", &root);
	int r = control_only(parameters, names, error);
	if (r == 0 && json_get_u64(&root, "id", ret_id, NULL) < 0)
		r = error_set(error, -EINVAL, "'landfall drill list' shows what there is",
			"a drill is named by its number");
	return r;
}

static int method_cleanup(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	uint64_t id, job;
	(void)peer;
	int r = id_parameter(parameters, error, &id);
	if (r == 0)
		r = drill_cleanup_job(context, id, error, &job);
	return r == 0 ? job_result(job, ret_result) : r;
}

static int method_show(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	struct cJSON *json;
	struct drill drill;
	uint64_t id;
	(void)peer;
	int r = id_parameter(parameters, error, &id);
	if (r == 0)
		r = drill_get(context, id, error, &drill);
	if (r == 0)
		r = drill_to_json(context, &drill, &json);
	return r == 0 ? result_wrap("drill", json, ret_result) : r;
}

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", NULL };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct drills *drills = context;
	struct cJSON *list, *item;
	const char *machine;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", false, error, &machine);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_array(root, "drills", &list);
	SCOPED_LOCK(&drills->lock);
	for (const struct drill *d = drills->list; r == 0 && d; d = d->next) {
		if (machine && strcmp(machine, d->machine) != 0)
			continue;
		r = drill_to_json(drills, d, &item);
		if (r == 0)
			r = json_add_item(list, NULL, item);
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

int methods_drill_register(struct drills *drills, struct control *control)
{
	int r = control_register(control, "drill.start", method_start, drills);
	if (r == 0)
		r = control_register(control, "drill.list", method_list, drills);
	if (r == 0)
		r = control_register(control, "drill.show", method_show, drills);
	if (r == 0)
		r = control_register(control, "drill.cleanup", method_cleanup, drills);
	return r;
}
