/*
 * Checkpoints: the state after one record, whole, in two alternating slots.
 *
 * A checkpoint saves replay from going back to the beginning: what is in it need not be replayed,
 * and closed segments it lists are taken by their index. It is captured under the lock at the
 * moment a commit closes what is staged, and written when that commit is through; so it never
 * knows more than the journal.
 *
 * A slot is replaced by rename, so a crash leaves the old content or the new: a slot that fails
 * its checksum is rotten, not torn. One rotten slot costs nothing: the other is older, and the
 * journal still holds every record above it, because trim frees a segment only when both slots
 * are past it.
 *
 * upkeep_lock guards the slots.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/checksum.h"
#include "common/log.h"
#include "fs/history_internal.h"

#define CHECKPOINT_MAX_BYTES (256u << 20)

/* ── making ──────────────────────────────────────────────────────────────────────────────── */

static int put_disks(const struct history *history, struct buf *image, uint32_t *ret_sizes)
{
	*ret_sizes = 0;
	for (unsigned i = 0; i < history->disk_count; i++) {
		const struct disk *d = history->disks[i];
		struct journal_checkpoint_disk out = {
			.id = d->info.id,
			.removed = d->info.removed,
			.resync_needed = d->info.resync_needed,
			.added_point = d->info.added_point,
			.removed_point = d->removed_point,
		};
		memcpy(out.bookmark, d->bookmark[1], sizeof(out.bookmark));
		memcpy(out.name, d->info.name, sizeof(out.name));
		int r = buf_append(image, &out, sizeof(out));
		if (r < 0)
			return r;
		*ret_sizes += d->size_count;
	}
	for (unsigned i = 0; i < history->disk_count; i++) {
		const struct disk *d = history->disks[i];
		for (unsigned s = 0; s < d->size_count; s++) {
			struct journal_checkpoint_size out = {
				.disk = d->info.id,
				.from_point = d->sizes[s].from_point,
				.size_bytes = d->sizes[s].bytes,
			};
			int r = buf_append(image, &out, sizeof(out));
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int put_segments(
	const struct history *history, struct buf *image, uint32_t *ret_count, uint64_t *ret_tail)
{
	uint32_t count = 0;
	*ret_tail = history->next_seq;
	for (unsigned i = 0; i < history->segment_count; i++) {
		const struct segment *s = history->segments[i];
		if (!s->closed) {
			*ret_tail = s->seq;
			break;
		}
		struct journal_checkpoint_segment out = {
			.seq = s->seq,
			.incarnation = s->incarnation,
			.first_lsn = s->first_lsn,
			.last_lsn = s->last_lsn,
			.prev_lsn = s->prev_lsn,
			.prev_hash = s->prev_hash,
			.end_hash = s->end_hash,
			.end = s->end,
		};
		int r = buf_append(image, &out, sizeof(out));
		if (r < 0)
			return r;
		count++;
	}
	*ret_count = count;
	return 0;
}

static int put_points(const struct history *history, struct buf *image, uint64_t *ret_count)
{
	*ret_count = 0;
	for (uint64_t i = 0; i < history->point_count; i++) {
		const struct catalogue_point *p = &history->points[i];
		if (catalogue_is_gone(p))
			continue;
		(*ret_count)++;
		struct journal_point out = catalogue_pack(p);
		int r = buf_append(image, &out, sizeof(out));
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_drain(const struct history *history, struct buf *image)
{
	struct journal_drain out = history->drain;
	out.flags = history->repair_due ? JOURNAL_DRAIN_REPAIR : 0;
	return buf_append(image, &out, sizeof(out));
}

int checkpoint_capture(struct history *history, struct buf *ret_image)
{
	struct journal_checkpoint header = {
		.magic = JOURNAL_CHECKPOINT_MAGIC,
		.version = history->format,
		.segment_bytes = history->segment_bytes,
		.group = history->group,
		.generation = history->generation + 1,
		.incarnation = history->incarnation,
		.lsn = history->staged_lsn,
		.next_seq = history->next_seq,
		.last_point = history->last_point,
		.flush_pending = history->flush_pending,
		.head_floor = history->head_floor,
		.payload_total = history->payload_total,
		.changed_bytes = history->changed_bytes,
		.next_disk = history->next_disk,
		.disk_count = history->disk_count,
		.import_count = history->import_count,
	};
	buf_clear(ret_image);
	int r = buf_reserve(ret_image, sizeof(header) + 64 * history->point_count + 64);
	if (r == 0)
		r = buf_append(ret_image, &header, sizeof(header));
	if (r == 0)
		r = put_disks(history, ret_image, &header.size_count);
	if (r == 0)
		r = put_segments(history, ret_image, &header.segment_count, &header.tail_seq);
	if (r == 0)
		r = put_points(history, ret_image, &header.point_count);
	if (r == 0 && history->import_count > 0)
		r = buf_append(ret_image, history->imports,
			history->import_count * sizeof(*history->imports));
	if (r == 0 && history->format >= JOURNAL_VERSION_DRAIN)
		r = put_drain(history, ret_image);
	if (r < 0)
		return r;
	header.bytes = ret_image->len;
	memcpy(ret_image->data, &header, sizeof(header));
	return 0;
}

static void seal_image(struct buf *image)
{
	struct journal_checkpoint *h = (struct journal_checkpoint *)image->data;
	h->body_checksum = checksum64(h + 1, image->len - sizeof(*h));
	h->checksum = page_checksum(h, sizeof(*h), &h->checksum);
}

void checkpoint_finish(struct buf *image, uint64_t hash)
{
	((struct journal_checkpoint *)image->data)->hash = hash;
	seal_image(image);
}

static void slot_path(const struct history *history, unsigned slot, char *ret_path)
{
	snprintf(ret_path, SEGMENT_PATH_BYTES(history), "%s/checkpoint.%u", history->directory,
		slot);
}

/* `ret_unsure`: the slot may be the old one or the new one, and not for certain after a crash. */
static int write_slot(struct history *history, const struct buf *image, bool *ret_unsure)
{
	const struct journal_checkpoint *h = (const struct journal_checkpoint *)image->data;
	unsigned slot = (unsigned)(h->generation % 2);
	char path[SEGMENT_PATH_BYTES(history)];
	slot_path(history, slot, path);
	int r = io_replace_file_told(history->io, path, image->data, image->len, ret_unsure);
	if (r < 0)
		return r;
	history->generation = h->generation;
	history->slot_lsn[slot] = h->lsn;
	history->slot_format[slot] = h->version;
	history->slots_written++;
	pthread_mutex_lock(&history->lock);
	history->checkpoint_bytes = 2 * image->len;
	history->proven_lsn = MAX(history->proven_lsn, h->lsn);
	history->journal_bytes += image->len;
	pthread_mutex_unlock(&history->lock);
	return 0;
}

int checkpoint_write(struct history *history, bool both)
{
	CLEANUP(buf_free) struct buf image = { 0 };
	bool unsure = false;
	uint64_t lsn;
	int r = commit_all(history, &image, &lsn);
	if (r < 0)
		return r;
	const struct journal_checkpoint *h = (const struct journal_checkpoint *)image.data;
	const struct journal_checkpoint_segment *segments =
		(const void *)((const uint8_t *)(h + 1) +
			       h->disk_count * sizeof(struct journal_checkpoint_disk) +
			       h->size_count * sizeof(struct journal_checkpoint_size));
	uint64_t closed = h->segment_count > 0 ? segments[h->segment_count - 1].seq : 0;
	r = write_slot(history, &image, &unsure);
	if (r == 0 && both) {
		((struct journal_checkpoint *)image.data)->generation++;
		seal_image(&image);
		r = write_slot(history, &image, &unsure);
	}
	/* Else both slots are what they were, for certain, and replay begins there. */
	if (r < 0 && unsure) {
		pthread_mutex_lock(&history->lock);
		history->failed = true;
		pthread_mutex_unlock(&history->lock);
		log_error("%s: writing a checkpoint failed: %s; it must be opened again",
			history->directory, strerror(-r));
	}
	if (r == 0)
		history->checkpoint_closed = closed;
	return r;
}

/* ── loading ─────────────────────────────────────────────────────────────────────────────── */

/* Where the parts of a checkpoint's body are. */
struct body {
	const struct journal_checkpoint_disk *disks;
	const struct journal_checkpoint_size *sizes;
	const struct journal_checkpoint_segment *segments;
	const struct journal_point *points;
	const uint64_t *imports;
	const struct journal_drain *drain; /* from JOURNAL_VERSION_DRAIN on */
};

static struct body body_of(const struct journal_checkpoint *h)
{
	struct body b;
	b.disks = (const void *)(h + 1);
	b.sizes = (const void *)(b.disks + h->disk_count);
	b.segments = (const void *)(b.sizes + h->size_count);
	b.points = (const void *)(b.segments + h->segment_count);
	b.imports = (const void *)(b.points + h->point_count);
	b.drain = (const void *)(b.imports + h->import_count);
	return b;
}

/* A checksum proves what was written, not that it was sensible. */
static bool sizes_sensible(const struct journal_checkpoint *h)
{
	struct body b = body_of(h);
	if (h->version >= JOURNAL_VERSION_DRAIN &&
		(b.drain->disk_count > ARRAY_SIZE(b.drain->disks) ||
			b.drain->proof_bytes > sizeof(b.drain->proof)))
		return false;
	for (uint32_t i = 0; i < h->size_count; i++)
		if (!is_aligned(b.sizes[i].size_bytes, SECTOR_BYTES) ||
			b.sizes[i].size_bytes > EXTENT_MAX_LBA * SECTOR_BYTES)
			return false;
	return true;
}

static bool image_sound(char *data, size_t n)
{
	struct journal_checkpoint *h = (struct journal_checkpoint *)data;
	if (n < sizeof(*h) || h->magic != JOURNAL_CHECKPOINT_MAGIC || h->bytes != n ||
		page_checksum(h, sizeof(*h), &h->checksum) != h->checksum)
		return false;
	if (h->version < JOURNAL_VERSION || h->version > JOURNAL_VERSION_DRAIN)
		return true; /* for the caller to refuse */
	if (h->disk_count > HISTORY_MAX_DISKS || h->size_count > n || h->segment_count > n ||
		h->point_count > n || h->import_count > n || h->segment_bytes < 64 * KIB ||
		h->segment_bytes > HISTORY_SEGMENT_BYTES ||
		!is_aligned(h->segment_bytes, JOURNAL_PAGE_BYTES))
		return false;
	uint64_t bytes = sizeof(*h) + h->disk_count * sizeof(struct journal_checkpoint_disk) +
			 h->size_count * sizeof(struct journal_checkpoint_size) +
			 h->segment_count * sizeof(struct journal_checkpoint_segment) +
			 h->point_count * sizeof(struct journal_point) +
			 h->import_count * sizeof(uint64_t) +
			 (h->version >= JOURNAL_VERSION_DRAIN ? sizeof(struct journal_drain) : 0);
	return bytes == n && checksum64(h + 1, n - sizeof(*h)) == h->body_checksum &&
	       sizes_sensible(h);
}

static int take_disks(struct history *history, const struct journal_checkpoint *h, struct body b)
{
	for (uint32_t i = 0; i < h->disk_count; i++) {
		const struct journal_checkpoint_disk *in = &b.disks[i];
		struct history_disk info = {
			.id = in->id,
			.removed = in->removed,
			.resync_needed = in->resync_needed,
			.added_point = in->added_point,
		};
		memcpy(info.name, in->name, sizeof(info.name) - 1);
		struct disk *disk;
		int r = disk_insert(history, &info, &disk);
		if (r < 0)
			return r;
		disk->removed_point = in->removed_point;
		memcpy(disk->bookmark[0], in->bookmark, HISTORY_BOOKMARK_BYTES);
		memcpy(disk->bookmark[1], in->bookmark, HISTORY_BOOKMARK_BYTES);
	}
	for (uint32_t i = 0; i < h->size_count; i++) {
		struct disk *disk = disk_find(history, b.sizes[i].disk);
		int r = disk ? disk_set_size(disk, b.sizes[i].from_point, b.sizes[i].size_bytes)
			     : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int take_image(struct history *history, struct replay *replay, const char *data)
{
	const struct journal_checkpoint *h = (const struct journal_checkpoint *)data;
	struct body b = body_of(h);
	int r = take_disks(history, h, b);
	for (uint64_t i = 0; r == 0 && i < h->point_count; i++) {
		struct catalogue_point p = catalogue_unpack(&b.points[i]);
		r = catalogue_insert(history, &p);
	}
	if (r < 0)
		return r;
	history->imports = calloc(h->import_count + 1, sizeof(*history->imports));
	if (!history->imports)
		return -ENOMEM;
	memcpy(history->imports, b.imports, h->import_count * sizeof(*history->imports));
	history->import_count = h->import_count;
	replay->listed = calloc(h->segment_count + 1, sizeof(*replay->listed));
	if (!replay->listed)
		return -ENOMEM;
	memcpy(replay->listed, b.segments, h->segment_count * sizeof(*replay->listed));
	replay->listed_count = h->segment_count;
	replay->have_checkpoint = true;
	replay->checkpoint_lsn = h->lsn;
	replay->checkpoint_hash = h->hash;
	replay->tail_seq = h->tail_seq;
	replay->max_lsn = h->lsn;
	history->segment_bytes = h->segment_bytes;
	history->incarnation = h->incarnation;
	history->next_seq = h->next_seq;
	history->next_disk = MAX(history->next_disk, h->next_disk);
	history->last_point = h->last_point;
	history->flush_pending = h->flush_pending;
	history->format = h->version;
	if (h->version >= JOURNAL_VERSION_DRAIN) {
		memcpy(&history->drain, b.drain, sizeof(history->drain));
		history->repair_due = b.drain->flags & JOURNAL_DRAIN_REPAIR;
	}
	history->head_floor = replay->floor_before = h->head_floor;
	history->payload_total = h->payload_total;
	history->changed_bytes = h->changed_bytes;
	catalogue_note_vault(history);
	return 0;
}

static int load_slot(struct history *history, struct replay *replay, unsigned slot, char **ret_data,
	uint64_t *ret_generation)
{
	char path[SEGMENT_PATH_BYTES(history)];
	CLEANUP_FREE char *data = NULL;
	size_t n;
	slot_path(history, slot, path);
	int r = io_load_file(history->io, path, CHECKPOINT_MAX_BYTES, &data, &n);
	if (r == -ENOENT)
		return r;
	if (r < 0 && r != -EFBIG)
		return error_set(replay->error, r, "see the kernel's log for the disk's trouble",
			"%s: reading it failed: %s", path, strerror(-r));
	if (r == -EFBIG || !image_sound(data, n)) {
		replay_fault(replay, "%s fails its checksum; the other slot is used", path);
		return -ENOENT;
	}
	const struct journal_checkpoint *h = (const struct journal_checkpoint *)data;
	if (memcmp(&h->group, &history->group, sizeof(h->group)) != 0)
		return error_set(replay->error, -EPERM, "give it the directory of its own group",
			"%s belongs to another group", path);
	if (h->version > JOURNAL_VERSION_DRAIN)
		return error_set(replay->error, -EPROTONOSUPPORT, "install the newer version",
			"%s was written by a newer version", path);
	history->slot_lsn[slot] = h->lsn;
	history->slot_format[slot] = h->version;
	*ret_generation = h->generation;
	*ret_data = TAKE(data);
	return 0;
}

int checkpoint_load(struct history *history, struct replay *replay)
{
	CLEANUP_FREE char *data0 = NULL;
	CLEANUP_FREE char *data1 = NULL;
	char **data[2] = { &data0, &data1 };
	uint64_t generation[2] = { 0, 0 };
	for (unsigned slot = 0; slot < 2; slot++) {
		int r = load_slot(history, replay, slot, data[slot], &generation[slot]);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	if (!data0 && !data1)
		return 0;
	unsigned best = data1 && (!data0 || generation[1] > generation[0]);
	replay->other_slot_good = data0 && data1;
	history->generation = generation[best];
	history->checkpoint_bytes = 2 * ((const struct journal_checkpoint *)*data[best])->bytes;
	return take_image(history, replay, *data[best]);
}
