/*
 * The method status, and a machine as JSON. One pass under the registry's lock: memory only.
 */
#include <errno.h>

#include "replicator/ingest.h"
#include "replicator/agents.h"
#include "replicator/drills.h"
#include "replicator/ebs.h"
#include "replicator/registry_internal.h"

/* What of the group's figures holds for a machine, too: whoever joins a group that has points is in
 * none of them. */
struct member {
	bool has_point, has_vault_point;
	struct point newest, newest_vault;
};

static struct member member_of(struct history *history, const char *machine)
{
	struct member m = { 0 };
	m.has_point = history && machine_newest_point(history, machine, 0, &m.newest) == 0;
	m.has_vault_point = m.has_point && machine_newest_point(history, machine, POINT_VAULT,
						   &m.newest_vault) == 0;
	return m;
}

/* Under lock: "new", "protected", … */
static const char *machine_state(const struct machine_entry *machine,
	const struct group_status *status, const struct member *member)
{
	if (machine->removing)
		return "removing";
	if (!machine->group->group || status->failed)
		return "failed";
	if (status->taken_over)
		return "taken-over";
	if (status->history.drained_bytes > 0 && !status->paused)
		return "syncing"; /* more than the journal holds, so it goes ahead of its seal */
	if (status->resync_disks > 0)
		return "resync-needed";
	if (status->paused)
		return "paused";
	if (!member->has_point)
		return "new";
	if (!status->vault_configured)
		return "local-only";
	return member->has_vault_point ? "protected" : "syncing";
}

static int add_seconds(struct cJSON *object, const char *name, int64_t ns)
{
	if (ns < 0)
		return json_add_null(object, name);
	return json_add_double(object, name, (double)ns / (double)NS_PER_S);
}

static bool needs_resync(struct history *history, const char *name)
{
	CLEANUP_FREE struct history_disk *disks = calloc(HISTORY_MAX_DISKS, sizeof(*disks));
	unsigned count = disks && history ? history_disks(history, disks, HISTORY_MAX_DISKS) : 0;
	for (unsigned i = 0; i < count; i++)
		if (!disks[i].removed && strcmp(disks[i].name, name) == 0)
			return disks[i].resync_needed;
	return false;
}

static int add_disks(struct registry *registry, const struct machine_entry *machine,
	struct history *history, struct cJSON *object)
{
	struct cJSON *list, *item;
	int r = json_add_array(object, "disks", &list);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++) {
		const struct machine_disk *disk = &machine->disks[i];
		CLEANUP(buf_free) struct buf path = { 0 };
		char name[2 * REGISTRY_NAME_BYTES];
		snprintf(name, sizeof(name), "%s/%s", machine->name, disk->id);
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_text(item, "id", disk->id);
		if (r == 0)
			r = json_add_u64(item, "size_bytes", disk->size_bytes);
		if (r == 0)
			r = buf_printf(&path, "%s/%s/live/%s.vhd", registry->mount_path,
				machine->name, disk->id);
		if (r == 0)
			r = json_add_text(item, "path", path.data);
		if (r == 0)
			r = json_add_bool(item, "resync_needed", needs_resync(history, name));
	}
	return r;
}

/* `point` NULL: there is none. */
static int add_newest(struct registry *registry, const char *machine, const struct point *point,
	const char *name, struct cJSON *object)
{
	struct cJSON *item;
	if (!point)
		return json_add_null(object, name);
	int r = point_to_json(registry, machine, point, &item);
	return r == 0 ? json_add_item(object, name, item) : r;
}

static int add_journal(struct cJSON *object, const struct group_status *status)
{
	struct cJSON *journal;
	int r = json_add_object(object, "journal", &journal);
	if (r == 0)
		r = json_add_u64(journal, "limit_bytes", status->history.limit_bytes);
	if (r == 0)
		r = json_add_u64(journal, "used_bytes", status->history.used_bytes);
	if (r == 0)
		r = json_add_u64(journal, "unflushed_bytes", status->history.unflushed_bytes);
	if (r == 0)
		r = json_add_u64(journal, "freeable_bytes", status->history.freeable_bytes);
	if (r == 0)
		r = json_add_double(journal, "fill", status->journal_fill);
	return r;
}

static int add_flow(struct cJSON *object, const struct group_status *status)
{
	struct cJSON *flush;
	int r = json_add_u64(object, "lag_bytes", status->lag_bytes);
	if (r == 0)
		r = json_add_u64(object, "write_bytes_per_s", status->write_bytes_per_s);
	if (r == 0)
		r = json_add_u64(object, "flush_bytes_per_s", status->flush_bytes_per_s);
	if (r == 0)
		r = json_add_object(object, "flush", &flush);
	if (r == 0)
		r = json_add_bool(flush, "active", status->flushing);
	if (r == 0)
		r = json_add_u64(flush, "done_bytes", status->flush_done_bytes);
	if (r == 0)
		r = json_add_u64(flush, "total_bytes", status->flush_total_bytes);
	if (r == 0)
		r = json_add_bool(flush, "draining", status->draining);
	if (r == 0)
		r = json_add_u64(flush, "drained_bytes", status->history.drained_bytes);
	return r;
}

static int add_rpo(struct registry *registry, const struct group_entry *entry,
	const struct group_status *status, const struct member *member, struct cJSON *object)
{
	struct policy_entry *policy = registry_find_policy(registry, entry->policy);
	struct policy fallback;
	policy_default(&fallback);
	int64_t alert_s = policy ? policy->policy.rpo_alert_s : fallback.rpo_alert_s;
	int r = add_seconds(object, "rpo_local_s", member->has_point ? status->rpo_local_ns : -1);
	if (r == 0)
		r = add_seconds(
			object, "rpo_vault_s", member->has_vault_point ? status->rpo_vault_ns : -1);
	if (r == 0)
		r = add_seconds(object, "rpo_alert_s", alert_s * NS_PER_S);
	return r;
}

static int add_names(struct registry *registry, const struct machine_entry *machine,
	const struct group_status *status, const struct member *member, struct cJSON *object)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	enum alert_health health = alerts_health(status->alerts, status->alert_count);
	int r = json_add_text(object, "name", machine->name);
	if (r == 0)
		r = json_add_text(object, "group", machine->group->name);
	if (r == 0)
		r = json_add_text(object, "source", machine->source);
	if (r == 0)
		r = json_add_text(object, "policy", machine->group->policy);
	if (r == 0)
		r = json_add_text(object, "state", machine_state(machine, status, member));
	if (r == 0)
		r = json_add_text(object, "health", alert_health_text(health));
	if (r == 0)
		r = json_add_bool(object, "paused", machine->group->paused);
	if (r == 0)
		r = buf_printf(&path, "%s/%s", registry->mount_path, machine->name);
	if (r == 0)
		r = json_add_text(object, "path", path.data);
	return r;
}

static int add_agent(
	struct registry *registry, const struct machine_entry *machine, struct cJSON *object)
{
	struct cJSON *agent;
	if (!registry->ingest || strcmp(machine->source, "agent") != 0)
		return json_add_null(object, "agent");
	int r = ingest_machine_json(registry->ingest, machine->name, &agent);
	int64_t ends_ns = 0;
	bool overdue;
	if (r == 0 && registry->agents)
		(void)agents_certificate_ends(registry->agents, machine->name, &ends_ns, &overdue);
	if (r == 0 && (r = result_add_time(agent, "certificate_expires", ends_ns)) < 0)
		json_freep(&agent);
	return r == 0 ? json_add_item(object, "agent", agent) : r;
}

static int add_ebs(
	struct registry *registry, const struct machine_entry *machine, struct cJSON *object)
{
	struct cJSON *ebs;
	if (!registry->ebs || strcmp(machine->source, "ebs") != 0)
		return json_add_null(object, "ebs");
	int r = ebs_machine_json(registry->ebs, machine->name, &ebs);
	return r == 0 ? json_add_item(object, "ebs", ebs) : r;
}

/* What is known of the group, open or not. Under lock. */
static void status_of(const struct group_entry *entry, struct group_status *ret_status)
{
	*ret_status = (struct group_status){ .rpo_local_ns = -1, .rpo_vault_ns = -1 };
	if (entry->group) {
		group_status(entry->group, ret_status);
		return;
	}
	memcpy(ret_status->alerts, entry->alerts, sizeof(ret_status->alerts));
	ret_status->alert_count = entry->alert_count;
}

int machine_to_json(
	struct registry *registry, const struct machine_entry *machine, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	const struct group_entry *entry = machine->group;
	struct group_status status;
	status_of(entry, &status);
	machine_add_alerts(machine, &status);
	struct history *history =
		entry->group && !entry->ending ? group_history(entry->group) : NULL;
	struct member member = member_of(history, machine->name);
	int r = json_new_object(&object);
	if (r == 0)
		r = add_names(registry, machine, &status, &member, object);
	if (r == 0)
		r = add_disks(registry, machine, history, object);
	if (r == 0)
		r = add_agent(registry, machine, object);
	if (r == 0)
		r = add_ebs(registry, machine, object);
	if (r == 0)
		r = add_newest(registry, machine->name, member.has_point ? &member.newest : NULL,
			"newest_point", object);
	if (r == 0)
		r = add_newest(registry, machine->name,
			member.has_vault_point ? &member.newest_vault : NULL, "newest_vault_point",
			object);
	if (r == 0)
		r = json_add_u64(
			object, "point_count", machine_point_count(history, machine->name));
	if (r == 0)
		r = registry->drills ? drills_add_last(registry->drills, machine->name, object)
				     : json_add_null(object, "last_drill");
	if (r == 0)
		r = add_rpo(registry, entry, &status, &member, object);
	if (r == 0)
		r = add_flow(object, &status);
	if (r == 0)
		r = add_journal(object, &status);
	if (r == 0)
		r = json_add_alerts(object, "alerts", status.alerts, status.alert_count);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}

/* ── the appliance ───────────────────────────────────────────────────────────────────────── */

static int add_cache(struct registry *registry, struct cJSON *object)
{
	struct cJSON *item;
	struct cache_stats stats;
	if (!registry->cache)
		return json_add_null(object, "cache");
	cache_stats(registry->cache, &stats);
	int r = json_add_object(object, "cache", &item);
	if (r == 0)
		r = json_add_u64(item, "capacity_bytes", stats.capacity_bytes);
	if (r == 0)
		r = json_add_u64(item, "used_bytes", stats.used_bytes);
	if (r == 0)
		r = json_add_u64(item, "hits", stats.hits);
	if (r == 0)
		r = json_add_u64(item, "misses", stats.misses);
	if (r == 0)
		r = json_add_u64(item, "fetched_bytes", stats.fetched_bytes);
	return r;
}

static const char *vault_state_name(int code)
{
	return code == 0                ? "ok"
	       : code == -ENOENT        ? "not-initialised"
	       : alert_is_refusal(code) ? "refused"
					: "unreachable";
}

/* As the groups find it: ok if one of them reaches it. */
static const char *vault_state(struct registry *registry)
{
	const char *state = "unknown";
	if (!registry->groups && registry->vault_asked)
		return vault_state_name(registry->vault_error.code);
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		struct group_status status;
		status_of(g, &status);
		if (status.vault_reachable)
			return "ok";
		if (!g->group || status.vault_error_code == 0)
			continue;
		state = !status.vault_initialized                   ? "not-initialised"
			: alert_is_refusal(status.vault_error_code) ? "refused"
								    : "unreachable";
	}
	return state;
}

static int add_vault(struct registry *registry, struct cJSON *object)
{
	struct cJSON *item;
	if (!registry->service)
		return json_add_null(object, "vault");
	const char *state = vault_state(registry);
	bool reachable = strcmp(state, "ok") == 0;
	int r = json_add_object(object, "vault", &item);
	if (r == 0)
		r = json_add_text(item, "name", registry->service->ops->name(registry->service));
	if (r == 0)
		r = json_add_bool(item, "reachable", reachable);
	if (r == 0)
		r = json_add_text(item, "state", state);
	return r;
}

static int add_total_journal(struct registry *registry, struct cJSON *object)
{
	struct cJSON *item;
	uint64_t used = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		struct group_status status;
		status_of(g, &status);
		used += status.history.used_bytes;
	}
	int r = json_add_object(object, "journal", &item);
	if (r == 0)
		r = json_add_text(item, "directory", registry->journal_dir);
	if (r == 0)
		r = json_add_u64(item, "limit_bytes", registry->journal_bytes);
	if (r == 0)
		r = json_add_u64(item, "used_bytes", used);
	if (r == 0)
		r = json_add_u64(item, "disk_free_bytes", registry->journal_free_bytes);
	return r;
}

static int add_appliance(struct registry *registry, struct cJSON *root)
{
	struct cJSON *object;
	char id[UUID_TEXT_BYTES];
	uuid_format(&registry->appliance, id);
	int r = json_add_object(root, "appliance", &object);
	if (r == 0)
		r = json_add_text(object, "name", registry->appliance_name);
	if (r == 0)
		r = json_add_text(object, "id", id);
	if (r == 0)
		r = json_add_text(object, "version", LANDFALL_VERSION);
	if (r == 0)
		r = result_add_time(object, "started", registry->started_ns);
	if (r == 0)
		r = json_add_text(object, "mount", registry->mount_path);
	if (r == 0)
		r = json_add_bool(object, "mounted", registry->mount_error.code == 0);
	if (r == 0)
		r = add_total_journal(registry, object);
	if (r == 0)
		r = add_cache(registry, object);
	if (r == 0)
		r = add_vault(registry, object);
	if (r == 0)
		r = json_add_alerts(object, "alerts", registry->alerts, registry->alert_count);
	return r;
}

static int add_machines(
	struct registry *registry, const char *only, struct cJSON *root, enum alert_health *health)
{
	struct cJSON *list, *item;
	int r = json_add_array(root, "machines", &list);
	for (struct machine_entry *m = registry->machines; r == 0 && m; m = m->next) {
		if (only && strcmp(only, m->name) != 0)
			continue;
		struct group_status status;
		status_of(m->group, &status);
		machine_add_alerts(m, &status);
		enum alert_health one = alerts_health(status.alerts, status.alert_count);
		*health = MAX(*health, one);
		r = machine_to_json(registry, m, &item);
		if (r == 0)
			r = json_add_item(list, NULL, item);
	}
	return r;
}

static int method_status(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "machine", NULL };
	struct registry *registry = context;
	const char *machine;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", false, error, &machine);
	if (r < 0)
		return r;
	CLEANUP(json_freep) struct cJSON *root = NULL, *machines = NULL;
	SCOPED_LOCK(&registry->lock);
	if (machine && !registry_find_machine(registry, machine))
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s", machine);
	enum alert_health health = alerts_health(registry->alerts, registry->alert_count);
	r = json_new_object(&machines);
	if (r == 0)
		r = add_machines(registry, machine, machines, &health);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_text(root, "health", alert_health_text(health));
	if (r == 0)
		r = result_add_time(root, "now", clock_realtime_ns(registry->clock));
	if (r == 0)
		r = add_appliance(registry, root);
	if (r == 0)
		r = json_add_item(
			root, "machines", cJSON_DetachItemFromObject(machines, "machines"));
	if (r == 0)
		*ret_result = TAKE(root);
	return r;
}

int methods_status_register(struct registry *registry, struct control *control)
{
	return control_register(control, "status", method_status, registry);
}
