/*
 * Inspections: the filesystems of a recovery point, mounted read-only for a person to look at.
 *
 * The point's VHD files are read through the daemon's own mount, partition by partition, by loop
 * devices. A filesystem whose log needs replay is mounted from a clone of the point, on which the
 * kernel replays it; if that fails, without replay, and the note says so. An inspection ends by
 * being closed, with the daemon, or at its next start after a kill: what is mounted is written
 * down in state/inspections before it is.
 *
 * See registry_internal.h for the calls within the registry.
 */
#pragma once

#include "common/error.h"

struct registry;

#define INSPECTION_ID_BYTES 24

struct inspect_request {
	const char *machine, *point; /* point may be NULL */
	int partition;               /* −1: all */
	const char *at;              /* NULL: below the state directory */
};

int inspect_open(struct registry *registry, const struct inspect_request *request,
	struct error *error, char ret_id[static INSPECTION_ID_BYTES]);
/* -ENOENT; -EBUSY: something uses one of the filesystems. */
int inspect_close(struct registry *registry, const char *id, struct error *error);
