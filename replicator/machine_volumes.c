/*
 * Volumes of an instance that become disks of its machine after it was added, and those that are
 * left out, whether they were disks or not.
 *
 * What is included is listed first, here and in the vault, and then made: a crash in between is
 * mended at the next start, which makes what is listed. What is excluded goes from the journal
 * first: the same start makes it anew, empty, and it is compared whole. A disk that only the
 * journal has is in no point (ebs_line.c).
 *
 * Under change_lock, and lock where the lists change.
 */
#include <errno.h>

#include "common/log.h"
#include "replicator/registry_internal.h"

static struct machine_entry *find_running(
	struct registry *registry, const char *name, struct error *error)
{
	struct machine_entry *machine = registry_find_machine(registry, name);
	if (!machine || machine->removing || strcmp(machine->source, "ebs") != 0) {
		error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s of the source ebs", name);
		return NULL;
	}
	if (!machine->group->group) {
		error_set(error, -EIO, "see the alerts of 'landfall status'",
			"machine %s is not running", name);
		return NULL;
	}
	return machine;
}

/* The machine has, or had, a disk of that name. */
static bool was_there(const struct machine_entry *machine, const char *id)
{
	char full[2 * REGISTRY_NAME_BYTES];
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	struct history *history = group_history(machine->group->group);
	unsigned count = disks && history ? history_disks(history, disks, HISTORY_MAX_DISKS) : 0;
	snprintf(full, sizeof(full), "%s/%s", machine->name, id);
	for (unsigned i = 0; i < count; i++)
		if (strcmp(disks[i].name, full) == 0)
			return true;
	return false;
}

static int check_new(
	const struct machine_entry *machine, const struct machine_disk *disk, struct error *error)
{
	for (unsigned i = 0; i < machine->disk_count; i++) {
		if (strcmp(machine->disks[i].volume, disk->volume) == 0)
			return error_set(error, -EEXIST, NULL,
				"volume %s is replicated already, as disk %s", disk->volume,
				machine->disks[i].id);
		if (strcmp(machine->disks[i].id, disk->id) == 0)
			return error_set(error, -EEXIST,
				"exclude that one first, if it is not to be replicated any more",
				"disk %s of machine %s is volume %s", disk->id, machine->name,
				machine->disks[i].volume);
	}
	return 0;
}

static void forget_left_out(struct machine_left_out *left_out, const char *volume)
{
	unsigned left = 0;
	for (unsigned i = 0; i < left_out->count; i++)
		if (strcmp(left_out->ids[i], volume) != 0)
			memmove(left_out->ids[left++], left_out->ids[i], REGISTRY_AWS_BYTES);
	left_out->count = left;
}

/* -ENOMEM. */
static int list_disk(
	struct registry *registry, struct machine_entry *machine, const struct machine_disk *disk)
{
	SCOPED_LOCK(&registry->lock);
	struct machine_disk *disks =
		realloc(machine->disks, (machine->disk_count + 1) * sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	machine->disks = disks;
	disks[machine->disk_count++] = *disk;
	forget_left_out(&machine->left_out, disk->volume);
	return 0;
}

static void unlist_disk(struct registry *registry, struct machine_entry *machine, unsigned at)
{
	SCOPED_LOCK(&registry->lock);
	machine->disk_count--;
	memmove(&machine->disks[at], &machine->disks[at + 1],
		(machine->disk_count - at) * sizeof(machine->disks[0]));
}

/* Here, and for who takes the group over. */
static int save(struct registry *registry, struct machine_entry *machine, struct error *error)
{
	int r = registry_save(registry, error);
	return r == 0 ? registry_push_settings(registry, machine->group, error) : r;
}

int machine_include_volume(struct registry *registry, const char *name,
	const struct machine_disk *wanted, struct error *error)
{
	char full[2 * REGISTRY_NAME_BYTES];
	struct machine_disk disk = *wanted;
	SCOPED_LOCK(&registry->change_lock);
	struct machine_entry *machine = find_running(registry, name, error);
	if (!machine)
		return error->code;
	int r = check_new(machine, &disk, error);
	if (r == 0 && was_there(machine, disk.id))
		snprintf(disk.id, sizeof(disk.id), "%.*s", (int)sizeof(disk.id) - 1, disk.volume);
	if (r == 0)
		r = check_new(machine, &disk, error);
	if (r == 0)
		r = name_check_new("disk", disk.id, error);
	if (r == 0 && strlen(name) + 1 + strlen(disk.id) > NAME_MAX_CHARACTERS)
		r = error_set(error, -EINVAL, NULL,
			"%s/%s: machine and disk together are longer than %d characters", name,
			disk.id, NAME_MAX_CHARACTERS - 1);
	if (r < 0)
		return r;
	snprintf(full, sizeof(full), "%s/%s", name, disk.id);
	if (list_disk(registry, machine, &disk) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	r = save(registry, machine, error);
	if (r == 0)
		r = group_add_disk(machine->group->group, full, disk.size_bytes, error);
	if (r < 0) {
		struct error again = { 0 };
		unlist_disk(registry, machine, machine->disk_count - 1);
		if (save(registry, machine, &again) < 0)
			log_error("%s", again.message);
	}
	return r;
}

static int drop_disk(
	struct registry *registry, struct machine_entry *machine, unsigned at, struct error *error)
{
	char full[2 * REGISTRY_NAME_BYTES];
	if (machine->disk_count == 1)
		return error_set(error, -EINVAL, "remove the machine instead",
			"volume %s is the only one of machine %s", machine->disks[at].volume,
			machine->name);
	snprintf(full, sizeof(full), "%s/%s", machine->name, machine->disks[at].id);
	int r = group_remove_disk(machine->group->group, full, error);
	if (r == 0)
		unlist_disk(registry, machine, at);
	return r;
}

int machine_exclude_volume(
	struct registry *registry, const char *name, const char *volume, struct error *error)
{
	SCOPED_LOCK(&registry->change_lock);
	struct machine_entry *machine = find_running(registry, name, error);
	if (!machine)
		return error->code;
	struct machine_left_out left_out = machine->left_out;
	int r = machine_leave_out(&left_out, volume, error);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++)
		if (strcmp(machine->disks[i].volume, volume) == 0) {
			r = drop_disk(registry, machine, i, error);
			break;
		}
	if (r < 0)
		return r;
	{
		SCOPED_LOCK(&registry->lock);
		machine->left_out = left_out;
	}
	return save(registry, machine, error);
}
