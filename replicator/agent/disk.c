/*
 * What sysfs tells about block devices. Everything is looked up when it is asked for; the kernel's
 * answers are text of one line, and what is not there is taken as "no" or "none".
 */
#include "replicator/agent/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"

/* Reads "<directory>/<name>" without blanks at its ends; "" if it is not there. */
static void attribute(const char *directory, const char *name, char *ret_text, size_t bytes)
{
	char path[PATH_MAX];
	ret_text[0] = '\0';
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, ret_text, bytes - 1);
	n = MAX(n, 0);
	while (n > 0 && ((unsigned char)ret_text[n - 1] <= ' '))
		n--;
	ret_text[n] = '\0';
	size_t blanks = strspn(ret_text, " \t");
	memmove(ret_text, ret_text + blanks, (size_t)n - blanks + 1);
}

static uint64_t attribute_number(const char *directory, const char *name)
{
	char text[32];
	attribute(directory, name, text, sizeof(text));
	return strtoull(text, NULL, 10);
}

static bool attribute_exists(const char *directory, const char *name)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return access(path, F_OK) == 0;
}

static int attribute_dev(const char *directory, dev_t *ret_dev)
{
	char text[32];
	unsigned a, b;
	attribute(directory, "dev", text, sizeof(text));
	if (sscanf(text, "%u:%u", &a, &b) != 2)
		return -ENODEV;
	*ret_dev = makedev(a, b);
	return 0;
}

/* The page of a SCSI disk that holds its serial number: a header of four bytes, then text. */
static void scsi_serial(const char *directory, char *ret_text, size_t bytes)
{
	char path[PATH_MAX], page[260];
	snprintf(path, sizeof(path), "%s/device/vpd_pg80", directory);
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, page, sizeof(page));
	size_t out = 0;
	for (ssize_t i = 4; i < n && out + 1 < bytes; i++) {
		if (page[i] > ' ' && page[i] < 0x7f)
			ret_text[out++] = page[i];
	}
	ret_text[out] = '\0';
}

/* Whatever the device calls itself, the most lasting first. */
static void find_serial(const char *directory, struct disk *disk)
{
	static const char *const places[] = { "dm/uuid", "md/uuid", "serial", "device/serial",
		"wwid", "device/wwid", "loop/backing_file", "device/nodename" };
	char text[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		attribute(directory, places[i], text, sizeof(text));
		if (text[0])
			break;
	}
	if (!text[0])
		scsi_serial(directory, text, sizeof(text));
	/* A long one (a path) is told by its end. */
	size_t n = strlen(text), room = sizeof(disk->serial) - 1;
	snprintf(disk->serial, sizeof(disk->serial), "%s", n > room ? text + n - room : text);
	for (char *c = disk->serial; *c; c++) {
		if ((unsigned char)*c <= ' ')
			*c = '_';
	}
}

static enum disk_kind kind_of(const char *directory, const char *name)
{
	if (attribute_exists(directory, "dm"))
		return DISK_DM;
	if (attribute_exists(directory, "md"))
		return DISK_MD;
	if (strncmp(name, "loop", 4) == 0)
		return DISK_LOOP;
	return attribute_exists(directory, "device") ? DISK_WHOLE : DISK_OTHER;
}

/* The name that udev gives a partition after its table's entry; "" without udev. */
static void partition_uuid(dev_t dev, char *ret_text, size_t bytes)
{
	static const char by[] = "/dev/disk/by-partuuid";
	ret_text[0] = '\0';
	DIR *d = opendir(by);
	if (!d)
		return;
	for (const struct dirent *e; (e = readdir(d));) {
		struct stat st;
		if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
			continue;
		if (S_ISBLK(st.st_mode) && st.st_rdev == dev) {
			snprintf(ret_text, bytes, "%s", e->d_name);
			break;
		}
	}
	closedir(d);
}

static bool mounted_with_dax(dev_t dev)
{
	struct disk_mount *mounts = NULL;
	size_t count = 0;
	bool dax = false;
	if (disk_mounts(&mounts, &count) < 0)
		return false;
	for (size_t i = 0; i < count && !dax; i++) {
		if (mounts[i].dev != dev)
			continue;
		char *rest = mounts[i].options, *word;
		while (!dax && (word = strsep(&rest, ",")))
			dax = strcmp(word, "dax") == 0 || strcmp(word, "dax=always") == 0;
	}
	disk_mounts_free(mounts, count);
	return dax;
}

/* Device-mapper counts even where the attribute says it does not; before Linux 5.18 it counted the
 * rest of what it split twice. */
static bool is_counted(const char *directory, enum disk_kind kind)
{
	struct utsname name;
	unsigned version = 0, patch = 0;
	if (kind != DISK_DM)
		return attribute_number(directory, "queue/iostats") != 0;
	return uname(&name) == 0 && sscanf(name.release, "%u.%u", &version, &patch) == 2 &&
	       (version > 5 || (version == 5 && patch >= 18));
}

static void fill_gendisk(const char *directory, struct disk *disk)
{
	char text[32];
	disk->kind = kind_of(directory, disk->gendisk);
	disk->sector_bytes = (uint32_t)attribute_number(directory, "queue/logical_block_size");
	if (disk->sector_bytes == 0)
		disk->sector_bytes = SECTOR_BYTES;
	disk->removable = attribute_number(directory, "removable") != 0;
	disk->dax = attribute_number(directory, "queue/dax") != 0;
	disk->bio_based = !attribute_exists(directory, "mq");
	disk->counted = is_counted(directory, disk->kind);
	disk->sequence = attribute_number(directory, "diskseq");
	attribute(directory, "queue/zoned", text, sizeof(text));
	disk->zoned = text[0] && strcmp(text, "none") != 0;
	find_serial(directory, disk);
}

static void fill_identity(struct disk *disk)
{
	static const char *const kinds[] = {
		[DISK_WHOLE] = "disk", [DISK_DM] = "dm", [DISK_MD] = "md", [DISK_LOOP] = "loop"
	};
	const char *kind =
		disk->kind < ARRAY_SIZE(kinds) && kinds[disk->kind] ? kinds[disk->kind] : "other";
	char uuid[64] = "";
	int n;

	if (disk->serial[0])
		n = snprintf(disk->identity, sizeof(disk->identity), "%s:%s", kind, disk->serial);
	else
		n = snprintf(
			disk->identity, sizeof(disk->identity), "%s:name=%s", kind, disk->gendisk);
	if (disk->dev == disk->gendisk_dev)
		return;
	disk->kind = DISK_PARTITION;
	partition_uuid(disk->dev, uuid, sizeof(uuid));
	snprintf(disk->identity + n, sizeof(disk->identity) - (size_t)n, ":part=%s@%" PRIu64, uuid,
		disk->offset_bytes);
}

bool disk_identity_is_name(const char *identity)
{
	const char *colon = strchr(identity, ':');
	return colon && strncmp(colon, ":name=", 6) == 0;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

int disk_find_dev(dev_t dev, struct disk *ret_disk, struct error *error)
{
	char link[64], directory[PATH_MAX], whole[PATH_MAX];
	struct disk disk = { .dev = dev, .gendisk_dev = dev };

	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	if (!realpath(link, directory))
		return error_set(error, -errno, NULL, "%s: no such block device", link);
	snprintf(disk.name, sizeof(disk.name), "%.63s", last_part(directory));
	snprintf(whole, sizeof(whole), "%s", directory);
	if (attribute_exists(directory, "partition")) {
		*strrchr(whole, '/') = '\0';
		int r = attribute_dev(whole, &disk.gendisk_dev);
		if (r < 0)
			return error_set(
				error, r, NULL, "%s: the disk it is on cannot be found", disk.name);
		disk.offset_bytes = attribute_number(directory, "start") * SECTOR_BYTES;
	}
	snprintf(disk.gendisk, sizeof(disk.gendisk), "%.63s", last_part(whole));
	disk.bytes = attribute_number(directory, "size") * SECTOR_BYTES;
	disk.read_only = attribute_number(directory, "ro") != 0;
	fill_gendisk(whole, &disk);
	fill_identity(&disk);
	disk.dax = disk.dax || mounted_with_dax(dev);
	*ret_disk = disk;
	return 0;
}

int disk_find(const char *path, struct disk *ret_disk, struct error *error)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return error_set(error, -errno,
			errno == EACCES ? "run the agent as root"
					: "'lsblk -p' tells which there are",
			"%s: %s", path, strerrordesc_np(errno));
	if (!S_ISBLK(st.st_mode))
		return error_set(error, -ENOTBLK, "name a disk, a partition or a logical volume",
			"%s is not a block device", path);
	return disk_find_dev(st.st_rdev, ret_disk, error);
}

int disk_open(const struct disk *disk)
{
	char path[PATH_MAX], link[64], line[256];

	/* The node that uevent names; device-mapper's names are links to it. */
	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(disk->dev), minor(disk->dev));
	attribute(link, "uevent", line, sizeof(line));
	const char *name = strstr(line, "DEVNAME=");
	snprintf(path, sizeof(path), "/dev/%.*s", name ? (int)strcspn(name + 8, "\n") : 0,
		name ? name + 8 : "");
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISBLK(st.st_mode) || st.st_rdev != disk->dev) {
		close(fd);
		return -ENODEV;
	}
	return fd;
}

/* Whether the disk is a path of a multipath device, which is listed instead. */
static bool is_path(const char *directory)
{
	char holders[PATH_MAX];
	bool path = false;
	snprintf(holders, sizeof(holders), "%s/holders", directory);
	DIR *d = opendir(holders);
	if (!d)
		return false;
	for (const struct dirent *e; !path && (e = readdir(d));) {
		char uuid[16], name[300];
		snprintf(name, sizeof(name), "%s/dm/uuid", e->d_name);
		attribute(holders, name, uuid, sizeof(uuid));
		path = strncmp(uuid, "mpath-", 6) == 0;
	}
	closedir(d);
	return path;
}

static bool has_entries(const char *directory, const char *name)
{
	char path[PATH_MAX];
	bool some = false;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	DIR *d = opendir(path);
	if (!d)
		return false;
	for (const struct dirent *e; !some && (e = readdir(d));)
		some = e->d_name[0] != '.';
	closedir(d);
	return some;
}

static bool is_served(const char *name)
{
	return strncmp(name, "nbd", 3) == 0;
}

/* Whether /sys/block/<name> holds data of its own: `served`, for another machine or program. */
static bool is_listed(const char *name, bool served)
{
	static const char *const others[] = { "loop", "ram", "zram", "fd", "sr" };
	char directory[PATH_MAX], uuid[16];

	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		if (strncmp(name, others[i], strlen(others[i])) == 0)
			return false;
	}
	snprintf(directory, sizeof(directory), "/sys/block/%s", name);
	if (is_served(name) != served || attribute_number(directory, "size") == 0 ||
		attribute_number(directory, "hidden") != 0)
		return false;
	attribute(directory, "dm/uuid", uuid, sizeof(uuid));
	if (strncmp(uuid, "mpath-", 6) == 0)
		return true;
	return !has_entries(directory, "slaves") && !is_path(directory);
}

static int list(bool served, struct disk **ret_disks, size_t *ret_count)
{
	CLEANUP_FREE struct disk *disks = NULL;
	size_t count = 0;
	DIR *d = opendir("/sys/block");
	if (!d)
		return -errno;
	int r = 0;
	for (const struct dirent *e; r == 0 && (e = readdir(d));) {
		char directory[PATH_MAX];
		dev_t dev;
		if (e->d_name[0] == '.' || !is_listed(e->d_name, served))
			continue;
		snprintf(directory, sizeof(directory), "/sys/block/%s", e->d_name);
		if (attribute_dev(directory, &dev) < 0)
			continue;
		struct disk *grown = reallocarray(disks, count + 1, sizeof(*disks));
		if (!grown) {
			r = -ENOMEM;
			break;
		}
		disks = grown;
		if (disk_find_dev(dev, &disks[count], NULL) == 0)
			count++;
	}
	closedir(d);
	if (r < 0)
		return r;
	*ret_disks = TAKE(disks);
	*ret_count = count;
	return 0;
}

int disk_list(struct disk **ret_disks, size_t *ret_count)
{
	return list(false, ret_disks, ret_count);
}

int disk_list_served(struct disk **ret_disks, size_t *ret_count)
{
	return list(true, ret_disks, ret_count);
}
