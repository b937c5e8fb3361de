/*
 * Block blobs. Blocks are named by their series and number in sixteen and eight digits, so all
 * names of an object are of one length, as the service demands.
 */
#include "azureblob/objects.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "azureblob/call.h"
#include "azureblob/client_internal.h"
#include "common/base64.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/hmac.h"

#define CLEANUP_REQUEST CLEANUP(azureblob_request_free)
#define BLOCK_NAME_BYTES 25
#define BLOCK_ID_BYTES BASE64_TEXT_BYTES(BLOCK_NAME_BYTES - 1)

/* "There shall be none" answers 409 BlobAlreadyExists or 412 ConditionNotMet. */
static int settle(int r, const struct azureblob_conditions *conditions, struct http_error *error)
{
	bool none_yet = conditions && conditions->if_none_match &&
			strcmp(conditions->if_none_match, "*") == 0;
	if (r != -ESTALE || !none_yet || conditions->lease_id)
		return r;
	if (error)
		error->error = -EEXIST;
	return -EEXIST;
}

static int add_md5(struct azureblob_request *request, const void *data, size_t n)
{
	uint8_t hash[MD5_BYTES];
	char text[BASE64_TEXT_BYTES(MD5_BYTES)];
	const struct iovec iov = { (void *)data, n };
	int r = md5_iov(&iov, 1, hash);
	if (r < 0)
		return r;
	base64_encode(hash, sizeof(hash), text);
	http_call_header(&request->call, "Content-MD5", text);
	return 0;
}

static int finish_put(struct azureblob_request *request,
	const struct azureblob_conditions *conditions, struct http_error *error, char *ret_etag)
{
	int r = settle(http_call_perform(&request->call, error), conditions, error);
	if (r == 0 && ret_etag)
		r = azureblob_call_answer_copy(
			request, "ETag", ret_etag, AZUREBLOB_ETAG_BYTES, error);
	return r;
}

int azureblob_object_put(struct azureblob *client, const char *name, const void *data, size_t n,
	const struct http_headers *metadata, const struct azureblob_conditions *conditions,
	struct http_error *error, char ret_etag[AZUREBLOB_ETAG_BYTES])
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	if (n > AZUREBLOB_OBJECT_PUT_MAX_BYTES)
		return http_error_set(error, -EINVAL, "%s: too large to be put at once", name);
	azureblob_call_begin(client, &request, "PUT", name, HTTP_ONCE);
	http_call_header(&request.call, "x-ms-blob-type", "BlockBlob");
	azureblob_call_metadata(&request, metadata);
	azureblob_call_conditions(&request, conditions);
	if (n > 0 && client->checksum != AZUREBLOB_NO_CHECKSUM) {
		int r = add_md5(&request, data, n);
		if (r < 0)
			return http_error_set(error, r, "%s: no MD5", name);
	}
	azureblob_call_body(&request, data, n);
	return finish_put(&request, conditions, error, ret_etag);
}

static void block_id(uint64_t series, unsigned index, char ret_id[static BLOCK_ID_BYTES])
{
	char name[BLOCK_NAME_BYTES + 8];
	snprintf(name, sizeof(name), "%016" PRIx64 "%08u", series, index);
	base64_encode(name, BLOCK_NAME_BYTES - 1, ret_id);
}

int azureblob_object_put_block(struct azureblob *client, const char *name, uint64_t series,
	unsigned index, const void *data, size_t n, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	char id[BLOCK_ID_BYTES];
	if (index >= AZUREBLOB_BLOCKS_MAX || n == 0 || n > AZUREBLOB_BLOCK_MAX_BYTES)
		return http_error_set(error, -EINVAL, "%s: not a possible block", name);
	block_id(series, index, id);
	azureblob_call_begin(client, &request, "PUT", name, HTTP_REPEATABLE);
	http_call_query(&request.call, "comp", "block");
	http_call_query(&request.call, "blockid", id);
	azureblob_call_body(&request, data, n);
	return http_call_perform(&request.call, error);
}

int azureblob_object_commit(struct azureblob *client, const char *name, uint64_t series,
	unsigned count, const struct http_headers *metadata,
	const struct azureblob_conditions *conditions, struct http_error *error,
	char ret_etag[AZUREBLOB_ETAG_BYTES])
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	CLEANUP(buf_free) struct buf list = { 0 };
	if (count > AZUREBLOB_BLOCKS_MAX)
		return http_error_set(error, -EINVAL, "%s: too many blocks", name);
	int r = buf_append_text(&list, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>");
	for (unsigned i = 0; r == 0 && i < count; i++) {
		char id[BLOCK_ID_BYTES];
		block_id(series, i, id);
		r = buf_printf(&list, "<Uncommitted>%s</Uncommitted>", id);
	}
	if (r == 0)
		r = buf_append_text(&list, "</BlockList>");
	if (r < 0)
		return http_error_set(error, r, "out of memory");
	azureblob_call_begin(client, &request, "PUT", name, HTTP_ONCE);
	http_call_query(&request.call, "comp", "blocklist");
	http_call_header(&request.call, "Content-Type", "application/xml");
	azureblob_call_metadata(&request, metadata);
	azureblob_call_conditions(&request, conditions);
	azureblob_call_body(&request, list.data, list.len);
	return finish_put(&request, conditions, error, ret_etag);
}

int azureblob_object_get(struct azureblob *client, const char *name, size_t limit,
	struct http_error *error, struct buf *ret_data, char ret_etag[AZUREBLOB_ETAG_BYTES])
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "GET", name, HTTP_READS);
	/* Room for an error's document, whatever the limit. */
	request.call.http.body_limit = MAX(limit, (size_t)(64 * KIB));
	int r = http_call_perform(&request.call, error);
	if (r == 0 && request.call.http.ret_body.len > limit)
		return http_error_set(error, -EMSGSIZE, "%s: larger than allowed", name);
	if (r == 0 && ret_etag)
		r = azureblob_call_answer_copy(
			&request, "ETag", ret_etag, AZUREBLOB_ETAG_BYTES, error);
	if (r < 0)
		return r;
	const struct buf *body = &request.call.http.ret_body;
	r = buf_append(ret_data, body->data ? body->data : "", body->len);
	return r < 0 ? http_error_set(error, r, "out of memory") : 0;
}

int azureblob_object_read(struct azureblob *client, const char *name, uint64_t offset, void *data,
	size_t n, struct http_error *error, size_t *ret_n, char ret_etag[AZUREBLOB_ETAG_BYTES])
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	int r = azureblob_get_range(client, &request, name, NULL, offset, data, n, true);
	if (r < 0)
		return http_error_set(error, r, "%s: not a possible range", name);
	r = http_call_finish(&request.call, error);
	if (r == -ERANGE) {
		*ret_n = 0;
		if (ret_etag)
			ret_etag[0] = '\0';
		return 0;
	}
	if (r == 0 && ret_etag)
		r = azureblob_call_answer_copy(
			&request, "etag", ret_etag, AZUREBLOB_ETAG_BYTES, error);
	if (r == 0)
		*ret_n = request.received_bytes;
	return r;
}
