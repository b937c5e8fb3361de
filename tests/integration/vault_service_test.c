/*
 * Vault, flusher and the blob client together, against a service:
 *
 *	vault_service_test CONTAINER DIRECTORY
 *
 * A life in short: points flushed, one deleted, every byte verified; a second appliance refused,
 * then taking over; the first refused; points read through the vault's base; going on. What each
 * point's disks must hold is written to DIRECTORY/<point>.<disk>.raw, and for each a line
 * "<blob> <snapshot> <file> <bytes>" goes to DIRECTORY/points, for a reader of its own to compare.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/blob_azure.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "replicator/flusher.h"
#include "replicator/manifest.h"
#include "replicator/vault.h"

#define GROUP "web"
#define DISKS 2
#define TRIES 40
#define FAULT_TEXT_BYTES 512
#define MAX_POINTS 64

static const uint64_t disk_bytes[DISKS] = { 8 * MIB, 24 * MIB };

struct appliance {
	struct blob_service *service;
	struct blob_store *store;
	struct base *base;
	struct history *history;
	struct flusher *flusher;
	struct vault_group group;
	struct uuid id;
	char journal[512];
};

static struct rng rng;
static const char *directory;
static uint8_t *now[DISKS];
static uint8_t *images[MAX_POINTS][DISKS];
static uint64_t fences, retries;

#define die(...)                                         \
	do {                                             \
		fprintf(stderr, "FAILED: " __VA_ARGS__); \
		fputc('\n', stderr);                     \
		exit(1);                                 \
	} while (0)

static bool passes(int r)
{
	return r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET || r == -ECONNREFUSED ||
	       r == -EBADMSG;
}

/* Makes the call until it succeeds, if what keeps it from that may pass. */
#define PERSIST(what, call)                                                \
	do {                                                               \
		struct error error = { 0 };                                \
		int r_ = 0;                                                \
		for (unsigned try_ = 0; try_ < TRIES; try_++) {            \
			r_ = (call);                                       \
			if (!passes(r_))                                   \
				break;                                     \
		}                                                          \
		if (r_ < 0)                                                \
			die("%s answers %d: %s", what, r_, error.message); \
	} while (0)

static int sync_to(void *context, uint64_t lsn)
{
	struct appliance *a = context;
	uint64_t durable;
	(void)lsn;
	return history_commit(a->history, &durable);
}

static void open_history(struct appliance *a)
{
	struct history_report report;
	struct error error = { 0 };
	const struct history_options options = { .io = io_posix(),
		.clock = clock_system(),
		.base = a->base,
		.directory = a->journal,
		.group = { { 7 } },
		.limit_bytes = GIB };
	if (history_open(&options, &report, &error, &a->history) < 0)
		die("history_open: %s", error.message);
	const struct flusher_options flushing = { .history = a->history,
		.store = a->store,
		.clock = clock_system(),
		.group = &a->group,
		.sync = sync_to,
		.sync_context = a };
	if (flusher_new(&flushing, &a->flusher) < 0)
		die("flusher_new");
}

static void open_service(struct appliance *a, const struct config_vault *vault, uint8_t number)
{
	struct error error = { 0 };
	a->id.bytes[0] = number;
	snprintf(a->journal, sizeof(a->journal), "%s/journal%u", directory, number);
	if (blob_azure_new(vault, clock_system(), &error, &a->service) < 0 ||
		a->service->ops->open_store(a->service, NULL, &error, &a->store) < 0)
		die("%s", error.message);
}

static void close_appliance(struct appliance *a)
{
	flusher_free(a->flusher);
	history_close(a->history);
	vault_base_free(a->base);
	vault_group_free(&a->group);
	a->store->ops->free(a->store);
	blob_azure_free(a->service);
}

static void begin(struct appliance *a)
{
	struct vault_identity identity;
	struct vault_group group = { .id = { { 7 } }, .owner = a->id };
	bool created;
	strcpy(group.name, GROUP);
	strcpy(group.owner_name, "first");
	PERSIST("vault_init", vault_init(a->service, clock_system(), &error, &created, &identity));
	PERSIST("vault_group_create", vault_group_create(a->store, &group, &error));
	vault_group_free(&group);
	PERSIST("vault_group_claim",
		vault_group_claim(a->store, GROUP, &a->id, clock_system(), &error, &a->group));
	if (vault_base_new(a->service, &a->group, &a->base) < 0)
		die("vault_base_new");
	open_history(a);
	free(a->group.disks);
	a->group.disks = calloc(DISKS, sizeof(*a->group.disks));
	a->group.disk_count = DISKS;
	for (unsigned d = 0; d < DISKS; d++) {
		struct vault_disk *disk = &a->group.disks[d];
		uint64_t lsn;
		snprintf(disk->name, sizeof(disk->name), "web/disk%u", d);
		disk->size_bytes = disk_bytes[d];
		disk->added_point = 1;
		disk->vhd_id.bytes[0] = (uint8_t)(d + 1);
		disk->created_ns = clock_realtime_ns(clock_system());
		if (history_add_disk(a->history, disk->name, disk_bytes[d], &disk->id, &lsn) < 0)
			die("history_add_disk");
	}
	if (sync_to(a, 0) < 0)
		die("commit");
	PERSIST("vault_group_update", vault_group_update(a->store, &a->group, &error));
}

static void write_some(struct appliance *a, unsigned count)
{
	static uint8_t data[1 << 20];
	for (unsigned i = 0; i < count; i++) {
		unsigned d = (unsigned)rng_below(&rng, DISKS);
		uint64_t sectors = disk_bytes[d] / SECTOR_BYTES, lba = rng_below(&rng, sectors),
			 lsn;
		uint64_t n = 1 + rng_below(&rng, rng_below(&rng, 10) ? 40 : 2047);
		bool zero = rng_below(&rng, 5) == 0;
		n = MIN(n, sectors - lba);
		rng_fill(&rng, data, n * SECTOR_BYTES);
		if (zero)
			memset(data, 0, n * SECTOR_BYTES);
		uint16_t id = (uint16_t)(d + 1);
		int r;
		while ((r = zero ? history_zero(a->history, id, lba, n, &lsn)
				 : history_write(a->history, id, lba, (uint32_t)n, data, &lsn)) ==
			-EAGAIN)
			if (sync_to(a, 0) < 0)
				die("commit");
		if (r < 0)
			die("write answers %d", r);
		memcpy(now[d] + lba * SECTOR_BYTES, data, n * SECTOR_BYTES);
	}
}

static uint64_t seal(struct appliance *a)
{
	struct seal seal = { .kind = POINT_CRASH, .time_ns = clock_realtime_ns(clock_system()) };
	uint64_t number, lsn;
	if (history_seal(a->history, &seal, &number, &lsn) < 0 || sync_to(a, lsn) < 0 ||
		number >= MAX_POINTS)
		die("seal");
	for (unsigned d = 0; d < DISKS; d++) {
		images[number][d] = malloc(disk_bytes[d]);
		memcpy(images[number][d], now[d], disk_bytes[d]);
	}
	return number;
}

static void flush(struct appliance *a, uint64_t number)
{
	struct flusher_result result;
	PERSIST("flusher_flush", flusher_flush(a->flusher, number, &error, &result));
	printf("point %" PRIu64 ": %" PRIu64 " bytes in %" PRIu64 " puts, %" PRIu64
	       " clears, %" PRIu64 " retries, %" PRIu64 " fences\n",
		number, result.put_bytes, result.put_requests, result.clear_requests,
		result.retries, result.fences);
	fences += result.fences;
	retries += result.retries;
}

static void told_fault(void *context, const char *text)
{
	snprintf(context, FAULT_TEXT_BYTES, "%s", text);
}

/* A snapshot whose answer was lost may land after the collector has looked: then, and only then,
 * it is looked for again. */
static void check_manifests(struct appliance *a)
{
	char fault[FAULT_TEXT_BYTES];
	struct vault_check_report report;
	for (int tries = 0; tries < 50; tries++) {
		unsigned deleted;
		fault[0] = '\0';
		PERSIST("vault_collect_orphans",
			vault_collect_orphans(a->store, &a->group, 0, &error, &deleted));
		PERSIST("vault_check", vault_check(a->store, told_fault, fault, &error, &report));
		if (report.orphaned == 0 || report.missing > 0 || report.broken > 0)
			break;
		clock_sleep_ns(clock_system(), 200 * NS_PER_MS);
	}
	if (fault[0])
		die("vault_check: %s", fault);
}

static void check(struct appliance *a)
{
	check_manifests(a);
	struct point points[MAX_POINTS];
	unsigned n = history_points(a->history, 0, points, MAX_POINTS);
	for (unsigned i = 0; i < n; i++)
		if (points[i].flags & POINT_VAULT)
			PERSIST("vault_point_verify",
				vault_point_verify(
					a->store, &a->group, points[i].number, NULL, NULL, &error));
}

/* Every point of the vault through a view that has nothing but the vault. */
static void check_views(struct appliance *a)
{
	static uint8_t data[1 << 20];
	struct point points[MAX_POINTS];
	unsigned n = history_points(a->history, 0, points, MAX_POINTS);
	for (unsigned i = 0; i < n; i++) {
		struct view *view;
		if (history_view_open(a->history, points[i].number, &view) < 0)
			die("point %" PRIu64 " does not open", points[i].number);
		for (unsigned d = 0; d < DISKS; d++) {
			for (uint64_t at = 0; at < disk_bytes[d]; at += sizeof(data)) {
				int r;
				for (unsigned try = 0; try < TRIES; try++) {
					r = view_read(view, (uint16_t)(d + 1), at / SECTOR_BYTES,
						sizeof(data) / SECTOR_BYTES, data);
					if (!passes(r))
						break;
				}
				if (r < 0 || memcmp(data, images[points[i].number][d] + at,
						     sizeof(data)) != 0)
					die("point %" PRIu64 " disk %u differs near %" PRIu64
					    " (%d)",
						points[i].number, d + 1, at, r);
			}
		}
		view_close(view);
	}
}

static void list_points(struct appliance *a)
{
	struct point points[MAX_POINTS];
	unsigned n = history_points(a->history, 0, points, MAX_POINTS);
	char path[600];
	snprintf(path, sizeof(path), "%s/points", directory);
	FILE *list = fopen(path, "w");
	for (unsigned i = 0; list && i < n; i++) {
		CLEANUP(buf_free) struct buf text = { 0 };
		CLEANUP(manifest_free) struct manifest m = { 0 };
		char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
		struct blob_error e = { 0 };
		if (!(points[i].flags & POINT_VAULT))
			continue;
		vault_manifest_name(GROUP, points[i].number, name);
		PERSIST("reading a manifest", (buf_clear(&text), error.code = 0,
						      a->store->ops->object_get(a->store, name,
							      1 << 20, &e, &text, etag)));
		if (manifest_parse(name, text.data, text.len, NULL, &m) < 0)
			die("%s is damaged", name);
		for (unsigned d = 0; d < m.disk_count; d++) {
			snprintf(path, sizeof(path), "%s/%" PRIu64 ".%u.raw", directory, m.number,
				m.disks[d].id);
			FILE *image = fopen(path, "w");
			unsigned at = m.disks[d].id - 1u;
			if (!image ||
				fwrite(images[m.number][at], 1, disk_bytes[at], image) !=
					disk_bytes[at] ||
				fclose(image) != 0)
				die("cannot write %s", path);
			fprintf(list, "%s %s %s %" PRIu64 "\n", m.disks[d].blob,
				m.disks[d].snapshot, path, disk_bytes[at]);
		}
	}
	if (!list || fclose(list) != 0)
		die("cannot write %s/points", directory);
}

static void must_be_stale(int r, const struct error *error, const char *what)
{
	if (r != -ESTALE)
		die("%s answers %d: %s", what, r, error->message);
	printf("refused as it must be: %s (%s)\n", error->message, error->mend);
}

/* Calls that are refused for good, after what may pass has passed. */
static void second_is_refused(struct appliance *second)
{
	struct error error = { 0 };
	struct vault_group group;
	int r = -EAGAIN;
	for (unsigned try = 0; passes(r) && try < TRIES; try++)
		r = vault_group_claim(
			second->store, GROUP, &second->id, clock_system(), &error, &group);
	must_be_stale(r, &error, "the second appliance's claim");
}

static void first_is_refused(struct appliance *first)
{
	struct error error = { 0 };
	struct flusher_result result;
	write_some(first, 5);
	uint64_t number, lsn;
	struct seal seal = { .kind = POINT_CRASH, .time_ns = clock_realtime_ns(clock_system()) };
	if (history_seal(first->history, &seal, &number, &lsn) < 0 || sync_to(first, lsn) < 0)
		die("seal");
	int r = -EAGAIN;
	for (unsigned try = 0; passes(r) && try < TRIES; try++)
		r = flusher_flush(first->flusher, number, &error, &result);
	must_be_stale(r, &error, "the first appliance's flush");
	r = -EAGAIN;
	for (unsigned try = 0; passes(r) && try < TRIES; try++)
		r = vault_point_delete(first->store, &first->group, 1, &error);
	must_be_stale(r, &error, "the first appliance's deletion");
}

/* ── a takeover in the midst of a deletion ───────────────────────────────────────────────── */

#define DOOMED "doomed"

static struct {
	struct blob_store_ops ops;
	const struct blob_store_ops *real;
	struct appliance *other;
	bool taken;
} between;

static int take_over_first(struct blob_store *store, const char *blob, const char *snapshot,
	const char *lease_id, struct blob_error *e)
{
	struct appliance *b = between.other;
	if (!between.taken)
		PERSIST("vault_group_takeover",
			vault_group_takeover(b->store, DOOMED, &b->id, "second", false,
				clock_system(), NULL, NULL, &error, &b->group));
	between.taken = true;
	return between.real->delete_blob(store, blob, snapshot, lease_id, e);
}

static int count_snapshot(void *context, const struct blob_item *item)
{
	*(unsigned *)context += item->snapshot != NULL;
	return 0;
}

static unsigned doomed_snapshots(struct appliance *a)
{
	unsigned count = 0;
	struct blob_error e = { 0 };
	PERSIST("list", (count = 0, error.code = 0,
				a->store->ops->list(a->store, "machines/doomed/",
					BLOB_LIST_SNAPSHOTS, count_snapshot, &count, &e)));
	return count;
}

/* The request to delete a blob with its snapshots goes out after another has taken the group: it is
 * refused, the snapshots stay, and it is the other who can delete them. */
static void deletion_is_fenced(const struct config_vault *vault)
{
	struct appliance a = { 0 }, b = { 0 };
	struct error why = { 0 };
	struct blob_error e = { 0 };
	struct vault_group gone;
	char snapshot[BLOB_SNAPSHOT_ID_BYTES];
	open_service(&a, vault, 1);
	open_service(&b, vault, 2);
	a.group = (struct vault_group){ .id = { { 8 } }, .owner = a.id, .disk_count = 1 };
	strcpy(a.group.name, DOOMED);
	strcpy(a.group.owner_name, "first");
	a.group.disks = calloc(1, sizeof(*a.group.disks));
	a.group.disks[0] = (struct vault_disk){ .id = 1, .name = "doomed/d", .size_bytes = MIB };
	PERSIST("vault_group_create", vault_group_create(a.store, &a.group, &error));
	PERSIST("snapshot", a.store->ops->snapshot(a.store, "machines/doomed/d.vhd",
				    a.group.lease_id, NULL, 0, &e, snapshot));
	between.other = &b;
	between.real = a.store->ops;
	between.ops = *between.real;
	between.ops.delete_blob = take_over_first;
	a.store->ops = &between.ops;
	int r = -EAGAIN;
	for (unsigned try = 0; passes(r) && try < TRIES; try++)
		r = vault_group_delete(a.store, &a.group, &why);
	must_be_stale(r, &why, "the former owner's deletion of the group");
	if (!between.taken || doomed_snapshots(&b) == 0)
		die("the new owner's snapshots are gone");
	PERSIST("vault_group_delete", vault_group_delete(b.store, &b.group, &error));
	if (doomed_snapshots(&b) != 0)
		die("snapshots of the deleted group are left");
	for (unsigned try = 0; try == 0 || (passes(r) && try < TRIES); try++)
		r = vault_group_load(b.store, DOOMED, &why, &gone);
	if (r != -ENOENT)
		die("the deleted group is still there: %d", r);
	a.store->ops = between.real;
	close_appliance(&a);
	close_appliance(&b);
}

int main(int argc, char **argv)
{
	struct appliance first = { 0 }, second = { 0 };
	struct config_vault vault = { .configured = true };
	uint64_t lsn;
	if (argc != 3 || !getenv("AZURE_STORAGE_CONNECTION_STRING")) {
		fprintf(stderr, "usage: AZURE_STORAGE_CONNECTION_STRING=… vault_service_test "
				"CONTAINER DIRECTORY\n");
		return 2;
	}
	vault.container = argv[1];
	vault.connection_string = getenv("AZURE_STORAGE_CONNECTION_STRING");
	directory = argv[2];
	rng_seed(&rng, 42);
	for (unsigned d = 0; d < DISKS; d++)
		now[d] = calloc(1, disk_bytes[d]);
	open_service(&first, &vault, 1);
	open_service(&second, &vault, 2);
	begin(&first);
	second_is_refused(&second);
	for (unsigned i = 0; i < 6; i++) {
		write_some(&first, 60);
		flush(&first, seal(&first));
	}
	if (history_point_drop(first.history, 3, POINT_VAULT | POINT_LOCAL, &lsn) < 0 ||
		sync_to(&first, lsn) < 0)
		die("history_point_drop");
	PERSIST("vault_point_delete", vault_point_delete(first.store, &first.group, 3, &error));
	PERSIST("vault_point_keep", vault_point_keep(first.store, &first.group, 4, true, &error));
	check(&first);
	PERSIST("vault_group_takeover",
		vault_group_takeover(second.store, GROUP, &second.id, "second", false,
			clock_system(), NULL, NULL, &error, &second.group));
	uint8_t *kept[DISKS];
	for (unsigned d = 0; d < DISKS; d++) {
		kept[d] = malloc(disk_bytes[d]);
		memcpy(kept[d], now[d], disk_bytes[d]);
	}
	first_is_refused(&first);
	for (unsigned d = 0; d < DISKS; d++) {
		memcpy(now[d], kept[d], disk_bytes[d]);
		free(kept[d]);
	}
	if (vault_base_new(second.service, &second.group, &second.base) < 0)
		die("vault_base_new");
	open_history(&second);
	PERSIST("vault_import", vault_import(second.store, &second.group, second.history, &error));
	if (sync_to(&second, 0) < 0)
		die("commit");
	check_views(&second);
	write_some(&second, 60);
	flush(&second, seal(&second));
	check(&second);
	list_points(&second);
	deletion_is_fenced(&vault);
	close_appliance(&first);
	close_appliance(&second);
	for (unsigned d = 0; d < DISKS; d++) {
		free(now[d]);
		for (unsigned i = 0; i < MAX_POINTS; i++)
			free(images[i][d]);
	}
	printf("done: %" PRIu64 " retries, %" PRIu64 " fences\n", retries, fences);
	return 0;
}
