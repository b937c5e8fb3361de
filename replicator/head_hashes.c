/*
 * The newest vault point's proofs and those of what was drained since, a window at a time, with the
 * journal's extents laid over them.
 *
 * Which vault point is the newest, and how far the epoch is drained, may change at any moment, and
 * what they hold then leaves the journal's map: so the overlay counts only if both were still the
 * same after it was taken.
 */
#include "replicator/head_hashes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/hashes.h"
#include "replicator/vault_drained.h"
#include "replicator/vault_internal.h"
#include "replicator/vault_proofs.h"

#define WINDOW_PAGES (1u << 18) /* 1 GiB of disk */
#define PAGE_SECTORS (HASHES_PAGE_BYTES / 512u)
#define CHUNK_BYTES ((size_t)HEAD_CHUNK_PAGES * HASHES_PAGE_BYTES)
#define UNKNOWN 0ull

static_assert(WINDOW_PAGES <= VAULT_PROOFS_WINDOW_PAGES, "a window of ours is one of the proofs'");
static_assert(WINDOW_PAGES % HEAD_CHUNK_PAGES == 0, "windows hold whole chunks");

/* What lies under the journal. */
struct under {
	uint64_t point;   /* UINT64_MAX: not known yet */
	uint64_t drained; /* up to this lsn; 0: nothing */
};

struct head_hashes {
	struct history *history;
	struct blob_service *service;
	struct vault_group group; /* name and id only */
	uint16_t disk;
	uint64_t zero_hash;
	struct blob_store *store; /* NULL until the vault is needed */
	struct vault_proofs *proofs;
	struct under under; /* that the proofs are of */
	/* the window */
	struct under window_under;
	uint32_t first_page, end_page;
	uint8_t *states;
	uint64_t *hashes;
	uint8_t *memory; /* a chunk's bytes */
};

int head_hashes_new(struct history *history, struct blob_service *service,
	const struct vault_group *group, uint16_t disk, struct error *error,
	struct head_hashes **ret_hashes)
{
	struct history_disk info;
	if (history_disk(history, disk, &info) < 0 || info.removed)
		return error_set(error, -ENOENT, NULL, "there is no disk %u", disk);
	struct head_hashes *h = calloc(1, sizeof(*h));
	if (!h)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	h->history = history;
	h->service = service;
	h->disk = disk;
	h->zero_hash = hashes_of_zeros();
	h->under.point = h->window_under.point = UINT64_MAX;
	if (group) {
		memcpy(h->group.name, group->name, sizeof(h->group.name));
		h->group.id = group->id;
	}
	h->states = malloc(WINDOW_PAGES);
	h->hashes = malloc(WINDOW_PAGES * sizeof(*h->hashes));
	h->memory = malloc(CHUNK_BYTES);
	if (!h->states || !h->hashes || !h->memory) {
		head_hashes_free(h);
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	}
	*ret_hashes = h;
	return 0;
}

void head_hashes_free(struct head_hashes *h)
{
	if (!h)
		return;
	vault_proofs_free(h->proofs);
	if (h->store)
		h->store->ops->free(h->store);
	free(h->states);
	free(h->hashes);
	free(h->memory);
	free(h);
}

/* A point comes into the vault with the end of its drain, so looked at in this order nothing is
 * missed: the drain that is seen stands on the point that is seen before and after. */
static struct under look_under(struct head_hashes *h, struct history_drain *ret_drain)
{
	struct history_stats before, after;
	do {
		history_stats(h->history, &before);
		history_drain_state(h->history, ret_drain);
		history_stats(h->history, &after);
	} while (before.newest_vault_point != after.newest_vault_point);
	return (struct under){ after.newest_vault_point, ret_drain->number ? ret_drain->lsn : 0 };
}

static bool is_same(const struct under *a, const struct under *b)
{
	return a->point == b->point && a->drained == b->drained;
}

/* ── what the vault proves ───────────────────────────────────────────────────────────────── */

static int open_proofs(struct head_hashes *h, const struct under *under,
	const struct history_drain *drain, struct error *error)
{
	struct drained_proof parts;
	bool vault = under->point > 0 || under->drained > 0;
	int r = 0;
	if (h->proofs && is_same(&h->under, under))
		return 0;
	vault_proofs_free(h->proofs);
	h->proofs = NULL;
	if (vault && (!h->service || h->group.name[0] == '\0'))
		return error_set(error, -ENOTCONN, "see 'landfall vault check'",
			"the vault is needed to compare, and cannot be asked now");
	if (vault && !h->store)
		r = h->service->ops->open_store(h->service, NULL, error, &h->store);
	if (r == 0)
		r = vault_proofs_open(h->store, &h->group, under->point, error, &h->proofs);
	if (r == 0 && under->drained > 0)
		r = vault_drained_parse(drain->proof, drain->proof_bytes, error, &parts);
	if (r == 0 && under->drained > 0)
		r = vault_proofs_add_drained(h->proofs, drain->number, &parts, error);
	h->under = *under;
	if (r < 0)
		h->under.point = UINT64_MAX;
	return r;
}

/* The window that holds [first, end). */
static int load_window(struct head_hashes *h, const struct under *under,
	const struct history_drain *drain, uint32_t first, uint32_t end, struct error *error)
{
	if (is_same(&h->window_under, under) && first >= h->first_page && end <= h->end_page)
		return 0;
	h->window_under.point = UINT64_MAX;
	int r = open_proofs(h, under, drain, error);
	if (r < 0)
		return r;
	h->first_page = first;
	h->end_page = first + WINDOW_PAGES;
	r = vault_proofs_window(
		h->proofs, h->disk, h->first_page, h->end_page, error, h->states, h->hashes);
	if (r == 0)
		h->window_under = *under;
	return r;
}

static void tell_proven(const struct head_hashes *h, uint32_t first, uint64_t *ret_pages)
{
	uint64_t pages = history_base_bytes(h->history, h->disk) / HASHES_PAGE_BYTES;
	for (uint32_t i = 0; i < HEAD_CHUNK_PAGES; i++) {
		uint32_t at = first + i - h->first_page;
		bool told = first + i < pages && h->states[at] == PAGE_HASHED;
		ret_pages[i] = told ? h->hashes[at] : h->zero_hash;
	}
}

/* ── what the journal changed ────────────────────────────────────────────────────────────── */

/* The pages that an extent covers only in part are to be read like those with content. */
static void mark(const struct extent *e, uint64_t lba, uint8_t changed[static HEAD_CHUNK_PAGES])
{
	uint64_t begin = MAX(e->lba, lba) - lba;
	uint64_t end = MIN(e->lba + e->sectors - lba, (uint64_t)HEAD_CHUNK_PAGES * PAGE_SECTORS);
	for (uint64_t page = begin / PAGE_SECTORS; page * PAGE_SECTORS < end; page++)
		changed[page] = 1;
}

static void find_changes(struct head_hashes *h, uint64_t lba, uint8_t *changed)
{
	const uint64_t end = lba + HEAD_CHUNK_PAGES * PAGE_SECTORS;
	struct extent e;
	memset(changed, 0, HEAD_CHUNK_PAGES);
	for (uint64_t at = lba; at < end; at = e.lba + e.sectors) {
		if (history_next_extent(h->history, h->disk, at, &e) < 0 || e.lba >= end)
			return;
		mark(&e, lba, changed);
	}
}

/* Of changed pages, from the content. */
static int hash_run(struct head_hashes *h, uint64_t lba, uint32_t first, uint32_t count,
	struct error *error, uint64_t *ret_pages)
{
	int r = history_read(h->history, h->disk, lba + (uint64_t)first * PAGE_SECTORS,
		count * PAGE_SECTORS, h->memory);
	if (r < 0 && r != -EIO)
		return error_set(error, r, NULL, "cannot read disk %u at sector %llu: %s", h->disk,
			(unsigned long long)(lba + (uint64_t)first * PAGE_SECTORS),
			strerrordesc_np(-r));
	for (uint32_t i = 0; i < count; i++)
		ret_pages[first + i] =
			r < 0 ? UNKNOWN : hashes_of_page(h->memory + (size_t)i * HASHES_PAGE_BYTES);
	return 0;
}

static int hash_changes(struct head_hashes *h, uint64_t lba, const uint8_t *changed, uint32_t pages,
	struct error *error, uint64_t *ret_pages)
{
	int r = 0;
	for (uint32_t page = 0, n; r == 0 && page < pages; page += n) {
		for (n = 1; page + n < pages && changed[page + n] == changed[page]; n++)
			;
		if (changed[page])
			r = hash_run(h, lba, page, n, error, ret_pages);
	}
	return r;
}

/* ── both ────────────────────────────────────────────────────────────────────────────────── */

int head_hashes_pages(struct head_hashes *h, uint64_t chunk, struct error *error,
	uint64_t ret_pages[static HEAD_CHUNK_PAGES])
{
	uint8_t changed[HEAD_CHUNK_PAGES];
	struct history_disk info;
	if (history_disk(h->history, h->disk, &info) < 0 || info.removed)
		return error_set(error, -ENOENT, NULL, "disk %u is no longer there", h->disk);
	if (chunk >= (info.size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES)
		return error_set(error, -EINVAL, NULL, "chunk %llu lies beyond disk %u",
			(unsigned long long)chunk, h->disk);
	const uint32_t first = (uint32_t)chunk * HEAD_CHUNK_PAGES;
	const uint64_t lba = (uint64_t)first * PAGE_SECTORS;
	const uint32_t pages = (uint32_t)MIN(
		info.size_bytes / HASHES_PAGE_BYTES - first, (uint64_t)HEAD_CHUNK_PAGES);
	struct history_drain drain;
	struct under under, now;
	do {
		under = look_under(h, &drain);
		int r = load_window(h, &under, &drain, first, first + HEAD_CHUNK_PAGES, error);
		if (r == 0)
			find_changes(h, lba, changed);
		now = look_under(h, &drain);
		if (r < 0 && is_same(&under, &now))
			return r;
	} while (!is_same(&under, &now));
	tell_proven(h, first, ret_pages);
	return hash_changes(h, lba, changed, pages, error, ret_pages);
}

int head_hashes_chunks(struct head_hashes *h, uint64_t first, uint32_t count, struct error *error,
	struct hash128 *ret_chunks)
{
	uint64_t pages[HEAD_CHUNK_PAGES];
	for (uint32_t i = 0; i < count; i++) {
		int r = head_hashes_pages(h, first + i, error, pages);
		if (r < 0)
			return r;
		bool unknown = false;
		for (uint32_t p = 0; p < HEAD_CHUNK_PAGES; p++)
			unknown |= pages[p] == UNKNOWN;
		ret_chunks[i] = unknown ? (struct hash128){ 0 } : checksum128(pages, sizeof(pages));
	}
	return 0;
}
