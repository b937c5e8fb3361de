/*
 * The inside of a group, shared by the group_*.c files and nobody else.
 *
 * Threads: the timer's (group_timer.c), the flusher's (group_vault.c), the committer's, and any
 * number of callers and writers.
 *
 * Locks, in their order; none is held across I/O except where it says so:
 *	seal_lock    one seal at a time; held across the seal's commit, so that what a seal covers
 *	             and what is noted about it cannot part
 *	state_lock   the state file; held across its replacing and across the drops it announces, so
 *	             that no point is dropped by a rule while a person marks it
 *	lock         everything else; the history's own lock is below it
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "common/cleanup.h"
#include "common/token_bucket.h"
#include "replicator/backpressure.h"
#include "replicator/group.h"

#define GROUP_SEALED_MAX 1024
#define GROUP_ABSENCES_MAX 1024u
#define GROUP_REST_NS (10 * NS_PER_S) /* connections nobody needs are kept so long */

/* What group_state.c keeps. */
struct group_state {
	bool opened;        /* the journal has existed */
	int64_t opened_ns;  /* since then; 0: it was not noted */
	bool taken_over;    /* as of the last time the vault was asked */
	bool lease_unknown; /* then: by nobody; the vault's owner.json was lost, or replaced */
	/* The newest point of the vault that the journal was found to have lost, and the journal's
	 * lsn after it was noted there. One that is shorter has lost it once more. */
	uint64_t lost_point, lost_lsn;
	char owner[256];
	uint64_t failed_point;     /* whose verification failed last; 0: none, */
	struct error failed_fault; /* and what it found */
	uint64_t *deletes;         /* owned: points to be deleted in the vault */
	unsigned delete_count;
	struct history_absence *absences; /* owned: disks that points do not show */
	unsigned absence_count;
};

struct group {
	/* fixed at the start */
	struct io *io;
	struct clock_source *clock;
	struct blob_service *service;
	struct cache *cache;
	char *name, *directory, *state_path, *appliance_name;
	struct uuid id, appliance;
	unsigned full_wait_s;
	bool source_seals, source_unseen;
	struct error
		state_fault; /* the start found its state damaged, and mended it; else code 0 */

	/* replaced by group_reopen only, while no thread of the group runs */
	struct base *vault_base, *cached_base;
	struct vault_group base_group; /* what vault_base reads by; a copy of its own */
	struct history *history;
	struct committer *committer;
	struct history_report report;

	pthread_t timer_thread, flush_thread;
	bool timer_runs, flush_runs;

	/* the writers' side, without a lock */
	atomic_bool refuse_writes;             /* taken over or ending */
	_Atomic int64_t first_change_ns;       /* oldest change not sealed; 0: none */
	_Atomic uint64_t admitted_bytes;       /* since the fill was looked at */
	_Atomic enum backpressure_level level; /* as of then */
	_Atomic uint64_t refused_writes;
	_Atomic uint64_t
		unknown_point; /* newest of the vault, if the journal has lost it; else 0 */
	_Atomic uint64_t unproven_point; /* its flush found that its content cannot be proven */
	pthread_mutex_t bucket_lock;     /* leaf */
	struct token_bucket bucket;      /* under bucket_lock */

	pthread_mutex_t seal_lock;
	pthread_mutex_t state_lock;
	struct group_state state;           /* under state_lock, as are */
	uint16_t absent[HISTORY_MAX_DISKS]; /* what the next seal does not show, if it was told */
	unsigned absent_count;
	bool absent_given;
	bool absences_begun, absences_ended; /* some that are not kept yet */

	pthread_mutex_t lock; /* all below */
	pthread_cond_t timer_wake, flush_wake, changed;
	bool stopping;
	bool failed;
	struct error commit_error; /* why it was reopened last */
	unsigned commit_failures;
	int64_t commit_failed_ns;

	struct policy policy;
	uint64_t limit_bytes;
	bool paused;

	char *settings;
	bool update_due;  /* settings or disks differ from the vault's */
	bool drain_asked; /* nothing else makes room */
	bool draining;    /* what is `flushing` is not sealed yet */
	bool flush_asked, retention_asked, retry_asked, deletes_asked;
	bool look_asked;    /* a read or a job could not reach the vault */
	bool keeps_asked;   /* the vault may not know what is to be kept */
	bool retention_now; /* another policy: not only when the last time is a while ago */
	bool deleting;      /* group_delete_vault: the flusher's thread has ended for good */

	bool claimed, vault_reachable, vault_initialized, taken_over, flushing;
	struct error vault_error;
	int64_t vault_error_since_ns;
	uint64_t vault_failures; /* in a flush or not, since the start */
	unsigned flush_failures;
	struct error flush_error;
	struct vault_group vault_group; /* changed by the flusher's thread only; valid if claimed */
	struct flusher *flusher;        /* of the flusher's thread; here for progress and cancel */
	atomic_bool stop_calls;         /* of the flusher's thread to the vault; see blob.h */
	uint64_t flush_number;          /* the point that is being flushed; 0: none */

	/* When the first change of each sealed, not yet flushed point was made; group_rpo.c. */
	struct sealed_change {
		uint64_t number;
		int64_t first_change_ns;
	} sealed[GROUP_SEALED_MAX];
	unsigned sealed_count;
	int64_t last_seal_mono_ns, last_flush_mono_ns;
	int64_t last_pressure_mono_ns;

	/* Points that were asked of the source, by counting; see group_due.c. */
	uint64_t requests, requests_answered;
	uint8_t request_kind; /* of the last that is not answered */
	int64_t last_app_mono_ns;
	uint64_t app_failed_request; /* up to it, those for the better kind have failed */
	struct error app_error;      /* of the last that was tried; code 0: it worked */

	struct group_status status; /* as of the last tick; totals and counters always */
	int64_t retained_mono_ns;   /* of the timer's thread */
	int64_t rested_mono_ns;     /* likewise */
	int64_t rate_mono_ns;       /* begin of the window of the rates below */
	uint64_t rate_written_bytes, rate_flushed_bytes;
	uint64_t flushed_bytes; /* by finished flushes */
	uint64_t failed_point;
	struct error failed_fault; /* code 0: it is not known any more */
	struct group_trouble trouble;
	struct group_comparison comparison;
	struct group_certificate certificate;
	struct group_warnings warnings;
};

/* group.c */
int group_sync(struct group *group, uint64_t lsn);
/* Fills error from r unless a callee has; returns r. */
int group_error(struct error *error, int r, const struct group *group, const char *what);
/* Waits for the flusher's thread, which was told to end, and goes on telling its flush. */
void group_join_flusher(struct group *group);
/* Whether waiting for the group is of use: 0; -ESTALE: taken over; -ECANCELED: it ends. */
int group_check_ending_locked(const struct group *group, struct error *error);
/* Waits on a condition with group->lock held, until a monotonic time. */
void group_wait_until_locked(struct group *group, pthread_cond_t *condition, int64_t mono_ns);

/* group_journal.c */
/* That the journal is there if it has been, and is not if points are to be imported. */
int group_check_journal(
	struct group *group, const struct group_options *options, struct error *error);
/* Base, history and committer. `import`: see group_options. -ENODATA: what was in the journal is
 * gone. On failure none is left open. */
int group_open_journal(struct group *group, struct vault_reading *import, struct error *error);
void group_close_journal(struct group *group);
/* The group as the vault's functions want it: names, ids and disks as the journal has them. The
 * caller frees it. */
int group_disks_for_vault(struct group *group, struct vault_group *ret_group);
/* Tells the base that disks were added or removed. */
int group_update_base(struct group *group);

/* group_gate.c */
int group_admit(void *context, uint64_t bytes);
/* Waits for room that the history did not have; -ENOSPC after full_wait_s. Any thread. */
int group_wait_for_room(void *context, uint64_t bytes);
/* Looks at the fill, as it will be with `more_bytes`, and sets what writers obey. */
void group_look_at_fill(
	struct group *group, uint64_t more_bytes, struct backpressure_plan *ret_plan);
/* The journal's disk has no room even for a seal: nothing is to be written until it has. */
bool group_disk_is_full(struct group *group);

/* group_seal.c */
int group_seal_now(struct group *group, const struct seal *seal, const struct group_due *answers,
	uint64_t *ret_number);
/* By the clock or for pressure: -EBUSY, and nothing is sealed, while a disk needs a resync. */
int group_seal_due(struct group *group, const struct seal *seal, uint64_t *ret_number);
/* After a loss that the vault told of: points above `number` that were sealed here on top of what
 * was left are no state that ever was. Waits for a seal that is under way. */
int group_mark_damaged(struct group *group, uint64_t number);
/* How many disks need a resync; their names, as far as they fit. */
unsigned group_resync_disks(struct group *group, char *ret_names, size_t size);

/* group_rpo.c */
/* After the journal was opened, before its threads run: since when changes wait, as far as points
 * tell. */
void group_rpo_begin(struct group *group);
/* Age of the oldest change that the newest point with `flags` does not have; 0: there is none; -1:
 * there is no such point. */
int64_t group_rpo_ns(struct group *group, uint32_t flags, const struct history_stats *stats);
/* For the alert: the same of the vault, but a group with changes and no vault point yet has an age,
 * too. */
int64_t group_unprotected_ns_locked(struct group *group, const struct history_stats *stats);
/* Point `number` was sealed; its first change was made then (0: it has none). */
void group_note_sealed_locked(struct group *group, uint64_t number, int64_t first_change_ns);

/* group_timer.c */
void *group_timer_main(void *argument);
/* Looks for the newest point whose verification failed, for its alert. */
void group_find_failed_point(struct group *group);
void group_alert_closed(struct group *group, const struct error *error);

/* group_due.c; group->lock held: a point was sealed, or need not be, in answer to the first
 * `requests`. */
void group_due_answered_locked(struct group *group, uint64_t requests, uint8_t kind);
/* When the next point falls due by the policy; INT64_MAX: never. */
int64_t group_due_at_locked(const struct group *group, uint8_t *ret_kind);

/* group_absent.c: point `number` was sealed; what was absent and is not listed any more is shown
 * from it on. */
void group_end_absences(struct group *group, uint64_t number);

/* group_drain.c */
/* Draining is what would make room now. */
bool group_wants_drain(struct group *group);
/* The journal presses and the group cannot be sealed for it: asks the flusher's thread for what
 * makes room. */
void group_press_source(struct group *group);

/* group_vault.c */
void *group_flush_main(void *argument);

/* group_flush.c */
/* Ends the flush under way, if there is one, whatever it waits for; it is redone. */
void group_stop_flush_locked(struct group *group);

/* group_claim.c */
int vault_group_copy(const struct vault_group *group, struct vault_group *ret_copy);

/* group_retention.c */
/* Applies the policy; what is to go in the vault is noted in the state. */
int group_retain(struct group *group);
/* Deletes noted points in the vault, at most `max`. */
int group_delete_noted(
	struct group *group, struct blob_store *store, unsigned max, struct error *error);
/* Makes the vault say the same of its points' KEEP as the history. */
int group_tell_keeps(struct group *group, struct blob_store *store, struct error *error);
/* At a start: what was noted and not yet taken off the history is taken off. */
void group_resume_deletes(struct group *group);

/* group_state.c; state_lock is held by the caller except for load */
int group_state_load(struct group *group, struct error *error);
int group_state_save(struct group *group);
/* group.c: a disk is there, so that a missing journal is a loss from now on. */
int group_note_opened(struct group *group, struct error *error);
int group_state_note_delete(struct group *group, const uint64_t *numbers, unsigned count);
void group_state_forget_delete(struct group *group, uint64_t number);
