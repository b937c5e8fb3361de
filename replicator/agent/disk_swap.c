/*
 * Where swap lies: /proc/swaps names partitions and files; the blocks of a file are found by
 * FIEMAP (Documentation/filesystems/fiemap.rst), relative to the device of its filesystem.
 *
 * What is excluded by mistake is lost, what is not excluded costs bandwidth and nothing else: so
 * whatever is in doubt is not. A path names what is there now, which may be another file than the
 * one that was switched on (something was mounted over it, or it was in another namespace): it
 * counts only if it has an area's header, which also tells where the area ends, and the kernel says
 * that it is in use. A list of blocks counts only on filesystems of one device, whole, and
 * if all of it lies on that.
 */
#include "replicator/agent/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define EXTENTS_AT_ONCE 128
#define HEADER_BYTES 65536ull /* the largest page a kernel may have, and its header */
/* In the first page, in the machine's byte order: union swap_header of include/linux/swap.h. */
#define SIGNATURE "SWAPSPACE2" /* the page ends with it */
#define SIGNATURE_BYTES 10u
#define VERSION_AT 1024u
#define LAST_PAGE_AT 1028u

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

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

/* ── is it what the kernel swaps to? ─────────────────────────────────────────────────────── */

/* Of the area whose header is there, and with it; 0: there is none of which the kernel could use
 * `listed` bytes. (Of files it leaves out what is no whole page on the disk.) */
static uint64_t area_bytes(int fd, uint64_t listed)
{
	uint8_t page[HEADER_BYTES];
	uint32_t version, last_page;
	const long page_bytes = sysconf(_SC_PAGESIZE);
	if (page_bytes < 4096 || (size_t)page_bytes > sizeof(page) ||
		pread(fd, page, (size_t)page_bytes, 0) != page_bytes ||
		memcmp(page + page_bytes - SIGNATURE_BYTES, SIGNATURE, SIGNATURE_BYTES) != 0)
		return 0;
	memcpy(&version, page + VERSION_AT, sizeof(version));
	memcpy(&last_page, page + LAST_PAGE_AT, sizeof(last_page));
	uint64_t bytes = ((uint64_t)last_page + 1) * (uint64_t)page_bytes;
	return version == 1 && bytes > HEADER_BYTES && listed <= bytes - (uint64_t)page_bytes
		       ? bytes
		       : 0;
}

/* A device that is in use cannot be had exclusively. A file cannot be shortened: of the two reasons
 * not to, that it is swap comes before that one byte is no block (vfs_fallocate). Neither changes
 * anything. */
static bool is_in_use(int fd, bool device)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CLEANUP_CLOSE int again = open(
		path, (device ? O_RDONLY | O_EXCL : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (device)
		return again < 0 && errno == EBUSY;
	return again >= 0 && fallocate(again, FALLOC_FL_COLLAPSE_RANGE, 0, 1) < 0 &&
	       errno == ETXTBSY;
}

/* Its blocks are numbered from the start of the device that stat tells. */
static bool is_on_one_device(int fd)
{
	struct statfs fs;
	struct fsxattr x;
	if (fstatfs(fd, &fs) < 0)
		return false;
	if (fs.f_type == EXT4_SUPER_MAGIC)
		return true;
	return fs.f_type == XFS_SUPER_MAGIC && ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0 &&
	       !(x.fsx_xflags & FS_XFLAG_REALTIME);
}

/* ── where it lies ───────────────────────────────────────────────────────────────────────── */

/* -ENOTSUP: an extent that tells nothing. */
static int add_extent(struct ranges *ranges, const struct disk *disk, const struct disk *part,
	const struct fiemap_extent *e, uint64_t bytes)
{
	const uint32_t odd = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_ENCODED |
			     FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_SHARED;
	if (e->fe_flags & odd || e->fe_length == 0 || e->fe_physical > part->bytes ||
		e->fe_logical > UINT64_MAX - e->fe_length ||
		e->fe_length > part->bytes - e->fe_physical)
		return -ENOTSUP;
	/* The header is the file's first page, as of a partition. */
	uint64_t begin = MAX(e->fe_logical, HEADER_BYTES);
	uint64_t end = MIN(e->fe_logical + e->fe_length, bytes);
	return begin < end ? add_on(ranges, disk, part, e->fe_physical + (begin - e->fe_logical),
				     end - begin)
			   : 0;
}

/* The first `bytes` of the file. */
static int add_extents(struct ranges *ranges, const struct disk *disk, const struct disk *part,
	int fd, uint64_t bytes)
{
	CLEANUP_FREE struct fiemap *map =
		calloc(1, sizeof(*map) + EXTENTS_AT_ONCE * sizeof(struct fiemap_extent));
	uint64_t at = 0;
	if (!map)
		return -ENOMEM;
	while (at < bytes) {
		map->fm_start = at;
		map->fm_length = bytes - at;
		map->fm_extent_count = EXTENTS_AT_ONCE;
		if (ioctl(fd, FS_IOC_FIEMAP, map) < 0 || map->fm_mapped_extents == 0)
			return -ENOTSUP;
		for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];
			/* Swap has no holes. */
			int r = e->fe_logical == at ? add_extent(ranges, disk, part, e, bytes)
						    : -ENOTSUP;
			if (r < 0)
				return r;
			at += e->fe_length;
		}
	}
	return 0;
}

static int add_file(struct ranges *ranges, const struct disk *disk, const struct disk *part, int fd,
	uint64_t bytes)
{
	size_t before = ranges->count;
	int r = is_on_one_device(fd) ? add_extents(ranges, disk, part, fd, bytes) : 0;
	if (r < 0)
		ranges->count = before;
	return r == -ENOMEM ? r : 0;
}

/* One line of /proc/swaps: path (blanks as \040), type, KiB. */
static int add_line(struct ranges *ranges, const struct disk *disk, char *line)
{
	struct disk part;
	struct stat st;
	uint64_t kib = 0;
	const size_t n = strcspn(line, " \t\n");
	if (line[0] != '/' || sscanf(line + n, "%*s %" SCNu64, &kib) != 1)
		return 0;
	line[n] = '\0';
	CLEANUP_CLOSE int fd = open(line, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0 || !(S_ISBLK(st.st_mode) || S_ISREG(st.st_mode)))
		return 0;
	bool device = S_ISBLK(st.st_mode);
	if (disk_find_dev(device ? st.st_rdev : st.st_dev, &part, NULL) < 0 ||
		part.gendisk_dev != disk->gendisk_dev)
		return 0;
	const uint64_t bytes = area_bytes(fd, kib * 1024);
	if (bytes == 0 || !is_in_use(fd, device))
		return 0;
	if (!device)
		return add_file(ranges, disk, &part, fd, bytes);
	/* Without the header that mkswap wrote nothing swaps there again. */
	return bytes <= part.bytes ? add_on(ranges, disk, &part, HEADER_BYTES, bytes - HEADER_BYTES)
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
