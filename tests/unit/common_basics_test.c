/*
 * common/: the small parts everything stands on: buffers, times as text, UUIDs, random numbers,
 * and the kernel's files behind the io seam.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/error.h"
#include "common/io.h"
#include "common/rng.h"
#include "common/utc.h"
#include "common/uuid.h"

static void buffer_grows_and_stays_terminated(void **state)
{
	(void)state;
	CLEANUP(buf_free) struct buf b = { 0 };
	for (int i = 0; i < 1000; i++)
		assert_int_equal(buf_printf(&b, "%d,", i), 0);
	assert_int_equal(b.len, strlen(b.data));
	assert_memory_equal(b.data, "0,1,2,3,", 8);
	buf_clear(&b);
	assert_int_equal(b.len, 0);
	assert_int_equal(buf_append(&b, "", 0), 0);
	assert_string_equal(b.data, "");
}

static void error_prefix_keeps_code_and_mend(void **state)
{
	(void)state;
	struct error e = { 0 };
	assert_int_equal(error_set(&e, -EINVAL, "mend it", "bad %d", 7), -EINVAL);
	assert_int_equal(error_prefix(&e, "disk %s", "root"), -EINVAL);
	assert_string_equal(e.message, "disk root: bad 7");
	assert_string_equal(e.mend, "mend it");
	assert_int_equal(error_set(NULL, -EIO, NULL, "unseen"), -EIO);
}

static void utc_text_round_trips(void **state)
{
	(void)state;
	const int64_t ns = 1795326851123456789ll; /* 2026-11-22T05:54:11.123456789Z */
	char text[UTC_ISO_BYTES];
	int64_t back;
	utc_format_iso(ns, text);
	assert_string_equal(text, "2026-11-22T05:54:11.123456789Z");
	assert_int_equal(utc_parse(text, &back), 0);
	assert_true(back == ns);
	utc_format_compact(ns, text);
	assert_string_equal(text, "20261122T055411Z");
	assert_int_equal(utc_parse(text, &back), 0);
	assert_true(back == ns / 1000000000 * 1000000000);
	utc_format_http(ns, text);
	assert_string_equal(text, "Sun, 22 Nov 2026 05:54:11 GMT");
	assert_int_equal(utc_parse(text, &back), 0);
	assert_true(back == ns / 1000000000 * 1000000000);
	assert_int_equal(utc_parse("2026-11-22 05:54", &back), 0);
	assert_int_equal(utc_parse("2026-11-22", &back), 0);
}

static void utc_refuses_what_is_no_time(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "x", "2026", "2026-13-01", "2026-02-30", "20261122",
		"2026-11-22T25:00", "2026-11-22T05:54:11Zx", "20261122T0554Z", "1969-01-01",
		"Sun, 22 Foo 2026 05:54:11 GMT", "2026-11-22T05:54:11." };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int64_t ns = 42;
		assert_int_equal(utc_parse(bad[i], &ns), -EINVAL);
		assert_true(ns == 42);
	}
}

static void uuid_round_trips(void **state)
{
	(void)state;
	struct uuid a, b;
	char text[UUID_TEXT_BYTES];
	assert_int_equal(uuid_generate(&a), 0);
	uuid_format(&a, text);
	assert_int_equal(strlen(text), 36);
	assert_int_equal(text[14], '4');
	assert_int_equal(uuid_parse(text, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(uuid_parse("6ba7b810-9dad-11d1-80b4-00c04fd430cg", &b), -EINVAL);
	assert_int_equal(uuid_parse("6ba7b8109dad-11d1-80b4-00c04fd430c8-", &b), -EINVAL);
}

static void rng_repeats_by_seed_and_stays_below(void **state)
{
	(void)state;
	struct rng a, b;
	rng_seed(&a, 7);
	rng_seed(&b, 7);
	for (int i = 0; i < 1000; i++) {
		uint64_t v = rng_below(&a, 10);
		assert_true(v < 10);
		assert_true(v == rng_below(&b, 10));
	}
}

static int count_name(void *context, const char *name)
{
	(void)name;
	++*(int *)context;
	return 0;
}

static void files_are_replaced_whole(void **state)
{
	(void)state;
	char directory[] = "/tmp/landfall-test-XXXXXX";
	assert_non_null(mkdtemp(directory));
	struct io *io = io_posix();
	char path[64];
	snprintf(path, sizeof(path), "%s/state", directory);
	assert_int_equal(io_replace_file(io, path, "first version", 13), 0);
	assert_int_equal(io_replace_file(io, path, "second", 6), 0);
	CLEANUP_FREE char *data = NULL;
	size_t n;
	assert_int_equal(io_load_file(io, path, 100, &data, &n), 0);
	assert_int_equal(n, 6);
	assert_string_equal(data, "second");
	char *none = NULL;
	assert_int_equal(io_load_file(io, path, 5, &none, &n), -EFBIG);
	int names = 0;
	assert_int_equal(io_list(io, directory, count_name, &names), 0);
	assert_int_equal(names, 1);
	assert_int_equal(io_unlink(io, path), 0);
	assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffer_grows_and_stays_terminated),
		cmocka_unit_test(error_prefix_keeps_code_and_mend),
		cmocka_unit_test(utc_text_round_trips),
		cmocka_unit_test(utc_refuses_what_is_no_time),
		cmocka_unit_test(uuid_round_trips),
		cmocka_unit_test(rng_repeats_by_seed_and_stays_below),
		cmocka_unit_test(files_are_replaced_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
