/*
 * Clones: writable branches of a recovery point, shown in the mount until they are removed or
 * the daemon ends.
 *
 * A record is in the list from the moment its clone is shown; who removes it marks it busy under
 * `lock` first, so two removals cannot meet. A clone holds its machine's group.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/registry_internal.h"

#define RETRIES 100u
#define RETRY_NS (50 * NS_PER_MS)

static int prepare_directory(struct registry *registry, const char *id, struct buf *ret_path)
{
	int r = buf_printf(ret_path, "%s/clones", registry->state_dir);
	if (r == 0)
		r = io_make_dir(registry->io, ret_path->data);
	if (r == 0 || r == -EEXIST)
		r = buf_printf(ret_path, "/%s", id);
	return r;
}

static int make_clone(struct registry *registry, struct clone_record *record, uint64_t quota_bytes,
	struct error *error)
{
	CLEANUP(buf_free) struct buf directory = { 0 };
	int r = prepare_directory(registry, record->id, &directory);
	if (r < 0)
		return error_set(error, r, "check the state directory", "%s/clones: %s",
			registry->state_dir, strerrordesc_np(-r));
	r = clone_new(registry->io, directory.data, group_history(record->hold.group),
		record->point, quota_bytes, &record->clone);
	if (r < 0)
		return error_set(error, r, NULL, "point %" PRIu64 " cannot be cloned: %s",
			record->point, strerrordesc_np(-r));
	r = mount_add_clone(registry->mount, record->hold.machine, record->id, record->clone);
	if (r < 0) {
		clone_free(record->clone);
		return error_set(error, r, NULL, "clone %s cannot be shown: %s", record->id,
			strerrordesc_np(-r));
	}
	return 0;
}

int clone_create(struct registry *registry, const char *machine, const char *point,
	uint64_t quota_bytes, enum clone_owner owner, struct error *error, char ret_id[static 24])
{
	CLEANUP_FREE struct clone_record *record = calloc(1, sizeof(*record));
	if (!record)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = registry_check_mount(registry, error);
	if (r == 0)
		r = registry_hold(registry, machine, error, &record->hold);
	if (r < 0)
		return r;
	struct point selected;
	r = point_select(group_history(record->hold.group), point, error, &selected);
	if (r == 0) {
		record->point = selected.number;
		record->owner = owner;
		pthread_mutex_lock(&registry->lock);
		snprintf(record->id, sizeof(record->id), "c%" PRIu64, ++registry->last_clone);
		pthread_mutex_unlock(&registry->lock);
		r = make_clone(registry, record, quota_bytes, error);
	}
	if (r < 0) {
		registry_release(&record->hold);
		return r;
	}
	memcpy(ret_id, record->id, sizeof(record->id));
	SCOPED_LOCK(&registry->lock);
	record->next = registry->clones;
	registry->clones = TAKE(record);
	return 0;
}

/* Takes the record for removal; NULL if there is none or another removes it. */
static struct clone_record *take_record(struct registry *registry, const char *id)
{
	SCOPED_LOCK(&registry->lock);
	struct clone_record *record = registry->clones;
	while (record && strcmp(record->id, id) != 0)
		record = record->next;
	if (!record || record->busy)
		return NULL;
	record->busy = true;
	return record;
}

static void end_record(struct registry *registry, struct clone_record *record)
{
	clone_free(record->clone);
	registry_release(&record->hold);
	pthread_mutex_lock(&registry->lock);
	struct clone_record **link = &registry->clones;
	while (*link != record)
		link = &(*link)->next;
	*link = record->next;
	pthread_mutex_unlock(&registry->lock);
	free(record);
}

int clone_remove(struct registry *registry, const char *id, struct error *error)
{
	struct clone_record *record = take_record(registry, id);
	if (!record)
		return error_set(error, -ENOENT, "'landfall clone list' shows what there is",
			"there is no clone %.24s", id);
	int r = mount_remove_clone(registry->mount, record->hold.machine, id);
	if (r == -EBUSY) {
		pthread_mutex_lock(&registry->lock);
		record->busy = false;
		pthread_mutex_unlock(&registry->lock);
		return error_set(error, r, "close its files, detach loop devices, then again",
			"clone %s: one of its files is open", id);
	}
	end_record(registry, record);
	return 0;
}

int clone_remove_soon(struct registry *registry, const char *id, struct error *error)
{
	int r = clone_remove(registry, id, error);
	for (unsigned i = 0; i < RETRIES && r == -EBUSY; i++) {
		clock_sleep_ns(registry->clock, RETRY_NS);
		r = clone_remove(registry, id, error);
	}
	return r == -ENOENT ? 0 : r;
}

void clone_remove_all(struct registry *registry, const struct group_entry *entry)
{
	for (;;) {
		char id[24] = "";
		pthread_mutex_lock(&registry->lock);
		for (struct clone_record *c = registry->clones; c; c = c->next)
			if (c->hold.entry == entry && !c->busy)
				memcpy(id, c->id, sizeof(id));
		pthread_mutex_unlock(&registry->lock);
		struct clone_record *record = id[0] ? take_record(registry, id) : NULL;
		if (!record)
			return;
		/* Its machine is hidden, and with it the clone; open files answer -EIO. */
		end_record(registry, record);
	}
}

unsigned clone_count(struct registry *registry, const char *machine)
{
	unsigned count = 0;
	for (struct clone_record *c = registry->clones; c; c = c->next)
		count += strcmp(c->hold.machine, machine) == 0 && c->owner != CLONE_OF_INSPECTION;
	return count;
}

static const char *const owner_names[] = { "person", "inspection", "drill" };

static int record_to_json(
	struct registry *registry, const struct clone_record *record, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	CLEANUP(buf_free) struct buf path = { 0 };
	struct clone_stats stats;
	clone_stats(record->clone, &stats);
	int r = json_new_object(&object);
	if (r == 0)
		r = json_add_text(object, "id", record->id);
	if (r == 0)
		r = json_add_text(object, "machine", record->hold.machine);
	if (r == 0)
		r = json_add_u64(object, "point", record->point);
	if (r == 0)
		r = buf_printf(&path, "%s/%s/clones/%s", registry->mount_path, record->hold.machine,
			record->id);
	if (r == 0)
		r = json_add_text(object, "path", path.data);
	if (r == 0)
		r = json_add_u64(object, "quota_bytes", stats.quota_bytes);
	if (r == 0)
		r = json_add_u64(object, "used_bytes", stats.used_bytes);
	if (r == 0)
		r = json_add_text(object, "owner", owner_names[record->owner]);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}

int clone_json(struct registry *registry, const char *id, struct cJSON **ret_json)
{
	SCOPED_LOCK(&registry->lock);
	for (struct clone_record *c = registry->clones; c; c = c->next)
		if (strcmp(c->id, id) == 0 && !c->busy)
			return record_to_json(registry, c, ret_json);
	return -ENOENT;
}

int clones_json(struct registry *registry, const char *machine, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *list = cJSON_CreateArray();
	if (!list)
		return -ENOMEM;
	SCOPED_LOCK(&registry->lock);
	for (struct clone_record *c = registry->clones; c; c = c->next) {
		struct cJSON *item = NULL;
		if (c->busy || (machine && strcmp(machine, c->hold.machine) != 0))
			continue;
		int r = record_to_json(registry, c, &item);
		if (r == 0)
			r = json_add_item(list, NULL, item);
		if (r < 0)
			return r;
	}
	*ret_json = TAKE(list);
	return 0;
}
