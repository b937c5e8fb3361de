/*
 * The live segments of a history and the file handles to read them with.
 *
 * A segment lives in history.segments from the moment staging begins it until trim takes it out;
 * readers and views hold references, and the struct goes with the last. Handles for reading are
 * opened when first needed and the idle ones closed when there are too many.
 *
 * history.lock guards it all; opening and reading a file happen outside of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/history_internal.h"

#define MAX_OPEN_READERS 64u

void segment_path(const struct history *history, uint64_t seq, const char *suffix, char *ret_path)
{
	snprintf(ret_path, SEGMENT_PATH_BYTES(history), "%s/%016" PRIx64 ".%s", history->directory,
		seq, suffix);
}

int segment_add(struct history *history, const struct segment *values, struct segment **ret)
{
	if (history->segment_count == history->segment_capacity) {
		unsigned capacity = MAX(8u, history->segment_capacity * 2);
		struct segment **grown =
			realloc(history->segments, capacity * sizeof(*history->segments));
		if (!grown)
			return -ENOMEM;
		history->segments = grown;
		history->segment_capacity = capacity;
	}
	struct segment *segment = malloc(sizeof(*segment));
	if (!segment)
		return -ENOMEM;
	*segment = *values;
	segment->live = true;
	segment->refs = 1;
	history->segments[history->segment_count++] = segment;
	history->live_bytes += segment->staged_end + segment->index_bytes;
	*ret = segment;
	return 0;
}

static void free_segment(struct segment *segment)
{
	io_close(segment->reader);
	io_close(segment->writer);
	free(segment);
}

void segment_remove(struct history *history, struct segment *segment)
{
	unsigned i = 0;
	while (history->segments[i] != segment)
		i++;
	memmove(&history->segments[i], &history->segments[i + 1],
		(history->segment_count - i - 1) * sizeof(segment));
	history->segment_count--;
	history->live_bytes -= segment->staged_end + segment->index_bytes;
	segment->live = false;
}

void segment_ref(struct segment *segment)
{
	segment->refs++;
}

void segment_unref(struct history *history, struct segment *segment)
{
	pthread_mutex_lock(&history->lock);
	bool last = --segment->refs == 0;
	if (last && segment->reader)
		history->open_readers--;
	pthread_mutex_unlock(&history->lock);
	if (last)
		free_segment(segment);
}

struct segment *segment_find(struct history *history, uint32_t seq_modulo)
{
	if (history->segment_count == 0)
		return NULL;
	uint64_t newest = history->segments[history->segment_count - 1]->seq;
	uint64_t seq = newest - ((newest - seq_modulo) & 0xffffff);
	unsigned low = 0, high = history->segment_count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (history->segments[middle]->seq < seq)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == history->segment_count || history->segments[low]->seq != seq)
		return NULL;
	return history->segments[low];
}

/* Takes idle handles away until `keep` are left; lock held. Returns one to close, NULL if none. */
static struct io_file *pick_idle_reader(struct history *history, unsigned keep)
{
	if (history->open_readers <= keep)
		return NULL;
	for (unsigned i = 0; i < history->segment_count; i++) {
		struct segment *s = history->segments[i];
		if (s->reader && s->reading == 0) {
			history->open_readers--;
			return TAKE(s->reader);
		}
	}
	return NULL;
}

void segment_close_readers(struct history *history, unsigned keep)
{
	for (;;) {
		pthread_mutex_lock(&history->lock);
		struct io_file *file = pick_idle_reader(history, keep);
		pthread_mutex_unlock(&history->lock);
		if (!file)
			return;
		io_close(file);
	}
}

struct io_file *segment_pin(struct segment *segment)
{
	segment->refs++;
	segment->reading++;
	return segment->reader;
}

int segment_open_reader(struct history *history, struct segment *segment, struct io_file **ret_file)
{
	char path[SEGMENT_PATH_BYTES(history)];
	struct io_file *file;
	segment_path(history, segment->seq, "seg", path);
	int r = io_open(history->io, path, IO_READ | IO_RANDOM, &file);
	if (r < 0)
		return r;
	pthread_mutex_lock(&history->lock);
	if (!segment->reader) {
		segment->reader = TAKE(file);
		history->open_readers++;
	}
	*ret_file = segment->reader;
	struct io_file *idle = pick_idle_reader(history, MAX_OPEN_READERS);
	pthread_mutex_unlock(&history->lock);
	io_close(file);
	io_close(idle);
	return 0;
}

void segments_unpin(struct history *history, struct segment **segments, unsigned count)
{
	unsigned last = 0;
	if (count == 0)
		return;
	pthread_mutex_lock(&history->lock);
	for (unsigned i = 0; i < count; i++) {
		struct segment *s = segments[i];
		s->reading--;
		if (--s->refs > 0)
			continue;
		if (s->reader)
			history->open_readers--;
		segments[last++] = s;
	}
	pthread_mutex_unlock(&history->lock);
	for (unsigned i = 0; i < last; i++)
		free_segment(segments[i]);
}

void segments_free(struct history *history)
{
	for (unsigned i = 0; i < history->segment_count; i++)
		free_segment(history->segments[i]);
	free(history->segments);
	history->segments = NULL;
	history->segment_count = history->segment_capacity = 0;
	history->open_readers = 0;
	history->live_bytes = 0;
	history->active = NULL;
}
