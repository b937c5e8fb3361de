/*
 * Random lives: generations of random work, each ended by a crash or a fault at a random
 * operation of the disk, each recovery compared with the model.
 */
#pragma once

#include "tests/sim/history_run.h"

/* A whole life of a run that was begun. `from_vault`: it may begin by a takeover. At the end the
 * history is open. */
void life_random(struct run *run, bool from_vault);
