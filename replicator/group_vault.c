/*
 * The flusher's thread: everything a group does in the vault, one thing after another.
 *
 *	claim (or create) ─► update settings and disks ─► flush when due ─► look whose it is
 *	─► delete what may go
 *
 * It owns the store, the flusher and group->vault_group (which others copy under the lock). A vault
 * out of reach is tried again after 1 s, 2 s, … 60 s, with jitter. When a lease or a number does
 * not hold, owner.json tells why: if it is what this process wrote, somebody else broke the lease,
 * and may have written to the disks: the journal notes that the bases are in doubt, and then the
 * group is claimed again and the flusher repairs them (flush_repair.c); if it is not, the group is
 * another's and never written again by this process: the group remembers it, refuses writes and
 * says who owns it. The flush itself is fenced by lease and sequence number (flusher.h), so a
 * mistake here could cost a flush, not a point.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/utc.h"
#include "replicator/group_worker.h"
#include "replicator/vault_internal.h"

#define FIRST_RETRY_NS NS_PER_S
#define LONGEST_RETRY_NS (60 * NS_PER_S)
#define IDLE_NS (60 * NS_PER_S)
/* So often a group with nothing to send looks whether the vault is there and still its own, give or
 * take a quarter; a read or a job that cannot reach the vault makes it look at once. */
#define LOOK_NS (60 * NS_PER_S)
#define RETENTION_NS (60 * NS_PER_S)
#define ORPHANS_NS (24 * 3600 * NS_PER_S)
#define DELETES_AT_ONCE 8

enum work {
	WORK_NONE,
	WORK_CLAIM,
	WORK_UPDATE,
	WORK_FLUSH,
	WORK_DRAIN,
	WORK_RETAIN,
	WORK_LOOK,
	WORK_CLEAN
};

/* ── what results mean ───────────────────────────────────────────────────────────────────── */

/* Who has it, as far as the vault tells; else what the refusal said, and true if owner.json names
 * this appliance all the same. */
static bool describe_owner(struct worker *w, const struct error *error, char *ret_text, size_t size)
{
	CLEANUP(vault_group_free) struct vault_group g = { 0 };
	char since[UTC_ISO_BYTES];
	bool known = w->store && vault_group_load(w->store, w->group->name, NULL, &g) == 0;
	bool ours = known && memcmp(&g.owner, &w->group->appliance, sizeof(g.owner)) == 0;
	if (known && !ours) {
		utc_format_iso(g.claimed_ns, since);
		snprintf(ret_text, size, "appliance %s took group %s over at %.19sZ", g.owner_name,
			w->group->name, since);
	} else {
		snprintf(ret_text, size, "%s", error->message);
	}
	return ours;
}

static void become_taken_over(struct worker *w, const struct error *error, bool in_claim)
{
	struct group *group = w->group;
	char owner[sizeof(group->state.owner)];
	bool ours = describe_owner(w, error, owner, sizeof(owner));
	atomic_store(&group->refuse_writes, true);
	pthread_mutex_lock(&group->state_lock);
	group->state.taken_over = true;
	group->state.lease_unknown = ours && in_claim;
	memcpy(group->state.owner, owner, sizeof(owner));
	/* If it cannot be written the vault is asked again at the next start. */
	(void)group_state_save(group);
	pthread_mutex_unlock(&group->state_lock);
	pthread_mutex_lock(&group->lock);
	group->taken_over = true;
	group->claimed = false;
	vault_base_lose(group->vault_base, true);
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
	r = worker_doubt_bases(w, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&group->lock);
	group->claimed = false;
	return -EUCLEAN;
}

void group_tell_vault(struct group *group, int r, const struct error *error)
{
	if (r != -EAGAIN && r != -ETIMEDOUT && r != -ECONNREFUSED && r != -ECONNRESET)
		return;
	pthread_mutex_lock(&group->lock);
	bool news = group->service && !group->taken_over && group->vault_error.code == 0;
	if (news) {
		group->vault_error = *error;
		group->vault_error_since_ns = clock_realtime_ns(group->clock);
		group->vault_reachable = false;
		group->look_asked = true;
		pthread_cond_signal(&group->flush_wake);
		pthread_cond_signal(&group->timer_wake); /* for the alert */
	}
	pthread_mutex_unlock(&group->lock);
	if (news)
		log_warning("group %s: %s; the vault is looked at", group->name, error->message);
}

/* What tells whose the group is puts off the next look; jitter keeps many groups apart. */
static void put_off_look(struct worker *w)
{
	int64_t jitter = (int64_t)rng_below(&w->rng, LOOK_NS / 2 + 1);
	w->look_at_ns = clock_monotonic_ns(w->group->clock) + LOOK_NS * 3 / 4 + jitter;
}

static void judge(struct worker *w, int r, struct error *error, enum work work)
{
	/* A claim that ends so found that nothing may be flushed. */
	bool in_flush = work == WORK_FLUSH || work == WORK_DRAIN || work == WORK_RETAIN ||
			(work == WORK_CLAIM && r == -EUCLEAN);
	if ((r == -ESTALE || r == -EBUSY) && work != WORK_CLAIM)
		r = look_again(w, error);
	if (r == 0) {
		if (work == WORK_CLAIM || work == WORK_FLUSH || work == WORK_LOOK)
			put_off_look(w);
		remember_success(w);
	} else if (r == -ESTALE) {
		w->refused = true;
		become_taken_over(w, error, work == WORK_CLAIM);
	} else if (r != -ECANCELED) {
		if (work == WORK_LOOK) /* looks on, at the pace of whatever fails */
			w->look_at_ns = 0;
		remember_failure(w, error, in_flush && !is_vaults_fault(r));
	}
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

/* Nothing is collected beside a manifest that is gone: what it explained would be. */
static int newest_is_there(struct worker *w, struct error *error, bool *ret_there)
{
	struct group *group = w->group;
	struct history_stats stats;
	history_stats(group->history, &stats);
	*ret_there = true;
	if (stats.newest_vault_point == 0)
		return 0;
	int r = vault_point_settle(w->store, group->clock, &group->vault_group,
		stats.newest_vault_point, false, error, ret_there);
	if (r == -EBADMSG || r == -EPROTONOSUPPORT)
		r = 0; /* damaged it keeps all that bears its number */
	if (r == 0 && !*ret_there)
		log_error("group %s: the manifest of point %" PRIu64
			  " is gone from the vault; what nothing explains there is kept",
			group->name, stats.newest_vault_point);
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
	unsigned deleted = 0;
	bool there;
	r = newest_is_there(w, error, &there);
	if (r == 0 && there)
		r = vault_collect_orphans(w->store, &group->vault_group,
			history_oldest_pending(group->history), error, &deleted);
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
	if (group->drain_asked && !group->paused)
		return WORK_DRAIN;
	if (group->retention_asked && (group->retention_now || now >= w->retention_at_ns)) {
		group->retention_now = false;
		return WORK_RETAIN;
	}
	if (group->retention_asked)
		*ret_until_ns = MIN(*ret_until_ns, w->retention_at_ns);
	if (group->look_asked || now >= w->look_at_ns) {
		group->look_asked = false;
		return WORK_LOOK;
	}
	*ret_until_ns = MIN(*ret_until_ns, w->look_at_ns);
	if (group->deletes_asked || group->keeps_asked || now >= w->orphans_at_ns)
		return WORK_CLEAN;
	return WORK_NONE;
}

static void close_store(struct worker *w)
{
	if (w->store)
		w->store->ops->free(w->store);
	w->store = NULL;
}

static void do_work(struct worker *w, enum work work)
{
	struct group *group = w->group;
	struct error error = { 0 };
	bool asked = true, for_look = work == WORK_LOOK && !w->store;
	int r = 0;
	if (!w->store)
		r = group->service->ops->open_store(
			group->service, &group->stop_calls, &error, &w->store);
	if (r == 0 && work == WORK_CLAIM)
		r = worker_claim(w, &error);
	else if (r == 0 && work == WORK_UPDATE)
		r = worker_update(w, &error);
	else if (r == 0 && work == WORK_FLUSH)
		r = worker_flush(w, &error, &asked);
	else if (r == 0 && work == WORK_DRAIN)
		r = worker_drain(w, &error, &asked);
	else if (r == 0 && work == WORK_LOOK)
		r = vault_owner_confirm(w->store, &group->vault_group, &error);
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
	if (for_look)
		close_store(w); /* a connection a minute is kept by nobody */
}

/* With nothing to do: the store's connections and buffers are not kept for long. */
static void rest(struct worker *w)
{
	if (!w->store || clock_monotonic_ns(w->group->clock) < w->worked_ns + GROUP_REST_NS)
		return;
	close_store(w);
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
	if (stopped)
		close_store(w);
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
		bool disk_full = group_disk_is_full(group);
		rest(&w);
		pthread_mutex_lock(&group->lock);
		if (group->stopping || group->deleting)
			break;
		int64_t until_ns;
		/* Under the lock: who seals a point wakes us under it, afterwards. */
		bool sealed = group_next_point(group, &number);
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
	close_store(&w);
	flush_pace_free(&w.pace);
	return NULL;
}
