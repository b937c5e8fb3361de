/*
 * replicator/registry_file: what is kept of machines, groups and policies, and that damage is
 * refused; replicator/machines: sizes and disks as they are asked for; replicator/partitions and
 * filesystem_probe over disks in memory; replicator/metrics: escaping.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "replicator/metrics.h"
#include "replicator/partitions.h"
#include "replicator/registry_internal.h"

/* ── the file ────────────────────────────────────────────────────────────────────────────── */

static void fresh(struct registry *registry, char *directory)
{
	*registry = (struct registry){ .io = io_posix(), .clock = clock_system() };
	pthread_mutex_init(&registry->lock, NULL);
	registry->state_dir = registry->journal_dir = directory;
	assert_true(asprintf(&registry->file_path, "%s/registry.json", directory) > 0);
	struct policy policy;
	policy_default(&policy);
	assert_int_equal(registry_put_policy(registry, &policy, POLICY_BUILT_IN), 0);
}

static void drop(struct registry *registry)
{
	while (registry->machines)
		machine_erase(registry, registry->machines);
	while (registry->groups)
		registry_forget_group(registry, registry->groups);
	while (registry->policies) {
		struct policy_entry *p = registry->policies;
		registry->policies = p->next;
		free(p);
	}
	pthread_mutex_destroy(&registry->lock);
	free(registry->file_path);
}

static void fill(struct registry *registry)
{
	struct machine_request *request = calloc(1, sizeof(*request));
	struct group_entry *group;
	struct policy policy;
	struct uuid id;
	assert_non_null(request);
	assert_int_equal(uuid_generate(&id), 0);
	policy_default(&policy);
	strcpy(policy.name, "gold");
	assert_int_equal(policy_set(&policy, "bandwidth", "08:00-18:00=5M,20M", NULL), 0);
	assert_int_equal(registry_put_policy(registry, &policy, POLICY_STORED), 0);
	assert_int_equal(registry_add_group(registry, "shop", &id, "gold", NULL, &group), 0);
	group->paused = true;
	for (const char *const *name = (const char *const[]){ "web", "db", NULL }; *name; name++) {
		request->name = *name;
		request->source = "fuse";
		request->disk_count = 1;
		assert_int_equal(machine_parse_disk("root=8388607M", &request->disks[0], NULL), 0);
		assert_int_equal(machine_insert(registry, request, group, NULL), 0);
	}
	registry_find_machine(registry, "db")->removing = true;
	free(request);
}

static int make_directory(void **state)
{
	char path[] = "/tmp/landfall-registry-XXXXXX";
	if (!mkdtemp(path))
		return -1;
	*state = strdup(path);
	return *state ? 0 : -1;
}

static int remove_directory(void **state)
{
	struct registry registry = { .io = io_posix() };
	int r = registry_remove_directory(&registry, *state);
	free(*state);
	return r;
}

static void what_is_kept_comes_back(void **state)
{
	struct registry first, second;
	struct error error = { 0 };
	fresh(&first, *state);
	assert_int_equal(registry_load(&first, &error), 0);
	fill(&first);
	assert_int_equal(registry_save(&first, &error), 0);
	fresh(&second, *state);
	if (registry_load(&second, &error) < 0)
		fail_msg("%s", error.message);
	assert_memory_equal(&second.appliance, &first.appliance, sizeof(struct uuid));
	struct machine_entry *web = registry_find_machine(&second, "web");
	struct machine_entry *db = registry_find_machine(&second, "db");
	assert_true(web && db && !web->removing && db->removing);
	assert_true(web->group == db->group && web->group->paused);
	assert_memory_equal(&web->group->id, &first.groups->id, sizeof(struct uuid));
	assert_string_equal(web->group->policy, "gold");
	assert_int_equal(web->disks[0].size_bytes, 8388607 * MIB);
	struct policy_entry *gold = registry_find_policy(&second, "gold");
	assert_true(gold && gold->origin == POLICY_STORED);
	assert_int_equal(policy_bandwidth(&gold->policy, 9 * 60), 5 * MIB);
	drop(&first);
	drop(&second);
}

static void flip(const char *path, size_t at)
{
	char *text;
	size_t n;
	assert_int_equal(io_load_file(io_posix(), path, 1 << 20, &text, &n), 0);
	text[at % n] ^= 0x10;
	assert_int_equal(io_replace_file(io_posix(), path, text, n), 0);
	free(text);
}

/* Whatever bit flips, in the file or its copy, the other is used and both are whole again; if both
 * are damaged they are refused by name. */
static void damage_is_mended(void **state)
{
	struct registry registry;
	char copy[128];
	char *text;
	size_t n;
	fresh(&registry, *state);
	assert_int_equal(registry_load(&registry, NULL), 0);
	fill(&registry);
	assert_int_equal(registry_save(&registry, NULL), 0);
	snprintf(copy, sizeof(copy), "%s.copy", registry.file_path);
	assert_int_equal(io_load_file(io_posix(), registry.file_path, 1 << 20, &text, &n), 0);
	free(text);
	for (size_t at = 0; at < n; at += 1 + n / 97) {
		struct registry damaged;
		struct error error = { 0 };
		bool first = at % 2;
		flip(first ? registry.file_path : copy, at);
		for (unsigned again = 0; again < 2; again++) {
			fresh(&damaged, *state);
			assert_int_equal(registry_load(&damaged, &error), 0);
			assert_non_null(damaged.machines);
			assert_int_equal(damaged.state_fault.code, first && !again ? -EUCLEAN : 0);
			if (first && !again)
				assert_non_null(
					strstr(damaged.state_fault.message, "registry.json"));
			drop(&damaged);
		}
		flip(registry.file_path, at);
		flip(copy, n - 1 - at);
		fresh(&damaged, *state);
		assert_int_equal(registry_load(&damaged, &error), -EUCLEAN);
		assert_non_null(strstr(error.message, "registry.json"));
		assert_non_null(strstr(error.mend, "registry.json.copy"));
		assert_null(damaged.machines);
		drop(&damaged);
		flip(registry.file_path, at);
		flip(copy, n - 1 - at);
	}
	/* Gone, it is taken from its copy as well. */
	assert_int_equal(unlink(registry.file_path), 0);
	struct registry lost;
	fresh(&lost, *state);
	assert_int_equal(registry_load(&lost, NULL), 0);
	assert_non_null(lost.machines);
	drop(&lost);
	drop(&registry);
}

static void sizes_have_their_own_words(void **state)
{
	(void)state;
	static const struct {
		uint64_t bytes;
		const char *words;
	} cases[] = { { 0, "0 bytes" }, { 1000, "512-byte" }, { MIB + 512, "MiB" },
		{ 8 * TIB, "page blob" }, { 8 * TIB - MIB + 512, "MiB" } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error error = { 0 };
		assert_int_equal(machine_check_size("root", cases[i].bytes, &error), -EINVAL);
		assert_non_null(strstr(error.message, cases[i].words));
		assert_non_null(strstr(error.message, "root"));
		assert_true(error.mend[0] != '\0');
	}
	assert_int_equal(machine_check_size("root", MIB, NULL), 0);
	assert_int_equal(machine_check_size("root", 8 * TIB - MIB, NULL), 0);
}

/* ── disks in memory ─────────────────────────────────────────────────────────────────────── */

#define DISK_BYTES (8 * MIB)

struct memory {
	uint8_t *data;
};

static int read_memory(void *context, uint64_t offset, void *data, size_t n)
{
	assert_true(offset + n <= DISK_BYTES);
	memcpy(data, ((struct memory *)context)->data + offset, n);
	return 0;
}

static void put_entry(uint8_t *sector, unsigned i, uint8_t type, uint32_t lba, uint32_t sectors)
{
	uint8_t *entry = sector + 446 + 16 * i;
	entry[4] = type;
	memcpy(entry + 8, &(uint32_t){ htole32(lba) }, 4);
	memcpy(entry + 12, &(uint32_t){ htole32(sectors) }, 4);
	sector[510] = 0x55;
	sector[511] = 0xaa;
}

static unsigned read_disk(struct memory *m, struct partition *partitions, int expected)
{
	unsigned count = 77;
	assert_int_equal(partitions_read(read_memory, m, DISK_BYTES, partitions, &count), expected);
	return count;
}

static void tables_are_read_and_not_believed(void **state)
{
	(void)state;
	struct memory m = { calloc(1, DISK_BYTES) };
	struct partition p[PARTITIONS_MAX];
	assert_int_equal(read_disk(&m, p, 0), 0);
	put_entry(m.data, 0, 0x83, 2048, 1024);
	put_entry(m.data, 2, 0x05, 4096, 8192);
	uint8_t *first = m.data + 4096 * SECTOR_BYTES, *second = m.data + 6144 * SECTOR_BYTES;
	put_entry(first, 0, 0x83, 63, 100);
	put_entry(first, 1, 0x05, 2048, 200);
	put_entry(second, 0, 0x82, 1, 50);
	assert_int_equal(read_disk(&m, p, 0), 3);
	assert_true(p[0].number == 1 && p[0].offset_bytes == 2048 * SECTOR_BYTES);
	assert_true(p[1].number == 5 && p[1].offset_bytes == (4096 + 63) * SECTOR_BYTES);
	assert_true(p[2].number == 6 && p[2].size_bytes == 50 * SECTOR_BYTES);
	/* A chain that bites its tail ends. */
	put_entry(second, 1, 0x05, 0, 200);
	(void)read_disk(&m, p, 0);
	/* Beyond the disk. */
	put_entry(m.data, 0, 0x83, 2048, 1 << 20);
	(void)read_disk(&m, p, -EUCLEAN);
	/* A protective MBR without a sound GPT. */
	memset(m.data, 0, DISK_BYTES);
	put_entry(m.data, 0, 0xee, 1, UINT32_MAX);
	(void)read_disk(&m, p, -EUCLEAN);
	free(m.data);
}

static void filesystems_are_known(void **state)
{
	(void)state;
	struct memory m = { calloc(1, DISK_BYTES) };
	struct filesystem f;
	struct partition p[PARTITIONS_MAX];
	assert_int_equal(filesystem_probe(read_memory, &m, 0, DISK_BYTES, &f), -ENOENT);
	uint8_t *ext = m.data + MIB + 1024;
	ext[56] = 0x53, ext[57] = 0xef, ext[96] = 0x44; /* extents, needs recovery */
	memcpy(ext + 120, "system\n", 7);
	assert_int_equal(filesystem_probe(read_memory, &m, MIB, MIB, &f), 0);
	assert_string_equal(f.type, "ext4");
	assert_string_equal(f.label, "system?");
	assert_true(f.mountable && f.log_replay);
	memcpy(m.data, "XFSB", 4);
	assert_int_equal(filesystem_probe(read_memory, &m, 0, DISK_BYTES, &f), 0);
	assert_string_equal(f.type, "xfs");
	/* It fills the disk: partition 0. */
	assert_int_equal(read_disk(&m, p, 0), 1);
	assert_true(p[0].number == 0 && p[0].size_bytes == DISK_BYTES);
	memcpy(m.data, "\0\0\0\0", 4);
	memcpy(m.data + 512, "LABELONE", 8);
	assert_int_equal(filesystem_probe(read_memory, &m, 0, DISK_BYTES, &f), 0);
	assert_string_equal(f.type, "LVM2_member");
	assert_false(f.mountable);
	free(m.data);
}

static void labels_are_escaped(void **state)
{
	(void)state;
	CLEANUP(buf_free) struct buf b = { 0 };
	assert_int_equal(metrics_escape(&b, "a\"b\\c\nd"), 0);
	assert_string_equal(b.data, "a\\\"b\\\\c\\nd");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			what_is_kept_comes_back, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(damage_is_mended, make_directory, remove_directory),
		cmocka_unit_test(sizes_have_their_own_words),
		cmocka_unit_test(tables_are_read_and_not_believed),
		cmocka_unit_test(filesystems_are_known),
		cmocka_unit_test(labels_are_escaped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
