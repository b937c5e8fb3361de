/*
 * A reader's requests come in almost any order when the kernel reads ahead for it or several
 * threads serve it, so a read near where a stream is belongs to it; only what goes beyond the
 * highest byte so far earns anything.
 */
#include "fs/read_ahead.h"

#include "common/bytes.h"

#define SLACK_BYTES (512 * KIB)

uint64_t read_ahead_note(
	struct read_ahead *ahead, uint16_t disk, uint64_t point, uint64_t offset, size_t n)
{
	struct read_stream *oldest = &ahead->streams[0];
	uint64_t end = offset + n;
	ahead->time++;
	for (unsigned i = 0; i < READ_AHEAD_STREAMS; i++) {
		struct read_stream *s = &ahead->streams[i];
		if (s->used < oldest->used)
			oldest = s;
		if (s->used == 0 || s->disk != disk || s->point != point)
			continue;
		if (offset + SLACK_BYTES < s->next || offset > s->next + SLACK_BYTES)
			continue;
		if (end > s->next) {
			s->earned += MIN((uint64_t)n, end - s->next);
			s->next = end;
		}
		s->used = ahead->time;
		return s->earned;
	}
	*oldest = (struct read_stream){
		.point = point, .next = end, .used = ahead->time, .disk = disk
	};
	return 0;
}

void read_ahead_forget(struct read_ahead *ahead, uint16_t disk, uint64_t point)
{
	for (unsigned i = 0; i < READ_AHEAD_STREAMS; i++) {
		if (ahead->streams[i].disk == disk && ahead->streams[i].point == point)
			ahead->streams[i].earned = 0;
	}
}
