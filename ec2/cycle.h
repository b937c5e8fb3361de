/*
 * One cycle of an agentless replication: a set of snapshots of all volumes of an instance at one
 * moment, and what it takes to come from the set before to this one.
 *
 *	begin ─► SNAPSHOTTED ─► COMPLETED ─► fetch volume by volume ─► COPIED ─► settle ─► next
 *	                                                      (the taker makes it durable)
 *
 * The state is a plain struct that the caller keeps as text (ec2_cycle_print, ec2_cycle_parse)
 * and saves whenever `save` is called, before anything goes on. After an end of whatever kind,
 * kill -9 too, ec2_cycle_run goes on from the state that was saved last:
 *	- before CreateSnapshots the set's id is saved, so that a set whose making nobody
 *	  heard of is found by its tag; if it is not there (yet), the next try has another id;
 *	- each volume has the index up to which it was handed over; what was handed over after the
 *	  last save is handed over again, which comes to the same.
 * The base is deleted only by ec2_cycle_settle, which the caller calls once what was handed over is
 * durable. Until then both sets are alive.
 *
 * The line is lost when the base is gone, the two are unrelated, or a volume has another size:
 * then that volume comes whole, as at first, and `whole` says so to the taker, who compares it
 * with what he has. Blocks, on the client's thread.
 */
#pragma once

#include "common/buf.h"
#include "ec2/ec2.h"
#include "ec2/fetch.h"
#include "ec2/instances.h"

#define EC2_CYCLE_VOLUMES 40u
#define EC2_ID_BYTES 32u
#define EC2_SET_ID_BYTES 64u

enum ec2_cycle_phase {
	EC2_CYCLE_IDLE,     /* no set is being copied */
	EC2_CYCLE_CREATING, /* its id is known; the set may or may not exist */
	EC2_CYCLE_WAITING,  /* its snapshots are known, and pending */
	EC2_CYCLE_COPYING,  /* all are completed */
	EC2_CYCLE_COPIED,   /* all was handed over; ec2_cycle_settle comes next */
};

struct ec2_cycle_volume {
	char id[EC2_ID_BYTES];
	char base[EC2_ID_BYTES];     /* of the set before; "": none */
	char snapshot[EC2_ID_BYTES]; /* of this set; "" before it was made */
	uint64_t base_bytes;
	uint64_t bytes;
	uint32_t index; /* everything below was handed over */
	bool whole;     /* not as changes to the base */
};

/* Zeroed and with `instance` and the volumes' ids: a first cycle comes next. */
struct ec2_cycle {
	enum ec2_cycle_phase phase;
	char instance[EC2_ID_BYTES];
	char set[EC2_SET_ID_BYTES]; /* of the set that is being copied */
	int64_t time_ns;            /* the moment it shows, since 1970 UTC */
	unsigned count;
	struct ec2_cycle_volume volumes[EC2_CYCLE_VOLUMES];
};

/* The caller's part. Each returns 0, or what ends the run and is returned by it. */
struct ec2_cycle_ops {
	/* The instance as it is right before a set of it is made. NULL: not wanted. */
	void (*seen)(void *context, const struct ec2_instance *instance);
	/* Makes the state durable. Before it, what was handed over up to the indexes in it. */
	int (*save)(void *context, const struct ec2_cycle *cycle);
	/* A volume's content begins, from its `index` on: changes, or (`whole`) all of it. */
	int (*begin)(void *context, const struct ec2_cycle_volume *volume);
	int (*data)(void *context, const struct ec2_cycle_volume *volume, uint64_t offset,
		const void *data, size_t n);
	int (*zero)(
		void *context, const struct ec2_cycle_volume *volume, uint64_t offset, uint64_t n);
};

struct ec2_cycle_options {
	const struct ec2_tag *tags; /* more tags for the snapshots: whose they are */
	size_t tag_count;
	const char *description;
	unsigned window;     /* as struct ec2_fetch_options */
	uint32_t save_every; /* blocks of a volume between two saves; 0: 2048, a GiB */
	uint32_t poll_ms;    /* between looks at pending snapshots; 0: 5000 */
};

/* Runs a cycle, or what is left of one, until all was handed over: COPIED. Volumes that the
 * instance has and the cycle does not name are left out of the set.
 * 0; what `ops` returned; else -errno as error.h, told in `error`:
 *	-EAGAIN, -EBUSY  no set can be made yet; the phase is IDLE again
 *	-EIO             a snapshot ended in an error: the set was deleted, the phase is IDLE
 *	-ENODEV          the instance does not have one of the volumes
 *	-ENXIO           the instance was terminated
 *	-ESTALE          this set's snapshots are gone: nothing of it counts, the phase is IDLE */
int ec2_cycle_run(struct ec2 *client, struct ec2_cycle *cycle,
	const struct ec2_cycle_options *options, const struct ec2_cycle_ops *ops, void *context,
	struct ec2_fetch_stats *ret_stats, struct http_error *error);

/* After COPIED, once all is durable: this set is the base of the next cycle (saved), the one
 * before is deleted. What fails to be deleted is an orphan, and no failure; `ret_left` says of one
 * why, error 0: none. 0 or what `save` returned. */
int ec2_cycle_settle(struct ec2 *client, struct ec2_cycle *cycle, const struct ec2_cycle_ops *ops,
	void *context, struct http_error *ret_left);

/* Deletes snapshots that bear EC2_SET_TAG and the tag `key`=`value`, and are neither base nor
 * snapshot of the cycle: sets that turned up late, or were left by one that ended. Those younger
 * than a minute are spared. 0 or -errno. */
int ec2_cycle_delete_orphans(struct ec2 *client, const struct ec2_cycle *cycle, const char *key,
	const char *value, unsigned *ret_deleted, struct http_error *error);

/* The state as one JSON document. 0, -ENOMEM; -EBADMSG with the field in `error`. */
int ec2_cycle_print(const struct ec2_cycle *cycle, struct buf *text);
int ec2_cycle_parse(const char *text, size_t n, struct ec2_cycle *ret_cycle, struct error *error);
