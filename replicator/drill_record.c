/*
 * state/drills.json: what drills there were, newest first, and a drill as the socket tells it.
 *
 *	{"format":1, "drills":[{…}], "checksum"}
 *
 * What ran when the daemon ended runs no more; its record says so from the next start on. A drill
 * that was still starting goes on by its job.
 */
#include <errno.h>

#include "common/utc.h"
#include "replicator/drills_internal.h"
#include "replicator/sealed_json.h"

#define RECORD_FORMAT 1
#define RECORD_MAX_BYTES (4u << 20)
#define RECORDS_MAX 4096u

static const char *const state_names[] = { "starting", "running", "ended" };
static const char *const verdict_names[] = { "none", "passed", "failed" };

static int record_path(const struct drills *drills, struct buf *path)
{
	return buf_printf(path, "%s/drills.json", drills->registry->state_dir);
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

/* What file and socket have in common. */
static int add_common(const struct drill *d, struct cJSON *object)
{
	int r = json_add_u64(object, "id", d->id);
	if (r == 0)
		r = json_add_text(object, "machine", d->machine);
	if (r == 0)
		r = json_add_text(object, "target", d->target);
	if (r == 0)
		r = json_add_u64(object, "point", d->point);
	if (r == 0)
		r = json_add_text(object, "state", state_names[d->state]);
	if (r == 0)
		r = json_add_text(object, "verdict", verdict_names[d->verdict]);
	return r == 0 ? json_add_text(object, "reason", d->proof.words) : r;
}

static int add_record(struct cJSON *list, const struct drill *d)
{
	struct cJSON *object;
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = add_common(d, object);
	if (r == 0)
		r = json_add_i64(object, "point_ns", d->point_ns);
	if (r == 0)
		r = json_add_i64(object, "began_ns", d->began_ns);
	if (r == 0)
		r = json_add_i64(object, "judged_ns", d->judged_ns);
	if (r == 0)
		r = json_add_i64(object, "after_ns", d->proof.after_ns);
	if (r == 0)
		r = json_add_text(object, "log", d->proof.log);
	return r == 0 ? json_add_text(object, "screenshot", d->proof.screenshot) : r;
}

int drill_save(struct drills *drills, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	CLEANUP(buf_free) struct buf path = { 0 }, text = { 0 };
	struct cJSON *list;
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "format", RECORD_FORMAT);
	if (r == 0)
		r = json_add_array(root, "drills", &list);
	for (const struct drill *d = drills->list; r == 0 && d; d = d->next)
		r = add_record(list, d);
	if (r == 0)
		r = sealed_json_format(root, &text);
	if (r == 0)
		r = record_path(drills, &path);
	if (r == 0)
		r = io_replace_file(drills->registry->io, path.data, text.data, text.len);
	return r == 0 ? 0
		      : error_set(error, r, "see that the state directory's disk works",
				"the drills cannot be written to %s: %s",
				path.data ? path.data : "the state directory", strerrordesc_np(-r));
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

static int get_name(const struct json *at, const char *name, const char *const *names,
	unsigned count, unsigned *ret, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < count; i++)
		if (strcmp(names[i], text) == 0) {
			*ret = i;
			return 0;
		}
	return json_error(at, -EBADMSG, error, "%s is none that is known", name);
}

static int get_times(const struct json *at, struct drill *d, struct error *error)
{
	int r = json_get_i64(at, "point_ns", &d->point_ns, error);
	if (r == 0)
		r = json_get_i64(at, "began_ns", &d->began_ns, error);
	if (r == 0)
		r = json_get_i64(at, "judged_ns", &d->judged_ns, error);
	return r == 0 ? json_get_i64(at, "after_ns", &d->proof.after_ns, error) : r;
}

static int get_record(const struct json *at, void *ret_item, struct error *error)
{
	struct drill *d = ret_item;
	struct target_proof *p = &d->proof;
	unsigned state = 0, verdict = 0;
	int r = json_get_u64(at, "id", &d->id, error);
	if (r == 0)
		r = json_copy_text(at, "machine", sizeof(d->machine), d->machine, error);
	if (r == 0)
		r = json_copy_text(at, "target", sizeof(d->target), d->target, error);
	if (r == 0)
		r = json_get_u64(at, "point", &d->point, error);
	if (r == 0)
		r = get_name(at, "state", state_names, ARRAY_SIZE(state_names), &state, error);
	if (r == 0)
		r = get_name(
			at, "verdict", verdict_names, ARRAY_SIZE(verdict_names), &verdict, error);
	if (r == 0)
		r = json_copy_text(at, "reason", sizeof(p->words), p->words, error);
	if (r == 0)
		r = get_times(at, d, error);
	if (r == 0)
		r = json_copy_text(at, "log", sizeof(p->log), p->log, error);
	if (r == 0)
		r = json_copy_text(at, "screenshot", sizeof(p->screenshot), p->screenshot, error);
	/* What had come up does not run any more; what had not is begun anew by its job. */
	d->state = state == DRILL_RUNNING ? DRILL_ENDED : state;
	d->verdict = verdict;
	p->passed = verdict == DRILL_PASSED;
	return r;
}

static int take_list(struct drills *drills, const struct drill *records, unsigned count)
{
	struct drill **end = &drills->list;
	for (unsigned i = 0; i < count; i++) {
		*end = malloc(sizeof(**end));
		if (!*end)
			return -ENOMEM;
		**end = records[i];
		end = &(*end)->next;
	}
	return 0;
}

static int read_file(
	struct drills *drills, const char *path, const char *text, size_t n, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	uint64_t format;
	void *records = NULL;
	unsigned count = 0;
	int r = sealed_json_parse(path, text, n, error, &json);
	if (r < 0)
		return r;
	json_root(json, path, &root);
	r = json_get_u64(&root, "format", &format, error);
	if (r == 0 && format != RECORD_FORMAT)
		return json_error(&root, -EPROTONOSUPPORT, error, "is of a newer format");
	if (r == 0)
		r = json_get_list(&root, "drills", RECORDS_MAX, sizeof(struct drill), get_record,
			error, &records, &count);
	if (r == 0)
		r = take_list(drills, records, count);
	free(records);
	return r;
}

int drill_load(struct drills *drills, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	CLEANUP_FREE char *text = NULL;
	size_t n;
	int r = record_path(drills, &path);
	if (r == 0)
		r = io_load_file(drills->registry->io, path.data, RECORD_MAX_BYTES, &text, &n);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return error_set(error, r, "see that the state directory's disk works",
			"the drills cannot be read: %s", strerrordesc_np(-r));
	return read_file(drills, path.data, text, n, error);
}

/* ── for the socket ──────────────────────────────────────────────────────────────────────── */

static int add_file(struct cJSON *object, const char *name, const char *directory, const char *file)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	if (!file[0])
		return json_add_null(object, name);
	int r = buf_printf(&path, "%s/%s", directory, file);
	return r == 0 ? json_add_text(object, name, path.data) : r;
}

int drill_to_json(const struct drills *drills, const struct drill *d, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	CLEANUP(buf_free) struct buf directory = { 0 };
	int r = json_new_object(&object);
	if (r == 0)
		r = add_common(d, object);
	if (r == 0)
		r = result_add_time(object, "point_time", d->point_ns);
	if (r == 0)
		r = result_add_time(object, "began", d->began_ns);
	if (r == 0)
		r = result_add_time(object, "judged", d->judged_ns);
	if (r == 0)
		r = d->verdict == DRILL_NO_VERDICT
			    ? json_add_null(object, "took_s")
			    : json_add_double(object, "took_s",
				      (double)d->proof.after_ns / (double)NS_PER_S);
	if (r == 0)
		r = drill_directory(drills, d->id, &directory);
	if (r == 0)
		r = add_file(object, "log", directory.data, d->proof.log);
	if (r == 0)
		r = add_file(object, "screenshot", directory.data, d->proof.screenshot);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}
