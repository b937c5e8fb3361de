/*
 * What all calls of AWS have in common. A call is begun here, built on with these and with
 * http_call_query, and sent with http_call_submit or http_call_perform (common/http_calls.h). Not
 * for others.
 */
#pragma once

#include "common/xml.h"
#include "ec2/ec2.h"

/* An action of EC2. */
void ec2_call_begin_action(struct ec2 *client, struct ec2_request *request, const char *action,
	enum http_safety safety);
/* A GET of EBS direct; `path` is escaped already. */
void ec2_call_begin_get(
	struct ec2 *client, struct ec2_request *request, const char *path, enum ec2_limit limit);
void ec2_call_query_u64(struct ec2_request *request, const char *name, uint64_t value);
/* `value` NULL: nothing is added. */
void ec2_call_field(struct ec2_request *request, const char *name, const char *value);
/* The name by a format. */
void ec2_call_fieldf(struct ec2_request *request, const char *value, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The answer to an action, read already; as long as the request is not used again. */
const struct xml_node *ec2_call_answer(const struct ec2_request *request);
