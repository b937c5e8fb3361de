/*
 * Paths are made and read by the same few rules; whatever a parser accepts, the maker of that
 * path gives back letter for letter.
 */
#include "azureblob/layout.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

static_assert(
	sizeof("groups//points/18446744073709551615.json") + LAYOUT_NAME_MAX <= LAYOUT_PATH_BYTES,
	"room for a point");
static_assert(
	sizeof("machines//.vhd") + 2 * LAYOUT_NAME_MAX <= LAYOUT_PATH_BYTES, "room for a disk");

static bool is_name(const char *text, size_t n)
{
	return n >= 1 && n <= LAYOUT_NAME_MAX && text[0] != '.' && text[0] != '-' &&
	       strspn(text, NAME_CHARACTERS) >= n;
}

bool layout_name_is_valid(const char *name)
{
	return is_name(name, strlen(name));
}

static void check(const char *name)
{
	if (!layout_name_is_valid(name))
		abort(); /* a caller that did not check would write where nobody looks */
}

void layout_disk_path(
	const char *machine, const char *disk, char ret_path[static LAYOUT_PATH_BYTES])
{
	check(machine);
	check(disk);
	snprintf(ret_path, LAYOUT_PATH_BYTES, LAYOUT_MACHINES "%s/%s.vhd", machine, disk);
}

void layout_machine_prefix(const char *machine, char ret_path[static LAYOUT_PATH_BYTES])
{
	check(machine);
	snprintf(ret_path, LAYOUT_PATH_BYTES, LAYOUT_MACHINES "%s/", machine);
}

void layout_owner_path(const char *group, char ret_path[static LAYOUT_PATH_BYTES])
{
	check(group);
	snprintf(ret_path, LAYOUT_PATH_BYTES, LAYOUT_GROUPS "%s/owner.json", group);
}

void layout_point_path(const char *group, uint64_t number, char ret_path[static LAYOUT_PATH_BYTES])
{
	check(group);
	snprintf(ret_path, LAYOUT_PATH_BYTES, LAYOUT_GROUPS "%s/points/%020" PRIu64 ".json", group,
		number);
}

void layout_points_prefix(const char *group, char ret_path[static LAYOUT_PATH_BYTES])
{
	check(group);
	snprintf(ret_path, LAYOUT_PATH_BYTES, LAYOUT_GROUPS "%s/points/", group);
}

/* Takes the name between `prefix` and the next slash; NULL if it is none. `*ret_n` is its
 * length, the result what follows the slash. */
static const char *take_name(
	const char *path, const char *prefix, const char **ret_name, size_t *ret_n)
{
	size_t skip = strlen(prefix);
	if (strncmp(path, prefix, skip) != 0)
		return NULL;
	const char *name = path + skip;
	size_t n = strcspn(name, "/");
	if (!is_name(name, n) || name[n] != '/')
		return NULL;
	*ret_name = name;
	*ret_n = n;
	return name + n + 1;
}

static void copy_name(char ret_name[static LAYOUT_NAME_MAX + 1], const char *name, size_t n)
{
	memcpy(ret_name, name, n);
	ret_name[n] = '\0';
}

int layout_parse_disk(const char *path, char ret_machine[static LAYOUT_NAME_MAX + 1],
	char ret_disk[static LAYOUT_NAME_MAX + 1])
{
	const char *machine;
	size_t machine_n;
	const char *disk = take_name(path, LAYOUT_MACHINES, &machine, &machine_n);
	if (!disk)
		return -EINVAL;
	size_t n = strlen(disk);
	if (n < 5 || strcmp(disk + n - 4, ".vhd") != 0 || !is_name(disk, n - 4))
		return -EINVAL;
	copy_name(ret_machine, machine, machine_n);
	copy_name(ret_disk, disk, n - 4);
	return 0;
}

int layout_parse_owner(const char *path, char ret_group[static LAYOUT_NAME_MAX + 1])
{
	const char *group;
	size_t group_n;
	const char *rest = take_name(path, LAYOUT_GROUPS, &group, &group_n);
	if (!rest || strcmp(rest, "owner.json") != 0)
		return -EINVAL;
	copy_name(ret_group, group, group_n);
	return 0;
}

int layout_parse_point(
	const char *path, char ret_group[static LAYOUT_NAME_MAX + 1], uint64_t *ret_number)
{
	const char *group;
	size_t group_n;
	const char *rest = take_name(path, LAYOUT_GROUPS, &group, &group_n);
	if (!rest || strncmp(rest, "points/", 7) != 0)
		return -EINVAL;
	rest += 7;
	if (strspn(rest, "0123456789") != 20 || strcmp(rest + 20, ".json") != 0)
		return -EINVAL;
	errno = 0;
	unsigned long long number = strtoull(rest, NULL, 10);
	if (errno != 0)
		return -EINVAL;
	copy_name(ret_group, group, group_n);
	*ret_number = number;
	return 0;
}
