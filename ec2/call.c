/*
 * Building requests and reading their answers. Nothing here waits; see client.c for the engine.
 *
 * A request's URL, form and own headers are built once; date, keys and signature belong to one
 * attempt and are added by the engine each time.
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

static void note(struct ec2_request *request, int r)
{
	if (r < 0 && request->build_error == 0)
		request->build_error = r;
}

static void begin(
	struct ec2 *client, struct ec2_request *request, enum ec2_service service, const char *path)
{
	http_request_reset(&request->http);
	xml_free(request->answer);
	request->answer = NULL;
	buf_clear(&request->url);
	buf_clear(&request->form);
	request->client = client;
	request->service = service;
	request->build_error = 0;
	request->result = 0;
	request->error = (struct ec2_error){ 0 };
	request->attempts = 0;
	request->check = NULL;
	request->may_have_happened = false;
	request->faults = 0;
	request->expired = 0;
	request->refusals = 0;
	request->http.body_limit = ANSWER_LIMIT;
	request->policy = client->policy;
	note(request, buf_printf(&request->url, "%s%s", client->endpoints[service], path));
}

/* An answer that cannot be read is as good as none: what may be repeated is. */
static int read_xml(struct ec2_request *request)
{
	struct error why = { 0 };
	const struct buf *body = &request->http.ret_body;
	int r = xml_parse(body->data ? body->data : "", body->len, NULL, &request->answer, &why);
	return r < 0 ? call_bad_answer(request, &request->error, why.message) : 0;
}

void call_begin_action(struct ec2 *client, struct ec2_request *request, const char *action,
	enum call_safety safety)
{
	begin(client, request, EC2_SERVICE_EC2, "/");
	request->limit = EC2_LIMIT_CALLS;
	request->safety = safety;
	request->check = read_xml;
	request->http.method = "POST";
	request->http.fresh_connection = safety == CALL_ONCE;
	note(request, http_headers_add(&request->http.headers, "Content-Type",
			      "application/x-www-form-urlencoded; charset=utf-8"));
	call_field(request, "Action", action);
	call_field(request, "Version", EC2_VERSION);
}

void call_begin_get(
	struct ec2 *client, struct ec2_request *request, const char *path, enum ec2_limit limit)
{
	begin(client, request, EC2_SERVICE_EBS, path);
	request->limit = limit;
	request->safety = CALL_READS;
	request->http.method = "GET";
}

void call_query(struct ec2_request *request, const char *name, const char *value)
{
	if (value)
		note(request, url_add_query(&request->url, name, value));
}

void call_query_u64(struct ec2_request *request, const char *name, uint64_t value)
{
	char text[24];
	snprintf(text, sizeof(text), "%" PRIu64, value);
	call_query(request, name, text);
}

void call_field(struct ec2_request *request, const char *name, const char *value)
{
	if (!value)
		return;
	if (request->form.len > 0)
		note(request, buf_append_text(&request->form, "&"));
	note(request, url_escape(&request->form, name, NULL));
	note(request, buf_append_text(&request->form, "="));
	note(request, url_escape(&request->form, value, NULL));
}

void call_fieldf(struct ec2_request *request, const char *value, const char *format, ...)
{
	char name[128];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(name))
		note(request, -EINVAL);
	else
		call_field(request, name, value);
}

int call_bad_answer(const struct ec2_request *request, struct ec2_error *error, const char *what)
{
	struct ec2_error e;
	ec2_error_read(&request->http, &e);
	e.error = -EBADMSG;
	e.ambiguous = request->safety != CALL_READS;
	snprintf(e.message, sizeof(e.message), "%s", what);
	if (error)
		*error = e;
	return -EBADMSG;
}

const struct xml_node *call_answer(const struct ec2_request *request)
{
	return xml_root(request->answer);
}
