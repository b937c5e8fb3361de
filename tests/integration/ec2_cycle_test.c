/*
 * ec2/cycle against the tests' own AWS: set after set, two replicas that equal the volumes at each
 * set's moment, cut off at every step, with the line lost, with orphans.
 */
#include "tests/integration/ec2_service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "ec2/cycle.h"
#include "ec2/snapshots.h"

/* What survives an end: the replicas, and the state that was saved last. */
struct keeper {
	struct ec2_world *world;
	struct ec2_cycle cycle;
	struct buf saved;
	int fds[VOLUMES];
	unsigned calls;  /* of the taker's functions, in this run */
	unsigned end_at; /* which of them ends the run; 0: none */
	unsigned wholes; /* volumes that came whole */
	uint64_t blocks;
	uint64_t deleted; /* DeleteSnapshots when it was last saved as IDLE */
};

static int count_call(struct keeper *k)
{
	return ++k->calls == k->end_at ? -EINTR : 0;
}

static int save(void *context, const struct ec2_cycle *cycle)
{
	struct keeper *k = context;
	int r = count_call(k);
	if (r < 0)
		return r;
	if (cycle->phase == EC2_CYCLE_IDLE)
		k->deleted = admin_operations("DeleteSnapshot");
	buf_clear(&k->saved);
	return ec2_cycle_print(cycle, &k->saved);
}

static int fd_of(struct keeper *k, const struct ec2_cycle_volume *volume)
{
	return k->fds[strcmp(volume->id, k->world->volume[1]) == 0];
}

static int begin(void *context, const struct ec2_cycle_volume *volume)
{
	struct keeper *k = context;
	k->wholes += volume->whole;
	return count_call(k);
}

static int data(void *context, const struct ec2_cycle_volume *volume, uint64_t offset,
	const void *bytes, size_t n)
{
	struct keeper *k = context;
	assert_int_equal(pwrite(fd_of(k, volume), bytes, n, (off_t)offset), n);
	k->blocks++;
	return count_call(k);
}

static int zero(void *context, const struct ec2_cycle_volume *volume, uint64_t offset, uint64_t n)
{
	struct keeper *k = context;
	assert_int_equal(fallocate(fd_of(k, volume), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)offset, (off_t)n),
		0);
	return count_call(k);
}

static const struct ec2_cycle_ops ops = {
	.save = save, .begin = begin, .data = data, .zero = zero
};
static const struct ec2_tag tags[] = { { "landfall:group", "a group of one" } };
static const struct ec2_cycle_options options = {
	.tags = tags, .tag_count = 1, .window = 4, .save_every = 8, .poll_ms = 20
};

static void keeper_open(struct keeper *k, struct ec2_world *world)
{
	*k = (struct keeper){ .world = world };
	k->cycle.count = VOLUMES;
	snprintf(k->cycle.instance, sizeof(k->cycle.instance), "%s", world->instance);
	for (unsigned i = 0; i < VOLUMES; i++) {
		char path[256];
		snprintf(k->cycle.volumes[i].id, EC2_ID_BYTES, "%s", world->volume[i]);
		snprintf(path, sizeof(path), "%s/replica-XXXXXX", getenv("AWS_TEST_DIR"));
		k->fds[i] = mkstemp(path);
		assert_true(k->fds[i] >= 0);
		unlink(path);
		assert_int_equal(ftruncate(k->fds[i], (off_t)VOLUME_BYTES), 0);
	}
	assert_int_equal(save(k, &k->cycle), 0);
}

static void keeper_close(struct keeper *k)
{
	for (unsigned i = 0; i < VOLUMES; i++)
		close(k->fds[i]);
	buf_free(&k->saved);
}

static void assert_replicas(struct keeper *k)
{
	static char a[EC2_BLOCK_BYTES], b[EC2_BLOCK_BYTES];
	for (unsigned i = 0; i < VOLUMES; i++) {
		CLEANUP_CLOSE int fd = open(k->world->path[i], O_RDONLY | O_CLOEXEC);
		for (off_t at = 0;;) {
			off_t ours = lseek(k->fds[i], at, SEEK_DATA);
			off_t theirs = lseek(fd, at, SEEK_DATA);
			if (ours < 0 && theirs < 0)
				break;
			at = ours < 0 ? theirs : theirs < 0 ? ours : MIN(ours, theirs);
			at = (off_t)round_down((uint64_t)at, EC2_BLOCK_BYTES);
			assert_int_equal(pread(k->fds[i], a, sizeof(a), at), sizeof(a));
			assert_int_equal(pread(fd, b, sizeof(b), at), sizeof(b));
			if (memcmp(a, b, sizeof(a)) != 0)
				fail_msg("volume %u, block %lld differs", i,
					(long long)at / EC2_BLOCK_BYTES);
			at += EC2_BLOCK_BYTES;
		}
	}
}

/* As after kill -9: what was saved last is all there is. */
static void reload(struct keeper *k)
{
	struct error error = { 0 };
	if (ec2_cycle_parse(k->saved.data, k->saved.len, &k->cycle, &error) < 0)
		fail_msg("%s", error.message);
	k->calls = 0;
}

static int run_once(struct keeper *k)
{
	struct ec2_world *s = k->world;
	struct http_error left;
	k->calls = 0;
	int r = ec2_cycle_run(s->client, &k->cycle, &options, &ops, k, NULL, &s->error);
	return r == 0 ? ec2_cycle_settle(s->client, &k->cycle, &ops, k, &left) : r;
}

static void run_cycle(struct keeper *k)
{
	k->end_at = 0;
	k->wholes = 0;
	k->blocks = 0;
	assert_done(k->world, run_once(k));
	assert_int_equal(k->cycle.phase, EC2_CYCLE_IDLE);
	assert_replicas(k);
}

static int count_one(void *context, const struct ec2_snapshot *snapshot)
{
	(void)snapshot;
	++*(unsigned *)context;
	return 0;
}

static unsigned snapshots_alive(struct ec2_world *s)
{
	const char *values[] = { s->volume[0], s->volume[1] };
	const struct ec2_filter filter = { "volume-id", values, 2 };
	const struct ec2_query query = { .filters = &filter, .filter_count = 1 };
	unsigned count = 0;
	assert_done(s, ec2_describe_snapshots(s->client, &query, count_one, &count, &s->error));
	return count;
}

static void first_content(struct ec2_world *s)
{
	for (uint32_t i = 0; i < 20; i++)
		write_block(s->path[0], i * 3, 'a');
	write_block(s->path[1], 0, 'a');
	write_block(s->path[1], 2047, 'a');
}

static void set_after_set(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(keeper_close) struct keeper k;
	keeper_open(&k, s);
	first_content(s);
	run_cycle(&k);
	assert_int_equal(k.wholes, 2);
	assert_int_equal(k.blocks, 22);
	for (char letter = 'b'; letter < 'f'; letter++) {
		write_block(s->path[0], (uint32_t)letter, letter);
		write_block(s->path[1], 0, letter);
		punch_block(s->path[0], (uint32_t)(letter - 'b') * 3);
		run_cycle(&k);
		assert_int_equal(k.wholes, 0);
		assert_int_equal(k.blocks, 2);
		/* Nothing goes before the state says that it is not needed. */
		assert_int_equal(admin_operations("DeleteSnapshot"), k.deleted + 2);
	}
	assert_int_equal(snapshots_alive(s), 2);
}

static void cut_off_at_every_step(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(keeper_close) struct keeper k;
	keeper_open(&k, s);
	first_content(s);
	admin_post("/settings", "{\"complete_s\": 0.02}");
	uint64_t sets = admin_number("/stats", "sets");
	unsigned cuts = 0;
	struct http_error left;
	char letter = 'b';
	/* Each cycle is cut off at its 1st, 2nd, 3rd, … call, and each is brought to its end. */
	for (unsigned at = 1;; at++) {
		k.end_at = at;
		k.wholes = 0;
		int r = run_once(&k);
		if (r == -EINTR) {
			cuts++;
			reload(&k);
			k.end_at = 0;
			if (k.cycle.phase == EC2_CYCLE_COPIED)
				assert_int_equal(
					ec2_cycle_settle(s->client, &k.cycle, &ops, &k, &left), 0);
			else
				assert_done(s, run_once(&k));
		} else {
			assert_done(s, r);
		}
		sets++;
		assert_true(at == 1 || k.wholes == 0); /* the line goes on */
		assert_replicas(&k);
		assert_int_equal(snapshots_alive(s), 2);
		if (r == 0)
			break;
		for (uint32_t i = 0; i < 18; i++)
			write_block(s->path[0], i, letter);
		write_block(s->path[1], 5, letter);
		punch_block(s->path[1], 2047 - at);
		letter = letter == 'z' ? 'b' : (char)(letter + 1);
	}
	/* Seven saves, two volumes, nineteen blocks and some. */
	assert_true(cuts > 25);
	assert_int_equal(admin_number("/stats", "sets"), sets);
}

static void the_line_is_lost(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(keeper_close) struct keeper k;
	keeper_open(&k, s);
	first_content(s);
	run_cycle(&k);
	/* Somebody deletes the base of one volume. */
	admin_postf("/snapshot/delete", "{\"id\": \"%s\"}", k.cycle.volumes[0].base);
	write_block(s->path[0], 4, 'b');
	write_block(s->path[1], 4, 'b');
	run_cycle(&k);
	assert_int_equal(k.wholes, 1);
	assert_int_equal(k.blocks, 22);
	/* A base of another volume's line; what was the base is nobody's then. */
	snprintf(k.cycle.volumes[0].base, EC2_ID_BYTES, "%s", k.cycle.volumes[1].base);
	run_cycle(&k);
	assert_int_equal(k.wholes, 1);
	/* A base of another size. */
	k.cycle.volumes[1].base_bytes /= 2;
	run_cycle(&k);
	assert_int_equal(k.wholes, 1);
	assert_int_equal(snapshots_alive(s), 3);
}

static void sets_that_cannot_be_used(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(keeper_close) struct keeper k;
	keeper_open(&k, s);
	first_content(s);
	run_cycle(&k);
	admin_fault("\"operation\": \"CreateSnapshots\"", "\"kind\": \"end_in_error\"", 0, 1);
	assert_int_equal(run_once(&k), -EIO);
	assert_int_equal(k.cycle.phase, EC2_CYCLE_IDLE);
	assert_int_equal(snapshots_alive(s), 2);
	admin_post("/settings", "{\"snapshot_interval_s\": 3600}");
	assert_int_equal(run_once(&k), -EAGAIN);
	assert_int_equal(k.cycle.phase, EC2_CYCLE_IDLE);
	admin_post("/settings", "{\"snapshot_interval_s\": 0}");
	/* The answer is lost: adopted, not made twice. */
	uint64_t sets = admin_number("/stats", "sets");
	admin_fault("\"operation\": \"CreateSnapshots\"", "\"kind\": \"reset\", \"applied\": true",
		0, 1);
	write_block(s->path[1], 9, 'c');
	run_cycle(&k);
	assert_int_equal(k.wholes, 0);
	assert_int_equal(admin_number("/stats", "sets"), sets + 1);
	/* A volume that is not the instance's. */
	snprintf(k.cycle.volumes[1].id, EC2_ID_BYTES, "vol-0123456789abcdef0");
	assert_int_equal(run_once(&k), -ENODEV);
}

/* EC2 may not show for a while what it made. */
static void no_id_is_used_twice(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(keeper_close) struct keeper k;
	char first[EC2_SET_ID_BYTES];
	unsigned made = 0;
	keeper_open(&k, s);
	first_content(s);
	run_cycle(&k);
	/* Its making is cut off from us, and it is not to be seen afterwards: as is the next. */
	admin_post("/settings", "{\"visible_s\": 3600}");
	k.end_at = 2;
	write_block(s->path[0], 4, 'b');
	assert_int_equal(run_once(&k), -EINTR);
	reload(&k);
	assert_int_equal(k.cycle.phase, EC2_CYCLE_CREATING);
	memcpy(first, k.cycle.set, sizeof(first));
	write_block(s->path[0], 4, 'c');
	assert_int_equal(run_once(&k), -EINTR);
	reload(&k);
	assert_int_equal(k.cycle.phase, EC2_CYCLE_CREATING);
	assert_string_not_equal(k.cycle.set, first);
	admin_post("/settings", "{\"visible_s\": 0}");
	run_cycle(&k);
	assert_int_equal(k.wholes, 0);
	assert_int_equal(k.blocks, 1);
	assert_int_equal(snapshots_alive(s), 4);
	/* Two sets of one id, whoever made them: neither counts. */
	k.end_at = 2;
	write_block(s->path[0], 4, 'd');
	assert_int_equal(run_once(&k), -EINTR);
	reload(&k);
	const struct ec2_snapshot_set again = {
		.instance_id = s->instance, .set_id = k.cycle.set, .tags = tags, .tag_count = 1
	};
	assert_done(s, ec2_create_snapshots(s->client, &again, count_one, &made, &s->error));
	k.end_at = 0;
	assert_int_equal(run_once(&k), -EIO);
	assert_non_null(strstr(s->error.message, "two snapshots of one volume"));
	assert_int_equal(k.cycle.phase, EC2_CYCLE_IDLE);
	run_cycle(&k);
	assert_int_equal(k.wholes, 0);
}

static void orphans_are_found(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(keeper_close) struct keeper k;
	unsigned deleted = 99;
	keeper_open(&k, s);
	run_cycle(&k);
	const struct ec2_snapshot_set ours = {
		.instance_id = s->instance, .set_id = "late", .tags = tags, .tag_count = 1
	};
	const struct ec2_tag another = { tags[0].key, "another group" };
	const struct ec2_snapshot_set theirs = {
		.instance_id = s->instance, .set_id = "other", .tags = &another, .tag_count = 1
	};
	unsigned made = 0;
	assert_done(s, ec2_create_snapshots(s->client, &ours, count_one, &made, &s->error));
	assert_done(s, ec2_create_snapshots(s->client, &theirs, count_one, &made, &s->error));
	assert_int_equal(snapshots_alive(s), 6);
	assert_done(s, ec2_cycle_delete_orphans(s->client, &k.cycle, tags[0].key, tags[0].value,
			       &deleted, &s->error));
	assert_int_equal(deleted, 0); /* too young */
	admin_post("/snapshots/age", "{\"s\": 120}");
	assert_done(s, ec2_cycle_delete_orphans(s->client, &k.cycle, tags[0].key, tags[0].value,
			       &deleted, &s->error));
	assert_true(deleted >= 2);
	assert_int_equal(snapshots_alive(s), 4);
	write_block(s->path[0], 1, 'b');
	run_cycle(&k);
	assert_int_equal(k.wholes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, ec2_service_open, ec2_service_close)
		TEST(set_after_set),
		TEST(cut_off_at_every_step),
		TEST(the_line_is_lost),
		TEST(sets_that_cannot_be_used),
		TEST(no_id_is_used_twice),
		TEST(orphans_are_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
