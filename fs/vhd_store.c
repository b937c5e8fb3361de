/*
 * A disk with its footer behind it, at any alignment.
 *
 * The disk below takes whole sectors. What is not whole at either end is read, merged and written
 * back; between the reading and the writing back nobody else may write that sector, or one of two
 * finished writes would be undone. So writes take locks, one for each stripe of the disk: an
 * aligned write (nearly all of them) shares it, a merging one has it alone. Reads take none.
 *
 * Locks: `stripes`, taken by rising index; they are held across the writes and reads below, which
 * may wait for room in the journal or for the vault. A stripe's waiters wait for the same.
 */
#include "fs/vhd.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define STRIPE_BYTES (4 * MIB)
#define STRIPES 16u

struct vhd_store {
	struct store store;
	struct store *disk; /* owned */
	uint8_t footer[VHD_FOOTER_BYTES];
	pthread_rwlock_t stripes[STRIPES];
};

static struct vhd_store *vhd_of(struct store *store)
{
	return CONTAINER_OF(store, struct vhd_store, store);
}

/* The stripes that [offset, offset + n) touches, as a bit set. */
static uint32_t stripes_of(uint64_t offset, uint64_t n)
{
	uint64_t first = offset / STRIPE_BYTES;
	uint64_t last = (offset + n - 1) / STRIPE_BYTES;
	if (last - first >= STRIPES - 1)
		return (1u << STRIPES) - 1;
	uint32_t set = 0;
	for (uint64_t i = first; i <= last; i++)
		set |= 1u << (i % STRIPES);
	return set;
}

static void lock_stripes(struct vhd_store *vhd, uint32_t set, bool alone)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		if (!(set & 1u << i))
			continue;
		if (alone)
			pthread_rwlock_wrlock(&vhd->stripes[i]);
		else
			pthread_rwlock_rdlock(&vhd->stripes[i]);
	}
}

static void unlock_stripes(struct vhd_store *vhd, uint32_t set)
{
	for (unsigned i = 0; i < STRIPES; i++) {
		if (set & 1u << i)
			pthread_rwlock_unlock(&vhd->stripes[i]);
	}
}

/* Reads n bytes inside one sector of the disk. */
static int read_piece(struct vhd_store *vhd, uint64_t offset, void *data, size_t n)
{
	uint8_t sector[SECTOR_BYTES];
	uint64_t start = round_down(offset, SECTOR_BYTES);
	int r = store_read(vhd->disk, start, sector, sizeof(sector));
	if (r < 0)
		return r;
	memcpy(data, sector + (offset - start), n);
	return 0;
}

/* Reads n bytes of the disk, of any alignment. */
static int read_disk(struct vhd_store *vhd, uint64_t offset, uint8_t *data, size_t n)
{
	uint64_t inside = offset % SECTOR_BYTES;
	if (inside != 0) {
		size_t head = (size_t)MIN((uint64_t)n, SECTOR_BYTES - inside);
		int r = read_piece(vhd, offset, data, head);
		if (r < 0)
			return r;
		offset += head, data += head, n -= head;
	}
	size_t whole = (size_t)round_down(n, SECTOR_BYTES);
	if (whole > 0) {
		int r = store_read(vhd->disk, offset, data, whole);
		if (r < 0)
			return r;
	}
	if (n == whole)
		return 0;
	return read_piece(vhd, offset + whole, data + whole, n - whole);
}

static int vhd_read(struct store *store, uint64_t offset, void *data, size_t n)
{
	struct vhd_store *vhd = vhd_of(store);
	uint64_t disk_bytes = vhd->disk->size_bytes;
	if (offset > store->size_bytes || n > store->size_bytes - offset)
		return -EINVAL;
	size_t from_disk = offset < disk_bytes ? (size_t)MIN((uint64_t)n, disk_bytes - offset) : 0;
	if (from_disk > 0) {
		int r = read_disk(vhd, offset, data, from_disk);
		if (r < 0)
			return r;
	}
	if (from_disk < n)
		memcpy((uint8_t *)data + from_disk, vhd->footer + (offset + from_disk - disk_bytes),
			n - from_disk);
	return 0;
}

/* Makes `span`, the whole sectors around [offset, offset + n), of what is on the disk at its ends
 * and `data` between. */
static int merge(struct vhd_store *vhd, uint64_t offset, const uint8_t *data, size_t n,
	uint8_t *span, size_t span_n)
{
	size_t before = (size_t)(offset % SECTOR_BYTES);
	size_t after = span_n - before - n;
	uint64_t start = offset - before;
	size_t last = span_n - SECTOR_BYTES;
	if (before > 0 || span_n == SECTOR_BYTES) {
		int r = store_read(vhd->disk, start, span, SECTOR_BYTES);
		if (r < 0)
			return r;
	}
	if (after > 0 && last > 0) {
		int r = store_read(vhd->disk, start + last, span + last, SECTOR_BYTES);
		if (r < 0)
			return r;
	}
	memcpy(span + before, data, n);
	return 0;
}

/* Writes n bytes that do not fill their sectors, in one write of whole ones, so that it fails or
 * succeeds as one. Its stripes are held alone. */
static int write_merged(struct vhd_store *vhd, uint64_t offset, const uint8_t *data, size_t n)
{
	uint64_t start = round_down(offset, SECTOR_BYTES);
	size_t span_n = (size_t)(round_up(offset + n, SECTOR_BYTES) - start);
	CLEANUP_FREE uint8_t *span = malloc(span_n);
	if (!span)
		return -ENOMEM;
	/* A full journal is told as that, and not as the vault out of reach that the reading may
	 * need. */
	int r = store_room(vhd->disk);
	if (r == 0)
		r = merge(vhd, offset, data, n, span, span_n);
	return r < 0 ? r : store_write(vhd->disk, start, span, span_n);
}

/* Zeroes n bytes: what is whole without a payload, then what is not. */
static int zero_merged(struct vhd_store *vhd, uint64_t offset, uint64_t n)
{
	static const uint8_t zeros[SECTOR_BYTES];
	uint64_t end = offset + n;
	uint64_t low = round_up(offset, SECTOR_BYTES), high = round_down(end, SECTOR_BYTES);
	if (low > high) /* inside one sector */
		return write_merged(vhd, offset, zeros, (size_t)n);
	int r = high > low ? store_zero(vhd->disk, low, high - low) : 0;
	if (r == 0 && low > offset)
		r = write_merged(vhd, offset, zeros, (size_t)(low - offset));
	if (r == 0 && end > high)
		r = write_merged(vhd, high, zeros, (size_t)(end - high));
	return r;
}

/* Writes n bytes (NULL: zeros) of the disk, at any alignment. */
static int write_disk(struct vhd_store *vhd, uint64_t offset, const uint8_t *data, uint64_t n)
{
	bool merges = offset % SECTOR_BYTES != 0 || n % SECTOR_BYTES != 0;
	uint32_t set = stripes_of(offset, n);
	int r;
	lock_stripes(vhd, set, merges);
	if (merges)
		r = data ? write_merged(vhd, offset, data, (size_t)n) : zero_merged(vhd, offset, n);
	else
		r = data ? store_write(vhd->disk, offset, data, (size_t)n)
			 : store_zero(vhd->disk, offset, n);
	unlock_stripes(vhd, set);
	return r;
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
		disk_bytes == vhd->disk->size_bytes)
		return 0;
	return -EPERM;
}

/* Everything is checked before anything is stored. `data` NULL: zeros. */
static int write_or_zero(struct vhd_store *vhd, uint64_t offset, const uint8_t *data, uint64_t n)
{
	uint64_t disk_bytes = vhd->disk->size_bytes;
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
	return to_disk > 0 ? write_disk(vhd, offset, data, to_disk) : 0;
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
	return store_flush(vhd_of(store)->disk);
}

static void vhd_free(struct store *store)
{
	struct vhd_store *vhd = vhd_of(store);
	store_free(vhd->disk);
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_rwlock_destroy(&vhd->stripes[i]);
	free(vhd);
}

int vhd_store_new(
	struct store *disk, const struct uuid *id, int64_t time_ns, struct store **ret_store)
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
	int r = vhd_footer_format(disk->size_bytes, id, time_ns, vhd->footer);
	if (r < 0)
		return r;
	vhd->store = (struct store){
		.ops = &ops,
		.size_bytes = disk->size_bytes + VHD_FOOTER_BYTES,
		.writable = disk->writable,
	};
	vhd->disk = disk;
	/* Merging writes are rare; a stream of aligned ones must not keep them out. */
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_rwlock_init(&vhd->stripes[i], &attr);
	pthread_rwlockattr_destroy(&attr);
	struct vhd_store *done = TAKE(vhd);
	*ret_store = &done->store;
	return 0;
}
