/*
 * A group whose source seals by itself and writes far more than its journal holds before it does:
 *
 *	group_drain_test CONTAINER DIRECTORY
 *
 * against the service that AZURE_STORAGE_CONNECTION_STRING names. A first point; then a resync of
 * several times the journal's size, during which the head reads right, the first point stays exact,
 * nobody seals but the source, and the group is closed and opened again; then its seal, which must
 * be in the vault and exact, every byte proven; then an ordinary point. For each vault point a line
 * "<blob> <snapshot> <file> <bytes>" goes to DIRECTORY/points, for another reader to compare.
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
#include "fs/vhd.h"
#include "replicator/group.h"
#include "replicator/head_hashes.h"
#include "replicator/manifest.h"

#define DISKS 2
#define JOURNAL_BYTES (48 * MIB)
#define WRITE_BYTES (160 * MIB)
#define PIECE_BYTES (256 * KIB)
#define SOON_MS 120000u
#define MAX_POINTS 8

static const uint64_t disk_bytes[DISKS] = { 96 * MIB, 32 * MIB };
static const char *const names[DISKS] = { "web/data", "web/root" };

struct world {
	struct blob_service *service;
	struct group *group;
	const char *directory;
	char journal[600], state[600];
	struct rng rng;
	uint8_t *now[DISKS];
	uint8_t *images[MAX_POINTS][DISKS];
};

#define die(...)                                         \
	do {                                             \
		fprintf(stderr, "FAILED: " __VA_ARGS__); \
		fputc('\n', stderr);                     \
		exit(1);                                 \
	} while (0)

static void open_group(struct world *w)
{
	struct error error = { 0 };
	struct group_options options = { .io = io_posix(),
		.clock = clock_system(),
		.vault = w->service,
		.name = "web",
		.directory = w->journal,
		.state_path = w->state,
		.appliance_name = "here",
		.id = { { 1 } },
		.appliance = { { 2 } },
		.journal_bytes = JOURNAL_BYTES,
		.settings = "{}",
		.full_wait_s = 300, /* the service may be slow, and faulty */
		.source_seals = true };
	policy_default(&options.policy);
	options.policy.point_interval_s = 1;
	if (group_new(&options, &error, &w->group) < 0)
		die("group_new: %s", error.message);
	for (unsigned d = 0; d < DISKS; d++)
		if (group_add_disk(w->group, names[d], disk_bytes[d], &error) < 0)
			die("group_add_disk: %s", error.message);
}

static struct group_status status_of(struct world *w)
{
	struct group_status status;
	group_status(w->group, &status);
	return status;
}

static uint64_t newest_point(struct world *w)
{
	struct point point = { 0 };
	(void)history_point_newest(group_history(w->group), 0, INT64_MAX, &point);
	return point.number;
}

static void put(struct world *w)
{
	static uint8_t data[PIECE_BYTES];
	unsigned d = rng_below(&w->rng, 4) == 0;
	uint64_t n = (1 + rng_below(&w->rng, PIECE_BYTES / SECTOR_BYTES)) * SECTOR_BYTES;
	uint64_t at = rng_below(&w->rng, (disk_bytes[d] - n) / SECTOR_BYTES) * SECTOR_BYTES, lsn;
	bool zero = rng_below(&w->rng, 8) == 0;
	int r;
	if (zero) {
		memset(data, 0, n);
		r = committer_zero(group_committer(w->group), (uint16_t)(d + 1), at / SECTOR_BYTES,
			n / SECTOR_BYTES, &lsn);
	} else {
		rng_fill(&w->rng, data, n);
		r = committer_write(group_committer(w->group), (uint16_t)(d + 1), at / SECTOR_BYTES,
			n / SECTOR_BYTES, data, &lsn);
	}
	if (r < 0) {
		struct group_status s = status_of(w);
		die("a write answers %d: journal %.2f, %" PRIu64 " rounds, %" PRIu64
		    " bytes drained, %" PRIu64 " not, %" PRIu64 " freeable, flushing %d, draining "
		    "%d, reachable %d, level rate %" PRIu64 ", %u alerts: %s",
			r, s.journal_fill, s.drains, s.history.drained_bytes,
			s.history.undrained_bytes, s.history.freeable_bytes, s.flushing, s.draining,
			s.vault_reachable, s.allowed_bytes_per_s, s.alert_count,
			s.alert_count ? s.alerts[0].text : "");
	}
	memcpy(w->now[d] + at, data, n);
}

static void check_head(struct world *w)
{
	static uint8_t data[PIECE_BYTES];
	unsigned d = rng_below(&w->rng, 2) == 0;
	uint64_t n = (1 + rng_below(&w->rng, PIECE_BYTES / SECTOR_BYTES)) * SECTOR_BYTES;
	uint64_t at = rng_below(&w->rng, (disk_bytes[d] - n) / SECTOR_BYTES) * SECTOR_BYTES;
	int r;
	do
		r = history_read(group_history(w->group), (uint16_t)(d + 1), at / SECTOR_BYTES,
			(uint32_t)(n / SECTOR_BYTES), data);
	while (r == -EAGAIN || r == -ETIMEDOUT);
	if (r < 0)
		die("reading the head answers %d", r);
	if (memcmp(data, w->now[d] + at, n) != 0)
		die("the head of disk %u is wrong in %" PRIu64 "+%" PRIu64, d + 1, at, n);
}

/* What a source would be told of a chunk. */
static void check_hashes(struct world *w)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	struct error error = { 0 };
	for (unsigned d = 0; d < DISKS; d++) {
		struct head_hashes *hashes;
		uint64_t pages[HEAD_CHUNK_PAGES];
		if (group.name[0] == '\0' && group_vault_copy(w->group, &group) < 0)
			return; /* not claimed again yet */
		if (head_hashes_new(group_history(w->group), w->service, &group, (uint16_t)(d + 1),
			    &error, &hashes) < 0)
			die("head_hashes_new: %s", error.message);
		for (uint64_t chunk = rng_below(&w->rng, 4); chunk < disk_bytes[d] / MIB;
			chunk += 4) {
			int r;
			do
				r = head_hashes_pages(hashes, chunk, &error, pages);
			while (r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET);
			if (r < 0)
				die("head_hashes_pages: %s", error.message);
			for (unsigned p = 0; p < HEAD_CHUNK_PAGES; p++)
				if (pages[p] !=
					checksum64(w->now[d] + chunk * MIB + p * 4096, 4096))
					die("page %u of chunk %" PRIu64 " of disk %u: wrong hash",
						p, chunk, d + 1);
		}
		head_hashes_free(hashes);
	}
}

static uint64_t seal(struct world *w, int64_t time_ns)
{
	struct error error = { 0 };
	const struct seal seal = { .kind = POINT_CRASH, .time_ns = time_ns };
	uint64_t number;
	if (group_seal(w->group, &seal, NULL, false, &error, &number) < 0)
		die("group_seal: %s", error.message);
	if (number >= MAX_POINTS)
		die("too many points");
	for (unsigned d = 0; d < DISKS; d++) {
		w->images[number][d] = malloc(disk_bytes[d]);
		memcpy(w->images[number][d], w->now[d], disk_bytes[d]);
	}
	return number;
}

static void wait_vault(struct world *w, uint64_t number)
{
	struct error error = { 0 };
	if (group_wait_vault(w->group, number, SOON_MS, &error) < 0)
		die("group_wait_vault: %s; last: %s", error.message,
			status_of(w).alert_count ? status_of(w).alerts[0].text : "no alert");
}

static void check_point(struct world *w, uint64_t number)
{
	static uint8_t data[MIB];
	struct view *view;
	int r = history_view_open(group_history(w->group), number, &view);
	if (r < 0)
		die("point %" PRIu64 " does not open: %d", number, r);
	for (unsigned d = 0; d < DISKS; d++)
		for (uint64_t at = 0; at < disk_bytes[d]; at += MIB) {
			do
				r = view_read(view, (uint16_t)(d + 1), at / SECTOR_BYTES,
					MIB / SECTOR_BYTES, data);
			while (r == -EAGAIN || r == -ETIMEDOUT);
			if (r < 0 || memcmp(data, w->images[number][d] + at, MIB) != 0)
				die("point %" PRIu64 " disk %u at %" PRIu64 ": %d, or wrong",
					number, d + 1, at, r);
		}
	view_close(view);
}

/* Writes, reads and looks as a source's resync does, several times the journal. */
static void resync(struct world *w)
{
	uint64_t before = status_of(w).history.written_bytes, drains = 0;
	uint64_t newest = newest_point(w);
	bool reopened = false, draining = false;
	struct group_status s;
	for (unsigned i = 0; (s = status_of(w)).history.written_bytes < before + WRITE_BYTES; i++) {
		put(w);
		if (i % 8 == 0)
			check_head(w);
		if (i % 128 == 0)
			check_hashes(w);
		draining |= s.draining;
		if (newest_point(w) != newest)
			die("somebody sealed while the source had not");
		if (!reopened && s.drains >= 2) {
			check_point(w, newest);
			drains = s.drains;
			group_free(w->group);
			open_group(w);
			before = 0;
			reopened = true;
			if (status_of(w).taken_over)
				die("the group is another's");
		}
	}
	s = status_of(w);
	if (!reopened || s.drains == 0 || !draining || s.history.drained_bytes == 0)
		die("nothing was drained: %" PRIu64 " and %" PRIu64 " rounds, %" PRIu64 " bytes",
			drains, s.drains, s.history.drained_bytes);
	printf("%" PRIu64 " rounds, then %" PRIu64 "; %" PRIu64 " bytes drained, journal %.0f %%\n",
		drains, s.drains, s.history.drained_bytes, 100 * s.journal_fill);
	check_hashes(w);
}

static void list_points(struct world *w, struct blob_store *store)
{
	struct point points[MAX_POINTS];
	unsigned n = history_points(group_history(w->group), 0, points, MAX_POINTS);
	char path[700];
	snprintf(path, sizeof(path), "%s/points", w->directory);
	FILE *list = fopen(path, "w");
	for (unsigned i = 0; list && i < n; i++) {
		CLEANUP(buf_free) struct buf text = { 0 };
		CLEANUP(manifest_free) struct manifest m = { 0 };
		char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
		struct blob_error e = { 0 };
		vault_manifest_name("web", points[i].number, name);
		int r;
		do {
			buf_clear(&text);
			r = store->ops->object_get(store, name, 1 << 20, &e, &text, etag);
		} while (r < 0 && r != -ENOENT);
		if (r < 0 || manifest_parse(name, text.data, text.len, NULL, &m) < 0)
			die("%s is not there or damaged", name);
		for (unsigned d = 0; d < m.disk_count; d++) {
			unsigned at = m.disks[d].id - 1u;
			snprintf(path, sizeof(path), "%s/%" PRIu64 ".%u.raw", w->directory,
				m.number, m.disks[d].id);
			FILE *image = fopen(path, "w");
			if (!image || fwrite(w->images[m.number][at], 1, disk_bytes[at], image) !=
					      disk_bytes[at])
				die("writing %s", path);
			fclose(image);
			fprintf(list, "%s %s %s %" PRIu64 "\n", m.disks[d].blob,
				m.disks[d].snapshot, path, disk_bytes[at]);
		}
	}
	if (!list || fclose(list) != 0)
		die("writing the list");
}

static void verify_all(struct world *w)
{
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	struct error error = { 0 };
	struct blob_store *store;
	struct point points[MAX_POINTS];
	if (group_vault_copy(w->group, &group) < 0 ||
		w->service->ops->open_store(w->service, NULL, &error, &store) < 0)
		die("the vault is out of reach");
	unsigned n = history_points(group_history(w->group), 0, points, MAX_POINTS);
	for (unsigned i = 0; i < n; i++) {
		int r;
		do
			r = vault_point_verify(store, &group, points[i].number, NULL, NULL, &error);
		while (r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET);
		if (r < 0)
			die("point %" PRIu64 ": %s", points[i].number, error.message);
		printf("point %" PRIu64 " is proven\n", points[i].number);
	}
	list_points(w, store);
	store->ops->free(store);
}

int main(int argc, char **argv)
{
	struct config_vault vault = { .configured = true };
	struct vault_identity identity;
	struct error error = { 0 };
	struct world w = { 0 };
	bool created;
	if (argc != 3 || !getenv("AZURE_STORAGE_CONNECTION_STRING")) {
		fprintf(stderr, "usage: group_drain_test CONTAINER DIRECTORY\n");
		return 2;
	}
	vault.container = argv[1];
	vault.connection_string = getenv("AZURE_STORAGE_CONNECTION_STRING");
	w.directory = argv[2];
	snprintf(w.journal, sizeof(w.journal), "%s/journal", argv[2]);
	snprintf(w.state, sizeof(w.state), "%s/state.json", argv[2]);
	rng_seed(&w.rng, 1);
	for (unsigned d = 0; d < DISKS; d++)
		w.now[d] = calloc(1, disk_bytes[d]);
	if (blob_azure_new(&vault, clock_system(), &error, &w.service) < 0)
		die("%s", error.message);
	int r;
	do
		r = vault_init(w.service, clock_system(), &error, &created, &identity);
	while (r == -EAGAIN || r == -ETIMEDOUT || r == -ECONNRESET);
	if (r < 0)
		die("vault_init: %s", error.message);
	open_group(&w);
	for (unsigned i = 0; i < 20; i++)
		put(&w);
	uint64_t first = seal(&w, 0);
	wait_vault(&w, first);
	check_point(&w, first);
	resync(&w);
	check_point(&w, first);

	uint64_t second = seal(&w, 1000 * NS_PER_S);
	struct point point;
	if (history_point(group_history(w.group), second, &point) < 0 ||
		point.time_ns != 1000 * NS_PER_S)
		die("the point does not show the source's time");
	if (!(point.flags & POINT_VAULT) && !(point.flags & POINT_DRAINED))
		die("a drained point says that it is local");
	wait_vault(&w, second);
	check_point(&w, second);
	check_point(&w, first);
	if (status_of(&w).history.drained_bytes != 0)
		die("something is still drained");
	for (unsigned i = 0; i < 10; i++)
		put(&w);
	uint64_t third = seal(&w, 0);
	check_point(&w, third); /* local as ever */
	wait_vault(&w, third);
	verify_all(&w);
	group_free(w.group);
	blob_azure_free(w.service);
	for (unsigned d = 0; d < DISKS; d++) {
		free(w.now[d]);
		for (unsigned i = 0; i < MAX_POINTS; i++)
			free(w.images[i][d]);
	}
	return 0;
}
