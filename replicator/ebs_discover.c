/*
 * Finding instances, and what a machine is made of: what `machine discover` lists, and what
 * `machine add` takes from there.
 *
 * Instances are listed first, then the volumes that are attached to them, a hundred instances at a
 * time (a filter takes 200 values). Both methods see the same list.
 */
#include "ec2/instances.h"

#include <errno.h>

#include "replicator/ebs_internal.h"

#define INSTANCES_AT_ONCE 100
#define FILTERS_MAX 34u

/* ── the list ────────────────────────────────────────────────────────────────────────────── */

static int add_volume(struct cJSON *list, const struct ec2_attachment *a)
{
	struct cJSON *item;
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", a->volume_id);
	if (r == 0)
		r = json_add_text(item, "device", a->device);
	return r == 0 ? json_add_bool(item, "root", a->root) : r;
}

static int note_instance(void *context, const struct ec2_instance *i)
{
	struct cJSON *item, *volumes;
	const struct {
		const char *name, *value;
	} texts[] = { { "id", i->id }, { "name", i->name }, { "state", i->state },
		{ "type", i->type },
		{ "platform", i->platform_details[0] ? i->platform_details : i->platform },
		{ "architecture", i->architecture }, { "boot_mode", i->boot_mode },
		{ "private_ip", i->private_ip }, { "zone", i->zone }, { "subnet", i->subnet_id } };
	int r = json_add_object(context, NULL, &item);
	for (unsigned k = 0; r == 0 && k < ARRAY_SIZE(texts); k++)
		r = json_add_text(item, texts[k].name, texts[k].value);
	if (r == 0)
		r = json_add_array(item, "volumes", &volumes);
	for (size_t k = 0; r == 0 && k < i->volume_count; k++)
		r = add_volume(volumes, &i->volumes[k]);
	return r;
}

static struct cJSON *find_by_id(const struct cJSON *list, const char *id)
{
	struct cJSON *item;
	cJSON_ArrayForEach(item, list)
	{
		const struct cJSON *found = cJSON_GetObjectItemCaseSensitive(item, "id");
		if (cJSON_IsString(found) && strcmp(found->valuestring, id) == 0)
			return item;
	}
	return NULL;
}

static int note_volume(void *context, const struct ec2_volume *v)
{
	struct cJSON *instance = find_by_id(context, v->instance_id);
	struct cJSON *item =
		find_by_id(cJSON_GetObjectItemCaseSensitive(instance, "volumes"), v->id);
	if (!item)
		return 0; /* it was attached since */
	int r = json_add_u64(item, "size_bytes", v->size_bytes);
	if (r == 0)
		r = json_add_text(item, "type", v->type);
	return r == 0 ? json_add_bool(item, "encrypted", v->encrypted) : r;
}

static const char *id_of(const struct cJSON *item)
{
	const struct cJSON *id = cJSON_GetObjectItemCaseSensitive(item, "id");
	return cJSON_IsString(id) ? id->valuestring : "";
}

static int list_volumes(struct ec2 *client, struct cJSON *instances, struct http_error *said)
{
	int count = cJSON_GetArraySize(instances), r = 0;
	for (int at = 0; r == 0 && at < count; at += INSTANCES_AT_ONCE) {
		const char *ids[INSTANCES_AT_ONCE];
		struct ec2_filter filter = { .name = "attachment.instance-id", .values = ids };
		for (int i = at; i < MIN(count, at + INSTANCES_AT_ONCE); i++)
			ids[filter.count++] = id_of(cJSON_GetArrayItem(instances, i));
		const struct ec2_query query = { .filters = &filter, .filter_count = 1 };
		r = ec2_describe_volumes(client, &query, note_volume, instances, said);
	}
	return r;
}

/* `ret_region` (may be NULL): where it looked; the caller frees it. */
static int list_instances(struct ebs *ebs, const char *region, const struct ec2_query *query,
	struct error *error, char ret_region[static REGISTRY_AWS_BYTES], struct cJSON **ret_list)
{
	struct cJSON *list = cJSON_CreateArray();
	struct ec2 *client = NULL;
	struct http_error said = { 0 };
	if (!list)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = ebs_open_client(ebs, region, &ebs->stop, NULL, NULL, error, &client);
	if (r == 0) {
		r = ec2_describe_instances(client, query, note_instance, list, &said);
		if (r == 0)
			r = list_volumes(client, list, &said);
		snprintf(ret_region, REGISTRY_AWS_BYTES, "%s", ec2_region(client));
		if (r < 0 && said.error)
			(void)ec2_error_tell(&said, "listing instances", error);
		else if (r < 0)
			error_set(error, r, NULL, "listing instances: %s", strerrordesc_np(-r));
		ec2_free(client);
	}
	if (r < 0) {
		cJSON_Delete(list);
		return r;
	}
	*ret_list = list;
	return 0;
}

/* ── machine.discover ────────────────────────────────────────────────────────────────────── */

/* What is wanted: filters, whose texts live in `names` and in the parameters. */
struct search {
	struct ec2_filter filters[FILTERS_MAX];
	const char *values[FILTERS_MAX];
	char *names[FILTERS_MAX]; /* owned */
	unsigned count;
};

static void search_free(struct search *s)
{
	for (unsigned i = 0; i < s->count; i++)
		free(s->names[i]);
}

static int add_filter(struct search *s, const char *prefix, size_t n, const char *name,
	const char *value, struct error *error)
{
	unsigned i = s->count;
	if (i == FILTERS_MAX)
		return error_set(error, -EINVAL, "give fewer tags", "there are too many tags");
	if (asprintf(&s->names[i], "%s%.*s", prefix, (int)n, name) < 0) {
		s->names[i] = NULL;
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	s->values[i] = value;
	s->filters[i] = (struct ec2_filter){ s->names[i], &s->values[i], 1 };
	s->count++;
	return 0;
}

static int add_tags(struct search *s, const struct cJSON *parameters, struct error *error)
{
	const struct cJSON *list = cJSON_GetObjectItemCaseSensitive(parameters, "tag"), *item;
	if (!list || cJSON_IsNull(list))
		return 0;
	cJSON_ArrayForEach(item, list)
	{
		const char *equals = cJSON_IsString(item) ? strchr(item->valuestring, '=') : NULL;
		if (!equals || equals == item->valuestring)
			return error_set(error, -EINVAL, "write e.g. --tag Role=web",
				"a tag to look for is given as KEY=VALUE");
		int r = add_filter(s, "tag:", (size_t)(equals - item->valuestring),
			item->valuestring, equals + 1, error);
		if (r < 0)
			return r;
	}
	return cJSON_IsArray(list) ? 0
				   : error_set(error, -EINVAL, "write e.g. [\"Role=web\"]",
					     "the parameter tag must be a list of texts");
}

/* Which of them are machines here already. */
static int add_names(struct registry *registry, struct cJSON *instances)
{
	struct cJSON *item;
	int r = 0;
	SCOPED_LOCK(&registry->lock);
	cJSON_ArrayForEach(item, instances)
	{
		struct machine_entry *m = registry->machines;
		while (m && strcmp(m->instance, id_of(item)) != 0)
			m = m->next;
		if (r == 0)
			r = m ? json_add_text(item, "machine", m->name)
			      : json_add_null(item, "machine");
	}
	return r;
}

static int method_discover(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "region", "private_ip", "tag", NULL };
	static const char *const states[] = { "pending", "running", "stopping", "stopped" };
	CLEANUP(search_free) struct search s = { 0 };
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct ebs *ebs = context;
	const char *region = NULL, *ip = NULL;
	char where[REGISTRY_AWS_BYTES];
	struct cJSON *list = NULL;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "region", false, error, &region);
	if (r == 0)
		r = parameter_text(parameters, "private_ip", false, error, &ip);
	if (r == 0)
		r = add_filter(&s, "", 19, "instance-state-name", NULL, error);
	if (r == 0)
		s.filters[0] = (struct ec2_filter){ s.names[0], states, ARRAY_SIZE(states) };
	if (r == 0 && ip)
		r = add_filter(&s, "", 18, "private-ip-address", ip, error);
	if (r == 0)
		r = add_tags(&s, parameters, error);
	const struct ec2_query query = { .filters = s.filters, .filter_count = s.count };
	if (r == 0)
		r = list_instances(ebs, region, &query, error, where, &list);
	if (r == 0)
		r = add_names(ebs->registry, list);
	if (r == 0)
		r = result_wrap("instances", list, &root);
	else
		cJSON_Delete(list);
	if (r == 0)
		r = json_add_text(root, "region", where);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

int ebs_register(struct ebs *ebs, struct control *control)
{
	int r = control_register(control, "machine.discover", method_discover, ebs);
	return r == 0 ? ebs_register_volumes(ebs, control) : r;
}

/* ── what a machine is made of ───────────────────────────────────────────────────────────── */

/* "/dev/sda1" → "sda1"; what no name can have becomes '-'. */
static void name_disk(const char *device, const char *volume, char ret[static REGISTRY_NAME_BYTES])
{
	const char *slash = strrchr(device, '/');
	const char *base = slash ? slash + 1 : device;
	snprintf(ret, REGISTRY_NAME_BYTES, "%.40s", base[0] ? base : volume);
	for (char *c = ret; *c; c++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.",
			    *c))
			*c = '-';
}

static bool is_excluded(const struct ebs_choice *choice, const char *volume, bool *seen)
{
	for (unsigned i = 0; i < choice->exclude_count; i++) {
		if (strcmp(choice->exclude[i], volume) != 0)
			continue;
		seen[i] = true;
		return true;
	}
	return false;
}

static int take_volume(const struct json *at, struct machine_request *request, struct error *error)
{
	const char *id, *device;
	uint64_t bytes = 0;
	int r = json_get_text(at, "id", &id, error);
	if (r == 0)
		r = json_get_text(at, "device", &device, error);
	if (r == 0 && json_find_u64(at, "size_bytes", &bytes, NULL) <= 0)
		return error_set(error, -EAGAIN, "try again in a moment",
			"AWS does not tell the size of volume %s", id);
	if (r < 0)
		return r;
	if (request->disk_count == EC2_CYCLE_VOLUMES)
		return error_set(error, -E2BIG, "leave some out with --exclude-volume",
			"instance %s has more than %u volumes", request->instance,
			EC2_CYCLE_VOLUMES);
	struct machine_disk *disk = &request->disks[request->disk_count++];
	name_disk(device, id, disk->id);
	disk->size_bytes = bytes;
	snprintf(disk->volume, sizeof(disk->volume), "%s", id);
	r = name_check_new("disk", disk->id, error);
	return r == 0 ? machine_check_size(disk->id, bytes, error) : r;
}

static int take_volumes(const struct json *instance, const struct ebs_choice *choice,
	struct machine_request *request, struct error *error)
{
	struct json list;
	bool seen[EC2_CYCLE_VOLUMES] = { false }, has_root = false;
	int r = json_get_array(instance, "volumes", &list, error);
	if (r == 0 && choice->exclude_count > EC2_CYCLE_VOLUMES)
		return error_set(error, -E2BIG, NULL, "too many volumes are excluded");
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);) {
		const char *id = "";
		r = json_get_text(&item, "id", &id, error);
		bool root = false;
		if (r == 0)
			r = json_get_bool(&item, "root", &root, error);
		has_root |= root;
		if (r == 0 && is_excluded(choice, id, seen))
			r = machine_leave_out(&request->left_out, id, error);
		else if (r == 0)
			r = take_volume(&item, request, error);
	}
	for (unsigned i = 0; r == 0 && i < choice->exclude_count; i++)
		if (!seen[i])
			r = error_set(error, -ENOENT, "'landfall machine discover' lists them",
				"instance %s has no volume %.40s", request->instance,
				choice->exclude[i]);
	if (r == 0 && request->disk_count == 0)
		r = error_set(error, -EINVAL,
			choice->exclude_count > 0 ? "exclude fewer of them"
						  : "choose another one, or protect it by an agent",
			"instance %s has no EBS volume to replicate", request->instance);
	/* What boots from its host's own disks would come back as a machine that does not boot. */
	if (r == 0 && !has_root)
		r = error_set(error, -EOPNOTSUPP, "protect it by an agent (--source agent)",
			"the root device of instance %s is not on EBS, so no snapshot has it",
			request->instance);
	return r;
}

int ebs_find_volume(struct ebs *ebs, const struct ebs_spec *spec, const char *volume,
	struct machine_disk *ret_disk, struct error *error)
{
	CLEANUP_FREE struct machine_request *request = calloc(1, sizeof(*request));
	CLEANUP(json_freep) struct cJSON *list = NULL;
	const char *ids[] = { spec->instance };
	const struct ec2_query query = { .ids = ids, .id_count = 1 };
	struct json root, instance = { 0 }, volumes;
	if (!request)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	snprintf(request->instance, sizeof(request->instance), "%s", spec->instance);
	int r = list_instances(ebs, spec->region, &query, error, request->region, &list);
	if (r < 0)
		return r;
	json_root(list, "instances", &root);
	if (json_each(&root, &instance))
		r = json_get_array(&instance, "volumes", &volumes, error);
	else
		r = error_set(error, -ENOENT, NULL, "there is no instance %s", spec->instance);
	for (struct json item = { 0 }; r == 0 && json_each(&volumes, &item);) {
		const char *id = "";
		r = json_get_text(&item, "id", &id, error);
		if (r == 0 && strcmp(id, volume) == 0)
			r = take_volume(&item, request, error);
	}
	if (r == 0 && request->disk_count == 0)
		r = error_set(error, -ENOENT, "'landfall machine discover' lists them",
			"instance %s has no volume %.40s", spec->instance, volume);
	if (r == 0)
		*ret_disk = request->disks[0];
	return r;
}

static int check_found(
	const struct ebs_choice *choice, const struct cJSON *list, struct error *error)
{
	int count = cJSON_GetArraySize(list);
	const char *what = choice->instance ? choice->instance : choice->private_ip;
	if (count == 0)
		return error_set(error, -ENOENT,
			"'landfall machine discover' lists what there is; see --region",
			"there is no instance %.80s", what);
	const struct cJSON *state =
		cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(list, 0), "state");
	if (cJSON_IsString(state) && (strcmp(state->valuestring, "terminated") == 0 ||
					     strcmp(state->valuestring, "shutting-down") == 0))
		return error_set(error, -ENOENT, "choose another one",
			"instance %.80s is gone: it is %s", what, state->valuestring);
	if (count > 1)
		return error_set(error, -EEXIST, "name it with --instance",
			"%d instances have the address %.80s", count, what);
	return 0;
}

int ebs_describe(struct ebs *ebs, const struct ebs_choice *choice, struct machine_request *request,
	struct error *error)
{
	const char *by_ip[] = { choice->private_ip }, *by_id[] = { choice->instance };
	const struct ec2_filter filter = { "private-ip-address", by_ip, 1 };
	const struct ec2_query query = { .ids = choice->instance ? by_id : NULL,
		.id_count = choice->instance ? 1 : 0,
		.filters = &filter,
		.filter_count = choice->instance ? 0 : 1 };
	CLEANUP(json_freep) struct cJSON *list = NULL;
	struct json root, instance = { 0 };
	const char *id = "";
	int r = list_instances(ebs, choice->region, &query, error, request->region, &list);
	if (r == 0)
		r = check_found(choice, list, error);
	if (r < 0)
		return r;
	json_root(list, "instances", &root);
	if (!json_each(&root, &instance))
		return -EBADMSG;
	r = json_get_text(&instance, "id", &id, error);
	if (r == 0 && strlen(id) >= EC2_ID_BYTES)
		r = error_set(error, -EBADMSG, NULL, "AWS's id of the instance is too long");
	if (r == 0)
		snprintf(request->instance, sizeof(request->instance), "%s", id);
	return r == 0 ? take_volumes(&instance, choice, request, error) : r;
}
