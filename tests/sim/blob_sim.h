/*
 * A page-blob service in memory behind replicator/blob.h, as unkind as the real one may be.
 *
 * Requests of the data plane finish in any order. Any change may be applied and yet time out, be
 * lost and time out, land once more after it was answered, or land much later than its answer:
 * what lands late is judged by the lease and the sequence number of that moment, as a service
 * does. Refusals (503) change nothing and say so.
 *
 * The service outlives the appliance: a power cut ends the appliance's stores (their calls answer
 * -ECONNRESET), not what is under way towards the service.
 *
 * It keeps a record of rules broken by its client: a page write or clear without lease or below
 * the blob's sequence, a snapshot without lease, a manifest overwritten. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "replicator/blob.h"
#include "tests/sim/io_sim.h"

struct blob_sim;

/* `disk` may be NULL; else changes count as operations of it, so that a crash can come in them.
 * Borrowed. */
int blob_sim_new(uint64_t seed, struct io_sim *disk, struct blob_sim **ret_service);
void blob_sim_free(struct blob_sim *service);
struct blob_service *blob_sim_service(struct blob_sim *service);

/* How likely a change meets a fault, in percent; 0 (the start): never. */
void blob_sim_set_faults(struct blob_sim *service, unsigned percent);
/* How likely a request is refused as overloaded, in percent. */
void blob_sim_set_overload(struct blob_sim *service, unsigned percent);
/* Out of reach: everything answers -ECONNREFUSED, certain. */
void blob_sim_set_away(struct blob_sim *service, bool away);
/* The appliance's stores are dead from now on. */
void blob_sim_power_cut(struct blob_sim *service);
/* Lets everything that is under way land now. */
void blob_sim_land_all(struct blob_sim *service);
/* Changes under way that may land later. */
unsigned blob_sim_late_count(const struct blob_sim *service);

/* What rule was broken first; NULL if none. */
const char *blob_sim_violation(const struct blob_sim *service);

/* For oracles, with no faults. -ENOENT. */
int blob_sim_peek(struct blob_sim *service, const char *blob, const char *snapshot, uint64_t offset,
	void *data, uint64_t n);
/* Appends an object's content. -ENOENT. */
int blob_sim_peek_object(struct blob_sim *service, const char *name, struct buf *ret_data);
/* Flips the lowest bit of the byte at the offset of a blob, a snapshot or an object (whose metadata
 * goes with it): rot. -ENOENT. */
int blob_sim_rot(struct blob_sim *service, const char *blob, const char *snapshot, uint64_t offset);
/* Number of snapshots of the blob. */
unsigned blob_sim_snapshots(struct blob_sim *service, const char *blob);
