/*
 * Gathering page hashes from the points' hashes objects, the newest first.
 *
 * Each object remembers the block where the window before ended, so that rising windows read it
 * once. What a newer object tells of a page hides what older ones do.
 */
#include "replicator/vault_proofs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/vault_drained.h"
#include "replicator/vault_internal.h"

struct proof {
	uint64_t number;
	bool drained; /* a part, beside the points */
	struct drained_part part;
	struct hashes_mark mark;
};

struct vault_proofs {
	struct blob_store *store;
	const struct vault_group *group;
	struct proof *proofs; /* newest first */
	unsigned count;
	uint16_t
		last_disk; /* where the last window ended: going on from there, or beginning anew */
	uint32_t last_page;
};

struct window {
	uint16_t disk;
	uint32_t first_page, end_page;
	uint8_t *states;
	uint64_t *hashes;
};

static void free_reader(struct hashes_reader **reader)
{
	hashes_reader_free(*reader);
}

static void tell(const struct window *w, const struct hashes_run *run)
{
	for (uint32_t i = 0; i < run->count; i++) {
		uint32_t page = run->first_page + i;
		if (page < w->first_page || page >= w->end_page)
			continue;
		uint32_t at = page - w->first_page;
		if (w->states[at] != PAGE_UNTOLD)
			continue;
		w->states[at] = run->hashes ? PAGE_HASHED : PAGE_ZERO;
		if (run->hashes)
			w->hashes[at] = run->hashes[i];
	}
}

static bool is_past(const struct window *w, uint16_t disk, uint32_t page)
{
	return disk > w->disk || (disk == w->disk && page >= w->end_page);
}

static int check_coverage(const struct vault_proofs *p, const struct proof *proof,
	const struct hashes_reader *reader, const char *name, struct error *error)
{
	struct uuid group;
	uint64_t from, number;
	hashes_reader_coverage(reader, &group, &from, &number);
	if (number != proof->number || memcmp(&group, &p->group->id, sizeof(group)) != 0)
		return error_set(error, -EBADMSG, NULL, "%s is of another point", name);
	if (proof->drained)
		return 0; /* whatever it covers lies over the point */
	uint64_t below = proof + 1 < p->proofs + p->count ? proof[1].number : 0;
	if (from > below)
		return error_set(error, -EBADMSG, NULL,
			"%s covers what changed since point %" PRIu64 ", but the point below is "
			"%" PRIu64,
			name, from, below);
	return 0;
}

static int gather(
	struct vault_proofs *p, struct proof *proof, const struct window *w, struct error *error)
{
	CLEANUP(free_reader) struct hashes_reader *reader = NULL;
	struct vault_hashes hashes;
	struct hashes_source source;
	struct hashes_run run;
	if (proof->mark.offset != 0 && is_past(w, proof->mark.next_disk, proof->mark.next_page))
		return 0;
	vault_hashes_open(&hashes, p->store, p->group, proof->number, &source);
	if (proof->drained)
		vault_drained_name(p->group->name, proof->number, &proof->part, hashes.name);
	int r = hashes_reader_new(&source, error, &reader);
	if (r == -ENOENT)
		return error_set(error, -EBADMSG, NULL, "%s is missing", hashes.name);
	if (r == 0 && proof->mark.offset == 0)
		r = check_coverage(p, proof, reader, hashes.name, error);
	if (r < 0)
		return r;
	hashes_reader_seek(reader, &proof->mark);
	while ((r = hashes_reader_next(reader, error, &run)) == 0) {
		if (is_past(w, run.disk, run.first_page))
			break;
		if (run.disk == w->disk)
			tell(w, &run);
	}
	if (r < 0 && r != -ENOENT)
		return r;
	hashes_reader_mark(reader, &proof->mark);
	return 0;
}

int vault_proofs_window(struct vault_proofs *p, uint16_t disk, uint32_t first_page,
	uint32_t end_page, struct error *error, uint8_t *states, uint64_t *hashes)
{
	const struct window w = { disk, first_page, end_page, states, hashes };
	int r = 0;
	if (end_page < first_page || end_page - first_page > VAULT_PROOFS_WINDOW_PAGES)
		return error_set(error, -EINVAL, NULL, "a window of proofs is too large");
	if (disk < p->last_disk || (disk == p->last_disk && first_page < p->last_page))
		for (unsigned i = 0; i < p->count; i++)
			p->proofs[i].mark = (struct hashes_mark){ 0 };
	p->last_disk = disk;
	p->last_page = end_page;
	memset(states, PAGE_UNTOLD, end_page - first_page);
	for (unsigned i = 0; r == 0 && i < p->count; i++)
		r = gather(p, &p->proofs[i], &w, error);
	if (r < 0)
		p->last_disk = UINT16_MAX; /* some objects were read further than others */
	return r;
}

static int find_proofs(struct vault_proofs *p, uint64_t number, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	if (number == 0)
		return 0;
	int r = vault_points_list(p->store, p->group, error, &points);
	if (r < 0)
		return r;
	p->proofs = calloc(points.count + 1u, sizeof(*p->proofs));
	if (!p->proofs)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	for (unsigned i = points.count; i > 0; i--) {
		const struct vault_point_item *point = &points.items[i - 1];
		if (point->number <= number && vault_point_is_committed(point))
			p->proofs[p->count++].number = point->number;
	}
	if (p->count == 0 || p->proofs[0].number != number)
		return error_set(error, -ENOENT, NULL,
			"point %" PRIu64 " of group %s is not in the vault", number,
			p->group->name);
	return 0;
}

int vault_proofs_open(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error, struct vault_proofs **ret_proofs)
{
	struct vault_proofs *p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	p->store = store;
	p->group = group;
	int r = find_proofs(p, number, error);
	if (r < 0) {
		vault_proofs_free(p);
		return r;
	}
	*ret_proofs = p;
	return 0;
}

int vault_proofs_add_drained(struct vault_proofs *p, uint64_t drained_number,
	const struct drained_proof *drained, struct error *error)
{
	struct proof *proofs = calloc(p->count + drained->count + 1u, sizeof(*proofs));
	if (!proofs)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	for (unsigned i = 0; i < drained->count; i++)
		proofs[i] = (struct proof){ .number = drained_number,
			.drained = true,
			.part = drained->parts[drained->count - 1 - i] };
	if (p->count > 0)
		memcpy(proofs + drained->count, p->proofs, p->count * sizeof(*proofs));
	free(p->proofs);
	p->proofs = proofs;
	p->count += drained->count;
	return 0;
}

void vault_proofs_free(struct vault_proofs *p)
{
	if (!p)
		return;
	free(p->proofs);
	free(p);
}
