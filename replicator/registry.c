/*
 * The registry's life, and the thread that looks after what nobody else does.
 *
 * Order at the start: the file, what a killed daemon left mounted, cache, mount, groups, upkeep;
 * at the end backwards. A group that cannot be opened is shown with its alert and tried again by
 * the upkeep thread, which also opens groups whose journal failed once more, shares the room for
 * journals, and watches the appliance's own disk: once a second.
 */
#include "replicator/registry.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "replicator/agents.h"
#include "replicator/ebs.h"
#include "replicator/ingest.h"
#include "replicator/registry_internal.h"

#define UPKEEP_NS NS_PER_S
#define ASK_VAULT_NS (15 * NS_PER_S)
#define LOST_TOLD_NS (3600 * NS_PER_S) /* how long a mount that was lost is told of */

/* ── upkeep ──────────────────────────────────────────────────────────────────────────────── */

static bool needs_reopening(struct registry *registry, struct group_entry *entry)
{
	bool broken = !entry->group || group_failed(entry->group);
	SCOPED_LOCK(&registry->lock);
	return broken && !entry->leaving &&
	       clock_monotonic_ns(registry->clock) >= entry->retry_mono_ns;
}

static void reopen_what_failed(struct registry *registry)
{
	SCOPED_LOCK(&registry->change_lock);
	for (struct group_entry *g = registry->groups; g && !registry->stopping; g = g->next)
		if (needs_reopening(registry, g))
			registry_reopen_group(registry, g);
}

/* While there is no group nobody else asks the vault. It may take as long as a request is tried;
 * nothing else waits for this thread then. */
static void ask_vault(struct registry *registry)
{
	int64_t now = clock_monotonic_ns(registry->clock);
	pthread_mutex_lock(&registry->lock);
	bool due = registry->service && !registry->groups && now >= registry->vault_ask_mono_ns;
	if (due)
		registry->vault_ask_mono_ns = now + ASK_VAULT_NS;
	pthread_mutex_unlock(&registry->lock);
	if (!due)
		return;
	struct vault_identity identity;
	struct blob_store *store;
	struct error error = { 0 };
	int r = registry->service->ops->open_store(registry->service, NULL, &error, &store);
	if (r == 0) {
		r = vault_open(store, &error, &identity);
		store->ops->free(store);
	}
	SCOPED_LOCK(&registry->lock);
	registry->vault_asked = true;
	registry->vault_error = r < 0 ? error : (struct error){ 0 };
}

static void watch_appliance(struct registry *registry)
{
	int64_t now_ns = clock_realtime_ns(registry->clock);
	uint64_t free_bytes = 0, used = 0;
	int r = io_free_bytes(registry->io, registry->journal_dir, &free_bytes);
	struct error agents_error = { 0 };
	if (registry->agents)
		(void)agents_problem(registry->agents, &agents_error);
	SCOPED_LOCK(&registry->lock);
	if (r == 0)
		registry->journal_free_bytes = free_bytes;
	unsigned machines = 0, agents = 0;
	for (struct machine_entry *m = registry->machines; m; m = m->next) {
		machines++;
		agents += strcmp(m->source, "agent") == 0;
	}
	struct error state_fault = registry->state_fault;
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		struct history_stats stats = { 0 };
		if (g->group && !g->ending && state_fault.code == 0)
			(void)group_state_fault(g->group, &state_fault);
		struct history *history = g->group && !g->ending ? group_history(g->group) : NULL;
		if (history)
			history_stats(history, &stats);
		used += stats.used_bytes;
	}
	struct appliance_facts facts = { .now_ns = now_ns,
		.vault_configured = registry->service != NULL,
		.vault_error = registry->vault_error,
		.machine_count = machines,
		.journal_directory = registry->journal_dir,
		.journal_free_bytes = registry->journal_free_bytes,
		.journal_limit_bytes = registry->journal_bytes,
		.journal_used_bytes = used,
		.cache_error = registry->cache_error,
		.cache_path = registry->cache_path,
		.agent_machine_count = agents,
		.agents_error = agents_error,
		.state_fault = state_fault,
		.mount_path = registry->mount_path,
		.mount_error = registry->mount_error };
	if (registry->agents && facts.state_fault.code == 0)
		(void)agents_fault(registry->agents, &facts.state_fault);
	if (registry->mount_lost_ns > 0 && now_ns - registry->mount_lost_ns < LOST_TOLD_NS)
		facts.mount_lost_ns = registry->mount_lost_ns;
	alerts_evaluate_appliance(&facts, registry->alerts, &registry->alert_count);
}

/* The first that ends before it was renewed. */
static void find_certificate(
	struct registry *registry, const char *machine, struct group_certificate *ret_certificate)
{
	int64_t ends_ns;
	bool overdue = false;
	if (!registry->agents ||
		!agents_certificate_ends(registry->agents, machine, &ends_ns, &overdue) ||
		!overdue || (ret_certificate->ends_ns > 0 && ret_certificate->ends_ns <= ends_ns))
		return;
	snprintf(ret_certificate->machine, sizeof(ret_certificate->machine), "%s", machine);
	ret_certificate->ends_ns = ends_ns;
}

/* What fails at a machine, if anything does. Under lock. */
static bool has_trouble(
	struct registry *registry, const struct machine_entry *m, struct group_trouble *ret_trouble)
{
	if (strcmp(m->source, "agent") == 0)
		return registry->ingest && ingest_trouble(registry->ingest, m->name, ret_trouble);
	return strcmp(m->source, "ebs") == 0 && registry->ebs &&
	       ebs_trouble(registry->ebs, m->name, ret_trouble);
}

/* Its machines', the worst first: one whose agent is away, one that fails. Under lock. */
static void find_trouble(struct registry *registry, const struct group_entry *group,
	struct group_trouble *ret_trouble, struct group_certificate *ret_certificate,
	struct group_warnings *ret_warnings)
{
	*ret_trouble = (struct group_trouble){ 0 };
	*ret_warnings = (struct group_warnings){ 0 };
	*ret_certificate = (struct group_certificate){ 0 };
	for (struct machine_entry *m = registry->machines; m; m = m->next) {
		struct group_trouble trouble;
		if (m->group != group || m->removing)
			continue;
		if (strcmp(m->source, "agent") == 0)
			find_certificate(registry, m->name, ret_certificate);
		if (strcmp(m->source, "agent") == 0 && registry->ingest)
			ingest_warnings(registry->ingest, m->name, ret_warnings);
		if (!has_trouble(registry, m, &trouble))
			continue;
		if (ret_trouble->machine[0] == '\0' ||
			(trouble.away_since_ns > 0 && ret_trouble->away_since_ns == 0))
			*ret_trouble = trouble;
	}
}

/* The first of its machines whose disks are compared whole. Under lock. */
static void find_comparison(struct registry *registry, const struct group_entry *group,
	struct group_comparison *ret_comparison)
{
	for (struct machine_entry *m = registry->machines; registry->ebs && m; m = m->next)
		if (m->group == group && !m->removing && strcmp(m->source, "ebs") == 0 &&
			ebs_comparison(registry->ebs, m->name, ret_comparison))
			return;
}

static void watch_sources(struct registry *registry)
{
	SCOPED_LOCK(&registry->lock);
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		struct group_trouble trouble;
		struct group_certificate certificate;
		struct group_warnings warnings;
		if (!g->group || g->ending)
			continue;
		find_trouble(registry, g, &trouble, &certificate, &warnings);
		group_set_trouble(g->group, &trouble, &certificate, &warnings);
		struct group_comparison comparison = { 0 };
		find_comparison(registry, g, &comparison);
		group_set_comparison(g->group, &comparison);
	}
}

static void watch_machines(struct registry *registry)
{
	SCOPED_LOCK(&registry->lock);
	machines_watch(registry);
}

static void *upkeep_main(void *argument)
{
	struct registry *registry = argument;
	pthread_mutex_lock(&registry->lock);
	while (!registry->stopping) {
		pthread_mutex_unlock(&registry->lock);
		reopen_what_failed(registry);
		registry_share_journal(registry);
		(void)registry_check_mount(registry, NULL);
		watch_appliance(registry);
		watch_sources(registry);
		watch_machines(registry);
		ask_vault(registry);
		int64_t until = clock_monotonic_ns(registry->clock) + UPKEEP_NS;
		struct timespec at = { .tv_sec = until / NS_PER_S,
			.tv_nsec = (long)(until % NS_PER_S) };
		pthread_mutex_lock(&registry->lock);
		while (!registry->stopping &&
			pthread_cond_timedwait(&registry->changed, &registry->lock, &at) == 0)
			;
	}
	pthread_mutex_unlock(&registry->lock);
	return NULL;
}

static int start_upkeep(struct registry *registry)
{
	int r = -pthread_create(&registry->upkeep_thread, NULL, upkeep_main, registry);
	registry->upkeep_runs = r == 0;
	return r;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static struct registry *make(const struct registry_options *options)
{
	struct registry *registry = calloc(1, sizeof(*registry));
	if (!registry)
		return NULL;
	registry->io = options->io;
	registry->clock = options->clock;
	registry->service = options->vault;
	registry->jobs = options->jobs;
	registry->agents = options->agents;
	registry->journal_bytes = options->journal_bytes;
	registry->started_ns = clock_realtime_ns(options->clock);
	registry->state_dir = strdup(options->state_dir);
	registry->journal_dir = strdup(options->journal_dir);
	registry->mount_path = strdup(options->mount_path);
	registry->cache_path = options->cache_path ? strdup(options->cache_path) : NULL;
	if (asprintf(&registry->file_path, "%s/registry.json", options->state_dir) < 0)
		registry->file_path = NULL;
	if (gethostname(registry->appliance_name, sizeof(registry->appliance_name) - 1) < 0)
		strcpy(registry->appliance_name, "unknown");
	pthread_mutex_init(&registry->change_lock, NULL);
	pthread_mutex_init(&registry->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&registry->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return registry;
}

static void release(struct registry *registry)
{
	while (registry->machines)
		machine_erase(registry, registry->machines);
	while (registry->groups)
		registry_forget_group(registry, registry->groups);
	while (registry->policies) {
		struct policy_entry *p = registry->policies;
		registry->policies = p->next;
		free(p);
	}
	pthread_cond_destroy(&registry->changed);
	pthread_mutex_destroy(&registry->lock);
	pthread_mutex_destroy(&registry->change_lock);
	free(registry->file_path);
	free(registry->cache_path);
	free(registry->mount_path);
	free(registry->journal_dir);
	free(registry->state_dir);
	free(registry);
}

static int make_directory(struct registry *registry, const char *path, struct error *error)
{
	int r = io_make_dir(registry->io, path);
	if (r < 0 && r != -EEXIST)
		return error_set(error, r, "make it, or its parent, with rights for landfalld",
			"%s: cannot be made: %s", path, strerrordesc_np(-r));
	return 0;
}

static int make_directories(struct registry *registry, struct error *error)
{
	CLEANUP(buf_free) struct buf groups = { 0 };
	int r = buf_printf(&groups, "%s/groups", registry->state_dir);
	if (r == 0)
		r = make_directory(registry, registry->state_dir, error);
	if (r == 0)
		r = make_directory(registry, groups.data, error);
	if (r == 0)
		r = make_directory(registry, registry->journal_dir, error);
	return r;
}

static int load_policies(struct registry *registry, const struct policy *policies, unsigned count)
{
	struct policy policy;
	policy_default(&policy);
	int r = registry_put_policy(registry, &policy, POLICY_BUILT_IN);
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = registry_put_policy(registry, &policies[i], POLICY_CONFIGURED);
	return r;
}

/* Without a cache everything works, slower: no reason not to start. */
static void open_cache(struct registry *registry, uint64_t bytes)
{
	if (!registry->service || !registry->cache_path || bytes == 0)
		return;
	int r = cache_new(registry->io, registry->cache_path, bytes, &registry->cache);
	if (r == 0)
		return;
	error_set(&registry->cache_error, r, NULL, "%s: %s", registry->cache_path,
		strerrordesc_np(-r));
	log_warning("running without a read cache: %s", registry->cache_error.message);
}

static int open_mount(struct registry *registry, struct error *error)
{
	struct mount_options options = { .path = registry->mount_path,
		.allow_other = geteuid() == 0 };
	return mount_new(&options, error, &registry->mount);
}

static void open_groups(struct registry *registry)
{
	for (struct group_entry *g = registry->groups; g; g = g->next)
		(void)registry_open_group(registry, g, NULL, NULL);
}

static int start(
	struct registry *registry, const struct registry_options *options, struct error *error)
{
	SCOPED_LOCK(&registry->change_lock);
	int r = make_directories(registry, error);
	if (r == 0)
		r = load_policies(registry, options->policies, options->policy_count);
	if (r == 0)
		r = registry_load(registry, error);
	if (r < 0)
		return r;
	inspect_clean_stale(registry);
	open_cache(registry, options->cache_bytes);
	r = open_mount(registry, error);
	if (r < 0)
		return r;
	open_groups(registry);
	return start_upkeep(registry);
}

int registry_new(
	const struct registry_options *options, struct error *error, struct registry **ret_registry)
{
	struct registry *registry = make(options);
	if (!registry || !registry->state_dir || !registry->journal_dir || !registry->mount_path ||
		!registry->file_path) {
		if (registry)
			release(registry);
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	struct error reason = { 0 };
	int r = start(registry, options, &reason);
	if (r < 0) {
		if (reason.code == 0)
			error_set(&reason, r, NULL, "starting: %s", strerrordesc_np(-r));
		if (error)
			*error = reason;
		registry_free(registry);
		return r;
	}
	*ret_registry = registry;
	return 0;
}

void registry_free(struct registry *registry)
{
	if (!registry)
		return;
	pthread_mutex_lock(&registry->lock);
	registry->stopping = true;
	pthread_cond_broadcast(&registry->changed);
	pthread_mutex_unlock(&registry->lock);
	if (registry->upkeep_runs)
		pthread_join(registry->upkeep_thread, NULL);
	pthread_mutex_lock(&registry->change_lock);
	/* All at once, so that they wait for what is under way side by side. */
	for (struct group_entry *g = registry->groups; g; g = g->next)
		if (g->group)
			group_begin_stop(g->group);
	for (struct group_entry *g = registry->groups; g; g = g->next)
		registry_close_group(registry, g);
	pthread_mutex_unlock(&registry->change_lock);
	mount_free(registry->mount);
	cache_free(registry->cache);
	release(registry);
}

/* ── reload ──────────────────────────────────────────────────────────────────────────────── */

int registry_reload(struct registry *registry, uint64_t journal_bytes,
	const struct policy *policies, unsigned policy_count, struct error *error)
{
	for (unsigned i = 0; i < policy_count; i++) {
		int r = policy_check(&policies[i], error);
		if (r < 0)
			return r;
	}
	SCOPED_LOCK(&registry->change_lock);
	for (unsigned i = 0; i < policy_count; i++) {
		int r = registry_put_policy(registry, &policies[i], POLICY_CONFIGURED);
		if (r < 0)
			return error_set(error, r, NULL, "policy %s: %s", policies[i].name,
				strerrordesc_np(-r));
	}
	pthread_mutex_lock(&registry->lock);
	registry->journal_bytes = journal_bytes;
	pthread_mutex_unlock(&registry->lock);
	for (struct group_entry *g = registry->groups; g; g = g->next) {
		struct policy_entry *p = registry_find_policy(registry, g->policy);
		if (!p || !g->group)
			continue;
		group_set_policy(g->group, &p->policy);
		int r = registry_push_settings(registry, g, error);
		if (r < 0)
			return r;
	}
	registry_share_journal(registry);
	return 0;
}

/* ── the socket ──────────────────────────────────────────────────────────────────────────── */

int registry_register(struct registry *registry, struct control *control)
{
	static int (*const parts[])(struct registry *, struct control *) = {
		methods_status_register,
		methods_machine_register,
		methods_point_register,
		methods_clone_register,
		methods_policy_register,
		methods_vault_register,
		methods_inspect_register,
		methods_verify_register,
		methods_metrics_register,
	};
	int r = 0;
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(parts); i++)
		r = parts[i](registry, control);
	return r;
}
