/*
 * A view: the disks of a group at one recovery point.
 *
 * It stands on the newest vault point at or below its own, and lays over that everything the
 * journal holds since, merged from the segments' runs, oldest first, when it is opened. It holds
 * references on those segments, so trim leaves them alone, and history.views keeps its vault
 * point from being dropped. Immutable once open: reads need the history's lock only to find the
 * segments' handles.
 *
 * Of the vault point below, too, the journal may still hold a part, and what is there need not
 * come over a network: view_local.c looks it up when a read first asks for what has not changed.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/log.h"
#include "fs/view_internal.h"

bool views_stand_on(const struct history *history, uint64_t number)
{
	for (const struct view *v = history->views; v; v = v->next)
		if (v->number == number || v->base_number == number)
			return true;
	return false;
}

struct view_disk *view_find_disk(const struct view *view, uint16_t id)
{
	for (unsigned i = 0; i < view->disk_count; i++)
		if (view->disks[i].id == id)
			return &view->disks[i];
	return NULL;
}

/* ── opening ─────────────────────────────────────────────────────────────────────────────── */

static int copy_disks(struct view *view)
{
	const struct history *history = view->history;
	view->disks = calloc(history->disk_count + 1, sizeof(*view->disks));
	if (!view->disks)
		return -ENOMEM;
	for (unsigned i = 0; i < history->disk_count; i++) {
		const struct disk *d = history->disks[i];
		uint64_t bytes = disk_bytes_at(d, view->number);
		if (bytes == 0)
			continue;
		view->disks[view->disk_count++] = (struct view_disk){
			.id = d->info.id,
			.bytes = bytes,
			.base_bytes = view->live          ? drain_disk_bytes(history, d->info.id)
				      : view->base_number ? disk_bytes_at(d, view->base_number)
							  : 0,
		};
	}
	return 0;
}

/* References all segments with records in (from, to]. */
static int hold_segments(struct view *view)
{
	struct history *history = view->history;
	view->segments = calloc(history->segment_count + 1, sizeof(*view->segments));
	view->copies = calloc(history->segment_count + 1, sizeof(*view->copies));
	if (!view->segments || !view->copies)
		return -ENOMEM;
	for (unsigned i = 0; i < history->segment_count && view->from_lsn < view->to_lsn; i++) {
		struct segment *s = history->segments[i];
		if (s->end == 0 || s->last_lsn <= view->from_lsn || s->first_lsn > view->to_lsn)
			continue;
		segment_ref(s);
		view->copies[view->segment_count] = *s;
		view->segments[view->segment_count++] = s;
	}
	return 0;
}

static int enter_history(struct view *view)
{
	int r = copy_disks(view);
	if (r == 0)
		r = hold_segments(view);
	if (r == 0) {
		view->next = view->history->views;
		view->history->views = view;
	}
	return r;
}

/* What has to be sent up to the mark of a drain, or to a point above one. lock held */
static int begin_view_to_flush(struct view *view)
{
	struct history *history = view->history;
	const struct catalogue_point *p = catalogue_find(history, view->number);
	if (view->mark > 0 && view->mark != history->drain_mark)
		return -ESTALE;
	if (view->mark > 0)
		view->to_lsn = view->mark;
	else if (p)
		view->to_lsn = p->position;
	else
		return -ENOENT;
	if (view->to_lsn > history->durable_lsn)
		return -ENOENT;
	view->live = history->drain.lsn > 0;
	view->base_number = history->vault_point;
	if (view->live) {
		/* The cut of a drain ends a part of the runs, as a seal does. */
		view->from_lsn = view->local_lsn = history->drain.lsn;
	} else {
		const struct catalogue_point *base = catalogue_find(history, view->base_number);
		view->from_lsn =
			MAX(history->vault_position, catalogue_anew_below(history, view->to_lsn));
		if (base && base->point.lsn == view->from_lsn)
			view->local_lsn = view->from_lsn;
	}
	if ((p && (p->point.flags & POINT_DAMAGED)) ||
		!journal_covers(history, view->from_lsn, view->to_lsn))
		return -ENODATA;
	return enter_history(view);
}

/* lock held */
static int begin_view(struct view *view)
{
	struct history *history = view->history;
	const struct catalogue_point *p = catalogue_find(history, view->number);
	if (!p || p->position > history->durable_lsn)
		return -ENOENT;
	const struct catalogue_point *base = p;
	if (p->point.flags & POINT_DRAINED)
		return -ENODATA;
	if (view->below > 0 && !(p->point.flags & POINT_LOCAL))
		return -ENODATA;
	if (!(p->point.flags & POINT_VAULT) || view->below > 0)
		base = catalogue_vault_below(
			history, view->below > 0 ? view->below : view->number, p->position);
	view->base_number = base ? base->point.number : 0;
	view->from_lsn = base ? base->position : 0;
	if (base != p)
		view->from_lsn = MAX(view->from_lsn, catalogue_anew_below(history, p->position));
	view->to_lsn = p->position;
	/* A point that was imported came with content that no record here tells. */
	if (base && base->point.lsn == view->from_lsn)
		view->local_lsn = view->from_lsn;
	if (view->base_number != view->number &&
		((p->point.flags & POINT_DAMAGED) ||
			!journal_covers(history, view->from_lsn, view->to_lsn)))
		return -ENODATA;
	return enter_history(view);
}

static int lay_extent(struct view *view, uint16_t id, const struct extent *e)
{
	struct view_disk *disk = view_find_disk(view, id);
	if (!disk)
		return 0;
	if (!disk->map) {
		int r = extent_map_new(&disk->map);
		if (r < 0)
			return r;
	}
	return extent_map_insert(disk->map, e);
}

static void lay_soon(struct view *view, const struct journal_index_extent *packed)
{
	const struct view_disk *disk = view_find_disk(view, run_disk(packed));
	if (disk && disk->map)
		extent_map_prefetch(disk->map, run_lba(packed));
}

static int lay_run(struct view *view, const struct segment *segment, const struct run *run)
{
	const struct journal_index_extent *p = run->extents;
	for (uint64_t i = 0; i < run->part_count; i++) {
		uint64_t last = run->parts[i].last_lsn;
		/* Parts end at seals and marks, and so do both ends of the view. */
		bool wanted = last > view->from_lsn && last <= view->to_lsn;
		for (uint64_t n = 0; n < run->parts[i].extent_count; n++, p++) {
			uint16_t id;
			struct extent e;
			if (wanted && n + RUN_AHEAD < run->parts[i].extent_count)
				lay_soon(view, p + RUN_AHEAD);
			run_unpack(p, segment->seq, &id, &e);
			int r = wanted ? lay_extent(view, id, &e) : 0;
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int lay_segments(struct view *view)
{
	for (unsigned i = 0; i < view->segment_count; i++) {
		struct segment values = view->copies[i];
		struct run run;
		int r = values.index_bytes > 0 ? run_read(view->history, &values, &run) : -ENOENT;
		if (r < 0 && r != -ENOMEM) {
			/* Of the last segment no more than the point's own records are wanted. */
			values.last_lsn = MIN(values.last_lsn, view->to_lsn);
			r = run_scan(view->history, &values, &run);
		}
		if (r < 0)
			return r == -EBADMSG ? -ENODATA : r;
		r = lay_run(view, &values, &run);
		run_free(&run);
		if (r < 0)
			return r;
	}
	return 0;
}

static void leave_history(struct view *view)
{
	SCOPED_LOCK(&view->history->lock);
	struct view **link = &view->history->views;
	while (*link && *link != view)
		link = &(*link)->next;
	if (*link)
		*link = view->next;
}

static int open_view(const struct view *wanted, struct view **ret_view)
{
	struct history *history = wanted->history;
	struct view *view = malloc(sizeof(*view));
	if (!view)
		return -ENOMEM;
	*view = *wanted;
	pthread_mutex_init(&view->local_lock, NULL);
	pthread_mutex_init(&view->lower_lock, NULL);
	pthread_mutex_lock(&history->lock);
	int r = view->to_flush ? begin_view_to_flush(view) : begin_view(view);
	pthread_mutex_unlock(&history->lock);
	if (r == 0)
		r = lay_segments(view);
	if (r < 0) {
		view_close(view);
		return r;
	}
	*ret_view = view;
	return 0;
}

int history_view_open(struct history *history, uint64_t number, struct view **ret_view)
{
	const struct view wanted = { .history = history, .number = number };
	return open_view(&wanted, ret_view);
}

int history_flush_view(struct history *history, uint64_t number, struct view **ret_view)
{
	pthread_mutex_lock(&history->lock);
	bool drained = history->drain.lsn > 0;
	pthread_mutex_unlock(&history->lock);
	const struct view wanted = { .history = history, .number = number, .to_flush = drained };
	return open_view(&wanted, ret_view);
}

int history_drain_view(
	struct history *history, uint64_t number, uint64_t lsn, struct view **ret_view)
{
	const struct view wanted = {
		.history = history, .number = number, .to_flush = true, .mark = lsn
	};
	return lsn == 0 ? -EINVAL : open_view(&wanted, ret_view);
}

static void free_view(struct view *view)
{
	leave_history(view);
	for (unsigned i = 0; i < view->segment_count; i++)
		segment_unref(view->history, view->segments[i]);
	for (unsigned i = 0; i < view->disk_count; i++) {
		extent_map_free(view->disks[i].map);
		extent_map_free(view->disks[i].local);
	}
	pthread_mutex_destroy(&view->local_lock);
	pthread_mutex_destroy(&view->lower_lock);
	free(view->segments);
	free(view->copies);
	free(view->disks);
	free(view);
}

void view_close(struct view *view)
{
	while (view) {
		struct view *lower = view->lower;
		free_view(view);
		view = lower;
	}
}

/* ── using ───────────────────────────────────────────────────────────────────────────────── */

uint64_t view_number(const struct view *view)
{
	return view->number;
}

uint64_t view_base_number(const struct view *view)
{
	return view->base_number;
}

/* The records that told of a vault point's deletion, and of the flush that came before it, may both
 * be lost. The vault says what is so: the view then stands on the vault point below, and the
 * journal between is laid over that. NULL: the journal does not have all of it. */
static struct view *lower_view(struct view *view)
{
	SCOPED_LOCK(&view->lower_lock);
	if (view->lower_done || view->base_number == 0)
		return view->lower;
	const struct view wanted = {
		.history = view->history, .number = view->number, .below = view->base_number
	};
	int r = open_view(&wanted, &view->lower);
	view->lower_done = r != -ENOMEM;
	if (r == 0)
		log_warning("%s: vault point %" PRIu64 " is not in the vault; point %" PRIu64
			    " is read from vault point %" PRIu64 " and the journal",
			view->history->directory, view->base_number, view->number,
			view->lower->base_number);
	return view->lower;
}

static int read_on(struct view *view, struct view_pass *pass, const struct view_disk *d,
	uint64_t lba, uint32_t sectors, uint8_t *data, uint32_t *done)
{
	const struct ground ground = view_ground(view, d, lba, sectors);
	struct piece pieces[MAX_PIECES];
	while (*done < sectors) {
		pthread_mutex_lock(&view->history->lock);
		unsigned count = pieces_collect(view->history, d->map, &ground, lba + *done,
			sectors - *done, data + (size_t)*done * SECTOR_BYTES, pieces, MAX_PIECES);
		pthread_mutex_unlock(&view->history->lock);
		int r = pieces_read(view->history, d->id, &ground, pieces, count, pass);
		pieces_release(view->history, pieces, count);
		if (r < 0)
			return r;
		*done = (uint32_t)(pieces[count - 1].lba + pieces[count - 1].sectors - lba);
	}
	return 0;
}

int view_read_in_pass(struct view *view, struct view_pass *pass, uint16_t disk, uint64_t lba,
	uint32_t sectors, void *data)
{
	const struct view_disk *d = view_find_disk(view, disk);
	uint32_t done = 0;
	if (!d)
		return -ENOENT;
	if (sectors == 0 || lba + sectors < lba || lba + sectors > d->bytes / SECTOR_BYTES)
		return -EINVAL;
	for (;;) {
		int r = read_on(view, pass, d, lba, sectors, data, &done);
		if (r != -ENOENT)
			return r;
		view = lower_view(view); /* the base has no such point */
		d = view ? view_find_disk(view, disk) : NULL;
		if (!d)
			return -EIO;
	}
}

int view_read(struct view *view, uint16_t disk, uint64_t lba, uint32_t sectors, void *data)
{
	return view_read_in_pass(view, NULL, disk, lba, sectors, data);
}

int view_next_change(struct view *view, uint16_t disk, uint64_t lba, struct extent *ret_extent)
{
	const struct view_disk *d = view_find_disk(view, disk);
	if (!d || !d->map)
		return -ENOENT;
	return extent_map_find(d->map, lba, ret_extent);
}

uint64_t view_disk_bytes(struct view *view, uint16_t disk)
{
	const struct view_disk *d = view_find_disk(view, disk);
	return d ? d->bytes : 0;
}

uint64_t view_memory_bytes(struct view *view)
{
	uint64_t bytes = sizeof(*view) + view->disk_count * sizeof(*view->disks) +
			 view->segment_count * (sizeof(*view->copies) + sizeof(*view->segments));
	bool local = atomic_load_explicit(&view->local_done, memory_order_acquire);
	for (unsigned i = 0; i < view->disk_count; i++) {
		if (view->disks[i].map)
			bytes += extent_map_memory_bytes(view->disks[i].map);
		if (local && view->disks[i].local)
			bytes += extent_map_memory_bytes(view->disks[i].local);
	}
	pthread_mutex_lock(&view->lower_lock);
	if (view->lower)
		bytes += view_memory_bytes(view->lower);
	pthread_mutex_unlock(&view->lower_lock);
	return bytes;
}
