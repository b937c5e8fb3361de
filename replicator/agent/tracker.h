/*
 * Which blocks of a disk were written: change capture without a kernel module.
 *
 * Three methods behind one interface; tracker_open takes the first that the kernel allows:
 *	bpf    programs at both ends of a write mark bytes in maps that are pinned: marking goes on
 *	       with no process alive, and the next one finds the marks (Linux 5.10 and later, BTF)
 *	perf   tracepoint records in rings, read by a thread; marks end with the process
 *	scan   no marks at all: everything may have changed, whoever asks compares by hash
 *
 * How it is used, for every disk:
 *
 *	tracker_add            from now on every write is marked. Unless tracker_was_resumed, the
 *	                       past is unknown: compare the disk by hash once, *after* this call
 *	tracker_take(pass)     marks become "taken in pass n"; then read with O_DIRECT what they
 *	                       cover and send it
 *	tracker_settle(pass)   what was taken in that pass is stored elsewhere: forget it. A block
 *	                       written meanwhile stays marked
 *	tracker_put_back       it was not sent: marked again. A process that dies between take and
 *	                       settle need not: the next one finds those blocks marked
 *	tracker_check          proves that no write was missed, best asked while nothing is written.
 *	                       If only ends of writes were, what may have been read too early is
 *	                       marked again. If a write was, or nothing can be known:
 *	                       tracker_trust_again, *then* compare the disk by hash
 *
 * Never trust marks across a reboot: writes before the start and after the end of this program
 * are unseen (tracker_was_resumed is false then). The bytes of a disk read from a mounted
 * device's page cache may be stale: read with O_DIRECT, after taking.
 *
 * Threads: calls for one disk are the caller's to serialise; calls for different disks, and
 * tracker_dirty_bytes of any, may run at once. tracker_add, _remove and _grow are for one thread at
 * a time, while calls for other disks go on; tracker_close and _end exclude all others.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/agent/disk.h"

#define TRACKER_BOOT_ID_BYTES 40

/* The kernel's name of this boot, as text: no other boot of any machine has it. 0 or -errno. */
int tracker_boot_id(char ret_id[static TRACKER_BOOT_ID_BYTES]);

struct tracker;
struct tracker_disk;

enum tracker_method {
	TRACKER_AUTO, /* the best there is */
	TRACKER_BPF,
	TRACKER_PERF,
	TRACKER_SCAN
};

#define TRACKER_DISKS_MAX 64u

struct tracker_options {
	enum tracker_method method;
	/* A directory of a bpffs, made if it is not there; marks are kept in it from one process
	 * to the next, and one tracker at a time has it. NULL: nothing outlives the process. */
	const char *pin_dir;
	/* What the marks of all disks may take, 0: 33 MiB. Blocks grow with the disks. */
	uint64_t memory_bytes;
};

/* Takes the best method, or exactly the one asked for. 0; -EBUSY if another tracker has the
 * directory; -EOPNOTSUPP if the method asked for does not work here; -errno. */
int tracker_open(
	const struct tracker_options *options, struct tracker **ret_tracker, struct error *error);

/* Frees. With a pin_dir marking goes on; without, it ends. NULL is fine. */
void tracker_close(struct tracker *tracker);

/* Ends marking and forgets all marks, pinned ones too; frees. NULL is fine. */
void tracker_end(struct tracker *tracker);

/* "bpf", "perf" or "scan", and why that one: one line for people. Valid as long as the tracker. */
const char *tracker_method_name(const struct tracker *tracker);
const char *tracker_method_reason(const struct tracker *tracker);

/* Marks writes to `disk` (copied) from the time this returns. 0; -EEXIST if it is tracked
 * already; -ENOSPC for more than TRACKER_DISKS_MAX; -EOPNOTSUPP for a disk whose writes cannot be
 * seen (DAX); -errno. The disk is the tracker's; free it with tracker_remove or with the tracker.
 */
int tracker_add(struct tracker *tracker, const struct disk *disk, struct tracker_disk **ret_disk,
	struct error *error);

/* Ends marking of this disk; frees. NULL is fine. */
void tracker_remove(struct tracker_disk *disk);

/* True if an earlier process of this boot left the disk's marks, nothing was lost since and the
 * disk is the same: what it had taken and not settled is marked again. */
bool tracker_was_resumed(const struct tracker_disk *disk);

/*
 * The incarnation: a random number that names one unbroken run of capture, as told to `holder`. It
 * is another one after tracker_trust_again, for a disk that was not resumed, and for another holder
 * than the last: what was settled for that one says nothing of what this one has. It is kept with
 * the marks, so both outlive the process, or neither does. `holder`: any number but 0 that stands
 * for whoever what is taken goes to. To be asked before marks are taken for it. 0 or -errno.
 */
int tracker_incarnation(struct tracker_disk *disk, uint64_t holder, uint64_t *ret_incarnation);

/* The disk became larger, `bytes` now: the new part is marked. 0, -EINVAL if smaller, -errno. */
int tracker_grow(struct tracker_disk *disk, uint64_t bytes, struct error *error);

/* Bytes a mark covers: a power of two, 4 KiB or more. All ranges are multiples of it, but for the
 * end of the disk. */
uint64_t tracker_block_bytes(const struct tracker_disk *disk);

struct tracker_range {
	uint64_t offset; /* bytes from the disk's (or the partition's) beginning */
	uint64_t length;
};

/*
 * Takes marks from `offset` (where an earlier call stopped) upwards: fills at most `capacity`
 * ranges, in order and apart from each other, and tells where to go on; that is the size of the
 * disk when it is done. `pass` is any number; of the unsettled ones no two may be equal modulo
 * TRACKER_PASSES. Reads of the ranges must begin after this returned. 0 or -errno: -EOPNOTSUPP by
 * scan, which has no marks.
 */
#define TRACKER_PASSES 124u

int tracker_take(struct tracker_disk *disk, uint64_t pass, uint64_t offset, size_t capacity,
	struct tracker_range *ret_ranges, size_t *ret_count, uint64_t *ret_next);

/* What was taken of that range in `pass` is safe elsewhere. Ranges need not be those taken: blocks
 * of other passes, and blocks written since, stay as they are. Blocks partly in the range are
 * left alone. */
void tracker_settle(struct tracker_disk *disk, uint64_t pass, uint64_t offset, uint64_t length);

/* Marks a range, whatever it was. */
void tracker_put_back(struct tracker_disk *disk, uint64_t offset, uint64_t length);

/* How much is marked now and not taken, in bytes; an estimate while writes go on. Walks the whole
 * map: about 3 ms for each 2 TiB. */
uint64_t tracker_dirty_bytes(const struct tracker_disk *disk);

/* True if a write overlapping the range is marked and not taken. */
bool tracker_is_dirty(const struct tracker_disk *disk, uint64_t offset, uint64_t length);

/* True if something in the range may have been read before its write had ended: taken, and not
 * proven since. */
bool tracker_is_unsure(const struct tracker_disk *disk, uint64_t offset, uint64_t length);

enum tracker_verdict {
	TRACKER_PROVEN,   /* every byte the kernel counted as written was seen */
	TRACKER_RECALLED, /* ends of writes were missed, their beginnings were not: what may have
			   * been read too early is marked again, so take once more; nothing else is
			   * due */
	TRACKER_UNPROVEN, /* cannot tell now: writes are under way, or the kernel does not count */
	TRACKER_LOST,     /* something was missed: the marks are worth nothing until trust_again */
};

enum tracker_reason {
	TRACKER_REASON_NONE,
	TRACKER_REASON_BYTES,  /* fewer bytes seen than the kernel's statistics count */
	TRACKER_REASON_MISSED, /* the kernel left out calls, or records of the ring were lost */
	TRACKER_REASON_PASSTHROUGH, /* a raw command to the disk that may have written */
	TRACKER_REASON_OVERFLOW,    /* more in flight than can be followed */
	TRACKER_REASON_DETACHED,    /* a program is no longer attached */
	TRACKER_REASON_REPLACED,    /* the disk behind the name is another one */
	TRACKER_REASON_NO_COUNT,    /* unproven: statistics are off, or the method has none */
	TRACKER_REASON_BUSY,        /* unproven: writes never stood still long enough to compare */
	TRACKER_REASON_ENDS,        /* recalled: ends of writes were not seen */
	TRACKER_REASON_LATE,        /* unproven: what was written before it first stood still; see
				     * tracker_compared */
};

struct tracker_trust {
	enum tracker_verdict verdict;
	enum tracker_reason reason;
	uint64_t seen_bytes;     /* completed writes and discards since trust began */
	uint64_t other_bytes;    /* the same, seen in the second way where there is one, else 0 */
	uint64_t counted_bytes;  /* the same by the kernel's statistics of the whole disk */
	uint64_t recalled_bytes; /* how much is marked again; recalled only */
	uint64_t missed;         /* calls the kernel left out and could not be made up for */
};

/* Compares what was seen with what the kernel counted, for at most `wait_ms`. While nothing is
 * written the answer is certain at once; else it may be TRACKER_UNPROVEN. Once TRACKER_LOST it
 * stays so, for later processes too, until tracker_trust_again. Opens nothing and writes only
 * memory: may be called while filesystems are frozen. 0 or -errno (then nothing is known). */
int tracker_check(struct tracker_disk *disk, unsigned wait_ms, struct tracker_trust *ret_trust);

/* Whether there is anything to compare with: not if writes have never stood still since trust
 * began. Every tracker_check tries to mend that; what was written before stays unproven then, for
 * later processes too, until tracker_compared. */
bool tracker_has_base(const struct tracker_disk *disk);
/* All of the disk was compared by hash, and when that began tracker_has_base was true: it has
 * proven what was written before. */
void tracker_compared(struct tracker_disk *disk);

/* A few words for people, no full stop. */
const char *tracker_reason_text(enum tracker_reason reason);

/* Begins anew: from the time this returns every write is marked; what was before is unknown and
 * unmarked, so compare the disk by hash *after* this. Has another incarnation before the marks are
 * trusted again, whenever the process dies. 0 or -errno. */
int tracker_trust_again(struct tracker_disk *disk, struct error *error);

/* What capturing costs, as the kernel measures it while kernel.bpf_stats_enabled is 1: calls and
 * nanoseconds of all programs since they were attached. 0 or -EOPNOTSUPP (another method). */
struct tracker_cost {
	uint64_t calls;
	uint64_t run_ns;
	uint64_t missed; /* calls left out, most of them made up for in the other way */
};

int tracker_cost(const struct tracker *tracker, struct tracker_cost *ret_cost);
