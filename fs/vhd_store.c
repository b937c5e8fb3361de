/*
 * A disk with its footer behind it. What is not whole sectors of the disk is the parts' business
 * (parts.h); here is what the footer's bytes are, and which writes to them are let be.
 */
#include "fs/vhd.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/parts.h"

struct vhd_store {
	struct store store;
	uint64_t disk_bytes;
	struct parts *parts; /* counted */
	uint8_t footer[VHD_FOOTER_BYTES];
};

static struct vhd_store *vhd_of(struct store *store)
{
	return CONTAINER_OF(store, struct vhd_store, store);
}

static int vhd_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct vhd_store *vhd = vhd_of(store);
	uint64_t disk_bytes = vhd->disk_bytes;
	if (offset > store->size_bytes || n > store->size_bytes - offset)
		return -EINVAL;
	size_t from_disk = offset < disk_bytes ? (size_t)MIN((uint64_t)n, disk_bytes - offset) : 0;
	if (from_disk > 0) {
		int r = parts_read(vhd->parts, offset, data, from_disk);
		if (r < 0)
			return r;
	}
	if (from_disk < n)
		memcpy((uint8_t *)data + from_disk, vhd->footer + (offset + from_disk - disk_bytes),
			n - from_disk);
	return 0;
}

/* Whether these bytes (NULL: zeros) may be "written" at `at` of the footer: only if they change
 * nothing, or are the whole footer of a fixed VHD of the same size, as a copying tool makes it. */
static int check_footer_write(struct vhd_store *vhd, uint64_t at, const uint8_t *data, uint64_t n)
{
	static const uint8_t zeros[VHD_FOOTER_BYTES];
	const uint8_t *bytes = data ? data : zeros;
	if (memcmp(vhd->footer + at, bytes, (size_t)n) == 0)
		return 0;
	uint64_t disk_bytes;
	struct uuid id;
	if (n == VHD_FOOTER_BYTES && vhd_footer_parse(bytes, &disk_bytes, &id) == 0 &&
		disk_bytes == vhd->disk_bytes)
		return 0;
	return -EPERM;
}

/* Everything is checked before anything is stored. `data` NULL: zeros. */
static int write_or_zero(struct vhd_store *vhd, uint64_t offset, const uint8_t *data, uint64_t n)
{
	uint64_t disk_bytes = vhd->disk_bytes;
	if (!vhd->store.writable)
		return -EROFS;
	if (offset > vhd->store.size_bytes || n > vhd->store.size_bytes - offset)
		return -ENOSPC;
	if (n == 0)
		return 0;
	uint64_t to_disk = offset < disk_bytes ? MIN(n, disk_bytes - offset) : 0;
	if (to_disk < n) {
		int r = check_footer_write(vhd, offset + to_disk - disk_bytes,
			data ? data + to_disk : NULL, n - to_disk);
		if (r < 0)
			return r;
	}
	if (to_disk == 0)
		return 0;
	return data ? parts_write(vhd->parts, offset, data, (size_t)to_disk)
		    : parts_zero(vhd->parts, offset, to_disk);
}

static int vhd_write(struct store *store, uint64_t offset, const void *data, size_t n)
{
	return write_or_zero(vhd_of(store), offset, data, n);
}

static int vhd_zero(struct store *store, uint64_t offset, uint64_t n)
{
	return write_or_zero(vhd_of(store), offset, NULL, n);
}

static int vhd_flush(struct store *store)
{
	return parts_flush(vhd_of(store)->parts);
}

static void vhd_free(struct store *store)
{
	struct vhd_store *vhd = vhd_of(store);
	parts_unref(vhd->parts);
	free(vhd);
}

int vhd_store_over(struct parts *parts, uint64_t disk_bytes, bool writable, const struct uuid *id,
	int64_t time_ns, struct store **ret_store)
{
	static const struct store_ops ops = {
		.read = vhd_read,
		.write = vhd_write,
		.zero = vhd_zero,
		.flush = vhd_flush,
		.free = vhd_free,
	};
	CLEANUP_FREE struct vhd_store *vhd = calloc(1, sizeof(*vhd));
	if (!vhd)
		return -ENOMEM;
	int r = vhd_footer_format(disk_bytes, id, time_ns, vhd->footer);
	if (r < 0)
		return r;
	vhd->store = (struct store){
		.ops = &ops,
		.size_bytes = disk_bytes + VHD_FOOTER_BYTES,
		.writable = writable,
	};
	vhd->disk_bytes = disk_bytes;
	vhd->parts = parts_ref(parts);
	struct vhd_store *done = TAKE(vhd);
	*ret_store = &done->store;
	return 0;
}

int vhd_store_new(
	struct store *disk, const struct uuid *id, int64_t time_ns, struct store **ret_store)
{
	int r = vhd_check_size(disk->size_bytes);
	if (r < 0)
		return r;
	struct parts *parts;
	r = parts_new(disk, 0, &parts);
	if (r < 0)
		return r;
	r = vhd_store_over(parts, disk->size_bytes, disk->writable, id, time_ns, ret_store);
	if (r == 0)
		parts_unref(parts);
	else
		parts_abandon(parts);
	return r;
}
