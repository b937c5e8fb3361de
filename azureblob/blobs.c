/*
 * Calls on whole blobs, each one request; copying polls.
 */
#include "azureblob/blobs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "azureblob/call.h"
#include "azureblob/client_internal.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/utc.h"

#define CLEANUP_REQUEST CLEANUP(azureblob_request_free)

int azureblob_container_create(struct azureblob *client, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "PUT", NULL, HTTP_REPEATABLE);
	return http_call_perform(&request.call, error);
}

int azureblob_container_check(struct azureblob *client, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "GET", NULL, HTTP_READS);
	return http_call_perform(&request.call, error);
}

int azureblob_container_delete(struct azureblob *client, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "DELETE", NULL, HTTP_REPEATABLE);
	return http_call_perform(&request.call, error);
}

static int check_size(uint64_t size_bytes, struct http_error *error)
{
	if (is_aligned(size_bytes, SECTOR_BYTES) && size_bytes <= 8 * TIB)
		return 0;
	return http_error_set(error, -EINVAL,
		"%" PRIu64 " bytes: a page blob's size is a multiple of 512, at most 8 TiB",
		size_bytes);
}

int azureblob_create(struct azureblob *client, const char *blob, uint64_t size_bytes,
	const struct http_headers *metadata, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	int r = check_size(size_bytes, error);
	if (r < 0)
		return r;
	azureblob_call_begin(client, &request, "PUT", blob, HTTP_ONCE);
	http_call_header(&request.call, "x-ms-blob-type", "PageBlob");
	http_call_headerf(&request.call, "x-ms-blob-content-length", "%" PRIu64, size_bytes);
	http_call_header(&request.call, "If-None-Match", "*");
	azureblob_call_metadata(&request, metadata);
	r = http_call_perform(&request.call, error);
	/* The service answers 409 BlobAlreadyExists or 412 ConditionNotMet. */
	if (r == -ESTALE) {
		r = -EEXIST;
		if (error)
			error->error = r;
	}
	return r;
}

int azureblob_resize(struct azureblob *client, const char *blob, uint64_t size_bytes,
	const struct azureblob_conditions *conditions, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	int r = check_size(size_bytes, error);
	if (r < 0)
		return r;
	azureblob_call_begin(client, &request, "PUT", blob,
		conditions && conditions->if_match ? HTTP_FENCED : HTTP_REPEATABLE);
	http_call_query(&request.call, "comp", "properties");
	http_call_headerf(&request.call, "x-ms-blob-content-length", "%" PRIu64, size_bytes);
	azureblob_call_conditions(&request, conditions);
	return http_call_perform(&request.call, error);
}

void azureblob_properties_free(struct azureblob_properties *properties)
{
	http_headers_free(&properties->metadata);
}

static void copy_header(
	const struct azureblob_request *request, const char *header, char *text, size_t room)
{
	const char *value = azureblob_call_answer(request, header);
	snprintf(text, room, "%s", value ? value : "");
}

static bool read_number(const char *text, uint64_t *ret_value)
{
	if (!text || text[0] == '\0' || strspn(text, "0123456789") != strlen(text))
		return false;
	errno = 0;
	unsigned long long value = strtoull(text, NULL, 10);
	if (errno != 0)
		return false;
	*ret_value = value;
	return true;
}

static int read_metadata(const struct http_headers *answer, struct http_headers *ret_metadata)
{
	static const char prefix[] = "x-ms-meta-";
	int r = 0;
	for (size_t i = 0; r == 0 && i < answer->count; i++) {
		const char *name = http_headers_name(answer, i);
		if (strncasecmp(name, prefix, strlen(prefix)) == 0 && name[strlen(prefix)])
			r = http_headers_add(
				ret_metadata, name + strlen(prefix), http_headers_value(answer, i));
	}
	return r;
}

int azureblob_get_properties(struct azureblob *client, const char *blob, const char *snapshot,
	struct http_error *error, struct azureblob_properties *ret_properties)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	uint64_t sequence = 0;
	azureblob_call_begin(client, &request, "HEAD", blob, HTTP_READS);
	http_call_query(&request.call, "snapshot", snapshot);
	int r = http_call_perform(&request.call, error);
	if (r < 0)
		return r;
	const char *type = azureblob_call_answer(&request, "x-ms-blob-type");
	const char *modified = azureblob_call_answer(&request, "Last-Modified");
	p.is_page_blob = type && strcmp(type, "PageBlob") == 0;
	if (!read_number(azureblob_call_answer(&request, "Content-Length"), &p.size_bytes))
		return http_call_bad_answer(
			&request.call, error, "the answer does not tell the size");
	if (p.is_page_blob &&
		(!read_number(
			 azureblob_call_answer(&request, "x-ms-blob-sequence-number"), &sequence) ||
			sequence > INT64_MAX))
		return http_call_bad_answer(
			&request.call, error, "the answer does not tell the sequence number");
	p.sequence = (int64_t)sequence;
	if (modified && utc_parse(modified, &p.modified_ns) < 0)
		p.modified_ns = 0;
	r = azureblob_call_answer_copy(&request, "ETag", p.etag, sizeof(p.etag), error);
	if (r < 0)
		return r;
	copy_header(&request, "x-ms-lease-state", p.lease_state, sizeof(p.lease_state));
	copy_header(&request, "x-ms-copy-id", p.copy_id, sizeof(p.copy_id));
	copy_header(&request, "x-ms-copy-status", p.copy_status, sizeof(p.copy_status));
	copy_header(&request, "x-ms-copy-progress", p.copy_progress, sizeof(p.copy_progress));
	copy_header(&request, "x-ms-copy-status-description", p.copy_description,
		sizeof(p.copy_description));
	p.leased = strcmp(p.lease_state, "leased") == 0 || strcmp(p.lease_state, "breaking") == 0;
	r = read_metadata(&request.call.http.ret_headers, &p.metadata);
	if (r < 0)
		return http_error_set(error, r, "the metadata could not be read");
	*ret_properties = p;
	p = (struct azureblob_properties){ 0 };
	return 0;
}

int azureblob_set_metadata(struct azureblob *client, const char *blob,
	const struct http_headers *metadata, const struct azureblob_conditions *conditions,
	struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "PUT", blob, HTTP_REPEATABLE);
	http_call_query(&request.call, "comp", "metadata");
	azureblob_call_metadata(&request, metadata);
	azureblob_call_conditions(&request, conditions);
	return http_call_perform(&request.call, error);
}

int azureblob_snapshot(struct azureblob *client, const char *blob,
	const struct http_headers *metadata, const struct azureblob_conditions *conditions,
	struct http_error *error, char ret_snapshot[static AZUREBLOB_SNAPSHOT_BYTES])
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "PUT", blob, HTTP_ONCE);
	http_call_query(&request.call, "comp", "snapshot");
	azureblob_call_metadata(&request, metadata);
	azureblob_call_conditions(&request, conditions);
	int r = http_call_perform(&request.call, error);
	if (r < 0)
		return r;
	return azureblob_call_answer_copy(
		&request, "x-ms-snapshot", ret_snapshot, AZUREBLOB_SNAPSHOT_BYTES, error);
}

int azureblob_delete(struct azureblob *client, const char *blob, const char *snapshot,
	enum azureblob_delete_what what, const struct azureblob_conditions *conditions,
	struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "DELETE", blob, HTTP_REPEATABLE);
	http_call_query(&request.call, "snapshot", snapshot);
	if (!snapshot && what == AZUREBLOB_DELETE_SNAPSHOTS)
		http_call_header(&request.call, "x-ms-delete-snapshots", "only");
	if (!snapshot && what == AZUREBLOB_DELETE_ALL)
		http_call_header(&request.call, "x-ms-delete-snapshots", "include");
	azureblob_call_conditions(&request, conditions);
	int r = http_call_perform(&request.call, error);
	return r == -ENOENT && request.call.may_have_happened ? 0 : r;
}

#define COPY_ID_BYTES 48

static int start_copy(struct azureblob *client, const char *source, const char *snapshot,
	const char *blob, struct http_error *error, char ret_copy_id[static COPY_ID_BYTES])
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	CLEANUP(buf_free) struct buf url = { 0 };
	int r = azureblob_call_source_url(client, source, snapshot, &url);
	if (r < 0)
		return http_error_set(error, r, "out of memory");
	azureblob_call_begin(client, &request, "PUT", blob, HTTP_ONCE);
	http_call_header(&request.call, "x-ms-copy-source", url.data);
	http_call_header(&request.call, "If-None-Match", "*");
	r = http_call_perform(&request.call, error);
	if (r == -ESTALE) {
		r = -EEXIST;
		if (error)
			error->error = r;
	}
	if (r < 0)
		return r;
	return azureblob_call_answer_copy(
		&request, "x-ms-copy-id", ret_copy_id, COPY_ID_BYTES, error);
}

/* 1 once it is done, 0 while it goes on. */
static int poll_copy(
	struct azureblob *client, const char *blob, const char *copy_id, struct http_error *error)
{
	CLEANUP(azureblob_properties_free) struct azureblob_properties p = { 0 };
	int r = azureblob_get_properties(client, blob, NULL, error, &p);
	if (r < 0)
		return r;
	if (strcmp(p.copy_id, copy_id) != 0)
		return http_error_set(
			error, -ESTALE, "copy to %s: it is not the last one any more", blob);
	if (strcmp(p.copy_status, "success") == 0)
		return 1;
	if (strcmp(p.copy_status, "pending") == 0)
		return 0;
	if (strcmp(p.copy_status, "aborted") == 0)
		return http_error_set(error, -ECANCELED, "copy to %s: aborted", blob);
	return http_error_set(
		error, -EIO, "copy to %s: %s: %s", blob, p.copy_status, p.copy_description);
}

int azureblob_copy(struct azureblob *client, const char *source, const char *snapshot,
	const char *blob, struct http_error *error)
{
	char copy_id[COPY_ID_BYTES];
	int64_t pause_ns = 50 * NS_PER_MS;
	int r = start_copy(client, source, snapshot, blob, error, copy_id);
	while (r == 0 && (r = poll_copy(client, blob, copy_id, error)) == 0) {
		http_calls_pause(client->calls, pause_ns);
		pause_ns = MIN(pause_ns * 2, 5 * NS_PER_S);
	}
	return MIN(r, 0);
}
