/*
 * What a group remembers beside its journal: that there was one, whether another appliance has
 * taken the group, which of the vault's points the journal was found to have lost, and which points
 * are still to be deleted in the vault.
 *
 * A deletion is noted here before the history forgets the point, so that a crash in between
 * leaves nothing behind in the vault that nobody knows of. The file proves itself: a flipped bit
 * could otherwise delete another point than was asked for; and it has a copy (twin_file.h). If
 * neither can be read that is an error: guessing could bring back writes to a group that another
 * appliance owns.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "replicator/group_internal.h"
#include "replicator/manifest.h"
#include "replicator/sealed_json.h"
#include "replicator/twin_file.h"

#define STATE_MAX_BYTES (8u << 20)

static int read_absences(struct group_state *state, const struct json *root, struct error *error)
{
	struct json list;
	int r = json_find_array(root, "absences", &list, error);
	if (r <= 0)
		return r;
	state->absences =
		calloc((unsigned)cJSON_GetArraySize(list.node) + 1u, sizeof(*state->absences));
	if (!state->absences)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	r = 0;
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = absence_from_json(&item, &state->absences[state->absence_count++], error);
	return r;
}

static int read_fault(struct group_state *state, const struct json *root, struct error *error)
{
	const char *message = "";
	int r = json_find_u64(root, "failed_point", &state->failed_point, error);
	if (r > 0)
		r = json_get_text(root, "failed_fault", &message, error);
	if (r == 0 && state->failed_point > 0)
		error_fill(&state->failed_fault, -EBADMSG, NULL, "%s", message);
	return r;
}

static int read_fields(struct group_state *state, const struct json *root, struct error *error)
{
	const char *owner = "";
	struct json deletes = { 0 };
	int r = json_get_bool(root, "opened", &state->opened, error);
	if (r == 0)
		r = json_find_i64(root, "opened_ns", &state->opened_ns, error);
	if (r >= 0)
		r = json_find_bool(root, "lease_unknown", &state->lease_unknown, error);
	if (r >= 0)
		r = json_find_u64(root, "lost_point", &state->lost_point, error);
	if (r >= 0)
		r = json_find_u64(root, "lost_lsn", &state->lost_lsn, error);
	if (r >= 0)
		r = json_get_bool(root, "taken_over", &state->taken_over, error);
	if (r == 0)
		r = json_get_text(root, "owner", &owner, error);
	if (r == 0)
		r = json_get_array(root, "deletes", &deletes, error);
	if (r == 0)
		r = read_fault(state, root, error);
	if (r < 0)
		return r;
	snprintf(state->owner, sizeof(state->owner), "%s", owner);
	unsigned count = (unsigned)cJSON_GetArraySize(deletes.node);
	state->deletes = calloc(count + 1, sizeof(*state->deletes));
	if (!state->deletes)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	for (struct json item = { 0 }; json_each(&deletes, &item);) {
		r = json_as_u64(&item, &state->deletes[state->delete_count++], error);
		if (r < 0)
			return r;
	}
	return read_absences(state, root, error);
}

static int check_text(void *context, const char *text, size_t n, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	(void)context;
	return sealed_json_parse("the file", text, n, error, &json);
}

/* Without it the group is whole but for what the file alone tells. */
static int refuse(const struct group *group, const struct error *reason, struct error *error)
{
	char mend[sizeof(error->mend)];
	snprintf(mend, sizeof(mend),
		"move it and %.100s.copy away: the group runs again within minutes; points whose "
		"deletion was under way may stay in the vault, and hidden disks show again",
		group->state_path);
	return error_set(error, -EUCLEAN, mend, "%s; nor is its copy sound", reason->message);
}

int group_state_load(struct group *group, struct error *error)
{
	CLEANUP_FREE char *text = NULL;
	struct error reason = { 0 };
	size_t n;
	int r = twin_load(group->io, group->state_path, STATE_MAX_BYTES, check_text, group, &reason,
		&group->state_fault, &text, &n);
	if (r == -ENOENT)
		return 0;
	if (r == -EUCLEAN)
		return refuse(group, &reason, error);
	if (r < 0)
		return error_set(error, r, reason.mend, "%s", reason.message);
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	r = sealed_json_parse(group->state_path, text, n, error, &json);
	if (r < 0)
		return r;
	json_root(json, group->state_path, &root);
	return read_fields(&group->state, &root, error);
}

static int build(const struct group_state *state, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct cJSON *deletes;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_bool(json, "opened", state->opened);
	if (r == 0)
		r = json_add_i64(json, "opened_ns", state->opened_ns);
	if (r == 0)
		r = json_add_bool(json, "lease_unknown", state->lease_unknown);
	if (r == 0)
		r = json_add_u64(json, "lost_point", state->lost_point);
	if (r == 0)
		r = json_add_u64(json, "lost_lsn", state->lost_lsn);
	if (r == 0)
		r = json_add_bool(json, "taken_over", state->taken_over);
	if (r == 0)
		r = json_add_text(json, "owner", state->owner);
	if (r == 0 && state->failed_point > 0) {
		r = json_add_u64(json, "failed_point", state->failed_point);
		if (r == 0)
			r = json_add_text(json, "failed_fault", state->failed_fault.message);
	}
	if (r == 0)
		r = json_add_array(json, "deletes", &deletes);
	for (unsigned i = 0; r == 0 && i < state->delete_count; i++)
		r = json_add_u64(deletes, NULL, state->deletes[i]);
	if (r == 0)
		r = absences_to_json(json, state->absences, state->absence_count);
	if (r == 0)
		*ret_json = TAKE(json);
	return r;
}

int group_state_save(struct group *group)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = build(&group->state, &json);
	if (r == 0)
		r = sealed_json_format(json, &text);
	if (r == 0)
		r = twin_save(group->io, group->state_path, text.data, text.len);
	if (r < 0)
		log_error("%s: cannot be written: %s", group->state_path, strerrordesc_np(-r));
	return r;
}

int group_state_note_delete(struct group *group, const uint64_t *numbers, unsigned count)
{
	struct group_state *state = &group->state;
	uint64_t *more =
		realloc(state->deletes, (state->delete_count + count) * sizeof(*state->deletes));
	if (!more)
		return -ENOMEM;
	state->deletes = more;
	memcpy(more + state->delete_count, numbers, count * sizeof(*numbers));
	state->delete_count += count;
	int r = group_state_save(group);
	if (r < 0)
		state->delete_count -= count;
	return r;
}

void group_state_forget_delete(struct group *group, uint64_t number)
{
	struct group_state *state = &group->state;
	unsigned left = 0;
	for (unsigned i = 0; i < state->delete_count; i++)
		if (state->deletes[i] != number)
			state->deletes[left++] = state->deletes[i];
	state->delete_count = left;
}
