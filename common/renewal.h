/*
 * Something that is valid until a certain time and is renewed ahead of it: a token, keys. Who owns
 * it keeps it; this knows when it ends, who fetches the next one, and who may wait for that.
 *
 * It serves any number of threads. A new one is fetched by whichever thread first finds the old one
 * missing or near its end (five minutes before, or half its life if that is less); meanwhile the
 * others go on with the old one, and wait only when there is none that is still valid. Nothing is
 * fetched under the lock. When fetching fails, what is still valid serves on, and fetching is tried
 * again half a minute later.
 *
 *	SCOPED_LOCK(&x->renewal.lock);
 *	int r = renewal_make_valid(&x->renewal, behalf, ret_error);
 *	if (r == 0)
 *		… copy what x holds …
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/http_error.h"

/* What the owner does. */
struct renewal_ops {
	/* Fetches a new one and puts it by: nobody but this thread touches what is put by. May
	 * block, holds no lock. `behalf` (may be NULL): on whose behalf; `patient`: somebody waits
	 * for it and has nothing else. 0 with the end of its validity (monotonic, INT64_MAX:
	 * never), or -errno, also in `ret_error`. */
	int (*fetch)(void *owner, const struct http *behalf, bool patient, int64_t *ret_expires_ns,
		struct http_error *ret_error);
	/* What was put by takes the place of what there was, if there was any. Under the lock. */
	void (*replace)(void *owner);
};

/* Embed it. */
struct renewal {
	pthread_mutex_t lock; /* guards all but the first three below, and what the owner holds */
	const struct renewal_ops *ops;
	void *owner;
	struct clock_source *clock;
	/* There is one, valid or over. The owner clears it when it lets go of what will not be used
	 * again, whatever its time. */
	bool held;
	bool fetching;
	pthread_cond_t fetched;
	int64_t expires_ns; /* monotonic, as is the next */
	int64_t refresh_ns; /* when to look for a new one */
};

/* All are borrowed. There is none yet, and nothing is fetched. */
void renewal_init(struct renewal *renewal, const struct renewal_ops *ops, void *owner,
	struct clock_source *clock);
/* When nobody uses it any more. */
void renewal_destroy(struct renewal *renewal);

/* Under the lock, which it lets go of while it fetches or waits: once it returns 0 there is one
 * that is valid now. Else, and in `ret_error` too (may be NULL): -ECANCELED, within a quarter of a
 * second after `behalf` (may be NULL) is told to stop; or what the fetching ended with. Any
 * thread. */
int renewal_make_valid(
	struct renewal *renewal, const struct http *behalf, struct http_error *ret_error);
