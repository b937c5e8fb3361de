/*
 * Step 2 of a flush: the changes of all disks, and the hashes of the pages they touch.
 *
 * The disks take turns, a piece each, so that none waits for another: a blob that has reached its
 * limits is passed over until it may be written to again. The requests of all of them share the
 * sender's. Their hashes go through lanes, because they are wanted disk by disk; a disk whose lane
 * may not be added to is passed over as well. The first disk that is not done never is: so there is
 * always one whose turn it can be.
 *
 * The hash of a page is of what is in the buffer that is sent: the one that the journal's proof
 * was just made with, or, for a page that was put together from several writes, a new one. So what
 * is proven is what is sent. Pages of zeros are told apart: they are cleared, not sent, and need no
 * hash.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/vhd.h"
#include "replicator/flush_plan.h"

#define DEFAULT_GAP_BYTES (64u << 10)

/* A disk whose turn comes and comes. */
struct sending {
	struct flush *flush;
	unsigned lane;
	struct manifest_disk *disk;
	struct flush_disk *target;
	struct flush_plan plan;
	bool done;
};

/* ── the view as changes ─────────────────────────────────────────────────────────────────── */

static int next_change(void *context, uint64_t lba, struct extent *ret_extent)
{
	struct sending *s = context;
	return flush_next_change(s->flush, s->lane, lba, ret_extent);
}

static bool is_local(void *context, uint64_t lba, uint64_t sectors)
{
	struct sending *s = context;
	return view_is_local(s->flush->view, s->disk->id, lba, sectors);
}

uint64_t flush_count_changes(struct flush *flush)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < flush->manifest.disk_count; i++) {
		struct extent e;
		for (uint64_t lba = 0; flush_next_change(flush, i, lba, &e) == 0;
			lba = e.lba + e.sectors)
			bytes += e.sectors * SECTOR_BYTES;
	}
	return bytes;
}

/* ── content ─────────────────────────────────────────────────────────────────────────────── */

/* What the vault answered to a part of the hashes is in the stage. */
static int hashes_failed(struct flush *flush, int r)
{
	if (flush->stage.error.code == 0)
		return error_set(flush->error, r, NULL, "not enough memory for the hashes");
	if (flush->error)
		*flush->error = flush->stage.error;
	return r;
}

struct hashed {
	uint64_t hashes[FLUSH_PIECE_PAGES];
	bool zero[FLUSH_PIECE_PAGES];
};

/* `hashes` NULL: zeros. */
static int add_hashes(struct sending *s, uint32_t first, uint32_t count, const uint64_t *hashes)
{
	struct flush *flush = s->flush;
	int r = hashes_lanes_add(flush->lanes, s->lane, first, count, hashes);
	s->disk->changed_ranges++;
	if (hashes)
		s->disk->data_bytes += (uint64_t)count * HASHES_PAGE_BYTES;
	else
		s->disk->zero_bytes += (uint64_t)count * HASHES_PAGE_BYTES;
	return r < 0 ? hashes_failed(flush, r) : 0;
}

static int add_dirty(struct sending *s, const struct flush_piece *piece, const struct hashed *h)
{
	int r = 0;
	for (uint32_t i = 0, n; r == 0 && i < piece->count; i += n) {
		n = 1;
		if (!flush_piece_is_dirty(piece, i))
			continue;
		while (i + n < piece->count && flush_piece_is_dirty(piece, i + n) &&
			h->zero[i + n] == h->zero[i])
			n++;
		r = add_hashes(s, piece->first + i, n, h->zero[i] ? NULL : h->hashes + i);
		s->flush->dirty_pages += n;
	}
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

static int send_data(struct sending *s, const struct flush_piece *piece)
{
	struct flush *flush = s->flush;
	struct sender_buffer *buffer;
	struct hashed h;
	size_t n = (size_t)piece->count * HASHES_PAGE_BYTES;
	int r = sender_buffer_get(flush->sender, n, flush->error, &buffer);
	if (r < 0)
		return r;
	r = read_piece(flush, s->disk, piece, buffer->data, &h);
	if (r == 0)
		r = add_dirty(s, piece, &h);
	if (r == 0)
		r = send_pages(flush, s->target, piece, buffer, &h);
	sender_buffer_release(flush->sender, buffer);
	return r;
}

static int send_zeros(struct sending *s, const struct flush_piece *piece)
{
	int r = add_hashes(s, piece->first, piece->count, NULL);
	if (r < 0)
		return r;
	return sender_clear(s->flush->sender, &s->target->target,
		(uint64_t)piece->first * HASHES_PAGE_BYTES,
		(uint64_t)piece->count * HASHES_PAGE_BYTES, s->flush->error);
}

/* ── turns ───────────────────────────────────────────────────────────────────────────────── */

static int end(struct sending *s)
{
	s->done = true;
	int r = hashes_lanes_end(s->flush->lanes, s->lane);
	return r < 0 ? hashes_failed(s->flush, r) : 0;
}

/* The disk's number, size and footer; ends it if that is all. */
static int begin(struct sending *s)
{
	struct flush *flush = s->flush;
	const struct flusher_options *options = &flush->flusher->options;
	const struct flush_changes changes = { next_change, is_local, s };
	uint64_t size_bytes = s->disk->size_bytes;
	struct extent first;
	flush_plan_init(
		&s->plan, &changes, options->gap_bytes ? options->gap_bytes : DEFAULT_GAP_BYTES);
	int found = flush_next_change(flush, s->lane, 0, &first);
	if (found < 0 && found != -ENOENT)
		return error_set(flush->error, found, NULL,
			"the changes of disk %s cannot be told: %s", s->disk->name,
			strerror(-found));
	bool fits = s->target->footer_proven &&
		    s->target->target.size_bytes == size_bytes + VHD_FOOTER_BYTES;
	int r = 0;
	if (found == 0 || !fits)
		r = sender_raise(flush->sender, &s->target->target,
			(int64_t)(flush->point.number << 16), flush->error);
	if (r == 0 && !fits)
		r = flush_fit_disk(flush, s->target, size_bytes);
	return r < 0 || found == 0 ? r : end(s);
}

static int take_turn(struct sending *s)
{
	struct flush_piece piece;
	int r = flush_plan_next(&s->plan, &piece);
	if (r == -ENOENT)
		return end(s);
	if (r < 0)
		return error_set(s->flush->error, r, NULL,
			"the changes of disk %s cannot be told: %s", s->disk->name, strerror(-r));
	return piece.zero ? send_zeros(s, &piece) : send_data(s, &piece);
}

/* Whose turn it is after `last`: the next disk that may be written to at once, or soonest. NULL:
 * all are done. */
static struct sending *next_turn(struct sending *all, unsigned count, unsigned last)
{
	struct sending *best = NULL;
	int64_t best_ns = INT64_MAX;
	for (unsigned i = 1; i <= count && best_ns > 0; i++) {
		struct sending *s = &all[(last + i) % count];
		if (s->done || !hashes_lanes_may_add(s->flush->lanes, s->lane))
			continue;
		int64_t wait_ns =
			sender_wait_ns(s->flush->sender, &s->target->target, BLOB_MAX_PUT_BYTES);
		if (wait_ns < best_ns) {
			best = s;
			best_ns = wait_ns;
		}
	}
	return best;
}

int flush_send_disks(struct flush *flush)
{
	unsigned count = flush->manifest.disk_count, last = 0;
	CLEANUP_FREE struct sending *all = calloc(count + 1, sizeof(*all));
	int r = 0;
	if (!all)
		return error_set(flush->error, -ENOMEM, NULL, "not enough memory to flush");
	for (unsigned i = 0; i < count; i++)
		all[i] = (struct sending){ .flush = flush,
			.lane = i,
			.disk = &flush->manifest.disks[i],
			.target = flush->disks[i] };
	/* All sizes first: a footer is written when nothing else is under way. */
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = begin(&all[i]);
	for (struct sending *s; r == 0 && (s = next_turn(all, count, last)); last = s->lane)
		r = take_turn(s);
	return r < 0 ? r : sender_drain(flush->sender, flush->error);
}
