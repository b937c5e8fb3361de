/*
 * A durable note that the applications may be at rest, so that whoever comes after an agent that
 * died in the middle of a point wakes them: <state>/applications-at-rest, an empty file.
 *
 * What brings them to rest may outlive the agent, too. It, and all that it starts, is known by a
 * variable in its environment. One thread.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "common/io.h"

#define REST_NOTE_VARIABLE "LANDFALL_AT_REST" /* its value is the state directory */

/* They may be at rest from now on. Durable when it returns 0. */
int rest_note_write(struct io *io, const char *state_dir, struct error *error);
/* They are awake. 0 or -errno. */
int rest_note_clear(struct io *io, const char *state_dir);
/* True if there is a note. What has the variable is ended: it does not bring anything to rest any
 * more. */
bool rest_note_take(struct io *io, const char *state_dir);
