/*
 * Readers and writers over cJSON. The text has passed json_check before cJSON reads it, so
 * cJSON's lenience never shows; objects are searched by hand, because cJSON's own search ignores
 * case and stops at the first of two.
 */
#include "common/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json_check.h"

/* Up to here doubles hold every whole number. */
#define EXACT_MAX (1ll << 53)
/* Up to here cJSON also prints it right: it tries 15 digits first and takes a result that is off
 * by one for equal from 2^52 on. */
#define PRINT_MAX (1ll << 51)
#define PATH_BYTES 256

const struct json_limits json_limits_default = { .bytes = 64 * MIB, .depth = 32 };

int json_parse(const char *text, size_t n, const struct json_limits *limits,
	struct cJSON **ret_json, struct error *error)
{
	if (!limits)
		limits = &json_limits_default;
	if (n > limits->bytes)
		return error_set(error, -E2BIG, NULL, "%zu bytes of JSON are more than allowed", n);
	int r = json_check(text, n, limits->depth, error);
	if (r < 0)
		return r;
	struct cJSON *json = cJSON_ParseWithLength(text, n);
	if (!json)
		return error_set(error, -ENOMEM, NULL, "out of memory while reading JSON");
	*ret_json = json;
	return 0;
}

void json_freep(struct cJSON **json)
{
	cJSON_Delete(*json);
}

void json_root(const struct cJSON *json, const char *name, struct json *ret_at)
{
	*ret_at = (struct json){ .node = json, .name = name, .index = -1 };
}

/* Writes the path from the root's child down; returns the length. Cut at the room there is. */
static size_t format_path(const struct json *at, char *path, size_t room)
{
	if (!at->parent) {
		path[0] = '\0';
		return 0;
	}
	size_t used = format_path(at->parent, path, room);
	int n;
	if (at->index >= 0)
		n = snprintf(path + used, room - used, "[%d]", at->index);
	else
		n = snprintf(path + used, room - used, used ? ".%s" : "%s", at->name);
	return n < 0 ? used : MIN(used + (size_t)n, room - 1);
}

int json_error(const struct json *at, int code, struct error *error, const char *format, ...)
{
	if (!error)
		return code;
	char path[PATH_BYTES];
	char message[256];
	size_t n = format_path(at, path, sizeof(path));
	const struct json *root = at;
	while (root->parent)
		root = root->parent;
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	return error_set(error, code, NULL, n > 0 ? "%s: %s: %s" : "%s: %s%s",
		root->name ? root->name : "JSON", path, message);
}

/* 1 if the field is there and not null. */
static int find(const struct json *at, const char *name, struct json *ret, struct error *error)
{
	if (!cJSON_IsObject(at->node))
		return json_error(at, -EBADMSG, error, "must be an object");
	struct json found = { .parent = at, .name = name, .index = -1 };
	for (const struct cJSON *item = at->node->child; item; item = item->next) {
		if (strcmp(item->string, name) != 0)
			continue;
		if (found.node)
			return json_error(&found, -EBADMSG, error, "stands there twice");
		found.node = item;
	}
	if (!found.node || cJSON_IsNull(found.node))
		return 0;
	*ret = found;
	return 1;
}

static int get(const struct json *at, const char *name, struct json *ret, struct error *error)
{
	int r = find(at, name, ret, error);
	if (r == 0) {
		struct json missing = { .parent = at, .name = name, .index = -1 };
		return json_error(&missing, -ENOENT, error, "is missing");
	}
	return MIN(r, 0);
}

int json_as_text(const struct json *at, const char **ret, struct error *error)
{
	if (!cJSON_IsString(at->node))
		return json_error(at, -EBADMSG, error, "must be a string");
	*ret = at->node->valuestring;
	return 0;
}

static bool is_decimal(const char *text)
{
	if (*text == '-')
		text++;
	size_t digits = strspn(text, "0123456789");
	return digits > 0 && text[digits] == '\0' && (text[0] != '0' || digits == 1);
}

int json_as_u64(const struct json *at, uint64_t *ret, struct error *error)
{
	const struct cJSON *node = at->node;
	if (cJSON_IsNumber(node)) {
		double value = node->valuedouble;
		if (value >= 0 && value <= (double)EXACT_MAX && (double)(int64_t)value == value) {
			*ret = (uint64_t)value;
			return 0;
		}
	} else if (cJSON_IsString(node) && is_decimal(node->valuestring) &&
		   node->valuestring[0] != '-') {
		errno = 0;
		unsigned long long value = strtoull(node->valuestring, NULL, 10);
		if (errno == 0) {
			*ret = value;
			return 0;
		}
	}
	return json_error(at, -EBADMSG, error, "must be an unsigned whole number of 64 bits");
}

int json_as_i64(const struct json *at, int64_t *ret, struct error *error)
{
	const struct cJSON *node = at->node;
	if (cJSON_IsNumber(node)) {
		double value = node->valuedouble;
		if (value >= -(double)EXACT_MAX && value <= (double)EXACT_MAX &&
			(double)(int64_t)value == value) {
			*ret = (int64_t)value;
			return 0;
		}
	} else if (cJSON_IsString(node) && is_decimal(node->valuestring)) {
		errno = 0;
		long long value = strtoll(node->valuestring, NULL, 10);
		if (errno == 0) {
			*ret = value;
			return 0;
		}
	}
	return json_error(at, -EBADMSG, error, "must be a whole number of 64 bits");
}

int json_as_bool(const struct json *at, bool *ret, struct error *error)
{
	if (!cJSON_IsBool(at->node))
		return json_error(at, -EBADMSG, error, "must be true or false");
	*ret = cJSON_IsTrue(at->node);
	return 0;
}

int json_as_object(const struct json *at, struct error *error)
{
	return cJSON_IsObject(at->node) ? 0 : json_error(at, -EBADMSG, error, "must be an object");
}

int json_as_array(const struct json *at, struct error *error)
{
	return cJSON_IsArray(at->node) ? 0 : json_error(at, -EBADMSG, error, "must be an array");
}

/* For each type, "get" and "find" are the same few lines around its json_as_…. */
#define READERS(suffix, type)                                                                  \
	int json_get_##suffix(const struct json *at, const char *name, __typeof__(type) *ret,  \
		struct error *error)                                                           \
	{                                                                                      \
		struct json field;                                                             \
		int r = get(at, name, &field, error);                                          \
		return r < 0 ? r : json_as_##suffix(&field, ret, error);                       \
	}                                                                                      \
	int json_find_##suffix(const struct json *at, const char *name, __typeof__(type) *ret, \
		struct error *error)                                                           \
	{                                                                                      \
		struct json field;                                                             \
		int r = find(at, name, &field, error);                                         \
		if (r <= 0)                                                                    \
			return r;                                                              \
		r = json_as_##suffix(&field, ret, error);                                      \
		return r < 0 ? r : 1;                                                          \
	}

READERS(text, const char *)
READERS(u64, uint64_t)
READERS(i64, int64_t)
READERS(bool, bool)

#define NESTED_READERS(suffix)                                                                  \
	int json_get_##suffix(                                                                  \
		const struct json *at, const char *name, struct json *ret, struct error *error) \
	{                                                                                       \
		struct json field;                                                              \
		int r = get(at, name, &field, error);                                           \
		if (r == 0)                                                                     \
			r = json_as_##suffix(&field, error);                                    \
		if (r == 0)                                                                     \
			*ret = field;                                                           \
		return r;                                                                       \
	}                                                                                       \
	int json_find_##suffix(                                                                 \
		const struct json *at, const char *name, struct json *ret, struct error *error) \
	{                                                                                       \
		struct json field;                                                              \
		int r = find(at, name, &field, error);                                          \
		if (r <= 0)                                                                     \
			return r;                                                               \
		r = json_as_##suffix(&field, error);                                            \
		if (r < 0)                                                                      \
			return r;                                                               \
		*ret = field;                                                                   \
		return 1;                                                                       \
	}

NESTED_READERS(object)
NESTED_READERS(array)

bool json_each(const struct json *at, struct json *item)
{
	bool in_array = cJSON_IsArray(at->node);
	const struct cJSON *next = item->node ? item->node->next : at->node->child;
	if (!next)
		return false;
	int index = item->node ? item->index + 1 : 0;
	*item = (struct json){
		.node = next, .parent = at, .name = next->string, .index = in_array ? index : -1
	};
	return true;
}

int json_only(const struct json *at, const char *const names[], struct error *error)
{
	for (struct json item = { 0 }; json_each(at, &item);) {
		size_t i = 0;
		while (names[i] && (!item.name || strcmp(names[i], item.name) != 0))
			i++;
		if (!names[i])
			return json_error(&item, -EBADMSG, error, "is not known here");
	}
	return 0;
}

/* Takes `item` over, also when it fails. */
static int add(struct cJSON *parent, const char *name, struct cJSON *item)
{
	if (!item)
		return -ENOMEM;
	bool done = name ? cJSON_AddItemToObject(parent, name, item)
			 : cJSON_AddItemToArray(parent, item);
	if (!done)
		cJSON_Delete(item);
	return done ? 0 : -ENOMEM;
}

int json_add_text(struct cJSON *parent, const char *name, const char *text)
{
	return add(parent, name, cJSON_CreateString(text));
}

int json_add_u64(struct cJSON *parent, const char *name, uint64_t value)
{
	char text[24];
	if (value <= (uint64_t)PRINT_MAX)
		return add(parent, name, cJSON_CreateNumber((double)value));
	snprintf(text, sizeof(text), "%" PRIu64, value);
	return json_add_text(parent, name, text);
}

int json_add_i64(struct cJSON *parent, const char *name, int64_t value)
{
	char text[24];
	if (value >= -PRINT_MAX && value <= PRINT_MAX)
		return add(parent, name, cJSON_CreateNumber((double)value));
	snprintf(text, sizeof(text), "%" PRId64, value);
	return json_add_text(parent, name, text);
}

int json_add_bool(struct cJSON *parent, const char *name, bool value)
{
	return add(parent, name, cJSON_CreateBool(value));
}

int json_add_object(struct cJSON *parent, const char *name, struct cJSON **ret_object)
{
	struct cJSON *item = cJSON_CreateObject();
	int r = add(parent, name, item);
	if (r == 0)
		*ret_object = item;
	return r;
}

int json_add_array(struct cJSON *parent, const char *name, struct cJSON **ret_array)
{
	struct cJSON *item = cJSON_CreateArray();
	int r = add(parent, name, item);
	if (r == 0)
		*ret_array = item;
	return r;
}

int json_new_object(struct cJSON **ret_json)
{
	struct cJSON *json = cJSON_CreateObject();
	if (!json)
		return -ENOMEM;
	*ret_json = json;
	return 0;
}

int json_print(const struct cJSON *json, bool for_people, struct buf *b)
{
	char *text = for_people ? cJSON_Print(json) : cJSON_PrintUnformatted(json);
	if (!text)
		return -ENOMEM;
	int r = buf_append_text(b, text);
	cJSON_free(text);
	return r;
}
