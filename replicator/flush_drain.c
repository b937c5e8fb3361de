/*
 * Draining, and the flush of what was drained.
 *
 * A round is a flush without its end: the changes up to a cut of the journal go to the bases under
 * the number of the point to come, their hashes into a part of their own, and then a record says so
 * (fs/history.h, "Draining"). The order is what makes it safe: bases, then the part, then a look
 * whether the group is still ours, then the record; only after that may the journal be trimmed.
 * When anything fails the record is not written, and the next round or flush sends it all again,
 * over whatever has arrived, and makes its own part under a name that was never used.
 *
 * Parts are merged as they come, so that each is at least twice as large as the next: at any size
 * there are few of them, and every hash is copied a few times only. The flush of the point merges
 * them all into its hashes object; from then on nothing shows that the point was drained.
 *
 * One thread, the flusher's.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

static struct drained_part *last_part(struct drained_proof *proof, unsigned back)
{
	return &proof->parts[proof->count - back];
}

static void note_garbage(struct flush *flush, const struct drained_part *part)
{
	if (flush->garbage_count < ARRAY_SIZE(flush->garbage))
		flush->garbage[flush->garbage_count++] = *part;
}

void flush_delete_garbage(struct flush *flush)
{
	const struct flusher_options *o = &flush->flusher->options;
	uint64_t number = flush->drained_number > 0 ? flush->drained_number : flush->point.number;
	/* What stays is collected later. */
	for (unsigned i = 0; i < flush->garbage_count; i++)
		if (vault_drained_delete(o->store, o->group, number, &flush->garbage[i], NULL) < 0)
			return;
}

int flush_load_drained(struct flush *flush)
{
	struct history_drain drain;
	history_drain_state(flush->flusher->options.history, &drain);
	int r = vault_drained_parse(drain.proof, drain.proof_bytes, flush->error, &flush->drained);
	if (r < 0)
		return r;
	flush->drained_number = drain.number;
	flush->part.generation = flush->flusher->options.group->generation;
	flush->part.from = drain.lsn;
	flush->part.to = flush->mark > 0 ? flush->mark : flush->point.lsn;
	return 0;
}

static int join(struct flush *flush, const struct drained_part *older,
	const struct drained_part *newer, struct drained_part *ret_part)
{
	const struct flusher_options *o = &flush->flusher->options;
	struct drained_part part;
	int r = vault_drained_join(o->store, &flush->flusher->cancel, o->group, flush->previous,
		flush->drained_number, older, newer, flush->error, &part);
	if (r < 0)
		return r;
	*ret_part = part;
	return 0;
}

/* ── the end ─────────────────────────────────────────────────────────────────────────────── */

/* The part that was just written. */
static int end_part(struct flush *flush, const struct hashes_written *written)
{
	flush->part.bytes = written->bytes;
	flush->part.digest = written->digest;
	return vault_stage_commit(&flush->stage, written, NULL, flush->error);
}

static void tally(void *context, uint16_t id, uint32_t count, bool zero)
{
	struct manifest *m = context;
	for (unsigned i = 0; i < m->disk_count; i++) {
		struct manifest_disk *disk = &m->disks[i];
		if (disk->id != id)
			continue;
		disk->changed_ranges++;
		*(zero ? &disk->zero_bytes : &disk->data_bytes) +=
			(uint64_t)count * HASHES_PAGE_BYTES;
	}
}

static void free_writer(struct hashes_writer **writer)
{
	hashes_writer_free(*writer);
}

/* The two that are left become the hashes of the point. */
static int write_whole(struct flush *flush, const struct drained_part *older,
	const struct drained_part *newer, struct hashes_written *ret_written)
{
	const struct flusher_options *o = &flush->flusher->options;
	CLEANUP(free_writer) struct hashes_writer *writer = NULL;
	struct manifest *m = &flush->manifest;
	struct error why = { 0 };
	struct hashes_sink sink;
	int r = vault_stage_open(&flush->stage, o->store, &flush->flusher->cancel, o->group,
		flush->point.number, flush->error, &sink);
	if (r < 0)
		return r;
	r = hashes_writer_new(&o->group->id, flush->previous, flush->point.number, &sink, &writer);
	if (r < 0)
		return error_set(flush->error, r, NULL, "not enough memory to merge hashes");
	for (unsigned i = 0; i < m->disk_count; i++)
		m->disks[i].changed_ranges = m->disks[i].data_bytes = m->disks[i].zero_bytes = 0;
	hashes_writer_tell(writer, tally, m);
	r = vault_drained_merge(
		o->store, o->group, flush->drained_number, older, newer, writer, &why);
	if (r == 0)
		r = hashes_writer_finish(writer, ret_written);
	if (r < 0 && flush->error)
		*flush->error = flush->stage.error.code ? flush->stage.error : why;
	return r;
}

int flush_merge_drained(struct flush *flush, struct hashes_written *written)
{
	struct drained_proof *proof = &flush->drained;
	int r = end_part(flush, written);
	struct drained_part whole = flush->part;
	for (unsigned i = 0; i < proof->count; i++)
		note_garbage(flush, &proof->parts[i]);
	note_garbage(flush, &flush->part);
	for (; r == 0 && proof->count > 1; proof->count--) {
		r = join(flush, last_part(proof, 1), &whole, &whole);
		if (r == 0)
			note_garbage(flush, &whole);
	}
	return r < 0 ? r : write_whole(flush, &proof->parts[0], &whole, written);
}

/* ── a round ─────────────────────────────────────────────────────────────────────────────── */

/* Adds the part to the list, and merges until it is in order again. */
static int add_part(struct flush *flush, struct drained_proof *proof)
{
	if (proof->count == DRAINED_PARTS)
		return error_set(flush->error, -E2BIG, NULL, "too many parts of hashes");
	proof->parts[proof->count++] = flush->part;
	while (proof->count > 1 && (last_part(proof, 2)->bytes < 2 * last_part(proof, 1)->bytes ||
					   proof->count == DRAINED_PARTS)) {
		struct drained_part both;
		int r = join(flush, last_part(proof, 2), last_part(proof, 1), &both);
		if (r < 0)
			return r;
		note_garbage(flush, last_part(proof, 1));
		note_garbage(flush, last_part(proof, 2));
		proof->count--;
		*last_part(proof, 1) = both;
	}
	return 0;
}

/* Everything has arrived: says so. */
static int commit_round(struct flush *flush, bool *ret_sealed)
{
	struct flusher *f = flush->flusher;
	struct drained_proof proof = flush->drained;
	uint64_t lsn;
	int r = add_part(flush, &proof);
	if (r == 0)
		r = vault_owner_confirm(f->options.store, f->options.group, flush->error);
	if (r < 0)
		return r;
	r = history_drain_commit(
		f->options.history, flush->view, &proof, vault_drained_bytes(&proof), &lsn);
	*ret_sealed = r == -ESTALE;
	if (r == -ESTALE)
		return 0; /* the point has it all, and is flushed instead */
	if (r < 0)
		return error_set(
			flush->error, r, NULL, "the drain cannot be noted: %s", strerror(-r));
	r = flush_sync(f, lsn, flush->error);
	if (r == 0)
		flush_delete_garbage(flush);
	return r;
}

/* Makes sure of an earlier flush's end, which the round's record would make forgotten. */
static int settle(struct flusher *f, struct error *error)
{
	struct history_drain drain;
	history_drain_state(f->options.history, &drain);
	if (drain.flush_due)
		return error_set(error, -EALREADY, NULL,
			"a sealed point is to be flushed before anything is drained");
	uint64_t pending = history_flush_pending(f->options.history);
	if (pending == 0 || pending >= drain.next)
		return 0;
	return flush_settle_pending(f, pending, true, error);
}

int flush_begin_round(struct flush *flush)
{
	struct flusher *f = flush->flusher;
	uint64_t lsn;
	int r = settle(f, flush->error);
	if (r == 0)
		r = flush_repair(f, flush->error);
	if (r < 0)
		return r;
	r = history_drain_begin(f->options.history, f->options.drain_bytes, &flush->point.number,
		&flush->mark, &lsn);
	if (r == -EBUSY)
		return error_set(flush->error, -EALREADY, NULL,
			"a sealed point is to be flushed before anything is drained");
	if (r == -EUCLEAN)
		return error_set(flush->error, r, "let the source make a point",
			"after a loss here the vault is ahead of the journal, and what fills the "
			"journal cannot be sent before its point is made");
	if (r < 0)
		return error_set(flush->error, r, NULL, "the drain cannot begin: %s", strerror(-r));
	return flush_sync(f, lsn, flush->error);
}

int flush_send_round(struct flush *flush, bool *ret_sealed)
{
	struct hashes_written written;
	int r = flush_send_disks(flush);
	if (r < 0)
		return r;
	r = flush_finish_hashes(flush, &written);
	if (r < 0)
		return r;
	r = end_part(flush, &written);
	return r < 0 ? r : commit_round(flush, ret_sealed);
}
