/*
 * The phases of a cycle, each begun only after the state that leads to it was saved.
 *
 * IDLE      choose the set's id                                            → save, CREATING
 * CREATING  an earlier run may have made it: is a set of that id there? else another id → save;
 *           make it                                                      → save, WAITING
 * WAITING   until all its snapshots are completed                          → save, COPYING
 * COPYING   volume by volume, from its index on                            → save, COPIED
 *
 * A set that cannot be used is deleted and forgotten; the base stays, so that the next cycle is
 * still one of changes.
 */
#include "ec2/cycle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/uuid.h"
#include "ec2/snapshots.h"

#define SAVE_EVERY 2048u
#define POLL_MS 5000u
#define ORPHAN_AGE_NS (60 * NS_PER_S)

struct run {
	struct ec2 *client;
	struct ec2_cycle *cycle;
	const struct ec2_cycle_options *options;
	const struct ec2_cycle_ops *ops;
	void *context;
	struct http_error *error;
	struct ec2_cycle_volume *volume; /* being copied */
	uint32_t saved_index;
};

static int save(struct run *run)
{
	return run->ops->save(run->context, run->cycle);
}

static struct ec2_cycle_volume *find_volume(struct ec2_cycle *cycle, const char *id)
{
	for (unsigned i = 0; i < cycle->count; i++) {
		if (strcmp(cycle->volumes[i].id, id) == 0)
			return &cycle->volumes[i];
	}
	return NULL;
}

/* Nothing of this set counts any more. */
static void forget_set(struct ec2_cycle *cycle)
{
	for (unsigned i = 0; i < cycle->count; i++) {
		cycle->volumes[i].snapshot[0] = '\0';
		cycle->volumes[i].index = 0;
		cycle->volumes[i].bytes = 0;
		cycle->volumes[i].whole = false;
	}
	cycle->set[0] = '\0';
	cycle->time_ns = 0;
	cycle->phase = EC2_CYCLE_IDLE;
}

/* Forgets it and saves that; `code` stays, unless saving fails. */
static int give_up(struct run *run, int code)
{
	forget_set(run->cycle);
	int r = save(run);
	return r != 0 ? r : code;
}

static int choose_set(struct run *run)
{
	struct uuid uuid;
	forget_set(run->cycle);
	int r = uuid_generate(&uuid);
	if (r < 0)
		return http_error_set(run->error, r, "no randomness");
	uuid_format(&uuid, run->cycle->set);
	run->cycle->phase = EC2_CYCLE_CREATING;
	return save(run);
}

static int note_snapshot(void *context, const struct ec2_snapshot *s)
{
	struct ec2_cycle *cycle = context;
	struct ec2_cycle_volume *v = find_volume(cycle, s->volume_id);
	if (!v || strlen(s->id) >= sizeof(v->snapshot))
		return 0; /* told as incomplete below */
	if (v->snapshot[0] && strcmp(v->snapshot, s->id) != 0)
		return -EUCLEAN; /* of which moment is it? */
	snprintf(v->snapshot, sizeof(v->snapshot), "%s", s->id);
	v->bytes = s->volume_bytes;
	v->index = 0;
	v->whole = v->base[0] == '\0' || v->base_bytes != v->bytes;
	cycle->time_ns = s->started_ns;
	return 0;
}

static unsigned snapshots_of(const struct ec2_cycle *cycle)
{
	unsigned count = 0;
	for (unsigned i = 0; i < cycle->count; i++)
		count += cycle->volumes[i].snapshot[0] != '\0';
	return count;
}

/* Which volumes the instance has beyond those of the cycle. */
struct exclusion {
	const struct run *run;
	const struct ec2_cycle *cycle;
	char ids[EC2_CYCLE_VOLUMES][EC2_ID_BYTES];
	const char *without[EC2_CYCLE_VOLUMES];
	size_t count;
	bool without_boot;
	char state[16];                /* the instance's */
	bool found[EC2_CYCLE_VOLUMES]; /* of the cycle's */
};

static int note_attachments(void *context, const struct ec2_instance *instance)
{
	struct exclusion *x = context;
	snprintf(x->state, sizeof(x->state), "%s", instance->state);
	if (x->run->ops->seen)
		x->run->ops->seen(x->run->context, instance);
	for (size_t i = 0; i < instance->volume_count; i++) {
		const struct ec2_attachment *a = &instance->volumes[i];
		const struct ec2_cycle_volume *v =
			find_volume((struct ec2_cycle *)x->cycle, a->volume_id);
		if (v) {
			x->found[v - x->cycle->volumes] = true;
		} else if (a->root) {
			x->without_boot = true;
		} else if (x->count < EC2_CYCLE_VOLUMES) {
			snprintf(x->ids[x->count], EC2_ID_BYTES, "%s", a->volume_id);
			x->without[x->count] = x->ids[x->count];
			x->count++;
		}
	}
	return 0;
}

static int create(struct run *run)
{
	struct ec2_cycle *cycle = run->cycle;
	struct exclusion x = { .run = run, .cycle = cycle };
	const char *instance[] = { cycle->instance };
	const struct ec2_query query = { .ids = instance, .id_count = 1 };
	int r = ec2_describe_instances(run->client, &query, note_attachments, &x, run->error);
	if (r < 0)
		return r;
	if (strcmp(x.state, "terminated") == 0 || strcmp(x.state, "shutting-down") == 0)
		return http_error_set(
			run->error, -ENXIO, "instance %s is %s", cycle->instance, x.state);
	for (unsigned i = 0; i < cycle->count; i++)
		if (!x.found[i])
			return http_error_set(run->error, -ENODEV,
				"volume %s is not attached to %s any more", cycle->volumes[i].id,
				cycle->instance);
	const struct ec2_snapshot_set set = { .instance_id = cycle->instance,
		.set_id = cycle->set,
		.without = x.without,
		.without_count = x.count,
		.without_boot = x.without_boot,
		.tags = run->options->tags,
		.tag_count = run->options->tag_count,
		.description = run->options->description };
	return ec2_create_snapshots(run->client, &set, note_snapshot, cycle, run->error);
}

static void delete_set(struct run *run)
{
	for (unsigned i = 0; i < run->cycle->count; i++) {
		const char *id = run->cycle->volumes[i].snapshot;
		struct http_error ignored; /* what is left is an orphan */
		if (id[0])
			ec2_delete_snapshot(run->client, id, &ignored);
	}
}

/* `fresh`: the id was chosen just now. No id is used for two tries: a set that an earlier one made
 * may turn up late, and two of one id could be taken for one of two moments. */
static int make_set(struct run *run, bool fresh)
{
	struct ec2_cycle *cycle = run->cycle;
	int r = fresh ? 0
		      : ec2_find_snapshots(
				run->client, cycle->set, note_snapshot, cycle, run->error);
	if (r == 0 && snapshots_of(cycle) == 0) {
		r = fresh ? 0 : choose_set(run);
		if (r == 0)
			r = create(run);
	}
	if (r == -EUCLEAN) {
		delete_set(run);
		r = http_error_set(run->error, -EIO,
			"two snapshots of one volume have the set's id, %s", cycle->set);
	}
	if (r < 0) {
		/* What may turn up under this id is an orphan: the next try has another. */
		return r == -ECANCELED ? r : give_up(run, r);
	}
	if (snapshots_of(cycle) < cycle->count) {
		delete_set(run);
		http_error_set(run->error, -EIO, "the set has snapshots of only %u of %u volumes",
			snapshots_of(cycle), cycle->count);
		return give_up(run, -EIO);
	}
	cycle->phase = EC2_CYCLE_WAITING;
	return save(run);
}

static int wait_for_set(struct run *run)
{
	struct ec2_cycle *cycle = run->cycle;
	const char *ids[EC2_CYCLE_VOLUMES];
	uint32_t poll_ms = run->options->poll_ms ? run->options->poll_ms : POLL_MS;
	for (unsigned i = 0; i < cycle->count; i++)
		ids[i] = cycle->volumes[i].snapshot;
	int r = ec2_wait_for_snapshots(run->client, ids, cycle->count, poll_ms, 0, run->error);
	if (r == -EIO || r == -ENOENT) {
		delete_set(run);
		return give_up(run, r == -ENOENT ? -ESTALE : r);
	}
	if (r < 0)
		return r;
	cycle->phase = EC2_CYCLE_COPYING;
	return save(run);
}

static int pass_data(void *context, uint64_t offset, const void *data, size_t n)
{
	struct run *run = context;
	return run->ops->data(run->context, run->volume, offset, data, n);
}

static int pass_zero(void *context, uint64_t offset, uint64_t n)
{
	struct run *run = context;
	return run->ops->zero(run->context, run->volume, offset, n);
}

static int pass_reached(void *context, uint32_t index)
{
	struct run *run = context;
	uint32_t every = run->options->save_every ? run->options->save_every : SAVE_EVERY;
	run->volume->index = index;
	if (index - run->saved_index < every)
		return 0;
	run->saved_index = index;
	return save(run);
}

static int fetch(struct run *run, struct ec2_fetch_stats *sum)
{
	static const struct ec2_fetch_ops ops = { pass_data, pass_zero, pass_reached };
	struct ec2_cycle_volume *v = run->volume;
	struct ec2_fetch_stats stats = { 0 };
	const struct ec2_fetch_options options = { .snapshot = v->snapshot,
		.base = v->whole ? NULL : v->base,
		.volume_bytes = v->bytes,
		.from_index = v->index,
		.window = run->options->window };
	run->saved_index = v->index;
	int r = run->ops->begin(run->context, v);
	if (r == 0)
		r = ec2_fetch(run->client, &options, &ops, run, &stats, run->error);
	sum->blocks += stats.blocks;
	sum->zero_blocks += stats.zero_blocks;
	sum->gone_blocks += stats.gone_blocks;
	sum->pages += stats.pages;
	sum->relistings += stats.relistings;
	return r;
}

static int note_presence(void *context, const struct ec2_snapshot *s)
{
	(void)s;
	*(bool *)context = true;
	return 0;
}

/* 1, 0, or what asking gave. */
static int exists(struct run *run, const char *id)
{
	const char *ids[] = { id };
	const struct ec2_query query = { .ids = ids, .id_count = 1 };
	bool there = false;
	int r = ec2_describe_snapshots(run->client, &query, note_presence, &there, run->error);
	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : there;
}

static int copy_volume(struct run *run, struct ec2_fetch_stats *sum)
{
	struct ec2_cycle_volume *v = run->volume;
	int r = fetch(run, sum);
	/* Only what AWS said, not what the taker did. */
	bool said = run->error->error == r;
	if (!said || (r != -EXDEV && r != -ENOENT))
		return r;
	int there = exists(run, v->snapshot);
	if (there < 0)
		return there;
	if (!there) {
		http_error_set(run->error, -ESTALE, "snapshot %s was deleted", v->snapshot);
		return give_up(run, -ESTALE);
	}
	if (v->whole)
		return r;
	/* The line is lost: all of it, from the beginning. */
	v->whole = true;
	v->index = 0;
	r = save(run);
	return r == 0 ? fetch(run, sum) : r;
}

static int copy(struct run *run, struct ec2_fetch_stats *sum)
{
	struct ec2_cycle *cycle = run->cycle;
	for (unsigned i = 0; i < cycle->count; i++) {
		run->volume = &cycle->volumes[i];
		if (run->volume->index == run->volume->bytes / EC2_BLOCK_BYTES)
			continue;
		int r = copy_volume(run, sum);
		if (r == 0)
			r = save(run);
		if (r != 0)
			return r;
	}
	cycle->phase = EC2_CYCLE_COPIED;
	return save(run);
}

int ec2_cycle_run(struct ec2 *client, struct ec2_cycle *cycle,
	const struct ec2_cycle_options *options, const struct ec2_cycle_ops *ops, void *context,
	struct ec2_fetch_stats *ret_stats, struct http_error *error)
{
	struct http_error mine = { 0 };
	struct ec2_fetch_stats sum = { 0 };
	struct run run = { .client = client,
		.cycle = cycle,
		.options = options,
		.ops = ops,
		.context = context,
		.error = error ? error : &mine };
	*run.error = (struct http_error){ 0 };
	if (cycle->count == 0)
		return http_error_set(run.error, -EINVAL, "no volumes are replicated");
	bool fresh = cycle->phase == EC2_CYCLE_IDLE;
	int r = fresh ? choose_set(&run) : 0;
	if (r == 0 && cycle->phase == EC2_CYCLE_CREATING)
		r = make_set(&run, fresh);
	if (r == 0 && cycle->phase == EC2_CYCLE_WAITING)
		r = wait_for_set(&run);
	if (r == 0 && cycle->phase == EC2_CYCLE_COPYING)
		r = copy(&run, &sum);
	if (ret_stats)
		*ret_stats = sum;
	return r;
}

int ec2_cycle_settle(struct ec2 *client, struct ec2_cycle *cycle, const struct ec2_cycle_ops *ops,
	void *context, struct http_error *ret_left)
{
	char old[EC2_CYCLE_VOLUMES][EC2_ID_BYTES];
	*ret_left = (struct http_error){ 0 };
	if (cycle->phase != EC2_CYCLE_COPIED)
		return -EINVAL;
	for (unsigned i = 0; i < cycle->count; i++) {
		struct ec2_cycle_volume *v = &cycle->volumes[i];
		memcpy(old[i], v->base, EC2_ID_BYTES);
		memcpy(v->base, v->snapshot, EC2_ID_BYTES);
		v->base_bytes = v->bytes;
	}
	forget_set(cycle);
	int r = ops->save(context, cycle);
	for (unsigned i = 0; r == 0 && i < cycle->count; i++) {
		struct http_error why = { 0 };
		if (old[i][0] && ec2_delete_snapshot(client, old[i], &why) < 0)
			*ret_left = why;
	}
	return r;
}

struct orphans {
	const struct ec2_cycle *cycle;
	const char *key, *value;
	char ids[64][EC2_ID_BYTES];
	unsigned count;
};

static int note_orphan(void *context, const struct ec2_snapshot *s)
{
	struct orphans *o = context;
	const char *value = ec2_tag_find(s->tags, s->tag_count, o->key);
	int64_t age_ns = clock_realtime_ns(clock_system()) - s->started_ns;
	if (!value || strcmp(value, o->value) != 0 || age_ns < ORPHAN_AGE_NS)
		return 0;
	for (unsigned i = 0; i < o->cycle->count; i++) {
		const struct ec2_cycle_volume *v = &o->cycle->volumes[i];
		if (strcmp(v->base, s->id) == 0 || strcmp(v->snapshot, s->id) == 0)
			return 0;
	}
	if (o->count < ARRAY_SIZE(o->ids) && strlen(s->id) < EC2_ID_BYTES)
		snprintf(o->ids[o->count++], EC2_ID_BYTES, "%s", s->id);
	return 0;
}

int ec2_cycle_delete_orphans(struct ec2 *client, const struct ec2_cycle *cycle, const char *key,
	const char *value, unsigned *ret_deleted, struct http_error *error)
{
	struct orphans o = { .cycle = cycle, .key = key, .value = value };
	int r = ec2_find_snapshots(client, NULL, note_orphan, &o, error);
	for (unsigned i = 0; r == 0 && i < o.count; i++)
		r = ec2_delete_snapshot(client, o.ids[i], error);
	if (r == 0)
		*ret_deleted = o.count;
	return r;
}
