/*
 * replicator/agent/names: a disk's name is its own, wherever the kernel puts it, and outlives the
 * agent.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "replicator/agent/names.h"

struct place {
	char directory[64], file[80];
};

static int make_place(void **state)
{
	struct place *place = calloc(1, sizeof(*place));
	assert_non_null(place);
	strcpy(place->directory, "/tmp/agent_names_test.XXXXXX");
	assert_non_null(mkdtemp(place->directory));
	snprintf(place->file, sizeof(place->file), "%s/names.json", place->directory);
	*state = place;
	return 0;
}

static int remove_place(void **state)
{
	struct place *place = *state;
	(void)unlink(place->file);
	assert_int_equal(rmdir(place->directory), 0);
	free(place);
	return 0;
}

static struct names *load(const struct place *place)
{
	struct error error = { 0 };
	struct names *names;
	assert_int_equal(names_load(io_posix(), place->directory, &error, &names), 0);
	return names;
}

static void taken(struct names *names, const char *name, const char *identity, const char *wanted)
{
	struct error error = { 0 };
	struct disk disk = { 0 };
	char id[NAMES_ID_BYTES];
	snprintf(disk.name, sizeof(disk.name), "%s", name);
	snprintf(disk.identity, sizeof(disk.identity), "%s", identity);
	assert_int_equal(names_take(names, &disk, &error, id), 0);
	assert_string_equal(id, wanted);
}

static void disks_keep_their_names_when_the_kernel_swaps_them(void **state)
{
	struct names *names = load(*state);
	taken(names, "sda", "disk:A", "sda");
	taken(names, "sdb", "disk:B", "sdb");
	names_free(names);
	names = load(*state);
	taken(names, "sda", "disk:B", "sdb");
	taken(names, "sdb", "disk:A", "sda");
	names_free(names);
	/* And if only one is left, or another is there. */
	names = load(*state);
	taken(names, "sda", "disk:C", "sda-2");
	taken(names, "sdb", "disk:A", "sda");
	names_free(names);
	names = load(*state);
	taken(names, "sda", "disk:D", "sda-3");
	taken(names, "sdc", "disk:C", "sda-2");
	names_free(names);
}

static void an_identity_that_is_a_name_gives_way_to_a_better_one(void **state)
{
	struct names *names = load(*state);
	taken(names, "vda", "disk:name=vda", "vda");
	names_free(names);
	names = load(*state);
	taken(names, "vda", "disk:S1", "vda");
	names_free(names);
	names = load(*state);
	taken(names, "vdb", "disk:S1", "vda");
	/* And not the other way round: this may be anyone. */
	taken(names, "vda", "disk:name=vda", "vda-2");
	names_free(names);
	names = load(*state);
	taken(names, "vda", "disk:name=vda", "vda-2");
	taken(names, "vdb", "disk:S1", "vda");
	names_free(names);
}

static void a_shared_identity_tells_nothing(void **state)
{
	struct names *names = load(*state);
	struct disk home = { .name = "sdb", .identity = "disk:SAME" };
	taken(names, "sda", "disk:SAME", "sda");
	taken(names, "sdb", "disk:SAME", "sdb");
	taken(names, "sdc", "disk:SAME", "sdc");
	assert_false(names_is_at_home(names, &home));
	strcpy(home.name, "sda");
	assert_true(names_is_at_home(names, &home));
	names_free(names);
	names = load(*state);
	taken(names, "sda", "disk:SAME", "sda");
	taken(names, "sdc", "disk:SAME", "sdc");
	taken(names, "sdb", "disk:SAME", "sdb");
	names_put_back(names, "sda");
	taken(names, "sda", "disk:SAME", "sda");
	names_free(names);
}

static void the_oldest_that_is_not_in_use_makes_room(void **state)
{
	struct names *names = load(*state);
	struct disk disk = { 0 };
	struct error error = { 0 };
	char id[NAMES_ID_BYTES];
	for (unsigned i = 0; i < NAMES_MAX; i++) {
		snprintf(disk.name, sizeof(disk.name), "sd%u", i);
		snprintf(disk.identity, sizeof(disk.identity), "disk:%u", i);
		assert_int_equal(names_take(names, &disk, &error, id), 0);
		if (i > 0)
			names_put_back(names, id);
	}
	taken(names, "sd1", "disk:new", "sd1-2");
	taken(names, "sd1", "disk:1", "sd1");
	taken(names, "sdx", "disk:0", "sdx");
	names_free(names);
}

static void what_is_missing_is_told(void **state)
{
	char id[NAMES_ID_BYTES], identity[DISK_IDENTITY_BYTES];
	unsigned at = 0;
	struct names *names = load(*state);
	taken(names, "sda", "disk:A", "sda");
	taken(names, "sdb", "disk:B", "sdb");
	taken(names, "sdc", "disk:C", "sdc");
	assert_false(names_take_missing(names, &at, id, identity));
	names_free(names);
	names = load(*state);
	taken(names, "sda", "disk:B", "sdb");
	at = 0;
	assert_true(names_take_missing(names, &at, id, identity));
	assert_string_equal(id, "sda");
	assert_string_equal(identity, "disk:A");
	assert_true(names_take_missing(names, &at, id, identity));
	assert_string_equal(id, "sdc");
	assert_false(names_take_missing(names, &at, id, identity));
	names_free(names);
}

static void what_is_damaged_is_refused(void **state)
{
	static const char *const texts[] = { "", "{", "{\"format\":2,\"disks\":[]}",
		"{\"format\":1}", "{\"format\":1,\"disks\":[{\"id\":\"sda\"}]}",
		"{\"format\":1,\"disks\":[{\"id\":\"\",\"identity\":\"x\"}]}",
		"{\"format\":1,\"disks\":[{\"id\":\"a\",\"identity\":\"x\"},"
		"{\"id\":\"a\",\"identity\":\"y\"}]}" };
	struct place *place = *state;
	struct names *names;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct error error = { 0 };
		FILE *file = fopen(place->file, "w");
		assert_non_null(file);
		fputs(texts[i], file);
		fclose(file);
		assert_int_equal(
			names_load(io_posix(), place->directory, &error, &names), -EBADMSG);
		assert_non_null(strstr(error.message, "names.json"));
		assert_non_null(strstr(error.message, "damaged"));
		assert_true(error.mend[0]);
	}
}

static void what_cannot_be_stored_is_no_name(void **state)
{
	struct place *place = *state;
	struct names *names = load(place);
	struct disk disk = { .name = "sda", .identity = "disk:A" };
	struct error error = { 0 };
	char id[NAMES_ID_BYTES];
	assert_int_equal(rmdir(place->directory), 0);
	assert_true(names_take(names, &disk, &error, id) < 0);
	assert_true(error.mend[0]);
	assert_int_equal(mkdir(place->directory, 0700), 0);
	taken(names, "sda", "disk:A", "sda");
	assert_int_equal(access(place->file, R_OK), 0);
	names_free(names);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_place, remove_place)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(disks_keep_their_names_when_the_kernel_swaps_them),
		TEST(an_identity_that_is_a_name_gives_way_to_a_better_one),
		TEST(a_shared_identity_tells_nothing),
		TEST(the_oldest_that_is_not_in_use_makes_room),
		TEST(what_is_missing_is_told),
		TEST(what_is_damaged_is_refused),
		TEST(what_cannot_be_stored_is_no_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
