/*
 * Writing, reading and merging the hashes of recovery points; hashes_format.h tells the format.
 *
 * All three stream: memory stays below a few MiB at any size (lanes: below HASHES_LANES_BYTES and a
 * little). Not thread-safe; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/uuid.h"
#include "replicator/hashes_format.h"

/* The hash of one page. */
uint64_t hashes_of_page(const void *page);
/* The hash of a page of zeros. */
uint64_t hashes_of_zeros(void);

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

struct hashes_writer;

/* Where the bytes go: parts of at most HASHES_PART_BYTES, numbered from 0. */
#define HASHES_PART_BYTES (4u << 20)
struct hashes_sink {
	int (*part)(void *context, unsigned part, const void *data, size_t n);
	void *context;
};

struct hashes_written {
	uint64_t bytes, digest;
	unsigned parts;
};

int hashes_writer_new(const struct uuid *group, uint64_t from, uint64_t number,
	const struct hashes_sink *sink, struct hashes_writer **ret_writer);
void hashes_writer_free(struct hashes_writer *writer);
/* `count` pages of a disk; `hashes` NULL: zeros. Disks and pages rise, else -EINVAL. What the sink
 * answers is handed up. */
int hashes_writer_add(struct hashes_writer *writer, uint16_t disk, uint32_t first_page,
	uint32_t count, const uint64_t *hashes);
/* From now on told of everything that is added. */
void hashes_writer_tell(struct hashes_writer *writer,
	void (*told)(void *context, uint16_t disk, uint32_t count, bool zero), void *context);
int hashes_writer_finish(struct hashes_writer *writer, struct hashes_written *ret_written);

/* ── writing several disks at once ───────────────────────────────────────────────────────── */

struct hashes_lanes;

/* What lanes hold back at most, but for one more addition. */
#define HASHES_LANES_BYTES (16u << 20)

/* A lane for each of the disks, whose numbers rise. The writer is borrowed; nobody else adds to it
 * until all lanes have ended. */
int hashes_lanes_new(struct hashes_writer *writer, const uint16_t *disks, unsigned count,
	struct hashes_lanes **ret_lanes);
void hashes_lanes_free(struct hashes_lanes *lanes);
/* False: the others hold as much as they may. The first lane that has not ended always may. */
bool hashes_lanes_may_add(const struct hashes_lanes *lanes, unsigned lane);
/* As hashes_writer_add; pages rise within a lane. -ENOMEM. */
int hashes_lanes_add(struct hashes_lanes *lanes, unsigned lane, uint32_t first_page, uint32_t count,
	const uint64_t *hashes);
/* There is no more of that disk. What the sink answers is handed up. */
int hashes_lanes_end(struct hashes_lanes *lanes, unsigned lane);

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

struct hashes_reader;

/* Reads up to n bytes at offset; fewer only at the end. Fills error. */
struct hashes_source {
	int (*read)(void *context, uint64_t offset, void *data, size_t n, struct error *error,
		size_t *ret_n);
	void *context;
	const char *name; /* for errors; borrowed */
};

/* A range, or the part of one that lies in one block. `hashes` NULL: zeros; else valid until the
 * next call. */
struct hashes_run {
	uint16_t disk;
	uint32_t first_page, count;
	const uint64_t *hashes;
};

/* A block's start, to go on from later. {0} is the first block. next_* tell what comes first
 * there, if known; next_disk UINT16_MAX + next_page UINT32_MAX: the end was reached. */
struct hashes_mark {
	uint64_t offset;
	uint32_t index;
	uint16_t next_disk;
	uint32_t next_page;
};

/* Reads the header. -EBADMSG: damaged; -EPROTONOSUPPORT. Copies the source. */
int hashes_reader_new(
	const struct hashes_source *source, struct error *error, struct hashes_reader **ret_reader);
void hashes_reader_free(struct hashes_reader *reader);
void hashes_reader_coverage(const struct hashes_reader *reader, struct uuid *ret_group,
	uint64_t *ret_from, uint64_t *ret_number);
/* 0; -ENOENT: the end, proven by the end block; -EBADMSG: damaged, the error names the block. */
int hashes_reader_next(
	struct hashes_reader *reader, struct error *error, struct hashes_run *ret_run);
/* The start of the block that the last run came from. */
void hashes_reader_mark(const struct hashes_reader *reader, struct hashes_mark *ret_mark);
/* Goes on from a mark; the digest is not proven afterwards, each block still is. */
void hashes_reader_seek(struct hashes_reader *reader, const struct hashes_mark *mark);
/* After -ENOENT: bytes and digest of the whole. */
void hashes_reader_totals(
	const struct hashes_reader *reader, uint64_t *ret_bytes, uint64_t *ret_digest);

/* ── merging ─────────────────────────────────────────────────────────────────────────────── */

/* Writes the pages of both, `newer` winning. The writer is not finished. */
int hashes_merge(struct hashes_reader *older, struct hashes_reader *newer,
	struct hashes_writer *writer, struct error *error);
