/*
 * The methods inspect, inspect.list and inspect.close.
 */
#include <assert.h>
#include <errno.h>

#include "replicator/inspect_internal.h"

static int text_or_null(struct cJSON *object, const char *name, const char *text)
{
	return text && text[0] ? json_add_text(object, name, text) : json_add_null(object, name);
}

static int add_filesystem(struct cJSON *list, const struct inspected *f)
{
	struct cJSON *object;
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "disk", f->disk);
	if (r == 0)
		r = json_add_u64(object, "partition", f->partition.number);
	if (r == 0)
		r = json_add_u64(object, "offset_bytes", f->partition.offset_bytes);
	if (r == 0)
		r = json_add_u64(object, "size_bytes", f->partition.size_bytes);
	if (r == 0)
		r = text_or_null(object, "type", f->filesystem.type);
	if (r == 0)
		r = text_or_null(object, "label", f->filesystem.label);
	if (r == 0)
		r = text_or_null(object, "uuid", f->filesystem.uuid);
	if (r == 0)
		r = text_or_null(object, "mounted_at", f->mounted_at);
	if (r == 0)
		r = text_or_null(object, "note", f->note);
	return r;
}

static int inspection_to_json(
	const struct registry *registry, const struct inspection *i, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	struct cJSON *point, *list;
	int r = json_new_object(&object);
	if (r == 0)
		r = json_add_text(object, "id", i->id);
	if (r == 0)
		r = json_add_text(object, "machine", i->machine);
	if (r == 0)
		r = point_to_json(registry, i->machine, &i->point, &point);
	if (r == 0)
		r = json_add_item(object, "point", point);
	if (r == 0)
		r = result_add_time(object, "opened", i->opened_ns);
	if (r == 0)
		r = json_add_text(object, "directory", i->directory);
	if (r == 0)
		r = json_add_array(object, "filesystems", &list);
	for (unsigned k = 0; r == 0 && k < i->count; k++)
		r = add_filesystem(list, &i->filesystems[k]);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}

static int find_json(struct registry *registry, const char *id, struct cJSON **ret_json)
{
	SCOPED_LOCK(&registry->lock);
	for (struct inspection *i = registry->inspections; i; i = i->next)
		if (strcmp(i->id, id) == 0)
			return inspection_to_json(registry, i, ret_json);
	return -ENOENT;
}

static int read_partition(const struct cJSON *parameters, struct error *error, int *ret_partition)
{
	const struct cJSON *item = cJSON_GetObjectItemCaseSensitive(parameters, "partition");
	const struct json at = { .node = item, .name = "partition", .index = -1 };
	uint64_t partition;
	*ret_partition = -1;
	if (!item || cJSON_IsNull(item))
		return 0;
	/* A number, or its digits, as the command line sends them. */
	if (json_as_u64(&at, &partition, NULL) < 0 || partition > 1024)
		return error_set(error, -EINVAL, "give its number; 0 is the unpartitioned disk",
			"the parameter partition must be a whole number from 0 to 1024");
	*ret_partition = (int)partition;
	return 0;
}

static int method_inspect(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "point", "partition", "at", NULL };
	struct inspect_request request = { 0 };
	char id[INSPECTION_ID_BYTES], digits[24];
	struct cJSON *json;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", true, error, &request.machine);
	if (r == 0)
		r = point_parameter(parameters, digits, error, &request.point);
	if (r == 0)
		r = read_partition(parameters, error, &request.partition);
	if (r == 0)
		r = parameter_text(parameters, "at", false, error, &request.at);
	if (r == 0)
		r = inspect_open(context, &request, error, id);
	if (r == 0)
		r = find_json(context, id, &json);
	return r == 0 ? result_wrap("inspection", json, ret_result) : r;
}

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	struct registry *registry = context;
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list, *json;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_array(root, "inspections", &list);
	SCOPED_LOCK(&registry->lock);
	for (struct inspection *i = registry->inspections; r == 0 && i; i = i->next) {
		r = inspection_to_json(registry, i, &json);
		if (r == 0)
			r = json_add_item(list, NULL, json);
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static bool next_open(const struct registry *registry, char ret_id[static ENDING_ID_BYTES])
{
	if (!registry->inspections)
		return false;
	memcpy(ret_id, registry->inspections->id, INSPECTION_ID_BYTES);
	return true;
}

static int method_close(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const struct ending ending = { "closed", next_open, inspect_close };
	static_assert(INSPECTION_ID_BYTES == ENDING_ID_BYTES, "an id fits");
	(void)peer;
	return ending_run(context, &ending, parameters, error, ret_result);
}

int methods_inspect_register(struct registry *registry, struct control *control)
{
	int r = control_register(control, "inspect", method_inspect, registry);
	if (r == 0)
		r = control_register(control, "inspect.list", method_list, registry);
	if (r == 0)
		r = control_register(control, "inspect.close", method_close, registry);
	return r;
}
