/*
 * What the journal still holds of the vault point that a view stands on.
 *
 * A sector whose newest record at or below the point is in a live segment has that record's
 * content, wherever the vault has it as well. So the runs of the segments are laid under each
 * other, from the vault point back to a gap, an import, or MAX_LOCAL extents; when they reach the
 * journal's first record, what is in none of them was never written.
 *
 * It is done once a view, when something unchanged is first asked for. The segments are not held:
 * trim goes on beside a view that is open for days, and what is trimmed is read from the base.
 *
 * Threads: view.local_lock is held across the loading; what it made never changes after.
 */
#include <errno.h>

#include "fs/view_internal.h"

#define MAX_LOCAL (1u << 20)
#define MAX_SCANS 2u /* of segments that have no index yet */

/* References the segments with records up to local_lsn, newest first, as long as each follows the
 * next without a gap, and copies their values. Returns how many; `ret_floor`: nothing at or below
 * it counts. */
static unsigned find_segments(const struct view *view, struct segment **segments,
	struct segment *copies, unsigned max, uint64_t *ret_floor)
{
	struct history *history = view->history;
	uint64_t floor = 0, end = view->local_lsn;
	unsigned n = 0;
	SCOPED_LOCK(&history->lock);
	for (uint64_t i = 0; i < history->import_count; i++) {
		uint64_t lsn = history->imports[i] & ~JOURNAL_ANEW;
		if (lsn <= view->local_lsn)
			floor = MAX(floor, lsn);
	}
	for (unsigned i = history->segment_count; i > 0 && n < max && end > floor; i--) {
		struct segment *s = history->segments[i - 1];
		if (s->end == 0 || s->first_lsn > end)
			continue;
		if (n == 0 ? s->last_lsn < end : s->last_lsn != end)
			break;
		segment_ref(s);
		copies[n] = *s;
		segments[n++] = s;
		end = s->prev_lsn;
		if (s->first_lsn != s->prev_lsn + 1)
			break; /* damage was cut out here */
	}
	*ret_floor = floor;
	return n;
}

/* Maps of `e` what is not mapped yet. */
static int lay_under(struct extent_map *map, const struct extent *e)
{
	uint64_t at = e->lba, end = e->lba + e->sectors;
	while (at < end) {
		struct extent x;
		bool found = extent_map_find(map, at, &x) == 0;
		uint64_t stop = found ? MIN(x.lba, end) : end;
		if (at < stop) {
			struct extent part = *e;
			part.lba = at;
			part.sectors = stop - at;
			if (!e->zero)
				part.skip = (uint8_t)(e->skip + (at - e->lba));
			int r = extent_map_insert(map, &part);
			if (r < 0)
				return r;
		}
		at = found ? x.lba + x.sectors : end;
	}
	return 0;
}

static int lay_part(
	struct view *view, uint64_t seq, const struct journal_index_extent *packed, uint64_t count)
{
	for (uint64_t n = 0; n < count; n++) {
		uint16_t id;
		struct extent e;
		const struct view_disk *soon =
			n + RUN_AHEAD < count
				? view_find_disk(view, run_disk(&packed[n + RUN_AHEAD]))
				: NULL;
		if (soon && soon->local)
			extent_map_prefetch(soon->local, run_lba(&packed[n + RUN_AHEAD]));
		run_unpack(&packed[n], seq, &id, &e);
		struct view_disk *disk = view_find_disk(view, id);
		if (!disk || disk->base_bytes == 0)
			continue;
		int r = disk->local ? 0 : extent_map_new(&disk->local);
		if (r == 0)
			r = lay_under(disk->local, &e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int lay_run(
	struct view *view, const struct segment *segment, const struct run *run, uint64_t floor)
{
	const struct journal_index_extent *p = run->extents + run->extent_count;
	int r = 0;
	for (uint64_t i = run->part_count; i > 0 && r == 0; i--) {
		const struct journal_index_part *part = &run->parts[i - 1];
		p -= part->extent_count;
		/* Parts end at seals, imports and marks, and so do both bounds. */
		if (part->last_lsn <= view->local_lsn && part->last_lsn > floor)
			r = lay_part(view, segment->seq, p, part->extent_count);
	}
	return r;
}

/* -EFBIG: there is no room for the segment's runs any more. */
static int lay_segment(
	struct view *view, struct segment *values, uint64_t floor, uint64_t *room, unsigned *scans)
{
	struct run run;
	int r = -ENOENT;
	/* The header and the parts of the index are small beside its extents. */
	if (values->index_bytes / sizeof(struct journal_index_extent) / 2 > *room)
		return -EFBIG;
	if (values->index_bytes > 0)
		r = run_read(view->history, values, &run);
	if (r < 0 && r != -ENOMEM) {
		if ((*scans)++ == MAX_SCANS)
			return -EFBIG;
		values->last_lsn = MIN(values->last_lsn, view->local_lsn);
		r = run_scan(view->history, values, &run);
	}
	if (r < 0)
		return r;
	r = run.extent_count > *room ? -EFBIG : lay_run(view, values, &run, floor);
	*room -= MIN(*room, run.extent_count);
	run_free(&run);
	return r;
}

static void load(struct view *view)
{
	struct history *history = view->history;
	pthread_mutex_lock(&history->lock);
	unsigned max = history->segment_count, scans = 0, n = 0;
	pthread_mutex_unlock(&history->lock);
	CLEANUP_FREE struct segment **segments = calloc(max + 1, sizeof(*segments));
	CLEANUP_FREE struct segment *copies = calloc(max + 1, sizeof(*copies));
	uint64_t floor = 0, room = MAX_LOCAL;
	int r = segments && copies ? 0 : -ENOMEM;
	if (r == 0)
		n = find_segments(view, segments, copies, max, &floor);
	/* Whatever ends it: what was laid so far is right, and the rest is in the base. */
	for (unsigned i = 0; i < n; i++) {
		if (r == 0)
			r = lay_segment(view, &copies[i], floor, &room, &scans);
		segment_unref(history, segments[i]);
	}
	view->all_local = r == 0 && n > 0 && floor == 0 && copies[n - 1].prev_lsn == 0 &&
			  copies[n - 1].first_lsn == 1;
}

static void want_local(struct view *view)
{
	if (atomic_load_explicit(&view->local_done, memory_order_acquire))
		return;
	SCOPED_LOCK(&view->local_lock);
	if (atomic_load_explicit(&view->local_done, memory_order_relaxed))
		return;
	if (view->local_lsn > 0)
		load(view);
	atomic_store_explicit(&view->local_done, true, memory_order_release);
}

/* The first stretch of [lba, end) that the base has and that has not changed since. */
static bool find_unchanged(const struct view_disk *disk, uint64_t lba, uint64_t end,
	uint64_t *ret_lba, uint64_t *ret_end)
{
	end = MIN(end, disk->base_bytes / SECTOR_BYTES);
	while (lba < end) {
		struct extent e;
		bool found = disk->map && extent_map_find(disk->map, lba, &e) == 0;
		if (!found || e.lba > lba) {
			*ret_lba = lba;
			*ret_end = found ? MIN(e.lba, end) : end;
			return true;
		}
		lba = e.lba + e.sectors;
	}
	return false;
}

struct ground view_ground(
	struct view *view, const struct view_disk *disk, uint64_t lba, uint64_t sectors)
{
	uint64_t at, end;
	if (find_unchanged(disk, lba, lba + sectors, &at, &end))
		want_local(view);
	bool local = atomic_load_explicit(&view->local_done, memory_order_acquire);
	return (struct ground){
		.point = view->base_number,
		.live = view->live,
		.sectors = disk->base_bytes / SECTOR_BYTES,
		.position = view->local_lsn,
		.local = local ? disk->local : NULL,
		.all_local = local && view->all_local,
	};
}

/* True if the journal still holds all of [lba, end) of the vault point below; lock held. */
static bool still_holds(
	const struct view *view, const struct view_disk *disk, uint64_t lba, uint64_t end)
{
	while (lba < end) {
		struct extent e;
		bool found =
			disk->local && extent_map_find(disk->local, lba, &e) == 0 && e.lba < end;
		if ((!found || e.lba > lba) && !view->all_local)
			return false;
		if (!found)
			return true;
		if (!e.zero && !segment_find(view->history, e.segment))
			return false;
		lba = e.lba + e.sectors;
	}
	return true;
}

bool view_is_local(struct view *view, uint16_t disk, uint64_t lba, uint64_t sectors)
{
	const struct view_disk *d = view_find_disk(view, disk);
	uint64_t at = lba, end = lba, last = lba + sectors;
	if (!d)
		return false;
	while (find_unchanged(d, end, last, &at, &end)) {
		want_local(view);
		SCOPED_LOCK(&view->history->lock);
		if (!still_holds(view, d, at, end))
			return false;
	}
	return true;
}
