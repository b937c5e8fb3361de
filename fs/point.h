/*
 * A recovery point: the state of all disks of a group at one seal.
 */
#pragma once

#include <stdint.h>

#include "common/utc.h"

enum point_kind {
	POINT_CRASH = 1,       /* crash-consistent: what a power cut would have left */
	POINT_APPLICATION = 2, /* the source was quiesced */
};

enum point_flags {
	POINT_LOCAL = 1 << 0,   /* can be opened from the journal (and the vault point before it) */
	POINT_VAULT = 1 << 1,   /* committed by a manifest */
	POINT_KEEP = 1 << 2,    /* no retention rule removes it */
	POINT_DAMAGED = 1 << 3, /* part of its content was lost on the appliance's disk */
	POINT_VERIFIED = 1 << 4, /* the last verification proved every byte */
	POINT_FAILED = 1 << 5,   /* the last verification failed */
	POINT_PRESSURE = 1 << 6, /* sealed because the journal filled, not by policy or a person */
	POINT_DRAINED = 1 << 7,  /* on its way to the vault: part of its content went there ahead of
				    it, and it cannot be opened before it is all there */
};

struct point {
	uint64_t number;        /* from 1, rising by at least 1, never used again */
	uint64_t lsn;           /* of its seal; 0 for one taken over from a vault */
	int64_t time_ns;        /* the instant at the source that it shows, UTC */
	uint64_t changed_bytes; /* written and zeroed since the point before */
	uint32_t flags;
	uint8_t kind;
};

/* `<number>-<UTC as 20261122T055411Z>`: the point's name in the mount and on the command line. */
#define POINT_NAME_BYTES (20 + 1 + UTC_COMPACT_BYTES)
void point_format_name(const struct point *point, char ret_name[static POINT_NAME_BYTES]);

/* Reads such a name. 0 or -EINVAL. */
int point_parse_name(const char *name, uint64_t *ret_number, int64_t *ret_time_ns);
