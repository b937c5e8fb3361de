/*
 * The real vault and flusher over a simulated service, as the vault of a simulated life.
 */
#pragma once

#include "tests/sim/blob_sim.h"
#include "tests/sim/history_run.h"

struct flusher_vault;

/* Takes the place of the run's vault in memory. `faults` and `overload` in percent. */
void flusher_vault_begin(struct run *run, unsigned faults, unsigned overload);
void flusher_vault_end(struct run *run);
struct blob_sim *flusher_vault_service(struct run *run);
/* With no faults: every manifest and snapshot is right, every byte of every point proven. */
void flusher_vault_check(struct run *run);
/* The appliance's disk is lost: a new appliance takes over, and finds every vault point exact.
 * The first may change nothing more. Ends the life. */
void flusher_vault_take_over(struct run *run);
