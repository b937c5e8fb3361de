/*
 * state/registry.json: what the appliance was told to protect.
 *
 * The first line is "landfall-registry 1 <XXH3-64 of all that follows, 16 hex digits>", then a
 * JSON object. It is replaced whole at every change, and so is its copy (twin_file.h), which takes
 * its place should its checksum not hold. If neither holds, starting is refused: running with half
 * a list would leave machines unprotected in silence.
 */
#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "common/checksum.h"
#include "replicator/registry_internal.h"
#include "replicator/twin_file.h"

#define FILE_MAX_BYTES (64u << 20)
#define FILE_MAGIC "landfall-registry 1 "
#define FILE_HEADER_BYTES (sizeof(FILE_MAGIC) - 1 + 16 + 1)

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

static int read_name(const struct json *at, const char *key,
	char ret_name[static REGISTRY_NAME_BYTES], struct error *error)
{
	const char *text;
	int r = json_get_text(at, key, &text, error);
	if (r < 0)
		return r;
	if (!name_is_valid(text))
		return json_error(at, -EBADMSG, error, "%s is not a name", key);
	snprintf(ret_name, REGISTRY_NAME_BYTES, "%s", text);
	return 0;
}

static int read_uuid(const struct json *at, struct uuid *ret_id, struct error *error)
{
	const char *text;
	int r = json_get_text(at, "id", &text, error);
	if (r == 0 && uuid_parse(text, ret_id) < 0)
		r = json_error(at, -EBADMSG, error, "id is not a UUID");
	return r;
}

static int read_group(struct registry *registry, const struct json *at, struct error *error)
{
	char name[REGISTRY_NAME_BYTES], policy[REGISTRY_NAME_BYTES];
	struct uuid id;
	bool paused = false;
	int r = read_name(at, "name", name, error);
	if (r == 0)
		r = read_name(at, "policy", policy, error);
	if (r == 0)
		r = read_uuid(at, &id, error);
	if (r == 0)
		r = json_get_bool(at, "paused", &paused, error);
	struct group_entry *entry;
	if (r == 0)
		r = registry_add_group(registry, name, &id, policy, error, &entry);
	if (r == 0)
		entry->paused = paused;
	return r;
}

static int read_disks(const struct json *at, struct machine_request *request, struct error *error)
{
	struct json disks;
	int r = json_get_array(at, "disks", &disks, error);
	for (struct json item = { 0 }; r == 0 && json_each(&disks, &item);) {
		if (request->disk_count == HISTORY_MAX_DISKS)
			return json_error(&disks, -EBADMSG, error, "too many disks");
		struct machine_disk *disk = &request->disks[request->disk_count++];
		r = read_name(&item, "id", disk->id, error);
		if (r == 0)
			r = json_get_u64(&item, "size_bytes", &disk->size_bytes, error);
	}
	return r;
}

static int read_machine(struct registry *registry, const struct json *at, struct error *error)
{
	CLEANUP_FREE struct machine_request *request = calloc(1, sizeof(*request));
	if (!request)
		return -ENOMEM;
	char name[REGISTRY_NAME_BYTES], group[REGISTRY_NAME_BYTES];
	bool removing = false, keep_vault = false;
	int r = read_name(at, "name", name, error);
	if (r == 0)
		r = read_name(at, "group", group, error);
	if (r == 0)
		r = json_get_text(at, "source", &request->source, error);
	if (r == 0)
		r = json_get_bool(at, "removing", &removing, error);
	if (r == 0)
		r = json_get_bool(at, "keep_vault", &keep_vault, error);
	if (r == 0)
		r = read_disks(at, request, error);
	if (r == 0)
		r = machine_aws_from_json(at, request, error);
	if (r < 0)
		return r;
	struct group_entry *entry = registry_find_group(registry, group);
	if (!entry)
		return json_error(at, -EBADMSG, error, "there is no group %s", group);
	request->name = name;
	r = machine_insert(registry, request, entry, error);
	if (r < 0)
		return r;
	struct machine_entry *machine = registry_find_machine(registry, name);
	machine->removing = removing;
	machine->keep_vault = keep_vault;
	return 0;
}

static int read_policy(struct registry *registry, const struct json *at, struct error *error)
{
	struct policy policy;
	struct json settings;
	policy_default(&policy);
	int r = read_name(at, "name", policy.name, error);
	if (r == 0)
		r = json_get_object(at, "settings", &settings, error);
	if (r == 0)
		r = policy_from_json(&policy, &settings, error);
	struct policy_entry *there = registry_find_policy(registry, policy.name);
	if (r < 0 || (there && there->origin == POLICY_CONFIGURED))
		return r; /* the configuration file wins */
	return registry_put_policy(registry, &policy, POLICY_STORED);
}

static int read_each(struct registry *registry, const struct json *root, const char *name,
	int (*read)(struct registry *, const struct json *, struct error *), struct error *error)
{
	struct json list;
	int r = json_get_array(root, name, &list, error);
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = read(registry, &item, error);
	return r;
}

static int read_all(struct registry *registry, const struct json *root, struct error *error)
{
	struct json appliance;
	int r = json_get_object(root, "appliance", &appliance, error);
	if (r == 0)
		r = read_uuid(&appliance, &registry->appliance, error);
	if (r == 0)
		r = read_each(registry, root, "policies", read_policy, error);
	if (r == 0)
		r = read_each(registry, root, "groups", read_group, error);
	if (r == 0)
		r = read_each(registry, root, "machines", read_machine, error);
	return r;
}

static int refuse(const struct registry *registry, struct error *error)
{
	char mend[256];
	snprintf(mend, sizeof(mend),
		"put back a backup of it; or move it and %.120s.copy away and run 'landfall vault "
		"takeover'",
		registry->file_path);
	return error_set(error, -EUCLEAN, mend, "%s: the file is damaged (its checksum fails)",
		registry->file_path);
}

static int check_header(void *context, const char *text, size_t n, struct error *error)
{
	const struct registry *registry = context;
	char header[FILE_HEADER_BYTES + 1];
	if (n < FILE_HEADER_BYTES)
		return refuse(registry, error);
	snprintf(header, sizeof(header), FILE_MAGIC "%016" PRIx64 "\n",
		checksum64(text + FILE_HEADER_BYTES, n - FILE_HEADER_BYTES));
	if (memcmp(header, text, FILE_HEADER_BYTES) != 0)
		return refuse(registry, error);
	return 0;
}

int registry_load(struct registry *registry, struct error *error)
{
	CLEANUP_FREE char *text = NULL;
	size_t n;
	int r = twin_load(registry->io, registry->file_path, FILE_MAX_BYTES, check_header, registry,
		error, &registry->state_fault, &text, &n);
	if (r == -ENOENT) {
		r = uuid_generate(&registry->appliance);
		return r == 0 ? registry_save(registry, error) : r;
	}
	if (r < 0)
		return r;
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	r = json_parse(text + FILE_HEADER_BYTES, n - FILE_HEADER_BYTES, NULL, &json, error);
	if (r < 0)
		return r;
	json_root(json, registry->file_path, &root);
	return read_all(registry, &root, error);
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

static int add_uuid(struct cJSON *object, const struct uuid *id)
{
	char text[UUID_TEXT_BYTES];
	uuid_format(id, text);
	return json_add_text(object, "id", text);
}

static int write_machine(struct cJSON *list, const struct machine_entry *machine)
{
	struct cJSON *object, *disks, *disk;
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "name", machine->name);
	if (r == 0)
		r = json_add_text(object, "group", machine->group->name);
	if (r == 0)
		r = json_add_text(object, "source", machine->source);
	if (r == 0)
		r = json_add_bool(object, "removing", machine->removing);
	if (r == 0)
		r = json_add_bool(object, "keep_vault", machine->keep_vault);
	if (r == 0)
		r = json_add_array(object, "disks", &disks);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++) {
		r = json_add_object(disks, NULL, &disk);
		if (r == 0)
			r = json_add_text(disk, "id", machine->disks[i].id);
		if (r == 0)
			r = json_add_u64(disk, "size_bytes", machine->disks[i].size_bytes);
	}
	return r == 0 ? machine_aws_to_json(machine, object) : r;
}

static int write_group(struct cJSON *list, const struct group_entry *group)
{
	struct cJSON *object;
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "name", group->name);
	if (r == 0)
		r = add_uuid(object, &group->id);
	if (r == 0)
		r = json_add_text(object, "policy", group->policy);
	if (r == 0)
		r = json_add_bool(object, "paused", group->paused);
	return r;
}

static int write_policy(struct cJSON *list, const struct policy_entry *entry)
{
	struct cJSON *object, *settings = NULL;
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "name", entry->policy.name);
	if (r == 0)
		r = policy_to_json(entry, &settings);
	if (r == 0)
		r = json_add_item(object, "settings", settings);
	return r;
}

static int write_all(struct registry *registry, struct cJSON *root)
{
	struct cJSON *appliance, *list;
	int r = json_add_object(root, "appliance", &appliance);
	if (r == 0)
		r = add_uuid(appliance, &registry->appliance);
	if (r == 0)
		r = json_add_text(appliance, "name", registry->appliance_name);
	if (r == 0)
		r = json_add_array(root, "policies", &list);
	for (struct policy_entry *p = registry->policies; r == 0 && p; p = p->next)
		if (p->origin == POLICY_STORED)
			r = write_policy(list, p);
	if (r == 0)
		r = json_add_array(root, "groups", &list);
	for (struct group_entry *g = registry->groups; r == 0 && g; g = g->next)
		r = write_group(list, g);
	if (r == 0)
		r = json_add_array(root, "machines", &list);
	for (struct machine_entry *m = registry->machines; r == 0 && m; m = m->next)
		r = write_machine(list, m);
	return r;
}

int registry_save(struct registry *registry, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	CLEANUP(buf_free) struct buf body = { 0 }, text = { 0 };
	int r = json_new_object(&root);
	if (r == 0)
		r = write_all(registry, root);
	if (r == 0)
		r = json_print(root, true, &body);
	if (r == 0)
		r = buf_printf(
			&text, FILE_MAGIC "%016" PRIx64 "\n", checksum64(body.data, body.len));
	if (r == 0)
		r = buf_append(&text, body.data, body.len);
	if (r == 0)
		r = twin_save(registry->io, registry->file_path, text.data, text.len);
	if (r < 0)
		return error_set(error, r,
			r == -ENOSPC ? "make room on the filesystem of the state directory"
				     : "check the appliance's disk and the directory's rights",
			"%s: cannot be written, so the change was not made: %s",
			registry->file_path, strerrordesc_np(-r));
	return 0;
}
