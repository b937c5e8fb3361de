/*
 * Before a flush or a drain, after the journal lost acknowledged records: nobody knows what was
 * sent beyond what the journal has now, so the bases are made what the newest vault point shows.
 * The same after a lease was lost though the group is ours: nobody knows what another wrote
 * meanwhile. What a flush that was cut short had sent is sent again. What was drained is not to be
 * had from anywhere else, so with a drain under way nothing is sent any more.
 *
 * Which that is the vault itself tells, since the record that said so may be among the lost: such a
 * point stays unknown to the journal until one above it is flushed (flush_unknown.c).
 *
 * May be cut short at any time and done again. One thread, the flusher's.
 */
#include "replicator/flusher_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"

/* Whoever claimed the group has compared its points with the journal's (vault_agree). */
static int check_newest(struct flusher *f, uint64_t newest, uint64_t point, struct error *error)
{
	uint64_t known = MAX(point, f->options.unknown_point);
	if (newest > known)
		return error_set(error, -ESTALE, NULL,
			"point %" PRIu64 " came into the vault after the group was claimed",
			newest);
	if (newest < known)
		return error_set(error, -EUCLEAN, "run 'landfall vault check'",
			"point %" PRIu64 " should be the newest in the vault, which has none above "
			"%" PRIu64,
			known, newest);
	return 0;
}

/* Part of an epoch was in the vault only, where another may have written to it. */
static int refuse_drained(const struct vault_group *group, struct error *error)
{
	char mend[sizeof(error->mend)];
	const char *machine = group->name;
	bool more = false;
	for (unsigned i = group->disk_count; i-- > 0;) {
		if (group->disks[i].removed)
			continue;
		const char *name = group->disks[i].name;
		more |= machine != group->name &&
			strncmp(machine, name, strcspn(name, "/") + 1) != 0;
		machine = name;
	}
	snprintf(mend, sizeof(mend),
		"bring it back from the vault: 'landfall machine remove %.*s --keep-vault'%s, then "
		"'landfall vault takeover --group %s'; its disks need a resync then",
		(int)strcspn(machine, "/"), machine, more ? " and so its other machines" : "",
		group->name);
	return error_set(error, -EUCLEAN, mend,
		"the lease of the group's disks was broken while part of a large change was there "
		"only: another may have written to it");
}

int flush_repair(struct flusher *f, struct error *error)
{
	CLEANUP(manifest_free) struct manifest newest = { 0 };
	struct vault_progress progress = { 0 };
	const struct flusher_options *o = &f->options;
	uint64_t point, lsn;
	if (!history_repair_due(o->history, &point))
		return 0;
	struct history_drain drain;
	history_drain_state(o->history, &drain);
	if (drain.number != 0)
		return refuse_drained(o->group, error);
	log_warning("group %s: the disks in the vault are compared with the newest point there "
		    "before anything more is sent",
		o->group->name);
	int r = vault_newest_whole(o->store, o->group, error, &newest);
	if (r == 0)
		r = check_newest(f, newest.number, point, error);
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
			o->group->name, newest.number);
	return r;
}
