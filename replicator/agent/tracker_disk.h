/*
 * The tracker's own structures, for its parts (tracker.c, tracker_trust.c).
 */
#pragma once

#include "replicator/agent/tracker_internal.h"

#define TRACKER_EXCESS_UNKNOWN UINT64_MAX /* of capture_note.idle_excess */

struct tracker {
	struct method *method;
	uint64_t memory_bytes;
	struct tracker_disk *disks[TRACKER_DISKS_MAX]; /* NULL: free */
};

struct tracker_disk {
	struct tracker *tracker;
	struct disk disk;
	struct marks marks; /* map is NULL for scan */
	unsigned slot;
	int stat_fd;         /* the gendisk's statistics; negative: none */
	int inflight_fd;     /* how many requests are under way on it; negative: nobody says */
	uint64_t odd_excess; /* found by checks in a row, while the disk was idle */
	unsigned odd_checks;
	bool resumed;
	struct capture_run run; /* of scan, which keeps no notes */
};
