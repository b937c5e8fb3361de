/*
 * From blocks to the journal: what comes is compared page by page with what the head has, and only
 * what differs is written. So a volume that is read whole costs the journal what is new in it and
 * nothing for its zeros, whatever was there before, and of a changed block of 512 KiB only the
 * pages that changed go to the vault.
 *
 * What the head has is told by hashes (head_hashes.h). Of changes they are a saving and no more: if
 * the vault cannot be asked for them, blocks are written as they come. Of a whole volume they are
 * needed, or a first synchronisation would be repeated for nothing: then the cycle waits.
 *
 * Before a volume's first byte is written, the state says that its copying has begun.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/ebs_internal.h"
#include "replicator/hashes.h"

#define PAGE_BYTES HASHES_PAGE_BYTES
#define PAGE_SECTORS (PAGE_BYTES / SECTOR_BYTES)
#define CHUNK_BYTES ((uint64_t)HEAD_CHUNK_PAGES * PAGE_BYTES)
#define BLOCK_PAGES (EC2_BLOCK_BYTES / PAGE_BYTES)
#define NO_CHUNK UINT64_MAX
#define FULL_WAIT_NS (NS_PER_S / 4)
#define CLAIM_SLICES 50u /* of: */
#define CLAIM_SLICE_MS 200u

static_assert(CHUNK_BYTES % EC2_BLOCK_BYTES == 0, "a block lies in one chunk");

static int fail_with(struct ebs_worker *w, const struct error *error)
{
	w->problem = *error;
	return error->code;
}

static int journal_failed(struct ebs_worker *w, int r)
{
	struct error error = { 0 };
	error_set(&error, r, "see the other alerts; it is tried again by itself",
		"the journal of machine %s does not take data: %s", w->machine,
		strerrordesc_np(-r));
	return fail_with(w, &error);
}

static bool is_ending(struct ebs_worker *w)
{
	return atomic_load(&w->stop) || atomic_load(&w->interrupt) || hold_is_ending(&w->hold);
}

/* ── a volume begins ─────────────────────────────────────────────────────────────────────── */

void ebs_copy_close(struct ebs_copy *copy)
{
	head_hashes_free(copy->hashes);
	copy->hashes = NULL;
	copy->chunk = NO_CHUNK;
}

/* Right after a start the vault may not have answered yet. */
static void await_vault(struct ebs_worker *w)
{
	for (unsigned i = 0; i < CLAIM_SLICES && !is_ending(w); i++)
		if (group_wait_claimed(w->hold.group, CLAIM_SLICE_MS) == 0)
			return;
}

static int open_hashes(struct ebs_worker *w, bool whole, struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group vault = { 0 };
	struct group *group = w->hold.group;
	if (w->ebs->registry->service)
		await_vault(w);
	int claimed = group_vault_copy(group, &vault);
	int r = head_hashes_new(group_history(group), w->ebs->registry->service,
		claimed == 0 ? &vault : NULL, w->copy.disk, error, &w->copy.hashes);
	return whole ? r : 0;
}

static unsigned index_of(const struct ebs_worker *w, const struct ec2_cycle_volume *volume)
{
	return (unsigned)(volume - w->state.cycle.volumes);
}

/* Why a volume comes whole, if that is news. */
static void note_whole(struct ebs_worker *w, const struct ec2_cycle_volume *v)
{
	if (!v->whole || v->base[0] == '\0' || w->state.cause[0])
		return; /* without a base, ebs_line.c has said why */
	if (v->base_bytes != v->bytes)
		snprintf(w->state.cause, sizeof(w->state.cause),
			"volume %s has another size than in the set before", v->id);
	else
		snprintf(w->state.cause, sizeof(w->state.cause),
			"AWS no longer tells what changed on volume %s since its snapshot %s: it "
			"is "
			"gone, or of another line",
			v->id, v->base);
	log_warning("machine %s: its disks are compared whole: %s", w->machine, w->state.cause);
}

static int note_begun(struct ebs_worker *w, unsigned i)
{
	if (w->state.begun[i] && !w->state.cause[0])
		return 0;
	w->state.begun[i] = true;
	return ebs_state_save(w->ebs, w->machine, &w->state);
}

static void begin_progress(struct ebs_worker *w)
{
	SCOPED_LOCK(&w->ebs->lock);
	if (w->copying_ns)
		return;
	w->copying_ns = clock_monotonic_ns(clock_system());
	w->copying_from_bytes = ebs_reached_bytes(&w->state.cycle);
}

static int begin_volume(void *context, const struct ec2_cycle_volume *v)
{
	struct ebs_worker *w = context;
	unsigned i = index_of(w, v);
	struct history_disk disk;
	struct error error = { 0 };
	ebs_copy_close(&w->copy);
	int r = ebs_hold(w, &error);
	if (r == 0 && (r = ebs_find_disk(w, w->spec.disks[i].id, &disk)) < 0)
		error_set(&error, r, NULL, "disk %s is not in the journal", w->spec.disks[i].id);
	if (r < 0)
		return fail_with(w, &error);
	if (ebs_line_is_broken(w, i)) {
		w->look_again = true;
		return -EUCLEAN;
	}
	if (disk.size_bytes < v->bytes) {
		w->grow = true;
		return -EUCLEAN;
	}
	note_whole(w, v);
	begin_progress(w);
	w->copy.disk = disk.id;
	w->copy.whole = v->whole;
	w->copy.zero_hash = hashes_of_zeros();
	r = open_hashes(w, v->whole, &error);
	if (r < 0)
		return fail_with(w, &error);
	r = note_begun(w, i);
	return r < 0 ? journal_failed(w, r) : 0;
}

/* ── comparing ───────────────────────────────────────────────────────────────────────────── */

/* Makes `pages` those of the chunk. Without hashes from here on if they are not to be had and not
 * needed. */
static int know_chunk(struct ebs_worker *w, uint64_t chunk)
{
	struct ebs_copy *c = &w->copy;
	struct error error = { 0 };
	if (!c->hashes || c->chunk == chunk)
		return 0;
	int r = head_hashes_pages(c->hashes, chunk, &error, c->pages);
	if (r == 0) {
		c->chunk = chunk;
		return 0;
	}
	c->chunk = NO_CHUNK;
	if (c->whole)
		return fail_with(w, &error);
	log_info(
		"machine %s: changes are written without comparing: %s", w->machine, error.message);
	head_hashes_free(c->hashes);
	c->hashes = NULL;
	return 0;
}

/* Nothing is lost by waiting for room: AWS keeps the snapshot. */
static int wait_for_room(struct ebs_worker *w)
{
	if (is_ending(w))
		return -ECANCELED;
	clock_sleep_ns(clock_system(), FULL_WAIT_NS);
	return 0;
}

static int write_pages(struct ebs_worker *w, uint64_t offset, const uint8_t *data, unsigned pages,
	const uint64_t *hashes)
{
	struct committer *committer = group_committer(w->hold.group);
	uint64_t lsn;
	int r;
	while ((r = committer_write_hashed(committer, w->copy.disk, offset / SECTOR_BYTES,
			pages * PAGE_SECTORS, data, hashes, &lsn)) == -ENOSPC) {
		r = wait_for_room(w);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return journal_failed(w, r);
	w->state.figures.written_bytes += (uint64_t)pages * PAGE_BYTES;
	w->state.figures.cycle_written_bytes += (uint64_t)pages * PAGE_BYTES;
	return 0;
}

static int take_data(void *context, const struct ec2_cycle_volume *v, uint64_t offset,
	const void *data, size_t n)
{
	struct ebs_worker *w = context;
	const struct ebs_copy *c = &w->copy;
	const uint8_t *bytes = data;
	uint64_t hashes[BLOCK_PAGES];
	const unsigned pages = (unsigned)(n / PAGE_BYTES);
	(void)v;
	if (is_ending(w))
		return -ECANCELED;
	int r = know_chunk(w, offset / CHUNK_BYTES);
	for (unsigned i = 0; i < pages; i++)
		hashes[i] = hashes_of_page(bytes + (size_t)i * PAGE_BYTES);
	const uint64_t *held = c->pages + offset % CHUNK_BYTES / PAGE_BYTES;
	for (unsigned i = 0, end; r == 0 && i < pages; i = end) {
		bool differs = !c->hashes || hashes[i] != held[i];
		for (end = i + 1; end < pages; end++)
			if ((!c->hashes || hashes[end] != held[end]) != differs)
				break;
		if (differs)
			r = write_pages(w, offset + (uint64_t)i * PAGE_BYTES,
				bytes + (size_t)i * PAGE_BYTES, end - i, hashes + i);
	}
	return r;
}

static int write_zeros(struct ebs_worker *w, uint64_t offset, uint64_t n)
{
	struct committer *committer = group_committer(w->hold.group);
	uint64_t lsn;
	int r;
	while ((r = committer_zero(committer, w->copy.disk, offset / SECTOR_BYTES, n / SECTOR_BYTES,
			&lsn)) == -ENOSPC) {
		r = wait_for_room(w);
		if (r < 0)
			return r;
	}
	return r < 0 ? journal_failed(w, r) : 0;
}

/* What is zero here already stays as it is; neighbours that are not become one extent. */
static int take_zero(void *context, const struct ec2_cycle_volume *v, uint64_t offset, uint64_t n)
{
	struct ebs_worker *w = context;
	const struct ebs_copy *c = &w->copy;
	const uint64_t end = offset + n;
	uint64_t begin = offset; /* of the run that is not written yet */
	int r = 0;
	(void)v;
	for (uint64_t at = offset; r == 0 && at < end; at += PAGE_BYTES) {
		if (at % CHUNK_BYTES == 0 && is_ending(w))
			return -ECANCELED;
		r = know_chunk(w, at / CHUNK_BYTES);
		if (r < 0 || !c->hashes)
			break;
		if (c->pages[at % CHUNK_BYTES / PAGE_BYTES] != c->zero_hash)
			continue;
		if (at > begin)
			r = write_zeros(w, begin, at - begin);
		begin = at + PAGE_BYTES;
	}
	return r == 0 && begin < end ? write_zeros(w, begin, end - begin) : r;
}

/* ── the state ───────────────────────────────────────────────────────────────────────────── */

/* What was handed over comes first. */
static int save(void *context, const struct ec2_cycle *cycle)
{
	struct ebs_worker *w = context;
	(void)cycle; /* it is the state's */
	int r = w->hold.registry ? committer_sync(group_committer(w->hold.group)) : 0;
	if (r == 0)
		r = ebs_state_save(w->ebs, w->machine, &w->state);
	if (r < 0)
		return journal_failed(w, r);
	SCOPED_LOCK(&w->ebs->lock);
	w->shown = w->state;
	if (w->state.cycle.phase >= EC2_CYCLE_COPYING)
		w->trouble = (struct error){ 0 }; /* it gets on */
	return 0;
}

const struct ec2_cycle_ops ebs_cycle_ops = { .seen = ebs_note_instance,
	.save = save,
	.begin = begin_volume,
	.data = take_data,
	.zero = take_zero };
