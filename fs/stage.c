/*
 * Staging: records take shape in memory, in batches that commit writes as they are.
 *
 * A batch is a run of whole records at a known place of a segment. The last batch may be open,
 * and in it the last record, to which writes are added until it is full, another kind of record
 * comes, or a commit takes it. All data of one call goes into one record where that is possible
 * (up to a segment's size), so that replay has it whole or not at all.
 *
 * What is staged is at once part of the state: the head maps it, the tables know it. Reads of it
 * are served from the batch until the commit is through.
 *
 * Everything here wants history.lock held. Memory that runs out half-way through a record makes
 * the history fail rather than half-know something: closing and opening it again mends it.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "fs/history_internal.h"

static uint32_t batch_limit(const struct history *history)
{
	return MIN(BATCH_BYTES, history->segment_bytes - JOURNAL_PAGE_BYTES);
}

/* Pages of the kernel's own, so that a small batch costs only what it touches. Used ones are kept
 * while there is work, because having pages made anew costs more than filling them. */
static int take_buffer(struct history *history, uint8_t **ret_buffer)
{
	if (history->spare_buffer_count > 0) {
		*ret_buffer = history->spare_buffers[--history->spare_buffer_count];
		return 0;
	}
	void *p =
		mmap(NULL, BATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	*ret_buffer = p;
	return 0;
}

void stage_free_spare(struct history *history)
{
	while (history->spare_buffer_count > 0)
		munmap(history->spare_buffers[--history->spare_buffer_count], BATCH_BYTES);
}

void stage_free_batch(struct history *history, struct batch *batch)
{
	if (history->spare_buffer_count == MAX_SPARE_BUFFERS)
		munmap(batch->data, BATCH_BYTES);
	else
		history->spare_buffers[history->spare_buffer_count++] = batch->data;
	free(batch);
}

/* Ends the open record: its length is known now, what is behind its payload is zero. */
static void close_record(struct batch *batch)
{
	if (batch->record == UINT32_MAX)
		return;
	struct journal_record *record = (struct journal_record *)(batch->data + batch->record);
	uint32_t end = batch->record + JOURNAL_PAGE_BYTES + batch->record_payload;
	batch->used = (uint32_t)round_up(end, JOURNAL_PAGE_BYTES);
	memset(batch->data + end, 0, batch->used - end);
	record->bytes = batch->used - batch->record;
	batch->record = UINT32_MAX;
	batch->record_payload = 0;
}

static uint32_t batch_end(const struct batch *batch)
{
	if (batch->record == UINT32_MAX)
		return batch->used;
	return batch->record + JOURNAL_PAGE_BYTES + batch->record_payload;
}

void stage_close_batch(struct history *history)
{
	struct batch *batch = history->last_batch;
	if (!batch || batch->closed)
		return;
	close_record(batch);
	batch->closed = true;
	struct segment *segment = batch->segment;
	uint64_t end = batch->offset + batch->used;
	history->live_bytes += end - segment->staged_end;
	segment->staged_end = end;
}

uint64_t stage_open_bytes(const struct history *history)
{
	const struct batch *batch = history->last_batch;
	return batch && !batch->closed ? batch_end(batch) : 0;
}

/* Throws away what is staged, places included. The state still knows it: only for closing. */
void stage_discard(struct history *history)
{
	while (history->batches) {
		struct batch *batch = history->batches;
		history->batches = batch->next;
		stage_free_batch(history, batch);
	}
	history->last_batch = NULL;
	history->staged_bytes = 0;
	history->staged_lsn = history->durable_lsn;
	history->active = NULL;
	for (unsigned i = 0; i < history->segment_count; i++) {
		struct segment *s = history->segments[i];
		s->staged_end = s->end;
		if (s->writer)
			history->active = s;
	}
}

static uint64_t next_lsn(const struct history *history)
{
	return history->staged_lsn + 1;
}

static int begin_segment(struct history *history)
{
	struct segment values = {
		.seq = history->next_seq,
		.incarnation = history->incarnation,
		.first_lsn = next_lsn(history),
		.end = 0,
		.staged_end = JOURNAL_PAGE_BYTES,
	};
	struct segment *segment;
	int r = segment_add(history, &values, &segment);
	if (r < 0)
		return r;
	history->next_seq++;
	history->active = segment;
	return 0;
}

/* A spare is there, and much of the segment's file is still to be made while it is written. */
static bool spare_is_better(const struct history *history, const struct segment *segment)
{
	return segment->fresh && history->spare_bytes > 0 &&
	       segment->staged_end < history->segment_bytes / 4 * 3;
}

/* Makes the last batch one that has room for `bytes` more; closes what was open if need be. */
static int room_for(struct history *history, uint32_t bytes)
{
	struct batch *batch = history->last_batch;
	if (batch && !batch->closed &&
		round_up(batch_end(batch), JOURNAL_PAGE_BYTES) + bytes <= batch->capacity) {
		close_record(batch);
		return 0;
	}
	stage_close_batch(history);
	struct segment *segment = history->active;
	if (!segment || segment->staged_end + bytes > history->segment_bytes ||
		spare_is_better(history, segment)) {
		int r = begin_segment(history);
		if (r < 0)
			return r;
		segment = history->active;
	}
	batch = calloc(1, sizeof(*batch));
	if (!batch)
		return -ENOMEM;
	int r = take_buffer(history, &batch->data);
	if (r < 0) {
		free(batch);
		return r;
	}
	batch->segment = segment;
	batch->offset = segment->staged_end;
	batch->capacity = (uint32_t)MIN(
		(uint64_t)batch_limit(history), history->segment_bytes - segment->staged_end);
	batch->record = UINT32_MAX;
	if (history->last_batch)
		history->last_batch->next = batch;
	else
		history->batches = batch;
	history->last_batch = batch;
	return 0;
}

int stage_record(struct history *history, const struct journal_record *prototype, uint64_t *ret_lsn)
{
	if (history->failed)
		return -EIO;
	if (history->staged_bytes > STAGE_HARD_LIMIT_BYTES)
		return -EAGAIN;
	int r = room_for(history, JOURNAL_PAGE_BYTES);
	if (r < 0)
		return r;
	struct batch *batch = history->last_batch;
	struct journal_record *record = (struct journal_record *)(batch->data + batch->used);
	uint64_t lsn = next_lsn(history);
	record_begin(history, record, prototype->type, batch->segment, lsn);
	record->count = prototype->count;
	memcpy(record->body, prototype->body, sizeof(record->body));
	history->staged_lsn = lsn;
	batch->used += JOURNAL_PAGE_BYTES;
	batch->staged_bytes += JOURNAL_PAGE_BYTES;
	history->staged_bytes += JOURNAL_PAGE_BYTES;
	r = apply_record(history, record);
	if (r < 0) {
		history->failed = true;
		return r;
	}
	*ret_lsn = lsn;
	return 0;
}

static struct journal_point_flags all_flags(
	const struct history *history, const struct journal_point_flags *change)
{
	const struct catalogue_point *p = catalogue_find(history, change->number);
	uint32_t flags = ((p ? p->point.flags : 0) | change->set) & ~change->clear;
	return (struct journal_point_flags){ change->number, flags, ~flags };
}

int stage_point_flags(struct history *history, const struct journal_point_flags *changes,
	uint64_t count, uint64_t *ret_lsn)
{
	int r = 0;
	uint64_t more = count > 0 ? (count - 1) / JOURNAL_MAX_POINT_FLAGS * JOURNAL_PAGE_BYTES : 0;
	/* All or none: what the first records take must not keep the last one out. */
	if (history->staged_bytes > 0 && history->staged_bytes + more > STAGE_HARD_LIMIT_BYTES)
		return -EAGAIN;
	for (uint64_t done = 0; done < count && r == 0;) {
		struct journal_record record = { .type = JOURNAL_POINT_FLAGS };
		record.count = (uint16_t)MIN(count - done, (uint64_t)JOURNAL_MAX_POINT_FLAGS);
		for (unsigned i = 0; i < record.count; i++)
			record.point_flags[i] = all_flags(history, &changes[done + i]);
		r = stage_record(history, &record, ret_lsn);
		if (r < 0 && done > 0)
			history->failed = true;
		done += record.count;
	}
	return r;
}

/* ── data ────────────────────────────────────────────────────────────────────────────────── */

/* One call's data, or as much of it as one record takes. */
struct write {
	uint16_t disk;
	bool zero;
	uint64_t lba, sectors;
	const uint8_t *data;
	const uint64_t *hashes; /* of its blocks */
};

#define WRITE_MAX_BLOCKS (HISTORY_MAX_WRITE_BYTES / SECTOR_BYTES / JOURNAL_BLOCK_SECTORS)
static_assert(HISTORY_MAX_WRITE_BYTES / SECTOR_BYTES / JOURNAL_MAX_PAYLOAD_SECTORS *
				      sizeof(struct journal_extent) +
			      WRITE_MAX_BLOCKS * sizeof(uint64_t) <=
		      JOURNAL_BODY_BYTES,
	"the largest write fits into one record");

static uint64_t piece_limit(const struct write *w)
{
	return w->zero ? EXTENT_MAX_ZERO_SECTORS : JOURNAL_MAX_PAYLOAD_SECTORS;
}

static unsigned piece_count(const struct write *w)
{
	return (unsigned)((w->sectors + piece_limit(w) - 1) / piece_limit(w));
}

static unsigned block_count(const struct write *w)
{
	if (w->zero)
		return 0;
	return (unsigned)((w->sectors + JOURNAL_BLOCK_SECTORS - 1) / JOURNAL_BLOCK_SECTORS);
}

static uint32_t payload_bytes(const struct write *w)
{
	return w->zero ? 0 : (uint32_t)(w->sectors * SECTOR_BYTES);
}

/* Finds or begins a data record that takes all of `w`. `ret_begun`: bytes of the journal that it
 * takes for itself, at most. */
static int data_record(struct history *history, const struct write *w, uint64_t *ret_begun)
{
	struct batch *batch = history->last_batch;
	if (batch && !batch->closed && batch->record != UINT32_MAX) {
		const struct journal_record *open =
			(const struct journal_record *)(batch->data + batch->record);
		if (record_body_fits(
			    open->count + piece_count(w), batch->record_hashes + block_count(w)) &&
			round_up(batch_end(batch) + payload_bytes(w), JOURNAL_PAGE_BYTES) <=
				batch->capacity) {
			*ret_begun = 0;
			return 0;
		}
	}
	uint32_t need =
		(uint32_t)round_up(JOURNAL_PAGE_BYTES + payload_bytes(w), JOURNAL_PAGE_BYTES);
	int r = room_for(history, need);
	if (r < 0)
		return r;
	batch = history->last_batch;
	batch->record = batch->used;
	batch->record_payload = 0;
	batch->record_hashes = 0;
	uint64_t lsn = next_lsn(history);
	record_begin(history, (struct journal_record *)(batch->data + batch->record), JOURNAL_DATA,
		batch->segment, lsn);
	history->staged_lsn = lsn;
	*ret_begun = 2 * JOURNAL_PAGE_BYTES; /* its header, and what fills its last page */
	return 0;
}

static int add_pieces(struct history *history, const struct write *w)
{
	struct batch *batch = history->last_batch;
	struct journal_record *record = (struct journal_record *)(batch->data + batch->record);
	uint64_t done = 0;
	for (unsigned b = 0; b < block_count(w); b++)
		record->hashes[JOURNAL_MAX_HASHES - ++batch->record_hashes] = w->hashes[b];
	while (done < w->sectors) {
		uint32_t sectors = (uint32_t)MIN(w->sectors - done, piece_limit(w));
		unsigned i = record->count++;
		record->extents[i] = (struct journal_extent){
			.disk = w->disk,
			.flags = w->zero ? JOURNAL_ZERO : 0,
			.sectors = sectors,
			.lba = w->lba + done,
		};
		if (!w->zero) {
			size_t n = (size_t)sectors * SECTOR_BYTES;
			memcpy(batch->data + batch_end(batch), w->data + done * SECTOR_BYTES, n);
			batch->record_payload += (uint32_t)n;
		}
		struct extent e = record_extent(
			record, i, batch->segment->seq, batch->offset + batch->record);
		int r = apply_extent(history, w->disk, &e);
		if (r < 0)
			return r;
		done += sectors;
	}
	return 0;
}

static int stage_data(struct history *history, const struct write *w)
{
	uint64_t begun;
	int r = data_record(history, w, &begun);
	if (r < 0)
		return r;
	uint64_t payload = payload_bytes(w);
	uint64_t counted = MAX(payload + begun, (uint64_t)JOURNAL_PAGE_BYTES);
	struct batch *batch = history->last_batch;
	batch->staged_bytes += counted;
	batch->segment->payload_bytes += payload;
	history->staged_bytes += counted;
	history->payload_total += payload;
	history->changes++;
	history->changed_bytes += w->sectors * SECTOR_BYTES;
	if (w->zero)
		history->zeroed_bytes += w->sectors * SECTOR_BYTES;
	else
		history->written_bytes += payload;
	r = add_pieces(history, w);
	if (r < 0)
		history->failed = true;
	return r;
}

static int admit(const struct history *history, uint16_t disk_id, uint64_t lba, uint64_t sectors,
	uint64_t payload, bool late)
{
	if (history->failed)
		return -EIO;
	const struct disk *disk = disk_find(history, disk_id);
	if (!disk || disk->info.removed)
		return -ENOENT;
	uint64_t size = disk->info.size_bytes / SECTOR_BYTES;
	if (sectors == 0 || lba > size || sectors > size - lba)
		return -EINVAL;
	if (history->staged_bytes > 0 && history->staged_bytes + payload > STAGE_LIMIT_BYTES)
		return -EAGAIN;
	uint64_t used = history->live_bytes + history->checkpoint_bytes + payload +
			JOURNAL_PAGE_BYTES + stage_open_bytes(history);
	if (!late && used > history->limit_bytes / 100 * 97)
		return -ENOSPC;
	return 0;
}

static int write_hashed(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, const uint64_t *hashes, bool late, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	int r = admit(history, disk, lba, sectors, (uint64_t)sectors * SECTOR_BYTES, late);
	uint64_t most = (batch_limit(history) - JOURNAL_PAGE_BYTES) / SECTOR_BYTES;
	for (uint64_t done = 0; done < sectors && r == 0;) {
		struct write w = {
			.disk = disk,
			.lba = lba + done,
			.sectors = MIN(sectors - done, most),
			.data = (const uint8_t *)data + done * SECTOR_BYTES,
			.hashes = &hashes[done / JOURNAL_BLOCK_SECTORS],
		};
		r = stage_data(history, &w);
		if (r < 0 && done > 0)
			history->failed = true;
		done += w.sectors;
	}
	if (r == 0)
		*ret_lsn = history->staged_lsn;
	return r;
}

static int write_data(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, bool late, uint64_t *ret_lsn)
{
	if (sectors > HISTORY_MAX_WRITE_BYTES / SECTOR_BYTES)
		return -EINVAL;
	/* Here and not in the commit, so that the writer's hashing goes on beside the committer's
	 * writing, and what memory does to the data afterwards is noticed. */
	uint64_t hashes[WRITE_MAX_BLOCKS];
	record_hash_blocks(data, (size_t)sectors * SECTOR_BYTES, hashes);
	return write_hashed(history, disk, lba, sectors, data, hashes, late, ret_lsn);
}

int history_write(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, uint64_t *ret_lsn)
{
	return write_data(history, disk, lba, sectors, data, false, ret_lsn);
}

int history_write_late(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, uint64_t *ret_lsn)
{
	return write_data(history, disk, lba, sectors, data, true, ret_lsn);
}

int history_write_hashed(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, const uint64_t *hashes, uint64_t *ret_lsn)
{
	if (sectors > HISTORY_MAX_WRITE_BYTES / SECTOR_BYTES)
		return -EINVAL;
	return write_hashed(history, disk, lba, sectors, data, hashes, false, ret_lsn);
}

int history_zero(
	struct history *history, uint16_t disk, uint64_t lba, uint64_t sectors, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	int r = admit(history, disk, lba, sectors, 0, false);
	struct write w = { .disk = disk, .zero = true, .lba = lba, .sectors = sectors };
	if (r == 0)
		r = stage_data(history, &w);
	if (r == 0)
		*ret_lsn = history->staged_lsn;
	return r;
}

int stage_zero_disk(struct history *history, uint16_t disk, uint64_t size_bytes)
{
	struct write w = { .disk = disk, .zero = true, .sectors = size_bytes / SECTOR_BYTES };
	return stage_data(history, &w);
}

const struct batch *stage_find(
	const struct history *history, const struct segment *segment, uint64_t offset)
{
	for (const struct batch *b = history->batches; b; b = b->next)
		if (b->segment == segment && offset >= b->offset &&
			offset < b->offset + MAX(b->used, batch_end(b)))
			return b;
	return NULL;
}
