/*
 * The configuration file, /etc/landfall/landfall.conf: read whole, checked whole, typed.
 *
 * landfall.conf(5) tells every section and key. What is unknown, set twice, empty or out of range
 * is an error that names the file and the line. Secrets are never in the file: it names files
 * that hold them, or systemd credentials ($CREDENTIALS_DIRECTORY). AZURE_STORAGE_CONNECTION_STRING
 * overrides where the [vault] is and how it is asked.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/log.h"
#include "replicator/policy.h"

#define CONFIG_DEFAULT_PATH "/etc/landfall/landfall.conf"

enum config_auth {
	CONFIG_AUTH_NONE, /* not said: a connection string, or no vault */
	CONFIG_AUTH_SHARED_KEY,
	CONFIG_AUTH_SAS,
	CONFIG_AUTH_MANAGED_IDENTITY,
	CONFIG_AUTH_CLIENT_SECRET,
	CONFIG_AUTH_WORKLOAD_IDENTITY,
};

/* Owned strings; NULL: not set and without a default. */
struct config {
	char *path;

	struct config_appliance {
		char *state_dir, *mount, *control_socket, *control_group, *listen;
		enum log_level log_level;
	} appliance;

	struct config_journal {
		char *dir;
		uint64_t size_bytes;
	} journal;

	struct config_cache {
		char *file;
		uint64_t size_bytes; /* 0: no cache */
	} cache;

	struct config_vault {
		bool configured;
		char *connection_string; /* a secret: from file, credential or environment */
		char *account, *endpoint, *container;
		enum config_auth auth;
		char *connection_string_file, *key_file, *sas_file;
		char *client_id, *tenant_id, *client_secret_file, *federated_token_file;
		char *login_endpoint, *imds_endpoint;
		char *proxy, *proxy_credentials_file, *no_proxy, *ca_file;
		uint64_t blob_bandwidth, blob_requests; /* a second, of one blob; 0: no limit */
	} vault;

	/* For the failover to Azure and the sources in AWS. */
	struct config_azure {
		char *subscription, *resource_group, *location, *subnet, *drill_subnet, *drill_nsg;
		char *vm_size, *arm_endpoint, *login_endpoint;
	} azure;
	/* For machines started on the appliance itself; local_settings.h has it checked, with its
	 * defaults. */
	struct config_local {
		char *qemu, *cpus, *acceleration, *firmware, *disks, *network;
		char *probe, *probe_timeout;
		uint64_t memory_bytes, clone_quota_bytes; /* 0: the default */
	} local;
	struct config_aws {
		char *region, *profile, *role_arn, *external_id;
		char *endpoint_ec2, *endpoint_ebs, *endpoint_sts, *endpoint_imds;
		uint64_t blocks_per_second, lists_per_second, calls_per_second; /* 0: no limit */
		uint64_t block_price, list_price; /* billionths of a dollar for 1000 requests */
	} aws;

	struct policy *policies; /* owned */
	unsigned policy_count;
};

/* Reads and checks; -ENOENT, -EACCES, -EINVAL … with `error` naming file and line. The secrets'
 * files must be there and readable, but only the connection string is read. */
int config_load(const char *path, struct error *error, struct config **ret_config);
/* Wipes what is secret. NULL is fine. */
void config_free(struct config *config);

/* Reads the secret in `file` (its first line, without white space around it) into memory the
 * caller wipes and frees. -EINVAL: empty. A name without a slash is a systemd credential. */
int config_read_secret(const char *file, struct error *error, char **ret_secret);
/* Where that file is: `file` itself or, for a name without a slash, in $CREDENTIALS_DIRECTORY. */
int config_secret_path(const char *file, struct error *error, char **ret_path);

/* Names what differs and cannot change while the daemon runs, for a message: "[journal] dir, …".
 * NULL: nothing. The caller frees it. */
char *config_fixed_differences(const struct config *old, const struct config *new);
