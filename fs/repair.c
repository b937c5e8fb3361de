/*
 * After acknowledged records were lost, or after somebody else may have written to it: what the
 * base holds is in doubt.
 *
 * The head is where the journal is whole, or at a vault point; the base may hold more, sent by a
 * flush or a drain of which the journal knows nothing any more. What is sent next is what changed
 * since the vault point, so the base must be made equal to that first. That the vault may even have
 * points that the journal has forgotten is its user's matter.
 */
#include <errno.h>

#include "fs/history_internal.h"

bool history_repair_due(struct history *history, uint64_t *ret_point)
{
	SCOPED_LOCK(&history->lock);
	*ret_point = history->vault_point;
	return history->repair_due;
}

int history_repair_ask(struct history *history, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->upkeep_lock);
	int r = drain_raise_format(history);
	if (r < 0)
		return r;
	struct journal_record record = { .type = JOURNAL_DRAIN };
	record.drain.flags = JOURNAL_DRAIN_REPAIR;
	SCOPED_LOCK(&history->lock);
	return stage_record(history, &record, ret_lsn);
}

int history_repaired(struct history *history, uint64_t point, uint64_t *ret_lsn)
{
	SCOPED_LOCK(&history->lock);
	const struct journal_record record = { .type = JOURNAL_DRAIN };
	if (!history->repair_due || point != history->vault_point || history->drain.lsn > 0)
		return -EINVAL;
	return stage_record(history, &record, ret_lsn);
}
