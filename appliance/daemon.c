/*
 * Putting the parts together.
 *
 * A lock on the state directory keeps a second daemon from the same journals, whatever sockets
 * they use. Nothing here runs in more than one thread; the parts have their own.
 */
#include "appliance/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/blob_azure.h"
#include "appliance/local_settings.h"
#include "appliance/target_local.h"
#include "common/buf.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "replicator/agents.h"
#include "replicator/control.h"
#include "replicator/drills.h"
#include "replicator/ebs.h"
#include "replicator/ingest.h"
#include "replicator/jobs.h"
#include "replicator/methods_job.h"
#include "replicator/registry.h"

#define JOBS_KEPT 500 /* ended ones */
#define TARGETS 1u    /* where machines can be started */

struct daemon {
	struct config *config; /* as started with; policies and sizes may have been reloaded */
	int state_lock;
	struct blob_service *vault;
	struct jobs *jobs;
	struct agents *agents;
	struct registry *registry;
	struct ingest *ingest;
	struct ebs *ebs;
	struct target *targets[TARGETS];
	struct drills *drills;
	struct control *control;
	bool listens;
	int listen_problem; /* told already */
};

/* The directory and what is missing above it; only the last is closed to others. */
static int make_directory(const char *path, struct error *error)
{
	CLEANUP_FREE char *part = strdup(path);
	if (!part)
		return error_set(error, -ENOMEM, NULL, "no memory");
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return error_set(error, -errno, "make it, or run as root",
				"cannot make directory %s: %s", part, strerrordesc_np(errno));
		*slash = '/';
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_set(error, -errno, "make it, or run as root",
			"cannot make directory %s: %s", path, strerrordesc_np(errno));
	return 0;
}

static int make_parent(const char *path, struct error *error)
{
	CLEANUP_FREE char *directory = strdup(path);
	if (!directory)
		return error_set(error, -ENOMEM, NULL, "no memory");
	char *slash = strrchr(directory, '/');
	if (!slash || slash == directory)
		return 0;
	*slash = '\0';
	return make_directory(directory, error);
}

static int lock_state(struct daemon *daemon, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	const char *directory = daemon->config->appliance.state_dir;
	if (buf_printf(&path, "%s/lock", directory) < 0)
		return error_set(error, -ENOMEM, NULL, "no memory");
	daemon->state_lock = open(path.data, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (daemon->state_lock < 0)
		return error_set(error, -errno, "check the directory's permissions",
			"cannot open %s: %s", path.data, strerrordesc_np(errno));
	if (flock(daemon->state_lock, LOCK_EX | LOCK_NB) < 0)
		return error_set(error, -EBUSY,
			"stop the other landfalld, or give this one another state_dir",
			"another landfalld uses %s", directory);
	return 0;
}

static int prepare_directories(struct daemon *daemon, struct error *error)
{
	const struct config *config = daemon->config;
	int r = make_directory(config->appliance.state_dir, error);
	if (r == 0)
		r = lock_state(daemon, error);
	if (r == 0)
		r = make_directory(config->journal.dir, error);
	if (r == 0 && config->cache.size_bytes > 0)
		r = make_parent(config->cache.file, error);
	if (r == 0)
		r = make_parent(config->appliance.mount, error);
	return r;
}

static int open_vault(struct daemon *daemon, struct error *error)
{
	const struct config_vault *vault = &daemon->config->vault;
	if (!vault->configured) {
		log_warning("no vault is configured: recovery points stay on this appliance");
		return 0;
	}
	int r = blob_azure_new(vault, clock_system(), error, &daemon->vault);
	if (r == 0)
		log_info("the vault is %s", daemon->vault->ops->name(daemon->vault));
	return r;
}

static int open_jobs(struct daemon *daemon, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = buf_printf(&path, "%s/jobs", daemon->config->appliance.state_dir);
	if (r == 0)
		r = jobs_new(io_posix(), clock_system(), path.data, JOBS_KEPT, &daemon->jobs);
	return r < 0 ? error_set(error, r, "see that the state directory's disk works",
			       "cannot read the jobs in %s: %s", path.data, strerrordesc_np(-r))
		     : 0;
}

static int open_registry(struct daemon *daemon, struct error *error)
{
	const struct config *config = daemon->config;
	const struct registry_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.state_dir = config->appliance.state_dir,
		.journal_dir = config->journal.dir,
		.mount_path = config->appliance.mount,
		.cache_path = config->cache.size_bytes > 0 ? config->cache.file : NULL,
		.journal_bytes = config->journal.size_bytes,
		.cache_bytes = config->cache.size_bytes,
		.vault = daemon->vault,
		.policies = config->policies,
		.policy_count = config->policy_count,
		.jobs = daemon->jobs,
		.agents = daemon->agents,
	};
	int r = registry_new(&options, error, &daemon->registry);
	return r == 0 ? ingest_new(daemon->registry, error, &daemon->ingest) : r;
}

static int open_ebs(struct daemon *daemon, struct error *error)
{
	const struct config_aws *aws = &daemon->config->aws;
	const struct ebs_options options = { .profile = aws->profile,
		.region = aws->region,
		.role_arn = aws->role_arn,
		.external_id = aws->external_id,
		.endpoint_ec2 = aws->endpoint_ec2,
		.endpoint_ebs = aws->endpoint_ebs,
		.endpoint_sts = aws->endpoint_sts,
		.endpoint_imds = aws->endpoint_imds,
		.blocks_per_s = aws->blocks_per_second,
		.lists_per_s = aws->lists_per_second,
		.calls_per_s = aws->calls_per_second,
		.block_price = aws->block_price,
		.list_price = aws->list_price };
	return ebs_new(daemon->registry, &options, error, &daemon->ebs);
}

static int open_drills(struct daemon *daemon, struct error *error)
{
	struct local_settings settings;
	const char *key;
	int r = local_settings_read(&daemon->config->local, error, &key, &settings);
	if (r == 0 && target_local_new(&settings, &daemon->targets[0]) < 0)
		r = error_set(error, -ENOMEM, NULL, "no memory");
	return r == 0 ? drills_new(
				daemon->registry, daemon->targets, TARGETS, error, &daemon->drills)
		      : r;
}

static int open_agents(struct daemon *daemon, struct error *error)
{
	const struct agents_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.state_dir = daemon->config->appliance.state_dir,
	};
	return agents_new(&options, error, &daemon->agents);
}

/* A port that another program has must not keep the rest from running: it is tried again. */
static void open_door(struct daemon *daemon)
{
	const struct agents_door door = {
		.address = daemon->config->appliance.listen,
		.may_enroll = registry_may_enroll,
		.context = daemon->registry,
		.sessions = ingest_sessions(daemon->ingest),
	};
	struct error error = { 0 };
	if (daemon->listens || strcmp(door.address, "none") == 0)
		return;
	int r = agents_listen(daemon->agents, &door, &error);
	daemon->listens = r == 0;
	if (r == 0)
		log_info("agents are answered on %s, port %u", door.address,
			agents_port(daemon->agents));
	else if (r != daemon->listen_problem)
		log_error("%s → %s", error.message, error.mend);
	daemon->listen_problem = r;
}

void daemon_upkeep(struct daemon *daemon)
{
	open_door(daemon);
}

/* All methods and kinds of jobs are there before the first call and the first job. */
static int open_control(struct daemon *daemon, struct error *error)
{
	const struct config_appliance *appliance = &daemon->config->appliance;
	int r = control_new(appliance->control_socket, appliance->control_group, &daemon->control);
	if (r == 0)
		r = registry_register(daemon->registry, daemon->control);
	if (r == 0)
		r = agents_register(daemon->agents, daemon->control);
	if (r == 0)
		r = ebs_register(daemon->ebs, daemon->control);
	if (r == 0)
		r = drills_register(daemon->drills, daemon->control);
	if (r == 0)
		r = methods_job_register(daemon->control, daemon->jobs);
	if (r == 0)
		r = jobs_resume(daemon->jobs);
	if (r < 0)
		return error_set(error, r, NULL, "cannot set up the control socket: %s",
			strerrordesc_np(-r));
	return control_start(daemon->control, error);
}

int daemon_new(struct config *config, struct error *error, struct daemon **ret_daemon)
{
	struct daemon *daemon = calloc(1, sizeof(*daemon));
	if (!daemon)
		return error_set(error, -ENOMEM, NULL, "no memory");
	daemon->state_lock = -1;
	daemon->config = config;
	int r = prepare_directories(daemon, error);
	if (r == 0)
		r = open_vault(daemon, error);
	if (r == 0)
		r = open_jobs(daemon, error);
	if (r == 0)
		r = open_agents(daemon, error);
	if (r == 0)
		r = open_registry(daemon, error);
	if (r == 0)
		r = open_ebs(daemon, error);
	if (r == 0)
		r = open_drills(daemon, error);
	if (r == 0)
		r = open_control(daemon, error);
	if (r == 0)
		open_door(daemon);
	if (r < 0) {
		daemon->config = NULL; /* stays the caller's */
		daemon_free(daemon);
		return r;
	}
	*ret_daemon = daemon;
	return 0;
}

int daemon_reload(struct daemon *daemon, struct error *error)
{
	struct config *config;
	int r = config_load(daemon->config->path, error, &config);
	if (r < 0)
		return r;
	r = registry_reload(daemon->registry, config->journal.size_bytes, config->policies,
		config->policy_count, error);
	if (r == 0) {
		CLEANUP_FREE char *differences = config_fixed_differences(daemon->config, config);
		log_set_level(config->appliance.log_level);
		log_info("the configuration is read again: %u policies", config->policy_count);
		if (differences)
			log_warning("changed, but only a restart takes it up: %s", differences);
	}
	config_free(config);
	return r;
}

/* Jobs use the registry, and the registry starts jobs: so they are stopped before it goes, and
 * freed after it. What waits for the vault would hold all of it up for half a minute: it is ended
 * first, and so that jobs take it for what it is they are told before. */
void daemon_free(struct daemon *daemon)
{
	if (!daemon)
		return;
	if (daemon->jobs)
		jobs_begin_stop(daemon->jobs);
	blob_azure_stop(daemon->vault);
	ebs_begin_stop(daemon->ebs);
	drills_begin_stop(daemon->drills);
	control_free(daemon->control);
	if (daemon->jobs)
		jobs_stop(daemon->jobs);
	if (daemon->agents)
		agents_stop(daemon->agents);
	drills_free(daemon->drills);
	for (unsigned i = 0; i < TARGETS; i++)
		target_local_free(daemon->targets[i]);
	ebs_free(daemon->ebs);
	ingest_free(daemon->ingest);
	registry_free(daemon->registry);
	jobs_free(daemon->jobs);
	agents_free(daemon->agents);
	blob_azure_free(daemon->vault);
	cleanup_close(&daemon->state_lock);
	config_free(daemon->config);
	free(daemon);
}
