/*
 * The names of everything in the vault:
 *
 *	vault.json                                identity, format version
 *	machines/<machine>/<disk>.vhd             page blob and its snapshots
 *	groups/<group>/owner.json                 which appliance owns it
 *	groups/<group>/points/<number>.json       manifests; the number in 20 digits, so that names
 *	                                          sort as numbers do
 *
 * Machines, disks and groups are named by one rule: 1 to 63 letters, digits, '.', '_' or '-'
 * of ASCII, beginning with a letter, a digit or '_'. Names differ by case as blobs do.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LAYOUT_NAME_MAX 63u
/* Room for any of the paths, with their NUL. */
#define LAYOUT_PATH_BYTES 192u
#define LAYOUT_VAULT "vault.json"
#define LAYOUT_MACHINES "machines/"
#define LAYOUT_GROUPS "groups/"

bool layout_name_is_valid(const char *name);

/* Each writes one path; the names must be valid. */
void layout_disk_path(
	const char *machine, const char *disk, char ret_path[static LAYOUT_PATH_BYTES]);
void layout_machine_prefix(const char *machine, char ret_path[static LAYOUT_PATH_BYTES]);
void layout_owner_path(const char *group, char ret_path[static LAYOUT_PATH_BYTES]);
void layout_point_path(const char *group, uint64_t number, char ret_path[static LAYOUT_PATH_BYTES]);
void layout_points_prefix(const char *group, char ret_path[static LAYOUT_PATH_BYTES]);

/* Each takes one path apart: 0, or -EINVAL if it is not of that kind; outputs are untouched
 * then. */
int layout_parse_disk(const char *path, char ret_machine[static LAYOUT_NAME_MAX + 1],
	char ret_disk[static LAYOUT_NAME_MAX + 1]);
int layout_parse_owner(const char *path, char ret_group[static LAYOUT_NAME_MAX + 1]);
int layout_parse_point(
	const char *path, char ret_group[static LAYOUT_NAME_MAX + 1], uint64_t *ret_number);
