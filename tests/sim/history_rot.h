/*
 * Bit rot in the life of a history.
 */
#pragma once

#include "tests/sim/history_run.h"

/* A whole run: a life without crashes, an orderly end, one sector of one file damaged, and what
 * may come of that. For `run`s begun and not opened. */
void rot_run(struct run *run);
