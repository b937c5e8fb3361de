/*
 * What must be: the vault's points, read past the code under test, are the images of their seals.
 */
#include <errno.h>
#include <string.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "fs/vhd.h"
#include "replicator/head_hashes.h"
#include "replicator/manifest.h"
#include "tests/sim/vault_life.h"

static void check_disk(struct life *l, const struct manifest *m, const struct manifest_disk *disk)
{
	static uint8_t there[LIFE_MAX_BYTES + VHD_FOOTER_BYTES];
	const struct image *image = &l->points[m->number];
	unsigned d = disk->id - 1u;
	uint64_t bytes;
	struct uuid id;
	if (disk->size_bytes != image->bytes[d])
		life_fail(l, "point %" PRIu64 " disk %u has %" PRIu64 " bytes, not %" PRIu64,
			m->number, disk->id, disk->size_bytes, image->bytes[d]);
	int r = blob_sim_peek(l->service, disk->blob, disk->snapshot, 0, there,
		disk->size_bytes + VHD_FOOTER_BYTES);
	if (r < 0)
		life_fail(
			l, "point %" PRIu64 ": snapshot %s is missing", m->number, disk->snapshot);
	for (uint64_t i = 0; i < disk->size_bytes; i++)
		if (there[i] != image->data[d][i])
			life_fail(l, "point %" PRIu64 " disk %u differs at %" PRIu64 ": %u, not %u",
				m->number, disk->id, i, there[i], image->data[d][i]);
	if (vhd_footer_parse(there + disk->size_bytes, &bytes, &id) < 0 ||
		bytes != disk->size_bytes)
		life_fail(l, "point %" PRIu64 " disk %u has no right footer", m->number, disk->id);
}

/* The manifest of a point that the history shows is there, and names exact snapshots. */
static void check_point(struct life *l, uint64_t number)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct manifest m;
	char name[VAULT_NAME_BYTES];
	struct error error = { 0 };
	unsigned expected = 0;
	vault_manifest_name(LIFE_GROUP, number, name);
	if (blob_sim_peek_object(l->service, name, &text) < 0)
		life_fail(l, "%s is missing", name);
	if (manifest_parse(name, text.data, text.len, &error, &m) < 0)
		life_fail(l, "%s", error.message);
	if (m.abandoned || !l->points[number].sealed)
		life_fail(l, "%s is not of a sealed point", name);
	for (unsigned d = 0; d < LIFE_DISKS; d++)
		expected += l->points[number].bytes[d] > 0;
	if (m.disk_count != expected)
		life_fail(l, "%s has %u disks, not %u", name, m.disk_count, expected);
	for (unsigned i = 0; i < m.disk_count; i++)
		check_disk(l, &m, &m.disks[i]);
	manifest_free(&m);
	l->verified++;
}

static void count_fault(void *context, const char *text)
{
	life_trace((struct life *)context, "found: %s", text);
}

/* One bit, anywhere a point's bytes and their proof lie: it must be found, and cost no other
 * point than those that stand on it. */
void life_rot_is_found(struct life *l)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct vault_check_report report = { 0 };
	struct error error = { 0 };
	struct point point;
	char name[VAULT_NAME_BYTES];
	if (history_point_newest(l->history, POINT_VAULT, INT64_MAX, &point) < 0)
		return;
	vault_manifest_name(LIFE_GROUP, point.number, name);
	if (blob_sim_peek_object(l->service, name, &text) < 0 ||
		manifest_parse(name, text.data, text.len, &error, &m) < 0)
		life_fail(l, "%s cannot be read", name);
	const struct manifest_disk *disk = &m.disks[life_below(l, m.disk_count)];
	uint64_t at = life_below(l, disk->size_bytes);
	blob_sim_rot(l->service, disk->blob, disk->snapshot, at);
	if (vault_point_verify(l->store, &l->group, m.number, NULL, NULL, &error) != -EBADMSG)
		life_fail(l, "a flipped bit at %" PRIu64 " of %s is not found", at, disk->blob);
	life_trace(l, "found: %s", error.message);
	blob_sim_rot(l->service, disk->blob, disk->snapshot, at);
	vault_hashes_name(LIFE_GROUP, m.number, name);
	buf_clear(&text);
	blob_sim_peek_object(l->service, name, &text);
	at = life_below(l, text.len);
	blob_sim_rot(l->service, name, NULL, at);
	if (vault_point_verify(l->store, &l->group, m.number, NULL, NULL, &error) != -EBADMSG)
		life_fail(l, "a flipped bit at %" PRIu64 " of %s is not found", at, name);
	if (vault_check(l->store, count_fault, l, &error, &report) < 0 || report.broken != 1)
		life_fail(l, "the check finds %u broken for a bit of %s", report.broken, name);
	blob_sim_rot(l->service, name, NULL, at);
	vault_manifest_name(LIFE_GROUP, m.number, name);
	blob_sim_rot(l->service, name, NULL, life_below(l, 300));
	if (vault_check(l->store, count_fault, l, &error, &report) < 0 || report.broken != 1 ||
		report.missing != 0)
		life_fail(l, "the check finds %u broken for a bit of %s", report.broken, name);
}

static void told_fault(void *context, const char *text)
{
	struct life *l = context;
	/* A snapshot that was under way may have come since the collection. */
	if (strstr(text, "belongs to no point") && (!l->settled || l->rots))
		return;
	life_fail(l, "vault_check: %s", text);
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
			life_fail(l, "the head of disk %u: chunk %" PRIu64 " has another hash",
				d + 1, chunk);
	}
	head_hashes_free(hashes);
}

void life_check_all(struct life *l)
{
	struct vault_check_report report;
	struct point points[LIFE_POINTS];
	unsigned n = history_points(l->history, 0, points, LIFE_POINTS);
	if (blob_sim_violation(l->service))
		life_fail(l, "rule broken: %s", blob_sim_violation(l->service));
	blob_sim_set_faults(l->service, 0);
	blob_sim_set_overload(l->service, 0);
	life_collect(l);
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
