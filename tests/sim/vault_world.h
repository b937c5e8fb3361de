/*
 * Two appliances and a vault of one group with one disk, for tests of single rules: everything goes
 * as it is told, faults come from the test, which may put its own functions into a store's table.
 * What is not said to be answered is asserted. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "replicator/flusher.h"
#include "replicator/vault_internal.h"
#include "tests/sim/blob_sim.h"
#include "tests/sim/clock_sim.h"
#include "tests/sim/io_sim.h"

#define GROUP "web"
#define BLOB "machines/web/d.vhd"

/* An appliance: a history of one disk of a MiB, and its place in the vault. */
struct appliance {
	struct blob_store *store;
	struct blob_store_ops ops; /* the store's, to be changed by a test */
	struct base *base;
	struct history *history;
	struct vault_group group;
	struct flusher *flusher;
	struct uuid id;
	unsigned syncs_left; /* then the disk fails */
};

struct world {
	struct io_sim *disk;
	struct clock_sim clock;
	struct blob_sim *service;
	struct appliance first, second;
	bool discards_damaged; /* the second, taking over */
};

/* For cmocka: *state becomes a struct world whose first appliance has made the group. */
int world_setup(void **state);
/* Asserts that no rule of the service was broken. */
int world_teardown(void **state);

/* The first appliance's journal is opened again, with what it holds. */
void world_restart(struct world *w);
/* It has lost what the vault has up to this point: another flusher, which knows. */
void world_lose_up_to(struct world *w, uint64_t unknown_point);
/* What vault_group_takeover answers the second. */
int world_try_take_over(struct world *w);
/* The second takes over; with world_bring_up it has a history of its own. */
void world_take_over(struct world *w);
void world_bring_up(struct world *w);

/* Writes two pages and seals; the point's number. */
uint64_t world_make_point(struct appliance *a, char fill);
/* What flusher_flush answers. */
int world_flush(struct appliance *a, uint64_t number);
uint64_t world_make_vault_point(struct appliance *a, char fill);
/* A flush that was begun and of which nothing more is known. */
void world_begin_flush(struct appliance *a, uint64_t number);
/* Collects orphans; how many were deleted. */
unsigned world_collect(struct appliance *a, uint64_t pending);

/* Snapshots the disk with a flush's tags; `group` NULL: the appliance's. */
void world_snapshot_of(struct appliance *a, const char *group, uint64_t point, uint64_t sequence,
	char ret_id[static BLOB_SNAPSHOT_ID_BYTES]);
void world_put_object(struct appliance *a, const char *name);
/* Puts the manifest whatever is there; an object that counts as a point's hashes. */
void world_put_manifest(struct appliance *a, const struct manifest *m);
void world_put_hashes(struct appliance *a, uint64_t number);
void world_delete_object(struct appliance *a, const char *name);
bool world_has_object(struct world *w, const char *name);
bool world_has_snapshot(struct world *w, const char *id);
bool world_has_hashes(struct world *w, uint64_t number);
bool world_has_manifest(struct world *w, uint64_t number);
void world_load_manifest(struct appliance *a, uint64_t number, struct manifest *ret_manifest);
