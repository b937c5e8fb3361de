/*
 * A machine's thread: waits until a point is due, runs a cycle, seals, and lets the set before go.
 *
 * It holds its group from before a cycle to its end, so that the journal it writes to stays the
 * one it looked at; when the group is to be closed the keeper interrupts whatever it waits for.
 * Everything it does may end at any moment, by kill -9 too, and goes on from the state.
 *
 * What ends a cycle early is told as the machine's trouble, and tried again: at once if AWS has
 * limits to be kept, else ever more seldom.
 */
#include <errno.h>

#include "common/log.h"
#include "ec2/snapshots.h"
#include "replicator/ebs_internal.h"

#define LOOK_MS 500u
#define RETRY_FIRST_NS (2 * NS_PER_S)
#define RETRY_LONGEST_NS (60 * NS_PER_S)
#define TIDY_NS (60 * NS_PER_S)
#define LIMITS_TOLD 30u /* so often AWS's limits may be in the way before somebody hears of it */
#define WINDOW 32u      /* blocks under way: 16 MiB */
#define SAVE_EVERY 512u /* blocks: 256 MiB */
#define POLL_MS 1000u

/* ── holding ─────────────────────────────────────────────────────────────────────────────── */

int ebs_hold(struct ebs_worker *w, struct error *error)
{
	if (w->hold.registry)
		return 0;
	int r = registry_hold(w->ebs->registry, w->machine, error, &w->hold);
	if (r < 0)
		return r;
	SCOPED_LOCK(&w->ebs->lock);
	w->held = w->hold.entry;
	return 0;
}

void ebs_let_go(struct ebs_worker *w)
{
	ebs_copy_close(&w->copy);
	{
		SCOPED_LOCK(&w->ebs->lock);
		w->held = NULL;
		/* Another journal may come: what it lost is not what we were mending. */
		if (atomic_load(&w->interrupt))
			memset(w->mending, 0, sizeof(w->mending));
		atomic_store(&w->interrupt, false);
	}
	registry_release(&w->hold);
}

int ebs_find_disk(struct ebs_worker *w, const char *id, struct history_disk *ret_disk)
{
	char name[2 * REGISTRY_NAME_BYTES];
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	if (!disks)
		return -ENOMEM;
	snprintf(name, sizeof(name), "%s/%s", w->machine, id);
	unsigned count = history_disks(group_history(w->hold.group), disks, HISTORY_MAX_DISKS);
	for (unsigned i = 0; i < count; i++) {
		if (disks[i].removed || strcmp(disks[i].name, name) != 0)
			continue;
		*ret_disk = disks[i];
		return 0;
	}
	return -ENOENT;
}

void ebs_owner(const struct ebs_spec *spec, const char *machine, char *ret, size_t n)
{
	snprintf(ret, n, "%s/%s", spec->group_id, machine);
}

/* ── before a cycle ──────────────────────────────────────────────────────────────────────── */

static int load_state(struct ebs_worker *w, struct error *error)
{
	if (w->loaded)
		return 0;
	int r = ebs_state_load(w->ebs, w->machine, &w->state);
	if (r < 0)
		return error_set(error, r, "see that the appliance's disk works",
			"the state of machine %s cannot be read: %s", w->machine,
			strerrordesc_np(-r));
	w->loaded = true;
	SCOPED_LOCK(&w->ebs->lock);
	w->shown = w->state;
	return 0;
}

/* Somebody wants all of it compared. */
static void take_wish(struct ebs_worker *w)
{
	{
		SCOPED_LOCK(&w->ebs->lock);
		if (!w->resync)
			return;
		w->resync = false;
	}
	for (unsigned i = 0; i < w->state.cycle.count; i++) {
		w->state.cycle.volumes[i].base[0] = '\0';
		w->state.cycle.volumes[i].base_bytes = 0;
	}
	snprintf(w->state.cause, sizeof(w->state.cause), "somebody asked for a resync");
}

static int prepare(struct ebs_worker *w, struct error *error)
{
	int r = ebs_read_spec(w->ebs, w->machine, false, &w->spec);
	if (r < 0)
		return r;
	r = load_state(w, error);
	if (r < 0)
		return r;
	ebs_fit(w);
	if (!w->client) {
		r = ebs_open_client(
			w->ebs, w->spec.region, &w->stop, &w->interrupt, w, error, &w->client);
		w->counted = (struct ec2_stats){ 0 };
	}
	return r == 0 ? ebs_hold(w, error) : r;
}

/* ── a cycle ─────────────────────────────────────────────────────────────────────────────── */

static void count_requests(struct ebs_worker *w)
{
	struct ec2_stats now;
	struct ebs_figures *f = &w->state.figures;
	ec2_get_stats(w->client, &now);
	for (unsigned i = 0; i < EC2_LIMITS; i++) {
		uint64_t made = now.attempts[i] - w->counted.attempts[i];
		f->requests[i] += made;
		f->cycle_requests[i] += made;
	}
	w->counted = now;
	SCOPED_LOCK(&w->ebs->lock);
	w->shown.figures = *f;
}

static void begin_counting(struct ebs_worker *w)
{
	struct ebs_figures *f = &w->state.figures;
	memset(f->cycle_requests, 0, sizeof(f->cycle_requests));
	f->cycle_fetched_bytes = f->cycle_written_bytes = 0;
}

/* Volumes that have grown: their disks grow with them. Nothing is held. */
static int grow_disks(struct ebs_worker *w, struct error *error)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < w->state.cycle.count; i++) {
		const struct ec2_cycle_volume *v = &w->state.cycle.volumes[i];
		if (v->bytes <= w->spec.disks[i].bytes)
			continue;
		log_info("machine %s: volume %s has grown to %llu GiB", w->machine, v->id,
			(unsigned long long)(v->bytes / GIB));
		r = machine_set_disk(
			w->ebs->registry, w->machine, w->spec.disks[i].id, v->bytes, error);
	}
	return r;
}

static int tell_end(struct ebs_worker *w, int r, const struct http_error *said, struct error *error)
{
	if (r == -ECANCELED || w->look_again || w->grow)
		return r;
	if (w->problem.code) {
		*error = w->problem;
		return r;
	}
	char mend[200];
	if (r == -ENXIO) {
		snprintf(mend, sizeof(mend),
			"its recovery points stay; once it is to be protected no longer, 'landfall "
			"machine remove %s --keep-vault' keeps them",
			w->machine);
		return error_set(error, r, mend, "%s", said->message);
	}
	if (r == -ENODEV) {
		snprintf(mend, sizeof(mend),
			"attach it again, or go on without it: 'landfall machine volumes %s "
			"--exclude ID', with --include for one in its place; older points keep it",
			w->machine);
		return error_set(error, r, mend, "%s", said->message);
	}
	char what[REGISTRY_AWS_BYTES + 32];
	snprintf(what, sizeof(what), "replicating %s", w->spec.instance);
	if (said->error == 0)
		return error_set(error, r, NULL, "%s: %s", what, strerrordesc_np(-r));
	(void)ec2_error_tell(said, what, error);
	return r;
}

static int run_cycle(struct ebs_worker *w, struct error *error)
{
	char owner[REGISTRY_NAME_BYTES + UUID_TEXT_BYTES], description[REGISTRY_NAME_BYTES + 32];
	const struct ec2_tag tags[] = { { EBS_TAG, owner } };
	const struct ec2_cycle_options options = { .tags = tags,
		.tag_count = 1,
		.description = description,
		.window = WINDOW,
		.save_every = SAVE_EVERY,
		.poll_ms = POLL_MS };
	struct ec2_fetch_stats fetched = { 0 };
	struct http_error said = { 0 };
	ebs_owner(&w->spec, w->machine, owner, sizeof(owner));
	snprintf(description, sizeof(description), "Landfall: replication of %s", w->machine);
	w->problem = (struct error){ 0 };
	w->look_again = w->grow = false;
	int r = ec2_cycle_run(
		w->client, &w->state.cycle, &options, &ebs_cycle_ops, w, &fetched, &said);
	ebs_copy_close(&w->copy);
	{
		SCOPED_LOCK(&w->ebs->lock);
		w->copying_ns = 0;
	}
	w->state.figures.fetched_bytes += fetched.blocks * EC2_BLOCK_BYTES;
	w->state.figures.cycle_fetched_bytes += fetched.blocks * EC2_BLOCK_BYTES;
	count_requests(w);
	return r < 0 ? tell_end(w, r, &said, error) : 0;
}

/* Why snapshots stay; error 0: deleting works. */
static void note_left(struct ebs_worker *w, const struct http_error *why)
{
	struct error left = { 0 };
	if (why->error == -ECANCELED)
		return;
	if (why->error)
		(void)ec2_error_tell(why, "snapshots cannot be deleted", &left);
	SCOPED_LOCK(&w->ebs->lock);
	w->left = left;
}

static int finish_cycle(struct ebs_worker *w, const struct group_due *due, struct error *error)
{
	struct http_error left;
	int r = ebs_is_sealed(w) ? 0 : ebs_seal(w, due, error);
	if (r < 0)
		return r;
	memset(w->state.begun, 0, sizeof(w->state.begun));
	memset(w->mending, 0, sizeof(w->mending));
	w->state.cause[0] = '\0';
	r = ec2_cycle_settle(w->client, &w->state.cycle, &ebs_cycle_ops, w, &left);
	note_left(w, &left);
	count_requests(w);
	if (r < 0 && w->problem.code)
		*error = w->problem;
	return r;
}

/* Sets that turned up late, or were left by a cycle that ended. */
static void tidy(struct ebs_worker *w)
{
	char owner[REGISTRY_NAME_BYTES + UUID_TEXT_BYTES];
	int64_t now = clock_monotonic_ns(clock_system());
	struct http_error why = { 0 };
	unsigned deleted = 0;
	if (w->tidied_ns && now - w->tidied_ns < TIDY_NS)
		return;
	w->tidied_ns = now;
	ebs_owner(&w->spec, w->machine, owner, sizeof(owner));
	int r = ec2_cycle_delete_orphans(
		w->client, &w->state.cycle, EBS_TAG, owner, &deleted, &why);
	if (r < 0 || deleted > 0)
		note_left(w, &why);
	if (r < 0 && r != -ECANCELED)
		log_warning("machine %s: snapshots that nobody needs may be left: %s", w->machine,
			why.message);
	if (deleted > 0)
		log_info("machine %s: %u snapshots that nobody needs are deleted", w->machine,
			deleted);
}

/* 0: go on at once; -EALREADY: nothing is due; else what ended it, told in `error`. */
static int go_round(struct ebs_worker *w, struct error *error)
{
	struct group_due due;
	bool asked = false;
	int r = prepare(w, error);
	if (r < 0)
		return r;
	if (w->state.cycle.phase == EC2_CYCLE_IDLE) {
		r = group_wait_due(w->hold.group, LOOK_MS, &w->stop, &due);
		if (r < 0)
			return r == -ETIMEDOUT ? -EALREADY : r;
		asked = true;
		/* Volumes may have come or gone while it waited. */
		r = ebs_read_spec(w->ebs, w->machine, false, &w->spec);
		if (r < 0)
			return r;
		ebs_fit(w);
		w->began_ns = clock_monotonic_ns(clock_system());
		begin_counting(w);
		take_wish(w);
	}
	r = ebs_check_lines(w, error);
	if (r == 0)
		r = run_cycle(w, error);
	if (r == 0)
		r = finish_cycle(w, asked ? &due : NULL, error);
	if (r == 0)
		tidy(w);
	if (r == 0)
		ec2_rest(w->client);
	return r;
}

/* ── the thread ──────────────────────────────────────────────────────────────────────────── */

static bool is_limit(int r)
{
	return r == -EAGAIN || r == -EBUSY;
}

static void note(struct ebs_worker *w, int r, struct error *error)
{
	if (r == -EALREADY || r == -ECANCELED)
		return;
	w->failures = r < 0 ? w->failures + 1 : 0;
	bool tell = r < 0 && (!is_limit(r) || w->failures >= LIMITS_TOLD);
	if (r < 0 && error->code == 0)
		error_set(error, r, NULL, "machine %s: %s", w->machine, strerrordesc_np(-r));
	if (tell)
		log_warning("machine %s: no point was made: %s", w->machine, error->message);
	SCOPED_LOCK(&w->ebs->lock);
	if (tell || r == 0)
		w->trouble = r < 0 ? *error : (struct error){ 0 };
	w->shown = w->state;
}

static int one_round(struct ebs_worker *w)
{
	struct error error = { 0 };
	w->look_again = w->grow = false;
	int r = go_round(w, &error);
	ebs_let_go(w);
	/* Whatever ended it, a machine that is not there any more has no trouble. */
	if (r < 0 && ebs_read_spec(w->ebs, w->machine, false, &w->spec) == -ENOENT)
		return -ECANCELED;
	if (w->grow)
		r = grow_disks(w, &error);
	else if (w->look_again)
		return 0;
	note(w, r, &error);
	return r;
}

void *ebs_worker_main(void *argument)
{
	struct ebs_worker *w = argument;
	int64_t delay = RETRY_FIRST_NS;
	struct ebs_spec spec;
	while (!atomic_load(&w->stop) && ebs_read_spec(w->ebs, w->machine, false, &spec) == 0) {
		int r = one_round(w);
		bool well = r == 0 || r == -EALREADY || is_limit(r);
		if (r < 0 && r != -EALREADY)
			ebs_rest(w, well ? RETRY_FIRST_NS : delay);
		delay = well ? RETRY_FIRST_NS : MIN(delay * 2, RETRY_LONGEST_NS);
	}
	SCOPED_LOCK(&w->ebs->lock);
	w->ended = true;
	return NULL;
}

void ebs_worker_free(struct ebs_worker *w)
{
	ebs_copy_close(&w->copy);
	ec2_free(w->client);
	free(w);
}
