/*
 * A clone: for each disk an overlay file, sparse, in which every sector has the offset it has on
 * the disk, and a map in memory that says which sectors are there (overlay.h). What is not, comes
 * from the view of the point.
 *
 * A write goes to the file first and into the map after, so a reader sees the old or the new; a
 * failed write leaves untouched sectors untouched. The quota is charged before the write, under
 * the lock, for what it will take; a write that fails gives back nothing, for the room may be
 * taken (the accounting errs on the safe side until the clone goes).
 *
 * Locks: one for each disk, for its map, and one for the quota, taken after it; memory work only.
 */
#include "fs/clone.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "fs/overlay.h"

struct clone_disk {
	uint16_t id;
	uint64_t sectors;
	pthread_mutex_t lock;    /* map */
	struct overlay *overlay; /* owned */
	struct io_file *file;    /* owned */
	atomic_bool written;     /* ever: only then there is something to flush */
	atomic_bool failed;      /* a flush failed: what the file holds is not known */
};

struct clone {
	struct io *io;           /* borrowed */
	struct history *history; /* borrowed */
	struct view *view;       /* owned */
	char *directory;         /* owned */
	uint64_t quota_bytes;
	pthread_mutex_t quota_lock;
	uint64_t used_bytes;
	unsigned disk_count;
	struct clone_disk disks[HISTORY_MAX_DISKS]; /* by rising id */
};

/* ── making and removing ─────────────────────────────────────────────────────────────────── */

static int path_of(const struct clone *clone, const char *name, char **ret_path)
{
	return asprintf(ret_path, "%s/%s", clone->directory, name) < 0 ? -ENOMEM : 0;
}

static int unlink_one(void *context, const char *name)
{
	struct clone *clone = context;
	CLEANUP_FREE char *path = NULL;
	int r = path_of(clone, name, &path);
	return r < 0 ? r : io_unlink(clone->io, path);
}

static int add_disk(struct clone *clone, const struct history_disk *info)
{
	uint64_t bytes = view_disk_bytes(clone->view, info->id);
	if (bytes == 0 || history_point_hides(clone->history, view_number(clone->view), info->id))
		return 0;
	struct clone_disk *disk = &clone->disks[clone->disk_count];
	char name[32];
	snprintf(name, sizeof(name), "%u.overlay", info->id);
	CLEANUP_FREE char *path = NULL;
	int r = path_of(clone, name, &path);
	if (r < 0)
		return r;
	r = overlay_new(bytes / SECTOR_BYTES, &disk->overlay);
	if (r < 0)
		return r;
	r = io_open(clone->io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE, &disk->file);
	if (r < 0) {
		overlay_free(TAKE(disk->overlay));
		return r;
	}
	disk->id = info->id;
	disk->sectors = bytes / SECTOR_BYTES;
	pthread_mutex_init(&disk->lock, NULL);
	clone->disk_count++;
	return 0;
}

static int add_disks(struct clone *clone)
{
	CLEANUP_FREE struct history_disk *infos = calloc(HISTORY_MAX_DISKS, sizeof(*infos));
	if (!infos)
		return -ENOMEM;
	unsigned n = history_disks(clone->history, infos, HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < MIN(n, (unsigned)HISTORY_MAX_DISKS); i++) {
		int r = add_disk(clone, &infos[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The directory, there and empty. */
static int make_directory(struct clone *clone)
{
	int r = io_make_dir(clone->io, clone->directory);
	if (r != -EEXIST)
		return r;
	return io_list(clone->io, clone->directory, unlink_one, clone);
}

int clone_new(struct io *io, const char *directory, struct history *history, uint64_t number,
	uint64_t quota_bytes, struct clone **ret_clone)
{
	struct clone *clone = calloc(1, sizeof(*clone));
	if (!clone)
		return -ENOMEM;
	clone->io = io;
	clone->history = history;
	clone->quota_bytes = quota_bytes;
	pthread_mutex_init(&clone->quota_lock, NULL);
	clone->directory = strdup(directory);
	int r = clone->directory ? 0 : -ENOMEM;
	if (r == 0)
		r = history_view_open(history, number, &clone->view);
	if (r == 0)
		r = make_directory(clone);
	if (r == 0)
		r = add_disks(clone);
	if (r < 0) {
		clone_free(clone);
		return r;
	}
	*ret_clone = clone;
	return 0;
}

void clone_free(struct clone *clone)
{
	if (!clone)
		return;
	for (unsigned i = 0; i < clone->disk_count; i++) {
		io_close(clone->disks[i].file);
		overlay_free(clone->disks[i].overlay);
		pthread_mutex_destroy(&clone->disks[i].lock);
	}
	if (clone->view) {
		view_close(clone->view);
		/* Without a view it never got as far as having a directory. */
		int r = io_list(clone->io, clone->directory, unlink_one, clone);
		if (r == 0)
			r = io_remove_dir(clone->io, clone->directory);
		if (r < 0 && r != -ENOENT)
			log_warning("%s: the clone's files cannot be removed: %s", clone->directory,
				strerrordesc_np(-r));
	}
	pthread_mutex_destroy(&clone->quota_lock);
	free(clone->directory);
	free(clone);
}

struct view *clone_view(struct clone *clone)
{
	return clone->view;
}

struct history *clone_history(struct clone *clone)
{
	return clone->history;
}

void clone_stats(struct clone *clone, struct clone_stats *ret_stats)
{
	SCOPED_LOCK(&clone->quota_lock);
	*ret_stats = (struct clone_stats){ clone->quota_bytes, clone->used_bytes };
}

/* ── reading and writing ─────────────────────────────────────────────────────────────────── */

static int find_disk(struct clone *clone, uint16_t id, uint64_t lba, uint64_t sectors,
	struct clone_disk **ret_disk)
{
	for (unsigned i = 0; i < clone->disk_count; i++) {
		struct clone_disk *disk = &clone->disks[i];
		if (disk->id != id)
			continue;
		if (lba > disk->sectors || sectors > disk->sectors - lba)
			return -EINVAL;
		*ret_disk = disk;
		return 0;
	}
	return -ENOENT;
}

static enum overlay_state run_at(
	struct clone_disk *disk, uint64_t lba, uint64_t sectors, uint64_t *ret_run)
{
	SCOPED_LOCK(&disk->lock);
	return overlay_run(disk->overlay, lba, sectors, ret_run);
}

int clone_read(struct clone *clone, uint16_t id, uint64_t lba, uint32_t sectors, void *data)
{
	struct clone_disk *disk;
	int r = find_disk(clone, id, lba, sectors, &disk);
	uint8_t *at = data;
	uint64_t left = sectors;
	while (r == 0 && left > 0) {
		uint64_t run;
		enum overlay_state state = run_at(disk, lba, left, &run);
		size_t n = (size_t)run * SECTOR_BYTES;
		if (state == OVERLAY_BELOW)
			r = view_read(clone->view, id, lba, (uint32_t)run, at);
		else if (state == OVERLAY_DATA)
			r = io_read_all(disk->file, at, n, lba * SECTOR_BYTES);
		else
			memset(at, 0, n);
		lba += run, left -= run, at += n;
	}
	return r;
}

/* Charges `bytes`, or refuses. */
static int charge(struct clone *clone, uint64_t bytes)
{
	SCOPED_LOCK(&clone->quota_lock);
	if (bytes > clone->quota_bytes - MIN(clone->used_bytes, clone->quota_bytes))
		return -ENOSPC;
	clone->used_bytes += bytes;
	return 0;
}

/* Charges a write and makes room for it in the map. Two writes that begin at once in the same
 * untouched page are both charged for it. */
static int admit_write(struct clone *clone, struct clone_disk *disk, uint64_t lba, uint64_t sectors)
{
	SCOPED_LOCK(&disk->lock);
	int r = charge(clone, overlay_data_cost(disk->overlay, lba, sectors));
	return r < 0 ? r : overlay_reserve(disk->overlay, lba, sectors);
}

int clone_write(struct clone *clone, uint16_t id, uint64_t lba, uint32_t sectors, const void *data)
{
	struct clone_disk *disk;
	int r = find_disk(clone, id, lba, sectors, &disk);
	if (r == 0 && atomic_load(&disk->failed))
		r = -EIO;
	if (r == 0)
		r = admit_write(clone, disk, lba, sectors);
	if (r < 0)
		return r;
	atomic_store(&disk->written, true);
	r = io_write(disk->file, data, (size_t)sectors * SECTOR_BYTES, lba * SECTOR_BYTES);
	if (r < 0)
		return r;
	SCOPED_LOCK(&disk->lock);
	return overlay_set_data(disk->overlay, lba, sectors);
}

int clone_zero(struct clone *clone, uint16_t id, uint64_t lba, uint64_t sectors)
{
	struct clone_disk *disk;
	int r = find_disk(clone, id, lba, sectors, &disk);
	if (r < 0)
		return r;
	SCOPED_LOCK(&disk->lock);
	r = charge(clone, overlay_zero_cost(disk->overlay, lba, sectors));
	return r < 0 ? r : overlay_set_zero(disk->overlay, lba, sectors);
}

int clone_flush(struct clone *clone)
{
	for (unsigned i = 0; i < clone->disk_count; i++) {
		struct clone_disk *disk = &clone->disks[i];
		if (!atomic_load(&disk->written))
			continue;
		if (atomic_load(&disk->failed))
			return -EIO;
		int r = io_datasync(disk->file);
		if (r < 0) {
			/* What it lost is unknown, and asking again would not tell. */
			atomic_store(&disk->failed, true);
			log_error("%s: disk %u of the clone lost writes: %s", clone->directory,
				disk->id, strerrordesc_np(-r));
			return -EIO;
		}
	}
	return 0;
}
