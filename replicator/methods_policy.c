/*
 * The methods policy.set, list, show.
 */
#include <errno.h>

#include "replicator/registry_internal.h"

static int fill_policy(
	struct registry *registry, const struct policy_entry *entry, struct cJSON *object)
{
	static const char *const origins[] = { "built-in", "configuration", "stored" };
	struct cJSON *settings, *machines;
	int r = json_add_text(object, "name", entry->policy.name);
	if (r == 0)
		r = json_add_text(object, "origin", origins[entry->origin]);
	if (r == 0)
		r = policy_to_json(entry, &settings);
	if (r == 0)
		r = json_add_item(object, "settings", settings);
	if (r == 0)
		r = json_add_array(object, "machines", &machines);
	for (struct machine_entry *m = registry->machines; r == 0 && m; m = m->next)
		if (strcmp(m->group->policy, entry->policy.name) == 0)
			r = json_add_text(machines, NULL, m->name);
	return r;
}

int policy_json(struct registry *registry, const char *name, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	SCOPED_LOCK(&registry->lock);
	struct policy_entry *entry = registry_find_policy(registry, name);
	if (!entry)
		return -ENOENT;
	int r = json_new_object(&object);
	if (r == 0)
		r = fill_policy(registry, entry, object);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}

static int wrap_policy(
	struct registry *registry, const char *name, struct error *error, struct cJSON **ret_result)
{
	struct cJSON *policy;
	int r = policy_json(registry, name, &policy);
	if (r == -ENOENT)
		return error_set(error, r, "'landfall policy list' shows what there is",
			"there is no policy %.80s", name);
	return r == 0 ? result_wrap("policy", policy, ret_result) : r;
}

/* ── setting ─────────────────────────────────────────────────────────────────────────────── */

static int apply_to_groups(struct registry *registry, const struct policy *policy)
{
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		if (!g->group || strcmp(g->policy, policy->name) != 0)
			continue;
		group_set_policy(g->group, policy);
		int r = registry_push_settings(registry, g, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

static int set_policy(struct registry *registry, const char *name, const struct json *settings,
	struct error *error)
{
	SCOPED_LOCK(&registry->change_lock);
	struct policy_entry *there = registry_find_policy(registry, name);
	if (there && there->origin == POLICY_CONFIGURED)
		return error_set(error, -EBUSY,
			"change it there, then 'systemctl reload landfalld'",
			"policy %s is set in the configuration file", name);
	struct policy policy, before;
	policy_default(&policy);
	if (there)
		policy = there->policy;
	before = policy;
	snprintf(policy.name, sizeof(policy.name), "%s", name);
	int r = policy_from_json(&policy, settings, error);
	enum policy_origin origin = there ? there->origin : POLICY_STORED;
	if (r == 0)
		r = registry_put_policy(registry, &policy, POLICY_STORED);
	if (r < 0)
		return r;
	r = registry_save(registry, error);
	if (r < 0) {
		/* What could not be kept is not used. A new name nobody uses stays until the end.
		 */
		snprintf(before.name, sizeof(before.name), "%s", name);
		(void)registry_put_policy(registry, &before, origin);
		return r;
	}
	return apply_to_groups(registry, &policy);
}

static int method_set(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", "settings", NULL };
	struct registry *registry = context;
	const char *name;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &name);
	if (r == 0)
		r = name_check("policy", name, error);
	struct json root, settings;
	json_root(parameters, "params", &root);
	if (r == 0 && json_get_object(&root, "settings", &settings, NULL) < 0)
		r = error_set(error, -EINVAL, "write e.g. point-interval=30s",
			"policy %s: no setting is given", name);
	for (struct json item = { 0 }; r == 0 && json_each(&settings, &item);)
		if (!cJSON_IsString(item.node))
			r = error_set(error, -EINVAL, "write e.g. \"point-interval\": \"30s\"",
				"policy %s: %.60s must be a text", name, item.name);
	if (r == 0)
		r = set_policy(registry, name, &settings, error);
	if (r == -ENOENT) /* no such key: bad usage, not a missing object */
		r = error->code = -EINVAL;
	return r == 0 ? wrap_policy(registry, name, error, ret_result) : r;
}

/* ── showing ─────────────────────────────────────────────────────────────────────────────── */

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	struct registry *registry = context;
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list, *item;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_array(root, "policies", &list);
	SCOPED_LOCK(&registry->lock);
	for (struct policy_entry *p = registry->policies; r == 0 && p; p = p->next) {
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = fill_policy(registry, p, item);
	}
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

static int method_show(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", NULL };
	const char *name;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &name);
	return r == 0 ? wrap_policy(context, name, error, ret_result) : r;
}

int methods_policy_register(struct registry *registry, struct control *control)
{
	int r = control_register(control, "policy.set", method_set, registry);
	if (r == 0)
		r = control_register(control, "policy.list", method_list, registry);
	if (r == 0)
		r = control_register(control, "policy.show", method_show, registry);
	return r;
}
