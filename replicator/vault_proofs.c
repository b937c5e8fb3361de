/*
 * Gathering page hashes from the points' hashes objects, the newest first.
 *
 * Each object remembers the block where the window before ended, so that rising windows read it
 * once. What a newer object tells of a page hides what older ones do.
 *
 * Meanwhile older points may be deleted: their hashes go into the next one's object, which is
 * replaced by that, then theirs is no more. Whoever meets that lists the points again and gathers
 * the window anew, from the objects' start; what was told before is right all the same.
 */
#include "replicator/vault_proofs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "replicator/vault_drained.h"
#include "replicator/vault_internal.h"

#define LOOK_TRIES 8u

struct proof {
	uint64_t number;
	bool drained; /* a part, beside the points */
	struct drained_part part;
	struct hashes_mark mark;
	uint64_t etag; /* checksum of that of the object which the mark is in */
};

struct vault_proofs {
	struct blob_store *store;
	const struct vault_group *group;
	uint64_t number;
	struct proof *proofs; /* newest first; those that were drained before all others */
	unsigned count;
	bool moved;       /* an object was replaced, or that of */
	uint64_t missing; /* this point is gone */
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
	p->moved |= hashes.replaced;
	if (r == -ENOENT && !proof->drained) {
		p->moved = true;
		p->missing = proof->number;
	}
	if (r == -ENOENT)
		return error_set(error, -EBADMSG, NULL, "%s is missing", hashes.name);
	if (r < 0)
		return r;
	uint64_t etag = checksum64(hashes.etag, strlen(hashes.etag));
	if (proof->mark.offset == 0) {
		proof->etag = etag;
		r = check_coverage(p, proof, reader, hashes.name, error);
	} else if (proof->etag != etag) {
		p->moved = true;
		r = error_set(error, -EAGAIN, "try again", "%s was written anew while it was read",
			hashes.name);
	}
	if (r < 0)
		return r;
	hashes_reader_seek(reader, &proof->mark);
	while ((r = hashes_reader_next(reader, error, &run)) == 0) {
		if (is_past(w, run.disk, run.first_page))
			break;
		if (run.disk == w->disk)
			tell(w, &run);
		/* It goes on in the next window: the mark is to stay before it. */
		if (run.disk == w->disk && run.first_page + run.count > w->end_page)
			break;
	}
	p->moved |= hashes.replaced;
	if (r < 0 && r != -ENOENT)
		return r;
	hashes_reader_mark(reader, &proof->mark);
	return 0;
}

static void begin_anew(struct vault_proofs *p)
{
	for (unsigned i = 0; i < p->count; i++)
		p->proofs[i].mark = (struct hashes_mark){ 0 };
}

static int gather_all(struct vault_proofs *p, const struct window *w, struct error *error)
{
	int r = 0;
	memset(w->states, PAGE_UNTOLD, w->end_page - w->first_page);
	for (unsigned i = 0; r == 0 && i < p->count; i++)
		r = gather(p, &p->proofs[i], w, error);
	return r;
}

/* Those of points, in the place of what there was of them. */
static int find_proofs(struct vault_proofs *p, struct error *error)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	unsigned drained = 0;
	int r = vault_points_list(p->store, p->group, error, &points);
	if (r < 0)
		return r;
	while (drained < p->count && p->proofs[drained].drained)
		drained++;
	struct proof *proofs = calloc(drained + points.count + 1u, sizeof(*proofs));
	if (!proofs)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	if (drained > 0)
		memcpy(proofs, p->proofs, drained * sizeof(*proofs));
	free(p->proofs);
	p->proofs = proofs;
	p->count = drained;
	for (unsigned i = points.count; i > 0; i--) {
		const struct vault_point_item *point = &points.items[i - 1];
		if (point->number <= p->number && vault_point_is_committed(point))
			proofs[p->count++].number = point->number;
	}
	if (p->count == drained || proofs[drained].number != p->number)
		return error_set(error, -ENOENT, NULL,
			"point %" PRIu64 " of group %s is not in the vault", p->number,
			p->group->name);
	return 0;
}

/* After an object was replaced or gone. A manifest goes before its hashes: if the point is still
 * there they are missing. */
static int look_again(struct vault_proofs *p, struct error *error)
{
	char name[VAULT_NAME_BYTES];
	uint64_t missing = p->missing;
	p->moved = false;
	p->missing = 0;
	begin_anew(p);
	int r = p->number > 0 ? find_proofs(p, error) : 0;
	for (unsigned i = 0; r == 0 && missing > 0 && i < p->count; i++) {
		if (p->proofs[i].drained || p->proofs[i].number != missing)
			continue;
		vault_hashes_name(p->group->name, missing, name);
		r = error_set(error, -EBADMSG, NULL, "%s is missing", name);
	}
	return r;
}

int vault_proofs_window(struct vault_proofs *p, uint16_t disk, uint32_t first_page,
	uint32_t end_page, struct error *error, uint8_t *states, uint64_t *hashes)
{
	const struct window w = { disk, first_page, end_page, states, hashes };
	int r = 0;
	if (end_page < first_page || end_page - first_page > VAULT_PROOFS_WINDOW_PAGES)
		return error_set(error, -EINVAL, NULL, "a window of proofs is too large");
	if (disk < p->last_disk || (disk == p->last_disk && first_page < p->last_page))
		begin_anew(p);
	p->last_disk = disk;
	p->last_page = end_page;
	p->moved = false;
	p->missing = 0;
	r = gather_all(p, &w, error);
	for (unsigned i = 0; r < 0 && p->moved && i < LOOK_TRIES; i++) {
		if (error)
			*error = (struct error){ 0 };
		r = look_again(p, error);
		if (r == 0)
			r = gather_all(p, &w, error);
	}
	if (r < 0)
		p->last_disk = UINT16_MAX; /* some objects were read further than others */
	return r;
}

int vault_proofs_open(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error, struct vault_proofs **ret_proofs)
{
	struct vault_proofs *p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	p->store = store;
	p->group = group;
	p->number = number;
	int r = number > 0 ? find_proofs(p, error) : 0;
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
