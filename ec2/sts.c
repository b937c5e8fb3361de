/*
 * Both actions answer with the same Credentials. Each attempt is signed anew, at its own time.
 */
#include "ec2/sts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/url.h"
#include "common/xml.h"
#include "ec2/sigv4.h"

#define VERSION "2011-06-15"
#define ATTEMPTS 6u
#define TIMEOUT_MS 15000u
#define TOKEN_BYTES_MAX (64 * KIB)

struct signing {
	struct ec2_asker *asker;
	const struct ec2_keys *keys; /* NULL: unsigned */
	const struct buf *form;
};

static int add_field(struct buf *form, const char *name, const char *value)
{
	int r = buf_printf(form, "%s%s=", form->len ? "&" : "", name);
	return r < 0 ? r : url_escape(form, value, NULL);
}

static int add_token(struct buf *form, const char *path, struct http_error *ret_error)
{
	char *token = NULL;
	size_t n = 0;
	int r = io_load_file(io_posix(), path, TOKEN_BYTES_MAX, &token, &n);
	if (r < 0)
		return http_error_set(
			ret_error, -EACCES, "credentials: %s: %s", path, strerrordesc_np(-r));
	token[strcspn(token, "\r\n")] = '\0';
	if (token[0])
		r = add_field(form, "WebIdentityToken", token);
	else
		r = http_error_set(ret_error, -EACCES, "credentials: %s is empty", path);
	explicit_bzero(token, n);
	free(token);
	return r;
}

static int build_form(const struct ec2_role *role, struct buf *form, struct http_error *ret_error)
{
	bool web = role->web_identity_file != NULL;
	char duration[16];
	snprintf(duration, sizeof(duration), "%u", role->duration_s);
	int r = add_field(form, "Action", web ? "AssumeRoleWithWebIdentity" : "AssumeRole");
	if (r == 0)
		r = add_field(form, "Version", VERSION);
	if (r == 0)
		r = add_field(form, "RoleArn", role->arn);
	if (r == 0)
		r = add_field(form, "RoleSessionName", role->session_name);
	if (r == 0 && role->duration_s)
		r = add_field(form, "DurationSeconds", duration);
	if (r == 0 && role->external_id && !web)
		r = add_field(form, "ExternalId", role->external_id);
	if (r == 0 && web)
		r = add_token(form, role->web_identity_file, ret_error);
	return r;
}

static int prepare(void *context, struct http_request *request)
{
	const struct signing *s = context;
	const struct ec2_settings *settings = s->asker->settings;
	int r = http_headers_add(&request->headers, "Content-Type",
		"application/x-www-form-urlencoded; charset=utf-8");
	if (r < 0 || !s->keys)
		return r;
	struct ec2_sigv4_credentials credentials = { s->keys->access_key_id,
		s->keys->secret_access_key, s->keys->session_token };
	struct ec2_sigv4_target target = { settings->region, ec2_service_name(EC2_SERVICE_STS) };
	struct ec2_sigv4_request what = { request->method, request->url, s->form->data,
		s->form->len };
	return ec2_sigv4_sign(NULL, &credentials, &target, &what,
		clock_realtime_ns(s->asker->clock), &request->headers);
}

static int read_keys(struct ec2_asker *asker, const struct buf *body, const char *action,
	struct ec2_keys *ret_keys, struct http_error *ret_error)
{
	CLEANUP(xml_freep) struct xml *xml = NULL;
	struct error error = { 0 };
	char path[64];
	int r = xml_parse(body->data ? body->data : "", body->len, NULL, &xml, &error);
	if (r < 0)
		return http_error_set(ret_error, r, "credentials: %s", error.message);
	snprintf(path, sizeof(path), "%sResult/Credentials", action);
	const struct xml_node *c = xml_find(xml_root(xml), path);
	return ec2_keys_read(asker, xml_text(c, "AccessKeyId"), xml_text(c, "SecretAccessKey"),
		xml_text(c, "SessionToken"), xml_text(c, "Expiration"), ret_keys, ret_error);
}

int ec2_sts_assume(struct ec2_asker *asker, const struct ec2_role *role,
	const struct ec2_keys *keys, struct ec2_keys *ret_keys, struct http_error *ret_error)
{
	CLEANUP(http_request_free) struct http_request request = { 0 };
	CLEANUP(buf_free) struct buf url = { 0 };
	CLEANUP(buf_free) struct buf form = { 0 };
	struct error error = { 0 };
	struct http_error e = { 0 };
	struct signing signing = { asker, keys, &form };
	int r = ec2_settings_endpoint(asker->settings, EC2_SERVICE_STS, &url, &error);
	if (r < 0)
		return http_error_set(ret_error, r, "%s", error.message);
	if (!asker->settings->region && keys)
		return http_error_set(ret_error, -EINVAL, "nobody says which region of AWS to use");
	r = buf_append_text(&url, "/");
	if (r == 0)
		r = build_form(role, &form, &e);
	if (r == 0) {
		struct iovec body = { form.data, form.len };
		request.method = "POST";
		request.url = url.data;
		request.body = &body;
		request.body_count = 1;
		request.total_timeout_ms = TIMEOUT_MS;
		r = ec2_ask(asker, &request, ATTEMPTS, prepare, &signing, &e);
		request.body = NULL;
	}
	if (r == 0)
		r = read_keys(asker, &request.ret_body,
			role->web_identity_file ? "AssumeRoleWithWebIdentity" : "AssumeRole",
			ret_keys, &e);
	if (form.data)
		explicit_bzero(form.data, form.len);
	if (request.ret_body.data)
		explicit_bzero(request.ret_body.data, request.ret_body.len);
	if (r < 0 && e.error == 0)
		http_error_set(&e, r, "out of memory");
	if (r < 0)
		*ret_error = e;
	return r;
}
