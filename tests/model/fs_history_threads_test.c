/*
 * The history and its committer under many threads at once, on real files: writers, readers,
 * sealers, views, a flusher into an in-memory vault, trimming, upkeep, disks that come and go.
 *
 * Each block has one writer, whose operations are numbered and logged before they are made; a
 * block tells its place and the operation that wrote it. So what may be read is known:
 *  - the head: what an operation left that had returned before the read, or a later one that had
 *    begun before the read was over;
 *  - a recovery point: of every writer exactly what its first m operations left, for some m
 *    between those that had returned when the seal was asked for and those begun when it returned;
 *    and the same whenever it is looked at again, from the journal or from the vault;
 *  - after a restart: every operation, and every point as before.
 *
 * Usage: fs_history_threads_test [seconds [seed]]
 */
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/rng.h"
#include "fs/committer.h"

#define BLOCK_BYTES 4096u
#define BLOCK_SECTORS (BLOCK_BYTES / SECTOR_BYTES)
#define WRITERS 4u
#define DISKS 2u
#define BLOCKS 1024u /* of a disk */
#define OWNED (BLOCKS * DISKS / WRITERS)
#define MAX_RUN 16u
#define MAX_OPS (1u << 18) /* of a writer */
#define MAX_POINTS 4096u
#define READERS 2u
#define VIEWERS 2u
#define LIMIT_BYTES (48 * MIB)
#define SEGMENT_BYTES (1 * MIB)

/* Blocks are numbered over both disks; 0 in an image: zeros, else the operation's number. */
struct image {
	uint32_t op[DISKS * BLOCKS];
};

struct op {
	uint32_t first; /* block */
	uint16_t count;
	bool zero;
};

struct writer {
	struct world *world;
	unsigned number;
	struct op *ops;             /* [0] is unused */
	_Atomic uint32_t attempted; /* operations begun, */
	_Atomic uint32_t returned;  /* and those whose call has returned */
};

struct sealed_point {
	_Atomic(struct image *) image; /* NULL: not known (yet) */
	atomic_bool in_vault;          /* the vault serves it */
};

struct world {
	struct base base;
	char directory[64];
	struct history *history;
	struct committer *committer;
	uint16_t disks[DISKS];
	struct writer writers[WRITERS];
	_Atomic uint32_t staged[DISKS * BLOCKS]; /* last operation on the block that returned */
	struct sealed_point points[MAX_POINTS];
	_Atomic uint64_t newest; /* point with a known image */
	atomic_bool stopping, failed;
	atomic_uint reads, looks, trims, flushes;
	uint64_t seed;
};

static void fail(struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fail(struct world *w, const char *format, ...)
{
	char text[256];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fprintf(stderr, "%s (seed %" PRIu64 ")\n", text, w->seed);
	atomic_store(&w->failed, true);
	atomic_store(&w->stopping, true);
}

static bool goes_on(struct world *w)
{
	return !atomic_load(&w->stopping);
}

/* ── contents ────────────────────────────────────────────────────────────────────────────── */

static uint64_t word(uint32_t block, uint32_t op, unsigned i)
{
	return ((uint64_t)block << 32 | op) * 0x9e3779b97f4a7c15ull + i;
}

static void fill_block(uint8_t *data, uint32_t block, uint32_t op)
{
	uint64_t *words = (uint64_t *)data;
	for (unsigned i = 0; i < BLOCK_BYTES / 8; i++)
		words[i] = op ? word(block, op, i) : 0;
	if (op)
		words[0] = (uint64_t)block << 32 | op;
}

/* The operation that wrote the block; false if it is not one whole block of that number. */
static bool parse_block(const uint8_t *data, uint32_t block, uint32_t *ret_op)
{
	const uint64_t *words = (const uint64_t *)data;
	uint32_t op = (uint32_t)words[0];
	if (words[0] != (op ? (uint64_t)block << 32 | op : 0))
		return false;
	for (unsigned i = 1; i < BLOCK_BYTES / 8; i++)
		if (words[i] != (op ? word(block, op, i) : 0))
			return false;
	*ret_op = op;
	return true;
}

static struct writer *owner_of(struct world *w, uint32_t block)
{
	return &w->writers[block / OWNED];
}

static bool touches(const struct op *op, uint32_t block)
{
	return block >= op->first && block < op->first + op->count;
}

/* ── the vault ───────────────────────────────────────────────────────────────────────────── */

static int vault_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct world *w = CONTAINER_OF(base, struct world, base);
	if (point >= MAX_POINTS || !atomic_load(&w->points[point].in_vault))
		return -ENOENT;
	const struct image *image = atomic_load(&w->points[point].image);
	unsigned d = 0;
	while (d < DISKS && w->disks[d] != disk)
		d++;
	memset(data, 0, n);
	if (d == DISKS)
		return 0; /* the clerk's disks are zeros */
	for (uint64_t at = offset; at < offset + n;) {
		uint8_t whole[BLOCK_BYTES];
		uint32_t block = d * BLOCKS + (uint32_t)(at / BLOCK_BYTES);
		size_t inside = at % BLOCK_BYTES;
		size_t part = MIN(BLOCK_BYTES - inside, (size_t)(offset + n - at));
		fill_block(whole, block, image->op[block]);
		memcpy((uint8_t *)data + (at - offset), whole + inside, part);
		at += part;
	}
	return 0;
}

/* ── writers ─────────────────────────────────────────────────────────────────────────────── */

static int do_op(
	struct world *w, const struct op *op, uint32_t number, uint8_t *data, uint64_t *ret_lsn)
{
	uint16_t disk = w->disks[op->first / BLOCKS];
	uint64_t lba = (uint64_t)(op->first % BLOCKS) * BLOCK_SECTORS;
	uint64_t sectors = (uint64_t)op->count * BLOCK_SECTORS;
	if (op->zero)
		return committer_zero(w->committer, disk, lba, sectors, ret_lsn);
	for (uint32_t i = 0; i < op->count; i++)
		fill_block(data + (size_t)i * BLOCK_BYTES, op->first + i, number);
	return committer_write(w->committer, disk, lba, sectors, data, ret_lsn);
}

static void *writer_main(void *argument)
{
	struct writer *me = argument;
	struct world *w = me->world;
	struct rng rng;
	CLEANUP_FREE uint8_t *data = malloc(MAX_RUN * BLOCK_BYTES);
	rng_seed(&rng, w->seed * 100 + me->number);
	for (uint32_t number = 1; number < MAX_OPS && goes_on(w); number++) {
		struct op *op = &me->ops[number];
		op->count = (uint16_t)(1 + rng_below(&rng, rng_below(&rng, 4) ? 2 : MAX_RUN));
		op->first = me->number * OWNED + (uint32_t)rng_below(&rng, OWNED - op->count + 1);
		op->zero = rng_below(&rng, 8) == 0;
		atomic_store(&me->attempted, number);
		uint64_t lsn = 0;
		int r;
		while ((r = do_op(w, op, number, data, &lsn)) == -ENOSPC && goes_on(w))
			usleep(1000); /* until it is trimmed */
		if (r == -ENOSPC) {
			atomic_store(&me->attempted, number - 1);
			break;
		}
		for (uint32_t i = 0; i < op->count; i++)
			atomic_store(&w->staged[op->first + i], number);
		atomic_store(&me->returned, number);
		if (r == 0 && rng_below(&rng, 4) == 0) {
			r = rng_below(&rng, 8) ? committer_wait(w->committer, lsn)
					       : committer_sync(w->committer);
			if (r == 0 && history_durable_lsn(w->history) < lsn)
				r = -EPROTO;
		}
		if (r < 0)
			fail(w, "writer %u: %s", me->number, strerrordesc_np(-r));
	}
	return NULL;
}

/* ── readers of the head ─────────────────────────────────────────────────────────────────── */

/* True if an operation in [low, high] may have left the block so. */
static bool may_hold(struct world *w, uint32_t block, uint32_t op, uint32_t low, uint32_t high)
{
	const struct writer *owner = owner_of(w, block);
	if (low == 0 && op == 0)
		return true;
	for (uint32_t i = MAX(low, 1u); i <= high; i++)
		if (touches(&owner->ops[i], block) && (owner->ops[i].zero ? 0 : i) == op)
			return true;
	return false;
}

static void *reader_main(void *argument)
{
	struct world *w = argument;
	struct rng rng;
	CLEANUP_FREE uint8_t *data = malloc(2 * MAX_RUN * BLOCK_BYTES);
	rng_seed(&rng, w->seed * 100 + 50 + atomic_fetch_add(&w->reads, 1));
	while (goes_on(w)) {
		uint32_t low[2 * MAX_RUN], high[WRITERS];
		uint32_t count = 1 + (uint32_t)rng_below(&rng, 2 * MAX_RUN);
		uint32_t disk = (uint32_t)rng_below(&rng, DISKS);
		uint32_t first = disk * BLOCKS + (uint32_t)rng_below(&rng, BLOCKS - count + 1);
		for (uint32_t i = 0; i < count; i++)
			low[i] = atomic_load(&w->staged[first + i]);
		int r = history_read(w->history, w->disks[disk],
			(uint64_t)(first % BLOCKS) * BLOCK_SECTORS, count * BLOCK_SECTORS, data);
		if (r < 0) {
			fail(w, "reading block %u: %s", first, strerrordesc_np(-r));
			break;
		}
		for (unsigned i = 0; i < WRITERS; i++)
			high[i] = atomic_load(&w->writers[i].attempted);
		for (uint32_t i = 0; i < count; i++) {
			uint32_t op = 0, block = first + i;
			if (!parse_block(data + (size_t)i * BLOCK_BYTES, block, &op))
				fail(w, "the head's block %u is torn or foreign", block);
			else if (!may_hold(w, block, op, low[i], high[block / OWNED]))
				fail(w, "the head's block %u: operation %u, not %u to %u", block,
					op, low[i], high[block / OWNED]);
		}
		atomic_fetch_add(&w->reads, 1);
	}
	return NULL;
}

/* ── points ──────────────────────────────────────────────────────────────────────────────── */

static int read_image(struct world *w, struct view *view, struct image *ret_image)
{
	CLEANUP_FREE uint8_t *data = malloc(64 * BLOCK_BYTES);
	for (uint32_t block = 0; block < DISKS * BLOCKS; block += 64) {
		int r = view_read(view, w->disks[block / BLOCKS],
			(uint64_t)(block % BLOCKS) * BLOCK_SECTORS, 64 * BLOCK_SECTORS, data);
		if (r < 0)
			return r;
		for (uint32_t i = 0; i < 64; i++)
			if (!parse_block(data + (size_t)i * BLOCK_BYTES, block + i,
				    &ret_image->op[block + i]))
				return -EILSEQ;
	}
	return 0;
}

static void apply_op(const struct writer *writer, uint32_t number, struct image *image)
{
	const struct op *op = &writer->ops[number];
	for (uint32_t i = 0; i < op->count; i++)
		image->op[op->first + i] = op->zero ? 0 : number;
}

/* True if the image shows what the first m operations of the writer left, low ≤ m ≤ high. */
static bool is_prefix(
	const struct writer *writer, const struct image *image, uint32_t low, uint32_t high)
{
	CLEANUP_FREE struct image *model = calloc(1, sizeof(*model));
	size_t from = (size_t)writer->number * OWNED;
	for (uint32_t m = 0; m <= high; m++) {
		if (m > 0)
			apply_op(writer, m, model);
		if (m >= low && memcmp(&model->op[from], &image->op[from],
					OWNED * sizeof(model->op[0])) == 0)
			return true;
	}
	return false;
}

/* Seals, looks at the point, and proves it. */
static void seal_one(struct world *w)
{
	uint32_t low[WRITERS], high[WRITERS];
	struct seal seal = { .time_ns = clock_realtime_ns(clock_system()), .kind = POINT_CRASH };
	uint64_t number = 0, lsn;
	for (unsigned i = 0; i < WRITERS; i++)
		low[i] = atomic_load(&w->writers[i].returned);
	int r = history_seal(w->history, &seal, &number, &lsn);
	for (unsigned i = 0; i < WRITERS; i++)
		high[i] = atomic_load(&w->writers[i].attempted);
	if (r == -EAGAIN)
		return;
	if (r == 0)
		r = committer_wait(w->committer, lsn);
	struct view *view = NULL;
	CLEANUP_FREE struct image *image = calloc(1, sizeof(*image));
	if (r == 0)
		r = history_view_open(w->history, number, &view);
	if (r == 0)
		r = read_image(w, view, image);
	view_close(view);
	if (r < 0) {
		fail(w, "point %" PRIu64 ": %s", number, strerrordesc_np(-r));
		return;
	}
	for (unsigned i = 0; i < WRITERS; i++)
		if (!is_prefix(&w->writers[i], image, low[i], high[i]))
			fail(w,
				"point %" PRIu64 ": writer %u's blocks are no state between its "
				"operations %u and %u",
				number, i, low[i], high[i]);
	atomic_store(&w->points[number].image, TAKE(image));
	atomic_store(&w->newest, number);
}

static void *sealer_main(void *argument)
{
	struct world *w = argument;
	while (goes_on(w) && atomic_load(&w->newest) < MAX_POINTS - 2) {
		seal_one(w);
		usleep(20000);
	}
	return NULL;
}

/* Opens a point and compares. `must`: it has to be there. */
static void look_at(struct world *w, uint64_t number, bool must)
{
	const struct image *want = atomic_load(&w->points[number].image);
	struct view *view = NULL;
	CLEANUP_FREE struct image *got = calloc(1, sizeof(*got));
	int r = history_view_open(w->history, number, &view);
	if (r == -ENOENT && !must)
		return;
	if (r == 0)
		r = read_image(w, view, got);
	view_close(view);
	if (r < 0)
		fail(w, "looking at point %" PRIu64 ": %s", number, strerrordesc_np(-r));
	else if (want && memcmp(want, got, sizeof(*got)) != 0)
		fail(w, "point %" PRIu64 " is not what it was", number);
	atomic_fetch_add(&w->looks, 1);
}

static void *viewer_main(void *argument)
{
	struct world *w = argument;
	struct rng rng;
	rng_seed(&rng, w->seed * 100 + 70 + atomic_fetch_add(&w->looks, 1));
	while (goes_on(w)) {
		struct point points[MAX_RUN];
		uint64_t newest = atomic_load(&w->newest);
		uint64_t from = newest > 0 ? 1 + rng_below(&rng, newest) : 1;
		unsigned n = history_points(w->history, from, points, MAX_RUN);
		if (n > 0)
			look_at(w, points[rng_below(&rng, n)].number, false);
		else
			usleep(1000);
	}
	return NULL;
}

/* ── flushing, trimming, and the clerk ───────────────────────────────────────────────────── */

/* Staging may ask for a commit first, as a writer may find. */
static int stage_flags(struct world *w, uint64_t number, uint32_t flags)
{
	uint64_t lsn;
	int r = history_point_drop(w->history, number, flags, &lsn);
	return r == 0 ? committer_wait(w->committer, lsn) : r;
}

static void flush_one(struct world *w, uint64_t number)
{
	uint64_t lsn;
	int r = history_flush_begin(w->history, number, &lsn);
	if (r == -EAGAIN)
		return;
	if (r == -ENOENT)
		return; /* trimmed meanwhile */
	if (r == 0)
		r = committer_wait(w->committer, lsn);
	if (r == 0) {
		atomic_store(&w->points[number].in_vault, true);
		r = history_flush_commit(w->history, number, &lsn);
	}
	if (r == -EAGAIN || r == -ENOENT)
		return;
	if (r == 0)
		r = committer_wait(w->committer, lsn);
	if (r < 0)
		fail(w, "flushing point %" PRIu64 ": %s", number, strerrordesc_np(-r));
	atomic_fetch_add(&w->flushes, 1);
}

static void *flusher_main(void *argument)
{
	struct world *w = argument;
	uint64_t kept[3] = { 0 };
	while (goes_on(w)) {
		uint64_t newest = atomic_load(&w->newest);
		if (newest > kept[0]) {
			flush_one(w, newest);
			uint64_t oldest = kept[2];
			int r = oldest ? stage_flags(w, oldest, POINT_VAULT) : 0;
			if (r == 0 && oldest)
				atomic_store(&w->points[oldest].in_vault, false);
			else if (r < 0 && r != -EBUSY && r != -EAGAIN && r != -ENOENT)
				fail(w, "dropping point %" PRIu64 ": %s", oldest,
					strerrordesc_np(-r));
			kept[2] = kept[1], kept[1] = kept[0], kept[0] = newest;
		}
		usleep(50000);
	}
	return NULL;
}

static void *trimmer_main(void *argument)
{
	struct world *w = argument;
	while (goes_on(w)) {
		uint64_t used;
		int r = history_trim(w->history, LIMIT_BYTES / 3, &used);
		if (r < 0 && r != -EAGAIN)
			fail(w, "trim: %s", strerrordesc_np(-r));
		atomic_fetch_add(&w->trims, 1);
		usleep(10000);
	}
	return NULL;
}

/* Disks come, grow and go, points are marked and listed, figures asked for. */
static void *clerk_main(void *argument)
{
	struct world *w = argument;
	CLEANUP_FREE struct point *points = calloc(MAX_POINTS, sizeof(*points));
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	uint8_t sector[SECTOR_BYTES] = { 1 };
	while (goes_on(w)) {
		struct history_stats stats;
		uint16_t disk;
		uint64_t lsn;
		int r = history_add_disk(w->history, "clerk/disk", MIB, &disk, &lsn);
		if (r == 0)
			r = committer_write(w->committer, disk, 7, 1, sector, &lsn);
		if (r == 0)
			r = history_grow_disk(w->history, disk, 2 * MIB, &lsn);
		if (r == 0)
			r = history_read(w->history, disk, 7, 1, sector);
		if (r == 0 && sector[0] != 1)
			fail(w, "the clerk's sector is lost");
		if (r != -E2BIG && r != -EEXIST && r != -EAGAIN && r != -ENOSPC && r < 0)
			fail(w, "the clerk: %s", strerrordesc_np(-r));
		unsigned count = history_disks(w->history, disks, HISTORY_MAX_DISKS);
		for (unsigned i = 0; i < count && i < HISTORY_MAX_DISKS; i++)
			if (!disks[i].removed && strcmp(disks[i].name, "clerk/disk") == 0)
				(void)history_remove_disk(w->history, disks[i].id, &lsn);
		unsigned n = history_points(w->history, 0, points, MAX_POINTS);
		for (unsigned i = 1; i < n; i++)
			if (points[i].number <= points[i - 1].number)
				fail(w, "points are out of order");
		if (n > 0)
			(void)history_point_mark(
				w->history, points[n - 1].number, POINT_VERIFIED, 0, &lsn);
		history_stats(w->history, &stats);
		if (stats.failed)
			fail(w, "the history failed");
		usleep(30000);
	}
	return NULL;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static bool open_world(struct world *w)
{
	struct history_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.base = &w->base,
		.directory = w->directory,
		.group = { { 3 } },
		.limit_bytes = LIMIT_BYTES,
		.segment_bytes = SEGMENT_BYTES,
	};
	struct history_report report;
	struct error error = { 0 };
	if (history_open(&options, &report, &error, &w->history) < 0) {
		fail(w, "opening: %s", error.message);
		return false;
	}
	if (report.faults > 0 || report.damaged_after > 0)
		fail(w, "opening found a fault: %s", report.first_fault);
	return true;
}

static bool add_disks(struct world *w)
{
	uint64_t lsn;
	for (unsigned i = 0; i < DISKS; i++) {
		char name[16];
		snprintf(name, sizeof(name), "web/%u", i);
		if (history_add_disk(w->history, name, (uint64_t)BLOCKS * BLOCK_BYTES, &w->disks[i],
			    &lsn) < 0)
			return false;
	}
	return history_commit(w->history, &lsn) == 0;
}

static void run_threads(struct world *w, unsigned seconds)
{
	void *(*const mains[])(void *) = { reader_main, reader_main, viewer_main, viewer_main,
		sealer_main, flusher_main, trimmer_main, clerk_main };
	pthread_t threads[WRITERS + ARRAY_SIZE(mains)];
	unsigned n = 0;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_create(&threads[n++], NULL, writer_main, &w->writers[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(mains); i++)
		pthread_create(&threads[n++], NULL, mains[i], w);
	for (unsigned i = 0; i < seconds * 100 && goes_on(w); i++)
		usleep(10000);
	atomic_store(&w->stopping, true);
	while (n > 0)
		pthread_join(threads[--n], NULL);
}

/* The head holds every operation. */
static void check_head(struct world *w)
{
	CLEANUP_FREE struct image *want = calloc(1, sizeof(*want));
	CLEANUP_FREE uint8_t *data = malloc(BLOCK_BYTES);
	for (unsigned i = 0; i < WRITERS; i++)
		for (uint32_t m = 1; m <= atomic_load(&w->writers[i].returned); m++)
			apply_op(&w->writers[i], m, want);
	for (uint32_t block = 0; block < DISKS * BLOCKS; block++) {
		uint32_t op = 0;
		int r = history_read(w->history, w->disks[block / BLOCKS],
			(uint64_t)(block % BLOCKS) * BLOCK_SECTORS, BLOCK_SECTORS, data);
		if (r < 0 || !parse_block(data, block, &op) || op != want->op[block]) {
			fail(w, "in the end block %u: %s, operation %u, not %u", block,
				strerrordesc_np(-r), op, want->op[block]);
			return;
		}
	}
}

static unsigned check_points(struct world *w)
{
	CLEANUP_FREE struct point *points = calloc(MAX_POINTS, sizeof(*points));
	unsigned n = history_points(w->history, 0, points, MAX_POINTS);
	for (unsigned i = 0; i < n && !atomic_load(&w->failed); i++)
		look_at(w, points[i].number, true);
	return n;
}

static void run(struct world *w, unsigned seconds)
{
	if (!open_world(w))
		return;
	if (!add_disks(w) || committer_new(w->history, NULL, &w->committer) < 0) {
		fail(w, "setting up");
	} else {
		run_threads(w, seconds);
		committer_free(w->committer);
	}
	if (!atomic_load(&w->failed))
		check_head(w);
	if (!atomic_load(&w->failed))
		check_points(w);
	history_close(w->history);
	unsigned points = 0;
	if (!atomic_load(&w->failed) && open_world(w)) {
		check_head(w);
		points = check_points(w);
		history_close(w->history);
	}
	uint64_t ops = 0;
	for (unsigned i = 0; i < WRITERS; i++)
		ops += atomic_load(&w->writers[i].returned);
	printf("%" PRIu64 " operations, %u reads, %" PRIu64
	       " points of which %u are left, %u looks, "
	       "%u flushes, %u trims\n",
		ops, atomic_load(&w->reads), atomic_load(&w->newest), points,
		atomic_load(&w->looks), atomic_load(&w->flushes), atomic_load(&w->trims));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

int main(int argc, char **argv)
{
	static const struct base_ops ops = { .read = vault_read };
	unsigned seconds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 6;
	struct world *w = calloc(1, sizeof(*w));
	w->base.ops = &ops;
	w->seed = argc > 2 ? strtoull(argv[2], NULL, 10)
			   : (uint64_t)clock_realtime_ns(clock_system()) % 1000000;
	printf("seed %" PRIu64 "\n", w->seed);
	fflush(stdout);
	strcpy(w->directory, "/tmp/landfall-threads-XXXXXX");
	if (!mkdtemp(w->directory)) {
		perror(w->directory);
		return 1;
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		w->writers[i].world = w;
		w->writers[i].number = i;
		w->writers[i].ops = calloc(MAX_OPS, sizeof(struct op));
	}
	run(w, seconds);
	int result = atomic_load(&w->failed);
	(void)nftw(w->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	for (unsigned i = 0; i < MAX_POINTS; i++)
		free(atomic_load(&w->points[i].image));
	for (unsigned i = 0; i < WRITERS; i++)
		free(w->writers[i].ops);
	free(w);
	return result;
}
