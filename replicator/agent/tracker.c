/*
 * The tracker: disks, their slots in the tables, and what is known about them from earlier.
 *
 * A disk's slot goes through these states, each reached by one store, so that a process that dies
 * in between leaves something that the next one can read:
 *
 *	free -> chained: marked in, note unused -> used: the note is valid
 *	used -> unused, still chained -> unchained -> free
 *
 * A chained slot with an unused note is what a dead process was about to add or remove:
 * tracker_open unchains it. Growing a disk is adding a second slot, moving the marks and removing
 * the first, so no slot ever changes while it is chained.
 *
 * Trust (tracker_trust.c) is kept in the note, so it outlives the process as the marks do.
 */
#include "replicator/agent/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/tracker_disk.h"

#define DEFAULT_MEMORY (33 * MIB)
#define DISK_MEMORY (DEFAULT_MEMORY / 2) /* 64 GiB in blocks of 4 KiB, and the levels above */
#define LARGE_DISK_MEMORY (64 * MIB)     /* of one disk, whatever the others have */
#define COARSE_SHIFT 20u

int tracker_boot_id(char ret_id[static TRACKER_BOOT_ID_BYTES])
{
	char id[TRACKER_BOOT_ID_BYTES] = "";
	CLEANUP_CLOSE int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, id, sizeof(id) - 1);
	if (n < 36)
		return n < 0 ? -errno : -EIO;
	id[36] = '\0';
	memcpy(ret_id, id, sizeof(id));
	return 0;
}

static void publish(uint32_t *at, uint32_t value)
{
	__atomic_store_n(at, value, __ATOMIC_SEQ_CST);
}

static void unchain(struct method *method, unsigned device, unsigned slot)
{
	uint32_t *at = &method->devices[device].first;
	while (*at && *at - 1 < CAPTURE_SLOTS) {
		if (*at - 1 == slot) {
			publish(at, method->slots[slot].next);
			return;
		}
		at = &method->slots[*at - 1].next;
	}
}

static bool chained(const struct method *method, unsigned slot, unsigned *ret_device)
{
	for (unsigned device = 0; device < CAPTURE_DEVICES; device++) {
		uint32_t next = method->devices[device].first;
		for (unsigned i = 0; i < CAPTURE_SLOTS && next && next - 1 < CAPTURE_SLOTS; i++) {
			if (next - 1 == slot) {
				*ret_device = device;
				return true;
			}
			next = method->slots[next - 1].next;
		}
	}
	return false;
}

/* What a dead process left half-done. */
static void sweep(struct method *method)
{
	for (unsigned slot = 0; slot < CAPTURE_SLOTS; slot++) {
		unsigned device;
		if (!method->registry->notes[slot].used && chained(method, slot, &device))
			unchain(method, device, slot);
	}
}

static int scan_open(const char *reason, struct method **ret_method)
{
	struct method *method = calloc(1, sizeof(*method));
	if (!method)
		return -ENOMEM;
	snprintf(method->reason, sizeof(method->reason), "%s", reason);
	*ret_method = method;
	return 0;
}

/* The best method that works, or the one asked for. */
static int choose(
	const struct tracker_options *options, struct method **ret_method, struct error *error)
{
	struct error why_bpf = { 0 }, why_perf = { 0 };
	char reason[256];
	int r = -EOPNOTSUPP;

	if (options->method == TRACKER_AUTO || options->method == TRACKER_BPF) {
		r = method_bpf_open(options, ret_method, &why_bpf);
		if (r == 0 || options->method == TRACKER_BPF || r == -EBUSY)
			goto out;
	}
	if (options->method == TRACKER_AUTO || options->method == TRACKER_PERF) {
		r = method_perf_open(options, ret_method, &why_perf);
		if (r == 0 && options->method == TRACKER_AUTO)
			snprintf((*ret_method)->reason, sizeof((*ret_method)->reason),
				"tracepoint rings, as BPF does not work here: %.160s",
				why_bpf.message);
		if (r == 0 || options->method == TRACKER_PERF)
			goto out;
	}
	snprintf(reason, sizeof(reason), "%s",
		options->method == TRACKER_SCAN ? "comparison by hash, as asked for" : "");
	if (options->method != TRACKER_SCAN)
		snprintf(reason, sizeof(reason),
			"comparison by hash, as neither works: BPF: %.80s; perf: %.80s",
			why_bpf.message, why_perf.message);
	r = scan_open(reason, ret_method);
out:
	if (r < 0 && error)
		*error = why_perf.code ? why_perf : why_bpf;
	return r;
}

int tracker_open(
	const struct tracker_options *options, struct tracker **ret_tracker, struct error *error)
{
	CLEANUP_FREE struct tracker *tracker = calloc(1, sizeof(*tracker));
	if (!tracker)
		return error_set(error, -ENOMEM, NULL, "no memory for the tracker");
	tracker->memory_bytes = options->memory_bytes ? options->memory_bytes : DEFAULT_MEMORY;
	int r = choose(options, &tracker->method, error);
	if (r < 0)
		return r;
	if (tracker->method->registry)
		sweep(tracker->method);
	*ret_tracker = TAKE(tracker);
	return 0;
}

static void disk_free(struct tracker_disk *disk, bool drop)
{
	const struct method *method = disk->tracker->method;
	if (disk->marks.map)
		method->ops->map_close(disk->tracker->method, disk->slot, disk->marks.map_bytes,
			disk->marks.map, drop);
	if (disk->stat_fd >= 0)
		close(disk->stat_fd);
	if (disk->inflight_fd >= 0)
		close(disk->inflight_fd);
	free(disk);
}

static void tracker_free(struct tracker *tracker, bool forget)
{
	for (unsigned i = 0; i < TRACKER_DISKS_MAX; i++) {
		if (tracker->disks[i])
			disk_free(tracker->disks[i], false);
	}
	if (tracker->method->ops)
		tracker->method->ops->close(tracker->method, forget);
	else
		free(tracker->method);
	free(tracker);
}

void tracker_close(struct tracker *tracker)
{
	if (tracker)
		tracker_free(tracker, false);
}

void tracker_end(struct tracker *tracker)
{
	if (tracker)
		tracker_free(tracker, true);
}

const char *tracker_method_name(const struct tracker *tracker)
{
	return tracker->method->ops ? tracker->method->ops->name : "scan";
}

const char *tracker_method_reason(const struct tracker *tracker)
{
	return tracker->method->reason;
}

/* The device of that gendisk if a slot uses it, or a free one. */
static int device_of(const struct method *method, uint32_t kernel_dev, unsigned *ret_device)
{
	bool used[CAPTURE_DEVICES] = { false };
	const struct capture_note *notes = method->registry->notes;

	for (unsigned slot = 0; slot < CAPTURE_SLOTS; slot++) {
		if (!notes[slot].used || notes[slot].device >= CAPTURE_DEVICES)
			continue;
		if (notes[slot].kernel_dev == kernel_dev) {
			*ret_device = notes[slot].device;
			return 0;
		}
		used[notes[slot].device] = true;
	}
	for (unsigned device = 0; device < CAPTURE_DEVICES; device++) {
		if (!used[device]) {
			*ret_device = device;
			return 0;
		}
	}
	return -ENOSPC;
}

static void slot_release(struct method *method, unsigned slot)
{
	struct capture_note *note = &method->registry->notes[slot];
	uint32_t kernel_dev = note->kernel_dev;
	unsigned device = note->device;

	publish(&note->used, 0);
	unchain(method, device, slot);
	if (device < CAPTURE_DEVICES && !method->devices[device].first)
		method->ops->device_drop(method, kernel_dev);
}

/* Slots of earlier processes that were where this disk is, or that nobody wants: also a second one
 * of the same disk, left by who died while it grew, in which no loss would be noted. */
static void slots_evict(struct tracker *tracker, const struct tracker_disk *added)
{
	struct method *method = tracker->method;
	const struct disk *disk = &added->disk;
	uint32_t kernel_dev = kernel_dev_of(disk->gendisk_dev);

	for (unsigned slot = 0; slot < CAPTURE_SLOTS; slot++) {
		const struct capture_note *note = &method->registry->notes[slot];
		bool ours = added->resumed && added->slot == slot;
		for (unsigned i = 0; i < TRACKER_DISKS_MAX; i++)
			ours |= tracker->disks[i] && tracker->disks[i]->slot == slot;
		if (!note->used || ours || note->kernel_dev != kernel_dev)
			continue;
		if (note->sequence == disk->sequence && note->offset_bytes != disk->offset_bytes)
			continue;
		uint8_t *map = NULL;
		uint64_t map_bytes = 0;
		slot_release(method, slot);
		method->ops->map_close(method, slot, map_bytes, map, true);
	}
}

static int slot_free(const struct method *method, unsigned *ret_slot)
{
	for (unsigned slot = 0; slot < CAPTURE_SLOTS; slot++) {
		unsigned device;
		if (!method->registry->notes[slot].used && !chained(method, slot, &device)) {
			*ret_slot = slot;
			return 0;
		}
	}
	return -ENOSPC;
}

/* Makes a slot for `disk->disk` and chains it; the note is still unused. */
static int slot_make(struct tracker_disk *disk, unsigned shift)
{
	struct method *method = disk->tracker->method;
	const struct disk *d = &disk->disk;
	uint32_t kernel_dev = kernel_dev_of(d->gendisk_dev);
	unsigned slot = 0, device = 0;

	int r = slot_free(method, &slot);
	if (r == 0)
		r = device_of(method, kernel_dev, &device);
	if (r < 0)
		return r;
	struct marks marks;
	marks_plan(d->bytes, shift, &marks);
	r = method->ops->map_make(method, slot, marks.map_bytes, &marks.map);
	if (r < 0)
		return r;
	method->slots[slot] = (struct capture_slot){
		.next = method->devices[device].first,
		.shift = shift - 9,
		.first_sector = d->offset_bytes / SECTOR_BYTES,
		.sectors = d->bytes / SECTOR_BYTES,
		.level1 = marks.level1,
		.level2 = marks.level2,
	};
	method->devices[device].flags = d->bio_based ? CAPTURE_BIO_BASED : 0;
	publish(&method->devices[device].first, slot + 1);
	r = method->ops->device_put(method, kernel_dev, device);
	if (r < 0) {
		unchain(method, device, slot);
		method->ops->map_close(method, slot, marks.map_bytes, marks.map, true);
		return r;
	}
	disk->marks = marks;
	disk->slot = slot;
	struct capture_note *note = &method->registry->notes[slot];
	*note = (struct capture_note){
		.device = device,
		.kernel_dev = kernel_dev,
		.offset_bytes = d->offset_bytes,
		.bytes = d->bytes,
		.sequence = d->sequence,
		.idle_excess = TRACKER_EXCESS_UNKNOWN,
	};
	snprintf(note->identity, sizeof(note->identity), "%s", d->identity);
	return 0;
}

/* Looks for the slot that an earlier process made for the very same disk. */
static bool slot_find(struct tracker_disk *disk)
{
	struct method *method = disk->tracker->method;
	const struct disk *d = &disk->disk;

	for (unsigned slot = 0; slot < CAPTURE_SLOTS; slot++) {
		const struct capture_note *note = &method->registry->notes[slot];
		if (!note->used || note->kernel_dev != kernel_dev_of(d->gendisk_dev) ||
			note->offset_bytes != d->offset_bytes || note->bytes > d->bytes ||
			note->sequence != d->sequence || note->distrust ||
			strncmp(note->identity, d->identity, sizeof(note->identity)) != 0)
			continue;
		struct marks marks;
		marks_plan(note->bytes, method->slots[slot].shift + 9, &marks);
		if (method->ops->map_find(method, slot, marks.map_bytes, &marks.map) < 0)
			continue;
		disk->marks = marks;
		disk->slot = slot;
		return true;
	}
	return false;
}

static uint64_t memory_left(const struct tracker *tracker)
{
	uint64_t used = 0;
	for (unsigned i = 0; i < TRACKER_DISKS_MAX; i++)
		used += tracker->disks[i] ? tracker->disks[i]->marks.map_bytes : 0;
	return tracker->memory_bytes > used ? tracker->memory_bytes - used : 0;
}

static int stat_open(const struct disk *disk, const char *name)
{
	char path[96];
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(disk->gendisk_dev),
		minor(disk->gendisk_dev), name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Blocks as fine as the memory allows, but no coarser than 1 MiB for want of it: a write costs a
 * block on the wire. */
static unsigned choose_shift(const struct tracker *tracker, uint64_t bytes)
{
	uint64_t memory = MAX(MIN(memory_left(tracker) / 2, DISK_MEMORY), 64 * KIB);
	unsigned wanted = marks_shift_for(bytes, memory);
	unsigned coarse = MAX(COARSE_SHIFT, marks_shift_for(bytes, LARGE_DISK_MEMORY));
	return MIN(wanted, coarse);
}

static int begin_marking(struct tracker_disk *disk, struct error *error)
{
	struct tracker *tracker = disk->tracker;
	struct method *method = tracker->method;

	if (slot_find(disk)) {
		struct tracker_trust trust;
		marks_unland(&disk->marks); /* the earlier process may have died about to */
		disk->resumed =
			tracker_check(disk, 200, &trust) == 0 && trust.verdict != TRACKER_LOST;
		if (disk->resumed) {
			marks_untake(&disk->marks);
			slots_evict(tracker, disk);
			return 0;
		}
		method->ops->map_close(
			method, disk->slot, disk->marks.map_bytes, disk->marks.map, false);
		disk->marks.map = NULL;
	}
	slots_evict(tracker, disk);
	int r = slot_make(disk, choose_shift(tracker, disk->disk.bytes));
	if (r < 0)
		return error_set(error, r, NULL, "disk %s: marking its writes cannot begin",
			disk->disk.name);
	r = tracker_trust_again(disk, error);
	if (r == 0)
		publish(&method->registry->notes[disk->slot].used, 1);
	return r;
}

static int refuse(const struct tracker *tracker, const struct disk *disk, struct error *error)
{
	if (disk->dax && tracker->method->ops)
		return error_set(error, -EOPNOTSUPP, "mount it without DAX, or exclude it",
			"disk %s: its writes bypass the block layer (DAX)", disk->name);
	if (disk->zoned && tracker->method->ops)
		return error_set(error, -EOPNOTSUPP, "exclude it",
			"disk %s is written in zones, which cannot be followed", disk->name);
	if (disk->bio_based && tracker->method->ops && !tracker->method->ops->bio_based)
		return error_set(error, -EOPNOTSUPP, "name the disks it rests on instead",
			"disk %s: the ends of its writes cannot be followed by %s", disk->name,
			tracker->method->ops->name);
	for (unsigned i = 0; i < TRACKER_DISKS_MAX; i++) {
		if (tracker->disks[i] && tracker->disks[i]->disk.dev == disk->dev)
			return error_set(
				error, -EEXIST, NULL, "disk %s is tracked already", disk->name);
	}
	return 0;
}

int tracker_add(struct tracker *tracker, const struct disk *disk, struct tracker_disk **ret_disk,
	struct error *error)
{
	unsigned at = 0;
	int r = refuse(tracker, disk, error);
	if (r < 0)
		return r;
	while (at < TRACKER_DISKS_MAX && tracker->disks[at])
		at++;
	if (at == TRACKER_DISKS_MAX)
		return error_set(error, -ENOSPC, "exclude disks", "disk %s: %u disks are tracked",
			disk->name, TRACKER_DISKS_MAX);
	struct tracker_disk *added = calloc(1, sizeof(*added));
	if (!added)
		return error_set(error, -ENOMEM, NULL, "disk %s: no memory", disk->name);
	added->tracker = tracker;
	added->disk = *disk;
	added->stat_fd = stat_open(disk, "stat");
	added->inflight_fd = stat_open(disk, "inflight");
	marks_plan(disk->bytes, marks_shift_for(disk->bytes, DISK_MEMORY), &added->marks);
	if (tracker->method->ops) {
		r = begin_marking(added, error);
		if (r < 0) {
			if (added->marks.map)
				slot_release(tracker->method, added->slot);
			disk_free(added, true);
			return r;
		}
	}
	tracker->disks[at] = added;
	if (added->resumed && added->marks.disk_bytes < disk->bytes) {
		r = tracker_grow(added, disk->bytes, error);
		if (r < 0) {
			tracker_remove(added);
			return r;
		}
	}
	*ret_disk = added;
	return 0;
}

void tracker_remove(struct tracker_disk *disk)
{
	if (!disk)
		return;
	struct tracker *tracker = disk->tracker;
	for (unsigned i = 0; i < TRACKER_DISKS_MAX; i++) {
		if (tracker->disks[i] == disk)
			tracker->disks[i] = NULL;
	}
	if (tracker->method->ops)
		slot_release(tracker->method, disk->slot);
	disk_free(disk, true);
}

bool tracker_was_resumed(const struct tracker_disk *disk)
{
	return disk->resumed;
}

int tracker_grow(struct tracker_disk *disk, uint64_t bytes, struct error *error)
{
	struct method *method = disk->tracker->method;
	uint64_t before = disk->marks.disk_bytes;
	if (bytes < before)
		return error_set(error, -EINVAL, "remove the disk and add it again",
			"disk %s has become smaller", disk->disk.name);
	if (bytes == before)
		return 0;
	struct tracker_disk old = *disk;
	disk->disk.bytes = bytes;
	if (!method->ops) {
		marks_plan(bytes, disk->marks.shift, &disk->marks);
		return 0;
	}
	int r = slot_make(disk, old.marks.shift);
	if (r < 0) {
		*disk = old;
		return error_set(error, r, NULL, "disk %s: no room for the marks of a larger disk",
			disk->disk.name);
	}
	struct capture_note *note = &method->registry->notes[disk->slot];
	const struct capture_note *from = &method->registry->notes[old.slot];
	note->distrust = from->distrust;
	note->base_seen = from->base_seen;
	note->base_other = from->base_other;
	note->base_opaque = from->base_opaque;
	note->base_overflow = from->base_overflow;
	note->base_counted = from->base_counted;
	note->base_missed = from->base_missed;
	note->idle_excess = from->idle_excess;
	note->run = from->run;
	note->late = from->late;
	marks_set(&disk->marks, before, bytes - before);
	/* Both slots are marked in; what the first has goes over, and once more what it got
	 * before it was unchained. Taken blocks come back as written: too many, never too few. */
	marks_merge(&old.marks, &disk->marks);
	publish(&note->used, 1);
	slot_release(method, old.slot);
	marks_merge(&old.marks, &disk->marks);
	method->ops->map_close(method, old.slot, old.marks.map_bytes, old.marks.map, true);
	return 0;
}

uint64_t tracker_block_bytes(const struct tracker_disk *disk)
{
	return 1ull << disk->marks.shift;
}

/* Brings in what a method has seen and not marked yet. */
static void settle(struct method *method)
{
	if (method->ops->settle)
		method->ops->settle(method);
}

int tracker_take(struct tracker_disk *disk, uint64_t pass, uint64_t offset, size_t capacity,
	struct tracker_range *ret_ranges, size_t *ret_count, uint64_t *ret_next)
{
	struct method *method = disk->tracker->method;
	if (!method->ops)
		return -EOPNOTSUPP;
	settle(method);
	marks_take(&disk->marks, pass, offset, capacity, ret_ranges, ret_count, ret_next);
	return 0;
}

void tracker_settle(struct tracker_disk *disk, uint64_t pass, uint64_t offset, uint64_t length)
{
	if (disk->marks.map)
		marks_settle(&disk->marks, pass, offset, length);
}

void tracker_put_back(struct tracker_disk *disk, uint64_t offset, uint64_t length)
{
	if (disk->marks.map)
		marks_set(&disk->marks, offset, length);
}

uint64_t tracker_dirty_bytes(const struct tracker_disk *disk)
{
	if (!disk->marks.map)
		return disk->marks.disk_bytes;
	settle(disk->tracker->method);
	return marks_dirty_bytes(&disk->marks);
}

bool tracker_is_dirty(const struct tracker_disk *disk, uint64_t offset, uint64_t length)
{
	if (!disk->marks.map)
		return true;
	settle(disk->tracker->method);
	return marks_is_dirty(&disk->marks, offset, length);
}

bool tracker_is_unsure(const struct tracker_disk *disk, uint64_t offset, uint64_t length)
{
	return disk->marks.map && marks_is_unsure(&disk->marks, offset, length);
}

int tracker_cost(const struct tracker *tracker, struct tracker_cost *ret_cost)
{
	if (!tracker->method->ops || !tracker->method->ops->cost)
		return -EOPNOTSUPP;
	return tracker->method->ops->cost(tracker->method, ret_cost);
}
