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
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/xml.h"

static const struct {
	const char *code; /* or the reason; a '*' at the end stands for anything */
	int error;
	enum ec2_verdict verdict;
} by_code[] = {
	{ "UNRELATED_SNAPSHOTS", -EXDEV, EC2_REFUSED },
	{ "INVALID_BLOCK_TOKEN", -ESTALE, EC2_REFUSED },
	{ "INVALID_PAGE_TOKEN", -ESTALE, EC2_REFUSED },
	{ "SNAPSHOT_NOT_FOUND", -ENOENT, EC2_REFUSED },
	{ "ResourceNotFoundException", -ENOENT, EC2_REFUSED },
	{ "InvalidInstanceID.NotFound", -ENOENT, EC2_REFUSED },
	{ "InvalidSnapshot.NotFound", -ENOENT, EC2_REFUSED },
	{ "InvalidVolume.NotFound", -ENOENT, EC2_REFUSED },
	{ "OperationNotPermitted", -EPERM, EC2_REFUSED },
	{ "IncorrectState", -EBUSY, EC2_REFUSED },
	{ "IncorrectInstanceState", -EBUSY, EC2_REFUSED },
	{ "InvalidSnapshot.InUse", -EBUSY, EC2_REFUSED },
	{ "ConcurrentSnapshotLimitExceeded", -EBUSY, EC2_REFUSED },
	{ "PendingSnapshotLimitExceeded", -EBUSY, EC2_REFUSED },
	{ "ConflictException", -EBUSY, EC2_REFUSED },
	{ "SnapshotCreationPerVolumeRateExceeded", -EAGAIN, EC2_REFUSED },
	{ "SnapshotLimitExceeded", -EDQUOT, EC2_REFUSED },
	{ "ServiceQuotaExceededException", -EDQUOT, EC2_REFUSED },
	{ "IdempotentParameterMismatch", -EEXIST, EC2_REFUSED },
	{ "AuthFailure", -EACCES, EC2_REFUSED },
	{ "UnauthorizedOperation", -EACCES, EC2_REFUSED },
	{ "AccessDenied*", -EACCES, EC2_REFUSED },
	{ "Blocked", -EACCES, EC2_REFUSED },
	{ "OptInRequired", -EACCES, EC2_REFUSED },
	{ "PendingVerification", -EACCES, EC2_REFUSED },
	{ "InvalidClientTokenId", -EACCES, EC2_REFUSED },
	{ "UnrecognizedClientException", -EACCES, EC2_REFUSED },
	{ "MissingAuthenticationToken*", -EACCES, EC2_REFUSED },
	{ "SignatureDoesNotMatch", -EACCES, EC2_REFUSED },
	{ "InvalidSignatureException", -EACCES, EC2_REFUSED },
	{ "IncompleteSignature*", -EACCES, EC2_REFUSED },
	{ "InvalidIdentityToken*", -EACCES, EC2_REFUSED },
	{ "IDPRejectedClaim*", -EACCES, EC2_REFUSED },
	{ "IDPCommunicationError", -ETIMEDOUT, EC2_TRY_AGAIN },
	{ "RegionDisabledException", -EACCES, EC2_REFUSED },
	{ "ExpiredToken*", -EKEYEXPIRED, EC2_EXPIRED },
	{ "RequestExpired", -EKEYEXPIRED, EC2_EXPIRED },
	{ "RequestLimitExceeded", -EAGAIN, EC2_THROTTLED },
	{ "Throttling*", -EAGAIN, EC2_THROTTLED },
	{ "ThrottledException", -EAGAIN, EC2_THROTTLED },
	{ "RequestThrottled*", -EAGAIN, EC2_THROTTLED },
	{ "TooManyRequestsException", -EAGAIN, EC2_THROTTLED },
	{ "EC2ThrottledException", -EAGAIN, EC2_THROTTLED },
	{ "BandwidthLimitExceeded", -EAGAIN, EC2_THROTTLED },
	{ "SlowDown", -EAGAIN, EC2_THROTTLED },
	{ "PriorRequestNotComplete", -EAGAIN, EC2_TRY_AGAIN },
	{ "Unavailable", -EAGAIN, EC2_TRY_AGAIN },
	{ "ServiceUnavailable", -EAGAIN, EC2_TRY_AGAIN },
	{ "ServerInternal", -ETIMEDOUT, EC2_MAYBE },
	{ "InternalError", -ETIMEDOUT, EC2_MAYBE },
	{ "InternalFailure", -ETIMEDOUT, EC2_MAYBE },
	{ "InternalServerException", -ETIMEDOUT, EC2_MAYBE },
	{ "RequestTimeout*", -ETIMEDOUT, EC2_MAYBE },
};

static const struct {
	int error;
	const char *mend;
} mends[] = {
	{ -ENOENT, "check the id and the region; if both are right, something deleted it" },
	{ -EXDEV, "the volume was replaced or its older snapshot is of another: a full comparison "
		  "begins the line anew" },
	{ -EPERM,
		"switch off stop protection (disableApiStop) of the instance, or stop it by hand" },
	{ -EBUSY, "wait until what is under way has finished" },
	{ -EDQUOT, "raise the account's quota, or delete snapshots that nobody needs" },
	{ -EACCES, "check the credentials, what their policy permits, and this machine's clock" },
	{ -EKEYEXPIRED, "give credentials that can be renewed: a role, or new temporary ones" },
	{ -EAGAIN, "the account's request rate is used up: lower the rates or raise the quota" },
	{ -ETIMEDOUT, "check the network between here and AWS" },
	{ -ECONNRESET, "check the network between here and AWS, and any proxy" },
	{ -ECONNREFUSED, "check the endpoint's address and any firewall or proxy" },
	{ -EHOSTUNREACH, "check the region's name, the endpoint's and the name servers" },
	{ -EPROTO, "check that the endpoint speaks TLS 1.2 or later, and any proxy in between" },
	{ -EKEYREJECTED, "give the CA bundle that signed the endpoint's certificate" },
	{ -EBADMSG, "check that no proxy answers in AWS's place" },
};

static void copy_line(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%.*s", (int)MIN(strcspn(from, "\r\n"), room - 1), from);
}

static void read_xml(const struct http_request *http, struct ec2_error *e)
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
		copy_line(e->code, sizeof(e->code), code);
	if (message)
		copy_line(e->message, sizeof(e->message), message);
	if (id)
		copy_line(e->request_id, sizeof(e->request_id), id);
}

static void read_json(const struct http_request *http, struct ec2_error *e)
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
			copy_line(e->message, sizeof(e->message), text);
		if (json_find_text(&root, "Reason", &text, NULL) == 1)
			copy_line(e->reason, sizeof(e->reason), text);
		if (!type && json_find_text(&root, "__type", &text, NULL) == 1)
			type = text;
	}
	if (!type)
		return;
	const char *hash = strchr(type, '#');
	copy_line(e->code, sizeof(e->code), hash ? hash + 1 : type);
	e->code[strcspn(e->code, ":")] = '\0';
}

static bool matches(const char *pattern, const char *word)
{
	size_t n = strlen(pattern);
	if (n > 0 && pattern[n - 1] == '*')
		return strncmp(pattern, word, n - 1) == 0;
	return strcmp(pattern, word) == 0;
}

static enum ec2_verdict judge_status(int status, int *ret_error)
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
		return EC2_THROTTLED;
	if (status == 408 || status == 503)
		return EC2_TRY_AGAIN;
	/* Below 400 somebody else has answered; what became of the request is anyone's guess. */
	return status >= 500 || status < 400 ? EC2_MAYBE : EC2_REFUSED;
}

static enum ec2_verdict judge_answer(const struct http_request *http, struct ec2_error *e)
{
	const char *id = http_headers_get(&http->ret_headers, "x-amzn-RequestId");
	if (id)
		copy_line(e->request_id, sizeof(e->request_id), id);
	if (http->ret_body.len > 0 && http->ret_body.data[0] == '<')
		read_xml(http, e);
	else if (http->ret_body.len > 0 || http_headers_get(&http->ret_headers, "x-amzn-ErrorType"))
		read_json(http, e);
	enum ec2_verdict verdict = judge_status(http->status, &e->error);
	/* The reason says more than the code. */
	const char *words[] = { e->reason, e->code };
	for (size_t w = 0; w < ARRAY_SIZE(words); w++) {
		for (size_t i = 0; words[w][0] && i < ARRAY_SIZE(by_code); i++) {
			if (!matches(by_code[i].code, words[w]))
				continue;
			e->error = by_code[i].error;
			/* A 500 never says that nothing happened, whatever word is with it. */
			return http->status >= 500 && http->status != 503 ? EC2_MAYBE
									  : by_code[i].verdict;
		}
	}
	return verdict;
}

enum ec2_verdict ec2_error_read(const struct http_request *http, struct ec2_error *ret_error)
{
	struct ec2_error e = { .http_status = http->status };
	enum ec2_verdict verdict;
	if (http->outcome == HTTP_ANSWERED) {
		verdict = judge_answer(http, &e);
	} else {
		copy_line(e.message, sizeof(e.message), http->error_text);
		e.error = http->error;
		verdict = http->outcome == HTTP_UNKNOWN ? EC2_MAYBE : EC2_TRY_AGAIN;
		/* These stay as they are however often one tries. */
		if (verdict == EC2_TRY_AGAIN &&
			(e.error == -EINVAL || e.error == -EKEYREJECTED || e.error == -EACCES))
			verdict = EC2_REFUSED;
	}
	*ret_error = e;
	return verdict;
}

int ec2_error_set(struct ec2_error *ret_error, int code, const char *format, ...)
{
	if (!ret_error)
		return code;
	*ret_error = (struct ec2_error){ .error = code };
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error->message, sizeof(ret_error->message), format, args);
	va_end(args);
	return code;
}

int ec2_error_tell(const struct ec2_error *from, const char *what, struct error *error)
{
	const char *mend = NULL;
	char said[192] = "";
	for (size_t i = 0; i < ARRAY_SIZE(mends); i++) {
		if (mends[i].error == from->error)
			mend = mends[i].mend;
	}
	if (from->http_status > 0)
		snprintf(said, sizeof(said), "%d %s%s%s: ", from->http_status, from->code,
			from->reason[0] ? " " : "", from->reason);
	const char *text = from->message[0] ? from->message : strerrordesc_np(-from->error);
	return error_set(error, from->error, mend, "%s: %s%s%s%s%s%s", what, said, text,
		from->ambiguous ? " (it may have happened)" : "",
		from->request_id[0] ? " (request " : "", from->request_id,
		from->request_id[0] ? ")" : "");
}
