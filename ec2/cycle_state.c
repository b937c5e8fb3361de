/*
 * A cycle's state as JSON, so that whoever keeps it can read it. Unknown fields are refused: a
 * state that a later version wrote is not to be guessed at.
 */
#include "ec2/cycle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"

static const char *const phases[] = { "idle", "creating", "waiting", "copying", "copied" };

static int print_volume(struct cJSON *list, const struct ec2_cycle_volume *v)
{
	struct cJSON *o;
	int r = json_add_object(list, NULL, &o);
	if (r == 0)
		r = json_add_text(o, "id", v->id);
	if (r == 0)
		r = json_add_text(o, "base", v->base);
	if (r == 0)
		r = json_add_text(o, "snapshot", v->snapshot);
	if (r == 0)
		r = json_add_u64(o, "base_bytes", v->base_bytes);
	if (r == 0)
		r = json_add_u64(o, "bytes", v->bytes);
	if (r == 0)
		r = json_add_u64(o, "index", v->index);
	return r == 0 ? json_add_bool(o, "whole", v->whole) : r;
}

int ec2_cycle_print(const struct ec2_cycle *cycle, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct cJSON *list;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "phase", phases[cycle->phase]);
	if (r == 0)
		r = json_add_text(json, "instance", cycle->instance);
	if (r == 0)
		r = json_add_text(json, "set", cycle->set);
	if (r == 0)
		r = json_add_i64(json, "time_ns", cycle->time_ns);
	if (r == 0)
		r = json_add_array(json, "volumes", &list);
	for (unsigned i = 0; r == 0 && i < cycle->count; i++)
		r = print_volume(list, &cycle->volumes[i]);
	return r == 0 ? json_print(json, true, text) : r;
}

static int read_id(
	const struct json *at, const char *name, char *ret, size_t room, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r == 0 && strlen(text) >= room)
		r = json_error(at, -EBADMSG, error, "%s is too long", name);
	if (r == 0)
		memcpy(ret, text, strlen(text) + 1);
	return r;
}

static int read_volume(const struct json *at, struct ec2_cycle_volume *v, struct error *error)
{
	static const char *const names[] = { "id", "base", "snapshot", "base_bytes", "bytes",
		"index", "whole", NULL };
	uint64_t index = 0;
	int r = json_only(at, names, error);
	if (r == 0)
		r = read_id(at, "id", v->id, sizeof(v->id), error);
	if (r == 0)
		r = read_id(at, "base", v->base, sizeof(v->base), error);
	if (r == 0)
		r = read_id(at, "snapshot", v->snapshot, sizeof(v->snapshot), error);
	if (r == 0)
		r = json_get_u64(at, "base_bytes", &v->base_bytes, error);
	if (r == 0)
		r = json_get_u64(at, "bytes", &v->bytes, error);
	if (r == 0)
		r = json_get_u64(at, "index", &index, error);
	if (r == 0)
		r = json_get_bool(at, "whole", &v->whole, error);
	if (r == 0 && (index > UINT32_MAX || index * EC2_BLOCK_BYTES > v->bytes))
		r = json_error(at, -EBADMSG, error, "the index is beyond the volume's end");
	v->index = (uint32_t)index;
	return r;
}

int ec2_cycle_parse(const char *text, size_t n, struct ec2_cycle *ret_cycle, struct error *error)
{
	static const char *const names[] = { "phase", "instance", "set", "time_ns", "volumes",
		NULL };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct ec2_cycle c = { 0 };
	struct json root, list;
	const char *phase = "";
	unsigned i = 0;
	int r = json_parse(text, n, NULL, &json, error);
	if (r < 0)
		return r;
	json_root(json, "cycle", &root);
	r = json_only(&root, names, error);
	if (r == 0)
		r = json_get_text(&root, "phase", &phase, error);
	while (r == 0 && i < ARRAY_SIZE(phases) && strcmp(phase, phases[i]) != 0)
		i++;
	if (r == 0 && i == ARRAY_SIZE(phases))
		r = json_error(&root, -EBADMSG, error, "no such phase: %.40s", phase);
	c.phase = (enum ec2_cycle_phase)i;
	if (r == 0)
		r = read_id(&root, "instance", c.instance, sizeof(c.instance), error);
	if (r == 0)
		r = read_id(&root, "set", c.set, sizeof(c.set), error);
	if (r == 0)
		r = json_get_i64(&root, "time_ns", &c.time_ns, error);
	if (r == 0)
		r = json_get_array(&root, "volumes", &list, error);
	if (r < 0)
		return r;
	for (struct json item = { 0 }; json_each(&list, &item);) {
		if (c.count == EC2_CYCLE_VOLUMES)
			return json_error(&list, -EBADMSG, error, "too many volumes");
		r = read_volume(&item, &c.volumes[c.count++], error);
		if (r < 0)
			return r;
	}
	*ret_cycle = c;
	return 0;
}
