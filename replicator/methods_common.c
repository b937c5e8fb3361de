/*
 * What the methods share: reading parameters, adding to results, ending one or all.
 */
#include <errno.h>

#include "common/utc.h"
#include "replicator/registry_internal.h"

int parameter_text(const struct cJSON *parameters, const char *name, bool required,
	struct error *error, const char **ret_text)
{
	const struct cJSON *item = cJSON_GetObjectItemCaseSensitive(parameters, name);
	if (!item || cJSON_IsNull(item)) {
		if (required)
			return error_set(error, -EINVAL,
				"see --help of the command, or SOCKET.md for the method",
				"the parameter %s is missing", name);
		*ret_text = NULL;
		return 0;
	}
	if (!cJSON_IsString(item))
		return error_set(error, -EINVAL,
			"see --help of the command, or SOCKET.md for the method",
			"the parameter %s must be a text", name);
	*ret_text = item->valuestring;
	return 0;
}

int parameter_flag(
	const struct cJSON *parameters, const char *name, struct error *error, bool *ret_flag)
{
	const struct cJSON *item = cJSON_GetObjectItemCaseSensitive(parameters, name);
	if (item && !cJSON_IsNull(item) && !cJSON_IsBool(item))
		return error_set(error, -EINVAL,
			"see --help of the command, or SOCKET.md for the method",
			"the parameter %s must be true or false", name);
	*ret_flag = cJSON_IsTrue(item);
	return 0;
}

int result_wrap(const char *name, struct cJSON *value, struct cJSON **ret_result)
{
	CLEANUP(json_freep) struct cJSON *result = NULL;
	int r = json_new_object(&result);
	if (r < 0) {
		cJSON_Delete(value);
		return r;
	}
	r = json_add_item(result, name, value);
	if (r == 0)
		*ret_result = TAKE(result);
	return r;
}

int json_add_item(struct cJSON *parent, const char *name, struct cJSON *item)
{
	bool added = name ? cJSON_AddItemToObject(parent, name, item)
			  : cJSON_AddItemToArray(parent, item);
	if (added)
		return 0;
	cJSON_Delete(item);
	return -ENOMEM;
}

int json_add_null(struct cJSON *object, const char *name)
{
	return cJSON_AddNullToObject(object, name) ? 0 : -ENOMEM;
}

int json_add_double(struct cJSON *object, const char *name, double value)
{
	return cJSON_AddNumberToObject(object, name, value) ? 0 : -ENOMEM;
}

int result_add_time(struct cJSON *object, const char *name, int64_t ns)
{
	char text[UTC_ISO_BYTES];
	if (ns == 0)
		return json_add_null(object, name);
	utc_format_iso(ns, text);
	return json_add_text(object, name, text);
}

int json_add_alerts(
	struct cJSON *object, const char *name, const struct alert *alerts, unsigned count)
{
	struct cJSON *list, *item;
	int r = json_add_array(object, name, &list);
	for (unsigned i = 0; r == 0 && i < count; i++) {
		const struct alert *a = &alerts[i];
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_text(item, "code", a->code);
		if (r == 0)
			r = json_add_text(item, "severity", a->critical ? "critical" : "warning");
		if (r == 0)
			r = result_add_time(item, "since", a->since_ns);
		if (r == 0)
			r = json_add_text(item, "text", a->text);
		if (r == 0)
			r = json_add_text(item, "cause", a->cause);
		if (r == 0)
			r = json_add_text(item, "mend", a->mend);
	}
	return r;
}

static bool find_next(
	struct registry *registry, const struct ending *ending, char ret_id[static ENDING_ID_BYTES])
{
	SCOPED_LOCK(&registry->lock);
	return ending->next(registry, ret_id);
}

static int end_all(struct registry *registry, const struct ending *ending, struct cJSON *ended,
	struct error *error)
{
	char id[ENDING_ID_BYTES];
	while (find_next(registry, ending, id)) {
		int r = ending->end(registry, id, error);
		if (r == -ENOENT)
			continue; /* somebody else ended it meanwhile */
		if (r == 0)
			r = json_add_text(ended, NULL, id);
		if (r < 0)
			return r;
	}
	return 0;
}

int ending_run(struct registry *registry, const struct ending *ending,
	const struct cJSON *parameters, struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "id", "all", NULL };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *ended;
	const char *id;
	bool all;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "id", false, error, &id);
	if (r == 0)
		r = parameter_flag(parameters, "all", error, &all);
	if (r == 0 && (id != NULL) == all)
		r = error_set(error, -EINVAL, NULL, "give either an id or all");
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_array(root, ending->told, &ended);
	if (r == 0 && all) {
		r = end_all(registry, ending, ended, error);
	} else if (r == 0) {
		r = ending->end(registry, id, error);
		if (r == 0)
			r = json_add_text(ended, NULL, id);
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}
