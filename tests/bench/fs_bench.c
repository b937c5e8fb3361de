/*
 * What the journal, the map and the views cost, each beside what the disk or the kernel itself
 * does in the same run.
 *
 *	fs_bench DIR [ingest lone overhead seal index restart]
 *
 * Prints one JSON object a line: {"figure", "value", "unit", "goal", "met", "detail"}. Figures that
 * compare are ratios of medians of slices that take turns, so that a noisy neighbour hits both
 * sides. DIR is on the disk to be measured and needs 10 GiB for `restart`.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/rng.h"
#include "fs/committer.h"
#include "fs/history.h"

#define MAX_SAMPLES 8192

struct samples {
	double value[MAX_SAMPLES];
	unsigned count;
};

struct bench {
	const char *directory;
	struct history *history;
	struct rng rng;
	uint64_t flushed_lsn;
	uint8_t *data; /* 1 MiB, aligned */
	int raw;       /* a written file of RAW_BYTES, O_DIRECT */
	uint64_t raw_at;
};

#define RAW_BYTES (512 * MIB)

static void die(const char *what, int r)
{
	fprintf(stderr, "fs_bench: %s: %s\n", what, strerror(-r));
	exit(1);
}

static void must(int r, const char *what)
{
	if (r < 0)
		die(what, r);
}

static double now_us(void)
{
	return (double)clock_monotonic_ns(clock_system()) / 1e3;
}

static void add_sample(struct samples *s, double value)
{
	if (s->count < MAX_SAMPLES)
		s->value[s->count++] = value;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double quantile(struct samples *s, double q)
{
	if (s->count == 0)
		return 0;
	qsort(s->value, s->count, sizeof(s->value[0]), by_value);
	return s->value[(unsigned)(q * (s->count - 1) + 0.5)];
}

static void report(const char *figure, double value, const char *unit, double goal, bool met,
	const char *format, ...) __attribute__((format(printf, 6, 7)));

static void report(const char *figure, double value, const char *unit, double goal, bool met,
	const char *format, ...)
{
	char detail[256];
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	printf("{\"figure\": \"%s\", \"value\": %.3f, \"unit\": \"%s\", \"goal\": %.3f, "
	       "\"met\": %s, \"detail\": \"%s\"}\n",
		figure, value, unit, goal, met ? "true" : "false", detail);
	fflush(stdout);
}

/* A vault that holds zeros: what is measured is the journal. */
static int blank_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	(void)base, (void)disk, (void)point, (void)offset;
	memset(data, 0, n);
	return 0;
}

static struct base *blank_base(void)
{
	static const struct base_ops ops = { .read = blank_read };
	static struct base base = { &ops };
	return &base;
}

static void open_history(struct bench *b, uint64_t limit_bytes)
{
	struct history_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.base = blank_base(),
		.directory = b->directory,
		.group = { { 1, 2, 3 } },
		.limit_bytes = limit_bytes,
	};
	struct history_report found;
	struct error error = { 0 };
	if (history_open(&options, &found, &error, &b->history) < 0) {
		fprintf(stderr, "fs_bench: %s\n", error.message);
		exit(1);
	}
}

static int remove_name(void *context, const char *name)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s", (const char *)context, name);
	return unlink(path) < 0 ? -errno : 0;
}

static void remove_history(struct bench *b)
{
	history_close(b->history);
	b->history = NULL;
	must(io_list(io_posix(), b->directory, remove_name, (void *)b->directory), "clean up");
	rmdir(b->directory);
}

static uint16_t add_disk(struct bench *b, const char *name, uint64_t bytes)
{
	uint16_t disk;
	uint64_t lsn;
	must(history_add_disk(b->history, name, bytes, &disk, &lsn), "add disk");
	must(history_commit(b->history, &lsn), "commit");
	return disk;
}

static void stage(struct bench *b, uint16_t disk, uint64_t lba, uint32_t sectors)
{
	uint64_t lsn;
	int r = history_write(b->history, disk, lba, sectors, b->data, &lsn);
	if (r == -EAGAIN) {
		must(history_commit(b->history, &lsn), "commit");
		r = history_write(b->history, disk, lba, sectors, b->data, &lsn);
	}
	must(r, "write");
}

static void commit(struct bench *b)
{
	uint64_t lsn;
	must(history_commit(b->history, &lsn), "commit");
}

static uint64_t seal(struct bench *b)
{
	struct seal s = { .time_ns = clock_realtime_ns(clock_system()), .kind = POINT_CRASH };
	uint64_t number, lsn;
	must(history_seal(b->history, &s, &number, &lsn), "seal");
	commit(b);
	return number;
}

static void maintain(struct bench *b)
{
	bool more = true;
	while (more)
		must(history_maintain(b->history, &more), "maintain");
}

/* Seals, says that all of it is in the vault, and gives the room back: the steady state. */
static void flush_all(struct bench *b, uint64_t keep_bytes)
{
	uint64_t lsn, used, number = seal(b);
	must(history_flush_begin(b->history, number, &lsn), "flush begin");
	must(history_flush_commit(b->history, number, &lsn), "flush commit");
	commit(b);
	must(history_trim(b->history, keep_bytes, &used), "trim");
	maintain(b);
}

static void open_raw(struct bench *b)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s.raw", b->directory);
	b->raw = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
	if (b->raw < 0)
		die(path, -errno);
	unlink(path);
	for (uint64_t at = 0; at < RAW_BYTES; at += MIB)
		if (pwrite(b->raw, b->data, MIB, (off_t)at) != (ssize_t)MIB)
			die("raw write", -errno);
	if (fsync(b->raw) < 0)
		die("raw fsync", -errno);
}

static void raw_write(struct bench *b, size_t n)
{
	if (b->raw_at + n > RAW_BYTES)
		b->raw_at = 0;
	if (pwrite(b->raw, b->data, n, (off_t)b->raw_at) != (ssize_t)n || fdatasync(b->raw) < 0)
		die("raw write", -errno);
	b->raw_at += n;
}

/* One writer stages while the committer's thread writes, as it is in the appliance. */
static void bench_ingest(struct bench *b)
{
	struct samples ours = { 0 }, raw = { 0 };
	open_history(b, 4 * GIB);
	uint16_t disk = add_disk(b, "m/d", 64 * GIB);
	uint64_t lba = 0, lsn;
	struct history_stats before, after;
	history_stats(b->history, &before);
	const unsigned slice = 64; /* MiB */
	for (int round = 0; round < 24; round++) {
		struct committer *committer;
		must(committer_new(b->history, NULL, &committer), "committer");
		double begin = now_us();
		for (unsigned i = 0; i < slice; i++, lba += MIB / SECTOR_BYTES)
			must(committer_write(
				     committer, disk, lba, MIB / SECTOR_BYTES, b->data, &lsn),
				"write");
		must(committer_sync(committer), "sync");
		double middle = now_us();
		committer_free(committer);
		for (unsigned i = 0; i < slice; i++)
			raw_write(b, MIB);
		double end = now_us();
		/* The first rounds warm up: they find no recycled segment yet. */
		if (round >= 4) {
			add_sample(&ours, slice * (double)MIB / (middle - begin));
			add_sample(&raw, slice * (double)MIB / (end - middle));
		}
		flush_all(b, 256 * MIB);
	}
	history_stats(b->history, &after);
	double a = quantile(&ours, 0.5), r = quantile(&raw, 0.5);
	report("durable ingest, batches of 1 MiB and more", a / r, "of raw", 0.9, a / r >= 0.9,
		"%.0f MB/s, %.1f MiB a commit; raw O_DIRECT + fdatasync of 1 MiB %.0f MB/s", a,
		(double)(after.journal_bytes - before.journal_bytes) /
			(double)(after.commits - before.commits) / (double)MIB,
		r);
	remove_history(b);
}

/* A journal that nothing was trimmed from yet: it goes on in a spare of zeros. */
static void bench_lone_new(struct bench *b)
{
	struct samples ours = { 0 }, raw = { 0 };
	open_history(b, 4 * GIB);
	uint16_t disk = add_disk(b, "m/d", 64 * GIB);
	for (int i = 0; i < 6000; i++) {
		double begin = now_us();
		stage(b, disk, rng_below(&b->rng, 1 << 20) * 8, 8);
		commit(b);
		double middle = now_us();
		raw_write(b, 4096);
		if (i >= 2000) {
			add_sample(&ours, middle - begin);
			add_sample(&raw, now_us() - middle);
		}
		if (i % 100 == 0)
			maintain(b);
	}
	double a = quantile(&ours, 0.5), r = quantile(&raw, 0.5);
	report("lone 4 KiB durable write in a new journal, p50", a / r, "x raw", 1.5, a / r <= 1.5,
		"p50 %.0f us, p99 %.0f us; raw p50 %.0f us, p99 %.0f us", a, quantile(&ours, 0.99),
		r, quantile(&raw, 0.99));
	remove_history(b);
}

static void bench_lone(struct bench *b)
{
	bench_lone_new(b);
	struct samples ours = { 0 }, raw = { 0 };
	open_history(b, 4 * GIB);
	uint16_t disk = add_disk(b, "m/d", 64 * GIB);
	for (int round = 0; round < 44; round++) {
		for (int i = 0; i < 100; i++) {
			double begin = now_us();
			stage(b, disk, rng_below(&b->rng, 1 << 20) * 8, 8);
			commit(b);
			double middle = now_us();
			raw_write(b, 4096);
			double end = now_us();
			if (round >= 4) {
				add_sample(&ours, middle - begin);
				add_sample(&raw, end - middle);
			}
		}
		maintain(b);
		if (round == 1) {
			/* Fills segments, gives them back, and fills the one that was begun before:
			 * what follows goes into recycled ones, as it does in the long run. */
			for (int i = 0; i < 256; i++)
				stage(b, disk, (uint64_t)i * 2048, 2048);
			flush_all(b, 192 * MIB);
			for (int i = 0; i < 64; i++)
				stage(b, disk, (uint64_t)i * 2048, 2048);
			commit(b);
		}
	}
	double a = quantile(&ours, 0.99), r = quantile(&raw, 0.99);
	report("lone 4 KiB durable write, p99", a / r, "x raw", 1.5, a / r <= 1.5,
		"p99 %.0f us, p50 %.0f us; raw p99 %.0f us, p50 %.0f us", a, quantile(&ours, 0.5),
		r, quantile(&raw, 0.5));
	remove_history(b);
}

static double overhead_of(struct bench *b, uint32_t bytes)
{
	open_history(b, 4 * GIB);
	uint16_t disk = add_disk(b, "m/d", 64 * GIB);
	struct history_stats before, after;
	history_stats(b->history, &before);
	for (int batch = 0; batch < 128; batch++) {
		for (uint64_t done = 0; done < MIB; done += bytes)
			stage(b, disk, rng_below(&b->rng, 1 << 20) * (bytes / SECTOR_BYTES),
				bytes / SECTOR_BYTES);
		commit(b);
	}
	history_stats(b->history, &after);
	remove_history(b);
	return (double)(after.journal_bytes - before.journal_bytes) /
	       (double)(after.written_bytes - before.written_bytes);
}

static void bench_overhead(struct bench *b)
{
	double large = overhead_of(b, 64 * KIB), small = overhead_of(b, 4096);
	report("journal bytes per payload byte, 64 KiB", large, "", 1.02, large <= 1.02,
		"batches of 1 MiB");
	report("journal bytes per payload byte, 4 KiB", small, "", 1.05, small <= 1.05,
		"batches of 1 MiB");
}

struct seal_cost {
	double ours_us, raw_us; /* medians */
};

/* A seal with so much dirty data behind it, beside a raw write of 4 KiB with its fdatasync. */
static struct seal_cost seal_cost(struct bench *b, uint64_t disk_bytes, unsigned dirty_mib)
{
	struct samples ours = { 0 }, raw = { 0 };
	open_history(b, 8 * GIB);
	uint16_t disk = add_disk(b, "m/d", disk_bytes);
	for (int round = 0; round < 40; round++) {
		for (unsigned i = 0; i < dirty_mib; i++)
			stage(b, disk, rng_below(&b->rng, 512) * 2048, 2048);
		commit(b);
		double begin = now_us();
		seal(b);
		double middle = now_us();
		raw_write(b, 4096);
		double end = now_us();
		add_sample(&ours, middle - begin);
		add_sample(&raw, end - middle);
		if (round % 8 == 7)
			flush_all(b, 0);
	}
	remove_history(b);
	return (struct seal_cost){ quantile(&ours, 0.5), quantile(&raw, 0.5) };
}

static void bench_seal(struct bench *b)
{
	struct seal_cost small = seal_cost(b, GIB, 4);
	struct seal_cost large = seal_cost(b, 8 * TIB - MIB, 4);
	struct seal_cost dirty = seal_cost(b, GIB, 40);
	double worst = MAX(small.ours_us / small.raw_us, large.ours_us / large.raw_us);
	worst = MAX(worst, dirty.ours_us / dirty.raw_us);
	report("seal", worst, "fdatasyncs", 2, worst <= 2,
		"1 GiB %.0f us beside %.0f us, 8 TiB %.0f us beside %.0f us, 10 x dirty %.0f us "
		"beside %.0f us",
		small.ours_us, small.raw_us, large.ours_us, large.raw_us, dirty.ours_us,
		dirty.raw_us);
}

static void bench_index(struct bench *b)
{
	struct extent_map *map;
	must(extent_map_new(&map), "map");
	const unsigned count = 2u << 20;
	double begin = now_us();
	for (unsigned i = 0; i < count; i++) {
		struct extent e = { .lba = rng_below(&b->rng, 1ull << 30) * 8,
			.sectors = 8,
			.segment = i >> 14,
			.header = (i & 0x3fff) * 8,
			.index = (uint8_t)(i % 165) };
		must(extent_map_insert(map, &e), "insert");
	}
	double took = now_us() - begin;
	double bytes = (double)extent_map_memory_bytes(map) / (double)extent_map_count(map);
	report("index memory, random 4 KiB", bytes, "bytes an extent", 24, bytes <= 24,
		"%.0f ns an insertion at 2 Mi extents", took * 1e3 / count);
	extent_map_free(map);
}

/* Fills the journal with 4 KiB writes, then restarts and opens an old point. */
static void bench_restart(struct bench *b)
{
	const uint64_t full_bytes = 8 * GIB;
	open_history(b, 12 * GIB);
	uint16_t disk = add_disk(b, "m/d", 64 * GIB);
	uint64_t oldest_million = 0;
	const uint64_t writes = full_bytes / 4096;
	for (uint64_t i = 0; i < writes; i++) {
		stage(b, disk, rng_below(&b->rng, 16 << 20) * 8, 8);
		if (i % 256 == 255)
			commit(b);
		if (i % 65536 == 65535) {
			uint64_t number = seal(b);
			if (i < (1 << 20))
				oldest_million = number;
			maintain(b);
		}
	}
	struct history_stats stats;
	history_stats(b->history, &stats);
	history_close(b->history);
	double begin = now_us();
	open_history(b, 12 * GIB);
	double seconds = (now_us() - begin) / 1e6;
	double goal = 10.0 * (double)stats.used_bytes / (64.0 * (double)GIB);
	report("restart with a full journal", seconds, "s", goal, seconds <= goal,
		"%.1f GiB of journal, %.1f M extents in the head", (double)stats.used_bytes / GIB,
		(double)stats.head_extents / 1e6);
	struct view *view;
	begin = now_us();
	must(history_view_open(b->history, oldest_million, &view), "view");
	seconds = (now_us() - begin) / 1e6;
	report("opening an old point", seconds, "s for a million extents", 0.5, seconds <= 0.5,
		"a point with the first 2^20 writes of 4 KiB; its map takes %.0f MB",
		(double)view_memory_bytes(view) / 1e6);
	view_close(view);
	remove_history(b);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(struct bench *b);
	} parts[] = {
		{ "ingest", bench_ingest },
		{ "lone", bench_lone },
		{ "overhead", bench_overhead },
		{ "seal", bench_seal },
		{ "index", bench_index },
		{ "restart", bench_restart },
	};
	if (argc < 2) {
		fprintf(stderr, "usage: fs_bench DIR [PART…]\n");
		return 2;
	}
	char directory[4096];
	snprintf(directory, sizeof(directory), "%s/fs_bench.%d", argv[1], (int)getpid());
	struct bench b = { .directory = directory };
	rng_seed(&b.rng, 1);
	b.data = aligned_alloc(IO_DIRECT_ALIGN, MIB);
	if (!b.data)
		die("memory", -ENOMEM);
	rng_fill(&b.rng, b.data, MIB);
	open_raw(&b);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		bool wanted = argc == 2;
		for (int a = 2; a < argc; a++)
			wanted |= strcmp(argv[a], parts[i].name) == 0;
		if (wanted)
			parts[i].run(&b);
	}
	close(b.raw);
	free(b.data);
	return 0;
}
