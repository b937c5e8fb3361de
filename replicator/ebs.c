/*
 * The life of the agentless source, and the keeper: the thread that gives each machine its worker,
 * takes back those that have ended, and tells a worker when the group that it holds is to be
 * closed, so that nobody waits for AWS to answer.
 */
#include <errno.h>

#include "common/log.h"
#include "ec2/snapshots.h"
#include "replicator/ebs_internal.h"

#define KEEPER_NS (NS_PER_S / 4)

/* ── waiting ─────────────────────────────────────────────────────────────────────────────── */

/* Under lock. */
static void wait_changed(struct ebs *ebs, int64_t until_ns)
{
	struct timespec at = { .tv_sec = until_ns / NS_PER_S,
		.tv_nsec = (long)(until_ns % NS_PER_S) };
	pthread_cond_timedwait(&ebs->changed, &ebs->lock, &at);
}

void ebs_rest(struct ebs_worker *w, int64_t ns)
{
	int64_t until = clock_monotonic_ns(clock_system()) + ns;
	SCOPED_LOCK(&w->ebs->lock);
	while (!atomic_load(&w->stop) && clock_monotonic_ns(clock_system()) < until)
		wait_changed(w->ebs, until);
}

struct ebs_worker *ebs_find(struct ebs *ebs, const char *machine)
{
	struct ebs_worker *w = ebs->workers;
	while (w && strcmp(w->machine, machine) != 0)
		w = w->next;
	return w;
}

/* ── what the registry says ──────────────────────────────────────────────────────────────── */

int ebs_read_spec(struct ebs *ebs, const char *name, bool removing, struct ebs_spec *ret_spec)
{
	struct ebs_spec spec = { 0 };
	SCOPED_LOCK(&ebs->registry->lock);
	const struct machine_entry *m = registry_find_machine(ebs->registry, name);
	if (!m || strcmp(m->source, "ebs") != 0 || (m->removing && !removing))
		return -ENOENT;
	memcpy(spec.instance, m->instance, sizeof(spec.instance));
	memcpy(spec.region, m->region, sizeof(spec.region));
	uuid_format(&m->group->id, spec.group_id);
	for (unsigned i = 0; i < MIN(m->disk_count, EC2_CYCLE_VOLUMES); i++) {
		struct ebs_disk *disk = &spec.disks[spec.count++];
		memcpy(disk->id, m->disks[i].id, sizeof(disk->id));
		memcpy(disk->volume, m->disks[i].volume, sizeof(disk->volume));
		disk->bytes = m->disks[i].size_bytes;
	}
	*ret_spec = spec;
	return 0;
}

/* ── the keeper ──────────────────────────────────────────────────────────────────────────── */

/* A machine that has no worker yet; false: all have. */
static bool find_unserved(struct ebs *ebs, char ret_name[static REGISTRY_NAME_BYTES])
{
	SCOPED_LOCK(&ebs->registry->lock);
	SCOPED_LOCK(&ebs->lock);
	for (struct machine_entry *m = ebs->registry->machines; m; m = m->next) {
		if (strcmp(m->source, "ebs") != 0 || m->removing || ebs_find(ebs, m->name))
			continue;
		memcpy(ret_name, m->name, REGISTRY_NAME_BYTES);
		return true;
	}
	return false;
}

static int start_worker(struct ebs *ebs, const char *machine)
{
	struct ebs_worker *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->ebs = ebs;
	w->copy.chunk = UINT64_MAX;
	snprintf(w->machine, sizeof(w->machine), "%s", machine);
	SCOPED_LOCK(&ebs->lock);
	int r = -pthread_create(&w->thread, NULL, ebs_worker_main, w);
	if (r < 0) {
		free(w);
		return r;
	}
	w->next = ebs->workers;
	ebs->workers = w;
	return 0;
}

static void start_missing(struct ebs *ebs)
{
	char name[REGISTRY_NAME_BYTES];
	while (!atomic_load(&ebs->stop) && find_unserved(ebs, name)) {
		int r = start_worker(ebs, name);
		if (r == 0)
			continue;
		log_warning("machine %s is not replicated yet: %s", name, strerrordesc_np(-r));
		return;
	}
}

static void interrupt_holders(struct ebs *ebs)
{
	SCOPED_LOCK(&ebs->registry->lock);
	SCOPED_LOCK(&ebs->lock);
	for (struct ebs_worker *w = ebs->workers; w; w = w->next)
		if (w->held && w->held->ending)
			atomic_store(&w->interrupt, true);
}

/* Takes a worker off the list: the first that has ended, or (`machine` not NULL) that one's. */
static struct ebs_worker *take_worker(struct ebs *ebs, const char *machine)
{
	SCOPED_LOCK(&ebs->lock);
	for (struct ebs_worker **link = &ebs->workers; *link; link = &(*link)->next) {
		struct ebs_worker *w = *link;
		if (machine ? strcmp(w->machine, machine) != 0 : !w->ended)
			continue;
		*link = w->next;
		atomic_store(&w->stop, true);
		pthread_cond_broadcast(&ebs->changed);
		return w;
	}
	return NULL;
}

static void end_worker(struct ebs_worker *w)
{
	pthread_join(w->thread, NULL);
	ebs_worker_free(w);
}

static void *keeper_main(void *argument)
{
	struct ebs *ebs = argument;
	while (!atomic_load(&ebs->stop)) {
		for (struct ebs_worker *w; (w = take_worker(ebs, NULL));)
			end_worker(w);
		start_missing(ebs);
		interrupt_holders(ebs);
		int64_t until = clock_monotonic_ns(clock_system()) + KEEPER_NS;
		SCOPED_LOCK(&ebs->lock);
		if (!atomic_load(&ebs->stop))
			wait_changed(ebs, until);
	}
	return NULL;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static int copy_text(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return from && !*to ? -ENOMEM : 0;
}

static int copy_options(struct ebs *ebs, const struct ebs_options *o)
{
	const char *const endpoints[EC2_SERVICES] = { o->endpoint_ec2, o->endpoint_ebs,
		o->endpoint_sts, o->endpoint_imds };
	int r = copy_text(&ebs->profile, o->profile);
	if (r == 0)
		r = copy_text(&ebs->region, o->region);
	if (r == 0)
		r = copy_text(&ebs->role_arn, o->role_arn);
	if (r == 0)
		r = copy_text(&ebs->external_id, o->external_id);
	for (unsigned i = 0; r == 0 && i < EC2_SERVICES; i++)
		r = copy_text(&ebs->endpoints[i], endpoints[i]);
	ebs->rates[EC2_LIMIT_BLOCKS] = o->blocks_per_s;
	ebs->rates[EC2_LIMIT_LISTS] = o->lists_per_s;
	ebs->rates[EC2_LIMIT_CALLS] = o->calls_per_s;
	ebs->block_price = o->block_price;
	ebs->list_price = o->list_price;
	return r;
}

static int make_directory(struct registry *registry, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = buf_printf(&path, "%s/ebs", registry->state_dir);
	if (r == 0)
		r = io_make_dir(registry->io, path.data);
	if (r == 0 || r == -EEXIST)
		return 0;
	return error_set(error, r, "see that the state directory can be written to",
		"%s cannot be made: %s", path.data ? path.data : registry->state_dir,
		strerrordesc_np(-r));
}

int ebs_new(struct registry *registry, const struct ebs_options *options, struct error *error,
	struct ebs **ret_ebs)
{
	int r = make_directory(registry, error);
	if (r < 0)
		return r;
	struct ebs *ebs = calloc(1, sizeof(*ebs));
	if (!ebs)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	pthread_condattr_t monotonic;
	ebs->registry = registry;
	pthread_mutex_init(&ebs->opening, NULL);
	pthread_mutex_init(&ebs->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&ebs->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	r = copy_options(ebs, options);
	if (r == 0)
		r = -pthread_create(&ebs->keeper, NULL, keeper_main, ebs);
	ebs->keeper_runs = r == 0;
	{
		SCOPED_LOCK(&registry->lock);
		registry->ebs = ebs;
	}
	if (r < 0) {
		ebs_free(ebs);
		return error_set(error, r, NULL, "the source ebs cannot be started: %s",
			strerrordesc_np(-r));
	}
	*ret_ebs = ebs;
	return 0;
}

void ebs_begin_stop(struct ebs *ebs)
{
	if (!ebs)
		return;
	SCOPED_LOCK(&ebs->lock);
	atomic_store(&ebs->stop, true);
	for (struct ebs_worker *w = ebs->workers; w; w = w->next)
		atomic_store(&w->stop, true);
	pthread_cond_broadcast(&ebs->changed);
}

void ebs_free(struct ebs *ebs)
{
	if (!ebs)
		return;
	ebs_begin_stop(ebs);
	if (ebs->keeper_runs)
		pthread_join(ebs->keeper, NULL);
	ebs_begin_stop(ebs); /* those that the keeper started meanwhile */
	{
		SCOPED_LOCK(&ebs->registry->lock);
		ebs->registry->ebs = NULL;
	}
	while (ebs->workers) {
		struct ebs_worker *w = ebs->workers;
		ebs->workers = w->next;
		end_worker(w);
	}
	ebs_free_regions(ebs);
	free(ebs->profile);
	free(ebs->region);
	free(ebs->role_arn);
	free(ebs->external_id);
	for (unsigned i = 0; i < EC2_SERVICES; i++)
		free(ebs->endpoints[i]);
	pthread_cond_destroy(&ebs->changed);
	pthread_mutex_destroy(&ebs->lock);
	pthread_mutex_destroy(&ebs->opening);
	free(ebs);
}

/* ── removal and resync ──────────────────────────────────────────────────────────────────── */

static int delete_one(struct ec2 *client, const char *id, struct http_error *why)
{
	return id[0] == '\0' ? 0 : ec2_delete_snapshot(client, id, why);
}

static void delete_snapshots(
	struct ebs *ebs, const char *machine, const struct ebs_spec *spec, struct error *ret_left)
{
	struct ebs_state state = { 0 };
	struct ec2_cycle none = { 0 };
	struct ec2 *client = NULL;
	struct error error = { 0 };
	struct http_error why = { 0 };
	char owner[REGISTRY_NAME_BYTES + UUID_TEXT_BYTES];
	unsigned deleted;
	int r = ebs_open_client(ebs, spec->region, &ebs->stop, NULL, NULL, &error, &client);
	if (r == 0)
		r = ebs_state_load(ebs, machine, &state);
	for (unsigned i = 0; r == 0 && i < state.cycle.count; i++) {
		r = delete_one(client, state.cycle.volumes[i].base, &why);
		if (r == 0)
			r = delete_one(client, state.cycle.volumes[i].snapshot, &why);
	}
	ebs_owner(spec, machine, owner, sizeof(owner));
	if (r == 0)
		r = ec2_cycle_delete_orphans(client, &none, EBS_TAG, owner, &deleted, &why);
	if (r < 0 && why.error)
		(void)ec2_error_tell(&why, "deleting its snapshots", &error);
	if (r < 0) {
		error_set(ret_left, r, NULL,
			"snapshots with the tag %s = %s may be left in %s, delete them by hand: %s",
			EBS_TAG, owner, spec->region,
			error.message[0] ? error.message : strerrordesc_np(-r));
		log_warning("machine %s is removed; %s", machine, ret_left->message);
	}
	ec2_free(client);
}

void ebs_forget(struct ebs *ebs, const char *machine, struct error *ret_left)
{
	struct ebs_spec spec;
	struct ebs_worker *w = take_worker(ebs, machine);
	if (w)
		end_worker(w);
	if (ebs_read_spec(ebs, machine, true, &spec) < 0)
		return;
	delete_snapshots(ebs, machine, &spec, ret_left);
	if (!atomic_load(&ebs->stop)) /* else the removal goes on after the next start */
		ebs_state_remove(ebs, machine);
}

int ebs_resync(struct ebs *ebs, const char *machine, struct error *error)
{
	CLEANUP(registry_release) struct hold hold = { 0 };
	uint64_t request;
	int r = registry_hold(ebs->registry, machine, error, &hold);
	if (r < 0)
		return r;
	{
		SCOPED_LOCK(&ebs->lock);
		struct ebs_worker *w = ebs_find(ebs, machine);
		if (!w)
			return error_set(error, -EAGAIN, "try again in a moment",
				"machine %s is not being replicated yet", machine);
		w->resync = true;
	}
	return group_ask_point(hold.group, POINT_CRASH, error, &request);
}
