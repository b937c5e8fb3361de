/*
 * What a life does, a step a function.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/vault_names.h"
#include "fs/vhd.h"
#include "tests/sim/vault_life.h"

/* The vault learns of the history's disks. */
static bool update_group(struct life *l)
{
	struct history_disk disks[LIFE_DISKS];
	unsigned n = history_disks(l->history, disks, LIFE_DISKS);
	struct vault_disk *all = calloc(LIFE_DISKS, sizeof(*all));
	if (!all)
		abort();
	for (unsigned i = 0; i < n; i++) {
		all[i].id = disks[i].id;
		memcpy(all[i].name, disks[i].name, sizeof(all[i].name));
		all[i].size_bytes = disks[i].size_bytes;
		all[i].added_point = disks[i].added_point;
		vhd_disk_id(&l->group.id, disks[i].name, &all[i].vhd_id);
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

void life_add_disk(struct life *l)
{
	char name[32];
	uint64_t lsn, bytes = (1 + life_below(l, 2)) * MIB;
	uint16_t id;
	if (l->disk_count == LIFE_DISKS)
		return;
	snprintf(name, sizeof(name), "web/disk%u", l->disk_count);
	if (history_add_disk(l->history, name, bytes, &id, &lsn) < 0 || !life_commit(l))
		return;
	unsigned d = l->disk_count++;
	if (!l->now.data[d])
		l->now.data[d] = calloc(1, LIFE_MAX_BYTES);
	memset(l->now.data[d], 0, LIFE_MAX_BYTES);
	l->now.bytes[d] = bytes;
	update_group(l);
}

void life_grow_disk(struct life *l)
{
	unsigned d = (unsigned)life_below(l, l->disk_count);
	uint64_t lsn;
	if (l->now.bytes[d] >= LIFE_MAX_BYTES ||
		history_grow_disk(l->history, (uint16_t)(d + 1), l->now.bytes[d] + MIB, &lsn) < 0)
		return;
	life_trace(l, "grow disk %u", d + 1);
	l->now.bytes[d] += MIB;
	if (life_commit(l))
		update_group(l);
}

void life_put(struct life *l)
{
	static uint8_t data[1 << 20];
	unsigned d = (unsigned)life_below(l, l->disk_count);
	uint64_t sectors = l->now.bytes[d] / SECTOR_BYTES, lba = life_below(l, sectors), lsn;
	uint64_t n = 1 + life_below(l, life_below(l, 8) == 0 ? 2000 : 30);
	bool zero = life_below(l, 4) == 0;
	if (life_below(l, 2)) {
		lba = round_down(lba, 8);
		n = round_up(n, 8);
	}
	n = MIN(n, sectors - lba);
	rng_fill(&l->rng, data, 64);
	memset(data, (int)life_below(l, 5), n * SECTOR_BYTES); /* sometimes zeros written as data */
	for (uint64_t i = 0; data[0] != 0 && i < n; i++)
		memcpy(data + i * SECTOR_BYTES, &l->rng.s[i % 4], 8);
	for (unsigned try = 0; try < 2; try++) {
		int r = zero ? history_zero(l->history, (uint16_t)(d + 1), lba, n, &lsn)
			     : history_write(
				       l->history, (uint16_t)(d + 1), lba, (uint32_t)n, data, &lsn);
		if (r == 0)
			break;
		if (r != -EAGAIN || !life_commit(l))
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
	for (unsigned d = 0; d < LIFE_DISKS; d++) {
		static uint8_t data[MIB];
		for (uint64_t at = 0; at < l->now.bytes[d]; at += MIB) {
			int r = view_read(view, (uint16_t)(d + 1), at / SECTOR_BYTES,
				MIB / SECTOR_BYTES, data);
			for (uint64_t i = 0; r == 0 && i < MIB; i++)
				if (data[i] != l->now.data[d][at + i])
					life_fail(l,
						"sealed as %" PRIu64 " disk %u reads %u at %" PRIu64
						", the head was %u",
						number, d + 1, data[i], at + i,
						l->now.data[d][at + i]);
		}
	}
	view_close(view);
}

void life_seal(struct life *l)
{
	struct seal seal = { .kind = POINT_CRASH, .time_ns = clock_realtime_ns(&l->clock.source) };
	uint64_t number, lsn;
	clock_sim_advance(&l->clock, NS_PER_S);
	if (history_seal(l->history, &seal, &number, &lsn) < 0)
		return;
	if (number >= LIFE_POINTS)
		life_fail(l, "too many points");
	life_trace(l, "seal %" PRIu64, number);
	life_copy_image(&l->points[number], &l->now);
	l->points[number].sealed = true;
	if (life_commit(l) && l->rots)
		check_view(l, number);
}

void life_collect(struct life *l)
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
	if (!PERSIST(l, "vault_agree", life_agree(l, &error)) || !life_commit(l) ||
		!life_make_flusher(l))
		return; /* the power is out */
	life_trace(l, "agreed again: unknown %" PRIu64, l->unknown);
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
		.offset = life_below(l, pages) * sizeof(page),
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
	life_trace(l, "another writes to %s at %" PRIu64 ": %d", blob, request.offset, r);
	if (r < 0)
		life_fail(l, "another cannot write: %d", r);
}

/* Somebody breaks a lease and writes. Now and then that is met after a restart only. A request of
 * ours for the lease that lands after that would hide it (vault.h), so they have all landed. */
void life_another_writes(struct life *l)
{
	char blob[VAULT_NAME_BYTES];
	if (l->group.disk_count == 0)
		return;
	blob_sim_land_all(l->service);
	vault_blob_name(l->group.disks[life_below(l, l->group.disk_count)].name, blob);
	blob_sim_set_faults(l->service, 0);
	blob_sim_set_overload(l->service, 0);
	write_as_another(l, blob);
	blob_sim_set_faults(l->service, l->faults);
	blob_sim_set_overload(l->service, l->faults);
	if (life_below(l, 3) == 0) {
		io_sim_power_cut(l->disk);
		return;
	}
	if (!life_look_at_leases(l) || !PERSIST(l, "vault_group_claim", life_claim(l, &error)))
		return;
	agree_again(l);
}

void life_flush(struct life *l)
{
	struct point points[LIFE_POINTS];
	struct flusher_result result;
	struct error error = { 0 };
	uint64_t pending = history_flush_pending(l->history), least = 0;
	unsigned n = history_points(l->history, 0, points, LIFE_POINTS), candidates = 0;
	for (unsigned i = 0; i < n; i++)
		if (points[i].flags & POINT_VAULT)
			least = points[i].number;
	least = MAX(least, l->unknown);
	least = MAX(least + 1, pending);
	for (unsigned i = 0; i < n; i++)
		if (points[i].number >= least && !(points[i].flags & POINT_DAMAGED) &&
			(points[i].flags & POINT_LOCAL))
			points[candidates++] = points[i];
	if (candidates == 0 || !life_commit(l))
		return;
	uint64_t number = points[life_below(l, candidates)].number;
	if (life_below(l, 3) == 0)
		io_sim_crash_at(l->disk, io_sim_ops(l->disk) + 1 + life_below(l, 60));
	for (unsigned tries = 1 + (unsigned)life_below(l, 4); tries > 0; tries--) {
		int r = flusher_flush(l->flusher, number, &error, &result);
		life_trace(l, "flush %" PRIu64 ": %d %s", number, r, r < 0 ? error.message : "");
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
			if (!life_make_flusher(l))
				abort();
			continue;
		}
		if (r < 0 && life_below(l, 4) == 0)
			life_collect(l);
		if (!life_passes(r))
			life_fail(
				l, "flush of %" PRIu64 " answers %d: %s", number, r, error.message);
	}
	io_sim_crash_at(l->disk, 0);
}

void life_delete_point(struct life *l)
{
	struct point points[LIFE_POINTS];
	unsigned n = history_points(l->history, 0, points, LIFE_POINTS), count = 0;
	uint64_t lsn;
	for (unsigned i = 0; i < n; i++)
		if (points[i].flags & POINT_VAULT)
			points[count++] = points[i];
	if (count < 2)
		return;
	uint64_t number = points[life_below(l, count - 1)].number;
	life_trace(l, "delete %" PRIu64, number);
	if (history_point_drop(l->history, number, POINT_VAULT, &lsn) < 0 || !life_commit(l))
		return;
	PERSIST(l, "vault_point_delete", vault_point_delete(l->store, &l->group, number, &error));
}

void life_keep_point(struct life *l)
{
	struct point point;
	if (history_point_newest(l->history, POINT_VAULT, INT64_MAX, &point) < 0)
		return;
	PERSIST(l, "vault_point_keep",
		vault_point_keep(l->store, &l->group, point.number, life_below(l, 2), &error));
}
