/*
 * One pass over a view: see history.h.
 *
 * A flush reads every change once and never again. Through the kernel's memory that costs more
 * than all the rest of its work: pages are found, charged, filled and copied, and what others
 * could use is pushed out. So long stretches are read straight into the caller's memory, by
 * handles of the pass's own. Their blocks are proven by the journal's hashes (XXH3-64 of 4 KiB);
 * where a block is a whole one of the disk's as well, its hash is handed on.
 *
 * A handle is found by its segment's number, which is given out once. So one that stays open
 * while the file has become another's is never asked for.
 *
 * One thread.
 */
#include <errno.h>
#include <string.h>

#include "fs/view_internal.h"

/* Below this the kernel's memory serves as well, and neighbours may want the same pages. */
#define DIRECT_LEAST_BYTES (64u * 1024)

struct io_file *view_pass_file(struct view_pass *pass, const struct segment *segment,
	uint64_t offset, uint32_t bytes, const void *data)
{
	char path[SEGMENT_PATH_BYTES(pass->history)];
	if (bytes < DIRECT_LEAST_BYTES ||
		!is_aligned(offset | bytes | (uintptr_t)data, IO_DIRECT_ALIGN))
		return NULL;
	for (unsigned i = 0; i < VIEW_PASS_HANDLES; i++)
		if (pass->handles[i].file && pass->handles[i].seq == segment->seq)
			return pass->handles[i].file;
	struct view_pass_handle *handle = &pass->handles[pass->next++ % VIEW_PASS_HANDLES];
	io_close(TAKE(handle->file));
	segment_path(pass->history, segment->seq, "seg", path);
	if (io_open(pass->history->io, path, IO_READ | IO_DIRECT, &handle->file) < 0)
		return NULL; /* the segment's own reader will tell */
	handle->seq = segment->seq;
	return handle->file;
}

void view_pass_note(struct view_pass *pass, const struct piece *piece)
{
	const struct payload *p = &piece->payload;
	/* Where the first block of the payload lies on the disk: at what is mapped, or before. */
	uint64_t lba = piece->lba - p->skip_bytes / SECTOR_BYTES;
	uint64_t end = piece->lba + piece->sectors;
	if (!is_aligned(lba, JOURNAL_BLOCK_SECTORS))
		return;
	for (uint32_t i = 0; lba + JOURNAL_BLOCK_SECTORS <= end; i++) {
		if (lba >= piece->lba) {
			uint64_t at = (lba - pass->lba) / JOURNAL_BLOCK_SECTORS;
			pass->hashes[at] = p->hashes[i];
			pass->known[at] = true;
		}
		lba += JOURNAL_BLOCK_SECTORS;
	}
}

int view_pass_new(struct view *view, struct view_pass **ret_pass)
{
	struct view_pass *pass = calloc(1, sizeof(*pass));
	if (!pass)
		return -ENOMEM;
	pass->view = view;
	pass->history = view->history;
	*ret_pass = pass;
	return 0;
}

void view_pass_free(struct view_pass *pass)
{
	if (!pass)
		return;
	for (unsigned i = 0; i < VIEW_PASS_HANDLES; i++)
		io_close(pass->handles[i].file);
	free(pass);
}

int view_pass_read(struct view_pass *pass, uint16_t disk, uint64_t lba, uint32_t sectors,
	void *data, uint64_t *ret_hashes, bool *ret_known)
{
	if (!is_aligned(lba, JOURNAL_BLOCK_SECTORS))
		return -EINVAL;
	pass->lba = lba;
	pass->hashes = ret_hashes;
	pass->known = ret_known;
	memset(ret_known, 0,
		round_up(sectors, JOURNAL_BLOCK_SECTORS) / JOURNAL_BLOCK_SECTORS *
			sizeof(*ret_known));
	return view_read_in_pass(pass->view, pass, disk, lba, sectors, data);
}
