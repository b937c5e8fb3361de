/*
 * Proving every byte of a vault point.
 *
 * What a page must hold is told by the proofs of the points up to it (vault_proofs.h); a page that
 * none covers was never written and must be zero. Window by window, the snapshot's written ranges
 * are read and compared.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/vhd.h"
#include "replicator/backoff.h"
#include "replicator/vault_proofs.h"

#define READ_BYTES (1ull << 20)
#define READS 8u

struct verify {
	struct blob_store *store;
	const struct vault_group *group;
	struct manifest manifest;
	struct vault_proofs *proofs;
	uint64_t zero_hash;
	/* the window */
	const struct manifest_disk *disk;
	uint32_t first_page, end_page;
	uint64_t *hashes;
	uint8_t *states, *written; /* written: the page lies in a written range */
	uint8_t *memory;           /* READS pieces */
	struct vault_progress progress;
};

static void verify_free(struct verify *v)
{
	manifest_free(&v->manifest);
	vault_proofs_free(v->proofs);
	free(v->hashes);
	free(v->states);
	free(v->written);
	free(v->memory);
}

/* ── what is there ───────────────────────────────────────────────────────────────────────── */

static int take_range(void *context, const struct blob_range *range)
{
	struct verify *v = context;
	uint64_t first = range->offset / HASHES_PAGE_BYTES;
	uint64_t end = (range->offset + range->length + HASHES_PAGE_BYTES - 1) / HASHES_PAGE_BYTES;
	for (uint64_t p = MAX(first, v->first_page); p < MIN(end, v->end_page); p++)
		v->written[p - v->first_page] = 1;
	return 0;
}

static int differs(const struct verify *v, uint32_t page, const char *how, struct error *error)
{
	return error_set(error, -EBADMSG, "choose another recovery point, and resync the machine",
		"disk %s of point %" PRIu64 " differs at byte %" PRIu64 ": %s", v->disk->name,
		v->manifest.number, (uint64_t)page * HASHES_PAGE_BYTES, how);
}

static int check_page(
	const struct verify *v, uint32_t page, const uint8_t *data, struct error *error)
{
	uint32_t at = page - v->first_page;
	if (v->states[at] == PAGE_HASHED)
		return hashes_of_page(data) == v->hashes[at]
			       ? 0
			       : differs(v, page, "its hash is not the recorded one", error);
	if (is_zero(data, HASHES_PAGE_BYTES))
		return 0;
	return differs(v, page,
		v->states[at] == PAGE_ZERO ? "it must be zero"
					   : "no point ever wrote there, and it is not zero",
		error);
}

static int check_reads(
	struct verify *v, struct blob_request *reads, unsigned count, struct error *error)
{
	int r = vault_read(v->store, reads, count, error);
	for (unsigned i = 0; r == 0 && i < count; i++) {
		uint32_t page = (uint32_t)(reads[i].offset / HASHES_PAGE_BYTES);
		uint64_t pages = reads[i].length / HASHES_PAGE_BYTES;
		const uint8_t *data = reads[i].data;
		for (uint32_t p = 0; r == 0 && p < pages; p++)
			r = check_page(v, page + p, data + p * HASHES_PAGE_BYTES, error);
	}
	return r;
}

/* Reads what is written, checks what is not without reading it. */
static int check_window(struct verify *v, struct error *error)
{
	struct blob_request reads[READS];
	unsigned count = 0;
	int r = 0;
	for (uint32_t page = v->first_page; r == 0 && page < v->end_page;) {
		uint32_t at = page - v->first_page, n = 1;
		if (!v->written[at]) {
			if (v->states[at] == PAGE_HASHED && v->hashes[at] != v->zero_hash)
				return differs(v, page, "data is recorded there, none is", error);
			page++;
			continue;
		}
		while (page + n < v->end_page && v->written[at + n] &&
			n < READ_BYTES / HASHES_PAGE_BYTES)
			n++;
		reads[count] = (struct blob_request){ .blob = v->disk->blob,
			.snapshot = v->disk->snapshot,
			.offset = (uint64_t)page * HASHES_PAGE_BYTES,
			.length = (uint64_t)n * HASHES_PAGE_BYTES,
			.data = v->memory + count * READ_BYTES };
		page += n;
		if (++count == READS) {
			r = check_reads(v, reads, count, error);
			count = 0;
		}
	}
	return r < 0 || count == 0 ? r : check_reads(v, reads, count, error);
}

static int verify_window(struct verify *v, struct error *error)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	uint32_t pages = v->end_page - v->first_page;
	memset(v->written, 0, pages);
	int r = vault_proofs_window(
		v->proofs, v->disk->id, v->first_page, v->end_page, error, v->states, v->hashes);
	if (r < 0)
		return r;
	backoff_start(&backoff, v->store, NULL);
	do {
		r = v->store->ops->ranges(v->store, v->disk->blob, v->disk->snapshot, NULL,
			(uint64_t)v->first_page * HASHES_PAGE_BYTES,
			(uint64_t)pages * HASHES_PAGE_BYTES, take_range, v, &e);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r == -ENOENT)
		return error_set(error, -EBADMSG, "choose another recovery point",
			"snapshot %s of %s is missing: something has deleted it in the vault",
			v->disk->snapshot, v->disk->blob);
	if (r < 0)
		return vault_fail(error, r, &e, "cannot tell what %s holds", v->disk->blob);
	return check_window(v, error);
}

static int verify_footer(struct verify *v, struct error *error)
{
	uint8_t footer[VHD_FOOTER_BYTES];
	uint64_t bytes;
	struct uuid id;
	struct blob_request read = { .blob = v->disk->blob,
		.snapshot = v->disk->snapshot,
		.offset = v->disk->size_bytes,
		.length = VHD_FOOTER_BYTES,
		.data = footer };
	int r = vault_read(v->store, &read, 1, error);
	if (r < 0)
		return r;
	if (vhd_footer_parse(footer, &bytes, &id) < 0 || bytes != v->disk->size_bytes)
		return error_set(error, -EBADMSG, NULL,
			"disk %s of point %" PRIu64 " has no right VHD footer", v->disk->name,
			v->manifest.number);
	return 0;
}

static int verify_disk(struct verify *v, struct error *error)
{
	uint64_t pages = v->disk->size_bytes / HASHES_PAGE_BYTES;
	int r = 0;
	for (uint64_t first = 0; r == 0 && first < pages; first += VAULT_PROOFS_WINDOW_PAGES) {
		v->first_page = (uint32_t)first;
		v->end_page = (uint32_t)MIN(first + VAULT_PROOFS_WINDOW_PAGES, pages);
		r = verify_window(v, error);
		v->progress.done_bytes +=
			(uint64_t)(v->end_page - v->first_page) * HASHES_PAGE_BYTES;
		if (r == 0 && v->progress.told)
			v->progress.told(v->progress.context, v->progress.done_bytes,
				v->progress.total_bytes);
	}
	return r < 0 ? r : verify_footer(v, error);
}

static int allocate(struct verify *v)
{
	uint64_t pages = 1;
	for (unsigned i = 0; i < v->manifest.disk_count; i++) {
		pages = MAX(pages, v->manifest.disks[i].size_bytes / HASHES_PAGE_BYTES);
		v->progress.total_bytes += v->manifest.disks[i].size_bytes;
	}
	pages = MIN(pages, (uint64_t)VAULT_PROOFS_WINDOW_PAGES);
	v->hashes = malloc(pages * sizeof(*v->hashes));
	v->states = malloc(pages);
	v->written = malloc(pages);
	v->memory = malloc(READS * READ_BYTES);
	return v->hashes && v->states && v->written && v->memory ? 0 : -ENOMEM;
}

int vault_point_verify(struct blob_store *store, const struct vault_group *group, uint64_t number,
	void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes), void *context,
	struct error *error)
{
	CLEANUP(verify_free)
	struct verify v = { .store = store,
		.group = group,
		.zero_hash = hashes_of_zeros(),
		.progress = { .told = progress, .context = context } };
	char etag[BLOB_ETAG_BYTES];
	int r = vault_proofs_open(store, group, number, error, &v.proofs);
	if (r == 0)
		r = vault_manifest_load(store, group, number, error, &v.manifest, NULL, etag);
	if (r < 0)
		return r;
	if (allocate(&v) < 0)
		return error_set(error, -ENOMEM, NULL, "not enough memory to verify");
	for (unsigned i = 0; r == 0 && i < v.manifest.disk_count; i++) {
		v.disk = &v.manifest.disks[i];
		r = verify_disk(&v, error);
	}
	return r;
}
