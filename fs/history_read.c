/*
 * Reading: from the head or a view's map, through batches, segments and the base.
 *
 * Under the lock a range is broken into pieces: zeros, what is still in a batch (copied at once),
 * places in segments (which are pinned, so that trim leaves the file alone), and holes, which the
 * base fills. The pieces are then read without the lock, those that lie side by side as one.
 *
 * Every byte from a segment is proven: the record's header page by its checksum, then the blocks
 * of 4 KiB by the hashes in that header (header_cache.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/log.h"
#include "fs/history_internal.h"

/* ── pieces ──────────────────────────────────────────────────────────────────────────────── */

static void copy_from_batch(const struct batch *batch, const struct extent *e, void *data)
{
	uint64_t at = (uint64_t)e->header * SECTOR_BYTES - batch->offset;
	const struct journal_record *record = (const struct journal_record *)(batch->data + at);
	memcpy(data,
		batch->data + at + record_place(record, e->index).offset +
			(size_t)e->skip * SECTOR_BYTES,
		e->sectors * SECTOR_BYTES);
}

/* The piece of extent `e`, which has been cut to the range. */
static void piece_of_extent(struct history *history, const struct extent *e, struct piece *piece)
{
	piece->extent = *e;
	if (e->zero) {
		piece->kind = PIECE_ZERO;
		return;
	}
	piece->kind = PIECE_FILE;
	piece->segment = segment_find(history, e->segment);
	if (!piece->segment)
		return;
	uint64_t offset = (uint64_t)e->header * SECTOR_BYTES;
	const struct batch *batch = NULL;
	if (offset >= piece->segment->end)
		batch = stage_find(history, piece->segment, offset);
	if (batch) {
		copy_from_batch(batch, e, piece->data);
		piece->kind = PIECE_DONE;
		piece->segment = NULL;
		return;
	}
	piece->file = segment_pin(piece->segment);
}

/* The part of `e` from `at` on, up to `end`. */
static struct extent cut_extent(struct extent e, uint64_t at, uint64_t end)
{
	uint64_t by = at - e.lba;
	if (!e.zero)
		e.skip = (uint8_t)(e.skip + by);
	e.lba = at;
	e.sectors = MIN(e.sectors - by, end - at);
	return e;
}

static void piece_of_map(struct history *history, const struct extent *e,
	const struct ground *ground, struct piece *piece)
{
	piece->sectors = (uint32_t)e->sectors;
	piece_of_extent(history, e, piece);
	if (piece->kind == PIECE_FILE && piece->segment)
		piece->in_base = piece->segment->last_lsn <= ground->position &&
				 (uint64_t)e->header * SECTOR_BYTES < piece->segment->end;
}

/* What no change covers from piece->lba up to `end`: in the journal below, or in the base. */
static void piece_of_ground(
	struct history *history, const struct ground *ground, uint64_t end, struct piece *piece)
{
	struct extent e;
	piece->kind = ground->all_local ? PIECE_ZERO : PIECE_BASE;
	if (ground->local && extent_map_find(ground->local, piece->lba, &e) == 0 && e.lba < end) {
		if (e.lba <= piece->lba) {
			e = cut_extent(e, piece->lba, end);
			piece->sectors = (uint32_t)e.sectors;
			piece_of_extent(history, &e, piece);
			piece->in_base = true;
			if (piece->kind == PIECE_FILE && !piece->segment)
				piece->kind = PIECE_BASE; /* trimmed since */
			return;
		}
		end = e.lba;
	}
	piece->sectors = (uint32_t)(end - piece->lba);
}

unsigned pieces_collect(struct history *history, const struct extent_map *map,
	const struct ground *ground, uint64_t lba, uint32_t sectors, void *data,
	struct piece *ret_pieces, unsigned max)
{
	uint64_t at = lba, end = lba + sectors;
	unsigned n = 0;
	for (; at < end && n < max; n++) {
		struct extent e;
		struct piece *piece = &ret_pieces[n];
		*piece = (struct piece){ .lba = at,
			.data = (uint8_t *)data + (at - lba) * SECTOR_BYTES };
		bool found = map && extent_map_find(map, at, &e) == 0 && e.lba < end;
		if (!found || e.lba > at) {
			piece_of_ground(history, ground, found ? e.lba : end, piece);
		} else {
			e = cut_extent(e, at, end);
			piece_of_map(history, &e, ground, piece);
		}
		at += piece->sectors;
	}
	return n;
}

/* A read of one file: some pieces whose payloads follow each other there as they do in memory, or
 * one piece that is not made of whole blocks, and needs a buffer of its own. */
struct fetch {
	struct piece *pieces;
	unsigned count;
	uint64_t offset;
	uint32_t bytes;
	bool done;
};

static bool is_whole(const struct piece *piece)
{
	return piece->payload.bytes == piece->sectors * SECTOR_BYTES;
}

/* Finds out where the payloads are. What headers are not in memory are all asked for before any is
 * waited for. Stops at the first piece that fails, and returns it. */
static int find_payloads(
	struct history *history, struct piece *pieces, unsigned count, struct piece **ret_failed)
{
	bool missing = false;
	for (int pass = 0; pass < 2; pass++) {
		bool wait = pass == 1 || count == 1;
		for (unsigned i = 0; i < count; i++) {
			struct piece *p = &pieces[i];
			if (p->kind != PIECE_FILE || p->payload.bytes > 0)
				continue;
			*ret_failed = p;
			if (!p->segment)
				return -EBADMSG;
			int r = p->file ? 0 : segment_open_reader(history, p->segment, &p->file);
			if (r == 0)
				r = header_find(history, p->segment, p->file, &p->extent, wait,
					&p->payload);
			if (r == -EAGAIN && !wait) {
				missing = true;
				io_prefetch(p->file, (uint64_t)p->extent.header * SECTOR_BYTES,
					JOURNAL_PAGE_BYTES);
				continue;
			}
			if (r < 0)
				return r;
		}
		if (!missing)
			break;
	}
	return 0;
}

static unsigned plan_fetches(struct piece *pieces, unsigned count, struct fetch *ret_fetches)
{
	unsigned n = 0;
	for (unsigned i = 0; i < count; i++) {
		struct piece *p = &pieces[i];
		if (p->kind != PIECE_FILE)
			continue;
		struct fetch *last = n > 0 ? &ret_fetches[n - 1] : NULL;
		if (last && last->pieces + last->count == p && p->segment == p[-1].segment &&
			is_whole(p) && is_whole(&p[-1]) &&
			last->offset + last->bytes == p->payload.offset) {
			last->count++;
			last->bytes += p->payload.bytes;
			continue;
		}
		ret_fetches[n++] = (struct fetch){
			.pieces = p,
			.count = 1,
			.offset = p->payload.offset,
			.bytes = p->payload.bytes,
		};
	}
	return n;
}

/* Reads and proves. -EAGAIN: it would have to wait, and shall not. */
static int run_fetch(
	struct fetch *fetch, bool wait, struct io_file *file, struct piece **ret_failed)
{
	struct piece *first = fetch->pieces;
	CLEANUP_FREE uint8_t *bounce = NULL;
	uint8_t *to = first->data;
	if (!is_whole(first)) {
		to = bounce = malloc(fetch->bytes);
		if (!bounce)
			return -ENOMEM;
	}
	*ret_failed = first;
	int r = wait ? io_read_all(file, to, fetch->bytes, fetch->offset)
		     : io_read_cached(file, to, fetch->bytes, fetch->offset);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < fetch->count; i++) {
		const struct payload *p = &first[i].payload;
		*ret_failed = &first[i];
		if (!record_blocks_good(p->hashes, to, p->bytes))
			return -EBADMSG;
		if (bounce)
			memcpy(first->data, bounce + p->skip_bytes,
				(size_t)first->sectors * SECTOR_BYTES);
		to += p->bytes;
	}
	fetch->done = true;
	return 0;
}

/* Past the kernel's memory, if that is for the pass and this fetch. -EAGAIN: it is not. */
static int run_direct(struct view_pass *pass, struct fetch *fetch, struct piece **ret_failed)
{
	const struct piece *first = fetch->pieces;
	if (!pass || !is_whole(first))
		return -EAGAIN;
	struct io_file *file =
		view_pass_file(pass, first->segment, fetch->offset, fetch->bytes, first->data);
	if (!file)
		return -EAGAIN;
	int r = run_fetch(fetch, true, file, ret_failed);
	return r == -EINVAL ? -EAGAIN : r; /* the disk wants another alignment */
}

/* What the kernel has in memory is taken at once; the rest is asked for before any of it is waited
 * for, so that the disk works on all of it. */
static int read_payloads(struct history *history, struct view_pass *pass, struct piece *pieces,
	unsigned count, struct piece **ret_failed)
{
	struct fetch fetches[MAX_PIECES];
	int r = find_payloads(history, pieces, count, ret_failed);
	if (r < 0)
		return r;
	unsigned n = plan_fetches(pieces, count, fetches);
	for (unsigned i = 0; i < n; i++) {
		r = run_direct(pass, &fetches[i], ret_failed);
		if (r == -EAGAIN && n > 1)
			r = run_fetch(&fetches[i], false, fetches[i].pieces->file, ret_failed);
		if (r == -EAGAIN && n > 1) {
			io_prefetch(fetches[i].pieces->file, fetches[i].offset, fetches[i].bytes);
		} else if (r < 0 && r != -EAGAIN) {
			return r;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		r = fetches[i].done
			    ? 0
			    : run_fetch(&fetches[i], true, fetches[i].pieces->file, ret_failed);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ── what cannot be proven ───────────────────────────────────────────────────────────────── */

/* True if this record's damage has not been told yet; lock held. */
static bool is_news(struct history *history, uint64_t seq, uint32_t header)
{
	for (unsigned i = 0; i < MAX_TOLD; i++)
		if (history->told[i].seq == seq && history->told[i].header == header)
			return false;
	history->told[history->told_next++ % MAX_TOLD] = (struct damage_told){ seq, header };
	return true;
}

/* True if the head shows the same place of the journal there; lock held. */
static bool head_shows(const struct disk *disk, const struct piece *piece)
{
	struct extent e;
	return !disk->info.removed && disk->map &&
	       extent_map_find(disk->map, piece->lba, &e) == 0 && e.lba <= piece->lba && !e.zero &&
	       e.segment == piece->extent.segment && e.header == piece->extent.header &&
	       e.index == piece->extent.index;
}

static int stage_resync(struct history *history, struct disk *disk)
{
	struct journal_record record = { .type = JOURNAL_DISK };
	uint64_t lsn;
	record.disk.action = JOURNAL_DISK_RESYNC_SET;
	record.disk.id = disk->info.id;
	int r = stage_record(history, &record, &lsn);
	history->resync_staged |= r == 0;
	return r;
}

static void note_damage(struct history *history, uint16_t id, const struct piece *piece)
{
	uint64_t seq = piece->segment ? piece->segment->seq : piece->extent.segment;
	bool head = false;
	char name[sizeof(((struct history_disk *)0)->name)] = "?";
	pthread_mutex_lock(&history->lock);
	bool news = is_news(history, seq, piece->extent.header);
	struct disk *disk = disk_find(history, id);
	if (disk)
		memcpy(name, disk->info.name, sizeof(name));
	if (!piece->in_base && disk && head_shows(disk, piece)) {
		head = true;
		if (!disk->info.resync_needed && !history->failed)
			(void)stage_resync(history, disk); /* the next read finds it, too */
	}
	pthread_mutex_unlock(&history->lock);
	if (news)
		log_error("%s/%016" PRIx64 ".seg: record at %" PRIu64 ": the data of disk %s, "
			  "sector %" PRIu64 " cannot be proven; %s",
			history->directory, seq, (uint64_t)piece->extent.header * SECTOR_BYTES,
			name, piece->lba,
			piece->in_base ? "it is read from the vault"
			: head         ? "the disk needs a resync"
				       : "points that show it are damaged");
}

/* The segment as a whole may reach beyond the vault point; the record, if its header can still be
 * proven, tells where it is. */
static bool record_in_base(
	const struct history *history, const struct ground *ground, const struct piece *piece)
{
	CLEANUP_FREE struct journal_record *record = malloc(sizeof(*record));
	uint64_t offset = (uint64_t)piece->extent.header * SECTOR_BYTES;
	return record && piece->file &&
	       io_read_all(piece->file, record, sizeof(*record), offset) == 0 &&
	       record_check(history, record, piece->segment->seq, offset) &&
	       record->incarnation == piece->segment->incarnation &&
	       record->lsn <= ground->position;
}

/* Reads the payloads; those that are damaged and in the base as well are left to it. */
static int read_or_leave(struct history *history, uint16_t disk, const struct ground *ground,
	struct piece *pieces, unsigned count, struct view_pass *pass)
{
	for (;;) {
		struct piece *failed = NULL;
		int r = read_payloads(history, pass, pieces, count, &failed);
		bool damaged = r == -EBADMSG || r == -ENODATA || r == -ENOENT;
		if (damaged && !failed->in_base)
			failed->in_base = record_in_base(history, ground, failed);
		if (damaged || (r == -EIO && failed->in_base))
			note_damage(history, disk, failed);
		if ((damaged || r == -EIO) && failed->in_base) {
			failed->kind = PIECE_BASE;
			continue;
		}
		return damaged ? -EIO : r;
	}
}

static int read_base(struct history *history, uint16_t disk, const struct ground *ground,
	const struct piece *piece)
{
	uint64_t have = piece->lba < ground->sectors
				? MIN((uint64_t)piece->sectors, ground->sectors - piece->lba)
				: 0;
	if (ground->point == 0 && !ground->live)
		have = 0;
	memset(piece->data + have * SECTOR_BYTES, 0, (piece->sectors - have) * SECTOR_BYTES);
	if (have == 0)
		return 0;
	if (!history->base || (ground->live && !history->base->ops->read_live))
		return -EIO;
	if (ground->near)
		return -EAGAIN;
	if (ground->live) {
		int r = history->base->ops->read_live(history->base, disk,
			piece->lba * SECTOR_BYTES, piece->data, have * SECTOR_BYTES);
		return r == -ENOENT ? -EIO : r;
	}
	return history->base->ops->read(history->base, disk, ground->point,
		piece->lba * SECTOR_BYTES, piece->data, have * SECTOR_BYTES);
}

int pieces_read(struct history *history, uint16_t disk, const struct ground *ground,
	struct piece *pieces, unsigned count, struct view_pass *pass)
{
	int r = read_or_leave(history, disk, ground, pieces, count, pass);
	for (unsigned i = 0; i < count && r == 0; i++) {
		struct piece *piece = &pieces[i];
		if (pass && piece->kind == PIECE_FILE)
			view_pass_note(pass, piece);
		if (piece->kind == PIECE_ZERO)
			memset(piece->data, 0, (size_t)piece->sectors * SECTOR_BYTES);
		else if (piece->kind == PIECE_BASE)
			r = read_base(history, disk, ground, piece);
	}
	return r;
}

void pieces_release(struct history *history, struct piece *pieces, unsigned count)
{
	struct segment *used[MAX_PIECES];
	unsigned n = 0;
	for (unsigned i = 0; i < count; i++)
		if (pieces[i].segment)
			used[n++] = pieces[i].segment;
	segments_unpin(history, used, n);
}

/* ── the head ────────────────────────────────────────────────────────────────────────────── */

static bool is_written(const struct extent_map *map, const struct piece *piece)
{
	uint64_t lba = piece->lba, end = piece->lba + piece->sectors;
	struct extent e;
	/* Where the journal's copy could not be proven, that is still mapped. */
	for (; extent_map_find(map, lba, &e) == 0 && e.lba < end; lba = e.lba + e.sectors)
		if (e.segment != piece->extent.segment || e.header != piece->extent.header)
			return true;
	return false;
}

/* While an epoch is being drained, what the journal does not have is read from the base as it lies
 * there, which a drain or a flush writes to at the same time. That is right, because whatever is
 * sent there is in the journal, and in the map, from before it is sent until a record says that it
 * has arrived: what is not in the map is not being written. A read that found a place in no map,
 * and was overtaken by a write to it that is sent already, is told from the others afterwards. */
static bool was_overtaken(struct history *history, uint16_t id, const struct ground *ground,
	const struct piece *pieces, unsigned count)
{
	SCOPED_LOCK(&history->lock);
	const struct disk *disk = disk_find(history, id);
	if (history->vault_point != ground->point || history->drain.lsn != ground->position)
		return true; /* it may have come and been trimmed */
	for (unsigned i = 0; i < count; i++)
		if (pieces[i].kind == PIECE_BASE && disk && disk->map &&
			is_written(disk->map, &pieces[i]))
			return true;
	return false;
}

static struct ground head_ground(const struct history *history, const struct disk *disk, bool near)
{
	if (history->drain.lsn > 0)
		return (struct ground){
			.point = history->vault_point,
			.live = true,
			.sectors = drain_disk_bytes(history, disk->info.id) / SECTOR_BYTES,
			.position = history->drain.lsn,
			.near = near,
		};
	return (struct ground){
		.point = history->vault_point,
		.sectors = disk_bytes_at(disk, history->vault_point) / SECTOR_BYTES,
		.position = history->vault_point ? history->vault_position : 0,
		.near = near,
	};
}

/* Reads what MAX_PIECES pieces cover; returns how many sectors that was: 0 if it must be done once
 * more. */
static int read_some(struct history *history, uint16_t id, uint64_t lba, uint32_t sectors,
	void *data, bool near, uint32_t *ret_sectors, uint64_t *ret_base_point)
{
	struct piece pieces[MAX_PIECES];
	pthread_mutex_lock(&history->lock);
	const struct disk *disk = disk_find(history, id);
	int r = 0;
	if (!disk || disk->info.removed)
		r = -ENOENT;
	else if (lba + sectors > disk->info.size_bytes / SECTOR_BYTES || lba + sectors < lba)
		r = -EINVAL;
	if (r < 0) {
		pthread_mutex_unlock(&history->lock);
		return r;
	}
	const struct ground ground = head_ground(history, disk, near);
	unsigned count =
		pieces_collect(history, disk->map, &ground, lba, sectors, data, pieces, MAX_PIECES);
	pthread_mutex_unlock(&history->lock);

	r = pieces_read(history, id, &ground, pieces, count, NULL);
	pieces_release(history, pieces, count);
	*ret_base_point = ground.live ? 0 : ground.point;
	if (r == 0 && ground.live && was_overtaken(history, id, &ground, pieces, count)) {
		*ret_sectors = 0;
		return 0;
	}
	*ret_sectors = (uint32_t)(pieces[count - 1].lba + pieces[count - 1].sectors - lba);
	return r;
}

static int read_head(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	void *data, bool near)
{
	uint64_t failed_point = 0;
	uint32_t done = 0;
	if (sectors == 0)
		return -EINVAL;
	while (done < sectors) {
		uint32_t n = 0;
		uint64_t base_point = 0;
		int r = read_some(history, disk, lba + done, sectors - done,
			(uint8_t *)data + (size_t)done * SECTOR_BYTES, near, &n, &base_point);
		/* The vault may have moved on and dropped the point meanwhile. */
		if (r == -ENOENT && base_point > failed_point) {
			failed_point = base_point;
			continue;
		}
		if (r < 0)
			return r == -ENOENT && base_point > 0 ? -EIO : r;
		done += n;
	}
	return 0;
}

int history_read(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors, void *data)
{
	return read_head(history, disk, lba, sectors, data, false);
}

int history_read_near(
	struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors, void *data)
{
	return read_head(history, disk, lba, sectors, data, true);
}

int history_next_extent(
	struct history *history, uint16_t id, uint64_t lba, struct extent *ret_extent)
{
	SCOPED_LOCK(&history->lock);
	const struct disk *disk = disk_find(history, id);
	if (!disk || disk->info.removed || !disk->map)
		return -ENOENT;
	return extent_map_find(disk->map, lba, ret_extent);
}

uint64_t history_base_bytes(struct history *history, uint16_t id)
{
	SCOPED_LOCK(&history->lock);
	const struct disk *disk = disk_find(history, id);
	if (!disk || disk->info.removed)
		return 0;
	return head_ground(history, disk, false).sectors * SECTOR_BYTES;
}
