/*
 * The flusher's thread: everything a group does in the vault, one thing after another.
 *
 *	claim (or create) ─► update settings and disks ─► flush when due ─► delete what may go
 *
 * It owns the store, the flusher and group->vault_group (which others copy under the lock). A
 * vault out of reach is tried again after 1 s, 2 s, … 60 s, with jitter. When a lease or a number
 * does not hold, owner.json tells why: if it is what this process wrote, somebody else broke the
 * lease, and the group is claimed again; if it is not, the group is another's and never written
 * again by this process: the group remembers it, refuses writes and says who owns it. The flush
 *itself is fenced by lease and sequence number (flusher.h), so a mistake here could cost a flush,
 *not a point.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/rng.h"
#include "common/utc.h"
#include "replicator/group_internal.h"
#include "replicator/vault_internal.h"

#define FIRST_RETRY_NS NS_PER_S
#define LONGEST_RETRY_NS (60 * NS_PER_S)
#define IDLE_NS (60 * NS_PER_S)
#define RETENTION_NS (60 * NS_PER_S)
#define ORPHANS_NS (24 * 3600 * NS_PER_S)
#define DELETES_AT_ONCE 8

enum work { WORK_NONE, WORK_CLAIM, WORK_UPDATE, WORK_FLUSH, WORK_RETAIN, WORK_CLEAN };

struct worker {
	struct group *group;
	struct blob_store *store;
	int64_t retry_delay_ns, retry_at_ns; /* 0: nothing failed */
	int64_t retention_at_ns, orphans_at_ns;
	int64_t worked_ns; /* the store was needed last */
	bool refused;      /* this process was told that the group is another's */
	struct rng rng;
};

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

/* Makes `next` (taken over) what the group knows of the vault. */
static void set_vault_group(struct group *group, struct vault_group *next)
{
	SCOPED_LOCK(&group->lock);
	struct vault_group old = group->vault_group;
	group->vault_group = *next;
	*next = (struct vault_group){ 0 };
	vault_group_free(&old);
}

/* ── what results mean ───────────────────────────────────────────────────────────────────── */

/* Who has it, as far as the vault tells; else what the refusal said. */
static void describe_owner(struct worker *w, const struct error *error, char *ret_text, size_t size)
{
	CLEANUP(vault_group_free) struct vault_group g = { 0 };
	char since[UTC_ISO_BYTES];
	if (w->store && vault_group_load(w->store, w->group->name, NULL, &g) == 0 &&
		memcmp(&g.owner, &w->group->appliance, sizeof(g.owner)) != 0) {
		utc_format_iso(g.claimed_ns, since);
		snprintf(ret_text, size, "appliance %s took group %s over at %.19sZ", g.owner_name,
			w->group->name, since);
		return;
	}
	snprintf(ret_text, size, "%s", error->message);
}

static void become_taken_over(struct worker *w, const struct error *error)
{
	struct group *group = w->group;
	char owner[sizeof(group->state.owner)];
	describe_owner(w, error, owner, sizeof(owner));
	atomic_store(&group->refuse_writes, true);
	pthread_mutex_lock(&group->state_lock);
	group->state.taken_over = true;
	memcpy(group->state.owner, owner, sizeof(owner));
	/* If it cannot be written the vault is asked again at the next start. */
	(void)group_state_save(group);
	pthread_mutex_unlock(&group->state_lock);
	pthread_mutex_lock(&group->lock);
	group->taken_over = true;
	group->claimed = false;
	pthread_cond_broadcast(&group->changed);
	pthread_cond_signal(&group->timer_wake); /* for its alert */
	pthread_mutex_unlock(&group->lock);
	log_error("group %s: %s (%s); nothing is written or sent any more", group->name, owner,
		error->message);
}

static void remember_failure(struct worker *w, const struct error *error, bool in_flush)
{
	struct group *group = w->group;
	w->retry_delay_ns =
		w->retry_delay_ns ? MIN(w->retry_delay_ns * 2, LONGEST_RETRY_NS) : FIRST_RETRY_NS;
	int64_t jitter = (int64_t)rng_below(&w->rng, (uint64_t)w->retry_delay_ns / 4 + 1);
	w->retry_at_ns = clock_monotonic_ns(group->clock) + w->retry_delay_ns - jitter;
	bool news;
	pthread_mutex_lock(&group->lock);
	group->vault_failures++;
	if (in_flush) {
		news = group->flush_failures == 0 ||
		       strcmp(group->flush_error.message, error->message) != 0;
		group->flush_failures++;
		group->status.failed_flushes++;
		group->flush_error = *error;
	} else {
		news = group->vault_error.code != error->code;
		group->vault_reachable = false;
		if (group->vault_error.code == 0)
			group->vault_error_since_ns = clock_realtime_ns(group->clock);
		group->vault_error = *error;
	}
	pthread_mutex_unlock(&group->lock);
	if (news)
		log_warning("group %s: %s; it is tried again", group->name, error->message);
}

static void remember_success(struct worker *w)
{
	struct group *group = w->group;
	w->retry_delay_ns = w->retry_at_ns = 0;
	SCOPED_LOCK(&group->lock);
	if (group->vault_error.code != 0)
		log_info("group %s: the vault answers again", group->name);
	group->vault_reachable = group->vault_initialized = true;
	group->vault_error = (struct error){ 0 };
	group->vault_error_since_ns = 0;
}

/* The service could not be reached or would not have us, as opposed to a fault of the content. */
static bool is_vaults_fault(int r)
{
	switch (-r) {
	case EAGAIN:
	case ETIMEDOUT:
	case ECONNREFUSED:
	case ECONNRESET:
	case ECONNABORTED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
	case EPIPE:
	case EACCES:
	case EPERM:
	case EBADMSG:
		return true;
	default:
		return false;
	}
}

/* A fence refused us (-ESTALE, -EBUSY). -ESTALE if the group is another's; else it is claimed
 * again, or what cannot be told now is asked once more with the next refusal. */
static int look_again(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	struct error found;
	int r = vault_owner_confirm(w->store, &group->vault_group, &found);
	if (r == -ESTALE)
		*error = found;
	if (r < 0)
		return r == -ESTALE ? r : -EAGAIN;
	log_warning("group %s: %s, though it is ours: it is claimed again", group->name,
		error->message);
	SCOPED_LOCK(&group->lock);
	group->claimed = false;
	return -EUCLEAN;
}

static void judge(struct worker *w, int r, struct error *error, enum work work)
{
	bool in_flush = work == WORK_FLUSH || work == WORK_RETAIN;
	if ((r == -ESTALE || r == -EBUSY) && work != WORK_CLAIM)
		r = look_again(w, error);
	if (r == 0)
		remember_success(w);
	else if (r == -ESTALE) {
		w->refused = true;
		become_taken_over(w, error);
	} else if (r != -ECANCELED)
		remember_failure(w, error, in_flush && !is_vaults_fault(r));
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
	vault_group_free(&g);
	g = (struct vault_group){ 0 };
	r = vault_group_claim(w->store, group->name, &group->appliance, group->clock, error, &g);
	if (r < 0)
		return r;
	set_vault_group(group, &g);
	return 0;
}

static int claim(struct worker *w, struct error *error)
{
	struct group *group = w->group;
	int r = check_vault(w, error);
	if (r < 0)
		return r;
	r = claim_group(w, error);
	if (r == -ENOENT)
		r = create_group(w, error);
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

/* Brings the journal's disks into `g`; the vault's footers stay. */
static int merge_disks(struct vault_group *g, const struct vault_group *ours, bool *changed)
{
	struct vault_disk *disks =
		realloc(g->disks, (g->disk_count + ours->disk_count + 1) * sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	g->disks = disks;
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

static int update(struct worker *w, struct error *error)
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

/* ── flushing ────────────────────────────────────────────────────────────────────────────── */

static int sync_for_flusher(void *context, uint64_t lsn)
{
	return group_sync(context, lsn);
}

static uint64_t bandwidth_now(void *context)
{
	struct group *group = context;
	time_t now = (time_t)(clock_realtime_ns(group->clock) / NS_PER_S);
	struct tm local;
	localtime_r(&now, &local);
	SCOPED_LOCK(&group->lock);
	return policy_bandwidth(&group->policy, (unsigned)(local.tm_hour * 60 + local.tm_min));
}

/* The point to flush: the oldest that is kept and not in the vault yet, since a later flush would
 * pass it by for good; else the newest. A flush that was begun is not gone behind. What counts is
 * what is durable: see group_point_keep. */
static bool next_point(struct group *group, uint64_t *ret_number)
{
	struct history_stats stats;
	struct point newest, kept;
	history_stats(group->history, &stats);
	uint64_t pending = history_flush_pending(group->history);
	uint64_t from = MAX(stats.newest_vault_point + 1, pending);
	while (history_point_oldest(group->history, from, POINT_LOCAL | POINT_KEEP, &kept) == 0) {
		*ret_number = kept.number;
		if (!(kept.flags & POINT_DAMAGED))
			return true;
		from = kept.number + 1;
	}
	if (stats.newest_point <= stats.newest_vault_point ||
		history_point_newest(group->history, POINT_LOCAL, INT64_MAX, &newest) < 0 ||
		newest.number <= stats.newest_vault_point || (newest.flags & POINT_DAMAGED))
		return false;
	*ret_number = newest.number;
	return true;
}

/* *ret_number: which point; 0 if there is none to flush any more. */
static int open_flusher(
	struct worker *w, struct error *error, struct flusher **ret_flusher, uint64_t *ret_number)
{
	struct group *group = w->group;
	struct flusher_options options = { .history = group->history,
		.store = w->store,
		.clock = group->clock,
		.group = &group->vault_group,
		.sync = sync_for_flusher,
		.sync_context = group,
		.bandwidth = bandwidth_now,
		.bandwidth_context = group };
	struct flusher *flusher;
	int r = flusher_new(&options, &flusher);
	if (r < 0)
		return group_error(error, r, group, "starting the flusher");
	uint64_t number = 0;
	pthread_mutex_lock(&group->lock);
	bool found = next_point(group, &number);
	if (found) {
		group->flush_number = number;
		group->flusher = flusher;
		group->flushing = true;
		group->last_flush_mono_ns = clock_monotonic_ns(group->clock);
		group->flush_asked = false;
		/* A wish to stop that came just before would otherwise be missed. */
		if (group->stopping || group->paused || group->deleting)
			group_stop_flush_locked(group);
	}
	pthread_mutex_unlock(&group->lock);
	if (!found)
		flusher_free(flusher);
	*ret_flusher = flusher;
	*ret_number = found ? number : 0;
	return 0;
}

static void close_flusher(struct group *group, struct flusher *flusher)
{
	pthread_mutex_lock(&group->lock);
	group->flusher = NULL;
	group->flush_number = 0;
	group->flushing = false;
	pthread_mutex_unlock(&group->lock);
	flusher_free(flusher);
}

static void count_flush(struct group *group, const struct flusher_result *result)
{
	SCOPED_LOCK(&group->lock);
	struct flusher_result *totals = &group->status.totals;
	totals->point = result->point;
	group->status.history.newest_vault_point = result->point; /* before the next tick, too */
	totals->put_bytes += result->put_bytes;
	totals->put_requests += result->put_requests;
	totals->clear_bytes += result->clear_bytes;
	totals->clear_requests += result->clear_requests;
	totals->bridged_bytes += result->bridged_bytes;
	totals->retries += result->retries;
	totals->fences += result->fences;
	totals->duration_ns += result->duration_ns;
	group->status.flushes++;
	group->flushed_bytes += result->put_bytes + result->clear_bytes;
	group->flush_failures = 0;
	group->flush_error = (struct error){ 0 };
	group->retention_asked = true;
	unsigned left = 0;
	for (unsigned i = 0; i < group->sealed_count; i++)
		if (group->sealed[i].number > result->point)
			group->sealed[left++] = group->sealed[i];
	group->sealed_count = left;
	pthread_cond_broadcast(&group->changed);
	pthread_cond_signal(&group->timer_wake);
}

/* A kept point went by itself; what it went before was wanted as well. */
static void ask_for_rest(struct group *group, uint64_t number)
{
	struct point flushed, next;
	if (history_point(group->history, number, &flushed) < 0 || !(flushed.flags & POINT_KEEP) ||
		history_point_oldest(group->history, number + 1, POINT_LOCAL, &next) < 0)
		return;
	SCOPED_LOCK(&group->lock);
	group->flush_asked = true;
}

/* *ret_asked: the vault was asked something for certain. */
static int flush(struct worker *w, struct error *error, bool *ret_asked)
{
	struct group *group = w->group;
	struct flusher *flusher = NULL;
	struct flusher_result result = { 0 };
	uint64_t number = 0;
	int r = open_flusher(w, error, &flusher, &number);
	*ret_asked = r == 0 && number != 0;
	if (r < 0 || number == 0)
		return r;
	r = flusher_flush(flusher, number, error, &result);
	close_flusher(group, flusher);
	if (r == 0) {
		count_flush(group, &result);
		ask_for_rest(group, number);
		log_debug("group %s: point %" PRIu64 " is in the vault, %" PRIu64
			  " bytes sent in %" PRIu64 " requests",
			group->name, result.point, result.put_bytes, result.put_requests);
	} else {
		/* The wish stands until it is fulfilled. */
		SCOPED_LOCK(&group->lock);
		group->flush_asked = true;
	}
	return r;
}

/* ── deletions ───────────────────────────────────────────────────────────────────────────── */

static int tell_keeps(struct worker *w, struct error *error, bool *ret_asked)
{
	struct group *group = w->group;
	pthread_mutex_lock(&group->lock);
	bool asked = group->keeps_asked;
	group->keeps_asked = false;
	pthread_mutex_unlock(&group->lock);
	if (!asked)
		return 0;
	*ret_asked = true;
	int r = group_tell_keeps(group, w->store, error);
	if (r == 0)
		return 0;
	SCOPED_LOCK(&group->lock);
	group->keeps_asked = true;
	return r;
}

/* *ret_asked: the vault was asked something for certain. */
static int clean_up(struct worker *w, struct error *error, bool *ret_asked)
{
	struct group *group = w->group;
	int r = group_delete_noted(group, w->store, DELETES_AT_ONCE, error);
	int64_t now = clock_monotonic_ns(group->clock);
	*ret_asked = false;
	if (r == 0)
		r = tell_keeps(w, error, ret_asked);
	if (r < 0 || now < w->orphans_at_ns)
		return r;
	*ret_asked = true;
	unsigned deleted;
	r = vault_collect_orphans(w->store, &group->vault_group,
		history_flush_pending(group->history), error, &deleted);
	if (r == 0) {
		w->orphans_at_ns = now + ORPHANS_NS;
		if (deleted > 0)
			log_info("group %s: %u unexplained snapshots or objects deleted in the "
				 "vault",
				group->name, deleted);
	}
	return r;
}

/* ── the thread ──────────────────────────────────────────────────────────────────────────── */

/* What is to be done now, or until when to sleep. */
static enum work next_work_locked(struct worker *w, bool sealed, int64_t *ret_until_ns)
{
	struct group *group = w->group;
	int64_t now = clock_monotonic_ns(group->clock);
	*ret_until_ns = now + IDLE_NS;
	if (group->retry_asked) {
		group->retry_asked = false;
		w->retry_at_ns = w->retry_delay_ns = 0;
		w->refused = false;
	}
	if (w->refused)
		return WORK_NONE;
	if (now < w->retry_at_ns) {
		*ret_until_ns = w->retry_at_ns;
		return WORK_NONE;
	}
	if (!group->claimed)
		return WORK_CLAIM;
	if (group->update_due)
		return WORK_UPDATE;
	int64_t due = group->last_flush_mono_ns + group->policy.vault_interval_s * NS_PER_S;
	if (sealed && !group->paused) {
		if (group->flush_asked || now >= due)
			return WORK_FLUSH;
		*ret_until_ns = MIN(*ret_until_ns, due);
	}
	if (group->retention_asked && (group->retention_now || now >= w->retention_at_ns)) {
		group->retention_now = false;
		return WORK_RETAIN;
	}
	if (group->retention_asked)
		*ret_until_ns = MIN(*ret_until_ns, w->retention_at_ns);
	if (group->deletes_asked || group->keeps_asked || now >= w->orphans_at_ns)
		return WORK_CLEAN;
	return WORK_NONE;
}

static void do_work(struct worker *w, enum work work)
{
	struct group *group = w->group;
	struct error error = { 0 };
	bool asked = true;
	int r = 0;
	if (!w->store)
		r = group->service->ops->open_store(
			group->service, &group->stop_calls, &error, &w->store);
	if (r == 0 && work == WORK_CLAIM)
		r = claim(w, &error);
	else if (r == 0 && work == WORK_UPDATE)
		r = update(w, &error);
	else if (r == 0 && work == WORK_FLUSH)
		r = flush(w, &error, &asked);
	else if (r == 0 && work == WORK_CLEAN)
		r = clean_up(w, &error, &asked);
	else if (r == 0 && work == WORK_RETAIN) {
		w->retention_at_ns = clock_monotonic_ns(group->clock) + RETENTION_NS;
		r = group_retain(group);
		if (r < 0)
			group_error(&error, r, group, "thinning its points");
		asked = false;
	}
	if (r == 0 && !asked) /* this tells nothing of the vault */
		return;
	judge(w, r, &error, work);
}

/* With nothing to do: the store's connections and buffers are not kept for long. */
static void rest(struct worker *w)
{
	if (!w->store || clock_monotonic_ns(w->group->clock) < w->worked_ns + GROUP_REST_NS)
		return;
	w->store->ops->free(w->store);
	w->store = NULL;
}

/* The calls were stopped: the flush that this was meant for is over. */
static void begin_anew(struct worker *w)
{
	struct group *group = w->group;
	pthread_mutex_lock(&group->lock);
	bool stopped = atomic_load(&group->stop_calls) && !group->stopping && !group->deleting;
	if (stopped)
		atomic_store(&group->stop_calls, false);
	pthread_mutex_unlock(&group->lock);
	if (!stopped || !w->store)
		return;
	w->store->ops->free(w->store);
	w->store = NULL;
}

void group_stop_flush_locked(struct group *group)
{
	if (!group->flusher)
		return;
	flusher_cancel(group->flusher);
	atomic_store(&group->stop_calls, true);
}

void *group_flush_main(void *argument)
{
	struct group *group = argument;
	struct worker w = { .group = group };
	rng_seed(&w.rng, (uint64_t)clock_realtime_ns(group->clock) ^ (uintptr_t)group);
	uint64_t number = 0;
	pthread_mutex_lock(&group->lock);
	while (!group->stopping && !group->deleting) {
		pthread_mutex_unlock(&group->lock);
		bool sealed = next_point(group, &number);
		bool disk_full = group_disk_is_full(group);
		rest(&w);
		pthread_mutex_lock(&group->lock);
		if (group->stopping || group->deleting)
			break;
		int64_t until_ns;
		enum work work = next_work_locked(&w, sealed, &until_ns);
		if (disk_full && work != WORK_NONE) { /* each of them notes something */
			work = WORK_NONE;
			until_ns = clock_monotonic_ns(group->clock) + NS_PER_S;
		}
		if (work == WORK_NONE) {
			if (w.store)
				until_ns = MIN(until_ns, w.worked_ns + GROUP_REST_NS);
			group_wait_until_locked(group, &group->flush_wake, until_ns);
			continue;
		}
		pthread_mutex_unlock(&group->lock);
		do_work(&w, work);
		w.worked_ns = clock_monotonic_ns(group->clock);
		begin_anew(&w);
		pthread_mutex_lock(&group->lock);
	}
	pthread_mutex_unlock(&group->lock);
	if (w.store)
		w.store->ops->free(w.store);
	return NULL;
}

/* ── waiting, and the end in the vault ───────────────────────────────────────────────────── */

void group_flush_now(struct group *group)
{
	SCOPED_LOCK(&group->lock);
	group->flush_asked = true;
	pthread_cond_signal(&group->flush_wake);
}

int group_wait_vault(struct group *group, uint64_t number, unsigned timeout_ms, struct error *error)
{
	if (!group->service)
		return error_set(error, -ENOTCONN,
			"add [vault] to landfall.conf, restart landfalld, run 'landfall vault "
			"init'",
			"group %s: no vault is configured", group->name);
	if (!group->history)
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"group %s: its journal failed and is not open", group->name);
	int64_t until = clock_monotonic_ns(group->clock) + timeout_ms * NS_PER_MS;
	SCOPED_LOCK(&group->lock);
	for (;;) {
		struct history_stats stats;
		history_stats(group->history, &stats);
		if (stats.newest_vault_point >= number)
			return 0;
		if (group->taken_over)
			return error_set(error, -ESTALE, "see the alerts of 'landfall status'",
				"group %s belongs to another appliance", group->name);
		if (group->stopping || group->failed)
			return error_set(
				error, -ECANCELED, NULL, "group %s is ending", group->name);
		if (clock_monotonic_ns(group->clock) >= until)
			return error_set(error, -ETIMEDOUT, NULL,
				"point %" PRIu64 " of group %s is not in the vault yet", number,
				group->name);
		group->flush_asked = true;
		pthread_cond_signal(&group->flush_wake);
		group_wait_until_locked(group, &group->changed, until);
	}
}

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
		r = vault_group_claim(
			store, group->name, &group->appliance, group->clock, error, &g);
	}
	if (r == 0)
		r = vault_group_delete(store, &g, error);
	store->ops->free(store);
	return r == -ENOENT ? 0 : r;
}
