/*
 * What a history must contain: a plain model of disks, points and the catalogue.
 *
 * A sector's content stands for a *tag*, a number given out once; 0 is a sector of zeros. So an
 * image is an array of tags, and any sector that was ever written names the write it came from.
 *
 * The model keeps two states: *durable*, with every acknowledged operation applied, and *live*,
 * with the staged ones too; and the list of operations between them. After a crash the history
 * must equal the durable state with some first part of that list applied.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/history.h"

#define MODEL_DISKS 6     /* ever added in one run */
#define MODEL_SECTORS 256 /* of a disk; larger disks are written at their beginning only */
#define MODEL_POINTS 96
#define MODEL_OPS 512

#define MODEL_BAD_SECTOR UINT64_MAX /* not a tag: no write ever made this content */

/* The disks at a point; never changed once made. */
struct model_image {
	unsigned count;
	struct {
		uint16_t id;
		uint32_t sectors; /* modelled; what the disk has beyond them is zeros */
		uint64_t size_bytes;
		uint64_t tags[MODEL_SECTORS];
	} disks[MODEL_DISKS];
};

struct model_point {
	struct point point; /* lsn is not modelled */
	const struct model_image *image;
	bool soft; /* may go at any time (trim, or its vault point was dropped) */
};

struct model_disk {
	struct history_disk disk;
	uint8_t bookmark[HISTORY_BOOKMARK_BYTES];
	uint64_t tags[MODEL_SECTORS];
};

struct model_state {
	unsigned disk_count;
	struct model_disk disks[MODEL_DISKS];
	unsigned point_count;
	struct model_point points[MODEL_POINTS];
	uint64_t changed_bytes; /* since the newest point */
	uint64_t last_number;
	uint64_t newest_vault;
	uint64_t flush_pending;
	uint64_t drained; /* the point that will hold what was drained; 0: nothing was */
};

enum model_op_kind {
	MODEL_ADD_DISK,
	MODEL_GROW_DISK,
	MODEL_REMOVE_DISK,
	MODEL_RESYNC, /* set: 1, clear: 0 in `set` */
	MODEL_WRITE,  /* tags tag, tag + 1 … */
	MODEL_ZERO,
	MODEL_SEAL,
	MODEL_MARK,
	MODEL_DROP,
	MODEL_FLUSH_BEGIN,
	MODEL_FLUSH_COMMIT,
	MODEL_DRAIN,
	MODEL_IMPORT_POINT,
	MODEL_IMPORT_DISK,
};

struct model_op {
	enum model_op_kind kind;
	uint64_t lsn;
	uint16_t disk;
	uint64_t lba, sectors, tag;
	struct history_disk added;
	struct point point;
	const struct model_image *image; /* MODEL_SEAL, MODEL_IMPORT_POINT */
	uint32_t set, clear;
	uint64_t number;
	unsigned bookmark_count;
	struct seal_bookmark bookmarks[MODEL_DISKS];
};

struct model {
	struct model_state durable, live;
	struct model_op ops[MODEL_OPS];
	unsigned op_count;
	/* Every operation since the start, if asked for: for questions about older states. */
	bool keep_all;
	struct model_op *all;
	unsigned all_count;
	struct model_memory *memory;
};

/* What a history shows, read through its public calls. */
struct model_seen {
	unsigned disk_count;
	struct model_disk disks[MODEL_DISKS];
	unsigned point_count;
	struct point points[MODEL_POINTS];
	uint64_t flush_pending;
	uint64_t drained;
	uint64_t changed_bytes; /* since the newest point */
};

void model_init(struct model *model);
void model_free(struct model *model);
/* Appends the operation to the list and the live state. */
void model_stage(struct model *model, const struct model_op *op);
/* Everything up to the lsn is durable. */
void model_acknowledge(struct model *model, uint64_t lsn);
/* The image of the live state, owned by the model. */
const struct model_image *model_image(struct model *model, const struct model_state *state);
/* A copy of the image, owned by the model. */
struct model_image *model_image_new(struct model *model);

void model_apply(struct model_state *state, const struct model_op *op);
struct model_disk *model_disk(struct model_state *state, uint16_t id);
struct model_point *model_point(struct model_state *state, uint64_t number);

/* Compares; the first difference in words, or NULL. */
const char *model_differs(
	const struct model_state *state, const struct model_seen *seen, char text[static 256]);
/* Finds a first part of the list that explains what is seen, and makes it the durable and live
 * state. NULL, or why the nearest ones do not. Points that were soft and are gone are gone for
 * good. */
const char *model_recover(
	struct model *model, const struct model_seen *seen, char text[static 1024]);
/* Takes over what may change without an operation: soft points that are gone, local copies that
 * a trim took. Returns what must not have happened in words, or NULL. */
const char *model_adopt(struct model_state *state, const struct point *points, unsigned count,
	char text[static 256]);
/* Local points below the vault point may be trimmed from now on. */
void model_allow_trim(struct model_state *state, uint64_t vault_point);

/* Sectors of a disk of that size that are modelled, written and compared. */
uint32_t model_sectors(uint64_t size_bytes);
/* One sector's bytes for a tag, and back. */
void model_fill(uint64_t tag, void *sector);
uint64_t model_tag(const void *sector);
