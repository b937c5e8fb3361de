/*
 * The life itself: what starts, dies and starts again, and what rots while it is off.
 */
#include "tests/sim/vault_life.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fs/journal_format.h"

void life_fail(struct life *l, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(l->failure, LIFE_FAILURE_BYTES, format, arguments);
	va_end(arguments);
	longjmp(*l->failed, 1);
}

void life_copy_image(struct image *to, const struct image *from)
{
	for (unsigned d = 0; d < LIFE_DISKS; d++) {
		to->bytes[d] = from->bytes[d];
		if (from->bytes[d] == 0)
			continue;
		if (!to->data[d])
			to->data[d] = calloc(1, LIFE_MAX_BYTES);
		if (!to->data[d])
			abort();
		memcpy(to->data[d], from->data[d], LIFE_MAX_BYTES);
	}
}

static int sync_to(void *context, uint64_t lsn)
{
	struct life *l = context;
	uint64_t durable;
	(void)lsn;
	return history_commit(l->history, &durable);
}

bool life_commit(struct life *l)
{
	return sync_to(l, 0) == 0;
}

void life_stop(struct life *l)
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

void life_make_group(struct life *l)
{
	struct vault_group group = { .id = { { 7 } }, .owner = l->appliance };
	struct vault_identity identity;
	bool created;
	strcpy(group.name, LIFE_GROUP);
	strcpy(group.owner_name, "first");
	PERSIST(l, "vault_init",
		vault_init(blob_sim_service(l->service), &l->clock.source, &error, &created,
			&identity));
	PERSIST(l, "vault_group_create", vault_group_create(l->store, &group, &error));
	vault_group_free(&group);
}

bool life_open_history(struct life *l)
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
		life_trace(l, "damaged after %" PRIu64 ": %s", report.damaged_after,
			report.first_fault);
	if (r < 0 && !io_sim_is_off(l->disk))
		life_fail(l, "history_open answers %d: %s", r, error.message);
	return r == 0;
}

bool life_make_flusher(struct life *l)
{
	const struct flusher_options options = { .history = l->history,
		.store = l->store,
		.clock = &l->clock.source,
		.group = &l->group,
		.sync = sync_to,
		.sync_context = l,
		.unknown_point = l->unknown,
		.parallel = 1 + (unsigned)life_below(l, 8),
		.gap_bytes = (uint32_t)life_below(l, 20) * 4096 };
	return flusher_new(&options, &l->flusher) == 0;
}

/* What cannot be read is written again, as a comparison with the source does. */
static int read_sectors(struct life *l, uint16_t disk, uint64_t lba, uint32_t sectors, uint8_t *to)
{
	uint64_t lsn;
	int r = 0;
	for (unsigned try = 0; try < LIFE_TRIES; try++) {
		r = history_read(l->history, disk, lba, sectors, to);
		if (!life_passes(r))
			break;
	}
	if (r != -EIO || !l->rots)
		return r;
	if (sectors == 1) {
		memset(to, 0xee, SECTOR_BYTES);
		r = history_write(l->history, disk, lba, 1, to, &lsn);
		return r == -EAGAIN && life_commit(l)
			       ? history_write(l->history, disk, lba, 1, to, &lsn)
			       : r;
	}
	r = 0;
	for (uint32_t i = 0; r == 0 && i < sectors; i++)
		r = read_sectors(l, disk, lba + i, 1, to + (size_t)i * SECTOR_BYTES);
	return r;
}

/* The head after a restart is what it is: the history's own simulation judges it. */
void life_read_head(struct life *l)
{
	struct history_disk disks[LIFE_DISKS];
	memset(l->now.bytes, 0, sizeof(l->now.bytes));
	l->disk_count = history_disks(l->history, disks, LIFE_DISKS);
	for (unsigned i = 0; i < l->disk_count; i++) {
		if (!l->now.data[i])
			l->now.data[i] = calloc(1, LIFE_MAX_BYTES);
		memset(l->now.data[i], 0, LIFE_MAX_BYTES);
		l->now.bytes[i] = disks[i].size_bytes;
		for (uint64_t at = 0; at < disks[i].size_bytes; at += MIB) {
			int r = read_sectors(l, disks[i].id, at / SECTOR_BYTES, MIB / SECTOR_BYTES,
				l->now.data[i] + at);
			if (r < 0)
				life_fail(l, "reading the head answers %d", r);
		}
	}
}

int life_agree(struct life *l, struct error *error)
{
	int r = vault_agree(
		l->store, &l->clock.source, &l->group, l->history, 0, error, &l->unknown);
	l->refused = l->rots && r == -EUCLEAN;
	if (r == 0 && !l->rots && l->unknown > 0)
		life_fail(l, "point %" PRIu64 " of the vault is told to be lost here", l->unknown);
	return l->refused ? 0 : r;
}

/* As the product does before it claims a group: leases that are gone are noted in the journal. */
bool life_look_at_leases(struct life *l)
{
	bool lost = false;
	uint64_t lsn, point;
	if (!PERSIST(l, "vault_group_leases",
		    vault_group_leases(l->store, &l->group, &error, &lost)))
		return false;
	if (!lost || history_repair_due(l->history, &point))
		return true;
	life_trace(l, "leases are gone");
	return (history_repair_ask(l->history, &lsn) == 0 ||
		       (life_commit(l) && history_repair_ask(l->history, &lsn) == 0)) &&
	       life_commit(l);
}

int life_claim(struct life *l, struct error *error)
{
	struct vault_group group = { 0 };
	int r = vault_group_claim(
		l->store, LIFE_GROUP, &l->appliance, &l->clock.source, error, &group);
	if (r < 0)
		return r;
	vault_group_free(&l->group);
	l->group = group;
	return 0;
}

bool life_start(struct life *l)
{
	struct blob_service *service = blob_sim_service(l->service);
	if (service->ops->open_store(service, NULL, NULL, &l->store) < 0)
		abort();
	if (!PERSIST(l, "vault_group_load",
		    vault_group_load(l->store, LIFE_GROUP, &error, &l->group)))
		return false;
	if (vault_base_new(service, &l->group, &l->base) < 0)
		abort();
	if (!life_open_history(l) || !life_look_at_leases(l))
		return false;
	if (!PERSIST(l, "vault_group_claim", life_claim(l, &error)))
		return false;
	if (vault_base_update(l->base, &l->group) < 0)
		abort();
	if (!PERSIST(l, "vault_agree", life_agree(l, &error)))
		return false;
	return life_commit(l) && life_make_flusher(l);
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
		if (life_below(s->l, ++s->found) != 0 && life_below(s->l, 3) != 0)
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
	struct record_search search = { .l = l, .type = types[life_below(l, ARRAY_SIZE(types))] };
	const uint8_t mask = 0x20;
	io_sim_each_file(l->disk, search_file, &search);
	if (search.found == 0)
		return;
	life_trace(l, "rot of a record of type %u in %s at %" PRIu64, search.type, search.path,
		search.at);
	/* Elsewhere each time: twice the same would make it good again. */
	uint64_t at = search.at + 64 + ++l->rots_done % 2048;
	if (io_sim_rot(l->disk, search.path, at, &mask, 1) < 0)
		abort();
}

void life_restart(struct life *l)
{
	life_trace(l, "crash");
	l->crashes++;
	for (;;) {
		if (!io_sim_is_off(l->disk))
			io_sim_power_cut(l->disk);
		blob_sim_power_cut(l->service);
		life_stop(l);
		io_sim_power_on(l->disk, (enum io_sim_keep)life_below(l, IO_SIM_KEEP_MODES));
		if (l->rots && life_below(l, 2) == 0)
			rot_record(l);
		if (life_below(l, 3) == 0)
			io_sim_crash_at(l->disk, io_sim_ops(l->disk) + 1 + life_below(l, 40));
		if (life_start(l))
			break;
		l->crashes++;
	}
	io_sim_crash_at(l->disk, 0);
	if (io_sim_is_off(l->disk)) {
		life_restart(l);
		return;
	}
	if (!l->refused)
		life_read_head(l);
}
