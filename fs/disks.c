/*
 * The table of disks: identity, sizes through time, bookmarks, and each disk's head map.
 *
 * A disk's size is kept as a list of (first point that shows it, bytes), so that a point shows
 * the size of its time. history.lock is held in everything that is not part of history.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/history_internal.h"

struct disk *disk_find(const struct history *history, uint16_t id)
{
	for (unsigned i = 0; i < history->disk_count; i++)
		if (history->disks[i]->info.id == id)
			return history->disks[i];
	return NULL;
}

uint64_t disk_bytes_at(const struct disk *disk, uint64_t number)
{
	if (number < disk->info.added_point || number >= disk->removed_point)
		return 0;
	uint64_t bytes = 0;
	for (unsigned i = 0; i < disk->size_count && disk->sizes[i].from_point <= number; i++)
		bytes = disk->sizes[i].bytes;
	return bytes;
}

int disk_set_size(struct disk *disk, uint64_t from_point, uint64_t bytes)
{
	disk->info.size_bytes = bytes;
	if (disk->size_count > 0 && disk->sizes[disk->size_count - 1].from_point == from_point) {
		disk->sizes[disk->size_count - 1].bytes = bytes;
		return 0;
	}
	struct disk_size *grown =
		realloc(disk->sizes, (disk->size_count + 1) * sizeof(*disk->sizes));
	if (!grown)
		return -ENOMEM;
	disk->sizes = grown;
	disk->sizes[disk->size_count++] = (struct disk_size){ from_point, bytes };
	return 0;
}

void disk_free(struct disk *disk)
{
	if (!disk)
		return;
	extent_map_free(disk->map);
	free(disk->sizes);
	free(disk);
}

/* Makes room in a full table: forgets removed disks that no point shows any more. */
static void disk_purge(struct history *history)
{
	/* Points that are gone count no more, be they purged already or, in replay, not yet. */
	uint64_t first = 0;
	while (first < history->point_count && catalogue_is_gone(&history->points[first]))
		first++;
	uint64_t oldest =
		first < history->point_count ? history->points[first].point.number : UINT64_MAX;
	unsigned kept = 0;
	for (unsigned i = 0; i < history->disk_count; i++) {
		struct disk *disk = history->disks[i];
		if (disk->info.removed && disk->removed_point <= oldest)
			disk_free(disk);
		else
			history->disks[kept++] = disk;
	}
	history->disk_count = kept;
}

int disk_insert(struct history *history, const struct history_disk *info, struct disk **ret_disk)
{
	if (history->disk_count == HISTORY_MAX_DISKS)
		disk_purge(history);
	if (history->disk_count == HISTORY_MAX_DISKS)
		return -E2BIG;
	struct disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return -ENOMEM;
	disk->info = *info;
	disk->removed_point = UINT64_MAX;
	unsigned i = history->disk_count;
	while (i > 0 && history->disks[i - 1]->info.id > info->id)
		i--;
	memmove(&history->disks[i + 1], &history->disks[i],
		(history->disk_count - i) * sizeof(disk));
	history->disks[i] = disk;
	history->disk_count++;
	history->next_disk = MAX(history->next_disk, info->id + 1u);
	*ret_disk = disk;
	return 0;
}

int disk_lost_map(struct history *history, uint16_t id, struct extent_map **ret_map)
{
	for (unsigned i = 0; i < history->lost_disk_count; i++) {
		if (history->lost_disks[i].id == id) {
			*ret_map = history->lost_disks[i].map;
			return 0;
		}
	}
	struct lost_disk *grown = realloc(
		history->lost_disks, (history->lost_disk_count + 1) * sizeof(*history->lost_disks));
	if (!grown)
		return -ENOMEM;
	history->lost_disks = grown;
	struct lost_disk lost = { .id = id };
	int r = extent_map_new(&lost.map);
	if (r < 0)
		return r;
	history->lost_disks[history->lost_disk_count++] = lost;
	history->next_disk = MAX(history->next_disk, id + 1u);
	*ret_map = lost.map;
	return 0;
}

/* What replay found of the disk; NULL: nothing. */
static struct extent_map *take_lost_map(struct history *history, uint16_t id)
{
	for (unsigned i = 0; i < history->lost_disk_count; i++) {
		struct lost_disk *lost = &history->lost_disks[i];
		struct extent_map *map = lost->map;
		if (lost->id != id)
			continue;
		*lost = history->lost_disks[--history->lost_disk_count];
		return map;
	}
	return NULL;
}

static int forget(struct extent_map *map, uint64_t lba, uint64_t sectors, uint32_t segment)
{
	return map ? extent_map_forget(map, lba, sectors, segment) : 0;
}

int disk_forget(
	struct history *history, uint16_t id, uint64_t lba, uint64_t sectors, uint32_t segment)
{
	const struct disk *disk = disk_find(history, id);
	if (disk)
		return forget(disk->map, lba, sectors, segment);
	for (unsigned i = 0; i < history->lost_disk_count; i++)
		if (history->lost_disks[i].id == id)
			return forget(history->lost_disks[i].map, lba, sectors, segment);
	return 0;
}

static int apply_add(struct history *history, const struct journal_disk *body)
{
	if (disk_find(history, body->id))
		return 0;
	struct history_disk info = {
		.id = body->id, .size_bytes = body->size_bytes, .added_point = body->point
	};
	memcpy(info.name, body->name, sizeof(info.name));
	struct disk *disk;
	int r = disk_insert(history, &info, &disk);
	if (r < 0)
		return r;
	disk->map = take_lost_map(history, body->id);
	return disk_set_size(disk, body->point, body->size_bytes);
}

int disk_apply(struct history *history, const struct journal_disk *body)
{
	if (body->action == JOURNAL_DISK_ADD)
		return apply_add(history, body);
	struct disk *disk = disk_find(history, body->id);
	if (!disk)
		return 0;
	switch (body->action) {
	case JOURNAL_DISK_GROW:
		return disk_set_size(disk, body->point, body->size_bytes);
	case JOURNAL_DISK_REMOVE:
		disk->info.removed = true;
		disk->removed_point = body->point;
		extent_map_free(disk->map);
		disk->map = NULL;
		return 0;
	case JOURNAL_DISK_RESYNC_SET:
	case JOURNAL_DISK_RESYNC_CLEAR:
		disk->info.resync_needed = body->action == JOURNAL_DISK_RESYNC_SET;
		return 0;
	default:
		return 0;
	}
}

void disk_take_bookmarks(struct history *history, const struct journal_seal *seal, uint64_t lsn)
{
	for (unsigned i = 0; i < seal->bookmark_count; i++) {
		struct disk *disk = disk_find(history, seal->bookmarks[i].disk);
		if (!disk)
			continue;
		if (disk->bookmark_lsn <= history->durable_lsn)
			memcpy(disk->bookmark[0], disk->bookmark[1], HISTORY_BOOKMARK_BYTES);
		memcpy(disk->bookmark[1], seal->bookmarks[i].data, HISTORY_BOOKMARK_BYTES);
		disk->bookmark_lsn = lsn;
	}
}

int disk_clear_maps(struct history *history)
{
	for (unsigned i = 0; i < history->disk_count; i++) {
		extent_map_free(history->disks[i]->map);
		history->disks[i]->map = NULL;
	}
	while (history->lost_disk_count > 0)
		extent_map_free(history->lost_disks[--history->lost_disk_count].map);
	return 0;
}

/* ── the interface ───────────────────────────────────────────────────────────────────────── */

static bool name_taken(const struct history *history, const char *name)
{
	for (unsigned i = 0; i < history->disk_count; i++)
		if (!history->disks[i]->info.removed &&
			strcmp(history->disks[i]->info.name, name) == 0)
			return true;
	return false;
}

static bool size_good(uint64_t bytes)
{
	return bytes > 0 && is_aligned(bytes, SECTOR_BYTES) &&
	       bytes <= EXTENT_MAX_LBA * SECTOR_BYTES;
}

/* Some removed disks are forgotten (disk_purge), and with them their names. */
static bool name_may_be_old(const struct history *history, const char *name)
{
	for (unsigned i = 0; i < history->disk_count; i++)
		if (strcmp(history->disks[i]->info.name, name) == 0)
			return true;
	return history->disk_count + 1 < history->next_disk;
}

/* `begins_old`: the base may hold the content of an earlier disk of that name. That all of it is
 * zeros is staged before the disk itself: a crash between the two leaves zeros without a disk, and
 * not a disk that shows what is not its own. */
static int stage_add(struct history *history, uint16_t id, const char *name, uint64_t size_bytes,
	uint64_t point, bool begins_old, uint64_t *ret_lsn)
{
	struct journal_record record = { .type = JOURNAL_DISK };
	record.disk = (struct journal_disk){
		.action = JOURNAL_DISK_ADD, .id = id, .size_bytes = size_bytes, .point = point
	};
	size_t n = strnlen(name, sizeof(record.disk.name));
	if (n == 0 || n == sizeof(record.disk.name) || !size_good(size_bytes))
		return -EINVAL;
	memcpy(record.disk.name, name, n);
	if (name_taken(history, name))
		return -EEXIST;
	if (history->disk_count == HISTORY_MAX_DISKS)
		disk_purge(history);
	if (history->disk_count == HISTORY_MAX_DISKS || id == 0)
		return -E2BIG;
	if (history->failed)
		return -EIO;
	if (begins_old) {
		if (history->staged_bytes > STAGE_LIMIT_BYTES)
			return -EAGAIN;
		int r = stage_zero_disk(history, id, size_bytes);
		if (r < 0)
			return r;
	}
	return stage_record(history, &record, ret_lsn);
}

int history_add_disk(struct history *history, const char *name, uint64_t size_bytes,
	uint16_t *ret_disk, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	uint16_t id = history->next_disk > UINT16_MAX ? 0 : (uint16_t)history->next_disk;
	int r = stage_add(history, id, name, size_bytes, history->last_point + 1,
		name_may_be_old(history, name), ret_lsn);
	if (r == 0)
		*ret_disk = id;
	return r;
}

int history_import_disk(struct history *history, const struct history_disk *disk, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	if (disk->id == 0 || disk->added_point == 0)
		return -EINVAL;
	if (disk_find(history, disk->id))
		return -EEXIST;
	return stage_add(
		history, disk->id, disk->name, disk->size_bytes, disk->added_point, false, ret_lsn);
}

/* `point`: the first that shows it; 0: the next. */
static int stage_change(struct history *history, uint16_t id, enum journal_disk_action action,
	uint64_t size_bytes, uint64_t point, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	const struct disk *disk = disk_find(history, id);
	if (!disk || disk->info.removed)
		return -ENOENT;
	if (action == JOURNAL_DISK_GROW &&
		(!size_good(size_bytes) || size_bytes < disk->info.size_bytes))
		return -EINVAL;
	/* Sizes are known by rising point. */
	if (point > history->last_point || point < disk->sizes[disk->size_count - 1].from_point)
		point = 0;
	struct journal_record record = { .type = JOURNAL_DISK };
	record.disk = (struct journal_disk){
		.action = (uint16_t)action,
		.id = id,
		.size_bytes = size_bytes,
		.point = point ? point : history->last_point + 1,
	};
	return stage_record(history, &record, ret_lsn);
}

int history_grow_disk(
	struct history *history, uint16_t disk, uint64_t size_bytes, uint64_t *ret_lsn)
{
	return stage_change(history, disk, JOURNAL_DISK_GROW, size_bytes, 0, ret_lsn);
}

int history_import_size(struct history *history, uint16_t disk, uint64_t size_bytes,
	uint64_t from_point, uint64_t *ret_lsn)
{
	return stage_change(history, disk, JOURNAL_DISK_GROW, size_bytes, from_point, ret_lsn);
}

int history_remove_disk(struct history *history, uint16_t disk, uint64_t *ret_lsn)
{
	return stage_change(history, disk, JOURNAL_DISK_REMOVE, 0, 0, ret_lsn);
}

int history_clear_resync(struct history *history, uint16_t disk, uint64_t *ret_lsn)
{
	return stage_change(history, disk, JOURNAL_DISK_RESYNC_CLEAR, 0, 0, ret_lsn);
}

int history_set_resync(struct history *history, uint16_t disk, uint64_t *ret_lsn)
{
	return stage_change(history, disk, JOURNAL_DISK_RESYNC_SET, 0, 0, ret_lsn);
}

unsigned history_disks(struct history *history, struct history_disk *ret_disks, unsigned max)
{
	SCOPED_LOCK(&history->lock);
	for (unsigned i = 0; i < history->disk_count && i < max; i++)
		ret_disks[i] = history->disks[i]->info;
	return history->disk_count;
}

int history_disk(struct history *history, uint16_t disk, struct history_disk *ret_disk)
{
	SCOPED_LOCK(&history->lock);
	const struct disk *d = disk_find(history, disk);
	if (!d)
		return -ENOENT;
	*ret_disk = d->info;
	return 0;
}

int history_bookmark(
	struct history *history, uint16_t disk, uint8_t ret_data[static HISTORY_BOOKMARK_BYTES])
{
	SCOPED_LOCK(&history->lock);
	const struct disk *d = disk_find(history, disk);
	if (!d)
		return -ENOENT;
	memcpy(ret_data, d->bookmark[d->bookmark_lsn <= history->durable_lsn],
		HISTORY_BOOKMARK_BYTES);
	return 0;
}
