/*
 * Where swap lies: /proc/swaps names partitions and files; the blocks of a file are found by
 * FIEMAP (Documentation/filesystems/fiemap.rst), relative to the device of its filesystem.
 */
#include "replicator/agent/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define EXTENTS_AT_ONCE 128
#define HEADER_BYTES 65536ull /* the largest page a kernel may have, and its header */

struct ranges {
	struct disk_range *list;
	size_t count;
};

static int add(struct ranges *ranges, uint64_t offset, uint64_t length)
{
	struct disk_range *grown =
		reallocarray(ranges->list, ranges->count + 1, sizeof(*ranges->list));
	if (!grown)
		return -ENOMEM;
	ranges->list = grown;
	ranges->list[ranges->count++] = (struct disk_range){ .offset = offset, .length = length };
	return 0;
}

/* Adds what `part` (of a gendisk) has from `offset` on, as far as it is on `disk`. */
static int add_on(struct ranges *ranges, const struct disk *disk, const struct disk *part,
	uint64_t offset, uint64_t length)
{
	if (part->gendisk_dev != disk->gendisk_dev)
		return 0;
	uint64_t begin = part->offset_bytes + offset, end = begin + length;
	begin = MAX(begin, disk->offset_bytes);
	end = MIN(end, disk->offset_bytes + disk->bytes);
	return begin < end ? add(ranges, begin - disk->offset_bytes, end - begin) : 0;
}

static int add_file(struct ranges *ranges, const struct disk *disk, const struct disk *part, int fd)
{
	CLEANUP_FREE struct fiemap *map =
		calloc(1, sizeof(*map) + EXTENTS_AT_ONCE * sizeof(struct fiemap_extent));
	uint64_t at = 0;
	if (!map)
		return -ENOMEM;
	for (;;) {
		map->fm_start = at;
		map->fm_length = FIEMAP_MAX_OFFSET - at;
		map->fm_extent_count = EXTENTS_AT_ONCE;
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
			return errno == EOPNOTSUPP ? 0 : -errno;
		if (map->fm_mapped_extents == 0)
			return 0;
		for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];
			const uint32_t unknown = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_ENCODED |
						 FIEMAP_EXTENT_NOT_ALIGNED;
			at = e->fe_logical + e->fe_length;
			/* The header is the file's first page, as of a partition. */
			uint64_t skip = e->fe_logical < HEADER_BYTES
						? MIN(HEADER_BYTES - e->fe_logical, e->fe_length)
						: 0;
			int r = e->fe_flags & unknown || skip == e->fe_length
					? 0
					: add_on(ranges, disk, part, e->fe_physical + skip,
						  e->fe_length - skip);
			if (r < 0 || e->fe_flags & FIEMAP_EXTENT_LAST)
				return r;
		}
	}
}

/* One line of /proc/swaps: a path (blanks as \040) comes first. What cannot be looked up is not
 * excluded: that costs bandwidth and nothing else. */
static int add_line(struct ranges *ranges, const struct disk *disk, char *line)
{
	struct disk part;
	struct stat st;
	line[strcspn(line, " \t\n")] = '\0';
	CLEANUP_CLOSE int fd = open(line, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (line[0] != '/' || fd < 0 || fstat(fd, &st) < 0)
		return 0;
	bool device = S_ISBLK(st.st_mode);
	if (disk_find_dev(device ? st.st_rdev : st.st_dev, &part, NULL) < 0)
		return 0;
	if (!device)
		return add_file(ranges, disk, &part, fd);
	/* The first page is the header that mkswap wrote: without it nothing swaps there again. */
	return part.bytes > HEADER_BYTES
		       ? add_on(ranges, disk, &part, HEADER_BYTES, part.bytes - HEADER_BYTES)
		       : 0;
}

static int compare(const void *a, const void *b)
{
	const struct disk_range *x = a, *y = b;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

int disk_swap_ranges(const struct disk *disk, struct disk_range **ret_ranges, size_t *ret_count)
{
	struct ranges ranges = { 0 };
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	int r = 0;
	FILE *f = fopen("/proc/swaps", "re");
	if (!f)
		return errno == ENOENT ? (*ret_ranges = NULL, *ret_count = 0, 0) : -errno;
	while (r == 0 && getline(&line, &room, f) >= 0)
		r = add_line(&ranges, disk, line);
	fclose(f);
	if (r < 0) {
		free(ranges.list);
		return r;
	}
	if (ranges.count)
		qsort(ranges.list, ranges.count, sizeof(*ranges.list), compare);
	*ret_ranges = ranges.list;
	*ret_count = ranges.count;
	return 0;
}
