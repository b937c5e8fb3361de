/*
 * The tree of names, computed from the histories' catalogues at every question; nothing is kept.
 * A directory is walked by key (machine serial, point number, disk id), so reading a huge one
 * can stop and go on anywhere, and costs what is read.
 *
 * Any thread. A machine is held while it is asked, its clones' list is read under the lock.
 */
#include "fs/mount_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "fs/point.h"
#include "fs/vhd.h"

#define SUFFIX ".vhd"
#define KEY_LIVE 1
#define KEY_POINTS 2
#define KEY_CLONES 3
#define KEY_LATEST 1

/* ── inode numbers ───────────────────────────────────────────────────────────────────────── */

fuse_ino_t node_ino(const struct node *node)
{
	if (node->kind == NODE_ROOT)
		return FUSE_ROOT_ID;
	return (uint64_t)node->kind << 60 | (uint64_t)node->machine << 48 |
	       (uint64_t)node->disk << 32 | node->number;
}

struct node node_of(fuse_ino_t ino)
{
	if (ino == FUSE_ROOT_ID)
		return (struct node){ .kind = NODE_ROOT };
	return (struct node){
		.kind = (enum node_kind)(ino >> 60),
		.machine = (uint16_t)(ino >> 48 & 0xfff),
		.disk = (uint16_t)(ino >> 32),
		.number = (uint32_t)ino,
	};
}

static struct node child_of(const struct node *parent, enum node_kind kind)
{
	struct node child = *parent;
	child.kind = kind;
	return child;
}

int tree_parent(const struct node *node, struct node *ret_parent)
{
	struct node parent = { .machine = node->machine };
	switch (node->kind) {
	case NODE_LIVE:
	case NODE_POINTS:
	case NODE_CLONES:
		parent.kind = NODE_MACHINE;
		break;
	case NODE_POINT:
		parent.kind = NODE_POINTS;
		break;
	case NODE_CLONE:
		parent.kind = NODE_CLONES;
		break;
	default:
		parent = (struct node){ .kind = NODE_ROOT };
		break;
	}
	*ret_parent = parent;
	return 0;
}

/* ── disks ───────────────────────────────────────────────────────────────────────────────── */

struct disk_list {
	unsigned count;
	struct history_disk disks[HISTORY_MAX_DISKS];
};

/* The disk's name inside the machine, or NULL if it is not the machine's. */
static const char *name_inside(const struct machine *machine, const struct history_disk *disk)
{
	size_t n = strlen(machine->name);
	if (strncmp(disk->name, machine->name, n) != 0 || disk->name[n] != '/')
		return NULL;
	return disk->name + n + 1;
}

/* True if the file name is "<disk>.vhd". */
static bool is_file_of(const char *file_name, const char *disk_name)
{
	size_t n = strlen(disk_name);
	return strncmp(file_name, disk_name, n) == 0 && strcmp(file_name + n, SUFFIX) == 0;
}

/* The size of the machine's disk in this directory (live or a point), 0 if it is not there. */
static uint64_t bytes_in(
	struct machine *machine, const struct node *dir, const struct history_disk *disk)
{
	if (!name_inside(machine, disk))
		return 0;
	if (dir->kind == NODE_LIVE)
		return disk->removed ? 0 : disk->size_bytes;
	if (history_point_hides(machine->history, dir->number, disk->id))
		return 0;
	return history_point_disk_bytes(machine->history, dir->number, disk->id);
}

static int disk_bytes(
	struct machine *machine, const struct node *dir, uint16_t disk, uint64_t *ret_bytes)
{
	struct history_disk info;
	int r = history_disk(machine->history, disk, &info);
	if (r < 0)
		return -ESTALE;
	uint64_t bytes = bytes_in(machine, dir, &info);
	if (bytes == 0)
		return -ESTALE;
	*ret_bytes = bytes;
	return 0;
}

static void list_disks(struct machine *machine, struct disk_list *ret_list)
{
	unsigned n = history_disks(machine->history, ret_list->disks, HISTORY_MAX_DISKS);
	ret_list->count = MIN(n, (unsigned)HISTORY_MAX_DISKS);
}

static int find_disk(struct machine *machine, const struct node *dir, const char *file_name,
	struct node *ret_node)
{
	struct disk_list list;
	list_disks(machine, &list);
	for (unsigned i = 0; i < list.count; i++) {
		const char *inside = name_inside(machine, &list.disks[i]);
		if (!inside || !is_file_of(file_name, inside) ||
			bytes_in(machine, dir, &list.disks[i]) == 0)
			continue;
		*ret_node =
			child_of(dir, dir->kind == NODE_LIVE ? NODE_LIVE_FILE : NODE_POINT_FILE);
		ret_node->disk = list.disks[i].id;
		return 0;
	}
	return -ENOENT;
}

static int next_disk(struct machine *machine, const struct node *dir, uint64_t after,
	struct dir_entry *ret_entry)
{
	struct disk_list list;
	list_disks(machine, &list);
	for (unsigned i = 0; i < list.count; i++) {
		const struct history_disk *disk = &list.disks[i];
		if (disk->id <= after || bytes_in(machine, dir, disk) == 0)
			continue;
		snprintf(ret_entry->name, sizeof(ret_entry->name), "%s" SUFFIX,
			name_inside(machine, disk));
		ret_entry->node =
			child_of(dir, dir->kind == NODE_LIVE ? NODE_LIVE_FILE : NODE_POINT_FILE);
		ret_entry->node.disk = disk->id;
		ret_entry->key = disk->id;
		return 0;
	}
	return -ENOENT;
}

/* ── points ──────────────────────────────────────────────────────────────────────────────── */

static int find_point(
	struct machine *machine, const struct node *dir, const char *name, struct node *ret_node)
{
	struct point point;
	uint64_t number;
	int64_t time_ns;
	char canonical[POINT_NAME_BYTES];
	if (strcmp(name, "latest") == 0) {
		if (history_point_latest(machine->history, INT64_MAX, &point) < 0)
			return -ENOENT;
		*ret_node = child_of(dir, NODE_LATEST);
		return 0;
	}
	if (point_parse_name(name, &number, &time_ns) < 0 || number > UINT32_MAX ||
		history_point(machine->history, number, &point) < 0)
		return -ENOENT;
	/* One name a point: neither another time nor leading zeros. */
	point_format_name(&point, canonical);
	if (strcmp(name, canonical) != 0)
		return -ENOENT;
	*ret_node = child_of(dir, NODE_POINT);
	ret_node->number = (uint32_t)number;
	return 0;
}

/* "latest" has the first key, point n has n + 1. */
static int next_point(struct machine *machine, const struct node *dir, uint64_t after,
	struct dir_entry *ret_entry)
{
	struct point point;
	if (after < KEY_LATEST) {
		if (history_point_latest(machine->history, INT64_MAX, &point) < 0)
			return -ENOENT;
		strcpy(ret_entry->name, "latest");
		ret_entry->node = child_of(dir, NODE_LATEST);
		ret_entry->key = KEY_LATEST;
		return 0;
	}
	if (history_points(machine->history, after, &point, 1) == 0 || point.number > UINT32_MAX)
		return -ENOENT;
	point_format_name(&point, ret_entry->name);
	ret_entry->node = child_of(dir, NODE_POINT);
	ret_entry->node.number = (uint32_t)point.number;
	ret_entry->key = point.number + 1;
	return 0;
}

int tree_readlink(struct mount *mount, const struct node *node, char ret_name[static 64])
{
	struct machine *machine;
	if (node->kind != NODE_LATEST)
		return -EINVAL;
	int r = machine_get(mount, node->machine, &machine);
	if (r < 0)
		return r;
	struct point point;
	r = history_point_latest(machine->history, INT64_MAX, &point);
	machine_put(mount, machine);
	if (r == 0)
		point_format_name(&point, ret_name);
	return r;
}

/* ── clones ──────────────────────────────────────────────────────────────────────────────── */

static int find_clone(struct mount *mount, struct machine *machine, const struct node *dir,
	const char *name, struct node *ret_node)
{
	SCOPED_LOCK(&mount->lock);
	const struct clone_entry *c = clone_find_named_locked(machine, name);
	if (!c)
		return -ENOENT;
	*ret_node = child_of(dir, NODE_CLONE);
	ret_node->number = c->serial;
	return 0;
}

static int next_clone(struct mount *mount, struct machine *machine, const struct node *dir,
	uint64_t after, struct dir_entry *ret_entry)
{
	SCOPED_LOCK(&mount->lock);
	const struct clone_entry *c = clone_next_locked(machine, (uint32_t)after);
	if (!c)
		return -ENOENT;
	strcpy(ret_entry->name, c->name);
	ret_entry->node = child_of(dir, NODE_CLONE);
	ret_entry->node.number = c->serial;
	ret_entry->key = c->serial;
	return 0;
}

/* The clone's first disk with an id above `after`, and with that name unless it is NULL. */
static int find_clone_disk(struct mount *mount, struct machine *machine, const struct node *dir,
	uint64_t after, const char *file_name, struct dir_entry *ret_entry)
{
	SCOPED_LOCK(&mount->lock);
	const struct clone_entry *c = clone_find_locked(machine, dir->number);
	if (!c)
		return -ESTALE;
	for (unsigned i = 0; i < c->disk_count; i++) {
		const struct clone_disk_entry *d = &c->disks[i];
		if (d->id <= after || (file_name && !is_file_of(file_name, d->name)))
			continue;
		snprintf(ret_entry->name, sizeof(ret_entry->name), "%s" SUFFIX, d->name);
		ret_entry->node = child_of(dir, NODE_CLONE_FILE);
		ret_entry->node.disk = d->id;
		ret_entry->key = d->id;
		return 0;
	}
	return -ENOENT;
}

static int stat_clone(struct mount *mount, struct machine *machine, const struct node *node,
	uint64_t *ret_bytes, int64_t *ret_time_ns)
{
	SCOPED_LOCK(&mount->lock);
	const struct clone_entry *c = clone_find_locked(machine, node->number);
	if (!c)
		return -ESTALE;
	*ret_time_ns = atomic_load(&c->modified_ns);
	for (unsigned i = 0; i < c->disk_count; i++) {
		if (c->disks[i].id == node->disk)
			*ret_bytes = c->disks[i].bytes;
	}
	return 0;
}

/* ── lookup and listing ──────────────────────────────────────────────────────────────────── */

static int lookup_section(const struct node *parent, const char *name, struct node *ret_node)
{
	if (strcmp(name, "live") == 0)
		*ret_node = child_of(parent, NODE_LIVE);
	else if (strcmp(name, "points") == 0)
		*ret_node = child_of(parent, NODE_POINTS);
	else if (strcmp(name, "clones") == 0)
		*ret_node = child_of(parent, NODE_CLONES);
	else
		return -ENOENT;
	return 0;
}

static int lookup_inside(struct mount *mount, struct machine *machine, const struct node *parent,
	const char *name, struct node *ret_node)
{
	struct dir_entry entry;
	int r;
	switch (parent->kind) {
	case NODE_MACHINE:
		return lookup_section(parent, name, ret_node);
	case NODE_LIVE:
	case NODE_POINT:
		return find_disk(machine, parent, name, ret_node);
	case NODE_POINTS:
		return find_point(machine, parent, name, ret_node);
	case NODE_CLONES:
		return find_clone(mount, machine, parent, name, ret_node);
	case NODE_CLONE:
		r = find_clone_disk(mount, machine, parent, 0, name, &entry);
		if (r == 0)
			*ret_node = entry.node;
		return r;
	default:
		return -ENOTDIR;
	}
}

int tree_lookup(
	struct mount *mount, const struct node *parent, const char *name, struct node *ret_node)
{
	struct machine *machine;
	if (parent->kind == NODE_ROOT) {
		int r = machine_get_named(mount, name, &machine);
		if (r < 0)
			return r;
		*ret_node = (struct node){ .kind = NODE_MACHINE, .machine = machine->serial };
		machine_put(mount, machine);
		return 0;
	}
	int r = machine_get(mount, parent->machine, &machine);
	if (r < 0)
		return r;
	r = lookup_inside(mount, machine, parent, name, ret_node);
	machine_put(mount, machine);
	return r;
}

static int next_section(const struct node *parent, uint64_t after, struct dir_entry *ret_entry)
{
	static const char *const names[] = { "live", "points", "clones" };
	static const enum node_kind kinds[] = { NODE_LIVE, NODE_POINTS, NODE_CLONES };
	if (after >= ARRAY_SIZE(names))
		return -ENOENT;
	strcpy(ret_entry->name, names[after]);
	ret_entry->node = child_of(parent, kinds[after]);
	ret_entry->key = after + 1;
	return 0;
}

static int next_inside(struct mount *mount, struct machine *machine, const struct node *parent,
	uint64_t after, struct dir_entry *ret_entry)
{
	switch (parent->kind) {
	case NODE_MACHINE:
		return next_section(parent, after, ret_entry);
	case NODE_LIVE:
	case NODE_POINT:
		return next_disk(machine, parent, after, ret_entry);
	case NODE_POINTS:
		return next_point(machine, parent, after, ret_entry);
	case NODE_CLONES:
		return next_clone(mount, machine, parent, after, ret_entry);
	case NODE_CLONE:
		return find_clone_disk(mount, machine, parent, after, NULL, ret_entry);
	default:
		return -ENOTDIR;
	}
}

int tree_next(
	struct mount *mount, const struct node *parent, uint64_t after, struct dir_entry *ret_entry)
{
	struct machine *machine;
	bool is_root = parent->kind == NODE_ROOT;
	int r = is_root ? machine_get_next(mount, (uint16_t)MIN(after, 0xffffull), &machine)
			: machine_get(mount, parent->machine, &machine);
	if (r < 0)
		return r;
	if (is_root) {
		strcpy(ret_entry->name, machine->name);
		ret_entry->node = (struct node){ .kind = NODE_MACHINE, .machine = machine->serial };
		ret_entry->key = machine->serial;
	} else {
		r = next_inside(mount, machine, parent, after, ret_entry);
	}
	machine_put(mount, machine);
	return r;
}

/* ── attributes ──────────────────────────────────────────────────────────────────────────── */

/* The live content's time: when it was last seen to have changed. What the journal writes for
 * itself is no change: a time that somebody has set stays until somebody writes. */
static int64_t live_time(struct mount *mount, struct machine *machine)
{
	uint64_t changes = history_changes(machine->history);
	SCOPED_LOCK(&mount->lock);
	if (changes > machine->seen_changes) {
		machine->seen_changes = changes;
		machine->changed_ns = clock_realtime_ns(clock_system());
	}
	return machine->changed_ns;
}

/* Size (0: a directory) and time of a node inside the machine. */
static int measure(struct mount *mount, struct machine *machine, const struct node *node,
	uint64_t *ret_bytes, int64_t *ret_time_ns)
{
	struct point point;
	struct node dir = *node;
	switch (node->kind) {
	case NODE_LIVE_FILE:
		*ret_time_ns = live_time(mount, machine);
		dir.kind = NODE_LIVE;
		return disk_bytes(machine, &dir, node->disk, ret_bytes);
	case NODE_POINT:
	case NODE_POINT_FILE:
		if (history_point(machine->history, node->number, &point) < 0)
			return -ESTALE;
		*ret_time_ns = point.time_ns;
		dir.kind = NODE_POINT;
		return node->kind == NODE_POINT ? 0
						: disk_bytes(machine, &dir, node->disk, ret_bytes);
	case NODE_POINTS:
	case NODE_LATEST:
		if (history_point_latest(machine->history, INT64_MAX, &point) == 0)
			*ret_time_ns = point.time_ns;
		return 0;
	case NODE_CLONE:
	case NODE_CLONE_FILE:
		return stat_clone(mount, machine, node, ret_bytes, ret_time_ns);
	default:
		return 0;
	}
}

static mode_t mode_of(const struct machine *machine, enum node_kind kind)
{
	switch (kind) {
	case NODE_LIVE_FILE:
		return S_IFREG | (machine->writable ? 0640 : 0440);
	case NODE_POINT_FILE:
		return S_IFREG | 0440;
	case NODE_CLONE_FILE:
		return S_IFREG | 0640;
	case NODE_LATEST:
		return S_IFLNK | 0777;
	default:
		return S_IFDIR | 0555;
	}
}

int tree_stat_own(struct mount *mount, const struct node *node, struct stat *ret_stat)
{
	int64_t time_ns = mount->started_ns;
	uint64_t bytes = 0;
	mode_t mode = S_IFDIR | 0555;
	if (node->kind != NODE_ROOT) {
		struct machine *machine;
		int r = machine_get(mount, node->machine, &machine);
		if (r < 0)
			return r;
		r = measure(mount, machine, node, &bytes, &time_ns);
		mode = mode_of(machine, node->kind);
		machine_put(mount, machine);
		/* What is open can be seen, though its point may be gone, as it was opened. */
		uint64_t open_bytes = S_ISREG(mode) ? file_open_size(mount, node_ino(node)) : 0;
		if (open_bytes > 0)
			bytes = open_bytes - VHD_FOOTER_BYTES;
		else if (r < 0)
			return r;
	}
	struct stat st = {
		.st_ino = node_ino(node),
		.st_mode = mode,
		.st_nlink = S_ISDIR(mode) ? 2 : 1,
		.st_uid = geteuid(),
		.st_gid = getegid(),
		.st_blksize = 4096,
		.st_size = S_ISREG(mode) ? (off_t)(bytes + VHD_FOOTER_BYTES) : 0,
	};
	st.st_blocks = (st.st_size + SECTOR_BYTES - 1) / SECTOR_BYTES;
	st.st_mtim.tv_sec = time_ns / NS_PER_S;
	st.st_mtim.tv_nsec = (long)(time_ns % NS_PER_S);
	st.st_atim = st.st_ctim = st.st_mtim;
	*ret_stat = st;
	return 0;
}

int tree_stat(struct mount *mount, const struct node *node, struct stat *ret_stat)
{
	struct machine *machine;
	struct stat st;
	int r = tree_stat_own(mount, node, &st);
	if (r < 0)
		return r;
	if (S_ISREG(st.st_mode) && machine_get(mount, node->machine, &machine) == 0) {
		attributes_apply(mount, machine, node_ino(node), &st);
		machine_put(mount, machine);
	}
	*ret_stat = st;
	return 0;
}
