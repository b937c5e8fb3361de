/*
 * One table from the service's words to -errno, and one to what a person should do about it.
 * The codes are those of "Blob service error codes" and "Common REST API error codes" in the
 * service's reference. Only 100–499 and 503 say for certain what happened (the same
 * reference, "Status and error codes"); a 500 may be followed by the write it denied.
 */
#include "azureblob/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/xml.h"

static const struct {
	int status; /* 0: any */
	const char *code;
	int error;
} by_code[] = {
	{ 409, "BlobAlreadyExists", -EEXIST }, { 409, "ContainerAlreadyExists", -EEXIST },
	{ 409, "ResourceAlreadyExists", -EEXIST }, { 409, "LeaseAlreadyPresent", -EBUSY },
	{ 409, "LeaseIdMismatchWithLeaseOperation", -EBUSY },
	{ 409, "LeaseIsBreakingAndCannotBeAcquired", -EBUSY },
	{ 409, "LeaseIsBreakingAndCannotBeChanged", -EBUSY },
	{ 409, "LeaseNotPresentWithLeaseOperation", -ESTALE },
	{ 409, "LeaseIsBrokenAndCannotBeRenewed", -ESTALE }, { 409, "LeaseAlreadyBroken", -ESTALE },
	{ 409, "PendingCopyOperation", -EBUSY }, { 409, "ContainerBeingDeleted", -EBUSY },
	{ 409, "SnapshotsPresent", -ENOTEMPTY }, { 409, "SnapshotCountExceeded", -EDQUOT },
	{ 409, "SnapshotOperationRateExceeded", -EAGAIN }, { 409, "BlobOverwritten", -ESTALE },
	{ 409, "PreviousSnapshotCannotBeNewer", -EINVAL }, { 416, "InvalidRange", -ERANGE },
	{ 500, "FeatureNotSupported", -EOPNOTSUPP }, /* the emulator */
};

static const struct {
	int status;
	int error;
} by_status[] = {
	{ 400, -EINVAL },
	{ 401, -EACCES },
	{ 403, -EACCES },
	{ 404, -ENOENT },
	{ 405, -EINVAL },
	{ 408, -ETIMEDOUT },
	{ 409, -EBUSY },
	{ 411, -EINVAL },
	{ 412, -ESTALE },
	{ 413, -EINVAL },
	{ 416, -ERANGE },
	{ 429, -EAGAIN },
	{ 500, -ETIMEDOUT },
	{ 501, -EOPNOTSUPP },
	{ 502, -ETIMEDOUT },
	{ 503, -EAGAIN },
	{ 504, -ETIMEDOUT },
};

static const struct http_mend mends[] = {
	{ -ENOENT, "check the container's name; if it is right, something deleted this" },
	{ -EEXIST, "somebody made it before; look at what is there" },
	{ -ESTALE, "another appliance has taken over, or a lease was broken: see `landfall vault "
		   "check`" },
	{ -EBUSY, "another appliance holds the lease: stop it, or use `landfall vault takeover`" },
	{ -EACCES,
		"check the credentials, their rights on the container, and this machine's clock" },
	{ -EAGAIN, "the storage account is overloaded: lower the bandwidth limit or wait" },
	{ -EDQUOT, "use a standard account: a premium page blob has room for 100 snapshots" },
	{ -ETIMEDOUT, "check the network between here and the storage account" },
	{ -ECONNRESET, "check the network between here and the storage account, and any proxy" },
	{ -EHOSTUNREACH, "check the endpoint's name and the name servers" },
	{ -EBADMSG, "check that no proxy answers in the service's place" },
	{ 0, NULL },
};

static int errno_of(int status, const char *code)
{
	for (size_t i = 0; i < ARRAY_SIZE(by_code); i++) {
		if (by_code[i].status == status && strcmp(by_code[i].code, code) == 0)
			return by_code[i].error;
	}
	for (size_t i = 0; i < ARRAY_SIZE(by_status); i++) {
		if (by_status[i].status == status)
			return by_status[i].error;
	}
	if (status < 400)
		return -EBADMSG;
	return status < 500 ? -EINVAL : -ETIMEDOUT;
}

/* The body is <Error><Code>…</Code><Message>text\nRequestId:…\nTime:…</Message></Error>. */
static void read_document(const struct http_request *http, struct http_error *e)
{
	const struct xml_limits limits = { .bytes = 64 * KIB, .nodes = 200, .depth = 8 };
	CLEANUP(xml_freep) struct xml *xml = NULL;
	if (http->ret_body.len == 0 ||
		xml_parse(http->ret_body.data, http->ret_body.len, &limits, &xml, NULL) < 0)
		return;
	const char *code = xml_text(xml_root(xml), "Code");
	const char *message = xml_text(xml_root(xml), "Message");
	if (code && e->code[0] == '\0')
		http_error_copy_line(e->code, sizeof(e->code), code);
	if (message)
		http_error_copy_line(e->message, sizeof(e->message), message);
}

enum http_verdict azureblob_error_read(
	const struct http_request *http, struct http_error *ret_error)
{
	struct http_error e = { .http_status = http->status };
	const char *code = http_headers_get(&http->ret_headers, "x-ms-error-code");
	const char *id = http_headers_get(&http->ret_headers, "x-ms-request-id");
	const char *client = http_headers_get(&http->headers, "x-ms-client-request-id");
	enum http_verdict verdict;
	if (id)
		http_error_copy_line(e.request_id, sizeof(e.request_id), id);
	else if (client)
		snprintf(e.request_id, sizeof(e.request_id), "client %s", client);
	if (http->outcome == HTTP_ANSWERED) {
		if (code)
			http_error_copy_line(e.code, sizeof(e.code), code);
		read_document(http, &e);
		e.error = errno_of(http->status, e.code);
		if (e.error == -EOPNOTSUPP)
			verdict = HTTP_REFUSED;
		else if (http->status == 401)
			verdict = HTTP_EXPIRED;
		else if (http->status >= 500 && http->status != 503)
			verdict = HTTP_MAYBE;
		else if (e.error == -EAGAIN || http->status == 408)
			verdict = HTTP_TRY_AGAIN;
		else
			verdict = HTTP_REFUSED;
	} else {
		verdict = http_error_read_way(http, &e);
	}
	*ret_error = e;
	return verdict;
}

int azureblob_error_tell(const struct http_error *from, const char *what, struct error *error)
{
	return http_error_tell(from, what, mends, error);
}
