/*
 * See sealed_json.h.
 *
 * The ending has a fixed length, so it is found from the end and checked before a parser sees a
 * single byte: what is not proven is not interpreted.
 */
#include "replicator/sealed_json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/utc.h"

#define SEAL_START ",\"checksum\":\""
#define SEAL_START_BYTES (sizeof(SEAL_START) - 1)
#define SEAL_HEX_BYTES 32u
#define SEAL_END "\"}\n"
#define SEAL_BYTES (SEAL_START_BYTES + SEAL_HEX_BYTES + 3)

static void hash_format(struct hash128 hash, char text[static SEAL_HEX_BYTES + 1])
{
	snprintf(text, SEAL_HEX_BYTES + 1, "%016" PRIx64 "%016" PRIx64, hash.high, hash.low);
}

int sealed_json_format(const struct cJSON *object, struct buf *text)
{
	size_t start = text->len;
	char hex[SEAL_HEX_BYTES + 1];
	char *printed = cJSON_PrintUnformatted(object);
	if (!printed)
		return -ENOMEM;
	size_t n = strlen(printed);
	int r = buf_append(text, printed, n - 1); /* the closing brace is the ending's */
	free(printed);
	if (r < 0)
		return r;
	hash_format(checksum128(text->data + start, n - 1), hex);
	return buf_printf(text, SEAL_START "%s" SEAL_END, hex);
}

int sealed_json_parse(const char *what, const char *text, size_t n, struct error *error,
	struct cJSON **ret_object)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	char hex[SEAL_HEX_BYTES + 1];
	if (n <= SEAL_BYTES)
		return error_set(error, -EBADMSG, NULL, "%s is cut short: %zu bytes", what, n);
	const char *seal = text + n - SEAL_BYTES;
	hash_format(checksum128(text, n - SEAL_BYTES), hex);
	if (memcmp(seal, SEAL_START, SEAL_START_BYTES) != 0 ||
		memcmp(seal + SEAL_START_BYTES, hex, SEAL_HEX_BYTES) != 0 ||
		memcmp(seal + SEAL_START_BYTES + SEAL_HEX_BYTES, SEAL_END, 3) != 0)
		return error_set(error, -EBADMSG, NULL,
			"%s is damaged: its bytes do not match its checksum", what);
	int r = json_parse(text, n, NULL, &object, error);
	if (r == -ENOMEM)
		return r;
	if (r < 0) {
		error_prefix(error, "%s", what);
		return -EBADMSG;
	}
	if (!cJSON_IsObject(object))
		return error_set(error, -EBADMSG, NULL, "%s is no JSON object", what);
	*ret_object = TAKE(object);
	return 0;
}

int json_add_uuid(struct cJSON *parent, const char *name, const struct uuid *value)
{
	char text[UUID_TEXT_BYTES];
	uuid_format(value, text);
	return json_add_text(parent, name, text);
}

int json_add_time(struct cJSON *parent, const char *name, int64_t ns)
{
	char text[UTC_ISO_BYTES];
	utc_format_iso(ns, text);
	return json_add_text(parent, name, text);
}

int json_add_hash(struct cJSON *parent, const char *name, struct hash128 hash)
{
	char text[SEAL_HEX_BYTES + 1];
	hash_format(hash, text);
	return json_add_text(parent, name, text);
}

int json_get_list(const struct json *at, const char *name, unsigned most, size_t item_bytes,
	int (*get)(const struct json *at, void *ret_item, struct error *error), struct error *error,
	void **ret_items, unsigned *ret_count)
{
	struct json array;
	int r = json_get_array(at, name, &array, error);
	if (r < 0)
		return r;
	unsigned count = 0, expected = (unsigned)cJSON_GetArraySize(array.node);
	if (expected > most)
		return json_error(&array, -EBADMSG, error, "more than %u values", most);
	CLEANUP_FREE char *items = calloc((size_t)expected + 1, item_bytes);
	if (!items)
		return -ENOMEM;
	for (struct json item = { 0 }; json_each(&array, &item); count++) {
		r = get(&item, items + count * item_bytes, error);
		if (r < 0)
			return r;
	}
	*ret_items = TAKE(items);
	*ret_count = count;
	return 0;
}

int text_to_u64(const char *text, uint64_t *ret_value)
{
	uint64_t value = 0;
	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10u, &value) ||
			__builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return -EINVAL;
	}
	*ret_value = value;
	return 0;
}

int json_copy_text(
	const struct json *at, const char *name, size_t size, char *ret_text, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	if (strlen(text) >= size)
		return json_error(
			at, -EBADMSG, error, "%s is longer than %zu bytes", name, size - 1);
	strcpy(ret_text, text);
	return 0;
}

int json_get_uuid(
	const struct json *at, const char *name, struct uuid *ret_value, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	if (uuid_parse(text, ret_value) < 0)
		return json_error(at, -EBADMSG, error, "%s is no UUID", name);
	return 0;
}

int json_get_time(const struct json *at, const char *name, int64_t *ret_ns, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	if (utc_parse(text, ret_ns) < 0)
		return json_error(at, -EBADMSG, error, "%s is no time", name);
	return 0;
}

static int hex_half(const char *text, uint64_t *ret_value)
{
	static const char digits[] = "0123456789abcdef";
	uint64_t value = 0;
	for (unsigned i = 0; i < 16; i++) {
		const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
		if (!digit)
			return -EINVAL;
		value = value << 4 | (uint64_t)(digit - digits);
	}
	*ret_value = value;
	return 0;
}

int json_get_hash(
	const struct json *at, const char *name, struct hash128 *ret_hash, struct error *error)
{
	const char *text;
	struct hash128 hash;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	if (strlen(text) != SEAL_HEX_BYTES || hex_half(text, &hash.high) < 0 ||
		hex_half(text + 16, &hash.low) < 0)
		return json_error(at, -EBADMSG, error, "%s is no hash of 32 digits", name);
	*ret_hash = hash;
	return 0;
}
