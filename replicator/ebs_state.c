/*
 * state/ebs/<machine>.json: where a machine's cycle is, so that it goes on after whatever end.
 *
 *	{"format":1, "cycle":{…}, "begun":[…], "cause", "figures":{…}, "checksum"}
 *
 * What it says must never be newer than what the journal has: it is written after what it speaks of
 * is durable there. Older is fine, what came since comes again.
 */
#include <errno.h>

#include "common/log.h"
#include "replicator/ebs_internal.h"
#include "replicator/sealed_json.h"

#define STATE_FORMAT 1
#define STATE_MAX_BYTES (1u << 20)

static int state_path(struct ebs *ebs, const char *machine, struct buf *path)
{
	return buf_printf(path, "%s/ebs/%s.json", ebs->registry->state_dir, machine);
}

/* ── figures ─────────────────────────────────────────────────────────────────────────────── */

static const struct {
	const char *name;
	size_t offset;
} figures[] = {
	{ "blocks", offsetof(struct ebs_figures, requests[EC2_LIMIT_BLOCKS]) },
	{ "lists", offsetof(struct ebs_figures, requests[EC2_LIMIT_LISTS]) },
	{ "calls", offsetof(struct ebs_figures, requests[EC2_LIMIT_CALLS]) },
	{ "cycles", offsetof(struct ebs_figures, cycles) },
	{ "fetched_bytes", offsetof(struct ebs_figures, fetched_bytes) },
	{ "written_bytes", offsetof(struct ebs_figures, written_bytes) },
	{ "set_ns", offsetof(struct ebs_figures, set_ns) },
	{ "took_ns", offsetof(struct ebs_figures, took_ns) },
	{ "cycle_blocks", offsetof(struct ebs_figures, cycle_requests[EC2_LIMIT_BLOCKS]) },
	{ "cycle_lists", offsetof(struct ebs_figures, cycle_requests[EC2_LIMIT_LISTS]) },
	{ "cycle_calls", offsetof(struct ebs_figures, cycle_requests[EC2_LIMIT_CALLS]) },
	{ "cycle_fetched_bytes", offsetof(struct ebs_figures, cycle_fetched_bytes) },
	{ "cycle_written_bytes", offsetof(struct ebs_figures, cycle_written_bytes) },
};
static_assert(sizeof(struct ebs_figures) == ARRAY_SIZE(figures) * sizeof(uint64_t),
	"every figure has its name, and all are of 64 bits");

static int add_figures(struct cJSON *root, const struct ebs_figures *from)
{
	struct cJSON *object;
	int r = json_add_object(root, "figures", &object);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(figures); i++) {
		uint64_t value;
		memcpy(&value, (const char *)from + figures[i].offset, sizeof(value));
		r = json_add_u64(object, figures[i].name, value);
	}
	return r;
}

static int read_figures(const struct json *root, struct ebs_figures *to, struct error *error)
{
	struct json object;
	int r = json_get_object(root, "figures", &object, error);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(figures); i++) {
		uint64_t value;
		r = json_get_u64(&object, figures[i].name, &value, error);
		if (r == 0)
			memcpy((char *)to + figures[i].offset, &value, sizeof(value));
	}
	return r;
}

/* ── the cycle ───────────────────────────────────────────────────────────────────────────── */

static int add_cycle(struct cJSON *root, const struct ebs_state *state)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct cJSON *cycle = NULL, *begun;
	int r = ec2_cycle_print(&state->cycle, &text);
	if (r == 0)
		r = json_parse(text.data, text.len, NULL, &cycle, NULL);
	if (r == 0)
		r = json_add_item(root, "cycle", cycle);
	if (r == 0)
		r = json_add_array(root, "begun", &begun);
	for (unsigned i = 0; r == 0 && i < state->cycle.count; i++)
		r = json_add_bool(begun, NULL, state->begun[i]);
	return r;
}

static int read_cycle(const struct json *root, struct ebs_state *state, struct error *error)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	struct json cycle, begun, item = { 0 };
	int r = json_get_object(root, "cycle", &cycle, error);
	if (r == 0)
		r = json_print(cycle.node, false, &text);
	if (r == 0)
		r = ec2_cycle_parse(text.data, text.len, &state->cycle, error);
	if (r == 0)
		r = json_get_array(root, "begun", &begun, error);
	for (unsigned i = 0; r == 0 && i < state->cycle.count; i++)
		r = json_each(&begun, &item) ? json_as_bool(&item, &state->begun[i], error)
					     : json_error(&begun, -EBADMSG, error, "is too short");
	return r;
}

/* ── the file ────────────────────────────────────────────────────────────────────────────── */

static int read_state(const struct json *root, struct ebs_state *state, struct error *error)
{
	uint64_t format;
	int r = json_get_u64(root, "format", &format, error);
	if (r == 0 && format != STATE_FORMAT)
		r = json_error(root, -EPROTONOSUPPORT, error, "is of a newer format");
	if (r == 0)
		r = read_cycle(root, state, error);
	if (r == 0)
		r = json_copy_text(root, "cause", sizeof(state->cause), state->cause, error);
	return r == 0 ? read_figures(root, &state->figures, error) : r;
}

int ebs_state_load(struct ebs *ebs, const char *machine, struct ebs_state *ret_state)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP_FREE char *text = NULL;
	CLEANUP_FREE struct ebs_state *state = calloc(1, sizeof(*state));
	struct error error = { 0 };
	struct json root;
	size_t n;
	int r = state ? state_path(ebs, machine, &path) : -ENOMEM;
	if (r == 0)
		r = io_load_file(ebs->registry->io, path.data, STATE_MAX_BYTES, &text, &n);
	if (r == -ENOENT) {
		*ret_state = *state;
		return 0;
	}
	if (r == 0)
		r = sealed_json_parse(path.data, text, n, &error, &json);
	if (r == 0) {
		json_root(json, path.data, &root);
		r = read_state(&root, state, &error);
	}
	if (r == -EBADMSG) {
		log_warning("%s; machine %s is compared all over", error.message, machine);
		*state = (struct ebs_state){ 0 };
		r = 0;
	}
	if (r == 0)
		*ret_state = *state;
	return r;
}

int ebs_state_save(struct ebs *ebs, const char *machine, const struct ebs_state *state)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	CLEANUP(buf_free) struct buf path = { 0 }, text = { 0 };
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "format", STATE_FORMAT);
	if (r == 0)
		r = add_cycle(root, state);
	if (r == 0)
		r = json_add_text(root, "cause", state->cause);
	if (r == 0)
		r = add_figures(root, &state->figures);
	if (r == 0)
		r = sealed_json_format(root, &text);
	if (r == 0)
		r = state_path(ebs, machine, &path);
	return r == 0 ? io_replace_file(ebs->registry->io, path.data, text.data, text.len) : r;
}

void ebs_state_remove(struct ebs *ebs, const char *machine)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = state_path(ebs, machine, &path);
	if (r == 0)
		r = io_unlink(ebs->registry->io, path.data);
	if (r < 0 && r != -ENOENT)
		log_warning("%s cannot be removed: %s", path.data ? path.data : machine,
			strerrordesc_np(-r));
}
