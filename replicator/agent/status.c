/*
 * The status as one struct under a lock, and as JSON.
 */
#include "replicator/agent/status.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/utc.h"

struct disk_status {
	char id[SOURCE_ID_BYTES];
	char path[256];
	struct agent_disk_figures figures;
	const char *unproven; /* NULL: all is proven */
	int64_t unproven_since_ns;
	struct error error;
};

struct agent_status {
	pthread_mutex_t lock;
	char *path;
	bool held;
	const char *state;
	int64_t state_since_ns;
	char machine[64], appliance[256];
	char method[16], reason[256];
	struct error error;
	struct agent_figures figures;
	uint64_t send_limit_bytes_per_s;
	uint64_t point, stall_ns, remainder_bytes, points, longest_stall_ns;
	int64_t point_time_ns;
	struct disk_status disks[SOURCE_DISKS_MAX];
	unsigned disk_count;
};

static int make_parent(const char *path)
{
	CLEANUP_FREE char *parent = strdup(path);
	char *slash = parent ? strrchr(parent, '/') : NULL;
	if (!slash || slash == parent)
		return parent ? 0 : -ENOMEM;
	*slash = '\0';
	return mkdir(parent, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

int agent_status_new(const char *path, struct error *error, struct agent_status **ret_status)
{
	struct agent_status *s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	s->state = "starting";
	s->state_since_ns = clock_realtime_ns(clock_system());
	pthread_mutex_init(&s->lock, NULL);
	s->path = path ? strdup(path) : NULL;
	int r = s->path ? make_parent(path) : 0;
	if (r == 0 && path && !s->path)
		r = -ENOMEM;
	if (r < 0) {
		agent_status_free(s);
		return error_set(error, r, "run the agent as root", "%s cannot be written: %s",
			path, strerrordesc_np(-r));
	}
	*ret_status = s;
	return 0;
}

void agent_status_free(struct agent_status *s)
{
	if (!s)
		return;
	if (s->path)
		(void)unlink(s->path);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
}

/* ── setting ─────────────────────────────────────────────────────────────────────────────── */

void agent_status_set_state(struct agent_status *s, const char *state)
{
	SCOPED_LOCK(&s->lock);
	if (strcmp(s->state, state) == 0)
		return;
	s->state = state;
	s->state_since_ns = clock_realtime_ns(clock_system());
}

void agent_status_set_appliance(struct agent_status *s, const char *machine, const char *appliance)
{
	SCOPED_LOCK(&s->lock);
	snprintf(s->machine, sizeof(s->machine), "%s", machine);
	snprintf(s->appliance, sizeof(s->appliance), "%s", appliance);
}

void agent_status_set_error(struct agent_status *s, const struct error *error)
{
	SCOPED_LOCK(&s->lock);
	s->error = *error;
}

void agent_status_set_method(struct agent_status *s, const char *method, const char *reason)
{
	SCOPED_LOCK(&s->lock);
	snprintf(s->method, sizeof(s->method), "%s", method);
	snprintf(s->reason, sizeof(s->reason), "%s", reason);
}

void agent_status_set_limit(struct agent_status *s, uint64_t bytes_per_s)
{
	SCOPED_LOCK(&s->lock);
	s->send_limit_bytes_per_s = bytes_per_s;
}

void agent_status_set_figures(struct agent_status *s, const struct agent_figures *figures)
{
	SCOPED_LOCK(&s->lock);
	s->figures = *figures;
}

void agent_status_set_point(struct agent_status *s, uint64_t point, int64_t time_ns,
	uint64_t stall_ns, uint64_t remainder_bytes)
{
	SCOPED_LOCK(&s->lock);
	s->point = point;
	s->point_time_ns = time_ns;
	s->stall_ns = stall_ns;
	s->remainder_bytes = remainder_bytes;
	s->points++;
	if (stall_ns > s->longest_stall_ns)
		s->longest_stall_ns = stall_ns;
}

static struct disk_status *disk_of(struct agent_status *s, const char *id)
{
	for (unsigned i = 0; i < s->disk_count; i++)
		if (strcmp(s->disks[i].id, id) == 0)
			return &s->disks[i];
	if (s->disk_count == SOURCE_DISKS_MAX)
		return NULL;
	struct disk_status *d = &s->disks[s->disk_count++];
	snprintf(d->id, sizeof(d->id), "%s", id);
	return d;
}

bool agent_status_set_proof(
	struct agent_status *s, const struct source_disk *disk, const char *why_not)
{
	SCOPED_LOCK(&s->lock);
	struct disk_status *d = disk_of(s, disk->id);
	if (!d || d->unproven == why_not)
		return false;
	if (!d->unproven)
		d->unproven_since_ns = clock_realtime_ns(clock_system());
	d->unproven = why_not;
	return true;
}

void agent_status_set_disk(struct agent_status *s, const struct source_disk *disk,
	const struct agent_disk_figures *figures)
{
	SCOPED_LOCK(&s->lock);
	struct disk_status *d = disk_of(s, disk->id);
	if (!d)
		return;
	snprintf(d->path, sizeof(d->path), "%s", disk->path);
	d->figures = *figures;
	d->error = disk->refusal.code != 0 ? disk->refusal : disk->error;
}

void agent_status_hold(struct agent_status *s, bool hold)
{
	SCOPED_LOCK(&s->lock);
	s->held = hold;
}

/* ── telling ─────────────────────────────────────────────────────────────────────────────── */

static int add_number(struct cJSON *object, const char *name, double value)
{
	return cJSON_AddNumberToObject(object, name, value) ? 0 : -ENOMEM;
}

static int add_time(struct cJSON *object, const char *name, int64_t ns)
{
	char text[UTC_ISO_BYTES];
	if (ns == 0)
		return cJSON_AddNullToObject(object, name) ? 0 : -ENOMEM;
	utc_format_iso(ns, text);
	return json_add_text(object, name, text);
}

static int add_error(struct cJSON *object, const struct error *error)
{
	struct cJSON *item;
	if (error->code == 0)
		return cJSON_AddNullToObject(object, "error") ? 0 : -ENOMEM;
	int r = json_add_object(object, "error", &item);
	if (r == 0)
		r = json_add_text(item, "message", error->message);
	return r == 0 ? json_add_text(item, "mend", error->mend) : r;
}

static int add_disk(struct cJSON *list, const struct disk_status *d)
{
	struct cJSON *item;
	int r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", d->id);
	if (r == 0)
		r = json_add_text(item, "path", d->path);
	if (r == 0)
		r = json_add_u64(item, "size_bytes", d->figures.bytes);
	if (r == 0)
		r = json_add_u64(item, "dirty_bytes", d->figures.dirty_bytes);
	if (r == 0)
		r = json_add_u64(item, "swap_bytes", d->figures.swap_bytes);
	if (r == 0)
		r = json_add_bool(item, "comparing", d->figures.comparing);
	if (r == 0)
		r = json_add_u64(item, "compared_bytes", d->figures.compared_bytes);
	if (r == 0)
		r = add_number(item, "compare_bytes_per_s", d->figures.compare_bytes_per_s);
	if (r == 0)
		r = d->figures.left_s < 0 ? (cJSON_AddNullToObject(item, "left_s") ? 0 : -ENOMEM)
					  : add_number(item, "left_s", d->figures.left_s);
	if (r == 0)
		r = d->unproven ? json_add_text(item, "unproven", d->unproven)
				: (cJSON_AddNullToObject(item, "unproven") ? 0 : -ENOMEM);
	if (r == 0)
		r = add_time(item, "unproven_since", d->unproven ? d->unproven_since_ns : 0);
	return r == 0 ? add_error(item, &d->error) : r;
}

static int add_figures(struct cJSON *root, const struct agent_status *s)
{
	int r = json_add_u64(root, "read_bytes", s->figures.read_bytes);
	if (r == 0)
		r = json_add_u64(root, "sent_bytes", s->figures.sent_bytes);
	if (r == 0)
		r = json_add_u64(root, "zero_bytes", s->figures.zero_bytes);
	if (r == 0)
		r = json_add_u64(root, "wire_bytes", s->figures.wire_bytes);
	if (r == 0)
		r = json_add_u64(root, "compared_chunks", s->figures.compared_chunks);
	if (r == 0)
		r = json_add_u64(root, "differing_chunks", s->figures.differing_chunks);
	return r == 0 ? json_add_u64(root, "read_errors", s->figures.read_errors) : r;
}

static int add_point(struct cJSON *root, const struct agent_status *s)
{
	int r = json_add_u64(root, "points", s->points);
	if (r == 0)
		r = json_add_u64(root, "newest_point", s->point);
	if (r == 0)
		r = add_time(root, "newest_point_time", s->point_time_ns);
	if (r == 0)
		r = add_number(root, "stall_ms", (double)s->stall_ns / 1e6);
	if (r == 0)
		r = add_number(root, "longest_stall_ms", (double)s->longest_stall_ns / 1e6);
	return r == 0 ? json_add_u64(root, "remainder_bytes", s->remainder_bytes) : r;
}

int agent_status_json(struct agent_status *s, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *list;
	SCOPED_LOCK(&s->lock);
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_text(root, "state", s->state);
	if (r == 0)
		r = add_time(root, "state_since", s->state_since_ns);
	if (r == 0)
		r = json_add_text(root, "machine", s->machine);
	if (r == 0)
		r = json_add_text(root, "appliance", s->appliance);
	if (r == 0)
		r = json_add_text(root, "capture", s->method);
	if (r == 0)
		r = json_add_text(root, "capture_reason", s->reason);
	if (r == 0)
		r = json_add_u64(root, "send_limit_bytes_per_s", s->send_limit_bytes_per_s);
	if (r == 0)
		r = add_error(root, &s->error);
	if (r == 0)
		r = add_figures(root, s);
	if (r == 0)
		r = add_point(root, s);
	if (r == 0)
		r = json_add_array(root, "disks", &list);
	for (unsigned i = 0; r == 0 && i < s->disk_count; i++)
		r = add_disk(list, &s->disks[i]);
	if (r == 0)
		*ret_json = TAKE(root);
	return r;
}

/* On a tmpfs: renamed into place so that readers see all or nothing; durability is of no use. */
void agent_status_write(struct agent_status *s)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	CLEANUP_FREE char *next = NULL;
	{
		SCOPED_LOCK(&s->lock);
		if (!s->path || s->held)
			return;
	}
	if (agent_status_json(s, &json) < 0 ||
		json_add_u64(json, "process", (uint64_t)getpid()) < 0 ||
		json_print(json, true, &text) < 0 || asprintf(&next, "%s.new", s->path) < 0) {
		next = NULL;
		return;
	}
	CLEANUP_CLOSE int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd >= 0 && write(fd, text.data, text.len) == (ssize_t)text.len)
		(void)rename(next, s->path);
}
