/*
 * Taking marks every second, and counting what is distinct.
 */
#include "replicator/agent/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define RANGES 256u
#define PUT_BYTES (4u << 20)
#define GAP_BYTES (64u << 10)
#define SPARE 1.2 /* bandwidth beyond what was measured */
#define GB 1e9

const unsigned measure_window_s[MEASURE_WINDOWS] = { 5, 60, 300, 900 };
const uint64_t measure_block_bytes[MEASURE_SIZES] = { 4096, 65536, 1 << 20 };

struct bits {
	uint64_t *words;
	uint64_t blocks, set;
};

struct watched {
	struct disk disk;
	struct tracker_disk *tracked;
	uint64_t block_bytes;
	struct bits windows[MEASURE_WINDOWS], all;
	uint64_t written, requests; /* at the start, by the kernel */
	uint64_t last_written;
};

struct measure {
	struct tracker *tracker;
	struct watched watched[SOURCE_DISKS_MAX];
	unsigned count;
	unsigned age[MEASURE_WINDOWS]; /* seconds in the window so far */
	double sum[MEASURE_WINDOWS], puts[MEASURE_WINDOWS];
};

/* ── bits ────────────────────────────────────────────────────────────────────────────────── */

static int bits_new(struct bits *b, uint64_t blocks)
{
	b->blocks = blocks;
	b->words = calloc(blocks / 64 + 1, sizeof(*b->words));
	return b->words ? 0 : -ENOMEM;
}

static void bits_set(struct bits *b, uint64_t first, uint64_t end)
{
	for (uint64_t i = first; i < end && i < b->blocks; i++) {
		uint64_t bit = 1ull << i % 64;
		b->set += !(b->words[i / 64] & bit);
		b->words[i / 64] |= bit;
	}
}

static bool bits_is_set(const struct bits *b, uint64_t i)
{
	return b->words[i / 64] >> i % 64 & 1;
}

/* The next block that is set, from i on; b->blocks: none. */
static uint64_t bits_next(const struct bits *b, uint64_t i)
{
	while (i < b->blocks && !bits_is_set(b, i))
		i = b->words[i / 64] >> i % 64 == 0 ? (i / 64 + 1) * 64 : i + 1;
	return MIN(i, b->blocks);
}

static void bits_clear(struct bits *b)
{
	if (b->set > 0)
		memset(b->words, 0, (b->blocks / 64 + 1) * sizeof(*b->words));
	b->set = 0;
}

static uint64_t count_puts(const struct bits *b, uint64_t block_bytes)
{
	uint64_t puts = 0, begin = 0, end = 0;
	for (uint64_t i = bits_next(b, 0); i < b->blocks; i = bits_next(b, i + 1)) {
		uint64_t at = i * block_bytes;
		if (puts == 0 || at > end + GAP_BYTES || at + block_bytes > begin + PUT_BYTES) {
			puts++;
			begin = at;
		}
		end = at + block_bytes;
	}
	return puts;
}

static uint64_t count_at(const struct bits *b, uint64_t block_bytes, uint64_t size)
{
	uint64_t bytes = 0, ratio = size / block_bytes;
	if (size < block_bytes)
		return 0;
	for (uint64_t i = bits_next(b, 0); i < b->blocks; i = bits_next(b, (i / ratio + 1) * ratio))
		bytes += size;
	return bytes;
}

/* ── the kernel's statistics ─────────────────────────────────────────────────────────────── */

/* Fields 5 and 7 of the disk's stat: write requests and sectors written (Linux'
 * Documentation/block/stat.rst). */
static int read_stat(const struct disk *disk, uint64_t *ret_bytes, uint64_t *ret_requests)
{
	char path[64];
	unsigned long long f[7];
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", major(disk->dev),
		minor(disk->dev));
	FILE *file = fopen(path, "re");
	if (!file)
		return -errno;
	int n = fscanf(file, "%llu %llu %llu %llu %llu %llu %llu", &f[0], &f[1], &f[2], &f[3],
		&f[4], &f[5], &f[6]);
	(void)fclose(file);
	if (n != 7)
		return -EIO;
	*ret_requests = f[4];
	*ret_bytes = f[6] * SECTOR_BYTES;
	return 0;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

static int watch(struct measure *m, const struct disk *disk, struct error *error)
{
	struct watched *w = &m->watched[m->count];
	w->disk = *disk;
	int r = tracker_add(m->tracker, disk, &w->tracked, error);
	if (r < 0)
		return r;
	m->count++;
	w->block_bytes = tracker_block_bytes(w->tracked);
	uint64_t blocks = (disk->bytes + w->block_bytes - 1) / w->block_bytes;
	r = bits_new(&w->all, blocks);
	for (unsigned i = 0; r == 0 && i < MEASURE_WINDOWS; i++)
		r = bits_new(&w->windows[i], blocks);
	if (r == 0)
		r = read_stat(disk, &w->written, &w->requests);
	w->last_written = w->written;
	return r < 0 ? error_set(error, r, NULL, "disk %s cannot be watched: %s", disk->name,
			       strerrordesc_np(-r))
		     : 0;
}

static int watch_named(
	struct measure *m, const struct measure_options *options, struct error *error)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < options->disk_count; i++) {
		struct disk disk;
		r = disk_find(options->disks[i].path, &disk, error);
		if (r == 0)
			r = watch(m, &disk, error);
	}
	return r;
}

static int watch_all(struct measure *m, struct error *error)
{
	CLEANUP_FREE struct disk *disks = NULL;
	size_t count = 0;
	int r = disk_list(&disks, &count);
	if (r < 0 || count == 0)
		return error_set(error, r < 0 ? r : -ENOENT, "name them with --disk ID=PATH",
			"no disk was found that could be watched");
	for (size_t i = 0; r == 0 && i < count && i < SOURCE_DISKS_MAX; i++)
		r = watch(m, &disks[i], error);
	return r;
}

static int open_all(struct measure *m, const struct measure_options *options, struct error *error)
{
	const struct tracker_options tracker = { .method = options->method };
	int r = tracker_open(&tracker, &m->tracker, error);
	if (r < 0)
		return r;
	bool scans = strcmp(tracker_method_name(m->tracker), "scan") == 0;
	if (scans && geteuid() != 0)
		return error_set(error, -EPERM, "run it as root",
			"whoever is not root may not see which blocks are written");
	if (scans)
		return error_set(error, -EOPNOTSUPP,
			"run it on the machine itself, not in a container; landfall-agent(8) tells "
			"what a kernel needs for it",
			"this kernel lets nobody see which blocks are written: %s",
			tracker_method_reason(m->tracker));
	return options->disk_count > 0 ? watch_named(m, options, error) : watch_all(m, error);
}

static void close_all(struct measure *m)
{
	for (unsigned i = 0; i < m->count; i++) {
		free(m->watched[i].all.words);
		for (unsigned k = 0; k < MEASURE_WINDOWS; k++)
			free(m->watched[i].windows[k].words);
	}
	tracker_end(m->tracker);
}

/* ── a second ────────────────────────────────────────────────────────────────────────────── */

static int take(struct watched *w, uint64_t pass, uint64_t *ret_bytes)
{
	struct tracker_range ranges[RANGES];
	for (uint64_t at = 0; at < w->disk.bytes;) {
		size_t count = 0;
		int r = tracker_take(w->tracked, pass, at, RANGES, ranges, &count, &at);
		for (size_t i = 0; r == 0 && i < count; i++) {
			uint64_t first = ranges[i].offset / w->block_bytes;
			uint64_t end = (ranges[i].offset + ranges[i].length + w->block_bytes - 1) /
				       w->block_bytes;
			tracker_settle(w->tracked, pass, ranges[i].offset, ranges[i].length);
			*ret_bytes += ranges[i].length;
			bits_set(&w->all, first, end);
			for (unsigned k = 0; k < MEASURE_WINDOWS; k++)
				bits_set(&w->windows[k], first, end);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static void end_window(struct measure *m, unsigned k, struct measure_window *window)
{
	double bytes = 0, puts = 0;
	for (unsigned i = 0; i < m->count; i++) {
		struct watched *w = &m->watched[i];
		bytes += (double)w->windows[k].set * (double)w->block_bytes;
		puts += (double)count_puts(&w->windows[k], w->block_bytes);
		bits_clear(&w->windows[k]);
	}
	m->age[k] = 0;
	m->sum[k] += bytes;
	m->puts[k] += puts;
	window->count++;
	window->most_bytes = MAX(window->most_bytes, bytes);
	window->mean_bytes = m->sum[k] / window->count;
	window->mean_puts = m->puts[k] / window->count;
}

static int tick(struct measure *m, uint64_t pass, double took_s, struct measurement *result)
{
	uint64_t changed = 0, written = 0;
	for (unsigned i = 0; i < m->count; i++) {
		struct watched *w = &m->watched[i];
		uint64_t bytes, requests;
		int r = take(w, pass, &changed);
		if (r == 0)
			r = read_stat(&w->disk, &bytes, &requests);
		if (r < 0)
			return r;
		written += bytes - w->last_written;
		w->last_written = bytes;
	}
	result->peak_bytes_per_s = MAX(result->peak_bytes_per_s, (double)written / took_s);
	result->changed_peak_bytes_per_s =
		MAX(result->changed_peak_bytes_per_s, (double)changed / took_s);
	for (unsigned k = 0; k < MEASURE_WINDOWS; k++)
		if (++m->age[k] == measure_window_s[k])
			end_window(m, k, &result->windows[k]);
	return 0;
}

static void sum_up(
	struct measure *m, const struct measure_options *options, struct measurement *result)
{
	uint64_t written = 0;
	for (unsigned i = 0; i < m->count; i++) {
		struct watched *w = &m->watched[i];
		struct measure_disk *d = &result->disks[i];
		struct tracker_trust trust = { .verdict = TRACKER_UNPROVEN };
		uint64_t bytes = w->last_written, requests = w->requests;
		snprintf(d->id, sizeof(d->id), "%s",
			options->disk_count > 0 ? options->disks[i].id : w->disk.name);
		(void)read_stat(&w->disk, &bytes, &requests);
		d->bytes = w->disk.bytes;
		d->block_bytes = w->block_bytes;
		d->written_bytes = bytes - w->written;
		d->requests = requests - w->requests;
		d->changed_bytes = w->all.set * w->block_bytes;
		for (unsigned k = 0; k < MEASURE_SIZES; k++)
			d->by_block[k] = count_at(&w->all, w->block_bytes, measure_block_bytes[k]);
		d->trusted =
			tracker_check(w->tracked, 0, &trust) == 0 && trust.verdict != TRACKER_LOST;
		written += d->written_bytes;
	}
	result->disk_count = m->count;
	result->written_bytes_per_s = result->seconds > 0 ? (double)written / result->seconds : 0;
}

static bool wait_for(const struct measure_options *options, int64_t until_ns)
{
	struct pollfd fd = { .fd = options->stop_fd, .events = POLLIN };
	int64_t left = until_ns - clock_monotonic_ns(clock_system());
	if (left <= 0)
		return false;
	return poll(&fd, options->stop_fd >= 0 ? 1 : 0, (int)(left / NS_PER_MS) + 1) > 0;
}

static int observe(
	struct measure *m, const struct measure_options *options, struct measurement *result)
{
	int64_t began = clock_monotonic_ns(clock_system()), last = began;
	uint64_t pass = 0;
	bool stopped = false;
	int r = 0;
	while (r == 0 && !stopped && last - began < options->duration_ns) {
		stopped = wait_for(options, last + NS_PER_S);
		int64_t now = clock_monotonic_ns(clock_system());
		r = tick(m, ++pass, (double)(now - last) / 1e9, result);
		last = now;
		result->seconds = (double)(last - began) / 1e9;
		if (options->told)
			options->told(options->context, result->seconds,
				(double)options->duration_ns / 1e9);
	}
	return r;
}

int measure_run(const struct measure_options *options, struct error *error,
	struct measurement *ret_measurement)
{
	struct measure *m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	*ret_measurement = (struct measurement){ 0 };
	int r = open_all(m, options, error);
	if (r == 0) {
		r = observe(m, options, ret_measurement);
		if (r < 0)
			error_set(error, r, NULL, "the disks could not be watched on: %s",
				strerrordesc_np(-r));
	}
	if (r == 0)
		sum_up(m, options, ret_measurement);
	close_all(m);
	free(m);
	return r;
}

/* ── what it means ───────────────────────────────────────────────────────────────────────── */

/* Bytes a second that carry what changes in windows of about that length: the longest measured one
 * that is not longer, else the shortest. */
static double rate_of(const struct measurement *m, int64_t seconds, bool most)
{
	unsigned k = 0;
	for (unsigned i = 1; i < MEASURE_WINDOWS; i++)
		if (measure_window_s[i] <= seconds && m->windows[i].count > 0)
			k = i;
	const struct measure_window *w = &m->windows[k];
	if (w->count == 0)
		return most ? m->changed_peak_bytes_per_s : m->written_bytes_per_s;
	return (most ? w->most_bytes : w->mean_bytes) / measure_window_s[k];
}

static double puts_a_day(const struct measurement *m, int64_t seconds)
{
	unsigned k = 0;
	for (unsigned i = 1; i < MEASURE_WINDOWS; i++)
		if (measure_window_s[i] <= seconds && m->windows[i].count > 0)
			k = i;
	return m->windows[k].mean_puts * 86400.0 / measure_window_s[k];
}

void measure_needs(
	const struct measurement *m, const struct measure_rates *rates, struct measure_needs *ret)
{
	double disks = 0, day = rate_of(m, rates->rpo_s, false) * 86400.0;
	for (unsigned i = 0; i < m->disk_count; i++)
		disks += (double)m->disks[i].bytes;
	*ret = (struct measure_needs){ 0 };
	ret->bandwidth_bytes_per_s = rate_of(m, rates->rpo_s, true) * SPARE;
	double bandwidth = rates->bandwidth_bytes_per_s > 0 ? rates->bandwidth_bytes_per_s
							    : ret->bandwidth_bytes_per_s;
	ret->journal_bytes =
		rate_of(m, rates->point_interval_s, false) * (double)rates->outage_s * SPARE;
	ret->first_sync_s = bandwidth > 0 ? disks / bandwidth : -1;
	/* A point in the vault: a snapshot and a sequence number a disk, hashes and a manifest. */
	double points = 86400.0 / (double)MAX(rates->rpo_s, (int64_t)1);
	ret->requests_day =
		puts_a_day(m, rates->rpo_s) + points * (2.0 * (double)m->disk_count + 3.0);
	ret->gb_day = day / GB;
	ret->price_first = disks / GB * rates->price_traffic_gb +
			   disks / PUT_BYTES / 1e4 * rates->price_requests;
	ret->price_month = 30 * (ret->gb_day * rates->price_traffic_gb +
					ret->requests_day / 1e4 * rates->price_requests) +
			   disks / GB * rates->price_month_gb;
}
