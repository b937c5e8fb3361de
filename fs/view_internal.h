/*
 * What the two files of a view share: view.c opens and reads, view_local.c finds what the journal
 * holds of the vault point below.
 */
#pragma once

#include <stdatomic.h>

#include "fs/history_internal.h"

struct view_disk {
	uint16_t id;
	uint64_t bytes, base_bytes;
	struct extent_map *map; /* NULL: nothing changed */
	struct extent_map
		*local; /* of the vault point below what the journal holds; NULL: nothing */
};

struct view {
	struct history *history;
	struct view *next; /* history.views */
	uint64_t number, base_number;
	uint64_t below; /* the base is below this vault point; 0: the newest that will do */
	bool to_flush;  /* over what was drained already, for the one who writes the base */
	bool live;      /* and that is the base as it lies there */
	uint64_t mark;  /* up to this record and no point; 0: a point's */
	uint64_t from_lsn, to_lsn; /* the records laid over the base: (from, to] */
	struct view_disk *disks;
	unsigned disk_count;
	struct segment **segments; /* with references */
	struct segment *copies;    /* their values at the opening */
	unsigned segment_count;
	uint64_t local_lsn; /* records up to it may be in `local`; 0: none */
	pthread_mutex_t local_lock;
	atomic_bool local_done; /* the disks' `local` and the next are there, for good */
	bool all_local;         /* the journal has all that was ever written */
	/* The vault does not have the base any more, though the history believes in it: the same
	 * point on the vault point below that, if the journal carries it from there. */
	pthread_mutex_t lower_lock;
	bool lower_done; /* lower_lock; `lower` is there for good, or NULL for good */
	struct view *lower;
};

/* NULL: the point does not have it. */
struct view_disk *view_find_disk(const struct view *view, uint16_t id);
/* As view_read; `pass` may be NULL. */
int view_read_in_pass(struct view *view, struct view_pass *pass, uint16_t disk, uint64_t lba,
	uint32_t sectors, void *data);
/* What the disk's map lies on, for a read of that range. No lock held. */
struct ground view_ground(
	struct view *view, const struct view_disk *disk, uint64_t lba, uint64_t sectors);
