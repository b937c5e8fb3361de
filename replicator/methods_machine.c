/*
 * The methods machine.add, list, show, remove, pause, resume.
 */
#include <errno.h>

#include "replicator/ebs.h"
#include "replicator/ingest.h"
#include "replicator/registry_internal.h"

static int one_machine(struct registry *registry, const char *name, struct error *error,
	struct cJSON **ret_machine)
{
	SCOPED_LOCK(&registry->lock);
	struct machine_entry *machine = registry_find_machine(registry, name);
	if (!machine)
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s", name);
	return machine_to_json(registry, machine, ret_machine);
}

static int wrap_machine(
	struct registry *registry, const char *name, struct error *error, struct cJSON **ret_result)
{
	struct cJSON *machine;
	int r = one_machine(registry, name, error, &machine);
	return r == 0 ? result_wrap("machine", machine, ret_result) : r;
}

static int read_disks(
	const struct cJSON *parameters, struct machine_request *request, struct error *error)
{
	const struct cJSON *list = cJSON_GetObjectItemCaseSensitive(parameters, "disk"), *item;
	if (!list || cJSON_IsNull(list))
		return 0;
	if (!cJSON_IsArray(list))
		return error_set(error, -EINVAL, "write e.g. [\"root=40G\"]",
			"the parameter disk must be a list of texts");
	cJSON_ArrayForEach(item, list)
	{
		if (request->disk_count == HISTORY_MAX_DISKS)
			return error_set(error, -EINVAL, "put some into another group",
				"a group can have %d disks at most", HISTORY_MAX_DISKS);
		if (!cJSON_IsString(item))
			return error_set(error, -EINVAL, "write e.g. [\"root=40G\"]",
				"the parameter disk must be a list of texts");
		int r = machine_parse_disk(
			item->valuestring, &request->disks[request->disk_count], error);
		if (r < 0)
			return r;
		request->disk_count++;
	}
	return 0;
}

/* What --instance and its like name; the disks come from AWS. */
static int read_instance(struct registry *registry, const struct cJSON *parameters,
	struct machine_request *request, struct error *error)
{
	struct ebs_choice choice = { 0 };
	const char *exclude[HISTORY_MAX_DISKS];
	const struct cJSON *item, *list;
	list = cJSON_GetObjectItemCaseSensitive(parameters, "exclude_volume");
	int r = parameter_text(parameters, "instance", false, error, &choice.instance);
	if (r == 0)
		r = parameter_text(parameters, "private_ip", false, error, &choice.private_ip);
	if (r == 0)
		r = parameter_text(parameters, "region", false, error, &choice.region);
	if (r < 0)
		return r;
	bool named = choice.instance || choice.private_ip || choice.region ||
		     (list && !cJSON_IsNull(list));
	if (strcmp(request->source, "ebs") != 0)
		return named ? error_set(error, -EINVAL, "leave these out, or give --source ebs",
				       "instance, address, region and volumes are named for the "
				       "source ebs only")
			     : 0;
	if (request->disk_count > 0)
		return error_set(error, -EINVAL, "leave --disk out; see --exclude-volume",
			"the disks of an instance are its volumes");
	if (!choice.instance == !choice.private_ip)
		return error_set(error, -EINVAL, "'landfall machine discover' lists instances",
			"give one of --instance and --private-ip");
	choice.exclude = exclude;
	cJSON_ArrayForEach(item, list)
	{
		if (!cJSON_IsString(item) || choice.exclude_count == HISTORY_MAX_DISKS)
			return error_set(error, -EINVAL, "write e.g. [\"vol-…\"]",
				"the parameter exclude_volume must be a list of ids");
		exclude[choice.exclude_count++] = item->valuestring;
	}
	if (!registry->ebs)
		return error_set(error, -EAGAIN, "try again in a moment",
			"the appliance is starting or stopping");
	return ebs_describe(registry->ebs, &choice, request, error);
}

/* Whoever adds a machine, and wants to hear what that waits for. */
struct adding {
	struct control_peer *peer;
	const struct machine_request *request;
};

static void tell_waiting(void *context)
{
	const struct adding *adding = context;
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = json_new_object(&json);
	if (r == 0)
		r = buf_printf(&text,
			"the vault is asked whether it holds a machine or group of the name of %s, "
			"and does not answer",
			adding->request->name);
	if (r == 0)
		r = json_add_text(json, "machine", adding->request->name);
	if (r == 0)
		r = json_add_text(json, "message", text.data);
	if (r == 0)
		r = json_add_text(json, "mend",
			"nothing: after half a minute it is added all the same; 'landfall status' "
			"tells how the vault is");
	/* One that is not told still gets its answer. */
	if (r == 0)
		(void)control_notify(adding->peer, "machine.waiting", json);
}

/* {"machine": …, "unheard": {message, mend} | null} */
static int wrap_added(struct registry *registry, const char *name, const struct error *unheard,
	struct error *error, struct cJSON **ret_result)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *object;
	int r = wrap_machine(registry, name, error, &root);
	if (r == 0 && unheard->code == 0) {
		r = json_add_null(root, "unheard");
	} else if (r == 0) {
		r = json_add_object(root, "unheard", &object);
		if (r == 0)
			r = json_add_text(object, "message", unheard->message);
		if (r == 0)
			r = json_add_text(object, "mend", unheard->mend);
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_add(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", "source", "disk", "group", "policy",
		"instance", "private_ip", "region", "exclude_volume", "tell", NULL };
	struct registry *registry = context;
	CLEANUP_FREE struct machine_request *request = calloc(1, sizeof(*request));
	struct adding adding = { .peer = peer, .request = request };
	struct error unheard = { 0 };
	bool told = false;
	if (!request)
		return -ENOMEM;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &request->name);
	if (r == 0)
		r = parameter_text(parameters, "source", true, error, &request->source);
	if (r == 0)
		r = parameter_text(parameters, "group", false, error, &request->group);
	if (r == 0)
		r = parameter_text(parameters, "policy", false, error, &request->policy);
	if (r == 0)
		r = read_disks(parameters, request, error);
	if (r == 0)
		r = read_instance(registry, parameters, request, error);
	if (r == 0)
		r = parameter_flag(parameters, "tell", error, &told);
	request->waits = told ? tell_waiting : NULL;
	request->waits_context = &adding;
	request->ret_unheard = &unheard;
	if (r == 0)
		r = machine_add(registry, request, error);
	return r == 0 ? wrap_added(registry, request->name, &unheard, error, ret_result) : r;
}

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	struct registry *registry = context;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r < 0)
		return r;
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list, *item;
	r = json_new_object(&root);
	if (r == 0)
		r = json_add_array(root, "machines", &list);
	SCOPED_LOCK(&registry->lock);
	for (struct machine_entry *m = registry->machines; r == 0 && m; m = m->next) {
		r = machine_to_json(registry, m, &item);
		if (r == 0)
			r = json_add_item(list, NULL, item);
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int add_mates(struct registry *registry, const char *name, struct cJSON *root)
{
	struct cJSON *list;
	int r = json_add_array(root, "group_machines", &list);
	SCOPED_LOCK(&registry->lock);
	struct machine_entry *machine = registry_find_machine(registry, name);
	for (struct machine_entry *m = registry->machines; r == 0 && machine && m; m = m->next)
		if (m->group == machine->group)
			r = json_add_text(list, NULL, m->name);
	return r;
}

static int add_policy(struct registry *registry, const char *name, struct cJSON *root)
{
	struct cJSON *policy = NULL;
	char policy_name[REGISTRY_NAME_BYTES] = "";
	pthread_mutex_lock(&registry->lock);
	struct machine_entry *machine = registry_find_machine(registry, name);
	if (machine)
		memcpy(policy_name, machine->group->policy, sizeof(policy_name));
	pthread_mutex_unlock(&registry->lock);
	int r = policy_json(registry, policy_name, &policy);
	if (r == -ENOENT)
		return json_add_null(root, "policy");
	return r == 0 ? json_add_item(root, "policy", policy) : r;
}

static int method_show(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", NULL };
	struct registry *registry = context;
	const char *name;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &name);
	CLEANUP(json_freep) struct cJSON *root = NULL;
	if (r == 0)
		r = wrap_machine(registry, name, error, &root);
	if (r == 0)
		r = add_policy(registry, name, root);
	if (r == 0)
		r = add_mates(registry, name, root);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_remove(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", "keep_vault", NULL };
	struct registry *registry = context;
	const char *name;
	bool keep_vault;
	uint64_t job;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &name);
	if (r == 0)
		r = parameter_flag(parameters, "keep_vault", error, &keep_vault);
	if (r == 0)
		r = machine_start_removal(registry, name, keep_vault, error, &job);
	CLEANUP(json_freep) struct cJSON *root = NULL;
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_text(root, "removed", name);
	if (r == 0)
		r = json_add_u64(root, "job", job);
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int pause_or_resume(struct registry *registry, const struct cJSON *parameters, bool paused,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", NULL };
	const char *name;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &name);
	if (r == 0)
		r = machine_pause(registry, name, paused, error);
	return r == 0 ? wrap_machine(registry, name, error, ret_result) : r;
}

static int method_pause(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	(void)peer;
	return pause_or_resume(context, parameters, true, error, ret_result);
}

static int method_resume(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	(void)peer;
	return pause_or_resume(context, parameters, false, error, ret_result);
}

static int method_resync(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", "disk", NULL };
	CLEANUP(registry_release) struct hold hold = { 0 };
	struct registry *registry = context;
	const char *machine, *disk;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", true, error, &machine);
	if (r == 0)
		r = parameter_text(parameters, "disk", false, error, &disk);
	if (r == 0)
		r = registry_hold(registry, machine, error, &hold);
	if (r == 0 && strcmp(hold.source, "ebs") == 0 && registry->ebs) {
		if (disk)
			r = error_set(error, -EINVAL, "leave --disk out",
				"the disks of an instance are compared together");
		if (r == 0)
			r = ebs_resync(registry->ebs, machine, error);
		return r == 0 ? wrap_machine(registry, machine, error, ret_result) : r;
	}
	if (r == 0 && (strcmp(hold.source, "agent") != 0 || !registry->ingest))
		r = error_set(error, -EOPNOTSUPP,
			"write its content again, then 'landfall point create --resynced'",
			"machine %s: its source, %s, cannot be compared by the appliance", machine,
			hold.source);
	if (r == 0)
		r = ingest_resync(registry->ingest, machine, disk, error);
	return r == 0 ? wrap_machine(registry, machine, error, ret_result) : r;
}

int methods_machine_register(struct registry *registry, struct control *control)
{
	int r = machine_register_jobs(registry);
	if (r == 0)
		r = control_register(control, "machine.add", method_add, registry);
	if (r == 0)
		r = control_register(control, "machine.list", method_list, registry);
	if (r == 0)
		r = control_register(control, "machine.show", method_show, registry);
	if (r == 0)
		r = control_register(control, "machine.remove", method_remove, registry);
	if (r == 0)
		r = control_register(control, "resync", method_resync, registry);
	if (r == 0)
		r = control_register(control, "machine.pause", method_pause, registry);
	if (r == 0)
		r = control_register(control, "machine.resume", method_resume, registry);
	return r;
}
