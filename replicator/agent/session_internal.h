/*
 * The inside of a session: session.c (connections, receiving, the conductor's loop),
 * session_disks.c (what the appliance says of disks, comparing), session_verify.c (verifying),
 * session_cut.c, session_freeze.c and session_apps.c (cuts, see session_cut_internal.h),
 * session_stop.c (being told to stop while something else takes its time).
 *
 * Receivers and the pipeline's threads only put events into the inbox; everything else is done by
 * the conductor, which alone touches what is not under the lock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/json.h"
#include "replicator/agent/compare.h"
#include "replicator/agent/pipeline.h"
#include "replicator/agent/session.h"

#define ASKED_PAGES_MAX 32u
#define ASKED_HASHES_MAX 4u

enum event_kind {
	EVENT_CONTROL,  /* json */
	EVENT_HASHES,   /* disk, first, count, hashes */
	EVENT_PAGES,    /* disk, first (chunk), count, values */
	EVENT_DIFFERS,  /* source, first (chunk), hash: what the appliance has */
	EVENT_COMPARED, /* source, first (chunk), count: 1 if something of it was sent */
	EVENT_UNREAD,   /* source, first (chunk) */
};

struct event {
	struct event *next;
	enum event_kind kind;
	struct cJSON *json;
	struct source_disk *source;
	uint16_t disk;
	uint64_t first;
	uint32_t count;
	struct hash128 hash;
	uint64_t *values;
};

struct session_disk {
	bool comparing;
	bool joining; /* no point shows it yet: cuts need not wait until it is compared */
	bool proves;  /* what is compared proves all that was written before; see source_compared */
	struct compare compare;
	int64_t retry_ns; /* what could not be read is read again then; 0: all could */
	int64_t retry_wait_ns;
	uint64_t retry_cursor; /* at which it was read again last */
};

/* What the appliance said of the cut that is being made. */
struct session_cut {
	uint64_t number;
	bool freeze, thaw, over;
	uint64_t point; /* once over; 0: none was made */
};

/* A verification of one disk. */
struct session_verify {
	bool active, repair;
	unsigned disk; /* index */
	uint64_t chunks, proven_count, differing_count;
	uint64_t unverified_count; /* of the proven: nothing can be said of them */
	uint64_t *proven;          /* a bit a chunk; owned */
	unsigned round;
	uint64_t next;      /* chunk of this round */
	bool resting;       /* until a cut has been made, */
	uint64_t rest_cuts; /* after this many */
	int64_t told_ns;
	/* the batch */
	bool asked;
	uint64_t batch_first;
	uint32_t batch_count, open;
	uint64_t cuts; /* made when it was asked for */
	uint64_t differing[COMPARE_ASK_CHUNKS];
	unsigned batch_differing;
};

struct receiver {
	struct session *session;
	unsigned index;
	pthread_t thread;
	bool runs;
};

struct session {
	const struct session_options *options;
	struct tls_context *tls;
	struct connection *connections[PIPELINE_CONNECTIONS_MAX];
	unsigned connection_count;
	struct receiver receivers[PIPELINE_CONNECTIONS_MAX];
	uint64_t window_bytes;
	struct pipeline *pipeline;

	pthread_mutex_t lock;
	pthread_cond_t arrived;
	struct event *inbox, **inbox_end;
	struct error error; /* what ended it */
	bool ended;

	struct session_disk disks[SOURCE_DISKS_MAX];
	struct hash128 zero_chunk;
	bool disks_answered;
	unsigned asked_hashes, asked_pages;
	struct event *wanted, **wanted_end; /* chunks whose pages are to be asked for */
	/* While something is about to stand still no comparison gets in its way. */
	bool hold_compare;
	struct event *held, **held_end;
	struct session_cut cut;
	uint64_t cuts; /* tried: each takes marks */
	struct session_verify verify;
	uint64_t pass;
	double copy_bytes_per_s; /* at which a cut copied last what it had of size; 0: unknown */
	uint64_t sent_at_mark;   /* bytes that had been sent when the last mark was */
	int64_t housekeeping_ns;

	pthread_t stopper;
	bool stopper_runs;
	int stopper_fd; /* an eventfd: the session ends */
};

/* ── session.c ───────────────────────────────────────────────────────────────────────────── */

void session_end(struct session *session, const struct error *error);
/* 0, or why it ended. */
int session_ended(struct session *session);
/* Waits for the next event, at most so long. NULL: none came, or the session ended. */
struct event *session_next_event(struct session *session, int64_t wait_ns);
void session_free_event(struct event *event);
/* Lets comparisons wait, or go on. */
void session_hold_compare(struct session *session, bool hold);
/* Handles one event, or waits in vain. -errno: the session ended. */
int session_pump(struct session *session, int64_t wait_ns);
int session_say(struct session *session, struct cJSON *json); /* frees json */
/* {"type": type}; NULL: no memory. */
struct cJSON *session_message(const char *type);
/* Once a second: figures, disks that came, grew or went. */
int session_keep_house(struct session *session);

/* ── session_stop.c ──────────────────────────────────────────────────────────────────────── */

/* When the agent is told to stop and the conductor does not come to it within a few seconds, since
 * the appliance takes nothing, the connections are stopped: then nothing waits any more. */
int session_watch_stop(struct session *session);
void session_unwatch_stop(struct session *session);

/* ── session_disks.c ─────────────────────────────────────────────────────────────────────── */

int session_say_disks(struct session *session);
int session_take_disks(struct session *session, const struct json *message);
int session_take_resync(struct session *session, const struct json *message);
int session_take_hashes(struct session *session, struct event *event);
int session_take_pages(struct session *session, struct event *event);
int session_take_differs(struct session *session, struct event *event);
int session_take_compared(struct session *session, struct event *event);
int session_take_unread(struct session *session, struct event *event);
/* Asks for more, tells how far it is. */
int session_advance_compare(struct session *session);
/* All that takes part in points is compared, and something does. */
bool session_is_whole(const struct session *session);
/* That disk takes part in points now. */
bool session_takes_part(const struct session *session, unsigned index);
/* Disks have come or gone: forgets what was under way for these, and tells the appliance. */
int session_disks_changed(struct session *session);
/* Its capture missed something: a new incarnation, told to the appliance. */
int session_distrust(struct session *session, struct source_disk *disk, const char *why);

/* ── session_verify.c ────────────────────────────────────────────────────────────────────── */

int session_take_verify(struct session *session, const struct json *message);
void session_end_verify(struct session *session);
/* Disks have gone: a verification of one of them ends, and the appliance is told. */
int session_verify_gone(struct session *session);
int session_verify_hashes(struct session *session, const struct event *event);
int session_verify_pages(struct session *session, const struct event *event);
void session_verify_event(struct session *session, const struct event *event);
int session_advance_verify(struct session *session);

/* ── session_cut.c ───────────────────────────────────────────────────────────────────────── */

/* cut.prepare: makes the cut, and comes back when it is over. */
int session_make_cut(struct session *session, const struct json *message);
