/*
 * The records of one segment, read in order, with the chain checked from each to the next.
 *
 * Headers are read through a window: small records sit side by side, so a large read gets many;
 * behind a large record only its page is read. Used at opening, for indexes that are missing,
 * and for views into a segment that has none yet. Takes no lock: it reads only what has been
 * committed, or what an earlier life has left.
 */
#include <errno.h>
#include <string.h>

#include "fs/history_internal.h"

#define WINDOW_BYTES (256u << 10)
#define SMALL_RECORD_BYTES (64u << 10)

int scan_open(struct history *history, uint64_t seq, struct scan *ret_scan)
{
	struct scan scan = { .history = history, .seq = seq, .window_next = WINDOW_BYTES };
	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, seq, "seg", path);
	int r = io_open(history->io, path, IO_READ, &scan.file);
	if (r < 0)
		return r;
	r = io_size(scan.file, &scan.file_bytes);
	if (r == 0) {
		scan.window = malloc(WINDOW_BYTES);
		r = scan.window ? 0 : -ENOMEM;
	}
	if (r < 0) {
		io_close(scan.file);
		return r;
	}
	*ret_scan = scan;
	return 0;
}

void scan_close(struct scan *scan)
{
	io_close(scan->file);
	free(scan->window);
	*scan = (struct scan){ 0 };
}

int scan_page(struct scan *scan, uint64_t offset, const void **ret_page)
{
	if (offset + JOURNAL_PAGE_BYTES > scan->file_bytes) {
		*ret_page = NULL;
		return 0;
	}
	if (offset < scan->window_at ||
		offset + JOURNAL_PAGE_BYTES > scan->window_at + scan->window_bytes) {
		size_t n = MIN((uint64_t)scan->window_next, scan->file_bytes - offset), got;
		int r = io_read(scan->file, scan->window, n, offset, &got);
		if (r < 0)
			return r;
		scan->window_at = offset;
		scan->window_bytes = (uint32_t)got;
		if (got < JOURNAL_PAGE_BYTES) {
			*ret_page = NULL;
			return 0;
		}
	}
	*ret_page = scan->window + (offset - scan->window_at);
	return 0;
}

int scan_record(struct scan *scan, uint64_t offset, const struct journal_record **ret_record)
{
	const void *page;
	int r = scan_page(scan, offset, &page);
	if (r < 0)
		return r;
	const struct journal_record *record = page;
	if (!record || !record_check(scan->history, record, scan->seq, offset)) {
		*ret_record = NULL;
		return 0;
	}
	scan->window_next = record->bytes > SMALL_RECORD_BYTES ? JOURNAL_PAGE_BYTES : WINDOW_BYTES;
	*ret_record = record;
	return 0;
}

/* Proves the payloads of a record just returned (copied by the caller). */
static int prove_payloads(
	struct scan *scan, uint64_t offset, const struct journal_record *record, bool *ret_good)
{
	*ret_good = true;
	if (record->type != JOURNAL_DATA)
		return 0;
	CLEANUP_FREE uint8_t *payload = malloc((size_t)JOURNAL_MAX_PAYLOAD_SECTORS * SECTOR_BYTES);
	if (!payload)
		return -ENOMEM;
	uint64_t at = offset + JOURNAL_PAGE_BYTES;
	unsigned hash = JOURNAL_MAX_HASHES;
	for (unsigned i = 0; i < record->count && *ret_good; i++) {
		const struct journal_extent *e = &record->extents[i];
		if (e->flags & JOURNAL_ZERO)
			continue;
		size_t n = (size_t)e->sectors * SECTOR_BYTES, got;
		int r = io_read(scan->file, payload, n, at, &got);
		if (r < 0)
			return r;
		uint64_t hashes[JOURNAL_MAX_BLOCKS];
		for (unsigned b = 0; b < record_block_count(e); b++)
			hashes[b] = record->hashes[--hash];
		*ret_good = got == n && record_blocks_good(hashes, payload, n);
		at += n;
	}
	return 0;
}

int scan_chain(struct scan *scan, uint64_t first_lsn, uint64_t lsn_limit, uint64_t verify_above,
	scan_each *each, void *context, struct scan_end *end)
{
	uint64_t incarnation = 0, expected = first_lsn;
	CLEANUP_FREE struct journal_record *copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	while (end->lsn < lsn_limit) {
		const struct journal_record *record;
		int r = scan_record(scan, end->offset, &record);
		if (r < 0)
			return r;
		if (!record || record->lsn != expected || record->prev_hash != end->hash ||
			(incarnation != 0 && record->incarnation != incarnation) ||
			record->lsn > lsn_limit)
			return 0;
		memcpy(copy, record, sizeof(*copy));
		if (copy->lsn > verify_above) {
			bool good;
			r = prove_payloads(scan, end->offset, copy, &good);
			if (r < 0)
				return r;
			if (!good)
				return 0;
		}
		r = each ? each(context, end->offset, copy) : 0;
		if (r < 0)
			return r;
		incarnation = copy->incarnation;
		end->offset += copy->bytes;
		end->lsn = copy->lsn;
		end->hash = copy->checksum;
		expected = copy->lsn + 1;
	}
	return 0;
}
