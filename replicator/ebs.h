/*
 * The agentless source: machines that are EC2 instances, replicated from snapshots of their
 * volumes without touching the guest.
 *
 *	point due ─► set of snapshots ─► completed ─► blocks, whole or changed ─► journal ─► seal
 *	                                                                                       │
 *	                    the set before is deleted ◄─ this set is the base of the next ◄────┘
 *
 * One thread for each machine; ec2/cycle.h conducts the set, this side compares what comes with
 * what is held, writes what differs, and seals with the set's own time. Each disk's bookmark in the
 * journal names the snapshot that the last seal shows: changes are asked for only if that is the
 * snapshot that this side takes for its base. In any other case the volume is read whole and
 * compared, which is always right.
 *
 *	ebs.c           life, the thread that looks after the others
 *	ebs_aws.c       regions, credentials, clients
 *	ebs_worker.c    a machine's thread: cycles
 *	ebs_line.c      whether changes can be asked for
 *	ebs_copy.c      from blocks to the journal
 *	ebs_state.c     state/ebs/<machine>.json
 *	ebs_discover.c  finding instances; what a machine is made of
 *	ebs_shut_down.c stopping an instance for its last point
 *	ebs_volumes.c   volumes that the instance has got or lost since
 *	ebs_status.c    what is told of it, what it costs
 *
 * Lives as long as the registry it serves: made after it, freed before it. Any thread.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct cJSON;
struct control;
struct ebs;
struct group_comparison;
struct group_trouble;
struct machine_entry;
struct machine_request;
struct registry;

/* How AWS is reached; texts are copied, NULL: as the environment and the shared files say. */
struct ebs_options {
	const char *profile, *region, *role_arn, *external_id;
	const char *endpoint_ec2, *endpoint_ebs, *endpoint_sts, *endpoint_imds;
	uint64_t blocks_per_s, lists_per_s, calls_per_s; /* of the account; 0: no limit */
	uint64_t block_price, list_price; /* billionths of a dollar for 1000 requests */
};

/* Asks nothing of AWS. Machines that are there get their threads at once. */
int ebs_new(struct registry *registry, const struct ebs_options *options, struct error *error,
	struct ebs **ret_ebs);
/* Ends what waits for AWS, now and from now on. Only ebs_free may follow. NULL is fine. */
void ebs_begin_stop(struct ebs *ebs);
/* Ends all cycles where they are; they go on after the next start. NULL is fine. */
void ebs_free(struct ebs *ebs);

/* Registers machine.discover and machine.volumes. */
int ebs_register(struct ebs *ebs, struct control *control);

/* What `machine add` names: by id, or by private address; one of the two is NULL. `region` NULL:
 * the configured one. */
struct ebs_choice {
	const char *instance, *private_ip, *region;
	const char *const *exclude; /* volumes' ids */
	unsigned exclude_count;
};
/* Fills the request's instance, region and disks from what AWS says: a disk for each volume, named
 * as its device. -ENOENT: no such instance; -EEXIST: several have that address; -EINVAL. Blocks. */
int ebs_describe(struct ebs *ebs, const struct ebs_choice *choice, struct machine_request *request,
	struct error *error);

/* The machine is removed: its thread ends, its snapshots are deleted, its state is forgotten. What
 * cannot be deleted stays in AWS: `ret_left` says what and why, code 0: nothing. Blocks. */
void ebs_forget(struct ebs *ebs, const char *machine, struct error *ret_left);
/* All disks are read whole and compared at the next cycle, which comes at once. -ENOENT. */
int ebs_resync(struct ebs *ebs, const char *machine, struct error *error);
/* Stops the machine's instance, waits until it is stopped, and has a last point made, whose number
 * it returns. Each step may be repeated. -EPERM: the instance is protected against being stopped;
 * -EBUSY, -ESTALE, -EIO: the group is paused, another appliance's, failed, and nothing was stopped;
 * -ECANCELED: `stop` (NULL: never) became true; what keeps its snapshots from being fetched, once
 * it has done so for half a minute. Blocks, for as long as the guest and its snapshots take. */
int ebs_shut_down(struct ebs *ebs, const char *machine, const atomic_bool *stop,
	struct error *error, uint64_t *ret_point);

/* What is known of a machine, for `status`: SOCKET.md tells the keys. Under the registry's lock. */
int ebs_machine_json(struct ebs *ebs, const char *machine, struct cJSON **ret_json);
/* Whether fetching keeps the machine's group from having points. Under the registry's lock. */
bool ebs_trouble(struct ebs *ebs, const char *machine, struct group_trouble *ret_trouble);
/* What somebody has to decide or to mend, though points are made: volumes of the instance that are
 * neither replicated nor left out, and snapshots that cannot be deleted. Code 0: nothing. Likewise.
 */
void ebs_news(struct ebs *ebs, const struct machine_entry *machine, struct error *ret_volumes,
	struct error *ret_snapshots);
/* Whether its disks are being compared whole though they were whole before. Likewise. */
bool ebs_comparison(struct ebs *ebs, const char *machine, struct group_comparison *ret_comparison);
