/*
 * The vault's way of talking to the store: small objects and reads, tried again where a later
 * try may mend it, with the result of a mutation made certain before it is reported.
 *
 * Any thread, with a store of its own.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/backoff.h"

int vault_fail(struct error *error, int r, const struct blob_error *e, const char *format, ...)
{
	char text[256];
	va_list arguments;
	if (!error)
		return r;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (e->error.code == 0)
		return error_set(error, r, NULL, "%s: %s", text, strerror(-r));
	*error = e->error;
	error_prefix(error, "%s", text);
	error->code = r;
	return r;
}

int vault_object_get(struct blob_store *store, const char *name, size_t limit, struct error *error,
	struct buf *ret_data, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	backoff_start(&backoff, store, NULL);
	do {
		r = store->ops->object_get(store, name, limit, &e, ret_data, ret_etag);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	return r < 0 ? vault_fail(error, r, &e, "cannot read %s", name) : 0;
}

/* After a refused put: is what is there what we wanted to put? 0; `refusal` if not; or why that
 * could not be told. */
static int look_whose(struct blob_store *store, const char *name, const struct buf *data,
	int refusal, struct blob_error *error, char ret_etag[static BLOB_ETAG_BYTES])
{
	CLEANUP(buf_free) struct buf there = { 0 };
	struct error why = { 0 };
	int r = vault_object_get(store, name, data->len, &why, &there, ret_etag);
	if (r == -EFBIG || r == -ENOENT)
		return refusal;
	if (r < 0) {
		*error = (struct blob_error){ .error = why, .ambiguous = true };
		return r;
	}
	bool ours = there.len == data->len && memcmp(there.data, data->data, data->len) == 0;
	return ours ? 0 : refusal;
}

int vault_object_put(struct blob_store *store, const char *name, const struct buf *data,
	const char *if_match, const struct blob_metadata *metadata, unsigned metadata_count,
	struct error *error, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	char etag[BLOB_ETAG_BYTES];
	int r;
	backoff_start(&backoff, store, NULL);
	do {
		r = store->ops->object_put(store, name, data->data, data->len, if_match, metadata,
			metadata_count, &e, etag);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r == -EEXIST || r == -ESTALE)
		r = look_whose(store, name, data, r, &e, etag);
	if (r < 0)
		return vault_fail(error, r, &e, "cannot write %s", name);
	memcpy(ret_etag, etag, sizeof(etag));
	return 0;
}

int vault_object_etag(struct blob_store *store, const char *name, struct error *error,
	char ret_etag[static BLOB_ETAG_BYTES])
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	char byte, etag[BLOB_ETAG_BYTES];
	size_t n;
	int r;
	backoff_start(&backoff, store, NULL);
	do {
		r = store->ops->object_read(store, name, 0, &byte, 1, &e, &n, etag);
	} while (r < 0 && backoff_again(&backoff, r, &e));
	if (r < 0)
		return vault_fail(error, r, &e, "cannot look at %s", name);
	memcpy(ret_etag, etag, sizeof(etag));
	return 0;
}

int vault_object_delete(
	struct blob_store *store, const char *name, const char *etag, struct error *error)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	if (!etag[0])
		return error_set(
			error, -EBADMSG, NULL, "the service does not tell the ETag of %s", name);
	backoff_start(&backoff, store, NULL);
	do {
		r = store->ops->object_delete(store, name, etag, &e);
	} while (r < 0 && r != -ENOENT && backoff_again(&backoff, r, &e));
	if (r == -ESTALE) {
		char there[BLOB_ETAG_BYTES];
		r = vault_object_etag(store, name, error, there);
		if (r < 0)
			return r == -ENOENT ? 0 : r;
		return error_set(error, -ESTALE, "see that only one appliance uses this group",
			"%s was written anew while it was to be deleted", name);
	}
	return r < 0 && r != -ENOENT ? vault_fail(error, r, &e, "cannot delete %s", name) : 0;
}

int vault_snapshot_delete(
	struct blob_store *store, const char *blob, const char *snapshot, struct error *error)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	int r;
	backoff_start(&backoff, store, NULL);
	do {
		r = store->ops->delete_blob(store, blob, snapshot, NULL, &e);
	} while (r < 0 && r != -ENOENT && backoff_again(&backoff, r, &e));
	return r < 0 && r != -ENOENT
		       ? vault_fail(error, r, &e, "cannot delete %s snapshot %s", blob, snapshot)
		       : 0;
}

/* Sends those that are not done (result ≠ 0) and waits for all. */
static void read_once(struct blob_store *store, struct blob_request *requests, unsigned count)
{
	unsigned under_way = 0;
	for (unsigned i = 0; i < count; i++) {
		struct blob_request *request = &requests[i];
		if (request->result == 0)
			continue;
		request->error = (struct blob_error){ 0 };
		int r = store->ops->submit(store, request);
		if (r < 0)
			request->result = r;
		else
			under_way++;
	}
	while (under_way > 0) {
		struct blob_request *done;
		if (store->ops->wait(store, -1, &done) == 0)
			under_way--;
	}
}

int vault_read(struct blob_store *store, struct blob_request *requests, unsigned count,
	struct error *error)
{
	struct backoff backoff;
	struct blob_request *failed;
	for (unsigned i = 0; i < count; i++) {
		requests[i].verb = BLOB_READ;
		requests[i].result = -EINPROGRESS;
	}
	backoff_start(&backoff, store, NULL);
	do {
		read_once(store, requests, count);
		failed = NULL;
		for (unsigned i = 0; i < count; i++)
			if (requests[i].result < 0)
				failed = &requests[i];
	} while (failed && backoff_again(&backoff, failed->result, &failed->error));
	if (!failed)
		return 0;
	return vault_fail(error, failed->result, &failed->error, "cannot read %s%s%s at %llu",
		failed->blob, failed->snapshot ? " snapshot " : "",
		failed->snapshot ? failed->snapshot : "", (unsigned long long)failed->offset);
}
