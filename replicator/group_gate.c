/*
 * The writers' side of back-pressure: every write to the group passes group_admit before it is
 * staged.
 *
 * The way through costs two atomics while the journal has room. The fill is looked at after every
 * few MiB admitted (from 92 % on with every write) and at every tick of the timer; from 80 % on a
 * token bucket at the allowed rate delays, from 97 % on writes wait for room and are refused after
 * full_wait_s. What the history refuses all the same, because the fill was looked at too long ago,
 * waits likewise. Waiting writers hold nothing, so reads, seals and flushes go on. Where the
 * journal's disk is nearly full, so is the journal.
 */
#include <errno.h>

#include "common/bytes.h"
#include "replicator/group_internal.h"

#define LOOK_BYTES (4 * MIB)
#define LOOK_BYTES_PRESSED (512 * KIB)
#define LONGEST_DELAY_NS (10 * NS_PER_S)
#define BURST_BYTES (1 * MIB)
#define ROOM_POLL_NS (100 * NS_PER_MS)

/* Of the journal's disk this much is left to seals, indexes and checkpoints; and below the second
 * nothing is written at all, because a write that fails costs a replay. */
#define DISK_RESERVE_BYTES (16 * MIB)
#define DISK_LEAST_BYTES (1 * MIB)

/* How large the journal can become: others may fill its disk. */
static uint64_t room_on_disk(struct group *group, const struct history_stats *stats)
{
	uint64_t free_bytes;
	if (io_free_bytes(group->io, group->directory, &free_bytes) < 0)
		return UINT64_MAX;
	uint64_t left = free_bytes > DISK_RESERVE_BYTES ? free_bytes - DISK_RESERVE_BYTES : 0;
	return MAX(1ull, left + stats->used_bytes);
}

bool group_disk_is_full(struct group *group)
{
	uint64_t free_bytes;
	return io_free_bytes(group->io, group->directory, &free_bytes) == 0 &&
	       free_bytes < DISK_LEAST_BYTES;
}

void group_look_at_fill(
	struct group *group, uint64_t more_bytes, struct backpressure_plan *ret_plan)
{
	struct history_stats stats;
	history_stats(group->history, &stats);
	struct backpressure_facts facts = { .used_bytes = stats.used_bytes + more_bytes,
		.limit_bytes = MIN(stats.limit_bytes, room_on_disk(group, &stats)) };
	pthread_mutex_lock(&group->lock);
	if (group->vault_reachable && !group->paused)
		facts.flush_bytes_per_s = group->status.flush_bytes_per_s;
	pthread_mutex_unlock(&group->lock);
	backpressure_decide(&facts, ret_plan);

	atomic_store(&group->admitted_bytes, 0);
	pthread_mutex_lock(&group->bucket_lock);
	if (group->bucket.per_second != ret_plan->write_bytes_per_s)
		token_bucket_set_rate(&group->bucket, ret_plan->write_bytes_per_s, BURST_BYTES);
	pthread_mutex_unlock(&group->bucket_lock);
	enum backpressure_level before = atomic_exchange(&group->level, ret_plan->level);
	if (ret_plan->level == before)
		return;
	SCOPED_LOCK(&group->lock);
	if (ret_plan->level > before)
		pthread_cond_signal(&group->timer_wake);
	else
		pthread_cond_broadcast(&group->changed);
}

/* Notes when the first change after a seal was made, and wakes the timer for it. */
static void note_change(struct group *group)
{
	if (atomic_load_explicit(&group->first_change_ns, memory_order_relaxed) != 0)
		return;
	int64_t none = 0;
	if (!atomic_compare_exchange_strong(
		    &group->first_change_ns, &none, clock_realtime_ns(group->clock)))
		return;
	SCOPED_LOCK(&group->lock);
	pthread_cond_signal(&group->timer_wake);
}

/* What a write takes beside its bytes, at most. */
#define WRITE_OVERHEAD_BYTES (64 * KIB)

static bool has_room(struct group *group, uint64_t bytes)
{
	struct backpressure_plan plan;
	if (atomic_load(&group->level) == BACKPRESSURE_FULL)
		return false;
	/* The history refuses what would go beyond its limit: so this is asked of the write, too.
	 */
	group_look_at_fill(group, bytes > 0 ? bytes + WRITE_OVERHEAD_BYTES : 0, &plan);
	return plan.level != BACKPRESSURE_FULL;
}

/* 0 when there is room again, -ENOSPC after full_wait_s. */
static int wait_for_room(struct group *group, uint64_t bytes)
{
	int64_t until = clock_monotonic_ns(group->clock) + (int64_t)group->full_wait_s * NS_PER_S;
	for (;;) {
		if (has_room(group, bytes))
			return 0;
		SCOPED_LOCK(&group->lock);
		pthread_cond_signal(&group->timer_wake);
		if (group->stopping || atomic_load(&group->refuse_writes))
			return -EROFS;
		if (clock_monotonic_ns(group->clock) >= until) {
			atomic_fetch_add(&group->refused_writes, 1);
			return -ENOSPC;
		}
		if (atomic_load(&group->level) == BACKPRESSURE_FULL)
			group_wait_until_locked(group, &group->changed, until);
	}
}

int group_wait_for_room(void *context, uint64_t bytes)
{
	struct group *group = context;
	{
		/* Whoever frees room says so; the history counts what it holds a little later. */
		SCOPED_LOCK(&group->lock);
		pthread_cond_signal(&group->timer_wake);
		group_wait_until_locked(
			group, &group->changed, clock_monotonic_ns(group->clock) + ROOM_POLL_NS);
	}
	return wait_for_room(group, bytes);
}

/* Near the end every write is looked at. */
static uint64_t look_bytes(enum backpressure_level level)
{
	return level < BACKPRESSURE_DELAY  ? LOOK_BYTES
	       : level < BACKPRESSURE_THIN ? LOOK_BYTES_PRESSED
					   : 0;
}

int group_admit(void *context, uint64_t bytes)
{
	struct group *group = context;
	if (atomic_load_explicit(&group->refuse_writes, memory_order_relaxed))
		return -EROFS;
	enum backpressure_level level = atomic_load_explicit(&group->level, memory_order_relaxed);
	uint64_t admitted = atomic_fetch_add(&group->admitted_bytes, bytes) + bytes;
	if (admitted >= look_bytes(level)) {
		struct backpressure_plan plan;
		group_look_at_fill(group, bytes > 0 ? bytes + WRITE_OVERHEAD_BYTES : 0, &plan);
		level = plan.level;
	}
	if (level == BACKPRESSURE_FULL) {
		int r = wait_for_room(group, bytes);
		if (r < 0)
			return r;
	} else if (level >= BACKPRESSURE_DELAY) {
		pthread_mutex_lock(&group->bucket_lock);
		int64_t delay_ns = token_bucket_reserve(&group->bucket, bytes);
		pthread_mutex_unlock(&group->bucket_lock);
		if (delay_ns > 0)
			clock_sleep_ns(group->clock, MIN(delay_ns, LONGEST_DELAY_NS));
	}
	if (bytes > 0)
		note_change(group);
	return 0;
}
