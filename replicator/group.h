/*
 * A group at work: its history with the committer's thread, its flusher's thread, its timers.
 *
 *	timer ── point due ──► seal ──► flush when the vault interval is due ──► retention
 *	   └── back-pressure by how full the journal is; RPO and alerts
 *
 * States of a machine as DESIGN's words: new, syncing, protected, paused, resync-needed, …; a group
 * without a vault keeps local points and says that it is not protected.
 *
 * Back-pressure, by fill of the group's journal: below 60 % nothing; from 60 % cache and the
 * oldest local-only points give way; from 80 % a point is sealed for pressure if nothing else
 * would let the flusher free room, and writes are delayed, rising, matched to the flush rate; from
 * 92 % the flusher skips local points in between; at 97 % writes wait up to full_wait_s for room
 * and are then refused. Nothing acknowledged is ever lost to it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "fs/committer.h"
#include "replicator/blob.h"
#include "replicator/flusher.h"
#include "replicator/policy.h"
#include "replicator/vault.h"

struct group;

struct group_options {
	struct io *io;
	struct clock_source *clock;
	struct blob_service *vault; /* NULL: none configured */
	struct cache *cache;        /* NULL: none */
	const char *name;
	const char *directory; /* journal/<group> */
	struct uuid id, appliance;
	uint64_t journal_bytes;
	struct policy policy;
	const char *settings; /* JSON text for owner.json */
	unsigned full_wait_s; /* 0: 30 */
};

/* Opens (replaying) or creates the group, claims it in the vault — a vault out of reach is no
 * error: it is tried again in the background — and starts its threads. */
int group_new(const struct group_options *options, struct error *error, struct group **ret_group);
void group_free(struct group *group);

struct committer *group_committer(struct group *group);
struct history *group_history(struct group *group);
void group_set_policy(struct group *group, const struct policy *policy);
void group_set_limit(struct group *group, uint64_t journal_bytes);
void group_pause(struct group *group, bool paused);

/* Adds a disk to history and vault. Durable when it returns; the vault may follow later. */
int group_add_disk(struct group *group, const char *name, uint64_t size_bytes, struct error *error);
int group_remove_disk(struct group *group, const char *name, struct error *error);
int group_set_settings(struct group *group, const char *settings, struct error *error);

enum group_wait { GROUP_WAIT_LOCAL, GROUP_WAIT_VAULT };
/* Seals now. With GROUP_WAIT_VAULT returns when the point is in the vault (or a later one is). */
int group_seal(struct group *group, uint8_t kind, uint32_t flags, enum group_wait wait,
	struct error *error, uint64_t *ret_number);
/* Flushes what is sealed as soon as it can. */
void group_flush_now(struct group *group);
int group_point_keep(struct group *group, uint64_t number, bool keep, struct error *error);
int group_point_delete(struct group *group, uint64_t number, struct error *error);

struct alert {
	const char
		*code; /* "rpo", "journal-full", "vault-unreachable", "taken-over", "resync", … */
	bool critical;
	int64_t since_ns;
	char text[256], cause[256], mend[256];
};

struct group_status {
	int64_t rpo_local_ns, rpo_vault_ns; /* age of the newest point; −1: none yet */
	uint64_t lag_bytes;                 /* sealed or not, not in the vault */
	uint64_t write_bytes_per_s, flush_bytes_per_s;
	double journal_fill;
	bool vault_configured, vault_reachable, taken_over, paused, flushing;
	uint64_t flush_done_bytes, flush_total_bytes;
	struct history_stats history;
	struct flusher_result totals; /* summed since the start */
	struct alert alerts[16];
	unsigned alert_count;
};
void group_status(struct group *group, struct group_status *ret_status);
