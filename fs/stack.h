/*
 * Builds a disk's stack of stores, and is the only place that knows the order of the layers.
 * See store.h for the picture.
 */
#pragma once

#include <stdint.h>

#include "fs/committer.h"
#include "fs/history.h"
#include "fs/store.h"

/* live/<disk>.vhd. `writable` only for machines whose source is the mount itself. Borrows the
 * committer (and its history), which must outlive it. */
int stack_live_new(
	struct committer *committer, uint16_t disk, bool writable, struct store **ret_store);

/* points/<point>/<disk>.vhd. Opens a view of its own, closed with the store. */
int stack_point_new(
	struct history *history, uint64_t number, uint16_t disk, struct store **ret_store);

struct clone; /* fs/clone.h */

/* clones/<clone>/<disk>.vhd. Borrows the clone. */
int stack_clone_new(struct clone *clone, uint16_t disk, struct store **ret_store);
