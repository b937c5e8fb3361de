/*
 * ec2/fetch and ec2/blocks against the tests' own AWS: what comes is the volume as it was, byte for
 * byte, every block is read once, and whatever the service does on the way changes neither.
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
#include "ec2/fetch.h"
#include "ec2/snapshots.h"

#define BLOCKS ((uint32_t)(VOLUME_BYTES / EC2_BLOCK_BYTES))

/* A replica: a file that what is fetched is written to. */
struct replica {
	int fd;
	uint64_t next;    /* offsets only rise */
	uint32_t reached; /* as told */
	uint64_t data_blocks;
	uint64_t zero_bytes;
	uint32_t end_at;                /* index at which the taker gives up; 0: never */
	struct ec2_world *stop_at_data; /* told to stop at the first data */
};

static int take_data(void *context, uint64_t offset, const void *data, size_t n)
{
	struct replica *r = context;
	assert_true(offset >= r->next);
	assert_int_equal(n, EC2_BLOCK_BYTES);
	if (r->end_at && offset / EC2_BLOCK_BYTES >= r->end_at)
		return -EINTR;
	if (r->stop_at_data)
		atomic_store(&r->stop_at_data->stop, true);
	assert_int_equal(pwrite(r->fd, data, n, (off_t)offset), n);
	r->next = offset + n;
	r->data_blocks++;
	return 0;
}

static int take_zero(void *context, uint64_t offset, uint64_t n)
{
	struct replica *r = context;
	assert_true(offset >= r->next);
	assert_int_equal(fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
				 (off_t)n),
		0);
	r->next = offset + n;
	r->zero_bytes += n;
	return 0;
}

static int take_reached(void *context, uint32_t index)
{
	struct replica *r = context;
	assert_true(index >= r->reached);
	assert_true(r->next <= (uint64_t)index * EC2_BLOCK_BYTES);
	r->reached = index;
	return 0;
}

static const struct ec2_fetch_ops ops = { take_data, take_zero, take_reached };

static void replica_open(struct replica *r)
{
	char path[256];
	*r = (struct replica){ 0 };
	snprintf(path, sizeof(path), "%s/replica-XXXXXX", getenv("AWS_TEST_DIR"));
	r->fd = mkstemp(path);
	assert_true(r->fd >= 0);
	unlink(path);
	assert_int_equal(ftruncate(r->fd, (off_t)VOLUME_BYTES), 0);
}

static void replica_close(struct replica *r)
{
	close(r->fd);
}

/* Only where either has data; the rest is holes in both. */
static void assert_same(const struct replica *r, const char *path)
{
	static char a[EC2_BLOCK_BYTES], b[EC2_BLOCK_BYTES];
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	off_t at = 0;
	for (;;) {
		off_t ours = lseek(r->fd, at, SEEK_DATA);
		off_t theirs = lseek(fd, at, SEEK_DATA);
		if (ours < 0 && theirs < 0)
			break;
		at = ours < 0 ? theirs : theirs < 0 ? ours : MIN(ours, theirs);
		at = (off_t)round_down((uint64_t)at, EC2_BLOCK_BYTES);
		assert_int_equal(pread(r->fd, a, sizeof(a), at), sizeof(a));
		assert_int_equal(pread(fd, b, sizeof(b), at), sizeof(b));
		if (memcmp(a, b, sizeof(a)) != 0)
			fail_msg("block %lld differs", (long long)at / EC2_BLOCK_BYTES);
		at += EC2_BLOCK_BYTES;
	}
}

static struct ec2_fetch_options whole(const char *snapshot)
{
	return (struct ec2_fetch_options){
		.snapshot = snapshot, .volume_bytes = VOLUME_BYTES, .window = 16, .page_blocks = 100
	};
}

/* Runs of blocks with gaps in between, one of zeros, and the last of the volume. */
static void write_volume(const char *path, char letter)
{
	for (uint32_t i = 0; i < 120; i++)
		write_block(path, i, letter);
	for (uint32_t i = 200; i < 300; i += 3)
		write_block(path, i, letter);
	write_block(path, 500, 0);
	write_block(path, BLOCKS - 1, letter);
}
#define WRITTEN (120u + 34u + 2u)

static void a_whole_volume(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(replica_close) struct replica r;
	struct ec2_fetch_stats stats;
	char ids[VOLUMES][64];
	replica_open(&r);
	write_volume(s->path[0], 'a');
	make_set(s, "set-1", ids);
	/* What is written afterwards is not in it. */
	write_block(s->path[1], 7, 'x');
	const struct ec2_fetch_options options = whole(ids[0]);
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, &stats, &s->error));
	assert_same(&r, s->path[0]);
	assert_int_equal(r.reached, BLOCKS);
	assert_int_equal(stats.blocks, WRITTEN);
	assert_int_equal(stats.zero_blocks, 1);
	assert_int_equal(r.data_blocks, WRITTEN - 1);
	assert_int_equal(r.zero_bytes, (BLOCKS - WRITTEN + 1) * (uint64_t)EC2_BLOCK_BYTES);
	assert_int_equal(admin_number("/stats", "blocks_read"), WRITTEN);
	assert_int_equal(admin_operations("GetSnapshotBlock"), WRITTEN);
	assert_true(stats.pages >= 2);
	/* An empty volume costs no reads. */
	struct replica empty;
	replica_open(&empty);
	const struct ec2_fetch_options second = whole(ids[1]);
	assert_done(s, ec2_fetch(s->client, &second, &ops, &empty, &stats, &s->error));
	assert_int_equal(empty.zero_bytes, VOLUME_BYTES);
	assert_int_equal(stats.blocks, 0);
	replica_close(&empty);
}

/* Changes a volume that was written by write_volume; the number of blocks that came to be read. */
static unsigned change_volume(const char *path)
{
	write_block(path, 5, 'b');
	write_block(path, 201, 'b'); /* was never written */
	write_block(path, 203, 0);
	write_block(path, 1000, 'b');
	punch_block(path, 7);
	punch_block(path, 500);
	return 4;
}

static void what_changed(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(replica_close) struct replica r;
	struct ec2_fetch_stats stats;
	char one[VOLUMES][64], two[VOLUMES][64];
	replica_open(&r);
	write_volume(s->path[0], 'a');
	make_set(s, "set-1", one);
	struct ec2_fetch_options options = whole(one[0]);
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
	unsigned changed = change_volume(s->path[0]);
	make_set(s, "set-2", two);
	admin_post("/reset", "{}");
	options = whole(two[0]);
	options.base = one[0];
	r.next = 0;
	r.reached = 0;
	r.zero_bytes = 0;
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, &stats, &s->error));
	assert_same(&r, s->path[0]);
	assert_int_equal(stats.blocks, changed);
	assert_int_equal(stats.gone_blocks, 2);
	assert_int_equal(r.zero_bytes, 3 * EC2_BLOCK_BYTES);
	assert_int_equal(admin_operations("GetSnapshotBlock"), changed);
	/* Nothing changed: nothing is read. */
	options.snapshot = one[1];
	options.snapshot = two[1];
	options.base = one[1];
	r.next = 0;
	r.reached = 0;
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, &stats, &s->error));
	assert_int_equal(stats.blocks + stats.gone_blocks, 0);
}

static void whatever_the_service_does(void **state)
{
	struct ec2_world *s = *state;
	static const struct {
		const char *match;
		const char *fault;
		unsigned skip;
		unsigned times;
	} cases[] = {
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"corrupt\"", 3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"wrong_checksum\"", 3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"no_checksum\"", 3, 5 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"short\"", 3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"truncate\"", 3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"reset\"", 3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"",
			"\"kind\": \"status\", \"status\": 500, \"code\": "
			"\"InternalServerException\"",
			3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"",
			"\"kind\": \"status\", \"status\": 503, \"code\": \"ServiceUnavailable\"",
			3, 20 },
		{ "\"operation\": \"GetSnapshotBlock\"",
			"\"kind\": \"status\", \"status\": 400, \"code\": \"ThrottlingException\"",
			3, 40 },
		{ "\"operation\": \"ListSnapshotBlocks\"", "\"kind\": \"empty_page\"", 0, 3 },
		{ "\"operation\": \"ListSnapshotBlocks\"", "\"kind\": \"short_page\", \"items\": 1",
			0, 9 },
		{ "\"operation\": \"ListSnapshotBlocks\"", "\"kind\": \"truncate\"", 0, 2 },
		{ "\"operation\": \"ListSnapshotBlocks\"", "\"kind\": \"reset\"", 1, 2 },
		{ "\"operation\": \"ListSnapshotBlocks\"", "\"kind\": \"expire_page_tokens\"", 1,
			1 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_block_tokens\"", 9,
			1 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_block_tokens\"", 130,
			2 },
		{ "\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_page_tokens\"", 40,
			1 },
	};
	char ids[VOLUMES][64];
	write_volume(s->path[0], 'a');
	make_set(s, "set-1", ids);
	const struct ec2_fetch_options options = whole(ids[0]);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		CLEANUP(replica_close) struct replica r;
		struct ec2_fetch_stats stats = { 0 };
		replica_open(&r);
		admin_post("/rules/clear", "{}");
		admin_post("/reset", "{}");
		admin_fault(cases[i].match, cases[i].fault, cases[i].skip, cases[i].times);
		int result = ec2_fetch(s->client, &options, &ops, &r, &stats, &s->error);
		if (result < 0)
			print_message("fault %s\n", cases[i].fault);
		assert_done(s, result);
		assert_same(&r, s->path[0]);
		/* A block may be asked for twice by the library below when a kept connection
		 * was dead; what was answered whole counts once. */
		assert_int_equal(stats.blocks, WRITTEN);
		assert_in_range(admin_number("/stats", "blocks_read"), WRITTEN, WRITTEN + 20);
		if (strstr(cases[i].fault, "expire_block"))
			assert_true(stats.relistings > 0);
	}
}

static void all_faults_at_once(void **state)
{
	struct ec2_world *s = *state;
	static const char *const faults[] = { "\"kind\": \"corrupt\"", "\"kind\": \"short\"",
		"\"kind\": \"truncate\"", "\"kind\": \"reset\"", "\"kind\": \"wrong_checksum\"",
		"\"kind\": \"status\", \"status\": 500, \"code\": \"InternalServerException\"",
		"\"kind\": \"status\", \"status\": 400, \"code\": \"RequestThrottledException\"" };
	char one[VOLUMES][64], two[VOLUMES][64];
	CLEANUP(replica_close) struct replica r;
	replica_open(&r);
	write_volume(s->path[0], 'a');
	make_set(s, "set-1", one);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		admin_postf("/rules",
			"[{\"match\": {\"operation\": \"*Block*\"}, \"probability\": 0.04, "
			"\"fault\": "
			"{%s}}]",
			faults[i]);
	admin_fault(
		"\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_block_tokens\"", 70, 1);
	admin_post("/settings", "{\"page_blocks\": 37}");
	struct ec2_fetch_options options = whole(one[0]);
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
	assert_same(&r, s->path[0]);
	change_volume(s->path[0]);
	make_set(s, "set-2", two);
	options = whole(two[0]);
	options.base = one[0];
	r.next = 0;
	r.reached = 0;
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
	assert_same(&r, s->path[0]);
}

static void it_goes_on_where_it_was(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(replica_close) struct replica r;
	char ids[VOLUMES][64];
	replica_open(&r);
	write_volume(s->path[0], 'a');
	make_set(s, "set-1", ids);
	struct ec2_fetch_options options = whole(ids[0]);
	r.end_at = 110;
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -EINTR);
	assert_int_equal(s->error.error, 0);
	assert_int_equal(ec2_pending(s->client), 0);
	assert_in_range(r.reached, 40, 110);
	options.from_index = r.reached;
	r.end_at = 0;
	r.next = (uint64_t)r.reached * EC2_BLOCK_BYTES;
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
	assert_same(&r, s->path[0]);
	assert_int_equal(r.reached, BLOCKS);
	/* From the end there is nothing to do. */
	options.from_index = BLOCKS;
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
}

static void what_cannot_be(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(replica_close) struct replica r;
	char ids[VOLUMES][64], later[VOLUMES][64];
	replica_open(&r);
	write_block(s->path[0], 1, 'a');
	write_block(s->path[1], 1, 'a');
	make_set(s, "set-1", ids);
	make_set(s, "set-2", later);
	struct ec2_fetch_options options = whole(later[0]);
	options.base = ids[1];
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -EXDEV);
	assert_string_equal(s->error.reason, "UNRELATED_SNAPSHOTS");
	assert_string_equal(s->error.code, "ValidationException");
	options = whole("snap-0123456789abcdef0");
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -ENOENT);
	options = whole(later[0]);
	options.base = "snap-0123456789abcdef0";
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -ENOENT);
	/* A snapshot of a larger volume than one was told. */
	options = whole(ids[0]);
	options.volume_bytes = EC2_BLOCK_BYTES;
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -EBADMSG);
	/* Wrong for ever. */
	options = whole(ids[0]);
	admin_fault("\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"corrupt\"", 0, 0);
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -EBADMSG);
	assert_int_equal(r.data_blocks, 0);
	admin_post("/rules/clear", "{}");
	admin_fault(
		"\"operation\": \"GetSnapshotBlock\"", "\"kind\": \"expire_block_tokens\"", 0, 0);
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -EBADMSG);
	assert_int_equal(r.data_blocks, 0);
	admin_post("/rules/clear", "{}");
	admin_post("/settings", "{\"deny\": [\"GetSnapshotBlock\"]}");
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -EACCES);
}

static void throttles_are_obeyed(void **state)
{
	struct ec2_world *s = *state;
	static const uint64_t rates[EC2_LIMITS] = { 1000, 50, 20 };
	CLEANUP(replica_close) struct replica r;
	struct ec2_stats stats;
	char ids[VOLUMES][64];
	replica_open(&r);
	write_volume(s->path[0], 'a');
	assert_int_equal(ec2_limiter_new(clock_system(), rates, &s->limiter), 0);
	ec2_service_renew(s, NULL, NULL);
	make_set(s, "set-1", ids);
	admin_post("/settings", "{\"blocks_per_s\": 100, \"lists_per_s\": 5}");
	const struct ec2_fetch_options options = whole(ids[0]);
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
	assert_same(&r, s->path[0]);
	ec2_get_stats(s->client, &stats);
	assert_true(stats.calls.throttled > 0);
	assert_true(ec2_limiter_rate(s->limiter, EC2_LIMIT_BLOCKS) < 1000);
	/* A limiter that knows the rate hardly ever is: only when its requests bunch on the way. */
	ec2_limiter_free(s->limiter);
	s->limiter = NULL;
	static const uint64_t slow[EC2_LIMITS] = { 60, 3, 20 };
	assert_int_equal(ec2_limiter_new(clock_system(), slow, &s->limiter), 0);
	ec2_service_renew(s, NULL, NULL);
	admin_post("/rules/clear", "{}");
	admin_post("/reset", "{}");
	r.next = 0;
	r.reached = 0;
	assert_done(s, ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error));
	assert_true(admin_number("/stats", "throttled") <= stats.calls.throttled / 2);
}

static void it_can_be_stopped(void **state)
{
	struct ec2_world *s = *state;
	CLEANUP(replica_close) struct replica r;
	char ids[VOLUMES][64];
	replica_open(&r);
	write_volume(s->path[0], 'a');
	make_set(s, "set-1", ids);
	admin_post("/settings", "{\"delay_ms\": 20}");
	r.stop_at_data = s;
	const struct ec2_fetch_options options = whole(ids[0]);
	int64_t before_ns = clock_monotonic_ns(clock_system());
	assert_int_equal(ec2_fetch(s->client, &options, &ops, &r, NULL, &s->error), -ECANCELED);
	assert_true(clock_monotonic_ns(clock_system()) - before_ns < 5 * NS_PER_S);
	assert_int_equal(ec2_pending(s->client), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, ec2_service_open, ec2_service_close)
		TEST(a_whole_volume),
		TEST(what_changed),
		TEST(whatever_the_service_does),
		TEST(all_faults_at_once),
		TEST(it_goes_on_where_it_was),
		TEST(what_cannot_be),
		TEST(throttles_are_obeyed),
		TEST(it_can_be_stopped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
