/*
 * The job machine.remove: three steps, each safe to repeat, so that it is taken up again after a
 * crash and can be started once more after a failure.
 *
 *	stop      the machine's agent is let in no more, or its snapshots in AWS are deleted;
 *	          the machine leaves the mount;
 *	          of a group that lives on, its disks leave the points made from now on
 *	vault     the last machine's group is deleted there, unless the vault is kept
 *	journal   the last machine's journal is deleted; the names are forgotten
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/agents.h"
#include "replicator/ebs.h"
#include "replicator/ingest.h"
#include "replicator/registry_internal.h"
#include "replicator/twin_file.h"

static const char *subject_of(struct job *job)
{
	const struct cJSON *name = cJSON_GetObjectItemCaseSensitive(job_parameters(job), "name");
	return cJSON_IsString(name) ? name->valuestring : "";
}

/* NULL: gone already, which is what was wanted. */
static struct machine_entry *find(struct registry *registry, struct job *job)
{
	struct machine_entry *machine = registry_find_machine(registry, subject_of(job));
	return machine && machine->removing ? machine : NULL;
}

static bool is_last(struct registry *registry, const struct machine_entry *machine)
{
	return registry_count_machines(registry, machine->group) == 1;
}

/* Without change_lock, which whoever serves its connections may need to come back. */
/* What stays in AWS is told by the job. */
static int forget_instance(struct registry *registry, struct job *job, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *result = NULL;
	struct error left = { 0 };
	ebs_forget(registry->ebs, subject_of(job), &left);
	if (left.code == 0)
		return 0;
	int r = json_new_object(&result);
	if (r == 0)
		r = json_add_text(result, "left_in_aws", left.message);
	if (r == 0)
		r = job_set_result(job, TAKE(result));
	return r < 0 ? error_set(error, r, NULL, "%s", left.message) : 0;
}

static int forget_source(struct registry *registry, struct job *job, struct error *error)
{
	pthread_mutex_lock(&registry->change_lock);
	struct machine_entry *machine = find(registry, job);
	bool has_agent = machine && strcmp(machine->source, "agent") == 0;
	bool is_ebs = machine && strcmp(machine->source, "ebs") == 0;
	pthread_mutex_unlock(&registry->change_lock);
	int r = 0;
	if (has_agent && registry->agents)
		r = agents_forget_machine(registry->agents, subject_of(job), error);
	if (is_ebs && registry->ebs)
		r = forget_instance(registry, job, error);
	if (r == 0 && machine && registry->ingest)
		ingest_forget(registry->ingest, subject_of(job));
	return r;
}

static int step_stop(struct job *job, void *context, struct error *error)
{
	struct registry *registry = context;
	int r = forget_source(registry, job, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&registry->change_lock);
	struct machine_entry *machine = find(registry, job);
	if (!machine)
		return 0;
	registry_hide_machine(registry, machine);
	struct group_entry *entry = machine->group;
	if (is_last(registry, machine) || !entry->group)
		return 0;
	for (unsigned i = 0; i < machine->disk_count; i++) {
		char name[2 * REGISTRY_NAME_BYTES];
		snprintf(name, sizeof(name), "%s/%s", machine->name, machine->disks[i].id);
		r = group_remove_disk(entry->group, name, error);
		if (r < 0)
			return r;
	}
	return registry_push_settings(registry, entry, error);
}

/* Finds the group that is to go from the vault and holds it; *ret_entry NULL: there is none. */
static int begin_leaving(struct registry *registry, struct job *job, struct error *error,
	struct group_entry **ret_entry)
{
	SCOPED_LOCK(&registry->change_lock);
	*ret_entry = NULL;
	struct machine_entry *machine = find(registry, job);
	if (!machine || machine->keep_vault || !is_last(registry, machine) || !registry->service)
		return 0;
	struct group_entry *entry = machine->group;
	struct group_status status = { 0 };
	if (entry->group)
		group_status(entry->group, &status);
	if (status.taken_over)
		return 0; /* it is another appliance's now */
	if (!entry->group)
		return error_set(error, -EIO,
			"mend what keeps it from being opened, or remove it with --keep-vault",
			"group %s is not running, so it cannot be deleted from the vault",
			entry->name);
	SCOPED_LOCK(&registry->lock);
	entry->leaving = true;
	entry->holders++;
	*ret_entry = entry;
	return 0;
}

static void end_leaving(struct registry *registry, struct group_entry *entry)
{
	SCOPED_LOCK(&registry->lock);
	entry->leaving = false;
	entry->holders--;
	pthread_cond_broadcast(&registry->changed);
}

/* The vault may let us wait: nothing else waits for this. No machine can be added to the group
 * meanwhile, since one of its machines is being removed. */
static int step_vault(struct job *job, void *context, struct error *error)
{
	struct registry *registry = context;
	struct group_entry *entry;
	int r = begin_leaving(registry, job, error, &entry);
	if (r < 0 || !entry)
		return r;
	r = group_delete_vault(entry->group, job_stop_flag(job), error);
	end_leaving(registry, entry);
	return r == -ESTALE ? 0 : r;
}

static int step_journal(struct job *job, void *context, struct error *error)
{
	struct registry *registry = context;
	SCOPED_LOCK(&registry->change_lock);
	struct machine_entry *machine = find(registry, job);
	if (!machine)
		return 0;
	struct group_entry *entry = machine->group;
	bool last = is_last(registry, machine);
	if (last) {
		CLEANUP_FREE char *directory = registry_group_directory(registry, entry->name);
		CLEANUP_FREE char *state = registry_group_state_path(registry, entry->name);
		if (!directory || !state)
			return error_set(error, -ENOMEM, NULL, "out of memory");
		registry_close_group(registry, entry);
		int r = registry_remove_directory(registry, directory);
		if (r == 0)
			r = twin_remove(registry->io, state);
		if (r < 0)
			return error_set(error, r, "check the appliance's disk",
				"%s: cannot be removed: %s", directory, strerrordesc_np(-r));
	}
	machine_erase(registry, machine);
	if (last)
		registry_forget_group(registry, entry);
	return registry_save(registry, error);
}

static const struct job_step steps[] = {
	{ "stop", step_stop },
	{ "delete from the vault", step_vault },
	{ "delete the journal", step_journal },
};

int machine_register_jobs(struct registry *registry)
{
	static const struct job_kind kind = { .name = "machine.remove",
		.resumable = true,
		.steps = steps,
		.step_count = ARRAY_SIZE(steps) };
	return jobs_register(registry->jobs, &kind, registry);
}

static int check_unused(struct registry *registry, const char *name, struct error *error)
{
	SCOPED_LOCK(&registry->lock);
	unsigned clones = clone_count(registry, name), inspections = inspect_count(registry, name);
	if (clones + inspections == 0)
		return 0;
	return error_set(error, -EBUSY,
		"close them first: 'landfall inspect --close --all', 'landfall clone remove "
		"--all', "
		"'landfall drill cleanup ID'",
		"machine %s: %u inspections and %u clones are open", name, inspections, clones);
}

static int mark_removing(struct registry *registry, const char *name, bool keep_vault,
	bool removing, struct error *error)
{
	struct machine_entry *machine = registry_find_machine(registry, name);
	if (!machine)
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s", name);
	pthread_mutex_lock(&registry->lock);
	machine->removing = removing;
	machine->keep_vault = keep_vault;
	pthread_mutex_unlock(&registry->lock);
	return registry_save(registry, error);
}

/* One that is under way is not to find other wishes in the middle. */
static int check_under_way(struct registry *registry, const char *name, struct error *error)
{
	enum job_state state;
	struct error unused;
	if (jobs_newest(registry->jobs, "machine.remove", name, &state, &unused) < 0 ||
		(state != JOB_QUEUED && state != JOB_RUNNING))
		return 0;
	return error_set(error, -EBUSY, "'landfall job list' shows its job",
		"machine %s is being removed already", name);
}

int machine_start_removal(struct registry *registry, const char *name, bool keep_vault,
	struct error *error, uint64_t *ret_job)
{
	SCOPED_LOCK(&registry->change_lock);
	int r = check_unused(registry, name, error);
	if (r == 0)
		r = check_under_way(registry, name, error);
	if (r == 0)
		r = mark_removing(registry, name, keep_vault, true, error);
	if (r < 0)
		return r;
	CLEANUP(json_freep) struct cJSON *parameters = NULL;
	r = json_new_object(&parameters);
	if (r == 0)
		r = json_add_text(parameters, "name", name);
	if (r == 0)
		r = json_add_bool(parameters, "keep_vault", keep_vault);
	if (r == 0)
		r = jobs_start(registry->jobs, "machine.remove", name, parameters, error, ret_job);
	if (r == 0)
		parameters = NULL; /* taken over */
	return r;
}
