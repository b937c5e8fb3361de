/*
 * See vault_world.h.
 */
#include "tests/sim/vault_world.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/manifest_format.h"
#include "tests/unit/cmocka_common.h"

#define SEED 1

static struct error error;

static int sync_to(void *context, uint64_t lsn)
{
	struct appliance *a = context;
	uint64_t durable;
	(void)lsn;
	if (a->syncs_left == 0)
		return -EIO;
	a->syncs_left--;
	return history_commit(a->history, &durable);
}

static void commit(struct appliance *a)
{
	uint64_t durable;
	assert_int_equal(history_commit(a->history, &durable), 0);
}

static void open_store(struct world *w, struct appliance *a, uint8_t id)
{
	struct blob_service *service = blob_sim_service(w->service);
	*a = (struct appliance){ .id = { { id } }, .syncs_left = 1000 };
	assert_int_equal(service->ops->open_store(service, NULL, &error, &a->store), 0);
	a->ops = *a->store->ops;
	a->store->ops = &a->ops;
}

static void open_flusher(struct world *w, struct appliance *a, uint64_t unknown_point)
{
	const struct flusher_options options = { .history = a->history,
		.store = a->store,
		.clock = &w->clock.source,
		.group = &a->group,
		.sync = sync_to,
		.sync_context = a,
		.unknown_point = unknown_point };
	assert_int_equal(flusher_new(&options, &a->flusher), 0);
}

static void open_history(struct world *w, struct appliance *a, const char *directory)
{
	struct history_report report;
	assert_int_equal(vault_base_new(blob_sim_service(w->service), &a->group, &a->base), 0);
	const struct history_options options = { .io = io_sim_io(w->disk),
		.clock = &w->clock.source,
		.base = a->base,
		.directory = directory,
		.group = { { 7 } },
		.limit_bytes = 64 * MIB,
		.segment_bytes = 1 << 20 };
	assert_int_equal(history_open(&options, &report, &error, &a->history), 0);
	open_flusher(w, a, 0);
}

static void add_disk(struct world *w, struct appliance *a)
{
	uint16_t id;
	uint64_t lsn;
	(void)w;
	assert_int_equal(history_add_disk(a->history, "web/d", MIB, &id, &lsn), 0);
	commit(a);
	a->group.disks = calloc(1, sizeof(*a->group.disks));
	a->group.disks[0] = (struct vault_disk){ .id = id,
		.name = "web/d",
		.size_bytes = MIB,
		.added_point = 1,
		.created_ns = 1700000000ll * NS_PER_S };
	a->group.disk_count = 1;
	assert_int_equal(vault_group_update(a->store, &a->group, &error), 0);
	assert_int_equal(vault_base_update(a->base, &a->group), 0);
}

int world_setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct vault_identity identity;
	bool created;
	assert_int_equal(io_sim_new(SEED, &w->disk), 0);
	clock_sim_init(&w->clock);
	assert_int_equal(blob_sim_new(SEED, NULL, &w->service), 0);
	assert_int_equal(vault_init(blob_sim_service(w->service), &w->clock.source, &error,
				 &created, &identity),
		0);
	open_store(w, &w->first, 1);
	struct appliance *a = &w->first;
	a->group = (struct vault_group){ .id = { { 7 } }, .owner = a->id };
	strcpy(a->group.name, GROUP);
	strcpy(a->group.owner_name, "first");
	assert_int_equal(vault_group_create(a->store, &a->group, &error), 0);
	open_history(w, a, "/first");
	add_disk(w, a);
	*state = w;
	return 0;
}

static void stop(struct appliance *a)
{
	flusher_free(a->flusher);
	a->flusher = NULL;
	history_close(a->history);
	a->history = NULL;
	if (a->base)
		vault_base_free(a->base);
	a->base = NULL;
}

static void end(struct appliance *a)
{
	stop(a);
	vault_group_free(&a->group);
	if (a->store)
		a->store->ops->free(a->store);
}

void world_restart(struct world *w)
{
	stop(&w->first);
	w->first.syncs_left = 1000;
	open_history(w, &w->first, "/first");
}

void world_lose_up_to(struct world *w, uint64_t unknown_point)
{
	flusher_free(w->first.flusher);
	open_flusher(w, &w->first, unknown_point);
}

int world_teardown(void **state)
{
	struct world *w = *state;
	assert_null(blob_sim_violation(w->service));
	end(&w->first);
	end(&w->second);
	blob_sim_free(w->service);
	io_sim_free(w->disk);
	free(w);
	return 0;
}

/* ── what they do ────────────────────────────────────────────────────────────────────────── */

uint64_t world_make_point(struct appliance *a, char fill)
{
	char data[8192];
	struct seal seal = { .kind = POINT_CRASH, .time_ns = 1700000000ll * NS_PER_S };
	uint64_t number, lsn;
	memset(data, fill, sizeof(data));
	assert_int_equal(history_write(a->history, 1, 0, 16, data, &lsn), 0);
	assert_int_equal(history_seal(a->history, &seal, &number, &lsn), 0);
	commit(a);
	return number;
}

int world_flush(struct appliance *a, uint64_t number)
{
	struct flusher_result result;
	return flusher_flush(a->flusher, number, &error, &result);
}

uint64_t world_make_vault_point(struct appliance *a, char fill)
{
	uint64_t number = world_make_point(a, fill);
	assert_int_equal(world_flush(a, number), 0);
	return number;
}

void world_begin_flush(struct appliance *a, uint64_t number)
{
	uint64_t lsn;
	assert_int_equal(history_flush_begin(a->history, number, &lsn), 0);
	commit(a);
}

int world_try_take_over(struct world *w)
{
	if (!w->second.store)
		open_store(w, &w->second, 2);
	vault_group_free(&w->second.group);
	return vault_group_takeover(w->second.store, GROUP, &w->second.id, "second",
		w->discards_damaged, &w->clock.source, NULL, NULL, &error, &w->second.group);
}

void world_take_over(struct world *w)
{
	assert_int_equal(world_try_take_over(w), 0);
}

void world_bring_up(struct world *w)
{
	struct appliance *a = &w->second;
	open_history(w, a, "/second");
	assert_int_equal(vault_import(a->store, &a->group, a->history, &error), 0);
	commit(a);
}

unsigned world_collect(struct appliance *a, uint64_t pending)
{
	unsigned deleted = 0;
	assert_int_equal(vault_collect_orphans(a->store, &a->group, pending, &error, &deleted), 0);
	return deleted;
}

/* ── what is there ───────────────────────────────────────────────────────────────────────── */

void world_snapshot_of(struct appliance *a, const char *group, uint64_t point, uint64_t sequence,
	char ret_id[static BLOB_SNAPSHOT_ID_BYTES])
{
	struct blob_error e = { 0 };
	char own[UUID_TEXT_BYTES], number[24], of[24];
	uuid_format(&a->group.id, own);
	snprintf(number, sizeof(number), "%" PRIu64, point);
	snprintf(of, sizeof(of), "%" PRIu64, sequence);
	const struct blob_metadata tags[] = { { SNAPSHOT_META_GROUP, group ? group : own },
		{ SNAPSHOT_META_POINT, number }, { SNAPSHOT_META_SEQUENCE, of } };
	assert_int_equal(
		a->ops.snapshot(a->store, BLOB, a->group.lease_id, tags, 3, &e, ret_id), 0);
}

bool world_has_snapshot(struct world *w, const char *id)
{
	char byte;
	return blob_sim_peek(w->service, BLOB, id, 0, &byte, 1) == 0;
}

void world_put_object(struct appliance *a, const char *name)
{
	struct blob_error e = { 0 };
	char etag[BLOB_ETAG_BYTES];
	assert_int_equal(a->ops.object_put(a->store, name, "x", 1, "", NULL, 0, &e, etag), 0);
}

void world_put_manifest(struct appliance *a, const struct manifest *m)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct vault_metadata metadata;
	struct blob_error e = { 0 };
	char name[VAULT_NAME_BYTES], etag[BLOB_ETAG_BYTES];
	vault_manifest_name(GROUP, m->number, name);
	vault_manifest_metadata(m, m->flags, &metadata);
	assert_int_equal(manifest_format(m, &text), 0);
	assert_int_equal(a->ops.object_put(a->store, name, text.data, text.len, NULL,
				 metadata.items, metadata.count, &e, etag),
		0);
}

void world_put_hashes(struct appliance *a, uint64_t number)
{
	char name[VAULT_NAME_BYTES];
	vault_hashes_name(GROUP, number, name);
	world_put_object(a, name);
}

void world_delete_object(struct appliance *a, const char *name)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct blob_error e = { 0 };
	char etag[BLOB_ETAG_BYTES];
	assert_int_equal(a->ops.object_get(a->store, name, MIB, &e, &text, etag), 0);
	assert_int_equal(a->ops.object_delete(a->store, name, etag, &e), 0);
}

bool world_has_object(struct world *w, const char *name)
{
	CLEANUP(buf_free) struct buf data = { 0 };
	return blob_sim_peek_object(w->service, name, &data) == 0;
}

bool world_has_hashes(struct world *w, uint64_t number)
{
	char name[VAULT_NAME_BYTES];
	vault_hashes_name(GROUP, number, name);
	return world_has_object(w, name);
}

bool world_has_manifest(struct world *w, uint64_t number)
{
	char name[VAULT_NAME_BYTES];
	vault_manifest_name(GROUP, number, name);
	return world_has_object(w, name);
}

void world_load_manifest(struct appliance *a, uint64_t number, struct manifest *ret_manifest)
{
	char etag[BLOB_ETAG_BYTES];
	assert_int_equal(
		vault_manifest_load(a->store, &a->group, number, &error, ret_manifest, NULL, etag),
		0);
}
