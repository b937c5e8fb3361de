/*
 * Bit rot: one sector of one of the history's files is damaged, while it is closed or open, and
 * the history may lose what was in it, and must say so, and nothing else.
 *
 * The rules know nothing of the formats:
 *  - What reads, reads right: the head, and every point.
 *  - A point that was durable before the damaged sector was last written does not depend on it:
 *    it must be there, whole. (Indices and checkpoints can be rebuilt from the log.) But the
 *    flush that put it, or what it stands on, into the vault must have been recorded before, too.
 *  - What else is missing or refuses to read must have been reported as a fault, or be a read
 *    that fails.
 *  - A head that was set back to what is whole, or does not read, is marked *resync needed*, and
 *    shows nothing that was never there.
 *  - Damage in the very last commit looks like a torn write that was never acknowledged: nothing
 *    that came later says otherwise. There it may be taken for one.
 *  - Work goes on: new writes and seals are kept.
 */
#include "tests/sim/history_rot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

/* What the checks have to know. */
struct rot {
	uint64_t untouched; /* operations that were durable before the damaged sector changed */
	bool in_last;       /* it changed in the last commit */
	/* of the vault's points: what the history says when it asks for a repair, what is there */
	uint64_t known, newest;
};

struct target {
	uint64_t total_sectors;
	uint64_t wanted; /* sector among all of them */
	char path[1024];
	uint64_t offset;
};

static void count_sectors(void *context, const char *path, uint64_t bytes)
{
	struct target *t = context;
	(void)path;
	t->total_sectors += bytes / SECTOR_BYTES;
}

static void find_sector(void *context, const char *path, uint64_t bytes)
{
	struct target *t = context;
	if (t->path[0])
		return;
	if (t->wanted < bytes / SECTOR_BYTES) {
		snprintf(t->path, sizeof(t->path), "%s", path);
		t->offset = t->wanted * SECTOR_BYTES;
	} else {
		t->wanted -= bytes / SECTOR_BYTES;
	}
}

/* Damages a sector that holds something; the number of operations that were durable when it was
 * last written. */
static uint64_t damage(struct run *run)
{
	uint64_t stamp = 0;
	bool blank = true;
	struct target t;
	for (unsigned tries = 0; tries < 2000 && (blank || stamp == 0); tries++) {
		t = (struct target){ 0 };
		io_sim_each_file(run->sim, count_sectors, &t);
		if (t.total_sectors == 0)
			run_fail(run, "there are no files");
		t.wanted = rng_below(&run->rng, t.total_sectors);
		io_sim_each_file(run->sim, find_sector, &t);
		if (io_sim_stamp(run->sim, t.path, t.offset, &stamp, &blank) < 0)
			abort();
	}
	unsigned char mask[SECTOR_BYTES] = { 0 };
	size_t n = 1;
	uint64_t within = rng_below(&run->rng, SECTOR_BYTES);
	switch (rng_below(&run->rng, 4)) {
	case 0:
	case 1:
		mask[0] = (unsigned char)(1u << rng_below(&run->rng, 8));
		break;
	case 2:
		mask[0] = (unsigned char)(1 + rng_below(&run->rng, 255));
		break;
	default:
		n = SECTOR_BYTES;
		within = 0;
		rng_fill(&run->rng, mask, n);
	}
	run_trace(run, "damage %s at %" PRIu64 ", %zu bytes, stamp %" PRIu64, t.path,
		t.offset + within, n, stamp);
	if (io_sim_rot(run->sim, t.path, t.offset + within, mask, n) < 0)
		abort();
	return stamp ? stamp - 1 : 0;
}

/* True if any state of the run had that tag in that sector. */
static bool ever_was(const struct run *run, uint16_t disk, uint64_t sector, uint64_t tag)
{
	if (tag == 0)
		return true;
	for (unsigned i = 0; i < run->model.all_count; i++) {
		const struct model_op *op = &run->model.all[i];
		if (op->kind == MODEL_WRITE && op->disk == disk && sector >= op->lba &&
			sector < op->lba + op->sectors && tag == op->tag + (sector - op->lba))
			return true;
	}
	return false;
}

static void check_head(struct run *run, const struct rot *rot)
{
	struct model_state *want = &run->model.durable;
	unsigned char data[SECTOR_BYTES];
	for (unsigned i = 0; i < want->disk_count; i++) {
		const struct model_disk *d = &want->disks[i];
		struct history_disk disk;
		int r = history_disk(run->history, d->disk.id, &disk);
		if (r < 0) {
			if (run->report.faults == 0 && !d->disk.removed && !rot->in_last)
				run_fail(run, "disk %u is lost in silence", d->disk.id);
			continue;
		}
		bool set_back =
			rot->in_last || (run->report.damaged_after != 0 && disk.resync_needed);
		if (!set_back && disk.size_bytes != d->disk.size_bytes)
			run_fail(run, "disk %u has another size and no mark", d->disk.id);
		uint64_t sectors = MIN(disk.size_bytes, d->disk.size_bytes) / SECTOR_BYTES;
		for (uint64_t s = 0; !disk.removed && !d->disk.removed && s < sectors; s++) {
			if (history_read(run->history, d->disk.id, s, 1, data) < 0) {
				if (history_disk(run->history, d->disk.id, &disk) < 0 ||
					!disk.resync_needed)
					run_fail(run, "disk %u does not read and has no mark",
						d->disk.id);
				continue;
			}
			uint64_t tag = model_tag(data);
			if (tag == d->tags[s] || (set_back && ever_was(run, d->disk.id, s, tag)))
				continue;
			run_fail(run,
				"head of disk %u sector %" PRIu64 ": tag %" PRId64 ", seen %" PRId64
				" (resync needed %d, damaged after "
				"%" PRIu64 ", faults %u)",
				d->disk.id, s, (int64_t)d->tags[s], (int64_t)tag,
				disk.resync_needed, run->report.damaged_after, run->report.faults);
		}
	}
}

/* Reads the point; 0 if it is whole, -EIO if some of it refuses. Wrong bytes fail the run. */
static int check_view(struct run *run, const struct model_point *p)
{
	int r = history_view_open(run->history, p->point.number, &run->passing_view);
	if (r < 0) {
		run->passing_view = NULL;
		return -EIO;
	}
	int whole = 0;
	unsigned char data[SECTOR_BYTES];
	for (unsigned i = 0; i < p->image->count; i++) {
		uint16_t id = p->image->disks[i].id;
		uint64_t bytes = view_disk_bytes(run->passing_view, id);
		if (bytes != p->image->disks[i].sectors * SECTOR_BYTES) {
			whole = -EIO;
			continue;
		}
		for (uint32_t s = 0; s < p->image->disks[i].sectors; s++) {
			if (view_read(run->passing_view, id, s, 1, data) < 0)
				whole = -EIO;
			else if (model_tag(data) != p->image->disks[i].tags[s])
				run_fail(run,
					"point %" PRIu64 " disk %u sector %u: tag %" PRId64
					", seen %" PRId64 " (faults %u)",
					p->point.number, id, s, (int64_t)p->image->disks[i].tags[s],
					(int64_t)model_tag(data), run->report.faults);
		}
	}
	view_close(run->passing_view);
	run->passing_view = NULL;
	run->totals->points_verified++;
	return whole;
}

/* Was that operation durable before the damaged sector changed? */
static bool known(
	const struct run *run, const struct rot *rot, enum model_op_kind kind, uint64_t number)
{
	for (unsigned k = 0; k < rot->untouched && k < run->model.all_count; k++)
		if (run->model.all[k].kind == kind && run->model.all[k].number == number)
			return true;
	return false;
}

/* The newest vault point below that number, as it was known then; 0 if there was none. */
static uint64_t known_below(const struct run *run, const struct rot *rot, uint64_t number)
{
	uint64_t below = 0;
	for (unsigned k = 0; k < rot->untouched && k < run->model.all_count; k++) {
		const struct model_op *op = &run->model.all[k];
		bool dropped = false;
		if (op->kind != MODEL_FLUSH_COMMIT || op->number >= number || op->number < below)
			continue;
		for (unsigned d = k; d < rot->untouched && d < run->model.all_count; d++)
			dropped |= run->model.all[d].kind == MODEL_DROP &&
				   run->model.all[d].number == op->number &&
				   (run->model.all[d].clear & POINT_VAULT);
		if (!dropped)
			below = op->number;
	}
	return below;
}

/* Was it known then where the point is now: in the vault, or in the journal above a vault point
 * that was known? */
static bool is_placed(struct run *run, const struct rot *rot, const struct model_point *p)
{
	if (known(run, rot, MODEL_FLUSH_COMMIT, p->point.number))
		return true;
	if (!(p->point.flags & POINT_LOCAL))
		return false;
	/* What it stood on then is not in the vault any more, and what says so may be lost. */
	uint64_t below = known_below(run, rot, p->point.number);
	if (below && !run->vault->has(run, below))
		return false;
	below = 0;
	for (unsigned i = 0; i < run->model.durable.point_count; i++) {
		const struct point *other = &run->model.durable.points[i].point;
		if (other->number < p->point.number && (other->flags & POINT_VAULT))
			below = other->number;
	}
	return !below || known(run, rot, MODEL_FLUSH_COMMIT, below);
}

static void check_points(struct run *run, const struct rot *rot)
{
	struct model_state *want = &run->model.durable;
	for (unsigned i = 0; i < want->point_count; i++) {
		const struct model_point *p = &want->points[i];
		bool must = !p->soft && known(run, rot, MODEL_SEAL, p->point.number) &&
			    is_placed(run, rot, p);
		struct point got;
		if (history_point(run->history, p->point.number, &got) < 0) {
			if (must)
				run_fail(run,
					"point %" PRIu64 " is lost by damage done later "
					"(%s)",
					p->point.number, run->report.first_fault);
			if (run->report.faults == 0 && !p->soft && !rot->in_last)
				run_fail(run, "point %" PRIu64 " is lost in silence",
					p->point.number);
			continue;
		}
		if (got.number != p->point.number || got.time_ns != p->point.time_ns ||
			got.kind != p->point.kind)
			run_fail(run, "the catalogue has point %" PRIu64 " wrong", got.number);
		if (check_view(run, p) < 0 && must)
			run_fail(run, "point %" PRIu64 " is damaged by damage done later (%s)",
				p->point.number, run->report.first_fault);
	}
}

/* What the bases are made of after a loss: the newest point in the vault, should the journal have
 * forgotten that it is there, too. */
static uint64_t newest_in_vault(struct run *run, uint64_t known)
{
	uint64_t newest = run->model.durable.last_number;
	while (newest > known && !run->vault->has(run, newest))
		newest--;
	return MAX(newest, known);
}

/* The disk as that point shows it, zeros beyond its end; 0: zeros. */
static void get_snapshot(
	struct run *run, uint16_t disk, uint64_t point, unsigned char *ret_image, uint64_t bytes)
{
	uint64_t n = 0;
	const void *snapshot = point ? base_sim_get(run->base, disk, point, &n) : NULL;
	memset(ret_image, 0, bytes);
	if (snapshot)
		memcpy(ret_image, snapshot, MIN(n, bytes));
}

static void repair(
	struct run *run, struct rot *rot, const struct history_disk *disks, unsigned count)
{
	uint64_t lsn;
	if (!history_repair_due(run->history, &rot->known))
		return;
	rot->newest = newest_in_vault(run, rot->known);
	run_trace(run, "the newest in the vault is %" PRIu64, rot->newest);
	if (history_flush_begin(run->history, run->model.live.last_number + 1000, &lsn) == 0)
		run_fail(run, "a flush begins before the repair");
	/* All of the blob: the record that made the disk as large may be lost. */
	const uint64_t bytes = MODEL_SECTORS * SECTOR_BYTES;
	for (unsigned i = 0; i < count; i++)
		get_snapshot(run, disks[i].id, rot->newest,
			base_sim_live(run->base, disks[i].id, bytes), bytes);
	uint64_t point = rot->known;
	int r = history_repaired(run->history, point, &lsn);
	if (r == 0)
		r = history_commit(run->history, &lsn);
	if (r < 0 || history_repair_due(run->history, &point))
		run_fail(run, "repairing answers %d", r);
}

/* What a flush sends of the disk into `live`: what changed since the vault point that is known, and
 * what points behind it have changed that the journal forgot. Fails if some of it does not read. */
static int send_changes(struct run *run, const struct rot *rot, uint16_t disk, uint64_t sectors,
	unsigned char *live)
{
	static unsigned char known[MODEL_SECTORS * SECTOR_BYTES],
		newest[MODEL_SECTORS * SECTOR_BYTES];
	struct extent e;
	int r = 0;
	for (uint64_t lba = 0;
		view_next_change(run->passing_view, disk, lba, &e) == 0 && e.lba < sectors;
		lba = e.lba + e.sectors) {
		r = view_read(run->passing_view, disk, e.lba,
			(uint32_t)MIN(e.sectors, sectors - e.lba), live + e.lba * SECTOR_BYTES);
		if (r < 0)
			return r;
	}
	/* Beyond what the history takes for the disk's end then it reads zeros. */
	uint64_t bytes = rot->known ? history_point_disk_bytes(run->history, rot->known, disk) : 0;
	memset(known, 0, sizeof(known));
	get_snapshot(run, disk, rot->known, known, MIN(bytes, sectors * SECTOR_BYTES));
	get_snapshot(run, disk, rot->newest, newest, sectors * SECTOR_BYTES);
	for (uint64_t at = 0; r == 0 && at < sectors; at++)
		if (memcmp(known + at * SECTOR_BYTES, newest + at * SECTOR_BYTES, SECTOR_BYTES) !=
			0)
			r = view_read(run->passing_view, disk, at, 1, live + at * SECTOR_BYTES);
	return r;
}

/* A flush of what is sealed now makes what lies in the vault equal to the head, whatever was sent
 * there by drains and flushes that the history may not remember. */
static void flush_heals(struct run *run, const struct rot *rot, uint64_t number)
{
	static unsigned char live[MODEL_SECTORS * SECTOR_BYTES], seen[SECTOR_BYTES];
	struct history_disk disks[MODEL_DISKS];
	unsigned n = MIN(history_disks(run->history, disks, MODEL_DISKS), (unsigned)MODEL_DISKS);
	if (history_flush_view(run->history, number, &run->passing_view) < 0) {
		run->passing_view = NULL;
		return; /* damaged: it is never flushed */
	}
	for (unsigned i = 0; i < n; i++) {
		uint64_t bytes = view_disk_bytes(run->passing_view, disks[i].id);
		uint64_t sectors = model_sectors(bytes);
		if (bytes == 0)
			continue;
		memcpy(live, base_sim_live(run->base, disks[i].id, sectors * SECTOR_BYTES),
			sectors * SECTOR_BYTES);
		if (send_changes(run, rot, disks[i].id, sectors, live) < 0)
			return; /* it is tried again, and never committed */
		for (uint64_t s = 0; s < sectors; s++)
			if (history_read(run->history, disks[i].id, s, 1, seen) == 0 &&
				memcmp(seen, live + s * SECTOR_BYTES, SECTOR_BYTES) != 0)
				run_fail(run,
					"after the damage the flush of %" PRIu64
					" leaves disk %u sector %" PRIu64 " with tag %" PRId64
					", the head has %" PRId64,
					number, disks[i].id, s,
					(int64_t)model_tag(live + s * SECTOR_BYTES),
					(int64_t)model_tag(seen));
	}
}

/* New writes and seals are kept, whatever was lost. */
static void go_on(struct run *run, struct rot *rot)
{
	struct history_disk disks[MODEL_DISKS];
	unsigned n = MIN(history_disks(run->history, disks, MODEL_DISKS), (unsigned)MODEL_DISKS);
	unsigned at = 0;
	while (at < n && disks[at].removed)
		at++;
	if (at == n)
		return;
	if (run->drains)
		repair(run, rot, disks, n);
	unsigned char sector[SECTOR_BYTES], seen[SECTOR_BYTES];
	uint64_t lsn, number;
	model_fill(run->next_tag, sector);
	struct seal seal = { .kind = POINT_CRASH, .time_ns = 1 };
	int r = history_write(run->history, disks[at].id, 0, 1, sector, &lsn);
	if (r == 0)
		r = history_seal(run->history, &seal, &number, &lsn);
	if (r == 0)
		r = history_commit(run->history, &lsn);
	if (r < 0)
		run_fail(run, "work does not go on: %d", r);
	if (number <= run->model.live.last_number && run->report.faults == 0 && !rot->in_last)
		run_fail(run, "point %" PRIu64 " is used again", number);
	run_close(run);
	struct error error = { 0 };
	r = history_open(&run->options, &run->report, &error, &run->history);
	if (r < 0)
		run_fail(run, "opening again answers %d: %s", r, error.message);
	r = history_read(run->history, disks[at].id, 0, 1, seen);
	if (r < 0 || memcmp(sector, seen, sizeof(seen)) != 0)
		run_fail(run, "what was written after the damage is lost (%d)", r);
	if (run->drains) {
		flush_heals(run, rot, number);
		view_close(run->passing_view);
		run->passing_view = NULL;
	}
	struct history_drain drain;
	history_drain_state(run->history, &drain);
	r = history_view_open(run->history, number, &run->passing_view);
	if (r == -ENODATA && drain.number != 0) {
		run->passing_view = NULL;
		return; /* it has to be flushed first */
	}
	if (r < 0)
		run_fail(run, "a point sealed after the damage does not open: %d", r);
	r = view_read(run->passing_view, disks[at].id, 0, 1, seen);
	if (r < 0 || memcmp(sector, seen, sizeof(seen)) != 0)
		run_fail(run, "a point sealed after the damage is wrong (%d)", r);
	view_close(run->passing_view);
	run->passing_view = NULL;
}

void rot_run(struct run *run)
{
	run->model.keep_all = true;
	io_sim_set_stamp(run->sim, 1);
	if (run_open(run) < 0 || step_add_disk(run, run->max_sectors) < 0)
		run_fail(run, "it does not begin");
	unsigned steps = 5 + (unsigned)rng_below(&run->rng, 80);
	for (unsigned i = 0; i < steps; i++)
		if (step_random(run) < 0)
			run_fail(run, "it died");
	uint64_t before_last = run->model.all_count - run->model.op_count;
	if (step_seal(run) < 0 || step_commit(run) < 0 || step_check_points(run) < 0)
		run_fail(run, "it died");
	if (rng_below(&run->rng, 2) && step_maintain(run) < 0)
		run_fail(run, "it died");
	struct rot rot = { .untouched = damage(run) };
	rot.in_last = rot.untouched >= before_last;
	run->totals->crash_points++;
	if (rng_below(&run->rng, 2)) {
		/* While it is open, reads find it or are right. */
		memset(&run->report, 0, sizeof(run->report));
		check_head(run, &rot);
		check_points(run, &rot);
	}
	run_close(run);
	struct error error = { 0 };
	int r = history_open(&run->options, &run->report, &error, &run->history);
	if (r < 0) {
		run->history = NULL;
		run_fail(run, "one damaged sector and it does not open: %d: %s", r, error.message);
	}
	run_trace(run, "faults %u, damaged after %" PRIu64 ": %s", run->report.faults,
		run->report.damaged_after, run->report.faults ? run->report.first_fault : "");
	if (run->report.faults && !run->report.first_fault[0])
		run_fail(run, "a fault without a name");
	check_head(run, &rot);
	check_points(run, &rot);
	go_on(run, &rot);
}
