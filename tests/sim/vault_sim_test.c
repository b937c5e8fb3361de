/*
 * Vault and flusher against a plain model, on disks of real VHD sizes: a life of writes, seals,
 * flushes, deletions, growth, crashes and restarts over a service that loses, doubles and delays.
 *
 *	vault_sim_test [--mode random|rot] [--seed S] [--crash-points N]
 *	               [--replay random:SEED|rot:SEED] [--verbose]
 *
 * The model keeps the image of all disks at every seal. Whatever the vault shows as a committed
 * point must be that image, byte for byte, read past the code under test; footer included. At a
 * life's end a second appliance takes over: the same must hold there, the first can change
 * nothing more, and the second goes on.
 *
 * With rot, records in the appliance's journal are damaged now and then while it is off. What the
 * journal loses by it is its own simulation's matter; here the vault may hold points that the
 * journal does not know of any more, and whatever is flushed then must be exact all the same.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/checksum.h"
#include "common/rng.h"
#include "fs/journal_format.h"
#include "fs/vhd.h"
#include "replicator/flusher.h"
#include "replicator/head_hashes.h"
#include "replicator/manifest.h"
#include "replicator/vault.h"
#include "tests/sim/blob_sim.h"
#include "tests/sim/clock_sim.h"
#include "tests/sim/io_sim.h"
#include "tests/sim/sim_replay.h"

#define GROUP "web"
#define DISKS 3
#define MAX_BYTES (3 * MIB)
#define POINTS 512
#define TRIES 100
#define FAILURE_BYTES 1024

struct image {
	bool sealed;
	uint64_t bytes[DISKS]; /* 0: no such disk then */
	uint8_t *data[DISKS];
};

struct life {
	struct rng rng;
	struct io_sim *disk;
	struct clock_sim clock;
	struct blob_sim *service;
	struct blob_store *store;
	struct base *base;
	struct history *history;
	struct vault_group group;
	struct flusher *flusher;
	struct uuid appliance;
	const char *directory;
	unsigned disk_count, faults;
	bool settled; /* nothing is under way any more */
	bool rots;
	uint64_t unknown; /* what vault_agree said */
	bool refused;     /* it said that nothing may be flushed */
	uint64_t rots_done;
	uint64_t rotten; /* how often something was lost */
	struct image now, points[POINTS];
	uint64_t crashes, verified;
	jmp_buf *failed;
	char *failure; /* FAILURE_BYTES */
	FILE *trace;
};

static void fail(struct life *l, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
static void fail(struct life *l, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(l->failure, FAILURE_BYTES, format, arguments);
	va_end(arguments);
	longjmp(*l->failed, 1);
}

#define trace(l, ...)                                     \
	do {                                              \
		if ((l)->trace) {                         \
			fprintf((l)->trace, __VA_ARGS__); \
			fputc('\n', (l)->trace);          \
		}                                         \
	} while (0)

static uint64_t below(struct life *l, uint64_t n)
{
	return rng_below(&l->rng, n);
}

static bool passes(int r)
{
	return r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET || r == -ECONNREFUSED;
}

/* A call on the vault: again while it may pass; true if it succeeded, false if the power is out. */
#define PERSIST(l, what, call)                                                                \
	({                                                                                    \
		struct error error = { 0 };                                                   \
		int persist_r = 0;                                                            \
		for (unsigned try = 0; try < TRIES; try++) {                                  \
			persist_r = (call);                                                   \
			if (persist_r == 0 || io_sim_is_off((l)->disk) || !passes(persist_r)) \
				break;                                                        \
		}                                                                             \
		if (persist_r < 0 && !io_sim_is_off((l)->disk))                               \
			fail(l, "%s answers %d: %s", what, persist_r, error.message);         \
		persist_r == 0;                                                               \
	})

static void image_copy(struct image *to, const struct image *from)
{
	for (unsigned d = 0; d < DISKS; d++) {
		to->bytes[d] = from->bytes[d];
		if (from->bytes[d] == 0)
			continue;
		if (!to->data[d])
			to->data[d] = calloc(1, MAX_BYTES);
		if (!to->data[d])
			abort();
		memcpy(to->data[d], from->data[d], MAX_BYTES);
	}
}

/* ── the appliance's life ────────────────────────────────────────────────────────────────── */

static int sync_to(void *context, uint64_t lsn)
{
	struct life *l = context;
	uint64_t durable;
	(void)lsn;
	return history_commit(l->history, &durable);
}

static bool commit(struct life *l)
{
	return sync_to(l, 0) == 0;
}

static void stop(struct life *l)
{
	flusher_free(l->flusher);
	l->flusher = NULL;
	history_close(l->history);
	l->history = NULL;
	vault_base_free(l->base);
	l->base = NULL;
	vault_group_free(&l->group);
	if (l->store)
		l->store->ops->free(l->store);
	l->store = NULL;
}

static void make_group(struct life *l)
{
	struct vault_group group = { .id = { { 7 } }, .owner = l->appliance };
	struct vault_identity identity;
	bool created;
	strcpy(group.name, GROUP);
	strcpy(group.owner_name, "first");
	PERSIST(l, "vault_init",
		vault_init(blob_sim_service(l->service), &l->clock.source, &error, &created,
			&identity));
	PERSIST(l, "vault_group_create", vault_group_create(l->store, &group, &error));
	vault_group_free(&group);
}

static bool open_history(struct life *l)
{
	struct history_report report;
	struct error error = { 0 };
	const struct history_options options = { .io = io_sim_io(l->disk),
		.clock = &l->clock.source,
		.base = l->base,
		.directory = l->directory,
		.group = { { 7 } },
		.limit_bytes = 64 * MIB,
		.segment_bytes = 1 << 20 };
	int r = history_open(&options, &report, &error, &l->history);
	l->rotten += r == 0 && report.damaged_after > 0;
	if (r == 0 && report.faults > 0)
		trace(l, "damaged after %" PRIu64 ": %s", report.damaged_after, report.first_fault);
	if (r < 0 && !io_sim_is_off(l->disk))
		fail(l, "history_open answers %d: %s", r, error.message);
	return r == 0;
}

static bool make_flusher(struct life *l)
{
	const struct flusher_options options = { .history = l->history,
		.store = l->store,
		.clock = &l->clock.source,
		.group = &l->group,
		.sync = sync_to,
		.sync_context = l,
		.unknown_point = l->unknown,
		.parallel = 1 + (unsigned)below(l, 8),
		.gap_bytes = (uint32_t)below(l, 20) * 4096 };
	return flusher_new(&options, &l->flusher) == 0;
}

/* What cannot be read is written again, as a comparison with the source does. */
static int read_sectors(struct life *l, uint16_t disk, uint64_t lba, uint32_t sectors, uint8_t *to)
{
	uint64_t lsn;
	int r = 0;
	for (unsigned try = 0; try < TRIES; try++) {
		r = history_read(l->history, disk, lba, sectors, to);
		if (!passes(r))
			break;
	}
	if (r != -EIO || !l->rots)
		return r;
	if (sectors == 1) {
		memset(to, 0xee, SECTOR_BYTES);
		r = history_write(l->history, disk, lba, 1, to, &lsn);
		return r == -EAGAIN && commit(l) ? history_write(l->history, disk, lba, 1, to, &lsn)
						 : r;
	}
	r = 0;
	for (uint32_t i = 0; r == 0 && i < sectors; i++)
		r = read_sectors(l, disk, lba + i, 1, to + (size_t)i * SECTOR_BYTES);
	return r;
}

/* The head after a restart is what it is: the history's own simulation judges it. */
static void read_head(struct life *l)
{
	struct history_disk disks[DISKS];
	memset(l->now.bytes, 0, sizeof(l->now.bytes));
	l->disk_count = history_disks(l->history, disks, DISKS);
	for (unsigned i = 0; i < l->disk_count; i++) {
		if (!l->now.data[i])
			l->now.data[i] = calloc(1, MAX_BYTES);
		memset(l->now.data[i], 0, MAX_BYTES);
		l->now.bytes[i] = disks[i].size_bytes;
		for (uint64_t at = 0; at < disks[i].size_bytes; at += MIB) {
			int r = read_sectors(l, disks[i].id, at / SECTOR_BYTES, MIB / SECTOR_BYTES,
				l->now.data[i] + at);
			if (r < 0)
				fail(l, "reading the head answers %d", r);
		}
	}
}

static int agree(struct life *l, struct error *error)
{
	int r = vault_agree(l->store, &l->clock.source, &l->group, l->history, error, &l->unknown);
	l->refused = l->rots && r == -EUCLEAN;
	return l->refused ? 0 : r;
}

/* As the product does before it claims a group: leases that are gone are noted in the journal. */
static bool look_at_leases(struct life *l)
{
	bool lost = false;
	uint64_t lsn, point;
	if (!PERSIST(l, "vault_group_leases",
		    vault_group_leases(l->store, &l->group, &error, &lost)))
		return false;
	if (!lost || history_repair_due(l->history, &point))
		return true;
	trace(l, "leases are gone");
	return (history_repair_ask(l->history, &lsn) == 0 ||
		       (commit(l) && history_repair_ask(l->history, &lsn) == 0)) &&
	       commit(l);
}

static int claim(struct life *l, struct error *error)
{
	struct vault_group group = { 0 };
	int r = vault_group_claim(l->store, GROUP, &l->appliance, &l->clock.source, error, &group);
	if (r < 0)
		return r;
	vault_group_free(&l->group);
	l->group = group;
	return 0;
}

static bool start(struct life *l)
{
	struct blob_service *service = blob_sim_service(l->service);
	if (service->ops->open_store(service, NULL, NULL, &l->store) < 0)
		abort();
	if (!PERSIST(l, "vault_group_load", vault_group_load(l->store, GROUP, &error, &l->group)))
		return false;
	if (vault_base_new(service, &l->group, &l->base) < 0)
		abort();
	if (!open_history(l) || !look_at_leases(l))
		return false;
	if (!PERSIST(l, "vault_group_claim", claim(l, &error)))
		return false;
	if (vault_base_update(l->base, &l->group) < 0)
		abort();
	if (!PERSIST(l, "vault_agree", agree(l, &error)))
		return false;
	return commit(l) && make_flusher(l);
}

/* ── rot ─────────────────────────────────────────────────────────────────────────────────── */

struct record_search {
	struct life *l;
	unsigned type; /* 0: any */
	unsigned found;
	char path[256]; /* one of them, chosen by chance */
	uint64_t at;
};

static void search_file(void *context, const char *path, uint64_t bytes)
{
	struct record_search *s = context;
	struct journal_record record;
	struct io_file *file;
	if (!strstr(path, ".seg") || io_open(io_sim_io(s->l->disk), path, IO_READ, &file) < 0)
		return;
	for (uint64_t at = 0; at + sizeof(record) <= bytes; at += JOURNAL_PAGE_BYTES) {
		if (io_read_all(file, &record, sizeof(record), at) < 0 ||
			record.magic != JOURNAL_RECORD_MAGIC || (s->type && record.type != s->type))
			continue;
		/* Late ones are lost alone more often, and tell more. */
		if (below(s->l, ++s->found) != 0 && below(s->l, 3) != 0)
			continue;
		snprintf(s->path, sizeof(s->path), "%s", path);
		s->at = at;
	}
	io_close(file);
}

static void rot_record(struct life *l)
{
	static const unsigned types[] = { 0, JOURNAL_SEAL, JOURNAL_FLUSH_BEGIN,
		JOURNAL_FLUSH_COMMIT, JOURNAL_DISK, JOURNAL_POINT_FLAGS };
	struct record_search search = { .l = l, .type = types[below(l, ARRAY_SIZE(types))] };
	const uint8_t mask = 0x20;
	io_sim_each_file(l->disk, search_file, &search);
	if (search.found == 0)
		return;
	trace(l, "rot of a record of type %u in %s at %" PRIu64, search.type, search.path,
		search.at);
	/* Elsewhere each time: twice the same would make it good again. */
	uint64_t at = search.at + 64 + ++l->rots_done % 2048;
	if (io_sim_rot(l->disk, search.path, at, &mask, 1) < 0)
		abort();
}

static void restart(struct life *l)
{
	trace(l, "crash");
	l->crashes++;
	for (;;) {
		if (!io_sim_is_off(l->disk))
			io_sim_power_cut(l->disk);
		blob_sim_power_cut(l->service);
		stop(l);
		io_sim_power_on(l->disk, (enum io_sim_keep)below(l, IO_SIM_KEEP_MODES));
		if (l->rots && below(l, 2) == 0)
			rot_record(l);
		if (below(l, 3) == 0)
			io_sim_crash_at(l->disk, io_sim_ops(l->disk) + 1 + below(l, 40));
		if (start(l))
			break;
		l->crashes++;
	}
	io_sim_crash_at(l->disk, 0);
	if (io_sim_is_off(l->disk)) {
		restart(l);
		return;
	}
	if (!l->refused)
		read_head(l);
}

/* ── what it does ────────────────────────────────────────────────────────────────────────── */

/* The vault learns of the history's disks. */
static bool update_group(struct life *l)
{
	struct history_disk disks[DISKS];
	unsigned n = history_disks(l->history, disks, DISKS);
	struct vault_disk *all = calloc(DISKS, sizeof(*all));
	if (!all)
		abort();
	for (unsigned i = 0; i < n; i++) {
		all[i].id = disks[i].id;
		memcpy(all[i].name, disks[i].name, sizeof(all[i].name));
		all[i].size_bytes = disks[i].size_bytes;
		all[i].added_point = disks[i].added_point;
		all[i].vhd_id.bytes[0] = (uint8_t)disks[i].id;
		all[i].created_ns = 1700000000ll * NS_PER_S;
	}
	/* The vault does not forget a disk that the history has lost. */
	for (unsigned i = n; i < l->group.disk_count; i++)
		all[n++] = l->group.disks[i];
	free(l->group.disks);
	l->group.disks = all;
	l->group.disk_count = n;
	return PERSIST(l, "vault_group_update", vault_group_update(l->store, &l->group, &error));
}

static void add_disk(struct life *l)
{
	char name[32];
	uint64_t lsn, bytes = (1 + below(l, 2)) * MIB;
	uint16_t id;
	if (l->disk_count == DISKS)
		return;
	snprintf(name, sizeof(name), "web/disk%u", l->disk_count);
	if (history_add_disk(l->history, name, bytes, &id, &lsn) < 0 || !commit(l))
		return;
	unsigned d = l->disk_count++;
	if (!l->now.data[d])
		l->now.data[d] = calloc(1, MAX_BYTES);
	memset(l->now.data[d], 0, MAX_BYTES);
	l->now.bytes[d] = bytes;
	update_group(l);
}

static void grow_disk(struct life *l)
{
	unsigned d = (unsigned)below(l, l->disk_count);
	uint64_t lsn;
	if (l->now.bytes[d] >= MAX_BYTES ||
		history_grow_disk(l->history, (uint16_t)(d + 1), l->now.bytes[d] + MIB, &lsn) < 0)
		return;
	trace(l, "grow disk %u", d + 1);
	l->now.bytes[d] += MIB;
	if (commit(l))
		update_group(l);
}

static void put(struct life *l)
{
	static uint8_t data[1 << 20];
	unsigned d = (unsigned)below(l, l->disk_count);
	uint64_t sectors = l->now.bytes[d] / SECTOR_BYTES, lba = below(l, sectors), lsn;
	uint64_t n = 1 + below(l, below(l, 8) == 0 ? 2000 : 30);
	bool zero = below(l, 4) == 0;
	if (below(l, 2)) {
		lba = round_down(lba, 8);
		n = round_up(n, 8);
	}
	n = MIN(n, sectors - lba);
	rng_fill(&l->rng, data, 64);
	memset(data, (int)below(l, 5), n * SECTOR_BYTES); /* sometimes zeros written as data */
	for (uint64_t i = 0; data[0] != 0 && i < n; i++)
		memcpy(data + i * SECTOR_BYTES, &l->rng.s[i % 4], 8);
	for (unsigned try = 0; try < 2; try++) {
		int r = zero ? history_zero(l->history, (uint16_t)(d + 1), lba, n, &lsn)
			     : history_write(
				       l->history, (uint16_t)(d + 1), lba, (uint32_t)n, data, &lsn);
		if (r == 0)
			break;
		if (r != -EAGAIN || !commit(l))
			return;
	}
	if (zero)
		memset(data, 0, n * SECTOR_BYTES);
	memcpy(l->now.data[d] + lba * SECTOR_BYTES, data, n * SECTOR_BYTES);
}

/* What was sealed reads as the head did, where it reads. */
static void check_view(struct life *l, uint64_t number)
{
	struct view *view;
	if (history_view_open(l->history, number, &view) < 0)
		return;
	for (unsigned d = 0; d < DISKS; d++) {
		static uint8_t data[MIB];
		for (uint64_t at = 0; at < l->now.bytes[d]; at += MIB) {
			int r = view_read(view, (uint16_t)(d + 1), at / SECTOR_BYTES,
				MIB / SECTOR_BYTES, data);
			for (uint64_t i = 0; r == 0 && i < MIB; i++)
				if (data[i] != l->now.data[d][at + i])
					fail(l,
						"sealed as %" PRIu64 " disk %u reads %u at %" PRIu64
						", the head was %u",
						number, d + 1, data[i], at + i,
						l->now.data[d][at + i]);
		}
	}
	view_close(view);
}

static void seal(struct life *l)
{
	struct seal seal = { .kind = POINT_CRASH, .time_ns = clock_realtime_ns(&l->clock.source) };
	uint64_t number, lsn;
	clock_sim_advance(&l->clock, NS_PER_S);
	if (history_seal(l->history, &seal, &number, &lsn) < 0)
		return;
	if (number >= POINTS)
		fail(l, "too many points");
	trace(l, "seal %" PRIu64, number);
	image_copy(&l->points[number], &l->now);
	l->points[number].sealed = true;
	if (commit(l) && l->rots)
		check_view(l, number);
}

static void collect(struct life *l)
{
	unsigned deleted;
	PERSIST(l, "vault_collect_orphans",
		vault_collect_orphans(
			l->store, &l->group, history_flush_pending(l->history), &error, &deleted));
}

/* A manifest came late: as when the group is claimed anew. */
static void agree_again(struct life *l)
{
	flusher_free(l->flusher);
	l->flusher = NULL;
	if (!PERSIST(l, "vault_agree", agree(l, &error)) || !commit(l) || !make_flusher(l))
		return; /* the power is out */
	trace(l, "agreed again: unknown %" PRIu64, l->unknown);
}

static void write_as_another(struct life *l, const char *blob)
{
	static const char lease[] = "a-stranger";
	struct blob_properties properties;
	struct blob_error e = { 0 };
	uint8_t page[4096];
	const struct blob_store_ops *ops = l->store->ops;
	memset(page, 0xfa, sizeof(page));
	if (ops->properties(l->store, blob, &e, &properties) < 0)
		return;
	uint64_t pages = (properties.size_bytes - SECTOR_BYTES) / sizeof(page);
	struct blob_request *done, request = { .verb = BLOB_PUT_PAGES,
		.blob = blob,
		.offset = below(l, pages) * sizeof(page),
		.length = sizeof(page),
		.data = page,
		.lease_id = lease,
		.sequence = properties.sequence };
	int r = ops->lease_break(l->store, blob, &e);
	if (r == 0)
		r = ops->lease_acquire(l->store, blob, lease, &e);
	if (r == 0)
		r = ops->submit(l->store, &request);
	if (r == 0)
		r = ops->wait(l->store, -1, &done);
	if (r == 0)
		r = request.result;
	if (r == 0)
		r = ops->lease_release(l->store, blob, lease, &e);
	trace(l, "another writes to %s at %" PRIu64 ": %d", blob, request.offset, r);
	if (r < 0)
		fail(l, "another cannot write: %d", r);
}

/* Somebody breaks a lease and writes. Now and then that is met after a restart only. A request of
 * ours for the lease that lands after that would hide it (vault.h), so they have all landed. */
static void another_writes(struct life *l)
{
	char blob[VAULT_NAME_BYTES];
	if (l->group.disk_count == 0)
		return;
	blob_sim_land_all(l->service);
	vault_blob_name(l->group.disks[below(l, l->group.disk_count)].name, blob);
	blob_sim_set_faults(l->service, 0);
	blob_sim_set_overload(l->service, 0);
	write_as_another(l, blob);
	blob_sim_set_faults(l->service, l->faults);
	blob_sim_set_overload(l->service, l->faults);
	if (below(l, 3) == 0) {
		io_sim_power_cut(l->disk);
		return;
	}
	if (!look_at_leases(l) || !PERSIST(l, "vault_group_claim", claim(l, &error)))
		return;
	agree_again(l);
}

static void flush(struct life *l)
{
	struct point points[POINTS];
	struct flusher_result result;
	struct error error = { 0 };
	uint64_t pending = history_flush_pending(l->history), least = 0;
	unsigned n = history_points(l->history, 0, points, POINTS), candidates = 0;
	for (unsigned i = 0; i < n; i++)
		if (points[i].flags & POINT_VAULT)
			least = points[i].number;
	least = MAX(least, l->unknown);
	least = MAX(least + 1, pending);
	for (unsigned i = 0; i < n; i++)
		if (points[i].number >= least && !(points[i].flags & POINT_DAMAGED) &&
			(points[i].flags & POINT_LOCAL))
			points[candidates++] = points[i];
	if (candidates == 0 || !commit(l))
		return;
	uint64_t number = points[below(l, candidates)].number;
	if (below(l, 3) == 0)
		io_sim_crash_at(l->disk, io_sim_ops(l->disk) + 1 + below(l, 60));
	for (unsigned tries = 1 + (unsigned)below(l, 4); tries > 0; tries--) {
		int r = flusher_flush(l->flusher, number, &error, &result);
		trace(l, "flush %" PRIu64 ": %d %s", number, r, r < 0 ? error.message : "");
		if (r == 0)
			l->unknown = 0;
		if (r == 0 || io_sim_is_off(l->disk))
			break;
		if (l->rots && (r == -EIO || r == -ENODATA))
			break; /* its content cannot be proven */
		if (l->rots && r == -ESTALE) {
			agree_again(l);
			break;
		}
		if (l->rots && r == -EINVAL && l->faults > 0) {
			/* A repair's resize came late; the next flusher looks at the sizes anew. */
			flusher_free(l->flusher);
			if (!make_flusher(l))
				abort();
			continue;
		}
		if (r < 0 && below(l, 4) == 0)
			collect(l);
		if (!passes(r))
			fail(l, "flush of %" PRIu64 " answers %d: %s", number, r, error.message);
	}
	io_sim_crash_at(l->disk, 0);
}

static void delete_point(struct life *l)
{
	struct point points[POINTS];
	unsigned n = history_points(l->history, 0, points, POINTS), count = 0;
	uint64_t lsn;
	for (unsigned i = 0; i < n; i++)
		if (points[i].flags & POINT_VAULT)
			points[count++] = points[i];
	if (count < 2)
		return;
	uint64_t number = points[below(l, count - 1)].number;
	trace(l, "delete %" PRIu64, number);
	if (history_point_drop(l->history, number, POINT_VAULT, &lsn) < 0 || !commit(l))
		return;
	PERSIST(l, "vault_point_delete", vault_point_delete(l->store, &l->group, number, &error));
}

static void keep_point(struct life *l)
{
	struct point point;
	if (history_point_newest(l->history, POINT_VAULT, INT64_MAX, &point) < 0)
		return;
	PERSIST(l, "vault_point_keep",
		vault_point_keep(l->store, &l->group, point.number, below(l, 2), &error));
}

/* ── what must be ────────────────────────────────────────────────────────────────────────── */

static void check_disk(struct life *l, const struct manifest *m, const struct manifest_disk *disk)
{
	static uint8_t there[MAX_BYTES + VHD_FOOTER_BYTES];
	const struct image *image = &l->points[m->number];
	unsigned d = disk->id - 1u;
	uint64_t bytes;
	struct uuid id;
	if (disk->size_bytes != image->bytes[d])
		fail(l, "point %" PRIu64 " disk %u has %" PRIu64 " bytes, not %" PRIu64, m->number,
			disk->id, disk->size_bytes, image->bytes[d]);
	int r = blob_sim_peek(l->service, disk->blob, disk->snapshot, 0, there,
		disk->size_bytes + VHD_FOOTER_BYTES);
	if (r < 0)
		fail(l, "point %" PRIu64 ": snapshot %s is missing", m->number, disk->snapshot);
	for (uint64_t i = 0; i < disk->size_bytes; i++)
		if (there[i] != image->data[d][i])
			fail(l, "point %" PRIu64 " disk %u differs at %" PRIu64 ": %u, not %u",
				m->number, disk->id, i, there[i], image->data[d][i]);
	if (vhd_footer_parse(there + disk->size_bytes, &bytes, &id) < 0 ||
		bytes != disk->size_bytes)
		fail(l, "point %" PRIu64 " disk %u has no right footer", m->number, disk->id);
}

/* The manifest of a point that the history shows is there, and names exact snapshots. */
static void check_point(struct life *l, uint64_t number)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct manifest m;
	char name[VAULT_NAME_BYTES];
	struct error error = { 0 };
	unsigned expected = 0;
	vault_manifest_name(GROUP, number, name);
	if (blob_sim_peek_object(l->service, name, &text) < 0)
		fail(l, "%s is missing", name);
	if (manifest_parse(name, text.data, text.len, &error, &m) < 0)
		fail(l, "%s", error.message);
	if (m.abandoned || !l->points[number].sealed)
		fail(l, "%s is not of a sealed point", name);
	for (unsigned d = 0; d < DISKS; d++)
		expected += l->points[number].bytes[d] > 0;
	if (m.disk_count != expected)
		fail(l, "%s has %u disks, not %u", name, m.disk_count, expected);
	for (unsigned i = 0; i < m.disk_count; i++)
		check_disk(l, &m, &m.disks[i]);
	manifest_free(&m);
	l->verified++;
}

static void count_fault(void *context, const char *text)
{
	trace((struct life *)context, "found: %s", text);
}

/* One bit, anywhere a point's bytes and their proof lie: it must be found, and cost no other
 * point than those that stand on it. */
static void rot_is_found(struct life *l)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct vault_check_report report = { 0 };
	struct error error = { 0 };
	struct point point;
	char name[VAULT_NAME_BYTES];
	if (history_point_newest(l->history, POINT_VAULT, INT64_MAX, &point) < 0)
		return;
	vault_manifest_name(GROUP, point.number, name);
	if (blob_sim_peek_object(l->service, name, &text) < 0 ||
		manifest_parse(name, text.data, text.len, &error, &m) < 0)
		fail(l, "%s cannot be read", name);
	const struct manifest_disk *disk = &m.disks[below(l, m.disk_count)];
	uint64_t at = below(l, disk->size_bytes);
	blob_sim_rot(l->service, disk->blob, disk->snapshot, at);
	if (vault_point_verify(l->store, &l->group, m.number, NULL, NULL, &error) != -EBADMSG)
		fail(l, "a flipped bit at %" PRIu64 " of %s is not found", at, disk->blob);
	trace(l, "found: %s", error.message);
	blob_sim_rot(l->service, disk->blob, disk->snapshot, at);
	vault_hashes_name(GROUP, m.number, name);
	buf_clear(&text);
	blob_sim_peek_object(l->service, name, &text);
	at = below(l, text.len);
	blob_sim_rot(l->service, name, NULL, at);
	if (vault_point_verify(l->store, &l->group, m.number, NULL, NULL, &error) != -EBADMSG)
		fail(l, "a flipped bit at %" PRIu64 " of %s is not found", at, name);
	if (vault_check(l->store, count_fault, l, &error, &report) < 0 || report.broken != 1)
		fail(l, "the check finds %u broken for a bit of %s", report.broken, name);
	blob_sim_rot(l->service, name, NULL, at);
	vault_manifest_name(GROUP, m.number, name);
	blob_sim_rot(l->service, name, NULL, below(l, 300));
	if (vault_check(l->store, count_fault, l, &error, &report) < 0 || report.broken != 1 ||
		report.missing != 0)
		fail(l, "the check finds %u broken for a bit of %s", report.broken, name);
}

static void told_fault(void *context, const char *text)
{
	struct life *l = context;
	/* A snapshot that was under way may have come since the collection. */
	if (strstr(text, "belongs to no point") && (!l->settled || l->rots))
		return;
	fail(l, "vault_check: %s", text);
}

/* What a source is told of a disk's current content equals what it is, chunk by chunk. */
static void check_head_hashes(struct life *l, unsigned d)
{
	struct head_hashes *hashes = NULL;
	PERSIST(l, "head_hashes_new",
		head_hashes_new(l->history, blob_sim_service(l->service), &l->group,
			(uint16_t)(d + 1), &error, &hashes));
	for (uint64_t chunk = 0; chunk < l->now.bytes[d] / MIB; chunk++) {
		struct hash128 told = { 0 };
		uint64_t pages[HEAD_CHUNK_PAGES];
		const uint8_t *data = l->now.data[d] + chunk * MIB;
		PERSIST(l, "head_hashes_chunks",
			head_hashes_chunks(hashes, chunk, 1, &error, &told));
		for (unsigned p = 0; p < HEAD_CHUNK_PAGES; p++)
			pages[p] = checksum64(data + p * 4096, 4096);
		struct hash128 right = checksum128(pages, sizeof(pages));
		if (told.low != right.low || told.high != right.high)
			fail(l, "the head of disk %u: chunk %" PRIu64 " has another hash", d + 1,
				chunk);
	}
	head_hashes_free(hashes);
}

static void check_all(struct life *l)
{
	struct vault_check_report report;
	struct point points[POINTS];
	unsigned n = history_points(l->history, 0, points, POINTS);
	if (blob_sim_violation(l->service))
		fail(l, "rule broken: %s", blob_sim_violation(l->service));
	blob_sim_set_faults(l->service, 0);
	blob_sim_set_overload(l->service, 0);
	collect(l);
	PERSIST(l, "vault_check", vault_check(l->store, told_fault, l, &error, &report));
	for (unsigned d = 0; d < l->disk_count; d++)
		check_head_hashes(l, d);
	for (unsigned i = 0; i < n; i++) {
		if (!(points[i].flags & POINT_VAULT))
			continue;
		check_point(l, points[i].number);
		PERSIST(l, "vault_point_verify",
			vault_point_verify(
				l->store, &l->group, points[i].number, NULL, NULL, &error));
	}
	blob_sim_set_faults(l->service, l->faults);
	blob_sim_set_overload(l->service, l->faults);
}

/* The first appliance lives on and knows nothing. */
static void first_is_refused(struct life *l)
{
	struct flusher_result result;
	struct error error = { 0 };
	struct point newest = { 0 }, vaulted = { 0 };
	history_point_newest(l->history, 0, INT64_MAX, &newest);
	history_point_newest(l->history, POINT_VAULT, INT64_MAX, &vaulted);
	if (newest.number <= MAX(vaulted.number, l->unknown) ||
		newest.number < history_flush_pending(l->history))
		return;
	int r = flusher_flush(l->flusher, newest.number, &error, &result);
	for (unsigned try = 0; passes(r) && try < TRIES; try++)
		r = flusher_flush(l->flusher, newest.number, &error, &result);
	if (r != -ESTALE && !(l->rots && (r == -ENODATA || r == -EIO)))
		fail(l, "the first appliance's flush answers %d: %s", r, error.message);
	trace(l, "refused: %s", error.message);
}

/* Returns the second one. */
static struct life *take_over(struct life *l)
{
	static struct life second;
	struct blob_service *service = blob_sim_service(l->service);
	second = *l;
	memset(&second.group, 0, sizeof(second.group));
	second.flusher = NULL;
	second.history = NULL;
	second.base = NULL;
	second.appliance.bytes[0] = 2;
	second.directory = "/journal2";
	if (service->ops->open_store(service, NULL, NULL, &second.store) < 0)
		abort();
	trace(l, "takeover");
	PERSIST(&second, "vault_group_takeover",
		vault_group_takeover(second.store, GROUP, &second.appliance, "second",
			&second.clock.source, NULL, NULL, &error, &second.group));
	first_is_refused(l);
	/* What was under way lands, and changes nothing. */
	blob_sim_land_all(l->service);
	stop(l);
	if (vault_base_new(service, &second.group, &second.base) < 0)
		abort();
	if (!open_history(&second))
		fail(l, "no history after takeover");
	PERSIST(&second, "vault_import",
		vault_import(second.store, &second.group, second.history, &error));
	if (!commit(&second) || !make_flusher(&second))
		fail(l, "no commit after takeover");
	read_head(&second);
	check_all(&second);
	return &second;
}

/* It goes on. */
static void after_takeover(struct life *l)
{
	for (unsigned i = 0; i < 30 && l->disk_count > 0; i++)
		put(l);
	for (unsigned i = 0; i < 3 && l->disk_count > 0; i++) {
		seal(l);
		flush(l);
		if (io_sim_is_off(l->disk))
			restart(l);
	}
	blob_sim_set_faults(l->service, 0);
	blob_sim_land_all(l->service);
	uint64_t pending = history_flush_pending(l->history);
	struct flusher_result result;
	struct point last = { 0 };
	history_point(l->history, pending, &last);
	/* One that is damaged is passed by, by whatever is flushed next. */
	if (pending > l->unknown && (last.flags & POINT_LOCAL) && !(last.flags & POINT_DAMAGED))
		PERSIST(l, "the last flush", flusher_flush(l->flusher, pending, &error, &result));
	l->settled = true;
	check_all(l);
	blob_sim_set_faults(l->service, 0);
	blob_sim_set_overload(l->service, 0);
	if (!l->rots) /* else the newest here may not be the newest there */
		rot_is_found(l);
}

/* A flush was cut short: what it sent last may still land, before or after others go on. */
static void after_cut(struct life *l)
{
	if (history_flush_pending(l->history) == 0)
		return;
	if (below(l, 2) == 0)
		collect(l);
	if (below(l, 2) == 0)
		blob_sim_land_all(l->service);
	if (below(l, 2) == 0) {
		put(l);
		seal(l);
	}
	for (unsigned i = 0; i < 2 && !io_sim_is_off(l->disk); i++)
		flush(l);
	if (io_sim_is_off(l->disk))
		return;
	if (below(l, 2) == 0)
		collect(l);
	blob_sim_land_all(l->service);
	check_all(l);
}

static void live(struct life *l)
{
	struct life *second;
	l->store = NULL;
	struct blob_service *service = blob_sim_service(l->service);
	if (service->ops->open_store(service, NULL, NULL, &l->store) < 0)
		abort();
	make_group(l);
	stop(l);
	if (!start(l))
		fail(l, "it does not start");
	add_disk(l);
	blob_sim_set_faults(l->service, l->faults);
	blob_sim_set_overload(l->service, l->faults);
	for (uint64_t step = 20 + below(l, 120); step > 0; step--) {
		uint64_t what = below(l, 100);
		if (l->disk_count == 0)
			add_disk(l);
		if (l->disk_count == 0)
			continue;
		if (what < 50)
			put(l);
		else if (what < 62)
			seal(l);
		else if (what < 76)
			flush(l);
		else if (what < 80)
			delete_point(l);
		else if (what < 83)
			collect(l);
		else if (what < 85)
			grow_disk(l);
		else if (what < 87)
			add_disk(l);
		else if (what < 89)
			keep_point(l);
		else if (what < 91)
			check_all(l);
		else if (what < 93)
			blob_sim_land_all(l->service);
		else if (what < 96)
			io_sim_power_cut(l->disk);
		else if (what < 98 && !l->rots)
			another_writes(l);
		if (io_sim_is_off(l->disk)) {
			restart(l);
			if (!l->refused)
				after_cut(l);
		}
		if (io_sim_is_off(l->disk))
			restart(l);
		if (l->refused)
			break;
	}
	if (l->refused) {
		trace(l, "refused");
		stop(l);
		return;
	}
	check_all(l);
	/* The last that the first one sends is under way when it is taken over. */
	put(l);
	seal(l);
	flush(l);
	if (io_sim_is_off(l->disk))
		restart(l);
	if (l->refused) {
		stop(l);
		return;
	}
	second = take_over(l);
	after_takeover(second);
	blob_sim_power_cut(l->service);
	io_sim_power_cut(l->disk);
	stop(second);
	l->verified = second->verified;
	l->crashes = second->crashes;
	l->rotten = second->rotten;
	memcpy(&l->now, &second->now, sizeof(l->now));
	memcpy(l->points, second->points, sizeof(l->points));
}

static int run(const struct sim_settings *settings, uint64_t seed, bool rots, uint64_t *crashes,
	uint64_t *verified, uint64_t *rotten)
{
	static const unsigned faults[] = { 0, 3, 10, 30 };
	static struct life l;
	static char failure[FAILURE_BYTES];
	static jmp_buf failed;
	memset(&l, 0, sizeof(l));
	l.failed = &failed;
	l.failure = failure;
	sim_replay_set(settings, "%s:%#" PRIx64, rots ? "rot" : "random", seed);
	l.rots = rots;
	rng_seed(&l.rng, seed);
	clock_sim_init(&l.clock);
	l.trace = settings->trace;
	l.directory = "/journal";
	l.appliance.bytes[0] = 1;
	l.faults = faults[below(&l, ARRAY_SIZE(faults))];
	if (io_sim_new(seed, &l.disk) < 0 || blob_sim_new(seed, l.disk, &l.service) < 0)
		abort();
	int r = setjmp(failed);
	if (r == 0) {
		live(&l);
		blob_sim_free(l.service);
		io_sim_free(l.disk);
		for (unsigned d = 0; d < DISKS; d++) {
			free(l.now.data[d]);
			for (unsigned i = 0; i < POINTS; i++)
				free(l.points[i].data[d]);
		}
	}
	*crashes += l.crashes + 1;
	*rotten += l.rotten;
	*verified += l.verified;
	return r ? sim_replay_report(l.failure) : 0;
}

int main(int argc, char **argv)
{
	struct sim_settings settings;
	uint64_t crashes = 0, verified = 0, lives = 0, rotten = 0;
	int r = 0;
	if (sim_settings_parse(argc, argv, "random", 500, &settings) < 0) {
		fprintf(stderr,
			"usage: vault_sim_test [--mode random|rot] [--seed S]\n"
			"         [--crash-points N] [--replay random|rot:SEED] [--verbose]\n");
		return 2;
	}
	printf("seed %#" PRIx64 "\n", settings.seed);
	fflush(stdout);
	if (settings.replay && strncmp(settings.replay, "random:", 7) == 0)
		return run(&settings, strtoull(settings.replay + 7, NULL, 0), false, &crashes,
			&verified, &rotten);
	if (settings.replay && strncmp(settings.replay, "rot:", 4) == 0)
		return run(&settings, strtoull(settings.replay + 4, NULL, 0), true, &crashes,
			&verified, &rotten);
	bool rots = strcmp(settings.mode, "rot") == 0;
	for (; r == 0 && crashes < settings.crash_points; lives++)
		r = run(&settings, sim_mix(settings.seed, lives), rots, &crashes, &verified,
			&rotten);
	printf("%s: %" PRIu64 " lives, %" PRIu64 " crash points, %" PRIu64 " losses, %" PRIu64
	       " points exact\n",
		r == 0 ? "passed" : "FAILED", lives, crashes, rotten, verified);
	return r;
}
