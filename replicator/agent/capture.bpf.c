/*
 * Marks what is written to block devices, where the kernel queues a write and where it completes
 * one. Built for the BPF machine, relocated to the running kernel's structures when it is loaded
 * (CO-RE): what is declared of them here is only what is used.
 *
 * Why both ends: a mark taken while its write is still under way would be lost without the one at
 * completion; the one at queueing makes a write known as early as can be, and stands in where a
 * completion is missed.
 *
 * Why completions are watched in two ways, at the tracepoint and at the entry of the functions that
 * complete requests: a tracepoint drops events while another tracer attaches or detaches (seen on
 * Linux 6.18), and from 6.1 on a program that is interrupted on a processor is left out for what
 * arrives there meanwhile. Each way counts its bytes; as long as one of them agrees with the
 * kernel's statistics, nothing was missed, and both mark.
 *
 * The oldest kernel to load this is 5.10: loops bounded by constants, no atomic operation that
 * returns a value, no program-wide state but in maps.
 */
#include "capture_format.h"

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define KERNEL_STRUCT __attribute__((preserve_access_index))

struct gendisk {
	int major;
	int first_minor;
} KERNEL_STRUCT;

struct block_device {
	struct gendisk *bd_disk;
} KERNEL_STRUCT;

struct bvec_iter {
	uint64_t bi_sector;
	unsigned int bi_size;
} KERNEL_STRUCT;

struct bio {
	struct bio *bi_next;
	struct block_device *bi_bdev;
	unsigned int bi_opf;
	struct bvec_iter bi_iter;
} KERNEL_STRUCT;

/* Until Linux 5.11 */
struct bio___old {
	struct gendisk *bi_disk;
} KERNEL_STRUCT;

struct request_queue {
	struct gendisk *disk;
} KERNEL_STRUCT;

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	uint64_t __sector;
	struct bio *bio;
} KERNEL_STRUCT;

/* Until Linux 5.16 */
struct request___old {
	struct gendisk *rq_disk;
} KERNEL_STRUCT;

enum { OP_MASK = 0xff, OP_DISCARD = 3, OP_PASSTHROUGH = 32 };
enum { FAN = 1 << CAPTURE_FAN_SHIFT, RUN_MAX = 2 * FAN, BIOS_MAX = 256 };

struct inflight {
	uint64_t sector;
	uint32_t bytes;
	uint32_t kernel_dev;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CAPTURE_INDEX);
	__type(key, uint32_t);
	__type(value, uint64_t);
} device_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CAPTURE_DEVICES);
	__type(key, uint32_t);
	__type(value, struct capture_device);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, CAPTURE_SLOTS);
	__type(key, uint32_t);
	__type(value, struct capture_slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, uint32_t);
	__type(value, struct capture_registry);
} registry SEC(".maps");

struct marks_page {
	uint8_t bytes[CAPTURE_PAGE_BYTES];
};

struct marks_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(uint32_t));
	__uint(value_size, sizeof(struct marks_page));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CAPTURE_SLOTS);
	__type(key, uint32_t);
	__array(values, struct marks_map);
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CAPTURE_INFLIGHT);
	__type(key, uint64_t); /* the bio's address */
	__type(value, struct inflight);
} inflight SEC(".maps");

/*
 * Functions that are not static are verified once, on their own, for any arguments: what keeps
 * the whole below the verifier's limits.
 */
int mark_run(uint32_t index, uint64_t first, uint64_t count);
int mark_slot(uint32_t index, uint64_t sector, uint64_t end);
int mark(uint32_t device_index, uint64_t sector, uint64_t bytes);

/* Marks `count` bytes of the slot's map from `first` on, at most RUN_MAX. */
__attribute__((noinline)) int mark_run(uint32_t index, uint64_t first, uint64_t count)
{
	void *map = bpf_map_lookup_elem(&marks, &index);

	if (!map)
		return 0;
	for (uint32_t i = 0; i < RUN_MAX; i++) {
		uint32_t page = (first + i) / CAPTURE_PAGE_BYTES;
		struct marks_page *p;

		if (i >= count)
			break;
		p = bpf_map_lookup_elem(map, &page);
		if (!p)
			break;
		p->bytes[(first + i) % CAPTURE_PAGE_BYTES] = 1;
	}
	return 0;
}

/* Marks the blocks from `a` up to, not including, `b`: single blocks at the ends, what is between
 * them in the higher levels. A bio has less than 4 GiB: at most 64 marks of level 2. */
static __always_inline void mark_blocks(
	uint32_t index, const struct capture_slot *slot, uint64_t a, uint64_t b)
{
	uint64_t level1 = slot->level1, level2 = slot->level2, c, d;

	if (b - a <= RUN_MAX) {
		mark_run(index, a, b - a);
		return;
	}
	c = (a + FAN - 1) >> CAPTURE_FAN_SHIFT;
	d = b >> CAPTURE_FAN_SHIFT;
	mark_run(index, a, (c << CAPTURE_FAN_SHIFT) - a);
	mark_run(index, d << CAPTURE_FAN_SHIFT, b - (d << CAPTURE_FAN_SHIFT));
	if (d - c <= RUN_MAX) {
		mark_run(index, level1 + c, d - c);
		return;
	}
	a = (c + FAN - 1) >> CAPTURE_FAN_SHIFT;
	b = d >> CAPTURE_FAN_SHIFT;
	mark_run(index, level1 + c, (a << CAPTURE_FAN_SHIFT) - c);
	mark_run(index, level1 + (b << CAPTURE_FAN_SHIFT), d - (b << CAPTURE_FAN_SHIFT));
	mark_run(index, level2 + a, b - a);
}

__attribute__((noinline)) int mark_slot(uint32_t index, uint64_t sector, uint64_t end)
{
	struct capture_slot *slot = bpf_map_lookup_elem(&slots, &index);
	uint64_t first;
	uint32_t shift;

	if (!slot)
		return 0;
	first = slot->first_sector;
	if (end <= first || sector >= first + slot->sectors)
		return 0;
	sector = sector > first ? sector - first : 0;
	end -= first;
	if (end > slot->sectors)
		end = slot->sectors;
	shift = slot->shift & 31;
	mark_blocks(index, slot, sector >> shift, ((end - 1) >> shift) + 1);
	return 0;
}

/* Marks a write to the gendisk in all its slots. */
__attribute__((noinline)) int mark(uint32_t device_index, uint64_t sector, uint64_t bytes)
{
	struct capture_device *device = bpf_map_lookup_elem(&devices, &device_index);
	uint32_t next = device ? device->first : 0;

	for (unsigned i = 0; i < CAPTURE_SLOTS_A_DEVICE && next; i++) {
		uint32_t index = next - 1;
		struct capture_slot *slot = bpf_map_lookup_elem(&slots, &index);

		if (!slot)
			break;
		mark_slot(index, sector, sector + ((bytes + 511) >> 9));
		next = slot->next;
	}
	return 0;
}

static __always_inline struct capture_device *device_find(uint32_t kernel_dev, uint32_t *ret_index)
{
	for (uint32_t probe = 0; probe < CAPTURE_PROBES; probe++) {
		uint32_t at = capture_index_of(kernel_dev, probe), index;
		uint64_t *entry = bpf_map_lookup_elem(&device_of, &at), value;

		if (!entry || !(value = *entry))
			return 0;
		index = (uint32_t)value - 1;
		if (value >> 32 != kernel_dev || index >= CAPTURE_DEVICES)
			continue;
		*ret_index = index;
		return bpf_map_lookup_elem(&devices, &index);
	}
	return 0;
}

static __always_inline struct capture_counters *counters(struct capture_device *device)
{
	return &device->stripes[bpf_get_smp_processor_id() & (CAPTURE_STRIPES - 1)];
}

static __always_inline uint32_t disk_number(struct gendisk *disk)
{
	return ((uint32_t)disk->major << 20) | (uint32_t)disk->first_minor;
}

static __always_inline uint32_t bio_disk_number(struct bio *bio)
{
	if (bpf_core_field_exists(((struct bio___old *)0)->bi_disk))
		return disk_number(((struct bio___old *)bio)->bi_disk);
	return disk_number(bio->bi_bdev->bd_disk);
}

static __always_inline uint32_t request_disk_number(struct request *rq)
{
	if (bpf_core_field_exists(((struct request___old *)0)->rq_disk))
		return disk_number(((struct request___old *)rq)->rq_disk);
	return disk_number(rq->q->disk);
}

static __always_inline int queued(struct bio *bio)
{
	uint32_t op = bio->bi_opf & OP_MASK;
	uint32_t bytes = bio->bi_iter.bi_size;
	uint32_t kernel_dev, index;
	struct capture_device *device;

	if (!(op & 1))
		return 0;
	kernel_dev = bio_disk_number(bio);
	device = device_find(kernel_dev, &index);
	if (!device)
		return 0;
	if (bytes == 0) {
		if (op > 1) /* a zone is reset: no range is told */
			__sync_fetch_and_add(&counters(device)->opaque, 1);
		return 0;
	}
	/* In this order: as long as the sum stays the same, no mark of a new write appears. */
	__sync_fetch_and_add(&counters(device)->queued_bytes, bytes);
	mark(index, bio->bi_iter.bi_sector, bytes);
	if (device->flags & CAPTURE_BIO_BASED) {
		uint64_t key = (uint64_t)bio;
		struct inflight value = {
			.sector = bio->bi_iter.bi_sector,
			.bytes = bytes,
			.kernel_dev = kernel_dev,
		};
		if (bpf_map_update_elem(&inflight, &key, &value, BPF_ANY))
			__sync_fetch_and_add(&counters(device)->overflow, 1);
	}
	return 0;
}

SEC("tp_btf/block_bio_queue")
int bio_queue(uint64_t *ctx)
{
	return queued((struct bio *)ctx[0]);
}

/* Until Linux 5.10 the queue came first. */
SEC("tp_btf/block_bio_queue")
int bio_queue_old(uint64_t *ctx)
{
	return queued((struct bio *)ctx[1]);
}

/* Ranges of a discard that the block layer merged from several need not touch. */
static __always_inline void mark_discards(
	struct request *rq, struct capture_device *device, uint32_t index)
{
	struct bio *bio = rq->bio;

	for (unsigned i = 0; i < BIOS_MAX && bio; i++) {
		mark(index, bio->bi_iter.bi_sector, bio->bi_iter.bi_size);
		bio = bio->bi_next;
	}
	if (bio)
		__sync_fetch_and_add(&counters(device)->overflow, 1);
}

static __always_inline int completed(struct request *rq, uint32_t bytes, int other)
{
	uint32_t op = rq->cmd_flags & OP_MASK, index;
	struct capture_device *device;

	if (!(op & 1))
		return 0;
	device = device_find(request_disk_number(rq), &index);
	if (!device)
		return 0;
	if (op >= OP_PASSTHROUGH) {
		__sync_fetch_and_add(&counters(device)->opaque, 1);
		return 0;
	}
	if (bytes == 0)
		return 0;
	if (op == OP_DISCARD)
		mark_discards(rq, device, index);
	mark(index, rq->__sector, bytes);
	if (other)
		__sync_fetch_and_add(&counters(device)->other_bytes, bytes);
	else
		__sync_fetch_and_add(&counters(device)->seen_bytes, bytes);
	return 0;
}

SEC("tp_btf/block_rq_complete")
int rq_complete(uint64_t *ctx)
{
	return completed((struct request *)ctx[0], (uint32_t)ctx[2], 0);
}

/* The function that has the tracepoint; all but requests that complete in batches. */
SEC("fentry/blk_update_request")
int update_request(uint64_t *ctx)
{
	return completed((struct request *)ctx[0], (uint32_t)ctx[2], 1);
}

/* Those of batches end their bios whole, where blk_update_request has them moved on to their end
 * before. */
SEC("fentry/bio_endio")
int end_bio(uint64_t *ctx)
{
	struct bio *bio = (struct bio *)ctx[0];
	uint32_t bytes = bio->bi_iter.bi_size, op = bio->bi_opf & OP_MASK, index;
	struct capture_device *device;

	if (bytes == 0 || !(op & 1) || op >= OP_PASSTHROUGH)
		return 0;
	device = device_find(bio_disk_number(bio), &index);
	if (!device || device->flags & CAPTURE_BIO_BASED)
		return 0;
	mark(index, bio->bi_iter.bi_sector, bytes);
	__sync_fetch_and_add(&counters(device)->other_bytes, bytes);
	return 0;
}

/* The end of a write on a device without a request queue. By now the bio has been moved on and
 * says no more where it began: that was noted when it was queued. Whichever program comes first
 * takes the note away. */
static __always_inline int bio_completed(uint64_t key)
{
	struct inflight *found = bpf_map_lookup_elem(&inflight, &key);
	struct capture_device *device;
	struct inflight value;
	uint32_t index;

	if (!found)
		return 0;
	value = *found;
	if (bpf_map_delete_elem(&inflight, &key))
		return 0;
	device = device_find(value.kernel_dev, &index);
	if (!device)
		return 0;
	mark(index, value.sector, value.bytes);
	__sync_fetch_and_add(&counters(device)->seen_bytes, value.bytes);
	return 0;
}

SEC("tp_btf/block_bio_complete")
int bio_complete(uint64_t *ctx)
{
	return bio_completed(ctx[1]);
}

SEC("tp_btf/block_bio_complete")
int bio_complete_again(uint64_t *ctx)
{
	return bio_completed(ctx[1]);
}

char LICENSE[] SEC("license") = "GPL";
