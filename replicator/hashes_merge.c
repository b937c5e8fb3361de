/*
 * Merging the hashes of two neighbouring points: an interval overlay of two sorted streams.
 *
 * A run of the newer one goes out whole and cuts what it covers from the older one; a run of the
 * older one goes out up to where the newer one begins.
 */
#include "replicator/hashes.h"

#include <errno.h>

#include "common/bytes.h"

struct stream {
	struct hashes_reader *reader;
	struct hashes_run run;
	bool ended;
};

static int advance(struct stream *s, struct error *error)
{
	int r = hashes_reader_next(s->reader, error, &s->run);
	s->ended = r == -ENOENT;
	return s->ended ? 0 : r;
}

/* Takes n pages off the front, going on to the next run if none are left. */
static int cut(struct stream *s, uint32_t n, struct error *error)
{
	s->run.first_page += n;
	s->run.count -= n;
	if (s->run.hashes)
		s->run.hashes += n;
	return s->run.count > 0 ? 0 : advance(s, error);
}

static int cut_covered(struct stream *old, const struct hashes_run *by, struct error *error)
{
	uint32_t end = by->first_page + by->count;
	while (!old->ended && old->run.disk == by->disk && old->run.first_page < end) {
		int r = cut(old, MIN(old->run.count, end - old->run.first_page), error);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool newer_is_first(const struct stream *old, const struct stream *new)
{
	if (new->ended)
		return false;
	if (old->ended)
		return true;
	return new->run.disk < old->run.disk ||
	       (new->run.disk == old->run.disk &&new->run.first_page <= old->run.first_page);
}

int hashes_merge(struct hashes_reader *older, struct hashes_reader *newer,
	struct hashes_writer *writer, struct error *error)
{
	struct stream old = { .reader = older }, new = { .reader = newer };
	int r = advance(&old, error);
	if (r == 0)
		r = advance(&new, error);
	while (r == 0 && !(old.ended && new.ended)) {
		const bool take_new = newer_is_first(&old, &new);
		const struct hashes_run *run = take_new ? &new.run : &old.run;
		uint32_t n = run->count;
		if (!take_new && !new.ended &&new.run.disk == run->disk)
			n = MIN(n, new.run.first_page - run->first_page);
		r = hashes_writer_add(writer, run->disk, run->first_page, n, run->hashes);
		if (r == 0 && take_new)
			r = cut_covered(&old, &new.run, error);
		if (r == 0)
			r = cut(take_new ? &new : &old, n, error);
	}
	return r;
}
