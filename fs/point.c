/*
 * A recovery point's name, both ways.
 */
#include "fs/point.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void point_format_name(const struct point *point, char ret_name[static POINT_NAME_BYTES])
{
	char time[UTC_COMPACT_BYTES];
	utc_format_compact(point->time_ns, time);
	snprintf(ret_name, POINT_NAME_BYTES, "%" PRIu64 "-%s", point->number, time);
}

int point_parse_name(const char *name, uint64_t *ret_number, int64_t *ret_time_ns)
{
	uint64_t number = 0;
	const char *p = name;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (number > (UINT64_MAX - 9) / 10)
			return -EINVAL;
		number = number * 10 + (uint64_t)(*p - '0');
	}
	if (p == name || name[0] == '0' || *p != '-' || strlen(p + 1) != UTC_COMPACT_BYTES - 1)
		return -EINVAL;
	int64_t time_ns;
	int r = utc_parse(p + 1, &time_ns);
	if (r < 0)
		return r;
	/* Only the one spelling that point_format_name gives. */
	char again[UTC_COMPACT_BYTES];
	utc_format_compact(time_ns, again);
	if (strcmp(again, p + 1) != 0)
		return -EINVAL;
	*ret_number = number;
	*ret_time_ns = time_ns;
	return 0;
}
