/*
 * Volumes that an instance has got or lost since its machine was added.
 *
 * Each set looks which volumes are attached. What is neither a disk of the machine nor left out is
 * told, and machine.volumes decides about it. The worker follows at its next round: a set that is
 * under way ends with the volumes it began with, and a disk that it does not have is in none of the
 * points until a set has it.
 */
#include <errno.h>

#include "replicator/ebs_internal.h"

/* ── what is attached ────────────────────────────────────────────────────────────────────── */

void ebs_note_instance(void *context, const struct ec2_instance *instance)
{
	struct ebs_worker *w = context;
	SCOPED_LOCK(&w->ebs->lock);
	struct ebs_attached *a = &w->attached;
	a->count = 0;
	for (size_t i = 0; i < instance->volume_count && a->count < EC2_CYCLE_VOLUMES; i++) {
		snprintf(a->volumes[a->count].id, REGISTRY_AWS_BYTES, "%s",
			instance->volumes[i].volume_id);
		snprintf(a->volumes[a->count].device, REGISTRY_AWS_BYTES, "%s",
			instance->volumes[i].device);
		a->count++;
	}
}

static bool is_decided(const struct machine_entry *machine, const char *volume)
{
	for (unsigned i = 0; i < machine->disk_count; i++)
		if (strcmp(machine->disks[i].volume, volume) == 0)
			return true;
	return machine_leaves_out(&machine->left_out, volume);
}

static void tell_volumes(const struct machine_entry *machine, const struct ebs_attached *a,
	struct error *ret_volumes)
{
	char list[128] = "", mend[sizeof(ret_volumes->mend)];
	const char *first = NULL;
	size_t used = 0;
	for (unsigned i = 0; i < a->count; i++) {
		if (is_decided(machine, a->volumes[i].id))
			continue;
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s (%s)",
				first ? ", " : "", a->volumes[i].id, a->volumes[i].device);
		first = first ? first : a->volumes[i].id;
	}
	if (!first)
		return;
	snprintf(mend, sizeof(mend),
		"'landfall machine volumes %s --include %s' replicates it, with --exclude it is "
		"left out for good",
		machine->name, first);
	error_set(ret_volumes, -ENODEV, mend, "attached to %s since the machine was added: %s",
		machine->instance, list);
}

void ebs_news(struct ebs *ebs, const struct machine_entry *machine, struct error *ret_volumes,
	struct error *ret_snapshots)
{
	SCOPED_LOCK(&ebs->lock);
	const struct ebs_worker *w = ebs_find(ebs, machine->name);
	if (!w)
		return;
	tell_volumes(machine, &w->attached, ret_volumes);
	*ret_snapshots = w->left;
}

int ebs_add_left_out(const struct machine_entry *machine, const struct ebs_attached *attached,
	struct cJSON *object)
{
	struct cJSON *list, *item;
	int r = json_add_array(object, "left_out", &list);
	for (unsigned i = 0; r == 0 && i < machine->left_out.count; i++)
		r = json_add_text(list, NULL, machine->left_out.ids[i]);
	if (r == 0)
		r = json_add_array(object, "not_replicated", &list);
	for (unsigned i = 0; r == 0 && i < attached->count; i++) {
		if (is_decided(machine, attached->volumes[i].id))
			continue;
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_text(item, "id", attached->volumes[i].id);
		if (r == 0)
			r = json_add_text(item, "device", attached->volumes[i].device);
	}
	return r;
}

/* ── the worker follows ──────────────────────────────────────────────────────────────────── */

static struct ebs_disk *find_in_spec(struct ebs_spec *spec, const char *volume)
{
	for (unsigned i = 0; i < spec->count; i++)
		if (strcmp(spec->disks[i].volume, volume) == 0)
			return &spec->disks[i];
	return NULL;
}

static bool has_volume(const struct ec2_cycle *cycle, const char *volume)
{
	for (unsigned i = 0; i < cycle->count; i++)
		if (strcmp(cycle->volumes[i].id, volume) == 0)
			return true;
	return false;
}

/* An id of AWS; what is too long is none, and AWS will say so. */
static void copy_id(char to[static EC2_ID_BYTES], const char *from)
{
	size_t n = strnlen(from, EC2_ID_BYTES - 1);
	memcpy(to, from, n);
	to[n] = '\0';
}

static void drop_lost(struct ebs_worker *w)
{
	struct ec2_cycle *cycle = &w->state.cycle;
	unsigned left = 0;
	for (unsigned i = 0; i < cycle->count; i++) {
		if (!find_in_spec(&w->spec, cycle->volumes[i].id))
			continue;
		cycle->volumes[left] = cycle->volumes[i];
		w->state.begun[left] = w->state.begun[i];
		w->mending[left++] = w->mending[i];
	}
	cycle->count = left;
}

static void take_new(struct ebs_worker *w)
{
	struct ec2_cycle *cycle = &w->state.cycle;
	for (unsigned i = 0; i < w->spec.count && cycle->count < EC2_CYCLE_VOLUMES; i++) {
		if (has_volume(cycle, w->spec.disks[i].volume))
			continue;
		cycle->volumes[cycle->count] = (struct ec2_cycle_volume){ 0 };
		copy_id(cycle->volumes[cycle->count].id, w->spec.disks[i].volume);
		w->state.begun[cycle->count] = false;
		w->mending[cycle->count++] = false;
	}
}

void ebs_fit(struct ebs_worker *w)
{
	struct ec2_cycle *cycle = &w->state.cycle;
	struct ebs_disk disks[EC2_CYCLE_VOLUMES];
	char instance[EC2_ID_BYTES];
	copy_id(instance, w->spec.instance);
	if (strcmp(cycle->instance, instance) != 0)
		cycle->count = 0;
	drop_lost(w);
	if (cycle->count == 0)
		*cycle = (struct ec2_cycle){ 0 };
	memcpy(cycle->instance, instance, sizeof(instance));
	if (cycle->phase == EC2_CYCLE_IDLE)
		take_new(w);
	for (unsigned i = 0; i < cycle->count; i++)
		disks[i] = *find_in_spec(&w->spec, cycle->volumes[i].id);
	w->spec.count = cycle->count;
	memcpy(w->spec.disks, disks, cycle->count * sizeof(disks[0]));
}

/* ── machine.volumes ─────────────────────────────────────────────────────────────────────── */

static int include(struct ebs *ebs, const char *machine, const char *volume, struct error *error)
{
	struct ebs_spec spec;
	struct machine_disk disk;
	if (ebs_read_spec(ebs, machine, false, &spec) < 0)
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s of the source ebs", machine);
	if (spec.count == EC2_CYCLE_VOLUMES)
		return error_set(error, -E2BIG, "exclude another one",
			"machine %s has %u volumes already", machine, EC2_CYCLE_VOLUMES);
	int r = ebs_find_volume(ebs, &spec, volume, &disk, error);
	return r == 0 ? machine_include_volume(ebs->registry, machine, &disk, error) : r;
}

static int exclude(struct ebs *ebs, const char *machine, const char *volume, struct error *error)
{
	return machine_exclude_volume(ebs->registry, machine, volume, error);
}

static int for_each(struct ebs *ebs, const char *machine, const struct cJSON *list,
	int (*what)(struct ebs *, const char *, const char *, struct error *), struct error *error)
{
	const struct cJSON *item;
	int r = 0;
	cJSON_ArrayForEach(item, list)
	{
		if (r == 0 && !cJSON_IsString(item))
			r = error_set(error, -EINVAL, "write e.g. [\"vol-…\"]",
				"volumes are given as a list of ids");
		if (r == 0)
			r = what(ebs, machine, item->valuestring, error);
	}
	return r;
}

static int wrap_machine(
	struct registry *registry, const char *name, struct error *error, struct cJSON **ret_result)
{
	struct cJSON *json;
	int r = -ENOENT;
	{
		SCOPED_LOCK(&registry->lock);
		const struct machine_entry *machine = registry_find_machine(registry, name);
		if (machine)
			r = machine_to_json(registry, machine, &json);
	}
	if (r == -ENOENT)
		return error_set(error, r, "'landfall machine list' shows what there is",
			"there is no machine %.80s", name);
	return r == 0 ? result_wrap("machine", json, ret_result) : r;
}

static int method_volumes(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "name", "include", "exclude", NULL };
	struct ebs *ebs = context;
	const char *name;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "name", true, error, &name);
	/* What goes first may make room for what comes: a volume in place of another. */
	if (r == 0)
		r = for_each(ebs, name, cJSON_GetObjectItemCaseSensitive(parameters, "exclude"),
			exclude, error);
	if (r == 0)
		r = for_each(ebs, name, cJSON_GetObjectItemCaseSensitive(parameters, "include"),
			include, error);
	return r == 0 ? wrap_machine(ebs->registry, name, error, ret_result) : r;
}

int ebs_register_volumes(struct ebs *ebs, struct control *control)
{
	return control_register(control, "machine.volumes", method_volumes, ebs);
}
