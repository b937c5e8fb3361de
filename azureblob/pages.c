/*
 * The data plane: writing, clearing and reading pages.
 *
 * The limits are checked here so that what the service would refuse is refused before a byte is
 * sent: 4 MiB an update, whole sectors, no empty ranges.
 */
#include "azureblob/azureblob.h"

#include <errno.h>
#include <inttypes.h>

#include "azureblob/call.h"
#include "azureblob/client_internal.h"
#include "azureblob/crc64.h"
#include "common/base64.h"
#include "common/bytes.h"
#include "common/hmac.h"

static void put_range(struct azureblob_request *request, uint64_t offset, uint64_t length)
{
	http_call_headerf(&request->call, "x-ms-range", "bytes=%" PRIu64 "-%" PRIu64, offset,
		offset + length - 1);
}

static bool is_page_range(uint64_t offset, uint64_t length)
{
	return length > 0 && is_aligned(offset, SECTOR_BYTES) && is_aligned(length, SECTOR_BYTES) &&
	       offset + length > offset && offset + length <= 8 * TIB;
}

static int add_checksum(struct azureblob *client, struct azureblob_request *request,
	const struct iovec *data, int count)
{
	if (client->checksum == AZUREBLOB_CRC64) {
		char text[AZUREBLOB_CRC64_TEXT_BYTES];
		uint64_t crc = 0;
		for (int i = 0; i < count; i++)
			crc = azureblob_crc64(crc, data[i].iov_base, data[i].iov_len);
		azureblob_crc64_format(crc, text);
		http_call_header(&request->call, "x-ms-content-crc64", text);
	} else if (client->checksum == AZUREBLOB_MD5) {
		uint8_t hash[MD5_BYTES];
		char text[BASE64_TEXT_BYTES(MD5_BYTES)];
		int r = md5_iov(data, count, hash);
		if (r < 0)
			return r;
		base64_encode(hash, sizeof(hash), text);
		http_call_header(&request->call, "Content-MD5", text);
	}
	return 0;
}

int azureblob_put_pages(struct azureblob *client, struct azureblob_request *request,
	const char *blob, uint64_t offset, const struct iovec *data, int count,
	const struct azureblob_conditions *conditions)
{
	uint64_t length = 0;
	for (int i = 0; i < count; i++)
		length += data[i].iov_len;
	if (request->call.state != HTTP_CALL_IDLE || !is_page_range(offset, length) ||
		length > AZUREBLOB_PUT_MAX_BYTES)
		return -EINVAL;
	azureblob_call_begin(client, request, "PUT", blob, HTTP_FENCED);
	http_call_query(&request->call, "comp", "page");
	http_call_header(&request->call, "x-ms-page-write", "update");
	put_range(request, offset, length);
	azureblob_call_conditions(request, conditions);
	int r = add_checksum(client, request, data, count);
	if (r < 0)
		return r;
	azureblob_call_body_iov(request, data, count);
	return http_call_submit(&request->call);
}

int azureblob_clear_pages(struct azureblob *client, struct azureblob_request *request,
	const char *blob, uint64_t offset, uint64_t length,
	const struct azureblob_conditions *conditions)
{
	if (request->call.state != HTTP_CALL_IDLE || !is_page_range(offset, length))
		return -EINVAL;
	azureblob_call_begin(client, request, "PUT", blob, HTTP_FENCED);
	http_call_query(&request->call, "comp", "page");
	http_call_header(&request->call, "x-ms-page-write", "clear");
	put_range(request, offset, length);
	azureblob_call_conditions(request, conditions);
	return http_call_submit(&request->call);
}

int azureblob_get_range(struct azureblob *client, struct azureblob_request *request,
	const char *blob, const char *snapshot, uint64_t offset, void *data, size_t n, bool may_end)
{
	if (request->call.state != HTTP_CALL_IDLE || n == 0 || offset + n < offset)
		return -EINVAL;
	azureblob_call_begin(client, request, "GET", blob, HTTP_READS);
	http_call_query(&request->call, "snapshot", snapshot);
	put_range(request, offset, n);
	if (client->checksum == AZUREBLOB_CRC64 && n <= 4 * MIB)
		http_call_header(&request->call, "x-ms-range-get-content-crc64", "true");
	request->check = may_end ? AZUREBLOB_CHECK_RANGE_END : AZUREBLOB_CHECK_RANGE;
	request->range_offset = offset;
	request->range_bytes = n;
	request->call.http.into = data;
	request->call.http.into_bytes = n;
	return http_call_submit(&request->call);
}
