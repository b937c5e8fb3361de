/*
 * The stacks of stores, top to bottom:
 *
 *	live     vhd ─ parts ─ head of the history, written through the committer
 *	point    vhd ─ view of the point, owned
 *	clone    vhd ─ the clone's overlay over its view
 *
 * Below all of them the history reads the vault through the base it was opened with (the read
 * cache over the page blobs). Each lower store is a few lines that turn bytes into sectors; the
 * layers themselves are in their own files.
 *
 * The footer is the same for a disk wherever it shows up (vhd_disk_id, and 2000-01-01 as its
 * time), so that whole files compare equal. Stores hold no mutable state but the parts: any
 * thread, several at once.
 */
#include "fs/stack.h"

#include <errno.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/clone.h"
#include "fs/parts.h"
#include "fs/vhd.h"

/* The kernel sends a larger write in requests of so many pages; one from a buffer that does not
 * begin at a page is short by less than a page. */
#define CUT_BYTES (MIB - 4 * KIB)

struct disk_store {
	struct store store;
	uint16_t disk;
	struct committer *committer; /* borrowed: live */
	struct view *view;           /* owned: point */
	struct clone *clone;         /* borrowed: clone */
};

static struct disk_store *disk_of(struct store *store)
{
	return CONTAINER_OF(store, struct disk_store, store);
}

static uint64_t lba_of(uint64_t offset)
{
	return offset / SECTOR_BYTES;
}

static void disk_free(struct store *store)
{
	struct disk_store *d = disk_of(store);
	if (d->view)
		view_close(d->view);
	free(d);
}

static int refuse_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	(void)store, (void)offset, (void)data, (void)n;
	return -EROFS;
}

static int refuse_zero(struct store *store, uint64_t offset, uint64_t n)
{
	(void)store, (void)offset, (void)n;
	return -EROFS;
}

static int flush_nothing(struct store *store)
{
	(void)store;
	return 0;
}

static int live_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	return history_read(committer_history(d->committer), d->disk, lba_of(offset),
		(uint32_t)lba_of(n), data);
}

static int live_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	uint64_t lsn;
	return committer_write_admitted(
		d->committer, d->disk, lba_of(offset), lba_of(n), data, &lsn);
}

static int live_zero(struct store *store, uint64_t offset, uint64_t n)
{
	struct disk_store *d = disk_of(store);
	uint64_t lsn;
	return committer_zero_admitted(d->committer, d->disk, lba_of(offset), lba_of(n), &lsn);
}

static int live_room(struct store *store, uint64_t bytes, bool refused)
{
	struct committer *committer = disk_of(store)->committer;
	return refused ? committer_wait_for_room(committer, bytes)
		       : committer_room(committer, bytes);
}

static int live_read_near(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	return history_read_near(committer_history(d->committer), d->disk, lba_of(offset),
		(uint32_t)lba_of(n), data);
}

static int live_write_late(struct store *store, uint64_t offset, const void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	uint64_t lsn;
	return committer_write_late(d->committer, d->disk, lba_of(offset), lba_of(n), data, &lsn);
}

static int live_flush(struct store *store)
{
	return committer_sync(disk_of(store)->committer);
}

static int point_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	return view_read(d->view, d->disk, lba_of(offset), (uint32_t)lba_of(n), data);
}

static int branch_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	return clone_read(d->clone, d->disk, lba_of(offset), (uint32_t)lba_of(n), data);
}

static int branch_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	struct disk_store *d = disk_of(store);
	return clone_write(d->clone, d->disk, lba_of(offset), (uint32_t)lba_of(n), data);
}

static int branch_zero(struct store *store, uint64_t offset, uint64_t n)
{
	struct disk_store *d = disk_of(store);
	return clone_zero(d->clone, d->disk, lba_of(offset), lba_of(n));
}

static int branch_flush(struct store *store)
{
	return clone_flush(disk_of(store)->clone);
}

/* Puts the footer behind a copy of `model`, which is taken over on success. */
static int add_footer(
	const struct disk_store *model, struct history *history, struct store **ret_store)
{
	struct history_disk info;
	int r = history_disk(history, model->disk, &info);
	if (r < 0)
		return r;
	struct uuid id;
	vhd_disk_id(history_group(history), info.name, &id);
	CLEANUP_FREE struct disk_store *d = malloc(sizeof(*d));
	if (!d)
		return -ENOMEM;
	*d = *model;
	r = vhd_store_new(&d->store, &id, 0, ret_store);
	if (r < 0)
		return r;
	TAKE(d);
	return 0;
}

/* The parts of a disk that is written here. They stay with the committer when the file is closed,
 * because what they hold was acknowledged. */
static int parts_of_live(const struct disk_store *model, struct parts **ret_parts)
{
	struct parts *parts = committer_parts(model->committer, model->disk);
	if (!parts) {
		CLEANUP_FREE struct disk_store *d = malloc(sizeof(*d));
		if (!d)
			return -ENOMEM;
		*d = *model;
		struct parts *mine;
		int r = parts_new(&d->store, CUT_BYTES, &mine);
		if (r < 0)
			return r;
		TAKE(d);
		parts = committer_add_parts(model->committer, model->disk, mine);
		if (!parts) {
			parts_unref(mine);
			return -ENOMEM;
		}
	}
	*ret_parts = parts;
	return 0;
}

int stack_live_new(
	struct committer *committer, uint16_t disk, bool writable, struct store **ret_store)
{
	static const struct store_ops ops = {
		.read = live_read,
		.write = live_write,
		.zero = live_zero,
		.flush = live_flush,
		.read_near = live_read_near,
		.write_late = live_write_late,
		.room = live_room,
		.free = disk_free,
	};
	static const struct store_ops read_only = {
		.read = live_read,
		.write = refuse_write,
		.zero = refuse_zero,
		.flush = live_flush,
		.free = disk_free,
	};
	struct history *history = committer_history(committer);
	struct history_disk info;
	int r = history_disk(history, disk, &info);
	if (r < 0)
		return r;
	if (info.removed)
		return -ENOENT;
	struct disk_store d = {
		.store = { writable ? &ops : &read_only, info.size_bytes, writable },
		.disk = disk,
		.committer = committer,
	};
	if (!writable)
		return add_footer(&d, history, ret_store);
	struct parts *parts;
	r = parts_of_live(&d, &parts);
	if (r < 0)
		return r;
	struct uuid id;
	vhd_disk_id(history_group(history), info.name, &id);
	return vhd_store_over(parts, info.size_bytes, true, &id, 0, ret_store);
}

int stack_point_new(
	struct history *history, uint64_t number, uint16_t disk, struct store **ret_store)
{
	static const struct store_ops ops = {
		.read = point_read,
		.write = refuse_write,
		.zero = refuse_zero,
		.flush = flush_nothing,
		.free = disk_free,
	};
	struct view *view;
	int r = history_view_open(history, number, &view);
	if (r < 0)
		return r;
	struct disk_store d = {
		.store = { &ops, view_disk_bytes(view, disk), false },
		.disk = disk,
		.view = view,
	};
	r = d.store.size_bytes == 0 ? -ENOENT : add_footer(&d, history, ret_store);
	if (r < 0)
		view_close(view);
	return r;
}

int stack_clone_new(struct clone *clone, uint16_t disk, struct store **ret_store)
{
	static const struct store_ops ops = {
		.read = branch_read,
		.write = branch_write,
		.zero = branch_zero,
		.flush = branch_flush,
		.free = disk_free,
	};
	struct disk_store d = {
		.store = { &ops, view_disk_bytes(clone_view(clone), disk), true },
		.disk = disk,
		.clone = clone,
	};
	if (d.store.size_bytes == 0)
		return -ENOENT;
	return add_footer(&d, clone_history(clone), ret_store);
}
