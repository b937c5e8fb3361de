/*
 * What all calls of the blob service have in common: their URL, headers, conditions, bodies and the
 * reading of answers. A call is begun here, built on with these and with http_call_query and
 * http_call_header, and sent with http_call_submit or http_call_perform (common/http_calls.h). Not
 * for others.
 */
#pragma once

#include "azureblob/azureblob.h"
#include "common/xml.h"

/* What the body of a 2xx has to be. */
enum azureblob_check {
	AZUREBLOB_CHECK_NONE,
	AZUREBLOB_CHECK_RANGE,     /* the bytes range_offset, range_bytes, all of them */
	AZUREBLOB_CHECK_RANGE_END, /* or as many as there are */
};

/* All here are the client's thread's; what fails while building is told when the call is sent. */

/* Begins anew. `blob` NULL means the container; names are escaped here. */
void azureblob_call_begin(struct azureblob *client, struct azureblob_request *request,
	const char *method, const char *blob, enum http_safety safety);
/* x-ms-meta-…; names without that. */
void azureblob_call_metadata(
	struct azureblob_request *request, const struct http_headers *metadata);
/* `conditions` may be NULL; texts are copied. */
void azureblob_call_conditions(
	struct azureblob_request *request, const struct azureblob_conditions *conditions);
/* Borrowed until the request is finished. */
void azureblob_call_body(struct azureblob_request *request, const void *data, size_t n);
void azureblob_call_body_iov(
	struct azureblob_request *request, const struct iovec *data, int count);

/* The answer's header of that name, NULL if there is none; as long as the request is not used
 * again.
 */
const char *azureblob_call_answer(const struct azureblob_request *request, const char *header);
/* Copies an answer's header; -EBADMSG (told in `error`) if it is missing or too long. */
int azureblob_call_answer_copy(const struct azureblob_request *request, const char *header,
	char *ret_text, size_t room, struct http_error *error);
/* Reads the answer's body, the caller's to free. -EBADMSG (told in `error`) if it is no XML. */
int azureblob_call_answer_xml(
	const struct azureblob_request *request, struct xml **ret_xml, struct http_error *error);

/* Appends the whole URL of a blob as another party shall read it, with the signature that a
 * credential of that kind adds. 0, -EINVAL or -ENOMEM. */
int azureblob_call_source_url(
	struct azureblob *client, const char *blob, const char *snapshot, struct buf *url);
