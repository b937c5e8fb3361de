/*
 * Lease Blob in its five actions, and the sequence number of Set Blob Properties.
 */
#include "azureblob/leases.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "azureblob/call.h"
#include "common/cleanup.h"

#define CLEANUP_REQUEST CLEANUP(azureblob_request_free)

static void begin(struct azureblob *client, struct azureblob_request *request, const char *blob,
	const char *action, const char *lease_id)
{
	azureblob_call_begin(client, request, "PUT", blob, HTTP_REPEATABLE);
	http_call_query(&request->call, "comp", "lease");
	http_call_header(&request->call, "x-ms-lease-action", action);
	http_call_header(&request->call, "x-ms-lease-id", lease_id);
}

int azureblob_lease_acquire(struct azureblob *client, const char *blob, const char *lease_id,
	int seconds, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	begin(client, &request, blob, "acquire", NULL);
	http_call_headerf(&request.call, "x-ms-lease-duration", "%d", seconds);
	http_call_header(&request.call, "x-ms-proposed-lease-id", lease_id);
	return http_call_perform(&request.call, error);
}

int azureblob_lease_renew(
	struct azureblob *client, const char *blob, const char *lease_id, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	begin(client, &request, blob, "renew", lease_id);
	return http_call_perform(&request.call, error);
}

int azureblob_lease_change(struct azureblob *client, const char *blob, const char *lease_id,
	const char *new_lease_id, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	begin(client, &request, blob, "change", lease_id);
	http_call_header(&request.call, "x-ms-proposed-lease-id", new_lease_id);
	return http_call_perform(&request.call, error);
}

int azureblob_lease_release(
	struct azureblob *client, const char *blob, const char *lease_id, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	begin(client, &request, blob, "release", lease_id);
	int r = http_call_perform(&request.call, error);
	/* An earlier attempt may have done it; then the lease is another's, or nobody's. */
	if (request.call.may_have_happened && (r == -EBUSY || r == -ESTALE))
		return 0;
	return r;
}

int azureblob_lease_break(struct azureblob *client, const char *blob, struct http_error *error)
{
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	struct http_error e;
	begin(client, &request, blob, "break", NULL);
	http_call_header(&request.call, "x-ms-lease-break-period", "0");
	int r = http_call_perform(&request.call, &e);
	/* LeaseNotPresentWithLeaseOperation, LeaseAlreadyBroken: as was wished. */
	if (r == -ESTALE && e.http_status == 409)
		return 0;
	if (r < 0 && error)
		*error = e;
	return r;
}

int azureblob_set_sequence(struct azureblob *client, const char *blob,
	enum azureblob_sequence_action action, int64_t number,
	const struct azureblob_conditions *conditions, struct http_error *error,
	int64_t *ret_sequence)
{
	static const char *const words[] = {
		[AZUREBLOB_SEQUENCE_MAX] = "max",
		[AZUREBLOB_SEQUENCE_UPDATE] = "update",
		[AZUREBLOB_SEQUENCE_INCREMENT] = "increment",
	};
	CLEANUP_REQUEST struct azureblob_request request = { 0 };
	azureblob_call_begin(client, &request, "PUT", blob,
		action == AZUREBLOB_SEQUENCE_MAX ? HTTP_REPEATABLE : HTTP_ONCE);
	http_call_query(&request.call, "comp", "properties");
	http_call_header(&request.call, "x-ms-sequence-number-action", words[action]);
	if (action != AZUREBLOB_SEQUENCE_INCREMENT)
		http_call_headerf(&request.call, "x-ms-blob-sequence-number", "%" PRId64, number);
	azureblob_call_conditions(&request, conditions);
	int r = http_call_perform(&request.call, error);
	if (r < 0 || !ret_sequence)
		return r;
	const char *text = azureblob_call_answer(&request, "x-ms-blob-sequence-number");
	errno = 0;
	long long value = text ? strtoll(text, NULL, 10) : 0;
	if (!text || errno != 0 || text[0] == '\0' || strspn(text, "0123456789") != strlen(text))
		return http_call_bad_answer(
			&request.call, error, "the answer does not tell the sequence number");
	*ret_sequence = value;
	return 0;
}
