/*
 * Change capture from outside: keeps a copy of each disk by what the tracker says, and does what
 * the lines of its standard input tell it, answering each with one line.
 *
 *	capture_tool [--method bpf|perf|scan] [--pin DIR] [--memory BYTES] DISK=COPY…
 *
 * At the start: "added <disk> resumed=0|1 block=<bytes>" for each, then "ready <method>".
 *
 *	copy           copies all of every disk that was not resumed
 *	pass           takes, reads, writes, settles: "pass <bytes>"
 *	take           takes and does not settle: "take <bytes>"
 *	blind          takes and settles and copies nothing, as if what is there were what was there
 *	               before: "blind <bytes>"
 *	check [MS]     "check <disk> proven|recalled|unproven|lost <reason>; <sums>", disks apart by
 *	               " | "
 *	trust          trust again, and a full copy
 *	run [HOLDER]   "run <incarnation>…" of the disks, for that holder (1)
 *	prepare        looks up what the next freeze is of: "prepare"
 *	freeze [MS]    "freeze <number> <mountpoint>…"
 *	finish         passes until nothing is marked, at most 50: "finish <passes>"
 *	compare        byte for byte: "same moved=<sectors that differ and are marked: written
 *	               since>" or "differ <disk>@<offset>… sectors=<number>"
 *	swap           "swap <offset>+<length>…" of the disks; compare passes over them from then on
 *	cost           "cost <0|-errno> calls=… ns=… missed=…"
 *	grow           asks the kernel for sizes anew, grows copies
 *	thaw           "thaw <0|-errno> stall_us=…"
 *	hold           stops answering; the freeze is then the watchdog's to end
 *	quit, end      the end of the process; of marking too
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "replicator/agent/disk.h"
#include "replicator/agent/freeze.h"
#include "replicator/agent/tracker.h"

#define DISKS_MAX 16
#define CHUNK (1u << 20)
#define FREEZES 5u /* others may mount their disks in between */

struct pair {
	struct disk disk;
	struct tracker_disk *tracked;
	int source;
	int copy;
	struct disk_range *swap;
	size_t swap_count;
};

struct world {
	struct tracker *tracker;
	struct freezer *freezer;
	struct pair pairs[DISKS_MAX];
	size_t count;
	uint64_t pass;
	bool prepared; /* the next freeze is of what was looked up before */
	uint8_t *buffer;
	uint8_t *other;
};

static _Noreturn void die(const char *what, int r)
{
	printf("error %s: %s\n", what, strerror(-r));
	fflush(stdout);
	_exit(1);
}

/* Also what is shorter than a block of memory at the end of the disk. */
static void read_source(const struct pair *p, uint8_t *buffer, uint64_t offset, uint64_t n)
{
	uint64_t done = 0;
	while (done < n) {
		ssize_t got = pread(p->source, buffer + done, n - done, (off_t)(offset + done));
		if (got <= 0)
			die("read", got < 0 ? -errno : -ENODATA);
		done += (uint64_t)got;
	}
}

static void copy_range(struct world *w, const struct pair *p, uint64_t offset, uint64_t length)
{
	for (uint64_t at = offset; at < offset + length; at += CHUNK) {
		uint64_t n = MIN(offset + length - at, (uint64_t)CHUNK);
		read_source(p, w->buffer, at, n);
		if (pwrite(p->copy, w->buffer, n, (off_t)at) != (ssize_t)n)
			die("write", -errno);
	}
}

static uint64_t do_pass(struct world *w, bool copy, bool settle)
{
	struct tracker_range ranges[64];
	uint64_t bytes = 0;

	w->pass++;
	for (size_t i = 0; i < w->count; i++) {
		struct pair *p = &w->pairs[i];
		uint64_t at = 0;
		while (at < p->disk.bytes) {
			size_t n = 0;
			int r = tracker_take(
				p->tracked, w->pass, at, ARRAY_SIZE(ranges), ranges, &n, &at);
			if (r < 0)
				die("take", r);
			for (size_t j = 0; j < n; j++) {
				bytes += ranges[j].length;
				if (copy)
					copy_range(w, p, ranges[j].offset, ranges[j].length);
				if (settle)
					tracker_settle(p->tracked, w->pass, ranges[j].offset,
						ranges[j].length);
			}
		}
	}
	return bytes;
}

static bool in_swap(const struct pair *p, uint64_t offset)
{
	for (size_t i = 0; i < p->swap_count; i++) {
		if (offset >= p->swap[i].offset && offset - p->swap[i].offset < p->swap[i].length)
			return true;
	}
	return false;
}

static void do_compare(struct world *w)
{
	unsigned bad = 0, moved = 0;
	for (size_t i = 0; i < w->count; i++) {
		const struct pair *p = &w->pairs[i];
		for (uint64_t at = 0; at < p->disk.bytes; at += CHUNK) {
			uint64_t n = MIN(p->disk.bytes - at, (uint64_t)CHUNK);
			read_source(p, w->buffer, at, n);
			if (pread(p->copy, w->other, n, (off_t)at) != (ssize_t)n)
				die("read copy", -EIO);
			for (uint64_t k = 0; k < n; k += 512) {
				if (memcmp(w->buffer + k, w->other + k, 512) == 0 ||
					in_swap(p, at + k))
					continue;
				if (tracker_is_dirty(p->tracked, at + k, 512)) {
					moved++;
					continue;
				}
				if (bad++ < 8)
					printf("%s%s@%" PRIu64, bad == 1 ? "differ " : " ",
						p->disk.name, at + k);
			}
		}
	}
	if (bad)
		printf(" sectors=%u\n", bad);
	else
		printf("same moved=%u\n", moved);
}

static void do_check(struct world *w, unsigned wait_ms)
{
	static const char *const words[] = { "proven", "recalled", "unproven", "lost" };
	for (size_t i = 0; i < w->count; i++) {
		struct tracker_trust t;
		int r = tracker_check(w->pairs[i].tracked, wait_ms, &t);
		if (r < 0)
			die("check", r);
		printf("%s%s %s %s; seen=%" PRIu64 " other=%" PRIu64 " counted=%" PRIu64
		       " missed=%" PRIu64 " recalled=%" PRIu64,
			i ? " | " : "check ", w->pairs[i].disk.name, words[t.verdict],
			tracker_reason_text(t.reason), t.seen_bytes, t.other_bytes, t.counted_bytes,
			t.missed, t.recalled_bytes);
	}
	printf("\n");
}

static void do_copy(struct world *w, bool all)
{
	for (size_t i = 0; i < w->count; i++) {
		if (all || !tracker_was_resumed(w->pairs[i].tracked))
			copy_range(w, &w->pairs[i], 0, w->pairs[i].disk.bytes);
	}
	printf("copy\n");
}

static void do_prepare(struct world *w)
{
	dev_t devs[DISKS_MAX];
	struct error error = { 0 };
	for (size_t i = 0; i < w->count; i++)
		devs[i] = w->pairs[i].disk.dev;
	int r = freezer_prepare(w->freezer, devs, w->count, &error);
	if (r < 0)
		die(error.message, r);
	w->prepared = true;
	printf("prepare\n");
}

static void do_freeze(struct world *w, unsigned ms)
{
	dev_t devs[DISKS_MAX];
	struct error error = { 0 };
	int r = -EAGAIN;
	for (size_t i = 0; i < w->count; i++)
		devs[i] = w->pairs[i].disk.dev;
	for (unsigned i = 0; r == -EAGAIN && i < FREEZES; i++) {
		error = (struct error){ 0 };
		r = w->prepared ? 0 : freezer_prepare(w->freezer, devs, w->count, &error);
		w->prepared = false;
		if (r == 0)
			r = freezer_freeze(w->freezer, ms, &error);
	}
	if (r < 0) {
		printf("freeze failed %d %s\n", r, error.message);
		return;
	}
	size_t n = 0;
	while (freezer_mountpoint(w->freezer, n))
		n++;
	printf("freeze %zu", n);
	for (n = 0; freezer_mountpoint(w->freezer, n); n++)
		printf(" %s", freezer_mountpoint(w->freezer, n));
	printf("\n");
}

static void do_finish(struct world *w)
{
	unsigned passes = 0;
	while (passes < 50 && do_pass(w, true, true) > 0)
		passes++;
	printf("finish %u\n", passes);
}

static void do_grow(struct world *w)
{
	struct error error = { 0 };
	for (size_t i = 0; i < w->count; i++) {
		struct pair *p = &w->pairs[i];
		struct disk now;
		int r = disk_find_dev(p->disk.dev, &now, &error);
		if (r == 0)
			r = tracker_grow(p->tracked, now.bytes, &error);
		if (r == 0)
			r = ftruncate(p->copy, (off_t)now.bytes) < 0 ? -errno : 0;
		if (r < 0)
			die(error.message, r);
		p->disk.bytes = now.bytes;
	}
	printf("grow\n");
}

static void do_swap(struct world *w)
{
	printf("swap");
	for (size_t i = 0; i < w->count; i++) {
		struct pair *p = &w->pairs[i];
		free(p->swap);
		p->swap = NULL;
		int r = disk_swap_ranges(&p->disk, &p->swap, &p->swap_count);
		if (r < 0)
			die("swap", r);
		for (size_t j = 0; j < p->swap_count; j++)
			printf(" %" PRIu64 "+%" PRIu64, p->swap[j].offset, p->swap[j].length);
	}
	printf("\n");
}

static void do_run(struct world *w, uint64_t holder)
{
	printf("run");
	for (size_t i = 0; i < w->count; i++) {
		uint64_t incarnation;
		int r = tracker_incarnation(w->pairs[i].tracked, holder, &incarnation);
		if (r < 0)
			die("run", r);
		printf(" %" PRIu64, incarnation);
	}
	printf("\n");
}

static void do_cost(struct world *w)
{
	struct tracker_cost cost = { 0 };
	int r = tracker_cost(w->tracker, &cost);
	printf("cost %d calls=%" PRIu64 " ns=%" PRIu64 " missed=%" PRIu64 "\n", r, cost.calls,
		cost.run_ns, cost.missed);
}

static void do_trust(struct world *w)
{
	struct error error = { 0 };
	for (size_t i = 0; i < w->count; i++) {
		int r = tracker_trust_again(w->pairs[i].tracked, &error);
		if (r < 0)
			die(error.message, r);
	}
	do_copy(w, true);
}

/* False: the end. */
static bool obey(struct world *w, char *line)
{
	line[strcspn(line, "\n")] = '\0';
	char *argument = strchr(line, ' ');
	unsigned number = argument ? (unsigned)strtoul(argument, NULL, 10) : 0;
	if (argument)
		*argument = '\0';
	if (strcmp(line, "copy") == 0) {
		do_copy(w, false);
	} else if (strcmp(line, "pass") == 0) {
		printf("pass %" PRIu64 "\n", do_pass(w, true, true));
	} else if (strcmp(line, "take") == 0) {
		printf("take %" PRIu64 "\n", do_pass(w, false, false));
	} else if (strcmp(line, "blind") == 0) {
		printf("blind %" PRIu64 "\n", do_pass(w, false, true));
	} else if (strcmp(line, "check") == 0) {
		do_check(w, number);
	} else if (strcmp(line, "trust") == 0) {
		do_trust(w);
	} else if (strcmp(line, "run") == 0) {
		do_run(w, number ? number : 1);
	} else if (strcmp(line, "prepare") == 0) {
		do_prepare(w);
	} else if (strcmp(line, "freeze") == 0) {
		do_freeze(w, number ? number : 60000);
	} else if (strcmp(line, "finish") == 0) {
		do_finish(w);
	} else if (strcmp(line, "compare") == 0) {
		do_compare(w);
	} else if (strcmp(line, "swap") == 0) {
		do_swap(w);
	} else if (strcmp(line, "cost") == 0) {
		do_cost(w);
	} else if (strcmp(line, "grow") == 0) {
		do_grow(w);
	} else if (strcmp(line, "thaw") == 0) {
		struct freezer_report report;
		int r = freezer_thaw(w->freezer, &report);
		freezer_release(w->freezer);
		printf("thaw %d stall_us=%" PRIu64 "\n", r, report.stall_ns / 1000);
	} else if (strcmp(line, "hold") == 0) {
		pause();
	} else if (strcmp(line, "quit") == 0 || strcmp(line, "end") == 0) {
		return false;
	} else {
		printf("unknown %s\n", line);
	}
	return true;
}

static void add_pair(struct world *w, char *word)
{
	struct error error = { 0 };
	char *copy = strchr(word, '=');
	if (!copy || w->count == DISKS_MAX)
		die("DISK=COPY", -EINVAL);
	*copy++ = '\0';
	struct pair *p = &w->pairs[w->count++];
	int r = disk_find(word, &p->disk, &error);
	if (r == 0)
		r = tracker_add(w->tracker, &p->disk, &p->tracked, &error);
	if (r < 0)
		die(error.message, r);
	p->source = disk_open(&p->disk);
	p->copy = open(copy, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (p->source < 0 || p->copy < 0 || ftruncate(p->copy, (off_t)p->disk.bytes) < 0)
		die(word, -errno);
	printf("added %s resumed=%d block=%" PRIu64 "\n", p->disk.name,
		tracker_was_resumed(p->tracked), tracker_block_bytes(p->tracked));
}

static enum tracker_method method_named(const char *name)
{
	return strcmp(name, "bpf") == 0    ? TRACKER_BPF
	       : strcmp(name, "perf") == 0 ? TRACKER_PERF
					   : TRACKER_SCAN;
}

int main(int argc, char **argv)
{
	static struct world w;
	struct tracker_options options = { 0 };
	struct error error = { 0 };
	char line[64] = "";
	int i = 1;

	for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
		if (strcmp(argv[i], "--method") == 0)
			options.method = method_named(argv[i + 1]);
		else if (strcmp(argv[i], "--pin") == 0)
			options.pin_dir = argv[i + 1];
		else if (strcmp(argv[i], "--memory") == 0)
			options.memory_bytes = strtoull(argv[i + 1], NULL, 10);
	}
	/* Nothing may have to be paged in, and nothing be written to a disk, while one is frozen.
	 */
	int r = freezer_new(&w.freezer, &error);
	if (r == 0)
		r = tracker_open(&options, &w.tracker, &error);
	if (r < 0)
		die(error.message, r);
	w.pass = (uint64_t)getpid();
	w.buffer = aligned_alloc(4096, CHUNK);
	w.other = aligned_alloc(4096, CHUNK);
	for (; i < argc; i++)
		add_pair(&w, argv[i]);
	mlockall(MCL_CURRENT);
	printf("ready %s %s\n", tracker_method_name(w.tracker), tracker_method_reason(w.tracker));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) && obey(&w, line))
		fflush(stdout);
	if (strcmp(line, "end") == 0)
		tracker_end(w.tracker);
	else
		tracker_close(w.tracker);
	freezer_free(w.freezer);
	free(w.buffer);
	free(w.other);
	return 0;
}
