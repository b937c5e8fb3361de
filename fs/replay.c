/*
 * Replay: from what is on disk to the state in memory.
 *
 * The newest checkpoint gives the tables. Then all segments are walked in order. Each begins by
 * naming the last record before it (lsn and hash), which was durable at that time; so
 *  - a segment is read no further than the next one says: what is behind was torn and given up;
 *  - a segment that ends before has lost records, as has the journal where a file is missing.
 * Closed segments listed by the checkpoint are taken by their index; the rest is scanned, and
 * records above the checkpoint change the tables.
 *
 * Behind the last segment's end nobody names anything. There, a record further on that says that
 * the bad one had been durable proves a loss; without such proof it is the torn end of a crash.
 * Only records that no one proves durable can be torn, so only their payloads are read.
 *
 * While walking, every loss is taken for one that a vault point covers: the head starts afresh
 * behind it. Whether that is true is known at the end only; if not, damage.c does the rest.
 *
 * Runs before anybody else knows the history; takes no locks.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fs/history_internal.h"

/* The records from and to, both included, are lost. 0 or -ENOMEM. */
static int note_lost(struct replay *replay, uint64_t from, uint64_t to)
{
	struct lost_range *grown =
		realloc(replay->lost, (replay->lost_count + 1) * sizeof(*replay->lost));
	if (!grown)
		return -ENOMEM;
	replay->lost = grown;
	replay->lost[replay->lost_count++] = (struct lost_range){ from, to };
	replay->max_lsn = MAX(replay->max_lsn, to);
	return 0;
}

/* ── one segment ─────────────────────────────────────────────────────────────────────────── */

struct walk {
	struct history *history;
	struct replay *replay;
	bool again;        /* second walk: the tables are known already */
	uint64_t stop_lsn; /* no further */
	struct scan_end end;
	uint64_t seq;
	uint64_t durable;    /* highest lsn that anything proves durable */
	uint64_t proof;      /* lsn of the last record that is nothing but proof */
	uint64_t point_seen; /* highest number of a seal behind the end */
	/* Where in the last segment the first record above `durable` is; 0: nowhere. */
	uint64_t unproven;
	uint64_t payload_bytes; /* of the segment at hand */
};

static int take_record(void *context, uint64_t offset, const struct journal_record *record)
{
	struct walk *walk = context;
	struct history *history = walk->history;
	int r = 0;
	if (!walk->again) {
		if (record->lsn > walk->durable && walk->unproven == 0)
			walk->unproven = offset;
		walk->replay->report->records_replayed++;
		if (record->lsn > walk->replay->checkpoint_lsn) {
			/* What is replayed is durable: bookmarks follow each other as then. */
			history->durable_lsn = record->lsn - 1;
			r = apply_record(history, record);
			if (record->type == JOURNAL_DATA)
				apply_data_totals(history, record);
			/* Else it only joined the catalogue, and a loss may have raised it. */
			if (record->type == JOURNAL_POINT_IMPORT &&
				history->head_floor == record->lsn)
				walk->replay->floor_before = history->head_floor;
		}
	}
	if (record->type == JOURNAL_PROOF)
		walk->proof = record->lsn;
	if (record->type != JOURNAL_DATA || record->lsn <= history->head_floor)
		return r;
	for (unsigned i = 0; r == 0 && i < record->count; i++) {
		struct extent e = record_extent(record, i, walk->seq, offset);
		walk->payload_bytes += e.zero ? 0 : e.sectors * SECTOR_BYTES;
		r = apply_extent(history, record->extents[i].disk, &e);
	}
	return r;
}

static int take_run(struct walk *walk, const struct run *run)
{
	const struct journal_index_extent *p = run->extents;
	for (uint64_t i = 0; i < run->part_count; i++) {
		bool wanted = run->parts[i].last_lsn > walk->history->head_floor;
		for (uint64_t n = 0; n < run->parts[i].extent_count; n++, p++) {
			uint16_t disk;
			struct extent e;
			if (wanted && n + RUN_AHEAD < run->parts[i].extent_count)
				apply_extent_soon(walk->history, run_disk(p + RUN_AHEAD),
					run_lba(p + RUN_AHEAD));
			run_unpack(p, walk->seq, &disk, &e);
			walk->payload_bytes += e.zero ? 0 : e.sectors * SECTOR_BYTES;
			int r = wanted ? apply_extent(walk->history, disk, &e) : 0;
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int note_proof(void *context, uint64_t offset, const struct journal_record *record)
{
	(void)offset;
	struct walk *walk = context;
	walk->durable = MAX(walk->durable, record->durable_lsn);
	walk->replay->max_lsn = MAX(walk->replay->max_lsn, record->lsn);
	return 0;
}

/* Looks behind `offset` for records of this segment that the chain does not reach. */
static int search_proof(struct walk *walk, struct scan *scan, uint64_t offset, uint64_t incarnation)
{
	uint64_t stop = MIN(scan->file_bytes, offset + JOURNAL_MAX_COMMIT_BYTES);
	uint64_t found_end = offset;
	while (offset + JOURNAL_PAGE_BYTES <= stop) {
		const struct journal_record *record;
		int r = scan_record(scan, offset, &record);
		if (r < 0)
			return r;
		if (!record || (incarnation != 0 && record->incarnation != incarnation)) {
			offset += JOURNAL_PAGE_BYTES;
			continue;
		}
		note_proof(walk, offset, record);
		if (record->type == JOURNAL_SEAL)
			walk->point_seen = MAX(walk->point_seen, record->seal.number);
		offset += record->bytes;
		found_end = offset;
	}
	if (scan->file_bytes < walk->history->segment_bytes)
		found_end = scan->file_bytes;
	walk->replay->report->torn_bytes += found_end - MIN(found_end, walk->end.offset);
	return 0;
}

static int unusable_proof(struct walk *walk, uint64_t seq)
{
	struct scan scan;
	int r = scan_open(walk->history, seq, &scan);
	if (r < 0)
		return r;
	walk->end.offset = JOURNAL_PAGE_BYTES;
	r = search_proof(walk, &scan, JOURNAL_PAGE_BYTES, 0);
	scan_close(&scan);
	return r;
}

/* The last segment: finds how far the chain goes and what is proven durable behind it. */
static int find_proof(struct walk *walk, struct scan *scan, const struct replay_link *link)
{
	struct scan_end saved = walk->end;
	int r = scan_chain(
		scan, link->first_lsn, walk->stop_lsn, UINT64_MAX, note_proof, walk, &walk->end);
	if (r == 0)
		r = search_proof(walk, scan, walk->end.offset, link->incarnation);
	walk->end = saved;
	return r;
}

static int keep_segment(struct walk *walk, const struct replay_link *link,
	const struct scan_end *end, uint64_t index_bytes)
{
	struct segment values = {
		.seq = link->seq,
		.incarnation = link->incarnation,
		.first_lsn = link->first_lsn,
		.last_lsn = end->lsn,
		.prev_lsn = link->prev_lsn,
		.prev_hash = link->prev_hash,
		.end_hash = end->hash,
		.end = end->offset,
		.staged_end = end->offset,
		.index_bytes = index_bytes,
		.payload_bytes = walk->payload_bytes,
		.closed = true,
	};
	struct segment *segment;
	return segment_add(walk->history, &values, &segment);
}

/* Records that nobody proves durable may be in memory only, if it was not the machine that went
 * down; and if their sync failed then, the kernel holds them for clean. So they are written once
 * more, as they are, before anything is built on them. */
static int secure_tail(struct walk *walk, const struct replay_link *link)
{
	struct io *io = walk->history->io;
	char path[SEGMENT_PATH_BYTES(walk->history)];
	CLEANUP_FREE uint8_t *data = malloc(MIB);
	struct io_file *file;
	if (!data)
		return -ENOMEM;
	segment_path(walk->history, link->seq, "seg", path);
	int r = io_open(io, path, IO_WRITE, &file);
	if (r < 0)
		return r;
	uint64_t at = walk->unproven;
	if (at == JOURNAL_PAGE_BYTES) {
		/* The header was written together with the first record, and may be torn. */
		const struct segment values = {
			.seq = link->seq,
			.incarnation = link->incarnation,
			.first_lsn = link->first_lsn,
			.prev_lsn = link->prev_lsn,
			.prev_hash = link->prev_hash,
		};
		segment_header_make(walk->history, &values, (struct journal_segment *)data);
		r = io_write(file, data, JOURNAL_PAGE_BYTES, 0);
	}
	while (r == 0 && at < walk->end.offset) {
		size_t n = MIN(MIB, walk->end.offset - at), got = 0;
		r = io_read(file, data, n, at, &got);
		if (r < 0)
			break;
		/* Of the last record's filling the file may lack some. */
		memset(data + got, 0, n - got);
		r = io_write(file, data, n, at);
		at += n;
	}
	if (r == 0)
		r = io_datasync(file);
	io_close(file);
	return r;
}

static int walk_scan(struct walk *walk, const struct replay_link *link, bool last, uint64_t limit)
{
	struct scan scan;
	int r = scan_open(walk->history, link->seq, &scan);
	if (r < 0)
		return replay_read_fault(walk->history, walk->replay, link->seq, r);
	walk->end.offset = JOURNAL_PAGE_BYTES;
	uint64_t verify_above = UINT64_MAX;
	if (last && !walk->again) {
		r = find_proof(walk, &scan, link);
		verify_above = walk->durable;
	}
	if (r == 0)
		r = scan_chain(
			&scan, link->first_lsn, limit, verify_above, take_record, walk, &walk->end);
	if (r == 0 && walk->unproven > 0)
		r = secure_tail(walk, link);
	if (r < 0 && r != -ENOMEM)
		r = replay_read_fault(walk->history, walk->replay, link->seq, r);
	uint64_t file_bytes = scan.file_bytes;
	scan_close(&scan);
	if (r < 0)
		return r;
	if (walk->end.lsn == link->prev_lsn) {
		/* Not one record: never committed. */
		return walk->again ? 0 : replay_add_leftover(walk->history, link->seq);
	}
	if (!walk->again && !link->header_good && (!last || walk->durable >= link->first_lsn))
		replay_fault(walk->replay,
			"%s/%016" PRIx64 ".seg: the header at 0 fails its checksum",
			walk->history->directory, link->seq);
	if (last && !walk->again && walk->end.lsn >= walk->durable &&
		walk->end.offset < file_bytes) {
		walk->history->cut_seq = link->seq;
		walk->history->cut_bytes = walk->end.offset;
	}
	return keep_segment(walk, link, &walk->end, 0);
}

/* A closed segment by its index. -ENOENT if that will not do. */
static int walk_index(struct walk *walk, const struct replay_link *link, uint64_t limit)
{
	const struct journal_checkpoint_segment *listed = NULL;
	for (unsigned i = 0; i < walk->replay->listed_count; i++)
		if (walk->replay->listed[i].seq == link->seq)
			listed = &walk->replay->listed[i];
	if (!listed || listed->last_lsn > limit || listed->prev_lsn != walk->end.lsn ||
		listed->prev_hash != walk->end.hash || listed->incarnation != link->incarnation)
		return -ENOENT;
	struct segment values = {
		.seq = listed->seq,
		.incarnation = listed->incarnation,
		.first_lsn = listed->first_lsn,
		.last_lsn = listed->last_lsn,
		.prev_lsn = listed->prev_lsn,
		.prev_hash = listed->prev_hash,
		.end_hash = listed->end_hash,
		.end = listed->end,
	};
	struct run run;
	int r = run_read(walk->history, &values, &run);
	if (r == -EBADMSG)
		replay_fault(walk->replay, "%s/%016" PRIx64 ".idx fails its checksum; made anew",
			walk->history->directory, link->seq);
	if (r < 0)
		return r == -ENOMEM ? r : -ENOENT;
	uint64_t bytes = sizeof(struct journal_index) + run.part_count * sizeof(*run.parts) +
			 run.extent_count * sizeof(*run.extents);
	r = take_run(walk, &run);
	run_free(&run);
	walk->end = (struct scan_end){ listed->end, listed->last_lsn, listed->end_hash };
	return r < 0 ? r : keep_segment(walk, link, &walk->end, bytes);
}

/* ── all of them ─────────────────────────────────────────────────────────────────────────── */

/* Records [from, to] are gone: the head holds nothing that they might have changed. */
static int lose(struct walk *walk, uint64_t from, uint64_t to)
{
	if (walk->again)
		return 0;
	replay_fault(walk->replay, "%s: records %" PRIu64 " to %" PRIu64 " of the journal are lost",
		walk->history->directory, from, to);
	walk->history->head_floor = MAX(walk->history->head_floor, to);
	int r = disk_clear_maps(walk->history);
	return r < 0 ? r : note_lost(walk->replay, from, to);
}

static int walk_segment(struct walk *walk, unsigned i)
{
	struct replay *replay = walk->replay;
	const struct replay_link *link = &replay->links[i];
	bool last = i + 1 == replay->link_count;
	uint64_t limit = MIN(walk->stop_lsn, last ? UINT64_MAX : replay->links[i + 1].prev_lsn);
	if (link->prev_lsn != walk->end.lsn || link->prev_hash != walk->end.hash) {
		int r = lose(walk, MIN(walk->end.lsn + 1, link->prev_lsn), link->prev_lsn);
		if (r < 0)
			return r;
	}
	walk->seq = link->seq;
	walk->payload_bytes = 0;
	walk->end.lsn = link->prev_lsn;
	walk->end.hash = link->prev_hash;
	walk->durable = MAX(walk->durable, last ? link->prev_lsn : replay->links[i + 1].prev_lsn);
	int r = walk_index(walk, link, limit);
	return r == -ENOENT ? walk_scan(walk, link, last, limit) : r;
}

/* Puts away what cannot be used, and looks into it for proof of what was. */
static int drop_unusable(struct walk *walk)
{
	struct replay *replay = walk->replay;
	unsigned kept = 0;
	for (unsigned i = 0; i < replay->link_count; i++) {
		if (replay->links[i].usable) {
			replay->links[kept++] = replay->links[i];
			continue;
		}
		int r = unusable_proof(walk, replay->links[i].seq);
		if (r == 0)
			r = replay_add_leftover(walk->history, replay->links[i].seq);
		if (r < 0)
			return r;
	}
	replay->link_count = kept;
	return 0;
}

/* Where the chain begins: before the first segment that must be there. */
static int find_beginning(struct walk *walk)
{
	struct replay *replay = walk->replay;
	const struct replay_link *first = replay->link_count > 0 ? replay->links : NULL;
	if (replay->listed_count > 0) {
		walk->end.lsn = replay->listed[0].prev_lsn;
		walk->end.hash = replay->listed[0].prev_hash;
		return 0;
	}
	if (!replay->have_checkpoint) {
		if (first && first->prev_lsn != 0)
			return error_set(replay->error, -EUCLEAN,
				"move the directory away, take the disks over from the vault, and "
				"resync",
				"%s: both checkpoints are missing or damaged, and the journal does "
				"not go back to its beginning",
				walk->history->directory);
		return 0;
	}
	if (first && first->seq == replay->tail_seq) {
		walk->end.lsn = first->prev_lsn;
		walk->end.hash = first->prev_hash;
		return 0;
	}
	walk->end.lsn = replay->checkpoint_lsn;
	walk->end.hash = replay->checkpoint_hash;
	return 0;
}

int replay_segments(struct history *history, struct replay *replay, uint64_t stop_lsn)
{
	struct walk walk = {
		.history = history,
		.replay = replay,
		.again = stop_lsn != UINT64_MAX,
		.stop_lsn = stop_lsn,
		.durable = replay->checkpoint_lsn,
	};
	int r = 0;
	if (!walk.again)
		r = drop_unusable(&walk);
	if (r == 0)
		r = find_beginning(&walk);
	for (unsigned i = 0; r == 0 && i < replay->link_count; i++) {
		if (replay->links[i].prev_lsn >= stop_lsn)
			break;
		r = walk_segment(&walk, i);
	}
	if (r < 0)
		return r;
	if (!walk.again && walk.end.lsn < walk.durable) {
		/* Whoever said so knew of records that are not there. */
		history->last_point = MAX(history->last_point, walk.point_seen);
		r = lose(&walk, walk.end.lsn + 1, MAX(walk.durable, replay->max_lsn));
		if (r < 0)
			return r;
	}
	/* The same goes for the names. */
	r = io_sync_dir(history->io, history->directory);
	if (r < 0)
		return r;
	history->chain_lsn = walk.end.lsn;
	history->chain_hash = walk.end.hash;
	replay->max_lsn = MAX(replay->max_lsn, walk.end.lsn);
	history->staged_lsn = history->durable_lsn = walk.end.lsn;
	history->proven_lsn = walk.proof == walk.end.lsn ? walk.end.lsn : walk.durable;
	catalogue_purge(history);
	return 0;
}

int replay_all(struct history *history, struct replay *replay)
{
	int r = checkpoint_load(history, replay);
	if (r == 0)
		r = replay_collect_links(history, replay);
	if (r == 0)
		r = replay_segments(history, replay, UINT64_MAX);
	for (unsigned i = 0; i < replay->link_count; i++)
		history->incarnation = MAX(history->incarnation, replay->links[i].incarnation);
	if (r == 0 && replay->lost_count > 0)
		r = damage_settle(history, replay);
	return r;
}
