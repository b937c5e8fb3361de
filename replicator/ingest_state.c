/*
 * state/agents/<machine>.json: what made each disk whole, so that an agent that comes back goes on
 * instead of comparing everything.
 *
 *	{"format":1, "disks":[{"id", "identity", "size_bytes", "incarnation", "cursor",
 *	 "whole"}…], "checksum"}
 *
 * What it says must never be newer than what the journal has: it is written after the data that it
 * speaks of were acknowledged. Older is fine.
 */
#include <errno.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"
#include "replicator/sealed_json.h"

#define STATE_FORMAT 1
#define STATE_MAX_BYTES (1u << 20)

static int state_path(struct ingest *ingest, const char *machine, struct buf *path)
{
	return buf_printf(path, "%s/agents/%s.json", ingest->registry->state_dir, machine);
}

static int read_disk(const struct json *at, struct ingest_disk *disk, struct error *error)
{
	int r = json_copy_text(at, "id", sizeof(disk->id), disk->id, error);
	if (r == 0)
		r = json_copy_text(at, "identity", sizeof(disk->identity), disk->identity, error);
	if (r == 0)
		r = json_get_u64(at, "size_bytes", &disk->bytes, error);
	if (r == 0)
		r = json_get_u64(at, "incarnation", &disk->incarnation, error);
	if (r == 0)
		r = json_get_u64(at, "cursor", &disk->cursor, error);
	return r == 0 ? json_get_bool(at, "whole", &disk->whole, error) : r;
}

static int read_disks(const struct json *root, struct ingest_disk **ret_disks, unsigned *ret_count,
	struct error *error)
{
	struct json list;
	uint64_t format;
	int r = json_get_u64(root, "format", &format, error);
	if (r == 0 && format != STATE_FORMAT)
		r = json_error(root, -EPROTONOSUPPORT, error, "is of a newer format");
	if (r == 0)
		r = json_get_array(root, "disks", &list, error);
	if (r < 0)
		return r;
	unsigned count = 0;
	CLEANUP_FREE struct ingest_disk *disks =
		calloc((unsigned)cJSON_GetArraySize(list.node) + 1u, sizeof(*disks));
	if (!disks)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = read_disk(&item, &disks[count++], error);
	if (r == 0) {
		*ret_disks = TAKE(disks);
		*ret_count = count;
	}
	return r;
}

int ingest_state_load(struct ingest *ingest, struct ingest_machine *machine)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP_FREE char *text = NULL;
	struct ingest_disk *disks = NULL;
	struct error error = { 0 };
	struct json root;
	unsigned count = 0;
	size_t n;
	SCOPED_LOCK(&ingest->saving);
	{
		SCOPED_LOCK(&ingest->lock);
		if (machine->loaded)
			return 0;
	}
	int r = state_path(ingest, machine->name, &path);
	if (r == 0)
		r = io_load_file(ingest->registry->io, path.data, STATE_MAX_BYTES, &text, &n);
	if (r == -ENOENT) {
		SCOPED_LOCK(&ingest->lock);
		machine->loaded = true;
		return 0;
	}
	if (r == 0)
		r = sealed_json_parse(path.data, text, n, &error, &json);
	if (r == 0) {
		json_root(json, path.data, &root);
		r = read_disks(&root, &disks, &count, &error);
	}
	if (r == -EBADMSG) {
		log_warning("%s; machine %s is compared all over", error.message, machine->name);
		r = 0;
	}
	if (r < 0)
		return r;
	SCOPED_LOCK(&ingest->lock);
	free(machine->disks);
	machine->disks = disks;
	machine->disk_count = count;
	machine->loaded = true;
	return 0;
}

static int add_disk(struct cJSON *list, const struct ingest_disk *disk)
{
	struct cJSON *item;
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", disk->id);
	if (r == 0)
		r = json_add_text(item, "identity", disk->identity);
	if (r == 0)
		r = json_add_u64(item, "size_bytes", disk->bytes);
	if (r == 0)
		r = json_add_u64(item, "incarnation", disk->incarnation);
	if (r == 0)
		r = json_add_u64(item, "cursor", disk->cursor);
	return r == 0 ? json_add_bool(item, "whole", disk->whole) : r;
}

static int build(struct ingest *ingest, const struct ingest_machine *machine, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list;
	SCOPED_LOCK(&ingest->lock);
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "format", STATE_FORMAT);
	if (r == 0)
		r = json_add_array(root, "disks", &list);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++)
		r = add_disk(list, &machine->disks[i]);
	return r == 0 ? sealed_json_format(root, text) : r;
}

int ingest_state_save(struct ingest *ingest, struct ingest_machine *machine, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 }, text = { 0 };
	/* Gathered and written as one step, or an older truth could replace a newer one. */
	SCOPED_LOCK(&ingest->saving);
	int r = state_path(ingest, machine->name, &path);
	if (r == 0)
		r = build(ingest, machine, &text);
	if (r == 0)
		r = io_replace_file(ingest->registry->io, path.data, text.data, text.len);
	if (r < 0)
		return error_set(error, r, "see that the appliance's disk has room and works",
			"%s cannot be written: %s", path.data ? path.data : machine->name,
			strerrordesc_np(-r));
	return 0;
}

void ingest_state_remove(struct ingest *ingest, const char *machine)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = state_path(ingest, machine, &path);
	if (r == 0)
		r = io_unlink(ingest->registry->io, path.data);
	if (r < 0 && r != -ENOENT)
		log_warning("%s cannot be removed: %s", path.data ? path.data : machine,
			strerrordesc_np(-r));
}
