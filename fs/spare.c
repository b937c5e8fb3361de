/*
 * Spares: files of segments that are not needed any more, kept to become segments again.
 *
 * Writing over blocks that were written before makes a sync more than twice as fast as appending
 * does. What a spare still holds cannot be taken for new: every record names its segment's number
 * and the opening that wrote it, and the chain would not fit. Few are kept, and none when the
 * journal is more than half full.
 *
 * A spare does not outlive its opening. A crash may undo the renaming that made it a segment again
 * and yet keep what was written into it: records of the very number that the next segment has, and
 * of an opening that nothing else remembers. So replay removes every spare that it finds.
 *
 * commit_lock guards the list.
 */
#include <errno.h>
#include <string.h>

#include "fs/history_internal.h"

static void set_spare_bytes(struct history *history)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < history->spare_count; i++)
		bytes += history->spares[i].bytes;
	pthread_mutex_lock(&history->lock);
	history->spare_bytes = bytes;
	pthread_mutex_unlock(&history->lock);
}

int spare_take(struct history *history, uint64_t seq)
{
	if (history->spare_count == 0)
		return -ENOENT;
	char from[SEGMENT_PATH_BYTES(history)], to[SEGMENT_PATH_BYTES(history)];
	segment_path(history, history->spares[history->spare_count - 1].seq, "spr", from);
	segment_path(history, seq, "seg", to);
	history->spare_count--;
	set_spare_bytes(history);
	return io_rename(history->io, from, to);
}

int spare_give(struct history *history, const struct segment *segment)
{
	char path[SEGMENT_PATH_BYTES(history)], spare[SEGMENT_PATH_BYTES(history)];
	segment_path(history, segment->seq, "seg", path);
	pthread_mutex_lock(&history->lock);
	bool room = history->live_bytes + segment->staged_end < history->limit_bytes / 2;
	pthread_mutex_unlock(&history->lock);
	if (!room || history->spare_count == MAX_SPARES ||
		segment->end + BATCH_BYTES < history->segment_bytes)
		return io_unlink(history->io, path);
	segment_path(history, segment->seq, "spr", spare);
	int r = io_rename(history->io, path, spare);
	if (r < 0)
		return r;
	history->spares[history->spare_count++] = (struct spare){ segment->seq, segment->end };
	set_spare_bytes(history);
	return 0;
}

int spare_drop_one(struct history *history)
{
	if (history->spare_count == 0)
		return -ENOENT;
	char path[SEGMENT_PATH_BYTES(history)];
	segment_path(history, history->spares[--history->spare_count].seq, "spr", path);
	set_spare_bytes(history);
	return io_unlink(history->io, path);
}
