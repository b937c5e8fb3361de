/*
 * A target: where a recovery point becomes a running machine. Declared here, by who uses it; what
 * it is made of (QEMU, Azure) is plugged in by the program.
 *
 *	start ──► prove ──► (the machine runs) ──► stop
 *
 * Every call may be repeated and finds what an earlier one, perhaps of a killed daemon, has left.
 * Calls for one id never overlap, those for several do. Any thread.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/boot_mode.h"

struct target;

struct target_disk {
	const char *id;
	const char *file;    /* may be written to, and is thrown away afterwards */
	uint64_t size_bytes; /* of its data; a VHD's footer follows */
};

struct target_order {
	uint64_t id; /* unique for this appliance: what it makes is named after it */
	const char *machine;
	const char *directory;           /* of this order alone: where evidence goes */
	const struct target_disk *disks; /* the first is started from */
	unsigned disk_count;
	enum boot_mode boot_mode;
};

struct target_proof {
	bool passed;
	char words[300];              /* what was seen, or what was missed */
	int64_t after_ns;             /* since the start */
	char log[64], screenshot[64]; /* files in the order's directory; "": there is none */
};

struct target_watch {
	const atomic_bool *stop;
	void (*progress)(void *context, uint64_t done_s, uint64_t total_s);
	void *context;
};

struct target_ops {
	/* The machine runs when it returns; 0 also if it ran already. */
	int (*start)(struct target *target, const struct target_order *order, struct error *error);
	bool (*runs)(struct target *target, uint64_t id);
	/* Waits for the proof that it came up, or for the end of the time it has for that. 0,
	 * passed or not; -ECANCELED: `stop` is true; -ENOENT: it does not run (any more), and
	 * nothing of it was seen. */
	int (*prove)(struct target *target, const struct target_order *order,
		const struct target_watch *watch, struct error *error,
		struct target_proof *ret_proof);
	/* Ends it and removes what was made for it but the evidence. 0 also if there is nothing. */
	int (*stop)(struct target *target, uint64_t id, struct error *error);
};

struct target {
	const struct target_ops *ops;
	const char *name;           /* as --target names it */
	uint64_t clone_quota_bytes; /* how much a machine may write to its disks */
};
