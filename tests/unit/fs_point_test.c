/*
 * fs/point.c: names of recovery points, written and read.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>

#include "common/clock.h"
#include "fs/point.h"

static void name_goes_both_ways(void **state)
{
	(void)state;
	struct point p = { .number = 41, .time_ns = 1795326851 * NS_PER_S + 5 };
	char name[POINT_NAME_BYTES];
	point_format_name(&p, name);
	assert_string_equal(name, "41-20261122T055411Z");
	uint64_t number;
	int64_t time_ns;
	assert_int_equal(point_parse_name(name, &number, &time_ns), 0);
	assert_int_equal(number, 41);
	assert_int_equal(time_ns, 1795326851 * NS_PER_S);
	p.number = UINT64_MAX;
	point_format_name(&p, name);
	assert_string_equal(name, "18446744073709551615-20261122T055411Z");
}

static void other_names_are_refused(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "latest", "41", "41-", "-20261122T055411Z",
		"041-20261122T055411Z", "41-2026-11-22T05:54", "41-20261322T055411Z",
		"41-20261122T055411Zx", "99999999999999999999999-20261122T055411Z" };
	uint64_t number = 7;
	int64_t time_ns = 7;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(point_parse_name(bad[i], &number, &time_ns), -EINVAL);
	assert_int_equal(number, 7);
	assert_int_equal(time_ns, 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_goes_both_ways),
		cmocka_unit_test(other_names_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
