/*
 * Watching what changes, without replicating: what a deployment will need.
 *
 * Every second the marks are taken and gathered in windows of several lengths. Within a window a
 * block counts once, however often it was written: that is what replication has to carry when its
 * points are that far apart. What was written in all comes from the kernel's statistics.
 *
 * Memory: the tracker's marks (at most 33 MiB), and a bit a block for each window.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "replicator/agent/run.h"

#define MEASURE_WINDOWS 4u
extern const unsigned measure_window_s[MEASURE_WINDOWS]; /* 5, 60, 300, 900 */
#define MEASURE_SIZES 3u
extern const uint64_t measure_block_bytes[MEASURE_SIZES]; /* 4 KiB, 64 KiB, 1 MiB */

/* Of one window's length, over all disks: distinct blocks changed. */
struct measure_window {
	unsigned count;                /* windows that were whole; 0: the time was too short */
	double mean_bytes, most_bytes; /* changed in one */
	double mean_puts;              /* Put Page requests that carry them: runs joined across gaps
					  of 64 KiB, cut at 4 MiB */
};

struct measure_disk {
	char id[SOURCE_ID_BYTES];
	uint64_t bytes, block_bytes;
	uint64_t written_bytes, requests; /* by the kernel's statistics */
	uint64_t changed_bytes;           /* distinct blocks, in all the time */
	uint64_t by_block[MEASURE_SIZES]; /* the same if blocks were that large; 0: they are
					     smaller than a mark covers */
	bool trusted;                     /* no write is known to have been missed */
};

struct measurement {
	double seconds;
	double written_bytes_per_s, peak_bytes_per_s; /* the most in one second */
	double changed_peak_bytes_per_s;
	struct measure_window windows[MEASURE_WINDOWS];
	struct measure_disk disks[SOURCE_DISKS_MAX];
	unsigned disk_count;
};

struct measure_options {
	const struct agent_disk *disks; /* borrowed; none: all of the machine */
	unsigned disk_count;
	enum tracker_method method;
	int64_t duration_ns;
	int stop_fd;                                                    /* readable: enough */
	void (*told)(void *context, double seconds, double of_seconds); /* may be NULL */
	void *context;
};

/* -EOPNOTSUPP where changes cannot be captured. Blocks for the duration. */
int measure_run(const struct measure_options *options, struct error *error,
	struct measurement *ret_measurement);

/* ── what it means ───────────────────────────────────────────────────────────────────────── */

struct measure_rates {
	int64_t rpo_s; /* wanted, in the vault */
	int64_t point_interval_s;
	int64_t outage_s;             /* that the journal is to bridge */
	double bandwidth_bytes_per_s; /* to the vault; 0: what the RPO needs */
	double price_requests;        /* of 10,000 write requests */
	double price_month_gb;        /* of a GB in the vault for a month */
	double price_traffic_gb;      /* of a GB out of the source's network */
};

struct measure_needs {
	double bandwidth_bytes_per_s; /* for that RPO, with a fifth to spare */
	double journal_bytes;
	double first_sync_s; /* at most: all of the disks, at that bandwidth; < 0: unknown, as it
				is where nothing was written and no bandwidth is given */
	double requests_day, gb_day;
	double price_first, price_month;
};

void measure_needs(const struct measurement *measurement, const struct measure_rates *rates,
	struct measure_needs *ret_needs);
