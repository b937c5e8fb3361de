/*
 * Everything one appliance protects: machines, groups, policies, and the mount that shows them.
 *
 * The registry is the appliance's memory of what it was told: `state/registry.json`, replaced
 * whole and checksummed at every change, before the change is answered. What the vault needs for
 * a takeover is written to the groups' owner.json as well.
 *
 * All functions may be called from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "fs/mount.h"
#include "replicator/blob.h"
#include "replicator/group.h"
#include "replicator/jobs.h"
#include "replicator/policy.h"

struct agents;
struct cJSON;
struct control;
struct registry;

struct registry_options {
	struct io *io;
	struct clock_source *clock;
	const char *state_dir, *journal_dir, *mount_path, *cache_path;
	uint64_t journal_bytes, cache_bytes;
	struct blob_service *vault;    /* NULL: none configured */
	const struct policy *policies; /* from the configuration file; they win over stored ones */
	unsigned policy_count;
	struct jobs *jobs;
	struct agents *agents; /* whose certificates end with a removed machine; NULL: none */
};

/* Opens every group and mounts. A group that cannot be opened is shown with its alert and does
 * not keep the others from running. */
int registry_new(const struct registry_options *options, struct error *error,
	struct registry **ret_registry);
/* Seals nothing, commits everything staged, unmounts. */
void registry_free(struct registry *registry);

/* A reload of the configuration: another total for the journals, other policies. Policies that the
 * file no longer names stay as they are until they are set otherwise. -EINVAL changes nothing. */
int registry_reload(struct registry *registry, uint64_t journal_bytes,
	const struct policy *policies, unsigned policy_count, struct error *error);

/* May a machine of that name enrol? Only one that is protected by an agent. Matches
 * agents_may_enroll; the registry is the context. */
int registry_may_enroll(void *registry, const char *machine, struct error *error);

/* Registers the methods status, machine.*, point.*, inspect.*, verify, policy.*, vault.*,
 * metrics with the control socket and their job kinds with jobs. SOCKET.md tells parameters and
 * results. */
int registry_register(struct registry *registry, struct control *control);
