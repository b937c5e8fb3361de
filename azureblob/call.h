/*
 * Building and sending any request of the service: what the calls of this folder are made of.
 * Not for others.
 *
 * A call is built step by step; a step that fails is remembered and told by submit or perform,
 * so that the steps need no checks of their own.
 */
#pragma once

#include "azureblob/azureblob.h"
#include "common/xml.h"

enum call_safety {
	CALL_READS,      /* repeat after anything */
	CALL_REPEATABLE, /* a change that comes to the same when repeated */
	CALL_FENCED,     /* not repeated after an unknown end; a kept connection will do */
	CALL_ONCE,       /* not repeated, and over a connection of its own */
};

enum call_check {
	CALL_CHECK_NONE,
	CALL_CHECK_RANGE,     /* the bytes range_offset, range_bytes, all of them */
	CALL_CHECK_RANGE_END, /* or as many as there are */
};

/* Begins anew. `blob` NULL means the container; names are escaped here. */
void call_begin(struct azureblob *client, struct azureblob_request *request, const char *method,
	const char *blob, enum call_safety safety);
/* `value` NULL: nothing is added. */
void call_query(struct azureblob_request *request, const char *name, const char *value);
void call_header(struct azureblob_request *request, const char *name, const char *value);
void call_headerf(struct azureblob_request *request, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* x-ms-meta-…; names without that. */
void call_metadata(struct azureblob_request *request, const struct http_headers *metadata);
void call_conditions(
	struct azureblob_request *request, const struct azureblob_conditions *conditions);
/* Borrowed until the request is finished. */
void call_body(struct azureblob_request *request, const void *data, size_t n);
void call_body_iov(struct azureblob_request *request, const struct iovec *data, int count);

int call_submit(struct azureblob *client, struct azureblob_request *request);
/* Submits and blocks until it is finished. The request's result; `error` may be NULL. */
int call_perform(
	struct azureblob *client, struct azureblob_request *request, struct azureblob_error *error);
/* Blocks until a submitted one is finished; as above. */
int call_finish(
	struct azureblob *client, struct azureblob_request *request, struct azureblob_error *error);
/* Lets what is under way make progress for so long. */
void call_pause(struct azureblob *client, int64_t ns);

const char *call_answer(const struct azureblob_request *request, const char *header);
/* Copies an answer's header; -EBADMSG (told in `error`) if it is missing or too long. */
int call_answer_copy(const struct azureblob_request *request, const char *header, char *ret_text,
	size_t room, struct azureblob_error *error);
/* Reads the answer's body. */
int call_answer_xml(const struct azureblob_request *request, struct xml **ret_xml,
	struct azureblob_error *error);
/* -EBADMSG with the request's id. */
int call_bad_answer(
	const struct azureblob_request *request, struct azureblob_error *error, const char *what);

/* The whole URL of a blob as another party shall read it. */
int call_source_url(
	struct azureblob *client, const char *blob, const char *snapshot, struct buf *url);
enum azureblob_checksum call_checksum(const struct azureblob *client);
/* The memory that large answers go to may grow this far. */
void call_body_limit(struct azureblob_request *request, size_t bytes);
/* Fewer attempts than the options say. */
void call_attempts(struct azureblob_request *request, unsigned attempts);
