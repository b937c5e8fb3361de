/*
 * Between the freezer (freeze.c) and its watchdog (freeze_watchdog.c): the page that they share.
 *
 * States: IDLE -> FREEZING (before the ioctl) -> FROZEN (after it) -> IDLE. The agent goes forward;
 * the watchdog thaws what is FROZEN first, then what is FREEZING, again and again: an ioctl that
 * waits (for a filesystem below that is frozen already) succeeds late, and must not stay. The
 * agent, coming back from such an ioctl, sees `expired` and thaws by itself too. Thawing what is
 * not frozen is harmless (EINVAL).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "replicator/agent/freeze.h"

enum state { IDLE, FREEZING, FROZEN };

struct freeze_shared {
	atomic_int states[FREEZER_FILESYSTEMS_MAX];
	_Atomic int64_t deadline_ns; /* monotonic; 0: nothing is frozen */
	atomic_bool expired;         /* the watchdog has begun to thaw */
};

static inline int64_t freeze_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Forks it; it is at work when this returns. Closing the socket ends it, after it has thawed.
 * `small`: the caller is, so all that it has is locked in memory; else only what the child uses. 0
 * or -errno. */
int watchdog_start(struct freeze_shared *shared, bool small, pid_t *ret_pid, int *ret_socket);
/* One that does not answer: it is gone when this returns, and the socket is closed. */
void watchdog_kill(pid_t pid, int socket);
/* Gives it the descriptors of what may be frozen, in place of those before, and wakes it: it looks
 * at the deadline again. 0 or -errno: it is dead, or does not answer. */
int watchdog_give(int socket, const int *fds, size_t count);
/* Has it look at the deadline again. 0 or -errno. */
int watchdog_wake(int socket);
