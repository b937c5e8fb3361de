/*
 * The five steps of a flush, in order; flusher.h tells what each is for.
 *
 * What is redone after a crash and why that is safe: the base may hold any part of the changes up
 * to the point that was begun (history_flush_pending). A flush of that point or a later one
 * sends a superset of them, so the base ends exactly at its point; an earlier one could not undo
 * them and is refused. Snapshots of the lost flush are not explained by a manifest and are
 * collected; if its manifest was put, the flush had succeeded and only step 5 is left.
 *
 * Threads: one; progress and cancel from any.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "fs/vhd.h"

int flusher_new(const struct flusher_options *options, struct flusher **ret_flusher)
{
	struct flusher *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->options = *options;
	*ret_flusher = f;
	return 0;
}

/* ── what was spent of the limits ────────────────────────────────────────────────────────── */

static struct flush_pace_blob *find_pace(const struct flush_pace *pace, uint16_t disk)
{
	for (unsigned i = 0; pace && i < pace->blob_count; i++)
		if (pace->blobs[i].disk == disk)
			return &pace->blobs[i];
	return NULL;
}

/* Without memory the next flusher begins with a burst. */
static void note_pace(struct flush_pace *pace, const struct flush_disk *disk)
{
	struct flush_pace_blob *blob = find_pace(pace, disk->id);
	if (!disk->target.paced)
		return;
	if (!blob) {
		struct flush_pace_blob *more =
			realloc(pace->blobs, (pace->blob_count + 1) * sizeof(*more));
		if (!more)
			return;
		pace->blobs = more;
		blob = &more[pace->blob_count++];
	}
	*blob = (struct flush_pace_blob){
		.disk = disk->id, .requests = disk->target.requests, .bytes = disk->target.bytes
	};
}

static void recall_pace(const struct flush_pace *pace, struct flush_disk *disk)
{
	const struct flush_pace_blob *blob = find_pace(pace, disk->id);
	if (!blob)
		return;
	disk->target.requests = blob->requests;
	disk->target.bytes = blob->bytes;
	disk->target.paced = true;
}

void flush_pace_free(struct flush_pace *pace)
{
	free(pace->blobs);
	*pace = (struct flush_pace){ 0 };
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

void flusher_free(struct flusher *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < f->disk_count; i++) {
		if (f->options.pace)
			note_pace(f->options.pace, f->disks[i]);
		free(f->disks[i]);
	}
	free(f);
}

void flusher_progress(struct flusher *f, struct flusher_progress *ret_progress)
{
	*ret_progress = (struct flusher_progress){ .point = atomic_load(&f->point),
		.done_bytes = atomic_load(&f->done_bytes),
		.total_bytes = atomic_load(&f->total_bytes) };
}

void flusher_cancel(struct flusher *f)
{
	atomic_store(&f->cancel, true);
}

static void acknowledged(void *context, uint64_t bytes)
{
	struct flusher *f = context;
	atomic_fetch_add(&f->done_bytes, bytes);
}

static void flush_free(struct flush *flush)
{
	sender_free(flush->sender);
	hashes_lanes_free(flush->lanes);
	hashes_writer_free(flush->writer);
	view_pass_free(flush->pass);
	view_close(flush->view);
	flush_free_unknown(flush);
	manifest_free(&flush->manifest);
}

int flush_sync(struct flusher *f, uint64_t lsn, struct error *error)
{
	int r = f->options.sync(f->options.sync_context, lsn);
	return r < 0 ? error_set(error, r, "see the log; restart the daemon once it is mended",
			       "the journal failed: %s", strerror(-r))
		     : 0;
}

static int begin(struct flusher *f, uint64_t number, struct error *error)
{
	uint64_t lsn;
	int r = history_flush_begin(f->options.history, number, &lsn);
	if (r < 0)
		return error_set(error, r, NULL, "point %" PRIu64 " cannot be flushed: %s", number,
			strerror(-r));
	return flush_sync(f, lsn, error);
}

static int commit(struct flusher *f, uint64_t number, struct error *error)
{
	uint64_t lsn;
	int r = history_flush_commit(f->options.history, number, &lsn);
	if (r < 0)
		return error_set(error, r, NULL,
			"point %" PRIu64 " is in the vault, but cannot be marked so: %s", number,
			strerror(-r));
	return flush_sync(f, lsn, error);
}

/* What the head stands on: after a loss, points may be listed that it does not. */
static uint64_t newest_vault_point(struct flusher *f)
{
	struct history_stats stats;
	history_stats(f->options.history, &stats);
	return stats.newest_vault_point;
}

/* The manifest is there. It counts if it came before any takeover: whoever still owns the group
 * after that has been seen, since a takeover looks for manifests after it has swapped the owner. */
static int acknowledge(struct flusher *f, uint64_t number, struct error *error)
{
	int r = vault_owner_confirm(f->options.store, f->options.group, error);
	return r < 0 ? r : commit(f, number, error);
}

int flush_settle_pending(struct flusher *f, uint64_t number, bool bar, struct error *error)
{
	const struct flusher_options *o = &f->options;
	bool committed = false;
	int r = vault_point_settle(o->store, o->clock, o->group, number, bar, error, &committed);
	/* After a loss here it may be known already, or be passed by. */
	committed &= number > MAX(newest_vault_point(f), o->unknown_point);
	return r == 0 && committed ? acknowledge(f, number, error) : r;
}

/* Makes sure of an earlier flush's end, then begins this one. `ret_done`: it had succeeded. */
static int settle_and_begin(struct flusher *f, uint64_t number, struct error *error, bool *ret_done)
{
	uint64_t pending = history_flush_pending(f->options.history);
	int r = 0;
	*ret_done = false;
	if (number < pending)
		return error_set(error, -EINVAL, NULL,
			"point %" PRIu64 " cannot be flushed: the flush of %" PRIu64
			" has begun and must be finished or passed by a later one",
			number, pending);
	if (pending != 0)
		r = flush_settle_pending(f, pending, pending != number, error);
	if (r < 0)
		return r;
	*ret_done = pending == number && newest_vault_point(f) == number;
	if (!*ret_done)
		r = flush_repair(f, error);
	if (r < 0 || *ret_done)
		return r;
	if (number <= newest_vault_point(f))
		return error_set(error, -ENOENT, NULL,
			"point %" PRIu64 " was lost, and the vault has a newer one", number);
	return pending == number ? 0 : begin(f, number, error);
}

static struct flush_disk *disk_of(struct flusher *f, const struct history_disk *disk)
{
	for (unsigned i = 0; i < f->disk_count; i++)
		if (f->disks[i]->id == disk->id)
			return f->disks[i];
	if (f->disk_count == HISTORY_MAX_DISKS)
		return NULL;
	struct flush_disk *new = calloc(1, sizeof(*new));
	if (!new)
		return NULL;
	new->id = disk->id;
	vault_blob_name(disk->name, new->blob);
	new->target = (struct sender_target){
		.blob = new->blob, .lease_id = f->options.group->lease_id, .sequence = -1
	};
	recall_pace(f->options.pace, new);
	f->disks[f->disk_count++] = new;
	return new;
}

/* The disks of the point, into manifest.disks and disks. */
static int list_disks(struct flush *flush)
{
	struct flusher *f = flush->flusher;
	struct manifest *m = &flush->manifest;
	CLEANUP_FREE struct history_disk *all = calloc(HISTORY_MAX_DISKS, sizeof(*all));
	m->disks = calloc(HISTORY_MAX_DISKS, sizeof(*m->disks));
	if (!all || !m->disks)
		return error_set(flush->error, -ENOMEM, NULL, "not enough memory");
	unsigned n = history_disks(f->options.history, all, HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < n && i < HISTORY_MAX_DISKS; i++) {
		struct manifest_disk *disk = &m->disks[m->disk_count];
		uint64_t bytes = view_disk_bytes(flush->view, all[i].id);
		if (bytes == 0)
			continue;
		const struct vault_disk *known = vault_disk_of(f->options.group, all[i].id);
		/* A disk may have been removed before any flush needed its blob. */
		int r = known && known->removed ? vault_disk_ensure(f->options.store,
							  f->options.group, known, flush->error)
						: 0;
		if (r < 0)
			return r;
		if (!known)
			return error_set(flush->error, -ENOENT, NULL,
				"disk %s has no blob in the vault yet", all[i].name);
		if (vhd_check_size(bytes) < 0)
			return error_set(flush->error, -EINVAL,
				"give the disk a whole number of MiB, below 8 TiB",
				"disk %s has %" PRIu64 " bytes, no size for a VHD", all[i].name,
				bytes);
		flush->disks[m->disk_count] = disk_of(f, &all[i]);
		if (!flush->disks[m->disk_count])
			return error_set(flush->error, -ENOMEM, NULL, "not enough memory");
		disk->id = all[i].id;
		disk->size_bytes = bytes;
		memcpy(disk->name, all[i].name, sizeof(disk->name));
		vault_blob_name(all[i].name, disk->blob);
		m->disk_count++;
	}
	return 0;
}

static int open_lanes(struct flush *flush)
{
	uint16_t disks[HISTORY_MAX_DISKS];
	for (unsigned i = 0; i < flush->manifest.disk_count; i++)
		disks[i] = flush->manifest.disks[i].id;
	return hashes_lanes_new(flush->writer, disks, flush->manifest.disk_count, &flush->lanes);
}

static int prepare(struct flush *flush, uint64_t number)
{
	struct flusher *f = flush->flusher;
	const struct vault_group *group = f->options.group;
	const struct sender_options sending = { .store = f->options.store,
		.clock = f->options.clock,
		.cancel = &f->cancel,
		.parallel = f->options.parallel,
		.bandwidth = f->options.bandwidth,
		.bandwidth_context = f->options.bandwidth_context,
		.bandwidth_bucket = f->options.pace ? &f->options.pace->bandwidth : NULL,
		.acknowledged = acknowledged,
		.acknowledged_context = f };
	struct hashes_sink sink;
	flush->base = newest_vault_point(f);
	flush->previous = MAX(flush->base, f->options.unknown_point);
	CLEANUP(manifest_free) struct manifest previous = { 0 };
	int r = flush_load_previous(f, flush->previous, flush->error, &previous);
	if (r < 0)
		return r;
	r = flush_load_drained(flush);
	if (r < 0)
		return r;
	r = flush->mark > 0
		    ? history_drain_view(f->options.history, number, flush->mark, &flush->view)
		    : history_flush_view(f->options.history, number, &flush->view);
	if (r < 0 || view_base_number(flush->view) != flush->base)
		return error_set(flush->error, r < 0 ? r : -EUCLEAN, NULL,
			"point %" PRIu64 " cannot be opened for the flush: %s", number,
			r < 0 ? strerror(-r) : "it does not stand on the newest vault point");
	flush->manifest = (struct manifest){ .group = group->id,
		.number = number,
		.kind = flush->point.kind,
		.flags = flush->point.flags & (POINT_KEEP | POINT_PRESSURE),
		.time_ns = flush->point.time_ns,
		.appliance = group->owner,
		.generation = group->generation,
		.changed_bytes = flush->point.changed_bytes };
	memcpy(flush->manifest.group_name, group->name, sizeof(group->name));
	r = list_disks(flush);
	if (r == 0 && history_copy_absences(f->options.history, &flush->manifest.absences,
			      &flush->manifest.absence_count) < 0)
		r = error_set(flush->error, -ENOMEM, NULL, "not enough memory");
	if (r == 0)
		r = flush_load_unknown(flush, &previous);
	if (r < 0)
		return r;
	uint64_t named = flush->drained_number ? flush->drained_number : number;
	if (flush->mark > 0 || flush->drained_number > 0)
		r = vault_drained_stage(&flush->stage, f->options.store, &f->cancel, group, named,
			&flush->part, flush->error, &sink);
	else
		r = vault_stage_open(&flush->stage, f->options.store, &f->cancel, group, number,
			flush->error, &sink);
	if (r < 0)
		return r;
	r = view_pass_new(flush->view, &flush->pass);
	if (r == 0)
		r = sender_new(&sending, &flush->sender);
	if (r == 0)
		r = hashes_writer_new(&group->id, flush->previous, named, &sink, &flush->writer);
	if (r == 0)
		r = open_lanes(flush);
	if (r < 0)
		return error_set(flush->error, r, NULL, "not enough memory to flush");
	atomic_store(&f->total_bytes, flush_count_changes(flush));
	return 0;
}

int flush_finish_hashes(struct flush *flush, struct hashes_written *ret_written)
{
	int r = hashes_writer_finish(flush->writer, ret_written);
	if (r < 0 && flush->error)
		*flush->error = flush->stage.error;
	return r;
}

/* Steps 2 to 4. */
static int send_and_commit(struct flush *flush)
{
	struct hashes_written written;
	int r = flush_send_disks(flush);
	if (r == 0)
		r = flush_snapshot_disks(flush);
	if (r < 0)
		return r;
	r = flush_finish_hashes(flush, &written);
	if (r < 0)
		return r;
	if (flush->drained_number > 0)
		r = flush_merge_drained(flush, &written);
	return r < 0 ? r : flush_commit_point(flush, &written);
}

static void count(const struct flush *flush, struct flusher_result *result)
{
	struct sender_counts sent;
	sender_counts(flush->sender, &sent);
	result->put_bytes = sent.put_bytes;
	result->put_requests = sent.put_requests;
	result->clear_bytes = sent.clear_bytes;
	result->clear_requests = sent.clear_requests;
	result->retries = sent.retries;
	result->fences = sent.fences;
	if (flush->sent_pages > flush->dirty_pages)
		result->bridged_bytes =
			(flush->sent_pages - flush->dirty_pages) * HASHES_PAGE_BYTES;
}

static int flush_point(
	struct flusher *f, uint64_t number, struct error *error, struct flusher_result *result)
{
	CLEANUP(flush_free) struct flush flush = { .flusher = f, .error = error };
	bool done;
	int r = history_point(f->options.history, number, &flush.point);
	if (r < 0)
		return error_set(error, r, NULL, "there is no point %" PRIu64, number);
	if (number <= MAX(newest_vault_point(f), f->options.unknown_point))
		return error_set(error, -EINVAL, NULL,
			"point %" PRIu64 " is not above the newest one in the vault", number);
	r = settle_and_begin(f, number, error, &done);
	if (r < 0 || done)
		return r;
	r = prepare(&flush, number);
	if (r == 0)
		r = send_and_commit(&flush);
	if (flush.sender)
		count(&flush, result);
	if (r == 0)
		r = acknowledge(f, number, error);
	if (r == 0)
		f->options.unknown_point = 0;
	if (r == 0 && flush.above.count > 0)
		r = flush_adopt_unknown(&flush);
	if (r == 0 && flush.above.count > 0)
		r = flush_sync(f, history_staged_lsn(f->options.history), error);
	if (r == 0)
		flush_delete_garbage(&flush);
	return r;
}

static int drain_round(struct flusher *f, struct error *error, struct flusher_result *result)
{
	CLEANUP(flush_free) struct flush flush = { .flusher = f, .error = error };
	bool sealed = false;
	int r = flush_begin_round(&flush);
	if (r < 0)
		return r;
	result->point = flush.point.number;
	atomic_store(&f->point, flush.point.number);
	r = prepare(&flush, flush.point.number);
	if (r == 0)
		r = flush_send_round(&flush, &sealed);
	if (flush.sender)
		count(&flush, result);
	result->drained = r == 0 && !sealed;
	return r;
}

/* Says who owns the group now, if that is why it failed. */
static int conclude(struct flusher *f, int r, struct error *local, struct error *error)
{
	atomic_store(&f->point, 0);
	if (r == -EBUSY)
		r = -ESTALE; /* leased by another */
	if (r == -ESTALE) {
		struct error better;
		if (vault_owner_confirm(f->options.store, f->options.group, &better) == -ESTALE)
			*local = better;
	}
	if (r < 0) {
		local->code = r;
		if (error)
			*error = *local;
	}
	return r;
}

int flusher_drain(struct flusher *f, struct error *error, struct flusher_result *ret_result)
{
	struct flusher_result result = { 0 };
	struct error local = { 0 };
	int64_t start = clock_monotonic_ns(f->options.clock);
	atomic_store(&f->done_bytes, 0);
	atomic_store(&f->total_bytes, 0);
	int r = conclude(f, drain_round(f, &local, &result), &local, error);
	if (r < 0)
		return r;
	result.duration_ns = clock_monotonic_ns(f->options.clock) - start;
	*ret_result = result;
	return 0;
}

int flusher_flush(
	struct flusher *f, uint64_t number, struct error *error, struct flusher_result *ret_result)
{
	struct flusher_result result = { .point = number };
	struct error local = { 0 };
	int64_t start = clock_monotonic_ns(f->options.clock);
	atomic_store(&f->done_bytes, 0);
	atomic_store(&f->total_bytes, 0);
	atomic_store(&f->point, number);
	int r = conclude(f, flush_point(f, number, &local, &result), &local, error);
	if (r < 0)
		return r;
	result.duration_ns = clock_monotonic_ns(f->options.clock) - start;
	*ret_result = result;
	return 0;
}
