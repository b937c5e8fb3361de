/*
 * Open files: one store for each inode that is open, shared by all who have it open and closed
 * at the last release.
 *
 * Opening a point may take a while (its view is merged), so it runs without the lock; others who
 * open the same file wait for the outcome. Requests go straight to their file, by two atomics:
 * `busy` is raised before `gone` is read, and whoever sets `gone` reads `busy` after, so either
 * the request sees that the file is gone or the remover sees the request.
 */
#include "fs/mount_internal.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/stack.h"
#include "fs/vhd.h"

static struct open_file **bucket_of(struct mount *mount, fuse_ino_t ino)
{
	uint64_t mixed = ino * 0x9e3779b97f4a7c15ull;
	return &mount->files[(mixed >> 32) % MOUNT_FILE_BUCKETS];
}

/* Not one that is gone: its number may mean another file by now. */
static struct open_file *find_locked(struct mount *mount, fuse_ino_t ino)
{
	struct open_file *f = *bucket_of(mount, ino);
	while (f && (f->ino != ino || atomic_load(&f->gone)))
		f = f->next;
	return f;
}

static void unlink_locked(struct open_file *file)
{
	struct open_file **link = bucket_of(file->mount, file->ino);
	while (*link != file)
		link = &(*link)->next;
	*link = file->next;
}

/* Builds the file's stack. The machine is held by the caller, the clone by the file's being in
 * the table. */
static int open_store(const struct open_file *file, struct store **ret_store)
{
	const struct node *node = &file->node;
	switch (node->kind) {
	case NODE_LIVE_FILE:
		return stack_live_new(
			file->machine->committer, node->disk, file->machine->writable, ret_store);
	case NODE_POINT_FILE:
		return stack_point_new(file->machine->history, node->number, node->disk, ret_store);
	case NODE_CLONE_FILE:
		return stack_clone_new(file->clone->clone, node->disk, ret_store);
	default:
		return -EISDIR;
	}
}

/* Enters a file that is about to be opened. */
static int insert_locked(
	struct mount *mount, struct machine *machine, fuse_ino_t ino, struct open_file **ret_file)
{
	struct node node = node_of(ino);
	struct clone_entry *clone = NULL;
	if (node.kind == NODE_CLONE_FILE) {
		clone = clone_find_locked(machine, node.number);
		if (!clone)
			return -ESTALE;
	}
	struct open_file *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->mount = mount;
	f->ino = ino;
	f->node = node;
	f->machine = machine;
	f->clone = clone;
	f->writes = node.kind == NODE_LIVE_FILE ? &machine->gate->gate : NULL;
	f->opening = true;
	f->refs = 1;
	struct open_file **bucket = bucket_of(mount, ino);
	f->next = *bucket;
	*bucket = f;
	*ret_file = f;
	return 0;
}

/* Finds the open file, or enters one that the caller has to open (`ret_mine`). */
static int find_or_insert(struct mount *mount, struct machine *machine, fuse_ino_t ino,
	struct open_file **ret_file, bool *ret_mine)
{
	SCOPED_LOCK(&mount->lock);
	struct open_file *f;
	while ((f = find_locked(mount, ino)) && f->opening)
		pthread_cond_wait(&mount->changed, &mount->lock);
	*ret_mine = !f;
	if (!f)
		return insert_locked(mount, machine, ino, ret_file);
	f->refs++;
	*ret_file = f;
	return 0;
}

/* Opens the entered file; if that fails it is taken out again. */
static int finish_opening(struct mount *mount, struct open_file *file)
{
	struct store *store = NULL;
	int r = open_store(file, &store);
	SCOPED_LOCK(&mount->lock);
	if (r == 0) {
		file->store = store;
		file->size_bytes = store->size_bytes;
		file->writable = store->writable;
	} else {
		unlink_locked(file);
	}
	file->opening = false;
	pthread_cond_broadcast(&mount->changed);
	if (r < 0)
		free(file);
	return r;
}

int file_open(struct mount *mount, fuse_ino_t ino, bool for_writing, struct open_file **ret_file)
{
	struct node node = node_of(ino);
	struct machine *machine;
	int r = machine_get(mount, node.machine, &machine);
	if (r < 0)
		return r;
	struct open_file *file = NULL;
	bool mine = false;
	if (for_writing && node.kind == NODE_LIVE_FILE && !machine->writable)
		r = -EROFS;
	if (for_writing && node.kind == NODE_POINT_FILE)
		r = -EROFS;
	if (r == 0)
		r = find_or_insert(mount, machine, ino, &file, &mine);
	if (r == 0 && mine)
		r = finish_opening(mount, file);
	machine_put(mount, machine);
	if (r == 0)
		*ret_file = file;
	return r;
}

void file_release(struct open_file *file)
{
	struct mount *mount = file->mount;
	struct store *store = NULL;
	pthread_mutex_lock(&mount->lock);
	bool last = --file->refs == 0;
	if (last) {
		unlink_locked(file);
		store = TAKE(file->store);
	}
	if (last && file->machine)
		file->machine->busy++; /* its history outlives the store */
	pthread_mutex_unlock(&mount->lock);
	if (!last)
		return;
	store_free(store);
	if (file->machine)
		machine_put(mount, file->machine);
	free(file);
}

int file_enter(struct open_file *file)
{
	atomic_fetch_add(&file->busy, 1);
	if (!atomic_load(&file->gone))
		return 0;
	file_leave(file);
	return -EIO;
}

void file_leave(struct open_file *file)
{
	/* Once the count is down a remover may go on, but not free the file: the request that is
	 * being answered keeps it open. */
	if (atomic_fetch_sub(&file->busy, 1) != 1 || !atomic_load(&file->gone))
		return;
	SCOPED_LOCK(&file->mount->lock);
	pthread_cond_broadcast(&file->mount->changed);
}

int file_empty(struct mount *mount, fuse_ino_t ino)
{
	struct open_file *file;
	int r = file_open(mount, ino, true, &file);
	if (r < 0)
		return r;
	r = file_enter(file);
	if (r == 0) {
		r = store_zero(file->store, 0, file->size_bytes - VHD_FOOTER_BYTES);
		file_leave(file);
	}
	file_release(file);
	return r;
}

uint64_t file_open_size(struct mount *mount, fuse_ino_t ino)
{
	SCOPED_LOCK(&mount->lock);
	struct open_file *f = find_locked(mount, ino);
	return f ? f->size_bytes : 0;
}

bool files_use_clone_locked(struct mount *mount, const struct clone_entry *clone)
{
	for (unsigned i = 0; i < MOUNT_FILE_BUCKETS; i++) {
		for (struct open_file *f = mount->files[i]; f; f = f->next) {
			if (f->clone == clone)
				return true;
		}
	}
	return false;
}

/* An open file of the machine that is not yet abandoned, or NULL. */
static struct open_file *next_of_machine_locked(struct mount *mount, struct machine *machine)
{
	for (unsigned i = 0; i < MOUNT_FILE_BUCKETS; i++) {
		for (struct open_file *f = mount->files[i]; f; f = f->next) {
			if (f->machine == machine)
				return f;
		}
	}
	return NULL;
}

void files_abandon(struct mount *mount, struct machine *machine)
{
	SCOPED_LOCK(&mount->lock);
	struct open_file *f;
	while ((f = next_of_machine_locked(mount, machine))) {
		f->refs++; /* stays while we wait */
		atomic_store(&f->gone, true);
		while (atomic_load(&f->busy) > 0)
			pthread_cond_wait(&mount->changed, &mount->lock);
		struct store *store = TAKE(f->store);
		f->machine = NULL;
		f->clone = NULL;
		pthread_mutex_unlock(&mount->lock);
		store_free(store);
		file_release(f);
		pthread_mutex_lock(&mount->lock);
	}
	/* A last release that was under way holds the machine. */
	while (machine->busy > 0)
		pthread_cond_wait(&mount->changed, &mount->lock);
}

void files_free_all(struct mount *mount)
{
	for (unsigned i = 0; i < MOUNT_FILE_BUCKETS; i++) {
		while (mount->files[i]) {
			struct open_file *f = mount->files[i];
			mount->files[i] = f->next;
			store_free(f->store);
			free(f);
		}
	}
}
