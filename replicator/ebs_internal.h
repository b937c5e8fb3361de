/*
 * The inside of the agentless source, shared by the files that make it up (ebs.h lists them) and
 * nobody else.
 *
 * Locks: ebs->lock, for memory only, comes after the registry's. `opening` is held while a region's
 * settings are read and comes before it. A worker's `own` part belongs to its thread alone.
 */
#pragma once

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/token_bucket.h"
#include "ec2/cycle.h"
#include "replicator/ebs.h"
#include "replicator/head_hashes.h"
#include "replicator/registry_internal.h"

#define EBS_TAG "landfall:machine" /* on every snapshot: whose it is */

static_assert(REGISTRY_AWS_BYTES >= EC2_ID_BYTES, "an id fits");

/* One region of AWS: what all clients there share. Once listed it stays. */
struct ebs_region {
	struct ebs_region *next;
	char name[REGISTRY_AWS_BYTES];
	struct ec2_settings *settings;
	struct ec2_credential *credential;
	struct ec2_limiter *limiter;
};

/* What a cycle came to, and all of them together. */
struct ebs_figures {
	uint64_t requests[EC2_LIMITS]; /* as AWS counts them, failed attempts included */
	uint64_t cycles;
	uint64_t fetched_bytes, written_bytes; /* from AWS; of those, to the journal */
	int64_t set_ns;                        /* when the last sealed set was made; 0: none yet */
	int64_t took_ns;                       /* from then until it was sealed */
	uint64_t cycle_fetched_bytes, cycle_written_bytes, cycle_requests[EC2_LIMITS];
};

/* state/ebs/<machine>.json. */
struct ebs_state {
	struct ec2_cycle cycle;
	/* By volume: something of the present set may be in the journal. A set that is given up
	 * then leaves a mixture behind, which no changes to the base can mend. */
	bool begun[EC2_CYCLE_VOLUMES];
	struct ebs_figures figures;
	char cause[256]; /* why volumes are compared whole; "": they are not, or come for the first
			    time */
};

/* What the registry says of a machine. */
struct ebs_spec {
	char instance[REGISTRY_AWS_BYTES], region[REGISTRY_AWS_BYTES];
	char group_id[UUID_TEXT_BYTES];
	unsigned count;
	struct ebs_disk {
		char id[REGISTRY_NAME_BYTES], volume[REGISTRY_AWS_BYTES];
		uint64_t bytes;
	} disks[EC2_CYCLE_VOLUMES];
};

/* The volumes of an instance, as of its last set. */
struct ebs_attached {
	unsigned count;
	struct {
		char id[REGISTRY_AWS_BYTES], device[REGISTRY_AWS_BYTES];
	} volumes[EC2_CYCLE_VOLUMES];
};

/* A disk that is being written. */
struct ebs_copy {
	struct head_hashes *hashes; /* NULL: written without comparing */
	uint16_t disk;
	uint64_t chunk; /* whose pages are known; UINT64_MAX: none's */
	uint64_t pages[HEAD_CHUNK_PAGES];
	uint64_t zero_hash;
	bool whole;
};

struct ebs_worker {
	struct ebs_worker *next;
	struct ebs *ebs;
	char machine[REGISTRY_NAME_BYTES];
	pthread_t thread;
	atomic_bool stop;      /* for good */
	atomic_bool interrupt; /* what is held is to be let go */

	/* under lock */
	bool ended;                     /* the thread is to be joined */
	const struct group_entry *held; /* whose holder it is; NULL: none's */
	bool resync;                    /* asked for */
	struct error trouble;           /* why no point is made; code 0: none */
	struct ebs_state shown;         /* of `state`, as of the last save */
	/* Since when the present set is copied, in this life, and how far it was then; 0: it is
	 * not. */
	int64_t copying_ns; /* monotonic */
	uint64_t copying_from_bytes;
	struct ebs_attached attached;
	struct error left; /* why snapshots stay that nobody needs; code 0: none do */

	/* own */
	struct ebs_spec spec;
	struct ebs_state state;
	bool loaded; /* the state */
	struct ec2 *client;
	struct ec2_stats counted;
	struct token_bucket bandwidth; /* the policy's; clock NULL: not used yet */
	struct hold hold;              /* while anything is written, and while a point is awaited */
	struct ebs_copy copy;
	bool mending[EC2_CYCLE_VOLUMES]; /* compared whole since data was lost; not kept */
	struct error problem;            /* what an operation of the cycle's ended it with */
	bool look_again;                 /* the line broke in the middle of it */
	bool grow;                       /* a volume is larger than its disk */
	unsigned failures;
	int64_t began_ns;  /* monotonic; when the present cycle began; 0: before this start */
	int64_t tidied_ns; /* monotonic; when orphans were looked for; 0: not yet */
};

struct ebs {
	struct registry *registry;
	char *profile, *region, *role_arn, *external_id, *endpoints[EC2_SERVICES];
	uint64_t rates[EC2_LIMITS], block_price, list_price;
	atomic_bool stop; /* everything */
	pthread_mutex_t opening;
	struct ebs_region *regions; /* under opening */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct ebs_worker *workers;
	pthread_t keeper;
	bool keeper_runs;
};

/* ── ebs.c ───────────────────────────────────────────────────────────────────────────────── */

/* Waits so long, or until the worker is to stop. */
void ebs_rest(struct ebs_worker *worker, int64_t ns);
/* Under lock. NULL. */
struct ebs_worker *ebs_find(struct ebs *ebs, const char *machine);
/* 0; -ENOENT: there is no such machine of this source, or (unless `removing`) it is being removed.
 */
int ebs_read_spec(struct ebs *ebs, const char *machine, bool removing, struct ebs_spec *ret_spec);

/* ── ebs_aws.c ───────────────────────────────────────────────────────────────────────────── */

int ebs_open_region(
	struct ebs *ebs, const char *name, struct error *error, struct ebs_region **ret_region);
/* A client of one thread's. `stop`, `other`: end its requests; `other` may be NULL. `paced` (may be
 * NULL): whose policy says how many bytes of content may come in a second. */
int ebs_open_client(struct ebs *ebs, const char *region, const atomic_bool *stop,
	const atomic_bool *other, struct ebs_worker *paced, struct error *error,
	struct ec2 **ret_client);
void ebs_free_regions(struct ebs *ebs);

/* ── ebs_worker.c ────────────────────────────────────────────────────────────────────────── */

void *ebs_worker_main(void *worker);
void ebs_worker_free(struct ebs_worker *worker);
/* Holds the machine's group, unless it does; 0 or -errno with words. */
int ebs_hold(struct ebs_worker *worker, struct error *error);
void ebs_let_go(struct ebs_worker *worker);
/* The number of the disk in the journal. Held. */
int ebs_find_disk(struct ebs_worker *worker, const char *id, struct history_disk *ret_disk);
/* What the snapshots' tag says. */
void ebs_owner(const struct ebs_spec *spec, const char *machine, char *ret, size_t n);

/* ── ebs_line.c; held ────────────────────────────────────────────────────────────────────── */

/* Before a cycle, and whenever the group was let go meanwhile: a volume whose line to what the
 * journal holds is broken will come whole, and what is COPIED may have to be copied again. */
int ebs_check_lines(struct ebs_worker *worker, struct error *error);
/* True if the line of that volume is broken by now. */
bool ebs_line_is_broken(struct ebs_worker *worker, unsigned volume);
/* True if the newest seal shows this set: it was sealed before an end. */
bool ebs_is_sealed(struct ebs_worker *worker);
/* Seals what was copied, with the set's time and its snapshots as bookmarks. `due` NULL: nobody
 * asked. */
int ebs_seal(struct ebs_worker *worker, const struct group_due *due, struct error *error);

/* ── ebs_copy.c ──────────────────────────────────────────────────────────────────────────── */

extern const struct ec2_cycle_ops ebs_cycle_ops; /* their context is the worker */
void ebs_copy_close(struct ebs_copy *copy);

/* ── ebs_discover.c ──────────────────────────────────────────────────────────────────────── */

/* A volume of an instance as a disk, named as its device. -ENOENT: it has no such volume. Blocks.
 */
int ebs_find_volume(struct ebs *ebs, const struct ebs_spec *spec, const char *volume,
	struct machine_disk *ret_disk, struct error *error);

/* ── ebs_status.c ────────────────────────────────────────────────────────────────────────── */

/* How many bytes of the set's volumes are copied or passed by. */
uint64_t ebs_reached_bytes(const struct ec2_cycle *cycle);

/* ── ebs_volumes.c ───────────────────────────────────────────────────────────────────────── */

/* What the cycle's `seen` is told. */
void ebs_note_instance(void *worker, const struct ec2_instance *instance);
/* Makes state and spec name the same volumes in the same order: what the machine has lost leaves
 * the state; what it has got joins once no set is under way, and is left out of the spec until
 * then. */
void ebs_fit(struct ebs_worker *worker);
/* Adds "left_out" and "not_replicated". Under both locks. */
int ebs_add_left_out(const struct machine_entry *machine, const struct ebs_attached *attached,
	struct cJSON *object);
int ebs_register_volumes(struct ebs *ebs, struct control *control);

/* ── ebs_state.c ─────────────────────────────────────────────────────────────────────────── */

/* An absent file is an empty state; a damaged one too, with a line in the log. 0 or -errno. */
int ebs_state_load(struct ebs *ebs, const char *machine, struct ebs_state *ret_state);
int ebs_state_save(struct ebs *ebs, const char *machine, const struct ebs_state *state);
void ebs_state_remove(struct ebs *ebs, const char *machine);
