/*
 * Commit: what is staged goes to disk.
 *
 * Under the lock the open batch is closed and the batches counted; from then on they are nobody's
 * but the committer's (and, read-only, the readers'). Outside the lock the records are
 * chained, and every segment's share written and synced before the next segment is touched: so a
 * segment's existence proves the one before it complete, and records behind a bad one prove that
 * it had been acknowledged. A new segment's name is synced too.
 *
 * A failed write or sync makes the history fail for good: the kernel may have dropped the pages,
 * and only replay can tell what is there.
 *
 * commit_lock is held throughout, also across I/O; that is its purpose.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/buf.h"
#include "common/log.h"
#include "fs/history_internal.h"

#define MAX_IOV 16

struct commit {
	struct history *history;
	uint64_t durable_lsn;
	uint64_t bytes;
};

static void encode_batch(struct commit *commit, struct batch *batch)
{
	struct history *history = commit->history;
	for (uint32_t at = 0; at < batch->used;) {
		struct journal_record *record = (struct journal_record *)(batch->data + at);
		record_encode(record, commit->durable_lsn, history->chain_hash);
		history->chain_hash = record->checksum;
		history->chain_lsn = record->lsn;
		at += record->bytes;
	}
}

static int open_writer(struct history *history, struct segment *segment)
{
	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, segment->seq, "seg", path);
	pthread_mutex_lock(&history->lock);
	segment->prev_lsn = history->chain_lsn;
	segment->prev_hash = history->chain_hash;
	pthread_mutex_unlock(&history->lock);
	int r = spare_take(history, segment->seq);
	if (r < 0 && r != -ENOENT)
		return r;
	pthread_mutex_lock(&history->lock);
	segment->fresh = r == -ENOENT;
	pthread_mutex_unlock(&history->lock);
	unsigned flags = IO_WRITE | IO_DIRECT;
	return io_open(history->io, path, r == 0 ? flags : flags | IO_CREATE | IO_EXCLUSIVE,
		&segment->writer);
}

/* Cuts off the torn tail that the last life left, before anything is written behind it. */
static int cut_torn_tail(struct history *history)
{
	if (history->cut_seq == 0)
		return 0;
	char path[SEGMENT_PATH_BYTES(history)];
	struct io_file *file;
	segment_path(history, history->cut_seq, "seg", path);
	history->cut_seq = 0;
	int r = io_open(history->io, path, IO_WRITE, &file);
	if (r == -ENOENT)
		return 0; /* trimmed away before anything was written */
	if (r < 0)
		return r;
	r = io_truncate(file, history->cut_bytes);
	io_close(file);
	return r;
}

/* Writes `count` batches, all of one segment, and syncs them. */
static int write_share(struct commit *commit, struct batch *const *batches, unsigned count)
{
	struct history *history = commit->history;
	struct segment *segment = batches[0]->segment;
	CLEANUP_FREE struct journal_segment *header = NULL;
	struct iovec iov[MAX_IOV];
	int used = 0;
	uint64_t offset = batches[0]->offset, bytes = 0;
	bool fresh = segment->writer == NULL;

	if (fresh) {
		int r = cut_torn_tail(history);
		if (r == 0)
			r = open_writer(history, segment);
		if (r < 0)
			return r;
		header = aligned_alloc(JOURNAL_PAGE_BYTES, JOURNAL_PAGE_BYTES);
		if (!header)
			return -ENOMEM;
		segment_header_make(history, segment, header);
		iov[used++] = (struct iovec){ header, sizeof(*header) };
		offset = 0;
	}
	for (unsigned i = 0; i < count; i++) {
		encode_batch(commit, batches[i]);
		iov[used++] = (struct iovec){ batches[i]->data, batches[i]->used };
		if (used == MAX_IOV || i + 1 == count) {
			int r = io_writev(segment->writer, iov, used, offset + bytes);
			if (r < 0)
				return r;
			for (int v = 0; v < used; v++)
				bytes += iov[v].iov_len;
			used = 0;
		}
	}
	commit->bytes += bytes;
	int r = io_datasync(segment->writer);
	if (r == 0 && fresh)
		r = io_sync_dir(history->io, history->directory);
	if (r == 0)
		commit->durable_lsn = history->chain_lsn;
	return r;
}

/* What was written of the segment up to `last` is on disk now. */
static void note_written(struct history *history, const struct batch *last)
{
	struct segment *segment = last->segment;
	struct io_file *writer = NULL;
	pthread_mutex_lock(&history->lock);
	segment->end = last->offset + last->used;
	segment->last_lsn = history->chain_lsn;
	segment->end_hash = history->chain_hash;
	if (history->active != segment && segment->end == segment->staged_end) {
		segment->closed = true;
		writer = TAKE(segment->writer);
	}
	pthread_mutex_unlock(&history->lock);
	io_close(writer);
}

static int write_batches(struct commit *commit, struct batch *const *batches, unsigned count)
{
	while (count > 0) {
		unsigned share = 1;
		while (share < count && batches[share]->segment == batches[0]->segment)
			share++;
		int r = write_share(commit, batches, share);
		if (r < 0)
			return r;
		note_written(commit->history, batches[share - 1]);
		batches += share;
		count -= share;
	}
	return 0;
}

/* Gives back the first `count` batches. */
static void retire_batches(struct history *history, unsigned count)
{
	for (; count > 0; count--) {
		struct batch *batch = history->batches;
		history->batches = batch->next;
		if (!history->batches)
			history->last_batch = NULL;
		history->staged_bytes -= batch->staged_bytes;
		stage_free_batch(history, batch);
	}
}

/* A segment that was left for the next right after a commit has nothing more to write: closes it
 * and returns its file to be closed. There is at most one. */
static struct io_file *close_passed_segment(struct history *history)
{
	for (unsigned i = history->segment_count; i > 0; i--) {
		struct segment *s = history->segments[i - 1];
		if (s->closed)
			break;
		if (s != history->active && s->writer && s->end == s->staged_end) {
			s->closed = true;
			return TAKE(s->writer);
		}
	}
	return NULL;
}

/* Counts what is to be written and lists it. Lock held. */
static int list_batches(
	const struct history *history, struct batch ***ret_batches, unsigned *ret_count)
{
	unsigned count = 0, i = 0;
	for (const struct batch *b = history->batches; b; b = b->next)
		count++;
	struct batch **batches = malloc((count + 1) * sizeof(*batches));
	if (!batches)
		return -ENOMEM;
	for (struct batch *b = history->batches; b; b = b->next)
		batches[i++] = b;
	*ret_batches = batches;
	*ret_count = count;
	return 0;
}

int commit_all(struct history *history, struct buf *checkpoint, uint64_t *ret_durable_lsn)
{
	SCOPED_LOCK(&history->commit_lock);
	CLEANUP_FREE struct batch **batches = NULL;
	unsigned count = 0;
	struct commit commit = { .history = history };

	pthread_mutex_lock(&history->lock);
	int r = history->failed ? -EIO : 0;
	if (r == 0)
		stage_close_batch(history);
	if (r == 0)
		r = list_batches(history, &batches, &count);
	struct io_file *passed = close_passed_segment(history);
	uint64_t lsn = history->staged_lsn;
	commit.durable_lsn = history->durable_lsn;
	if (r == 0 && checkpoint)
		r = checkpoint_capture(history, checkpoint);
	pthread_mutex_unlock(&history->lock);
	io_close(passed);
	if (r < 0)
		return r;

	r = write_batches(&commit, batches, count);
	pthread_mutex_lock(&history->lock);
	if (r < 0) {
		history->failed = true;
	} else if (count > 0) {
		history->proven_lsn = MAX(history->proven_lsn, history->durable_lsn);
		history->durable_lsn = lsn;
		history->journal_bytes += commit.bytes;
		history->commits++;
		retire_batches(history, count);
		catalogue_purge(history);
	}
	pthread_mutex_unlock(&history->lock);
	if (r < 0) {
		log_error("%s: writing the journal failed: %s; it must be opened again",
			history->directory, strerror(-r));
		return r == -ENOSPC ? r : -EIO;
	}
	if (checkpoint)
		checkpoint_finish(checkpoint, history->chain_hash);
	*ret_durable_lsn = lsn;
	return 0;
}

int history_commit(struct history *history, uint64_t *ret_durable_lsn)
{
	return commit_all(history, NULL, ret_durable_lsn);
}

int commit_proof(struct history *history)
{
	const struct journal_record record = { .type = JOURNAL_PROOF };
	uint64_t lsn;
	pthread_mutex_lock(&history->lock);
	bool due = !history->failed && history->staged_lsn == history->durable_lsn &&
		   history->durable_lsn > history->proven_lsn;
	int r = due ? stage_record(history, &record, &lsn) : 0;
	pthread_mutex_unlock(&history->lock);
	if (!due || r < 0)
		return r;
	uint64_t durable_lsn;
	r = commit_all(history, NULL, &durable_lsn);
	if (r < 0)
		return r;
	/* The record itself needs no proof. */
	pthread_mutex_lock(&history->lock);
	if (history->proven_lsn + 1 == lsn)
		history->proven_lsn = lsn;
	pthread_mutex_unlock(&history->lock);
	return 0;
}
