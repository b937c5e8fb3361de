/*
 * Disks, and their marks.
 */
#include "replicator/agent/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/names.h"

#define STILL_MS 500u

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

int source_new(
	const struct source_options *options, struct error *error, struct source **ret_source)
{
	const struct tracker_options tracker = { .method = options->method,
		.pin_dir = options->pin_dir };
	struct source *source = calloc(1, sizeof(*source));
	if (!source)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	source->exclude = options->exclude;
	source->discovers = options->discovers;
	int r = tracker_open(&tracker, &source->tracker, error);
	source->swap_fd = -1;
	if (r == 0 && options->discovers)
		r = names_load(options->io, options->state_dir, error, &source->names);
	if (r == 0 && !options->replicate_swap) {
		r = source_open_swap(source);
		if (r < 0)
			error_set(error, r, "run the agent as root, or with --replicate-swap",
				"/proc/swaps cannot be read: %s", strerrordesc_np(-r));
	}
	if (r < 0) {
		tracker_close(source->tracker);
		names_free(source->names);
		free(source);
		return r;
	}
	*ret_source = source;
	return 0;
}

static void free_disk(struct source_disk *disk)
{
	cleanup_close(&disk->file);
	pthread_mutex_destroy(&disk->lock);
	free(disk->path);
	free(disk->swap);
	free(disk->scanned);
	free(disk);
}

void source_free(struct source *source)
{
	if (!source)
		return;
	tracker_close(source->tracker);
	for (unsigned i = 0; i < source->count; i++)
		free_disk(source->disks[i]);
	cleanup_close(&source->swap_fd);
	names_free(source->names);
	free(source);
}

static int check_new(
	const struct source *source, const struct source_disk *disk, struct error *error)
{
	if (source->count == SOURCE_DISKS_MAX)
		return error_set(error, -E2BIG, "name the disks that matter with --disk",
			"more than %u disks cannot be protected", SOURCE_DISKS_MAX);
	for (unsigned i = 0; i < source->count; i++) {
		const struct source_disk *other = source->disks[i];
		if (strcmp(other->id, disk->id) == 0)
			return error_set(error, -EEXIST, "give each disk a name of its own",
				"two disks are called %s", disk->id);
		if (!other->gone && other->disk.dev == disk->disk.dev)
			return error_set(error, -EEXIST, NULL, "%s and %s are the same disk",
				other->path, disk->path);
	}
	return 0;
}

static int open_disk(struct source *source, struct source_disk *disk, struct error *error)
{
	int r = disk_find(disk->path, &disk->disk, error);
	if (r == 0)
		r = check_new(source, disk, error);
	if (r < 0)
		return r;
	disk->file = disk_open(&disk->disk);
	if (disk->file < 0)
		return error_set(error, disk->file, "run the agent as root", "%s: %s", disk->path,
			strerrordesc_np(-disk->file));
	return tracker_add(source->tracker, &disk->disk, &disk->tracked, error);
}

static bool source_scans(const struct source *source)
{
	return strcmp(tracker_method_name(source->tracker), "scan") == 0;
}

int source_add(struct source *source, const char *id, const char *path, struct error *error)
{
	struct source_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	disk->file = -1;
	pthread_mutex_init(&disk->lock, NULL);
	snprintf(disk->id, sizeof(disk->id), "%s", id);
	disk->scans = source_scans(source);
	disk->path = strdup(path);
	int r = disk->path ? open_disk(source, disk, error)
			   : error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		tracker_remove(disk->tracked);
		free_disk(disk);
		return r;
	}
	source->disks[source->count++] = disk;
	return 0;
}

int source_await(struct source *source, const char *id, const char *path, struct error *error)
{
	struct source_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	disk->file = -1;
	disk->gone = true;
	disk->scans = source_scans(source);
	pthread_mutex_init(&disk->lock, NULL);
	snprintf(disk->id, sizeof(disk->id), "%s", id);
	disk->path = strdup(path);
	int r = disk->path ? check_new(source, disk, error)
			   : error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		free_disk(disk);
		return r;
	}
	error_set(&disk->refusal, -ENODEV, "bring it; or restart the agent without it (--disk)",
		"disk %s (%s) is not there; recovery points are made without it", id, path);
	source->disks[source->count++] = disk;
	return 0;
}

int source_distrust(struct source_disk *disk, struct error *error)
{
	SCOPED_LOCK(&disk->lock);
	return disk->tracked ? tracker_trust_again(disk->tracked, error)
			     : error_set(error, -ENODEV, NULL, "disk %s has gone", disk->id);
}

bool source_compare_proves(struct source_disk *disk)
{
	struct tracker_trust trust;
	SCOPED_LOCK(&disk->lock);
	if (disk->tracked && !disk->scans && !tracker_has_base(disk->tracked))
		(void)tracker_check(disk->tracked, STILL_MS, &trust);
	return disk->tracked && tracker_has_base(disk->tracked);
}

void source_compared(struct source_disk *disk)
{
	SCOPED_LOCK(&disk->lock);
	if (disk->tracked)
		tracker_compared(disk->tracked);
}

int source_incarnation(struct source_disk *disk, uint64_t holder, uint64_t *ret_incarnation)
{
	SCOPED_LOCK(&disk->lock);
	return disk->tracked ? tracker_incarnation(disk->tracked, holder, ret_incarnation)
			     : -ENODEV;
}

/* ── any thread ──────────────────────────────────────────────────────────────────────────── */

uint64_t source_disk_bytes(const struct source_disk *disk)
{
	return round_up(disk->disk.bytes, MIB);
}

static int read_all(struct source_disk *disk, uint64_t offset, uint8_t *data, size_t n)
{
	while (n > 0) {
		ssize_t got = pread(disk->file, data, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		data += got;
		offset += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

/* The disk may grow, or be another one, at any time. */
static uint64_t bytes_of(struct source_disk *disk)
{
	SCOPED_LOCK(&disk->lock);
	return disk->disk.bytes;
}

int source_read(struct source_disk *disk, uint64_t offset, void *data, size_t n)
{
	uint64_t bytes = bytes_of(disk);
	size_t there = offset < bytes ? MIN(n, bytes - offset) : 0;
	memset((uint8_t *)data + there, 0, n - there);
	if (there > 0 && source_is_swap(disk, offset, there)) {
		memset(data, 0, there);
		return 0;
	}
	int r = there > 0 ? read_all(disk, offset, data, there) : 0;
	if (r == 0) {
		source_blank_swap(disk, offset, data, there);
		return 0;
	}
	SCOPED_LOCK(&disk->lock);
	return error_set(&disk->error, r,
		"see the kernel's log of this machine: the disk, or the way to it, is failing",
		"disk %s (%s) cannot be read at byte %llu: %s", disk->id, disk->path,
		(unsigned long long)offset, strerrordesc_np(-r));
}

void source_settle(struct source_disk *disk, uint64_t pass, uint64_t offset, uint64_t length)
{
	SCOPED_LOCK(&disk->lock);
	if (disk->tracked)
		tracker_settle(disk->tracked, pass, offset, MIN(length, disk->disk.bytes - offset));
}

void source_put_back(struct source_disk *disk, uint64_t offset, uint64_t length)
{
	SCOPED_LOCK(&disk->lock);
	if (disk->tracked)
		tracker_put_back(disk->tracked, offset, MIN(length, disk->disk.bytes - offset));
}

uint64_t source_dirty_bytes(struct source_disk *disk)
{
	SCOPED_LOCK(&disk->lock);
	return disk->tracked ? tracker_dirty_bytes(disk->tracked) : 0;
}
