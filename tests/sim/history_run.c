/*
 * A simulated life of a history: begin, open, compare, die, begin again.
 *
 * Everything a run owns hangs on struct run, so that a failed run can be left by longjmp from
 * any depth and still be freed.
 */
#include "tests/sim/history_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

void run_trace(struct run *run, const char *format, ...)
{
	if (!run->trace)
		return;
	va_list args;
	va_start(args, format);
	vfprintf(run->trace, format, args);
	fputc('\n', run->trace);
	va_end(args);
}

void run_fail(struct run *run, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(run->failure, sizeof(run->failure), format, args);
	va_end(args);
	run_trace(run, "FAILED: %s", run->failure);
	longjmp(run->failed, 1);
}

static void memory_drop(struct run *run, uint64_t number)
{
	base_sim_drop(run->base, number);
}

static bool memory_has(struct run *run, uint64_t number)
{
	return base_sim_has(run->base, number);
}

static void memory_fail(struct run *run, int error)
{
	base_sim_fail(run->base, error);
}

static const struct run_vault memory_vault = {
	.flush = step_flush_to_memory,
	.drop = memory_drop,
	.has = memory_has,
	.fail = memory_fail,
	.drain = step_drain_to_memory,
};

static void make_directories(struct io *io)
{
	/* What an operator or a package makes, long before. */
	static const char *const paths[] = { "/var", "/var/journal" };
	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++)
		if (io_make_dir(io, paths[i]) < 0)
			abort();
	if (io_sync_dir(io, "/") < 0 || io_sync_dir(io, "/var") < 0)
		abort();
}

void run_begin(
	struct run *run, uint64_t seed, enum io_sim_lie lie, struct run_totals *totals, FILE *trace)
{
	memset(run, 0, sizeof(*run));
	rng_seed(&run->rng, seed);
	if (io_sim_new(rng_next(&run->rng), &run->sim) < 0 || base_sim_new(&run->base) < 0)
		abort();
	make_directories(io_sim_io(run->sim));
	io_sim_lie(run->sim, lie);
	io_sim_trace(run->sim, trace);
	clock_sim_init(&run->clock);
	model_init(&run->model);
	run->vault = &memory_vault;
	run->trace = trace;
	run->totals = totals;
	totals->runs++;
	static const uint32_t sizes[] = { 16, 64, 64, 128, MODEL_SECTORS };
	run->max_sectors = sizes[rng_below(&run->rng, ARRAY_SIZE(sizes))];
	run->max_write_sectors = 24;
	run->next_tag = 1;
	run->options = (struct history_options){
		.io = io_sim_io(run->sim),
		.clock = &run->clock.source,
		.base = base_sim_base(run->base),
		.directory = RUN_DIRECTORY,
		.limit_bytes = 16 * MIB,
		.segment_bytes = 64 * KIB,
	};
	memset(run->options.group.bytes, 0x5a, sizeof(run->options.group.bytes));
}

void run_close(struct run *run)
{
	view_close(run->passing_view);
	run->passing_view = NULL;
	for (unsigned i = 0; i < RUN_VIEWS; i++) {
		view_close(run->views[i].view);
		run->views[i].view = NULL;
	}
	history_close(run->history);
	run->history = NULL;
	if (run->vault->close)
		run->vault->close(run);
}

void run_end(struct run *run)
{
	/* Nothing more can be written, whatever state it is in. */
	io_sim_power_cut(run->sim);
	run_close(run);
	io_sim_free(run->sim);
	base_sim_free(run->base);
	model_free(&run->model);
}

int run_dead(struct run *run, int r, const char *what)
{
	if (io_sim_is_off(run->sim) || io_sim_has_failed(run->sim)) {
		run_trace(run, "%s: dead (%d)", what, r);
		return -EIO;
	}
	run_fail(run, "%s answers %d (%s) for no reason", what, r, strerror(-r));
}

struct model_disk *run_any_disk(struct run *run)
{
	struct model_state *live = &run->model.live;
	unsigned start = live->disk_count ? (unsigned)run_below(run, live->disk_count) : 0;
	for (unsigned i = 0; i < live->disk_count; i++) {
		struct model_disk *d = &live->disks[(start + i) % live->disk_count];
		if (!d->disk.removed)
			return d;
	}
	return NULL;
}

int run_staged(struct run *run, int r, struct model_op *op, const char *what)
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

void run_restart(struct run *run, unsigned how)
{
	run_close(run);
	run_trace(run, "restart, mode %u", how);
	if (how == RUN_KILL)
		io_sim_kill(run->sim);
	else
		io_sim_power_on(run->sim, how);
}

void run_note_durable(struct run *run)
{
	uint64_t lsn = history_durable_lsn(run->history);
	model_acknowledge(&run->model, lsn);
	io_sim_set_stamp(run->sim, run->model.all_count - run->model.op_count + 1);
	/* A point whose loss of the vault flag is durable has its manifest deleted. */
	struct model_state *durable = &run->model.durable;
	for (uint64_t n = 1; n <= durable->last_number; n++) {
		const struct model_point *p = model_point(durable, n);
		if (n > durable->newest_vault || !run->vault->has(run, n))
			continue;
		if (!p || !(p->point.flags & POINT_VAULT))
			run->vault->drop(run, n);
	}
}

static int see_disk(struct run *run, struct model_disk *d)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	history_bookmark(run->history, d->disk.id, d->bookmark);
	if (d->disk.removed)
		return 0;
	uint64_t sectors = model_sectors(d->disk.size_bytes);
	int r = history_read(run->history, d->disk.id, 0, (uint32_t)sectors, data);
	if (r < 0)
		return run_dead(run, r, "history_read");
	for (uint64_t i = 0; i < sectors; i++)
		d->tags[i] = model_tag(data + i * SECTOR_BYTES);
	return 0;
}

int run_see(struct run *run)
{
	struct model_seen *seen = &run->seen;
	struct history_disk disks[MODEL_DISKS];
	unsigned n = history_disks(run->history, disks, MODEL_DISKS);
	if (n > MODEL_DISKS)
		run_fail(run, "%u disks", n);
	seen->disk_count = n;
	for (unsigned i = 0; i < n; i++) {
		memset(&seen->disks[i], 0, sizeof(seen->disks[i]));
		seen->disks[i].disk = disks[i];
		int r = see_disk(run, &seen->disks[i]);
		if (r < 0)
			return r;
	}
	seen->point_count = history_points(run->history, 0, seen->points, MODEL_POINTS);
	seen->flush_pending = history_flush_pending(run->history);
	struct history_drain drain;
	history_drain_state(run->history, &drain);
	seen->drained = drain.number;
	struct history_stats stats;
	history_stats(run->history, &stats);
	seen->changed_bytes = stats.unsealed_bytes;
	return 0;
}

static int check_image(struct run *run, struct view *view, const struct model_point *p)
{
	static unsigned char data[MODEL_SECTORS * SECTOR_BYTES];
	const struct model_image *image = p->image;
	for (unsigned i = 0; i < run->model.durable.disk_count; i++) {
		uint16_t id = run->model.durable.disks[i].disk.id;
		unsigned at = 0;
		while (at < image->count && image->disks[at].id != id)
			at++;
		uint64_t bytes = at < image->count ? image->disks[at].size_bytes : 0;
		if (view_disk_bytes(view, id) != bytes)
			run_fail(run, "point %" PRIu64 " disk %u: %" PRIu64 " bytes, not %" PRIu64,
				p->point.number, id, view_disk_bytes(view, id), bytes);
		if (bytes == 0)
			continue;
		uint32_t sectors = image->disks[at].sectors;
		bool local = view_is_local(view, id, 0, sectors);
		/* What is local must not need the vault. */
		if (local)
			run->vault->fail(run, -EAGAIN);
		int r = view_read(view, id, 0, sectors, data);
		run->vault->fail(run, 0);
		if (r < 0 && (io_sim_is_off(run->sim) || io_sim_has_failed(run->sim)))
			return -EIO;
		if (r < 0)
			run_fail(run, "point %" PRIu64 " disk %u (local %d) reads %d",
				p->point.number, id, local, r);
		for (uint32_t s = 0; s < sectors; s++) {
			uint64_t tag = model_tag(data + s * SECTOR_BYTES);
			if (tag != image->disks[at].tags[s])
				run_fail(run,
					"point %" PRIu64 " disk %u sector %u: tag %" PRId64
					", seen %" PRId64,
					p->point.number, id, s, (int64_t)image->disks[at].tags[s],
					(int64_t)tag);
		}
	}
	return 0;
}

static int verify_point(struct run *run, const struct model_point *p)
{
	struct point point;
	int r = history_point(run->history, p->point.number, &point);
	if (r < 0)
		run_fail(run, "point %" PRIu64 " is listed but answers %d", p->point.number, r);
	r = history_view_open(run->history, p->point.number, &run->passing_view);
	if (p->point.flags & POINT_DRAINED) {
		if (r == 0)
			run_fail(run, "point %" PRIu64 " opens, though it is drained",
				p->point.number);
		run->passing_view = NULL;
		return 0;
	}
	if (r < 0) {
		run->passing_view = NULL;
		if (io_sim_is_off(run->sim) || io_sim_has_failed(run->sim))
			return -EIO;
		if (p->soft && (r == -ENODATA || r == -ENOENT))
			return 0;
		run_fail(run, "point %" PRIu64 " (flags %x) does not open: %d", p->point.number,
			p->point.flags, r);
	}
	uint64_t under = view_base_number(run->passing_view);
	if (view_number(run->passing_view) != p->point.number || under > p->point.number ||
		(under && !run->vault->has(run, under)))
		run_fail(run, "point %" PRIu64 " stands on %" PRIu64, p->point.number, under);
	r = check_image(run, run->passing_view, p);
	view_close(run->passing_view);
	run->passing_view = NULL;
	run->totals->points_verified += r == 0;
	return r;
}

int run_verify_points(struct run *run)
{
	for (unsigned i = 0; i < run->model.durable.point_count; i++) {
		int r = verify_point(run, &run->model.durable.points[i]);
		if (r < 0)
			return r;
	}
	if (base_sim_stray_reads(run->base) > 0)
		run_fail(run, "the vault was asked for what it does not have");
	return 0;
}

static void check_added_points(struct run *run)
{
	const struct model_state *state = &run->model.durable;
	for (unsigned i = 0; i < state->disk_count; i++) {
		struct history_disk d;
		if (state->disks[i].disk.removed)
			continue;
		if (history_disk(run->history, state->disks[i].disk.id, &d) < 0)
			run_fail(run, "disk %u is listed but not there", state->disks[i].disk.id);
		for (unsigned k = 0; k < state->point_count; k++) {
			const struct model_image *image = state->points[k].image;
			bool has = false;
			for (unsigned j = 0; j < image->count; j++)
				has |= image->disks[j].id == d.id;
			if (has && d.added_point > state->points[k].point.number)
				run_fail(run,
					"disk %u is in point %" PRIu64 " but was added at %" PRIu64,
					d.id, state->points[k].point.number, d.added_point);
		}
	}
}

int run_open(struct run *run)
{
	struct error error = { 0 };
	memset(&run->report, 0xa5, sizeof(run->report));
	int r = run->vault->open ? run->vault->open(run) : 0;
	if (r < 0)
		return run_dead(run, r, "opening the vault");
	r = history_open(&run->options, &run->report, &error, &run->history);
	if (r < 0) {
		run->history = NULL;
		if (!io_sim_is_off(run->sim) && !io_sim_has_failed(run->sim))
			run_fail(run, "open answers %d: %s", r, error.message);
		return -EIO;
	}
	if (run->report.faults != 0 || run->report.damaged_after != 0)
		if (!io_sim_has_failed(run->sim))
			run_fail(run, "open found %u faults, damage after %" PRIu64 ": %s",
				run->report.faults, run->report.damaged_after,
				run->report.first_fault);
	r = run_see(run);
	if (r < 0)
		return r;
	char why[1024];
	if (model_recover(&run->model, &run->seen, why))
		run_fail(run, "after opening, %s", why);
	run->last_lsn = history_staged_lsn(run->history);
	if (run->last_lsn != history_durable_lsn(run->history))
		run_fail(run, "something is staged after opening");
	run_note_durable(run);
	check_added_points(run);
	return run_verify_points(run);
}
