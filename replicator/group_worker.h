/*
 * The flusher's thread among its parts; nobody else includes it.
 *
 *	group_vault.c	the thread: what to do next, and what results mean
 *	group_claim.c	the group's place in the vault: created, claimed, kept up to date, deleted
 *	group_flush.c	which point is flushed, the flush itself, and waiting for it
 *	group_drain.c	an epoch that does not fit into the journal
 */
#pragma once

#include "common/rng.h"
#include "replicator/flusher.h"
#include "replicator/group_internal.h"

struct worker {
	struct group *group;
	struct blob_store *store;
	int64_t retry_delay_ns, retry_at_ns; /* 0: nothing failed */
	int64_t retention_at_ns, orphans_at_ns;
	int64_t look_at_ns; /* when owner.json is looked at next, if nothing tells before */
	int64_t worked_ns;  /* the store was needed last */
	bool refused;       /* this process was told that the group is another's */
	struct rng rng;
	struct flush_pace pace;
};

/* group_claim.c */
/* Makes sure that the group is in the vault and ours; errors as vault_group_claim. */
int worker_claim(struct worker *w, struct error *error);
/* A lease was lost though the group is ours: the journal notes, durably, that the bases have to be
 * compared before anything is sent. */
int worker_doubt_bases(struct worker *w, struct error *error);
/* Writes settings and disks if they differ from the vault's. */
int worker_update(struct worker *w, struct error *error);

/* group_flush.c */
/* The point to flush now; false: there is none. Any thread. */
bool group_next_point(struct group *group, uint64_t *ret_number);
/* Flushes that point. *ret_asked: the vault was asked something for certain. */
int worker_flush(struct worker *w, struct error *error, bool *ret_asked);
int worker_new_flusher(
	struct worker *w, uint64_t drain_bytes, struct error *error, struct flusher **ret_flusher);
/* group->lock held: figures and what failed before. */
void group_count_sent_locked(struct group *group, const struct flusher_result *result);

/* group_drain.c */
/* Drains a round, if that still makes room. As worker_flush. */
int worker_drain(struct worker *w, struct error *error, bool *ret_asked);
