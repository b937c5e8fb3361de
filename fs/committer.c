/*
 * The committer: who turns staged writes into durable ones, and when.
 *
 * One caller at a time may commit; `committing` is the token for that. Whoever waits for
 * durability takes it if it is free and commits in its own thread, so that a lone write costs no
 * change of threads; those who come meanwhile wait, and the next of them commits for all (group
 * commit). What nobody waits for is committed by the committer's own thread, 2 ms after the first
 * staged byte or at 1 MiB. A second thread keeps the history in repair, because a commit must not
 * wait for that; it runs after commits, at most ten times a second while there is nothing urgent,
 * and once more when nothing has come for a while: only then does history_maintain see idleness,
 * in which it proves the last commit and gives memory back.
 *
 * A writer that finds the committing thread asleep wakes it. To know that without a lock, the
 * thread publishes how it sleeps in `sleep_state` *before* it looks for the last time whether
 * something is staged, and the writer stages *before* it looks at the state: one of them sees the
 * other. (Sequentially consistent atomics on both sides.)
 *
 * Lock: one, for the token and the threads' wishes; never held across a call that does I/O.
 */
#include "fs/committer.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "fs/parts.h"
#include "fs/store.h"

#define GATHER_NS (2 * NS_PER_MS)
#define GATHER_BYTES (1 * MIB)
#define UPKEEP_NS (100 * NS_PER_MS)
#define UPKEEP_BYTES (4 * MIB)
#define REST_NS (500 * NS_PER_MS)
#define STACK_BYTES (512 * KIB)

enum sleep_state {
	AWAKE,    /* will look again by itself */
	IDLE,     /* sleeps until it is woken */
	GATHERING /* sleeps for GATHER_NS, to be woken at GATHER_BYTES */
};

struct committer {
	struct history *history;    /* borrowed */
	struct committer_gate gate; /* .admit NULL: none */
	pthread_t commit_thread, upkeep_thread;
	_Atomic int sleep_state;

	pthread_mutex_t lock;
	pthread_cond_t work;      /* for the committing thread */
	pthread_cond_t committed; /* a commit ended: for all who wait for one */
	pthread_cond_t upkeep;    /* for the upkeep thread */
	bool committing;          /* the token */
	bool stopping;
	bool failed;              /* a commit failed; said once */
	bool upkeep_due;          /* something was committed since upkeep ran */
	bool upkeep_urgent;       /* a lot was */
	bool rest_due;            /* upkeep ran, but has not yet seen that nothing came after */
	uint64_t upkeep_at_bytes; /* bytes committed when upkeep was last called urgent */
	uint64_t committed_bytes;

	struct disk_parts {
		uint16_t disk;
		struct parts *parts; /* counted */
	} * parts;
	unsigned parts_count;
};

/* ── committing ──────────────────────────────────────────────────────────────────────────── */

/* Wishes for upkeep after a commit of `bytes`; under the lock. */
static void call_upkeep_locked(struct committer *c, uint64_t bytes)
{
	c->committed_bytes += bytes;
	bool urgent = c->committed_bytes - c->upkeep_at_bytes >= UPKEEP_BYTES;
	if (urgent)
		c->upkeep_at_bytes = c->committed_bytes;
	bool news = !c->upkeep_due || (urgent && !c->upkeep_urgent);
	c->upkeep_due = true;
	c->upkeep_urgent |= urgent;
	if (news)
		pthread_cond_signal(&c->upkeep);
}

/* Takes the token, commits, gives it back. Called and left with the lock held; the lock is
 * released meanwhile. The token must be free. */
static int commit_once_locked(struct committer *c)
{
	c->committing = true;
	pthread_mutex_unlock(&c->lock);
	uint64_t staged_bytes = history_staged_bytes(c->history);
	uint64_t durable;
	int r = history_commit(c->history, &durable);
	pthread_mutex_lock(&c->lock);
	c->committing = false;
	bool first_failure = r < 0 && !c->failed;
	c->failed |= r < 0;
	if (r == 0)
		call_upkeep_locked(c, staged_bytes);
	pthread_cond_broadcast(&c->committed);
	if (first_failure) {
		pthread_mutex_unlock(&c->lock);
		log_error("the journal failed: %s; it takes nothing more until it is opened again",
			strerrordesc_np(-r));
		pthread_mutex_lock(&c->lock);
	}
	return r;
}

/* Waits until a commit ended that the caller did not run, or runs one; under the lock. */
static int advance_locked(struct committer *c)
{
	if (c->failed)
		return -EIO;
	if (!c->committing)
		return commit_once_locked(c);
	pthread_cond_wait(&c->committed, &c->lock);
	return 0;
}

int committer_wait(struct committer *c, uint64_t lsn)
{
	if (history_durable_lsn(c->history) >= lsn)
		return 0;
	SCOPED_LOCK(&c->lock);
	while (history_durable_lsn(c->history) < lsn) {
		if (advance_locked(c) < 0)
			return history_durable_lsn(c->history) >= lsn ? 0 : -EIO;
	}
	return 0;
}

int committer_sync(struct committer *c)
{
	return committer_wait(c, history_staged_lsn(c->history));
}

/* ── staging ─────────────────────────────────────────────────────────────────────────────── */

/* Something was staged: sees to it that it will be committed. */
static void nudge(struct committer *c)
{
	int state = atomic_load(&c->sleep_state);
	if (state == AWAKE)
		return;
	if (state == GATHERING && history_staged_bytes(c->history) < GATHER_BYTES)
		return;
	SCOPED_LOCK(&c->lock);
	pthread_cond_signal(&c->work);
}

/* Makes room after the history said that too much is staged. */
static int make_room(struct committer *c)
{
	SCOPED_LOCK(&c->lock);
	return advance_locked(c) < 0 ? -EIO : 0;
}

static int admit(struct committer *c, uint64_t bytes)
{
	return c->gate.admit ? c->gate.admit(c->gate.context, bytes) : 0;
}

int committer_room(struct committer *c, uint64_t bytes)
{
	return admit(c, bytes);
}

int committer_wait_for_room(struct committer *c, uint64_t bytes)
{
	return c->gate.wait_for_room ? c->gate.wait_for_room(c->gate.context, bytes) : -ENOSPC;
}

/* A call that the history refused: 0 if it is to be made again. The gate looks at the journal now
 * and then only, so the history may be full before the gate has seen it. `tries` NULL: who calls
 * waits by himself. */
static int once_more(struct committer *c, int refused, uint64_t bytes, unsigned *tries)
{
	if (refused == -EAGAIN)
		return make_room(c);
	if (refused != -ENOSPC || !tries || (*tries)++ == STORE_ROOM_TRIES)
		return refused;
	return committer_wait_for_room(c, bytes);
}

typedef int stage_write(struct history *history, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, uint64_t *ret_lsn);

static int stage(struct committer *c, stage_write *write, uint16_t disk, uint64_t lba,
	uint64_t sectors, const void *data, unsigned *tries, uint64_t *ret_lsn)
{
	const uint8_t *bytes = data;
	uint64_t lsn = 0;
	while (sectors > 0) {
		uint32_t n =
			(uint32_t)MIN(sectors, (uint64_t)HISTORY_MAX_WRITE_BYTES / SECTOR_BYTES);
		int r = write(c->history, disk, lba, n, bytes, &lsn);
		if (r < 0)
			r = once_more(c, r, (uint64_t)n * SECTOR_BYTES, tries);
		else
			lba += n, sectors -= n, bytes += (size_t)n * SECTOR_BYTES;
		if (r < 0)
			return r;
	}
	nudge(c);
	*ret_lsn = lsn;
	return 0;
}

int committer_write(struct committer *c, uint16_t disk, uint64_t lba, uint64_t sectors,
	const void *data, uint64_t *ret_lsn)
{
	unsigned tries = 0;
	int r = admit(c, sectors * SECTOR_BYTES);
	return r < 0 ? r : stage(c, history_write, disk, lba, sectors, data, &tries, ret_lsn);
}

int committer_write_admitted(struct committer *c, uint16_t disk, uint64_t lba, uint64_t sectors,
	const void *data, uint64_t *ret_lsn)
{
	return stage(c, history_write, disk, lba, sectors, data, NULL, ret_lsn);
}

int committer_write_late(struct committer *c, uint16_t disk, uint64_t lba, uint64_t sectors,
	const void *data, uint64_t *ret_lsn)
{
	return stage(c, history_write_late, disk, lba, sectors, data, NULL, ret_lsn);
}

int committer_write_hashed(struct committer *c, uint16_t disk, uint64_t lba, uint32_t sectors,
	const void *data, const uint64_t *hashes, uint64_t *ret_lsn)
{
	int r = admit(c, (uint64_t)sectors * SECTOR_BYTES);
	if (r < 0)
		return r;
	unsigned tries = 0;
	while ((r = history_write_hashed(c->history, disk, lba, sectors, data, hashes, ret_lsn)) <
		0) {
		r = once_more(c, r, (uint64_t)sectors * SECTOR_BYTES, &tries);
		if (r < 0)
			return r;
	}
	nudge(c);
	return 0;
}

static int stage_zero(struct committer *c, uint16_t disk, uint64_t lba, uint64_t sectors,
	unsigned *tries, uint64_t *ret_lsn)
{
	uint64_t lsn = 0;
	int r;
	while ((r = history_zero(c->history, disk, lba, sectors, &lsn)) < 0) {
		r = once_more(c, r, SECTOR_BYTES, tries);
		if (r < 0)
			return r;
	}
	nudge(c);
	*ret_lsn = lsn;
	return 0;
}

int committer_zero(
	struct committer *c, uint16_t disk, uint64_t lba, uint64_t sectors, uint64_t *ret_lsn)
{
	/* A zero range takes a header in the journal, however long it is. */
	unsigned tries = 0;
	int r = admit(c, SECTOR_BYTES);
	return r < 0 ? r : stage_zero(c, disk, lba, sectors, &tries, ret_lsn);
}

int committer_zero_admitted(
	struct committer *c, uint16_t disk, uint64_t lba, uint64_t sectors, uint64_t *ret_lsn)
{
	return stage_zero(c, disk, lba, sectors, NULL, ret_lsn);
}

/* ── parts ───────────────────────────────────────────────────────────────────────────────── */

static struct parts *find_parts_locked(const struct committer *c, uint16_t disk)
{
	for (unsigned i = 0; i < c->parts_count; i++)
		if (c->parts[i].disk == disk)
			return c->parts[i].parts;
	return NULL;
}

struct parts *committer_parts(struct committer *c, uint16_t disk)
{
	SCOPED_LOCK(&c->lock);
	return find_parts_locked(c, disk);
}

struct parts *committer_add_parts(struct committer *c, uint16_t disk, struct parts *parts)
{
	pthread_mutex_lock(&c->lock);
	struct parts *known = find_parts_locked(c, disk);
	struct disk_parts *grown =
		known ? NULL : realloc(c->parts, (c->parts_count + 1) * sizeof(*c->parts));
	if (grown) {
		c->parts = grown;
		c->parts[c->parts_count++] = (struct disk_parts){ disk, parts };
	}
	pthread_mutex_unlock(&c->lock);
	if (known)
		parts_unref(parts);
	return known ? known : grown ? parts : NULL;
}

static bool has_disk(struct committer *c, uint16_t disk)
{
	struct history_disk info;
	return history_disk(c->history, disk, &info) == 0 && !info.removed;
}

static bool has_failed(struct committer *c)
{
	SCOPED_LOCK(&c->lock);
	return c->failed;
}

/* Settles what all disks have; the first error. What cannot be proven is -ENODATA, for -EIO means
 * that the journal failed. */
static int settle(struct committer *c)
{
	int first_error = 0;
	for (unsigned i = 0;; i++) {
		pthread_mutex_lock(&c->lock);
		struct disk_parts one = { 0 };
		if (i < c->parts_count)
			one = c->parts[i];
		pthread_mutex_unlock(&c->lock);
		if (!one.parts)
			return first_error;
		int r = parts_settle(one.parts);
		if (r < 0 && first_error == 0 && has_disk(c, one.disk))
			first_error = r == -EIO && !has_failed(c) ? -ENODATA : r;
	}
}

int committer_seal(struct committer *c, const struct seal *seal, uint64_t *ret_number)
{
	uint64_t number, lsn;
	int r = settle(c);
	if (r < 0)
		return r;
	while ((r = history_seal(c->history, seal, &number, &lsn)) == -EAGAIN) {
		r = make_room(c);
		if (r < 0)
			return r;
	}
	if (r == 0)
		r = committer_wait(c, lsn);
	if (r == 0)
		*ret_number = number;
	return r;
}

/* ── the threads ─────────────────────────────────────────────────────────────────────────── */

static bool is_staged(struct committer *c)
{
	return history_staged_lsn(c->history) > history_durable_lsn(c->history);
}

static void wait_ns_locked(struct committer *c, pthread_cond_t *condition, int64_t ns)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t nsec = until.tv_nsec + ns;
	until.tv_sec += nsec / NS_PER_S;
	until.tv_nsec = (long)(nsec % NS_PER_S);
	pthread_cond_timedwait(condition, &c->lock, &until);
}

/* Sleeps until something is staged, then for as long as it may be gathered. Under the lock. */
static void gather_locked(struct committer *c)
{
	atomic_store(&c->sleep_state, IDLE);
	while (!c->stopping && (c->failed || !is_staged(c)))
		pthread_cond_wait(&c->work, &c->lock);
	atomic_store(&c->sleep_state, GATHERING);
	if (!c->stopping && history_staged_bytes(c->history) < GATHER_BYTES)
		wait_ns_locked(c, &c->work, GATHER_NS);
	atomic_store(&c->sleep_state, AWAKE);
}

static void *commit_main(void *argument)
{
	struct committer *c = argument;
	SCOPED_LOCK(&c->lock);
	while (!c->stopping) {
		gather_locked(c);
		/* Another's commit may have taken all of it, or be about to. */
		while (!c->failed && is_staged(c) && c->committing)
			pthread_cond_wait(&c->committed, &c->lock);
		if (!c->failed && is_staged(c))
			(void)commit_once_locked(c);
	}
	return NULL;
}

/* Sleeps until upkeep is due, and a while more if it is not urgent; or until nothing has come for
 * REST_NS after it ran, so that the history sees that it may rest. Under the lock. */
static void await_upkeep_locked(struct committer *c)
{
	if (c->rest_due && !c->stopping && !c->upkeep_due) {
		wait_ns_locked(c, &c->upkeep, REST_NS);
		if (!c->upkeep_due) {
			c->rest_due = false;
			return;
		}
	}
	while (!c->stopping && !c->upkeep_due)
		pthread_cond_wait(&c->upkeep, &c->lock);
	if (!c->stopping && !c->upkeep_urgent)
		wait_ns_locked(c, &c->upkeep, UPKEEP_NS);
	c->upkeep_due = c->upkeep_urgent = false;
	c->rest_due = true;
}

static void *upkeep_main(void *argument)
{
	struct committer *c = argument;
	bool told = false;
	SCOPED_LOCK(&c->lock);
	while (!c->stopping) {
		await_upkeep_locked(c);
		bool more = true;
		while (more && !c->stopping && !c->failed) {
			pthread_mutex_unlock(&c->lock);
			more = false;
			int r = history_maintain(c->history, &more);
			if (r < 0 && !told)
				log_warning(
					"upkeep of the journal failed: %s; it is tried again after "
					"the next commit",
					strerrordesc_np(-r));
			told = r < 0;
			if (r < 0)
				more = false;
			pthread_mutex_lock(&c->lock);
		}
	}
	return NULL;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static void release(struct committer *c)
{
	for (unsigned i = 0; i < c->parts_count; i++)
		parts_unref(c->parts[i].parts);
	free(c->parts);
	pthread_cond_destroy(&c->upkeep);
	pthread_cond_destroy(&c->committed);
	pthread_cond_destroy(&c->work);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void stop_threads(struct committer *c, bool upkeep_runs)
{
	pthread_mutex_lock(&c->lock);
	c->stopping = true;
	pthread_cond_broadcast(&c->work);
	pthread_cond_broadcast(&c->committed);
	pthread_cond_broadcast(&c->upkeep);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->commit_thread, NULL);
	if (upkeep_runs)
		pthread_join(c->upkeep_thread, NULL);
}

int committer_new(struct history *history, const struct committer_gate *gate,
	struct committer **ret_committer)
{
	struct committer *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->history = history;
	if (gate)
		c->gate = *gate;
	c->upkeep_due = true; /* opening may have left something to do */
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&c->work, &monotonic);
	pthread_cond_init(&c->committed, &monotonic);
	pthread_cond_init(&c->upkeep, &monotonic);
	pthread_condattr_destroy(&monotonic);

	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int r = -pthread_create(&c->commit_thread, &attr, commit_main, c);
	if (r == 0) {
		r = -pthread_create(&c->upkeep_thread, &attr, upkeep_main, c);
		if (r < 0)
			stop_threads(c, false);
	}
	pthread_attr_destroy(&attr);
	if (r < 0) {
		release(c);
		return r;
	}
	*ret_committer = c;
	return 0;
}

void committer_free(struct committer *c)
{
	if (!c)
		return;
	stop_threads(c, true);
	int r = settle(c);
	if (r < 0)
		log_warning("the ends of writes that were never flushed are lost, because the rest "
			    "of their sectors cannot be read: %s",
			strerrordesc_np(-r));
	/* The failure was logged when it happened. */
	(void)committer_sync(c);
	release(c);
}

struct history *committer_history(struct committer *c)
{
	return c->history;
}
