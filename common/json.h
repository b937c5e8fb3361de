/*
 * JSON as the project reads and writes it: strict, and exact for 64-bit integers.
 *
 * cJSON holds numbers as doubles, which are exact up to 2^53 (and prints them so up to 2^52). So
 * integers beyond 2^51 are written as strings of decimal digits, and every integer is read from
 * either form.
 *
 * A value is read through a cursor that knows its way from the root, so that an error names the
 * field: `vault.json: disks[2].size: must be an unsigned whole number`.
 *
 *	CLEANUP(json_freep) struct cJSON *json = NULL;
 *	struct json root, disk;
 *	int r = json_parse(text, n, NULL, &json, error);
 *	json_root(json, "vault.json", &root);
 *	r = json_get_object(&root, "disk", &disk, error);
 *	r = json_get_u64(&disk, "size", &size, error);
 *
 * Names are compared exactly; a name that stands twice in an object is an error when it is read.
 * "Get" wants the field to be there (-ENOENT otherwise, with `error` filled); "find" leaves
 * `*ret` alone and returns 0 if it is missing or null, 1 if it was read. Wrong types and ranges
 * are -EBADMSG. `error` may be NULL. Texts are borrowed from the document.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

struct cJSON;

struct json_limits {
	size_t bytes;
	unsigned depth; /* a lone scalar is 0 deep */
};

/* What NULL limits stand for: 64 MiB, 32 deep. */
extern const struct json_limits json_limits_default;

/* A cursor: where one is, and how one came there. Borrows the document and its parents. */
struct json {
	const struct cJSON *node;
	const struct json *parent; /* NULL at the root */
	const char *name;          /* in the parent; at the root, the document's own */
	int index;                 /* in a parent that is an array, else -1 */
};

/* Reads one document, all of RFC 8259 and nothing more: valid UTF-8, no comments, no trailing
 * anything, no \u0000. 0, -EBADMSG with line and column, -E2BIG beyond a limit, -ENOMEM. Any
 * thread. */
int json_parse(const char *text, size_t n, const struct json_limits *limits,
	struct cJSON **ret_json, struct error *error);
/* For CLEANUP; NULL is fine. */
void json_freep(struct cJSON **json);

/* `name` stands before the path in errors; borrowed. */
void json_root(const struct cJSON *json, const char *name, struct json *ret_at);

/* The field of that name of the object `at`, which must be there. 0, -ENOENT or -EBADMSG. Any
 * thread that has the document. */
int json_get_text(const struct json *at, const char *name, const char **ret, struct error *error);
int json_get_u64(const struct json *at, const char *name, uint64_t *ret, struct error *error);
int json_get_i64(const struct json *at, const char *name, int64_t *ret, struct error *error);
int json_get_bool(const struct json *at, const char *name, bool *ret, struct error *error);
int json_get_object(const struct json *at, const char *name, struct json *ret, struct error *error);
int json_get_array(const struct json *at, const char *name, struct json *ret, struct error *error);

/* The same if it is there. 1, 0 (missing or null: `*ret` is left alone) or -EBADMSG. */
int json_find_text(const struct json *at, const char *name, const char **ret, struct error *error);
int json_find_u64(const struct json *at, const char *name, uint64_t *ret, struct error *error);
int json_find_i64(const struct json *at, const char *name, int64_t *ret, struct error *error);
int json_find_bool(const struct json *at, const char *name, bool *ret, struct error *error);
int json_find_object(
	const struct json *at, const char *name, struct json *ret, struct error *error);
int json_find_array(const struct json *at, const char *name, struct json *ret, struct error *error);

/* Walks an array or an object: the first call with `ret->node` NULL, then with the last item.
 * False at the end.
 *
 *	for (struct json item = {0}; json_each(&array, &item);) */
bool json_each(const struct json *at, struct json *item);
/* The cursor's own value. As the "get" functions, but the value is there. */
int json_as_text(const struct json *at, const char **ret, struct error *error);
int json_as_u64(const struct json *at, uint64_t *ret, struct error *error);
int json_as_i64(const struct json *at, int64_t *ret, struct error *error);
int json_as_bool(const struct json *at, bool *ret, struct error *error);
/* 0 if it is an object (an array), else -EBADMSG. */
int json_as_object(const struct json *at, struct error *error);
int json_as_array(const struct json *at, struct error *error);

/* -EBADMSG naming the first field that is not in `names`, a NULL-ended list. */
int json_only(const struct json *at, const char *const names[], struct error *error);

/* Fills `error` with "<document>: <path>: <message>" and returns `code`: for rules of the
 * caller's own. */
int json_error(const struct json *at, int code, struct error *error, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * Writing: objects and arrays are built with cJSON's own calls; these add what cJSON would get
 * wrong, and tell failures as -ENOMEM. With `name` NULL, `parent` is an array.
 */
int json_add_text(struct cJSON *parent, const char *name, const char *text);
int json_add_u64(struct cJSON *parent, const char *name, uint64_t value);
int json_add_i64(struct cJSON *parent, const char *name, int64_t value);
int json_add_bool(struct cJSON *parent, const char *name, bool value);
int json_add_object(struct cJSON *parent, const char *name, struct cJSON **ret_object);
int json_add_array(struct cJSON *parent, const char *name, struct cJSON **ret_array);
/* A new root object. */
int json_new_object(struct cJSON **ret_json);
/* Appends the document, indented by tabs for people or on one line for machines. */
int json_print(const struct cJSON *json, bool for_people, struct buf *b);
