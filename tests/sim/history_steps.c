/*
 * The steps of a simulated life: each does one thing to the history and to its model.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/sim/history_run.h"

static uint64_t below(struct run *run, uint64_t limit)
{
	return rng_below(&run->rng, limit);
}

/* A disk that is not removed, by chance; NULL if there is none. */
static struct model_disk *any_disk(struct run *run)
{
	struct model_state *live = &run->model.live;
	unsigned start = live->disk_count ? (unsigned)below(run, live->disk_count) : 0;
	for (unsigned i = 0; i < live->disk_count; i++) {
		struct model_disk *d = &live->disks[(start + i) % live->disk_count];
		if (!d->disk.removed)
			return d;
	}
	return NULL;
}

/* What a staging call gave is taken into the model. */
static int staged(struct run *run, int r, struct model_op *op, const char *what)
{
	run->totals->steps++;
	if (r < 0)
		return run_dead(run, r, what);
	if (op->lsn < run->last_lsn || op->lsn != history_staged_lsn(run->history))
		run_fail(run, "%s: lsn %" PRIu64 " after %" PRIu64 ", staged %" PRIu64, what,
			op->lsn, run->last_lsn, history_staged_lsn(run->history));
	run->last_lsn = op->lsn;
	model_stage(&run->model, op);
	run_trace(run,
		"%s: lsn %" PRIu64 " disk %u lba %" PRIu64 "+%" PRIu64 " tag %" PRIu64
		" number %" PRIu64 " size %" PRIu64,
		what, op->lsn, op->disk, op->lba, op->sectors, op->tag, op->number,
		op->added.size_bytes);
	return 0;
}

int step_add_disk(struct run *run, uint32_t sectors)
{
	struct model_state *live = &run->model.live;
	if (live->disk_count == MODEL_DISKS)
		return 0;
	struct model_op op = { .kind = MODEL_ADD_DISK };
	op.added.size_bytes =
		run->whole_mib ? (1 + sectors % 2) * MIB : (uint64_t)sectors * SECTOR_BYTES;
	snprintf(op.added.name, sizeof(op.added.name), "machine/disk%u", live->disk_count);
	int r = history_add_disk(
		run->history, op.added.name, op.added.size_bytes, &op.added.id, &op.lsn);
	r = staged(run, r, &op, "add_disk");
	if (r < 0)
		return r;
	struct history_disk d;
	if (history_disk(run->history, op.added.id, &d) < 0 || strcmp(d.name, op.added.name) != 0)
		run_fail(run, "disk %u is not there after it was added", op.added.id);
	uint16_t again;
	uint64_t lsn;
	r = history_add_disk(run->history, op.added.name, op.added.size_bytes, &again, &lsn);
	if (r != -EEXIST)
		run_fail(run, "adding a disk twice answers %d", r);
	return 0;
}

static int refused(struct run *run, int r)
{
	if (r == -EAGAIN)
		return step_commit(run);
	run->totals->refused++;
	struct history_stats stats;
	history_stats(run->history, &stats);
	if (stats.used_bytes + stats.unflushed_bytes < stats.limit_bytes / 4)
		run_fail(run, "-ENOSPC with %" PRIu64 " of %" PRIu64 " used", stats.used_bytes,
			stats.limit_bytes);
	return 0;
}

int step_write(struct run *run, uint16_t disk, uint64_t lba, uint32_t sectors)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	struct model_op op = { .kind = MODEL_WRITE, .disk = disk, .lba = lba, .sectors = sectors };
	op.tag = run->next_tag;
	run->next_tag += sectors;
	for (uint32_t i = 0; i < sectors; i++)
		model_fill(op.tag + i, data + (size_t)i * SECTOR_BYTES);
	int r = history_write(run->history, disk, lba, sectors, data, &op.lsn);
	memset(data, 0xee, (size_t)sectors * SECTOR_BYTES); /* it was copied */
	if (r == -EAGAIN || (r == -ENOSPC && !io_sim_has_failed(run->sim)))
		return refused(run, r);
	return staged(run, r, &op, "write");
}

int step_zero(struct run *run, uint16_t disk, uint64_t lba, uint64_t sectors)
{
	struct model_op op = { .kind = MODEL_ZERO, .disk = disk, .lba = lba, .sectors = sectors };
	int r = history_zero(run->history, disk, lba, sectors, &op.lsn);
	if (r == -EAGAIN || (r == -ENOSPC && !io_sim_has_failed(run->sim)))
		return refused(run, r);
	return staged(run, r, &op, "zero");
}

static int step_grow(struct run *run)
{
	const struct model_disk *d = any_disk(run);
	if (!d)
		return 0;
	struct model_op op = { .kind = MODEL_GROW_DISK, .disk = d->disk.id };
	uint64_t unit = run->whole_mib ? MIB : SECTOR_BYTES, bytes = d->disk.size_bytes, lsn;
	if (history_grow_disk(run->history, op.disk, bytes - unit, &lsn) != -EINVAL)
		run_fail(run, "shrinking a disk is not refused");
	if (bytes >= MODEL_SECTORS * unit)
		return 0;
	op.added.size_bytes =
		bytes + unit * (run->whole_mib ? 1 : 1 + below(run, MODEL_SECTORS - bytes / unit));
	int r = history_grow_disk(run->history, op.disk, op.added.size_bytes, &op.lsn);
	return staged(run, r, &op, "grow_disk");
}

static int step_remove(struct run *run)
{
	const struct model_disk *d = any_disk(run);
	if (!d || run->model.live.disk_count < 2)
		return 0;
	struct model_op op = { .kind = MODEL_REMOVE_DISK, .disk = d->disk.id };
	int r = staged(
		run, history_remove_disk(run->history, op.disk, &op.lsn), &op, "remove_disk");
	if (r < 0)
		return r;
	unsigned char sector[SECTOR_BYTES] = { 0 };
	uint64_t lsn;
	if (history_write(run->history, op.disk, 0, 1, sector, &lsn) != -ENOENT)
		run_fail(run, "a removed disk takes writes");
	return 0;
}

static int step_resync(struct run *run)
{
	const struct model_disk *d = any_disk(run);
	if (!d)
		return 0;
	struct model_op op = { .kind = MODEL_RESYNC, .disk = d->disk.id };
	op.set = !d->disk.resync_needed;
	int r = op.set ? history_set_resync(run->history, op.disk, &op.lsn)
		       : history_clear_resync(run->history, op.disk, &op.lsn);
	return staged(run, r, &op, "resync");
}

int step_seal(struct run *run)
{
	if (run->model.live.point_count >= MODEL_POINTS - 4)
		return 0;
	struct model_op op = { .kind = MODEL_SEAL };
	struct seal seal = { .kind = below(run, 4) ? POINT_CRASH : POINT_APPLICATION };
	clock_sim_advance(&run->clock, (int64_t)below(run, 5 * NS_PER_S));
	seal.time_ns = clock_realtime_ns(&run->clock.source);
	seal.flags = below(run, 8) == 0 ? POINT_KEEP : below(run, 8) == 0 ? POINT_PRESSURE : 0;
	for (unsigned i = 0; i < run->model.live.disk_count; i++) {
		const struct model_disk *d = &run->model.live.disks[i];
		if (d->disk.removed || below(run, 2))
			continue;
		op.bookmarks[op.bookmark_count].disk = d->disk.id;
		rng_fill(&run->rng, op.bookmarks[op.bookmark_count].data, HISTORY_BOOKMARK_BYTES);
		op.bookmark_count++;
	}
	seal.bookmarks = op.bookmarks;
	seal.bookmark_count = op.bookmark_count;
	op.image = model_image(&run->model, &run->model.live);
	int r = history_seal(run->history, &seal, &op.point.number, &op.lsn);
	if (r == 0 && op.point.number <= run->model.live.last_number)
		run_fail(run, "point %" PRIu64 " is used again", op.point.number);
	op.point.time_ns = seal.time_ns;
	op.point.kind = seal.kind;
	op.point.flags = POINT_LOCAL | seal.flags;
	uint64_t number = op.number = op.point.number;
	r = staged(run, r, &op, "seal");
	/* A point is not shown before it is durable. */
	struct point point;
	if (r == 0 && history_point(run->history, number, &point) != -ENOENT)
		run_fail(run, "point %" PRIu64 " is shown before it is durable", number);
	return r;
}

/* After a failed commit everything but reading is refused. */
static void check_failed(struct run *run)
{
	const struct model_disk *d = any_disk(run);
	unsigned char sector[SECTOR_BYTES] = { 0 };
	struct history_stats stats;
	uint64_t lsn, number;
	bool more;
	history_stats(run->history, &stats);
	if (!stats.failed)
		run_fail(run, "commit failed but the history has not");
	if (d && history_write(run->history, d->disk.id, 0, 1, sector, &lsn) != -EIO)
		run_fail(run, "a failed history takes writes");
	struct seal seal = { .kind = POINT_CRASH };
	if (history_seal(run->history, &seal, &number, &lsn) != -EIO)
		run_fail(run, "a failed history takes seals");
	if (history_commit(run->history, &lsn) != -EIO)
		run_fail(run, "a failed history commits");
	if (history_maintain(run->history, &more) >= 0)
		run_fail(run, "a failed history is maintained");
}

int step_commit(struct run *run)
{
	uint64_t staged_lsn = history_staged_lsn(run->history), durable;
	int r = history_commit(run->history, &durable);
	run->totals->steps++;
	run_trace(run, "commit: %d", r);
	if (r < 0) {
		if (io_sim_has_failed(run->sim) && !io_sim_is_off(run->sim))
			check_failed(run);
		return run_dead(run, r, "commit");
	}
	if (durable != staged_lsn || durable != history_durable_lsn(run->history))
		run_fail(run, "commit: durable %" PRIu64 " (%" PRIu64 "), staged were %" PRIu64,
			durable, history_durable_lsn(run->history), staged_lsn);
	if (history_staged_bytes(run->history) != 0)
		run_fail(run, "bytes staged after commit");
	run_note_durable(run);
	return 0;
}

#define GARBAGE 0xd1

/* What is sent may lie there in any state until it is said to have arrived. */
static int spoil_live(struct run *run, struct view *view)
{
	for (unsigned i = 0; i < run->model.live.disk_count; i++) {
		uint16_t id = run->model.live.disks[i].disk.id;
		uint64_t bytes = model_sectors(view_disk_bytes(view, id)) * SECTOR_BYTES;
		if (bytes == 0)
			continue;
		unsigned char *live = base_sim_live(run->base, id, bytes);
		struct extent e;
		for (uint64_t lba = 0; view_next_change(view, id, lba, &e) == 0;
			lba = e.lba + e.sectors)
			memset(live + e.lba * SECTOR_BYTES, GARBAGE, e.sectors * SECTOR_BYTES);
	}
	return 0;
}

/* Writes what changed over what lies there; if it is all that is staged, the whole must be the
 * image. */
static int send_live(
	struct run *run, struct view *view, const struct model_image *image, bool compare)
{
	for (unsigned i = 0; i < image->count; i++) {
		uint16_t id = image->disks[i].id;
		uint64_t bytes = image->disks[i].sectors * SECTOR_BYTES, last = 0;
		unsigned char *live = base_sim_live(run->base, id, bytes);
		struct extent e;
		for (uint64_t lba = 0; view_next_change(view, id, lba, &e) == 0;
			last = lba = e.lba + e.sectors) {
			if (e.sectors == 0 || e.lba < last || e.lba + e.sectors > bytes / 512)
				run_fail(run, "change %" PRIu64 "+%" PRIu64 " of disk %u", e.lba,
					e.sectors, id);
			int r = view_read(view, id, e.lba, (uint32_t)e.sectors, live + e.lba * 512);
			if (r < 0)
				return run_dead(run, r, "view_read for the vault");
		}
		for (uint32_t s = 0; compare && s < image->disks[i].sectors; s++)
			if (model_tag(live + (size_t)s * SECTOR_BYTES) != image->disks[i].tags[s])
				run_fail(run,
					"changes up to %" PRIu64 " since %" PRIu64
					" miss disk %u sector %u: tag %" PRId64 ", there %" PRId64,
					view_number(view), view_base_number(view), id, s,
					(int64_t)image->disks[i].tags[s],
					(int64_t)model_tag(live + (size_t)s * SECTOR_BYTES));
	}
	return 0;
}

/* Of a page that is sent as a whole, what has not changed is read from below. */
static int read_unchanged(struct run *run, struct view *view, const struct model_image *image)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	for (unsigned i = 0; i < image->count; i++) {
		uint16_t id = image->disks[i].id;
		uint32_t lba = 0;
		for (; lba < image->disks[i].sectors; lba++) {
			struct extent e;
			if (view_next_change(view, id, lba, &e) == 0 && e.lba <= lba)
				continue;
			int r = view_read(view, id, lba, 1, data);
			if (r < 0)
				return run_dead(run, r, "view_read of what has not changed");
			if (model_tag(data) != image->disks[i].tags[lba])
				run_fail(run,
					"disk %u sector %u is not what it was: %" PRId64
					", read %" PRId64,
					id, lba, (int64_t)image->disks[i].tags[lba],
					(int64_t)model_tag(data));
		}
	}
	return 0;
}

/* Sends what a flush has to send into the vault: the point below, and what changed since. */
static int send_drained_to_vault(struct run *run, uint64_t number)
{
	const struct model_image *image = model_point(&run->model.durable, number)->image;
	int r = history_flush_view(run->history, number, &run->passing_view);
	if (r < 0) {
		run->passing_view = NULL;
		return run_dead(run, r, "flush_view");
	}
	spoil_live(run, run->passing_view);
	r = read_unchanged(run, run->passing_view, image);
	if (r == 0 && below(run, 6) == 0)
		r = 1; /* cut short */
	if (r == 0)
		r = send_live(run, run->passing_view, image, true);
	for (unsigned i = 0; r == 0 && i < image->count; i++) {
		uint64_t bytes = image->disks[i].sectors * SECTOR_BYTES;
		unsigned char *live = base_sim_live(run->base, image->disks[i].id, bytes);
		if (base_sim_put(run->base, image->disks[i].id, number, live, bytes) < 0)
			abort();
	}
	view_close(run->passing_view);
	run->passing_view = NULL;
	return r;
}

static int send_to_vault(struct run *run, uint64_t number)
{
	if (run->drains)
		return send_drained_to_vault(run, number);

	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	const struct model_image *image = model_point(&run->model.durable, number)->image;
	int r = history_view_open(run->history, number, &run->passing_view);
	if (r < 0) {
		run->passing_view = NULL;
		return run_dead(run, r, "view_open for a flush");
	}
	struct view *view = run->passing_view;
	uint64_t under = view_base_number(view);
	for (unsigned i = 0; i < image->count; i++) {
		uint16_t id = image->disks[i].id;
		uint64_t bytes = image->disks[i].sectors * SECTOR_BYTES, n = 0;
		memset(data, 0, bytes);
		const void *old = under ? base_sim_get(run->base, id, under, &n) : NULL;
		if (old)
			memcpy(data, old, MIN(n, bytes));
		struct extent e;
		uint64_t last = 0;
		for (uint64_t lba = 0; view_next_change(view, id, lba, &e) == 0;) {
			if (e.sectors == 0 || e.lba < last || e.lba + e.sectors > bytes / 512)
				run_fail(run, "change %" PRIu64 "+%" PRIu64 " of disk %u", e.lba,
					e.sectors, id);
			r = view_read(view, id, e.lba, (uint32_t)e.sectors, data + e.lba * 512);
			if (r < 0)
				return run_dead(run, r, "view_read for a flush");
			last = lba = e.lba + e.sectors;
		}
		for (uint32_t s = 0; s < image->disks[i].sectors; s++)
			if (model_tag(data + (size_t)s * SECTOR_BYTES) != image->disks[i].tags[s])
				run_fail(run,
					"changes of point %" PRIu64 " since %" PRIu64
					" miss disk %u sector %u",
					number, under, id, s);
		if (base_sim_put(run->base, id, number, data, bytes) < 0)
			abort();
	}
	view_close(view);
	run->passing_view = NULL;
	return 0;
}

int step_flush_begin(struct run *run, uint64_t number)
{
	struct model_op op = { .kind = MODEL_FLUSH_BEGIN, .number = number };
	int r = history_flush_begin(run->history, number, &op.lsn);
	return staged(run, r, &op, "flush_begin");
}

int step_flush_commit(struct run *run, uint64_t number)
{
	struct model_op op = { .kind = MODEL_FLUSH_COMMIT, .number = number };
	int r = history_flush_commit(run->history, number, &op.lsn);
	r = staged(run, r, &op, "flush_commit");
	uint64_t lsn;
	if (r == 0 && history_flush_commit(run->history, number, &lsn) != -EINVAL)
		run_fail(run, "a point is committed twice in the vault");
	return r;
}

int step_flush_to_memory(struct run *run, uint64_t number)
{
	int r = step_flush_begin(run, number);
	if (r == 0)
		r = step_commit(run);
	if (r == 0)
		r = send_to_vault(run, number);
	if (r > 0)
		return 0;
	if (r == 0)
		r = step_flush_commit(run, number);
	return r == 0 && below(run, 3) ? step_commit(run) : r;
}

int step_flush(struct run *run)
{
	const struct model_state *durable = &run->model.durable;
	uint64_t number = run->model.live.flush_pending;
	const struct model_point *pending = model_point(&run->model.durable, number);
	if (number && run->drains && (!pending || pending->image->count == 0 || below(run, 4) == 0))
		number = 0; /* of a drain: not sealed yet, or passed by */
	if (!number) {
		uint64_t candidates[MODEL_POINTS];
		unsigned n = 0;
		for (unsigned i = 0; i < durable->point_count; i++)
			if (durable->points[i].point.number > run->model.live.newest_vault &&
				model_point(&run->model.live, durable->points[i].point.number) &&
				durable->points[i].image->count > 0 &&
				durable->points[i].point.number >= run->model.live.flush_pending)
				candidates[n++] = durable->points[i].point.number;
		if (n == 0)
			return 0;
		number = candidates[below(run, n)];
	}
	return run->vault->flush(run, number);
}

int step_drain_begin(struct run *run, uint64_t *ret_number, uint64_t *ret_cut, uint64_t *ret_lsn)
{
	struct model_op op = { .kind = MODEL_FLUSH_BEGIN };
	bool due = false;
	for (unsigned i = 0; i < run->model.live.point_count; i++)
		due |= run->model.live.points[i].point.number > run->model.live.newest_vault;
	uint64_t most = below(run, 2) ? 0 : 1 + below(run, 256 * KIB);
	int r = history_drain_begin(run->history, most, &op.number, ret_cut, &op.lsn);
	if (due && r == 0)
		run_fail(run, "a drain begins while a point is to be flushed");
	if (r == -EBUSY) {
		if (!due)
			run_fail(run, "a drain does not begin");
		return 1;
	}
	if (r == 0 && op.number != run->model.live.last_number + 1)
		run_fail(run, "a drain for point %" PRIu64, op.number);
	r = staged(run, r, &op, "drain_begin");
	*ret_number = op.number;
	*ret_lsn = op.lsn;
	return r;
}

int step_drain_commit(struct run *run, const struct view *view)
{
	struct model_op op = { .kind = MODEL_DRAIN, .number = view_number(view) };
	struct history_drain drain;
	uint8_t proof[HISTORY_DRAIN_PROOF_BYTES];
	size_t n = below(run, sizeof(proof) + 1);
	rng_fill(&run->rng, proof, n);
	int r = history_drain_commit(run->history, view, proof, n, &op.lsn);
	bool sealed = run->model.live.last_number >= op.number;
	if (r == -ESTALE && sealed)
		return 0;
	if (r == 0 && sealed)
		run_fail(run, "a drain ends after its point was sealed");
	r = staged(run, r, &op, "drain_commit");
	history_drain_state(run->history, &drain);
	if (r == 0 && (drain.number != op.number || drain.sealed || drain.proof_bytes != n ||
			      memcmp(drain.proof, proof, n) != 0))
		run_fail(run, "the drain is not what was committed");
	return r;
}

static int step_put_some(struct run *run, bool zero);
static int step_read_some(struct run *run);

int step_disturb(struct run *run)
{
	int r = 0;
	for (uint64_t n = below(run, 6); r == 0 && n > 0; n--) {
		uint64_t dice = below(run, 20);
		r = dice < 8    ? step_put_some(run, below(run, 4) == 0)
		    : dice < 14 ? step_read_some(run)
		    : dice < 17 ? step_commit(run)
		    : dice < 19 ? step_maintain(run)
				: step_seal(run);
	}
	return r;
}

int step_drain_to_memory(struct run *run)
{
	uint64_t number, cut, lsn;
	int r = step_drain_begin(run, &number, &cut, &lsn);
	const struct model_image *image = model_image(&run->model, &run->model.live);
	bool all = r == 0 && cut == lsn;
	if (r == 0)
		r = step_commit(run);
	if (r != 0)
		return r > 0 ? 0 : r;
	r = history_drain_view(run->history, number, cut, &run->passing_view);
	if (r < 0) {
		run->passing_view = NULL;
		return run_dead(run, r, "drain_view");
	}
	spoil_live(run, run->passing_view);
	r = step_disturb(run);
	if (r == 0 && all)
		r = read_unchanged(run, run->passing_view, image);
	if (r == 0 && below(run, 4) == 0)
		r = 1; /* cut short */
	if (r == 0)
		r = send_live(run, run->passing_view, image, all);
	if (r == 0)
		r = step_disturb(run);
	if (r == 0)
		r = step_drain_commit(run, run->passing_view);
	view_close(run->passing_view);
	run->passing_view = NULL;
	if (r == 0 && below(run, 3))
		r = step_commit(run);
	return r > 0 ? 0 : r;
}

int step_drain(struct run *run)
{
	/* Mostly what is in the way is flushed first, and room is made afterwards. */
	uint64_t number = run->model.durable.last_number;
	const struct model_point *p = model_point(&run->model.durable, number);
	int r = 0;
	if (p && model_point(&run->model.live, number) && p->image->count > 0 &&
		number > run->model.live.newest_vault && number >= run->model.live.flush_pending &&
		below(run, 2))
		r = run->vault->flush(run, number);
	if (r == 0)
		r = run->vault->drain(run);
	return r == 0 && below(run, 2) ? step_trim(run, 0) : r;
}

static const struct point *listed(const struct point *points, unsigned n, uint64_t number)
{
	for (unsigned i = 0; i < n; i++)
		if (points[i].number == number)
			return &points[i];
	return NULL;
}

/* What was taken without an operation (a soft point, a local copy) is taken for good. */
static void take_away(struct model_state *state, uint64_t number)
{
	struct model_op gone = { .kind = MODEL_DROP, .number = number, .clear = POINT_LOCAL };
	model_apply(state, &gone);
}

/* The catalogue shows what is durable. */
int step_check_points(struct run *run)
{
	static struct model_state before;
	struct model_state *live = &run->model.live, *durable = &run->model.durable;
	struct point points[MODEL_POINTS];
	unsigned n = history_points(run->history, 0, points, MODEL_POINTS);
	char why[256];
	run->totals->steps++;
	before = *durable;
	if (model_adopt(durable, points, n, why))
		run_fail(run, "catalogue: %s", why);
	for (unsigned i = 0; i < before.point_count; i++) {
		const struct point *was = &before.points[i].point;
		const struct point *is = listed(points, n, was->number);
		if (!is || ((was->flags & POINT_LOCAL) && !(is->flags & POINT_LOCAL)))
			take_away(live, was->number);
	}
	return 0;
}

int step_trim(struct run *run, uint64_t target_bytes)
{
	struct history_stats before;
	history_stats(run->history, &before);
	/* Finishing an earlier trim writes a little, which may be what leads beyond the target. */
	if (before.used_bytes + run->options.segment_bytes > target_bytes) {
		model_allow_trim(&run->model.durable, run->model.live.newest_vault);
		model_allow_trim(&run->model.live, run->model.live.newest_vault);
	}
	uint64_t used;
	int r = history_trim(run->history, target_bytes, &used);
	run->totals->steps++;
	run_trace(run, "trim to %" PRIu64 " of %" PRIu64 ": %d, now %" PRIu64, target_bytes,
		before.used_bytes, r, used);
	if (r < 0)
		return run_dead(run, r, "trim");
	if (used > before.used_bytes + run->options.segment_bytes)
		run_fail(run, "trim from %" PRIu64 " to %" PRIu64, before.used_bytes, used);
	run_note_durable(run);
	return step_check_points(run);
}

int step_maintain(struct run *run)
{
	bool more = true;
	run->totals->steps++;
	for (unsigned i = 0; more; i++) {
		if (i == 1000)
			run_fail(run, "maintain has always more to do");
		int r = history_maintain(run->history, &more);
		run_trace(run, "maintain: %d, more %d", r, more);
		if (r < 0)
			return run_dead(run, r, "maintain");
		if (below(run, 4) == 0)
			break;
	}
	run_note_durable(run);
	return 0;
}

int step_read_all(struct run *run)
{
	run->totals->steps++;
	int r = run_see(run);
	if (r < 0)
		return r;
	struct model_state *live = &run->model.live;
	for (unsigned i = 0; i < live->disk_count; i++) {
		const struct model_disk *want = &live->disks[i], *got = NULL;
		for (unsigned k = 0; k < run->seen.disk_count; k++)
			if (run->seen.disks[k].disk.id == want->disk.id)
				got = &run->seen.disks[k];
		if (want->disk.removed)
			continue;
		if (!got || want->disk.size_bytes != got->disk.size_bytes)
			run_fail(run, "disk %u is not there as it should be", want->disk.id);
		uint64_t sectors = model_sectors(want->disk.size_bytes);
		for (uint64_t s = 0; s < sectors; s++)
			if (want->tags[s] != got->tags[s])
				run_fail(run,
					"head of disk %u sector %" PRIu64 ": tag %" PRId64
					", seen %" PRId64,
					want->disk.id, s, (int64_t)want->tags[s],
					(int64_t)got->tags[s]);
	}
	return 0;
}

static int step_read_some(struct run *run)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	const struct model_disk *d = any_disk(run);
	if (!d)
		return 0;
	uint64_t sectors = model_sectors(d->disk.size_bytes);
	uint64_t lba = below(run, sectors), n = 1 + below(run, sectors - lba);
	int r = history_read(run->history, d->disk.id, lba, (uint32_t)n, data);
	run->totals->steps++;
	struct history_stats stats;
	history_stats(run->history, &stats);
	if (stats.unsealed_bytes != run->model.live.changed_bytes)
		run_fail(run, "%" PRIu64 " bytes unsealed, not %" PRIu64, stats.unsealed_bytes,
			run->model.live.changed_bytes);
	if (r < 0)
		return run_dead(run, r, "read");
	for (uint64_t i = 0; i < n; i++)
		if (model_tag(data + i * SECTOR_BYTES) != d->tags[lba + i])
			run_fail(run,
				"head of disk %u sector %" PRIu64 ": tag %" PRId64
				", seen %" PRId64,
				d->disk.id, lba + i, (int64_t)d->tags[lba + i],
				(int64_t)model_tag(data + i * SECTOR_BYTES));
	return 0;
}

static int step_mark(struct run *run)
{
	const struct model_state *durable = &run->model.durable;
	uint64_t lsn;
	if (history_point_mark(
		    run->history, run->model.live.last_number + 99, POINT_KEEP, 0, &lsn) != -ENOENT)
		run_fail(run, "a point that is not there is marked");
	if (durable->point_count == 0)
		return 0;
	struct model_op op = { .kind = MODEL_MARK };
	op.number = durable->points[below(run, durable->point_count)].point.number;
	if (!model_point(&run->model.live, op.number))
		return 0;
	static const uint32_t flags[] = { POINT_KEEP, POINT_VERIFIED, POINT_FAILED };
	op.set = flags[below(run, ARRAY_SIZE(flags))];
	op.clear = flags[below(run, ARRAY_SIZE(flags))] & ~op.set;
	bool soft = model_point(&run->model.live, op.number)->soft;
	int r = history_point_mark(run->history, op.number, op.set, op.clear, &op.lsn);
	if (r == -ENOENT && soft)
		return 0;
	return staged(run, r, &op, "point_mark");
}

static bool any_view(const struct run *run)
{
	for (unsigned i = 0; i < RUN_VIEWS; i++)
		if (run->views[i].view)
			return true;
	return false;
}

static int step_drop(struct run *run)
{
	struct model_state *live = &run->model.live;
	const struct model_state *durable = &run->model.durable;
	if (durable->point_count == 0)
		return 0;
	struct model_op op = { .kind = MODEL_DROP };
	op.number = durable->points[below(run, durable->point_count)].point.number;
	const struct model_point *p = model_point(live, op.number);
	if (!p || op.number == live->flush_pending)
		return 0;
	if (p->point.flags & POINT_DRAINED) {
		if (history_point_drop(run->history, op.number, POINT_LOCAL, &op.lsn) != -EBUSY)
			run_fail(run, "a drained point is dropped");
		return 0;
	}
	uint32_t has = p->point.flags & (POINT_LOCAL | POINT_VAULT);
	op.clear = below(run, 2) ? has : has & (below(run, 2) ? POINT_LOCAL : POINT_VAULT);
	if (!op.clear)
		return 0;
	int r = history_point_drop(run->history, op.number, op.clear, &op.lsn);
	if ((op.clear & POINT_VAULT) && op.number == live->newest_vault) {
		if (r == -EBUSY)
			return 0;
		if (r < 0)
			return run_dead(run, r, "dropping the newest vault point");
		run_fail(run, "the newest vault point is dropped");
	}
	if (r == -EBUSY && any_view(run))
		return 0;
	if (r == -ENOENT && p->soft)
		return 0;
	for (unsigned i = 0; i < RUN_VIEWS && r == 0; i++)
		if (run->views[i].view && (op.clear & POINT_VAULT) &&
			view_base_number(run->views[i].view) == op.number)
			run_fail(run, "vault point %" PRIu64 " is dropped under a view", op.number);
	return staged(run, r, &op, "point_drop");
}

/* A crash may keep imported points and lose their disk's import; another disk then gets its id. */
static bool added_later(struct run *run, uint16_t id, uint64_t number)
{
	struct history_disk disk;
	return history_disk(run->history, id, &disk) == 0 && disk.added_point > number;
}

static int step_view(struct run *run)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	struct run_view *v = &run->views[below(run, RUN_VIEWS)];
	const struct model_state *durable = &run->model.durable;
	run->totals->steps++;
	if (!v->view) {
		if (durable->point_count == 0)
			return 0;
		const struct model_point *p = &durable->points[below(run, durable->point_count)];
		int r = history_view_open(run->history, p->point.number, &v->view);
		if (r < 0) {
			v->view = NULL;
			const struct model_point *l =
				model_point(&run->model.live, p->point.number);
			bool staged_away = !l || l->soft;
			if (p->point.flags & POINT_DRAINED && r == -ENODATA)
				return 0;
			if (l && (l->point.flags & POINT_DRAINED) && r == -ENODATA)
				return 0;
			if ((p->soft || staged_away) && (r == -ENODATA || r == -ENOENT))
				return 0;
			return run_dead(run, r, "view_open");
		}
		v->image = p->image;
		v->number = p->point.number;
		return 0;
	}
	if (below(run, 4) == 0 || v->image->count == 0) {
		view_close(v->view);
		v->view = NULL;
		return 0;
	}
	unsigned i = (unsigned)below(run, v->image->count);
	uint32_t sectors = v->image->disks[i].sectors;
	if (added_later(run, v->image->disks[i].id, v->number))
		return 0;
	uint64_t lba = below(run, sectors), n = 1 + below(run, sectors - lba);
	int r = view_read(v->view, v->image->disks[i].id, lba, (uint32_t)n, data);
	if (r < 0)
		return run_dead(run, r, "view_read");
	for (uint64_t s = 0; s < n; s++)
		if (model_tag(data + s * SECTOR_BYTES) != v->image->disks[i].tags[lba + s])
			run_fail(run,
				"open view of point %" PRIu64 ": disk %u sector %" PRIu64
				" is wrong",
				v->number, v->image->disks[i].id, lba + s);
	return 0;
}

int step_reopen(struct run *run, bool commit)
{
	if (commit) {
		int r = step_commit(run);
		if (r < 0)
			return r;
	}
	run_trace(run, "reopen");
	run_close(run);
	run->totals->steps++;
	return run_open(run);
}

int step_take_over(struct run *run)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	uint32_t sectors = run->max_sectors;
	uint64_t number = 0;
	int r;
	struct model_op import = { .kind = MODEL_IMPORT_DISK };
	import.added.id = 1;
	import.added.size_bytes = (uint64_t)sectors * SECTOR_BYTES;
	import.added.added_point = 1;
	strcpy(import.added.name, "machine/disk0");
	r = history_import_disk(run->history, &import.added, &import.lsn);
	r = staged(run, r, &import, "import_disk");
	if (r < 0)
		return r;
	for (unsigned i = 1 + (unsigned)below(run, 3); i > 0; i--) {
		number += 1 + below(run, 4);
		struct model_image *image = model_image_new(&run->model);
		image->count = 1;
		image->disks[0].id = 1;
		image->disks[0].sectors = sectors;
		image->disks[0].size_bytes = (uint64_t)sectors * SECTOR_BYTES;
		for (uint32_t s = 0; s < sectors; s++) {
			image->disks[0].tags[s] = below(run, 2) ? run->next_tag++ : 0;
			model_fill(image->disks[0].tags[s], data + (size_t)s * SECTOR_BYTES);
		}
		if (base_sim_put(run->base, 1, number, data, sectors * SECTOR_BYTES) < 0)
			abort();
		memcpy(base_sim_live(run->base, 1, sectors * SECTOR_BYTES), data,
			sectors * SECTOR_BYTES);
		struct model_op op = { .kind = MODEL_IMPORT_POINT, .number = number };
		op.image = image;
		op.point.number = number;
		op.point.time_ns = (int64_t)number * NS_PER_S;
		op.point.changed_bytes = below(run, 4096) * SECTOR_BYTES;
		op.point.kind = POINT_CRASH;
		op.point.flags = POINT_VAULT;
		r = history_point_import(run->history, &op.point, &op.lsn);
		r = staged(run, r, &op, "point_import");
		if (r < 0)
			return r;
	}
	return step_commit(run);
}

static int step_put_some(struct run *run, bool zero)
{
	const struct model_disk *d = any_disk(run);
	if (!d)
		return 0;
	uint64_t sectors = model_sectors(d->disk.size_bytes), lba = below(run, sectors);
	uint64_t n = 1 + below(run, MIN(sectors - lba, run->max_write_sectors));
	return zero ? step_zero(run, d->disk.id, lba, n)
		    : step_write(run, d->disk.id, lba, (uint32_t)n);
}

int step_random(struct run *run)
{
	if (run->drains && below(run, 14) == 0)
		return step_drain(run);
	uint64_t dice = below(run, 100);
	if (dice < 34)
		return step_put_some(run, false);
	if (dice < 42)
		return step_put_some(run, true);
	if (dice < 58)
		return step_commit(run);
	if (dice < 68)
		return step_seal(run);
	if (dice < 73)
		return step_flush(run);
	if (dice < 76)
		return step_trim(run, below(run, 3) ? 0 : below(run, MIB));
	if (dice < 81)
		return step_maintain(run);
	if (dice < 84)
		return step_read_some(run);
	if (dice < 89)
		return step_view(run);
	if (dice < 91)
		return step_check_points(run);
	if (dice < 92)
		return step_reopen(run, below(run, 2));
	if (dice < 94)
		return step_mark(run);
	if (dice < 96)
		return step_drop(run);
	if (dice < 97)
		return step_grow(run);
	if (dice < 98)
		return step_resync(run);
	if (dice < 99)
		return step_add_disk(run, 1 + (uint32_t)below(run, run->max_sectors));
	return below(run, 3) ? step_read_all(run) : step_remove(run);
}
