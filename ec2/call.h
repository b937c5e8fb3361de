/*
 * Building and sending any request: what the calls of this folder are made of. Not for others.
 *
 * A call is built step by step; a step that fails is remembered and told by submit or perform, so
 * that the steps need no checks of their own.
 */
#pragma once

#include "common/xml.h"
#include "ec2/ec2.h"

enum call_safety {
	CALL_READS,      /* repeat after anything */
	CALL_REPEATABLE, /* a change that comes to the same when repeated */
	CALL_ONCE,       /* not repeated after an unknown end; a connection of its own */
};

/* An action of EC2. */
void call_begin_action(struct ec2 *client, struct ec2_request *request, const char *action,
	enum call_safety safety);
/* A GET of EBS direct; `path` is escaped already. */
void call_begin_get(
	struct ec2 *client, struct ec2_request *request, const char *path, enum ec2_limit limit);
/* `value` NULL: nothing is added. */
void call_query(struct ec2_request *request, const char *name, const char *value);
void call_query_u64(struct ec2_request *request, const char *name, uint64_t value);
void call_field(struct ec2_request *request, const char *name, const char *value);
/* The name by a format. */
void call_fieldf(struct ec2_request *request, const char *value, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

int call_submit(struct ec2 *client, struct ec2_request *request);
/* Submits and blocks until it is finished. The request's result; `error` may be NULL. */
int call_perform(struct ec2 *client, struct ec2_request *request, struct ec2_error *error);
/* Lets what is under way make progress for so long; shorter if the client is told to stop. */
void call_pause(struct ec2 *client, int64_t ns);

/* The answer to an action, read already; as long as the request is not used again. */
const struct xml_node *call_answer(const struct ec2_request *request);
/* -EBADMSG with the request's id. */
int call_bad_answer(const struct ec2_request *request, struct ec2_error *error, const char *what);
