/*
 * A token lives six hours; a 401 says that it is over, and another is fetched, once.
 *
 * The answer with the token has a hop limit of its own, 1 by default: from inside of a container
 * the request is heard and the answer never arrives, which is why silence is told with that mend.
 */
#include "ec2/imds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "common/url.h"

#define ROLE_PATH "/latest/meta-data/iam/security-credentials/"
#define REGION_PATH "/latest/meta-data/placement/region"
#define TOKEN_PATH "/latest/api/token"
#define TOKEN_TTL_S "21600"
#define ATTEMPTS 3u
#define TIMEOUT_MS 2000u

static int build_url(struct ec2_asker *asker, const char *path, const char *name, struct buf *url)
{
	int r = ec2_settings_endpoint(asker->settings, EC2_SERVICE_IMDS, url, NULL);
	if (r == 0)
		r = buf_append_text(url, path);
	return r == 0 && name ? url_escape(url, name, NULL) : r;
}

/* One line of text from an answer. */
static int take_line(const struct http_request *request, struct buf *ret_text)
{
	const struct buf *body = &request->ret_body;
	size_t n = body->len ? strcspn(body->data, "\r\n") : 0;
	return n > 0 ? buf_append(ret_text, body->data, n) : -EBADMSG;
}

static int get_token(struct ec2_asker *asker, char **token, struct http_error *ret_error)
{
	CLEANUP(http_request_free) struct http_request request = { 0 };
	CLEANUP(buf_free) struct buf url = { 0 };
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = build_url(asker, TOKEN_PATH, NULL, &url);
	if (r == 0)
		r = http_headers_add(
			&request.headers, "X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL_S);
	if (r < 0)
		return http_error_set(ret_error, r, "out of memory");
	request.method = "PUT";
	request.url = url.data;
	request.direct = true;
	request.total_timeout_ms = TIMEOUT_MS;
	r = ec2_ask(asker, &request, ATTEMPTS, NULL, NULL, ret_error);
	if (r == -ECANCELED || r == -ENOMEM)
		return r;
	if (r < 0 && request.outcome == HTTP_ANSWERED && request.status == 403)
		return http_error_set(
			ret_error, -ENOENT, "the machine's metadata service is switched off");
	if (r < 0 && request.outcome == HTTP_UNKNOWN)
		return http_error_set(ret_error, -ENOENT,
			"the metadata service did not answer the request for a token; in a "
			"container, raise the instance's hop limit to 2 "
			"(http-put-response-hop-limit)");
	if (r < 0 && request.outcome == HTTP_NOT_SENT)
		return http_error_set(ret_error, -ENOENT,
			"no credentials are given, and there is no metadata service here");
	if (r == 0)
		r = take_line(&request, &text);
	if (r == -EBADMSG)
		return http_error_set(ret_error, r, "the metadata service's answer holds no token");
	if (r < 0)
		return r;
	free(*token);
	*token = TAKE(text.data);
	return 0;
}

/* Gets `path``name` with the session's token, renewing it when it is refused. */
static int get(struct ec2_asker *asker, char **token, const char *path, const char *name,
	struct http_request *request, struct http_error *ret_error)
{
	CLEANUP(buf_free) struct buf url = { 0 };
	int r = build_url(asker, path, name, &url);
	if (r < 0)
		return http_error_set(ret_error, r, "out of memory");
	for (unsigned renewed = 0;; renewed++) {
		if (!*token)
			r = get_token(asker, token, ret_error);
		if (r < 0)
			return r;
		http_request_reset(request);
		r = http_headers_add(&request->headers, "X-aws-ec2-metadata-token", *token);
		if (r < 0)
			return http_error_set(ret_error, r, "out of memory");
		request->method = "GET";
		request->url = url.data;
		request->direct = true;
		request->total_timeout_ms = TIMEOUT_MS;
		r = ec2_ask(asker, request, ATTEMPTS, NULL, NULL, ret_error);
		request->url = NULL;
		if (r == 0 || request->outcome != HTTP_ANSWERED || request->status != 401 ||
			renewed > 0)
			return r;
		free(TAKE(*token));
	}
}

static int read_keys(struct ec2_asker *asker, const struct buf *body, struct ec2_keys *ret_keys,
	struct http_error *ret_error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct error error = { 0 };
	struct json root;
	const char *code = NULL, *id = NULL, *secret = NULL, *token = NULL, *end = NULL;
	int r = json_parse(body->data ? body->data : "", body->len, NULL, &json, &error);
	if (r < 0)
		return http_error_set(ret_error, r, "credentials: %s", error.message);
	json_root(json, "credentials", &root);
	if (json_find_text(&root, "Code", &code, NULL) == 1 && strcmp(code, "Success") != 0)
		return http_error_set(ret_error, -EACCES,
			"the metadata service has no credentials: %.100s", code);
	json_find_text(&root, "AccessKeyId", &id, NULL);
	json_find_text(&root, "SecretAccessKey", &secret, NULL);
	json_find_text(&root, "Token", &token, NULL);
	json_find_text(&root, "Expiration", &end, NULL);
	return ec2_keys_read(asker, id, secret, token, end, ret_keys, ret_error);
}

int ec2_imds_get_keys(struct ec2_asker *asker, char **token, struct ec2_keys *ret_keys,
	struct http_error *ret_error)
{
	CLEANUP(http_request_free) struct http_request request = { 0 };
	CLEANUP(buf_free) struct buf role = { 0 };
	int r = get(asker, token, ROLE_PATH, NULL, &request, ret_error);
	if (r == 0)
		r = take_line(&request, &role);
	if (r == -ENOENT && request.status == 404)
		return http_error_set(
			ret_error, r, "no credentials are given, and this machine has no role");
	if (r == -EBADMSG)
		return http_error_set(ret_error, r, "the metadata service names no role");
	if (r == 0)
		r = get(asker, token, ROLE_PATH, role.data, &request, ret_error);
	if (r == 0)
		r = read_keys(asker, &request.ret_body, ret_keys, ret_error);
	if (request.ret_body.data)
		explicit_bzero(request.ret_body.data, request.ret_body.len);
	return r;
}

int ec2_imds_find_region(const struct ec2_settings *settings, const struct http_options *http,
	char **ret_region, struct error *error)
{
	CLEANUP(http_request_free) struct http_request request = { 0 };
	CLEANUP(buf_free) struct buf region = { 0 };
	CLEANUP_FREE char *token = NULL;
	struct http *client = NULL;
	struct http_error e = { 0 };
	struct rng rng;
	int r = rng_seed_randomly(&rng);
	if (r < 0)
		return error_set(error, r, NULL, "no randomness");
	r = http_new(http, &client, error);
	if (r < 0)
		return r;
	struct ec2_asker asker = { .http = client,
		.clock = clock_system(),
		.rng = &rng,
		.settings = settings,
		.patient = true };
	r = get(&asker, &token, REGION_PATH, NULL, &request, &e);
	if (r == 0)
		r = take_line(&request, &region);
	http_free(client);
	if (r < 0)
		return e.error ? ec2_error_tell(&e, "this machine's region", error)
			       : error_set(error, r, NULL, "the metadata service names no region");
	*ret_region = TAKE(region.data);
	return 0;
}
