/*
 * agent_keys.json: every key that is remembered, sealed (sealed_json.h), replaced whole.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/buf.h"
#include "common/cleanup.h"
#include "replicator/agent_keys_internal.h"
#include "replicator/sealed_json.h"
#include "replicator/twin_file.h"

#define FILE_MAX_BYTES (64u << 20)

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

int agent_keys_write_uses(struct cJSON *object, const struct key *key, bool for_file)
{
	struct cJSON *list, *item;
	int r = json_add_array(object, "uses", &list);
	for (unsigned i = 0; r == 0 && i < key->use_count; i++) {
		r = json_add_object(list, NULL, &item);
		if (r == 0)
			r = json_add_text(item, "machine", key->uses[i].machine);
		if (r == 0)
			r = json_add_time(item, "time", key->uses[i].time_ns);
		if (r == 0 && for_file)
			r = json_add_text(item, "public_key_sha256", key->uses[i].public_key);
		if (r == 0 && for_file)
			r = json_add_bool(item, "ended", key->uses[i].ended);
	}
	return r;
}

static int write_key(struct cJSON *list, const struct key *key)
{
	struct cJSON *object;
	char hash[AGENT_KEYS_HEX_BYTES];
	hex_encode(key->secret_hash, sizeof(key->secret_hash), hash);
	int r = json_add_object(list, NULL, &object);
	if (r == 0)
		r = json_add_text(object, "id", key->id);
	if (r == 0)
		r = json_add_text(object, "secret_sha256", hash);
	if (r == 0)
		r = json_add_text(object, "machine", key->machine);
	if (r == 0)
		r = json_add_time(object, "created", key->created_ns);
	if (r == 0)
		r = json_add_time(object, "expires", key->expires_ns);
	if (r == 0)
		r = json_add_u64(object, "max_uses", key->max_uses);
	if (r == 0)
		r = json_add_bool(object, "revoked", key->revoked);
	return r == 0 ? agent_keys_write_uses(object, key, true) : r;
}

int agent_keys_save(
	struct agent_keys *keys, const struct key *list, unsigned count, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	struct cJSON *array;
	int r = json_new_object(&root);
	if (r == 0)
		r = json_add_u64(root, "version", 1);
	if (r == 0)
		r = json_add_array(root, "keys", &array);
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = write_key(array, &list[i]);
	if (r == 0)
		r = sealed_json_format(root, &text);
	if (r == 0)
		r = twin_save(keys->io, keys->path, text.data, text.len);
	if (r < 0)
		return error_set(error, r,
			r == -ENOSPC ? "make room on the filesystem of the state directory"
				     : "check the appliance's disk and the directory's rights",
			"%s: cannot be written, so nothing was changed: %s", keys->path,
			strerrordesc_np(-r));
	return 0;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_hash(const struct json *at, const char *name, uint8_t ret_hash[static SHA256_BYTES],
	struct error *error)
{
	char text[AGENT_KEYS_HEX_BYTES];
	int r = json_copy_text(at, name, sizeof(text), text, error);
	for (size_t i = 0; r == 0 && i < SHA256_BYTES; i++) {
		int high = digit(text[2 * i]);
		int low = high < 0 ? -1 : digit(text[2 * i + 1]);
		if (low < 0)
			return json_error(at, -EBADMSG, error, "%s is no hash", name);
		ret_hash[i] = (uint8_t)(high << 4 | low);
	}
	return r;
}

static int read_uses(const struct json *at, struct key *key, struct error *error)
{
	struct json list;
	int r = json_get_array(at, "uses", &list, error);
	if (r < 0)
		return r;
	int n = cJSON_GetArraySize(list.node);
	key->uses = calloc((size_t)n + 1, sizeof(*key->uses));
	if (!key->uses)
		return -ENOMEM;
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);) {
		struct use *use = &key->uses[key->use_count++];
		r = json_copy_text(&item, "machine", sizeof(use->machine), use->machine, error);
		if (r == 0)
			r = json_copy_text(&item, "public_key_sha256", sizeof(use->public_key),
				use->public_key, error);
		if (r == 0)
			r = json_get_time(&item, "time", &use->time_ns, error);
		if (r == 0)
			r = json_get_bool(&item, "ended", &use->ended, error);
	}
	return r;
}

static int read_key(struct agent_keys *keys, const struct json *at, struct error *error)
{
	struct key *key = &keys->keys[keys->count++];
	uint64_t max_uses;
	int r = json_copy_text(at, "id", sizeof(key->id), key->id, error);
	if (r == 0)
		r = read_hash(at, "secret_sha256", key->secret_hash, error);
	if (r == 0)
		r = json_copy_text(at, "machine", sizeof(key->machine), key->machine, error);
	if (r == 0)
		r = json_get_time(at, "created", &key->created_ns, error);
	if (r == 0)
		r = json_get_time(at, "expires", &key->expires_ns, error);
	if (r == 0)
		r = json_get_u64(at, "max_uses", &max_uses, error);
	if (r == 0 && (max_uses == 0 || max_uses > AGENT_KEYS_MAX_USES))
		r = json_error(at, -EBADMSG, error, "max_uses is out of range");
	if (r == 0)
		r = json_get_bool(at, "revoked", &key->revoked, error);
	if (r == 0)
		r = read_uses(at, key, error);
	if (r == 0)
		key->max_uses = (unsigned)max_uses;
	return r;
}

static int parse(struct agent_keys *keys, const char *text, size_t n, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root, list;
	int r = sealed_json_parse(keys->path, text, n, error, &json);
	if (r < 0)
		return r;
	json_root(json, keys->path, &root);
	r = json_get_array(&root, "keys", &list, error);
	if (r < 0)
		return r;
	keys->keys = calloc((size_t)cJSON_GetArraySize(list.node) + 1, sizeof(*keys->keys));
	if (!keys->keys)
		return -ENOMEM;
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = read_key(keys, &item, error);
	return r;
}

static int check(void *context, const char *text, size_t n, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	const struct agent_keys *keys = context;
	return sealed_json_parse(keys->path, text, n, error, &json);
}

int agent_keys_load(struct agent_keys *keys, struct error *error)
{
	CLEANUP_FREE char *text = NULL;
	size_t n;
	int r = twin_load(
		keys->io, keys->path, FILE_MAX_BYTES, check, keys, error, &keys->fault, &text, &n);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = parse(keys, text, n, error);
	if (r == -EUCLEAN || r == -EBADMSG) {
		struct error words = error ? *error : (struct error){ 0 };
		return error_set(error, -EUCLEAN,
			"move the file and its copy away, restart landfalld and make new keys; "
			"certificates stay good",
			"%s", words.message);
	}
	return r;
}
