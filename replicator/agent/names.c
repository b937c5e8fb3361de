/*
 * The record of names: a list in the order in which they were given, written whole whenever it has
 * changed. An entry in use belongs to a disk that the agent protects now.
 */
#include "replicator/agent/names.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"

#define NAMES_FORMAT 1
#define NAMES_MAX_BYTES (1u << 20)
#define SUFFIX_BYTES 8 /* -1024 and its end */

struct entry {
	char id[NAMES_ID_BYTES];
	char identity[DISK_IDENTITY_BYTES];
	bool used;
};

struct names {
	struct io *io;
	char *path;
	bool changed; /* since it was stored */
	unsigned count;
	struct entry entries[NAMES_MAX];
};

/* ── the file ────────────────────────────────────────────────────────────────────────────── */

static int copy_text(
	const struct json *item, const char *name, char *ret, size_t room, struct error *error)
{
	const char *text;
	int r = json_get_text(item, name, &text, error);
	if (r < 0)
		return r;
	if (!*text || strlen(text) >= room)
		return error_set(error, -EBADMSG, NULL, "\"%.32s…\" is no %s", text, name);
	snprintf(ret, room, "%s", text);
	return 0;
}

static struct entry *find_id(struct names *names, const char *id)
{
	for (unsigned i = 0; i < names->count; i++)
		if (strcmp(names->entries[i].id, id) == 0)
			return &names->entries[i];
	return NULL;
}

static int take_entries(struct names *names, const struct json *root, struct error *error)
{
	uint64_t format = 0;
	struct json list;
	int r = json_get_u64(root, "format", &format, error);
	if (r == 0 && format != NAMES_FORMAT)
		r = error_set(error, -EBADMSG, NULL, "its format is %" PRIu64, format);
	if (r == 0)
		r = json_get_array(root, "disks", &list, error);
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);) {
		struct entry entry = { 0 };
		if (names->count == NAMES_MAX)
			return error_set(error, -EBADMSG, NULL, "it holds too many names");
		r = copy_text(&item, "id", entry.id, sizeof(entry.id), error);
		if (r == 0)
			r = copy_text(
				&item, "identity", entry.identity, sizeof(entry.identity), error);
		if (r == 0 && find_id(names, entry.id))
			r = error_set(error, -EBADMSG, NULL, "%s stands there twice", entry.id);
		if (r == 0)
			names->entries[names->count++] = entry;
	}
	return r;
}

static int read_file(struct names *names, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP_FREE char *text = NULL;
	struct error why = { 0 };
	struct json root;
	size_t n;
	int r = io_load_file(names->io, names->path, NAMES_MAX_BYTES, &text, &n);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return error_set(error, r, "run the agent as root", "%s cannot be read: %s",
			names->path, strerrordesc_np(-r));
	r = json_parse(text, n, NULL, &json, &why);
	if (r == 0) {
		json_root(json, "names.json", &root);
		r = take_entries(names, &root, &why);
	}
	if (r == -ENOMEM)
		return error_set(error, r, NULL, "out of memory");
	if (r < 0)
		return error_set(error, -EBADMSG,
			"put back what it held; or remove it, and the disks are named anew by "
			"their kernel names: see in 'lsblk' that these are what they were",
			"%s, which tells the disks' names, is damaged: %.300s", names->path,
			why.message);
	return 0;
}

int names_load(struct io *io, const char *directory, struct error *error, struct names **ret_names)
{
	struct names *names = calloc(1, sizeof(*names));
	if (!names)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	names->io = io;
	int r = 0;
	if (asprintf(&names->path, "%s/names.json", directory) < 0) {
		names->path = NULL;
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	}
	if (r == 0)
		r = read_file(names, error);
	if (r < 0) {
		names_free(names);
		return r;
	}
	*ret_names = names;
	return 0;
}

void names_free(struct names *names)
{
	if (names)
		free(names->path);
	free(names);
}

static int build(const struct names *names, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list, *item;
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "format", NAMES_FORMAT);
	if (r == 0)
		r = json_add_array(root, "disks", &list);
	for (unsigned i = 0; r == 0 && i < names->count; i++) {
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_text(item, "id", names->entries[i].id);
		if (r == 0)
			r = json_add_text(item, "identity", names->entries[i].identity);
	}
	return r == 0 ? json_print(root, true, text) : r;
}

static int store(const struct names *names, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = build(names, &text);
	if (r == 0)
		r = io_replace_file(names->io, names->path, text.data, text.len);
	if (r < 0)
		return error_set(error, r, "see that the agent's state directory can be written to",
			"the disks' names cannot be stored in %s: %s", names->path,
			strerrordesc_np(-r));
	return 0;
}

/* ── which name ──────────────────────────────────────────────────────────────────────────── */

static struct entry *find_identity(struct names *names, const char *identity, bool *ret_used)
{
	*ret_used = false;
	for (unsigned i = 0; i < names->count; i++) {
		struct entry *entry = &names->entries[i];
		if (strcmp(entry->identity, identity) != 0)
			continue;
		if (!entry->used)
			return entry;
		*ret_used = true;
	}
	return NULL;
}

/* The oldest that is not in use makes room if need be. */
static struct entry *add(struct names *names, const char *id, const char *identity)
{
	if (names->count == NAMES_MAX) {
		unsigned i = 0;
		while (i < NAMES_MAX && names->entries[i].used)
			i++;
		if (i == NAMES_MAX)
			return NULL;
		memmove(&names->entries[i], &names->entries[i + 1],
			(NAMES_MAX - 1 - i) * sizeof(struct entry));
		names->count--;
	}
	struct entry *entry = &names->entries[names->count++];
	*entry = (struct entry){ 0 };
	names->changed = true;
	snprintf(entry->id, sizeof(entry->id), "%s", id);
	snprintf(entry->identity, sizeof(entry->identity), "%s", identity);
	return entry;
}

/* A name that nobody has, the kernel's if that can be. */
static struct entry *add_free(struct names *names, const struct disk *disk, const char *identity)
{
	char id[NAMES_ID_BYTES];
	snprintf(id, sizeof(id), "%s", disk->name);
	for (unsigned n = 2; find_id(names, id); n++)
		snprintf(id, sizeof(id), "%.*s-%u", (int)(sizeof(id) - SUFFIX_BYTES), disk->name,
			n % 100000);
	return add(names, id, identity);
}

/* NULL: there are too many. */
static struct entry *choose(struct names *names, const struct disk *disk)
{
	char by_name[DISK_IDENTITY_BYTES];
	const char *identity = disk->identity;
	bool used;
	struct entry *entry = find_id(names, disk->name);
	if (entry && !entry->used && strcmp(entry->identity, identity) == 0)
		return entry;
	entry = find_identity(names, identity, &used);
	if (entry)
		return entry;
	/* What another one has, too, tells nothing. */
	if (used) {
		snprintf(by_name, sizeof(by_name), "disk:name=%s", disk->name);
		identity = by_name;
		entry = find_identity(names, identity, &used);
		if (entry)
			return entry;
	}
	entry = find_id(names, disk->name);
	if (entry && !entry->used && disk_identity_is_name(entry->identity) &&
		!disk_identity_is_name(identity)) {
		snprintf(entry->identity, sizeof(entry->identity), "%s", identity);
		names->changed = true;
		return entry;
	}
	return add_free(names, disk, identity);
}

int names_take(struct names *names, const struct disk *disk, struct error *error,
	char ret_id[static NAMES_ID_BYTES])
{
	struct entry *entry = choose(names, disk);
	if (!entry)
		return error_set(error, -ENOSPC, "name the disks that matter with --disk",
			"more than %u disks have names", NAMES_MAX);
	int r = names->changed ? store(names, error) : 0;
	if (r < 0)
		return r;
	names->changed = false;
	entry->used = true;
	memcpy(ret_id, entry->id, sizeof(entry->id));
	return 0;
}

void names_put_back(struct names *names, const char *id)
{
	struct entry *entry = find_id(names, id);
	if (entry)
		entry->used = false;
}

bool names_take_missing(struct names *names, unsigned *at, char ret_id[static NAMES_ID_BYTES],
	char ret_identity[static DISK_IDENTITY_BYTES])
{
	while (*at < names->count && names->entries[*at].used)
		++*at;
	if (*at == names->count)
		return false;
	struct entry *entry = &names->entries[(*at)++];
	entry->used = true;
	memcpy(ret_id, entry->id, sizeof(entry->id));
	memcpy(ret_identity, entry->identity, sizeof(entry->identity));
	return true;
}

bool names_is_at_home(const struct names *names, const struct disk *disk)
{
	for (unsigned i = 0; i < names->count; i++)
		if (strcmp(names->entries[i].id, disk->name) == 0)
			return strcmp(names->entries[i].identity, disk->identity) == 0;
	return false;
}
