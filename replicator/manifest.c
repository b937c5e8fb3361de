/*
 * Manifests to text and back. Pure; any thread.
 *
 * Reading trusts nothing: the checksum is proven first, then every field is checked for kind and
 * range, since a manifest steers which bytes are believed.
 */
#include "replicator/manifest.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "fs/history.h"
#include "fs/point.h"
#include "fs/vhd.h"
#include "replicator/manifest_format.h"
#include "replicator/sealed_json.h"

void manifest_free(struct manifest *manifest)
{
	free(manifest->disks);
	free(manifest->absences);
	*manifest = (struct manifest){ 0 };
}

static int put_flags(struct cJSON *object, uint32_t flags)
{
	struct cJSON *array;
	int r = json_add_array(object, "flags", &array);
	if (r == 0 && flags & POINT_KEEP)
		r = json_add_text(array, NULL, "keep");
	if (r == 0 && flags & POINT_PRESSURE)
		r = json_add_text(array, NULL, "pressure");
	return r;
}

static int put_disk(struct cJSON *array, const struct manifest_disk *disk)
{
	struct cJSON *object;
	if (json_add_object(array, NULL, &object) < 0 || json_add_u64(object, "id", disk->id) < 0 ||
		json_add_text(object, "name", disk->name) < 0 ||
		json_add_u64(object, "size_bytes", disk->size_bytes) < 0 ||
		json_add_text(object, "blob", disk->blob) < 0 ||
		json_add_text(object, "snapshot", disk->snapshot) < 0 ||
		json_add_u64(object, "changed_ranges", disk->changed_ranges) < 0 ||
		json_add_u64(object, "data_bytes", disk->data_bytes) < 0 ||
		json_add_u64(object, "zero_bytes", disk->zero_bytes) < 0)
		return -ENOMEM;
	return 0;
}

int absences_to_json(struct cJSON *object, const struct history_absence *absences, unsigned count)
{
	struct cJSON *list, *item;
	int r = count > 0 ? json_add_array(object, "absences", &list) : 0;
	for (unsigned i = 0; r == 0 && i < count; i++) {
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_u64(item, "disk", absences[i].disk);
		if (r == 0)
			r = json_add_u64(item, "from", absences[i].from);
		if (r == 0)
			r = json_add_u64(item, "to", absences[i].to);
	}
	return r;
}

static int put_body(struct cJSON *object, const struct manifest *m)
{
	const char *kind =
		m->kind == POINT_APPLICATION ? MANIFEST_KIND_APPLICATION : MANIFEST_KIND_CRASH;
	struct cJSON *disks;
	if (json_add_text(object, "kind", kind) < 0 || put_flags(object, m->flags) < 0 ||
		json_add_time(object, "time", m->time_ns) < 0 ||
		json_add_uuid(object, "appliance", &m->appliance) < 0 ||
		json_add_u64(object, "previous", m->previous) < 0 ||
		json_add_hash(object, "previous_hash", m->previous_hash) < 0 ||
		json_add_u64(object, "changed_bytes", m->changed_bytes) < 0 ||
		json_add_u64(object, "hashes_bytes", m->hashes_bytes) < 0 ||
		json_add_u64(object, "hashes_digest", m->hashes_digest) < 0 ||
		json_add_array(object, "disks", &disks) < 0)
		return -ENOMEM;
	for (unsigned i = 0; i < m->disk_count; i++) {
		int r = put_disk(disks, &m->disks[i]);
		if (r < 0)
			return r;
	}
	return absences_to_json(object, m->absences, m->absence_count);
}

int manifest_format(const struct manifest *m, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	int r;
	if (json_new_object(&object) < 0 || json_add_u64(object, "format", MANIFEST_FORMAT) < 0 ||
		json_add_text(object, "group", m->group_name) < 0 ||
		json_add_uuid(object, "group_id", &m->group) < 0 ||
		json_add_u64(object, "number", m->number) < 0 ||
		json_add_u64(object, "generation", m->generation) < 0)
		return -ENOMEM;
	if (m->abandoned)
		r = json_add_bool(object, "abandoned", true);
	else
		r = put_body(object, m);
	return r < 0 ? r : sealed_json_format(object, text);
}

static int get_flags(const struct json *root, uint32_t *ret_flags, struct error *error)
{
	struct json array;
	const char *text;
	uint32_t flags = 0;
	int r = json_get_array(root, "flags", &array, error);
	if (r < 0)
		return r;
	for (struct json item = { 0 }; json_each(&array, &item);) {
		r = json_as_text(&item, &text, error);
		if (r < 0)
			return r;
		if (strcmp(text, "keep") == 0)
			flags |= POINT_KEEP;
		else if (strcmp(text, "pressure") == 0)
			flags |= POINT_PRESSURE;
	}
	*ret_flags = flags;
	return 0;
}

static int get_disk(const struct json *at, void *ret_disk, struct error *error)
{
	struct manifest_disk disk = { 0 };
	uint64_t id;
	int r;
	if ((r = json_as_object(at, error)) < 0 || (r = json_get_u64(at, "id", &id, error)) < 0 ||
		(r = json_copy_text(at, "name", sizeof(disk.name), disk.name, error)) < 0 ||
		(r = json_get_u64(at, "size_bytes", &disk.size_bytes, error)) < 0 ||
		(r = json_copy_text(at, "blob", sizeof(disk.blob), disk.blob, error)) < 0 ||
		(r = json_copy_text(at, "snapshot", sizeof(disk.snapshot), disk.snapshot, error)) <
			0 ||
		(r = json_get_u64(at, "changed_ranges", &disk.changed_ranges, error)) < 0 ||
		(r = json_get_u64(at, "data_bytes", &disk.data_bytes, error)) < 0 ||
		(r = json_get_u64(at, "zero_bytes", &disk.zero_bytes, error)) < 0)
		return r;
	if (id == 0 || id > UINT16_MAX)
		return json_error(at, -EBADMSG, error, "id is out of range");
	if (vault_check_name(disk.name, true) < 0)
		return json_error(at, -EBADMSG, error, "name is no disk's name");
	if (vhd_check_size(disk.size_bytes) < 0)
		return json_error(at, -EBADMSG, error, "size_bytes is no disk's size");
	if (disk.blob[0] == '\0' || disk.snapshot[0] == '\0')
		return json_error(at, -EBADMSG, error, "blob or snapshot is empty");
	disk.id = (uint16_t)id;
	*(struct manifest_disk *)ret_disk = disk;
	return 0;
}

static int get_disks(const struct json *root, struct manifest *m, struct error *error)
{
	void *disks;
	int r = json_get_list(root, "disks", HISTORY_MAX_DISKS, sizeof(*m->disks), get_disk, error,
		&disks, &m->disk_count);
	if (r < 0)
		return r;
	m->disks = disks;
	for (unsigned i = 1; i < m->disk_count; i++)
		if (m->disks[i].id <= m->disks[i - 1].id)
			return json_error(root, -EBADMSG, error, "disks: ids do not rise");
	return 0;
}

int absence_from_json(
	const struct json *at, struct history_absence *ret_absence, struct error *error)
{
	struct history_absence absence;
	uint64_t disk;
	int r;
	if ((r = json_get_u64(at, "disk", &disk, error)) < 0 ||
		(r = json_get_u64(at, "from", &absence.from, error)) < 0 ||
		(r = json_get_u64(at, "to", &absence.to, error)) < 0)
		return r;
	if (disk == 0 || disk > UINT16_MAX)
		return json_error(at, -EBADMSG, error, "disk is out of range");
	absence.disk = (uint16_t)disk;
	*ret_absence = absence;
	return 0;
}

static int get_absences(const struct json *root, struct manifest *m, struct error *error)
{
	struct json list;
	int r = json_find_array(root, "absences", &list, error);
	if (r <= 0)
		return r;
	m->absences = calloc((unsigned)cJSON_GetArraySize(list.node) + 1u, sizeof(*m->absences));
	if (!m->absences)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	r = 0;
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = absence_from_json(&item, &m->absences[m->absence_count++], error);
	return r;
}

static int get_body(const struct json *root, struct manifest *m, struct error *error)
{
	const char *kind;
	int r;
	if ((r = json_get_text(root, "kind", &kind, error)) < 0 ||
		(r = get_flags(root, &m->flags, error)) < 0 ||
		(r = json_get_time(root, "time", &m->time_ns, error)) < 0 ||
		(r = json_get_uuid(root, "appliance", &m->appliance, error)) < 0 ||
		(r = json_get_u64(root, "previous", &m->previous, error)) < 0 ||
		(r = json_get_hash(root, "previous_hash", &m->previous_hash, error)) < 0 ||
		(r = json_get_u64(root, "changed_bytes", &m->changed_bytes, error)) < 0 ||
		(r = json_get_u64(root, "hashes_bytes", &m->hashes_bytes, error)) < 0 ||
		(r = json_get_u64(root, "hashes_digest", &m->hashes_digest, error)) < 0)
		return r;
	if (strcmp(kind, MANIFEST_KIND_CRASH) == 0)
		m->kind = POINT_CRASH;
	else if (strcmp(kind, MANIFEST_KIND_APPLICATION) == 0)
		m->kind = POINT_APPLICATION;
	else
		return json_error(root, -EBADMSG, error, "kind %s is unknown", kind);
	if (m->previous >= m->number)
		return json_error(root, -EBADMSG, error, "previous is not below number");
	int d = get_disks(root, m, error);
	return d < 0 ? d : get_absences(root, m, error);
}

static int get_all(const struct json *root, struct manifest *m, struct error *error)
{
	uint64_t format;
	int r = json_get_u64(root, "format", &format, error);
	if (r < 0)
		return r;
	if (format != MANIFEST_FORMAT)
		return error_set(error, -EPROTONOSUPPORT, "use the newer release that wrote it",
			"%s has format %llu, this release knows %d", root->name,
			(unsigned long long)format, MANIFEST_FORMAT);
	if ((r = json_copy_text(root, "group", sizeof(m->group_name), m->group_name, error)) < 0 ||
		(r = json_get_uuid(root, "group_id", &m->group, error)) < 0 ||
		(r = json_get_u64(root, "number", &m->number, error)) < 0 ||
		(r = json_get_u64(root, "generation", &m->generation, error)) < 0 ||
		(r = json_find_bool(root, "abandoned", &m->abandoned, error)) < 0)
		return r;
	if (m->number == 0)
		return json_error(root, -EBADMSG, error, "number is 0");
	return m->abandoned ? 0 : get_body(root, m, error);
}

int manifest_parse(const char *what, const char *text, size_t n, struct error *error,
	struct manifest *ret_manifest)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	CLEANUP(manifest_free) struct manifest m = { 0 };
	struct json root;
	int r = sealed_json_parse(what, text, n, error, &object);
	if (r < 0)
		return r;
	json_root(object, what, &root);
	r = get_all(&root, &m, error);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	*ret_manifest = m;
	m = (struct manifest){ 0 };
	return 0;
}
