/*
 * Disks, their marks and their incarnations.
 *
 * disks.json is {"format":1, "boot":"<boot id>", "disks":[{"id","identity","incarnation"}…]}. It is
 * believed only for a disk whose marks the tracker found again: the two must agree that the run of
 * capture is the same.
 */
#include "replicator/agent/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/log.h"
#include "common/rng.h"

#define DISKS_FORMAT 1
#define DISKS_MAX_BYTES (1u << 20)
#define BOOT_ID_PATH "/proc/sys/kernel/random/boot_id"
#define BOOT_ID_BYTES 40

/* ── what is remembered ──────────────────────────────────────────────────────────────────── */

static int read_boot_id(char ret_boot[static BOOT_ID_BYTES])
{
	CLEANUP_CLOSE int fd = open(BOOT_ID_PATH, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret_boot, BOOT_ID_BYTES - 1);
	if (n <= 0)
		return -EIO;
	ret_boot[n] = '\0';
	ret_boot[strcspn(ret_boot, "\n")] = '\0';
	return 0;
}

static int find_entry(const struct json *root, const struct source_disk *disk, const char *boot,
	uint64_t *ret_incarnation)
{
	const char *text;
	struct json list;
	int r = json_get_text(root, "boot", &text, NULL);
	if (r < 0 || strcmp(text, boot) != 0)
		return -ENOENT;
	r = json_get_array(root, "disks", &list, NULL);
	if (r < 0)
		return -ENOENT;
	for (struct json item = { 0 }; json_each(&list, &item);) {
		const char *id, *identity;
		if (json_get_text(&item, "id", &id, NULL) == 0 && strcmp(id, disk->id) == 0 &&
			json_get_text(&item, "identity", &identity, NULL) == 0 &&
			strcmp(identity, disk->disk.identity) == 0)
			return json_get_u64(&item, "incarnation", ret_incarnation, NULL);
	}
	return -ENOENT;
}

/* The incarnation stored for this disk in this boot. -ENOENT. */
static int recall(struct source *source, const struct source_disk *disk, uint64_t *ret_incarnation)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP_FREE char *path = NULL, *text = NULL;
	char boot[BOOT_ID_BYTES];
	struct json root;
	size_t n;
	if (asprintf(&path, "%s/disks.json", source->state_dir) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	if (read_boot_id(boot) < 0 ||
		io_load_file(source->io, path, DISKS_MAX_BYTES, &text, &n) < 0 ||
		json_parse(text, n, NULL, &json, NULL) < 0)
		return -ENOENT;
	json_root(json, path, &root);
	return find_entry(&root, disk, boot, ret_incarnation);
}

static int add_entry(struct cJSON *list, const struct source_disk *disk)
{
	struct cJSON *item;
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", disk->id);
	if (r == 0)
		r = json_add_text(item, "identity", disk->disk.identity);
	return r == 0 ? json_add_u64(item, "incarnation", disk->incarnation) : r;
}

static int build(const struct source *source, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list;
	char boot[BOOT_ID_BYTES];
	int r = read_boot_id(boot);
	if (r == 0)
		r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "format", DISKS_FORMAT);
	if (r == 0)
		r = json_add_text(root, "boot", boot);
	if (r == 0)
		r = json_add_array(root, "disks", &list);
	for (unsigned i = 0; r == 0 && i < source->count; i++)
		if (!source->disks[i]->gone)
			r = add_entry(list, source->disks[i]);
	return r == 0 ? json_print(root, true, text) : r;
}

int source_store(struct source *source, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP_FREE char *path = NULL;
	int r = build(source, &text);
	if (r == 0 && asprintf(&path, "%s/disks.json", source->state_dir) < 0) {
		path = NULL;
		r = -ENOMEM;
	}
	if (r == 0)
		r = io_replace_file(source->io, path, text.data, text.len);
	if (r < 0)
		return error_set(error, r, "see that the agent's state directory can be written to",
			"the disks cannot be remembered in %s: %s", source->state_dir,
			strerrordesc_np(-r));
	return 0;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

int source_new(
	const struct source_options *options, struct error *error, struct source **ret_source)
{
	const struct tracker_options tracker = { .method = options->method,
		.pin_dir = options->pin_dir };
	struct source *source = calloc(1, sizeof(*source));
	if (!source)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	source->io = options->io;
	source->exclude = options->exclude;
	source->discovers = options->discovers;
	source->state_dir = strdup(options->state_dir);
	int r = source->state_dir ? tracker_open(&tracker, &source->tracker, error)
				  : error_set(error, -ENOMEM, NULL, "out of memory");
	source->swap_fd = -1;
	if (r == 0 && !options->replicate_swap) {
		r = source_open_swap(source);
		if (r < 0)
			error_set(error, r, "run the agent as root, or with --replicate-swap",
				"/proc/swaps cannot be read: %s", strerrordesc_np(-r));
	}
	if (r < 0) {
		tracker_close(source->tracker);
		free(source->state_dir);
		free(source);
		return r;
	}
	*ret_source = source;
	return 0;
}

static void free_disk(struct source_disk *disk)
{
	cleanup_close(&disk->file);
	pthread_mutex_destroy(&disk->lock);
	free(disk->path);
	free(disk->swap);
	free(disk->scanned);
	free(disk);
}

void source_free(struct source *source)
{
	if (!source)
		return;
	tracker_close(source->tracker);
	for (unsigned i = 0; i < source->count; i++)
		free_disk(source->disks[i]);
	cleanup_close(&source->swap_fd);
	free(source->state_dir);
	free(source);
}

static int check_new(
	const struct source *source, const struct source_disk *disk, struct error *error)
{
	if (source->count == SOURCE_DISKS_MAX)
		return error_set(error, -E2BIG, "name the disks that matter with --disk",
			"more than %u disks cannot be protected", SOURCE_DISKS_MAX);
	for (unsigned i = 0; i < source->count; i++) {
		const struct source_disk *other = source->disks[i];
		if (strcmp(other->id, disk->id) == 0)
			return error_set(error, -EEXIST, "give each disk a name of its own",
				"two disks are called %s", disk->id);
		if (!other->gone && other->disk.dev == disk->disk.dev)
			return error_set(error, -EEXIST, NULL, "%s and %s are the same disk",
				other->path, disk->path);
	}
	return 0;
}

static int open_disk(struct source *source, struct source_disk *disk, struct error *error)
{
	int r = disk_find(disk->path, &disk->disk, error);
	if (r == 0)
		r = check_new(source, disk, error);
	if (r < 0)
		return r;
	disk->file = disk_open(&disk->disk);
	if (disk->file < 0)
		return error_set(error, disk->file, "run the agent as root", "%s: %s", disk->path,
			strerrordesc_np(-disk->file));
	r = tracker_add(source->tracker, &disk->disk, &disk->tracked, error);
	if (r < 0)
		return r;
	uint64_t known = 0;
	if (tracker_was_resumed(disk->tracked) && recall(source, disk, &known) == 0 && known != 0) {
		disk->incarnation = known;
		return 0;
	}
	return random_bytes(&disk->incarnation, sizeof(disk->incarnation));
}

static bool source_scans(const struct source *source)
{
	return strcmp(tracker_method_name(source->tracker), "scan") == 0;
}

int source_add(struct source *source, const char *id, const char *path, struct error *error)
{
	struct source_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	disk->file = -1;
	pthread_mutex_init(&disk->lock, NULL);
	snprintf(disk->id, sizeof(disk->id), "%s", id);
	disk->scans = source_scans(source);
	disk->path = strdup(path);
	int r = disk->path ? open_disk(source, disk, error)
			   : error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		tracker_remove(disk->tracked);
		free_disk(disk);
		return r;
	}
	source->disks[source->count++] = disk;
	return 0;
}

int source_await(struct source *source, const char *id, const char *path, struct error *error)
{
	struct source_disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	disk->file = -1;
	disk->gone = true;
	disk->scans = source_scans(source);
	pthread_mutex_init(&disk->lock, NULL);
	snprintf(disk->id, sizeof(disk->id), "%s", id);
	disk->path = strdup(path);
	int r = disk->path ? check_new(source, disk, error)
			   : error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		free_disk(disk);
		return r;
	}
	error_set(&disk->refusal, -ENODEV, "bring it; or restart the agent without it (--disk)",
		"disk %s (%s) is not there; recovery points are made without it", id, path);
	source->disks[source->count++] = disk;
	return 0;
}

int source_distrust(struct source_disk *disk, struct error *error)
{
	SCOPED_LOCK(&disk->lock);
	int r = disk->tracked ? tracker_trust_again(disk->tracked, error)
			      : error_set(error, -ENODEV, NULL, "disk %s has gone", disk->id);
	if (r == 0)
		r = random_bytes(&disk->incarnation, sizeof(disk->incarnation));
	return r;
}

/* ── any thread ──────────────────────────────────────────────────────────────────────────── */

uint64_t source_disk_bytes(const struct source_disk *disk)
{
	return round_up(disk->disk.bytes, MIB);
}

static int read_all(struct source_disk *disk, uint64_t offset, uint8_t *data, size_t n)
{
	while (n > 0) {
		ssize_t got = pread(disk->file, data, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		data += got;
		offset += (uint64_t)got;
		n -= (size_t)got;
	}
	return 0;
}

int source_read(struct source_disk *disk, uint64_t offset, void *data, size_t n)
{
	size_t there = offset < disk->disk.bytes ? MIN(n, disk->disk.bytes - offset) : 0;
	memset((uint8_t *)data + there, 0, n - there);
	if (there > 0 && source_is_swap(disk, offset, there)) {
		memset(data, 0, there);
		return 0;
	}
	int r = there > 0 ? read_all(disk, offset, data, there) : 0;
	if (r == 0) {
		source_blank_swap(disk, offset, data, there);
		return 0;
	}
	SCOPED_LOCK(&disk->lock);
	return error_set(&disk->error, r,
		"see the kernel's log of this machine: the disk, or the way to it, is failing",
		"disk %s (%s) cannot be read at byte %llu: %s", disk->id, disk->path,
		(unsigned long long)offset, strerrordesc_np(-r));
}

void source_settle(struct source_disk *disk, uint64_t pass, uint64_t offset, uint64_t length)
{
	SCOPED_LOCK(&disk->lock);
	if (disk->tracked)
		tracker_settle(disk->tracked, pass, offset, MIN(length, disk->disk.bytes - offset));
}

void source_put_back(struct source_disk *disk, uint64_t offset, uint64_t length)
{
	SCOPED_LOCK(&disk->lock);
	if (disk->tracked)
		tracker_put_back(disk->tracked, offset, MIN(length, disk->disk.bytes - offset));
}

uint64_t source_dirty_bytes(struct source_disk *disk)
{
	SCOPED_LOCK(&disk->lock);
	return disk->tracked ? tracker_dirty_bytes(disk->tracked) : 0;
}
