/*
 * Upkeep: what is due between commits. An index for each closed segment, a checkpoint after it, a
 * spare, memory given back when nothing happens.
 *
 * upkeep_lock is held throughout, also across I/O: maintain and trim take turns.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/log.h"
#include "fs/history_internal.h"

#define IDLE_READERS 4u
#define QUIET_NS (50 * NS_PER_MS)
#define QUIET_BYTES MIB

uint64_t upkeep_used(const struct history *history)
{
	return stage_open_bytes(history) + history->live_bytes + history->checkpoint_bytes +
	       history->spare_bytes + history->leftover_bytes;
}

/* Files of segments that no slot of a checkpoint names any more. */
int upkeep_drop_leftovers(struct history *history)
{
	if (history->slots_written < 2)
		return 0;
	for (; history->leftover_count > 0; history->leftover_count--) {
		char path[SEGMENT_PATH_BYTES(history)];
		uint64_t seq = history->leftovers[history->leftover_count - 1];
		segment_path(history, seq, "seg", path);
		int r = io_unlink(history->io, path);
		segment_path(history, seq, "idx", path);
		(void)io_unlink(history->io, path); /* perhaps there is none */
		if (r < 0 && r != -ENOENT)
			return r;
	}
	pthread_mutex_lock(&history->lock);
	history->leftover_bytes = 0;
	pthread_mutex_unlock(&history->lock);
	return 0;
}

/* The oldest closed segment without an index, with a reference; NULL if there is none. */
static struct segment *next_to_index(struct history *history, struct segment *ret_values)
{
	SCOPED_LOCK(&history->lock);
	for (unsigned i = 0; i < history->segment_count; i++) {
		struct segment *s = history->segments[i];
		if (!s->closed)
			break;
		if (s->index_bytes == 0 && !s->index_failed) {
			segment_ref(s);
			*ret_values = *s;
			return s;
		}
	}
	return NULL;
}

static int index_one(struct history *history, bool *ret_did)
{
	struct segment values;
	struct segment *segment = next_to_index(history, &values);
	*ret_did = segment != NULL;
	if (!segment)
		return 0;
	struct run run;
	int r = run_scan(history, &values, &run);
	bool is_bad = r == -EBADMSG || r == -EIO; /* anything else may pass */
	if (r == 0) {
		r = run_write(history, segment, &run);
		run_free(&run);
	}
	if (is_bad) {
		log_warning("%s/%016" PRIx64 ".seg: no index could be made: %s", history->directory,
			segment->seq, strerror(-r));
		pthread_mutex_lock(&history->lock);
		segment->index_failed = true;
		pthread_mutex_unlock(&history->lock);
	}
	segment_unref(history, segment);
	return is_bad ? 0 : r;
}

static bool checkpoint_due(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	uint64_t closed = 0;
	for (unsigned i = 0; i < history->segment_count && history->segments[i]->closed; i++)
		closed = history->segments[i]->seq;
	return !history->failed && closed > history->checkpoint_closed;
}

/* So little is written that it is not worth keeping buffers for it. Lock held. */
static bool is_quiet(struct history *history)
{
	int64_t now = clock_monotonic_ns(history->clock);
	if (now - history->looked_ns < QUIET_NS)
		return false;
	bool quiet = history->journal_bytes - history->looked_bytes < QUIET_BYTES;
	history->looked_ns = now;
	history->looked_bytes = history->journal_bytes;
	return quiet;
}

/* Nothing was committed since the last time: gives memory and files back. */
static int rest(struct history *history)
{
	pthread_mutex_lock(&history->lock);
	bool idle = history->commits == history->commits_at_upkeep && history->staged_bytes == 0;
	history->commits_at_upkeep = history->commits;
	if (idle || is_quiet(history))
		stage_free_spare(history);
	pthread_mutex_unlock(&history->lock);
	if (!idle)
		return 0;
	header_cache_drop(history->headers);
	segment_close_readers(history, IDLE_READERS);
	int r = commit_proof(history);
	pthread_mutex_lock(&history->lock);
	history->commits_at_upkeep = history->commits;
	pthread_mutex_unlock(&history->lock);
	return r;
}

int history_maintain(struct history *history, bool *ret_more)
{
	SCOPED_LOCK(&history->upkeep_lock);
	pthread_mutex_lock(&history->lock);
	bool failed = history->failed;
	pthread_mutex_unlock(&history->lock);
	if (failed)
		return -EIO;
	bool did;
	int index = index_one(history, &did);
	/* An index saves time, a checkpoint does more: it does not wait for that. */
	int r = checkpoint_due(history) ? checkpoint_write(history, false) : 0;
	if (r == 0)
		r = index;
	if (r == 0)
		r = upkeep_drop_leftovers(history);
	if (r < 0)
		return r;
	pthread_mutex_lock(&history->lock);
	bool staged = history->resync_staged;
	history->resync_staged = false;
	pthread_mutex_unlock(&history->lock);
	uint64_t lsn;
	r = staged ? commit_all(history, NULL, &lsn) : 0;
	if (r == 0)
		spare_prepare(history);
	if (r == 0)
		r = rest(history);
	if (r == 0)
		*ret_more = did;
	return r;
}
