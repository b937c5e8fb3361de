/*
 * What proves the pages that were drained for a point to come: hashes objects beside the points,
 *
 *	groups/<group>/points/<number>.<generation>-<from>-<to>.drained
 *
 * each of what changed in (from, to] of the journal of the owner of that generation, in the format
 * of hashes_format.h; and the list of them, newest last, which is the proof of the journal's DRAIN
 * record (fs/FORMATS.md). A name is never used for two contents: a cut of the journal is not, and
 * another process has another generation. The flush of the point merges them into its own hashes.
 * Little-endian. Version 1.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "fs/history.h"

#define DRAINED_MAGIC 0x4e445246u /* "FRDN" */
#define DRAINED_VERSION 1
/* Parts are merged so that each is at least twice as large as the next: no more are needed. */
#define DRAINED_PARTS 32u

struct drained_part {
	uint64_t generation, from, to;
	uint64_t bytes, digest; /* of the object */
};

struct drained_proof {
	uint32_t magic;
	uint16_t version;
	uint16_t count;
	struct drained_part parts[DRAINED_PARTS]; /* `count` of them are kept */
};
static_assert(sizeof(struct drained_proof) == 1288, "format");
static_assert(sizeof(struct drained_proof) <= HISTORY_DRAIN_PROOF_BYTES, "fits into the record");
