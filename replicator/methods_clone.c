/*
 * The methods clone.create, list and remove.
 */
#include <errno.h>

#include "replicator/registry_internal.h"

#define CLONE_DEFAULT_QUOTA (1 * GIB)

static int method_create(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", "quota", NULL };
	const char *machine, *point, *quota;
	char text[24], id[24];
	uint64_t bytes = CLONE_DEFAULT_QUOTA;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", true, error, &machine);
	if (r == 0)
		r = parameter_text(parameters, "quota", false, error, &quota);
	if (r == 0)
		r = point_parameter(parameters, text, error, &point);
	if (r == 0 && quota && (size_parse(quota, &bytes) < 0 || bytes < MIB))
		r = error_set(error, -EINVAL, "write e.g. 10G",
			"'%.40s' is no quota of at least 1M", quota);
	if (r == 0)
		r = clone_create(context, machine, point, bytes, CLONE_OF_PERSON, error, id);
	struct cJSON *clone;
	if (r == 0)
		r = clone_json(context, id, &clone);
	return r == 0 ? result_wrap("clone", clone, ret_result) : r;
}

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", NULL };
	const char *machine;
	struct cJSON *clones;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", false, error, &machine);
	if (r == 0)
		r = clones_json(context, machine, &clones);
	return r == 0 ? result_wrap("clones", clones, ret_result) : r;
}

/* What an inspection or a drill made for itself goes with it. */
static bool next_clone(const struct registry *registry, char ret_id[static ENDING_ID_BYTES])
{
	const struct clone_record *found = NULL;
	for (const struct clone_record *c = registry->clones; c; c = c->next)
		if (!c->busy && c->owner == CLONE_OF_PERSON)
			found = c;
	if (found)
		memcpy(ret_id, found->id, sizeof(found->id));
	return found != NULL;
}

static int method_remove(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const struct ending ending = { "removed", next_clone, clone_remove };
	(void)peer;
	return ending_run(context, &ending, parameters, error, ret_result);
}

int methods_clone_register(struct registry *registry, struct control *control)
{
	int r = control_register(control, "clone.create", method_create, registry);
	if (r == 0)
		r = control_register(control, "clone.list", method_list, registry);
	if (r == 0)
		r = control_register(control, "clone.remove", method_remove, registry);
	return r;
}
