/*
 * The steps of a simulated life that concern the vault: flushes, drains, a takeover. The vault is
 * in memory (base_sim.h); what a flush sends must be the model's image of the point, neither more
 * nor less.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/sim/history_run.h"

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
	if (r == 0 && run_below(run, 6) == 0)
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
	return run_staged(run, r, &op, "flush_begin");
}

int step_flush_commit(struct run *run, uint64_t number)
{
	struct model_op op = { .kind = MODEL_FLUSH_COMMIT, .number = number };
	int r = history_flush_commit(run->history, number, &op.lsn);
	r = run_staged(run, r, &op, "flush_commit");
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
	return r == 0 && run_below(run, 3) ? step_commit(run) : r;
}

int step_flush(struct run *run)
{
	const struct model_state *durable = &run->model.durable;
	uint64_t number = run->model.live.flush_pending;
	const struct model_point *pending = model_point(&run->model.durable, number);
	if (number && run->drains &&
		(!pending || pending->image->count == 0 || run_below(run, 4) == 0))
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
		number = candidates[run_below(run, n)];
	}
	return run->vault->flush(run, number);
}

int step_drain_begin(struct run *run, uint64_t *ret_number, uint64_t *ret_cut, uint64_t *ret_lsn)
{
	struct model_op op = { .kind = MODEL_FLUSH_BEGIN };
	bool due = false;
	for (unsigned i = 0; i < run->model.live.point_count; i++)
		due |= run->model.live.points[i].point.number > run->model.live.newest_vault;
	uint64_t most = run_below(run, 2) ? 0 : 1 + run_below(run, 256 * KIB);
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
	r = run_staged(run, r, &op, "drain_begin");
	*ret_number = op.number;
	*ret_lsn = op.lsn;
	return r;
}

int step_drain_commit(struct run *run, const struct view *view)
{
	struct model_op op = { .kind = MODEL_DRAIN, .number = view_number(view) };
	struct history_drain drain;
	uint8_t proof[HISTORY_DRAIN_PROOF_BYTES];
	size_t n = run_below(run, sizeof(proof) + 1);
	rng_fill(&run->rng, proof, n);
	int r = history_drain_commit(run->history, view, proof, n, &op.lsn);
	bool sealed = run->model.live.last_number >= op.number;
	if (r == -ESTALE && sealed)
		return 0;
	if (r == 0 && sealed)
		run_fail(run, "a drain ends after its point was sealed");
	r = run_staged(run, r, &op, "drain_commit");
	history_drain_state(run->history, &drain);
	if (r == 0 && (drain.number != op.number || drain.sealed || drain.proof_bytes != n ||
			      memcmp(drain.proof, proof, n) != 0))
		run_fail(run, "the drain is not what was committed");
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
	if (r == 0 && run_below(run, 4) == 0)
		r = 1; /* cut short */
	if (r == 0)
		r = send_live(run, run->passing_view, image, all);
	if (r == 0)
		r = step_disturb(run);
	if (r == 0)
		r = step_drain_commit(run, run->passing_view);
	view_close(run->passing_view);
	run->passing_view = NULL;
	if (r == 0 && run_below(run, 3))
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
		run_below(run, 2))
		r = run->vault->flush(run, number);
	if (r == 0)
		r = run->vault->drain(run);
	return r == 0 && run_below(run, 2) ? step_trim(run, 0) : r;
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
	r = run_staged(run, r, &import, "import_disk");
	if (r < 0)
		return r;
	for (unsigned i = 1 + (unsigned)run_below(run, 3); i > 0; i--) {
		number += 1 + run_below(run, 4);
		struct model_image *image = model_image_new(&run->model);
		image->count = 1;
		image->disks[0].id = 1;
		image->disks[0].sectors = sectors;
		image->disks[0].size_bytes = (uint64_t)sectors * SECTOR_BYTES;
		for (uint32_t s = 0; s < sectors; s++) {
			image->disks[0].tags[s] = run_below(run, 2) ? run->next_tag++ : 0;
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
		op.point.changed_bytes = run_below(run, 4096) * SECTOR_BYTES;
		op.point.kind = POINT_CRASH;
		op.point.flags = POINT_VAULT;
		r = history_point_import(run->history, &op.point, &op.lsn);
		r = run_staged(run, r, &op, "point_import");
		if (r < 0)
			return r;
	}
	return step_commit(run);
}
