/*
 * The steps of a simulated life that change nothing: what the history shows, the head, the
 * catalogue and views that stay open for long, must be what its model has.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/bytes.h"
#include "tests/sim/history_run.h"

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

int step_read_some(struct run *run)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	const struct model_disk *d = run_any_disk(run);
	if (!d)
		return 0;
	uint64_t sectors = model_sectors(d->disk.size_bytes);
	uint64_t lba = run_below(run, sectors), n = 1 + run_below(run, sectors - lba);
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

/* A crash may keep imported points and lose their disk's import; another disk then gets its id. */
static bool added_later(struct run *run, uint16_t id, uint64_t number)
{
	struct history_disk disk;
	return history_disk(run->history, id, &disk) == 0 && disk.added_point > number;
}

int step_view(struct run *run)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	struct run_view *v = &run->views[run_below(run, RUN_VIEWS)];
	const struct model_state *durable = &run->model.durable;
	run->totals->steps++;
	if (!v->view) {
		if (durable->point_count == 0)
			return 0;
		const struct model_point *p =
			&durable->points[run_below(run, durable->point_count)];
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
	if (run_below(run, 4) == 0 || v->image->count == 0) {
		view_close(v->view);
		v->view = NULL;
		return 0;
	}
	unsigned i = (unsigned)run_below(run, v->image->count);
	uint32_t sectors = v->image->disks[i].sectors;
	if (added_later(run, v->image->disks[i].id, v->number))
		return 0;
	uint64_t lba = run_below(run, sectors), n = 1 + run_below(run, sectors - lba);
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
