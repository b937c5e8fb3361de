/*
 * Taking in what agents send: sessions, disks, comparisons, and the cuts that become points.
 *
 *	connection ─► receive ─► journal (staged) ─► committer ─► ACK
 *	                 │
 *	                 ├─ disks, compared      what is whole (state/agents/<machine>.json)
 *	                 ├─ hashes, pages        answered by a thread of the session's
 *	                 └─ cut.*, mark          a thread of the group's conducts the cut and seals
 *
 * replicator/wire/PROTOCOL.md is what both ends agreed on. A session belongs to one machine and
 * writes that machine's disks and no others, whatever it says. Nothing is acknowledged before the
 * journal's disk has it; nothing is sealed before everything that a mark names has arrived.
 *
 * Lives as long as the registry it serves: made after it, freed before it and after the door for
 * agents is shut. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/agent_sessions.h"

struct cJSON;
struct group;
struct ingest;
struct registry;

int ingest_new(struct registry *registry, struct error *error, struct ingest **ret_ingest);
/* No connection is being served any more. NULL is fine. */
void ingest_free(struct ingest *ingest);
struct agent_sessions *ingest_sessions(struct ingest *ingest);

/* What is known of a machine's agent, for `status`: SOCKET.md tells the keys. */
int ingest_machine_json(struct ingest *ingest, const char *machine, struct cJSON **ret_json);
struct group_trouble;
/* Whether the machine's agent keeps its group from making points: it is away for more than a few
 * seconds, or a disk of it is refused or cannot be read, or its cuts fail. */
bool ingest_trouble(struct ingest *ingest, const char *machine, struct group_trouble *ret_trouble);
/* Why the machine cannot make a point now: -ENOTCONN its agent is not connected, else it compares
 * its disks, or cannot. False: nothing is known to be in the way. */
bool ingest_obstacle(struct ingest *ingest, const char *machine, struct error *ret_why);
struct group_warnings;
/* Fills in what the machine's agent gives reason for, and is not filled in yet. */
void ingest_warnings(
	struct ingest *ingest, const char *machine, struct group_warnings *ret_warnings);
/* Has the disks compared with their source all over (`disk` NULL: all); at once if the agent is
 * connected, else when it comes. -ENOENT: the machine has no such disk. */
int ingest_resync(
	struct ingest *ingest, const char *machine, const char *disk, struct error *error);
/* Who asks for a verification. */
struct ingest_verify_job {
	bool repair;
	bool (*should_stop)(void *context);
	void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
	void *context;
};

struct ingest_verify_result {
	uint64_t bytes, differing_bytes; /* of chunks: 1 MiB each */
	uint64_t unverified_bytes; /* of `bytes`: they differ, and were written since they were sent
				      as far as scanning tells */
};

/* Compares all disks of the machine as they are now with the source, while both go on; with
 * `repair` what differs is sent again and in a point when this returns. Blocks. `group` is held by
 * the caller. -ENOTCONN: no agent, or it went away; -ECANCELED; -EAGAIN: parts are written too
 * often. */
int ingest_verify(struct ingest *ingest, const char *machine, struct group *group,
	const struct ingest_verify_job *job, struct error *error,
	struct ingest_verify_result *ret_result);
/* The machine is removed: forgets what was remembered of it. Its connections are ended already. */
void ingest_forget(struct ingest *ingest, const char *machine);
