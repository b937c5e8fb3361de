/*
 * JSON documents that prove themselves: the vault's small objects (vault.json, owner.json,
 * manifests) end in `,"checksum":"<32 hex digits>"}` and a newline; the digits are the XXH3-128
 * (high half first) of every byte before that ending. A flipped bit anywhere is found.
 *
 * Beside that the few field types that these documents have and common/json.h has not. Times are
 * ISO 8601 in UTC with nine digits of fraction; hashes 32 hex digits.
 *
 * Any thread; nothing is kept.
 */
#pragma once

#include <stdint.h>

#include "common/buf.h"
#include "common/checksum.h"
#include "common/error.h"
#include "common/json.h"
#include "common/uuid.h"

/* Appends the document's text. `object` is an object with at least one field. -ENOMEM. */
int sealed_json_format(const struct cJSON *object, struct buf *text);
/* Reads n bytes. `what` names the document in the error. -EBADMSG: the checksum does not hold or
 * it is no such document. json_freep the result. */
int sealed_json_parse(const char *what, const char *text, size_t n, struct error *error,
	struct cJSON **ret_object);

/* Writers: -ENOMEM. */
int json_add_uuid(struct cJSON *parent, const char *name, const struct uuid *value);
int json_add_time(struct cJSON *parent, const char *name, int64_t ns);
int json_add_hash(struct cJSON *parent, const char *name, struct hash128 hash);

/* Readers, as those of common/json.h. */
int json_get_uuid(
	const struct json *at, const char *name, struct uuid *ret_value, struct error *error);
int json_get_time(const struct json *at, const char *name, int64_t *ret_ns, struct error *error);
int json_get_hash(
	const struct json *at, const char *name, struct hash128 *ret_hash, struct error *error);
/* Copies the text if it is shorter than `size`. */
int json_copy_text(
	const struct json *at, const char *name, size_t size, char *ret_text, struct error *error);

/* Reads the array `name`, of at most `most` values, into a list of items of `item_bytes` each, in
 * their order; `get` reads one, into zeros. The list is the caller's to free. */
int json_get_list(const struct json *at, const char *name, unsigned most, size_t item_bytes,
	int (*get)(const struct json *at, void *ret_item, struct error *error), struct error *error,
	void **ret_items, unsigned *ret_count);

/* Decimal digits only. 0 or -EINVAL. */
int text_to_u64(const char *text, uint64_t *ret_value);
