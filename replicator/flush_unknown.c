/*
 * Flushing behind points that the journal has lost.
 *
 * The base holds the newest point of the vault, and the journal tells what changed since an older
 * one. So besides those changes every page is sent that a point between has changed: its hashes
 * name them. The view reads the right content for all of them.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/flush_plan.h"

static void free_reader(struct hashes_reader **reader)
{
	hashes_reader_free(*reader);
}

/* As zeros, which may be of any length; what is told of them is that they are data. */
static int note_pages(struct flush *flush, unsigned index, uint64_t first, uint64_t count)
{
	uint64_t lba = first * FLUSH_PAGE_SECTORS;
	uint64_t size = flush->manifest.disks[index].size_bytes / SECTOR_BYTES;
	uint64_t end = MIN(lba + count * FLUSH_PAGE_SECTORS, size);
	int r = 0;
	if (lba < end && !flush->unknown[index])
		r = extent_map_new(&flush->unknown[index]);
	while (r == 0 && lba < end) {
		struct extent e = {
			.lba = lba, .sectors = MIN(end - lba, EXTENT_MAX_ZERO_SECTORS), .zero = true
		};
		r = extent_map_insert(flush->unknown[index], &e);
		lba += e.sectors;
	}
	return r < 0 ? error_set(flush->error, r, NULL, "not enough memory") : 0;
}

static int note_run(struct flush *flush, const struct hashes_run *run)
{
	for (unsigned i = 0; i < flush->manifest.disk_count; i++)
		if (flush->manifest.disks[i].id == run->disk)
			return note_pages(flush, i, run->first_page, run->count);
	return 0; /* the point does not show the disk */
}

static int note_point(struct flush *flush, uint64_t number)
{
	CLEANUP(free_reader) struct hashes_reader *reader = NULL;
	const struct flusher_options *options = &flush->flusher->options;
	struct vault_hashes hashes;
	struct hashes_source source;
	struct hashes_run run;
	vault_hashes_open(&hashes, options->store, options->group, number, &source);
	int r = hashes_reader_new(&source, flush->error, &reader);
	if (r == -ENOENT)
		return error_set(flush->error, -EBADMSG, NULL, "%s is missing", hashes.name);
	while (r == 0) {
		r = hashes_reader_next(reader, flush->error, &run);
		if (r == -ENOENT)
			return 0;
		if (r == 0)
			r = note_run(flush, &run);
	}
	return r;
}

/* Of a disk that was added, or had grown, and whose record was lost. */
static int note_sizes(struct flush *flush, const struct manifest *previous)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < flush->manifest.disk_count; i++) {
		uint16_t id = flush->manifest.disks[i].id;
		uint64_t known =
			history_point_disk_bytes(flush->flusher->options.history, flush->base, id);
		for (unsigned d = 0; r == 0 && d < previous->disk_count; d++) {
			uint64_t there = previous->disks[d].size_bytes;
			if (previous->disks[d].id == id && there > known)
				r = note_pages(flush, i, known / HASHES_PAGE_BYTES,
					(there - known) / HASHES_PAGE_BYTES);
		}
	}
	return r;
}

int flush_load_unknown(struct flush *flush, const struct manifest *previous)
{
	const struct flusher_options *options = &flush->flusher->options;
	int r = note_sizes(flush, previous);
	if (r < 0 || options->unknown_point <= flush->base)
		return r;
	r = vault_points_list(options->store, options->group, flush->error, &flush->above);
	for (unsigned i = 0; r == 0 && i < flush->above.count; i++) {
		const struct vault_point_item *item = &flush->above.items[i];
		if (vault_point_is_committed(item) && item->number > flush->base &&
			item->number <= options->unknown_point)
			r = note_point(flush, item->number);
	}
	return r;
}

void flush_free_unknown(struct flush *flush)
{
	for (unsigned i = 0; i < HISTORY_MAX_DISKS; i++)
		extent_map_free(flush->unknown[i]);
	vault_points_free(&flush->above);
}

static int next_change(struct flush *flush, unsigned index, uint64_t lba, struct extent *ret_extent)
{
	struct extent told, more;
	int r = view_next_change(flush->view, flush->manifest.disks[index].id, lba, &told);
	if ((r < 0 && r != -ENOENT) || !flush->unknown[index] ||
		extent_map_find(flush->unknown[index], lba, &more) < 0) {
		if (r == 0)
			*ret_extent = told;
		return r;
	}
	uint64_t end = more.lba + more.sectors;
	more.lba = MAX(more.lba, lba);
	more.zero = false;
	if (r == 0 && told.lba <= more.lba) {
		*ret_extent = told;
		return 0;
	}
	more.sectors = (r == 0 ? MIN(end, told.lba) : end) - more.lba;
	*ret_extent = more;
	return 0;
}

/* A record that made the disk larger may be lost while others, behind it, are not. */
int flush_next_change(struct flush *flush, unsigned index, uint64_t lba, struct extent *ret_extent)
{
	uint64_t end = flush->manifest.disks[index].size_bytes / SECTOR_BYTES;
	struct extent e;
	int r = next_change(flush, index, lba, &e);
	if (r < 0)
		return r;
	if (e.lba >= end)
		return -ENOENT;
	e.sectors = MIN(e.sectors, end - e.lba);
	*ret_extent = e;
	return 0;
}

/* Below the new vault point they only join the catalogue. */
int flush_adopt_unknown(struct flush *flush)
{
	const struct flusher_options *options = &flush->flusher->options;
	for (unsigned i = 0; i < flush->above.count; i++) {
		const struct vault_point_item *item = &flush->above.items[i];
		uint64_t lsn;
		if (!vault_point_is_committed(item) || !item->told || item->number <= flush->base ||
			item->number > flush->previous)
			continue;
		const struct point point = { .number = item->number,
			.time_ns = item->time_ns,
			.changed_bytes = item->changed_bytes,
			.flags = POINT_VAULT | (item->flags & (POINT_KEEP | POINT_PRESSURE)),
			.kind = item->kind };
		int r = history_point_import(options->history, &point, &lsn);
		if (r == -EAGAIN && (r = options->sync(options->sync_context,
					     history_staged_lsn(options->history))) == 0)
			r = history_point_import(options->history, &point, &lsn);
		if (r < 0 && r != -EEXIST)
			return error_set(flush->error, r, NULL,
				"point %" PRIu64 " is in the vault, but cannot be noted",
				item->number);
	}
	return 0;
}
