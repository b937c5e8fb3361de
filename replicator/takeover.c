/*
 * The job vault.takeover, for a group at a time:
 *
 *	1. owner.json is swapped to this appliance, leases are broken, bases repaired
 *	   (vault_group_takeover; safe to repeat, and done again after a crash)
 *	2. what is here under that name and no longer valid (taken over by another, or a journal
 *	   that cannot be opened) is closed and its journal moved aside, never deleted
 *	3. machines, disks and policy come back from owner.json, the points from the manifests
 *	   (which are read before anything is locked),
 *	   into a new journal; the registry's file is written last, so that a crash before leaves
 *	   a takeover to do once more and not half a group
 *
 * A journal directory that a crash left behind before 3 was complete is no group's: it is moved
 * aside like any other.
 */
#include "replicator/takeover.h"

#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "common/utc.h"
#include "replicator/registry_internal.h"
#include "replicator/twin_file.h"

#define CLAIM_WAIT_NS (60 * NS_PER_S)
#define CLAIM_POLL_NS (50 * NS_PER_MS)

struct name_list {
	char (*names)[64]; /* owned */
	unsigned count;
};

static void name_list_free(struct name_list *list)
{
	free(list->names);
}

static int add_name(void *context, const char *name)
{
	struct name_list *list = context;
	char(*more)[64] = realloc(list->names, (list->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	list->names = more;
	snprintf(more[list->count++], sizeof(*more), "%s", name);
	return 0;
}

/* ── what is here ────────────────────────────────────────────────────────────────────────── */

static int check_entry(struct group_entry *entry, struct error *error)
{
	struct group_status status;
	if (!entry || !entry->group)
		return 0;
	group_status(entry->group, &status);
	if (status.taken_over || status.failed)
		return 0;
	return error_set(error, -EEXIST,
		"nothing is to be taken over; if its journal is to be thrown away, 'landfall "
		"machine remove --keep-vault' its machines first",
		"this appliance runs group %s already", entry->name);
}

int takeover_check_local(struct registry *registry, const char *group, struct error *error)
{
	SCOPED_LOCK(&registry->change_lock);
	return check_entry(registry_find_group(registry, group), error);
}

/* Renames the journal's directory, if there is one; tells where to. */
static int move_aside(
	struct registry *registry, const char *group, struct buf *ret_path, struct error *error)
{
	CLEANUP_FREE char *directory = registry_group_directory(registry, group);
	CLEANUP_FREE char *state = registry_group_state_path(registry, group);
	char now[UTC_COMPACT_BYTES];
	if (!directory || !state)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	utc_format_compact(clock_realtime_ns(registry->clock), now);
	int r = buf_printf(ret_path, "%s/.aside-%s-%s", registry->journal_dir, group, now);
	if (r == 0)
		r = io_rename(registry->io, directory, ret_path->data);
	if (r == -ENOENT) {
		buf_clear(ret_path);
		r = 0;
	}
	if (r == 0)
		r = io_sync_dir(registry->io, registry->journal_dir);
	if (r == 0)
		r = twin_remove(registry->io, state);
	if (r < 0)
		return error_set(error, r, "check the appliance's disk",
			"%s: cannot be moved aside: %s", directory, strerrordesc_np(-r));
	return 0;
}

/* Takes what is here under the group's name away, its machines too. */
static void forget_local(struct registry *registry, struct group_entry *entry)
{
	registry_close_group(registry, entry);
	for (struct machine_entry *m = registry->machines; m;) {
		struct machine_entry *next = m->next;
		if (m->group == entry)
			machine_erase(registry, m);
		m = next;
	}
	registry_forget_group(registry, entry);
}

/* ── what comes back ─────────────────────────────────────────────────────────────────────── */

/* The policy as it was, under its name; a name that means something else here gets a new one. */
static int bring_policy(struct registry *registry, const struct json *settings, const char *group,
	char ret_name[static REGISTRY_NAME_BYTES], struct error *error)
{
	struct json policy_json, values;
	struct policy policy;
	const char *name;
	policy_default(&policy);
	int r = json_get_object(settings, "policy", &policy_json, error);
	if (r == 0)
		r = json_get_text(&policy_json, "name", &name, error);
	if (r == 0 && !name_is_valid(name))
		r = json_error(&policy_json, -EBADMSG, error, "name is no name");
	if (r < 0)
		return r;
	snprintf(ret_name, REGISTRY_NAME_BYTES, "%s", name);
	struct policy_entry *there = registry_find_policy(registry, name);
	if (json_get_object(&policy_json, "settings", &values, NULL) < 0)
		return 0; /* it had none any more: the name's, or the built-in one */
	r = policy_from_json(&policy, &values, error);
	if (r < 0)
		return r;
	if (there) {
		CLEANUP(json_freep) struct cJSON *ours = NULL;
		r = policy_to_json(there, &ours);
		if (r < 0 || cJSON_Compare(ours, values.node, true))
			return r;
		if (there->origin == POLICY_BUILT_IN) {
			snprintf(policy.name, sizeof(policy.name), "%s", ret_name);
			return registry_put_policy(registry, &policy, POLICY_STORED);
		}
		snprintf(ret_name, REGISTRY_NAME_BYTES, "%.52s-takeover", group);
	}
	snprintf(policy.name, sizeof(policy.name), "%s", ret_name);
	return registry_put_policy(registry, &policy, POLICY_STORED);
}

/* The machine's disks among the group's; names are "<machine>/<disk>". */
static void find_disks(const struct vault_group *group, struct machine_request *request)
{
	size_t n = strlen(request->name);
	for (unsigned i = 0; i < group->disk_count; i++) {
		const struct vault_disk *disk = &group->disks[i];
		if (disk->removed || strncmp(disk->name, request->name, n) != 0 ||
			disk->name[n] != '/' || request->disk_count == HISTORY_MAX_DISKS)
			continue;
		struct machine_disk *d = &request->disks[request->disk_count++];
		snprintf(d->id, sizeof(d->id), "%s", disk->name + n + 1);
		d->size_bytes = disk->size_bytes;
	}
}

static int bring_machine(struct registry *registry, const struct json *at,
	const struct vault_group *group, struct group_entry *entry, struct error *error)
{
	CLEANUP_FREE struct machine_request *request = calloc(1, sizeof(*request));
	if (!request)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = json_get_text(at, "name", &request->name, error);
	if (r == 0)
		r = json_get_text(at, "source", &request->source, error);
	if (r == 0)
		r = name_check("machine", request->name, error);
	if (r == 0 && registry_find_machine(registry, request->name))
		r = error_set(error, -EEXIST, "remove the one here, or take over elsewhere",
			"group %s of the vault has a machine %s, and so has this appliance",
			group->name, request->name);
	if (r < 0)
		return r;
	find_disks(group, request);
	r = machine_aws_from_json(at, request, error);
	return r < 0 ? r : machine_insert(registry, request, entry, error);
}

static int bring_entry(struct registry *registry, const struct vault_group *group,
	struct error *error, struct group_entry **ret_entry)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json settings, machines;
	char policy[REGISTRY_NAME_BYTES];
	const char *text = group->settings ? group->settings : "";
	int r = json_parse(text, strlen(text), NULL, &json, error);
	if (r < 0)
		return r;
	json_root(json, "owner.json: settings", &settings);
	r = json_get_array(&settings, "machines", &machines, error);
	if (r == 0)
		r = bring_policy(registry, &settings, group->name, policy, error);
	struct group_entry *entry = NULL;
	if (r == 0)
		r = registry_add_group(registry, group->name, &group->id, policy, error, &entry);
	if (r < 0)
		return r;
	for (struct json item = { 0 }; r == 0 && json_each(&machines, &item);)
		r = bring_machine(registry, &item, group, entry, error);
	if (r < 0) {
		forget_local(registry, entry);
		return r;
	}
	*ret_entry = entry;
	return 0;
}

/* ── one group ───────────────────────────────────────────────────────────────────────────── */

static void on_progress(void *context, uint64_t done, uint64_t total, const char *unit)
{
	job_progress(context, done, total, unit);
}

static int add_newest_point(
	struct registry *registry, struct group_entry *entry, struct cJSON *object)
{
	struct point point;
	struct cJSON *item;
	const char *machine = entry->name;
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		if (m->group == entry)
			machine = m->name;
	if (history_point_newest(group_history(entry->group), POINT_VAULT, INT64_MAX, &point) < 0)
		return json_add_null(object, "newest_point");
	int r = point_to_json(registry, machine, &point, &item);
	return r == 0 ? json_add_item(object, "newest_point", item) : r;
}

static int tell(struct registry *registry, struct group_entry *entry,
	const struct vault_group *before, const char *aside, struct cJSON *list)
{
	struct cJSON *object, *machines;
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "name", entry->name);
	if (r == 0)
		r = json_add_text(object, "from", before->owner_name);
	if (r == 0)
		r = result_add_time(object, "claimed_at", before->claimed_ns);
	if (r == 0)
		r = json_add_array(object, "machines", &machines);
	for (struct machine_entry *m = registry->machines; r == 0 && m; m = m->next)
		if (m->group == entry)
			r = json_add_text(machines, NULL, m->name);
	if (r == 0)
		r = json_add_u64(object, "points", point_count(group_history(entry->group), 0));
	if (r == 0)
		r = add_newest_point(registry, entry, object);
	if (r == 0)
		r = aside ? json_add_text(object, "set_aside", aside)
			  : json_add_null(object, "set_aside");
	return r;
}

static int bring_up(struct registry *registry, const struct vault_group *taken,
	struct vault_reading *points, const struct vault_group *before, struct cJSON *list,
	struct error *error)
{
	CLEANUP(buf_free) struct buf aside = { 0 };
	struct group_entry *there = registry_find_group(registry, taken->name), *entry = NULL;
	if (there)
		forget_local(registry, there);
	int r = move_aside(registry, taken->name, &aside, error);
	if (r == 0)
		r = bring_entry(registry, taken, error, &entry);
	if (r < 0)
		return r;
	r = registry_open_group(registry, entry, points, error);
	if (r == 0)
		r = registry_save(registry, error);
	if (r < 0) {
		forget_local(registry, entry);
		return r;
	}
	return tell(registry, entry, before, aside.len > 0 ? aside.data : NULL, list);
}

static bool is_ours_and_running(struct registry *registry, const char *name)
{
	SCOPED_LOCK(&registry->change_lock);
	struct group_entry *entry = registry_find_group(registry, name);
	return entry && check_entry(entry, NULL) < 0;
}

static void free_reading(struct vault_reading **reading)
{
	vault_reading_free(*reading);
}

/* Told to be over once the group can be used: its thread has claimed it. The vault answered a
 * moment ago; if it does not any more, the group's alerts say so. */
static void wait_for_claim(struct registry *registry, struct job *job, const char *name)
{
	int64_t until = clock_monotonic_ns(registry->clock) + CLAIM_WAIT_NS;
	while (clock_monotonic_ns(registry->clock) < until && !job_should_stop(job)) {
		{
			SCOPED_LOCK(&registry->change_lock);
			struct group_entry *entry = registry_find_group(registry, name);
			if (!entry || !entry->group ||
				group_wait_claimed(entry->group, 0) != -ENOTCONN)
				return;
		}
		clock_sleep_ns(registry->clock, CLAIM_POLL_NS);
	}
}

/* NULL: all are. */
static const struct cJSON *one_asked_for(struct job *job)
{
	const struct cJSON *one = cJSON_GetObjectItemCaseSensitive(job_parameters(job), "group");
	return cJSON_IsString(one) ? one : NULL;
}

static bool discards_damaged(struct job *job)
{
	return cJSON_IsTrue(
		cJSON_GetObjectItemCaseSensitive(job_parameters(job), "discard_damaged"));
}

/* There is no such group: which there are. */
static int say_which(struct blob_store *store, const char *name, struct error *error)
{
	CLEANUP(name_list_free) struct name_list names = { 0 };
	char mend[sizeof(error->mend)] = "the vault holds no group; check [vault] container in "
					 "landfall.conf";
	if (vault_groups(store, add_name, &names, NULL) < 0)
		snprintf(mend, sizeof(mend), "check [vault] container in landfall.conf");
	for (unsigned i = 0, n = 0; i < names.count; i++) {
		size_t room = sizeof(mend) - n;
		int more = snprintf(mend + n, room, "%s%s",
			i == 0 ? "the vault holds these groups: " : ", ", names.names[i]);
		if (more < 0 || (size_t)more + 5 >= room) {
			snprintf(mend + n, room, ", …");
			break;
		}
		n += (unsigned)more;
	}
	return error_set(error, -ENOENT, mend, "the vault holds no group %s", name);
}

static int take_group(struct registry *registry, struct job *job, struct blob_store *store,
	const char *name, struct cJSON *list, struct error *error)
{
	CLEANUP(vault_group_free) struct vault_group before = { 0 }, taken = { 0 };
	int r = takeover_check_local(registry, name, error);
	if (r == 0)
		r = vault_group_load(store, name, error, &before);
	if (r == -ENOENT && one_asked_for(job))
		return say_which(store, name, error);
	if (r == 0)
		r = vault_group_takeover(store, name, &registry->appliance,
			registry->appliance_name, discards_damaged(job), registry->clock,
			on_progress, job, error, &taken);
	if (r < 0)
		return r;
	log_warning("group %s: taken over from %s", name, before.owner_name);
	/* Without the lock: the vault may let us wait. */
	CLEANUP(free_reading) struct vault_reading *points = NULL;
	r = vault_import_read(store, &taken, error, &points);
	if (r < 0)
		return r;
	pthread_mutex_lock(&registry->change_lock);
	r = bring_up(registry, &taken, points, &before, list, error);
	pthread_mutex_unlock(&registry->change_lock);
	if (r == 0)
		wait_for_claim(registry, job, name);
	return r;
}

/* ── the job ─────────────────────────────────────────────────────────────────────────────── */

static int list_groups(
	struct job *job, struct blob_store *store, struct name_list *names, struct error *error)
{
	const struct cJSON *one = one_asked_for(job);
	if (one)
		return add_name(names, one->valuestring);
	struct vault_identity identity;
	int r = vault_open(store, error, &identity);
	if (r == 0)
		r = vault_groups(store, add_name, names, error);
	if (r == 0 && names->count == 0)
		r = error_set(error, -ENOENT, "check [vault] container in landfall.conf",
			"the vault holds no group");
	return r;
}

static int take_all(struct registry *registry, struct job *job, struct blob_store *store,
	struct cJSON *list, struct error *error)
{
	CLEANUP(name_list_free) struct name_list names = { 0 };
	int r = list_groups(job, store, &names, error);
	struct error first = { 0 };
	for (unsigned i = 0; r == 0 && i < names.count; i++) {
		/* Those that run here are ours already, or were done before a restart. */
		if (is_ours_and_running(registry, names.names[i]))
			continue;
		if (job_should_stop(job))
			return error_set(error, -ECANCELED, "run it again for the rest",
				"the takeover was ended before group %s", names.names[i]);
		r = take_group(registry, job, store, names.names[i], list, error);
		/* Gone meanwhile, or half-deleted before and now wholly. */
		if (r == -ENOENT && !one_asked_for(job)) {
			log_warning("%s", error->message);
			r = 0;
		}
		/* What is wrong with one group keeps no other back. */
		if (r == -EUCLEAN || r == -EEXIST || r == -EBADMSG) {
			log_error("%s", error->message);
			if (first.code == 0)
				first = *error;
			r = 0;
		}
	}
	if (r == 0 && first.code < 0) {
		*error = first;
		r = first.code;
	}
	return r;
}

static int step_take(struct job *job, void *context, struct error *error)
{
	struct registry *registry = context;
	struct blob_store *store;
	if (!registry->service)
		return error_set(
			error, -ENOTCONN, "add [vault] to landfall.conf", "no vault is configured");
	int r = registry->service->ops->open_store(
		registry->service, job_stop_flag(job), error, &store);
	if (r < 0)
		return r;
	CLEANUP(json_freep) struct cJSON *result = NULL;
	struct cJSON *list;
	r = json_new_object(&result);
	if (r == 0)
		r = json_add_array(result, "groups", &list);
	if (r == 0)
		r = take_all(registry, job, store, list, error);
	if (r < 0)
		error_prefix(error, "%s", registry->service->ops->name(registry->service));
	store->ops->free(store);
	/* What was taken is told even if a later group failed. */
	int told = result ? job_set_result(job, TAKE(result)) : -ENOMEM;
	return r == 0 ? told : r;
}

int takeover_register_jobs(struct registry *registry)
{
	static const struct job_step steps[] = { { "take over, repair and import", step_take } };
	static const struct job_kind kind = { .name = "vault.takeover",
		.resumable = true,
		.steps = steps,
		.step_count = ARRAY_SIZE(steps) };
	return jobs_register(registry->jobs, &kind, registry);
}
