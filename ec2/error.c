/*
 * One table from the services' words to -errno and to whether trying again helps, and one to what
 * a person should do about it. Codes: "Error codes for the Amazon EC2 API", "Common errors" of
 * EC2, EBS direct and STS, and EBS direct's ValidationExceptionReason.
 *
 * EC2 answers   <Response><Errors><Error><Code>…<Message>…</Error></Errors><RequestID>…</Response>
 * STS           <ErrorResponse><Error><Type>…<Code>…<Message>…</Error><RequestId>…</ErrorResponse>
 * EBS direct    {"Message": …, "Reason": …} with x-amzn-ErrorType: ValidationException:http://…
 *
 * Only an answer below 500, or 503, says for certain that nothing happened.
 */
#include "ec2/error.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/xml.h"

static const struct {
	const char *code; /* or the reason; a '*' at the end stands for anything */
	int error;
	enum http_verdict verdict;
} by_code[] = {
	{ "UNRELATED_SNAPSHOTS", -EXDEV, HTTP_REFUSED },
	{ "INVALID_BLOCK_TOKEN", -ESTALE, HTTP_REFUSED },
	{ "INVALID_PAGE_TOKEN", -ESTALE, HTTP_REFUSED },
	{ "SNAPSHOT_NOT_FOUND", -ENOENT, HTTP_REFUSED },
	{ "DEPENDENCY_RESOURCE_NOT_FOUND", -EACCES, HTTP_REFUSED },
	{ "GRANT_NOT_FOUND", -EACCES, HTTP_REFUSED },
	{ "ResourceNotFoundException", -ENOENT, HTTP_REFUSED },
	{ "UnknownOperationException", -EINVAL, HTTP_REFUSED },
	{ "InvalidInstanceID.NotFound", -ENOENT, HTTP_REFUSED },
	{ "InvalidSnapshot.NotFound", -ENOENT, HTTP_REFUSED },
	{ "InvalidVolume.NotFound", -ENOENT, HTTP_REFUSED },
	{ "OperationNotPermitted", -EPERM, HTTP_REFUSED },
	{ "IncorrectState", -EBUSY, HTTP_REFUSED },
	{ "IncorrectInstanceState", -EBUSY, HTTP_REFUSED },
	{ "InvalidSnapshot.InUse", -EBUSY, HTTP_REFUSED },
	{ "ConcurrentSnapshotLimitExceeded", -EBUSY, HTTP_REFUSED },
	{ "PendingSnapshotLimitExceeded", -EBUSY, HTTP_REFUSED },
	{ "ConflictException", -EBUSY, HTTP_REFUSED },
	{ "SnapshotCreationPerVolumeRateExceeded", -EAGAIN, HTTP_REFUSED },
	{ "SnapshotLimitExceeded", -EDQUOT, HTTP_REFUSED },
	{ "ServiceQuotaExceededException", -EDQUOT, HTTP_REFUSED },
	{ "IdempotentParameterMismatch", -EEXIST, HTTP_REFUSED },
	{ "AuthFailure", -EACCES, HTTP_REFUSED },
	{ "UnauthorizedOperation", -EACCES, HTTP_REFUSED },
	{ "AccessDenied*", -EACCES, HTTP_REFUSED },
	{ "Blocked", -EACCES, HTTP_REFUSED },
	{ "OptInRequired", -EACCES, HTTP_REFUSED },
	{ "PendingVerification", -EACCES, HTTP_REFUSED },
	{ "InvalidClientTokenId", -EACCES, HTTP_REFUSED },
	{ "UnrecognizedClientException", -EACCES, HTTP_REFUSED },
	{ "MissingAuthenticationToken*", -EACCES, HTTP_REFUSED },
	{ "SignatureDoesNotMatch", -EACCES, HTTP_REFUSED },
	{ "InvalidSignatureException", -EACCES, HTTP_REFUSED },
	{ "IncompleteSignature*", -EACCES, HTTP_REFUSED },
	{ "InvalidIdentityToken*", -EACCES, HTTP_REFUSED },
	{ "IDPRejectedClaim*", -EACCES, HTTP_REFUSED },
	{ "IDPCommunicationError", -ETIMEDOUT, HTTP_TRY_AGAIN },
	{ "RegionDisabledException", -EACCES, HTTP_REFUSED },
	{ "ExpiredToken*", -EKEYEXPIRED, HTTP_EXPIRED },
	{ "RequestExpired", -EKEYEXPIRED, HTTP_EXPIRED },
	{ "RequestLimitExceeded", -EAGAIN, HTTP_THROTTLED },
	{ "Throttling*", -EAGAIN, HTTP_THROTTLED },
	{ "ThrottledException", -EAGAIN, HTTP_THROTTLED },
	{ "RequestThrottled*", -EAGAIN, HTTP_THROTTLED },
	{ "TooManyRequestsException", -EAGAIN, HTTP_THROTTLED },
	{ "EC2ThrottledException", -EAGAIN, HTTP_THROTTLED },
	{ "BandwidthLimitExceeded", -EAGAIN, HTTP_THROTTLED },
	{ "SlowDown", -EAGAIN, HTTP_THROTTLED },
	{ "PriorRequestNotComplete", -EAGAIN, HTTP_TRY_AGAIN },
	{ "Unavailable", -EAGAIN, HTTP_TRY_AGAIN },
	{ "ServiceUnavailable", -EAGAIN, HTTP_TRY_AGAIN },
	{ "ServerInternal", -ETIMEDOUT, HTTP_MAYBE },
	{ "InternalError", -ETIMEDOUT, HTTP_MAYBE },
	{ "InternalFailure", -ETIMEDOUT, HTTP_MAYBE },
	{ "InternalServerException", -ETIMEDOUT, HTTP_MAYBE },
	{ "RequestTimeout*", -ETIMEDOUT, HTTP_MAYBE },
};

#define KMS_MEND                                                                                   \
	"a volume is encrypted: let the credentials' policy and the key's allow kms:Decrypt, and " \
	"see that the key is enabled"

static const struct http_mend mends[] = {
	{ -ENOENT, "check the id and the region; if both are right, something deleted it" },
	{ -EXDEV, "the volume was replaced or its older snapshot is of another: a full comparison "
		  "begins the line anew" },
	{ -EPERM,
		"switch off stop protection (disableApiStop) of the instance, or stop it by hand" },
	{ -EBUSY, "wait until what is under way has finished" },
	{ -EDQUOT, "raise the account's quota, or delete snapshots that nobody needs" },
	{ -EACCES, "check the credentials, that their policy permits what was asked, and this "
		   "machine's clock" },
	{ -EKEYEXPIRED, "give credentials that can be renewed: a role, or new temporary ones" },
	{ -EAGAIN, "the account's request rate is used up: lower the rates or raise the quota" },
	{ -ETIMEDOUT, "check the network between here and AWS" },
	{ -ECONNRESET, "check the network between here and AWS, and any proxy" },
	{ -EHOSTUNREACH, "check the region's name, the endpoint's and the name servers" },
	{ -EBADMSG, "check that no proxy answers in AWS's place" },
	{ 0, NULL },
};

/* Codes and reasons that say more than their -errno. */
static const struct {
	const char *code, *mend;
} words_mends[] = {
	{ "DEPENDENCY_ACCESS_DENIED", KMS_MEND },
	{ "DEPENDENCY_RESOURCE_NOT_FOUND", KMS_MEND },
	{ "GRANT_NOT_FOUND", KMS_MEND },
	{ "RequestExpired", "set this machine's clock (timedatectl); if it is right and the "
			    "credentials are temporary, give ones that can be renewed" },
	{ EC2_NO_CREDENTIALS, "give the machine that landfalld runs on a role, or set "
			      "AWS_SHARED_CREDENTIALS_FILE "
			      "in the service's environment; see landfall.conf(5), section aws" },
	{ "InvalidInstanceID.NotFound",
		"if it was terminated, 'landfall machine remove --keep-vault' keeps its points; "
		"else check the region, and that the credentials are of its account" },
};

static void read_xml(const struct http_request *http, struct http_error *e)
{
	const struct xml_limits limits = { .bytes = 64 * KIB, .nodes = 200, .depth = 8 };
	CLEANUP(xml_freep) struct xml *xml = NULL;
	if (xml_parse(http->ret_body.data, http->ret_body.len, &limits, &xml, NULL) < 0)
		return;
	const struct xml_node *root = xml_root(xml);
	const struct xml_node *node = xml_find(root, "Errors/Error");
	const char *id = xml_text(root, "RequestID");
	if (!node)
		node = xml_find(root, "Error");
	if (!id)
		id = xml_text(root, "RequestId");
	const char *code = xml_text(node, "Code");
	const char *message = xml_text(node, "Message");
	if (code)
		http_error_copy_line(e->code, sizeof(e->code), code);
	if (message)
		http_error_copy_line(e->message, sizeof(e->message), message);
	if (id)
		http_error_copy_line(e->request_id, sizeof(e->request_id), id);
}

static void read_json(const struct http_request *http, struct http_error *e)
{
	const struct json_limits limits = { .bytes = 64 * KIB, .depth = 8 };
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	const char *text = NULL;
	const char *type = http_headers_get(&http->ret_headers, "x-amzn-ErrorType");
	if (json_parse(http->ret_body.data, http->ret_body.len, &limits, &json, NULL) == 0) {
		json_root(json, NULL, &root);
		if (json_find_text(&root, "Message", &text, NULL) == 1 ||
			json_find_text(&root, "message", &text, NULL) == 1)
			http_error_copy_line(e->message, sizeof(e->message), text);
		if (json_find_text(&root, "Reason", &text, NULL) == 1)
			http_error_copy_line(e->reason, sizeof(e->reason), text);
		if (!type && json_find_text(&root, "__type", &text, NULL) == 1)
			type = text;
	}
	if (!type)
		return;
	const char *hash = strchr(type, '#');
	http_error_copy_line(e->code, sizeof(e->code), hash ? hash + 1 : type);
	e->code[strcspn(e->code, ":")] = '\0';
}

static bool matches(const char *pattern, const char *word)
{
	size_t n = strlen(pattern);
	if (n > 0 && pattern[n - 1] == '*')
		return strncmp(pattern, word, n - 1) == 0;
	return strcmp(pattern, word) == 0;
}

static enum http_verdict judge_status(int status, int *ret_error)
{
	*ret_error = -EINVAL;
	if (status == 401 || status == 403 || status == 407)
		*ret_error = -EACCES;
	else if (status == 404)
		*ret_error = -ENOENT;
	else if (status == 402)
		*ret_error = -EDQUOT;
	else if (status == 408)
		*ret_error = -ETIMEDOUT;
	else if (status == 429 || status == 503)
		*ret_error = -EAGAIN;
	else if (status >= 500)
		*ret_error = -ETIMEDOUT;
	else if (status < 400)
		*ret_error = -EBADMSG;
	if (status == 429)
		return HTTP_THROTTLED;
	if (status == 408 || status == 503)
		return HTTP_TRY_AGAIN;
	/* Below 400 somebody else has answered; what became of the request is anyone's guess. */
	return status >= 500 || status < 400 ? HTTP_MAYBE : HTTP_REFUSED;
}

static enum http_verdict judge_answer(const struct http_request *http, struct http_error *e)
{
	const char *id = http_headers_get(&http->ret_headers, "x-amzn-RequestId");
	if (id)
		http_error_copy_line(e->request_id, sizeof(e->request_id), id);
	if (http->ret_body.len > 0 && http->ret_body.data[0] == '<')
		read_xml(http, e);
	else if (http->ret_body.len > 0 || http_headers_get(&http->ret_headers, "x-amzn-ErrorType"))
		read_json(http, e);
	enum http_verdict verdict = judge_status(http->status, &e->error);
	/* The reason says more than the code. */
	const char *words[] = { e->reason, e->code };
	for (size_t w = 0; w < ARRAY_SIZE(words); w++) {
		for (size_t i = 0; words[w][0] && i < ARRAY_SIZE(by_code); i++) {
			if (!matches(by_code[i].code, words[w]))
				continue;
			e->error = by_code[i].error;
			/* A 500 never says that nothing happened, whatever word is with it. */
			return http->status >= 500 && http->status != 503 ? HTTP_MAYBE
									  : by_code[i].verdict;
		}
	}
	return verdict;
}

/* An action's name stands in the form, EBS direct's in the path. */
static void read_operation(const struct http_request *http, struct http_error *e)
{
	static const char action[] = "Action=";
	const char *path = http->url ? strstr(http->url, "/snapshots/") : NULL;
	if (http->body_count > 0 && http->body[0].iov_len > strlen(action) &&
		memcmp(http->body[0].iov_base, action, strlen(action)) == 0) {
		const char *name = (const char *)http->body[0].iov_base + strlen(action);
		const size_t n = strnlen(name, http->body[0].iov_len - strlen(action));
		const char *end = memchr(name, '&', n);
		snprintf(e->operation, sizeof(e->operation), "%.*s",
			(int)(end ? end - name : (ptrdiff_t)n), name);
	} else if (path) {
		snprintf(e->operation, sizeof(e->operation), "%s",
			strstr(path, "/changedblocks") ? "ListChangedBlocks"
			: strstr(path, "/blocks/")     ? "GetSnapshotBlock"
						       : "ListSnapshotBlocks");
	}
}

enum http_verdict ec2_error_read(const struct http_request *http, struct http_error *ret_error)
{
	struct http_error e = { .http_status = http->status };
	enum http_verdict verdict;
	if (http->outcome == HTTP_ANSWERED)
		verdict = judge_answer(http, &e);
	else
		verdict = http_error_read_way(http, &e);
	read_operation(http, &e);
	/* EC2, EBS and STS always say what they do not find; the metadata service does not. */
	if (http->status == 404 && e.operation[0] && !e.code[0])
		e.error = -EBADMSG;
	*ret_error = e;
	return verdict;
}

int ec2_error_tell(const struct http_error *from, const char *what, struct error *error)
{
	const char *words[] = { from->reason, from->code };
	int r = http_error_tell(from, what, mends, error);
	for (size_t w = 0; error && w < ARRAY_SIZE(words); w++)
		for (size_t i = 0; words[w][0] && i < ARRAY_SIZE(words_mends); i++)
			if (strcmp(words[w], words_mends[i].code) == 0) {
				snprintf(error->mend, sizeof(error->mend), "%s",
					words_mends[i].mend);
				return r;
			}
	return r;
}
