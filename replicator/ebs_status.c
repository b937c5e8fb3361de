/*
 * What is told of a machine that is fetched from EBS: where its cycle is, what was asked of AWS and
 * what that costs, and the RPO that it can honestly reach.
 *
 * A point shows the moment of its set, and is there once the set was copied. So just before the
 * next point is there the newest is as old as the time from one set to the next, and the copying:
 * no machine is better than that, however short its policy's interval.
 */
#include <errno.h>

#include "replicator/ebs_internal.h"

#define PAGE_BLOCKS 5000u /* of a listing, as ec2_fetch asks for them */
#define PER 1000u         /* prices are of so many requests */
#define DOLLAR 1e9        /* billionths */

static uint64_t price(const struct ebs *ebs, const uint64_t requests[static EC2_LIMITS])
{
	return requests[EC2_LIMIT_BLOCKS] * ebs->block_price / PER +
	       requests[EC2_LIMIT_LISTS] * ebs->list_price / PER;
}

/* What reading all of it costs at most, in billionths of a dollar. */
static uint64_t first_price(const struct ebs *ebs, uint64_t bytes)
{
	uint64_t blocks = bytes / EC2_BLOCK_BYTES;
	const uint64_t requests[EC2_LIMITS] = {
		[EC2_LIMIT_BLOCKS] = blocks, [EC2_LIMIT_LISTS] = blocks / PAGE_BLOCKS + 1
	};
	return price(ebs, requests);
}

static const char *phase_name(const struct ebs_state *state)
{
	static const char *const names[] = { "idle", "creating", "waiting", "copying", "copied" };
	return names[state->cycle.phase];
}

static int add_seconds(struct cJSON *object, const char *name, int64_t ns, bool known)
{
	return known ? json_add_double(object, name, (double)ns / (double)NS_PER_S)
		     : json_add_null(object, name);
}

static int add_volume(struct cJSON *list, const struct machine_disk *disk,
	const struct ec2_cycle_volume *v, bool copying)
{
	struct cJSON *item;
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", disk->volume);
	if (r == 0)
		r = json_add_text(item, "disk", disk->id);
	if (r == 0)
		r = v && v->base[0] ? json_add_text(item, "base", v->base)
				    : json_add_null(item, "base");
	if (r == 0)
		r = v && v->snapshot[0] ? json_add_text(item, "snapshot", v->snapshot)
					: json_add_null(item, "snapshot");
	if (r == 0)
		r = json_add_bool(item, "whole", copying && v && v->whole);
	return r == 0 ? json_add_u64(item, "reached_bytes",
				copying && v ? (uint64_t)v->index * EC2_BLOCK_BYTES : 0)
		      : r;
}

static const struct ec2_cycle_volume *find_volume(const struct ec2_cycle *cycle, const char *id)
{
	for (unsigned i = 0; i < cycle->count; i++)
		if (strcmp(cycle->volumes[i].id, id) == 0)
			return &cycle->volumes[i];
	return NULL;
}

static int add_volumes(
	const struct machine_entry *machine, const struct ebs_state *state, struct cJSON *object)
{
	struct cJSON *list;
	bool copying = state->cycle.phase >= EC2_CYCLE_COPYING;
	int r = json_add_array(object, "volumes", &list);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++)
		r = add_volume(list, &machine->disks[i],
			find_volume(&state->cycle, machine->disks[i].volume), copying);
	return r;
}

static int add_requests(const struct ebs *ebs, struct cJSON *object, const char *name,
	const uint64_t requests[static EC2_LIMITS])
{
	struct cJSON *item;
	int r = json_add_object(object, name, &item);
	if (r == 0)
		r = json_add_u64(item, "get_snapshot_block", requests[EC2_LIMIT_BLOCKS]);
	if (r == 0)
		r = json_add_u64(item, "list_blocks", requests[EC2_LIMIT_LISTS]);
	if (r == 0)
		r = json_add_u64(item, "ec2", requests[EC2_LIMIT_CALLS]);
	return r == 0 ? json_add_double(item, "price_usd", (double)price(ebs, requests) / DOLLAR)
		      : r;
}

static int add_last(const struct ebs *ebs, const struct ebs_figures *f, struct cJSON *object)
{
	struct cJSON *item;
	if (f->cycles == 0)
		return json_add_null(object, "last_cycle");
	int r = json_add_object(object, "last_cycle", &item);
	if (r == 0)
		r = result_add_time(item, "set", f->set_ns);
	if (r == 0)
		r = add_seconds(item, "took_s", f->took_ns, true);
	if (r == 0)
		r = json_add_u64(item, "fetched_bytes", f->cycle_fetched_bytes);
	if (r == 0)
		r = json_add_u64(item, "written_bytes", f->cycle_written_bytes);
	return r == 0 ? add_requests(ebs, item, "requests", f->cycle_requests) : r;
}

uint64_t ebs_reached_bytes(const struct ec2_cycle *cycle)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < cycle->count; i++)
		bytes += (uint64_t)cycle->volumes[i].index * EC2_BLOCK_BYTES;
	return bytes;
}

/* How far the present set is, and how long it will take at the rate so far; null: none is copied.
 */
static int add_progress(const struct ebs_worker *w, struct cJSON *object)
{
	struct cJSON *item;
	uint64_t all = 0;
	if (!w || w->shown.cycle.phase != EC2_CYCLE_COPYING)
		return json_add_null(object, "progress");
	const struct ec2_cycle *cycle = &w->shown.cycle;
	for (unsigned i = 0; i < cycle->count; i++)
		all += cycle->volumes[i].bytes;
	uint64_t reached = ebs_reached_bytes(cycle);
	int64_t took_ns = clock_monotonic_ns(clock_system()) - w->copying_ns;
	bool known = w->copying_ns && reached > w->copying_from_bytes && took_ns > 0;
	double rate = known ? (double)(reached - w->copying_from_bytes) /
				      ((double)took_ns / (double)NS_PER_S)
			    : 0;
	int r = json_add_object(object, "progress", &item);
	if (r == 0)
		r = json_add_u64(item, "reached_bytes", reached);
	if (r == 0)
		r = json_add_u64(item, "size_bytes", all);
	if (r == 0)
		r = known ? json_add_double(item, "bytes_per_s", rate)
			  : json_add_null(item, "bytes_per_s");
	if (r == 0)
		r = known ? json_add_double(item, "left_s", (double)(all - reached) / rate)
			  : json_add_null(item, "left_s");
	return r;
}

static int64_t point_interval_ns(struct registry *registry, const struct machine_entry *machine)
{
	const struct policy_entry *policy = registry_find_policy(registry, machine->group->policy);
	struct policy fallback;
	policy_default(&fallback);
	return (policy ? policy->policy.point_interval_s : fallback.point_interval_s) * NS_PER_S;
}

static int add_figures(const struct ebs *ebs, const struct machine_entry *machine,
	const struct ebs_figures *f, struct cJSON *object)
{
	uint64_t bytes = 0;
	for (unsigned i = 0; i < machine->disk_count; i++)
		bytes += machine->disks[i].size_bytes;
	int64_t interval_ns = point_interval_ns(ebs->registry, machine);
	int r = json_add_u64(object, "cycles", f->cycles);
	if (r == 0)
		r = add_last(ebs, f, object);
	if (r == 0)
		r = add_seconds(object, "reachable_rpo_s",
			MAX(interval_ns, f->took_ns) + f->took_ns,
			f->cycles > 0 && interval_ns > 0);
	if (r == 0)
		r = add_requests(ebs, object, "requests", f->requests);
	if (r == 0)
		r = json_add_double(
			object, "first_sync_price_usd", (double)first_price(ebs, bytes) / DOLLAR);
	return r;
}

static int add_error(struct cJSON *object, const struct error *error)
{
	struct cJSON *item;
	if (error->code == 0)
		return json_add_null(object, "error");
	int r = json_add_object(object, "error", &item);
	if (r == 0)
		r = json_add_text(item, "message", error->message);
	return r == 0 ? json_add_text(item, "mend", error->mend) : r;
}

static int build(const struct ebs *ebs, const struct machine_entry *machine,
	const struct ebs_state *state, const struct ebs_attached *attached,
	const struct error *trouble, struct cJSON *object)
{
	int r = json_add_text(object, "instance", machine->instance);
	if (r == 0)
		r = json_add_text(object, "region", machine->region);
	if (r == 0)
		r = json_add_text(object, "phase", phase_name(state));
	if (r == 0)
		r = add_volumes(machine, state, object);
	if (r == 0)
		r = ebs_add_left_out(machine, attached, object);
	if (r == 0)
		r = add_figures(ebs, machine, &state->figures, object);
	if (r == 0)
		r = state->cause[0] ? json_add_text(object, "compared_because", state->cause)
				    : json_add_null(object, "compared_because");
	return r == 0 ? add_error(object, trouble) : r;
}

int ebs_machine_json(struct ebs *ebs, const char *name, struct cJSON **ret_json)
{
	static const struct ebs_state no_state;
	static const struct ebs_attached none_seen;
	static const struct error no_error;
	CLEANUP(json_freep) struct cJSON *object = NULL;
	const struct machine_entry *machine = registry_find_machine(ebs->registry, name);
	int r = machine ? json_new_object(&object) : -ENOENT;
	SCOPED_LOCK(&ebs->lock);
	const struct ebs_worker *w = ebs_find(ebs, name);
	if (r == 0)
		r = build(ebs, machine, w ? &w->shown : &no_state, w ? &w->attached : &none_seen,
			w ? &w->trouble : &no_error, object);
	if (r == 0)
		r = add_progress(w, object);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}

bool ebs_trouble(struct ebs *ebs, const char *machine, struct group_trouble *ret_trouble)
{
	SCOPED_LOCK(&ebs->lock);
	const struct ebs_worker *w = ebs_find(ebs, machine);
	if (!w || w->trouble.code == 0)
		return false;
	*ret_trouble = (struct group_trouble){ .agentless = true, .error = w->trouble };
	snprintf(ret_trouble->machine, sizeof(ret_trouble->machine), "%s", machine);
	return true;
}

bool ebs_comparison(struct ebs *ebs, const char *machine, struct group_comparison *ret_comparison)
{
	SCOPED_LOCK(&ebs->lock);
	const struct ebs_worker *w = ebs_find(ebs, machine);
	if (!w || w->shown.cause[0] == '\0')
		return false;
	*ret_comparison = (struct group_comparison){ 0 };
	snprintf(ret_comparison->machine, sizeof(ret_comparison->machine), "%s", machine);
	error_set(&ret_comparison->cause, -ESTALE, NULL, "%s", w->shown.cause);
	return true;
}
