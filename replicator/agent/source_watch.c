/*
 * Disks that come, grow and go while the agent runs.
 *
 * A disk that has gone keeps its place and its name; it is told of until it is back, under whatever
 * name the kernel has for it then, and is another run of capture: nobody saw what was written to it
 * meanwhile. One that cannot be captured is told of once and left alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "replicator/agent/names.h"
#include "replicator/agent/source.h"

#define DISCOVER_NS (5 * NS_PER_S)

/* ── which ───────────────────────────────────────────────────────────────────────────────── */

static bool is_excluded(const struct source *source, const struct disk *disk)
{
	const char *const *pattern = source->exclude;
	for (; pattern && *pattern; pattern++) {
		struct disk named;
		if (fnmatch(*pattern, disk->name, 0) == 0 ||
			(disk->serial[0] && strcmp(*pattern, disk->serial) == 0))
			return true;
		if (**pattern == '/' && disk_find(*pattern, &named, NULL) == 0 &&
			(named.dev == disk->dev || named.gendisk_dev == disk->dev))
			return true;
	}
	return false;
}

static bool is_protected(const struct source *source, dev_t dev)
{
	for (unsigned i = 0; i < source->count; i++)
		if (!source->disks[i]->gone && source->disks[i]->disk.dev == dev)
			return true;
	return false;
}

/* One that has gone is found again by find_again, wherever it comes back. */
static bool is_known(const struct source *source, const struct disk *disk)
{
	if (is_protected(source, disk->dev))
		return true;
	for (unsigned i = 0; i < source->count; i++)
		if (source->disks[i]->gone &&
			strcmp(source->disks[i]->disk.identity, disk->identity) == 0)
			return true;
	for (unsigned i = 0; i < source->ignored_count; i++)
		if (source->ignored[i].dev == disk->dev &&
			source->ignored[i].sequence == disk->sequence)
			return true;
	return false;
}

static void ignore(struct source *source, const struct disk *disk, const struct error *error)
{
	unsigned at = source->ignored_count % SOURCE_DISKS_MAX;
	log_warning("%s is not protected: %s%s%s", disk->name, error->message,
		error->mend[0] ? " → " : "", error->mend);
	source->ignored[at].dev = disk->dev;
	source->ignored[at].sequence = disk->sequence;
	source->ignored_count = MIN(source->ignored_count + 1, SOURCE_DISKS_MAX);
}

/* Those at home first, since of several with one identity the first has what is on record. */
static int by_home(const void *left, const void *right, void *names)
{
	const struct disk *a = left, *b = right;
	bool a_home = names_is_at_home(names, a), b_home = names_is_at_home(names, b);
	return a_home != b_home ? b_home - a_home : strverscmp(a->name, b->name);
}

static int list(struct source *source, struct disk **ret_disks, size_t *ret_count)
{
	int r = disk_list(ret_disks, ret_count);
	if (r == 0 && *ret_count > 1)
		qsort_r(*ret_disks, *ret_count, sizeof(**ret_disks), by_home, source->names);
	return r;
}

static int add(struct source *source, const struct disk *disk, struct error *error)
{
	char path[DISK_NAME_BYTES + 8], id[NAMES_ID_BYTES];
	snprintf(path, sizeof(path), "/dev/%s", disk->name);
	int r = names_take(source->names, disk, error, id);
	if (r < 0)
		return r;
	r = source_add(source, id, path, error);
	if (r < 0)
		names_put_back(source->names, id);
	else
		log_info("disk %s (%s) is protected from now on", id, path);
	return r;
}

/* What may be taken for disks of this machine and is not protected by itself is told of once. */
static void tell_served(struct source *source)
{
	CLEANUP_FREE struct disk *disks = NULL;
	size_t count = 0;
	struct error why = { 0 };
	if (disk_list_served(&disks, &count) < 0)
		return;
	error_set(&why, -EOPNOTSUPP,
		"name it, and all others, with --disk if it is to be; or --exclude it",
		"it is a network block device, whose content another machine or program keeps");
	for (size_t i = 0; i < count; i++)
		if (!is_excluded(source, &disks[i]) && !is_known(source, &disks[i]))
			ignore(source, &disks[i], &why);
}

int source_add_all(struct source *source, bool all_or_none, struct error *error)
{
	CLEANUP_FREE struct disk *disks = NULL;
	size_t count = 0;
	int r = list(source, &disks, &count), added = 0;
	if (r < 0)
		return error_set(error, r, "name them with --disk ID=PATH",
			"the disks of this machine cannot be listed: %s", strerrordesc_np(-r));
	tell_served(source);
	for (size_t i = 0; i < count; i++) {
		struct error why = { 0 };
		if (is_excluded(source, &disks[i]) || is_known(source, &disks[i]))
			continue;
		r = add(source, &disks[i], &why);
		added += r == 0;
		if (r < 0 && all_or_none)
			return *error = why, r;
		if (r < 0)
			ignore(source, &disks[i], &why);
	}
	return added;
}

static bool is_missing_excluded(const struct source *source, const char *id, const char *identity)
{
	const char *colon = strchr(identity, ':');
	const char *const *pattern = source->exclude;
	for (; pattern && *pattern; pattern++)
		if (fnmatch(*pattern, id, 0) == 0 || (colon && strcmp(*pattern, colon + 1) == 0))
			return true;
	return false;
}

static void await(struct source *source, const char *id, const char *identity)
{
	char path[NAMES_ID_BYTES + 8];
	struct error error = { 0 };
	snprintf(path, sizeof(path), "/dev/%s", id);
	if (source_await(source, id, path, &error) < 0) {
		log_warning("disk %s is not there, and is not waited for: %s", id, error.message);
		return;
	}
	struct source_disk *disk = source->disks[source->count - 1];
	snprintf(disk->disk.identity, sizeof(disk->disk.identity), "%s", identity);
	error_set(&disk->refusal, -ENODEV,
		"bring it back; or, if it is not to come back, restart the agent with --exclude "
		"for "
		"it",
		"disk %s (%s), which was protected before, is not there; recovery points are made "
		"without it",
		id, identity);
	log_error("%s", disk->refusal.message);
}

/* It was protected before, and that it is not any more is meant. */
static void leave_out(struct source *source, const char *id)
{
	if (source->left_out_count < SOURCE_DISKS_MAX)
		snprintf(source->left_out[source->left_out_count++], SOURCE_ID_BYTES, "%s", id);
	names_put_back(source->names, id);
}

/* It is there, and is not protected on purpose. */
static bool is_left_out(const struct disk *disks, size_t count, const char *identity)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(disks[i].identity, identity) == 0)
			return true;
	return false;
}

void source_await_missing(struct source *source)
{
	CLEANUP_FREE struct disk *disks = NULL;
	char id[NAMES_ID_BYTES], identity[DISK_IDENTITY_BYTES];
	size_t count = 0;
	unsigned at = 0;
	(void)list(source, &disks, &count);
	while (names_take_missing(source->names, &at, id, identity)) {
		if (is_missing_excluded(source, id, identity) ||
			is_left_out(disks, count, identity))
			leave_out(source, id);
		else
			await(source, id, identity);
	}
}

/* ── those that are there ────────────────────────────────────────────────────────────────── */

static bool grow(struct source_disk *disk, uint64_t bytes)
{
	struct error error = { 0 };
	SCOPED_LOCK(&disk->lock);
	int r = tracker_grow(disk->tracked, bytes, &error);
	if (r < 0) {
		log_warning("disk %s has grown, and what is new cannot be followed: %s", disk->id,
			error.message);
		return false;
	}
	log_info("disk %s has grown to %llu bytes", disk->id, (unsigned long long)bytes);
	disk->disk.bytes = bytes;
	return true;
}

static void lose(struct source_disk *disk)
{
	SCOPED_LOCK(&disk->lock);
	tracker_remove(disk->tracked);
	disk->tracked = NULL;
	disk->gone = true;
	disk->accepted = false;
	error_set(&disk->refusal, -ENODEV,
		"bring it back; or, if it is not to come back, restart the agent without it "
		"(--disk, --exclude)",
		"disk %s (%s) is not there any more; recovery points go on without it", disk->id,
		disk->path);
	log_error("%s", disk->refusal.message);
}

/* Another disk, or what is no disk any more, is as if it had gone. */
static bool is_there(const struct source_disk *disk, struct disk *ret_now)
{
	return disk_find_dev(disk->disk.dev, ret_now, NULL) == 0 && ret_now->bytes > 0 &&
	       ret_now->sequence == disk->disk.sequence && ret_now->bytes >= disk->disk.bytes;
}

/* Its descriptor is replaced, not closed: a reader may be about to use it. */
static int reopen(
	struct source *source, struct source_disk *disk, const struct disk *now, const char *path)
{
	struct error error = { 0 };
	CLEANUP_FREE char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	struct tracker_disk *tracked;
	CLEANUP_CLOSE int file = disk_open(now);
	if (file < 0)
		return file;
	if (disk->file < 0)
		disk->file = fcntl(file, F_DUPFD_CLOEXEC, 0);
	else if (dup3(file, disk->file, O_CLOEXEC) < 0)
		return -errno;
	if (disk->file < 0)
		return -errno;
	int r = tracker_add(source->tracker, now, &tracked, &error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&disk->lock);
	free(disk->path);
	disk->path = TAKE(copy);
	disk->disk = *now;
	disk->tracked = tracked;
	disk->error = disk->refusal = (struct error){ 0 };
	disk->gone = false;
	return 0;
}

/* A disk that was found by itself is looked for by its identity, not where it was. */
static int find_gone(struct source *source, const struct source_disk *disk, struct disk *ret_now)
{
	CLEANUP_FREE struct disk *disks = NULL;
	size_t count = 0, i = 0;
	if (!source->names)
		return disk_find(disk->path, ret_now, NULL);
	int r = list(source, &disks, &count);
	if (r < 0)
		return r;
	while (i < count && (strcmp(disks[i].identity, disk->disk.identity) != 0 ||
				    is_protected(source, disks[i].dev)))
		i++;
	if (i == count)
		return -ENOENT;
	*ret_now = disks[i];
	return 0;
}

static bool find_again(struct source *source, struct source_disk *disk)
{
	char path[DISK_NAME_BYTES + 8];
	struct disk now;
	if (find_gone(source, disk, &now) < 0 || now.bytes == 0 || is_protected(source, now.dev))
		return false;
	snprintf(path, sizeof(path), "/dev/%s", now.name);
	if (reopen(source, disk, &now, source->names ? path : disk->path) < 0)
		return false;
	log_info("disk %s (%s) is there again", disk->id, disk->path);
	return true;
}

bool source_look(struct source *source)
{
	bool changed = false;
	int64_t now_ns = clock_monotonic_ns(clock_system());
	bool discover = now_ns >= source->discover_ns;
	for (unsigned i = 0; i < source->count; i++) {
		struct source_disk *disk = source->disks[i];
		struct disk now;
		if (disk->gone) {
			changed |= discover && find_again(source, disk);
		} else if (!is_there(disk, &now)) {
			lose(disk);
			changed = true;
		} else if (now.bytes > disk->disk.bytes) {
			changed |= grow(disk, now.bytes);
		}
	}
	if (discover) {
		source->discover_ns = now_ns + DISCOVER_NS;
		changed |= source->discovers && source_add_all(source, false, NULL) > 0;
	}
	source->swap_stale |= changed;
	source_look_at_swap(source);
	return changed;
}
