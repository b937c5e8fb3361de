/*
 * Readers: tasks become loads. A chunk is read, its pages are hashed, and what is to be sent is
 * named in runs of data and of zeros.
 *
 * Short runs of zeros between data travel as data: a frame costs more than they do.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/pipeline_internal.h"

#define ZERO_RUN_PAGES 16u

static bool next_task(struct lane *lane, struct task *ret_task)
{
	struct pipeline *p = lane->pipeline;
	SCOPED_LOCK(&p->lock);
	while (!p->stopping && (lane->task_count == 0 || lane->load_count == QUEUE_LOADS))
		pthread_cond_wait(&lane->read_wake, &p->lock);
	if (p->stopping)
		return false;
	*ret_task = lane->tasks[lane->task_first];
	lane->task_first = (lane->task_first + 1) % QUEUE_TASKS;
	if (lane->task_count-- == QUEUE_TASKS)
		pthread_cond_broadcast(&p->changed);
	lane->reading = true;
	return true;
}

static uint8_t *take_buffer(struct pipeline *p)
{
	SCOPED_LOCK(&p->lock);
	while (p->spare_count == 0 && !p->stopping)
		pthread_cond_wait(&p->given, &p->lock);
	return p->stopping ? NULL : p->spare[--p->spare_count];
}

static void give_buffer(struct pipeline *p, uint8_t *buffer)
{
	SCOPED_LOCK(&p->lock);
	p->spare[p->spare_count++] = buffer;
	pthread_cond_signal(&p->given);
}

/* ── what is to be sent ──────────────────────────────────────────────────────────────────── */

static bool page_is_zero(const struct load *load, uint32_t page)
{
	return is_zero(load->buffer + (size_t)page * WIRE_PAGE_BYTES, WIRE_PAGE_BYTES);
}

static uint32_t zeros_from(const struct load *load, uint32_t page, uint32_t end)
{
	uint32_t n = 0;
	while (page + n < end && page_is_zero(load, page + n))
		n++;
	return n;
}

static void add_piece(struct load *load, uint32_t page, uint32_t pages, bool zero)
{
	struct piece *last = load->piece_count > 0 ? &load->pieces[load->piece_count - 1] : NULL;
	if (last && last->page + last->pages == page &&
		(last->zero == zero || load->piece_count == MAX_PIECES)) {
		last->zero &= zero;
		last->pages += pages;
		return;
	}
	load->pieces[load->piece_count++] = (struct piece){ page, pages, zero };
}

/* The run [page, end): data, and zeros where there are many. Before the last piece there is always
 * room: a piece is 16 pages at least, or ends the run. */
static void name_pieces(struct load *load, uint32_t page, uint32_t end)
{
	while (page < end) {
		uint32_t zeros = zeros_from(load, page, end), n = zeros;
		if (zeros < ZERO_RUN_PAGES && zeros < end - page) {
			for (n = MAX(zeros, 1u); page + n < end;) {
				uint32_t more = zeros_from(load, page + n, end);
				if (more >= ZERO_RUN_PAGES || page + n + more == end)
					break;
				n += more + 1;
			}
			n = MIN(n, end - page);
			add_piece(load, page, n, false);
		} else {
			add_piece(load, page, n, true);
		}
		page += n;
	}
}

/* Only pages that are not what the appliance has; neighbours are joined across a few that are. */
static void name_differing(struct load *load)
{
	const uint64_t *expected = load->task.expected_pages;
	uint32_t pages = load->task.length / WIRE_PAGE_BYTES, first = UINT32_MAX, end = 0;
	for (uint32_t i = 0; i < pages; i++) {
		if (load->hashes[i] == expected[i])
			continue;
		if (first != UINT32_MAX && i - end >= ZERO_RUN_PAGES) {
			name_pieces(load, first, end);
			first = UINT32_MAX;
		}
		if (first == UINT32_MAX)
			first = i;
		end = i + 1;
	}
	if (first != UINT32_MAX)
		name_pieces(load, first, end);
}

/* ── tasks ───────────────────────────────────────────────────────────────────────────────── */

static bool is_equal(const struct load *load)
{
	struct hash128 is = checksum128(load->hashes, sizeof(load->hashes));
	return is.low == load->task.expected.low && is.high == load->task.expected.high;
}

/* Of a disk that is scanned; true if it is what was sent before. */
static bool note_scanned(const struct load *load)
{
	return load->task.disk->scans && load->task.length == WIRE_CHUNK_BYTES &&
	       source_scan_note(load->task.disk, load->task.offset,
		       checksum128(load->hashes, sizeof(load->hashes)));
}

/* True if the chunk has something to send; of a comparison, what it found has been told. */
static bool examine(struct pipeline *p, struct load *load)
{
	uint32_t pages = load->task.length / WIRE_PAGE_BYTES;
	if (load->task.kind == TASK_SEND) {
		if (note_scanned(load))
			return false;
		name_pieces(load, 0, pages);
		return true;
	}
	bool by_pages = load->task.expected_pages != NULL;
	if (by_pages)
		name_differing(load);
	bool equal = by_pages ? load->piece_count == 0 : is_equal(load);
	if (load->task.kind == TASK_COMPARE) {
		SCOPED_LOCK(&p->lock);
		p->counts.compared_chunks++;
		p->counts.differing_chunks += !equal;
	}
	if (by_pages || equal)
		(void)note_scanned(load);
	if (by_pages)
		return !equal;
	if (!equal) {
		p->events.differs(p->events.context, &load->task);
		load->task.disk = NULL; /* what follows from it is another task */
	}
	return false;
}

static int read_load(struct pipeline *p, struct load *load)
{
	pipeline_pace_processor(p);
	pipeline_pace(p, &p->read_bucket, load->task.length);
	int r = source_read(load->task.disk, load->task.offset, load->buffer, load->task.length);
	SCOPED_LOCK(&p->lock);
	p->counts.read_bytes += load->task.length;
	p->counts.read_errors += r < 0;
	return r;
}

static void hand_on(struct lane *lane, struct load *load)
{
	struct pipeline *p = lane->pipeline;
	SCOPED_LOCK(&p->lock);
	if (load)
		lane->loads[(lane->load_first + lane->load_count++) % QUEUE_LOADS] = load;
	lane->reading = false;
	if (load)
		pthread_cond_signal(&lane->send_wake);
	pipeline_tell_idle_locked(lane);
}

static void read_task(struct lane *lane, struct load *load)
{
	struct pipeline *p = lane->pipeline;
	int r = read_load(p, load);
	if (r == 0)
		frame_hash_pages(load->buffer, load->task.length, load->hashes);
	if (r == 0 && examine(p, load)) {
		hand_on(lane, load);
		return;
	}
	give_buffer(p, load->buffer);
	/* A range that cannot be read stays marked, a chunk uncompared. */
	if (load->task.disk && r < 0 && load->task.kind != TASK_SEND)
		p->events.unread(p->events.context, load->task.disk, load->task.offset);
	if (load->task.disk)
		pipeline_finish_task(p, &load->task, r == 0 ? TASK_EQUAL : TASK_DROPPED);
	free(load);
	hand_on(lane, NULL);
}

void *pipeline_reader_main(void *argument)
{
	struct lane *lane = argument;
	struct task task;
	while (next_task(lane, &task)) {
		struct load *load = calloc(1, sizeof(*load));
		uint8_t *buffer = load ? take_buffer(lane->pipeline) : NULL;
		if (!buffer) {
			free(load);
			pipeline_finish_task(lane->pipeline, &task, TASK_DROPPED);
			hand_on(lane, NULL);
			struct error error = { 0 };
			error_set(&error, -ENOMEM, NULL, "out of memory, or ending");
			pipeline_fail(lane->pipeline, &error);
			break;
		}
		load->task = task;
		load->buffer = buffer;
		read_task(lane, load);
	}
	return NULL;
}
