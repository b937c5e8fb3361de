/*
 * Inside the simulated blob service: what it stores. Only blob_sim*.c use it.
 */
#pragma once

#include "tests/sim/blob_sim.h"
#include "tests/sim/clock_sim.h"
#include "tests/sim/io_sim_node.h"

#define SIM_METADATA 8

struct sim_metadata {
	unsigned count;
	char *names[SIM_METADATA], *values[SIM_METADATA];
};

struct sim_snapshot {
	struct sim_snapshot *next;
	char id[BLOB_SNAPSHOT_ID_BYTES];
	struct content content;
	struct sim_metadata metadata;
};

struct sim_part {
	struct sim_part *next;
	uint64_t series, number;
	uint64_t n;
	unsigned char data[];
};

/* A page blob or, with `is_object`, a block blob. */
struct sim_blob {
	struct sim_blob *next;
	char *name;
	bool is_object;
	struct content content;
	int64_t sequence;
	uint64_t etag;
	char lease[BLOB_LEASE_ID_BYTES]; /* empty: not leased */
	struct sim_metadata metadata;
	struct sim_snapshot *snapshots, **snapshots_end;
	struct sim_part *parts; /* staged */
};

/* A change as it travels: everything it needs is its own, so that it can land at any time. */
enum sim_verb {
	SIM_PUT_PAGES,
	SIM_CLEAR_PAGES,
	SIM_CREATE,
	SIM_RESIZE,
	SIM_RAISE,
	SIM_SNAPSHOT,
	SIM_DELETE,
	SIM_LEASE_ACQUIRE,
	SIM_LEASE_CHANGE,
	SIM_LEASE_RELEASE,
	SIM_LEASE_BREAK,
	SIM_OBJECT_PUT,
	SIM_OBJECT_DELETE,
	SIM_OBJECT_STAGE,
	SIM_OBJECT_COMMIT,
	SIM_COPY,
};

struct sim_change {
	struct sim_change *next;
	enum sim_verb verb;
	char *blob, *snapshot, *other; /* other: new blob, new lease */
	char *lease, *if_match;        /* NULL: none */
	uint64_t offset, length;       /* of pages; size; part number or count */
	uint64_t series;               /* of parts */
	int64_t sequence;
	unsigned char *data;
	struct sim_metadata metadata;
};

struct blob_sim {
	struct blob_service service;
	struct clock_sim clock; /* by which its stores' calls are tried again: no time is lost */
	struct io_sim *disk;
	struct rng rng;
	struct sim_blob *blobs; /* by name */
	struct sim_change *late;
	uint64_t epoch; /* of stores: raised when the appliance loses power */
	uint64_t next_etag, next_snapshot;
	unsigned faults, overload;
	bool away;
	char violation[256];
};

struct sim_answer {
	int64_t sequence;
	uint64_t etag;
	char snapshot[BLOB_SNAPSHOT_ID_BYTES];
};

struct sim_blob *blob_state_find(struct blob_sim *service, const char *name);
struct sim_snapshot *blob_state_snapshot(struct sim_blob *blob, const char *id);
/* Does the change, judged by what is there now. 0 or -errno of blob.h. */
int blob_state_apply(
	struct blob_sim *service, const struct sim_change *change, struct sim_answer *ret_answer);
void blob_state_violation(struct blob_sim *service, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void blob_state_free(struct blob_sim *service);
struct sim_change *sim_change_copy(const struct sim_change *change);
void sim_change_free(struct sim_change *change);
void sim_metadata_copy(struct sim_metadata *to, const struct sim_metadata *from);
void sim_metadata_free(struct sim_metadata *metadata);
