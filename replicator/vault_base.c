/*
 * What lies under the journal, read from the vault: (disk, point) → the snapshot that the point's
 * manifest names.
 *
 * Manifests are read once and kept for the newest few points asked for. Per snapshot, the written
 * ranges are asked for by windows of 128 MiB and kept as one bit for each 4 KiB, so that zeros
 * are never fetched. Readers take stores from a pool, one each while they read.
 *
 * What lies there now of a disk is read from its blob, and nothing about it is remembered. Once the
 * group is another's that is not ours to read: it may be older than what was drained.
 *
 * Threads: any, several at once. The lock is held for memory work only; a window or manifest
 * that two readers miss at once is fetched twice, and one copy is kept.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "fs/base.h"
#include "replicator/backoff.h"

#define WINDOW_BYTES (128ull << 20)
#define PAGE_BYTES 4096ull
#define WINDOW_WORDS (WINDOW_BYTES / PAGE_BYTES / 64)
#define MAX_WINDOWS 512u /* 4 KiB each */
#define MAX_POINTS 16u
#define MAX_IDLE_STORES 16u
#define BATCH 8u

struct known_point {
	uint64_t used; /* by the base's clock of uses */
	struct manifest manifest;
};

struct window {
	uint64_t used, number;
	uint16_t disk;
	uint32_t index;
	uint64_t written[WINDOW_WORDS];
};

struct vault_base {
	struct base base;
	struct blob_service *service;
	_Atomic int failure;      /* of reads since vault_base_failure */
	pthread_mutex_t lock;     /* all below */
	struct vault_group group; /* name and id only */
	uint64_t uses;
	struct known_point points[MAX_POINTS];
	struct window *windows[MAX_WINDOWS];
	struct blob_store *idle[MAX_IDLE_STORES];
	unsigned idle_count;
	bool used; /* since vault_base_rest */
	bool lost; /* the group is another's */
	struct live_disk {
		uint16_t id;
		char blob[VAULT_NAME_BYTES];
	} * disks;
	unsigned disk_count;
};

/* ── stores ──────────────────────────────────────────────────────────────────────────────── */

static int take_store(struct vault_base *b, struct blob_store **ret_store)
{
	{
		SCOPED_LOCK(&b->lock);
		b->used = true;
		if (b->idle_count > 0) {
			*ret_store = b->idle[--b->idle_count];
			return 0;
		}
	}
	return b->service->ops->open_store(b->service, NULL, NULL, ret_store);
}

static void give_store(struct vault_base *b, struct blob_store *store)
{
	{
		SCOPED_LOCK(&b->lock);
		if (b->idle_count < MAX_IDLE_STORES) {
			b->idle[b->idle_count++] = store;
			return;
		}
	}
	store->ops->free(store);
}

/* ── manifests ───────────────────────────────────────────────────────────────────────────── */

static bool find_snapshot(struct vault_base *b, uint64_t number, uint16_t disk,
	struct manifest_disk *ret_disk, bool *ret_known)
{
	SCOPED_LOCK(&b->lock);
	*ret_known = false;
	for (unsigned i = 0; i < MAX_POINTS; i++) {
		struct known_point *p = &b->points[i];
		if (p->manifest.number != number)
			continue;
		*ret_known = true;
		p->used = ++b->uses;
		for (unsigned j = 0; j < p->manifest.disk_count; j++) {
			if (p->manifest.disks[j].id == disk) {
				*ret_disk = p->manifest.disks[j];
				return true;
			}
		}
	}
	return false;
}

static void keep_manifest(struct vault_base *b, struct manifest *manifest)
{
	SCOPED_LOCK(&b->lock);
	struct known_point *oldest = &b->points[0];
	for (unsigned i = 0; i < MAX_POINTS; i++) {
		if (b->points[i].manifest.number == manifest->number)
			return;
		if (b->points[i].used < oldest->used)
			oldest = &b->points[i];
	}
	manifest_free(&oldest->manifest);
	oldest->manifest = *manifest;
	oldest->used = ++b->uses;
	*manifest = (struct manifest){ 0 };
}

static int snapshot_of(struct vault_base *b, struct blob_store *store, uint64_t number,
	uint16_t disk, struct manifest_disk *ret_disk)
{
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct vault_group group = { 0 };
	struct error error;
	char etag[BLOB_ETAG_BYTES];
	bool known;
	if (find_snapshot(b, number, disk, ret_disk, &known))
		return 0;
	if (known)
		return -ENOENT;
	{
		SCOPED_LOCK(&b->lock);
		memcpy(group.name, b->group.name, sizeof(group.name));
		group.id = b->group.id;
	}
	int r = vault_manifest_load(store, &group, number, &error, &m, NULL, etag);
	if (r == -EBADMSG || r == -EPROTONOSUPPORT) {
		log_error("%s", error.message);
		return -EIO;
	}
	if (r < 0)
		return r;
	if (m.abandoned)
		return -ENOENT;
	keep_manifest(b, &m);
	return find_snapshot(b, number, disk, ret_disk, &known) ? 0 : -ENOENT;
}

/* ── written ranges ──────────────────────────────────────────────────────────────────────── */

static bool copy_window(struct vault_base *b, struct window *w)
{
	SCOPED_LOCK(&b->lock);
	for (unsigned i = 0; i < MAX_WINDOWS && b->windows[i]; i++) {
		struct window *have = b->windows[i];
		if (have->number != w->number || have->disk != w->disk || have->index != w->index)
			continue;
		have->used = ++b->uses;
		memcpy(w->written, have->written, sizeof(w->written));
		return true;
	}
	return false;
}

static void keep_window(struct vault_base *b, const struct window *w)
{
	SCOPED_LOCK(&b->lock);
	unsigned oldest = 0, i;
	for (i = 0; i < MAX_WINDOWS && b->windows[i]; i++)
		if (b->windows[i]->used < b->windows[oldest]->used)
			oldest = i;
	if (i == MAX_WINDOWS)
		i = oldest;
	if (!b->windows[i])
		b->windows[i] = malloc(sizeof(*w));
	if (!b->windows[i])
		return;
	*b->windows[i] = *w;
	b->windows[i]->used = ++b->uses;
}

static int mark_written(void *context, const struct blob_range *range)
{
	struct window *w = context;
	uint64_t start = w->index * WINDOW_BYTES;
	uint64_t from = MAX(range->offset, start) - start;
	uint64_t end = MIN(range->offset + range->length, start + WINDOW_BYTES) - start;
	for (uint64_t p = from / PAGE_BYTES; p * PAGE_BYTES < end; p++)
		w->written[p / 64] |= 1ull << p % 64;
	return 0;
}

static int written_in(struct vault_base *b, struct blob_store *store,
	const struct manifest_disk *disk, struct window *w)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	uint64_t start = w->index * WINDOW_BYTES;
	int r;
	if (copy_window(b, w))
		return 0;
	backoff_start(&backoff, store, NULL);
	do {
		memset(w->written, 0, sizeof(w->written));
		r = store->ops->ranges(store, disk->blob, disk->snapshot, NULL, start,
			MIN(WINDOW_BYTES, disk->size_bytes + SECTOR_BYTES - start), mark_written, w,
			&e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r == 0)
		keep_window(b, w);
	return r;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

struct reading {
	struct blob_store *store;
	struct blob_request requests[BATCH];
	unsigned count;
};

static int run_batch(struct reading *reading)
{
	if (reading->count == 0)
		return 0;
	int r = vault_read(reading->store, reading->requests, reading->count, NULL);
	reading->count = 0;
	return r;
}

/* [offset, offset + n) lies in one window: zeros are filled in, the rest is asked for. */
static int read_window(struct reading *reading, const struct manifest_disk *disk,
	const struct window *w, uint64_t offset, uint8_t *data, uint64_t n)
{
	uint64_t start = w->index * WINDOW_BYTES, end = offset + n;
	while (offset < end) {
		uint64_t page = (offset - start) / PAGE_BYTES;
		bool written = w->written[page / 64] >> page % 64 & 1;
		uint64_t stop = page + 1;
		while (start + stop * PAGE_BYTES < end && stop < WINDOW_WORDS * 64 &&
			(w->written[stop / 64] >> stop % 64 & 1) == written &&
			(stop - page) * PAGE_BYTES < BLOB_MAX_PUT_BYTES)
			stop++;
		uint64_t length = MIN(start + stop * PAGE_BYTES, end) - offset;
		if (!written) {
			memset(data, 0, length);
		} else {
			reading->requests[reading->count++] =
				(struct blob_request){ .blob = disk->blob,
					.snapshot = disk->snapshot,
					.offset = offset,
					.length = length,
					.data = data };
			int r = reading->count == BATCH ? run_batch(reading) : 0;
			if (r < 0)
				return r;
		}
		offset += length;
		data += length;
	}
	return 0;
}

static int read_with(struct vault_base *b, struct blob_store *store, uint16_t disk, uint64_t point,
	uint64_t offset, uint8_t *data, uint64_t n)
{
	struct manifest_disk from;
	struct reading reading = { .store = store };
	int r = snapshot_of(b, store, point, disk, &from);
	if (r < 0)
		return r;
	/* A disk that has grown since reads as zeros beyond its end of then. */
	if (offset + n > from.size_bytes) {
		uint64_t there = offset < from.size_bytes ? from.size_bytes - offset : 0;
		memset(data + there, 0, n - there);
		n = there;
	}
	while (n > 0) {
		struct window w = {
			.number = point, .disk = disk, .index = (uint32_t)(offset / WINDOW_BYTES)
		};
		uint64_t part = MIN(n, (w.index + 1ull) * WINDOW_BYTES - offset);
		r = written_in(b, store, &from, &w);
		if (r == 0)
			r = read_window(&reading, &from, &w, offset, data, part);
		if (r < 0)
			return r;
		offset += part;
		data += part;
		n -= part;
	}
	return run_batch(&reading);
}

/* What the reader is told; what tells of the vault itself is kept for vault_base_failure. */
static int told_by(struct vault_base *b, int r)
{
	if (r == -ETIMEDOUT || r == -ECONNREFUSED || r == -ECONNRESET)
		atomic_store(&b->failure, r);
	if (r == -EBADMSG)
		return -EIO;
	return r == -ECONNREFUSED || r == -ECONNRESET ? -ETIMEDOUT : r;
}

static int base_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct vault_base *b = CONTAINER_OF(base, struct vault_base, base);
	struct blob_store *store;
	int r = take_store(b, &store);
	if (r < 0)
		return r;
	r = read_with(b, store, disk, point, offset, data, n);
	give_store(b, store);
	return told_by(b, r);
}

static int blob_of(struct vault_base *b, uint16_t disk, char ret_blob[static VAULT_NAME_BYTES])
{
	SCOPED_LOCK(&b->lock);
	if (b->lost)
		return -EIO;
	for (unsigned i = 0; i < b->disk_count; i++) {
		if (b->disks[i].id != disk)
			continue;
		memcpy(ret_blob, b->disks[i].blob, VAULT_NAME_BYTES);
		return 0;
	}
	return -ENOENT;
}

static int read_blob(
	struct blob_store *store, const char *blob, uint64_t offset, uint8_t *data, uint64_t n)
{
	struct reading reading = { .store = store };
	int r = 0;
	while (r == 0 && n > 0) {
		uint64_t length = MIN(n, (uint64_t)BLOB_MAX_PUT_BYTES);
		reading.requests[reading.count++] = (struct blob_request){
			.blob = blob, .offset = offset, .length = length, .data = data
		};
		offset += length;
		data += length;
		n -= length;
		if (reading.count == BATCH)
			r = run_batch(&reading);
	}
	return r < 0 ? r : run_batch(&reading);
}

static int base_read_live(struct base *base, uint16_t disk, uint64_t offset, void *data, size_t n)
{
	struct vault_base *b = CONTAINER_OF(base, struct vault_base, base);
	char blob[VAULT_NAME_BYTES];
	struct blob_store *store;
	int r = blob_of(b, disk, blob);
	if (r == 0)
		r = take_store(b, &store);
	if (r < 0)
		return r;
	r = read_blob(store, blob, offset, data, n);
	give_store(b, store);
	return told_by(b, r);
}

static const struct base_ops vault_base_ops = { .read = base_read, .read_live = base_read_live };

int vault_base_new(
	struct blob_service *service, const struct vault_group *group, struct base **ret_base)
{
	struct vault_base *b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->base.ops = &vault_base_ops;
	b->service = service;
	pthread_mutex_init(&b->lock, NULL);
	int r = vault_base_update(&b->base, group);
	if (r < 0) {
		vault_base_free(&b->base);
		return r;
	}
	*ret_base = &b->base;
	return 0;
}

int vault_base_update(struct base *base, const struct vault_group *group)
{
	struct vault_base *b = CONTAINER_OF(base, struct vault_base, base);
	struct live_disk *disks = calloc(group->disk_count + 1u, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	for (unsigned i = 0; i < group->disk_count; i++) {
		disks[i].id = group->disks[i].id;
		vault_blob_name(group->disks[i].name, disks[i].blob);
	}
	pthread_mutex_lock(&b->lock);
	memcpy(b->group.name, group->name, sizeof(b->group.name));
	b->group.id = group->id;
	struct live_disk *old = b->disks;
	b->disks = disks;
	b->disk_count = group->disk_count;
	pthread_mutex_unlock(&b->lock);
	free(old);
	return 0;
}

void vault_base_lose(struct base *base, bool lost)
{
	struct vault_base *b = CONTAINER_OF(base, struct vault_base, base);
	SCOPED_LOCK(&b->lock);
	b->lost = lost;
}

int vault_base_failure(struct base *base)
{
	return atomic_exchange(&CONTAINER_OF(base, struct vault_base, base)->failure, 0);
}

void vault_base_rest(struct base *base)
{
	struct vault_base *b = CONTAINER_OF(base, struct vault_base, base);
	struct blob_store *idle[MAX_IDLE_STORES];
	unsigned count = 0;
	{
		SCOPED_LOCK(&b->lock);
		while (!b->used && b->idle_count > 0)
			idle[count++] = b->idle[--b->idle_count];
		b->used = false;
	}
	for (unsigned i = 0; i < count; i++)
		idle[i]->ops->free(idle[i]);
}

void vault_base_free(struct base *base)
{
	if (!base)
		return;
	struct vault_base *b = CONTAINER_OF(base, struct vault_base, base);
	for (unsigned i = 0; i < MAX_POINTS; i++)
		manifest_free(&b->points[i].manifest);
	for (unsigned i = 0; i < MAX_WINDOWS; i++)
		free(b->windows[i]);
	for (unsigned i = 0; i < b->idle_count; i++)
		b->idle[i]->ops->free(b->idle[i]);
	pthread_mutex_destroy(&b->lock);
	free(b->disks);
	free(b);
}
