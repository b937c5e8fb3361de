/*
 * The real vault and flusher in a simulated life.
 *
 * The flusher stages records in the history by itself. When it waits for them to be durable, the
 * model is told which: the mark that a flush or a drain began, that one is committed, or that what
 * was drained has arrived. While its requests are under way the machine goes on writing, reading
 * and sealing.
 */
#include "tests/sim/flusher_vault.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/flusher.h"
#include "replicator/manifest.h"
#include "replicator/vault.h"

#define GROUP "group"
#define TRIES 200

struct flusher_vault {
	struct blob_sim *service;
	struct blob_store *store;
	struct vault_group group;
	bool has_group;
	struct base *base;
	struct flusher *flusher;
	struct uuid appliance;
	unsigned faults, overload;
	uint64_t vault_point, drained; /* as the flusher's last record left them */
	bool disturb;
};

static struct flusher_vault *vault_of(struct run *run)
{
	return run->vault_context;
}

struct blob_sim *flusher_vault_service(struct run *run)
{
	return vault_of(run)->service;
}

/* True if a call that failed so may be made again. */
static bool may_try_again(struct run *run, int r, const struct error *error, const char *what)
{
	if (io_sim_is_off(run->sim) || io_sim_has_failed(run->sim))
		return false;
	if (r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET || r == -ECONNREFUSED)
		return true;
	run_fail(run, "%s answers %d: %s", what, r, error->message);
}

static int make_group(struct run *run, struct flusher_vault *v, struct error *error)
{
	bool created;
	struct vault_identity identity;
	int r = vault_init(
		blob_sim_service(v->service), &run->clock.source, error, &created, &identity);
	if (r < 0)
		return r;
	memset(&v->group, 0, sizeof(v->group));
	strcpy(v->group.name, GROUP);
	strcpy(v->group.owner_name, "first");
	v->group.id = run->options.group;
	v->group.owner = v->appliance;
	r = uuid_generate(&identity.id);
	if (r == 0)
		uuid_format(&identity.id, v->group.lease_id);
	return r < 0 ? r : vault_group_create(v->store, &v->group, error);
}

static int own_group(struct run *run, struct flusher_vault *v, struct error *error)
{
	int r = vault_group_claim(
		v->store, GROUP, &v->appliance, &run->clock.source, error, &v->group);
	if (r != -ENOENT)
		return r;
	r = make_group(run, v, error);
	if (r == 0 || r == -EEXIST) {
		vault_group_free(&v->group);
		memset(&v->group, 0, sizeof(v->group));
		r = vault_group_claim(
			v->store, GROUP, &v->appliance, &run->clock.source, error, &v->group);
	}
	return r;
}

static int vault_begin_life(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	struct error error = { 0 };
	struct blob_service *service = blob_sim_service(v->service);
	blob_sim_power_cut(v->service);
	blob_sim_set_faults(v->service, v->faults);
	blob_sim_set_overload(v->service, v->overload);
	int r = service->ops->open_store(service, NULL, &error, &v->store);
	for (unsigned i = 0; i < TRIES; i++) {
		r = own_group(run, v, &error);
		v->has_group = r == 0;
		/* An earlier try of its own may come late and be taken for another process. */
		if (r == 0 || (r != -ESTALE && !may_try_again(run, r, &error, "claim")))
			break;
	}
	if (r < 0)
		return r;
	r = vault_base_new(service, &v->group, &v->base);
	if (r < 0)
		run_fail(run, "vault_base_new answers %d", r);
	run->options.base = v->base;
	/* What the oracle reads shall not fail by chance. */
	blob_sim_set_overload(v->service, 0);
	return 0;
}

static void vault_end_life(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	if (!v)
		return;
	flusher_free(v->flusher);
	v->flusher = NULL;
	vault_base_free(v->base);
	v->base = NULL;
	if (v->has_group)
		vault_group_free(&v->group);
	memset(&v->group, 0, sizeof(v->group));
	v->has_group = false;
	if (v->store)
		v->store->ops->free(v->store);
	v->store = NULL;
}

/* The vault learns of new, grown and removed disks. */
static int update_disks(struct run *run, struct flusher_vault *v)
{
	struct history_disk disks[MODEL_DISKS];
	unsigned n = history_disks(run->history, disks, MODEL_DISKS);
	bool changed = n != v->group.disk_count;
	struct vault_disk *all = calloc(n, sizeof(*all));
	if (!all)
		abort();
	for (unsigned i = 0; i < n; i++) {
		if (i < v->group.disk_count)
			all[i] = v->group.disks[i];
		else
			all[i].vhd_id.bytes[0] = (uint8_t)disks[i].id;
		changed |= all[i].size_bytes != disks[i].size_bytes ||
			   all[i].removed != disks[i].removed;
		all[i].id = disks[i].id;
		memcpy(all[i].name, disks[i].name, sizeof(all[i].name));
		all[i].size_bytes = disks[i].size_bytes;
		all[i].added_point = disks[i].added_point;
		all[i].removed = disks[i].removed;
		all[i].created_ns = clock_realtime_ns(&run->clock.source);
	}
	free(v->group.disks);
	v->group.disks = all;
	v->group.disk_count = n;
	if (!changed)
		return 0;
	struct error error = { 0 };
	int r = 0;
	for (unsigned i = 0; i < TRIES; i++) {
		r = vault_group_update(v->store, &v->group, &error);
		if (r == 0 || !may_try_again(run, r, &error, "vault_group_update"))
			break;
	}
	return r < 0 ? r : vault_base_update(v->base, &v->group);
}

/* Which record it was that the flusher staged: the history's state tells at once. */
static struct model_op staged_op(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	struct model_op op = { .kind = MODEL_FLUSH_BEGIN };
	struct history_stats stats;
	struct history_drain drain;
	history_stats(run->history, &stats);
	history_drain_state(run->history, &drain);
	if (stats.newest_vault_point != v->vault_point) {
		op.kind = MODEL_FLUSH_COMMIT;
		op.number = v->vault_point = stats.newest_vault_point;
		v->drained = drain.lsn;
	} else if (drain.lsn != v->drained) {
		op.kind = MODEL_DRAIN;
		op.number = drain.number;
		v->drained = drain.lsn;
	} else {
		op.number = history_flush_pending(run->history);
	}
	return op;
}

static void note_state(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	struct history_stats stats;
	struct history_drain drain;
	history_stats(run->history, &stats);
	history_drain_state(run->history, &drain);
	v->vault_point = stats.newest_vault_point;
	v->drained = drain.lsn;
	v->disturb = run->drains && rng_below(&run->rng, 2);
}

/* The flusher waits for what it staged. */
static int sync_for_flusher(void *context, uint64_t lsn)
{
	struct run *run = context;
	uint64_t durable;
	struct model_op op = staged_op(run);
	op.lsn = lsn;
	run_trace(run, "flusher waits for %" PRIu64 ", %s of %" PRIu64, lsn,
		op.kind == MODEL_FLUSH_BEGIN    ? "begin"
		: op.kind == MODEL_FLUSH_COMMIT ? "commit"
						: "drain",
		op.number);
	model_stage(&run->model, &op);
	run->last_lsn = MAX(run->last_lsn, lsn);
	int r = history_commit(run->history, &durable);
	if (r < 0)
		return r;
	run_note_durable(run);
	return 0;
}

/* Asked while requests are under way: what the machine goes on doing. */
static uint64_t disturb_flusher(void *context)
{
	struct run *run = context;
	struct flusher_vault *v = vault_of(run);
	if (v->disturb && !io_sim_is_off(run->sim) && !io_sim_has_failed(run->sim) &&
		rng_below(&run->rng, 8) == 0)
		v->disturb = step_disturb(run) == 0;
	return 0;
}

static int make_flusher(struct run *run, struct flusher_vault *v)
{
	if (v->flusher)
		return 0;
	struct flusher_options options = {
		.history = run->history,
		.store = v->store,
		.clock = &run->clock.source,
		.group = &v->group,
		.sync = sync_for_flusher,
		.sync_context = run,
		.bandwidth = disturb_flusher,
		.bandwidth_context = run,
		.parallel = 1 + (unsigned)rng_below(&run->rng, 8),
		.gap_bytes = (uint32_t)rng_below(&run->rng, 4) * 4096,
		.drain_bytes = rng_below(&run->rng, 2) ? 0 : 1 + rng_below(&run->rng, 256 * KIB),
	};
	return flusher_new(&options, &v->flusher);
}

/* A flusher for what the history has now, and how often it shall be asked. */
static int begin(struct run *run, const char *what, unsigned *ret_tries)
{
	struct flusher_vault *v = vault_of(run);
	int r = step_commit(run);
	if (r == 0)
		r = update_disks(run, v);
	if (r == 0)
		r = make_flusher(run, v);
	if (r < 0)
		return run_dead(run, r, what);
	*ret_tries = rng_below(&run->rng, 4) ? TRIES : 1;
	return 0;
}

static int vault_flush(struct run *run, uint64_t number)
{
	struct flusher_vault *v = vault_of(run);
	struct error error = { 0 };
	unsigned tries;
	int r = begin(run, "beginning a flush", &tries);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < tries; i++) {
		struct flusher_result result;
		note_state(run);
		r = flusher_flush(v->flusher, number, &error, &result);
		run_trace(run, "flush of %" PRIu64 ": %d %s", number, r, r ? error.message : "");
		if (r == 0 || !may_try_again(run, r, &error, "flush"))
			break;
	}
	if (blob_sim_violation(v->service))
		run_fail(run, "%s", blob_sim_violation(v->service));
	if (io_sim_is_off(run->sim) || io_sim_has_failed(run->sim))
		return -EIO;
	if (r < 0) /* given up for now: the same or a later point may be flushed */
		return 0;
	const struct model_point *p = model_point(&run->model.durable, number);
	if (!p || !(p->point.flags & POINT_VAULT))
		run_fail(run, "point %" PRIu64 " was flushed but is no vault point", number);
	return 0;
}

static int vault_drain(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	struct error error = { 0 };
	unsigned tries;
	int r = begin(run, "beginning a drain", &tries);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < tries; i++) {
		struct flusher_result result;
		note_state(run);
		r = flusher_drain(v->flusher, &error, &result);
		run_trace(run, "drain: %d %s", r, r ? error.message : "");
		if (r == 0 || r == -EALREADY || !may_try_again(run, r, &error, "drain"))
			break;
	}
	if (blob_sim_violation(v->service))
		run_fail(run, "%s", blob_sim_violation(v->service));
	return io_sim_is_off(run->sim) || io_sim_has_failed(run->sim) ? -EIO : 0;
}

static bool vault_has(struct run *run, uint64_t number)
{
	struct flusher_vault *v = vault_of(run);
	char name[VAULT_NAME_BYTES];
	vault_manifest_name(GROUP, number, name);
	CLEANUP(buf_free) struct buf text = { 0 };
	if (blob_sim_peek_object(v->service, name, &text) < 0)
		return false;
	struct manifest manifest;
	struct error error;
	int r = manifest_parse(name, text.data, text.len, &error, &manifest);
	if (r < 0)
		run_fail(run, "manifest %" PRIu64 ": %s", number, error.message);
	bool abandoned = manifest.abandoned;
	manifest_free(&manifest);
	return !abandoned;
}

static void vault_drop(struct run *run, uint64_t number)
{
	struct flusher_vault *v = vault_of(run);
	struct error error = { 0 };
	for (unsigned i = 0; i < TRIES; i++) {
		int r = vault_point_delete(v->store, &v->group, number, &error);
		if (r == 0 || !may_try_again(run, r, &error, "vault_point_delete"))
			return;
	}
}

static void vault_fail(struct run *run, int error)
{
	blob_sim_set_away(vault_of(run)->service, error < 0);
}

static const struct run_vault flusher_run_vault = {
	.flush = vault_flush,
	.drop = vault_drop,
	.has = vault_has,
	.open = vault_begin_life,
	.close = vault_end_life,
	.fail = vault_fail,
	.drain = vault_drain,
};

void flusher_vault_begin(struct run *run, unsigned faults, unsigned overload)
{
	struct flusher_vault *v = calloc(1, sizeof(*v));
	if (!v || blob_sim_new(rng_next(&run->rng), run->sim, &v->service) < 0)
		abort();
	memset(v->appliance.bytes, 1, sizeof(v->appliance.bytes));
	v->faults = faults;
	v->overload = overload;
	run->whole_mib = true;
	run->vault = &flusher_run_vault;
	run->vault_context = v;
}

void flusher_vault_end(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	if (v)
		blob_sim_free(v->service);
	free(v);
	run->vault_context = NULL;
}

static void tell_fault(void *context, const char *text)
{
	run_trace(context, "vault check: %s", text);
}

void flusher_vault_check(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	struct error error = { 0 };
	struct vault_check_report report;
	unsigned deleted;
	blob_sim_set_faults(v->service, 0);
	blob_sim_set_overload(v->service, 0);
	int r = vault_collect_orphans(
		v->store, &v->group, history_oldest_pending(run->history), &error, &deleted);
	if (r == 0)
		r = vault_check(v->store, tell_fault, run, &error, &report);
	if (r < 0)
		run_fail(run, "checking the vault answers %d: %s", r, error.message);
	if (report.missing > 0 || report.broken > 0)
		run_fail(run, "the vault has %u snapshots missing, %u manifests broken",
			report.missing, report.broken);
	for (unsigned i = 0; i < run->model.durable.point_count; i++) {
		const struct point *p = &run->model.durable.points[i].point;
		if (!(p->flags & POINT_VAULT))
			continue;
		r = vault_point_verify(v->store, &v->group, p->number, NULL, NULL, &error);
		if (r < 0)
			run_fail(run, "vault point %" PRIu64 " is not proven: %d: %s", p->number, r,
				error.message);
	}
}

/* What the new appliance must find: the vault's points, and nothing else. One that the journal
 * did not learn to be committed is as good as the others. */
static void forget_what_is_local(struct run *run, struct model_state *state)
{
	unsigned n = 0;
	for (unsigned i = 0; i < state->point_count; i++) {
		uint64_t number = state->points[i].point.number;
		if (number == state->flush_pending && vault_has(run, number))
			state->points[i].point.flags |= POINT_VAULT;
		if (!(state->points[i].point.flags & POINT_VAULT))
			continue;
		state->points[n] = state->points[i];
		state->points[n++].point.flags &= ~(uint32_t)(POINT_LOCAL | POINT_DRAINED);
	}
	state->point_count = n;
}

void flusher_vault_take_over(struct run *run)
{
	struct flusher_vault *v = vault_of(run);
	struct error error = { 0 };
	run_close(run);
	blob_sim_set_faults(v->service, v->faults);
	struct blob_service *service = blob_sim_service(v->service);
	int r = service->ops->open_store(service, NULL, &error, &v->store);
	memset(v->appliance.bytes, 2, sizeof(v->appliance.bytes));
	for (unsigned i = 0; i < TRIES; i++) {
		r = vault_group_takeover(v->store, GROUP, &v->appliance, "second", false,
			&run->clock.source, NULL, NULL, &error, &v->group);
		/* A break of its own that came late takes a lease that it has won. */
		if (r == 0 || (r != -ESTALE && !may_try_again(run, r, &error, "takeover")))
			break;
	}
	v->has_group = r == 0;
	if (r < 0)
		run_fail(run, "takeover does not succeed: %d: %s", r, error.message);
	/* What the first appliance has under way lands now, and changes nothing. */
	blob_sim_land_all(v->service);
	blob_sim_set_faults(v->service, 0);
	if (vault_base_new(service, &v->group, &v->base) < 0)
		abort();
	run->options.base = v->base;
	run->options.directory = "/var/journal/new";
	r = history_open(&run->options, &run->report, &error, &run->history);
	if (r < 0)
		run_fail(run, "a new history does not open: %d: %s", r, error.message);
	r = vault_import(v->store, &v->group, run->history, &error);
	uint64_t lsn;
	if (r == 0)
		r = history_commit(run->history, &lsn);
	if (r < 0)
		run_fail(run, "import answers %d: %s", r, error.message);
	forget_what_is_local(run, &run->model.durable);
	r = run_verify_points(run);
	if (r < 0)
		run_fail(run, "points after takeover: %d", r);
	struct point points[MODEL_POINTS];
	if (history_points(run->history, 0, points, MODEL_POINTS) != run->model.durable.point_count)
		run_fail(run, "takeover finds another number of points");
}
