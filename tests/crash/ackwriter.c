/*
 * A writer that knows what it was promised.
 *
 *	ackwriter write FILE LEDGER BLOCKS [SEED]   until SIGTERM or the first error
 *	ackwriter check FILE LEDGER BLOCKS          exit 1 and say what is wrong
 *
 * FILE is a virtual disk; LEDGER a file elsewhere that outlives whatever happens to the disk. The
 * first BLOCKS blocks of 4 KiB are written in random order, one to sixteen at a time, each block
 * telling its number, its version and the hash of its content, and every few writes fsynced. The
 * ledger keeps, per block, the version that was *attempted* (before the write) and the one that
 * was *acknowledged* (after an fsync that returned 0).
 *
 * Whatever happened in between, a disk that keeps its promises then holds in each block a whole
 * version v with acknowledged ≤ v ≤ attempted. That is what check looks for. Blocks never
 * written are zeros. Some writes are discards (punched holes): version v is then zeros, which the
 * ledger remembers.
 *
 * The ledger can be frozen for a recovery point: SIGUSR1 makes the writer finish its write, fsync,
 * copy the ledger to LEDGER.sealed, rename it to LEDGER.ready and wait for SIGUSR2. The point then
 * has to satisfy LEDGER.ready exactly (attempted = acknowledged).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/rng.h"

#define BLOCK_BYTES 4096u
#define MAX_RUN 16u
#define MAGIC 0x72657469726b6361ull

struct ledger_entry {
	uint32_t attempted, acknowledged;
	uint32_t attempted_zero; /* the version that was a discard, 0 if none since acknowledged */
	uint32_t acknowledged_zero; /* 1: the acknowledged version is a discard */
};

struct block {
	uint64_t magic, number, hash; /* hash of all that follows it */
	uint32_t version, seed;
	uint8_t filler[BLOCK_BYTES - 32];
};

static volatile sig_atomic_t ended, freeze_asked, thaw_asked;

static void on_signal(int signal_number)
{
	if (signal_number == SIGUSR1)
		freeze_asked = 1;
	else if (signal_number == SIGUSR2)
		thaw_asked = 1;
	else
		ended = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "ackwriter: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t block_hash(const struct block *b)
{
	return checksum64(&b->version, sizeof(*b) - offsetof(struct block, version)) ^ b->number;
}

static void make_block(struct block *b, uint64_t number, uint32_t version)
{
	struct rng rng;
	rng_seed(&rng, number << 32 | version);
	*b = (struct block){
		.magic = MAGIC, .number = number, .version = version, .seed = (uint32_t)number
	};
	rng_fill(&rng, b->filler, sizeof(b->filler));
	b->hash = block_hash(b);
}

static struct ledger_entry *open_ledger(const char *path, uint64_t blocks, bool create)
{
	size_t bytes = blocks * sizeof(struct ledger_entry);
	int fd = open(path, O_RDWR | (create ? O_CREAT : 0), 0600);
	if (fd < 0 || (create && ftruncate(fd, (off_t)bytes) < 0))
		die(path);
	struct ledger_entry *ledger = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ledger == MAP_FAILED)
		die(path);
	close(fd);
	return ledger;
}

static void save_ledger(const char *path, const struct ledger_entry *ledger, uint64_t blocks)
{
	char sealed[4096], ready[4096];
	snprintf(sealed, sizeof(sealed), "%s.sealed", path);
	snprintf(ready, sizeof(ready), "%s.ready", path);
	FILE *file = fopen(sealed, "w");
	if (!file || fwrite(ledger, sizeof(*ledger), blocks, file) != blocks || fclose(file) != 0 ||
		rename(sealed, ready) < 0)
		die(sealed);
}

/* Writes or discards one run of blocks; false if the disk refused. */
static bool write_run(int fd, struct ledger_entry *ledger, uint32_t *mine, uint64_t first,
	unsigned count, bool discard, struct block *buffer)
{
	for (unsigned i = 0; i < count; i++) {
		struct ledger_entry *e = &ledger[first + i];
		if (!discard)
			make_block(&buffer[i], first + i, e->attempted + 1);
		if (discard)
			e->attempted_zero = e->attempted + 1;
		/* The attempt is on record before it is made. */
		mine[first + i] = e->attempted + 1;
		__atomic_store_n(&e->attempted, e->attempted + 1, __ATOMIC_SEQ_CST);
	}
	off_t at = (off_t)(first * BLOCK_BYTES);
	size_t bytes = count * BLOCK_BYTES;
	if (discard)
		return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
			       (off_t)bytes) == 0;
	return pwrite(fd, buffer, bytes, at) == (ssize_t)bytes;
}

/* What this run attempted is acknowledged. An earlier run's attempt that the disk never answered
 * for stays what it was: `mine` tells the versions that are this run's own. */
static void acknowledge(struct ledger_entry *ledger, const uint32_t *mine, uint64_t blocks)
{
	for (uint64_t i = 0; i < blocks; i++) {
		struct ledger_entry *e = &ledger[i];
		if (mine[i] == 0 || e->acknowledged == e->attempted)
			continue;
		e->acknowledged_zero = e->attempted_zero == e->attempted;
		__atomic_store_n(&e->acknowledged, e->attempted, __ATOMIC_SEQ_CST);
	}
}

static void freeze(const char *ledger_path, const struct ledger_entry *ledger, uint64_t blocks,
	const sigset_t *while_waiting)
{
	save_ledger(ledger_path, ledger, blocks);
	while (!thaw_asked && !ended)
		sigsuspend(while_waiting);
	thaw_asked = 0;
	freeze_asked = 0;
}

/* The version a block holds, or -1 if it is no whole version. */
static int64_t version_of(const struct block *b, uint64_t number, bool *ret_zero)
{
	*ret_zero = is_zero(b, sizeof(*b));
	if (*ret_zero)
		return 0;
	if (b->magic != MAGIC || b->number != number || b->hash != block_hash(b))
		return -1;
	return b->version;
}

/* What an earlier life of the disk was asked but never acknowledged has happened or not, and stays
 * so: an fsync of this life must not be taken for its acknowledgement. A block that breaks a
 * promise is left to `check`. */
static void settle(struct ledger_entry *e, int64_t version, bool zero)
{
	if (!zero && version >= e->acknowledged && version <= e->attempted) {
		e->attempted = e->acknowledged = (uint32_t)version;
		e->attempted_zero = e->acknowledged_zero = 0;
	} else if (zero && e->attempted_zero > e->acknowledged) {
		e->attempted = e->acknowledged = e->attempted_zero;
		e->acknowledged_zero = 1;
	} else if (zero && (e->acknowledged == 0 || e->acknowledged_zero)) {
		e->attempted = e->acknowledged;
		e->attempted_zero = e->acknowledged_zero ? e->acknowledged : 0;
	}
}

static bool settle_all(int fd, struct ledger_entry *ledger, uint64_t blocks)
{
	struct block b;
	if (fsync(fd) < 0)
		return false;
	for (uint64_t i = 0; i < blocks; i++) {
		if (ledger[i].attempted == ledger[i].acknowledged)
			continue;
		if (pread(fd, &b, sizeof(b), (off_t)(i * BLOCK_BYTES)) != (ssize_t)sizeof(b))
			return false;
		bool zero;
		int64_t version = version_of(&b, i, &zero);
		settle(&ledger[i], version, zero);
	}
	return true;
}

static int run_writer(const char *path, const char *ledger_path, uint64_t blocks, uint64_t seed)
{
	/* Signals are taken only where the writer waits, so that none gets lost between a test
	 * and a wait. */
	sigset_t blocked, open_mask;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigaddset(&blocked, SIGUSR2);
	sigaddset(&blocked, SIGTERM);
	sigprocmask(SIG_BLOCK, &blocked, &open_mask);
	struct sigaction action = { .sa_handler = on_signal };
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigaction(SIGTERM, &action, NULL);

	int fd = open(path, O_RDWR);
	if (fd < 0)
		die(path);
	struct ledger_entry *ledger = open_ledger(ledger_path, blocks, true);
	struct block *buffer = calloc(MAX_RUN, sizeof(*buffer));
	uint32_t *mine = calloc(blocks, sizeof(*mine));
	if (!buffer || !mine)
		die("memory");
	struct rng rng;
	rng_seed(&rng, seed);
	if (!settle_all(fd, ledger, blocks))
		return 3;
	while (!ended) {
		uint64_t writes = 1 + rng_below(&rng, 8);
		for (uint64_t i = 0; i < writes; i++) {
			unsigned count = (unsigned)(1 + rng_below(&rng, MAX_RUN));
			uint64_t first = rng_below(&rng, blocks - count);
			if (!write_run(fd, ledger, mine, first, count, rng_below(&rng, 16) == 0,
				    buffer))
				return 3;
		}
		if (fsync(fd) < 0)
			return 3;
		acknowledge(ledger, mine, blocks);
		sigset_t pending;
		sigpending(&pending);
		if (sigismember(&pending, SIGUSR1) || sigismember(&pending, SIGTERM)) {
			sigprocmask(SIG_SETMASK, &open_mask, NULL);
			sigprocmask(SIG_BLOCK, &blocked, NULL);
		}
		if (freeze_asked)
			freeze(ledger_path, ledger, blocks, &open_mask);
	}
	return 0;
}

static bool block_is_right(const struct ledger_entry *e, int64_t version, bool zero)
{
	if (version < 0)
		return false;
	if (!zero)
		return version >= e->acknowledged && version <= e->attempted &&
		       !(version == e->acknowledged && e->acknowledged_zero);
	return e->acknowledged == 0 || e->acknowledged_zero || e->attempted_zero > e->acknowledged;
}

static int run_check(const char *path, const char *ledger_path, uint64_t blocks)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	const struct ledger_entry *ledger = open_ledger(ledger_path, blocks, false);
	static struct block b;
	uint64_t wrong = 0, written = 0;
	for (uint64_t i = 0; i < blocks; i++) {
		if (pread(fd, &b, sizeof(b), (off_t)(i * BLOCK_BYTES)) != (ssize_t)sizeof(b))
			die(path);
		bool zero;
		int64_t version = version_of(&b, i, &zero);
		written += ledger[i].acknowledged > 0;
		if (block_is_right(&ledger[i], version, zero))
			continue;
		if (wrong++ < 10)
			fprintf(stderr,
				"ackwriter: block %" PRIu64 ": holds version %" PRId64 "%s, "
				"acknowledged %u%s, attempted %u\n",
				i, version, zero ? " (zeros)" : "", ledger[i].acknowledged,
				ledger[i].acknowledged_zero ? " (zeros)" : "", ledger[i].attempted);
	}
	printf("%" PRIu64 " blocks acknowledged, %" PRIu64 " wrong\n", written, wrong);
	return wrong ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: ackwriter write|check FILE LEDGER BLOCKS [SEED]\n");
		return 2;
	}
	uint64_t blocks = strtoull(argv[4], NULL, 0);
	if (blocks <= MAX_RUN) {
		fprintf(stderr, "ackwriter: more than %u blocks, please\n", MAX_RUN);
		return 2;
	}
	if (strcmp(argv[1], "check") == 0)
		return run_check(argv[2], argv[3], blocks);
	return run_writer(argv[2], argv[3], blocks, argc > 5 ? strtoull(argv[5], NULL, 0) : 1);
}
