/*
 * Opening and closing inspections; inspect.h tells what they are.
 *
 * An inspection is built by one caller's thread and put into the list when it is complete; who
 * closes it takes it out of the list first. So no two threads work on one, and the list's lock is
 * never held while something is mounted or unmounted. `journal_lock` of the file of mounts is the
 * registry's change_lock's leaf, held across the file's replacing.
 */
#include "replicator/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "replicator/inspect_internal.h"
#include "replicator/loop_mount.h"

#define CLONE_QUOTA_BYTES (4 * GIB)

/* ── what is mounted, written down ───────────────────────────────────────────────────────── */

static int record_path(const struct registry *registry, struct buf *ret_path)
{
	return buf_printf(ret_path, "%s/inspections", registry->state_dir);
}

static int append_places(const struct inspection *inspection, struct buf *text)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < inspection->count; i++)
		if (inspection->filesystems[i].mounted_at)
			r = buf_printf(text, "%s\n", inspection->filesystems[i].mounted_at);
	if (r == 0 && inspection->made_directory)
		r = buf_printf(text, "%s\n", inspection->directory);
	return r;
}

/* Replaces the file by what is mounted now and `coming`, a place about to be used. */
static int write_record(
	struct registry *registry, const struct inspection *current, const char *coming)
{
	CLEANUP(buf_free) struct buf path = { 0 }, text = { 0 };
	pthread_mutex_lock(&registry->lock);
	int r = record_path(registry, &path);
	for (struct inspection *i = registry->inspections; r == 0 && i; i = i->next)
		r = append_places(i, &text);
	pthread_mutex_unlock(&registry->lock);
	/* What lies within a directory before the directory: in this order it is removed. */
	if (r == 0 && coming)
		r = buf_printf(&text, "%s\n", coming);
	if (r == 0 && current)
		r = append_places(current, &text);
	return r == 0 ? io_replace_file(
				registry->io, path.data, text.data ? text.data : "", text.len)
		      : r;
}

void inspect_clean_stale(struct registry *registry)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	CLEANUP_FREE char *text = NULL;
	size_t n;
	if (record_path(registry, &path) < 0 ||
		io_load_file(registry->io, path.data, 16u << 20, &text, &n) < 0)
		return;
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (*line != '/')
			continue;
		if (loop_unmount(line, true) == 0)
			log_info("%s: an inspection of an earlier run was taken down", line);
		(void)rmdir(line); /* stays if it is somebody else's by now */
	}
	(void)io_unlink(registry->io, path.data);
}

/* ── one disk ────────────────────────────────────────────────────────────────────────────── */

static int read_fd(void *context, uint64_t offset, void *data, size_t n)
{
	int fd = *(int *)context;
	for (uint8_t *p = data; n > 0;) {
		ssize_t got = pread(fd, p, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ENODATA;
		p += got, offset += (uint64_t)got, n -= (size_t)got;
	}
	return 0;
}

static struct inspected *add_filesystem(
	struct inspection *inspection, const char *disk, const struct partition *partition)
{
	struct inspected *more =
		realloc(inspection->filesystems, (inspection->count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	inspection->filesystems = more;
	struct inspected *f = &more[inspection->count++];
	*f = (struct inspected){ .partition = *partition };
	snprintf(f->disk, sizeof(f->disk), "%s", disk);
	return f;
}

static const char *why_not(const char *type)
{
	static const struct {
		const char *type, *why;
	} reasons[] = {
		{ "swap", "swap space" },
		{ "LVM2_member", "a physical volume of LVM; activate it from a clone by hand" },
		{ "crypto_LUKS", "encrypted; open it from a clone by hand" },
		{ "linux_raid_member", "a member of a RAID; assemble it from a clone by hand" },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(reasons); i++)
		if (strcmp(type, reasons[i].type) == 0)
			return reasons[i].why;
	return "not a filesystem that can be mounted";
}

/* The clone of this inspection, made when first needed. */
static int ensure_clone(
	struct registry *registry, struct inspection *inspection, struct error *error)
{
	char number[24];
	if (inspection->clone[0])
		return 0;
	snprintf(number, sizeof(number), "%" PRIu64, inspection->point.number);
	return clone_create(registry, inspection->machine, number, CLONE_QUOTA_BYTES,
		CLONE_OF_INSPECTION, error, inspection->clone);
}

static const char *options_for(const char *type, bool replay)
{
	if (strcmp(type, "xfs") == 0)
		return replay ? "nouuid" : "nouuid,norecovery";
	if (strcmp(type, "ext4") == 0 || strcmp(type, "ext3") == 0)
		return replay ? "" : "noload";
	if (strcmp(type, "btrfs") == 0)
		return replay ? "" : "rescue=nologreplay";
	return "";
}

static int mount_replayed(struct registry *registry, struct inspection *inspection,
	struct inspected *f, const char *at, struct error *error)
{
	CLEANUP(buf_free) struct buf file = { 0 };
	int r = ensure_clone(registry, inspection, error);
	if (r == 0)
		r = buf_printf(&file, "%s/%s/clones/%s/%s.vhd", registry->mount_path,
			inspection->machine, inspection->clone, f->disk);
	if (r < 0)
		return r;
	struct loop_mount mount = { .file = file.data,
		.offset_bytes = f->partition.offset_bytes,
		.size_bytes = f->partition.size_bytes,
		.writable = true,
		.type = f->filesystem.type,
		.options = options_for(f->filesystem.type, true),
		.at = at };
	r = loop_mount(&mount, error);
	if (r == 0)
		snprintf(f->note, sizeof(f->note), "log replayed on clone %s", inspection->clone);
	return r;
}

static int mount_as_is(const char *file, struct inspected *f, const char *at, struct error *error)
{
	struct loop_mount mount = { .file = file,
		.offset_bytes = f->partition.offset_bytes,
		.size_bytes = f->partition.size_bytes,
		.type = f->filesystem.type,
		.options = options_for(f->filesystem.type, !f->filesystem.log_replay),
		.at = at };
	return loop_mount(&mount, error);
}

static int mount_filesystem(struct registry *registry, struct inspection *inspection,
	const char *file, struct inspected *f, const char *at)
{
	struct error error = { 0 };
	int r;
	if (!f->filesystem.log_replay) {
		r = mount_as_is(file, f, at, &error);
	} else {
		r = mount_replayed(registry, inspection, f, at, &error);
		if (r < 0) {
			struct error first = error;
			r = mount_as_is(file, f, at, &error);
			if (r == 0)
				snprintf(f->note, sizeof(f->note),
					"log not replayed, the newest changes may be missing: "
					"%.160s",
					first.message);
		}
	}
	if (r < 0)
		snprintf(f->note, sizeof(f->note), "%.250s", error.message);
	return r;
}

static int place_of(const struct inspection *inspection, const struct inspected *f, char **ret_at)
{
	int n = f->partition.number == 0 ? asprintf(ret_at, "%s/%s", inspection->directory, f->disk)
					 : asprintf(ret_at, "%s/%s-p%u", inspection->directory,
						   f->disk, f->partition.number);
	return n < 0 ? -ENOMEM : 0;
}

static int inspect_partition(struct registry *registry, struct inspection *inspection,
	const char *disk, const char *file, int fd, const struct partition *partition)
{
	struct inspected *f = add_filesystem(inspection, disk, partition);
	if (!f)
		return -ENOMEM;
	int r = filesystem_probe(
		read_fd, &fd, partition->offset_bytes, partition->size_bytes, &f->filesystem);
	if (r < 0 && r != -ENOENT)
		f->fault = r;
	if (r < 0 || !f->filesystem.mountable) {
		snprintf(f->note, sizeof(f->note), "%s",
			r == 0         ? why_not(f->filesystem.type)
			: r == -ENOENT ? "nothing known is in it"
				       : strerrordesc_np(-r));
		return 0;
	}
	CLEANUP_FREE char *at = NULL;
	r = place_of(inspection, f, &at);
	if (r == 0)
		r = write_record(registry, inspection, at);
	if (r == 0 && mkdir(at, 0755) < 0 && errno != EEXIST)
		r = -errno;
	if (r < 0) {
		snprintf(f->note, sizeof(f->note), "no place to mount it: %s", strerrordesc_np(-r));
		f->fault = r;
		return 0;
	}
	r = mount_filesystem(registry, inspection, file, f, at);
	if (r == 0) {
		f->mounted_at = TAKE(at);
	} else {
		f->fault = r == -ENODEV ? 0 : r; /* a kernel without this type */
		(void)rmdir(at);
	}
	return 0;
}

/* Whether the point is to be seen in the mount, as it always is unless that is taken away. */
static bool point_is_shown(
	const struct registry *registry, const struct inspection *inspection, const char *name)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	return buf_printf(&path, "%s/%s/points/%s", registry->mount_path, inspection->machine,
		       name) == 0 &&
	       access(path.data, F_OK) == 0;
}

static int inspect_disk(struct registry *registry, struct inspection *inspection,
	const struct machine_disk *disk, int only)
{
	char name[POINT_NAME_BYTES];
	CLEANUP(buf_free) struct buf file = { 0 };
	CLEANUP_FREE struct partition *partitions = calloc(PARTITIONS_MAX, sizeof(*partitions));
	unsigned count = 0;
	point_format_name(&inspection->point, name);
	int r = buf_printf(&file, "%s/%s/points/%s/%s.vhd", registry->mount_path,
		inspection->machine, name, disk->id);
	if (r < 0 || !partitions)
		return -ENOMEM;
	CLEANUP_CLOSE int fd = open(file.data, O_RDONLY | O_CLOEXEC);
	int opened = fd < 0 ? errno : 0;
	if (opened == ENOENT && point_is_shown(registry, inspection, name))
		return 0; /* the point is older than the disk */
	struct partition whole = { .size_bytes = disk->size_bytes };
	r = fd < 0 ? -opened : partitions_read(read_fd, &fd, disk->size_bytes, partitions, &count);
	if (r < 0 || count == 0) {
		if (only > 0 && (r == 0 || r == -EUCLEAN))
			return 0;
		struct inspected *f = add_filesystem(inspection, disk->id, &whole);
		if (!f)
			return -ENOMEM;
		f->fault = r == -EUCLEAN ? 0 : r;
		snprintf(f->note, sizeof(f->note), "%s",
			r == 0          ? "no partition table and no filesystem known"
			: r == -EUCLEAN ? "its partition table contradicts itself"
					: strerrordesc_np(-r));
		return 0;
	}
	for (unsigned i = 0; r == 0 && i < count; i++)
		if (only < 0 || partitions[i].number == (unsigned)only)
			r = inspect_partition(
				registry, inspection, disk->id, file.data, fd, &partitions[i]);
	return r;
}

/* ── taking down ─────────────────────────────────────────────────────────────────────────── */

static void inspection_free(struct inspection *inspection)
{
	for (unsigned i = 0; i < inspection->count; i++)
		free(inspection->filesystems[i].mounted_at);
	free(inspection->filesystems);
	free(inspection->directory);
	free(inspection);
}

static void remove_clone(struct registry *registry, struct inspection *inspection)
{
	struct error error = { 0 };
	if (!inspection->clone[0])
		return;
	int r = clone_remove_soon(registry, inspection->clone, &error);
	if (r < 0)
		log_warning("inspection %s: %s", inspection->id, error.message);
	inspection->clone[0] = '\0';
}

/* Unmounts all; the first failure ends it unless `force`. */
static int take_down(
	struct registry *registry, struct inspection *inspection, bool force, struct error *error)
{
	for (unsigned i = 0; i < inspection->count; i++) {
		struct inspected *f = &inspection->filesystems[i];
		if (!f->mounted_at)
			continue;
		int r = loop_unmount(f->mounted_at, force);
		if (r < 0 && r != -EINVAL && r != -ENOENT && !force)
			return error_set(error, r,
				"leave the directory and close its files first "
				"(fuser -vm shows who), then again",
				"inspection %s: %s cannot be unmounted: %s", inspection->id,
				f->mounted_at, strerrordesc_np(-r));
		(void)rmdir(f->mounted_at);
		free(TAKE(f->mounted_at));
	}
	if (inspection->made_directory)
		(void)rmdir(inspection->directory);
	if (!force)
		remove_clone(registry, inspection);
	return 0;
}

/* ── opening and closing ─────────────────────────────────────────────────────────────────── */

static int make_directory(struct registry *registry, struct inspection *inspection, const char *at,
	struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r;
	if (at) {
		r = buf_append_text(&path, at);
	} else {
		r = buf_printf(&path, "%s/inspect", registry->state_dir);
		if (r == 0 && mkdir(path.data, 0755) < 0 && errno != EEXIST)
			r = -errno;
		if (r == 0)
			r = buf_printf(&path, "/%s", inspection->id);
	}
	if (r == 0) {
		inspection->directory = TAKE(path.data);
		if (mkdir(inspection->directory, 0755) == 0)
			inspection->made_directory = true;
		else if (errno != EEXIST)
			r = -errno;
	}
	if (r < 0)
		return error_set(error, r, "name a directory that can be made with --at",
			"%s: no place for an inspection: %s",
			inspection->directory ? inspection->directory : registry->state_dir,
			strerrordesc_np(-r));
	return 0;
}

static int check_request(const struct inspect_request *request, struct error *error)
{
	if (!request->at)
		return 0;
	if (request->at[0] != '/' || strpbrk(request->at, "\n\r"))
		return error_set(error, -EINVAL, "give an absolute path",
			"--at %.80s is not an absolute path", request->at);
	return 0;
}

static int copy_disks(struct registry *registry, const char *machine,
	struct machine_disk **ret_disks, unsigned *ret_count)
{
	SCOPED_LOCK(&registry->lock);
	struct machine_entry *m = registry_find_machine(registry, machine);
	if (!m)
		return -ENOENT;
	*ret_disks = calloc(m->disk_count + 1, sizeof(**ret_disks));
	if (!*ret_disks)
		return -ENOMEM;
	memcpy(*ret_disks, m->disks, m->disk_count * sizeof(**ret_disks));
	*ret_count = m->disk_count;
	return 0;
}

static int inspect_all(struct registry *registry, struct inspection *inspection,
	const struct inspect_request *request, struct error *error)
{
	CLEANUP_FREE struct machine_disk *disks = NULL;
	unsigned count = 0;
	int r = copy_disks(registry, request->machine, &disks, &count);
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = inspect_disk(registry, inspection, &disks[i], request->partition);
	if (r < 0)
		return error_set(
			error, r, NULL, "inspecting %s: %s", request->machine, strerrordesc_np(-r));
	if (inspection->count == 0)
		return error_set(error, -ENOENT, "leave --partition out to see what there is",
			"no disk of %s has such a partition at this point", request->machine);
	return 0;
}

/* Whether something failed to be read or mounted and nothing was mounted: `error` tells the first
 * such fault. What holds nothing to mount is no fault. */
static int check_mounted(struct registry *registry, struct group *group,
	struct inspection *inspection, struct error *error)
{
	const struct inspected *first = NULL;
	for (unsigned i = 0; i < inspection->count; i++) {
		if (inspection->filesystems[i].mounted_at)
			return 0;
		if (!first && inspection->filesystems[i].fault < 0)
			first = &inspection->filesystems[i];
	}
	if (!first)
		return 0;
	struct error obstacle = { 0 };
	struct group_status status;
	group_status(group, &status);
	int r = first->fault;
	/* What the journal no longer holds is read from the vault. */
	if (registry->service && !status.vault_reachable &&
		group_obstacle(group, inspection->machine, &obstacle) < 0)
		return error_set(error, r, obstacle.mend,
			"nothing of point %" PRIu64 " of %s could be mounted: disk %s: %s; %s",
			inspection->point.number, inspection->machine, first->disk, first->note,
			obstacle.message);
	return error_set(error, r,
		"see the alerts of 'landfall status' and the log; 'landfall verify' tells whether "
		"the point is sound",
		"nothing of point %" PRIu64 " of %s could be mounted: disk %s: %s",
		inspection->point.number, inspection->machine, first->disk, first->note);
}

int inspect_open(struct registry *registry, const struct inspect_request *request,
	struct error *error, char ret_id[static INSPECTION_ID_BYTES])
{
	CLEANUP(registry_release) struct hold hold = { 0 };
	int r = check_request(request, error);
	if (r == 0)
		r = registry_hold(registry, request->machine, error, &hold);
	if (r == 0)
		r = registry_check_mount(registry, error);
	if (r < 0)
		return r;
	struct inspection *inspection = calloc(1, sizeof(*inspection));
	if (!inspection)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	memcpy(inspection->machine, hold.machine, sizeof(inspection->machine));
	inspection->entry = hold.entry;
	inspection->opened_ns = clock_realtime_ns(registry->clock);
	pthread_mutex_lock(&registry->lock);
	snprintf(inspection->id, sizeof(inspection->id), "i%" PRIu64, ++registry->last_inspection);
	pthread_mutex_unlock(&registry->lock);
	r = point_select(group_history(hold.group), request->point, error, &inspection->point);
	if (r == 0)
		r = make_directory(registry, inspection, request->at, error);
	if (r == 0)
		r = inspect_all(registry, inspection, request, error);
	if (r == 0)
		r = check_mounted(registry, hold.group, inspection, error);
	if (r < 0) {
		(void)take_down(registry, inspection, false, NULL);
		inspection_free(inspection);
		return r;
	}
	memcpy(ret_id, inspection->id, sizeof(inspection->id));
	SCOPED_LOCK(&registry->lock);
	inspection->next = registry->inspections;
	registry->inspections = inspection;
	return 0;
}

static struct inspection *take_from_list(
	struct registry *registry, const char *id, const struct group_entry *entry)
{
	SCOPED_LOCK(&registry->lock);
	for (struct inspection **link = &registry->inspections; *link; link = &(*link)->next) {
		struct inspection *i = *link;
		if (id ? strcmp(i->id, id) != 0 : (entry && i->entry != entry))
			continue;
		*link = i->next;
		return i;
	}
	return NULL;
}

int inspect_close(struct registry *registry, const char *id, struct error *error)
{
	struct inspection *inspection = take_from_list(registry, id, NULL);
	if (!inspection)
		return error_set(error, -ENOENT, "'landfall inspect --list' shows what is open",
			"there is no inspection %.24s", id);
	int r = take_down(registry, inspection, false, error);
	if (r < 0) {
		SCOPED_LOCK(&registry->lock);
		inspection->next = registry->inspections;
		registry->inspections = inspection;
		return r;
	}
	inspection_free(inspection);
	(void)write_record(registry, NULL, NULL);
	return 0;
}

void inspect_close_group(struct registry *registry, const struct group_entry *entry)
{
	struct inspection *inspection;
	bool any = false;
	while ((inspection = take_from_list(registry, NULL, entry))) {
		(void)take_down(registry, inspection, true, NULL);
		inspection_free(inspection);
		any = true;
	}
	if (any)
		(void)write_record(registry, NULL, NULL);
}

unsigned inspect_count(struct registry *registry, const char *machine)
{
	unsigned count = 0;
	for (struct inspection *i = registry->inspections; i; i = i->next)
		count += strcmp(i->machine, machine) == 0;
	return count;
}
