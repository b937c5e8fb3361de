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
#include "azureblob/crc64.h"
#include "common/base64.h"
#include "common/bytes.h"
#include "common/hmac.h"

static void put_range(struct azureblob_request *request, uint64_t offset, uint64_t length)
{
	call_headerf(
		request, "x-ms-range", "bytes=%" PRIu64 "-%" PRIu64, offset, offset + length - 1);
}

static bool is_page_range(uint64_t offset, uint64_t length)
{
	return length > 0 && is_aligned(offset, SECTOR_BYTES) && is_aligned(length, SECTOR_BYTES) &&
	       offset + length > offset && offset + length <= 8 * TIB;
}

static int add_checksum(struct azureblob *client, struct azureblob_request *request,
	const struct iovec *data, int count)
{
	if (call_checksum(client) == AZUREBLOB_CRC64) {
		char text[AZUREBLOB_CRC64_TEXT_BYTES];
		uint64_t crc = 0;
		for (int i = 0; i < count; i++)
			crc = azureblob_crc64(crc, data[i].iov_base, data[i].iov_len);
		azureblob_crc64_format(crc, text);
		call_header(request, "x-ms-content-crc64", text);
	} else if (call_checksum(client) == AZUREBLOB_MD5) {
		uint8_t hash[MD5_BYTES];
		char text[BASE64_TEXT_BYTES(MD5_BYTES)];
		int r = md5_iov(data, count, hash);
		if (r < 0)
			return r;
		base64_encode(hash, sizeof(hash), text);
		call_header(request, "Content-MD5", text);
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
	if (request->state != AZUREBLOB_IDLE || !is_page_range(offset, length) ||
		length > AZUREBLOB_PUT_MAX_BYTES)
		return -EINVAL;
	call_begin(client, request, "PUT", blob, CALL_FENCED);
	call_query(request, "comp", "page");
	call_header(request, "x-ms-page-write", "update");
	put_range(request, offset, length);
	call_conditions(request, conditions);
	int r = add_checksum(client, request, data, count);
	if (r < 0)
		return r;
	call_body_iov(request, data, count);
	return call_submit(client, request);
}

int azureblob_clear_pages(struct azureblob *client, struct azureblob_request *request,
	const char *blob, uint64_t offset, uint64_t length,
	const struct azureblob_conditions *conditions)
{
	if (request->state != AZUREBLOB_IDLE || !is_page_range(offset, length))
		return -EINVAL;
	call_begin(client, request, "PUT", blob, CALL_FENCED);
	call_query(request, "comp", "page");
	call_header(request, "x-ms-page-write", "clear");
	put_range(request, offset, length);
	call_conditions(request, conditions);
	return call_submit(client, request);
}

int azureblob_get_range(struct azureblob *client, struct azureblob_request *request,
	const char *blob, const char *snapshot, uint64_t offset, void *data, size_t n, bool may_end)
{
	if (request->state != AZUREBLOB_IDLE || n == 0 || offset + n < offset)
		return -EINVAL;
	call_begin(client, request, "GET", blob, CALL_READS);
	call_query(request, "snapshot", snapshot);
	put_range(request, offset, n);
	if (call_checksum(client) == AZUREBLOB_CRC64 && n <= 4 * MIB)
		call_header(request, "x-ms-range-get-content-crc64", "true");
	request->check = may_end ? CALL_CHECK_RANGE_END : CALL_CHECK_RANGE;
	request->range_offset = offset;
	request->range_bytes = n;
	request->http.into = data;
	request->http.into_bytes = n;
	return call_submit(client, request);
}
