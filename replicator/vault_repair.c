/*
 * Making a half-written base equal to a snapshot of it.
 *
 * A window of 4 MiB is compared if the service's difference names it, or if the written ranges of
 * base and snapshot differ in it. Where the difference is real that is what was written since
 * the snapshot; where the service ignores the question and lists the whole base (the emulator
 * does), nothing is missed. Only windows that differ are written, fenced.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/cleanup.h"
#include "fs/vhd.h"
#include "replicator/backoff.h"
#include "replicator/sender.h"

#define WINDOW_BYTES (4ull << 20)
#define BATCH 4u /* windows compared at once */

struct repair {
	struct blob_store *store;
	const char *blob, *snapshot;
	uint64_t blob_bytes;
	struct sender *sender;
	struct sender_target target;
	uint8_t *suspect;     /* per window */
	uint64_t *base_sums;  /* per window: of its written ranges */
	uint64_t *other_sums; /* of the snapshot's */
	uint64_t windows;
	uint8_t *memory; /* BATCH pairs of windows */
};

static void repair_free(struct repair *repair)
{
	sender_free(repair->sender);
	free(repair->suspect);
	free(repair->base_sums);
	free(repair->other_sums);
	free(repair->memory);
}

/* ── which windows ───────────────────────────────────────────────────────────────────────── */

struct marking {
	struct repair *repair;
	uint64_t *sums;          /* NULL: mark as suspect */
	uint64_t offset, length; /* a range that the next may continue */
};

static void mark(struct marking *m)
{
	uint64_t at = m->offset, end = m->offset + m->length;
	while (at < end && at / WINDOW_BYTES < m->repair->windows) {
		uint64_t w = at / WINDOW_BYTES, n = MIN(end, (w + 1) * WINDOW_BYTES) - at;
		if (m->sums) {
			uint64_t chain[3] = { m->sums[w], at, n };
			m->sums[w] = checksum64(chain, sizeof(chain));
		} else {
			m->repair->suspect[w] = 1;
		}
		at += n;
	}
}

static int take_range(void *context, const struct blob_range *range)
{
	struct marking *m = context;
	if (m->offset + m->length == range->offset) {
		m->length += range->length;
		return 0;
	}
	mark(m);
	m->offset = range->offset;
	m->length = range->length;
	return 0;
}

static int mark_ranges(struct repair *repair, const char *snapshot, const char *previous,
	uint64_t *sums, struct error *error)
{
	struct marking m = { .repair = repair, .sums = sums };
	struct blob_store *store = repair->store;
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	backoff_start(&backoff, store, NULL);
	do {
		m.offset = m.length = 0;
		if (sums)
			memset(sums, 0, repair->windows * sizeof(*sums));
		r = store->ops->ranges(store, repair->blob, snapshot, previous, 0,
			repair->blob_bytes, take_range, &m, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (previous && (r == -ESTALE || r == -EINVAL || r == -EOPNOTSUPP)) {
		/* no difference to be had: compare everything */
		memset(repair->suspect, 1, repair->windows);
		return 0;
	}
	if (r < 0)
		return vault_fail(error, r, &e, "cannot tell what %s holds", repair->blob);
	mark(&m);
	return 0;
}

static int find_suspects(struct repair *repair, struct error *error)
{
	int r = mark_ranges(repair, NULL, NULL, repair->base_sums, error);
	if (r == 0 && repair->snapshot)
		r = mark_ranges(repair, repair->snapshot, NULL, repair->other_sums, error);
	if (r == 0 && repair->snapshot)
		r = mark_ranges(repair, NULL, repair->snapshot, NULL, error);
	for (uint64_t w = 0; r == 0 && w < repair->windows; w++)
		if (repair->base_sums[w] != repair->other_sums[w])
			repair->suspect[w] = 1;
	return r;
}

/* ── comparing and writing ───────────────────────────────────────────────────────────────── */

static int write_window(struct repair *repair, uint64_t offset, uint64_t n, const uint8_t *right,
	struct error *error)
{
	struct sender_buffer *buffer;
	if (is_zero(right, n))
		return sender_clear(repair->sender, &repair->target, offset, n, error);
	int r = sender_buffer_get(repair->sender, n, error, &buffer);
	if (r < 0)
		return r;
	memcpy(buffer->data, right, n);
	r = sender_put(repair->sender, &repair->target, offset, buffer, 0, n, error);
	sender_buffer_release(repair->sender, buffer);
	return r;
}

static int compare_batch(
	struct repair *repair, const uint64_t *windows, unsigned count, struct error *error)
{
	struct blob_request requests[2 * BATCH];
	for (unsigned i = 0; i < count; i++) {
		uint64_t offset = windows[i] * WINDOW_BYTES;
		struct blob_request read = { .blob = repair->blob,
			.offset = offset,
			.length = MIN(WINDOW_BYTES, repair->blob_bytes - offset),
			.data = repair->memory + 2 * i * WINDOW_BYTES };
		requests[2 * i] = read;
		read.snapshot = repair->snapshot;
		read.data = repair->memory + (2 * i + 1) * WINDOW_BYTES;
		requests[2 * i + 1] = read;
	}
	int r = vault_read(repair->store, requests, 2 * count, error);
	for (unsigned i = 0; r == 0 && i < count; i++) {
		const struct blob_request *base = &requests[2 * i], *right = &requests[2 * i + 1];
		if (memcmp(base->data, right->data, base->length) != 0)
			r = write_window(repair, base->offset, base->length, right->data, error);
	}
	return r < 0 ? r : sender_drain(repair->sender, error);
}

static int rewrite(struct repair *repair, struct vault_progress *progress, struct error *error)
{
	uint64_t batch[BATCH];
	unsigned n = 0;
	for (uint64_t w = 0; w < repair->windows; w++) {
		int r = 0;
		if (repair->suspect[w])
			batch[n++] = w;
		if (n == BATCH || (n > 0 && w + 1 == repair->windows)) {
			r = compare_batch(repair, batch, n, error);
			n = 0;
		}
		if (r < 0)
			return r;
		progress->done_bytes += WINDOW_BYTES;
		progress->done_bytes = MIN(progress->done_bytes, progress->total_bytes);
		if (progress->told && w % 256 == 0)
			progress->told(
				progress->context, progress->done_bytes, progress->total_bytes);
	}
	return 0;
}

/* A disk with no committed point: zeros and a footer. */
static int reset(struct repair *repair, const struct vault_disk *disk, struct error *error)
{
	struct sender_buffer *buffer;
	uint64_t size = repair->blob_bytes - VHD_FOOTER_BYTES;
	int r = sender_clear(repair->sender, &repair->target, 0, size, error);
	if (r == 0)
		r = sender_buffer_get(repair->sender, VHD_FOOTER_BYTES, error, &buffer);
	if (r < 0)
		return r;
	r = vhd_footer_format(size, &disk->vhd_id, disk->created_ns, buffer->data);
	if (r == 0)
		r = sender_put(
			repair->sender, &repair->target, size, buffer, 0, VHD_FOOTER_BYTES, error);
	sender_buffer_release(repair->sender, buffer);
	return r < 0 ? r : sender_drain(repair->sender, error);
}

static int fit_size(struct repair *repair, struct error *error)
{
	struct backoff backoff;
	backoff_start(&backoff, repair->store, NULL);
	return vault_disk_resize(repair->store, repair->blob, repair->blob_bytes,
		repair->target.lease_id, &backoff, error);
}

static int allocate(struct repair *repair)
{
	repair->windows = (repair->blob_bytes + WINDOW_BYTES - 1) / WINDOW_BYTES;
	repair->suspect = calloc(repair->windows, 1);
	repair->base_sums = calloc(repair->windows, sizeof(uint64_t));
	repair->other_sums = calloc(repair->windows, sizeof(uint64_t));
	repair->memory = malloc(2 * BATCH * WINDOW_BYTES);
	return repair->suspect && repair->base_sums && repair->other_sums && repair->memory
		       ? 0
		       : -ENOMEM;
}

int vault_disk_repair(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, const struct vault_disk *disk, const char *snapshot,
	uint64_t size_bytes, struct vault_progress *progress, struct error *error)
{
	char blob[VAULT_NAME_BYTES];
	struct sender_options options = { .store = store, .clock = clock, .parallel = 8 };
	CLEANUP(repair_free)
	struct repair repair = { .store = store,
		.blob = blob,
		.snapshot = snapshot,
		.blob_bytes = size_bytes + VHD_FOOTER_BYTES,
		.target = { .blob = blob, .lease_id = group->lease_id, .sequence = -1 } };
	vault_blob_name(disk->name, blob);
	int r = allocate(&repair);
	if (r == 0)
		r = sender_new(&options, &repair.sender);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory to repair %s", blob);
	r = sender_raise(repair.sender, &repair.target, 0, error);
	if (r == 0)
		r = fit_size(&repair, error);
	if (r < 0)
		return r;
	if (!snapshot)
		return reset(&repair, disk, error);
	r = find_suspects(&repair, error);
	return r < 0 ? r : rewrite(&repair, progress, error);
}
