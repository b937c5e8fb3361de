/*
 * Before a flush or a drain, after the journal lost acknowledged records: nobody knows what was
 * sent beyond what the journal has now, so the bases are made what the newest vault point shows.
 * Which that is the vault itself tells, since the record that said so may be among the lost.
 *
 * May be cut short at any time and done again. One thread, the flusher's.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"

/* The journal stands on what the vault has. */
static int learn(
	struct flusher *f, const struct manifest *newest, uint64_t *point, struct error *error)
{
	const struct point found = { .number = newest->number,
		.time_ns = newest->time_ns,
		.changed_bytes = newest->changed_bytes,
		.flags = POINT_VAULT | newest->flags,
		.kind = newest->kind };
	uint64_t lsn;
	/* It stays unknown to the journal, and the flush sends what differs. */
	if (newest->number == *point || newest->number == f->options.unknown_point)
		return 0;
	if (newest->number < f->options.unknown_point)
		return error_set(error, -EUCLEAN, "run 'landfall vault check'",
			"point %" PRIu64 ", the newest in the vault, is not whole there",
			f->options.unknown_point);
	if (newest->number < *point)
		return error_set(error, -EUCLEAN, "run 'landfall vault check'",
			"point %" PRIu64 " should be the newest in the vault, which has none above "
			"%" PRIu64,
			*point, newest->number);
	int r = history_repair_learn(f->options.history, &found, &lsn);
	if (r < 0)
		return error_set(error, r, NULL,
			"point %" PRIu64 " of the vault cannot be brought into the journal: %s",
			newest->number, strerror(-r));
	log_warning("group %s: the vault has point %" PRIu64 ", of which the journal had lost the "
		    "record",
		f->options.group->name, newest->number);
	*point = newest->number;
	return flush_sync(f, lsn, error);
}

int flush_repair(struct flusher *f, struct error *error)
{
	CLEANUP(manifest_free) struct manifest newest = { 0 };
	struct vault_progress progress = { 0 };
	const struct flusher_options *o = &f->options;
	uint64_t point, lsn;
	if (!history_repair_due(o->history, &point))
		return 0;
	log_warning("group %s: the journal lost records, so the disks in the vault are compared "
		    "with the newest point there before anything more is sent",
		o->group->name);
	int r = vault_newest_whole(o->store, o->group, error, &newest);
	if (r == 0)
		r = learn(f, &newest, &point, error);
	if (r == 0)
		r = vault_repair_disks(o->store, o->clock, o->group, &newest, &progress, error);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < f->disk_count; i++) {
		f->disks[i]->target.sequence = -1; /* it was raised */
		f->disks[i]->footer_proven = false;
	}
	r = history_repaired(o->history, point, &lsn);
	if (r < 0)
		return error_set(error, r, NULL, "the repair cannot be noted: %s", strerror(-r));
	r = flush_sync(f, lsn, error);
	if (r == 0)
		log_info("group %s: the disks in the vault are those of point %" PRIu64 " again",
			o->group->name, point);
	return r;
}
