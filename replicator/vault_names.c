/*
 * See vault_names.h. Point numbers stand without leading zeros, so the service's order of names
 * is not their order: who lists sorts.
 */
#include "replicator/vault_names.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "replicator/drained_format.h"
#include "replicator/sealed_json.h"

void vault_blob_name(const char *disk, char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES, "machines/%s.vhd", disk);
}

void vault_machine_prefix(const char *machine, char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES, "machines/%s/", machine);
}

void vault_owner_name(const char *group, char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES, VAULT_GROUPS_PREFIX "%s/owner.json", group);
}

void vault_points_prefix(const char *group, char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES, VAULT_GROUPS_PREFIX "%s/points/", group);
}

void vault_manifest_name(const char *group, uint64_t number, char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES, VAULT_GROUPS_PREFIX "%s/points/%" PRIu64 ".json",
		group, number);
}

void vault_hashes_name(const char *group, uint64_t number, char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES, VAULT_GROUPS_PREFIX "%s/points/%" PRIu64 ".hashes",
		group, number);
}

void vault_drained_name(const char *group, uint64_t number, const struct drained_part *part,
	char ret_name[static VAULT_NAME_BYTES])
{
	snprintf(ret_name, VAULT_NAME_BYTES,
		VAULT_GROUPS_PREFIX "%s/points/%" PRIu64 ".%" PRIu64 "-%" PRIu64 "-%" PRIu64
				    ".drained",
		group, number, part->generation, part->from, part->to);
}

bool vault_drained_of_name(
	const char *group, const char *name, uint64_t *ret_number, struct drained_part *ret_part)
{
	char prefix[VAULT_NAME_BYTES], back[VAULT_NAME_BYTES];
	struct drained_part part = { 0 };
	uint64_t number;
	vault_points_prefix(group, prefix);
	if (strncmp(name, prefix, strlen(prefix)) != 0 ||
		sscanf(name + strlen(prefix), "%" SCNu64 ".%" SCNu64 "-%" SCNu64 "-%" SCNu64,
			&number, &part.generation, &part.from, &part.to) != 4)
		return false;
	vault_drained_name(group, number, &part, back);
	if (strcmp(back, name) != 0)
		return false;
	*ret_number = number;
	*ret_part = part;
	return true;
}

bool vault_point_of_name(
	const char *group, const char *name, uint64_t *ret_number, bool *ret_hashes)
{
	char prefix[VAULT_NAME_BYTES], digits[24];
	uint64_t number;
	vault_points_prefix(group, prefix);
	if (strncmp(name, prefix, strlen(prefix)) != 0)
		return false;
	name += strlen(prefix);
	size_t n = strcspn(name, ".");
	if (n >= sizeof(digits))
		return false;
	memcpy(digits, name, n);
	digits[n] = '\0';
	bool hashes = strcmp(name + n, ".hashes") == 0;
	if ((!hashes && strcmp(name + n, ".json") != 0) || text_to_u64(digits, &number) < 0 ||
		digits[0] == '0')
		return false;
	*ret_number = number;
	*ret_hashes = hashes;
	return true;
}

bool vault_group_of_name(const char *name, char ret_group[static 64])
{
	if (strncmp(name, VAULT_GROUPS_PREFIX, strlen(VAULT_GROUPS_PREFIX)) != 0)
		return false;
	name += strlen(VAULT_GROUPS_PREFIX);
	size_t n = strcspn(name, "/");
	if (n == 0 || n >= 64 || strcmp(name + n, "/owner.json") != 0)
		return false;
	memcpy(ret_group, name, n);
	ret_group[n] = '\0';
	return true;
}

int vault_check_name(const char *name, bool slash)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	size_t n = strlen(name);
	if (n == 0 || n > 63)
		return -EINVAL;
	for (;;) {
		size_t part = strspn(name, allowed);
		if (part == 0 || name[0] == '.' || name[0] == '-')
			return -EINVAL;
		name += part;
		if (!*name)
			return slash ? -EINVAL : 0;
		if (*name != '/' || !slash)
			return -EINVAL;
		slash = false;
		name++;
	}
}
