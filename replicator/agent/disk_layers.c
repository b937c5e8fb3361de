/*
 * What lies on what: mounted filesystems, and the devices under devices.
 *
 * Filesystems are looked for in all mount namespaces: a freeze that knows only its own would not
 * hold what a container writes. /proc/self/mountinfo is described in proc(5): fields by blanks,
 * blanks within a field as \040, the optional fields end with " - ", after which come type, source
 * and superblock options.
 */
#include "replicator/agent/disk.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define LAYERS_MAX 16

/* \040 and the like, in place. */
static void unescape(char *text)
{
	char *out = text;
	for (const char *in = text; *in; out++) {
		if (in[0] == '\\' && in[1] && in[2] && in[3]) {
			*out = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
			in += 4;
		} else {
			*out = *in++;
		}
	}
	*out = '\0';
}

/* Fills from one line, which it takes apart. -EINVAL for what is not understood. */
static int parse_mount(char *line, struct disk_mount *ret_mount)
{
	unsigned a, b;
	char *end = strstr(line, " - ");
	if (!end)
		return -EINVAL;
	*end = '\0';
	char *rest = line, *tail = end + 3;
	strsep(&rest, " ");
	strsep(&rest, " ");
	const char *numbers = strsep(&rest, " ");
	strsep(&rest, " ");
	char *point = strsep(&rest, " ");
	const char *options = strsep(&rest, " ");
	const char *type = strsep(&tail, " ");
	char *source = strsep(&tail, " ");
	if (!options || !source || !tail || sscanf(numbers, "%u:%u", &a, &b) != 2)
		return -EINVAL;
	tail[strcspn(tail, "\n")] = '\0';
	unescape(point);
	unescape(source);
	struct disk_mount mount = { .dev = makedev(a, b) };
	if (a == 0) {
		struct stat st;
		mount.dev = source[0] == '/' && stat(source, &st) == 0 && S_ISBLK(st.st_mode)
				    ? st.st_rdev
				    : 0;
	}
	mount.point = strdup(point);
	mount.type = strdup(type);
	if (asprintf(&mount.options, "%s,%s", options, tail) < 0)
		mount.options = NULL;
	*ret_mount = mount;
	return mount.point && mount.type && mount.options ? 0 : -ENOMEM;
}

struct mounts {
	struct disk_mount *list;
	size_t count;
};

static bool has_device(const struct mounts *m, dev_t dev)
{
	for (size_t i = 0; i < m->count; i++)
		if (m->list[i].dev == dev)
			return true;
	return false;
}

static void free_mount(struct disk_mount *mount)
{
	free(mount->point);
	free(mount->type);
	free(mount->options);
}

/* `root`: where that namespace's mount points are reached from here, and of its devices only those
 * that are not listed yet; "": it is ours, and all of it is. */
static int add_mount(struct mounts *m, char *line, const char *root)
{
	struct disk_mount mount;
	int r = parse_mount(line, &mount);
	if (r == -EINVAL)
		return 0;
	char *point = NULL;
	bool wanted = !*root || (mount.dev && !has_device(m, mount.dev));
	if (r == 0 && wanted && *root) {
		if (asprintf(&point, "%s%s", root, mount.point) < 0)
			r = -ENOMEM;
		else
			free(mount.point), mount.point = point;
	}
	struct disk_mount *grown =
		r == 0 && wanted ? reallocarray(m->list, m->count + 1, sizeof(*grown)) : NULL;
	if (!grown) {
		free_mount(&mount);
		return wanted ? -ENOMEM : r;
	}
	m->list = grown;
	m->list[m->count++] = mount;
	return 0;
}

static int add_mounts(struct mounts *m, const char *path, const char *root)
{
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	FILE *f = fopen(path, "re");
	if (!f)
		return -errno;
	int r = 0;
	while (r == 0 && getline(&line, &room, f) >= 0)
		r = add_mount(m, line, root);
	fclose(f);
	return r;
}

/* Numbers of namespaces. */
struct spaces {
	ino_t *list;
	size_t count;
};

/* Enters it; false if it is there. */
static bool is_new_space(struct spaces *s, ino_t number)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->list[i] == number)
			return false;
	ino_t *grown = reallocarray(s->list, s->count + 1, sizeof(*grown));
	if (grown) {
		s->list = grown;
		s->list[s->count++] = number;
	}
	return true;
}

/* What only other namespaces have: containers, services with mounts of their own. Processes come
 * and go meanwhile; one that is gone tells nothing any more. */
static int add_other_spaces(struct mounts *m)
{
	struct spaces seen = { 0 };
	struct stat st;
	DIR *processes = opendir("/proc");
	int r = 0;
	if (!processes)
		return -errno;
	if (stat("/proc/self/ns/mnt", &st) == 0)
		(void)is_new_space(&seen, st.st_ino);
	for (struct dirent *d; r == 0 && (d = readdir(processes));) {
		char path[64], root[64];
		if (d->d_name[0] < '0' || d->d_name[0] > '9' || strlen(d->d_name) > 16)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/ns/mnt", d->d_name);
		if (stat(path, &st) < 0 || !is_new_space(&seen, st.st_ino))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/mountinfo", d->d_name);
		snprintf(root, sizeof(root), "/proc/%s/root", d->d_name);
		r = add_mounts(m, path, root);
		if (r < 0 && r != -ENOMEM)
			r = 0;
	}
	closedir(processes);
	free(seen.list);
	return r;
}

void disk_mounts_free(struct disk_mount *mounts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free_mount(&mounts[i]);
	free(mounts);
}

int disk_mounts(struct disk_mount **ret_mounts, size_t *ret_count)
{
	struct mounts m = { 0 };
	int r = add_mounts(&m, "/proc/self/mountinfo", "");
	if (r == 0)
		r = add_other_spaces(&m);
	if (r < 0) {
		disk_mounts_free(m.list, m.count);
		return r;
	}
	*ret_mounts = m.list;
	*ret_count = m.count;
	return 0;
}

/* The set under construction. */
struct set {
	dev_t *devs;
	size_t capacity;
	size_t count;
	unsigned depth;
};

static int descend(struct set *set, dev_t dev, unsigned layer, unsigned depth);

/* The device under the filesystem that holds the file of a loop device. */
static int descend_file(struct set *set, const char *path, unsigned layer, unsigned depth)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return 0; /* deleted, or of another namespace: nothing can be said */
	if (S_ISBLK(st.st_mode))
		return descend(set, st.st_rdev, layer, depth);
	if (major(st.st_dev) != 0)
		return descend(set, st.st_dev, layer, depth);
	struct disk_mount *mounts = NULL;
	size_t count = 0;
	int r = disk_mounts(&mounts, &count);
	if (r < 0)
		return r;
	dev_t under = 0;
	for (size_t i = 0; i < count; i++) {
		struct stat at;
		if (mounts[i].dev && stat(mounts[i].point, &at) == 0 && at.st_dev == st.st_dev)
			under = mounts[i].dev;
	}
	disk_mounts_free(mounts, count);
	return under ? descend(set, under, layer, depth) : 0;
}

static int read_line(const char *directory, const char *name, char *ret_text, int bytes)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	FILE *f = fopen(path, "re");
	if (!f)
		return -errno;
	const char *got = fgets(ret_text, bytes, f);
	fclose(f);
	if (!got)
		return -ENODATA;
	ret_text[strcspn(ret_text, "\n")] = '\0';
	return 0;
}

static int descend_dev_file(struct set *set, const char *directory, unsigned layer, unsigned depth)
{
	char text[32];
	unsigned a, b;
	if (read_line(directory, "dev", text, sizeof(text)) < 0 ||
		sscanf(text, "%u:%u", &a, &b) != 2)
		return 0;
	return descend(set, makedev(a, b), layer, depth);
}

static int descend_slaves(struct set *set, const char *directory, unsigned layer, unsigned depth)
{
	char slaves[PATH_MAX];
	int r = 0;
	if (snprintf(slaves, sizeof(slaves), "%s/slaves", directory) >= (int)sizeof(slaves))
		return -ENAMETOOLONG;
	DIR *d = opendir(slaves);
	if (!d)
		return 0;
	for (const struct dirent *e; r == 0 && (e = readdir(d));) {
		char one[PATH_MAX];
		if (e->d_name[0] == '.' ||
			snprintf(one, sizeof(one), "%s/%s", slaves, e->d_name) >= (int)sizeof(one))
			continue;
		r = descend_dev_file(set, one, layer, depth);
	}
	closedir(d);
	return r;
}

static int descend(struct set *set, dev_t dev, unsigned layer, unsigned depth)
{
	char link[64], directory[PATH_MAX], text[PATH_MAX];

	set->depth = MAX(set->depth, depth);
	for (size_t i = 0; i < set->count; i++) {
		if (set->devs[i] == dev)
			return 0;
	}
	if (set->count == set->capacity || layer > LAYERS_MAX)
		return -E2BIG;
	set->devs[set->count++] = dev;
	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	if (!realpath(link, directory))
		return 0;
	if (read_line(directory, "partition", text, sizeof(text)) == 0) {
		*strrchr(directory, '/') = '\0';
		return descend_dev_file(set, directory, layer + 1, depth);
	}
	if (read_line(directory, "loop/backing_file", text, sizeof(text)) == 0)
		return descend_file(set, text, layer + 1, depth + 1);
	return descend_slaves(set, directory, layer + 1, depth);
}

int disk_foundations(
	dev_t dev, dev_t *ret_devs, size_t capacity, size_t *ret_count, unsigned *ret_depth)
{
	struct set set = { .devs = ret_devs, .capacity = capacity };
	int r = descend(&set, dev, 0, 0);
	if (r < 0)
		return r;
	*ret_count = set.count;
	if (ret_depth)
		*ret_depth = set.depth;
	return 0;
}
