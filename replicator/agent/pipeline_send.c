/*
 * Senders: loads become frames, as many as the appliance's window allows to be under way.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/pipeline_internal.h"

static struct load *next_load(struct lane *lane)
{
	struct pipeline *p = lane->pipeline;
	SCOPED_LOCK(&p->lock);
	while (!p->stopping && lane->load_count == 0)
		pthread_cond_wait(&lane->send_wake, &p->lock);
	if (p->stopping)
		return NULL;
	struct load *load = lane->loads[lane->load_first];
	lane->load_first = (lane->load_first + 1) % QUEUE_LOADS;
	if (lane->load_count-- == QUEUE_LOADS)
		pthread_cond_signal(&lane->read_wake);
	lane->sending = true;
	return load;
}

/* Waits until the window lets so much more out. A frame larger than the window goes alone. */
static int await_window(struct lane *lane, uint64_t bytes)
{
	struct pipeline *p = lane->pipeline;
	SCOPED_LOCK(&p->lock);
	while (!p->stopping && lane->in_flight > 0 && lane->in_flight + bytes > lane->window)
		pthread_cond_wait(&lane->send_wake, &p->lock);
	if (p->stopping)
		return -ECANCELED;
	lane->in_flight += bytes;
	return 0;
}

/* Noted before it is sent: its acknowledgement may come before the sending call returns. Until then
 * it has no number. */
static struct flight *note_flight(
	struct lane *lane, const struct load *load, bool last, uint64_t bytes)
{
	struct flight *flight = calloc(1, sizeof(*flight));
	if (!flight)
		return NULL;
	flight->sequence = UINT64_MAX;
	flight->bytes = bytes;
	flight->last = last;
	flight->task = load->task;
	SCOPED_LOCK(&lane->pipeline->lock);
	*lane->flights_end = flight;
	lane->flights_end = &flight->next;
	return flight;
}

static int send_data(struct lane *lane, const struct load *load, const struct piece *piece,
	uint64_t lba, struct error *error, uint64_t *ret_sequence)
{
	const void *data = load->buffer + (size_t)piece->page * WIRE_PAGE_BYTES;
	size_t bytes = (size_t)piece->pages * WIRE_PAGE_BYTES, packed = bytes;
	const void *what = data;
	bool zstd = false;
	if (lane->packer)
		packer_pack(lane->packer, data, bytes, &what, &packed, &zstd);
	int64_t began = clock_monotonic_ns(clock_system());
	int r = connection_send_data(lane->connection, load->task.disk->number, lba,
		(uint32_t)(bytes / SECTOR_BYTES), &load->hashes[piece->page], what,
		(uint32_t)packed, zstd, ret_sequence, error);
	if (lane->packer)
		packer_sent(lane->packer, packed, clock_monotonic_ns(clock_system()) - began);
	SCOPED_LOCK(&lane->pipeline->lock);
	lane->pipeline->counts.sent_bytes += bytes;
	lane->pipeline->counts.wire_bytes += packed;
	return r;
}

static int send_piece(struct lane *lane, const struct load *load, const struct piece *piece,
	struct error *error, uint64_t *ret_sequence)
{
	uint64_t bytes = (uint64_t)piece->pages * WIRE_PAGE_BYTES;
	uint64_t lba = load->task.offset / SECTOR_BYTES +
		       (uint64_t)piece->page * (WIRE_PAGE_BYTES / SECTOR_BYTES);
	if (!piece->zero)
		return send_data(lane, load, piece, lba, error, ret_sequence);
	int r = connection_send_zero(lane->connection, load->task.disk->number, lba,
		bytes / SECTOR_BYTES, ret_sequence, error);
	SCOPED_LOCK(&lane->pipeline->lock);
	lane->pipeline->counts.zero_bytes += bytes;
	return r;
}

static uint64_t frame_bytes(const struct piece *piece)
{
	uint64_t head = sizeof(struct wire_frame) + sizeof(struct wire_data);
	return piece->zero ? head : head + (uint64_t)piece->pages * (WIRE_PAGE_BYTES + 8);
}

/* A frame of zeros counts for a page: what is noted of it until it is acknowledged takes memory,
 * and a disk that was discarded whole has millions of them. */
static uint64_t window_bytes(const struct piece *piece)
{
	return frame_bytes(piece) + (piece->zero ? WIRE_PAGE_BYTES : 0);
}

/* Its acknowledgement may have come before its number was known here. */
static void number_flight(struct lane *lane, struct flight *flight, uint64_t sequence)
{
	struct pipeline *p = lane->pipeline;
	pthread_mutex_lock(&p->lock);
	flight->sequence = sequence;
	lane->last_sent = sequence;
	uint64_t acked = lane->acked, window = lane->window;
	pthread_mutex_unlock(&p->lock);
	if (acked >= sequence)
		pipeline_acknowledge(p, lane->index, acked, window);
}

/* `ret_flying`: the task belongs to its last frame now. */
static int send_load(
	struct lane *lane, const struct load *load, struct error *error, bool *ret_flying)
{
	struct pipeline *p = lane->pipeline;
	for (unsigned i = 0; i < load->piece_count; i++) {
		const struct piece *piece = &load->pieces[i];
		uint64_t bytes = window_bytes(piece), sequence;
		bool last = i + 1 == load->piece_count;
		pipeline_pace(p, &p->send_bucket, frame_bytes(piece));
		int r = await_window(lane, bytes);
		if (r < 0)
			return error_set(error, r, NULL, "ending");
		struct flight *flight = note_flight(lane, load, last, bytes);
		if (!flight)
			return error_set(error, -ENOMEM, NULL, "out of memory");
		*ret_flying = last;
		r = send_piece(lane, load, piece, error, &sequence);
		if (r < 0)
			return r;
		number_flight(lane, flight, sequence);
	}
	return 0;
}

static void end_load(struct lane *lane, struct load *load)
{
	struct pipeline *p = lane->pipeline;
	{
		SCOPED_LOCK(&p->lock);
		p->spare[p->spare_count++] = load->buffer;
		lane->sending = false;
		pthread_cond_signal(&p->given);
		pipeline_tell_idle_locked(lane);
	}
	free(load);
}

void *pipeline_sender_main(void *argument)
{
	struct lane *lane = argument;
	struct load *load;
	while ((load = next_load(lane))) {
		struct error error = { 0 };
		bool flying = false;
		int r = send_load(lane, load, &error, &flying);
		if (!flying)
			pipeline_finish_task(lane->pipeline, &load->task, TASK_DROPPED);
		end_load(lane, load);
		if (r < 0) {
			pipeline_fail(lane->pipeline, &error);
			break;
		}
	}
	return NULL;
}
