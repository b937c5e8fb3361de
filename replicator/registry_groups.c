/*
 * The groups of the registry: opening, closing, opening again, and being held while used.
 *
 * Everything that changes an entry's `group` runs under change_lock; it is set and cleared under
 * `lock`, and cleared only after the last holder has let go. Files open in the mount are no
 * holders: hiding a machine makes them answer -EIO.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "replicator/registry_internal.h"

#define RETRY_FIRST_NS NS_PER_S
#define RETRY_LONGEST_NS (60 * NS_PER_S)
#define SETTINGS_FORMAT 1

/* ── holding ─────────────────────────────────────────────────────────────────────────────── */

struct machine_entry *registry_find_machine(struct registry *registry, const char *name)
{
	struct machine_entry *machine = registry->machines;
	while (machine && strcmp(machine->name, name) != 0)
		machine = machine->next;
	return machine;
}

struct group_entry *registry_find_group(struct registry *registry, const char *name)
{
	struct group_entry *entry = registry->groups;
	while (entry && strcmp(entry->name, name) != 0)
		entry = entry->next;
	return entry;
}

int registry_hold(
	struct registry *registry, const char *machine, struct error *error, struct hold *ret_hold)
{
	SCOPED_LOCK(&registry->lock);
	struct machine_entry *m = registry_find_machine(registry, machine);
	if (!m)
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s", machine);
	struct group_entry *entry = m->group;
	if (!entry->group || entry->ending || !group_history(entry->group))
		return error_set(error, -EIO, "see the alerts of 'landfall status'",
			"machine %s is not running: %s", m->name,
			entry->open_error.code ? entry->open_error.message : "it is being closed");
	entry->holders++;
	*ret_hold = (struct hold){ .registry = registry, .entry = entry, .group = entry->group };
	memcpy(ret_hold->machine, m->name, sizeof(ret_hold->machine));
	memcpy(ret_hold->source, m->source, sizeof(ret_hold->source));
	return 0;
}

void registry_release(struct hold *hold)
{
	if (!hold->registry)
		return;
	struct registry *registry = hold->registry;
	SCOPED_LOCK(&registry->lock);
	hold->entry->holders--;
	pthread_cond_broadcast(&registry->changed);
	hold->registry = NULL;
}

bool hold_is_ending(const struct hold *hold)
{
	SCOPED_LOCK(&hold->registry->lock);
	return hold->entry->ending;
}

/* ── names and files ─────────────────────────────────────────────────────────────────────── */

char *registry_group_directory(const struct registry *registry, const char *group)
{
	char *path = NULL;
	return asprintf(&path, "%s/%s", registry->journal_dir, group) < 0 ? NULL : path;
}

char *registry_group_state_path(const struct registry *registry, const char *group)
{
	char *path = NULL;
	return asprintf(&path, "%s/groups/%s.json", registry->state_dir, group) < 0 ? NULL : path;
}

struct removal {
	struct io *io;
	const char *path;
};

static int remove_file(void *context, const char *name)
{
	struct removal *removal = context;
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = buf_printf(&path, "%s/%s", removal->path, name);
	return r == 0 ? io_unlink(removal->io, path.data) : r;
}

int registry_remove_directory(struct registry *registry, const char *path)
{
	struct removal removal = { registry->io, path };
	int r = io_list(registry->io, path, remove_file, &removal);
	if (r == -ENOENT)
		return 0;
	if (r == 0 && rmdir(path) < 0)
		r = -errno;
	return r;
}

int registry_add_group(struct registry *registry, const char *name, const struct uuid *id,
	const char *policy, struct error *error, struct group_entry **ret_entry)
{
	if (registry_find_group(registry, name))
		return error_set(error, -EEXIST, NULL, "there is a group %s already", name);
	struct group_entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	snprintf(entry->name, sizeof(entry->name), "%s", name);
	snprintf(entry->policy, sizeof(entry->policy), "%s", policy);
	entry->id = *id;
	SCOPED_LOCK(&registry->lock);
	entry->next = registry->groups;
	registry->groups = entry;
	*ret_entry = entry;
	return 0;
}

void registry_forget_group(struct registry *registry, struct group_entry *entry)
{
	pthread_mutex_lock(&registry->lock);
	struct group_entry **link = &registry->groups;
	while (*link != entry)
		link = &(*link)->next;
	*link = entry->next;
	pthread_mutex_unlock(&registry->lock);
	free(entry);
}

unsigned registry_count_machines(struct registry *registry, const struct group_entry *entry)
{
	unsigned count = 0;
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		count += m->group == entry;
	return count;
}

/* ── settings for the vault ──────────────────────────────────────────────────────────────── */

static int add_settings(
	struct registry *registry, const struct group_entry *entry, struct cJSON *root)
{
	struct cJSON *policy, *settings = NULL, *machines, *machine;
	struct policy_entry *p = registry_find_policy(registry, entry->policy);
	int r = json_add_u64(root, "format", SETTINGS_FORMAT);
	if (r == 0)
		r = json_add_object(root, "policy", &policy);
	if (r == 0)
		r = json_add_text(policy, "name", entry->policy);
	if (r == 0 && p)
		r = policy_to_json(p, &settings);
	if (r == 0 && p)
		r = json_add_item(policy, "settings", settings);
	if (r == 0)
		r = json_add_array(root, "machines", &machines);
	for (struct machine_entry *m = registry->machines; r == 0 && m; m = m->next) {
		if (m->group != entry || m->removing)
			continue;
		r = json_add_object(machines, NULL, &machine);
		if (r == 0)
			r = json_add_text(machine, "name", m->name);
		if (r == 0)
			r = json_add_text(machine, "source", m->source);
		if (r == 0)
			r = machine_aws_to_json(m, machine);
	}
	return r;
}

/* owner.json's settings of a group; the caller frees the text. Under change_lock. */
static int settings_of(struct registry *registry, const struct group_entry *entry, char **ret_text)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = json_new_object(&root);
	if (r == 0)
		r = add_settings(registry, entry, root);
	if (r == 0)
		r = json_print(root, false, &text);
	if (r == 0)
		*ret_text = TAKE(text.data);
	return r;
}

int registry_push_settings(
	struct registry *registry, struct group_entry *entry, struct error *error)
{
	CLEANUP_FREE char *settings = NULL;
	int r = settings_of(registry, entry, &settings);
	if (r < 0)
		return error_set(error, r, NULL, "group %s: its settings: %s", entry->name,
			strerrordesc_np(-r));
	return entry->group ? group_set_settings(entry->group, settings, error) : 0;
}

/* ── the mount ───────────────────────────────────────────────────────────────────────────── */

int registry_check_mount(struct registry *registry, struct error *error)
{
	struct error found = { 0 };
	bool restored = false;
	int r = mount_watch(registry->mount, &found, &restored);
	pthread_mutex_lock(&registry->lock);
	bool news = r != registry->mount_error.code;
	registry->mount_error = found;
	registry->mount_error.code = r;
	if (restored || (r < 0 && news))
		registry->mount_lost_ns = clock_realtime_ns(registry->clock);
	pthread_mutex_unlock(&registry->lock);
	if (r < 0 && news)
		log_error("%s", found.message);
	if (r < 0 && error)
		*error = found;
	return r;
}

void registry_show_machine(struct registry *registry, struct machine_entry *machine)
{
	struct committer *committer = group_committer(machine->group->group);
	if (machine->shown || machine->removing || !registry->mount || !committer)
		return;
	int r = mount_add_machine(
		registry->mount, machine->name, committer, strcmp(machine->source, "fuse") == 0);
	if (r < 0)
		log_error("machine %s cannot be shown in %s: %s", machine->name,
			registry->mount_path, strerrordesc_np(-r));
	machine->shown = r == 0;
}

void registry_hide_machine(struct registry *registry, struct machine_entry *machine)
{
	if (!machine->shown)
		return;
	int r = mount_remove_machine(registry->mount, machine->name);
	if (r < 0 && r != -ENOENT)
		log_error("machine %s cannot be taken out of %s: %s", machine->name,
			registry->mount_path, strerrordesc_np(-r));
	machine->shown = false;
}

/* ── opening ─────────────────────────────────────────────────────────────────────────────── */

static struct policy policy_of(struct registry *registry, const struct group_entry *entry)
{
	struct policy_entry *p = registry_find_policy(registry, entry->policy);
	if (p)
		return p->policy;
	struct policy policy;
	policy_default(&policy);
	log_warning("group %s: there is no policy %s any more; the built-in default is used",
		entry->name, entry->policy);
	return policy;
}

static uint64_t fair_share(struct registry *registry)
{
	unsigned count = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next)
		count++;
	return registry->journal_bytes / MAX(count, 1u);
}

static int add_missing_disks(struct registry *registry, struct group_entry *entry,
	struct group *group, struct error *error)
{
	for (struct machine_entry *m = registry->machines; m; m = m->next) {
		if (m->group != entry || m->removing)
			continue;
		for (unsigned i = 0; i < m->disk_count; i++) {
			char name[2 * REGISTRY_NAME_BYTES];
			snprintf(name, sizeof(name), "%s/%s", m->name, m->disks[i].id);
			int r = group_restore_disk(group, name, m->disks[i].size_bytes, error);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* Everything but `fuse` makes its points by itself. */
static bool source_seals(struct registry *registry, const struct group_entry *entry)
{
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		if (m->group == entry && !m->removing && strcmp(m->source, "fuse") != 0)
			return true;
	return false;
}

static bool source_unseen(struct registry *registry, const struct group_entry *entry)
{
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		if (m->group == entry && !m->removing && strcmp(m->source, "ebs") == 0)
			return true;
	return false;
}

static int new_group(struct registry *registry, struct group_entry *entry,
	struct vault_reading *import, struct error *error, struct group **ret_group)
{
	CLEANUP_FREE char *directory = registry_group_directory(registry, entry->name);
	CLEANUP_FREE char *state_path = registry_group_state_path(registry, entry->name);
	CLEANUP_FREE char *settings = NULL;
	if (!directory || !state_path || settings_of(registry, entry, &settings) < 0)
		return error_set(error, -ENOMEM, NULL, "group %s: out of memory", entry->name);
	struct group_options options = { .io = registry->io,
		.clock = registry->clock,
		.vault = registry->service,
		.cache = registry->cache,
		.name = entry->name,
		.directory = directory,
		.state_path = state_path,
		.appliance_name = registry->appliance_name,
		.id = entry->id,
		.appliance = registry->appliance,
		.journal_bytes = fair_share(registry),
		.policy = policy_of(registry, entry),
		.settings = settings,
		.paused = entry->paused,
		.source_seals = source_seals(registry, entry),
		.source_unseen = source_unseen(registry, entry),
		.import = import };
	struct group *group;
	int r = group_new(&options, error, &group);
	if (r < 0)
		return r;
	r = add_missing_disks(registry, entry, group, error);
	if (r < 0) {
		group_free(group);
		return r;
	}
	*ret_group = group;
	return 0;
}

static void raise_not_open(
	struct registry *registry, struct group_entry *entry, const struct error *error)
{
	struct alert_facts facts = { .machine = entry->name,
		.now_ns = clock_realtime_ns(registry->clock),
		.vault_configured = registry->service != NULL,
		.vault_initialized = true,
		.open_failed = true,
		.open_error = *error };
	SCOPED_LOCK(&registry->lock);
	entry->open_error = *error;
	alerts_evaluate(&facts, entry->alerts, &entry->alert_count);
	entry->retry_delay_ns = entry->retry_delay_ns
					? MIN(entry->retry_delay_ns * 2, RETRY_LONGEST_NS)
					: RETRY_FIRST_NS;
	entry->retry_mono_ns = clock_monotonic_ns(registry->clock) + entry->retry_delay_ns;
}

static void show_all(struct registry *registry, struct group_entry *entry)
{
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		if (m->group == entry)
			registry_show_machine(registry, m);
}

int registry_open_group(struct registry *registry, struct group_entry *entry,
	struct vault_reading *import, struct error *error)
{
	struct error reason = { 0 };
	struct group *group = NULL;
	int r = new_group(registry, entry, import, &reason, &group);
	if (r < 0) {
		log_error("group %s is not running: %s", entry->name, reason.message);
		raise_not_open(registry, entry, &reason);
		if (error)
			*error = reason;
		return r;
	}
	pthread_mutex_lock(&registry->lock);
	entry->group = group;
	entry->open_error = (struct error){ 0 };
	entry->alert_count = 0;
	entry->ending = false;
	entry->retry_delay_ns = 0;
	pthread_mutex_unlock(&registry->lock);
	show_all(registry, entry);
	return 0;
}

/* ── closing ─────────────────────────────────────────────────────────────────────────────── */

/* Takes everybody away who uses the group's history. */
static void empty_group(struct registry *registry, struct group_entry *entry)
{
	pthread_mutex_lock(&registry->lock);
	entry->ending = true;
	pthread_mutex_unlock(&registry->lock);
	if (entry->group)
		group_close_gate(entry->group);
	inspect_close_group(registry, entry);
	for (struct machine_entry *m = registry->machines; m; m = m->next)
		if (m->group == entry)
			registry_hide_machine(registry, m);
	clone_remove_all(registry, entry);
	SCOPED_LOCK(&registry->lock);
	while (entry->holders > 0)
		pthread_cond_wait(&registry->changed, &registry->lock);
}

void registry_close_group(struct registry *registry, struct group_entry *entry)
{
	if (!entry->group)
		return;
	empty_group(registry, entry);
	pthread_mutex_lock(&registry->lock);
	struct group *group = TAKE(entry->group);
	entry->ending = false;
	pthread_mutex_unlock(&registry->lock);
	group_free(group);
}

void registry_reopen_group(struct registry *registry, struct group_entry *entry)
{
	if (!entry->group) {
		(void)registry_open_group(registry, entry, NULL, NULL);
		return;
	}
	log_warning("group %s: its journal failed; it is closed and read again from the disk",
		entry->name);
	empty_group(registry, entry);
	struct error reason = { 0 };
	int r = group_reopen(entry->group, &reason);
	if (r < 0) {
		log_error("group %s is not running: %s", entry->name, reason.message);
		raise_not_open(registry, entry, &reason);
		SCOPED_LOCK(&registry->lock);
		entry->ending = false;
		return;
	}
	pthread_mutex_lock(&registry->lock);
	entry->open_error = (struct error){ 0 };
	entry->ending = false;
	/* A disk that fails every commit is not hammered. */
	entry->retry_delay_ns = entry->retry_delay_ns
					? MIN(entry->retry_delay_ns * 2, RETRY_LONGEST_NS)
					: RETRY_FIRST_NS;
	entry->retry_mono_ns = clock_monotonic_ns(registry->clock) + entry->retry_delay_ns;
	pthread_mutex_unlock(&registry->lock);
	show_all(registry, entry);
}

/* ── room ────────────────────────────────────────────────────────────────────────────────── */

void registry_share_journal(struct registry *registry)
{
	SCOPED_LOCK(&registry->lock);
	unsigned count = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next)
		count++;
	CLEANUP_FREE uint64_t *need = calloc(count + 1, sizeof(*need));
	CLEANUP_FREE uint64_t *limit = calloc(count + 1, sizeof(*limit));
	if (!need || !limit)
		return;
	unsigned i = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next, i++) {
		struct history_stats stats = { 0 };
		struct history *history = g->group ? group_history(g->group) : NULL;
		if (history && !g->ending)
			history_stats(history, &stats);
		need[i] = stats.used_bytes - MIN(stats.freeable_bytes, stats.used_bytes);
	}
	backpressure_share(registry->journal_bytes, need, count, limit);
	i = 0;
	for (struct group_entry *g = registry->groups; g; g = g->next, i++)
		if (g->group && !g->ending)
			group_set_limit(g->group, limit[i]);
}
