/*
 * A drill's clone, and its machine at the target.
 *
 * A clone lives as long as the daemon: of a drill that an earlier one began there is none, and it
 * is made anew. The record names it only once it is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "replicator/drills_internal.h"

/* What a target is told, with what it borrows. */
struct order {
	struct target_order order;
	struct target_disk disks[HISTORY_MAX_DISKS];
	struct buf directory, files[HISTORY_MAX_DISKS];
	char ids[HISTORY_MAX_DISKS][REGISTRY_NAME_BYTES];
};

static void order_free(struct order **slot)
{
	struct order *o = *slot;
	if (!o)
		return;
	for (unsigned i = 0; i < HISTORY_MAX_DISKS; i++)
		buf_free(&o->files[i]);
	buf_free(&o->directory);
	free(o);
}

/* The machine's disks, in its order. */
static unsigned list_disks(struct registry *registry, const char *machine, struct order *o)
{
	SCOPED_LOCK(&registry->lock);
	const struct machine_entry *m = registry->machines;
	while (m && strcmp(m->name, machine) != 0)
		m = m->next;
	unsigned count = m ? MIN(m->disk_count, (unsigned)HISTORY_MAX_DISKS) : 0;
	for (unsigned i = 0; i < count; i++)
		memcpy(o->ids[i], m->disks[i].id, sizeof(o->ids[i]));
	return count;
}

/* Those of the machine's disks that the point has; it may be older than a disk. */
static int fill_disks(struct drills *drills, const struct drill *drill, struct order *o)
{
	unsigned count = list_disks(drills->registry, drill->machine, o);
	for (unsigned i = 0; i < count; i++) {
		struct buf *file = &o->files[o->order.disk_count];
		struct stat status;
		file->len = 0;
		int r = buf_printf(file, "%s/%s/clones/%s/%s.vhd", drills->registry->mount_path,
			drill->machine, drill->clone, o->ids[i]);
		if (r < 0)
			return r;
		if (stat(file->data, &status) < 0 && errno == ENOENT)
			continue;
		if (status.st_size <= SECTOR_BYTES)
			return -EIO;
		o->disks[o->order.disk_count++] = (struct target_disk){ .id = o->ids[i],
			.file = file->data,
			.size_bytes = (uint64_t)status.st_size - SECTOR_BYTES };
	}
	return o->order.disk_count > 0 ? 0 : -ENOENT;
}

static int read_fd(void *context, uint64_t offset, void *data, size_t n)
{
	ssize_t got = pread(*(const int *)context, data, n, (off_t)offset);
	return got < 0 ? -errno : (size_t)got < n ? -ENODATA : 0;
}

static int find_boot_mode(struct order *o, struct error *error)
{
	const struct target_disk *disk = &o->disks[0];
	CLEANUP_CLOSE int fd = open(disk->file, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno
		       : boot_mode_read(read_fd, &fd, disk->size_bytes, &o->order.boot_mode);
	/* A table that contradicts itself may boot all the same. */
	if (r == -EUCLEAN)
		o->order.boot_mode = BOOT_BIOS;
	return r < 0 && r != -EUCLEAN ? error_set(error, r, NULL, "disk %s cannot be read: %s",
						disk->id, strerrordesc_np(-r))
				      : 0;
}

static int make_directory(struct drills *drills, const struct drill *drill, struct order *o)
{
	CLEANUP(buf_free) struct buf parent = { 0 };
	int r = buf_printf(&parent, "%s/drills", drills->registry->state_dir);
	if (r == 0)
		r = io_make_dir(drills->registry->io, parent.data);
	if (r == 0 || r == -EEXIST)
		r = drill_directory(drills, drill->id, &o->directory);
	if (r == 0)
		r = io_make_dir(drills->registry->io, o->directory.data);
	return r == -EEXIST ? 0 : r;
}

static int order_new(struct drills *drills, const struct drill *drill, struct error *error,
	struct order **ret_order)
{
	CLEANUP(order_free) struct order *o = calloc(1, sizeof(*o));
	if (!o)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = make_directory(drills, drill, o);
	if (r < 0)
		return error_set(error, r, "see that the state directory's disk works",
			"no directory for the evidence can be made: %s", strerrordesc_np(-r));
	r = fill_disks(drills, drill, o);
	if (r < 0)
		return error_set(error, r, "choose a later point: landfall point list",
			"point %" PRIu64 " of machine %s has no disk to start from: %s",
			drill->point, drill->machine, strerrordesc_np(-r));
	o->order.id = drill->id;
	o->order.machine = drill->machine;
	o->order.directory = o->directory.data;
	o->order.disks = o->disks;
	r = find_boot_mode(o, error);
	if (r == 0)
		*ret_order = TAKE(o);
	return r;
}

/* The target's words are for this drill; it may have gone from the configuration meanwhile. */
static int target_of(struct drills *drills, const struct drill *drill, struct error *error,
	struct target **ret_target)
{
	*ret_target = drill_target(drills, drill->target);
	return *ret_target ? 0
			   : error_set(error, -EOPNOTSUPP, NULL, "there is no target %s here",
				     drill->target);
}

static int ensure_clone(
	struct drills *drills, struct target *target, struct drill *drill, struct error *error)
{
	char point[24];
	if (drill->clone[0])
		return 0;
	snprintf(point, sizeof(point), "%" PRIu64, drill->point);
	int r = clone_create(drills->registry, drill->machine, point, target->clone_quota_bytes,
		CLONE_OF_DRILL, error, drill->clone);
	return r == 0 ? drill_put(drills, drill, error) : r;
}

int drill_bring_up(struct drills *drills, struct drill *drill, struct error *error)
{
	CLEANUP(order_free) struct order *o = NULL;
	struct target *target;
	int r = target_of(drills, drill, error, &target);
	if (r == 0 && target->ops->runs(target, drill->id))
		return 0;
	if (r == 0)
		r = ensure_clone(drills, target, drill, error);
	if (r == 0)
		r = order_new(drills, drill, error, &o);
	return r == 0 ? target->ops->start(target, &o->order, error) : r;
}

int drill_prove(struct drills *drills, struct drill *drill, const struct target_watch *watch,
	struct error *error)
{
	CLEANUP(order_free) struct order *o = NULL;
	struct target *target;
	struct target_proof proof = { 0 };
	int r = target_of(drills, drill, error, &target);
	if (r == 0)
		r = order_new(drills, drill, error, &o);
	if (r == 0)
		r = target->ops->prove(target, &o->order, watch, error, &proof);
	if (r < 0)
		return r;
	drill->proof = proof;
	drill->verdict = proof.passed ? DRILL_PASSED : DRILL_FAILED;
	drill->judged_ns = clock_realtime_ns(drills->registry->clock);
	drill->state = DRILL_RUNNING;
	return drill_put(drills, drill, error);
}

int drill_take_down(struct drills *drills, struct drill *drill, struct error *error)
{
	struct target *target;
	int r = target_of(drills, drill, error, &target);
	if (r == 0)
		r = target->ops->stop(target, drill->id, error);
	if (r == 0 && drill->clone[0])
		r = clone_remove_soon(drills->registry, drill->clone, error);
	if (r < 0)
		return r;
	drill->clone[0] = '\0';
	drill->state = DRILL_ENDED;
	return drill_put(drills, drill, error);
}
