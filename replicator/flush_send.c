/*
 * Step 2 of a flush, for one disk: its size and footer, its changes, and the hashes of the pages
 * they touch.
 *
 * The hash of a page is of what is in the buffer that is sent: the one that the journal's proof
 * was just made with, or, for a page that was put together from several writes, a new one. So what
 * is proven is what is sent. Pages of zeros are told apart: they are cleared, not sent, and need no
 * hash.
 *
 * A disk is grown here and not earlier, since the snapshots of older points must keep their size:
 * its old footer is cleared first, then the blob grows, then the new footer is written. A flush
 * redone after a crash finds one of these states and, not having proven the footer itself, writes
 * it again.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/vhd.h"
#include "replicator/backoff.h"
#include "replicator/flush_plan.h"

#define DEFAULT_GAP_BYTES (64u << 10)

/* ── the view as changes ─────────────────────────────────────────────────────────────────── */

struct changes {
	struct view *view;
	uint16_t disk;
};

static int next_change(void *context, uint64_t lba, struct extent *ret_extent)
{
	struct changes *c = context;
	return view_next_change(c->view, c->disk, lba, ret_extent);
}

static bool is_local(void *context, uint64_t lba, uint64_t sectors)
{
	struct changes *c = context;
	return view_is_local(c->view, c->disk, lba, sectors);
}

uint64_t flush_count_changes(struct flush *flush)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < flush->manifest.disk_count; i++) {
		struct extent e;
		for (uint64_t lba = 0;
			view_next_change(flush->view, flush->manifest.disks[i].id, lba, &e) == 0;
			lba = e.lba + e.sectors)
			bytes += e.sectors * SECTOR_BYTES;
	}
	return bytes;
}

/* ── size and footer ─────────────────────────────────────────────────────────────────────── */

static int resize(struct flush *flush, struct flush_disk *disk, uint64_t blob_bytes)
{
	struct blob_store *store = flush->flusher->options.store;
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	backoff_start(&backoff, flush->flusher->options.clock, &flush->flusher->cancel);
	do {
		r = store->ops->resize(store, disk->blob, blob_bytes, disk->target.lease_id, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r < 0)
		return vault_fail(flush->error, r, &e, "cannot resize %s", disk->blob);
	disk->target.size_bytes = blob_bytes;
	return 0;
}

static int put_footer(struct flush *flush, struct flush_disk *disk, uint64_t disk_bytes)
{
	const struct vault_disk *known = vault_disk_of(flush->flusher->options.group, disk->id);
	struct sender_buffer *buffer;
	int r = sender_buffer_get(flush->sender, VHD_FOOTER_BYTES, flush->error, &buffer);
	if (r < 0)
		return r;
	r = vhd_footer_format(disk_bytes, &known->vhd_id, known->created_ns, buffer->data);
	if (r < 0)
		error_set(flush->error, r, "give the disk a whole number of MiB, below 8 TiB",
			"%s: %" PRIu64 " bytes is no size for a VHD", known->name, disk_bytes);
	if (r == 0)
		r = sender_put(flush->sender, &disk->target, disk_bytes, buffer, 0,
			VHD_FOOTER_BYTES, flush->error);
	sender_buffer_release(flush->sender, buffer);
	return r;
}

static int fit(struct flush *flush, struct flush_disk *disk, uint64_t disk_bytes)
{
	uint64_t want = disk_bytes + VHD_FOOTER_BYTES, have = disk->target.size_bytes;
	int r = 0;
	if (have < want) {
		r = sender_clear(flush->sender, &disk->target, have - VHD_FOOTER_BYTES,
			VHD_FOOTER_BYTES, flush->error);
		if (r == 0)
			r = sender_drain(flush->sender, flush->error);
	}
	if (r == 0 && have != want)
		r = resize(flush, disk, want);
	if (r == 0)
		r = put_footer(flush, disk, disk_bytes);
	if (r == 0)
		r = sender_drain(flush->sender, flush->error);
	disk->footer_proven = r == 0;
	return r;
}

/* ── content ─────────────────────────────────────────────────────────────────────────────── */

struct hashed {
	uint64_t hashes[FLUSH_PIECE_PAGES];
	bool zero[FLUSH_PIECE_PAGES];
};

static int add_hashes(struct flush *flush, struct manifest_disk *disk,
	const struct flush_piece *piece, const struct hashed *h)
{
	int r = 0;
	for (uint32_t i = 0, n; r == 0 && i < piece->count; i += n) {
		n = 1;
		if (!flush_piece_is_dirty(piece, i))
			continue;
		while (i + n < piece->count && flush_piece_is_dirty(piece, i + n) &&
			h->zero[i + n] == h->zero[i])
			n++;
		r = hashes_writer_add(flush->writer, disk->id, piece->first + i, n,
			h->zero[i] ? NULL : h->hashes + i);
		disk->changed_ranges++;
		if (h->zero[i])
			disk->zero_bytes += (uint64_t)n * HASHES_PAGE_BYTES;
		else
			disk->data_bytes += (uint64_t)n * HASHES_PAGE_BYTES;
		flush->dirty_pages += n;
	}
	if (r < 0 && flush->error)
		*flush->error = flush->stage.error;
	return r;
}

static uint32_t zeros_at(const struct hashed *h, uint32_t at, uint32_t count)
{
	uint32_t n = 0;
	while (at + n < count && h->zero[at + n])
		n++;
	return n;
}

/* Puts what is data, clears what is zero over a long stretch. */
static int send_pages(struct flush *flush, struct flush_disk *disk, const struct flush_piece *piece,
	struct sender_buffer *buffer, const struct hashed *h)
{
	int r = 0;
	for (uint32_t at = 0; r == 0 && at < piece->count;) {
		uint32_t zeros = zeros_at(h, at, piece->count), n = zeros;
		uint64_t offset = ((uint64_t)piece->first + at) * HASHES_PAGE_BYTES;
		if (zeros >= FLUSH_ZERO_PAGES || zeros == piece->count - at) {
			r = sender_clear(flush->sender, &disk->target, offset,
				(uint64_t)n * HASHES_PAGE_BYTES, flush->error);
			at += n;
			continue;
		}
		while (at + n < piece->count) {
			zeros = zeros_at(h, at + n, piece->count);
			if (zeros >= FLUSH_ZERO_PAGES ||
				(zeros > 0 && at + n + zeros == piece->count))
				break;
			n += zeros > 0 ? zeros : 1;
		}
		r = sender_put(flush->sender, &disk->target, offset, buffer,
			(size_t)at * HASHES_PAGE_BYTES, (size_t)n * HASHES_PAGE_BYTES,
			flush->error);
		flush->sent_pages += n;
		at += n;
	}
	return r;
}

/* Reads the piece and tells the hash of each of its pages, or that it is zeros. */
static int read_piece(struct flush *flush, const struct manifest_disk *disk,
	const struct flush_piece *piece, unsigned char *data, struct hashed *ret_h)
{
	uint64_t lba = (uint64_t)piece->first * FLUSH_PAGE_SECTORS, zeros = hashes_of_zeros();
	bool known[FLUSH_PIECE_PAGES];
	int r = view_pass_read(flush->pass, disk->id, lba, piece->count * FLUSH_PAGE_SECTORS, data,
		ret_h->hashes, known);
	for (uint32_t i = 0; r == 0 && i < piece->count; i++) {
		const unsigned char *page = data + (size_t)i * HASHES_PAGE_BYTES;
		ret_h->zero[i] = (!known[i] || ret_h->hashes[i] == zeros) &&
				 is_zero(page, HASHES_PAGE_BYTES);
		if (!known[i] && !ret_h->zero[i])
			ret_h->hashes[i] = hashes_of_page(page);
	}
	if (r == -EIO)
		return error_set(flush->error, r,
			"see the log for the damaged file; write what the disk must hold again, or "
			"use an earlier point",
			"disk %s at byte %" PRIu64 ": the journal's content cannot be proven",
			disk->name, lba * SECTOR_BYTES);
	if (r < 0)
		return error_set(flush->error, r, NULL,
			"disk %s at byte %" PRIu64 " cannot be read: %s", disk->name,
			lba * SECTOR_BYTES, strerror(-r));
	return 0;
}

static int send_piece(struct flush *flush, struct manifest_disk *disk, struct flush_disk *target,
	const struct flush_piece *piece)
{
	struct sender_buffer *buffer;
	struct hashed h;
	size_t n = (size_t)piece->count * HASHES_PAGE_BYTES;
	int r = sender_buffer_get(flush->sender, n, flush->error, &buffer);
	if (r < 0)
		return r;
	r = read_piece(flush, disk, piece, buffer->data, &h);
	if (r == 0)
		r = add_hashes(flush, disk, piece, &h);
	if (r == 0)
		r = send_pages(flush, target, piece, buffer, &h);
	sender_buffer_release(flush->sender, buffer);
	return r;
}

static int send_zeros(struct flush *flush, struct manifest_disk *disk, struct flush_disk *target,
	const struct flush_piece *piece)
{
	uint64_t bytes = (uint64_t)piece->count * HASHES_PAGE_BYTES;
	int r = hashes_writer_add(flush->writer, disk->id, piece->first, piece->count, NULL);
	if (r < 0) {
		if (flush->error)
			*flush->error = flush->stage.error;
		return r;
	}
	disk->changed_ranges++;
	disk->zero_bytes += bytes;
	return sender_clear(flush->sender, &target->target,
		(uint64_t)piece->first * HASHES_PAGE_BYTES, bytes, flush->error);
}

static int send_changes(struct flush *flush, struct manifest_disk *disk, struct flush_disk *target)
{
	const struct flusher_options *options = &flush->flusher->options;
	struct changes changes = { flush->view, disk->id };
	struct flush_changes source = { next_change, is_local, &changes };
	struct flush_plan plan;
	struct flush_piece piece;
	int r;
	flush_plan_init(
		&plan, &source, options->gap_bytes ? options->gap_bytes : DEFAULT_GAP_BYTES);
	while ((r = flush_plan_next(&plan, &piece)) == 0) {
		r = piece.zero ? send_zeros(flush, disk, target, &piece)
			       : send_piece(flush, disk, target, &piece);
		if (r < 0)
			return r;
	}
	if (r == -ENOENT)
		return 0;
	return error_set(flush->error, r, NULL, "the changes of disk %s cannot be told: %s",
		disk->name, strerror(-r));
}

int flush_send_disk(struct flush *flush, unsigned index)
{
	struct manifest_disk *disk = &flush->manifest.disks[index];
	struct flush_disk *target = flush->disks[index];
	struct extent first;
	int r = view_next_change(flush->view, disk->id, 0, &first);
	if (r < 0 && r != -ENOENT)
		return error_set(flush->error, r, NULL, "the changes of disk %s cannot be told: %s",
			disk->name, strerror(-r));
	bool fits = target->footer_proven &&
		    target->target.size_bytes == disk->size_bytes + VHD_FOOTER_BYTES;
	if (r == -ENOENT && fits)
		return 0;
	r = sender_raise(
		flush->sender, &target->target, (int64_t)(flush->point.number << 16), flush->error);
	if (r == 0 && !fits)
		r = fit(flush, target, disk->size_bytes);
	return r < 0 ? r : send_changes(flush, disk, target);
}
