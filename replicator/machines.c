/*
 * Machines: adding, pausing, removing.
 *
 * Adding is durable in the registry's file before the journal knows the disks; what a crash cuts
 * off in between is done at the next start (registry_open_group adds missing disks). Removing is
 * a job: the machine is marked first, so that a crash leaves a removal to finish and not half a
 * machine; the vault goes before the journal, the journal before the name.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/human.h"
#include "common/log.h"
#include "fs/vhd.h"
#include "replicator/registry_internal.h"

/* ── what is asked ───────────────────────────────────────────────────────────────────────── */

int machine_check_size(const char *disk, uint64_t size_bytes, struct error *error)
{
	if (size_bytes == 0)
		return error_set(error, -EINVAL, "give its size, e.g. root=40G",
			"disk %s: a disk of 0 bytes cannot be protected", disk);
	if (size_bytes % SECTOR_BYTES != 0)
		return error_set(error, -EINVAL, "give a whole number of MiB, rounded up",
			"disk %s: %" PRIu64 " bytes is not a whole number of 512-byte sectors",
			disk, size_bytes);
	if (size_bytes % MIB != 0)
		return error_set(error, -EINVAL,
			"give the next whole number of MiB; the rest reads as zeros",
			"disk %s: %" PRIu64
			" bytes is not a whole number of MiB, as Azure wants it",
			disk, size_bytes);
	if (size_bytes + VHD_FOOTER_BYTES > VHD_MAX_BYTES)
		return error_set(error, -EINVAL,
			"a page blob holds 8 TiB with the VHD footer: at most 8388607M; split the "
			"disk at the source",
			"disk %s: %" PRIu64 " bytes is more than a page blob can hold", disk,
			size_bytes);
	return 0;
}

int machine_parse_disk(const char *text, struct machine_disk *ret_disk, struct error *error)
{
	struct machine_disk disk;
	const char *equals = strchr(text, '=');
	if (!equals || (size_t)(equals - text) >= sizeof(disk.id))
		return error_set(error, -EINVAL, "write e.g. --disk root=40G",
			"'%.80s' is not ID=SIZE", text);
	snprintf(disk.id, sizeof(disk.id), "%.*s", (int)(equals - text), text);
	int r = name_check_new("disk", disk.id, error);
	if (r == 0 && size_parse(equals + 1, &disk.size_bytes) < 0)
		r = error_set(error, -EINVAL, "write digits and K, M, G or T, e.g. 40G",
			"disk %s: '%.40s' is not a size", disk.id, equals + 1);
	if (r == 0)
		r = machine_check_size(disk.id, disk.size_bytes, error);
	if (r == 0)
		*ret_disk = disk;
	return r;
}

static int check_source(const char *source, struct error *error)
{
	if (strcmp(source, "fuse") == 0 || strcmp(source, "agent") == 0 ||
		strcmp(source, "ebs") == 0)
		return 0;
	return error_set(error, -EINVAL, "the sources are agent, ebs and fuse",
		"there is no source '%.40s'", source);
}

static int check_disks(const struct machine_request *request, struct error *error)
{
	/* An agent brings its own. */
	if (request->disk_count == 0 && strcmp(request->source, "agent") != 0)
		return error_set(error, -EINVAL, "give each disk as --disk ID=SIZE",
			"machine %s: no disk is named", request->name);
	for (unsigned i = 0; i < request->disk_count; i++) {
		const char *id = request->disks[i].id;
		if (strlen(request->name) + 1 + strlen(id) > NAME_MAX_CHARACTERS)
			return error_set(error, -EINVAL, "choose shorter names",
				"%s/%s: machine and disk together are longer than %d characters",
				request->name, id, NAME_MAX_CHARACTERS - 1);
		for (unsigned k = 0; k < i; k++)
			if (strcmp(id, request->disks[k].id) == 0)
				return error_set(error, -EINVAL, "give each disk an ID of its own",
					"machine %s: disk %s is named twice", request->name, id);
	}
	return 0;
}

static int check_request(const struct machine_request *request, struct error *error)
{
	int r = name_check_new("machine", request->name, error);
	if (r == 0 && request->group)
		r = name_check("group", request->group, error);
	if (r == 0)
		r = check_source(request->source, error);
	if (r == 0)
		r = check_disks(request, error);
	return r;
}

/* ── the list ────────────────────────────────────────────────────────────────────────────── */

int machine_insert(struct registry *registry, const struct machine_request *request,
	struct group_entry *group, struct error *error)
{
	struct machine_entry *machine = calloc(1, sizeof(*machine));
	if (machine)
		machine->disks = calloc(request->disk_count + 1, sizeof(*machine->disks));
	if (!machine || !machine->disks) {
		free(machine);
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	snprintf(machine->name, sizeof(machine->name), "%s", request->name);
	snprintf(machine->source, sizeof(machine->source), "%s", request->source);
	memcpy(machine->disks, request->disks, request->disk_count * sizeof(*machine->disks));
	machine->disk_count = request->disk_count;
	memcpy(machine->instance, request->instance, sizeof(machine->instance));
	memcpy(machine->region, request->region, sizeof(machine->region));
	machine->left_out = request->left_out;
	machine->group = group;
	SCOPED_LOCK(&registry->lock);
	struct machine_entry **link = &registry->machines;
	while (*link && strcmp((*link)->name, machine->name) < 0)
		link = &(*link)->next;
	machine->next = *link;
	*link = machine;
	return 0;
}

void machine_erase(struct registry *registry, struct machine_entry *machine)
{
	pthread_mutex_lock(&registry->lock);
	struct machine_entry **link = &registry->machines;
	while (*link != machine)
		link = &(*link)->next;
	*link = machine->next;
	pthread_mutex_unlock(&registry->lock);
	free(machine->disks);
	free(machine);
}

/* ── adding ──────────────────────────────────────────────────────────────────────────────── */

static int check_against_lists(
	struct registry *registry, const struct machine_request *request, struct error *error)
{
	struct machine_entry *there = registry_find_machine(registry, request->name);
	if (there)
		return error_set(error, -EEXIST,
			there->removing ? "wait for its removal, or run 'landfall machine remove' "
					  "again if that failed"
					: "choose another name, or remove that one first",
			"there is a machine %s already", request->name);
	if (request->policy && !registry_find_policy(registry, request->policy))
		return error_set(error, -ENOENT,
			"'landfall policy list' shows what there is; 'landfall policy set' makes "
			"one",
			"there is no policy %.80s", request->policy);
	const char *group = request->group ? request->group : request->name;
	struct group_entry *entry = registry_find_group(registry, group);
	if (!entry)
		return name_check_new("group", group, error);
	if (request->policy && strcmp(request->policy, entry->policy) != 0)
		return error_set(error, -EEXIST,
			"leave --policy out: the machines of a group share its policy",
			"group %s has the policy %s", group, entry->policy);
	if (!entry->group)
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"group %s is not running", group);
	for (struct machine_entry *m = registry->machines; m; m = m->next) {
		if (m->group == entry && m->removing)
			return error_set(error, -EBUSY, "wait until machine.remove has ended",
				"group %s: machine %s is being removed", group, m->name);
		/* Who says when the group's points are made? One kind of source. */
		if (m->group == entry && strcmp(m->source, request->source) != 0)
			return error_set(error, -EEXIST, "put it into another group",
				"group %s has machines of the source %s, and all machines of a "
				"group have one kind of source",
				group, m->source);
		/* One set of snapshots is of one instance: two sets are of two moments. */
		if (m->group == entry && strcmp(m->source, "ebs") == 0)
			return error_set(error, -EEXIST, "leave --group out",
				"group %s has the instance %s already, and snapshots of several "
				"instances cannot be of one moment",
				group, m->instance);
	}
	return 0;
}

static int join_group(struct registry *registry, const struct machine_request *request,
	struct error *error, struct group_entry **ret_entry)
{
	const char *name = request->group ? request->group : request->name;
	struct group_entry *entry = registry_find_group(registry, name);
	if (entry) {
		*ret_entry = entry;
		return 0;
	}
	struct uuid id;
	int r = uuid_generate(&id);
	if (r < 0)
		return error_set(error, r, NULL, "making an id: %s", strerrordesc_np(-r));
	return registry_add_group(registry, name, &id,
		request->policy ? request->policy : REGISTRY_DEFAULT_POLICY, error, ret_entry);
}

static int bring_up(struct registry *registry, struct machine_entry *machine, struct error *error)
{
	struct group_entry *entry = machine->group;
	if (!entry->group)
		return registry_open_group(registry, entry, NULL, error);
	for (unsigned i = 0; i < machine->disk_count; i++) {
		char name[2 * REGISTRY_NAME_BYTES];
		snprintf(name, sizeof(name), "%s/%s", machine->name, machine->disks[i].id);
		int r = group_add_disk(entry->group, name, machine->disks[i].size_bytes, error);
		if (r < 0)
			return r;
	}
	int r = registry_push_settings(registry, entry, error);
	if (r == 0)
		registry_show_machine(registry, machine);
	return r;
}

/* Undoes an addition that failed; what is left behind is harmless (an empty journal). */
static void take_back(
	struct registry *registry, struct machine_entry *machine, struct group_entry *entry)
{
	for (unsigned i = 0; entry->group && i < machine->disk_count; i++) {
		char name[2 * REGISTRY_NAME_BYTES];
		snprintf(name, sizeof(name), "%s/%s", machine->name, machine->disks[i].id);
		(void)group_remove_disk(entry->group, name, NULL);
	}
	machine_erase(registry, machine);
	if (registry_count_machines(registry, entry) == 0) {
		registry_close_group(registry, entry);
		registry_forget_group(registry, entry);
	}
	struct error error = { 0 };
	if (registry_save(registry, &error) < 0)
		log_error("%s", error.message);
}

int machine_add(
	struct registry *registry, const struct machine_request *request, struct error *error)
{
	int r = check_request(request, error);
	if (r == 0) {
		SCOPED_LOCK(&registry->change_lock);
		r = check_against_lists(registry, request, error);
	}
	if (r == 0)
		r = machine_check_vault(registry, request, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&registry->change_lock);
	r = check_against_lists(registry, request, error); /* as they are by now */
	struct group_entry *entry = NULL;
	if (r == 0)
		r = join_group(registry, request, error, &entry);
	if (r < 0)
		return r;
	r = machine_insert(registry, request, entry, error);
	if (r < 0) {
		if (registry_count_machines(registry, entry) == 0)
			registry_forget_group(registry, entry);
		return r;
	}
	struct machine_entry *machine = registry_find_machine(registry, request->name);
	r = registry_save(registry, error);
	if (r == 0)
		r = bring_up(registry, machine, error);
	if (r < 0)
		take_back(registry, machine, entry);
	return r;
}

/* ── disks that the source reports ───────────────────────────────────────────────────────── */

static struct machine_disk *find_machine_disk(struct machine_entry *machine, const char *id)
{
	for (unsigned i = 0; i < machine->disk_count; i++)
		if (strcmp(machine->disks[i].id, id) == 0)
			return &machine->disks[i];
	return NULL;
}

/* Under change_lock. */
static int list_disk(struct registry *registry, struct machine_entry *machine, const char *id,
	uint64_t size_bytes)
{
	SCOPED_LOCK(&registry->lock);
	struct machine_disk *disk = find_machine_disk(machine, id);
	if (disk) {
		disk->size_bytes = size_bytes;
		return 0;
	}
	struct machine_disk *disks =
		realloc(machine->disks, (machine->disk_count + 1) * sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	machine->disks = disks;
	disk = &disks[machine->disk_count++];
	*disk = (struct machine_disk){ 0 };
	snprintf(disk->id, sizeof(disk->id), "%s", id);
	disk->size_bytes = size_bytes;
	return 0;
}

int machine_set_disk(struct registry *registry, const char *name, const char *id,
	uint64_t size_bytes, struct error *error)
{
	char full[2 * REGISTRY_NAME_BYTES];
	int r = name_check("disk", id, error);
	if (r == 0 && strlen(name) + 1 + strlen(id) > NAME_MAX_CHARACTERS)
		r = error_set(error, -EINVAL, "choose shorter names",
			"%s/%s: machine and disk together are longer than %d characters", name, id,
			NAME_MAX_CHARACTERS - 1);
	if (r == 0)
		r = machine_check_size(id, size_bytes, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&registry->change_lock);
	struct machine_entry *machine = registry_find_machine(registry, name);
	if (!machine || machine->removing)
		return error_set(error, -ENOENT, NULL, "there is no machine %.80s", name);
	const struct machine_disk *disk = find_machine_disk(machine, id);
	if (disk && disk->size_bytes == size_bytes)
		return 0;
	if (!disk && (r = name_check_new("disk", id, error)) < 0)
		return r;
	struct group *group = machine->group->group;
	if (!group)
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"machine %s is not running", name);
	/* The group first: a name in the list without a disk would be made anew at every start. */
	snprintf(full, sizeof(full), "%s/%s", name, id);
	r = disk ? group_grow_disk(group, full, size_bytes, error)
		 : group_add_disk(group, full, size_bytes, error);
	if (r == 0 && list_disk(registry, machine, id, size_bytes) < 0)
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	if (r == 0)
		r = registry_save(registry, error);
	return r;
}

/* ── pausing ─────────────────────────────────────────────────────────────────────────────── */

int machine_pause(struct registry *registry, const char *name, bool paused, struct error *error)
{
	SCOPED_LOCK(&registry->change_lock);
	struct machine_entry *machine = registry_find_machine(registry, name);
	if (!machine)
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s", name);
	struct group_entry *entry = machine->group;
	bool before = entry->paused;
	pthread_mutex_lock(&registry->lock);
	entry->paused = paused;
	pthread_mutex_unlock(&registry->lock);
	int r = registry_save(registry, error);
	if (r < 0) {
		SCOPED_LOCK(&registry->lock);
		entry->paused = before;
		return r;
	}
	if (entry->group)
		group_pause(entry->group, paused);
	return 0;
}

/* ── enrolling ───────────────────────────────────────────────────────────────────────────── */

int registry_may_enroll(void *context, const char *name, struct error *error)
{
	struct registry *registry = context;
	SCOPED_LOCK(&registry->lock);
	const struct machine_entry *machine = registry_find_machine(registry, name);
	if (!machine || machine->removing)
		return error_set(error, -ENOENT,
			"add it on the appliance: landfall machine add NAME --source agent",
			"the appliance protects no machine %.80s", name);
	if (strcmp(machine->source, "agent") != 0)
		return error_set(error, -ENOENT,
			"remove it and add it anew: landfall machine add NAME --source agent",
			"machine %s is not protected by an agent but by the source %s", name,
			machine->source);
	return 0;
}
