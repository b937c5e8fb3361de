/*
 * A store: the table of functions, each a translation of one call, over one client of azureblob/,
 * and so one thread's. The client tries again what is safe by itself; what is handed back as
 * ambiguous stays so.
 */
#include "appliance/blob_azure_store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/blobs.h"
#include "azureblob/leases.h"
#include "azureblob/objects.h"
#include "azureblob/ranges.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/http_headers.h"

/* One request of the data plane under way, or kept for the next. */
struct azure_request {
	struct azureblob_request azure; /* its context: this */
	struct blob_request *request;
	struct iovec data;
	struct azure_request *next;
};

struct azure_store {
	struct blob_store store;
	struct azureblob *client;
	struct azure_request *idle;
};

static struct azureblob *client_of(struct blob_store *store)
{
	return CONTAINER_OF(store, struct azure_store, store)->client;
}

/* ── errors ──────────────────────────────────────────────────────────────────────────────── */

static int code_of(int r)
{
	switch (r) {
	case -EHOSTUNREACH:
		return -ECONNREFUSED;
	case -EMSGSIZE:
		return -EFBIG;
	case -ERANGE:
		return -EINVAL;
	default:
		return r;
	}
}

int blob_azure_tell(int r, const struct http_error *from, const char *what, struct blob_error *to)
{
	if (r >= 0)
		return r;
	if (from->error == 0)
		error_set(&to->error, r, NULL, "%s: %s", what, strerror(-r));
	else
		azureblob_error_tell(from, what, &to->error);
	to->error.code = code_of(r);
	to->ambiguous = from->ambiguous;
	return to->error.code;
}

/* ── data plane ──────────────────────────────────────────────────────────────────────────── */

static struct azure_request *take_request(struct azure_store *s)
{
	struct azure_request *r = s->idle;
	if (r)
		s->idle = r->next;
	else
		r = calloc(1, sizeof(*r));
	return r;
}

static int azure_submit(struct blob_store *store, struct blob_request *request)
{
	struct azure_store *s = CONTAINER_OF(store, struct azure_store, store);
	struct azure_request *mine = take_request(s);
	const struct azureblob_conditions conditions = {
		.lease_id = request->lease_id, .has_sequence = true, .sequence = request->sequence
	};
	int r;
	if (!mine)
		return -ENOMEM;
	mine->request = request;
	mine->azure.context = mine;
	mine->data = (struct iovec){ request->data, request->length };
	switch (request->verb) {
	case BLOB_PUT_PAGES:
		r = azureblob_put_pages(s->client, &mine->azure, request->blob, request->offset,
			&mine->data, 1, &conditions);
		break;
	case BLOB_CLEAR_PAGES:
		r = azureblob_clear_pages(s->client, &mine->azure, request->blob, request->offset,
			request->length, &conditions);
		break;
	default:
		r = azureblob_get_range(s->client, &mine->azure, request->blob, request->snapshot,
			request->offset, request->data, request->length, false);
		break;
	}
	if (r < 0) {
		mine->next = s->idle;
		s->idle = mine;
		return r;
	}
	request->implementation = mine;
	return 0;
}

static const char *verb_text(enum blob_verb verb)
{
	switch (verb) {
	case BLOB_PUT_PAGES:
		return "writing pages";
	case BLOB_CLEAR_PAGES:
		return "clearing pages";
	default:
		return "reading";
	}
}

static int azure_wait(struct blob_store *store, int timeout_ms, struct blob_request **ret_request)
{
	struct azure_store *s = CONTAINER_OF(store, struct azure_store, store);
	struct azureblob_request *done;
	if (azureblob_pending(s->client) == 0)
		return -EAGAIN;
	int r = azureblob_wait(s->client, timeout_ms, &done);
	if (r < 0)
		return r == -ETIMEDOUT || r == -EINTR ? -EAGAIN : r;
	struct azure_request *mine = done->context;
	struct blob_request *request = mine->request;
	char what[300];
	snprintf(what, sizeof(what), "%s %s", verb_text(request->verb), request->blob);
	request->error = (struct blob_error){ 0 };
	request->result =
		blob_azure_tell(done->call.result, &done->call.error, what, &request->error);
	request->implementation = NULL;
	mine->next = s->idle;
	s->idle = mine;
	*ret_request = request;
	return 0;
}

/* ── page blobs ──────────────────────────────────────────────────────────────────────────── */

static int azure_create(
	struct blob_store *store, const char *blob, uint64_t size_bytes, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_create(client_of(store), blob, size_bytes, NULL, &e);
	return blob_azure_tell(r, &e, blob, error);
}

static int azure_resize(struct blob_store *store, const char *blob, uint64_t size_bytes,
	const char *lease_id, const char *if_match, struct blob_error *error)
{
	struct http_error e = { 0 };
	const struct azureblob_conditions conditions = { .lease_id = lease_id,
		.if_match = if_match };
	int r = azureblob_resize(client_of(store), blob, size_bytes, &conditions, &e);
	return blob_azure_tell(r, &e, blob, error);
}

static int azure_properties(struct blob_store *store, const char *blob, struct blob_error *error,
	struct blob_properties *ret_properties)
{
	struct http_error e = { 0 };
	struct azureblob_properties p = { 0 };
	int r = azureblob_get_properties(client_of(store), blob, NULL, &e, &p);
	if (r < 0)
		return blob_azure_tell(r, &e, blob, error);
	*ret_properties = (struct blob_properties){
		.size_bytes = p.size_bytes, .sequence = p.sequence, .leased = p.leased
	};
	snprintf(ret_properties->etag, sizeof(ret_properties->etag), "%s", p.etag);
	azureblob_properties_free(&p);
	return 0;
}

static int azure_raise_sequence(struct blob_store *store, const char *blob, const char *lease_id,
	int64_t at_least, struct blob_error *error, int64_t *ret_sequence)
{
	struct http_error e = { 0 };
	const struct azureblob_conditions conditions = { .lease_id = lease_id };
	int r = azureblob_set_sequence(client_of(store), blob, AZUREBLOB_SEQUENCE_MAX, at_least,
		&conditions, &e, ret_sequence);
	return blob_azure_tell(r, &e, blob, error);
}

static int metadata_of(
	const struct blob_metadata *metadata, unsigned count, struct http_headers *ret_headers)
{
	int r = 0;
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = http_headers_add(ret_headers, metadata[i].name, metadata[i].value);
	return r;
}

static int azure_snapshot(struct blob_store *store, const char *blob, const char *lease_id,
	const struct blob_metadata *metadata, unsigned metadata_count, struct blob_error *error,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	struct http_error e = { 0 };
	CLEANUP(http_headers_free) struct http_headers headers = { 0 };
	const struct azureblob_conditions conditions = { .lease_id = lease_id };
	int r = metadata_of(metadata, metadata_count, &headers);
	if (r == 0)
		r = azureblob_snapshot(
			client_of(store), blob, &headers, &conditions, &e, ret_snapshot);
	return blob_azure_tell(r, &e, blob, error);
}

static int azure_delete_blob(struct blob_store *store, const char *blob, const char *snapshot,
	const char *lease_id, struct blob_error *error)
{
	struct http_error e = { 0 };
	const struct azureblob_conditions conditions = { .lease_id = lease_id };
	int r = azureblob_delete(
		client_of(store), blob, snapshot, AZUREBLOB_DELETE_ALL, &conditions, &e);
	return blob_azure_tell(r, &e, blob, error);
}

struct each_range {
	int (*each)(void *context, const struct blob_range *range);
	void *context;
};

static int take_range(void *context, const struct azureblob_range *range)
{
	const struct each_range *e = context;
	const struct blob_range mine = { range->offset, range->length, range->cleared };
	return e->each(e->context, &mine);
}

static int azure_ranges(struct blob_store *store, const char *blob, const char *snapshot,
	const char *previous, uint64_t offset, uint64_t length,
	int (*each)(void *context, const struct blob_range *range), void *context,
	struct blob_error *error)
{
	struct http_error e = { 0 };
	struct each_range mine = { each, context };
	const struct azureblob_ranges_options options = {
		.snapshot = snapshot, .previous = previous, .offset = offset, .length = length
	};
	int r = azureblob_list_ranges(client_of(store), blob, &options, take_range, &mine, &e);
	return blob_azure_tell(r, &e, blob, error);
}

/* ── leases ──────────────────────────────────────────────────────────────────────────────── */

static int azure_lease_acquire(
	struct blob_store *store, const char *blob, const char *lease_id, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_lease_acquire(
		client_of(store), blob, lease_id, AZUREBLOB_LEASE_FOREVER, &e);
	return blob_azure_tell(r, &e, blob, error);
}

static int azure_lease_change(struct blob_store *store, const char *blob, const char *lease_id,
	const char *new_lease_id, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_lease_change(client_of(store), blob, lease_id, new_lease_id, &e);
	return blob_azure_tell(r, &e, blob, error);
}

static int azure_lease_release(
	struct blob_store *store, const char *blob, const char *lease_id, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_lease_release(client_of(store), blob, lease_id, &e);
	return blob_azure_tell(r, &e, blob, error);
}

static int azure_lease_break(struct blob_store *store, const char *blob, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_lease_break(client_of(store), blob, &e);
	return blob_azure_tell(r, &e, blob, error);
}

/* ── listing ─────────────────────────────────────────────────────────────────────────────── */

#define METADATA_MAX 16u

struct each_item {
	int (*each)(void *context, const struct blob_item *item);
	void *context;
};

static int take_item(void *context, const struct azureblob_item *item)
{
	const struct each_item *e = context;
	struct blob_metadata metadata[METADATA_MAX];
	struct blob_item mine = { .blob = item->name,
		.snapshot = item->snapshot,
		.etag = item->etag,
		.size_bytes = item->size_bytes,
		.metadata = metadata };
	if (item->is_prefix)
		return 0;
	for (size_t i = 0; item->metadata && i < item->metadata->count && i < METADATA_MAX; i++)
		metadata[mine.metadata_count++] =
			(struct blob_metadata){ http_headers_name(item->metadata, i),
				http_headers_value(item->metadata, i) };
	return e->each(e->context, &mine);
}

static int azure_list(struct blob_store *store, const char *prefix, unsigned flags,
	int (*each)(void *context, const struct blob_item *item), void *context,
	struct blob_error *error)
{
	struct http_error e = { 0 };
	struct each_item mine = { each, context };
	const struct azureblob_list_options options = { .prefix = prefix,
		.snapshots = flags & BLOB_LIST_SNAPSHOTS,
		.metadata = flags & BLOB_LIST_METADATA };
	int r = azureblob_list(client_of(store), &options, take_item, &mine, &e);
	return blob_azure_tell(r, &e, prefix, error);
}

/* ── small objects ───────────────────────────────────────────────────────────────────────── */

/* if_match of blob.h: an ETag, "*", "" (must not exist) or NULL. */
static struct azureblob_conditions conditions_of(const char *if_match)
{
	struct azureblob_conditions conditions = { 0 };
	if (if_match && if_match[0] == '\0')
		conditions.if_none_match = "*";
	else
		conditions.if_match = if_match;
	return conditions;
}

static int azure_object_put(struct blob_store *store, const char *name, const void *data, size_t n,
	const char *if_match, const struct blob_metadata *metadata, unsigned metadata_count,
	struct blob_error *error, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct http_error e = { 0 };
	CLEANUP(http_headers_free) struct http_headers headers = { 0 };
	const struct azureblob_conditions conditions = conditions_of(if_match);
	int r = metadata_of(metadata, metadata_count, &headers);
	if (r == 0)
		r = azureblob_object_put(
			client_of(store), name, data, n, &headers, &conditions, &e, ret_etag);
	return blob_azure_tell(r, &e, name, error);
}

static int azure_object_get(struct blob_store *store, const char *name, size_t limit,
	struct blob_error *error, struct buf *ret_data, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct http_error e = { 0 };
	size_t before = ret_data->len;
	int r = azureblob_object_get(
		client_of(store), name, MAX(limit, (size_t)1), &e, ret_data, ret_etag);
	if (r < 0 && ret_data->len > before)
		ret_data->len = before;
	return blob_azure_tell(r, &e, name, error);
}

static int azure_object_read(struct blob_store *store, const char *name, uint64_t offset,
	void *data, size_t n, struct blob_error *error, size_t *ret_n,
	char ret_etag[static BLOB_ETAG_BYTES])
{
	struct http_error e = { 0 };
	int r = azureblob_object_read(client_of(store), name, offset, data, n, &e, ret_n, ret_etag);
	return blob_azure_tell(r, &e, name, error);
}

static int azure_object_delete(
	struct blob_store *store, const char *name, const char *if_match, struct blob_error *error)
{
	struct http_error e = { 0 };
	const struct azureblob_conditions conditions = conditions_of(if_match);
	int r = azureblob_delete(
		client_of(store), name, NULL, AZUREBLOB_DELETE_ALONE, &conditions, &e);
	return blob_azure_tell(r, &e, name, error);
}

static int azure_object_stage(struct blob_store *store, const char *name, uint64_t series,
	unsigned part, const void *data, size_t n, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_object_put_block(client_of(store), name, series, part, data, n, &e);
	return blob_azure_tell(r, &e, name, error);
}

static int azure_object_commit(struct blob_store *store, const char *name, uint64_t series,
	unsigned parts, const char *if_match, struct blob_error *error)
{
	struct http_error e = { 0 };
	const struct azureblob_conditions conditions = conditions_of(if_match);
	int r = azureblob_object_commit(
		client_of(store), name, series, parts, NULL, &conditions, &e, NULL);
	return blob_azure_tell(r, &e, name, error);
}

static int azure_copy(struct blob_store *store, const char *blob, const char *snapshot,
	const char *new_blob, struct blob_error *error)
{
	struct http_error e = { 0 };
	int r = azureblob_copy(client_of(store), blob, snapshot, new_blob, &e);
	return blob_azure_tell(r, &e, new_blob, error);
}

static void azure_free(struct blob_store *store)
{
	struct azure_store *s = CONTAINER_OF(store, struct azure_store, store);
	azureblob_free(s->client);
	while (s->idle) {
		struct azure_request *mine = s->idle;
		s->idle = mine->next;
		azureblob_request_free(&mine->azure);
		free(mine);
	}
	free(s);
}

static const struct blob_store_ops store_ops = {
	.submit = azure_submit,
	.wait = azure_wait,
	.create = azure_create,
	.resize = azure_resize,
	.properties = azure_properties,
	.raise_sequence = azure_raise_sequence,
	.snapshot = azure_snapshot,
	.delete_blob = azure_delete_blob,
	.ranges = azure_ranges,
	.lease_acquire = azure_lease_acquire,
	.lease_change = azure_lease_change,
	.lease_release = azure_lease_release,
	.lease_break = azure_lease_break,
	.list = azure_list,
	.object_put = azure_object_put,
	.object_get = azure_object_get,
	.object_read = azure_object_read,
	.object_delete = azure_object_delete,
	.object_stage = azure_object_stage,
	.object_commit = azure_object_commit,
	.copy = azure_copy,
	.free = azure_free,
};

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

struct azureblob *blob_azure_store_client(struct blob_store *store)
{
	return client_of(store);
}

int blob_azure_store_new(
	const struct azureblob_options *options, struct error *error, struct blob_store **ret_store)
{
	struct azure_store *s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(error, -ENOMEM, NULL, "not enough memory");
	s->store.ops = &store_ops;
	int r = azureblob_new(options, &s->client, error);
	if (r < 0) {
		free(s);
		return r;
	}
	*ret_store = &s->store;
	return 0;
}
