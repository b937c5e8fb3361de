/*
 * Swap: what lies in an active swap area is worth nothing to anybody, changes all the time, frozen
 * filesystems or not, and may be what a program keeps in memory only. It counts as zeros; but for
 * the header, without which nothing swaps there again.
 *
 * An area that is switched on or off is marked as a whole: its zeros, or its content, are sent like
 * any change. The kernel tells of either on /proc/swaps (POLLPRI), so that a recovery point is
 * never made with ranges that hold no longer.
 *
 * The ranges of a disk are under its lock. What is used of /proc/swaps is opened at the start: it
 * is polled while filesystems are frozen.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/source.h"

int source_open_swap(struct source *source)
{
	source->swap_fd = open("/proc/swaps", O_RDONLY | O_CLOEXEC);
	source->swap_stale = true;
	/* A kernel without swap has none to leave out. */
	return source->swap_fd < 0 && errno != ENOENT ? -errno : 0;
}

bool source_swap_changed(struct source *source)
{
	struct pollfd fd = { .fd = source->swap_fd, .events = POLLPRI };
	if (source->swap_fd >= 0 && poll(&fd, 1, 0) > 0 && fd.revents & (POLLPRI | POLLERR))
		source->swap_stale = true; /* it is told once */
	return source->swap_fd >= 0 && source->swap_stale;
}

static bool equal(const struct source_disk *disk, const struct disk_range *ranges, size_t count)
{
	return disk->swap_count == count &&
	       (count == 0 || memcmp(disk->swap, ranges, count * sizeof(*ranges)) == 0);
}

/* Under the disk's lock. */
static void mark_all(struct source_disk *disk)
{
	for (size_t i = 0; disk->tracked && i < disk->swap_count; i++)
		tracker_put_back(disk->tracked, disk->swap[i].offset, disk->swap[i].length);
}

static uint64_t swap_bytes(const struct source_disk *disk)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < disk->swap_count; i++)
		sum += disk->swap[i].length;
	return sum;
}

uint64_t source_swap_bytes(struct source_disk *disk)
{
	SCOPED_LOCK(&disk->lock);
	return swap_bytes(disk);
}

/* Before the marks, so that who takes them reads what they are about. */
static void replace(struct source_disk *disk, struct disk_range *ranges, size_t count)
{
	SCOPED_LOCK(&disk->lock);
	mark_all(disk);
	free(disk->swap);
	disk->swap = ranges;
	disk->swap_count = count;
	mark_all(disk);
	log_info("disk %s: %llu MiB of swap are left out", disk->id,
		(unsigned long long)(swap_bytes(disk) / MIB));
}

void source_look_at_swap(struct source *source)
{
	if (!source_swap_changed(source))
		return;
	source->swap_stale = false;
	for (unsigned i = 0; i < source->count; i++) {
		struct source_disk *disk = source->disks[i];
		struct disk_range *ranges = NULL;
		size_t count = 0;
		if (disk->gone)
			continue;
		int r = disk_swap_ranges(&disk->disk, &ranges, &count);
		if (r < 0) {
			log_warning("where swap lies on disk %s cannot be seen, so all of it is "
				    "replicated: %s",
				disk->id, strerrordesc_np(-r));
			count = 0;
			ranges = NULL;
		}
		if (equal(disk, ranges, count))
			free(ranges);
		else
			replace(disk, ranges, count);
	}
}

bool source_is_swap(struct source_disk *disk, uint64_t offset, size_t n)
{
	SCOPED_LOCK(&disk->lock);
	for (size_t i = 0; i < disk->swap_count; i++)
		if (disk->swap[i].offset <= offset &&
			offset + n <= disk->swap[i].offset + disk->swap[i].length)
			return true;
	return false;
}

void source_blank_swap(struct source_disk *disk, uint64_t offset, uint8_t *data, size_t n)
{
	SCOPED_LOCK(&disk->lock);
	for (size_t i = 0; i < disk->swap_count; i++) {
		uint64_t begin = MAX(disk->swap[i].offset, offset);
		uint64_t end = MIN(disk->swap[i].offset + disk->swap[i].length, offset + n);
		if (begin < end)
			memset(data + (begin - offset), 0, end - begin);
	}
}
