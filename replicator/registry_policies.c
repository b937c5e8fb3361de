/*
 * Policies by name: the built-in default, those of the configuration file, those stored by
 * `policy set`. The configuration file wins over what is stored.
 */
#include <errno.h>

#include "replicator/registry_internal.h"

struct policy_entry *registry_find_policy(struct registry *registry, const char *name)
{
	struct policy_entry *entry = registry->policies;
	while (entry && strcmp(entry->policy.name, name) != 0)
		entry = entry->next;
	return entry;
}

int registry_put_policy(
	struct registry *registry, const struct policy *policy, enum policy_origin origin)
{
	struct policy_entry *entry = registry_find_policy(registry, policy->name);
	if (!entry) {
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
	}
	SCOPED_LOCK(&registry->lock);
	bool is_new = entry->policy.name[0] == '\0';
	entry->policy = *policy;
	entry->origin = origin;
	if (is_new) {
		struct policy_entry **link = &registry->policies;
		while (*link && strcmp((*link)->policy.name, policy->name) < 0)
			link = &(*link)->next;
		entry->next = *link;
		*link = entry;
	}
	return 0;
}

int policy_to_json(const struct policy_entry *entry, struct cJSON **ret_settings)
{
	CLEANUP(json_freep) struct cJSON *settings = NULL;
	int r = json_new_object(&settings);
	for (const char *const *key = policy_keys(); r == 0 && *key; key++) {
		CLEANUP(buf_free) struct buf text = { 0 };
		r = policy_format(&entry->policy, *key, &text);
		if (r == 0)
			r = json_add_text(settings, *key, text.data);
	}
	if (r == 0)
		*ret_settings = TAKE(settings);
	return r;
}

int policy_from_json(struct policy *policy, const struct json *settings, struct error *error)
{
	struct policy next = *policy;
	for (struct json item = { 0 }; json_each(settings, &item);) {
		const char *text;
		int r = json_as_text(&item, &text, error);
		if (r == 0)
			r = policy_set(&next, item.name, text, error);
		if (r < 0)
			return r;
	}
	int r = policy_check(&next, error);
	if (r == 0)
		*policy = next;
	return r;
}
