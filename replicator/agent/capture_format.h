/*
 * What the programs in the kernel and the agent share: the layout of the maps. They are pinned
 * and outlive the process, so this is a format: whoever finds another CAPTURE_LAYOUT or another
 * boot starts anew. Included by both sides, hence no other headers here but the compiler's.
 *
 * A mark is a byte: 0 clean, 1 written, others "taken in a pass" (see marks.h). Marks lie in
 * three levels, so that marking a range of any length (a discard of 4 GiB) costs a bounded number
 * of stores and nothing can overflow: a byte of level 0 covers one block, one of level 1 covers
 * 128 blocks, one of level 2 covers 16384. A byte of a higher level means all that it covers.
 */
#pragma once

#ifdef __bpf__
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
#define static_assert _Static_assert
#else
#include <assert.h>
#include <stdint.h>
#endif

#define CAPTURE_MAGIC 0x4c46434150545552ull /* "LFCAPTUR" */
#define CAPTURE_LAYOUT 3u                   /* of all here, and of what the programs do */

#define CAPTURE_DEVICES 64u        /* gendisks */
#define CAPTURE_SLOTS 128u         /* disks; twice as many, as growing takes a second one */
#define CAPTURE_SLOTS_A_DEVICE 16u /* partitions of one gendisk that are tracked */
#define CAPTURE_INDEX 256u         /* entries of the table that finds a device */
#define CAPTURE_PROBES 8u          /* entries of it that a device may be in */
#define CAPTURE_STRIPES 8u         /* counters, by processor */
#define CAPTURE_PAGE_BYTES 4096u   /* of marks: one element of the map */
#define CAPTURE_FAN_SHIFT 7u       /* blocks a level: 128 */
#define CAPTURE_INFLIGHT 16384u    /* writes under way on disks without a request queue */

/*
 * Finds a device by its gendisk: an entry is (number of the gendisk) << 32 | (device + 1), in one
 * of CAPTURE_PROBES places from capture_index_of on. 0 ends the search; an entry of a device that
 * is gone has 0 for its lower half, and may be taken by another.
 */
static inline uint32_t capture_index_of(uint32_t kernel_dev, uint32_t probe)
{
	return ((kernel_dev * 2654435769u >> 24) + probe) % CAPTURE_INDEX;
}

enum capture_device_flags {
	CAPTURE_BIO_BASED = 1u << 0 /* ends of writes are seen on the bio, not on a request */
};

/* Only ever added to. */
struct capture_counters {
	uint64_t seen_bytes;   /* completed, by the tracepoints */
	uint64_t other_bytes;  /* completed, by the functions' entries */
	uint64_t opaque;       /* commands that may write, no telling where */
	uint64_t overflow;     /* writes that could not be followed to their end */
	uint64_t queued_bytes; /* begun; marked after that, and before they end */
	uint64_t reserved[3];
};
static_assert(sizeof(struct capture_counters) == 64, "a cache line");

struct capture_device {
	uint32_t first; /* slot + 1, 0: none */
	uint32_t flags;
	uint64_t reserved[7];
	struct capture_counters stripes[CAPTURE_STRIPES];
};
static_assert(sizeof(struct capture_device) == 576, "layout");

struct capture_slot {
	uint32_t next;  /* slot + 1, 0: none */
	uint32_t shift; /* of a block, in sectors */
	uint64_t first_sector;
	uint64_t sectors;
	uint64_t level1; /* where the marks of level 1 begin, in bytes */
	uint64_t level2;
	uint64_t reserved[3];
};
static_assert(sizeof(struct capture_slot) == 64, "layout");

/* One unbroken run of capture, and who is told of what it marks (see tracker_incarnation). */
struct capture_run {
	uint64_t incarnation;
	uint64_t holder; /* 0: nobody yet */
};

/* The agent's notes on a slot; the programs never look. */
struct capture_note {
	uint32_t used; /* 1: this and the slot are valid; written last */
	uint32_t device;
	uint32_t kernel_dev; /* major << 20 | minor of the gendisk */
	uint32_t distrust;   /* enum tracker_reason, 0: none */
	uint64_t offset_bytes;
	uint64_t bytes;
	uint64_t sequence;
	/* What the sums were when trust began. */
	uint64_t base_seen;
	uint64_t base_other;
	uint64_t base_opaque;
	uint64_t base_overflow;
	uint64_t base_counted;
	uint64_t base_missed;
	/* By how much more bytes the programs saw begun, ever, than the kernel counts, while no
	 * write was under way (modulo 2^64); UINT64_MAX: not known yet. */
	uint64_t idle_excess;
	struct capture_run run;
	uint32_t late; /* 1: the disk did not stand still when trust began, so the sums are of later
			*/
	uint32_t reserved;
	char identity[192];
};
static_assert(sizeof(struct capture_note) == 312, "layout");

struct capture_registry {
	uint64_t magic; /* written last */
	uint32_t layout;
	uint32_t has_other; /* 1: the functions' entries are watched too */
	char boot_id[40];
	uint64_t programs_id[8]; /* the kernel's: whether ours are still the ones that run; 0: none
				  */
	struct capture_note notes[CAPTURE_SLOTS];
};
static_assert(sizeof(struct capture_registry) == 120 + 312 * CAPTURE_SLOTS, "layout");
