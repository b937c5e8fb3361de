/*
 * The names of blobs and objects in the vault's container. vault.h draws the layout; this is the
 * only place that spells it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define VAULT_NAME_BYTES 256
#define VAULT_IDENTITY_NAME "vault.json"
#define VAULT_GROUPS_PREFIX "groups/"
#define VAULT_MACHINES_PREFIX "machines/"

/* `disk` is "<machine>/<disk>". */
void vault_blob_name(const char *disk, char ret_name[static VAULT_NAME_BYTES]);
/* What all blobs of a machine begin with. */
void vault_machine_prefix(const char *machine, char ret_name[static VAULT_NAME_BYTES]);
void vault_owner_name(const char *group, char ret_name[static VAULT_NAME_BYTES]);
void vault_points_prefix(const char *group, char ret_name[static VAULT_NAME_BYTES]);
void vault_manifest_name(
	const char *group, uint64_t number, char ret_name[static VAULT_NAME_BYTES]);
void vault_hashes_name(const char *group, uint64_t number, char ret_name[static VAULT_NAME_BYTES]);

struct drained_part;
void vault_drained_name(const char *group, uint64_t number, const struct drained_part *part,
	char ret_name[static VAULT_NAME_BYTES]);
/* True for the name of a part; its bytes and digest are not told. */
bool vault_drained_of_name(
	const char *group, const char *name, uint64_t *ret_number, struct drained_part *ret_part);

/* What a name below the group's points prefix is: true and its number for `<number>.json`
 * (ret_hashes false) and `<number>.hashes` (true); false for anything else. */
bool vault_point_of_name(
	const char *group, const char *name, uint64_t *ret_number, bool *ret_hashes);
/* "groups/<group>/owner.json" → "<group>"; false for any other name. */
bool vault_group_of_name(const char *name, char ret_group[static 64]);

/* 0 or -EINVAL: 1 … 63 of [A-Za-z0-9._-], not beginning with a dot or dash: safe in a URL, a
 * path and a message. `slash` allows the one of "<machine>/<disk>". */
int vault_check_name(const char *name, bool slash);
