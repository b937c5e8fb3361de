/*
 * Between the tracker and its methods.
 *
 * Every method keeps the same tables (capture_format.h), in memory of its own kind: BPF in maps
 * that programs in the kernel read and write, perf in the heap. The tracker fills them in; the
 * order of its stores is what keeps a marker that runs at the same time from seeing half a disk:
 * a slot is complete before it is chained to its device, and unchained before it changes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/sysmacros.h>

#include "replicator/agent/capture_format.h"
#include "replicator/agent/marks.h"
#include "replicator/agent/tracker.h"

struct method;

/* The parts all methods have; each embeds it as its first member. */
struct method {
	const struct method_ops *ops;
	struct capture_device *devices; /* [CAPTURE_DEVICES]; NULL: no marks (scan) */
	struct capture_slot *slots;     /* [CAPTURE_SLOTS] */
	struct capture_registry *registry;
	char reason[256];
};

struct method_ops {
	const char *name;
	bool bio_based; /* can follow disks without a request queue */
	/* Ends; `forget`: pinned state too. */
	void (*close)(struct method *method, bool forget);
	/* Gives the slot a map of zeros, or finds the one it has. 0 or -errno. */
	int (*map_make)(struct method *method, unsigned slot, uint64_t bytes, uint8_t **ret_map);
	int (*map_find)(struct method *method, unsigned slot, uint64_t bytes, uint8_t **ret_map);
	/* Lets go of the memory; `drop`: the slot's map is no more. */
	void (*map_close)(
		struct method *method, unsigned slot, uint64_t bytes, uint8_t *map, bool drop);
	/* From now on writes to that gendisk go to device `index`, or nowhere. 0 or -errno. */
	int (*device_put)(struct method *method, uint32_t kernel_dev, unsigned index);
	void (*device_drop)(struct method *method, uint32_t kernel_dev);
	/* Marks what had completed before the call; NULL: it always is. Any thread. */
	void (*settle)(struct method *method);
	/* Events that were left out and not made up for, as far as the method knows. 0 or -errno,
	 * -ENOTCONN if it is no longer attached. */
	int (*missed)(struct method *method, uint64_t *ret_missed);
	int (*cost)(struct method *method, struct tracker_cost *ret_cost); /* NULL: unknown */
};

/* Each 0 or -errno; `*ret_method` is ended by its ops->close. */
int method_bpf_open(
	const struct tracker_options *options, struct method **ret_method, struct error *error);
int method_perf_open(
	const struct tracker_options *options, struct method **ret_method, struct error *error);

static inline uint32_t kernel_dev_of(dev_t dev)
{
	return (uint32_t)(gnu_dev_major(dev) << 20 | gnu_dev_minor(dev));
}
