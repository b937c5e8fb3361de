/*
 * Every section and key of the configuration file but [policy NAME], whose keys are policy.h's.
 */
#include <stdbool.h>

#include "appliance/config.h"
#include "appliance/config_keys.h"
#include "common/bytes.h"

/* clang-format off */
/* NOLINTBEGIN(bugprone-macro-parentheses): a member's name cannot be in parentheses */
#define KEY(section, member, type) \
	{ #section, #member, type, offsetof(struct config, section.member), false }
/* NOLINTEND(bugprone-macro-parentheses) */
/* clang-format on */

const struct config_key config_keys[] = {
	KEY(appliance, state_dir, CONFIG_PATH),
	KEY(appliance, mount, CONFIG_PATH),
	KEY(appliance, control_socket, CONFIG_PATH),
	KEY(appliance, control_group, CONFIG_TEXT),
	KEY(appliance, listen, CONFIG_ADDRESS),
	{ "appliance", "log_level", CONFIG_LEVEL, offsetof(struct config, appliance.log_level),
		true },
	KEY(journal, dir, CONFIG_PATH),
	{ "journal", "size", CONFIG_SIZE, offsetof(struct config, journal.size_bytes), true },
	KEY(cache, file, CONFIG_PATH),
	{ "cache", "size", CONFIG_SIZE, offsetof(struct config, cache.size_bytes), false },
	KEY(vault, account, CONFIG_TEXT),
	KEY(vault, endpoint, CONFIG_URL),
	KEY(vault, container, CONFIG_TEXT),
	KEY(vault, auth, CONFIG_AUTH),
	KEY(vault, connection_string_file, CONFIG_SECRET),
	KEY(vault, key_file, CONFIG_SECRET),
	KEY(vault, sas_file, CONFIG_SECRET),
	KEY(vault, client_id, CONFIG_TEXT),
	KEY(vault, tenant_id, CONFIG_TEXT),
	KEY(vault, client_secret_file, CONFIG_SECRET),
	KEY(vault, federated_token_file, CONFIG_SECRET),
	KEY(vault, login_endpoint, CONFIG_URL),
	KEY(vault, imds_endpoint, CONFIG_URL),
	KEY(vault, proxy, CONFIG_URL),
	KEY(vault, proxy_credentials_file, CONFIG_SECRET),
	KEY(vault, no_proxy, CONFIG_TEXT),
	KEY(vault, ca_file, CONFIG_PATH),
	KEY(vault, blob_bandwidth, CONFIG_RATE),
	KEY(vault, blob_requests, CONFIG_COUNT),
	KEY(azure, subscription, CONFIG_TEXT),
	KEY(azure, resource_group, CONFIG_TEXT),
	KEY(azure, location, CONFIG_TEXT),
	KEY(azure, subnet, CONFIG_TEXT),
	KEY(azure, drill_subnet, CONFIG_TEXT),
	KEY(azure, drill_nsg, CONFIG_TEXT),
	KEY(azure, vm_size, CONFIG_TEXT),
	KEY(azure, arm_endpoint, CONFIG_URL),
	KEY(azure, login_endpoint, CONFIG_URL),
	KEY(local, qemu, CONFIG_PATH),
	{ "local", "memory", CONFIG_SIZE, offsetof(struct config, local.memory_bytes), false },
	KEY(local, cpus, CONFIG_TEXT),
	KEY(local, acceleration, CONFIG_TEXT),
	KEY(local, firmware, CONFIG_TEXT),
	KEY(local, disks, CONFIG_TEXT),
	KEY(local, network, CONFIG_TEXT),
	KEY(local, probe, CONFIG_TEXT),
	KEY(local, probe_timeout, CONFIG_TEXT),
	{ "local", "clone_quota", CONFIG_SIZE, offsetof(struct config, local.clone_quota_bytes),
		false },
	KEY(aws, region, CONFIG_REGION),
	KEY(aws, profile, CONFIG_TEXT),
	KEY(aws, role_arn, CONFIG_TEXT),
	KEY(aws, external_id, CONFIG_TEXT),
	KEY(aws, endpoint_ec2, CONFIG_URL),
	KEY(aws, endpoint_ebs, CONFIG_URL),
	KEY(aws, endpoint_sts, CONFIG_URL),
	KEY(aws, endpoint_imds, CONFIG_URL),
	KEY(aws, blocks_per_second, CONFIG_COUNT),
	KEY(aws, lists_per_second, CONFIG_COUNT),
	KEY(aws, calls_per_second, CONFIG_COUNT),
	KEY(aws, block_price, CONFIG_PRICE),
	KEY(aws, list_price, CONFIG_PRICE),
};

const unsigned config_key_count = ARRAY_SIZE(config_keys);
