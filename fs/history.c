/*
 * The history: opened and closed, sealed, its points looked up and marked, its figures.
 *
 * What each function promises is in history.h; how the parts fit is in history_internal.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/rng.h"
#include "fs/history_internal.h"

/* ── opening and closing ─────────────────────────────────────────────────────────────────── */

/* The upper half counts openings, the lower is random: a life that left nothing behind but stale
 * records in a spare must not be mistaken for the next one. */
int new_incarnation(struct history *history)
{
	uint32_t salt;
	int r = random_bytes(&salt, sizeof(salt));
	if (r < 0)
		return r;
	history->incarnation = ((history->incarnation >> 32) + 1) << 32 | salt;
	return 0;
}

static int make_directory(struct io *io, const char *path)
{
	int r = io_make_dir(io, path);
	if (r < 0 && r != -EEXIST)
		return r;
	CLEANUP_FREE char *parent = strdup(path);
	if (!parent)
		return -ENOMEM;
	char *slash = strrchr(parent, '/');
	if (slash)
		*(slash == parent ? slash + 1 : slash) = '\0';
	return io_sync_dir(io, slash ? parent : ".");
}

static int take_lock(struct history *history, struct error *error)
{
	char path[SEGMENT_PATH_BYTES(history)];
	snprintf(path, sizeof(path), "%s/lock", history->directory);
	int r = io_open(history->io, path, IO_WRITE | IO_CREATE, &history->lock_file);
	if (r == 0)
		r = io_lock(history->lock_file);
	if (r == -EBUSY)
		return error_set(error, r, "stop the other process that uses it",
			"%s is in use by another process", history->directory);
	if (r < 0)
		return error_set(error, r, NULL, "%s: %s", path, strerror(-r));
	return 0;
}

static int new_history(const struct history_options *options, struct history **ret_history)
{
	struct history *h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->io = options->io;
	h->clock = options->clock;
	h->base = options->base;
	h->group = options->group;
	h->limit_bytes = options->limit_bytes ? options->limit_bytes : UINT64_MAX;
	h->segment_bytes =
		options->segment_bytes ? options->segment_bytes : (uint32_t)HISTORY_SEGMENT_BYTES;
	h->next_seq = 1;
	h->next_disk = 1;
	h->format = JOURNAL_VERSION;
	pthread_mutex_init(&h->upkeep_lock, NULL);
	pthread_mutex_init(&h->commit_lock, NULL);
	pthread_mutex_init(&h->lock, NULL);
	h->directory = strdup(options->directory);
	h->headers = header_cache_new(HEADER_CACHE_BYTES);
	if (!h->directory || !h->headers) {
		history_close(h);
		return -ENOMEM;
	}
	*ret_history = h;
	return 0;
}

static int open_history(struct history *history, struct history_report *report, struct error *error)
{
	int r = make_directory(history->io, history->directory);
	if (r < 0)
		return error_set(error, r, NULL, "%s: making the directory failed: %s",
			history->directory, strerror(-r));
	r = take_lock(history, error);
	if (r < 0)
		return r;
	struct error local = { 0 };
	struct replay replay = { .report = report, .error = error ? error : &local };
	r = replay_all(history, &replay);
	if (r < 0 && replay.error->code == 0)
		error_set(error, r, NULL, "%s: opening the journal failed: %s", history->directory,
			strerror(-r));
	free(replay.listed);
	free(replay.links);
	free(replay.lost);
	return r < 0 ? r : new_incarnation(history);
}

int history_open(const struct history_options *options, struct history_report *ret_report,
	struct error *error, struct history **ret_history)
{
	uint32_t bytes = options->segment_bytes;
	if (bytes != 0 && (bytes < 64 * KIB || bytes > HISTORY_SEGMENT_BYTES ||
				  !is_aligned(bytes, JOURNAL_PAGE_BYTES)))
		return error_set(error, -EINVAL, "give 64 KiB to 64 MiB in whole 4 KiB",
			"%u bytes is no size for a segment", bytes);
	struct history *history;
	struct history_report report = { 0 };
	if (error)
		error->code = 0;
	int r = new_history(options, &history);
	if (r == 0)
		r = open_history(history, &report, error);
	else
		return r;
	if (r < 0) {
		history_close(history);
		return r;
	}
	history->open = true;
	*ret_report = report;
	*ret_history = history;
	return 0;
}

const struct uuid *history_group(const struct history *history)
{
	return &history->group; /* set once, before anybody has it */
}

void history_close(struct history *history)
{
	if (!history)
		return;
	stage_discard(history);
	if (history->open)
		(void)commit_proof(history); /* if it fails, it is as after a crash */
	stage_discard(history);
	stage_free_spare(history);
	segments_free(history);
	for (unsigned i = 0; i < history->disk_count; i++)
		disk_free(history->disks[i]);
	for (unsigned i = 0; i < history->lost_disk_count; i++)
		extent_map_free(history->lost_disks[i].map);
	free(history->lost_disks);
	free(history->points);
	free(history->imports);
	free(history->absences);
	free(history->leftovers);
	io_close(history->zeros.file);
	header_cache_free(history->headers);
	io_close(history->lock_file);
	pthread_mutex_destroy(&history->lock);
	pthread_mutex_destroy(&history->commit_lock);
	pthread_mutex_destroy(&history->upkeep_lock);
	free(history->directory);
	free(history);
}

/* ── sealing ─────────────────────────────────────────────────────────────────────────────── */

int history_seal(
	struct history *history, const struct seal *seal, uint64_t *ret_number, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	struct journal_record record = { .type = JOURNAL_SEAL };
	struct journal_seal *out = &record.seal;
	if (seal->bookmark_count > ARRAY_SIZE(out->bookmarks) ||
		(seal->kind != POINT_CRASH && seal->kind != POINT_APPLICATION) ||
		(seal->flags & ~(uint32_t)(POINT_KEEP | POINT_PRESSURE)))
		return -EINVAL;
	out->number = history->last_point + 1;
	out->time_ns = seal->time_ns;
	out->changed_bytes = history->changed_bytes;
	out->flags = seal->flags;
	out->kind = seal->kind;
	out->bookmark_count = (uint16_t)seal->bookmark_count;
	for (unsigned i = 0; i < seal->bookmark_count; i++) {
		if (!disk_find(history, seal->bookmarks[i].disk))
			return -ENOENT;
		out->bookmarks[i].disk = seal->bookmarks[i].disk;
		memcpy(out->bookmarks[i].data, seal->bookmarks[i].data, HISTORY_BOOKMARK_BYTES);
	}
	uint64_t number = out->number;
	int r = stage_record(history, &record, ret_lsn);
	if (r == 0)
		*ret_number = number;
	return r;
}

uint64_t history_changes(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	return history->changes;
}

uint64_t history_staged_lsn(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	return history->staged_lsn;
}

uint64_t history_durable_lsn(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	return history->durable_lsn;
}

uint64_t history_staged_bytes(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	return history->staged_bytes;
}

/* ── points ──────────────────────────────────────────────────────────────────────────────── */

unsigned history_points(
	struct history *history, uint64_t from, struct point *ret_points, unsigned max)
{
	SCOPED_LOCK(&history->lock);
	unsigned n = 0;
	for (uint64_t i = catalogue_rank(history, from); i < history->point_count && n < max; i++)
		n += catalogue_show(history, i, &ret_points[n]);
	return n;
}

int history_point(struct history *history, uint64_t number, struct point *ret_point)
{
	SCOPED_LOCK(&history->lock);
	uint64_t i = catalogue_rank(history, number);
	struct point p;
	if (i == history->point_count || history->points[i].point.number != number ||
		!catalogue_show(history, i, &p))
		return -ENOENT;
	*ret_point = p;
	return 0;
}

int history_point_newest(
	struct history *history, uint32_t flags, int64_t time_ns, struct point *ret_point)
{
	SCOPED_LOCK(&history->lock);
	for (uint64_t i = history->point_count; i > 0; i--) {
		struct point p;
		if (!catalogue_show(history, i - 1, &p) || (p.flags & flags) != flags ||
			p.time_ns > time_ns)
			continue;
		*ret_point = p;
		return 0;
	}
	return -ENOENT;
}

int history_point_latest(struct history *history, int64_t time_ns, struct point *ret_point)
{
	SCOPED_LOCK(&history->lock);
	for (uint64_t i = history->point_count; i > 0; i--) {
		struct point p;
		if (!catalogue_show(history, i - 1, &p) || (p.flags & POINT_DRAINED) ||
			p.time_ns > time_ns)
			continue;
		*ret_point = p;
		return 0;
	}
	return -ENOENT;
}

int history_point_oldest(
	struct history *history, uint64_t from, uint32_t flags, struct point *ret_point)
{
	SCOPED_LOCK(&history->lock);
	for (uint64_t i = catalogue_rank(history, from); i < history->point_count; i++) {
		struct point p;
		if (!catalogue_show(history, i, &p) || (p.flags & flags) != flags)
			continue;
		*ret_point = p;
		return 0;
	}
	return -ENOENT;
}

int history_point_mark(
	struct history *history, uint64_t number, uint32_t set, uint32_t clear, uint64_t *ret_lsn)
{
	const uint32_t allowed = POINT_KEEP | POINT_VERIFIED | POINT_FAILED;
	SCOPED_LOCK(&history->lock);
	if (((set & ~(uint32_t)POINT_DAMAGED) | clear) & ~allowed)
		return -EINVAL;
	if (!catalogue_find(history, number))
		return -ENOENT;
	struct journal_point_flags change = { .number = number, .set = set, .clear = clear };
	return stage_point_flags(history, &change, 1, ret_lsn);
}

/* When the vault point at index i goes, local points above it stand on the one below; those that
 * the journal does not reach back for are local no more. */
static int list_cut_off(struct history *history, uint64_t i, uint32_t flags,
	struct journal_point_flags **ret_changes, uint64_t *ret_count)
{
	struct journal_point_flags *changes = malloc((history->point_count + 2) * sizeof(*changes));
	if (!changes)
		return -ENOMEM;
	uint64_t needs_above = point_needs_above(history, &history->points[i]), n = 0;
	changes[n++] = (struct journal_point_flags){ .number = history->points[i].point.number,
		.clear = flags };
	bool vault_goes = flags & history->points[i].point.flags & POINT_VAULT;
	for (uint64_t k = i; vault_goes && k < history->point_count; k++) {
		const struct catalogue_point *p = &history->points[k];
		if ((p->point.flags & POINT_LOCAL) && !(p->point.flags & POINT_DAMAGED) &&
			!journal_covers(
				history, needs_above, MIN(p->position, history->durable_lsn))) {
			if (k == i)
				changes[0].clear |= POINT_LOCAL;
			else
				changes[n++] =
					(struct journal_point_flags){ .number = p->point.number,
						.clear = POINT_LOCAL };
		}
		if (k > i && (p->point.flags & POINT_VAULT))
			break;
	}
	/* Says once more what the history stands on now: were the flush's own record lost, it would
	 * stand on nothing. */
	if (vault_goes && changes[n - 1].number != history->vault_point)
		changes[n++] = (struct journal_point_flags){ .number = history->vault_point };
	*ret_changes = changes;
	*ret_count = n;
	return 0;
}

void history_number_above(struct history *history, uint64_t number)
{
	SCOPED_LOCK(&history->lock);
	history->last_point = MAX(history->last_point, number);
}

int history_point_drop(struct history *history, uint64_t number, uint32_t flags, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	if (flags == 0 || (flags & ~(uint32_t)(POINT_LOCAL | POINT_VAULT)))
		return -EINVAL;
	const struct catalogue_point *p = catalogue_find(history, number);
	if (!p)
		return -ENOENT;
	if ((flags & POINT_VAULT) && number == history->vault_point)
		return -EBUSY;
	if (p->point.flags & POINT_DRAINED)
		return -EBUSY;
	if (views_stand_on(history, number))
		return -EBUSY;
	CLEANUP_FREE struct journal_point_flags *changes = NULL;
	uint64_t count;
	int r = list_cut_off(history, (uint64_t)(p - history->points), flags, &changes, &count);
	return r < 0 ? r : stage_point_flags(history, changes, count, ret_lsn);
}

int history_point_import(struct history *history, const struct point *point, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	if (catalogue_find(history, point->number))
		return -EEXIST;
	if (point->number == 0 || (catalogue_rank(history, point->number) < history->point_count &&
					  point->number > history->vault_point))
		return -EINVAL;
	struct journal_record record = { .type = JOURNAL_POINT_IMPORT };
	record.point = (struct journal_point){
		.number = point->number,
		.time_ns = point->time_ns,
		.changed_bytes = point->changed_bytes,
		.flags = (point->flags | POINT_VAULT) & ~(uint32_t)POINT_LOCAL,
		.kind = point->kind,
	};
	return stage_record(history, &record, ret_lsn);
}

uint64_t history_point_disk_bytes(struct history *history, uint64_t number, uint16_t disk)
{
	SCOPED_LOCK(&history->lock);
	const struct disk *d = disk_find(history, disk);
	if (!d || !catalogue_find(history, number))
		return 0;
	return disk_bytes_at(d, number);
}

/* ── the vault's side ────────────────────────────────────────────────────────────────────── */

static int stage_flush(
	struct history *history, enum journal_type type, uint64_t number, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	if (!history->base || number <= history->vault_point)
		return -EINVAL;
	if (type == JOURNAL_FLUSH_BEGIN && history->repair_due)
		return -EUCLEAN;
	const struct catalogue_point *p = catalogue_find(history, number);
	if (!p)
		return -ENOENT;
	struct journal_record record = { .type = (uint16_t)type };
	if (type == JOURNAL_FLUSH_COMMIT)
		record.point = catalogue_pack(p);
	else
		record.flush = number;
	return stage_record(history, &record, ret_lsn);
}

int history_flush_begin(struct history *history, uint64_t number, uint64_t *ret_lsn)
{
	return stage_flush(history, JOURNAL_FLUSH_BEGIN, number, ret_lsn);
}

int history_flush_commit(struct history *history, uint64_t number, uint64_t *ret_lsn)
{
	return stage_flush(history, JOURNAL_FLUSH_COMMIT, number, ret_lsn);
}

uint64_t history_flush_pending(struct history *history)
{
	SCOPED_LOCK(&history->lock);
	return history->flush_pending;
}

/* ── figures ─────────────────────────────────────────────────────────────────────────────── */

static uint64_t map_memory(const struct history *history, uint64_t *ret_extents)
{
	uint64_t bytes = 0;
	*ret_extents = 0;
	for (unsigned i = 0; i < history->disk_count; i++) {
		const struct extent_map *map = history->disks[i]->map;
		if (!map)
			continue;
		bytes += extent_map_memory_bytes(map);
		*ret_extents += extent_map_count(map);
	}
	return bytes;
}

void history_stats(struct history *history, struct history_stats *ret_stats)
{
	SCOPED_LOCK(&history->lock);
	struct history_stats s = {
		.limit_bytes = history->limit_bytes,
		.used_bytes = upkeep_used(history),
		.freeable_bytes = history->spare_bytes,
		.unflushed_bytes = history->payload_total,
		.unsealed_bytes = history->changed_bytes,
		.written_bytes = history->written_bytes,
		.zeroed_bytes = history->zeroed_bytes,
		.journal_bytes = history->journal_bytes,
		.commits = history->commits,
		.staged_lsn = history->staged_lsn,
		.durable_lsn = history->durable_lsn,
		.newest_vault_point = history->vault_point,
		.failed = history->failed,
	};
	s.map_memory_bytes = map_memory(history, &s.head_extents);
	const struct catalogue_point *vault = catalogue_find(history, history->vault_point);
	uint64_t flushed = vault ? vault->payload_total : 0;
	if (history->drain.lsn > 0) {
		s.drained_bytes =
			history->drain.payload_total - MIN(flushed, history->drain.payload_total);
		flushed = MAX(flushed, history->drain.payload_total);
	}
	s.unflushed_bytes -= MIN(s.unflushed_bytes, flushed);
	struct point newest;
	for (uint64_t i = history->point_count; i > 0 && s.newest_point == 0; i--)
		if (catalogue_show(history, i - 1, &newest))
			s.newest_point = newest.number;
	for (unsigned i = 0; i < history->segment_count; i++) {
		const struct segment *segment = history->segments[i];
		if (!segment->closed)
			break;
		if (segment->last_lsn > drain_position(history))
			s.undrained_bytes += segment->end;
		else
			s.freeable_bytes += segment->staged_end + segment->index_bytes;
	}
	*ret_stats = s;
}

void history_set_limit(struct history *history, uint64_t limit_bytes)
{
	SCOPED_LOCK(&history->lock);
	history->limit_bytes = limit_bytes ? limit_bytes : UINT64_MAX;
}
