/*
 * A disk's size and footer, before its changes are sent.
 *
 * A disk is grown here and not earlier, since the snapshots of older points must keep their size:
 * its old footer is cleared first, then the blob grows, then the new footer is written. A flush
 * redone after a crash finds one of these states and, not having proven the footer itself, writes
 * it again. Resizing knows no sequence number; vault_disk_resize tells what fences it.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>

#include "fs/vhd.h"
#include "replicator/backoff.h"

/* Asked after the number was raised: from then on nobody's late resize can change it. */
static int look(struct flush *flush, struct flush_disk *disk, struct backoff *backoff)
{
	struct blob_store *store = flush->flusher->options.store;
	struct blob_error e = { 0 };
	struct blob_properties properties;
	int r;
	do {
		r = store->ops->properties(store, disk->blob, &e, &properties);
	} while (r < 0 && backoff_again(backoff, r, &e));
	if (r < 0)
		return vault_fail(flush->error, r, &e, "cannot look at %s", disk->blob);
	disk->target.size_bytes = properties.size_bytes;
	return 0;
}

static int resize(
	struct flush *flush, struct flush_disk *disk, uint64_t blob_bytes, struct backoff *backoff)
{
	int r = vault_disk_resize(flush->flusher->options.store, disk->blob, blob_bytes,
		disk->target.lease_id, backoff, flush->error);
	if (r == 0)
		disk->target.size_bytes = blob_bytes;
	return r;
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

int flush_fit_disk(struct flush *flush, struct flush_disk *disk, uint64_t disk_bytes)
{
	uint64_t want = disk_bytes + VHD_FOOTER_BYTES;
	struct backoff backoff;
	backoff_start(&backoff, flush->flusher->options.store, &flush->flusher->cancel);
	int r = look(flush, disk, &backoff);
	uint64_t have = disk->target.size_bytes;
	if (r == 0 && have < want) {
		r = sender_clear(flush->sender, &disk->target, have - VHD_FOOTER_BYTES,
			VHD_FOOTER_BYTES, flush->error);
		if (r == 0)
			r = sender_drain(flush->sender, flush->error);
		/* Data will lie there: the clear is refused should it come a second time. */
		if (r == 0)
			r = sender_raise(flush->sender, &disk->target, disk->target.sequence + 1,
				flush->error);
	}
	if (r == 0 && have != want)
		r = resize(flush, disk, want, &backoff);
	if (r == 0)
		r = put_footer(flush, disk, disk_bytes);
	if (r == 0)
		r = sender_drain(flush->sender, flush->error);
	disk->footer_proven = r == 0;
	return r;
}
