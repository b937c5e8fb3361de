/*
 * Building requests and reading their answers. Nothing here waits.
 *
 * A request's URL, form and own headers are built once; date, keys and signature belong to one
 * attempt and are added by the client each time.
 */
#include "ec2/call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/url.h"
#include "ec2/client_internal.h"

#define EC2_VERSION "2016-11-15"
#define ANSWER_LIMIT (32 * MIB)

static void begin(struct ec2 *client, struct ec2_request *request, enum ec2_service service,
	const char *method, const char *path, enum http_safety safety)
{
	http_call_begin(client->calls, &request->call, method, safety);
	xml_free(request->answer);
	request->answer = NULL;
	buf_clear(&request->form);
	request->service = service;
	request->check = NULL;
	request->call.http.body_limit = ANSWER_LIMIT;
	http_call_note(&request->call,
		buf_printf(&request->call.url, "%s%s", client->endpoints[service], path));
}

/* An answer that cannot be read is as good as none: what may be repeated is. */
static int read_xml(struct ec2_request *request)
{
	struct error why = { 0 };
	const struct buf *body = &request->call.http.ret_body;
	int r = xml_parse(body->data ? body->data : "", body->len, NULL, &request->answer, &why);
	return r < 0 ? http_call_bad_answer(&request->call, &request->call.error, why.message) : 0;
}

void ec2_call_begin_action(struct ec2 *client, struct ec2_request *request, const char *action,
	enum http_safety safety)
{
	begin(client, request, EC2_SERVICE_EC2, "POST", "/", safety);
	request->limit = EC2_LIMIT_CALLS;
	request->check = read_xml;
	http_call_header(
		&request->call, "Content-Type", "application/x-www-form-urlencoded; charset=utf-8");
	ec2_call_field(request, "Action", action);
	ec2_call_field(request, "Version", EC2_VERSION);
}

void ec2_call_begin_get(
	struct ec2 *client, struct ec2_request *request, const char *path, enum ec2_limit limit)
{
	begin(client, request, EC2_SERVICE_EBS, "GET", path, HTTP_READS);
	request->limit = limit;
}

void ec2_call_query_u64(struct ec2_request *request, const char *name, uint64_t value)
{
	char text[24];
	snprintf(text, sizeof(text), "%" PRIu64, value);
	http_call_query(&request->call, name, text);
}

void ec2_call_field(struct ec2_request *request, const char *name, const char *value)
{
	if (!value)
		return;
	if (request->form.len > 0)
		http_call_note(&request->call, buf_append_text(&request->form, "&"));
	http_call_note(&request->call, url_escape(&request->form, name, NULL));
	http_call_note(&request->call, buf_append_text(&request->form, "="));
	http_call_note(&request->call, url_escape(&request->form, value, NULL));
}

void ec2_call_fieldf(struct ec2_request *request, const char *value, const char *format, ...)
{
	char name[128];
	va_list args;
	va_start(args, format);
	if (http_call_format(&request->call, name, sizeof(name), format, args))
		ec2_call_field(request, name, value);
	va_end(args);
}

const struct xml_node *ec2_call_answer(const struct ec2_request *request)
{
	return xml_root(request->answer);
}
