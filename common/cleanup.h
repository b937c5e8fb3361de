/*
 * Cleanup by attribute: what a scope owns is released when the scope ends.
 *
 *	CLEANUP_FREE char *path = NULL;          free() at the end of the scope
 *	CLEANUP_CLOSE int fd = -1;               close() unless negative
 *	SCOPED_LOCK(&x->lock);                   unlocked at the end of the scope
 *
 * To hand a value out of the scope: `*ret_x = TAKE(x);`.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(function) __attribute__((cleanup(function)))

static inline void cleanup_free(void *slot)
{
	free(*(void **)slot);
}

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}

static inline void cleanup_unlock(pthread_mutex_t **lock)
{
	if (*lock)
		pthread_mutex_unlock(*lock);
}

static inline pthread_mutex_t *cleanup_lock(pthread_mutex_t *lock)
{
	pthread_mutex_lock(lock);
	return lock;
}

#define CLEANUP_FREE CLEANUP(cleanup_free)
#define CLEANUP_CLOSE CLEANUP(cleanup_close)

#define CLEANUP_PASTE2(a, b) a##b
#define CLEANUP_PASTE(a, b) CLEANUP_PASTE2(a, b)
#define SCOPED_LOCK(mutex)                                                            \
	CLEANUP(cleanup_unlock)                                                       \
	pthread_mutex_t *CLEANUP_PASTE(scoped_lock_, __LINE__) = cleanup_lock(mutex); \
	(void)CLEANUP_PASTE(scoped_lock_, __LINE__)

/* The pointer's value; the variable is NULL afterwards, so its cleanup does nothing. */
#define TAKE(pointer)                                       \
	({                                                  \
		__typeof__(pointer) take_value = (pointer); \
		(pointer) = NULL;                           \
		take_value;                                 \
	})
