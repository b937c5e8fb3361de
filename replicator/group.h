/*
 * A group at work: its history with the committer's thread, its flusher's thread, its timers.
 *
 *	timer ── point due ──► seal ──► flush when the vault interval is due ──► retention
 *	   └── back-pressure by how full the journal is; RPO and alerts
 *
 * A group without a vault keeps local points and says that it is not protected. A vault out of
 * reach is no error: points go on being made, and the flusher tries again by itself. A group that
 * another appliance has taken over refuses writes and changes nothing any more, here or there.
 *
 * Back-pressure, by fill of the group's journal: below 60 % nothing; from 60 % the oldest
 * local-only points give way; from 80 % a point is sealed for pressure if nothing else would let
 * the flusher free room, and writes are delayed, rising, matched to the flush rate; from 92 % the
 * flusher skips local points in between; at 97 % writes wait up to full_wait_s for room and are
 * then refused. Nothing acknowledged is ever lost to it.
 *
 * When the journal's disk fails a write, the history is of no more use: whoever owns the group
 * takes its users away and calls group_reopen, which replays what is on the disk.
 *
 * What a source writes between two of its marks may be no state that ever was. A group whose source
 * seals by itself is never sealed by the timer or for pressure; it tells its source when a point is
 * due, and under pressure the flusher drains what is not sealed yet (flusher.h).
 *
 * group.c holds the life, group_journal.c what is opened and its disks, group_gate.c the
 * writers' side of back-pressure, group_timer.c the timer's thread, group_seal.c the sealing,
 * group_due.c the points that a source makes, group_absent.c the disks that they do not show,
 * group_vault.c the flusher's thread with group_claim.c and group_flush.c, group_retention.c
 * what is kept, deleted and when, group_state.c the small file that remembers what the journal
 * cannot.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "fs/cache.h"
#include "fs/committer.h"
#include "replicator/alerts.h"
#include "replicator/blob.h"
#include "replicator/flusher.h"
#include "replicator/policy.h"
#include "replicator/vault.h"

struct group;

struct group_options {
	struct io *io; /* borrowed for the group's life, as are all that follow */
	struct clock_source *clock;
	struct blob_service *vault; /* NULL: none configured */
	struct cache *cache;        /* NULL: none */
	/* Texts are copied. */
	const char *name;
	const char *directory;  /* journal/<group> */
	const char *state_path; /* a file of the group's own, e.g. state/groups/<group>.json */
	const char *appliance_name;
	struct uuid id, appliance;
	uint64_t journal_bytes;
	struct policy policy;
	const char *settings; /* JSON text for owner.json */
	unsigned full_wait_s; /* 0: 30 */
	bool paused;
	/* The source alone knows when what it delivered is a state that ever was (agent, ebs): then
	 * neither the timer nor pressure seals, and the source does, see group_point_due. */
	bool source_seals;
	/* What the source writes between its marks is not seen here (ebs): the age of what a point
	 * does not have is then the point's own. */
	bool source_unseen;
	/* Takeover: what was read of the group that vault_group_takeover returned; its disks and
	 * points are imported into the journal, which must be new. Borrowed for the call. NULL
	 * otherwise. */
	struct vault_reading *import;
};

/* Opens (replaying) or creates the group and starts its threads; the vault is claimed in the
 * background. Errors as history_open, and -ENODATA: the group was here before and its journal is
 * gone, or holds nothing any more. */
int group_new(const struct group_options *options, struct error *error, struct group **ret_group);
/* Begins what group_free does: refuses writes, cancels the flush. Only group_free may follow. */
void group_begin_stop(struct group *group);
/* Commits what is staged, seals nothing. Views, clones and users of the committer are gone. */
void group_free(struct group *group);
/* True if the group's state was found damaged at the start and mended from its copy. */
bool group_state_fault(const struct group *group, struct error *ret_fault);
/* True once the journal has failed (or could not be opened again): it needs group_reopen. */
bool group_failed(struct group *group);
/* Closes the failed journal and opens it again. No view, clone or user of the committer may be
 * left; afterwards group_history and group_committer are other ones. On failure the group stays
 * failed, both are NULL, and it may be tried again. */
int group_reopen(struct group *group, struct error *error);

/* Refuses writes from now on, those that wait included: before its users are taken away. */
void group_close_gate(struct group *group);

/* Borrowed until group_reopen or group_free. NULL while a reopening has failed. */
struct committer *group_committer(struct group *group);
struct history *group_history(struct group *group);
const char *group_name(const struct group *group);
void group_set_policy(struct group *group, const struct policy *policy);
void group_set_limit(struct group *group, uint64_t journal_bytes);
void group_pause(struct group *group, bool paused);
/* The vault is tried again now: it was initialized, or its credentials were renewed. */
void group_retry_vault(struct group *group);
/* A read or a job of this group ended with `r`: if that says that the vault is out of reach, the
 * group's status does from now on, and the vault is looked at to see whether it still is. */
void group_tell_vault(struct group *group, int r, const struct error *error);
/* Waits until the vault has confirmed that the group is this appliance's. 0; -ESTALE: it is
 * another's; -ENOTCONN: not yet, or there is no vault. */
int group_wait_claimed(struct group *group, unsigned timeout_ms);

/* Adds a disk ("<machine>/<disk>") to history and vault. Durable when it returns; the vault
 * follows. Adding what is there with the same size is done already. */
int group_add_disk(struct group *group, const char *name, uint64_t size_bytes, struct error *error);
/* A disk that was there before: as group_add_disk, unless the journal has lost acknowledged records
 * and the disk with them. Then the vault brings it back when it answers; without a vault it begins
 * as zeros and needs a resync. */
int group_restore_disk(
	struct group *group, const char *name, uint64_t size_bytes, struct error *error);
/* What is new reads as zeros. -EINVAL: it is larger already. Growing to the same size is done. */
int group_grow_disk(
	struct group *group, const char *name, uint64_t size_bytes, struct error *error);
/* Removing what is not there is done already. */
int group_remove_disk(struct group *group, const char *name, struct error *error);
int group_set_settings(struct group *group, const char *settings, struct error *error);

/* For who seals (source_seals): the disks (ids) that the next point is not to show, since what it
 * would have of them is no state at its instant; all others it shows. Before the seal, durable when
 * it returns. */
int group_set_absences(
	struct group *group, const uint16_t *disks, unsigned count, struct error *error);
/* The newest point does not show it. */
bool group_is_absent(struct group *group, uint16_t disk);

struct group_due;
/* Seals what was written before the call; durable in the journal when it returns. seal->time_ns 0:
 * the time is now; else, as with the bookmarks, it is the source's word. -EBUSY while a disk needs
 * a resync, unless `resynced` gives the caller's word that its content was written again. With
 * source_seals only the source may call this, and `answers` is what it was told was due, NULL if it
 * seals by itself; else NULL. */
int group_seal(struct group *group, const struct seal *seal, const struct group_due *answers,
	bool resynced, struct error *error, uint64_t *ret_number);

/* ── points that the source makes (source_seals) ─────────────────────────────────────────── */

/* What the group wants of its source now. */
struct group_due {
	bool due;         /* a point: the policy's interval is over, or somebody asked */
	uint8_t kind;     /* enum point_kind: of the point that is wanted */
	uint64_t request; /* counts what was asked for; see group_point_unchanged */
};

bool group_source_seals(struct group *group);
/* Bytes a second that each agent of the group may send now, by the policy; 0: no limit. */
uint64_t group_agent_bandwidth(struct group *group);
/* Never due while paused, taken over or failed. A due point stays due until group_seal or
 * group_point_unchanged. Any thread; costs next to nothing. */
void group_point_due(struct group *group, struct group_due *ret_due);
/* Waits until a point is due. 0; -ETIMEDOUT after timeout_ms; -ECANCELED: the group ends, or `stop`
 * is true: whoever makes it so calls group_wake_due then. */
int group_wait_due(struct group *group, unsigned timeout_ms, const atomic_bool *stop,
	struct group_due *ret_due);
void group_wake_due(struct group *group);
/* The point that was just sealed shows the instant `mono_ns` (monotonic): the interval to the next
 * counts from there, not from the seal. */
void group_due_since(struct group *group, int64_t mono_ns);
/* In answer to what was due: the source has no change since the newest point, so that none is
 * needed. Who asked gets the newest point; the interval begins anew. */
void group_point_unchanged(struct group *group, const struct group_due *due);
/* In answer to an application-consistent point that was due: what was sealed is not one, and why.
 * Who asked for one is told; by the policy it is tried again when its interval is over. */
void group_app_failed(struct group *group, const struct group_due *due, const struct error *error);
/* Whether group_ask_point would be answered; the same errors. */
int group_check_askable(struct group *group, struct error *error);
/* Asks the source for a point of that kind now. `ret_request` is what group_wait_request waits for.
 */
int group_ask_point(struct group *group, uint8_t kind, struct error *error, uint64_t *ret_request);
/* Waits until the source has answered the request, which was for that kind: 0 with the number of
 * its point. -EIO: it could not be made application-consistent; -ETIMEDOUT after timeout_ms, and
 * the request stands; -ENODATA: there is nothing to make a first point of; -ESTALE: taken over;
 * -ECANCELED: the group ends. */
int group_wait_request(struct group *group, uint64_t request, uint8_t kind, unsigned timeout_ms,
	struct error *error, uint64_t *ret_number);

/* Waits until point `number` or a later one is in the vault. 0; -ETIMEDOUT after timeout_ms;
 * -ESTALE: taken over; -ENOTCONN: no vault is configured; -ECANCELED: the group ends. */
int group_wait_vault(
	struct group *group, uint64_t number, unsigned timeout_ms, struct error *error);
/* Marks a point that no rule may remove, or takes the mark off. What is marked is held: it is in
 * the vault, or gets there before a newer one. -EBUSY: it is only in the journal, and a newer point
 * is in the vault or on its way, or it is damaged. Durable when it returns; the vault is told in
 * the background, so that the mark outlives the appliance. */
int group_point_keep(struct group *group, uint64_t number, bool keep, struct error *error);
/* -EBUSY: the newest of the vault, or something reads it. The vault follows in the background. */
int group_point_delete(struct group *group, uint64_t number, struct error *error);
/* Records a verification's verdict with the point: what it found, NULL if it is right. */
int group_point_verdict(
	struct group *group, uint64_t number, const struct error *fault, struct error *error);

/* A copy of the group as the vault knows it; the caller frees it. -ENOTCONN: not claimed yet. */
int group_vault_copy(struct group *group, struct vault_group *ret_group);
/* Stops flushing for good and deletes the group from the vault. Only group_free may follow, or
 * this again after a failure. 0 also if it was never there. -ENOTCONN: no vault is configured;
 * -ECANCELED: `stop` (NULL: never) became true. */
int group_delete_vault(struct group *group, const atomic_bool *stop, struct error *error);

/* What keeps points out of the vault now, as an error with its mend, in which `machine` stands for
 * the group. 0: nothing that is known. -ESTALE: taken over; -EBUSY: paused; -ENOENT: the container
 * or the vault is not there; else what the vault or the last flush said. Any thread. */
int group_obstacle(struct group *group, const char *machine, struct error *error);

struct group_status {
	/* Ages of the oldest change that no point (in the vault) holds; 0: all is; −1: no point
	 * yet. */
	int64_t rpo_local_ns, rpo_vault_ns;
	uint64_t lag_bytes; /* sealed or not, not in the vault */
	uint64_t write_bytes_per_s, flush_bytes_per_s;
	uint64_t allowed_bytes_per_s; /* writes are slowed to this; 0: not slowed */
	double journal_fill;
	bool vault_configured, vault_reachable, taken_over, paused, flushing, failed;
	bool vault_initialized;  /* false only if the service said so */
	int vault_error_code;    /* the last failure while not reachable; 0: none, or not asked */
	uint64_t vault_failures; /* since the start */
	unsigned resync_disks;
	uint64_t flush_done_bytes, flush_total_bytes;
	bool draining; /* what is flushing is not sealed yet; its figures are as of a flush */
	uint64_t unlisted_point; /* newest of the vault's that the journal has lost; 0: none */
	uint64_t drains;         /* rounds, since the start */
	uint64_t flushes, failed_flushes, points_deleted, refused_writes; /* since the start */
	uint64_t
		rounds; /* of the timer: each has done and told all that was due; since the start */
	struct history_stats history;
	struct flusher_result totals; /* summed since the start */
	struct alert alerts[ALERT_MAX];
	unsigned alert_count;
};
void group_status(struct group *group, struct group_status *ret_status);

/* What keeps the machines of a group whose source makes the points from making them, for its
 * alerts. `machine` "": nothing does. */
struct group_trouble {
	char machine[64];
	int64_t away_since_ns; /* 0: its agent is there, or it has none */
	bool never_came;
	bool agentless;     /* its source is ebs */
	struct error error; /* what fails, if it is there */
};
/* Why a machine's disks are read whole and compared, though they were whole before; `machine` "":
 * they are not. */
struct group_comparison {
	char machine[64];
	struct error cause;
};
/* An agent's certificate that ought to have been renewed by now. `ends_ns` 0: there is none. */
struct group_certificate {
	char machine[64];
	int64_t ends_ns;
};
/* What is wrong with a machine's agent though points are made; `machine` "": nothing. */
struct group_warning {
	char machine[64];
	struct error why;
};
struct group_warnings {
	struct group_warning rival;  /* two hosts claim to be the machine */
	struct group_warning unsent; /* its agent protects a disk no longer */
};
void group_set_trouble(struct group *group, const struct group_trouble *trouble,
	const struct group_certificate *certificate, const struct group_warnings *warnings);
void group_set_comparison(struct group *group, const struct group_comparison *comparison);
