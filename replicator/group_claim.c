/*
 * A group's place in the vault: created or claimed, settings and disks kept up to date, deleted.
 *
 * group->vault_group is what the flusher's thread last saw or wrote there; it alone changes it,
 * under the lock, and others take copies. Created and claimed is what the vault says so of: an
 * answer that was lost is found out by asking again.
 *
 * Threads: worker_* the flusher's, group_delete_vault anyone's, once; the copies any.
 */
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "replicator/group_worker.h"
#include "replicator/vault_internal.h"

/* ── copies of a vault_group ─────────────────────────────────────────────────────────────── */

int vault_group_copy(const struct vault_group *group, struct vault_group *ret_copy)
{
	struct vault_group copy = *group;
	copy.settings = group->settings ? strdup(group->settings) : NULL;
	copy.disks = calloc(group->disk_count + 1, sizeof(*copy.disks));
	copy.cuts = calloc(group->cut_count + 1, sizeof(*copy.cuts));
	if (!copy.disks || !copy.cuts || (group->settings && !copy.settings)) {
		vault_group_free(&copy);
		return -ENOMEM;
	}
	if (group->disk_count > 0)
		memcpy(copy.disks, group->disks, group->disk_count * sizeof(*copy.disks));
	if (group->cut_count > 0)
		memcpy(copy.cuts, group->cuts, group->cut_count * sizeof(*copy.cuts));
	*ret_copy = copy;
	return 0;
}

int group_vault_copy(struct group *group, struct vault_group *ret_group)
{
	SCOPED_LOCK(&group->lock);
	if (!group->claimed)
		return -ENOTCONN;
	return vault_group_copy(&group->vault_group, ret_group);
}

int group_wait_claimed(struct group *group, unsigned timeout_ms)
{
	int64_t until = clock_monotonic_ns(group->clock) + timeout_ms * NS_PER_MS;
	SCOPED_LOCK(&group->lock);
	while (!group->claimed) {
		if (group->taken_over)
			return -ESTALE;
		if (!group->service || group->stopping || clock_monotonic_ns(group->clock) >= until)
			return -ENOTCONN;
		group_wait_until_locked(group, &group->changed, until);
	}
	return 0;
}

/* Makes `next` (taken over) what the group knows of the vault. */
static void set_vault_group(struct group *group, struct vault_group *next)
{
	SCOPED_LOCK(&group->lock);
	struct vault_group old = group->vault_group;
	group->vault_group = *next;
	*next = (struct vault_group){ 0 };
	vault_group_free(&old);
}

/* ── claiming ────────────────────────────────────────────────────────────────────────────── */

static int check_vault(struct worker *w, struct error *error)
{
	struct vault_identity identity;
	int r = vault_open(w->store, error, &identity);
	SCOPED_LOCK(&w->group->lock);
	w->group->vault_initialized = r != -ENOENT;
	return r;
}

static int create_group(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	CLEANUP(vault_group_free) struct vault_group g = { 0 };
	int r = group_disks_for_vault(group, &g);
	if (r < 0)
		return group_error(error, r, group, "listing its disks");
	pthread_mutex_lock(&group->lock);
	g.settings = strdup(group->settings);
	group->update_due = false;
	pthread_mutex_unlock(&group->lock);
	g.claimed_ns = clock_realtime_ns(group->clock);
	r = g.settings ? vault_group_create(w->store, &g, error)
		       : group_error(error, -ENOMEM, group, "its settings");
	if (r < 0) {
		SCOPED_LOCK(&group->lock);
		group->update_due = true;
		return r;
	}
	set_vault_group(group, &g);
	log_info("group %s: created in the vault", group->name);
	return 0;
}

/* That a group with points in the vault is not there means that its owner.json was deleted. A new
 * one is what a takeover needs to go by; whether the disks are still ours their leases decide. */
static int create_again(struct worker *w, struct error *error)
{
	struct history_stats stats;
	history_stats(w->group->history, &stats);
	int r = create_group(w, error);
	if (stats.newest_vault_point == 0)
		return r;
	log_error("group %s: its owner.json was missing from the vault and was written anew",
		w->group->name);
	return r == -ESTALE ? vault_owner_missing(w->group->name, r,
				      "was missing from the vault and was written anew", error)
			    : r;
}

int worker_doubt_bases(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	uint64_t lsn, point;
	if (history_repair_due(group->history, &point))
		return 0;
	int r = history_repair_ask(group->history, &lsn);
	if (r == -EAGAIN && (r = group_sync(group, history_staged_lsn(group->history))) == 0)
		r = history_repair_ask(group->history, &lsn);
	if (r == 0)
		r = group_sync(group, lsn);
	return r < 0 ? group_error(error, r, group, "writing the journal") : 0;
}

/* A lease that nobody has was broken while we were away, or had no time to be taken. The journal
 * notes it before it is taken: then nothing tells any more. */
static int look_at_leases(struct worker *w, const struct vault_group *g, struct error *error)
{
	bool lost = false;
	if (memcmp(&g->owner, &w->group->appliance, sizeof(g->owner)) != 0)
		return 0; /* the claim says so */
	int r = vault_group_leases(w->store, g, error, &lost);
	if (r < 0 || !lost)
		return r;
	log_warning("group %s: disks in the vault have no lease any more, though it is ours",
		w->group->name);
	return worker_doubt_bases(w, error);
}

static int claim_group(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	CLEANUP(vault_group_free) struct vault_group g = { 0 };
	int r = vault_group_load(w->store, group->name, error, &g);
	if (r < 0)
		return r;
	if (memcmp(&g.id, &group->id, sizeof(g.id)) != 0)
		return error_set(error, -EEXIST,
			"remove the machine here and bring that one back with 'landfall vault "
			"takeover', or add it under another group's name",
			"the vault holds another history under the name of group %s, of "
			"appliance %s",
			group->name, g.owner_name);
	r = look_at_leases(w, &g, error);
	vault_group_free(&g);
	g = (struct vault_group){ 0 };
	if (r < 0)
		return r;
	r = vault_group_claim(w->store, group->name, &group->appliance, group->clock, error, &g);
	if (r < 0)
		return r;
	set_vault_group(group, &g);
	return 0;
}

/* After a loss here: a point that can be flushed has a number that the vault has not used. */
static int seal_above(struct group *group, uint64_t unknown, struct error *error)
{
	const struct seal seal = { .kind = POINT_CRASH };
	struct point newest = { 0 };
	uint64_t number;
	pthread_mutex_lock(&group->lock);
	bool wait = group->paused;
	pthread_mutex_unlock(&group->lock);
	/* Then a person says when the next point is right. */
	wait |= group_resync_disks(group, NULL, 0) > 0;
	(void)history_point_newest(group->history, POINT_LOCAL, INT64_MAX, &newest);
	if (wait || newest.number == 0 || newest.number > unknown)
		return 0;
	int r = group_seal_now(group, &seal, NULL, &number);
	return r < 0 ? group_error(error, r, group, "sealing a recovery point") : 0;
}

/* Up to which point of the vault a loss was noted in this journal already. */
static uint64_t told_loss(struct group *group)
{
	SCOPED_LOCK(&group->state_lock);
	return history_durable_lsn(group->history) >= group->state.lost_lsn
		       ? group->state.lost_point
		       : 0;
}

/* The journal says by now, durably, that the disks need a resync. What was sealed before it did, on
 * top of what was left, goes nowhere; whoever clears the need has put the disks right. */
static int note_loss(struct group *group, uint64_t unknown, struct error *error)
{
	int r = group_mark_damaged(group, unknown);
	if (r < 0)
		return group_error(error, r, group, "writing the journal");
	pthread_mutex_lock(&group->state_lock);
	group->state.lost_point = unknown;
	group->state.lost_lsn = history_durable_lsn(group->history);
	/* If it cannot be, the next claim may ask for another resync. */
	(void)group_state_save(group);
	pthread_mutex_unlock(&group->state_lock);
	SCOPED_LOCK(&group->lock);
	pthread_cond_signal(&group->timer_wake); /* for the alert's cause */
	return 0;
}

/* What the vault holds and what the journal says of it are made to agree. */
static int agree(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	struct error sync_error = { 0 };
	uint64_t before = history_staged_lsn(group->history), unknown = 0;
	uint64_t told = told_loss(group);
	int agreed = vault_agree(
		w->store, group->clock, &group->vault_group, group->history, told, error, &unknown);
	uint64_t lsn = history_staged_lsn(group->history);
	int r = lsn > before ? group_sync(group, lsn) : 0;
	if (r < 0)
		group_error(agreed < 0 ? &sync_error : error, r, group, "writing the journal");
	if (agreed < 0 || r < 0)
		return agreed < 0 ? agreed : r;
	if (unknown > told)
		r = note_loss(group, unknown, error);
	if (r < 0)
		return r;
	atomic_store(&group->unknown_point, unknown);
	return unknown > 0 ? seal_above(group, unknown, error) : 0;
}

int worker_claim(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	int r = check_vault(w, error);
	if (r < 0)
		return r;
	r = claim_group(w, error);
	if (r == -ENOENT)
		r = create_again(w, error);
	if (r == 0)
		r = agree(w, error);
	if (r < 0)
		return r;
	pthread_mutex_lock(&group->state_lock);
	bool was_taken_over = group->state.taken_over;
	group->state.taken_over = false;
	group->state.owner[0] = '\0';
	if (was_taken_over)
		(void)group_state_save(group);
	pthread_mutex_unlock(&group->state_lock);
	SCOPED_LOCK(&group->lock);
	group->claimed = true;
	group->taken_over = false;
	vault_base_lose(group->vault_base, false);
	pthread_cond_broadcast(&group->changed);
	group->update_due = true; /* compared below, written only if it differs */
	atomic_store(&group->refuse_writes, group->stopping);
	w->orphans_at_ns = clock_monotonic_ns(group->clock);
	return 0;
}

/* ── settings and disks ──────────────────────────────────────────────────────────────────── */

static struct vault_disk *find_disk(struct vault_group *group, uint16_t id)
{
	for (unsigned i = 0; i < group->disk_count; i++)
		if (group->disks[i].id == id)
			return &group->disks[i];
	return NULL;
}

/* Makes room for `more`: the removed disks of longest ago that the journal has forgotten, since no
 * point shows them, are forgotten here as well. Their numbers are not given again: there are higher
 * ones. */
static void forget_removed(struct vault_group *g, const struct vault_group *ours, unsigned more)
{
	unsigned kept = 0, left = g->disk_count;
	for (unsigned i = 0; i < g->disk_count; i++) {
		bool here = false;
		for (unsigned k = 0; k < ours->disk_count; k++)
			here |= ours->disks[k].id == g->disks[i].id;
		if (left + more > VAULT_MAX_DISKS && g->disks[i].removed && !here)
			left--;
		else
			g->disks[kept++] = g->disks[i];
	}
	g->disk_count = kept;
}

/* Brings the journal's disks into `g`; the vault's footers stay. */
static int merge_disks(struct vault_group *g, const struct vault_group *ours, bool *changed)
{
	struct vault_disk *disks =
		realloc(g->disks, (g->disk_count + ours->disk_count + 1) * sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	g->disks = disks;
	forget_removed(g, ours, ours->disk_count);
	for (unsigned i = 0; i < ours->disk_count; i++) {
		const struct vault_disk *disk = &ours->disks[i];
		struct vault_disk *there = find_disk(g, disk->id);
		if (!there) {
			g->disks[g->disk_count++] = *disk;
			*changed = true;
		} else if (there->size_bytes != disk->size_bytes ||
			   there->removed != disk->removed) {
			there->size_bytes = disk->size_bytes;
			there->removed = disk->removed;
			*changed = true;
		}
	}
	return 0;
}

int worker_update(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	CLEANUP(vault_group_free) struct vault_group next = { 0 }, ours = { 0 };
	bool changed = false;
	int r = group_disks_for_vault(group, &ours);
	pthread_mutex_lock(&group->lock);
	group->update_due = false;
	if (r == 0)
		r = vault_group_copy(&group->vault_group, &next);
	if (r == 0 && (!next.settings || strcmp(next.settings, group->settings) != 0)) {
		free(next.settings);
		next.settings = strdup(group->settings);
		changed = true;
		r = next.settings ? 0 : -ENOMEM;
	}
	pthread_mutex_unlock(&group->lock);
	if (r == 0)
		r = merge_disks(&next, &ours, &changed);
	if (r < 0)
		group_error(error, r, group, "preparing its settings");
	else if (changed)
		r = vault_group_update(w->store, &next, error);
	if (r < 0) {
		SCOPED_LOCK(&group->lock);
		group->update_due = true;
		return r;
	}
	if (changed)
		set_vault_group(group, &next);
	return 0;
}

/* ── the end in the vault ────────────────────────────────────────────────────────────────── */

static void stop_flushing(struct group *group)
{
	pthread_mutex_lock(&group->lock);
	group->deleting = true;
	group_stop_flush_locked(group);
	atomic_store(&group->stop_calls, true); /* a claim or a clean-up, too */
	pthread_cond_broadcast(&group->flush_wake);
	pthread_mutex_unlock(&group->lock);
	group_join_flusher(group);
}

int group_delete_vault(struct group *group, const atomic_bool *stop, struct error *error)
{
	if (!group->service)
		return error_set(
			error, -ENOTCONN, NULL, "group %s: no vault is configured", group->name);
	stop_flushing(group);
	struct blob_store *store;
	int r = group->service->ops->open_store(group->service, stop, error, &store);
	if (r < 0)
		return r;
	/* Asked of the vault itself: what this process remembers may be from before a failure. */
	CLEANUP(vault_group_free) struct vault_group g = { 0 };
	r = vault_group_load(store, group->name, error, &g);
	if (r == 0 && memcmp(&g.id, &group->id, sizeof(g.id)) != 0)
		r = -ENOENT; /* another's of the same name: not ours to delete */
	if (r == 0) {
		vault_group_free(&g);
		g = (struct vault_group){ 0 };
		r = vault_group_claim_to_delete(
			store, group->name, &group->appliance, group->clock, error, &g);
	}
	if (r == 0)
		r = vault_group_delete(store, &g, error);
	store->ops->free(store);
	return r == -ENOENT ? 0 : r;
}
