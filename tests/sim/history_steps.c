/*
 * The steps of a simulated life: each does one thing to the history and to its model. Here those of
 * the journal: disks, writes, seals, commits, trims, marks, and one of all steps by chance.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/sim/history_run.h"

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
	r = run_staged(run, r, &op, "add_disk");
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
	return run_staged(run, r, &op, "write");
}

int step_zero(struct run *run, uint16_t disk, uint64_t lba, uint64_t sectors)
{
	struct model_op op = { .kind = MODEL_ZERO, .disk = disk, .lba = lba, .sectors = sectors };
	int r = history_zero(run->history, disk, lba, sectors, &op.lsn);
	if (r == -EAGAIN || (r == -ENOSPC && !io_sim_has_failed(run->sim)))
		return refused(run, r);
	return run_staged(run, r, &op, "zero");
}

static int step_put_some(struct run *run, bool zero)
{
	const struct model_disk *d = run_any_disk(run);
	if (!d)
		return 0;
	uint64_t sectors = model_sectors(d->disk.size_bytes), lba = run_below(run, sectors);
	uint64_t n = 1 + run_below(run, MIN(sectors - lba, run->max_write_sectors));
	return zero ? step_zero(run, d->disk.id, lba, n)
		    : step_write(run, d->disk.id, lba, (uint32_t)n);
}

static int step_grow(struct run *run)
{
	const struct model_disk *d = run_any_disk(run);
	if (!d)
		return 0;
	struct model_op op = { .kind = MODEL_GROW_DISK, .disk = d->disk.id };
	uint64_t unit = run->whole_mib ? MIB : SECTOR_BYTES, bytes = d->disk.size_bytes, lsn;
	if (history_grow_disk(run->history, op.disk, bytes - unit, &lsn) != -EINVAL)
		run_fail(run, "shrinking a disk is not refused");
	if (bytes >= MODEL_SECTORS * unit)
		return 0;
	op.added.size_bytes =
		bytes +
		unit * (run->whole_mib ? 1 : 1 + run_below(run, MODEL_SECTORS - bytes / unit));
	int r = history_grow_disk(run->history, op.disk, op.added.size_bytes, &op.lsn);
	return run_staged(run, r, &op, "grow_disk");
}

static int step_remove(struct run *run)
{
	const struct model_disk *d = run_any_disk(run);
	if (!d || run->model.live.disk_count < 2)
		return 0;
	struct model_op op = { .kind = MODEL_REMOVE_DISK, .disk = d->disk.id };
	int r = run_staged(
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
	const struct model_disk *d = run_any_disk(run);
	if (!d)
		return 0;
	struct model_op op = { .kind = MODEL_RESYNC, .disk = d->disk.id };
	op.set = !d->disk.resync_needed;
	int r = op.set ? history_set_resync(run->history, op.disk, &op.lsn)
		       : history_clear_resync(run->history, op.disk, &op.lsn);
	return run_staged(run, r, &op, "resync");
}

int step_seal(struct run *run)
{
	if (run->model.live.point_count >= MODEL_POINTS - 4)
		return 0;
	struct model_op op = { .kind = MODEL_SEAL };
	struct seal seal = { .kind = run_below(run, 4) ? POINT_CRASH : POINT_APPLICATION };
	clock_sim_advance(&run->clock, (int64_t)run_below(run, 5 * NS_PER_S));
	seal.time_ns = clock_realtime_ns(&run->clock.source);
	seal.flags = run_below(run, 8) == 0   ? POINT_KEEP
		     : run_below(run, 8) == 0 ? POINT_PRESSURE
					      : 0;
	for (unsigned i = 0; i < run->model.live.disk_count; i++) {
		const struct model_disk *d = &run->model.live.disks[i];
		if (d->disk.removed || run_below(run, 2))
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
	r = run_staged(run, r, &op, "seal");
	/* A point is not shown before it is durable. */
	struct point point;
	if (r == 0 && history_point(run->history, number, &point) != -ENOENT)
		run_fail(run, "point %" PRIu64 " is shown before it is durable", number);
	return r;
}

/* After a failed commit everything but reading is refused. */
static void check_failed(struct run *run)
{
	const struct model_disk *d = run_any_disk(run);
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
		if (run_below(run, 4) == 0)
			break;
	}
	run_note_durable(run);
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
	op.number = durable->points[run_below(run, durable->point_count)].point.number;
	if (!model_point(&run->model.live, op.number))
		return 0;
	static const uint32_t flags[] = { POINT_KEEP, POINT_VERIFIED, POINT_FAILED };
	op.set = flags[run_below(run, ARRAY_SIZE(flags))];
	op.clear = flags[run_below(run, ARRAY_SIZE(flags))] & ~op.set;
	bool soft = model_point(&run->model.live, op.number)->soft;
	int r = history_point_mark(run->history, op.number, op.set, op.clear, &op.lsn);
	if (r == -ENOENT && soft)
		return 0;
	return run_staged(run, r, &op, "point_mark");
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
	op.number = durable->points[run_below(run, durable->point_count)].point.number;
	const struct model_point *p = model_point(live, op.number);
	if (!p || op.number == live->flush_pending)
		return 0;
	if (p->point.flags & POINT_DRAINED) {
		if (history_point_drop(run->history, op.number, POINT_LOCAL, &op.lsn) != -EBUSY)
			run_fail(run, "a drained point is dropped");
		return 0;
	}
	uint32_t has = p->point.flags & (POINT_LOCAL | POINT_VAULT);
	op.clear = run_below(run, 2) ? has : has & (run_below(run, 2) ? POINT_LOCAL : POINT_VAULT);
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
	return run_staged(run, r, &op, "point_drop");
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

int step_disturb(struct run *run)
{
	int r = 0;
	for (uint64_t n = run_below(run, 6); r == 0 && n > 0; n--) {
		uint64_t dice = run_below(run, 20);
		r = dice < 8    ? step_put_some(run, run_below(run, 4) == 0)
		    : dice < 14 ? step_read_some(run)
		    : dice < 17 ? step_commit(run)
		    : dice < 19 ? step_maintain(run)
				: step_seal(run);
	}
	return r;
}

int step_random(struct run *run)
{
	if (run->drains && run_below(run, 14) == 0)
		return step_drain(run);
	uint64_t dice = run_below(run, 100);
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
		return step_trim(run, run_below(run, 3) ? 0 : run_below(run, MIB));
	if (dice < 81)
		return step_maintain(run);
	if (dice < 84)
		return step_read_some(run);
	if (dice < 89)
		return step_view(run);
	if (dice < 91)
		return step_check_points(run);
	if (dice < 92)
		return step_reopen(run, run_below(run, 2));
	if (dice < 94)
		return step_mark(run);
	if (dice < 96)
		return step_drop(run);
	if (dice < 97)
		return step_grow(run);
	if (dice < 98)
		return step_resync(run);
	if (dice < 99)
		return step_add_disk(run, 1 + (uint32_t)run_below(run, run->max_sectors));
	return run_below(run, 3) ? step_read_all(run) : step_remove(run);
}
