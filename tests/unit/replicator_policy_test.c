/*
 * replicator/policy: reading, refusing and writing settings, bandwidth by the hour, retention.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/rng.h"
#include "replicator/policy.h"
#include "common/human.h"

#define HOUR (3600 * NS_PER_S)
#define DAY (24 * HOUR)
#define NOW (20000 * DAY + 12 * HOUR + 30 * 60 * NS_PER_S)

static void durations_are_read_strictly(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t seconds; /* −1: refused */
	} cases[] = { { "0", 0 }, { "0s", 0 }, { "90s", 90 }, { "5m", 300 }, { "2h", 7200 },
		{ "1d", 86400 }, { "", -1 }, { "5", -1 }, { "s", -1 }, { "-1s", -1 },
		{ "1.5h", -1 }, { "1h ", -1 }, { " 1h", -1 }, { "1hh", -1 }, { "1w", -1 },
		{ "+1s", -1 }, { "18446744073709551616s", -1 }, { "9223372036854775807d", -1 } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		int64_t seconds = -7;
		int r = duration_parse(cases[i].text, &seconds);
		assert_int_equal(r, cases[i].seconds < 0 ? -EINVAL : 0);
		assert_int_equal(seconds, r < 0 ? -7 : cases[i].seconds);
	}
}

static void sizes_are_read_strictly(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t bytes;
	} cases[] = { { "0", 0 }, { "512", 512 }, { "512B", 512 }, { "1K", 1024 },
		{ "1 GiB", 1 << 30 }, { "20M", 20 << 20 }, { "20MB", 20 << 20 },
		{ "3g", 3ll << 30 }, { "8T", 8ll << 40 }, { "", -1 }, { "M", -1 }, { "1X", -1 },
		{ "1Mi", -1 }, { "1MBB", -1 }, { "-1", -1 }, { "1 ", -1 }, { "16777216T", -1 },
		{ "99999999999999999999", -1 }, { "1e3", -1 } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t bytes = 7;
		int r = size_parse(cases[i].text, &bytes);
		assert_int_equal(r, cases[i].bytes < 0 ? -EINVAL : 0);
		assert_int_equal(bytes, r < 0 ? 7 : (uint64_t)cases[i].bytes);
	}
}

static void names_are_checked(void **state)
{
	(void)state;
	char longest[65];
	memset(longest, 'a', 64);
	longest[64] = '\0';
	assert_false(name_is_valid(longest));
	longest[63] = '\0';
	assert_true(name_is_valid(longest));
	assert_true(name_is_valid("web-1.example_X"));
	static const char *const bad[] = { "", ".", "..", "-x", ".x", "a/b", "a b", "a\n",
		"\xc3\xa4", "a%", "a:b" };
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error error = { 0 };
		assert_int_equal(name_check("machine", bad[i], &error), -EINVAL);
		assert_non_null(strstr(error.message, "machine"));
		assert_true(error.mend[0] != '\0');
		assert_int_equal(name_check_new("machine", bad[i], &error), -EINVAL);
	}
	/* What was made before this was refused goes on. */
	static const char *const old[] = { "a.", "a..", "1.2." };
	for (unsigned i = 0; i < ARRAY_SIZE(old); i++) {
		struct error error = { 0 };
		assert_int_equal(name_check("machine", old[i], &error), 0);
		assert_int_equal(name_check_new("machine", old[i], &error), -EINVAL);
		assert_non_null(strstr(error.message, "dot"));
		assert_true(error.mend[0] != '\0');
	}
	assert_int_equal(name_check_new("machine", "a.b", NULL), 0);
}

static void check_round_trip(const struct policy *policy)
{
	struct policy back;
	policy_default(&back);
	memcpy(back.name, policy->name, sizeof(back.name));
	for (const char *const *key = policy_keys(); *key; key++) {
		CLEANUP(buf_free) struct buf text = { 0 };
		assert_int_equal(policy_format(policy, *key, &text), 0);
		assert_int_equal(policy_set(&back, *key, text.data, NULL), 0);
	}
	assert_memory_equal(&back, policy, offsetof(struct policy, bandwidth));
	assert_int_equal(back.bandwidth.window_count, policy->bandwidth.window_count);
	assert_int_equal(back.bandwidth.bytes_per_s, policy->bandwidth.bytes_per_s);
	for (unsigned i = 0; i < back.bandwidth.window_count; i++) {
		assert_int_equal(back.bandwidth.windows[i].from_minute,
			policy->bandwidth.windows[i].from_minute);
		assert_int_equal(back.bandwidth.windows[i].to_minute,
			policy->bandwidth.windows[i].to_minute);
		assert_int_equal(back.bandwidth.windows[i].bytes_per_s,
			policy->bandwidth.windows[i].bytes_per_s);
	}
}

static void settings_round_trip(void **state)
{
	(void)state;
	struct policy policy;
	policy_default(&policy);
	assert_int_equal(policy_check(&policy, NULL), 0);
	check_round_trip(&policy);
	static const char *const settings[][2] = { { "point-interval", "1s" },
		{ "point-interval", "0" }, { "vault-interval", "90s" }, { "app-interval", "1h" },
		{ "retention", "daily:2d" }, { "retention", "all:0,daily:2d" },
		{ "retention", "all:90s,daily:365d" }, { "rpo-alert", "0" }, { "bandwidth", "20M" },
		{ "bandwidth", "1000000" },
		{ "bandwidth", "08:00-18:00=5M,22:00-06:00=unlimited,20M" },
		{ "bandwidth", "00:00-24:00=5M" }, { "bandwidth", "22:00-00:00=64K,unlimited" },
		{ "agent-bandwidth", "08:00-18:00=1M" }, { "agent-bandwidth", "same" },
		{ "agent-bandwidth", "unlimited" } };
	for (unsigned i = 0; i < ARRAY_SIZE(settings); i++) {
		struct error error = { 0 };
		if (policy_set(&policy, settings[i][0], settings[i][1], &error) < 0)
			fail_msg("%s=%s: %s", settings[i][0], settings[i][1], error.message);
		check_round_trip(&policy);
	}
}

static void bad_settings_change_nothing_and_say_why(void **state)
{
	(void)state;
	static const struct {
		const char *key, *value;
		int code;
	} cases[] = { { "point-interval", "2d", -EINVAL }, { "point-interval", "fast", -EINVAL },
		{ "point-interval", "5", -EINVAL }, { "vault-interval", "0", -EINVAL },
		{ "app-interval", "1s", -EINVAL }, { "rpo-alert", "31d", -EINVAL },
		{ "retention", "", -EINVAL }, { "retention", "all", -EINVAL },
		{ "retention", "all:24h,", -EINVAL }, { "retention", "all:1h,all:2h", -EINVAL },
		{ "retention", "weekly:1d", -EINVAL }, { "retention", "all:2d,hourly:1d", -EINVAL },
		{ "retention", "all:1d,hourly:1d", -EINVAL }, { "retention", "all:x", -EINVAL },
		{ "bandwidth", "", -EINVAL }, { "bandwidth", "0", -EINVAL },
		{ "bandwidth", "1K", -EINVAL }, { "bandwidth", "5M,6M", -EINVAL },
		{ "bandwidth", "8:00-18:00=5M", -EINVAL },
		{ "bandwidth", "08:00-25:00=5M", -EINVAL },
		{ "bandwidth", "08:60-09:00=5M", -EINVAL },
		{ "bandwidth", "24:00-09:00=5M", -EINVAL },
		{ "bandwidth", "08:00-08:00=5M", -EINVAL },
		{ "bandwidth", "08:00-09:00=", -EINVAL },
		{ "bandwidth", "08:00-18:00=5M,17:59-20:00=6M", -EINVAL },
		{ "bandwidth", "22:00-06:00=5M,05:00-07:00=6M", -EINVAL },
		{ "speed", "1", -ENOENT }, { "", "1", -ENOENT } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct policy policy, before;
		struct error error = { 0 };
		policy_default(&policy);
		before = policy;
		int r = policy_set(&policy, cases[i].key, cases[i].value, &error);
		if (r != cases[i].code || error.code != r || !error.message[0] || !error.mend[0])
			fail_msg("%s=%s: %d '%s' '%s'", cases[i].key, cases[i].value, r,
				error.message, error.mend);
		assert_memory_equal(&policy, &before, sizeof(policy));
	}
	/* One window more than fit. */
	CLEANUP(buf_free) struct buf text = { 0 };
	struct policy policy;
	policy_default(&policy);
	for (unsigned i = 0; i <= POLICY_MAX_WINDOWS; i++)
		assert_int_equal(
			buf_printf(&text, "%s00:%02u-00:%02u=1M", i ? "," : "", i, i + 1), 0);
	assert_int_equal(policy_set(&policy, "bandwidth", text.data, NULL), -EINVAL);
}

static void settings_are_checked_against_each_other(void **state)
{
	(void)state;
	struct policy policy;
	struct error error = { 0 };
	policy_default(&policy);
	assert_int_equal(policy_set(&policy, "vault-interval", "30s", NULL), 0);
	assert_int_equal(policy_check(&policy, &error), -EINVAL);
	assert_non_null(strstr(error.message, "vault-interval"));
	assert_int_equal(policy_set(&policy, "point-interval", "30s", NULL), 0);
	assert_int_equal(policy_check(&policy, NULL), 0);
	assert_int_equal(policy_set(&policy, "rpo-alert", "29s", NULL), 0);
	assert_int_equal(policy_check(&policy, &error), -EINVAL);
	assert_non_null(strstr(error.message, "rpo-alert"));
	assert_int_equal(policy_set(&policy, "rpo-alert", "0", NULL), 0);
	assert_int_equal(policy_check(&policy, NULL), 0);
}

static void bandwidth_follows_the_hours(void **state)
{
	(void)state;
	struct policy policy;
	policy_default(&policy);
	assert_int_equal(policy_bandwidth(&policy, 0), 0);
	assert_int_equal(
		policy_set(&policy, "bandwidth", "08:00-18:00=5M,22:00-06:00=unlimited,20M", NULL),
		0);
	static const struct {
		unsigned minute, mib;
	} cases[] = { { 0, 0 }, { 359, 0 }, { 360, 20 }, { 479, 20 }, { 480, 5 }, { 1079, 5 },
		{ 1080, 20 }, { 1319, 20 }, { 1320, 0 }, { 1439, 0 } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(policy_bandwidth(&policy, cases[i].minute), cases[i].mib * MIB);
	/* Agents obey the same, unless they have rates of their own. */
	assert_int_equal(policy_agent_bandwidth(&policy, 480), 5 * MIB);
	assert_int_equal(policy_set(&policy, "agent-bandwidth", "08:00-09:00=1M,7M", NULL), 0);
	assert_int_equal(policy_agent_bandwidth(&policy, 480), 1 * MIB);
	assert_int_equal(policy_agent_bandwidth(&policy, 540), 7 * MIB);
	assert_int_equal(policy_bandwidth(&policy, 480), 5 * MIB);
	assert_int_equal(policy_set(&policy, "agent-bandwidth", "unlimited", NULL), 0);
	assert_int_equal(policy_agent_bandwidth(&policy, 480), 0);
	assert_int_equal(policy_set(&policy, "agent-bandwidth", "same", NULL), 0);
	assert_int_equal(policy_agent_bandwidth(&policy, 480), 5 * MIB);
}

/* ── retention ───────────────────────────────────────────────────────────────────────────── */

static void fill_points(struct point *points, unsigned count, int64_t last_ns, int64_t step_ns)
{
	for (unsigned i = 0; i < count; i++)
		points[i] = (struct point){ .number = i + 1,
			.time_ns = last_ns - (int64_t)(count - 1 - i) * step_ns,
			.flags = POINT_VAULT,
			.kind = POINT_CRASH };
}

static unsigned kept(const bool *drop, unsigned count)
{
	unsigned n = 0;
	for (unsigned i = 0; i < count; i++)
		n += !drop[i];
	return n;
}

static void stages_thin_as_they_say(void **state)
{
	(void)state;
	enum { COUNT = 40 * 24 * 12 }; /* 40 days of a point each 5 minutes */
	CLEANUP_FREE struct point *points = calloc(COUNT, sizeof(*points));
	CLEANUP_FREE bool *drop = calloc(COUNT, sizeof(*drop));
	struct policy policy;
	policy_default(&policy);
	fill_points(points, COUNT, NOW, 300 * NS_PER_S);
	policy_thin(&policy, points, COUNT, NOW, drop);
	for (unsigned i = 0; i < COUNT; i++) {
		int64_t age = NOW - points[i].time_ns;
		bool hour_end =
			i + 1 == COUNT || points[i].time_ns / HOUR != points[i + 1].time_ns / HOUR;
		bool day_end =
			i + 1 == COUNT || points[i].time_ns / DAY != points[i + 1].time_ns / DAY;
		bool keep =
			age <= DAY || (hour_end && age <= 7 * DAY) || (day_end && age <= 30 * DAY);
		assert_int_equal(!drop[i], keep);
	}
	assert_int_equal(kept(drop, COUNT), 289 + 6 * 24 + 23);
}

/* Thinning again and again as time goes on must end with what thinning once would leave: what a
 * later stage asks for may not have been dropped by an earlier one. */
static void thinning_often_equals_thinning_once(void **state)
{
	(void)state;
	enum { COUNT = 12 * 24 * 12 };
	CLEANUP_FREE struct point *points = calloc(COUNT, sizeof(*points));
	CLEANUP_FREE bool *drop = calloc(COUNT, sizeof(*drop));
	CLEANUP_FREE bool *once = calloc(COUNT, sizeof(*once));
	CLEANUP_FREE struct point *alive = calloc(COUNT, sizeof(*alive));
	struct policy policy;
	policy_default(&policy);
	assert_int_equal(policy_set(&policy, "retention", "all:3h,hourly:2d,daily:8d", NULL), 0);
	fill_points(points, COUNT, NOW, 300 * NS_PER_S);
	policy_thin(&policy, points, COUNT, NOW, once);
	unsigned count = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		alive[count++] = points[i];
		policy_thin(&policy, alive, count, points[i].time_ns, drop);
		unsigned left = 0;
		for (unsigned k = 0; k < count; k++)
			if (!drop[k])
				alive[left++] = alive[k];
		count = left;
	}
	assert_int_equal(count, kept(once, COUNT));
	for (unsigned k = 0; k < count; k++)
		assert_false(once[alive[k].number - 1]);
}

static void kept_and_newest_stay(void **state)
{
	(void)state;
	struct point points[4];
	bool drop[4];
	struct policy policy;
	policy_default(&policy);
	fill_points(points, 4, NOW - 90 * DAY, 60 * NS_PER_S);
	points[1].flags |= POINT_KEEP;
	policy_thin(&policy, points, 4, NOW, drop);
	assert_true(drop[0] && !drop[1] && drop[2] && !drop[3]);
	assert_int_equal(policy_set(&policy, "retention", "all:1s", NULL), 0);
	fill_points(points, 4, NOW - 90 * DAY, 60 * NS_PER_S);
	policy_thin(&policy, points, 4, NOW, drop);
	assert_true(drop[0] && drop[1] && drop[2] && !drop[3]);
	policy_thin(&policy, points, 0, NOW, drop);
}

static void future_times_count_as_now(void **state)
{
	(void)state;
	struct point points[3];
	bool drop[3];
	struct policy policy;
	policy_default(&policy);
	fill_points(points, 3, NOW + 365 * DAY, 60 * NS_PER_S);
	policy_thin(&policy, points, 3, NOW, drop);
	assert_int_equal(kept(drop, 3), 3);
}

static void a_bad_point_does_not_stand_for_its_hour(void **state)
{
	(void)state;
	struct point points[4];
	bool drop[4];
	struct policy policy;
	policy_default(&policy);
	fill_points(points, 4, NOW, 60 * NS_PER_S);
	for (unsigned i = 0; i < 3; i++)
		points[i].time_ns -= 2 * DAY;
	points[2].flags |= POINT_FAILED;
	policy_thin(&policy, points, 4, NOW, drop);
	assert_true(drop[0] && !drop[1] && drop[2] && !drop[3]);
	/* The day's choice is the same good one; if all are bad the last stays. */
	points[0].flags |= POINT_DAMAGED;
	points[1].flags |= POINT_FAILED;
	policy_thin(&policy, points, 4, NOW, drop);
	assert_true(drop[0] && drop[1] && !drop[2] && !drop[3]);
}

/* Whatever the clock did, nothing young, kept or newest goes. */
static void jumping_clocks_lose_nothing(void **state)
{
	(void)state;
	struct rng rng;
	struct policy policy;
	policy_default(&policy);
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct point points[50];
		bool drop[50];
		rng_seed(&rng, seed);
		fill_points(points, 50, NOW, 0);
		for (unsigned i = 0; i < 50; i++) {
			points[i].time_ns = NOW + DAY - (int64_t)rng_below(&rng, 40 * DAY);
			if (rng_below(&rng, 10) == 0)
				points[i].flags |= POINT_KEEP;
		}
		policy_thin(&policy, points, 50, NOW, drop);
		assert_false(drop[49]);
		for (unsigned i = 0; i < 50; i++)
			if (NOW - points[i].time_ns <= DAY || (points[i].flags & POINT_KEEP))
				assert_false(drop[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(durations_are_read_strictly),
		cmocka_unit_test(sizes_are_read_strictly),
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(settings_round_trip),
		cmocka_unit_test(bad_settings_change_nothing_and_say_why),
		cmocka_unit_test(settings_are_checked_against_each_other),
		cmocka_unit_test(bandwidth_follows_the_hours),
		cmocka_unit_test(stages_thin_as_they_say),
		cmocka_unit_test(thinning_often_equals_thinning_once),
		cmocka_unit_test(kept_and_newest_stay),
		cmocka_unit_test(future_times_count_as_now),
		cmocka_unit_test(a_bad_point_does_not_stand_for_its_hour),
		cmocka_unit_test(jumping_clocks_lose_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
